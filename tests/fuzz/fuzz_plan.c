/* Axes and plan files: any text is expanded or refused with a message. */
#include "harness/sweep/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[64];

static void leave(void) { unlink(path); }

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    atexit(leave);
    snprintf(path, sizeof path, "/tmp/fuzz_plan_%d.json", (int)getpid());
    return 0;
}

/* The first byte says which axis the rest is a value of, or that it is a plan file. */
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (size < 2 || size > 4096) return 0;
    struct plan_axes axes = {.repeat = PLAN_UNSET};
    struct plan_settings settings = {.num_samples = PLAN_UNSET, .seed = PLAN_UNSET};
    struct arena *arena = NULL;
    struct str beaten = {0};
    struct text_list *const lists[] = {&axes.max_length, &axes.method, &axes.block, &axes.layers,
        &axes.heads, &axes.rule, &axes.l1, &axes.pv_l1, &axes.theta, &axes.tau, &axes.lambda};
    enum { N_LISTS = sizeof lists / sizeof *lists };
    char *text = strndup((const char *)data + 1, size - 1);
    enum status st = OK;
    if (data[0] % (N_LISTS + 1) == N_LISTS) {
        FILE *f = fopen(path, "w");
        if (!f) abort();
        fwrite(data + 1, 1, size - 1, f);
        fclose(f);
        st = plan_read(path, &axes, &settings, &arena, &beaten);
    } else {
        struct text_list *list = lists[data[0] % (N_LISTS + 1)];
        list->items[list->n++] = text;
        if (list == &axes.pv_l1) axes.l1 = (struct text_list){{".04,.06"}, 1};
    }
    struct plan plan = {0};
    if (st == OK && plan_expand(&axes, 8, 4, &plan) == OK)
        for (int i = 0; i < plan.n; i++) {
            const struct plan_cell *c = &plan.cells[i];
            if (c->max_length < 2 || !c->method || !c->layers || c->head >= 4 ||
                (c->tuned && !(c->pv_l1 > c->l1)))
                abort();
            if (c->theta == 0 && signbit(c->theta)) abort(); /* -0 is another key */
        }
    plan_clear(&plan);
    str_clear(&beaten);
    arena_free(&arena);
    free(text);
    return 0;
}

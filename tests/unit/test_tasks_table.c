/* What the table of tasks says: what tells nothing, how far a model reaches, where a question's
 * place decides. */
#include "reports/tasks.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 40 };

struct fixture {
    struct item_record items[8 * N];
    struct metric_record cut[2];
    struct run_record run;
    struct run_view view;
};

/* N questions of a group and length, of which so many are right. */
static void add(struct fixture *f, const char *group, int length, int dense, int sparse)
{
    static char ids[8 * N][16];
    for (int i = 0; i < N; i++) {
        size_t at = f->view.items.n++;
        snprintf(ids[at], sizeof ids[at], "q %zu", at);
        f->items[at] = (struct item_record){.item = ids[at],
            .group = group,
            .sample = (int)at,
            .length = length,
            .depth = NAN,
            .dense_right = i < dense,
            .sparse_right = i < sparse,
            .kl = .1,
            .recall = NAN,
            .recall_oracle = NAN,
            .recall_p5 = NAN,
            .recall_group = NAN,
            .expected = "x",
            .dense_value = i < dense,
            .sparse_value = i < sparse};
    }
    f->view.items.rows = f->items;
    f->view.run = &f->run;
    f->view.label = "a run";
}

static char *shown(const struct fixture *f)
{
    struct str out = {0};
    struct table *t = tasks_table(&f->view);
    table_render(t, TABLE_TERMINAL, (struct table_style){0}, &out);
    table_free(&t);
    return out.data;
}

static void says(const struct fixture *f, const char *what, bool it_does)
{
    char *text = shown(f);
    cr_expect_eq(strstr(text, what) != NULL, it_does, "%s in:\n%s", what, text);
    free(text);
}

Test(tasks_table, a_task_near_chance_tells_nothing)
{
    static struct fixture f;
    add(&f, "easy", 4096, 38, 20);
    says(&f, "tell nothing", false);
    add(&f, "hard", 4096, 4, 4);
    says(&f, "1 of 2 rows tell nothing", true);
    struct estimate e = {.value = .3, .lo = .2, .hi = .4};
    cr_expect(!tasks_tell_nothing(&e, 0) && tasks_tell_nothing(&e, .25), "one of four by chance");
}

Test(tasks_table, the_effective_length_is_the_last_before_the_bar_is_missed)
{
    static struct fixture f;
    add(&f, "t", 4096, 40, 40);
    add(&f, "t", 8192, 40, 20);
    add(&f, "t", 16384, 10, 40);
    says(&f, "dense 8192 [8192, 8192]; sparse 4096 [4096, 4096]", true);
}

Test(tasks_table, a_method_for_the_end_alone_is_called_so)
{
    static struct fixture f, g, even;
    add(&f, "t", 4096, 40, 40);
    add(&f, "t ask=start", 4096, 40, 10);
    says(&f, "only where the question stands at the end", true);
    add(&g, "t", 4096, 40, 20);
    add(&g, "t ask=start", 4096, 40, 10);
    add(&even, "t", 4096, 40, 40);
    add(&even, "t ask=start", 4096, 40, 40);
    says(&even, "only where the question stands at the end", false);
    struct str text = {0};
    tasks_places(&g.view, &f.view, &text); /* better at the end, no better at the start */
    cr_expect(strstr(str_get(&text), "wins only where the question stands at the end"), "%s",
        str_get(&text));
    str_reset(&text);
    tasks_places(&g.view, &even.view, &text);
    cr_expect(strstr(str_get(&text), "the same wherever"), "%s", str_get(&text));
    str_clear(&text);
}

Test(tasks_table, parts_of_an_answer_count)
{
    static struct fixture f;
    add(&f, "t", 4096, 40, 40);
    for (int i = 0; i < N; i++) f.items[i].sparse_value = .75, f.items[i].sparse_right = false;
    says(&f, "75.0 %", true);
    says(&f, "25.0 %", true);
}

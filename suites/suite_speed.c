/* Lengths to time prefill and decode at: chronicles cut to a ladder of token counts. */
#include "suites/fit.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_LENGTH = 256, MAX_LENGTHS = 32 };

/* "lengths=512,1024": ascending, none over max_length. */
static enum status read_lengths(const struct suite_options *o, int *lengths, int *n)
{
    const char *p = o->argument;
    if (!str_starts_with(p, "lengths="))
        return fail(
            ERR_ARG, "suite speed: found \"%.60s\", expected lengths=256,512,…", o->argument);
    for (p += strlen("lengths="), *n = 0;; p++) {
        char *end;
        long length = strtol(p, &end, 10);
        if (end == p || length < 16 || length > o->max_length || *n == MAX_LENGTHS ||
            (*n && length <= lengths[*n - 1]))
            return fail(ERR_ARG,
                "suite speed: %.60s: expected at most %d ascending lengths from 16 to "
                "--max-length, %d",
                o->argument, MAX_LENGTHS, o->max_length);
        lengths[(*n)++] = (int)length;
        p = end;
        if (!*p) return OK;
        if (*p != ',')
            return fail(
                ERR_ARG, "suite speed: %.60s: expected commas between the lengths", o->argument);
    }
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    int lengths[MAX_LENGTHS], n = 0;
    if (*o->argument) {
        TRY(read_lengths(o, lengths, &n));
    } else {
        for (int length = FIRST_LENGTH; length < o->max_length && n < MAX_LENGTHS - 1; length *= 2)
            lengths[n++] = length;
        lengths[n++] = o->max_length;
    }
    struct fitted f = {0};
    struct suite_options at = *o;
    enum status st = OK;
    out->timed = true;
    for (int i = 0; i < n && st == OK; i++) {
        at.max_length = lengths[i];
        st = fit_add_longer(&at, out, i, &f);
    }
    fitted_clear(&f);
    /* questions are not asked here */
    while (out->n_items > 0) {
        struct item *item = &out->items[--out->n_items];
        free(item->id);
        free(item->group);
    }
    return st;
}

const struct suite suite_speed = {
    .name = "speed",
    .help = "speed[:lengths=256,512,…]  prefill, dense and sparse in turns, and decode, at a "
            "ladder of lengths up to --max-length",
    .load = load,
};

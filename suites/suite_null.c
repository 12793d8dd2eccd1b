/* The measurement's own noise: chronicles that the harness runs dense against dense.
 *
 * Samples have exactly max_length tokens, so even the shortest lengths can be asked for; questions
 * beyond the cut fall away.
 */
#include "suites/fit.h"

enum { DEFAULT_SAMPLES = 4 };

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    if (*o->argument)
        return fail(ERR_ARG, "suite null takes no argument, found \"%.60s\"", o->argument);
    int n = o->num_samples ? o->num_samples : DEFAULT_SAMPLES;
    struct fitted f = {0};
    enum status st = OK;
    out->score_text = true;
    out->dense_only = true;
    for (int i = 0; i < n && st == OK; i++) st = fit_add_longer(o, out, i, &f);
    fitted_clear(&f);
    return st;
}

const struct suite suite_null = {
    .name = "null",
    .help = "null  generated text run dense against dense: what the harness itself adds",
    .load = load,
};

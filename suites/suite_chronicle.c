/* Chronicles: perplexity of a generated document, and its questions, whose only answer stands far
 * earlier.
 *
 * One document of max_length tokens (over nine tenths of it) per sample. Groups are kinds of
 * question.
 */
#include "suites/fit.h"

enum { DEFAULT_SAMPLES = 8 };

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    if (*o->argument)
        return fail(ERR_ARG,
            "suite chronicle takes no argument, found \"%.60s\"; its size follows from max_length "
            "and num_samples",
            o->argument);
    int n = o->num_samples ? o->num_samples : DEFAULT_SAMPLES;
    struct fitted f = {0};
    enum status st = OK;
    out->score_text = true;
    for (int i = 0; i < n && st == OK; i++) st = fit_add_chronicle(o, out, i, false, &f);
    fitted_clear(&f);
    return st;
}

const struct suite suite_chronicle = {
    .name = "chronicle",
    .help = "chronicle  generated documents: perplexity, and questions answered only by reading "
            "far back",
    .load = load,
};

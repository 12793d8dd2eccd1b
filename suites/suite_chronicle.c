/* Chronicles: perplexity of a generated document, and its questions, whose only answer stands far
 * earlier.
 *
 * One document of max_length tokens (over nine tenths of it) per sample. Groups are kinds of
 * question.
 */
#include "suites/fit.h"
#include "suites/grid.h"

#include <string.h>

enum { DEFAULT_SAMPLES = 8 };

struct asks {
    int at[GRID_VALUES], n;
};

static enum status read_option(void *ctx, const char *key, const char *value)
{
    struct asks *a = ctx;
    if (strcmp(key, "ask") == 0)
        return grid_names(
            &(struct grid_names){"chronicle", key, ask_names, N_ASK}, value, a->at, &a->n);
    return fail(ERR_ARG,
        "suite chronicle takes no argument but ask=end,middle,start,twice, found \"%.60s\"; its "
        "size follows from max_length and num_samples",
        key);
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    struct asks asks = {.n = 1};
    TRY(grid_parse(o->argument, read_option, &asks));
    int n = (o->num_samples ? o->num_samples : DEFAULT_SAMPLES) * asks.n;
    struct fitted f = {0};
    enum status st = OK;
    out->score_text = true;
    for (int i = 0; i < n && st == OK; i++)
        st = fit_add_chronicle(o, out, i / asks.n, (enum ask)asks.at[i % asks.n], false, &f);
    fitted_clear(&f);
    return st;
}

const struct suite suite_chronicle = {
    .name = "chronicle",
    .help = "chronicle[:ask=end]  generated documents: perplexity, and questions answered only by "
            "reading "
            "far back",
    .load = load,
};

/* Chronicles: perplexity of a generated document, and its questions, whose only answer stands far
 * earlier.
 *
 * One document of max_length tokens (over nine tenths of it) per sample. All its questions are read
 * where they stand, and groups are their kinds; or its last one is answered by writing
 * (answers=written), which takes a prefill for each: so many documents serve better than many
 * questions of one, and the text is not scored.
 */
#include "suites/fit.h"
#include "suites/grid.h"

#include <string.h>

enum { DEFAULT_SAMPLES = 8, DEFAULT_WRITTEN = 30 };

struct form {
    int asks[GRID_VALUES], n_asks;
    enum fit_way way;
};

static enum status read_option(void *ctx, const char *key, const char *value)
{
    struct form *f = ctx;
    if (strcmp(key, "ask") == 0)
        return grid_names(
            &(struct grid_names){"chronicle", key, ask_names, N_ASK}, value, f->asks, &f->n_asks);
    if (strcmp(key, "answers") == 0) return fit_way_parse("chronicle", value, &f->way);
    return fail(ERR_ARG,
        "suite chronicle takes no argument but ask=end,middle,start,twice and answers=read or "
        "written, found \"%.60s\"; its size follows from max_length and num_samples",
        key);
}

/* One text, asked about at every place. */
static enum status add_chronicle(const struct suite_options *o, struct sample_set *out,
    const struct form *form, int index, struct fitted *f)
{
    struct chronicle_form at = {(enum ask)form->asks[0], form->way};
    if (form->n_asks > 1) at.ask = ASK_TWICE;
    TRY(fit_chronicle(o, out, index, &at, f));
    for (int i = 0; i < form->n_asks; i++) {
        at.ask = (enum ask)form->asks[i];
        if (form->n_asks > 1) TRY(fit_chronicle_again(o, out, &at, f));
        TRY(fit_add_chronicle(o, out, index, &at, f));
    }
    return OK;
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    struct form form = {.n_asks = 1};
    TRY(grid_parse(o->argument, read_option, &form));
    TRY(fit_way_check(o, out, form.way));
    bool written = form.way == FIT_WRITTEN;
    int n = o->num_samples ? o->num_samples : written ? DEFAULT_WRITTEN : DEFAULT_SAMPLES;
    struct fitted f = {0};
    enum status st = OK;
    out->score_text = !written;
    for (int i = 0; i < n && st == OK; i++) st = add_chronicle(o, out, &form, i, &f);
    fitted_clear(&f);
    return st;
}

const struct suite suite_chronicle = {
    .name = "chronicle",
    .help = "chronicle[:ask=end;answers=read]  generated documents: perplexity, and questions "
            "answered only by reading far back",
    .generates = true,
    .load = load,
};

/* Needle in a haystack (Kamradt 2023): one key -> value sentence in generated prose, asked for at
 * the end, over a grid of context lengths and depths.
 *
 * A sample has at most its cell's length in tokens, BOS included, and over nine tenths of it. Items
 * carry the cell's depth and length as asked for. The answer is read as part of the prefill, or
 * written by the model behind it (answers=written, see fit_add_written). Samples go through the
 * whole grid `repeat` times; num_samples takes them from the start.
 */
#include "suites/build.h"
#include "suites/fit.h"
#include "suites/grid.h"

#include <stdlib.h>
#include <string.h>

enum { MIN_BYTES = 400, MIN_LENGTH = 16, MAX_REPEAT = 1000, MAX_NEEDLES = 16 };

struct grid {
    int max_length;
    int lengths[GRID_VALUES], n_lengths; /* tokens */
    int depths[GRID_VALUES], n_depths;   /* per mille */
    int asks[GRID_VALUES], n_asks;       /* enum ask */
    int repeat;
    int needles; /* the one that is asked for and its distractors */
    enum fit_way way;
};

static enum status read_option(void *ctx, const char *key, const char *value)
{
    struct grid *g = ctx;
    int one;
    struct grid_numbers n = {.suite = "needle", .key = key, .scale = 1, .max = 1, .lo = 1};
    if (strcmp(key, "lengths") == 0) {
        n.lo = MIN_LENGTH, n.hi = g->max_length, n.max = GRID_VALUES;
        return grid_numbers(&n, value, g->lengths, &g->n_lengths);
    }
    if (strcmp(key, "depths") == 0) {
        n.lo = 0, n.hi = 100, n.scale = 10, n.max = GRID_VALUES;
        return grid_numbers(&n, value, g->depths, &g->n_depths);
    }
    if (strcmp(key, "repeat") == 0) {
        n.hi = MAX_REPEAT;
        return grid_numbers(&n, value, &g->repeat, &one);
    }
    if (strcmp(key, "needles") == 0) {
        n.hi = MAX_NEEDLES;
        return grid_numbers(&n, value, &g->needles, &one);
    }
    if (strcmp(key, "ask") == 0)
        return grid_names(
            &(struct grid_names){"needle", key, ask_names, N_ASK}, value, g->asks, &g->n_asks);
    if (strcmp(key, "answers") == 0) return fit_way_parse("needle", value, &g->way);
    return fail(ERR_ARG,
        "suite needle: unknown option \"%.40s\"; known: lengths, depths, repeat, needles, ask, "
        "answers, as in needle:lengths=1024,2048;depths=0,50,100;repeat=2",
        key);
}

static enum status read_grid(struct grid *g, const struct suite_options *o)
{
    *g = (struct grid){.max_length = o->max_length,
        .depths = {0, 250, 500, 750, 1000},
        .n_depths = 5,
        .repeat = 2,
        .needles = 1,
        .n_asks = 1};
    for (int part = 4; part > 0; part /= 2) {
        /* a document falls a little short of its length, and under 256 tokens attention runs dense
         */
        int length = o->max_length / part;
        if (part == 1 || length >= 320) g->lengths[g->n_lengths++] = length;
    }
    return grid_parse(o->argument, read_option, g);
}

static enum status write_needle(
    const void *config, uint64_t seed, size_t bytes, struct chronicle_doc *doc)
{
    struct needle_config c = *(const struct needle_config *)config;
    c.seed = seed;
    c.target_bytes = bytes;
    return needle_write(&c, doc);
}

static enum status add_sample(const struct suite_options *o, struct sample_set *s,
    const struct grid *g, int length, int depth, enum ask ask, const struct fitted *f)
{
    int index = s->n_samples;
    if ((int)f->tokens.n + build_bos(o) < o->min_length)
        return fail(
            ERR_ARG, "suite needle: length %d is under min_length %d", length, o->min_length);
    const struct chronicle_question *q = &f->doc.questions[0];
    char *name = str_format("needle %d: %d tokens, depth %g %%%s%s", index + 1, length,
        depth / 10.0, ask == ASK_END ? "" : ", asked: ", ask == ASK_END ? "" : ask_names[ask]);
    struct item item = {
        .question = s->n_items,
        .sample = index,
        .gold = true,
        .n_bytes = (int)(q->answer_end - q->answer_begin),
        .depth = depth / 1000.0,
        .length = length,
        .id = str_format("needle %d", index + 1),
        .group = ask_group(g->way == FIT_WRITTEN ? "needle, written" : "needle", ask),
    };
    if (g->way == FIT_WRITTEN) return fit_add_written(o, s, f, q, item, name);
    fit_answer(o, f, q, &item.begin, &item.end);
    enum status st = build_sample(o, s, f->tokens.ids, f->tokens.n, name);
    if (st == OK) return sample_set_add_item(s, item);
    free(item.id);
    free(item.group);
    return st;
}

/* One text, asked about at every place. */
static enum status add_cell(const struct suite_options *o, struct sample_set *s,
    const struct grid *g, int cell, struct fitted *f)
{
    int at = cell % (g->n_lengths * g->n_depths), room;
    int length = g->lengths[at / g->n_depths], depth = g->depths[at % g->n_depths];
    struct needle_config config = {
        .split = CHRONICLE_EVAL,
        .depth_permille = depth,
        .n_needles = g->needles,
        .n_questions = 1,
        .ask = g->n_asks > 1 ? ASK_TWICE : (enum ask)g->asks[0],
    };
    TRY(fit_room(o, s, length, g->way, &room));
    TRY(fit_write(o, s, write_needle, &config, (uint64_t)cell, MIN_BYTES, room, f));
    for (int i = 0; i < g->n_asks; i++) {
        if (o->num_samples && s->n_samples >= o->num_samples) return OK;
        config.ask = (enum ask)g->asks[i];
        if (g->n_asks > 1) TRY(fit_again(o, s, write_needle, &config, f));
        TRY(add_sample(o, s, g, length, depth, config.ask, f));
    }
    return OK;
}

static enum status add_grid(
    const struct suite_options *o, struct sample_set *s, const struct grid *g, struct fitted *f)
{
    for (int i = 0; i < g->repeat * g->n_lengths * g->n_depths; i++) {
        if (o->num_samples && s->n_samples >= o->num_samples) return OK;
        TRY(add_cell(o, s, g, i, f));
    }
    return OK;
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    struct grid g;
    TRY(read_grid(&g, o));
    TRY(fit_way_check(o, out, g.way));
    struct fitted f = {0};
    enum status st = add_grid(o, out, &g, &f);
    fitted_clear(&f);
    return st;
}

const struct suite suite_needle = {
    .name = "needle",
    .help = "needle[:lengths=A,B;depths=0,50;repeat=2;needles=1;ask=end;answers=read]  a fact "
            "hidden in prose, by place",
    .generates = true,
    .grid = true,
    .load = load,
};

/* Needle in a haystack (Kamradt 2023): one key -> value sentence in generated prose, asked for at
 * the end, over a grid of context lengths and depths.
 *
 * A sample has at most its cell's length in tokens, BOS included, and over nine tenths of it. Items
 * carry the cell's depth and length as asked for. The answer is read as part of the prefill, or
 * written by the model behind it (answers=written) in as many tokens as it has and SPARE more,
 * which count as part of the length. Samples go through the whole grid `repeat` times; num_samples
 * takes them from the start.
 */
#include "suites/build.h"
#include "suites/fit.h"
#include "suites/grid.h"

#include <stdlib.h>
#include <string.h>

enum { MIN_BYTES = 400, MIN_LENGTH = 16, MAX_REPEAT = 1000, MAX_NEEDLES = 16, SPARE = 8 };
enum { READ, WRITTEN };
static const char *const ways[] = {"read", "written"};

struct grid {
    int max_length;
    int lengths[GRID_VALUES], n_lengths; /* tokens */
    int depths[GRID_VALUES], n_depths;   /* per mille */
    int asks[GRID_VALUES], n_asks;       /* enum ask */
    int repeat;
    int needles; /* the one that is asked for and its distractors */
    int way;     /* READ or WRITTEN */
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
    if (strcmp(key, "answers") == 0) {
        int way[GRID_VALUES];
        TRY(grid_names(&(struct grid_names){"needle", key, ways, 2}, value, way, &one));
        g->way = way[0];
        return one == 1 ? OK : fail(ERR_ARG, "suite needle: answers takes read or written");
    }
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

/* The prefill ends in front of the answer, which is read only as what would have been right. */
static void write_it(struct sample *x, struct item *item, const struct fitted *f)
{
    const struct chronicle_question *q = &f->doc.questions[0];
    const char *from = f->doc.text.data + q->answer_begin, *end = f->doc.text.data + q->answer_end;
    while (from < end && *from == ' ') from++;
    char *answer = str_format("%.*s", (int)(end - from), from);
    item->wanted = wanted_new(JUDGE_ALL, item->end - item->begin + SPARE);
    wanted_add(item->wanted, answer);
    free(answer);
    x->n = item->end;
    x->n_prompt = item->begin;
    x->score_from = item->begin - 1;
}

static enum status add_sample(const struct suite_options *o, struct sample_set *s,
    const struct grid *g, int cell, int length, int depth, enum ask ask, struct fitted *f)
{
    int index = s->n_samples;
    const struct needle_config config = {
        .split = CHRONICLE_EVAL,
        .depth_permille = depth,
        .n_needles = g->needles,
        .n_questions = 1,
        .ask = ask,
    };
    int room = length - (g->way == WRITTEN ? SPARE : 0);
    TRY(fit_write(o, s, write_needle, &config, (uint64_t)cell, MIN_BYTES, room, f));
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
    };
    fit_answer(o, f, q, &item.begin, &item.end);
    TRY(build_sample(o, s, f->tokens.ids, f->tokens.n, name));
    if (g->way == WRITTEN) write_it(&s->samples[index], &item, f);
    item.id = str_format("needle %d", index + 1);
    item.group = ask_group(g->way == WRITTEN ? "needle, written" : "needle", ask);
    return sample_set_add_item(s, item);
}

static enum status add_grid(
    const struct suite_options *o, struct sample_set *s, const struct grid *g, struct fitted *f)
{
    int cells = g->n_lengths * g->n_depths;
    for (int i = 0; i < g->repeat * cells * g->n_asks; i++) {
        int cell = i / g->n_asks, at = cell % cells;
        if (o->num_samples && s->n_samples >= o->num_samples) return OK;
        TRY(add_sample(o, s, g, cell, g->lengths[at / g->n_depths], g->depths[at % g->n_depths],
            (enum ask)g->asks[i % g->n_asks], f));
    }
    return OK;
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    struct grid g;
    TRY(read_grid(&g, o));
    struct fitted f = {0};
    enum status st = add_grid(o, out, &g, &f);
    fitted_clear(&f);
    return st;
}

const struct suite suite_needle = {
    .name = "needle",
    .help = "needle[:lengths=A,B;depths=0,50;repeat=2;needles=1;ask=end;answers=read]  a fact "
            "hidden in prose, by place",
    .load = load,
};

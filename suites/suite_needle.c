/* Needle in a haystack (Kamradt 2023): one key -> value sentence in generated prose, asked for at
 * the end, over a grid of context lengths and depths.
 *
 * A sample has at most its cell's length in tokens, BOS included, and over nine tenths of it. Items
 * carry the cell's depth and length as asked for. Samples go through the whole grid `repeat` times;
 * num_samples takes them from the start.
 */
#include "suites/fit.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_VALUES = 32, MIN_BYTES = 400, MIN_LENGTH = 16, MAX_REPEAT = 1000, MAX_NEEDLES = 16 };

struct grid {
    int lengths[MAX_VALUES], n_lengths; /* tokens */
    int depths[MAX_VALUES], n_depths;   /* per mille */
    int repeat;
    int needles; /* the one that is asked for and its distractors */
};

/* A number of `text` from lo to hi, times `scale`, which must give a whole number; *end behind it.
 */
static bool read_number(
    const char *text, double lo, double hi, double scale, int *out, const char **end)
{
    char *stop;
    double v = strtod(text, &stop);
    if (stop == text || !(v >= lo && v <= hi)) return false;
    *end = stop;
    double scaled = v * scale;
    *out = (int)(scaled + .5);
    return scaled - *out < 1e-6 && *out - scaled < 1e-6;
}

static enum status read_list(const char *key, const char *text, double lo, double hi, double scale,
    int max, int *out, int *n)
{
    const char *p = text;
    for (*n = 0; *n < max; p++) {
        if (!read_number(p, lo, hi, scale, &out[*n], &p)) break;
        ++*n;
        if (!*p) return OK;
        if (*p != ',') break;
    }
    if (*n == max && max > 1)
        return fail(ERR_ARG, "suite needle: %s has more than %d values", key, max);
    return fail(ERR_ARG, "suite needle: %s=%.80s: expected %s from %g to %g%s", key, text,
        max > 1 ? "numbers with commas between them, each" : "a whole number", lo, hi,
        strcmp(key, "lengths") == 0 ? " (max_length)" : "");
}

static enum status read_option(
    struct grid *g, const struct suite_options *o, const char *key, const char *value)
{
    int one;
    if (strcmp(key, "lengths") == 0)
        return read_list(
            key, value, MIN_LENGTH, o->max_length, 1, MAX_VALUES, g->lengths, &g->n_lengths);
    if (strcmp(key, "depths") == 0)
        return read_list(key, value, 0, 100, 10, MAX_VALUES, g->depths, &g->n_depths);
    if (strcmp(key, "repeat") == 0)
        return read_list(key, value, 1, MAX_REPEAT, 1, 1, &g->repeat, &one);
    if (strcmp(key, "needles") == 0)
        return read_list(key, value, 1, MAX_NEEDLES, 1, 1, &g->needles, &one);
    return fail(ERR_ARG,
        "suite needle: unknown option \"%.40s\"; known: lengths, depths, repeat, needles, as in "
        "needle:lengths=1024,2048;depths=0,50,100;repeat=2",
        key);
}

static enum status read_grid(struct grid *g, const struct suite_options *o)
{
    *g =
        (struct grid){.depths = {0, 250, 500, 750, 1000}, .n_depths = 5, .repeat = 2, .needles = 1};
    for (int part = 4; part > 0; part /= 2) {
        /* a document falls a little short of its length, and under 256 tokens attention runs dense
         */
        int length = o->max_length / part;
        if (part == 1 || length >= 320) g->lengths[g->n_lengths++] = length;
    }
    char *copy = str_dup(o->argument), *rest = copy;
    enum status st = OK;
    for (char *option; st == OK && (option = strsep(&rest, ";"));) {
        if (!*option) continue;
        char *equals = strchr(option, '=');
        if (equals) *equals = 0;
        st = read_option(g, o, option, equals ? equals + 1 : "");
    }
    free(copy);
    return st;
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
    const struct grid *g, int length, int depth, struct fitted *f)
{
    int index = s->n_samples;
    const struct needle_config config = {
        .split = CHRONICLE_EVAL,
        .depth_permille = depth,
        .n_needles = g->needles,
        .n_questions = 1,
    };
    TRY(fit_write(o, s, write_needle, &config, (uint64_t)index, MIN_BYTES, length, f));
    if ((int)f->tokens.n + build_bos(o) < o->min_length)
        return fail(
            ERR_ARG, "suite needle: length %d is under min_length %d", length, o->min_length);
    const struct chronicle_question *q = &f->doc.questions[0];
    char *cell = str_format("needle %d: %d tokens, depth %g %%", index + 1, length, depth / 10.0);
    struct item item = {
        .question = s->n_items,
        .sample = index,
        .gold = true,
        .n_bytes = (int)(q->answer_end - q->answer_begin),
        .depth = depth / 1000.0,
        .length = length,
    };
    fit_answer(o, f, q, &item.begin, &item.end);
    TRY(build_sample(o, s, f->tokens.ids, f->tokens.n, cell));
    item.id = str_format("needle %d", index + 1);
    item.group = str_dup("needle");
    return sample_set_add_item(s, item);
}

static enum status add_grid(
    const struct suite_options *o, struct sample_set *s, const struct grid *g, struct fitted *f)
{
    for (int r = 0; r < g->repeat; r++)
        for (int l = 0; l < g->n_lengths; l++)
            for (int d = 0; d < g->n_depths; d++) {
                if (o->num_samples && s->n_samples >= o->num_samples) return OK;
                TRY(add_sample(o, s, g, g->lengths[l], g->depths[d], f));
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
    .help = "needle[:lengths=A,B;depths=0,50;repeat=2;needles=1]  a fact hidden in prose, by place",
    .load = load,
};

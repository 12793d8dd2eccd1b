#include "suites/chronicle_writer.h"

#include <stdint.h>
#include <string.h>

/* A key (a name, a hyphenated pair or a village) that is none of the `n` taken ones. */
static void draw_needle_key(
    struct writer *w, char key[VALUE_BYTES], char taken[][VALUE_BYTES], int n)
{
    bool again;
    do {
        uint32_t what = rng_below(&w->rng, 3);
        char name[NAME_BYTES];
        if (what == 0) {
            writer_first_name(w, name);
            strcpy(key, name);
        } else if (what == 1) {
            strcpy(key, writer_pick(w, &words_thing_adj));
            strcat(key, "-");
            strcat(key, writer_pick(w, &words_secret_noun));
        } else {
            writer_join_name(w, name, &words_village_head, &words_village_tail);
            strcpy(key, name);
        }
        again = false;
        for (int i = 0; i < n; i++) again |= strcmp(taken[i], key) == 0;
    } while (again);
}

static void draw_needle_value(struct writer *w, struct fact *f, int pattern)
{
    f->value[0] = 0;
    bool number = pattern >= 1 && pattern <= 3;
    if (number) {
        f->value_id = 10000 + rng_below(&w->rng, writer_chance(w, 50) ? 90000 : 9990000 - 10000);
        fact_add_number(f, f->value_id);
        return;
    }
    uint32_t a = rng_below(&w->rng, words_secret_adj.n),
             b = rng_below(&w->rng, words_secret_noun.n);
    uint32_t c = writer_chance(w, 30) ? 1 + rng_below(&w->rng, words_secret_adj.n) : 0;
    f->value_id = (c * words_secret_adj.n + a) * words_secret_noun.n + b + (1u << 30);
    if (c) {
        fact_add_text(f, words_secret_adj.item[c - 1]);
        fact_add_text(f, " ");
    }
    fact_add_text(f, words_secret_adj.item[a]);
    fact_add_text(f, " ");
    fact_add_text(f, words_secret_noun.item[b]);
}

/* The first place at or after `at` where a sentence has just ended, else the next blank, else the
 * end. */
static size_t sentence_break(const char *text, size_t len, size_t at)
{
    size_t blank = len, limit = at + 400 < len ? at + 400 : len;
    for (size_t i = at; i < limit; i++) {
        if (text[i] != ' ' && text[i] != '\n') continue;
        if (blank == len) blank = i + 1;
        if (i > 0 && strchr(".!?\"", text[i - 1])) return i + 1;
    }
    return blank;
}

static void write_haystack(
    struct writer *w, const struct needle_config *config, struct str *out, size_t bytes)
{
    if (config->haystack) {
        while (out->len < bytes) {
            size_t n = bytes - out->len < config->haystack_bytes ? bytes - out->len
                                                                 : config->haystack_bytes;
            str_add_bytes(out, config->haystack, n);
            str_add_char(out, ' ');
        }
        size_t end = out->len; /* do not end inside a word, let alone inside a character */
        while (end > 0 && !strchr(" \n", out->data[end - 1])) end--;
        if (end > 0) out->data[out->len = end] = 0;
        return;
    }
    struct str *text = w->text;
    w->text = out;
    while (out->len < bytes) {
        for (int n = rng_range(&w->rng, 3, 7); n > 0; n--) {
            writer_filler(w);
            writer_add(w, n > 1 ? " " : "\n\n");
        }
    }
    w->text = text;
}

struct needle {
    struct fact fact;
    char key[VALUE_BYTES];
    int pattern;
    size_t at; /* offset in the haystack */
};

static void sort_needles(struct needle **order, int n)
{
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && order[j]->at < order[j - 1]->at; j--) {
            struct needle *t = order[j];
            order[j] = order[j - 1];
            order[j - 1] = t;
        }
}

static void draw_needles(struct writer *w, struct needle *needles, int n)
{
    char taken[16][VALUE_BYTES];
    int pattern = (int)rng_below(&w->rng, patterns_needle.n);
    for (int i = 0; i < n; i++) {
        struct needle *x = &needles[i];
        x->pattern = writer_chance(w, 75) ? pattern : (int)rng_below(&w->rng, patterns_needle.n);
        draw_needle_key(w, x->key, taken, i);
        strcpy(taken[i], x->key);
        bool again;
        do {
            draw_needle_value(w, &x->fact, x->pattern);
            again = false;
            for (int j = 0; j < i; j++)
                again |= strstr(needles[j].fact.value, x->fact.value) ||
                    strstr(x->fact.value, needles[j].fact.value);
        } while (again);
    }
}

static void write_needle(struct writer *w, struct needle *x)
{
    w->key = x->key;
    w->needle = x->fact.value;
    x->fact.evidence_begin = w->text->len;
    writer_expand(w, patterns_needle.item[x->pattern]);
    writer_add(w, " ");
}

/* asked: the question stands here too, in front of its answer. */
static void ask_needle(struct writer *w, const struct needle *x, bool asked)
{
    size_t begin = w->text->len;
    w->key = x->key;
    w->needle = x->fact.value;
    if (asked) {
        writer_add(w, "Question: ");
        writer_expand(w, patterns_needle_ask.item[x->pattern]);
        writer_add(w, " ");
    }
    writer_expand(w, "Answer: {v}.\n");
    writer_add_question(w, begin, strlen(x->fact.value), x->fact.evidence_begin, CHRONICLE_NEEDLE);
}

/* The question alone, as a paragraph of its own. */
static void ask_early(struct writer *w, const struct needle *x)
{
    if (w->text->len && w->text->data[w->text->len - 1] != '\n') writer_add(w, "\n\n");
    w->key = x->key;
    writer_add(w, "Question: ");
    writer_expand(w, patterns_needle_ask.item[x->pattern]);
    writer_add(w, "\n\n");
}

enum status needle_write(const struct needle_config *config, struct chronicle_doc *doc)
{
    TRY(chronicle_check_range("target_bytes", config->target_bytes, 400, (size_t)1 << 20));
    TRY(chronicle_check_range("depth_permille", (uint64_t)config->depth_permille, 0, 1000));
    TRY(chronicle_check_range("n_needles", (uint64_t)config->n_needles, 1, 16));
    TRY(chronicle_check_range(
        "n_questions", (uint64_t)config->n_questions, 1, (uint64_t)config->n_needles));
    if (config->ask != ASK_END && config->n_questions != 1)
        return fail(ERR_ARG,
            "n_questions is %d, expected 1 where the question does not stand at the end",
            config->n_questions);
    if (config->haystack)
        TRY(chronicle_check_range("haystack_bytes", config->haystack_bytes, 1, (size_t)1 << 40));
    struct writer w;
    writer_init(&w, doc, chronicle_stream_seed(config->split, config->seed, 2));
    writer_make_people(&w, 8);
    writer_make_villages(&w, 6);

    struct needle needles[16] = {0}, *order[16];
    int n = config->n_needles;
    draw_needles(&w, needles, n);
    size_t extra = (size_t)n * 60 + (size_t)config->n_questions * QUESTION_BYTES;
    size_t target = config->target_bytes;
    struct str hay = {0};
    write_haystack(&w, config, &hay, target > extra + 100 ? target - extra : 100);
    for (int i = 0; i < n; i++) {
        int depth = i == 0 ? config->depth_permille : rng_range(&w.rng, 0, 1000);
        needles[i].at =
            depth == 0 ? 0 : sentence_break(hay.data, hay.len, hay.len * (size_t)depth / 1000);
        order[i] = &needles[i];
    }
    sort_needles(order, n);
    size_t at = 0,
           middle = config->ask == ASK_MIDDLE ? sentence_break(hay.data, hay.len, hay.len / 2)
                                              : SIZE_MAX;
    if (config->ask == ASK_START || config->ask == ASK_TWICE) ask_early(&w, &needles[0]);
    for (int i = 0; i < n; i++) {
        if (middle <= order[i]->at) {
            str_add_bytes(w.text, hay.data + at, middle - at);
            at = middle;
            middle = SIZE_MAX;
            ask_early(&w, &needles[0]);
        }
        str_add_bytes(w.text, hay.data + at, order[i]->at - at);
        at = order[i]->at;
        if (w.text->len && !strchr(" \n", w.text->data[w.text->len - 1])) str_add_char(w.text, ' ');
        write_needle(&w, order[i]);
    }
    if (middle != SIZE_MAX) {
        str_add_bytes(w.text, hay.data + at, middle - at);
        at = middle;
        ask_early(&w, &needles[0]);
    }
    str_add_bytes(w.text, hay.data + at, hay.len - at);
    str_clear(&hay);
    str_add(w.text, w.text->data[w.text->len - 1] == '\n' ? "" : "\n\n");
    for (int i = 0; i < config->n_questions; i++)
        ask_needle(&w, &needles[i], i > 0 || config->ask == ASK_END || config->ask == ASK_TWICE);
    writer_clear(&w);
    return OK;
}

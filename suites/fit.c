#include "suites/fit.h"

#include "base/rng.h"

#include <stdlib.h>

enum { CHRONICLE_MIN_BYTES = 600, MAX_TRIES = 160, TRIES_PER_SEED = 2 };
#define NEXT_VARIANT ((uint64_t)1 << 40) /* far from any index */

uint64_t fit_seed(const struct suite_options *o, uint64_t index)
{
    uint64_t state = o->seed, top = (uint64_t)1 << 63;
    uint64_t seed = (splitmix64(&state) + index) & ~top;
    return o->tuning ? seed | top : seed;
}

void fitted_clear(struct fitted *f)
{
    chronicle_doc_clear(&f->doc);
    token_list_clear(&f->tokens);
    *f = (struct fitted){0};
}

/* Write and encode; *n counts BOS too. */
static enum status write_tokens(const struct suite_options *o, struct sample_set *s,
    fit_writer *write, const void *config, uint64_t seed, size_t bytes, struct fitted *f, size_t *n)
{
    TRY(write(config, seed, bytes, &f->doc));
    TRY(build_encode(o, s, f->doc.text.data, f->doc.text.len, &f->tokens));
    *n = f->tokens.n + (size_t)build_bos(o);
    f->bytes_per_token = (double)bytes / (double)*n;
    return OK;
}

enum status fit_write(const struct suite_options *o, struct sample_set *s, fit_writer *write,
    const void *config, uint64_t index, size_t min_bytes, int length, struct fitted *f)
{
    /* Where in the allowed band to aim. Documents miss the size they are asked for, and short ones
     * come in steps of a paragraph, so a miss is answered by the ratio it had, another aim and then
     * another seed. */
    static const double aims[] = {.96, .95, .94, .97, .93, .985, .92};
    size_t n = 0, least = SIZE_MAX;
    if (f->bytes_per_token <= 0) f->bytes_per_token = 4;
    for (int i = 0; i < MAX_TRIES; i++) {
        size_t bytes =
            (size_t)(length * f->bytes_per_token * aims[i % (sizeof aims / sizeof *aims)]);
        if (bytes < min_bytes) bytes = min_bytes;
        uint64_t seed = fit_seed(o, index + (uint64_t)(i / TRIES_PER_SEED) * NEXT_VARIANT);
        TRY(write_tokens(o, s, write, config, seed, bytes, f, &n));
        if (n <= (size_t)length && n * 10 > (size_t)length * 9) return OK;
        if (n < least) least = n;
    }
    if (least > (size_t)length)
        return fail(ERR_ARG,
            "suite %s: a document of %d tokens is too short to write, this tokenizer needs about "
            "%zu; raise the length",
            s->suite, length, least);
    return fail(ERR_ARG,
        "suite %s: found no document of %d to %d tokens in %d tries; ask for another length",
        s->suite, length * 9 / 10 + 1, length, MAX_TRIES);
}

void fit_answer(const struct suite_options *o, const struct fitted *f,
    const struct chronicle_question *q, int *begin, int *end)
{
    const struct token_list *t = &f->tokens;
    size_t first = token_list_find(t, 0, (uint32_t)(q->answer_begin - 1));
    size_t last = build_token_at(t, q->answer_end);
    *begin = build_bos(o) + (int)first;
    *end = build_bos(o) + (int)last;
}

static enum status write_chronicle(
    const void *config, uint64_t seed, size_t bytes, struct chronicle_doc *doc)
{
    TRY(chronicle_write(&(struct chronicle_config){CHRONICLE_EVAL, seed, bytes}, doc));
    if (config) chronicle_move(doc, *(const enum ask *)config);
    return OK;
}

/* At least max_length tokens. */
static enum status write_longer(
    const struct suite_options *o, struct sample_set *s, uint64_t index, struct fitted *f)
{
    size_t bytes = CHRONICLE_MIN_BYTES + (size_t)o->max_length * 5, n = 0;
    for (;; bytes += bytes / 2) {
        TRY(write_tokens(o, s, write_chronicle, NULL, fit_seed(o, index), bytes, f, &n));
        if (n >= (size_t)o->max_length) return OK;
    }
}

static enum status add_question(const struct suite_options *o, struct sample_set *s,
    const struct fitted *f, int index, size_t question, enum ask ask)
{
    const struct chronicle_question *q = &f->doc.questions[question];
    struct item item = {.question = s->n_items, .sample = s->n_samples - 1, .gold = true};
    fit_answer(o, f, q, &item.begin, &item.end);
    if (item.end > s->samples[item.sample].n || item.begin < 1) return OK;
    int evidence = build_bos(o) + (int)token_list_find(&f->tokens, 0, (uint32_t)q->evidence_begin);
    item.n_bytes = (int)(q->answer_end - q->answer_begin);
    item.depth = (double)evidence / item.begin;
    item.length = item.begin;
    item.id = str_format("%s %d question %zu%s%s", s->suite, index + 1, question + 1,
        ask == ASK_END ? "" : " ask=", ask == ASK_END ? "" : ask_names[ask]);
    item.group = ask_group(chronicle_kind_name(q->kind), ask);
    return sample_set_add_item(s, item);
}

enum status fit_add_chronicle(const struct suite_options *o, struct sample_set *s, int index,
    enum ask ask, bool exact, struct fitted *f)
{
    if (exact) TRY(write_longer(o, s, (uint64_t)index, f));
    else
        TRY(fit_write(
            o, s, write_chronicle, &ask, (uint64_t)index, CHRONICLE_MIN_BYTES, o->max_length, f));
    size_t room = (size_t)(o->max_length - build_bos(o)),
           n = f->tokens.n < room ? f->tokens.n : room;
    if ((int)n + build_bos(o) < o->min_length)
        return fail(ERR_ARG,
            "suite %s: document %d has %zu tokens, min_length asks for %d; raise max_length",
            s->suite, index + 1, n + (size_t)build_bos(o), o->min_length);
    TRY(build_sample(o, s, f->tokens.ids, n,
        str_format("%s %d%s%s", s->suite, index + 1,
            ask == ASK_END ? "" : ", asked: ", ask == ASK_END ? "" : ask_names[ask])));
    /* questions within the text are asked where they are, whatever becomes of the last */
    size_t first = ask == ASK_END ? 0 : f->doc.n_within;
    for (size_t i = first; i < f->doc.n_questions; i++) TRY(add_question(o, s, f, index, i, ask));
    return OK;
}

/* Generated documents (chronicle.h) of a size asked for in tokens. */
#ifndef SG_SUITES_FIT_H
#define SG_SUITES_FIT_H

#include "suites/build.h"
#include "suites/chronicle.h"

/* The generator's seed for document `index` of a suite run with o->seed. Tuning and evaluation
 * differ in the top bit, so they never share a document; both are of CHRONICLE_EVAL, which the
 * bundled model never saw. */
uint64_t fit_seed(const struct suite_options *o, uint64_t index);

/* Write a document of about `bytes`. */
typedef enum status fit_writer(
    const void *config, uint64_t seed, size_t bytes, struct chronicle_doc *doc);

/* One document and its tokens. `struct fitted f = {0};` is empty; reuse keeps memory and the
 * calibration. */
struct fitted {
    struct chronicle_doc doc;
    struct token_list tokens; /* without BOS */
    uint64_t seed;            /* and bytes: what it was written from */
    size_t bytes;
    double bytes_per_token; /* asked for, of the last document; 0: not known yet */
};
void fitted_clear(struct fitted *f);

/* Write document `index` until BOS and it take at most `length` tokens and more than nine tenths of
 * that. min_bytes: the least `write` accepts. ERR_ARG when no document is so short, with the tokens
 * needed. */
enum status fit_write(const struct suite_options *o, struct sample_set *s, fit_writer *write,
    const void *config, uint64_t index, size_t min_bytes, int length, struct fitted *f) MUST_USE;
/* Write the document that f holds again, in the form of another config: the same text asked about
 * at another place. Whether that fits is the caller's care: asked twice is the longest. */
enum status fit_again(const struct suite_options *o, struct sample_set *s, fit_writer *write,
    const void *config, struct fitted *f) MUST_USE;

/* Tokens [*begin, *end) of the sample BOS + document that a question's answer takes. It begins with
 * the space before the answer, where a prompt ends. */
void fit_answer(const struct suite_options *o, const struct fitted *f,
    const struct chronicle_question *q, int *begin, int *end);

/* How an answer comes: read as part of the prefill, or written by the model behind it. */
enum fit_way { FIT_READ, FIT_WRITTEN };
/* "read" or "written", what a suite's answers= says. */
enum status fit_way_parse(const char *suite, const char *text, enum fit_way *way) MUST_USE;
/* ERR_ARG when a chat is asked for and answers are read: there is no prompt to wrap. */
enum status fit_way_check(
    const struct suite_options *o, const struct sample_set *s, enum fit_way way) MUST_USE;

/* The length that a document may have so that BOS, chat, it and what may be written behind it take
 * at most `length`. */
enum status fit_room(const struct suite_options *o, struct sample_set *s, int length,
    enum fit_way way, int *room) MUST_USE;
/* Add the document up to the answer of `q` as a prompt (build_task). As many tokens may be written
 * as the answer has and a few more. "Answer:", or what else stands between question and answer, is
 * how the answer begins, in the assistant's turn where there is a chat. Takes item's strings and
 * `name`; n_bytes and wanted are set here. */
enum status fit_add_written(const struct suite_options *o, struct sample_set *s,
    const struct fitted *f, const struct chronicle_question *q, struct item item,
    char *name) MUST_USE;
/* Chronicle `index` of at most o->max_length tokens: where its last questions stand, and how they
 * are answered. */
struct chronicle_form {
    enum ask ask;
    enum fit_way way;
};
enum status fit_chronicle(const struct suite_options *o, struct sample_set *s, int index,
    const struct chronicle_form *form, struct fitted *f) MUST_USE;
/* The one that f holds, asked about elsewhere. */
enum status fit_chronicle_again(const struct suite_options *o, struct sample_set *s,
    const struct chronicle_form *form, struct fitted *f) MUST_USE;
/* Add what f holds, its first max_length tokens. Read: an item for each question that fits in;
 * those not asked at the end are the last ones alone. Written: its last question, behind the others
 * with their answers, is the prompt. depth is the evidence's place in the context, length the
 * tokens of the context (written: max_length), so length x (1 - depth) is the distance. */
enum status fit_add_chronicle(const struct suite_options *o, struct sample_set *s, int index,
    const struct chronicle_form *form, const struct fitted *f) MUST_USE;

/* Add chronicle `index` of exactly o->max_length tokens, cut from a longer one; its answers are
 * read. */
enum status fit_add_longer(
    const struct suite_options *o, struct sample_set *s, int index, struct fitted *f) MUST_USE;

#endif

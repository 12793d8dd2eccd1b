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
    double bytes_per_token;   /* asked for, of the last document; 0: not known yet */
};
void fitted_clear(struct fitted *f);

/* Write document `index` until BOS and it take at most `length` tokens and more than nine tenths of
 * that. min_bytes: the least `write` accepts. ERR_ARG when no document is so short, with the tokens
 * needed. */
enum status fit_write(const struct suite_options *o, struct sample_set *s, fit_writer *write,
    const void *config, uint64_t index, size_t min_bytes, int length, struct fitted *f) MUST_USE;

/* Tokens [*begin, *end) of the sample BOS + document that a question's answer takes. It begins with
 * the space before the answer, where a prompt ends. */
void fit_answer(const struct suite_options *o, const struct fitted *f,
    const struct chronicle_question *q, int *begin, int *end);

/* Add one chronicle of at most o->max_length tokens and an item for each of its questions that fits
 * in: depth is the evidence's place in the context, length the tokens of the context, so length x
 * (1 - depth) is the distance. ask: where its last questions stand; when not at the end,
 * they alone are items. exact: write a longer one and cut it, so that the sample has max_length
 * tokens; with ASK_END. */
enum status fit_add_chronicle(const struct suite_options *o, struct sample_set *s, int index,
    enum ask ask, bool exact, struct fitted *f) MUST_USE;

#endif

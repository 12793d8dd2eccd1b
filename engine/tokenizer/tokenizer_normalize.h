/* The field "normalizer" of tokenizer.json: Prepend, Replace, NFC, NFD, NFKC, NFKD and sequences of
 * them. */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_NORMALIZE_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_NORMALIZE_H

#include "base/json.h"
#include "engine/tokenizer/tokenizer_form.h"
#include "engine/tokenizer/tokenizer_regex.h"
#include "engine/tokenizer/tokenizer_text.h"

struct normalizer; /* immutable after opening */

/* in.node NULL or null: a normalizer that changes nothing. */
enum status normalizer_open(struct normalizer **n, struct json_in in) MUST_USE;
void normalizer_close(struct normalizer **n);

/* Memory of one thread; `struct normalizer_work w = {0};` is ready for use. */
struct normalizer_work {
    struct text_buf buf[2];
    struct regex_work regex;
    struct form_work form;
};
void normalizer_work_clear(struct normalizer_work *w);

/* *out borrows from w until the next call, or is `in` itself where nothing had to change. */
enum status normalizer_apply(const struct normalizer *n, struct normalizer_work *w, struct text in,
    struct text *out) MUST_USE;

/* Append `in` to `out` with every match of `what` replaced by `with`; replacements have the origin
 * of the last character they stand for. */
enum status text_replace(const struct regex *what, struct regex_work *w, const char *with,
    const struct text *in, struct text_buf *out) MUST_USE;

#endif

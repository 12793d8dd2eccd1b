/* Unicode normalisation forms as `tokenizers` 0.23 computes them: the data of utf8proc, without
 * what came after the Unicode version that library knows (unicode_inert in tokenizer_unicode.h). */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_FORM_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_FORM_H

#include "engine/tokenizer/tokenizer_text.h"

enum unicode_form { FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD };

/* Characters under way; `struct form_work w = {0};` is ready for use. */
struct form_work {
    struct form_char *chars;
    size_t n, cap;
    int32_t *plain;
    size_t cap_plain;
};
void form_work_clear(struct form_work *w);

/* Append the form of `in` to `out`. All bytes of a cluster (a starter and what may join or reorder
 * behind it) have the origin of its first character. O(n log n) whatever the marks. */
enum status form_apply(enum unicode_form form, struct form_work *w, const struct text *in,
    struct text_buf *out) MUST_USE;

/* The simple lower case of a code point, itself when it has none. */
uint32_t form_lower(uint32_t cp);

#endif

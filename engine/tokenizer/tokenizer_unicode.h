/* Unicode classes exactly as Hugging Face `tokenizers` 0.23 has them, and sets of code points.
 *
 * The regular expression engine inside `tokenizers` carries Unicode 16, system libraries carry
 * anything from 13 to 17, and token ids must not depend on that. So patterns never use a library's
 * \p{L}: they are rewritten to explicit ranges from this table (see tokenizer_regex.h). Source of
 * the data: tests/golden/make_tokenizer_tables.py.
 */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_UNICODE_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_UNICODE_H

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UNICODE_LAST 0x10FFFFu

/* General categories in the order of the table; the bit 1 << category makes masks. */
enum unicode_category {
    UC_LU,
    UC_LL,
    UC_LT,
    UC_LM,
    UC_LO,
    UC_MN,
    UC_MC,
    UC_ME,
    UC_ND,
    UC_NL,
    UC_NO,
    UC_PC,
    UC_PD,
    UC_PS,
    UC_PE,
    UC_PI,
    UC_PF,
    UC_PO,
    UC_SM,
    UC_SC,
    UC_SK,
    UC_SO,
    UC_ZS,
    UC_ZL,
    UC_ZP,
    UC_CC,
    UC_CF,
    UC_CN,
    UC_CO,
    UC_CS,
    UC_COUNT
};

struct cp_range {
    uint32_t first, last; /* both included */
};

extern const uint32_t unicode_category_starts[]; /* first << 5 | category, ascending */
extern const size_t unicode_n_category_starts;
/* What the normalizers of `tokenizers` (Unicode 9 data) leave alone although later Unicode
 * decomposes, composes or reorders it. */
extern const struct cp_range unicode_inert[];
extern const size_t unicode_n_inert;

/* The mask of a general category or a group: "Lu", "L", "Nd", …; 0 for any other name. */
uint32_t unicode_category_mask(const char *name, size_t len);
enum unicode_category unicode_category(uint32_t cp);

/* White_Space: what \s means to every engine in `tokenizers`. U+180E and U+200B do not belong to
 * it. */
bool unicode_is_space(uint32_t cp);
/* \w of Rust's regex crate, which decides about `single_word` added tokens. */
bool unicode_is_word(uint32_t cp);
bool unicode_is_inert(uint32_t cp);

/* A set of code points. `struct cp_set s = {0};` is empty. Any number of adds, then one
 * cp_set_finish(). */
struct cp_set {
    struct str bytes; /* the ranges, n of them */
    size_t n;
};

static inline struct cp_range *cp_set_ranges(const struct cp_set *s)
{
    return (struct cp_range *)s->bytes.data;
}

void cp_set_clear(struct cp_set *s);
void cp_set_add(struct cp_set *s, uint32_t first, uint32_t last);
void cp_set_add_categories(struct cp_set *s, uint32_t mask);
void cp_set_add_space(struct cp_set *s);
/* \w of the engine behind Split patterns (Oniguruma). Outside of brackets, and only there, it also
 * has the superscripts and fractions of Latin-1. */
void cp_set_add_word(struct cp_set *s, bool in_class);
/* What the pre-tokenizer Digits isolates (Rust's char::is_numeric, Unicode 17). */
void cp_set_add_numeric(struct cp_set *s);
/* Sort and join the ranges. */
void cp_set_finish(struct cp_set *s);
/* The complement of a finished set; surrogates belong to no set. */
void cp_set_invert(struct cp_set *s);
/* For a finished set. */
bool cp_set_has(const struct cp_set *s, uint32_t cp);

#endif

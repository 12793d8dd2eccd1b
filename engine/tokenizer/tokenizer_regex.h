/* The regular expressions of tokenizer.json, run by PCRE2 with the meaning Oniguruma gives them.
 *
 * A pattern is rewritten before it is compiled: \s, \d, \w, \p{..} and every bracket class become
 * explicit ranges of code points (tokenizer_unicode.h), line anchors become Ruby's. Constructs
 * whose meaning differs between the two engines in a way we do not translate are refused, never
 * guessed.
 */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_REGEX_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_REGEX_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

struct regex; /* immutable after regex_open: any number of threads may search at once */

/* Where a pattern stands, for messages. */
struct regex_place {
    const char *file, *field;
};

/* Compile `pattern` (len bytes of UTF-8). ERR_FORMAT: not a regular expression; ERR_UNSUPPORTED: a
 * construct without translation, or a pattern that can match nothing at all. */
enum status regex_open(
    struct regex **r, const char *pattern, size_t len, struct regex_place place) MUST_USE;
/* A search for len >= 1 plain bytes through the same interface. */
enum status regex_open_literal(
    struct regex **r, const char *text, size_t len, struct regex_place place) MUST_USE;
void regex_close(struct regex **r);

/* Memory for searching, one per thread. `struct regex_work w = {0};` is ready for use. */
struct regex_work {
    void *match, *context, *stack; /* owned, made on first use */
};
void regex_work_clear(struct regex_work *w);

/* The first match in text[from..n) (UTF-8; what stands before `from` is visible to look-behind).
 * *found false: there is none. ERR_UNSUPPORTED: the pattern backtracks beyond all measure on this
 * text. */
enum status regex_find(const struct regex *r, struct regex_work *w, const char *text, size_t n,
    size_t from, bool *found, size_t *begin, size_t *end) MUST_USE;

#endif

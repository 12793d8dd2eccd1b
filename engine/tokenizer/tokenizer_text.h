/* Text on its way through the tokenizer: bytes, and for each byte where it came from.
 *
 * "Origin" is an offset in the text as the caller gave it (repaired, see tokenizer.h): always the
 * start of a character, the one a byte belongs to or was made from. Untouched text carries no
 * array, only its base.
 */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_TEXT_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_TEXT_H

#include "engine/tokenizer/tokenizer_grow.h"
#include "base/utf8.h"

#include <stdint.h>
#include <string.h>

struct text {
    const char *s; /* borrowed UTF-8, whole characters */
    size_t n;
    const uint32_t *origin; /* borrowed, n of them; NULL: byte i is byte base + i of the original */
    uint32_t base;
};

static inline uint32_t text_origin(const struct text *t, size_t i)
{
    if (t->origin) return t->origin[i];
    while (i > 0 && !utf8_is_start(t->s[i])) i--;
    return t->base + (uint32_t)i;
}

static inline struct text text_slice(const struct text *t, size_t begin, size_t end)
{
    return (struct text){
        t->s + begin, end - begin, t->origin ? t->origin + begin : NULL, t->base + (uint32_t)begin};
}

/* Rewritten text under construction; owned arrays. `struct text_buf b = {0};` is empty. */
struct text_buf {
    char *s;
    uint32_t *origin;
    size_t n, cap_s, cap_origin;
};

static inline void text_buf_clear(struct text_buf *b)
{
    free(b->s);
    free(b->origin);
    *b = (struct text_buf){0};
}

static inline struct text text_buf_get(const struct text_buf *b)
{
    return (struct text){b->n ? b->s : "", b->n, b->n ? b->origin : NULL, 0};
}

static inline enum status text_buf_reserve(struct text_buf *b, size_t extra)
{
    if (b->n + extra > UINT32_MAX)
        return fail(ERR_ARG, "tokenizer: a text of more than 4 GiB after normalisation");
    TRY(GROW(b->s, b->cap_s, b->n + extra));
    return GROW(b->origin, b->cap_origin, b->n + extra);
}

/* Append n bytes that all come from one place. */
static inline enum status text_buf_add(struct text_buf *b, const char *s, size_t n, uint32_t origin)
{
    TRY(text_buf_reserve(b, n));
    memcpy(b->s + b->n, s, n);
    for (size_t i = 0; i < n; i++) b->origin[b->n + i] = origin;
    b->n += n;
    return OK;
}

/* Append a stretch of another text. */
static inline enum status text_buf_copy(
    struct text_buf *b, const struct text *t, size_t begin, size_t end)
{
    size_t n = end - begin;
    TRY(text_buf_reserve(b, n));
    if (n > 0) memcpy(b->s + b->n, t->s + begin, n);
    if (t->origin) {
        if (n > 0) memcpy(b->origin + b->n, t->origin + begin, n * sizeof *b->origin);
    } else {
        uint32_t start = 0;
        for (size_t i = begin; i < end; i++) {
            if (utf8_is_start(t->s[i])) start = t->base + (uint32_t)i;
            b->origin[b->n + i - begin] = start;
        }
    }
    b->n += n;
    return OK;
}

#endif

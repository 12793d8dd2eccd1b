/* A growable byte string. Always zero-terminated, may also hold zero bytes.
 *
 * Growth that fails ends the program (xmalloc.h). Large buffers use arenas or mmap, which do fail
 * politely.
 */
#ifndef SG_BASE_STR_H
#define SG_BASE_STR_H

#include "base/status.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct str {
    char *data; /* owned; NULL only before the first write */
    size_t len; /* bytes, without the terminating zero */
    size_t cap;
};

/* `struct str s = {0};` is a valid empty string. */
void str_clear(struct str *s);                 /* free everything, back to {0} */
void str_reset(struct str *s);                 /* length 0, memory kept */
void str_reserve(struct str *s, size_t extra); /* room for `extra` more bytes */
void str_add(struct str *s, const char *text); /* append a C string */
void str_add_bytes(struct str *s, const void *bytes, size_t len);
void str_add_char(struct str *s, char c);
void str_addf(struct str *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
void str_addv(struct str *s, const char *fmt, va_list args) PRINTF_LIKE(2, 0);
const char *str_get(const struct str *s); /* never NULL */
/* `before`, and the shortest text that reads back as the same number. */
void str_add_number(struct str *s, const char *before, double value);

bool str_starts_with(const char *s, const char *prefix);
bool str_ends_with(const char *s, const char *suffix);
/* Equal texts; a text that is missing (NULL) equals nothing but another that is missing. */
bool text_same(const char *a, const char *b);

/* Significant digits, at least `least`, that two different numbers need to look different. */
int digits_apart(double a, double b, int least);

/* A heap copy of `fmt`; the caller frees it. */
char *str_format(const char *fmt, ...) PRINTF_LIKE(1, 2);
char *str_dup(const char *s);

/* Texts that somebody else owns, in the order they were given. */
struct text_list {
    const char *items[64];
    int n;
};

#endif

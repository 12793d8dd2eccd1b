/* UTF-8 by the byte: decode, encode, and the repair of text that is not UTF-8.
 *
 * Repair follows Unicode 3.9 "maximal subpart" practice, as Python's bytes.decode(errors="replace")
 * and Rust's from_utf8_lossy do: one U+FFFD for each longest run that begins a well-formed
 * character and does not finish it, one for each other stray byte.
 */
#ifndef SG_BASE_UTF8_H
#define SG_BASE_UTF8_H

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT 0xFFFDu

/* Read one character from s[0..n), n >= 1. Returns its length 1…4 and the code point in *cp; for
 * bytes that are not UTF-8 *cp is UINT32_MAX and the return value the length of the maximal
 * subpart, 1…3. */
size_t utf8_read(const char *s, size_t n, uint32_t *cp);

/* Write one code point (a scalar value: no surrogate, at most 0x10FFFF); returns the length 1…4. */
size_t utf8_write(uint32_t cp, char out[4]);
void utf8_add(struct str *out, uint32_t cp);

/* Whether all of s is UTF-8; otherwise *bad (may be NULL) is the offset of the first wrong byte. */
bool utf8_valid(const char *s, size_t n, size_t *bad);

/* Append s to `out` with every wrong sequence replaced; returns the number of replacements. */
size_t utf8_repair(struct str *out, const char *s, size_t n);

/* Make everything from `from` on UTF-8, in place. */
void utf8_repair_in(struct str *s, size_t from);

/* Append a text that somebody else wrote, for a terminal or a log: on one line ("⏎" for a new one),
 * control characters and those that turn the direction of writing as "·", and what is no UTF-8 as
 * U+FFFD, so that it can neither move the cursor, begin a line of its own nor read as another. */
void utf8_add_shown(struct str *out, const char *text);
/* The same as a heap string, which the caller frees. */
char *utf8_shown(const char *text);

/* Length of the character that starts at a byte of valid UTF-8. */
static inline size_t utf8_length(unsigned char first)
{
    return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

static inline bool utf8_is_start(char c) { return ((unsigned char)c & 0xC0) != 0x80; }

#endif

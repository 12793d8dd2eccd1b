#include "base/utf8.h"

#include <string.h>

size_t utf8_read(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *p = (const unsigned char *)s;
    unsigned first = p[0];
    if (first < 0x80) {
        *cp = first;
        return 1;
    }
    *cp = UINT32_MAX;
    if (first < 0xC2 || first > 0xF4) return 1;
    size_t length = utf8_length((unsigned char)first);
    /* the second byte rules out overlong forms, surrogates and values above 0x10FFFF */
    unsigned lo = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    unsigned hi = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    uint32_t value = first & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if (i >= n || p[i] < lo || p[i] > hi) return i;
        value = value << 6 | (p[i] & 0x3Fu);
        lo = 0x80;
        hi = 0xBF;
    }
    *cp = value;
    return length;
}

size_t utf8_write(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t length = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = length - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3F));
    out[0] = (char)((0xF00u >> length & 0xF0u) | cp);
    return length;
}

void utf8_add(struct str *out, uint32_t cp)
{
    char bytes[4];
    str_add_bytes(out, bytes, utf8_write(cp, bytes));
}

/* The number of ASCII bytes at the start of s, in steps of eight. */
static size_t ascii_run(const char *s, size_t n)
{
    size_t i = 0;
    for (uint64_t word; i + sizeof word <= n; i += sizeof word) {
        memcpy(&word, s + i, sizeof word);
        if (word & 0x8080808080808080u) break;
    }
    while (i < n && !(s[i] & 0x80)) i++;
    return i;
}

/* The length of the valid start of s. */
static size_t valid_run(const char *s, size_t n)
{
    size_t i = ascii_run(s, n);
    while (i < n) {
        uint32_t cp;
        size_t length = utf8_read(s + i, n - i, &cp);
        if (cp == UINT32_MAX) return i;
        i += length;
        if (cp < 0x80) i += ascii_run(s + i, n - i);
    }
    return i;
}

bool utf8_valid(const char *s, size_t n, size_t *bad)
{
    size_t good = valid_run(s, n);
    if (bad) *bad = good;
    return good == n;
}

size_t utf8_repair(struct str *out, const char *s, size_t n)
{
    size_t n_replaced = 0;
    str_reserve(out, n);
    for (;;) {
        size_t good = valid_run(s, n);
        str_add_bytes(out, s, good);
        s += good;
        n -= good;
        if (n == 0) return n_replaced;
        uint32_t cp;
        size_t bad = utf8_read(s, n, &cp);
        utf8_add(out, UTF8_REPLACEMENT);
        n_replaced++;
        s += bad;
        n -= bad;
    }
}

void utf8_repair_in(struct str *s, size_t from)
{
    struct str good = {0};
    if (s->len <= from || utf8_valid(s->data + from, s->len - from, NULL)) return;
    utf8_repair(&good, s->data + from, s->len - from);
    s->len = from;
    str_add_bytes(s, good.data, good.len);
    str_clear(&good);
}

/* Moves the cursor, begins a line, or shows what follows in another order. */
static bool steers(uint32_t cp)
{
    return cp < 0x20 || (cp >= 0x7f && cp < 0xa0) || (cp >= 0x200e && cp <= 0x200f) ||
        (cp >= 0x2028 && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069);
}

void utf8_add_shown(struct str *out, const char *text)
{
    for (size_t n = strlen(text), len; n > 0; text += len, n -= len) {
        uint32_t cp;
        len = utf8_read(text, n, &cp);
        if (cp == '\n') str_add(out, "\xe2\x8f\x8e");
        else if (steers(cp)) str_add(out, "\xc2\xb7");
        else utf8_add(out, cp == UINT32_MAX ? UTF8_REPLACEMENT : cp);
    }
}

char *utf8_shown(const char *text)
{
    struct str out = {0};
    str_reserve(&out, 1);
    utf8_add_shown(&out, text);
    return out.data;
}

#include "base/str.h"

#include "base/xmalloc.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void str_clear(struct str *s)
{
    free(s->data);
    *s = (struct str){0};
}

void str_reset(struct str *s)
{
    s->len = 0;
    if (s->data) s->data[0] = 0;
}

void str_reserve(struct str *s, size_t extra)
{
    size_t need = s->len + extra + 1;
    if (need <= s->cap) return;
    size_t cap = s->cap ? s->cap : 64;
    while (cap < need) cap *= 2;
    char *p = xrealloc(s->data, cap);
    if (!s->data) p[0] = 0;
    s->data = p;
    s->cap = cap;
}

void str_add_bytes(struct str *s, const void *bytes, size_t len)
{
    str_reserve(s, len);
    if (len) memcpy(s->data + s->len, bytes, len);
    s->len += len;
    s->data[s->len] = 0;
}

void str_add(struct str *s, const char *text) { str_add_bytes(s, text, strlen(text)); }
void str_add_char(struct str *s, char c) { str_add_bytes(s, &c, 1); }
const char *str_get(const struct str *s) { return s->data ? s->data : ""; }

void str_addv(struct str *s, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    str_reserve(s, 64);
    size_t room = s->cap - s->len;
    int n = vsnprintf(s->data + s->len, room, fmt, ap);
    if (n >= 0 && (size_t)n >= room) {
        str_reserve(s, (size_t)n);
        vsnprintf(s->data + s->len, (size_t)n + 1, fmt, again);
    }
    if (n > 0) s->len += (size_t)n;
    s->data[s->len] = 0;
    va_end(again);
}

void str_addf(struct str *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    str_addv(s, fmt, ap);
    va_end(ap);
}

void str_add_number(struct str *s, const char *before, double value)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    str_add(s, before);
    str_add(s, text);
}

bool str_starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

char *str_format(const char *fmt, ...)
{
    struct str s = {0};
    str_reserve(&s, 0);
    s.data[0] = 0;
    va_list ap;
    va_start(ap, fmt);
    str_addv(&s, fmt, ap);
    va_end(ap);
    return s.data;
}

char *str_dup(const char *s) { return str_format("%s", s); }

int digits_apart(double a, double b, int least)
{
    char x[40], y[40];
    for (int digits = least; digits < 17; digits++) {
        snprintf(x, sizeof x, "%.*g", digits, a);
        snprintf(y, sizeof y, "%.*g", digits, b);
        if (a == b || strcmp(x, y) != 0) return digits;
    }
    return 17;
}

bool text_same(const char *a, const char *b) { return !a || !b ? a == b : !strcmp(a, b); }

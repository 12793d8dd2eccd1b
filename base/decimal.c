#include "base/decimal.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST_DIGITS = 18, MOST_EXPONENT = 300 };

/* Without zeros at the end: one number, one form. */
static struct decimal decimal_tidy(struct decimal d)
{
    while (d.digits != 0 && d.digits % 10 == 0) {
        d.digits /= 10;
        d.places--;
    }
    if (d.digits == 0) d.places = 0;
    return d;
}

bool decimal_read(const char **text, struct decimal *out)
{
    const char *p = *text;
    struct decimal d = {0, 0};
    bool negative = *p == '-', any = false, point = false;
    int n = 0;
    if (*p == '-' || *p == '+') p++;
    for (; (*p >= '0' && *p <= '9') || (*p == '.' && !point); p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        any = true;
        n += n > 0 || *p != '0';
        if (n > MOST_DIGITS) return false;
        d.digits = 10 * d.digits + (*p - '0');
        d.places += point;
    }
    if (!any) return false;
    if (*p == 'e' || *p == 'E') {
        const char *digits = p + 1 + (p[1] == '-' || p[1] == '+');
        if (*digits >= '0' && *digits <= '9') {
            char *end;
            long exponent = strtol(p + 1, &end, 10);
            if (exponent > MOST_EXPONENT || exponent < -MOST_EXPONENT) return false;
            d.places -= (int)exponent;
            p = end;
        }
    }
    if (d.places > 2 * MOST_EXPONENT) return false;
    if (negative) d.digits = -d.digits;
    *out = decimal_tidy(d);
    *text = p;
    return true;
}

static bool decimal_shift(struct decimal *d, int places)
{
    for (; d->places < places; d->places++)
        if (d->digits != 0 && __builtin_mul_overflow(d->digits, (__int128)10, &d->digits))
            return false;
    return true;
}

bool decimal_add(struct decimal a, struct decimal b, struct decimal *out)
{
    int places = a.places > b.places ? a.places : b.places;
    if (!decimal_shift(&a, places) || !decimal_shift(&b, places) ||
        __builtin_add_overflow(a.digits, b.digits, &a.digits))
        return false;
    *out = decimal_tidy(a);
    return true;
}

bool decimal_multiply(struct decimal a, struct decimal b, struct decimal *out)
{
    if (__builtin_mul_overflow(a.digits, b.digits, &a.digits)) return false;
    a.places += b.places;
    *out = decimal_tidy(a);
    return true;
}

int decimal_compare(struct decimal a, struct decimal b, bool *ok)
{
    struct decimal difference;
    b.digits = -b.digits;
    *ok = decimal_add(a, b, &difference);
    return !*ok ? 0 : (difference.digits > 0) - (difference.digits < 0);
}

double decimal_value(struct decimal d)
{
    char digits[48], text[64];
    bool negative = d.digits < 0;
    unsigned __int128 rest = negative ? -(unsigned __int128)d.digits : (unsigned __int128)d.digits;
    int at = (int)sizeof digits;
    digits[--at] = 0;
    do digits[--at] = (char)('0' + (int)(rest % 10));
    while ((rest /= 10) != 0);
    snprintf(text, sizeof text, "%s%se%d", negative ? "-" : "", digits + at, -d.places);
    return strtod(text, NULL);
}

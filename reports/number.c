#include "reports/table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static unsigned decode(const unsigned char *p, int *len)
{
    static const unsigned char first[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    int n = *p < 0x80 ? 1 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : 4;
    unsigned code = *p & first[n];
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) { /* cut short: one stray byte */
            *len = 1;
            return 0xfffd;
        }
        code = code << 6 | (p[i] & 0x3f);
    }
    *len = n;
    return code;
}

struct range {
    unsigned lo, hi;
};

static bool in_ranges(unsigned code, const struct range *r, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (code >= r[i].lo && code <= r[i].hi) return true;
    return false;
}

size_t text_columns(const char *utf8)
{
    /* the large blocks of the Unicode tables; a rare character may stand one column off */
    static const struct range nothing[] = {{0x0300, 0x036f}, {0x0483, 0x0489}, {0x0591, 0x05bd},
        {0x0610, 0x061a}, {0x064b, 0x065f}, {0x1ab0, 0x1aff}, {0x1dc0, 0x1dff}, {0x200b, 0x200f},
        {0x202a, 0x202e}, {0x2060, 0x2064}, {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f},
        {0xe0100, 0xe01ef}};
    static const struct range wide[] = {{0x1100, 0x115f}, {0x2e80, 0x303e}, {0x3041, 0xa4cf},
        {0xac00, 0xd7a3}, {0xf900, 0xfaff}, {0xfe30, 0xfe6f}, {0xff00, 0xff60}, {0xffe0, 0xffe6},
        {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd}};
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)utf8; *p;) {
        int len;
        unsigned code = decode(p, &len);
        p += len;
        if (in_ranges(code, nothing, sizeof nothing / sizeof *nothing)) continue;
        n += in_ranges(code, wide, sizeof wide / sizeof *wide) ? 2 : 1;
    }
    return n;
}

static void format_bytes(double value, int digits, struct str *out)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    while (fabs(value) >= 1024 && u < 4) {
        value /= 1024;
        u++;
    }
    str_addf(out, "%.*f %s", u ? digits : 0, value, units[u]);
}

static void format_seconds(double value, int digits, struct str *out)
{
    double size = fabs(value);
    if (size >= 120) str_addf(out, "%.*f min", digits, value / 60);
    else if (size >= 1 || size == 0) str_addf(out, "%.*f s", digits, value);
    else if (size >= 1e-3) str_addf(out, "%.*f ms", digits, value * 1e3);
    else str_addf(out, "%.*f us", digits, value * 1e6);
}

void number_format(enum table_number number, int digits, double value, struct str *out)
{
    if (isnan(value)) {
        str_add(out, "-");
        return;
    }
    if (isinf(value)) {
        str_add(out, value > 0 ? "inf" : "-inf");
        return;
    }
    switch (number) {
    case NUMBER_BYTES: format_bytes(value, digits, out); return;
    case NUMBER_SECONDS: format_seconds(value, digits, out); return;
    case NUMBER_PERCENT: str_addf(out, "%.*f %%", digits, 100 * value); return;
    case NUMBER_SHORT: str_addf(out, "%.*g", digits, value); return;
    case NUMBER_FIXED: break;
    }
    /* something that is not nothing is not printed as 0.0000 */
    if (value != 0 && fabs(value) < .5 * pow(10, -digits)) str_addf(out, "%.1e", value);
    else str_addf(out, "%.*f", digits, value);
}

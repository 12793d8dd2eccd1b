#include "reports/table.h"

#include <math.h>
#include <stdio.h>

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
    /* something that is not nothing is not printed as 0.0000, nor a number that only says
     * "anything" (an interval's end from two texts) with all of its digits */
    if ((value != 0 && fabs(value) < .5 * pow(10, -digits)) || (digits > 0 && fabs(value) >= 1e9))
        str_addf(out, "%.1e", value);
    else str_addf(out, "%.*f", digits, value);
}

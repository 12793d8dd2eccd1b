#include "reports/break_even.h"

#include <math.h>

enum break_even_side break_even_read(
    const struct metric_record *m, enum break_even_part part, double *length)
{
    const double value[] = {m->mean, m->lo, m->hi}, at_most[] = {m->max, m->p5, m->p99},
                 more_than[] = {m->min, m->p1, m->p95};
    *length = value[part];
    if (value[part] > 0) return BREAK_EVEN_WITHIN;
    /* rows of earlier versions: faster from the first length on, which they did not name */
    if (value[part] == 0) {
        *length = NAN;
        return BREAK_EVEN_BELOW;
    }
    *length = !isnan(at_most[part]) ? at_most[part] : more_than[part];
    if (!isnan(at_most[part])) return BREAK_EVEN_BELOW;
    if (!isnan(more_than[part])) return BREAK_EVEN_ABOVE;
    return BREAK_EVEN_UNKNOWN;
}

void break_even_word(const struct metric_record *m, enum break_even_part part, struct str *out)
{
    double length;
    switch (break_even_read(m, part, &length)) {
    case BREAK_EVEN_WITHIN: str_addf(out, "%.0f", length); break;
    case BREAK_EVEN_ABOVE: str_addf(out, "> %.0f", length); break;
    case BREAK_EVEN_BELOW:
        if (isnan(length)) str_add(out, "below all measured");
        else str_addf(out, part == BREAK_EVEN_AT ? "at most %.0f" : "< %.0f", length);
        break;
    case BREAK_EVEN_UNKNOWN: str_add(out, "-"); break;
    }
}

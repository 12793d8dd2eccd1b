/* The length from which on sparse is faster, as people read it. See struct metric_record for how it
 * is stored. */
#ifndef SG_REPORTS_BREAK_EVEN_H
#define SG_REPORTS_BREAK_EVEN_H

#include "reports/view.h"

#define BREAK_EVEN "break_even_length"

/* The length itself, or the low or high end of its interval. */
enum break_even_part { BREAK_EVEN_AT, BREAK_EVEN_LO, BREAK_EVEN_HI };
/* Where it lies: within the measured lengths, at the shortest or below, above the longest, or
 * nothing is known. */
enum break_even_side { BREAK_EVEN_UNKNOWN, BREAK_EVEN_BELOW, BREAK_EVEN_WITHIN, BREAK_EVEN_ABOVE };

/* *length: where it lies within; else the shortest or longest that was measured, NAN in a row that
 * does not tell. */
enum break_even_side break_even_read(
    const struct metric_record *m, enum break_even_part part, double *length);
/* "275", "at most 256", "> 4096", "< 256" (an end of the interval), "-"; appended. */
void break_even_word(const struct metric_record *m, enum break_even_part part, struct str *out);

#endif

/* Where the number behind each bound comes from: a metric of the run, a time, memory, or a change
 * from a baseline; and what it says of that bound. For reports/gate.c alone.
 */
#ifndef SG_REPORTS_GATE_READING_H
#define SG_REPORTS_GATE_READING_H

#include "reports/compare.h"
#include "reports/view.h"

#include <stdbool.h>

enum gate_part {
    PART_MEAN,            /* a metric's value, percentiles among them */
    PART_RATIO_MINUS_ONE, /* a ratio's excess */
    PART_WORST,           /* the largest of all samples: of these texts, not of others */
    PART_LATENCY,
    PART_MEMORY,
    PART_RISE,
    PART_DROP,
    PART_LATENCY_RISE,
    PART_MEMORY_RISE
};

enum gate_kind {
    READING_INTERVAL,    /* judged by what others like it would show */
    READING_NO_INTERVAL, /* would be, but there is none: one sample */
    READING_VALUE,       /* what it is, and no estimate of anything */
};

struct gate_reading {
    enum gate_kind kind;
    double value, lo, hi; /* lo, hi NAN: that end is not known */
    double above, below;  /* how often data like these come about when the truth is the bound:
                             evidence that it is above, or  below */
    /* about so many samples, in four cases of five; NAN not known, INFINITY none */
    double would_decide;
    bool within_floor; /* not told apart from the noise of this machine */
    /* `missing` says why this cannot be asked here; else why the number is not there */
    bool not_applicable;
    char *missing; /* owned; NULL when there is a value */
    /* the interval is over repeated passes of one prompt, not over samples */
    bool of_repeats;
    size_t n_samples; /* behind the interval; repeated passes where it is over those */
};

struct gate_subject;
/* c: the comparison with the baseline; NULL where there is none, and why_not says what stands in
 * the way. */
struct gate_reading gate_read(enum gate_part part, const char *metric, double bound,
    const struct gate_subject *s, const struct comparison *c, const char *why_not);

#endif

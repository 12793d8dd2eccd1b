/* Where the number behind each bound comes from: a metric of the run, a time, memory, or a change from a baseline.
 * For reports/gate.c alone.
 */
#ifndef SG_REPORTS_GATE_READING_H
#define SG_REPORTS_GATE_READING_H

#include "reports/compare.h"
#include "reports/view.h"

#include <stdbool.h>

enum gate_part {
    PART_MEAN,
    PART_P1,
    PART_P99_9,
    PART_RATIO_MINUS_ONE,
    PART_LATENCY,
    PART_MEMORY,
    PART_RISE,
    PART_DROP,
    PART_LATENCY_RISE,
    PART_MEMORY_RISE
};

struct gate_reading {
    double value, lo, hi;  /* lo, hi NAN: no interval */
    bool expects_interval; /* one would be there with more samples */
    bool within_floor;     /* not told apart from the noise of this machine */
    bool not_applicable;   /* `missing` says why this cannot be asked here; else why the number is not there */
    char *missing;         /* owned; NULL when there is a value */
    bool of_repeats;       /* the interval is over repeated passes of one prompt, not over samples */
    size_t n_samples;      /* behind the interval; repeated passes where it is over those */
};

/* baseline and c (the comparison of the two) may be NULL; why_not then says what stands in the way. */
struct gate_reading gate_read(enum gate_part part, const char *metric, const struct run_view *run,
                              const struct run_view *baseline, const struct comparison *c, const char *why_not);

#endif

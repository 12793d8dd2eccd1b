/* One line of progress on stderr: what, how far, rate, time left. Silent when stderr is no terminal
 * and for the first two seconds. */
#ifndef SG_HARNESS_MEASURE_PROGRESS_H
#define SG_HARNESS_MEASURE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what, *unit; /* borrowed: "tune", "heads" */
    double total;
    int64_t started_ns, shown_ns;
    bool quiet, drawn;
};

void progress_begin(
    struct progress *p, const char *what, const char *unit, double total, bool quiet);
void progress_update(struct progress *p, double done);
/* Clears the line. */
void progress_end(struct progress *p);

#endif

/* The tuner's error curves of one head of a run, read back from the database for its report. */
#ifndef SG_HARNESS_MEASURE_REPORT_CURVES_H
#define SG_HARNESS_MEASURE_REPORT_CURVES_H

#include "kernels/curve.h"
#include "reports/report.h"

struct report_curves {
    struct error_curve lines[N_THETAS]; /* thresholds that choose other tiles than the one before */
    double kept[N_THETAS][N_TAUS], error[N_THETAS][N_TAUS];
    char label[160];
    struct curve_set set; /* n 0: the run was not tuned, or its curves are not in this database */
};

/* The sparse head with the largest held-out error of the run named `run`, on the first sample it
 * was tuned on. Tells nothing (set.n = 0) where curves of several tunings leave open which are
 * meant. */
enum status report_curves_load(
    struct store *s, const char *run, struct report_curves *out) MUST_USE;
/* Hands them to a report; the curves must outlive it. */
void report_curves_offer(const struct report_curves *c, struct report_options *o);

#endif

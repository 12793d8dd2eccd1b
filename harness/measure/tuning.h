/* A tuning as commands ask for it: tuning samples, check samples, and samples that are looked at
 * once, at the end. */
#ifndef SG_HARNESS_MEASURE_TUNING_H
#define SG_HARNESS_MEASURE_TUNING_H

#include "harness/measure/setup.h"

/* How many samples a tuning wants of each kind, in this order. */
struct tuning_samples {
    int n_tune, n_check, n_held_out;
};

/* When there are only `n` samples, each kind gets its part of them, and at least one where one was
 * asked for. ERR_ARG when that cannot be; `name` is the data's. */
enum status tuning_split(struct tuning_samples *want, int n, const char *name) MUST_USE;

/* tune() over the fleet, and what the thresholds do on the held-out samples entered into each of
 * out[a->n_bounds]. a->samples: all n_tune + n_check + n_held_out of them, whose field `check` is
 * looked at by nobody.
 *
 * coverage 0: a head whose bound does not hold on a check sample is backed off until it does. Above
 * 0: the bounds are tightened by one factor for all heads, to where that share of the pairs of a
 * head and a check sample holds the bounds that were asked for, as the lower end of the share's 80
 * % interval; ERR_ARG when no factor does. */
enum status tuning_run(const struct setup *fleet, int n_fleet, const struct machine_options *m,
    const struct tune_args *a, struct tuning_samples samples, double coverage, struct tuned *out,
    struct tune_times *times) MUST_USE;

#endif

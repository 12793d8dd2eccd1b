/* The stored runs of a sweep, also those that an earlier sweep or a single eval had made. */
#ifndef SG_HARNESS_SWEEP_PLAN_RUNS_H
#define SG_HARNESS_SWEEP_PLAN_RUNS_H

#include "results/query.h"

/* Runs that fit the filter; with filter->plan those whose key is among the plan's cells. ERR_ARG
 * names the known plans when there is none of that name. */
enum status plan_runs(
    struct store *s, const struct run_filter *filter, struct run_list *out) MUST_USE;

#endif

/* One cell: a model, a set of samples and a policy become the rows of a run. */
#ifndef SG_HARNESS_MEASURE_EVALUATE_H
#define SG_HARNESS_MEASURE_EVALUATE_H

#include "harness/measure/evaluation.h"

/* Of a set that is compared; one that is timed goes to latency_measure(). */
enum status evaluate(const struct evaluate_args *a, struct evaluation *out) MUST_USE;

#endif

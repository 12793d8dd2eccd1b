/* Tuned thresholds in the results database. */
#ifndef SG_HARNESS_MEASURE_TUNED_DB_H
#define SG_HARNESS_MEASURE_TUNED_DB_H

#include "engine/tuner/tuned.h"
#include "results/store.h"

/* The thresholds a run used, kept beside it. json: as tuned_print() gives it, NULL: asked of it. */
enum status store_tuned(
    struct store *s, const struct tuned *t, const char *hash, const char *json) MUST_USE;

#endif

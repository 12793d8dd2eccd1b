/* The noise floor: dense against dense, run in other ways that must not matter (METHOD 6). A
 * difference that is no larger than these says nothing about sparsity. */
#ifndef SG_HARNESS_MEASURE_NOISE_H
#define SG_HARNESS_MEASURE_NOISE_H

#include "harness/measure/setup.h"
#include "results/store.h"

enum { NOISE_SOURCES = 4, NOISE_METRICS = 11 };

struct noise_result {
    struct noise_record rows[NOISE_SOURCES * NOISE_METRICS];
    int n;
    /* sources that this machine does not have, and why; "" when measured */
    char skipped[NOISE_SOURCES][96];
};

/* Runs the set once as the machine options say, then with another number of threads ("threads"), in
 * another prefill chunk and through the sparse kernel with every tile kept ("chunk", "tile order"),
 * and with another instruction set ("backend"). A row is the largest distance from the perfect
 * value over the samples. */
enum status noise_measure(const struct setup *setup, const struct machine_options *machine,
    const struct sample_set *set, bool (*stop)(void *), struct noise_result *out) MUST_USE;

/* Keeps the rows for this machine and model. */
enum status noise_store(struct store *s, const struct noise_result *r) MUST_USE;

#endif

/* What tuned thresholds cost end to end, so that choices can be set beside each other. */
#ifndef SG_HARNESS_MEASURE_TUNING_COST_H
#define SG_HARNESS_MEASURE_TUNING_COST_H

#include "harness/measure/setup.h"

struct tuning_cost {
    double sparsity;         /* counted in these runs, of all layers */
    double cosine;           /* of dense and sparse logits */
    double kl, kl_lo, kl_hi; /* nats; 95 % interval over texts, NAN of a single one */
    double ppl_ratio;        /* perplexity, sparse / dense */
};

/* Every choice of t[0 … n) on the samples [first, first + n_samples) of the set; their dense passes
 * are made once. out: [n]. */
enum status tuning_costs(const struct setup *setup, const struct machine_options *m,
    const struct sample_set *set, int first, int n_samples, const struct tuned *t, int n,
    struct tuning_cost *out) MUST_USE;

#endif

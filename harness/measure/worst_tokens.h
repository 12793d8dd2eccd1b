/* The positions where dense and sparse disagree most, kept while samples pass by. */
#ifndef SG_HARNESS_MEASURE_WORST_TOKENS_H
#define SG_HARNESS_MEASURE_WORST_TOKENS_H

#include "engine/engine.h"
#include "kernels/compare.h"
#include "base/arena.h"
#include "results/records.h"
#include "suites/suite.h"

struct worst_entry {
    int sample, position;
    struct token_metrics metrics;
    double row_sparsity;
    float *hidden[2]; /* dense, sparse; [width] */
};

struct worst_tokens {
    struct worst_entry *entries; /* falling KL */
    int n, cap, width;
};

enum status worst_tokens_init(struct worst_tokens *w, int n_kept, int width) MUST_USE;
void worst_tokens_clear(struct worst_tokens *w);

/* Look at one sample, whose hidden states are rows of these. row_sparsity: [n / block_q rounded up]
 * of the query block rows; NULL when it ran dense. */
enum status worst_tokens_offer(struct worst_tokens *w, int sample, int n,
    const struct token_metrics *tokens, const struct resident *dense, const struct resident *sparse,
    const double *row_sparsity, int block_q) MUST_USE;

/* Rows with context, texts and both top five, in the arena. */
enum status worst_tokens_records(const struct worst_tokens *w, const struct model *m,
    const struct sample_set *set, struct session *s, struct arena **arena,
    struct worst_token_record **out) MUST_USE;

#endif

/* How far a GPU is from the CPU on the same samples: tiles chosen, logits, work counted.
 *
 * The CPU's run is kept sample by sample (hidden states and maps), the GPU's is compared with it as
 * it goes.
 */
#ifndef SG_HARNESS_MEASURE_PARITY_H
#define SG_HARNESS_MEASURE_PARITY_H

#include "engine/engine.h"
#include "harness/measure/measure.h"
#include "suites/suite.h"

/* The maps of one pass in the order of their layers and chunks. */
struct map_log {
    struct logged_map *maps; /* owned */
    int n, cap;
};
enum status map_log_add(struct map_log *l, const struct layer_view *view) MUST_USE;
void map_log_clear(struct map_log *l);

/* Tiles that both chose over tiles that either chose, for every head that the policy runs sparse.
 */
struct jaccard {
    double sum, min; /* of n heads and maps; min 1 when there is none */
    int64_t n;
};
/* Adds to *out. The second pass may have cut the sequence into more chunks. ERR_ARG when the two
 * logs are not of the same layers and rows. */
enum status map_log_compare(const struct map_log *a, const struct map_log *b,
    const struct sparse_policy *policy, struct jaccard *out) MUST_USE;

struct parity_result {
    struct jaccard masks;
    double logits_error[2]; /* dense, sparse: ‖z − z̃‖ / ‖z‖ over all positions */
    double top1[2], kl[2];  /* the same: share of equal argmax; mean, nats */
    double sparsity[2];     /* CPU, GPU: counted */
    int64_t n_tokens;
};

struct parity {
    const struct sample_set *set;
    const struct sparse_policy *policy;
    size_t width;
    bool second;                 /* the GPU's turn */
    struct kept_sample *samples; /* [set->n_samples] of the CPU; owned */
    struct map_log log;          /* of the present sample on the GPU */
    struct tensor_sums sums[2];
    double agree[2], kl[2];
    struct parity_result result;
};

/* Borrows what it is given. Memory: two f32 states and the maps of every sample. */
enum status parity_open(struct parity *p, const struct llama_config *c,
    const struct sample_set *set, const struct sparse_policy *policy) MUST_USE;
void parity_close(struct parity *p);

/* For evaluate(): each sparse layer of a sample, then its final states on both sides. */
enum status parity_layer(struct parity *p, int sample, const struct layer_view *view) MUST_USE;
enum status parity_sample(struct parity *p, int sample, struct session *s, const float *dense,
    const float *sparse, const int32_t *next) MUST_USE;
/* The run's counts; behind the second run p->result is complete and its rows are added. */
void parity_finish(struct parity *p, const struct head_ledger *total, struct metric_rows *m);

#endif

/* From per-token numbers to samples, their tails, and metric rows with distributions (METHOD 6).
 *
 * Values and intervals are those of results/estimates.h, from the very samples that are stored;
 * with one sample there is no interval. Strings and rows live in the arena.
 */
#ifndef SG_HARNESS_MEASURE_MEASURE_H
#define SG_HARNESS_MEASURE_MEASURE_H

#include "kernels/attn.h"
#include "kernels/compare.h"
#include "base/arena.h"
#include "base/par.h"
#include "results/estimates.h"
#include "suites/suite.h"

struct metric_rows {
    struct arena **arena;
    struct metric_record *rows;
    size_t n, cap;
};

/* A row with nothing but scope, name and n; valid until the next one is added. */
struct metric_record *metric_rows_add(
    struct metric_rows *m, const char *scope, const char *name, int64_t n);

/* Everything measured of a set, ready to be summarised. */
struct measured {
    const struct sample_set *set;
    const struct token_metrics *const *tokens; /* [n_samples][n] */
    struct estimate_source source;             /* what is stored of them, but for questions */
    struct par *par;                           /* NULL: one thread */
};

struct sample_record measure_sample(int index, const struct sample *x,
    const struct token_metrics *tokens, const struct tensor_sums *sums,
    const struct head_ledger *ledger);

/* Scope "overall": every per-position metric, the pooled ones, perplexities. Scope
 * "position:first-last" for positions from one of edges [n_stretches + 1] up to the next: cosine,
 * kl, nll, agreement; nothing when no sample reaches there. */
void measure_tokens(
    struct metric_rows *m, const struct measured *in, const int *edges, int n_stretches);
/* sparsity, qk_sparsity, pv_sparsity over all possible work. */
void measure_sparsity(struct metric_rows *m, const struct measured *in);
/* score_dense, score_sparse (share right), score_drop = dense - sparse, and the flips both ways,
 * answers_lost and answers_gained. norm: by scores per byte, "_norm" behind the names. */
void measure_items(struct metric_rows *m, const struct item_record *items, int n_items, bool norm);

/* The worst positions of every sample, as many as percentiles and their intervals need. */
struct tail_record *measure_tails(const struct sample_set *set,
    const struct token_metrics *const *tokens, const struct sample_record *samples, struct par *par,
    struct arena **arena, size_t *n_tails);

#endif

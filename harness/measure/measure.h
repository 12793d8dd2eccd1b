/* From per-token numbers to metric rows with distributions and intervals (METHOD 6).
 *
 * Intervals are 95 % percentile bootstraps that resample whole samples; with one sample there is none. Strings and
 * rows live in the arena.
 */
#ifndef SG_HARNESS_MEASURE_MEASURE_H
#define SG_HARNESS_MEASURE_MEASURE_H

#include "kernels/attn.h"
#include "kernels/compare.h"
#include "base/arena.h"
#include "results/records.h"
#include "suites/suite.h"

struct metric_rows {
    struct arena **arena;
    struct metric_record *rows;
    size_t n, cap;
};

/* A row with nothing but scope, name and n; valid until the next one is added. */
struct metric_record *metric_rows_add(struct metric_rows *m, const char *scope, const char *name, int64_t n);

/* Everything measured of a set, ready to be summarised. */
struct measured {
    const struct sample_set *set;
    const struct token_metrics *const *tokens; /* [n_samples][n] */
    const struct tensor_sums *sums;            /* [n_samples] */
    const struct sample_record *samples;       /* [n_samples] */
    int n_resamples;
    uint64_t seed;
};

struct sample_record measure_sample(int index, const struct sample *x, const struct token_metrics *tokens,
                                    const struct tensor_sums *sums, const struct head_ledger *ledger);

/* Scope "overall": every per-position metric, the pooled ones, perplexities. */
void measure_overall(struct metric_rows *m, const struct measured *in);
/* Scope "position:first-last" for positions in [first, end): cosine, kl, nll, agreement. Nothing when no sample
 * reaches there. */
void measure_positions(struct metric_rows *m, const struct measured *in, int first, int end);
/* sparsity, qk_sparsity, pv_sparsity over all work, intervals over samples. */
void measure_sparsity(struct metric_rows *m, const struct measured *in, const struct head_ledger *total);
/* score_dense, score_sparse (share right), score_drop = dense - sparse, and the flips both ways, answers_lost and
 * answers_gained; all paired. `suffix` is put behind the names: "_norm" for scores per byte. */
void measure_items(struct metric_rows *m, const char *suffix, const struct item_record *items, int n_items, int n_samples,
                   int n_resamples, uint64_t seed);
/* Seconds of n passes; n of the whole set: its interval resamples samples, times taken per token so that the interval
 * is that of the speed, not of the lengths. */
void measure_latency(struct metric_rows *m, const struct measured *in, const char *name, const double *seconds,
                     int n);

#endif

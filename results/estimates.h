/* The one estimator of every metric: a value and its interval from what is stored of each sample.
 *
 * Evaluation makes its metric rows with it, `compare` its paired differences, the gate its
 * judgement, and a file is held against it. Pooled over samples (docs/statistics.md): means over
 * positions weigh a sample by its positions, a flattened cosine by its norms, perplexities by the
 * positions scored, sparsity by the work that was possible, scores by questions.
 */
#ifndef SG_RESULTS_ESTIMATES_H
#define SG_RESULTS_ESTIMATES_H

#include "base/stats.h"
#include "results/records.h"

struct estimate_source {
    const struct sample_record *samples;
    size_t n_samples;
    const struct item_record *items;
    size_t n_items;
    const struct tail_record *tails;
    size_t n_tails;
};

/* False for a name it does not know, and where a sample lacks a number it needs. "cosine_p1" and
 * "kl_p99_9" are the percentiles over all positions; an end of their interval that so few samples
 * cannot give is NAN. */
bool estimate_metric(const struct estimate_source *s, const char *name, struct estimate *out);
/* after - before, paired by sample (or by the text that holds the questions); false where nothing
 * pairs. */
bool estimate_change(const struct estimate_source *before, const struct estimate_source *after,
    const char *name, struct estimate *out);
/* estimate_above() and estimate_below() of a metric; of a percentile, by the share of positions
 * beyond the bound. */
double metric_above(
    const struct estimate_source *s, const char *name, const struct estimate *e, double bound);
double metric_below(
    const struct estimate_source *s, const char *name, const struct estimate *e, double bound);

bool metric_is_percentile(const char *name);
/* The scale on which a metric is judged. */
enum estimate_scale metric_scale(const char *name);
/* Cuts an interval to the values that the metric can have. */
void metric_clip(const char *name, struct estimate *e);

/* Which positions must be kept of each sample, so that a percentile and its interval can be
 * computed again: the worst of all samples together. values[i]: [n_tokens of sample i], each is
 * sorted, worst first; keep[i]: how many to keep. */
struct tail_rule {
    const char *metric, *percentile; /* "kl", "kl_p99_9" */
    double share;                    /* of positions beyond it: .001 */
    bool low;                        /* small values are the bad ones */
};
enum { N_TAIL_RULES = 2 };
extern const struct tail_rule tail_rules[N_TAIL_RULES];
void tail_choose(const struct tail_rule *rule, float *const *values,
    const struct sample_record *samples, size_t n, size_t *keep);

#endif

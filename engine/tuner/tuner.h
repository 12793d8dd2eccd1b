/* Finds per-head thresholds under error bounds and proves them (METHOD 5).
 *
 * Layer by layer, with the dense model's inputs: all samples advance together, so q, k, v and the
 * dense output of some heads of one layer are in memory for every sample, and nothing else. From
 * them come the error curves of every head, the choice for every pair of bounds, λ, and the
 * verification by the inference kernel with back-off: stage 2 gives way first (λ rises), then τ
 * rises. One task is one (head, sample) and is serial, so the thresholds do not depend on the
 * number of threads.
 *
 * Samples that anything was chosen or backed off by are no evidence for it. tune() sees tuning and
 * check samples; what its thresholds do on others is measured by tune_errors() behind it, once.
 */
#ifndef SG_ENGINE_TUNER_TUNER_H
#define SG_ENGINE_TUNER_TUNER_H

#include "base/par.h"
#include "engine/session.h"
#include "engine/tuner/tuned.h"
#include "kernels/curve.h"

#include <stdbool.h>
#include <stdint.h>

struct tune_sample {
    const int32_t *ids;
    int n;
    const char *name;
    bool check; /* not looked at when choosing; what does not hold its bound there is backed off */
};

struct tune_bounds {
    double l1, pv_l1; /* in the rule's error, 0 < l1 < pv_l1 */
};

/* Where curves are kept between runs, of each part of a method that is a mixture. Both may be NULL.
 */
struct curve_store {
    void *ctx;
    /* *found is false when there is none */
    enum status (*get)(
        void *ctx, int layer, int head, int part, int sample, struct curve *out, bool *found);
    enum status (*put)(void *ctx, int layer, int head, int part, int sample, const struct curve *c);
    /* all that is put at once of this layer was put */
    enum status (*layer_done)(void *ctx, int layer);
};

/* What the attention of a layer sees, from elsewhere than the model's forward pass, one layer at a
 * time. */
struct tune_source {
    void *ctx;
    /* q, k and v of all heads: f32 on the host, from position 0, the sample's number of tokens,
     * scaled by scale. Called from one thread; what it gives is copied before the next call. NULL:
     * weights are run. */
    enum status (*get)(void *ctx, int layer, int sample, struct attn_args *out);
};

struct tune_args {
    const struct weights
        *weights; /* with a source its config alone, and of that heads, layers and head_dim */
    struct tune_source source;
    struct par *par;
    const struct sparse_policy *policy; /* method, block, smooth_k and the layers to tune */
    enum tune_rule rule;
    const struct tune_sample *samples;
    int n_samples;
    const struct tune_bounds *bounds;
    int n_bounds;
    double min_sparsity; /* heads under it are stored as dense; .10 */
    struct curve_store curves;
    /* attention implementation for verification, NULL the best */
    const char *impl;
    size_t held_bytes; /* most memory for tensors and curves of the heads held at once; one head (or
                          kv head) is always taken, on a GPU a layer. 0: TUNER_HELD_STREAMS times
                          the residual streams, at least TUNER_HELD_BYTES */
    void (*progress)(void *ctx, int heads_done, int heads_total);
    void *progress_ctx;
    bool (*stop)(void *); /* asked from any thread of par; NULL: never */
    void *stop_ctx;
};

/* q, k, v and o of a layer with as many kv heads as query heads take four times its stream. */
enum { TUNER_HELD_STREAMS = 4, TUNER_HELD_BYTES = 64 << 20 };

struct tune_times {
    double forward_s, curves_s, verify_s; /* wall time; verify_s: choice, λ and kernel runs */
    int n_curves, n_reused;
    int n_verified;          /* triples of a head run by the inference kernel, each on one sample */
    const char *place, *why; /* tune_place(); static text */
};

/* What a tune allocates, known before anything is. Heads are taken `heads_at_once` at a time, so
 * that nothing but the session grows with the number of heads. total_bytes is the sum of the
 * others. */
struct tuner_plan {
    int heads_at_once;
    size_t session_bytes; /* of the model's forward pass */
    size_t stream_bytes;  /* the residual stream of every sample */
    size_t tensor_bytes;  /* q, k, v and the dense output of the heads held, for every sample */
    /* their curves; those of check samples included, which only a back-off makes */
    size_t curve_bytes;
    size_t workspace_bytes; /* of all threads */
    size_t total_bytes;
};
/* weights, par, policy, samples and impl are looked at. Pure. */
struct tuner_plan tuner_plan(const struct tune_args *a);

/* Where the errors of thresholds are computed: "cpu", or the name of the device on which the
 * weights are. *why (may be NULL) says why not there when they are on a device that cannot, else
 * NULL. Curves of one place are not those of another: a device rounds what its kernels round.
 * longest: tokens of the longest sample. */
const char *tune_place(
    const struct weights *w, const struct sparse_policy *p, int longest, const char **why);

/* out: [n_bounds], initialised and filled here except for names and fingerprints; clear each with
 * tuned_clear(). ERR_NUMERIC names layer, head and sample. ERR_CANCELLED leaves everything put so
 * far in the store. */
enum status tune(const struct tune_args *a, struct tuned *out, struct tune_times *times) MUST_USE;

/* The same bounds from stored curves alone: no token is run, stage 2 stays off (λ 50), nothing is
 * verified, and the result says so (`verified` false, a reason on every sparse head). curves.get
 * must be there; samples as in the run that made the curves. ERR_ARG names the first curve that is
 * missing. */
enum status tune_from_curves(const struct tune_args *a, struct tuned *out) MUST_USE;

/* What stored thresholds do: every triple of t[0 … n) runs with the inference kernel on every
 * sample of a, from the dense model's inputs as in tune(). out: [n, a->n_samples, layers x heads],
 * fields NAN of heads that run dense. Of a are looked at: weights, par, policy (method, blocks,
 * smoothing), samples, impl, held_bytes and stop. */
enum status tune_errors(
    const struct tune_args *a, const struct tuned *t, int n, struct head_error *out) MUST_USE;

/* The choice alone: the (θ, τ) with the highest sparsity whose error holds `bound` on every sample.
 * Returns false when none does. curves: [n]. sparsity is the mean over samples. */
bool tune_choose(const struct curve *const *curves, int n, enum tune_rule rule, double bound,
    int *theta, int *tau, double *sparsity, struct head_error *worst);

#endif

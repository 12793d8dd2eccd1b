/* What the parts of the tuner share: tuner.c walks the layers, tuner_settle.c chooses, verifies and
 * backs off, and a backend computes what they decide from. The choice knows no tensors and the
 * backend makes no choice. Nobody else includes this.
 */
#ifndef SG_ENGINE_TUNER_TUNER_PARTS_H
#define SG_ENGINE_TUNER_TUNER_PARTS_H

#include "engine/tuner/tuner.h"

/* A head of the layer that is held (counted in the whole layer), on one sample. */
struct tuner_place {
    int head, sample;
    int part; /* of the method, for curves over θ and τ; else 0 */
};

/* Every error over θ and τ. */
struct tuner_curve_task {
    struct tuner_place at;
    struct curve *out;
    bool done; /* set once *out is complete: also behind a stop */
};

/* Every error over λ, for each pair of θ and τ. */
struct tuner_lambda_task {
    struct tuner_place at;
    const struct threshold_pair *pairs;
    int n_pairs;
    struct pv_curve *out; /* [n_pairs] */
};

/* What inference does under each triple: its prediction of the mask, its kernel, its ledger. */
struct tuner_measured {
    struct head_error error;   /* against the dense output of the same backend */
    struct head_ledger ledger; /* tiles and units; nothing else need be counted */
};
struct tuner_measure_task {
    struct tuner_place at;
    const struct head_params *params;
    int n;
    struct tuner_measured *out; /* [n] */
};

/* Computes for one range of heads of one layer. Every entry takes all there is to do of its kind,
 * so that a device can run it as one batch; tensors are the backend's own business. Results must
 * not depend on how the work is spread. Errors that belong to a place name it (tuner_blame);
 * ERR_CANCELLED when args->stop said so. Entries are all mandatory, and are called from one thread.
 */
struct tuner_backend {
    const char *name;
    /* NULL, or why it cannot make curves like these; static text. */
    const char *(*refuses)(const struct weights *w, const struct sparse_policy *p, int longest);
    /* How many heads it holds at once and what it allocates. Pure. */
    struct tuner_plan (*plan)(const struct tune_args *a);
    /* *state is NULL when this fails */
    enum status (*open)(void **state, const struct tune_args *a, const struct tuner_plan *plan);
    void (*close)(void **state); /* also of NULL */
    /* Brings q, k, v and the dense o of these heads, for every sample, from the samples' streams at
     * this layer: heads [first, end) of at most plan->heads_at_once, part after part in rising
     * order. */
    enum status (*hold)(void *state, int layer, int first_head, int end_head);
    /* The streams go through this layer: layers rise one by one from 0, and what was held is
     * dropped. */
    enum status (*advance)(void *state, int layer);
    enum status (*curves)(void *state, struct tuner_curve_task *tasks, int n);
    enum status (*lambdas)(void *state, const struct tuner_lambda_task *tasks, int n);
    enum status (*measure)(void *state, const struct tuner_measure_task *tasks, int n);
};

extern const struct tuner_backend tuner_backend_cpu, tuner_backend_cuda;
/* The one that works where the weights are, or the CPU's when that one refuses: then *why (may be
 * NULL) is its reason, else NULL. longest: tokens of the longest sample. */
const struct tuner_backend *tuner_backend_for(
    const struct weights *w, const struct sparse_policy *p, int longest, const char **why);

/* Put layer, head and sample in front of `message`; returns st. */
enum status tuner_blame(const struct tune_args *a, int layer, struct tuner_place at, enum status st,
    const char *message);

struct tuner {
    const struct tune_args *a;
    const struct llama_config *c;
    const struct tuner_backend *backend;
    void *state;
    struct tuner_plan plan;
    int layer, first_head, n_heads; /* held */
    struct curve *curves;           /* [plan.heads_at_once, n_tune, n_parts] */
    int n_parts;                    /* of the method, 1 when it is no mixture */
    int n_tune;                     /* samples that are not held out; they stand first */
    struct tune_times *times;
};

/* INFINITY for NaN */
double tuner_error_by(const struct output_error *e, enum tune_rule rule);

/* A θ of one part of the method is counted in all parts: part · N_THETAS + θ. */
static inline int tuner_part_of(int theta) { return theta / N_THETAS; }
struct head_params tuner_params_of(int theta, int tau, float lambda);
/* tune_choose over all parts, for the first of every pair of bounds; curves: [n, n_parts], out:
 * [n_bounds]. theta is counted in all parts. */
struct tuner_choice {
    bool found;
    int theta, tau;
    double sparsity;
    struct head_error worst;
};
void tuner_choose(const struct curve *curves, int n, int n_parts, enum tune_rule rule,
    const struct tune_bounds *bounds, int n_bounds, struct tuner_choice *out);

void tuner_make_dense(struct tuned_head *h, bool any_check, const char *why, double value);

/* Thresholds of the heads held for every pair of bounds, from t->curves. */
enum status settle_heads(struct tuner *t, struct tuned *out) MUST_USE;

#endif

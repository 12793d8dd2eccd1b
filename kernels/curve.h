/* Error curves: what every threshold does to one head's output, from one pass over its tiles
 * (METHOD 5).
 *
 * The tiles that τ keeps for a fixed θ form a growing chain in the order of the ranking. Each
 * tile's partial result (row maxima, row sums, unnormalised output) is computed once; merging them
 * in that order gives the output, and so the error, behind every τ. Likewise for stage 2: a unit's
 * P·V is skipped exactly when λ is not above a margin that does not depend on λ, so merging in the
 * order of the margins gives the error for every λ.
 */
#ifndef SG_KERNELS_CURVE_H
#define SG_KERNELS_CURVE_H

#include "kernels/mask.h"

enum {
    N_THETAS = 32,  /* -1 … 15/16 in steps of 1/16 */
    N_TAUS = 97,    /* see curve_tau */
    N_LAMBDAS = 101 /* 0 … 50 in steps of 1/2 */
};

float curve_theta(int i);
/* 0, then 1 - 2^(-k/8) for k = 1 … 95, then 1: equal steps of the logarithm of the predicted mass
 * left out. */
float curve_tau(int i);
float curve_lambda(int i);
/* How many of the largest row errors the tail of n_rows is read from. */
int curve_n_largest(int n_rows);

/* Errors of one head's output Õ against the dense O, over all rows and dims of a sample. 0 is
 * perfect. */
struct output_error {
    float l1; /* Σ|O−Õ| / Σ|O| */
    /* 99.9th percentile over rows of Σ_d|o−õ| / Σ_d|o|, linear between order statistics */
    float tail;
    float cosine; /* 1 − O·Õ / (‖O‖‖Õ‖) */
    float rmse;   /* √(Σ(O−Õ)² / ΣO²) */
};

struct curve_point {
    struct output_error error;
    uint32_t n_kept; /* tiles computed in stage 1, or units in stage 2 */
};

struct curve {
    uint32_t n_possible; /* tiles in stage 1, units in stage 2 */
    struct curve_point points[N_THETAS][N_TAUS];
};

struct pv_curve {
    uint32_t n_possible; /* units under the causal triangle */
    struct curve_point points[N_LAMBDAS];
};

/* One head of one sample: args->attn has n_heads = n_kv_heads = 1, q_start = 0, f32, and o already
 * holding the dense output. Both passes need the same workspace. args->heads is looked at by
 * curve_lambdas only (heads[0]). */
size_t curve_workspace(const struct mask_method *m, const struct mask_args *a);

/* ERR_NUMERIC when the dense output is all zero or not finite. Serial: callers run many heads at
 * once. */
enum status curve_thetas(
    const struct mask_method *m, const struct mask_args *a, void *ws, struct curve *out) MUST_USE;
enum status curve_lambdas(const struct mask_method *m, const struct mask_args *a, void *ws,
    struct pv_curve *out) MUST_USE;

/* The same for several pairs at once: tiles that more than one of them keeps are computed once. The
 * method may be a mixture here; curve_thetas takes one of its parts. */
enum { MAX_LAMBDA_PAIRS = 30 };
struct threshold_pair {
    float theta, tau;
    int part; /* of a method that is a mixture */
};
/* out: [n_pairs], 1 … MAX_LAMBDA_PAIRS */
enum status curve_lambdas_of(const struct mask_method *m, const struct mask_args *a,
    const struct threshold_pair *pairs, int n_pairs, void *ws, struct pv_curve *out) MUST_USE;

/* The same errors for outputs computed elsewhere. got: [n, n_q, head_dim] contiguous; ws: n_q
 * floats. ERR_NUMERIC when the dense output has norm zero or one of them is not finite. */
enum status output_errors_of(const struct attn_args *dense, const float *got, int n, float *ws,
    struct output_error *out) MUST_USE;
enum status output_error_of(
    const struct attn_args *dense, const float *got, float *ws, struct output_error *out) MUST_USE;

#endif

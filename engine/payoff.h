/* Whether choosing tiles can pay in a call: a measured model of its time on a GPU. Accuracy is
 * evaluated with every call sparse that the policy says is; this is for those who want it fast. */
#ifndef SG_ENGINE_PAYOFF_H
#define SG_ENGINE_PAYOFF_H

#include <stdbool.h>

struct sparse_policy;

/* One layer's attention, where it is known how long that takes. */
struct call_place {
    int head_dim, n_heads;
    bool sm90; /* by the kernels of a GPU of compute capability 9.0 */
};

/* What the model says of one call over a whole sequence of n tokens, seconds. */
struct payoff {
    double dense, predict, attention; /* attention: over the tiles kept */
};

/* kept: share of the possible tiles, 0 … 1. Pure. */
struct payoff payoff_model(
    const struct call_place *at, const struct sparse_policy *p, int n, double kept);

/* The share of tiles that the policy may be expected to keep of n tokens: top-k and windows say it,
 * of thresholds policy.promised does, and a half is assumed where nobody knows. */
double payoff_kept(const struct sparse_policy *p, int n);

/* False where the prediction costs more than it saves. True wherever nothing was measured. */
bool payoff_pays(const struct call_place *at, const struct sparse_policy *p, int n);

#endif

#include "engine/payoff.h"

#include "engine/policy.h"

#include <math.h>

/* Of 32 query heads (8 of K and V), blocks of 128x64, one call: dense attention, prediction of
 * sparge, and sparse attention as a share of dense: `start` + `slope` · tiles kept. NVIDIA H100
 * 80GB HBM3 and H200, medians (docs/speed/attention.md, "whole sparse call" and "beside"; the model
 * is docs/speed/engine.md, "when a call runs dense"). */
struct measured {
    int n;
    double dense_ms, predict_ms, start, slope;
};
enum { N_MEASURED = 3 };
// clang-format off
static const struct measured d64[N_MEASURED] = {
    {2048,   .0605, .0168, .29, .56},
    {8192,   .496,  .0285, .03, 1.03},
    {32768,  8.09,  .130,  .01, 1.05},
}, d128[N_MEASURED] = {
    {2048,   .0602, .0188, .26, .78},
    {8192,   .802,  .0440, .05, 1.05},
    {32768,  13.06, .217,  .01, 1.04},
};
// clang-format on

/* Three launches more, the counters' reset, and a kernel that waits for them, beside what a
 * benchmark of kernels alone sees: the difference between layers within a model. */
static const double BETWEEN_MS = .020;
/* Other predictors take longer than sparge: `bound` 1.5 to 1.9 times, mixtures 1.3 to 1.8. */
static const double OTHER_METHOD = 1.9;
static const double UNKNOWN_KEPT = .5;

/* Times are straight between logarithms, shares between logarithms of n alone; outside they go on
 * as between the nearest two. */
static double between(
    const struct measured *t, const double *at, double n, bool logarithm, double least)
{
    int i = n > t[1].n ? 1 : 0;
    double x = log(n / t[i].n) / log((double)t[i + 1].n / t[i].n);
    double a = logarithm ? log(at[i]) : at[i], b = logarithm ? log(at[i + 1]) : at[i + 1];
    double y = a + x * (b - a);
    return logarithm ? exp(y) : fmax(y, least);
}

struct payoff payoff_model(
    const struct call_place *at, const struct sparse_policy *p, int n, double kept)
{
    const struct measured *t = at->head_dim <= 64 ? d64 : d128;
    double dense[N_MEASURED], predict[N_MEASURED], start[N_MEASURED], slope[N_MEASURED];
    for (int i = 0; i < N_MEASURED; i++) {
        dense[i] = t[i].dense_ms;
        predict[i] = t[i].predict_ms;
        start[i] = t[i].start;
        slope[i] = t[i].slope;
    }
    /* heads and rows fill a GPU alike: so many tokens of 32 heads are as much work */
    double same = n * sqrt(at->n_heads / 32.0), all = between(t, dense, same, true, 0);
    double share = between(t, start, same, false, 0) + between(t, slope, same, false, 0) * kept;
    bool ranks = p->method && p->method->ranked;
    double choosing = !ranks        ? 0
        : p->method == &mask_sparge ? between(t, predict, same, true, 0)
                                    : OTHER_METHOD * between(t, predict, same, true, 0);
    return (struct payoff){
        1e-3 * all, 1e-3 * (choosing + BETWEEN_MS), 1e-3 * fmin(share, 1.2) * all};
}

double payoff_kept(const struct sparse_policy *p, int n)
{
    double blocks = fmax(1, (double)n / p->block.k);
    double forced = fmin(1, (2.0 * p->block.q / p->block.k + 1) / blocks); /* sink and diagonal */
    if (p->method == &mask_window) {
        double w = fmin(1, (double)p->window / n);
        return fmin(1, 2 * w - w * w + forced);
    }
    double kept = p->topk > 0 ? (double)p->topk : p->promised > 0 ? 1 - p->promised : UNKNOWN_KEPT;
    return fmin(1, kept + (1 - kept) * forced);
}

bool payoff_pays(const struct call_place *at, const struct sparse_policy *p, int n)
{
    if (!at || !at->sm90 || (at->head_dim != 64 && at->head_dim != 128)) return true;
    struct payoff x = payoff_model(at, p, n, payoff_kept(p, n));
    return x.predict + x.attention < x.dense;
}

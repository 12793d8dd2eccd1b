/* What the parts of a tuning share: errors under a rule, and the choice by curves. */
#include "engine/tuner/tuner_parts.h"

#include "base/clock.h"
#include "engine/session_backend.h"

#include <math.h>
#include <stdio.h>

double tuner_error_by(const struct output_error *e, enum tune_rule rule)
{
    struct head_error wide = head_error_of(e);
    double error = head_error_by(&wide, rule);
    return isnan(error) ? INFINITY : error; /* fmax would take the other one */
}

void tuner_make_dense(struct tuned_head *h, bool any_check, const char *why, double value)
{
    h->params = (struct head_params){1, 1, 50, false, 0, 0, 0};
    h->tune = (struct head_error){0};
    h->check = any_check ? h->tune : head_error_unknown;
    h->held_out = head_error_unknown;
    h->qk_sparsity = h->sparsity = 0;
    snprintf(h->reason, sizeof h->reason, why, value);
}

/* Of every (θ, τ) what a choice looks at: the worst sample's error under the rule, and the mean
 * sparsity. Made once for all bounds. */
struct merged {
    double error[N_THETAS][N_TAUS], sparsity[N_THETAS][N_TAUS];
};

static void merge_samples(
    const struct curve *const *curves, int n, enum tune_rule rule, struct merged *m)
{
    for (int t = 0; t < N_THETAS; t++)
        for (int u = 0; u < N_TAUS; u++) {
            double sum = 0, error = 0;
            for (int s = 0; s < n; s++) {
                const struct curve_point *p = &curves[s]->points[t][u];
                error = fmax(error, tuner_error_by(&p->error, rule));
                sum += 1 - (double)p->n_kept / curves[s]->n_possible;
            }
            m->error[t][u] = error;
            m->sparsity[t][u] = sum / n;
        }
}

/* The first of the sparsest within the bound, of equals the one that errs least; false: none. */
static bool choose_merged(
    const struct merged *m, double bound, int *theta, int *tau, double *sparsity)
{
    const double *errors = &m->error[0][0], *shares = &m->sparsity[0][0];
    int at = -1;
    *sparsity = -1;
    for (int i = 0; i < N_THETAS * N_TAUS; i++) {
        if (!(errors[i] <= bound) || shares[i] < *sparsity ||
            (at >= 0 && shares[i] == *sparsity && errors[i] >= errors[at]))
            continue;
        at = i;
        *sparsity = shares[i];
    }
    *theta = at / N_TAUS;
    *tau = at % N_TAUS;
    return at >= 0;
}

static struct head_error worst_at(const struct curve *const *curves, int n, int theta, int tau)
{
    struct head_error worst = {0};
    for (int s = 0; s < n; s++)
        worst = head_error_worst(worst, head_error_of(&curves[s]->points[theta][tau].error));
    return worst;
}

bool tune_choose(const struct curve *const *curves, int n, enum tune_rule rule, double bound,
    int *theta, int *tau, double *sparsity, struct head_error *worst)
{
    struct merged m;
    merge_samples(curves, n, rule, &m);
    if (!choose_merged(&m, bound, theta, tau, sparsity)) return false;
    *worst = worst_at(curves, n, *theta, *tau);
    return true;
}

enum status tuner_blame(const struct tune_args *a, int layer, struct tuner_place at, enum status st,
    const char *message)
{
    return fail(st, "layer %d, head %d, sample %s: %s", layer, at.head, a->samples[at.sample].name,
        message);
}

void tuner_choose(const struct curve *curves, int n, int n_parts, enum tune_rule rule,
    const struct tune_bounds *bounds, int n_bounds, struct tuner_choice *out)
{
    const struct curve *views[n];
    struct merged m;
    for (int b = 0; b < n_bounds; b++) out[b] = (struct tuner_choice){.sparsity = -1};
    for (int part = 0; part < n_parts; part++) {
        for (int i = 0; i < n; i++) views[i] = &curves[i * n_parts + part];
        merge_samples(views, n, rule, &m);
        for (int b = 0; b < n_bounds; b++) {
            int t, u;
            double sparsity;
            if (!choose_merged(&m, bounds[b].l1, &t, &u, &sparsity) ||
                !(sparsity > out[b].sparsity))
                continue;
            out[b] = (struct tuner_choice){
                true, part * N_THETAS + t, u, sparsity, worst_at(views, n, t, u)};
        }
    }
}

struct head_params tuner_params_of(int theta, int tau, float lambda)
{
    return (struct head_params){curve_theta(theta % N_THETAS), curve_tau(tau), lambda, true,
        (uint8_t)tuner_part_of(theta), 0, 0};
}

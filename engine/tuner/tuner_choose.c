/* What the parts of a tuning share: errors under a rule, and the choice by curves. */
#include "engine/tuner/tuner_parts.h"

#include "base/clock.h"
#include "engine/session_backend.h"

#include <math.h>
#include <stdio.h>

double tuner_error_by(const struct output_error *e, enum tune_rule rule)
{
    struct head_error wide = tuner_widen(e);
    double error = head_error_by(&wide, rule);
    return isnan(error) ? INFINITY : error; /* fmax would take the other one */
}

struct head_error tuner_widen(const struct output_error *e)
{
    return (struct head_error){(double)e->l1, (double)e->tail, (double)e->cosine, (double)e->rmse};
}

const struct head_error tuner_no_error = {NAN, NAN, NAN, NAN};

void tuner_make_dense(struct tuned_head *h, bool any_check, const char *why, double value)
{
    h->params = (struct head_params){1, 1, 50, false, 0, 0, 0};
    h->tune = (struct head_error){0};
    h->check = any_check ? h->tune : tuner_no_error;
    h->held_out = tuner_no_error;
    h->qk_sparsity = h->sparsity = 0;
    snprintf(h->reason, sizeof h->reason, why, value);
}

bool tune_choose(const struct curve *const *curves, int n, enum tune_rule rule, double bound,
    int *theta, int *tau, double *sparsity, struct head_error *worst)
{
    bool found = false;
    double best_error = INFINITY;
    *sparsity = -1;
    for (int t = 0; t < N_THETAS; t++)
        for (int u = 0; u < N_TAUS; u++) {
            double sum = 0, error = 0;
            for (int s = 0; s < n; s++) {
                const struct curve_point *p = &curves[s]->points[t][u];
                error = fmax(error, tuner_error_by(&p->error, rule));
                sum += 1 - (double)p->n_kept / curves[s]->n_possible;
            }
            sum /= n;
            if (!(error <= bound) || sum < *sparsity || (sum == *sparsity && error >= best_error))
                continue;
            found = true;
            *theta = t;
            *tau = u;
            *sparsity = sum;
            best_error = error;
        }
    if (found) {
        *worst = (struct head_error){0};
        for (int s = 0; s < n; s++)
            *worst = head_error_worst(*worst, tuner_widen(&curves[s]->points[*theta][*tau].error));
    }
    return found;
}

enum status tuner_blame(const struct tune_args *a, int layer, struct tuner_place at, enum status st,
    const char *message)
{
    return fail(st, "layer %d, head %d, sample %s: %s", layer, at.head, a->samples[at.sample].name,
        message);
}

bool tuner_choose(const struct curve *curves, int n, int n_parts, enum tune_rule rule, double bound,
    int *theta, int *tau, double *sparsity, struct head_error *worst)
{
    const struct curve *views[n];
    bool found = false;
    *sparsity = -1;
    for (int part = 0; part < n_parts; part++) {
        int t, u;
        double s;
        struct head_error w;
        for (int i = 0; i < n; i++) views[i] = &curves[i * n_parts + part];
        if (!tune_choose(views, n, rule, bound, &t, &u, &s, &w) || !(s > *sparsity)) continue;
        found = true;
        *theta = part * N_THETAS + t;
        *tau = u;
        *sparsity = s;
        *worst = w;
    }
    return found;
}

struct head_params tuner_params_of(int theta, int tau, float lambda)
{
    return (struct head_params){curve_theta(theta % N_THETAS), curve_tau(tau), lambda, true,
        (uint8_t)tuner_part_of(theta), 0, 0};
}

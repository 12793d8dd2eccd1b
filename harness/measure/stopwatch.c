#include "harness/measure/stopwatch.h"

#include "base/clock.h"
#include "base/stats.h"

#include <math.h>
#include <stdio.h>

const struct stopwatch_rule stopwatch_default = {
    .min_pairs = 5, .max_pairs = STOPWATCH_MAX, .noise = .01, .max_seconds = 20, .min_seconds = .5};

#define WARM_WITHIN .05

double stopwatch_noise(const double *seconds, int n)
{
    double away[STOPWATCH_MAX], median = quantile(seconds, (size_t)n, .5);
    for (int i = 0; i < n; i++) away[i] = fabs(seconds[i] - median);
    return 1.2533 * 1.4826 * quantile(away, (size_t)n, .5) / sqrt(n) / median;
}

static enum status time_one(stopwatch_body *body, void *ctx, double *out)
{
    int64_t t0 = clock_ns();
    TRY(body(ctx));
    *out = (double)(clock_ns() - t0) * 1e-9;
    return OK;
}

static bool warm(double before, double now) { return fabs(now - before) <= WARM_WITHIN * before; }

static enum status warm_up(stopwatch_body *a, stopwatch_body *b, void *ctx, struct stopwatch *w)
{
    double last_a = 0, last_b = 0;
    for (w->n_warm_up = 0; w->n_warm_up < STOPWATCH_WARM_UP;) {
        double now_a, now_b = 0;
        TRY(time_one(a, ctx, &now_a));
        if (b) TRY(time_one(b, ctx, &now_b));
        bool still = w->n_warm_up > 0 && warm(last_a, now_a) && (!b || warm(last_b, now_b));
        w->n_warm_up++;
        if (still) break;
        last_a = now_a;
        last_b = now_b;
    }
    return OK;
}

bool stopwatch_judge(const struct stopwatch_rule *rule, struct stopwatch *w)
{
    bool pairs = w->b[0] > 0;
    w->noise_a = stopwatch_noise(w->a, w->n);
    w->noise_b = pairs ? stopwatch_noise(w->b, w->n) : 0;
    w->valid = w->noise_a <= rule->noise && w->noise_b <= rule->noise;
    w->note[0] = 0;
    if (!w->valid)
        snprintf(w->note, sizeof w->note,
            "noise %.1f %% after %d %s in %.2g s, %.1f %% wanted: quieten the machine",
            100 * fmax(w->noise_a, w->noise_b), w->n_timed, pairs ? "pairs" : "passes", w->seconds,
            100 * rule->noise);
    return w->valid;
}

enum status stopwatch_run(const struct stopwatch_rule *rule, stopwatch_body *a, stopwatch_body *b,
    void *ctx, struct stopwatch *w)
{
    *w = (struct stopwatch){0};
    int64_t t0 = clock_ns();
    TRY(warm_up(a, b, ctx, w));
    for (;;) {
        int at = w->n_timed % rule->max_pairs;
        TRY(time_one(a, ctx, &w->a[at]));
        if (b) TRY(time_one(b, ctx, &w->b[at]));
        w->n_timed++;
        if (w->n < rule->max_pairs) w->n++;
        w->seconds = (double)(clock_ns() - t0) * 1e-9;
        if (w->n < rule->min_pairs) continue;
        bool full = w->n == rule->max_pairs && w->seconds >= rule->min_seconds;
        if (stopwatch_judge(rule, w) || full || w->seconds > rule->max_seconds) return OK;
    }
}

/* Quantiles, intervals and what they promise, against definitions, published values and simulation.
 */
#include "base/rng.h"
#include "base/stats.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

Test(stats, quantiles_of_type_seven)
{
    /* R: quantile(c(1,2,4,8,16), c(0,.1,.25,.5,.9,1)) */
    double v[] = {16, 1, 8, 2, 4}, sorted[] = {1, 2, 4, 8, 16};
    static const double q[] = {0, .1, .25, .5, .9, 1}, want[] = {1, 1.4, 2, 4, 12.8, 16};
    for (int i = 0; i < 6; i++) {
        cr_expect_float_eq(quantile_sorted(sorted, 5, q[i]), want[i], 1e-12);
        cr_expect_float_eq(quantile(v, 5, q[i]), want[i], 1e-12);
    }
    cr_expect_eq(v[0], 16, "inputs stay as they were");
    cr_expect_eq(quantile_sorted(sorted, 1, .3), 1);
}

Test(stats, summary)
{
    float v[1001];
    for (int i = 0; i < 1001; i++) v[i] = (float)((i * 5) % 1001); /* 0 … 1000 in another order */
    struct summary s = summarise(v, 1001);
    cr_expect_eq(s.n, 1001);
    cr_expect_float_eq(s.mean, 500, 1e-9);
    static const double want[] = {0, 1, 10, 50, 500, 950, 990, 999, 1000};
    const double got[] = {s.min, s.p0_1, s.p1, s.p5, s.median, s.p95, s.p99, s.p99_9, s.max};
    for (int i = 0; i < 9; i++) cr_expect_float_eq(got[i], want[i], 1e-9);
    float one = -3;
    s = summarise(&one, 1);
    cr_expect(s.mean == -3 && s.min == -3 && s.p99_9 == -3 && s.max == -3);
}

/* Long lists are sorted by digits, short ones by comparisons: of any values the same. */
Test(stats, summary_of_values_of_every_size)
{
    enum { N = 3000 };
    static const double at[] = {0, .001, .01, .05, .5, .95, .99, .999, 1};
    struct rng r;
    float v[N];
    double wide[N];
    rng_init(&r, 3);
    for (int n = 1; n <= N; n = n * 2 + 1) {
        for (int i = 0; i < n; i++) {
            v[i] = (float)(rng_normal(&r) * exp(20 * rng_normal(&r)));
            if (i % 5 == 0) v[i] = (float)((i % 3 - 1) * 0.); /* zeros of both signs */
            if (i % 97 == 0) v[i] = i % 2 ? 3e38f : -3e38f;
            wide[i] = (double)v[i];
        }
        struct summary s = summarise(v, (size_t)n);
        const double got[] = {s.min, s.p0_1, s.p1, s.p5, s.median, s.p95, s.p99, s.p99_9, s.max};
        for (int i = 0; i < 9; i++) {
            double want = quantile(wide, (size_t)n, at[i]);
            cr_expect(got[i] == want || (isnan(got[i]) && isnan(want)), "%d values, %g: %g, %g", n,
                at[i], got[i], want);
        }
    }
}

/* A plain mean has the textbook interval, whatever the scale of its values, and one sample has
 * none. */
Test(stats, a_mean_has_students_interval)
{
    /* sample variance 3.2 */
    double x[] = {3, 1, 4, 1, 5}, w[] = {1, 1, 1, 1, 1}, mean = 2.8, se = sqrt(3.2 / 5);
    struct estimate e = estimate_ratio(x, w, 5, SCALE_PLAIN);
    cr_expect_float_eq(e.value, mean, 1e-12);
    cr_expect_float_eq(e.std_error, se, 1e-12);
    cr_expect_float_eq(e.df, 4, 1e-9);
    cr_expect_geq(
        e.value - e.lo, 2.7764451051977987 * se - 1e-9, "no side is shorter than Student's");
    cr_expect_leq(e.hi - e.value, 1.5 * 2.7764451051977987 * se + 1e-9, "nor much longer");
    cr_expect_float_eq(estimate_limit(&e, .975), e.hi, 1e-12);
    double symmetric[] = {1, 2, 3};
    e = estimate_ratio(symmetric, w, 3, SCALE_PLAIN);
    cr_expect_float_eq(e.hi - 2, 4.302652729911275 / sqrt(3), 1e-9);
    cr_expect_float_eq(2 - e.lo, 4.302652729911275 / sqrt(3), 1e-9);
    e = estimate_ratio(x, w, 1, SCALE_PLAIN);
    cr_expect(e.value == 3 && isnan(e.lo) && isnan(e.hi) && isnan(e.std_error));
    cr_expect(
        estimate_above(&e, 0) == 1 && estimate_below(&e, 9) == 1, "one sample proves nothing");
}

/* A ratio is linearised: x - v w; samples without weight do not count, and a heavy one leaves fewer
 * degrees of freedom. */
Test(stats, a_ratio_is_linearised)
{
    double x[] = {2, 3, 5, 7}, w[] = {10, 10, 10, 10}, v = 17.0 / 40, squares = 0;
    for (int i = 0; i < 4; i++) squares += (x[i] - v * w[i]) * (x[i] - v * w[i]);
    struct estimate e = estimate_ratio(x, w, 4, SCALE_PLAIN);
    cr_expect_float_eq(e.value, v, 1e-12);
    cr_expect_float_eq(e.std_error, sqrt(4.0 / 3 * squares) / 40, 1e-12);
    double y[] = {2, 0, 3, 5, 7}, u[] = {10, 0, 10, 10, 10};
    struct estimate same = estimate_ratio(y, u, 5, SCALE_PLAIN);
    cr_expect(same.n == 4 && same.lo == e.lo && same.hi == e.hi);
    double heavy[] = {100, 10, 10, 10};
    cr_expect_lt(estimate_ratio(x, heavy, 4, SCALE_PLAIN).df, 2);
}

/* What cannot fall below zero, or rise above one, has an interval that does neither. */
Test(stats, scales_keep_intervals_where_values_can_be)
{
    double kl[] = {.001, .002, .09}, cosine[] = {.999, .998, .91}, w[] = {1, 1, 1};
    struct estimate e = estimate_ratio(kl, w, 3, SCALE_POSITIVE),
                    c = estimate_ratio(cosine, w, 3, SCALE_BELOW_ONE);
    cr_expect(e.lo > 0 && e.lo < e.value && e.value < e.hi);
    cr_expect(c.hi < 1 && c.lo < c.value && c.value < c.hi);
    cr_expect_float_eq(1 - c.hi, e.lo, 1e-12, "one is the other's mirror image");
    double logs[] = {.1, .2, .3};
    struct estimate p = estimate_ratio(logs, w, 3, SCALE_EXP);
    cr_expect_float_eq(p.value, exp(.2), 1e-12);
    cr_expect_float_eq(
        p.lo * p.hi, p.value * p.value, 1e-9, "a perplexity's interval is one of its logarithm");
    double zero[] = {0, 0, 0};
    e = estimate_ratio(zero, w, 3, SCALE_POSITIVE);
    cr_expect(e.value == 0 && e.lo == 0 && e.hi == 0);
}

/* Evidence and interval say the same of every bound. */
Test(stats, a_bound_outside_the_interval_is_one_with_evidence)
{
    struct rng r;
    rng_init(&r, 5);
    for (int t = 0; t < 400; t++) {
        double x[6], w[6];
        int n = rng_range(&r, 2, 6);
        for (int i = 0; i < n; i++) {
            x[i] = exp(rng_normal(&r));
            w[i] = .5 + rng_unit(&r);
        }
        struct estimate e = estimate_ratio(x, w, (size_t)n,
            t % 3 == 0       ? SCALE_PLAIN
                : t % 3 == 1 ? SCALE_POSITIVE
                             : SCALE_EXP);
        double bound = e.value * exp(.5 * rng_normal(&r));
        cr_expect_eq(estimate_above(&e, bound) < .025, bound < e.lo, "%d", t);
        cr_expect_eq(estimate_below(&e, bound) < .025, bound > e.hi, "%d", t);
    }
}

Test(stats, students_t)
{
    static const struct {
        double p, df, t; /* tables */
    } known[] = {{.975, 1, 12.706204736174698}, {.975, 2, 4.302652729911275},
        {.975, 4, 2.7764451051977987}, {.975, 31, 2.039513446396408},
        {.9995, 10, 4.586893858702636}, {.9, 3, 1.6377443536962102}, {.975, 2.5, 3.574655}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        cr_expect_float_eq(student_quantile(known[i].p, known[i].df), known[i].t, 1e-5, "%g, %g",
            known[i].p, known[i].df);
        cr_expect_float_eq(
            student_cdf(student_quantile(known[i].p, known[i].df), known[i].df), known[i].p, 1e-12);
    }
    cr_expect_float_eq(student_quantile(.5, 3), 0, 1e-12);
    cr_expect_float_eq(student_power(student_quantile(.975, 4), 0, 4), .025, 1e-6);
}

/* The smallest difference that is found in 80 of 100 comparisons is found in 80 of 100 comparisons.
 */
Test(stats, detectable_is_detected)
{
    enum { TRIALS = 4000 };
    static const int sizes[] = {3, 5, 16};
    struct rng r;
    rng_init(&r, 8);
    for (int k = 0; k < 3; k++) {
        int n = sizes[k], found = 0;
        double shift = detectable_difference(1 / sqrt(n), n - 1), t = student_quantile(.975, n - 1);
        for (int i = 0; i < TRIALS; i++) {
            double sum = 0, squares = 0, x[16];
            for (int j = 0; j < n; j++) sum += x[j] = shift + rng_normal(&r);
            for (int j = 0; j < n; j++) squares += (x[j] - sum / n) * (x[j] - sum / n);
            found += fabs(sum / n) > t * sqrt(squares / (n - 1) / n);
        }
        cr_expect_float_eq(found / (double)TRIALS, .8, .025, "n = %d: %d of %d", n, found, TRIALS);
    }
    cr_expect(isnan(detectable_difference(NAN, 3)) && isnan(detectable_difference(1, 0)));
}

/* Against the forward function, which libm has: Φ(x) = erfc(-x/√2)/2 at the quantile and one part
 * in 1e13 beside it. */
Test(stats, normal_quantile)
{
    static const double x[] = {
        -37, -20, -8, -6, -4, -3, -2.3, -1.96, -1, -.5, -.01, .01, .5, 1, 1.96, 2.3};
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) {
        double p = .5 * erfc(-x[i] / sqrt(2)), slope = exp(-x[i] * x[i] / 2) / 2.5066282746310002;
        double half_ulp_of_p = (nextafter(p, 1) - p) / slope; /* p itself is rounded */
        cr_expect_float_eq(
            normal_quantile(p), x[i], 2e-14 * fabs(x[i]) + half_ulp_of_p, "at %g", x[i]);
    }
    cr_expect_float_eq(normal_quantile(.5), 0, 1e-16);
    cr_expect_float_eq(normal_quantile(.975), 1.959963984540054, 1e-13);
    cr_expect_float_eq(normal_quantile(.8), .8416212335729143, 1e-13);
}

/* 1 - p is exact for p in [1/2, 1), so both tails must agree to the last digits. */
Test(stats, normal_quantile_is_odd)
{
    for (double p = .25; p > 1e-15; p /= 8)
        cr_expect_float_eq(normal_quantile(1 - p) / normal_quantile(p), -1, 1e-13, "at %g", p);
}

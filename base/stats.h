/* Descriptive statistics, and estimates over whole samples. Inputs are never modified.
 *
 * Quantiles interpolate linearly between order statistics (Hyndman and Fan 1996, type 7).
 *
 * The unit of an estimate is the sample (a text), since tokens of one text are not independent. A
 * statistic of pooled sums is made linear by leaving out one sample at a time (the jackknife: Efron
 * and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 11), and its error is judged by
 * Student's t: degrees of freedom  n - 1 for samples of one length, fewer where some weigh more
 * (Bell and McCaffrey, "Bias reduction in standard errors for linear regression with multi-stage
 * samples", 2002), half of the variance being taken to lie between texts and half within them;
 *   skewness            a quantity that cannot fall below zero is judged by its logarithm; any
 * other by Hall's cubic
 *                       ("On the removal of skewness by transformation", 1992), within limits.
 * docs/statistics.md has the coverage of all this on stored evaluations; tests/unit/test_coverage.c
 * measures it.
 */
#ifndef SG_BASE_STATS_H
#define SG_BASE_STATS_H

#include "base/beta.h"

#include <stddef.h>
#include <stdbool.h>

struct summary {
    size_t n;
    double mean, min, p0_1, p1, p5, median, p95, p99, p99_9, max;
};

/* n >= 1 values, none NaN. */
struct summary summarise(const float *values, size_t n);

/* q in [0,1]; `sorted` ascending, n >= 1. */
double quantile_sorted(const double *sorted, size_t n, double q);
/* The same for unsorted values; allocates a copy. */
double quantile(const double *values, size_t n, double q);

/* A statistic of what samples add up to, e.g. the ratio of two sums. */
typedef double sum_stat(const void *ctx, const double *sums);

/* What the statistic estimates: itself; something above zero; something below one (judged by 1 -
 * value); or the logarithm of something, which is then the value (a perplexity). */
enum estimate_scale { SCALE_PLAIN, SCALE_POSITIVE, SCALE_BELOW_ONE, SCALE_EXP };

struct estimate {
    double value;     /* on the data as they are */
    double std_error; /* of the value; NAN when fewer than 2 samples leave none */
    double lo, hi;    /* 95 %; NAN likewise */
    size_t n;         /* samples behind it */
    /* on the scale on which it is judged: */
    enum estimate_scale scale;
    double at, spread, skew, df;
};

/* x[n][width]: what each sample adds to the sums, n >= 1. weight[n]: how much it counts (its
 * positions); NULL when all count the same. least: the variance is at least this, for shares of few
 * answers; else 0. Takes time in proportion to n. */
struct estimate estimate_samples(sum_stat *stat, const void *ctx, const double *x, size_t width,
    const double *weight, size_t n, enum estimate_scale scale, double least);
/* The ratio of sums: sum of x over sum of weight; samples without weight do not count. */
struct estimate estimate_ratio(
    const double *x, const double *weight, size_t n, enum estimate_scale scale);
/* The limit below which the truth lies with probability p: estimate_limit(e, .975) is e->hi. */
double estimate_limit(const struct estimate *e, double p);
/* How often data like these, or further above the bound, come about when the truth is the bound:
 * under .025 the truth is above it. estimate_below: likewise. 1 without an interval. */
double estimate_above(const struct estimate *e, double bound);
double estimate_below(const struct estimate *e, double bound);
/* How many samples decide, in 80 % of cases, on which side of the bound the truth lies; the
 * uncertainty of these is part of it. INFINITY when more than 10 000 would. */
double estimate_samples_to_decide(const struct estimate *e, double bound);

/* Student's t (base/beta.h), P(T > t) where the truth lies `shift` standard errors above what is
 * tested (non-central t). */
double student_power(double t, double shift, double df);

/* Smallest true difference that a test with this standard error tells from none (two-sided 5 %) in
 * 80 % of cases; NAN without a standard error. */
double detectable_difference(double std_error, double df);

/* Inverse of the standard normal distribution, p in (0,1) (Acklam's rational approximation, one
 * Halley step; relative error below 1e-14). */
double normal_quantile(double p);

#endif

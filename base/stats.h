/* Descriptive statistics and intervals. Inputs are never modified.
 *
 * Quantiles interpolate linearly between order statistics (Hyndman and Fan 1996, type 7). Intervals are
 * percentile bootstraps that resample whole clusters, since tokens of one text are not independent
 * (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, ch. 2–3).
 */
#ifndef SG_BASE_STATS_H
#define SG_BASE_STATS_H

#include "base/rng.h"

#include <stddef.h>
#include <stdint.h>

struct summary {
    size_t n;
    double mean, std_error; /* std_error of the mean, treating values as independent; 0 when n < 2 */
    double min, p0_1, p1, p5, median, p95, p99, p99_9, max;
};

/* n >= 1 values, none NaN. */
struct summary summarise(const float *values, size_t n);

/* q in [0,1]; `sorted` ascending, n >= 1. */
double quantile_sorted(const double *sorted, size_t n, double q);
/* The same for unsorted values; allocates a copy. */
double quantile(const double *values, size_t n, double q);

struct interval {
    double value;    /* the statistic on the data as they are */
    double lo, hi;   /* confidence limits; equal to NaN when fewer than 2 clusters leave no interval */
    double std_error;
};

/* A statistic of clusters chosen by index, indexes may repeat: e.g. the ratio of two pooled sums. */
typedef double cluster_stat(const void *ctx, const int *clusters, size_t n);

/* level e.g. 0.95; n_resamples e.g. 2000; deterministic for one seed. */
struct interval bootstrap(cluster_stat *stat, const void *ctx, size_t n_clusters, double level,
                          int n_resamples, uint64_t seed);

/* Smallest true difference that a paired comparison with this standard error detects with `power` at
 * two-sided `alpha`: (z_{1-alpha/2} + z_{power}) * std_error. */
double minimum_detectable_effect(double std_error, double alpha, double power);

/* Inverse of the standard normal distribution, p in (0,1) (Acklam's rational approximation, one Halley
 * step; relative error below 1e-14). */
double normal_quantile(double p);

#endif

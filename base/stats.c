#include "base/stats.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double quantile_sorted(const double *sorted, size_t n, double q)
{
    assert(n > 0);
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    if (i + 1 >= n) return sorted[n - 1];
    return sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]);
}

static double *sorted_copy(const double *values, size_t n)
{
    double *copy = malloc(n * sizeof *copy);
    if (!copy) abort();
    memcpy(copy, values, n * sizeof *copy);
    qsort(copy, n, sizeof *copy, compare_double);
    return copy;
}

double quantile(const double *values, size_t n, double q)
{
    double *sorted = sorted_copy(values, n);
    double out = quantile_sorted(sorted, n, q);
    free(sorted);
    return out;
}

struct summary summarise(const float *values, size_t n)
{
    assert(n > 0);
    double *v = malloc(n * sizeof *v), sum = 0, squares = 0;
    if (!v) abort();
    for (size_t i = 0; i < n; i++) sum += v[i] = values[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) squares += (v[i] - mean) * (v[i] - mean);
    qsort(v, n, sizeof *v, compare_double);
    struct summary s = {
        .n = n,
        .mean = mean,
        .std_error = n > 1 ? sqrt(squares / (double)(n - 1) / (double)n) : 0,
        .min = v[0],
        .p0_1 = quantile_sorted(v, n, .001),
        .p1 = quantile_sorted(v, n, .01),
        .p5 = quantile_sorted(v, n, .05),
        .median = quantile_sorted(v, n, .5),
        .p95 = quantile_sorted(v, n, .95),
        .p99 = quantile_sorted(v, n, .99),
        .p99_9 = quantile_sorted(v, n, .999),
        .max = v[n - 1],
    };
    free(v);
    return s;
}

struct interval bootstrap(cluster_stat *stat, const void *ctx, size_t n_clusters, double level, int n_resamples,
                          uint64_t seed)
{
    assert(n_clusters > 0 && n_resamples > 1);
    int *pick = malloc(n_clusters * sizeof *pick);
    double *values = malloc((size_t)n_resamples * sizeof *values);
    if (!pick || !values) abort();
    for (size_t i = 0; i < n_clusters; i++) pick[i] = (int)i;
    struct interval out = {stat(ctx, pick, n_clusters), NAN, NAN, NAN};
    if (n_clusters > 1) {
        struct rng r;
        rng_init(&r, seed);
        double sum = 0, squares = 0;
        for (int b = 0; b < n_resamples; b++) {
            for (size_t i = 0; i < n_clusters; i++) pick[i] = (int)rng_below(&r, (uint32_t)n_clusters);
            sum += values[b] = stat(ctx, pick, n_clusters);
        }
        double mean = sum / n_resamples;
        for (int b = 0; b < n_resamples; b++) squares += (values[b] - mean) * (values[b] - mean);
        qsort(values, (size_t)n_resamples, sizeof *values, compare_double);
        out.std_error = sqrt(squares / (n_resamples - 1));
        out.lo = quantile_sorted(values, (size_t)n_resamples, (1 - level) / 2);
        out.hi = quantile_sorted(values, (size_t)n_resamples, (1 + level) / 2);
    }
    free(values);
    free(pick);
    return out;
}

static double normal_guess(double p)
{
    static const double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                               1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
    static const double b[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                               6.680131188771972e+01, -1.328068155288572e+01};
    static const double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                               -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
    static const double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                               3.754408661907416e+00};
    if (p < 0.02425) {
        double q = sqrt(-2 * log(p));
        return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
               ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
    }
    double q = p - 0.5, r = q * q;
    return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
           (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

double normal_quantile(double p)
{
    assert(p > 0 && p < 1);
    if (p > 0.5) return -normal_quantile(1 - p);
    double x = normal_guess(p);
    double e = 0.5 * erfc(-x / sqrt(2)) - p;
    double u = e * sqrt(2 * 3.14159265358979323846) * exp(x * x / 2);
    return x - u / (1 + x * u / 2);
}

double minimum_detectable_effect(double std_error, double alpha, double power)
{
    return (normal_quantile(1 - alpha / 2) + normal_quantile(power)) * std_error;
}

#include "base/stats.h"

#include "base/beta.h"
#include "base/xmalloc.h"
#include <assert.h>
#include <math.h>
#include <stdint.h>
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
    double *copy = xmalloc(n * sizeof *copy);
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

/* Rises with the value; both zeros are one. */
static uint32_t order_of(float x)
{
    uint32_t bits;
    x = x == 0 ? 0 : x;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ (bits >> 31 ? UINT32_MAX : 0x80000000u);
}

/* values in rising order, equals in theirs, as doubles: by eleven bits of the key at a time, for
 * percentiles of all tokens were a fifth of an evaluation. */
static void sort_floats(const float *values, size_t n, double *out)
{
    enum { BITS = 11, BUCKETS = 1 << BITS, PASSES = 3, FEW = 512 };
    if (n < FEW) {
        for (size_t i = 0; i < n; i++) out[i] = (double)values[i];
        qsort(out, n, sizeof *out, compare_double);
        return;
    }
    float *from = xmalloc(n * sizeof *from), *to = xmalloc(n * sizeof *to);
    size_t *at = xmalloc(BUCKETS * sizeof *at);
    memcpy(from, values, n * sizeof *from);
    for (int pass = 0; pass < PASSES; pass++) {
        memset(at, 0, BUCKETS * sizeof *at);
        for (size_t i = 0; i < n; i++) at[order_of(from[i]) >> pass * BITS & (BUCKETS - 1)]++;
        for (size_t b = 0, sum = 0; b < BUCKETS; b++) {
            size_t count = at[b];
            at[b] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++)
            to[at[order_of(from[i]) >> pass * BITS & (BUCKETS - 1)]++] = from[i];
        float *swap = from;
        from = to;
        to = swap;
    }
    for (size_t i = 0; i < n; i++) out[i] = (double)from[i];
    free(from);
    free(to);
    free(at);
}

struct summary summarise(const float *values, size_t n)
{
    assert(n > 0);
    double *v = xmalloc(n * sizeof *v), sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)values[i];
    sort_floats(values, n, v);
    struct summary s = {
        .n = n,
        .mean = sum / (double)n,
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

static double normal_guess(double p)
{
    static const double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,
        -2.759285104469687e+02, 1.383577518672690e+02, -3.066479806614716e+01,
        2.506628277459239e+00};
    static const double b[] = {-5.447609879822406e+01, 1.615858368580409e+02,
        -1.556989798598866e+02, 6.680131188771972e+01, -1.328068155288572e+01};
    static const double c[] = {-7.784894002430293e-03, -3.223964580411365e-01,
        -2.400758277161838e+00, -2.549732539343734e+00, 4.374664141464968e+00,
        2.938163982698783e+00};
    static const double d[] = {
        7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00, 3.754408661907416e+00};
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

static double normal_cdf(double x) { return .5 * erfc(-x / sqrt(2)); }

/* Over the distribution of the estimated standard deviation s (in units of the true one): the mean
 * of P(Z > t s - shift), by Simpson's rule over ten standard deviations of s on either side. */
double student_power(double t, double shift, double df)
{
    enum { STEPS = 200 };
    if (df > 2000) return normal_cdf(shift - t);
    double half = 10 / sqrt(2 * df), from = fmax(1e-9, 1 - half), step = (1 + half - from) / STEPS,
           sum = 0;
    double scale = log(2) + .5 * df * log(.5 * df) - log_gamma(.5 * df);
    for (int i = 0; i <= STEPS; i++) {
        double s = from + i * step, weight = i == 0 || i == STEPS ? 1 : i % 2 ? 4 : 2;
        sum +=
            weight * exp(scale + (df - 1) * log(s) - .5 * df * s * s) * normal_cdf(shift - t * s);
    }
    return fmin(1, sum * step / 3);
}

#define LEVEL .975 /* of each side: intervals are 95 % */
#define POWER .8

double detectable_difference(double std_error, double df)
{
    if (isnan(std_error) || !(df > 0)) return NAN;
    double t = student_quantile(LEVEL, df), lo = 0, hi = t;
    while (student_power(t, hi, df) < POWER) hi *= 2;
    for (int i = 0; i < 40; i++) {
        double middle = (lo + hi) / 2;
        if (student_power(t, middle, df) < POWER) lo = middle;
        else hi = middle;
    }
    return hi * std_error;
}

static double scale_to(enum estimate_scale scale, double value)
{
    switch (scale) {
    case SCALE_POSITIVE:
    case SCALE_EXP: return log(value);
    case SCALE_BELOW_ONE: return -log(1 - value);
    default: return value;
    }
}

static double scale_back(enum estimate_scale scale, double at)
{
    switch (scale) {
    case SCALE_POSITIVE:
    case SCALE_EXP: return exp(at);
    case SCALE_BELOW_ONE: return 1 - exp(-at);
    default: return at;
    }
}

/* Satterthwaite's degrees of freedom of the jackknife variance of a mean with weights a (summing to
 * one), when sample i has the variance s_i = (1 + mean(a) / a_i) / 2. The variance is the quadratic
 * form with the matrix M_ij = [i = j] c_i - a_i c_j - a_j c_i + C a_i a_j, c_i = (a_i / (1 -
 * a_i))^2, C = sum of c; df = tr(MS)^2 / tr(MSMS). */
static double degrees_of_freedom(const double *weight, size_t n)
{
    enum { MOST = 400 }; /* beyond, what is left to say is that they are many */
    if (!weight || n > MOST) return (double)n - 1;
    double a[MOST], c[MOST], s[MOST], sum = 0, all = 0, trace = 0, square = 0;
    for (size_t i = 0; i < n; i++) sum += weight[i];
    for (size_t i = 0; i < n; i++) {
        a[i] = weight[i] / sum;
        if (!(a[i] > 0 && a[i] < 1)) return (double)n - 1;
        c[i] = pow(a[i] / (1 - a[i]), 2);
        s[i] = (1 + 1 / (a[i] * (double)n)) / 2;
        all += c[i];
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double m = (i == j ? c[i] : 0) - a[i] * c[j] - a[j] * c[i] + all * a[i] * a[j];
            if (i == j) trace += m * s[i];
            square += m * m * s[i] * s[j];
        }
    return fmin((double)n - 1, trace * trace / square);
}

struct leave_one_out {
    double *without; /* the statistic without each sample */
    size_t n;
};

/* Spread and skewness of the jackknife on a scale; false where a value has no place on it. */
static bool jackknife(
    const struct leave_one_out *l, enum estimate_scale scale, double *spread, double *skew)
{
    double n = (double)l->n, mean = 0, squares = 0, cubes = 0;
    for (size_t i = 0; i < l->n; i++) mean += scale_to(scale, l->without[i]) / n;
    if (!isfinite(mean)) return false;
    for (size_t i = 0; i < l->n; i++) {
        double e = mean - scale_to(scale, l->without[i]); /* what the sample adds */
        squares += e * e;
        cubes += e * e * e;
    }
    *spread = sqrt((n - 1) / n * squares);
    *skew = squares > 0 ? cubes / n / pow(squares / n, 1.5) / sqrt(n) : 0;
    return true;
}

static void estimate_judge(struct estimate *e, const struct leave_one_out *l, double least)
{
    double skew;
    /* the statistic is the logarithm */
    enum estimate_scale own = e->scale == SCALE_EXP ? SCALE_PLAIN : e->scale;
    if (!jackknife(l, SCALE_PLAIN, &e->spread, &e->skew)) return;
    double plain = fmax(e->spread, sqrt(least));
    if (plain < 1e-13 * fabs(e->at)) plain = 0; /* samples that agree: what is left is rounding */
    e->std_error = e->scale == SCALE_EXP ? plain * e->value : plain;
    /* from the end of the scale */
    double distance = own == SCALE_BELOW_ONE ? 1 - e->value : e->value;
    if (own != SCALE_PLAIN && !(distance > 0)) own = e->scale = SCALE_PLAIN;
    if (own == SCALE_PLAIN) {
        e->spread = plain;
    } else {
        e->at = scale_to(own, e->value);
        if (!jackknife(l, own, &e->spread, &skew) || plain / distance > e->spread)
            e->spread = plain / distance;
        if (plain == 0) e->spread = 0;
        e->skew = 0; /* the scale has taken it out */
    }
    e->lo = estimate_limit(e, 1 - LEVEL);
    e->hi = estimate_limit(e, LEVEL);
}

/* Sums over all samples in `sums`, and for each, behind it, over those from there on. */
static double *sums_from(const double *x, size_t width, size_t n, double *sums)
{
    double *from = xcalloc((n + 1) * width, sizeof *from);
    for (size_t k = 0; k < width; k++) sums[k] = 0;
    for (size_t i = 0; i < n * width; i++) sums[i % width] += x[i];
    for (size_t i = n * width; i-- > 0;) from[i] = x[i] + from[i + width];
    return from;
}

struct estimate estimate_samples(sum_stat *stat, const void *ctx, const double *x, size_t width,
    const double *weight, size_t n, enum estimate_scale scale, double least)
{
    assert(n > 0);
    double *sums = xcalloc(2 * width, sizeof *sums), *before = sums + width,
           *from = sums_from(x, width, n, sums);
    struct leave_one_out l = {xmalloc(n * sizeof *l.without), n};
    double value = stat(ctx, sums);
    struct estimate e = {.value = scale == SCALE_EXP ? exp(value) : value,
        .std_error = NAN,
        .lo = NAN,
        .hi = NAN,
        .n = n,
        .scale = scale,
        .at = value,
        .spread = NAN,
        .df = degrees_of_freedom(weight, n)};
    for (size_t i = 0; i < n && n > 1; i++) { /* those before and those behind: nothing cancels */
        for (size_t k = 0; k < width; k++) sums[k] = before[k] + from[(i + 1) * width + k];
        l.without[i] = stat(ctx, sums);
        for (size_t k = 0; k < width; k++) before[k] += x[i * width + k];
    }
    if (n > 1) estimate_judge(&e, &l, least);
    free(l.without);
    free(from);
    free(sums);
    return e;
}

static double ratio_of(const void *ctx, const double *sums)
{
    (void)ctx;
    return sums[0] / sums[1];
}

struct estimate estimate_ratio(
    const double *x, const double *weight, size_t n, enum estimate_scale scale)
{
    double(*pairs)[2] = xmalloc((n + 1) * sizeof *pairs),
    *kept_weight = xmalloc((n + 1) * sizeof(double));
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(weight[i] > 0)) continue;
        pairs[kept][0] = x[i];
        kept_weight[kept] = pairs[kept][1] = weight[i];
        kept++;
    }
    assert(kept > 0);
    struct estimate e = estimate_samples(ratio_of, NULL, *pairs, 2, kept_weight, kept, scale, 0);
    free(pairs);
    free(kept_weight);
    return e;
}

/* Hall's cubic of a studentised distance T, ((1 + aT/3)^3 - 1) / a + a/6 with a = skewness /
 * sqrt(n), and its inverse. The skewness of few samples is itself hardly known, so the long side is
 * at most LONGER times Student's, and the short side is Student's. */
#define LONGER 1.5

static double between(double x, double lo, double hi, double sign)
{
    return copysign(fmax(lo, fmin(fabs(x), hi)), sign);
}

static double hall(double t, double a)
{
    double g = fabs(a) < 1e-9 ? t : (pow(1 + a * t / 3, 3) - 1) / a + a / 6;
    return between(g * t > 0 ? g : 0, fabs(t) / LONGER, fabs(t), t);
}

static double hall_inverse(double g, double a)
{
    double t = fabs(a) < 1e-9 ? g : 3 / a * (cbrt(1 + a * (g - a / 6)) - 1);
    return between(g * t > 0 ? t : 0, fabs(g), fabs(g) * LONGER, g);
}

double estimate_limit(const struct estimate *e, double p)
{
    if (isnan(e->spread)) return NAN;
    if (e->spread == 0) return e->value;
    return scale_back(
        e->scale, e->at - e->spread * hall_inverse(student_quantile(1 - p, e->df), e->skew));
}

double estimate_above(const struct estimate *e, double bound)
{
    double from = scale_to(e->scale, bound);
    if (isnan(e->spread)) return 1;
    /* a bound beyond the end of the scale */
    if (isnan(from)) from = e->scale == SCALE_BELOW_ONE ? INFINITY : -INFINITY;
    if (e->spread == 0 || isinf(from)) return e->at > from ? 0 : 1;
    return 1 - student_cdf(hall((e->at - from) / e->spread, e->skew), e->df);
}

double estimate_below(const struct estimate *e, double bound)
{
    double from = scale_to(e->scale, bound);
    if (isnan(e->spread)) return 1;
    if (isnan(from)) from = e->scale == SCALE_BELOW_ONE ? INFINITY : -INFINITY;
    if (e->spread == 0 || isinf(from)) return e->at < from ? 0 : 1;
    return student_cdf(hall((e->at - from) / e->spread, e->skew), e->df);
}

/* Share of cases in which `more` times as many samples decide on either side, the truth being drawn
 * from where these say it may be. */
enum { DRAWS = 21 };

static double share_decided(const struct estimate *e, const double truths[DRAWS], double more)
{
    double df = (e->df + 1) * more - 1, t = student_quantile(LEVEL, df), sum = 0;
    for (int i = 0; i < DRAWS; i++) {
        double shift = fabs(truths[i]) * sqrt(more);
        sum += student_power(t, shift, df) + student_power(t, -shift, df);
    }
    return sum / DRAWS;
}

double estimate_samples_to_decide(const struct estimate *e, double bound)
{
    enum { MOST = 10000 };
    double distance = e->at - scale_to(e->scale, bound), n = (double)e->n;
    if (!(e->spread > 0) || !isfinite(distance)) return INFINITY;
    double truths[DRAWS]; /* in standard errors from the bound */
    for (int i = 0; i < DRAWS; i++)
        truths[i] = distance / e->spread + student_quantile((i + .5) / DRAWS, e->df);
    int lo = (int)e->n, hi = lo;
    while (hi < MOST && share_decided(e, truths, hi / n) < POWER) {
        lo = hi;
        hi *= 2;
    }
    if (hi >= MOST) return INFINITY;
    while (hi - lo > 1) {
        int middle = lo + (hi - lo) / 2;
        if (share_decided(e, truths, middle / n) < POWER) lo = middle;
        else hi = middle;
    }
    return hi;
}

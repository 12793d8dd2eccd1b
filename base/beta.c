#include "base/beta.h"

#include <math.h>

double log_gamma(double x)
{
    int sign;
    return lgamma_r(x, &sign);
}

/* The continued fraction of the incomplete beta function, x below (a + 1) / (a + b + 2). */
static double fraction(double a, double b, double x)
{
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    if (fabs(d) < tiny) d = tiny;
    d = 1 / d;
    double f = d;
    for (int m = 1; m < 10000; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)), change = 1;
        for (int half = 0; half < 2; half++) {
            double term = half ? odd : even;
            d = 1 + term * d;
            c = 1 + term / c;
            if (fabs(d) < tiny) d = tiny;
            if (fabs(c) < tiny) c = tiny;
            d = 1 / d;
            change = c * d;
            f *= change;
        }
        if (fabs(change - 1) < 1e-15) break;
    }
    return f;
}

double beta_cdf(double a, double b, double x)
{
    if (!(x > 0)) return 0;
    if (!(x < 1)) return 1;
    double front = exp(log_gamma(a + b) - log_gamma(a) - log_gamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1) / (a + b + 2)) return front * fraction(a, b, x) / a;
    return 1 - front * fraction(b, a, 1 - x) / b;
}

double beta_quantile(double a, double b, double p)
{
    double lo = 0, hi = 1;
    for (int i = 0; i < 1100; i++) { /* small quantiles need the exponents below 1 too */
        double middle = lo + (hi - lo) / 2;
        if (middle == lo || middle == hi) break;
        *(beta_cdf(a, b, middle) < p ? &lo : &hi) = middle;
    }
    return lo + (hi - lo) / 2;
}

double student_cdf(double t, double df)
{
    double tail = .5 * beta_cdf(df / 2, .5, df / (df + t * t)); /* Abramowitz and Stegun 26.7.1 */
    return t > 0 ? 1 - tail : tail;
}

double student_quantile(double p, double df)
{
    if (p == .5) return 0;
    double x = beta_quantile(df / 2, .5, 2 * fmin(p, 1 - p)), t = sqrt(df * (1 - x) / x);
    return p < .5 ? -t : t;
}

struct share_limits share_of_clusters(const int *hits, int n, int each, double level)
{
    double trials = (double)n * each, sum = 0, spread = 0, tail = (1 - level) / 2;
    if (n < 1 || each < 1) return (struct share_limits){NAN, NAN, NAN};
    for (int i = 0; i < n; i++) sum += hits[i];
    double share = sum / trials, worth = trials / (1 + (each - 1) * SHARE_ALIKE);
    for (int i = 0; i < n; i++)
        spread += ((double)hits[i] / each - share) * ((double)hits[i] / each - share);
    if (n == 1) {
        worth = 1;
    } else {
        double variance = spread / n / (n - 1), normal = student_quantile(1 - tail, 1e6);
        double few = normal / student_quantile(1 - tail, n - 1);
        if (variance > 0) worth = fmin(worth, few * few * share * (1 - share) / variance);
    }
    double hit = share * worth, miss = worth - hit;
    return (struct share_limits){share, hit > 0 ? beta_quantile(hit, miss + 1, tail) : 0,
        miss > 0 ? beta_quantile(hit + 1, miss, 1 - tail) : 1};
}

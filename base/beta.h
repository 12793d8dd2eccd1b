/* The beta distribution, and what it gives: Student's t, and intervals for shares.
 *
 * The incomplete beta function by its continued fraction (Abramowitz and Stegun 26.5.8, evaluated
 * after Lentz), quantiles by bisection: exact to about 1e-12, and slow beside a formula, which
 * nothing here minds.
 */
#ifndef SG_BASE_BETA_H
#define SG_BASE_BETA_H

/* log Γ(x), x > 0. lgamma() writes a global of the C library, and threads would meet there. */
double log_gamma(double x);
/* P(X ≤ x), a, b > 0. */
double beta_cdf(double a, double b, double x);
/* The x with P(X ≤ x) = p. */
double beta_quantile(double a, double b, double p);
/* Student's t with df > 0 degrees of freedom: P(T ≤ t), and its inverse for p in (0, 1). */
double student_cdf(double t, double df);
double student_quantile(double p, double df);

/* Confidence limits of a share, level e.g. .95 two-sided. */
struct share_limits {
    double share, lo, hi;
};

/* hits[i] of the same number `each` of trials in every one of n clusters, whose trials are alike
 * (heads on one text): Clopper and Pearson's exact interval for as many independent trials as these
 * are worth, after Korn and Graubard (Survey Methodology 24, 1998): the spread between clusters
 * says how many, Student's t pays for having few of them. That spread is 0 when no cluster has a
 * hit, so trials of a cluster are never taken for less alike than SHARE_ALIKE. One cluster counts
 * as one trial. */
#define SHARE_ALIKE .1
struct share_limits share_of_clusters(const int *hits, int n, int each, double level);

#endif

/* Two things timed in turns until the numbers stand still.
 *
 * Turns (A B A B …) let both see the same machine as it drifts. Warm-up goes on until a pair is
 * within WARM_WITHIN of the one before it. Then pairs are added until the standard error of both
 * medians is small enough, or time runs out. No number of pairs ends it before min_seconds have
 * passed: past max_pairs the newest take the place of the oldest. The rule follows nvbench's
 * stopping criterion (noise below a bound, a least number of samples and time) with a robust
 * spread: 1.2533 · 1.4826 · MAD / √n is the standard error of a median of normal data.
 */
#ifndef SG_HARNESS_MEASURE_STOPWATCH_H
#define SG_HARNESS_MEASURE_STOPWATCH_H

#include "base/status.h"

#include <stdbool.h>

enum { STOPWATCH_MAX = 200, STOPWATCH_WARM_UP = 5 /* at most so many pairs */ };

struct stopwatch_rule {
    int min_pairs, max_pairs; /* 5, STOPWATCH_MAX */
    double noise;             /* standard error of the median over the median: .01 */
    double max_seconds;       /* of one comparison: 20 */
    double min_seconds;       /* before times are given up as too noisy: .5 */
};
extern const struct stopwatch_rule stopwatch_default;

struct stopwatch {
    double a[STOPWATCH_MAX], b[STOPWATCH_MAX]; /* seconds, pair by pair, warm-up left out */
    int n, n_warm_up;
    int n_timed;             /* pairs in all; more than n where old ones made room */
    double seconds;          /* all of it took, warm-up too */
    double noise_a, noise_b; /* reached */
    bool valid;
    char note[128]; /* the condition that was not met; "" when valid */
};

typedef enum status stopwatch_body(void *ctx);

/* b NULL: only a is timed. */
enum status stopwatch_run(const struct stopwatch_rule *rule, stopwatch_body *a, stopwatch_body *b,
    void *ctx, struct stopwatch *out) MUST_USE;

/* Sets noise, valid and note of the times that are there; says whether they stand still. */
bool stopwatch_judge(const struct stopwatch_rule *rule, struct stopwatch *w);

/* Standard error of the median over the median; n >= 2. */
double stopwatch_noise(const double *seconds, int n);

#endif

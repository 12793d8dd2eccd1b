#include "harness/latency.h"
#include "harness/stopwatch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <time.h>

Test(break_even, never_always_and_between)
{
    int lengths[] = {256, 512, 1024};
    cr_assert(isinf(break_even_length(lengths, (double[]){1.2, 1.1, 1.0}, 3)));
    cr_assert_eq(break_even_length(lengths, (double[]){.9, .8, .7}, 3), 0);
    /* equal distances from 1 on the logarithmic axis: the geometric mean of both lengths */
    double at = break_even_length(lengths, (double[]){1.25, 1.25, .8}, 3);
    cr_assert_float_eq(at, sqrt(512.0 * 1024.0), 1e-9, "%g", at);
}

Test(break_even, an_early_win_that_is_lost_again_does_not_count)
{
    int lengths[] = {256, 512, 1024, 2048};
    double at = break_even_length(lengths, (double[]){.9, 1.1, 1.1, .5}, 4);
    cr_assert(at > 1024 && at < 2048, "%g", at);
}

Test(stopwatch, noise_is_the_error_of_the_median)
{
    double still[8] = {1, 1, 1, 1, 1, 1, 1, 1}, loud[8] = {1, 2, 1, 2, 1, 2, 1, 2};
    cr_assert_eq(stopwatch_noise(still, 8), 0);
    cr_assert_float_eq(stopwatch_noise(loud, 8), 1.2533 * 1.4826 * .5 / sqrt(8) / 1.5, 1e-12);
}

struct fake {
    int n_a, n_b, order_broken;
    long a_ns, jitter_ns;
};

static void sleep_ns(long ns)
{
    nanosleep(&(struct timespec){0, ns}, NULL);
}

static enum status run_a(void *ctx)
{
    struct fake *f = ctx;
    f->order_broken += f->n_a != f->n_b;
    sleep_ns(f->a_ns + (f->n_a++ % 2 ? f->jitter_ns : 0));
    return OK;
}

static enum status run_b(void *ctx)
{
    struct fake *f = ctx;
    f->order_broken += f->n_a != f->n_b + 1;
    f->n_b++;
    sleep_ns(f->a_ns);
    return OK;
}

static enum status run_bad(void *ctx)
{
    (void)ctx;
    return fail(ERR_NUMERIC, "planted");
}

Test(stopwatch, takes_turns_and_counts_pairs)
{
    struct fake f = {.a_ns = 200000};
    struct stopwatch_rule rule = {.min_pairs = 4, .max_pairs = 6, .noise = .5, .max_seconds = 5};
    struct stopwatch w;
    cr_assert_eq(stopwatch_run(&rule, run_a, run_b, &f, &w), OK);
    cr_assert_eq(f.order_broken, 0);
    cr_assert(w.n >= 4 && w.n <= 6);
    cr_assert_eq(f.n_a, w.n + w.n_warm_up);
    for (int i = 0; i < w.n; i++) cr_assert(w.a[i] >= 2e-4 && w.b[i] >= 2e-4);
}

Test(stopwatch, noise_that_stays_is_named)
{
    struct fake f = {.a_ns = 100000, .jitter_ns = 4000000};
    struct stopwatch_rule rule = {.min_pairs = 4, .max_pairs = 8, .noise = .001, .max_seconds = 5};
    struct stopwatch w;
    cr_assert_eq(stopwatch_run(&rule, run_a, run_b, &f, &w), OK);
    cr_assert_not(w.valid);
    cr_assert_eq(w.n, 8);
    cr_assert(strstr(w.note, "noise") && strstr(w.note, "8 pairs"), "%s", w.note);
}

Test(stopwatch, a_failure_ends_it)
{
    struct stopwatch w;
    cr_assert_eq(stopwatch_run(&stopwatch_default, run_bad, NULL, NULL, &w), ERR_NUMERIC);
}

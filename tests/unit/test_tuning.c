/* What is said of thresholds on text that nothing was chosen by: the counting, its interval, and
 * the tightening of bounds. */
#include "base/beta.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "harness/measure/tuning.h"
#include "suites/suite.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())

/* Values of printed tables. */
Test(tuning, quantiles_are_those_of_the_tables)
{
    static const struct {
        double p, df, t;
    } rows[] = {{.975, 1, 12.7062}, {.975, 2, 4.3027}, {.95, 4, 2.1318}, {.975, 10, 2.2281},
        {.995, 30, 2.7500}, {.025, 4, -2.7764}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        cr_expect(fabs(student_quantile(rows[i].p, rows[i].df) - rows[i].t) < 6e-5, "%g",
            student_quantile(rows[i].p, rows[i].df));
    cr_expect(fabs(beta_cdf(2, 3, .4) - .5248) < 1e-12); /* 1 - (1 - x)^4 - 4 x (1 - x)^3 */
    cr_expect(fabs(beta_cdf(1, 1, .3) - .3) < 1e-14);
    for (double p = .01; p < 1; p += .07)
        cr_expect(fabs(beta_cdf(.5, 7, beta_quantile(.5, 7, p)) - p) < 1e-11);
    /* Clopper and Pearson, 3 of 20: .0321 to .3789 */
    struct share_limits x = share_of_clusters((const int[20]){1, 1, 1}, 20, 1, .95);
    cr_expect(x.share == .15 && x.lo < .0322 && x.hi > .3788, "%g to %g", x.lo, x.hi);
}

static double gamma_of(struct rng *r, double shape)
{
    if (shape < 1) return gamma_of(r, shape + 1) * pow(rng_unit(r) + 1e-300, 1 / shape);
    double d = shape - 1. / 3, c = 1 / sqrt(9 * d);
    for (;;) { /* Marsaglia and Tsang */
        double x = sqrt(-2 * log(1 - rng_unit(r))) * cos(6.283185307179586 * rng_unit(r)),
               v = 1 + c * x;
        v = v * v * v;
        if (v > 0 && log(1 - rng_unit(r)) < .5 * x * x + d - d * v + d * log(v)) return d * v;
    }
}

/* 30 heads a text that are over or not alike by `alike` (beta-binomial): the interval covers the
 * true share. */
Test(tuning, the_interval_of_a_share_covers, .timeout = 60)
{
    static const double shares[] = {.01, .05, .2}, alikes[] = {.03, .1, .2};
    static const int texts[] = {2, 3, 5, 8, 16};
    struct rng r;
    rng_init(&r, 5);
    for (int a = 0; a < 9; a++)
        for (int t = 0; t < 5; t++) {
            double share = shares[a / 3], k = 1 / alikes[a % 3] - 1;
            int n_covered = 0, hits[16];
            enum { ROUNDS = 400 };
            for (int round = 0; round < ROUNDS; round++) {
                for (int i = 0; i < texts[t]; i++) {
                    double x = gamma_of(&r, share * k), y = gamma_of(&r, (1 - share) * k),
                           p = x / (x + y);
                    hits[i] = 0;
                    for (int j = 0; j < 30; j++) hits[i] += rng_unit(&r) < p;
                }
                struct share_limits l = share_of_clusters(hits, texts[t], 30, .95);
                cr_assert(l.lo <= l.share && l.share <= l.hi);
                n_covered += l.lo <= share && share <= l.hi;
            }
            cr_expect(n_covered >= .92 * ROUNDS, "share %g, alike %g, %d texts: %g covered", share,
                alikes[a % 3], texts[t], (double)n_covered / ROUNDS);
        }
}

static struct over_bound count_over(const double *ratios, int n_samples, int n_cells)
{
    struct over_bound_count c;
    over_bound_begin(&c, n_cells);
    for (int s = 0; s < n_samples; s++) over_bound_add(&c, ratios + s * n_cells);
    return over_bound_end(&c);
}

Test(tuning, pairs_over_the_bound_are_counted)
{
    double ratios[] = {
        .5, NAN, 1.0, 1.3, /* first text */ .9, NAN, 1.1, 1.2, /* second */ .2, NAN, .4, .9};
    struct over_bound o;
    char text[OVER_BOUND_TEXT];
    o = count_over(ratios, 3, 4);
    cr_expect(o.n_samples == 3 && o.n_heads == 3 && o.n_over == 3 && o.heads_over == 2 &&
        o.samples_over == 2);
    cr_expect(o.worst == 1.3 && fabs(o.share - 1. / 3) < 1e-12 && o.lo < o.share && o.hi > o.share);
    cr_expect(strstr(over_bound_text(&o, text), "3 of 9 pairs") && strstr(text, "2 of 3 heads") &&
            strstr(text, "1.30 x"),
        "%s", text);
    o = count_over((double[]){NAN, NAN}, 1, 2);
    cr_expect(isnan(o.share) && o.n_heads == 0);
    cr_expect(strstr(over_bound_text(&o, text), "no head"), "%s", text);
    o = count_over((double[]){INFINITY}, 1, 1);
    cr_expect_eq(o.n_over, 1);
    o = count_over(NULL, 0, 3);
    cr_expect(isnan(o.share) && o.n_samples == 0);
}

Test(tuning, too_few_samples_are_shared_out)
{
    struct tuning_samples w = {5, 2, 5};
    CHECK(tuning_split(&w, 12, "x"));
    cr_expect(w.n_tune == 5 && w.n_check == 2 && w.n_held_out == 5);
    CHECK(tuning_split(&w, 6, "x"));
    cr_expect(w.n_tune == 3 && w.n_check == 1 && w.n_held_out == 2);
    w = (struct tuning_samples){1, 2, 5};
    CHECK(tuning_split(&w, 3, "x"));
    cr_expect(w.n_tune == 1 && w.n_check == 1 && w.n_held_out == 1);
    w = (struct tuning_samples){5, 2, 5};
    cr_expect_eq(tuning_split(&w, 2, "few"), ERR_ARG);
    cr_expect(strstr(status_message(), "few has 2"), "%s", status_message());
    w = (struct tuning_samples){5, 0, 0};
    CHECK(tuning_split(&w, 1, "x"));
    cr_expect(w.n_tune == 1 && w.n_check == 0 && w.n_held_out == 0);
}

enum { N_TUNE = 2, N_CHECK = 6, N_HELD = 3, N_SAMPLES = N_TUNE + N_CHECK + N_HELD };

struct bench {
    struct setup setup;
    struct machine_options machine;
    struct sparse_policy policy;
    struct sample_set set;
    struct tune_sample samples[N_SAMPLES];
};

static void bench_open(struct bench *b)
{
    *b = (struct bench){.machine = MACHINE_DEFAULTS};
    CHECK(par_open(&b->setup.par, 2));
    CHECK(model_open(&b->setup.model, SG_SOURCE_DIR "/suites/demo/model", b->setup.par));
    const struct llama_config *c = &b->setup.model.weights.config;
    CHECK(policy_init(&b->policy, &mask_sparge, c->n_layers, c->n_heads));
    CHECK(policy_set_layers(&b->policy, "1-6"));
    struct suite_options o = {.tokenizer = b->setup.model.tokenizer,
        .argument = "",
        .max_length = 512,
        .num_samples = N_SAMPLES,
        .min_length = 256,
        .tuning = true};
    CHECK(suite_load("chronicle", &o, &b->set));
    cr_assert_eq(b->set.n_samples, N_SAMPLES);
    for (int i = 0; i < N_SAMPLES; i++)
        b->samples[i] = (struct tune_sample){
            b->set.samples[i].ids, b->set.samples[i].n, b->set.samples[i].name, false};
}

static void bench_close(struct bench *b)
{
    sample_set_clear(&b->set);
    policy_clear(&b->policy);
    model_close(&b->setup.model);
    par_close(&b->setup.par);
}

static struct tune_args args_of(const struct bench *b, const struct tune_bounds *bounds)
{
    return (struct tune_args){.weights = &b->setup.model.weights,
        .par = b->setup.par,
        .policy = &b->policy,
        .rule = RULE_L1,
        .samples = b->samples,
        .n_samples = N_SAMPLES,
        .bounds = bounds,
        .n_bounds = 1,
        .min_sparsity = .05};
}

static bool same_thresholds(const struct tuned *x, const struct tuned *y)
{
    char a[33], b[33];
    return strcmp(tuned_hash(x, a), tuned_hash(y, b)) == 0;
}

/* The held-out texts have no say: thresholds are those of a tuning that never saw them, and other
 * texts there change nothing but what is said of them. The errors are those that a tuning measures
 * on the same texts. */
Test(tuning, held_out_texts_have_no_say, .timeout = 300)
{
    static const struct tune_bounds bounds = {.06, .07};
    struct bench b;
    struct tuned with, without, moved, seen;
    struct tune_times times;
    bench_open(&b);
    struct tune_args a = args_of(&b, &bounds);
    struct tuning_samples want = {N_TUNE, 1, 2}, none = {N_TUNE, 1, 0};
    CHECK(tuning_run(&b.setup, 1, &b.machine, &a, want, 0, &with, &times));
    CHECK(tuning_run(&b.setup, 1, &b.machine, &a, none, 0, &without, &times));
    cr_expect(with.num_samples == N_TUNE && with.num_check == 1 && with.num_held_out == 2 &&
        with.over.n_samples == 2);
    cr_expect(without.num_held_out == 0 && without.over.n_samples == 0);
    cr_expect(same_thresholds(&with, &without), "held-out texts moved thresholds");
    for (int i = 0; i < 2; i++) {
        struct tune_sample swap = b.samples[3 + i];
        b.samples[3 + i] = b.samples[6 + i];
        b.samples[6 + i] = swap;
    }
    CHECK(tuning_run(&b.setup, 1, &b.machine, &a, want, 0, &moved, &times));
    cr_expect(same_thresholds(&with, &moved), "other held-out texts moved thresholds");
    int n_over = 0, n_sparse = 0, n_other = 0;
    for (int i = 0; i < with.n_layers * with.n_heads; i++) {
        const struct tuned_head *h = &with.heads[i];
        if (!h->in_range || !h->params.is_sparse) continue;
        n_sparse++;
        n_over += h->held_out.l1 > .07;
        n_other += h->held_out.l1 != moved.heads[i].held_out.l1;
    }
    cr_expect(n_sparse > 0 && with.over.n_heads == n_sparse && with.over.heads_over == n_over &&
        n_other > 0);
    /* a tuning on the held-out texts under loose bounds, for its way of measuring: the same
     * thresholds give the same error */
    struct head_error *errors =
        malloc(sizeof *errors * (size_t)(with.n_layers * with.n_heads) * N_TUNE);
    struct tune_args on_tuning = a;
    on_tuning.n_samples = N_TUNE;
    CHECK(tune_errors(&on_tuning, &with, 1, errors));
    seen = with;
    for (int i = 0; i < with.n_layers * with.n_heads; i++) {
        if (!with.heads[i].in_range || !with.heads[i].params.is_sparse) {
            cr_expect(isnan(errors[i].l1));
            continue;
        }
        double worst = fmax(errors[i].l1, errors[with.n_layers * with.n_heads + i].l1);
        cr_expect_eq(worst, seen.heads[i].tune.l1, "head %d: %.9g, tuned at %.9g", i, worst,
            seen.heads[i].tune.l1);
    }
    free(errors);
    tuned_clear(&with);
    tuned_clear(&without);
    tuned_clear(&moved);
    bench_close(&b);
}

/* The share that is asked for is reached on check texts with room for their number, and the bounds
 * stay those given. */
Test(tuning, coverage_tightens_the_bounds, .timeout = 300)
{
    static const struct tune_bounds bounds = {.06, .07};
    struct bench b;
    struct tuned plain, covered;
    struct tune_times times;
    bench_open(&b);
    struct tune_args a = args_of(&b, &bounds);
    struct tuning_samples want = {N_TUNE, N_CHECK, N_HELD}, chosen_only = {N_TUNE, 0, 0};
    CHECK(tuning_run(&b.setup, 1, &b.machine, &a, chosen_only, 0, &plain, &times));
    CHECK(tuning_run(&b.setup, 1, &b.machine, &a, want, .85, &covered, &times));
    cr_expect(covered.l1 == bounds.l1 && covered.pv_l1 == bounds.pv_l1 && covered.coverage == .85);
    cr_expect(covered.tightened < 1 && covered.tightened > .2, "%g", covered.tightened);
    cr_expect(covered.num_check == N_CHECK && covered.num_held_out == N_HELD);
    int n = plain.n_layers * plain.n_heads;
    struct head_error *errors = malloc(2 * sizeof *errors * (size_t)n * N_CHECK);
    struct tuned both[2] = {plain, covered};
    struct over_bound over[2];
    struct tune_args check = a;
    check.samples = b.samples + N_TUNE;
    check.n_samples = N_CHECK;
    CHECK(tune_errors(&check, both, 2, errors));
    for (int i = 0; i < 2; i++)
        over[i] = tuned_over(&both[i], errors + i * n * N_CHECK, N_CHECK, .07);
    cr_expect(over[0].share > .15, "nothing to cover: %g over", over[0].share);
    cr_expect(over[1].share < .15 && over[1].share < over[0].share,
        "%g of the pairs are over, %g without", over[1].share, over[0].share);
    cr_expect(over[1].n_heads > 0);
    free(errors);
    tuned_clear(&covered);
    want.n_check = 1;
    cr_expect_eq(tuning_run(&b.setup, 1, &b.machine, &a, want, .99, &covered, &times), ERR_ARG);
    cr_expect(strstr(status_message(), "--check"), "%s", status_message());
    tuned_clear(&plain);
    bench_close(&b);
}

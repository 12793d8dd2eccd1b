/* Do the intervals cover what they say? Samples are drawn from stored evaluations
 * (tests/golden/samples.csv), as many as a user would take, and each interval is held against the
 * value over all that are stored.
 *
 * The tables of docs/statistics.md: SG_COVERAGE=20000 build/tests/test_coverage prints them, with
 * so many draws.
 */
#include "base/rng.h"
#include "results/estimates.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(coverage, .timeout = 3600);

enum { MOST_SETS = 8, MOST = 256, MOST_ITEMS = 64, MOST_DRAWN = 2048, N_SIZES = 5 };
static const int sizes[N_SIZES] = {3, 5, 8, 16, 32};

struct population {
    char name[32];
    struct sample_record samples[MOST];
    /* questions of a text, and those answered right by the dense side alone */
    int n_items[MOST], lost[MOST];
    int n;
};
static struct population sets[MOST_SETS];
static int n_sets;

static void read_sets(void)
{
    FILE *f = fopen(TESTS_DIR "/golden/samples.csv", "r");
    char line[1024], name[32];
    cr_assert_not_null(f);
    n_sets = 0;
    while (fgets(line, sizeof line, f)) {
        struct sample_record s = {0};
        int items, lost;
        if (sscanf(line, "%31[^,],%ld,%ld,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%lf,%d,%d",
                name, &s.n_tokens, &s.n_scored, &s.kl_mean, &s.cosine_mean, &s.token_accuracy,
                &s.nll_dense_sum, &s.nll_sparse_sum, &s.logits_cosine, &s.logits_dense_rms,
                &s.logits_sparse_rms, &s.qk_sparsity, &s.pv_sparsity, &s.tiles_possible,
                &s.pv_possible, &items, &lost) != 17)
            continue; /* the heading */
        if (!n_sets || strcmp(sets[n_sets - 1].name, name) != 0) {
            cr_assert_lt(n_sets, MOST_SETS);
            sets[n_sets] = (struct population){.n = 0};
            snprintf(sets[n_sets++].name, sizeof sets->name, "%s", name);
        }
        struct population *p = &sets[n_sets - 1];
        cr_assert_lt(p->n, MOST);
        p->samples[p->n] = s;
        p->n_items[p->n] = items;
        p->lost[p->n++] = lost;
    }
    fclose(f);
    cr_assert_geq(n_sets, 4);
}

/* Texts drawn with replacement, as records. */
struct draw {
    struct sample_record samples[MOST_DRAWN];
    struct item_record items[32 * MOST_ITEMS];
    struct estimate_source source;
};

static void take(struct draw *d, const struct population *p, int i)
{
    int n = (int)d->source.n_samples++;
    d->samples[n] = p->samples[i];
    d->samples[n].sample = n;
    for (int k = 0; k < p->n_items[i] && d->source.n_items < 32 * MOST_ITEMS; k++)
        d->items[d->source.n_items++] = (struct item_record){.item = "q",
            .sample = n,
            .dense_right = true,
            .sparse_right = k >= p->lost[i],
            .dense_right_norm = -1,
            .sparse_right_norm = -1};
}

static void draw_texts(struct draw *d, const struct population *p, int n, struct rng *r)
{
    d->source = (struct estimate_source){.samples = d->samples, .items = d->items};
    for (int i = 0; i < n; i++) take(d, p, (int)rng_below(r, (uint32_t)p->n));
}

static bool true_value(const struct population *p, const char *metric, double *out)
{
    static struct draw all;
    struct estimate e;
    all.source = (struct estimate_source){.samples = all.samples, .items = all.items};
    double lost = 0, items = 0;
    for (int i = 0; i < p->n; i++) {
        all.samples[i] = p->samples[i];
        lost += p->lost[i];
        items += p->n_items[i];
    }
    all.source.n_samples = (size_t)p->n;
    if (!strcmp(metric, "score_drop")) {
        *out = lost / items;
        return items > 0;
    }
    if (!estimate_metric(&all.source, metric, &e)) return false;
    *out = e.value;
    return true;
}

static const char *const metrics[] = {
    "kl", "cosine", "token_accuracy", "logits_cosine", "ppl_ratio", "sparsity", "score_drop"};
enum { N_METRICS = sizeof metrics / sizeof *metrics };

static double coverage_of(
    const struct population *p, const char *metric, int n, int trials, struct rng *r)
{
    static struct draw d;
    double truth, covered = 0;
    if (!true_value(p, metric, &truth)) return NAN;
    for (int t = 0; t < trials; t++) {
        struct estimate e;
        draw_texts(&d, p, n, r);
        if (!estimate_metric(&d.source, metric, &e)) return NAN;
        covered += e.lo <= truth && truth <= e.hi;
    }
    return covered / trials;
}

static int long_trials(void)
{
    const char *text = getenv("SG_COVERAGE");
    return text ? atoi(text) : 0;
}

Test(coverage, intervals_cover)
{
    int trials = long_trials() ? long_trials() : 250;
    struct rng r;
    rng_init(&r, 1);
    read_sets();
    double sum[N_SIZES] = {0};
    int count[N_SIZES] = {0};
    if (long_trials())
        printf("\n| set | metric | n = 3 | 5 | 8 | 16 | 32 |\n| --- | --- | --- | --- | --- | --- "
               "| --- |\n");
    for (int s = 0; s < n_sets; s++)
        for (int m = 0; m < N_METRICS; m++) {
            double share[N_SIZES];
            for (int k = 0; k < N_SIZES; k++)
                share[k] = coverage_of(&sets[s], metrics[m], sizes[k], trials, &r);
            if (isnan(share[0])) continue;
            if (long_trials()) printf("| %s | %s |", sets[s].name, metrics[m]);
            for (int k = 0; k < N_SIZES; k++) {
                if (long_trials()) printf(" %.1f |", 100 * share[k]);
                cr_expect(share[k] > .87, "%s, %s, n = %d: %g", sets[s].name, metrics[m], sizes[k],
                    share[k]);
                sum[k] += share[k];
                count[k]++;
            }
            if (long_trials()) printf("\n");
        }
    for (int k = 0; k < N_SIZES; k++)
        cr_expect(sum[k] / count[k] > .93 && sum[k] / count[k] < .97, "n = %d: %g over all",
            sizes[k], sum[k] / count[k]);
}

/* Percentiles over positions whose texts differ: each text has a level of its own, and its
 * positions have heavy tails. */
Test(coverage, percentiles_cover)
{
    enum { TEXTS = 200, LENGTH = 1000 };
    static float all[TEXTS][LENGTH], values[32][LENGTH], pool[TEXTS * LENGTH];
    int trials = long_trials() ? long_trials() / 10 : 120;
    struct rng r;
    rng_init(&r, 2);
    for (int i = 0; i < TEXTS; i++) {
        double level = .5 * rng_normal(&r);
        for (int t = 0; t < LENGTH; t++) {
            all[i][t] = (float)exp(level + 1.5 * rng_normal(&r));
            pool[i * LENGTH + t] = all[i][t];
        }
    }
    double *sorted = malloc(sizeof *sorted * TEXTS * LENGTH);
    for (int i = 0; i < TEXTS * LENGTH; i++) sorted[i] = (double)pool[i];
    double truth = quantile(sorted, TEXTS * LENGTH, .999);
    free(sorted);
    for (int k = 0; k < N_SIZES; k++) {
        int n = sizes[k], covered = 0, open = 0, apart = 0;
        for (int t = 0; t < trials; t++) {
            struct sample_record samples[32] = {{0}};
            struct tail_record tails[32];
            float *rows[32];
            size_t keep[32];
            struct estimate e;
            for (int i = 0; i < n; i++) {
                samples[i].sample = i;
                samples[i].n_tokens = LENGTH;
                memcpy(values[i], all[rng_below(&r, TEXTS)], sizeof values[i]);
                rows[i] = values[i];
            }
            tail_choose(&tail_rules[1], rows, samples, (size_t)n, keep);
            for (int i = 0; i < n; i++) tails[i] = (struct tail_record){i, "kl", keep[i], rows[i]};
            struct estimate_source s = {
                .samples = samples, .n_samples = (size_t)n, .tails = tails, .n_tails = (size_t)n};
            cr_assert(estimate_metric(&s, "kl_p99_9", &e));
            covered += !(e.lo > truth) && !(e.hi < truth);
            open += isnan(e.hi);
            /* by one position, no more */
            apart += (metric_above(&s, "kl_p99_9", &e, truth) <= .025) != (e.lo > truth);
        }
        if (long_trials())
            printf("percentile 99.9, n = %d: %.1f %% covered, upper end open in %.1f %%\n", n,
                100. * covered / trials, 100. * open / trials);
        cr_expect_leq(apart, .02 * trials, "evidence and interval agree, n = %d: %d of %d differ",
            n, apart, trials);
        cr_expect_geq(covered, .87 * trials, "n = %d: %d of %d", n, covered, trials);
    }
}

/* Where the bound lies so many standard errors from the truth (the standard error of so many
 * texts), how often the gate says what. */
Test(coverage, the_gate_errs_as_seldom_as_it_says)
{
    static struct draw d;
    static const double away[] = {-4, -3, -2, -1, 0, 1, 2, 3, 4};
    int trials = long_trials() ? long_trials() : 300;
    struct rng r;
    rng_init(&r, 3);
    read_sets();
    for (int k = 1; k < N_SIZES; k += 2) {
        int n = sizes[k];
        double pass[9] = {0}, fail_[9] = {0};
        for (int s = 0; s < n_sets; s++) {
            double truth, squares = 0, mean = 0;
            cr_assert(true_value(&sets[s], "kl", &truth));
            for (int i = 0; i < sets[s].n; i++) mean += sets[s].samples[i].kl_mean / sets[s].n;
            for (int i = 0; i < sets[s].n; i++)
                squares += pow(sets[s].samples[i].kl_mean - mean, 2);
            double error = sqrt(squares / sets[s].n / n);
            for (int t = 0; t < trials; t++) {
                struct estimate e;
                draw_texts(&d, &sets[s], n, &r);
                cr_assert(estimate_metric(&d.source, "kl", &e));
                /* max-kl: the bound lies above the truth when away is positive */
                for (int a = 0; a < 9; a++) {
                    double bound = truth + away[a] * error;
                    if (bound <= 0) {
                        fail_[a] += 1.0 / trials / n_sets;
                        continue;
                    }
                    pass[a] += (estimate_below(&e, bound) <= .025) / (double)trials / n_sets;
                    fail_[a] += (estimate_above(&e, bound) <= .025) / (double)trials / n_sets;
                }
            }
        }
        for (int a = 0; a < 9 && long_trials(); a++)
            printf("gate, n = %d, bound %+g standard errors from the truth: pass %.1f %%, "
                   "ambiguous %.1f %%, fail %.1f %%\n",
                n, away[a], 100 * pass[a], 100 * (1 - pass[a] - fail_[a]), 100 * fail_[a]);
        cr_expect_leq(pass[4] + fail_[4], .08, "n = %d at the bound: %g, %g", n, pass[4], fail_[4]);
        cr_expect_leq(pass[2], .01, "a bound broken by two standard errors passed");
        cr_expect_leq(fail_[6], .02, "a bound kept by two standard errors failed");
    }
}

/* "About N samples would decide": taken at its word, it decides in four cases of five of all the
 * bounds, near and far, that five samples leave open. */
Test(coverage, advice_is_worth_taking)
{
    enum { N = 5, NEARNESS = 4 };
    static struct draw d;
    int trials = long_trials() ? long_trials() / 10 : 200, asked[NEARNESS] = {0},
        decided[NEARNESS] = {0};
    struct rng r;
    rng_init(&r, 4);
    read_sets();
    for (int s = 0; s < n_sets; s++) {
        double truth, squares = 0, mean = 0;
        cr_assert(true_value(&sets[s], "kl", &truth));
        for (int i = 0; i < sets[s].n; i++) mean += log(sets[s].samples[i].kl_mean) / sets[s].n;
        for (int i = 0; i < sets[s].n; i++)
            squares += pow(log(sets[s].samples[i].kl_mean) - mean, 2);
        double error = sqrt(squares / sets[s].n / N);
        for (int t = 0; t < trials; t++) {
            struct estimate e;
            double away = 8 * (rng_unit(&r) - .5), bound = truth * exp(away * error);
            draw_texts(&d, &sets[s], N, &r);
            cr_assert(estimate_metric(&d.source, "kl", &e));
            if (estimate_below(&e, bound) <= .025 || estimate_above(&e, bound) <= .025) continue;
            double n = estimate_samples_to_decide(&e, bound);
            if (!(n < MOST_DRAWN)) continue;
            int near = (int)fabs(away);
            asked[near]++;
            draw_texts(&d, &sets[s], (int)n, &r);
            cr_assert(estimate_metric(&d.source, "kl", &e));
            decided[near] += estimate_below(&e, bound) <= .025 || estimate_above(&e, bound) <= .025;
        }
    }
    int all_asked = 0, all_decided = 0;
    for (int k = 0; k < NEARNESS; k++) {
        all_asked += asked[k];
        all_decided += decided[k];
        if (long_trials())
            printf("advice, bound %d to %d standard errors away: %d asked, %.1f %% decided\n", k,
                k + 1, asked[k], 100. * decided[k] / asked[k]);
    }
    if (long_trials())
        printf("advice: %d asked, %.1f %% decided\n", all_asked, 100. * all_decided / all_asked);
    cr_assert_gt(all_asked, 50);
    cr_expect(all_decided > .73 * all_asked && all_decided < .9 * all_asked, "%d of %d",
        all_decided, all_asked);
}

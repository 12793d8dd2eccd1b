#include "harness/measure/latency.h"
#include "harness/measure/setup.h"
#include "harness/measure/stopwatch.h"
#include "reports/break_even.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
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

static void sleep_ns(long ns) { nanosleep(&(struct timespec){0, ns}, NULL); }

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
    /* eight at least: of an odd number more than half are alike, and half-way spread is none */
    struct stopwatch_rule rule = {.min_pairs = 8, .max_pairs = 8, .noise = .001, .max_seconds = 5};
    struct stopwatch w;
    cr_assert_eq(stopwatch_run(&rule, run_a, run_b, &f, &w), OK);
    cr_assert_not(w.valid);
    cr_assert_eq(w.n, 8);
    cr_assert(strstr(w.note, "noise") && strstr(w.note, "8 pairs in "), "%s", w.note);
    /* not given up at once where the rule has a least time: the newest pairs are kept */
    rule.min_seconds = .12;
    f = (struct fake){.a_ns = 100000, .jitter_ns = 4000000};
    cr_assert_eq(stopwatch_run(&rule, run_a, run_b, &f, &w), OK);
    cr_assert_not(w.valid);
    cr_assert_eq(w.n, 8);
    cr_assert(w.seconds >= .12 && w.n_timed >= 8 && w.n_timed == f.n_a - w.n_warm_up, "%d in %g s",
        w.n_timed, w.seconds);
    /* one thing alone makes no pairs */
    rule.min_seconds = 0;
    rule.min_pairs = 8; /* of an odd number more than half are alike, and half-way spread is none */
    f = (struct fake){.a_ns = 100000, .jitter_ns = 4000000};
    cr_assert_eq(stopwatch_run(&rule, run_a, NULL, &f, &w), OK);
    cr_assert(strstr(w.note, "8 passes in "), "%s", w.note);
}

Test(stopwatch, a_failure_ends_it)
{
    struct stopwatch w;
    cr_assert_eq(stopwatch_run(&stopwatch_default, run_bad, NULL, NULL, &w), ERR_NUMERIC);
}

static const struct latency_record *row_of(
    const struct evaluation *e, const char *part, int n_tokens)
{
    for (size_t i = 0; i < e->data.n_latencies; i++)
        if (!strcmp(e->data.latencies[i].part, part) && e->data.latencies[i].n_tokens == n_tokens)
            return &e->data.latencies[i];
    return NULL;
}

static const struct metric_record *metric_of(const struct evaluation *e, const char *name)
{
    for (size_t i = 0; i < e->data.n_metrics; i++)
        if (!strcmp(e->data.metrics[i].name, name)) return &e->data.metrics[i];
    return NULL;
}

static double seconds_of(const struct evaluation *e, const char *part, int n_tokens)
{
    const struct latency_record *r = row_of(e, part, n_tokens);
    return r ? r->median : 0;
}

#define ok(expr) cr_assert_eq((expr), OK, "%s", status_message())

static const char *const part_names[] = {
    "attention", "linear", "rest", "predict", "qk", "pv", "attention_dense"};
enum { N_PARTS = sizeof part_names / sizeof *part_names };

/* All parts of a pass over its time. */
static double parts_of(const struct evaluation *e, const char *pass, int n_tokens)
{
    char name[64];
    double sum = 0;
    for (int k = 0; k < N_PARTS; k++) {
        snprintf(name, sizeof name, "%s_%s", pass, part_names[k]);
        sum += seconds_of(e, name, n_tokens);
    }
    snprintf(name, sizeof name, "prefill_%s", pass);
    return sum / seconds_of(e, name, n_tokens);
}

static bool about_one(double x) { return x > .4 && x < 2.5; }

static bool add_up(const struct evaluation *e, const struct sample_set *set)
{
    bool yes = true;
    for (int i = 0; i < set->n_samples; i++)
        yes &= about_one(parts_of(e, "dense", set->samples[i].n)) &&
            about_one(parts_of(e, "sparse", set->samples[i].n));
    return yes;
}

/* The parts are those of whole passes: they add up to one, within what a busy machine adds, and the
 * timed passes know nothing of them. */
Test(latency, parts_add_up_to_a_pass, .timeout = 120)
{
    struct setup setup = {0};
    struct machine_options machine = MACHINE_DEFAULTS;
    struct sample_options samples = SAMPLE_DEFAULTS;
    struct sample_set set = {0};
    struct sparse_policy policy = {0};
    struct evaluation e = {0};
    const struct stopwatch_rule quick = {
        .min_pairs = 3, .max_pairs = 3, .noise = .5, .max_seconds = 10};
    machine.threads = 1;
    samples.suites = (struct text_list){{"speed:lengths=32,272"}, 1};
    samples.max_length = 272;
    ok(setup_open(&setup, &machine, SG_SOURCE_DIR "/suites/demo/model"));
    ok(setup_samples(&setup, &samples, 0, false, &set));
    const struct llama_config *c = &setup.model.weights.config;
    ok(policy_init(&policy, &mask_sparge, c->n_layers, c->n_heads));
    policy_set_thresholds(&policy, -1, .5, 50);
    policy.layer_on[0] = 0;
    /* again where another process took time from the passes and not from their parts */
    for (int i = 0; i < 10 && (i == 0 || !add_up(&e, &set)); i++) {
        if (i > 0) evaluation_clear(&e);
        ok(latency_measure(&(struct evaluate_args){.model = &setup.model,
                               .par = setup.par,
                               .set = &set,
                               .policy = &policy,
                               .quiet = true,
                               .timing = &quick},
            &e));
    }
    for (int i = 0; i < 2; i++) {
        int n = set.samples[i].n;
        for (int k = 0; k < N_PARTS; k++) {
            char name[64];
            snprintf(name, sizeof name, "dense_%s", part_names[k]);
            cr_expect_eq(row_of(&e, name, n) != NULL, k < 3, "%s at %d", name, n);
            snprintf(name, sizeof name, "sparse_%s", part_names[k]);
            /* 32 tokens are too few to be sparse */
            cr_expect_eq(row_of(&e, name, n) != NULL,
                (k > 0 && n > 256) || (k > 0 && k < 3) || k == 6, "%s at %d", name, n);
        }
        cr_expect(about_one(parts_of(&e, "dense", n)), "%g", parts_of(&e, "dense", n));
        cr_expect(about_one(parts_of(&e, "sparse", n)), "%g", parts_of(&e, "sparse", n));
        cr_expect(row_of(&e, "prefill_dense", n)->n == 3 && row_of(&e, "dense_rest", n)->n == 3);
    }
    /* sparsity is that of the longest prompt, whose times the metrics hold; every length's pass is
     * counted as calls */
    const struct metric_record *sparsity = metric_of(&e, "sparsity"),
                               *even = metric_of(&e, BREAK_EVEN);
    bool valid = true; /* a machine that is busy has times, and none that are shown as results */
    for (int i = 0; i < 2; i++)
        valid &= row_of(&e, "prefill_dense", set.samples[i].n)->valid &&
            row_of(&e, "prefill_sparse", set.samples[i].n)->valid;
    cr_assert(sparsity);
    cr_expect_eq(even != NULL, valid);
    cr_expect_eq(metric_of(&e, "latency_ratio") != NULL, valid);
    cr_expect(sparsity->mean > 0 && sparsity->n == 1);
    cr_expect_eq(e.data.run.attention_calls, 2 * c->n_layers);
    cr_expect_eq(
        e.data.run.dense_fallback_calls, c->n_layers - 1, "32 tokens; layer 0 is dense anyway");
    for (int part = BREAK_EVEN_AT; part <= BREAK_EVEN_HI && even; part++) {
        double length;
        enum break_even_side side = break_even_read(even, part, &length);
        cr_expect(side != BREAK_EVEN_UNKNOWN && length == 272,
            "32 tokens ran dense and tell nothing: part %d: %g", part, length);
    }
    evaluation_clear(&e);
    policy_clear(&policy);
    sample_set_clear(&set);
    setup_close(&setup);
}

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "harness/cli/command.h"
#include "reports/gate.h"
#include "harness/measure/gate_again.h"
#include "harness/measure/selftest.h"
#include "reports/runjson.h"
#include "reports/tables.h"
#include "results/store.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(gate, .timeout = 120);

#define ok(expr) cr_assert_eq((expr), OK, "%s", status_message())
#define has(text, part) \
    cr_assert(          \
        (text) && strstr(text, part), "no \"%s\" in:\n%s", part, (text) ? (text) : "(nothing)")
#define lacks(text, part) cr_assert(!(text) || !strstr(text, part), "\"%s\" in:\n%s", part, text)

/* A run made by hand: four samples whose means are the overall numbers. */
struct made {
    struct run_record run;
    struct metric_record metrics[12];
    struct sample_record samples[4];
    struct latency_record times[2];
    struct run_view view;
};

static void put_metric(struct made *m, const char *name, double mean, double half)
{
    struct metric_record *r = &m->metrics[m->view.metrics.n++];
    *r = metric_record_empty("overall", name, 1000);
    r->mean = mean;
    r->lo = mean - half;
    r->hi = mean + half;
    r->std_error = half / student_quantile(.975, 8); /* of nine passes */
}

/* The row that evaluation would have stored. */
static void put_estimate(struct made *m, const char *name)
{
    struct estimate_source s = run_view_source(&m->view);
    struct estimate e;
    cr_assert(estimate_metric(&s, name, &e), "%s", name);
    put_metric(m, name, e.value, 0);
    m->metrics[m->view.metrics.n - 1].lo = e.lo;
    m->metrics[m->view.metrics.n - 1].hi = e.hi;
}

/* Sample i is off by (i - 1.5) * spread, so that a difference of two runs has the same sign on
 * every sample. */
static void make(
    struct made *m, double cosine, double kl, double agreement, double sparsity, double spread)
{
    const double cosine_off = spread > 0 ? 0 : .0024; /* a half-width of about .005 */
    *m = (struct made){0};
    m->run = (struct run_record){
        .id = 7,
        .key = "k",
        .key_json = "{}",
        .status = RUN_DONE,
        .method = "sparge",
        .block_q = 128,
        .block_k = 64,
        .smooth_k = "running",
        .l1 = NAN,
        .pv_l1 = NAN,
        .simthreshd1 = .6,
        .cdfthreshd = .98,
        .pvthreshd = 50,
        .topk = NAN,
        .window = -1,
        .layers = "all",
        .heads = "all",
        .max_length = 2048,
        .num_samples = 4,
        .threads = 2,
        .device = "cpu",
        .attention_calls = 32,
        .peak_bytes = 100 << 20,
        .peak_device_bytes = -1,
        .score = "all",
        .model = {.fingerprint = "m1", .name = "model"},
        .dataset = {.fingerprint = "d1", .name = "text"},
        .machine = {.fingerprint = "x", .cpu = "cpu", .n_cores = 2},
    };
    for (int i = 0; i < 4; i++) {
        double off = (i - 1.5) * spread;
        m->samples[i] = (struct sample_record){
            .sample = i,
            .n_tokens = 1000,
            .n_scored = 1000,
            .cosine_mean = cosine + (i - 1.5) * cosine_off + off * (1 + 10 * cosine - 9),
            .kl_mean = kl - off,
            .token_accuracy = agreement,
            .sparsity = sparsity,
            .nll_dense_sum = 2000,
            .nll_sparse_sum = 2000 + 1000 * kl,
            .qk_sparsity = sparsity,
            .pv_sparsity = sparsity,
            .tiles_possible = 100,
            .pv_possible = 200,
        };
    }
    m->view = (struct run_view){.run = &m->run,
        .label = "run 7",
        .metrics = {m->metrics, 0, NULL},
        .samples = {m->samples, 4, NULL},
        .latencies = {m->times, 0, NULL}};
    static const char *const names[] = {"cosine", "kl", "token_accuracy", "sparsity", "ppl_ratio"};
    for (int i = 0; i < 5; i++) put_estimate(m, names[i]);
}

static struct gate_result judged(
    const struct made *m, const struct made *baseline, struct gate_bounds b)
{
    struct gate_result g;
    ok(gate_run(
        &(struct gate_subject){.run = &m->view, .baseline = baseline ? &baseline->view : NULL}, &b,
        &g));
    return g;
}

static enum check_outcome outcome(
    const struct made *m, const struct made *baseline, struct gate_bounds b)
{
    struct gate_result g = judged(m, baseline, b);
    enum check_outcome o = g.outcome;
    gate_result_clear(&g);
    return o;
}

Test(gate, an_interval_decides_or_says_how_many_samples_would)
{
    struct made m;
    make(&m, .97, .01, .96, .4, 0);
    struct gate_bounds b = gate_no_bounds();
    b.min_cosine = .9639;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_PASS);
    b.min_cosine = .9761;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_FAIL);
    b.min_cosine = .972;
    struct gate_result g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_AMBIGUOUS);
    has(g.checks[0].message, "samples would decide in four cases of five (now 4)");
    m.metrics[0].lo = .99; /* what is stored of an interval is not what is judged */
    m.metrics[0].hi = .999;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_AMBIGUOUS);
    cr_expect_eq(outcome_exit_code(g.outcome), 4);
    gate_result_clear(&g);
    b.by_mean = true;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_FAIL);
    b = gate_no_bounds();
    struct gate_result none;
    cr_expect_eq(gate_run(&(struct gate_subject){.run = &m.view}, &b, &none), ERR_ARG);
}

/* One sample says nothing of others; what is no estimate needs no others. */
Test(gate, one_sample_decides_nothing)
{
    struct made m, before;
    make(&m, .99, .01, .97, .4, 0);
    struct gate_bounds b = gate_no_bounds();
    m.view.samples.n = 1;
    static const double bounds[] = {.9, .999};
    struct gate_result g;
    for (int i = 0; i < 2; i++) {
        b.min_cosine = bounds[i];
        g = judged(&m, NULL, b);
        cr_expect_eq(g.outcome, CHECK_AMBIGUOUS, "one sample neither passes nor fails");
        cr_expect_eq(outcome_exit_code(g.outcome), 4);
        has(g.checks[0].message, "one sample gives no interval; raise --num-samples");
        gate_result_clear(&g);
    }
    b.by_mean = true;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_FAIL);
    b = gate_no_bounds();
    b.max_memory_mib = 101;
    b.max_sample_kl = .02;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_PASS);
    make(&before, .99, .01, .97, .4, 0);
    b = gate_no_bounds();
    b.max_kl_rise = .1;
    g = judged(&m, &before, b);
    cr_expect_eq(g.outcome, CHECK_AMBIGUOUS, "nor does a difference on one sample");
    has(g.checks[0].message, "one sample");
    gate_result_clear(&g);
    make(&m, .99, .01, .97, .4, 0);
    b = gate_no_bounds();
    b.min_cosine = .9;
    m.samples[2].cosine_mean = NAN;
    g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_INVALID, "a row of a metric without its samples is no evidence");
    has(g.checks[0].message, "does not hold what");
    gate_result_clear(&g);
}

/* A percentile is judged by its own interval, and is ambiguous where there is none. */
Test(gate, percentiles_have_intervals_of_their_own)
{
    enum { N = 2000 };
    struct made m;
    static float kl[4][N];
    float *values[4];
    size_t keep[4];
    struct tail_record tails[4];
    struct rng r;
    rng_init(&r, 4);
    make(&m, .99, .01, .97, .4, .001);
    for (int i = 0; i < 4; i++) {
        m.samples[i].n_tokens = N;
        for (int t = 0; t < N; t++) kl[i][t] = (float)exp(rng_normal(&r));
        values[i] = kl[i];
    }
    tail_choose(&tail_rules[1], values, m.samples, 4, keep);
    for (int i = 0; i < 4; i++) {
        cr_expect(keep[i] > 0 && keep[i] < N / 10, "%zu", keep[i]);
        tails[i] = (struct tail_record){i, "kl", keep[i], kl[i]};
    }
    m.view.tails = (struct tail_list){tails, 4, NULL};
    put_estimate(&m, "kl_p99_9"); /* of the lognormal: exp(3.09) = 22 */
    const struct metric_record *row = &m.metrics[m.view.metrics.n - 1];
    cr_expect(row->mean > 12 && row->mean < 40, "%g", row->mean);
    cr_expect(row->lo < row->mean && row->lo > 5, "%g", row->lo);
    struct gate_bounds b = gate_no_bounds();
    b.max_kl_p99_9 = 2;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_FAIL);
    b.max_kl_p99_9 = row->mean * 1.01;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_AMBIGUOUS);
    b.max_kl_p99_9 = 1e6;
    cr_expect_eq(outcome(&m, NULL, b), isnan(row->hi) ? CHECK_AMBIGUOUS : CHECK_PASS);
    m.view.samples.n = m.view.tails.n = 1;
    b.max_kl_p99_9 = 2;
    struct gate_result g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_AMBIGUOUS, "one sample");
    has(g.checks[0].message, "one sample gives no interval");
    gate_result_clear(&g);
    m.view.tails.n = 0;
    g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_INVALID);
    gate_result_clear(&g);
}

/* The worst text is bounded by what it is: a mean over texts hides one disaster. */
Test(gate, the_worst_sample_can_be_bounded)
{
    struct made m;
    make(&m, .99, .01, .97, .4, .001);
    m.samples[3].kl_mean = .3;
    struct gate_bounds b = gate_no_bounds();
    b.max_sample_kl = .2;
    struct gate_result g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_FAIL);
    cr_expect_float_eq(g.checks[0].value, .3, 1e-12);
    gate_result_clear(&g);
    b.max_sample_kl = .31;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_PASS);
}

/* A run that ran dense most of the time measured dense against dense. */
Test(gate, mostly_dense_is_invalid)
{
    struct made m;
    make(&m, .99, .01, .97, .4, .001);
    struct gate_bounds b = gate_no_bounds();
    b.min_cosine = .5;
    m.run.dense_fallback_calls = 16;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_PASS, "half of 32");
    m.run.dense_fallback_calls = 17;
    struct gate_result g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_INVALID);
    has(g.checks[g.n - 1].message, "most calls fell back to dense");
    gate_result_clear(&g);
}

/* Eight bits without a tile left out are something measured, but not where nothing differs. */
Test(gate, dense_is_not_passed_off_as_eight_bits)
{
    struct made m;
    struct gate_bounds b = gate_no_bounds();
    b.min_cosine = .5;
    make(&m, .99, .01, .97, 0, 0);
    m.run.qk = "int8";
    cr_expect_eq(outcome(&m, NULL, b), CHECK_PASS);
    make(&m, 1, 0, 1, 0, 0);
    m.run.qk = "int8";
    struct gate_result g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_INVALID);
    has(g.checks[g.n - 1].message, "not one position differs");
    gate_result_clear(&g);
}

/* Of bounds that are exactly kept, one in twenty would be seen broken by each: together they may
 * not be. */
Test(gate, several_bounds_are_judged_together)
{
    enum { TRIALS = 200 };
    struct rng r;
    rng_init(&r, 6);
    int broken = 0, alone = 0;
    for (int t = 0; t < TRIALS; t++) {
        struct made m;
        make(&m, .9, .1, .9, .4, .001);
        for (int i = 0; i < 4; i++) {
            m.samples[i].cosine_mean = .9 + .01 * rng_normal(&r);
            m.samples[i].kl_mean = .1 + .01 * rng_normal(&r);
            m.samples[i].token_accuracy = .9 + .01 * rng_normal(&r);
            m.samples[i].qk_sparsity = .4 + .01 * rng_normal(&r);
            m.samples[i].pv_sparsity = m.samples[i].qk_sparsity;
        }
        struct gate_bounds b = gate_no_bounds();
        b.min_cosine = b.min_token_accuracy = .9;
        b.max_kl = .1;
        b.min_sparsity = .4;
        struct gate_result g = judged(&m, NULL, b);
        broken += g.outcome == CHECK_FAIL;
        for (size_t i = 0; i < g.n; i++)
            if (g.checks[i].message && strstr(g.checks[i].message, "judged together")) {
                alone++;
                break;
            }
        gate_result_clear(&g);
    }
    cr_expect_leq(broken, TRIALS * .05, "%d of %d", broken, TRIALS); /* .025, of four */
    cr_expect_gt(alone, TRIALS / 40, "%d were broken each by itself", alone);
}

Test(gate, what_differs_looks_different)
{
    struct made m;
    make(&m, .99989, .01, .97, .4, 0);
    for (int i = 0; i < 4; i++) m.samples[i].cosine_mean = .99989 + (i - 1.5) * 3.5e-6;
    struct gate_bounds b = gate_no_bounds();
    b.min_cosine = .9999;
    struct gate_result g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_FAIL);
    cr_expect_gt(g.checks[0].hi, .999895);
    lacks(g.checks[0].message, "0.9999], the bound");
    has(g.checks[0].message, "the bound is >= 0.9999");
    gate_result_clear(&g);
    cr_expect_eq(digits_apart(.5, .5, 4), 4);
    cr_expect_eq(digits_apart(.99994, .9999, 4), 5);
}

Test(gate, a_change_is_judged_by_the_paired_difference)
{
    struct made before, after;
    make(&before, .990, .010, .97, .40, .02); /* samples spread far more than the runs differ */
    make(&after, .986, .015, .96, .35, .02);
    struct gate_bounds b = gate_no_bounds();
    b.max_kl_rise = .004;
    struct gate_result g = judged(&after, &before, b);
    cr_assert_eq(g.outcome, CHECK_FAIL);
    cr_expect_float_eq(g.checks[0].value, .005, 1e-9);
    cr_expect_lt(g.checks[0].hi - g.checks[0].lo, 1e-6, "pairing takes the spread of samples away");
    has(g.checks[0].message, "rise of kl");
    gate_result_clear(&g);
    b.max_kl_rise = .006;
    b.max_cosine_drop = .02;
    b.max_sparsity_drop = .06;
    b.max_token_accuracy_drop = .02;
    cr_expect_eq(outcome(&after, &before, b), CHECK_PASS);
    b.max_sparsity_drop = .04;
    cr_expect_eq(outcome(&after, &before, b), CHECK_FAIL);
    cr_expect_eq(outcome(&before, &after, b), CHECK_PASS, "better is no regression");
    b = gate_no_bounds();
    b.max_cosine_drop = .002;
    g = judged(&after, &before, b);
    cr_expect_eq(g.outcome, CHECK_FAIL);
    cr_expect_float_eq(g.checks[0].value, .004, 1e-9, "a drop is positive");
    cr_expect(g.checks[0].lo <= g.checks[0].value && g.checks[0].value <= g.checks[0].hi);
    gate_result_clear(&g);
}

Test(gate, a_baseline_that_does_not_fit_is_no_judgement)
{
    struct made before, after;
    make(&before, .99, .01, .97, .4, .01);
    make(&after, .99, .01, .97, .4, .01);
    struct gate_bounds b = gate_no_bounds();
    b.max_kl_rise = .1;
    struct gate_result g = judged(&after, NULL, b);
    cr_expect_eq(g.outcome, CHECK_INVALID);
    has(g.checks[0].message, "--baseline");
    gate_result_clear(&g);
    before.run.dataset.fingerprint = "d2";
    g = judged(&after, &before, b);
    cr_expect_eq(g.outcome, CHECK_INVALID);
    has(g.checks[0].message, "data.fingerprint");
    gate_result_clear(&g);
    cr_expect(gate_needs_baseline(&b));
    b = gate_no_bounds();
    b.max_kl = .1;
    cr_expect_not(gate_needs_baseline(&b));
}

Test(gate, differences_within_the_floor_hold)
{
    struct made before, after;
    make(&before, .99, .0100, .97, .4, .01);
    make(&after, .99, .0101, .97, .4, .01);
    struct noise_record floor = {.metric = "kl", .value = .001, .source = "repeat"};
    struct noise_list floors = {&floor, 1, NULL};
    struct gate_bounds b = gate_no_bounds();
    b.max_kl_rise = .00001;
    cr_expect_eq(outcome(&after, &before, b), CHECK_FAIL);
    struct gate_result g;
    ok(gate_run(&(struct gate_subject){&after.view, &before.view, &floors}, &b, &g));
    cr_expect_eq(g.outcome, CHECK_PASS);
    gate_result_clear(&g);
    b = gate_no_bounds(); /* nor is what is that near to dense told from it */
    b.max_kl = 0;
    cr_expect_eq(outcome(&after, NULL, b), CHECK_FAIL);
    floor.value = .011;
    ok(gate_run(&(struct gate_subject){&after.view, NULL, &floors}, &b, &g));
    cr_expect_eq(g.outcome, CHECK_PASS);
    gate_result_clear(&g);
}

Test(gate, memory_and_times)
{
    struct made before, m;
    make(&before, .99, .01, .97, .4, .01);
    make(&m, .99, .01, .97, .4, .01);
    struct gate_bounds b = gate_no_bounds();
    b.max_memory_mib = 101;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_PASS);
    b.max_memory_mib = 99;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_FAIL);
    m.run.peak_bytes = -1;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_INVALID, "unknown is not little");
    m.run.peak_bytes = 120 << 20;
    b = gate_no_bounds();
    b.max_memory_rise = .1;
    cr_expect_eq(outcome(&m, &before, b), CHECK_FAIL);
    b.max_memory_rise = .3;
    cr_expect_eq(outcome(&m, &before, b), CHECK_PASS);
    before.run.machine.cpu = "another";
    struct gate_result g = judged(&m, &before, b);
    cr_expect_eq(g.checks[0].outcome, CHECK_SKIPPED);
    cr_expect_eq(g.outcome, CHECK_INVALID, "a gate that asked nothing does not pass");
    has(g.checks[0].message, "another machine");
    gate_result_clear(&g);
    b.min_sparsity = .1;
    cr_expect_eq(
        outcome(&m, &before, b), CHECK_PASS, "what does not apply does not hinder the rest");

    b = gate_no_bounds();
    b.max_latency_ratio = .8;
    g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_INVALID);
    has(g.checks[0].message, "run the suite speed");
    gate_result_clear(&g);
    m.times[0] = (struct latency_record){.part = "prefill_dense",
        .n_tokens = 4096,
        .n = 9,
        .median = 2,
        .q1 = 1.9,
        .q3 = 2.1,
        .valid = true};
    m.times[1] = (struct latency_record){.part = "prefill_sparse",
        .n_tokens = 4096,
        .n = 9,
        .median = 1,
        .q1 = .9,
        .q3 = 1.1,
        .valid = true};
    m.view.latencies.n = 2;
    put_metric(&m, "latency_ratio", .51, .02); /* of pairs: not the ratio of both medians */
    m.metrics[m.view.metrics.n - 1].n = 9;
    m.view.samples.n = 0; /* as a run that only takes times */
    m.metrics[1].name = "none";
    g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_PASS);
    cr_expect_float_eq(g.checks[0].value, .51, 1e-12);
    cr_expect_float_eq(g.checks[0].hi, .53, 1e-9);
    gate_result_clear(&g);
    b.max_latency_ratio = .52;
    g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_AMBIGUOUS);
    has(g.checks[0].message, "over 9 timed passes");
    lacks(g.checks[0].message, "samples"); /* more samples are no more passes */
    gate_result_clear(&g);
    b.max_latency_ratio = .4;
    cr_expect_eq(outcome(&m, NULL, b), CHECK_FAIL);
    m.times[0].valid = false;
    m.times[0].note = "drift";
    g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_INVALID, "a time that is not valid decides nothing");
    has(g.checks[0].message, "drift");
    gate_result_clear(&g);
}

Test(gate, metrics_that_disagree_are_told)
{
    struct made m;
    struct gate_bounds b = gate_no_bounds();
    b.min_cosine = .95;
    make(&m, .99, .08, .93, .4, 0);
    struct gate_result g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_PASS, "a bound that holds passes");
    has(g.alarm, "disagree");
    gate_result_clear(&g);
    b.strict = true;
    g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_AMBIGUOUS);
    cr_expect_str_eq(g.checks[g.n - 1].name, "metrics-agree");
    gate_result_clear(&g);
    b.strict = false;
    b.max_kl = NAN;
    make(&m, .99, .01, .97, .4, 0);
    g = judged(&m, NULL, b);
    cr_expect_eq(g.outcome, CHECK_PASS);
    cr_expect_null(g.alarm);
    gate_result_clear(&g);
    make(&m, .93, .001, .99, .4, 0);
    g = judged(&m, NULL, b);
    has(g.alarm, "centred");
    cr_expect_eq(g.outcome, CHECK_FAIL);
    gate_result_clear(&g);
    b = gate_no_bounds();
    b.min_sparsity = .1;
    make(&m, .99, .08, .93, .4, 0);
    cr_expect_eq(outcome(&m, NULL, b), CHECK_PASS);
}

Test(gate, a_failure_must_happen_twice_when_asked)
{
    struct made first, second;
    struct gate_bounds b = gate_no_bounds();
    b.max_kl = .05;
    b.min_sparsity = .3;
    make(&first, .99, .10, .97, .4, 0);
    make(&second, .99, .11, .97, .4, 0);
    struct gate_result g = judged(&first, NULL, b), again = judged(&second, NULL, b);
    gate_confirm(&g, &again);
    cr_expect_eq(g.outcome, CHECK_FAIL);
    has(g.checks[0].message, "confirmed by a second run: 0.11");
    gate_result_clear(&again);
    gate_result_clear(&g);
    make(&second, .99, .01, .97, .4, 0);
    g = judged(&first, NULL, b);
    again = judged(&second, NULL, b);
    gate_confirm(&g, &again);
    cr_expect_eq(g.outcome, CHECK_AMBIGUOUS);
    has(g.checks[0].message, "not confirmed");
    gate_result_clear(&again);
    gate_result_clear(&g);
    g = judged(&first, NULL, b);
    gate_unconfirmed(&g, "the model is gone");
    cr_expect_eq(g.outcome, CHECK_FAIL, "what cannot be tried again stays as it is");
    has(g.checks[0].message, "the model is gone");
    gate_result_clear(&g);
}

Test(gate, every_bound_survives_its_file)
{
    char *dir = dir_make(), *path = path_join(dir, "gate.json");
    struct gate_bounds b = gate_no_bounds(), back = gate_no_bounds();
    double *field = (double *)&b, *read = (double *)&back;
    size_t n = offsetof(struct gate_bounds, by_mean) / sizeof *field;
    for (size_t i = 0; i < n; i++) field[i] = .01 * (double)(i + 1);
    ok(gate_bounds_write(&b, path));
    ok(gate_bounds_read(&back, path));
    for (size_t i = 0; i < n; i++) cr_expect_eq(read[i], field[i], "field %zu", i);
    free(path);
    dir_remove(dir);
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

/* A check that failed is a failure, one that could not be judged an error, one that does not apply
 * is skipped. */
Test(gate, junit_says_what_the_gate_said)
{
    struct made before, m;
    make(&before, .99, .01, .97, .4, .01);
    make(&m, .99, .10, .97, .4, .01);
    before.run.threads = 8;
    struct gate_bounds b = gate_no_bounds();
    b.max_kl = .05;         /* broken */
    b.min_sparsity = .1;    /* holds */
    b.max_score_drop = .1;  /* not measured */
    b.max_memory_rise = .1; /* other threads: does not apply */
    struct gate_result g = judged(&m, &before, b);
    cr_assert_eq(g.n, 4u);
    cr_expect_eq(g.outcome, CHECK_INVALID);
    struct str xml = {0};
    junit_xml(g.checks, g.n, "s", g.alarm, 1, "2026-01-01T00:00:00Z", &xml);
    has(str_get(&xml), "<property name=\"warning\" value=\"The metrics disagree");
    has(str_get(&xml), "tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\"");
    cr_expect_eq(count(str_get(&xml), "<failure "), 1u);
    cr_expect_eq(count(str_get(&xml), "<error "), 1u);
    cr_expect_eq(count(str_get(&xml), "<skipped "), 1u);
    cr_expect_eq(count(str_get(&xml), "<testcase "), 4u);
    str_clear(&xml);
    gate_result_clear(&g);
}

/* One finding of two models, or of two settings of one, is two findings to whoever collects them.
 */
Test(gate, findings_of_two_models_differ)
{
    struct str xml[3] = {{0}}, quality[3] = {{0}};
    for (int i = 0; i < 3; i++) {
        struct made m;
        make(&m, .99, .10, .97, .4, .01);
        m.run.model.name = i == 1 ? "llama-b" : "llama-a";
        if (i == 2) m.run.layers = "4-7";
        struct gate_bounds b = gate_no_bounds();
        b.max_kl = .05;
        struct gate_result g = judged(&m, NULL, b);
        junit_xml(g.checks, g.n, "s", NULL, 1, "2026-01-01T00:00:00Z", &xml[i]);
        gitlab_quality(g.checks, g.n, "gate.json", &quality[i]);
        gate_result_clear(&g);
    }
    has(str_get(&xml[0]), "classname=\"llama-a on ");
    has(str_get(&xml[1]), "classname=\"llama-b on ");
    cr_expect_str_neq(str_get(&quality[0]), str_get(&quality[1]));
    cr_expect_str_neq(str_get(&quality[0]), str_get(&quality[2]));
    for (int i = 0; i < 3; i++) {
        str_clear(&xml[i]);
        str_clear(&quality[i]);
    }
}

static char *causes_of(const struct made *m, const struct run_list *runs)
{
    struct table *t = causes_table(&m->view, runs);
    struct str text = {0};
    table_render(t, TABLE_CSV, (struct table_style){0}, &text);
    str_add(&text, "\n");
    table_render(t, TABLE_TERMINAL, (struct table_style){0}, &text);
    table_free(&t);
    return text.data;
}

/* Three causes in all, each a layer, a head and a sample with its part of the damage, by the best
 * evidence there is. */
Test(gate, causes_name_the_worst_three)
{
    struct made m;
    make(&m, .99, .01, .97, .4, 0);
    m.run.model.n_layers = 2;
    m.run.model.n_heads = 4;
    struct ledger_record ledger[8];
    struct tuned_head_record heads[8];
    static const double l1[] = {.01, .05, .02, .03, .09, .011, .04, .012};
    for (int i = 0; i < 8; i++) {
        ledger[i] = (struct ledger_record){.layer = i / 4,
            .head = i % 4,
            .tiles_possible = 100,
            .tiles_computed = 50 + i,
            .pv_possible = 200,
            .pv_computed = 100,
            .calls = 4};
        heads[i] = (struct tuned_head_record){
            .layer = i / 4, .head = i % 4, .is_sparse = i != 4, .l1_held_out = l1[i]};
    }
    m.samples[2].kl_mean = 1; /* of 1.03 */
    /* a file: samples alone */
    m.view.from_file = true;
    char *text = causes_of(&m, NULL);
    has(text, "\n,,2,0.970873");
    has(text, "in its database");
    free(text);
    m.view.from_file = false;
    /* no error known: the work left out, and said to be a guess */
    m.view.ledger = (struct ledger_list){ledger, 8, NULL};
    text = causes_of(&m, NULL);
    has(text, "\n0,0,2,");
    has(text, "guessed from the work");
    free(text);
    /* tuned: .05 of .173 in sample 2, and so on */
    struct tuned_record tuned = {.rule = "l1", .heads = heads, .n_heads = 8};
    m.view.tuned = (struct tuned_list){&tuned, 1, NULL};
    text = causes_of(&m, NULL);
    const char *first = strstr(text, "\n0,1,2,0.280"), *second = strstr(text, "\n1,2,2,0.224"),
               *third = strstr(text, "\n0,3,2,0.168");
    cr_expect(first && second && third && first < second && second < third, "%s", text);
    lacks(text, "\n1,0,"); /* a dense head causes nothing */
    cr_expect_eq(count(text, ",2,0."), 3u, "three in all: %s", text);
    has(text, "estimated from the error each head had when it was tuned");
    free(text);
    /* measured, sample by sample: another head is to blame in each */
    struct layer_error_record errors[9];
    for (int i = 0; i < 8; i++)
        errors[i] =
            (struct layer_error_record){i / 2, i % 2, 3, i % 2 == (i / 2 == 2) ? .4 : .1, 1, .5, 1};
    /* of all samples: not used here */
    errors[8] = (struct layer_error_record){-1, 0, 0, 9, 1, 9, 1};
    m.view.layer_errors = (struct layer_error_list){errors, 9, NULL};
    m.samples[1].kl_mean = .97;
    text = causes_of(&m, NULL); /* 1 + .97 + .02: .4 of .5 of each */
    cr_expect(strstr(text, "\n1,3,2,0.40201") && strstr(text, "\n0,3,1,0.38994") &&
            strstr(text, "\n0,3,2,0.1005"),
        "%s", text);
    has(text, "(--attribution)");
    free(text);
    /* end to end: one layer sparse at a time; heads by what was measured of them */
    struct run_record alone[2];
    for (int i = 0; i < 2; i++) {
        alone[i] = m.run;
        alone[i].layers = i ? "1" : "0";
        alone[i].headline = (struct headline){.kl_mean = i ? .01 : .03};
    }
    struct run_list runs = {alone, 2, NULL};
    /* sample 2 has .5 of it, layer 0 three quarters, and one head of it was seen to err */
    text = causes_of(&m, &runs);
    has(text, "\n0,3,2,0.37688");
    has(text, "one layer sparse at a time (sweep --layers each), within a layer by the L1");
    free(text);
    /* one head at a time says more */
    for (int i = 0; i < 2; i++) {
        alone[i].layers = "1";
        alone[i].heads = i ? "2" : "0";
        alone[i].headline = (struct headline){.kl_mean = i ? .03 : .01};
    }
    text = causes_of(&m, &runs);
    has(text, "\n1,2,2,0.376");
    has(text, "one head sparse at a time");
    free(text);
    /* of other thresholds: they say nothing of this run */
    alone[0].cdfthreshd = alone[1].cdfthreshd = .5;
    text = causes_of(&m, &runs);
    lacks(text, "end to end");
    free(text);
    for (int i = 0; i < 4; i++) m.samples[i].kl_mean = 0;
    struct table *t = causes_table(&m.view, NULL);
    cr_expect_eq(table_rows(t), 0u, "no damage, no cause");
    table_free(&t);
}

/* Faults, on random tensors: the map is what the fault's name says. */
Test(gate, planted_faults_do_what_they_are_called)
{
    enum { N = 600, D = 16, Q = 5, K = 10 };
    static float q[N * D], k[N * D], v[N * D];
    struct rng r;
    rng_init(&r, 3);
    /* queries of a block have a self-similarity of about .18² / (.18² + 1/12) = .28, between θ and
     * 2θ */
    for (int i = 0; i < N * D; i++) {
        q[i] = (float)rng_unit(&r) - .5f + .18f * (i / D / 128 % 2 ? 1 : -1);
        k[i] = (float)rng_unit(&r) - .5f + ((i / D / 64 * 7 + i % D) % 3 == 0 ? .8f : 0);
    }
    struct attn_args a = {.n_q = N,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = D,
        .scale = .25f,
        .q = q,
        .k = k,
        .v = v,
        .q_row = D,
        .k_row = D,
        .v_row = D,
        .block = {128, 64}};
    struct head_params head = {.theta = .2f, .tau = .5f, .lambda = NEVER_SKIP, .is_sparse = true};
    struct mask_args args = {.attn = &a, .heads = &head, .smooth_k = SMOOTH_K_RUNNING};
    bool map[N_FAULTS][Q][K] = {0};
    struct par *par;
    ok(par_open(&par, 1));
    for (int f = 0; f < N_FAULTS; f++) {
        struct tile_map t = tile_map_shape(a.block, 1, 0, N);
        t.bits = malloc(tile_map_bytes(&t));
        void *ws = aligned_alloc(64, (mask_workspace(planted_method(f), &args, 1) + 63) / 64 * 64);
        ok(mask_predict(planted_method(f), &args, &t, ws, par));
        for (int i = 0; i < Q; i++)
            for (int j = 0; j < K; j++) map[f][i][j] = tile_map_row(&t, 0, i)[0] >> j & 1;
        free(t.bits);
        free(ws);
    }
    par_close(&par);
    int kept = 0, kept_doubled = 0;
    for (int i = 1; i < Q; i++) {
        int n = 2 * i + 2 < K ? 2 * i + 2 : K;
        for (int j = 1; j < n; j++) {
            cr_expect_eq(
                map[FAULT_SHIFTED_MASK][i][j], map[FAULT_NONE][i][j - 1], "tile %d, %d", i, j);
            cr_expect_eq(map[FAULT_DROPPED_DIAGONAL][i][j], map[FAULT_NONE][i][j] && j < 2 * i,
                "tile %d, %d", i, j);
            kept += map[FAULT_NONE][i][j];
            kept_doubled += map[FAULT_DOUBLED_THETA][i][j];
        }
        cr_expect_not(map[FAULT_SHIFTED_MASK][i][0]);
        cr_expect(map[FAULT_DROPPED_DIAGONAL][i][0], "the sink stays, so that every row has a key");
    }
    cr_expect_gt(kept_doubled, kept + 3, "%d, %d", kept_doubled, kept);
}

Test(gate, the_self_test_is_as_strict_as_its_rows)
{
    struct selftest t = {0};
    for (int i = 0; i < SELFTEST_ROWS; i++)
        t.rows[i] =
            (struct selftest_row){.sound = i < 2, .outcome = i < 2 ? CHECK_PASS : CHECK_FAIL};
    cr_expect(selftest_passes(&t));
    t.rows[3].outcome = CHECK_PASS;
    cr_expect_not(selftest_passes(&t), "a fault that passed");
    t.rows[3].outcome = CHECK_AMBIGUOUS;
    cr_expect_not(selftest_passes(&t), "a fault that could not be told");
    t.rows[3].outcome = CHECK_FAIL;
    t.rows[1].outcome = CHECK_FAIL;
    cr_expect_not(selftest_passes(&t), "a sound run that was refused");
}

Test(gate, a_record_gives_its_options_back)
{
    struct made m;
    make(&m, .99, .01, .97, .4, 0);
    struct sample_options s;
    struct policy_options p;
    m.run.method = "topk";
    m.run.topk = .4;
    m.run.layers = "0-3+12";
    m.run.seed = 5;
    ok(gate_again_options(&m.run, NULL, &s, &p));
    cr_expect_str_eq(s.suites.items[0], "text");
    cr_expect_eq(s.seed, 5);
    cr_expect_eq(s.num_samples, 4);
    cr_expect_str_eq(p.block, "128x64");
    cr_expect_str_eq(p.layers, "0-3+12");
    cr_expect_eq(p.topk, .4);
    ok(gate_again_options(&m.run, "t.json", &s, &p));
    cr_expect(isnan(p.theta) && isnan(p.tau) && isnan(p.lambda), "tuned thresholds come alone");
    m.run.heads = "3";
    ok(gate_again_options(&m.run, NULL, &s, &p));
    cr_expect_str_eq(p.heads, "3");
    cr_expect_str_eq(p.smooth_k, "running");
    m.run.method = "window";
    ok(gate_again_options(&m.run, NULL, &s, &p));
    cr_expect_null(p.smooth_k, "which a window has nothing to do with");
}

/* The command itself, in a folder of its own. Returns the exit code; what was printed goes to
 * `out`. */
static int command(const char *dir, const char *words, struct str *out)
{
    char *line =
             str_format("cd '%s' && COLUMNS=1000 '%s' %s > out.txt 2>&1", dir, SG_BINARY, words),
         *path = path_join(dir, "out.txt");
    int code = system(line);
    str_reset(out);
    ok(file_read(out, path));
    free(line);
    free(path);
    return WIFEXITED(code) ? WEXITSTATUS(code) : -1;
}

#define MODEL SG_SOURCE_DIR "/suites/demo/model"
#define SHORT " --max-length 384 --num-samples 5 --cache none -q"

Test(gate, commands_end_with_the_code_of_their_outcome)
{
    char *dir = dir_make();
    struct str out = {0};
    cr_assert_eq(command(dir, "eval " MODEL " --simthreshd1 .3 --cdfthreshd .9" SHORT, &out), 0,
        "%s", str_get(&out));
    cr_assert_eq(
        command(dir, "eval " MODEL " --simthreshd1 0 --cdfthreshd .5 -o after.json" SHORT, &out),
        0);
    cr_expect_eq(command(dir, "gate 2 --max-kl .0001", &out), 1);
    has(str_get(&out), "guessed from the work");
    cr_expect_eq(
        command(dir, "eval " MODEL " --simthreshd1 0 --cdfthreshd .5 --attribution" SHORT, &out),
        0);
    lacks(str_get(&out), "stored already"); /* it is, but not with this */
    cr_expect_eq(
        command(dir, "eval " MODEL " --simthreshd1 0 --cdfthreshd .5 --attribution" SHORT, &out),
        0);
    has(str_get(&out), "stored already");
    cr_expect_eq(command(dir, "gate 2 --max-kl .0001", &out), 1);
    has(str_get(&out), "measured in each sample");
    cr_expect_eq(
        command(dir, "gate 2 --baseline 1 --max-kl-rise 9 --max-cosine-drop 1 --max-memory 100000",
            &out),
        0, "%s", str_get(&out));
    cr_expect_eq(
        command(dir, "gate after.json --baseline 1 --max-kl-rise .0001 --junit g.xml", &out), 1,
        "%s", str_get(&out));
    has(str_get(&out), "rise of kl");
    has(str_get(&out), "Worst causes");
    cr_expect_eq(command(dir, "gate 2 --max-kl .0001 --confirm -q", &out), 1);
    has(str_get(&out), "confirmed by a second run");
    cr_expect_eq(command(dir, "list --format csv --all-columns", &out), 0);
    cr_expect_eq(count(str_get(&out), "\n"), 3u, "the second run is no result of its own: %s",
        str_get(&out));
    cr_expect_eq(command(dir, "gate after.json --max-kl .0001 --confirm", &out), 1);
    has(str_get(&out), "is a file");
    cr_expect_eq(command(dir, "gate 2 --max-kl-rise 1", &out), 4, "no baseline, no judgement");
    cr_expect_eq(command(dir, "gate --self-test --max-length 256 --num-samples 2 -q", &out), 1,
        "where nothing is sparse the faults cannot show, and the gate must not be trusted");
    dir_remove(dir);
    str_clear(&out);
}

/* The object or array element at "metrics/cosine/mean": members by name, elements by number, or by
 * their name among the overall metrics; *parent and *last say where it hangs. */
static cJSON *json_at(cJSON *root, const char *path, cJSON **parent)
{
    char text[128];
    snprintf(text, sizeof text, "%s", path);
    cJSON *at = root;
    for (char *save = NULL, *word = strtok_r(text, "/", &save); word && at;
         word = strtok_r(NULL, "/", &save)) {
        *parent = at;
        if (!cJSON_IsArray(at)) {
            at = cJSON_GetObjectItemCaseSensitive(at, word);
        } else if (*word >= '0' && *word <= '9') {
            at = cJSON_GetArrayItem(at, atoi(word));
        } else {
            cJSON *row = at->child;
            while (row &&
                (strcmp(cJSON_GetObjectItem(row, "name")->valuestring, word) != 0 ||
                    strcmp(cJSON_GetObjectItem(row, "scope")->valuestring, "overall") != 0))
                row = row->next;
            at = row;
        }
    }
    cr_assert(at, "no %s", path);
    return at;
}

enum edit_how {
    EDIT_SCALE,
    EDIT_SET,
    EDIT_NULL,
    EDIT_DELETE,
    EDIT_EMPTY,
    EDIT_TEXT,
    EDIT_COPY_FIRST
};

/* One number changed by hand contradicts the rest of its file, in whatever place it stands, and no
 * gate passes on it. */
Test(gate, files_edited_by_hand_are_refused, .timeout = 600)
{
    static const struct {
        const char *path;
        enum edit_how how;
        double by;
        const char *says, *text;
    } edits[] = {
        /* the numbers that are judged */
        {"metrics/cosine/mean", EDIT_SCALE, 1.005, "output_accuracy.cosine: found", NULL},
        {"metrics/cosine/lo", EDIT_SCALE, 1.001, "(overall cosine).lo: found", NULL},
        {"metrics/kl/mean", EDIT_SCALE, .9, "output_accuracy.kl: found", NULL},
        {"metrics/kl/hi", EDIT_SCALE, .99, "(overall kl).hi: found", NULL},
        {"metrics/kl/std_error", EDIT_SCALE, .5, "(overall kl).std_error: found", NULL},
        {"metrics/kl_p99_9/mean", EDIT_SCALE, .9, "(overall kl_p99_9).mean: found", NULL},
        {"metrics/cosine_p1/hi", EDIT_SCALE, .99, "(overall cosine_p1).hi: found", NULL},
        {"metrics/kl/p99_9", EDIT_SCALE, .9, "(overall kl).p99_9: found", NULL},
        {"metrics/cosine_p1/mean", EDIT_SCALE, 1.01, "(overall cosine_p1).mean: found", NULL},
        {"metrics/ppl_ratio/mean", EDIT_SCALE, .99, "ppl_ratio", NULL},
        {"metrics/sparsity/mean", EDIT_SCALE, 1.2, "sparsity", NULL},
        {"metrics/sparsity/lo", EDIT_SCALE, 1.01, "(overall sparsity).lo: found", NULL},
        {"metrics/token_accuracy/mean", EDIT_SCALE, 1.02, "token_accuracy", NULL},
        {"metrics/score_drop/mean", EDIT_SCALE, .5, "(overall score_drop).mean: found", NULL},
        {"metrics/score_drop/hi", EDIT_SCALE, .5, "(overall score_drop).hi: found", NULL},
        {"metrics/kl", EDIT_DELETE, 0, "overall kl", NULL},
        {"metrics/kl/hi", EDIT_DELETE, 0, "(overall kl).hi: is missing", NULL},
        {"output_accuracy/kl", EDIT_SCALE, .9, "output_accuracy.kl: found", NULL},
        {"sparsity/mean", EDIT_SCALE, 1.1, "sparsity.mean: found", NULL},
        /* the samples they come from */
        {"detailed_results/0/cosine_mean", EDIT_SCALE, 1.004, "(overall cosine).mean: found", NULL},
        {"detailed_results/0/kl_mean", EDIT_SCALE, .8, "kl", NULL},
        {"detailed_results/1/kl_max", EDIT_SCALE, .9, "tails", NULL},
        {"detailed_results/0/sparsity", EDIT_SCALE, 1.1, "sparsity", NULL},
        {"detailed_results/0/qk_sparsity", EDIT_SCALE, 1.1, "detailed_results[0]", NULL},
        {"detailed_results/0/tiles_possible", EDIT_SCALE, 2, "sparsity", NULL},
        {"detailed_results/0/token_accuracy", EDIT_SCALE, 1.001, "a whole number of its positions",
            NULL},
        {"detailed_results/0/nll_sparse_sum", EDIT_SCALE, .9, "found", NULL},
        {"detailed_results/0/n_scored", EDIT_SCALE, .5, "found", NULL},
        {"detailed_results/0/kl_mean", EDIT_NULL, 0,
            "detailed_results[0].kl_mean: is missing or null", NULL},
        {"detailed_results/1/logits_dense_rms", EDIT_DELETE, 0,
            "detailed_results[1].logits_dense_rms: is missing or null", NULL},
        {"detailed_results", EDIT_EMPTY, 0, "detailed_results", NULL},
        {"detailed_results/1", EDIT_DELETE, 0, "detailed_results: found 2 samples, expected 3",
            NULL},
        {"detailed_results", EDIT_COPY_FIRST, 0, "detailed_results", NULL},
        {"detailed_results/0/text_idx", EDIT_SET, 1, "text_idx: found 1", NULL},
        {"tails/1/worst/0", EDIT_SCALE, .5, "tails[1].worst", NULL},
        {"tails/0", EDIT_DELETE, 0, "does not hold what it is computed from", NULL},
        {"tails", EDIT_DELETE, 0, "does not hold what it is computed from", NULL},
        {"items/0", EDIT_DELETE, 0, "score_", NULL},
        {"items", EDIT_DELETE, 0, "does not hold what it is computed from", NULL},
        /* what says whether they may be believed at all */
        {"config/num_samples", EDIT_SET, 4, "expected 4 as config.num_samples says", NULL},
        {"provenance/status", EDIT_TEXT, 0, "provenance.status: found failed, expected done",
            "failed"},
        {"provenance/status", EDIT_DELETE, 0, "provenance.status", NULL},
        {"provenance/attention_calls", EDIT_SET, 1000000,
            "provenance.attention_calls: found 1000000", NULL},
        {"provenance/dense_fallback_calls", EDIT_SET, 1, "provenance.dense_fallback_calls: found 1",
            NULL},
        {"config/qk", EDIT_TEXT, 0, "config.qk: found full", "full"},
        {"config/qk", EDIT_TEXT, 0, "config.qk: found int4", "int4"},
        {"config/pv", EDIT_TEXT, 0, "config.pv: found int8", "int8"},
        {"detailed_results/0/fell_back", EDIT_TEXT, 0, "fell_back", "yes"},
        /* what was measured at all: the key is the hash of its question, and that has the settings
         */
        {"config/method", EDIT_TEXT, 0, "method: sparge -> tail", "tail"},
        {"config/cdfthreshd", EDIT_SET, .4, "cdfthreshd: 0.5 -> 0.4", NULL},
        {"config/block_q", EDIT_SET, 64, "block_q: 128 -> 64", NULL},
        {"config/layers", EDIT_TEXT, 0, "layers: all -> 0-1", "0-1"},
        {"config/layers", EDIT_TEXT, 0, "layers: all -> none", "none"},
        {"config/heads", EDIT_TEXT, 0, "heads: all -> 0:1", "0:1"},
        {"config/device", EDIT_TEXT, 0, "device: cpu -> cuda:0", "cuda:0"},
        {"config/qk", EDIT_TEXT, 0, "qk: nothing -> int8", "int8"},
        {"config/pv", EDIT_TEXT, 0, "pv: nothing -> fp8", "fp8"},
        {"config/l1", EDIT_SET, .06, "l1: nothing -> 0.06", NULL},
        {"config/score", EDIT_TEXT, 0, "score: all -> second-half", "second-half"},
        {"config/max_length", EDIT_SET, 1024, "max_length: 512 -> 1024", NULL},
        {"config/smooth_k", EDIT_DELETE, 0, "smooth_k: running -> nothing", NULL},
        {"config/confirming", EDIT_SET, 1, "confirming", NULL},
        {"config/seed", EDIT_TEXT, 0, "seed: nothing -> 9", "9"},
        {"identity/model/fingerprint", EDIT_TEXT, 0, "model_fingerprint: ", "0123456789abcdef"},
        {"identity/data/fingerprint", EDIT_TEXT, 0, "tokens: ", "0123456789abcdef"},
        {"identity/data/suite", EDIT_TEXT, 0, "suite: chronicle -> needle", "needle"},
        {"provenance/engine", EDIT_TEXT, 0, "engine: ", "99"},
        {"identity/key", EDIT_TEXT, 0, "identity.key: found 0, expected", "0"},
        {"identity/key", EDIT_TEXT, 0, "identity.key: found 000000",
            "00000000000000000000000000000000"},
        {"identity/key", EDIT_DELETE, 0, "identity.key: is missing", NULL},
        {"identity/key_json", EDIT_DELETE, 0, "identity.key_json: is missing", NULL},
        {"identity/key_json", EDIT_TEXT, 0, "identity.key: found", "{}"},
        {"identity/data/n_tokens", EDIT_SCALE, 2, "identity.data.n_tokens", NULL},
        {"identity/model/n_layers", EDIT_SET, 7, "provenance.attention_calls", NULL},
    };
    char *dir = dir_make();
    struct str out = {0}, file = {0};
    cr_assert_eq(
        command(dir,
            "eval " MODEL
            " --simthreshd1 0 --cdfthreshd .5 -o run.json --max-length 512 --num-samples 3 "
            "--cache none -q",
            &out),
        0, "%s", str_get(&out));
    cr_assert_eq(
        command(dir, "gate run.json --min-cosine -1 --max-kl 99", &out), 0, "%s", str_get(&out));
    char *path = path_join(dir, "run.json"), *copy = path_join(dir, "x.json");
    ok(file_read(&file, path));
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        cJSON *root = cJSON_Parse(str_get(&file)), *parent = NULL,
              *at = json_at(root, edits[i].path, &parent);
        const char *name = strrchr(edits[i].path, '/');
        name = name ? name + 1 : edits[i].path;
        switch (edits[i].how) {
        case EDIT_SCALE:
            cr_assert(cJSON_IsNumber(at) && at->valuedouble != 0, "%s", edits[i].path);
            cJSON_SetNumberValue(at, at->valuedouble * edits[i].by);
            break;
        case EDIT_SET:
            cJSON_ReplaceItemInObjectCaseSensitive(parent, name, cJSON_CreateNumber(edits[i].by));
            break;
        case EDIT_NULL:
            cJSON_ReplaceItemInObjectCaseSensitive(parent, name, cJSON_CreateNull());
            break;
        case EDIT_EMPTY:
            cJSON_ReplaceItemInObjectCaseSensitive(parent, name, cJSON_CreateArray());
            break;
        case EDIT_TEXT:
            cJSON_ReplaceItemInObjectCaseSensitive(parent, name, cJSON_CreateString(edits[i].text));
            break;
        case EDIT_DELETE: cJSON_Delete(cJSON_DetachItemViaPointer(parent, at)); break;
        case EDIT_COPY_FIRST: {
            cJSON *twin = cJSON_Duplicate(at->child, true);
            cJSON_SetNumberValue(cJSON_GetObjectItem(twin, "text_idx"), 2);
            cJSON_ReplaceItemInArray(at, 2, twin);
            break;
        }
        }
        ok(json_write_file(copy, root));
        cJSON_Delete(root);
        int code = command(dir, "gate x.json --min-cosine -1 --max-kl 99", &out);
        cr_expect_eq(
            code, 3, "%s, edit %d: exit %d: %s", edits[i].path, edits[i].how, code, str_get(&out));
        cr_expect(strstr(str_get(&out), edits[i].says) && strstr(str_get(&out), "x.json"),
            "%s, edit %d: no \"%s\" in %s", edits[i].path, edits[i].how, edits[i].says,
            str_get(&out));
    }
    dir_remove(dir);
    free(path);
    free(copy);
    str_clear(&out);
    str_clear(&file);
}

/* A run that looks best by a metric that the others contradict is named so, and what it could tell
 * apart is said. */
Test(gate, best_names_metrics_that_disagree)
{
    char *dir = dir_make(), *db = path_join(dir, "sparsegauge.db");
    struct store *store;
    struct str out = {0};
    ok(store_open(&store, db, STORE_WRITE));
    struct made sound, doubtful;
    make(&sound, .99, .01, .97, .4, .001);
    make(&doubtful, .99, .10, .97, .6, .001);
    struct made *both[] = {&sound, &doubtful};
    for (int i = 0; i < 2; i++) {
        struct run_data d = {
            .run = both[i]->run, .metrics = both[i]->metrics, .n_metrics = both[i]->view.metrics.n};
        d.run.key = d.run.slot =
            i ? "0123456789abcdef0123456789abcdef" : "fedcba98765432100123456789abcdef";
        d.run.model = (struct model_record){.fingerprint = "m1",
            .name = "model",
            .n_layers = 2,
            .n_heads = 4,
            .n_kv_heads = 2,
            .head_dim = 64,
            .vocab = 100};
        d.run.dataset = (struct dataset_record){
            .fingerprint = "d1", .suite = "text", .name = "text", .n_samples = 4};
        d.run.software = (struct software_record){.version = "1", .engine = "1", .compiler = "cc"};
        ok(store_run_put(store, &d, false, NULL));
    }
    store_close(&store);
    cr_assert_eq(command(dir, "best --min-cosine .98", &out), 0, "%s", str_get(&out));
    has(str_get(&out), "The metrics disagree: cosine 0.9900 looks excellent, KL 0.1000");
    has(str_get(&out), "detectable on as many other texts");
    cr_assert_eq(command(dir, "best --min-cosine .98 --max-kl .05 --min-token-accuracy 90%", &out),
        0, "%s", str_get(&out));
    lacks(str_get(&out), "disagree");
    cr_assert_eq(command(dir, "frontier", &out), 0);
    has(str_get(&out), "detectable KL");
    dir_remove(dir);
    free(db);
    str_clear(&out);
}

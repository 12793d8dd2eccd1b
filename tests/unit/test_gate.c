#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "harness/cli/command.h"
#include "reports/gate.h"
#include "harness/measure/gate_again.h"
#include "reports/runjson.h"
#include "reports/tables.h"
#include "results/store.h"
#include "tests/scratch.h"
#include "tests/unit/gate_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(gate, .timeout = 120);

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

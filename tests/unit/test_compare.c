/* Two runs side by side: what changed, by how much, and how sure that is. */
#include "reports/compare.h"
#include "tests/unit/reports_fixture.h"

TestSuite(compare, .init = set_up, .fini = tear_down, .timeout = 60);

static const struct compare_row *row_of(const struct comparison *c, const char *name)
{
    for (size_t i = 0; i < c->n_rows; i++)
        if (!strcmp(c->rows[i].name, name)) return &c->rows[i];
    cr_assert_fail("no row %s", name);
    return NULL;
}

Test(compare, comparison_tells_better_from_worse)
{
    put_pair(1, 2);
    struct run_view a = view("1"), b = view("2");
    struct comparison c;
    struct compare_options o = {0};
    ok(compare_runs(&c, &a, &b, &o));
    cr_assert_eq(c.n_paired_samples, 6);
    const struct compare_row *kl = row_of(&c, "kl");
    cr_assert_float_eq(kl->difference, .05, 1e-12);
    cr_assert_float_eq(kl->ratio, 2, 1e-12);
    cr_assert(kl->lo > 0 && kl->lo < .05 && kl->hi > .05 && kl->hi < .1, "%g %g", kl->lo, kl->hi);
    cr_assert(kl->detectable > 0);
    cr_assert_eq(kl->change, CHANGE_WORSE);
    cr_assert_eq(row_of(&c, "sparsity")->change, CHANGE_BETTER);
    cr_assert_eq(row_of(&c, "ppl_ratio")->change, CHANGE_WORSE);
    cr_assert_eq(row_of(&c, "ppl_dense")->change, CHANGE_SAME);
    cr_assert_eq(row_of(&c, "latency_ratio")->change, CHANGE_BETTER);
    cr_assert_eq(row_of(&c, "score_drop")->change, CHANGE_WORSE);
    struct str verdict = {0};
    comparison_verdict(&c, &verdict);
    has(str_get(&verdict), "bands good -> poor");
    has(str_get(&verdict), "sparsity 30.0 % -> 50.0 %");
    str_clear(&verdict);
    struct table *t = comparison_table(&c, true);
    size_t changed = table_rows(t);
    char *text = render(t, TABLE_TERMINAL, (struct table_style){0});
    has(text, "KL divergence ↓");
    has(text, "worse ▼");
    has(text, "better ▲");
    has(text, "not shown");
    lacks(text, "perplexity dense ");
    free(text);
    table_free(&t);
    t = comparison_table(&c, false);
    cr_assert_gt(table_rows(t), changed);
    table_free(&t);
    comparison_clear(&c);

    struct noise_record floor = {.metric = "kl", .value = 1};
    struct noise_list floors = {&floor, 1, NULL};
    o.floors = &floors;
    ok(compare_runs(&c, &a, &b, &o));
    cr_assert(row_of(&c, "kl")->within_floor);
    cr_assert_eq(row_of(&c, "kl")->change, CHANGE_SAME);
    comparison_clear(&c);
    run_view_clear(&a);
    run_view_clear(&b);
}

Test(compare, comparison_claims_nothing_within_the_spread_of_samples)
{
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        fixture_run(&f, options((uint64_t)i + 1, .3, 1));
        for (size_t k = 0; k < f.d.n_samples; k++) /* one up, the next down by as much */
            f.samples[k].kl_mean = .05 + (i ? (k % 2 ? .02 : -.019) : 0);
        f.metrics[1].mean = .05 + .0005 * i;
        ok(store_run_put(store, &f.d, false, NULL));
        fixture_clear(&f);
    }
    struct run_view a = view("1"), b = view("2");
    struct comparison c;
    struct compare_options o = {0};
    ok(compare_runs(&c, &a, &b, &o));
    const struct compare_row *kl = row_of(&c, "kl");
    cr_assert(kl->lo < 0 && kl->hi > 0, "%g %g", kl->lo, kl->hi);
    cr_assert_eq(kl->change, CHANGE_SAME);
    comparison_clear(&c);
    a.samples.n = 1; /* too few for an interval: then nothing is claimed */
    ok(compare_runs(&c, &a, &b, &o));
    cr_assert(isnan(row_of(&c, "kl")->lo));
    cr_assert_eq(row_of(&c, "kl")->change, CHANGE_UNKNOWN);
    struct str verdict = {0};
    struct table *t = comparison_table(&c, true);
    char *text = render(t, TABLE_CSV, (struct table_style){0});
    has(text, "kl,nats,differs");
    lacks(text, "kl,nats,worse");
    free(text);
    text = render(t, TABLE_MARKDOWN, (struct table_style){0});
    has(text, "differs •");
    free(text);
    table_free(&t);
    comparison_verdict(&c, &verdict);
    has(str_get(&verdict),
        "Beyond noise: 0 better, 0 worse; not told from noise, without an interval: ");
    str_clear(&verdict);
    comparison_clear(&c);
    run_view_clear(&a);
    run_view_clear(&b);
}

/* Every row that is a mean over samples has one; where there is none by nature, the table says why.
 */
Test(compare, comparison_has_an_interval_or_says_why_not)
{
    put(options(1, .3, 1));
    put(options(2, .45, 1.6));
    struct run_view a = view("1"), b = view("2");
    struct comparison c;
    ok(compare_runs(&c, &a, &b, &(struct compare_options){0}));
    for (size_t i = 0; i < c.n_rows; i++) {
        const struct compare_row *row = &c.rows[i];
        bool by_nature = strstr(row->name, "latency") || !strcmp(row->name, "break_even_length");
        cr_expect_eq(isnan(row->lo), by_nature, "%s: [%g, %g]", row->name, row->lo, row->hi);
    }
    const struct compare_row *centred = row_of(&c, "cosine_centred");
    cr_assert(centred->lo < centred->difference && centred->difference < centred->hi);
    cr_assert_eq(centred->change, CHANGE_WORSE);
    struct str text = {0};
    struct table *t = comparison_table(&c, false);
    table_render(t, TABLE_TERMINAL, (struct table_style){0}, &text);
    has(str_get(&text), "without one: ");
    has(str_get(&text), "times of two runs do not pair");
    lacks(str_get(&text), "centred logit cosine, per position (");
    table_free(&t);
    comparison_clear(&c);

    /* 60 questions of 60 texts pair one by one; of one text they stay together */
    for (size_t i = 0; i < a.items.n; i++) a.items.rows[i].sample = b.items.rows[i].sample = 0;
    ok(compare_runs(&c, &a, &b, &(struct compare_options){0}));
    cr_assert(isnan(row_of(&c, "score_drop")->lo), "the answers of one text are one observation");
    comparison_clear(&c);

    b.metrics.n = 0;
    cr_assert_eq(compare_runs(&c, &a, &b, &(struct compare_options){0}), ERR_ARG);
    has(status_message(), "run 2: holds no metrics");
    str_clear(&text);
    run_view_clear(&a);
    run_view_clear(&b);
}

Test(compare, per_byte_answers_pair_by_their_own_judgement)
{
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        fixture_run(&f, options((uint64_t)i + 1, .3, 1));
        for (size_t k = 0; k < f.d.n_items; k++) {
            f.items[k].dense_right_norm = 1;
            f.items[k].sparse_right_norm = i == 0 || k % 2;
        }
        fixture_pooled(&f, "score_drop_norm", i ? .5 : 0, .1);
        ok(store_run_put(store, &f.d, false, NULL));
        fixture_clear(&f);
    }
    struct run_view a = view("1"), b = view("2");
    cr_assert(b.items.rows[1].sparse_right_norm && !b.items.rows[2].sparse_right_norm);
    struct comparison c;
    ok(compare_runs(&c, &a, &b, &(struct compare_options){0}));
    const struct compare_row *row = row_of(&c, "score_drop_norm");
    cr_assert(row->lo > .3 && row->hi < .7, "[%g, %g]", row->lo, row->hi);
    comparison_clear(&c);
    run_view_clear(&a);
    run_view_clear(&b);
}

Test(compare, comparison_refuses_other_tokens_and_models)
{
    struct fixture_options o = options(1, .3, 1);
    put(o);
    o.seed = 2;
    o.dataset = "99999999999999999999999999999999";
    put(o);
    struct run_view a = view("1"), b = view("2");
    struct comparison c;
    struct compare_options opts = {0};
    cr_assert_eq(compare_runs(&c, &a, &b, &opts), ERR_ARG);
    has(status_message(), "data.fingerprint");
    cr_assert_null(strstr(status_message(), "--force"), "only where there is such an option");
    opts.or_else = ", or see them with --force";
    cr_assert_eq(compare_runs(&c, &a, &b, &opts), ERR_ARG);
    has(status_message(), "--force");
    opts.force = true;
    ok(compare_runs(&c, &a, &b, &opts));
    has(c.forced, "data.fingerprint");
    cr_assert(isnan(row_of(&c, "kl")->lo), "other tokens are not paired");
    struct table *t = comparison_table(&c, false);
    char *text = render(t, TABLE_MARKDOWN, (struct table_style){0});
    has(text, "FORCED");
    free(text);
    table_free(&t);
    comparison_clear(&c);
    b.runs.rows[0].model.fingerprint = "another";
    opts.force = false;
    cr_assert_eq(compare_runs(&c, &a, &b, &opts), ERR_ARG);
    has(status_message(), "model.fingerprint");
    b.runs.rows[0].status = RUN_FAILED;
    cr_assert_eq(compare_runs(&c, &a, &b, &opts), ERR_ARG);
    has(status_message(), "did not finish");
    run_view_clear(&a);
    run_view_clear(&b);
}

/* Times do not pair and are told apart by their own intervals; other metrics need the difference's.
 */
Test(compare, unpaired_intervals_that_part_are_a_change)
{
    struct metric_record before[2], after[2];
    for (int i = 0; i < 2; i++) {
        before[i] = metric_record_empty("overall", i ? "cosine_centred" : "latency_sparse", 4);
        before[i].mean = .9;
        before[i].lo = .89;
        before[i].hi = .91;
        after[i] = before[i];
        after[i].mean = .8;
        after[i].lo = .79;
        after[i].hi = .81;
    }
    struct run_record r = {.status = RUN_DONE, .layers = "all", .window = -1};
    r.model.fingerprint = r.dataset.fingerprint = "x";
    struct run_view b = {.run = &r, .label = "b", .metrics = {before, 2, NULL}},
                    a = {.run = &r, .label = "a", .metrics = {after, 2, NULL}};
    struct comparison c;
    ok(compare_runs(&c, &b, &a, &(struct compare_options){0}));
    cr_expect_eq(c.rows[0].change, CHANGE_BETTER, "less time");
    cr_expect_eq(c.rows[1].change, CHANGE_UNKNOWN,
        "no interval of the difference, neither better nor worse");
    comparison_clear(&c);
    after[0].hi = after[1].hi = .9;
    ok(compare_runs(&c, &b, &a, &(struct compare_options){0}));
    cr_expect_eq(c.rows[0].change, CHANGE_SAME);
    cr_expect_eq(c.rows[1].change, CHANGE_UNKNOWN, "intervals that meet prove nothing");
    comparison_clear(&c);
}

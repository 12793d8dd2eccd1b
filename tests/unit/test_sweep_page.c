/* A sweep's page: its axes are found in its runs, and nothing of it is left out unsaid. */
#include "reports/answers.h"
#include "reports/axes.h"
#include "reports/report.h"
#include "reports/runjson.h"
#include "tests/unit/reports_fixture.h"

TestSuite(sweep_page, .init = set_up, .fini = tear_down, .timeout = 60);

static const char *const places[] = {"all", "0", "1-2"};

/* Two bounds by two by three layer ranges by two lengths: 24 cells, one of which failed. */
static void put_grid(const char *method, uint64_t seed, bool fail_last)
{
    for (int i = 0; i < 24; i++) {
        int l1 = i % 2, pv = i / 2 % 2, place = i / 4 % 3, length = i / 12;
        struct fixture_options o = options(seed + (uint64_t)i,
            .2 + .1 * l1 + .05 * pv + .1 * length, .1 + .3 * l1 + .2 * pv + .1 * length);
        o.layers = places[place];
        o.method = method;
        o.dataset = length ? "longer" : "shorter";
        struct fixture f;
        fixture_run(&f, o);
        f.d.run.plan = "grid";
        f.d.run.tuned_hash = l1 ? "aa" : "bb";
        f.d.run.l1 = l1 ? .06f : .04f; /* as they come from options: float made double */
        f.d.run.pv_l1 = pv ? .09 : .07;
        f.d.run.max_length = f.d.run.dataset.max_length = length ? 2048 : 1024;
        if (fail_last && i == 23) {
            f.d.run.status = RUN_FAILED;
            f.d.run.reason = "does not fit: needs 9 GiB";
        }
        ok(store_run_put(store, &f.d, false, NULL));
        fixture_clear(&f);
    }
}

static struct run_list grid_runs(void)
{
    struct run_list runs;
    ok(query_runs(store, &(struct run_filter){.plan = "grid"}, &runs));
    return runs;
}

static void count_pictures(void *ctx, size_t drawn, size_t most)
{
    size_t *told = ctx;
    cr_expect_eq(drawn, told[0] + 1);
    told[0] = drawn;
    told[1] = most;
}

Test(sweep_page, axes_are_what_varies)
{
    put_grid("sparge", 1, true);
    struct run_list runs = grid_runs();
    struct run_axes axes;
    run_axes_find(&runs, &axes);
    cr_assert_eq(axes.n, 4u);
    const struct run_axis *l1 = run_axes_get(&axes, "l1"), *layers = run_axes_get(&axes, "layers"),
                          *pv = run_axes_get(&axes, "pv_l1");
    cr_assert(l1 && layers && pv && run_axes_get(&axes, "max_length"));
    cr_expect_null(run_axes_get(&axes, "data"), "the length tells the data apart");
    cr_expect_null(run_axes_get(&axes, "tuned_hash"));
    cr_expect_eq(l1->n, 2u);
    cr_expect_eq(layers->n, 3u);
    struct str value = {0};
    run_axis_value(l1, l1->level[1], &value);
    cr_expect_str_eq(str_get(&value), "0.06", "a float shows as one");
    str_clear(&value);
    cr_expect_not(run_axis_follows(&axes, pv, l1));
    for (size_t i = 0; i < runs.n; i++)
        for (size_t k = 0; k < i; k++) {
            struct str a = {0}, b = {0};
            run_axes_label(&axes, &runs.rows[i], NULL, NULL, &a);
            run_axes_label(&axes, &runs.rows[k], NULL, NULL, &b);
            cr_assert_str_neq(str_get(&a), str_get(&b));
            str_clear(&a);
            str_clear(&b);
        }
    struct str label = {0};
    run_axes_label(&axes, &runs.rows[0], NULL, NULL, &label);
    cr_expect_str_eq(
        str_get(&label), "sparge, rule l1, length 1024, layers all, l1 0.04, pv_l1 0.07");
    str_clear(&label);
    run_list_clear(&runs);
}

Test(sweep_page, an_axis_that_follows_another_is_none_of_its_own)
{
    struct run_record rows[4] = {{.id = 1}, {.id = 2}, {.id = 3}, {.id = 4}};
    for (int i = 0; i < 4; i++) {
        rows[i].status = RUN_DONE;
        rows[i].method = i < 3 ? "sparge" : "window";
        rows[i].layers = rows[i].heads = "all";
        rows[i].l1 = i < 3 ? .04 + .02 * i : NAN;
        rows[i].pv_l1 = i < 3 ? .05 + .02 * i : NAN;
        rows[i].topk = rows[i].simthreshd1 = rows[i].cdfthreshd = rows[i].pvthreshd = NAN;
        rows[i].window = -1;
        rows[i].headline = (struct headline){
            .sparsity = .1 * i, .kl_mean = .01 * (i + 1), .kl_lo = NAN, .kl_hi = NAN};
    }
    struct run_list runs = {rows, 4, NULL};
    struct run_axes axes;
    run_axes_find(&runs, &axes);
    const struct run_axis *l1 = run_axes_get(&axes, "l1"), *pv = run_axes_get(&axes, "pv_l1");
    cr_assert(l1 && pv);
    cr_expect(run_axis_follows(&axes, pv, l1));
    cr_expect_eq(run_axis_level(l1, &rows[3]), -1, "a window has no bound");
    cr_expect_eq(run_methods(&runs), 2u);
}

Test(sweep_page, the_choice_is_the_sparsest_that_holds)
{
    put_grid("sparge", 1, true);
    struct run_list runs = grid_runs();
    bool holds;
    for (size_t i = 0; i < runs.n;
         i++) { /* by hand: the KL's upper end, and answers lost, within bounds */
        runs.rows[i].headline.score_drop = 0;
        runs.rows[i].headline.kl_hi = i == 14 || i == 2 ? .04 : .06;
        if (i == 14) runs.rows[i].headline.sparsity = .31;
    }
    cr_assert_eq(sweep_choice(&runs, &holds), 14u);
    cr_expect(holds);
    runs.rows[14].headline.score_drop = .02;
    size_t at = sweep_choice(&runs, &holds);
    cr_expect_not(holds, "the only one left is of shorter texts");
    cr_assert_neq(at, SIZE_MAX);
    cr_expect_eq(runs.rows[at].max_length, 2048);
    runs.n = 0;
    cr_expect_eq(sweep_choice(&runs, &holds), SIZE_MAX);
    runs.n = 24;
    run_list_clear(&runs);
}

static char *page_text(void)
{
    char *path = path_join(dir, "index.html");
    struct str page = {0};
    ok(file_read(&page, path));
    free(path);
    return page.data;
}

Test(sweep_page, twenty_four_cells_are_one_page)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    put_grid("sparge", 1, true);
    put_grid("bound", 100, false);
    char *plan;
    ok(report_plan(store, &plan));
    cr_assert_str_eq(plan, "grid", "the newest run's sweep");
    struct str notes = {0};
    size_t told[2] = {0};
    struct report_options o = {.dir = dir,
        .plan = plan,
        .db = db,
        .no_png = true,
        .watch = count_pictures,
        .watch_ctx = told};
    ok(report_write(store, &o, &notes));
    cr_expect(told[0] >= 25 && told[0] <= told[1], "%zu of %zu pictures", told[0], told[1]);
    cr_assert_eq(notes.len, 0, "%s", str_get(&notes));
    char *page = page_text();
    has(page, "Sweep grid of story-llama");
    has(page,
        "48 runs of story-llama; they differ in method (2), length (2), layers (3), l1 (2), pv_l1 "
        "(2)");
    has(page, "What was lost?");
    has(page, "Is it noise?");
    has(page, "What to do?");
    has(page, "does not fit: needs 9 GiB");
    has(page, "1 of 48 runs did not finish");
    has(page, "6 of 12 combinations of the other settings have maps of l1 and pv_l1");
    const char *table = strstr(page, "Every run of the sweep");
    cr_assert(table);
    char *rest = str_dup(table);
    *strstr(rest, "</table>") = 0;
    cr_expect_eq(occurrences(rest, "<tr>"), 49, "a heading and every run, failed ones too");
    free(rest);
    static const char *const pictures[] = {"frontier_kl", "frontier_cosine", "by_layers_kl",
        "by_layers_sparsity", "map_1_kl", "map_1_sparsity", "by_max_length_kl", "map_6_kl"};
    for (size_t i = 0; i < sizeof pictures / sizeof *pictures; i++) {
        char name[64];
        snprintf(name, sizeof name, "pictures/%s.svg", pictures[i]);
        cr_assert_gt(size_of(name), 1500u, "%s", name);
    }
    cr_assert_gt(size_of("tables/every-run-of-the-sweep.csv"), 1000u);
    char *path = path_join(dir, "pictures/frontier_kl.gp");
    struct str script = {0};
    ok(file_read(&script, path));
    static const char *const series[] = {"title \"sparge, rule l1, 1024 tokens\"",
        "title \"sparge, rule l1, 2048 tokens\"", "title \"bound, rule l1, 1024 tokens\"",
        "title \"bound, rule l1, 2048 tokens\""};
    for (int i = 0; i < 4; i++)
        cr_expect_eq(occurrences(str_get(&script), series[i]), 1, "%s", series[i]);
    str_clear(&script);
    free(path);
    free(page);
    free(plan);
    str_clear(&notes);
}

/* What a file says is computed again from its samples before a page is made of it; invented runs do
 * not hold. tests/check_pages.sh makes pages of files that were measured. */
Test(sweep_page, a_file_is_believed_only_when_it_agrees_with_itself)
{
    put_pair(.3, .6);
    struct run_view v = view("1");
    char *name = path_join(dir, "before.json");
    ok(runjson_write(&v, name));
    run_view_clear(&v);
    struct str notes = {0};
    struct report_options o = {.dir = dir, .run = name, .no_png = true};
    cr_expect_eq(report_write(NULL, &o, &notes), ERR_FORMAT);
    has(status_message(), "before.json");
    has(status_message(), "evaluate again");
    o.run = "1";
    cr_expect_eq(report_write(NULL, &o, &notes), ERR_ARG);
    has(status_message(), "no database");
    str_clear(&notes);
    free(name);
}

/* A run of times alone has no metric to speak of when the machine was too busy to time it. */
Test(sweep_page, times_that_are_not_valid_are_said_to_be_so)
{
    put_pair(.3, .6);
    struct run_view v = view("1"), timed = v;
    struct latency_record busy = {.part = "prefill_dense", .n_tokens = 512, .note = "drift"};
    timed.metrics = (struct metric_list){0};
    timed.samples.n = timed.items.n = timed.ledger.n = timed.layer_errors.n = 0;
    timed.latencies = (struct latency_list){.rows = &busy, .n = 1};
    struct answers a = {0};
    run_answers(&timed, NULL, NULL, NULL, &a);
    has(str_get(&a.lost), "not valid");
    cr_expect(a.where.len && a.noise.len && a.todo.len);
    answers_clear(&a);
    run_view_clear(&v);
}

#include "base/file.h"
#include "base/json.h"
#include "reports/attribution.h"
#include "reports/compare.h"
#include "reports/html.h"
#include "reports/junit.h"
#include "reports/plot.h"
#include "reports/report.h"
#include "reports/runjson.h"
#include "reports/table.h"
#include "reports/tables.h"
#include "tests/run_fixture.h"

#include <criterion/criterion.h>

#define ok(expr) cr_assert_eq((expr), OK, "%s", status_message())
#define has(text, part) cr_assert(strstr(text, part), "no \"%s\" in:\n%s", part, text)
#define lacks(text, part) cr_assert(!strstr(text, part), "found \"%s\" in:\n%s", part, text)

static char *dir, *db, *search_path;
static struct store *store;

static void set_up(void)
{
    search_path = str_dup(getenv("PATH"));
    dir = fixture_dir();
    db = path_join(dir, "results.db");
    ok(store_open(&store, db, STORE_WRITE));
}

static void tear_down(void)
{
    store_close(&store);
    free(db);
    setenv("PATH", search_path, 1); /* some tests take it away */
    free(search_path);
    fixture_remove(dir);
}

TestSuite(reports, .init = set_up, .fini = tear_down, .timeout = 60);

static struct fixture_options options(uint64_t seed, double sparsity, double error)
{
    return (struct fixture_options){.seed = seed,
                                    .n_samples = 6,
                                    .n_layers = 3,
                                    .n_heads = 4,
                                    .sparsity = sparsity,
                                    .error = error,
                                    .method = "sparge",
                                    .rule = "l1",
                                    .tasks = true,
                                    .latency = true,
                                    .words = true};
}

static void put(struct fixture_options o)
{
    struct fixture f;
    fixture_run(&f, o);
    ok(store_run_put(store, &f.d, false, NULL));
    fixture_clear(&f);
}

/* The dense side of two runs on the same tokens is one and the same. */
static void put_pair(double error_before, double error_after)
{
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        fixture_run(&f, options((uint64_t)i + 1, .3 + .2 * i, i ? error_after : error_before));
        for (size_t k = 0; k < f.d.n_samples; k++) {
            struct sample_record *s = &f.samples[k];
            double loss = s->nll_sparse_sum - s->nll_dense_sum;
            s->nll_dense_sum = 2047 * (2.4 + .03 * (double)k);
            s->nll_sparse_sum = s->nll_dense_sum + loss;
        }
        ok(store_run_put(store, &f.d, false, NULL));
        fixture_clear(&f);
    }
}

static struct run_view view(const char *name)
{
    struct run_view v;
    ok(run_view_load(&v, store, name));
    return v;
}

static char *render(struct table *t, enum table_format format, struct table_style style)
{
    struct str out = {0};
    table_render(t, format, style, &out);
    return out.data;
}

static struct table *small_table(void)
{
    struct table *t = table_new("T & \"t\"");
    table_add_column(t, (struct table_column){.name = "name"});
    table_add_column(t, (struct table_column){"share", NULL, NUMBER_PERCENT, 1, METRIC_HIGHER, ALIGN_AUTO});
    table_add_column(t, (struct table_column){"time", NULL, NUMBER_SECONDS, 1, METRIC_LOWER, ALIGN_AUTO});
    table_add_column(t, (struct table_column){.name = "same"});
    table_text(t, "a|b,\"c\"\nd");
    table_real(t, .314159);
    table_real(t, .0021);
    table_text(t, "x");
    table_text(t, "日本");
    table_missing(t);
    table_real(t, 90);
    table_mark(t, "▼");
    table_text(t, "x");
    return t;
}

Test(reports, terminal_tables_align)
{
    struct table *t = small_table();
    char *text = render(t, TABLE_TERMINAL, (struct table_style){0});
    cr_assert_str_eq(text, "T & \"t\"\n"
                           "name       share ↑    time ↓  same\n"
                           "─────────  ───────  ────────  ────\n"
                           "a|b,\"c\"⏎d   31.4 %    2.1 ms  x\n"
                           "日本             -  90.0 s ▼  x\n");
    free(text);
    text = render(t, TABLE_TERMINAL, (struct table_style){.hide_constant = true, .color = true});
    has(text, "all rows: same x");
    has(text, "\033[31m");
    free(text);
    text = render(t, TABLE_TERMINAL, (struct table_style){.hide_constant = true});
    lacks(text, "\033");
    free(text);
    table_free(&t);
    cr_assert_null(t);
}

Test(reports, terminal_tables_neither_overflow_nor_run_control_characters)
{
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "n"});
    table_add_column(t, (struct table_column){.name = "text"});
    table_int(t, 12345);
    table_text(t, "a rather long text that does not fit \033[2Jin the window at all");
    char *text = render(t, TABLE_TERMINAL, (struct table_style){.width = 30});
    for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        cr_assert_leq(text_columns(line), 30, "%s", line);
    free(text);
    text = render(t, TABLE_TERMINAL, (struct table_style){0});
    lacks(text, "\033");
    free(text);
    table_free(&t);
}

Test(reports, columns_of_text)
{
    cr_assert_eq(text_columns("abc"), 3);
    cr_assert_eq(text_columns("é"), 1);
    cr_assert_eq(text_columns("e\xcc\x81"), 1);
    cr_assert_eq(text_columns("日本"), 4);
    cr_assert_eq(text_columns("😀"), 2);
    cr_assert_eq(text_columns("\xff\xfe"), 2, "stray bytes take a column each");
}

Test(reports, tables_for_machines_keep_every_digit)
{
    struct table *t = small_table();
    char *text = render(t, TABLE_CSV, (struct table_style){.hide_constant = true});
    cr_assert_str_eq(text, "name,share,time,same\r\n"
                           "\"a|b,\"\"c\"\"\nd\",0.314159,0.0021,x\r\n"
                           "日本,,90,x\r\n");
    free(text);
    text = render(t, TABLE_JSON, (struct table_style){0});
    cJSON *rows = cJSON_Parse(text);
    cr_assert_eq(cJSON_GetArraySize(rows), 2);
    const cJSON *first = cJSON_GetArrayItem(rows, 0), *second = cJSON_GetArrayItem(rows, 1);
    cr_assert_str_eq(cJSON_GetObjectItem(first, "name")->valuestring, "a|b,\"c\"\nd");
    cr_assert_float_eq(cJSON_GetObjectItem(first, "share")->valuedouble, .314159, 0);
    cr_assert(cJSON_IsNull(cJSON_GetObjectItem(second, "share")));
    cJSON_Delete(rows);
    free(text);
    table_free(&t);
}

Test(reports, tables_escape_for_their_format)
{
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "a_b"});
    table_text(t, "<script>x|y&50%_");
    char *text = render(t, TABLE_HTML, (struct table_style){0});
    has(text, "&lt;script&gt;x|y&amp;50%_");
    free(text);
    text = render(t, TABLE_MARKDOWN, (struct table_style){0});
    has(text, "&lt;script>x\\|y&50%\\_");
    free(text);
    text = render(t, TABLE_LATEX, (struct table_style){0});
    has(text, "a\\_b");
    has(text, "\\textless{}script\\textgreater{}x|y\\&50\\%\\_");
    free(text);
    table_free(&t);
    enum table_format format;
    ok(table_format_parse("md", &format));
    cr_assert_eq(format, TABLE_MARKDOWN);
    cr_assert_eq(table_format_parse("xls", &format), ERR_ARG);
}

Test(reports, small_numbers_are_not_shown_as_nothing)
{
    struct str s = {0};
    number_format(NUMBER_FIXED, 4, 1e-6, &s);
    cr_assert_str_eq(str_get(&s), "1.0e-06");
    str_reset(&s);
    number_format(NUMBER_FIXED, 4, 0, &s);
    cr_assert_str_eq(str_get(&s), "0.0000");
    str_reset(&s);
    number_format(NUMBER_BYTES, 1, 1.5 * 1024 * 1024, &s);
    cr_assert_str_eq(str_get(&s), "1.5 MiB");
    str_clear(&s);
}

Test(reports, bands_of_the_guide)
{
    cr_assert_str_eq(verdict_of(.981, .951, .4).band, "excellent");
    cr_assert_str_eq(verdict_of(.98, .951, .4).band, "good", "the bands begin above their bound");
    cr_assert_str_eq(verdict_of(.99, .90, .4).band, "acceptable");
    cr_assert_str_eq(verdict_of(.5, .9, .4).band, "poor");
    cr_assert_str_eq(verdict_of(NAN, .9, .4).band, "unknown");
    cr_assert(verdict_of(.96, .8, .31).success);
    cr_assert(!verdict_of(.96, .8, .30).success);
    cr_assert(!verdict_of(.95, .8, .31).success);
}

Test(reports, files_hold_the_guides_keys_and_read_back)
{
    put_pair(1, 2);
    struct run_view v = view("1"), back;
    char *path = path_join(dir, "before_tune.json");
    ok(runjson_write(&v, path));
    cJSON *o;
    ok(json_read_file(&o, path));
    cr_assert_str_eq(o->child->string, "schema_version", "first of all");
    static const char *const keys[][2] = {
        {"config", "model"},
        {"config", "simthreshd1"},
        {"config", "cdfthreshd"},
        {"config", "num_samples"},
        {"config", "max_length"},
        {"config", "layer_range"},
        {"config", "l1"},
        {"config", "pv_l1"},
        {"output_accuracy", "seq_len"},
        {"output_accuracy", "logits_cosine"},
        {"output_accuracy", "logits_l1"},
        {"output_accuracy", "logits_rmse"},
        {"output_accuracy", "hidden_cosine"},
        {"output_accuracy", "hidden_l1"},
        {"output_accuracy", "token_accuracy"},
        {"output_accuracy", "top5_overlap"},
        {"sparsity", "mean"},
        {"sparsity", "std"},
        {"sparsity", "min"},
        {"sparsity", "max"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        cr_assert_not_null(cJSON_GetObjectItem(cJSON_GetObjectItem(o, keys[i][0]), keys[i][1]), "%s.%s",
                           keys[i][0], keys[i][1]);
    static const char *const texts[] = {"prompt", "dense", "sparse", "token_match", "text_similarity"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        cr_assert_not_null(
            cJSON_GetObjectItem(cJSON_GetArrayItem(cJSON_GetObjectItem(o, "generation"), 0), texts[i]));
    const cJSON *sample = cJSON_GetArrayItem(cJSON_GetObjectItem(o, "detailed_results"), 0);
    cr_assert(cJSON_GetObjectItem(sample, "text_idx") && cJSON_GetObjectItem(sample, "seq_len"));
    cJSON_Delete(o);

    ok(runjson_read(&back, path));
    cr_assert(back.from_file);
    cr_assert_str_eq(back.label, "before_tune.json");
    cr_assert_str_eq(back.run->model.fingerprint, v.run->model.fingerprint);
    cr_assert_eq(back.run->seed, v.run->seed);
    cr_assert_eq(back.run->window, -1);
    cr_assert_eq(back.metrics.n, v.metrics.n);
    cr_assert_float_eq(run_view_metric(&back, "kl"), run_view_metric(&v, "kl"), 0);
    cr_assert_float_eq(back.run->headline.ppl_ratio_hi, v.run->headline.ppl_ratio_hi, 0);
    cr_assert(isnan(metric_list_find(&back.metrics, "overall", "sparsity")->p1));
    cr_assert_eq(back.samples.n, 6);
    cr_assert_eq(memcmp(back.samples.rows, v.samples.rows, 6 * sizeof *v.samples.rows), 0);
    cr_assert_str_eq(back.generations.rows[1].sparse, v.generations.rows[1].sparse);

    struct comparison c;
    struct compare_options opts = {0};
    ok(compare_runs(&c, &v, &back, &opts));
    for (size_t i = 0; i < c.n_rows; i++) cr_assert_eq(c.rows[i].change, CHANGE_SAME, "%s", c.rows[i].name);
    cr_assert_eq(c.n_settings, 0, "a file says the same as its run: %s",
                 c.n_settings ? c.settings[0].name : "");
    comparison_clear(&c);

    char *stats = path_join(dir, "stats.json");
    ok(runjson_write_stats(&v, stats));
    ok(json_read_file(&o, stats));
    cr_assert_eq(cJSON_GetArraySize(o), 3);
    cr_assert_eq(cJSON_GetObjectItem(cJSON_GetArrayItem(o, 2), "layer_idx")->valueint, 2);
    cr_assert_not_null(cJSON_GetObjectItem(cJSON_GetArrayItem(o, 2), "mean_sparsity"));
    cJSON_Delete(o);
    cr_assert_eq(runjson_write_stats(&back, stats), ERR_ARG);
    run_view_clear(&v);
    run_view_clear(&back);
    free(stats);
    free(path);
}

Test(reports, files_that_are_not_ours_are_named_and_refused)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{", "not valid JSON"},
        {"[1]", "expected an object"},
        {"{\"config\":{}}", "schema_version is missing"},
        {"{\"schema_version\":99}", "schema_version: found 99"},
        {"{\"schema_version\":\"1\"}", "expected a number"},
        {"{\"schema_version\":1}", "field config"},
        {"{\"schema_version\":1,\"config\":{\"method\":\"sparge\",\"layers\":\"all\"}}", "field identity"},
        {"{\"schema_version\":1,\"config\":{\"method\":3,\"layers\":\"all\"}}", "config.method"},
        {"{\"schema_version\":1,\"config\":{\"method\":\"sparge\",\"layers\":\"all\"},"
         "\"identity\":{\"model\":{\"name\":\"m\"},\"data\":{}}}",
         "identity.model.fingerprint"},
    };
    char *path = path_join(dir, "bad.json");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ok(file_write_atomic(path, bad[i].text, strlen(bad[i].text)));
        struct run_view v;
        cr_assert_eq(runjson_read(&v, path), ERR_FORMAT, "%s", bad[i].text);
        has(status_message(), bad[i].says);
        has(status_message(), "bad.json");
    }
    free(path);
}

static const struct compare_row *row_of(const struct comparison *c, const char *name)
{
    for (size_t i = 0; i < c->n_rows; i++)
        if (!strcmp(c->rows[i].name, name)) return &c->rows[i];
    cr_assert_fail("no row %s", name);
    return NULL;
}

Test(reports, comparison_tells_better_from_worse)
{
    put_pair(1, 2);
    struct run_view a = view("1"), b = view("2");
    struct comparison c;
    struct compare_options o = {.seed = 7};
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
    has(str_get(&verdict), "Accuracy good -> poor");
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

Test(reports, comparison_claims_nothing_within_the_spread_of_samples)
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
    comparison_clear(&c);
    run_view_clear(&a);
    run_view_clear(&b);
}

/* Every row that is a mean over samples has one; where there is none by nature, the table says why. */
Test(reports, comparison_has_an_interval_or_says_why_not)
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

Test(reports, per_byte_answers_pair_by_their_own_judgement)
{
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        fixture_run(&f, options((uint64_t)i + 1, .3, 1));
        for (size_t k = 0; k < f.d.n_items; k++) {
            f.items[k].has_norm = f.items[k].dense_right_norm = true;
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

Test(reports, tokens_are_read_without_json)
{
    put(options(1, .3, 1));
    struct run_view v = view("1");
    struct str text = {0};
    struct table *t = worst_tokens_table(&v, 10);
    table_render(t, TABLE_TERMINAL, (struct table_style){0}, &text);
    has(str_get(&text), "\" cat\" 0.700");
    lacks(str_get(&text), "{");
    table_free(&t);
    str_reset(&text);
    top_tokens_text("[{\"id\":7,\"text\":\"a\\n\",\"p\":0.5},{\"id\":9,\"text\":\"b\",\"p\":0.25}]", 9, &text);
    cr_assert_str_eq(str_get(&text), "\"a\\n\" 0.500  *\"b\" 0.250");
    str_clear(&text);
    run_view_clear(&v);
}

Test(reports, frontiers_say_what_they_could_detect)
{
    put(options(1, .3, 1));
    struct run_view v = view("1");
    /* kl: lo and hi lie 2.2 standard errors off; (1.96 + .8416) of a standard error is found in four of five cases */
    const struct metric_record *kl = metric_list_find(&v.metrics, "overall", "kl");
    double error = (kl->hi - kl->lo) / (2 * 1.959964);
    cr_assert_float_eq(run_detectable(v.run, FRONTIER_KL), 2.8016 * error, 1e-3 * error);
    struct frontier_point point = {0};
    struct str text = {0};
    struct table *t = frontier_table(&v.runs, &point, 1, FRONTIER_KL, true);
    table_render(t, TABLE_CSV, (struct table_style){0}, &text);
    has(str_get(&text), "detectable KL");
    has(str_get(&text), "score");
    table_free(&t);
    v.runs.rows[0].headline.kl_lo = NAN;
    cr_assert(isnan(run_detectable(v.run, FRONTIER_KL)));
    str_clear(&text);
    run_view_clear(&v);
}

Test(reports, a_database_of_failures_says_what_failed)
{
    struct fixture f;
    fixture_run(&f, options(1, .3, 1));
    f.d.run.status = RUN_FAILED;
    f.d.run.reason = "does not fit: needs 9 GiB";
    ok(store_run_put(store, &f.d, false, NULL));
    fixture_clear(&f);
    struct str notes = {0};
    struct report_options o = {.dir = dir, .run = "last", .db = db};
    cr_assert_eq(report_write(store, &o, &notes), ERR_ARG);
    has(status_message(), "no run is done");
    has(status_message(), "run 1, failed: does not fit: needs 9 GiB");
    str_clear(&notes);
}

Test(reports, comparison_refuses_other_tokens_and_models)
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

static bool warns(const struct run_view *v, const char *part)
{
    char **w = run_warnings(v);
    bool found = false;
    for (size_t i = 0; w[i]; i++) found |= strstr(w[i], part) != NULL;
    warnings_free(w);
    return found;
}

Test(reports, warnings_appear_with_their_cause_alone)
{
    struct fixture_options o = options(1, .3, .2);
    o.latency = false;
    put(o);
    struct run_view v = view("1");
    char **none = run_warnings(&v);
    cr_assert_null(none[0], "%s", none[0]);
    warnings_free(none);
    v.runs.rows[0].dense_fallback_calls = 3;
    cr_assert(warns(&v, "ran dense"));
    v.runs.rows[0].dense_fallback_calls = 0;
    v.runs.rows[0].software.dirty = true;
    cr_assert(warns(&v, "uncommitted"));
    v.runs.rows[0].software.dirty = false;
    v.samples.n = 1;
    cr_assert(warns(&v, "One sample"));
    v.samples.n = 6;
    for (size_t i = 0; i < v.metrics.n; i++)
        if (!strcmp(v.metrics.rows[i].name, "ppl_dense")) v.metrics.rows[i].mean = 1000;
    cr_assert(warns(&v, "hardly knows"));
    cr_assert(!warns(&v, "disagree"));
    for (size_t i = 0; i < v.metrics.n; i++)
        if (!strcmp(v.metrics.rows[i].name, "kl")) v.metrics.rows[i].mean = .06;
    cr_assert(warns(&v, "disagree"));
    run_view_clear(&v);
}

static const struct gate_check checks[] = {
    {"min-cosine", "run 1", ">=", .98, .99, .985, .995, CHECK_PASS, NULL},
    {"max-kl", "run 1", "<=", .02, .05, .04, .06, CHECK_FAIL, "KL <is> \"high\" & rising,\nline 2: 50%"},
    {"min-sparsity", "run 1", ">=", .3, .31, .28, .34, CHECK_AMBIGUOUS, "12 more samples would decide"},
    {"max-latency", "run 1", "<=", 1, NAN, NAN, NAN, CHECK_INVALID, "noise over the limit"},
    {"max-score-drop", NULL, "<=", .1, NAN, NAN, NAN, CHECK_SKIPPED, "no tasks in the suite"},
};
enum { N_CHECKS = sizeof checks / sizeof *checks };

/* How often `part` occurs. */
static int occurrences(const char *text, const char *part)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, part)); p += strlen(part)) n++;
    return n;
}

/* The rules of the public schema for Ant's JUnit reports (github.com/windyroad/JUnit-Schema): element order,
 * required attributes, and counts that agree. */
Test(reports, junit_follows_the_public_schema)
{
    struct str x = {0};
    junit_xml(checks, N_CHECKS, "gate", 1.25, "2026-01-31T12:00:00Z", &x);
    const char *t = str_get(&x);
    cr_assert(str_starts_with(t, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n"));
    static const char *const suite_attributes[] = {"name=\"gate\"",
                                                   "timestamp=\"2026-01-31T12:00:00\"",
                                                   "hostname=\"localhost\"",
                                                   "tests=\"5\"",
                                                   "failures=\"2\"",
                                                   "errors=\"1\"",
                                                   "skipped=\"1\"",
                                                   "time=\"1.250\"",
                                                   "id=\"0\"",
                                                   "package=\"sparsegauge\""};
    for (size_t i = 0; i < sizeof suite_attributes / sizeof *suite_attributes; i++)
        has(t, suite_attributes[i]);
    cr_assert_eq(occurrences(t, "<testcase "), N_CHECKS);
    cr_assert_eq(occurrences(t, "<failure "), 2);
    cr_assert_eq(occurrences(t, "<error "), 1);
    cr_assert_eq(occurrences(t, "<skipped "), 1);
    cr_assert_eq(occurrences(t, " type=\""), 3, "failures and errors carry their type");
    cr_assert_eq(occurrences(t, " classname=\""), N_CHECKS);
    cr_assert_lt(strstr(t, "<properties/>"), strstr(t, "<testcase "));
    cr_assert_lt(strstr(t, "<testcase "), strstr(t, "<system-out/>"));
    cr_assert_lt(strstr(t, "<system-out/>"), strstr(t, "<system-err/>"));
    has(t, "message=\"KL &lt;is&gt; &quot;high&quot; &amp; rising,&#10;line 2: 50%\"");
    has(t, "0.05 (0.04 … 0.06), bound &lt;= 0.02");
    str_clear(&x);
    xml_escape("a\x01\xff\xc3\xa9\xc0\xaf", &x);
    cr_assert_str_eq(str_get(&x), "a\xef\xbf\xbdé\xef\xbf\xbd\xef\xbf\xbd");
    str_clear(&x);
}

Test(reports, annotations_are_ten_at_most_the_worst_first)
{
    struct gate_check many[30];
    for (int i = 0; i < 30; i++) {
        many[i] = checks[1];
        many[i].value = .02 + .001 * i;
    }
    many[3] = checks[3];
    struct str x = {0};
    github_annotations(many, 30, &x);
    const char *t = str_get(&x);
    cr_assert_eq(occurrences(t, "::error title="), 10);
    cr_assert_eq(occurrences(t, "\n"), 10, "one line each");
    cr_assert(str_starts_with(t, "::error title=max-latency invalid::"));
    has(t, "rising,%0Aline 2: 50%25");
    has(t, "0.049");
    lacks(t, "0.021");
    str_reset(&x);
    github_annotations(checks, N_CHECKS, &x);
    cr_assert_eq(occurrences(str_get(&x), "::warning title="), 1);
    cr_assert_eq(occurrences(str_get(&x), "::error title="), 2);
    str_reset(&x);
    github_summary(checks, N_CHECKS, "Gate | a", &x);
    has(str_get(&x), "1 passed, 1 failed, 1 ambiguous, 1 invalid, 1 skipped");
    has(str_get(&x), "&lt;is> \"high\"");
    cr_assert_eq(occurrences(str_get(&x), "\n| "), N_CHECKS + 2);
    str_clear(&x);
}

Test(reports, gitlab_findings_have_what_is_required)
{
    struct str x = {0};
    gitlab_quality(checks, N_CHECKS, "gate.json", &x);
    cJSON *list = cJSON_Parse(str_get(&x));
    cr_assert_eq(cJSON_GetArraySize(list), 3, "what passed or was skipped is no finding");
    const cJSON *f;
    cJSON_ArrayForEach(f, list)
    {
        cr_assert(cJSON_IsString(cJSON_GetObjectItem(f, "description")));
        cr_assert(cJSON_IsString(cJSON_GetObjectItem(f, "check_name")));
        cr_assert_eq(strlen(cJSON_GetObjectItem(f, "fingerprint")->valuestring), 32);
        const cJSON *location = cJSON_GetObjectItem(f, "location");
        cr_assert_str_eq(cJSON_GetObjectItem(location, "path")->valuestring, "gate.json");
        cr_assert_eq(cJSON_GetObjectItem(cJSON_GetObjectItem(location, "lines"), "begin")->valueint, 1);
        const char *severity = cJSON_GetObjectItem(f, "severity")->valuestring;
        cr_assert(!strcmp(severity, "major") || !strcmp(severity, "minor") || !strcmp(severity, "critical"));
    }
    cJSON_Delete(list);
    str_clear(&x);
}

Test(reports, page_is_whole_and_keeps_to_itself)
{
    put_pair(1, 2);
    struct run_view a = view("2"), b = view("1");
    struct comparison c;
    struct compare_options o = {0};
    ok(compare_runs(&c, &b, &a, &o));
    char *svg = path_join(dir, "p.svg");
    const char *drawing = "<?xml version=\"1.0\"?><svg><defs><g id=\"a\"/></defs><use xlink:href='#a' "
                          "clip-path='url(#c)'/></svg>";
    ok(file_write_atomic(svg, drawing, strlen(drawing)));
    struct html_picture pictures[] = {{svg, "first", "changed"}, {svg, "second", "why"}};
    const struct run_view *views[] = {&a, &b};
    struct html_input in = {.title = "<T>",
                            .views = views,
                            .n_views = 2,
                            .comparison = &c,
                            .checks = checks,
                            .n_checks = N_CHECKS,
                            .pictures = pictures,
                            .n_pictures = 2,
                            .argv_line = "sparsegauge report"};
    struct str page = {0};
    ok(html_page(&in, &page));
    const char *t = str_get(&page);
    has(t, "<title>&lt;T&gt;</title>");
    lacks(t, "<T>");
    lacks(t, "http://");
    lacks(t, "https://");
    lacks(t, " src=");
    lacks(t, "<link");
    has(t, "a &lt;model&gt; learns");
    has(t, "prefers-color-scheme:dark");
    has(t, "name=\"viewport\"");
    has(t, "id=\"p0-a\"");
    has(t, "href='#p1-a'");
    has(t, "url(#p1-c)");
    has(t, "The gate <strong>failed</strong>");
    has(t, "class=\"warning\"");
    static const char *const order[] = {"id=\"verdict\"", "id=\"changed\"", "id=\"why\"", "id=\"speed\"",
                                        "id=\"provenance\""};
    for (int i = 0; i + 1 < 5; i++) cr_assert_lt(strstr(t, order[i]), strstr(t, order[i + 1]));
    static const char *const tags[] = {"table", "div", "section", "figure", "tr", "details", "p"};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        char open[16], open_with[16], close[16];
        snprintf(open, sizeof open, "<%s>", tags[i]);
        snprintf(open_with, sizeof open_with, "<%s ", tags[i]);
        snprintf(close, sizeof close, "</%s>", tags[i]);
        cr_assert_eq(occurrences(t, open) + occurrences(t, open_with), occurrences(t, close), "%s", tags[i]);
    }
    str_clear(&page);
    in.pictures = &(struct html_picture){"/nowhere/p.svg", "x", "why"};
    in.n_pictures = 1;
    cr_assert_eq(html_page(&in, &page), ERR_IO);
    str_clear(&page);
    comparison_clear(&c);
    run_view_clear(&a);
    run_view_clear(&b);
    free(svg);
}

Test(reports, boxes_of_a_mask_cover_its_tiles_once)
{
    enum { Q = 13, K = 21 };
    struct rng r;
    rng_init(&r, 9);
    uint8_t bits[(Q * K + 7) / 8] = {0};
    for (int b = 0; b < Q * K; b++)
        if (rng_unit(&r) < .6 || b % K < 2) bits[b / 8] |= (uint8_t)(1 << b % 8);
    struct mask_record m = {0, 1, 2, Q, K, bits};
    struct run_view v = {.masks = {&m, 1, NULL}};
    struct run_record run = {.id = 1};
    v.run = &run;
    setenv("PATH", "/nowhere", 1); /* the script is enough */
    struct plot_out out = {dir, NULL, true};
    cr_assert_eq(plot_masks(&out, "m", &v), ERR_UNSUPPORTED);
    char *path = path_join(dir, "m.gp");
    struct str script = {0};
    ok(file_read(&script, path));
    int covered[Q][K] = {0}, j0, j1, i0, i1, n_boxes = 0, n_set = 0;
    const char *p = strstr(str_get(&script), "$mask0 << EOD\n") + strlen("$mask0 << EOD\n");
    for (; sscanf(p, "%d %d %d %d", &j0, &j1, &i0, &i1) == 4; p = strchr(p, '\n') + 1, n_boxes++)
        for (int i = i0; i < i1; i++)
            for (int j = j0; j < j1; j++) covered[i][j]++;
    for (int i = 0; i < Q; i++)
        for (int j = 0; j < K; j++) {
            int set = bits[(i * K + j) / 8] >> (i * K + j) % 8 & 1;
            n_set += set;
            cr_assert_eq(covered[i][j], set, "tile %d, %d", i, j);
        }
    cr_assert_lt(n_boxes, n_set);
    str_clear(&script);
    free(path);
}

Test(reports, scripts_survive_hostile_names)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    struct fixture_options o = options(1, .3, 1);
    o.method = "spa'rge\"`touch hacked`\\ %s {_}";
    put(o);
    struct run_view v = view("1");
    const struct run_view *views[] = {&v};
    struct plot_out out = {dir, db, false};
    ok(plot_bars(&out, "bars", views, 1));
    char *hacked = path_join(dir, "hacked"), *png = path_join(dir, "bars.png"),
         *svg = path_join(dir, "bars.svg");
    cr_assert(!file_exists(hacked));
    cr_assert(file_exists(png) && file_exists(svg));
    free(hacked);
    free(png);
    free(svg);
    run_view_clear(&v);
}

static size_t size_of(const char *name)
{
    char *path = path_join(dir, name);
    struct str text = {0};
    size_t n = file_read(&text, path) == OK ? text.len : 0;
    str_clear(&text);
    free(path);
    return n;
}

/* The query beside a picture runs and gives rows. */
static void run_saved_query(const char *name)
{
    char *path = str_format("%s/pictures/%s.sql", dir, name);
    struct str file = {0}, sql = {0};
    ok(file_read(&file, path));
    for (char *save = NULL, *line = strtok_r(file.data, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save))
        if (*line != '.' && !str_starts_with(line, "--")) str_addf(&sql, "%s\n", line);
    struct sql_result r;
    ok(query_sql(store, str_get(&sql), &r));
    cr_assert_gt(r.n_rows, 0u, "%s", path);
    sql_result_clear(&r);
    str_clear(&file);
    str_clear(&sql);
    free(path);
}

Test(reports, every_picture_is_drawn_with_script_and_sql)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    struct tuned_head_record h[12];
    for (int i = 0; i < 12; i++)
        h[i] = (struct tuned_head_record){i / 4, i % 4, i != 5, .5, .9, 9, .05, .06, .2, .3, .4, .4, 0, NULL};
    struct tuned_record t = {"feed", "0123456789abcdef0123456789abcdef",
                             "d",    "sparge",
                             "l1",   "running",
                             "all",  .06,
                             .07,    128,
                             64,     NULL,
                             1,      h,
                             12};
    ok(store_tuned_put(store, &t));
    for (int i = 1; i <= 5; i++) {
        struct fixture_options o = options((uint64_t)i, .1 * i, .3 * i * i);
        if (i % 2) o.tuned_hash = "feed";
        if (i == 4) o.method = "oracle";
        put(o);
    }
    struct str notes = {0};
    struct report_options o = {.dir = dir, .run = "3", .baseline = "1", .db = db};
    ok(report_write(store, &o, &notes));
    cr_assert_eq(notes.len, 0, "%s", str_get(&notes));
    static const char *const names[] = {
        "frontier_cosine", "frontier_kl", "frontier_ppl",       "accuracy",       "needle",
        "cosine",          "kl",          "cosine_by_position", "kl_by_position", "layers",
        "heads_sparsity",  "heads_l1",    "heads_error",        "masks",          "latency",
        "breakdown"};
    static const char *const kinds[] = {"svg", "png", "gp", "sql"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int k = 0; k < 4; k++) {
            char name[64];
            snprintf(name, sizeof name, "pictures/%s.%s", names[i], kinds[k]);
            cr_assert_gt(size_of(name), k < 2 ? 2000u : 20u, "%s", name);
        }
    cr_assert_gt(size_of("index.html"), 100000u);
    cr_assert_gt(size_of("report.md"), 1000u);
    cr_assert_gt(size_of("runs.csv"), 500u);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) run_saved_query(names[i]);
    str_clear(&notes);
}

Test(reports, without_gnuplot_the_rest_is_made)
{
    put_pair(1, 2);
    setenv("PATH", "/nowhere", 1);
    cr_assert_eq(plot_available(), ERR_UNSUPPORTED);
    has(status_message(), "apt-get install gnuplot");
    struct str notes = {0};
    struct report_options o = {.dir = dir, .run = "2", .baseline = "1"};
    enum status st = report_write(store, &o, &notes);
    ok(st);
    cr_assert_eq(occurrences(str_get(&notes), "gnuplot"), occurrences(status_message(), "gnuplot"),
                 "said once");
    has(str_get(&notes), "apt-get install gnuplot");
    cr_assert_gt(size_of("index.html"), 10000u);
    cr_assert_gt(size_of("pictures/accuracy.gp"), 100u, "the script can be drawn elsewhere");
    cr_assert_eq(size_of("pictures/accuracy.svg"), 0u);
    str_clear(&notes);
}

Test(reports, pictures_without_data_say_what_is_missing)
{
    struct fixture_options o = options(1, .3, 1);
    o.tasks = o.latency = o.words = false;
    put(o);
    struct run_view v = view("1");
    const struct run_view *views[] = {&v};
    struct plot_out out = {dir, NULL, true};
    cr_assert_eq(plot_needle(&out, "n", views, 1), ERR_ARG);
    has(status_message(), "needle");
    cr_assert_eq(plot_latency(&out, "n", views, 1), ERR_ARG);
    cr_assert_eq(plot_breakdown(&out, "n", views, 1), ERR_ARG);
    cr_assert_eq(plot_masks(&out, "n", &v), ERR_ARG);
    cr_assert_eq(plot_heads(&out, "n", &v, HEAT_L1_HELD_OUT), ERR_ARG);
    cr_assert_eq(plot_positions(&out, "n", views, 1, "nonsense"), ERR_ARG);
    cr_assert_eq(plot_distribution(&out, "n", views, 1, "ppl_dense"), ERR_ARG);
    cr_assert_eq(plot_curves(&out, "n", "t", NULL, 0, NAN), ERR_ARG);
    run_view_clear(&v);
}

Test(reports, tables_of_runs_hide_what_is_equal_and_find_what_differs)
{
    put(options(1, .3, 1));
    put(options(2, .5, 2));
    struct run_filter all = {0};
    struct run_list runs;
    ok(query_runs(store, &all, &runs));
    struct table *t = runs_table(&runs);
    char *text = render(t, TABLE_TERMINAL, (struct table_style){.hide_constant = true});
    has(text, "all rows: model story-llama");
    has(text, "30.0 %");
    has(text, "50.0 %");
    lacks(text, "reason");
    free(text);
    table_free(&t);
    struct frontier_point *points;
    size_t n;
    ok(query_frontier(&runs, FRONTIER_KL, &points, &n));
    t = frontier_table(&runs, points, n, FRONTIER_KL, false);
    cr_assert_eq(table_rows(t), 2);
    table_free(&t);
    free(points);
    run_list_clear(&runs);

    struct run_view v = view("2");
    struct table *all_tables[] = {metrics_table(&v),     samples_table(&v),   positions_table(&v),
                                  layers_table(&v),      heads_table(&v, 5),  items_table(&v, false),
                                  generations_table(&v), latencies_table(&v), worst_tokens_table(&v, 1),
                                  provenance_table(&v),  breakdown_table(&v)};
    const size_t rows[] = {20, 6, 16, 3, 5, 60, 2, 10, 1, 34, 2};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (i == 0 || i == 9)
            cr_assert_geq(table_rows(all_tables[i]), rows[i], "table %zu: %zu rows", i,
                          table_rows(all_tables[i]));
        else
            cr_assert_eq(table_rows(all_tables[i]), rows[i], "table %zu: %zu rows", i,
                         table_rows(all_tables[i]));
        table_free(&all_tables[i]);
    }
    struct sql_result q;
    ok(query_sql(store, "SELECT id, sparsity, plan, method FROM v_runs", &q));
    t = sql_table(&q);
    text = render(t, TABLE_CSV, (struct table_style){0});
    has(text, "1,0.3,,sparge\r\n");
    free(text);
    table_free(&t);
    sql_result_clear(&q);
    run_view_clear(&v);
}

static void put_layers(uint64_t seed, const char *layers, const char *heads, double error, double l1)
{
    struct fixture_options o = options(seed, .4, error);
    o.n_layers = 6;
    o.layers = layers;
    struct fixture f;
    fixture_run(&f, o);
    f.d.run.heads = heads;
    f.d.run.l1 = l1;
    f.d.run.pv_l1 = l1 + .01;
    ok(store_run_put(store, &f.d, false, NULL));
    fixture_clear(&f);
}

Test(reports, attribution_ranks_what_costs_most)
{
    put_layers(1, "0", "all", .2, .06);
    put_layers(2, "4", "all", .9, .06);
    put_layers(3, "4", "2", .3, .06);
    put_layers(4, "0-5", "all", 2, .06);
    put_layers(5, "0-3,5", "all", .8, .06);
    put_layers(6, "1-5", "all", 1.9, .06);
    put_layers(7, "1-3", "all", 1, .06); /* singles nothing out */
    struct run_filter any = {0};
    struct run_list runs;
    ok(query_runs(store, &any, &runs));
    struct attribution *a;
    size_t n;
    ok(attribution_find(&runs, &a, &n));
    cr_assert_eq(n, 5);
    const int layers[] = {4, 4, 0, 4, 0}, heads[] = {-1, 2, -1, -1, -1};
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(a[i].layer, layers[i], "place %d: layer %d", i, a[i].layer);
        cr_assert_eq(a[i].head, heads[i]);
        cr_assert_eq(a[i].all_but, i >= 3);
    }
    cr_assert_float_eq(a[3].kl_saved, .05 * (2 - .8), 1e-12);
    struct table *t = attribution_table(a, n);
    cr_assert_eq(table_rows(t), 5);
    table_free(&t);
    free(a);
    struct plot_out out = {dir, db, true};
    if (plot_available() == OK) {
        ok(plot_attribution(&out, "cost", &runs));
        cr_assert_gt(size_of("cost.svg"), 2000u);
    }
    runs.n = 0;
    cr_assert_eq(plot_attribution(&out, "cost", &runs), ERR_ARG);
    run_list_clear(&runs);
}

Test(reports, monotonicity_flags_a_tighter_bound_that_is_worse)
{
    put_layers(1, "all", "all", .2, .04);
    put_layers(2, "all", "all", .9, .06); /* worse than the next */
    put_layers(3, "all", "all", .5, .08);
    put_layers(4, "all", "all", 1.5, .10);
    put_layers(5, "3", "all", 1.5, .04); /* another question */
    struct run_filter any = {0};
    struct run_list runs;
    ok(query_runs(store, &any, &runs));
    size_t violations;
    struct table *t = monotonicity_table(&runs, &violations);
    cr_assert_eq(violations, 1);
    cr_assert_eq(table_rows(t), 4);
    char *text = render(t, TABLE_TERMINAL, (struct table_style){0});
    has(text, "worse than the looser run 3");
    free(text);
    table_free(&t);
    run_list_clear(&runs);
}

/* A run of `method` on the data `dataset` with these answers, in a plan. */
static void put_answers(uint64_t seed, const char *method, double topk, const char *dataset, const char *suite,
                        const struct item_record *items, size_t n)
{
    struct fixture f;
    struct fixture_options o = options(seed, .3, 1);
    o.method = method;
    o.dataset = dataset;
    o.tasks = false;
    fixture_run(&f, o);
    f.d.run.plan = "p";
    f.d.run.seed = 0;
    f.d.run.topk = topk;
    f.d.run.dataset.suite = suite;
    double right = 0;
    for (size_t i = 0; i < n; i++) right += items[i].sparse_right;
    fixture_pooled(&f, "score_dense", 1, 0);
    fixture_pooled(&f, "score_sparse", right / (double)n, 0);
    f.d.items = items;
    f.d.n_items = n;
    ok(store_run_put(store, &f.d, false, NULL));
    f.d.items = NULL;
    f.d.n_items = 0;
    fixture_clear(&f);
}

enum { N_NEAR = 40 };

/* Questions at ever other depths: the first half near their evidence and answered, the rest far and lost. */
static void near_and_far(struct item_record *items)
{
    for (int i = 0; i < N_NEAR; i++)
        items[i] = (struct item_record){.item = "item",
                                        .depth = 1 - (i < N_NEAR / 2 ? 50 + i : 600 + i) / 2000.,
                                        .length = 2000,
                                        .dense_score = -1,
                                        .sparse_score = -2,
                                        .dense_right = true,
                                        .sparse_right = i < N_NEAR / 2};
}

static void grid_of_needles(struct item_record *items)
{
    for (int i = 0; i < 15; i++)
        items[i] = (struct item_record){.item = "needle",
                                        .sample = i,
                                        .depth = .25 * (i % 5),
                                        .length = 1024 << (i / 5),
                                        .dense_score = -1,
                                        .sparse_score = -2,
                                        .dense_right = true,
                                        .sparse_right = i % 2};
}

Test(reports, needles_are_drawn_from_a_grid_and_other_answers_by_distance)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    struct item_record far[N_NEAR], grid[15];
    near_and_far(far);
    grid_of_needles(grid);
    for (int i = 0; i < N_NEAR; i++) far[i].item = str_format("question %d", i);
    for (int i = 0; i < 15; i++) grid[i].item = str_format("needle %d", i);
    put_answers(1, "sparge", NAN, "text", "chronicle", far, N_NEAR);
    put_answers(2, "topk", .4, "text", "chronicle", far, N_NEAR);
    struct run_view v = view("1");
    const struct run_view *views[] = {&v};
    struct plot_out out = {dir, NULL, true};
    cr_assert_eq(plot_needle(&out, "n", views, 1), ERR_ARG, "forty depths are no grid");
    has(status_message(), "--suite needle");
    run_view_clear(&v);
    put_answers(3, "sparge", NAN, "hay", "needle", grid, 15);
    put_answers(4, "topk", .4, "hay", "needle", grid, 15);

    struct str notes = {0};
    struct report_options o = {.dir = dir, .run = "1", .db = db, .no_png = true};
    ok(report_write(store, &o, &notes));
    cr_assert_eq(notes.len, 0, "%s", str_get(&notes));
    char *path = path_join(dir, "pictures/needle.gp");
    struct str script = {0};
    ok(file_read(&script, path));
    int width = 0, height = 0;
    cr_assert_eq(sscanf(strstr(str_get(&script), "size "), "size %d,%d", &width, &height), 2);
    cr_expect(height < 900 && width < 1400, "%d x %d", width, height);
    cr_expect_eq(occurrences(str_get(&script), "<< EOD"), 3u, "dense and both runs");
    has(str_get(&script), "\"topk 0.4\"");
    free(path);
    str_reset(&script);
    path = path_join(dir, "pictures/distance.gp");
    ok(file_read(&script, path));
    has(str_get(&script), "$line1 << EOD\n0 100\n1 100\n4 0\n"); /* under 64, 64 to 127, 512 to 1023 */
    has(str_get(&script), "$line0 << EOD\n0 100\n1 100\n4 100\n");
    has(str_get(&script), "n = 20");
    run_saved_query("distance");
    free(path);
    str_clear(&script);
    str_clear(&notes);
    for (int i = 0; i < N_NEAR; i++) free((char *)far[i].item);
    for (int i = 0; i < 15; i++) free((char *)grid[i].item);
}

Test(reports, a_plan_is_one_row_a_configuration)
{
    struct item_record far[N_NEAR], grid[15];
    near_and_far(far);
    grid_of_needles(grid);
    for (int i = 0; i < N_NEAR; i++) far[i].item = str_format("question %d", i);
    for (int i = 0; i < 15; i++) grid[i].item = str_format("needle %d", i);
    put_answers(1, "sparge", NAN, "text", "chronicle", far, N_NEAR);
    put_answers(2, "topk", .4, "text", "chronicle", far, N_NEAR);
    put_answers(3, "sparge", NAN, "hay", "needle", grid, 15);
    struct run_filter all = {0};
    struct run_list runs;
    ok(query_runs(store, &all, &runs));
    struct table *t = methods_table(&runs, &runs.rows[1]);
    char *csv = render(t, TABLE_CSV, (struct table_style){0});
    table_free(&t);
    cr_expect_eq(occurrences(csv, "\n"), 4u, "a heading, dense and two configurations: %s", csv);
    has(csv, "chronicle right");
    has(csv, "needle right");
    has(csv, "\ndense,,0,1,0,1,1,1,1,");
    const char *topk = strstr(csv, "\ntopk 0.4 *,"), *sparge = strstr(csv, "\nuntuned,");
    cr_assert(topk && sparge && sparge < topk, "%s", csv);
    has(sparge, "\"1, 3\"");
    has(topk, ",0.5,,2");
    free(csv);
    run_list_clear(&runs);
    for (int i = 0; i < N_NEAR; i++) free((char *)far[i].item);
    for (int i = 0; i < 15; i++) free((char *)grid[i].item);
}

/* KL over decades gets a logarithmic axis, over less a linear one. */
Test(reports, kl_frontier_bends_its_axis_only_for_decades)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    for (int wide = 0; wide < 2; wide++) {
        struct run_record rows[3] = {{.id = 1}, {.id = 2}, {.id = 3}};
        for (int i = 0; i < 3; i++) {
            rows[i].status = RUN_DONE;
            rows[i].method = "sparge";
            rows[i].model.fingerprint = rows[i].dataset.fingerprint = "x";
            rows[i].headline = (struct headline){.sparsity = .2 * (i + 1), .kl_mean = .01 * pow(wide ? 10 : 1.5, i),
                                                 .kl_lo = NAN, .kl_hi = NAN};
        }
        struct run_list runs = {rows, 3, NULL};
        struct plot_out out = {dir, NULL, true};
        ok(plot_frontier(&out, "f", &runs, FRONTIER_KL));
        char *path = path_join(dir, "f.gp");
        struct str script = {0};
        ok(file_read(&script, path));
        cr_expect_eq(occurrences(str_get(&script), "set logscale y"), wide ? 1u : 0u);
        str_clear(&script);
        free(path);
    }
}

/* Metrics without a number per sample, and times, are told apart by their own intervals. */
Test(reports, unpaired_intervals_that_part_are_a_change)
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
    cr_expect_eq(c.rows[1].change, CHANGE_WORSE);
    comparison_clear(&c);
    after[0].hi = after[1].hi = .9;
    ok(compare_runs(&c, &b, &a, &(struct compare_options){0}));
    cr_expect_eq(c.rows[0].change, CHANGE_SAME);
    cr_expect_eq(c.rows[1].change, CHANGE_UNKNOWN, "intervals that meet prove nothing");
    comparison_clear(&c);
}

#include "base/json.h"
#include "reports/compare.h"
#include "reports/html.h"
#include "reports/junit.h"
#include "reports/report.h"
#include "reports/runjson.h"
#include "reports/table.h"
#include "reports/tables.h"
#include "tests/unit/reports_fixture.h"

TestSuite(reports, .init = set_up, .fini = tear_down, .timeout = 60);

static struct table *small_table(void)
{
    struct table *t = table_new("T & \"t\"");
    table_add_column(t, (struct table_column){.name = "name"});
    table_add_column(t,
        (struct table_column){
            .name = "share", .number = NUMBER_PERCENT, .digits = 1, .better = METRIC_HIGHER});
    table_add_column(t,
        (struct table_column){
            .name = "time", .number = NUMBER_SECONDS, .digits = 1, .better = METRIC_LOWER});
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

/* The end of an interval from two texts takes no more room than it tells; counts are whole. */
Test(reports, a_number_without_meaning_is_short)
{
    struct str text = {0};
    number_format(NUMBER_FIXED, 4, 268657813304.1511, &text);
    cr_assert_str_eq(str_get(&text), "2.7e+11");
    str_reset(&text);
    number_format(NUMBER_FIXED, 0, 4096000, &text);
    cr_assert_str_eq(str_get(&text), "4096000");
    str_clear(&text);
}

/* Sparsity, its interval's ends, a score: as many rows as there are in `ends`. */
static char *interval_table(const double (*ends)[3], size_t n, bool scored)
{
    struct table *t = table_new(NULL);
    static const char *const names[] = {"layer", "share", "from", "to", "score"};
    for (int c = 0; c < 5; c++)
        table_add_column(
            t, (struct table_column){.name = names[c], .number = NUMBER_FIXED, .digits = 1});
    for (size_t i = 0; i < n; i++) {
        table_int(t, (int64_t)i);
        for (int k = 0; k < 3; k++) table_real(t, ends[i][k]);
        table_real(t, scored ? (double)i : 7);
    }
    char *text = render(t, TABLE_TERMINAL, (struct table_style){.hide_constant = true});
    table_free(&t);
    return text;
}

/* An interval is left out whole or not at all and says whose it is; a table is never reduced to the
 * names of its rows. */
Test(reports, constant_columns_stay_readable)
{
    char *text = interval_table((const double[][3]){{.5, .4, 1}, {.6, .3, 1}}, 2, true);
    has(text, "layer  share  from   to  score");
    cr_expect_null(strstr(text, "all rows"), "%s", text);
    free(text);
    text = interval_table((const double[][3]){{.5, .4, 1}, {.6, .4, 1}}, 2, true);
    has(text, "all rows: share from 0.4, to 1.0");
    free(text);
    text = interval_table((const double[][3]){{.5, .4, 1}, {.5, .4, 1}}, 2, false);
    has(text, "layer  share  from   to  score");
    free(text);
}

Test(reports, terminal_tables_align)
{
    struct table *t = small_table();
    char *text = render(t, TABLE_TERMINAL, (struct table_style){0});
    cr_assert_str_eq(text,
        "T & \"t\"\n"
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
    for (char *save = NULL, *line = strtok_r(text, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save))
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
    cr_assert_str_eq(text,
        "name,share,time,same\r\n"
        "\"a|b,\"\"c\"\"⏎d\",0.314159,0.0021,x\r\n"
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
        cr_assert_not_null(cJSON_GetObjectItem(cJSON_GetObjectItem(o, keys[i][0]), keys[i][1]),
            "%s.%s", keys[i][0], keys[i][1]);
    static const char *const texts[] = {
        "prompt", "dense", "sparse", "token_match", "text_similarity"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        cr_assert_not_null(cJSON_GetObjectItem(
            cJSON_GetArrayItem(cJSON_GetObjectItem(o, "generation"), 0), texts[i]));
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
    for (size_t i = 0; i < c.n_rows; i++)
        cr_assert_eq(c.rows[i].change, CHANGE_SAME, "%s", c.rows[i].name);
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
        {"{\"schema_version\":1,\"config\":{\"method\":\"sparge\",\"layers\":\"all\"}}",
            "field identity"},
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
    top_tokens_text(
        "[{\"id\":7,\"text\":\"a\\n\",\"p\":0.5},{\"id\":9,\"text\":\"b\",\"p\":0.25}]", 9, &text);
    cr_assert_str_eq(str_get(&text), "\"a\\n\" 0.500  *\"b\" 0.250");
    str_clear(&text);
    run_view_clear(&v);
}

Test(reports, frontiers_say_what_they_could_detect)
{
    put(options(1, .3, 1));
    struct run_view v = view("1");
    /* with many samples 1.96 + .8416 standard errors are found in four of five cases, with few it
     * takes more; and of two runs both are uncertain */
    const struct metric_record *kl = metric_list_find(&v.metrics, "overall", "kl");
    double error =
        sqrt(2) * (kl->hi - kl->lo) / (2 * student_quantile(.975, v.run->dataset.n_samples - 1));
    double detectable = run_detectable(v.run, FRONTIER_KL);
    cr_assert(detectable > 2.8016 * error && detectable < 4 * error, "%g of %g", detectable, error);
    struct frontier_point point = {0};
    struct str text = {0};
    struct table *t = frontier_table(&v.runs, &point, 1, FRONTIER_KL, true);
    table_render(t, TABLE_CSV, (struct table_style){0}, &text);
    has(str_get(&text), ",detectable,");
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
    {"min-cosine", "run 1", ">=", .98, .99, .985, .995, CHECK_PASS, NULL, NULL},
    {"max-kl", "run 1", "<=", .02, .05, .04, .06, CHECK_FAIL,
        "KL <is> \"high\" & rising,\nline 2: 50%", NULL},
    {"min-sparsity", "run 1", ">=", .3, .31, .28, .34, CHECK_AMBIGUOUS,
        "12 more samples would decide", NULL},
    {"max-latency", "run 1", "<=", 1, NAN, NAN, NAN, CHECK_INVALID, "noise over the limit", NULL},
    {"max-score-drop", NULL, "<=", .1, NAN, NAN, NAN, CHECK_SKIPPED, "no tasks in the suite", NULL},
};
enum { N_CHECKS = sizeof checks / sizeof *checks };

/* The rules of the public schema for Ant's JUnit reports (github.com/windyroad/JUnit-Schema):
 * element order, required attributes, and counts that agree. */
Test(reports, junit_follows_the_public_schema)
{
    struct str x = {0};
    junit_xml(checks, N_CHECKS, "gate", NULL, 1.25, "2026-01-31T12:00:00Z", &x);
    const char *t = str_get(&x);
    cr_assert(str_starts_with(t, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n"));
    static const char *const suite_attributes[] = {"name=\"gate\"",
        "timestamp=\"2026-01-31T12:00:00\"", "hostname=\"localhost\"", "tests=\"5\"",
        "failures=\"2\"", "errors=\"1\"", "skipped=\"1\"", "time=\"1.250\"", "id=\"0\"",
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
    github_annotations(many, 30, NULL, &x);
    const char *t = str_get(&x);
    cr_assert_eq(occurrences(t, "::error title="), 10);
    cr_assert_eq(occurrences(t, "\n"), 10, "one line each");
    cr_assert(str_starts_with(t, "::error title=max-latency invalid::"));
    has(t, "rising,%0Aline 2: 50%25");
    has(t, "0.049");
    lacks(t, "0.021");
    str_reset(&x);
    github_annotations(checks, N_CHECKS, NULL, &x);
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
        cr_assert_eq(
            cJSON_GetObjectItem(cJSON_GetObjectItem(location, "lines"), "begin")->valueint, 1);
        const char *severity = cJSON_GetObjectItem(f, "severity")->valuestring;
        cr_assert(!strcmp(severity, "major") || !strcmp(severity, "minor") ||
            !strcmp(severity, "critical"));
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
    const char *drawing =
        "<?xml version=\"1.0\"?><svg><defs><g id=\"a\"/></defs><use xlink:href='#a' "
        "clip-path='url(#c)'/></svg>";
    ok(file_write_atomic(svg, drawing, strlen(drawing)));
    struct html_picture pictures[] = {
        {svg, "first", "changed", false}, {svg, "second", "why", false}};
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
    has(t, "prefers-color-scheme: dark");
    has(t, "name=\"viewport\"");
    has(t, "id=\"p0-a\"");
    has(t, "href='#p1-a'");
    has(t, "url(#p1-c)");
    has(t, "The gate <strong>failed</strong>");
    has(t, "class=\"warning\"");
    static const char *const order[] = {
        "id=\"verdict\"", "id=\"changed\"", "id=\"why\"", "id=\"speed\"", "id=\"provenance\""};
    for (int i = 0; i + 1 < 5; i++) cr_assert_lt(strstr(t, order[i]), strstr(t, order[i + 1]));
    static const char *const tags[] = {"table", "div", "section", "figure", "tr", "details", "p"};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        char open[16], open_with[16], close[16];
        snprintf(open, sizeof open, "<%s>", tags[i]);
        snprintf(open_with, sizeof open_with, "<%s ", tags[i]);
        snprintf(close, sizeof close, "</%s>", tags[i]);
        cr_assert_eq(
            occurrences(t, open) + occurrences(t, open_with), occurrences(t, close), "%s", tags[i]);
    }
    str_clear(&page);
    in.pictures = &(struct html_picture){"/nowhere/p.svg", "x", "why", false};
    in.n_pictures = 1;
    cr_assert_eq(html_page(&in, &page), ERR_IO);
    str_clear(&page);
    comparison_clear(&c);
    run_view_clear(&a);
    run_view_clear(&b);
    free(svg);
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
    struct table *all_tables[] = {metrics_table(&v), samples_table(&v), positions_table(&v),
        layers_table(&v), heads_table(&v, 5), items_table(&v, false), generations_table(&v),
        latencies_table(&v), worst_tokens_table(&v, 1), provenance_table(&v), breakdown_table(&v)};
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

/* A database from elsewhere may hold anything in any column: reading it ends with a message or with
 * a result, never with a memory error. */
#include "harness/measure/report_curves.h"
#include "reports/attribution.h"
#include "reports/gate.h"
#include "reports/report.h"
#include "reports/runjson.h"
#include "tests/unit/reports_fixture.h"

#include <sqlite3.h>

TestSuite(damage, .init = set_up, .fini = tear_down, .timeout = 240);

static sqlite3 *raw;

static void sql(const char *text)
{
    char *why = NULL;
    cr_assert_eq(sqlite3_exec(raw, text, NULL, NULL, &why), SQLITE_OK, "%s: %s", text, why);
}

static void fill(void)
{
    put_pair(.3, .6);
    struct tuned_head_record h[2] = {{0, 0, true, .5, .97, 12, .05, .055, .1, .1, .4, .41, 2, NULL},
        {1, 3, false, NAN, NAN, NAN, 0, 0, NAN, NAN, 0, 0, 0, "too little"}};
    struct tuned_record t = {
        "feed", "m", "d", "sparge", "l1", "running", "0-7", .06, .07, 128, 64, "{}", 9.5, h, 2};
    ok(store_tuned_put(store, &t));
    ok(store_curve_put(store,
        &(struct curve_key){"m", "d", "curve1", "sparge", "running", 128, 64, 0, 0, 0}, "abc", 3));
    struct planned_cell cells[2] = {{"k1", "s1", "{\"a\":1}"}, {"k2", "s2", "{\"a\":2}"}};
    ok(store_plan_put(store, "grid", "{}", cells, 2));
    enum lease lease;
    ok(store_lease(store, "k1", "host:1:1", 1e6, false, &lease));
    struct machine_record m = {.fingerprint = "mm", .cpu = "x", .n_cores = 2};
    ok(store_noise_put(
        store, &m, &(struct noise_record){NULL, "model", "threads", "kl", 1e-6, 1000}, 1));
    store_close(&store);
    cr_assert_eq(sqlite3_open(db, &raw), SQLITE_OK);
    sql("PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF; UPDATE run SET tuned_hash = "
        "'feed'");
}

/* The same rows without types, keys and NOT NULL. */
static void loosen(const char *table)
{
    char *text = str_format(
        "PRAGMA legacy_alter_table = ON; CREATE TABLE loose AS SELECT * FROM %s; DROP TABLE %s; "
        "ALTER TABLE loose RENAME TO %s",
        table, table, table);
    sql(text);
    free(text);
}

static void show(struct table *t)
{
    struct str out = {0};
    table_render(
        t, TABLE_TERMINAL, (struct table_style){.hide_constant = true, .width = 100}, &out);
    str_clear(&out);
    table_free(&t);
}

static void read_view(struct store *s, const struct run_view *v, const struct run_list *runs)
{
    show(metrics_table(v));
    show(samples_table(v));
    show(positions_table(v));
    show(layers_table(v));
    show(heads_table(v, 20));
    show(causes_table(v, runs));
    show(items_table(v, false));
    show(generations_table(v));
    show(latencies_table(v));
    show(breakdown_table(v));
    show(worst_tokens_table(v, 20));
    show(provenance_table(v));
    warnings_free(run_warnings(v));
    char *path = path_join(dir, "run.json");
    if (runjson_write(v, path) == OK) (void)!runjson_write_stats(v, path);
    free(path);
    struct gate_bounds b = gate_no_bounds();
    b.min_cosine = .5;
    b.max_kl = 1;
    struct gate_result g;
    if (gate_run(&(struct gate_subject){.run = v}, &b, &g) == OK) gate_result_clear(&g);
    struct token_record *tokens;
    size_t n;
    if (query_tokens(s, v->run->id, 0, &tokens, &n) == OK) free(tokens);
}

static void read_plans(struct store *s)
{
    struct cell_list cells;
    size_t counts[6];
    struct str text = {0};
    if (query_cells(s, NULL, &cells) == OK) {
        for (size_t i = 0; i < cells.n; i++)
            (void)!query_explain(
                s, cells.rows[i].key, cells.rows[i].slot, cells.rows[i].key_json, &text);
    }
    cell_list_clear(&cells);
    (void)!query_plan_status(s, NULL, counts);
    str_clear(&text);
}

static void read_runs(struct store *s)
{
    struct run_list runs;
    struct run_view v[2];
    struct attribution *rows = NULL;
    size_t n;
    if (query_runs(s, &(struct run_filter){0}, &runs) == OK) {
        show(runs_table(&runs));
        show(monotonicity_table(&runs, &n));
        if (attribution_find(&runs, &rows, &n) == OK) show(attribution_table(rows, n));
        free(rows);
        struct frontier_point *points;
        if (query_frontier(&runs, FRONTIER_KL, &points, &n) == OK) {
            show(frontier_table(&runs, points, n, FRONTIER_KL, true));
            free(points);
        }
        struct run_list best;
        struct best_bounds bounds = {.5, 10, NAN, NAN, false};
        if (query_best(s, &runs, false, &bounds, &best) == OK) run_list_clear(&best);
    }
    if (run_view_load(&v[0], s, "1") == OK) {
        read_view(s, &v[0], &runs);
        if (run_view_load(&v[1], s, "2") == OK) {
            struct comparison c;
            if (compare_runs(&c, &v[0], &v[1], &(struct compare_options){.floors = NULL}) == OK) {
                show(comparison_table(&c, false));
                comparison_clear(&c);
            }
            run_view_clear(&v[1]);
        }
        run_view_clear(&v[0]);
    }
    run_list_clear(&runs);
}

static void read_all(bool with_report)
{
    struct store *s;
    if (store_open(&s, db, STORE_READ) != OK) return;
    read_runs(s);
    read_plans(s);
    struct noise_list floors;
    if (query_noise(s, NULL, NULL, &floors) == OK) noise_list_clear(&floors);
    static struct report_curves curves;
    (void)!report_curves_load(s, "1", &curves);
    if (with_report) {
        struct str notes = {0};
        char *to = path_join(dir, "report");
        (void)!report_write(
            s, &(struct report_options){.dir = to, .run = "1", .no_png = true, .db = db}, &notes);
        free(to);
        str_clear(&notes);
    }
    store_close(&s);
}

static void merge_all(int number)
{
    char name[32];
    snprintf(name, sizeof name, "into%d.db", number);
    char *path = path_join(dir, name);
    struct store *s;
    struct merge_report r;
    ok(store_open(&s, path, STORE_WRITE));
    if (store_merge(s, db, NULL, &r) == OK) merge_report_clear(&r);
    store_close(&s);
    unlink(path);
    free(path);
}

/* Every column of every table takes other values in turn: three of them, or all seven in `./dev
 * torture`. */
Test(damage, any_value_in_any_column)
{
    static const char *const values[] = {
        "NULL", "-3", "1 << 40", "'x'", "1e300", "x'00ff'", "-9223372036854775808"};
    sqlite3_stmt *columns;
    const bool full = getenv("SG_TORTURE") != NULL;
    int n = 0;
    fill();
    setenv("PATH", "", 1); /* pictures are drawn elsewhere */
    cr_assert_eq(sqlite3_prepare_v2(raw,
                     "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c "
                     "WHERE m.type = 'table' ORDER BY 1, 2",
                     -1, &columns, NULL),
        SQLITE_OK);
    struct text_pair {
        char table[32], column[32];
    } pairs[400];
    int n_pairs = 0;
    while (sqlite3_step(columns) == SQLITE_ROW && n_pairs < 400) {
        struct text_pair *p = &pairs[n_pairs++];
        snprintf(p->table, sizeof p->table, "%s", (const char *)sqlite3_column_text(columns, 0));
        snprintf(p->column, sizeof p->column, "%s", (const char *)sqlite3_column_text(columns, 1));
    }
    sqlite3_finalize(columns);
    for (int i = 0; i < n_pairs; i++) {
        if (i == 0 || strcmp(pairs[i].table, pairs[i - 1].table) != 0) loosen(pairs[i].table);
        char *keep = str_format("CREATE TABLE kept AS SELECT rowid AS at, %s AS value FROM %s",
            pairs[i].column, pairs[i].table);
        char *back = str_format(
            "UPDATE %s SET %s = (SELECT value FROM kept WHERE at = rowid); DROP TABLE kept",
            pairs[i].table, pairs[i].column);
        sql(keep);
        for (int k = 0; k < 7; k++) {
            if (!full && (k + i) % 7 >= 3) continue;
            n++;
            char *spoil = str_format("UPDATE %s SET %s = %s WHERE rowid %% 2 = 1", pairs[i].table,
                pairs[i].column, values[k]);
            sql(spoil);
            free(spoil);
            read_all((k + i) % 7 == 0);
            if ((k + i) % 7 == 2) merge_all(i);
        }
        sql(back);
        free(keep);
        free(back);
    }
    cr_assert_gt(n, 700);
    sqlite3_close(raw);
}

static void refuses(const char *change, const char *says)
{
    struct run_view v;
    struct store *s;
    sql("SAVEPOINT whole");
    sql(change);
    sql("RELEASE whole");
    ok(store_open(&s, db, STORE_READ));
    cr_assert_eq(run_view_load(&v, s, "1"), ERR_DB, "%s", change);
    cr_assert(strstr(status_message(), says) && strstr(status_message(), "damaged"), "%s",
        status_message());
    store_close(&s);
}

Test(damage, what_is_wrong_is_named)
{
    fill();
    static const char *const loose[] = {"block_mask", "metric", "model", "run"};
    for (int i = 0; i < 4; i++) loosen(loose[i]);
    refuses("UPDATE block_mask SET n_q = 1048576, n_k = 1048576",
        "column bits: found 16 bytes for 1048576 x 1048576 tiles");
    refuses("UPDATE block_mask SET n_q = -4", "column n_q: found -4, expected 0 to");
    refuses("UPDATE metric SET name = NULL", "column name: found nothing, expected a text");
    refuses("UPDATE model SET n_heads = 4294967297",
        "column n_heads: found 4294967297, expected 1 to 65535");
    refuses("DELETE FROM model", "run 1: its model has no row");
    refuses("UPDATE run SET key = NULL", "column key");
    sqlite3_close(raw);
}

Test(damage, a_version_is_one_that_was)
{
    static const int versions[] = {-1, -2, -1000, INT32_MIN, 0, 99, INT32_MAX};
    fill();
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        for (int mode = STORE_READ; mode <= STORE_WRITE; mode++) {
            char *text = str_format("PRAGMA user_version = %d", versions[i]), found[64];
            sql(text);
            free(text);
            struct store *s;
            cr_assert_eq(store_open(&s, db, (enum store_mode)mode), ERR_DB);
            snprintf(found, sizeof found, "user_version: found %d", versions[i]);
            cr_assert(strstr(status_message(), found), "%s", status_message());
        }
    sqlite3_close(raw);
}

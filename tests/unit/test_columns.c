/* The tables of columns against the schema, and every column on its ways: into a row and back, into
 * a file and back. */
#include "base/file.h"
#include "reports/runjson.h"
#include "results/columns.h"
#include "tests/unit/reports_fixture.h"

#include <sqlite3.h>

TestSuite(columns, .init = set_up, .fini = tear_down);

/* Columns that a table has beside those of its record, as the store fills them. */
static const struct {
    const struct columns *columns;
    const char *also;
} tables[] = {
    {&run_columns, " id model dataset machine software "},
    {&model_columns, " id "},
    {&dataset_columns, " id "},
    {&machine_columns, " id "},
    {&software_columns, " id "},
    {&metric_columns, " run ordinal "},
    {&sample_columns, " run "},
    {&ledger_columns, " run qk_sparsity pv_sparsity sparsity "},
    {&layer_error_columns, " run "},
    {&item_columns, " run ordinal "},
    {&generation_columns, " run "},
    {&latency_columns, " run "},
    {&worst_token_columns, " run "},
    {&mask_columns, " run bits "},
    {&tuned_columns, ""},
    {&tuned_head_columns, " hash "},
    {&curve_columns, " data "},
};
enum { N_TABLES = sizeof tables / sizeof *tables };

static const char *declared(const struct column *c)
{
    return column_is_text(c) || c->type == COLUMN_STATUS ? "TEXT"
        : c->type == COLUMN_REAL                         ? "REAL"
                                                         : "INTEGER";
}

Test(columns, every_table_is_its_columns)
{
    sqlite3 *raw;
    cr_assert_eq(sqlite3_open(db, &raw), SQLITE_OK);
    for (size_t i = 0; i < N_TABLES; i++) {
        const struct columns *t = tables[i].columns;
        sqlite3_stmt *q;
        size_t found = 0;
        cr_assert_eq(
            sqlite3_prepare_v2(raw,
                "SELECT name, type, \"notnull\" OR pk FROM pragma_table_info(?)", -1, &q, NULL),
            SQLITE_OK);
        sqlite3_bind_text(q, 1, t->table, -1, SQLITE_STATIC);
        while (sqlite3_step(q) == SQLITE_ROW) {
            const char *name = (const char *)sqlite3_column_text(q, 0),
                       *type = (const char *)sqlite3_column_text(q, 1);
            bool not_null = sqlite3_column_int(q, 2);
            const struct column *c = columns_find(t, name);
            char word[64];
            snprintf(word, sizeof word, " %s ", name);
            bool also = strstr(tables[i].also, word) != NULL;
            cr_expect(!c != !also, "%s.%s: in the schema, %s", t->table, name,
                c ? "twice in this test" : "not in results/columns.c");
            found += c != NULL;
            if (!c || t == &ledger_columns) continue; /* a view has neither types nor NOT NULL */
            cr_expect_str_eq(type, declared(c), "%s.%s", t->table, name);
            if (c->type == COLUMN_REAL) continue; /* each may be missing */
            bool may_miss =
                c->use & COLUMN_OPTIONAL || (column_is_text(c) && !(c->use & COLUMN_NAMED));
            cr_expect_eq(may_miss, !not_null,
                "%s.%s: NOT NULL in one of schema and results/columns.c", t->table, name);
        }
        sqlite3_finalize(q);
        cr_expect_eq(found, t->n, "%s: %zu columns in results/columns.c, %zu of them in the schema",
            t->table, t->n, found);
    }
    sqlite3_close(raw);
}

/* A value of its own for every member; `missing`: as little as a row may hold. */
static void fill(const struct columns *t, void *record, bool missing, struct arena **arena)
{
    columns_blank(t, record);
    for (size_t i = 0; i < t->n; i++) {
        const struct column *c = &t->at[i];
        void *m = (char *)record + c->offset;
        int lo, hi;
        char text[64];
        snprintf(text, sizeof text, c->type == COLUMN_JSON ? "[\"%s%s%d\"]" : "%s of %s %d",
            c->name, t->table, missing);
        bool leave = missing &&
            (c->type == COLUMN_REAL || c->use & COLUMN_OPTIONAL || !(c->use & COLUMN_NAMED));
        if (column_is_int(c, &lo, &hi))
            *(int *)m = leave && c->use & COLUMN_OPTIONAL ? -1
                : missing                                 ? (lo < 0 ? 0 : lo)
                                                          : (int)i + 1;
        else if (leave) continue;
        else if (column_is_text(c)) *(const char **)m = arena_str(arena, text);
        else if (c->type == COLUMN_REAL) *(double *)m = .1 + (double)i;
        else if (c->type == COLUMN_BOOL) *(bool *)m = true;
        else if (c->type == COLUMN_UNSIGNED) *(uint64_t *)m = UINT64_MAX - i;
        else if (c->type == COLUMN_INT64) *(int64_t *)m = ((int64_t)1 << 40) + (int64_t)i;
    }
}

static void fill_run(struct run_record *r, bool missing, struct arena **arena)
{
    for (int i = 0; i < RUN_PARTS; i++)
        if (i == 0) fill(&run_columns, r, missing, arena);
        else fill(run_parts[i].columns, (char *)r + run_parts[i].offset, missing, arena);
    r->status = RUN_DONE;
}

static void assert_same(const struct columns *t, const void *a, const void *b, bool in_file)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct column *c = &t->at[i];
        if (c->use & COLUMN_HEADLINE || !strcmp(c->name, "digest") || (in_file && !c->json))
            continue;
        struct str x = {0}, y = {0};
        column_describe(c, a, &x);
        column_describe(c, b, &y);
        cr_expect(column_same(c, a, b), "%s.%s: %s became %s", t->table, c->name, str_get(&x),
            str_get(&y));
        str_clear(&x);
        str_clear(&y);
    }
}

static void assert_same_run(const struct run_record *a, const struct run_record *b, bool in_file)
{
    for (int i = 0; i < RUN_PARTS; i++)
        assert_same(run_parts[i].columns, (const char *)a + run_parts[i].offset,
            (const char *)b + run_parts[i].offset, in_file);
}

Test(columns, every_member_of_a_run_comes_back)
{
    char *path = path_join(dir, "run.json");
    for (int missing = 0; missing < 2; missing++) {
        struct arena *arena = NULL;
        struct run_data d = {0};
        struct run_view v, from_file;
        fill_run(&d.run, missing, &arena);
        d.run.key = missing ? "0123" : "4567";
        ok(store_run_put(store, &d, false, NULL));
        ok(run_view_load(&v, store, d.run.key));
        assert_same_run(&d.run, v.run, false);
        ok(runjson_write(&v, path));
        ok(runjson_read(&from_file, path));
        assert_same_run(v.run, from_file.run, true);
        cr_expect_str_eq(
            from_file.run->model.path, v.run->model.path ? v.run->model.path : v.run->model.name);
        run_view_clear(&from_file);
        run_view_clear(&v);
        arena_free(&arena);
    }
    free(path);
}

/* Each kind of row with two records, one full and one empty, by way of the database, and of a file
 * where it goes there. */
Test(columns, every_member_of_a_row_comes_back)
{
    struct fixture f;
    struct arena *arena = NULL;
    fixture_run(&f, options(1, .4, 1));
    struct metric_record m[2];
    struct sample_record s[2];
    struct item_record items[2];
    struct generation_record g[2];
    struct latency_record l[2];
    struct worst_token_record w[2];
    struct layer_error_record e[2];
    for (int i = 0; i < 2; i++) {
        fill(&metric_columns, &m[i], i, &arena);
        fill(&sample_columns, &s[i], i, &arena);
        fill(&item_columns, &items[i], i, &arena);
        fill(&generation_columns, &g[i], i, &arena);
        fill(&latency_columns, &l[i], i, &arena);
        fill(&worst_token_columns, &w[i], i, &arena);
        fill(&layer_error_columns, &e[i], i, &arena);
    }
    m[1].scope = m[0].scope = "sample:1";
    m[1].name = "another";
    g[0].index = 0, g[1].index = 1;
    s[0].sample = 1, s[1].sample = 2, s[1].n_tokens = 5;
    l[0].part = "a", l[1].part = "b", l[1].n_tokens = l[1].n = 1;
    e[0].sample = 0, e[1].sample = 1;
    for (size_t k = 0; k < sample_columns.n; k++) /* a file is checked for values that cannot be */
        if (sample_columns.at[k].type == COLUMN_REAL)
            *(double *)((char *)&s[0] + sample_columns.at[k].offset) = .5 + .001 * (double)k;
    struct run_data d = {.run = f.d.run,
        .metrics = m,
        .n_metrics = 2,
        .samples = s,
        .n_samples = 2,
        .items = items,
        .n_items = 2,
        .generations = g,
        .n_generations = 2,
        .latencies = l,
        .n_latencies = 2,
        .worst_tokens = w,
        .n_worst_tokens = 2,
        .layer_errors = e,
        .n_layer_errors = 2};
    d.run.num_samples = d.run.dataset.n_samples = 2;
    ok(store_run_put(store, &d, false, NULL));
    struct run_view v = view("1"), from_file;
    char *path = path_join(dir, "run.json");
    ok(runjson_write(&v, path));
    ok(runjson_read(&from_file, path));
    cr_assert(v.metrics.n == 2 && v.samples.n == 2 && v.items.n == 2 && v.generations.n == 2 &&
        v.latencies.n == 2 && v.worst_tokens.n == 2 && v.layer_errors.n == 2);
    for (int i = 0; i < 2; i++) {
        assert_same(&metric_columns, &m[i], &v.metrics.rows[i], false);
        assert_same(&sample_columns, &s[i], &v.samples.rows[i], false);
        assert_same(&item_columns, &items[i], &v.items.rows[i], false);
        assert_same(&generation_columns, &g[i], &v.generations.rows[i], false);
        assert_same(&latency_columns, &l[i], &v.latencies.rows[i], false);
        assert_same(&worst_token_columns, &w[i], &v.worst_tokens.rows[i], false);
        assert_same(&layer_error_columns, &e[i], &v.layer_errors.rows[i], false);
        assert_same(&metric_columns, &m[i], &from_file.metrics.rows[i], true);
        assert_same(&sample_columns, &s[i], &from_file.samples.rows[i], true);
        assert_same(&generation_columns, &g[i], &from_file.generations.rows[i], true);
        assert_same(&latency_columns, &l[i], &from_file.latencies.rows[i], true);
    }
    run_view_clear(&from_file);
    run_view_clear(&v);
    free(path);
    arena_free(&arena);
    fixture_clear(&f);
}

/* What is a setting is told in one place: a change of any of them is another configuration, a
 * difference that `compare` shows, and but for what the thresholds say themselves, another key. */
Test(columns, a_setting_is_one_everywhere)
{
    struct arena *arena = NULL;
    struct run_record a, b;
    fill_run(&a, false, &arena);
    for (size_t i = 0; i < run_columns.n; i++) {
        const struct column *c = &run_columns.at[i];
        struct run_record empty;
        fill_run(&empty, true, &arena);
        b = a;
        memcpy((char *)&b + c->offset, (char *)&empty + c->offset,
            column_is_text(c) ? sizeof(char *)
                : c->type == COLUMN_REAL || c->type == COLUMN_INT64 || c->type == COLUMN_UNSIGNED
                ? 8
                : c->type == COLUMN_BOOL ? sizeof(bool)
                                         : sizeof(int));
        if (column_is_text(c)) *(const char **)((char *)&b + c->offset) = "another";
        bool setting = c->use & COLUMN_SETTING;
        cr_expect_eq(
            run_same_configuration(&a, &b), !setting || c->use & COLUMN_DATA, "%s", c->name);
        cJSON *ka = cJSON_CreateObject(), *kb = cJSON_CreateObject();
        columns_to_key(ka, &a, true);
        columns_to_key(kb, &b, true);
        bool in_key = setting && strcmp(c->name, "tuned_hash") != 0; /* a key has the hash of the
                                                                        whole policy */
        cr_expect_eq(cJSON_Compare(ka, kb, true), !in_key, "%s", c->name);
        cJSON_Delete(ka);
        cJSON_Delete(kb);
    }
    arena_free(&arena);
}

/* tests/golden/results_v2.sql was dumped from a database of sparsegauge 0.1.0. */
Test(columns, a_database_of_version_2_is_brought_up_to_date)
{
    char *old = path_join(dir, "old.db");
    struct str sql = {0};
    sqlite3 *raw;
    ok(file_read(&sql, TESTS_DIR "/golden/results_v2.sql"));
    cr_assert_eq(sqlite3_open(old, &raw), SQLITE_OK);
    cr_assert_eq(
        sqlite3_exec(raw, str_get(&sql), NULL, NULL, NULL), SQLITE_OK, "%s", sqlite3_errmsg(raw));
    cr_assert_eq(sqlite3_exec(raw,
                     "UPDATE run SET key_json = json_set(key_json, '$.residual', 'bf16', "
                     "'$.graph', json('true'))",
                     NULL, NULL, NULL),
        SQLITE_OK);
    sqlite3_close(raw);
    struct store *s;
    struct run_view v;
    ok(store_open(&s, old, STORE_READ)); /* through a copy */
    ok(run_view_load(&v, s, "last"));
    cr_assert_str_eq(v.run->residual, "bf16");
    run_view_clear(&v);
    store_close(&s);
    ok(store_open(&s, old, STORE_WRITE));
    ok(run_view_load(&v, s, "last"));
    cr_assert_str_eq(v.run->digest, "18152a25fc92830d4dc17aa0edc56823");
    cr_assert_str_eq(v.run->residual, "bf16");
    cr_assert(v.run->graph);
    cr_assert(!v.run->blas && !v.run->impl);
    cr_assert_str_eq(v.run->dataset.suite, "needle");
    cr_assert_eq(v.run->min_sparse_tokens, 256);
    cr_assert_float_eq(v.run->simthreshd1, .6, 1e-15);
    cr_assert(v.samples.n == 1 && v.items.n == 1 && v.worst_tokens.n == 2 && v.ledger.n == 32);
    cr_assert_eq(v.run->headline.kl_mean, run_view_metric(&v, "kl"));
    /* what is stored now lies beside it, and merges into a new one */
    put(options(77, .3, 1));
    struct merge_report merged;
    ok(store_merge(store, old, NULL, &merged));
    cr_assert(merged.added == 1 && merged.conflicting == 0);
    merge_report_clear(&merged);
    run_view_clear(&v);
    store_close(&s);
    str_clear(&sql);
    free(old);
}

#include "base/file.h"
#include "base/hash.h"
#include "results/db.h"
#include "results/lease.h"
#include "tests/unit/run_fixture.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define ok(expr) cr_assert_eq((expr), OK, "%s", status_message())
#define message_has(text) cr_assert(strstr(status_message(), text), "message: %s", status_message())

static char *dir, *db;

static void set_up(void)
{
    dir = dir_make();
    db = path_join(dir, "results.db");
}

static void tear_down(void)
{
    free(db);
    dir_remove(dir);
}

TestSuite(results, .init = set_up, .fini = tear_down);

static const struct fixture_options usual = {.seed = 1,
    .n_samples = 4,
    .n_layers = 3,
    .n_heads = 5,
    .sparsity = .4,
    .error = 1,
    .method = "sparge",
    .rule = "l1"};

static struct store *opened(const char *path, enum store_mode mode)
{
    struct store *s;
    ok(store_open(&s, path, mode));
    return s;
}

static int64_t put(struct store *s, struct fixture_options o)
{
    struct fixture f;
    fixture_run(&f, o);
    int64_t id;
    ok(store_run_put(s, &f.d, false, &id));
    fixture_clear(&f);
    return id;
}

static bool same_real(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

Test(results, a_run_reads_back_equal)
{
    struct fixture f;
    struct fixture_options o = usual;
    o.tasks = o.latency = o.words = true;
    fixture_run(&f, o);
    struct token_record tokens[3] = {{1, .5f, .9f, 2, 3}, {2, 0, 1, 1, 1}, {-7, 1e-9f, .5f, 0, 8}};
    struct token_block block = {2, 3, tokens};
    f.d.token_blocks = &block;
    f.d.n_token_blocks = 1;
    f.d.run.seed = UINT64_MAX;
    struct store *s = opened(db, STORE_WRITE);
    int64_t id;
    ok(store_run_put(s, &f.d, false, &id));
    store_close(&s);
    cr_assert_null(s);

    s = opened(db, STORE_READ);
    struct run_list runs;
    ok(query_run(s, "last", &runs));
    const struct run_record *r = runs.rows, *w = &f.d.run;
    cr_assert_eq(r->id, id);
    cr_assert_str_eq(r->key, w->key);
    cr_assert_str_eq(r->key_json, w->key_json);
    cr_assert_str_eq(r->layers, "all");
    cr_assert_str_eq(r->rule, "l1");
    cr_assert_null(r->reason);
    cr_assert_eq(r->seed, UINT64_MAX);
    cr_assert_eq(r->window, -1);
    cr_assert(isnan(r->topk));
    cr_assert_eq(r->peak_bytes, w->peak_bytes);
    cr_assert_eq(r->peak_device_bytes, -1);
    cr_assert_str_eq(r->model.name, "story-llama");
    cr_assert_eq(r->model.n_kv_heads, 4);
    cr_assert_str_eq(r->dataset.name, "text:wiki.valid.raw");
    cr_assert_str_eq(r->machine.cpu, "AMD EPYC");
    cr_assert_null(r->machine.gpus);
    cr_assert_str_eq(r->software.commit, "abc1234");
    cr_assert_float_eq(r->headline.cosine_mean, .98, 1e-15);
    cr_assert_float_eq(r->headline.kl_p99_9, .05 + 7 * .04, 1e-15);
    cr_assert_float_eq(r->headline.ppl_ratio_hi, 1.066, 1e-12);
    cr_assert_float_eq(r->headline.score_drop, .2, 1e-15);

    struct metric_list metrics;
    ok(query_metrics(s, id, NULL, &metrics));
    cr_assert_eq(metrics.n, f.d.n_metrics);
    for (size_t i = 0; i < metrics.n; i++) {
        const struct metric_record *a = &metrics.rows[i], *b = &f.metrics[i];
        cr_assert_str_eq(a->scope, b->scope);
        cr_assert_str_eq(a->name, b->name);
        cr_assert(same_real(a->mean, b->mean) && same_real(a->p0_1, b->p0_1) &&
            same_real(a->max, b->max) && same_real(a->lo, b->lo) && same_real(a->hi, b->hi) &&
            same_real(a->median, b->median));
    }
    metric_list_clear(&metrics);
    ok(query_metrics(s, id, "position:", &metrics));
    cr_assert_eq(metrics.n, 16);
    cr_assert_not_null(metric_list_find(&metrics, "position:256-511", "kl"));
    cr_assert_null(metric_list_find(&metrics, "overall", "kl"));
    metric_list_clear(&metrics);

    struct sample_list samples;
    ok(query_samples(s, id, &samples));
    cr_assert_eq(samples.n, 4);
    cr_assert_eq(memcmp(samples.rows, f.samples, 4 * sizeof *f.samples), 0);
    sample_list_clear(&samples);

    struct ledger_list ledger;
    ok(query_ledger(s, id, &ledger));
    cr_assert_eq(ledger.n, 15);
    for (size_t i = 0; i < ledger.n; i++) {
        const struct ledger_record *a = &ledger.rows[i], *b = &f.ledger[i];
        cr_assert(a->layer == b->layer && a->head == b->head &&
            a->tiles_possible == b->tiles_possible && a->tiles_computed == b->tiles_computed &&
            a->pv_computed == b->pv_computed && a->forced_sink == b->forced_sink &&
            a->forced_theta_k == b->forced_theta_k && a->dense_head == b->dense_head &&
            a->calls == b->calls);
        cr_assert(same_real(a->theta, b->theta) && same_real(a->tau, b->tau) &&
                same_real(a->lambda, b->lambda),
            "head %zu: tau %.17g and %.17g", i, a->tau, b->tau);
    }
    ledger_list_clear(&ledger);

    struct item_list items;
    ok(query_items(s, id, &items));
    cr_assert_eq(items.n, 60);
    cr_assert_str_eq(items.rows[59].item, "needle-59");
    cr_assert_eq(items.rows[7].length, f.items[7].length);
    cr_assert_eq(items.rows[7].sparse_right, f.items[7].sparse_right);
    item_list_clear(&items);

    struct layer_error_list errors;
    ok(query_layer_errors(s, id, &errors));
    cr_assert_eq(errors.n, 18);
    cr_assert_eq(errors.rows[0].head, -1);
    layer_error_list_clear(&errors);

    struct latency_list times;
    ok(query_latencies(s, id, &times));
    cr_assert_eq(times.n, 18);
    latency_list_clear(&times);
    struct generation_list texts;
    ok(query_generations(s, id, &texts));
    cr_assert_str_eq(texts.rows[1].sparse, " a model \"guesses\"");
    generation_list_clear(&texts);
    struct worst_token_list worst;
    ok(query_worst_tokens(s, id, 1, &worst));
    cr_assert_eq(worst.n, 1);
    cr_assert_eq(worst.rows[0].position, 700);
    worst_token_list_clear(&worst);
    struct mask_list masks;
    ok(query_masks(s, id, &masks));
    cr_assert_eq(masks.n, 2);
    cr_assert_eq(memcmp(masks.rows[1].bits, f.mask_bits, 16), 0);
    mask_list_clear(&masks);

    struct token_record *back;
    size_t n;
    ok(query_tokens(s, id, 2, &back, &n));
    cr_assert_eq(n, 3);
    cr_assert_eq(memcmp(back, tokens, sizeof tokens), 0);
    free(back);
    ok(query_tokens(s, id, 3, &back, &n));
    cr_assert_null(back);
    run_list_clear(&runs);
    store_close(&s);
    fixture_clear(&f);
}

Test(results, done_runs_stay_and_failed_ones_give_way)
{
    struct store *s = opened(db, STORE_WRITE);
    struct fixture f;
    fixture_run(&f, usual);
    struct run_data failed = {.run = f.d.run};
    failed.run.status = RUN_FAILED;
    failed.run.reason = "needs 90 GiB, device has 80";
    ok(store_run_put(s, &failed, false, NULL));
    enum cell_state state;
    ok(query_cell(s, f.key, f.slot, &state));
    cr_assert_eq(state, CELL_FAILED);
    ok(store_run_put(s, &f.d, false, NULL));
    ok(query_cell(s, f.key, f.slot, &state));
    cr_assert_eq(state, CELL_DONE);
    cr_assert_eq(store_run_put(s, &f.d, false, NULL), ERR_ARG);
    message_has("is done");
    ok(store_run_put(s, &f.d, true, NULL));
    struct sql_result q;
    ok(query_sql(s,
        "SELECT (SELECT count(*) FROM run), (SELECT count(*) FROM metric), (SELECT count(*) FROM "
        "ledger)",
        &q));
    cr_assert_eq(q.cells[0].i, 1);
    cr_assert_eq(q.cells[1].i, (int64_t)f.d.n_metrics, "rows of the replaced run went with it");
    cr_assert_eq(q.cells[2].i, 3);
    sql_result_clear(&q);
    ok(store_run_delete(s, f.key));
    cr_assert_eq(store_run_delete(s, f.key), ERR_ARG);
    store_close(&s);
    fixture_clear(&f);
}

Test(results, a_bad_row_leaves_nothing_behind)
{
    struct store *s = opened(db, STORE_WRITE);
    struct fixture f;
    fixture_run(&f, usual);
    f.ledger[7].head = 4; /* a gap */
    cr_assert_eq(store_run_put(s, &f.d, false, NULL), ERR_ARG);
    message_has("layer 1");
    f.ledger[7].head = 2;
    f.samples[2].sample = 1; /* twice the same */
    cr_assert_eq(store_run_put(s, &f.d, false, NULL), ERR_DB);
    message_has("results.db");
    f.samples[2].sample = 2;
    struct sql_result q;
    ok(query_sql(s, "SELECT count(*) FROM run", &q));
    cr_assert_eq(q.cells[0].i, 0);
    sql_result_clear(&q);
    ok(store_run_put(s, &f.d, false, NULL));
    store_close(&s);
    fixture_clear(&f);
}

Test(results, views_answer_plain_sql)
{
    struct store *s = opened(db, STORE_WRITE);
    for (int i = 0; i < 6; i++) {
        struct fixture_options o = usual;
        o.seed = (uint64_t)i;
        o.sparsity = .1 * i;
        o.error = i == 3 ? 5 : i; /* run 4 is worse than the sparser run 5 */
        o.tasks = true;
        put(s, o);
    }
    struct sql_result q;
    ok(query_sql(s,
        "SELECT group_concat(id) FROM (SELECT id FROM v_frontier WHERE NOT on_cosine ORDER BY id)",
        &q));
    cr_assert_str_eq(q.cells[0].text, "4");
    sql_result_clear(&q);
    ok(query_sql(s, "SELECT count(*), sum(on_kl), sum(on_ppl) FROM v_frontier", &q));
    cr_assert_eq(q.cells[0].i, 6);
    cr_assert_eq(q.cells[1].i, 5);
    cr_assert_eq(q.cells[2].i, 5);
    sql_result_clear(&q);
    ok(query_sql(s,
        "SELECT count(*), max(abs(sparsity - .5*(qk_sparsity+pv_sparsity))) < 1e-12 FROM v_ledger "
        "WHERE run = 2",
        &q));
    cr_assert_eq(q.cells[0].i, 15);
    cr_assert_eq(q.cells[1].i, 1);
    sql_result_clear(&q);
    ok(query_sql(s,
        "SELECT (SELECT count(*) FROM v_flips) = (SELECT count(*) FROM item WHERE "
        "dense_right <> sparse_right), (SELECT count(*) FROM v_metrics) > 100",
        &q));
    cr_assert(q.cells[0].i == 1 && q.cells[1].i == 1);
    sql_result_clear(&q);

    struct run_list runs;
    struct run_filter all = {0};
    ok(query_runs(s, &all, &runs));
    struct frontier_point *points;
    size_t n;
    ok(query_frontier(&runs, FRONTIER_COSINE, &points, &n));
    cr_assert_eq(n, 6);
    for (size_t i = 0; i < n; i++)
        cr_assert_eq(points[i].dominated, runs.rows[points[i].run].id == 4);
    free(points);
    run_list_clear(&runs);
    store_close(&s);
}

Test(results, frontier_agrees_with_its_definition)
{
    enum { N = 300 };
    struct run_record rows[N];
    memset(rows, 0, sizeof rows);
    struct rng r;
    rng_init(&r, 3);
    for (int i = 0; i < N; i++) {
        rows[i].model.fingerprint = i % 2 ? "m1" : "m2";
        rows[i].dataset.fingerprint = i % 3 ? "d1" : "d2";
        rows[i].headline.sparsity = rng_range(&r, 0, 20) / 20.0; /* many ties */
        rows[i].headline.kl_mean = rng_range(&r, 0, 20) / 20.0;
    }
    rows[5].headline.kl_mean = NAN;
    rows[6].status = RUN_FAILED;
    struct run_list l = {rows, N, NULL};
    struct frontier_point *p;
    size_t n;
    ok(query_frontier(&l, FRONTIER_KL, &p, &n));
    cr_assert_eq(n, N - 2);
    for (size_t i = 0; i < n; i++) {
        const struct run_record *a = &rows[p[i].run];
        bool dominated = false;
        for (size_t k = 0; k < n; k++) {
            const struct run_record *b = &rows[p[k].run];
            if (strcmp(a->model.fingerprint, b->model.fingerprint) ||
                strcmp(a->dataset.fingerprint, b->dataset.fingerprint))
                continue;
            double ds = b->headline.sparsity - a->headline.sparsity,
                   dk = a->headline.kl_mean - b->headline.kl_mean;
            if (ds >= 0 && dk >= 0 && (ds > 0 || dk > 0)) dominated = true;
        }
        cr_assert_eq(p[i].dominated, dominated, "point %zu", i);
    }
    free(p);
}

Test(results, knee_is_the_corner)
{
    struct run_record rows[5];
    memset(rows, 0, sizeof rows);
    const double sparsity[] = {.0, .2, .4, .5, .6}, cosine[] = {1, .999, .997, .96, .90};
    for (int i = 0; i < 5; i++) {
        rows[i].model.fingerprint = rows[i].dataset.fingerprint = "x";
        rows[i].headline.sparsity = sparsity[i];
        rows[i].headline.cosine_mean = cosine[i];
    }
    struct run_list l = {rows, 5, NULL};
    struct frontier_point *p;
    size_t n;
    ok(query_frontier(&l, FRONTIER_COSINE, &p, &n));
    for (size_t i = 0; i < n; i++) cr_assert_eq(p[i].knee, i == 2);
    free(p);
}

static enum status best(
    struct store *s, const char *method, const struct best_bounds *b, struct run_list *out)
{
    struct run_list runs;
    ok(query_runs(s, &(struct run_filter){.method = method, .done_only = true}, &runs));
    enum status st = query_best(s, &runs, false, b, out);
    run_list_clear(&runs);
    return st;
}

Test(results, best_holds_the_bounds_or_says_which_breaks)
{
    struct store *s = opened(db, STORE_WRITE);
    for (int i = 1; i <= 5; i++) {
        struct fixture_options o = usual;
        o.seed = (uint64_t)i;
        o.sparsity = .1 * i;
        o.error = .5 * i;
        put(s, o);
    }
    struct best_bounds b = {
        .min_cosine = .975, .max_kl = NAN, .max_ppl_increase = NAN, .min_token_accuracy = NAN};
    struct run_list l;
    ok(best(s, NULL, &b, &l)); /* cosine 1 - .02 * .5 i >= .975: i = 2 */
    cr_assert_eq(l.rows[0].id, 2);
    run_list_clear(&l);
    b.min_cosine = .98;
    ok(best(s, NULL, &b, &l));
    cr_assert_eq(l.rows[0].id, 2, "a bound met exactly holds");
    run_list_clear(&l);
    b.with_intervals = true;
    ok(best(s, NULL, &b, &l));
    cr_assert_eq(l.rows[0].id, 1, "the interval of run 2 reaches below the bound");
    run_list_clear(&l);
    b.max_kl = 1e-4;
    cr_assert_eq(best(s, NULL, &b, &l), ERR_ARG);
    message_has("max-kl");
    message_has("run 1");
    cr_assert_eq(l.n, 0);
    b = (struct best_bounds){
        .min_cosine = .99004, .max_kl = NAN, .max_ppl_increase = NAN, .min_token_accuracy = NAN};
    cr_assert_eq(best(s, NULL, &b, &l), ERR_ARG); /* the best has .99 */
    message_has("found 0.99, bound 0.99004");
    cr_assert_eq(best(s, "topk", &b, &l), ERR_ARG);
    store_close(&s);
}

Test(results, runs_are_found_by_number_key_and_filter)
{
    struct store *s = opened(db, STORE_WRITE);
    for (int i = 1; i <= 3; i++) {
        struct fixture_options o = usual;
        o.seed = (uint64_t)i;
        if (i == 3) o.method = "window";
        put(s, o);
    }
    struct run_list l, again;
    ok(query_run(s, "2", &l));
    ok(query_run(s, l.rows[0].key, &again));
    cr_assert_eq(again.rows[0].id, 2);
    run_list_clear(&l);
    run_list_clear(&again);
    cr_assert_eq(query_run(s, "99", &l), ERR_ARG);
    message_has("3 runs");
    cr_assert_eq(query_run(s, "nonsense", &l), ERR_ARG);
    struct run_filter f = {
        .method = "sparge", .model = "story-llama", .limit = 1, .newest_first = true};
    ok(query_runs(s, &f, &l));
    cr_assert_eq(l.n, 1);
    cr_assert_eq(l.rows[0].id, 2);
    run_list_clear(&l);
    f = (struct run_filter){.model = "012345", .suite = "text", .max_length = 1024};
    ok(query_runs(s, &f, &l));
    cr_assert_eq(l.n, 0, "all runs are longer");
    run_list_clear(&l);
    f.max_length = 4096;
    ok(query_runs(s, &f, &l));
    cr_assert_eq(l.n, 3);
    run_list_clear(&l);
    store_close(&s);
}

/* What another program, or another version of this one, might do to a file. */
static void run_sql(const char *path, const char *sql)
{
    sqlite3 *handle;
    cr_assert_eq(sqlite3_open(path, &handle), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(handle);
}

Test(results, refuses_files_that_are_not_ours)
{
    struct store *s;
    cr_assert_eq(store_open(&s, db, STORE_READ), ERR_IO);
    message_has("no such database");
    cr_assert_null(s);
    char *foreign = path_join(dir, "foreign.db");
    run_sql(foreign, "CREATE TABLE t(x)");
    struct str before = {0}, after = {0};
    ok(file_read(&before, foreign));
    cr_assert_eq(store_open(&s, foreign, STORE_WRITE), ERR_DB);
    message_has("foreign.db");
    message_has("application_id");
    ok(file_read(&after, foreign));
    cr_assert(
        before.len == after.len && !memcmp(before.data, after.data, after.len), "left untouched");

    const char *text = "this is a text file that is long enough to be looked at by SQLite, which "
                       "wants a header.....\n";
    cr_assert_eq(unlink(foreign), 0);
    ok(file_write_atomic(foreign, text, strlen(text)));
    cr_assert_eq(store_open(&s, foreign, STORE_WRITE), ERR_DB);
    message_has("no SQLite database");
    cr_assert_eq(store_open(&s, foreign, STORE_READ), ERR_DB);
    message_has("no SQLite database");

    ok(store_open(&s, db, STORE_WRITE));
    store_close(&s);
    run_sql(db, "PRAGMA user_version = 99");
    cr_assert_eq(store_open(&s, db, STORE_WRITE), ERR_DB);
    message_has("newer version");
    cr_assert_eq(store_open(&s, db, STORE_READ), ERR_DB);

    cr_assert_eq(store_open(&s, dir, STORE_WRITE), ERR_IO);
    message_has("is a directory");
    char *deep = path_join(dir, "no/such/folder.db");
    cr_assert_eq(store_open(&s, deep, STORE_WRITE), ERR_IO);
    message_has("folder");
    free(deep);
    free(foreign);
    str_clear(&before);
    str_clear(&after);
}

/* A database of version 1, as far as the versions differ. */
Test(results, an_older_version_is_brought_up_to_date)
{
    struct store *s = opened(db, STORE_WRITE);
    put(s, usual);
    store_close(&s);
    run_sql(db,
        "DROP VIEW v_flips; DROP VIEW v_ledger; DROP VIEW v_precision; DROP VIEW v_metrics; DROP "
        "VIEW v_runs; CREATE VIEW v_runs AS SELECT id FROM run;"
        "ALTER TABLE sample DROP COLUMN cosine_centred_mean; ALTER TABLE sample DROP COLUMN "
        "row_rmse_mean;"
        "ALTER TABLE sample DROP COLUMN row_hidden_cosine_mean; ALTER TABLE item DROP COLUMN "
        "dense_right_norm;"
        "ALTER TABLE item DROP COLUMN sparse_right_norm; ALTER TABLE run DROP COLUMN residual;"
        "ALTER TABLE run DROP COLUMN graph; ALTER TABLE run DROP COLUMN impl; ALTER TABLE run DROP "
        "COLUMN blas; ALTER TABLE run DROP COLUMN isa;"
        "ALTER TABLE sample DROP COLUMN logits_dense_rms; ALTER TABLE sample DROP COLUMN "
        "logits_sparse_rms;"
        "ALTER TABLE sample DROP COLUMN hidden_dense_rms; ALTER TABLE sample DROP COLUMN "
        "hidden_sparse_rms;"
        "ALTER TABLE sample DROP COLUMN tiles_possible; ALTER TABLE sample DROP COLUMN "
        "pv_possible; DROP TABLE tail;"
        "DROP VIEW v_frontier; ALTER TABLE run DROP COLUMN confirming;"
        "ALTER TABLE run DROP COLUMN qk; ALTER TABLE run DROP COLUMN pv; ALTER TABLE ledger DROP "
        "COLUMN eight; ALTER TABLE ledger DROP COLUMN tiles_corrected;"
        "ALTER TABLE item DROP COLUMN recall; ALTER TABLE item DROP COLUMN recall_oracle;"
        "ALTER TABLE item DROP COLUMN recall_p5; ALTER TABLE item DROP COLUMN recall_group;"
        "ALTER TABLE item DROP COLUMN chance; ALTER TABLE item DROP COLUMN kl;"
        "ALTER TABLE item DROP COLUMN dense_value; ALTER TABLE item DROP COLUMN sparse_value;"
        "ALTER TABLE item DROP COLUMN expected; ALTER TABLE item DROP COLUMN dense_text;"
        "ALTER TABLE item DROP COLUMN sparse_text;"
        "DROP TABLE layer_error;"
        "CREATE TABLE layer_error (run INTEGER NOT NULL, layer INTEGER NOT NULL, head INTEGER NOT "
        "NULL);"
        "PRAGMA user_version = 1");
    struct sample_list samples;
    struct stat before, after;
    cr_assert_eq(stat(db, &before), 0);
    s = opened(db, STORE_READ); /* through a copy */
    ok(query_samples(s, 1, &samples));
    cr_assert(samples.n == 4 && isnan(samples.rows[0].row_rmse_mean));
    sample_list_clear(&samples);
    store_close(&s);
    char *all = path_join(dir, "all.db");
    struct merge_report merged;
    s = opened(all, STORE_WRITE);
    ok(store_merge(s, db, NULL, &merged));
    cr_assert_eq(merged.added, 1);
    merge_report_clear(&merged);
    store_close(&s);
    free(all);
    cr_assert_eq(stat(db, &after), 0);
    cr_assert(before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
            before.st_mtim.tv_nsec == after.st_mtim.tv_nsec && before.st_size == after.st_size,
        "reading changes nothing");
    s = opened(db, STORE_WRITE);
    ok(query_samples(s, 1, &samples));
    cr_assert_eq(samples.n, 4);
    cr_assert(samples.rows[0].kl_mean > 0 && isnan(samples.rows[0].row_rmse_mean));
    sample_list_clear(&samples);
    struct sql_result r;
    ok(query_sql(s, "SELECT score, dataset FROM v_runs", &r));
    cr_assert_str_eq(r.cells[0].text, "all");
    sql_result_clear(&r);
    struct fixture_options another = usual;
    another.seed = 77;
    put(s, another);
    store_close(&s);
}

Test(results, odd_file_names)
{
    char *odd = path_join(dir, "a?b#c%20d.db");
    struct store *s = opened(odd, STORE_WRITE);
    put(s, usual);
    store_close(&s);
    cr_assert(file_exists(odd));
    s = opened(odd, STORE_READ);
    store_close(&s);
    free(odd);
}

Test(results, reading_handles_do_not_write)
{
    struct store *s = opened(db, STORE_WRITE);
    put(s, usual);
    store_close(&s);
    s = opened(db, STORE_READ);
    struct fixture f;
    fixture_run(&f, usual);
    cr_assert_eq(store_run_put(s, &f.d, true, NULL), ERR_ARG);
    struct sql_result q;
    cr_assert_eq(query_sql(s, "DELETE FROM run", &q), ERR_ARG);
    message_has("only statements that read");
    cr_assert_eq(query_sql(s, "ATTACH 'x.db' AS x", &q), ERR_ARG);
    cr_assert_eq(query_sql(s, "SELECT 1; SELECT 2", &q), ERR_ARG);
    cr_assert_eq(query_sql(s, "SELEC 1", &q), ERR_ARG);
    message_has("syntax error");
    cr_assert_eq(query_sql(s, "  ", &q), ERR_ARG);
    ok(query_sql(s, "SELECT 1 AS a, 2.5, 'x', NULL, x'0102';", &q));
    cr_assert_eq(q.n_columns, 5);
    cr_assert_str_eq(q.columns[0], "a");
    cr_assert(q.cells[0].type == SQL_INT && q.cells[1].type == SQL_REAL &&
        q.cells[2].type == SQL_TEXT && q.cells[3].type == SQL_NULL && q.cells[4].type == SQL_BLOB &&
        q.cells[4].i == 2);
    sql_result_clear(&q);
    store_close(&s);
    fixture_clear(&f);
}

/* The sqlite3 shell has foreign keys off: what a deleted run leaves must not become the next one's.
 */
Test(results, rows_deleted_by_hand_leave_nothing_to_the_next)
{
    char *other = path_join(dir, "other.db");
    struct fixture_options o = usual;
    o.tasks = o.latency = o.words = true;
    struct store *s = opened(db, STORE_WRITE);
    put(s, o);
    struct planned_cell cells[2] = {{"k1", "s1", "{}"}, {"k2", "s2", "{}"}};
    struct tuned_head_record head = {.layer = 0, .head = 0, .theta = .5};
    struct tuned_record t = {.hash = "77",
        .model_fingerprint = "m",
        .data_fingerprint = "d",
        .method = "sparge",
        .rule = "l1",
        .smooth_k = "running",
        .layers = "all",
        .heads = &head,
        .n_heads = 1};
    ok(store_plan_put(s, "p", "{}", cells, 2));
    ok(store_tuned_put(s, &t));
    int64_t n_children = 0, n, n_tables;
    for (int i = 0; run_children[i]; i++) {
        char *count = str_format("SELECT count(*) FROM %s", run_children[i]);
        ok(db_int(s, count, &n));
        n_children += n > 0;
        free(count);
    }
    cr_assert_geq(n_children, 8, "rows to leave behind in many tables");
    int n_listed = 0;
    while (run_children[n_listed]) n_listed++;
    ok(db_int(s,
        "SELECT count(*) FROM sqlite_schema m, pragma_foreign_key_list(m.name) f WHERE m.type = "
        "'table' AND f.\"table\" = 'run'",
        &n_tables));
    cr_assert_eq(n_tables, n_listed, "every table of the schema that belongs to runs is listed");

    for (int round = 0; round < 2; round++) {
        run_sql(db, "DELETE FROM run; DELETE FROM plan; DELETE FROM tuned");
        if (round == 0) { /* of other samples, and without most of the rest */
            struct fixture_options fewer = usual;
            fewer.seed = 5;
            fewer.n_samples = 2;
            cr_assert_eq(put(s, fewer), 1, "the number is given again");
            ok(store_plan_put(s, "p", "{}", cells, 1));
            ok(store_tuned_put(s, &t));
        } else {
            struct store *b = opened(other, STORE_WRITE);
            struct fixture_options fewer = usual;
            fewer.seed = 6;
            fewer.n_samples = 2;
            put(b, fewer);
            ok(store_plan_put(b, "p", "{}", cells, 1));
            ok(store_tuned_put(b, &t));
            store_close(&b);
            struct merge_report m;
            ok(store_merge(s, other, NULL, &m));
            cr_assert_eq(m.added, 1);
            merge_report_clear(&m);
        }
        ok(db_int(s,
            "SELECT (SELECT count(*) FROM sample) = 2 AND (SELECT count(*) FROM item) = 0 "
            "AND (SELECT count(*) FROM cell) = 1 AND (SELECT count(*) FROM tuned_head) = 1 "
            "AND NOT EXISTS (SELECT 1 FROM pragma_foreign_key_check)",
            &n));
        cr_expect_eq(n, 1, "round %d", round);
    }
    store_close(&s);
    run_sql(db, "DELETE FROM model");
    cr_assert_eq(store_open(&s, db, STORE_WRITE), ERR_DB);
    message_has("1 runs belong to rows of table model that were deleted");
    char *remedy = str_dup(strchr(status_message(), '\'') + 1);
    *strchr(remedy, '\'') = 0;
    run_sql(db, remedy);
    free(remedy);
    store_close(&s);
    ok(store_open(&s, db, STORE_WRITE));
    store_close(&s);
    free(other);
}

static void copy_to(const char *from, const char *folder, const char *name)
{
    struct str bytes = {0};
    char *to = path_join(folder, name);
    ok(file_read(&bytes, from));
    ok(file_write_atomic(to, bytes.data, bytes.len));
    cr_assert_eq(chmod(to, 0644), 0);
    str_clear(&bytes);
    free(to);
}

/* Killed there, and the folder is now read-only: the log holds runs that the file does not. */
Test(results, a_log_in_a_folder_that_cannot_be_written)
{
    char *folder = path_join(dir, "sealed"), *path = path_join(folder, "r.db"),
         *log = str_format("%s-wal", db);
    struct store *s = opened(db, STORE_WRITE);
    put(s, usual);
    cr_assert(file_exists(log));
    cr_assert(mkdir(folder, 0755) == 0 && chmod(dir, 0755) == 0);
    copy_to(db, folder, "r.db");
    copy_to(log, folder, "r.db-wal");
    store_close(&s);
    cr_assert_eq(chmod(folder, 0555), 0);
    enum { NOT_REACHED = 7 };
    pid_t child = fork();
    if (child == 0) {
        int64_t n = 0;
        if (geteuid() == 0 && setuid(65534) != 0) _exit(9); /* root may write anywhere */
        if (access(folder, R_OK | X_OK) != 0) _exit(NOT_REACHED);
        if (store_open(&s, path, STORE_READ) != OK) {
            fprintf(stderr, "%s\n", status_message());
            _exit(1);
        }
        enum status st = db_int(s, "SELECT count(*) FROM run", &n);
        store_close(&s);
        _exit(st == OK && n == 1 ? 0 : 2);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_REACHED)
        cr_skip("other users cannot reach %s, and root may write anywhere", folder);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d", status);
    char *shm = str_format("%s-shm", path);
    cr_expect(!file_exists(shm));
    free(shm);
    cr_assert_eq(chmod(folder, 0755), 0);
    free(folder);
    free(path);
    free(log);
}

Test(results, leases_are_exclusive_and_run_out)
{
    struct store *a = opened(db, STORE_WRITE), *b = opened(db, STORE_WRITE);
    enum lease got;
    ok(store_lease(a, "k1", "a:1", 60, false, &got));
    cr_assert_eq(got, LEASE_TAKEN);
    ok(store_lease(b, "k1", "b:2", 60, false, &got));
    cr_assert_eq(got, LEASE_BUSY);
    ok(store_lease(a, "k1", "a:1", 60, false, &got));
    cr_assert_eq(got, LEASE_TAKEN, "one's own lease can be prolonged");
    enum cell_state state;
    ok(query_cell(b, "k1", "s", &state));
    cr_assert_eq(state, CELL_RUNNING);
    ok(store_lease_release(b, "k1", "b:2"));
    ok(store_lease(b, "k1", "b:2", 60, false, &got));
    cr_assert_eq(got, LEASE_BUSY, "nobody releases another's");
    ok(store_lease(a, "k1", "a:1", -1, false, &got));
    ok(store_lease(b, "k1", "b:2", 60, false, &got));
    cr_assert_eq(got, LEASE_TAKEN, "one that has run out counts for nothing");

    struct fixture f;
    fixture_run(&f, usual);
    ok(store_lease(a, f.key, "a:1", 60, false, &got));
    struct run_data failed = {.run = f.d.run};
    failed.run.status = RUN_FAILED;
    ok(store_run_put(a, &failed, false, NULL));
    ok(store_lease(b, f.key, "b:2", 60, false, &got));
    cr_assert_eq(got, LEASE_STORED);
    ok(store_lease(b, f.key, "b:2", 60, true, &got));
    cr_assert_eq(got, LEASE_TAKEN, "storing released it, and failures may be retried");
    ok(store_run_put(b, &f.d, false, NULL));
    ok(store_lease(a, f.key, "a:1", 60, true, &got));
    cr_assert_eq(got, LEASE_STORED);
    fixture_clear(&f);
    store_close(&a);
    store_close(&b);
}

/* A process counts as dead only where its number means something here. */
Test(results, owners_are_told_dead_only_when_they_are)
{
    struct str me = {0}, other = {0};
    lease_owner(3, &me);
    cr_assert(!lease_owner_is_dead(str_get(&me)), "%s", str_get(&me));
    int pipe_of[2];
    cr_assert_eq(pipe(pipe_of), 0);
    pid_t child = fork();
    if (child == 0) {
        lease_owner(0, &other);
        if (write(pipe_of[1], str_get(&other), other.len) < 0) _exit(1);
        _exit(0);
    }
    char text[256];
    waitpid(child, NULL, 0);
    ssize_t n = read(pipe_of[0], text, sizeof text - 1);
    cr_assert_gt(n, 0);
    text[n] = 0;
    cr_assert(lease_owner_is_dead(text), "%s", text);
    char *colon = strrchr(text, ':'), *ns = colon; /* host:pid:start:boot:namespace:worker */
    while (ns[-1] != ':') ns--;
    ns[0] = ns[0] == '1' ? '2' : '1';
    cr_assert(!lease_owner_is_dead(text), "another namespace: %s", text);
    static const char *const strange[] = {
        "", "host", "host:1", "host:1:1", "host:1:1:-:-:0", "a:b:c:d:e:f", "host:-1:0:x:1:0"};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++)
        cr_assert(!lease_owner_is_dead(strange[i]), "%s", strange[i]);
    str_clear(&me);
    str_clear(&other);
}

Test(results, holders_give_back_what_they_hold)
{
    struct store *s = opened(db, STORE_WRITE);
    struct lease_holder *a, *b;
    enum lease got;
    ok(lease_open(&a, s, 0));
    ok(lease_open(&b, s, 1));
    ok(lease_take(a, "k", false, &got));
    cr_assert_eq(got, LEASE_TAKEN);
    ok(lease_take(b, "k", false, &got));
    cr_assert_eq(got, LEASE_BUSY);
    lease_close(&a);
    ok(lease_take(b, "k", false, &got));
    cr_assert_eq(got, LEASE_TAKEN);
    ok(lease_drop(b, "k"));
    lease_close(&b);
    struct sql_result r;
    ok(query_sql(s, "SELECT count(*) FROM lease", &r));
    cr_assert_eq(r.cells[0].i, 0);
    sql_result_clear(&r);
    store_close(&s);
}

Test(results, several_workers_share_one_new_file)
{
    enum { WORKERS = 3, CELLS = 12 };
    pid_t pids[WORKERS];
    for (int w = 0; w < WORKERS; w++) {
        pids[w] = fork();
        if (pids[w]) continue;
        struct store *s;
        char owner[16];
        snprintf(owner, sizeof owner, "w:%d", w);
        if (store_open(&s, db, STORE_WRITE) != OK) {
            fprintf(stderr, "%s\n", status_message());
            _exit(1);
        }
        for (int i = 0; i < CELLS; i++) {
            struct fixture_options o = usual;
            o.seed = (uint64_t)i;
            struct fixture f;
            fixture_run(&f, o);
            enum lease got;
            if (store_lease(s, f.key, owner, 60, false, &got) != OK) _exit(2);
            if (got == LEASE_TAKEN && store_run_put(s, &f.d, false, NULL) != OK) _exit(3);
            fixture_clear(&f);
        }
        store_close(&s);
        _exit(0);
    }
    for (int w = 0; w < WORKERS; w++) {
        int status;
        waitpid(pids[w], &status, 0);
        cr_assert(
            WIFEXITED(status) && WEXITSTATUS(status) == 0, "worker %d: %d", w, WEXITSTATUS(status));
    }
    struct store *s = opened(db, STORE_READ);
    struct sql_result q;
    ok(query_sql(s, "SELECT count(*), count(DISTINCT key) FROM run", &q));
    cr_assert_eq(q.cells[0].i, CELLS);
    sql_result_clear(&q);
    store_close(&s);
}

Test(results, kill_loses_at_most_the_running_cell)
{
    int ready[2];
    cr_assert_eq(pipe(ready), 0);
    pid_t pid = fork();
    if (!pid) {
        struct store *s;
        if (store_open(&s, db, STORE_WRITE) != OK) _exit(1);
        for (uint64_t i = 0;; i++) {
            struct fixture_options o = usual;
            o.seed = i;
            o.tasks = true;
            struct fixture f;
            fixture_run(&f, o);
            if (store_run_put(s, &f.d, false, NULL) != OK) _exit(2);
            fixture_clear(&f);
            if (write(ready[1], "x", 1) != 1) _exit(3);
        }
    }
    char c;
    int stored = 0;
    for (; stored < 20; stored++) cr_assert_eq(read(ready[0], &c, 1), 1);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    fcntl(ready[0], F_SETFL, O_NONBLOCK);
    while (read(ready[0], &c, 1) == 1) stored++;
    struct store *s = opened(db, STORE_WRITE);
    struct sql_result q;
    ok(query_sql(s, "SELECT count(*), (SELECT count(*) FROM item) FROM run", &q));
    cr_assert(q.cells[0].i >= stored && q.cells[0].i <= stored + 1, "%d told, %d found", stored,
        (int)q.cells[0].i);
    cr_assert_eq(q.cells[1].i, 60 * q.cells[0].i, "runs are whole");
    sql_result_clear(&q);
    ok(query_sql(s, "PRAGMA integrity_check", &q));
    cr_assert_str_eq(q.cells[0].text, "ok");
    sql_result_clear(&q);
    store_close(&s);
}

static void put_with_key(struct store *s, uint64_t seed, double error, enum run_status status)
{
    struct fixture_options o = usual;
    o.seed = seed;
    o.error = error;
    struct fixture f;
    fixture_run(&f, o);
    struct run_data only = {.run = f.d.run};
    only.run.status = status;
    ok(store_run_put(s, status == RUN_DONE ? &f.d : &only, false, NULL));
    fixture_clear(&f);
}

static void note_share(void *ctx, double share)
{
    double *shares = ctx;
    if (shares[0] < 7) shares[(int)++shares[0]] = share;
}

Test(results, merge_joins_shards)
{
    char *other = path_join(dir, "other.db");
    struct store *a = opened(db, STORE_WRITE), *b = opened(other, STORE_WRITE);
    /* the key depends on the seed alone, so another error is another result under the same key */
    put_with_key(a, 1, 1, RUN_DONE);
    put_with_key(a, 2, 1, RUN_DONE);
    put_with_key(a, 3, 1, RUN_FAILED);
    put_with_key(a, 4, 1, RUN_DONE);
    put_with_key(b, 9, 1, RUN_DONE); /* shifts the numbers */
    put_with_key(b, 1, 1, RUN_DONE);
    put_with_key(b, 2, 2, RUN_DONE);
    put_with_key(b, 3, 1, RUN_DONE);
    put_with_key(b, 4, 1, RUN_SKIPPED);
    struct tuned_head_record heads[2] = {
        {.layer = 0, .head = 0, .theta = .5, .reason = NULL}, {.layer = 0, .head = 1}};
    struct tuned_record t = {.hash = "77",
        .model_fingerprint = "m",
        .data_fingerprint = "d",
        .method = "sparge",
        .rule = "l1",
        .smooth_k = "running",
        .layers = "all",
        .l1 = .06,
        .pv_l1 = .07,
        .heads = heads,
        .n_heads = 2,
        .wall_s = 3};
    ok(store_tuned_put(b, &t));
    struct planned_cell cells[2] = {{"k1", "s1", "{}"}, {"k2", "s2", "{}"}};
    ok(store_plan_put(a, "p", "{}", cells, 1));
    ok(store_plan_put(b, "p", "{}", cells, 2));
    store_close(&b);

    struct merge_report m;
    double shares[8] = {0}; /* how many, and each */
    ok(store_merge(a, other, &(struct merge_watch){note_share, shares}, &m));
    cr_assert(shares[0] == 2 && shares[1] == .5 && shares[2] == 1, "%g: %g, %g", shares[0],
        shares[1], shares[2]);
    cr_assert_eq(m.added, 1);
    cr_assert_eq(m.completed, 1);
    cr_assert_eq(m.identical, 2, "run 1, and run 4 that is done here");
    cr_assert_eq(m.conflicting, 1);
    cr_assert(strstr(m.conflicts[0].what, "cosine of scope overall"), "%s", m.conflicts[0].what);
    merge_report_clear(&m);
    struct sql_result q;
    ok(query_sql(a,
        "SELECT count(*), sum(status = 'done'), (SELECT count(*) FROM sample), "
        "(SELECT count(*) FROM tuned_head), "
        "(SELECT count(*) FROM cell) FROM run",
        &q));
    cr_assert_eq(q.cells[0].i, 5);
    cr_assert_eq(q.cells[1].i, 5);
    cr_assert_eq(q.cells[2].i, 20);
    cr_assert_eq(q.cells[3].i, 2);
    cr_assert_eq(q.cells[4].i, 2);
    sql_result_clear(&q);
    ok(query_sql(a, "PRAGMA foreign_key_check", &q));
    cr_assert_eq(q.n_rows, 0);
    sql_result_clear(&q);

    ok(store_merge(a, other, NULL, &m));
    cr_assert_eq(m.added + m.completed, 0, "again changes nothing");
    cr_assert_eq(m.identical, 4);
    merge_report_clear(&m);
    char *missing = path_join(dir, "missing.db");
    cr_assert_eq(store_merge(a, missing, NULL, &m), ERR_IO);
    free(missing);
    store_close(&a);
    free(other);
}

Test(results, plans_tell_missing_and_stale)
{
    struct store *s = opened(db, STORE_WRITE);
    struct fixture f;
    fixture_run(&f, usual);
    ok(store_run_put(s, &f.d, false, NULL));
    const char *now =
        "{\"model\":\"0123456789abcdef0123456789abcdef\",\"engine\":\"2\",\"method\":\"sparge\","
        "\"layers\":\"all\",\"seed\":1,\"sparsity\":0.400000,\"dataset\":\"text\"}";
    char key[33];
    store_key(now, key);
    struct planned_cell cells[4] = {
        {f.key, f.slot, f.key_json}, {key, f.slot, now}, {"k3", "s3", now}, {"k4", "s4", now}};
    ok(store_plan_put(s, "night", "{\"l1\":[0.06]}", cells, 4));
    enum lease got;
    ok(store_lease(s, "k4", "me", 60, false, &got));
    size_t counts[6];
    ok(query_plan_status(s, "night", counts));
    cr_assert(counts[CELL_DONE] == 1 && counts[CELL_STALE] == 1 && counts[CELL_MISSING] == 1 &&
        counts[CELL_RUNNING] == 1 && counts[CELL_FAILED] == 0);
    struct cell_list l;
    ok(query_cells(s, "night", &l));
    cr_assert_eq(l.n, 4);
    cr_assert_eq(l.rows[1].state, CELL_STALE);
    cell_list_clear(&l);

    struct str why = {0};
    ok(query_explain(s, f.key, f.slot, f.key_json, &why));
    cr_assert(strstr(str_get(&why), "reused: run 1"), "%s", str_get(&why));
    str_reset(&why);
    ok(query_explain(s, key, f.slot, now, &why));
    cr_assert(strstr(str_get(&why), "stale") && strstr(str_get(&why), "engine: 1 -> 2"), "%s",
        str_get(&why));
    str_reset(&why);
    ok(query_explain(s, "k3", "s3", now, &why));
    cr_assert(
        strstr(str_get(&why), "missing") && strstr(str_get(&why), "engine"), "%s", str_get(&why));
    str_reset(&why);
    ok(query_explain(s, "k4", "s4", now, &why));
    cr_assert(strstr(str_get(&why), "worker me"), "%s", str_get(&why));
    str_clear(&why);
    ok(store_plan_put(s, "night", "{}", cells, 1));
    ok(query_plan_status(s, NULL, counts));
    cr_assert_eq(
        counts[CELL_DONE] + counts[CELL_STALE] + counts[CELL_MISSING], 1, "the plan was replaced");
    store_close(&s);
    fixture_clear(&f);
}

Test(results, key_diff_names_every_field)
{
    struct str d = {0};
    cr_assert_eq(
        key_json_diff("{\"a\":1,\"b\":\"x\",\"c\":null}", "{\"a\":2,\"b\":\"x\",\"d\":true}", &d),
        3);
    cr_assert_str_eq(str_get(&d), "a: 1 -> 2; c: null -> nothing; d: nothing -> true");
    cr_assert_eq(key_json_diff("{}", "[1", &d), -1);
    str_clear(&d);
}

Test(results, curves_tunings_and_floors)
{
    struct store *s = opened(db, STORE_WRITE);
    struct curve_key k = {"m", "d", "sparge-curves-1", "sparge", "running", 128, 64, 3, 5, 0};
    void *blob;
    size_t size;
    ok(query_curve(s, &k, &blob, &size));
    cr_assert_null(blob);
    ok(store_begin(s));
    ok(store_curve_put(s, &k, "abc", 3));
    k.sample = 1;
    ok(store_curve_put(s, &k, "", 0));
    ok(store_commit(s));
    k.sample = 0;
    ok(query_curve(s, &k, &blob, &size));
    cr_assert(size == 3 && !memcmp(blob, "abc", 3));
    free(blob);
    k.sample = 1;
    ok(query_curve(s, &k, &blob, &size));
    cr_assert(blob && size == 0, "an empty curve is there");
    free(blob);
    ok(store_begin(s));
    k.sample = 2;
    ok(store_curve_put(s, &k, "x", 1));
    store_close(&s); /* without a commit */
    s = opened(db, STORE_WRITE);
    ok(query_curve(s, &k, &blob, &size));
    cr_assert_null(blob);

    struct tuned_head_record h[2] = {
        {0, 0, true, .5, .97, 12, .05, .055, NAN, NAN, .4, .41, 2, NULL},
        {0, 1, false, NAN, NAN, NAN, 0, 0, NAN, NAN, 0, 0, 0, "sparsity 6 % is under 10 %"},
    };
    struct tuned_record t = {
        "feed", "m", "d", "sparge", "l1", "running", "0-7", .06, .07, 128, 64, "{}", 9.5, h, 2};
    ok(store_tuned_put(s, &t));
    ok(store_tuned_put(s, &t));
    struct tuned_list l;
    ok(query_tuned(s, "fe", NULL, &l));
    cr_assert_eq(l.n, 1);
    cr_assert_eq(l.rows[0].n_heads, 2);
    cr_assert_eq(l.rows[0].heads[0].back_offs, 2);
    cr_assert_float_eq(l.rows[0].heads[0].l1_held_out, .055, 0);
    cr_assert(isnan(l.rows[0].heads[0].tail_tune));
    cr_assert_str_eq(l.rows[0].heads[1].reason, "sparsity 6 % is under 10 %");
    tuned_list_clear(&l);
    ok(query_tuned(s, NULL, "another", &l));
    cr_assert_eq(l.n, 0);
    tuned_list_clear(&l);

    struct machine_record m = {.fingerprint = "mm", .cpu = "x", .n_cores = 2};
    struct noise_record n[2] = {{NULL, "model", "threads", "kl", 1e-6, 1000},
        {NULL, "model", "threads", "cosine", 1e-7, 9}};
    ok(store_noise_put(s, &m, n, 2));
    n[0].value = 2e-6;
    ok(store_noise_put(s, &m, n, 1));
    struct noise_list floors;
    ok(query_noise(s, "mm", "model", &floors));
    cr_assert_eq(floors.n, 2);
    cr_assert_float_eq(floors.rows[1].value, 2e-6, 0);
    cr_assert_str_eq(floors.rows[1].machine_fingerprint, "mm");
    noise_list_clear(&floors);
    store_close(&s);
}

static double cpu_ms(void) { return 1e3 * (double)clock() / CLOCKS_PER_SEC; }

/* The scale of the limits of tests/bench/bench_store.c, a tenth of it in cells so that the test
 * stays short: bounds scaled alike, and of the processor's time, which others do not take. */
Test(results, ten_samples_a_cell_stay_small_and_fast, .timeout = 120)
{
    enum { CELLS = 1000 };
    struct store *s = opened(db, STORE_WRITE);
    double total = 0;
    for (int i = 0; i < CELLS; i++) {
        struct fixture_options o = usual;
        o.seed = (uint64_t)i;
        o.n_samples = 10;
        o.n_layers = 4;
        o.n_heads = 8;
        o.sparsity = .8 * i / CELLS;
        o.error = 1 + .5 * sin(i);
        struct fixture f;
        fixture_run(&f, o);
        double t = cpu_ms();
        ok(store_run_put(s, &f.d, false, NULL));
        total += cpu_ms() - t;
        fixture_clear(&f);
    }
    store_close(&s);
    struct stat info;
    cr_assert_eq(stat(db, &info), 0);
    cr_expect(info.st_size < 2048LL * 10 * CELLS, "%lld bytes a cell and sample",
        (long long)info.st_size / 10 / CELLS);
    cr_expect(total / CELLS < 5, "a cell takes %.2f ms to store", total / CELLS);
    s = opened(db, STORE_READ);
    double t = cpu_ms();
    struct run_list runs;
    struct run_filter all = {0};
    ok(query_runs(s, &all, &runs));
    struct frontier_point *points;
    size_t n;
    ok(query_frontier(&runs, FRONTIER_KL, &points, &n));
    cr_assert_eq(n, CELLS);
    cr_expect(cpu_ms() - t < 100, "the frontier takes %.1f ms", cpu_ms() - t);
    free(points);
    run_list_clear(&runs);
    store_close(&s);
}

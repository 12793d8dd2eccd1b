#include "base/str.h"
#include "results/arithmetic.h"
#include "results/db.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a column of table `run` becomes under its new number; NULL: it is copied. */
static const char *run_value(const char *name)
{
    static const char *const values[][2] = {
        {"id", "k.new"},
        {"model",
            "(SELECT a.id FROM main.model a JOIN src.model b USING (fingerprint) WHERE b.id = "
            "o.model)"},
        {"dataset",
            "(SELECT a.id FROM main.dataset a JOIN src.dataset b USING (fingerprint) WHERE b.id = "
            "o.dataset)"},
        {"machine",
            "(SELECT a.id FROM main.machine a JOIN src.machine b USING (fingerprint) WHERE b.id = "
            "o.machine)"},
        {"software",
            "(SELECT a.id FROM main.software a JOIN src.software b USING (version, engine, "
            "compiler, git_commit, dirty) "
            "WHERE b.id = o.software)"},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if (!strcmp(name, values[i][0])) return values[i][1];
    return NULL;
}

static void add_name(struct str *out, const char *name)
{
    str_add_char(out, '"');
    for (; *name; name++) {
        if (*name == '"') str_add_char(out, '"');
        str_add_char(out, *name);
    }
    str_add_char(out, '"');
}

/* Columns of a table for an INSERT, and what is selected for them from row o of the source: `run`
 * is k.new, of a table of runs the references are translated. skip: a column that is left out;
 * NULL. */
static enum status column_lists(
    struct store *s, const char *table, const char *skip, struct str *to, struct str *from)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more, runs = !strcmp(table, "run");
    enum status st =
        cursor_open(&c, s, "SELECT name FROM pragma_table_info(?, 'main') ORDER BY cid");
    if (st == OK) put_text(&c, table);
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        const char *name = get_name(&c),
                   *value = runs   ? run_value(name)
            : !strcmp(name, "run") ? "k.new"
                                   : NULL;
        if (skip && !strcmp(name, skip)) continue;
        if (to->len) {
            str_add(to, ", ");
            str_add(from, ", ");
        }
        add_name(to, name);
        if (value) str_add(from, value);
        else {
            str_add(from, "o.");
            add_name(from, name);
        }
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

/* INSERT `how` INTO the table what `rows` finds in src.TABLE o. */
static enum status copy_table(
    struct store *s, const char *table, const char *skip, const char *how, const char *rows)
{
    struct str to = {0}, from = {0};
    enum status st = column_lists(s, table, skip, &to, &from);
    char *sql = str_format("INSERT %s INTO main.%s (%s) SELECT %s FROM src.%s o %s", how, table,
        str_get(&to), str_get(&from), table, rows);
    if (st == OK) st = db_exec(s, sql);
    free(sql);
    str_clear(&to);
    str_clear(&from);
    return st;
}

/* Rows of a table with an own id: only those not there yet. */
static enum status merge_parents(struct store *s)
{
    static const char *const tables[] = {"model", "dataset", "machine", "software"};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        TRY(copy_table(s, tables[i], "id", "OR IGNORE", ""));
    return OK;
}

/* Which run of the source gets which number here. */
static const char choose_runs[] =
    "CREATE TEMP TABLE run_map (old INTEGER PRIMARY KEY, new INTEGER NOT NULL, completes INTEGER "
    "NOT NULL);"
    "INSERT INTO run_map SELECT o.id, (SELECT ifnull(max(id), 0) FROM main.run) + row_number() "
    "OVER (ORDER "
    "BY o.id),"
    "  r.id IS NOT NULL FROM src.run o LEFT JOIN main.run r ON r.key = o.key"
    "  WHERE r.id IS NULL OR (r.status <> 'done' AND o.status = 'done');";

static enum status count_outcomes(struct store *s, struct merge_report *out)
{
    int64_t n;
    TRY(db_int(s, "SELECT count(*) FROM run_map WHERE NOT completes", &n));
    out->added = (size_t)n;
    TRY(db_int(s, "SELECT count(*) FROM run_map WHERE completes", &n));
    out->completed = (size_t)n;
    TRY(db_int(s,
        "SELECT count(*) FROM src.run o JOIN main.run r ON r.key = o.key WHERE r.digest = o.digest "
        "OR (r.status = 'done' AND o.status <> 'done') OR (r.status <> 'done' AND o.status <> "
        "'done')",
        &n));
    out->identical = (size_t)n;
    return OK;
}

/* The first metric in which two runs differ, in words. */
static enum status describe_conflict(struct store *s, int64_t here, int64_t there, char **out)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    enum status st = cursor_open(&c, s,
        "SELECT a.name, a.scope, a.mean, b.mean FROM main.metric a JOIN src.metric b ON b.scope = "
        "a.scope "
        "AND b.name = a.name WHERE a.run = ? AND b.run = ? AND a.mean IS NOT b.mean "
        "AND a.name NOT LIKE 'latency%' ORDER BY a.scope <> 'overall', a.ordinal LIMIT 1");
    if (st == OK) {
        put_int(&c, here);
        put_int(&c, there);
        st = cursor_step(&c, &more);
    }
    if (st == OK && more) {
        const char *name = get_name(&c), *scope = get_name(&c);
        double a = get_real(&c), b = get_real(&c);
        *out = str_format("%s of scope %s: here %.9g, there %.9g", name, scope, a, b);
    } else {
        *out = str_dup("results differ outside the means of the metrics");
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

static enum status list_conflicts(struct store *s, struct store *other, struct merge_report *out)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    void *rows = NULL;
    bool more;
    enum status st = cursor_open(&c, s,
        "SELECT r.key, r.id, o.id FROM src.run o JOIN main.run r ON r.key = o.key "
        "WHERE r.status = 'done' AND o.status = 'done' AND r.digest <> o.digest "
        "ORDER BY r.id");
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        struct merge_conflict *k =
            rows_grow(&rows, out->conflicting + out->other_arithmetic, sizeof *k);
        struct str words = {0};
        enum arithmetic arithmetic = ARITHMETIC_SAME;
        snprintf(k->key, sizeof k->key, "%s", get_name(&c));
        int64_t here = get_int(&c), there = get_int(&c);
        st = arithmetic_between(s, other, k->key, &arithmetic, &words);
        k->arithmetic = arithmetic != ARITHMETIC_SAME;
        *(k->arithmetic ? &out->other_arithmetic : &out->conflicting) += 1;
        if (k->arithmetic) k->what = words.data;
        else if (st == OK) st = describe_conflict(s, here, there, &k->what);
    }
    out->conflicts = rows;
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

static enum status copy_runs(struct store *s)
{
    TRY(db_exec(s,
        "DELETE FROM main.run WHERE key IN (SELECT o.key FROM src.run o JOIN run_map k ON k.old = "
        "o.id "
        "WHERE k.completes)"));
    return copy_table(s, "run", NULL, "", "JOIN run_map k ON k.old = o.id");
}

/* What runs (of the source, behind `last` up to `end`) consist of; their rows stand beside each
 * other in every table. */
static enum status copy_children_of(struct store *s, int64_t last, int64_t end)
{
    char *rows = str_format("JOIN run_map k ON k.old = o.run WHERE k.old > %lld AND k.old <= %lld",
        (long long)last, (long long)end);
    enum status st = OK;
    for (int i = 0; run_children[i] && st == OK; i++)
        st = copy_table(s, run_children[i], NULL, "", rows);
    free(rows);
    return st;
}

enum { COPY_STEPS = 64 }; /* so often is told how far it is */

static enum status copy_children(struct store *s, size_t n, const struct merge_watch *watch)
{
    size_t step = n / COPY_STEPS + 1;
    TRY(copy_table(s, "head_thresholds", NULL, "OR IGNORE", ""));
    int64_t last = INT64_MIN;
    for (size_t done = 0; done < n; done += step) {
        int64_t end;
        char *sql = str_format("SELECT max(old) FROM (SELECT old FROM run_map WHERE old > %lld "
                               "ORDER BY old LIMIT %zu)",
            (long long)last, step);
        enum status st = db_int(s, sql, &end);
        free(sql);
        if (st == OK) st = copy_children_of(s, last, end);
        if (st != OK) return st;
        last = end;
        if (watch) watch->tell(watch->ctx, (double)(done + step < n ? done + step : n) / (double)n);
    }
    return OK;
}

/* Failures of a question that was answered later. */
static const char drop_answered[] =
    "DELETE FROM main.run WHERE status <> 'done' AND EXISTS (SELECT 1 FROM main.run d WHERE d.slot "
    "= run.slot"
    "  AND d.status = 'done' AND d.key <> run.key AND d.ended >= run.ended)";

static const char merge_noise[] =
    "INSERT INTO main.noise (machine, model_fingerprint, source, metric, value, n)"
    "  SELECT a.id, n.model_fingerprint, n.source, n.metric, n.value, n.n FROM src.noise n"
    "  JOIN src.machine b ON b.id = n.machine JOIN main.machine a USING (fingerprint) WHERE 1"
    "  ON CONFLICT DO UPDATE SET value = max(value, excluded.value), n = max(n, excluded.n)";

/* A plan that is here already gets the cells it lacks, at its end. Where both ask the same question
 * under two keys (a text was changed or found in between), the key with a result stays, else that
 * of the later plan. */
static const char merge_cells[] =
    "CREATE TEMP TABLE there AS SELECT o.plan, o.ordinal, o.key, o.slot, o.key_json, p.created,"
    "  EXISTS (SELECT 1 FROM main.run r WHERE r.key = o.key AND r.status = 'done') AS answered"
    "  FROM src.cell o JOIN src.plan p ON p.name = o.plan;"
    "CREATE INDEX temp.there_slot ON there (plan, slot);"
    "CREATE TEMP TABLE here AS SELECT h.plan, h.ordinal, h.slot, h.key, p.created,"
    "  EXISTS (SELECT 1 FROM main.run r WHERE r.key = h.key AND r.status = 'done') AS answered"
    "  FROM main.cell h JOIN main.plan p ON p.name = h.plan;"
    "CREATE INDEX temp.here_slot ON here (plan, slot);"
    "CREATE INDEX temp.here_key ON here (plan, key);"
    "UPDATE main.cell AS c SET key = x.key, key_json = x.key_json FROM"
    "  (SELECT h.plan, h.ordinal, t.key, t.key_json FROM here h JOIN there t ON t.plan = h.plan "
    "AND t.slot = h.slot"
    "   WHERE t.key <> h.key AND (t.answered > h.answered OR (t.answered = h.answered AND "
    "t.created > h.created))) AS x"
    "  WHERE c.plan = x.plan AND c.ordinal = x.ordinal;"
    "INSERT INTO main.cell (plan, ordinal, key, slot, key_json)"
    "  SELECT t.plan, (SELECT ifnull(max(ordinal), -1) FROM main.cell h WHERE h.plan = t.plan)"
    "    + row_number() OVER (PARTITION BY t.plan ORDER BY t.ordinal), t.key, t.slot, t.key_json "
    "FROM there t"
    "  WHERE NOT EXISTS (SELECT 1 FROM here h WHERE h.plan = t.plan AND h.slot = t.slot)"
    "    AND NOT EXISTS (SELECT 1 FROM here h WHERE h.plan = t.plan AND h.key = t.key);"
    "UPDATE main.plan AS p SET created = o.created, json = o.json FROM src.plan o"
    "  WHERE o.name = p.name AND o.created > p.created;"
    "DROP TABLE there; DROP TABLE here";

static enum status copy_rest(struct store *s)
{
    TRY(copy_table(s, "tuned", NULL, "OR IGNORE", ""));
    TRY(copy_table(
        s, "tuned_head", NULL, "", "WHERE o.hash NOT IN (SELECT hash FROM main.tuned_head)"));
    TRY(copy_table(s, "curve", NULL, "OR IGNORE", ""));
    TRY(db_exec(s, merge_noise));
    TRY(copy_table(s, "plan", NULL, "OR IGNORE", ""));
    return db_exec(s, merge_cells);
}

static enum status merge_attached(
    struct store *s, struct store *other, const struct merge_watch *watch, struct merge_report *out)
{
    TRY(db_drop_orphans(s));
    TRY(db_exec(s,
        "DELETE FROM main.cell WHERE plan NOT IN (SELECT name FROM main.plan);"
        "DELETE FROM main.tuned_head WHERE hash NOT IN (SELECT hash FROM main.tuned)"));
    TRY(merge_parents(s));
    TRY(db_exec(s, choose_runs));
    TRY(list_conflicts(s, other, out));
    TRY(count_outcomes(s, out));
    TRY(copy_runs(s));
    TRY(copy_children(s, out->added + out->completed, watch));
    TRY(db_exec(s, drop_answered));
    TRY(copy_rest(s));
    return db_exec(s, "DROP TABLE run_map");
}

/* *other stays open as long as the file is attached: it may be a copy that goes with it. */
static enum status attach(struct store *s, const char *path, struct store **other)
{
    TRY(store_open(other, path, STORE_READ)); /* refuses what is not ours, with a reason */
    struct str uri = {0};
    db_uri((*other)->copy ? (*other)->copy : path, (*other)->immutable ? "immutable=1" : "mode=ro",
        &uri);
    struct cursor c = {0};
    enum status st = cursor_open(&c, s, "ATTACH ? AS src");
    if (st == OK) {
        put_text(&c, str_get(&uri));
        st = cursor_run(&c);
    }
    cursor_close(&c);
    str_clear(&uri);
    return st;
}

enum status store_merge(struct store *s, const char *src_path, const struct merge_watch *watch,
    struct merge_report *out)
{
    *out = (struct merge_report){0};
    TRY(db_need_write(s));
    if (s->depth) return fail(ERR_ARG, "%s: cannot merge inside a transaction", s->path);
    struct store *other = NULL;
    enum status attached = attach(s, src_path, &other),
                st = attached == OK ? db_begin(s) : attached;
    if (st == OK) {
        st = merge_attached(s, other, watch, out);
        if (st == OK) st = db_commit(s);
        if (st != OK) db_rollback(s);
    }
    if (st != OK) {
        if (attached == OK) st = fail_context(st, "merging %s", src_path);
        merge_report_clear(out);
    }
    sqlite3_exec(s->db, "DETACH src", NULL, NULL, NULL);
    store_close(&other);
    return st;
}

void merge_report_clear(struct merge_report *r)
{
    for (size_t i = 0; i < r->conflicting + r->other_arithmetic; i++) free(r->conflicts[i].what);
    free(r->conflicts);
    *r = (struct merge_report){0};
}

#include "base/str.h"
#include "results/db.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tables whose first column is the run they belong to. */
static const char *const children[] = {"metric",     "sample",  "tail", "ledger",      "layer_error", "item",
                                       "generation", "latency", "worst_token", "token_block", "block_mask"};

/* "a, b, c" of a table, leaving out `skip` (NULL: none); each with `prefix` in front. */
static enum status column_names(struct store *s, const char *table, const char *skip, const char *prefix,
                                struct str *out)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more;
    enum status st = cursor_open(&c, s, "SELECT name FROM pragma_table_info(?) ORDER BY cid");
    if (st == OK) put_text(&c, table);
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        const char *name = get_name(&c);
        if (skip && !strcmp(name, skip)) continue;
        str_addf(out, "%s%s%s", out->len ? ", " : "", prefix, name);
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

/* Rows of a table with an own id: only those not there yet. */
static enum status merge_parents(struct store *s)
{
    static const char *const tables[] = {"model", "dataset", "machine", "software"};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        struct str columns = {0};
        enum status st = column_names(s, tables[i], "id", "", &columns);
        char *sql = str_format("INSERT OR IGNORE INTO main.%s (%s) SELECT %s FROM src.%s", tables[i],
                               str_get(&columns), str_get(&columns), tables[i]);
        if (st == OK) st = db_exec(s, sql);
        free(sql);
        str_clear(&columns);
        TRY(st);
    }
    return OK;
}

/* Which run of the source gets which number here. */
static const char choose_runs[] =
    "CREATE TEMP TABLE run_map (old INTEGER PRIMARY KEY, new INTEGER NOT NULL, completes INTEGER NOT NULL);"
    "INSERT INTO run_map SELECT o.id, (SELECT ifnull(max(id), 0) FROM main.run) + row_number() OVER (ORDER "
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
               "OR (r.status = 'done' AND o.status <> 'done') OR (r.status <> 'done' AND o.status <> 'done')",
               &n));
    out->identical = (size_t)n;
    return OK;
}

/* The first metric in which two runs differ, in words. */
static enum status describe_conflict(struct store *s, int64_t here, int64_t there, char *out, size_t size)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    enum status st = cursor_open(
        &c, s,
        "SELECT a.name, a.scope, a.mean, b.mean FROM main.metric a JOIN src.metric b ON b.scope = a.scope "
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
        snprintf(out, size, "%s of scope %s: here %.9g, there %.9g", name, scope, a, b);
    } else {
        snprintf(out, size, "results differ outside the means of the metrics");
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

static enum status list_conflicts(struct store *s, struct merge_report *out)
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
        struct merge_conflict *k = rows_grow(&rows, out->conflicting++, sizeof *k);
        snprintf(k->key, sizeof k->key, "%s", get_name(&c));
        int64_t here = get_int(&c), there = get_int(&c);
        st = describe_conflict(s, here, there, k->what, sizeof k->what);
    }
    out->conflicts = rows;
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

static enum status copy_runs(struct store *s)
{
    struct str columns = {0};
    enum status st = column_names(s, "run", NULL, "o.", &columns);
    /* the four references and the number are translated, all other columns copied */
    char *wanted = str_dup(str_get(&columns));
    struct str values = {0};
    for (char *save = NULL, *p = strtok_r(wanted, ", ", &save); p; p = strtok_r(NULL, ", ", &save)) {
        const char *v =
            !strcmp(p, "o.id")         ? "k.new"
            : !strcmp(p, "o.model")    ? "(SELECT a.id FROM main.model a JOIN src.model b USING "
                                         "(fingerprint) WHERE b.id = o.model)"
            : !strcmp(p, "o.dataset")  ? "(SELECT a.id FROM main.dataset a JOIN src.dataset b USING "
                                         "(fingerprint) WHERE b.id = o.dataset)"
            : !strcmp(p, "o.machine")  ? "(SELECT a.id FROM main.machine a JOIN src.machine b USING "
                                         "(fingerprint) WHERE b.id = o.machine)"
            : !strcmp(p, "o.software") ? "(SELECT a.id FROM main.software a JOIN src.software b USING "
                                         "(version, engine, compiler, git_commit, dirty) "
                                         "WHERE b.id = o.software)"
                                       : p;
        str_addf(&values, "%s%s", values.len ? ", " : "", v);
    }
    free(wanted);
    str_clear(&columns);
    if (st == OK) st = column_names(s, "run", NULL, "", &columns);
    if (st == OK)
        st = db_exec(s, "DELETE FROM main.run WHERE key IN (SELECT o.key FROM src.run o JOIN run_map k ON "
                        "k.old = o.id "
                        "WHERE k.completes)");
    char *sql =
        str_format("INSERT INTO main.run (%s) SELECT %s FROM src.run o JOIN run_map k ON k.old = o.id",
                   str_get(&columns), str_get(&values));
    if (st == OK) st = db_exec(s, sql);
    free(sql);
    str_clear(&columns);
    str_clear(&values);
    return st;
}

static enum status copy_children(struct store *s)
{
    TRY(db_exec(s, "INSERT OR IGNORE INTO main.head_thresholds SELECT * FROM src.head_thresholds"));
    for (size_t i = 0; i < sizeof children / sizeof *children; i++) {
        struct str to = {0}, from = {0};
        enum status st = column_names(s, children[i], "run", "", &to);
        if (st == OK) st = column_names(s, children[i], "run", "o.", &from);
        char *sql = str_format("INSERT INTO main.%s (run, %s) SELECT k.new, %s FROM src.%s o "
                               "JOIN run_map k ON k.old = o.run",
                               children[i], str_get(&to), str_get(&from), children[i]);
        if (st == OK) st = db_exec(s, sql);
        free(sql);
        str_clear(&to);
        str_clear(&from);
        TRY(st);
    }
    return OK;
}

/* Tunings, curves, floors, plans. A plan that is here already gets the cells it lacks, at its end. */
static const char copy_rest[] =
    "INSERT OR IGNORE INTO main.tuned SELECT * FROM src.tuned;"
    "INSERT INTO main.tuned_head SELECT h.* FROM src.tuned_head h"
    "  WHERE h.hash NOT IN (SELECT hash FROM main.tuned_head);"
    "INSERT OR IGNORE INTO main.curve SELECT * FROM src.curve;"
    "INSERT INTO main.noise (machine, model_fingerprint, source, metric, value, n)"
    "  SELECT a.id, n.model_fingerprint, n.source, n.metric, n.value, n.n FROM src.noise n"
    "  JOIN src.machine b ON b.id = n.machine JOIN main.machine a USING (fingerprint) WHERE 1"
    "  ON CONFLICT DO UPDATE SET value = max(value, excluded.value), n = max(n, excluded.n);"
    "INSERT OR IGNORE INTO main.plan SELECT * FROM src.plan;"
    "INSERT INTO main.cell (plan, ordinal, key, slot, key_json)"
    "  SELECT o.plan, (SELECT ifnull(max(ordinal), -1) FROM main.cell h WHERE h.plan = o.plan)"
    "    + row_number() OVER (PARTITION BY o.plan ORDER BY o.ordinal), o.key, o.slot, o.key_json FROM "
    "src.cell o"
    "  WHERE NOT EXISTS (SELECT 1 FROM main.cell h WHERE h.plan = o.plan AND h.key = o.key);";

static enum status merge_attached(struct store *s, struct merge_report *out)
{
    TRY(merge_parents(s));
    TRY(db_exec(s, choose_runs));
    TRY(list_conflicts(s, out));
    TRY(count_outcomes(s, out));
    TRY(copy_runs(s));
    TRY(copy_children(s));
    TRY(db_exec(s, copy_rest));
    return db_exec(s, "DROP TABLE run_map");
}

static enum status attach(struct store *s, const char *path)
{
    struct store *other;
    TRY(store_open(&other, path, STORE_READ)); /* refuses what is not ours, with a reason */
    struct str uri = {0};
    db_uri(path, other->immutable ? "immutable=1" : "mode=ro", &uri);
    store_close(&other);
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

enum status store_merge(struct store *s, const char *src_path, struct merge_report *out)
{
    *out = (struct merge_report){0};
    TRY(db_need_write(s));
    if (s->depth) return fail(ERR_ARG, "%s: cannot merge inside a transaction", s->path);
    TRY(attach(s, src_path));
    enum status st = db_begin(s);
    if (st == OK) {
        st = merge_attached(s, out);
        if (st == OK) st = db_commit(s);
        if (st != OK) db_rollback(s);
    }
    if (st != OK) {
        st = fail_context(st, "merging %s", src_path);
        merge_report_clear(out);
    }
    sqlite3_exec(s->db, "DETACH src", NULL, NULL, NULL);
    return st;
}

void merge_report_clear(struct merge_report *r)
{
    free(r->conflicts);
    *r = (struct merge_report){0};
}

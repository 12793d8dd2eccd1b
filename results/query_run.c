#include "results/query.h"

#include "results/db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The few rows behind the ids of a run, read once and shared by all runs of a list. */
struct parents {
    int64_t *ids;
    char *records;
    size_t n;
};

static enum status load_parents(
    struct store *s, const struct columns *t, struct arena **arena, struct parents *p)
{
    struct cursor c = {.arena = arena};
    bool more;
    void *ids = NULL, *records = NULL;
    enum status st = cursor_open_select(&c, s, t, "id", "");
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        int64_t *id = rows_grow(&ids, p->n, sizeof *id);
        *id = get_int(&c);
        get_record(&c, t, rows_grow(&records, p->n++, t->bytes));
    }
    p->ids = ids;
    p->records = records;
    cursor_close(&c);
    return st;
}

/* Ids are few: the search is short. Each was stored before the run; a file from elsewhere may lack
 * one. */
static bool copy_parent(
    const struct parents *p, int64_t id, const struct run_part *part, struct run_record *r)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->ids[i] == id) {
            memcpy((char *)r + part->offset, p->records + i * part->columns->bytes,
                part->columns->bytes);
            return true;
        }
    return false;
}

/* In front of a run's own columns. */
#define RUN_IDS "t.id, t.model, t.dataset, t.machine, t.software"

static void read_run(struct cursor *c, const struct parents p[RUN_PARTS], struct run_record *r)
{
    r->id = get_int(c);
    const char *missing = NULL;
    for (int i = 1; i < RUN_PARTS; i++)
        if (!copy_parent(&p[i], get_int(c), &run_parts[i], r))
            missing = run_parts[i].columns->table;
    get_record(c, &run_columns, r);
    if (missing && !c->problem[0])
        snprintf(c->problem, sizeof c->problem, "run %lld: its %s has no row", (long long)r->id,
            missing);
}

/* Read what a prepared cursor finds into a list. */
static enum status read_runs(struct store *s, struct cursor *c, struct run_list *out)
{
    struct parents p[RUN_PARTS] = {0};
    void *rows = NULL;
    bool more;
    enum status st = OK;
    for (int i = 1; i < RUN_PARTS; i++)
        TRY_GOTO(st, done, load_parents(s, run_parts[i].columns, &out->arena, &p[i]));
    while ((st = cursor_step(c, &more)) == OK && more) {
        struct run_record *r = rows_grow(&rows, out->n, sizeof *r);
        read_run(c, p, r);
        out->n++;
    }
done:
    out->rows = rows;
    for (int i = 0; i < RUN_PARTS; i++) {
        free(p[i].ids);
        free(p[i].records);
    }
    if (st != OK) run_list_clear(out);
    return st;
}

enum status query_runs(struct store *s, const struct run_filter *f, struct run_list *out)
{
    *out = (struct run_list){0};
    struct cursor c = {.arena = &out->arena};
    struct str sql = {0};
    /* a parameter that is NULL, or a number that is 0, takes everything */
    str_add(&sql,
        "JOIN model m ON m.id = t.model JOIN dataset d ON d.id = t.dataset "
        "JOIN machine h ON h.id = t.machine "
        "WHERE NOT t.confirming AND (?1 IS NULL OR m.name = ?1 OR (length(?1) >= 6 AND "
        "substr(m.fingerprint, 1, "
        "length(?1)) = ?1)) "
        "AND (?2 IS NULL OR d.suite = ?2 OR d.name = ?2) AND (?3 IS NULL OR d.fingerprint = ?3) "
        "AND (?4 IS NULL OR t.method = ?4) AND (?5 IS NULL OR t.layers = ?5) "
        "AND (?6 IS NULL OR t.heads = ?6) AND (?7 IS NULL OR t.rule = ?7) AND (?8 IS NULL OR "
        "t.plan = ?8) "
        "AND (?9 IS NULL OR t.device = ?9) AND (?10 IS NULL OR h.fingerprint = ?10) "
        "AND (?11 = 0 OR t.max_length <= ?11) AND (?12 = 0 OR t.max_length = ?12) "
        "AND (?13 IS NULL OR t.status = ?13) AND (?14 IS NULL OR t.slot = ?14) ");
    str_add(&sql, f->newest_first ? "ORDER BY t.ended DESC, t.id DESC " : "ORDER BY t.id ");
    str_add(&sql, "LIMIT ?15");
    enum status st = cursor_open_select(&c, s, &run_columns, RUN_IDS, str_get(&sql));
    str_clear(&sql);
    if (st == OK) {
        put_text(&c, f->model);
        put_text(&c, f->suite);
        put_text(&c, f->dataset);
        put_text(&c, f->method);
        put_text(&c, f->layers);
        put_text(&c, f->heads);
        put_text(&c, f->rule);
        put_text(&c, f->plan);
        put_text(&c, f->device);
        put_text(&c, f->machine);
        put_int(&c, f->max_length);
        put_int(&c, f->exact_length);
        put_text(&c, f->with_status ? run_status_name(f->status) : f->done_only ? "done" : NULL);
        put_text(&c, f->slot);
        put_int(&c, f->limit ? (int64_t)f->limit : -1);
        st = read_runs(s, &c, out);
    }
    cursor_close(&c);
    return st;
}

/* Runs by one condition on t with one text parameter. */
static enum status runs_where(
    struct store *s, const char *condition, const char *text, struct run_list *out)
{
    *out = (struct run_list){0};
    struct cursor c = {.arena = &out->arena};
    enum status st = cursor_open_select(&c, s, &run_columns, RUN_IDS, condition);
    if (st == OK) {
        if (text) put_text(&c, text);
        st = read_runs(s, &c, out);
    }
    cursor_close(&c);
    return st;
}

/* "runs 1 to 12" for messages. */
static enum status describe_contents(struct store *s, struct str *out)
{
    int64_t n, lo, hi;
    TRY(db_int(s, "SELECT count(*) FROM run", &n));
    TRY(db_int(s, "SELECT min(id) FROM run", &lo));
    TRY(db_int(s, "SELECT max(id) FROM run", &hi));
    if (n == 0) str_add(out, "it holds no runs yet");
    else
        str_addf(out, "it holds %lld run%s, numbers %lld to %lld; `list` shows them", (long long)n,
            n == 1 ? "" : "s", (long long)lo, (long long)hi);
    return OK;
}

enum status query_run(struct store *s, const char *name, struct run_list *out)
{
    size_t len = strlen(name);
    bool number = len > 0 && strspn(name, "0123456789") == len && len < 12;
    bool key = len >= 4 && strspn(name, "0123456789abcdef") == len;
    enum status st = OK;
    *out = (struct run_list){0};
    if (!strcmp(name, "last"))
        st = runs_where(s,
            "WHERE t.status = 'done' AND NOT t.confirming ORDER BY t.ended DESC, t.id DESC LIMIT 1",
            NULL, out);
    else if (number) st = runs_where(s, "WHERE t.id = CAST(? AS INTEGER)", name, out);
    if (st == OK && out->n == 0 && key) {
        run_list_clear(out);
        st = runs_where(
            s, "WHERE substr(t.key, 1, length(?1)) = ?1 ORDER BY t.id LIMIT 2", name, out);
    }
    if (st == OK && out->n == 1) return OK;
    if (st == OK && out->n == 0 && !strcmp(name, "last")) {
        run_list_clear(out);
        st = runs_where(s, "ORDER BY t.ended DESC, t.id DESC LIMIT 1", NULL, out);
        if (st == OK && out->n == 1) {
            const struct run_record *r = &out->rows[0];
            st = fail(ERR_ARG,
                "%s: no run is done; the newest, run %lld, %s: %s; repeat what went wrong, or name "
                "it by number",
                s->path, (long long)r->id, r->status == RUN_FAILED ? "failed" : "was skipped",
                r->reason ? r->reason : "no reason stored");
            run_list_clear(out);
            return st;
        }
    }
    if (st == OK && out->n > 1) {
        st = fail(ERR_ARG,
            "%s: \"%s\" fits several runs, among them %lld and %lld; give more digits", s->path,
            name, (long long)out->rows[0].id, (long long)out->rows[1].id);
    } else if (st == OK) {
        struct str contents = {0};
        st = describe_contents(s, &contents);
        if (st == OK)
            st = fail(ERR_ARG,
                "%s: found no run \"%s\" (a number, a key of at least 4 digits, or \"last\"); %s",
                s->path, name, str_get(&contents));
        str_clear(&contents);
    }
    run_list_clear(out);
    return st;
}

#include "harness/cli/command.h"

#include "base/json.h"
#include "harness/cli/output.h"
#include "harness/measure/progress.h"
#include "results/columns.h"
#include "results/query.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct {
    const char *db, *explain;
    bool cells, watch;
} o = {
    .db = "sparsegauge.db",
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"cells", OPTION_FLAG, &o.cells, NULL, "every cell, not only those without a result", 0, 0},
    {"watch", OPTION_FLAG, &o.watch, NULL,
        "say how far it is until every cell has a result, with rate and time left", 0, 0},
    {"explain", OPTION_TEXT, &o.explain, "CELL",
        "why a cell is in its state: its number in the plan, or its key's beginning", 0, 0},
    {0},
};

/* "suite=chronicle layers=4-7 …": what was asked for, without fingerprints and versions, and
 * without what rarely differs in a sweep. */
static void add_settings(const char *key_json, struct str *out)
{
    static const char *const usual[] = {"device", "smooth_k", "score", "min_sparse_tokens"};
    cJSON *key = json_stored(key_json);
    const cJSON *v;
    cJSON_ArrayForEach(v, key)
    {
        bool shown = strcmp(v->string, "suite") == 0 || columns_find(&run_columns, v->string);
        for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
            shown &= strcmp(usual[i], v->string) != 0;
        if (cJSON_IsString(v) && strcmp(v->string, "heads") == 0)
            shown = strcmp(v->valuestring, "all") != 0;
        if (!shown) continue;
        str_addf(out, "%s%s=", out->len ? " " : "", v->string);
        if (cJSON_IsString(v)) str_add(out, v->valuestring);
        else if (cJSON_IsNumber(v)) str_addf(out, "%.6g", v->valuedouble);
        else str_add(out, cJSON_IsTrue(v) ? "yes" : "no");
    }
    cJSON_Delete(key);
}

static struct table *problems_table(const struct cell_list *cells, bool all)
{
    static const struct table_column columns[] = {{.name = "plan"},
        {.name = "cell", .key = "ordinal", .weight = 5}, {.name = "state", .weight = 5},
        {.name = "key", .weight = 1}, {.name = "reason", .weight = 4}, {.name = "settings"}};
    struct table *t = table_new(NULL);
    for (int i = 0; i < 6; i++) table_add_column(t, columns[i]);
    const char *plan = "";
    for (size_t i = 0, number = 0; i < cells->n; i++) {
        const struct cell_record *c = &cells->rows[i];
        if (strcmp(plan, c->plan) != 0) number = 0;
        plan = c->plan;
        number++;
        if (!all && c->state != CELL_FAILED && c->state != CELL_SKIPPED) continue;
        char key[13];
        snprintf(key, sizeof key, "%.12s", c->key);
        table_text(t, c->plan);
        table_int(t, (int64_t)number);
        table_text(t, cell_state_name(c->state));
        table_text(t, c->key);
        table_show(t, key);
        table_text(t, c->reason);
        struct str settings = {0};
        add_settings(c->key_json, &settings);
        table_text(t, str_get(&settings));
        str_clear(&settings);
    }
    return t;
}

static enum status plan_names(struct store *s, struct sql_result *out)
{
    return query_sql(s,
        "SELECT name, created, count(c.key) FROM plan LEFT JOIN cell c ON c.plan = name GROUP BY "
        "name "
        "ORDER BY created",
        out);
}

static enum status print_counts(struct store *s, const char *plan, bool *missing)
{
    struct sql_result plans;
    TRY(plan_names(s, &plans));
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "plan"});
    table_add_column(t, (struct table_column){.name = "made"});
    table_add_column(t, (struct table_column){.name = "cells"});
    for (int i = 0; i <= CELL_MISSING; i++)
        table_add_column(t, (struct table_column){.name = cell_state_name((enum cell_state)i)});
    enum status st = OK;
    size_t n_shown = 0;
    for (size_t i = 0; i < plans.n_rows && st == OK; i++) {
        const struct sql_cell *row = &plans.cells[3 * i];
        if (!row[0].text || (plan && strcmp(plan, row[0].text) != 0)) continue;
        size_t counts[CELL_MISSING + 1];
        st = query_plan_status(s, row[0].text, counts);
        if (st != OK) break;
        table_text(t, row[0].text);
        table_text(t, row[1].text);
        table_int(t, row[2].i);
        for (int k = 0; k <= CELL_MISSING; k++) {
            table_int(t, (int64_t)counts[k]);
            *missing |= k != CELL_DONE && counts[k];
        }
        n_shown++;
    }
    if (st == OK && !n_shown)
        st = fail(ERR_ARG, "%s: %s%s; a sweep makes one", o.db,
            plan ? "no plan " : "no plan is stored", plan ? plan : "");
    sql_result_clear(&plans);
    if (st == OK) print_table("plans", t);
    else table_free(&t);
    return st;
}

static enum status explain(struct store *s, const char *plan)
{
    struct cell_list cells;
    struct str text = {0};
    char *end;
    TRY(query_cells(s, plan, &cells));
    unsigned long number = strtoul(o.explain, &end, 10);
    bool by_number = !*end && strlen(o.explain) < 8;
    const struct cell_record *found = NULL;
    size_t n_found = 0;
    for (size_t i = 0; i < cells.n; i++) {
        bool same = by_number ? plan ? i + 1 == number : cells.n >= number && i + 1 == number
                              : strncmp(cells.rows[i].key, o.explain, strlen(o.explain)) == 0;
        if (!same || (found && strcmp(found->key, cells.rows[i].key) == 0)) continue;
        found = &cells.rows[i];
        n_found++;
    }
    enum status st = OK;
    if (!found)
        st = fail(ERR_ARG,
            "--explain: no cell \"%s\" among %zu; give its number in the plan or its key's "
            "beginning",
            o.explain, cells.n);
    else if (n_found > 1)
        st = fail(
            ERR_ARG, "--explain: %zu keys begin with \"%s\"; give more of it", n_found, o.explain);
    if (st == OK) st = query_explain(s, found->key, found->slot, found->key_json, &text);
    if (st == OK) {
        struct table *t = table_new(NULL);
        field_text(t, "key", NULL, found->key);
        field_text(t, "plan", NULL, found->plan);
        field_text(t, "explanation", NULL, str_get(&text));
        field_text(t, "key_json", NULL, found->key_json);
        data_object("cell", t);
        say("cell %s of plan %s\n%s\n%s\n", found->key, found->plan, str_get(&text),
            found->key_json);
    }
    str_clear(&text);
    cell_list_clear(&cells);
    return st;
}

static enum status run(const char *plan, bool *missing)
{
    struct store *s = NULL;
    struct cell_list cells = {0};
    TRY(store_open(&s, o.db, STORE_READ));
    enum status st;
    if (o.explain) {
        st = explain(s, plan);
        goto done;
    }
    TRY_GOTO(st, done, print_counts(s, plan, missing));
    if (!*missing && !o.cells) goto done;
    TRY_GOTO(st, done, query_cells(s, plan, &cells));
    struct table *t = problems_table(&cells, o.cells);
    if (table_rows(t) || o.cells) print_table("cells", t);
    else table_free(&t);
done:
    cell_list_clear(&cells);
    store_close(&s);
    return st;
}

/* Cells of a plan, or of all, and those that have a result or a reason for none. */
struct watched {
    size_t n, n_settled;
};

static enum status watched_count(const char *plan, struct watched *w)
{
    struct store *s = NULL;
    struct cell_list cells = {0};
    *w = (struct watched){0};
    TRY(store_open(&s, o.db, STORE_READ));
    enum status st = query_cells(s, plan, &cells);
    for (size_t i = 0; i < cells.n && st == OK; i++) {
        enum cell_state state = cells.rows[i].state;
        w->n++;
        w->n_settled += state == CELL_DONE || state == CELL_FAILED || state == CELL_SKIPPED;
    }
    if (st == OK && !w->n)
        st = fail(ERR_ARG, "%s: %s%s; a sweep makes one", o.db,
            plan ? "no plan " : "no plan is stored", plan ? plan : "");
    cell_list_clear(&cells);
    store_close(&s);
    return st;
}

/* Reads only: the sweep does not notice. Other processes finish cells whenever they like, so the
 * database is looked at every other second. */
static enum status watch(const char *plan)
{
    struct progress progress;
    struct watched at;
    TRY(watched_count(plan, &at));
    size_t first = at.n_settled;
    progress_begin(&progress, plan ? plan : "sweeps", "cells", (double)(at.n - first), false);
    enum status st = OK;
    while (st == OK && at.n_settled < at.n && !cancel_requested(NULL)) {
        for (int i = 0; i < 20 && !cancel_requested(NULL); i++)
            nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        st = watched_count(plan, &at);
        progress_update(&progress, (double)(at.n_settled - first));
    }
    progress_end(&progress);
    if (st == OK && cancel_requested(NULL)) st = fail(ERR_CANCELLED, "watched until here");
    return st;
}

static enum status status_command(struct command_call *call)
{
    bool missing = false;
    enum status st = OK;
    cancel_install();
    if (o.watch) st = watch(call->positional[0]);
    if (st == OK) st = run(call->positional[0], &missing);
    if (missing) call->code = EXIT_RUN;
    return st;
}

const struct command cmd_status = {
    .name = "status",
    .summary = "what of a sweep is done, failed, missing or stale, and why",
    .help =
        {
            "status [PLAN] [options]",
            "Counts the cells of each plan by state (done, failed, skipped, running, stale, "
            "missing) and lists those "
            "that failed or\n"
            "were skipped with their reasons. Exit code 3: some cell has no result. It counts and "
            "measures nothing, so\n"
            "that it has no smallest detectable effect: `frontier`, `best` and `compare` say it of "
            "the cells that are done.",
            "sparsegauge status\nsparsegauge status sweep-1a2b3c4d --explain 7\n"
            "sparsegauge status --watch",
        },
    .kept = "the sweep goes on; only the watching ended",
    .options = options,
    .max_positional = 1,
    .run = status_command,
};

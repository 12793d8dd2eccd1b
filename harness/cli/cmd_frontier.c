#include "harness/cli/command.h"

#include "base/xmalloc.h"
#include "harness/cli/output.h"
#include "harness/sweep/plan_runs.h"
#include "reports/attribution.h"
#include "reports/contest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct run_filter filter;
    const char *db, *axis;
    bool all, audit;
} o = {
    .db = "sparsegauge.db",
    .axis = "kl",
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"axis", OPTION_TEXT, &o.axis, "NAME", "against sparsity: cosine, kl or ppl (kl)", 0, 0},
    {"all", OPTION_FLAG, &o.all, NULL, "dominated runs, too", 0, 0},
    {"audit", OPTION_FLAG, &o.audit, NULL, "also whether tighter bounds ever made the cosine worse",
        0, 0},
    {"plan", OPTION_TEXT, &o.filter.plan, "NAME", "runs of this sweep only", 0, 0},
    {"max-length", OPTION_INT, &o.filter.max_length, "TOKENS", "runs up to this length only", 0,
        1 << 30},
    {"model", OPTION_TEXT, &o.filter.model, "NAME", "runs of this model only", 0, 0},
    {"suite", OPTION_TEXT, &o.filter.suite, "NAME",
        "runs on this suite, or on the data set of this name, only", 0, 0},
    {"m|method", OPTION_TEXT, &o.filter.method, "NAME", "runs of this method only", 0, 0},
    {0},
};

static bool same_contest(const struct run_record *a, const struct run_record *b)
{
    return strcmp(a->model.fingerprint, b->model.fingerprint) == 0 &&
        strcmp(a->dataset.fingerprint, b->dataset.fingerprint) == 0;
}

/* A table for each model and data set: sparsity on one says nothing about quality on another. */
static enum status print_frontiers(const struct run_list *runs, enum frontier_axis axis)
{
    bool *done = xcalloc(runs->n + 1, sizeof *done);
    enum status st = OK;
    size_t n_contests = 0, n_points = 0;
    for (size_t i = 0; i < runs->n && st == OK; i++) {
        const struct run_record *first = &runs->rows[i];
        struct run_list group = {.rows = xcalloc(runs->n + 1, sizeof *group.rows)};
        struct frontier_point *points = NULL;
        size_t n = 0;
        for (size_t k = i; k < runs->n; k++) {
            if (done[k] || !same_contest(first, &runs->rows[k])) continue;
            done[k] = true;
            group.rows[group.n++] = runs->rows[k];
        }
        if (group.n) st = query_frontier(&group, axis, &points, &n);
        if (n && st == OK) {
            say("%s%s, %s, up to %d tokens\n", n_contests++ ? "\n" : "", first->model.name,
                first->dataset.name, first->max_length);
            print_table("frontier", frontier_table(&group, points, n, axis, o.all));
            n_points += n;
        }
        free(points);
        free(group.rows);
    }
    free(done);
    return st == OK && !n_points
        ? fail(ERR_ARG, "%s: no finished run fits; `status` shows what there is", o.db)
        : st;
}

/* What every method loses at the same sparsity, where two or more reach it. */
static enum status print_contests(struct store *s, const struct run_list *runs)
{
    struct table **tables;
    size_t n;
    TRY(contest_tables(s, runs, &tables, &n));
    for (size_t i = 0; i < n; i++) {
        say("\n");
        print_table("contest", tables[i]);
        tables[i] = NULL;
    }
    contest_tables_free(tables, n);
    return OK;
}

static enum status run(void)
{
    struct store *s = NULL;
    struct run_list runs = {0};
    size_t n_violations = 0;
    enum frontier_axis axis;
    if (strcmp(o.axis, "cosine") == 0) axis = FRONTIER_COSINE;
    else if (strcmp(o.axis, "kl") == 0) axis = FRONTIER_KL;
    else if (strcmp(o.axis, "ppl") == 0) axis = FRONTIER_PPL;
    else return fail(ERR_ARG, "--axis: found \"%s\", expected cosine, kl or ppl", o.axis);
    TRY(store_open(&s, o.db, STORE_READ));
    o.filter.done_only = true;
    enum status st = plan_runs(s, &o.filter, &runs);
    if (st == OK) st = print_frontiers(&runs, axis);
    if (st == OK) st = print_contests(s, &runs);
    if (st == OK && o.audit) {
        print_table("monotonicity", monotonicity_table(&runs, &n_violations));
        say("%zu times a tighter bound gave a lower cosine beyond noise\n", n_violations);
    }
    run_list_clear(&runs);
    store_close(&s);
    return st;
}

static enum status frontier_command(struct command_call *call)
{
    (void)call;
    return run();
}

const struct command cmd_frontier = {
    .name = "frontier",
    .summary = "the settings that no other beats, with the knee",
    .help =
        {
            "frontier [options]",
            "Prints, for each model and data set, the runs that no other beats: none is at least "
            "as sparse and at least as good and\n"
            "better in one of both. The knee is the one farthest from the line between the two "
            "ends.",
            "sparsegauge frontier\nsparsegauge frontier --axis cosine --suite chronicle --format "
            "csv",
            "axis all plan suite method max-length",
        },
    .options = options,
    .max_positional = 0,
    .run = frontier_command,
};

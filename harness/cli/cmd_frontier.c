#include "harness/cli/command.h"

#include "harness/cli/output.h"
#include "harness/sweep/plan_runs.h"
#include "reports/attribution.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct output_options output;
    struct run_filter filter;
    const char *db, *axis;
    bool all, audit;
} o = {
    .output = OUTPUT_DEFAULTS,
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
    {"suite", OPTION_TEXT, &o.filter.suite, "NAME", "runs on this suite only", 0, 0},
    {"m|method", OPTION_TEXT, &o.filter.method, "NAME", "runs of this method only", 0, 0},
    OUTPUT_OPTIONS(o.output),
    {0},
};

static enum status run(void)
{
    struct store *s = NULL;
    struct run_list runs = {0};
    struct frontier_point *points = NULL;
    size_t n = 0, n_violations = 0;
    enum frontier_axis axis;
    if (strcmp(o.axis, "cosine") == 0) axis = FRONTIER_COSINE;
    else if (strcmp(o.axis, "kl") == 0) axis = FRONTIER_KL;
    else if (strcmp(o.axis, "ppl") == 0) axis = FRONTIER_PPL;
    else return fail(ERR_ARG, "--axis: found \"%s\", expected cosine, kl or ppl", o.axis);
    TRY(store_open(&s, o.db, STORE_READ));
    o.filter.done_only = true;
    enum status st = plan_runs(s, &o.filter, &runs);
    if (st == OK) st = query_frontier(&runs, axis, &points, &n);
    if (st == OK && !n)
        st = fail(ERR_ARG, "%s: no finished run fits; `status` shows what there is", o.db);
    if (st == OK) st = print_table(frontier_table(&runs, points, n, axis, o.all), &o.output);
    if (st == OK && o.audit) {
        putchar('\n');
        st = print_table(monotonicity_table(&runs, &n_violations), &o.output);
        if (st == OK)
            printf("%zu times a tighter bound gave a lower cosine beyond noise\n", n_violations);
    }
    free(points);
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
            "Prints the runs that no other run of the same model and data beats: none is at least "
            "as sparse and at "
            "least as good and\n"
            "better in one of both. The knee is the one farthest from the line between the two "
            "ends.",
            "sparsegauge frontier\nsparsegauge frontier --axis cosine --suite chronicle --format "
            "csv",
        },
    .options = options,
    .max_positional = 0,
    .run = frontier_command,
};

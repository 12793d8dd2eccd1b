#include "harness/cli/command.h"

#include "harness/cli/output.h"
#include "kernels/registry.h"
#include "results/query.h"
#include "suites/suite.h"

#include <stdio.h>
#include <string.h>

static struct {
    struct output_options output;
    const char *db, *model, *suite, *method;
    int limit;
} o = {
    .output = OUTPUT_DEFAULTS, .db = "sparsegauge.db",
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"model", OPTION_TEXT, &o.model, "NAME", "runs of this model only", 0, 0},
    {"suite", OPTION_TEXT, &o.suite, "NAME", "runs on this suite only", 0, 0},
    {"m|method", OPTION_TEXT, &o.method, "NAME", "runs of this method only", 0, 0},
    {"limit", OPTION_INT, &o.limit, "N", "at most so many, the newest (all)", 0, 1 << 30},
    OUTPUT_OPTIONS(o.output),
    {0},
};

static enum status list_runs(void)
{
    struct store *store = NULL;
    struct run_list runs = {0};
    struct run_filter f = {.model = o.model, .suite = o.suite, .method = o.method, .limit = (size_t)o.limit,
                           .newest_first = o.limit > 0};
    TRY(store_open(&store, o.db, STORE_READ));
    enum status st = query_runs(store, &f, &runs);
    if (st == OK) st = print_table(runs_table(&runs), &o.output);
    run_list_clear(&runs);
    store_close(&store);
    return st;
}

static enum status list_known(const char *what)
{
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "name"});
    table_add_column(t, (struct table_column){.name = "what it is"});
    if (strcmp(what, "suites") == 0) {
        for (int i = 0; suites[i]; i++) {
            table_text(t, suites[i]->name);
            table_text(t, suites[i]->help);
        }
    } else if (strcmp(what, "methods") == 0) {
        static const char *const texts[][2] = {
            {"sparge", "SpargeAttn's prediction with per-head thresholds"},
            {"topk", "the same ranking, a fixed fraction of tiles (--topk)"},
            {"window", "sink block and the last tokens (--window)"},
            {"oracle", "tiles ranked by their true mass: the limit of any predictor, no faster than dense"},
            {"dense", "nothing is skipped"},
        };
        for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
            table_text(t, texts[i][0]);
            table_text(t, texts[i][1]);
        }
    } else if (strcmp(what, "kernels") == 0) {
        struct attn_args probe = {.n_q = 256, .n_heads = 1, .n_kv_heads = 1, .head_dim = 64, .block = {128, 64}};
        for (int i = 0; attn_impls[i]; i++) {
            const char *why = attn_impls[i]->refuses(&probe);
            table_text(t, attn_impls[i]->name);
            table_text(t, why ? why : "available");
        }
    } else {
        table_free(&t);
        return fail(ERR_ARG, "list: found \"%s\", expected runs, suites, methods or kernels", what);
    }
    return print_table(t, &o.output);
}

static enum status list_command(struct command_call *call)
{
    return call->n == 0 || strcmp(call->positional[0], "runs") == 0 ? list_runs() : list_known(call->positional[0]);
}

const struct command cmd_list = {
    .name = "list",
    .summary = "runs of a database, or the known suites, methods and kernels",
    .help = {
        "list [runs | suites | methods | kernels] [options]",
        "Prints the runs of a database, or what this binary knows.",
        "sparsegauge list --db sparsegauge.db\nsparsegauge list suites",
    },
    .options = options,
    .max_positional = 1,
    .run = list_command,
};

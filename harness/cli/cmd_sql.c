#include "harness/cli/command.h"

#include "harness/cli/output.h"
#include "results/query.h"

#include <stdio.h>
#include <string.h>

static struct {
    const char *db;
    bool schema;
} o = {
    .db = "sparsegauge.db",
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"schema", OPTION_FLAG, &o.schema, NULL, "print the tables with their comments", 0, 0},
    {0},
};

static const char *const views[][2] = {
    {"v_runs",
        "one row a run: settings, status, sparsity, cosine_*, kl_*, ppl_*, latency_*, machine, "
        "key, plan"},
    {"v_metrics",
        "one row a metric and scope of a run: name, n, mean, quantiles, lo and hi (95 % interval)"},
    {"v_frontier",
        "done runs; on_cosine, on_kl, on_ppl = 1: no other run of the same model and data beats "
        "it"},
    {"v_ledger",
        "one row a head: tiles possible and computed, forced tiles by reason, calls in eight bits, "
        "thresholds, sparsity"},
    {"v_cells", "planned cells and what became of them: plan, key, run, state, reason"},
    {"v_precision",
        "sparse runs of eight bits: KL, cosine and perplexity of precision alone, of sparsity "
        "alone, of both"},
    {"v_flips", "questions whose answer changed between dense and sparse"},
    {"sample", "one row a window of tokens of a run"},
    {"worst_token",
        "positions with the highest KL, with context and both top-5 lists (see `tokens`)"},
    {"tuned, tuned_head", "thresholds found by tuning and what they achieved"},
    {"layer_error",
        "errors by layer and head (eval --attribution); rows with sample = -1 are over all "
        "samples, with head = -1 over a layer"},
    {"item, generation, latency, noise, curve, plan", "see --schema"},
};

static enum status ask(struct store *s, const char *sql)
{
    struct sql_result r;
    TRY(query_sql(s, sql, &r));
    print_table("rows", sql_table(&r));
    sql_result_clear(&r);
    return OK;
}

static enum status prompt(struct store *s)
{
    char line[8192];
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "view or table"});
    table_add_column(t, (struct table_column){.name = "what it holds"});
    for (size_t i = 0; i < sizeof views / sizeof *views; i++) {
        table_text(t, views[i][0]);
        table_text(t, views[i][1]);
    }
    print_table("views", t);
    for (;;) {
        printf("sql> ");
        fflush(stdout);
        if (!fgets(line, sizeof line, stdin) || line[0] == '\n') break;
        line[strcspn(line, "\n")] = 0;
        /* a wrong query is no reason to leave */
        if (ask(s, line) != OK) printf("%s\n", status_message());
    }
    putchar('\n');
    return OK;
}

static enum status run(const char *sql)
{
    struct store *s = NULL;
    TRY(store_open(&s, o.db, STORE_READ));
    enum status st;
    if (o.schema) {
        struct sql_result r;
        st = query_sql(
            s, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name", &r);
        if (st == OK && for_people())
            for (size_t i = 0; i < r.n_rows; i++) printf("%s;\n\n", r.cells[i].text);
        else if (st == OK) print_table("schema", sql_table(&r));
        if (st == OK) sql_result_clear(&r);
    } else {
        st = sql           ? ask(s, sql)
            : for_people() ? prompt(s)
                           : fail(ERR_ARG, "sql: a prompt is for people; give the QUERY");
    }
    store_close(&s);
    return st;
}

static enum status sql_command(struct command_call *call) { return run(call->positional[0]); }

const struct command cmd_sql = {
    .name = "sql",
    .summary = "ask the database yourself",
    .help =
        {
            "sql [QUERY] [options]",
            "Runs a SELECT, read-only. Without one it explains the views and opens a prompt: one "
            "query a line, an "
            "empty line ends.",
            "sparsegauge sql 'SELECT id, method, layers, sparsity, kl_mean FROM v_runs ORDER BY "
            "kl_mean LIMIT 5'\n"
            "sparsegauge sql --format csv 'SELECT layer, avg(sparsity) FROM v_ledger WHERE run = 7 "
            "GROUP BY layer'",
        },
    .options = options,
    .max_positional = 1,
    .run = sql_command,
};

#include "harness/cli/command.h"

#include "harness/cli/output.h"
#include "harness/measure/report_curves.h"
#include "reports/report.h"

#include <stdio.h>

static struct {
    const char *db, *dir, *baseline, *title;
    bool png;
} o = {
    .db = "sparsegauge.db",
    .dir = "report",
    .png = true,
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"o|output", OPTION_TEXT, &o.dir, "DIR", "where the report goes (report)", 0, 0},
    {"baseline", OPTION_TEXT, &o.baseline, "RUN", "run to compare with", 0, 0},
    {"title", OPTION_TEXT, &o.title, "TEXT", "heading of the page", 0, 0},
    {"png", OPTION_FLAG, &o.png, NULL, "also PNG pictures (on; --no-png)", 0, 0},
    {0},
};

static enum status report_command(struct command_call *call)
{
    enum status st = OK;
    struct store *store = NULL;
    struct str notes = {0};
    static struct report_curves curves; /* 100 KB */
    TRY_GOTO(st, done, store_open(&store, o.db, STORE_READ));
    struct report_options report = {.dir = o.dir,
        .title = o.title,
        .no_png = !o.png,
        .db = o.db,
        .baseline = o.baseline,
        .run = call->n ? call->positional[0] : "last"};
    TRY_GOTO(st, done, report_curves_load(store, report.run, &curves));
    report_curves_offer(&curves, &report);
    TRY_GOTO(st, done, report_write(store, &report, &notes));
    fputs(str_get(&notes), stderr);
    printf("%s/index.html\n", o.dir);
done:
    str_clear(&notes);
    store_close(&store);
    return st;
}

const struct command cmd_report = {
    .name = "report",
    .summary = "a self-contained page with pictures",
    .help =
        {
            "report [RUN] [options]",
            "Writes one self-contained HTML page, its pictures with their data and scripts, and "
            "the tables as Markdown and "
            "CSV.",
            "sparsegauge report last --baseline 1 -o report",
        },
    .options = options,
    .max_positional = 1,
    .run = report_command,
};

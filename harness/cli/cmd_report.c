#include "harness/cli/command.h"

#include "base/file.h"
#include "harness/cli/output.h"
#include "harness/measure/progress.h"
#include "harness/measure/report_curves.h"
#include "reports/report.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

static struct {
    const char *db, *dir, *baseline, *plan, *title;
    bool png;
} o = {
    .db = "sparsegauge.db",
    .dir = "report",
    .png = true,
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"o|output", OPTION_TEXT, &o.dir, "DIR", "where the report goes (report)", 0, 0},
    {"plan", OPTION_TEXT, &o.plan, "NAME", "a sweep: all of its runs on one page", 0, 0},
    {"baseline", OPTION_TEXT, &o.baseline, "RUN", "run to compare with", 0, 0},
    {"title", OPTION_TEXT, &o.title, "TEXT", "heading of the page", 0, 0},
    {"png", OPTION_FLAG, &o.png, NULL, "also PNG pictures (on; --no-png)", 0, 0},
    {0},
};

static void show_picture(void *ctx, size_t drawn, size_t most)
{
    struct progress *p = ctx;
    p->total = (double)most;
    progress_update(p, (double)drawn);
}

static enum status report_command(struct command_call *call)
{
    enum status st = OK;
    struct store *store = NULL;
    struct str notes = {0};
    static struct report_curves curves; /* 100 KB */
    char *plan = NULL, choice[24];
    struct report_options report = {
        .dir = o.dir, .title = o.title, .no_png = !o.png, .db = o.db, .baseline = o.baseline};
    bool files = call->n > 0 && (!o.baseline || str_ends_with(o.baseline, ".json"));
    for (int i = 0; i < call->n; i++) files &= str_ends_with(call->positional[i], ".json");
    if (!files || file_exists(o.db))
        TRY_GOTO(st, done, store_open(&store, o.db, STORE_READ)); /* of files: their noise floors */
    if (o.plan) report.plan = o.plan;
    else if (!call->n && !o.baseline) TRY_GOTO(st, done, report_plan(store, &plan));
    if (plan) report.plan = plan;
    if (call->n == 1) report.run = call->positional[0];
    else report.runs = (const char *const *)call->positional, report.n_runs = (size_t)call->n;
    const char *shown = report.run ? report.run : "last"; /* whose curves are drawn */
    if (report.plan) {
        TRY_GOTO(st, done, report_choice(store, report.plan, choice));
        shown = choice;
    }
    if (!files && call->n < 2) {
        TRY_GOTO(st, done, report_curves_load(store, shown, &curves));
        report_curves_offer(&curves, &report);
    }
    struct progress progress;
    progress_begin(&progress, "report", "pictures", 0, false);
    report.watch = show_picture;
    report.watch_ctx = &progress;
    st = report_write(store, &report, &notes);
    progress_end(&progress);
    if (st != OK) goto done;
    fputs(str_get(&notes), stderr);
    struct table *t = table_new(NULL);
    char *page = path_join(o.dir, "index.html");
    field_text(t, "page", NULL, page);
    field_text(t, "dir", NULL, o.dir);
    field_text(t, "run", NULL, report.run);
    field_text(t, "baseline", NULL, o.baseline);
    field_text(t, "notes", NULL, notes.len ? str_get(&notes) : NULL);
    data_object("report", t);
    say("%s\n", page);
    free(page);
done:
    free(plan);
    str_clear(&notes);
    store_close(&store);
    return st;
}

const struct command cmd_report = {
    .name = "report",
    .summary = "a self-contained page with pictures",
    .help =
        {
            "report [RUN|FILE.json ...] [options]",
            "Writes one self-contained HTML page, its pictures with their data and scripts, and "
            "the tables as Markdown and\n"
            "CSV. Of one run or before/after file, of its difference from a --baseline, or of "
            "several runs, files or a sweep\n"
            "(--plan; without any, the newest run or the sweep it belongs to): what varies becomes "
            "the axes.",
            "sparsegauge report last --baseline 1 -o report\nsparsegauge report --plan grid -o "
            "sweep\n"
            "sparsegauge report after_tune.json --baseline before_tune.json",
        },
    .options = options,
    .max_positional = INT_MAX,
    .run = report_command,
};

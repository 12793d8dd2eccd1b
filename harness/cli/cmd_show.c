#include "harness/cli/command.h"

#include "harness/cli/output.h"
#include "harness/cli/source.h"
#include "harness/cli/summary.h"
#include "base/text.h"
#include "reports/runjson.h"
#include "reports/tasks.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

static struct {
    const char *db, *part, *json;
} o = {
    .db = "sparsegauge.db",
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"part", OPTION_TEXT, &o.part, "NAME",
        "metrics, samples, positions, layers, heads, items, tokens, latency, breakdown, provenance "
        "(summary)",
        0, 0},
    {"o|output", OPTION_TEXT, &o.json, "FILE",
        "write the run as before_tune.json / after_tune.json", 0, 0},
    {0},
};

/* A part that the run has nothing of, and what to do about it. */
static enum status no_part(const struct run_view *v)
{
    static const struct {
        const char *part, *remedy;
    } remedies[] = {
        {"latency", "eval MODEL --suite speed measures them"},
        {"breakdown", "eval MODEL --suite speed measures them"},
        {"items",
            "suites that ask questions have them: --suite chronicle, needle, cloze or choice"},
        {"tokens", "eval --worst N --replace keeps them, where any differ"},
        {"positions", "every suite but speed has them"},
        {"samples", "every suite but speed has them"},
        {"layers",
            "every suite but speed counts them; a file holds none: name the run in its database"},
        {"heads",
            "every suite but speed counts them; a file holds none: name the run in its database"},
    };
    for (size_t i = 0; i < sizeof remedies / sizeof *remedies; i++)
        if (strcmp(o.part, remedies[i].part) == 0)
            return fail(ERR_ARG, "%s (suite %s) has no %s: %s", v->label,
                v->run->dataset.suite ? v->run->dataset.suite : "unknown", o.part,
                remedies[i].remedy);
    return fail(ERR_ARG, "%s has no %s", v->label, o.part);
}

static struct table *all_heads(const struct run_view *v) { return heads_table(v, SIZE_MAX); }
static struct table *all_items(const struct run_view *v) { return items_table(v, false); }
static struct table *all_tokens(const struct run_view *v)
{
    return worst_tokens_table(v, SIZE_MAX);
}

static const struct {
    const char *name;
    struct table *(*table)(const struct run_view *);
} parts[] = {
    {"metrics", metrics_table},
    {"samples", samples_table},
    {"positions", positions_table},
    {"layers", layers_table},
    {"heads", all_heads},
    {"items", all_items},
    {"tasks", tasks_table},
    {"tokens", all_tokens},
    {"latency", latencies_table},
    {"breakdown", breakdown_table},
    {"provenance", provenance_table},
};
enum { N_PARTS = sizeof parts / sizeof *parts };

static enum status unknown_part(void)
{
    const char *names[N_PARTS];
    for (int i = 0; i < N_PARTS; i++) names[i] = parts[i].name;
    const char *nearest = text_nearest(o.part, names, N_PARTS);
    return fail(ERR_ARG, "--part: found \"%s\"%s%s%s", o.part,
        nearest ? "; did you mean " : ", see -h for the names", nearest ? nearest : "",
        nearest ? "?" : "");
}

static enum status show_part(const struct run_view *v)
{
    int i = 0;
    while (i < N_PARTS && strcmp(parts[i].name, o.part) != 0) i++;
    if (i == N_PARTS) return unknown_part();
    struct table *t = parts[i].table(v);
    if (!table_rows(t)) {
        table_free(&t);
        return no_part(v);
    }
    print_table(o.part, t);
    if (strcmp(o.part, "latency") != 0) return OK;
    struct table *breakdown = breakdown_table(v);
    if (table_rows(breakdown)) print_table("breakdown", breakdown);
    else table_free(&breakdown);
    return OK;
}

static enum status show_all(const struct run_view *v)
{
    print_run(v, v->from_file ? NULL : o.db, true);
    print_table("provenance", provenance_table(v));
    return OK;
}

static enum status show_command(struct command_call *call)
{
    enum status st = OK;
    struct view_source source = {0};
    TRY_GOTO(st, done, view_source_load(&source, o.db, call->n ? call->positional[0] : "last"));
    st = o.part ? show_part(&source.view) : show_all(&source.view);
    if (st == OK && o.json) st = runjson_write(&source.view, o.json);
done:
    view_source_clear(&source);
    return st;
}

const struct command cmd_show = {
    .name = "show",
    .summary = "one run in full",
    .help =
        {
            "show [RUN] [options]",
            "Prints one run: a number, a key or its beginning, or `last`. RUN may also be a "
            "before_tune.json file.",
            "sparsegauge show last\nsparsegauge show 12 --part heads --format md",
        },
    .options = options,
    .max_positional = 1,
    .run = show_command,
};

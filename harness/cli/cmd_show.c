#include "harness/cli/command.h"

#include "harness/cli/output.h"
#include "reports/runjson.h"
#include "reports/tasks.h"

#include <stdio.h>
#include <string.h>

static struct {
    struct output_options output;
    const char *db, *part, *json;
} o = {
    .output = OUTPUT_DEFAULTS,
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
    OUTPUT_OPTIONS(o.output),
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

static enum status show_part(const struct run_view *v)
{
    struct table *t = strcmp(o.part, "metrics") == 0 ? metrics_table(v)
        : strcmp(o.part, "samples") == 0             ? samples_table(v)
        : strcmp(o.part, "positions") == 0           ? positions_table(v)
        : strcmp(o.part, "layers") == 0              ? layers_table(v)
        : strcmp(o.part, "heads") == 0               ? heads_table(v, 1000)
        : strcmp(o.part, "items") == 0               ? items_table(v, false)
        : strcmp(o.part, "tasks") == 0               ? tasks_table(v)
        : strcmp(o.part, "tokens") == 0              ? worst_tokens_table(v, 1000)
        : strcmp(o.part, "latency") == 0             ? latencies_table(v)
        : strcmp(o.part, "breakdown") == 0           ? breakdown_table(v)
        : strcmp(o.part, "provenance") == 0          ? provenance_table(v)
                                                     : NULL;
    if (!t) return fail(ERR_ARG, "--part: found \"%s\", see -h for the names", o.part);
    if (!table_rows(t)) {
        table_free(&t);
        return no_part(v);
    }
    TRY(print_table(t, &o.output));
    if (strcmp(o.part, "latency") != 0 || strcmp(o.output.format, "terminal") != 0) return OK;
    struct table *parts = breakdown_table(v);
    if (table_rows(parts)) {
        putchar('\n');
        return print_table(parts, &o.output);
    }
    table_free(&parts);
    return OK;
}

static enum status show_all(const struct run_view *v)
{
    print_run_summary(v, &o.output);
    if (strcmp(o.output.format, "terminal") != 0) return OK;
    putchar('\n');
    TRY(print_table(positions_table(v), &o.output));
    putchar('\n');
    if (!v->from_file) TRY(print_table(layers_table(v), &o.output));
    putchar('\n');
    return print_table(provenance_table(v), &o.output);
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
            "show RUN [options]",
            "Prints one run: a number, a key or its beginning, or `last`. RUN may also be a "
            "before_tune.json file.",
            "sparsegauge show last\nsparsegauge show 12 --part heads --format md",
        },
    .options = options,
    .max_positional = 1,
    .run = show_command,
};

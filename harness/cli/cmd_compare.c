#include "harness/cli/command.h"

#include "harness/cli/output.h"
#include "harness/cli/source.h"
#include "reports/compare.h"

#include <stdio.h>
#include <string.h>

static struct {
    const char *db;
    bool only_changed, force;
} o = {
    .db = "sparsegauge.db",
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"only-changed", OPTION_FLAG, &o.only_changed, NULL, "hide what stayed the same", 0, 0},
    {"force", OPTION_FLAG, &o.force, NULL,
        "compare although model or tokens differ; the output says so", 0, 0},
    {0},
};

static enum status compare_command(struct command_call *call)
{
    enum status st = OK;
    if (call->n != 2)
        return fail(
            ERR_ARG, "compare needs two runs or files, found %d; -h shows an example", call->n);
    struct view_source before = {0}, after = {0};
    struct comparison c = {0};
    struct noise_list floors = {0};
    struct str verdict = {0};
    TRY_GOTO(st, done, view_source_load(&before, o.db, call->positional[0]));
    TRY_GOTO(st, done, view_source_load(&after, o.db, call->positional[1]));
    TRY_GOTO(st, done, view_source_floors(&after, o.db, NULL, &floors));
    TRY_GOTO(st, done,
        compare_runs(&c, &before.view, &after.view,
            &(struct compare_options){.force = o.force,
                .floors = &floors,
                .or_else = ", or see them side by side with --force"}));
    comparison_verdict(&c, &verdict);
    say("%s\n", str_get(&verdict));
    if (c.n_settings) print_table("settings", comparison_settings_table(&c));
    print_table("metrics", comparison_table(&c, o.only_changed));
done:
    str_clear(&verdict);
    comparison_clear(&c);
    noise_list_clear(&floors);
    view_source_clear(&before);
    view_source_clear(&after);
    return st;
}

const struct command cmd_compare = {
    .name = "compare",
    .summary = "two runs or two before/after files, metric by metric",
    .help =
        {
            "compare BEFORE AFTER [options]",
            "Each is a run of the database (number, key, `last`) or a before_tune.json / "
            "after_tune.json. Differences are\n"
            "paired by sample, with 95 % intervals; below the noise floor (eval --suite null) "
            "nothing differs.",
            "sparsegauge compare before_tune.json after_tune.json\nsparsegauge compare 1 last "
            "--only-changed --format md",
        },
    .options = options,
    .max_positional = 2,
    .run = compare_command,
};

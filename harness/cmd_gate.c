#include "harness/command.h"

#include "base/clock.h"
#include "base/file.h"
#include "harness/gate.h"
#include "harness/output.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct output_options output;
    struct gate_bounds bounds;
    const char *db, *config, *dump, *junit, *gitlab;
    bool github;
} o;

static const struct option_def options[] = {
    {"min-cosine", OPTION_REAL, &o.bounds.min_cosine, "X", "mean logits cosine", -1, 1},
    {"min-cosine-p1", OPTION_REAL, &o.bounds.min_cosine_p1, "X", "its first percentile over positions", -1, 1},
    {"max-kl", OPTION_REAL, &o.bounds.max_kl, "NATS", "mean KL divergence", 0, 1e9},
    {"max-kl-p99.9", OPTION_REAL, &o.bounds.max_kl_p99_9, "NATS", "its 99.9th percentile", 0, 1e9},
    {"max-ppl-increase", OPTION_REAL, &o.bounds.max_ppl_increase, "X", "perplexity ratio - 1: .01 is one percent", -1, 1e9},
    {"min-sparsity", OPTION_REAL, &o.bounds.min_sparsity, "X", "counted sparsity", 0, 1},
    {"min-token-accuracy", OPTION_REAL, &o.bounds.min_token_accuracy, "X", "top-1 agreement", 0, 1},
    {"max-score-drop", OPTION_REAL, &o.bounds.max_score_drop, "X", "share of answers lost", -1, 1},
    {"by-mean", OPTION_FLAG, &o.bounds.by_mean, NULL, "judge the value, not its interval", 0, 0},
    {"config", OPTION_TEXT, &o.config, "FILE", "bounds from JSON; options override", 0, 0},
    {"dump-config", OPTION_TEXT, &o.dump, "FILE", "write the bounds as JSON to edit, and stop", 0, 0},
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"junit", OPTION_TEXT, &o.junit, "FILE", "write JUnit XML", 0, 0},
    {"gitlab", OPTION_TEXT, &o.gitlab, "FILE", "write GitLab code-quality JSON", 0, 0},
    {"github", OPTION_FLAG, &o.github, NULL, "print GitHub annotations, add to $GITHUB_STEP_SUMMARY", 0, 0},
    OUTPUT_OPTIONS(o.output),
    {0},
};

static const struct command_help help = {
    "gate [RUN | FILE.json] [bounds]",
    "Exits 0 when every bound holds, 1 when one is broken, 4 when the data cannot decide or nothing sparse was\n"
    "measured. A bound is judged by the metric's 95 % interval.",
    "sparsegauge gate last --min-cosine .98 --max-kl .02 --min-sparsity .3\n"
    "sparsegauge gate after_tune.json --config gate.json --junit gate.xml",
};

static struct table *checks_table(const struct gate_result *g)
{
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "bound"});
    table_add_column(t, (struct table_column){.name = "wanted"});
    table_add_column(t, (struct table_column){.name = "found", .number = NUMBER_SHORT, .digits = 5});
    table_add_column(t, (struct table_column){.name = "low", .number = NUMBER_SHORT, .digits = 5});
    table_add_column(t, (struct table_column){.name = "high", .number = NUMBER_SHORT, .digits = 5});
    table_add_column(t, (struct table_column){.name = "outcome"});
    for (size_t i = 0; i < g->n; i++) {
        const struct gate_check *c = &g->checks[i];
        char wanted[64];
        snprintf(wanted, sizeof wanted, "%s %g", c->op, c->bound);
        table_text(t, c->name);
        table_text(t, wanted);
        table_real(t, c->value);
        table_real(t, c->lo);
        table_real(t, c->hi);
        table_text(t, check_outcome_name(c->outcome));
        if (c->message) table_note(t, c->message);
    }
    return t;
}

static enum status write_text(const char *path, struct str *text)
{
    enum status st = file_write_atomic(path, str_get(text), text->len);
    str_clear(text);
    return st;
}

static enum status export(const struct gate_result *g, double wall_s)
{
    char utc[32];
    struct str text = {0};
    clock_utc(utc, sizeof utc);
    if (o.junit) {
        junit_xml(g->checks, g->n, "sparsegauge", wall_s, utc, &text);
        TRY(write_text(o.junit, &text));
    }
    if (o.gitlab) {
        gitlab_quality(g->checks, g->n, o.config ? o.config : "sparsegauge", &text);
        TRY(write_text(o.gitlab, &text));
    }
    if (!o.github) return OK;
    github_annotations(g->checks, g->n, &text);
    fputs(str_get(&text), stdout);
    str_reset(&text);
    const char *summary = getenv("GITHUB_STEP_SUMMARY");
    FILE *f = summary ? fopen(summary, "a") : NULL;
    if (summary && !f) return fail(ERR_IO, "%s: cannot append the step summary", summary);
    if (f) {
        github_summary(g->checks, g->n, "sparsegauge gate", &text);
        fputs(str_get(&text), f);
        fclose(f);
    }
    str_clear(&text);
    return OK;
}

int cmd_gate(int argc, char **argv)
{
    o.output = output_defaults;
    o.bounds = gate_no_bounds();
    o.db = "sparsegauge.db";
    const char *positional[1];
    int n;
    bool want_help;
    int64_t t0 = clock_ns();
    enum status st = options_parse(options, argc, argv, positional, 1, &n, &want_help);
    if (st == OK && !want_help && o.config) { /* the file first, then the options over it */
        st = gate_bounds_read(&o.bounds, o.config);
        if (st == OK) st = options_parse(options, argc, argv, positional, 1, &n, &want_help);
    }
    if (st != OK) return report_failure(st);
    if (want_help) {
        options_print_help(&help, options);
        return EXIT_PASS;
    }
    struct view_source source = {0};
    struct gate_result result = {0};
    if (o.dump) {
        st = gate_bounds_write(&o.bounds, o.dump);
        return st == OK ? EXIT_PASS : report_failure(st);
    }
    TRY_GOTO(st, done, view_source_load(&source, o.db, n ? positional[0] : "last"));
    TRY_GOTO(st, done, gate_run(&source.view, &o.bounds, &result));
    TRY_GOTO(st, done, print_table(checks_table(&result), &o.output));
    if (strcmp(o.output.format, "terminal") == 0) printf("\ngate: %s\n", check_outcome_name(result.outcome));
    TRY_GOTO(st, done, export(&result, (double)(clock_ns() - t0) * 1e-9));
done:;
    int code = st == OK ? gate_exit_code(result.outcome) : report_failure(st);
    gate_result_clear(&result);
    view_source_clear(&source);
    return code;
}

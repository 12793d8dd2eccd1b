#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "base/clock.h"
#include "base/file.h"
#include "reports/gate.h"
#include "reports/recompute.h"
#include "harness/measure/gate_again.h"
#include "harness/cli/output.h"
#include "harness/measure/progress.h"
#include "harness/cli/source.h"
#include "harness/cli/summary.h"
#include "harness/measure/selftest.h"
#include "reports/tables.h"
#include "results/arithmetic.h"
#include "version.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct gate_bounds bounds;
    struct machine_options machine;
    const char *db, *config, *dump, *junit, *gitlab, *baseline;
    bool github, confirm, self_test;
    int max_length, num_samples;
} o = {
    .machine = {.cpu_mask = "auto"}, /* device NULL: that of the run to confirm */
    .db = "sparsegauge.db",
    .max_length = 2048,
    .num_samples = 5,
};

static const struct option_def options[] = {
    {"Bounds on the run", OPTION_GROUP, NULL, NULL, NULL, 0, 0},
    {"min-cosine", OPTION_REAL, &o.bounds.min_cosine, "X", "mean logits cosine", -1, 1},
    {"min-cosine-p1", OPTION_REAL, &o.bounds.min_cosine_p1, "X",
        "its first percentile over positions", -1, 1},
    {"max-kl", OPTION_REAL, &o.bounds.max_kl, "NATS", "mean KL divergence", 0, 1e9},
    {"max-kl-p99.9", OPTION_REAL, &o.bounds.max_kl_p99_9, "NATS", "its 99.9th percentile", 0, 1e9},
    {"max-sample-kl", OPTION_REAL, &o.bounds.max_sample_kl, "NATS",
        "mean KL of the worst of these samples", 0, 1e9},
    {"max-ppl-increase", OPTION_SHARE, &o.bounds.max_ppl_increase, "X",
        "perplexity ratio - 1: .01 or 1%", -1, 1e9},
    {"min-sparsity", OPTION_SHARE, &o.bounds.min_sparsity, "X", "counted sparsity", 0, 1},
    {"min-token-accuracy", OPTION_SHARE, &o.bounds.min_token_accuracy, "X", "top-1 agreement", 0,
        1},
    {"max-score-drop", OPTION_SHARE, &o.bounds.max_score_drop, "X", "share of answers lost", -1, 1},
    {"max-latency-ratio", OPTION_REAL, &o.bounds.max_latency_ratio, "X",
        "sparse / dense prefill time", 0, 1e9},
    {"max-memory", OPTION_REAL, &o.bounds.max_memory_mib, "MIB", "peak resident memory", 0, 1e12},
    {"Bounds on the change from --baseline", OPTION_GROUP, NULL, NULL, NULL, 0, 0},
    {"baseline", OPTION_TEXT, &o.baseline, "RUN|FILE", "run or before_tune.json on the same tokens",
        0, 0},
    {"max-cosine-drop", OPTION_REAL, &o.bounds.max_cosine_drop, "X", "mean logits cosine lost", -2,
        2},
    {"max-kl-rise", OPTION_REAL, &o.bounds.max_kl_rise, "NATS", "mean KL gained", -1e9, 1e9},
    {"max-ppl-rise", OPTION_SHARE, &o.bounds.max_ppl_rise, "X", "perplexity ratio gained", -1e9,
        1e9},
    {"max-token-accuracy-drop", OPTION_SHARE, &o.bounds.max_token_accuracy_drop, "X",
        "top-1 agreement lost", -1, 1},
    {"max-score-loss", OPTION_SHARE, &o.bounds.max_score_loss, "X", "share of right answers lost",
        -1, 1},
    {"max-sparsity-drop", OPTION_SHARE, &o.bounds.max_sparsity_drop, "X", "counted sparsity lost",
        -1, 1},
    {"max-latency-rise", OPTION_SHARE, &o.bounds.max_latency_rise, "X",
        "sparse time gained: .1 is ten percent; same machine only", -1, 1e9},
    {"max-memory-rise", OPTION_SHARE, &o.bounds.max_memory_rise, "X",
        "peak memory gained: .1 is ten percent; same machine only", -1, 1e9},
    {"Judging", OPTION_GROUP, NULL, NULL, NULL, 0, 0},
    {"by-mean", OPTION_FLAG, &o.bounds.by_mean, NULL, "judge the value, not its interval", 0, 0},
    {"strict", OPTION_FLAG, &o.bounds.strict, NULL, "metrics that disagree decide: ambiguous", 0,
        0},
    {"confirm", OPTION_FLAG, &o.confirm, NULL,
        "evaluate a failed run once more; a failure must happen twice", 0, 0},
    {"self-test", OPTION_FLAG, &o.self_test, NULL,
        "plant faults in MODEL (the bundled one): does the gate see them?", 0, 0},
    {"max-length", OPTION_INT, &o.max_length, "TOKENS", "of the self-test (2048)", 256, 1 << 20},
    {"num-samples", OPTION_INT, &o.num_samples, "N", "of the self-test (5)", 2, 1 << 20},
    {"config", OPTION_TEXT, &o.config, "FILE", "bounds from JSON; options override", 0, 0},
    {"dump-config", OPTION_TEXT, &o.dump, "FILE", "write the bounds as JSON to edit, and stop", 0,
        0},
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"Reporting", OPTION_GROUP, NULL, NULL, NULL, 0, 0},
    {"junit", OPTION_TEXT, &o.junit, "FILE", "write JUnit XML", 0, 0},
    {"gitlab", OPTION_TEXT, &o.gitlab, "FILE", "write GitLab code-quality JSON", 0, 0},
    {"github", OPTION_FLAG, &o.github, NULL,
        "print GitHub annotations, add to $GITHUB_STEP_SUMMARY", 0, 0},
    {"model", OPTION_TEXT, &o.machine.model, "DIR", "model for --confirm, if it has moved", 0, 0},
    MACHINE_OPTIONS(o.machine),
    {0},
};

static struct table *checks_table(const struct gate_result *g)
{
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "bound", .key = "check"});
    table_add_column(
        t, (struct table_column){.name = "wanted", .weight = 4, .audience = FOR_PEOPLE});
    table_add_column(t, (struct table_column){.name = "op", .audience = FOR_PROGRAMS});
    table_add_column(t, (struct table_column){.name = "bound", .audience = FOR_PROGRAMS});
    table_add_column(t,
        (struct table_column){
            .name = "found", .key = "value", .number = NUMBER_SHORT, .digits = 5, .weight = 4});
    table_add_column(t,
        (struct table_column){
            .name = "low", .key = "lo", .number = NUMBER_SHORT, .digits = 5, .weight = 2});
    table_add_column(t,
        (struct table_column){
            .name = "high", .key = "hi", .number = NUMBER_SHORT, .digits = 5, .weight = 2});
    table_add_column(t, (struct table_column){.name = "outcome", .weight = 9});
    table_add_column(t, (struct table_column){.name = "message", .audience = FOR_PROGRAMS});
    for (size_t i = 0; i < g->n; i++) {
        const struct gate_check *c = &g->checks[i];
        char wanted[64];
        int digits = gate_check_digits(c, 5);
        snprintf(wanted, sizeof wanted, "%s %.*g", c->op, digits > 6 ? digits : 6, c->bound);
        table_text(t, c->name);
        table_text(t, wanted);
        table_text(t, c->op);
        table_real(t, c->bound);
        table_real_as(t, c->value, NUMBER_SHORT, digits);
        table_real_as(t, c->lo, NUMBER_SHORT, digits);
        table_real_as(t, c->hi, NUMBER_SHORT, digits);
        table_text(t, check_outcome_name(c->outcome));
        table_text(t, c->message);
        if (c->message) table_note(t, c->message);
    }
    if (g->note) table_note(t, g->note);
    return t;
}

static enum status write_text(const char *path, struct str *text)
{
    enum status st = file_write_text(path, text);
    str_clear(text);
    return st;
}

static enum status write_exports(const struct gate_result *g, struct table *causes, double wall_s)
{
    char utc[32];
    struct str text = {0};
    clock_utc(utc, sizeof utc);
    if (o.junit) {
        junit_xml(g->checks, g->n, "sparsegauge", g->alarm, wall_s, utc, &text);
        TRY(write_text(o.junit, &text));
    }
    if (o.gitlab) {
        gitlab_quality(g->checks, g->n, o.config ? o.config : ".gitlab-ci.yml", &text);
        TRY(write_text(o.gitlab, &text));
    }
    if (!o.github) return OK;
    enum status st = OK;
    github_annotations(g->checks, g->n, g->alarm, &text);
    fputs(str_get(&text),
        for_people() ? stdout : stderr); /* a runner reads both; a program's document stays whole */
    str_reset(&text);
    const char *summary = getenv("GITHUB_STEP_SUMMARY");
    if (summary) {
        github_summary(g->checks, g->n, "sparsegauge gate", &text);
        if (g->alarm) str_addf(&text, "\n> %s\n", g->alarm);
        if (g->note) str_addf(&text, "\n%s\n", g->note);
        if (g->outcome != CHECK_PASS && table_rows(causes)) {
            str_add_char(&text, '\n');
            table_render(causes, TABLE_MARKDOWN, (struct table_style){0}, &text);
        }
        FILE *f = fopen(summary, "a");
        bool whole = f && fputs(str_get(&text), f) >= 0;
        if (f && fclose(f) != 0) whole = false; /* a full disk shows here */
        if (!whole)
            st = fail(ERR_IO, "%s: cannot append the step summary: %s", summary, strerror(errno));
    }
    str_clear(&text);
    return st;
}

/* Runs a failed configuration again and lets both runs decide. What hinders it is said, and changes
 * nothing. */
static enum status confirm(
    struct gate_result *result, const struct gate_subject *subject, int argc, char **argv)
{
    char key[HASH_HEX_SIZE];
    struct view_source again = {0};
    struct gate_result second = {0};
    if (result->outcome != CHECK_FAIL) return OK;
    if (gate_again(subject->run, o.db, &o.machine, argc, argv, key) != OK) {
        gate_unconfirmed(result, status_message());
        return OK;
    }
    struct gate_subject repeated = *subject;
    enum status st = view_source_load(&again, o.db, key);
    repeated.run = &again.view;
    if (st == OK) st = gate_run(&repeated, &o.bounds, &second);
    if (st == OK) gate_confirm(result, &second);
    struct str words = {0};
    if (st == OK)
        arithmetic_compare((struct arithmetic_side){subject->run->run, &subject->run->metrics},
            (struct arithmetic_side){again.view.run, &again.view.metrics}, subject->floors, &words);
    if (words.len) gate_add_note(result, str_get(&words));
    str_clear(&words);
    gate_result_clear(&second);
    view_source_clear(&again);
    return st;
}

/* The causes stay with the caller. */
static void show_result(
    const struct gate_result *g, const struct run_view *v, struct table **causes)
{
    struct table *t = table_new(NULL);
    field_text(t, "run", NULL, v->label);
    field_text(t, "outcome", NULL, check_outcome_name(g->outcome));
    field_text(t, "alarm", NULL, g->alarm);
    field_text(t, "note", NULL, g->note);
    data_object("gate", t);
    say_run(v);
    print_table("checks", checks_table(g));
    say("\ngate: %s\n", check_outcome_name(g->outcome));
    if (g->alarm) say("\nWARNING: %s\n", g->alarm);
    if (g->outcome == CHECK_PASS || !table_rows(*causes)) return;
    print_table("causes", *causes);
    *causes = NULL;
}

static enum status load_context(
    const struct view_source *source, struct noise_list *floors, struct run_list *others)
{
    const struct run_record *r = source->view.run;
    TRY(view_source_floors(source, o.db, r->machine.fingerprint, floors));
    if (!source->store) return OK;
    return query_runs(source->store,
        &(struct run_filter){.model = r->model.fingerprint, .dataset = r->dataset.fingerprint},
        others);
}

/* A file was checked when it was read. Runs of other engines had other settings in their keys. */
static enum status check_settings(const struct view_source *s)
{
    if (!s->store || strcmp(s->view.run->software.engine, ENGINE_VERSION) != 0) return OK;
    return recompute_settings(&s->view);
}

static enum status judge(
    const char *name, int argc, char **argv, int64_t t0, enum check_outcome *outcome)
{
    struct view_source source = {0}, baseline = {0};
    struct noise_list floors = {0};
    struct run_list others = {0};
    struct gate_result result = {0};
    struct table *causes = NULL;
    enum status st;
    TRY_GOTO(st, done, view_source_load(&source, o.db, name));
    TRY_GOTO(st, done, check_settings(&source));
    if (o.baseline) {
        TRY_GOTO(st, done, view_source_load(&baseline, o.db, o.baseline));
        TRY_GOTO(st, done, check_settings(&baseline));
    }
    TRY_GOTO(st, done, load_context(&source, &floors, &others));
    struct gate_subject subject = {
        &source.view, o.baseline ? &baseline.view : NULL, floors.n ? &floors : NULL};
    TRY_GOTO(st, done, gate_run(&subject, &o.bounds, &result));
    if (o.confirm) TRY_GOTO(st, done, confirm(&result, &subject, argc, argv));
    causes = causes_table(&source.view, &others);
    TRY_GOTO(st, done, write_exports(&result, causes, (double)(clock_ns() - t0) * 1e-9));
    show_result(&result, &source.view, &causes);
    *outcome = result.outcome;
done:
    table_free(&causes);
    gate_result_clear(&result);
    run_list_clear(&others);
    noise_list_clear(&floors);
    view_source_clear(&baseline);
    view_source_clear(&source);
    return st;
}

static void show_selftest(const struct selftest *t)
{
    struct table *table = table_new(NULL);
    table_add_column(table, (struct table_column){.name = "configuration"});
    table_add_column(table,
        (struct table_column){
            .name = "cosine", .key = "cosine_mean", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(table,
        (struct table_column){
            .name = "KL", .key = "kl_mean", .unit = "nats", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(table,
        (struct table_column){
            .name = "agreement", .key = "token_accuracy", .number = NUMBER_PERCENT, .digits = 1});
    table_add_column(
        table, (struct table_column){.name = "sparsity", .number = NUMBER_PERCENT, .digits = 1});
    static const char *const names[] = {"must", "gate", "broken bounds", "told"};
    for (int i = 0; i < 4; i++) table_add_column(table, (struct table_column){.name = names[i]});
    for (int i = 0; i < SELFTEST_ROWS; i++) {
        const struct selftest_row *r = &t->rows[i];
        table_text(table, r->what);
        table_real(table, r->cosine);
        table_real(table, r->kl);
        table_real(table, r->token_accuracy);
        table_real(table, r->sparsity);
        table_text(table, r->sound ? "pass" : "fail");
        table_text(table, check_outcome_name(r->outcome));
        table_text(table, r->broken);
        table_bool(table, selftest_row_told(r));
        table_show(table, selftest_row_told(r) ? "yes" : "NO");
    }
    print_table("self_test", table);
}

static enum status self_test(const char *model, int64_t t0, bool *passed)
{
    if (!o.machine.device) o.machine.device = "cpu";
    struct setup setup = {0};
    struct sample_set set = {0};
    struct selftest t;
    struct sample_options s = SAMPLE_DEFAULTS;
    s.max_length = o.max_length;
    s.num_samples = o.num_samples;
    enum status st;
    char *bundled = model || o.machine.model ? NULL : bundled_model();
    TRY_GOTO(st, done,
        setup_open(&setup, &o.machine,
            model                 ? model
                : o.machine.model ? o.machine.model
                                  : bundled));
    TRY_GOTO(st, done, setup_samples(&setup, &s, 0, false, &set));
    progress_work_begin("gate self-test", 1, o.machine.quiet);
    progress_part("", 1);
    st = selftest_run(&setup.model, setup.par, &set, cancel_requested, &t);
    progress_work_end();
    if (st != OK) goto done;
    show_selftest(&t);
    *passed = selftest_passes(&t);
    say("\ngate self-test on %s, %d texts of %d tokens, %.1f s: %s\n", setup.model.name,
        set.n_samples, o.max_length, (double)(clock_ns() - t0) * 1e-9,
        *passed ? "every planted fault was caught, nothing sound was refused"
                : "FAILED, do not trust this gate here");
done:
    sample_set_clear(&set);
    setup_close(&setup);
    free(bundled);
    return st;
}

static enum status gate_command(struct command_call *call)
{
    bool passed = false;
    int64_t t0 = clock_ns();
    enum check_outcome outcome = CHECK_INVALID;
    const char *again[1];
    int n;
    bool want_help;
    /* then the file's, then what was given on the command line over them */
    o.bounds = gate_no_bounds();
    if (o.config) TRY(gate_bounds_read(&o.bounds, o.config));
    TRY(options_parse(&(struct option_tables){.own = options, .common = output_options}, call->argc,
        call->argv, again, 1, &n, &want_help));
    cancel_install();
    if (o.dump) return gate_bounds_write(&o.bounds, o.dump);
    if (o.self_test) {
        TRY(self_test(call->positional[0], t0, &passed));
        call->code = passed ? EXIT_PASS : EXIT_GATE;
        return OK;
    }
    TRY(judge(call->n ? call->positional[0] : "last", call->argc, call->argv, t0, &outcome));
    call->code = outcome_exit_code(outcome);
    return OK;
}

const struct command cmd_gate = {
    .name = "gate",
    .summary = "fail when a bound is broken",
    .help =
        {
            "gate [RUN | FILE.json] [bounds]",
            "Exits 0 when every bound holds, 1 when one is broken, 4 when the data cannot decide "
            "or nothing sparse was\n"
            "measured. A bound is judged by the metric's 95 % interval, a change by the paired "
            "interval of the difference.",
            "sparsegauge gate last --min-cosine .98 --max-kl .02 --min-sparsity .3\n"
            "sparsegauge gate last --baseline 12 --max-kl-rise .002 --confirm\n"
            "sparsegauge gate after_tune.json --config gate.json --junit gate.xml\n"
            "sparsegauge gate --self-test",
            "max-kl min-cosine max-ppl-increase min-sparsity baseline config",
        },
    .options = options,
    .max_positional = 1,
    .run = gate_command,
};

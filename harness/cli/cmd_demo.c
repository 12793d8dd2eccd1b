#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "base/text.h"
#include "base/clock.h"
#include "base/file.h"
#include "engine/tuner/tuner.h"
#include "harness/measure/cell.h"
#include "harness/measure/curve_db.h"
#include "harness/measure/progress.h"
#include "harness/measure/tuning.h"
#include "harness/cli/output.h"
#include "harness/cli/summary.h"
#include "harness/measure/report_curves.h"
#include "reports/report.h"
#include "reports/runjson.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct machine_options machine;
    const char *dir;
    int max_length;
} o = {
    .machine = MACHINE_DEFAULTS,
    .dir = "demo",
    .max_length = 4096,
};

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR", "another model (the bundled one)", 0,
        0},
    {"o|output", OPTION_TEXT, &o.dir, "DIR", "where database, JSON and report go (demo)", 0, 0},
    {"max-length", OPTION_INT, &o.max_length, "TOKENS", "window length (4096)", 512, 8192},
    MACHINE_OPTIONS(o.machine),
    {0},
};

enum {
    N_TUNE = 3,
    N_CHECK = 1,
    N_HELD_OUT = 2,
    N_TUNING = N_TUNE + N_CHECK + N_HELD_OUT,
    N_TEXTS = 4,
    WINDOW = 256,
    SHORTEST = 256
};

/* Profile "high accuracy" of the tuning guide, and bounds of the tail rule from which the one with
 * the nearest sparsity is taken. */
static const struct tune_bounds l1_bounds = {.04, .05};
enum { N_BOUNDS = 3 };
static const struct tune_bounds tail_bounds[N_BOUNDS] = {{.45, .47}, {.55, .57}, {.65, .67}};
/* The best that docs/studies/methods.md found at its price: for every head the predictor whose
 * curve is better. */
#define OURS "sparge/bound"
static const struct tune_bounds rmse_bounds[N_BOUNDS] = {{.06, .065}, {.07, .075}, {.08, .085}};

struct demo {
    struct setup setup;
    struct store *store;
    struct dense_cache cache;
    struct sample_set texts, needles, tuning;
    struct tuned l1, tail, rmse;
    char *tuned_files[3]; /* where these lie */
    char last_text[HASH_HEX_SIZE], last_needle[HASH_HEX_SIZE];
    char first_text[HASH_HEX_SIZE], after_text[HASH_HEX_SIZE];
    int argc;
    char **argv;
    int64_t started;
    bool is_bundled;
};

/* Seconds of the steps on one core of a server: their shares of the whole matter. */
enum {
    TUNING_S = 27,
    EVALUATION_S = 17,
    N_SETTINGS = 6,
    REPORT_S = 2,
    ALL_S = TUNING_S + N_SETTINGS * EVALUATION_S + REPORT_S
};

/* A step begins, which takes about so many of them. */
static void step(const struct demo *d, const char *what, double seconds)
{
    progress_hide();
    if (!o.machine.quiet) say("%5.1f s  %s\n", (double)(clock_ns() - d->started) * 1e-9, what);
    progress_part(what, seconds);
}

static enum status load(struct demo *d)
{
    struct sample_options s = SAMPLE_DEFAULTS;
    s.max_length = o.max_length;
    s.num_samples = N_TEXTS;
    TRY(setup_samples(&d->setup, &s, 0, false, &d->texts));
    s.num_samples = N_TUNING;
    TRY(setup_samples(&d->setup, &s, 0, true, &d->tuning));
    s.num_samples = 0;
    char *spec = str_format("needle:lengths=%d,%d;depths=0,25,50,75,100;repeat=1",
        o.max_length / 4 > SHORTEST ? o.max_length / 4 : SHORTEST,
        o.max_length / 2 > SHORTEST ? o.max_length / 2 : o.max_length); /* the texts go further */
    s.suites = (struct text_list){{spec}, 1};
    enum status st = setup_samples(&d->setup, &s, 0, false, &d->needles);
    free(spec);
    return st;
}

static double mean_sparsity(const struct tuned *t)
{
    double sum = 0;
    for (int i = 0; i < t->n_layers * t->n_heads; i++)
        sum += t->heads[i].params.is_sparse ? t->heads[i].sparsity : 0;
    return sum / (t->n_layers * t->n_heads);
}

static void show_heads(void *ctx, int done, int total)
{
    (void)total;
    progress_update(ctx, done);
}

static enum status tune_rule(struct demo *d, const struct sparse_policy *policy,
    enum tune_rule rule, const struct tune_bounds *bounds, int n_bounds, struct tuned *out)
{
    struct tune_sample samples[N_TUNING];
    struct tuning_samples want = {N_TUNE, N_CHECK, N_HELD_OUT};
    struct curve_db db = {0};
    struct progress progress;
    struct tune_times times;
    TRY(tuning_split(&want, d->tuning.n_samples, d->tuning.name));
    for (int i = 0; i < d->tuning.n_samples; i++)
        samples[i] = (struct tune_sample){d->tuning.samples[i].ids, d->tuning.samples[i].n,
            d->tuning.samples[i].name, i >= want.n_tune};
    TRY(curve_db_open(&db, d->store, &d->setup, &d->tuning, policy));
    double n_heads = d->setup.model.weights.config.n_layers * d->setup.model.weights.config.n_heads;
    progress_share(rule == RULE_RMSE ? 1 : .4); /* of three tunings, the last has two predictors */
    progress_begin(&progress, "tune", "heads", n_heads, o.machine.quiet);
    enum status st = tuning_run(&d->setup, 1, &o.machine,
        &(struct tune_args){.weights = &d->setup.model.weights,
            .par = d->setup.par,
            .policy = policy,
            .rule = rule,
            .samples = samples,
            .n_samples = d->tuning.n_samples,
            .bounds = bounds,
            .n_bounds = n_bounds,
            .min_sparsity = .10,
            .curves = curve_db_store(&db),
            .impl = o.machine.impl,
            .stop = cancel_requested,
            .progress = show_heads,
            .progress_ctx = &progress},
        want, 0, out, &times);
    progress_end(&progress);
    curve_db_close(&db);
    for (int i = 0; i < n_bounds && st == OK; i++) {
        snprintf(out[i].model_fingerprint, sizeof out[i].model_fingerprint, "%s",
            d->setup.model.fingerprint);
        snprintf(out[i].model_name, sizeof out[i].model_name, "%s", d->setup.model.name);
        snprintf(
            out[i].data_fingerprint, sizeof out[i].data_fingerprint, "%s", d->tuning.fingerprint);
        snprintf(out[i].data_name, sizeof out[i].data_name, "%s", d->tuning.name);
    }
    return st;
}

/* Of a rule's bounds the one whose sparsity is nearest to that of l1, so that choices are compared
 * at like sparsity. */
static enum status tune_near(struct demo *d, const char *method, enum tune_rule rule,
    const struct tune_bounds *bounds, struct tuned *out)
{
    const struct llama_config *c = &d->setup.model.weights.config;
    const struct mask_method *m = NULL;
    struct sparse_policy policy;
    struct tuned candidates[N_BOUNDS];
    TRY(mask_method_parse(method, &m));
    TRY(policy_init(&policy, m, c->n_layers, c->n_heads));
    enum status st = tune_rule(d, &policy, rule, bounds, N_BOUNDS, candidates);
    policy_clear(&policy);
    if (st != OK) return st;
    int best = 0;
    double wanted = mean_sparsity(&d->l1);
    for (int i = 1; i < N_BOUNDS; i++)
        if (fabs(mean_sparsity(&candidates[i]) - wanted) <
            fabs(mean_sparsity(&candidates[best]) - wanted))
            best = i;
    for (int i = 0; i < N_BOUNDS; i++)
        if (i == best) *out = candidates[i];
        else tuned_clear(&candidates[i]);
    return OK;
}

/* And where it lies, for the evaluation, which reads it as anybody's. */
static enum status write_tuned(
    const struct tuned *t, const char *name, char **path, struct policy_options *p)
{
    p->tuned = *path = path_join(o.dir, name);
    return tuned_write(t, *path);
}

static enum status tune_all(struct demo *d)
{
    const struct llama_config *c = &d->setup.model.weights.config;
    struct sparse_policy policy;
    TRY(policy_init(&policy, &mask_sparge, c->n_layers, c->n_heads));
    enum status st = tune_rule(d, &policy, RULE_L1, &l1_bounds, 1, &d->l1);
    policy_clear(&policy);
    if (st == OK) st = tune_near(d, "sparge", RULE_TAIL, tail_bounds, &d->tail);
    if (st == OK) st = tune_near(d, OURS, RULE_RMSE, rmse_bounds, &d->rmse);
    return st;
}

/* Both suites under one policy; the keys stay in last_text and last_needle. */
static enum status evaluate_policy(struct demo *d, const struct policy_options *p, bool attribution)
{
    struct sparse_policy policy = {0};
    struct tuned tuned = {0};
    TRY(setup_policy(&d->setup, p, &policy, &tuned));
    enum status st = OK;
    for (int i = 0; i < 2 && st == OK; i++) {
        struct cell_request cell = {.setup = &d->setup,
            .store = d->store,
            .cache = &d->cache,
            .set = i ? &d->needles : &d->texts,
            .policy = &policy,
            .tuned = p->tuned ? &tuned : NULL,
            .machine = &o.machine,
            .settings = cell_defaults,
            .retry = true,
            .wait = true,
            .quiet = o.machine.quiet,
            .stop = cancel_requested,
            .argc = d->argc,
            .argv = d->argv};
        cell.settings.max_length = o.max_length;
        cell.settings.num_samples = i ? 0 : N_TEXTS;
        cell.settings.plan = "demo";
        cell.settings.generate = i == 0;
        cell.settings.attribution = i == 0 && attribution;
        if (i) cell.settings.n_worst = 0;
        struct cell_result result;
        st = cell_run(&cell, &result);
        if (st == OK) memcpy(i ? d->last_needle : d->last_text, result.key, sizeof result.key);
        if (st == OK) cell_result_clear(&result);
    }
    policy_clear(&policy);
    tuned_clear(&tuned);
    return st;
}

static enum status add_to_table(
    struct demo *d, struct table *t, const char *label, const char *bounds)
{
    struct run_view text, needle;
    TRY(run_view_load(&text, d->store, d->last_text));
    enum status st = run_view_load(&needle, d->store, d->last_needle);
    if (st == OK) {
        table_text(t, label);
        table_text(t, bounds);
        table_real(t, run_view_metric(&text, "sparsity"));
        table_real(t, run_view_metric(&text, "cosine"));
        table_real(t, run_view_metric(&text, "kl"));
        table_real(t, run_view_metric(&text, "ppl_ratio"));
        table_real(t, run_view_metric(&text, "token_accuracy"));
        table_real(t, run_view_metric(&text, "score_sparse"));
        table_real(t, run_view_metric(&needle, "score_sparse"));
        run_view_clear(&needle);
    }
    run_view_clear(&text);
    return st;
}

static void add_dense(struct demo *d, struct table *t)
{
    struct run_view text, needle;
    if (run_view_load(&text, d->store, d->last_text) != OK) return;
    if (run_view_load(&needle, d->store, d->last_needle) == OK) {
        table_text(t, "dense");
        table_missing(t);
        table_real(t, 0);
        table_real(t, 1);
        table_real(t, 0);
        table_real(t, 1);
        table_real(t, 1);
        table_real(t, run_view_metric(&text, "score_dense"));
        table_real(t, run_view_metric(&needle, "score_dense"));
        run_view_clear(&needle);
    }
    run_view_clear(&text);
}

static struct table *demo_table(void)
{
    struct table *t = table_new(NULL);
    table_add_column(
        t, (struct table_column){.name = "attention", .key = "attention", .weight = 9});
    table_add_column(t, (struct table_column){.name = "bounds", .key = "bounds", .weight = 3});
    table_add_column(t,
        (struct table_column){.name = "sparsity",
            .key = "sparsity",
            .weight = 9,
            .number = NUMBER_PERCENT,
            .digits = 1});
    table_add_column(t,
        (struct table_column){.name = "cosine",
            .key = "cosine_mean",
            .weight = 5,
            .number = NUMBER_FIXED,
            .digits = 4});
    table_add_column(t,
        (struct table_column){.name = "KL",
            .key = "kl_mean",
            .weight = 8,
            .unit = "nats",
            .number = NUMBER_FIXED,
            .digits = 4});
    table_add_column(t,
        (struct table_column){.name = "perplexity",
            .key = "ppl_ratio",
            .weight = 4,
            .unit = "x dense",
            .number = NUMBER_FIXED,
            .digits = 3});
    table_add_column(t,
        (struct table_column){.name = "agreement",
            .key = "token_accuracy",
            .weight = 5,
            .number = NUMBER_PERCENT,
            .digits = 1});
    table_add_column(t,
        (struct table_column){.name = "answers right",
            .key = "score_sparse",
            .weight = 9,
            .number = NUMBER_PERCENT,
            .digits = 1});
    table_add_column(t,
        (struct table_column){.name = "needles found",
            .key = "needle_score_sparse",
            .weight = 6,
            .number = NUMBER_PERCENT,
            .digits = 1});
    return t;
}

struct setting {
    const char *label, *bounds, *said;
    struct policy_options policy;
};

static enum status write_json(struct demo *d, const char *key, const char *name)
{
    struct run_view v;
    TRY(run_view_load(&v, d->store, key));
    char *path = path_join(o.dir, name);
    enum status st = runjson_write(&v, path);
    free(path);
    run_view_clear(&v);
    return st;
}

static enum status write_report(struct demo *d)
{
    struct str notes = {0};
    char *dir = path_join(o.dir, "report");
    static struct report_curves curves; /* 100 KB */
    struct report_options report = {
        .dir = dir, .db = store_path(d->store), .run = d->after_text, .baseline = d->first_text};
    enum status st = report_curves_load(d->store, report.run, &curves);
    if (st == OK) {
        report_curves_offer(&curves, &report);
        st = report_write(d->store, &report, &notes);
    }
    if (notes.len) fprintf(stderr, "%s", str_get(&notes));
    free(dir);
    str_clear(&notes);
    return st;
}

static enum status run(struct demo *d)
{
    char l1_text[64], tail_text[64], rmse_text[64], oracle_text[64];
    progress_work_begin("demo", ALL_S, o.machine.quiet);
    step(d, "writing texts with questions, and needles in haystacks", 0);
    TRY(load(d));
    step(d, "tuning every head under the rules l1, tail and rmse", TUNING_S);
    TRY(tune_all(d));
    snprintf(l1_text, sizeof l1_text, "l1 <= %g", d->l1.l1);
    snprintf(tail_text, sizeof tail_text, "tail <= %g", d->tail.l1);
    snprintf(rmse_text, sizeof rmse_text, "rmse <= %g", d->rmse.l1);
    struct policy_options untuned = POLICY_DEFAULTS, window = POLICY_DEFAULTS,
                          oracle = POLICY_DEFAULTS, l1 = POLICY_DEFAULTS, tail = POLICY_DEFAULTS,
                          rmse = POLICY_DEFAULTS;
    TRY(write_tuned(&d->l1, "tuned_l1.json", &d->tuned_files[0], &l1));
    TRY(write_tuned(&d->tail, "tuned_tail.json", &d->tuned_files[1], &tail));
    TRY(write_tuned(&d->rmse, "tuned_rmse.json", &d->tuned_files[2], &rmse));
    window.method = "window";
    window.window = WINDOW;
    oracle.method = "oracle";
    oracle.topk = 1 - mean_sparsity(&d->l1);
    snprintf(oracle_text, sizeof oracle_text, "top %.0f %% of tiles", 100 * oracle.topk);
    enum { AFTER = 1 }; /* after_tune.json */
    struct setting settings[N_SETTINGS] = {
        {"untuned sparge", "theta .6, tau .98", "untuned thresholds", untuned},
        {"tuned, rule l1", l1_text, "tuned, rule l1", l1},
        {"tuned, rule tail", tail_text, "tuned, rule tail", tail},
        {"tuned, " OURS, rmse_text, "tuned, rule rmse, for every head the better of two predictors",
            rmse},
        {"oracle", oracle_text, "the oracle: tiles ranked by their true mass", oracle},
        {"window", "256 tokens", "a sliding window", window},
    };
    struct table *t = demo_table();
    enum status st = OK;
    for (size_t i = 0; i < sizeof settings / sizeof settings[0] && st == OK; i++) {
        step(d, settings[i].said, EVALUATION_S);
        st = evaluate_policy(d, &settings[i].policy, i == AFTER);
        if (st == OK && i == 0) {
            add_dense(d, t);
            memcpy(d->first_text, d->last_text, sizeof d->last_text);
        }
        if (st == OK && i == AFTER) memcpy(d->after_text, d->last_text, sizeof d->last_text);
        if (st == OK) st = add_to_table(d, t, settings[i].label, settings[i].bounds);
    }
    if (st == OK) st = write_json(d, d->first_text, "before_tune.json");
    if (st == OK) st = write_json(d, d->after_text, "after_tune.json");
    if (st == OK) {
        step(d, "drawing the report", REPORT_S);
        st = write_report(d);
    }
    if (st != OK) {
        table_free(&t);
        return st;
    }
    progress_work_end();
    step(d, "done", 0);
    say("\n%s, %d texts of %d tokens, %d questions and %d needles:\n",
        d->is_bundled ? "the bundled model" : d->setup.model.name, d->texts.n_samples, o.max_length,
        d->texts.n_questions, d->needles.n_questions);
    print_table("attention", t);
    struct table *files = table_new(NULL);
    field_text(files, "dir", NULL, o.dir);
    field_text(files, "model", NULL, d->setup.model.name);
    field_count(files, "n_samples", NULL, d->texts.n_samples);
    field_count(files, "max_length", NULL, o.max_length);
    field_count(files, "n_questions", NULL, d->texts.n_questions);
    field_count(files, "n_needles", NULL, d->needles.n_questions);
    data_object("demo", files);
    struct str dir = {0};
    text_shell_word(o.dir, &dir); /* with a space before it */
    say_command("\nnext%s/report/index.html   the report, one page; then\n"
                "  sparsegauge compare%s/before_tune.json%s/after_tune.json\n"
                "  sparsegauge gate%s/after_tune.json --max-kl .02\n"
                "  sparsegauge list --db%s/demo.db\n",
        str_get(&dir), str_get(&dir), str_get(&dir), str_get(&dir), str_get(&dir));
    str_clear(&dir);
    return OK;
}

static enum status demo_command(struct command_call *call)
{
    enum status st = OK;
    char *bundled = bundled_model();
    bool is_bundled = !o.machine.model;
    if (is_bundled) o.machine.model = bundled;
    struct demo d = {
        .is_bundled = is_bundled, .argc = call->argc, .argv = call->argv, .started = clock_ns()};
    char *db = path_join(o.dir, "demo.db");
    cancel_install();
    TRY_GOTO(st, done, file_make_dirs(o.dir));
    TRY_GOTO(st, done, store_open(&d.store, db, STORE_WRITE));
    TRY_GOTO(st, done, setup_open(&d.setup, &o.machine, NULL));
    TRY_GOTO(st, done, dense_cache_open(&d.cache, o.machine.cache));
    st = run(&d);
done:
    progress_work_end();
    tuned_clear(&d.l1);
    tuned_clear(&d.tail);
    tuned_clear(&d.rmse);
    for (int i = 0; i < 3; i++) free(d.tuned_files[i]);
    sample_set_clear(&d.texts);
    sample_set_clear(&d.needles);
    sample_set_clear(&d.tuning);
    dense_cache_close(&d.cache);
    setup_close(&d.setup);
    store_close(&d.store);
    free(bundled);
    free(db);
    return st;
}

const struct command cmd_demo = {
    .name = "demo",
    .summary = "the whole instrument on the bundled model, in a minute",
    .help =
        {
            "demo [options]",
            "Evaluates the bundled model with untuned thresholds, tunes it under three rules, sets "
            "them beside a sliding window and beside\n"
            "the oracle, counts the answers each of them loses, and writes a database, "
            "before_tune.json, after_tune.json and a report.",
            "sparsegauge demo -o out/demo",
            "output model max-length threads device",
        },
    .kept = "what is done is in the database; the same command goes on from there",
    .options = options,
    .max_positional = 0,
    .run = demo_command,
};

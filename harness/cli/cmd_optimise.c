#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "base/clock.h"
#include "engine/tuner/optimise.h"
#include "harness/measure/curve_db.h"
#include "harness/measure/identity.h"
#include "harness/cli/output.h"
#include "harness/measure/progress.h"
#include "harness/measure/setup.h"
#include "harness/measure/tuned_db.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RUNGS = 32 };

static struct {
    struct machine_options machine;
    struct sample_options samples;
    struct policy_options policy;
    const char *db, *out, *rule, *rungs, *max_ppl, *by, *price;
    double min_cosine, max_kl, min_sparsity;
    int n_tune, n_tune_check, n_search, n_check, n_held, n_probes;
} o = {
    .machine = MACHINE_DEFAULTS,
    .samples = SAMPLE_DEFAULTS,
    .policy = POLICY_DEFAULTS,
    .db = "sparsegauge.db",
    .out = "optimised.json",
    .rule = "l1",
    .by = "layer",
    .min_cosine = NAN,
    .max_kl = NAN,
    .n_tune = 5,
    .n_tune_check = 2,
    .n_search = 3,
    .n_check = 3,
    .n_held = 5,
    .n_probes = 5,
    .min_sparsity = .10,
};

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR",
        "Hugging Face directory, instead of MODEL", 0, 0},
    {"Target", OPTION_GROUP, NULL, NULL, NULL, 0, 0},
    {"min-cosine", OPTION_REAL, &o.min_cosine, "X",
        "lowest mean cosine of the logits (.99 when nothing is given)", -1, 1},
    {"max-kl", OPTION_REAL, &o.max_kl, "X", "highest mean KL divergence, nats", 0, 100},
    {"max-ppl-increase", OPTION_TEXT, &o.max_ppl, "X", "highest increase of perplexity: 1% or .01",
        0, 0},
    {"Search", OPTION_GROUP, NULL, NULL, NULL, 0, 0},
    {"rule", OPTION_TEXT, &o.rule, "NAME",
        "what the bounds of the ladder are of: l1, tail, cosine, rmse or both (l1)", 0, 0},
    {"rungs", OPTION_TEXT, &o.rungs, "X,X,…", "bounds of the ladder (twelve that suit the rule)", 0,
        0},
    {"by", OPTION_TEXT, &o.by, "WHAT", "layer or head: what gets a bound of its own (layer)", 0, 0},
    {"price", OPTION_TEXT, &o.price, "HOW",
        "what a step costs: alone, each of them run sparse by itself, or stream, what its error "
        "does to the residual stream (layer: alone, head: stream)",
        0, 0},
    {"probes", OPTION_INT, &o.n_probes, "N",
        "rungs that each of them is run at alone, the rest is interpolated (5)", 1, MAX_RUNGS},
    {"num-tune-samples", OPTION_INT, &o.n_tune, "N", "samples that thresholds are chosen on (5)", 1,
        1000},
    {"tune-check", OPTION_INT, &o.n_tune_check, "N",
        "further samples that every rung's bound must hold on (2)", 0, 1000},
    {"num-search-samples", OPTION_INT, &o.n_search, "N", "other samples, to search on (3)", 1,
        1000},
    {"check", OPTION_INT, &o.n_check, "N", "further samples that the target must hold on (3)", 1,
        1000},
    {"held-out", OPTION_INT, &o.n_held, "N",
        "yet other samples: what was taken runs on them once, and is judged there (5)", 1, 1000},
    {"min-sparsity", OPTION_REAL, &o.min_sparsity, "X", "heads under it stay dense (.1)", 0, 1},
    {"Output", OPTION_GROUP, NULL, NULL, NULL, 0, 0},
    {"o|output|model-out-path", OPTION_TEXT, &o.out, "FILE",
        "where the thresholds go (optimised.json)", 0, 0},
    {"db", OPTION_TEXT, &o.db, "FILE", "database of curves and choices (sparsegauge.db)", 0, 0},
    SAMPLE_OPTIONS(o.samples),
    RANKED_POLICY_OPTIONS(o.policy),
    MACHINE_OPTIONS(o.machine),
    {0},
};

/* A ladder in the rule's own error: what is usual for l1, and about the same sparsity under the
 * others. */
static double default_rung(enum tune_rule rule, int i)
{
    static const double l1[] = {.01, .015, .02, .03, .04, .05, .06, .08, .1, .13, .16, .2};
    static const double tail[] = {.2, .3, .4, .5, .55, .6, .65, .7, .75, .8, .88, .95};
    if (i >= (int)(sizeof l1 / sizeof l1[0])) return NAN;
    switch (rule) {
    case RULE_TAIL:
    case RULE_BOTH: return tail[i];
    case RULE_RMSE: return 2 * l1[i];
    case RULE_COSINE: return 2 * l1[i] * l1[i];
    case RULE_L1: break;
    }
    return l1[i];
}

static enum status parse_rungs(enum tune_rule rule, struct tune_bounds *out, int *n)
{
    *n = 0;
    for (const char *text = o.rungs; text && *text;) {
        char *end;
        double x = strtod(text, &end);
        if (end == text || (*end && *end != ',') || !(x > 0 && x < 1))
            return fail(ERR_ARG,
                "--rungs: found \"%s\", expected numbers between 0 and 1 joined by commas", text);
        if (*n == MAX_RUNGS) return fail(ERR_ARG, "--rungs: more than %d of them", MAX_RUNGS);
        out[(*n)++].l1 = x;
        text = *end ? end + 1 : end;
    }
    for (double x; !o.rungs && !isnan(x = default_rung(rule, *n));) out[(*n)++].l1 = x;
    for (int i = 0; i < *n; i++) {
        if (i > 0 && !(out[i].l1 > out[i - 1].l1))
            return fail(
                ERR_ARG, "--rungs: %g behind %g, expected rising bounds", out[i].l1, out[i - 1].l1);
        out[i].pv_l1 = fmin(1.1 * out[i].l1, (1 + out[i].l1) / 2);
    }
    return *n ? OK : fail(ERR_ARG, "--rungs: found nothing, expected bounds joined by commas");
}

/* "1%" or ".01" */
static enum status parse_share(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    bool percent = *end == '%';
    if (percent) *out /= 100;
    if (end == text || end[percent] || !(*out > 0 && *out < 100))
        return fail(ERR_ARG,
            "--max-ppl-increase: found \"%s\", expected a share above 0 as 1%% or .01", text);
    return OK;
}

static enum status read_target(struct optimise_target *t, struct str *goal)
{
    double share;
    t->most = (struct damage){INFINITY, INFINITY, INFINITY};
    if (isnan(o.min_cosine) && isnan(o.max_kl) && !o.max_ppl) o.min_cosine = .99;
    if (!isnan(o.min_cosine)) {
        t->most.cosine = 1 - o.min_cosine;
        str_addf(goal, "cosine >= %g", o.min_cosine);
    }
    if (!isnan(o.max_kl)) {
        t->most.kl = o.max_kl;
        str_addf(goal, "%sKL <= %g", goal->len ? ", " : "", o.max_kl);
    }
    if (o.max_ppl) {
        TRY(parse_share(o.max_ppl, &share));
        t->most.log_ppl = log1p(share);
        str_addf(goal, "%sperplexity <= %g x dense", goal->len ? ", " : "", 1 + share);
    }
    if (t->most.cosine > 0 && t->most.kl > 0) return OK;
    return fail(ERR_ARG,
        "the target \"%s\" leaves no room at all, expected a cosine below 1 and a KL divergence "
        "above 0",
        str_get(goal));
}

struct work {
    const struct setup *setup;
    struct store *store;
    struct sparse_policy policy;
    struct sample_set all;
    /* [all.n_samples]: to tune, to check that, to search, to check that, held out */
    struct tune_sample *samples;
    struct tuned rungs[MAX_RUNGS];
    struct tune_bounds bounds[MAX_RUNGS];
    int n_rungs;
    struct optimise_result result;
    struct tuned chosen;
    double tune_s;
};

static int n_tuning(void) { return o.n_tune + o.n_tune_check; }

static enum status load_samples(struct work *w)
{
    int n = n_tuning() + o.n_search + o.n_check + o.n_held;
    o.samples.num_samples = n;
    TRY(setup_samples(w->setup, &o.samples, 0, true, &w->all));
    if (w->all.n_samples < n)
        return fail(ERR_ARG,
            "%s has %d samples of %d tokens, and %d are needed: %d to tune, %d to check that, %d "
            "to search, %d "
            "to check that and %d held out; ask for fewer or lower --max-length",
            w->all.name, w->all.n_samples, o.samples.max_length, n, o.n_tune, o.n_tune_check,
            o.n_search, o.n_check, o.n_held);
    w->samples = calloc((size_t)n, sizeof *w->samples);
    if (!w->samples) return fail(ERR_MEMORY, "no memory for %d samples", n);
    for (int i = 0; i < n; i++)
        w->samples[i] = (struct tune_sample){
            w->all.samples[i].ids, w->all.samples[i].n, w->all.samples[i].name, i >= o.n_tune};
    return OK;
}

static void show_heads(void *ctx, int done, int total)
{
    (void)total;
    progress_update(ctx, done);
}

static void show_share(void *ctx, double share) { progress_update(ctx, 100 * share); }

static enum status tune_rungs(struct work *w, enum tune_rule rule)
{
    struct curve_db db = {0};
    struct progress progress;
    struct tune_times times;
    TRY(curve_db_open(&db, w->store, w->setup, &w->all, &w->policy));
    int64_t t0 = clock_ns();
    progress_begin(&progress, "tune", "heads", 0, o.machine.quiet);
    for (int l = 0; l < w->policy.n_layers; l++)
        progress.total += w->policy.layer_on[l] * w->policy.n_heads;
    enum status st = tune(&(struct tune_args){.weights = &w->setup->model.weights,
                              .par = w->setup->par,
                              .policy = &w->policy,
                              .rule = rule,
                              .samples = w->samples,
                              .n_samples = n_tuning(),
                              .bounds = w->bounds,
                              .n_bounds = w->n_rungs,
                              .min_sparsity = o.min_sparsity,
                              .curves = curve_db_store(&db),
                              .impl = o.machine.impl,
                              .progress = show_heads,
                              .progress_ctx = &progress,
                              .stop = cancel_requested},
        w->rungs, &times);
    progress_end(&progress);
    curve_db_close(&db);
    w->tune_s = (double)(clock_ns() - t0) * 1e-9;
    return st;
}

static bool by_head(void) { return strcmp(o.by, "head") == 0; }

static bool by_stream(void)
{
    return strcmp(o.price ? o.price : by_head() ? "stream" : "alone", "stream") == 0;
}

static enum status search(struct work *w, const struct optimise_target *target)
{
    struct progress progress;
    progress_begin(&progress, "optimise", "%", 100, o.machine.quiet);
    enum status st = optimise(&(struct optimise_args){.weights = &w->setup->model.weights,
                                  .par = w->setup->par,
                                  .policy = &w->policy,
                                  .by_head = by_head(),
                                  .by_stream = by_stream(),
                                  .rungs = w->rungs,
                                  .n_rungs = w->n_rungs,
                                  .n_probes = o.n_probes < w->n_rungs ? o.n_probes : w->n_rungs,
                                  .samples = w->samples + n_tuning(),
                                  .n_search = o.n_search,
                                  .n_check = o.n_check,
                                  .n_held_out = o.n_held,
                                  .target = *target,
                                  .impl = o.machine.impl,
                                  .progress = show_share,
                                  .progress_ctx = &progress,
                                  .stop = cancel_requested},
        &w->result);
    progress_end(&progress);
    return st;
}

static void add_damage(struct table *t, const struct damage *d)
{
    table_real(t, 1 - d->cosine);
    table_real(t, d->kl);
    table_real(t, exp(d->log_ppl));
}

static void add_damage_columns(struct table *t)
{
    table_add_column(t,
        (struct table_column){
            .name = "cosine", .key = "cosine_mean", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(t,
        (struct table_column){
            .name = "KL", .key = "kl_mean", .unit = "nats", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(t,
        (struct table_column){.name = "perplexity",
            .key = "ppl_ratio",
            .unit = "x dense",
            .number = NUMBER_FIXED,
            .digits = 4});
}

/* Of a cell: its heads' shares as if they wrote independently. */
static double share_of(const struct optimise_result *r, int cell)
{
    double sum = 0;
    for (int h = cell * r->heads_each; h < (cell + 1) * r->heads_each; h++)
        sum += r->share[h] * r->share[h];
    return sqrt(sum);
}

/* What each layer or head costs alone, at the measured rung next to the one it got. */
static struct table *cell_table(const struct work *w)
{
    const struct optimise_result *r = &w->result;
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "layer"});
    if (by_head()) table_add_column(t, (struct table_column){.name = "head"});
    table_add_column(
        t, (struct table_column){.name = "bound", .number = NUMBER_SHORT, .digits = 3});
    table_add_column(
        t, (struct table_column){.name = "sparsity", .number = NUMBER_PERCENT, .digits = 1});
    if (r->share) {
        table_add_column(t,
            (struct table_column){.name = "share of the stream",
                .key = "stream_share",
                .number = NUMBER_FIXED,
                .digits = 3});
    } else {
        table_add_column(t,
            (struct table_column){.name = "alone sparse at",
                .key = "bound_alone",
                .number = NUMBER_SHORT,
                .digits = 3});
        add_damage_columns(t);
    }
    for (int i = 0; i < r->n_cells; i++) {
        int each = r->n_cells / r->n_layers;
        if (!w->policy.layer_on[i / each]) continue;
        const struct cell_rung *row = &r->cells[i * r->n_rungs];
        int at = r->rung[i] >= 0 ? r->rung[i] : 0, probe = at;
        while (probe < r->n_rungs - 1 && !row[probe].measured) probe++;
        table_int(t, i / each);
        if (by_head()) table_int(t, i % each);
        table_real(t, r->rung[i] >= 0 ? w->bounds[at].l1 : NAN);
        table_real(t, r->rung[i] >= 0 ? row[at].sparsity : 0);
        if (r->share) {
            table_real(t, share_of(r, i));
            continue;
        }
        table_real(t, w->bounds[probe].l1);
        add_damage(t, &row[probe].damage);
    }
    return t;
}

static struct table *walked_table(const struct work *w, const struct optimise_target *target)
{
    const struct optimise_result *r = &w->result;
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "point"});
    table_add_column(t, (struct table_column){.name = "samples", .key = "on"});
    table_add_column(
        t, (struct table_column){.name = "sparsity", .number = NUMBER_PERCENT, .digits = 1});
    add_damage_columns(t);
    table_add_column(t, (struct table_column){.name = "target", .key = "outcome"});
    static const char *const on[] = {"search", "check", "held-out"},
                             *const judged[] = {"holds", "open", "broken"};
    for (int i = 0; i < r->n_points; i++) {
        const struct optimise_point *p = &r->points[i];
        char label[64];
        if (p->step >= 0) snprintf(label, sizeof label, "step %d of %d", p->step, r->n_steps);
        else snprintf(label, sizeof label, "all at %g", w->bounds[p->rung].l1);
        table_text(t, label);
        table_text(t, on[p->on]);
        table_real(t, p->sparsity);
        add_damage(t, &p->damage);
        table_text(t,
            i == r->chosen                  ? judged[optimise_judge(p, target)]
                : p->holds || i == r->taken ? "holds"
                                            : "broken");
        if (i == r->taken && i != r->chosen) table_show(t, "holds: taken");
    }
    return t;
}

/* How often its heads are over their bounds on the held-out samples. */
static enum status judge_heads(struct work *w)
{
    struct tuned *t = &w->chosen;
    size_t n = (size_t)t->n_layers * (size_t)t->n_heads * (size_t)o.n_held;
    struct head_error *errors = malloc(sizeof *errors * n);
    if (!errors) return fail(ERR_MEMORY, "no memory to judge %d samples", o.n_held);
    enum status st = tune_errors(&(struct tune_args){.weights = &w->setup->model.weights,
                                     .par = w->setup->par,
                                     .policy = &w->policy,
                                     .samples = w->samples + w->all.n_samples - o.n_held,
                                     .n_samples = o.n_held,
                                     .impl = o.machine.impl,
                                     .stop = cancel_requested},
        t, 1, errors);
    if (st == OK) tuned_judge(t, errors, o.n_held);
    free(errors);
    return st;
}

static enum status save(struct work *w, const char *goal)
{
    char hash[33];
    struct arena *arena = NULL;
    struct model_record model;
    TRY(optimise_apply(&w->result, w->rungs, goal, &w->chosen));
    struct tuned *t = &w->chosen;
    TRY(judge_heads(w));
    snprintf(t->model_fingerprint, sizeof t->model_fingerprint, "%s", w->setup->model.fingerprint);
    snprintf(t->model_name, sizeof t->model_name, "%s", w->setup->model.name);
    /* all of it had a say */
    snprintf(t->data_fingerprint, sizeof t->data_fingerprint, "%s", w->all.fingerprint);
    snprintf(t->data_name, sizeof t->data_name, "%s", w->all.name);
    TRY(tuned_write(t, o.out));
    model_identity(&model, &w->setup->model, w->setup->model_dir, &arena);
    enum status st = store_tuned(w->store, t, tuned_hash(t, hash), NULL);
    arena_free(&arena);
    return st;
}

static void print_verdict(
    const struct work *w, const struct optimise_target *target, const char *goal)
{
    const struct optimise_result *r = &w->result;
    if (r->chosen < 0) {
        say("\n%s: nothing that was tried holds on the check samples; every head is stored dense "
            "in %s\n",
            goal, o.out);
        return;
    }
    static const char *const judged[] = {"The target holds there, the whole interval of it.",
        "The interval reaches to both sides of the target: more --held-out samples decide.",
        "The target is BROKEN there: check samples flattered it; give more of them, or a stricter "
        "target."};
    const struct optimise_point *p = &r->points[r->chosen], *check = &r->points[r->taken];
    char over[OVER_BOUND_TEXT];
    say("\n%s: %.1f %% sparsity on %d held-out samples, run once; written to %s\n", goal,
        100 * p->sparsity, o.n_held, o.out);
    say("  cosine %.4f (95 %% interval %.4f to %.4f), KL %.4f (%.4f to %.4f), perplexity x%.4f "
        "(%.4f to %.4f)\n  %s\n",
        1 - p->damage.cosine, 1 - p->hi.cosine, 1 - p->lo.cosine, p->damage.kl, fmax(0, p->lo.kl),
        p->hi.kl, exp(p->damage.log_ppl), exp(p->lo.log_ppl), exp(p->hi.log_ppl),
        judged[optimise_judge(p, target)]);
    say("Of its heads' bounds on those: %s.\n", over_bound_text(&w->chosen.over, over));
    if (check->step < 0)
        say("One bound for all, %g, is the sparsest that holds on the check samples, so that is "
            "what was written.\n",
            w->bounds[check->rung].l1);
    else if (isnan(r->uniform_sparsity))
        say("One bound for all does not get down to that cosine on this ladder; give higher "
            "--rungs to compare.\n");
    else
        say("One bound for all gets %.1f %% at its cosine on the check samples (between rungs): "
            "%+.1f points.\n",
            100 * r->uniform_sparsity, 100 * (check->sparsity - r->uniform_sparsity));
    say("ladder %.1f s, sensitivity %.1f s, path %.1f s, uniform bounds %.1f s\n", w->tune_s,
        r->sensitivity_s, r->search_s, r->uniform_s);
}

/* Of the time, that tuning the rungs takes; measured on the bundled model by layer and by head. */
#define LADDER_SHARE .3

static enum status run(struct work *w)
{
    struct optimise_target target;
    struct str goal = {0};
    enum tune_rule rule;
    enum status st;
    if (!by_head() && strcmp(o.by, "layer") != 0)
        return fail(ERR_ARG, "--by: found \"%s\", expected layer or head", o.by);
    if (o.price && !by_stream() && strcmp(o.price, "alone") != 0)
        return fail(ERR_ARG, "--price: found \"%s\", expected alone or stream", o.price);
    TRY(tune_rule_parse(o.rule, &rule));
    TRY(parse_rungs(rule, w->bounds, &w->n_rungs));
    TRY_GOTO(st, done, read_target(&target, &goal));
    TRY_GOTO(st, done, setup_policy_to_tune(w->setup, &o.policy, &w->policy));
    TRY_GOTO(st, done, load_samples(w));
    progress_work_begin("optimise", 1, o.machine.quiet);
    progress_part("the ladder of thresholds", LADDER_SHARE);
    TRY_GOTO(st, done, tune_rungs(w, rule));
    progress_part("what each part costs, and the path", 1 - LADDER_SHARE);
    TRY_GOTO(st, done, search(w, &target));
    progress_work_end();
    TRY_GOTO(st, done, save(w, str_get(&goal)));
    print_table("cells", cell_table(w));
    print_table("path", walked_table(w, &target));
    print_verdict(w, &target, str_get(&goal));
done:
    progress_work_end();
    str_clear(&goal);
    return st;
}

static enum status optimise_command(struct command_call *call)
{
    enum status st = OK;
    struct setup setup = {0};
    struct work w = {.setup = &setup};
    cancel_install();
    TRY_GOTO(st, done, output_check(o.out));
    TRY_GOTO(st, done, setup_open(&setup, &o.machine, call->positional[0]));
    TRY_GOTO(st, done, store_open(&w.store, o.db, STORE_WRITE));
    st = run(&w);
done:
    for (int i = 0; i < MAX_RUNGS; i++) tuned_clear(&w.rungs[i]);
    tuned_clear(&w.chosen);
    optimise_clear(&w.result);
    free(w.samples);
    sample_set_clear(&w.all);
    policy_clear(&w.policy);
    setup_close(&setup);
    store_close(&w.store);
    return st;
}

const struct command cmd_optimise = {
    .name = "optimise",
    .summary = "search a bound per layer for the most sparsity that keeps a target",
    .help =
        {
            "optimise MODEL [--min-cosine .99] [--max-kl X] [--max-ppl-increase 1%] [options]",
            "Searches a bound for every layer or head, for the most sparsity that keeps an "
            "end-to-end target: tunes a ladder of bounds,\n"
            "runs one at a time sparse to see what it costs, walks the path of the cheapest steps, "
            "and takes what is sparsest on check\n"
            "samples, one bound for all included. Held-out samples judge it once. Prints the "
            "frontier it walked.",
            "sparsegauge optimise suites/demo/model --min-cosine .99 -o optimised.json\n"
            "sparsegauge optimise suites/demo/model --max-ppl-increase 1% --rule rmse\n"
            "sparsegauge optimise suites/demo/model --by head --rule both --max-kl .005",
            "min-cosine max-kl max-ppl-increase by suite output",
        },
    .options = options,
    .max_positional = 1,
    .run = optimise_command,
};

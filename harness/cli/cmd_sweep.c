#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "base/file.h"
#include "base/json.h"
#include "harness/measure/noise.h"
#include "harness/measure/progress.h"
#include "harness/cli/output.h"
#include "harness/sweep/plan_runs.h"
#include "harness/sweep/sweep_fleet.h"
#include "reports/attribution.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORST_UNSET = -1 };

static struct {
    struct machine_options machine;
    struct plan_axes axes;
    struct plan_settings settings;
    const char *db, *plan_file, *smooth_k, *tune_suite, *shard, *field;
    double min_sparsity, max_memory_gib;
    int n_tune, n_check, n_held_out, tune_length, min_sparse_tokens, n_worst;
    bool dry_run, retry_failed, replace, keep_tokens, keep_masks, noise_floor, recall;
} o = {
    .machine = MACHINE_DEFAULTS,
    .db = "sparsegauge.db",
    .settings = {.num_samples = PLAN_UNSET, .seed = PLAN_UNSET},
    .axes.repeat = PLAN_UNSET,
    .smooth_k = "running",
    .n_tune = 5,
    .n_check = 2,
    .n_held_out = 2,
    .min_sparsity = .1,
    .min_sparse_tokens = MIN_SPARSE_TOKENS,
    .n_worst = WORST_UNSET,
};

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR",
        "Hugging Face directory, instead of MODEL", 0, 0},
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"dry-run", OPTION_FLAG, &o.dry_run, NULL,
        "only say what would run, what is reused, memory and time", 0, 0},
    {"retry-failed", OPTION_FLAG, &o.retry_failed, NULL,
        "run cells again that failed or were skipped", 0, 0},
    {"replace", OPTION_FLAG, &o.replace, NULL, "run every cell again, also those that are stored",
        0, 0},
    {"shard", OPTION_TEXT, &o.shard, "I/N",
        "part I of N, from 1; auto/N for arrays; none (auto: Slurm steps, Open MPI, PMI)", 0, 0},
    {"name", OPTION_TEXT, &o.settings.name, "NAME",
        "of the plan in the database (made from the axes)", 0, 0},
    {"plan", OPTION_TEXT, &o.plan_file, "FILE", "a JSON file with axes", 0, 0},
    {"worst", OPTION_INT, &o.n_worst, "N",
        "keep the N tokens with the highest KL of every cell (20)", 0, 10000},
    {"keep-tokens", OPTION_FLAG, &o.keep_tokens, NULL, "keep a row per token (20 bytes each)", 0,
        0},
    {"keep-masks", OPTION_FLAG, &o.keep_masks, NULL,
        "keep block masks of every cell's first sample", 0, 0},
    {"recall", OPTION_FLAG, &o.recall, NULL,
        "also the attention mass that the kept tiles hold, and what choosing them takes", 0, 0},
    {"noise-floor", OPTION_FLAG, &o.noise_floor, NULL,
        "first run dense against dense; smaller differences then count as none", 0, 0},
    {"max-memory", OPTION_REAL, &o.max_memory_gib, "GIB",
        "cells that need more are skipped (what is free)", 0, 1e6},
    {"Axes: values joined by commas; first-last+step, first-last*factor", OPTION_GROUP, NULL, NULL,
        NULL, 0, 0},
    {"s|suite", OPTION_LIST, &o.axes.suite, "SPEC",
        "see `list suites`; once for each suite (chronicle)", 0, 0},
    {"max-length", OPTION_LIST, &o.axes.max_length, "TOKENS", "window lengths (2048)", 0, 0},
    {"m|method", OPTION_LIST, &o.axes.method, "NAMES",
        "see `list methods`; topk:.5, oracle:.5, window:1024 (sparge)", 0, 0},
    {"block", OPTION_LIST, &o.axes.block, "QxK", "128x64, 64x64, 64x128, 128x128 (128x64)", 0, 0},
    {"layers|layer-range", OPTION_LIST, &o.axes.layers, "WHICH",
        "all, 8-15, 0-3+12, each, all-but-each (all)", 0, 0},
    {"heads", OPTION_LIST, &o.axes.heads, "WHICH",
        "all, each, or numbers: one head of those layers (all)", 0, 0},
    {"qk", OPTION_LIST, &o.axes.qk, "TYPES", "operands of Q·K: full, int8, fp8 (full)", 0, 0},
    {"pv", OPTION_LIST, &o.axes.pv, "TYPES", "operands of P·V: full, fp8 (full)", 0, 0},
    {"rule", OPTION_LIST, &o.axes.rule, "NAMES",
        "what tuning bounds: l1, tail, cosine, rmse, both (l1)", 0, 0},
    {"l1", OPTION_LIST, &o.axes.l1, "X", "bounds of stage 1; tunes. Without: fixed thresholds", 0,
        0},
    {"pv-l1", OPTION_LIST, &o.axes.pv_l1, "X",
        "bounds of both stages, or l1+X for each l1 (l1+.01)", 0, 0},
    {"simthreshd1", OPTION_LIST, &o.axes.theta, "X", "fixed: a block is similar above this (.6)", 0,
        0},
    {"cdfthreshd", OPTION_LIST, &o.axes.tau, "X", "fixed: predicted mass to keep (.98)", 0, 0},
    {"pvthreshd", OPTION_LIST, &o.axes.lambda, "X",
        "fixed: skip P·V this far below the maximum, log2 (50)", 0, 0},
    {"repeat", OPTION_INT, &o.axes.repeat, "N", "every cell N times", 1, 1000},
    {"Same for all cells", OPTION_GROUP, NULL, NULL, NULL, 0, 0},
    {"num-samples", OPTION_INT, &o.settings.num_samples, "N",
        "at most so many (the suite's own default)", 0, 1 << 20},
    {"seed", OPTION_INT, &o.settings.seed, "N",
        "of generated samples, and of windows drawn from a file (0: spread evenly)", 0, 1 << 30},
    {"score", OPTION_TEXT, &o.settings.score, "HOW",
        "all, or second-half of each window as llama.cpp does (all)", 0, 0},
    {"field", OPTION_TEXT, &o.field, "A=B,…", "other names of JSON keys", 0, 0},
    {"smooth-k", OPTION_TEXT, &o.smooth_k, "HOW", "running, global or off (running)", 0, 0},
    {"min-sparse-tokens", OPTION_INT, &o.min_sparse_tokens, "N",
        "shorter sequences run dense (256)", 1, 1 << 20},
    {"tune-suite", OPTION_TEXT, &o.tune_suite, "SPEC", "tune on this (each cell's own suite)", 0,
        0},
    {"tune-length", OPTION_INT, &o.tune_length, "TOKENS", "tune at this length (each cell's own)",
        256, 1 << 20},
    {"num-tune-samples", OPTION_INT, &o.n_tune, "N", "samples to choose on (5)", 1, 1000},
    {"check", OPTION_INT, &o.n_check, "N",
        "further samples that the bound must hold on, or else is backed off (2)", 0, 1000},
    {"held-out", OPTION_INT, &o.n_held_out, "N",
        "yet other samples, on which heads over their bound are counted (2)", 0, 1000},
    {"min-sparsity", OPTION_REAL, &o.min_sparsity, "X", "heads under it stay dense (.1)", 0, 1},
    MACHINE_OPTIONS(o.machine),
    {"parallel", OPTION_FLAG, &o.machine.parallel, NULL, "with --device cuda: all GPUs", 0, 0},
    {0},
};

/* The axes as JSON: names the plan, and is kept with it. */
static char *axes_text(const char *model_name)
{
    const struct {
        const char *name;
        const struct text_list *list;
    } lists[] = {
        {"suite", &o.axes.suite},
        {"max_length", &o.axes.max_length},
        {"method", &o.axes.method},
        {"block", &o.axes.block},
        {"layers", &o.axes.layers},
        {"heads", &o.axes.heads},
        {"rule", &o.axes.rule},
        {"l1", &o.axes.l1},
        {"pv_l1", &o.axes.pv_l1},
        {"simthreshd1", &o.axes.theta},
        {"cdfthreshd", &o.axes.tau},
        {"pvthreshd", &o.axes.lambda},
        {"qk", &o.axes.qk},
        {"pv", &o.axes.pv},
    };
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "model", model_name);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        if (!lists[i].list->n) continue;
        cJSON *a = cJSON_AddArrayToObject(root, lists[i].name);
        for (int k = 0; k < lists[i].list->n; k++)
            cJSON_AddItemToArray(a, cJSON_CreateString(lists[i].list->items[k]));
    }
    cJSON_AddNumberToObject(root, "num_samples", o.settings.num_samples);
    cJSON_AddNumberToObject(root, "seed", o.settings.seed);
    cJSON_AddStringToObject(root, "score", o.settings.score);
    if (o.machine.bos && strcmp(o.machine.bos, "tokenizer") != 0)
        cJSON_AddStringToObject(root, "bos", o.machine.bos);
    if (o.machine.chat) cJSON_AddStringToObject(root, "chat", o.machine.chat);
    cJSON_AddNumberToObject(root, "repeat", o.axes.repeat);
    char *text = cJSON_PrintUnformatted(root), *out = str_dup(text);
    cJSON_free(text);
    cJSON_Delete(root);
    return out;
}

static void show_event(void *ctx, const struct sweep_event *e)
{
    (void)ctx;
    if (o.machine.quiet && !e->problem) return;
    struct str line = {0};
    if (e->kind == SWEEP_CELL) str_addf(&line, "[%d/%d] %s", e->n_finished, e->n, e->text);
    else
        str_addf(&line, "%s%s",
            e->kind == SWEEP_TUNED       ? "tuned: "
                : e->kind == SWEEP_DENSE ? "dense: "
                                         : "waiting: ",
            e->text);
    if (e->problem) {
        str_addf(&line, ": %s", e->problem);
    } else if (e->kind == SWEEP_CELL) {
        str_addf(&line, ": %.1f %% sparse", 100 * e->sparsity);
        if (!isnan(e->cosine))
            str_addf(
                &line, ", cosine %.4f, KL %.4g", e->cosine, e->kl); /* a cell of times has none */
    }
    if (e->seconds > 0) str_addf(&line, ", %.2f s", e->seconds);
    progress_hide();
    if (for_people()) say("%s\n", str_get(&line));
    else fprintf(stderr, "%s\n", str_get(&line));
    str_clear(&line);
}

static void seconds_add(const char *before, double seconds, struct str *out)
{
    str_add(out, before);
    number_format(seconds < 7200 ? NUMBER_SECONDS : NUMBER_FIXED, seconds < 120 ? 1 : 0,
        seconds < 7200 ? seconds : seconds / 3600, out);
    if (seconds >= 7200) str_add(out, " h");
}

/* The cells with their states, for people and programs. */
static struct table *planned_table(const struct sweep *s)
{
    static const char *const names[] = {"cell", "state", "key", "problem"};
    struct table *t = table_new(NULL);
    for (int i = 0; i < 4; i++)
        table_add_column(t,
            (struct table_column){.name = names[i], .audience = i == 3 ? FOR_PROGRAMS : FOR_ALL});
    for (int i = s->first; i < s->end; i++) {
        const struct sweep_cell *x = &s->cells[i];
        struct str text = {0};
        plan_cell_describe(x->cell, &text);
        const char *problem = s->data[x->data].problem;
        if (!problem && x->group >= 0) problem = s->groups[x->group].problem;
        if (x->settled) problem = NULL;
        char key[13];
        snprintf(key, sizeof key, "%.12s", x->run.key);
        table_text(t, str_get(&text));
        if (problem) {
            str_addf(&text, " — will fail: %s", problem);
            table_show(t, str_get(&text));
        }
        table_text(t, cell_state_name(x->state));
        table_text(t, x->run.key);
        table_show(t, key);
        table_text(t, problem);
        str_clear(&text);
    }
    return t;
}

static enum status print_dry_run(const struct sweep *s)
{
    struct sweep_estimate e = sweep_estimate(s);
    int shard_cells = s->end - s->first;
    double flops = NAN, total = e.dense_flop + e.cells_flop + e.tune_flop;
    struct str line = {0};
    print_table("cells", planned_table(s));
    if (e.n_run) TRY(sweep_probe(s->a.setup, s->a.machine->impl, &flops));
    struct table *t = table_new(NULL);
    field_text(t, "plan", NULL, s->a.name);
    field_count(t, "n_cells", NULL, shard_cells);
    field_count(t, "n_run", NULL, e.n_run);
    field_count(t, "n_done", NULL, e.n_done);
    field_count(t, "n_failed", NULL, e.n_failed);
    field_count(t, "n_skipped", NULL, e.n_skipped);
    field_count(t, "n_stale", NULL, e.n_stale);
    field_count(t, "n_elsewhere", NULL, e.n_elsewhere);
    field_count(t, "n_dense_passes", NULL, e.n_dense_passes);
    field_count(t, "n_tunings", NULL, e.n_tunings);
    field_count(t, "peak_bytes", NULL, (int64_t)e.bytes);
    field_count(t, "peak_device_bytes", NULL, e.device_bytes ? (int64_t)e.device_bytes : -1);
    field_real(t, "free_bytes", NULL, sweep_free_bytes(s), NUMBER_BYTES, 1);
    field_real(t, "estimated_s", NULL, e.n_run ? total / flops : 0, NUMBER_SECONDS, 1);
    field_real(t, "estimated_tuning_s", NULL, e.n_run ? e.tune_flop / flops : 0, NUMBER_SECONDS, 1);
    field_real(
        t, "estimated_separate_s", NULL, e.n_run ? e.separate_flop / flops : 0, NUMBER_SECONDS, 1);
    data_object("estimate", t);
    str_addf(&line, "\n%d cells", s->n);
    if (s->a.shard.count > 1) str_addf(&line, ", %d of them in this part", shard_cells);
    str_addf(&line, ": %d would run, %d are done", e.n_run, e.n_done);
    if (e.n_failed) str_addf(&line, ", %d failed before", e.n_failed);
    if (e.n_skipped) str_addf(&line, ", %d were skipped before", e.n_skipped);
    if (e.n_stale) str_addf(&line, ", %d are stale and would run", e.n_stale);
    if (e.n_elsewhere) str_addf(&line, ", %d run elsewhere", e.n_elsewhere);
    say("%s\n", str_get(&line));
    str_reset(&line);
    if (!e.n_run) goto done;
    say("shared: %d dense passes, residual streams at %d layers, %d tunings\n", e.n_dense_passes,
        e.n_streams, e.n_tunings);
    say("memory: %.2f GiB beside the weights, %.2f GiB are free\n", (double)e.bytes / 0x1p30,
        sweep_free_bytes(s) / 0x1p30);
    if (e.device_bytes) {
        struct weights_device_info device;
        size_t free_bytes, device_total;
        weights_device_describe(&s->a.setup->model.weights, &device);
        TRY(weights_device_memory(&s->a.setup->model.weights, &free_bytes, &device_total));
        say("device: %.2f GiB beside the weights, %s has %.2f of %.2f GiB free%s\n",
            (double)e.device_bytes / 0x1p30, device.gpu, (double)free_bytes / 0x1p30,
            (double)device_total / 0x1p30,
            e.device_bytes > free_bytes ? ": cells that do not fit will be skipped" : "");
    }
    seconds_add("time: about ", total / flops, &line);
    seconds_add(" (tuning ", e.tune_flop / flops, &line);
    seconds_add("), as single runs about ", e.separate_flop / flops, &line);
    say("%s; from %.3g GFLOP/s in a short dense prefill, work that sparsity saves not taken off\n",
        str_get(&line), flops * 1e-9);
done:
    str_clear(&line);
    return OK;
}

static enum status print_results(struct store *store, const char *plan)
{
    struct run_list runs;
    struct attribution *rows = NULL;
    size_t n = 0, n_violations = 0;
    TRY(plan_runs(store, &(struct run_filter){.plan = plan}, &runs));
    enum status st = OK;
    if (runs.n && (runs.n <= 200 || !for_people())) print_table("runs", runs_table(&runs));
    else if (runs.n) say("\n%zu runs: `list`, `frontier` and `best` show them\n", runs.n);
    st = attribution_find(&runs, &rows, &n);
    if (st == OK && n) print_table("attribution", attribution_table(rows, n));
    if (st == OK) {
        struct table *t = monotonicity_table(&runs, &n_violations);
        if (table_rows(t)) print_table("monotonicity", t);
        else table_free(&t);
        if (n_violations)
            say("%zu times a tighter bound gave a lower cosine beyond noise\n", n_violations);
    }
    free(rows);
    run_list_clear(&runs);
    return st;
}

/* Null runs on the first data set that has samples. */
static enum status measure_noise(struct sweep *s, struct store *store)
{
    struct noise_result r;
    int i = 0;
    while (i < s->n_data && s->data[i].problem) i++;
    if (i == s->n_data) return fail(ERR_ARG, "--noise-floor: no suite of this sweep has samples");
    TRY(noise_measure(s->a.setup, &o.machine, &s->data[i].set, cancel_requested, &r));
    TRY(noise_store(store, &r));
    if (o.machine.quiet || !for_people()) return OK;
    static const char *const names[] = {"null run", "metric", "floor"},
                             *const keys[] = {"source", "metric", "floor"};
    struct table *t = table_new("Dense against dense: the largest difference of any sample");
    for (int k = 0; k < 3; k++)
        table_add_column(t,
            (struct table_column){
                .name = names[k], .key = keys[k], .number = NUMBER_SHORT, .digits = 3});
    for (int k = 0; k < r.n; k++) {
        const char *metric = r.rows[k].metric;
        if (strcmp(metric, "cosine") && strcmp(metric, "kl") && strcmp(metric, "ppl_ratio") &&
            strcmp(metric, "logits_l1"))
            continue;
        table_text(t, r.rows[k].source);
        table_text(t, metric);
        table_real(t, r.rows[k].value);
    }
    for (int k = 0; k < NOISE_SOURCES; k++)
        if (r.skipped[k][0]) table_note(t, r.skipped[k]);
    print_table("noise", t);
    return OK;
}

/* "results.db", part 2 of 4: "results.2-of-4.db". Parts write files of their own, since a database
 * on a network disk is no meeting place. */
static char *shard_db(const struct shard *shard)
{
    if (shard->count == 1) return str_dup(o.db);
    const char *dot = strrchr(o.db, '.');
    size_t stem = dot && !strchr(dot, '/') ? (size_t)(dot - o.db) : strlen(o.db);
    return str_format(
        "%.*s.%d-of-%d%s", (int)stem, o.db, shard->index + 1, shard->count, o.db + stem);
}

static enum status parse_smooth_k(const char *text, enum smooth_k *out)
{
    if (smooth_k_parse(text, out)) return OK;
    return fail(ERR_ARG, "--smooth-k: found \"%s\", expected running, global or off", text);
}

static void print_summary(const struct sweep *s, const char *db)
{
    struct table *t = table_new(NULL);
    field_text(t, "plan", NULL, s->a.name);
    field_text(t, "db", NULL, db);
    field_count(t, "n_run", NULL, s->n_done);
    field_count(t, "n_reused", NULL, s->n_reused);
    field_count(t, "n_failed", NULL, s->n_failed);
    field_count(t, "n_skipped", NULL, s->n_skipped);
    field_count(t, "n_tunings", NULL, s->n_tunings);
    field_count(t, "n_curves_made", NULL, s->n_curves);
    field_count(t, "n_curves_reused", NULL, s->n_curves_reused);
    field_count(t, "n_twins", NULL, s->n_twins);
    field_real(t, "dense_s", NULL, s->dense_s, NUMBER_SECONDS, 2);
    field_real(t, "tune_s", NULL, s->tune_s, NUMBER_SECONDS, 2);
    field_real(t, "cells_s", NULL, s->cells_s, NUMBER_SECONDS, 2);
    data_object("sweep", t);
    struct str line = {0};
    str_addf(&line, "\nplan %s in %s: %d run, %d reused, %d failed, %d skipped", s->a.name, db,
        s->n_done, s->n_reused, s->n_failed, s->n_skipped);
    if (s->dense_s > 0) str_addf(&line, "; dense passes %.2f s", s->dense_s);
    if (s->n_tunings)
        str_addf(&line, "; %d tunings %.2f s (%d curves made, %d reused)", s->n_tunings, s->tune_s,
            s->n_curves, s->n_curves_reused);
    if (s->n_done) str_addf(&line, "; cells %.2f s", s->cells_s);
    if (s->n_twins) str_addf(&line, ", %d of them with the thresholds of another", s->n_twins);
    say("%s\n", str_get(&line));
    str_clear(&line);
}

/* The sweep itself, in a process that may crash. *partial: cells of this part have no result. */
static enum status work(
    const struct setup *fleet, int n_fleet, struct sweep_watch *watch, bool *partial)
{
    const struct setup *setup = &fleet[0];
    struct shard shard;
    struct store *store = NULL;
    struct dense_cache cache = {0};
    struct plan plan = {0};
    struct sweep s = {0};
    char *db = NULL, *axes = NULL, name[64];
    enum smooth_k smooth_k;
    enum status st;
    *partial = false;
    TRY(shard_detect(o.shard, &shard));
    TRY(parse_smooth_k(o.smooth_k, &smooth_k));
    const struct llama_config *c = &setup->model.weights.config;
    TRY_GOTO(st, done, plan_expand(&o.axes, c->n_layers, c->n_heads, &plan));
    if (!watch->n_crashes && !o.machine.quiet) {
        if (plan.n_pruned)
            fprintf(stderr, "sparsegauge: %d cells with pv_l1 not above l1 were left out\n",
                plan.n_pruned);
        if (plan.n_duplicate)
            fprintf(stderr, "sparsegauge: %d cells were equal to others and left out\n",
                plan.n_duplicate);
        if (shard.source)
            fprintf(stderr, "sparsegauge: part %d of %d (%s)\n", shard.index + 1, shard.count,
                shard.source);
    }
    db = shard_db(&shard);
    axes = axes_text(setup->model.name);
    struct hash h;
    char hex[HASH_HEX_SIZE];
    hash_init(&h);
    hash_add_str(&h, axes);
    snprintf(name, sizeof name, "sweep-%.8s", hash_hex(&h, hex));
    bool unwritten = o.dry_run && !file_exists(db); /* a dry run leaves nothing behind */
    TRY_GOTO(st, done,
        store_open(&store, db,
            unwritten       ? STORE_SCRATCH
                : o.dry_run ? STORE_READ
                            : STORE_WRITE));
    TRY_GOTO(st, done, dense_cache_open(&cache, o.machine.cache));
    struct cell_settings settings = cell_defaults;
    settings.num_samples = o.settings.num_samples;
    settings.seed = o.settings.seed;
    settings.score = o.settings.score;
    settings.keep_tokens = o.keep_tokens;
    /* ten thousand cells at once, whose masks may take more than all else */
    settings.keep_masks = o.keep_masks;
    settings.recall = o.recall;
    if (o.n_worst != WORST_UNSET) settings.n_worst = o.n_worst;
    TRY_GOTO(st, done,
        sweep_open(&s,
            &(struct sweep_args){.setup = setup,
                .store = store,
                .cache = &cache,
                .plan = &plan,
                .machine = &o.machine,
                .name = o.settings.name ? o.settings.name : name,
                .plan_json = axes,
                .settings = settings,
                .field = o.field,
                .smooth_k = smooth_k,
                .min_sparse_tokens = o.min_sparse_tokens,
                .tune_suite = o.tune_suite,
                .n_tune = o.n_tune,
                .n_check = o.n_check,
                .n_held_out = o.n_held_out,
                .tune_length = o.tune_length,
                .min_sparsity = o.min_sparsity,
                .shard = shard,
                .retry_failed = o.retry_failed,
                .replace = o.replace,
                .max_memory = o.max_memory_gib * 0x1p30,
                .watch = watch,
                .event = show_event,
                .stop = cancel_requested}));
    if (s.n_fewer_worst && o.n_worst != WORST_UNSET && !o.machine.quiet)
        fprintf(stderr,
            "sparsegauge: %d stored cells have fewer than %d worst tokens; --replace runs them "
            "again\n",
            s.n_fewer_worst, o.n_worst);
    if (o.dry_run) {
        st = print_dry_run(&s);
        goto done;
    }
    if (s.n_data) TRY_GOTO(st, done, setup_note_offload(s.a.setup, &o.machine, &s.data[0].set, 1));
    if (o.noise_floor && !watch->n_crashes) TRY_GOTO(st, done, measure_noise(&s, store));
    struct sweep_estimate e = sweep_estimate(&s);
    progress_work_begin("sweep", e.dense_flop + e.cells_flop + e.tune_flop, o.machine.quiet);
    st = n_fleet > 1 ? sweep_run_fleet(&s, fleet, n_fleet, db) : sweep_run(&s);
    progress_work_end();
    if (st != OK) goto done;
    setup_note_brought(fleet, n_fleet, &o.machine);
    print_summary(&s, db);
    st = print_results(store, s.a.name);
    for (int i = s.first; i < s.end && st == OK; i++) {
        enum cell_state state;
        st = query_cell(store, s.cells[i].run.key, s.cells[i].run.slot, &state);
        *partial |= st == OK && state != CELL_DONE;
    }
done:
    sweep_close(&s);
    plan_clear(&plan);
    if (!o.machine.quiet) note_cache(&cache);
    dense_cache_close(&cache);
    store_close(&store);
    free(db);
    free(axes);
    return st;
}

enum {
    EXIT_DEVICE =
        75, /* between the two processes only: the device failed, a fresh process may go on */
    MOST_DEVICES = 8 /* and does so this many times */
};

static int run_worker(const char *positional, struct sweep_watch *watch)
{
    struct setup *fleet = NULL;
    int n = 0;
    bool partial = false;
    sweep_watch_install(watch);
    sweep_watch_begin(0);
    enum status st = setup_open_fleet(&fleet, &n, &o.machine,
        positional            ? positional
            : o.machine.model ? NULL
                              : o.settings.model);
    bool opened = st == OK;
    if (st == OK) st = work(fleet, n, watch, &partial);
    setup_close_fleet(&fleet, &n);
    if (st == ERR_DEVICE && opened) return report_failure(st), EXIT_DEVICE;
    if (st == ERR_CANCELLED)
        st = fail(st,
            "stopped on request; what is stored is kept, and the same command goes on from here");
    int code = st != OK ? report_failure(st) : partial ? EXIT_RUN : EXIT_PASS;
    output_end(st, code);
    if (st != OK) return code;
    if (partial)
        fprintf(stderr,
            "sparsegauge: partial: some cells have no result; `status` lists them, --retry-failed "
            "runs "
            "them again\n");
    return code;
}

/* The cells run in a child process: one that crashes takes the child along, becomes a row, and the
 * next child goes on. */
static int supervise(const char *positional)
{
    struct sweep_watch *watch =
        mmap(NULL, sizeof *watch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (watch == MAP_FAILED)
        return report_failure(
            fail(ERR_MEMORY, "no memory to watch over a sweep: %s", strerror(errno)));
    memset(watch, 0, sizeof *watch);
    cancel_watch_begin();
    cancel_install();
    for (int n_devices = 0;;) {
        sweep_watch_reset(watch);
        pid_t parent = getpid(), worker = fork();
        if (worker < 0)
            return report_failure(fail(ERR_IO, "cannot start a process: %s", strerror(errno)));
        if (worker == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL); /* no orphan goes on where nobody watches */
            if (getppid() != parent) _exit(EXIT_RUN);
            cancel_child();
            _exit(finish_output(run_worker(positional, watch)));
        }
        int status = cancel_wait(worker);
        bool cancelled = cancel_requested(NULL);
        if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_DEVICE && !cancelled) {
            if (++n_devices > MOST_DEVICES)
                return report_failure(fail(ERR_DEVICE,
                    "the device failed %d times; what is stored is kept, and the same command goes "
                    "on from here",
                    n_devices));
            fprintf(stderr, "sparsegauge: the device is opened again, and the sweep goes on\n");
            continue;
        }
        if (WIFEXITED(status)) /* a child that was told by us knows no signal of its own */
            return cancelled && WEXITSTATUS(status) > 128 ? cancel_exit_code()
                                                          : WEXITSTATUS(status);
        int number = WTERMSIG(status);
        if (cancelled && number == SIGKILL)
            return report_failure(fail(ERR_CANCELLED,
                "stopped at once; what is stored is kept, and the same command goes on"));
        if (cancelled || !sweep_watch_blame(watch, number))
            return report_failure(fail(ERR_IO,
                "the sweep ended by signal %d (%s) outside of any cell; what is stored is kept",
                number, strsignal(number)));
    }
}

static enum status sweep_command(struct command_call *call)
{
    struct arena *arena = NULL;
    enum status st = OK;
    struct str beaten = {0};
    enum smooth_k smooth_k;
    if (call->positional[0] && o.machine.model && strcmp(call->positional[0], o.machine.model) != 0)
        st = fail(ERR_ARG, "MODEL is %s and --model is %s: name one", call->positional[0],
            o.machine.model);
    if (st == OK && o.settings.name && !*o.settings.name)
        st = fail(ERR_ARG, "--name: found an empty text");
    if (st == OK && o.plan_file) st = plan_read(o.plan_file, &o.axes, &o.settings, &arena, &beaten);
    if (st == OK && beaten.len && !o.machine.quiet)
        fprintf(stderr, "sparsegauge: %s of the command line, not of %s\n", str_get(&beaten),
            o.plan_file);
    str_clear(&beaten);
    if (o.axes.repeat == PLAN_UNSET) o.axes.repeat = 0;
    if (o.settings.num_samples == PLAN_UNSET) o.settings.num_samples = 0;
    if (o.settings.seed == PLAN_UNSET) o.settings.seed = 0;
    if (!o.settings.score) o.settings.score = "all";
    /* what makes no sense is told before work starts */
    if (st == OK) st = setup_check_score(o.settings.score);
    if (st == OK) st = parse_smooth_k(o.smooth_k, &smooth_k);
    if (st == OK && o.tune_suite) st = suite_check(o.tune_suite);
    for (int i = 0; i < o.axes.suite.n && st == OK; i++) st = suite_check(o.axes.suite.items[i]);
    bool fields = false;
    for (int i = 0; i < o.axes.suite.n; i++) fields |= suite_reads_fields(o.axes.suite.items[i]);
    if (st == OK && o.field && !fields && !suite_reads_fields(o.tune_suite ? o.tune_suite : ""))
        st = fail(ERR_ARG,
            "--field %s: no suite of this sweep reads JSON; it goes with text, cloze and choice",
            o.field);
    if (st == OK) call->code = supervise(call->positional[0]);
    if (st == OK) output_drop(); /* the worker has printed it */
    arena_free(&arena);
    return st;
}

const struct command cmd_sweep = {
    .name = "sweep",
    .summary = "every combination of settings, resumable, shared among processes",
    .help =
        {
            "sweep MODEL [axes] [options]",
            "Runs every combination of the axes and stores each as soon as it is done. Run again, "
            "it fills what is "
            "missing: cells\n"
            "that are stored are reused, one that fails becomes a row with its reason, and several "
            "processes may share "
            "the work,\n"
            "on one database or sharded. Exit code 3: some cells have no result.",
            "sparsegauge sweep suites/demo/model --l1 .04-.10+.02 --pv-l1 l1+.01,l1+.02 --layers "
            "4-7,all --max-length "
            "1024-4096*2\n"
            "sparsegauge sweep suites/demo/model --layers each,all-but-each,all --method topk:.3\n"
            "sparsegauge sweep llama-3.2-1b --plan grid.json --dry-run",
            "l1 pv-l1 layers max-length suite dry-run",
        },
    .options = options,
    .max_positional = 1,
    .run = sweep_command,
};

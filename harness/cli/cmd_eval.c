#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "harness/measure/cell.h"
#include "harness/measure/devices.h"
#include "harness/measure/noise.h"
#include "harness/measure/progress.h"
#include "harness/cli/output.h"
#include "harness/cli/summary.h"
#include "reports/runjson.h"
#include "results/arithmetic.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORST_UNSET = -1 };

static struct {
    struct machine_options machine;
    struct sample_options samples;
    struct policy_options policy;
    const char *db, *json, *stats;
    bool generate, keep_tokens, attribution, replace, apart, details;
    int n_worst;
} o = {
    .machine = MACHINE_DEFAULTS,
    .samples = SAMPLE_DEFAULTS,
    .policy = POLICY_DEFAULTS,
    .db = "sparsegauge.db",
    .n_worst = WORST_UNSET,
};

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR",
        "Hugging Face directory, instead of MODEL", 0, 0},
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"o|output", OPTION_TEXT, &o.json, "FILE", "also write before_tune.json or after_tune.json", 0,
        0},
    {"stats-out|stats-out-path", OPTION_TEXT, &o.stats, "FILE",
        "also write per-layer statistics as JSON", 0, 0},
    {"generate", OPTION_FLAG, &o.generate, NULL,
        "continue the guide's three prompts, dense and sparse", 0, 0},
    {"worst", OPTION_INT, &o.n_worst, "N", "keep the N tokens with the highest KL (20)", 0, 10000},
    {"keep-tokens", OPTION_FLAG, &o.keep_tokens, NULL, "keep a row per token (20 bytes each)", 0,
        0},
    {"attribution", OPTION_FLAG, &o.attribution, NULL,
        "errors by layer and head, and the attention mass kept: four more passes over every sample",
        0, 0},
    {"apart", OPTION_FLAG, &o.apart, NULL,
        "with --qk or --pv: also precision alone and sparsity alone, two more runs", 0, 0},
    {"replace", OPTION_FLAG, &o.replace, NULL, "run again even when this cell is stored", 0, 0},
    {"details", OPTION_FLAG, &o.details, NULL,
        "print everything that is stored, as `show` does, not only what was lost", 0, 0},
    SAMPLE_OPTIONS(o.samples),
    POLICY_OPTIONS(o.policy),
    MACHINE_OPTIONS(o.machine),
    {"parallel", OPTION_FLAG, &o.machine.parallel, NULL,
        "with --device cuda: all GPUs share the samples", 0, 0},
    GRAPH_OPTIONS(o.machine),
    {0},
};

/* What a tuned file's bounds are worth on this text, where attribution measured it. */
static void print_over_bound(const struct run_view *v)
{
    const struct metric_record *share = metric_list_find(&v->metrics, "overall", "over_bound"),
                               *heads =
                                   metric_list_find(&v->metrics, "overall", "over_bound_heads"),
                               *texts =
                                   metric_list_find(&v->metrics, "overall", "over_bound_texts"),
                               *worst =
                                   metric_list_find(&v->metrics, "overall", "over_bound_worst");
    if (!share || !heads || !texts || !worst) return;
    say("bounds on this text: %.1f %% of %lld pairs of a head and a text are over theirs (95 %% "
        "interval %.1f to %.1f %%): %.0f of %lld "
        "heads, %.0f of %lld texts, the worst at %.2f x its bound\n",
        100 * share->mean, (long long)share->n, 100 * share->lo, 100 * share->hi, heads->mean,
        (long long)heads->n, texts->mean, (long long)texts->n, worst->mean);
}

/* A stored run may be older than others, and so is a new one beside one of a clock that is ahead.
 */
static void say_last(struct store *store, const struct run_record *shown)
{
    struct run_list last;
    if (query_run(store, "last", &last) != OK) return;
    if (last.rows[0].id != shown->id)
        say("\"last\" is run %lld, which ended later: name this one, e.g. gate %lld\n",
            (long long)last.rows[0].id, (long long)shown->id);
    run_list_clear(&last);
}

static void say_stored(const struct run_record *stored, const struct run_record *asked)
{
    struct str other = {0};
    say("run %lld is stored already with these settings, on these tokens; --replace runs it "
        "again\n",
        (long long)stored->id);
    if (arithmetic_differs(stored, asked, &other))
        say("it was computed with other arithmetic than here (%s), so that last digits may "
            "differ\n",
            str_get(&other));
    say("\n");
    str_clear(&other);
}

static enum status show_run(struct store *store, const struct cell_result *cell)
{
    struct run_view view;
    TRY(run_view_load(&view, store, cell->key));
    progress_hide();
    if (cell->end == CELL_REUSED) say_stored(view.run, &cell->data.run);
    say_last(store, view.run);
    print_run(&view, o.db, o.details);
    print_over_bound(&view);
    if (o.generate && for_people() && !o.details && view.generations.n)
        print_table("generations", generations_table(&view));
    enum status st = OK;
    if (o.json) st = runjson_write(&view, o.json);
    if (st == OK && o.json) say("wrote %s\n", o.json);
    if (st == OK && o.stats) st = runjson_write_stats(&view, o.stats);
    run_view_clear(&view);
    return st;
}

/* What was done to the input is said, never silent. */
static void note_input(const struct sample_set *set)
{
    if (set->n_replaced)
        fprintf(stderr, "sparsegauge: %s: %zu invalid UTF-8 sequences became U+FFFD\n", set->shown,
            set->n_replaced);
    if (set->n_skipped)
        fprintf(stderr, "sparsegauge: %s: %lld documents were too short\n", set->shown,
            (long long)set->n_skipped);
    if (set->n_ambiguous)
        fprintf(stderr,
            "sparsegauge: %s: %d answers are digits that name one choice by its place and another "
            "by its text; the place "
            "was taken, as lm-evaluation-harness does\n",
            set->shown, set->n_ambiguous);
    if (set->n_repeated)
        fprintf(stderr,
            "sparsegauge: %s: %d windows or questions repeat an earlier one in whole or in part; "
            "each is counted once\n",
            set->shown, set->n_repeated);
    if (set->n_truncated)
        fprintf(stderr, "sparsegauge: %s: %lld contexts were cut to --max-length\n", set->shown,
            (long long)set->n_truncated);
}

/* The same of prompts and right answers. */
static void note_prompts(const struct sample_set *set)
{
    if (set->n_over_budget)
        fprintf(stderr,
            "sparsegauge: %s: %d right answers need more tokens than may be written with this "
            "tokenizer, so they cannot be written whole\n",
            set->shown, set->n_over_budget);
    if (set->n_too_long)
        fprintf(stderr,
            "sparsegauge: %s: %d prompts are longer than --max-length and were left out\n",
            set->shown, set->n_too_long);
    if (set->n_other_length)
        fprintf(stderr,
            "sparsegauge: %s: %d samples say a length that is not theirs with this tokenizer (more "
            "than 2 %% off): they were prepared for another one\n",
            set->shown, set->n_other_length);
}

static int longest_sample(const struct sample_set *set)
{
    int longest = 0;
    for (int i = 0; i < set->n_samples; i++)
        longest = set->samples[i].n > longest ? set->samples[i].n : longest;
    return longest;
}

static void note_lengths(const struct sample_set *set, const struct llama_config *c)
{
    int longest = longest_sample(set);
    if (longest > c->max_position)
        fprintf(stderr,
            "sparsegauge: samples of %d tokens, the model was made for %d: its dense side is out "
            "of its depth too\n",
            longest, c->max_position);
    if (longest < o.samples.max_length && strcmp(set->suite, "text") == 0)
        fprintf(stderr, "sparsegauge: %s: the longest window has %d tokens, %d were asked for\n",
            set->shown, longest, o.samples.max_length);
}

/* The suite `null`: what differs between dense runs that should not differ is the floor under every
 * other difference. */
static enum status measure_noise(
    const struct setup *setup, struct store *store, const struct sample_set *set)
{
    struct noise_result r;
    TRY(noise_measure(setup, &o.machine, set, cancel_requested, &r));
    TRY(noise_store(store, &r));
    struct table *t = table_new(NULL);
    table_add_column(
        t, (struct table_column){.name = "dense against dense, other", .key = "source"});
    table_add_column(t, (struct table_column){.name = "metric"});
    table_add_column(t,
        (struct table_column){
            .name = "largest distance", .key = "floor", .number = NUMBER_SHORT, .digits = 3});
    for (int i = 0; i < r.n; i++) {
        table_text(t, r.rows[i].source);
        table_text(t, r.rows[i].metric);
        table_real(t, r.rows[i].value);
    }
    for (int i = 0; i < NOISE_SOURCES; i++)
        if (r.skipped[i][0]) table_note(t, r.skipped[i]);
    table_note(t,
        "Stored as this machine's noise floor for this model: smaller differences print as within "
        "it.");
    print_table("noise", t);
    return OK;
}

/* Two runs side by side, and what separates the devices. */
static enum status print_parity(
    struct store *store, const struct cell_result cells[2], const struct parity_result *p)
{
    static const char *const both[] = {"sparsity", "cosine", "kl", "ppl_dense", "ppl_sparse"};
    struct run_view views[2];
    struct table *t = table_new(NULL);
    enum status st = run_view_load(&views[0], store, cells[0].key);
    if (st != OK) {
        table_free(&t);
        return st;
    }
    if ((st = run_view_load(&views[1], store, cells[1].key)) != OK) {
        run_view_clear(&views[0]);
        table_free(&t);
        return st;
    }
    table_add_column(t, (struct table_column){.name = "what", .key = "name"});
    table_add_column(t, (struct table_column){.name = "CPU", .number = NUMBER_SHORT, .digits = 5});
    table_add_column(t, (struct table_column){.name = "GPU", .number = NUMBER_SHORT, .digits = 5});
    table_add_column(
        t, (struct table_column){.name = "GPU - CPU", .number = NUMBER_SHORT, .digits = 3});
    table_add_column(
        t, (struct table_column){.name = "GPU against CPU", .number = NUMBER_SHORT, .digits = 4});
    for (size_t i = 0; i < sizeof both / sizeof *both; i++) {
        double cpu = run_view_metric(&views[0], both[i]), gpu = run_view_metric(&views[1], both[i]);
        if (isnan(cpu) || isnan(gpu)) continue;
        table_text(t, both[i]);
        table_show(t, metric_info(both[i])->label);
        table_real(t, cpu);
        table_real(t, gpu);
        table_real(t, gpu - cpu);
        table_missing(t);
    }
    const struct {
        const char *key, *what;
        double value;
    } rows[] = {
        {"cpu_mask_jaccard", "tiles chosen alike: mask Jaccard, mean over layers and heads",
            p->masks.n ? p->masks.sum / (double)p->masks.n : NAN},
        {"cpu_mask_jaccard_min", "the same, the worst", p->masks.n ? p->masks.min : NAN},
        {"cpu_logits_error_dense", "dense logits: relative error", p->logits_error[0]},
        {"cpu_logits_error_sparse", "sparse logits: relative error", p->logits_error[1]},
        {"cpu_top1_dense", "dense: same most likely token", p->top1[0]},
        {"cpu_top1_sparse", "sparse: same most likely token", p->top1[1]},
        {"cpu_kl_dense", "dense: KL divergence from the CPU, nats", p->kl[0]},
        {"cpu_kl_sparse", "sparse: KL divergence from the CPU, nats", p->kl[1]},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (isnan(rows[i].value)) continue;
        table_text(t, rows[i].key);
        table_show(t, rows[i].what);
        for (int k = 0; k < 3; k++) table_missing(t);
        table_real(t, rows[i].value);
    }
    char note[160];
    snprintf(note, sizeof note,
        "Stored as run %lld (CPU) and run %lld (GPU), with these differences; logits of both "
        "states through one head.",
        (long long)views[0].run->id, (long long)views[1].run->id);
    table_note(t, note);
    for (int i = 0; i < 2; i++) run_view_clear(&views[i]);
    print_table("parity", t);
    return OK;
}

/* What of the error is of eight bits, what of the tiles left out: three runs against the same dense
 * pass, paired by text. */
static enum status print_apart(struct store *store, const struct cell_result cells[3])
{
    static const char *const what[] = {
        "precision alone, every tile kept", "sparsity alone, full products", "both"};
    static const char *const names[] = {"kl", "cosine", "ppl_ratio", "token_accuracy"};
    static const char *const keys[] = {"kl_mean", "cosine_mean", "ppl_ratio", "token_accuracy"},
                             *const parts[] = {"precision", "sparsity", "both"};
    struct table *t = table_new("What it costs, taken apart");
    table_add_column(
        t, (struct table_column){.name = "run", .key = "id", .number = NUMBER_SHORT, .digits = 6});
    table_add_column(t, (struct table_column){.name = "what"});
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        table_add_column(t,
            (struct table_column){.name = metric_info(names[k])->label,
                .key = keys[k],
                .number = NUMBER_SHORT,
                .digits = 5});
        if (k > 1) continue;
        table_add_column(t,
            (struct table_column){.name = "from",
                .key = k ? "cosine_lo" : "kl_lo",
                .number = NUMBER_SHORT,
                .digits = 4});
        table_add_column(t,
            (struct table_column){.name = "to",
                .key = k ? "cosine_hi" : "kl_hi",
                .number = NUMBER_SHORT,
                .digits = 4});
    }
    double kl[3];
    enum status st = OK;
    for (int i = 0; i < 3 && st == OK; i++) {
        struct run_view v;
        if ((st = run_view_load(&v, store, cells[i].key)) != OK) break;
        table_int(t, v.run->id);
        table_text(t, parts[i]);
        table_show(t, what[i]);
        kl[i] = run_view_metric(&v, "kl");
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            const struct metric_record *m = metric_list_find(&v.metrics, "overall", names[k]);
            table_real(t, m ? m->mean : NAN);
            if (k > 1) continue;
            table_real(t, m ? m->lo : NAN);
            table_real(t, m ? m->hi : NAN);
        }
        run_view_clear(&v);
    }
    if (st != OK) {
        table_free(&t);
        return st;
    }
    char note[128];
    snprintf(note, sizeof note,
        "The KL divergence of precision alone is %.3g of that of sparsity alone.", kl[0] / kl[1]);
    if (kl[1] > 1e-3 * kl[0]) table_note(t, note);
    print_table("apart", t);
    return OK;
}

/* Cells of their own: what is stored of them is shown, not run again, and the dense pass comes from
 * the cache. */
static enum status eval_apart(
    const struct cell_request *both, const struct cell_result *done, struct store *store)
{
    struct sparse_policy alone[2] = {0};
    struct tuned none = {0};
    struct cell_result cells[3] = {0};
    struct cell_request q = *both;
    enum status st;
    TRY_GOTO(st, end, policy_copy_dense(&alone[0], both->policy));
    TRY_GOTO(st, end, policy_copy(&alone[1], both->policy));
    alone[1].qk = alone[1].pv = PRECISION_FULL;
    q.settings.generate = q.settings.attribution = q.settings.keep_tokens = false;
    q.policy = &alone[0];
    q.tuned = &none;
    TRY_GOTO(st, end, cell_run(&q, &cells[0]));
    q.policy = &alone[1];
    q.tuned = both->tuned;
    TRY_GOTO(st, end, cell_run(&q, &cells[1]));
    memcpy(cells[2].key, done->key, sizeof done->key);
    st = print_apart(store, cells);
end:
    for (int i = 0; i < 2; i++) {
        cell_result_clear(&cells[i]);
        policy_clear(&alone[i]);
    }
    return st;
}

static void say_waiting(const char *text) { remark("%s", text); }

/* What --device names: one device; several of a kind, which share the samples; or the CPU and a
 * GPU, which are compared. */
struct places {
    struct setup *all;
    int n;
    bool compared;
};

/* The cell is to be measured. */
static enum status say_plan(
    void *ctx, struct cell_request *q, struct run_record *r, enum cell_readiness *ready)
{
    (void)ctx, (void)r, (void)ready;
    return setup_note_offload(q->setup, q->machine, q->set, 2);
}

static enum status eval_suite(const struct places *on, struct store *store,
    struct dense_cache *cache, int i, int argc, char **argv)
{
    const struct setup *setup = &on->all[0], *pair = on->compared ? &on->all[1] : NULL;
    struct eval_device more[MAX_DEVICES];
    int n_more = on->compared ? 0 : on->n - 1;
    for (int k = 0; k < n_more; k++)
        more[k] = (struct eval_device){&on->all[k + 1].model.weights, on->all[k + 1].par};
    struct sample_set set = {0};
    struct sparse_policy policy = {0};
    struct tuned tuned = {0};
    struct cell_result cells[2] = {0};
    struct parity parity = {0};
    enum status st;
    TRY_GOTO(st, done, setup_samples(setup, &o.samples, i, false, &set));
    note_input(&set);
    note_prompts(&set);
    note_lengths(&set, &setup->model.weights.config);
    if (set.dense_only && (o.json || o.stats))
        TRY_GOTO(st, done,
            fail(ERR_ARG,
                "suite null measures the noise floor, which goes to the database alone; drop "
                "--output"));
    if (on->n > 1 && (set.dense_only || set.timed))
        TRY_GOTO(st, done,
            fail(ERR_ARG,
                "suite %s has nothing to share or compare between devices; name one --device",
                set.suite));
    if (set.dense_only) {
        st = measure_noise(setup, store, &set);
        goto done;
    }
    if (set.timed && o.attribution)
        TRY_GOTO(st, done,
            fail(ERR_ARG,
                "suite speed compares nothing that --attribution could look into; drop it"));
    TRY_GOTO(st, done, setup_policy(setup, &o.policy, &policy, &tuned));
    if (o.apart && (!policy.method || !policy_is_eight(&policy) || set.timed || pair))
        TRY_GOTO(st, done,
            fail(ERR_ARG,
                "--apart tells precision from sparsity: it wants --qk or --pv, a sparse --method, "
                "one kind of "
                "device, and a suite that compares"));
    setup_note_tuned(&o.policy, &tuned, &set, longest_sample(&set));
    struct cell_request cell = {.setup = setup,
        .more = more,
        .n_more = n_more,
        .store = store,
        .cache = cache,
        .set = &set,
        .policy = &policy,
        .tuned = &tuned,
        .machine = &o.machine,
        .settings = cell_defaults,
        .replace = o.replace,
        .retry = true,
        .wait = true,
        .prepare = say_plan,
        .say = say_waiting,
        .quiet = o.machine.quiet,
        .stop = cancel_requested,
        .argc = argc,
        .argv = argv};
    cell.settings.max_length = o.samples.max_length;
    cell.settings.num_samples = o.samples.num_samples;
    cell.settings.seed = o.samples.seed;
    cell.settings.score = o.samples.score;
    cell.settings.generate = o.generate || o.json;
    cell.settings.attribution = o.attribution;
    cell.settings.keep_tokens = o.keep_tokens;
    if (o.n_worst != WORST_UNSET) cell.settings.n_worst = o.n_worst;
    if (pair) {
        TRY_GOTO(st, done, parity_open(&parity, &setup->model.weights.config, &set, &policy));
        cell.parity = &parity;
    }
    TRY_GOTO(st, done, cell_run(&cell, &cells[0]));
    setup_note_brought(on->all, on->n, &o.machine);
    if (pair) {
        cell.setup = pair;
        TRY_GOTO(st, done, cell_run(&cell, &cells[1]));
        st = print_parity(store, cells, &parity.result);
    } else {
        st = show_run(store, &cells[0]);
        if (st == OK && cells[0].end == CELL_REUSED && o.n_worst > cells[0].n_worst &&
            !o.machine.quiet)
            fprintf(stderr,
                "sparsegauge: the stored run has %d worst tokens, not %d; --replace runs it "
                "again\n",
                cells[0].n_worst, o.n_worst);
    }
    if (st == OK && o.apart) st = eval_apart(&cell, &cells[0], store);
    if (st == OK && o.details) say_text_begin(&setup->model);
done:
    for (int k = 0; k < 2; k++) cell_result_clear(&cells[k]);
    if (parity.samples) parity_close(&parity);
    policy_clear(&policy);
    tuned_clear(&tuned);
    sample_set_clear(&set);
    return st;
}

static enum status open_pair(
    struct places *on, const struct device_list *devices, const char *positional)
{
    if (o.machine.impl)
        return fail(
            ERR_ARG, "--impl names a kernel of one device; --device %s are two", o.machine.device);
    if (o.json || o.stats)
        return fail(ERR_ARG, "--output and --stats-out hold one run, and --device %s makes two",
            o.machine.device);
    struct machine_options cpu = o.machine, gpu = o.machine;
    char name[16];
    int index =
        devices->at[0].index[0] == DEVICE_CPU ? devices->at[1].index[0] : devices->at[0].index[0];
    snprintf(name, sizeof name, "cuda:%d", index);
    cpu.device = "cpu", cpu.residual = NULL, cpu.graph = cpu.compile = false, cpu.device_gib = 0;
    gpu.device = name;
    on->all = calloc(2, sizeof *on->all);
    if (!on->all) return fail(ERR_MEMORY, "no memory for two devices");
    on->n = 2;
    on->compared = true;
    TRY(setup_open(&on->all[0], &cpu, positional));
    return setup_open(&on->all[1], &gpu, positional);
}

static enum status open_places(struct places *on, const char *positional)
{
    struct device_list devices;
    TRY(devices_parse(o.machine.device, &devices));
    if (devices.n == 2 &&
        (devices.at[0].index[0] == DEVICE_CPU) != (devices.at[1].index[0] == DEVICE_CPU))
        return open_pair(on, &devices, positional);
    return setup_open_fleet(&on->all, &on->n, &o.machine, positional);
}

static enum status eval_command(struct command_call *call)
{
    enum status st = OK;
    struct places on = {0};
    struct store *store = NULL;
    struct dense_cache cache = {0};
    cancel_install();
    TRY_GOTO(st, done, output_check(o.json));
    TRY_GOTO(st, done, output_check(o.stats));
    TRY_GOTO(st, done, open_places(&on, call->positional[0]));
    TRY_GOTO(st, done, store_open(&store, o.db, STORE_WRITE));
    TRY_GOTO(st, done, dense_cache_open(&cache, o.machine.cache));
    int n_suites = o.samples.suites.n ? o.samples.suites.n : 1;
    if (n_suites > 1 && (o.json || o.stats))
        TRY_GOTO(st, done,
            fail(ERR_ARG,
                "--output and --stats-out hold one run, and there are %d suites; call once for "
                "each",
                n_suites));
    progress_work_begin("eval", n_suites, o.machine.quiet);
    for (int i = 0; i < n_suites && st == OK; i++) {
        progress_part(n_suites > 1 ? o.samples.suites.items[i] : "", 1);
        st = eval_suite(&on, store, &cache, i, call->argc, call->argv);
    }
    progress_work_end();
done:
    if (!o.machine.quiet) note_cache(&cache);
    dense_cache_close(&cache);
    setup_close_fleet(&on.all, &on.n);
    store_close(&store);
    return st;
}

const struct command cmd_eval = {
    .name = "eval",
    .summary = "run dense and sparse over a suite and store what it costs",
    .help =
        {
            "eval MODEL [--suite SPEC …] [options]",
            "Runs every sample dense and sparse, compares logits position by position, counts what "
            "the kernel skipped, and\n"
            "stores it all as one run per suite. A cell that is stored already is shown, not run "
            "again. With --device cpu,cuda both\n"
            "run, afresh, and what separates them is shown and stored with the GPU's run.",
            "sparsegauge eval suites/demo/model --suite chronicle --max-length 4096\n"
            "sparsegauge eval llama-3.2-1b --suite text:wiki.valid.raw --num-samples 10 --output "
            "before_tune.json",
            "suite max-length num-samples tuned output details",
        },
    .kept = "suites that are done are stored, and so are the dense states; the same command goes "
            "on with what is missing",
    .options = options,
    .max_positional = 1,
    .run = eval_command,
};

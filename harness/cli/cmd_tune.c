#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "base/text.h"
#include "base/file.h"
#include "engine/tuner/sparge_pt.h"
#include "engine/tuner/tuner.h"
#include "harness/measure/curve_db.h"
#include "harness/measure/identity.h"
#include "harness/cli/output.h"
#include "harness/cli/summary.h"
#include "harness/measure/progress.h"
#include "harness/measure/setup.h"
#include "harness/measure/tuned_db.h"
#include "harness/measure/tuning.h"
#include "harness/measure/tuning_cost.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct {
    struct machine_options machine;
    struct sample_options samples;
    struct policy_options policy;
    const char *db, *out, *pt_module, *stats, *profile, *l1, *pv_l1, *rule;
    double min_sparsity, coverage;
    struct tuning_samples want;
    int held_mib;
    bool tune, from_curves, dry_run;
} o = {
    .machine = MACHINE_DEFAULTS,
    .samples = SAMPLE_DEFAULTS,
    .policy = POLICY_DEFAULTS,
    .db = "sparsegauge.db",
    .out = "tuned.json",
    .want = {5, -1, 5},
    .min_sparsity = .10,
};

/* What is chosen by, where the command line says nothing. */
struct profile {
    const char *name, *method, *rule, *l1, *pv_l1;
};
/* The tuning guide's "balanced", and what docs/studies/methods.md found to cost least at like
 * sparsity. */
static const struct profile profiles[] = {
    {"guide", "sparge", "l1", ".06", "l1+.01"},
    {"recommended", "sparge/bound", "rmse", ".09", "l1+.005"},
};
enum { GUIDE, RECOMMENDED, N_PROFILES };

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR",
        "Hugging Face directory, instead of MODEL", 0, 0},
    {"profile", OPTION_TEXT, &o.profile, "NAME",
        "guide: method sparge, rule l1, bounds .06 and .07; recommended: sparge/bound, rmse, .09 "
        "and .095; "
        "without it and the next four options both are tuned and set side by side",
        0, 0},
    {"l1", OPTION_TEXT, &o.l1, "X[,X…]", "bounds of stage 1 (the profile's)", 0, 0},
    {"pv-l1", OPTION_TEXT, &o.pv_l1, "X[,X…]",
        "bounds of both stages, or l1+X for each l1 (the profile's)", 0, 0},
    {"rule", OPTION_TEXT, &o.rule, "NAME",
        "the error that is bounded: l1, tail, cosine, rmse or both (the profile's)", 0, 0},
    {"o|output|model-out-path", OPTION_TEXT, &o.out, "FILE",
        "where the thresholds go (tuned.json); with several bounds the name gets them; .pt writes "
        "SpargeAttn's own format",
        0, 0},
    {"pt-module", OPTION_TEXT, &o.pt_module, "NAME",
        "what a .pt calls the attention of a layer, or its path with %d for the layer "
        "(sparse_attn)",
        0, 0},
    {"stats-out|stats-out-path", OPTION_TEXT, &o.stats, "FILE",
        "per-layer statistics as the guide writes them", 0, 0},
    {"num-tune-samples", OPTION_INT, &o.want.n_tune, "N", "samples to choose on (5)", 1, 1000},
    {"check", OPTION_INT, &o.want.n_check, "N",
        "further samples that the bound must hold on, or else is backed off (2; 8 with --coverage)",
        0, 1000},
    {"held-out", OPTION_INT, &o.want.n_held_out, "N",
        "yet other samples, looked at once at the end: how many heads are over their bound there "
        "(5)",
        0, 1000},
    {"coverage", OPTION_REAL, &o.coverage, "X",
        "tighten all bounds until this share of heads and new texts holds those given, e.g. .95", 0,
        .999},
    {"min-sparsity", OPTION_REAL, &o.min_sparsity, "X", "heads under it stay dense (.1)", 0, 1},
    {"db", OPTION_TEXT, &o.db, "FILE", "database of curves, results and choices (sparsegauge.db)",
        0, 0},
    {"from-curves", OPTION_FLAG, &o.from_curves, NULL,
        "answer from stored curves without running the model; unverified", 0, 0},
    {"held-memory", OPTION_INT, &o.held_mib, "MIB",
        "most for tensors and curves of the heads taken at once, on the CPU (64, or four residual "
        "streams if more)",
        1, 1 << 30},
    {"dry-run", OPTION_FLAG, &o.dry_run, NULL,
        "only say how many heads are taken at once and what memory that needs", 0, 0},
    {"parallel|parallel-tune", OPTION_FLAG, &o.machine.parallel, NULL,
        "all threads, which is always so, and with --device cuda all GPUs", 0, 0},
    {"tune", OPTION_FLAG, &o.tune, NULL, "accepted: this is tune", 0, 0},
    {"compile", OPTION_FLAG, &o.machine.compile, NULL,
        "accepted for the guide's sake; everything is compiled", 0, 0},
    SAMPLE_OPTIONS(o.samples),
    RANKED_POLICY_OPTIONS(o.policy),
    MACHINE_OPTIONS(o.machine),
    {0},
};

enum { MAX_BOUNDS = 64 };

static enum status parse_number(const char *option, const char **text, double *out)
{
    char *end;
    *out = strtod(*text, &end);
    if (end == *text || (*end && *end != ','))
        return fail(ERR_ARG, "%s: found \"%s\", expected numbers joined by commas", option, *text);
    *text = *end ? end + 1 : end;
    return OK;
}

/* Every l1 with every pv_l1; "l1+.01" stands for one that follows l1. Pairs with pv_l1 ≤ l1 are
 * left out, aloud. */
static enum status parse_bounds(const struct profile *p, struct tune_bounds *out, int *n)
{
    int n_pruned = 0;
    *n = 0;
    for (const char *a = p->l1; *a;) {
        double l1;
        TRY(parse_number("--l1", &a, &l1));
        if (!(l1 > 0 && l1 < 1))
            return fail(ERR_ARG, "--l1: found %g, expected more than 0 and less than 1", l1);
        for (const char *b = p->pv_l1; *b;) {
            double pv;
            bool relative = str_starts_with(b, "l1+");
            if (relative) b += 3;
            TRY(parse_number("--pv-l1", &b, &pv));
            if (relative) pv += l1;
            if (!(pv > 0 && pv < 1))
                return fail(ERR_ARG, "--pv-l1: found %g, expected more than 0 and less than 1", pv);
            if (pv <= l1) {
                n_pruned++;
                continue;
            }
            if (*n == MAX_BOUNDS) return fail(ERR_ARG, "more than %d pairs of bounds", MAX_BOUNDS);
            out[(*n)++] = (struct tune_bounds){l1, pv};
        }
    }
    if (!*n)
        return fail(ERR_ARG,
            "pv_l1 bounds both stages together, so it must be larger than l1; e.g. --pv-l1 l1+.01");
    if (n_pruned && !o.machine.quiet)
        fprintf(stderr, "sparsegauge: %d pairs with pv_l1 not above l1 were left out\n", n_pruned);
    return OK;
}

static void show_progress(void *ctx, int done, int total)
{
    (void)total;
    progress_update(ctx, done);
}

/* `out` with `_word` in front of its ending. */
static char *name_with(const char *out, const char *word)
{
    const char *dot = strrchr(out, '.');
    size_t stem = dot && !strchr(dot, '/') ? (size_t)(dot - out) : strlen(out);
    return str_format("%.*s_%s%s", (int)stem, out, word, out + stem);
}

/* "tuned.json" for one pair of bounds, "tuned_l1=0.06_pv=0.07.json" for several. */
static char *output_name(const struct tuned *t, const char *path, int n)
{
    char word[64];
    if (n == 1) return str_dup(path);
    snprintf(word, sizeof word, "l1=%g_pv=%g", t->l1, t->pv_l1);
    return name_with(path, word);
}

static enum status load_samples(
    const struct setup *setup, struct sample_set *set, struct tune_sample **out)
{
    o.samples.num_samples = o.want.n_tune + o.want.n_check + o.want.n_held_out;
    TRY(setup_samples(setup, &o.samples, 0, true, set));
    int n = set->n_samples, wanted = o.samples.num_samples;
    TRY(tuning_split(&o.want, n, set->name));
    if (n < wanted && !o.machine.quiet)
        fprintf(stderr,
            "sparsegauge: %s has %d samples of %d tokens: tuning on %d, checking on %d, %d held "
            "out\n",
            set->shown, n, o.samples.max_length, o.want.n_tune, o.want.n_check, o.want.n_held_out);
    *out = calloc((size_t)n, sizeof **out);
    if (!*out) return fail(ERR_MEMORY, "no memory for %d samples", n);
    for (int i = 0; i < n; i++)
        (*out)[i] = (struct tune_sample){
            set->samples[i].ids, set->samples[i].n, set->samples[i].name, i >= o.want.n_tune};
    return OK;
}

static struct table *summary_table(
    const struct tuned *tuned, int n, char *const *names, const struct sample_set *set)
{
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "l1", .number = NUMBER_SHORT, .digits = 3});
    table_add_column(
        t, (struct table_column){.name = "pv_l1", .number = NUMBER_SHORT, .digits = 3});
    table_add_column(t, (struct table_column){.name = "sparse heads", .key = "n_sparse_heads"});
    table_add_column(t, (struct table_column){.name = "backed off", .key = "n_backed_off"});
    table_add_column(t,
        (struct table_column){.name = "sparsity of tuned layers",
            .key = "sparsity",
            .number = NUMBER_PERCENT,
            .digits = 1});
    table_add_column(t,
        (struct table_column){
            .name = "worst, tuning", .key = "error_tune", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(t,
        (struct table_column){
            .name = "worst, checked", .key = "error_check", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(t,
        (struct table_column){.name = "worst, held-out",
            .key = "error_held_out",
            .number = NUMBER_FIXED,
            .digits = 4});
    table_add_column(t,
        (struct table_column){.name = "over the bound, held-out",
            .key = "over_bound",
            .number = NUMBER_PERCENT,
            .digits = 1});
    table_add_column(t,
        (struct table_column){
            .name = "from", .key = "over_bound_lo", .number = NUMBER_PERCENT, .digits = 1});
    table_add_column(t,
        (struct table_column){
            .name = "to", .key = "over_bound_hi", .number = NUMBER_PERCENT, .digits = 1});
    table_add_column(t, (struct table_column){.name = "file", .weight = 5});
    static const char *const data[] = {"n_heads", "dataset", "dataset_fingerprint"};
    for (int i = 0; i < 3; i++)
        table_add_column(t, (struct table_column){.name = data[i], .audience = FOR_PROGRAMS});
    for (int i = 0; i < n; i++) {
        const struct tuned *x = &tuned[i];
        int n_heads = 0, n_sparse = 0, n_backed = 0;
        double sparsity = 0;
        struct head_error tune = {0}, check = {0}, held = {0};
        for (int h = 0; h < x->n_layers * x->n_heads; h++) {
            const struct tuned_head *head = &x->heads[h];
            if (!head->in_range) continue;
            n_heads++;
            n_sparse += head->params.is_sparse;
            n_backed += head->back_offs > 0;
            sparsity += head->params.is_sparse ? head->sparsity : 0;
            tune = head_error_worst(tune, head->tune);
            check = head_error_worst(check, head->check);
            held = head_error_worst(held, head->held_out);
        }
        char text[64];
        snprintf(text, sizeof text, "%d of %d", n_sparse, n_heads);
        table_real(t, x->l1);
        table_real(t, x->pv_l1);
        table_int(t, n_sparse);
        table_show(t, text);
        table_int(t, n_backed);
        table_real(t, sparsity / n_heads);
        table_real(t, head_error_by(&tune, x->rule));
        bool judged = x->over.n_samples > 0;
        table_real(t, x->num_check && x->verified ? head_error_by(&check, x->rule) : NAN);
        table_real(t, judged ? head_error_by(&held, x->rule) : NAN);
        table_real(t, judged ? x->over.share : NAN);
        table_real(t, judged ? x->over.lo : NAN);
        table_real(t, judged ? x->over.hi : NAN);
        table_text(t, names[i]);
        table_int(t, n_heads);
        table_text(t, set->name);
        table_text(t, set->fingerprint);
    }
    return t;
}

/* What is made from curves alone was never run, and does not take the place of what was. */
static enum status check_overwrite(const struct tuned *t, const char *path)
{
    struct tuned there;
    if (t->verified || str_ends_with(path, ".pt") || tuned_read(&there, path) != OK) return OK;
    bool verified = there.verified;
    tuned_clear(&there);
    if (!verified) return OK;
    return fail(ERR_ARG,
        "%s: holds thresholds that were verified, and those from curves are not; give another -o, "
        "or remove it",
        path);
}

static enum status save(const struct setup *setup, struct store *store, struct tuned *t,
    const struct sample_set *set, const char *path)
{
    char hash[33];
    TRY(check_overwrite(t, path));
    snprintf(t->model_fingerprint, sizeof t->model_fingerprint, "%s", setup->model.fingerprint);
    snprintf(t->model_name, sizeof t->model_name, "%s", setup->model.name);
    snprintf(t->data_fingerprint, sizeof t->data_fingerprint, "%s", set->fingerprint);
    snprintf(t->data_name, sizeof t->data_name, "%s", set->name);
    if (str_ends_with(path, ".pt")) {
        struct str caveats = {0};
        TRY(sparge_pt_write(t, path, o.pt_module));
        sparge_pt_caveats(t, &caveats);
        if (caveats.len)
            fprintf(stderr, "sparsegauge: %s in the public library:\n%s", path, str_get(&caveats));
        str_reset(&caveats);
        sparge_pt_options(t, &caveats);
        if (caveats.len)
            fprintf(stderr,
                "sparsegauge: %s says neither block, smooth_k nor precision: what was tuned runs "
                "here with --tuned %s%s\n",
                path, path, str_get(&caveats));
        str_clear(&caveats);
    } else {
        TRY(tuned_write(t, path));
    }
    struct arena *arena = NULL;
    struct model_record model;
    model_identity(&model, &setup->model, setup->model_dir, &arena);
    enum status st = store_tuned(store, t, tuned_hash(t, hash), NULL);
    arena_free(&arena);
    return st;
}

static void print_plan(const struct tune_args *a, const char *profile)
{
    struct tuner_plan p = tuner_plan(a);
    double mib = 0x1p20;
    struct table *t = table_new(NULL);
    field_text(t, "profile", NULL, profile);
    field_count(t, "heads_at_once", NULL, p.heads_at_once);
    field_count(t, "n_heads", NULL, a->weights->config.n_heads);
    field_count(t, "n_samples", NULL, a->n_samples);
    field_count(t, "total_bytes", NULL, (int64_t)p.total_bytes);
    field_count(t, "session_bytes", NULL, (int64_t)p.session_bytes);
    field_count(t, "stream_bytes", NULL, (int64_t)p.stream_bytes);
    field_count(t, "tensor_bytes", NULL, (int64_t)p.tensor_bytes);
    field_count(t, "curve_bytes", NULL, (int64_t)p.curve_bytes);
    field_count(t, "workspace_bytes", NULL, (int64_t)p.workspace_bytes);
    data_table("plan", t);
    say("%s: %d of %d heads of a layer at once, %d samples: %.1f MiB: session %.1f, residual "
        "streams %.1f, tensors %.1f, curves %.1f, workspace of %d threads %.1f\n",
        profile, p.heads_at_once, a->weights->config.n_heads, a->n_samples,
        (double)p.total_bytes / mib, (double)p.session_bytes / mib, (double)p.stream_bytes / mib,
        (double)p.tensor_bytes / mib, (double)p.curve_bytes / mib, par_threads(a->par),
        (double)p.workspace_bytes / mib);
}

/* Is it one and the same folder? */
static bool same_place(const char *a, const char *b)
{
    struct stat x, y;
    return a && b && stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_ino == y.st_ino &&
        x.st_dev == y.st_dev;
}

/* A generated text is no substitute for what the model will read, unless it is the bundled model,
 * which was made for it. */
static void note_generated(const struct setup *setup, const struct sample_set *set)
{
    char *bundled = bundled_model();
    if (!o.machine.quiet && !o.samples.suites.n && !o.samples.dataset &&
        !same_place(bundled, setup->model_dir))
        remark("tuning on %s, which is generated: thresholds hold for texts like those they were "
               "tuned on, so give yours with --dataset FILE or --suite text:FILE",
            set->shown);
    free(bundled);
}

/* The eval that uses the file, on the same text. */
static void say_next(const struct setup *setup, const char *tuned)
{
    struct str command = {0};
    str_add(&command, "sparsegauge eval");
    text_shell_word(setup->model_dir, &command);
    if (o.samples.dataset) {
        str_add(&command, " --dataset");
        text_shell_word(o.samples.dataset, &command);
    }
    for (int i = 0; i < o.samples.suites.n; i++) {
        str_add(&command, " --suite");
        text_shell_word(o.samples.suites.items[i], &command);
    }
    str_addf(&command, " --max-length %d --tuned", o.samples.max_length);
    text_shell_word(tuned, &command);
    say("\nnext, what they cost:\n");
    say_command("  %s\n", str_get(&command));
    str_clear(&command);
}

/* What was promised and what new text says to it. */
static void print_verdict(const struct tuned *tuned, int n, const struct tune_times *times)
{
    char text[OVER_BOUND_TEXT];
    say("\n%d samples of up to %d tokens to choose on, %d to check, %d held out; forward %.2f "
        "s, curves on %s%s%s %.2f s (%d made, "
        "%d reused), choice and verification %.2f s (%d kernel runs)\n",
        o.want.n_tune, o.samples.max_length, o.want.n_check, o.want.n_held_out, times->forward_s,
        times->place, times->why ? ", the device refusing: " : "", times->why ? times->why : "",
        times->curves_s, times->n_curves, times->n_reused, times->verify_s, times->n_verified);
    for (int i = 0; i < n; i++) {
        if (n > 1) say("l1 %g, pv_l1 %g: ", tuned[i].l1, tuned[i].pv_l1);
        if (tuned[i].coverage > 0)
            say("bounds tightened to %.2f of those given, for %g %% of heads and texts to hold "
                "them; ",
                tuned[i].tightened, 100 * tuned[i].coverage);
        if (tuned[i].over.n_samples)
            say("on held-out texts %s\n", over_bound_text(&tuned[i].over, text));
        else say("nothing was held out: how often new texts are over the bounds is not known\n");
    }
}

/* One choice, tuned and written. */
struct choice {
    struct profile by;
    enum tune_rule rule;
    int n;
    struct tuned tuned[MAX_BOUNDS];
    char *names[MAX_BOUNDS];
    struct tune_times times;
};

static void choice_clear(struct choice *c)
{
    for (int i = 0; i < c->n; i++) {
        tuned_clear(&c->tuned[i]);
        free(c->names[i]);
    }
    c->n = 0;
}

static enum status find(
    const struct setup *fleet, int n_fleet, const struct tune_args *args, struct choice *c)
{
    struct progress progress;
    progress_begin(&progress, "tune", "heads", 0, o.machine.quiet);
    for (int l = 0; l < args->policy->n_layers; l++)
        progress.total += args->policy->layer_on[l] * args->policy->n_heads;
    struct tune_args own = *args;
    own.progress = show_progress;
    own.progress_ctx = &progress;
    /* curves of the others are not looked at */
    if (o.from_curves) own.n_samples = o.want.n_tune + o.want.n_check;
    enum status st = o.from_curves
        ? tune_from_curves(&own, c->tuned)
        : tuning_run(fleet, n_fleet, &o.machine, &own, o.want, o.coverage, c->tuned, &c->times);
    progress_end(&progress);
    return st;
}

static enum status make_choice(const struct setup *fleet, int n_fleet, struct store *store,
    const struct sample_set *set, const struct tune_sample *samples, const char *word,
    struct choice *c)
{
    const struct setup *setup = &fleet[0];
    struct tune_bounds bounds[MAX_BOUNDS];
    struct sparse_policy policy = {0};
    struct policy_options asked = o.policy;
    struct curve_db db = {0};
    int n;
    asked.method = c->by.method;
    TRY(parse_bounds(&c->by, bounds, &n));
    TRY(tune_rule_parse(c->by.rule, &c->rule));
    TRY(setup_policy_to_tune(setup, &asked, &policy));
    enum status st = curve_db_open(&db, store, setup, set, &policy);
    const struct tune_args args = {.weights = &setup->model.weights,
        .par = setup->par,
        .policy = &policy,
        .rule = c->rule,
        .samples = samples,
        .n_samples = set->n_samples,
        .bounds = bounds,
        .n_bounds = n,
        .min_sparsity = o.min_sparsity,
        .curves = curve_db_store(&db),
        .impl = o.machine.impl,
        .held_bytes = (size_t)o.held_mib << 20,
        .stop = cancel_requested};
    if (st == OK && o.dry_run) {
        print_plan(&args, c->by.name);
    } else if (st == OK) {
        st = find(fleet, n_fleet, &args, c);
        c->n = st == OK ? n : 0;
    }
    char *out = word ? name_with(o.out, word) : str_dup(o.out),
         *stats = !o.stats ? NULL
        : word             ? name_with(o.stats, word)
                           : str_dup(o.stats);
    for (int i = 0; i < c->n && st == OK; i++) {
        c->names[i] = output_name(&c->tuned[i], out, n);
        st = save(setup, store, &c->tuned[i], set, c->names[i]);
        char *of_this = stats ? output_name(&c->tuned[i], stats, n) : NULL;
        if (st == OK && of_this) st = tuned_write_stats(&c->tuned[i], of_this);
        free(of_this);
    }
    free(out);
    free(stats);
    curve_db_close(&db);
    policy_clear(&policy);
    return st;
}

static enum status print_choice(
    const struct setup *setup, const struct sample_set *set, const struct choice *c)
{
    say("tuned on %s, %d text%s of at most %d tokens\n", set->name, set->n_samples,
        set->n_samples == 1 ? "" : "s", o.samples.max_length);
    print_table("tuned", summary_table(c->tuned, c->n, c->names, set));
    if (o.from_curves)
        say("\nfrom the stored curves of %d samples; stage 2 is off and nothing was verified\n",
            c->tuned[0].num_samples);
    else print_verdict(c->tuned, c->n, &c->times);
    say_text_begin(&setup->model);
    say_next(setup, c->names[0]);
    return OK;
}

/* Both profiles side by side, and what each costs where nothing was chosen: on check samples, and
 * on those held out. */
static enum status print_both(
    const struct setup *setup, const struct sample_set *set, const struct choice *choices)
{
    struct tuned both[N_PROFILES];
    struct tuning_cost cost[N_PROFILES];
    int n_texts = set->n_samples - o.want.n_tune;
    bool judged = !o.from_curves && n_texts > 0;
    for (int i = 0; i < N_PROFILES; i++) both[i] = choices[i].tuned[0]; /* borrowed */
    if (judged)
        TRY(tuning_costs(setup, &o.machine, set, o.want.n_tune, n_texts, both, N_PROFILES, cost));
    struct table *t = table_new(NULL);
    static const char *const words[] = {"profile", "method", "rule", "l1", "pv_l1", "bounds"};
    for (int i = 0; i < 6; i++)
        table_add_column(t,
            (struct table_column){.name = words[i],
                .audience = i < 2 ? FOR_ALL
                    : i < 5       ? FOR_PROGRAMS
                                  : FOR_PEOPLE});
    table_add_column(t,
        (struct table_column){
            .name = "sparsity", .weight = 9, .number = NUMBER_PERCENT, .digits = 1});
    table_add_column(t,
        (struct table_column){.name = "cosine",
            .key = "cosine_mean",
            .weight = 4,
            .number = NUMBER_FIXED,
            .digits = 4});
    table_add_column(t,
        (struct table_column){.name = "KL",
            .key = "kl_mean",
            .weight = 9,
            .unit = "nats",
            .number = NUMBER_FIXED,
            .digits = 4});
    table_add_column(t,
        (struct table_column){
            .name = "from", .key = "kl_lo", .weight = 7, .number = NUMBER_FIXED, .digits = 4});
    table_add_column(t,
        (struct table_column){
            .name = "to", .key = "kl_hi", .weight = 7, .number = NUMBER_FIXED, .digits = 4});
    table_add_column(t,
        (struct table_column){.name = "perplexity",
            .key = "ppl_ratio",
            .weight = 3,
            .unit = "x dense",
            .number = NUMBER_FIXED,
            .digits = 3});
    table_add_column(t,
        (struct table_column){.name = "over the bound, held-out",
            .key = "over_bound",
            .number = NUMBER_PERCENT,
            .digits = 1});
    table_add_column(t, (struct table_column){.name = "file", .weight = 8});
    for (int i = 0; i < N_PROFILES; i++) {
        char bounds[64];
        snprintf(
            bounds, sizeof bounds, "%s <= %g, %g", choices[i].by.rule, both[i].l1, both[i].pv_l1);
        table_text(t, choices[i].by.name);
        table_text(t, choices[i].by.method);
        table_text(t, choices[i].by.rule);
        table_real(t, both[i].l1);
        table_real(t, both[i].pv_l1);
        table_text(t, bounds);
        const double values[] = {cost[i].sparsity, cost[i].cosine, cost[i].kl, cost[i].kl_lo,
            cost[i].kl_hi, cost[i].ppl_ratio};
        for (size_t v = 0; v < sizeof values / sizeof *values; v++)
            table_real(t, judged ? values[v] : NAN);
        table_real(t, both[i].over.n_samples > 0 ? both[i].over.share : NAN);
        table_text(t, choices[i].names[0]);
    }
    if (judged)
        say("tuned on %s, %d texts of at most %d tokens; what each costs on the %d others (%d "
            "check, %d held out), KL with its 95 %% interval\n",
            set->name, o.want.n_tune, o.samples.max_length, n_texts, o.want.n_check,
            o.want.n_held_out);
    print_table("profiles", t);
    if (!judged)
        say("\n%s\n",
            o.from_curves ? "from stored curves; nothing was run"
                          : "no text was left to judge them on");
    for (int i = 0; i < N_PROFILES; i++) {
        if (!o.from_curves) {
            say("\n%s:", choices[i].by.name);
            print_verdict(choices[i].tuned, choices[i].n, &choices[i].times);
        }
        data_table("tuned", summary_table(choices[i].tuned, choices[i].n, choices[i].names, set));
    }
    say_text_begin(&setup->model);
    say_next(setup, choices[RECOMMENDED].names[0]);
    return OK;
}

/* What the command line leaves open is the profile's. */
static enum status choose_profiles(struct choice *choices, int *n)
{
    bool said = o.profile || o.l1 || o.pv_l1 || o.rule || o.policy.method;
    int which = GUIDE;
    if (o.profile) {
        for (which = 0; which < N_PROFILES && strcmp(profiles[which].name, o.profile) != 0;)
            which++;
        if (which == N_PROFILES)
            return fail(
                ERR_ARG, "--profile: found \"%s\", expected guide or recommended", o.profile);
    }
    *n = 1;
    if (!said && str_ends_with(o.out, ".pt")) {
        if (!o.machine.quiet)
            fprintf(stderr,
                "sparsegauge: %s: SpargeAttn's format holds the guide's profile alone; name a "
                ".json file to have the "
                "recommended one too\n",
                o.out);
        said = true;
    }
    if (!said) {
        for (int i = 0; i < N_PROFILES; i++) choices[i].by = profiles[i];
        *n = N_PROFILES;
        return OK;
    }
    struct profile p = profiles[which];
    if (o.policy.method) p.method = o.policy.method;
    if (o.rule) p.rule = o.rule;
    if (o.l1) p.l1 = o.l1;
    if (o.pv_l1) p.pv_l1 = o.pv_l1;
    choices[0].by = p;
    return OK;
}

static enum status run(const struct setup *fleet, int n_fleet, struct store *store)
{
    static struct choice choices[N_PROFILES]; /* 700 KB */
    struct sample_set set = {0};
    struct tune_sample *samples = NULL;
    int n = 0;
    enum status st = choose_profiles(choices, &n);
    if (st == OK) st = load_samples(&fleet[0], &set, &samples);
    if (st == OK) note_generated(&fleet[0], &set);
    if (st == OK && !o.from_curves && !o.dry_run)
        st = setup_note_offload(&fleet[0], &o.machine, &set, 0);
    /* the guide's first: the recommended mixture takes its curves over */
    for (int i = 0; i < n && st == OK; i++)
        st = make_choice(fleet, n_fleet, store, &set, samples,
            n > 1 && i == GUIDE ? profiles[GUIDE].name : NULL, &choices[i]);
    if (st == OK) setup_note_brought(fleet, n_fleet, &o.machine);
    if (st == OK && !o.dry_run)
        st = n > 1 ? print_both(&fleet[0], &set, choices)
                   : print_choice(&fleet[0], &set, &choices[0]);
    for (int i = 0; i < n && st == OK; i++)
        if (choices[i].times.why && !o.machine.quiet)
            fprintf(stderr, "sparsegauge: curves and verification of %s ran on the CPU: %s\n",
                choices[i].by.method, choices[i].times.why);
    for (int i = 0; i < n; i++) choice_clear(&choices[i]);
    free(samples);
    sample_set_clear(&set);
    return st;
}

static enum status tune_command(struct command_call *call)
{
    enum status st = OK;
    struct setup *fleet = NULL;
    struct store *store = NULL;
    int n_fleet = 0;
    cancel_install();
    if (o.want.n_check < 0) o.want.n_check = o.coverage > 0 ? 8 : 2;
    if (o.coverage > 0 && (o.from_curves || !o.want.n_check))
        TRY_GOTO(st, done,
            fail(ERR_ARG,
                "--coverage runs thresholds on check samples; drop --from-curves and give --check "
                "samples"));
    if (o.samples.num_samples)
        TRY_GOTO(st, done,
            fail(ERR_ARG,
                "--num-samples %d: tune takes --num-tune-samples to choose on, --check and "
                "--held-out "
                "further ones; give those",
                o.samples.num_samples));
    if (o.pt_module && !str_ends_with(o.out, ".pt"))
        TRY_GOTO(st, done,
            fail(ERR_ARG, "--pt-module %s goes with -o FILE.pt, not %s", o.pt_module, o.out));
    TRY_GOTO(st, done, output_check(o.out));
    TRY_GOTO(st, done, output_check(o.stats));
    TRY_GOTO(st, done, setup_open_fleet(&fleet, &n_fleet, &o.machine, call->positional[0]));
    TRY_GOTO(st, done, store_open(&store, o.db, o.dry_run ? STORE_SCRATCH : STORE_WRITE));
    st = run(fleet, n_fleet, store);
done:
    setup_close_fleet(&fleet, &n_fleet);
    store_close(&store);
    return st;
}

const struct command cmd_tune = {
    .name = "tune",
    .summary = "find per-head thresholds under error bounds, verified",
    .help =
        {
            "tune MODEL [--profile NAME] [--l1 X] [--pv-l1 X] [options]",
            "Finds every head's thresholds under the bounds from one pass of error curves, runs "
            "what it found with the inference\n"
            "kernel on the tuning samples and on check samples, backs off where a bound does not "
            "hold, writes the thresholds, and counts\n"
            "on held-out samples, which nothing was chosen or backed off by, how many heads are "
            "over their bound.\n"
            "Curves are kept in the database: an interrupted run goes on where it stopped, and "
            "other bounds come almost free.\n"
            "Without a profile, bounds, rule or method it tunes both profiles and prints what each "
            "costs on texts that nothing was chosen\n"
            "on: the recommended choice goes to FILE, the tuning guide's beside it, to FILE with "
            "_guide in its name.",
            "sparsegauge tune suites/demo/model -o tuned.json\n"
            "sparsegauge tune suites/demo/model --l1 .06 --pv-l1 .07 -o tuned.json\n"
            "sparsegauge tune suites/demo/model --coverage .95 -o tuned.json\n"
            "sparsegauge tune suites/demo/model --rule tail --l1 .55 --pv-l1 l1+.05 --max-length "
            "4096 -o tail.json",
            "profile l1 pv-l1 suite max-length output",
        },
    .kept = "curves that were made are stored; the same command goes on from there",
    .options = options,
    .max_positional = 1,
    .run = tune_command,
};

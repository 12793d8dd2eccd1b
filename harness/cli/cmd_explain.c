#include "harness/cli/command.h"

#include "base/str.h"
#include "engine/tuner/tuned.h"
#include "harness/cli/output.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static struct {
    bool layers;
} o;

static const struct option_def options[] = {
    {"by-layer", OPTION_FLAG, &o.layers, NULL, "one row per layer instead of one per head", 0, 0},
    {0},
};

static double bound_of(const struct tuned *t, const struct tuned_head *h)
{
    return h->pv_l1 > 0 ? h->pv_l1 : t->pv_l1;
}

static struct table *heads_of(const struct tuned *t)
{
    struct table *x = table_new(NULL);
    table_add_column(x, (struct table_column){.name = "layer"});
    table_add_column(x, (struct table_column){.name = "head", .weight = 9});
    table_add_column(
        x, (struct table_column){.name = "simthreshd1", .number = NUMBER_SHORT, .digits = 4});
    table_add_column(
        x, (struct table_column){.name = "cdfthreshd", .number = NUMBER_SHORT, .digits = 4});
    table_add_column(
        x, (struct table_column){.name = "pvthreshd", .number = NUMBER_SHORT, .digits = 4});
    table_add_column(x,
        (struct table_column){.name = "sparsity",
            .weight = 4,
            .number = NUMBER_PERCENT,
            .digits = 1,
            .better = METRIC_HIGHER});
    table_add_column(
        x, (struct table_column){.name = "bound", .number = NUMBER_SHORT, .digits = 3});
    table_add_column(x,
        (struct table_column){
            .name = "tuning", .key = "error_tune", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(x,
        (struct table_column){
            .name = "check", .key = "error_check", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(x,
        (struct table_column){.name = "held-out",
            .key = "error_held_out",
            .weight = 2,
            .number = NUMBER_FIXED,
            .digits = 4});
    table_add_column(x,
        (struct table_column){
            .name = "mean L1", .key = "l1_tune", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(x, (struct table_column){.name = "backed off", .key = "back_offs"});
    table_add_column(x, (struct table_column){.name = "note", .key = "reason", .weight = 3});
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        const struct tuned_head *h = &t->heads[i];
        if (!h->in_range) continue;
        bool sparse = h->params.is_sparse;
        table_int(x, i / t->n_heads);
        table_int(x, i % t->n_heads);
        table_real(x, sparse ? (double)h->params.theta : NAN);
        table_real(x, sparse ? (double)h->params.tau : NAN);
        table_real(x, sparse ? (double)h->params.lambda : NAN);
        table_real(x, h->sparsity);
        table_real(x, sparse ? bound_of(t, h) : NAN);
        table_real(x, sparse ? head_error_by(&h->tune, t->rule) : NAN);
        table_real(x, sparse && t->num_check ? head_error_by(&h->check, t->rule) : NAN);
        table_real(x, sparse && t->num_held_out ? head_error_by(&h->held_out, t->rule) : NAN);
        table_real(x, sparse ? h->tune.l1 : NAN);
        table_int(x, h->back_offs);
        table_text(x, h->reason[0] ? h->reason : NULL);
    }
    return x;
}

struct layer_sum {
    int n_heads, n_sparse;
    double sparsity, error;
};

static struct layer_sum sum_layers(const struct tuned *t, int first, int end)
{
    struct layer_sum s = {0};
    for (int i = first * t->n_heads; i < end * t->n_heads; i++) {
        const struct tuned_head *h = &t->heads[i];
        if (!h->in_range) continue;
        s.n_heads++;
        s.n_sparse += h->params.is_sparse;
        s.sparsity += h->params.is_sparse ? h->sparsity : 0;
        s.error = fmax(s.error, h->params.is_sparse ? head_error_by(&h->tune, t->rule) : 0);
    }
    if (s.n_heads) s.sparsity /= s.n_heads;
    return s;
}

static struct table *layers_of(const struct tuned *t)
{
    struct table *x = table_new(NULL);
    table_add_column(x, (struct table_column){.name = "layer"});
    table_add_column(x, (struct table_column){.name = "sparse heads", .key = "n_sparse_heads"});
    table_add_column(x, (struct table_column){.name = "n_heads", .audience = FOR_PROGRAMS});
    table_add_column(x,
        (struct table_column){.name = "sparsity",
            .weight = 4,
            .number = NUMBER_PERCENT,
            .digits = 1,
            .better = METRIC_HIGHER});
    table_add_column(x,
        (struct table_column){
            .name = "worst head", .key = "error_worst", .number = NUMBER_FIXED, .digits = 4});
    if (t->costs) {
        table_add_column(x,
            (struct table_column){
                .name = "alone at", .key = "bound_alone", .number = NUMBER_SHORT, .digits = 3});
        table_add_column(x,
            (struct table_column){.name = "sparsity alone", .number = NUMBER_PERCENT, .digits = 1});
        table_add_column(x,
            (struct table_column){.name = "KL alone",
                .key = "kl_alone",
                .unit = "nats",
                .number = NUMBER_FIXED,
                .digits = 4});
        table_add_column(
            x, (struct table_column){.name = "cosine alone", .number = NUMBER_FIXED, .digits = 4});
    }
    for (int l = 0; l < t->n_layers; l++) {
        struct layer_sum s = sum_layers(t, l, l + 1);
        char text[32];
        if (!s.n_heads) continue;
        snprintf(text, sizeof text, "%d of %d", s.n_sparse, s.n_heads);
        table_int(x, l);
        table_int(x, s.n_sparse);
        table_show(x, text);
        table_int(x, s.n_heads);
        table_real(x, s.sparsity);
        table_real(x, s.error);
        if (!t->costs) continue;
        const struct layer_cost *c = &t->costs[l];
        bool run = c->bound > 0;
        table_real(x, run ? c->bound : NAN);
        table_real(x, run ? c->sparsity : NAN);
        table_real(x, run ? c->kl : NAN);
        table_real(x, run ? c->cosine : NAN);
    }
    return x;
}

/* The guide's layer strategies are to keep the low layers dense, and to tune the middle or the late
 * ones. */
static const char *const third_names[] = {"low", "middle", "late"};

static int third_first(const struct tuned *t, int i) { return t->n_layers * i / 3; }

/* What each third gives under the bounds of this file, and what is left of it when only some thirds
 * are sparse. */
static void print_thirds(const struct tuned *t, const char *path)
{
    double share[3] = {0}, best = -1, worst = 2;
    int best_at = 0, worst_at = 0, n_seen = 0;
    bool one_bound = true;
    for (int i = 0; i < t->n_layers * t->n_heads; i++) one_bound &= !(t->heads[i].pv_l1 > 0);
    say("\n");
    for (int i = 0; i < 3; i++) {
        int first = third_first(t, i), end = third_first(t, i + 1);
        struct layer_sum s = sum_layers(t, first, end);
        if (!s.n_heads) continue;
        n_seen++;
        share[i] = s.sparsity * (end - first) / t->n_layers;
        say("%-6s layers %d-%d: %d of %d heads sparse, %.1f %% sparsity under %s\n", third_names[i],
            first, end - 1, s.n_sparse, s.n_heads, 100 * s.sparsity,
            one_bound ? "the same bound" : "the bounds they got");
        if (s.sparsity > best) best = s.sparsity, best_at = i;
        if (s.sparsity < worst) worst = s.sparsity, worst_at = i;
    }
    if (n_seen < 3) return;
    say("Sparsity of the whole model with all layers %.1f %%; low layers dense %.1f %% (eval "
        "--tuned %s --layers %d,%d); only middle "
        "%.1f %%; only late %.1f %%.\n",
        100 * (share[0] + share[1] + share[2]), 100 * (share[1] + share[2]), path,
        third_first(t, 1), t->n_layers, 100 * share[1], 100 * share[2]);
    if (one_bound)
        say("At equal error in their own outputs the %s layers give the most and the %s layers the "
            "least%s.\n",
            third_names[best_at], third_names[worst_at],
            worst_at == 0
                ? ": keeping low layers dense, as the guide advises, costs little"
                : ": by that alone the guide's low layers are not the ones to keep dense");
}

/* End to end: what a point of sparsity costs in each third, from layers that were run alone. */
static void print_costs(const struct tuned *t)
{
    double price[3], low = INFINITY, high = 0;
    int low_at = 0, high_at = 0;
    say("\nEnd to end, one layer sparse at a time:\n");
    for (int i = 0; i < 3; i++) {
        double kl = 0, sparsity = 0;
        for (int l = third_first(t, i); l < third_first(t, i + 1); l++) {
            kl += t->costs[l].bound > 0 ? t->costs[l].kl : 0;
            sparsity += t->costs[l].bound > 0 ? t->costs[l].sparsity / t->n_layers : 0;
        }
        if (!(sparsity > 0)) {
            say("%-6s layers: none was run, or none is sparse at that bound\n", third_names[i]);
            return;
        }
        price[i] = kl / (100 * sparsity);
        say("%-6s layers %d-%d: together %.1f points of the model's sparsity for a KL of %.4f, "
            "%.5f per point\n",
            third_names[i], third_first(t, i), third_first(t, i + 1) - 1, 100 * sparsity, kl,
            price[i]);
        if (price[i] < low) low = price[i], low_at = i;
        if (price[i] > high) high = price[i], high_at = i;
    }
    say("A point of sparsity is dearest in the %s layers and cheapest in the %s ones%s.\n",
        third_names[high_at], third_names[low_at],
        high_at == 0 ? ", as the guide's advice to keep low layers dense supposes"
                     : ": the guide's advice to keep low layers dense does not fit this model");
}

static enum status explain_command(struct command_call *call)
{
    enum status st;
    struct tuned t = {0};
    char over[OVER_BOUND_TEXT];
    if (!call->n) return fail(ERR_ARG, "explain needs a tuned file; -h shows an example");
    if (str_ends_with(call->positional[0], ".pt"))
        TRY_GOTO(st, done,
            fail(ERR_ARG,
                "%s: SpargeAttn's .pt holds thresholds alone, no bounds, errors or reasons; "
                "explain the "
                "tuned.json that `tune -o` writes",
                call->positional[0]));
    TRY_GOTO(st, done, tuned_read(&t, call->positional[0]));
    struct table *about = table_new(NULL);
    field_text(about, "model", NULL, t.model_name);
    field_text(about, "dataset", NULL, t.data_name);
    field_text(about, "method", NULL, t.method);
    field_text(about, "rule", NULL, tune_rule_name(t.rule));
    field_real(about, "l1", NULL, t.l1, NUMBER_SHORT, 3);
    field_real(about, "pv_l1", NULL, t.pv_l1, NUMBER_SHORT, 3);
    field_count(about, "block_q", NULL, t.block.q);
    field_count(about, "block_k", NULL, t.block.k);
    field_text(about, "smooth_k", NULL, smooth_k_name(t.smooth_k));
    field_count(about, "num_samples", NULL, t.num_samples);
    field_count(about, "num_check", NULL, t.num_check);
    field_count(about, "num_held_out", NULL, t.num_held_out);
    field_count(about, "max_length", NULL, t.max_length);
    field_bool(about, "verified", NULL, t.verified);
    field_bool(about, "edited", NULL, t.edited);
    data_object("tuned", about);
    say("%s: %s, method %s, rule %s, bounds l1 %g and pv_l1 %g, blocks %dx%d, smooth_k %s\n"
        "tuned on %d samples of %s (up to %d tokens), %d more to check, %d held out\n",
        call->positional[0], t.model_name, t.method, tune_rule_name(t.rule), t.l1, t.pv_l1,
        t.block.q, t.block.k, smooth_k_name(t.smooth_k), t.num_samples, t.data_name, t.max_length,
        t.num_check, t.num_held_out);
    if (t.over.n_samples) say("on those held out %s\n", over_bound_text(&t.over, over));
    if (t.coverage > 0)
        say("bounds were tightened to %.2f of those above, for %g %% of heads and texts to hold "
            "them\n",
            t.tightened, 100 * t.coverage);
    if (t.goal[0])
        say("\nBounds per layer or head, searched by optimise to keep %s; those above are the "
            "largest.\n",
            t.goal);
    if (t.edited)
        say("\nThis file was changed since it was written: its errors were not measured with these "
            "thresholds.\n");
    else if (!t.verified)
        say("\nNothing in this file was verified: it comes from stored curves, or from another "
            "program.\n");
    if (o.layers) print_table("layers", layers_of(&t));
    else print_table("heads", heads_of(&t));
    if (for_people()) print_thirds(&t, call->positional[0]);
    if (for_people() && t.costs) print_costs(&t);
done:
    tuned_clear(&t);
    return st;
}

const struct command cmd_explain = {
    .name = "explain",
    .summary = "what a tuned file chose, head by head, and why",
    .help =
        {
            "explain TUNED.json [options]",
            "Prints what a tuned file holds: per head the thresholds, the bound, what was achieved "
            "on tuning, check and held-out samples,\n"
            "the sparsity that was counted, and why a head stayed dense; then how low, middle and "
            "late layers compare with the layer\n"
            "strategies of the tuning guide, end to end when the file comes from optimise.",
            "sparsegauge explain tuned.json\nsparsegauge explain tuned.json --by-layer --format md",
        },
    .options = options,
    .max_positional = 1,
    .run = explain_command,
};

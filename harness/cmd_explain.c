#include "harness/command.h"

#include "engine/tuned.h"
#include "harness/output.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static struct {
    struct output_options output;
    bool layers;
} o;

static const struct option_def options[] = {
    {"by-layer", OPTION_FLAG, &o.layers, NULL, "one row per layer instead of one per head", 0, 0},
    OUTPUT_OPTIONS(o.output),
    {0},
};

static const struct command_help help = {
    "explain TUNED.json [options]",
    "Prints what a tuned file holds: per head the thresholds, the bound, what was achieved on tuning and on held-out samples,\n"
    "the sparsity that was counted, and why a head stayed dense; then how low, middle and late layers compare.",
    "sparsegauge explain tuned.json\nsparsegauge explain tuned.json --by-layer --format md",
};

static struct table *heads_of(const struct tuned *t)
{
    struct table *x = table_new(NULL);
    table_add_column(x, (struct table_column){.name = "layer"});
    table_add_column(x, (struct table_column){.name = "head"});
    table_add_column(x, (struct table_column){.name = "simthreshd1", .number = NUMBER_SHORT, .digits = 4});
    table_add_column(x, (struct table_column){.name = "cdfthreshd", .number = NUMBER_SHORT, .digits = 4});
    table_add_column(x, (struct table_column){.name = "pvthreshd", .number = NUMBER_SHORT, .digits = 4});
    table_add_column(x, (struct table_column){.name = "sparsity", .number = NUMBER_PERCENT, .digits = 1, .better = METRIC_HIGHER});
    table_add_column(x, (struct table_column){.name = "tuning", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(x, (struct table_column){.name = "held-out", .number = NUMBER_FIXED, .digits = 4});
    table_add_column(x, (struct table_column){.name = "backed off"});
    table_add_column(x, (struct table_column){.name = "why dense"});
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        const struct tuned_head *h = &t->heads[i];
        if (!h->in_range) continue;
        bool sparse = h->params.is_sparse;
        table_int(x, i / t->n_heads);
        table_int(x, i % t->n_heads);
        table_real(x, sparse ? (double)h->params.simthreshd1 : NAN);
        table_real(x, sparse ? (double)h->params.cdfthreshd : NAN);
        table_real(x, sparse ? (double)h->params.pvthreshd : NAN);
        table_real(x, h->sparsity);
        table_real(x, sparse ? head_error_by(&h->tune, t->rule) : NAN);
        table_real(x, sparse && t->num_held_out ? head_error_by(&h->held_out, t->rule) : NAN);
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
    table_add_column(x, (struct table_column){.name = "sparse heads"});
    table_add_column(x, (struct table_column){.name = "sparsity", .number = NUMBER_PERCENT, .digits = 1, .better = METRIC_HIGHER});
    table_add_column(x, (struct table_column){.name = "worst head", .number = NUMBER_FIXED, .digits = 4});
    for (int l = 0; l < t->n_layers; l++) {
        struct layer_sum s = sum_layers(t, l, l + 1);
        char text[32];
        if (!s.n_heads) continue;
        snprintf(text, sizeof text, "%d of %d", s.n_sparse, s.n_heads);
        table_int(x, l);
        table_text(x, text);
        table_real(x, s.sparsity);
        table_real(x, s.error);
    }
    return x;
}

/* The guide advises to leave low layers dense and to tune middle or late ones: what do the measured heads say? */
static void print_thirds(const struct tuned *t)
{
    static const char *const names[] = {"low", "middle", "late"};
    double best = -1, worst = 2;
    int best_at = 0, worst_at = 0, n_seen = 0;
    printf("\n");
    for (int i = 0; i < 3; i++) {
        int first = t->n_layers * i / 3, end = t->n_layers * (i + 1) / 3;
        struct layer_sum s = sum_layers(t, first, end);
        if (!s.n_heads) continue;
        n_seen++;
        printf("%-6s layers %d-%d: %d of %d heads sparse, %.1f %% sparsity under the same bound\n", names[i], first, end - 1,
               s.n_sparse, s.n_heads, 100 * s.sparsity);
        if (s.sparsity > best) best = s.sparsity, best_at = i;
        if (s.sparsity < worst) worst = s.sparsity, worst_at = i;
    }
    if (n_seen == 3)
        printf("Under one bound the %s layers give the most and the %s layers the least%s.\n", names[best_at], names[worst_at],
               worst_at == 0 ? ", as the tuning guide's advice to keep low layers dense supposes"
                             : ": the guide's advice to keep low layers dense does not fit this model");
}

int cmd_explain(int argc, char **argv)
{
    o.output = output_defaults;
    const char *positional[1];
    int n;
    bool want_help;
    enum status st = options_parse(options, argc, argv, positional, 1, &n, &want_help);
    if (st != OK) return report_failure(st);
    if (want_help) {
        options_print_help(&help, options);
        return EXIT_PASS;
    }
    struct tuned t = {0};
    bool terminal = strcmp(o.output.format, "terminal") == 0;
    if (!n) return report_failure(fail(ERR_ARG, "explain needs a tuned file; -h shows an example"));
    TRY_GOTO(st, done, tuned_read(&t, positional[0]));
    if (terminal)
        printf("%s: %s, method %s, rule %s, bounds l1 %g and pv_l1 %g, blocks %dx%d, smooth_k %s\n"
               "tuned on %d samples of %s (up to %d tokens), %d more held out\n\n",
               positional[0], t.model_name, t.method, tune_rule_name(t.rule), t.l1, t.pv_l1, t.block.q, t.block.k,
               smooth_k_name(t.smooth_k), t.num_samples, t.data_name, t.max_length, t.num_held_out);
    TRY_GOTO(st, done, print_table(o.layers ? layers_of(&t) : heads_of(&t), &o.output));
    if (terminal) print_thirds(&t);
done:
    tuned_clear(&t);
    return st == OK ? EXIT_PASS : report_failure(st);
}

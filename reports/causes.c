#include "reports/attribution.h"
#include "base/xmalloc.h"
#include "reports/columns.h"
#include "reports/tables.h"
#include "results/columns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WORST = 3 };

/* How much of a sample's damage each head is charged with: weight[sample * n_cells + layer *
 * n_heads + head], one line for all samples when the evidence does not tell them apart. */
struct blame {
    const char *how, *measure,
        *key; /* measure: what `value` of the table is; key: its name for programs */
    bool guessed;
    int n_layers, n_heads;
    size_t n_lines;
    double *weight;
};

static size_t cells_of(const struct blame *b) { return (size_t)b->n_layers * (size_t)b->n_heads; }

static double *at(struct blame *b, size_t line, int layer, int head)
{
    if (line >= b->n_lines || layer < 0 || layer >= b->n_layers || head < 0 || head >= b->n_heads)
        return NULL;
    return &b->weight[line * cells_of(b) + (size_t)(layer * b->n_heads + head)];
}

static void blame_shape(struct blame *b, size_t n_lines)
{
    free(b->weight);
    b->n_lines = n_lines;
    b->weight = xcalloc(n_lines * cells_of(b) + 1, sizeof *b->weight);
}

static bool any(const struct blame *b)
{
    for (size_t i = 0; i < b->n_lines * cells_of(b); i++)
        if (b->weight[i] > 0) return true;
    return false;
}

static void charge(struct blame *b, size_t line, int layer, int head, double weight)
{
    double *to = at(b, line, layer, head);
    if (to && weight > 0) *to = weight;
}

static double left_out(const struct ledger_record *r)
{
    int64_t possible = r->tiles_possible + r->pv_possible;
    return possible ? 1 - (double)(r->tiles_computed + r->pv_computed) / (double)possible : NAN;
}

static double sparsity_of(const struct run_view *v, int layer, int head)
{
    for (size_t i = 0; i < v->ledger.n; i++)
        if (v->ledger.rows[i].layer == layer && v->ledger.rows[i].head == head)
            return left_out(&v->ledger.rows[i]);
    return NAN;
}

/* Runs of one layer or head under the same settings as this one. */
static bool speaks_of(const struct attribution *a, const struct run_record *r)
{
    return !a->all_but && columns_same(&run_columns, a->run, r, COLUMN_SETTING, COLUMN_PLACE);
}

/* From runs in which one head alone was sparse. */
static bool blame_heads_alone(
    struct blame *b, const struct run_view *v, const struct run_list *runs)
{
    struct attribution *rows;
    size_t n;
    if (!runs || attribution_find(runs, &rows, &n) != OK) return false;
    blame_shape(b, 1);
    for (size_t i = 0; i < n; i++)
        if (speaks_of(&rows[i], v->run)) charge(b, 0, rows[i].layer, rows[i].head, rows[i].kl);
    free(rows);
    b->measure = "KL when it alone is sparse";
    b->key = "kl_alone";
    b->how = "measured end to end with one head sparse at a time (sweep --heads each)";
    return any(b);
}

static bool blame_measured(struct blame *b, const struct run_view *v)
{
    blame_shape(b, v->samples.n);
    for (size_t s = 0; s < v->samples.n; s++)
        for (size_t i = 0; i < v->layer_errors.n; i++) {
            const struct layer_error_record *e = &v->layer_errors.rows[i];
            if (e->sample == v->samples.rows[s].sample)
                charge(b, s, e->layer, e->head, e->isolated_l1);
        }
    b->measure = "L1 of its output";
    b->guessed = false;
    b->key = "isolated_l1";
    b->how = "measured in each sample: the L1 error of each head's attention output, its layer "
             "alone sparse (--attribution)";
    return any(b);
}

static bool blame_sparsity(struct blame *b, const struct run_view *v)
{
    blame_shape(b, 1);
    for (size_t i = 0; i < v->ledger.n; i++)
        charge(b, 0, v->ledger.rows[i].layer, v->ledger.rows[i].head, left_out(&v->ledger.rows[i]));
    b->measure = "share left out";
    b->guessed = true;
    b->key = "left_out";
    b->how = "guessed from the work each head left out, for no error by head was measured; eval "
             "--attribution measures it";
    return any(b);
}

/* Make the heads of a layer weigh `kl` together, in each line. */
static void scale_layer(struct blame *b, int layer, double kl)
{
    for (size_t line = 0; line < b->n_lines; line++) {
        double *heads = at(b, line, layer, 0), whole = 0;
        for (int h = 0; heads && h < b->n_heads; h++) whole += heads[h];
        for (int h = 0; heads && h < b->n_heads; h++)
            heads[h] = whole > 0 ? heads[h] * kl / whole : 0;
    }
}

/* From runs in which one layer alone was sparse; its heads share by their measured error, or by the
 * work they left out.
 */
static bool blame_layers_alone(
    struct blame *b, const struct run_view *v, const struct run_list *runs)
{
    struct attribution *rows;
    size_t n;
    if (!runs || attribution_find(runs, &rows, &n) != OK) return false;
    bool known = false, measured = blame_measured(b, v);
    if (!measured) blame_sparsity(b, v);
    for (int l = 0; l < b->n_layers; l++) {
        double kl = 0;
        for (size_t i = 0; i < n; i++)
            if (speaks_of(&rows[i], v->run) && rows[i].head < 0 && rows[i].layer == l)
                kl = rows[i].kl;
        scale_layer(b, l, kl);
        known |= kl > 0;
    }
    free(rows);
    b->measure = "its part of the KL when its layer alone is sparse";
    b->key = "kl_share_of_layer";
    b->how = measured ? "measured end to end with one layer sparse at a time (sweep --layers "
                        "each), within a layer by the L1 "
                        "error of its output in the sample (--attribution)"
                      : "measured end to end with one layer sparse at a time (sweep --layers "
                        "each), within a layer by the work "
                        "it left out";
    return known && any(b);
}

static bool blame_tuned(struct blame *b, const struct run_view *v)
{
    if (!v->tuned.n) return false;
    const struct tuned_record *t = &v->tuned.rows[0];
    bool tail = text_same(t->rule, "tail");
    blame_shape(b, 1);
    for (size_t i = 0; i < t->n_heads; i++)
        if (t->heads[i].is_sparse)
            charge(b, 0, t->heads[i].layer, t->heads[i].head,
                tail ? t->heads[i].tail_held_out : t->heads[i].l1_held_out);
    b->measure = tail ? "tail error" : "L1";
    b->guessed = true;
    b->key = tail ? "tail_held_out" : "l1_held_out";
    b->how = "estimated from the error each head had when it was tuned, on held-out text; "
             "--attribution measures it here";
    return any(b);
}

struct cause {
    size_t sample;   /* index into the samples */
    int layer, head; /* -1: not told apart */
    double share, value;
};

static void offer(struct cause worst[WORST], size_t *n, struct cause c)
{
    if (!(c.share > 0)) return;
    size_t i = *n < WORST ? (*n)++ : WORST;
    for (; i > 0 && worst[i - 1].share < c.share; i--)
        if (i < WORST) worst[i] = worst[i - 1];
    if (i < WORST) worst[i] = c;
}

/* Every head of every sample: the sample's part of all damage, times the head's part of what is
 * charged in the sample.
 */
static size_t find_worst(
    const struct run_view *v, const struct blame *b, bool has_heads, struct cause worst[WORST])
{
    size_t n = 0;
    double total = 0;
    for (size_t s = 0; s < v->samples.n; s++)
        total += v->samples.rows[s].kl_mean * (double)v->samples.rows[s].n_tokens;
    if (!(total > 0)) return 0; /* no damage, no cause */
    for (size_t s = 0; s < v->samples.n; s++) {
        double part = v->samples.rows[s].kl_mean * (double)v->samples.rows[s].n_tokens / total,
               charged = 0;
        const double *line = has_heads ? b->weight + (b->n_lines > 1 ? s : 0) * cells_of(b) : NULL;
        for (size_t c = 0; has_heads && c < cells_of(b); c++) charged += line[c];
        if (!(charged > 0)) offer(worst, &n, (struct cause){s, -1, -1, part, NAN});
        else
            for (size_t c = 0; c < cells_of(b); c++)
                offer(worst, &n,
                    (struct cause){s, (int)c / b->n_heads, (int)c % b->n_heads,
                        part * line[c] / charged, line[c]});
    }
    return n;
}

static void put_index(struct table *t, int value)
{
    if (value < 0) table_missing(t);
    else table_int(t, value);
}

static void add_notes(
    struct table *t, const struct run_view *v, const struct blame *b, bool has_heads)
{
    char *how = str_format("damage: KL, summed over tokens. A sample's part of it is counted; %s%s",
        has_heads ? "a head's part of its sample is " : "",
        has_heads          ? b->how
            : v->from_file ? "a file tells no layers and heads apart; `gate RUN --db DATABASE` does"
                           : "nothing is known of layers and heads");
    table_note(t, how);
    free(how);
    if (!v->worst_tokens.n) return;
    const struct worst_token_record *w = &v->worst_tokens.rows[0];
    char *token = str_format(
        "worst token: sample %d, position %lld, KL %.3g nats, its row of blocks %.0f %% sparse",
        w->sample, (long long)w->position, w->kl, 100 * w->row_sparsity);
    table_note(t, token);
    free(token);
}

/* By the best evidence there is; false when none tells heads apart. */
static bool blame(struct blame *b, const struct run_view *v, const struct run_list *runs)
{
    *b = (struct blame){.n_layers = v->run->model.n_layers, .n_heads = v->run->model.n_heads};
    return blame_heads_alone(b, v, runs) || blame_layers_alone(b, v, runs) ||
        blame_measured(b, v) || blame_tuned(b, v) || blame_sparsity(b, v);
}

bool run_worst_cause(const struct run_view *v, const struct run_list *runs, struct worst_cause *out)
{
    struct blame b;
    struct cause worst[WORST];
    bool has_heads = blame(&b, v, runs);
    size_t n = find_worst(v, &b, has_heads, worst);
    if (n)
        *out = (struct worst_cause){worst[0].layer, worst[0].head,
            v->samples.rows[worst[0].sample].sample, worst[0].share, b.guessed};
    free(b.weight);
    return n > 0;
}

struct table *causes_table(const struct run_view *v, const struct run_list *runs)
{
    struct table *t = table_new("Worst causes");
    static const char *const names[] = {"layer", "head", "sample"};
    for (int i = 0; i < 3; i++) table_add_column(t, (struct table_column){.name = names[i]});
    struct blame b;
    bool has_heads = blame(&b, v, runs);
    add_share(t, "damage", "of the damage", METRIC_NEITHER);
    add(t, "kl_mean", "KL of the sample", "nats", NUMBER_FIXED, 4, METRIC_NEITHER);
    add(t, "head_value", has_heads ? b.measure : "of the head", NULL, NUMBER_SHORT, 4,
        METRIC_NEITHER);
    add_share(t, "sparsity", "left out", METRIC_NEITHER);
    add_data(t, "head_measure");
    struct cause worst[WORST];
    size_t n = find_worst(v, &b, has_heads, worst);
    for (size_t i = 0; i < n; i++) {
        const struct sample_record *s = &v->samples.rows[worst[i].sample];
        put_index(t, worst[i].layer);
        put_index(t, worst[i].head);
        table_int(t, s->sample);
        table_real(t, worst[i].share);
        table_real(t, s->kl_mean);
        table_real(t, worst[i].value);
        table_real(
            t, worst[i].layer < 0 ? s->sparsity : sparsity_of(v, worst[i].layer, worst[i].head));
        table_text(t, has_heads ? b.key : NULL);
    }
    if (n) add_notes(t, v, &b, has_heads);
    free(b.weight);
    return t;
}

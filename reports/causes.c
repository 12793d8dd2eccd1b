#include "reports/attribution.h"
#include "reports/tables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WORST = 3 };

/* The worst three of something, the largest first. */
struct ranking {
    struct place {
        int layer, head, sample; /* -1: does not apply */
        double value;
        double sparsity;
    } places[WORST];
    size_t n;
};

static void offer(struct ranking *r, struct place p)
{
    if (isnan(p.value)) return;
    size_t at = r->n < WORST ? r->n++ : WORST;
    while (at > 0 && r->places[at - 1].value < p.value) {
        if (at < WORST) r->places[at] = r->places[at - 1];
        at--;
    }
    if (at < WORST) r->places[at] = p;
}

static void put_index(struct table *t, int value)
{
    if (value < 0) table_missing(t);
    else table_int(t, value);
}

static void put(struct table *t, const char *kind, const struct ranking *r, const char *measure)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct place *p = &r->places[i];
        table_text(t, kind);
        put_index(t, p->layer);
        put_index(t, p->head);
        put_index(t, p->sample);
        table_text(t, measure);
        table_real(t, p->value);
        table_real(t, p->sparsity);
    }
}

static double left_out(const struct ledger_record *r)
{
    int64_t possible = r->tiles_possible + r->pv_possible;
    return possible ? 1 - (double)(r->tiles_computed + r->pv_computed) / (double)possible : NAN;
}

static double head_sparsity(const struct run_view *v, int layer, int head)
{
    for (size_t i = 0; i < v->ledger.n; i++)
        if (v->ledger.rows[i].layer == layer && v->ledger.rows[i].head == head) return left_out(&v->ledger.rows[i]);
    return NAN;
}

static double layer_sparsity(const struct run_view *v, int layer)
{
    double possible = 0, computed = 0;
    for (size_t i = 0; i < v->ledger.n; i++) {
        const struct ledger_record *r = &v->ledger.rows[i];
        if (r->layer != layer) continue;
        possible += (double)(r->tiles_possible + r->pv_possible);
        computed += (double)(r->tiles_computed + r->pv_computed);
    }
    return possible > 0 ? 1 - computed / possible : NAN;
}

static bool same_text(const char *a, const char *b) { return !a || !b ? a == b : !strcmp(a, b); }

/* Runs of one layer under the same method, rule and bounds as this one. */
static bool speaks_of(const struct attribution *a, const struct run_record *r)
{
    return !a->all_but && same_text(a->run->method, r->method) && same_text(a->run->rule, r->rule) &&
           (a->run->l1 == r->l1 || (isnan(a->run->l1) && isnan(r->l1)));
}

static const char *rank_alone(const struct run_view *v, const struct run_list *runs, bool heads, struct ranking *out)
{
    struct attribution *rows;
    size_t n;
    if (!runs || attribution_find(runs, &rows, &n) != OK) return NULL;
    for (size_t i = 0; i < n; i++)
        if (speaks_of(&rows[i], v->run) && (rows[i].head >= 0) == heads)
            offer(out, (struct place){rows[i].layer, rows[i].head, -1, rows[i].kl,
                                      heads ? head_sparsity(v, rows[i].layer, rows[i].head)
                                            : layer_sparsity(v, rows[i].layer)});
    free(rows);
    return out->n ? "KL when it alone is sparse, nats" : NULL;
}

static const char *rank_measured(const struct run_view *v, bool heads, struct ranking *out)
{
    for (size_t i = 0; i < v->layer_errors.n; i++) {
        const struct layer_error_record *e = &v->layer_errors.rows[i];
        if ((e->head >= 0) == heads)
            offer(out,
                  (struct place){e->layer, e->head, -1, isnan(e->isolated_l1) ? e->propagated_l1 : e->isolated_l1,
                                 heads ? head_sparsity(v, e->layer, e->head) : layer_sparsity(v, e->layer)});
    }
    return out->n ? "L1 of its attention output" : NULL;
}

static const char *rank_tuned(const struct run_view *v, bool heads, struct ranking *out)
{
    if (!v->tuned.n) return NULL;
    const struct tuned_record *t = &v->tuned.rows[0];
    bool tail = same_text(t->rule, "tail");
    for (size_t i = 0; i < t->n_heads; i++) {
        const struct tuned_head_record *h = &t->heads[i];
        if (!h->is_sparse) continue;
        double value = tail ? h->tail_held_out : h->l1_held_out;
        if (heads) {
            offer(out, (struct place){h->layer, h->head, -1, value, head_sparsity(v, h->layer, h->head)});
            continue;
        }
        bool first = true; /* each layer once, by its worst head */
        double worst = value;
        for (size_t k = 0; k < t->n_heads; k++) {
            const struct tuned_head_record *o = &t->heads[k];
            if (o->layer != h->layer || !o->is_sparse) continue;
            first &= k >= i;
            worst = fmax(worst, tail ? o->tail_held_out : o->l1_held_out);
        }
        if (first) offer(out, (struct place){h->layer, -1, -1, worst, layer_sparsity(v, h->layer)});
    }
    if (!out->n) return NULL;
    return heads ? tail ? "tail error on held-out text" : "L1 on held-out text"
                 : tail ? "tail error of its worst head" : "L1 of its worst head";
}

/* Without any measured error, what left out most is the first suspect. */
static const char *rank_sparsity(const struct run_view *v, bool heads, struct ranking *out)
{
    for (size_t i = 0; i < v->ledger.n; i++) {
        const struct ledger_record *r = &v->ledger.rows[i];
        double s = heads ? left_out(r) : layer_sparsity(v, r->layer);
        if ((heads || r->head == 0) && s > 0) offer(out, (struct place){r->layer, heads ? r->head : -1, -1, s, s});
    }
    return "share left out (no error by head was measured)";
}

struct table *causes_table(const struct run_view *v, const struct run_list *runs)
{
    struct table *t = table_new("Worst causes");
    static const char *const names[] = {"cause", "layer", "head", "sample", "measure"};
    for (int i = 0; i < 5; i++) table_add_column(t, (struct table_column){.name = names[i]});
    table_add_column(t, (struct table_column){.name = "value", .number = NUMBER_SHORT, .digits = 4});
    table_add_column(t, (struct table_column){.name = "sparsity", .number = NUMBER_PERCENT, .digits = 1});
    for (int heads = 0; heads < 2; heads++) {
        struct ranking r = {0};
        const char *measure = rank_alone(v, runs, heads, &r);
        if (!measure) measure = rank_measured(v, heads, &r);
        if (!measure) measure = rank_tuned(v, heads, &r);
        if (!measure) measure = rank_sparsity(v, heads, &r);
        put(t, heads ? "head" : "layer", &r, measure);
    }
    struct ranking samples = {0}, tokens = {0};
    for (size_t i = 0; i < v->samples.n; i++) {
        const struct sample_record *s = &v->samples.rows[i];
        offer(&samples, (struct place){-1, -1, s->sample, s->kl_mean, s->sparsity});
    }
    put(t, "sample", &samples, "mean KL, nats");
    if (v->worst_tokens.n) {
        const struct worst_token_record *w = &v->worst_tokens.rows[0];
        char *measure = str_format("KL at position %lld, nats", (long long)w->position);
        offer(&tokens, (struct place){-1, -1, w->sample, w->kl, w->row_sparsity});
        put(t, "token", &tokens, measure);
        free(measure);
    }
    if (v->from_file) table_note(t, "a file holds samples alone; judge the run in its database for layers and heads");
    return t;
}

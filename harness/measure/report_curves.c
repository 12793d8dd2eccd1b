#include "harness/measure/report_curves.h"

#include "harness/measure/curve_db.h"
#include "reports/view.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double error_of(const struct curve_point *p, const char *rule)
{
    return (double)(strcmp(rule, "tail") == 0 ? p->error.tail
            : strcmp(rule, "cosine") == 0     ? p->error.cosine
            : strcmp(rule, "rmse") == 0       ? p->error.rmse
                                              : p->error.l1);
}

static const struct tuned_head_record *worst_head(const struct tuned_record *t)
{
    const struct tuned_head_record *worst = NULL;
    bool tail = strcmp(t->rule, "tail") == 0;
    for (size_t i = 0; i < t->n_heads; i++) {
        const struct tuned_head_record *h = &t->heads[i];
        if (!h->is_sparse) continue;
        double value = tail ? h->tail_held_out : h->l1_held_out,
               most = !worst ? -1
            : tail           ? worst->tail_held_out
                             : worst->l1_held_out;
        if (!worst || value > most) worst = h;
    }
    return worst;
}

static void take(const struct curve *c, const char *rule, struct report_curves *out)
{
    for (int t = 0; t < N_THETAS; t++) {
        if (t > 0 && memcmp(c->points[t], c->points[t - 1], sizeof c->points[t]) == 0) continue;
        for (int u = 0; u < N_TAUS; u++) {
            out->kept[out->n][u] = (double)c->points[t][u].n_kept / c->n_possible;
            out->error[out->n][u] = error_of(&c->points[t][u], rule);
        }
        out->lines[out->n] = (struct error_curve){
            (double)curve_theta(t), out->kept[out->n], out->error[out->n], N_TAUS};
        out->n++;
    }
}

enum status report_curves_load(struct store *s, const char *run, struct report_curves *out)
{
    struct run_view v;
    memset(out, 0, sizeof *out);
    out->bound = NAN;
    TRY(run_view_load(&v, s, run));
    const struct tuned_record *t = v.tuned.n ? v.tuned.rows : NULL;
    const struct tuned_head_record *h = t && t->rule ? worst_head(t) : NULL;
    struct arena *arena = NULL;
    void *blob = NULL;
    size_t size = 0;
    struct curve *curve = malloc(sizeof *curve);
    enum status st = curve ? OK : fail(ERR_MEMORY, "no memory for an error curve");
    if (st == OK && h) {
        struct curve_key key = {v.run->model.fingerprint, NULL, "curve1", t->method, t->smooth_k,
            t->block_q, t->block_k, h->layer, h->head, 0};
        st = query_curve_data(s, &key, &arena);
        if (st == OK && key.data_fingerprint) st = query_curve(s, &key, &blob, &size);
        if (st == OK && blob) st = curve_unpack(blob, size, curve);
        if (st == OK && blob && curve->n_possible) {
            take(curve, t->rule, out);
            out->bound = t->l1;
            snprintf(out->title, sizeof out->title,
                "layer %d, head %d, sample %d: %s error of every theta and tau", h->layer, h->head,
                key.sample, t->rule);
        }
    }
    free(blob);
    free(curve);
    arena_free(&arena);
    run_view_clear(&v);
    return st;
}

void report_curves_offer(const struct report_curves *c, struct report_options *o)
{
    o->curves = c->lines;
    o->n_curves = c->n;
    o->curves_title = c->title;
    o->curves_bound = c->bound;
}

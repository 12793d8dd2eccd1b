#include "harness/measure/report_curves.h"

#include "harness/measure/curve_db.h"
#include "reports/view.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double error_of(const struct curve_point *p, const char *rule)
{
    enum tune_rule by;
    struct head_error e = head_error_of(&p->error);
    return head_error_by(&e, tune_rule_parse(rule, &by) == OK ? by : RULE_L1);
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

static int nearest(float (*value)(int), int n, double wanted)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (fabs((double)value(i) - wanted) < fabs((double)value(best) - wanted)) best = i;
    return best;
}

static void take(const struct curve *c, const struct tuned_record *tuned,
    const struct tuned_head_record *h, struct report_curves *out)
{
    size_t n = 0;
    for (int t = 0; t < N_THETAS; t++) {
        /* NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): of floats every bit */
        if (t > 0 && memcmp(c->points[t], c->points[t - 1], sizeof c->points[t]) == 0) continue;
        for (int u = 0; u < N_TAUS; u++) {
            out->kept[n][u] = (double)c->points[t][u].n_kept / c->n_possible;
            out->error[n][u] = error_of(&c->points[t][u], tuned->rule);
        }
        out->lines[n] =
            (struct error_curve){(double)curve_theta(t), out->kept[n], out->error[n], N_TAUS};
        n++;
    }
    const struct curve_point *chosen =
        &c->points[nearest(curve_theta, N_THETAS, h->theta)][nearest(curve_tau, N_TAUS, h->tau)];
    out->set = (struct curve_set){.curves = out->lines,
        .n = n,
        .label = out->label,
        .bound = tuned->l1,
        .has_choice = true,
        .choice_theta = h->theta,
        .choice_tau = h->tau,
        .choice_kept = (double)chosen->n_kept / c->n_possible,
        .choice_error = error_of(chosen, tuned->rule)};
}

enum status report_curves_load(struct store *s, const char *run, struct report_curves *out)
{
    struct run_view v;
    memset(out, 0, sizeof *out);
    TRY(run_view_load(&v, s, run));
    const struct tuned_record *t = v.tuned.n ? v.tuned.rows : NULL;
    const struct tuned_head_record *h = t && t->rule ? worst_head(t) : NULL;
    struct arena *arena = NULL;
    void *blob = NULL;
    size_t size = 0;
    struct curve *curve = malloc(sizeof *curve);
    enum status st = curve ? OK : fail(ERR_MEMORY, "no memory for an error curve");
    if (st == OK && h) {
        struct curve_key key = {v.run->model.fingerprint, NULL, CURVE_KIND, t->method, t->smooth_k,
            t->block_q, t->block_k, h->layer, h->head, 0};
        st = query_curve_data(s, &key, &arena);
        if (st == OK && key.data_fingerprint) st = query_curve(s, &key, &blob, &size);
        if (st == OK && blob) st = curve_unpack(blob, size, curve);
        if (st == OK && blob && curve->n_possible) {
            take(curve, t, h, out);
            snprintf(out->label, sizeof out->label, "%s error of layer %d, head %d (log scale)",
                t->rule, h->layer, h->head);
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
    o->curves = c->set.n ? &c->set : NULL;
}

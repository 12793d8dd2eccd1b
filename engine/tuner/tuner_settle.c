/* From curves to thresholds of the heads that are held. All heads and all bounds go through the
 * same rounds together, so that what they have in common is computed once: the tiles behind the
 * curves of λ, the verification of a triple. A round is one call of the backend. Heads are counted
 * from the first one held. */
#include "engine/tuner/tuner_parts.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A (θ, τ) and the rule's error over λ on the worst sample. */
struct pair {
    int theta, tau; /* θ counted in all parts of the method (tuner_part_of) */
    bool want_tune, want_check, have_check;
    double tune[N_LAMBDAS], check[N_LAMBDAS];
    double rise[N_LAMBDAS]; /* mean error over that without stage 2, worst sample so far */
};

struct triple {
    int pair, lambda;
    bool measured;
    struct head_error tune, check;
    double qk_sparsity, sparsity;
};

/* One pair of bounds of one head on its way. */
struct pick {
    int pair, lambda, triple;
    bool open; /* not settled yet */
    bool want_curves;
};

struct head_work {
    struct pair *pairs;
    struct triple *triples;
    struct pick *picks;  /* [n_bounds] */
    struct curve *check; /* [n_check, n_parts]; NULL until a bound fails there */
    int n_pairs, n_triples;
};

struct settling {
    struct tuner *t;
    int n_check;
    struct tuned *out;
    struct head_work *heads;      /* [t->n_heads] */
    struct tuner_choice *choices; /* [t->n_heads, n_bounds] */
};

static struct tuned_head *head_out(const struct settling *s, int bound, int head)
{
    return &s->out[bound].heads[s->t->layer * s->t->c->n_heads + s->t->first_head + head];
}

static enum status pair_of(struct head_work *h, int theta, int tau, int *out)
{
    for (int i = 0; i < h->n_pairs; i++)
        if (h->pairs[i].theta == theta && h->pairs[i].tau == tau) {
            *out = i;
            return OK;
        }
    struct pair *grown = realloc(h->pairs, sizeof *grown * (size_t)(h->n_pairs + 1));
    if (!grown) return fail(ERR_MEMORY, "no memory for the curves of λ");
    h->pairs = grown;
    grown[h->n_pairs] = (struct pair){.theta = theta, .tau = tau};
    *out = h->n_pairs++;
    return OK;
}

static enum status triple_of(struct head_work *h, struct pick *p)
{
    for (int i = 0; i < h->n_triples; i++)
        if (h->triples[i].pair == p->pair && h->triples[i].lambda == p->lambda) {
            p->triple = i;
            return OK;
        }
    struct triple *grown = realloc(h->triples, sizeof *grown * (size_t)(h->n_triples + 1));
    if (!grown) return fail(ERR_MEMORY, "no memory for verified thresholds");
    h->triples = grown;
    grown[h->n_triples] = (struct triple){.pair = p->pair, .lambda = p->lambda};
    p->triple = h->n_triples++;
    return OK;
}

/* What a round asks for: the same of every sample in [first, end), for each head that has something
 * to do. */
struct round {
    void *tasks, *results, *params; /* params: shared by the samples of a head */
    int n_tasks;
};

static void round_clear(struct round *r)
{
    free(r->tasks);
    free(r->results);
    free(r->params);
}

static bool round_init(struct round *r, int n_heads, int n_things, int n_samples, size_t task,
    size_t params, size_t result)
{
    *r = (struct round){malloc(task * (size_t)(n_heads * n_samples)),
        calloc((size_t)(n_things * n_samples), result), malloc(params * (size_t)n_things), 0};
    if (r->tasks && r->results && r->params) return true;
    round_clear(r);
    return false;
}

static enum status no_memory(const struct settling *s)
{
    return fail(ERR_MEMORY, "no memory to settle layer %d", s->t->layer);
}

/* λ: the curves of all pairs that want one on this kind of sample. */

static bool wants(const struct pair *p, bool check) { return check ? p->want_check : p->want_tune; }

static void note_lambdas(
    const struct settling *s, struct head_work *h, const struct pv_curve *c, bool check)
{
    for (int p = 0; p < h->n_pairs; p++) {
        if (!wants(&h->pairs[p], check)) continue;
        double *worst = check ? h->pairs[p].check : h->pairs[p].tune;
        double base = (double)c->points[N_LAMBDAS - 1].error.l1;
        for (int l = 0; l < N_LAMBDAS; l++) {
            double mean = (double)c->points[l].error.l1;
            worst[l] = fmax(worst[l], tuner_error_by(&c->points[l].error, s->t->a->rule));
            h->pairs[p].rise[l] = fmax(h->pairs[p].rise[l], mean > base ? mean / base : 1);
        }
        c++;
    }
}

static enum status make_lambda_curves(struct settling *s, bool check)
{
    struct tuner *t = s->t;
    int first = check ? t->n_tune : 0, end = check ? t->a->n_samples : t->n_tune, n_heads = 0,
        n_pairs = 0;
    for (int head = 0; head < t->n_heads; head++) {
        int n = 0;
        for (int p = 0; p < s->heads[head].n_pairs; p++)
            n += wants(&s->heads[head].pairs[p], check);
        n_heads += n > 0;
        n_pairs += n;
    }
    if (!n_pairs || first == end) return OK;
    struct round r;
    if (!round_init(&r, n_heads, n_pairs, end - first, sizeof(struct tuner_lambda_task),
            sizeof(struct threshold_pair), sizeof(struct pv_curve)))
        return no_memory(s);
    struct tuner_lambda_task *tasks = r.tasks;
    struct threshold_pair *pairs = r.params;
    struct pv_curve *out = r.results;
    for (int head = 0; head < t->n_heads; head++) {
        const struct head_work *h = &s->heads[head];
        int n = 0;
        for (int p = 0; p < h->n_pairs; p++)
            if (wants(&h->pairs[p], check))
                pairs[n++] = (struct threshold_pair){curve_theta(h->pairs[p].theta % N_THETAS),
                    curve_tau(h->pairs[p].tau), tuner_part_of(h->pairs[p].theta)};
        for (int i = first; i < end && n; i++, out += n)
            tasks[r.n_tasks++] =
                (struct tuner_lambda_task){{t->first_head + head, i, 0}, pairs, n, out};
        pairs += n;
    }
    enum status st = t->backend->lambdas(t->state, tasks, r.n_tasks);
    for (int i = 0; i < r.n_tasks && st == OK; i++)
        note_lambdas(s, &s->heads[tasks[i].at.head - t->first_head], tasks[i].out, check);
    for (int head = 0; head < t->n_heads; head++)
        for (int p = 0; p < s->heads[head].n_pairs; p++) {
            struct pair *x = &s->heads[head].pairs[p];
            x->have_check |= check && x->want_check;
            *(check ? &x->want_check : &x->want_tune) = false;
        }
    round_clear(&r);
    return st;
}

/* Check samples get curves over θ and τ only when a bound fails on them and λ cannot help. */
static enum status make_check_curves(struct settling *s)
{
    struct tuner *t = s->t;
    int n = 0;
    struct tuner_curve_task *tasks =
        malloc(sizeof *tasks * (size_t)(t->n_heads * s->n_check * t->n_parts) + 1);
    enum status st = tasks ? OK : no_memory(s);
    for (int head = 0; head < t->n_heads && st == OK; head++) {
        struct head_work *h = &s->heads[head];
        bool wanted = false;
        for (int b = 0; b < t->a->n_bounds; b++) wanted |= h->picks[b].want_curves;
        if (!wanted || h->check || !s->n_check) continue;
        h->check = malloc(sizeof *h->check * (size_t)(s->n_check * t->n_parts));
        if (!h->check)
            st = fail(ERR_MEMORY, "no memory for the curves of %d check samples", s->n_check);
        for (int i = 0; i < s->n_check * t->n_parts && h->check; i++)
            tasks[n++] = (struct tuner_curve_task){
                {t->first_head + head, t->n_tune + i / t->n_parts, i % t->n_parts}, &h->check[i],
                false};
    }
    if (st == OK && n) st = t->backend->curves(t->state, tasks, n);
    free(tasks);
    return st;
}

/* Verification: the inference kernel, with the mask that inference would predict. */

static struct head_params params_of(const struct head_work *h, const struct triple *x)
{
    const struct pair *p = &h->pairs[x->pair];
    return tuner_params_of(p->theta, p->tau, curve_lambda(x->lambda));
}

static void note_measured(
    const struct settling *s, struct head_work *h, int sample, const struct tuner_measured *m)
{
    for (int x = 0; x < h->n_triples; x++) {
        struct triple *v = &h->triples[x];
        if (v->measured) continue;
        if (s->t->a->samples[sample].check) {
            v->check = head_error_worst(v->check, m->error);
        } else {
            v->tune = head_error_worst(v->tune, m->error);
            v->qk_sparsity += ledger_qk_sparsity(&m->ledger) / s->t->n_tune;
            v->sparsity += ledger_sparsity(&m->ledger) / s->t->n_tune;
        }
        m++;
    }
}

static enum status measure_triples(struct settling *s)
{
    struct tuner *t = s->t;
    int n_heads = 0, n_triples = 0, n_samples = t->a->n_samples;
    for (int head = 0; head < t->n_heads; head++) {
        int n = 0;
        for (int x = 0; x < s->heads[head].n_triples; x++) n += !s->heads[head].triples[x].measured;
        n_heads += n > 0;
        n_triples += n;
    }
    if (!n_triples) return OK;
    struct round r;
    if (!round_init(&r, n_heads, n_triples, n_samples, sizeof(struct tuner_measure_task),
            sizeof(struct head_params), sizeof(struct tuner_measured)))
        return no_memory(s);
    struct tuner_measure_task *tasks = r.tasks;
    struct head_params *params = r.params;
    struct tuner_measured *out = r.results;
    for (int head = 0; head < t->n_heads; head++) {
        const struct head_work *h = &s->heads[head];
        int n = 0;
        for (int x = 0; x < h->n_triples; x++)
            if (!h->triples[x].measured) params[n++] = params_of(h, &h->triples[x]);
        for (int i = 0; i < n_samples && n; i++, out += n)
            tasks[r.n_tasks++] =
                (struct tuner_measure_task){{t->first_head + head, i, 0}, params, n, out};
        params += n;
    }
    t->times->n_verified += n_triples * n_samples;
    enum status st = t->backend->measure(t->state, tasks, r.n_tasks);
    for (int i = 0; i < r.n_tasks && st == OK; i++)
        note_measured(
            s, &s->heads[tasks[i].at.head - t->first_head], tasks[i].at.sample, tasks[i].out);
    for (int head = 0; head < t->n_heads; head++)
        for (int x = 0; x < s->heads[head].n_triples; x++)
            s->heads[head].triples[x].measured = true;
    round_clear(&r);
    return st;
}

/* Choice, by all threads; judgement and back-off are cheap, one head after the other. */

static void choose_by_curves(void *ctx, int head, int worker)
{
    const struct settling *s = ctx;
    const struct tuner *t = s->t;
    (void)worker;
    tuner_choose(&t->curves[head * t->n_tune * t->n_parts], t->n_tune, t->n_parts, t->a->rule,
        t->a->bounds, t->a->n_bounds, &s->choices[head * t->a->n_bounds]);
}

static enum status choose_pairs(struct settling *s, int head)
{
    struct tuner *t = s->t;
    struct head_work *h = &s->heads[head];
    for (int b = 0; b < t->a->n_bounds; b++) {
        struct tuned_head *out = head_out(s, b, head);
        const struct tuner_choice *x = &s->choices[head * t->a->n_bounds + b];
        out->in_range = true;
        if (!x->found || x->sparsity < t->a->min_sparsity) {
            tuner_make_dense(out, s->n_check > 0,
                "the curves promise %.1f %% sparsity, too little to be worth it",
                x->found ? 100 * x->sparsity : 0);
            continue;
        }
        TRY(pair_of(h, x->theta, x->tau, &h->picks[b].pair));
        h->pairs[h->picks[b].pair].want_tune = true;
        h->picks[b].open = true;
    }
    return OK;
}

/* The smallest λ from `first` on that holds the bound on tuning samples, and on check samples when
 * their curve is known. Stage 2 errs a little on many rows, and the tail does not see that below
 * its bound (one head of the bundled model went from a mean of .08 to .26 with its tail unmoved):
 * under that rule the mean may rise in proportion to the bounds only. */
static bool smallest_lambda(
    const struct tuner *t, const struct pair *p, int first, struct tune_bounds bounds, int *out)
{
    int found = N_LAMBDAS;
    double bound = bounds.pv_l1;
    for (int l = N_LAMBDAS - 1; l >= first; l--) {
        if (!(p->tune[l] <= bound && (!p->have_check || p->check[l] <= bound))) break;
        if (t->a->rule == RULE_TAIL && l < N_LAMBDAS - 1 && p->rise[l] > bounds.pv_l1 / bounds.l1)
            break;
        found = l;
    }
    if (found == N_LAMBDAS) return false;
    *out = found;
    return true;
}

static enum status choose_first_lambda(struct settling *s, int head)
{
    struct head_work *h = &s->heads[head];
    for (int b = 0; b < s->t->a->n_bounds; b++) {
        struct pick *p = &h->picks[b];
        if (!p->open) continue;
        if (!smallest_lambda(s->t, &h->pairs[p->pair], 0, s->t->a->bounds[b], &p->lambda))
            p->lambda = N_LAMBDAS - 1;
        TRY(triple_of(h, p));
    }
    return OK;
}

/* Settles what holds; what does not asks for its curve on the check samples over λ. Returns how
 * many stay open. */
static int judge(struct settling *s, int head)
{
    const struct tuner *t = s->t;
    struct head_work *h = &s->heads[head];
    int n_open = 0;
    for (int b = 0; b < t->a->n_bounds; b++) {
        struct pick *p = &h->picks[b];
        if (!p->open) continue;
        const struct triple *v = &h->triples[p->triple];
        struct tuned_head *out = head_out(s, b, head);
        out->tune = v->tune;
        out->check = s->n_check ? v->check : head_error_unknown;
        out->held_out = head_error_unknown;
        out->qk_sparsity = v->qk_sparsity;
        out->sparsity = v->sparsity;
        struct head_error worst = head_error_worst(v->tune, v->check);
        p->open = false;
        if (v->sparsity < t->a->min_sparsity) {
            tuner_make_dense(out, s->n_check > 0,
                out->back_offs ? "%.1f %% sparsity is left where the bound holds on every sample"
                               : "%.1f %% sparsity is too little to be worth it",
                100 * v->sparsity);
        } else if (head_error_by(&worst, t->a->rule) <= t->a->bounds[b].pv_l1) {
            out->params = params_of(h, v);
        } else {
            p->open = true;
            n_open++;
            h->pairs[p->pair].want_check =
                !h->pairs[p->pair].have_check && s->n_check > 0 && p->lambda < N_LAMBDAS - 1;
        }
    }
    return n_open;
}

/* Stage 2 gives way first: λ rises to where the bound holds on check samples too. */
static enum status back_off_lambda(struct settling *s, int head)
{
    struct head_work *h = &s->heads[head];
    for (int b = 0; b < s->t->a->n_bounds; b++) {
        struct pick *p = &h->picks[b];
        if (!p->open) continue;
        head_out(s, b, head)->back_offs++;
        p->want_curves = !smallest_lambda(
            s->t, &h->pairs[p->pair], p->lambda + 1, s->t->a->bounds[b], &p->lambda);
        if (!p->want_curves) TRY(triple_of(h, p));
    }
    return OK;
}

static bool pair_holds(const struct settling *s, int head, int theta, int tau, double bound)
{
    const struct tuner *t = s->t;
    int part = tuner_part_of(theta), n = t->n_parts;
    for (int i = 0; i < t->a->n_samples; i++) {
        const struct curve *c = i < t->n_tune ? &t->curves[(head * t->n_tune + i) * n + part]
                                              : &s->heads[head].check[(i - t->n_tune) * n + part];
        if (!(tuner_error_by(&c->points[theta % N_THETAS][tau].error, t->a->rule) <= bound))
            return false;
    }
    return true;
}

/* Then τ rises, which only adds tiles, to where the bound holds on every sample without stage 2. */
static enum status back_off_tau(struct settling *s, int head)
{
    struct head_work *h = &s->heads[head];
    for (int b = 0; b < s->t->a->n_bounds; b++) {
        struct pick *p = &h->picks[b];
        if (!p->open || !p->want_curves) continue;
        struct pair at = h->pairs[p->pair];
        double bound = s->t->a->bounds[b].pv_l1;
        if (at.tau == N_TAUS - 1)
            return fail(ERR_NUMERIC,
                "layer %d, head %d: the bound %g does not hold although every tile is kept",
                s->t->layer, s->t->first_head + head, bound);
        do at.tau++;
        while (at.tau < N_TAUS - 1 && !pair_holds(s, head, at.theta, at.tau, bound));
        p->want_curves = false;
        p->lambda = N_LAMBDAS - 1;
        TRY(pair_of(h, at.theta, at.tau, &p->pair));
        TRY(triple_of(h, p));
    }
    return OK;
}

static enum status settle(struct settling *s)
{
    struct tuner *t = s->t;
    par_for(t->a->par, t->n_heads, choose_by_curves, s);
    for (int head = 0; head < t->n_heads; head++) TRY(choose_pairs(s, head));
    TRY(make_lambda_curves(s, false));
    for (int head = 0; head < t->n_heads; head++) TRY(choose_first_lambda(s, head));
    for (;;) {
        int n_open = 0;
        TRY(measure_triples(s));
        for (int head = 0; head < t->n_heads; head++) n_open += judge(s, head);
        if (!n_open) return OK;
        TRY(make_lambda_curves(s, true));
        for (int head = 0; head < t->n_heads; head++) TRY(back_off_lambda(s, head));
        TRY(make_check_curves(s));
        for (int head = 0; head < t->n_heads; head++) TRY(back_off_tau(s, head));
    }
}

enum status settle_heads(struct tuner *t, struct tuned *out)
{
    int n_heads = t->n_heads;
    struct settling s = {.t = t, .n_check = t->a->n_samples - t->n_tune, .out = out};
    int64_t t0 = clock_ns();
    s.heads = calloc((size_t)n_heads, sizeof *s.heads);
    s.choices = calloc((size_t)(n_heads * t->a->n_bounds), sizeof *s.choices);
    bool ok = s.heads && s.choices;
    for (int i = 0; ok && i < n_heads; i++)
        ok = (s.heads[i].picks = calloc((size_t)t->a->n_bounds, sizeof(struct pick)));
    enum status st = ok ? settle(&s) : no_memory(&s);
    t->times->verify_s += (double)(clock_ns() - t0) * 1e-9;
    for (int i = 0; s.heads && i < n_heads; i++) {
        free(s.heads[i].pairs);
        free(s.heads[i].triples);
        free(s.heads[i].picks);
        free(s.heads[i].check);
    }
    free(s.heads);
    free(s.choices);
    return st;
}

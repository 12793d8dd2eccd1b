/* From curves to thresholds of one layer. All heads and all bounds go through the same rounds together, so that what they
 * have in common is computed once: the tiles behind the curves of λ, the verification of a triple, the packing of K. */
#include "engine/tuner_parts.h"

#include "base/clock.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 4 }; /* triples in one kernel call; each needs an output of its own */

/* A (θ, τ) and the rule's error over λ on the worst sample. */
struct pair {
    int theta, tau;
    bool want_tune, want_held, have_held;
    double tune[N_LAMBDAS], held[N_LAMBDAS];
    double rise[N_LAMBDAS];     /* mean error over that without stage 2, worst sample so far */
};

struct triple {
    int pair, lambda;
    bool measured;
    struct head_error tune, held_out;
    double qk_sparsity, sparsity;
};

/* One pair of bounds of one head on its way. */
struct pick {
    int pair, lambda, triple;
    bool open;                  /* not settled yet */
    bool want_curves;
};

struct head_work {
    struct pair *pairs;
    struct triple *triples;
    struct pick *picks;         /* [n_bounds] */
    struct curve *held;         /* [n_held]; NULL until a bound fails there */
    int n_pairs, n_triples;
};

struct settling {
    struct tuner *t;
    int layer, n_held;
    struct tuned *out;
    struct head_work *heads;    /* [n_heads] */
    struct tuner_task *tasks;   /* [n_heads * n_samples] */
    int n_tasks;
    void *results;              /* of the present round: [n_tasks][most] */
    int most;
};

static struct tuned_head *head_out(const struct settling *s, int bound, int head)
{
    return &s->out[bound].heads[s->layer * s->t->c->n_heads + head];
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

/* Rounds. */

static void clear_tasks(struct settling *s)
{
    free(s->results);
    s->results = NULL;
    s->n_tasks = s->most = 0;
}

/* Every sample in [first, end) for a head that has `n_things` to do. */
static void add_tasks(struct settling *s, int head, int n_things, int first, int end)
{
    if (n_things > s->most) s->most = n_things;
    for (int i = first; i < end && n_things; i++) s->tasks[s->n_tasks++] = (struct tuner_task){head, i};
}

static enum status run_tasks(struct settling *s, tuner_body *body, size_t result_size)
{
    if (!s->n_tasks) return OK;
    s->results = calloc((size_t)s->n_tasks * (size_t)s->most, result_size);
    if (!s->results) return fail(ERR_MEMORY, "no memory to settle layer %d", s->layer);
    return tuner_run(s->t, s->layer, s->tasks, s->n_tasks, body, s);
}

/* λ: the curves of all pairs that want one on this kind of sample. */

static bool wants(const struct pair *p, bool held) { return held ? p->want_held : p->want_tune; }

static enum status lambda_task(struct tuner *t, void *ctx, int i, struct tuner_task task, char *ws)
{
    struct settling *s = ctx;
    const struct head_work *h = &s->heads[task.head];
    struct pv_curve *out = (struct pv_curve *)s->results + (size_t)i * (size_t)s->most;
    struct attn_args attn = tuner_head(t, task.sample, task.head);
    struct mask_args mask = tuner_mask(t, &attn, NULL);
    struct threshold_pair pairs[MAX_LAMBDA_PAIRS];
    int n = 0;
    for (int p = 0; p < h->n_pairs; p++) {
        if (wants(&h->pairs[p], task.sample >= t->n_tune))
            pairs[n++] = (struct threshold_pair){curve_theta(h->pairs[p].theta), curve_tau(h->pairs[p].tau)};
        if (n == 0 || (n < MAX_LAMBDA_PAIRS && p + 1 < h->n_pairs)) continue;
        TRY(curve_lambdas_of(t->a->policy->method, &mask, pairs, n, ws, out));
        out += n;
        n = 0;
    }
    return OK;
}

static enum status make_lambda_curves(struct settling *s, bool held)
{
    struct tuner *t = s->t;
    for (int head = 0; head < t->c->n_heads; head++) {
        int n = 0;
        for (int p = 0; p < s->heads[head].n_pairs; p++) n += wants(&s->heads[head].pairs[p], held);
        add_tasks(s, head, n, held ? t->n_tune : 0, held ? t->a->n_samples : t->n_tune);
    }
    TRY(run_tasks(s, lambda_task, sizeof(struct pv_curve)));
    for (int i = 0; i < s->n_tasks; i++) {
        struct head_work *h = &s->heads[s->tasks[i].head];
        const struct pv_curve *c = (const struct pv_curve *)s->results + (size_t)i * (size_t)s->most;
        for (int p = 0; p < h->n_pairs; p++) {
            if (!wants(&h->pairs[p], held)) continue;
            double *worst = held ? h->pairs[p].held : h->pairs[p].tune;
            double base = (double)c->points[N_LAMBDAS - 1].error.l1;
            for (int l = 0; l < N_LAMBDAS; l++) {
                double mean = (double)c->points[l].error.l1;
                worst[l] = fmax(worst[l], tuner_error_by(&c->points[l].error, t->a->rule));
                h->pairs[p].rise[l] = fmax(h->pairs[p].rise[l], mean > base ? mean / base : 1);
            }
            c++;
        }
    }
    for (int head = 0; head < t->c->n_heads; head++)
        for (int p = 0; p < s->heads[head].n_pairs; p++) {
            struct pair *x = &s->heads[head].pairs[p];
            x->have_held |= held && x->want_held;
            *(held ? &x->want_held : &x->want_tune) = false;
        }
    clear_tasks(s);
    return OK;
}

/* Held-out samples get curves over θ and τ only when a bound fails on them and λ cannot help. */

static enum status held_curve_task(struct tuner *t, void *ctx, int i, struct tuner_task task, char *ws)
{
    (void)i;
    const struct settling *s = ctx;
    struct attn_args attn = tuner_head(t, task.sample, task.head);
    struct mask_args mask = tuner_mask(t, &attn, NULL);
    return curve_thetas(t->a->policy->method, &mask, ws, &s->heads[task.head].held[task.sample - t->n_tune]);
}

static enum status make_held_curves(struct settling *s)
{
    struct tuner *t = s->t;
    for (int head = 0; head < t->c->n_heads; head++) {
        struct head_work *h = &s->heads[head];
        bool wanted = false;
        for (int b = 0; b < t->a->n_bounds; b++) wanted |= h->picks[b].want_curves;
        if (!wanted || h->held || !s->n_held) continue;
        h->held = malloc(sizeof *h->held * (size_t)s->n_held);
        if (!h->held) return fail(ERR_MEMORY, "no memory for the curves of %d held-out samples", s->n_held);
        add_tasks(s, head, 1, t->n_tune, t->a->n_samples);
    }
    TRY(run_tasks(s, held_curve_task, 1));
    clear_tasks(s);
    return OK;
}

/* Verification: the inference kernel, with the mask that inference would predict. */

struct measured_head {
    struct head_error error;
    double qk_sparsity, sparsity;
};

static struct head_params params_of(const struct head_work *h, const struct triple *x)
{
    const struct pair *p = &h->pairs[x->pair];
    return (struct head_params){curve_theta(p->theta), curve_tau(p->tau), curve_lambda(x->lambda), true};
}

/* Up to BATCH triples as the heads of one call: they read the same q, k and v and write outputs of their own. */
static enum status measure_batch(const struct tuner *t, struct tuner_task task, const struct head_params *params, int n,
                                 char *ws, struct measured_head *out)
{
    struct attn_args dense = tuner_head(t, task.sample, task.head), a = dense;
    struct head_ledger ledger[BATCH] = {0};
    struct mask_args mask = tuner_mask(t, &a, params);
    struct tile_map map = tile_map_shape(a.block, n, 0, a.n_q);
    size_t size = (size_t)a.head_dim * (size_t)a.n_q;
    float *o = (float *)ws, lambda[BATCH];
    ws += (BATCH * size * sizeof *o + 63) / 64 * 64;
    map.bits = (uint64_t *)ws;
    ws += (tile_map_bytes(&map) + 63) / 64 * 64;
    for (int i = 0; i < n; i++) lambda[i] = params[i].pvthreshd;
    a.n_heads = n;
    a.q_head = 0;
    a.o = o;
    a.o_row = a.head_dim;
    a.o_head = (ptrdiff_t)size;
    a.ledger = ledger;
    TRY(mask_predict(t->a->policy->method, &mask, &map, ws, NULL));
    a.tiles = &map;
    a.pv_threshold = lambda;
    const struct attn_impl *impl;
    TRY(attn_choose(&a, t->a->impl, &impl));
    TRY(impl->run(&a, ws, NULL, NULL));
    struct output_error e[BATCH];
    TRY(output_errors_of(&dense, o, n, (float *)ws, e));
    for (int i = 0; i < n; i++)
        out[i] = (struct measured_head){tuner_widen(&e[i]), ledger_qk_sparsity(&ledger[i]), ledger_sparsity(&ledger[i])};
    return OK;
}

size_t settle_workspace(const struct tuner *t)
{
    struct attn_args a = {.dtype = DTYPE_F32, .n_q = t->longest, .n_heads = BATCH, .n_kv_heads = 1, .head_dim = t->c->head_dim,
                          .block = t->a->policy->block};
    struct tile_map map = tile_map_shape(a.block, BATCH, 0, a.n_q);
    struct mask_args m = tuner_mask(t, &a, NULL);
    a.tiles = &map;
    const struct attn_impl *impl;
    size_t n = (size_t)a.n_q, largest = n * sizeof(float), mask = mask_workspace(t->a->policy->method, &m, 1);
    size_t kernel = attn_choose(&a, t->a->impl, &impl) == OK ? impl->workspace(&a) : 0;
    if (kernel > largest) largest = kernel;
    if (mask > largest) largest = mask;
    return (BATCH * n * (size_t)a.head_dim * sizeof(float) + 63) / 64 * 64 + (tile_map_bytes(&map) + 63) / 64 * 64 +
           (largest + 63) / 64 * 64;
}

static enum status measure_task(struct tuner *t, void *ctx, int i, struct tuner_task task, char *ws)
{
    struct settling *s = ctx;
    const struct head_work *h = &s->heads[task.head];
    struct measured_head *out = (struct measured_head *)s->results + (size_t)i * (size_t)s->most;
    struct head_params params[BATCH];
    int n = 0;
    for (int x = 0; x < h->n_triples; x++) {
        if (!h->triples[x].measured) params[n++] = params_of(h, &h->triples[x]);
        if (n == 0 || (n < BATCH && x + 1 < h->n_triples)) continue;
        TRY(measure_batch(t, task, params, n, ws, out));
        out += n;
        n = 0;
    }
    return OK;
}

static enum status measure_triples(struct settling *s)
{
    struct tuner *t = s->t;
    for (int head = 0; head < t->c->n_heads; head++) {
        int n = 0;
        for (int x = 0; x < s->heads[head].n_triples; x++) n += !s->heads[head].triples[x].measured;
        add_tasks(s, head, n, 0, t->a->n_samples);
        t->times->n_verified += n * t->a->n_samples;
    }
    TRY(run_tasks(s, measure_task, sizeof(struct measured_head)));
    for (int i = 0; i < s->n_tasks; i++) {
        struct head_work *h = &s->heads[s->tasks[i].head];
        const struct measured_head *m = (const struct measured_head *)s->results + (size_t)i * (size_t)s->most;
        for (int x = 0; x < h->n_triples; x++) {
            struct triple *v = &h->triples[x];
            if (v->measured) continue;
            if (t->a->samples[s->tasks[i].sample].held_out) {
                v->held_out = head_error_worst(v->held_out, m->error);
            } else {
                v->tune = head_error_worst(v->tune, m->error);
                v->qk_sparsity += m->qk_sparsity / t->n_tune;
                v->sparsity += m->sparsity / t->n_tune;
            }
            m++;
        }
    }
    for (int head = 0; head < t->c->n_heads; head++)
        for (int x = 0; x < s->heads[head].n_triples; x++) s->heads[head].triples[x].measured = true;
    clear_tasks(s);
    return OK;
}

/* Choice, judgement and back-off: cheap, one head after the other. */

static enum status choose_pairs(struct settling *s, int head, const struct curve **curves)
{
    struct tuner *t = s->t;
    struct head_work *h = &s->heads[head];
    for (int i = 0; i < t->n_tune; i++) curves[i] = &t->curves[head * t->n_tune + i];
    for (int b = 0; b < t->a->n_bounds; b++) {
        struct tuned_head *out = head_out(s, b, head);
        int theta, tau;
        double sparsity;
        struct head_error worst;
        bool found = tune_choose(curves, t->n_tune, t->a->rule, t->a->bounds[b].l1, &theta, &tau, &sparsity, &worst);
        out->in_range = true;
        if (!found || sparsity < t->a->min_sparsity) {
            tuner_make_dense(out, s->n_held > 0, "the curves promise %.1f %% sparsity, too little to be worth it", found ? 100 * sparsity : 0);
            continue;
        }
        TRY(pair_of(h, theta, tau, &h->picks[b].pair));
        h->pairs[h->picks[b].pair].want_tune = true;
        h->picks[b].open = true;
    }
    return OK;
}

/* The smallest λ from `first` on that holds the bound on tuning samples, and on held-out ones when their curve is known.
 * Stage 2 errs a little on many rows, and the tail does not see that below its bound (one head of the bundled model went
 * from a mean of .08 to .26 with its tail unmoved): under that rule the mean may rise in proportion to the bounds only. */
static bool smallest_lambda(const struct tuner *t, const struct pair *p, int first, struct tune_bounds bounds, int *out)
{
    int found = N_LAMBDAS;
    double bound = bounds.pv_l1;
    for (int l = N_LAMBDAS - 1; l >= first; l--) {
        if (!(p->tune[l] <= bound && (!p->have_held || p->held[l] <= bound))) break;
        if (t->a->rule == RULE_TAIL && l < N_LAMBDAS - 1 && p->rise[l] > bounds.pv_l1 / bounds.l1) break;
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
        if (!smallest_lambda(s->t, &h->pairs[p->pair], 0, s->t->a->bounds[b], &p->lambda)) p->lambda = N_LAMBDAS - 1;
        TRY(triple_of(h, p));
    }
    return OK;
}

/* Settles what holds; what does not asks for its held-out curve over λ. Returns how many stay open. */
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
        out->held_out = s->n_held ? v->held_out : tuner_no_error;
        out->qk_sparsity = v->qk_sparsity;
        out->sparsity = v->sparsity;
        struct head_error worst = head_error_worst(v->tune, v->held_out);
        p->open = false;
        if (v->sparsity < t->a->min_sparsity) {
            tuner_make_dense(out, s->n_held > 0, out->back_offs ? "%.1f %% sparsity is left where the bound holds on every sample"
                                                 : "%.1f %% sparsity is too little to be worth it", 100 * v->sparsity);
        } else if (head_error_by(&worst, t->a->rule) <= t->a->bounds[b].pv_l1) {
            out->params = params_of(h, v);
        } else {
            p->open = true;
            n_open++;
            h->pairs[p->pair].want_held = !h->pairs[p->pair].have_held && s->n_held > 0 && p->lambda < N_LAMBDAS - 1;
        }
    }
    return n_open;
}

/* Stage 2 gives way first: λ rises to where the bound holds on held-out samples too. */
static enum status back_off_lambda(struct settling *s, int head)
{
    struct head_work *h = &s->heads[head];
    for (int b = 0; b < s->t->a->n_bounds; b++) {
        struct pick *p = &h->picks[b];
        if (!p->open) continue;
        head_out(s, b, head)->back_offs++;
        p->want_curves = !smallest_lambda(s->t, &h->pairs[p->pair], p->lambda + 1, s->t->a->bounds[b], &p->lambda);
        if (!p->want_curves) TRY(triple_of(h, p));
    }
    return OK;
}

static bool pair_holds(const struct settling *s, int head, int theta, int tau, double bound)
{
    const struct tuner *t = s->t;
    for (int i = 0; i < t->a->n_samples; i++) {
        const struct curve *c = i < t->n_tune ? &t->curves[head * t->n_tune + i] : &s->heads[head].held[i - t->n_tune];
        if (!(tuner_error_by(&c->points[theta][tau].error, t->a->rule) <= bound)) return false;
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
            return fail(ERR_NUMERIC, "layer %d, head %d: the bound %g does not hold although every tile is kept", s->layer,
                        head, bound);
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
    const struct curve **curves = malloc(sizeof *curves * (size_t)t->n_tune);
    enum status st = curves ? OK : fail(ERR_MEMORY, "no memory for %d curves", t->n_tune);
    for (int head = 0; head < t->c->n_heads && st == OK; head++) st = choose_pairs(s, head, curves);
    free(curves);
    TRY(st);
    TRY(make_lambda_curves(s, false));
    for (int head = 0; head < t->c->n_heads; head++) TRY(choose_first_lambda(s, head));
    for (;;) {
        int n_open = 0;
        TRY(measure_triples(s));
        for (int head = 0; head < t->c->n_heads; head++) n_open += judge(s, head);
        if (!n_open) return OK;
        TRY(make_lambda_curves(s, true));
        for (int head = 0; head < t->c->n_heads; head++) TRY(back_off_lambda(s, head));
        TRY(make_held_curves(s));
        for (int head = 0; head < t->c->n_heads; head++) TRY(back_off_tau(s, head));
    }
}

enum status settle_layer(struct tuner *t, int layer, struct tuned *out)
{
    int n_heads = t->c->n_heads;
    struct settling s = {.t = t, .layer = layer, .n_held = t->a->n_samples - t->n_tune, .out = out};
    int64_t t0 = clock_ns();
    s.heads = calloc((size_t)n_heads, sizeof *s.heads);
    s.tasks = malloc(sizeof *s.tasks * (size_t)(n_heads * t->a->n_samples));
    bool ok = s.heads && s.tasks;
    for (int i = 0; ok && i < n_heads; i++) ok = (s.heads[i].picks = calloc((size_t)t->a->n_bounds, sizeof(struct pick)));
    enum status st = ok ? settle(&s) : fail(ERR_MEMORY, "no memory to tune layer %d", layer);
    t->times->verify_s += (double)(clock_ns() - t0) * 1e-9;
    for (int i = 0; s.heads && i < n_heads; i++) {
        free(s.heads[i].pairs);
        free(s.heads[i].triples);
        free(s.heads[i].picks);
        free(s.heads[i].held);
    }
    free(s.heads);
    free(s.tasks);
    free(s.results);
    return st;
}

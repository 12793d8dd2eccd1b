#include "engine/tuner.h"

#include "base/clock.h"
#include "kernels/cpu_ops.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One sample's tensors of the present layer, [n, heads, d] rows as the session had them. */
struct layer_tensors {
    float *q, *k, *v, *o; /* q, o: [n, n_heads, d]; k, v: [n_kv_heads, n, d] */
};

struct tuner {
    const struct tune_args *a;
    const struct llama_config *c;
    struct session *session;
    float **stream;                 /* [n_samples] residual stream entering the present layer */
    struct layer_tensors *tensors;  /* [n_samples] */
    struct curve *curves;           /* [n_heads, n_tune] of the present layer */
    int n_tune;                     /* samples that are not held out; they stand first */
    int longest;
    char *ws;                       /* per worker */
    size_t ws_stride;
    enum status *task_status;       /* [tasks] */
    char (*task_message)[256];
    struct tune_times *times;
};

static float error_by(const struct output_error *e, enum tune_rule rule)
{
    return rule == RULE_L1 ? e->l1 : rule == RULE_TAIL ? e->tail : rule == RULE_COSINE ? e->cosine : e->rmse;
}

static struct head_error widen_error(const struct output_error *e)
{
    return (struct head_error){(double)e->l1, (double)e->tail, (double)e->cosine, (double)e->rmse};
}

bool tune_choose(const struct curve *const *curves, int n, enum tune_rule rule, double bound, int *theta, int *tau,
                 double *sparsity, struct head_error *worst)
{
    bool found = false;
    double best_error = INFINITY;
    *sparsity = -1;
    for (int t = 0; t < N_THETAS; t++)
        for (int u = 0; u < N_TAUS; u++) {
            double sum = 0, error = 0;
            for (int s = 0; s < n; s++) {
                const struct curve_point *p = &curves[s]->points[t][u];
                error = fmax(error, (double)error_by(&p->error, rule));
                sum += 1 - (double)p->n_kept / curves[s]->n_possible;
            }
            sum /= n;
            if (!(error <= bound) || sum < *sparsity || (sum == *sparsity && error >= best_error)) continue;
            found = true;
            *theta = t;
            *tau = u;
            *sparsity = sum;
            best_error = error;
        }
    if (found) {
        *worst = (struct head_error){0};
        for (int s = 0; s < n; s++)
            *worst = head_error_worst(*worst, widen_error(&curves[s]->points[*theta][*tau].error));
    }
    return found;
}

/* A view of one head of one sample as a single-head call. `o` holds the dense output. */
static struct attn_args head_args(const struct tuner *t, int sample, int head)
{
    const struct llama_config *c = t->c;
    const struct layer_tensors *x = &t->tensors[sample];
    int d = c->head_dim, kv = head / (c->n_heads / c->n_kv_heads), n = t->a->samples[sample].n;
    ptrdiff_t row = (ptrdiff_t)c->n_heads * d;
    return (struct attn_args){
        .dtype = DTYPE_F32, .n_q = n, .n_heads = 1, .n_kv_heads = 1, .head_dim = d,
        .scale = (float)(1 / sqrt((double)d)), .q = x->q + head * d, .k = x->k + (ptrdiff_t)kv * n * d,
        .v = x->v + (ptrdiff_t)kv * n * d, .o = x->o + head * d, .q_row = row, .q_head = d, .k_row = d,
        .k_head = (ptrdiff_t)n * d, .v_row = d, .v_head = (ptrdiff_t)n * d, .o_row = row, .o_head = d,
        .block = t->a->policy->block,
    };
}

static struct mask_args head_mask(const struct tuner *t, const struct attn_args *attn, const struct head_params *p)
{
    return (struct mask_args){attn, p, t->a->policy->smooth_k, 0, t->a->policy->window};
}

/* Forward: every sample through one layer, its attention tensors kept. */

struct keeper {
    struct tuner *t;
    int sample;
};

static enum status keep_tensors(void *ctx, const struct layer_view *view)
{
    struct keeper *k = ctx;
    const struct attn_args *a = view->attn;
    struct layer_tensors *x = &k->t->tensors[k->sample];
    size_t d = (size_t)a->head_dim, n = (size_t)a->n_q, rows = n * (size_t)a->n_heads * d;
    memcpy(x->q, a->q, rows * sizeof *x->q);
    memcpy(x->o, a->o, rows * sizeof *x->o);
    for (int h = 0; h < a->n_kv_heads; h++) {
        memcpy(x->k + (size_t)h * n * d, (const float *)a->k + h * a->k_head, n * d * sizeof *x->k);
        memcpy(x->v + (size_t)h * n * d, (const float *)a->v + h * a->v_head, n * d * sizeof *x->v);
    }
    return OK;
}

static enum status advance(struct tuner *t, int layer, bool keep)
{
    int64_t t0 = clock_ns();
    for (int s = 0; s < t->a->n_samples; s++) {
        struct keeper k = {t, s};
        session_reset(t->session);
        TRY(session_forward(t->session, &(struct forward_args){
                                            .tokens = t->a->samples[s].ids, .n = t->a->samples[s].n, .first_layer = layer,
                                            .end_layer = layer + 1, .residual_in = layer ? t->stream[s] : NULL,
                                            .capture_layer = layer + 1, .residual_out = t->stream[s],
                                            .hook = keep ? keep_tensors : NULL, .hook_ctx = &k, .stop = t->a->stop}));
    }
    t->times->forward_s += (double)(clock_ns() - t0) * 1e-9;
    return OK;
}

/* Tasks: one (head, sample) each. */

static enum status collect(const struct tuner *t, int layer, int n_tasks, int samples_per_head)
{
    for (int i = 0; i < n_tasks; i++)
        if (t->task_status[i] != OK)
            return fail(t->task_status[i], "layer %d, head %d, sample %s: %s", layer, i / samples_per_head,
                        t->a->samples[i % samples_per_head].name, t->task_message[i]);
    return OK;
}

static void note_status(struct tuner *t, int task, enum status st)
{
    t->task_status[task] = st;
    if (st != OK) snprintf(t->task_message[task], sizeof t->task_message[task], "%s", status_message());
}

struct curve_job {
    struct tuner *t;
    const bool *have;
};

static void curve_task(void *ctx, int task, int worker)
{
    const struct curve_job *j = ctx;
    struct tuner *t = j->t;
    t->task_status[task] = OK;
    if (j->have[task] || (t->a->stop && t->a->stop(NULL))) return;
    struct attn_args attn = head_args(t, task % t->n_tune, task / t->n_tune);
    struct head_params params = {0, 0, 50, true};
    struct mask_args mask = head_mask(t, &attn, &params);
    note_status(t, task, curve_thetas(t->a->policy->method, &mask, t->ws + t->ws_stride * (size_t)worker, &t->curves[task]));
}

static enum status make_curves(struct tuner *t, int layer)
{
    int n_tasks = t->c->n_heads * t->n_tune;
    bool *have = calloc((size_t)n_tasks, sizeof *have);
    if (!have) return fail(ERR_MEMORY, "no memory to tune layer %d", layer);
    const struct curve_store *store = &t->a->curves;
    int64_t t0 = clock_ns();
    enum status st = OK;
    for (int i = 0; i < n_tasks && store->get && st == OK; i++)
        st = store->get(store->ctx, layer, i / t->n_tune, i % t->n_tune, &t->curves[i], &have[i]);
    if (st == OK) {
        struct curve_job job = {t, have};
        par_for(t->a->par, n_tasks, curve_task, &job);
        st = t->a->stop && t->a->stop(NULL) ? fail(ERR_CANCELLED, "stopped on request") : collect(t, layer, n_tasks, t->n_tune);
    }
    for (int i = 0; i < n_tasks && st == OK; i++) {
        t->times->n_curves += !have[i];
        t->times->n_reused += have[i];
        if (store->put && !have[i]) st = store->put(store->ctx, layer, i / t->n_tune, i % t->n_tune, &t->curves[i]);
    }
    if (st == OK && store->layer_done) st = store->layer_done(store->ctx, layer);
    t->times->curves_s += (double)(clock_ns() - t0) * 1e-9;
    free(have);
    return st;
}

/* What one head's thresholds do on one sample, measured by the inference kernel. */
struct measured_head {
    struct head_error error;
    double qk_sparsity, sparsity;
};

static enum status measure_head(const struct tuner *t, int sample, int head, const struct head_params *params, char *ws,
                                struct measured_head *out)
{
    struct attn_args dense = head_args(t, sample, head), a = dense;
    struct head_ledger ledger = {0};
    struct mask_args mask = head_mask(t, &a, params);
    struct tile_map map = tile_map_shape(a.block, 1, 0, a.n_q);
    size_t d = (size_t)a.head_dim, n = (size_t)a.n_q;
    float *o = (float *)ws;
    ws += (n * d * sizeof *o + 63) / 64 * 64;
    map.bits = (uint64_t *)ws;
    ws += (tile_map_bytes(&map) + 63) / 64 * 64;
    a.o = o;
    a.o_row = a.head_dim;
    a.ledger = &ledger;
    TRY(mask_predict(t->a->policy->method, &mask, &map, ws, NULL));
    a.tiles = &map;
    a.pv_threshold = &params->pvthreshd;
    const struct attn_impl *impl;
    TRY(attn_choose(&a, t->a->impl, &impl));
    TRY(impl->run(&a, ws, NULL, NULL));
    struct output_error e;
    TRY(output_error_of(&dense, o, (float *)ws, &e));
    *out = (struct measured_head){widen_error(&e), ledger_qk_sparsity(&ledger), ledger_sparsity(&ledger)};
    return OK;
}

static size_t measure_workspace(const struct tuner *t, int n)
{
    struct attn_args a = {.dtype = DTYPE_F32, .n_q = n, .n_heads = 1, .n_kv_heads = 1, .head_dim = t->c->head_dim,
                          .block = t->a->policy->block};
    struct tile_map map = tile_map_shape(a.block, 1, 0, n);
    struct mask_args m = {&a, NULL, t->a->policy->smooth_k, 0, t->a->policy->window};
    a.tiles = &map;
    const struct attn_impl *impl;
    size_t kernel = attn_choose(&a, t->a->impl, &impl) == OK ? impl->workspace(&a) : 0;
    size_t mask = mask_workspace(t->a->policy->method, &m, 1), rows = 4 * (size_t)n * sizeof(float);
    size_t largest = kernel > mask ? kernel : mask;
    if (rows > largest) largest = rows;
    return ((size_t)n * (size_t)a.head_dim * sizeof(float) + 63) / 64 * 64 + (tile_map_bytes(&map) + 63) / 64 * 64 +
           (largest + 63) / 64 * 64;
}

/* The choice for one head and one pair of bounds, verified. Bounds of one head share what they have in common: the λ curves
 * of a (θ, τ), and the verification of a triple. */

struct lambda_curve {
    int theta, tau;
    double worst[N_LAMBDAS]; /* by the rule, over the tuning samples */
};

struct verified {
    int theta, tau, lambda;
    struct head_error tune, held_out;
    double qk_sparsity, sparsity;
};

struct head_choice {
    struct tuner *t;
    int head;
    struct tune_bounds bounds;
    char *ws;
    struct tuned_head *out;
    int theta, tau, lambda;
    struct lambda_curve *lambdas; /* [n_lambdas], owned */
    struct verified *verified;    /* [n_verified], owned */
    int n_lambdas, n_verified, n_kernel_calls;
};

static struct head_params params_of(const struct head_choice *h)
{
    return (struct head_params){curve_theta(h->theta), curve_tau(h->tau), curve_lambda(h->lambda), true};
}

static enum status lambda_curve_of(struct head_choice *h, const struct lambda_curve **out)
{
    struct tuner *t = h->t;
    for (int i = 0; i < h->n_lambdas; i++)
        if (h->lambdas[i].theta == h->theta && h->lambdas[i].tau == h->tau) {
            *out = &h->lambdas[i];
            return OK;
        }
    struct lambda_curve *grown = realloc(h->lambdas, sizeof *grown * (size_t)(h->n_lambdas + 1));
    if (!grown) return fail(ERR_MEMORY, "no memory for the curves of λ");
    h->lambdas = grown;
    struct lambda_curve *c = &grown[h->n_lambdas];
    *c = (struct lambda_curve){.theta = h->theta, .tau = h->tau};
    struct head_params params = params_of(h);
    for (int s = 0; s < t->n_tune; s++) {
        struct attn_args attn = head_args(t, s, h->head);
        struct mask_args mask = head_mask(t, &attn, &params);
        struct pv_curve pv;
        TRY(curve_lambdas(t->a->policy->method, &mask, h->ws, &pv));
        for (int i = 0; i < N_LAMBDAS; i++)
            c->worst[i] = fmax(c->worst[i], (double)error_by(&pv.points[i].error, t->a->rule));
    }
    h->n_lambdas++;
    *out = c;
    return OK;
}

/* The smallest λ whose error holds pv_l1 on every tuning sample; the largest when none does. */
static enum status choose_lambda(struct head_choice *h)
{
    const struct lambda_curve *c;
    TRY(lambda_curve_of(h, &c));
    h->lambda = N_LAMBDAS - 1;
    while (h->lambda > 0 && c->worst[h->lambda - 1] <= h->bounds.pv_l1) h->lambda--;
    return OK;
}

static enum status measure_triple(struct head_choice *h, struct verified *v)
{
    struct tuner *t = h->t;
    struct head_params params = params_of(h);
    *v = (struct verified){.theta = h->theta, .tau = h->tau, .lambda = h->lambda};
    for (int s = 0; s < t->a->n_samples; s++) {
        struct measured_head m;
        TRY(measure_head(t, s, h->head, &params, h->ws, &m));
        h->n_kernel_calls++;
        if (t->a->samples[s].held_out) {
            v->held_out = head_error_worst(v->held_out, m.error);
            continue;
        }
        v->tune = head_error_worst(v->tune, m.error);
        v->qk_sparsity += m.qk_sparsity / t->n_tune;
        v->sparsity += m.sparsity / t->n_tune;
    }
    return OK;
}

static enum status verify(struct head_choice *h, bool *holds)
{
    int i = 0;
    while (i < h->n_verified && (h->verified[i].theta != h->theta || h->verified[i].tau != h->tau ||
                                 h->verified[i].lambda != h->lambda))
        i++;
    if (i == h->n_verified) {
        struct verified *grown = realloc(h->verified, sizeof *grown * (size_t)(i + 1));
        if (!grown) return fail(ERR_MEMORY, "no memory for verified thresholds");
        h->verified = grown;
        TRY(measure_triple(h, &h->verified[i]));
        h->n_verified++;
    }
    const struct verified *v = &h->verified[i];
    h->out->tune = v->tune;
    h->out->held_out = v->held_out;
    h->out->qk_sparsity = v->qk_sparsity;
    h->out->sparsity = v->sparsity;
    struct head_error worst = head_error_worst(v->tune, v->held_out);
    *holds = head_error_by(&worst, h->t->a->rule) <= h->bounds.pv_l1;
    return OK;
}

static void make_dense(struct head_choice *h, const char *why, double value)
{
    h->out->params = (struct head_params){1, 1, 50, false};
    h->out->tune = h->out->held_out = (struct head_error){0};
    h->out->qk_sparsity = h->out->sparsity = 0;
    snprintf(h->out->reason, sizeof h->out->reason, why, value);
}

/* Stage 2 gives way first: λ goes to "never skip"; then τ goes up a step at a time, which only adds tiles. */
static enum status settle(struct head_choice *h)
{
    struct tuner *t = h->t;
    bool holds = false;
    h->out->back_offs = 0;
    for (;;) {
        TRY(verify(h, &holds));
        if (h->out->sparsity < t->a->min_sparsity) {
            make_dense(h, h->out->back_offs ? "%.1f %% sparsity is left where the bound holds on every sample"
                                            : "%.1f %% sparsity is too little to be worth it", 100 * h->out->sparsity);
            return OK;
        }
        if (holds) break;
        h->out->back_offs++;
        if (h->lambda < N_LAMBDAS - 1)
            h->lambda = h->lambda + 8 < N_LAMBDAS - 1 ? h->lambda + 8 : N_LAMBDAS - 1;
        else if (h->tau < N_TAUS - 1)
            h->tau++;
        else
            return fail(ERR_NUMERIC, "the bound %g does not hold although every tile is kept", h->bounds.pv_l1);
    }
    h->out->params = params_of(h);
    return OK;
}

static enum status choose_head(struct head_choice *h)
{
    struct tuner *t = h->t;
    const struct curve **curves = malloc(sizeof *curves * (size_t)t->n_tune);
    if (!curves) return fail(ERR_MEMORY, "no memory for %d curves", t->n_tune);
    for (int s = 0; s < t->n_tune; s++) curves[s] = &t->curves[h->head * t->n_tune + s];
    double sparsity;
    struct head_error worst;
    bool found = tune_choose(curves, t->n_tune, t->a->rule, h->bounds.l1, &h->theta, &h->tau, &sparsity, &worst);
    free(curves);
    h->out->in_range = true;
    if (!found || sparsity < t->a->min_sparsity) {
        make_dense(h, "the curves promise %.1f %% sparsity, too little to be worth it", found ? 100 * sparsity : 0);
        return OK;
    }
    TRY(choose_lambda(h));
    return settle(h);
}

struct choice_job {
    struct tuner *t;
    struct tuned *out;
    int layer;
    int *n_kernel_calls; /* [n_heads] */
};

static void choice_task(void *ctx, int head, int worker)
{
    const struct choice_job *j = ctx;
    struct tuner *t = j->t;
    struct head_choice h = {.t = t, .head = head, .ws = t->ws + t->ws_stride * (size_t)worker};
    enum status st = OK;
    for (int b = 0; b < t->a->n_bounds && st == OK && !(t->a->stop && t->a->stop(NULL)); b++) {
        h.bounds = t->a->bounds[b];
        h.out = &j->out[b].heads[j->layer * t->c->n_heads + head];
        st = choose_head(&h);
    }
    note_status(t, head, st);
    j->n_kernel_calls[head] = h.n_kernel_calls;
    free(h.lambdas);
    free(h.verified);
}

static enum status choose_layer(struct tuner *t, int layer, struct tuned *out)
{
    int n_heads = t->c->n_heads;
    int *n_kernel_calls = calloc((size_t)n_heads, sizeof *n_kernel_calls);
    if (!n_kernel_calls) return fail(ERR_MEMORY, "no memory to tune layer %d", layer);
    int64_t t0 = clock_ns();
    struct choice_job job = {t, out, layer, n_kernel_calls};
    par_for(t->a->par, n_heads, choice_task, &job);
    enum status st = t->a->stop && t->a->stop(NULL) ? fail(ERR_CANCELLED, "stopped on request") : OK;
    for (int i = 0; i < n_heads && st == OK; i++) {
        if (t->task_status[i] != OK) st = fail(t->task_status[i], "layer %d, head %d: %s", layer, i, t->task_message[i]);
        t->times->n_verified += n_kernel_calls[i];
    }
    t->times->verify_s += (double)(clock_ns() - t0) * 1e-9;
    free(n_kernel_calls);
    return st;
}

static enum status refuse(const struct tune_args *a)
{
    int n_tune = 0;
    for (int i = 0; i < a->n_bounds; i++)
        if (!(a->bounds[i].l1 > 0 && a->bounds[i].l1 < a->bounds[i].pv_l1 && a->bounds[i].pv_l1 < 1))
            return fail(ERR_ARG, "bounds l1 %g and pv_l1 %g: expected 0 < l1 < pv_l1 < 1", a->bounds[i].l1, a->bounds[i].pv_l1);
    for (int i = 0; i < a->n_samples; i++) {
        if (a->samples[i].n < MIN_SPARSE_TOKENS)
            return fail(ERR_ARG, "%s has %d tokens, tuning needs at least %d: sparse attention is not used below that",
                        a->samples[i].name, a->samples[i].n, MIN_SPARSE_TOKENS);
        if (i > 0 && a->samples[i - 1].held_out && !a->samples[i].held_out)
            return fail(ERR_ARG, "held-out samples must stand behind the others");
        n_tune += !a->samples[i].held_out;
    }
    return n_tune ? OK : fail(ERR_ARG, "no samples to tune on");
}

static enum status tuner_init(struct tuner *t, const struct tune_args *a, struct tune_times *times)
{
    const struct llama_config *c = &a->weights->config;
    *t = (struct tuner){.a = a, .c = c, .times = times};
    size_t n_tasks = (size_t)c->n_heads * (size_t)a->n_samples;
    t->stream = calloc((size_t)a->n_samples, sizeof *t->stream);
    t->tensors = calloc((size_t)a->n_samples, sizeof *t->tensors);
    bool ok = t->stream && t->tensors;
    for (int s = 0; ok && s < a->n_samples; s++) {
        size_t n = (size_t)a->samples[s].n, d = (size_t)c->head_dim, f = sizeof(float);
        t->n_tune += !a->samples[s].held_out;
        if (a->samples[s].n > t->longest) t->longest = a->samples[s].n;
        struct layer_tensors *x = &t->tensors[s];
        t->stream[s] = malloc(n * (size_t)c->hidden_size * f);
        x->q = malloc(n * (size_t)c->n_heads * d * f);
        x->o = malloc(n * (size_t)c->n_heads * d * f);
        x->k = malloc(n * (size_t)c->n_kv_heads * d * f);
        x->v = malloc(n * (size_t)c->n_kv_heads * d * f);
        ok = t->stream[s] && x->q && x->o && x->k && x->v;
    }
    struct attn_args probe = {.dtype = DTYPE_F32, .n_q = t->longest, .n_heads = 1, .n_kv_heads = 1, .head_dim = c->head_dim,
                              .block = a->policy->block};
    struct mask_args mask = {&probe, NULL, a->policy->smooth_k, 0, a->policy->window};
    size_t curve = curve_workspace(a->policy->method, &mask), measure = measure_workspace(t, t->longest);
    t->ws_stride = ((curve > measure ? curve : measure) + 63) / 64 * 64;
    t->ws = aligned_alloc(64, t->ws_stride * (size_t)par_threads(a->par));
    t->curves = malloc(sizeof *t->curves * (size_t)c->n_heads * (size_t)t->n_tune);
    t->task_status = calloc(n_tasks, sizeof *t->task_status);
    t->task_message = calloc(n_tasks, sizeof *t->task_message);
    ok = ok && t->ws && t->curves && t->task_status && t->task_message;
    if (!ok) return fail(ERR_MEMORY, "no memory to tune on %d samples of up to %d tokens; use fewer or shorter ones",
                         a->n_samples, t->longest);
    /* one chunk: the hook must see a whole sample at once */
    return session_open(&t->session, a->weights, a->par, t->longest, (t->longest + 127) / 128 * 128, a->impl);
}

static void tuner_clear(struct tuner *t)
{
    session_close(&t->session);
    for (int s = 0; t->tensors && t->stream && s < t->a->n_samples; s++) {
        free(t->stream[s]);
        free(t->tensors[s].q);
        free(t->tensors[s].k);
        free(t->tensors[s].v);
        free(t->tensors[s].o);
    }
    free(t->stream);
    free(t->tensors);
    free(t->ws);
    free(t->curves);
    free(t->task_status);
    free(t->task_message);
}

enum status tune(const struct tune_args *a, struct tuned *out, struct tune_times *times)
{
    const struct llama_config *c = &a->weights->config;
    int n_done = 0, n_total = 0, last = -1;
    *times = (struct tune_times){0};
    for (int b = 0; b < a->n_bounds; b++) out[b] = (struct tuned){0};
    TRY(refuse(a));
    for (int l = 0; l < c->n_layers; l++)
        if (a->policy->layer_on[l]) {
            n_total += c->n_heads;
            last = l;
        }
    struct tuner t;
    enum status st = tuner_init(&t, a, times);
    for (int b = 0; b < a->n_bounds && st == OK; b++) st = tuned_init(&out[b], c->n_layers, c->n_heads);
    for (int l = 0; l <= last && st == OK; l++) {
        bool on = a->policy->layer_on[l];
        st = advance(&t, l, on);
        if (st == OK && on) st = make_curves(&t, l);
        if (st == OK && on) st = choose_layer(&t, l, out);
        n_done += on ? c->n_heads : 0;
        if (a->progress) a->progress(a->progress_ctx, n_done, n_total);
    }
    for (int b = 0; b < a->n_bounds && st == OK; b++) {
        struct tuned *x = &out[b];
        snprintf(x->method, sizeof x->method, "%s", a->policy->method->name);
        policy_layers_text(a->policy, x->layers, sizeof x->layers);
        x->rule = a->rule;
        x->l1 = a->bounds[b].l1;
        x->pv_l1 = a->bounds[b].pv_l1;
        x->block = a->policy->block;
        x->smooth_k = a->policy->smooth_k;
        x->max_length = t.longest;
        x->num_samples = t.n_tune;
        x->num_held_out = a->n_samples - t.n_tune;
    }
    tuner_clear(&t);
    for (int b = 0; b < a->n_bounds && st != OK; b++) tuned_clear(&out[b]);
    return st;
}

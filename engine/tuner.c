#include "engine/tuner_parts.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

double tuner_error_by(const struct output_error *e, enum tune_rule rule)
{
    struct head_error wide = tuner_widen(e);
    double error = head_error_by(&wide, rule);
    return isnan(error) ? INFINITY : error; /* fmax would take the other one */
}

struct head_error tuner_widen(const struct output_error *e)
{
    return (struct head_error){(double)e->l1, (double)e->tail, (double)e->cosine, (double)e->rmse};
}

const struct head_error tuner_no_error = {NAN, NAN, NAN, NAN};

void tuner_make_dense(struct tuned_head *h, bool any_held_out, const char *why, double value)
{
    h->params = (struct head_params){1, 1, 50, false};
    h->tune = (struct head_error){0};
    h->held_out = any_held_out ? h->tune : tuner_no_error;
    h->qk_sparsity = h->sparsity = 0;
    snprintf(h->reason, sizeof h->reason, why, value);
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
                error = fmax(error, tuner_error_by(&p->error, rule));
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
            *worst = head_error_worst(*worst, tuner_widen(&curves[s]->points[*theta][*tau].error));
    }
    return found;
}

struct attn_args tuner_head(const struct tuner *t, int sample, int head)
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

struct mask_args tuner_mask(const struct tuner *t, const struct attn_args *attn, const struct head_params *p)
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

/* Tasks. */

static bool stopped(const struct tuner *t) { return t->a->stop && t->a->stop(NULL); }

struct task_job {
    struct tuner *t;
    const struct tuner_task *tasks;
    tuner_body *body;
    void *ctx;
};

static void run_task(void *ctx, int i, int worker)
{
    const struct task_job *j = ctx;
    struct tuner *t = j->t;
    t->task_status[i] = OK;
    if (stopped(t)) return;
    t->task_status[i] = j->body(t, j->ctx, i, j->tasks[i], t->ws + t->ws_stride * (size_t)worker);
    if (t->task_status[i] != OK) snprintf(t->task_message[i], sizeof t->task_message[i], "%s", status_message());
}

enum status tuner_run(struct tuner *t, int layer, const struct tuner_task *tasks, int n, tuner_body *body, void *ctx)
{
    struct task_job job = {t, tasks, body, ctx};
    par_for(t->a->par, n, run_task, &job);
    if (stopped(t)) return fail(ERR_CANCELLED, "stopped on request");
    for (int i = 0; i < n; i++)
        if (t->task_status[i] != OK)
            return fail(t->task_status[i], "layer %d, head %d, sample %s: %s", layer, tasks[i].head,
                        t->a->samples[tasks[i].sample].name, t->task_message[i]);
    return OK;
}

static enum status curve_task(struct tuner *t, void *ctx, int i, struct tuner_task task, char *ws)
{
    bool *done = ctx;
    struct attn_args attn = tuner_head(t, task.sample, task.head);
    struct mask_args mask = tuner_mask(t, &attn, NULL);
    TRY(curve_thetas(t->a->policy->method, &mask, ws, &t->curves[task.head * t->n_tune + task.sample]));
    done[i] = true;
    return OK;
}

static enum status make_curves(struct tuner *t, int layer)
{
    const struct curve_store *store = &t->a->curves;
    int n_all = t->c->n_heads * t->n_tune, n = 0, n_made = 0;
    struct tuner_task *tasks = malloc(sizeof *tasks * (size_t)n_all);
    if (!tasks) return fail(ERR_MEMORY, "no memory to tune layer %d", layer);
    int64_t t0 = clock_ns();
    enum status st = OK;
    for (int i = 0; i < n_all && st == OK; i++) {
        struct tuner_task task = {i / t->n_tune, i % t->n_tune};
        bool have = false;
        if (store->get) st = store->get(store->ctx, layer, task.head, task.sample, &t->curves[i], &have);
        if (!have) tasks[n++] = task;
    }
    bool *done = calloc((size_t)n_all, sizeof *done);
    if (st == OK) st = done ? tuner_run(t, layer, tasks, n, curve_task, done) : fail(ERR_MEMORY, "no memory to tune layer %d", layer);
    enum status put = OK; /* also behind a stop: what is finished is kept */
    for (int i = 0; i < n && done && put == OK; i++) {
        if (!done[i]) continue;
        n_made++;
        if (store->put)
            put = store->put(store->ctx, layer, tasks[i].head, tasks[i].sample,
                             &t->curves[tasks[i].head * t->n_tune + tasks[i].sample]);
    }
    if (st == OK) st = put;
    if (st == OK && store->layer_done) st = store->layer_done(store->ctx, layer);
    t->times->n_curves += n_made;
    t->times->n_reused += n_all - n;
    t->times->curves_s += (double)(clock_ns() - t0) * 1e-9;
    free(tasks);
    free(done);
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
    struct mask_args mask = tuner_mask(t, &probe, NULL);
    size_t curve = curve_workspace(a->policy->method, &mask), settle = settle_workspace(t);
    t->ws_stride = ((curve > settle ? curve : settle) + 63) / 64 * 64;
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

static void describe(const struct tune_args *a, int b, int longest, int n_tune, struct tuned *x)
{
    snprintf(x->method, sizeof x->method, "%s", a->policy->method->name);
    policy_layers_text(a->policy, x->layers, sizeof x->layers);
    x->rule = a->rule;
    x->l1 = a->bounds[b].l1;
    x->pv_l1 = a->bounds[b].pv_l1;
    x->block = a->policy->block;
    x->smooth_k = a->policy->smooth_k;
    x->max_length = longest;
    x->num_samples = n_tune;
    x->num_held_out = a->n_samples - n_tune;
    x->verified = true;
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
        if (st == OK && on) st = settle_layer(&t, l, out);
        n_done += on ? c->n_heads : 0;
        if (a->progress) a->progress(a->progress_ctx, n_done, n_total);
    }
    for (int b = 0; b < a->n_bounds && st == OK; b++) describe(a, b, t.longest, t.n_tune, &out[b]);
    tuner_clear(&t);
    for (int b = 0; b < a->n_bounds && st != OK; b++) tuned_clear(&out[b]);
    return st;
}

static enum status load_curves(const struct tune_args *a, int layer, int head, int n, struct curve *curves)
{
    for (int i = 0; i < n; i++) {
        bool found = false;
        TRY(a->curves.get(a->curves.ctx, layer, head, i, &curves[i], &found));
        if (!found)
            return fail(ERR_ARG, "no curve is stored for layer %d, head %d, sample %s under these samples, method, blocks and "
                        "smoothing; run `tune` once without --from-curves", layer, head, a->samples[i].name);
    }
    return OK;
}

/* The choice of one head for every pair of bounds. */
static void choose_unverified(const struct tune_args *a, int layer, int head, const struct curve *const *curves, int n,
                              struct tuned *out)
{
    for (int b = 0; b < a->n_bounds; b++) {
        struct tuned_head *h = &out[b].heads[layer * out[b].n_heads + head];
        int theta, tau;
        double sparsity;
        struct head_error worst;
        bool found = tune_choose(curves, n, a->rule, a->bounds[b].l1, &theta, &tau, &sparsity, &worst);
        h->in_range = true;
        if (!found || sparsity < a->min_sparsity) {
            tuner_make_dense(h, false, "the curves promise %.1f %% sparsity, too little to be worth it", found ? 100 * sparsity : 0);
            continue;
        }
        h->params = (struct head_params){curve_theta(theta), curve_tau(tau), 50, true};
        h->tune = worst;
        h->held_out = tuner_no_error;
        h->qk_sparsity = h->sparsity = sparsity;
        snprintf(h->reason, sizeof h->reason, "from curves, not verified");
    }
}

enum status tune_from_curves(const struct tune_args *a, struct tuned *out)
{
    const struct llama_config *c = &a->weights->config;
    for (int b = 0; b < a->n_bounds; b++) out[b] = (struct tuned){0};
    TRY(refuse(a));
    int n = 0, longest = 0;
    for (int i = 0; i < a->n_samples; i++) {
        n += !a->samples[i].held_out;
        if (a->samples[i].n > longest) longest = a->samples[i].n;
    }
    struct curve *curves = malloc(sizeof *curves * (size_t)n);
    const struct curve **views = malloc(sizeof *views * (size_t)n);
    enum status st = curves && views ? OK : fail(ERR_MEMORY, "no memory for %d curves", n);
    for (int b = 0; b < a->n_bounds && st == OK; b++) st = tuned_init(&out[b], c->n_layers, c->n_heads);
    for (int i = 0; i < n && views && curves; i++) views[i] = &curves[i];
    for (int l = 0; l < c->n_layers && st == OK; l++)
        for (int h = 0; h < c->n_heads && a->policy->layer_on[l] && st == OK; h++) {
            st = load_curves(a, l, h, n, curves);
            if (st == OK) choose_unverified(a, l, h, views, n, out);
        }
    for (int b = 0; b < a->n_bounds && st == OK; b++) {
        describe(a, b, longest, n, &out[b]);
        out[b].verified = false;
    }
    free(curves);
    free(views);
    for (int b = 0; b < a->n_bounds && st != OK; b++) tuned_clear(&out[b]);
    return st;
}

/* The tuner's numbers on CPU threads. One task is one (head, sample) and is serial, so results do
 * not depend on the number of threads. The session may run elsewhere: it hands over host tensors.
 */
#include "engine/session_backend.h"
#include "engine/tuner/tuner_parts.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 8 }; /* triples in one kernel call; each needs an output of its own */

/* One sample's tensors of the heads held. */
struct held {
    float *q, *k, *v, *o; /* q, o: [n, n_held, d]; k, v: [kv heads that they read, n, d] */
};

struct cpu_tuner {
    const struct tune_args *a;
    const struct llama_config *c;
    struct session *session;
    float **stream;       /* [n_samples] residual stream entering the layer to come */
    struct held *tensors; /* [n_samples] */
    int at_once;          /* most heads held */
    int layer, first_head, n_held;
    int n_advanced; /* layers the streams have gone through */
    int longest;
    char *ws; /* per worker */
    size_t ws_stride;
};

static size_t align64(size_t n) { return (n + 63) / 64 * 64; }

static bool stopped(const struct cpu_tuner *t) { return t->a->stop && t->a->stop(t->a->stop_ctx); }

static int longest_of(const struct tune_args *a)
{
    int n = 0;
    for (int s = 0; s < a->n_samples; s++)
        if (a->samples[s].n > n) n = a->samples[s].n;
    return n;
}

static struct mask_args mask_of(
    const struct tune_args *a, const struct attn_args *attn, const struct head_params *p)
{
    return (struct mask_args){attn, p, a->policy->smooth_k, 0, a->policy->window, NULL};
}

static int group_of(const struct llama_config *c) { return c->n_heads / c->n_kv_heads; }
static int kv_heads_of(const struct llama_config *c, int n_heads)
{
    int g = group_of(c);
    return n_heads < g ? 1 : n_heads / g;
}

/* A view of one head of one sample as a single-head call. `o` holds the dense output. */
static struct attn_args head_of(const struct cpu_tuner *t, struct tuner_place at)
{
    const struct held *x = &t->tensors[at.sample];
    int d = t->c->head_dim, g = group_of(t->c), n = t->a->samples[at.sample].n;
    int head = at.head - t->first_head, kv = at.head / g - t->first_head / g;
    ptrdiff_t row = (ptrdiff_t)t->n_held * d;
    return (struct attn_args){
        .dtype = DTYPE_F32,
        .n_q = n,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = d,
        .scale = llama_attention_scale(t->c),
        .q = x->q + head * d,
        .k = x->k + (ptrdiff_t)kv * n * d,
        .v = x->v + (ptrdiff_t)kv * n * d,
        .o = x->o + head * d,
        .q_row = row,
        .q_head = d,
        .k_row = d,
        .k_head = (ptrdiff_t)n * d,
        .v_row = d,
        .v_head = (ptrdiff_t)n * d,
        .o_row = row,
        .o_head = d,
        .block = t->a->policy->block,
        .qk = t->a->policy->qk,
        .pv = t->a->policy->pv,
    };
}

/* Workspaces. */

static size_t measure_workspace(const struct tune_args *a, int longest)
{
    struct attn_args x = {.dtype = DTYPE_F32,
        .n_q = longest,
        .n_heads = BATCH,
        .n_kv_heads = 1,
        .head_dim = a->weights->config.head_dim,
        .block = a->policy->block,
        .qk = a->policy->qk,
        .pv = a->policy->pv};
    struct tile_map map = tile_map_shape(x.block, BATCH, 0, x.n_q);
    struct mask_args m = mask_of(a, &x, NULL);
    x.tiles = &map;
    x.correct_mean = a->policy->method->correct_mean;
    const struct attn_impl *impl;
    size_t n = (size_t)x.n_q, largest = n * sizeof(float),
           mask = mask_workspace(a->policy->method, &m, 1);
    size_t kernel = attn_choose(&x, a->impl, &impl) == OK ? impl->workspace(&x) : 0;
    if (kernel > largest) largest = kernel;
    if (mask > largest) largest = mask;
    return align64(BATCH * n * (size_t)x.head_dim * sizeof(float)) + align64(tile_map_bytes(&map)) +
        align64(largest);
}

static size_t worker_bytes(const struct tune_args *a, int longest)
{
    struct attn_args probe = {.dtype = DTYPE_F32,
        .n_q = longest,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = a->weights->config.head_dim,
        .block = a->policy->block,
        .qk = a->policy->qk,
        .pv = a->policy->pv};
    struct mask_args mask = mask_of(a, &probe, NULL);
    size_t curve = curve_workspace(a->policy->method, &mask),
           measure = measure_workspace(a, longest);
    return align64(curve > measure ? curve : measure);
}

static size_t tensor_bytes(const struct llama_config *c, size_t tokens, int n_heads)
{
    return tokens * 2 * (size_t)(n_heads + kv_heads_of(c, n_heads)) * (size_t)c->head_dim *
        sizeof(float);
}

static size_t curve_bytes(const struct tune_args *a, int n_heads)
{
    int n_parts = a->policy->method->n_parts ? a->policy->method->n_parts : 1;
    return (size_t)n_heads * (size_t)a->n_samples * (size_t)n_parts * sizeof(struct curve);
}

/* Whole groups of a kv head, or equal parts of one: as many heads as fit. */
static int choose_at_once(const struct tune_args *a, size_t tokens, size_t limit)
{
    const struct llama_config *c = &a->weights->config;
    int g = group_of(c);
    for (int n = c->n_heads; n > 1; n--)
        if ((n % g == 0 || g % n == 0) && tensor_bytes(c, tokens, n) + curve_bytes(a, n) <= limit)
            return n;
    return 1;
}

/* What a session allocates beside its plan when it runs a layer densely. */
static size_t scratch_bytes(const struct tune_args *a, int longest)
{
    const struct llama_config *c = &a->weights->config;
    struct attn_args x = {.dtype = DTYPE_F32,
        .n_q = longest,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .block = BLOCK_DEFAULT};
    const struct attn_impl *impl;
    return attn_choose(&x, a->impl, &impl) == OK ? align64(impl->workspace(&x)) : 0;
}

static struct tuner_plan cpu_plan(const struct tune_args *a)
{
    const struct llama_config *c = &a->weights->config;
    const struct weights_device *device = a->weights->on_device;
    /* the hook must see a whole sample at once */
    int longest = longest_of(a), chunk = (longest + 127) / 128 * 128;
    size_t tokens = 0;
    for (int s = 0; s < a->n_samples; s++) tokens += (size_t)a->samples[s].n;
    bool runs = !a->source.get; /* the model */
    struct session_plan session = {0};
    if (runs) session = session_plan_for(a->weights, longest, chunk, false, par_threads(a->par));
    struct tuner_plan p = {
        .session_bytes = session.total_bytes + (device ? 0 : scratch_bytes(a, longest)),
        .stream_bytes = runs ? tokens * (size_t)c->hidden_size * sizeof(float) : 0,
        .workspace_bytes = worker_bytes(a, longest) * (size_t)par_threads(a->par),
    };
    size_t limit = a->held_bytes;
    if (!limit) limit = TUNER_HELD_STREAMS * p.stream_bytes;
    if (!a->held_bytes && limit < TUNER_HELD_BYTES) limit = TUNER_HELD_BYTES;
    /* parts come from the CPU's sessions only */
    p.heads_at_once = device ? c->n_heads : choose_at_once(a, tokens, limit);
    p.tensor_bytes = tensor_bytes(c, tokens, p.heads_at_once);
    p.curve_bytes = curve_bytes(a, p.heads_at_once);
    p.total_bytes =
        p.session_bytes + p.stream_bytes + p.tensor_bytes + p.curve_bytes + p.workspace_bytes;
    return p;
}

static void cpu_close(void **state)
{
    struct cpu_tuner *t = *state;
    if (!t) return;
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
    free(t);
    *state = NULL;
}

static enum status allocate(struct cpu_tuner *t)
{
    const struct tune_args *a = t->a;
    const struct llama_config *c = t->c;
    t->stream = calloc((unsigned)a->n_samples, sizeof *t->stream);
    t->tensors = calloc((unsigned)a->n_samples, sizeof *t->tensors);
    bool ok = t->stream && t->tensors;
    for (int s = 0; ok && s < a->n_samples; s++) {
        size_t n = (size_t)a->samples[s].n, row = (size_t)c->head_dim * sizeof(float);
        struct held *x = &t->tensors[s];
        if (!a->source.get) t->stream[s] = calloc(n * (size_t)c->hidden_size, sizeof **t->stream);
        x->q = calloc(n * (size_t)t->at_once, row);
        x->o = calloc(n * (size_t)t->at_once, row);
        x->k = calloc(n * (size_t)kv_heads_of(c, t->at_once), row);
        x->v = calloc(n * (size_t)kv_heads_of(c, t->at_once), row);
        ok = (a->source.get || t->stream[s]) && x->q && x->o && x->k && x->v;
    }
    t->ws_stride = worker_bytes(a, t->longest);
    t->ws = aligned_alloc(64, t->ws_stride * (size_t)par_threads(a->par));
    if (ok && t->ws) return OK;
    return fail(ERR_MEMORY,
        "no memory to tune on %d samples of up to %d tokens; use fewer or shorter ones",
        a->n_samples, t->longest);
}

static enum status cpu_open(void **state, const struct tune_args *a, const struct tuner_plan *plan)
{
    struct cpu_tuner *t = *state = calloc(1, sizeof *t);
    if (!t) return fail(ERR_MEMORY, "no memory to tune");
    t->a = a;
    t->c = &a->weights->config;
    t->at_once = plan->heads_at_once;
    t->longest = longest_of(a);
    enum status st = allocate(t);
    if (st == OK && !a->source.get)
        st = session_open(
            &t->session, a->weights, a->par, t->longest, (t->longest + 127) / 128 * 128, a->impl);
    if (st != OK) cpu_close(state);
    return st;
}

/* Forward: every sample through one layer. */

struct keeper {
    struct cpu_tuner *t;
    int sample;
    const struct attn_args *attn;
};

/* Rows [64 · item, …) of every tensor. */
static void keep_rows(void *ctx, int item, int worker)
{
    (void)worker;
    const struct keeper *k = ctx;
    const struct attn_args *a = k->attn;
    const struct held *x = &k->t->tensors[k->sample];
    size_t d = (size_t)a->head_dim, n = (size_t)a->n_q, first = 64 * (size_t)item,
           rows = n - first < 64 ? n - first : 64;
    size_t row = (size_t)a->n_heads * d, q_bytes = rows * row * sizeof *x->q,
           k_bytes = rows * d * sizeof *x->k;
    memcpy(x->q + first * row, (const float *)a->q + first * row, q_bytes);
    memcpy(x->o + first * row, (const float *)a->o + first * row, q_bytes);
    for (int h = 0; h < a->n_kv_heads; h++) {
        size_t to = ((size_t)h * n + first) * d;
        memcpy(x->k + to, (const float *)a->k + h * a->k_head + first * d, k_bytes);
        memcpy(x->v + to, (const float *)a->v + h * a->v_head + first * d, k_bytes);
    }
}

static enum status keep_tensors(void *ctx, const struct layer_view *view)
{
    struct keeper *k = ctx;
    k->attn = view->attn;
    par_for(k->t->a->par, (view->attn->n_q + 63) / 64, keep_rows, k);
    return OK;
}

static enum status forward(struct cpu_tuner *t, int layer, bool keep)
{
    for (int s = 0; s < t->a->n_samples; s++) {
        struct keeper k = {t, s, NULL};
        session_reset(t->session);
        enum status st = session_forward(t->session,
            &(struct forward_args){.tokens = t->a->samples[s].ids,
                .n = t->a->samples[s].n,
                .first_layer = layer,
                .end_layer = layer + 1,
                .residual_in = layer ? t->stream[s] : NULL,
                .capture_layer = layer + 1,
                .residual_out = t->stream[s],
                .hook = keep ? keep_tensors : NULL,
                .hook_ctx = &k,
                .stop = t->a->stop,
                .stop_ctx = t->a->stop_ctx});
        if (st != OK)
            return st == ERR_CANCELLED ? st : fail_context(st, "sample %s", t->a->samples[s].name);
    }
    t->n_advanced = layer + 1;
    return OK;
}

/* The heads held, of one sample, from a source; their dense output is made here. */
static enum status take_tensors(struct cpu_tuner *t, int sample)
{
    const struct tune_source *from = &t->a->source;
    const struct held *x = &t->tensors[sample];
    int n = t->a->samples[sample].n, d = t->c->head_dim, g = group_of(t->c), kv = t->first_head / g;
    int n_kv = kv_heads_of(t->c, t->n_held);
    struct attn_args got = {0}, dense;
    TRY(from->get(from->ctx, t->layer, sample, &got));
    float turned =
        (float)((double)got.scale * sqrt((double)d)); /* head_of() multiplies by 1/sqrt(d) */
    for (int r = 0; r < n; r++)
        for (int h = 0; h < t->n_held; h++) {
            const float *q =
                (const float *)got.q + r * got.q_row + (t->first_head + h) * got.q_head;
            float *to = x->q + ((ptrdiff_t)r * t->n_held + h) * d;
            for (int i = 0; i < d; i++) to[i] = q[i] * turned;
        }
    for (int h = 0; h < n_kv; h++)
        for (int r = 0; r < n; r++) {
            ptrdiff_t to = ((ptrdiff_t)h * n + r) * d;
            memcpy(x->k + to, (const float *)got.k + r * got.k_row + (kv + h) * got.k_head,
                (size_t)d * sizeof *x->k);
            memcpy(x->v + to, (const float *)got.v + r * got.v_row + (kv + h) * got.v_head,
                (size_t)d * sizeof *x->v);
        }
    dense = head_of(t, (struct tuner_place){t->first_head, sample, 0});
    dense.n_heads = t->n_held;
    dense.n_kv_heads = n_kv;
    const struct attn_impl *impl;
    TRY(attn_choose(&dense, t->a->impl, &impl));
    void *ws = aligned_alloc(64, align64(impl->workspace(&dense)) + 64);
    if (!ws) return fail(ERR_MEMORY, "no memory to tune layer %d", t->layer);
    enum status st = impl->run(&dense, ws, t->a->par, NULL);
    free(ws);
    return st;
}

/* A whole layer is kept on the way through it. Of a part, projections and attention are computed
 * again from the stream. */
static enum status cpu_hold(void *state, int layer, int first_head, int end_head)
{
    struct cpu_tuner *t = state;
    t->layer = layer;
    t->first_head = first_head;
    t->n_held = end_head - first_head;
    for (int s = 0; s < t->a->n_samples && t->a->source.get; s++) {
        if (stopped(t)) return fail(ERR_CANCELLED, "stopped on request");
        TRY(take_tensors(t, s));
    }
    if (t->a->source.get) return OK;
    if (t->n_held == t->c->n_heads) return forward(t, layer, true);
    for (int s = 0; s < t->a->n_samples; s++) {
        const struct held *x = &t->tensors[s];
        if (stopped(t)) return fail(ERR_CANCELLED, "stopped on request");
        TRY(session_heads(t->session,
            &(struct heads_args){.tokens = t->a->samples[s].ids,
                .n = t->a->samples[s].n,
                .layer = layer,
                .first = first_head,
                .end = end_head,
                .residual = layer ? t->stream[s] : NULL,
                .q = x->q,
                .k = x->k,
                .v = x->v,
                .o = x->o}));
    }
    return OK;
}

static enum status cpu_advance(void *state, int layer)
{
    struct cpu_tuner *t = state;
    /* holding a whole layer has gone through it */
    return t->a->source.get || t->n_advanced > layer ? OK : forward(t, layer, false);
}

/* Tasks. */

struct outcome {
    enum status status;
    char message[256];
};

struct job {
    struct cpu_tuner *t;
    void *tasks;
    size_t task_bytes; /* each begins with its place */
    enum status (*body)(struct cpu_tuner *t, void *task, char *ws);
    struct outcome *outcomes;
};

static void run_task(void *ctx, int i, int worker)
{
    const struct job *j = ctx;
    struct cpu_tuner *t = j->t;
    struct outcome *x = &j->outcomes[i];
    if (stopped(t)) return;
    x->status = j->body(
        t, (char *)j->tasks + j->task_bytes * (size_t)i, t->ws + t->ws_stride * (size_t)worker);
    if (x->status != OK) snprintf(x->message, sizeof x->message, "%s", status_message());
}

/* The first failure in the order of the tasks, whichever came first. */
static enum status run_tasks(int n, struct job j)
{
    struct cpu_tuner *t = j.t;
    if (n < 1) return OK;
    j.outcomes = calloc((size_t)n, sizeof *j.outcomes);
    if (!j.outcomes) return fail(ERR_MEMORY, "no memory to tune layer %d", t->layer);
    par_for(t->a->par, n, run_task, &j);
    enum status st = stopped(t) ? fail(ERR_CANCELLED, "stopped on request") : OK;
    for (int i = 0; i < n && st == OK; i++) {
        const struct tuner_place *at =
            (const void *)((const char *)j.tasks + j.task_bytes * (size_t)i);
        st = j.outcomes[i].status;
        if (st != OK) st = tuner_blame(t->a, t->layer, *at, st, j.outcomes[i].message);
    }
    free(j.outcomes);
    return st;
}

static enum status curve_task(struct cpu_tuner *t, void *task, char *ws)
{
    struct tuner_curve_task *x = task;
    struct attn_args attn = head_of(t, x->at);
    struct mask_args mask = mask_of(t->a, &attn, NULL);
    TRY(curve_thetas(mask_part(t->a->policy->method, x->at.part), &mask, ws, x->out));
    x->done = true;
    return OK;
}

static enum status cpu_curves(void *state, struct tuner_curve_task *tasks, int n)
{
    return run_tasks(n, (struct job){state, tasks, sizeof *tasks, curve_task, NULL});
}

static enum status lambda_task(struct cpu_tuner *t, void *task, char *ws)
{
    const struct tuner_lambda_task *x = task;
    struct attn_args attn = head_of(t, x->at);
    struct mask_args mask = mask_of(t->a, &attn, NULL);
    for (int i = 0; i < x->n_pairs; i += MAX_LAMBDA_PAIRS) {
        int n = x->n_pairs - i < MAX_LAMBDA_PAIRS ? x->n_pairs - i : MAX_LAMBDA_PAIRS;
        TRY(curve_lambdas_of(t->a->policy->method, &mask, x->pairs + i, n, ws, x->out + i));
    }
    return OK;
}

static enum status cpu_lambdas(void *state, const struct tuner_lambda_task *tasks, int n)
{
    return run_tasks(n, (struct job){state, (void *)tasks, sizeof *tasks, lambda_task, NULL});
}

/* Up to BATCH triples as the heads of one call: they read the same q, k and v and write outputs of
 * their own. */
static enum status measure_batch(const struct cpu_tuner *t, struct tuner_place at,
    const struct head_params *params, int n, char *ws, struct tuner_measured *out)
{
    struct attn_args dense = head_of(t, at), a = dense;
    struct head_ledger ledger[BATCH] = {0};
    struct mask_args mask = mask_of(t->a, &a, params);
    struct tile_map map = tile_map_shape(a.block, n, 0, a.n_q);
    size_t size = (size_t)a.head_dim * (size_t)a.n_q;
    float *o = (float *)ws, lambda[BATCH];
    ws += align64(BATCH * size * sizeof *o);
    map.bits = (uint64_t *)ws;
    ws += align64(tile_map_bytes(&map));
    for (int i = 0; i < n; i++) lambda[i] = params[i].lambda;
    a.n_heads = n;
    a.q_head = 0;
    a.o = o;
    a.o_row = a.head_dim;
    a.o_head = (ptrdiff_t)size;
    a.ledger = ledger;
    TRY(mask_predict(t->a->policy->method, &mask, &map, ws, NULL));
    a.tiles = &map;
    a.correct_mean = t->a->policy->method->correct_mean;
    a.pv_threshold = lambda;
    const struct attn_impl *impl;
    TRY(attn_choose(&a, t->a->impl, &impl));
    TRY(impl->run(&a, ws, NULL, NULL));
    struct output_error e[BATCH];
    TRY(output_errors_of(&dense, o, n, (float *)ws, e));
    for (int i = 0; i < n; i++) out[i] = (struct tuner_measured){head_error_of(&e[i]), ledger[i]};
    return OK;
}

static enum status measure_task(struct cpu_tuner *t, void *task, char *ws)
{
    const struct tuner_measure_task *x = task;
    for (int i = 0; i < x->n; i += BATCH)
        TRY(measure_batch(
            t, x->at, x->params + i, x->n - i < BATCH ? x->n - i : BATCH, ws, x->out + i));
    return OK;
}

static enum status cpu_measure(void *state, const struct tuner_measure_task *tasks, int n)
{
    return run_tasks(n, (struct job){state, (void *)tasks, sizeof *tasks, measure_task, NULL});
}

static const char *cpu_refuses(const struct weights *w, const struct sparse_policy *p, int longest)
{
    (void)w, (void)p, (void)longest;
    return NULL;
}

const struct tuner_backend tuner_backend_cpu = {
    "cpu",
    cpu_refuses,
    cpu_plan,
    cpu_open,
    cpu_close,
    cpu_hold,
    cpu_advance,
    cpu_curves,
    cpu_lambdas,
    cpu_measure,
};

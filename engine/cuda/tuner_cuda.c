/* The tuner's numbers on a CUDA device: streams, q, k, v and dense outputs of a whole layer stay
 * there for every sample, curves of all heads of a sample come from one batch of launches, and a
 * triple of every head is verified by one call of the prediction and of the attention kernel that
 * inference uses. */
#include "engine/cuda/session_cuda.h"
#include "engine/tuner/tuner_parts.h"
#include "engine/cuda/weights_cuda.h"
#include "kernels/cuda/curve_cuda.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Calls of inference whose results come back together. */
enum { MEASURES_AT_ONCE = 16 };

struct cuda_tuner {
    const struct tune_args *a;
    const struct llama_config *c;
    struct weights_cuda *on;
    struct session *session;
    int layer, n_advanced; /* layers the streams have gone through */
    void *slab;
    size_t slab_bytes, attn_ws_bytes;
    /* device */
    float **stream;       /* [n_samples] entering the layer to come, [n, hidden] */
    char **kept, **exact; /* [n_samples] */
    char **eight;         /* [n_samples] what eight bits leave of kept; nothing of full products */
    char *curve_ws, *mask_ws, *attn_ws;
    uint64_t *bits;             /* a map of the longest sample */
    uint16_t *o;                /* [longest, n_heads, head_dim] */
    struct head_params *params; /* [MEASURES_AT_ONCE, n_heads], like the next three */
    float *lambda;
    struct head_ledger *ledger;
    struct curve_point *points;
    /* host */
    struct attn_args *held;          /* [n_samples] the layer's call on what is kept */
    bool *has_exact;                 /* [n_samples] */
    struct head_params *host_params; /* [MEASURES_AT_ONCE, n_heads], like the next three */
    float *host_lambda;
    struct head_ledger *host_ledger;
    struct curve_point *host_points;
    struct output_error *errors; /* [n_heads], like the rest */
    int *heads;
    struct curve **curves;
    struct curve_cuda_pairs *pairs;
};

static size_t align256(size_t n) { return (n + 255) / 256 * 256; }
static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }
static bool stopped(const struct cuda_tuner *t) { return t->a->stop && t->a->stop(t->a->stop_ctx); }
static enum status cancelled(void) { return fail(ERR_CANCELLED, "stopped on request"); }

static int longest_of(const struct tune_args *a)
{
    int n = 0;
    for (int s = 0; s < a->n_samples; s++)
        if (a->samples[s].n > n) n = a->samples[s].n;
    return n;
}

/* The layer's call on n tokens, as far as sizes go. */
static struct attn_args shape_of(const struct llama_config *c, const struct sparse_policy *p, int n)
{
    int d = c->head_dim;
    return (struct attn_args){
        .dtype = DTYPE_BF16,
        .n_q = n,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = d,
        .scale = llama_attention_scale(c),
        .q_row = (ptrdiff_t)c->n_heads * d,
        .q_head = d,
        .k_row = d,
        .k_head = (ptrdiff_t)n * d,
        .v_row = d,
        .v_head = (ptrdiff_t)n * d,
        .o_row = (ptrdiff_t)c->n_heads * d,
        .o_head = d,
        .block = p->block,
        .qk = p->qk,
        .pv = p->pv,
    };
}

static const char *cuda_refuses(const struct weights *w, const struct sparse_policy *p, int longest)
{
    struct attn_args shape = shape_of(&w->config, p, longest > 0 ? longest : 1);
    const struct weights_cuda *on = (const struct weights_cuda *)w->on_device;
    /* another may be this thread's */
    if (device_cuda_use(on->d) != OK) return "its device cannot be used";
    if (policy_is_eight(p)) { /* what verifies must be there */
        struct tile_map map = tile_map_shape(p->block, w->config.n_heads, 0, shape.n_q);
        shape.tiles = &map;
        const char *why = attn_eight_cuda_f16.refuses(&shape);
        /* cppcheck-suppress returnDanglingLifetime ; a constant text */
        if (why) return why;
        shape.tiles = NULL;
    }
    return curve_cuda_refuses(
        &(struct curve_cuda_args){.attn = &shape, .smooth_k = p->smooth_k, .method = p->method});
}

static size_t attention_bytes(const struct attn_args *shape)
{
    static const struct attn_impl *const all[] = {
        &attn_dense_sm90_bf16, &attn_sparse_sm90_bf16, &attn_cuda_bf16};
    size_t most = attn_is_full(shape) ? 0 : attn_eight_cuda_f16.workspace(shape);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        most = max_size(most, all[i]->workspace(shape));
    return most;
}

/* Where everything stands in the slab; the same walk counts and hands out. */
static size_t lay_out(const struct tune_args *a, struct cuda_tuner *t, struct tuner_plan *p)
{
    const struct llama_config *c = &a->weights->config;
    struct attn_args longest = shape_of(c, a->policy, longest_of(a));
    struct tile_map map = tile_map_shape(longest.block, c->n_heads, 0, longest.n_q);
    char *base = t ? t->slab : NULL;
    size_t at = 0, heads = (size_t)c->n_heads, curve_ws = 0, mask_ws = 0,
           attn_ws = attention_bytes(&longest);
    /* of a shorter sample more heads may fit the budget, and fill it better */
    for (int s = 0; s < a->n_samples; s++) {
        struct attn_args shape = shape_of(c, a->policy, a->samples[s].n);
        struct curve_cuda_args curve = {
            .attn = &shape, .smooth_k = a->policy->smooth_k, .method = a->policy->method};
        struct mask_cuda_args mask = {
            .attn = &shape, .smooth_k = a->policy->smooth_k, .method = a->policy->method};
        curve_ws = max_size(curve_ws, curve_cuda_workspace(&curve));
        mask_ws = max_size(mask_ws, mask_cuda_workspace(&mask));
    }
    struct cuda_tuner none = {0};
    bool real = t;
    if (!t) t = &none;
#define PUT(field, bytes)                         \
    do {                                          \
        if (real) t->field = (void *)(base + at); \
        at += align256(bytes);                    \
    } while (0)
    for (int s = 0; s < a->n_samples; s++)
        PUT(stream[s], (size_t)a->samples[s].n * (size_t)c->hidden_size * sizeof(float));
    p->stream_bytes = at;
    for (int s = 0; s < a->n_samples; s++) {
        struct attn_args shape = shape_of(c, a->policy, a->samples[s].n);
        PUT(kept[s], curve_cuda_keep_bytes(&shape));
        PUT(exact[s], curve_cuda_exact_bytes(&shape));
        PUT(eight[s], curve_cuda_eight_bytes(&shape));
    }
    p->tensor_bytes = at - p->stream_bytes;
    PUT(curve_ws, curve_ws);
    PUT(mask_ws, mask_ws);
    PUT(attn_ws, attn_ws);
    PUT(bits, tile_map_bytes(&map));
    PUT(o, (size_t)longest.n_q * heads * (size_t)c->head_dim * sizeof(uint16_t));
    PUT(params, MEASURES_AT_ONCE * heads * sizeof(struct head_params));
    PUT(lambda, MEASURES_AT_ONCE * heads * sizeof(float));
    PUT(ledger, MEASURES_AT_ONCE * heads * sizeof(struct head_ledger));
    PUT(points, MEASURES_AT_ONCE * heads * sizeof(struct curve_point));
#undef PUT
    t->attn_ws_bytes = attn_ws;
    p->workspace_bytes = at - p->stream_bytes - p->tensor_bytes;
    return at;
}

/* A session that forgets keys and values of layers gone by, where it can take a sample whole. */
static struct session_plan session_of(const struct tune_args *a, bool *once)
{
    int longest = longest_of(a);
    struct session_plan p = session_plan_for(a->weights, longest, 0, true, 1);
    *once = p.once && p.chunk >= longest;
    return *once ? p : session_plan_for(a->weights, longest, (longest + 127) / 128 * 128, false, 1);
}

static struct tuner_plan cuda_plan(const struct tune_args *a)
{
    const struct llama_config *c = &a->weights->config;
    bool once;
    struct tuner_plan p = {
        .heads_at_once = c->n_heads, .session_bytes = session_of(a, &once).total_bytes};
    lay_out(a, NULL, &p);
    p.curve_bytes = (size_t)c->n_heads * (size_t)a->n_samples * sizeof(struct curve);
    p.total_bytes =
        p.session_bytes + p.stream_bytes + p.tensor_bytes + p.curve_bytes + p.workspace_bytes;
    return p;
}

static void cuda_close(void **state)
{
    struct cuda_tuner *t = *state;
    if (!t) return;
    session_close(&t->session);
    if (t->slab) {
        enum status st = weights_cuda_lock(t->on);
        weights_cuda_free(t->on, t->slab, t->slab_bytes);
        st = weights_cuda_unlock(t->on, st);
        (void)st; /* nobody waits for anything any more */
    }
    free(t->stream);
    free(t->kept);
    free(t->exact);
    free(t->eight);
    free(t->held);
    free(t->has_exact);
    free(t->host_params);
    free(t->host_lambda);
    free(t->host_ledger);
    free(t->host_points);
    free(t->errors);
    free(t->heads);
    free(t->curves);
    free(t->pairs);
    free(t);
    *state = NULL;
}

static enum status allocate(struct cuda_tuner *t)
{
    const struct tune_args *a = t->a;
    size_t samples = (size_t)a->n_samples, heads = (size_t)t->c->n_heads,
           measures = MEASURES_AT_ONCE * heads;
    t->stream = calloc(samples, sizeof *t->stream);
    t->kept = calloc(samples, sizeof *t->kept);
    t->exact = calloc(samples, sizeof *t->exact);
    t->eight = calloc(samples, sizeof *t->eight);
    t->held = calloc(samples, sizeof *t->held);
    t->has_exact = calloc(samples, sizeof *t->has_exact);
    t->host_params = calloc(measures, sizeof *t->host_params);
    t->host_lambda = calloc(measures, sizeof *t->host_lambda);
    t->host_ledger = calloc(measures, sizeof *t->host_ledger);
    t->host_points = calloc(measures, sizeof *t->host_points);
    t->errors = calloc(heads, sizeof *t->errors);
    t->heads = calloc(heads, sizeof *t->heads);
    t->curves = calloc(heads, sizeof *t->curves);
    t->pairs = calloc(heads, sizeof *t->pairs);
    if (!t->stream || !t->kept || !t->exact || !t->eight || !t->held || !t->has_exact ||
        !t->host_params || !t->host_lambda || !t->host_ledger || !t->host_points || !t->errors ||
        !t->heads || !t->curves || !t->pairs)
        return fail(ERR_MEMORY, "no memory to tune");
    struct tuner_plan ignored;
    char what[96];
    snprintf(
        what, sizeof what, "tuning on %d samples of up to %d tokens", a->n_samples, longest_of(a));
    size_t bytes = lay_out(a, NULL, &ignored);
    TRY(weights_cuda_alloc(t->on, &t->slab, bytes, what));
    t->slab_bytes = bytes;
    lay_out(a, t, &ignored);
    return OK;
}

static enum status cuda_open(void **state, const struct tune_args *a, const struct tuner_plan *plan)
{
    (void)plan;
    struct cuda_tuner *t = *state = calloc(1, sizeof *t);
    if (!t) return fail(ERR_MEMORY, "no memory to tune");
    t->a = a;
    t->c = &a->weights->config;
    t->on = (struct weights_cuda *)a->weights->on_device;
    enum status st = weights_cuda_lock(t->on);
    if (st == OK) st = allocate(t);
    st = weights_cuda_unlock(t->on, st);
    bool once;
    struct session_plan session = session_of(a, &once);
    if (st == OK)
        st = once ? session_open_once(&t->session, a->weights, a->par, session.capacity, 0, a->impl)
                  : session_open(
                        &t->session, a->weights, a->par, session.capacity, session.chunk, a->impl);
    if (st != OK) cuda_close(state);
    return st;
}

/* Forward: every sample through one layer. */

struct keeper {
    struct cuda_tuner *t;
    int sample;
};

/* Under the session's lock. */
static enum status keep_tensors(void *ctx, const struct layer_view *view)
{
    struct keeper *k = ctx;
    struct cuda_tuner *t = k->t;
    struct attn_args *held = &t->held[k->sample];
    TRY(curve_cuda_keep(view->attn, t->kept[k->sample], t->on->stream, held));
    held->block = t->a->policy->block;
    held->qk = t->a->policy->qk;
    held->pv = t->a->policy->pv;
    TRY(curve_cuda_eight(held, t->eight[k->sample], t->on->stream));
    held->o = t->o;
    held->o_row = held->q_row;
    held->o_head = held->q_head;
    return OK;
}

static enum status forward(struct cuda_tuner *t, int layer, bool keep)
{
    for (int s = 0; s < t->a->n_samples; s++) {
        struct keeper k = {t, s};
        session_reset(t->session);
        TRY(session_forward(t->session,
            &(struct forward_args){.tokens = t->a->samples[s].ids,
                .n = t->a->samples[s].n,
                .first_layer = layer,
                .end_layer = layer + 1,
                .carry_in = t->stream[s],
                .carry_out = t->stream[s],
                .hook_on_device = true,
                .hook = keep ? keep_tensors : NULL,
                .hook_ctx = &k,
                .stop = t->a->stop,
                .stop_ctx = t->a->stop_ctx}));
        t->has_exact[s] = false;
    }
    t->n_advanced = layer + 1;
    return OK;
}

static enum status cuda_hold(void *state, int layer, int first_head, int end_head)
{
    struct cuda_tuner *t = state;
    (void)first_head, (void)end_head; /* a layer is held as a whole */
    t->layer = layer;
    return forward(t, layer, true);
}

static enum status cuda_advance(void *state, int layer)
{
    struct cuda_tuner *t = state;
    /* holding a layer has gone through it */
    return t->n_advanced > layer ? OK : forward(t, layer, false);
}

/* Work on one sample at a time; every body runs with the device's lock. */

static enum status blame(const struct cuda_tuner *t, int sample, enum status st)
{
    if (st == OK || st == ERR_CANCELLED) return st;
    char message[512];
    snprintf(message, sizeof message, "%s", status_message());
    return fail(st, "layer %d, sample %s: %s", t->layer, t->a->samples[sample].name, message);
}

/* What the kernels are asked about this sample, its dense output being there. */
static enum status question(struct cuda_tuner *t, int sample, struct curve_cuda_args *out)
{
    *out = (struct curve_cuda_args){.attn = &t->held[sample],
        .smooth_k = t->a->policy->smooth_k,
        .method = t->a->policy->method,
        .exact = t->exact[sample],
        .eight = attn_is_full(&t->held[sample]) ? NULL : t->eight[sample]};
    if (!t->has_exact[sample]) TRY(curve_cuda_exact(out, t->on->stream));
    t->has_exact[sample] = true;
    return OK;
}

static enum status curves_by(
    struct cuda_tuner *t, int sample, int part, struct tuner_curve_task *tasks, int n)
{
    struct curve_cuda_args q;
    int n_heads = 0;
    for (int i = 0; i < n; i++) {
        if (tasks[i].at.sample != sample || tasks[i].at.part != part) continue;
        t->heads[n_heads] = tasks[i].at.head;
        t->curves[n_heads++] = tasks[i].out;
    }
    if (!n_heads) return OK;
    TRY(question(t, sample, &q));
    TRY(curve_cuda_thetas(&q, part, t->heads, n_heads, t->curve_ws, t->on->stream, t->curves));
    for (int i = 0; i < n; i++)
        tasks[i].done |= tasks[i].at.sample == sample && tasks[i].at.part == part;
    return OK;
}

static enum status curves_of(
    struct cuda_tuner *t, int sample, struct tuner_curve_task *tasks, int n)
{
    int n_parts = t->a->policy->method->n_parts;
    for (int part = 0; part < (n_parts ? n_parts : 1); part++)
        TRY(curves_by(t, sample, part, tasks, n));
    return OK;
}

static enum status cuda_curves(void *state, struct tuner_curve_task *tasks, int n)
{
    struct cuda_tuner *t = state;
    for (int s = 0; s < t->a->n_samples; s++) {
        if (stopped(t)) return cancelled();
        enum status st = weights_cuda_lock(t->on);
        if (st == OK) st = curves_of(t, s, tasks, n);
        TRY(weights_cuda_unlock(t->on, blame(t, s, st)));
    }
    return OK;
}

static enum status lambdas_of(
    struct cuda_tuner *t, int sample, const struct tuner_lambda_task *tasks, int n)
{
    struct curve_cuda_args q;
    int most = 0;
    for (int i = 0; i < n; i++)
        if (tasks[i].at.sample == sample && tasks[i].n_pairs > most) most = tasks[i].n_pairs;
    if (!most) return OK;
    TRY(question(t, sample, &q));
    for (int first = 0; first < most; first += MAX_LAMBDA_PAIRS) {
        int n_heads = 0;
        for (int i = 0; i < n; i++) {
            int left = tasks[i].n_pairs - first;
            if (tasks[i].at.sample != sample || left <= 0) continue;
            t->pairs[n_heads++] = (struct curve_cuda_pairs){tasks[i].at.head,
                left < MAX_LAMBDA_PAIRS ? left : MAX_LAMBDA_PAIRS, tasks[i].pairs + first,
                tasks[i].out + first};
        }
        TRY(curve_cuda_lambdas(&q, t->pairs, n_heads, t->curve_ws, t->on->stream));
    }
    return OK;
}

static enum status cuda_lambdas(void *state, const struct tuner_lambda_task *tasks, int n)
{
    struct cuda_tuner *t = state;
    for (int s = 0; s < t->a->n_samples; s++) {
        if (stopped(t)) return cancelled();
        enum status st = weights_cuda_lock(t->on);
        if (st == OK) st = lambdas_of(t, s, tasks, n);
        TRY(weights_cuda_unlock(t->on, blame(t, s, st)));
    }
    return OK;
}

/* One call of inference for the i-th host_params, which are on the device: ledger and errors of
 * every head, queued. */
static enum status queue_inference(struct cuda_tuner *t, const struct curve_cuda_args *q, int i)
{
    size_t heads = (size_t)t->c->n_heads, at = (size_t)i * heads;
    struct attn_args a = *q->attn;
    struct tile_map map = tile_map_shape(a.block, a.n_heads, 0, a.n_q);
    struct mask_cuda_args mask = {
        .attn = &a, .heads = t->params + at, .smooth_k = q->smooth_k, .method = q->method};
    map.bits = t->bits;
    for (size_t h = 0; h < heads; h++) /* as sessions do */
        if (t->host_lambda[at + h] < NEVER_SKIP) a.pv_threshold = t->lambda + at;
    TRY(mask_cuda_predict(&mask, &map, t->mask_ws, t->on->stream));
    a.tiles = &map;
    a.ledger = t->ledger + at;
    const struct attn_impl *kernel;
    TRY(attn_choose(&a, t->a->impl, &kernel));
    if (kernel->workspace(&a) > t->attn_ws_bytes)
        return fail(ERR_UNSUPPORTED, "%s asks for more scratch than a tuner plans", kernel->name);
    TRY(kernel->run(&a, t->attn_ws, t->a->par, t->on->stream));
    return curve_cuda_compare(q, t->curve_ws, t->on->stream, t->points + at);
}

/* A call to come: triple `at` of every head that has one on this sample; a head that has none idles
 * with the fewest tiles there are. */
struct measure {
    int sample, at;
};

/* n calls, whose parameters go there in one copy and whose results come back in one. */
static enum status run_measures(struct cuda_tuner *t, const struct measure *m, int n)
{
    const struct device_impl *impl = t->on->impl;
    struct device *d = t->on->d;
    size_t all = (size_t)n * (size_t)t->c->n_heads;
    for (size_t i = 0; i < all; i++) t->host_lambda[i] = t->host_params[i].lambda;
    TRY(impl->copy(d, t->params, t->host_params, all * sizeof *t->params, COPY_TO_DEVICE));
    TRY(impl->copy(d, t->lambda, t->host_lambda, all * sizeof *t->lambda, COPY_TO_DEVICE));
    TRY(impl->fill(d, t->ledger, 0, all * sizeof *t->ledger));
    for (int i = 0; i < n; i++) {
        struct curve_cuda_args q;
        enum status st = question(t, m[i].sample, &q);
        if (st == OK) st = queue_inference(t, &q, i);
        TRY(blame(t, m[i].sample, st));
    }
    TRY(impl->copy(d, t->host_points, t->points, all * sizeof *t->points, COPY_TO_HOST));
    return impl->copy(d, t->host_ledger, t->ledger, all * sizeof *t->ledger, COPY_TO_HOST);
}

static enum status take_measures(struct cuda_tuner *t, const struct measure *m, int n_measures,
    const struct tuner_measure_task *tasks, int n)
{
    const struct head_params idle = {-1, 0, 50, true, 0, 0, 0};
    int heads = t->c->n_heads;
    for (int i = 0; i < n_measures * heads; i++) t->host_params[i] = idle;
    for (int i = 0; i < n_measures; i++)
        for (int x = 0; x < n; x++)
            if (tasks[x].at.sample == m[i].sample && m[i].at < tasks[x].n)
                t->host_params[i * heads + tasks[x].at.head] = tasks[x].params[m[i].at];
    enum status st = weights_cuda_lock(t->on);
    if (st == OK) st = run_measures(t, m, n_measures);
    TRY(weights_cuda_unlock(t->on, st));
    for (int i = 0; i < n_measures; i++) {
        TRY(blame(t, m[i].sample, curve_cuda_errors(t->host_points + i * heads, heads, t->errors)));
        for (int x = 0; x < n; x++) {
            if (tasks[x].at.sample != m[i].sample || m[i].at >= tasks[x].n) continue;
            tasks[x].out[m[i].at] =
                (struct tuner_measured){head_error_of(&t->errors[tasks[x].at.head]),
                    t->host_ledger[i * heads + tasks[x].at.head]};
        }
    }
    return OK;
}

static enum status cuda_measure(void *state, const struct tuner_measure_task *tasks, int n)
{
    struct cuda_tuner *t = state;
    struct measure measures[MEASURES_AT_ONCE];
    int n_measures = 0;
    for (int s = 0; s < t->a->n_samples; s++) {
        int most = 0;
        for (int i = 0; i < n; i++)
            if (tasks[i].at.sample == s && tasks[i].n > most) most = tasks[i].n;
        for (int x = 0; x < most; x++) {
            measures[n_measures++] = (struct measure){s, x};
            if (n_measures < MEASURES_AT_ONCE) continue;
            if (stopped(t)) return cancelled();
            TRY(take_measures(t, measures, n_measures, tasks, n));
            n_measures = 0;
        }
    }
    if (!n_measures) return OK;
    if (stopped(t)) return cancelled();
    return take_measures(t, measures, n_measures, tasks, n);
}

const struct tuner_backend tuner_backend_cuda = {
    "cuda",
    cuda_refuses,
    cuda_plan,
    cuda_open,
    cuda_close,
    cuda_hold,
    cuda_advance,
    cuda_curves,
    cuda_lambdas,
    cuda_measure,
};

#include "engine/session_cpu_parts.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "engine/attend.h"
#include "engine/rope.h"
#include "engine/session_backend.h"
#include "kernels/cpu/cpu_ops.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    MLP_ROWS = 1024, /* gate and up exist for so many rows at a time */
    DEFAULT_CHUNK = 8192,
};

static size_t align64(size_t n) { return (n + 63) / 64 * 64; }

struct slab_layout {
    size_t kv, x, norm, q, attn, kv_rows, gate, up, cosine, sine, inv_freq, linear, end;
};

static struct slab_layout lay_out(
    const struct llama_config *c, int capacity, int chunk, bool once, int n_threads)
{
    struct slab_layout l = {0};
    size_t at = 0, f = sizeof(float), rows = (size_t)chunk, d = (size_t)c->head_dim;
    size_t q_dim = (size_t)c->n_heads * d, kv_dim = (size_t)c->n_kv_heads * d,
           hidden = (size_t)c->hidden_size;
    size_t mlp_rows = chunk < MLP_ROWS ? rows : MLP_ROWS, inter = (size_t)c->intermediate_size;
    size_t widest = hidden > inter ? hidden : inter;
    if (q_dim > widest) widest = q_dim;
#define PUT(field, bytes) (l.field = at, at += align64(bytes))
    PUT(kv, f * 2 * (once ? 1 : (size_t)c->n_layers) * kv_dim * (size_t)capacity);
    PUT(x, f * rows * hidden);
    PUT(norm, f * rows * hidden);
    PUT(q, f * rows * q_dim);
    PUT(attn, f * rows * q_dim);
    PUT(kv_rows, f * rows * kv_dim);
    PUT(gate, f * mlp_rows * inter);
    PUT(up, f * mlp_rows * inter);
    size_t ropes = (size_t)rope_count(c);
    PUT(cosine, f * ropes * rows * d / 2);
    PUT(sine, f * ropes * rows * d / 2);
    PUT(inv_freq, f * ropes * d / 2);
    PUT(linear, linear_workspace((int)widest, n_threads));
#undef PUT
    l.end = at;
    return l;
}

/* by_layer: several chunks of a sequence pass a layer before they enter the next. */
static struct session_plan plan(
    const struct llama_config *c, int capacity, int chunk, bool once, bool by_layer, int n_threads)
{
    once = once && (by_layer || (chunk <= 0 && capacity <= DEFAULT_CHUNK));
    if (chunk <= 0) chunk = capacity < DEFAULT_CHUNK ? capacity : DEFAULT_CHUNK;
    struct slab_layout l = lay_out(c, capacity, chunk, once, n_threads);
    return (struct session_plan){.kv_bytes = l.x,
        .activation_bytes = l.linear - l.x,
        .linear_bytes = l.end - l.linear,
        .total_bytes = l.end,
        .capacity = capacity,
        .chunk = chunk,
        .once = once};
}

struct session_plan session_plan(
    const struct llama_config *c, int capacity, int chunk, int n_threads)
{
    return plan(c, capacity, chunk, false, false, n_threads);
}

static struct session_plan cpu_plan(
    const struct weights *w, int capacity, int chunk, bool once, int n_threads)
{
    return plan(&w->config, capacity, chunk, once, w->device_options.offload, n_threads);
}

static void cpu_close(void **state)
{
    struct session_cpu *s = *state;
    if (!s) return;
    free(s->slab);
    free(s->scratch);
    free(s);
    *state = NULL;
}

static enum status cpu_open(void **state, const struct weights *w, struct par *par,
    const struct session_plan *p, const char *impl)
{
    struct session_cpu *s = *state = calloc(1, sizeof *s);
    if (!s) return fail(ERR_MEMORY, "no memory for a session");
    s->w = w;
    s->par = par;
    s->impl = impl;
    s->plan = *p;
    s->slab = aligned_alloc(64, p->total_bytes);
    if (!s->slab)
        return fail(ERR_MEMORY,
            "a session of %d tokens needs %.2f GiB (KV cache %.2f GiB); lower --max-length",
            p->capacity, (double)p->total_bytes / 0x1p30, (double)p->kv_bytes / 0x1p30);
    struct slab_layout l = lay_out(&w->config, p->capacity, p->chunk, p->once, par_threads(par));
    char *base = s->slab;
    s->kv = (float *)(base + l.kv);
    s->x = (float *)(base + l.x);
    s->norm = (float *)(base + l.norm);
    s->q = (float *)(base + l.q);
    s->attn = (float *)(base + l.attn);
    s->kv_rows = (float *)(base + l.kv_rows);
    s->gate = (float *)(base + l.gate);
    s->up = (float *)(base + l.up);
    s->cosine = (float *)(base + l.cosine);
    s->sine = (float *)(base + l.sine);
    s->inv_freq = (float *)(base + l.inv_freq);
    s->linear_ws = base + l.linear;
    return OK;
}

static enum status scratch(struct session_cpu *s, size_t bytes)
{
    if (bytes <= s->scratch_bytes) return OK;
    free(s->scratch);
    s->scratch_bytes = 0;
    s->scratch = aligned_alloc(64, align64(bytes));
    if (!s->scratch)
        return fail(ERR_MEMORY, "attention needs %.2f GiB of scratch; lower --max-length",
            (double)bytes / 0x1p30);
    s->scratch_bytes = align64(bytes);
    return OK;
}

static float *cache_of(const struct session_cpu *s, int layer, int value)
{
    const struct llama_config *c = &s->w->config;
    size_t plane = (size_t)c->n_kv_heads * (size_t)s->plan.capacity * (size_t)c->head_dim;
    return s->kv + ((s->plan.once ? 0 : (size_t)layer) * 2 + (size_t)value) * plane;
}

/* The stream as it enters layer `layer`, all tokens of the chunk. session_forward() finds out where
 * it began. */
static enum status check_stream(struct session_cpu *s, int n, int layer)
{
    atomic_store(&s->not_finite, false);
    for_rows(s, &(struct rows_job){.s = s, .n = n, .from = s->x}, rows_finite);
    if (!atomic_load(&s->not_finite)) return OK;
    return fail(
        ERR_NUMERIC, "the residual stream holds NaN or infinity in front of layer %d", layer);
}

/* Seconds since t0 to one of the times, when somebody asked. */
static int64_t started(const struct session_cpu *s) { return s->times ? clock_ns() : 0; }

static void spent(const struct session_cpu *s, int64_t t0, double *seconds)
{
    if (s->times) *seconds += (double)(clock_ns() - t0) * 1e-9;
}

static enum status run_attention(struct session_cpu *s, struct attend *t)
{
    if (!s->times) return attend_run(t, s->scratch);
    struct forward_times *to = s->times;
    struct attn_ticks ticks = {0};
    double seconds = 0;
    int64_t t0 = started(s);
    t->args->ticks = &ticks;
    enum status st = attend_run(t, s->scratch);
    t->args->ticks = NULL;
    if (st != OK) return st;
    spent(s, t0, &seconds);
    *(t->args->tiles ? &to->attention_s : &to->attention_dense_s) += seconds;
    if (!t->args->tiles || ticks.qk + ticks.pv == 0) return OK;
    double part = (double)ticks.qk / (double)(ticks.qk + ticks.pv);
    to->has_split = true;
    to->qk_s += seconds * part;
    to->pv_s += seconds * (1 - part);
    return OK;
}

/* A call on n rows: q and o token by token with the heads of one beside each other, k and v head by
 * head, kv_head elements apart. */
static struct attn_args attention_of(
    const struct llama_config *c, int n, int n_heads, int n_kv_heads, ptrdiff_t kv_head)
{
    ptrdiff_t d = c->head_dim, row = (ptrdiff_t)n_heads * d;
    return (struct attn_args){.dtype = DTYPE_F32,
        .n_q = n,
        .n_heads = n_heads,
        .n_kv_heads = n_kv_heads,
        .head_dim = c->head_dim,
        .scale = llama_attention_scale(c),
        .q_row = row,
        .q_head = d,
        .k_row = d,
        .k_head = kv_head,
        .v_row = d,
        .v_head = kv_head,
        .o_row = row,
        .o_head = d,
        .block = BLOCK_DEFAULT};
}

/* Of the longest call there can be: every row of a chunk at the end of a full sequence. */
static struct session_scratch cpu_scratch(const struct weights *w, const struct session_plan *plan,
    const struct sparse_policy *p, int n_threads)
{
    const struct llama_config *c = &w->config;
    int n = plan->chunk < plan->capacity ? plan->chunk : plan->capacity;
    struct attn_args a =
        attention_of(c, n, c->n_heads, c->n_kv_heads, (ptrdiff_t)plan->capacity * c->head_dim);
    a.q_start = (plan->capacity - n + 127) / 128 * 128;
    if (p) a.block = p->block, a.qk = p->qk, a.pv = p->pv;
    return (struct session_scratch){.bytes = attend_bytes(&a, p, n_threads)};
}

static enum status attend(struct session_cpu *s, const struct forward_args *f, int layer, int n,
    int position, int total_len)
{
    const struct llama_config *c = &s->w->config;
    int d = c->head_dim;
    ptrdiff_t head = (ptrdiff_t)s->plan.capacity * d;
    struct attn_args a = attention_of(c, n, c->n_heads, c->n_kv_heads, head);
    a.q_start = position;
    a.q = s->q;
    a.k = cache_of(s, layer, 0);
    a.v = cache_of(s, layer, 1);
    a.o = s->attn;
    if (f->policy) a.block = f->policy->block;
    a.ledger = f->ledger ? f->ledger + layer * c->n_heads : NULL;
    a.window = session_window(c, layer, total_len);
    struct layer_way way = session_layer_way(
        f, layer, total_len, position, (struct call_place){c->head_dim, c->n_heads, false});
    if (!layer_way_is_plain(way) && a.window) return session_fail_windowed(c, layer, f->policy);
    a.qk = way.qk;
    a.pv = way.pv;
    struct attend t;
    TRY(attend_begin(&t, &a, f->policy, layer, way.sparse, s->impl, s->par));
    session_note_impl(s->impls, t.impl);
    TRY(scratch(s, t.scratch_bytes));
    int64_t t0 = started(s);
    TRY(attend_predict(&t, s->scratch));
    if (s->times && way.sparse) spent(s, t0, &s->times->predict_s);
    TRY(run_attention(s, &t));
    if (f->hook)
        TRY(f->hook(f->hook_ctx, &(struct layer_view){layer, c->n_layers, &a, a.tiles, NULL}));
    return OK;
}

static void normalise(
    struct session_cpu *s, int n, const float *weight, const float *from, float *to)
{
    for_rows(
        s, &(struct rows_job){.s = s, .weight = weight, .n = n, .from = from, .to = to}, rows_norm);
}

/* What attention or the MLP reads of a stream: its norm, or itself where the family's norms stand
 * behind. */
static const float *input_of(struct session_cpu *s, int n, const float *weight, const float *x)
{
    if (!weight) return x;
    normalise(s, n, weight, x, s->norm);
    return s->norm;
}

/* All heads of q or of k, where the family normalises them. */
static void normalise_heads(
    struct session_cpu *s, const float *weight, int n_heads, int n, float *x)
{
    const struct llama_config *c = &s->w->config;
    bool whole = c->qk_norm == QK_NORM_WHOLE;
    if (weight)
        for_rows(s,
            &(struct rows_job){.s = s,
                .weight = weight,
                .n = n,
                .n_heads = whole ? 1 : n_heads,
                .dim = whole ? n_heads * c->head_dim : c->head_dim,
                .to = x},
            rows_part_norm);
}

static void turn_queries(struct session_cpu *s, int layer, int n_heads, int n, float *q)
{
    const struct llama_config *c = &s->w->config;
    if (llama_turns(c, layer))
        for_rows(s,
            &(struct rows_job){
                .s = s, .n = n, .n_heads = n_heads, .to = q, .rope = llama_rope(c, layer)},
            rows_rotate);
}

/* Every rotation of the model, for the rows of a job. */
static void find_angles(struct session_cpu *s, struct rows_job rows)
{
    for (rows.rope = 0; rows.rope < rope_count(&s->w->config); rows.rope++)
        for_rows(s, &rows, rows_angles);
}

static void find_frequencies(struct session_cpu *s, int total_len)
{
    const struct llama_config *c = &s->w->config;
    for (int i = 0; i < rope_count(c); i++)
        rope_frequencies(c, i, total_len, s->inv_freq + i * c->head_dim / 2);
}

static void project(
    struct session_cpu *s, const struct linear *l, int n, const float *x, float *y, bool add)
{
    int64_t t0 = started(s);
    linear_run(l, n, x, l->k, y, l->m, add, s->linear_ws, s->par);
    if (s->times) spent(s, t0, &s->times->linear_s);
}

/* Onto rows [row, row + n) of the stream; where a norm stands behind, those of `norm` hold what it
 * is of. */
static void project_add(struct session_cpu *s, const struct linear *l, int row, int n,
    const float *x, const float *behind)
{
    size_t at = (size_t)row * (size_t)l->m;
    project(s, l, n, x, (behind ? s->norm : s->x) + at, !behind);
    if (behind)
        for_rows(s,
            &(struct rows_job){
                .s = s, .weight = behind, .n = n, .branch = s->norm + at, .to = s->x + at},
            rows_behind);
}

static void mlp(struct session_cpu *s, const struct layer_weights *lw, int n)
{
    size_t h = (size_t)s->w->config.hidden_size;
    const float *in = input_of(s, n, lw->mlp_norm, s->x);
    for (int row = 0; row < n; row += MLP_ROWS) {
        int rows = n - row < MLP_ROWS ? n - row : MLP_ROWS;
        const float *x = in + (size_t)row * h;
        project(s, &lw->gate, rows, x, s->gate, false);
        project(s, &lw->up, rows, x, s->up, false);
        for_rows(s, &(struct rows_job){.s = s, .n = rows, .from = s->up, .to = s->gate}, rows_silu);
        project_add(s, &lw->down, row, rows, s->gate, lw->mlp_behind);
    }
}

static enum status layer_forward(struct session_cpu *s, const struct forward_args *f, int layer,
    int n, int position, int total_len)
{
    const struct llama_config *c = &s->w->config;
    const struct layer_weights *lw = &s->w->layers[layer];
    weights_enter_layer(s->w, layer);
    const float *in = input_of(s, n, lw->attn_norm, s->x);
    project(s, &lw->q, n, in, s->q, false);
    normalise_heads(s, lw->q_norm, c->n_heads, n, s->q);
    turn_queries(s, layer, c->n_heads, n, s->q);
    for (int value = 0; value < 2; value++) {
        project(s, value ? &lw->v : &lw->k, n, in, s->kv_rows, false);
        if (!value) normalise_heads(s, lw->k_norm, c->n_kv_heads, n, s->kv_rows);
        for_rows(s,
            &(struct rows_job){.s = s,
                .n = n,
                .position = position,
                .n_heads = c->n_kv_heads,
                .from_heads = c->n_kv_heads,
                .head_rows = (size_t)s->plan.capacity,
                .from = s->kv_rows,
                .to = cache_of(s, layer, value),
                .rope = llama_rope(c, layer),
                .rotate = !value && llama_turns(c, layer)},
            rows_cache);
    }
    TRY(attend(s, f, layer, n, position, total_len));
    project_add(s, &lw->o, 0, n, s->attn, lw->attn_behind);
    mlp(s, lw, n);
    return OK;
}

static enum status cpu_compare(void *state, int n, struct rows_at dense, struct rows_at sparse,
    const int32_t *next, struct token_metrics *out, struct tensor_sums *sums)
{
    struct session_cpu *s = state;
    TRY(scratch(s, compare_workspace(&s->w->head, par_threads(s->par))));
    return compare_logits(&s->w->head, n, dense.at, sparse.at, next, out, sums, s->scratch, s->par);
}

/* The states of a chunk are in x; `norm` is free behind the last layer. */
static enum status score_chunk(
    struct session_cpu *s, const struct forward_args *f, int begin, int n)
{
    struct tensor_sums sums = {0};
    struct token_metrics *rows = malloc(sizeof *rows * (size_t)n);
    if (!rows) return fail(ERR_MEMORY, "no memory to score %d tokens", n);
    normalise(s, n, s->w->final_norm, s->x, s->norm);
    int64_t t0 = started(s);
    struct rows_at norm = {.at = s->norm};
    enum status st = cpu_compare(s, n, norm, norm, f->next + begin, rows, &sums);
    if (s->times) spent(s, t0, &s->times->linear_s);
    for (int r = 0; r < n && st == OK; r++) f->nll[begin + r] = rows[r].nll_dense;
    free(rows);
    return st;
}

static enum status chunk_forward(
    struct session_cpu *s, const struct forward_args *f, int begin, int n, int total_len)
{
    const struct llama_config *c = &s->w->config;
    int position = s->position + begin;
    size_t h = (size_t)c->hidden_size, offset = (size_t)begin * h;
    struct rows_job rows = {
        .s = s, .tokens = f->tokens + begin, .n = n, .position = position, .to = s->x};
    find_angles(s, rows);
    int first = f->residual_in || f->carry_in ? f->first_layer : 0;
    const float *stream = f->residual_in ? f->residual_in : first > 0 ? f->carry_in : NULL;
    if (stream) rows.from = stream + offset;
    for_rows(s, &rows, stream ? rows_copy : rows_embed);
    int end = f->end_layer > 0 ? f->end_layer : c->n_layers;
    for (int l = first; l <= end; l++) {
        if (!f->unchecked) TRY(check_stream(s, n, l));
        if (f->residual_out && l == f->capture_layer)
            for_rows(s,
                &(struct rows_job){.s = s, .n = n, .from = s->x, .to = f->residual_out + offset},
                rows_copy);
        if (l == end && f->carry_out)
            for_rows(s,
                &(struct rows_job){.s = s, .n = n, .from = s->x, .to = f->carry_out + offset},
                rows_copy);
        if (l == end) break;
        if (f->stop && f->stop(f->stop_ctx)) return fail(ERR_CANCELLED, "stopped on request");
        TRY(layer_forward(s, f, l, n, position, total_len));
    }
    if (f->hidden) normalise(s, n, s->w->final_norm, s->x, f->hidden + offset);
    if (f->last_hidden && begin + n == f->n)
        cpu_ops()->rmsnorm(s->x + (size_t)(n - 1) * h, s->w->final_norm, (float)c->rms_norm_eps,
            c->hidden_size, f->last_hidden);
    if (f->last_logits && begin + n == f->n) {
        cpu_ops()->rmsnorm(s->x + (size_t)(n - 1) * h, s->w->final_norm, (float)c->rms_norm_eps,
            c->hidden_size, s->norm);
        project(s, &s->w->head, 1, s->norm, f->last_logits, false);
    }
    return f->nll ? score_chunk(s, f, begin, n) : OK;
}

static enum status cpu_forward(
    void *state, int position, int total_len, const struct forward_args *f, struct str *impls)
{
    struct session_cpu *s = state;
    if (f->hook_on_device)
        return fail(ERR_UNSUPPORTED, "tensors of a device are asked of a session on the CPU");
    s->position = position;
    s->impls = impls;
    find_frequencies(s, total_len);
    struct forward_times mine = {0};
    double total = 0;
    int64_t t0 = clock_ns();
    s->times = f->times ? &mine : NULL;
    enum status st = OK;
    for (int begin = 0; begin < f->n && st == OK; begin += s->plan.chunk) {
        int n = f->n - begin < s->plan.chunk ? f->n - begin : s->plan.chunk;
        st = chunk_forward(s, f, begin, n, total_len);
    }
    spent(s, t0, &total);
    s->times = NULL;
    if (st != OK) return st;
    mine.rest_s =
        total - mine.predict_s - mine.attention_s - mine.attention_dense_s - mine.linear_s;
    if (f->times) forward_times_add(f->times, &mine);
    return OK;
}

/* All heads are projected and some are kept: only the layer's own products give its bits on every
 * processor. */
static enum status cpu_heads(void *state, const struct heads_args *a)
{
    struct session_cpu *s = state;
    const struct llama_config *c = &s->w->config;
    const struct layer_weights *lw = &s->w->layers[a->layer];
    int n = a->n, n_heads = a->end - a->first, g = c->n_heads / c->n_kv_heads, d = c->head_dim;
    int kv_first = a->first / g, kv_end = (a->end - 1) / g + 1, n_kv = kv_end - kv_first;
    assert(n_heads > 0 && n_heads % n_kv == 0 && n <= s->plan.chunk);
    ptrdiff_t head = (ptrdiff_t)n * d;
    struct attn_args attn = attention_of(c, n, n_heads, n_kv, head);
    attn.q = a->q;
    attn.k = a->k;
    attn.v = a->v;
    attn.o = a->o;
    attn.window = session_window(c, a->layer, n);
    struct rows_job rows = {.s = s, .tokens = a->tokens, .n = n, .to = s->x};
    find_frequencies(s, n);
    find_angles(s, rows);
    if (!a->residual) for_rows(s, &rows, rows_embed);
    weights_enter_layer(s->w, a->layer);
    const float *in = input_of(s, n, lw->attn_norm, a->residual ? a->residual : s->x);
    project(s, &lw->q, n, in, s->q, false);
    normalise_heads(s, lw->q_norm, c->n_heads, n, s->q);
    for_rows(s,
        &(struct rows_job){.s = s,
            .n = n,
            .n_heads = n_heads,
            .from_heads = c->n_heads,
            .from = s->q + (size_t)a->first * (size_t)d,
            .to = a->q},
        rows_pick);
    turn_queries(s, a->layer, n_heads, n, a->q);
    for (int value = 0; value < 2; value++) {
        project(s, value ? &lw->v : &lw->k, n, in, s->kv_rows, false);
        if (!value) normalise_heads(s, lw->k_norm, c->n_kv_heads, n, s->kv_rows);
        for_rows(s,
            &(struct rows_job){.s = s,
                .n = n,
                .n_heads = n_kv,
                .from_heads = c->n_kv_heads,
                .head_rows = (size_t)n,
                .from = s->kv_rows + (size_t)kv_first * (size_t)d,
                .to = value ? a->v : a->k,
                .rope = llama_rope(c, a->layer),
                .rotate = !value && llama_turns(c, a->layer)},
            rows_cache);
    }
    const struct attn_impl *impl;
    TRY(attn_choose(&attn, s->impl, &impl));
    TRY(scratch(s, impl->workspace(&attn)));
    return impl->run(&attn, s->scratch, s->par, NULL);
}

/* One by one: a product of several rows rounds otherwise. */
static enum status cpu_logits(void *state, int n, const float *hidden, float *logits)
{
    struct session_cpu *s = state;
    const struct llama_config *c = &s->w->config;
    for (int r = 0; r < n; r++)
        project(s, &s->w->head, 1, hidden + (size_t)r * (size_t)c->hidden_size,
            logits + (size_t)r * (size_t)c->vocab_size, false);
    return OK;
}

/* A quarter of the model, or half of what the machine has left where that is less: with the layers
 * in use it stays far below the model's size. */
static size_t cpu_carry_room(void *state)
{
    const struct session_cpu *s = state;
    size_t left = memory_available() / 2, quarter = s->w->weight_bytes / 4;
    return left < quarter ? left : quarter;
}

static enum status cpu_carry_open(void *state, float **at, size_t values)
{
    (void)state;
    *at = malloc(values * sizeof **at);
    return *at ? OK
               : fail(ERR_MEMORY,
                     "the streams of samples between layers need %.2f GiB; lower --max-length",
                     (double)(values * sizeof **at) / 0x1p30);
}

static void cpu_carry_close(void *state, float **at, size_t values)
{
    (void)state, (void)values;
    free(*at);
    *at = NULL;
}

const struct session_backend session_backend_cpu = {
    "cpu",
    cpu_plan,
    cpu_scratch,
    cpu_open,
    cpu_close,
    cpu_forward,
    cpu_heads,
    cpu_logits,
    cpu_compare,
    cpu_carry_room,
    cpu_carry_open,
    cpu_carry_close,
    NULL,
    NULL,
    NULL,
    NULL,
};

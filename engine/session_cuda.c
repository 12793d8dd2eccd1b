#include "engine/session_cuda.h"

#include "engine/rope.h"
#include "engine/tuner_parts.h"
#include "engine/weights_cuda.h"
#include "kernels/compare_cuda.h"
#include "kernels/device_cuda.h"
#include "kernels/ops_cuda.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_CHUNK = 8192,
};

struct session_cuda {
    const struct weights *w;
    struct weights_cuda *on;
    struct par *par;
    const char *impl;
    struct session_plan plan;
    void *slab;
    /* device */
    uint16_t *kv;               /* [n_layers][2][n_kv_heads][capacity][head_dim] */
    float *x;                   /* [chunk, hidden] residual stream */
    uint16_t *norm;             /* [chunk, hidden] */
    uint16_t *qkv, *attn;       /* [chunk, (n_heads + 2 n_kv_heads) head_dim], [chunk, n_heads head_dim] */
    uint16_t *gate_up, *act;    /* [chunk, 2 intermediate], [chunk, intermediate] */
    float *wide;                /* [chunk, hidden]: final states on their way to the host; rows to compare */
    float *cosine, *sine, *inv_freq;
    int32_t *tokens;            /* [chunk]; the true next ones while scoring */
    struct head_params *heads;  /* [n_layers, n_heads] */
    float *lambda;
    uint8_t *head_sparse;
    struct head_ledger *ledger;
    char *maps, *mask_ws, *attn_ws; /* a map for each layer, map_bytes apart */
    size_t map_bytes;
    float *logits;
    struct compare_cuda_row *rows; /* [COMPARE_CUDA_ROWS] */
    /* host */
    struct head_ledger *host_ledger;
    uint8_t *host_sparse;       /* [n_layers, n_heads] */
    float *host_lambda;
    struct compare_cuda_row *host_rows;
    struct tile_map *kept_maps; /* [n_layers] shapes of this chunk's maps for a hook that waits; no heads: dense */
    void *host_map;             /* map_bytes */
    float *view[4];             /* q, k, v, o for a hook that looks inside; allocated when first needed */
    float *device_view;
    size_t device_view_bytes;
    const struct attn_args *repeat; /* the device call under a hook */
};

static size_t align256(size_t n) { return (n + 255) / 256 * 256; }
static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* The largest map and prediction of any call: every row of a chunk at the end of a full sequence. */
static void sparse_sizes(const struct llama_config *c, int capacity, int chunk, size_t *map, size_t *mask)
{
    int n = chunk < capacity ? chunk : capacity, start = (capacity - n + 127) / 128 * 128;
    *map = *mask = 0;
    for (int q = 64; q <= 128; q += 64)
        for (int k = 64; k <= 128; k += 64) {
            struct attn_args a = {.dtype = DTYPE_BF16, .n_q = n, .q_start = start, .n_heads = c->n_heads,
                                  .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim, .block = {q, k}};
            struct mask_cuda_args m = {.attn = &a};
            struct tile_map t = tile_map_shape(a.block, c->n_heads, start, n);
            *map = max_size(*map, align256(tile_map_bytes(&t)));
            *mask = max_size(*mask, align256(mask_cuda_workspace(&m)));
        }
}

/* What the attention implementations ask for: counters, and what a decode step merges. */
static size_t attention_scratch(const struct llama_config *c)
{
    static const struct attn_impl *const all[] = {&attn_decode_cuda_bf16, &attn_dense_sm90_bf16, &attn_sparse_sm90_bf16,
                                                  &attn_cuda_bf16};
    struct attn_args a = {.dtype = DTYPE_BF16, .n_q = 1, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim};
    size_t most = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) most = max_size(most, all[i]->workspace(&a));
    return most;
}

/* Where everything stands in the slab; the same walk counts and hands out. kv and logits: offsets at which these begin. */
static size_t lay_out(const struct llama_config *c, int capacity, int chunk, struct session_cuda *to, size_t *kv_end,
                      size_t *logits_begin)
{
    struct session_cuda none;
    char *base = to ? to->slab : NULL;
    if (!to) to = &none;
    size_t at = 0, rows = (size_t)chunk, d = (size_t)c->head_dim, h = (size_t)c->hidden_size;
    size_t q = (size_t)c->n_heads * d, kv = (size_t)c->n_kv_heads * d, inter = (size_t)c->intermediate_size;
    size_t cells = (size_t)c->n_layers * (size_t)c->n_heads, mask_bytes;
    sparse_sizes(c, capacity, chunk, &to->map_bytes, &mask_bytes);
#define PUT(field, n, type)                                         \
    do {                                                            \
        to->field = base ? (type *)(base + at) : NULL;              \
        at += align256((n) * sizeof(type));                         \
    } while (0)
    PUT(kv, 2 * (size_t)c->n_layers * kv * (size_t)capacity, uint16_t);
    *kv_end = at;
    PUT(x, rows * h, float);
    PUT(norm, max_size(rows, COMPARE_CUDA_ROWS) * h, uint16_t);
    PUT(qkv, rows * (q + 2 * kv), uint16_t);
    PUT(attn, rows * q, uint16_t);
    PUT(gate_up, rows * 2 * inter, uint16_t);
    PUT(act, rows * inter, uint16_t);
    PUT(wide, max_size(rows, COMPARE_CUDA_ROWS) * h, float);
    PUT(cosine, rows * d / 2, float);
    PUT(sine, rows * d / 2, float);
    PUT(inv_freq, d / 2, float);
    PUT(tokens, max_size(rows, COMPARE_CUDA_ROWS), int32_t);
    PUT(heads, cells, struct head_params);
    PUT(lambda, cells, float);
    PUT(head_sparse, align256((size_t)c->n_heads) * (size_t)c->n_layers, uint8_t);
    PUT(ledger, cells, struct head_ledger);
    PUT(maps, to->map_bytes * (size_t)c->n_layers, char);
    PUT(mask_ws, mask_bytes, char);
    PUT(attn_ws, attention_scratch(c), char);
    *logits_begin = at;
    PUT(logits, max_size((size_t)COMPARE_CUDA_ROWS * COMPARE_CUDA_CHUNK, (size_t)c->vocab_size), float);
    PUT(rows, COMPARE_CUDA_ROWS, struct compare_cuda_row);
#undef PUT
    return at;
}

struct session_plan session_plan_cuda(const struct llama_config *c, int capacity, int chunk)
{
    if (chunk <= 0 || chunk > (capacity + 127) / 128 * 128)
        chunk = capacity < DEFAULT_CHUNK ? (capacity + 127) / 128 * 128 : chunk > 0 ? chunk : DEFAULT_CHUNK;
    size_t kv, logits, end = lay_out(c, capacity, chunk, NULL, &kv, &logits);
    return (struct session_plan){.kv_bytes = kv, .activation_bytes = logits - kv, .linear_bytes = end - logits,
                                 .total_bytes = end, .capacity = capacity, .chunk = chunk};
}

static struct session_plan plan(const struct weights *w, int capacity, int chunk)
{
    return session_plan_cuda(&w->config, capacity, chunk);
}

static enum status locked(struct weights_cuda *on)
{
    pthread_mutex_lock(&on->lock);
    return device_cuda_use(on->d);
}

static enum status unlocked(struct weights_cuda *on, enum status st)
{
    if (st != OK) { /* nothing of a failed call may still be under way; its own message stays */
        char message[512];
        snprintf(message, sizeof message, "%s", status_message());
        enum status after = on->impl->sync(on->d);
        (void)after;
        st = fail(st, "%s", message);
    }
    pthread_mutex_unlock(&on->lock);
    return st;
}

static void cuda_close(void **state)
{
    struct session_cuda *s = *state;
    if (!s) return;
    pthread_mutex_lock(&s->on->lock);
    weights_cuda_free(s->on, s->slab, s->plan.total_bytes);
    weights_cuda_free(s->on, s->device_view, s->device_view_bytes);
    pthread_mutex_unlock(&s->on->lock);
    for (int i = 0; i < 4; i++) free(s->view[i]);
    free(s->host_ledger);
    free(s->host_sparse);
    free(s->host_lambda);
    free(s->host_rows);
    free(s->kept_maps);
    free(s->host_map);
    free(s);
    *state = NULL;
}

static enum status cuda_open(void **state, const struct weights *w, struct par *par, const struct session_plan *p,
                             const char *impl)
{
    const struct llama_config *c = &w->config;
    size_t cells = (size_t)c->n_layers * (size_t)c->n_heads, ignored[2];
    struct session_cuda *s = calloc(1, sizeof *s);
    *state = s;
    if (!s) return fail(ERR_MEMORY, "no memory for a session");
    *s = (struct session_cuda){.w = w, .on = (struct weights_cuda *)w->on_device, .par = par, .impl = impl, .plan = *p};
    char what[128];
    snprintf(what, sizeof what, "a session of %d tokens (KV cache %.2f GiB)", p->capacity, (double)p->kv_bytes / 0x1p30);
    enum status st = locked(s->on);
    if (st == OK) st = weights_cuda_alloc(s->on, &s->slab, p->total_bytes, what);
    st = unlocked(s->on, st);
    if (st == OK) {
        lay_out(c, p->capacity, p->chunk, s, &ignored[0], &ignored[1]);
        s->host_ledger = malloc(cells * sizeof *s->host_ledger);
        s->host_sparse = malloc(cells);
        s->host_lambda = malloc(cells * sizeof *s->host_lambda);
        s->host_rows = malloc(COMPARE_CUDA_ROWS * sizeof *s->host_rows);
        s->kept_maps = malloc((size_t)c->n_layers * sizeof *s->kept_maps);
        s->host_map = malloc(s->map_bytes);
        if (!s->host_ledger || !s->host_sparse || !s->host_lambda || !s->host_rows || !s->kept_maps || !s->host_map)
            st = fail(ERR_MEMORY, "no memory for a session");
    }
    if (st != OK) cuda_close(state);
    return st;
}

static enum status send(struct session_cuda *s, void *to, const void *from, size_t bytes)
{
    return s->on->impl->copy(s->on->d, to, from, bytes, COPY_TO_DEVICE);
}

static enum status fetch(struct session_cuda *s, void *to, const void *from, size_t bytes)
{
    return s->on->impl->copy(s->on->d, to, from, bytes, COPY_TO_HOST);
}

static uint16_t *cache_of(const struct session_cuda *s, int layer, int value)
{
    const struct llama_config *c = &s->w->config;
    return s->kv + (((size_t)layer * 2 + (size_t)value) * (size_t)c->n_kv_heads * (size_t)s->plan.capacity) * (size_t)c->head_dim;
}

static enum status project(struct session_cuda *s, int n, int m, int k, const uint16_t *x, const uint16_t *w, uint16_t *y)
{
    return gemm_cuda_run(s->on->gemm, n, m, k, x, w, y, m, DTYPE_BF16, false);
}

/* Onto the residual stream, which stays f32. */
static enum status project_add(struct session_cuda *s, int n, int k, const uint16_t *x, const uint16_t *w, const float *bias)
{
    int h = s->w->config.hidden_size;
    TRY(gemm_cuda_run(s->on->gemm, n, h, k, x, w, s->x, h, DTYPE_F32, true));
    return bias ? ops_cuda_add_bias(s->x, bias, n, h, s->on->stream) : OK;
}

/* Tiles of the methods that look at no tensor, made on the host. */
static enum status host_map(struct session_cuda *s, const struct forward_args *f, int layer, const struct attn_args *a,
                            struct tile_map *map)
{
    const struct sparse_policy *p = f->policy;
    int n_heads = s->w->config.n_heads;
    struct attn_args shape = *a;
    shape.dtype = DTYPE_F32;
    shape.ledger = f->ledger ? f->ledger + layer * n_heads : NULL;
    struct mask_args m = {.attn = &shape, .heads = p->heads + layer * n_heads, .smooth_k = p->smooth_k, .topk = p->topk,
                          .window = p->window};
    struct tile_map host = *map;
    host.bits = s->host_map;
    void *ws = aligned_alloc(64, (mask_workspace(p->method, &m, par_threads(s->par)) + 127) / 64 * 64);
    if (!ws) return fail(ERR_MEMORY, "no memory to choose tiles");
    enum status st = mask_predict(p->method, &m, &host, ws, s->par);
    free(ws);
    return st == OK ? send(s, map->bits, host.bits, tile_map_bytes(map)) : st;
}

static enum status choose_tiles(struct session_cuda *s, const struct forward_args *f, int layer, const struct attn_args *a,
                                struct tile_map *map)
{
    const struct sparse_policy *p = f->policy;
    if (p->method == &mask_window) return host_map(s, f, layer, a, map);
    if (p->method != &mask_sparge)
        return fail(ERR_UNSUPPORTED, "method %s is not offered on CUDA; use --device cpu", p->method->name);
    struct mask_cuda_args m = {.attn = a, .heads = s->heads + layer * s->w->config.n_heads, .smooth_k = p->smooth_k,
                               .topk = p->topk};
    return mask_cuda_predict(&m, map, s->mask_ws, s->on->stream);
}

/* Hooks: what they are shown, and the call repeated for them. */

static size_t plane_floats(const struct attn_args *a, bool keys)
{
    return (size_t)(keys ? attn_n_kv(a) : a->n_q) * (size_t)(keys ? a->n_kv_heads : a->n_heads) * (size_t)a->head_dim;
}

static enum status open_view(struct session_cuda *s)
{
    if (s->device_view) return OK;
    const struct llama_config *c = &s->w->config;
    size_t d = (size_t)c->head_dim, rows = (size_t)s->plan.chunk * (size_t)c->n_heads * d,
           keys = (size_t)s->plan.capacity * (size_t)c->n_kv_heads * d;
    /* f32 of the largest, and for a repeated call bf16 k, v, q and o */
    size_t bytes = align256(4 * max_size(rows, keys)) + 2 * align256(2 * keys) + 2 * align256(2 * rows);
    for (int i = 0; i < 4; i++) {
        if (!s->view[i]) s->view[i] = malloc(sizeof(float) * (i == 1 || i == 2 ? keys : rows));
        if (!s->view[i]) return fail(ERR_MEMORY, "no memory to show a layer of %d tokens", s->plan.capacity);
    }
    void *at;
    TRY(weights_cuda_alloc(s->on, &at, bytes, "a look into a layer"));
    s->device_view = at;
    s->device_view_bytes = bytes;
    return OK;
}

/* [heads][rows][d] or, for queries, [rows][heads * d] as f32 on the host. */
static enum status fetch_tensor(struct session_cuda *s, const struct attn_args *a, const void *from, ptrdiff_t row,
                                ptrdiff_t head, bool keys, float *to)
{
    int rows = keys ? attn_n_kv(a) : a->n_q, d = a->head_dim;
    if (!keys) {
        TRY(ops_cuda_widen(from, row, rows, a->n_heads * d, s->device_view, s->on->stream));
    } else {
        for (int h = 0; h < a->n_kv_heads; h++)
            TRY(ops_cuda_widen((const uint16_t *)from + h * head, row, rows, d, s->device_view + (size_t)h * (size_t)rows * (size_t)d,
                               s->on->stream));
    }
    return fetch(s, to, s->device_view, sizeof(float) * plane_floats(a, keys));
}

/* Host f32 [rows, heads, d] or [heads, rows, d] of any strides into packed bf16 on the device, heads outermost. */
static enum status send_tensor(struct session_cuda *s, const float *from, int heads, int rows, int d, ptrdiff_t head,
                               ptrdiff_t row, uint16_t *to)
{
    size_t n = (size_t)heads * (size_t)rows * (size_t)d, width = (size_t)d;
    float *packed = malloc(n * sizeof *packed);
    if (!packed) return fail(ERR_MEMORY, "no memory to repeat a call of %d tokens", rows);
    for (int h = 0; h < heads; h++)
        for (int r = 0; r < rows; r++)
            memcpy(packed + ((size_t)h * (size_t)rows + (size_t)r) * width, from + h * head + r * row, sizeof *packed * width);
    enum status st = send(s, s->device_view, packed, n * sizeof *packed);
    if (st == OK) st = ops_cuda_to_bf16(s->device_view, DTYPE_F32, n, to, s->on->stream);
    if (st == OK) st = s->on->impl->sync(s->on->d);
    free(packed);
    return st;
}

/* The session whose hook is under way on this thread; a hook is called with the lock held. */
static _Thread_local struct session_cuda *showing;

static enum status repeat_run(const struct attn_args *host, void *ws, struct par *par, struct stream *stream)
{
    (void)ws, (void)par, (void)stream;
    struct session_cuda *s = showing;
    if (!s || !s->repeat) return fail(ERR_ARG, "a layer's call can be repeated during its hook only");
    const struct llama_config *c = &s->w->config;
    struct attn_args a = *s->repeat;
    int d = a.head_dim, n_kv = attn_n_kv(host);
    if (host->n_q != a.n_q || n_kv != attn_n_kv(&a)) return fail(ERR_ARG, "a repeated call has other sizes");
    size_t rows = (size_t)s->plan.chunk * (size_t)c->n_heads * (size_t)d,
           keys = (size_t)s->plan.capacity * (size_t)c->n_kv_heads * (size_t)d;
    char *base = (char *)s->device_view + align256(4 * max_size(rows, keys));
    uint16_t *k = (uint16_t *)base, *v = (uint16_t *)(base + align256(2 * keys)),
             *q = (uint16_t *)(base + 2 * align256(2 * keys)), *o = (uint16_t *)(base + 2 * align256(2 * keys) + align256(2 * rows));
    TRY(send_tensor(s, host->q, a.n_heads, a.n_q, d, host->q_head, host->q_row, q));
    TRY(send_tensor(s, host->k, a.n_kv_heads, n_kv, d, host->k_head, host->k_row, k));
    TRY(send_tensor(s, host->v, a.n_kv_heads, n_kv, d, host->v_head, host->v_row, v));
    a.q = q, a.k = k, a.v = v, a.o = o;
    a.q_row = a.k_row = a.v_row = d;
    a.q_head = (ptrdiff_t)a.n_q * d;
    a.k_head = a.v_head = (ptrdiff_t)n_kv * d;
    a.o_row = (ptrdiff_t)a.n_heads * d;
    a.o_head = d;
    a.ledger = host->ledger ? s->ledger : NULL; /* the pass keeps its own counts on the host while a hook looks */
    size_t ledger_bytes = sizeof *s->ledger * (size_t)a.n_heads;
    const struct attn_impl *impl;
    TRY(attn_choose(&a, s->impl, &impl));
    if (a.ledger) TRY(s->on->impl->fill(s->on->d, s->ledger, 0, ledger_bytes));
    TRY(impl->run(&a, s->attn_ws, NULL, s->on->stream));
    if (a.ledger) {
        TRY(fetch(s, s->host_ledger, s->ledger, ledger_bytes));
        for (int h = 0; h < a.n_heads; h++) head_ledger_add(&host->ledger[h], &s->host_ledger[h]);
        TRY(s->on->impl->fill(s->on->d, s->ledger, 0, ledger_bytes));
    }
    TRY(ops_cuda_widen(o, a.o_row, a.n_q, a.n_heads * d, s->device_view, s->on->stream));
    float *wide = malloc(sizeof *wide * plane_floats(&a, false));
    if (!wide) return fail(ERR_MEMORY, "no memory to repeat a call of %d tokens", a.n_q);
    enum status st = fetch(s, wide, s->device_view, sizeof *wide * plane_floats(&a, false));
    for (int r = 0; r < a.n_q && st == OK; r++)
        for (int h = 0; h < a.n_heads; h++)
            memcpy((float *)host->o + r * host->o_row + h * host->o_head, wide + r * a.o_row + h * a.o_head,
                   sizeof *wide * (size_t)d);
    free(wide);
    return st;
}

static const char *repeat_refuses(const struct attn_args *a)
{
    return a->dtype == DTYPE_F32 ? NULL : "repeats a layer's call from f32 tensors of the host";
}

static size_t repeat_workspace(const struct attn_args *a)
{
    (void)a;
    return 64;
}

static const struct attn_impl repeat_impl = {"attn_repeated_on_cuda", repeat_refuses, repeat_workspace, repeat_run};

/* The counts so far go to the caller, so that a repeated call finds the device's ledger free. */
static enum status collect_ledger(struct session_cuda *s, const struct forward_args *f)
{
    if (!f->ledger) return OK;
    size_t cells = (size_t)s->w->config.n_layers * (size_t)s->w->config.n_heads;
    TRY(fetch(s, s->host_ledger, s->ledger, cells * sizeof *s->ledger));
    for (size_t i = 0; i < cells; i++) head_ledger_add(&f->ledger[i], &s->host_ledger[i]);
    return s->on->impl->fill(s->on->d, s->ledger, 0, cells * sizeof *s->ledger);
}

static enum status call_hook(struct session_cuda *s, const struct forward_args *f, int layer, const struct attn_args *shown,
                             const struct tile_map *map, const struct attn_impl *impl)
{
    struct session_cuda *outer = showing;
    showing = s;
    enum status st = f->hook(f->hook_ctx, &(struct layer_view){layer, s->w->config.n_layers, shown, map, impl});
    showing = outer;
    return st;
}

static enum status show_layer(struct session_cuda *s, const struct forward_args *f, int layer, const struct attn_args *a)
{
    const struct llama_config *c = &s->w->config;
    int d = a->head_dim, n_kv = attn_n_kv(a);
    TRY(open_view(s));
    TRY(fetch_tensor(s, a, a->q, a->q_row, a->q_head, false, s->view[0]));
    TRY(fetch_tensor(s, a, a->k, a->k_row, a->k_head, true, s->view[1]));
    TRY(fetch_tensor(s, a, a->v, a->v_row, a->v_head, true, s->view[2]));
    TRY(fetch_tensor(s, a, a->o, a->o_row, a->o_head, false, s->view[3]));
    TRY(collect_ledger(s, f));
    struct attn_args shown = *a;
    struct tile_map map;
    shown.dtype = DTYPE_F32;
    shown.q = s->view[0], shown.k = s->view[1], shown.v = s->view[2], shown.o = s->view[3];
    shown.q_row = shown.o_row = (ptrdiff_t)c->n_heads * d;
    shown.q_head = shown.o_head = shown.k_row = shown.v_row = d;
    shown.k_head = shown.v_head = (ptrdiff_t)n_kv * d;
    shown.ledger = f->ledger ? f->ledger + layer * c->n_heads : NULL;
    shown.head_sparse = a->head_sparse ? s->host_sparse + layer * c->n_heads : NULL;
    shown.pv_threshold = a->pv_threshold ? s->host_lambda + layer * c->n_heads : NULL;
    if (a->tiles) {
        map = *a->tiles;
        map.bits = s->host_map;
        TRY(fetch(s, map.bits, a->tiles->bits, tile_map_bytes(&map)));
        shown.tiles = &map;
    }
    s->repeat = a;
    enum status st = call_hook(s, f, layer, &shown, shown.tiles, &repeat_impl);
    s->repeat = NULL;
    return st;
}

/* Hooks that wait for the end of a chunk, layer by layer. */
static enum status show_maps(struct session_cuda *s, const struct forward_args *f, int first, int end, int n, int position)
{
    const struct llama_config *c = &s->w->config;
    for (int l = first; l < end; l++) {
        struct tile_map map = s->kept_maps[l];
        struct attn_args a = {.dtype = DTYPE_BF16, .n_q = n, .q_start = position, .n_heads = c->n_heads,
                              .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim,
                              .block = f->policy ? f->policy->block : (struct block_shape){128, 64}};
        bool sparse = map.n_heads > 0;
        if (sparse) {
            map.bits = s->host_map;
            TRY(fetch(s, map.bits, s->maps + s->map_bytes * (size_t)l, tile_map_bytes(&map)));
            a.tiles = &map;
        }
        TRY(call_hook(s, f, l, &a, a.tiles, NULL));
    }
    return OK;
}

static enum status attend(struct session_cuda *s, const struct forward_args *f, int layer, int n, int position,
                          int total_len, struct str *impls)
{
    const struct llama_config *c = &s->w->config;
    int d = c->head_dim, cell = layer * c->n_heads;
    ptrdiff_t head = (ptrdiff_t)s->plan.capacity * d, width = (ptrdiff_t)(c->n_heads + 2 * c->n_kv_heads) * d;
    struct attn_args a = {
        .dtype = DTYPE_BF16, .n_q = n, .q_start = position, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads,
        .head_dim = d, .scale = (float)(1 / sqrt((double)d)), .q = s->qkv, .k = cache_of(s, layer, 0),
        .v = cache_of(s, layer, 1), .o = s->attn, .q_row = width, .q_head = d, .k_row = d, .k_head = head, .v_row = d,
        .v_head = head, .o_row = (ptrdiff_t)c->n_heads * d, .o_head = d,
        .block = f->policy ? f->policy->block : (struct block_shape){128, 64},
        .ledger = f->ledger ? s->ledger + cell : NULL,
    };
    struct tile_map map = {0};
    if (!session_counts_dense(f, layer, c->n_heads, total_len, position)) {
        map = tile_map_shape(f->policy->block, c->n_heads, position, n);
        map.bits = (uint64_t *)(s->maps + s->map_bytes * (size_t)layer);
        TRY(choose_tiles(s, f, layer, &a, &map));
        a.tiles = &map;
        a.head_sparse = s->head_sparse + align256((size_t)c->n_heads) * (size_t)layer;
        for (int h = 0; h < c->n_heads; h++) /* 50 never skips, and a kernel that need not ask is a fifth faster */
            if (s->host_sparse[cell + h] && s->host_lambda[cell + h] < 50) a.pv_threshold = s->lambda + cell;
    }
    s->kept_maps[layer] = map;
    const struct attn_impl *impl;
    TRY(attn_choose(&a, s->impl, &impl));
    session_note_impl(impls, impl);
    if (impl->workspace(&a) > attention_scratch(c))
        return fail(ERR_UNSUPPORTED, "%s asks for more scratch than a CUDA session plans", impl->name);
    TRY(impl->run(&a, s->attn_ws, s->par, s->on->stream));
    return f->hook && !f->hook_tiles_only ? show_layer(s, f, layer, &a) : OK;
}

static enum status layer_forward(struct session_cuda *s, const struct forward_args *f, int layer, int n, int position,
                                 int total_len, struct str *impls)
{
    const struct llama_config *c = &s->w->config;
    const struct layer_cuda *lw = &s->on->layers[layer];
    struct stream *stream = s->on->stream;
    int h = c->hidden_size, q = c->n_heads * c->head_dim, inter = c->intermediate_size;
    float eps = (float)c->rms_norm_eps;
    TRY(ops_cuda_rmsnorm(s->x, lw->attn_norm, eps, n, h, s->norm, NULL, stream));
    TRY(project(s, n, q + 2 * c->n_kv_heads * c->head_dim, h, s->norm, lw->qkv, s->qkv));
    TRY(ops_cuda_rope_pack(&(struct rope_cuda_args){
                               .qkv = s->qkv, .bias = lw->qkv_bias, .cosine = s->cosine, .sine = s->sine, .n = n,
                               .position = position, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim,
                               .capacity = s->plan.capacity, .k = cache_of(s, layer, 0), .v = cache_of(s, layer, 1)},
                           stream));
    TRY(attend(s, f, layer, n, position, total_len, impls));
    TRY(project_add(s, n, q, s->attn, lw->o, lw->o_bias));
    TRY(ops_cuda_rmsnorm(s->x, lw->mlp_norm, eps, n, h, s->norm, NULL, stream));
    TRY(project(s, n, 2 * inter, h, s->norm, lw->gate_up, s->gate_up));
    TRY(ops_cuda_silu_mul(s->gate_up, lw->gate_up_bias, n, inter, s->act, stream));
    return project_add(s, n, inter, s->act, lw->down, lw->down_bias);
}

/* −log p of the true next tokens from the head input in `norm`. */
static enum status score(struct session_cuda *s, const int32_t *next, int n, float *nll)
{
    const struct llama_config *c = &s->w->config;
    float *out = s->wide;
    TRY(send(s, s->tokens, next, sizeof *next * (size_t)n));
    for (int r = 0; r < n; r += COMPARE_CUDA_ROWS) {
        int rows = n - r < COMPARE_CUDA_ROWS ? n - r : COMPARE_CUDA_ROWS;
        TRY(compare_cuda_run(&(struct compare_cuda_args){
                                 .head = s->on->head, .vocab = c->vocab_size, .k = c->hidden_size, .n_rows = rows,
                                 .loss_only = true, .x = s->norm + (size_t)r * (size_t)c->hidden_size, .next = s->tokens + r,
                                 .logits = s->logits, .rows = s->rows}, s->on->gemm, s->on->stream));
        TRY(compare_cuda_nll(s->rows, s->tokens + r, rows, out + r, s->on->stream));
    }
    TRY(fetch(s, nll, out, sizeof *nll * (size_t)n));
    for (int r = 0; r < n; r++)
        if (isnan(nll[r]))
            return fail(ERR_NUMERIC, "logits of position %d hold NaN or infinity; check the weights with `info --check`", r);
    return OK;
}

static enum status chunk_forward(struct session_cuda *s, const struct forward_args *f, int begin, int n, int position,
                                 int total_len, struct str *impls)
{
    const struct llama_config *c = &s->w->config;
    const struct device_impl *impl = s->on->impl;
    struct stream *stream = s->on->stream;
    int h = c->hidden_size, end = f->end_layer > 0 ? f->end_layer : c->n_layers, first = f->residual_in ? f->first_layer : 0;
    size_t offset = (size_t)begin * (size_t)h, bytes = (size_t)n * (size_t)h * sizeof(float);
    float eps = (float)c->rms_norm_eps;
    TRY(ops_cuda_angles(s->inv_freq, rope_attention_scaling(c), position, n, c->head_dim / 2, s->cosine, s->sine, stream));
    if (f->residual_in) {
        TRY(send(s, s->x, f->residual_in + offset, bytes));
    } else {
        TRY(send(s, s->tokens, f->tokens + begin, sizeof *f->tokens * (size_t)n));
        TRY(ops_cuda_embed(s->on->embedding, s->tokens, n, h, s->x, stream));
    }
    for (int l = first; l <= end; l++) {
        if (f->residual_out && l == f->capture_layer) TRY(fetch(s, f->residual_out + offset, s->x, bytes));
        if (l == end) break;
        if (f->stop && f->stop(f->stop_ctx)) return fail(ERR_CANCELLED, "stopped on request");
        TRY(layer_forward(s, f, l, n, position, total_len, impls));
    }
    if (f->hidden) {
        TRY(ops_cuda_rmsnorm(s->x, s->on->final_norm, eps, n, h, NULL, s->wide, stream));
        TRY(fetch(s, f->hidden + offset, s->wide, bytes));
    }
    if (f->last_hidden && begin + n == f->n) {
        TRY(ops_cuda_rmsnorm(s->x + (size_t)(n - 1) * (size_t)h, s->on->final_norm, eps, 1, h, NULL, s->wide, stream));
        TRY(fetch(s, f->last_hidden, s->wide, sizeof(float) * (size_t)h));
    }
    if (f->nll) {
        TRY(ops_cuda_rmsnorm(s->x, s->on->final_norm, eps, n, h, s->norm, NULL, stream));
        TRY(score(s, f->next + begin, n, f->nll + begin));
    }
    if (f->hook && f->hook_tiles_only) TRY(show_maps(s, f, first, end, n, position));
    return impl->sync(s->on->d); /* work that failed is told here, and no longer than here are host buffers read */
}

/* What of the policy the kernels read. */
static enum status send_policy(struct session_cuda *s, const struct sparse_policy *p)
{
    const struct llama_config *c = &s->w->config;
    size_t cells = (size_t)c->n_layers * (size_t)c->n_heads, line = align256((size_t)c->n_heads);
    if (!p || !p->method) return OK;
    for (size_t i = 0; i < cells; i++) {
        s->host_sparse[i] = p->heads[i].is_sparse;
        s->host_lambda[i] = p->heads[i].pvthreshd;
    }
    for (int l = 0; l < c->n_layers; l++)
        TRY(send(s, s->head_sparse + line * (size_t)l, s->host_sparse + l * c->n_heads, (size_t)c->n_heads));
    TRY(send(s, s->heads, p->heads, cells * sizeof *p->heads));
    return send(s, s->lambda, s->host_lambda, cells * sizeof *s->lambda);
}

static enum status forward_on(struct session_cuda *s, int position, int total_len, const struct forward_args *f, struct str *impls)
{
    const struct llama_config *c = &s->w->config;
    float inv_freq[128];
    rope_frequencies(c, total_len, inv_freq);
    TRY(send(s, s->inv_freq, inv_freq, sizeof *inv_freq * (size_t)c->head_dim / 2));
    TRY(send_policy(s, f->policy));
    if (f->ledger)
        TRY(s->on->impl->fill(s->on->d, s->ledger, 0, sizeof *s->ledger * (size_t)c->n_layers * (size_t)c->n_heads));
    for (int begin = 0; begin < f->n; begin += s->plan.chunk) {
        int n = f->n - begin < s->plan.chunk ? f->n - begin : s->plan.chunk;
        TRY(chunk_forward(s, f, begin, n, position + begin, total_len, impls));
    }
    return collect_ledger(s, f);
}

static enum status cuda_forward(void *state, int position, int total_len, const struct forward_args *f, struct str *impls)
{
    struct session_cuda *s = state;
    enum status st = locked(s->on);
    if (st == OK) st = forward_on(s, position, total_len, f, impls);
    return unlocked(s->on, st);
}

static enum status logits_on(struct session_cuda *s, const float *hidden, float *logits)
{
    const struct llama_config *c = &s->w->config;
    size_t h = (size_t)c->hidden_size;
    TRY(send(s, s->wide, hidden, sizeof *hidden * h));
    TRY(ops_cuda_to_bf16(s->wide, DTYPE_F32, h, s->norm, s->on->stream));
    TRY(gemm_cuda_run(s->on->gemm, 1, c->vocab_size, c->hidden_size, s->norm, s->on->head, s->logits, c->vocab_size, DTYPE_F32,
                      false));
    return fetch(s, logits, s->logits, sizeof *logits * (size_t)c->vocab_size);
}

static enum status cuda_logits(void *state, const float *hidden, float *logits)
{
    struct session_cuda *s = state;
    enum status st = locked(s->on);
    if (st == OK) st = logits_on(s, hidden, logits);
    return unlocked(s->on, st);
}

static enum status compare_on(struct session_cuda *s, int n, const float *dense, const float *sparse, const int32_t *next,
                              struct token_metrics *out, struct tensor_sums *sums)
{
    const struct llama_config *c = &s->w->config;
    bool both = dense != sparse;
    int at_once = both ? COMPARE_CUDA_ROWS / 2 : COMPARE_CUDA_ROWS;
    size_t h = (size_t)c->hidden_size;
    for (int r = 0; r < n; r += at_once) {
        int rows = n - r < at_once ? n - r : at_once;
        size_t values = (size_t)rows * h;
        TRY(send(s, s->wide, dense + (size_t)r * h, values * sizeof(float)));
        if (both) TRY(send(s, s->wide + values, sparse + (size_t)r * h, values * sizeof(float)));
        TRY(ops_cuda_to_bf16(s->wide, DTYPE_F32, both ? 2 * values : values, s->norm, s->on->stream));
        TRY(send(s, s->tokens, next + r, sizeof *next * (size_t)rows));
        TRY(compare_cuda_run(&(struct compare_cuda_args){
                                 .head = s->on->head, .vocab = c->vocab_size, .k = c->hidden_size, .n_rows = rows, .both = both,
                                 .x = s->norm, .hidden = s->wide, .next = s->tokens, .logits = s->logits, .rows = s->rows},
                             s->on->gemm, s->on->stream));
        TRY(fetch(s, s->host_rows, s->rows, sizeof *s->rows * (size_t)rows));
        int bad = compare_cuda_finish(s->host_rows, rows, c->vocab_size, c->hidden_size, next + r, out + r, sums);
        if (bad >= 0)
            return fail(ERR_NUMERIC, "logits of position %d hold NaN or infinity; check the weights with `info --check`", r + bad);
    }
    return OK;
}

static enum status cuda_compare(void *state, int n, const float *dense, const float *sparse, const int32_t *next,
                                struct token_metrics *out, struct tensor_sums *sums)
{
    struct session_cuda *s = state;
    enum status st = locked(s->on);
    if (st == OK) st = compare_on(s, n, dense, sparse, next, out, sums);
    return unlocked(s->on, st);
}

const struct session_backend session_backend_cuda = {
    "cuda", plan, cuda_open, cuda_close, cuda_forward, cuda_logits, cuda_compare, weights_cuda_describe, weights_cuda_release,
    &tuner_backend_cpu,
};

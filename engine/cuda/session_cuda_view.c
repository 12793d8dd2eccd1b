/* What a hook is shown of a layer that ran on the device, and the call repeated for it. */
#include "engine/cuda/session_cuda_parts.h"

#include "kernels/cuda/ops_cuda.h"

#include <stdlib.h>
#include <string.h>

/* Values of f32 that stand on the device at a time on their way to or from the host. */
enum { STAGED = 16 << 20 };

/* Room for the first `n` of q, k, v and o on the host. */
static enum status open_view(struct session_cuda *s, int n)
{
    const struct llama_config *c = &s->w->config;
    size_t d = (size_t)c->head_dim, rows = (size_t)s->plan.chunk * (size_t)c->n_heads * d,
           keys = (size_t)s->plan.capacity * (size_t)c->n_kv_heads * d;
    for (int i = 0; i < n; i++) {
        if (!s->view[i]) s->view[i] = malloc(sizeof(float) * (i == 1 || i == 2 ? keys : rows));
        if (!s->view[i])
            return fail(ERR_MEMORY, "no memory to show a layer of %d tokens", s->plan.capacity);
    }
    if (s->staged) return OK;
    void *at;
    TRY(weights_cuda_alloc(s->on, &at, STAGED * sizeof *s->staged, "a look into a layer"));
    s->staged = at;
    return OK;
}

size_t session_cuda_view_bytes(
    const struct llama_config *c, const struct session_plan *p, size_t *host)
{
    size_t d = (size_t)c->head_dim, rows = (size_t)p->chunk * (size_t)c->n_heads * d,
           keys = (size_t)p->capacity * (size_t)c->n_kv_heads * d;
    *host = sizeof(float) * (rows + 2 * keys);
    return STAGED * sizeof(float);
}

void session_cuda_close_view(struct session_cuda *s)
{
    weights_cuda_free(s->on, s->staged, STAGED * sizeof *s->staged);
    weights_cuda_free(s->on, s->repeated, s->repeated_bytes);
    for (int i = 0; i < 4; i++) free(s->view[i]);
}

/* [heads][rows][d] or, for queries, [rows][heads * d] as f32 on the host. */
static enum status fetch_tensor(struct session_cuda *s, const struct attn_args *a, const void *from,
    ptrdiff_t row, ptrdiff_t head, bool keys, float *to)
{
    int rows = keys ? attn_n_kv(a) : a->n_q, planes = keys ? a->n_kv_heads : 1,
        width = keys ? a->head_dim : a->n_heads * a->head_dim, most = STAGED / width, held = 0;
    for (int h = 0; h < planes; h++)
        for (int r = 0, n; r < rows; r += n) {
            n = rows - r < most - held ? rows - r : most - held;
            TRY(ops_cuda_widen((const uint16_t *)from + h * head + r * row, row, n, width,
                s->staged + (size_t)held * (size_t)width, s->on->stream));
            held += n;
            if (held < most && (h + 1 < planes || r + n < rows)) continue;
            size_t values = (size_t)held * (size_t)width;
            TRY(fetch(s, to, s->staged, sizeof *to * values));
            to += values;
            held = 0;
        }
    return OK;
}

/* Host f32 [rows, heads, d] or [heads, rows, d] of any strides into packed bf16 on the device,
 * heads outermost. */
static enum status send_tensor(struct session_cuda *s, const float *from, int heads, int rows,
    int d, ptrdiff_t head, ptrdiff_t row, uint16_t *to)
{
    int all = heads * rows, most = STAGED / d < all ? STAGED / d : all;
    size_t width = (size_t)d;
    float *packed = malloc((size_t)most * width * sizeof *packed);
    if (!packed) return fail(ERR_MEMORY, "no memory to repeat a call of %d tokens", rows);
    enum status st = OK;
    for (int at = 0; at < all && st == OK; at += most) {
        int n = all - at < most ? all - at : most;
        for (int i = 0; i < n; i++)
            memcpy(packed + (size_t)i * width,
                from + (at + i) / rows * head + (at + i) % rows * row, sizeof *packed * width);
        size_t values = (size_t)n * width;
        st = send(s, s->staged, packed, values * sizeof *packed);
        if (st == OK)
            st = ops_cuda_to_bf16(
                s->staged, DTYPE_F32, values, to + (size_t)at * width, s->on->stream);
        if (st == OK) st = s->on->impl->sync(s->on->d);
    }
    free(packed);
    return st;
}

/* The session whose hook is under way on this thread; a hook is called with the lock held. */
static _Thread_local struct session_cuda *showing;

static enum status repeat_run(
    const struct attn_args *host, void *ws, struct par *par, struct stream *stream)
{
    (void)ws, (void)par, (void)stream;
    struct session_cuda *s = showing;
    if (!s || !s->repeats)
        return fail(ERR_ARG, "a layer's call can be repeated during its hook only");
    const struct llama_config *c = &s->w->config;
    struct attn_args a = *host;
    int d = a.head_dim, n_kv = attn_n_kv(host);
    if (a.n_q > s->plan.chunk || n_kv > s->plan.capacity || a.n_heads > c->n_heads ||
        a.n_kv_heads > c->n_kv_heads || d != c->head_dim)
        return fail(ERR_ARG, "a repeated call is larger than the layer's");
    size_t rows = (size_t)s->plan.chunk * (size_t)c->n_heads * (size_t)d,
           keys = (size_t)s->plan.capacity * (size_t)c->n_kv_heads * (size_t)d;
    /* k, v, q and o, the map, λ and which heads are sparse */
    size_t bytes = 2 * align256(2 * keys) + 2 * align256(2 * rows) + align256(s->map_bytes) +
        2 * align256(4 * (size_t)c->n_heads);
    if (!s->repeated) {
        TRY(weights_cuda_alloc(s->on, &s->repeated, bytes, "a call that is repeated"));
        s->repeated_bytes = bytes;
    }
    char *base = s->repeated;
    uint16_t *k = (uint16_t *)base, *v = (uint16_t *)(base + align256(2 * keys)),
             *q = (uint16_t *)(base + 2 * align256(2 * keys)),
             *o = (uint16_t *)(base + 2 * align256(2 * keys) + align256(2 * rows));
    char *room = (char *)o + align256(2 * rows);
    TRY(send_tensor(s, host->q, a.n_heads, a.n_q, d, host->q_head, host->q_row, q));
    TRY(send_tensor(s, host->k, a.n_kv_heads, n_kv, d, host->k_head, host->k_row, k));
    TRY(send_tensor(s, host->v, a.n_kv_heads, n_kv, d, host->v_head, host->v_row, v));
    a.dtype = DTYPE_BF16;
    a.ticks = NULL;
    a.q_start_at = NULL;
    a.q = q, a.k = k, a.v = v, a.o = o;
    a.q_row = a.k_row = a.v_row = d;
    a.q_head = (ptrdiff_t)a.n_q * d;
    a.k_head = a.v_head = (ptrdiff_t)n_kv * d;
    a.o_row = (ptrdiff_t)a.n_heads * d;
    a.o_head = d;
    struct tile_map map;
    if (host->tiles) {
        map = *host->tiles;
        map.bits = (uint64_t *)room;
        TRY(send(s, map.bits, host->tiles->bits, tile_map_bytes(&map)));
        a.tiles = &map;
    }
    room += align256(s->map_bytes);
    if (host->pv_threshold) {
        TRY(send(s, room, host->pv_threshold, sizeof *host->pv_threshold * (size_t)a.n_heads));
        a.pv_threshold = (const float *)room;
    }
    room += align256(4 * (size_t)c->n_heads);
    if (host->head_sparse) {
        TRY(send(s, room, host->head_sparse, (size_t)a.n_heads));
        a.head_sparse = (const uint8_t *)room;
    }
    /* the pass keeps its own counts on the host while a hook looks */
    a.ledger = host->ledger ? s->ledger : NULL;
    size_t ledger_bytes = sizeof *s->ledger * (size_t)a.n_heads;
    const struct attn_impl *impl;
    void *attn_ws;
    TRY(session_cuda_kernel(s, &a, &impl, &attn_ws));
    if (a.ledger) TRY(s->on->impl->fill(s->on->d, s->ledger, 0, ledger_bytes));
    TRY(impl->run(&a, attn_ws, NULL, s->on->stream));
    if (a.ledger) {
        TRY(fetch(s, s->host_ledger, s->ledger, ledger_bytes));
        for (int h = 0; h < a.n_heads; h++) head_ledger_add(&host->ledger[h], &s->host_ledger[h]);
        TRY(s->on->impl->fill(s->on->d, s->ledger, 0, ledger_bytes));
    }
    float *wide = malloc(sizeof *wide * (size_t)a.n_q * (size_t)a.o_row);
    if (!wide) return fail(ERR_MEMORY, "no memory to repeat a call of %d tokens", a.n_q);
    enum status st = fetch_tensor(s, &a, o, a.o_row, a.o_head, false, wide);
    for (int r = 0; r < a.n_q && st == OK; r++)
        for (int h = 0; h < a.n_heads; h++)
            memcpy((float *)host->o + r * host->o_row + h * host->o_head,
                wide + r * a.o_row + h * a.o_head, sizeof *wide * (size_t)d);
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

static const struct attn_impl repeat_impl = {
    "attn_repeated_on_cuda", repeat_refuses, repeat_workspace, repeat_run};

/* The counts so far go to the caller, so that a repeated call finds the device's ledger free. */
enum status session_cuda_collect(struct session_cuda *s, const struct forward_args *f)
{
    if (!f->ledger) return OK;
    size_t cells = (size_t)s->w->config.n_layers * (size_t)s->w->config.n_heads;
    TRY(fetch(s, s->host_ledger, s->ledger, cells * sizeof *s->ledger));
    for (size_t i = 0; i < cells; i++) head_ledger_add(&f->ledger[i], &s->host_ledger[i]);
    return s->on->impl->fill(s->on->d, s->ledger, 0, cells * sizeof *s->ledger);
}

static enum status call_hook(struct session_cuda *s, const struct forward_args *f, int layer,
    const struct attn_args *shown, const struct tile_map *map, const struct attn_impl *impl)
{
    struct session_cuda *outer = showing;
    showing = s;
    enum status st =
        f->hook(f->hook_ctx, &(struct layer_view){layer, s->w->config.n_layers, shown, map, impl});
    showing = outer;
    return st;
}

/* Makes *shown, which begins as the device's call, read q and k on the host. */
enum status session_cuda_show_keys(struct session_cuda *s, struct attn_args *shown)
{
    int d = shown->head_dim;
    TRY(open_view(s, 3));
    TRY(fetch_tensor(s, shown, shown->q, shown->q_row, shown->q_head, false, s->view[0]));
    TRY(fetch_tensor(s, shown, shown->k, shown->k_row, shown->k_head, true, s->view[1]));
    TRY(fetch_tensor(s, shown, shown->v, shown->v_row, shown->v_head, true, s->view[2]));
    shown->dtype = DTYPE_F32;
    shown->q = s->view[0], shown->k = s->view[1], shown->v = s->view[2];
    shown->q_row = (ptrdiff_t)shown->n_heads * d;
    shown->q_head = shown->k_row = shown->v_row = d;
    shown->k_head = shown->v_head = (ptrdiff_t)attn_n_kv(shown) * d;
    return OK;
}

enum status session_cuda_show_layer(
    struct session_cuda *s, const struct forward_args *f, int layer, const struct attn_args *a)
{
    const struct llama_config *c = &s->w->config;
    int d = a->head_dim, n_kv = attn_n_kv(a);
    if (f->hook_on_device) return call_hook(s, f, layer, a, a->tiles, NULL);
    TRY(open_view(s, 4));
    TRY(fetch_tensor(s, a, a->q, a->q_row, a->q_head, false, s->view[0]));
    TRY(fetch_tensor(s, a, a->k, a->k_row, a->k_head, true, s->view[1]));
    TRY(fetch_tensor(s, a, a->v, a->v_row, a->v_head, true, s->view[2]));
    TRY(fetch_tensor(s, a, a->o, a->o_row, a->o_head, false, s->view[3]));
    TRY(session_cuda_collect(s, f));
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
    s->repeats = true;
    enum status st = call_hook(s, f, layer, &shown, shown.tiles, &repeat_impl);
    s->repeats = false;
    return st;
}

/* Hooks that wait for the end of a chunk, layer by layer. */
enum status session_cuda_show_maps(struct session_cuda *s, const struct chunk *x)
{
    const struct llama_config *c = &s->w->config;
    const struct forward_args *f = x->f;
    for (int l = x->first; l < x->end; l++) {
        struct tile_map map = s->kept_maps[l];
        struct attn_args a = {.dtype = DTYPE_BF16,
            .n_q = x->n,
            .q_start = x->position,
            .n_heads = c->n_heads,
            .n_kv_heads = c->n_kv_heads,
            .head_dim = c->head_dim,
            .block = f->policy ? f->policy->block : (struct block_shape)BLOCK_DEFAULT};
        if (map.n_heads > 0) {
            TRY(fetch(s, s->host_map, map.bits, tile_map_bytes(&map)));
            map.bits = s->host_map;
            a.tiles = &map;
        }
        TRY(call_hook(s, f, l, &a, a.tiles, NULL));
    }
    return OK;
}

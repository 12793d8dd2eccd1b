/* Where everything of a CUDA session stands in its slab. Steps that never run at the same time
 * share memory: a layer's attention, its MLP, and what follows the last layer. */
#include "engine/cuda/session_cuda_parts.h"

#include "engine/rope.h"
#include "kernels/registry.h"

enum {
    DEFAULT_CHUNK = 8192,
    /* gate and up exist for so many rows at a time: products this large lose nothing */
    MLP_ROWS = 2048,
    MLP_ROWS_ONCE = 512, /* at least, where memory is short on purpose: a quarter of the rows */
};

/* The largest map and prediction of any call: every row of a chunk at the end of a full sequence.
 */
static void sparse_sizes(
    const struct llama_config *c, int capacity, int chunk, size_t *map, size_t *mask)
{
    int n = chunk < capacity ? chunk : capacity, start = (capacity - n + 127) / 128 * 128;
    *map = *mask = 0;
    for (int q = 64; q <= 128; q += 64)
        for (int k = 64; k <= 128; k += 64) {
            struct attn_args a = {.dtype = DTYPE_BF16,
                .n_q = n,
                .q_start = start,
                .n_heads = c->n_heads,
                .n_kv_heads = c->n_kv_heads,
                .head_dim = c->head_dim,
                .block = {q, k}};
            struct mask_cuda_args m = {.attn = &a};
            struct tile_map t = tile_map_shape(a.block, c->n_heads, start, n);
            *map = max_size(*map, align256(tile_map_bytes(&t)));
            *mask = max_size(*mask, align256(mask_cuda_workspace(&m)));
        }
}

/* Ids of one product of the head: as many as the layers leave room for. */
static int head_ids(const struct llama_config *c, size_t room)
{
    size_t ids = room / (COMPARE_CUDA_ROWS * sizeof(float)) / 1024 * 1024;
    if (ids > COMPARE_CUDA_CHUNK) ids = COMPARE_CUDA_CHUNK;
    if (ids < COMPARE_CUDA_CHUNK_MIN) ids = COMPARE_CUDA_CHUNK_MIN;
    int vocab = (c->vocab_size + 3) / 4 * 4;
    return (int)ids < vocab ? (int)ids : vocab;
}

/* The same walk counts (to NULL) and hands out. */
void session_cuda_lay_out(const struct llama_config *c, enum dtype residual, struct session_plan *p,
    struct session_cuda *to)
{
    struct session_cuda none;
    char *base = to ? to->slab : NULL;
    if (!to) to = &none;
    size_t at = 0, rows = (size_t)p->chunk, d = (size_t)c->head_dim, h = (size_t)c->hidden_size;
    size_t q = (size_t)c->n_heads * d, kv = (size_t)c->n_kv_heads * d,
           inter = (size_t)c->intermediate_size;
    size_t cells = (size_t)c->n_layers * (size_t)c->n_heads, mask_bytes;
    size_t mlp_rows = p->narrow ? max_size(rows / 4 / 128 * 128, MLP_ROWS_ONCE) : MLP_ROWS;
    size_t layers = (size_t)(p->layers ? p->layers : c->n_layers);
    size_t layers_cached = p->once ? 1 : layers, ropes = (size_t)rope_count(c);
    if (mlp_rows > MLP_ROWS) mlp_rows = MLP_ROWS;
    if (mlp_rows > rows) mlp_rows = rows;
    to->mlp_rows = (int)mlp_rows;
    sparse_sizes(c, p->capacity, p->chunk, &to->map_bytes, &mask_bytes);
#define PUT(field, n, type)                            \
    do {                                               \
        to->field = base ? (type *)(base + at) : NULL; \
        at += align256((n) * sizeof(type));            \
    } while (0)
    PUT(kv, 2 * layers_cached * kv * (size_t)p->capacity, uint16_t);
    p->kv_bytes = at;
    PUT(x, rows * h * dtype_size(residual), char);
    PUT(norm, max_size(rows * max_size(h, q), COMPARE_CUDA_ROWS * h), uint16_t);
    /* the output of attention takes the place of the input of its projections */
    to->attn = to->norm;
    if (c->norms != NORMS_BEFORE) PUT(branch, rows * h, float);
    PUT(cosine, ropes * rows * d / 2, float);
    PUT(sine, ropes * rows * d / 2, float);
    PUT(inv_freq, ropes * d / 2, float);
    PUT(tokens, max_size(rows, COMPARE_CUDA_ROWS), int32_t);
    PUT(position, 1, int32_t);
    PUT(bad, 1, int32_t);
    PUT(heads, cells, struct head_params);
    PUT(lambda, cells, float);
    PUT(head_sparse, align256((size_t)c->n_heads) * (size_t)c->n_layers, uint8_t);
    PUT(ledger, cells, struct head_ledger);
    PUT(maps, to->map_bytes * layers, char);
    size_t shared = at; /* from here on three steps share what the largest of them needs */
    PUT(qkv, rows * (q + 2 * kv), uint16_t);
    PUT(mask_ws, mask_bytes, char);
    PUT(attn_ws, session_cuda_attention_scratch(c), char);
    size_t end = at;
    at = shared;
    PUT(gate_up, mlp_rows * 2 * inter, uint16_t);
    PUT(act, rows * inter, uint16_t);
    end = max_size(end, at);
    at = shared;
    PUT(rows, COMPARE_CUDA_ROWS, struct compare_cuda_row);
    PUT(nll, max_size(rows, COMPARE_CUDA_ROWS), float);
    to->head_ids = head_ids(c, end > at ? end - at : 0);
    size_t logits =
        max_size((size_t)COMPARE_CUDA_ROWS * (size_t)to->head_ids, (size_t)c->vocab_size);
    to->wide = base ? (float *)(base + at) : NULL; /* read before the first logits are written */
    PUT(logits, max_size(logits, max_size(rows, COMPARE_CUDA_ROWS) * h), float);
#undef PUT
    p->activation_bytes = end - p->kv_bytes;
    p->linear_bytes = at > end ? at - end : 0;
    p->total_bytes = max_size(at, end);
}

/* A choice of tiles on the host: copies of q, k and v, and the predictor's own; masses come from
 * the device, and `window` looks at nothing. */
static struct session_scratch on_host(const struct llama_config *c, const struct session_plan *plan,
    const struct sparse_policy *p, const struct attn_args *a, int n_threads)
{
    struct session_scratch all = {0};
    struct mask_args m = {.attn = a,
        .heads = p->heads,
        .smooth_k = p->smooth_k,
        .topk = p->topk,
        .window = p->window};
    struct mask_method by_mass = mask_masses;
    by_mass.rule = p->method->rule;
    bool oracle = mask_base(p->method) == &mask_oracle;
    if (oracle) {
        struct tile_map map = tile_map_shape(a->block, a->n_heads, a->q_start, a->n_q);
        all.bytes = all.host_bytes =
            sizeof(float) * (size_t)map.n_heads * (size_t)map.n_qblocks * (size_t)map.n_kblocks;
    } else if (p->method != &mask_window) {
        all.bytes = session_cuda_view_bytes(c, plan, &all.host_bytes);
    }
    all.host_bytes += mask_workspace(oracle ? &by_mass : p->method, &m, n_threads);
    return all;
}

struct session_scratch session_cuda_scratch(const struct weights *w,
    const struct session_plan *plan, const struct sparse_policy *p, int n_threads)
{
    const struct llama_config *c = &w->config;
    struct session_scratch all = {0};
    if (!p) return all;
    int n = plan->chunk < plan->capacity ? plan->chunk : plan->capacity;
    struct attn_args a = {.dtype = DTYPE_BF16,
        .n_q = n,
        .q_start = (plan->capacity - n + 127) / 128 * 128,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .block = p->block,
        .qk = p->qk,
        .pv = p->pv};
    const struct attn_impl *impl;
    if (p->method && p->method != &mask_sparge) {
        struct mask_cuda_args m = {
            .attn = &a, .smooth_k = p->smooth_k, .topk = p->topk, .method = p->method};
        if (mask_cuda_refuses(&m)) all = on_host(c, plan, p, &a, n_threads);
        else all.bytes = mask_cuda_workspace(&m);
    }
    if (!attn_is_full(&a) && attn_choose(&a, NULL, &impl) == OK) all.bytes += impl->workspace(&a);
    return all;
}

struct session_plan session_plan_cuda(const struct llama_config *c, enum dtype residual,
    int capacity, int chunk, bool once, bool by_layer)
{
    bool narrow = once && capacity <= DEFAULT_CHUNK && chunk <= 0;
    struct session_plan p = {
        .capacity = capacity, .once = narrow || (once && by_layer), .narrow = narrow};
    int whole = (capacity + 127) / 128 * 128;
    p.chunk = chunk > 0 && chunk <= whole ? chunk
        : capacity < DEFAULT_CHUNK        ? whole
        : chunk > 0                       ? chunk
                                          : DEFAULT_CHUNK;
    session_cuda_lay_out(c, residual, &p, NULL);
    return p;
}

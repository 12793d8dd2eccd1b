#include "engine/cuda/session_cuda_parts.h"

#include "engine/rope.h"
#include "kernels/cuda/batch_cuda.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/eight.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint16_t *cache_of(const struct session_cuda *s, const struct chunk *x, int layer, int value)
{
    const struct llama_config *c = &s->w->config;
    size_t plane = (size_t)c->n_kv_heads * (size_t)s->plan.capacity * (size_t)c->head_dim;
    size_t at = s->plan.once ? 0 : (size_t)(layer - s->on->first);
    return (x->slots ? x->slots->kv : s->kv) + (2 * at + (size_t)value) * plane;
}

static enum status project(
    struct session_cuda *s, int n, int m, int k, const uint16_t *x, const uint16_t *w, uint16_t *y)
{
    return gemm_cuda_run(s->on->gemm, n, m, k, x, w, y, m, DTYPE_BF16, false);
}

/* Into `norm` what attention or the MLP reads: the stream's norm, or itself where the family's
 * norms stand behind. */
static enum status read_stream(struct session_cuda *s, int n, const float *weight)
{
    const struct llama_config *c = &s->w->config;
    int h = c->hidden_size;
    if (!weight)
        return ops_cuda_to_bf16(s->x, s->residual, (size_t)n * (size_t)h, s->norm, s->on->stream);
    return ops_cuda_rmsnorm(
        s->x, s->residual, weight, (float)c->rms_norm_eps, n, h, s->norm, NULL, s->on->stream);
}

/* x += branch: some rows together are one row, and what is added its bias. */
static enum status add_branch(struct session_cuda *s, int n)
{
    enum { ROWS = 1024 }; /* of the widest stream are still an int */
    size_t h = (size_t)s->w->config.hidden_size;
    for (int row = 0; row < n; row += ROWS) {
        int rows = n - row < ROWS ? n - row : ROWS;
        char *to = (char *)s->x + (size_t)row * h * dtype_size(s->residual);
        TRY(ops_cuda_add_bias(
            to, s->residual, s->branch + (size_t)row * h, 1, rows * (int)h, s->on->stream));
    }
    return OK;
}

/* Onto the stream through a norm: f32 in between. */
static enum status project_behind(struct session_cuda *s, int n, int k, const uint16_t *x,
    const uint16_t *w, const float *bias, const float *behind)
{
    const struct llama_config *c = &s->w->config;
    struct stream *stream = s->on->stream;
    int h = c->hidden_size;
    TRY(gemm_cuda_run(s->on->gemm, n, h, k, x, w, s->branch, h, DTYPE_F32, false));
    if (bias) TRY(ops_cuda_add_bias(s->branch, DTYPE_F32, bias, n, h, stream));
    TRY(ops_cuda_rmsnorm(
        s->branch, DTYPE_F32, behind, (float)c->inner_eps, n, h, NULL, s->branch, stream));
    return add_branch(s, n);
}

/* Onto the residual stream, rounded once to its type; `behind`: the norm in between, or NULL. */
static enum status project_add(struct session_cuda *s, int n, int k, const uint16_t *x,
    const uint16_t *w, const float *bias, const float *behind)
{
    int h = s->w->config.hidden_size;
    if (behind) return project_behind(s, n, k, x, w, bias, behind);
    TRY(gemm_cuda_run(s->on->gemm, n, h, k, x, w, s->x, h, s->residual, true));
    return bias ? ops_cuda_add_bias(s->x, s->residual, bias, n, h, s->on->stream) : OK;
}

/* Room for methods other than sparge, which the plan of a session does not count: taken when it is
 * first wanted. Graphs that were recorded with less stand on memory that goes. */
static enum status want_room(struct session_cuda *s, size_t bytes, const char *what)
{
    if (s->mass_bytes >= bytes) return OK;
    s->graphs_are_stale = true;
    weights_cuda_free(s->on, s->mass, s->mass_bytes);
    s->mass_bytes = 0;
    void *at;
    TRY(weights_cuda_alloc(s->on, &at, bytes, what));
    s->mass = at;
    s->mass_bytes = bytes;
    return OK;
}

/* What `oracle` ranks by, on the host, for rules that no device knows; the caller frees it. */
static enum status fetch_masses(struct session_cuda *s, const struct attn_args *a,
    const struct tile_map *map, const struct mask_method *method, float **out)
{
    size_t bytes =
        sizeof(float) * (size_t)map->n_heads * (size_t)map->n_qblocks * (size_t)map->n_kblocks;
    TRY(want_room(s, bytes, "the oracle"));
    *out = malloc(bytes);
    if (!*out) return fail(ERR_MEMORY, "no memory for the oracle");
    struct mask_args values = {.attn = a, .values = method->values};
    TRY(oracle_cuda_mass(a, mask_oracle_over(&values), s->mass, s->on->stream));
    return fetch(s, *out, s->mass, bytes);
}

/* Tiles chosen on the host: of `window`, which looks at no tensor, of `oracle`, whose masses come
 * from the device, and of every method whose predictor has no body there, from copies of q and k.
 */
static enum status host_map(struct session_cuda *s, const struct forward_args *f, int layer,
    const struct attn_args *a, struct tile_map *map)
{
    const struct sparse_policy *p = f->policy;
    int n_heads = s->w->config.n_heads;
    struct attn_args shape = *a;
    shape.ledger = f->ledger ? f->ledger + layer * n_heads : NULL;
    struct mask_args m = {.attn = &shape,
        .heads = p->heads + layer * n_heads,
        .smooth_k = p->smooth_k,
        .topk = p->topk,
        .window = p->window};
    struct tile_map host = *map;
    host.bits = s->host_map;
    bool oracle = mask_base(p->method) == &mask_oracle;
    struct mask_method by_mass = mask_masses;
    by_mass.rule = p->method->rule;
    const struct mask_method *method = oracle ? &by_mass : p->method;
    float *masses = NULL;
    enum status st = OK;
    if (oracle) {
        st = fetch_masses(s, a, map, p->method, &masses);
        shape.dtype = DTYPE_F32;
        shape.q = masses;
    } else if (method != &mask_window) {
        st = session_cuda_show_keys(s, &shape);
    }
    void *ws = aligned_alloc(64, (mask_workspace(method, &m, par_threads(s->par)) + 127) / 64 * 64);
    if (st == OK && !ws) st = fail(ERR_MEMORY, "no memory to choose tiles");
    if (st == OK) st = mask_predict(method, &m, &host, ws, s->par);
    free(ws);
    free(masses);
    return st == OK ? send(s, map->bits, host.bits, tile_map_bytes(map)) : st;
}

static enum status choose_tiles(struct session_cuda *s, const struct forward_args *f, int layer,
    const struct attn_args *a, struct tile_map *map)
{
    const struct sparse_policy *p = f->policy;
    struct mask_cuda_args m = {.attn = a,
        .heads = s->heads + layer * s->w->config.n_heads,
        .smooth_k = p->smooth_k,
        .topk = p->topk,
        .method = p->method};
    if (mask_cuda_refuses(&m)) return host_map(s, f, layer, a, map);
    if (p->method == &mask_sparge) return mask_cuda_predict(&m, map, s->mask_ws, s->on->stream);
    TRY(want_room(s, mask_cuda_workspace(&m), "the prediction"));
    return mask_cuda_predict(&m, map, s->mass, s->on->stream);
}

/* Where kernels find the positions of a chunk's rows; NULL: in their arguments. */
static const int32_t *positions_of(const struct session_cuda *s, const struct chunk *x)
{
    return x->slots ? x->slots->position : x->at_device ? s->position : NULL;
}

/* The attention call of a layer, dense. */
struct attn_args session_cuda_call(const struct session_cuda *s, const struct chunk *x, int layer)
{
    const struct llama_config *c = &s->w->config;
    const struct forward_args *f = x->f;
    int d = c->head_dim;
    ptrdiff_t head = (ptrdiff_t)s->plan.capacity * d,
              width = (ptrdiff_t)(c->n_heads + 2 * c->n_kv_heads) * d;
    return (struct attn_args){
        .dtype = DTYPE_BF16,
        .n_q = x->n,
        .q_start = x->position,
        .q_start_at = positions_of(s, x),
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = d,
        .scale = llama_attention_scale(c),
        .q = s->qkv,
        .k = cache_of(s, x, layer, 0),
        .v = cache_of(s, x, layer, 1),
        .o = s->attn,
        .q_row = width,
        .q_head = d,
        .k_row = d,
        .k_head = head,
        .v_row = d,
        .v_head = head,
        .o_row = (ptrdiff_t)c->n_heads * d,
        .o_head = d,
        .block = f->policy ? f->policy->block : (struct block_shape)BLOCK_DEFAULT,
        .ledger = f->ledger ? s->ledger + layer * c->n_heads : NULL,
        .window = session_window(c, layer, x->position + x->n),
        .qk = s->layers[layer] & LAYER_EIGHT ? f->policy->qk : PRECISION_FULL,
        .pv = s->layers[layer] & LAYER_EIGHT ? f->policy->pv : PRECISION_FULL,
    };
}

static enum status attend_slots(struct session_cuda *s, const struct chunk *x, struct attn_args *a)
{
    a->n_q = 1;
    session_note_impl(x->impls, &attn_decode_cuda_bf16);
    return attn_batch_cuda_run(
        &(struct attn_batch_cuda_args){a, x->n, x->slots->slot, x->slots->step}, x->slots->attn_ws,
        s->on->stream);
}

static enum status attend(struct session_cuda *s, const struct chunk *x, int layer)
{
    const struct llama_config *c = &s->w->config;
    const struct forward_args *f = x->f;
    struct attn_args a = session_cuda_call(s, x, layer);
    if (x->slots) return attend_slots(s, x, &a);
    struct tile_map map = s->kept_maps[layer];
    bool sparse = s->layers[layer] & LAYER_SPARSE;
    if (sparse) {
        TRY(PART(s, x, predict_s));
        TRY(choose_tiles(s, f, layer, &a, &map));
        a.tiles = &map;
        a.correct_mean = f->policy->method->correct_mean;
        a.head_sparse = s->head_sparse + align256((size_t)c->n_heads) * (size_t)layer;
        if (s->layers[layer] & LAYER_SKIPS) a.pv_threshold = s->lambda + layer * c->n_heads;
    }
    const struct attn_impl *impl;
    void *ws;
    TRY(session_cuda_kernel(s, &a, &impl, &ws));
    session_note_impl(x->impls, impl);
    TRY(sparse ? PART(s, x, attention_s) : PART(s, x, attention_dense_s));
    TRY(impl->run(&a, ws, s->par, s->on->stream));
    TRY(PART(s, x, rest_s));
    return f->hook && !f->hook_tiles_only ? session_cuda_show_layer(s, f, layer, &a) : OK;
}

/* Gate and up exist for some rows at a time, so that they pass through the cache; down takes all
 * rows at once. */
static enum status mlp(struct session_cuda *s, const struct chunk *x, const struct layer_cuda *lw)
{
    const struct llama_config *c = &s->w->config;
    struct stream *stream = s->on->stream;
    int h = c->hidden_size, inter = c->intermediate_size;
    TRY(read_stream(s, x->n, lw->mlp_norm));
    for (int row = 0; row < x->n; row += s->mlp_rows) {
        int rows = x->n - row < s->mlp_rows ? x->n - row : s->mlp_rows;
        TRY(PART(s, x, linear_s));
        TRY(project(
            s, rows, 2 * inter, h, s->norm + (size_t)row * (size_t)h, lw->gate_up, s->gate_up));
        TRY(PART(s, x, rest_s));
        TRY(ops_cuda_silu_mul(s->gate_up, lw->gate_up_bias, rows, inter,
            s->act + (size_t)row * (size_t)inter, stream));
    }
    TRY(PART(s, x, linear_s));
    TRY(project_add(s, x->n, inter, s->act, lw->down, lw->down_bias, lw->mlp_behind));
    return PART(s, x, rest_s);
}

static enum status layer_forward(struct session_cuda *s, const struct chunk *x, int layer)
{
    const struct llama_config *c = &s->w->config;
    const struct layer_cuda *lw;
    TRY(weights_cuda_layer(s->on, layer, &lw));
    struct stream *stream = s->on->stream;
    int n = x->n, h = c->hidden_size, q = c->n_heads * c->head_dim;
    bool whole = c->qk_norm == QK_NORM_WHOLE;
    size_t angles = (size_t)llama_rope(c, layer) * (size_t)s->plan.chunk * (size_t)c->head_dim / 2;
    TRY(read_stream(s, n, lw->attn_norm));
    TRY(PART(s, x, linear_s));
    TRY(project(s, n, q + 2 * c->n_kv_heads * c->head_dim, h, s->norm, lw->qkv, s->qkv));
    TRY(PART(s, x, rest_s));
    if (lw->q_norm)
        TRY(ops_cuda_head_norm(&(struct head_norm_cuda_args){.x = s->qkv,
                                   .bias = lw->qkv_bias,
                                   .q_norm = lw->q_norm,
                                   .k_norm = lw->k_norm,
                                   .eps = (float)c->inner_eps,
                                   .n = n,
                                   .n_q = whole ? 1 : c->n_heads,
                                   .n_k = whole ? 1 : c->n_kv_heads,
                                   .head_dim = qk_norm_width(c),
                                   .width = q + 2 * c->n_kv_heads * c->head_dim},
            stream));
    bool turns = llama_turns(c, layer);
    TRY(ops_cuda_rope_pack(&(struct rope_cuda_args){.qkv = s->qkv,
                               .bias = lw->q_norm ? NULL : lw->qkv_bias,
                               .cosine = turns ? s->cosine + angles : NULL,
                               .sine = s->sine + angles,
                               .n = n,
                               .position = x->position,
                               .position_at = positions_of(s, x),
                               .slot = x->slots ? x->slots->slot : NULL,
                               .slot_step = x->slots ? x->slots->step : 0,
                               .n_heads = c->n_heads,
                               .n_kv_heads = c->n_kv_heads,
                               .head_dim = c->head_dim,
                               .capacity = s->plan.capacity,
                               .k = cache_of(s, x, layer, 0),
                               .v = cache_of(s, x, layer, 1)},
        stream));
    TRY(attend(s, x, layer));
    TRY(PART(s, x, linear_s));
    TRY(project_add(s, n, q, s->attn, lw->o, lw->o_bias, lw->attn_behind));
    TRY(PART(s, x, rest_s));
    return mlp(s, x, lw);
}

enum status session_cuda_head_rows(struct session_cuda *s, int n)
{
    const struct llama_config *c = &s->w->config;
    return gemm_cuda_run(s->on->gemm, n, c->vocab_size, c->hidden_size, s->norm, s->on->head,
        s->logits, c->vocab_size, DTYPE_F32, false);
}

const void *session_cuda_stream_row(const struct session_cuda *s, int row)
{
    return (const char *)s->x +
        (size_t)row * (size_t)s->w->config.hidden_size * dtype_size(s->residual);
}

/* A stream from outside, f32 there: exactly what was once handed out. */
static enum status take_stream(
    struct session_cuda *s, const float *from, size_t values, enum copy_way way)
{
    float *to = s->residual == DTYPE_F32 ? s->x : s->wide;
    TRY(s->on->impl->copy(s->on->d, to, from, values * sizeof *from, way));
    return to == s->wide ? ops_cuda_to_bf16(s->wide, DTYPE_F32, values, s->x, s->on->stream) : OK;
}

static enum status give_stream(struct session_cuda *s, float *to, int n, enum copy_way way)
{
    int h = s->w->config.hidden_size;
    const float *from = s->residual == DTYPE_F32 ? s->x : s->wide;
    if (from == s->wide) TRY(ops_cuda_widen(s->x, h, n, h, s->wide, s->on->stream));
    return s->on->impl->copy(s->on->d, to, from, (size_t)n * (size_t)h * sizeof *to, way);
}

/* Every rotation of the model, for the rows of a chunk. */
static enum status find_angles(struct session_cuda *s, const struct chunk *x)
{
    const struct llama_config *c = &s->w->config;
    int half = c->head_dim / 2;
    for (int i = 0; i < rope_count(c); i++) {
        size_t at = (size_t)i * (size_t)s->plan.chunk * (size_t)half;
        TRY(ops_cuda_angles(s->inv_freq + i * half, rope_attention_scaling(c, i), x->position,
            positions_of(s, x), x->n, half, s->cosine + at, s->sine + at, s->on->stream));
    }
    return OK;
}

enum status session_cuda_run_layers(struct session_cuda *s, const struct chunk *x)
{
    const struct llama_config *c = &s->w->config;
    const struct forward_args *f = x->f;
    struct stream *stream = s->on->stream;
    int n = x->n, h = c->hidden_size;
    size_t offset = (size_t)x->begin * (size_t)h;
    TRY(PART(s, x, rest_s));
    TRY(find_angles(s, x));
    if (f->residual_in)
        TRY(take_stream(s, f->residual_in + offset, (size_t)n * (size_t)h, COPY_TO_DEVICE));
    else if (x->first > 0)
        TRY(take_stream(s, f->carry_in + offset, (size_t)n * (size_t)h, COPY_ON_DEVICE));
    else
        TRY(ops_cuda_embed(s->on->embedding, s->tokens, n, h, llama_embedding_scale(c), s->x,
            s->residual, stream));
    for (int l = x->first; l <= x->end; l++) {
        if (f->residual_out && l == f->capture_layer)
            TRY(give_stream(s, f->residual_out + offset, n, COPY_TO_HOST));
        if (l == x->end && f->carry_out)
            TRY(give_stream(s, f->carry_out + offset, n, COPY_ON_DEVICE));
        if (l == x->end) break;
        if (f->stop && f->stop(f->stop_ctx)) return fail(ERR_CANCELLED, "stopped on request");
        TRY(layer_forward(s, x, l));
    }
    if (!x->logits) return OK;
    if (x->slots) {
        TRY(ops_cuda_rmsnorm(s->x, s->residual, s->on->final_norm, (float)c->rms_norm_eps, n, h,
            s->norm, NULL, stream));
        TRY(gemm_cuda_run(s->on->gemm, n, c->vocab_size, h, s->norm, s->on->head, x->slots->logits,
            c->vocab_size, DTYPE_F32, false));
        return argmax_cuda_rows(x->slots->logits, n, c->vocab_size, x->slots->next, stream);
    }
    TRY(ops_cuda_rmsnorm(session_cuda_stream_row(s, n - 1), s->residual, s->on->final_norm,
        (float)c->rms_norm_eps, 1, h, s->norm, NULL, stream));
    TRY(PART(s, x, linear_s));
    TRY(session_cuda_head_rows(s, 1));
    return PART(s, x, rest_s);
}

/* Attention on tensors of a GPU: queued on the caller's stream, in the caller's workspace. */
#include "library/parts.h"

#include "kernels/cuda/device_cuda.h"

#include <string.h>

bool attention_cuda_is_sm90(int device) { return device_cuda_sm(device) == 90; }

static size_t align256(size_t n) { return (n + 255) / 256 * 256; }

/* The workspace of a call: what a layer's heads are to do, the tile map, and what prediction and
 * attention need, one after the other. */
struct layout {
    const struct attn_impl *impl;
    size_t params, sparse, lambda, map, rest, total; /* offsets, and the sum */
    bool skips;                                      /* some head has a second stage */
};

static struct mask_cuda_args mask_of(
    const struct attn_args *attn, const struct sparse_policy *p, const struct head_params *heads)
{
    return (struct mask_cuda_args){.attn = attn,
        .heads = heads,
        .smooth_k = p->smooth_k,
        .topk = p->topk,
        .method = p->method};
}

/* Sets attn's tiles, thresholds and flags to their places in `ws`. */
static enum status lay_out(const struct sg_attention *a, const struct sparse_policy *p,
    struct attn_args *attn, struct tile_map *map, bool dense, char *ws, struct layout *l)
{
    size_t n = (size_t)attn->n_heads, mask_bytes = 0;
    *l = (struct layout){0};
    if (!dense) {
        const struct head_params *heads = p->heads + (size_t)a->layer * n;
        struct mask_cuda_args m = mask_of(attn, p, heads);
        const char *why = mask_cuda_refuses(&m);
        if (why) return fail(ERR_UNSUPPORTED, "method %s on a GPU: %s", p->method->name, why);
        for (size_t h = 0; h < n; h++) l->skips |= heads[h].is_sparse && heads[h].lambda < 50;
        *map = tile_map_shape(p->block, attn->n_heads, attn->q_start, attn->n_q);
        mask_bytes = mask_cuda_workspace(&m);
        l->sparse = align256(n * sizeof *heads);
        l->lambda = l->sparse + align256(n);
        l->map = l->lambda + align256(n * sizeof(float));
        l->rest = l->map + align256(tile_map_bytes(map));
        map->bits = (uint64_t *)(ws + l->map);
        attn->tiles = map;
        attn->correct_mean = p->method->correct_mean;
        attn->head_sparse = (const uint8_t *)ws + l->sparse;
        attn->pv_threshold = l->skips ? (const float *)(ws + l->lambda) : NULL;
    }
    TRY(attn_choose(attn, a->kernel, &l->impl));
    size_t work = l->impl->workspace(attn);
    l->total = l->rest + align256(mask_bytes > work ? mask_bytes : work);
    return OK;
}

enum status attention_cuda_workspace(const struct sg_attention *a, const struct sg_policy *p,
    struct attn_args *attn, bool dense, size_t *bytes)
{
    struct tile_map map;
    struct layout l;
    int before;
    TRY(device_cuda_enter(a->device, &before));
    enum status st = lay_out(a, p ? &p->now : NULL, attn, &map, dense, (char *)256, &l);
    device_cuda_leave(before);
    if (st == OK) *bytes = l.total;
    return st;
}

static enum status run(const struct sg_attention *a, const struct sparse_policy *p,
    struct attn_args *attn, bool dense, void *gpu_ledger)
{
    struct tile_map map;
    struct layout l;
    char *ws = a->workspace,
         host[ATTEND_MAX_HEADS * (sizeof(struct head_params) + 1 + sizeof(float)) + 1024];
    struct stream *stream = a->stream;
    attn->ledger =
        attn->n_q > 1 ? gpu_ledger : NULL; /* one token sees everything: nothing to count */
    TRY(lay_out(a, p, attn, &map, dense, ws, &l));
    if (l.total && (!ws || a->workspace_bytes < l.total || (uintptr_t)ws % 256))
        return fail(ERR_ARG,
            "workspace: found %zu bytes at %p, expected %zu on 256 bytes: sg_attention_workspace() "
            "says so",
            ws ? a->workspace_bytes : 0, a->workspace, l.total);
    if (!dense) {
        const struct head_params *heads = p->heads + (size_t)a->layer * (size_t)attn->n_heads;
        memcpy(host, heads, sizeof *heads * (size_t)attn->n_heads);
        for (int h = 0; h < attn->n_heads; h++) {
            host[l.sparse + (size_t)h] = heads[h].is_sparse;
            memcpy(host + l.lambda + sizeof(float) * (size_t)h, &heads[h].lambda, sizeof(float));
        }
        TRY(device_cuda_upload(ws, host, l.map, stream));
        struct mask_cuda_args m = mask_of(attn, p, (const struct head_params *)ws);
        TRY(mask_cuda_predict(&m, &map, ws + l.rest, stream));
    }
    return l.impl->run(attn, ws + l.rest, NULL, stream);
}

enum status attention_cuda(const struct sg_attention *a, const struct sg_policy *p,
    struct attn_args *attn, bool dense, void *gpu_ledger)
{
    int before;
    TRY(device_cuda_enter(a->device, &before));
    enum status st = run(a, p ? &p->now : NULL, attn, dense, gpu_ledger);
    device_cuda_leave(before);
    return st;
}

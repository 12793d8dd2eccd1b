/* What the parts of a CUDA session share: session_cuda.c runs the layers, session_cuda_view.c shows them to hooks.
 * Nobody else includes this. */
#ifndef SG_ENGINE_SESSION_CUDA_PARTS_H
#define SG_ENGINE_SESSION_CUDA_PARTS_H

#include "engine/session_cuda.h"
#include "engine/weights_cuda.h"
#include "kernels/compare_cuda.h"
#include "kernels/device_cuda.h"

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

static inline size_t align256(size_t n) { return (n + 255) / 256 * 256; }
static inline size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

static inline enum status send(struct session_cuda *s, void *to, const void *from, size_t bytes)
{
    return s->on->impl->copy(s->on->d, to, from, bytes, COPY_TO_DEVICE);
}

static inline enum status fetch(struct session_cuda *s, void *to, const void *from, size_t bytes)
{
    return s->on->impl->copy(s->on->d, to, from, bytes, COPY_TO_HOST);
}

/* The device's counts so far are added to the caller's, and the device's are cleared. */
enum status session_cuda_collect(struct session_cuda *s, const struct forward_args *f) MUST_USE;

/* For a hook that looks inside: the layer's tensors on the host, and its call repeatable (layer_view.impl). */
enum status session_cuda_show_layer(struct session_cuda *s, const struct forward_args *f, int layer,
                                    const struct attn_args *a) MUST_USE;

/* For a hook that reads maps only: layers [first, end) of a chunk of n tokens that begins at `position`. */
enum status session_cuda_show_maps(struct session_cuda *s, const struct forward_args *f, int first, int end, int n,
                                   int position) MUST_USE;

/* Free what the hooks needed. */
void session_cuda_close_view(struct session_cuda *s);

#endif

/* What the parts of a CUDA session share: session_cuda.c is the backend, session_cuda_layers.c runs
 * the layers, session_cuda_plan.c lays out their memory, session_cuda_graph.c repeats them as a
 * graph, session_cuda_times.c times them, session_cuda_kernel.c chooses kernels,
 * session_cuda_view.c shows them to hooks, session_cuda_slots.c decodes several sequences at once.
 * Nobody else includes this. */
#ifndef SG_ENGINE_CUDA_SESSION_CUDA_PARTS_H
#define SG_ENGINE_CUDA_SESSION_CUDA_PARTS_H

#include "engine/cuda/session_cuda.h"
#include "engine/cuda/weights_cuda.h"
#include "kernels/cuda/compare_cuda.h"
#include "kernels/cuda/device_cuda.h"

/* What a layer of the present chunk does. */
enum {
    LAYER_SPARSE = 1,
    LAYER_SKIPS = 2 /* some head may skip P·V */,
    LAYER_EIGHT = 4 /* products of eight bits */
};

struct session_cuda {
    const struct weights *w;
    struct weights_cuda *on;
    struct par *par;
    const char *impl;
    struct session_plan plan;
    void *slab;
    /* device */
    uint16_t *kv;   /* [n_layers][2][n_kv_heads][capacity][head_dim] */
    void *x;        /* [chunk, hidden] residual stream, of type `residual` */
    uint16_t *norm; /* [chunk, hidden]; `attn` is the same memory */
    /* [chunk, (n_heads + 2 n_kv_heads) head_dim], [chunk, n_heads head_dim] */
    uint16_t *qkv, *attn;
    uint16_t *gate_up, *act; /* [mlp_rows, 2 intermediate], [chunk, intermediate] */
    /* [chunk, hidden]: states on their way to or from the host; rows to compare */
    float *wide;
    float *nll;    /* [chunk] */
    float *branch; /* [chunk, hidden] what a layer adds, before the norm behind it; NULL: none */
    /* [rope_count][chunk, head_dim / 2] and [rope_count][head_dim / 2] */
    float *cosine, *sine, *inv_freq;
    int32_t *tokens;           /* [chunk]; the true next ones while scoring */
    int32_t *position;         /* of the present step, for kernels in a graph */
    int32_t *bad;              /* whether what stays on the device holds NaN or infinity */
    struct head_params *heads; /* [n_layers, n_heads] */
    float *lambda;
    uint8_t *head_sparse;
    struct head_ledger *ledger;
    char *maps, *mask_ws, *attn_ws; /* a map for each layer, map_bytes apart */
    size_t map_bytes;
    float *logits; /* [COMPARE_CUDA_ROWS, head_ids], or one row of all */
    int mlp_rows, head_ids;
    enum dtype residual;
    struct compare_cuda_row *rows; /* [COMPARE_CUDA_ROWS] */
    /* host */
    struct head_ledger *host_ledger;
    float host_inv_freq[2 * 128]; /* what the device has */
    bool has_inv_freq;
    uint8_t *host_sparse; /* [n_layers, n_heads] */
    float *host_lambda;
    struct compare_cuda_row *host_rows;
    uint8_t *layers; /* [n_layers] what each does in this chunk */
    /* [n_layers] shapes of this chunk's maps, bits on the device; no heads: dense */
    struct tile_map *kept_maps;
    void *host_map; /* map_bytes */
    /* q, k, v, o for a hook that looks inside; allocated when first needed */
    float *view[4];
    float *staged;  /* f32 on the device, on its way */
    void *repeated; /* room of a call that a hook repeats */
    size_t repeated_bytes;
    float *mass; /* for methods other than sparge; taken when first wanted */
    size_t mass_bytes;
    void *eight; /* q, k and v of a call in eight bits; taken when first wanted, for any call of the
                    session */
    size_t eight_bytes;
    bool repeats;                  /* a hook is under way that may repeat calls */
    struct session_graphs *graphs; /* NULL until one is wanted; the same with times */
    bool graphs_are_stale;         /* memory that they were recorded with has gone */
    struct session_times *times;
    struct slots_cuda *slots; /* NULL: there are none */
};

/* Sequences that are decoded together, and what a step of them needs beside the session's own. */
struct slots_cuda {
    void *slab;
    size_t bytes;
    int n;
    uint16_t *kv; /* [n] as the session's, `step` values apart */
    ptrdiff_t step;
    float *logits;                   /* [n, vocab] */
    int32_t *next, *position, *slot; /* [n] of a step's rows */
    void *attn_ws;
};

/* One chunk of a forward pass. */
struct chunk {
    const struct forward_args *f;
    /* first row of f->tokens, rows, position of the first in the sequence */
    int begin, n, position;
    int first, end; /* layers */
    bool at_device; /* a decode step that reads its position on the device */
    bool logits;    /* of the last row, wanted and in this chunk */
    /* rows are tokens of different sequences, which stand there; NULL: of the session's own */
    const struct slots_cuda *slots;
    struct str *impls;
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

/* Fills the sizes of a plan whose capacity, chunk and once are set; with `to`, whose slab is there,
 * its pointers too. */
void session_cuda_lay_out(const struct llama_config *c, enum dtype residual, struct session_plan *p,
    struct session_cuda *to);

/* session_scratch_for() here. The device is current. */
struct session_scratch session_cuda_scratch(const struct weights *w,
    const struct session_plan *plan, const struct sparse_policy *p, int n_threads);

/* Embeddings (or the stream that came in), all layers of the chunk, logits if wanted: queued, and
 * unless a caller asks for what must cross to the host in between, without waiting. */
enum status session_cuda_run_layers(struct session_cuda *s, const struct chunk *x) MUST_USE;
/* The attention of a layer. */
struct attn_args session_cuda_call(const struct session_cuda *s, const struct chunk *x, int layer);
/* The kernel that runs it, and its scratch. ERR_UNSUPPORTED for eight bits where no kernel has
 * them. */
enum status session_cuda_kernel(struct session_cuda *s, const struct attn_args *a,
    const struct attn_impl **impl, void **ws) MUST_USE;
/* Bytes of the scratch that a plan holds for all kernels without eight bits. */
size_t session_cuda_attention_scratch(const struct llama_config *c);
/* Logits of the first n rows in `norm`, into the first of `logits`. */
enum status session_cuda_head_rows(struct session_cuda *s, int n) MUST_USE;
/* A row of the stream, on the device. */
const void *session_cuda_stream_row(const struct session_cuda *s, int row);
/* session_cuda_run_layers as one launch, from the second call of a shape on. */
enum status session_cuda_run_graph(struct session_cuda *s, const struct chunk *x) MUST_USE;
void session_cuda_close_graphs(struct session_cuda *s);

/* Forget intervals that a failed call has left open. */
void session_cuda_begin_times(struct session_cuda *s);
/* What follows on the stream counts as this part (offsetof a double in struct forward_times), when
 * somebody asked. */
enum status session_cuda_part(struct session_cuda *s, const struct chunk *x, size_t field) MUST_USE;
#define PART(s, x, field) session_cuda_part(s, x, offsetof(struct forward_times, field))
/* Add what was measured to the caller's times; waits. */
enum status session_cuda_read_times(struct session_cuda *s, const struct chunk *x) MUST_USE;
void session_cuda_close_times(struct session_cuda *s);

/* The device's counts so far are added to the caller's, and the device's are cleared. */
enum status session_cuda_collect(struct session_cuda *s, const struct forward_args *f) MUST_USE;

/* For a hook that looks inside: the layer's tensors on the host, and its call repeatable
 * (layer_view.impl). */
enum status session_cuda_show_keys(struct session_cuda *s, struct attn_args *shown) MUST_USE;
enum status session_cuda_show_layer(struct session_cuda *s, const struct forward_args *f, int layer,
    const struct attn_args *a) MUST_USE;

/* For a hook that reads maps only: all layers of the chunk. */
enum status session_cuda_show_maps(struct session_cuda *s, const struct chunk *x) MUST_USE;

/* Of the session's table. */
enum status session_cuda_slots(void *state, int n, int *got) MUST_USE;
enum status session_cuda_keep(void *state, int slot) MUST_USE;
enum status session_cuda_step(void *state, const struct session_step *list,
    const int32_t *positions, int n, int32_t *next, struct str *impls) MUST_USE;
/* The lock is held. */
void session_cuda_close_slots(struct session_cuda *s);

/* What a choice of tiles on the host takes: on the device, and for copies of q, k and v there. */
size_t session_cuda_view_bytes(
    const struct llama_config *c, const struct session_plan *p, size_t *host);
/* Free what the hooks needed. */
void session_cuda_close_view(struct session_cuda *s);

#endif

/* Weights on a CUDA device: what session_cuda.c computes with. Private to engine/. */
#ifndef SG_ENGINE_CUDA_WEIGHTS_CUDA_H
#define SG_ENGINE_CUDA_WEIGHTS_CUDA_H

#include "engine/session_backend.h"
#include "kernels/device.h"
#include "kernels/cuda/linear_cuda.h"

#include <pthread.h>

/* bf16 matrices, row-major as in the checkpoint; matrices that read the same input stand in one
 * block. */
struct layer_cuda {
    uint16_t *qkv;                   /* [(n_heads + 2 n_kv_heads) head_dim, hidden] */
    uint16_t *o;                     /* [hidden, n_heads head_dim] */
    uint16_t *gate_up;               /* [2 intermediate, hidden] */
    uint16_t *down;                  /* [hidden, intermediate] */
    float *attn_norm, *mlp_norm;     /* [hidden]; NULL: none */
    float *attn_behind, *mlp_behind; /* [hidden]; NULL: none */
    float *q_norm, *k_norm;          /* [qk_norm_width()]; NULL: none */
    float *qkv_bias, *o_bias, *gate_up_bias, *down_bias; /* NULL: none */
};

/* Channels of q or k that are normalised as one; as a whole q and k are equally wide here. */
static inline int qk_norm_width(const struct llama_config *c)
{
    return c->qk_norm == QK_NORM_WHOLE ? c->n_heads * c->head_dim : c->head_dim;
}

struct weights_cuda {
    struct weights_device base;
    const struct device_impl *impl;
    struct device *d;
    struct stream *stream;
    struct gemm_cuda *gemm;
    struct device_info info;
    pthread_mutex_t lock;     /* one user of stream and handle at a time */
    size_t bytes, peak_bytes; /* taken on the device now and at most, by weights and sessions */
    void *slab;
    int first,
        end; /* layers that run here: embeddings are there with the first, the head with the last */
    uint16_t *embedding, *head;
    float *final_norm;
    struct layer_cuda *layers; /* of those that are not there vectors only */
    /* with device_options.offload */
    size_t limit;                     /* most bytes to take; SIZE_MAX: all */
    struct stager_cuda *stager;       /* NULL: all layers are there */
    const struct layer_weights *from; /* [n_layers] on the host */
    int n_layers;
    struct layer_cuda places[2]; /* matrices of two layers … */
    int held[2];                 /* … of these; -1: none */
    int now, coming; /* the place in use; the layer on its way into the other, -1: none */
};

extern const struct session_backend session_backend_cuda;

/* Entries of the table that live with the weights. */

/* Device memory that counts in `bytes`; ERR_MEMORY says `what` needs how much. */
enum status weights_cuda_alloc(
    struct weights_cuda *w, void **at, size_t bytes, const char *what) MUST_USE;
/* Whatever it was, and to want of memory what to do about it. */
enum status weights_cuda_remedy(enum status st, const char *remedy) MUST_USE;
void weights_cuda_free(struct weights_cuda *w, void *at, size_t bytes);

/* Make stream and handle this thread's alone, and the device current. Whatever lock returned,
 * unlock follows with the status so far, and hands it on: after a failure nothing is under way any
 * more. */
enum status weights_cuda_lock(struct weights_cuda *w) MUST_USE;
enum status weights_cuda_unlock(struct weights_cuda *w, enum status st) MUST_USE;

/* What a GPU does with its weights; release takes a half-filled one, too. */
extern const struct weights_place weights_on_cuda;
/* The layer's weights, for work queued from now on. What was handed out before the last one is not
 * valid any more when layers come one after the other: then this waits until the layer is on its
 * way as a whole, and the next one follows it. */
enum status weights_cuda_layer(
    struct weights_cuda *w, int layer, const struct layer_cuda **out) MUST_USE;
/* Opens GPU `index` and copies the weights of layers [first, end) there, or with
 * device_options.offload all that does not come with a layer. */
enum status weights_cuda_fill(
    struct weights_cuda *w, const struct weights *from, int index, int first, int end) MUST_USE;

#endif

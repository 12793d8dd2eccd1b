/* The weights of a LLaMA checkpoint, every tensor checked against the configuration.
 *
 * Matrices are borrowed from the mapped files in their own dtype, which may differ from tensor to
 * tensor. Copied are only norm vectors (widened to f32), biases in half precision beside a matrix
 * in f32, and tensors that the file leaves unaligned to their element. A bias of another type than
 * its matrix is refused otherwise.
 */
#ifndef SG_ENGINE_CHECKPOINT_WEIGHTS_H
#define SG_ENGINE_CHECKPOINT_WEIGHTS_H

#include "base/hash.h"
#include "base/par.h"
#include "base/status.h"
#include "engine/checkpoint/config.h"
#include "engine/checkpoint/safetensors.h"
#include "kernels/linear.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct session_backend;
struct tuner_backend;
struct weights_device;
struct weights_device_info;

/* What a device does with the weights placed on it. Entries are all mandatory and may be called
 * from any thread. */
struct weights_place {
    enum status (*memory)(const struct weights_device *d, size_t *free_bytes, size_t *total_bytes);
    void (*describe)(const struct weights_device *d, struct weights_device_info *out);
    void (*release)(struct weights_device **d);
    /* Memory of the device beside weights and sessions (engine/resident.h); copies to and from it
     * wait. ERR_MEMORY names `what`. */
    enum status (*room_open)(struct weights_device *d, float **at, size_t bytes, const char *what);
    void (*room_close)(struct weights_device *d, float *at, size_t bytes);
    enum status (*room_copy)(
        struct weights_device *d, void *to, const void *from, size_t bytes, bool to_host);
};

/* First member of what a device keeps beside the weights. */
struct weights_device {
    const struct weights_place *place;
    const struct session_backend *backend; /* engine/session_backend.h: what runs sessions there */
    const struct tuner_backend *tuner;     /* engine/tuner/tuner_parts.h: what tunes there */
};

/* How sessions run on a device; set before the weights are placed there. */
struct device_options {
    /* of the residual stream: DTYPE_F32 as on the CPU, or DTYPE_BF16 as transformers in bf16 */
    enum dtype residual;
    /* repeated calls of one shape run as captured graphs: the same kernels, the same bits */
    bool graph;
    /* weights stay in the mapped files and are brought layer by layer: on a device into one of two
     * places while the other is computed with, on the CPU as pages that go when the layer has gone
     */
    bool offload;
    size_t memory;              /* most bytes to take on the device; 0: what it has */
    struct reading_watch watch; /* of opening, fingerprint and the way to a device */
};

struct layer_weights {
    const float *attn_norm, *mlp_norm;     /* of what they read, [hidden]; NULL: none */
    const float *attn_behind, *mlp_behind; /* of what they add, [hidden]; NULL: none */
    struct linear q;                       /* [n_heads * head_dim, hidden] */
    struct linear k, v;                    /* [n_kv_heads * head_dim, hidden] */
    struct linear o;                       /* [hidden, n_heads * head_dim] */
    /* [head_dim], or one for every channel; NULL: this family has none */
    const float *q_norm, *k_norm;
    struct linear gate, up; /* [intermediate, hidden] */
    struct linear down;     /* [hidden, intermediate] */
};

/* One tensor that the model uses, in the order of the computation. */
struct weight_entry {
    /* owned; canonical: tied embeddings are "model.embed_tokens.weight" */
    char *name;
    const struct tensor *tensor; /* as found in the file */
};

struct weights {
    struct llama_config config;
    struct layer_weights *layers; /* [config.n_layers] */
    struct linear embedding;      /* [vocab, hidden] rows by token id; no bias */
    const float *final_norm;      /* [hidden] */
    struct linear head;           /* [vocab, hidden]; the same memory as `embedding` when tied */
    bool tied;                    /* the head is the embedding */

    char *dir;
    struct safetensors files;
    struct weight_entry *entries; /* every tensor in use */
    size_t n_entries;
    size_t weight_bytes; /* of the tensors in use */
    size_t copied_bytes; /* of them copied, unaligned or in another order */
    size_t n_extra;      /* tensors in the files that the model does not use */
    struct device_options device_options;
    struct weights_device *on_device; /* where sessions run; NULL: on the CPU. Owned */
    int *entered;                     /* the layer whose pages are in use; in `owned` */
    void **owned;                     /* heap blocks */
    size_t n_owned, cap_owned;
};

/* How the device is used must be known before the first page is: `how` may be NULL. */
enum status weights_open_with(
    struct weights *w, const char *dir, const struct device_options *how) MUST_USE;
/* Read the configuration and map the weights of a Hugging Face directory or a GGUF file. Tensor
 * data are not touched except norms and the copies named above. On failure *w is empty. Messages
 * name file, tensor, found and expected shape, and the remedy. */
enum status weights_open(struct weights *w, const char *dir) MUST_USE;
void weights_close(struct weights *w);

/* Layers that came to a device, and how long that took: the last of them, all, and what of that was
 * not hidden behind work. */
struct layers_brought {
    int n;
    double last_s, seconds, waited_s;
};

/* The device that the weights were placed on; `name` is "cpu" and the rest empty when on none. */
struct weights_device_info {
    const char *name;     /* as in the database: "cpu", "cuda" */
    const char *residual; /* "f32" or "bf16"; NULL on the CPU, which has f32 only */
    bool graph;
    int n_gpus;                    /* 0 on the CPU */
    int sm;                        /* compute capability, major * 10 + minor; 0 on the CPU */
    char gpu[128];                 /* "NVIDIA H200" */
    char driver[64];               /* versions of driver and runtime */
    struct layers_brought brought; /* zeros without device_options.offload */
    size_t bytes, peak_bytes;      /* what weights and sessions take together, now and at most */
};
void weights_device_describe(const struct weights *w, struct weights_device_info *out);
/* Memory of that device: free now, and all of it. Both 0 when on none. */
enum status weights_device_memory(
    const struct weights *w, size_t *free_bytes, size_t *total_bytes) MUST_USE;

/* Bytes of a layer's matrices, the largest layer's; width: bytes of a value, 0 as in the file. */
size_t weights_layer_bytes(const struct weights *w, size_t width);

/* With device_options.offload on the CPU: a layer is about to be computed with. Pages of the one
 * before are given back and the next one's are asked for, so that two layers and the head are
 * resident, not the model. Nothing otherwise. Advice only: whoever reads a page that went gets it
 * again. */
void weights_enter_layer(const struct weights *w, int layer);
/* Give back the pages of a mapped file in [at, at + bytes); nothing for memory that is in none. */
void weights_drop_pages(const struct weights *w, const void *at, size_t bytes);

/* Row of the embedding table for 0 <= id < vocab_size, in embedding.dtype; borrowed. */
const void *weights_embedding_row(const struct weights *w, int id);

/* Scan every weight for NaN and infinity; reads the whole checkpoint (some GB/s per thread).
 * ERR_NUMERIC with the file, the tensor, how many and the index of the first. Norms are always
 * scanned by weights_open(). */
enum status weights_check_finite(const struct weights *w, struct par *par) MUST_USE;

/* Identity of a model, "xxh3:<32 hex>": every byte of every tensor in use, by name, dtype and
 * shape, all of the configuration that changes results, and `also` (the tokenizer's fingerprint;
 * NULL: none). Sharding, file names, order in the file and unused tensors do not matter. Tensors
 * are hashed by XXH3 in pieces of a fixed size and the pieces' hashes in their order, so the result
 * is equal for every number of threads. memory (fingerprint_memory.h; NULL: none) is a file where
 * results are looked up and kept. */
#define FINGERPRINT_SIZE (5 + HASH_HEX_SIZE)
enum status weights_fingerprint(const struct weights *w, const char *also, struct par *par,
    const char *memory, char out[FINGERPRINT_SIZE]) MUST_USE;

/* Tensors of the files that the model does not use, without those that change nothing: frequencies
 * of the rotation, which follow from the configuration, and the second name of a tied embedding.
 * *at is 0 at first; NULL behind the last. */
const struct tensor *weights_next_unused(const struct weights *w, size_t *at);
/* ERR_UNSUPPORTED, naming them, when there are any: what the checkpoint computes is not what would
 * be computed. */
enum status weights_check_unused(const struct weights *w) MUST_USE;

#endif

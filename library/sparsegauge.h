/* libsparsegauge: counted block-sparse attention, its tuning and its evaluation, for other
 * programs.
 *
 *   sg_context   threads and scratch memory
 *   sg_policy    which layers and heads run sparse, how tiles are chosen, and what tuning measured
 *   sg_model     a checkpoint, to be run whole
 *
 * What is computed is defined in docs/method.md; docs/library.md maps the tuning guide's code onto
 * this interface.
 *
 * Conventions. A function that can fail returns enum sg_status; sg_message() is then one sentence
 * that names what was found, what was expected and the remedy. Structs that may grow begin with
 * their size: set it to sizeof, zero the rest
 * (`struct sg_attention a = {.size = sizeof a, …}`), and zero always means "as usual". Out handles
 * are NULL after a failure, and closing NULL does nothing. Strides are in elements, sequences in
 * tokens. Bad input gives a status; what no callee can check (a pointer to too little memory) is
 * the caller's to keep.
 *
 * Threads. Every function may be called from any thread. Calls with one context take turns;
 * contexts know nothing of each other. A callback makes no call with the context that called it. A
 * policy or model may be used by several threads as long as none changes it. A context belongs to
 * the process that opened it: behind fork() the child opens its own, and is told so.
 *
 * Memory. The library never ends the process. What a call cannot allocate makes it fail with
 * SG_ERR_MEMORY; where that was a small thing, needed in the middle of a change, what the call had
 * allocated is lost and the context answers SG_ERR_MEMORY from then on: close it, and the handles
 * that the call was given. Two things outside its power remain: a model's file that is cut short
 * while it is open raises SIGBUS in whoever reads the mapping, and OpenBLAS, of which the library
 * sets the number of threads in this process to 1 when the first model runs (its own threads do the
 * work), has a way of its own to fail when its buffers cannot be had.
 *
 * Versions. SG_API_VERSION counts what this header promises; functions and struct members are added
 * under the same number, and the shared object's name changes with it. There is no state of the
 * process but the two things above and the names of methods already parsed; no environment variable
 * is read, no file is written that was not named, nothing is printed.
 */
#ifndef SPARSEGAUGE_H
#define SPARSEGAUGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SG_API_VERSION 1

#if defined(__GNUC__)
#define SG_API __attribute__((visibility("default")))
#else
#define SG_API
#endif

enum sg_status {
    SG_OK = 0,
    SG_ERR_ARG = 1,         /* the request makes no sense */
    SG_ERR_IO = 2,          /* the operating system said no */
    SG_ERR_FORMAT = 3,      /* a file is not what it claims to be */
    SG_ERR_MEMORY = 4,      /* does not fit */
    SG_ERR_UNSUPPORTED = 5, /* understood, and not offered */
    SG_ERR_DEVICE = 6,      /* an accelerator is missing or failed */
    SG_ERR_NUMERIC = 8,     /* NaN or infinity where there must be none */
    SG_ERR_CANCELLED = 9    /* the caller's stop() said so */
};

SG_API int sg_api_version(void);     /* of the library; a program compares it with SG_API_VERSION */
SG_API const char *sg_version(void); /* "0.5.0" */
SG_API int sg_has_cuda(void); /* 1: built with CUDA; whether there is a GPU shows when it is used */
/* The last failure on this thread, "" before any; valid until the thread's next call. UTF-8, no
 * control characters. */
SG_API const char *sg_message(void);
SG_API const char *sg_status_name(enum sg_status status); /* "format error" */

/* ---- context ---- */

struct sg_context;

/* n_threads: of the CPU, the caller's included; 0: one for each processor this process may run on.
 */
SG_API enum sg_status sg_open(struct sg_context **out, int n_threads);
SG_API void sg_close(struct sg_context **context);
SG_API int sg_threads(const struct sg_context *context);

/* ---- policy ---- */

struct sg_policy;

/* Every layer on, every head sparse with the tuning guide's thresholds (.6, .98, 50), blocks of 128
 * x 64. method as `sparsegauge list methods` writes them ("sparge", "bound", "xattention+stride=8",
 * …) or "dense"; NULL: "sparge". */
SG_API enum sg_status sg_policy_open(
    struct sg_policy **out, const char *method, int n_layers, int n_heads);

/* From a tuned.json, or from SpargeAttn's own .pt. n_layers and n_heads: of the model it is for,
 * checked; for a tuned.json 0 takes the file's word. module: of a .pt that holds several attention
 * modules, the name of those that are meant
 * ("sparse_attn", "inner_attention"); NULL: whatever the file has. A .pt tells neither blocks nor
 * centring of keys: SpargeAttn's are taken (128 x 64, "global"), sg_policy_set() says otherwise. */
SG_API enum sg_status sg_policy_read(
    struct sg_policy **out, const char *path, int n_layers, int n_heads, const char *module);
/* By the name's end a .pt or a tuned.json. module: of a .pt, where the model has its attention, by
 * name
 * ("inner_attention") or as a path with %d for the layer
 * ("transformer.layers.%d.attn.inner_attention"); NULL: "model.layers.%d.self_attn.sparse_attn", as
 * the tuning guide has it. The public loader loads nothing, and says nothing, where it differs. */
SG_API enum sg_status sg_policy_write(
    const struct sg_policy *policy, const char *path, const char *module);
/* The tuned.json as text, for programs that keep it elsewhere: NUL-terminated, the caller releases
 * it by sg_free(). */
SG_API enum sg_status sg_policy_text(const struct sg_policy *policy, char **out);
SG_API enum sg_status sg_policy_parse(struct sg_policy **out, const char *text, size_t len);
SG_API void sg_policy_close(struct sg_policy **policy);
SG_API void sg_free(void *p);

/* Settings of all layers. Texts that sg_policy_get() gives are valid until the policy is changed or
 * closed. */
struct sg_setting {
    size_t size;
    int n_layers, n_heads; /* read only */
    const char *method;    /* read only */
    const char
        *layers; /* that may run sparse: "all", "none", "16,32" (16 … 31), "8-15", "0-3+12" */
    int block_q, block_k;  /* 128x64, 64x64, 64x128 or 128x128 */
    const char *smooth_k;  /* "running", "global" or "off" */
    int min_sparse_tokens; /* shorter sequences run dense, and are counted as such; -1: always
                              sparse; -2: 256, and on a Hopper GPU whatever a measured model of the
                              call finds not worth it (-2) */
    double
        topk; /* 0: thresholds; else the kept share of the possible tiles; -1: back to thresholds */
    int window;              /* of the method "window", tokens */
    const char *model;       /* whose thresholds these are, by name; "" unknown */
    const char *fingerprint; /* and by content, sg_model_fingerprint(); "" unknown */
    const char *data;        /* that they were tuned on; "" */
};
SG_API enum sg_status sg_policy_get(const struct sg_policy *policy, struct sg_setting *out);
/* Members that are 0 or NULL stay as they are. */
SG_API enum sg_status sg_policy_set(struct sg_policy *policy, const struct sg_setting *setting);

/* One head. Errors are NAN where they are not known: of heads that run dense, of files that tell
 * none. */
struct sg_head {
    size_t size;
    int in_range;      /* 0: its layer is outside of what was tuned, or of "layers" */
    int is_sparse;     /* 0: dense */
    float simthreshd1; /* -1 … 1 */
    float cdfthreshd;  /* 0 … 1 */
    float pvthreshd;   /* 0 … 50; 50 never skips */
    int part;          /* which of a mixture of methods ranks its tiles */
    double error, error_check,
        error_held_out;           /* by the rule that was tuned under: worst sample of each kind */
    double qk_sparsity, sparsity; /* counted while tuning */
    int back_offs;
};
SG_API enum sg_status sg_policy_head(
    const struct sg_policy *policy, int layer, int head, struct sg_head *out);
/* Thresholds, is_sparse and part are taken; what was measured with others is forgotten. */
SG_API enum sg_status sg_policy_set_head(
    struct sg_policy *policy, int layer, int head, const struct sg_head *set);

/* ---- attention ---- */

/* What one head did, counted inside the kernel. Calls add to what is there. */
struct sg_ledger {
    uint64_t tiles_possible, tiles_computed;       /* Q·Kᵀ, under the causal triangle */
    uint64_t pv_units_possible, pv_units_computed; /* exp and P·V */
    uint64_t forced_sink, forced_diagonal, forced_theta_q,
        forced_theta_k; /* kept whatever their rank */
    uint64_t calls_sparse;
    uint64_t calls_dense_head;  /* the policy says dense for this head */
    uint64_t calls_dense_layer; /* … or the layer is outside its layers */
    uint64_t calls_dense_short; /* the sequence is under min_sparse_tokens, the call is one token,
                                   or begins within a block */
    uint64_t calls_eight; /* of all of these, those whose products were of eight bits: the policy's
                             file was tuned with --qk or --pv */
    uint64_t tiles_corrected;  /* left-out tiles that one mean key stood for (+correct=mean) */
    uint64_t calls_dense_cost; /* dense because choosing tiles would take longer than it saves
                                  (min_sparse_tokens -2) */
    uint64_t reserved;         /* 0 */
};
SG_API double sg_sparsity(
    const struct sg_ledger *ledger); /* 1 - work done / work possible, both products */
SG_API double sg_qk_sparsity(const struct sg_ledger *ledger);
SG_API double sg_pv_sparsity(const struct sg_ledger *ledger);
SG_API void sg_ledger_add(struct sg_ledger *to, const struct sg_ledger *from);

enum sg_dtype { SG_F32 = 0, SG_BF16 = 2 };

/* Causal attention of n_q rows at positions q_start …: row r sees keys 0 … q_start + r. Query head
 * h reads kv head h / (n_heads / n_kv_heads). A whole prompt has q_start 0, a chunk the tokens
 * before it, a decoded token n_q 1. */
struct sg_attention {
    size_t size;
    enum sg_dtype dtype; /* of q, k, v, o: SG_F32 on the host, SG_BF16 on a GPU */
    int on_gpu;          /* 1: all pointers below are of the GPU `device` */
    int device;          /* its CUDA number */
    void *stream;        /* cudaStream_t that the work is queued on; nothing waits for it */
    void *workspace; /* on a GPU: sg_attention_workspace() bytes of it, on 256 bytes, until the work
                        is done */
    size_t workspace_bytes;
    int n_q, q_start;
    int n_heads, n_kv_heads, head_dim;
    float scale;           /* 0: 1/sqrt(head_dim) */
    const void *q, *k, *v; /* q: n_q rows; k, v: q_start + n_q rows; a row's head_dim elements are
                              contiguous. On a GPU on 16 bytes, and strides multiples of 8 */
    void *o;               /* n_q rows; overlaps none of the others */
    ptrdiff_t q_token, q_head, k_token, k_head, v_token, v_head, o_token,
        o_head; /* strides in elements */
    int layer;  /* of the policy */
    int window; /* the model's own sliding window of this layer: keys that a row sees; 0: all */
    int total;  /* tokens of the whole sequence, for a chunk; 0: q_start + n_q */
    const char *kernel; /* "attn_cpu_avx2", …; NULL: the best */
};

/* policy NULL: dense. ledger: [n_heads] on the host, may be NULL. On a GPU it gets the calls alone:
 * tiles and units are counted there, into gpu_ledger, which is n_heads * sizeof(struct sg_ledger)
 * bytes of that GPU's memory, all 0 at first, in a form of its own; may be NULL.
 * sg_gpu_ledger_read() adds a copy of it on the host to a ledger. */
SG_API enum sg_status sg_attention_forward(struct sg_context *context, const struct sg_attention *a,
    const struct sg_policy *policy, struct sg_ledger *ledger, void *gpu_ledger);
SG_API enum sg_status sg_gpu_ledger_read(const void *copy, int n_heads, struct sg_ledger *ledger);
/* Bytes of workspace that a GPU call needs; 0 for one on the host. */
SG_API enum sg_status sg_attention_workspace(
    const struct sg_attention *a, const struct sg_policy *policy, size_t *bytes);

/* The prediction alone, which looks at q and k only (host). tiles: one byte for each [n_heads,
 * query block, key block], 1 where the tile would be computed, 0 else; blocks are counted from
 * position 0 in q_start / block_q … and in 0 …, so the array is [n_heads, sg_q_blocks(),
 * sg_k_blocks()]. A call that would run dense has every possible tile. ledger: as above, gets the
 * forced tiles. */
SG_API enum sg_status sg_attention_predict(struct sg_context *context, const struct sg_attention *a,
    const struct sg_policy *policy, uint8_t *tiles, struct sg_ledger *ledger);
SG_API int sg_q_blocks(const struct sg_attention *a, const struct sg_policy *policy);
SG_API int sg_k_blocks(const struct sg_attention *a, const struct sg_policy *policy);

/* ---- tuning ---- */

enum sg_use { SG_CHOOSE = 0, SG_CHECK = 1, SG_HELD_OUT = 2 };

/* What one layer's dense attention sees of one text (host, f32): from position 0, q and k behind
 * the rotation. */
struct sg_sample {
    size_t size;
    int n_tokens;    /* at least 256 */
    enum sg_use use; /* in this order: those to choose on, those the bound is then held on or backed
                        off, those looked at once, at the end */
    const float *q, *k, *v;
    ptrdiff_t q_token, q_head, k_token, k_head, v_token, v_head;
    const char *name; /* for messages; NULL: its number */
};

struct sg_tuning {
    size_t size;
    int layer, n_kv_heads, head_dim;
    float scale; /* 0: 1/sqrt(head_dim) */
    const struct sg_sample *samples;
    int n_samples;
    const char
        *rule; /* the error that is bounded: "l1", "tail", "cosine", "rmse", "both"; NULL: "l1" */
    double l1, pv_l1;           /* 0 < l1 < pv_l1 < 1 */
    double min_sparsity;        /* heads under it are stored as dense; 0: .1, -1: none */
    int (*stop)(void *context); /* asked now and then, from any of the context's threads; not 0 ends
                                   the call. May be NULL */
    void *stop_context;
};

/* Finds thresholds for the heads of one layer under the bounds, runs what it found with the
 * inference kernel, and enters it into the policy, whose method, blocks and centring it uses.
 * Layers may come in any order, all with the same rule, bounds and number of samples; a layer that
 * never comes stays dense, as outside the range. */
SG_API enum sg_status sg_tune(
    struct sg_context *context, const struct sg_tuning *tuning, struct sg_policy *policy);
/* "3 of 160 pairs of a head and a text are over their bound (…)" of the held-out samples of all
 * layers tuned so far;
 * "" without any. Valid until the policy is changed or closed. */
SG_API const char *sg_policy_verdict(const struct sg_policy *policy);

/* ---- models ---- */

struct sg_model;

/* A Hugging Face directory, an id in the hub's cache, or a GGUF file. Runs on the CPU. The context
 * outlives it. */
SG_API enum sg_status sg_model_open(
    struct sg_model **out, struct sg_context *context, const char *path);
SG_API void sg_model_close(struct sg_model **model);

struct sg_shape {
    size_t size;
    int n_layers, n_heads, n_kv_heads, head_dim, hidden_size, vocab_size, max_position;
};
SG_API enum sg_status sg_model_shape(const struct sg_model *model, struct sg_shape *out);
SG_API const char *sg_model_name(const struct sg_model *model);
/* Hash of weights, configuration and tokenizer, as tuned files name their model. */
SG_API const char *sg_model_fingerprint(const struct sg_model *model);

/* The text's ids, begun as the model's own tokenizer begins a text. ids may be NULL to ask for *n.
 * SG_ERR_MEMORY and *n when capacity is too small. */
SG_API enum sg_status sg_model_encode(const struct sg_model *model, const char *text, size_t len,
    int32_t *ids, size_t capacity, size_t *n);
/* UTF-8, NUL-terminated, special tokens left out; the caller releases it by sg_free(). */
SG_API enum sg_status sg_model_decode(
    const struct sg_model *model, const int32_t *ids, size_t n, char **out);

/* policy NULL: dense. ledger: [n_layers, n_heads], may be NULL. A policy that names another model's
 * fingerprint is refused. */
/* logits: [n, vocab_size] */
SG_API enum sg_status sg_model_logits(struct sg_model *model, const int32_t *ids, int n,
    const struct sg_policy *policy, float *logits, struct sg_ledger *ledger);
/* nll: [n - 1], -log p of ids[1] … in nats; no [n, vocab_size] buffer is made. *mean (may be NULL)
 * is their mean. */
SG_API enum sg_status sg_model_loss(struct sg_model *model, const int32_t *ids, int n,
    const struct sg_policy *policy, float *nll, double *mean, struct sg_ledger *ledger);

struct sg_generation {
    size_t size;
    int max_new;        /* tokens; 0: 50 */
    double temperature; /* 0: greedy */
    int top_k;          /* 0: all */
    double top_p;       /* 0: all */
    uint64_t seed;
    int ignore_eos;
    int (*token)(void *context, int32_t id); /* hears each new token; 0 stops. May be NULL */
    void *token_context;
};
/* out: [max_new]; *n_out of them are written. The prefill follows the policy and is counted,
 * decoded tokens see everything. */
SG_API enum sg_status sg_model_generate(struct sg_model *model, const int32_t *ids, int n,
    const struct sg_policy *policy, const struct sg_generation *g, int32_t *out, int *n_out,
    struct sg_ledger *ledger);

#ifdef __cplusplus
}
#endif

#endif

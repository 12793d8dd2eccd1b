/* One sequence running through the model: KV cache, activations, dense or sparse attention.
 *
 * On the CPU everything is f32; weights placed on a device run there (engine/cuda/session_cuda.h).
 * The residual stream, norms, RoPE and SwiGLU follow transformers' LlamaForCausalLM.
 */
#ifndef SG_ENGINE_SESSION_H
#define SG_ENGINE_SESSION_H

#include "base/par.h"
#include "base/status.h"
#include "engine/policy.h"
#include "engine/resident.h"
#include "engine/checkpoint/weights.h"
#include "kernels/compare.h"

#include <stdint.h>

struct session; /* opaque */

/* Bytes a session will take, known before anything is allocated. */
struct session_plan {
    size_t kv_bytes, activation_bytes, linear_bytes, total_bytes;
    int capacity, chunk;
    bool once;   /* keys and values of one layer at a time are kept … */
    bool narrow; /* … and on a device few rows of the MLP, too */
    int layers;  /* that are run there; 0: all */
};

/* capacity: most tokens of a sequence. chunk: most tokens computed at once, a multiple of 128; 0
 * picks one. */
struct session_plan session_plan(
    const struct llama_config *c, int capacity, int chunk, int n_threads);
/* The same where sessions of these weights run. once: for session_open_once(). */
struct session_plan session_plan_for(
    const struct weights *w, int capacity, int chunk, bool once, int n_threads);

/* What it takes beside that for attention and the choice of tiles under a policy (NULL: dense),
 * once it needs them: where it runs, and on the host beside a device, where methods without a body
 * for it choose from copies of q, k and v. An upper bound for every call of the plan's session. */
struct session_scratch {
    size_t bytes, host_bytes; /* host_bytes: 0 on the CPU */
};
struct session_scratch session_scratch_for(const struct weights *w, const struct session_plan *plan,
    const struct sparse_policy *p, int n_threads);

/* What session_forward() would say of a policy in a sequence so long, before anything runs:
 * ERR_UNSUPPORTED where it acts on a layer whose window is shorter. */
enum status session_check_policy(
    const struct llama_config *c, const struct sparse_policy *p, int n_tokens) MUST_USE;

/* Borrows weights and par. ERR_MEMORY with what is needed. impl names the attention implementation,
 * NULL the best one. */
enum status session_open(struct session **s, const struct weights *w, struct par *par, int capacity,
    int chunk, const char *impl) MUST_USE;
/* The same for sequences that are one call of session_forward() each: keys and values are kept for
 * one layer at a time, n_layers times less. Where a sequence takes several chunks the plan says
 * once = false and this is session_open(), unless weights are brought layer by layer
 * (device_options.offload): then all chunks pass a layer before the next. */
enum status session_open_once(struct session **s, const struct weights *w, struct par *par,
    int capacity, int chunk, const char *impl) MUST_USE;
void session_close(struct session **s);

/* Forget the sequence. */
void session_reset(struct session *s);
int session_position(const struct session *s); /* tokens so far */
/* Forget all but the first n tokens of it. */
void session_rewind(struct session *s, int n);

/* What one layer's attention saw, for those who look inside. Valid during the call only. */
struct layer_view {
    int layer, n_layers;
    const struct attn_args *attn; /* q, k after RoPE, v, and o as computed */
    const struct tile_map *tiles; /* NULL when the layer ran dense */
    const struct attn_impl
        *impl; /* repeats such a call on the device where it ran, from host tensors like these,
                  during the hook; NULL on the CPU: choose one */
};
/* Called after the attention of each layer; an error stops the forward pass and is returned from
 * it. */
typedef enum status layer_hook(void *ctx, const struct layer_view *view);

/* Where the time of a forward pass went: seconds, added to what is there. Everything is in exactly
 * one of the first five. On the CPU wall time; on a device its own time between events on its
 * stream, waits for the host included. Asking costs under 1 % on the CPU; on a device it puts a gap
 * between the parts and turns graphs off: time whole passes without it. predict_s is all of
 * choosing tiles that is a step of its own: what the device pools beside the rotation is in rest_s.
 */
struct forward_times {
    double predict_s;         /* choosing tiles */
    double attention_s;       /* attention over a tile map, dense heads of such layers included */
    double attention_dense_s; /* attention of layers that ran dense as a whole */
    /* products with the weights, the addition to the stream included; with nll the head */
    double linear_s;
    /* embedding, norms, rotation, the way into the cache, SwiGLU, copies, hooks */
    double rest_s;
    /* attention_s cut in two by the time threads spent in each (struct attn_ticks). A device's
     * kernels run the two products at the same time, so there is no such cut: has_split stays false
     * and both 0. */
    bool has_split;
    double qk_s, pv_s;
};

struct forward_args {
    const int32_t *tokens; /* [n], appended to the sequence */
    int n;
    int total_len; /* length the sequence will have when all its chunks are in; 0: with this
                      call. Only rope "dynamic" and min_sparse_tokens look at it. */
    const struct sparse_policy *policy; /* NULL: dense */
    struct head_ledger *ledger;         /* [n_layers, n_heads], counted into; may be NULL */
    float *hidden;                      /* [n, hidden_size] behind the final norm; may be NULL */
    bool hidden_on_device;              /* it is of a resident's, there (engine/resident.h) */
    float *last_hidden;                 /* [hidden_size] of the last token; may be NULL */
    /* [vocab] of the last token; may be NULL. Not with end_layer */
    float *last_logits;

    int first_layer; /* start here … */
    /* … from this [n, hidden_size] stream; NULL: from the embeddings … */
    const float *residual_in;
    /* … or from here, where the stream of a sequence waits between calls of some layers each: read
     * unless first_layer is 0 or residual_in is given, and left behind end_layer. [n, hidden_size]
     * of a device's memory, the host's on the CPU; may be the same, and NULL */
    const float *carry_in;
    float *carry_out;
    int end_layer; /* stop in front of this layer; 0: run them all */
    /* copy the stream as it enters this layer (n_layers: as it leaves the last) */
    int capture_layer;
    float *residual_out; /* [n, hidden_size]; NULL: no copy */

    const int32_t *next; /* [n] true next tokens, -1 for none … */
    /* … and their -log p, 0 where there is none; may be NULL. No n × vocab buffer. */
    float *nll;

    layer_hook *hook; /* may be NULL */
    void *hook_ctx;
    bool hook_on_device; /* a hook that is not tiles-only sees the device's own bf16 q, k, v, o,
                            with its stream's work ahead of its own and its lock held;
                            ERR_UNSUPPORTED on the CPU */
    bool
        hook_tiles_only; /* the hook reads no q, k, v, o (they are NULL on a device, and nothing
                            waits for a copy); it may then be called when the whole chunk is done */
    struct forward_times *times; /* may be NULL */
    bool unchecked; /* let NaN and infinity pass; else they end the call with ERR_NUMERIC, which
                       names the first layer, tensor, token and head that hold one */
    /* asked between layers; true ends with ERR_CANCELLED. May be NULL */
    bool (*stop)(void *);
    void *stop_ctx;
};

void forward_times_add(struct forward_times *to, const struct forward_times *from);

/* Append tokens and run them. A token outside the vocabulary is ERR_ARG, a sequence over capacity
 * ERR_ARG. When this fails the sequence is as before the call. */
enum status session_forward(struct session *s, const struct forward_args *a) MUST_USE;

/* Several sequences, each as session_reset() and session_forward() would run it, bit for bit; what
 * was given in `hidden` and the like is there when done() is called with its index and the seconds
 * it took. Where weights are brought layer by layer all sequences pass a layer before the next one
 * is brought, as many at a time as there is room for their streams; where GPUs share the layers one
 * sequence follows another from GPU to GPU. done() is still called in the order of the list, and
 * every `hidden` is written directly before it, so that they may share memory. The session is left
 * empty. *failed is the index of the sequence that an error is about. */
typedef enum status session_done(void *ctx, int i, double seconds);
enum status session_forward_each(struct session *s, const struct forward_args *list, int n,
    session_done *done, void *ctx, int *failed) MUST_USE;
/* How many sequences of so many tokens to hand over for that; 0 where they come one by one. */
int session_at_once(const struct session *s, int n_tokens);

/* Greedy decoding of several sequences at once: keys and values of each wait in a slot, and a step
 * appends one token to some of them. */
enum { SESSION_SLOTS = 16 /* at most: more rows would read every weight twice */ };
struct session_step {
    int slot;
    int32_t token;
};
/* Makes room for up to n sequences of the session's capacity, of the memory that its device has
 * left (an eighth of it stays free). *got: so many, or 0 where there are no slots: on the CPU, over
 * several GPUs, with weights that come layer by layer, where layers have sliding windows or their
 * rotation turns on a sequence's length, or no two fit. n = 0 gives the memory back. */
enum status session_slots(struct session *s, int n, int *got) MUST_USE;
/* The sequence that the session holds, copied into a slot. */
enum status session_keep(struct session *s, int slot) MUST_USE;
/* A dense step of n different slots. next [n]: the most likely token behind each, the lowest id on
 * ties: what session_forward() and an argmax of its last_logits give, bit for bit, whatever stands
 * beside it. ERR_NUMERIC names the entry whose logits hold NaN or infinity; *failed is its place.
 */
enum status session_step(
    struct session *s, const struct session_step *list, int n, int32_t *next, int *failed) MUST_USE;

/* What the dense attention of some query heads of one layer sees and gives, from the stream that
 * enters the layer. */
struct heads_args {
    const int32_t *tokens; /* [n]; looked at when there is no stream */
    int n;                 /* at most the session's chunk; the sequence begins here */
    /* query heads [first, end): whole groups of one kv head, or a part of one */
    int layer, first, end;
    const float *residual; /* [n, hidden_size]; NULL: the embeddings */
    float *q, *o;          /* [n, end - first, head_dim]; q after RoPE */
    float *k, *v;          /* [kv heads read, n, head_dim]; k after RoPE */
};
/* The sequence in the session is left alone. Values are those of session_forward bit for bit.
 * ERR_UNSUPPORTED on a device. */
enum status session_heads(struct session *s, const struct heads_args *a) MUST_USE;

/* Logits [n, vocab] of hidden rows [n, hidden_size]; a row's do not depend on those beside it. */
enum status session_logits(struct session *s, int n, const float *hidden, float *logits) MUST_USE;

/* compare_logits (kernels/compare.h) with the model's head, where the session runs. */
enum status session_compare(struct session *s, int n, struct rows_at dense, struct rows_at sparse,
    const int32_t *next, struct token_metrics *out, struct tensor_sums *sums) MUST_USE;

const struct weights *session_weights(const struct session *s);
struct par *session_par(const struct session *s);
/* Names of the attention implementations used so far, joined by "+". */
const char *session_impls(const struct session *s);

#endif

/* What the files of the library share: the handles, and the border that every call goes through. */
#ifndef SG_LIBRARY_PARTS_H
#define SG_LIBRARY_PARTS_H

#include "base/par.h"
#include "engine/attend.h"
#include "engine/engine.h"
#include "engine/tuner/tuned.h"
#include "library/sparsegauge.h"

#include <pthread.h>
#include <stdbool.h>

struct sg_context {
    struct par *par;
    pthread_mutex_t lock; /* whoever has it may use the threads and the scratch */
    int pid;              /* whose threads these are */
    bool broken;          /* a call was cut off in the middle: no memory */
    void *scratch;        /* 64-byte aligned */
    size_t scratch_bytes;
};

struct sg_policy {
    struct sparse_policy now; /* what runs */
    struct tuned
        tuned; /* what is known of it; its thresholds are brought up to date when it is written */
    bool from_tuning; /* sg_tune() was here: bounds and rule are set */
    char layers[LAYERS_TEXT_SIZE];
    struct head_error *held_out; /* [n_held_out, layers x heads], NAN of layers not tuned */
    int n_held_out;
    char verdict[OVER_BOUND_TEXT];
};

struct sg_model {
    struct sg_context *context;
    struct model model;
};

/* `body` under a guard, so that no allocation ends the process; with a context, while holding it.
 */
typedef enum status border_body(void *args);
enum sg_status border(border_body *body, void *args);
enum sg_status border_in(struct sg_context *c, border_body *body, void *args);

/* At least `bytes` of the context's scratch; what was in it is lost. */
enum status context_scratch(struct sg_context *c, size_t bytes) MUST_USE;

/* A member that a struct of `size` bytes has. */
#define SG_HAS(s, member) ((s)->size >= offsetof(__typeof__(*(s)), member) + sizeof((s)->member))
/* A copy in `to` (zeroed, its size set) of what the caller's version of the struct has. ERR_ARG for
 * a size that none has. */
#define SG_TAKE(to, from, first_version_end)                          \
    struct_take(&(to), sizeof(to), (from), (from) ? (from)->size : 0, \
        offsetof(__typeof__(to), first_version_end) + sizeof((to).first_version_end), #to)
enum status struct_take(void *to, size_t size, const void *from, size_t from_size, size_t least,
    const char *what) MUST_USE;

/* Of the same members in the same order. */
void ledger_give(struct sg_ledger *to, const struct head_ledger *from, size_t n);

/* The attention call that `a` asks for, checked against the policy, which may be NULL. */
enum status attention_of(
    const struct sg_attention *a, const struct sg_policy *p, struct attn_args *out) MUST_USE;
/* ERR_UNSUPPORTED for a layer that the policy acts on, with a sliding window. Counts, and sets the
 * precision of the call, which is the layer's. */
enum status attention_runs_dense(const struct sg_attention *a, const struct sg_policy *p,
    struct attn_args *attn, struct head_ledger *ledger, bool *dense) MUST_USE;

#ifdef SG_HAVE_CUDA
enum status attention_cuda(const struct sg_attention *a, const struct sg_policy *p,
    struct attn_args *attn, bool dense, void *gpu_ledger) MUST_USE;
enum status attention_cuda_workspace(const struct sg_attention *a, const struct sg_policy *p,
    struct attn_args *attn, bool dense, size_t *bytes) MUST_USE;
bool attention_cuda_is_sm90(int device);
#else
static inline bool attention_cuda_is_sm90(int device)
{
    (void)device;
    return false;
}
#endif

#endif

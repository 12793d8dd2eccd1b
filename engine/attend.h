/* One attention call on the CPU under a policy: which tiles, then the kernel. The layers of a
 * session and the library's calls on tensors of their own are this. */
#ifndef SG_ENGINE_ATTEND_H
#define SG_ENGINE_ATTEND_H

#include "base/par.h"
#include "engine/policy.h"
#include "kernels/registry.h"

#include <stdbool.h>

enum { ATTEND_MAX_HEADS = 1024 };

/* A call under way; its attn_args point into it, so it is neither copied nor left before they are.
 */
struct attend {
    struct attn_args *args;
    const struct attn_impl *impl;
    struct mask_args mask;
    struct tile_map map; /* of a sparse call, filled by attend_predict() */
    size_t scratch_bytes;
    /* the rest is private */
    const struct mask_method *method; /* NULL: dense */
    struct par *par;
    size_t map_bytes;
    float lambda[ATTEND_MAX_HEADS];
    uint8_t sparse[ATTEND_MAX_HEADS];
};

/* Chooses the kernel (`impl` by name, NULL: the best) and says how much scratch it takes. sparse:
 * the tiles, thresholds and flags of `layer` of the policy are set in `a`, whose shapes, strides,
 * block and window are; else every tile is computed, and the policy may be NULL. ERR_UNSUPPORTED
 * beyond ATTEND_MAX_HEADS. */
enum status attend_begin(struct attend *t, struct attn_args *a, const struct sparse_policy *policy,
    int layer, bool sparse, const char *impl, struct par *par) MUST_USE;
/* The scratch of such a call with the best kernel, dense or by the policy (NULL: dense), whichever
 * takes more; 0 where no kernel takes it. */
size_t attend_bytes(const struct attn_args *a, const struct sparse_policy *policy, int n_threads);
/* Both take scratch_bytes on 64 bytes, the same for both. Prediction comes first, and is nothing in
 * a dense call. */
enum status attend_predict(struct attend *t, void *scratch) MUST_USE;
enum status attend_run(struct attend *t, void *scratch) MUST_USE;

#endif

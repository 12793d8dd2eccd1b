/* Which layers and heads run sparse, by which method and with which thresholds. */
#ifndef SG_ENGINE_POLICY_H
#define SG_ENGINE_POLICY_H

#include "base/hash.h"
#include "base/status.h"
#include "engine/payoff.h"
#include "kernels/mask.h"

#include <stdbool.h>
#include <stdint.h>

enum { MIN_SPARSE_TOKENS = 256 }; /* default: shorter sequences run dense and are counted as such */

struct sparse_policy {
    const struct mask_method *method; /* NULL: dense everywhere */
    struct block_shape block;
    enum smooth_k smooth_k;
    int min_sparse_tokens;
    bool where_it_pays; /* and calls run dense where choosing tiles costs more than it saves
                           (payoff.h). Never of an evaluation: it changes what is computed */
    double promised;    /* share of the work left out where thresholds were tuned; 0: unknown */
    float topk;         /* 0: thresholds; else the kept fraction, in (0, 1] */
    int window;         /* tokens, for the method "window" */
    enum precision qk,
        pv; /* of the products in layers that are on (METHOD 9); dense heads included */
    int n_layers, n_heads;
    uint8_t *layer_on;         /* [n_layers], owned; 0: outside the layer range, dense */
    struct head_params *heads; /* [n_layers, n_heads], owned */
};

/* All layers on, every head sparse with simthreshd1 .6, cdfthreshd .98, pvthreshd 50 (the tuning
 * guide's "before"), blocks 128x64, running smooth_k. method NULL makes a dense policy. */
enum status policy_init(
    struct sparse_policy *p, const struct mask_method *method, int n_layers, int n_heads) MUST_USE;
void policy_clear(struct sparse_policy *p);

static inline bool policy_is_eight(const struct sparse_policy *p)
{
    return p->qk != PRECISION_FULL || p->pv != PRECISION_FULL;
}
/* Anything but plain dense attention: tiles left out, products of eight bits, or both. */
static inline bool policy_acts(const struct sparse_policy *p)
{
    return p->method || policy_is_eight(p);
}
/* ERR_ARG for P·V in int8, which is not defined. A dense policy that becomes one of eight bits has
 * all layers on. */
enum status policy_set_precision(
    struct sparse_policy *p, enum precision qk, enum precision pv) MUST_USE;
enum status policy_copy(struct sparse_policy *to, const struct sparse_policy *from) MUST_USE;

/* `from` with every tile kept: dense, in the same precision in the same layers. */
enum status policy_copy_dense(struct sparse_policy *to, const struct sparse_policy *from) MUST_USE;

/* The same thresholds for every head, NAN for the default: theta .6, or -.1 when topk counts
 * the tiles (nothing should then be kept for want of similarity as well; SpargeAttn's top-k call
 * does the same), tau the method's own or .98, lambda 50. */
void policy_choose_thresholds(struct sparse_policy *p, double theta, double tau, double lambda);

/* The same thresholds for every head. */
void policy_set_thresholds(struct sparse_policy *p, float theta, float tau, float lambda);

/* "all", "none", "7", "16,32" (the guide's form: layers 16 … 31), "8-15", or a list of ranges and
 * single layers joined by "+", as in "0-3+12". ERR_ARG for layers the model lacks. */
enum status policy_set_layers(struct sparse_policy *p, const char *text) MUST_USE;
/* Canonical text of the layers that are on: "all", "none", "16-31", "0-3+12". It is read back, so
 * it is whole: the size is that of the longest, pairs of layers with gaps between them in a model
 * of as many layers as a configuration may have. */
enum { MAX_MODEL_LAYERS = 4096, LAYERS_TEXT_SIZE = 16384 };
char *policy_layers_text(const struct sparse_policy *p, char out[LAYERS_TEXT_SIZE]);

/* What a layer does in a call of `n` rows at q_start of a sequence of total_len tokens. Dense and
 * of full products where the layer is off, the sequence short, the call one token or one that
 * begins within a block, or under where_it_pays not worth it at this place (NULL: unknown, so it
 * is); p NULL is that too. Counts what its heads do, and why not, into ledger
 * [n_heads] of the layer, unless that is NULL. */
struct layer_way {
    bool sparse;           /* some head walks a tile map */
    enum precision qk, pv; /* of all of its heads */
};
struct layer_way policy_layer_way(const struct sparse_policy *p, int layer, int n, int q_start,
    int total_len, const struct call_place *at, struct head_ledger *ledger);
/* Nothing of a policy in it. */
static inline bool layer_way_is_plain(struct layer_way w) { return !w.sparse && !w.qk && !w.pv; }

/* The first layer that is on; n_layers when none is. */
int policy_first_sparse_layer(const struct sparse_policy *p);

/* "64x64", "128x64", "64x128", "128x128" */
enum status block_shape_parse(const char *text, struct block_shape *out) MUST_USE;

/* Everything that changes what is computed goes into the hash. */
void policy_hash(const struct sparse_policy *p, struct hash *h);

#endif

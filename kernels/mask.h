/* Stage 1 of sparse attention: which tiles of each head are worth computing.
 *
 * A method ranks the key blocks of one query block; the choice among the ranked ones (threshold on the
 * running probability, or a count) is common to all methods, so a new method is one file with one table.
 *
 * A key block that reaches past its query block (64x128) is pooled over all keys that are there, so with that shape a
 * prefill in chunks may rank such a block otherwise than one done at once; the other shapes cut alike.
 */
#ifndef SG_KERNELS_MASK_H
#define SG_KERNELS_MASK_H

#include "kernels/attn.h"

#include <stdbool.h>

/* How K is centred before its self-similarity is measured (METHOD 2.1). */
enum smooth_k { SMOOTH_K_RUNNING, SMOOTH_K_GLOBAL, SMOOTH_K_OFF };
const char *smooth_k_name(enum smooth_k s);
/* "running", "global" or "off"; false for anything else. */
bool smooth_k_parse(const char *text, enum smooth_k *out);

struct head_params {
    float simthreshd1; /* θ in [-1, 1]: a block is similar when its self-similarity is greater */
    float cdfthreshd;  /* τ in (0, 1]; 1 and above keep every tile */
    float pvthreshd;   /* λ in [0, 50], log2 units; 50 never skips */
    bool is_sparse;    /* false: the head runs dense */
};

struct mask_args {
    const struct attn_args *attn;      /* q, k and shapes; f32 */
    const struct head_params *heads;   /* [n_heads] */
    enum smooth_k smooth_k;
    float topk;                        /* 0: use cdfthreshd; else the fraction of possible tiles to keep */
    int window;                        /* tokens, for `window` */
};

/* The ranking of one query block. Arrays hold n = tiles_possible() entries. */
struct mask_row {
    int n;
    float *p;        /* predicted probability of each key block, 0 where not eligible; sums to 1 or is all 0 */
    uint8_t *forced; /* force_reason bits; a forced tile is kept whatever its rank */
};

struct mask_method {
    const char *name;                                                /* stable: a key in the database */
    bool ranked;                                                     /* false: every eligible tile is kept */
    const char *(*refuses)(const struct mask_args *);                /* NULL: can run */
    size_t (*workspace)(const struct mask_args *);                   /* bytes for one head, multiple of 64; pure */
    void (*prepare)(const struct mask_args *, int head, void *ws);   /* everything that no threshold changes */
    /* Rank query block i (of this call); p and forced are to be filled for out->n entries. `theta` stands in
     * for heads[head].simthreshd1 so that a tuner can ask for many. */
    void (*row)(const struct mask_args *, int head, int i, float theta, const void *ws, struct mask_row *out);
};

extern const struct mask_method mask_sparge, mask_window, mask_oracle;
/* `oracle` by masses that were made elsewhere: attn->q is no tensor but f32 [n_heads, query blocks of this call, key
 * blocks] on the host, in any unit; the other tensors are not looked at. Not in the list below. */
extern const struct mask_method mask_masses;

/* The marks every method sets: sink and diagonal. `qb` is the absolute query block. */
void mask_force_common(struct mask_row *row, struct block_shape b, int qb);

/* NULL when there is none of that name; "topk" is sparge with a count. */
const struct mask_method *mask_method_find(const char *name);
/* All of them, ended by NULL. */
extern const struct mask_method *const mask_methods[];

/* Sort the eligible key blocks of a row by falling probability, ties by lower index, into order[0 … n).
 * Returns how many are eligible (p > 0). */
int mask_order(const struct mask_row *row, int *order);
/* How many of the ordered blocks τ keeps: the largest count whose running sum is ≤ τ, at least 1, all for
 * τ ≥ 1; 0 when none is eligible. */
int mask_count(const struct mask_row *row, const int *order, int n_eligible, float tau);

/* Bytes for mask_predict with that many workers. */
size_t mask_workspace(const struct mask_method *m, const struct mask_args *a, int n_workers);
/* Fill `tiles` (shaped by tile_map_shape) and count forced tiles into a->attn->ledger when it is there.
 * Heads with is_sparse false get every possible tile and no forced counts. */
enum status mask_predict(const struct mask_method *m, const struct mask_args *a, struct tile_map *tiles,
                         void *ws, struct par *par) MUST_USE;

#endif

/* Causal attention, dense and block-sparse, with the sparsity ledger counted inside the kernel.
 *
 * One query head h reads kv head h / (n_heads / n_kv_heads). Query row r stands at position q_start
 * + r and sees keys 0 … q_start + r; n_kv = q_start + n_q. Row and key blocks are cut at absolute
 * positions, so a prefill done in chunks that start on a query block computes the same tiles as one
 * done at once.
 *
 *   dense   o = softmax(q kᵀ · scale) v                                  (flash style, never n × n)
 *   sparse  only the tiles set in `tiles`; inside them the triangle is exact in every mode
 *   window  dense, but a row sees only its last `window` keys, itself included
 *
 * METHOD n, here and elsewhere, is section n of docs/method.md, which defines all of this.
 * Sources: FlashAttention-2 (arXiv 2307.08691) for the online softmax, SpargeAttn (arXiv
 * 2502.18137) for the two-stage sparsity.
 */
#ifndef SG_KERNELS_ATTN_H
#define SG_KERNELS_ATTN_H

#include "base/par.h"
#include "base/status.h"
#include "kernels/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Tile (I, J): query rows [I·q, (I+1)·q) against keys [J·k, (J+1)·k). Offered: 128x64, 64x64,
 * 64x128, 128x128. */
struct block_shape {
    int q, k;
};
#define BLOCK_DEFAULT \
    {                 \
        128, 64       \
    }

/* λ, in log2 units: P·V is skipped where the scores are so far below the row's maximum so far.
 * The largest a head can have, which never skips. */
#define NEVER_SKIP 50

/* The unit of stage 2: this many query rows against one key block share one decision to skip P·V.
 */
enum { PV_UNIT_ROWS = 64 };

/* Why a tile was kept before any ranking. A tile may have several reasons; each is counted. */
enum force_reason { FORCE_SINK = 1, FORCE_DIAGONAL = 2, FORCE_THETA_Q = 4, FORCE_THETA_K = 8 };

/* What one head did, counted and never derived. Counters only grow; add two ledgers field by field.
 */
struct head_ledger {
    uint64_t tiles_possible;    /* under the causal triangle */
    uint64_t tiles_computed;    /* Q·Kᵀ done */
    uint64_t pv_units_possible; /* units with at least one allowed (query, key) pair */
    uint64_t pv_units_computed; /* exp and P·V done */
    uint64_t forced_sink, forced_diagonal, forced_theta_q, forced_theta_k;
    uint64_t calls_sparse;      /* head calls that walked a tile map */
    uint64_t calls_dense_head;  /* head calls dense because the policy says so for this head */
    uint64_t calls_dense_layer; /* … because the layer is outside the layer range */
    uint64_t calls_dense_short; /* … because the sequence is shorter than min_sparse_tokens */
    uint64_t calls_eight;       /* of all of these, those whose products were of eight bits */
    uint64_t tiles_corrected;   /* left-out tiles that a pseudo-key stood for */
    uint64_t calls_dense_cost;  /* dense because choosing tiles would cost more than it saves */
};

void head_ledger_add(struct head_ledger *to, const struct head_ledger *from);
/* 1 - computed / possible; 0 when nothing was possible. `sparsity` weighs both products by their
 * FLOPs, which are equal per (query, key) pair: it is 1 - (QKᵀ pairs + PV pairs) / (2 · possible
 * pairs), in tiles. */
double ledger_qk_sparsity(const struct head_ledger *l);
double ledger_pv_sparsity(const struct head_ledger *l);
double ledger_sparsity(const struct head_ledger *l);

/* Which tiles to compute: one bit per (head, query block, key block). Key block J of row (h, i) is
 * bit J % 64 of bits[(h * n_qblocks + i) * words_per_row + J / 64]. Query block i is the absolute
 * block q_start / q + i. Impossible tiles are never set; every row has its diagonal set. */
struct tile_map {
    struct block_shape block;
    int n_heads, n_qblocks, n_kblocks, words_per_row;
    uint64_t *bits; /* caller's memory, tile_map_bytes() of it */
};

/* Number of key blocks that some row of the query block `qb` (absolute) may see, for n_kv keys. */
static inline int tiles_possible(struct block_shape b, int qb, int n_kv)
{
    int last = (qb + 1) * b.q - 1;
    if (last >= n_kv) last = n_kv - 1;
    return last / b.k + 1;
}

/* Fill in the sizes for a call; bits is left alone. Pure. */
struct tile_map tile_map_shape(struct block_shape block, int n_heads, int q_start, int n_q);
size_t tile_map_bytes(const struct tile_map *m);

static inline uint64_t *tile_map_row(const struct tile_map *m, int head, int i)
{
    return m->bits + ((size_t)head * (size_t)m->n_qblocks + (size_t)i) * (size_t)m->words_per_row;
}

/* Where a call's time went, in ticks of the processor over all threads: their ratio is what means
 * something. What is in neither is packing keys and scaling queries and outputs. */
struct attn_ticks {
    uint64_t qk; /* scores, the mask, row maxima */
    uint64_t pv; /* whether to skip, exponentials, rescaling, P·V */
};

/* What a product's operands become before they are multiplied (METHOD 9). */
enum precision { PRECISION_FULL, PRECISION_INT8, PRECISION_FP8 };

struct attn_args {
    enum dtype dtype; /* of q, k, v and o */
    /* rows of this call and the position of the first */
    int n_q, q_start;
    int n_heads, n_kv_heads, head_dim;
    float scale;           /* usually 1/sqrt(head_dim) */
    const void *q, *k, *v; /* borrowed; last dimension contiguous */
    void *o;               /* may not overlap q, k, v */
    ptrdiff_t q_row, q_head, k_row, k_head, v_row, v_head, o_row, o_head; /* strides in elements */

    struct block_shape block; /* tiles are counted in this shape; q_start is a multiple of block.q
                                 when tiles != NULL */
    const struct tile_map *tiles; /* NULL: dense */
    /* A tile of a sparse head that lies wholly before its query block and is left out becomes one
     * pseudo-key: the mean of its keys, with the mean of its values, counted as often as it has
     * keys (METHOD 10; FlashPrefill V2, arXiv 2608.19758). It takes no part in stage 2. */
    bool correct_mean;
    /* [n_heads]; 0 means this head is dense. NULL: all follow `tiles` */
    const uint8_t *head_sparse;
    const float *pv_threshold; /* [n_heads], λ in log2 units, METHOD 3; NULL, or no tiles: never
                                  skip P·V. A row whose sum is still empty is never skipped. */
    /* [n_heads], counted into (tile and PV counters only); may be NULL */
    struct head_ledger *ledger;
    const int32_t
        *q_start_at; /* attn_decode_cuda_bf16 alone: device memory where it finds q_start when it
                        runs, so that a captured graph serves every step; NULL: q_start */
    int window;      /* > 0: a row at position p sees keys p - window + 1 … p alone; a model's own
                        sliding window, dense calls only. Tiles wholly before it are not possible */
    enum precision qk, pv; /* of Q·Kᵀ and of P·V, which is never int8; PRECISION_FULL: dtype's own.
                              Eight bits start on a unit of PV_UNIT_ROWS */
    /* added to on the CPU; NULL: not timed. A device overlaps the two: left alone */
    struct attn_ticks *ticks;
};

/* The number of keys the call sees. */
static inline int attn_n_kv(const struct attn_args *a) { return a->q_start + a->n_q; }

/* The first key that the row at `position` sees. */
static inline int attn_first_key(const struct attn_args *a, int position)
{
    return a->window > 0 && position >= a->window ? position - a->window + 1 : 0;
}

/* Tiles wholly before the first row of query block `qb` (absolute): those that may be corrected. */
static inline int tiles_before(struct block_shape b, int qb) { return qb * b.q / b.k; }

static inline bool attn_is_full(const struct attn_args *a)
{
    return a->qk == PRECISION_FULL && a->pv == PRECISION_FULL;
}

struct stream; /* of a device; NULL on the CPU */

/* One implementation. The engine takes the first in the registry that does not refuse. */
struct attn_impl {
    const char *name; /* stable: a key in the database */
    /* NULL: can run; else the reason, static text */
    const char *(*refuses)(const struct attn_args *);
    size_t (*workspace)(const struct attn_args *); /* bytes, 64-byte aligned; pure */
    enum status (*run)(const struct attn_args *, void *ws, struct par *par, struct stream *stream);
};

/* why kernels with products of eight bits refuse a corrected call, and all that have no body for it
 */
#define ATTN_CORRECTS_FULL "left-out tiles are corrected with products of full precision only"
#define ATTN_CORRECTS_NOT "does not correct what is left out"

/* fp64 arithmetic on f32 data, one row at a time, following the definition to the letter. */
extern const struct attn_impl attn_ref;
extern const struct attn_impl attn_cpu_avx512;
extern const struct attn_impl attn_cpu_avx2;
extern const struct attn_impl attn_cpu_base; /* the same body for any x86-64 */

#endif

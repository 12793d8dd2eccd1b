/* What the files of curve_cuda share: the sizes of a call, where its arrays stand, and the order of
 * its launches. */
#ifndef SG_KERNELS_CUDA_CURVE_CUDA_CUH
#define SG_KERNELS_CUDA_CURVE_CUDA_CUH

extern "C" {
#include "kernels/cuda/curve_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"

#include <cuda_bf16.h>

enum {
    CURVE_THREADS = 256,
    CURVE_WARPS = CURVE_THREADS / 32,
    CURVE_MAX_KBLOCKS = 1024,
    CURVE_ALL_KEPT = 255, /* in first_theta: every tile is forced */
    /* floats in front of the largest row errors: Σ|diff|, Σdiff², Σõ², tiles kept */
    CURVE_RECORD = 4
};

/* Heads are counted in the caller's list ("listed"), and a launch covers listed heads [head0, head0
 * + n_heads) and query blocks [block0, block0 + n_blocks). A walk merges tiles of one (head, query
 * block) in some order for one slab of its rows; what it finds after each step is a record. */
struct curve_params {
    int n, d, group, n_kv_heads, bq, bk, n_qblocks, n_kblocks;
    const __nv_bfloat16 *q, *k, *v, *o;
    ptrdiff_t q_row, q_head, k_row, k_head, v_row, v_head, o_row, o_head;
    float scale;
    enum smooth_k smooth;
    /* What tiles are made of, with the strides of q, k and v: those, or of eight bits the numbers
     * that these stand for, exact in bf16. q_scale [n_heads, n_scales] and k_scale [n_kv_heads,
     * n_scales] belong to int8 and blocks of 64 rows; NULL: 1 */
    const __nv_bfloat16 *tile_q, *tile_k, *tile_v;
    const float *q_scale, *k_scale;
    int n_scales;
    bool eight, p_e4m3; /* any product of eight bits; P too */

    const int *heads;      /* [listed]; NULL: all, in order */
    float *q_mean, *q_sim; /* [listed, n_qblocks, d], [listed, n_qblocks] */
    /* [n_kv_heads, n_kblocks, d] twice, [n_kv_heads, n_kblocks] */
    float *k_mean, *k_centre, *k_sim;
    float *score;         /* [listed, n_qblocks, n_kblocks] */
    uint8_t *first_theta; /* [listed, n_qblocks, N_THETAS]: the first θ that marks the block's
                             tiles alike, or CURVE_ALL_KEPT; NULL: lists are not θ */
    int part;             /* of the method, by which all lists are ranked unless pairs say */
    const float *masses[MAX_MASK_PARTS]; /* [n_heads, n_qblocks, n_kblocks] that a part ranks by;
                                            NULL: as sparge */
    bool relative[MAX_MASK_PARTS];       /* its rule is max-relative, else top-p */
    float *exact, *row_abs, *row_sq;     /* [n_heads, n, d], [n_heads, n] */
    double *block_sq, *head_norms;       /* [n_heads, n_qblocks], [n_heads, 2]: Σ|o|, Σo² */

    int head0, n_heads, block0, n_blocks;

    int lists, points; /* θ × τ, or pairs × λ */
    float taus[N_TAUS];
    const struct threshold_pair *pairs; /* [listed, MAX_LAMBDA_PAIRS] */
    const int *n_pairs;                 /* [listed]; NULL: all lists are in use */
    /* n_top: row errors in a record; n_largest: wanted of a head */
    int slabs, slab_rows, max_steps, n_top, n_largest;
    char *room;       /* of records and step_of; before them, of what masses are made with */
    float *records;   /* [heads, blocks, lists, slabs, max_steps, CURVE_RECORD + n_top] */
    uint8_t *step_of; /* [heads, blocks, lists, slabs, points]; NULL: one step */

    double *sums;   /* [listed, lists, 3, points] */
    uint32_t *kept; /* [listed, lists, points] */
    float *largest; /* [listed, lists, n_largest, points], ascending */
    double tail_at;
    int tail_low;
    char *out; /* curve_point of (head, list, point) */
    /* bytes between heads, lists, and in front of a list's points */
    size_t out_head, out_list, out_first;
};

__host__ __device__ inline int curve_tiles(const curve_params &p, int block)
{
    int end = (block + 1) * p.bq;
    return ((end < p.n ? end : p.n) - 1) / p.bk + 1;
}

/* Tiles of the query blocks before this one, all of which are whole. */
__host__ __device__ inline size_t curve_tiles_before(int bq, int bk, int block)
{
    size_t i = (size_t)block;
    if (bq >= bk) return (size_t)(bq / bk) * (i * (i + 1) / 2);
    return i ? i + (i - 1) * (i - 1) / 4 : 0; /* 64x128: two blocks share their last tile */
}

__device__ __forceinline__ int curve_head(const curve_params &p, int listed)
{
    return p.heads != NULL ? p.heads[listed] : listed;
}

__device__ __forceinline__ size_t curve_record_index(
    const curve_params &p, int listed, int block, int list, int slab)
{
    const size_t row = (size_t)(listed - p.head0) * (size_t)p.n_blocks + (size_t)(block - p.block0);
    return (row * (size_t)p.lists + (size_t)list) * (size_t)p.slabs + (size_t)slab;
}

__device__ __forceinline__ float curve_warp_sum(float x)
{
    for (int m = 16; m > 0; m /= 2) x += __shfl_xor_sync(0xffffffffu, x, m);
    return x;
}

/* What curve_cuda_eight() writes; members of full products are the call's own. */
struct curve_eight {
    __nv_bfloat16 *q, *k, *v;
    float *q_scale, *k_scale; /* [heads, n_blocks] */
    int n_blocks;             /* of 64 rows */
    size_t bytes;
};
curve_eight curve_cuda_cut_eight(const struct attn_args *kept, char *base);

/* Every launch of a stage, in order. curve_cuda_pool: what sparge ranks by. */
enum status curve_cuda_pool(const curve_params &p, int n_listed, cudaStream_t stream) MUST_USE;
/* exact and its norms */
enum status curve_cuda_dense(const curve_params &p, int n_heads, cudaStream_t stream) MUST_USE;
enum status curve_cuda_walk(const curve_params &p, bool lambda, cudaStream_t stream) MUST_USE;
/* o against exact, as one step */
enum status curve_cuda_compare_rows(const curve_params &p, cudaStream_t stream) MUST_USE;
enum { CURVE_COMPARE_ROWS = 64 };

#endif

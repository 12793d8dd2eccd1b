/* What the two portable kernels, attn_cuda.cu and attn_eight_cuda.cu, share: a CTA that has taken
 * one unit of 64 query rows, how its rows end, and calls that both refuse. */
#ifndef SG_KERNELS_CUDA_UNIT_CUDA_CUH
#define SG_KERNELS_CUDA_UNIT_CUDA_CUH

extern "C" {
#include "kernels/attn.h"
}
#include "kernels/cuda/mma.cuh"

/* A thread's two rows, `row` and the one eight below, over their sums: o is a lane's part of a
 * product of 16 rows, in tiles of eight columns. All lanes of the warp. */
template <int TILES>
__device__ __forceinline__ void store_rows(const struct attn_args &a, int head, int row,
    const bool (&valid)[2], float (&sum)[2], const float (&o)[TILES][4])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        if (!valid[r]) continue;
        float inverse = 1.0f / sum[r]; /* every row has its own key */
        auto *to = (__nv_bfloat16 *)a.o + head * a.o_head + (row + 8 * r - a.q_start) * a.o_row;
#pragma unroll
        for (int n = 0; n < TILES; n++)
            if (n * 8 < a.head_dim)
                *(uint32_t *)(to + n * 8 + threadIdx.x % 4 * 2) =
                    pack(o[n][2 * r] * inverse, o[n][2 * r + 1] * inverse);
    }
}

/* One thread of the CTA whose rows end with `last`: how many key blocks they see, how many were
 * computed, how many of those were multiplied with V, and how many were left to their means. */
__device__ __forceinline__ void count_unit(const struct attn_args &a, int head, int last,
    int possible, int tiles, int units, int corrected)
{
    auto add = [](uint64_t *to, int by) {
        atomicAdd((unsigned long long *)to, (unsigned long long)by);
    };
    struct head_ledger *l = &a.ledger[head];
    add(&l->pv_units_possible, possible);
    add(&l->pv_units_computed, units);
    /* the unit that sees all of its query block's tiles */
    if (last == a.q_start + a.n_q - 1 || (last + 1) % a.block.q == 0) {
        add(&l->tiles_possible, possible);
        add(&l->tiles_computed, tiles);
        add(&l->tiles_corrected, corrected);
    }
}

inline const char *portable_refuses(const struct attn_args *a)
{
    if (a->n_heads % a->n_kv_heads != 0) return "query heads are not a multiple of kv heads";
    if (a->n_heads > 65535) return "more than 65535 heads";
    if (!(a->scale > 0)) return "scale is not positive";
    if ((a->block.q != 64 && a->block.q != 128) || (a->block.k != 64 && a->block.k != 128))
        return "blocks are not 64 or 128 rows and keys";
    if (a->tiles != NULL && (a->tiles->block.q != a->block.q || a->tiles->block.k != a->block.k))
        return "block shape of the call and of its map differ";
    if (a->tiles != NULL && a->q_start % a->block.q != 0)
        return "q_start is not a multiple of the query block";
    if (a->tiles != NULL && a->window > 0) return "a windowed call is dense";
    if ((uintptr_t)a->q % 16 || (uintptr_t)a->k % 16 || (uintptr_t)a->v % 16 ||
        (uintptr_t)a->o % 4 || a->q_row % 8 || a->q_head % 8 || a->k_row % 8 || a->k_head % 8 ||
        a->v_row % 8 || a->v_head % 8 || a->o_row % 2 || a->o_head % 2)
        return "pointers and strides are not multiples of 16 bytes";
    return NULL;
}

#endif

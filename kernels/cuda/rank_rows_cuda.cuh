/* One row of the map from the masses of its tiles, by a warp. Private to the .cu files. */
#ifndef SG_KERNELS_CUDA_RANK_ROWS_CUDA_CUH
#define SG_KERNELS_CUDA_RANK_ROWS_CUDA_CUH

#include "kernels/cuda/mask_rows_cuda.cuh"
#include "kernels/cuda/rank_cuda.cuh"

namespace mask_cuda
{

/* Pools of a block: 0 mean, 1 root mean square (its square), 2 largest. */
__device__ __forceinline__ float joined(int join, float all, float mass)
{
    return join == 0 ? all + mass : join == 1 ? fmaf(mass, mass, all) : fmaxf(all, mass);
}

__device__ __forceinline__ int tiles_seen(const rank_params &p, int block)
{
    return (min(p.q_start + (block + 1) * p.block_q, p.n_kv) - 1) / p.block_k + 1;
}

/* mass[n], the largest of them `top`, becomes its ranks; of a head that runs dense it is not read.
 * `list` has room for FEW. */
__device__ __forceinline__ void choose_row(const rank_params &p, int head, int block, int n,
    const struct head_params &t, float *mass, float top, float *list)
{
    const int lane = threadIdx.x % 32, diagonal = (p.q_start + block * p.block_q) / p.block_k;
    choice c = {0, 0};
    if (t.is_sparse) {
        float total = 0;
        uint32_t low = __float_as_uint(1.0f);
        for (int j = lane; j < n; j += 32) {
            const float x = fmaxf(mass[j] / top, FLT_MIN);
            mass[j] = x;
            total += x;
            low = min(low, __float_as_uint(x));
        }
        total = warp_sum(total), low = __reduce_min_sync(0xffffffffu, low);
        __syncwarp();
        if (p.topk > 0) c = choose<true>(mass, n, n, (float)topk_count(p.topk, n), low, list);
        else if (t.tau >= 1) c.bound = low;
        else if (p.relative) c.bound = __float_as_uint(1 - t.tau);
        else c = choose<false>(mass, n, n, t.tau * total, low, list);
    }
    write_bits(p.bits + ((size_t)head * p.n_qblocks + block) * p.words, p.words, n, t.is_sparse,
        mass, c, diagonal, false);
    if (lane == 0 && t.is_sparse && p.ledger != NULL) {
        atomicAdd((unsigned long long *)&p.ledger[head].forced_sink, 1ull);
        atomicAdd((unsigned long long *)&p.ledger[head].forced_diagonal,
            (unsigned long long)(n - diagonal));
    }
}

} // namespace mask_cuda

#endif

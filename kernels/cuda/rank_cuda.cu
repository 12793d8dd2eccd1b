#include "kernels/cuda/mma_ptx.cuh"
#include "kernels/cuda/rank_rows_cuda.cuh"

namespace
{

using mask_cuda::FEW;
using mask_cuda::joined;

enum { WARPS = 4, THREADS = WARPS * 32 };

/* The logarithm of a pool's whole sum. */
__device__ __forceinline__ float row_norm(const rank_params &p, int head, int pool)
{
    const float *parts = p.norms + (size_t)head * p.n_pools + pool;
    const size_t apart = (size_t)p.n_heads * p.n_pools;
    if (p.splits == 1) return parts[0];
    float most = -INFINITY, sum = 0;
    for (int i = 0; i < p.splits; i++) most = fmaxf(most, parts[i * apart]);
    for (int i = 0; i < p.splits; i++) sum += exp2f(parts[i * apart] - most);
    return most + log2f(sum);
}

/* What a tile holds for the rows of a block. */
__device__ __forceinline__ float tile_mass(
    const rank_params &p, const float *sums, const float *norms, int pools)
{
    float all = 0;
    if (p.pools % 4 == 0 && pools == p.pools) {
#pragma unroll 2
        for (int r = 0; r < p.pools; r += 4) {
            const float4 x = *(const float4 *)(sums + r);
            all = joined(p.join, all, exp2_fast(x.x - norms[r]));
            all = joined(p.join, all, exp2_fast(x.y - norms[r + 1]));
            all = joined(p.join, all, exp2_fast(x.z - norms[r + 2]));
            all = joined(p.join, all, exp2_fast(x.w - norms[r + 3]));
        }
    } else {
        for (int r = 0; r < pools; r++) all = joined(p.join, all, exp2_fast(sums[r] - norms[r]));
    }
    return p.join == 1 ? sqrtf(all) : all;
}

/* One row of the map. */
__global__ __launch_bounds__(THREADS) void rank_rows(const __grid_constant__ rank_params p)
{
    extern __shared__ __align__(16) float mass[];
    __shared__ float norms[64], tops[WARPS], list[FEW];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y;
    const int block = p.first + (int)blockIdx.x, pool0 = block * p.pools,
              pools = min(p.pools, p.n_pools - pool0);
    const int n = mask_cuda::tiles_seen(p, block);
    const size_t at = (size_t)head * p.n_qblocks + block;
    struct head_params t = {0, 1, 50, true, (uint8_t)p.part, 0, 0};
    if (p.heads != NULL) t = p.heads[head];
    if (t.part != p.part)
        return; /* another predictor's; a head that runs dense is the first part's, below */
    float top = 0;
    if (t.is_sparse) {
        const float *sums =
            p.sums + ((size_t)head * p.n_blocks + blockIdx.x) * p.n_kblocks * p.pools;
        const float *given = p.given + at * p.n_kblocks;
        if (p.given == NULL && (int)threadIdx.x < pools)
            norms[threadIdx.x] = row_norm(p, head, pool0 + (int)threadIdx.x);
        __syncthreads();
        for (int j = threadIdx.x; j < n; j += THREADS) {
            const float x =
                p.given != NULL ? given[j] : tile_mass(p, sums + (size_t)j * p.pools, norms, pools);
            mass[j] = x;
            top = fmaxf(top, x);
        }
        top = mask_cuda::warp_max(top);
        if (lane == 0) tops[warp] = top;
        __syncthreads();
        top = fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3]));
        if (p.mass != NULL) {
            for (int j = threadIdx.x; j < n; j += THREADS)
                p.mass[at * p.n_kblocks + j] = fmaxf(mass[j] / top, FLT_MIN);
            return;
        }
    }
    if (warp == 0) mask_cuda::choose_row(p, head, block, n, t, mass, top, list);
}

} // namespace

const char *rank_cuda_refuses(const struct mask_cuda_args *m, const struct mask_method *method)
{
    const struct mask_rule *rule = mask_rule_of(method);
    if (!(m->topk > 0) && rule != &rule_relative && rule != &rule_top_p)
        return "the device knows the rules top-p and max-relative";
    return m->attn->n_heads > 65535 ? "more than 65535 heads" : NULL;
}

struct rank_params rank_cuda_params(const struct mask_cuda_args *m,
    const struct mask_method *method, int part, const struct tile_map *tiles)
{
    const struct attn_args *a = m->attn;
    rank_params p = {};
    p.n_q = a->n_q, p.n_kv = attn_n_kv(a), p.q_start = a->q_start, p.n_heads = a->n_heads;
    p.block_q = a->block.q, p.block_k = a->block.k;
    p.n_qblocks = (p.n_q + p.block_q - 1) / p.block_q,
    p.n_kblocks = (p.n_kv + p.block_k - 1) / p.block_k;
    p.n_blocks = p.n_qblocks;
    p.heads = m->heads, p.part = part, p.ledger = a->ledger;
    p.topk = mask_decimal(m->topk), p.relative = mask_rule_of(method) == &rule_relative;
    if (tiles != NULL) p.bits = (uint32_t *)tiles->bits, p.words = tiles->words_per_row * 2;
    return p;
}

enum status rank_cuda_rows(const struct rank_params &p, cudaStream_t stream)
{
    const size_t room = sizeof(float) * (size_t)p.n_kblocks;
    CUDA_TRY(
        cudaFuncSetAttribute(rank_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    rank_rows<<<dim3((unsigned)p.n_blocks, (unsigned)p.n_heads), THREADS, room, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

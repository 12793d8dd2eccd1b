/* The predictor `bound` on the device: what its kernels are told, and how a warp pools the keys of
 * a sub-block or the queries of a pool. Private to the .cu files; the order of every sum is that of
 * kernels/mask/mask_bound.c.
 */
#ifndef SG_KERNELS_CUDA_BOUND_POOL_CUDA_CUH
#define SG_KERNELS_CUDA_BOUND_POOL_CUDA_CUH

extern "C" {
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/mma.cuh"

#include <math.h>

namespace bound_cuda
{

enum { HELD = 8, MOST_GROUPS = 16 };
constexpr uint32_t ALL = 0xffffffffu;

struct params {
    int n_q, n_kv, q_start, n_heads, n_kv_heads, group, block_q, d;
    int n_groups, wide; /* of channels; a pooled vector: d, the groups, zeros */
    int row_tokens, col_tokens, n_rows, n_cols, per_tile, n_kblocks, pools, join;
    int first_row; /* absolute number of the pool that is row 0 */
    int from, end; /* pools of the rows of the map that are being made */
    float scale_log2, width;
    int part, deviation;
    ptrdiff_t q_row, q_head, k_row, k_head;
    const __nv_bfloat16 *q, *k;
    __nv_bfloat16 *centres; /* [n_kv_heads, n_cols, wide] */
    __nv_bfloat16 *means;   /* [n_heads, n_rows, wide] */
    float *sums;  /* [n_heads, (end - from) / pools, n_kblocks, pools] log2 of the sum of 2^score */
    float *norms; /* [splits, n_heads, n_rows] the same of a split of the row */
    int splits;
    const struct head_params *heads; /* NULL: all heads are wanted */
};

__device__ __forceinline__ bool is_mine(const params &p, int head)
{
    return p.heads == NULL || (p.heads[head].is_sparse && p.heads[head].part == p.part);
}

__device__ __forceinline__ int cols_seen(const params &p, int row)
{
    return min(((p.first_row + row + 1) * p.row_tokens - 1) / p.col_tokens + 1, p.n_cols);
}

/* Up to HELD steps of rows on their way through a warp: PER lanes to a row of at most 8 PER
 * channels, eight to a lane. */
template <int PER> struct steps {
    static constexpr int AT_ONCE = 32 / PER;
    uint4 x[HELD];
    __device__ __forceinline__ void load(
        const __nv_bfloat16 *from, ptrdiff_t row, int first, int n, bool there)
    {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const int r = first + i * AT_ONCE + (int)(threadIdx.x % 32) / PER;
            x[i] = there && r < n ? *(const uint4 *)(from + r * row) : make_uint4(0, 0, 0, 0);
        }
    }
    __device__ __forceinline__ void widen(int i, float (&e)[8]) const
    {
        const uint32_t w[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
#pragma unroll
        for (int c = 0; c < 4; c++)
            e[2 * c] = __uint_as_float(w[c] << 16),
                  e[2 * c + 1] = __uint_as_float(w[c] & 0xffff0000u);
    }
    __device__ __forceinline__ bool real(int i, int first, int n) const
    {
        return first + i * AT_ONCE + (int)(threadIdx.x % 32) / PER < n;
    }
};

template <int PER, typename JOIN>
__device__ __forceinline__ void across_rows(float (&x)[8], JOIN join)
{
#pragma unroll
    for (int m = PER; m < 32; m *= 2)
#pragma unroll
        for (int c = 0; c < 8; c++) x[c] = join(x[c], __shfl_xor_sync(0xffffffffu, x[c], m));
}

__device__ __forceinline__ void store(__nv_bfloat16 *to, const float (&x)[8])
{
    *(uint4 *)to =
        make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}

/* Centre and reach of one sub-block of keys, in all lanes of a column. */
template <int PER>
__device__ __forceinline__ void spread(const params &p, const __nv_bfloat16 *from, int n,
    bool there, float (&centre)[8], float (&reach)[8])
{
    constexpr int ROUND = HELD * steps<PER>::AT_ONCE;
    const auto add = [](float a, float b) { return a + b; };
    steps<PER> s;
    float e[8];
#pragma unroll
    for (int c = 0; c < 8; c++)
        centre[c] = p.deviation ? 0 : -INFINITY, reach[c] = p.deviation ? 0 : INFINITY;
    for (int first = 0; first < n; first += ROUND) {
        s.load(from, p.k_row, first, n, there);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            s.widen(i, e);
            if (!s.real(i, first, n)) continue;
#pragma unroll
            for (int c = 0; c < 8; c++) {
                if (p.deviation) centre[c] += e[c];
                else centre[c] = fmaxf(centre[c], e[c]), reach[c] = fminf(reach[c], e[c]);
            }
        }
    }
    if (!p.deviation) { /* highest and lowest */
        across_rows<PER>(centre, [](float a, float b) { return fmaxf(a, b); });
        across_rows<PER>(reach, [](float a, float b) { return fminf(a, b); });
#pragma unroll
        for (int c = 0; c < 8; c++) {
            const float most = centre[c], least = reach[c];
            centre[c] = (most + least) / 2, reach[c] = (most - least) / 2;
        }
        return;
    }
    across_rows<PER>(centre, add);
#pragma unroll
    for (int c = 0; c < 8; c++) centre[c] /= (float)n;
    for (int first = 0; first < n; first += ROUND) {
        if (n > ROUND) s.load(from, p.k_row, first, n, there);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            s.widen(i, e);
            if (!s.real(i, first, n)) continue;
#pragma unroll
            for (int c = 0; c < 8; c++) reach[c] += (e[c] - centre[c]) * (e[c] - centre[c]);
        }
    }
    across_rows<PER>(reach, add);
#pragma unroll
    for (int c = 0; c < 8; c++) reach[c] = sqrtf(reach[c] / (float)n);
}

/* What channels of a group have together, in the order in which the CPU adds: c and c + d/2 turn
 * together. By one lane. */
__device__ __forceinline__ float group_sum(const params &p, const float *of_channel, int group)
{
    const int per = p.n_groups == p.d ? 1 : p.d / 2 / p.n_groups;
    float sum = 0;
    for (int c = group * per; c < (group + 1) * per; c++) sum += of_channel[c];
    if (p.n_groups < p.d)
        for (int c = p.d / 2 + group * per; c < p.d / 2 + (group + 1) * per; c++)
            sum += of_channel[c];
    return sum;
}

__device__ __forceinline__ float rounded(float x)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

/* A sub-block of keys by a warp, which has room for a vector in `of_channel`. */
template <int PER>
__device__ __forceinline__ void pool_keys(
    const params &p, int kv, int col, float *of_channel, __nv_bfloat16 *to)
{
    const int lane = threadIdx.x % 32, at = lane % PER * 8,
              n = min(p.col_tokens, p.n_kv - col * p.col_tokens);
    const bool there = at < p.d, writes = there && lane < PER;
    float centre[8], reach[8];
    spread<PER>(p, p.k + kv * p.k_head + (ptrdiff_t)col * p.col_tokens * p.k_row + at, n, there,
        centre, reach);
    if (writes) {
#pragma unroll
        for (int c = 0; c < 8; c++) of_channel[at + c] = reach[c];
        store(to + at, centre);
    }
    __syncwarp();
    for (int g = lane; g < p.wide - p.d; g += 32) {
        float sum = g < p.n_groups ? group_sum(p, of_channel, g) : 0;
        sum = __fdiv_rn(__fmul_rn(__fmul_rn(sum, p.width), (float)p.n_groups), (float)p.d);
        to[p.d + g] = __float2bfloat16_rn(sum);
    }
    __syncwarp();
}

/* A pool of queries in the same way. */
template <int PER>
__device__ __forceinline__ void pool_queries(
    const params &p, int head, int row, float *of_channel, __nv_bfloat16 *to)
{
    const int lane = threadIdx.x % 32, at = lane % PER * 8,
              n = min(p.row_tokens, p.n_q - row * p.row_tokens);
    const bool there = at < p.d, writes = there && lane < PER;
    const __nv_bfloat16 *from =
        p.q + head * p.q_head + (ptrdiff_t)row * p.row_tokens * p.q_row + at;
    steps<PER> s;
    float x[8];
#pragma unroll
    for (int c = 0; c < 8; c++) x[c] = 0;
    for (int first = 0; first < n; first += HELD * steps<PER>::AT_ONCE) {
        s.load(from, p.q_row, first, n, there);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            float e[8];
            s.widen(i, e);
#pragma unroll
            for (int c = 0; c < 8; c++) x[c] += e[c];
        }
    }
    across_rows<PER>(x, [](float a, float b) { return a + b; });
#pragma unroll
    for (int c = 0; c < 8; c++) {
        x[c] /= (float)n;
        if (writes) of_channel[at + c] = fabsf(rounded(x[c]));
    }
    if (writes) store(to + at, x);
    __syncwarp();
    for (int g = lane; g < p.wide - p.d; g += 32)
        to[p.d + g] = __float2bfloat16_rn(g < p.n_groups ? group_sum(p, of_channel, g) : 0);
    __syncwarp();
}

} // namespace bound_cuda

#endif

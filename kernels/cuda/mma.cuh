/* Tiles of bf16 on their way to the tensor cores and through them. Private to the .cu files. */
#ifndef SG_KERNELS_CUDA_MMA_CUH
#define SG_KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/mma_ptx.cuh"

#include <cuda_bf16.h>
#include <stddef.h>
#include <stdint.h>

__device__ __forceinline__ uint32_t pack(float lo, float hi)
{
    __nv_bfloat162 x = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&x;
}

/* The CTA copies rows [first, first + count) of d elements into shared rows of DIM + 8, one 16-byte
 * step aside per row, so that ldmatrix meets no bank conflict; zeros outside [low, high) and d. */
template <int DIM, int THREADS>
__device__ void fetch(__nv_bfloat16 *to, const __nv_bfloat16 *from, ptrdiff_t stride, int first,
    int count, int low, int high, int d)
{
    for (int i = threadIdx.x; i < count * (DIM / 8); i += THREADS) {
        int r = i / (DIM / 8), c = i % (DIM / 8) * 8, at = first + r;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (at >= low && at < high && c < d) v = *(const uint4 *)(from + at * stride + c);
        *(uint4 *)(to + r * (DIM + 8) + c) = v;
    }
}

/* s += a warp's 16 rows of q times the KEYS rows of k, in the fragments of `multiply`; both lie as
 * fetch() left them. */
template <int DIM, int KEYS>
__device__ __forceinline__ void multiply_keys(
    float (&s)[KEYS / 8][4], const __nv_bfloat16 *q, const __nv_bfloat16 *k, int lane)
{
    constexpr int LINE = DIM + 8;
#pragma unroll
    for (int d = 0; d < DIM; d += 16) {
        uint32_t a[4];
        load_matrices(a, q + lane % 16 * LINE + d + lane / 16 * 8);
#pragma unroll
        for (int n = 0; n < KEYS; n += 16) {
            uint32_t b[4];
            load_matrices(b, k + (n + lane % 8 + lane / 16 * 8) * LINE + d + lane / 8 % 2 * 8);
            multiply(s[n / 8], a, b[0], b[1]);
            multiply(s[n / 8 + 1], a, b[2], b[3]);
        }
    }
}

/* o += p, rounded to bf16, times the KEYS rows of v: p in the fragments that multiply_keys leaves.
 */
template <int DIM, int KEYS>
__device__ __forceinline__ void multiply_values(
    float (&o)[DIM / 8][4], const float (&p)[KEYS / 8][4], const __nv_bfloat16 *v, int lane)
{
    constexpr int LINE = DIM + 8;
#pragma unroll
    for (int n = 0; n < KEYS; n += 16) {
        const uint32_t a[4] = {pack(p[n / 8][0], p[n / 8][1]), pack(p[n / 8][2], p[n / 8][3]),
            pack(p[n / 8 + 1][0], p[n / 8 + 1][1]), pack(p[n / 8 + 1][2], p[n / 8 + 1][3])};
#pragma unroll
        for (int d = 0; d < DIM; d += 16) {
            uint32_t b[4];
            load_transposed(b, v + (n + lane % 16) * LINE + d + lane / 16 * 8);
            multiply(o[d / 8], a, b[0], b[1]);
            multiply(o[d / 8 + 1], a, b[2], b[3]);
        }
    }
}

#endif

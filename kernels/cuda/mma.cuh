/* Tensor cores of compute capability 8.0 and up: 16 x 8 x 16 products of bf16 by one warp, and
 * tiles on their way there. Private to the .cu files. */
#ifndef SG_KERNELS_CUDA_MMA_CUH
#define SG_KERNELS_CUDA_MMA_CUH

#include <cuda_bf16.h>
#include <stddef.h>
#include <stdint.h>

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const __nv_bfloat16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], const __nv_bfloat16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

/* c[16 x 8] += a[16 x 16] b[16 x 8] */
__device__ __forceinline__ void multiply(
    float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, "
                 "%6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The larger of two, NaN when one of them is: fmaxf would pass over it. */
__device__ __forceinline__ float max_nan(float x, float y)
{
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}

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

/* Attention as defined, one thread a row, for check_kernels_cuda: in fp64 (the truth), and in fp32
 * with bf16 probabilities (the plain path of the same precision, which calibrates the tolerance).
 * Eight-bit calls come with q, k and v in f32 as their eight bits stand for. */
#ifndef SG_TESTS_KERNELS_CUDA_REFERENCE_CUH
#define SG_TESTS_KERNELS_CUDA_REFERENCE_CUH

extern "C" {
#include "kernels/attn.h"
}
#include <cuda_bf16.h>
#include <cuda_fp8.h>

struct reference_args {
    struct attn_args a;
    const uint64_t *bits;
    int words_per_row, n_qblocks;
};

/* Element i of q, k or v, which are bf16 or, where they stand for eight bits, f32. */
__device__ static float number(const struct attn_args &a, const void *x, ptrdiff_t i)
{
    return a.dtype == DTYPE_F32 ? ((const float *)x)[i]
                                : __bfloat162float(((const __nv_bfloat16 *)x)[i]);
}

__device__ static float e4m3(float x)
{
    __half_raw h =
        __nv_cvt_fp8_to_halfraw(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3), __NV_E4M3);
    return __half2float(__half(h));
}

/* By how much a score in log2 units may differ that another kernel makes of the same numbers:
 * products of e4m3 are added up in some 14 bits on a GPU. */
constexpr double ROUNDING = 1e-4, FP8_ROUNDING = 4e-3;

/* out [n_heads, n_q, d] of REAL; unsure [n_heads, n_q]: 1 where a stage-2 decision is within
 * rounding of its bound, 0 elsewhere; done [n_heads]: units computed. One CTA per (unit, head), one
 * thread per row. */
template <typename REAL, bool PLAIN>
__global__ void reference_kernel(const __grid_constant__ reference_args x, double *out,
    uint8_t *unsure, unsigned long long *done)
{
    const struct attn_args &a = x.a;
    const int d = a.head_dim, n_kv = a.q_start + a.n_q, h = blockIdx.y;
    const int unit0 = (a.q_start / PV_UNIT_ROWS + (int)blockIdx.x) * PV_UNIT_ROWS;
    const int pos = unit0 + (int)threadIdx.x, row = pos - a.q_start;
    const bool valid = row >= 0 && row < a.n_q;
    const int last = min(unit0 + PV_UNIT_ROWS, n_kv) - 1;
    const int kv = h / (a.n_heads / a.n_kv_heads);
    const ptrdiff_t q = row * a.q_row + h * a.q_head, k = kv * a.k_head, v = kv * a.v_head;
    const bool sparse = x.bits != NULL && (a.head_sparse == NULL || a.head_sparse[h]);
    const uint64_t *bits = NULL;
    if (sparse)
        bits =
            x.bits + ((size_t)h * x.n_qblocks + (unit0 - a.q_start) / a.block.q) * x.words_per_row;

    REAL o[256], m = -INFINITY, l = 0;
    for (int i = 0; i < d; i++) o[i] = 0;
    bool doubt = false;
    for (int j = 0; j * a.block.k <= last; j++) {
        if (sparse && !(bits[j / 64] >> (j % 64) & 1)) continue;
        int k0 = j * a.block.k, k1 = min(k0 + a.block.k, n_kv);
        REAL local = -INFINITY;
        REAL score[128];
        for (int c = k0; c < k1 && valid; c++) {
            REAL dot = 0;
            for (int i = 0; i < d; i++)
                dot += (REAL)number(a, a.q, q + i) * (REAL)number(a, a.k, k + c * a.k_row + i);
            score[c - k0] = c <= pos ? dot * (REAL)a.scale : (REAL)-INFINITY;
            local = fmax(local, score[c - k0]);
        }
        REAL top = fmax(m, local);
        REAL margin = valid ? INFINITY : -INFINITY;
        if (sparse && a.pv_threshold != NULL && l > 0 && valid)
            margin = local > -INFINITY
                ? (local - top) * (REAL)1.4426950408889634 + (REAL)a.pv_threshold[h]
                : (REAL)-INFINITY;
        /* One row is enough for the unit, so there is doubt where none is sure and one may be. */
        const REAL rounding = a.qk == PRECISION_FP8 ? (REAL)FP8_ROUNDING : (REAL)ROUNDING;
        bool live = __syncthreads_or(margin > 0), sure = __syncthreads_or(margin > rounding);
        doubt |= __syncthreads_or(margin > -rounding) && !sure;
        if (threadIdx.x == 0 && live && done != NULL) atomicAdd(&done[h], 1ull);
        if (!valid || top == -INFINITY) continue;
        REAL shrink = PLAIN ? (REAL)expf(m - top) : (REAL)exp((double)(m - top));
        m = top;
        if (shrink != 1) {
            l *= shrink;
            for (int i = 0; i < d; i++) o[i] *= shrink;
        }
        REAL power = 0; /* METHOD 9: e4m3 under a power of two of each row and 64 keys */
        for (int c = k0; c < k1 && c <= pos && live; c++) {
            REAL p = PLAIN ? (REAL)expf(score[c - k0] - m) : (REAL)exp((double)(score[c - k0] - m));
            l += p;
            if (a.pv == PRECISION_FP8) {
                if (c % 64 == 0) {
                    REAL largest = -INFINITY;
                    for (int e = c; e < min(c + 64, k1); e++)
                        largest = fmax(largest, score[e - k0]);
                    power = ceil(largest * (REAL)1.4426950408889634) - 8;
                }
                REAL x = score[c - k0] * (REAL)1.4426950408889634 - power;
                REAL back = power - m * (REAL)1.4426950408889634;
                p = (REAL)e4m3(PLAIN ? exp2f((float)x) : (float)exp2((double)x)) *
                    (PLAIN ? (REAL)exp2f((float)back) : (REAL)exp2((double)back));
            } else if (PLAIN) {
                p = (REAL)__bfloat162float(__float2bfloat16_rn((float)p));
            }
            for (int i = 0; i < d; i++) o[i] += p * (REAL)number(a, a.v, v + c * a.v_row + i);
        }
    }
    bool any_doubt = __syncthreads_or(doubt);
    if (!valid) return;
    for (int i = 0; i < d; i++) {
        REAL y = o[i] / l;
        if (PLAIN) y = (REAL)__bfloat162float(__float2bfloat16_rn((float)y));
        out[((size_t)h * a.n_q + row) * d + i] = (double)y;
    }
    if (unsure != NULL) unsure[(size_t)h * a.n_q + row] = any_doubt;
}

#endif

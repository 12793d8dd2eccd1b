/* Attention as defined, one thread a row, for check_kernels_cuda: in fp64 (the truth), and in fp32 with bf16
 * probabilities (the plain path of the same precision, which calibrates the tolerance). */
#ifndef SG_TESTS_KERNELS_CUDA_REFERENCE_CUH
#define SG_TESTS_KERNELS_CUDA_REFERENCE_CUH

extern "C" {
#include "kernels/attn.h"
}
#include <cuda_bf16.h>

struct reference_args {
    struct attn_args a;
    const uint64_t *bits;
    int words_per_row, n_qblocks;
};

/* out [n_heads, n_q, d] of REAL; unsure [n_heads, n_q]: 1 where a stage-2 decision is within rounding of its
 * bound, 0 elsewhere; done [n_heads]: units computed. One CTA per (unit, head), one thread per row. */
template <typename REAL, bool PLAIN>
__global__ void reference_kernel(const __grid_constant__ reference_args x, double *out, uint8_t *unsure,
                                 unsigned long long *done)
{
    const struct attn_args &a = x.a;
    const int d = a.head_dim, n_kv = a.q_start + a.n_q, h = blockIdx.y;
    const int unit0 = (a.q_start / PV_UNIT_ROWS + (int)blockIdx.x) * PV_UNIT_ROWS;
    const int pos = unit0 + (int)threadIdx.x, row = pos - a.q_start;
    const bool valid = row >= 0 && row < a.n_q;
    const int last = min(unit0 + PV_UNIT_ROWS, n_kv) - 1;
    const auto *q = (const __nv_bfloat16 *)a.q + row * a.q_row + h * a.q_head;
    const int kv = h / (a.n_heads / a.n_kv_heads);
    const auto *k = (const __nv_bfloat16 *)a.k + kv * a.k_head,
               *v = (const __nv_bfloat16 *)a.v + kv * a.v_head;
    const bool sparse = x.bits != NULL && (a.head_sparse == NULL || a.head_sparse[h]);
    const uint64_t *bits = NULL;
    if (sparse) bits = x.bits + ((size_t)h * x.n_qblocks + (unit0 - a.q_start) / a.block.q) * x.words_per_row;

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
                dot += (REAL)__bfloat162float(q[i]) * (REAL)__bfloat162float(k[c * a.k_row + i]);
            score[c - k0] = c <= pos ? dot * (REAL)a.scale : (REAL)-INFINITY;
            local = fmax(local, score[c - k0]);
        }
        REAL top = fmax(m, local);
        bool wanted = valid;
        if (sparse && a.pv_threshold != NULL && l > 0 && valid) {
            REAL margin = (local - top) * (REAL)1.4426950408889634 + (REAL)a.pv_threshold[h];
            wanted = local > -INFINITY && margin > 0;
            doubt |= local > -INFINITY && fabs((double)margin) < 1e-4;
        }
        bool live = __syncthreads_or(wanted);
        if (threadIdx.x == 0 && live && done != NULL) atomicAdd(&done[h], 1ull);
        if (!valid || top == -INFINITY) continue;
        REAL shrink = PLAIN ? (REAL)expf(m - top) : (REAL)exp((double)(m - top));
        m = top;
        if (shrink != 1) {
            l *= shrink;
            for (int i = 0; i < d; i++) o[i] *= shrink;
        }
        for (int c = k0; c < k1 && c <= pos && live; c++) {
            REAL p = PLAIN ? (REAL)expf(score[c - k0] - m) : (REAL)exp((double)(score[c - k0] - m));
            l += p;
            if (PLAIN) p = (REAL)__bfloat162float(__float2bfloat16_rn((float)p));
            for (int i = 0; i < d; i++) o[i] += p * (REAL)__bfloat162float(v[c * a.v_row + i]);
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

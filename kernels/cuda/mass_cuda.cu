/* What each tile really holds of the attention, on the device: the oracle's ranking.
 *
 * One CTA per head and query block, sixteen rows a warp. Keys pass twice: first for each row's
 * maximum and sum, then for the share of every tile. Scores go through shared memory, since a
 * warp's fragments do not say where they stand. Sums are made in one order, so a repeat gives the
 * same bits.
 */
extern "C" {
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"

#include <cuda_bf16.h>
#include <math.h>
#include <mma.h>

namespace
{

using namespace nvcuda;

enum {
    KEYS = 64, /* keys at a time */
    ROWS = 16, /* of a warp */
    SCORE_LINE = KEYS + 4,
    PAD = 8
};

struct params {
    const __nv_bfloat16 *q, *k;
    ptrdiff_t q_row, q_head, k_row, k_head;
    int n_q, q_start, n_kv, group, d, block_q, block_k, n_qblocks, n_kblocks;
    float scale_log2;
    int over; /* rows join by 0 sum, 1 root of the sum of squares, 2 largest */
    float *mass;
};

/* `rows` rows of d values into shared memory, zero behind `valid`. */
__device__ void stage(
    const __nv_bfloat16 *from, ptrdiff_t row, int rows, int valid, int d, __nv_bfloat16 *to)
{
    const int per_row = d / 8;
    for (int i = threadIdx.x; i < rows * per_row; i += blockDim.x) {
        int r = i / per_row, at = i % per_row * 8;
        uint4 v = r < valid ? *(const uint4 *)(from + r * row + at) : make_uint4(0, 0, 0, 0);
        *(uint4 *)(to + r * (d + PAD) + at) = v;
    }
}

/* Scores of the warp's rows against the keys in shared memory, in powers of two, unmasked. */
__device__ void score(const __nv_bfloat16 *q, const __nv_bfloat16 *k, int d, float *scores)
{
    for (int j = 0; j < KEYS; j += 16) {
        wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
        wmma::fill_fragment(sum, 0.0f);
        for (int i = 0; i < d; i += 16) {
            wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> a;
            wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::col_major> b;
            wmma::load_matrix_sync(a, q + i, d + PAD);
            wmma::load_matrix_sync(b, k + j * (d + PAD) + i, d + PAD);
            wmma::mma_sync(sum, a, b, sum);
        }
        wmma::store_matrix_sync(scores + j, sum, SCORE_LINE, wmma::mem_row_major);
    }
    __syncwarp();
}

__device__ __forceinline__ float joined(const params &p, float a, float b)
{
    return p.over == 2 ? fmaxf(a, b) : a + b;
}

__global__ void mass_kernel(const __grid_constant__ params p)
{
    extern __shared__ __align__(128) unsigned char shared[];
    __nv_bfloat16 *q = (__nv_bfloat16 *)shared, *k = q + p.block_q * (p.d + PAD);
    float *all_scores = (float *)(k + KEYS * (p.d + PAD)),
          *of_warps = all_scores + p.block_q * SCORE_LINE;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    const int head = blockIdx.y, block = blockIdx.x, row0 = block * p.block_q,
              row = warp * ROWS + lane / 2;
    const int position = p.q_start + row0 + row, half = lane % 2 * (KEYS / 2);
    const bool real = row0 + row < p.n_q;
    const __nv_bfloat16 *keys = p.k + head / p.group * p.k_head;
    const int last = min(row0 + p.block_q, p.n_q) - 1 + p.q_start, n_kblocks = last / p.block_k + 1;
    float *scores = all_scores + warp * ROWS * SCORE_LINE,
          *mine = scores + lane / 2 * SCORE_LINE + half;
    float *out = p.mass + ((size_t)head * p.n_qblocks + block) * p.n_kblocks;
    float top = -INFINITY, sum = 0, share = 0;
    stage(p.q + row0 * p.q_row + head * p.q_head, p.q_row, p.block_q, p.n_q - row0, p.d, q);
    for (int pass = 0; pass < 2; pass++) {
        for (int j0 = 0; j0 < n_kblocks * p.block_k; j0 += KEYS) {
            __syncthreads();
            stage(keys + (ptrdiff_t)j0 * p.k_row, p.k_row, KEYS, p.n_kv - j0, p.d, k);
            __syncthreads();
            score(q + warp * ROWS * (p.d + PAD), k, p.d, scores);
            /* of this lane's keys, the last it sees */
            const int seen = real ? position - j0 - half : -1;
            if (pass == 0) {
                float best = top;
                for (int i = 0; i < KEYS / 2; i++)
                    if (i <= seen) best = fmaxf(best, mine[i] * p.scale_log2);
                if (best > top) sum *= exp2f(top - best), top = best;
                for (int i = 0; i < KEYS / 2; i++)
                    if (i <= seen) sum += exp2f(mine[i] * p.scale_log2 - top);
            } else {
                for (int i = 0; i < KEYS / 2; i++) /* sum is its inverse by now */
                    if (i <= seen) share += exp2f(mine[i] * p.scale_log2 - top) * sum;
                if ((j0 + KEYS) % p.block_k == 0) {
                    share += __shfl_xor_sync(0xffffffffu, share, 1); /* the row's other half */
                    if (p.over == 1) share *= share;
                    for (int m = 16; m > 1; m /= 2)
                        share = joined(p, share, __shfl_xor_sync(0xffffffffu, share, m));
                    if (lane == 0) of_warps[warp] = share;
                    share = 0;
                    __syncthreads();
                    if (threadIdx.x == 0) {
                        float total = 0;
                        for (int w = 0; w < n_warps; w++) total = joined(p, total, of_warps[w]);
                        out[j0 / p.block_k] = p.over == 1 ? sqrtf(total) : total;
                    }
                }
            }
            __syncwarp();
        }
        if (pass == 0) { /* the two halves of a row know of each other */
            float other_top = __shfl_xor_sync(0xffffffffu, top, 1),
                  other_sum = __shfl_xor_sync(0xffffffffu, sum, 1);
            float best = fmaxf(top, other_top);
            float total = (top == -INFINITY ? 0 : sum * exp2f(top - best)) +
                (other_top == -INFINITY ? 0 : other_sum * exp2f(other_top - best));
            top = best;
            sum = total > 0 ? 1 / total : 0;
        }
    }
}

size_t shared_bytes(const params &p)
{
    return sizeof(__nv_bfloat16) * (size_t)(p.block_q + KEYS) * (p.d + PAD) +
        sizeof(float) * ((size_t)p.block_q * SCORE_LINE + p.block_q / ROWS);
}

} // namespace

extern "C" {

enum status oracle_cuda_mass(
    const struct attn_args *a, int over, float *mass, struct stream *stream)
{
    if (a->dtype != DTYPE_BF16 || a->head_dim % 16 != 0 || a->head_dim > 256)
        return fail(ERR_UNSUPPORTED,
            "the oracle on CUDA takes bf16 and a head_dim that is a multiple of 16 up to 256");
    params p = {};
    p.q = (const __nv_bfloat16 *)a->q, p.k = (const __nv_bfloat16 *)a->k;
    p.q_row = a->q_row, p.q_head = a->q_head, p.k_row = a->k_row, p.k_head = a->k_head;
    p.n_q = a->n_q, p.q_start = a->q_start, p.n_kv = attn_n_kv(a),
    p.group = a->n_heads / a->n_kv_heads;
    p.d = a->head_dim, p.block_q = a->block.q, p.block_k = a->block.k;
    p.n_qblocks = (p.n_q + p.block_q - 1) / p.block_q,
    p.n_kblocks = (p.n_kv + p.block_k - 1) / p.block_k;
    p.scale_log2 = a->scale * 1.44269504f;
    p.over = over;
    p.mass = mass;
    const size_t bytes = shared_bytes(p);
    CUDA_TRY(
        cudaFuncSetAttribute(mass_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    mass_kernel<<<dim3((unsigned)p.n_qblocks, (unsigned)a->n_heads),
        (unsigned)p.block_q / ROWS * 32, bytes, (cudaStream_t)stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}
}

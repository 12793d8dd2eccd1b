/* Q, K and V of a call become eight bits (METHOD 9), in one launch that reads each once.
 *
 * A CTA holds a block of 64 rows in registers, finds its largest magnitude and writes it in the
 * order attention wants it. A thread owns 8 neighbouring columns of some rows. CTAs of K take
 * several blocks, because each needs the mean of the first 128 keys; it is summed in fp64, where
 * sums of bf16 numbers are exact, so that every CTA and the CPU agree to the bit.
 *
 * Whole numbers know no NaN and a saturating conversion no infinity. A block of Q or K that holds
 * one gets an infinite scale instead, over codes of 0 (in e4m3 NaN where the number was none): its
 * scores, and so every row that sees one of them, become NaN. In V infinity becomes e4m3's NaN.
 */
#include "kernels/cuda/cuda_check.cuh"
#include "kernels/cuda/eight_cuda.cuh"
#include "kernels/cuda/mma_ptx.cuh"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace
{

using eight::pack_e4m3;

enum { THREADS = 128, K_BLOCKS = 4 };

struct tensor {
    const __nv_bfloat16 *at;
    ptrdiff_t row, head;
    uint8_t *to;
    float *scale;
    int n_rows, n_blocks, n_heads;
};

struct args {
    tensor q, k, v;
    enum precision qk;
    int *next_item; /* attention's counter, to be zero when it begins: a launch less */
};

template <int D> struct places {
    static constexpr int across = D / 8, down = THREADS / across, rows = EIGHT_ROWS / down;
};

__device__ __forceinline__ void widen(const uint4 &x, float (&f)[8])
{
    const uint32_t w[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f[2 * i] = __uint_as_float(w[i] << 16);
        f[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
}

__device__ __forceinline__ uint4 load8(const tensor &t, int head, int row, int column)
{
    if (row >= t.n_rows) return make_uint4(0, 0, 0, 0);
    return __ldg((const uint4 *)(t.at + head * t.head + row * t.row + column));
}

__device__ __forceinline__ uint32_t pack_s8(float a, float b, float c, float d)
{
    const float x[4] = {a, b, c, d};
    uint32_t r = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        r |= (uint32_t)(max(-127, min(127, __float2int_rn(x[i]))) & 0xff) << 8 * i;
    return r;
}

/* The largest over the CTA. */
__device__ __forceinline__ float block_max(float x, float *shared)
{
#pragma unroll
    for (int i = 16; i; i >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    return fmaxf(fmaxf(shared[0], shared[1]), fmaxf(shared[2], shared[3]));
}

__device__ __forceinline__ float power_of_two(int e) { return __int_as_float((127 + e) << 23); }

/* eight_exponent() of the host. */
__device__ __forceinline__ int exponent_of(float largest)
{
    int bits = __float_as_int(largest), e = (bits >> 23) - 127 - 8 + ((bits & 0x7fffff) > 0x600000);
    return max(e, (int)EIGHT_EXP_MIN);
}

/* One block of Q or K. */
template <int D>
__device__ void quantise_rows(
    const tensor &t, enum precision p, int head, int block, const float (&mean)[8], float *shared)
{
    using P = places<D>;
    const int column = threadIdx.x % P::across * 8, first = threadIdx.x / P::across;
    uint4 raw[P::rows];
#pragma unroll
    for (int i = 0; i < P::rows; i++)
        raw[i] = load8(t, head, block * EIGHT_ROWS + i * P::down + first, column);
    float largest = 0;
#pragma unroll
    for (int i = 0; i < P::rows; i++) {
        float f[8];
        widen(raw[i], f);
        bool there = block * EIGHT_ROWS + i * P::down + first < t.n_rows;
#pragma unroll
        for (int c = 0; c < 8; c++)
            if (there) largest = max_nan(largest, fabsf(f[c] - mean[c]));
    }
    if (!(largest < INFINITY)) largest = INFINITY; /* NaN, too */
    largest = block_max(largest, shared);
    float scale = 1;
    if (largest == INFINITY) scale = INFINITY;
    else if (p == PRECISION_FP8) scale = power_of_two(exponent_of(largest));
    else if (largest > 0x1p-100f) scale = __fdiv_rn(largest, 127.0f);
    float inverse = __fdiv_rn(1.0f, scale);
    uint8_t *to = t.to + ((size_t)head * t.n_blocks + block) * (EIGHT_ROWS * D);
    if (threadIdx.x == 0) t.scale[head * t.n_blocks + block] = scale;
#pragma unroll
    for (int i = 0; i < P::rows; i++) {
        float f[8];
        int r = i * P::down + first;
        widen(raw[i], f);
#pragma unroll
        for (int c = 0; c < 8; c++)
            f[c] = block * EIGHT_ROWS + r < t.n_rows ? __fmul_rn(__fsub_rn(f[c], mean[c]), inverse)
                                                     : 0.0f;
        uint2 x;
        if (p == PRECISION_FP8)
            x = make_uint2(pack_e4m3(f[0], f[1], f[2], f[3]), pack_e4m3(f[4], f[5], f[6], f[7]));
        else x = make_uint2(pack_s8(f[0], f[1], f[2], f[3]), pack_s8(f[4], f[5], f[6], f[7]));
        *(uint2 *)(to + eight::row_byte(D, r, column)) = x;
    }
}

/* This thread's eight columns of the mean of the head's first keys. */
template <int D>
__device__ void mean_of(const tensor &t, int head, float (&mean)[8], double *shared)
{
    using P = places<D>;
    const int across = threadIdx.x % P::across, first = threadIdx.x / P::across;
    const int n = min(t.n_rows, (int)EIGHT_MEAN_KEYS);
    double sum[8] = {};
#pragma unroll 4
    for (int i = 0; i < EIGHT_MEAN_KEYS / P::down; i++) {
        float f[8];
        int r = i * P::down + first;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (r < n) x = load8(t, head, r, across * 8);
        widen(x, f);
#pragma unroll
        for (int c = 0; c < 8; c++) sum[c] += (double)f[c];
    }
#pragma unroll
    for (int c = 0; c < 8; c++) shared[first * D + c * P::across + across] = sum[c];
    __syncthreads();
#pragma unroll
    for (int c = 0; c < 8; c++) {
        double all = 0;
        for (int j = 0; j < P::down; j++) all += shared[j * D + c * P::across + across];
        mean[c] = (float)(all / n);
    }
    __syncthreads();
}

/* One block of V, transposed. Thread row `first` owns the words (four places) first, first + down,
 * … of the 16. */
template <int D>
__device__ void quantise_values(
    const tensor &t, int head, int block, uint32_t *words, float *shared)
{
    using P = places<D>;
    constexpr int WORDS = EIGHT_ROWS / 4, PITCH = WORDS + 1, EACH = (WORDS + P::down - 1) / P::down;
    const int column = threadIdx.x % P::across * 8, first = threadIdx.x / P::across;
    uint4 raw[EACH][4];
    float largest = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            raw[i][e] = load8(
                t, head, block * EIGHT_ROWS + eight::key_at((first + i * P::down) * 4 + e), column);
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float f[8];
            widen(raw[i][e], f);
#pragma unroll
            for (int c = 0; c < 8; c++) largest = fmaxf(largest, fabsf(f[c]));
        }
    largest = block_max(largest, shared);
    int exponent = exponent_of(largest);
    float inverse = largest < INFINITY ? power_of_two(-exponent) : 0.0f;
    if (threadIdx.x == 0) t.scale[head * t.n_blocks + block] = (float)exponent;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        float f[4][8];
#pragma unroll
        for (int e = 0; e < 4; e++) widen(raw[i][e], f[e]);
#pragma unroll
        for (int c = 0; c < 8; c++)
            words[(column + c) * PITCH + first + i * P::down] = pack_e4m3(
                f[0][c] * inverse, f[1][c] * inverse, f[2][c] * inverse, f[3][c] * inverse);
    }
    __syncthreads();
    uint8_t *to = t.to + ((size_t)head * t.n_blocks + block) * (EIGHT_ROWS * D);
#pragma unroll
    for (int i = 0; i < D * WORDS / THREADS; i++) {
        int at = i * THREADS + (int)threadIdx.x, x = at / WORDS, w = at % WORDS;
        *(uint32_t *)(to + eight::value_byte(x, w * 4)) = words[x * PITCH + w];
    }
}

template <int D>
__global__ __launch_bounds__(THREADS) void quantise_kernel(const __grid_constant__ args a)
{
    constexpr int VALUE_BYTES = D * (EIGHT_ROWS / 4 + 1) * 4, MEAN_BYTES = places<D>::down * D * 8;
    __shared__ __align__(16) uint8_t room[VALUE_BYTES > MEAN_BYTES ? VALUE_BYTES : MEAN_BYTES];
    __shared__ float tops[THREADS / 32];
    const int k_tasks = (a.k.n_blocks + K_BLOCKS - 1) / K_BLOCKS;
    int i = blockIdx.x;
    float mean[8] = {};
    if (i == 0 && threadIdx.x == 0) *a.next_item = 0;
    if (i < k_tasks * a.k.n_heads) {
        int head = i / k_tasks, block = i % k_tasks * K_BLOCKS;
        mean_of<D>(a.k, head, mean, (double *)room);
        for (int j = block; j < min(block + K_BLOCKS, a.k.n_blocks); j++)
            quantise_rows<D>(a.k, a.qk, head, j, mean, tops);
        return;
    }
    i -= k_tasks * a.k.n_heads;
    if (i < a.v.n_blocks * a.v.n_heads)
        quantise_values<D>(a.v, i / a.v.n_blocks, i % a.v.n_blocks, (uint32_t *)room, tops);
    else
        quantise_rows<D>(a.q, a.qk, (i - a.v.n_blocks * a.v.n_heads) / a.q.n_blocks,
            (i - a.v.n_blocks * a.v.n_heads) % a.q.n_blocks, mean, tops);
}

} // namespace

enum status quantise_cuda(const struct attn_args *a, void *ws, cudaStream_t stream)
{
    eight::layout l = eight::layout_of(a);
    uint8_t *to = (uint8_t *)ws;
    args x;
    x.q = {(const __nv_bfloat16 *)a->q, a->q_row, a->q_head, to + l.q, (float *)(to + l.q_scale),
        a->n_q, l.n_units, a->n_heads};
    x.k = {(const __nv_bfloat16 *)a->k, a->k_row, a->k_head, to + l.k, (float *)(to + l.k_scale),
        attn_n_kv(a), l.n_blocks, a->n_kv_heads};
    x.v = {(const __nv_bfloat16 *)a->v, a->v_row, a->v_head, to + l.v, (float *)(to + l.v_exponent),
        attn_n_kv(a), l.n_blocks, a->n_kv_heads};
    x.qk = a->qk;
    x.next_item = (int *)ws;
    int tasks = (l.n_blocks + K_BLOCKS - 1) / K_BLOCKS * a->n_kv_heads +
        l.n_blocks * a->n_kv_heads + l.n_units * a->n_heads;
    cuda_launch(a->head_dim == 128 ? quantise_kernel<128> : quantise_kernel<64>,
        dim3((unsigned)tasks), THREADS, 0, stream, x);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

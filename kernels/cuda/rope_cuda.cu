/* RoPE on the device: q turned where it stands, k and v carried into the cache. */
extern "C" {
#include "kernels/cuda/ops_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"
#include "kernels/cuda/vec8_cuda.cuh"

#include <cuda_bf16.h>

namespace
{

using namespace vec8;

enum { THREADS = 256 };

__device__ __forceinline__ void turn(floats8 &lo, floats8 &hi, const floats8 &c, const floats8 &s)
{
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float x = lo.x[j], y = hi.x[j];
        lo.x[j] = __fmaf_rn(x, c.x[j], -__fmul_rn(y, s.x[j]));
        hi.x[j] = __fmaf_rn(y, c.x[j], __fmul_rn(x, s.x[j]));
    }
}

__device__ __forceinline__ void shift(floats8 &x, const float *bias)
{
    floats8 b = load8(bias);
#pragma unroll
    for (int j = 0; j < 8; j++) x.x[j] += b.x[j];
}

/* Where row `row` of head `head` (q, then k, then v) goes. */
__device__ __forceinline__ uint16_t *place(
    const struct rope_cuda_args &a, int head, int row, uint16_t *from)
{
    if (head < a.n_heads) return from;
    int kv = head - a.n_heads;
    uint16_t *plane = kv < a.n_kv_heads ? a.k : a.v;
    int position = a.position_at != NULL ? a.position_at[row] : a.position + row;
    if (a.slot != NULL) plane += a.slot[row] * a.slot_step;
    return plane + ((size_t)(kv % a.n_kv_heads) * a.capacity + position) * a.head_dim;
}

/* One CTA per row; a thread turns eight pairs of one head, or copies sixteen values. */
__global__ void rope_rows(const __grid_constant__ struct rope_cuda_args a)
{
    const int row = blockIdx.x, half = a.head_dim / 2, per_head = half / 8;
    const int heads = a.n_heads + 2 * a.n_kv_heads, width = heads * a.head_dim;
    for (int i = threadIdx.x; i < heads * per_head; i += blockDim.x) {
        int head = i / per_head, at = i % per_head * 8, column = head * a.head_dim;
        uint16_t *from = a.qkv + (size_t)row * width + column, *to = place(a, head, row, from);
        floats8 lo = load8(from + at), hi = load8(from + at + half);
        if (a.bias != NULL) shift(lo, a.bias + column + at), shift(hi, a.bias + column + at + half);
        if (head < a.n_heads + a.n_kv_heads && a.cosine != NULL)
            turn(lo, hi, load8(a.cosine + (size_t)row * half + at),
                load8(a.sine + (size_t)row * half + at));
        store8(to + at, lo);
        store8(to + at + half, hi);
    }
}

/* One warp for a head of a row; the heads behind q and k only get their bias. */
__global__ void norm_heads(const __grid_constant__ struct head_norm_cuda_args a)
{
    const int heads = a.width / a.head_dim, item = (blockIdx.x * blockDim.x + threadIdx.x) / 32,
              lane = threadIdx.x % 32;
    if (item >= a.n * heads) return;
    const int row = item / heads, head = item % heads;
    const float *weight = head < a.n_q ? a.q_norm : head < a.n_q + a.n_k ? a.k_norm : NULL;
    uint16_t *x = a.x + (size_t)row * a.width + head * a.head_dim;
    const float *bias = a.bias != NULL ? a.bias + head * a.head_dim : NULL;
    float sum = 0;
    for (int i = lane; i < a.head_dim; i += 32) {
        float v = __uint_as_float((unsigned)x[i] << 16) + (bias != NULL ? bias[i] : 0.0f);
        sum += v * v;
    }
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    float scale = rsqrtf(sum / a.head_dim + a.eps);
    for (int i = lane; i < a.head_dim; i += 32) {
        float v = __uint_as_float((unsigned)x[i] << 16) + (bias != NULL ? bias[i] : 0.0f);
        x[i] =
            __bfloat16_as_ushort(__float2bfloat16_rn(weight != NULL ? v * scale * weight[i] : v));
    }
}

} // namespace

extern "C" enum status ops_cuda_head_norm(
    const struct head_norm_cuda_args *a, struct stream *stream)
{
    const int warps = THREADS / 32, items = a->n * (a->width / a->head_dim);
    norm_heads<<<(unsigned)((items + warps - 1) / warps), THREADS, 0, (cudaStream_t)stream>>>(*a);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

extern "C" enum status ops_cuda_rope_pack(const struct rope_cuda_args *a, struct stream *stream)
{
    cudaStream_t s = (cudaStream_t)stream;
    if (a->head_dim % 16 != 0)
        return fail(
            ERR_UNSUPPORTED, "head_dim %d: the CUDA path takes multiples of 16", a->head_dim);
    rope_rows<<<(unsigned)a->n, THREADS, 0, s>>>(*a);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

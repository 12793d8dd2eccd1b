/* RoPE on the device: q turned where it stands, k and v carried into the cache. */
extern "C" {
#include "kernels/cuda/ops_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"
#include "kernels/cuda/vec8_cuda.cuh"

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
__device__ __forceinline__ uint16_t *place(const struct rope_cuda_args &a, int head, int row, uint16_t *from)
{
    if (head < a.n_heads) return from;
    int kv = head - a.n_heads;
    uint16_t *plane = kv < a.n_kv_heads ? a.k : a.v;
    int position = a.position_at != NULL ? *a.position_at : a.position;
    return plane + ((size_t)(kv % a.n_kv_heads) * a.capacity + position + row) * a.head_dim;
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
        if (head < a.n_heads + a.n_kv_heads)
            turn(lo, hi, load8(a.cosine + (size_t)row * half + at), load8(a.sine + (size_t)row * half + at));
        store8(to + at, lo);
        store8(to + at + half, hi);
    }
}

} // namespace

extern "C" enum status ops_cuda_rope_pack(const struct rope_cuda_args *a, struct stream *stream)
{
    cudaStream_t s = (cudaStream_t)stream;
    if (a->head_dim % 16 != 0)
        return fail(ERR_UNSUPPORTED, "head_dim %d: the CUDA path takes multiples of 16", a->head_dim);
    rope_rows<<<(unsigned)a->n, THREADS, 0, s>>>(*a);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* Memory-bound kernels: 16 bytes per access, f32 arithmetic, one pass over their tensors. */
extern "C" {
#include "kernels/cuda/ops_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"
#include "kernels/cuda/vec8_cuda.cuh"

#include <cuda_fp16.h>

namespace
{

using namespace vec8;

enum { THREADS = 256, NORM_THREADS = 256 };

unsigned blocks_for(size_t items) { return (unsigned)((items + THREADS - 1) / THREADS); }

cudaStream_t queue(struct stream *s) { return (cudaStream_t)s; }

enum status launched()
{
    CUDA_TRY(cudaGetLastError());
    return OK;
}

template <typename X>
__global__ void embed_kernel(
    const uint16_t *table, const int32_t *tokens, int hidden, float scale, X *x)
{
    const uint16_t *from = table + (size_t)tokens[blockIdx.x] * hidden;
    X *to = x + (size_t)blockIdx.x * hidden;
    for (int i = threadIdx.x * 8; i < hidden; i += blockDim.x * 8) {
        floats8 row = load8(from + i);
#pragma unroll
        for (int k = 0; k < 8; k++) row.x[k] *= scale;
        store8(to + i, row);
    }
}

__device__ __forceinline__ float block_sum(float v)
{
    __shared__ float part[NORM_THREADS / 32];
#pragma unroll
    for (int m = 16; m > 0; m /= 2) v += __shfl_xor_sync(0xffffffffu, v, m);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[threadIdx.x % (NORM_THREADS / 32)];
#pragma unroll
    for (int m = NORM_THREADS / 64; m > 0; m /= 2) v += __shfl_xor_sync(0xffffffffu, v, m);
    return v;
}

/* A row up to 4096 wide stays in registers between its sum and its output. */
template <typename X, typename OUT>
__global__ __launch_bounds__(NORM_THREADS) void norm_kernel(
    const X *x, const float *weight, float eps, int hidden, OUT *y)
{
    constexpr int HELD = 2;
    const X *from = x + (size_t)blockIdx.x * hidden;
    OUT *to = y + (size_t)blockIdx.x * hidden;
    floats8 held[HELD];
    float sum = 0;
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        int i = (h * NORM_THREADS + threadIdx.x) * 8;
        if (i >= hidden) continue;
        held[h] = load8(from + i);
#pragma unroll
        for (int j = 0; j < 8; j++) sum = fmaf(held[h].x[j], held[h].x[j], sum);
    }
    for (int i = (HELD * NORM_THREADS + threadIdx.x) * 8; i < hidden; i += NORM_THREADS * 8) {
        floats8 f = load8(from + i);
#pragma unroll
        for (int j = 0; j < 8; j++) sum = fmaf(f.x[j], f.x[j], sum);
    }
    float inverse = 1.0f / sqrtf(block_sum(sum) / (float)hidden + eps);
    for (int h = 0, i = threadIdx.x * 8; i < hidden; h++, i += NORM_THREADS * 8) {
        floats8 f = h == 0 ? held[0] : h == 1 ? held[1] : load8(from + i), w = load8(weight + i);
#pragma unroll
        for (int j = 0; j < 8; j++) f.x[j] = f.x[j] * inverse * w.x[j];
        store8(to + i, f);
    }
}

__global__ void angles_kernel(const float *inv_freq, float scaling, int position,
    const int32_t *position_at, int n, int half, float *cosine, float *sine)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * half) return;
    int at = position_at != NULL ? position_at[i / half] : position + i / half;
    float s, c, f = inv_freq[i % half];
    sincosf((float)at * f, &s, &c);
    cosine[i] = f == 0 ? 1 : c * scaling;
    sine[i] = s * scaling;
}

__global__ void silu_kernel(const uint16_t *gate_up, const float *bias, int n, int m, uint16_t *y)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    int per_row = m / 8;
    if (i >= (size_t)n * per_row) return;
    size_t row = i / per_row;
    int at = (int)(i % per_row) * 8;
    floats8 g = load8(gate_up + row * 2 * m + at), u = load8(gate_up + row * 2 * m + m + at);
    if (bias != NULL) {
        floats8 b0 = load8(bias + at), b1 = load8(bias + m + at);
#pragma unroll
        for (int j = 0; j < 8; j++) g.x[j] += b0.x[j], u.x[j] += b1.x[j];
    }
#pragma unroll
    for (int j = 0; j < 8; j++) g.x[j] = g.x[j] / (1.0f + expf(-g.x[j])) * u.x[j];
    store8(y + row * m + at, g);
}

template <typename X> __global__ void bias_kernel(X *x, const float *bias, size_t n, int m)
{
    size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= n) return;
    floats8 f = load8(x + i), b = load8(bias + i % m);
#pragma unroll
    for (int j = 0; j < 8; j++) f.x[j] += b.x[j];
    store8(x + i, f);
}

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float as_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __global__ void narrow_kernel(const T *from, size_t n, __nv_bfloat16 *to)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x)
        to[i] = __float2bfloat16_rn(as_float(from[i]));
}

__global__ void widen_kernel(const uint16_t *x, ptrdiff_t row, int n, int m, float *y)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, per_row = m / 8;
    if (i >= n * per_row) return;
    store8(y + i * 8, load8(x + i / per_row * row + i % per_row * 8));
}

__global__ void find_bad_kernel(const float *x, size_t n, int32_t *bad)
{
    bool found = false;
    for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 8; i < n;
         i += (size_t)gridDim.x * blockDim.x * 8) {
        floats8 f = load8(x + i);
#pragma unroll
        for (int j = 0; j < 8; j++) found |= !isfinite(f.x[j]);
    }
    if (found) *bad = 1;
}

template <typename T>
enum status narrow(const void *from, size_t n, uint16_t *to, cudaStream_t stream)
{
    unsigned grid = n > ((size_t)1 << 22) ? 4096 : blocks_for(n);
    narrow_kernel<T><<<grid, THREADS, 0, stream>>>((const T *)from, n, (__nv_bfloat16 *)to);
    return launched();
}

template <typename X>
void norm_rows(const X *x, const float *weight, float eps, int n, int hidden, uint16_t *y,
    float *y32, cudaStream_t stream)
{
    if (y32 != NULL) norm_kernel<<<n, NORM_THREADS, 0, stream>>>(x, weight, eps, hidden, y32);
    else norm_kernel<<<n, NORM_THREADS, 0, stream>>>(x, weight, eps, hidden, y);
}

} // namespace

extern "C" {

enum status ops_cuda_embed(const uint16_t *table, const int32_t *tokens, int n, int hidden,
    float scale, void *x, enum dtype x_type, struct stream *stream)
{
    if (x_type == DTYPE_F32)
        embed_kernel<<<n, THREADS, 0, queue(stream)>>>(table, tokens, hidden, scale, (float *)x);
    else
        embed_kernel<<<n, THREADS, 0, queue(stream)>>>(table, tokens, hidden, scale, (uint16_t *)x);
    return launched();
}

enum status ops_cuda_rmsnorm(const void *x, enum dtype x_type, const float *weight, float eps,
    int n, int hidden, uint16_t *y, float *y32, struct stream *stream)
{
    if (x_type == DTYPE_F32)
        norm_rows((const float *)x, weight, eps, n, hidden, y, y32, queue(stream));
    else norm_rows((const uint16_t *)x, weight, eps, n, hidden, y, y32, queue(stream));
    return launched();
}

enum status ops_cuda_angles(const float *inv_freq, float scaling, int position,
    const int32_t *position_at, int n, int half, float *cosine, float *sine, struct stream *stream)
{
    unsigned grid = blocks_for((size_t)n * half);
    angles_kernel<<<grid, THREADS, 0, queue(stream)>>>(
        inv_freq, scaling, position, position_at, n, half, cosine, sine);
    return launched();
}

enum status ops_cuda_silu_mul(
    const uint16_t *gate_up, const float *bias, int n, int m, uint16_t *y, struct stream *stream)
{
    silu_kernel<<<blocks_for((size_t)n * (m / 8)), THREADS, 0, queue(stream)>>>(
        gate_up, bias, n, m, y);
    return launched();
}

enum status ops_cuda_add_bias(
    void *x, enum dtype x_type, const float *bias, int n, int m, struct stream *stream)
{
    size_t values = (size_t)n * m;
    if (x_type == DTYPE_F32)
        bias_kernel<<<blocks_for(values / 8), THREADS, 0, queue(stream)>>>(
            (float *)x, bias, values, m);
    else
        bias_kernel<<<blocks_for(values / 8), THREADS, 0, queue(stream)>>>(
            (uint16_t *)x, bias, values, m);
    return launched();
}

enum status ops_cuda_find_bad(const float *x, size_t n, int32_t *bad, struct stream *stream)
{
    unsigned grid = blocks_for(n / 8), most = 2048;
    if (grid > most) grid = most;
    find_bad_kernel<<<grid, THREADS, 0, queue(stream)>>>(x, n, bad);
    return launched();
}

enum status ops_cuda_to_bf16(
    const void *from, enum dtype dtype, size_t n, uint16_t *to, struct stream *stream)
{
    if (dtype == DTYPE_F32) return narrow<float>(from, n, to, queue(stream));
    if (dtype == DTYPE_F16) return narrow<__half>(from, n, to, queue(stream));
    return narrow<__nv_bfloat16>(from, n, to, queue(stream));
}

enum status ops_cuda_widen(
    const uint16_t *x, ptrdiff_t row, int n, int m, float *y, struct stream *stream)
{
    widen_kernel<<<blocks_for((size_t)n * (m / 8)), THREADS, 0, queue(stream)>>>(x, row, n, m, y);
    return launched();
}
}

/* Curves on the device, of eight bits: what METHOD 9 leaves of Q, K and V, as bf16 numbers for the
 * tiles. e4m3 numbers times a power of two are bf16 numbers; of int8 the integers are, and their
 * scales stand beside. Rounded operation for operation as kernels/eight.c does it. */
#include "kernels/cuda/curve_cuda.cuh"

extern "C" {
#include "kernels/eight.h"
}

#include <cuda_fp8.h>

namespace
{

enum { THREADS = 128 };

struct tensor {
    const __nv_bfloat16 *from;
    __nv_bfloat16 *to;
    float *scale; /* [heads, blocks]; NULL: not wanted */
    ptrdiff_t row, head;
    int n, d, n_blocks;
    enum precision precision;
    bool centred;
};

__device__ float round_eight(enum precision p, float y)
{
    if (p == PRECISION_FP8) return (float)__nv_fp8_e4m3(y);
    return y != y ? y : fminf(fmaxf(rintf(y), -127.0f), 127.0f);
}

/* One CTA per 64 rows of a head; a thread has a column. */
__global__ __launch_bounds__(THREADS) void eight_kernel(const __grid_constant__ tensor t)
{
    __shared__ float largest_of[THREADS];
    const int block = blockIdx.x, head = blockIdx.y, c = threadIdx.x;
    const int first = block * EIGHT_ROWS, rows = min((int)EIGHT_ROWS, t.n - first);
    const __nv_bfloat16 *x = t.from + head * t.head + c;
    __nv_bfloat16 *to = t.to + head * t.head + c;
    float mean = 0, largest = 0;
    if (t.centred && c < t.d) {
        const int n = min(t.n, (int)EIGHT_MEAN_KEYS);
        double sum = 0;
        for (int r = 0; r < n; r++) sum += (double)__bfloat162float(x[r * t.row]);
        mean = (float)(sum / n);
    }
    for (int r = first; r < first + rows && c < t.d; r++)
        largest = fmaxf(largest, fabsf(__fsub_rn(__bfloat162float(x[r * t.row]), mean)));
    largest_of[c] = largest;
    __syncthreads();
    for (int i = 0; i < THREADS; i++) largest = fmaxf(largest, largest_of[i]);
    float scale = 1;
    if (t.precision == PRECISION_FP8) {
        int bits = __float_as_int(largest),
            e = (bits >> 23) - 127 - 8 + ((bits & 0x7fffff) > 0x600000);
        scale = __int_as_float((127 + max(e, (int)EIGHT_EXP_MIN)) << 23);
    } else if (largest > 0x1p-100f) {
        scale = __fdiv_rn(largest, 127.0f);
    }
    const float inverse = __fdiv_rn(1.0f, scale), back = t.precision == PRECISION_FP8 ? scale : 1;
    if (c == 0 && t.scale != NULL) t.scale[(size_t)head * t.n_blocks + block] = scale;
    for (int r = first; r < first + rows && c < t.d; r++) {
        float y = __fmul_rn(__fsub_rn(__bfloat162float(x[r * t.row]), mean), inverse);
        to[r * t.row] = __float2bfloat16(round_eight(t.precision, y) * back);
    }
}

enum status launch(const tensor &t, int heads, cudaStream_t stream)
{
    eight_kernel<<<dim3((unsigned)t.n_blocks, (unsigned)heads), THREADS, 0, stream>>>(t);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

size_t align256(size_t n) { return (n + 255) / 256 * 256; }

} // namespace

curve_eight curve_cuda_cut_eight(const struct attn_args *a, char *base)
{
    curve_eight e = {};
    const size_t d = (size_t)a->head_dim, n = (size_t)a->n_q, heads = (size_t)a->n_heads,
                 kv = (size_t)a->n_kv_heads;
    auto take = [&e, base](size_t bytes) {
        char *here = base + e.bytes;
        e.bytes += align256(bytes);
        return (void *)here;
    };
    e.n_blocks = (a->n_q + EIGHT_ROWS - 1) / EIGHT_ROWS;
    e.q = (__nv_bfloat16 *)a->q, e.k = (__nv_bfloat16 *)a->k, e.v = (__nv_bfloat16 *)a->v;
    if (a->qk != PRECISION_FULL) {
        e.q = (__nv_bfloat16 *)take(heads * n * d * 2);
        e.k = (__nv_bfloat16 *)take(kv * n * d * 2);
        e.q_scale = (float *)take(heads * (size_t)e.n_blocks * sizeof(float));
        e.k_scale = (float *)take(kv * (size_t)e.n_blocks * sizeof(float));
    }
    if (a->pv != PRECISION_FULL) e.v = (__nv_bfloat16 *)take(kv * n * d * 2);
    return e;
}

extern "C" {

size_t curve_cuda_eight_bytes(const struct attn_args *kept)
{
    return curve_cuda_cut_eight(kept, NULL).bytes;
}

enum status curve_cuda_eight(const struct attn_args *a, void *to, struct stream *stream)
{
    cudaStream_t s = (cudaStream_t)stream;
    curve_eight e = curve_cuda_cut_eight(a, (char *)to);
    tensor t = {};
    t.n = a->n_q, t.d = a->head_dim, t.n_blocks = e.n_blocks, t.precision = a->qk;
    if (a->qk != PRECISION_FULL) {
        t.from = (const __nv_bfloat16 *)a->q, t.row = a->q_row, t.head = a->q_head;
        t.to = e.q, t.scale = e.q_scale;
        TRY(launch(t, a->n_heads, s));
        t.from = (const __nv_bfloat16 *)a->k, t.row = a->k_row, t.head = a->k_head;
        t.to = e.k, t.scale = e.k_scale, t.centred = true;
        TRY(launch(t, a->n_kv_heads, s));
    }
    if (a->pv == PRECISION_FULL) return OK;
    t.from = (const __nv_bfloat16 *)a->v, t.row = a->v_row, t.head = a->v_head;
    t.to = e.v, t.scale = NULL, t.centred = false, t.precision = a->pv;
    return launch(t, a->n_kv_heads, s);
}
}

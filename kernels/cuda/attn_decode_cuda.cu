/* Attention of one new token, or of one each of several sequences, dense: every key and value is
 * read once for all query heads that share it, and the sequence is cut into stretches so that the
 * whole device reads (flash decoding).
 *
 * A key is held by as many lanes as its row has sixteen-byte pieces; a lane keeps that piece of G
 * query rows and of G outputs. Each group of lanes walks its own keys with an online softmax, and
 * the groups are merged at the end of the stretch, the stretches by a second kernel.
 */
extern "C" {
#include "kernels/cuda/batch_cuda.h"
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"

#include <cuda_bf16.h>
#include <math.h>

namespace
{

enum {
    THREADS = 128,
    MAX_SPLITS = 64,
    MIN_STRETCH = 64
}; /* keys: below this a stretch is all overhead */

struct params {
    const uint16_t *q, *k, *v;
    uint16_t *o;
    /* [rows, most_splits, n_heads, d + 2]: maximum, sum, unnormalised output */
    float *part;
    ptrdiff_t q_row, q_head, k_row, k_head, v_row, v_head, o_row, o_head;
    const int32_t *q_start_at; /* [rows]; NULL: n_kv below */
    const int32_t *slot;       /* [rows]; NULL: one row, whose keys begin at k */
    ptrdiff_t slot_step;
    int n_kv, n_heads, group, d, most_splits;
    float scale_log2;
};

/* How n_kv keys are cut: stretches of `per`, the last one shorter. */
struct cut {
    int n_kv, per, n_splits;
};

__host__ __device__ __forceinline__ struct cut cut_keys(int n_kv, int most_splits)
{
    int most = (n_kv + MIN_STRETCH - 1) / MIN_STRETCH,
        splits = most_splits < most ? most_splits : most;
    int per = (n_kv + splits - 1) / splits;
    return {n_kv, per, (n_kv + per - 1) / per};
}

__device__ __forceinline__ struct cut cut_of(const params &p, int row)
{
    return cut_keys(p.q_start_at != NULL ? p.q_start_at[row] + 1 : p.n_kv, p.most_splits);
}

__device__ __forceinline__ float *parts_of(const params &p, int row)
{
    return p.part + (size_t)row * p.most_splits * p.n_heads * (p.d + 2);
}

__device__ __forceinline__ void widen8(uint4 v, float (&x)[8])
{
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
        x[2 * i] = __uint_as_float(w[i] << 16), x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
}

/* LANES per key (a power of two, at least d / 8), G query heads of one kv head at a time. */
template <int LANES, int G>
__global__ __launch_bounds__(THREADS) void decode_kernel(const __grid_constant__ params p)
{
    constexpr int GROUPS = THREADS / LANES, AHEAD = 4;
    __shared__ float merged[GROUPS][G][LANES * 8 + 2];
    const int turns = p.group / G, row = (int)blockIdx.z / turns;
    const int split = blockIdx.x, kv = blockIdx.y,
              head0 = kv * p.group + (int)blockIdx.z % turns * G;
    const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES, at = lane * 8;
    const bool real = at < p.d;
    const struct cut c = cut_of(p, row);
    if (split >= c.n_splits) return; /* a grid that serves every length */
    const int from = split * c.per, to = min(from + c.per, c.n_kv);
    float q[G][8], o[G][8] = {}, top[G], sum[G];
#pragma unroll
    for (int g = 0; g < G; g++) {
        top[g] = -INFINITY, sum[g] = 0;
        widen8(real ? *(const uint4 *)(p.q + row * p.q_row + (head0 + g) * p.q_head + at)
                    : make_uint4(0, 0, 0, 0),
            q[g]);
#pragma unroll
        for (int i = 0; i < 8; i++) q[g][i] *= p.scale_log2;
    }
    const ptrdiff_t begin = p.slot != NULL ? p.slot[row] * p.slot_step : 0;
    const uint16_t *keys = p.k + begin + kv * p.k_head + at,
                   *values = p.v + begin + kv * p.v_head + at;
    /* the same number of rounds for every lane: they shuffle */
    for (int j0 = from; j0 < to; j0 += GROUPS * AHEAD) {
        uint4 kk[AHEAD], vv[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int j = j0 + a * GROUPS + group;
            bool there = real && j < to;
            kk[a] = there ? *(const uint4 *)(keys + j * p.k_row) : make_uint4(0, 0, 0, 0);
            vv[a] = there ? *(const uint4 *)(values + j * p.v_row) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            bool there = j0 + a * GROUPS + group < to;
            float k[8], v[8];
            widen8(kk[a], k);
            widen8(vv[a], v);
#pragma unroll
            for (int g = 0; g < G; g++) {
                float s = 0;
#pragma unroll
                for (int i = 0; i < 8; i++) s = fmaf(q[g][i], k[i], s);
#pragma unroll
                for (int m = LANES / 2; m > 0; m /= 2) s += __shfl_xor_sync(0xffffffffu, s, m);
                if (!there) continue;
                if (s > top[g]) {
                    float shrink = exp2f(top[g] - s);
                    top[g] = s;
                    sum[g] *= shrink;
#pragma unroll
                    for (int i = 0; i < 8; i++) o[g][i] *= shrink;
                }
                float e = exp2f(s - top[g]);
                sum[g] += e;
#pragma unroll
                for (int i = 0; i < 8; i++) o[g][i] = fmaf(e, v[i], o[g][i]);
            }
        }
    }
#pragma unroll
    for (int g = 0; g < G; g++) {
        if (lane == 0) merged[group][g][0] = top[g], merged[group][g][1] = sum[g];
#pragma unroll
        for (int i = 0; i < 8; i++) merged[group][g][2 + at + i] = o[g][i];
    }
    __syncthreads();
    for (int x = threadIdx.x; x < G * p.d; x += THREADS) {
        int g = x / p.d, i = x % p.d;
        float best = -INFINITY, total = 0, out = 0;
        for (int w = 0; w < GROUPS; w++) best = fmaxf(best, merged[w][g][0]);
        for (int w = 0; w < GROUPS; w++) {
            float weight = merged[w][g][0] == -INFINITY ? 0 : exp2f(merged[w][g][0] - best);
            total = fmaf(weight, merged[w][g][1], total);
            out = fmaf(weight, merged[w][g][2 + i], out);
        }
        float *part = parts_of(p, row) + ((size_t)split * p.n_heads + head0 + g) * (p.d + 2);
        part[2 + i] = out;
        if (i == 0) part[0] = best, part[1] = total;
    }
}

__global__ void merge_kernel(const __grid_constant__ params p)
{
    __shared__ float top[MAX_SPLITS], sum[MAX_SPLITS], weight[MAX_SPLITS];
    const int head = blockIdx.x, row = blockIdx.y, n_splits = cut_of(p, row).n_splits;
    const size_t line = p.d + 2, step = line * p.n_heads;
    const float *part = parts_of(p, row) + head * line;
    if ((int)threadIdx.x < n_splits) {
        top[threadIdx.x] = part[threadIdx.x * step];
        sum[threadIdx.x] = part[threadIdx.x * step + 1];
    }
    __syncthreads();
    float best = -INFINITY, total = 0;
    for (int s = 0; s < n_splits; s++) best = fmaxf(best, top[s]);
    if ((int)threadIdx.x < n_splits)
        weight[threadIdx.x] = top[threadIdx.x] == -INFINITY ? 0 : exp2f(top[threadIdx.x] - best);
    __syncthreads();
    for (int s = 0; s < n_splits; s++) total = fmaf(weight[s], sum[s], total);
    for (int i = threadIdx.x; i < p.d; i += blockDim.x) {
        float out = 0;
#pragma unroll 8
        /* loads wait for nothing */
        for (int s = 0; s < n_splits; s++) out = fmaf(weight[s], part[s * step + 2 + i], out);
        __nv_bfloat16 x = __float2bfloat16_rn(out / total);
        p.o[row * p.o_row + head * p.o_head + i] = *(uint16_t *)&x;
    }
}

template <int LANES> enum status launch(const params &p, int n, int n_splits, cudaStream_t s)
{
    const int g = p.group % 8 == 0 ? 8 : p.group % 4 == 0 ? 4 : p.group % 2 == 0 ? 2 : 1;
    dim3 grid((unsigned)n_splits, (unsigned)(p.n_heads / p.group), (unsigned)(p.group / g * n));
    if (g == 8 && LANES < 32)
        decode_kernel<LANES, (LANES < 32 ? 8 : 4)><<<grid, THREADS, 0, s>>>(p);
    else if (g >= 4) {
        grid.z = (unsigned)(p.group / 4 * n);
        decode_kernel<LANES, 4><<<grid, THREADS, 0, s>>>(p);
    } else if (g == 2) decode_kernel<LANES, 2><<<grid, THREADS, 0, s>>>(p);
    else decode_kernel<LANES, 1><<<grid, THREADS, 0, s>>>(p);
    CUDA_TRY(cudaGetLastError());
    merge_kernel<<<dim3((unsigned)p.n_heads, (unsigned)n), THREADS, 0, s>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

bool aligned(const void *at, ptrdiff_t row, ptrdiff_t head)
{
    return (uintptr_t)at % 16 == 0 && row % 8 == 0 && head % 8 == 0;
}

const char *refuses(const struct attn_args *a)
{
    if (!attn_is_full(a)) return "takes no eight-bit products";
    if (a->dtype != DTYPE_BF16) return "takes bf16 only";
    if (a->n_q != 1) return "takes one new token";
    if (a->tiles != NULL) return "given a tile map";
    if (a->window > 0) return "has no sliding window";
    if (a->ledger != NULL) return "counts no tiles";
    if (a->head_dim % 8 != 0 || a->head_dim > 256)
        return "head_dim is not a multiple of 8 up to 256";
    if (a->n_heads % a->n_kv_heads != 0) return "query heads are not a multiple of kv heads";
    if (a->n_kv_heads > 65535) return "more than 65535 kv heads";
    if (!aligned(a->q, a->q_row, a->q_head) || !aligned(a->k, a->k_row, a->k_head) ||
        !aligned(a->v, a->v_row, a->v_head))
        return "pointers and strides are not multiples of 16 bytes";
    if (cuda_current_sm() < 80) return "the current device is below compute capability 8.0";
    return NULL;
}

size_t scratch(const struct attn_args *a, int n)
{
    return (sizeof(float) * MAX_SPLITS * (size_t)n * (size_t)a->n_heads *
                   ((size_t)a->head_dim + 2) +
               63) /
        64 * 64;
}

size_t workspace(const struct attn_args *a) { return scratch(a, 1); }

enum status run_rows(const struct attn_batch_cuda_args *b, void *ws, struct stream *stream)
{
    const struct attn_args *a = b->attn;
    int device, sms;
    CUDA_TRY(cudaGetDevice(&device));
    CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
    params p = {};
    p.q = (const uint16_t *)a->q, p.k = (const uint16_t *)a->k, p.v = (const uint16_t *)a->v,
    p.o = (uint16_t *)a->o;
    p.part = (float *)ws;
    p.q_row = a->q_row, p.q_head = a->q_head, p.k_row = a->k_row, p.k_head = a->k_head,
    p.v_row = a->v_row, p.v_head = a->v_head, p.o_row = a->o_row, p.o_head = a->o_head;
    p.q_start_at = a->q_start_at;
    p.slot = b->slot, p.slot_step = b->slot_step;
    p.n_kv = attn_n_kv(a), p.n_heads = a->n_heads, p.group = a->n_heads / a->n_kv_heads,
    p.d = a->head_dim;
    p.scale_log2 = a->scale * 1.44269504f;
    /* four CTAs a multiprocessor keep enough loads in flight; every stretch must hold a key. How
     * many rows there are does not matter: it would change the last digits of each */
    int most = 4 * sms / a->n_kv_heads;
    p.most_splits = most < 1 ? 1 : most > MAX_SPLITS ? MAX_SPLITS : most;
    int splits = a->q_start_at != NULL ? p.most_splits : cut_keys(p.n_kv, p.most_splits).n_splits;
    cudaStream_t s = (cudaStream_t)stream;
    if (a->head_dim <= 64) return launch<8>(p, b->n, splits, s);
    if (a->head_dim <= 128) return launch<16>(p, b->n, splits, s);
    return launch<32>(p, b->n, splits, s);
}

enum status run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)par;
    const struct attn_batch_cuda_args one = {a, 1, NULL, 0};
    return run_rows(&one, ws, stream);
}

enum { ARGMAX_THREADS = 1024 };

struct best {
    float z;
    int32_t id;
    bool finite;
};

__device__ __forceinline__ void better(best &a, float z, int32_t id, bool finite)
{
    a.finite &= finite;
    if (z > a.z || (z == a.z && id < a.id)) a.z = z, a.id = id;
}

__global__ __launch_bounds__(ARGMAX_THREADS) void argmax_kernel(
    const float *x, int width, int32_t *ids)
{
    __shared__ best warps[ARGMAX_THREADS / 32];
    const float *row = x + (size_t)blockIdx.x * width;
    best b = {-INFINITY, width, true};
    for (int i = threadIdx.x; i < width; i += ARGMAX_THREADS)
        better(b, row[i], i, isfinite(row[i]));
    for (int level = 0; level < 2; level++) {
        for (int m = 16; m > 0; m /= 2)
            better(b, __shfl_xor_sync(0xffffffffu, b.z, m), __shfl_xor_sync(0xffffffffu, b.id, m),
                __shfl_xor_sync(0xffffffffu, (int)b.finite, m));
        if (level == 1) break;
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = b;
        __syncthreads();
        b = warps[threadIdx.x % 32];
    }
    if (threadIdx.x == 0) ids[blockIdx.x] = b.finite ? b.id : -1;
}

} // namespace

extern "C" {
size_t attn_batch_cuda_workspace(const struct attn_args *attn, int n) { return scratch(attn, n); }

enum status attn_batch_cuda_run(
    const struct attn_batch_cuda_args *a, void *ws, struct stream *stream)
{
    return run_rows(a, ws, stream);
}

enum status argmax_cuda_rows(const float *x, int n, int width, int32_t *ids, struct stream *stream)
{
    argmax_kernel<<<(unsigned)n, ARGMAX_THREADS, 0, (cudaStream_t)stream>>>(x, width, ids);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

const struct attn_impl attn_decode_cuda_bf16 = {"attn_decode_cuda_bf16", refuses, workspace, run};
}

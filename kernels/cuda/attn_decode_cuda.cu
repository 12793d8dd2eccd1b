/* Attention of one new token, or of one each of several sequences, dense: every key and value is
 * read once for up to eight query heads that share it, and the sequence is cut into stretches so
 * that the whole device reads (flash decoding, Dao et al. 2023).
 *
 * A warp takes 16 keys at a time, straight from memory into the fragments of the tensor cores:
 * scores are keys x heads, outputs d x heads, so that the few heads of a group fill the narrow side
 * of a product. Which of a lane's values are which k of an instruction does not matter as long as
 * both factors agree; so a lane reads whole 16-byte pieces. Each warp keeps an online softmax; they
 * are merged at the end of the stretch, the stretches by a second kernel.
 */
extern "C" {
#include "kernels/cuda/batch_cuda.h"
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"
#include "kernels/cuda/mma.cuh"

#include <cuda_bf16.h>
#include <math.h>

namespace
{

enum {
    THREADS = 128,
    WARPS = THREADS / 32,
    HEADS = 8, /* of a product: the width of the tensor cores' b */
    KEYS = 16, /* of a product */
    MAX_SPLITS = 64,
    MIN_STRETCH = 128 /* keys: below this a stretch is all overhead */
};

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

__device__ __forceinline__ uint4 piece(const uint16_t *row, bool there)
{
    return there ? *(const uint4 *)row : make_uint4(0, 0, 0, 0);
}

/* Neighbours of two rows, side by side: the low or the high halves of x and y. */
__device__ __forceinline__ uint32_t low_halves(uint32_t x, uint32_t y)
{
    return __byte_perm(x, y, 0x5410);
}

__device__ __forceinline__ uint32_t high_halves(uint32_t x, uint32_t y)
{
    return __byte_perm(x, y, 0x7632);
}

/* What a warp knows of its keys: of heads 2t and 2t + 1 of lane 4g + t the maximum, the lane's part
 * of the sum, and of the output dimensions 8 (g + 8i) + 2w and the next, i = 0…, w = 0..3. */
template <int PIECES> struct soft {
    float top[2], sum[2], o[PIECES / 2][4];
};

/* The scores of 16 keys are s: keys g and g + 8 of heads 2t and 2t + 1; v are four keys of the
 * lane, 2t, 2t + 1, 2t + 8, 2t + 9. */
template <int PIECES>
__device__ __forceinline__ void add_keys(
    soft<PIECES> &x, const float (&s)[4], const uint4 (&v)[4][PIECES / 8])
{
    float e[4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float base = x.top[i] == -INFINITY ? 0 : x.top[i]; /* no key yet */
        e[i] = exp2f(s[i] - base), e[2 + i] = exp2f(s[2 + i] - base);
        x.sum[i] += e[i] + e[2 + i];
    }
    const uint32_t p0 = transpose(pack(e[0], e[1])), p1 = transpose(pack(e[2], e[3]));
#pragma unroll
    for (int i = 0; i < PIECES / 8; i++) {
        const uint32_t rows[4][4] = {{v[0][i].x, v[1][i].x, v[2][i].x, v[3][i].x},
            {v[0][i].y, v[1][i].y, v[2][i].y, v[3][i].y},
            {v[0][i].z, v[1][i].z, v[2][i].z, v[3][i].z},
            {v[0][i].w, v[1][i].w, v[2][i].w, v[3][i].w}};
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const uint32_t a[4] = {low_halves(rows[w][0], rows[w][1]),
                high_halves(rows[w][0], rows[w][1]), low_halves(rows[w][2], rows[w][3]),
                high_halves(rows[w][2], rows[w][3])};
            multiply(x.o[4 * i + w], a, p0, p1);
        }
    }
}

/* PIECES of 16 bytes hold a row: 8, 16 or 32, at least d / 8. */
template <int PIECES>
__global__ __launch_bounds__(THREADS, 1) void decode_kernel(const __grid_constant__ params p)
{
    constexpr int TILES = PIECES == 8 ? 2 : 1, ROUND = TILES * KEYS; /* whose loads are in flight */
    __shared__ float merged[WARPS][HEADS][PIECES * 8 + 2];
    const int turns = (p.group + HEADS - 1) / HEADS, row = (int)blockIdx.z / turns;
    const int first = (int)blockIdx.z % turns * HEADS, heads = min((int)HEADS, p.group - first);
    const int split = blockIdx.x, kv = blockIdx.y, head0 = kv * p.group + first;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const struct cut c = cut_of(p, row);
    if (split >= c.n_splits) return; /* a grid that serves every length */
    const int from = split * c.per, to = min(from + c.per, c.n_kv);
    uint4 q[PIECES / 4];
#pragma unroll
    for (int i = 0; i < PIECES / 4; i++) {
        const int at = 8 * (t + 4 * i);
        q[i] = piece(p.q + row * p.q_row + (head0 + g) * p.q_head + at, g < heads && at < p.d);
    }
    const ptrdiff_t begin = p.slot != NULL ? p.slot[row] * p.slot_step : 0;
    const uint16_t *keys = p.k + begin + kv * p.k_head, *values = p.v + begin + kv * p.v_head;
    soft<PIECES> x = {{-INFINITY, -INFINITY}, {}, {}};
    for (int j0 = from + warp * ROUND; j0 < to; j0 += WARPS * ROUND) {
        uint4 k[TILES][2][PIECES / 4], v[TILES][4][PIECES / 8];
#pragma unroll
        for (int a = 0; a < TILES; a++) {
#pragma unroll
            for (int b = 0; b < 2; b++)
#pragma unroll
                for (int i = 0; i < PIECES / 4; i++) {
                    const int j = j0 + a * KEYS + b * 8 + g, at = 8 * (t + 4 * i);
                    k[a][b][i] = piece(keys + j * p.k_row + at, j < to && at < p.d);
                }
#pragma unroll
            for (int b = 0; b < 4; b++)
#pragma unroll
                for (int i = 0; i < PIECES / 8; i++) {
                    const int j = j0 + a * KEYS + 2 * t + b % 2 + b / 2 * 8, at = 8 * (g + 8 * i);
                    v[a][b][i] = piece(values + j * p.v_row + at, j < to && at < p.d);
                }
        }
        float s[TILES][4] = {}, top[2] = {x.top[0], x.top[1]};
#pragma unroll
        for (int a = 0; a < TILES; a++) {
#pragma unroll
            for (int i = 0; i < PIECES / 4; i++) {
                const uint4 low = k[a][0][i], high = k[a][1][i];
                const uint32_t one[4] = {low.x, high.x, low.y, high.y},
                               two[4] = {low.z, high.z, low.w, high.w};
                multiply(s[a], one, q[i].x, q[i].y);
                multiply(s[a], two, q[i].z, q[i].w);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const bool there = j0 + a * KEYS + i / 2 * 8 + g < to;
                s[a][i] = there ? s[a][i] * p.scale_log2 : -INFINITY;
                top[i % 2] = fmaxf(top[i % 2], s[a][i]);
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int m = 4; m < 32; m *= 2)
                top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffu, top[i], m));
            const float shrink = x.top[i] == -INFINITY ? 0 : exp2f(x.top[i] - top[i]);
            x.top[i] = top[i];
            x.sum[i] *= shrink;
#pragma unroll
            for (int m = 0; m < PIECES / 2; m++) x.o[m][i] *= shrink, x.o[m][2 + i] *= shrink;
        }
#pragma unroll
        for (int a = 0; a < TILES; a++) add_keys<PIECES>(x, s[a], v[a]);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int m = 4; m < 32; m *= 2) x.sum[i] += __shfl_xor_sync(0xffffffffu, x.sum[i], m);
        float *to_merge = merged[warp][2 * t + i];
        if (g == 0) to_merge[0] = x.top[i], to_merge[1] = x.sum[i];
#pragma unroll
        for (int m = 0; m < PIECES / 2; m++) {
            const int at = 2 + 8 * (g + m / 4 * 8) + 2 * (m % 4);
            to_merge[at] = x.o[m][i], to_merge[at + 1] = x.o[m][2 + i];
        }
    }
    __syncthreads();
    for (int y = threadIdx.x; y < heads * p.d; y += THREADS) {
        int h = y / p.d, i = y % p.d;
        float best = -INFINITY, total = 0, out = 0;
        for (int w = 0; w < WARPS; w++) best = fmaxf(best, merged[w][h][0]);
        for (int w = 0; w < WARPS; w++) {
            float weight = merged[w][h][0] == -INFINITY ? 0 : exp2f(merged[w][h][0] - best);
            total = fmaf(weight, merged[w][h][1], total);
            out = fmaf(weight, merged[w][h][2 + i], out);
        }
        float *part = parts_of(p, row) + ((size_t)split * p.n_heads + head0 + h) * (p.d + 2);
        part[2 + i] = out;
        if (i == 0) part[0] = best, part[1] = total;
    }
}

/* Weights of the stretches are shared, then each thread sums a dimension; loads do not wait for one
 * another. */
__global__ __launch_bounds__(THREADS, 1) void merge_kernel(const __grid_constant__ params p)
{
    constexpr int AHEAD = 16;
    __shared__ float top[MAX_SPLITS], sum[MAX_SPLITS], weight[MAX_SPLITS];
    const int head = blockIdx.x, row = blockIdx.y, n_splits = cut_of(p, row).n_splits;
    const size_t line = p.d + 2, step = line * p.n_heads;
    const float *part = parts_of(p, row) + head * line;
    const int s = threadIdx.x;
    if (s < n_splits) top[s] = part[s * step], sum[s] = part[s * step + 1];
    __syncthreads();
    float best = -INFINITY, total = 0;
    for (int i = 0; i < n_splits; i++) best = fmaxf(best, top[i]);
    if (s < n_splits) weight[s] = top[s] == -INFINITY ? 0 : exp2f(top[s] - best);
    __syncthreads();
    for (int i = 0; i < n_splits; i++) total = fmaf(weight[i], sum[i], total);
    for (int i = threadIdx.x; i < p.d; i += THREADS) {
        float out = 0;
        for (int first = 0; first < n_splits; first += AHEAD) {
            float x[AHEAD];
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
                x[k] = first + k < n_splits ? part[(first + k) * step + 2 + i] : 0;
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
                if (first + k < n_splits) out = fmaf(weight[first + k], x[k], out);
        }
        __nv_bfloat16 y = __float2bfloat16_rn(out / total);
        p.o[row * p.o_row + head * p.o_head + i] = *(uint16_t *)&y;
    }
}

template <int PIECES> enum status launch(const params &p, int n, int n_splits, cudaStream_t s)
{
    const dim3 grid((unsigned)n_splits, (unsigned)(p.n_heads / p.group),
        (unsigned)((p.group + HEADS - 1) / HEADS * n));
    cuda_launch(decode_kernel<PIECES>, grid, THREADS, 0, s, p);
    CUDA_TRY(cudaGetLastError());
    cuda_launch(merge_kernel, dim3((unsigned)p.n_heads, (unsigned)n), THREADS, 0, s, p);
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
    /* two CTAs a multiprocessor keep enough loads in flight; every stretch must hold a key. How
     * many rows there are does not matter: it would change the last digits of each */
    int most = 2 * sms / a->n_kv_heads;
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

struct argmax_args {
    const float *x;
    int width;
    int32_t *ids;
};

__global__ __launch_bounds__(ARGMAX_THREADS) void argmax_kernel(
    const __grid_constant__ argmax_args p)
{
    constexpr int AHEAD = 8; /* loads in flight */
    __shared__ best warps[ARGMAX_THREADS / 32];
    const float *row = p.x + (size_t)blockIdx.x * p.width;
    best b = {-INFINITY, p.width, true};
    for (int first = threadIdx.x; first < p.width; first += ARGMAX_THREADS * AHEAD) {
        float z[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int at = first + i * ARGMAX_THREADS;
            z[i] = at < p.width ? row[at] : row[first];
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int at = first + i * ARGMAX_THREADS;
            better(b, z[i], at < p.width ? at : first, isfinite(z[i]));
        }
    }
    for (int level = 0; level < 2; level++) {
        for (int m = 16; m > 0; m /= 2)
            better(b, __shfl_xor_sync(0xffffffffu, b.z, m), __shfl_xor_sync(0xffffffffu, b.id, m),
                __shfl_xor_sync(0xffffffffu, (int)b.finite, m));
        if (level == 1) break;
        if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = b;
        __syncthreads();
        b = warps[threadIdx.x % 32];
    }
    if (threadIdx.x == 0) p.ids[blockIdx.x] = b.finite ? b.id : -1;
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
    cuda_launch(argmax_kernel, (unsigned)n, ARGMAX_THREADS, 0, (cudaStream_t)stream,
        argmax_args{x, width, ids});
    CUDA_TRY(cudaGetLastError());
    return OK;
}

const struct attn_impl attn_decode_cuda_bf16 = {"attn_decode_cuda_bf16", refuses, workspace, run};
}

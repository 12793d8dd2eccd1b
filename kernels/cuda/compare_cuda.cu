extern "C" {
#include "kernels/cuda/compare_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"

#include <math.h>

namespace
{

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    HELD = 16,              /* logits of a side that a thread keeps in registers */
    PIECE = HELD * THREADS, /* and that a CTA folds at a time */
    HIDDEN_THREADS = 128
};

/* Order of (value, id) as an unsigned number: greater value first, then lower id. */
__device__ __forceinline__ uint64_t rank_of(float value, int id)
{
    uint32_t bits = __float_as_uint(value + 0.0f); /* -0 equals 0 */
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (0xffffffffu - (uint32_t)id);
}

__device__ __forceinline__ float value_of(uint64_t rank)
{
    uint32_t bits = (uint32_t)(rank >> 32);
    return __uint_as_float(bits & 0x80000000u ? bits ^ 0x80000000u : ~bits);
}

__device__ __forceinline__ int id_of(uint64_t rank) { return (int)(0xffffffffu - (uint32_t)rank); }

/* In front of every finite value: infinity, id 0. */
constexpr uint64_t FIRST = 0xff800000ffffffffull;

/* id of the i-th value a thread holds, relative to the piece: sixteen bytes per load */
__device__ __forceinline__ int place_of(int i)
{
    return (i / 4 * THREADS + (int)threadIdx.x) * 4 + i % 4;
}

__device__ __forceinline__ uint64_t block_max(uint64_t x, uint64_t *part)
{
#pragma unroll
    for (int m = 16; m > 0; m /= 2) {
        uint64_t y = __shfl_xor_sync(0xffffffffu, x, m);
        x = y > x ? y : x;
    }
    __syncthreads(); /* `part` may still be read from the call before */
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    x = part[threadIdx.x % WARPS];
#pragma unroll
    for (int m = WARPS / 2; m > 0; m /= 2) {
        uint64_t y = __shfl_xor_sync(0xffffffffu, x, m);
        x = y > x ? y : x;
    }
    return x;
}

__global__ void begin_kernel(struct compare_cuda_row *rows, int n)
{
    int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= n) return;
    struct compare_cuda_row row = {};
    for (int side = 0; side < 2; side++) {
        row.row.m[side] = -INFINITY;
        for (int i = 0; i < 5; i++) {
            row.row.top[side][i] = -INFINITY;
            row.row.top_id[side][i] = -1;
        }
    }
    rows[r] = row;
}

__device__ void load_piece(const float *z, int ids, float (&x)[HELD])
{
#pragma unroll
    for (int i = 0; i < HELD; i += 4) {
        int at = place_of(i);
        float4 v = at < ids ? *(const float4 *)(z + at) : make_float4(0, 0, 0, 0);
        x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
    }
}

/* The best of this thread's values behind `limit` in that order; 0 when there is none. */
__device__ uint64_t best_below(const float (&x)[HELD], int ids, int first, uint64_t limit)
{
    const float limit_value = value_of(limit);
    const int limit_id = id_of(limit);
    float best = -INFINITY;
    int best_id = -1;
#pragma unroll
    for (int i = 0; i < HELD; i++) { /* ids rise, so the first of equals stays */
        int id = first + place_of(i);
        bool behind = x[i] < limit_value || (x[i] == limit_value && id > limit_id);
        if (place_of(i) < ids && behind && x[i] > best) best = x[i], best_id = id;
    }
    return best_id < 0 ? 0 : rank_of(best, best_id);
}

/* Let the piece's best values into the row's five. `top_rank` is the best of them. */
__device__ void fold_top(const float (&x)[HELD], int ids, int first, uint64_t top_rank, float *top,
    int32_t *top_id, uint64_t *part)
{
    __shared__ float bound;
    if (threadIdx.x == 0) bound = top[4];
    __syncthreads();
    uint64_t mine = 0, winner = top_rank;
    for (int round = 0; round < 5 && value_of(winner) > bound; round++) {
        __syncthreads(); /* all have read the bound */
        if (threadIdx.x == 0) {
            float value = value_of(winner);
            int at = 4;
            for (; at > 0 && value > top[at - 1]; at--)
                top[at] = top[at - 1], top_id[at] = top_id[at - 1];
            top[at] = value, top_id[at] = id_of(winner);
            bound = top[4];
        }
        if (round == 0 || mine == winner) mine = best_below(x, ids, first, winner);
        winner = block_max(mine, part);
        if (winner == 0) break;
    }
    __syncthreads();
}

enum { DOT, SQ_0, SQ_1, SUM_0, SUM_1, ABS, SQ_DIFF, EXP_0, EXP_1, TILT, N_SUMS };

/* Fold `ids` logits of a row, at most a piece, whose first is id `first`, into the state in shared
 * memory. */
template <bool BOTH>
__device__ __forceinline__ void fold_piece(const float *za, const float *zb, int ids, int first,
    struct logit_row &state, uint64_t *part, float (*sums)[N_SUMS + 1])
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float a[HELD], b[HELD];
    load_piece(za, ids, a);
    if (BOTH) load_piece(zb, ids, b);
    bool bad = false;
    float x[N_SUMS] = {};
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        bad |= !isfinite(a[i]);
        x[SQ_0] = fmaf(a[i], a[i], x[SQ_0]);
        x[SUM_0] += a[i];
        if (BOTH) {
            bad |= !isfinite(b[i]);
            float diff = a[i] - b[i];
            x[DOT] = fmaf(a[i], b[i], x[DOT]);
            x[SQ_1] = fmaf(b[i], b[i], x[SQ_1]);
            x[SUM_1] += b[i];
            x[ABS] += fabsf(diff);
            x[SQ_DIFF] = fmaf(diff, diff, x[SQ_DIFF]);
        }
    }
    uint64_t top_a = block_max(best_below(a, ids, first, FIRST), part), top_b = top_a;
    if (BOTH) top_b = block_max(best_below(b, ids, first, FIRST), part);
    __syncthreads(); /* and `state` is there */
    float m0 = fmaxf(state.m[0], value_of(top_a)), m1 = fmaxf(state.m[1], value_of(top_b));
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        float e = place_of(i) < ids ? __expf(a[i] - m0) : 0.0f;
        x[EXP_0] += e;
        if (BOTH) {
            x[EXP_1] += place_of(i) < ids ? __expf(b[i] - m1) : 0.0f;
            x[TILT] = fmaf(e, a[i] - b[i], x[TILT]);
        }
    }
#pragma unroll
    for (int i = 0; i < N_SUMS; i++) {
        if (!BOTH && i != SQ_0 && i != SUM_0 && i != EXP_0) continue;
#pragma unroll
        for (int m = 16; m > 0; m /= 2) x[i] += __shfl_xor_sync(0xffffffffu, x[i], m);
    }
    if (lane == 0) {
#pragma unroll
        for (int i = 0; i < N_SUMS; i++) sums[warp][i] = x[i];
    }
    bad = __syncthreads_or(bad);
    if (threadIdx.x == 0) {
        double total[N_SUMS];
        for (int i = 0; i < N_SUMS; i++) {
            total[i] = 0;
            for (int w = 0; w < WARPS; w++) total[i] += (double)sums[w][i];
        }
        float shrink0 = state.m[0] == -INFINITY ? 0 : expf(state.m[0] - m0);
        float shrink1 = state.m[1] == -INFINITY ? 0 : expf(state.m[1] - m1);
        state.s[0] = state.s[0] * shrink0 + (float)total[EXP_0];
        state.s[1] = BOTH ? state.s[1] * shrink1 + (float)total[EXP_1] : state.s[0];
        state.t = state.t * shrink0 + (float)total[TILT];
        state.m[0] = m0, state.m[1] = m1;
        state.dot += total[BOTH ? DOT : SQ_0];
        state.sq[0] += total[SQ_0], state.sq[1] += total[BOTH ? SQ_1 : SQ_0];
        state.sum[0] += total[SUM_0], state.sum[1] += total[BOTH ? SUM_1 : SUM_0];
        state.abs_diff += total[ABS], state.sq_diff += total[SQ_DIFF];
        state.bad |= bad;
    }
    fold_top(a, ids, first, top_a, state.top[0], state.top_id[0], part);
    if (BOTH) fold_top(b, ids, first, top_b, state.top[1], state.top_id[1], part);
}

template <bool BOTH>
__global__ __launch_bounds__(THREADS, BOTH ? 3 : 4) void fold_kernel(const float *logits, int chunk,
    int n_rows, int ids, int first, const int32_t *next, struct compare_cuda_row *rows)
{
    __shared__ uint64_t part[WARPS];
    __shared__ float sums[WARPS][N_SUMS + 1];
    __shared__ struct logit_row state;
    const int r = blockIdx.x;
    const float *za = logits + (size_t)r * chunk,
                *zb = BOTH ? logits + (size_t)(n_rows + r) * chunk : za;
    for (int i = threadIdx.x; i < (int)(sizeof state / 4); i += THREADS)
        ((uint32_t *)&state)[i] = ((const uint32_t *)&rows[r].row)[i];
    for (int at = 0; at < ids; at += PIECE)
        fold_piece<BOTH>(
            za + at, zb + at, min((int)PIECE, ids - at), first + at, state, part, sums);
    int at = next[r] - first;
    if (threadIdx.x == 0 && next[r] >= 0 && at >= 0 && at < ids)
        rows[r].z_next[0] = za[at], rows[r].z_next[1] = zb[at];
    if (!BOTH && threadIdx.x < 5) {
        state.top[1][threadIdx.x] = state.top[0][threadIdx.x];
        state.top_id[1][threadIdx.x] = state.top_id[0][threadIdx.x];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < (int)(sizeof state / 4); i += THREADS)
        ((uint32_t *)&rows[r].row)[i] = ((const uint32_t *)&state)[i];
}

/* What a loss needs of a chunk. One warp per row: no barrier, and each value is looked at twice in
 * registers. */
__global__ __launch_bounds__(THREADS) void loss_kernel(const float *logits, int chunk, int n_rows,
    int ids, int first, const int32_t *next, struct compare_cuda_row *rows)
{
    constexpr int AT_ONCE = 8; /* sixteen-byte loads in flight */
    const int r = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (r >= n_rows) return;
    const float *z = logits + (size_t)r * chunk;
    float top = -INFINITY, sum = 0;
    bool bad = false;
    for (int at0 = lane * 4; at0 - lane * 4 < ids; at0 += AT_ONCE * 128) {
        float x[4 * AT_ONCE], best = top;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            int at = at0 + i * 128;
            float4 v = at < ids ? *(const float4 *)(z + at)
                                : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
            x[4 * i] = v.x, x[4 * i + 1] = v.y, x[4 * i + 2] = v.z, x[4 * i + 3] = v.w;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                bad |= at + j < ids && !isfinite(x[4 * i + j]);
                if (at + j >= ids) x[4 * i + j] = -INFINITY;
            }
        }
#pragma unroll
        for (int i = 0; i < 4 * AT_ONCE; i++) best = fmaxf(best, x[i]);
        if (best == -INFINITY) continue;
        sum *= __expf(top - best);
        top = best;
#pragma unroll
        for (int i = 0; i < 4 * AT_ONCE; i++) sum += __expf(x[i] - best);
    }
    float m = top;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, d));
    sum = top == -INFINITY ? 0 : sum * __expf(top - m);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    bad = __any_sync(0xffffffffu, bad);
    if (lane != 0) return;
    struct logit_row *row = &rows[r].row;
    float now = fmaxf(row->m[0], m);
    float total =
        (row->m[0] == -INFINITY ? 0 : row->s[0] * expf(row->m[0] - now)) + sum * expf(m - now);
    row->m[0] = row->m[1] = now;
    row->s[0] = row->s[1] = total;
    row->bad |= bad;
    int at = next[r] - first;
    if (next[r] >= 0 && at >= 0 && at < ids) rows[r].z_next[0] = rows[r].z_next[1] = z[at];
}

__global__ __launch_bounds__(HIDDEN_THREADS) void hidden_kernel(
    const float *dense, const float *sparse, int k, struct compare_cuda_row *rows)
{
    __shared__ double part[HIDDEN_THREADS / 32][4];
    const float *a = dense + (size_t)blockIdx.x * k, *b = sparse + (size_t)blockIdx.x * k;
    double sum[4] = {};
    for (int i = threadIdx.x; i < k; i += HIDDEN_THREADS) {
        double x = a[i], y = b[i];
        sum[0] += x * y, sum[1] += x * x, sum[2] += y * y, sum[3] += fabs(x - y);
    }
    for (int i = 0; i < 4; i++) {
        for (int m = 16; m > 0; m /= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], m);
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32][i] = sum[i];
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int w = 1; w < HIDDEN_THREADS / 32; w++)
        for (int i = 0; i < 4; i++) sum[i] += part[w][i];
    struct compare_cuda_row *row = &rows[blockIdx.x];
    row->hidden_dot = sum[0], row->hidden_sq[0] = sum[1], row->hidden_sq[1] = sum[2],
    row->hidden_abs = sum[3];
}

__global__ void nll_kernel(
    const struct compare_cuda_row *rows, const int32_t *next, int n, float *nll)
{
    int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= n) return;
    const struct logit_row *row = &rows[r].row;
    double log_sum = (double)row->m[0] + log((double)row->s[0]);
    nll[r] = row->bad ? NAN : next[r] < 0 ? 0.0f : (float)(log_sum - (double)rows[r].z_next[0]);
}

} // namespace

static_assert(sizeof(struct logit_row) % 4 == 0, "a row is moved by words");

extern "C" {

enum status compare_cuda_run(
    const struct compare_cuda_args *a, struct gemm_cuda *g, struct stream *stream)
{
    cudaStream_t s = (cudaStream_t)stream;
    const int n = a->n_rows, sides = a->both ? 2 : 1, chunk = a->chunk;
    begin_kernel<<<(n + 127) / 128, 128, 0, s>>>(a->rows, n);
    CUDA_TRY(cudaGetLastError());
    if (a->hidden != NULL) {
        hidden_kernel<<<n, HIDDEN_THREADS, 0, s>>>(
            a->hidden, a->hidden + (a->both ? (size_t)n * a->k : 0), a->k, a->rows);
        CUDA_TRY(cudaGetLastError());
    }
    for (int first = 0; first < a->vocab; first += chunk) {
        int ids = a->vocab - first < chunk ? a->vocab - first : chunk;
        /* loads are sixteen bytes: what stands behind the last id must be a number */
        if (ids % 4 != 0)
            CUDA_TRY(cudaMemset2DAsync(a->logits + ids, sizeof(float) * chunk, 0,
                sizeof(float) * (4 - ids % 4), (size_t)(sides * n), s));
        TRY(gemm_cuda_run(g, sides * n, ids, a->k, a->x, a->head + (size_t)first * a->k, a->logits,
            chunk, DTYPE_F32, false));
        if (a->loss_only)
            loss_kernel<<<(n + WARPS - 1) / WARPS, THREADS, 0, s>>>(
                a->logits, chunk, n, ids, first, a->next, a->rows);
        else if (a->both)
            fold_kernel<true>
                <<<n, THREADS, 0, s>>>(a->logits, chunk, n, ids, first, a->next, a->rows);
        else
            fold_kernel<false>
                <<<n, THREADS, 0, s>>>(a->logits, chunk, n, ids, first, a->next, a->rows);
        CUDA_TRY(cudaGetLastError());
    }
    return OK;
}

enum status compare_cuda_nll(const struct compare_cuda_row *rows, const int32_t *next, int n,
    float *nll, struct stream *stream)
{
    nll_kernel<<<(n + 127) / 128, 128, 0, (cudaStream_t)stream>>>(rows, next, n, nll);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

static double cosine(double dot, double a, double b)
{
    if (a <= 0 || b <= 0) return a == b;
    double c = dot / sqrt(a * b);
    return c > 1 ? 1 : c < -1 ? -1 : c;
}

int compare_cuda_finish(const struct compare_cuda_row *rows, int n, int vocab, int k,
    const int32_t *next, struct token_metrics *out, struct tensor_sums *sums)
{
    int bad = -1;
    for (int r = 0; r < n; r++) {
        const struct compare_cuda_row *x = &rows[r];
        logit_row_finish(&x->row, vocab, next[r], x->z_next, &out[r]);
        logit_row_sum(&x->row, vocab, sums);
        out[r].hidden_cosine = (float)cosine(x->hidden_dot, x->hidden_sq[0], x->hidden_sq[1]);
        out[r].hidden_l1 = (float)(x->hidden_abs / k);
        sums->hidden_dot += x->hidden_dot;
        sums->hidden_dense_sq += x->hidden_sq[0];
        sums->hidden_sparse_sq += x->hidden_sq[1];
        sums->hidden_abs_diff += x->hidden_abs;
        sums->hidden_n += k;
        if (x->row.bad && bad < 0) bad = r;
    }
    return bad;
}
}

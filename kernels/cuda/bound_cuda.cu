/* The predictor `bound` on the device (kernels/mask/mask_bound.c), for as many rows of the map at a
 * time as their masses leave room for in the workspace, which stays within the cache:
 *
 *   pool_rows   ranges of the sub-blocks of keys, once for all heads that read them, and means of
 * the pools of queries score_tiles means against ranges on tensor cores, all that a row sees by one
 * CTA; a softmax wants sums over a whole row, so what it leaves is the logarithm of each tile's
 * sum, and of the row's rank_rows   from these the masses, their join over the rows of a block, and
 * the choice
 *
 * Means are rounded to bf16, as on the CPU, and ranges of bf16 keys are bf16, so that products are
 * exact and masks of the two differ by the order of sums alone.
 */
extern "C" {
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"
#include "kernels/cuda/mask_rows_cuda.cuh"
#include "kernels/cuda/mma.cuh"

namespace
{

using mask_cuda::FEW;

enum { POOL_THREADS = 256, HELD = 8, MOST_ROWS = 128, RANK_WARPS = 4, MASS_BYTES = 32 << 20 };

struct params {
    int n_q, n_kv, q_start, n_heads, n_kv_heads, group, block_q, block_k, d;
    int row_tokens, col_tokens, n_rows, n_cols, per_tile, n_kblocks, n_qblocks, words;
    int first_row; /* absolute number of the pool that is row 0 */
    int from, end; /* pools of the rows of the map that are being made */
    float scale_log2, width;
    double topk;                         /* the decimal number */
    int join, part, relative, deviation; /* relative: the rule max-relative, else top-p */
    ptrdiff_t q_row, q_head, k_row, k_head;
    const __nv_bfloat16 *q, *k;
    __nv_bfloat16 *ranges; /* [n_kv_heads, n_cols, 2 d] highest, lowest */
    __nv_bfloat16 *means;  /* [n_heads, n_rows, d] */
    float *sums;           /* [n_heads, end - from, n_kblocks] log2 of the sum of 2^score */
    float *norms;          /* [n_heads, n_rows] the same of the whole row */
    const struct head_params *heads;
    struct head_ledger *ledger;
    uint32_t *bits;
};

__device__ __forceinline__ bool is_mine(const params &p, int head)
{
    return p.heads[head].is_sparse && p.heads[head].part == p.part;
}

__device__ __forceinline__ int cols_seen(const params &p, int row)
{
    return min(((p.first_row + row + 1) * p.row_tokens - 1) / p.col_tokens + 1, p.n_cols);
}

/* Up to HELD steps of rows on their way through a warp: PER lanes to a row of at most 8 PER
 * channels, eight to a lane. */
template <int PER> struct steps {
    static constexpr int AT_ONCE = 32 / PER;
    uint4 x[HELD];
    __device__ __forceinline__ void load(
        const __nv_bfloat16 *from, ptrdiff_t row, int first, int n, bool there)
    {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const int r = first + i * AT_ONCE + (int)(threadIdx.x % 32) / PER;
            x[i] = there && r < n ? *(const uint4 *)(from + r * row) : make_uint4(0, 0, 0, 0);
        }
    }
    __device__ __forceinline__ void widen(int i, float (&e)[8]) const
    {
        const uint32_t w[4] = {x[i].x, x[i].y, x[i].z, x[i].w};
#pragma unroll
        for (int c = 0; c < 4; c++)
            e[2 * c] = __uint_as_float(w[c] << 16),
                  e[2 * c + 1] = __uint_as_float(w[c] & 0xffff0000u);
    }
    __device__ __forceinline__ bool real(int i, int first, int n) const
    {
        return first + i * AT_ONCE + (int)(threadIdx.x % 32) / PER < n;
    }
};

template <int PER, typename JOIN>
__device__ __forceinline__ void across_rows(float (&x)[8], JOIN join)
{
#pragma unroll
    for (int m = PER; m < 32; m *= 2)
#pragma unroll
        for (int c = 0; c < 8; c++) x[c] = join(x[c], __shfl_xor_sync(0xffffffffu, x[c], m));
}

__device__ __forceinline__ void store(__nv_bfloat16 *to, const float (&x)[8])
{
    *(uint4 *)to =
        make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}

/* Centre and reach of one sub-block of keys, in all lanes of a column. */
template <int PER>
__device__ __forceinline__ void spread(const params &p, const __nv_bfloat16 *from, int n,
    bool there, float (&centre)[8], float (&reach)[8])
{
    constexpr int ROUND = HELD * steps<PER>::AT_ONCE;
    const auto add = [](float a, float b) { return a + b; };
    steps<PER> s;
    float e[8];
#pragma unroll
    for (int c = 0; c < 8; c++)
        centre[c] = p.deviation ? 0 : -INFINITY, reach[c] = p.deviation ? 0 : INFINITY;
    for (int first = 0; first < n; first += ROUND) {
        s.load(from, p.k_row, first, n, there);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            s.widen(i, e);
            if (!s.real(i, first, n)) continue;
#pragma unroll
            for (int c = 0; c < 8; c++) {
                if (p.deviation) centre[c] += e[c];
                else centre[c] = fmaxf(centre[c], e[c]), reach[c] = fminf(reach[c], e[c]);
            }
        }
    }
    if (!p.deviation) { /* highest and lowest */
        across_rows<PER>(centre, [](float a, float b) { return fmaxf(a, b); });
        across_rows<PER>(reach, [](float a, float b) { return fminf(a, b); });
#pragma unroll
        for (int c = 0; c < 8; c++) {
            const float most = centre[c], least = reach[c];
            centre[c] = (most + least) / 2, reach[c] = (most - least) / 2;
        }
        return;
    }
    across_rows<PER>(centre, add);
#pragma unroll
    for (int c = 0; c < 8; c++) centre[c] /= (float)n;
    for (int first = 0; first < n; first += ROUND) {
        if (n > ROUND) s.load(from, p.k_row, first, n, there);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            s.widen(i, e);
            if (!s.real(i, first, n)) continue;
#pragma unroll
            for (int c = 0; c < 8; c++) reach[c] += (e[c] - centre[c]) * (e[c] - centre[c]);
        }
    }
    across_rows<PER>(reach, add);
#pragma unroll
    for (int c = 0; c < 8; c++) reach[c] = sqrtf(reach[c] / (float)n);
}

/* A warp makes one pool. */
template <int PER>
__global__ __launch_bounds__(POOL_THREADS) void pool_rows(const __grid_constant__ params p)
{
    const int lane = threadIdx.x % 32, n_keys = p.n_kv_heads * p.n_cols, at = lane % PER * 8;
    const bool there = at < p.d, writes = there && lane < PER;
    int item = (int)(blockIdx.x * (POOL_THREADS / 32) + threadIdx.x / 32);
    if (item < n_keys) {
        const int kv = item / p.n_cols, col = item % p.n_cols,
                  n = min(p.col_tokens, p.n_kv - col * p.col_tokens);
        float centre[8], reach[8], hi[8], lo[8];
        spread<PER>(p, p.k + kv * p.k_head + (ptrdiff_t)col * p.col_tokens * p.k_row + at, n, there,
            centre, reach);
#pragma unroll
        for (int c = 0; c < 8; c++) {
            const float half = __fmul_rn(reach[c], p.width);
            hi[c] = __fadd_rn(centre[c], half), lo[c] = __fadd_rn(centre[c], -half);
        }
        if (writes) {
            store(p.ranges + (size_t)item * 2 * p.d + at, hi);
            store(p.ranges + (size_t)item * 2 * p.d + p.d + at, lo);
        }
        return;
    }
    item -= n_keys;
    if (item >= p.n_heads * p.n_rows || !is_mine(p, item / p.n_rows)) return;
    const int head = item / p.n_rows, row = item % p.n_rows,
              n = min(p.row_tokens, p.n_q - row * p.row_tokens);
    const __nv_bfloat16 *from =
        p.q + head * p.q_head + (ptrdiff_t)row * p.row_tokens * p.q_row + at;
    float sum[8] = {};
    steps<PER> s;
    for (int first = 0; first < n; first += HELD * steps<PER>::AT_ONCE) {
        s.load(from, p.q_row, first, n, there);
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            float e[8];
            s.widen(i, e);
#pragma unroll
            for (int c = 0; c < 8; c++) sum[c] += e[c];
        }
    }
    across_rows<PER>(sum, [](float a, float b) { return a + b; });
#pragma unroll
    for (int c = 0; c < 8; c++) sum[c] /= (float)n;
    if (writes) store(p.means + (size_t)item * p.d + at, sum);
}

/* Means into shared rows of DIM + 8: their positive parts in front, the negative ones behind. */
template <int DIM, int ROWS>
__device__ __forceinline__ void stage_means(const params &p, int head, int row0, __nv_bfloat16 *to)
{
    const __nv_bfloat162 zero = __floats2bfloat162_rn(0, 0);
    for (int i = threadIdx.x; i < ROWS * (DIM / 8); i += ROWS * 2) {
        const int r = i / (DIM / 8), c = i % (DIM / 8) * 8, row = row0 + r,
                  from = c < p.d ? c : c - p.d;
        __nv_bfloat162 x[4] = {zero, zero, zero, zero};
        if (row < p.n_rows && from < p.d)
            *(uint4 *)x = *(const uint4 *)(p.means + ((size_t)head * p.n_rows + row) * p.d + from);
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] = c < p.d ? __hmax2(x[e], zero) : __hmin2(x[e], zero);
        *(uint4 *)(to + r * (DIM + 8) + c) = *(uint4 *)x;
    }
}

/* Sends for COLS ranges from col0 on; those that are not there, and channels behind 2 d, become
 * zeros. */
template <int DIM, int COLS, int THREADS>
__device__ __forceinline__ void send_ranges(
    const params &p, const __nv_bfloat16 *ranges, int col0, __nv_bfloat16 *to)
{
    for (int i = threadIdx.x; i < COLS * (DIM / 8); i += THREADS) {
        const int r = i / (DIM / 8), c = i % (DIM / 8) * 8;
        const bool there = col0 + r < p.n_cols && c < 2 * p.d;
        const __nv_bfloat16 *from = ranges + (there ? (size_t)(col0 + r) * 2 * p.d + c : 0);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                         (uint32_t)__cvta_generic_to_shared(to + r * (DIM + 8) + c)),
                     "l"(from), "r"(there ? 16 : 0)
                     : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LEFT> __device__ __forceinline__ void wait_for_ranges()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* ROWS pools of one head against all sub-blocks that they see, COLS at a time while the next are on
 * their way. */
template <int DIM, int ROWS, int COLS>
__global__ __launch_bounds__(ROWS * 2) void score_tiles(const __grid_constant__ params p)
{
    constexpr int LINE = COLS / 2 + 1; /* a tile has at least two columns */
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    __nv_bfloat16 *q = shared, *k = q + ROWS * (DIM + 8);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.x % p.n_heads;
    const int set =
        (int)(gridDim.x / p.n_heads) - 1 - (int)blockIdx.x / p.n_heads; /* longest rows first */
    const int row0 = p.from + set * ROWS, seen_by_all = cols_seen(p, min(row0 + ROWS, p.end) - 1);
    if (!is_mine(p, head)) return;
    float *mine = (float *)(k + 2 * COLS * (DIM + 8)) + warp * 16 * LINE;
    const __nv_bfloat16 *ranges = p.ranges + (size_t)(head / p.group) * p.n_cols * 2 * p.d;
    send_ranges<DIM, COLS, ROWS * 2>(p, ranges, 0, k);
    stage_means<DIM, ROWS>(p, head, row0, q);
    const int tiles = COLS / p.per_tile, warp_row = row0 + warp * 16;
    float top = -INFINITY, sum = 0; /* of row lane / 2, half of its tiles */
    for (int col0 = 0, turn = 0; col0 < seen_by_all; col0 += COLS, turn ^= 1) {
        if (col0 + COLS < seen_by_all) {
            send_ranges<DIM, COLS, ROWS * 2>(
                p, ranges, col0 + COLS, k + (turn ^ 1) * COLS * (DIM + 8));
            wait_for_ranges<1>();
        } else {
            wait_for_ranges<0>();
        }
        __syncthreads();
        float s[COLS / 8][4] = {};
        multiply_keys<DIM, COLS>(s, q + warp * 16 * (DIM + 8), k + turn * COLS * (DIM + 8), lane);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = lane / 4 + 8 * half, seen = cols_seen(p, warp_row + r);
#pragma unroll
            for (int n = 0; n < COLS / 8; n++) {
                const int col = n * 8 + lane % 4 * 2;
                const float x = col0 + col < seen ? s[n][2 * half] * p.scale_log2 : -INFINITY;
                const float y =
                    col0 + col + 1 < seen ? s[n][2 * half + 1] * p.scale_log2 : -INFINITY;
                float most = fmaxf(x, y);
                if (p.per_tile >= 4) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
                if (p.per_tile == 8) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
                float all = most == -INFINITY ? 0 : exp2f(x - most) + exp2f(y - most);
                if (p.per_tile >= 4) all += __shfl_xor_sync(0xffffffffu, all, 1);
                if (p.per_tile == 8) all += __shfl_xor_sync(0xffffffffu, all, 2);
                if (col % p.per_tile == 0) mine[r * LINE + col / p.per_tile] = most + log2f(all);
            }
        }
        __syncwarp();
        for (int t = lane % 2; t < tiles; t += 2) {
            const float x = mine[lane / 2 * LINE + t], most = fmaxf(top, x);
            if (most > -INFINITY) sum = sum * exp2f(top - most) + exp2f(x - most), top = most;
        }
        for (int i = lane; i < 16 * tiles; i += 32) {
            const int r = i / tiles, t = i % tiles, row = warp_row + r,
                      tile = col0 / p.per_tile + t;
            if (row < p.end && tile < p.n_kblocks)
                p.sums[((size_t)head * (p.end - p.from) + row - p.from) * p.n_kblocks + tile] =
                    mine[r * LINE + t];
        }
        __syncthreads(); /* these ranges are read */
    }
    const float other_top = __shfl_xor_sync(0xffffffffu, top, 1),
                other_sum = __shfl_xor_sync(0xffffffffu, sum, 1);
    const float most = fmaxf(top, other_top);
    const float all = (top == -INFINITY ? 0 : sum * exp2f(top - most)) +
        (other_top == -INFINITY ? 0 : other_sum * exp2f(other_top - most));
    if (lane % 2 == 0 && warp_row + lane / 2 < p.end)
        p.norms[(size_t)head * p.n_rows + warp_row + lane / 2] = most + log2f(all);
}

/* One row of the map. */
__global__ __launch_bounds__(RANK_WARPS * 32) void rank_rows(const __grid_constant__ params p)
{
    extern __shared__ __align__(16) float rank_shared[];
    __shared__ float norms[64], tops[RANK_WARPS], list[FEW];
    float *mass = rank_shared;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.y,
              per_block = p.block_q / p.row_tokens;
    const int block = p.from / per_block + (int)blockIdx.x, row0 = block * per_block,
              rows = min(per_block, p.n_rows - row0);
    const struct head_params t = p.heads[head];
    const int n = (min(p.q_start + (block + 1) * p.block_q, p.n_kv) - 1) / p.block_k + 1;
    const int diagonal = (p.q_start + block * p.block_q) / p.block_k;
    const float *sums = p.sums + ((size_t)head * (p.end - p.from) + row0 - p.from) * p.n_kblocks;
    if (t.part != p.part)
        return; /* another predictor's; a head that runs dense is the first part's, below */
    mask_cuda::choice c = {0, 0};
    if (t.is_sparse) {
        if ((int)threadIdx.x < rows)
            norms[threadIdx.x] = p.norms[(size_t)head * p.n_rows + row0 + threadIdx.x];
        __syncthreads();
        float top = 0;
        for (int j = threadIdx.x; j < n; j += RANK_WARPS * 32) {
            float all = 0;
            for (int r0 = 0; r0 < rows; r0 += 8) {
                float x[8];
#pragma unroll
                for (int r = 0; r < 8; r++)
                    x[r] = r0 + r < rows ? sums[(size_t)(r0 + r) * p.n_kblocks + j] - norms[r0 + r]
                                         : -INFINITY;
#pragma unroll
                for (int r = 0; r < 8; r++) {
                    const float mass_here = exp2f(x[r]);
                    all = p.join == 0 ? all + mass_here
                        : p.join == 1 ? fmaf(mass_here, mass_here, all)
                                      : fmaxf(all, mass_here);
                }
            }
            if (p.join == 1) all = sqrtf(all);
            mass[j] = all;
            top = fmaxf(top, all);
        }
        top = mask_cuda::warp_max(top);
        if (lane == 0) tops[warp] = top;
        __syncthreads();
        if (warp > 0) return;
        top = lane < RANK_WARPS ? tops[lane] : 0;
        top = mask_cuda::warp_max(top);
        float total = 0;
        uint32_t low = __float_as_uint(1.0f);
        for (int j = lane; j < n; j += 32) {
            const float x = fmaxf(mass[j] / top, FLT_MIN);
            mass[j] = x;
            total += x;
            low = min(low, __float_as_uint(x));
        }
        total = mask_cuda::warp_sum(total), low = __reduce_min_sync(0xffffffffu, low);
        __syncwarp();
        if (p.topk > 0)
            c = mask_cuda::choose<true>(
                mass, n, n, (float)mask_cuda::topk_count(p.topk, n), low, list);
        else if (t.tau >= 1) c.bound = low;
        else if (p.relative) c.bound = __float_as_uint(1 - t.tau);
        else c = mask_cuda::choose<false>(mass, n, n, t.tau * total, low, list);
    } else if (warp > 0) {
        return;
    }
    uint32_t *row = p.bits + ((size_t)head * p.n_qblocks + block) * p.words;
    mask_cuda::write_bits(row, p.words, n, t.is_sparse, mass, c, diagonal, false);
    if (lane == 0 && t.is_sparse && p.ledger != NULL) {
        atomicAdd((unsigned long long *)&p.ledger[head].forced_sink, 1ull);
        atomicAdd((unsigned long long *)&p.ledger[head].forced_diagonal,
            (unsigned long long)(n - diagonal));
    }
}

struct layout {
    size_t means, ranges, norms, sums, bytes;
    int rows_at_once; /* pools; whole rows of the map, and whole tiles of score_tiles */
};

struct layout plan(const params &p)
{
    struct layout l = {};
    size_t end = 0, d = (size_t)p.d;
    auto take = [&end](size_t bytes) {
        size_t start = end;
        end += (bytes + 255) / 256 * 256;
        return start;
    };
    l.means = take(2 * (size_t)p.n_heads * (size_t)p.n_rows * d);
    l.ranges = take(2 * (size_t)p.n_kv_heads * (size_t)p.n_cols * 2 * d);
    l.norms = take(sizeof(float) * (size_t)p.n_heads * (size_t)p.n_rows);
    size_t of_row = sizeof(float) * (size_t)p.n_heads * (size_t)p.n_kblocks, least = MOST_ROWS;
    size_t rows = MASS_BYTES / of_row / least * least;
    if (rows < least) rows = least;
    size_t all = ((size_t)p.n_rows + least - 1) / least * least;
    l.rows_at_once = (int)(rows < all ? rows : all);
    l.sums = take(of_row * (size_t)l.rows_at_once);
    l.bytes = end;
    return l;
}

struct params params_of(const struct mask_cuda_args *m, const struct mask_method *method)
{
    const struct attn_args *a = m->attn;
    const struct mask_args values = {a, NULL, m->smooth_k, 0, 0, method->values};
    params p = {};
    const struct bound_setting s = bound_setting_of(&values);
    p.n_q = a->n_q, p.n_kv = attn_n_kv(a), p.q_start = a->q_start, p.d = a->head_dim;
    p.n_heads = a->n_heads, p.n_kv_heads = a->n_kv_heads, p.group = a->n_heads / a->n_kv_heads;
    p.block_q = a->block.q, p.block_k = a->block.k;
    p.row_tokens = s.rows, p.col_tokens = s.keys, p.width = s.width, p.join = s.over,
    p.deviation = s.deviation;
    p.n_rows = (p.n_q + p.row_tokens - 1) / p.row_tokens,
    p.n_cols = (p.n_kv + p.col_tokens - 1) / p.col_tokens;
    p.first_row = p.q_start / p.row_tokens;
    p.per_tile = p.block_k / p.col_tokens;
    p.n_kblocks = (p.n_kv + p.block_k - 1) / p.block_k,
    p.n_qblocks = (p.n_q + p.block_q - 1) / p.block_q;
    p.scale_log2 = a->scale * 1.44269504f, p.topk = mask_decimal(m->topk);
    p.relative = mask_rule_of(method) == &rule_relative;
    p.q_row = a->q_row, p.q_head = a->q_head, p.k_row = a->k_row, p.k_head = a->k_head;
    p.q = (const __nv_bfloat16 *)a->q, p.k = (const __nv_bfloat16 *)a->k;
    p.heads = m->heads, p.ledger = a->ledger;
    return p;
}

template <int DIM, int ROWS, int COLS> enum status score(const params &p, cudaStream_t stream)
{
    static_assert(MOST_ROWS % ROWS == 0, "whole tiles");
    const size_t room = sizeof(__nv_bfloat16) * (DIM + 8) * (ROWS + 2 * COLS) +
        sizeof(float) * ROWS * (COLS / 2 + 1);
    const unsigned sets = (unsigned)((p.end - p.from + ROWS - 1) / ROWS);
    CUDA_TRY(cudaFuncSetAttribute(
        score_tiles<DIM, ROWS, COLS>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    score_tiles<DIM, ROWS, COLS><<<sets *(unsigned)p.n_heads, ROWS * 2, room, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

template <int PER> enum status pool_all(const params &p, cudaStream_t stream)
{
    const int items = p.n_kv_heads * p.n_cols + p.n_heads * p.n_rows, warps = POOL_THREADS / 32;
    pool_rows<PER><<<(unsigned)((items + warps - 1) / warps), POOL_THREADS, 0, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

} // namespace

extern "C" {

const char *bound_cuda_refuses(const struct mask_cuda_args *m, const struct mask_method *method)
{
    const params p = params_of(m, method);
    if (p.row_tokens < 2 || p.block_q % p.row_tokens != 0)
        return "its rows must divide the query block, at least 2 of them";
    if (p.per_tile < 2 || p.per_tile > 8 || p.per_tile * p.col_tokens != p.block_k)
        return "the device takes 2, 4 or 8 sub-blocks to a tile";
    if (!m->topk && mask_rule_of(method) != &rule_relative && mask_rule_of(method) != &rule_top_p)
        return "the device knows the rules top-p and max-relative";
    return p.n_heads > 65535 ? "more than 65535 heads" : NULL;
}

size_t bound_cuda_workspace(const struct mask_cuda_args *m, const struct mask_method *method)
{
    return plan(params_of(m, method)).bytes;
}

enum status bound_cuda_predict(const struct mask_cuda_args *m, const struct mask_method *method,
    int part, const struct tile_map *tiles, void *ws, struct stream *stream)
{
    params p = params_of(m, method);
    const struct layout l = plan(p);
    cudaStream_t s = (cudaStream_t)stream;
    p.part = part;
    p.bits = (uint32_t *)tiles->bits, p.words = tiles->words_per_row * 2;
    p.means = (__nv_bfloat16 *)((char *)ws + l.means),
    p.ranges = (__nv_bfloat16 *)((char *)ws + l.ranges);
    p.norms = (float *)((char *)ws + l.norms), p.sums = (float *)((char *)ws + l.sums);
    TRY(p.d <= 64 ? pool_all<8>(p, s) : p.d <= 128 ? pool_all<16>(p, s) : pool_all<32>(p, s));
    const size_t room = sizeof(float) * (size_t)p.n_kblocks;
    CUDA_TRY(
        cudaFuncSetAttribute(rank_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    for (p.from = 0; p.from < p.n_rows; p.from += l.rows_at_once) {
        p.end = min(p.from + l.rows_at_once, p.n_rows);
        TRY((p.d <= 64       ? score<128, 128, 64>(p, s)
                : p.d <= 128 ? score<256, 128, 64>(p, s)
                             : score<512, 64, 32>(p, s)));
        const int per_block = p.block_q / p.row_tokens,
                  blocks = (p.end - p.from + per_block - 1) / per_block;
        rank_rows<<<dim3((unsigned)blocks, (unsigned)p.n_heads), RANK_WARPS * 32, room, s>>>(p);
        CUDA_TRY(cudaGetLastError());
    }
    return OK;
}
}

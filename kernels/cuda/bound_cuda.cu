/* The predictor `bound` on the device (kernels/mask/mask_bound.c), for as many rows of the map at a
 * time as their masses leave room for in the workspace, which stays within the cache:
 *
 *   pool_rows   ranges of the sub-blocks of keys, once for all heads that read them, and means of
 * the pools of queries score_tiles means against ranges on tensor cores; a softmax wants sums over
 * a whole row, so what it leaves is the logarithm of each tile's sum rank_rows   from these the
 * masses, their join over the rows of a block, and the choice
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

enum {
    POOL_THREADS = 256,
    SCORE_WARPS = 4,
    SCORE_ROWS = 16 * SCORE_WARPS,
    RANK_WARPS = 4,
    MASS_BYTES = 32 << 20
};

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

/* A warp makes one pool: two channels to a lane at a time. */
__global__ __launch_bounds__(POOL_THREADS) void pool_rows(const __grid_constant__ params p)
{
    const int lane = threadIdx.x % 32, n_keys = p.n_kv_heads * p.n_cols;
    int item = (int)(blockIdx.x * (POOL_THREADS / 32) + threadIdx.x / 32);
    if (item < n_keys) {
        const int kv = item / p.n_cols, col = item % p.n_cols,
                  n = min(p.col_tokens, p.n_kv - col * p.col_tokens);
        const __nv_bfloat16 *from = p.k + kv * p.k_head + (ptrdiff_t)col * p.col_tokens * p.k_row;
        __nv_bfloat16 *to = p.ranges + (size_t)item * 2 * p.d;
        for (int c = 2 * lane; c < p.d; c += 64) {
            float2 centre, reach; /* step by step as the CPU does it, without contraction */
            const float2 first = __bfloat1622float2(*(const __nv_bfloat162 *)(from + c));
            if (p.deviation) {
                centre = reach = make_float2(0, 0);
#pragma unroll 16
                for (int r = 0; r < n; r++) {
                    const float2 x =
                        __bfloat1622float2(*(const __nv_bfloat162 *)(from + r * p.k_row + c));
                    centre.x += x.x, centre.y += x.y;
                }
                centre.x = __fdiv_rn(centre.x, (float)n), centre.y = __fdiv_rn(centre.y, (float)n);
#pragma unroll 16
                for (int r = 0; r < n; r++) {
                    const float2 x =
                        __bfloat1622float2(*(const __nv_bfloat162 *)(from + r * p.k_row + c));
                    const float ox = x.x - centre.x, oy = x.y - centre.y;
                    reach.x = __fadd_rn(reach.x, __fmul_rn(ox, ox)),
                    reach.y = __fadd_rn(reach.y, __fmul_rn(oy, oy));
                }
                reach.x = __fsqrt_rn(__fdiv_rn(reach.x, (float)n)),
                reach.y = __fsqrt_rn(__fdiv_rn(reach.y, (float)n));
            } else {
                float2 most = first, least = first;
#pragma unroll 16
                for (int r = 1; r < n; r++) {
                    const float2 x =
                        __bfloat1622float2(*(const __nv_bfloat162 *)(from + r * p.k_row + c));
                    most.x = fmaxf(most.x, x.x), most.y = fmaxf(most.y, x.y);
                    least.x = fminf(least.x, x.x), least.y = fminf(least.y, x.y);
                }
                centre = make_float2((most.x + least.x) / 2, (most.y + least.y) / 2);
                reach = make_float2((most.x - least.x) / 2, (most.y - least.y) / 2);
            }
            reach.x = __fmul_rn(reach.x, p.width), reach.y = __fmul_rn(reach.y, p.width);
            const __nv_bfloat162 hi =
                __floats2bfloat162_rn(__fadd_rn(centre.x, reach.x), __fadd_rn(centre.y, reach.y));
            const __nv_bfloat162 lo =
                __floats2bfloat162_rn(__fadd_rn(centre.x, -reach.x), __fadd_rn(centre.y, -reach.y));
            *(__nv_bfloat162 *)(to + c) = hi;
            *(__nv_bfloat162 *)(to + p.d + c) = lo;
        }
        return;
    }
    item -= n_keys;
    if (item >= p.n_heads * p.n_rows || !is_mine(p, item / p.n_rows)) return;
    const int head = item / p.n_rows, row = item % p.n_rows,
              n = min(p.row_tokens, p.n_q - row * p.row_tokens);
    const __nv_bfloat16 *from = p.q + head * p.q_head + (ptrdiff_t)row * p.row_tokens * p.q_row;
    for (int c = 2 * lane; c < p.d; c += 64) {
        float2 sum = make_float2(0, 0);
#pragma unroll 8
        for (int r = 0; r < n; r++) {
            const float2 x = __bfloat1622float2(*(const __nv_bfloat162 *)(from + r * p.q_row + c));
            sum.x += x.x, sum.y += x.y;
        }
        *(__nv_bfloat162 *)(p.means + (size_t)item * p.d + c) =
            __floats2bfloat162_rn(__fdiv_rn(sum.x, (float)n), __fdiv_rn(sum.y, (float)n));
    }
}

/* Means into shared rows of DIM + 8: their positive parts in front, the negative ones behind. */
template <int DIM>
__device__ __forceinline__ void stage_means(const params &p, int head, int row0, __nv_bfloat16 *to)
{
    const __nv_bfloat162 zero = __floats2bfloat162_rn(0, 0);
    for (int i = threadIdx.x; i < SCORE_ROWS * (DIM / 16); i += SCORE_WARPS * 32) {
        const int r = i / (DIM / 16), c = i % (DIM / 16) * 8, row = row0 + r;
        __nv_bfloat162 x[4] = {zero, zero, zero, zero}, down[4];
        if (row < p.n_rows && c < p.d)
            *(uint4 *)x = *(const uint4 *)(p.means + ((size_t)head * p.n_rows + row) * p.d + c);
#pragma unroll
        for (int e = 0; e < 4; e++) down[e] = __hmin2(x[e], zero), x[e] = __hmax2(x[e], zero);
        if (c < p.d) {
            *(uint4 *)(to + r * (DIM + 8) + c) = *(uint4 *)x;
            *(uint4 *)(to + r * (DIM + 8) + p.d + c) = *(uint4 *)down;
        }
        if (2 * p.d + c < DIM)
            *(uint4 *)(to + r * (DIM + 8) + 2 * p.d + c) = make_uint4(0, 0, 0, 0);
        if (2 * p.d + DIM / 2 + c < DIM)
            *(uint4 *)(to + r * (DIM + 8) + 2 * p.d + DIM / 2 + c) = make_uint4(0, 0, 0, 0);
    }
}

/* SCORE_ROWS pools of one head against COLS sub-blocks. */
template <int DIM, int COLS>
__global__ __launch_bounds__(SCORE_WARPS * 32) void score_tiles(const __grid_constant__ params p)
{
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    __nv_bfloat16 *q = shared, *k = q + SCORE_ROWS * (DIM + 8);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.z;
    const int row0 = p.from + (int)blockIdx.y * SCORE_ROWS, col0 = (int)blockIdx.x * COLS;
    if (!is_mine(p, head) || col0 >= cols_seen(p, min(row0 + SCORE_ROWS, p.end) - 1)) return;
    stage_means<DIM>(p, head, row0, q);
    fetch<DIM, SCORE_WARPS * 32>(k, p.ranges + (size_t)(head / p.group) * p.n_cols * 2 * p.d,
                                 2 * p.d, col0, COLS, 0, p.n_cols, 2 * p.d);
    __syncthreads();
    float s[COLS / 8][4] = {};
    multiply_keys<DIM, COLS>(s, q + warp * 16 * (DIM + 8), k, lane);
    __syncwarp(); /* this warp's rows of q are read: its sums take their room */
    constexpr int LINE = COLS / 2 + 1; /* a tile has at least two columns */
    static_assert(16 * LINE * 4 <= 16 * (DIM + 8) * 2, "sums fit into the room of means");
    float *mine = (float *)(q + warp * 16 * (DIM + 8));
    const int tiles = COLS / p.per_tile;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int r = lane / 4 + 8 * half, seen = cols_seen(p, row0 + warp * 16 + r);
#pragma unroll
        for (int n = 0; n < COLS / 8; n++) {
            const int col = n * 8 + lane % 4 * 2;
            float x = col0 + col < seen ? s[n][2 * half] * p.scale_log2 : -INFINITY;
            float y = col0 + col + 1 < seen ? s[n][2 * half + 1] * p.scale_log2 : -INFINITY;
            float top = fmaxf(x, y);
            if (p.per_tile >= 4) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            if (p.per_tile == 8) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            float sum = top == -INFINITY ? 0 : exp2f(x - top) + exp2f(y - top);
            if (p.per_tile >= 4) sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            if (p.per_tile == 8) sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            if (col % p.per_tile == 0) mine[r * LINE + col / p.per_tile] = top + log2f(sum);
        }
    }
    __syncwarp();
    for (int i = lane; i < 16 * tiles; i += 32) {
        const int r = i / tiles, t = i % tiles, row = row0 + warp * 16 + r,
                  tile = col0 / p.per_tile + t;
        if (row < p.end && tile < p.n_kblocks)
            p.sums[((size_t)head * (p.end - p.from) + row - p.from) * p.n_kblocks + tile] =
                mine[r * LINE + t];
    }
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
        for (int r = warp; r < rows; r += RANK_WARPS) {
            float top = -INFINITY, sum = 0;
            for (int j = lane; j < n; j += 32) top = fmaxf(top, sums[(size_t)r * p.n_kblocks + j]);
            top = mask_cuda::warp_max(top);
            for (int j = lane; j < n; j += 32)
                sum += exp2f(sums[(size_t)r * p.n_kblocks + j] - top);
            sum = mask_cuda::warp_sum(sum);
            if (lane == 0) norms[r] = top + log2f(sum);
        }
        __syncthreads();
        float top = 0;
        for (int j = threadIdx.x; j < n; j += RANK_WARPS * 32) {
            float all = 0;
            for (int r = 0; r < rows; r++) {
                const float x = exp2f(sums[(size_t)r * p.n_kblocks + j] - norms[r]);
                all = p.join == 0 ? all + x : p.join == 1 ? fmaf(x, x, all) : fmaxf(all, x);
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
            c = mask_cuda::choose<true>(mass, n, n, (float)mask_cuda::topk_count(p.topk, n), low,
                                        list);
        else if (t.cdfthreshd >= 1) c.bound = low;
        else if (p.relative) c.bound = __float_as_uint(1 - t.cdfthreshd);
        else c = mask_cuda::choose<false>(mass, n, n, t.cdfthreshd * total, low, list);
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
    size_t means, ranges, sums, bytes;
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
    size_t of_row = sizeof(float) * (size_t)p.n_heads * (size_t)p.n_kblocks,
           least = (size_t)(p.block_q > 64 ? 2 : 1) * SCORE_ROWS;
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

template <int DIM, int COLS> enum status score(const params &p, cudaStream_t stream)
{
    const size_t room = sizeof(__nv_bfloat16) * (DIM + 8) * (SCORE_ROWS + COLS);
    const int seen = min((p.first_row + p.end) * p.row_tokens, p.n_kv);
    dim3 grid((unsigned)((seen + COLS * p.col_tokens - 1) / (COLS * p.col_tokens)),
              (unsigned)((p.end - p.from + SCORE_ROWS - 1) / SCORE_ROWS), (unsigned)p.n_heads);
    CUDA_TRY(cudaFuncSetAttribute(score_tiles<DIM, COLS>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    score_tiles<DIM, COLS><<<grid, SCORE_WARPS * 32, room, stream>>>(p);
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
                               int part, const struct tile_map *tiles, void *ws,
                               struct stream *stream)
{
    params p = params_of(m, method);
    const struct layout l = plan(p);
    cudaStream_t s = (cudaStream_t)stream;
    p.part = part;
    p.bits = (uint32_t *)tiles->bits, p.words = tiles->words_per_row * 2;
    p.means = (__nv_bfloat16 *)((char *)ws + l.means),
    p.ranges = (__nv_bfloat16 *)((char *)ws + l.ranges);
    p.sums = (float *)((char *)ws + l.sums);
    const int items = p.n_kv_heads * p.n_cols + p.n_heads * p.n_rows, warps = POOL_THREADS / 32;
    pool_rows<<<(unsigned)((items + warps - 1) / warps), POOL_THREADS, 0, s>>>(p);
    CUDA_TRY(cudaGetLastError());
    const size_t room = sizeof(float) * (size_t)p.n_kblocks;
    CUDA_TRY(
        cudaFuncSetAttribute(rank_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    for (p.from = 0; p.from < p.n_rows; p.from += l.rows_at_once) {
        p.end = min(p.from + l.rows_at_once, p.n_rows);
        TRY((p.d <= 64    ? score<128, 128>(p, s)
             : p.d <= 128 ? score<256, 128>(p, s)
                          : score<512, 64>(p, s)));
        const int per_block = p.block_q / p.row_tokens,
                  blocks = (p.end - p.from + per_block - 1) / per_block;
        rank_rows<<<dim3((unsigned)blocks, (unsigned)p.n_heads), RANK_WARPS * 32, room, s>>>(p);
        CUDA_TRY(cudaGetLastError());
    }
    return OK;
}
}

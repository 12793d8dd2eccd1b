/* The predictor `bound` on the device (kernels/mask/mask_bound.c), for as many rows of the map at a
 * time as their sums leave room for in the workspace:
 *
 *   pool_rows   centres of the sub-blocks of keys with the spreads of their groups of channels,
 * once for all heads that read them, and means of the pools of queries with the sums of their
 * absolute values score_tiles these against those on tensor cores, all that a row sees by one CTA;
 * a softmax wants sums over a whole row, so what it leaves is the logarithm of each tile's sum, and
 * of the row's rank_rows   from these the masses, their join over the rows of a block, and the
 * choice (rank_cuda.cu)
 *
 * What is pooled is rounded to bf16, as on the CPU, so that products are exact and masks of the two
 * differ by the order of sums alone.
 */
extern "C" {
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/bound_rows_cuda.cuh"
#include "kernels/cuda/rank_cuda.cuh"

namespace
{

using namespace bound_cuda;

enum {
    POOL_THREADS = 256,
    POOL_WARPS = POOL_THREADS / 32,
    SET = 128,   /* pools whose sums are made at a time: whole sets of score_tiles, and whole query
                    blocks */
    COLS = 64,   /* sub-blocks that are multiplied at a time */
    SHORT = 512, /* pools of a head from which on sets are whole: of fewer there would be too few to
                   go round */
    SPLITS = 8,  /* parts of the sub-blocks that a row sees, at most, each by a CTA of its own */
    FILLING = 132 * 1024, /* threads that keep a Hopper busy */
    ON_CHIP = 110 * 1024, /* of shared memory for a row's tiles, two CTAs to a multiprocessor */
    FEW_KEYS = 16384      /* of longer prompts each sub-block is read too often */
};
constexpr size_t SUM_BYTES = (size_t)128 << 20;

/* A warp makes one pool: of keys, and of queries unless the rows of the map are made in one kernel.
 */
template <int PER>
__global__ __launch_bounds__(POOL_THREADS) void pool_rows(const __grid_constant__ params p)
{
    __shared__ float of_channels[POOL_WARPS][PER * 8];
    const int warp = threadIdx.x / 32, n_keys = p.n_kv_heads * p.n_cols;
    int item = (int)(blockIdx.x * POOL_WARPS + warp);
    let_next_begin();
    if (item < n_keys) {
        pool_keys<PER>(p, item / p.n_cols, item % p.n_cols, of_channels[warp],
            p.centres + (size_t)item * p.wide);
    } else if (p.means != NULL) {
        item -= n_keys;
        if (item < p.n_heads * p.n_rows && is_mine(p, item / p.n_rows))
            pool_queries<PER>(p, item / p.n_rows, item % p.n_rows, of_channels[warp],
                p.means + (size_t)item * p.wide);
    }
    wait_for_earlier(); /* who waits for this one waits for those before it */
}

/* Sends for COLS rows of `wide` values; those behind `end`, and columns behind wide, become zeros.
 */
template <int DIM, int ROWS, int THREADS>
__device__ __forceinline__ void send(
    const __nv_bfloat16 *all, int first, int end, int wide, __nv_bfloat16 *to)
{
    for (int i = threadIdx.x; i < ROWS * (DIM / 8); i += THREADS) {
        const int r = i / (DIM / 8), c = i % (DIM / 8) * 8;
        const bool there = first + r < end && c < wide;
        const __nv_bfloat16 *from = all + (there ? (size_t)(first + r) * wide + c : 0);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                         (uint32_t)__cvta_generic_to_shared(to + r * (DIM + 8) + c)),
                     "l"(from), "r"(there ? 16 : 0)
                     : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LEFT> __device__ __forceinline__ void wait_for_sent()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/* A warp's 32 rows of q times 32 rows of k. */
template <int DIM>
__device__ __forceinline__ void multiply_pools(
    float (&s)[2][4][4], const __nv_bfloat16 *q, const __nv_bfloat16 *k, int lane)
{
    constexpr int LINE = DIM + 8;
#pragma unroll
    for (int d = 0; d < DIM; d += 16) {
        uint32_t a[2][4], b[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++)
            load_matrices(a[m], q + (m * 16 + lane % 16) * LINE + d + lane / 16 * 8);
#pragma unroll
        for (int n = 0; n < 2; n++)
            load_matrices(
                b[n], k + (n * 16 + lane % 8 + lane / 16 * 8) * LINE + d + lane / 8 % 2 * 8);
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < 4; n++)
                multiply(s[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
}

/* Of two values that this lane and the one `apart` hold, each for both: the first is summed here
 * where `first` is set, the second there. */
__device__ __forceinline__ float sum_mine(float a, float b, bool first, int apart)
{
    return (first ? a : b) + __shfl_xor_sync(ALL, first ? b : a, apart);
}

/* A row's sums over tiles of PER columns, from those over pairs of columns that its four lanes
 * hold, pair f · 4 + lane % 4 in s[f]. Each lane ends up with some of the tiles: v[i] is that of
 * tile_of<PER>(i). */
template <int PER> struct shares {
    static constexpr int N = PER >= 8 ? 1 : 8 / PER;
};
template <int PER>
__device__ __forceinline__ void sum_tiles(const float (&s)[4], float (&v)[shares<PER>::N])
{
    const bool high = threadIdx.x & 2, odd = threadIdx.x & 1;
    if constexpr (PER == 2) {
#pragma unroll
        for (int f = 0; f < 4; f++) v[f] = s[f];
    } else if constexpr (PER == 4) {
        v[0] = sum_mine(s[0], s[2], !odd, 1), v[1] = sum_mine(s[1], s[3], !odd, 1);
    } else if constexpr (PER == 8) {
        v[0] = sum_mine(sum_mine(s[0], s[2], !high, 2), sum_mine(s[1], s[3], !high, 2), !odd, 1);
    } else {
        float x = sum_mine(s[0] + s[1], s[2] + s[3], !high, 2);
        v[0] = x + __shfl_xor_sync(ALL, x, 1);
    }
}
/* Counted from the first of the 32 columns. */
template <int PER> __device__ __forceinline__ int tile_of(int i)
{
    const int lane = threadIdx.x % 4;
    if constexpr (PER == 2) return i * 4 + lane;
    if constexpr (PER == 4) return 2 * (lane % 2 * 2 + i) + lane / 2;
    if constexpr (PER == 8) return lane;
    return lane / 2;
}

/* ROWS pools of one head against all sub-blocks that they see, COLS at a time while the next are on
 * their way. Two warps share 32 pools: each has 32 of the COLS. */
template <int DIM, int ROWS, int PER>
__global__ __launch_bounds__(ROWS * 2) void score_tiles(const __grid_constant__ params p)
{
    constexpr int THREADS = ROWS * 2, LINE = DIM + 8;
    extern __shared__ __align__(16) __nv_bfloat16 shared[];
    __shared__ float halves[2][ROWS][2];
    __nv_bfloat16 *q = shared, *k = q + ROWS * LINE;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.x % p.n_heads,
              half = warp % 2;
    const int set =
        (int)(gridDim.x / p.n_heads) - 1 - (int)blockIdx.x / p.n_heads; /* longest rows first */
    const int row0 = p.from + set * ROWS, warp_row = row0 + warp / 2 * 32;
    const int seen_by_all = cols_seen(p, min(row0 + ROWS, p.end) - 1);
    if (!is_mine(p, head)) return;
    const __nv_bfloat16 *centres = p.centres + (size_t)(head / p.group) * p.n_cols * p.wide;
    float *sums = p.sums + (size_t)head * (p.end - p.from) * p.n_kblocks;
    send<DIM, ROWS, THREADS>(
        p.means + (size_t)head * p.n_rows * p.wide, row0, min(p.end, p.n_rows), p.wide, q);
    /* whole COLS of what the longest row sees; there may be none left for the last splits */
    const int steps = (seen_by_all + COLS - 1) / COLS,
              col_from = (int)blockIdx.y * ((steps + p.splits - 1) / p.splits) * COLS,
              col_end = min(col_from + (steps + p.splits - 1) / p.splits * COLS, seen_by_all);
    send<DIM, COLS, THREADS>(centres, col_from, p.n_cols, p.wide, k);
    /* of rows warp_row + 8 x + lane / 4, of this lane's tiles */
    float top[4], total[4], *to[4];
    int seen[4];
#pragma unroll
    for (int x = 0; x < 4; x++) {
        const int row = warp_row + 8 * x + lane / 4, r = row - p.from;
        top[x] = -INFINITY, total[x] = 0, seen[x] = cols_seen(p, row);
        to[x] =
            row < p.end ? sums + (size_t)(r / p.pools) * p.n_kblocks * p.pools + r % p.pools : NULL;
    }
    const int seen_by_each = cols_seen(p, warp_row);
    for (int col0 = col_from, turn = 0; col0 < col_end; col0 += COLS, turn ^= 1) {
        if (col0 + COLS < col_end) {
            send<DIM, COLS, THREADS>(
                centres, col0 + COLS, p.n_cols, p.wide, k + (turn ^ 1) * COLS * LINE);
            wait_for_sent<1>();
        } else {
            wait_for_sent<0>();
        }
        __syncthreads();
        float s[2][4][4] = {};
        multiply_pools<DIM>(
            s, q + warp / 2 * 32 * LINE, k + (turn * COLS + half * 32) * LINE, lane);
        const int first = col0 + half * 32 + lane % 4 * 2,
                  tile0 = (col0 + half * 32) / PER + tile_of<PER>(0);
        const auto sum_rows = [&](bool whole) {
#pragma unroll
            for (int x = 0; x < 4; x++) {
                float(&e)[4][4] = s[x / 2], pair[4], v[shares<PER>::N], most = -INFINITY;
                const int at = x % 2 * 2;
#pragma unroll
                for (int f = 0; f < 4; f++)
#pragma unroll
                    for (int c = 0; c < 2; c++) {
                        if (!whole && first + f * 8 + c >= seen[x]) e[f][at + c] = -INFINITY;
                        most = fmaxf(most, e[f][at + c]);
                    }
                most = fmaxf(most, __shfl_xor_sync(ALL, most, 1));
                most = fmaxf(most, __shfl_xor_sync(ALL, most, 2));
                most = fmaxf(most * p.scale_log2, top[x]);
                const float base = most > -INFINITY ? most : 0;
#pragma unroll
                for (int f = 0; f < 4; f++)
                    pair[f] = exp2_fast(fmaf(e[f][at], p.scale_log2, -base)) +
                        exp2_fast(fmaf(e[f][at + 1], p.scale_log2, -base));
                sum_tiles<PER>(pair, v);
                total[x] *= exp2_fast(top[x] - base), top[x] = most;
                if (PER == 16 && lane % 2 != 0) continue;
#pragma unroll
                for (int i = 0; i < shares<PER>::N; i++) {
                    const int tile = tile0 + tile_of<PER>(i) - tile_of<PER>(0);
                    total[x] += v[i];
                    if (to[x] != NULL && tile < p.n_kblocks)
                        to[x][(size_t)tile * p.pools] = base + log2_fast(v[i]);
                }
            }
        };
        if (col0 + half * 32 + 32 <= seen_by_each) sum_rows(true);
        else sum_rows(false);
        __syncthreads(); /* these sub-blocks are read */
    }
#pragma unroll
    for (int x = 0; x < 4; x++) {
        total[x] += __shfl_xor_sync(ALL, total[x], 1);
        total[x] += __shfl_xor_sync(ALL, total[x], 2);
        if (lane % 4 == 0) {
            float *mine = halves[half][warp / 2 * 32 + 8 * x + lane / 4];
            mine[0] = top[x], mine[1] = total[x];
        }
    }
    __syncthreads();
    for (int r = threadIdx.x; r < ROWS && row0 + r < min(p.end, p.n_rows); r += THREADS) {
        const float a = halves[0][r][0], b = halves[1][r][0], most = fmaxf(a, b);
        p.norms[((size_t)blockIdx.y * p.n_heads + head) * p.n_rows + row0 + r] = most == -INFINITY
            ? most
            : most + log2f(halves[0][r][1] * exp2f(a - most) + halves[1][r][1] * exp2f(b - most));
    }
}

struct layout {
    size_t means, centres, norms, sums, bytes;
    int rows_at_once; /* pools: whole rows of the map, and whole sets */
};

struct layout plan(const params &p)
{
    struct layout l = {};
    size_t end = 0, wide = (size_t)p.wide;
    auto take = [&end](size_t bytes) {
        size_t start = end;
        end += (bytes + 255) / 256 * 256;
        return start;
    };
    l.means = take(2 * (size_t)p.n_heads * (size_t)p.n_rows * wide);
    l.centres = take(2 * (size_t)p.n_kv_heads * (size_t)p.n_cols * wide);
    l.norms = take(sizeof(float) * SPLITS * (size_t)p.n_heads * (size_t)p.n_rows);
    size_t of_row = sizeof(float) * (size_t)p.n_heads * (size_t)p.n_kblocks;
    size_t rows = SUM_BYTES / of_row / SET * SET, all = ((size_t)p.n_rows + SET - 1) / SET * SET;
    if (rows < SET) rows = SET;
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
    p.block_q = a->block.q, p.n_groups = s.groups, p.wide = (p.d + p.n_groups + 7) / 8 * 8;
    p.row_tokens = s.rows, p.col_tokens = s.keys, p.width = s.width, p.deviation = s.deviation,
    p.join = s.over;
    p.n_rows = (p.n_q + p.row_tokens - 1) / p.row_tokens,
    p.n_cols = (p.n_kv + p.col_tokens - 1) / p.col_tokens;
    p.first_row = p.q_start / p.row_tokens, p.pools = p.block_q / p.row_tokens;
    p.per_tile = a->block.k / p.col_tokens, p.n_kblocks = (p.n_kv + a->block.k - 1) / a->block.k;
    p.scale_log2 = a->scale * 1.44269504f;
    p.q_row = a->q_row, p.q_head = a->q_head, p.k_row = a->k_row, p.k_head = a->k_head;
    p.q = (const __nv_bfloat16 *)a->q, p.k = (const __nv_bfloat16 *)a->k;
    p.heads = m->heads;
    return p;
}

template <int DIM, int ROWS, int PER>
enum status launch_scores(const params &p, cudaStream_t stream)
{
    static_assert(SET % ROWS == 0, "whole sets");
    const size_t room = sizeof(__nv_bfloat16) * (DIM + 8) * (ROWS + 2 * COLS);
    const unsigned sets = (unsigned)((p.end - p.from + ROWS - 1) / ROWS);
    auto *kernel = score_tiles<DIM, ROWS, PER>;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room));
    kernel<<<dim3(sets * (unsigned)p.n_heads, (unsigned)p.splits), ROWS * 2, room, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

template <int DIM, int ROWS> enum status score_by_tile(const params &p, cudaStream_t stream)
{
    return p.per_tile == 2 ? launch_scores<DIM, ROWS, 2>(p, stream)
        : p.per_tile == 4  ? launch_scores<DIM, ROWS, 4>(p, stream)
        : p.per_tile == 8  ? launch_scores<DIM, ROWS, 8>(p, stream)
                           : launch_scores<DIM, ROWS, 16>(p, stream);
}

template <int DIM> enum status score(const params &p, cudaStream_t stream)
{
    return p.n_rows < SHORT ? score_by_tile<DIM, 32>(p, stream)
                            : score_by_tile<DIM, SET>(p, stream);
}

template <int PER> enum status pool_all(const params &p, bool after, cudaStream_t stream)
{
    const int items = p.n_kv_heads * p.n_cols + (p.means != NULL ? p.n_heads * p.n_rows : 0);
    return chain_launch(pool_rows<PER>, dim3((unsigned)((items + POOL_WARPS - 1) / POOL_WARPS)),
        POOL_THREADS, 0, p, after, stream);
}

enum status pool_by_dim(const params &p, bool after, cudaStream_t stream)
{
    return p.d <= 64 ? pool_all<8>(p, after, stream)
        : p.d <= 128 ? pool_all<16>(p, after, stream)
                     : pool_all<32>(p, after, stream);
}

/* Whether one kernel makes the rows. */
bool fits_on_chip(const params &p)
{
    return p.n_kv <= FEW_KEYS && p.pools <= POOLS && rows_room(p) <= ON_CHIP;
}

/* Everything, into rows of the map or into masses. */
enum status run(params p, struct rank_params r, void *ws, cudaStream_t stream)
{
    const struct layout l = plan(p);
    p.centres = (__nv_bfloat16 *)((char *)ws + l.centres);
    if (r.mass == NULL && fits_on_chip(p)) {
        TRY(pool_by_dim(p, p.part > 0, stream));
        const rows_params a = {p, r};
        return p.d <= 64 ? bound_rows_by_tile<80>(a, stream)
            : p.d <= 128 ? bound_rows_by_tile<144>(a, stream)
                         : bound_rows_by_tile<272>(a, stream);
    }
    p.means = (__nv_bfloat16 *)((char *)ws + l.means);
    p.norms = (float *)((char *)ws + l.norms), p.sums = (float *)((char *)ws + l.sums);
    TRY(pool_by_dim(p, p.part > 0, stream));
    /* by shape alone: two threads to a pool */
    const long threads = 2l * p.n_heads * min(l.rows_at_once, p.n_rows);
    p.splits = (int)min((long)SPLITS, (FILLING + threads - 1) / threads);
    r.sums = p.sums, r.norms = p.norms, r.splits = p.splits, r.pools = p.pools,
    r.n_pools = p.n_rows, r.join = p.join;
    for (p.from = 0; p.from < p.n_rows; p.from += l.rows_at_once) {
        /* whole blocks: pools behind the last row are made of nothing, and nobody asks for them */
        p.end = min(p.from + l.rows_at_once, (p.n_rows + p.pools - 1) / p.pools * p.pools);
        TRY(p.d <= 64        ? score<80>(p, stream)
                : p.d <= 128 ? score<144>(p, stream)
                             : score<272>(p, stream));
        r.first = p.from / p.pools, r.n_blocks = (p.end - p.from) / p.pools;
        TRY(rank_cuda_rows(r, stream));
    }
    return OK;
}

} // namespace

extern "C" {

const char *bound_cuda_refuses(const struct mask_cuda_args *m, const struct mask_method *method)
{
    const params p = params_of(m, method);
    if (p.row_tokens < 2 || p.block_q % p.row_tokens != 0)
        return "its rows must divide the query block, at least 2 of them";
    if (p.per_tile < 2 || p.per_tile > 16 || (p.per_tile & (p.per_tile - 1)) != 0 ||
        p.per_tile * p.col_tokens != m->attn->block.k)
        return "the device takes 2, 4, 8 or 16 sub-blocks to a tile";
    if (p.n_groups > MOST_GROUPS) return "the device takes at most 16 groups of channels";
    return rank_cuda_refuses(m, method);
}

size_t bound_cuda_workspace(const struct mask_cuda_args *m, const struct mask_method *method)
{
    return plan(params_of(m, method)).bytes;
}

enum status bound_cuda_predict(const struct mask_cuda_args *m, const struct mask_method *method,
    int part, const struct tile_map *tiles, void *ws, struct stream *stream)
{
    params p = params_of(m, method);
    p.part = part;
    return run(p, rank_cuda_params(m, method, part, tiles), ws, (cudaStream_t)stream);
}

enum status bound_cuda_mass(const struct mask_cuda_args *m, const struct mask_method *method,
    float *mass, void *ws, struct stream *stream)
{
    params p = params_of(m, method);
    struct rank_params r = rank_cuda_params(m, method, 0, NULL);
    p.heads = NULL, r.heads = NULL, r.mass = mass;
    return run(p, r, ws, (cudaStream_t)stream);
}
}

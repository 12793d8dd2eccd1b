/* The predictor `bound` on the device where a row's tiles fit on chip: rows of the map from the
 * queries themselves in one kernel. A CTA pools POOLS pools of queries, of heads that share their
 * keys, so that a sub-block that is read serves them all; multiplies them with the sub-blocks,
 * which its warps share; and chooses. Reading queries, the bulk of the traffic, so runs beside all
 * else. Private to the .cu files.
 */
#ifndef SG_KERNELS_CUDA_BOUND_ROWS_CUDA_CUH
#define SG_KERNELS_CUDA_BOUND_ROWS_CUDA_CUH

#include "kernels/cuda/bound_pool_cuda.cuh"
#include "kernels/cuda/chain_cuda.cuh"
#include "kernels/cuda/rank_rows_cuda.cuh"

namespace bound_cuda
{

enum { POOLS = 32, ROW_WARPS = 8, ROW_THREADS = ROW_WARPS * 32, STRIP_COLS = 16 };

struct rows_params {
    params p;
    struct rank_params r;
};

/* Which rows of the map a CTA makes: some blocks of some heads of one kv head, longest rows first.
 */
struct share_of_rows {
    int units, heads, sets, blocks, across; /* rows of the map, their heads, of so many sets, … */
    __host__ __device__ share_of_rows(const params &p)
    {
        units = POOLS / p.pools;
        heads = p.group < units ? p.group : units;
        sets = (p.group + heads - 1) / heads;
        blocks = units / heads;
        across = sets * p.n_kv_heads;
    }
};

/* Floats in a row of logarithms: eight rows of one column lie in eight banks. */
__host__ __device__ __forceinline__ int pitch_of(const params &p)
{
    const int tiles = (p.n_cols + STRIP_COLS - 1) / STRIP_COLS * STRIP_COLS / p.per_tile;
    return (tiles + 31) / 32 * 32 + 4;
}

/* A lane's part of N rows of centres, 16 bytes of each 64; what is left of a row is 32. */
template <int DIM, int N> struct centres_ahead {
    static constexpr int WHOLE = DIM / 32;
    uint4 x[N][WHOLE];
    uint2 rest[N];
    __device__ __forceinline__ void load(const params &p, const __nv_bfloat16 *centres, int first)
    {
        const int lane = threadIdx.x % 32, t = lane % 4;
#pragma unroll
        for (int n = 0; n < N; n++) {
            const __nv_bfloat16 *from =
                centres + (size_t)min(first + n * 8 + lane / 4, p.n_cols - 1) * p.wide;
#pragma unroll
            for (int k = 0; k < WHOLE; k++)
                x[n][k] = k * 32 + t * 8 < p.wide ? __ldcg((const uint4 *)(from + k * 32 + t * 8))
                                                  : make_uint4(0, 0, 0, 0);
            rest[n] = WHOLE * 32 + t * 4 < p.wide
                ? __ldcg((const uint2 *)(from + WHOLE * 32 + t * 4))
                : make_uint2(0, 0);
        }
    }
};

/* s[m][n] of 16 m rows and 8 n columns. Lanes hold neighbouring channels where an instruction has
 * others: a sum does not mind which of its terms are called what. */
template <int DIM>
__device__ __forceinline__ void multiply_strip(
    float (&s)[2][2][4], const __nv_bfloat16 *q, const centres_ahead<DIM, 2> &c)
{
    constexpr int LINE = DIM + 16;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < 2; m++) {
        const __nv_bfloat16 *low = q + (m * 16 + g) * LINE, *high = low + 8 * LINE;
#pragma unroll
        for (int k = 0; k < DIM / 32; k++) {
            const uint4 a = *(const uint4 *)(low + k * 32 + t * 8),
                        b = *(const uint4 *)(high + k * 32 + t * 8);
            const uint32_t one[4] = {a.x, b.x, a.y, b.y}, two[4] = {a.z, b.z, a.w, b.w};
#pragma unroll
            for (int n = 0; n < 2; n++) {
                multiply(s[m][n], one, c.x[n][k].x, c.x[n][k].y);
                multiply(s[m][n], two, c.x[n][k].z, c.x[n][k].w);
            }
        }
        const uint2 a = *(const uint2 *)(low + DIM / 32 * 32 + t * 4),
                    b = *(const uint2 *)(high + DIM / 32 * 32 + t * 4);
        const uint32_t one[4] = {a.x, b.x, a.y, b.y};
#pragma unroll
        for (int n = 0; n < 2; n++) multiply(s[m][n], one, c.rest[n].x, c.rest[n].y);
    }
}

/* From the products of two columns that a lane holds, of each half of a strip: log2 of the sum of
 * 2^score of each tile, in all lanes that hold columns of it. */
template <int PER>
__device__ __forceinline__ void sum_strip(const float (&e)[2][2], float scale, float (&sum)[2])
{
    float most[2], all[2];
#pragma unroll
    for (int n = 0; n < 2; n++) {
        most[n] = fmaxf(e[n][0], e[n][1]);
        if (PER >= 4) most[n] = fmaxf(most[n], __shfl_xor_sync(ALL, most[n], 1));
        if (PER >= 8) most[n] = fmaxf(most[n], __shfl_xor_sync(ALL, most[n], 2));
    }
    if (PER == 16) most[0] = most[1] = fmaxf(most[0], most[1]);
#pragma unroll
    for (int n = 0; n < 2; n++) {
        most[n] = most[n] == -INFINITY ? 0 : most[n] * scale;
        all[n] =
            exp2_fast(fmaf(e[n][0], scale, -most[n])) + exp2_fast(fmaf(e[n][1], scale, -most[n]));
        if (PER >= 4) all[n] += __shfl_xor_sync(ALL, all[n], 1);
        if (PER >= 8) all[n] += __shfl_xor_sync(ALL, all[n], 2);
    }
    if (PER == 16) all[0] += all[1];
#pragma unroll
    for (int n = 0; n < 2; n++) sum[n] = most[n] + log2_fast(all[n]);
}

/* The logarithm of a row's whole sum, by a warp. */
__device__ __forceinline__ float whole_sum(const float *sums, int n)
{
    const int lane = threadIdx.x % 32;
    float most = -INFINITY, all = 0;
    for (int j = lane; j < n; j += 32) most = fmaxf(most, sums[j]);
    most = mask_cuda::warp_max(most);
    for (int j = lane; j < n; j += 32) all += exp2_fast(sums[j] - most);
    return most + log2f(mask_cuda::warp_sum(all));
}

template <int DIM, int PER>
__global__ __launch_bounds__(ROW_THREADS, 2) void bound_rows(const __grid_constant__ rows_params a)
{
    constexpr int LINE = DIM + 16, LANES = DIM <= 80 ? 8 : DIM <= 144 ? 16 : 32;
    const params &p = a.p;
    extern __shared__ __align__(16) float row_room[];
    __shared__ float norms[POOLS], lists[ROW_WARPS][mask_cuda::FEW];
    __nv_bfloat16 *q = (__nv_bfloat16 *)row_room;
    float *sums = row_room + POOLS * LINE / 2; /* [POOLS, pitch]; room to pool in before */
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, pitch = pitch_of(p);
    const share_of_rows share(p);
    const int kv = (int)blockIdx.x % p.n_kv_heads,
              set = (int)blockIdx.x / p.n_kv_heads % share.sets,
              block0 = ((int)(gridDim.x) / share.across - 1 - (int)blockIdx.x / share.across) *
        share.blocks;
    const auto head_of = [&](int unit) { /* or -1 */
        const int of_group = set * share.heads + unit % share.heads;
        const bool real = unit < share.heads * share.blocks && of_group < p.group &&
            block0 + unit / share.heads < a.r.n_qblocks;
        const int head = kv * p.group + of_group;
        return real && p.heads[head].part == p.part ? head : -1;
    };
    const auto pool_of = [&](int row) { /* in the call */
        return (block0 + row / p.pools / share.heads) * p.pools + row % p.pools;
    };

    bool wanted = false;
    for (int row = warp * (POOLS / ROW_WARPS); row < (warp + 1) * (POOLS / ROW_WARPS); row++) {
        const int head = head_of(row / p.pools), pool = pool_of(row);
        __nv_bfloat16 *to = q + row * LINE;
        if (head >= 0 && p.heads[head].is_sparse && pool < p.n_rows) {
            wanted = true;
            pool_queries<LANES>(p, head, pool, sums + warp * LANES * 8, to);
            for (int c = p.wide + lane; c < DIM; c += 32) to[c] = __float2bfloat16_rn(0);
        } else {
            for (int c = lane; c < DIM; c += 32) to[c] = __float2bfloat16_rn(0);
        }
    }
    wait_for_earlier();
    if (__syncthreads_or(wanted)) {
        const int last = min((block0 + share.blocks) * p.pools, p.n_rows) - 1,
                  strips = (cols_seen(p, last) + STRIP_COLS - 1) / STRIP_COLS;
        const __nv_bfloat16 *centres = p.centres + (size_t)kv * p.n_cols * p.wide;
        int seen[4]; /* of rows 8 i + lane / 4 */
#pragma unroll
        for (int i = 0; i < 4; i++) seen[i] = cols_seen(p, pool_of(8 * i + lane / 4));
        centres_ahead<DIM, 2> ahead;
        ahead.load(p, centres, warp * STRIP_COLS);
        for (int strip = warp; strip < strips; strip += ROW_WARPS) {
            const centres_ahead<DIM, 2> c = ahead;
            if (strip + ROW_WARPS < strips)
                ahead.load(p, centres, (strip + ROW_WARPS) * STRIP_COLS);
            float s[2][2][4] = {};
            multiply_strip<DIM>(s, q, c);
            const int col = strip * STRIP_COLS + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float e[2][2], sum[2];
#pragma unroll
                for (int n = 0; n < 2; n++)
#pragma unroll
                    for (int x = 0; x < 2; x++)
                        e[n][x] =
                            col + n * 8 + x < seen[i] ? s[i / 2][n][i % 2 * 2 + x] : -INFINITY;
                sum_strip<PER>(e, p.scale_log2, sum);
                float *to = sums + (8 * i + lane / 4) * pitch;
#pragma unroll
                for (int n = 0; n < (PER == 16 ? 1 : 2); n++)
                    if (PER == 2 || (PER == 4 && lane % 2 == 0) || lane % 4 == 0)
                        to[(col + n * 8) / PER] = sum[n];
            }
        }
    }
    __syncthreads();
    for (int unit = warp; unit < share.units; unit += ROW_WARPS) {
        const int head = head_of(unit), block = block0 + unit / share.heads;
        if (head < 0) continue;
        const struct head_params t = p.heads[head];
        const int n = mask_cuda::tiles_seen(a.r, block),
                  pools = min(p.pools, p.n_rows - block * p.pools);
        float *mass = sums + unit * p.pools * pitch, top = 0;
        if (t.is_sparse) {
            for (int i = 0; i < pools; i++) {
                const float norm = whole_sum(mass + i * pitch, n);
                if (lane == 0) norms[unit * p.pools + i] = norm;
            }
            __syncwarp();
            for (int j = lane; j < n; j += 32) {
                float all = 0;
                for (int i = 0; i < pools; i++)
                    all = mask_cuda::joined(
                        p.join, all, exp2_fast(mass[i * pitch + j] - norms[unit * p.pools + i]));
                mass[j] = p.join == 1 ? sqrtf(all) : all;
                top = fmaxf(top, mass[j]);
            }
            top = mask_cuda::warp_max(top);
        }
        mask_cuda::choose_row(a.r, head, block, n, t, mass, top, lists[warp]);
    }
}

/* Bytes of shared memory; what a pooled vector has. */
__host__ __forceinline__ size_t rows_room(const params &p)
{
    const int dim = p.d <= 64 ? 80
        : p.d <= 128          ? 144
                              : 272,
              lanes = p.d <= 64 ? 8
        : p.d <= 128            ? 16
                                : 32;
    const size_t tiles = (size_t)POOLS * (size_t)pitch_of(p),
                 pooling = (size_t)ROW_WARPS * (size_t)lanes * 8;
    return sizeof(float) *
        ((size_t)POOLS * (size_t)(dim + 16) / 2 + (tiles > pooling ? tiles : pooling));
}

template <int DIM, int PER> enum status launch_bound_rows(const rows_params &a, cudaStream_t stream)
{
    const share_of_rows share(a.p);
    const int tasks = (a.r.n_qblocks + share.blocks - 1) / share.blocks * share.across;
    return chain_launch(
        bound_rows<DIM, PER>, dim3((unsigned)tasks), ROW_THREADS, rows_room(a.p), a, true, stream);
}

template <int DIM> enum status bound_rows_by_tile(const rows_params &a, cudaStream_t stream)
{
    return a.p.per_tile == 2 ? launch_bound_rows<DIM, 2>(a, stream)
        : a.p.per_tile == 4  ? launch_bound_rows<DIM, 4>(a, stream)
        : a.p.per_tile == 8  ? launch_bound_rows<DIM, 8>(a, stream)
                             : launch_bound_rows<DIM, 16>(a, stream);
}

} // namespace bound_cuda

#endif

/* Curves on the device, second half: tiles merged in the order in which thresholds let them in, and
 * what each step leaves of the error. One CTA per (list, query block, head) and slab of rows; a
 * warp keeps its rows in registers and never waits for another until the walk is over. */
#include "kernels/cuda/curve_cuda.cuh"

#include <float.h>
#include <math.h>

namespace
{

enum {
    VALUES = 16,      /* of a row's chain in one thread */
    NEVER = 255,      /* bucket of a unit that no λ lets in */
    MARGINS_AHEAD = 8 /* row maxima in flight */
};
constexpr uint32_t ALL = 0xffffffffu;

template <int DIM> struct slab {
    static constexpr int LANES = DIM / VALUES, WARP_ROWS = 32 / LANES,
                         ROWS = CURVE_WARPS * WARP_ROWS;
};

/* Shared memory of a walk. */
struct scratch {
    double *sum;   /* [n_kblocks] running sums of p by rank; under max-relative p itself by rank */
    float *p;      /* [n_kblocks] */
    float *margin; /* [2, n_kblocks] */
    float *error;  /* [max_steps, 3, rows] */
    int *count;    /* [N_LAMBDAS] tiles merged at each point */
    uint16_t *seq; /* [n_kblocks] the order of merging */
    uint16_t *rank, *list;
    uint16_t *step_at; /* [N_LAMBDAS] tiles merged at each step */
    uint8_t *forced, *bucket;
    double *reduce; /* [CURVE_WARPS] */
    int *box;       /* [8]: single values handed over */
};
enum { BOX_STEPS, BOX_LISTED, BOX_FORCED_RANKS, BOX_N_FORCED = BOX_FORCED_RANKS + 4 };

__host__ __device__ inline size_t lay_out(
    int n_kblocks, int max_steps, int rows, char *base, scratch *s)
{
    size_t at = 0, n = (size_t)(n_kblocks + 7) / 8 * 8, points = (N_LAMBDAS + 7) / 8 * 8;
    auto take = [&at, base](size_t bytes) {
        char *here = base + at;
        at += (bytes + 15) / 16 * 16;
        return (void *)here;
    };
    scratch t;
    t.sum = (double *)take(n * sizeof(double));
    t.p = (float *)take(n * sizeof(float));
    t.margin = (float *)take(2 * n * sizeof(float));
    t.error = (float *)take((size_t)max_steps * 3 * (size_t)rows * sizeof(float));
    t.count = (int *)take(points * sizeof(int));
    t.seq = (uint16_t *)take(n * 2);
    t.rank = (uint16_t *)take(n * 2);
    t.list = (uint16_t *)take(n * 2);
    t.step_at = (uint16_t *)take(points * 2);
    t.forced = (uint8_t *)take(n);
    t.bucket = (uint8_t *)take(n);
    t.reduce = (double *)take(CURVE_WARPS * sizeof(double));
    t.box = (int *)take(8 * sizeof(int));
    if (s != NULL) *s = t;
    return at;
}

__device__ double block_sum(double x, double *reduce)
{
    for (int m = 16; m > 0; m /= 2) x += __shfl_xor_sync(ALL, x, m);
    __syncthreads();
    if (threadIdx.x % 32 == 0) reduce[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < CURVE_WARPS; w++) x += reduce[w];
    return x;
}

__device__ float block_max(float x, double *reduce)
{
    for (int m = 16; m > 0; m /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, m));
    __syncthreads();
    if (threadIdx.x % 32 == 0) reduce[threadIdx.x / 32] = (double)x;
    __syncthreads();
    x = -INFINITY;
    for (int w = 0; w < CURVE_WARPS; w++) x = fmaxf(x, (float)reduce[w]);
    return x;
}

/* Stage 1 of one query block for one θ, as a part of the method ranks it: fills p, forced, rank,
 * sum. How many are eligible. */
__device__ int rank_tiles(const curve_params &p, const scratch &s, int x, int head, int block,
    int n, int part, float theta)
{
    const size_t at = (size_t)x * p.n_qblocks + block;
    const bool by_mass = p.masses[part] != NULL;
    const float *mass = p.masses[part] + ((size_t)head * p.n_qblocks + block) * p.n_kblocks;
    const float *score = p.score + at * p.n_kblocks,
                *k_sim = p.k_sim + (size_t)(head / p.group) * p.n_kblocks;
    const bool q_similar = by_mass || p.q_sim[at] > theta;
    float top = -INFINITY;
    double total = 0;
    int n_eligible = 0;
    for (int j = threadIdx.x; j < n && !by_mass; j += CURVE_THREADS)
        if (k_sim[j] > theta) top = fmaxf(top, score[j]);
    top = block_max(top, s.reduce);
    for (int j0 = 0; j0 < n; j0 += CURVE_THREADS) {
        const int j = j0 + threadIdx.x;
        const bool eligible = j < n && (by_mass || k_sim[j] > theta);
        float e = eligible ? fmaxf(by_mass ? mass[j] : expf(score[j] - top), FLT_MIN) : 0;
        n_eligible += __syncthreads_count(eligible);
        total += (double)e;
        if (j >= n) continue;
        s.p[j] = e;
        s.forced[j] = j == 0 || (j + 1) * p.bk > block * p.bq || !eligible || !q_similar;
    }
    total = block_sum(total, s.reduce);
    for (int j = threadIdx.x; j < n; j += CURVE_THREADS)
        if (s.p[j] > 0) s.p[j] = fmaxf((float)((double)s.p[j] / total), FLT_MIN);
    __syncthreads();
    for (int j = threadIdx.x; j < n; j += CURVE_THREADS) {
        const float mine = s.p[j];
        int rank = 0;
        for (int i = 0; i < n; i++) rank += s.p[i] > mine || (s.p[i] == mine && i < j);
        s.rank[j] = (uint16_t)rank; /* of what is not eligible: behind all others */
        if (mine > 0) s.sum[rank] = (double)mine;
    }
    __syncthreads();
    if (threadIdx.x == 0 && !p.relative[part]) {
        double sum = 0;
#pragma unroll 4
        for (int i = 0; i < n_eligible; i++) s.sum[i] = sum += s.sum[i];
    }
    __syncthreads();
    return n_eligible;
}

/* The part's rule. */
__device__ int count_kept(
    const curve_params &p, const scratch &s, int part, int n_eligible, float keep)
{
    if (keep >= 1 || n_eligible == 0) return n_eligible;
    const double limit = p.relative[part] ? (1 - (double)keep) * s.sum[0] : (double)keep;
    int kept = 1, over = n_eligible; /* sums grow, shares fall, so: the first that is dropped */
    while (kept < over) {
        int middle = (kept + over) / 2;
        if (p.relative[part] ? s.sum[middle] >= limit : s.sum[middle] <= limit) kept = middle + 1;
        else over = middle;
    }
    return kept;
}

/* Forced tiles first, then the others by rank; how many have joined at each τ. */
__device__ void order_by_rank(
    const curve_params &p, const scratch &s, int part, int n, int n_eligible)
{
    if (threadIdx.x < 4) s.box[BOX_FORCED_RANKS + threadIdx.x] = CURVE_MAX_KBLOCKS;
    if (threadIdx.x < 32) {
        const int lane = threadIdx.x;
        const uint32_t below = (1u << lane) - 1;
        /* of the eligible only the sink and the diagonal are forced: three at most */
        int forced = 0, ranked = 0;
        __syncwarp();
        for (int j0 = 0; j0 < n; j0 += 32) {
            const int j = j0 + lane;
            const bool in = j < n && s.forced[j], eligible = in && s.p[j] > 0;
            const uint32_t all = __ballot_sync(ALL, in),
                           all_eligible = __ballot_sync(ALL, eligible);
            if (in) s.seq[forced + __popc(all & below)] = (uint16_t)j;
            if (eligible)
                s.box[BOX_FORCED_RANKS + ranked + __popc(all_eligible & below)] = s.rank[j];
            forced += __popc(all), ranked += __popc(all_eligible);
        }
        if (lane == 0) s.box[BOX_N_FORCED] = forced;
    }
    __syncthreads();
    const int n_forced = s.box[BOX_N_FORCED];
    auto forced_before = [&s](int rank) {
        int before = 0;
        for (int i = 0; i < 4; i++) before += s.box[BOX_FORCED_RANKS + i] < rank;
        return before;
    };
    for (int j = threadIdx.x; j < n; j += CURVE_THREADS)
        if (!s.forced[j]) s.seq[n_forced + s.rank[j] - forced_before(s.rank[j])] = (uint16_t)j;
    for (int u = threadIdx.x; u < N_TAUS; u += CURVE_THREADS) {
        int kept = count_kept(p, s, part, n_eligible, p.taus[u]);
        s.count[u] = n_forced + kept - forced_before(kept);
    }
    __syncthreads();
}

/* Every tile joins before the first τ. */
__device__ void order_all(const scratch &s, int n)
{
    for (int j = threadIdx.x; j < n; j += CURVE_THREADS) s.seq[j] = (uint16_t)j;
    for (int u = threadIdx.x; u < N_TAUS; u += CURVE_THREADS) s.count[u] = n;
    __syncthreads();
}

/* Units of what (θ, τ) keeps, in the order in which λ lets them in, for rows [unit0, unit0 +
 * n_rows) of the block. */
__device__ void order_by_margin(const curve_params &p, const scratch &s, const float *tiles,
    int part, int n, int n_eligible, float tau, int block, int unit0, int n_rows)
{
    const int keep = count_kept(p, s, part, n_eligible, tau),
              last = block * p.bq + unit0 + n_rows - 1;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (warp == 0) {
        int listed = 0;
        for (int j0 = 0; j0 < n; j0 += 32) {
            int j = j0 + lane;
            bool in = j < n && j * p.bk <= last && (s.forced[j] || s.rank[j] < keep);
            uint32_t all = __ballot_sync(ALL, in);
            if (in) s.list[listed + __popc(all & ((1u << lane) - 1))] = (uint16_t)j;
            listed += __popc(all);
        }
        if (lane == 0) s.box[BOX_LISTED] = listed;
    }
    __syncthreads();
    const int listed = s.box[BOX_LISTED];
    /* a thread per row: by how much its maximum so far is above the tile's */
    if (warp < PV_UNIT_ROWS / 32) {
        const int r = threadIdx.x;
        const float *maxima = tiles + (size_t)p.bq * p.d + unit0 + r;
        float top = -INFINITY;
        for (int i0 = 0; i0 < listed; i0 += MARGINS_AHEAD) {
            float m[MARGINS_AHEAD];
#pragma unroll
            for (int i = 0; i < MARGINS_AHEAD; i++)
                m[i] = i0 + i < listed && r < n_rows ? maxima[s.list[i0 + i] * curve_tile_floats(p)]
                                                     : -INFINITY;
#pragma unroll
            for (int i = 0; i < MARGINS_AHEAD; i++) {
                top = fmaxf(top, m[i]);
                uint32_t bits = __float_as_uint(m[i] > -INFINITY ? top - m[i] : INFINITY);
                bits = __reduce_min_sync(ALL, bits); /* not negative, so ordered as integers are */
                if (lane == 0 && i0 + i < listed)
                    s.margin[warp * p.n_kblocks + i0 + i] = __uint_as_float(bits);
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < listed; i += CURVE_THREADS) {
        float margin = fminf(s.margin[i], s.margin[p.n_kblocks + i]);
        /* the first λ above the margin; a unit whose sum is still empty is never skipped */
        s.bucket[i] = (uint8_t)(i == 0 ? 0 : margin < 50 ? (int)(2 * margin) + 1 : (int)NEVER);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < listed; i += CURVE_THREADS) {
        const int mine = s.bucket[i];
        int before = 0;
        for (int o = 0; o < listed; o++)
            before += s.bucket[o] < mine || (s.bucket[o] == mine && o < i);
        if (mine != NEVER) s.seq[before] = s.list[i];
    }
    for (int u = threadIdx.x; u < N_LAMBDAS; u += CURVE_THREADS) {
        int count = 0;
        for (int i = 0; i < listed; i++) count += s.bucket[i] <= u;
        s.count[u] = count;
    }
    __syncthreads();
}

/* Points at which nothing joins share a step. */
__device__ void number_steps(const curve_params &p, const scratch &s, uint8_t *step_of)
{
    const int lane = threadIdx.x;
    if (threadIdx.x < 32) {
        int done = 0;
        for (int u0 = 0; u0 < p.points; u0 += 32) {
            int u = u0 + lane;
            bool grew = u < p.points && (u == 0 || s.count[u] != s.count[u - 1]);
            uint32_t all = __ballot_sync(ALL, grew);
            int step = done + __popc(all & (ALL >> (31 - lane))) - 1;
            if (u < p.points) step_of[u] = (uint8_t)step;
            if (grew) s.step_at[step] = (uint16_t)s.count[u];
            done += __popc(all);
        }
        if (lane == 0) s.box[BOX_STEPS] = done;
    }
    __syncthreads();
}

/* Sums and largest relative errors of one step's rows; one warp. */
__device__ void write_record(const curve_params &p, const float *error, int rows,
    const float *row_abs, int valid_rows, int kept, float *record)
{
    const int lane = threadIdx.x % 32;
    float sum[3] = {0, 0, 0}, relative[2] = {0, 0};
    for (int h = 0; h < 2; h++) {
        const int r = lane + 32 * h;
        if (r >= valid_rows) continue;
        for (int i = 0; i < 3; i++) sum[i] += error[i * rows + r];
        float norm = row_abs[r];
        relative[h] = norm > 0 ? error[r] / norm : 0;
    }
    for (int i = 0; i < 3; i++) sum[i] = curve_warp_sum(sum[i]);
    if (lane == 0)
        record[0] = sum[0], record[1] = sum[1], record[2] = sum[2], record[3] = (float)kept;
    for (int k = 0; k < p.n_top; k++) {
        float mine = fmaxf(relative[0], relative[1]), best = mine;
        for (int m = 16; m > 0; m /= 2) best = fmaxf(best, __shfl_xor_sync(ALL, best, m));
        int owner = __ffs((int)__ballot_sync(ALL, mine == best)) - 1;
        if (lane == owner) {
            if (relative[0] == best) relative[0] = 0;
            else relative[1] = 0;
        }
        if (lane == 0) record[CURVE_RECORD + k] = best;
    }
}

template <int DIM>
__device__ __forceinline__ void load_row(float4 (&to)[VALUES / 4], const float *row, int d)
{
    constexpr int LANES = slab<DIM>::LANES;
    const int c0 = threadIdx.x % LANES * 4;
#pragma unroll
    for (int i = 0; i < VALUES / 4; i++) {
        const int c = c0 + i * LANES * 4;
        to[i] = c < d ? *(const float4 *)(row + c) : make_float4(0, 0, 0, 0);
    }
}

/* The walk itself, for one warp's rows: merge, and at the end of each step leave their errors in
 * shared memory. */
template <int DIM>
__device__ void walk_rows(const curve_params &p, const scratch &s, const float *tiles, int head,
    int block, int first_row, int n_whole)
{
    using S = slab<DIM>;
    const int lane = threadIdx.x % 32, r = threadIdx.x / 32 * S::WARP_ROWS + lane / S::LANES;
    const int in_block = first_row + r, row = block * p.bq + in_block;
    const bool valid = row < p.n;
    const size_t stride = curve_tile_floats(p);
    const float *values = tiles + (size_t)in_block * p.d,
                *maxima = tiles + (size_t)p.bq * p.d + in_block;
    float4 exact[VALUES / 4], next[VALUES / 4];
    float o[VALUES] = {}, m = -INFINITY, l = 0, next_m, next_l;
    load_row<DIM>(exact, p.exact + ((size_t)head * p.n + (valid ? row : p.n - 1)) * p.d, p.d);
    const int n_steps = s.box[BOX_STEPS];
    int merged = 0, left = n_steps > 0 ? s.step_at[n_steps - 1] : 0;
    auto load = [&](int i) {
        const size_t at = s.seq[i] * stride;
        load_row<DIM>(next, values + at, p.d);
        next_m = maxima[at], next_l = maxima[at + (size_t)p.bq];
    };
    if (left > 0) load(0);
    for (int step = 0; step < n_steps; step++) {
        for (const int end = s.step_at[step]; merged < end; merged++) {
            const float tile_m = next_m, tile_l = next_l;
            float x[VALUES];
#pragma unroll
            for (int i = 0; i < VALUES / 4; i++)
                x[4 * i] = next[i].x, x[4 * i + 1] = next[i].y, x[4 * i + 2] = next[i].z,
                      x[4 * i + 3] = next[i].w;
            if (merged + 1 < left) load(merged + 1);
            /* the row sees nothing of it, and nothing was written there */
            if (!(tile_m > -INFINITY)) continue;
            const float top = fmaxf(m, tile_m), a = exp2f(m - top), b = exp2f(tile_m - top);
            m = top;
            l = l * a + tile_l * b;
#pragma unroll
            for (int i = 0; i < VALUES; i++) o[i] = o[i] * a + x[i] * b;
        }
        const bool whole = s.step_at[step] == n_whole; /* nothing was left out */
        const float inverse = 1 / l;
        float error[3] = {0, 0, 0};
#pragma unroll
        for (int i = 0; i < VALUES / 4; i++) {
            const float y[4] = {exact[i].x, exact[i].y, exact[i].z, exact[i].w};
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const float got = whole ? y[c] : o[4 * i + c] * inverse, diff = got - y[c];
                error[0] += fabsf(diff);
                error[1] = fmaf(diff, diff, error[1]);
                error[2] = fmaf(got, got, error[2]);
            }
        }
#pragma unroll
        for (int i = 0; i < 3; i++) {
#pragma unroll
            for (int x = 1; x < S::LANES; x *= 2) error[i] += __shfl_xor_sync(ALL, error[i], x);
            if (lane % S::LANES == 0) s.error[(step * 3 + i) * S::ROWS + r] = valid ? error[i] : 0;
        }
    }
}

template <int DIM, bool LAMBDA>
__global__ __launch_bounds__(CURVE_THREADS) void walk_kernel(const __grid_constant__ curve_params p)
{
    extern __shared__ __align__(16) char memory[];
    using S = slab<DIM>;
    scratch s;
    lay_out(p.n_kblocks, p.max_steps, S::ROWS, memory, &s);
    const int list = blockIdx.x / p.slabs, part = blockIdx.x % p.slabs;
    const int block = p.block0 + (int)(gridDim.y - 1 - blockIdx.y), x = p.head0 + blockIdx.z,
              head = curve_head(p, x);
    const int first_row = part * S::ROWS, row0 = block * p.bq + first_row,
              n = curve_tiles(p, block);
    if (row0 >= p.n) return;
    if (LAMBDA ? list >= p.n_pairs[x]
               : p.first_theta[((size_t)x * p.n_qblocks + block) * N_THETAS + list] != list)
        return;
    const float *tiles = curve_block_tiles(p, x, block);
    const size_t index = curve_record_index(p, x, block, list, part);
    bool counts; /* the first slab of what is counted counts */
    if constexpr (LAMBDA) {
        const struct threshold_pair pair = p.pairs[x * MAX_LAMBDA_PAIRS + list];
        const int unit0 = first_row / PV_UNIT_ROWS * PV_UNIT_ROWS;
        const int n_eligible = rank_tiles(p, s, x, head, block, n, pair.part, pair.theta);
        order_by_margin(p, s, tiles, pair.part, n, n_eligible, pair.tau, block, unit0,
            min((int)PV_UNIT_ROWS, p.n - block * p.bq - unit0));
        counts = first_row % PV_UNIT_ROWS == 0;
    } else {
        const int n_eligible = rank_tiles(p, s, x, head, block, n, p.part, (float)(list - 16) / 16);
        if (p.eight && p.masses[p.part] == NULL &&
            !(p.q_sim[(size_t)x * p.n_qblocks + block] > (float)(list - 16) / 16))
            order_all(s, n); /* every tile is forced */
        else order_by_rank(p, s, p.part, n, n_eligible);
        counts = part == 0;
    }
    number_steps(p, s, p.step_of + index * (size_t)p.points);
    walk_rows<DIM>(p, s, tiles, head, block, first_row, LAMBDA || p.eight ? -1 : n);
    __syncthreads();
    const int n_steps = s.box[BOX_STEPS], record = CURVE_RECORD + p.n_top;
    for (int step = threadIdx.x / 32; step < n_steps; step += CURVE_WARPS)
        write_record(p, s.error + (size_t)step * 3 * S::ROWS, S::ROWS,
            p.row_abs + (size_t)head * p.n + row0, min((int)S::ROWS, p.n - row0),
            counts ? s.step_at[step] : 0,
            p.records + (index * (size_t)p.max_steps + (size_t)step) * (size_t)record);
}

/* Rows of an output made elsewhere, one step. */
__global__ __launch_bounds__(CURVE_THREADS) void compare_kernel(
    const __grid_constant__ curve_params p)
{
    __shared__ float error[3 * CURVE_COMPARE_ROWS];
    const int head = blockIdx.y, row0 = blockIdx.x * CURVE_COMPARE_ROWS, lane = threadIdx.x % 32;
    const int n_rows = min((int)CURVE_COMPARE_ROWS, p.n - row0);
    for (int r = threadIdx.x / 32; r < n_rows; r += CURVE_WARPS) {
        const __nv_bfloat16 *o = p.o + head * p.o_head + (row0 + r) * p.o_row;
        const float *exact = p.exact + ((size_t)head * p.n + row0 + r) * p.d;
        float sum[3] = {0, 0, 0};
        for (int c = lane; c < p.d; c += 32) {
            float got = __bfloat162float(o[c]), diff = got - exact[c];
            sum[0] += fabsf(diff);
            sum[1] = fmaf(diff, diff, sum[1]);
            sum[2] = fmaf(got, got, sum[2]);
        }
        for (int i = 0; i < 3; i++) {
            sum[i] = curve_warp_sum(sum[i]);
            if (lane == 0) error[i * CURVE_COMPARE_ROWS + r] = sum[i];
        }
    }
    __syncthreads();
    if (threadIdx.x < 32)
        write_record(p, error, CURVE_COMPARE_ROWS, p.row_abs + (size_t)head * p.n + row0, n_rows, 0,
            p.records +
                curve_record_index(p, head, blockIdx.x, 0, 0) * (size_t)(CURVE_RECORD + p.n_top));
}

template <int DIM, bool LAMBDA> enum status launch_walk(const curve_params &p, cudaStream_t stream)
{
    auto *kernel = walk_kernel<DIM, LAMBDA>;
    const size_t bytes = lay_out(p.n_kblocks, p.max_steps, slab<DIM>::ROWS, NULL, NULL);
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    const dim3 grid((unsigned)(p.lists * p.slabs), (unsigned)p.n_blocks, (unsigned)p.n_heads);
    kernel<<<grid, CURVE_THREADS, bytes, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

} // namespace

int curve_cuda_slab_rows(int d) { return d <= 64 ? slab<64>::ROWS : slab<128>::ROWS; }

enum status curve_cuda_walk(const curve_params &p, bool lambda, cudaStream_t stream)
{
    if (p.d <= 64)
        return lambda ? launch_walk<64, true>(p, stream) : launch_walk<64, false>(p, stream);
    return lambda ? launch_walk<128, true>(p, stream) : launch_walk<128, false>(p, stream);
}

enum status curve_cuda_compare(const curve_params &p, cudaStream_t stream)
{
    compare_kernel<<<dim3((unsigned)p.n_blocks, (unsigned)p.n_heads), CURVE_THREADS, 0, stream>>>(
        p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* Curves on the device, second half: tiles join in the order in which thresholds let them in, and
 * what each step leaves of the error. One CTA per (list, 64 query rows, head). */
#include "kernels/cuda/curve_tile_cuda.cuh"

#include <float.h>

namespace
{

enum { NEVER = 255 }; /* bucket of a unit that no λ lets in */
constexpr uint32_t ALL = 0xffffffffu;

/* Shared memory of a walk beside its tiles. What orders them is gone when errors are written. */
struct scratch {
    double *sum; /* [n_kblocks] running sums of p by rank; under max-relative p itself by rank */
    float *p;    /* [n_kblocks] */
    uint32_t *margin; /* [n_kblocks] the bits of a number that is not negative */
    uint16_t *rank, *list;
    uint8_t *forced, *bucket;

    float *row_error; /* [max_steps, UNIT] Σ|diff| of a row */
    float *warp_sums; /* [max_steps, 3, TILE_WARPS] Σ|diff|, Σdiff², Σõ² of a warp's rows */

    int *count;        /* [N_LAMBDAS] tiles merged at each point */
    uint16_t *seq;     /* [n_kblocks] the order of merging */
    uint16_t *step_at; /* [N_LAMBDAS] tiles merged at each step */
    double *reduce;    /* [TILE_WARPS] */
    int *box;          /* [8]: single values handed over */
};
enum { BOX_STEPS, BOX_LISTED, BOX_FORCED_RANKS, BOX_N_FORCED = BOX_FORCED_RANKS + 4 };

__host__ __device__ inline size_t lay_out(int n_kblocks, int max_steps, char *base, scratch *s)
{
    size_t at = 0, n = (size_t)(n_kblocks + 7) / 8 * 8, points = (N_LAMBDAS + 7) / 8 * 8;
    auto take = [&at, base](size_t bytes) {
        char *here = base + at;
        at += (bytes + 15) / 16 * 16;
        return (void *)here;
    };
    scratch t;
    t.count = (int *)take(points * sizeof(int));
    t.seq = (uint16_t *)take(n * 2);
    t.step_at = (uint16_t *)take(points * 2);
    t.reduce = (double *)take(TILE_WARPS * sizeof(double));
    t.box = (int *)take(8 * sizeof(int));
    const size_t both = at;
    t.sum = (double *)take(n * sizeof(double));
    t.p = (float *)take(n * sizeof(float));
    t.margin = (uint32_t *)take(n * sizeof(uint32_t));
    t.rank = (uint16_t *)take(n * 2);
    t.list = (uint16_t *)take(n * 2);
    t.forced = (uint8_t *)take(n);
    t.bucket = (uint8_t *)take(n);
    const size_t ordering = at;
    at = both;
    t.row_error = (float *)take((size_t)max_steps * UNIT * sizeof(float));
    t.warp_sums = (float *)take((size_t)max_steps * 3 * TILE_WARPS * sizeof(float));
    if (s != NULL) *s = t;
    return at > ordering ? at : ordering;
}

__device__ double block_sum(double x, double *reduce)
{
    for (int m = 16; m > 0; m /= 2) x += __shfl_xor_sync(ALL, x, m);
    __syncthreads();
    if (threadIdx.x % 32 == 0) reduce[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < TILE_WARPS; w++) x += reduce[w];
    return x;
}

__device__ float block_max(float x, double *reduce)
{
    for (int m = 16; m > 0; m /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, m));
    __syncthreads();
    if (threadIdx.x % 32 == 0) reduce[threadIdx.x / 32] = (double)x;
    __syncthreads();
    x = -INFINITY;
    for (int w = 0; w < TILE_WARPS; w++) x = fmaxf(x, (float)reduce[w]);
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
    for (int j = threadIdx.x; j < n && !by_mass; j += TILE_THREADS)
        if (k_sim[j] > theta) top = fmaxf(top, score[j]);
    top = block_max(top, s.reduce);
    for (int j0 = 0; j0 < n; j0 += TILE_THREADS) {
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
    for (int j = threadIdx.x; j < n; j += TILE_THREADS)
        if (s.p[j] > 0) s.p[j] = fmaxf((float)((double)s.p[j] / total), FLT_MIN);
    __syncthreads();
    for (int j = threadIdx.x; j < n; j += TILE_THREADS) {
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
    for (int j = threadIdx.x; j < n; j += TILE_THREADS)
        if (!s.forced[j]) s.seq[n_forced + s.rank[j] - forced_before(s.rank[j])] = (uint16_t)j;
    for (int u = threadIdx.x; u < N_TAUS; u += TILE_THREADS) {
        int kept = count_kept(p, s, part, n_eligible, p.taus[u]);
        s.count[u] = n_forced + kept - forced_before(kept);
    }
    __syncthreads();
}

/* Every tile joins before the first τ. */
__device__ void order_all(const scratch &s, int n)
{
    for (int j = threadIdx.x; j < n; j += TILE_THREADS) s.seq[j] = (uint16_t)j;
    for (int u = threadIdx.x; u < N_TAUS; u += TILE_THREADS) s.count[u] = n;
    __syncthreads();
}

/* Of what (θ, τ) keeps and the unit sees: by how much the rows' maxima so far are above the tile's,
 * at the least. Fills list and margin; how many are listed. */
template <int DIM, int KEYS>
__device__ int find_margins(const curve_params &p, const scratch &s, const unit_rows<DIM, KEYS> &u,
    int part, int n, int n_eligible, float tau)
{
    const int keep = count_kept(p, s, part, n_eligible, tau);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (warp == 0) {
        int listed = 0;
        for (int j0 = 0; j0 < n; j0 += 32) {
            int j = j0 + lane;
            bool in = j < n && u.sees(j) && (s.forced[j] || s.rank[j] < keep);
            uint32_t all = __ballot_sync(ALL, in);
            if (in) s.list[listed + __popc(all & ((1u << lane) - 1))] = (uint16_t)j;
            listed += __popc(all);
        }
        if (lane == 0) s.box[BOX_LISTED] = listed;
    }
    __syncthreads();
    const int listed = s.box[BOX_LISTED];
    for (int i = threadIdx.x; i < listed; i += TILE_THREADS)
        s.margin[i] = __float_as_uint(INFINITY);
    auto tile_at = [&](int i) { return i < listed ? (int)s.list[i] : -1; };
    auto room_of = [&](int i) { return i % 2 ? u.v : u.k; };
    u.send(p, room_of(0), u.keys, p.k_row, tile_at(0));
    float top[2] = {-INFINITY, -INFINITY};
    for (int i = 0; i < listed; i++) {
        float scores[KEYS / 8][4], own[KEYS / UNIT][2], m[2], margin = INFINITY;
        await_copies();
        __syncthreads();
        u.send(p, room_of(i + 1), u.keys, p.k_row, tile_at(i + 1));
        u.scores(p, room_of(i), tile_at(i), scores, own, m);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = fmaxf(top[r], m[r]);
            const bool valid = u.unit0 + warp * WARP_ROWS + lane / 4 + 8 * r <= u.last;
            if (valid && m[r] > -INFINITY) margin = fminf(margin, top[r] - m[r]);
        }
        /* not negative, so ordered as integers are */
        const uint32_t least = __reduce_min_sync(ALL, __float_as_uint(margin));
        if (lane == 0) atomicMin(&s.margin[i], least);
    }
    __syncthreads();
    return listed;
}

/* Listed tiles in the order in which λ lets them in. */
__device__ void order_by_margin(const scratch &s, int listed)
{
    for (int i = threadIdx.x; i < listed; i += TILE_THREADS) {
        const float margin = __uint_as_float(s.margin[i]);
        /* the first λ above the margin; a unit whose sum is still empty is never skipped */
        s.bucket[i] = (uint8_t)(i == 0 ? 0 : margin < 50 ? (int)(2 * margin) + 1 : (int)NEVER);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < listed; i += TILE_THREADS) {
        const int mine = s.bucket[i];
        int before = 0;
        for (int o = 0; o < listed; o++)
            before += s.bucket[o] < mine || (s.bucket[o] == mine && o < i);
        if (mine != NEVER) s.seq[before] = s.list[i];
    }
    for (int u = threadIdx.x; u < N_LAMBDAS; u += TILE_THREADS) {
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

/* The sums of one step and the largest relative errors of its rows; one warp. */
__device__ void write_record(const curve_params &p, const float (&sum)[3], const float *row_error,
    const float *row_abs, int valid_rows, int kept, float *record)
{
    const int lane = threadIdx.x % 32;
    float relative[2] = {0, 0};
    for (int h = 0; h < 2; h++) {
        const int r = lane + 32 * h;
        if (r < valid_rows && row_abs[r] > 0) relative[h] = row_error[r] / row_abs[r];
    }
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

/* What a step leaves of this warp's rows goes to shared memory. whole: nothing was left out. */
template <int DIM>
__device__ void leave_errors(const curve_params &p, const scratch &s, const unit_chain<DIM> &c,
    int head, int unit0, int step, bool whole)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum[3] = {0, 0, 0};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int in_unit = warp * WARP_ROWS + lane / 4 + 8 * r, row = unit0 + in_unit;
        const float *exact =
            p.exact + ((size_t)head * p.n + min(row, p.n - 1)) * p.d + lane % 4 * 2;
        const float inverse = 1 / c.l[r];
        float error[3] = {0, 0, 0};
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            if (n * 8 >= p.d) continue;
            const float2 both = *(const float2 *)(exact + n * 8);
            const float y[2] = {both.x, both.y};
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float got = whole ? y[i] : c.o[n][2 * r + i] * inverse, diff = got - y[i];
                error[0] += fabsf(diff);
                error[1] = fmaf(diff, diff, error[1]);
                error[2] = fmaf(got, got, error[2]);
            }
        }
#pragma unroll
        for (int i = 0; i < 3; i++) {
            error[i] += __shfl_xor_sync(ALL, error[i], 1);
            error[i] += __shfl_xor_sync(ALL, error[i], 2);
            if (row >= p.n) error[i] = 0;
            sum[i] += error[i];
        }
        if (lane % 4 == 0) s.row_error[step * UNIT + in_unit] = error[0];
    }
#pragma unroll
    for (int i = 0; i < 3; i++) {
#pragma unroll
        for (int m = 4; m < 32; m *= 2) sum[i] += __shfl_xor_sync(ALL, sum[i], m);
        if (lane == 0) s.warp_sums[(step * 3 + i) * TILE_WARPS + warp] = sum[i];
    }
}

template <int DIM, int KEYS, bool LAMBDA>
__global__ __launch_bounds__(TILE_THREADS, DIM == 64 ? 3 : 2) void walk_kernel(
    const __grid_constant__ curve_params p)
{
    extern __shared__ __align__(16) char memory[];
    const int list = blockIdx.x / p.slabs, part = blockIdx.x % p.slabs;
    const int block = p.block0 + (int)(gridDim.y - 1 - blockIdx.y), x = p.head0 + blockIdx.z,
              head = curve_head(p, x);
    const int unit0 = block * p.bq + part * UNIT, n = curve_tiles(p, block);
    if (unit0 >= p.n) return;
    if (LAMBDA ? list >= p.n_pairs[x]
               : p.first_theta[((size_t)x * p.n_qblocks + block) * N_THETAS + list] != list)
        return;
    scratch s;
    unit_rows<DIM, KEYS> u;
    lay_out(p.n_kblocks, p.max_steps, memory + unit_rows<DIM, KEYS>::SHARED, &s);
    u.begin(p, memory, head, unit0, false);
    const size_t index = curve_record_index(p, x, block, list, part);
    if constexpr (LAMBDA) {
        const struct threshold_pair pair = p.pairs[x * MAX_LAMBDA_PAIRS + list];
        const int n_eligible = rank_tiles(p, s, x, head, block, n, pair.part, pair.theta);
        order_by_margin(s, find_margins(p, s, u, pair.part, n, n_eligible, pair.tau));
    } else {
        const float theta = (float)(list - 16) / 16;
        const int n_eligible = rank_tiles(p, s, x, head, block, n, p.part, theta);
        if (p.eight && p.masses[p.part] == NULL &&
            !(p.q_sim[(size_t)x * p.n_qblocks + block] > theta))
            order_all(s, n); /* every tile is forced */
        else order_by_rank(p, s, p.part, n, n_eligible);
    }
    number_steps(p, s, p.step_of + index * (size_t)p.points);
    const int n_steps = s.box[BOX_STEPS], n_whole = LAMBDA || p.eight ? -1 : n,
              n_joining = n_steps > 0 ? s.step_at[n_steps - 1] : 0;
    unit_chain<DIM> chain;
    int step = 0;
    chain.clear();
    join_tiles<DIM, KEYS>(
        p, u, p.p_e4m3, chain, n_joining, [&s](int i) { return (int)s.seq[i]; },
        [&](int joined) {
            if (joined == s.step_at[step])
                leave_errors(p, s, chain, head, unit0, step++, joined == n_whole);
        });
    __syncthreads();
    for (step = threadIdx.x / 32; step < n_steps; step += TILE_WARPS) {
        float sum[3] = {0, 0, 0};
        for (int i = 0; i < 3; i++)
            for (int w = 0; w < TILE_WARPS; w++)
                sum[i] += s.warp_sums[(step * 3 + i) * TILE_WARPS + w];
        /* tiles are counted once a block, units each for itself */
        write_record(p, sum, s.row_error + step * UNIT, p.row_abs + (size_t)head * p.n + unit0,
            min((int)UNIT, p.n - unit0), LAMBDA || part == 0 ? s.step_at[step] : 0,
            p.records +
                (index * (size_t)p.max_steps + (size_t)step) * (size_t)(CURVE_RECORD + p.n_top));
    }
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
    if (threadIdx.x >= 32) return;
    float sum[3] = {0, 0, 0};
    for (int i = 0; i < 3; i++) {
        for (int r = lane; r < n_rows; r += 32) sum[i] += error[i * CURVE_COMPARE_ROWS + r];
        sum[i] = curve_warp_sum(sum[i]);
    }
    write_record(p, sum, error, p.row_abs + (size_t)head * p.n + row0, n_rows, 0,
        p.records +
            curve_record_index(p, head, blockIdx.x, 0, 0) * (size_t)(CURVE_RECORD + p.n_top));
}

template <int DIM, int KEYS>
enum status launch_walk(const curve_params &p, bool lambda, cudaStream_t stream)
{
    auto *kernel = lambda ? walk_kernel<DIM, KEYS, true> : walk_kernel<DIM, KEYS, false>;
    const size_t bytes =
        unit_rows<DIM, KEYS>::SHARED + lay_out(p.n_kblocks, p.max_steps, NULL, NULL);
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    const dim3 grid((unsigned)(p.lists * p.slabs), (unsigned)p.n_blocks, (unsigned)p.n_heads);
    kernel<<<grid, TILE_THREADS, bytes, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

} // namespace

enum status curve_cuda_walk(const curve_params &p, bool lambda, cudaStream_t stream)
{
    if (p.d <= 64)
        return p.bk == 64 ? launch_walk<64, 64>(p, lambda, stream)
                          : launch_walk<64, 128>(p, lambda, stream);
    return p.bk == 64 ? launch_walk<128, 64>(p, lambda, stream)
                      : launch_walk<128, 128>(p, lambda, stream);
}

enum status curve_cuda_compare_rows(const curve_params &p, cudaStream_t stream)
{
    compare_kernel<<<dim3((unsigned)p.n_blocks, (unsigned)p.n_heads), CURVE_THREADS, 0, stream>>>(
        p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

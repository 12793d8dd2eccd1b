/* Stage 1 of sparse attention on the device, in one launch (METHOD 2, methods sparge and topk).
 *
 * Tasks are numbered, and CTAs take them in rising order, so that a task may wait for an earlier one: sums of
 * key blocks; means and self-similarity of query blocks; self-similarity of key blocks, which needs the sums
 * for its centre; and the rows of the map. Q is read once, K twice (the second time mostly from L2). A row is
 * never sorted: the bound between kept and dropped is found by bisection on the bits of the probabilities,
 * which order positive floats.
 */
extern "C" {
#include "kernels/device_cuda.h"
}
#include "kernels/cuda_check.cuh"

#include <cuda_bf16.h>
#include <float.h>

namespace
{

enum {
    THREADS = 256,
    WARPS = THREADS / 32,
    CHUNK = WARPS / 2,
    HEADS = 4,
    ROWS = 2 * HEADS,
    MAX_KBLOCKS = 4096
};

struct layout {
    int d, n_qblocks, n_kblocks, k_pad, n_chunks;           /* k_pad: n_kblocks rounded up to whole chunks */
    size_t counters;                                        /* how many, at the start of the workspace */
    size_t k_sums, chunk_sums, k_sim, q_mean, q_sim, bytes; /* offsets into the workspace */
};

struct params {
    struct layout at;
    int n_q, n_kv, q_start, n_heads, n_kv_heads, group, block_q, block_k;
    const __nv_bfloat16 *q, *k;
    ptrdiff_t q_row, q_head, k_row, k_head;
    float scale, topk;
    enum smooth_k smooth;
    const struct head_params *heads;
    struct head_ledger *ledger;
    uint32_t *bits; /* the map's rows as 32-bit words */
    int words;      /* of 32 bits per row */
    char *ws;
    int *next_task, *sums_done, *sim_done, *q_done; /* 1, [n_kv_heads, n_chunks], [n_kv_heads], [n_qblocks] */
};

struct layout plan(const struct attn_args *a)
{
    struct layout p = {};
    p.d = a->head_dim;
    p.n_qblocks = (a->n_q + a->block.q - 1) / a->block.q;
    p.n_kblocks = (attn_n_kv(a) + a->block.k - 1) / a->block.k;
    p.n_chunks = (p.n_kblocks + CHUNK - 1) / CHUNK;
    p.k_pad = p.n_chunks * CHUNK;
    size_t kv = (size_t)a->n_kv_heads, d = (size_t)p.d, heads = (size_t)a->n_heads;
    p.counters = 1 + kv * ((size_t)p.n_chunks + 1) + (size_t)p.n_qblocks;
    size_t end = sizeof(int) * p.counters;
    auto take = [&end](size_t floats) {
        size_t start = (end + 63) / 64 * 64;
        end = start + floats * sizeof(float);
        return start;
    };
    p.k_sums = take(kv * d * (size_t)p.k_pad);
    p.chunk_sums = take(kv * (size_t)p.n_chunks * d);
    p.k_sim = take(kv * (size_t)p.k_pad);
    p.q_mean = take(heads * (size_t)p.n_qblocks * d);
    p.q_sim = take(heads * (size_t)p.n_qblocks);
    p.bytes = (end + 63) / 64 * 64;
    return p;
}

__device__ __forceinline__ void widen(uint4 v, float (&x)[8])
{
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __uint_as_float(w[i] << 16);
        x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
}

/* One warp pools n rows of d: LANES lanes to a row, 8 elements to a lane. On return every lane holds its 8
 * elements of the sum of the rows and of the sum of the unit rows after `centre` was taken off. */
template <int LANES, bool SUM, bool UNIT>
__device__ __forceinline__ void pool(const __nv_bfloat16 *x, ptrdiff_t stride, int n, int d,
                                     const float (&centre)[8], float (&sum)[8], float (&unit)[8])
{
    constexpr int AT_ONCE = 32 / LANES, BATCH = 8; /* 16-byte loads in flight per lane */
    const int lane = threadIdx.x % 32, col = lane % LANES * 8;
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] = 0, unit[i] = 0;
    for (int r0 = lane / LANES; r0 - lane / LANES < n; r0 += AT_ONCE * BATCH) {
        uint4 v[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            int r = r0 + b * AT_ONCE;
            v[b] = make_uint4(0, 0, 0, 0);
            if (r < n && col < d) v[b] = __ldg((const uint4 *)(x + r * stride + col));
        }
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            float e[8], square = 0;
            widen(v[b], e);
            if constexpr (SUM) {
#pragma unroll
                for (int i = 0; i < 8; i++) sum[i] += e[i];
            }
            if constexpr (UNIT) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    e[i] -= centre[i];
                    square = fmaf(e[i], e[i], square);
                }
#pragma unroll
                for (int m = 1; m < LANES; m *= 2) square += __shfl_xor_sync(0xffffffffu, square, m);
                float inverse = r0 + b * AT_ONCE < n && square > 0 ? rsqrtf(square) : 0;
#pragma unroll
                for (int i = 0; i < 8; i++) unit[i] = fmaf(e[i], inverse, unit[i]);
            }
        }
    }
    for (int m = LANES; m < 32; m *= 2)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (SUM) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], m);
            if (UNIT) unit[i] += __shfl_xor_sync(0xffffffffu, unit[i], m);
        }
}

/* Release and acquire by single threads beside a barrier; what is shared is read past L1, so nobody else
 * needs a fence (a fence by every thread cost more than the pooling itself). */
__device__ __forceinline__ void announce(int *counter)
{
    asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter)
                 : "memory");
}

__device__ __forceinline__ void wait_for(const int *counter, int value)
{
    for (;;) {
        int seen;
        asm volatile("ld.acquire.gpu.global.s32 %0, [%1];"
                     : "=r"(seen)
                     : "l"(counter)
                     : "memory");
        if (seen >= value) return;
        __nanosleep(32);
    }
}

/* The half of a block of n rows that this warp pools: two warps share a block. */
__device__ __forceinline__ int half_start(int n) { return threadIdx.x / 32 % 2 ? (n + 1) / 2 : 0; }
__device__ __forceinline__ int half_rows(int n) { return max(threadIdx.x / 32 % 2 ? n / 2 : (n + 1) / 2, 0); }

/* Leave the warp's 8 elements per lane in its row of shared memory, [WARPS, d]. */
template <int LANES>
__device__ __forceinline__ void leave(const float (&x)[8], int d, float *shared)
{
    const int lane = threadIdx.x % 32;
    if (lane >= LANES || lane * 8 >= d) return;
    float4 *to = (float4 *)(shared + threadIdx.x / 32 * d + lane * 8);
    to[0] = make_float4(x[0], x[1], x[2], x[3]), to[1] = make_float4(x[4], x[5], x[6], x[7]);
}

/* ‖mean of the unit rows‖² of block b of the task, from what its two warps left; by one warp. */
__device__ float similarity(const float *units, int b, int n, int d)
{
    float square = 0;
    for (int e = threadIdx.x % 32; e < d; e += 32) {
        float x = units[2 * b * d + e] + units[(2 * b + 1) * d + e];
        square = fmaf(x, x, square);
    }
    for (int m = 16; m > 0; m /= 2) square += __shfl_xor_sync(0xffffffffu, square, m);
    return square / ((float)n * (float)n);
}

/* Sums of the CHUNK key blocks of one chunk, and of the chunk. */
template <int LANES>
__device__ void sum_keys(const params &p, int task, float *shared)
{
    const int kv = task / p.at.n_chunks, c = task % p.at.n_chunks, d = p.at.d;
    const int j = c * CHUNK + (int)threadIdx.x / 64, n = min(p.block_k, p.n_kv - j * p.block_k);
    const float none[8] = {};
    float sum[8], unit[8];
    pool<LANES, true, false>(p.k + kv * p.k_head + ((ptrdiff_t)j * p.block_k + half_start(n)) * p.k_row,
                             p.k_row, half_rows(n), d, none, sum, unit);
    leave<LANES>(sum, d, shared);
    __syncthreads();
    float *sums = (float *)(p.ws + p.at.k_sums) + (size_t)kv * d * p.at.k_pad;
    for (int e = threadIdx.x; e < d; e += THREADS) {
        float total = 0;
        for (int b = 0; b < CHUNK; b++) {
            float x = shared[2 * b * d + e] + shared[(2 * b + 1) * d + e];
            total += x;
            sums[(size_t)e * p.at.k_pad + c * CHUNK + b] = x;
        }
        ((float *)(p.ws + p.at.chunk_sums))[((size_t)kv * p.at.n_chunks + c) * d + e] = total;
    }
    __syncthreads();
    if (threadIdx.x == 0) announce(&p.sums_done[task]);
}

/* Mean and self-similarity of CHUNK query blocks, heads running fastest, in the order in which rows are
 * written. */
template <int LANES>
__device__ void pool_queries(const params &p, int task, float *shared)
{
    const int d = p.at.d, warp = threadIdx.x / 32, all = p.at.n_qblocks * p.n_heads;
    const int f = task * CHUNK + warp / 2;
    const float none[8] = {};
    float sum[8], unit[8];
    {
        const int block = p.at.n_qblocks - 1 - f / p.n_heads, h = f % p.n_heads;
        const int n = f < all ? min(p.block_q, p.n_q - block * p.block_q) : 0;
        pool<LANES, true, true>(p.q + h * p.q_head + ((ptrdiff_t)block * p.block_q + half_start(n)) * p.q_row,
                                p.q_row, half_rows(n), d, none, sum, unit);
    }
    leave<LANES>(sum, d, shared);
    leave<LANES>(unit, d, shared + WARPS * d);
    __syncthreads();
    const int mine = task * CHUNK + warp;
    if (warp >= CHUNK || mine >= all) return;
    const int block = p.at.n_qblocks - 1 - mine / p.n_heads, h = mine % p.n_heads,
              n = min(p.block_q, p.n_q - block * p.block_q);
    const size_t at = (size_t)h * p.at.n_qblocks + block;
    float *mean = (float *)(p.ws + p.at.q_mean) + at * d;
    for (int e = threadIdx.x % 32; e < d; e += 32)
        mean[e] = (shared[2 * warp * d + e] + shared[(2 * warp + 1) * d + e]) / (float)n;
    float sim = similarity(shared + WARPS * d, warp, n, d);
    if (threadIdx.x % 32 == 0) ((float *)(p.ws + p.at.q_sim))[at] = sim;
    __syncwarp();
    if (threadIdx.x % 32 == 0) announce(&p.q_done[block]);
}

/* Self-similarity of the key blocks of one chunk about their centres. */
template <int LANES>
__device__ void compare_keys(const params &p, int task, float *shared)
{
    const int kv = task / p.at.n_chunks, c = task % p.at.n_chunks, warp = threadIdx.x / 32,
              lane = threadIdx.x % 32;
    const int d = p.at.d;
    const int end = p.smooth == SMOOTH_K_RUNNING ? c + 1 : p.smooth == SMOOTH_K_GLOBAL ? p.at.n_chunks
                                                                                       : 0;
    for (int i = threadIdx.x; i < end; i += THREADS) wait_for(&p.sums_done[kv * p.at.n_chunks + i], 1);
    __syncthreads();
    const float *chunks = (const float *)(p.ws + p.at.chunk_sums) + (size_t)kv * p.at.n_chunks * d;
    const float *sums = (const float *)(p.ws + p.at.k_sums) + (size_t)kv * d * p.at.k_pad;
    float *parts = shared, *centres = shared + WARPS * d;
    /* Threads to spare take every n-th chunk each, so that a long list is not one chain of loads. */
    const int others = p.smooth == SMOOTH_K_RUNNING ? c : end, takers = min((int)WARPS, max(THREADS / d, 1));
    for (int i = threadIdx.x; i < takers * d; i += THREADS) {
        int e = i % d;
        float before = 0;
#pragma unroll 8
        for (int x = i / d; x < others; x += takers) before += __ldcg(chunks + (size_t)x * d + e);
        parts[i] = before;
    }
    __syncthreads();
    for (int e = threadIdx.x; e < d; e += THREADS) {
        float before = 0;
        for (int x = 0; x < takers; x++) before += parts[x * d + e];
        for (int b = 0; b < CHUNK; b++) {
            float centre = 0;
            if (p.smooth == SMOOTH_K_RUNNING) {
                before += __ldcg(sums + (size_t)e * p.at.k_pad + c * CHUNK + b);
                centre = before / (float)min((c * CHUNK + b + 1) * p.block_k, p.n_kv);
            } else if (p.smooth == SMOOTH_K_GLOBAL) {
                centre = before / (float)p.n_kv;
            }
            centres[b * d + e] = centre;
        }
    }
    __syncthreads();
    const int j = c * CHUNK + warp / 2, n = min(p.block_k, p.n_kv - j * p.block_k);
    float centre[8], sum[8], unit[8];
    const int col = lane % LANES * 8;
    for (int i = 0; i < 8; i++) centre[i] = col < d ? centres[warp / 2 * d + col + i] : 0;
    pool<LANES, false, true>(p.k + kv * p.k_head + ((ptrdiff_t)j * p.block_k + half_start(n)) * p.k_row,
                             p.k_row, half_rows(n), d, centre, sum, unit);
    leave<LANES>(unit, d, parts);
    __syncthreads();
    const int mine = c * CHUNK + warp, rows = min(p.block_k, p.n_kv - mine * p.block_k);
    if (warp < CHUNK && rows > 0) {
        float sim = similarity(parts, warp, rows, d);
        if (lane == 0) ((float *)(p.ws + p.at.k_sim))[(size_t)kv * p.at.k_pad + mine] = sim;
    }
    __syncthreads();
    if (threadIdx.x == 0) announce(&p.sim_done[kv]);
}

__device__ __forceinline__ float warp_sum(float x)
{
    for (int m = 16; m > 0; m /= 2) x += __shfl_xor_sync(0xffffffffu, x, m);
    return x;
}

__device__ __forceinline__ float warp_max(float x)
{
    for (int m = 16; m > 0; m /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, m));
    return x;
}

/* One warp keeps the best of p[0 … n) (0: not eligible) by threshold τ, or `want` of them when want ≥ 0.
 * Afterwards an element is kept when its bits reach *bound, and so are the first *ties of those one below it.
 * Each round tries three levels, because what a round costs is the latency of its sums. */
__device__ void select(const float *p, int n, float total, float tau, int want, uint32_t *bound, int *ties)
{
    const int lane = threadIdx.x % 32;
    const float limit = want >= 0 ? (float)want : tau * total;
    uint32_t dropped = __float_as_uint(FLT_MIN) - 1,
             kept = __float_as_uint(1.0f) + 1; /* ranks: FLT_MIN … 1 */
    float kept_size = 0;                       /* mass, or count */
    while (kept - dropped > 1) {
        uint32_t level[3];
        float size[3] = {0, 0, 0};
#pragma unroll
        for (uint32_t i = 0; i < 3; i++)
            level[i] = dropped + (kept - dropped < 4 ? (kept - dropped) / 2 : (kept - dropped) / 4 * (i + 1));
        for (int j = lane; j < n; j += 32) {
            uint32_t rank = __float_as_uint(p[j]);
            float part = want >= 0 ? 1.0f : p[j];
#pragma unroll
            for (int i = 0; i < 3; i++) size[i] += rank >= level[i] ? part : 0.0f;
        }
#pragma unroll
        for (int m = 16; m > 0; m /= 2)
#pragma unroll
            for (int i = 0; i < 3; i++) size[i] += __shfl_xor_sync(0xffffffffu, size[i], m);
#pragma unroll
        for (int i = 2; i >= 0; i--) { /* sizes grow as levels fall */
            if (size[i] <= limit && level[i] < kept)
                kept = level[i], kept_size = size[i];
            else if (size[i] > limit && level[i] > dropped)
                dropped = level[i];
        }
    }
    *bound = kept, *ties = 0;
    if (kept <= __float_as_uint(FLT_MIN)) return;
    float value = want >= 0 ? 1.0f : __uint_as_float(kept - 1);
    *ties = (int)fminf((limit - kept_size) / value, 1e6f);
    if (kept_size == 0 && *ties < 1) *ties = 1;
}

/* The map's row of one head: shared `s` holds its scores and becomes its ranks. One warp. */
__device__ void write_row(const params &p, int head, int block, int n, float *s)
{
    const int lane = threadIdx.x % 32, kv = head / p.group;
    const struct head_params &t = p.heads[head];
    uint32_t *row = p.bits + ((size_t)head * p.at.n_qblocks + block) * p.words;
    const float *k_sim = (const float *)(p.ws + p.at.k_sim) + (size_t)kv * p.at.k_pad;
    const bool q_similar =
        __ldcg((const float *)(p.ws + p.at.q_sim) + (size_t)head * p.at.n_qblocks + block) > t.simthreshd1;
    const int diagonal = (p.q_start + block * p.block_q) / p.block_k;
    float top = -INFINITY, total = 0;
    int eligible = 0, ties = 0;
    uint32_t bound = 0;
    if (t.is_sparse) {
#pragma unroll 2
        for (int j = lane; j < n; j += 32) {
            if (!(__ldcg(k_sim + j) > t.simthreshd1)) s[j] = -INFINITY;
            top = fmaxf(top, s[j]);
        }
        top = warp_max(top);
#pragma unroll 2
        for (int j = lane; j < n; j += 32) {
            s[j] = s[j] == -INFINITY ? 0 : fmaxf(expf(s[j] - top), FLT_MIN);
            total += s[j], eligible += s[j] > 0;
        }
        total = warp_sum(total), eligible = __reduce_add_sync(0xffffffffu, eligible);
        int want = p.topk > 0 ? min((int)ceilf(p.topk * (float)n), eligible) : -1;
        if (eligible == 0)
            bound = 0xffffffffu;
        else if (want < 0 && t.cdfthreshd >= 1)
            bound = __float_as_uint(FLT_MIN);
        else
            select(s, n, total, t.cdfthreshd, want, &bound, &ties);
    }
    int n_diagonal = 0, n_theta_k = 0;
#pragma unroll 1
    for (int j0 = 0; j0 < p.words * 32; j0 += 32) {
        int j = j0 + lane;
        bool keep = j < n;
        if (t.is_sparse) {
            uint32_t rank = j < n ? __float_as_uint(s[j]) : 0;
            uint32_t tied = __ballot_sync(0xffffffffu, rank != 0 && rank + 1 == bound);
            int before = __popc(tied & ((1u << lane) - 1));
            bool on_diagonal = j < n && j >= diagonal, theta_k = j < n && rank == 0;
            keep = j < n && ((rank != 0 && rank >= bound) || ((tied >> lane & 1) && before < ties) ||
                             j == 0 || on_diagonal || theta_k || !q_similar);
            ties = max(ties - __popc(tied), 0);
            n_diagonal += __popc(__ballot_sync(0xffffffffu, on_diagonal));
            n_theta_k += __popc(__ballot_sync(0xffffffffu, theta_k));
        }
        uint32_t word = __ballot_sync(0xffffffffu, keep);
        if (lane == 0) row[j0 / 32] = word;
    }
    if (lane == 0 && t.is_sparse && p.ledger != NULL) {
        struct head_ledger *l = &p.ledger[head];
        atomicAdd((unsigned long long *)&l->forced_sink, 1ull);
        atomicAdd((unsigned long long *)&l->forced_diagonal, (unsigned long long)n_diagonal);
        if (!q_similar) atomicAdd((unsigned long long *)&l->forced_theta_q, (unsigned long long)n);
        if (n_theta_k) atomicAdd((unsigned long long *)&l->forced_theta_k, (unsigned long long)n_theta_k);
    }
}

/* The rows of two query blocks for all heads of one kv head, four heads at a time: every key mean that is
 * read serves eight rows, and eight warps then choose, one row each. */
__device__ __noinline__ void write_rows(const params &p, int task, float *shared)
{
    const int pairs = (p.at.n_qblocks + 1) / 2;
    const int block0 = 2 * (pairs - 1 - task / p.n_kv_heads),
              kv = task % p.n_kv_heads; /* longest rows first */
    const int blocks = min(2, p.at.n_qblocks - block0);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, d = p.at.d;
    const int last = min(p.q_start + (block0 + blocks) * p.block_q, p.n_kv) - 1, n = last / p.block_k + 1;
    if ((int)threadIdx.x < blocks) wait_for(&p.q_done[block0 + threadIdx.x], p.n_heads);
    if (threadIdx.x == 32) wait_for(&p.sim_done[kv], p.at.n_chunks);
    __syncthreads();
    float *score = shared, *part = score + ROWS * p.at.k_pad, *q = part + ROWS * THREADS;
    const float *sums = (const float *)(p.ws + p.at.k_sums) + (size_t)kv * d * p.at.k_pad;
    /* Short rows leave warps over: they share the dimensions. */
    const int stretches = (n + 31) / 32;
    const int slices = stretches <= 1 ? 8 : stretches <= 2 ? 4
                                        : stretches <= 4   ? 2
                                                           : 1;
    const int slice = warp % slices, per = (d + slices - 1) / slices, from = slice * per,
              to = min(from + per, d);
    for (int h0 = 0; h0 < p.group; h0 += HEADS) {
        const int heads = min((int)HEADS, p.group - h0);
        const int block = block0 + warp / HEADS, head = kv * p.group + h0 + warp % HEADS;
        const bool real = warp % HEADS < heads && warp / HEADS < blocks;
        const float *mean = (const float *)(p.ws + p.at.q_mean) + ((size_t)head * p.at.n_qblocks + block) * d;
#pragma unroll 4
        for (int e = lane; e < d; e += 32) q[e * ROWS + warp] = real ? __ldcg(mean + e) * p.scale : 0;
        __syncthreads();
        for (int stretch = warp / slices; stretch < stretches; stretch += WARPS / slices) {
            const int j = stretch * 32 + lane;
            float acc[ROWS] = {};
#pragma unroll 1
            for (int e0 = from; e0 < to && j < p.at.k_pad; e0 += 16) {
                float k[16];
#pragma unroll
                for (int i = 0; i < 16; i++)
                    k[i] = e0 + i < to ? __ldcg(sums + (size_t)(e0 + i) * p.at.k_pad + j) : 0;
#pragma unroll
                for (int i = 0; i < 16; i++) {
                    const float4 *means = (const float4 *)q + 2 * min(e0 + i, to - 1);
                    float4 x = means[0], y = means[1];
                    acc[0] = fmaf(k[i], x.x, acc[0]), acc[1] = fmaf(k[i], x.y, acc[1]);
                    acc[2] = fmaf(k[i], x.z, acc[2]), acc[3] = fmaf(k[i], x.w, acc[3]);
                    acc[4] = fmaf(k[i], y.x, acc[4]), acc[5] = fmaf(k[i], y.y, acc[5]);
                    acc[6] = fmaf(k[i], y.z, acc[6]), acc[7] = fmaf(k[i], y.w, acc[7]);
                }
            }
            if (slices > 1) {
#pragma unroll
                for (int r = 0; r < ROWS; r++) part[(slice * ROWS + r) * (THREADS / slices) + j] = acc[r];
            } else if (j < n) {
                float inverse = 1.0f / (float)min(p.block_k, p.n_kv - j * p.block_k);
#pragma unroll
                for (int r = 0; r < ROWS; r++) score[r * p.at.k_pad + j] = acc[r] * inverse;
            }
        }
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; slices > 1 && i < THREADS / slices * ROWS; i += THREADS) {
            int j = i % (THREADS / slices), r = i / (THREADS / slices);
            if (j >= n) continue;
            float total = 0;
#pragma unroll 1
            for (int x = 0; x < slices; x++) total += part[(x * ROWS + r) * (THREADS / slices) + j];
            score[r * p.at.k_pad + j] = total / (float)min(p.block_k, p.n_kv - j * p.block_k);
        }
        __syncthreads();
        if (real) {
            int seen = (min(p.q_start + (block + 1) * p.block_q, p.n_kv) - 1) / p.block_k + 1;
            write_row(p, head, block, seen, score + warp * p.at.k_pad);
        }
        __syncthreads();
    }
}

template <int LANES>
__global__ __launch_bounds__(THREADS, 3) void mask_kernel(const __grid_constant__ params p)
{
    extern __shared__ __align__(16) float shared[];
    __shared__ int ticket;
    const int n_sum = p.n_kv_heads * p.at.n_chunks, n_pool = (p.at.n_qblocks * p.n_heads + CHUNK - 1) / CHUNK;
    const int n_rows = (p.at.n_qblocks + 1) / 2 * p.n_kv_heads;
    for (int t = blockIdx.x; t < 2 * n_sum + n_pool + n_rows; t = ticket) {
        int following = 0;
        if (threadIdx.x == 0) following = (int)gridDim.x + atomicAdd(p.next_task, 1);
        if (t < n_sum) {
            sum_keys<LANES>(p, t, shared);
        } else if (t < n_sum + n_pool) {
            pool_queries<LANES>(p, t - n_sum, shared);
        } else if (t <
                   2 * n_sum + n_pool) { /* after the queries: by then the sums are there, and nobody waits */
            compare_keys<LANES>(p, t - n_sum - n_pool, shared);
        } else {
            write_rows(p, t - 2 * n_sum - n_pool, shared);
        }
        __syncthreads();
        if (threadIdx.x == 0) ticket = following;
        __syncthreads();
    }
}

size_t shared_bytes(const struct layout &at)
{
    size_t pooling = (size_t)2 * WARPS * at.d, rows = (size_t)ROWS * ((size_t)at.k_pad + THREADS + at.d);
    return sizeof(float) * (pooling > rows ? pooling : rows);
}

template <int LANES>
enum status launch(const params &p, cudaStream_t stream)
{
    auto *kernel = mask_kernel<LANES>;
    size_t shared = shared_bytes(p.at);
    int device, sms, per_sm;
    CUDA_TRY(cudaGetDevice(&device));
    CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, THREADS, shared));
    if (per_sm < 1)
        return fail(ERR_DEVICE, "mask prediction: a block of %zu bytes of shared memory does not fit",
                    shared);
    /* Tickets are drawn in rising order by CTAs that run, so the lowest unfinished task is always under way.
     */
    kernel<<<sms * per_sm, THREADS, shared, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

} // namespace

extern "C" {

const char *mask_cuda_refuses(const struct mask_cuda_args *m)
{
    const struct attn_args *a = m->attn;
    if (a->dtype != DTYPE_BF16) return "the CUDA prediction takes bf16";
    if (a->head_dim % 8 != 0 || a->head_dim > 256) return "head_dim is not a multiple of 8 up to 256";
    if (a->n_q < 1 || a->q_start % a->block.q != 0) return "q_start is not a multiple of the query block";
    if (a->n_heads % a->n_kv_heads != 0) return "query heads are not a multiple of kv heads";
    if ((uintptr_t)a->q % 16 != 0 || (uintptr_t)a->k % 16 != 0 || a->q_row % 8 != 0 || a->q_head % 8 != 0 ||
        a->k_row % 8 != 0 || a->k_head % 8 != 0)
        return "pointers and strides are not multiples of 16 bytes";
    if ((attn_n_kv(a) + a->block.k - 1) / a->block.k > MAX_KBLOCKS) return "more than 4096 key blocks";
    if (cuda_current_sm() < 80) return "the current device is below compute capability 8.0";
    return NULL;
}

size_t mask_cuda_workspace(const struct mask_cuda_args *m) { return plan(m->attn).bytes; }

enum status mask_cuda_predict(const struct mask_cuda_args *m, const struct tile_map *tiles, void *ws,
                              struct stream *stream)
{
    const struct attn_args *a = m->attn;
    const char *why = mask_cuda_refuses(m);
    if (why != NULL) return fail(ERR_UNSUPPORTED, "mask prediction: %s", why);
    params p = {};
    p.at = plan(a);
    p.n_q = a->n_q, p.n_kv = attn_n_kv(a), p.q_start = a->q_start;
    p.n_heads = a->n_heads, p.n_kv_heads = a->n_kv_heads, p.group = a->n_heads / a->n_kv_heads;
    p.block_q = a->block.q, p.block_k = a->block.k;
    p.q = (const __nv_bfloat16 *)a->q, p.k = (const __nv_bfloat16 *)a->k;
    p.q_row = a->q_row, p.q_head = a->q_head, p.k_row = a->k_row, p.k_head = a->k_head;
    p.scale = a->scale, p.topk = m->topk, p.smooth = m->smooth_k;
    p.heads = m->heads, p.ledger = a->ledger;
    p.bits = (uint32_t *)tiles->bits, p.words = tiles->words_per_row * 2;
    p.ws = (char *)ws;
    p.next_task = (int *)ws, p.sums_done = p.next_task + 1,
    p.sim_done = p.sums_done + a->n_kv_heads * p.at.n_chunks, p.q_done = p.sim_done + a->n_kv_heads;
    cudaStream_t s = (cudaStream_t)stream;
    CUDA_TRY(cudaMemsetAsync(ws, 0, sizeof(int) * p.at.counters, s));
    if (a->head_dim == 64) return launch<8>(p, s);
    if (a->head_dim == 128) return launch<16>(p, s);
    return launch<32>(p, s);
}
}

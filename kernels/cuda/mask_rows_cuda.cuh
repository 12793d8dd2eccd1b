/* The rows of the map: scores of query blocks against key blocks, softmax, and the choice among the
 * ranked.
 *
 * A row is never sorted. The bound between kept and dropped is bracketed on the bits of the
 * probabilities, which order positive floats, until so few are left between that each can be
 * compared with each.
 */
#ifndef SG_KERNELS_CUDA_MASK_ROWS_CUDA_CUH
#define SG_KERNELS_CUDA_MASK_ROWS_CUDA_CUH

extern "C" {
#include "kernels/mask.h"
}
#include "kernels/cuda/pool_cuda.cuh"

#include <float.h>
#include <math.h>

namespace mask_cuda
{

/* key blocks whose scores one warp makes at a time: four to a lane, half of the dimensions */
enum { STRIP = 64, FEW = 32 }; /* candidates that are compared each with each */

struct layout {
    /* a chunk of keys is `rounds` times a CTA's warps of units */
    int d, n_qblocks, n_kblocks, k_pad, n_chunks, rounds;
    size_t k_sums, chunk_sums, k_sim, bytes; /* offsets into the workspace */
};

struct params {
    struct layout at;
    int n_q, n_kv, q_start, n_heads, n_kv_heads, group, block_q, block_k;
    const __nv_bfloat16 *q, *k;
    ptrdiff_t q_row, q_head, k_row, k_head;
    float scale;
    double topk; /* the decimal number, kernels/mask_rules.c */
    int part;    /* of the method: heads that another one ranks are left alone */
    enum smooth_k smooth;
    const struct head_params *heads;
    struct head_ledger *ledger;
    uint32_t *bits;    /* the map's rows as 32-bit words */
    int words;         /* of 32 bits per row */
    float *k_sums;     /* [n_kv_heads, d, k_pad] */
    float *chunk_sums; /* [n_kv_heads, n_chunks, d] */
    float *k_sim;      /* [n_kv_heads, k_pad] */
};

__device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int m = 16; m > 0; m /= 2) x += __shfl_xor_sync(0xffffffffu, x, m);
    return x;
}

__device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int m = 16; m > 0; m /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, m));
    return x;
}

/* What to keep of a row. An element is kept when its bits reach `bound`, and so are the first
 * `ties` of those one below it. */
struct choice {
    uint32_t bound;
    int ties;
};

/* One warp keeps the best of p[0 … n) (0: not eligible) while their mass is within `limit`, or
 * their number when BY_COUNT; at least one. `eligible` of them are positive, none below `low`, none
 * above 1. `list` has room for FEW. */
template <bool BY_COUNT>
__device__ __forceinline__ choice choose(
    const float *p, int n, int eligible, float limit, uint32_t low, float *list)
{
    const int lane = threadIdx.x % 32;
    /* the bound is above the one, at most the other */
    uint32_t dropped = low - 1, kept = __float_as_uint(1.0f) + 1;
    float kept_size = 0;                  /* mass, or count */
    int n_dropped = eligible, n_kept = 0; /* how many reach that level */
    /* Each round tries three levels, because what a round costs is the latency of its sums. */
    while (n_dropped - n_kept > FEW && kept - dropped > 1) {
        uint32_t level[3];
        float size[3] = {0, 0, 0};
        int number[3] = {0, 0, 0};
#pragma unroll
        for (uint32_t i = 0; i < 3; i++)
            level[i] = dropped +
                (kept - dropped < 4 ? (kept - dropped) / 2 : (kept - dropped) / 4 * (i + 1));
#pragma unroll 2
        for (int j = lane; j < n; j += 32) {
            float x = p[j];
#pragma unroll
            for (int i = 0; i < 3; i++)
                if (__float_as_uint(x) >= level[i]) {
                    number[i]++;
                    if (!BY_COUNT) size[i] += x;
                }
        }
#pragma unroll
        for (int i = 0; i < 3; i++) {
            number[i] = __reduce_add_sync(0xffffffffu, number[i]);
            size[i] = BY_COUNT ? (float)number[i] : warp_sum(size[i]);
        }
#pragma unroll
        for (int i = 2; i >= 0; i--) { /* sizes grow as levels fall */
            if (size[i] <= limit && level[i] < kept)
                kept = level[i], kept_size = size[i], n_kept = number[i];
            else if (size[i] > limit && level[i] > dropped)
                dropped = level[i], n_dropped = number[i];
        }
    }
    uint32_t best = dropped; /* highest rank known to be dropped, in part or whole */
    if (kept - dropped > 1) {
        int m = 0;
        for (int j0 = 0; j0 < n; j0 += 32) {
            int j = j0 + lane;
            float x = j < n ? p[j] : 0;
            bool in = x > 0 && __float_as_uint(x) >= dropped && __float_as_uint(x) < kept;
            uint32_t all = __ballot_sync(0xffffffffu, in);
            if (in) list[m + __popc(all & ((1u << lane) - 1))] = x;
            m += __popc(all);
        }
        __syncwarp();
        float x = lane < m ? list[lane] : 0, above = kept_size;
#pragma unroll 8
        for (int c = 0; c < m; c++) {
            float other = list[c];
            if (other >= x) above += BY_COUNT ? 1.0f : other;
        }
        uint32_t mine = lane < m && above > limit ? __float_as_uint(x) : 0;
        best = max(__reduce_max_sync(0xffffffffu, mine), dropped - 1);
        float between = __float_as_uint(x) > best ? (BY_COUNT ? 1.0f : x) : 0;
        kept_size += warp_sum(between);
        __syncwarp();
    }
    choice c = {best + 1, 0};
    if (best < low) return c; /* nothing is dropped */
    float value = BY_COUNT ? 1.0f : __uint_as_float(best);
    c.ties = (int)fminf((limit - kept_size) / value, 1e6f);
    if (kept_size == 0 && c.ties < 1) c.ties = 1;
    return c;
}

/* As the CPU counts, kernels/mask_rules.c. */
__device__ __forceinline__ int topk_count(double fraction, int n)
{
    return (int)ceil(fraction * (double)n - 1e-10);
}

/* The words of one row by one warp: what the choice keeps of `rank`, and what is kept anyhow; all
 * possible tiles of a head that is dense. */
__device__ __forceinline__ void write_bits(uint32_t *row, int words, int n, bool sparse,
    const float *rank, choice c, int diagonal, bool all)
{
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int j0 = 0; j0 < words * 32; j0 += 32) {
        int j = j0 + lane;
        bool keep = j < n;
        if (sparse && j0 < n) {
            uint32_t r = j < n ? __float_as_uint(rank[j]) : 0;
            bool ranked = r == 0 || r >= c.bound || j == 0 || j >= diagonal || all;
            if (c.ties > 0) {
                uint32_t tied = __ballot_sync(0xffffffffu, r != 0 && r + 1 == c.bound);
                ranked |= (tied >> lane & 1) && __popc(tied & ((1u << lane) - 1)) < c.ties;
                c.ties -= __popc(tied);
            }
            keep = keep && ranked;
        }
        uint32_t word = __ballot_sync(0xffffffffu, keep);
        if (lane == 0) row[j0 / 32] = word;
    }
}

/* The map's row of one head by one warp. s: `slices` parts of the row's dot products with the sums
 * of key blocks, `apart` floats from one to the next; it becomes its ranks. n: key blocks the row
 * may see; k_sim: similarities of these. */
__device__ __forceinline__ void write_row(const params &p, int head, int block, int n,
    const struct head_params &t, float q_sim, const float *k_sim, float *s, int slices, int apart,
    float *list)
{
    const int lane = threadIdx.x % 32;
    uint32_t *row = p.bits + ((size_t)head * p.at.n_qblocks + block) * p.words;
    const bool q_similar = q_sim > t.theta;
    const int diagonal = (p.q_start + block * p.block_q) / p.block_k;
    int eligible = n;
    choice c = {0, 0};
    if (t.is_sparse) {
        float top = -INFINITY, total = 0;
        const float whole = 1.0f / (float)p.block_k;
#pragma unroll 2
        for (int j = lane; j < n; j += 32) {
            float x = s[j];
            for (int i = 1; i < slices; i++) x += s[j + i * apart];
            x *= (j + 1) * p.block_k <= p.n_kv ? whole : 1.0f / (float)(p.n_kv - j * p.block_k);
            if (!(k_sim[j] > t.theta)) x = -INFINITY;
            s[j] = x;
            top = fmaxf(top, x);
        }
        top = warp_max(top);
        uint32_t low = __float_as_uint(1.0f);
        eligible = 0;
#pragma unroll 2
        for (int j = lane; j < n; j += 32) {
            float x = s[j];
            /* an eligible tile never ranks as impossible */
            x = x == -INFINITY ? 0 : fmaxf(expf(x - top), FLT_MIN);
            s[j] = x;
            total += x;
            if (x > 0) eligible++, low = min(low, __float_as_uint(x));
        }
        total = warp_sum(total), eligible = __reduce_add_sync(0xffffffffu, eligible);
        low = __reduce_min_sync(0xffffffffu, low);
        __syncwarp();
        const int wanted = topk_count(p.topk, n);
        if (eligible == 0) c.bound = 0xffffffffu;
        else if (p.topk > 0)
            c = choose<true>(s, n, eligible, (float)min(wanted, eligible), low, list);
        else if (t.tau >= 1) c.bound = low;
        else c = choose<false>(s, n, eligible, t.tau * total, low, list);
    }
    write_bits(row, p.words, n, t.is_sparse, s, c, diagonal, !q_similar);
    if (lane == 0 && t.is_sparse && p.ledger != NULL) {
        struct head_ledger *l = &p.ledger[head];
        atomicAdd((unsigned long long *)&l->forced_sink, 1ull);
        atomicAdd((unsigned long long *)&l->forced_diagonal, (unsigned long long)(n - diagonal));
        if (!q_similar) atomicAdd((unsigned long long *)&l->forced_theta_q, (unsigned long long)n);
        if (eligible < n)
            atomicAdd((unsigned long long *)&l->forced_theta_k, (unsigned long long)(n - eligible));
    }
}

/* How the scores of a task's rows are shared out among its warps: short rows leave warps over,
 * which share the dimensions. */
struct sharing {
    int strips, slices, pitch;
    __host__ __device__ sharing(int n, int warps)
    {
        strips = (n + STRIP - 1) / STRIP, slices = 1, pitch = strips * STRIP;
        while (slices < 8 && 2 * slices * strips <= warps) slices *= 2;
    }
    __host__ __device__ size_t floats(int rows) const { return (size_t)slices * rows * pitch; }
};

/* Dot products of ROWS query rows (q: [d, ROWS] in shared memory) with the sums of key blocks of
 * one kv head, into score [slices, ROWS, pitch]; AHEAD loads under way at a time. All warps of the
 * CTA. */
template <int ROWS, int AHEAD>
__device__ __forceinline__ void score_rows(
    const params &p, int kv, const sharing &share, const float *q, float *score)
{
    static_assert(ROWS % 4 == 0, "rows are read four at a time");
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32, d = p.at.d;
    const int per = d / (2 * share.slices); /* dimensions of half a warp */
    for (int item = warp; item < share.strips * share.slices; item += warps) {
        const int slice = item % share.slices, j = item / share.slices * STRIP + lane % 16 * 4;
        const int from = (2 * slice + lane / 16) * per;
        const float *sums = p.k_sums + ((size_t)kv * d + from) * p.at.k_pad + j;
        const bool there = j < p.at.k_pad;
        float acc[ROWS][4] = {};
#pragma unroll 1
        for (int e0 = 0; e0 < per; e0 += AHEAD) {
            float4 k[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                k[i] = there && e0 + i < per
                    ? __ldcg((const float4 *)(sums + (size_t)(e0 + i) * p.at.k_pad))
                    : make_float4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                const float4 *means = (const float4 *)(q + min(from + e0 + i, d - 1) * ROWS);
#pragma unroll
                for (int r4 = 0; r4 < ROWS / 4; r4++) {
                    const float4 x = means[r4];
                    const float row[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
                    for (int r = 0; r < 4; r++) {
                        float *a = acc[4 * r4 + r];
                        a[0] = fmaf(k[i].x, row[r], a[0]), a[1] = fmaf(k[i].y, row[r], a[1]);
                        a[2] = fmaf(k[i].z, row[r], a[2]), a[3] = fmaf(k[i].w, row[r], a[3]);
                    }
                }
            }
        }
        /* The halves of the warp hold half of the dimensions each: one ends up with the first rows,
         * one with the rest. */
        const bool second = lane >= 16;
#pragma unroll
        for (int r = 0; r < ROWS / 2; r++) {
            float out[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float low = acc[r][i], high = acc[r + ROWS / 2][i];
                float give = second ? low : high, keep = second ? high : low;
                out[i] = keep + __shfl_xor_sync(0xffffffffu, give, 16);
            }
            float *to =
                score + (size_t)(slice * ROWS + r + (second ? ROWS / 2 : 0)) * share.pitch + j;
            *(float4 *)to = make_float4(out[0], out[1], out[2], out[3]);
        }
    }
}

} // namespace mask_cuda

#endif

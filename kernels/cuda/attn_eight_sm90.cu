/* Causal attention for Hopper with eight-bit products (METHOD 9), dense and block-sparse; bf16 in
 * and out.
 *
 * quantise_cuda lays Q, K and V out in blocks of 64 rows; then, as in attn_sm90.cu, persistent CTAs
 * of a producer warp and two consumer warpgroups take (query block, head) items from a counter.
 * Scores are int8 or e4m3 products times the scales of their blocks; probabilities become e4m3
 * under a power of two that each row chooses for each tile, so that a large first key does not push
 * the rest out of e4m3's range; and the product of each tile with V, whose accumulator keeps only
 * some 14 bits, is added to the output in fp32.
 *
 * A tile's product lives in registers of its own until then. With head_dim 128 that leaves no room
 * for the scores of the next tile beside it, so the steps of one warpgroup follow each other and
 * the other warpgroup fills the tensor cores meanwhile.
 *
 * Sources: SageAttention2 (arXiv 2411.10958) for the smoothed K and the two-level sum,
 * FlashAttention-3 (arXiv 2407.08608) for V's order of keys that spares a shuffle of P.
 */
extern "C" {
#include "kernels/attn.h"
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/attn_eight_producer_sm90.cuh"
#include "kernels/cuda/attn_sm90_host.cuh"
#include "kernels/cuda/cuda_check.cuh"

#include <cuda_runtime.h>
#include <math.h>
#include <type_traits>

namespace
{

using namespace attn_eight;

/* Added to a number, 1.5 · 2^23 leaves it whole, in the low bits of the sum. */
constexpr float WHOLE_BITS = 12582912.0f;

template <int D, keys KEYS, bool SKIP, bool INT8> struct consumer {
    using S = shape8<D>;
    static constexpr int SCORES = TILE / 2; /* a thread's share of a tile */
    static constexpr int HALF = SCORES / 2; /* of one block of 64 keys */
    /* Q·K of the next tile goes out beside P·V of the present one, where there are registers for
     * both. */
    static constexpr bool AHEAD = D == 64 || !SKIP;
    /* Warpgroups that take turns at the tensor cores do not meet in their exponentials; where
     * maxima are found faster, waiting for a turn costs more than meeting (measured). */
    static constexpr bool TURNS = AHEAD && D == 128 && !INT8;
    static constexpr bool APART = SKIP && KEYS == KEYS_64; /* stage 2 decides on each block */
    /* All exponentials first, because a sum among them waits for each, then what the product before
     * adds to the output, then sums and packing; or in the order the assembler likes. */
    static constexpr bool APART_SUMS = !SKIP && AHEAD;
    /* All of that product behind a branch of its own, or each half in its place (measured). */
    static constexpr bool WHOLE_PRODUCT = D == 64 || INT8;
    /* Powers of two by arithmetic on whole numbers instead of by the unit of the exponentials. */
    static constexpr bool WHOLE = !SKIP;

    const params8 &x;
    const params &p;
    const CUtensorMap *map_o;
    uint8_t *q, *k, *v, *o_stage;
    board *shared;
    int wg;
    uint32_t nq = 0; /* items begun */
    /* of the tile under way and the one before */
    uint32_t stage = 0, parity = 0, stage_before = 0, parity_before = 0;
    bool k_ready = false, v_ready = false; /* what is needed next has been seen to be there */

    float o[D / 2], acc[D / 2], s[SCORES];
    uint32_t prob[SCORES / 4];
    float q_scale;
    /* log2 of the unit of o and sum, a whole number; sums of this thread's columns */
    float top[2], sum[2];
    float beta[2]; /* from the unit of the tile in `prob` to that of o */
    /* of the tile under way: scores to log2 units, V's exponents, what is added, sums by block */
    float c[2], e[2], add[2][2], part[2][2];
    float most[2][2]; /* this thread's largest scores, by block and row */
    float seen[2];    /* SKIP: the largest score so far */
    float lambda;
    int live, units; /* SKIP: bit u is set when block u of the tile in `prob` takes part */
    /* the first key of the diagonal tile under way, counted from the item's first row */
    int edge;
    bool row_valid[2], empty[2];

    static __device__ __forceinline__ int thread() { return threadIdx.x % WG_THREADS; }
    static __device__ __forceinline__ int lane() { return threadIdx.x % 32; }
    __device__ __forceinline__ int first_row() const
    {
        return wg * WG_ROWS + thread() / 32 * 16 + lane() / 4;
    }

    __device__ __forceinline__ uint64_t query_tile(uint32_t n)
    {
        return rows_descriptor<D>(q + n % Q_STAGES * S::q_bytes + wg * S::block_bytes);
    }

    __device__ __forceinline__ void advance()
    {
        stage_before = stage, parity_before = parity;
        stage = (stage + 1) % STAGES;
        parity ^= stage == 0;
    }

    template <typename T>
    __device__ __forceinline__ void issue_qk(T (&raw)[SCORES], uint64_t desc_q)
    {
        mma_fence(raw);
        uint64_t desc_k = rows_descriptor<D>(k + stage * S::kv_bytes);
#pragma unroll
        for (int i = 0; i < D / 32; i++) mma8_ss(raw, desc_q + 2 * i, desc_k + 2 * i, i > 0);
        mma_commit();
    }

    __device__ __forceinline__ void issue_pv(uint32_t of)
    {
        mma_fence(acc);
        uint64_t desc_v = rows_descriptor<EIGHT_ROWS>(v + of * S::kv_bytes);
#pragma unroll
        for (int i = 0; i < TILE / 32; i++)
            mma8_rs(acc, prob[4 * i], prob[4 * i + 1], prob[4 * i + 2], prob[4 * i + 3],
                desc_v + (uint64_t)(i / 2 * (S::block_bytes / 16) + i % 2 * 2), i > 0);
        mma_commit();
    }

    __device__ __forceinline__ void mask_triangle()
    {
        int col = lane() % 4 * 2 + edge - first_row();
#pragma unroll
        for (int i = 0; i < SCORES; i++)
            if (col + i / 4 * 8 + i % 2 > i / 2 % 2 * 8) s[i] = -INFINITY;
        edge += TILE;
    }

    static __device__ __forceinline__ float quad_max(float y)
    {
        y = fmaxf(y, __shfl_xor_sync(0xffffffffu, y, 1));
        return fmaxf(y, __shfl_xor_sync(0xffffffffu, y, 2));
    }

    /* Three whole numbers are compared by one instruction, three floats by two. */
    template <typename T> __device__ __forceinline__ void find_most(const T (&x)[SCORES])
    {
#pragma unroll
        for (int u = 0; u < 2; u++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                T even = x[u * HALF + 2 * r], odd = x[u * HALF + 2 * r + 1];
#pragma unroll
                for (int i = 4; i < HALF; i += 4) {
                    even = larger(even, x[u * HALF + i + 2 * r]);
                    odd = larger(odd, x[u * HALF + i + 2 * r + 1]);
                }
                most[u][r] = (float)larger(even, odd);
            }
    }
    static __device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
    static __device__ __forceinline__ int larger(int a, int b) { return max(a, b); }

    static __device__ __forceinline__ float ceil_whole(float x)
    {
        return WHOLE ? __fadd_ru(x, WHOLE_BITS) - WHOLE_BITS : ceilf(x);
    }

    /* 2^x of a whole number up to 0, or of -infinity. */
    static __device__ __forceinline__ float exp2_whole(float x)
    {
        if (!WHOLE) return exp2_fast(x);
        return __int_as_float((__float_as_int(fmaxf(x, -127.0f) + WHOLE_BITS) << 23) + 0x3f800000);
    }

    /* 2^-x of an exponent of V. */
    static __device__ __forceinline__ float inverse_power(float x)
    {
        if (!WHOLE) return __int_as_float((127 - (int)x) << 23);
        return __int_as_float(0x3f800000 - (__float_as_int(x + WHOLE_BITS) << 23));
    }

    /* The unit of this tile, and what its scores are multiplied with, `c`, and added to, `add`, to
     * become exponents under it; `alpha` is what o must be multiplied by if the answer is yes. With
     * stage 2, which blocks take part is left in `live`, and those scores become probabilities.
     * NONE: a row may have no score at all. */
    template <bool NONE>
    __device__ __forceinline__ bool choose_unit(const float4 &scales, float (&alpha)[2])
    {
        c[0] = q_scale * scales.x, c[1] = q_scale * scales.y, e[0] = scales.z, e[1] = scales.w;
        /* log2 of the largest product of a probability and a value that e4m3 must hold */
        float reach[2];
        live = 3;
        if (SKIP) {
            float local[2][2];
            live = 0;
#pragma unroll
            for (int r = 0; r < 2; r++) {
#pragma unroll
                for (int u = 0; u < 2; u++) local[u][r] = quad_max(most[u][r]) * c[u];
                reach[r] = -INFINITY;
            }
#pragma unroll
            for (int u = 0; u < (APART ? 2 : 1); u++) {
                bool wanted = false;
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    float here = APART ? local[u][r] : max_nan(local[0][r], local[1][r]);
                    seen[r] = fmaxf(seen[r], here);
                    /* A row whose sum is still empty needs its first unit; not "> 0": NaN is for
                     * nobody to skip. */
                    bool below = here == -INFINITY || here - seen[r] + lambda <= 0.0f;
                    wanted |= row_valid[r] && (empty[r] || !below);
                }
                if (named_any(1 + wg, WG_THREADS, wanted)) {
                    live |= APART ? 1 << u : 3;
                    units++;
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        if (APART) {
                            reach[r] = fmaxf(reach[r], local[u][r] + e[u]);
                            empty[r] &= local[u][r] == -INFINITY;
                        } else {
                            reach[r] = fmaxf(local[0][r] + e[0], local[1][r] + e[1]);
                            empty[r] &= fmaxf(local[0][r], local[1][r]) == -INFINITY;
                        }
                    }
                }
            }
            if (!live) return false;
        } else {
#pragma unroll
            for (int r = 0; r < 2; r++)
                reach[r] = quad_max(fmaxf(most[0][r] * c[0] + e[0], most[1][r] * c[1] + e[1]));
        }
        bool grown = false;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            reach[r] = ceil_whole(reach[r]);
            float now = fmaxf(top[r], reach[r]), base = NONE && now == -INFINITY ? 0.0f : now;
            alpha[r] = exp2_whole(top[r] - base);
            beta[r] = exp2_whole(reach[r] - base);
            grown |= now > top[r];
            top[r] = now;
            base = NONE && reach[r] == -INFINITY ? 0.0f : reach[r];
            add[0][r] = e[0] - base + EIGHT_P_LOG2, add[1][r] = e[1] - base + EIGHT_P_LOG2;
        }
        if (SKIP) exponentials_added(), add_parts(alpha);
        return __any_sync(0xffffffffu, grown);
    }

    __device__ __forceinline__ void exponentials(int u)
    {
#pragma unroll
        for (int i = u * HALF; i < (u + 1) * HALF; i++)
            s[i] = exp2_fast(fmaf(s[i], c[u], add[u][i / 2 % 2]));
    }

    __device__ __forceinline__ void add_up(int u)
    {
        part[u][0] = part[u][1] = 0;
#pragma unroll
        for (int i = u * HALF; i < (u + 1) * HALF; i++) part[u][i / 2 % 2] += s[i];
    }

    /* Both at once. */
    __device__ __forceinline__ void exponentials_added()
    {
        part[0][0] = part[0][1] = part[1][0] = part[1][1] = 0;
#pragma unroll
        for (int i = 0; i < SCORES; i++) {
            int u = i / HALF, r = i / 2 % 2;
            s[i] = exp2_fast(fmaf(s[i], c[u], add[u][r]));
            part[u][r] += s[i];
        }
    }

    /* Both blocks' sums go into that of the row. */
    __device__ __forceinline__ void add_parts(const float (&alpha)[2])
    {
        const float back[2] = {APART && !(live & 1) ? 0.0f : inverse_power(e[0]),
            APART && !(live & 2) ? 0.0f : inverse_power(e[1])};
#pragma unroll
        for (int r = 0; r < 2; r++)
            sum[r] =
                fmaf(sum[r], alpha[r], beta[r] * fmaf(part[0][r], back[0], part[1][r] * back[1]));
    }

    /* Scores become probabilities. */
    template <bool NONE>
    __device__ __forceinline__ bool softmax(const float4 &scales, float (&alpha)[2])
    {
        bool grown = choose_unit<NONE>(scales, alpha);
        if (!SKIP) {
            exponentials(0), exponentials(1), add_up(0), add_up(1);
            add_parts(alpha);
        }
        return grown;
    }

    /* Four neighbouring scores of a row, in the order eight::key_at() gives V's keys. */
    __device__ __forceinline__ void pack(int u)
    {
#pragma unroll
        for (int i = u * (SCORES / 8); i < (u + 1) * (SCORES / 8); i++) {
            int at = i / 2 * 8 + i % 2 * 2;
            prob[i] = pack_e4m3(s[at], s[at + 1], s[at + 4], s[at + 5]);
            if (APART && !(live >> u & 1)) prob[i] = 0;
        }
    }
    __device__ __forceinline__ void pack() { pack(0), pack(1); }

    __device__ __forceinline__ void release(uint64_t *bar)
    {
        if (lane() == 0) mbar_arrive(bar);
    }

    __device__ __forceinline__ void rescale(const float (&by)[2])
    {
        rescale(by, 0), rescale(by, 1);
    }
    __device__ __forceinline__ void rescale(const float (&by)[2], int half)
    {
#pragma unroll
        for (int i = half * D / 4; i < (half + 1) * D / 4; i++) o[i] *= by[i / 2 % 2];
    }

    /* The tile's product goes into the output. */
    __device__ __forceinline__ void promote(const float (&by)[2])
    {
#pragma unroll
        for (int i = 0; i < D / 2; i++) o[i] = fmaf(acc[i], by[i / 2 % 2], o[i]);
    }

    __device__ __forceinline__ void mask_half()
    {
#pragma unroll
        for (int i = HALF; i < SCORES; i++) s[i] = -INFINITY;
    }

    /* s = Q·Kᵀ of the tile under way, whose scales are returned, and beside it P·V of the one
     * before. */
    template <bool PV, bool FIRST>
    __device__ __forceinline__ float4 scores(uint64_t desc_q, bool last)
    {
        auto &bar = shared->bar;
        typename std::conditional<INT8, int, float>::type raw[SCORES];
        if (!k_ready) mbar_wait(&bar.k_full[stage], parity);
        const float4 scales = shared->scales[stage];
        if (TURNS && !FIRST) named_sync(3 + wg, 2 * WG_THREADS);
        issue_qk(raw, desc_q);
        if (PV) {
            if (!v_ready) mbar_wait(&bar.v_full[stage_before], parity_before);
            issue_pv(stage_before);
        }
        if (TURNS && !FIRST) named_arrive(3 + (wg ^ 1), 2 * WG_THREADS);
        mma_wait<PV ? 1 : 0>(raw);
        release(&bar.k_empty[stage]);
        if (last) release(&bar.q_empty[nq % Q_STAGES]);
        uint32_t next = (stage + 1) % STAGES;
        k_ready = mbar_test(&bar.k_full[next], parity ^ (next == 0));
        v_ready = mbar_test(&bar.v_full[stage], parity);
        if constexpr (INT8) find_most(raw);
#pragma unroll
        for (int i = 0; i < SCORES; i++) s[i] = (float)raw[i];
        return scales;
    }

    /* The product of a tile that nothing ran beside. */
    __device__ __forceinline__ void multiply_values(
        uint32_t of, uint32_t at, bool grown, const float (&alpha)[2])
    {
        if (!v_ready) mbar_wait(&shared->bar.v_full[of], at);
        if (!SKIP || live) {
            issue_pv(of);
            if (grown) rescale(alpha);
            mma_wait<0>(acc);
            promote(beta);
        }
        release(&shared->bar.v_empty[of]);
    }

    /* One tile from its scores to the output. */
    template <bool MASKED>
    __device__ __forceinline__ void take(uint64_t desc_q, bool half, bool last)
    {
        const float4 scales = scores<false, true>(desc_q, last);
        if (MASKED && half) mask_half();
        if (MASKED && !half) mask_triangle();
        if (!INT8 || MASKED) find_most(s);
        float alpha[2];
        bool grown = softmax<true>(scales, alpha);
        if (!SKIP || live) pack();
        multiply_values(stage, parity, grown, alpha);
        advance();
    }

    /* The first tile of an item up to its probabilities. */
    __device__ __forceinline__ void take_first(uint64_t desc_q, const work &w)
    {
        const float4 scales = scores<false, true>(desc_q, w.tiles == 1);
        if (KEYS == KEYS_64 && w.half) mask_half();
        if (w.clear == 0) mask_triangle();
        find_most(s);
        float alpha[2];
        softmax<true>(scales, alpha);
        if (!SKIP || live) pack();
        advance();
    }

    /* A tile up to its probabilities, beside the product of the tile before. */
    template <bool MASKED, bool PV> __device__ __forceinline__ void step(uint64_t desc_q, bool last)
    {
        if (!PV && !v_ready) mbar_wait(&shared->bar.v_full[stage_before], parity_before);
        const float4 scales = scores<PV, false>(desc_q, last);
        if (MASKED) mask_triangle();
        if (!INT8 || MASKED) find_most(s);
        float alpha[2];
        const float by[2] = {beta[0], beta[1]};
        constexpr bool NONE = MASKED || !WHOLE;
        if (!APART_SUMS) {
            bool grown = softmax<NONE>(scales, alpha);
            if (PV) {
                mma_wait<0>(acc);
                promote(by);
            }
            release(&shared->bar.v_empty[stage_before]);
            /* The branch keeps the packing behind the exponentials: among them it slows both
             * (measured). */
            if (grown) rescale(alpha);
            if (!SKIP || live) pack();
        } else {
            bool grown = choose_unit<NONE>(scales, alpha);
            mma_wait<0>(acc);
            release(&shared->bar.v_empty[stage_before]);
            /* So do the branches here: the assembler moves nothing over them. */
            exponentials(0), exponentials(1);
            if (WHOLE_PRODUCT) {
                if (__any_sync(0xffffffffu, alpha[0] < 2.0f)) promote(by); /* always */
                if (grown) rescale(alpha);
            } else {
                promote(by);
                if (grown) rescale(alpha, 0);
                if (grown) rescale(alpha, 1);
            }
            add_up(0), pack(0), add_up(1), add_parts(alpha), pack(1);
        }
        advance();
    }

    template <bool MASKED> __device__ __forceinline__ void take_next(uint64_t desc_q, bool last)
    {
        if (!SKIP || live) step<MASKED, true>(desc_q, last);
        else step<MASKED, false>(desc_q, last);
    }

    __device__ __forceinline__ void store(int row0, int head)
    {
        float inverse[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
            inverse[r] = sum[r] > 0.0f ? 1.0f / sum[r] : 0.0f;
        }
        uint8_t *stage = o_stage + wg * WG_ROWS * D * 2;
        if (thread() == 0) tma_store_drained();
        named_sync(1 + wg, WG_THREADS);
        int row = thread() / 32 * 16 + lane() / 4;
#pragma unroll
        for (int i = 0; i < D / 8; i++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                int at = i / 8 * WG_ROWS * PANEL_BYTES + (row + 8 * r) * PANEL_BYTES +
                    (((i % 8) ^ (row % 8)) << 4) + lane() % 4 * 4;
                *(uint32_t *)(stage + at) =
                    pack_bf16(o[4 * i + 2 * r] * inverse[r], o[4 * i + 2 * r + 1] * inverse[r]);
            }
        proxy_fence();
        named_sync(1 + wg, WG_THREADS);
        if (thread() == 0) {
            tma_store(map_o, stage, 0, row0 + wg * WG_ROWS - p.q_start, 0, head);
            tma_store_commit();
        }
    }

    __device__ __forceinline__ void open_item(const work &w)
    {
        int row = w.row0 + first_row();
        q_scale = shared->work[nq % Q_STAGES].q_scale[wg] * p.scale_log2;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] = 0.0f, top[r] = -INFINITY, seen[r] = -INFINITY, empty[r] = true;
            row_valid[r] = row + 8 * r < p.n_kv && row + 8 * r >= p.q_start;
        }
#pragma unroll
        for (int i = 0; i < D / 2; i++) o[i] = 0.0f;
        edge = w.edge - w.row0;
        if (SKIP) {
            lambda = p.pv_threshold[w.head];
            units = 0;
            if (KEYS != KEYS_DENSE && p.head_sparse != NULL && !p.head_sparse[w.head])
                lambda = INFINITY;
        }
    }

    __device__ __forceinline__ void run()
    {
        if (TURNS && wg == 0) named_arrive(3, 2 * WG_THREADS);
        for (;; nq++) {
            mbar_wait(&shared->bar.q_full[nq % Q_STAGES], nq / Q_STAGES & 1);
            const work w = shared->work[nq % Q_STAGES].w;
            if (w.row0 < 0) break;
            open_item(w);
            uint64_t desc_q = query_tile(nq);
            int j = 0;
            if (AHEAD) {
                take_first(desc_q, w);
                for (j = 1; j < w.clear; j++) take_next<false>(desc_q, false);
                for (; j < w.tiles; j++) take_next<true>(desc_q, j == w.tiles - 1);
                multiply_values(stage_before, parity_before, false, beta);
            } else {
                if (KEYS == KEYS_64 && w.half) take<true>(desc_q, true, false), j++;
                for (; j < w.clear; j++) take<false>(desc_q, false, false);
                for (; j < w.tiles; j++) take<true>(desc_q, false, j == w.tiles - 1);
            }
            store(w.row0, w.head);
            if (SKIP && p.ledger != NULL && thread() == 0)
                count(&p.ledger[w.head].pv_units_computed, units);
        }
        if (TURNS && wg == 0) named_sync(3, 2 * WG_THREADS);
        if (thread() == 0) tma_store_drained();
    }
};

template <int D, keys KEYS, bool SKIP, bool INT8>
__global__ __launch_bounds__(shape8<D>::threads, 1) void attn_eight_kernel(
    const __grid_constant__ CUtensorMap mo, const __grid_constant__ params8 x)
{
    using S = shape8<D>;
    extern __shared__ uint8_t raw[];
    uint8_t *q = raw + ((1024 - shared_address(raw) % 1024) % 1024), *k = q + Q_STAGES * S::q_bytes,
            *v = k + STAGES * S::kv_bytes, *o = v + STAGES * S::kv_bytes;
    board *shared = (board *)(o + S::o_bytes);
    static_assert(sizeof(board) <= 512, "the board outgrew its room");
    int wg = __shfl_sync(0xffffffffu, (int)threadIdx.x / WG_THREADS, 0);

    if (threadIdx.x == 0) {
        barriers<STAGES> *bar = &shared->bar;
        for (int i = 0; i < Q_STAGES; i++) {
            mbar_init(&bar->q_full[i], 1);
            mbar_init(&bar->q_empty[i], WGS * 4);
        }
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&bar->k_full[i], 1);
            mbar_init(&bar->v_full[i], 1);
            mbar_init(&bar->k_empty[i], WGS * 4);
            mbar_init(&bar->v_empty[i], WGS * 4);
        }
        mbar_init_fence();
        tma_prefetch_map(&mo);
    }
    __syncthreads();
    wait_for_grid_before();
    if (wg == 0) {
        registers_shrink<S::producer_regs>();
        if (threadIdx.x < 32) produce8<D, KEYS, SKIP>(x, q, k, v, shared);
    } else {
        registers_grow<S::consumer_regs>();
        consumer<D, KEYS, SKIP, INT8> c = {x, x.base, &mo, q, k, v, o, shared, wg - 1};
        c.run();
    }
}

template <int D, keys KEYS, bool SKIP, bool INT8>
enum status launch(const struct attn_args *a, void *ws, cudaStream_t stream)
{
    using S = shape8<D>;
    CUtensorMap o;
    TRY(map_tensor(&o, "o", a->o, D, a->n_q, a->n_heads, a->o_row, a->o_head, WG_ROWS, D / PANEL));
    eight::layout l = eight::layout_of(a);
    const uint8_t *from = (const uint8_t *)ws;
    params8 x;
    x.q = from + l.q, x.k = from + l.k, x.v = from + l.v;
    x.q_scale = (const float *)(from + l.q_scale), x.k_scale = (const float *)(from + l.k_scale);
    x.v_exponent = (const float *)(from + l.v_exponent);
    x.n_units = l.n_units, x.n_blocks = l.n_blocks;
    params &p = x.base;
    fill_params<KEYS>(&p, a, S::rows, 2.0 * D * attn_n_kv(a), ws);

    auto *kernel = attn_eight_kernel<D, KEYS, SKIP, INT8>;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::bytes));
    int device, sms;
    CUDA_TRY(cudaGetDevice(&device));
    CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
    int items = p.n_rows * p.n_heads;
    /* It may begin as the last CTAs of quantisation end, and waits for them before it reads. */
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(items < sms ? items : sms));
    config.blockDim = dim3(S::threads);
    config.dynamicSmemBytes = S::bytes;
    config.stream = stream;
    config.attrs = &early, config.numAttrs = 1;
    CUDA_TRY(cudaLaunchKernelEx(&config, kernel, o, x));
    return OK;
}

const char *refuses_common(const struct attn_args *a)
{
    if (a->qk == PRECISION_FULL || a->pv != PRECISION_FP8)
        return "takes int8 or fp8 Q·K with fp8 P·V only";
    if (a->q_start % PV_UNIT_ROWS != 0) return "q_start is not a multiple of 64";
    return call_refuses(a);
}

const char *dense_refuses(const struct attn_args *a)
{
    if (a->tiles != NULL) return "given a tile map";
    return refuses_common(a);
}

const char *sparse_refuses(const struct attn_args *a)
{
    const char *why = map_refuses(a);
    return why != NULL ? why : refuses_common(a);
}

size_t workspace(const struct attn_args *a) { return eight::layout_of(a).bytes; }

template <int D, bool INT8>
enum status dense_of(const struct attn_args *a, void *ws, cudaStream_t s)
{
    return launch<D, KEYS_DENSE, false, INT8>(a, ws, s);
}

enum status dense_run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)par;
    cudaStream_t s = (cudaStream_t)stream;
    TRY(quantise_cuda(a, ws, s));
    bool int8 = a->qk == PRECISION_INT8;
    if (a->head_dim == 128)
        return int8 ? dense_of<128, true>(a, ws, s) : dense_of<128, false>(a, ws, s);
    return int8 ? dense_of<64, true>(a, ws, s) : dense_of<64, false>(a, ws, s);
}

template <int D, bool INT8>
enum status sparse_of(const struct attn_args *a, void *ws, cudaStream_t s)
{
    bool k64 = a->tiles->block.k == 64, skip = a->pv_threshold != NULL;
    if (k64 && skip) return launch<D, KEYS_64, true, INT8>(a, ws, s);
    if (k64) return launch<D, KEYS_64, false, INT8>(a, ws, s);
    if (skip) return launch<D, KEYS_128, true, INT8>(a, ws, s);
    return launch<D, KEYS_128, false, INT8>(a, ws, s);
}

enum status sparse_run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)par;
    cudaStream_t s = (cudaStream_t)stream;
    TRY(quantise_cuda(a, ws, s));
    bool int8 = a->qk == PRECISION_INT8;
    if (a->head_dim == 128)
        return int8 ? sparse_of<128, true>(a, ws, s) : sparse_of<128, false>(a, ws, s);
    return int8 ? sparse_of<64, true>(a, ws, s) : sparse_of<64, false>(a, ws, s);
}

} // namespace

extern "C" {
const struct attn_impl attn_dense_eight_sm90 = {
    "attn_dense_eight_sm90", dense_refuses, workspace, dense_run};
const struct attn_impl attn_sparse_eight_sm90 = {
    "attn_sparse_eight_sm90", sparse_refuses, workspace, sparse_run};
}

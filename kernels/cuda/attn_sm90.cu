/* Causal attention for Hopper, dense and block-sparse, bf16 in and out, fp32 accumulation.
 *
 * One CTA per multiprocessor takes (query block, head) items from a counter, longest rows first. A
 * producer warp turns the tile bits into copies and hides the list from the consumers: they see a
 * stream of 128-key tiles, of which only the last ones need the triangle. With 64-key blocks a tile
 * is any two kept blocks side by side, so both shapes run the same matrix instructions. Each
 * consumer warpgroup owns 64 query rows, which is also the unit of stage 2. Q·Kᵀ of the next tile
 * is issued before P·V of the present one, and the softmax runs under both.
 *
 * Sparse calls with head_dim 64 run as two such teams side by side in one CTA, with tiles of 64
 * keys.
 *
 * Sources: FlashAttention-3 (arXiv 2407.08608) for the overlap and the two-warpgroup turn taking;
 * SpargeAttn (arXiv 2502.18137) for stage 2.
 */
extern "C" {
#include "kernels/attn.h"
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/attn_sm90_host.cuh"
#include "kernels/cuda/attn_sm90_producer.cuh"
#include "kernels/cuda/cuda_check.cuh"

#include <cuda_runtime.h>
#include <math.h>

namespace
{

using namespace attn_sm90;

/* A row's running maximum may grow by this much (log2) before the accumulators are rescaled: 2^8
 * leaves bf16 and fp32 all their precision, and most tiles then cost no rescaling at all. */
constexpr float LAZY_LOG2 = 8.0f;

/* Measured on an H200 (docs/speed/attention.md): warpgroups that take turns at the tensor cores
 * gain 1 to 5 %; with head_dim 64 a third one fills gaps that two leave, and its 192-row items suit
 * dense calls only. Sparse calls get two teams of two instead, each with items of its own. */
constexpr bool TURNS_PAY = true;
constexpr int D64_DENSE_WGS = 3;

template <int D, int WGS, keys KEYS, bool SKIP, bool TURNS, int TILE> struct consumer {
    using S = shape<D, WGS, KEYS, SKIP, TILE>;
    static constexpr int SCORES = TILE / 2; /* a thread's share of a tile */
    /* decisions of stage 2 per tile */
    static constexpr int UNITS = SKIP && KEYS == KEYS_64 && TILE == 128 ? 2 : 1;
    static constexpr int UNIT_REGS = SCORES / UNITS;
    static_assert(TILE == 128 || !SKIP || KEYS == KEYS_64, "a unit of stage 2 does not span tiles");

    const params &p;
    const CUtensorMap *map_o;
    uint8_t *q, *k, *v, *o_stage;
    barriers<S::stages> *bar;
    int wg, ids;             /* ids: of the named barriers before this team's */
    uint32_t nk = 0, nq = 0; /* key tiles and items begun; value tiles are always one behind */

    float o[D / 2], s[SCORES];
    uint32_t prob[SCORES / 2];
    float top[2],
        /* reference of the exponent, raw score units; running sums of this thread's columns */
        sum[2];
    float true_top[2]; /* SKIP: the running maximum that stage 2 speaks of, of skipped units too */
    float lambda;
    int live; /* SKIP: bit u is set when unit u of the tile in `prob` was computed */
    int units;
    int edge; /* the first key of the diagonal tile under way, counted from the item's first row */
    bool row_valid[2], empty[2];

    static __device__ __forceinline__ int thread() { return threadIdx.x % WG_THREADS; }
    static __device__ __forceinline__ int lane() { return threadIdx.x % 32; }
    /* The first of this thread's two rows in its item; the other is eight below. */
    __device__ __forceinline__ int first_row() const
    {
        return wg * WG_ROWS + thread() / 32 * 16 + lane() / 4;
    }

    __device__ __forceinline__ uint64_t query_tile(uint32_t n)
    {
        return tile_descriptor(
            q + n % Q_STAGES * S::q_bytes + wg * WG_ROWS * PANEL_BYTES, 1024, 16);
    }

    /* s = Q·Kᵀ with the n-th key tile, once it has arrived. */
    __device__ __forceinline__ void issue_qk(float (&s)[SCORES], uint64_t desc_q, uint32_t n)
    {
        mma_fence(s);
        uint64_t desc_k = tile_descriptor(k + (n % S::stages) * S::kv_bytes, 1024, 16);
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            int panel = i / 4, step = (i % 4) * 2;
            mma_ss(s, desc_q + (uint64_t)(panel * (S::rows * PANEL_BYTES / 16) + step),
                desc_k + (uint64_t)(panel * (TILE * PANEL_BYTES / 16) + step), i > 0);
        }
        mma_commit();
    }

    __device__ __forceinline__ void issue_pv(uint32_t nv)
    {
        uint64_t desc_v =
            tile_descriptor(v + (nv % S::stages) * S::kv_bytes, 1024, TILE * PANEL_BYTES);
        mma_fence(o);
#pragma unroll
        for (int i = 0; i < TILE / 16; i++)
            mma_rs(o, prob[4 * i], prob[4 * i + 1], prob[4 * i + 2], prob[4 * i + 3],
                desc_v + (uint64_t)(i * 16 * PANEL_BYTES / 16));
        mma_commit();
    }

    __device__ __forceinline__ void mask_triangle(float (&s)[SCORES])
    {
        int col = lane() % 4 * 2 + edge - first_row();
#pragma unroll
        for (int i = 0; i < SCORES; i++)
            if (col + i / 4 * 8 + i % 2 > i / 2 % 2 * 8) s[i] = -INFINITY;
        edge += TILE;
    }

    static __device__ __forceinline__ void mask_half(float (&s)[SCORES])
    {
#pragma unroll
        for (int i = SCORES / 2; i < SCORES; i++) s[i] = -INFINITY;
    }

    static __device__ __forceinline__ float quad_max(float x)
    {
        x = max_nan(x, __shfl_xor_sync(0xffffffffu, x, 1));
        return max_nan(x, __shfl_xor_sync(0xffffffffu, x, 2));
    }

    /* Turn scores into probabilities in place. Returns whether o must be multiplied by alpha. */
    template <bool FIRST, bool MASKED>
    __device__ __forceinline__ bool softmax(float (&s)[SCORES], float (&alpha)[2])
    {
        float local[UNITS][2], now[2];
        bool grown = false;
        int keep = (1 << UNITS) - 1;
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int u = 0; u < UNITS; u++) {
                float even = s[u * UNIT_REGS + 2 * r], odd = s[u * UNIT_REGS + 2 * r + 1];
#pragma unroll
                for (int i = 4; i < UNIT_REGS; i += 4) {
                    even = max_nan(even, s[u * UNIT_REGS + i + 2 * r]);
                    odd = max_nan(odd, s[u * UNIT_REGS + i + 2 * r + 1]);
                }
                local[u][r] = quad_max(max_nan(even, odd));
            }
        }
        if (SKIP) {
            keep = 0;
#pragma unroll
            for (int u = 0; u < UNITS; u++) {
                bool wanted = false;
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    true_top[r] = max_nan(true_top[r], local[u][r]);
                    /* A row whose sum is still empty needs its first unit; NaN is for nobody to
                     * skip. */
                    bool below = local[u][r] == -INFINITY ||
                        (local[u][r] - true_top[r]) * p.scale_log2 + lambda <= 0.0f;
                    wanted |= row_valid[r] && (empty[r] || !below);
                }
                if (named_any(ids + 4 + wg, WG_THREADS, wanted)) {
                    keep |= 1 << u;
                    empty[0] &= local[u][0] == -INFINITY, empty[1] &= local[u][1] == -INFINITY;
                }
            }
            units += __popc(keep);
            live = keep;
            /* The reference follows what is added: under a maximum that was only seen, sums would
             * shrink to nothing. */
#pragma unroll
            for (int r = 0; r < 2; r++) {
                now[r] = FIRST ? -INFINITY : top[r];
#pragma unroll
                for (int u = 0; u < UNITS; u++)
                    if (keep >> u & 1) now[r] = max_nan(now[r], local[u][r]);
            }
        } else {
#pragma unroll
            for (int r = 0; r < 2; r++) now[r] = FIRST ? local[0][r] : max_nan(top[r], local[0][r]);
        }
        if (FIRST) {
            top[0] = now[0], top[1] = now[1];
        } else {
            grown = (now[0] - top[0]) * p.scale_log2 > LAZY_LOG2 ||
                (now[1] - top[1]) * p.scale_log2 > LAZY_LOG2;
            grown = __any_sync(0xffffffffu, grown);
            if (grown) {
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    float base = now[r] == -INFINITY ? 0.0f : now[r];
                    alpha[r] = exp2_fast((top[r] - base) * p.scale_log2);
                    top[r] = now[r];
                    sum[r] *= alpha[r];
                }
            }
        }
        float minus[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            bool nothing = (MASKED || SKIP) && top[r] == -INFINITY;
            minus[r] = nothing ? 0.0f : -top[r] * p.scale_log2;
        }
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            if (SKIP && !(keep >> u & 1)) continue;
#pragma unroll
            for (int i = u * UNIT_REGS; i < (u + 1) * UNIT_REGS; i++) {
                float x = fmaf(s[i], p.scale_log2, minus[i / 2 % 2]);
                s[i] = exp2_fast(x);
                sum[i / 2 % 2] += s[i];
            }
        }
        return grown;
    }

    /* A unit that stage 2 skipped beside one that it kept takes part with zeros. */
    __device__ __forceinline__ void pack(const float (&s)[SCORES])
    {
#pragma unroll
        for (int i = 0; i < SCORES / 2; i++) {
            prob[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
            if (UNITS == 2 && !(live >> (i / 16) & 1)) prob[i] = 0;
        }
    }

    __device__ __forceinline__ void release(uint64_t *empty)
    {
        if (lane() == 0) mbar_arrive(empty);
    }

    /* One tile: its Q·Kᵀ and softmax, and beside them P·V of the tile before unless that was
     * skipped. */
    template <bool MASKED, bool PV> __device__ __forceinline__ void step(uint64_t desc_q, bool last)
    {
        const uint32_t nv = nk - 1;
        mbar_wait(&bar->k_full[nk % S::stages], nk / S::stages & 1);
        if (TURNS) named_sync(ids + 1 + wg, 2 * WG_THREADS);
        issue_qk(s, desc_q, nk);
        mbar_wait(&bar->v_full[nv % S::stages], nv / S::stages & 1);
        if (PV) issue_pv(nv);
        if (TURNS) named_arrive(ids + 1 + (wg + 1) % WGS, 2 * WG_THREADS);
        mma_wait<PV ? 1 : 0>(s);
        release(&bar->k_empty[nk % S::stages]);
        if (last) release(&bar->q_empty[nq % Q_STAGES]);
        nk++;
        if (MASKED) mask_triangle(s);
        float alpha[2] = {1.0f, 1.0f};
        bool grown = softmax<false, MASKED>(s, alpha);
        if (PV) mma_wait<0>(o);
        release(&bar->v_empty[nv % S::stages]);
        pack(s);
        if (grown) {
#pragma unroll
            for (int i = 0; i < D / 2; i++) o[i] *= alpha[i / 2 % 2];
        }
    }

    template <bool MASKED> __device__ __forceinline__ void take(uint64_t desc_q, bool last)
    {
        if (!SKIP || live) step<MASKED, true>(desc_q, last);
        else step<MASKED, false>(desc_q, last);
    }

    /* A tile that lies above the triangle for all rows of this warpgroup: the others' turn, and
     * nothing read. */
    __device__ __forceinline__ void pass()
    {
        mbar_wait(&bar->k_full[nk % S::stages], nk / S::stages & 1);
        if (TURNS) named_sync(ids + 1 + wg, 2 * WG_THREADS);
        if (TURNS) named_arrive(ids + 1 + (wg + 1) % WGS, 2 * WG_THREADS);
        release(&bar->k_empty[nk % S::stages]);
        release(&bar->q_empty[nq % Q_STAGES]);
        nk++;
    }

    __device__ __forceinline__ void store(int row0, int head)
    {
        float inverse[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
            inverse[r] = 1.0f / sum[r]; /* a row without keys lies outside and is not stored */
        }
        uint8_t *stage = o_stage + wg * WG_ROWS * D * 2;
        if (thread() == 0) tma_store_drained();
        named_sync(ids + 4 + wg, WG_THREADS);
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
        named_sync(ids + 4 + wg, WG_THREADS);
        if (thread() == 0) {
            tma_store(map_o, stage, 0, row0 + wg * WG_ROWS - p.q_start, 0, head);
            tma_store_commit();
        }
    }

    __device__ __forceinline__ void open_item(const work &w)
    {
        int row = w.row0 + first_row();
#pragma unroll
        for (int r = 0; r < 2; r++) {
            sum[r] = 0.0f, top[r] = -INFINITY, true_top[r] = -INFINITY, empty[r] = true;
            row_valid[r] = row + 8 * r < p.n_kv && row + 8 * r >= p.q_start;
        }
        edge = w.edge - w.row0;
        if (SKIP) {
            lambda = p.pv_threshold[w.head];
            units = 0;
            if (KEYS != KEYS_DENSE && p.head_sparse != NULL && !p.head_sparse[w.head])
                lambda = INFINITY;
        }
    }

    __device__ __forceinline__ void close_item(const work &w)
    {
        store(w.row0, w.head);
        if (SKIP && p.ledger != NULL && thread() == 0)
            count(&p.ledger[w.head].pv_units_computed, units);
    }

    /* The first Q·Kᵀ of an item is sent for before the last P·V of the item before it is collected
     * and stored. */
    __device__ __forceinline__ void run(const work *in)
    {
        mbar_wait(&bar->q_full[0], 0);
        work w = in[0];
        /* an odd number of items: nothing for the last team */
        if (S::teams > 1 && w.row0 < 0) return;
        if (TURNS && wg == 0) named_arrive(ids + 1, 2 * WG_THREADS);
        mbar_wait(&bar->k_full[0], 0);
        issue_qk(s, query_tile(0), 0);
        for (;;) {
            open_item(w);
            uint64_t desc_q = query_tile(nq);
            mma_wait<0>(s);
            release(&bar->k_empty[nk % S::stages]);
            if (w.tiles == 1) release(&bar->q_empty[nq % Q_STAGES]);
            nk++;
#pragma unroll
            for (int i = 0; i < D / 2; i++) o[i] = 0.0f;
            if (KEYS == KEYS_64 && w.half) mask_half(s);
            if (w.clear == 0) mask_triangle(s);
            float alpha[2];
            softmax<true, true>(s, alpha);
            pack(s);
            /* With tiles of 64 keys the last one can be the upper warpgroup's to leave out. */
            const int idle = TILE == 64 && wg == 0 && w.tiles - w.clear == 2 ? 1 : 0;
            int j = 1;
            for (; j < w.clear; j++) take<false>(desc_q, false);
            for (; j < w.tiles - idle; j++) take<true>(desc_q, j == w.tiles - 1);
            if (TILE == 64 && idle) pass();

            const uint32_t nv = nk - 1 - idle;
            mbar_wait(&bar->v_full[nv % S::stages], nv / S::stages & 1);
            if (!SKIP) {
                issue_pv(nv);
            } else if (live) {
                issue_pv(nv);
                mma_wait<0>(o);
            }
            nq++;
            mbar_wait(&bar->q_full[nq % Q_STAGES], nq / Q_STAGES & 1);
            work next = in[nq % Q_STAGES];
            if (next.row0 >= 0) mbar_wait(&bar->k_full[nk % S::stages], nk / S::stages & 1);
            issue_qk(s, query_tile(nq), nk); /* after the last item: of anything, for nobody */
            if (!SKIP) mma_wait<1>(o);
            release(&bar->v_empty[nv % S::stages]);
            if (TILE == 64 && idle) {
                mbar_wait(&bar->v_full[(nv + 1) % S::stages], (nv + 1) / S::stages & 1);
                release(&bar->v_empty[(nv + 1) % S::stages]);
            }
            close_item(w);
            if (next.row0 < 0) break;
            w = next;
        }
        mma_wait<0>(s);
        if (TURNS && wg == 0) named_sync(ids + 1, 2 * WG_THREADS);
        if (thread() == 0) tma_store_drained();
    }
};

template <int D, int WGS, keys KEYS, bool SKIP, bool TURNS, int TILE>
__global__ __launch_bounds__(shape<D, WGS, KEYS, SKIP, TILE>::threads, 1) void attn_kernel(
    const __grid_constant__ CUtensorMap mq, const __grid_constant__ CUtensorMap mk,
    const __grid_constant__ CUtensorMap mv, const __grid_constant__ CUtensorMap mo,
    const __grid_constant__ params p)
{
    using S = shape<D, WGS, KEYS, SKIP, TILE>;
    extern __shared__ uint8_t raw[];
    uint8_t *base = raw + ((1024 - shared_address(raw) % 1024) % 1024);
    int wg = __shfl_sync(0xffffffffu, (int)threadIdx.x / WG_THREADS, 0);
    int team = (wg - 1) / WGS;
    if (wg == 0) team = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32 % S::teams, 0);
    uint8_t *q = base + team * S::team_bytes, *k = q + Q_STAGES * S::q_bytes,
            *v = k + S::stages * S::kv_bytes, *o = v + S::stages * S::kv_bytes;
    auto *bar = (barriers<S::stages> *)(base + S::teams * S::team_bytes + team * 256);
    work *shared_work = (work *)(bar + 1);
    static_assert(sizeof(*bar) + Q_STAGES * sizeof(work) <= 256, "barriers outgrew their room");

    if (wg == 0 && threadIdx.x % 32 == 0 && threadIdx.x / 32 < S::teams) {
        for (int i = 0; i < Q_STAGES; i++) {
            mbar_init(&bar->q_full[i], 1);
            mbar_init(&bar->q_empty[i], WGS * 4);
        }
        for (int i = 0; i < S::stages; i++) {
            mbar_init(&bar->k_full[i], 1);
            mbar_init(&bar->v_full[i], 1);
            mbar_init(&bar->k_empty[i], WGS * 4);
            mbar_init(&bar->v_empty[i], WGS * 4);
        }
        mbar_init_fence();
        tma_prefetch_map(&mq);
        tma_prefetch_map(&mk);
        tma_prefetch_map(&mv);
        tma_prefetch_map(&mo);
    }
    __syncthreads();
    if (wg == 0) {
        registers_shrink<S::producer_regs>();
        if (threadIdx.x < 32 * S::teams)
            produce<D, WGS, KEYS, SKIP, TILE>(p, &mq, &mk, &mv, q, k, v, bar, shared_work, team);
    } else {
        registers_grow<S::consumer_regs>();
        consumer<D, WGS, KEYS, SKIP, TURNS, TILE> c = {
            p, &mo, q, k, v, o, bar, (wg - 1) % WGS, team * 6};
        c.run(shared_work);
    }
}

template <int D, int WGS, keys KEYS, bool SKIP, bool TURNS, int TILE>
enum status launch(const struct attn_args *a, void *ws, cudaStream_t stream)
{
    using S = shape<D, WGS, KEYS, SKIP, TILE>;
    CUtensorMap q, k, v, o;
    int n_kv = attn_n_kv(a), box = KEYS == KEYS_64 ? 64 : TILE,
        box_panels = KEYS == KEYS_64 ? 1 : S::panels;
    TRY(map_tensor(&q, "q", a->q, D, a->n_q, a->n_heads, a->q_row, a->q_head, S::rows, S::panels));
    TRY(map_tensor(&k, "k", a->k, D, n_kv, a->n_kv_heads, a->k_row, a->k_head, box, box_panels));
    TRY(map_tensor(&v, "v", a->v, D, n_kv, a->n_kv_heads, a->v_row, a->v_head, box, box_panels));
    TRY(map_tensor(&o, "o", a->o, D, a->n_q, a->n_heads, a->o_row, a->o_head, WG_ROWS, S::panels));

    params p;
    fill_params<KEYS>(&p, a, S::rows, 4.0 * D * n_kv, ws);

    auto *kernel = attn_kernel<D, WGS, KEYS, SKIP, TURNS, TILE>;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::bytes));
    int device, sms;
    CUDA_TRY(cudaGetDevice(&device));
    CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
    CUDA_TRY(cudaMemsetAsync(ws, 0, sizeof(int), stream));
    int items = p.n_rows * p.n_heads, grid = sms;
    if (items < grid * S::teams) grid = (items + S::teams - 1) / S::teams;
    kernel<<<grid, S::threads, S::bytes, stream>>>(q, k, v, o, p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

const char *refuses_common(const struct attn_args *a)
{
    if (!attn_is_full(a)) return "takes no eight-bit products";
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

size_t workspace(const struct attn_args *a)
{
    (void)a;
    return 64;
}

enum status dense_run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)par;
    cudaStream_t s = (cudaStream_t)stream;
    if (a->head_dim == 128) return launch<128, 2, KEYS_DENSE, false, TURNS_PAY, 128>(a, ws, s);
    return launch<64, D64_DENSE_WGS, KEYS_DENSE, false, TURNS_PAY, 128>(a, ws, s);
}

/* Two teams on every multiprocessor, tiles of 64 keys. Stage 2 decides on whole key blocks, so with
 * blocks of 128 keys it would span two tiles. */
const char *teams_refuses(const struct attn_args *a)
{
    const char *why = sparse_refuses(a);
    if (why != NULL) return why;
    if (a->head_dim != 64) return "head_dim is not 64";
    if (a->pv_threshold != NULL && a->block.k != 64) return "stage 2 with blocks of 128 keys";
    return NULL;
}

enum status teams_run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)par;
    cudaStream_t s = (cudaStream_t)stream;
    if (a->block.k == 128) return launch<64, 2, KEYS_128, false, TURNS_PAY, 64>(a, ws, s);
    if (a->pv_threshold != NULL) return launch<64, 2, KEYS_64, true, TURNS_PAY, 64>(a, ws, s);
    return launch<64, 2, KEYS_64, false, TURNS_PAY, 64>(a, ws, s);
}

/* Two teams are the faster (docs/speed/attention.md) as long as each gets several items: an item
 * takes a team twice as long. */
bool teams_pay(const struct attn_args *a)
{
    constexpr int EACH = 3;
    int device, sms;
    if (teams_refuses(a) != NULL || cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
        return false;
    return (a->n_q + 127) / 128 * a->n_heads >= 2 * EACH * sms;
}

template <int D> enum status sparse_run_dim(const struct attn_args *a, void *ws, cudaStream_t s)
{
    bool k64 = a->tiles->block.k == 64, skip = a->pv_threshold != NULL;
    if (k64 && skip) return launch<D, 2, KEYS_64, true, TURNS_PAY, 128>(a, ws, s);
    if (k64) return launch<D, 2, KEYS_64, false, TURNS_PAY, 128>(a, ws, s);
    if (skip) return launch<D, 2, KEYS_128, true, TURNS_PAY, 128>(a, ws, s);
    return launch<D, 2, KEYS_128, false, TURNS_PAY, 128>(a, ws, s);
}

enum status sparse_run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)par;
    if (a->head_dim == 128) return sparse_run_dim<128>(a, ws, (cudaStream_t)stream);
    if (teams_pay(a)) return teams_run(a, ws, par, stream);
    return sparse_run_dim<64>(a, ws, (cudaStream_t)stream);
}

} // namespace

extern "C" {
const struct attn_impl attn_dense_sm90_bf16 = {
    "attn_dense_sm90_bf16", dense_refuses, workspace, dense_run};
const struct attn_impl attn_sparse_sm90_bf16 = {
    "attn_sparse_sm90_bf16", sparse_refuses, workspace, sparse_run};
const struct attn_impl attn_sparse_teams_sm90_bf16 = {
    "attn_sparse_teams_sm90_bf16", teams_refuses, workspace, teams_run};
}

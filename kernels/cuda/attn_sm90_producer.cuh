/* The producer of attn_sm90.cu: who takes which item, which tiles it has, and how they reach shared
 * memory.
 *
 * One warp per CTA. It reads the tile bits, issues the copies and tells the consumers no more than
 * how many tiles come and from which one on the triangle matters. It also holds the shapes and
 * barriers both sides agree on.
 */
#ifndef SG_KERNELS_CUDA_ATTN_SM90_PRODUCER_CUH
#define SG_KERNELS_CUDA_ATTN_SM90_PRODUCER_CUH

extern "C" {
#include "kernels/attn.h"
}
#include "kernels/cuda/sm90.cuh"

namespace attn_sm90
{

using namespace sm90;

enum { WG_ROWS = 64, WG_THREADS = 128, PANEL = 64, PANEL_BYTES = 128, Q_STAGES = 2 };
enum keys { KEYS_DENSE, KEYS_128, KEYS_64 };

struct params {
    int n_q, q_start, n_kv, n_heads, group; /* group: query heads per kv head */
    /* query blocks of this call; absolute first row of the first */
    int n_rows, first_row;
    /* heads walked side by side so that their K and V stay in L2 */
    int heads_together;
    float scale_log2;
    int count_q, count_k; /* block shape the ledger counts in */
    int words_per_row, n_map_rows;
    const uint64_t *bits;
    const uint8_t *head_sparse;
    const float *pv_threshold;
    struct head_ledger *ledger;
    int *next_item;
};

/* One team of a producer warp and WGS consumer warpgroups per multiprocessor. With tiles of 64 keys
 * two, in one CTA, which share nothing but the counter: consumers then need so few registers that
 * four warpgroups fit. */
template <int D, int WGS, keys KEYS, bool SKIP, int TILE> struct shape {
    static constexpr int rows = WGS * WG_ROWS;
    static constexpr int panels = D / PANEL;
    static constexpr bool small = TILE == 64;
    static constexpr int teams = small ? 2 : 1;
    static constexpr int stages = D == 128 ? 2 : 4;
    static constexpr int q_bytes = rows * D * 2;
    static constexpr int kv_bytes = TILE * D * 2;
    static constexpr int team_bytes = (Q_STAGES + 1) * q_bytes + 2 * stages * kv_bytes;
    static constexpr int bytes = 1024 + teams * (team_bytes + 256);
    static constexpr int threads = (teams * WGS + 1) * WG_THREADS;
    /* 64 K registers: what the producer gives back, the consumers share. */
    static constexpr int producer_regs = small ? 32 : WGS == 3 ? 32 : 40;
    static constexpr int consumer_regs = small ? 112 : WGS == 3 ? 160 : 232;
};

struct work {
    int row0; /* absolute first row; -1: no more */
    int head;
    int tiles;
    int clear; /* the first `clear` tiles need no triangle */
    int edge;  /* absolute first key of the tile after those */
    int half;  /* the second half of tile 0 holds nothing */
};

template <int STAGES> struct barriers {
    uint64_t q_full[Q_STAGES], q_empty[Q_STAGES], k_full[STAGES], k_empty[STAGES], v_full[STAGES],
        v_empty[STAGES];
};

/* The t-th item, longest rows first: head and query block. */
inline __device__ int item_head(const params &p, int t, int *block)
{
    int chunk = p.heads_together * p.n_rows;
    int first = t / chunk * p.heads_together, heads = min(p.heads_together, p.n_heads - first);
    int r = t % chunk;
    *block = p.n_rows - 1 - r / heads;
    return first + r % heads;
}

inline __device__ void count(uint64_t *counter, int by)
{
    if (by) atomicAdd((unsigned long long *)counter, (unsigned long long)by);
}

/* Key blocks (of `k` keys) that rows up to min(last, n_kv - 1) may see. */
inline __device__ int blocks_seen(const params &p, int last, int k)
{
    return min(last, p.n_kv - 1) / k + 1;
}

/* Everything one item adds to its head's ledger, unless P·V is skipped, which the consumers count.
 */
inline __device__ void count_item(
    const params &p, int head, int row0, int rows, int tiles_kept, bool sparse, bool skip)
{
    struct head_ledger *l = &p.ledger[head];
    int possible = 0, units = 0, units_done = 0;
    int from = max(row0, p.q_start), to = min(row0 + rows, p.n_kv);
    /* A tile row belongs to the item its first row of this call lies in. */
    for (int i = from / p.count_q; i * p.count_q < to; i++)
        if (max(i * p.count_q, p.q_start) >= from)
            possible += blocks_seen(p, (i + 1) * p.count_q - 1, p.count_k);
    for (int u = from / PV_UNIT_ROWS * PV_UNIT_ROWS; u < to; u += PV_UNIT_ROWS) {
        if (max(u, p.q_start) < from) continue;
        int seen = blocks_seen(p, u + PV_UNIT_ROWS - 1, p.count_k);
        units += seen;
        units_done +=
            sparse ? tiles_kept - (blocks_seen(p, row0 + rows - 1, p.count_k) - seen) : seen;
    }
    count(&l->tiles_possible, possible);
    count(&l->tiles_computed, sparse ? tiles_kept : possible);
    count(&l->pv_units_possible, units);
    if (!skip) count(&l->pv_units_computed, units_done);
}

/* The kept key blocks of one row of the map below `end`, in increasing order. A whole warp walks
 * together, each lane holding one word of 64 blocks; rows of more than 2048 blocks are read again
 * every 32 words. */
struct walk {
    const uint64_t *row;
    uint64_t mine, word;
    int at, end;

    __device__ uint64_t fetch(int i) const
    {
        if (i * 64 >= end) return 0;
        uint64_t w = __ldg((const unsigned long long *)row + i);
        int left = end - i * 64;
        return left < 64 ? w & ((1ull << left) - 1) : w;
    }
    /* Returns how many there are. */
    __device__ int open(const uint64_t *bits, int stop)
    {
        int lane = threadIdx.x % 32, kept = 0;
        row = bits, end = stop, at = 0;
        mine = fetch(lane);
        kept = __popcll(mine);
        for (int i = lane + 32; i * 64 < end; i += 32) kept += __popcll(fetch(i));
        word = __shfl_sync(0xffffffffu, mine, 0);
        return __reduce_add_sync(0xffffffffu, kept);
    }
    /* The caller knows that there is one. */
    __device__ int next()
    {
        while (word == 0) {
            at++;
            if (at % 32 == 0) mine = fetch(at + threadIdx.x % 32);
            word = __shfl_sync(0xffffffffu, mine, at % 32);
        }
        int j = at * 64 + __ffsll((long long)word) - 1;
        word &= word - 1;
        return j;
    }
};

/* Fill the next stage of K or V with the 64-key blocks a and b (b = a + 1 unless blocks are 64
 * keys). */
template <typename S, keys KEYS, int TILE>
__device__ __forceinline__ void load_tile(uint8_t *stages, const CUtensorMap *map, uint64_t *full,
    uint64_t *empty, uint32_t n, int a, int b, int kv_head)
{
    uint32_t stage = n % S::stages;
    mbar_wait(&empty[stage], (n / S::stages & 1) ^ 1);
    if (threadIdx.x % 32 != 0) return;
    uint8_t *to = stages + stage * S::kv_bytes;
    uint64_t *bar = &full[stage];
    mbar_expect(bar, S::kv_bytes);
    if constexpr (KEYS != KEYS_64 || S::small) {
        tma_load(to, map, bar, 0, a * 64, 0, kv_head);
    } else {
#pragma unroll
        for (int c = 0; c < S::panels; c++) {
            uint8_t *panel = to + c * TILE * PANEL_BYTES;
            tma_load(panel, map, bar, 0, a * 64, c, kv_head);
            tma_load(panel + 64 * PANEL_BYTES, map, bar, 0, b * 64, c, kv_head);
        }
    }
}

/* The producer warp. All lanes walk together; the first one talks to the copy engine. */
template <int D, int WGS, keys KEYS, bool SKIP, int TILE>
__device__ void produce(const params &p, const CUtensorMap *mq, const CUtensorMap *mk,
    const CUtensorMap *mv, uint8_t *q, uint8_t *k, uint8_t *v,
    barriers<shape<D, WGS, KEYS, SKIP, TILE>::stages> *bar, work *out, int team)
{
    using S = shape<D, WGS, KEYS, SKIP, TILE>;
    const bool leader = threadIdx.x % 32 == 0;
    const int n_items = p.n_rows * p.n_heads;
    uint32_t nk = 0, nv = 0, nq = 0;
    int item = blockIdx.x * S::teams + team;

    for (;; nq++) {
        uint32_t slot = nq % Q_STAGES;
        if (item >= n_items) {
            mbar_wait(&bar->q_empty[slot], (nq / Q_STAGES & 1) ^ 1);
            if (leader) {
                out[slot].row0 = -1;
                mbar_arrive(&bar->q_full[slot]);
            }
            return;
        }
        int following = 0, block;
        if (leader) following = (int)gridDim.x * S::teams + atomicAdd(p.next_item, 1);
        int head = item_head(p, item, &block), kv_head = head / p.group;
        int row0 = p.first_row + block * S::rows;
        work w = {row0, head, blocks_seen(p, row0 + S::rows - 1, TILE), (row0 + 1) / TILE, 0, 0};
        w.edge = w.clear * TILE;
        bool sparse = KEYS != KEYS_DENSE && (p.head_sparse == NULL || p.head_sparse[head]);
        walk list;
        int kept = 0; /* key blocks in blocks of the map; none for a dense head */
        if (sparse) {
            const uint64_t *row =
                p.bits + ((size_t)head * (size_t)p.n_map_rows + (size_t)block) * p.words_per_row;
            /* What begins at the diagonal makes the last tile and is not walked. */
            int diagonal = KEYS == KEYS_64 ? row0 / 64 : row0 / 128;
            kept = list.open(row, diagonal);
            w.half = !S::small && KEYS == KEYS_64 && kept % 2 == 1;
            if (S::small) {
                w.clear = KEYS == KEYS_64 ? kept : 2 * kept;
                w.tiles = w.clear + blocks_seen(p, row0 + S::rows - 1, 64) - row0 / 64;
            } else {
                w.clear = KEYS == KEYS_64 ? (kept + 1) / 2 : kept;
                w.tiles = w.clear + 1;
            }
            w.edge = row0;
            kept += blocks_seen(p, row0 + S::rows - 1, p.count_k) - diagonal;
        }
        mbar_wait(&bar->q_empty[slot], (nq / Q_STAGES & 1) ^ 1);
        if (leader) {
            out[slot] = w;
            mbar_expect(&bar->q_full[slot], S::q_bytes);
            tma_load(q + slot * S::q_bytes, mq, &bar->q_full[slot], 0, row0 - p.q_start, 0, head);
        }
        int a = 0, b = 0;
        for (int j = 0; j <= w.tiles; j++) { /* K runs one tile ahead of V, as the consumers do */
            int va = a, vb = b;
            if (j < w.tiles) {
                if constexpr (S::small) {
                    if (!sparse) a = j;
                    else if (j >= w.clear) a = row0 / 64 + j - w.clear;
                    else if (KEYS == KEYS_64) a = list.next();
                    else a = j % 2 ? a + 1 : 2 * list.next();
                } else if (!sparse) {
                    a = 2 * j;
                } else if (j == w.tiles - 1) {
                    a = row0 / 64;
                } else {
                    a = KEYS == KEYS_64 ? list.next() : 2 * list.next();
                }
                b = a + 1;
                if (!S::small && KEYS == KEYS_64 && sparse && j < w.tiles - 1)
                    b = w.half && j == 0 ? a : list.next();
                load_tile<S, KEYS, TILE>(k, mk, bar->k_full, bar->k_empty, nk++, a, b, kv_head);
            }
            if (j > 0)
                load_tile<S, KEYS, TILE>(v, mv, bar->v_full, bar->v_empty, nv++, va, vb, kv_head);
        }
        if (leader && p.ledger != NULL) count_item(p, head, row0, S::rows, kept, kept > 0, SKIP);
        item = __shfl_sync(0xffffffffu, following, 0);
    }
}

} // namespace attn_sm90

#endif

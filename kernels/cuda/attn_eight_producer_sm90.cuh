/* The producer of attn_eight_sm90.cu: the walk of attn_sm90_producer.cuh over blocks that
 * quantise_cuda has laid out, with each tile's scales beside it. Tiles are 128 keys: two kept
 * blocks of 64, or one of 128.
 */
#ifndef SG_KERNELS_CUDA_ATTN_EIGHT_PRODUCER_SM90_CUH
#define SG_KERNELS_CUDA_ATTN_EIGHT_PRODUCER_SM90_CUH

#include "kernels/cuda/attn_sm90_producer.cuh"
#include "kernels/cuda/eight_cuda.cuh"
#include "kernels/cuda/wgmma8_sm90.cuh"

namespace attn_eight
{

using namespace attn_sm90;
using eight::pack_e4m3;

enum { WGS = 2, TILE = 128, STAGES = 4 };

struct params8 {
    params base;
    const uint8_t *q, *k, *v;
    const float *q_scale, *k_scale, *v_exponent;
    int n_units, n_blocks;
};

template <int D> struct shape8 {
    static constexpr int rows = WGS * WG_ROWS;
    static constexpr int block_bytes = EIGHT_ROWS * D;
    static constexpr int q_bytes = 2 * block_bytes, kv_bytes = 2 * block_bytes,
                         o_bytes = rows * D * 2;
    static constexpr int bytes = 1024 + Q_STAGES * q_bytes + 2 * STAGES * kv_bytes + o_bytes + 512;
    static constexpr int threads = (WGS + 1) * WG_THREADS;
    /* With head_dim 128 the last eight registers of a consumer are worth a tenth of the speed
     * (measured). */
    static constexpr int producer_regs = D == 128 ? 24 : 40, consumer_regs = D == 128 ? 240 : 232;
};

struct work8 {
    work w;
    float q_scale[WGS];
};

/* What both sides share beside the tiles. */
struct board {
    barriers<STAGES> bar;
    float4 scales[STAGES]; /* of a K tile: of its two blocks, and the exponents of V's two */
    work8 work[Q_STAGES];
};

/* The first lane fills the n-th stage with blocks a and b of all heads, which follow each other
 * unless APART. */
template <int D, bool APART>
__device__ __forceinline__ void load_tile8(
    uint8_t *stages, const uint8_t *from, uint64_t *full, uint32_t n, int a, int b)
{
    using S = shape8<D>;
    uint8_t *to = stages + n % STAGES * S::kv_bytes;
    uint64_t *bar = &full[n % STAGES];
    mbar_expect(bar, S::kv_bytes);
    if (!APART) {
        bulk_load(to, from + (size_t)a * S::block_bytes, S::kv_bytes, bar);
    } else {
        bulk_load(to, from + (size_t)a * S::block_bytes, S::block_bytes, bar);
        bulk_load(to + S::block_bytes, from + (size_t)b * S::block_bytes, S::block_bytes, bar);
    }
}

/* The producer warp. */
template <int D, keys KEYS, bool SKIP>
__device__ void produce8(const params8 &x, uint8_t *q, uint8_t *k, uint8_t *v, board *shared)
{
    using S = shape8<D>;
    const params &p = x.base;
    barriers<STAGES> *bar = &shared->bar;
    const bool leader = threadIdx.x % 32 == 0;
    const int n_items = p.n_rows * p.n_heads;
    uint32_t nk = 0, nq = 0;
    int item = blockIdx.x;

    for (;; nq++) {
        uint32_t slot = nq % Q_STAGES;
        if (item >= n_items) {
            mbar_wait(&bar->q_empty[slot], (nq / Q_STAGES & 1) ^ 1);
            if (leader) {
                shared->work[slot].w.row0 = -1;
                mbar_arrive(&bar->q_full[slot]);
            }
            return;
        }
        int following = 0, block;
        if (leader) following = (int)gridDim.x + atomicAdd(p.next_item, 1);
        int head = item_head(p, item, &block), kv_head = head / p.group;
        int row0 = p.first_row + block * S::rows;
        work8 w = {{row0, head, blocks_seen(p, row0 + S::rows - 1, TILE), (row0 + 1) / TILE, 0, 0},
            {0, 0}};
        w.w.edge = w.w.clear * TILE;
        int unit = head * x.n_units + block * WGS;
        w.q_scale[0] = __ldg(x.q_scale + unit), w.q_scale[1] = __ldg(x.q_scale + unit + 1);
        bool sparse = KEYS != KEYS_DENSE && (p.head_sparse == NULL || p.head_sparse[head]);
        walk list;
        int kept = 0;
        if (sparse) {
            const uint64_t *row =
                p.bits + ((size_t)head * (size_t)p.n_map_rows + (size_t)block) * p.words_per_row;
            /* What begins at the diagonal makes the last tile and is not walked. */
            int diagonal = KEYS == KEYS_64 ? row0 / 64 : row0 / 128;
            kept = list.open(row, diagonal);
            w.w.half = KEYS == KEYS_64 && kept % 2 == 1;
            w.w.clear = KEYS == KEYS_64 ? (kept + 1) / 2 : kept;
            w.w.tiles = w.w.clear + 1;
            w.w.edge = row0;
            kept += blocks_seen(p, row0 + S::rows - 1, p.count_k) - diagonal;
        }
        mbar_wait(&bar->q_empty[slot], (nq / Q_STAGES & 1) ^ 1);
        if (leader) {
            shared->work[slot] = w;
            mbar_expect(&bar->q_full[slot], S::q_bytes);
            bulk_load(q + slot * S::q_bytes, x.q + (size_t)unit * S::block_bytes, S::q_bytes,
                &bar->q_full[slot]);
        }
        /* Blocks are counted over all kv heads from here on. */
        const int base = kv_head * x.n_blocks;
        int a = 0, b = 0;
        for (int j = 0; j <= w.w.tiles; j++) { /* K runs one tile ahead of V */
            int va = a, vb = b;
            if (j < w.w.tiles) {
                if (!sparse) a = 2 * j;
                else if (j == w.w.tiles - 1) a = row0 / 64;
                else a = KEYS == KEYS_64 ? list.next() : 2 * list.next();
                a += base;
                b = a + 1;
                if (KEYS == KEYS_64 && sparse && j < w.w.tiles - 1)
                    b = w.w.half && j == 0 ? a : base + list.next();
                mbar_wait(&bar->k_empty[nk % STAGES], (nk / STAGES & 1) ^ 1);
                if (leader) {
                    shared->scales[nk % STAGES] = make_float4(__ldg(x.k_scale + a),
                        __ldg(x.k_scale + b), __ldg(x.v_exponent + a), __ldg(x.v_exponent + b));
                    load_tile8<D, KEYS == KEYS_64>(k, x.k, bar->k_full, nk, a, b);
                }
            }
            if (j > 0) {
                uint32_t nv = nk - 1;
                mbar_wait(&bar->v_empty[nv % STAGES], (nv / STAGES & 1) ^ 1);
                if (leader) load_tile8<D, KEYS == KEYS_64>(v, x.v, bar->v_full, nv, va, vb);
            }
            nk += j < w.w.tiles;
        }
        if (leader && p.ledger != NULL) count_item(p, head, row0, S::rows, kept, kept > 0, SKIP);
        item = __shfl_sync(0xffffffffu, following, 0);
    }
}

} // namespace attn_eight

#endif

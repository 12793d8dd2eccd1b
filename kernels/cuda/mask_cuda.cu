/* Stage 1 of sparse attention on the device (METHOD 2): methods whose predictors have a device
 * body, and that of sparge, in three launches that overlap.
 *
 * Sums of key blocks; then their self-similarity, which needs the sums of all earlier keys for its
 * centre; then the rows of the map, a few query blocks of one kv head to a CTA, which first pools
 * those query blocks. Each launch begins while the one before it runs and waits for its results
 * only when it needs them, so pooling queries, the bulk of the traffic, runs beside all that is
 * done for keys.
 */
extern "C" {
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/chain_cuda.cuh"
#include "kernels/cuda/mask_rows_cuda.cuh"
#include "kernels/cuda/rank_cuda.cuh"

namespace
{

using namespace mask_cuda;
using pool::both;
using pool::HELD;
using pool::UNIT_ROWS;

enum {
    THREADS = 256, /* of the kernels for keys: each warp takes a unit of keys at a time */
    WARPS = THREADS / 32,
    ROUND = WARPS * UNIT_ROWS, /* keys */
    ROWS = 8,
    QUERIES_AHEAD = 4,
    SHORT = 16384, /* keys */
    MAX_CHUNKS = 128,
    MAX_KBLOCKS = 4096
};

struct layout plan(const struct attn_args *a)
{
    struct layout p = {};
    int n_kv = attn_n_kv(a), n_rounds = (n_kv + ROUND - 1) / ROUND;
    p.d = a->head_dim;
    p.n_qblocks = (a->n_q + a->block.q - 1) / a->block.q;
    p.n_kblocks = (n_kv + a->block.k - 1) / a->block.k;
    /* a centre is summed from the chunks before it, so their number must stay small */
    p.rounds = 1;
    while (p.rounds * MAX_CHUNKS < n_rounds) p.rounds *= 2;
    p.n_chunks = (n_rounds + p.rounds - 1) / p.rounds;
    p.k_pad = p.n_chunks * p.rounds * ROUND / a->block.k;
    size_t kv = (size_t)a->n_kv_heads, d = (size_t)p.d, end = 0;
    auto take = [&end](size_t floats) {
        size_t start = end;
        end += (floats * sizeof(float) + 63) / 64 * 64;
        return start;
    };
    p.k_sums = take(kv * d * (size_t)p.k_pad);
    /* more keys never need less room: where chunks grow to two rounds their number falls */
    p.chunk_sums = take(kv * (size_t)(p.rounds > 1 ? (int)MAX_CHUNKS : p.n_chunks) * d);
    p.k_sim = take(kv * (size_t)p.k_pad);
    p.bytes = end;
    return p;
}

/* Room in shared memory of the kernels for keys: rows under way, and a row of d for each warp,
 * twice. */
constexpr int KEYS_AHEAD = 8, KEYS_ROOM = WARPS * KEYS_AHEAD * 64 * 16;

/* Sums of the key blocks of one chunk, and of the chunk. */
template <int LANES>
__global__ __launch_bounds__(THREADS, 2) void sum_keys(const __grid_constant__ params p)
{
    using L = pool::lanes<LANES>;
    using ahead = pool::rows_ahead<LANES, KEYS_AHEAD>;
    extern __shared__ __align__(16) float shared[];
    let_next_begin();
    const int chunk = blockIdx.x, kv = blockIdx.y, warp = threadIdx.x / 32, d = p.at.d,
              per = p.block_k / UNIT_ROWS;
    uint4 *room = (uint4 *)shared + warp * ahead::VECTORS;
    float *units = shared + KEYS_ROOM / 4; /* [WARPS, d] */
    float *sums = p.k_sums + (size_t)kv * d * p.at.k_pad;
    float total = 0; /* head_dim is at most THREADS */
    for (int round = 0; round < p.at.rounds; round++) {
        const int first = (chunk * p.at.rounds + round) * WARPS, key = (first + warp) * UNIT_ROWS;
        if (first * UNIT_ROWS >= p.n_kv) break;
        const int n = min((int)UNIT_ROWS, p.n_kv - key);
        ahead rows(room, p.k + kv * p.k_head + (ptrdiff_t)key * p.k_row, p.k_row, n, d);
        both x;
        x.clear();
#pragma unroll 1
        for (int step = 0; step * L::AT_ONCE < n; step++) {
            uint4 lo, hi;
            float e[HELD];
            rows.take(lo, hi);
            L::widen(lo, hi, e);
            L::template add<true, false>(e, true, x);
            rows.fetch();
        }
        L::template gather<true, false>(x);
        if (L::row() == 0) L::put(x.sum, units + warp * d, d);
        __syncthreads();
        const int e = threadIdx.x;
        if (e < d) {
            float block[WARPS];
#pragma unroll
            for (int u = 0; u < WARPS; u++) block[u] = units[u * d + e];
            float4 *to = (float4 *)(sums + (size_t)e * p.at.k_pad + first / per);
            if (per == 2) {
                float4 four = make_float4(block[0] + block[1], block[2] + block[3],
                    block[4] + block[5], block[6] + block[7]);
                to[0] = four, total += (four.x + four.y) + (four.z + four.w);
            } else {
                to[0] = make_float4(block[0], block[1], block[2], block[3]);
                to[1] = make_float4(block[4], block[5], block[6], block[7]);
                for (int u = 0; u < WARPS; u++) total += block[u];
            }
        }
        __syncthreads();
    }
    if ((int)threadIdx.x < d)
        p.chunk_sums[((size_t)kv * p.at.n_chunks + chunk) * d + threadIdx.x] = total;
}

/* Self-similarity of the key blocks of one chunk about their centres. */
template <int LANES>
__global__ __launch_bounds__(THREADS, 2) void compare_keys(const __grid_constant__ params p)
{
    using L = pool::lanes<LANES>;
    using ahead = pool::rows_ahead<LANES, KEYS_AHEAD>;
    extern __shared__ __align__(16) float shared[];
    let_next_begin();
    const int chunk = blockIdx.x, kv = blockIdx.y, warp = threadIdx.x / 32, d = p.at.d,
              per = p.block_k / UNIT_ROWS;
    uint4 *room = (uint4 *)shared + warp * ahead::VECTORS;
    float *parts = shared + KEYS_ROOM / 4, *centres = parts + WARPS * d; /* [WARPS, d] each */
    const __nv_bfloat16 *keys = p.k + kv * p.k_head;
    const float *chunks = p.chunk_sums + (size_t)kv * p.at.n_chunks * d;
    const float *sums = p.k_sums + (size_t)kv * d * p.at.k_pad;
    const int others = p.smooth == SMOOTH_K_RUNNING ? chunk
        : p.smooth == SMOOTH_K_GLOBAL               ? p.at.n_chunks
                                                    : 0;
    const int takers = min((int)WARPS, max(THREADS / d, 1)), e = threadIdx.x;
    float before = 0; /* of this thread's dimension: the sum of all keys before the round */
    for (int round = 0; round < p.at.rounds; round++) {
        const int first = (chunk * p.at.rounds + round) * WARPS, unit = first + warp;
        const int n = min((int)UNIT_ROWS, p.n_kv - unit * UNIT_ROWS);
        if (first * UNIT_ROWS >= p.n_kv) break;
        /* sent for before there is a centre */
        ahead rows(room, keys + (ptrdiff_t)unit * UNIT_ROWS * p.k_row, p.k_row, n, d);
        if (round == 0) {
            wait_for_earlier();
            /* Threads to spare take every n-th chunk each, so that a long list is not one chain of
             * loads. */
            for (int i = e; i < takers * d; i += THREADS) {
                float part = 0;
#pragma unroll 8
                for (int x = i / d; x < others; x += takers)
                    part += __ldcg(chunks + (size_t)x * d + i % d);
                parts[i] = part;
            }
            __syncthreads();
            if (e < d)
                for (int x = 0; x < takers; x++) before += parts[x * d + e];
        }
        if (e < d) {
            const float4 *from = (const float4 *)(sums + (size_t)e * p.at.k_pad + first / per);
            const float4 lo = __ldcg(from), hi = per == 1 ? __ldcg(from + 1) : lo;
            const float blocks[WARPS] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
            for (int b = 0; b < WARPS; b++) {
                if (b * per >= WARPS) break;
                float centre = 0;
                if (p.smooth == SMOOTH_K_RUNNING) {
                    before += blocks[b];
                    centre = before / (float)min((first / per + b + 1) * p.block_k, p.n_kv);
                } else if (p.smooth == SMOOTH_K_GLOBAL) {
                    centre = before / (float)p.n_kv;
                }
                centres[b * d + e] = centre;
            }
        }
        __syncthreads();
        float centre[HELD];
        L::get(centre, centres + warp / per * d, d);
        both x;
        x.clear();
#pragma unroll 1
        for (int step = 0; step * L::AT_ONCE < n; step++) {
            uint4 lo, hi;
            float k[HELD];
            rows.take(lo, hi);
            L::widen(lo, hi, k);
#pragma unroll
            for (int i = 0; i < HELD; i++) k[i] -= centre[i];
            L::template add<false, true>(k, step * L::AT_ONCE + L::row() < n, x);
            rows.fetch();
        }
        L::template gather<false, true>(x);
        if (per == 2 && warp % 2 == 1 && L::row() == 0) L::put(x.unit, parts + warp * d, d);
        __syncthreads();
        if (warp % per == 0 && n > 0) {
            if (per == 2) {
                both other;
                L::get(other.unit, parts + (warp + 1) * d, d);
#pragma unroll
                for (int i = 0; i < HELD; i++) x.unit[i] += other.unit[i];
            }
            float sim = L::similarity(x, min(p.block_k, p.n_kv - unit * UNIT_ROWS));
            if (threadIdx.x % 32 == 0) p.k_sim[(size_t)kv * p.at.k_pad + unit / per] = sim;
        }
    }
}

/* ROWS rows of the map, one to a warp: query blocks of the heads of one kv head, so that a sum of
 * keys that is read serves them all. */
template <int LANES, int CTAS>
__global__ __launch_bounds__(ROWS * 32, CTAS) void write_rows(const __grid_constant__ params p)
{
    using L = pool::lanes<LANES>;
    using ahead = pool::rows_ahead<LANES, QUERIES_AHEAD>;
    extern __shared__ __align__(16) float shared[];
    const int warp = threadIdx.x / 32, d = p.at.d;
    const int heads = min(p.group, (int)ROWS), sets = (p.group + heads - 1) / heads,
              blocks = ROWS / heads;
    const int across = sets * p.n_kv_heads, kv = blockIdx.x % p.n_kv_heads;
    /* longest rows first */
    const int block0 = ((int)(gridDim.x / across) - 1 - (int)blockIdx.x / across) * blocks;
    const int of_group = (int)blockIdx.x / p.n_kv_heads % sets * heads + warp % heads;
    const int block = block0 + warp / heads, head = kv * p.group + of_group;
    const bool real = warp < heads * blocks && of_group < p.group && block < p.at.n_qblocks;
    float *q = shared, *list = q + ROWS * d + warp * FEW, *k_sim = q + ROWS * (d + FEW),
          *score = k_sim + p.at.k_pad;
    struct head_params t = {};
    if (real) t = p.heads[head];
    const bool mine = real && t.part == p.part;
    const int rows = mine && t.is_sparse ? min(p.block_q, p.n_q - block * p.block_q) : 0;

    /* Rows on their way, and a first unit that waits for the second, take the room for scores. */
    float *held = score + warp * 2 * d;
    ahead source((uint4 *)(score + ROWS * 2 * d) + warp * ahead::VECTORS,
        p.q + head * p.q_head + (ptrdiff_t)block * p.block_q * p.q_row, p.q_row, rows, d);
    both x;
    x.clear();
#pragma unroll 1
    for (int step = 0; step * L::AT_ONCE < rows; step++) {
        if (step == L::STEPS) {
            L::template gather<true, true>(x);
            if (L::row() == 0) L::put(x.sum, held, d), L::put(x.unit, held + d, d);
            x.clear();
        }
        uint4 lo, hi;
        float e[HELD];
        source.take(lo, hi);
        L::widen(lo, hi, e);
        L::template add<true, true>(e, step * L::AT_ONCE + L::row() < rows, x);
        source.fetch();
    }
    L::template gather<true, true>(x);
    if (rows > UNIT_ROWS) {
        __syncwarp();
        both first;
        L::get(first.sum, held, d), L::get(first.unit, held + d, d);
#pragma unroll
        for (int i = 0; i < HELD; i++)
            x.sum[i] = first.sum[i] + x.sum[i], x.unit[i] = first.unit[i] + x.unit[i];
    }
    const float q_sim = L::similarity(x, max(rows, 1));
    const int col = L::col();
    if (L::row() == 0 && col < d / 2)
#pragma unroll
        for (int i = 0; i < HELD; i++)
            q[(col + i % 8 + i / 8 * (d / 2)) * ROWS + warp] =
                x.sum[i] / (float)max(rows, 1) * p.scale;

    wait_for_earlier();
    __syncthreads();
    const int end = min(block0 + blocks, p.at.n_qblocks);
    const int n = (min(p.q_start + end * p.block_q, p.n_kv) - 1) / p.block_k + 1;
    const sharing share(n, ROWS);
    for (int j = threadIdx.x; j < n; j += ROWS * 32)
        k_sim[j] = __ldcg(p.k_sim + (size_t)kv * p.at.k_pad + j);
    score_rows<ROWS, 4>(p, kv, share, q, score);
    __syncthreads();
    if (!mine) return;
    const int seen = (min(p.q_start + (block + 1) * p.block_q, p.n_kv) - 1) / p.block_k + 1;
    write_row(p, head, block, seen, t, q_sim, k_sim, score + warp * share.pitch, share.slices,
        ROWS * share.pitch, list);
}

template <int LANES, int CTAS> enum status launch_rows(const params &p, cudaStream_t stream)
{
    const size_t d = (size_t)p.at.d, strips = (size_t)(p.at.n_kblocks + STRIP - 1) / STRIP;
    const size_t pooling = ROWS * (2 * d + pool::rows_ahead<LANES, QUERIES_AHEAD>::VECTORS * 4);
    const size_t scores = ROWS * STRIP * (strips > ROWS ? strips : (size_t)ROWS);
    const size_t floats =
        ROWS * (d + FEW) + (size_t)p.at.k_pad + (pooling > scores ? pooling : scores);
    int heads = p.group < ROWS ? p.group : ROWS, sets = (p.group + heads - 1) / heads,
        blocks = ROWS / heads;
    int tasks = (p.at.n_qblocks + blocks - 1) / blocks * sets * p.n_kv_heads;
    return chain_launch(write_rows<LANES, CTAS>, dim3((unsigned)tasks), ROWS * 32,
        floats * sizeof(float), p, true, stream);
}

template <int LANES> enum status run(const params &p, cudaStream_t stream)
{
    dim3 keys((unsigned)p.at.n_chunks, (unsigned)p.n_kv_heads);
    const size_t room = KEYS_ROOM + 2 * WARPS * (size_t)p.at.d * sizeof(float);
    TRY(chain_launch(sum_keys<LANES>, keys, THREADS, room, p, false, stream));
    TRY(chain_launch(compare_keys<LANES>, keys, THREADS, room, p, true, stream));
    /* Short rows are bound by latency and want registers, long ones by work and want warps. */
    if (p.n_kv <= SHORT) return launch_rows<LANES, 2>(p, stream);
    return launch_rows<LANES, 3>(p, stream);
}

} // namespace

extern "C" {

/* The predictor of a part that has a body here: sparge as it is, bound or oracle. */
static const char *part_refuses(const struct mask_cuda_args *m, const struct mask_method *part)
{
    if (part == &mask_sparge) return NULL;
    if (mask_base(part) == &mask_bound) return bound_cuda_refuses(m, part);
    if (mask_base(part) == &mask_oracle) return rank_cuda_refuses(m, part);
    return "no device body for this predictor or its rule";
}

bool mask_cuda_has_mass(const struct mask_method *part)
{
    return mask_base(part) == &mask_bound || mask_base(part) == &mask_oracle;
}

size_t mask_cuda_mass_workspace(const struct mask_cuda_args *m, const struct mask_method *part)
{
    return mask_base(part) == &mask_bound ? bound_cuda_workspace(m, part) : 0;
}

enum status mask_cuda_mass(const struct mask_cuda_args *m, const struct mask_method *part,
    float *mass, void *ws, struct stream *stream)
{
    const struct mask_args values = {m->attn, NULL, m->smooth_k, 0, 0, part->values};
    if (mask_base(part) == &mask_bound) return bound_cuda_mass(m, part, mass, ws, stream);
    return oracle_cuda_mass(m->attn, mask_oracle_over(&values), mass, stream);
}

static size_t oracle_workspace(const struct attn_args *a)
{
    const size_t nq = (size_t)((a->n_q + a->block.q - 1) / a->block.q),
                 nk = (size_t)((attn_n_kv(a) + a->block.k - 1) / a->block.k);
    return sizeof(float) * (size_t)a->n_heads * nq * nk;
}

static enum status oracle_predict(const struct mask_cuda_args *m, const struct mask_method *part,
    int index, const struct tile_map *tiles, void *ws, struct stream *stream)
{
    struct rank_params r = rank_cuda_params(m, part, index, tiles);
    r.given = (const float *)ws;
    TRY(mask_cuda_mass(m, part, (float *)ws, NULL, stream));
    return rank_cuda_rows(r, (cudaStream_t)stream);
}

static const struct mask_method *method_of(const struct mask_cuda_args *m)
{
    return m->method ? m->method : &mask_sparge;
}
static int n_parts(const struct mask_method *method)
{
    return method->n_parts ? method->n_parts : 1;
}

const char *mask_cuda_refuses(const struct mask_cuda_args *m)
{
    const struct attn_args *a = m->attn;
    if (a->dtype != DTYPE_BF16) return "the CUDA prediction takes bf16";
    if (a->head_dim % 16 != 0 || a->head_dim > 256)
        return "head_dim is not a multiple of 16 up to 256";
    if ((a->block.q != 64 && a->block.q != 128) || (a->block.k != 64 && a->block.k != 128))
        return "blocks are not of 64 or 128 rows and keys";
    if (a->n_q < 1 || a->q_start % a->block.q != 0)
        return "q_start is not a multiple of the query block";
    if (a->n_heads % a->n_kv_heads != 0) return "query heads are not a multiple of kv heads";
    if ((uintptr_t)a->q % 16 != 0 || (uintptr_t)a->k % 16 != 0 || a->q_row % 8 != 0 ||
        a->q_head % 8 != 0 || a->k_row % 8 != 0 || a->k_head % 8 != 0)
        return "pointers and strides are not multiples of 16 bytes";
    if ((attn_n_kv(a) + a->block.k - 1) / a->block.k > MAX_KBLOCKS)
        return "more than 4096 key blocks";
    if (cuda_current_sm() < 80) return "the current device is below compute capability 8.0";
    for (int i = 0; i < n_parts(method_of(m)); i++) {
        const char *why = part_refuses(m, mask_part(method_of(m), i));
        if (why) return why;
    }
    return NULL;
}

/* Parts have rooms of their own, one behind the other: one begins while the last one runs. */
static size_t part_workspace(const struct mask_cuda_args *m, const struct mask_method *part)
{
    size_t bytes = part == &mask_sparge   ? plan(m->attn).bytes
        : mask_base(part) == &mask_oracle ? oracle_workspace(m->attn)
                                          : bound_cuda_workspace(m, part);
    return (bytes + 255) / 256 * 256;
}

size_t mask_cuda_workspace(const struct mask_cuda_args *m)
{
    size_t all = 0;
    for (int i = 0; i < n_parts(method_of(m)); i++)
        all += part_workspace(m, mask_part(method_of(m), i));
    return all;
}

static enum status sparge_predict(const struct mask_cuda_args *m, int part,
    const struct tile_map *tiles, void *ws, struct stream *stream)
{
    const struct attn_args *a = m->attn;
    params p = {};
    p.at = plan(a);
    p.n_q = a->n_q, p.n_kv = attn_n_kv(a), p.q_start = a->q_start;
    p.n_heads = a->n_heads, p.n_kv_heads = a->n_kv_heads, p.group = a->n_heads / a->n_kv_heads;
    p.block_q = a->block.q, p.block_k = a->block.k;
    p.q = (const __nv_bfloat16 *)a->q, p.k = (const __nv_bfloat16 *)a->k;
    p.q_row = a->q_row, p.q_head = a->q_head, p.k_row = a->k_row, p.k_head = a->k_head;
    p.scale = a->scale, p.topk = mask_decimal(m->topk), p.smooth = m->smooth_k, p.part = part;
    p.heads = m->heads, p.ledger = a->ledger;
    p.bits = (uint32_t *)tiles->bits, p.words = tiles->words_per_row * 2;
    p.k_sums = (float *)((char *)ws + p.at.k_sums),
    p.chunk_sums = (float *)((char *)ws + p.at.chunk_sums);
    p.k_sim = (float *)((char *)ws + p.at.k_sim);
    cudaStream_t s = (cudaStream_t)stream;
    if (a->head_dim <= 64) return run<4>(p, s);
    if (a->head_dim <= 128) return run<8>(p, s);
    return run<16>(p, s);
}

enum status mask_cuda_predict(
    const struct mask_cuda_args *m, const struct tile_map *tiles, void *ws, struct stream *stream)
{
    const char *why = mask_cuda_refuses(m);
    if (why != NULL) return fail(ERR_UNSUPPORTED, "mask prediction: %s", why);
    for (int i = 0; i < n_parts(method_of(m)); i++) {
        const struct mask_method *part = mask_part(method_of(m), i);
        TRY(part == &mask_sparge ? sparge_predict(m, i, tiles, ws, stream)
                : mask_base(part) == &mask_oracle
                ? oracle_predict(m, part, i, tiles, ws, stream)
                : bound_cuda_predict(m, part, i, tiles, ws, stream));
        ws = (char *)ws + part_workspace(m, part);
    }
    return OK;
}
}

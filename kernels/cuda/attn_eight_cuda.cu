/* Causal attention with eight-bit products (METHOD 9) for GPUs from compute capability 8.0 up,
 * dense and block-sparse: what runs before Hopper, and on Hopper where attn_eight_sm90.cu refuses.
 *
 * One CTA per 64 query rows and head, four warps of 16 rows, on what quantise_cuda has laid out.
 * int8 scores are products of bytes everywhere. e4m3 is multiplied as it is where the tensor cores
 * know it (8.9 and up); before, its numbers are widened to f16, which holds every one of them, so
 * that only speed differs. Each block of 64 keys has its own unit of P, as METHOD 9 says, and its
 * product is added to the output in fp32. Plain and synchronous: it is here to be right.
 *
 * Source of the fragments: PTX ISA, "Matrix fragments for mma.m16n8k32" and "m16n8k16".
 */
extern "C" {
#include "kernels/attn.h"
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"
#include "kernels/cuda/eight_cuda.cuh"
#include "kernels/cuda/unit_cuda.cuh"

#include <cuda_fp16.h>
#include <math.h>

namespace
{

enum { ROWS = PV_UNIT_ROWS, THREADS = 128, WARP_ROWS = 16, WARP_SCORES = EIGHT_ROWS / 8 };

struct params {
    struct attn_args a;
    const uint64_t *bits;
    int words_per_row, n_map_rows;
    const uint8_t *q, *k, *v;
    const float *q_scale, *k_scale, *v_exponent;
    int n_units, n_blocks;
};

/* The lower two of a word's e4m3 numbers as f16: shifted into place they are 2^-8 of what they
 * were, subnormal ones too. */
__device__ __forceinline__ uint32_t widen(uint32_t word)
{
    const uint32_t spread = __byte_perm(word, 0, 0x1404), size = (spread & 0x7f007f00) >> 1;
    const uint32_t placed = size | (spread & 0x80008000);
    const __half2 wide = __hmul2(*(const __half2 *)&placed, __half2half2(__float2half(256.0f)));
    return *(const uint32_t *)&wide | (__vcmpeq2(size, 0x3f803f80) & 0x7fff7fff); /* NaN */
}

/* A warp's 16 rows of Q times a block of 64 keys. `row` is this lane's, of the warp's first eight.
 * The widened sum takes the four neighbours of a word as the columns 2i, 2i + 1, 2i + 8 and 2i + 9
 * of its fragment: in Q and in K alike, so it is the same sum. */
template <int D, enum precision QK, bool NATIVE>
__device__ __forceinline__ void scores_of(
    float (&s)[WARP_SCORES][4], const uint8_t *q, const uint8_t *k, int row, int lane)
{
    constexpr bool BYTES = QK == PRECISION_INT8 || NATIVE;
    const int at = lane % 4 * 4;
    auto word = [](const uint8_t *from, int r, int x) {
        return *(const uint32_t *)(from + eight::row_byte(D, r, x));
    };
    int whole[QK == PRECISION_INT8 ? WARP_SCORES : 1][4] = {};
#pragma unroll
    for (int n = 0; n < WARP_SCORES; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] = 0;
#pragma unroll 1
    for (int x = 0; x < D; x += 32) {
        const uint32_t a[4] = {word(q, row, x + at), word(q, row + 8, x + at),
            word(q, row, x + 16 + at), word(q, row + 8, x + 16 + at)};
#pragma unroll
        for (int n = 0; n < WARP_SCORES; n++) {
            const uint32_t lo = word(k, n * 8 + lane / 4, x + at),
                           hi = word(k, n * 8 + lane / 4, x + 16 + at);
            if constexpr (QK == PRECISION_INT8) {
                multiply_s8(whole[n], a, lo, hi);
            } else if constexpr (BYTES) {
                multiply_e4m3(s[n], a, lo, hi);
            } else {
                const uint32_t first[4] = {
                    widen(a[0]), widen(a[1]), widen(a[0] >> 16), widen(a[1] >> 16)};
                const uint32_t second[4] = {
                    widen(a[2]), widen(a[3]), widen(a[2] >> 16), widen(a[3] >> 16)};
                multiply_f16(s[n], first, widen(lo), widen(lo >> 16));
                multiply_f16(s[n], second, widen(hi), widen(hi >> 16));
            }
        }
    }
    if constexpr (QK == PRECISION_INT8)
#pragma unroll
        for (int n = 0; n < WARP_SCORES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[n][i] = (float)whole[n][i];
}

/* o += by · P V of a block of 64 keys, P rounded to e4m3. Places 16 i to 16 i + 15 of V hold the
 * keys 16 i to 16 i + 15 in the order in which a word is both fragments of either product. */
template <int D, bool NATIVE>
__device__ __forceinline__ void add_values(float (&o)[D / 8][4], const float (&p)[WARP_SCORES][4],
    const uint8_t *v, const float (&by)[2], int lane)
{
    uint32_t a[WARP_SCORES / 2][2]; /* of 16 keys: four of each of the two rows */
#pragma unroll
    for (int i = 0; i < WARP_SCORES / 2; i++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            a[i][r] = eight::pack_e4m3(
                p[2 * i][2 * r], p[2 * i][2 * r + 1], p[2 * i + 1][2 * r], p[2 * i + 1][2 * r + 1]);
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        float acc[4] = {};
        auto word = [&](int i) {
            return *(
                const uint32_t *)(v + eight::value_byte(n * 8 + lane / 4, i * 16 + lane % 4 * 4));
        };
        if constexpr (NATIVE) {
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                const uint32_t keys[4] = {a[i][0], a[i][1], a[i + 1][0], a[i + 1][1]};
                multiply_e4m3(acc, keys, word(i), word(i + 1));
            }
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t keys[4] = {
                    widen(a[i][0]), widen(a[i][1]), widen(a[i][0] >> 16), widen(a[i][1] >> 16)};
                multiply_f16(acc, keys, widen(word(i)), widen(word(i) >> 16));
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) o[n][i] = fmaf(acc[i], by[i / 2], o[n][i]);
    }
}

__device__ __forceinline__ void copy_block(uint8_t *to, const uint8_t *from, int bytes)
{
    for (int i = threadIdx.x * 16; i < bytes; i += THREADS * 16)
        *(uint4 *)(to + i) = __ldg((const uint4 *)(from + i));
}

template <int D, int KEYS, enum precision QK, bool NATIVE>
__global__ __launch_bounds__(THREADS) void attn_kernel(const __grid_constant__ params p)
{
    constexpr int BLOCK = EIGHT_ROWS * D, BLOCKS = KEYS / EIGHT_ROWS;
    extern __shared__ __align__(16) uint8_t room[];
    uint8_t *q = room, *kv = q + BLOCK;
    const struct attn_args &a = p.a;
    const int n_kv = a.q_start + a.n_q, head = blockIdx.y,
              kv_head = head / (a.n_heads / a.n_kv_heads);
    const int unit = (int)(gridDim.x - 1 - blockIdx.x); /* longest first */
    const int unit0 = a.q_start + unit * ROWS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32,
              row = unit0 + warp * WARP_ROWS + lane / 4;
    const int last = min(unit0 + ROWS, n_kv) - 1;
    const bool sparse = p.bits != NULL && (a.head_sparse == NULL || a.head_sparse[head]);
    const bool skip = sparse && a.pv_threshold != NULL;
    const float lambda = skip ? a.pv_threshold[head] : 0;
    const uint64_t *bits = NULL;
    if (sparse)
        bits = p.bits +
            ((size_t)head * p.n_map_rows + (unit0 - a.q_start) / a.block.q) * p.words_per_row;
    const size_t q_at = (size_t)head * p.n_units + unit, kv_at = (size_t)kv_head * p.n_blocks;
    const float q_scale = p.q_scale[q_at] * a.scale * 1.44269504f;
    copy_block(q, p.q + q_at * BLOCK, BLOCK);

    /* top: log2 of the unit of o and sum, a whole number. seen: the largest score, of skipped tiles
     * too (METHOD 3). */
    float o[D / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, seen[2] = {-INFINITY, -INFINITY},
                sum[2] = {0, 0};
    bool empty[2] = {true, true}, valid[2];
    for (int r = 0; r < 2; r++) valid[r] = row + 8 * r < n_kv;
    int tiles = 0, units = 0;
    for (int j = 0; j * KEYS <= last; j++) {
        if (sparse && !(bits[j / 64] >> (j % 64) & 1)) continue;
        const size_t block = kv_at + (size_t)j * BLOCKS;
        tiles++;
        __syncthreads();
        copy_block(kv, p.k + block * BLOCK, BLOCKS * BLOCK);
        __syncthreads();
        float s[BLOCKS][WARP_SCORES][4], local[BLOCKS][2];
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
            scores_of<D, QK, NATIVE>(s[b], q, kv + b * BLOCK, warp * WARP_ROWS + lane / 4, lane);
        __syncthreads();
        copy_block(kv, p.v + block * BLOCK, BLOCKS * BLOCK);

        bool wanted = false;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const float scale = q_scale * p.k_scale[block + b];
            local[b][0] = local[b][1] = -INFINITY;
#pragma unroll
            for (int n = 0; n < WARP_SCORES; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int key = j * KEYS + b * EIGHT_ROWS + n * 8 + lane % 4 * 2 + i % 2;
                    float x = s[b][n][i] * scale;
                    if (key > row + i / 2 * 8) x = -INFINITY;
                    s[b][n][i] = x;
                    local[b][i / 2] = max_nan(local[b][i / 2], x);
                }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                local[b][r] = max_nan(local[b][r], __shfl_xor_sync(0xffffffffu, local[b][r], 1));
                local[b][r] = max_nan(local[b][r], __shfl_xor_sync(0xffffffffu, local[b][r], 2));
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float here =
                BLOCKS == 2 ? max_nan(local[0][r], local[BLOCKS - 1][r]) : local[0][r];
            seen[r] = max_nan(seen[r], here);
            /* not "> 0": NaN is for nobody to skip */
            bool below = here == -INFINITY || here - seen[r] + lambda <= 0;
            wanted |= valid[r] && (empty[r] || !below);
        }
        bool live = __syncthreads_or(!skip || wanted); /* V has arrived, too */
        units += live;
        if (!live) continue;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const float exponent = p.v_exponent[block + b];
            float by[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float power = ceilf(local[b][r]), base = power == -INFINITY ? 0.0f : power;
                const float now = max_nan(top[r], power);
                const float shrink = now == -INFINITY ? 1.0f : exp2f(top[r] - now);
                float part = 0;
#pragma unroll
                for (int n = 0; n < WARP_SCORES; n++)
#pragma unroll
                    for (int i = 2 * r; i < 2 * r + 2; i++) {
                        s[b][n][i] = exp2f(s[b][n][i] - base + EIGHT_P_LOG2);
                        part += s[b][n][i];
                    }
                const float unit_of = now == -INFINITY ? 0.0f : exp2f(power - now - EIGHT_P_LOG2);
                by[r] = unit_of * exp2f(exponent);
                sum[r] = sum[r] * shrink + part * unit_of;
                top[r] = now;
                empty[r] &= local[b][r] == -INFINITY;
#pragma unroll
                for (int n = 0; n < D / 8; n++) o[n][2 * r] *= shrink, o[n][2 * r + 1] *= shrink;
            }
            add_values<D, NATIVE>(o, s[b], kv + b * BLOCK, by, lane);
        }
    }
    store_rows(a, head, row, valid, sum, o);
    if (a.ledger != NULL && threadIdx.x == 0)
        count_unit(a, head, last, last / KEYS + 1, tiles, units, 0);
}

template <int D, int KEYS, enum precision QK, bool NATIVE>
enum status launch(const params &p, cudaStream_t stream)
{
    auto *kernel = attn_kernel<D, KEYS, QK, NATIVE>;
    const struct attn_args &a = p.a;
    dim3 grid((unsigned)((a.n_q + ROWS - 1) / ROWS), (unsigned)a.n_heads);
    cuda_launch(kernel, grid, THREADS, (size_t)(ROWS + KEYS) * D, stream, p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

template <int D, bool NATIVE> enum status run_dim(const params &p, cudaStream_t s)
{
    const bool wide = p.a.block.k == 128;
    if (p.a.qk == PRECISION_INT8)
        return wide ? launch<D, 128, PRECISION_INT8, NATIVE>(p, s)
                    : launch<D, 64, PRECISION_INT8, NATIVE>(p, s);
    return wide ? launch<D, 128, PRECISION_FP8, NATIVE>(p, s)
                : launch<D, 64, PRECISION_FP8, NATIVE>(p, s);
}

template <bool NATIVE>
enum status run_of(const struct attn_args *a, void *ws, struct stream *stream)
{
    cudaStream_t s = (cudaStream_t)stream;
    eight::layout l = eight::layout_of(a);
    const uint8_t *from = (const uint8_t *)ws;
    params p = {*a, NULL, 0, 0, from + l.q, from + l.k, from + l.v,
        (const float *)(from + l.q_scale), (const float *)(from + l.k_scale),
        (const float *)(from + l.v_exponent), l.n_units, l.n_blocks};
    if (a->tiles != NULL)
        p.bits = a->tiles->bits, p.words_per_row = a->tiles->words_per_row,
        p.n_map_rows = a->tiles->n_qblocks;
    TRY(quantise_cuda(a, ws, s));
    return a->head_dim == 128 ? run_dim<128, NATIVE>(p, s) : run_dim<64, NATIVE>(p, s);
}

const char *widened_refuses(const struct attn_args *a)
{
    if (a->qk == PRECISION_FULL || a->pv != PRECISION_FP8)
        return "takes int8 or fp8 Q·K with fp8 P·V only";
    if (a->dtype != DTYPE_BF16) return "takes bf16 only";
    if (a->head_dim != 64 && a->head_dim != 128) return "head_dim is not 64 or 128";
    if (a->window > 0) return "has no sliding window";
    if (a->correct_mean) return ATTN_CORRECTS_FULL;
    if (a->n_q < 1 || a->q_start < 0) return "no query rows";
    if (a->q_start % PV_UNIT_ROWS != 0) return "q_start is not a multiple of 64";
    const char *why = portable_refuses(a);
    if (why != NULL) return why;
    if (cuda_current_sm() < 80) return "the current device is below compute capability 8.0";
    return NULL;
}

const char *native_refuses(const struct attn_args *a)
{
    const char *why = widened_refuses(a);
    if (why == NULL && cuda_current_sm() < 89)
        return "the current device has no products of e4m3 (compute capability 8.9)";
    return why;
}

size_t workspace(const struct attn_args *a) { return eight::layout_of(a).bytes; }

enum status native_run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)par;
    return run_of<true>(a, ws, stream);
}

enum status widened_run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)par;
    return run_of<false>(a, ws, stream);
}

} // namespace

extern "C" {
const struct attn_impl attn_eight_cuda = {"attn_eight_cuda", native_refuses, workspace, native_run};
const struct attn_impl attn_eight_cuda_f16 = {
    "attn_eight_cuda_f16", widened_refuses, workspace, widened_run};
}

/* Curves on the device: 64 query rows of a head on their way over tiles, in whatever order. Each
 * tile is a softmax by itself, P rounded to bf16 under the tile's own maximum, and then joins the
 * chain in f32; so an output is a matter of which tiles joined and in what order, and no tile is
 * ever written down. Values are on their way to shared memory while scores are made, the next
 * tile's keys while the products with the values are. One CTA of TILE_THREADS; a warp has 16 rows.
 * Private to the curve's .cu files.
 */
#ifndef SG_KERNELS_CUDA_CURVE_TILE_CUDA_CUH
#define SG_KERNELS_CUDA_CURVE_TILE_CUDA_CUH

#include "kernels/cuda/curve_cuda.cuh"
#include "kernels/cuda/mma.cuh"

#include <cuda_fp8.h>
#include <math.h>

enum { UNIT = PV_UNIT_ROWS, TILE_THREADS = 128, TILE_WARPS = TILE_THREADS / 32, WARP_ROWS = 16 };

__device__ __forceinline__ float e4m3(float x) { return (float)__nv_fp8_e4m3(x); }

/* What a CTA reads: queries stay in shared memory, keys and values take turns in one room each. */
template <int DIM, int KEYS> struct unit_rows {
    static constexpr int LINE = DIM + 8, HALVES = KEYS / UNIT;
    static constexpr size_t SHARED = (size_t)(UNIT + 2 * KEYS) * LINE * sizeof(__nv_bfloat16);
    __nv_bfloat16 *q, *k, *v;           /* shared */
    const __nv_bfloat16 *keys, *values; /* of the head */
    const float *k_scale;               /* NULL: 1 */
    float q_scale;
    int unit0, last; /* rows of the sample */

    /* exact: the full products' q, k and v, else those that tiles are made of */
    __device__ void begin(const curve_params &p, char *memory, int head, int first, bool exact)
    {
        q = (__nv_bfloat16 *)memory, k = q + UNIT * LINE, v = k + KEYS * LINE;
        const int kv_head = head / p.group;
        keys = (exact ? p.k : p.tile_k) + kv_head * p.k_head;
        values = (exact ? p.v : p.tile_v) + kv_head * p.v_head;
        const bool scaled = !exact && p.q_scale != NULL;
        k_scale = scaled ? p.k_scale + (size_t)kv_head * p.n_scales : NULL;
        q_scale = scaled ? p.q_scale[(size_t)head * p.n_scales + first / UNIT] : 1;
        unit0 = first, last = min(first + UNIT, p.n) - 1;
        fetch<DIM, TILE_THREADS>(
            q, (exact ? p.q : p.tile_q) + head * p.q_head, p.q_row, unit0, UNIT, 0, p.n, p.d);
    }
    __device__ bool sees(int tile) const { return tile * KEYS <= last; }

    /* Rows of one tile begin to arrive in `to`; tile -1: nothing does. */
    __device__ __forceinline__ void send(const curve_params &p, __nv_bfloat16 *to,
        const __nv_bfloat16 *from, ptrdiff_t row, int tile) const
    {
        constexpr int PIECES = DIM / 8, STEP = TILE_THREADS / PIECES;
        if (tile < 0) return;
        const int r = threadIdx.x / PIECES, c = threadIdx.x % PIECES * 8, at = tile * KEYS + r;
        const __nv_bfloat16 *source = from + at * row + c;
        __nv_bfloat16 *place = to + r * LINE + c;
        const bool column = c < p.d;
        if (tile * KEYS + KEYS <= p.n) {
#pragma unroll
            for (int i = 0; i < KEYS / STEP; i++)
                begin_copy(
                    place + i * STEP * LINE, column ? source + i * STEP * row : from, column);
        } else {
#pragma unroll
            for (int i = 0; i < KEYS / STEP; i++) {
                const bool there = column && at + i * STEP < p.n;
                begin_copy(place + i * STEP * LINE, there ? source + i * STEP * row : from, there);
            }
        }
    }

    /* Scaled scores of a tile whose keys are in `room`, and the largest of each of this lane's two
     * rows: altogether, and of each 64 keys. */
    __device__ __forceinline__ void scores(const curve_params &p, const __nv_bfloat16 *room,
        int tile, float (&s)[KEYS / 8][4], float (&own)[HALVES][2], float (&m)[2]) const
    {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, k0 = tile * KEYS,
                  row = unit0 + warp * WARP_ROWS + lane / 4;
        const float scale = p.scale * 1.44269504f;
        const bool edge = k0 + KEYS - 1 > unit0; /* the diagonal passes through */
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[n][i] = 0;
        multiply_keys<DIM, KEYS>(s, q + warp * WARP_ROWS * LINE, room, lane);
        float by[HALVES];
#pragma unroll
        for (int h = 0; h < HALVES; h++) {
            own[h][0] = own[h][1] = -INFINITY;
            const bool there = k_scale != NULL && k0 / UNIT + h < p.n_scales;
            by[h] = there ? scale * (q_scale * k_scale[k0 / UNIT + h]) : scale;
        }
        if (edge)
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (k0 + n * 8 + lane % 4 * 2 + i % 2 > row + i / 2 * 8) s[n][i] = -INFINITY;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[n][i] *= by[n * 8 / UNIT];
                own[n * 8 / UNIT][i / 2] = fmaxf(own[n * 8 / UNIT][i / 2], s[n][i]);
            }
        m[0] = m[1] = -INFINITY;
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int h = 0; h < HALVES; h++) {
                own[h][r] = fmaxf(own[h][r], __shfl_xor_sync(0xffffffffu, own[h][r], 1));
                own[h][r] = fmaxf(own[h][r], __shfl_xor_sync(0xffffffffu, own[h][r], 2));
                m[r] = fmaxf(m[r], own[h][r]);
            }
    }
};

/* A lane's share of the output so far: of its two rows the columns n · 8 + lane % 4 · 2 and the
 * next. */
template <int DIM> struct unit_chain {
    float o[DIM / 8][4], m[2], l[2];

    __device__ void clear()
    {
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) o[n][i] = 0;
        m[0] = m[1] = -INFINITY;
        l[0] = l[1] = 0;
    }
};

/* Numerators of one tile out of its scores, packed as the tensor cores take them, and their row
 * sums. */
template <int KEYS, bool IN_E4M3>
__device__ __forceinline__ void numerators(float (&s)[KEYS / 8][4],
    const float (&own)[KEYS / UNIT][2], const float (&m)[2], uint32_t (&packed)[KEYS / 16][4],
    float (&l)[2])
{
    const float base[2] = {m[0] == -INFINITY ? 0.0f : m[0], m[1] == -INFINITY ? 0.0f : m[1]};
    l[0] = l[1] = 0;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float x = s[n][i], top = own[n * 8 / UNIT][i / 2];
            s[n][i] = exp2_fast(x - base[i / 2]);
            l[i / 2] += s[n][i];
            /* METHOD 9.3 under the power of two of the tile, which bf16 holds exactly */
            if (IN_E4M3 && s[n][i] > 0)
                s[n][i] = e4m3(exp2f(x - ceilf(top) + 8)) * exp2f(ceilf(top) - ceilf(m[i / 2]));
        }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        l[r] += __shfl_xor_sync(0xffffffffu, l[r], 1);
        l[r] += __shfl_xor_sync(0xffffffffu, l[r], 2);
    }
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
        packed[n][0] = pack(s[2 * n][0], s[2 * n][1]);
        packed[n][1] = pack(s[2 * n][2], s[2 * n][3]);
        packed[n][2] = pack(s[2 * n + 1][0], s[2 * n + 1][1]);
        packed[n][3] = pack(s[2 * n + 1][2], s[2 * n + 1][3]);
    }
}

/* The tile joins: its product with the values in `room`, 16 columns at a time. */
template <int DIM, int KEYS>
__device__ __forceinline__ void join(unit_chain<DIM> &c, const uint32_t (&packed)[KEYS / 16][4],
    const float (&m)[2], const float (&l)[2], bool in_e4m3, const __nv_bfloat16 *room)
{
    constexpr int LINE = DIM + 8;
    const int lane = threadIdx.x % 32;
    float a[2], b[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float top = fmaxf(m[r], c.m[r]);
        const bool sees = m[r] > -INFINITY;
        a[r] = sees ? exp2_fast(c.m[r] - top) : 1;
        b[r] = sees ? exp2_fast(m[r] - top) : 0;
        c.m[r] = top;
        c.l[r] = c.l[r] * a[r] + l[r] * b[r];
        if (in_e4m3 && sees) b[r] *= exp2f(ceilf(m[r]) - 8 - m[r]);
    }
#pragma unroll
    for (int d = 0; d < DIM; d += 16) {
        float x[2][4] = {};
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t v[4];
            load_transposed(v, room + (n * 16 + lane % 16) * LINE + d + lane / 16 * 8);
            multiply(x[0], packed[n], v[0], v[1]);
            multiply(x[1], packed[n], v[2], v[3]);
        }
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                c.o[d / 8 + h][i] = c.o[d / 8 + h][i] * a[i / 2] + x[h][i] * b[i / 2];
    }
}

/* Tiles seq(0) … seq(n - 1) join in this order, but those that the unit does not see; behind(i) is
 * called once i of them went by, i from 1 on, before the next joins. */
template <int DIM, int KEYS, typename SEQ, typename BEHIND>
__device__ __forceinline__ void join_tiles(const curve_params &p, const unit_rows<DIM, KEYS> &u,
    bool in_e4m3, unit_chain<DIM> &chain, int n, SEQ seq, BEHIND behind)
{
    auto seen_from = [&](int i) {
        while (i < n && !u.sees(seq(i))) i++;
        return i;
    };
    auto tile_at = [&](int i) { return i < n ? seq(i) : -1; };
    int now = seen_from(0);
    __syncthreads();
    u.send(p, u.k, u.keys, p.k_row, tile_at(now));
    for (int i = 0; i < n; i++) {
        if (i == now) {
            const int tile = seq(i);
            float s[KEYS / 8][4], own[KEYS / UNIT][2], m[2], l[2];
            uint32_t packed[KEYS / 16][4];
            await_copies();
            __syncthreads(); /* keys are there, and nobody reads values any more */
            u.send(p, u.v, u.values, p.v_row, tile);
            u.scores(p, u.k, tile, s, own, m);
            if (in_e4m3) numerators<KEYS, true>(s, own, m, packed, l);
            else numerators<KEYS, false>(s, own, m, packed, l);
            await_copies();
            __syncthreads(); /* values are there, and nobody reads keys any more */
            now = seen_from(i + 1);
            u.send(p, u.k, u.keys, p.k_row, tile_at(now));
            join<DIM, KEYS>(chain, packed, m, l, in_e4m3, u.v);
        }
        behind(i + 1);
    }
}

#endif

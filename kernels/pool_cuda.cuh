/* Sums of rows and of unit rows of a block, as the mask prediction and the RoPE kernel both take them.
 *
 * A warp pools a unit of 64 rows: LANES lanes to a row, each holding eight elements of its first half and the
 * eight that stand half a row behind them, which is how RoPE pairs them. Units are added in rising order, so
 * whoever pools a block gets the same bits.
 */
#ifndef SG_KERNELS_POOL_CUDA_CUH
#define SG_KERNELS_POOL_CUDA_CUH

#include "kernels/vec8_cuda.cuh"

#include <stddef.h>
#include <stdint.h>

namespace pool
{

enum { UNIT_ROWS = 64,
       HELD = 16 }; /* elements of a row that one lane holds */

struct both {
    float sum[HELD], unit[HELD];
};

template <int LANES>
struct lanes {
    static constexpr int AT_ONCE = 32 / LANES; /* rows a warp takes in one step */
    static constexpr int STEPS = UNIT_ROWS / AT_ONCE;

    static __device__ __forceinline__ int row() { return threadIdx.x % 32 / LANES; }
    static __device__ __forceinline__ int col() { return threadIdx.x % LANES * 8; }

    static __device__ __forceinline__ float across(float x)
    {
#pragma unroll
        for (int m = 1; m < LANES; m *= 2) x += __shfl_xor_sync(0xffffffffu, x, m);
        return x;
    }

    static __device__ __forceinline__ void widen(uint4 lo, uint4 hi, float (&e)[HELD])
    {
        vec8::floats8 a = vec8::widen(lo), b = vec8::widen(hi);
#pragma unroll
        for (int i = 0; i < 8; i++) e[i] = a.x[i], e[8 + i] = b.x[i];
    }

    /* Add one row per lane group; e is its part, less its centre where there is one. A row that is not there
     * must be zeros for the sum and `real` false for the units. */
    template <bool SUM, bool UNIT>
    static __device__ __forceinline__ void add(const float (&e)[HELD], bool real, both &to)
    {
        if constexpr (SUM) {
#pragma unroll
            for (int i = 0; i < HELD; i++) to.sum[i] += e[i];
        }
        if constexpr (UNIT) {
            float square = 0;
#pragma unroll
            for (int i = 0; i < HELD; i++) square = fmaf(e[i], e[i], square);
            square = across(square);
            float inverse = real && square > 0 ? rsqrtf(square) : 0;
#pragma unroll
            for (int i = 0; i < HELD; i++) to.unit[i] = fmaf(e[i], inverse, to.unit[i]);
        }
    }

    /* Afterwards every lane holds its elements of the warp's sums. */
    template <bool SUM, bool UNIT>
    static __device__ __forceinline__ void gather(both &x)
    {
#pragma unroll
        for (int m = LANES; m < 32; m *= 2)
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                if (SUM) x.sum[i] += __shfl_xor_sync(0xffffffffu, x.sum[i], m);
                if (UNIT) x.unit[i] += __shfl_xor_sync(0xffffffffu, x.unit[i], m);
            }
    }

    /* ‖mean of n unit rows‖² */
    static __device__ __forceinline__ float similarity(const both &x, int n)
    {
        float square = 0;
#pragma unroll
        for (int i = 0; i < HELD; i++) square = fmaf(x.unit[i], x.unit[i], square);
        return across(square) / ((float)n * (float)n);
    }

    /* A lane's elements to and from a row of d in memory; lanes past the row do nothing, and read zeros. */
    static __device__ __forceinline__ void put(const float (&x)[HELD], float *row, int d)
    {
        if (col() >= d / 2) return;
        float4 *lo = (float4 *)(row + col()), *hi = (float4 *)(row + d / 2 + col());
        lo[0] = make_float4(x[0], x[1], x[2], x[3]), lo[1] = make_float4(x[4], x[5], x[6], x[7]);
        hi[0] = make_float4(x[8], x[9], x[10], x[11]), hi[1] = make_float4(x[12], x[13], x[14], x[15]);
    }
    static __device__ __forceinline__ void get(float (&x)[HELD], const float *row, int d)
    {
        const float4 zero = make_float4(0, 0, 0, 0);
        const bool mine = col() < d / 2;
        const float4 *lo = (const float4 *)(row + col()), *hi = (const float4 *)(row + d / 2 + col());
        float4 v[4] = {mine ? lo[0] : zero, mine ? lo[1] : zero, mine ? hi[0] : zero, mine ? hi[1] : zero};
#pragma unroll
        for (int i = 0; i < 4; i++) x[4 * i] = v[i].x, x[4 * i + 1] = v[i].y, x[4 * i + 2] = v[i].z, x[4 * i + 3] = v[i].w;
    }
};

/* BATCH steps of rows under way from memory. */
template <int LANES, int BATCH>
struct flight {
    using L = lanes<LANES>;
    uint4 lo[BATCH], hi[BATCH];

    __device__ __forceinline__ void load(const __nv_bfloat16 *x, ptrdiff_t stride, int step, int n, int d)
    {
        const __nv_bfloat16 *at = x + (step * L::AT_ONCE + L::row()) * stride + L::col();
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            lo[b] = hi[b] = make_uint4(0, 0, 0, 0);
            if ((step + b) * L::AT_ONCE + L::row() >= n || L::col() >= d / 2) continue;
            lo[b] = __ldg((const uint4 *)(at + b * L::AT_ONCE * stride));
            hi[b] = __ldg((const uint4 *)(at + b * L::AT_ONCE * stride + d / 2));
        }
    }

    template <bool SUM, bool UNIT>
    __device__ __forceinline__ void add(const float (&centre)[HELD], int step, int n, both &to) const
    {
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            float e[HELD];
            L::widen(lo[b], hi[b], e);
#pragma unroll
            for (int i = 0; i < HELD; i++) e[i] -= centre[i];
            L::template add<SUM, UNIT>(e, (step + b) * L::AT_ONCE + L::row() < n, to);
        }
    }
};

/* One unit of n ≤ 64 rows (fewer than 1: none), gathered. */
template <int LANES, int BATCH, bool SUM, bool UNIT>
__device__ __forceinline__ void unit(const __nv_bfloat16 *x, ptrdiff_t stride, int n, int d, both &to)
{
    using L = lanes<LANES>;
    const float none[HELD] = {};
#pragma unroll
    for (int i = 0; i < HELD; i++) to.sum[i] = to.unit[i] = 0;
#pragma unroll 1
    for (int step = 0; step * L::AT_ONCE < n; step += BATCH) {
        flight<LANES, BATCH> f;
        f.load(x, stride, step, n, d);
        f.template add<SUM, UNIT>(none, step, n, to);
    }
    L::template gather<SUM, UNIT>(to);
}

} // namespace pool

#endif

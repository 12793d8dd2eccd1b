/* Sums of rows and of unit rows of a block, and how rows come from memory for them.
 *
 * A warp pools a unit of 64 rows: LANES lanes to a row, each holding eight elements of its first
 * half and the eight that stand half a row behind them. Units are added in rising order.
 */
#ifndef SG_KERNELS_CUDA_POOL_CUDA_CUH
#define SG_KERNELS_CUDA_POOL_CUDA_CUH

#include <cuda_bf16.h>
#include <stddef.h>
#include <stdint.h>

namespace pool
{

enum { UNIT_ROWS = 64, HELD = 16 }; /* elements of a row that one lane holds */

struct both {
    float sum[HELD], unit[HELD];
    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < HELD; i++) sum[i] = unit[i] = 0;
    }
};

template <int LANES> struct lanes {
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
        const uint32_t w[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
        for (int i = 0; i < 8; i++) {
            e[2 * i] = __uint_as_float(w[i] << 16);
            e[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
        }
    }

    /* Add one row per lane group; e is its part, less its centre where there is one. A row that is
     * not there must be zeros for the sum and `real` false for the units. */
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
    template <bool SUM, bool UNIT> static __device__ __forceinline__ void gather(both &x)
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

    /* A lane's elements to and from a row of d in memory; lanes past the row do nothing, and read
     * zeros. */
    static __device__ __forceinline__ void put(const float (&x)[HELD], float *row, int d)
    {
        if (col() >= d / 2) return;
        float4 *lo = (float4 *)(row + col()), *hi = (float4 *)(row + d / 2 + col());
        lo[0] = make_float4(x[0], x[1], x[2], x[3]), lo[1] = make_float4(x[4], x[5], x[6], x[7]);
        hi[0] = make_float4(x[8], x[9], x[10], x[11]),
        hi[1] = make_float4(x[12], x[13], x[14], x[15]);
    }
    static __device__ __forceinline__ void get(float (&x)[HELD], const float *row, int d)
    {
        const float4 zero = make_float4(0, 0, 0, 0);
        const bool mine = col() < d / 2;
        const float4 *lo = (const float4 *)(row + col()),
                     *hi = (const float4 *)(row + d / 2 + col());
        float4 v[4] = {
            mine ? lo[0] : zero, mine ? lo[1] : zero, mine ? hi[0] : zero, mine ? hi[1] : zero};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[4 * i] = v[i].x, x[4 * i + 1] = v[i].y;
            x[4 * i + 2] = v[i].z, x[4 * i + 3] = v[i].w;
        }
    }
};

/* A block of n rows on its way from memory to one warp, DEPTH steps ahead of their use. They wait
 * in shared memory, where each lane reads only what it fetched itself, so neither registers nor
 * barriers are spent on them. */
template <int LANES, int DEPTH> struct rows_ahead {
    using L = lanes<LANES>;
    static constexpr int VECTORS = DEPTH * 64; /* of 16 bytes, the room a warp needs */

    uint4 *room;
    const __nv_bfloat16 *at; /* this lane's part of row 0 */
    ptrdiff_t stride;
    int n, d, fetched = 0, taken = 0;

    __device__ __forceinline__ rows_ahead(
        uint4 *shared, const __nv_bfloat16 *x, ptrdiff_t row_stride, int rows, int head_dim)
        : room(shared + threadIdx.x % 32), at(x + L::row() * row_stride + L::col()),
          stride(row_stride), n(rows), d(head_dim)
    {
#pragma unroll
        for (int i = 0; i < DEPTH; i++) fetch();
    }

    static __device__ __forceinline__ void copy(uint4 *to, const __nv_bfloat16 *from, bool real)
    {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                         (uint32_t)__cvta_generic_to_shared(to)),
                     "l"(from), "r"(real ? 16 : 0)
                     : "memory");
    }

    /* Send for the next step; zeros stand for what is not there. Every call counts as a step, also
     * past the end. */
    __device__ __forceinline__ void fetch()
    {
        if (fetched * L::AT_ONCE < n) {
            const bool real = fetched * L::AT_ONCE + L::row() < n && L::col() < d / 2;
            uint4 *slot = room + fetched % DEPTH * 64;
            const __nv_bfloat16 *from = at + fetched * L::AT_ONCE * stride;
            copy(slot, from, real), copy(slot + 32, from + d / 2, real);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        fetched++;
    }

    /* The next step's rows have come. Call fetch() once they are no longer needed in shared memory.
     */
    __device__ __forceinline__ void take(uint4 &lo, uint4 &hi)
    {
        asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 1) : "memory");
        const uint4 *slot = room + taken % DEPTH * 64;
        lo = slot[0], hi = slot[32];
        taken++;
    }
};

} // namespace pool

#endif

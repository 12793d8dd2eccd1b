/* RoPE on the device: q turned where it stands, k and v carried into the cache, and on the way the means and
 * self-similarities of query blocks that the mask prediction would otherwise read q again for. */
extern "C" {
#include "kernels/ops_cuda.h"
}
#include "kernels/cuda_check.cuh"
#include "kernels/pool_cuda.cuh"

namespace
{

using namespace vec8;
using pool::both;
using pool::HELD;
using pool::UNIT_ROWS;

enum { THREADS = 256,
       PLANES = THREADS / 64 }; /* heads of q, k or v that one CTA of rope_blocks takes, two warps to each */

/* Both kernels must round alike, so nothing is left to the compiler. */
__device__ __forceinline__ void turn(floats8 &lo, floats8 &hi, const floats8 &c, const floats8 &s)
{
#pragma unroll
    for (int j = 0; j < 8; j++) {
        float x = lo.x[j], y = hi.x[j];
        lo.x[j] = __fmaf_rn(x, c.x[j], -__fmul_rn(y, s.x[j]));
        hi.x[j] = __fmaf_rn(y, c.x[j], __fmul_rn(x, s.x[j]));
    }
}

__device__ __forceinline__ void shift(floats8 &x, const float *bias)
{
    floats8 b = load8(bias);
#pragma unroll
    for (int j = 0; j < 8; j++) x.x[j] += b.x[j];
}

/* Where row `row` of head `head` (q, then k, then v) goes. */
__device__ __forceinline__ uint16_t *place(const struct rope_cuda_args &a, int head, int row, uint16_t *from)
{
    if (head < a.n_heads) return from;
    int kv = head - a.n_heads;
    uint16_t *plane = kv < a.n_kv_heads ? a.k : a.v;
    return plane + ((size_t)(kv % a.n_kv_heads) * a.capacity + a.position + row) * a.head_dim;
}

/* One CTA per row; a thread turns eight pairs of one head, or copies sixteen values. */
__global__ void rope_rows(const __grid_constant__ struct rope_cuda_args a)
{
    const int row = blockIdx.x, half = a.head_dim / 2, per_head = half / 8;
    const int heads = a.n_heads + 2 * a.n_kv_heads, width = heads * a.head_dim;
    for (int i = threadIdx.x; i < heads * per_head; i += blockDim.x) {
        int head = i / per_head, at = i % per_head * 8, column = head * a.head_dim;
        uint16_t *from = a.qkv + (size_t)row * width + column, *to = place(a, head, row, from);
        floats8 lo = load8(from + at), hi = load8(from + at + half);
        if (a.bias != NULL) shift(lo, a.bias + column + at), shift(hi, a.bias + column + at + half);
        if (head < a.n_heads + a.n_kv_heads)
            turn(lo, hi, load8(a.cosine + (size_t)row * half + at), load8(a.sine + (size_t)row * half + at));
        store8(to + at, lo);
        store8(to + at + half, hi);
    }
}

/* A warp takes a unit of 64 rows of one head, a CTA two units of PLANES heads, which share the angles. */
template <int LANES, int CTAS, int AHEAD>
__global__ __launch_bounds__(THREADS, CTAS) void rope_blocks(const __grid_constant__ struct rope_cuda_args a)
{
    using L = pool::lanes<LANES>;
    using ahead = pool::rows_ahead<LANES, AHEAD>;
    extern __shared__ __align__(16) float shared[];
    const int warp = threadIdx.x / 32, plane = warp / 2, head = blockIdx.x * PLANES + plane, d = a.head_dim, half = d / 2;
    const int heads = a.n_heads + 2 * a.n_kv_heads, width = heads * d, col = L::col();
    const int row0 = blockIdx.y * 2 * UNIT_ROWS + warp % 2 * UNIT_ROWS;
    const int n = head < heads ? min((int)UNIT_ROWS, a.n - row0) : 0;
    const bool query = head < a.n_heads, turned = head < a.n_heads + a.n_kv_heads;
    float *second = shared; /* [PLANES][2][head_dim]: sums of the second units */
    uint16_t *from = a.qkv + (size_t)row0 * width + head * d;
    ahead rows((uint4 *)(second + PLANES * 2 * d) + warp * ahead::VECTORS, (const __nv_bfloat16 *)from, width, n, d);
    both x;
    x.clear();
#pragma unroll 1
    for (int step = 0; step * L::AT_ONCE < n; step++) {
        const int r = step * L::AT_ONCE + L::row();
        const bool real = r < n && col < half;
        floats8 c, s;
        if (real && turned) c = load8(a.cosine + (size_t)(row0 + r) * half + col), s = load8(a.sine + (size_t)(row0 + r) * half + col);
        uint4 lo, hi;
        rows.take(lo, hi);
        if (real) {
            if (turned || a.bias != NULL) {
                floats8 u = widen(lo), v = widen(hi);
                if (a.bias != NULL) shift(u, a.bias + head * d + col), shift(v, a.bias + head * d + col + half);
                if (turned) turn(u, v, c, s);
                lo = narrow(u), hi = narrow(v);
            }
            uint16_t *to = place(a, head, row0 + r, from + (size_t)r * width) + col;
            *(uint4 *)to = lo;
            *(uint4 *)(to + half) = hi;
        }
        if (query) {
            float e[HELD];
            L::widen(lo, hi, e);
            L::template add<true, true>(e, r < n, x);
        }
        rows.fetch();
    }
    const int units = a.block_q / UNIT_ROWS, n_blocks = (a.n + a.block_q - 1) / a.block_q;
    float *handed = second + plane * 2 * d;
    if (query) L::template gather<true, true>(x);
    if (query && units == 2 && warp % 2 == 1 && L::row() == 0) L::put(x.sum, handed, d), L::put(x.unit, handed + d, d);
    __syncthreads();
    if (!query || n < 1 || warp % units != 0) return;
    if (units == 2 && row0 + UNIT_ROWS < a.n) {
        both other;
        L::get(other.sum, handed, d), L::get(other.unit, handed + d, d);
#pragma unroll
        for (int i = 0; i < HELD; i++) x.sum[i] += other.sum[i], x.unit[i] += other.unit[i];
    }
    const int held = min(a.block_q, a.n - row0);
    const size_t at = (size_t)head * n_blocks + row0 / a.block_q;
    const float sim = L::similarity(x, held);
#pragma unroll
    for (int i = 0; i < HELD; i++) x.sum[i] /= (float)held;
    if (L::row() == 0) L::put(x.sum, a.q_mean + at * d, d);
    if (threadIdx.x % 32 == 0) a.q_sim[at] = sim;
}

template <int LANES, int CTAS, int AHEAD>
enum status launch_blocks_v(const struct rope_cuda_args &a, cudaStream_t stream)
{
    const int heads = a.n_heads + 2 * a.n_kv_heads, rows = 2 * UNIT_ROWS;
    const size_t shared = (size_t)PLANES * 2 * (size_t)a.head_dim * sizeof(float) +
                          THREADS / 32 * sizeof(uint4) * pool::rows_ahead<LANES, AHEAD>::VECTORS;
    dim3 grid((unsigned)((heads + PLANES - 1) / PLANES), (unsigned)((a.n + rows - 1) / rows));
    rope_blocks<LANES, CTAS, AHEAD><<<grid, THREADS, shared, stream>>>(a);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

template <int LANES>
enum status launch_blocks(const struct rope_cuda_args &a, cudaStream_t stream)
{
#ifdef SG_MASK_VARIANTS
    const char *e = getenv("SG_ROPE_VARIANT");
    int v = e ? atoi(e) : 0;
    if (v == 1) return launch_blocks_v<LANES, 2, 4>(a, stream);
    if (v == 2) return launch_blocks_v<LANES, 2, 5>(a, stream);
    if (v == 3) return launch_blocks_v<LANES, 3, 2>(a, stream);
    if (v == 4) return launch_blocks_v<LANES, 4, 4>(a, stream);
#endif
    return launch_blocks_v<LANES, 3, 4>(a, stream);
}

} // namespace

extern "C" enum status ops_cuda_rope_pack(const struct rope_cuda_args *a, struct stream *stream)
{
    cudaStream_t s = (cudaStream_t)stream;
    if (a->head_dim % 16 != 0) return fail(ERR_UNSUPPORTED, "head_dim %d: the CUDA path takes multiples of 16", a->head_dim);
    if (a->q_mean != NULL) {
        if (a->head_dim > 256 || (a->block_q != 64 && a->block_q != 128))
            return fail(ERR_UNSUPPORTED, "query blocks of %d rows, head_dim %d: pooled are blocks of 64 or 128, head_dim up to 256",
                        a->block_q, a->head_dim);
        return a->head_dim <= 64 ? launch_blocks<4>(*a, s) : a->head_dim <= 128 ? launch_blocks<8>(*a, s) : launch_blocks<16>(*a, s);
    }
    rope_rows<<<(unsigned)a->n, THREADS, 0, s>>>(*a);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

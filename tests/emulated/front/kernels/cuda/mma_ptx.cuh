/* Instructions of the tensor cores as the PTX ISA defines them, lane by lane; in front of the real
 * file of this name. In a fragment a lane is in group g = lane / 4 and there the t-th of four. */
#ifndef SG_KERNELS_CUDA_MMA_PTX_CUH
#define SG_KERNELS_CUDA_MMA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

inline float e4m3_value(uint32_t code)
{
    const int e = (int)(code >> 3 & 15), m = (int)(code & 7);
    float size =
        e ? __uint_as_float((uint32_t)(e + 120) << 23 | (uint32_t)m << 20) : (float)m * 0x1p-9f;
    if ((code & 0x7f) == 0x7f) size = NAN;
    return code & 0x80 ? -size : size;
}

namespace emulated
{

/* c[16 x 8] += a[16 x K] b[K x 8] of elements of BITS bits, K = 256 / BITS. Of a row's or column's
 * K elements, the t-th lane of four holds 32 / BITS neighbours from t · 32 / BITS on, and as many
 * half of K later. */
template <int BITS, typename SUM, typename VALUE>
void product(SUM (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, VALUE value)
{
    constexpr int EACH = 32 / BITS, K = 8 * EACH;
    const int lane = now % 32, first = now - lane, g = lane / 4, t = lane % 4;
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(board[now], mine, sizeof mine);
    meet_warp();
    auto element = [&](int which, int group, int k) {
        const uint32_t word = board[first + group * 4 + k % (K / 2) / EACH][which];
        return value(word >> k % EACH * BITS & ((1u << (BITS - 1) << 1) - 1));
    };
    for (int i = 0; i < 4; i++) {
        double sum = 0;
        for (int k = 0; k < K; k++)
            sum += (double)element(i / 2 + (k >= K / 2 ? 2 : 0), g, k) *
                (double)element(4 + (k >= K / 2), 2 * t + i % 2, k);
        c[i] = (SUM)((double)c[i] + sum);
    }
    meet_warp();
}

inline void matrices(uint32_t (&r)[4], const __nv_bfloat16 *row, bool transposed)
{
    const int lane = now % 32, first = now - lane, g = lane / 4, t = lane % 4;
    memcpy(board[now], &row, sizeof row);
    meet_warp();
    for (int i = 0; i < 4; i++) {
        uint16_t two[2];
        for (int e = 0; e < 2; e++) {
            const int at = transposed ? 2 * t + e : g, column = transposed ? g : 2 * t + e;
            const __nv_bfloat16 *from;
            memcpy(&from, board[first + 8 * i + at], sizeof from);
            two[e] = from[column].bits;
        }
        memcpy(&r[i], two, 4);
    }
    meet_warp();
}

} // namespace emulated

inline void load_matrices(uint32_t (&r)[4], const __nv_bfloat16 *row)
{
    emulated::matrices(r, row, false);
}
inline void load_transposed(uint32_t (&r)[4], const __nv_bfloat16 *row)
{
    emulated::matrices(r, row, true);
}
inline uint32_t transpose(uint32_t x)
{
    const int lane = emulated::now % 32, first = emulated::now - lane;
    emulated::board[emulated::now][0] = x;
    emulated::meet_warp();
    uint32_t y = 0;
    for (int e = 0; e < 2; e++) {
        const int row = lane % 4 * 2 + e, column = lane / 4; /* of x */
        y |= (emulated::board[first + row * 4 + column / 2][0] >> column % 2 * 16 & 0xffff)
            << e * 16;
    }
    emulated::meet_warp();
    return y;
}
inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    emulated::product<16>(c, a, b0, b1, [](uint32_t x) { return __uint_as_float(x << 16); });
}
inline void multiply_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    emulated::product<16>(c, a, b0, b1, [](uint32_t x) { return half_value((uint16_t)x); });
}
inline void multiply_e4m3(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    emulated::product<8>(c, a, b0, b1, [](uint32_t x) { return e4m3_value(x); });
}
inline void multiply_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    emulated::product<8>(c, a, b0, b1, [](uint32_t x) { return (int)(int8_t)x; });
}
inline void begin_copy(void *to, const void *from, bool there)
{
    if (there) memcpy(to, from, 16);
    else memset(to, 0, 16);
}
inline void await_copies() {}
inline float exp2_fast(float x) { return exp2f(x); }
inline float log2_fast(float x) { return log2f(x); }
inline float max_nan(float x, float y) { return x != x || y != y ? NAN : fmaxf(x, y); }

#endif

/* f16 by its definition. */
#ifndef SG_TESTS_EMULATED_CUDA_FP16_H
#define SG_TESTS_EMULATED_CUDA_FP16_H

#include <cuda_runtime.h>

inline float half_value(uint16_t bits)
{
    const int e = bits >> 10 & 31, m = bits & 1023;
    float size = e == 31 ? (m ? NAN : INFINITY)
        : e              ? __uint_as_float((uint32_t)(e + 112) << 23 | (uint32_t)m << 13)
                         : (float)m * 0x1p-24f;
    return bits & 0x8000 ? -size : size;
}

struct __half {
    uint16_t bits;
};
struct __half2 {
    __half x, y;
};
/* Of numbers that f16 holds, which is all the kernels convert; others become NaN. */
inline __half __float2half(float f)
{
    int e;
    const float m = frexpf(fabsf(f), &e); /* [1/2, 1) */
    const uint32_t sign = __float_as_uint(f) >> 16 & 0x8000;
    const uint32_t bits = f == 0 ? 0
        : e < -13                ? (uint32_t)ldexpf(m, e + 24)
                                 : (uint32_t)(e + 14) << 10 | ((uint32_t)ldexpf(m, 11) & 1023);
    const __half h = {(uint16_t)(sign | bits)};
    return half_value(h.bits) == f ? h : __half{0x7fff};
}
inline __half2 __half2half2(__half x) { return {x, x}; }
inline __half2 __hmul2(__half2 a, __half2 b)
{
    return {__float2half(half_value(a.x.bits) * half_value(b.x.bits)),
        __float2half(half_value(a.y.bits) * half_value(b.y.bits))};
}

#endif

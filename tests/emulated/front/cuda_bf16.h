#ifndef SG_TESTS_EMULATED_CUDA_BF16_H
#define SG_TESTS_EMULATED_CUDA_BF16_H

#include <cuda_runtime.h>

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float((uint32_t)x.bits << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    uint32_t x = __float_as_uint(f);
    if (f != f) return {0x7fff};
    return {(uint16_t)((x + 0x7fff + (x >> 16 & 1)) >> 16)};
}

inline __nv_bfloat162 __floats2bfloat162_rn(float lo, float hi)
{
    return {__float2bfloat16_rn(lo), __float2bfloat16_rn(hi)};
}

#endif

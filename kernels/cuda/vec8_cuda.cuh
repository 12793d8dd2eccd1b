/* Eight values of a row at a time, bf16 or f32 in memory, f32 in registers; addresses on 16 bytes.
 */
#ifndef SG_KERNELS_CUDA_VEC8_CUDA_CUH
#define SG_KERNELS_CUDA_VEC8_CUDA_CUH

#include <cuda_bf16.h>
#include <stdint.h>

namespace vec8
{

struct floats8 {
    float x[8];
};

__device__ __forceinline__ floats8 widen(uint4 v)
{
    const uint32_t w[4] = {v.x, v.y, v.z, v.w};
    floats8 f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f.x[2 * i] = __uint_as_float(w[i] << 16);
        f.x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
    return f;
}

__device__ __forceinline__ floats8 load8(const uint16_t *at) { return widen(*(const uint4 *)at); }

__device__ __forceinline__ floats8 load8(const float *at)
{
    float4 a = ((const float4 *)at)[0], b = ((const float4 *)at)[1];
    return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ __forceinline__ uint32_t pack2(float lo, float hi)
{
    __nv_bfloat162 x = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&x;
}

__device__ __forceinline__ uint4 narrow(const floats8 &f)
{
    return make_uint4(
        pack2(f.x[0], f.x[1]), pack2(f.x[2], f.x[3]), pack2(f.x[4], f.x[5]), pack2(f.x[6], f.x[7]));
}

__device__ __forceinline__ void store8(uint16_t *at, const floats8 &f) { *(uint4 *)at = narrow(f); }

__device__ __forceinline__ void store8(float *at, const floats8 &f)
{
    ((float4 *)at)[0] = make_float4(f.x[0], f.x[1], f.x[2], f.x[3]);
    ((float4 *)at)[1] = make_float4(f.x[4], f.x[5], f.x[6], f.x[7]);
}

} // namespace vec8

#endif

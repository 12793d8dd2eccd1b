/* Hopper's eight-bit matrix products, one to a function, and what feeds them. Beside sm90.cuh,
 * which has the rest.
 *
 * Source: PTX ISA 8.x, "Asynchronous warpgroup level matrix instructions". Both operands have the
 * summed direction contiguous (for eight bits there is no other way); one instruction sums over 32.
 */
#ifndef SG_KERNELS_CUDA_WGMMA8_SM90_CUH
#define SG_KERNELS_CUDA_WGMMA8_SM90_CUH

#include "kernels/cuda/sm90.cuh"

namespace sm90
{

/* Whether the phase of that parity has ended, without waiting. */
__device__ __forceinline__ bool mbar_test(uint64_t *bar, uint32_t parity)
{
    uint32_t done;
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}\n"
                 : "=r"(done)
                 : "r"(shared_address(bar)), "r"(parity)
                 : "memory");
    return done != 0;
}

/* Contiguous bytes (a multiple of 16) from global to shared memory. */
__device__ __forceinline__ void bulk_load(void *to, const void *from, uint32_t bytes, uint64_t *bar)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(bar))
        : "memory");
}

/* Matrix descriptor of rows of ROW bytes, 128 or 64, in the swizzle of that width; eight rows
 * follow eight rows. */
template <int ROW> __device__ __forceinline__ uint64_t rows_descriptor(const void *tile)
{
    uint64_t d = (shared_address(tile) & 0x3ffff) >> 4;
    d |= (uint64_t)1 << 16;
    d |= (uint64_t)(8 * ROW >> 4) << 32;
    d |= (uint64_t)(ROW == 128 ? 1 : 2) << 62;
    return d;
}

#define SG_WORDS8(a, i)                                                                         \
    "+r"(a[i]), "+r"(a[i + 1]), "+r"(a[i + 2]), "+r"(a[i + 3]), "+r"(a[i + 4]), "+r"(a[i + 5]), \
        "+r"(a[i + 6]), "+r"(a[i + 7])
#define SG_WORDS64(a)                                                                       \
    SG_WORDS8(a, 0), SG_WORDS8(a, 8), SG_WORDS8(a, 16), SG_WORDS8(a, 24), SG_WORDS8(a, 32), \
        SG_WORDS8(a, 40), SG_WORDS8(a, 48), SG_WORDS8(a, 56)

#define SG_D64                                                                         \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "          \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
#define SG_D32                                                                \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "

__device__ __forceinline__ void mma_fence(int (&d)[64])
{
    asm volatile("wgmma.fence.sync.aligned;" : SG_WORDS64(d)::"memory");
}

template <int LEFT> __device__ __forceinline__ void mma_wait(int (&d)[64])
{
    asm volatile("wgmma.wait_group.sync.aligned %64;" : SG_WORDS64(d) : "n"(LEFT) : "memory");
}

/* d[64 x 128] (+)= A[64 x 32] B[128 x 32]ᵀ of signed bytes, exact in 32 bits. */
__device__ __forceinline__ void mma8_ss(int (&d)[64], uint64_t a, uint64_t b, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 " SG_D64 "%64, %65, p;\n}\n"
                 : SG_WORDS64(d)
                 : "l"(a), "l"(b), "r"(accumulate));
}

/* The same of e4m3. */
__device__ __forceinline__ void mma8_ss(float (&d)[64], uint64_t a, uint64_t b, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " SG_D64
                 "%64, %65, p, 1, 1;\n}\n"
                 : SG_REGS64(d)
                 : "l"(a), "l"(b), "r"(accumulate));
}

/* d[64 x 128] (+)= A[64 x 32] B[128 x 32]ᵀ of e4m3, A in registers. */
__device__ __forceinline__ void mma8_rs(
    float (&d)[64], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " SG_D64
                 "{%64, %65, %66, %67}, %68, p, 1, 1;\n}\n"
                 : SG_REGS64(d)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(accumulate));
}

/* d[64 x 64] (+)= A[64 x 32] B[64 x 32]ᵀ of e4m3, A in registers. */
__device__ __forceinline__ void mma8_rs(
    float (&d)[32], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 " SG_D32
                 "{%32, %33, %34, %35}, %36, p, 1, 1;\n}\n"
                 : SG_REGS32(d)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(accumulate));
}

} // namespace sm90

#endif

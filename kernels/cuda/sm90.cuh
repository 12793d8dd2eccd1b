/* Hopper's own instructions, wrapped one to a function: mbarriers, bulk tensor copies, wgmma, named
 * barriers.
 *
 * Needs compute_90a. Sources: PTX ISA 8.x, sections "Asynchronous warpgroup level matrix
 * instructions", "mbarrier" and "cp.async.bulk.tensor". Tiles in shared memory are rows of 128
 * bytes in the 128-byte swizzle; a head of more than 64 elements is cut in panels of 64 that follow
 * each other.
 */
#ifndef SG_KERNELS_CUDA_SM90_CUH
#define SG_KERNELS_CUDA_SM90_CUH

#include "kernels/cuda/mma_ptx.cuh"

#include <cuda.h>
#include <stdint.h>

namespace sm90
{

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void mbar_init(uint64_t *bar, int arrivals)
{
    asm volatile(
        "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(arrivals));
}

/* Make the barriers' first state visible to the copy engine. */
__device__ __forceinline__ void mbar_init_fence(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbar_arrive(uint64_t *bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}

/* Arrive, and expect that many bytes of copies before the phase may end. */
__device__ __forceinline__ void mbar_expect(uint64_t *bar, uint32_t bytes)
{
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)),
        "r"(bytes)
        : "memory");
}

/* Block until the phase of that parity has ended. */
__device__ __forceinline__ void mbar_wait(uint64_t *bar, uint32_t parity)
{
    asm volatile("{\n.reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n}\n" ::"r"(shared_address(bar)),
                 "r"(parity)
                 : "memory");
}

/* Copy one box of a rank-4 tensor into shared memory; coordinates count elements, and may lie
 * outside (zeros). */
__device__ __forceinline__ void tma_load(
    void *to, const CUtensorMap *map, uint64_t *bar, int x, int row, int panel, int head)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(to)),
                 "l"(map), "r"(shared_address(bar)), "r"(x), "r"(row), "r"(panel), "r"(head)
                 : "memory");
}

/* Copy one box back; what lies outside the tensor is not written. */
__device__ __forceinline__ void tma_store(
    const CUtensorMap *map, const void *from, int x, int row, int panel, int head)
{
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group "
                 "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                 "r"(shared_address(from)), "r"(x), "r"(row), "r"(panel), "r"(head)
                 : "memory");
}

__device__ __forceinline__ void tma_store_commit(void)
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* The shared memory of every committed store has been read. */
__device__ __forceinline__ void tma_store_drained(void)
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

__device__ __forceinline__ void tma_prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* Where a grid may begin before the one before it has ended: until that has, and its results are
 * visible. */
__device__ __forceinline__ void wait_for_grid_before(void)
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* Ordinary stores to shared memory become visible to the copy engine and the tensor cores. */
__device__ __forceinline__ void proxy_fence(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void named_sync(int id, int threads)
{
    asm volatile("barrier.cta.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_arrive(int id, int threads)
{
    asm volatile("barrier.cta.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Barrier that also tells whether any thread's predicate was true. */
__device__ __forceinline__ bool named_any(int id, int threads, bool mine)
{
    int any;
    asm volatile("{\n.reg .pred in, out;\n"
                 "setp.ne.b32 in, %3, 0;\n"
                 "barrier.cta.red.or.pred out, %1, %2, in;\n"
                 "selp.b32 %0, 1, 0, out;\n}\n"
                 : "=r"(any)
                 : "r"(id), "r"(threads), "r"((int)mine)
                 : "memory");
    return any != 0;
}

template <int N> __device__ __forceinline__ void registers_grow(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> __device__ __forceinline__ void registers_shrink(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* Matrix descriptor of a tile in 128-byte swizzle. `group` is the distance in bytes between groups
 * of 8 rows; `panel` that between 64-column panels, used only where the contiguous direction is not
 * the summed one. */
__device__ __forceinline__ uint64_t tile_descriptor(
    const void *tile, uint32_t group, uint32_t panel)
{
    uint64_t d = (shared_address(tile) & 0x3ffff) >> 4;
    d |= (uint64_t)(panel >> 4) << 16;
    d |= (uint64_t)(group >> 4) << 32;
    d |= (uint64_t)1 << 62;
    return d;
}

__device__ __forceinline__ void mma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

#define SG_REGS8(a, i)                                                                          \
    "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3]), "+f"(a[i + 4]), "+f"(a[i + 5]), \
        "+f"(a[i + 6]), "+f"(a[i + 7])
#define SG_REGS32(a) SG_REGS8(a, 0), SG_REGS8(a, 8), SG_REGS8(a, 16), SG_REGS8(a, 24)
#define SG_REGS64(a) \
    SG_REGS32(a), SG_REGS8(a, 32), SG_REGS8(a, 40), SG_REGS8(a, 48), SG_REGS8(a, 56)

/* Registers written by ordinary instructions become visible to the wgmma that follow. */
__device__ __forceinline__ void mma_fence(float (&d)[64])
{
    asm volatile("wgmma.fence.sync.aligned;" : SG_REGS64(d)::"memory");
}
__device__ __forceinline__ void mma_fence(float (&d)[32])
{
    asm volatile("wgmma.fence.sync.aligned;" : SG_REGS32(d)::"memory");
}

/* Wait until at most LEFT committed groups are under way. Naming the accumulators keeps the
 * compiler from reading them earlier. */
template <int LEFT> __device__ __forceinline__ void mma_wait(float (&d)[64])
{
    asm volatile("wgmma.wait_group.sync.aligned %64;" : SG_REGS64(d) : "n"(LEFT) : "memory");
}
template <int LEFT> __device__ __forceinline__ void mma_wait(float (&d)[32])
{
    asm volatile("wgmma.wait_group.sync.aligned %32;" : SG_REGS32(d) : "n"(LEFT) : "memory");
}

/* d[64 x 128] (+)= A[64 x 16] B[128 x 16]ᵀ, both K-major in shared memory. */
__device__ __forceinline__ void mma_ss(float (&d)[64], uint64_t a, uint64_t b, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, p, 1, 1, 0, 0;\n}\n"
                 : SG_REGS64(d)
                 : "l"(a), "l"(b), "r"(accumulate));
}

/* d[64 x 64] (+)= A[64 x 16] B[64 x 16]ᵀ, both K-major in shared memory. */
__device__ __forceinline__ void mma_ss(float (&d)[32], uint64_t a, uint64_t b, int accumulate)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "%32, %33, p, 1, 1, 0, 0;\n}\n"
                 : SG_REGS32(d)
                 : "l"(a), "l"(b), "r"(accumulate));
}

/* d[64 x 128] += A[64 x 16] B[16 x 128], A in registers, B with its 128 columns contiguous. */
__device__ __forceinline__ void mma_rs(
    float (&d)[64], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
                 : SG_REGS64(d)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

/* d[64 x 64] += A[64 x 16] B[16 x 64], A in registers, B with its 64 columns contiguous. */
__device__ __forceinline__ void mma_rs(
    float (&d)[32], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
                 : SG_REGS32(d)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

/* Two floats rounded to bf16, the first in the low half. */
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi)
{
    uint32_t r;
    asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

} // namespace sm90

#endif

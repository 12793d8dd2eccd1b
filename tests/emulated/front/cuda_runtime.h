/* As much of CUDA as the portable kernels use, on the CPU: a CTA is 128 or fewer fibers of one
 * thread, a collective operation is a barrier of the warp or the CTA. For the test emulated_cuda.
 */
#ifndef SG_TESTS_EMULATED_CUDA_RUNTIME_H
#define SG_TESTS_EMULATED_CUDA_RUNTIME_H

#include <algorithm>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ thread_local /* one for all fibers, which are of one thread */
#define __CUDA_ARCH__ 800

using std::max;
using std::min;

struct uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
typedef void *cudaStream_t;
typedef int cudaError_t;
enum { cudaSuccess = 0, cudaFuncAttributeMaxDynamicSharedMemorySize = 0 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
template <typename F> cudaError_t cudaFuncSetAttribute(F, int, int) { return cudaSuccess; }
enum { cudaDevAttrMultiProcessorCount = 0 };
inline cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int *sms, int, int) { return *sms = 8, cudaSuccess; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

inline dim3 blockIdx, gridDim, threadIdx;

namespace emulated
{

enum { MOST = 128, STACK = 512 * 1024 };

struct meeting {
    int arrived = 0, round = 0;
};
inline void *scheduler, *fibers[MOST]; /* stack pointers */
inline std::vector<char> stacks;
inline bool ended[MOST];
inline int n_fibers, now;
inline meeting warps[MOST / 32], cta;
inline uint32_t board[MOST][8]; /* what each lane shows its warp */
inline int any;
inline void (*body)(const void *);
inline const void *body_args;

/* Keeps what a function must keep (System V, x86-64) on this stack, and goes on where the other was
 * left. swapcontext() does so too, but asks the kernel for the signal mask each time, which took
 * half of the test's time. */
__attribute__((naked, noinline)) inline void go_on(void **, void *)
{
    asm("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
        "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret");
}

inline void yield() { go_on(&fibers[now], scheduler); }

inline void meet(meeting &m, int of)
{
    const int round = m.round;
    if (++m.arrived == of) m.arrived = 0, m.round++;
    while (m.round == round) yield();
}

inline void meet_warp() { meet(warps[now / 32], 32); }

inline void fiber()
{
    body(body_args);
    ended[now] = true;
    yield();
}

inline void run_cta(int threads)
{
    stacks.resize((size_t)MOST * STACK);
    n_fibers = threads;
    for (int i = 0; i < threads; i++) {
        /* six registers, where to begin, and a caller that nobody goes back to */
        void **top =
            (void **)(((uintptr_t)stacks.data() + (size_t)(i + 1) * STACK) & ~(uintptr_t)15);
        top[-1] = NULL;
        top[-2] = (void *)fiber;
        fibers[i] = top - 8;
        ended[i] = false;
    }
    for (bool left = true; left;) {
        left = false;
        for (int i = 0; i < threads; i++) {
            if (ended[i]) continue;
            left = true, now = i, threadIdx = dim3((unsigned)i, 0, 0);
            go_on(&scheduler, fibers[i]);
        }
    }
}

} // namespace emulated

inline void __syncthreads() { emulated::meet(emulated::cta, emulated::n_fibers); }

inline bool __syncthreads_or(bool mine)
{
    __syncthreads();
    emulated::any = 0;
    __syncthreads();
    emulated::any |= mine;
    __syncthreads();
    return emulated::any != 0;
}

template <typename T> T __shfl_xor_sync(uint32_t, T x, int by)
{
    const int at = emulated::now;
    memcpy(&emulated::board[at][0], &x, 4);
    emulated::meet_warp();
    memcpy(&x, &emulated::board[at ^ by][0], 4);
    emulated::meet_warp();
    return x;
}

template <typename T> T __ldg(const T *p) { return *p; }
inline float __uint_as_float(uint32_t x)
{
    float f;
    memcpy(&f, &x, 4);
    return f;
}
inline uint32_t __float_as_uint(float f)
{
    uint32_t x;
    memcpy(&x, &f, 4);
    return x;
}
inline float __int_as_float(int x) { return __uint_as_float((uint32_t)x); }
inline int __float_as_int(float f) { return (int)__float_as_uint(f); }
inline int __float2int_rn(float f) { return f != f ? 0 : (int)rintf(f); }
inline uint32_t __float2uint_rn(float f) { return (uint32_t)rintf(f); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline unsigned long long atomicAdd(unsigned long long *to, unsigned long long by)
{
    *to += by;
    return *to - by;
}
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t which)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) r |= (uint32_t)(both >> 8 * (which >> 4 * i & 7) & 0xff) << 8 * i;
    return r;
}
inline uint32_t __vcmpeq2(uint32_t a, uint32_t b)
{
    const uint32_t x = a ^ b;
    return (x & 0xffff ? 0 : 0xffffu) | (x >> 16 ? 0 : 0xffff0000u);
}

#endif

/* Random attention problems on the device, shared by the checks and the timings of
 * check_kernels_cuda. */
#ifndef SG_TESTS_KERNELS_CUDA_PROBLEM_CUH
#define SG_TESTS_KERNELS_CUDA_PROBLEM_CUH

extern "C" {
#include "kernels/attn.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/mask.h"
#include "kernels/cuda/ops_cuda.h"
}
#include <cuda_bf16.h>

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#define CHECK(e)                                                                           \
    do {                                                                                   \
        cudaError_t check_ = (e);                                                          \
        if (check_ != cudaSuccess) {                                                       \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #e, cudaGetErrorString(check_)); \
            exit(3);                                                                       \
        }                                                                                  \
    } while (0)

template <typename T> struct buffer {
    T *at = NULL;
    size_t n = 0;
    explicit buffer(size_t count) : n(count) { CHECK(cudaMalloc(&at, (n ? n : 1) * sizeof(T))); }
    ~buffer() { cudaFree(at); }
    buffer(const buffer &) = delete;
    void put(const std::vector<T> &v)
    {
        CHECK(cudaMemcpy(at, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
    }
    std::vector<T> get() const
    {
        std::vector<T> v(n);
        CHECK(cudaMemcpy(v.data(), at, n * sizeof(T), cudaMemcpyDeviceToHost));
        return v;
    }
    void fill(int byte) { CHECK(cudaMemset(at, byte, n * sizeof(T))); }
};

static uint64_t seed_now = 20260101;

__host__ __device__ static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

[[maybe_unused]] __device__ static float uniform(uint64_t bits)
{
    return ((float)(bits >> 40) + 0.5f) * (1.0f / 16777216.0f);
}

/* Normal numbers; with `drift`, rows of the same 256-row stretch share a direction, as text does.
 */
__global__ static void random_kernel(
    __nv_bfloat16 *x, size_t n, int row, int d, float gain, float drift, uint64_t seed)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        uint64_t a = mix(seed ^ i * 2), b = mix(seed ^ (i * 2 + 1));
        float g = sqrtf(-2 * logf(uniform(a))) * cospif(2 * uniform(b));
        size_t topic = i / row / 256 * 1024 + i % row % d;
        uint64_t c = mix(~seed ^ topic * 2), e = mix(~seed ^ (topic * 2 + 1));
        float t = sqrtf(-2 * logf(uniform(c))) * cospif(2 * uniform(e));
        x[i] = __float2bfloat16_rn(gain * (g + drift * t));
    }
}

static void randomise(buffer<__nv_bfloat16> &x, int row, int d, float gain, float drift)
{
    random_kernel<<<1024, 256>>>(x.at, x.n, row, d, gain, drift, mix(seed_now++));
    CHECK(cudaGetLastError());
}

/* Each tile kept with that probability; the diagonal always. */
__global__ static void map_kernel(
    struct tile_map m, int q_start, int n_kv, float keep, uint64_t seed)
{
    int rows = m.n_heads * m.n_qblocks;
    for (int r = blockIdx.x * blockDim.x + threadIdx.x; r < rows; r += gridDim.x * blockDim.x) {
        int qb = q_start / m.block.q + r % m.n_qblocks,
            n = (min((qb + 1) * m.block.q, n_kv) - 1) / m.block.k + 1;
        for (int w = 0; w < m.words_per_row; w++) {
            uint64_t bits = 0;
            for (int j = w * 64; j < n && j < w * 64 + 64; j++)
                if ((j + 1) * m.block.k > qb * m.block.q ||
                    uniform(mix(seed ^ ((uint64_t)r * 4096 + (uint64_t)j))) < keep)
                    bits |= 1ull << (j % 64);
            m.bits[(size_t)r * m.words_per_row + w] = bits;
        }
    }
}

struct problem {
    int n, q_start, heads, kv_heads, d;
    bool token_major;
    struct block_shape block;
    float keep;   /* < 0: dense */
    float lambda; /* < 0: none */
    bool mixed;   /* every third head dense */
    float gain;
    enum precision qk = PRECISION_FULL; /* int8, fp8: and P·V in fp8 */
};

struct data {
    int n_kv;
    buffer<__nv_bfloat16> q, k, v;
    data(const problem &p)
        : n_kv(p.n + p.q_start), q((size_t)p.n * p.heads * p.d), k((size_t)n_kv * p.kv_heads * p.d),
          v((size_t)n_kv * p.kv_heads * p.d)
    {
        randomise(q, p.token_major ? p.heads * p.d : p.d, p.d, p.gain, 0.5f);
        randomise(k, p.token_major ? p.kv_heads * p.d : p.d, p.d, p.gain, 0.5f);
        randomise(v, p.d, p.d, 1.0f, 0.0f);
    }
};

[[maybe_unused]] static struct attn_args arguments(const problem &p, const data &x, void *o)
{
    struct attn_args a = {};
    a.dtype = DTYPE_BF16;
    a.n_q = p.n, a.q_start = p.q_start, a.n_heads = p.heads, a.n_kv_heads = p.kv_heads,
    a.head_dim = p.d;
    a.scale = 1.0f / sqrtf((float)p.d);
    a.q = x.q.at, a.k = x.k.at, a.v = x.v.at, a.o = o;
    a.q_row = a.o_row = p.token_major ? p.heads * p.d : p.d;
    a.k_row = a.v_row = p.token_major ? p.kv_heads * p.d : p.d;
    a.q_head = a.o_head = p.token_major ? p.d : (ptrdiff_t)p.n * p.d;
    a.k_head = a.v_head = p.token_major ? p.d : (ptrdiff_t)x.n_kv * p.d;
    a.block = p.block;
    a.qk = p.qk, a.pv = p.qk == PRECISION_FULL ? PRECISION_FULL : PRECISION_FP8;
    return a;
}

#endif

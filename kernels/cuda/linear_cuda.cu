extern "C" {
#include "kernels/cuda/linear_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <pthread.h>

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define LIBRARY "libcublas.so." TEXT(CUBLAS_VER_MAJOR)

struct gemm_cuda {
    cublasHandle_t handle;
    const struct device_impl *impl;
    struct device *d;
    void *workspace;
};

namespace
{

struct {
    decltype(&cublasCreate_v2) create;
    decltype(&cublasDestroy_v2) destroy;
    decltype(&cublasSetStream_v2) set_stream;
    decltype(&cublasSetWorkspace_v2) set_workspace;
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
        const void *, const void *, cudaDataType, int, const void *, cudaDataType, int,
        const void *, void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);
    char error[256]; /* empty: loaded */
} blas;

template <typename F> bool find(void *library, const char *name, F *f)
{
    *f = (F)dlsym(library, name);
    return *f != NULL;
}

void load_library()
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        snprintf(blas.error, sizeof blas.error, "%s", dlerror());
        return;
    }
    if (!find(library, "cublasCreate_v2", &blas.create) ||
        !find(library, "cublasDestroy_v2", &blas.destroy) ||
        !find(library, "cublasSetStream_v2", &blas.set_stream) ||
        !find(library, "cublasSetWorkspace_v2", &blas.set_workspace) ||
        !find(library, "cublasGemmEx", &blas.gemm))
        snprintf(blas.error, sizeof blas.error, "%s", dlerror());
}

enum {
    VECTOR_THREADS = 256,
    VECTOR_AHEAD = 8, /* sixteen-byte loads of W that a lane has in flight */
    MANY_ROWS = 8192
};

__device__ __forceinline__ void put(float *y, float sum, bool add) { *y = add ? *y + sum : sum; }

__device__ __forceinline__ void put(__nv_bfloat16 *y, float sum, bool add)
{
    *y = __float2bfloat16_rn(add ? __bfloat162float(*y) + sum : sum);
}

__device__ __forceinline__ float dot8(uint4 a, uint4 b, float sum)
{
    const uint32_t x[4] = {a.x, a.y, a.z, a.w}, w[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum = fmaf(__uint_as_float(x[i] << 16), __uint_as_float(w[i] << 16), sum);
        sum = fmaf(__uint_as_float(x[i] & 0xffff0000u), __uint_as_float(w[i] & 0xffff0000u), sum);
    }
    return sum;
}

/* One row of x: a warp per row of W, which is read once and never again; x stays in the first-level
 * cache. A decode step of a 1B model took 1.43 ms with cuBLAS and takes 1.36 so. */
template <typename Y>
__global__ __launch_bounds__(VECTOR_THREADS) void vector_kernel(
    const uint4 *x, const uint4 *w, int m, int pieces, Y *y, bool add)
{
    const int row = blockIdx.x * (VECTOR_THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= m) return;
    const uint4 *from = w + (size_t)row * pieces;
    float sum = 0;
    for (int i0 = lane; i0 < pieces; i0 += 32 * VECTOR_AHEAD) {
        uint4 held[VECTOR_AHEAD];
#pragma unroll
        for (int i = 0; i < VECTOR_AHEAD; i++)
            held[i] = i0 + 32 * i < pieces ? __ldcs(from + i0 + 32 * i) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < VECTOR_AHEAD; i++)
            if (i0 + 32 * i < pieces) sum = dot8(x[i0 + 32 * i], held[i], sum);
    }
#pragma unroll
    for (int i = 16; i > 0; i /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
    if (lane == 0) put(y + row, sum, add);
}

/* Few rows of x: R rows of W a warp, each of whose pieces meets all rows of x. A sum is built as
 * vector_kernel builds it, so that a row's values do not depend on how many stand beside it. */
template <typename Y, int R>
__global__ __launch_bounds__(VECTOR_THREADS) void rows_kernel(
    const uint4 *x, const uint4 *w, int n, int m, int pieces, Y *y, int y_stride, bool add)
{
    constexpr int AHEAD = VECTOR_AHEAD / R;
    const int first = (blockIdx.x * (VECTOR_THREADS / 32) + threadIdx.x / 32) * R,
              lane = threadIdx.x % 32;
    if (first >= m) return;
    float sum[R][GEMM_CUDA_ROWS] = {};
    for (int i0 = lane; i0 < pieces; i0 += 32 * AHEAD) {
        uint4 held[AHEAD][R];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int r = 0; r < R; r++)
                held[i][r] = i0 + 32 * i < pieces && first + r < m
                    ? __ldcs(w + (size_t)(first + r) * pieces + i0 + 32 * i)
                    : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (i0 + 32 * i >= pieces) break;
#pragma unroll
            for (int b = 0; b < GEMM_CUDA_ROWS; b++) {
                if (b >= n) continue;
                const uint4 v = __ldg(x + (size_t)b * pieces + i0 + 32 * i);
#pragma unroll
                for (int r = 0; r < R; r++) sum[r][b] = dot8(v, held[i][r], sum[r][b]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int b = 0; b < GEMM_CUDA_ROWS; b++) {
            if (b >= n) continue;
            float total = sum[r][b];
#pragma unroll
            for (int i = 16; i > 0; i /= 2) total += __shfl_xor_sync(0xffffffffu, total, i);
            if (lane == b && first + r < m) put(y + (size_t)b * y_stride + first + r, total, add);
        }
}

/* Two rows of W a warp where more would leave multiprocessors without work. */
template <typename Y>
enum status run_rows(int n, int m, int k, const uint16_t *x, const uint16_t *w, Y *y, int y_stride,
    bool add, cudaStream_t stream)
{
    const int warps = VECTOR_THREADS / 32;
    const uint4 *from = (const uint4 *)x, *by = (const uint4 *)w;
    if (m >= MANY_ROWS)
        rows_kernel<Y, 4>
            <<<(unsigned)((m + 4 * warps - 1) / (4 * warps)), VECTOR_THREADS, 0, stream>>>(
                from, by, n, m, k / 8, y, y_stride, add);
    else
        rows_kernel<Y, 2>
            <<<(unsigned)((m + 2 * warps - 1) / (2 * warps)), VECTOR_THREADS, 0, stream>>>(
                from, by, n, m, k / 8, y, y_stride, add);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

template <typename Y>
enum status run_vector(
    int m, int k, const uint16_t *x, const uint16_t *w, Y *y, bool add, cudaStream_t stream)
{
    const int rows = VECTOR_THREADS / 32;
    const unsigned grid = (unsigned)((m + rows - 1) / rows);
    vector_kernel<<<grid, VECTOR_THREADS, 0, stream>>>(
        (const uint4 *)x, (const uint4 *)w, m, k / 8, y, add);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

enum status check(cublasStatus_t s, const char *what)
{
    if (s == CUBLAS_STATUS_SUCCESS) return OK;
    return fail(s == CUBLAS_STATUS_ALLOC_FAILED ? ERR_MEMORY : ERR_DEVICE, "cuBLAS %s: status %d",
        what, (int)s);
}

enum status open_on(struct gemm_cuda *g)
{
    TRY(check(blas.create(&g->handle), "create"));
    TRY(g->impl->alloc(g->d, &g->workspace, GEMM_CUDA_WORKSPACE));
    TRY(check(blas.set_stream(g->handle, (cudaStream_t)g->impl->stream(g->d)), "set stream"));
    return check(blas.set_workspace(g->handle, g->workspace, GEMM_CUDA_WORKSPACE), "set workspace");
}

} // namespace

extern "C" {

enum status gemm_cuda_open(struct gemm_cuda **out, const struct device_impl *impl, struct device *d)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    *out = NULL;
    pthread_once(&once, load_library);
    if (blas.error[0])
        return fail(ERR_DEVICE,
            "%s cannot be loaded (%s); install cuBLAS of CUDA %d or put its folder into "
            "LD_LIBRARY_PATH",
            LIBRARY, blas.error, CUBLAS_VER_MAJOR);
    struct gemm_cuda *g = (struct gemm_cuda *)calloc(1, sizeof *g);
    if (g == NULL) return fail(ERR_MEMORY, "no memory for a cuBLAS handle");
    g->impl = impl;
    g->d = d;
    enum status st = open_on(g);
    if (st != OK) gemm_cuda_close(&g);
    *out = g;
    return st;
}

void gemm_cuda_close(struct gemm_cuda **g)
{
    if (*g == NULL) return;
    if ((*g)->handle != NULL) blas.destroy((*g)->handle);
    (*g)->impl->free((*g)->d, (*g)->workspace);
    free(*g);
    *g = NULL;
}

enum status gemm_cuda_run(struct gemm_cuda *g, int n, int m, int k, const uint16_t *x,
    const uint16_t *w, void *y, int y_stride, enum dtype y_type, bool add)
{
    const float one = 1, beta = add ? 1 : 0;
    if (n == 1 && k % 8 == 0) {
        cudaStream_t stream = (cudaStream_t)g->impl->stream(g->d);
        return y_type == DTYPE_F32 ? run_vector(m, k, x, w, (float *)y, add, stream)
                                   : run_vector(m, k, x, w, (__nv_bfloat16 *)y, add, stream);
    }
    if (n <= GEMM_CUDA_ROWS && k % 8 == 0) {
        cudaStream_t stream = (cudaStream_t)g->impl->stream(g->d);
        return y_type == DTYPE_F32
            ? run_rows(n, m, k, x, w, (float *)y, y_stride, add, stream)
            : run_rows(n, m, k, x, w, (__nv_bfloat16 *)y, y_stride, add, stream);
    }
    /* Column-major: yᵀ [m, n] = W [m, k] xᵀ [k, n]. */
    return check(blas.gemm(g->handle, CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one, w, CUDA_R_16BF, k, x,
                     CUDA_R_16BF, k, &beta, y, y_type == DTYPE_F32 ? CUDA_R_32F : CUDA_R_16BF,
                     y_stride, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "product");
}
}

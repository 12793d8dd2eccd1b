extern "C" {
#include "kernels/cuda/linear_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"
#include "kernels/cuda/mma.cuh"

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
    int sms;
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
    ROWS_OF_W = 16,   /* of a CTA */
    ROWS_AHEAD = 4,   /* steps of 32 values of k whose loads a warp has in flight: a stretch */
    ROWS_LONG = 2048, /* values of k from which on sixteen warps have work */
    ROWS_TILE = 8     /* of x in one product of the tensor cores */
};

__device__ __forceinline__ void put(float *y, float sum, bool add) { *y = add ? *y + sum : sum; }

__device__ __forceinline__ void put(__nv_bfloat16 *y, float sum, bool add)
{
    *y = __float2bfloat16_rn(add ? __bfloat162float(*y) + sum : sum);
}

__device__ __forceinline__ uint4 piece(const uint16_t *row, int at, bool there)
{
    return there ? *(const uint4 *)(row + at) : make_uint4(0, 0, 0, 0);
}

__device__ __forceinline__ uint4 piece_once(const uint16_t *row, int at, bool there)
{
    return there ? __ldcs((const uint4 *)(row + at)) : make_uint4(0, 0, 0, 0);
}

/* Few rows of x: W is read once, past the caches, straight into the fragments of the tensor cores;
 * that a lane's eight values of k are not those the instruction's layout names does not matter, x
 * is read the same way. How sums are built does not depend on n, nor does a row of x on its
 * neighbours: a row's values are the same bits in any company. TILES of eight rows of x; of WARPS
 * each takes every so many-th stretch of k. */
template <typename Y, int TILES, int WARPS>
__global__ __launch_bounds__(32 * WARPS, 1) void rows_kernel(
    const uint16_t *x, const uint16_t *w, int n, int m, int k, Y *y, int y_stride, bool add)
{
    __shared__ float part[WARPS][TILES * ROWS_TILE][ROWS_OF_W + 1];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int first = blockIdx.x * ROWS_OF_W;
    const bool low = first + g < m, high = first + g + 8 < m;
    const uint16_t *w_low = w + (size_t)(first + g) * k, *w_high = w_low + (size_t)8 * k;
    float sum[TILES][4] = {};
    for (int k0 = warp * 32 * ROWS_AHEAD; k0 < k; k0 += WARPS * 32 * ROWS_AHEAD) {
        uint4 a0[ROWS_AHEAD], a1[ROWS_AHEAD], b[ROWS_AHEAD][TILES];
#pragma unroll
        for (int i = 0; i < ROWS_AHEAD; i++) {
            const int at = k0 + 32 * i + 8 * t;
            a0[i] = piece_once(w_low, at, low && at < k);
            a1[i] = piece_once(w_high, at, high && at < k);
        }
#pragma unroll
        for (int i = 0; i < ROWS_AHEAD; i++)
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                const int at = k0 + 32 * i + 8 * t, row = j * ROWS_TILE + g;
                b[i][j] = piece(x + (size_t)row * k, at, row < n && at < k);
            }
#pragma unroll
        for (int i = 0; i < ROWS_AHEAD; i++) {
            const uint32_t one[4] = {a0[i].x, a1[i].x, a0[i].y, a1[i].y},
                           two[4] = {a0[i].z, a1[i].z, a0[i].w, a1[i].w};
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                multiply(sum[j], one, b[i][j].x, b[i][j].y);
                multiply(sum[j], two, b[i][j].z, b[i][j].w);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            part[warp][j * ROWS_TILE + 2 * t + i % 2][g + i / 2 * 8] = sum[j][i];
    __syncthreads();
    for (int i = threadIdx.x; i < n * ROWS_OF_W; i += 32 * WARPS) {
        const int row = i / ROWS_OF_W, at = i % ROWS_OF_W;
        float total = 0;
#pragma unroll
        for (int v = 0; v < WARPS; v++) total += part[v][row][at];
        if (first + at < m) put(y + (size_t)row * y_stride + first + at, total, add);
    }
}

template <typename Y>
enum status run_rows(int n, int m, int k, const uint16_t *x, const uint16_t *w, Y *y, int y_stride,
    bool add, int sms, cudaStream_t stream)
{
    const int grid = (m + ROWS_OF_W - 1) / ROWS_OF_W, tiles = n <= ROWS_TILE ? 1 : 2;
    /* one CTA a multiprocessor, with as many loads in flight as two have */
    const int warps = grid <= sms && k >= ROWS_LONG ? 16 : 8;
    using kernel = void (*)(const uint16_t *, const uint16_t *, int, int, int, Y *, int, bool);
    static const kernel kernels[2][2] = {{rows_kernel<Y, 1, 8>, rows_kernel<Y, 2, 8>},
        {rows_kernel<Y, 1, 16>, rows_kernel<Y, 2, 16>}};
    kernels[warps == 16][tiles == 2]<<<(unsigned)grid, 32 * warps, 0, stream>>>(
        x, w, n, m, k, y, y_stride, add);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

static_assert(GEMM_CUDA_ROWS == 2 * ROWS_TILE, "two tiles hold all rows");

enum status check(cublasStatus_t s, const char *what)
{
    if (s == CUBLAS_STATUS_SUCCESS) return OK;
    return fail(s == CUBLAS_STATUS_ALLOC_FAILED ? ERR_MEMORY : ERR_DEVICE, "cuBLAS %s: status %d",
        what, (int)s);
}

enum status open_on(struct gemm_cuda *g)
{
    int device;
    TRY(check(blas.create(&g->handle), "create"));
    TRY(g->impl->alloc(g->d, &g->workspace, GEMM_CUDA_WORKSPACE));
    CUDA_TRY(cudaGetDevice(&device));
    CUDA_TRY(cudaDeviceGetAttribute(&g->sms, cudaDevAttrMultiProcessorCount, device));
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
    if (n <= GEMM_CUDA_ROWS && k % 8 == 0) {
        cudaStream_t stream = (cudaStream_t)g->impl->stream(g->d);
        return y_type == DTYPE_F32
            ? run_rows(n, m, k, x, w, (float *)y, y_stride, add, g->sms, stream)
            : run_rows(n, m, k, x, w, (__nv_bfloat16 *)y, y_stride, add, g->sms, stream);
    }
    /* Column-major: yᵀ [m, n] = W [m, k] xᵀ [k, n]. */
    return check(blas.gemm(g->handle, CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one, w, CUDA_R_16BF, k, x,
                     CUDA_R_16BF, k, &beta, y, y_type == DTYPE_F32 ? CUDA_R_32F : CUDA_R_16BF,
                     y_stride, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "product");
}
}

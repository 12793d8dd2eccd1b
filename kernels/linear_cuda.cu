extern "C" {
#include "kernels/linear_cuda.h"
}
#include "kernels/cuda_check.cuh"

#include <cublas_v2.h>
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
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void *, const void *,
                           cudaDataType, int, const void *, cudaDataType, int, const void *, void *, cudaDataType, int,
                           cublasComputeType_t, cublasGemmAlgo_t);
    char error[256]; /* empty: loaded */
} blas;

template <typename F>
bool find(void *library, const char *name, F *f)
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
    if (!find(library, "cublasCreate_v2", &blas.create) || !find(library, "cublasDestroy_v2", &blas.destroy) ||
        !find(library, "cublasSetStream_v2", &blas.set_stream) ||
        !find(library, "cublasSetWorkspace_v2", &blas.set_workspace) || !find(library, "cublasGemmEx", &blas.gemm))
        snprintf(blas.error, sizeof blas.error, "%s", dlerror());
}

enum status check(cublasStatus_t s, const char *what)
{
    if (s == CUBLAS_STATUS_SUCCESS) return OK;
    return fail(s == CUBLAS_STATUS_ALLOC_FAILED ? ERR_MEMORY : ERR_DEVICE, "cuBLAS %s: status %d", what, (int)s);
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
        return fail(ERR_DEVICE, "%s cannot be loaded (%s); install cuBLAS of CUDA %d or put its folder into LD_LIBRARY_PATH",
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

enum status gemm_cuda_run(struct gemm_cuda *g, int n, int m, int k, const uint16_t *x, const uint16_t *w, void *y,
                          int y_stride, enum dtype y_type, bool add)
{
    const float one = 1, beta = add ? 1 : 0;
    /* Column-major: yᵀ [m, n] = W [m, k] xᵀ [k, n]. */
    return check(blas.gemm(g->handle, CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one, w, CUDA_R_16BF, k, x, CUDA_R_16BF, k, &beta, y,
                           y_type == DTYPE_F32 ? CUDA_R_32F : CUDA_R_16BF, y_stride, CUBLAS_COMPUTE_32F,
                           CUBLAS_GEMM_DEFAULT),
                 "product");
}
}

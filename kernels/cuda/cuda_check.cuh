/* How a CUDA error becomes a status, and the two questions kernels ask of the driver. Private to
 * the .cu files. */
#ifndef SG_KERNELS_CUDA_CUDA_CHECK_CUH
#define SG_KERNELS_CUDA_CUDA_CHECK_CUH

extern "C" {
#include "base/status.h"
}
#include <cuda.h>
#include <cuda_runtime.h>

/* ERR_MEMORY for an allocation that does not fit, else ERR_DEVICE, with the failed expression. */
enum status cuda_status(cudaError_t e, const char *what) MUST_USE;

#define CUDA_TRY(expr)                                                      \
    do {                                                                    \
        cudaError_t cuda_try_ = (expr);                                     \
        if (cuda_try_ != cudaSuccess) return cuda_status(cuda_try_, #expr); \
    } while (0)

/* Of a kernel with one argument. */
template <typename ARGS>
void cuda_launch(void (*kernel)(ARGS), dim3 grid, int threads, size_t shared, cudaStream_t stream,
    const ARGS &args)
{
    kernel<<<grid, threads, shared, stream>>>(args);
}

typedef CUresult (*cuda_encode_tiled)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
    const cuuint64_t *, const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
    CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
/* cuTensorMapEncodeTiled, asked of the loaded driver so that nothing links against it. */
enum status cuda_encode_tiled_find(cuda_encode_tiled *f) MUST_USE;

/* Compute capability of the current device as major * 10 + minor; 0 without one. */
int cuda_current_sm(void);

#endif

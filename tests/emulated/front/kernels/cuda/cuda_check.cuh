/* Launches, for the CPU; in front of the real file of this name. */
#ifndef SG_KERNELS_CUDA_CUDA_CHECK_CUH
#define SG_KERNELS_CUDA_CUDA_CHECK_CUH

extern "C" {
#include "base/status.h"
}
#include <cuda_runtime.h>

#define CUDA_TRY(expr) ((void)(expr))

/* Of the device that is played: 80 or 89. */
extern int emulated_sm;
inline int cuda_current_sm(void) { return emulated_sm; }

template <typename ARGS>
void cuda_launch(
    void (*kernel)(ARGS), dim3 grid, int threads, size_t shared, cudaStream_t, ARGS args)
{
    struct call {
        void (*kernel)(ARGS);
        ARGS *args;
    };
    static call now;
    now = {kernel, &args};
    (void)shared;
    gridDim = grid;
    emulated::body = [](const void *c) {
        ((const struct call *)c)->kernel(*((const struct call *)c)->args);
    };
    emulated::body_args = &now;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = dim3(x, y, z);
                emulated::run_cta(threads);
            }
}

#endif

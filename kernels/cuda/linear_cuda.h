/* y = x Wᵀ on the device: bf16 operands, f32 accumulation. Through cuBLAS, up to
 * GEMM_CUDA_ROWS rows of x by a kernel of our own, which gives each row what it gives alone, bit
 * for bit.
 *
 * libcublas is loaded when the first handle is opened, not linked, so that the program starts where
 * it is missing.
 */
#ifndef SG_KERNELS_CUDA_LINEAR_CUDA_H
#define SG_KERNELS_CUDA_LINEAR_CUDA_H

#include "base/status.h"
#include "kernels/device.h"
#include "kernels/dtype.h"

#include <stdbool.h>

struct gemm_cuda; /* a handle; one thread at a time */

/* Device memory that a handle holds. 32 MiB, which cuBLAS suggests for Hopper, made no product of a
 * 1B layer faster. */
enum { GEMM_CUDA_WORKSPACE = 4 << 20, GEMM_CUDA_ROWS = 16 };

/* Works on the device's own stream. ERR_DEVICE with the remedy when libcublas cannot be loaded. */
enum status gemm_cuda_open(
    struct gemm_cuda **g, const struct device_impl *impl, struct device *d) MUST_USE;
void gemm_cuda_close(struct gemm_cuda **g);

/* y [n, m; y_stride elements per row] = x [n, k] Wᵀ with W [m, k]; device memory on 16 bytes. y is
 * bf16 or f32; add: y += instead, the sum rounded once to y's type. */
enum status gemm_cuda_run(struct gemm_cuda *g, int n, int m, int k, const uint16_t *x,
    const uint16_t *w, void *y, int y_stride, enum dtype y_type, bool add) MUST_USE;

#endif

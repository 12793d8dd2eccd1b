/* y = x Wᵀ (+ b), the linear layer of a transformer: x [n, k] f32, W [m, k] in f32, f16 or bf16, y [n, m] f32.
 *
 * Half-precision weights are widened panel by panel into a scratch buffer right before OpenBLAS uses them,
 * so memory stays at the mapped weights plus one panel.
 */
#ifndef SG_KERNELS_LINEAR_H
#define SG_KERNELS_LINEAR_H

#include "base/par.h"
#include "kernels/dtype.h"

#include <stdbool.h>
#include <stddef.h>

struct linear {
    const void *weight;   /* borrowed, [m, k] row-major */
    const void *bias;     /* borrowed, [m], same dtype; NULL: none */
    enum dtype dtype;
    int m, k;
};

/* Bytes of scratch that any call with this many columns k needs; 64-byte aligned. */
size_t linear_workspace(int k, int n_threads);

/* y [n rows, stride y_stride elements] = x [n rows, stride x_stride] Wᵀ + b; add: y += instead.
 * x and y must not overlap. */
void linear_run(const struct linear *l, int n, const float *x, ptrdiff_t x_stride, float *y, ptrdiff_t y_stride,
                bool add, void *ws, struct par *par);

/* Rows [m0, m1) of W only: y [n, m1 - m0]. For the head in vocabulary chunks. */
void linear_run_rows(const struct linear *l, int m0, int m1, int n, const float *x, ptrdiff_t x_stride, float *y,
                     ptrdiff_t y_stride, void *ws, struct par *par);

/* Widen n values; exact. */
void widen(const void *from, enum dtype dtype, float *to, size_t n);

#endif

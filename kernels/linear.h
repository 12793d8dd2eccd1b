/* y = x Wᵀ (+ b), the linear layer of a transformer: x [n, k] f32, W [m, k] in f32, f16 or bf16, y
 * [n, m] f32.
 *
 * Half-precision weights are widened panel by panel into a scratch buffer right before OpenBLAS
 * uses them, so memory stays at the mapped weights plus one panel.
 */
#ifndef SG_KERNELS_LINEAR_H
#define SG_KERNELS_LINEAR_H

#include "base/par.h"
#include "kernels/dtype.h"

#include <stdbool.h>
#include <stddef.h>

struct linear {
    const void *weight; /* borrowed, [m, k] row-major */
    const float *bias;  /* borrowed, [m]; NULL: none */
    enum dtype dtype;
    int m, k;
};

/* Bytes of scratch that any call with this many columns k needs; 64-byte aligned. */
size_t linear_workspace(int k, int n_threads);

/* y [n rows, stride y_stride elements] = x [n rows, stride x_stride] Wᵀ + b; add: y += instead.
 * x and y must not overlap. The number of threads changes no bit; n and l->m may. */
void linear_run(const struct linear *l, int n, const float *x, ptrdiff_t x_stride, float *y,
    ptrdiff_t y_stride, bool add, void *ws, struct par *par);

/* The layer of rows [m0, m1) of W alone. */
struct linear linear_rows(const struct linear *l, int m0, int m1);

/* y[s] = x[s] Wᵀ + b for each of n_sides blocks of n contiguous rows: serial, in one piece each and
 * every side by the same calls, so that equal rows in equal places give equal results. l->m is at
 * most LINEAR_PANEL; ws as for one thread. */
enum { LINEAR_PANEL = 1024 };
void linear_run_sides(const struct linear *l, int n, int n_sides, const float *const *x,
    float *const *y, ptrdiff_t y_stride, void *ws);

/* Widen n values; exact. */
void widen(const void *from, enum dtype dtype, float *to, size_t n);

#endif

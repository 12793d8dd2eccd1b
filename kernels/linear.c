#include "kernels/linear.h"

#include "kernels/cpu_ops.h"

#include <cblas.h>
#include <pthread.h>

enum {
    PANEL = 1024,    /* rows of W per panel: sgemm packs x once a panel, 97 % of its peak rate against 92 % at 512 */
    FEW_ROWS = 4,    /* up to here each weight is used too rarely to be worth widening into memory */
    DOT_CHUNK = 64,  /* weight rows per task on that path */
};

void widen(const void *from, enum dtype dtype, float *to, size_t n) { cpu_ops()->widen(from, dtype, to, n); }

/* Our own threads cut the work; OpenBLAS must not start more inside each piece. */
static void one_blas_thread(void) { openblas_set_num_threads(1); }

static void limit_blas(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, one_blas_thread);
}

static size_t panel_bytes(int k) { return ((size_t)PANEL * (size_t)k * sizeof(float) + 63) / 64 * 64; }

size_t linear_workspace(int k, int n_threads) { return panel_bytes(k) * (size_t)n_threads; }

struct job {
    const struct linear *l;
    int m0, m1, panel, n;
    const float *x;
    float *y;
    ptrdiff_t x_stride, y_stride;
    bool add;
    char *ws;
};

static const void *weight_row(const struct linear *l, int m)
{
    return (const char *)l->weight + (size_t)m * (size_t)l->k * dtype_size(l->dtype);
}

static float bias_at(const struct linear *l, int m)
{
    float b = 0;
    if (l->bias) widen((const char *)l->bias + (size_t)m * dtype_size(l->dtype), l->dtype, &b, 1);
    return b;
}

static void panel_task(void *ctx, int item, int worker)
{
    const struct job *j = ctx;
    const struct linear *l = j->l;
    int m = j->m0 + item * j->panel, rows = j->m1 - m < j->panel ? j->m1 - m : j->panel;
    const float *w = weight_row(l, m);
    if (l->dtype != DTYPE_F32) {
        float *panel = (float *)(j->ws + panel_bytes(l->k) * (size_t)worker);
        widen(w, l->dtype, panel, (size_t)rows * (size_t)l->k);
        w = panel;
    }
    float *y = j->y + (m - j->m0);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, j->n, rows, l->k, 1, j->x, (int)j->x_stride, w, l->k,
                j->add ? 1 : 0, y, (int)j->y_stride);
    for (int c = 0; c < rows && l->bias; c++) {
        float b = bias_at(l, m + c);
        for (int r = 0; r < j->n; r++) y[r * j->y_stride + c] += b;
    }
}

static void dot_task(void *ctx, int item, int worker)
{
    (void)worker;
    const struct job *j = ctx;
    int m = j->m0 + item * DOT_CHUNK, end = j->m1 - m < DOT_CHUNK ? j->m1 : m + DOT_CHUNK;
    for (; m < end; m++)
        for (int r = 0; r < j->n; r++) {
            float *y = j->y + r * j->y_stride + (m - j->m0);
            float sum = cpu_ops()->dot_weight(j->x + r * j->x_stride, weight_row(j->l, m), j->l->dtype, j->l->k);
            *y = sum + bias_at(j->l, m) + (j->add ? *y : 0);
        }
}

static void run(struct job *j, struct par *par)
{
    limit_blas();
    if (j->m1 <= j->m0 || j->n < 1) return;
    int m = j->m1 - j->m0, threads = par_threads(par);
    if (j->n <= FEW_ROWS) {
        par_for(par, (m + DOT_CHUNK - 1) / DOT_CHUNK, dot_task, j);
        return;
    }
    int share = ((m + threads - 1) / threads + 63) / 64 * 64;
    j->panel = share < PANEL ? share : PANEL;
    par_for(par, (m + j->panel - 1) / j->panel, panel_task, j);
}

void linear_run(const struct linear *l, int n, const float *x, ptrdiff_t x_stride, float *y, ptrdiff_t y_stride,
                bool add, void *ws, struct par *par)
{
    run(&(struct job){.l = l, .m1 = l->m, .n = n, .x = x, .y = y, .x_stride = x_stride, .y_stride = y_stride,
                      .add = add, .ws = ws}, par);
}

void linear_run_rows(const struct linear *l, int m0, int m1, int n, const float *x, ptrdiff_t x_stride, float *y,
                     ptrdiff_t y_stride, void *ws, struct par *par)
{
    run(&(struct job){.l = l, .m0 = m0, .m1 = m1, .n = n, .x = x, .y = y, .x_stride = x_stride, .y_stride = y_stride,
                      .ws = ws}, par);
}

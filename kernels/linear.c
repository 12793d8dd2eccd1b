#include "kernels/linear.h"

#include "kernels/cpu/cpu_ops.h"

#include <cblas.h>
#include <pthread.h>
#include <stdint.h>

enum {
    PANEL = 1024,    /* rows of W per panel: sgemm packs x once a panel, 97 % of its peak rate against 92 % at 512 */
    FEW_ROWS = 4,    /* up to here each weight is used too rarely to be worth widening into memory */
    DOT_CHUNK = 64,  /* weight rows per task on that path */
    MANY_PANELS = 4,        /* per thread: then threads end together all the same */
    TASK_MACS = 1 << 24,    /* a smaller piece of work is not worth another task, .2 ms */
    MIN_ROWS = 128,         /* of x per task: each task packs the panel of W again, a tenth of the work at this size */
};

void widen(const void *from, enum dtype dtype, float *to, size_t n) { cpu_ops()->widen(from, dtype, to, n); }

/* Our own threads cut the work; OpenBLAS must not start more inside each piece. */
static void one_blas_thread(void) { openblas_set_num_threads(1); }

static void limit_blas(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, one_blas_thread);
}

/* A worker's scratch: which panel it has widened, then the panel. */
enum { TAG_BYTES = 64 };

static size_t panel_bytes(int k) { return TAG_BYTES + ((size_t)PANEL * (size_t)k * sizeof(float) + 63) / 64 * 64; }

size_t linear_workspace(int k, int n_threads) { return panel_bytes(k) * (size_t)n_threads; }

struct job {
    const struct linear *l;
    int m0, m1, panel, n;
    int n_cuts; /* of the rows of x; tasks of one panel follow each other */
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

/* Columns [m, m + rows) of W widened by this worker, unless it still has them. */
static const float *widened(const struct job *j, int m, int rows, int worker)
{
    char *own = j->ws + panel_bytes(j->l->k) * (size_t)worker;
    int *tag = (int *)own;
    float *panel = (float *)(own + TAG_BYTES);
    if (*tag != m) widen(weight_row(j->l, m), j->l->dtype, panel, (size_t)rows * (size_t)j->l->k);
    *tag = m;
    return panel;
}

/* Row r of x is cut off in front of cut i: even pieces, a multiple of 16. */
static int cut_at(const struct job *j, int i)
{
    return i == j->n_cuts ? j->n : (int)((int64_t)j->n * i / j->n_cuts / 16 * 16);
}

static void panel_task(void *ctx, int item, int worker)
{
    const struct job *j = ctx;
    const struct linear *l = j->l;
    int m = j->m0 + item / j->n_cuts * j->panel, rows = j->m1 - m < j->panel ? j->m1 - m : j->panel;
    int first = cut_at(j, item % j->n_cuts), n = cut_at(j, item % j->n_cuts + 1) - first;
    const float *w = l->dtype == DTYPE_F32 ? weight_row(l, m) : widened(j, m, rows, worker);
    float *y = j->y + first * j->y_stride + (m - j->m0);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, rows, l->k, 1, j->x + first * j->x_stride, (int)j->x_stride, w,
                l->k, j->add ? 1 : 0, y, (int)j->y_stride);
    for (int c = 0; c < rows && l->bias; c++) {
        float b = bias_at(l, m + c);
        for (int r = 0; r < n; r++) y[r * j->y_stride + c] += b;
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

/* Rows are cut when panels alone would leave threads idle. What sgemm adds up for one element does not depend on it. */
static int count_cuts(const struct job *j, int n_panels, int threads)
{
    if (n_panels % threads == 0 || n_panels >= MANY_PANELS * threads) return 1;
    int64_t by_work = (int64_t)j->n * j->panel * j->l->k / TASK_MACS;
    int cuts = threads, by_rows = j->n / MIN_ROWS;
    if (cuts > by_rows) cuts = by_rows;
    if (cuts > by_work) cuts = (int)by_work;
    return cuts > 1 ? cuts : 1;
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
    j->panel = m < PANEL ? m : PANEL;
    int n_panels = (m + j->panel - 1) / j->panel;
    j->n_cuts = count_cuts(j, n_panels, threads);
    for (int t = 0; t < threads; t++) *(int *)(j->ws + panel_bytes(j->l->k) * (size_t)t) = -1;
    par_for(par, n_panels * j->n_cuts, panel_task, j);
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

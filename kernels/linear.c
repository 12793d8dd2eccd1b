#include "kernels/linear.h"

#include "base/xmalloc.h"
#include "kernels/cpu/cpu_ops.h"

#include <assert.h>
#include <cblas.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Pieces of the work are cut by the shape of a call alone, never by the number of threads: what
 * sgemm adds up for an element, and in which order, depends on where the element stands in its
 * piece (OpenBLAS' kernels for Haswell and Zen walk rows in tiles of 12 and columns in tiles of
 * their own, and sum what is left over in another order). */
enum {
    /* up to here each weight is used too rarely to be worth widening into memory */
    FEW_ROWS = 4,
    DOT_CHUNK = 64, /* weight rows per task on that path */
    /* sgemm packs the rows of x once a panel and the panel once for each piece of rows: that costs
     * some 20 / columns + 13 / rows of the product's time. */
    PANEL = LINEAR_PANEL,
    PIECE_ROWS = 1024,
    /* whole tiles of 4, 6, 8, 12, 16 and 24 rows in every piece but the last */
    ROW_STEP = 48,
    TASKS = 8,           /* fewer pieces than this are halved … */
    MIN_SIDE = 512,      /* … as long as each keeps so many rows or columns … */
    TASK_MACS = 1 << 26, /* … and so much work, a millisecond */
};

void widen(const void *from, enum dtype dtype, float *to, size_t n)
{
    cpu_ops()->widen(from, dtype, to, n);
}

/* OpenBLAS has two buffers for each thread that it was built for; a caller for whom none is left
 * ends in a warning, or with more of them in a crash (0.3.21 built for 64: 129 and 600 callers). */
static sem_t blas_callers;

static int most_blas_callers(void)
{
    const char *at = strstr(openblas_get_config(), "MAX_THREADS=");
    int n = at ? atoi(at + strlen("MAX_THREADS=")) : 0;
    return n > 0 ? 2 * n : 128;
}

/* Our own threads cut the work; OpenBLAS must not start more inside each piece. */
static void one_blas_thread(void)
{
    openblas_set_num_threads(1);
    sem_init(&blas_callers, 0, (unsigned)most_blas_callers());
}

static void limit_blas(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, one_blas_thread);
}

/* A worker's scratch: which panel it has widened, then the panel. */
enum { TAG_BYTES = 64 };

static size_t panel_bytes(int k)
{
    return TAG_BYTES + ((size_t)PANEL * (size_t)k * sizeof(float) + 63) / 64 * 64;
}

size_t linear_workspace(int k, int n_threads) { return panel_bytes(k) * (size_t)n_threads; }

struct job {
    const struct linear *l;
    int n, panel;
    int n_pieces; /* of the rows of x; tasks of one panel follow each other */
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

/* Rows [m, m + rows) of W widened by this worker, unless it still has them. */
static const float *panel_widened(const struct job *j, int m, int rows, int worker)
{
    char *own = j->ws + panel_bytes(j->l->k) * (size_t)worker;
    int *tag = (int *)own;
    float *panel = (float *)(own + TAG_BYTES);
    if (j->l->dtype == DTYPE_F32) return weight_row(j->l, m);
    if (*tag != m) widen(weight_row(j->l, m), j->l->dtype, panel, (size_t)rows * (size_t)j->l->k);
    *tag = m;
    return panel;
}

/* OpenBLAS maps a buffer (129 MiB in 0.3.21 and 0.3.29) when more callers than ever are in it at
 * once, and where there is no room for it tries again and again, for good. So room is looked for
 * here first. */
enum { BLAS_BUFFER = 130 << 20 };
static atomic_int n_blas_callers, most_at_once;

static void blas_enter(void)
{
    while (sem_wait(&blas_callers) != 0) {} /* a signal came */
    int now = atomic_fetch_add(&n_blas_callers, 1) + 1, most = atomic_load(&most_at_once);
    if (now <= most) return;
    void *room =
        mmap(NULL, BLAS_BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) {
        atomic_fetch_sub(&n_blas_callers, 1);
        sem_post(&blas_callers);
        xmalloc_give_up(BLAS_BUFFER);
    }
    munmap(room, BLAS_BUFFER);
    while (now > most && !atomic_compare_exchange_weak(&most_at_once, &most, now)) {}
}

static void blas_leave(void)
{
    atomic_fetch_sub(&n_blas_callers, 1);
    sem_post(&blas_callers);
}

static void panel_multiply(const struct job *j, int m, int rows, int first, int n, const float *w)
{
    const struct linear *l = j->l;
    float *y = j->y + first * j->y_stride + m;
    blas_enter();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, rows, l->k, 1,
        j->x + first * j->x_stride, (int)j->x_stride, w, l->k, j->add ? 1 : 0, y, (int)j->y_stride);
    blas_leave();
    for (int c = 0; c < rows && l->bias; c++) {
        for (int r = 0; r < n; r++) y[r * j->y_stride + c] += l->bias[m + c];
    }
}

/* Row of x in front of which piece i begins. */
static int piece_begin(const struct job *j, int i)
{
    return i == j->n_pieces ? j->n : (int)((int64_t)j->n * i / j->n_pieces / ROW_STEP * ROW_STEP);
}

static void panel_task(void *ctx, int item, int worker)
{
    const struct job *j = ctx;
    int m = item / j->n_pieces * j->panel, rows = j->l->m - m < j->panel ? j->l->m - m : j->panel;
    int first = piece_begin(j, item % j->n_pieces),
        n = piece_begin(j, item % j->n_pieces + 1) - first;
    panel_multiply(j, m, rows, first, n, panel_widened(j, m, rows, worker));
}

static void dot_task(void *ctx, int item, int worker)
{
    (void)worker;
    const struct job *j = ctx;
    int m = item * DOT_CHUNK, end = j->l->m - m < DOT_CHUNK ? j->l->m : m + DOT_CHUNK;
    for (; m < end; m++)
        for (int r = 0; r < j->n; r++) {
            float *y = j->y + r * j->y_stride + m;
            float sum = cpu_ops()->dot_weight(
                j->x + r * j->x_stride, weight_row(j->l, m), j->l->dtype, j->l->k);
            *y = sum + (j->l->bias ? j->l->bias[m] : 0) + (j->add ? *y : 0);
        }
}

static int count_panels(const struct job *j) { return (j->l->m + j->panel - 1) / j->panel; }

/* The longer side is halved until there is something to do for many threads. */
static void job_cut(struct job *j)
{
    j->panel = j->l->m < PANEL ? j->l->m : PANEL;
    j->n_pieces = (j->n + PIECE_ROWS / 2) / PIECE_ROWS;
    if (j->n_pieces < 1) j->n_pieces = 1;
    while (count_panels(j) * j->n_pieces < TASKS) {
        int rows = j->n / j->n_pieces;
        if ((int64_t)rows * j->panel * j->l->k < 2 * (int64_t)TASK_MACS) break;
        if (rows >= j->panel && rows >= 2 * MIN_SIDE) j->n_pieces *= 2;
        else if (j->panel >= 2 * MIN_SIDE) j->panel = (j->panel / 2 + 15) / 16 * 16;
        else break;
    }
}

void linear_run(const struct linear *l, int n, const float *x, ptrdiff_t x_stride, float *y,
    ptrdiff_t y_stride, bool add, void *ws, struct par *par)
{
    struct job j = {.l = l,
        .n = n,
        .x = x,
        .y = y,
        .x_stride = x_stride,
        .y_stride = y_stride,
        .add = add,
        .ws = ws};
    limit_blas();
    if (l->m < 1 || n < 1) return;
    if (n <= FEW_ROWS) {
        par_for(par, (l->m + DOT_CHUNK - 1) / DOT_CHUNK, dot_task, &j);
        return;
    }
    job_cut(&j);
    for (int t = 0; t < par_threads(par); t++) *(int *)(j.ws + panel_bytes(l->k) * (size_t)t) = -1;
    par_for(par, count_panels(&j) * j.n_pieces, panel_task, &j);
}

struct linear linear_rows(const struct linear *l, int m0, int m1)
{
    struct linear part = *l;
    part.m = m1 - m0;
    part.weight = weight_row(l, m0);
    if (l->bias) part.bias = l->bias + m0;
    return part;
}

void linear_run_sides(const struct linear *l, int n, int n_sides, const float *const *x,
    float *const *y, ptrdiff_t y_stride, void *ws)
{
    struct job j = {.l = l, .n = n, .x_stride = l->k, .y_stride = y_stride, .ws = ws};
    assert(l->m <= PANEL);
    limit_blas();
    *(int *)j.ws = -1;
    for (int side = 0; side < n_sides; side++) {
        j.x = x[side];
        j.y = y[side];
        if (n > FEW_ROWS) panel_multiply(&j, 0, l->m, 0, n, panel_widened(&j, 0, l->m, 0));
        else
            for (int i = 0; i * DOT_CHUNK < l->m; i++) dot_task(&j, i, 0);
    }
}

#include "base/rng.h"
#include "base/xmalloc.h"
#include "kernels/compare.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/linear.h"
#include "kernels/registry.h"

#include <cblas.h>
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static const char *const table_names[] = {"avx512", "avx2", "base"};

/* `ops` runs through every table that this processor has. */
#define EACH_TABLE(ops)            \
    for (int t_ = 0; t_ < 3; t_++) \
        for (const struct cpu_ops *ops = cpu_ops_find(table_names[t_]); ops; ops = NULL)

static float *normals(struct rng *r, size_t n, double scale)
{
    float *x = malloc((n + 16) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)(scale * rng_normal(r));
    return x;
}

/* IEEE 754 binary16 by its definition. */
static double f16_value(uint16_t h)
{
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double v = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) v = mantissa ? NAN : INFINITY;
    return h >> 15 ? -v : v;
}

/* The nearest f16 by search: slow, and obviously right. */
static uint16_t to_f16(float x)
{
    int lo = 0, hi = 0x7c00;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (f16_value((uint16_t)mid) <= fabs((double)x)) lo = mid;
        else hi = mid;
    }
    if (hi < 0x7c00 &&
        f16_value((uint16_t)hi) - fabs((double)x) < fabs((double)x) - f16_value((uint16_t)lo))
        lo = hi;
    return (uint16_t)(lo | (signbit(x) ? 0x8000 : 0));
}

Test(cpu_ops, tables)
{
    const struct cpu_ops *best = cpu_ops();
    cr_expect_not_null(best);
    cr_expect_eq(cpu_ops_find("base"), &cpu_ops_base);
    cr_expect_null(cpu_ops_find("sse9"));
    cr_expect_eq(cpu_ops_choose("sse9"), ERR_ARG);
    cr_expect(strstr(status_message(), "sse9"));
    cr_expect_eq(cpu_ops_choose("base"), OK);
    cr_expect_eq(cpu_ops(), &cpu_ops_base);
    cr_expect_null(cpu_ops_find("avx512"));
    cr_expect_null(cpu_ops_find("avx2"));
    struct attn_args a = {.dtype = DTYPE_F32,
        .n_q = 1,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = 64,
        .block = {128, 64}};
    const struct attn_impl *impl = NULL;
    cr_expect(attn_choose(&a, NULL, &impl) == OK && impl == &attn_cpu_base);
    cr_expect_eq(attn_choose(&a, "attn_avx512_f32", &impl), ERR_UNSUPPORTED);
    cr_expect_eq(cpu_ops_choose("auto"), OK);
    cr_expect_eq(cpu_ops(), best);
}

Test(registry, choice)
{
    struct attn_args a = {.dtype = DTYPE_F32,
        .n_q = 1,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = 64,
        .block = {128, 64}};
    const struct attn_impl *impl = NULL;
    cr_expect(attn_choose(&a, "auto", &impl) == OK && impl != &attn_ref);
    cr_expect(attn_choose(&a, "attn_ref_fp64", &impl) == OK && impl == &attn_ref);
    cr_expect_eq(attn_choose(&a, "attn_none", &impl), ERR_UNSUPPORTED);
    cr_expect(strstr(status_message(), "attn_none"));
    a.dtype = DTYPE_F16;
    cr_expect_eq(attn_choose(&a, "auto", &impl), ERR_UNSUPPORTED);
    cr_expect(strstr(status_message(), "f32"));
}

Test(widen, every_bf16_and_f16)
{
    uint16_t *all = malloc(65536 * sizeof *all);
    float *wide = malloc(65536 * sizeof *wide);
    for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
    EACH_TABLE (ops)
        for (int f16 = 0; f16 < 2; f16++) {
            memset(wide, 0xa5, 65536 * sizeof *wide);
            ops->widen(all, f16 ? DTYPE_F16 : DTYPE_BF16, wide, 65536);
            int wrong = 0, first = -1;
            for (int i = 0; i < 65536; i++) {
                uint32_t bits;
                memcpy(&bits, &wide[i], 4);
                bool ok;
                if (f16) {
                    double want = f16_value((uint16_t)i);
                    ok = isnan(want) ? isnan(wide[i])
                                     : (double)wide[i] == want && !!signbit(wide[i]) == i >> 15;
                } else {
                    ok = isnan(bf16_to_f32((uint16_t)i)) ? isnan(wide[i])
                                                         : bits == (uint32_t)i << 16;
                }
                if (!ok && wrong++ == 0) first = i;
            }
            cr_expect_eq(wrong, 0, "%s %s: %d wrong, first %#x gives %g", ops->name,
                f16 ? "f16" : "bf16", wrong, first, first < 0 ? 0 : (double)wide[first]);
        }
    free(all);
    free(wide);
}

Test(widen, odd_lengths_stay_inside)
{
    uint16_t from[40];
    float to[48];
    for (int i = 0; i < 40; i++) from[i] = (uint16_t)(0x3c00 + 37 * i);
    EACH_TABLE (ops)
        for (int type = 0; type < 3; type++)
            for (size_t n = 0; n < 40; n++) {
                for (int i = 0; i < 48; i++) to[i] = -7;
                float source[48];
                for (int i = 0; i < 40; i++) source[i] = (float)i;
                ops->widen(
                    type == DTYPE_F32 ? (const void *)source : from, (enum dtype)type, to, n);
                for (size_t i = 0; i < 48; i++) {
                    double want = i >= n    ? -7
                        : type == DTYPE_F32 ? (double)i
                        : type == DTYPE_F16 ? f16_value(from[i])
                                            : (double)bf16_to_f32(from[i]);
                    cr_assert_eq((double)to[i], want);
                }
            }
}

Test(dtype, bf16_rounds_to_nearest_even)
{
    cr_expect_eq(f32_to_bf16(1.0f), 0x3f80);
    cr_expect_eq(f32_to_bf16(1.00390625f), 0x3f80); /* half way, even below */
    cr_expect_eq(f32_to_bf16(1.01171875f), 0x3f82); /* half way, even above */
    cr_expect_eq(f32_to_bf16(1.00390637f), 0x3f81);
    cr_expect_eq(f32_to_bf16(-0.0f), 0x8000);
    cr_expect_eq(f32_to_bf16(3.4e38f), 0x7f80);
    cr_expect_eq(f32_to_bf16(INFINITY), 0x7f80);
    cr_expect(isnan(bf16_to_f32(f32_to_bf16(NAN))));
    uint32_t low_nan = 0x7f800001;
    float f;
    memcpy(&f, &low_nan, 4);
    cr_expect(isnan(bf16_to_f32(f32_to_bf16(f))));
    for (int i = 0; i < 65536; i++)
        if (!isnan(bf16_to_f32((uint16_t)i)))
            cr_assert_eq(f32_to_bf16(bf16_to_f32((uint16_t)i)), i);
    cr_expect(
        dtype_size(DTYPE_F32) == 4 && dtype_size(DTYPE_F16) == 2 && dtype_size(DTYPE_BF16) == 2);
}

struct layer {
    struct linear l;
    double *w, *b; /* what the stored weights stand for */
    void *weight;
    float *bias;
};

static void store(enum dtype t, void *to, size_t i, float x, double *value)
{
    if (t == DTYPE_F32) {
        ((float *)to)[i] = x;
        *value = (double)x;
    } else {
        uint16_t h = t == DTYPE_F16 ? to_f16(x) : f32_to_bf16(x);
        ((uint16_t *)to)[i] = h;
        *value = t == DTYPE_F16 ? f16_value(h) : (double)bf16_to_f32(h);
    }
}

static struct layer layer_make(struct rng *r, enum dtype t, int m, int k, bool bias)
{
    size_t n = (size_t)m * (size_t)k;
    struct layer y = {.w = malloc(n * sizeof(double)),
        .b = calloc((size_t)m, sizeof(double)),
        .weight = malloc(4 * n)};
    for (size_t i = 0; i < n; i++) store(t, y.weight, i, (float)rng_normal(r), &y.w[i]);
    if (bias) y.bias = malloc(sizeof *y.bias * (size_t)m);
    for (int i = 0; i < m && bias; i++) y.b[i] = (double)(y.bias[i] = (float)rng_normal(r) * 3);
    y.l = (struct linear){y.weight, y.bias, t, m, k};
    return y;
}

static void layer_free(struct layer *y)
{
    free(y->w);
    free(y->b);
    free(y->weight);
    free(y->bias);
}

static void *scratch(size_t bytes) { return aligned_alloc(64, bytes + 64); }

/* y = x Wᵀ + b for rows [m0, m1) through `par`, every float around the outputs checked. */
static void check_linear(struct rng *r, enum dtype t, int m, int k, int n, bool bias, bool add,
    int m0, int m1, struct par *par)
{
    struct layer w = layer_make(r, t, m, k, bias);
    bool part = m0 != 0 || m1 != m;
    int cols = m1 - m0;
    ptrdiff_t x_stride = k + (ptrdiff_t)rng_below(r, 4),
              y_stride = cols + (ptrdiff_t)rng_below(r, 4);
    size_t y_size = (size_t)(n * y_stride) + 8;
    float *x = normals(r, (size_t)(n * x_stride), 1), *y = normals(r, y_size, 1),
          *old = malloc(y_size * sizeof *old);
    for (size_t i = 0; !add && i < y_size; i++) y[i] = NAN;
    memcpy(old, y, y_size * sizeof *y);
    void *ws = scratch(linear_workspace(k, par_threads(par)));
    struct linear rows = part ? linear_rows(&w.l, m0, m1) : w.l;
    linear_run(&rows, n, x, x_stride, y, y_stride, add, ws, par);
    for (size_t i = 0; i < y_size; i++) {
        ptrdiff_t row = (ptrdiff_t)i / y_stride, c = (ptrdiff_t)i % y_stride;
        if (row >= n || c >= cols) {
            cr_assert(memcmp(&y[i], &old[i], sizeof *y) == 0, "wrote outside");
            continue;
        }
        double want = w.b[m0 + c] + (add ? (double)old[i] : 0), size = fabs(want);
        for (int j = 0; j < k; j++) {
            double term =
                (double)x[row * x_stride + j] * w.w[(size_t)(m0 + c) * (size_t)k + (size_t)j];
            want += term;
            size += fabs(term);
        }
        cr_assert_float_eq((double)y[i], want, 1e-6 * size + 1e-7,
            "%s %dx%d n %d%s%s row %td col %td: %g, expected %g", dtype_name(t), m, k, n,
            bias ? " bias" : "", add ? " add" : "", row, c, (double)y[i], want);
    }
    free(ws);
    free(x);
    free(y);
    free(old);
    layer_free(&w);
}

Test(linear, against_fp64)
{
    static const int sizes[][2] = {
        {1, 1}, {5, 3}, {64, 64}, {65, 127}, {130, 33}, {513, 48}, {700, 70}, {1100, 17}};
    static const int rows[] = {1, 2, 4, 5, 7, 33};
    struct rng r;
    rng_init(&r, 1);
    struct par *pools[4] = {0};
    for (int i = 2; i < 4; i++) cr_assert_eq(par_open(&pools[i], i), OK);
    int c = 0;
    for (int t = 0; t < 3; t++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (size_t i = 0; i < sizeof rows / sizeof *rows; i++, c++)
                check_linear(&r, (enum dtype)t, sizes[s][0], sizes[s][1], rows[i], c & 1,
                    c % 3 == 0, 0, sizes[s][0], pools[c % 4]);
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < 12; i++) {
            int m = rng_range(&r, 600, 1300), m0 = rng_range(&r, 0, m - 1),
                m1 = rng_range(&r, m0 + 1, m);
            check_linear(&r, (enum dtype)t, m, rng_range(&r, 1, 60), i % 2 ? 3 : 9, i & 1, false,
                m0, m1, pools[i % 4]);
        }
    for (int i = 2; i < 4; i++) par_close(&pools[i]);
}

/* OpenBLAS warns, and then crashes, when more threads call it at once than it has buffers for: this
 * stands in front of it and counts them. */
static atomic_int n_calling, most_calling;
static bool counting;
typedef void sgemm(CBLAS_LAYOUT, CBLAS_TRANSPOSE, CBLAS_TRANSPOSE, int, int, int, float,
    const float *, int, const float *, int, float, float *, int);

void cblas_sgemm(CBLAS_LAYOUT layout, CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k,
    float alpha, const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    sgemm *real = (sgemm *)dlsym(RTLD_NEXT, "cblas_sgemm");
    int now = ++n_calling;
    for (int seen = most_calling;
         now > seen && !atomic_compare_exchange_weak(&most_calling, &seen, now);) {}
    /* until more than a few are in here, however busy the machine is, and then a while longer */
    for (int i = 0; counting && i < 3000 && most_calling <= 8; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    if (counting) nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    real(layout, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    n_calling--;
}

enum { CALLERS = 400 };

static void *call_blas(void *opaque)
{
    static const float x[8 * 8], w[8 * 8];
    (void)opaque;
    struct linear l = {w, NULL, DTYPE_F32, 8, 8};
    float y[8 * 8];
    void *ws = scratch(linear_workspace(8, 1));
    linear_run(&l, 8, x, 8, y, 8, false, ws, NULL);
    free(ws);
    return NULL;
}

Test(linear, more_threads_than_blas_has_buffers_for)
{
    static pthread_t threads[CALLERS];
    const char *built = strstr(openblas_get_config(), "MAX_THREADS=");
    int most = 2 * (built ? atoi(built + strlen("MAX_THREADS=")) : 64);
    counting = true;
    for (int i = 0; i < CALLERS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, call_blas, NULL), 0);
    for (int i = 0; i < CALLERS; i++) pthread_join(threads[i], NULL);
    counting = false;
    cr_expect(
        most_calling <= most && most_calling > 8, "%d at once, %d buffers", most_calling, most);
}

#ifndef __SANITIZE_ADDRESS__
/* It would try to map its buffer again and again, without an end. */
Test(linear, a_buffer_of_blas_that_finds_no_room_is_told, .timeout = 60)
{
    static const float x[8 * 8], w[8 * 8];
    float y[8 * 8];
    struct linear l = {w, NULL, DTYPE_F32, 8, 8};
    void *ws = scratch(linear_workspace(8, 1));
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    cr_assert(f && fscanf(f, "%ld", &pages) == 1);
    fclose(f);
    struct rlimit all, little;
    cr_assert_eq(getrlimit(RLIMIT_AS, &all), 0);
    little = all;
    little.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (64 << 20);
    cr_assert_eq(setrlimit(RLIMIT_AS, &little), 0);
    for (int i = 0; i < 200; i++) { /* and nobody stays counted as a caller */
        struct xmalloc_guard g;
        if (XMALLOC_GUARDED(&g)) {
            linear_run(&l, 8, x, 8, y, 8, false, ws, NULL);
            xmalloc_leave(&g);
            cr_assert_fail("there was room");
        } else cr_assert_gt(g.bytes, 100 << 20);
    }
    cr_assert_eq(setrlimit(RLIMIT_AS, &all), 0);
    linear_run(&l, 8, x, 8, y, 8, false, ws, NULL);
    free(ws);
}
#endif

/* Shapes that are cut into pieces by rows, by columns and by both, with odd rests. */
Test(linear, threads_change_no_bit)
{
    static const int shapes[][3] = {
        {3, 900, 256}, {700, 260, 1100}, {1500, 512, 300}, {2100, 256, 1111}, {256, 1024, 1029}};
    static const int threads[] = {2, 3, 8};
    struct rng r;
    rng_init(&r, 4);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int n = shapes[s][0], k = shapes[s][1], m = shapes[s][2];
        size_t size = (size_t)n * (size_t)m;
        uint16_t *weight = malloc(sizeof *weight * (size_t)m * (size_t)k);
        for (size_t i = 0; i < (size_t)m * (size_t)k; i++) /* bf16, ±1 to ±4 */
            weight[i] = (uint16_t)(0x3f80 + rng_below(&r, 256) + (rng_below(&r, 2) << 15));
        struct linear l = {weight, NULL, DTYPE_BF16, m, k};
        float *x = normals(&r, (size_t)n * (size_t)k, 1), *one = malloc(size * sizeof *one),
              *y = malloc(size * sizeof *y);
        void *ws = scratch(linear_workspace(k, 8));
        linear_run(&l, n, x, k, one, m, false, ws, NULL);
        for (size_t t = 0; t < 3; t++) {
            struct par *par;
            cr_assert_eq(par_open(&par, threads[t]), OK);
            linear_run(&l, n, x, k, y, m, false, ws, par);
            cr_expect_eq(memcmp(y, one, size * sizeof *y), 0, "%d rows, %d x %d, %d threads", n, m,
                k, threads[t]);
            par_close(&par);
        }
        free(weight);
        free(x);
        free(one);
        free(y);
        free(ws);
    }
}

/* The few-rows path and the panel path compute the same layer. */
Test(linear, paths_agree)
{
    struct rng r;
    rng_init(&r, 2);
    for (int t = 0; t < 3; t++) {
        struct layer w = layer_make(&r, (enum dtype)t, 600, 320, true);
        float *x = normals(&r, 8 * 320, 1), big[8 * 600], few[600];
        void *ws = scratch(linear_workspace(320, 1));
        linear_run(&w.l, 8, x, 320, big, 600, false, ws, NULL);
        for (int row = 0; row < 8; row++) {
            linear_run(&w.l, 1, x + row * 320, 320, few, 600, false, ws, NULL);
            for (int c = 0; c < 600; c++) cr_assert_float_eq(few[c], big[row * 600 + c], 2e-4);
        }
        free(ws);
        free(x);
        layer_free(&w);
    }
}

Test(linear, empty_is_harmless)
{
    struct rng r;
    rng_init(&r, 3);
    struct layer w = layer_make(&r, DTYPE_BF16, 70, 16, false);
    float *x = normals(&r, 16 * 8, 1), y[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    void *ws = scratch(linear_workspace(16, 1));
    linear_run(&w.l, 0, x, 16, y, 70, false, ws, NULL);
    struct linear none = linear_rows(&w.l, 5, 5);
    linear_run(&none, 2, x, 16, y, 1, false, ws, NULL);
    linear_run(&none, 8, x, 16, y, 1, false, ws, NULL);
    for (int i = 0; i < 8; i++) cr_expect_eq(y[i], (float)(i + 1));
    free(ws);
    free(x);
    layer_free(&w);
}

Test(vectors, dot_and_dot_weight)
{
    struct rng r;
    rng_init(&r, 4);
    EACH_TABLE (ops)
        for (int n = 0; n < 140; n += 1 + n / 20) {
            float *a = normals(&r, (size_t)n, 1);
            uint16_t half[2][160];
            float *b = normals(&r, (size_t)n, 1);
            double want[3] = {0}, size = 0;
            for (int i = 0; i < n; i++) {
                half[0][i] = to_f16(b[i]);
                half[1][i] = f32_to_bf16(b[i]);
                want[0] += (double)a[i] * (double)b[i];
                want[1] += (double)a[i] * f16_value(half[0][i]);
                want[2] += (double)a[i] * (double)bf16_to_f32(half[1][i]);
                size += fabs((double)a[i] * (double)b[i]);
            }
            cr_assert_float_eq((double)ops->dot(a, b, n), want[0], 5e-7 * size);
            cr_assert_float_eq((double)ops->dot_weight(a, b, DTYPE_F32, n), want[0], 5e-7 * size);
            cr_assert_float_eq(
                (double)ops->dot_weight(a, half[0], DTYPE_F16, n), want[1], 5e-7 * size);
            cr_assert_float_eq(
                (double)ops->dot_weight(a, half[1], DTYPE_BF16, n), want[2], 5e-7 * size);
            free(a);
            free(b);
        }
}

Test(vectors, rmsnorm)
{
    static const double scales[] = {1e-6, 1, 100, 1e4};
    struct rng r;
    rng_init(&r, 5);
    EACH_TABLE (ops)
        for (int s = 0; s < 4; s++)
            for (int n = 1; n < 300; n += 17) {
                float *x = normals(&r, (size_t)n, scales[s]), *w = normals(&r, (size_t)n, 1),
                      y[300];
                double sq = 0;
                for (int i = 0; i < n; i++) sq += (double)x[i] * (double)x[i];
                ops->rmsnorm(x, w, 1e-5f, n, y);
                for (int i = 0; i < n; i++) {
                    double want = (double)x[i] / sqrt(sq / n + (double)1e-5f) * (double)w[i];
                    cr_assert_float_eq((double)y[i], want, 1e-6 * fabs(want) + 1e-30,
                        "%s n %d scale %g", ops->name, n, scales[s]);
                }
                ops->rmsnorm(x, w, 1e-5f, n, x); /* in place */
                cr_assert_arr_eq(x, y, sizeof(float) * (size_t)n);
                free(x);
                free(w);
            }
}

Test(vectors, silu_mul)
{
    static const float values[] = {0, -0.0f, 1e-20f, -1e-20f, .5f, -.5f, 1, -1, 5, -5, 20, -20, 87,
        -87, 88.5f, -88.5f, 100, -100, 1e4f, -1e4f, 1e30f, -1e30f, 3, -3, 10, -10, 50, -50, 60, -60,
        7, -7, .1f};
    enum { N = sizeof values / sizeof *values };
    struct rng r;
    rng_init(&r, 6);
    EACH_TABLE (ops)
        for (int shift = 0; shift < N; shift++) { /* every value in every lane and in the tail */
            float gate[N], up[N];
            for (int i = 0; i < N; i++) {
                gate[i] = values[(i + shift) % N];
                up[i] = (float)rng_normal(&r);
            }
            ops->silu_mul(gate, up, N);
            for (int i = 0; i < N; i++) {
                double g = (double)values[(i + shift) % N],
                       want = g / (1 + exp(-g)) * (double)up[i];
                cr_assert_float_eq((double)gate[i], want,
                    (5e-7 + 1e-7 * fabs(g)) * fabs(want) + 1e-30 * fabs(g),
                    "%s silu(%g) * %g = %g, expected %g", ops->name, g, (double)up[i],
                    (double)gate[i], want);
            }
        }
}

Test(vectors, pooling)
{
    struct rng r;
    rng_init(&r, 7);
    EACH_TABLE (ops)
        for (int d = 1; d < 100; d += 13) {
            int n = 50;
            ptrdiff_t row = d + 3;
            float *x = normals(&r, (size_t)(n * row), 2), *centre = normals(&r, (size_t)d, 1);
            float sum[100], unit[100];
            double want_sum[100], want_unit[100];
            for (int i = 0; i < d; i++) {
                x[7 * row + i] = centre[i]; /* a zero row after centring adds nothing */
                sum[i] = unit[i] = 10;
                want_sum[i] = want_unit[i] = 10;
            }
            for (int t = 0; t < n; t++) {
                double norm = 0;
                for (int i = 0; i < d; i++) {
                    double c = (double)x[t * row + i] - (double)centre[i];
                    norm += c * c;
                    want_sum[i] += (double)x[t * row + i];
                }
                for (int i = 0; i < d && norm > 0; i++)
                    want_unit[i] += ((double)x[t * row + i] - (double)centre[i]) / sqrt(norm);
            }
            ops->pool_sum(x, row, n, d, sum);
            ops->pool_unit(x, row, n, d, centre, unit);
            for (int i = 0; i < d; i++) {
                cr_assert_float_eq((double)sum[i], want_sum[i], 1e-4);
                cr_assert_float_eq((double)unit[i], want_unit[i], 2e-5);
            }
            free(x);
            free(centre);
        }
}

Test(attention, attend_row)
{
    struct rng r;
    rng_init(&r, 8);
    EACH_TABLE (ops)
        for (int trial = 0; trial < 60; trial++) {
            int n = trial < 20 ? trial + 1 : rng_range(&r, 1, 300),
                d = (int[]){1, 16, 20, 64, 80, 128}[trial % 6];
            double gain = (double[]){.1, 1, 5, 40}[trial % 4];
            float *q = normals(&r, (size_t)d, gain), *k = normals(&r, (size_t)(n * (d + 2)), 1);
            float *v = normals(&r, (size_t)(n * (d + 5)), 1),
                  *scores = malloc((size_t)n * sizeof *scores), o[130];
            float scale = 1 / sqrtf((float)d);
            double *s = malloc((size_t)n * sizeof *s), top = -INFINITY, sum = 0;
            for (int j = 0; j < n; j++) {
                s[j] = 0;
                for (int i = 0; i < d; i++) s[j] += (double)q[i] * (double)k[j * (d + 2) + i];
                s[j] *= (double)scale;
                top = fmax(top, s[j]);
            }
            for (int j = 0; j < n; j++) sum += s[j] = exp(s[j] - top);
            o[d] = 77;
            ops->attend_row(q, scale, k, d + 2, v, d + 5, n, d, scores, o);
            for (int i = 0; i < d; i++) {
                double want = 0;
                for (int j = 0; j < n; j++) want += s[j] / sum * (double)v[j * (d + 5) + i];
                cr_assert_float_eq(
                    (double)o[i], want, 3e-6 * (1 + fabs(top)), "%s n %d d %d", ops->name, n, d);
            }
            cr_assert_eq(o[d], 77);
            free(q);
            free(k);
            free(v);
            free(scores);
            free(s);
        }
}

/* The exponential inside: one key of each score against a key of score 0 that holds value 0. */
Test(attention, exponential_is_accurate)
{
    EACH_TABLE (ops) {
        double worst = 0;
        struct attn_unit u = {.n_rows = 1, .head_dim = 1};
        float *buffer = aligned_alloc(64, sizeof(float) * PV_UNIT_ROWS * (2 + 128)), kt[64], v[64];
        u.q = buffer;
        u.o = u.q + PV_UNIT_ROWS;
        u.s = u.o + PV_UNIT_ROWS;
        for (int step = 0; step < 4000; step++) {
            float x = -.03f * (float)step; /* log2 units, to -120 */
            float k[64] = {0, x}, m_local[PV_UNIT_ROWS], q = 1, o;
            memset(v, 0, sizeof v);
            v[1] = 1;
            ops->pack_keys(k, 1, 2, 1, 64, kt);
            u.first_pos = 1;
            ops->unit_begin(&u, &q, 1, .69314718f);
            u.q[0] = 1;
            ops->unit_scores(&u, kt, 64, 0, 2, m_local);
            cr_assert_eq(m_local[0], 0);
            ops->unit_accumulate(&u, v, 1, 64, 0, 2, m_local);
            cr_assert_float_eq((double)u.l[0], 1 + exp2((double)x), 2e-7 * (1 + exp2((double)x)));
            worst = fmax(worst, fabs((double)u.o[0] / exp2((double)x) - 1));
            ops->unit_end(&u, &o, 1);
            cr_assert_float_eq(
                (double)o, exp2((double)x) / (1 + exp2((double)x)), 5e-7 * exp2((double)x));
        }
        cr_expect_lt(worst, 2.5e-7, "%s: 2^x is off by %g", ops->name, worst);
        free(buffer);
    }
}

/* Masked keys far above everything visible: exact zeros, not infinity times zero. */
Test(attention, masked_scores_may_be_anything)
{
    EACH_TABLE (ops)
        for (int jump = 0; jump < 400; jump++) {
            struct attn_unit u = {.n_rows = 1, .head_dim = 1, .first_pos = 0};
            float *buffer = aligned_alloc(64, sizeof(float) * PV_UNIT_ROWS * (2 + 128)), kt[64],
                  v[64], mass = 0;
            u.q = buffer;
            u.o = u.q + PV_UNIT_ROWS;
            u.s = u.o + PV_UNIT_ROWS;
            float k[64], m_local[PV_UNIT_ROWS], q = 1;
            for (int j = 0; j < 64; j++) {
                k[j] = j ? (float)jump : 0;
                v[j] = j ? 1e30f : 3;
            }
            ops->pack_keys(k, 1, 64, 1, 64, kt);
            ops->unit_begin(&u, &q, 1, .69314718f);
            u.q[0] = 1;
            ops->unit_scores(&u, kt, 64, 0, 64, m_local);
            cr_assert_eq(m_local[0], 0);
            u.m[0] = 0;
            ops->unit_mass(&u, 64, 0, 64, &mass);
            cr_assert_eq(
                mass, 1, "%s: mass %g beside a hidden score of %d", ops->name, (double)mass, jump);
            u.m[0] = -INFINITY;
            ops->unit_accumulate(&u, v, 1, 64, 0, 64, m_local);
            cr_assert(u.l[0] == 1 && u.o[0] == 3,
                "%s: sum %g, output %g beside a hidden score of %d", ops->name, (double)u.l[0],
                (double)u.o[0], jump);
            free(buffer);
        }
}

/* Partial softmax results merged in any order give the whole: METHOD 5, error curves. */
Test(attention, merge_partial_and_row_errors)
{
    enum { ROWS = 5, D = 20, PARTS = 7, KEYS = 9 };
    struct rng r;
    rng_init(&r, 9);
    EACH_TABLE (ops)
        for (int trial = 0; trial < 20; trial++) {
            double s[ROWS][PARTS * KEYS], v[PARTS * KEYS][D], gain = trial % 2 ? 2 : 60;
            float m[PARTS][ROWS], l[PARTS][ROWS], o[PARTS][ROWS * D];
            float to_m[ROWS], to_l[ROWS] = {0}, to_o[ROWS * D] = {0}, exact[ROWS * (D + 3)];
            float abs_diff[ROWS], sq_diff[ROWS], sq[ROWS], squares[ROWS] = {0};
            for (int j = 0; j < PARTS * KEYS; j++)
                for (int i = 0; i < D; i++) v[j][i] = rng_normal(&r);
            for (int row = 0; row < ROWS; row++) {
                to_m[row] = -INFINITY;
                for (int p = 0; p < PARTS; p++) {
                    m[p][row] = -INFINITY;
                    l[p][row] = 0;
                    memset(o[p] + row * D, 0, D * sizeof(float));
                    bool sees_nothing = p == row; /* as a row before the tile does */
                    for (int j = p * KEYS; j < (p + 1) * KEYS; j++) {
                        s[row][j] = sees_nothing ? -INFINITY : gain * rng_normal(&r);
                        m[p][row] = fmaxf(m[p][row], (float)s[row][j]);
                    }
                    for (int j = p * KEYS; j < (p + 1) * KEYS && !sees_nothing; j++) {
                        double e = exp2(s[row][j] - (double)m[p][row]);
                        l[p][row] += (float)e;
                        for (int i = 0; i < D; i++) o[p][row * D + i] += (float)(e * v[j][i]);
                    }
                }
            }
            for (int p = 0; p < PARTS; p++) {
                int part = (p * 3 + trial) % PARTS;
                ops->merge_partial(ROWS, D, to_m, to_l, to_o, m[part], l[part], o[part]);
            }
            for (int row = 0; row < ROWS; row++) {
                double top = -INFINITY, sum = 0;
                for (int j = 0; j < PARTS * KEYS; j++) top = fmax(top, s[row][j]);
                for (int j = 0; j < PARTS * KEYS; j++) sum += exp2(s[row][j] - top);
                for (int i = 0; i < D; i++) {
                    double want = 0;
                    for (int j = 0; j < PARTS * KEYS; j++)
                        want += exp2(s[row][j] - top) / sum * v[j][i];
                    cr_assert_float_eq(
                        (double)(to_o[row * D + i] / to_l[row]), want, 3e-5, "%s", ops->name);
                    squares[row] += (float)(want * want);
                    exact[row * (D + 3) + i] =
                        (float)want + (i == 3 || i == 18 ? .5f * (float)row : 0);
                }
            }
            ops->row_errors(ROWS, D, to_l, to_o, exact, D + 3, abs_diff, sq_diff, sq);
            for (int row = 0; row < ROWS; row++) {
                cr_assert_float_eq(abs_diff[row], (float)row, 3e-4f);
                cr_assert_float_eq(sq_diff[row], .5f * (float)(row * row), 3e-4f);
                cr_assert_float_eq(sq[row], squares[row], 1e-3f);
            }
        }
}

struct brute {
    double cosine, centred, kl, nll[2], delta_p, l1, rmse;
    double offset; /* how many times larger the squares are before centring */
    int top[2][5], overlap;
};

static void brute_top(const double *z, int n, int top[5])
{
    for (int k = 0; k < 5; k++) {
        top[k] = -1;
        for (int i = 0; i < n; i++) {
            bool taken = false;
            for (int p = 0; p < k; p++) taken |= top[p] == i;
            if (!taken && (top[k] < 0 || z[i] > z[top[k]])) top[k] = i;
        }
    }
}

static struct brute brute_row(const double *a, const double *b, int n, int next)
{
    struct brute o = {0};
    double ab = 0, aa = 0, bb = 0, ma = 0, mb = 0, ta = -INFINITY, tb = -INFINITY, sa = 0, sb = 0;
    for (int i = 0; i < n; i++) {
        ab += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
        ma += a[i] / n;
        mb += b[i] / n;
        ta = fmax(ta, a[i]);
        tb = fmax(tb, b[i]);
        o.l1 += fabs(a[i] - b[i]) / n;
        o.rmse += (a[i] - b[i]) * (a[i] - b[i]) / n;
    }
    o.rmse = sqrt(o.rmse);
    o.cosine = ab / sqrt(aa * bb);
    double cab = 0, caa = 0, cbb = 0;
    for (int i = 0; i < n; i++) {
        cab += (a[i] - ma) * (b[i] - mb);
        caa += (a[i] - ma) * (a[i] - ma);
        cbb += (b[i] - mb) * (b[i] - mb);
        sa += exp(a[i] - ta);
        sb += exp(b[i] - tb);
    }
    o.centred = cab / sqrt(caa * cbb);
    o.offset = aa / caa + bb / cbb;
    double la = ta + log(sa), lb = tb + log(sb);
    for (int i = 0; i < n; i++) o.kl += exp(a[i] - la) * (a[i] - la - b[i] + lb);
    if (next >= 0) {
        o.nll[0] = la - a[next];
        o.nll[1] = lb - b[next];
        o.delta_p = exp(b[next] - lb) - exp(a[next] - la);
    }
    brute_top(a, n, o.top[0]);
    brute_top(b, n, o.top[1]);
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 5; j++) o.overlap += o.top[0][i] >= 0 && o.top[0][i] == o.top[1][j];
    return o;
}

static void check_compare(struct rng *r, int vocab, int k, int n, double gain, double change,
    enum dtype t, struct par *par)
{
    struct layer w = layer_make(r, t, vocab, k, false);
    float *a = normals(r, (size_t)(n * k), gain / sqrt(k)),
          *b = normals(r, (size_t)(n * k), gain / sqrt(k) * change);
    int32_t *next = malloc(sizeof *next * (size_t)n);
    struct token_metrics *out = malloc(sizeof *out * (size_t)n);
    for (int i = 0; i < n * k; i++) b[i] += a[i];
    for (int i = 0; i < n; i++) next[i] = rng_range(r, -1, vocab - 1);
    struct tensor_sums sums = {.dot = 100, .hidden_n = 7}, want = sums;
    void *ws = scratch(compare_workspace(&w.l, par_threads(par)));
    cr_assert_eq(
        compare_logits(&w.l, n, a, b, next, out, &sums, ws, par), OK, "%s", status_message());
    double *za = malloc(sizeof *za * (size_t)vocab), *zb = malloc(sizeof *zb * (size_t)vocab);
    for (int row = 0; row < n; row++) {
        double top = 0, hab = 0, haa = 0, hbb = 0, hl1 = 0;
        for (int c = 0; c < vocab; c++) {
            za[c] = zb[c] = 0;
            for (int i = 0; i < k; i++) {
                za[c] += (double)a[row * k + i] * w.w[c * k + i];
                zb[c] += (double)b[row * k + i] * w.w[c * k + i];
            }
            top = fmax(top, fmax(fabs(za[c]), fabs(zb[c])));
        }
        for (int i = 0; i < k; i++) {
            double x = (double)a[row * k + i], y = (double)b[row * k + i];
            hab += x * y;
            haa += x * x;
            hbb += y * y;
            hl1 += fabs(x - y);
        }
        struct brute o = brute_row(za, zb, vocab, next[row]);
        const struct token_metrics *m = &out[row];
        double tol = 2e-6 * (1 + top); /* the rounding of the logits themselves */
        cr_assert_float_eq((double)m->cosine, o.cosine, 2e-6);
        cr_assert_float_eq((double)m->cosine_centred, o.centred, 2e-6 * (1 + o.offset));
        cr_assert_float_eq((double)m->kl, o.kl, tol + 2e-6 * o.kl, "vocab %d kl %g, expected %g",
            vocab, (double)m->kl, o.kl);
        cr_assert_geq(m->kl, 0);
        cr_assert_float_eq((double)m->nll_dense, o.nll[0], tol);
        cr_assert_float_eq((double)m->nll_sparse, o.nll[1], tol);
        cr_assert_float_eq((double)m->delta_p, o.delta_p, tol);
        cr_assert_float_eq((double)m->logits_l1, o.l1, 2e-6 * (o.l1 + top));
        cr_assert_float_eq((double)m->logits_rmse, o.rmse, 2e-6 * (o.rmse + top));
        cr_assert_float_eq((double)m->hidden_cosine, hab / sqrt(haa * hbb), 1e-6);
        cr_assert_float_eq((double)m->hidden_l1, hl1 / k, 1e-6 * (1 + hl1 / k));
        cr_assert_eq(m->next, next[row]);
        cr_assert_float_eq(za[m->top1_dense], za[o.top[0][0]], tol);
        cr_assert_float_eq(zb[m->top1_sparse], zb[o.top[1][0]], tol);
        cr_assert_eq(m->top1_agree, m->top1_dense == m->top1_sparse);
        if (vocab <= 5) cr_assert_eq(m->top5_overlap, vocab);
        else { /* equal unless the fifth and sixth are too close to call */
            double fifth[2] = {za[o.top[0][4]], zb[o.top[1][4]]};
            int close = 0;
            for (int c = 0; c < vocab; c++)
                close += (fabs(za[c] - fifth[0]) < tol) + (fabs(zb[c] - fifth[1]) < tol);
            if (close == 2) cr_assert_eq(m->top5_overlap, o.overlap);
        }
        want.n += vocab;
        want.abs_diff += o.l1 * vocab;
        want.sq_diff += o.rmse * o.rmse * vocab;
        for (int c = 0; c < vocab; c++) {
            want.dot += za[c] * zb[c];
            want.dense_sq += za[c] * za[c];
            want.sparse_sq += zb[c] * zb[c];
        }
        want.hidden_dot += hab;
        want.hidden_dense_sq += haa;
        want.hidden_sparse_sq += hbb;
        want.hidden_abs_diff += hl1;
        want.hidden_n += k;
    }
    const double *g = (const double *)&sums, *x = (const double *)&want;
    /* of all logits, as one vector */
    double rounding = 2e-6 * sqrt(want.dense_sq + want.sparse_sq);
    for (size_t i = 0; i < sizeof sums / sizeof *g; i++) {
        double tol = 3e-6 * (1 + fabs(x[i]));
        if (g + i == &sums.dot) tol += rounding * sqrt(want.dense_sq);
        if (g + i == &sums.abs_diff) tol += rounding * sqrt(want.n);
        if (g + i == &sums.sq_diff) tol += rounding * (rounding + sqrt(want.sq_diff));
        cr_assert_float_eq(g[i], x[i], tol, "sum %zu: %g, expected %g", i, g[i], x[i]);
    }
    free(ws);
    free(a);
    free(b);
    free(next);
    free(out);
    free(za);
    free(zb);
    layer_free(&w);
}

Test(compare, against_fp64)
{
    static const int vocabs[] = {2, 5, 100, 512, 513, 1300};
    static const double gains[] = {.1, 3, 20}, changes[] = {1e-3, .1, 2};
    struct rng r;
    rng_init(&r, 10);
    struct par *par;
    cr_assert_eq(par_open(&par, 2), OK);
    for (int v = 0; v < 6; v++)
        for (int c = 0; c < 9; c++)
            check_compare(&r, vocabs[v], 24 + 7 * c, c % 2 ? 3 : 12, gains[c % 3], changes[c / 3],
                (enum dtype)(c % 3), c % 2 ? par : NULL);
    check_compare(&r, 530, 16, 600, 3, .3, DTYPE_BF16, par); /* several tasks */
    par_close(&par);
}

/* Whether both sides are the same memory or a copy of it, which stands otherwise in memory. */
Test(compare, equal_inputs_are_exactly_equal)
{
    struct rng r;
    rng_init(&r, 11);
    for (int trial = 0; trial < 16; trial++) {
        int vocab = (int[]){5, 100, 512, 513, 1300, 700, 6, 1025}[trial / 2],
            k = trial > 11 ? 41 : 40;
        int n = trial > 9 ? 1000 : trial > 7 ? 3 : 20;
        struct layer w = layer_make(&r, DTYPE_BF16, vocab, k, false);
        float *a = normals(&r, (size_t)(n * k), .5),
              *copy = malloc(sizeof *copy * (size_t)(n * k + 3));
        memcpy(copy + 3, a, sizeof *a * (size_t)(n * k));
        int32_t *next = calloc((size_t)n, sizeof *next);
        struct token_metrics *out = malloc(sizeof *out * (size_t)n);
        struct tensor_sums sums = {0};
        void *ws = scratch(compare_workspace(&w.l, 1));
        cr_assert_eq(
            compare_logits(&w.l, n, a, trial % 2 ? copy + 3 : a, next, out, &sums, ws, NULL), OK);
        for (int i = 0; i < n; i++) {
            cr_assert_eq(out[i].kl, 0);
            cr_assert(
                out[i].cosine == 1 && out[i].cosine_centred == 1 && out[i].hidden_cosine == 1);
            cr_assert(out[i].logits_l1 == 0 && out[i].logits_rmse == 0 && out[i].hidden_l1 == 0 &&
                out[i].delta_p == 0);
            cr_assert(out[i].top1_agree == 1 && out[i].top5_overlap == 5 &&
                out[i].nll_dense == out[i].nll_sparse);
        }
        cr_expect(sums.abs_diff == 0 && sums.dot == sums.dense_sq && sums.dot == sums.sparse_sq);
        free(ws);
        free(a);
        free(copy);
        free(next);
        free(out);
        layer_free(&w);
    }
}

static enum status compare_values(int vocab, int n, const float *column, const float *dense,
    const float *sparse, const int32_t *next, struct token_metrics *out)
{
    struct linear head = {column, NULL, DTYPE_F32, vocab, 1};
    struct tensor_sums sums = {0};
    void *ws = scratch(compare_workspace(&head, 1));
    enum status st = compare_logits(&head, n, dense, sparse, next, out, &sums, ws, NULL);
    free(ws);
    return st;
}

/* All logits low, a vocabulary that is no multiple of a vector: padding must not count. */
Test(compare, low_logits)
{
    for (int vocab = 1; vocab < 70; vocab++)
        for (int level = 0; level < 200; level++) {
            float column[70], one[2] = {1, 1}, almost[2] = {1.0001f, 1.0001f};
            int32_t next[2] = {vocab / 2, 0};
            struct token_metrics out[2];
            for (int i = 0; i < vocab; i++) column[i] = -(float)level - .01f * (float)i;
            cr_assert_eq(compare_values(vocab, 2, column, one, almost, next, out), OK,
                "vocab %d level -%d: %s", vocab, level, status_message());
            double za[70], zb[70];
            for (int i = 0; i < vocab; i++) {
                za[i] = (double)column[i];
                zb[i] = (double)(column[i] * 1.0001f);
            }
            struct brute o = brute_row(za, zb, vocab, vocab / 2);
            cr_assert_float_eq((double)out[0].nll_dense, o.nll[0], 2e-5,
                "vocab %d level -%d: nll %g, expected %g", vocab, level, (double)out[0].nll_dense,
                o.nll[0]);
            cr_assert_float_eq((double)out[0].nll_sparse, o.nll[1], 5e-5);
            cr_assert_float_eq((double)out[0].kl, o.kl, 5e-5);
        }
}

Test(compare, ties_go_to_the_lower_id)
{
    float *column = calloc(1300, sizeof *column), a = 1, b = 1;
    int32_t next = 3;
    struct token_metrics out;
    for (int i = 0; i < 1300; i++) column[i] = i % 100 == 50 ? 2 : 1; /* 50, 150, … 1250 tie */
    cr_assert_eq(compare_values(1300, 1, column, &a, &b, &next, &out), OK);
    cr_expect(out.top1_dense == 50 && out.top1_sparse == 50 && out.top5_overlap == 5);
    b = -1; /* now the ones tie at the top: 0 … 4 */
    cr_assert_eq(compare_values(1300, 1, column, &a, &b, &next, &out), OK);
    cr_expect(out.top1_sparse == 0 && !out.top1_agree && out.top5_overlap == 0);
    cr_expect_float_eq(out.cosine, -1, 1e-6);
    free(column);
}

Test(compare, extremes)
{
    float column[100], a = 1, b = -1, zero = 0;
    int32_t next = 7;
    struct token_metrics out;
    for (int i = 0; i < 100; i++) column[i] = i == 7 ? 1000 : -1000;
    cr_assert_eq(compare_values(100, 1, column, &a, &b, &next, &out), OK);
    cr_expect_float_eq(out.nll_dense, 0, 1e-6);
    cr_expect_float_eq((double)out.nll_sparse, 2000 + log(99), 1e-3);
    cr_expect_float_eq((double)out.kl, 2000 + log(99), 1e-3);
    cr_expect_float_eq((double)out.delta_p, -1, 1e-6);
    cr_expect_eq(
        out.top5_overlap, 4, "0 to 3 stand behind 7 on one side and before 4 on the other");
    cr_assert_eq(compare_values(100, 1, column, &zero, &zero, &next, &out), OK);
    cr_expect_float_eq((double)out.nll_dense, log(100), 1e-5);
    cr_expect(out.kl == 0 && out.top1_dense == 0);
    next = -1;
    cr_assert_eq(compare_values(100, 1, column, &a, &b, &next, &out), OK);
    cr_expect(out.nll_dense == 0 && out.nll_sparse == 0 && out.delta_p == 0 && out.next == -1);
}

Test(compare, broken_logits_are_named)
{
    enum { N = 600 };
    static float a[N], b[N];
    static int32_t next[N];
    static struct token_metrics out[N];
    float column[70];
    for (int i = 0; i < 70; i++) column[i] = (float)i - 35;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int kind = 0; kind < 3; kind++)
        for (int side = 0; side < 2; side++) {
            for (int i = 0; i < N; i++) a[i] = b[i] = .1f;
            (side ? a : b)[417] = bad[kind];
            (side ? b : a)[580] = NAN;
            cr_expect_eq(compare_values(70, N, column, a, b, next, out), ERR_NUMERIC);
            cr_expect(strstr(status_message(), "position 417 "), "%s", status_message());
        }
    for (int at = 0; at < 70; at += 23) { /* one bad weight breaks every row; the first is named */
        for (int i = 0; i < N; i++) a[i] = b[i] = .1f;
        float keep = column[at];
        column[at] = at % 2 ? NAN : INFINITY;
        cr_expect_eq(compare_values(70, N, column, a, b, next, out), ERR_NUMERIC);
        cr_expect(strstr(status_message(), "position 0 "), "%s", status_message());
        column[at] = keep;
    }
}

/* Folding in chunks of any size is folding at once. */
Test(compare, logit_fold_in_chunks)
{
    struct rng r;
    rng_init(&r, 12);
    EACH_TABLE (ops)
        for (int trial = 0; trial < 40; trial++) {
            int n = rng_range(&r, 5, 900);
            float *a = normals(&r, (size_t)n, 8), *b = normals(&r, (size_t)n, 8);
            struct logit_row row = {.m = {-INFINITY, -INFINITY}};
            for (int side = 0; side < 2; side++)
                for (int i = 0; i < 5; i++) {
                    row.top[side][i] = -INFINITY;
                    row.top_id[side][i] = -1;
                }
            for (int at = 0; at < n;) {
                int take = rng_range(&r, 1, 200);
                if (take > n - at) take = n - at;
                ops->logit_fold(&row, a + at, b + at, take, at);
                at += take;
            }
            double za[900], zb[900], sums[2] = {0}, t = 0;
            for (int i = 0; i < n; i++) {
                za[i] = (double)a[i];
                zb[i] = (double)b[i];
                sums[0] += exp(za[i] - (double)row.m[0]);
                sums[1] += exp(zb[i] - (double)row.m[1]);
                t += exp(za[i] - (double)row.m[0]) * (za[i] - zb[i]);
            }
            struct brute o = brute_row(za, zb, n, -1);
            for (int i = 0; i < 5; i++)
                cr_assert(row.top_id[0][i] == o.top[0][i] && row.top_id[1][i] == o.top[1][i]);
            cr_assert(row.m[0] == a[o.top[0][0]] && row.m[1] == b[o.top[1][0]] && !row.bad);
            cr_assert_float_eq((double)row.s[0], sums[0], 2e-6 * sums[0]);
            cr_assert_float_eq((double)row.s[1], sums[1], 2e-6 * sums[1]);
            cr_assert_float_eq((double)row.t, t, 1e-5 * (fabs(t) + sums[0]));
            free(a);
            free(b);
        }
}

/* Sums of many tasks come out the same however the tasks were handed out. */
Test(compare, threads_change_no_bit)
{
    enum { N = 4000, K = 8, VOCAB = 64 };
    struct rng r;
    rng_init(&r, 13);
    struct layer w = layer_make(&r, DTYPE_F32, VOCAB, K, false);
    float *a = normals(&r, N * K, 1), *b = normals(&r, N * K, 1);
    int32_t *next = calloc(N, sizeof *next);
    struct token_metrics *out = malloc(N * sizeof *out), *first = malloc(N * sizeof *out);
    struct tensor_sums one = {0};
    void *ws = scratch(compare_workspace(&w.l, 3));
    cr_assert_eq(compare_logits(&w.l, N, a, b, next, first, &one, ws, NULL), OK);
    struct par *par;
    cr_assert_eq(par_open(&par, 3), OK);
    int other = 0;
    for (int i = 0; i < 30; i++) {
        struct tensor_sums many = {0};
        cr_assert_eq(compare_logits(&w.l, N, a, b, next, out, &many, ws, par), OK);
        for (int row = 0; row < N; row++)
            cr_assert(out[row].kl == first[row].kl && out[row].cosine == first[row].cosine);
        other += memcmp(&many, &one, sizeof one) != 0;
    }
    cr_expect_eq(other, 0, "%d of 30 runs gave other sums", other);
    par_close(&par);
    free(ws);
    free(a);
    free(b);
    free(next);
    free(out);
    free(first);
    layer_free(&w);
}

Test(ledger, sparsity)
{
    struct head_ledger l = {0};
    cr_expect(
        ledger_qk_sparsity(&l) == 0 && ledger_pv_sparsity(&l) == 0 && ledger_sparsity(&l) == 0);
    l.tiles_possible = 100;
    l.tiles_computed = 40;
    l.pv_units_possible = 200;
    l.pv_units_computed = 20;
    cr_expect_float_eq(ledger_qk_sparsity(&l), .6, 1e-12);
    cr_expect_float_eq(ledger_pv_sparsity(&l), .9, 1e-12);
    cr_expect_float_eq(ledger_sparsity(&l), .75, 1e-12);
    struct head_ledger sum, more;
    enum { N = sizeof sum / sizeof(uint64_t) };
    for (uint64_t i = 0; i < N; i++) {
        ((uint64_t *)&sum)[i] = i;
        ((uint64_t *)&more)[i] = 100 - i;
    }
    head_ledger_add(&sum, &more);
    for (size_t i = 0; i < N; i++) cr_expect_eq(((uint64_t *)&sum)[i], 100);
}

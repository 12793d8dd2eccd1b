/* Every attention kernel of the CPU timed, dense and with shares of the tiles, against the rate of
 * sgemm on this machine. For check_kernels --bench. */
#ifndef SG_TESTS_KERNELS_ATTN_BENCH_H
#define SG_TESTS_KERNELS_ATTN_BENCH_H

#include "base/clock.h"
#include "tests/kernels/attn_problem.h"

#include <cblas.h>

static int compare_times(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *t, int n)
{
    qsort(t, (size_t)n, sizeof *t, compare_times);
    return n % 2 ? t[n / 2] : (t[n / 2 - 1] + t[n / 2]) / 2;
}

enum { REPEATS = 5 };

static double sgemm_rate(int threads)
{
    enum { N = 2048 };
    float *a = aligned(sizeof *a * N * N), *b = aligned(sizeof *a * N * N),
          *c = aligned(sizeof *a * N * N);
    for (size_t i = 0; i < (size_t)N * N; i++) a[i] = b[i] = (float)(i % 7) - 3;
    openblas_set_num_threads(threads);
    double t[REPEATS];
    for (int i = -1; i < REPEATS; i++) {
        int64_t start = clock_ns();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N, N, N, 1, a, N, b, N, 0, c, N);
        if (i >= 0) t[i] = (double)(clock_ns() - start);
    }
    openblas_set_num_threads(1);
    free(a);
    free(b);
    free(c);
    return 2.0 * N * N * N / median(t, REPEATS); /* GFLOP/s */
}

static double time_call(const struct attn_impl *impl, struct attn_args *a, void *ws,
    const struct mask_args *m, struct tile_map *map, void *mask_ws, struct par *par,
    double *predict_ns)
{
    int64_t start = clock_ns();
    enum status st = OK;
    if (m) st = mask_predict(&mask_sparge, m, map, mask_ws, par);
    int64_t middle = clock_ns();
    if (st == OK) st = impl->run(a, ws, par, NULL);
    if (st != OK) {
        fprintf(stderr, "%s: %s\n", impl->name, status_message());
        exit(3);
    }
    if (predict_ns) *predict_ns = (double)(middle - start);
    return (double)(clock_ns() - start);
}

static void bench_impl(const struct attn_impl *impl, int n, int d, double rate, struct par *par)
{
    static const float fractions[] = {.2f, .4f, .6f, .8f};
    struct problem p;
    struct rng r;
    rng_init(&r, 1);
    problem_open(&p, &r, n, 0, HEADS, d, shapes[0], .3f);
    p.a.o = out_of(&p);
    if (impl->refuses(&p.a)) {
        printf("%-18s %5d %4d  %s\n", impl->name, n, d, impl->refuses(&p.a));
        problem_close(&p);
        return;
    }
    struct tile_map map = tile_map_shape(shapes[0], HEADS, 0, n);
    map.bits = aligned(tile_map_bytes(&map));
    struct head_params heads[HEADS];
    float lambda[HEADS];
    for (int h = 0; h < HEADS; h++) {
        heads[h] = (struct head_params){-1, 1, 50, true, 0, 0, 0};
        lambda[h] = 50;
    }
    struct mask_args m = {.attn = &p.a, .heads = heads, .smooth_k = SMOOTH_K_RUNNING};
    void *mask_ws = aligned(mask_workspace(&mask_sparge, &m, par_threads(par)));
    void *ws = aligned(impl->workspace(&p.a));
    double dense[REPEATS], sparse[4][REPEATS], predict[4][REPEATS];
    struct head_ledger ledger[4][HEADS];
    memset(ledger, 0, sizeof ledger);
    /* interleaved, so that a drift of the clock hits all alike */
    for (int i = -1; i < REPEATS; i++) {
        p.a.tiles = NULL;
        p.a.pv_threshold = NULL;
        p.a.ledger = NULL;
        double t = time_call(impl, &p.a, ws, NULL, NULL, NULL, par, NULL);
        if (i >= 0) dense[i] = t;
        for (int f = 0; f < 4; f++) {
            m.topk = fractions[f];
            p.a.tiles = &map;
            p.a.pv_threshold = lambda;
            p.a.ledger = ledger[f];
            double predicting;
            t = time_call(impl, &p.a, ws, &m, &map, mask_ws, par, &predicting);
            if (i < 0) continue;
            sparse[f][i] = t;
            predict[f][i] = predicting;
        }
    }
    double base = median(dense, REPEATS), flop = 2.0 * d * n * (n + 1.0) * HEADS;
    printf("%-18s %5d %4d %7s %9.2f %9.1f %6.0f%%\n", impl->name, n, d, "dense", base / 1e6,
        flop / base, 100 * flop / base / rate);
    for (int f = 0; f < 4; f++) {
        struct head_ledger sum = {0};
        for (int h = 0; h < HEADS; h++) head_ledger_add(&sum, &ledger[f][h]);
        double kept = 1 - ledger_qk_sparsity(&sum), t = median(sparse[f], REPEATS);
        printf("%-18s %5d %4d %7.3f %9.2f %9s %7s %8.3f %8.3f %8.1f%%\n", impl->name, n, d, kept,
            t / 1e6, "", "", t / base, kept + .08, 100 * median(predict[f], REPEATS) / base);
    }
    free(ws);
    free(mask_ws);
    free(map.bits);
    problem_close(&p);
}

/* only: the name of one, NULL for all. */
static int bench(int threads, const char *only)
{
    struct par *par = NULL;
    if (par_open(&par, threads) != OK) {
        fprintf(stderr, "%s\n", status_message());
        return 3;
    }
    double rate = sgemm_rate(par_threads(par));
    printf("sgemm 2048: %.1f GFLOP/s with %d threads; medians of %d, %d heads, blocks 128x64\n",
        rate, par_threads(par), REPEATS, HEADS);
    printf("%-18s %5s %4s %7s %9s %9s %7s %8s %8s %9s\n", "implementation", "n", "d", "kept", "ms",
        "GFLOP/s", "sgemm", "of dense", "goal", "predict");
    for (int i = 0; attn_impls[i]; i++) {
        if (attn_impls[i] == &attn_ref || (only && strcmp(only, attn_impls[i]->name) != 0))
            continue;
        for (int n = 1024; n <= 4096; n *= 4)
            for (int d = 64; d <= 128; d *= 2) bench_impl(attn_impls[i], n, d, rate, par);
    }
    par_close(&par);
    return 0;
}

#endif

/* Times what the tuner does to one head of one sample on one core: bench_tuner [tokens] [head_dim]
 * [repetitions]. Queries follow keys of a random walk, so that blocks are self-similar and
 * thresholds choose. */
#include "base/clock.h"
#include "base/rng.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/curve.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_PAIRS = 4 };

static float *random_walk(struct rng *r, int n, int d, double pace)
{
    float *x = malloc(sizeof *x * (size_t)n * (size_t)d);
    for (int i = 0; x && i < n * d; i++) {
        double before = i < d ? rng_normal(r) : (double)x[i - d];
        x[i] = (float)(sqrt(1 - pace * pace) * before + pace * rng_normal(r));
    }
    return x;
}

static enum status bench(int n, int d, int repetitions)
{
    struct rng r;
    rng_init(&r, 1);
    float *q = random_walk(&r, n, d, .1), *k = random_walk(&r, n, d, .1),
          *v = random_walk(&r, n, d, .7);
    float *o = malloc(sizeof *o * (size_t)n * (size_t)d);
    struct curve *curve = malloc(sizeof *curve);
    struct pv_curve *pv = malloc(sizeof *pv * N_PAIRS);
    if (!q || !k || !v || !o || !curve || !pv)
        return fail(ERR_MEMORY, "no memory for %d tokens", n);
    struct attn_args a = {.dtype = DTYPE_F32,
        .n_q = n,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = d,
        .scale = (float)(1 / sqrt((double)d)),
        .q = q,
        .k = k,
        .v = v,
        .o = o,
        .q_row = d,
        .k_row = d,
        .v_row = d,
        .o_row = d,
        .block = {128, 64}};
    struct mask_args mask = {.attn = &a, .smooth_k = SMOOTH_K_RUNNING};
    const struct attn_impl *impl;
    TRY(attn_choose(&a, NULL, &impl));
    size_t bytes = curve_workspace(&mask_sparge, &mask), kernel = impl->workspace(&a);
    void *ws = aligned_alloc(64, ((bytes > kernel ? bytes : kernel) + 63) / 64 * 64);
    if (!ws) return fail(ERR_MEMORY, "no memory for %d tokens", n);
    static const struct threshold_pair pairs[N_PAIRS] = {
        {.1f, .8f, 0}, {.1f, .9f, 0}, {.2f, .95f, 0}, {-1, .7f, 0}};
    double best[4] = {INFINITY, INFINITY, INFINITY, INFINITY};
    for (int i = 0; i < repetitions; i++)
        for (int what = 0; what < 4; what++) {
            int64_t t0 = clock_ns();
            if (what == 0) TRY(impl->run(&a, ws, NULL, NULL));
            if (what == 1) TRY(curve_thetas(&mask_sparge, &mask, ws, curve));
            if (what == 2) TRY(curve_lambdas_of(&mask_sparge, &mask, pairs, 1, ws, pv));
            if (what == 3) TRY(curve_lambdas_of(&mask_sparge, &mask, pairs, N_PAIRS, ws, pv));
            best[what] = fmin(best[what], (double)(clock_ns() - t0) * 1e-6);
        }
    printf("one head, one sample, %d tokens, head_dim %d, one core, %s, best of %d, milliseconds\n",
        n, d, cpu_ops()->name, repetitions);
    printf("  dense attention                       %8.2f\n", best[0]);
    printf("  curves of all %d theta, %d tau         %8.2f\n", N_THETAS, N_TAUS, best[1]);
    printf("  curve over lambda, one pair           %8.2f\n", best[2]);
    printf("  curves over lambda, %d pairs at once   %8.2f\n", N_PAIRS, best[3]);
    printf("  workspace, MiB                        %8.2f\n", (double)bytes / 0x1p20);
    free(q);
    free(k);
    free(v);
    free(o);
    free(curve);
    free(pv);
    free(ws);
    return OK;
}

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 2048, d = argc > 2 ? atoi(argv[2]) : 64,
        repetitions = argc > 3 ? atoi(argv[3]) : 10;
    if (n < 1 || d < 1 || d > 256 || repetitions < 1) {
        fprintf(stderr, "usage: bench_tuner [tokens] [head_dim up to 256] [repetitions]\n");
        return 2;
    }
    if (bench(n, d, repetitions) == OK) return 0;
    fprintf(stderr, "bench_tuner: %s\n", status_message());
    return 3;
}

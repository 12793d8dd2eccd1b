/* Every attention implementation of the registry against the definition, on fresh random inputs.
 *
 * The judge here is a second fp64 reading of the definition, independent of attn_ref, so that the
 * reference is checked as well. An implementation may err by at most twice what a plain f32
 * computation of the same tiles errs.
 *
 *   check_kernels [--seed N] [--rounds N] [--impl NAME]     exit code 1 when anything is wrong
 *   check_kernels --bench [--threads N]                     speed against the sgemm rate of this
 * machine
 */
#include "kernels/cpu/cpu_ops.h"
#include "tests/kernels/attn_bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int row_counts[] = {1, 2, 63, 64, 65, 127, 128, 129, 200, 257, 511, 640};
static const int head_dims[] = {16, 64, 80, 96, 128};
static const float lambdas[] = {0, 1, 5, 50};
enum {
    N_ROW_COUNTS = sizeof row_counts / sizeof *row_counts,
    N_DIMS = sizeof head_dims / sizeof *head_dims,
    N_SHAPES = 4,
};
struct tally {
    double worst; /* error over that of plain f32 */
    long calls, ties, failures;
    char where[160];
};

enum { MAX_IMPLS = 16 };
static struct tally tallies[MAX_IMPLS];
static const char *only_impl;
static struct par *pools[4]; /* [t]: t threads */
static char label[160];

static void wrong(int impl, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void wrong(int impl, const char *fmt, ...)
{
    if (tallies[impl].failures++ >= 5) return;
    va_list ap;
    va_start(ap, fmt);
    printf("  WRONG %s: %s: ", attn_impls[impl]->name, label);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
}

static bool skips(int i, const struct attn_args *a)
{
    return (only_impl && strcmp(only_impl, attn_impls[i]->name) != 0) || attn_impls[i]->refuses(a);
}

static bool run_impl(const struct attn_impl *impl, int index, struct problem *p, struct par *par)
{
    struct attn_args a = p->a;
    uint32_t *words = (uint32_t *)p->o;
    for (size_t i = 0; i < p->o_floats + 2 * GUARD; i++) words[i] = POISON;
    a.o = out_of(p);
    size_t bytes = impl->workspace(&a);
    if (bytes % 64) wrong(index, "workspace of %zu bytes is no multiple of 64", bytes);
    unsigned char *ws = aligned(bytes + 64);
    memset(ws, 0xfe, bytes + 64);
    bool ok = impl->run(&a, ws, par, NULL) == OK;
    if (!ok) wrong(index, "run failed: %s", status_message());
    for (size_t i = bytes; i < bytes + 64; i++)
        if (ws[i] != 0xfe) {
            wrong(index, "wrote behind its workspace");
            break;
        }
    free(ws);
    return ok;
}

/* Everything outside the rows keeps its poison. */
static void check_padding(int index, struct problem *p)
{
    const struct attn_args *a = &p->a;
    size_t total = p->o_floats + 2 * GUARD;
    uint8_t *inside = must(calloc(total, 1));
    for (int h = 0; h < HEADS; h++)
        for (int r = 0; r < a->n_q; r++)
            memset(inside + GUARD + r * a->o_row + h * a->o_head, 1, (size_t)a->head_dim);
    for (size_t i = 0; i < total; i++) {
        uint32_t word;
        memcpy(&word, p->o + i, sizeof word);
        if (!inside[i] && word != POISON) {
            wrong(index, "wrote outside its rows at float %zu of %zu", i, total);
            break;
        }
    }
    free(inside);
}

/* Judged by the root mean square, which is steady where a maximum over few values is luck; no
 * single value may be off by more than twice that again. */
static void check_values(int index, struct problem *p)
{
    const struct attn_args *a = &p->a;
    double err = 0, plain = 0, size = 0, worst = 0, plain_worst = 0;
    int d = a->head_dim;
    long n = 0;
    for (int h = 0; h < HEADS; h++)
        for (int r = 0; r < a->n_q; r++) {
            size_t at = (size_t)h * (size_t)a->n_q + (size_t)r;
            for (int i = 0; i < d; i++) {
                double t = p->truth[at * (size_t)d + (size_t)i];
                float got = out_of(p)[r * a->o_row + h * a->o_head + i];
                if (!isfinite(got)) {
                    wrong(
                        index, "head %d row %d dim %d is %g, expected %g", h, r, i, (double)got, t);
                    return;
                }
                if (p->tied[at]) continue;
                double e = fabs((double)got - t),
                       f = fabs((double)p->plain[at * (size_t)d + (size_t)i] - t);
                worst = fmax(worst, e);
                plain_worst = fmax(plain_worst, f);
                err += e * e;
                plain += f * f;
                size += t * t;
                n++;
            }
        }
    if (!n) return;
    err = sqrt(err / (double)n);
    plain = sqrt(plain / (double)n);
    /* Never ask for less than rounding the result twice and the scores by half a unit in their last
     * place, or by a whole one where a few rows leave plain f32 room for luck. */
    double of_scores = p->top_score / (a->n_q < 16 ? 1 : 2);
    double floor_error = 0x1p-24 * sqrt(size / (double)n) * (2 + of_scores);
    double unit = fmax(plain, floor_error), ratio = unit > 0 ? err / unit : 0;
    double worst_ratio = unit > 0 ? worst / fmax(plain_worst, 4 * floor_error) : 0;
    if (ratio > tallies[index].worst) {
        tallies[index].worst = ratio;
        snprintf(tallies[index].where, sizeof tallies[index].where, "%s", label);
    }
    if (ratio > 2)
        wrong(index, "error %.3g is %.2f times that of plain f32 (%.3g)", err, ratio, plain);
    if (worst_ratio > 4)
        wrong(index, "largest error %.3g, %.2f times that of plain f32", worst, worst_ratio);
}

static uint64_t far(uint64_t a, uint64_t b) { return a > b ? a - b : b - a; }

static void check_ledger(
    int index, struct problem *p, const struct head_ledger *got, const struct head_ledger *before)
{
    for (int h = 0; h < HEADS; h++) {
        struct head_ledger want = before[h];
        head_ledger_add(&want, &p->ledger[h]);
        /* Units too close to call may fall either way on each of their tiles. */
        uint64_t slack =
            (uint64_t)p->ties[h] * (uint64_t)((attn_n_kv(&p->a) + p->a.block.k - 1) / p->a.block.k);
        if (far(got[h].pv_units_computed, want.pv_units_computed) > slack)
            wrong(index, "head %d: %llu P·V units computed, expected %llu (%d ties)", h,
                (unsigned long long)(got[h].pv_units_computed - before[h].pv_units_computed),
                (unsigned long long)p->ledger[h].pv_units_computed, p->ties[h]);
        want.pv_units_computed = got[h].pv_units_computed;
        if (memcmp(&want, &got[h], sizeof want) != 0)
            wrong(index,
                "head %d: ledger %llu/%llu tiles, %llu units, expected %llu/%llu and %llu, or "
                "foreign fields",
                h, (unsigned long long)got[h].tiles_computed,
                (unsigned long long)got[h].tiles_possible,
                (unsigned long long)got[h].pv_units_possible,
                (unsigned long long)want.tiles_computed, (unsigned long long)want.tiles_possible,
                (unsigned long long)want.pv_units_possible);
    }
}

/* The judge has spoken; now everyone who does not refuse. */
static void check_all(struct problem *p, struct rng *r)
{
    size_t bytes = (p->o_floats + 2 * GUARD) * sizeof *p->o;
    float *first = aligned(bytes);
    for (int i = 0; attn_impls[i]; i++) {
        const struct attn_impl *impl = attn_impls[i];
        if (skips(i, &p->a)) continue;
        struct head_ledger before[HEADS], got[HEADS];
        for (int h = 0; h < HEADS; h++)
            for (size_t w = 0; w < sizeof *before / 8; w++)
                ((uint64_t *)&before[h])[w] = rng_below(r, 1000);
        memcpy(got, before, sizeof got);
        p->a.ledger = got;
        tallies[i].calls++;
        for (int h = 0; h < HEADS; h++) tallies[i].ties += p->ties[h];
        if (!run_impl(impl, i, p, NULL)) continue;
        check_padding(i, p);
        check_values(i, p);
        check_ledger(i, p, got, before);
        memcpy(first, p->o, bytes);
        for (int t = 2; t <= 3 && impl != &attn_ref; t++) {
            struct head_ledger again[HEADS];
            memcpy(again, before, sizeof again);
            p->a.ledger = again;
            if (run_impl(impl, i, p, pools[t]) && memcmp(first, p->o, bytes) != 0)
                wrong(i, "%d threads give other bits than one", t);
            if (memcmp(again, got, sizeof got) != 0)
                wrong(i, "%d threads count another ledger than one", t);
        }
        p->a.ledger = NULL;
    }
    free(first);
}

static void check_dense(struct rng *r, int n, int d, int ratio, struct block_shape block)
{
    int start = rng_below(r, 2) ? 0 : rng_range(r, 1, 300);
    struct problem p;
    problem_open(&p, r, n, start, HEADS / ratio, d, block, .3f);
    snprintf(label, sizeof label, "dense n %d+%d d %d gqa %d", start, n, d, ratio);
    judge(&p);
    check_all(&p, r);
    problem_close(&p);
}

/* A model's own sliding window: 1 key, fewer than a unit, about a block, many. */
static void check_window(
    struct rng *r, int n, int d, int ratio, struct block_shape block, int window)
{
    int start = rng_below(r, 2) ? 0 : rng_range(r, 1, 300);
    struct problem p;
    problem_open(&p, r, n, start, HEADS / ratio, d, block, .3f);
    p.a.window = window;
    snprintf(label, sizeof label, "window %d n %d+%d d %d gqa %d", window, start, n, d, ratio);
    judge(&p);
    check_all(&p, r);
    problem_close(&p);
}

static void check_sparse(
    struct rng *r, int n, int d, int ratio, struct block_shape block, enum map_kind kind)
{
    static const char *names[] = {"full", "minimal", "random", "thin", "half"};
    int start = (int)rng_below(r, 3) * block.q;
    struct problem p;
    problem_open(&p, r, n, start, HEADS / ratio, d, block, kind == MAP_FULL ? .3f : 1.2f);
    struct tile_map map = tile_map_shape(block, HEADS, start, n);
    fill_map(r, &map, &p.a, kind);
    uint8_t head_sparse[HEADS];
    float lambda[HEADS];
    for (int h = 0; h < HEADS; h++) {
        head_sparse[h] = rng_below(r, 4) != 0;
        lambda[h] = lambdas[rng_below(r, 4)];
    }
    p.a.tiles = &map;
    if (rng_below(r, 2)) p.a.head_sparse = head_sparse;
    if (rng_below(r, 4)) p.a.pv_threshold = lambda;
    snprintf(label, sizeof label, "sparse %s %dx%d n %d+%d d %d gqa %d%s lambda %s%g", names[kind],
        block.q, block.k, start, n, d, ratio, p.a.head_sparse ? " mixed" : "",
        p.a.pv_threshold ? "" : "none of ", (double)lambda[0]);
    judge(&p);
    check_all(&p, r);
    free(map.bits);
    problem_close(&p);
}

/* Left-out tiles as pseudo-keys, against the definition in fp64; `alike`: heads that walk together.
 */
static void check_corrected(struct rng *r, int n, int d, struct block_shape block, bool alike)
{
    struct problem p;
    int start = (int)rng_below(r, 2) * 2 * block.q;
    problem_open(&p, r, n, start, alike ? 1 : HEADS / 2, d, block, 1.2f);
    if (alike) p.a.q_head = 0;
    struct tile_map map = tile_map_shape(block, HEADS, start, n);
    fill_map(r, &map, &p.a, MAP_HALF);
    uint8_t head_sparse[HEADS];
    for (int h = 0; h < HEADS; h++) head_sparse[h] = h != 1;
    p.a.tiles = &map;
    p.a.head_sparse = head_sparse;
    p.a.correct_mean = true;
    snprintf(label, sizeof label, "corrected %dx%d n %d+%d d %d%s", block.q, block.k, start, n, d,
        alike ? " heads alike" : "");
    struct head_ledger ledgers[2][HEADS];
    size_t size = p.o_floats * sizeof(float);
    float *want = aligned(size), *got = aligned(size);
    for (int i = -1; attn_impls[i < 0 ? 0 : i]; i++) {
        const struct attn_impl *impl = i < 0 ? &attn_ref : attn_impls[i];
        struct attn_args a = p.a;
        if (i >= 0 && skips(i, &a)) continue;
        memset(ledgers[i >= 0], 0, sizeof ledgers[0]);
        a.ledger = ledgers[i >= 0];
        a.o = i < 0 ? want : got;
        memset(a.o, 0, size);
        void *ws = aligned(impl->workspace(&a) + 64);
        if (impl->run(&a, ws, NULL, NULL) != OK) wrong(i < 0 ? 0 : i, "run failed");
        free(ws);
        if (i < 0) continue;
        double off = 0, norm = 0;
        for (size_t x = 0; x < p.o_floats; x++) {
            off += ((double)got[x] - (double)want[x]) * ((double)got[x] - (double)want[x]);
            norm += (double)want[x] * (double)want[x];
        }
        if (!(off <= 1e-12 * norm)) wrong(i, "corrected output off by %g", sqrt(off / norm));
        uint64_t corrected = 0;
        for (int h = 0; h < HEADS; h++) {
            corrected += ledgers[0][h].tiles_corrected;
            if (ledgers[0][h].tiles_corrected != ledgers[1][h].tiles_corrected)
                wrong(i, "head %d: %lu tiles corrected, want %lu", h, ledgers[1][h].tiles_corrected,
                    ledgers[0][h].tiles_corrected);
        }
        if (!corrected || ledgers[0][1].tiles_corrected) wrong(i, "nothing, or a dense head");
    }
    free(want);
    free(got);
    free(map.bits);
    problem_close(&p);
}

/* A map with every tile set is dense attention. */
static void check_full_is_dense(struct rng *r, int n, int d, struct block_shape block)
{
    struct problem p;
    problem_open(&p, r, n, 0, HEADS / 2, d, block, .3f);
    struct tile_map map = tile_map_shape(block, HEADS, 0, n);
    fill_map(r, &map, &p.a, MAP_FULL);
    float never[HEADS] = {1e30f, 1e30f, 1e30f, 1e30f};
    size_t bytes = (p.o_floats + 2 * GUARD) * sizeof *p.o;
    float *dense = aligned(bytes);
    snprintf(
        label, sizeof label, "every tile against dense, %dx%d n %d d %d", block.q, block.k, n, d);
    for (int i = 0; attn_impls[i]; i++) {
        if (skips(i, &p.a)) continue;
        p.a.tiles = NULL;
        p.a.pv_threshold = NULL;
        run_impl(attn_impls[i], i, &p, NULL);
        memcpy(dense, p.o, bytes);
        p.a.tiles = &map;
        p.a.pv_threshold = never;
        run_impl(attn_impls[i], i, &p, NULL);
        if (memcmp(dense, p.o, bytes) != 0) wrong(i, "differs in bits");
    }
    free(dense);
    free(map.bits);
    problem_close(&p);
}

/* Rows before `cut` may not notice what stands at and behind it. */
static void check_causality(
    struct rng *r, int n, int d, struct block_shape block, bool sparse, float gain)
{
    struct problem p;
    problem_open(&p, r, n, 0, HEADS / 4, d, block, .8f);
    struct tile_map map = tile_map_shape(block, HEADS, 0, n);
    fill_map(r, &map, &p.a, MAP_HALF);
    if (sparse) p.a.tiles = &map;
    int cut = rng_range(r, 1, n - 1);
    size_t bytes = (p.o_floats + 2 * GUARD) * sizeof *p.o;
    float *before = aligned(bytes);
    snprintf(label, sizeof label, "causality, %s %dx%d n %d d %d cut %d gain %g",
        sparse ? "sparse" : "dense", block.q, block.k, n, d, cut, (double)gain);
    for (int i = 0; attn_impls[i]; i++) {
        const struct attn_impl *impl = attn_impls[i];
        if (skips(i, &p.a)) continue;
        run_impl(impl, i, &p, NULL);
        memcpy(before, p.o, bytes);
        for (int t = cut; t < n; t++)
            for (int c = 0; c < d; c++) {
                p.k[t * p.a.k_row + c] = gain * (float)rng_normal(r);
                p.v[t * p.a.v_row + c] = 1e4f * (float)rng_normal(r);
            }
        run_impl(impl, i, &p, NULL);
        int same = 0;
        for (int h = 0; h < HEADS; h++)
            for (int row = 0; row < n; row++) {
                ptrdiff_t at = GUARD + row * p.a.o_row + h * p.a.o_head;
                bool equal = memcmp(before + at, p.o + at, sizeof(float) * (size_t)d) == 0;
                if (row < cut && !equal) {
                    wrong(i, "head %d row %d changed", h, row);
                    h = HEADS;
                    break;
                }
                /* at a large gain the new keys may get no weight */
                same += row >= cut && equal && gain <= 1;
            }
        if (same) wrong(i, "%d rows at or behind the cut did not notice", same);
    }
    free(before);
    free(map.bits);
    problem_close(&p);
}

/* With λ the decision of a unit may look at its later rows, but values of the future are never
 * mixed in. */
static void check_value_causality(struct rng *r, int n, int d, struct block_shape block)
{
    struct problem p;
    problem_open(&p, r, n, 0, HEADS, d, block, 1.2f);
    struct tile_map map = tile_map_shape(block, HEADS, 0, n);
    fill_map(r, &map, &p.a, MAP_HALF);
    p.a.tiles = &map;
    p.a.pv_threshold = lambdas; /* four heads, four thresholds */
    int cut = rng_range(r, 1, n - 1);
    size_t bytes = (p.o_floats + 2 * GUARD) * sizeof *p.o;
    float *before = aligned(bytes);
    snprintf(label, sizeof label, "values of the future, %dx%d n %d d %d cut %d", block.q, block.k,
        n, d, cut);
    for (int i = 0; attn_impls[i]; i++) {
        if (skips(i, &p.a)) continue;
        run_impl(attn_impls[i], i, &p, NULL);
        memcpy(before, p.o, bytes);
        for (int h = 0; h < HEADS; h++)
            for (int t = cut; t < n; t++)
                for (int c = 0; c < d; c++)
                    p.v[t * p.a.v_row + h * p.a.v_head + c] = 1e4f * (float)rng_normal(r);
        run_impl(attn_impls[i], i, &p, NULL);
        for (int h = 0; h < HEADS; h++)
            for (int row = 0; row < cut; row++) {
                ptrdiff_t at = GUARD + row * p.a.o_row + h * p.a.o_head;
                if (memcmp(before + at, p.o + at, sizeof(float) * (size_t)d) != 0) {
                    wrong(i, "head %d row %d changed", h, row);
                    h = HEADS;
                    break;
                }
            }
    }
    free(before);
    free(map.bits);
    problem_close(&p);
}

/* Scores that rise by `gain` every `step` tokens, up to thousands: no NaN, no infinity, the same
 * answer. λ = 0 skips every tile behind the first while the running maximum moves on; a rise per
 * token puts scores of the future, masked but far above the row's maximum, into the diagonal tile.
 */
static void check_extremes(struct rng *r, float gain, int step, const float *lambda)
{
    int n = 257, d = 64;
    struct problem p;
    problem_open(&p, r, n, 0, HEADS, d, shapes[1], 0);
    for (int h = 0; h < HEADS; h++)
        for (int t = 0; t < n; t++)
            for (int i = 0; i < d; i++) {
                p.q[t * p.a.q_row + h * p.a.q_head + i] = i == 0 ? 8 : 0;
                p.k[t * p.a.k_row + h * p.a.k_head + i] = i == 0 ? gain * (float)(t / step) : 0;
            }
    struct tile_map map = tile_map_shape(shapes[1], HEADS, 0, n);
    fill_map(r, &map, &p.a, MAP_FULL);
    if (lambda) {
        p.a.tiles = &map;
        p.a.pv_threshold = lambda;
    }
    snprintf(label, sizeof label, "scores rising by %g every %d tokens, lambda %g", (double)gain,
        step, lambda ? (double)lambda[0] : NAN);
    judge(&p);
    check_all(&p, r);
    free(map.bits);
    problem_close(&p);
}

static void check_refusals(void)
{
    struct attn_args a = {.dtype = DTYPE_F16,
        .n_q = 64,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = 64,
        .scale = .125f,
        .block = {128, 64}};
    snprintf(label, sizeof label, "f16 operands on the CPU");
    for (int i = 0; attn_impls[i]; i++)
        if (!attn_impls[i]->refuses(&a) &&
            (attn_impls[i] == &attn_ref || strstr(attn_impls[i]->name, "_f32")))
            wrong(i, "does not refuse a type it cannot read");
}

static int check(uint64_t seed, int rounds)
{
    struct rng r;
    for (int round = 0; round < rounds; round++) {
        rng_init(&r, seed + (uint64_t)round);
        for (int i = 0; i < N_ROW_COUNTS; i++)
            for (int j = 0; j < N_DIMS; j++) {
                int n = row_counts[i], d = head_dims[j], c = i * N_DIMS + j + round,
                    ratio = 1 << c % 3;
                /* the slow half comes with the next round */
                if (n > 500 && (i + j + round) % 2) continue;
                check_dense(&r, n, d, ratio, shapes[c % N_SHAPES]);
                check_sparse(&r, n, d, ratio, shapes[(c + c / 4) % N_SHAPES],
                    (enum map_kind)((i + j + round) % N_MAP_KINDS));
            }
        for (int s = 0; s < N_SHAPES; s++) {
            check_sparse(&r, 450, 32, 2, shapes[s], MAP_RANDOM);
            for (int alike = 0; alike < 2; alike++)
                check_corrected(&r, s % 2 ? 700 : 517, s % 2 ? 80 : 64, shapes[s], alike);
            check_full_is_dense(
                &r, rng_range(&r, 9, 400), head_dims[(s + round) % N_DIMS], shapes[s]);
            for (int sparse = 0; sparse < 2; sparse++) {
                check_causality(&r, rng_range(&r, 2, 300), sparse ? 80 : 64, shapes[s], sparse, 1);
                check_causality(&r, rng_range(&r, 2, 300), sparse ? 80 : 64, shapes[s], sparse, 40);
            }
            check_value_causality(&r, rng_range(&r, 130, 400), 64, shapes[s]);
        }
        static const int windows[] = {1, 2, 33, 64, 100, 129, 300};
        for (int i = 0; i < (int)(sizeof windows / sizeof *windows); i++) {
            check_window(&r, rng_range(&r, 9, 500), head_dims[i % N_DIMS], 1 << i % 3,
                shapes[i % N_SHAPES], windows[i]);
            /* as decoding does */
            check_window(&r, rng_range(&r, 1, 9), 64, 2, shapes[0], windows[i]);
        }
        check_dense(&r, 70, 1, 1, shapes[0]);
        check_dense(&r, 70, 20, 2, shapes[0]);
        check_dense(&r, 70, 256, 4, shapes[0]);
        for (int l = 0; l < 4; l++) {
            float lambda[HEADS] = {lambdas[l], lambdas[l], lambdas[l], lambdas[l]};
            static const float gains[] = {5, -5, 92, 300, -300};
            for (int g = 0; g < 5; g++) check_extremes(&r, gains[g], 64, lambda);
        }
        for (int g = 1; g <= 128; g *= 2) check_extremes(&r, .6931472f * (float)g, 1, NULL);
    }
    check_refusals();
    long failures = 0;
    printf("%-20s %8s %8s %8s %12s  worst case\n", "implementation", "calls", "failed", "ties",
        "error/plain");
    for (int i = 0; attn_impls[i]; i++) {
        const struct tally *t = &tallies[i];
        failures += t->failures;
        if (!t->calls) printf("%-20s not run here\n", attn_impls[i]->name);
        else
            printf("%-20s %8ld %8ld %8ld %12.2f  %s\n", attn_impls[i]->name, t->calls, t->failures,
                t->ties, t->worst, t->where);
    }
    printf("%s (seed %llu; allowed error/plain 2)\n", failures ? "FAILED" : "all right",
        (unsigned long long)seed);
    return failures != 0;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1;
    int rounds = 1, threads = 1;
    bool benchmark = false;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--bench") == 0) {
            benchmark = true;
            continue;
        }
        if (value && strcmp(argv[i], "--seed") == 0) seed = strtoull(value, NULL, 10);
        else if (value && strcmp(argv[i], "--rounds") == 0) rounds = atoi(value);
        else if (value && strcmp(argv[i], "--threads") == 0) threads = atoi(value);
        else if (value && strcmp(argv[i], "--impl") == 0) only_impl = value;
        else {
            fprintf(stderr,
                "usage: check_kernels [--seed N] [--rounds N] [--impl NAME] | --bench [--threads "
                "N]\n");
            return 2;
        }
        i++;
    }
    if (benchmark) return bench(threads, only_impl);
    for (int t = 2; t <= 3; t++)
        if (par_open(&pools[t], t) != OK) {
            fprintf(stderr, "%s\n", status_message());
            return 3;
        }
    int code = check(seed, rounds);
    for (int t = 2; t <= 3; t++) par_close(&pools[t]);
    return code;
}

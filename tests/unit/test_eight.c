/* Eight bits (METHOD 9): the numbers, the copies of q, k and v, and attention over them against a
 * judge of its own. */
#include "base/rng.h"
#include "kernels/eight.h"
#include "kernels/registry.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(p, 0xff, (bytes + 127) / 64 * 64);
    return p;
}

/* What the code of an e4m3 number stands for, without its sign; 127 would be NaN. */
static double e4m3_of(int code)
{
    return code < 8 ? ldexp(code, -9) : ldexp(8 + code % 8, code / 8 - 10);
}

/* The nearest code by trying all of them; a tie goes to the even one. */
static double e4m3_nearest(double x)
{
    static double of[127];
    int best = 0;
    for (int c = 0; c < 127 && !(of[126] > 0); c++) of[c] = e4m3_of(c);
    for (int c = 1; c < 127; c++) {
        double now = fabs(fabs(x) - of[c]), before = fabs(fabs(x) - of[best]);
        if (now < before || (now == before && c % 2 == 0)) best = c;
    }
    return copysign(of[best], x);
}

Test(eight, e4m3_is_the_nearest_code)
{
    struct rng r;
    rng_init(&r, 3);
    for (int i = 0; i < 20000; i++) {
        float x = (float)ldexp(2 * rng_unit(&r) - 1, rng_range(&r, -14, 10));
        cr_assert_eq((double)e4m3_round(x), e4m3_nearest((double)x), "%a", (double)x);
    }
    for (int c = 0; c < 126; c++) {
        float middle = (float)((e4m3_of(c) + e4m3_of(c + 1)) / 2);
        cr_assert_eq((double)e4m3_round(middle), e4m3_nearest((double)middle),
            "between codes %d and %d", c, c + 1);
        cr_assert_eq((double)e4m3_round(-middle), -e4m3_nearest((double)middle));
    }
    cr_assert_eq(e4m3_round(1e30f), 448);
    cr_assert_eq(e4m3_round(-464), -448);
}

Test(eight, a_scale_of_two_is_the_smallest_that_holds)
{
    struct rng r;
    rng_init(&r, 4);
    for (int i = 0; i < 20000; i++) {
        float x = (float)ldexp(rng_unit(&r), rng_range(&r, -12, 20));
        int e = eight_exponent(x);
        cr_assert_leq((double)x, ldexp(448, e));
        if (e > EIGHT_EXP_MIN) cr_assert_gt((double)x, ldexp(448, e - 1));
    }
    cr_assert_eq(eight_exponent(448), 0);
    cr_assert_eq(eight_exponent(449), 1);
    cr_assert_eq(eight_exponent(0), EIGHT_EXP_MIN);
}

enum { HEADS = 4, KV_HEADS = 2, D = 48 };

struct problem {
    struct attn_args a;
    struct tile_map map;
    float *q, *k, *v, *o, lambda[HEADS];
    uint8_t sparse[HEADS];
    struct head_ledger ledger[HEADS];
};

static float *numbers(struct rng *r, size_t n, float offset)
{
    float *x = aligned(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)rng_normal(r) + (i % D < 4 ? offset : 0);
    return x;
}

/* Random tiles when `block_k` is not 0. */
static void problem_open(struct problem *p, struct rng *r, int n, int start, int block_k,
    enum precision qk, enum precision pv, bool skips)
{
    memset(p, 0, sizeof *p);
    int n_kv = n + start;
    p->q = numbers(r, (size_t)(HEADS * n * D), 0);
    /* channels far from zero, as keys have them */
    p->k = numbers(r, (size_t)(KV_HEADS * n_kv * D), 9);
    p->v = numbers(r, (size_t)(KV_HEADS * n_kv * D), 0);
    p->o = aligned(sizeof(float) * (size_t)(HEADS * n * D));
    p->a = (struct attn_args){
        .dtype = DTYPE_F32,
        .n_q = n,
        .q_start = start,
        .n_heads = HEADS,
        .n_kv_heads = KV_HEADS,
        .head_dim = D,
        .scale = .4f,
        .q = p->q,
        .k = p->k,
        .v = p->v,
        .o = p->o,
        .q_row = D,
        .q_head = n * D,
        .k_row = D,
        .k_head = n_kv * D,
        .v_row = D,
        .v_head = n_kv * D,
        .o_row = D,
        .o_head = n * D,
        .block = {128, block_k ? block_k : 64},
        .qk = qk,
        .pv = pv,
        .ledger = p->ledger,
    };
    if (!block_k) return;
    p->map = tile_map_shape(p->a.block, HEADS, start, n);
    p->map.bits = aligned(tile_map_bytes(&p->map));
    memset(p->map.bits, 0, tile_map_bytes(&p->map));
    for (int h = 0; h < HEADS; h++) {
        p->lambda[h] = 6;
        p->sparse[h] = h != 1;
        for (int i = 0; i < p->map.n_qblocks; i++) {
            int qb = start / 128 + i, possible = tiles_possible(p->a.block, qb, n_kv);
            for (int j = 0; j < possible; j++)
                if (j == 0 || (j + 1) * block_k > qb * 128 || rng_below(r, 2))
                    tile_map_row(&p->map, h, i)[j / 64] |= (uint64_t)1 << j % 64;
        }
    }
    p->a.tiles = &p->map, p->a.head_sparse = p->sparse;
    if (skips) p->a.pv_threshold = p->lambda;
}

static void problem_close(struct problem *p)
{
    free(p->q), free(p->k), free(p->v), free(p->o), free(p->map.bits);
}

static double largest_of(const float *x, const double *mean, int n)
{
    double largest = 0;
    for (int r = 0; r < n; r++)
        for (int i = 0; i < D; i++) largest = fmax(largest, fabs((double)x[r * D + i] - mean[i]));
    return largest;
}

Test(eight, copies_are_rounded_under_the_scale_of_their_block)
{
    struct rng r;
    rng_init(&r, 5);
    for (int fp8 = 0; fp8 < 2; fp8++) {
        struct problem p;
        struct attn_args to;
        problem_open(
            &p, &r, 200, 64, 0, fp8 ? PRECISION_FP8 : PRECISION_INT8, PRECISION_FP8, false);
        void *ws = aligned(eight_bytes(&p.a));
        eight_inputs(&p.a, ws, NULL, &to);
        for (int h = 0; h < KV_HEADS; h++) {
            const float *k = p.k + h * p.a.k_head, *got = (const float *)to.k + h * to.k_head;
            double mean[D] = {0};
            for (int j = 0; j < 128; j++)
                for (int i = 0; i < D; i++) mean[i] += (double)k[j * D + i] / 128;
            for (int j0 = 0; j0 < 264; j0 += 64) {
                int n = j0 + 64 < 264 ? 64 : 264 - j0;
                double largest = largest_of(k + j0 * D, mean, n);
                for (int x = 0; x < n * D; x++) {
                    double want = (double)k[j0 * D + x] - mean[x % D], is = (double)got[j0 * D + x];
                    if (fp8) {
                        double scale = ldexp(1, eight_exponent((float)largest));
                        /* the next code, if a tie */
                        cr_assert_float_eq(
                            is, scale * e4m3_nearest(want / scale), 1e-5 + fabs(want) / 7.9);
                        cr_assert_eq(is / scale, e4m3_nearest(is / scale));
                    } else {
                        double steps = is / (largest / 127);
                        cr_assert_float_eq(steps, rint(steps), 1e-4);
                        cr_assert_leq(fabs(is - want), largest / 127 * .5001);
                    }
                }
            }
        }
        /* A call that sees fewer keys has the same copies of those it sees. */
        struct attn_args fewer = p.a, then;
        fewer.n_q = 128;
        void *ws2 = aligned(eight_bytes(&fewer));
        eight_inputs(&fewer, ws2, NULL, &then);
        for (int h = 0; h < KV_HEADS; h++) {
            size_t bytes = sizeof(float) * 192 * D;
            cr_assert_eq(memcmp((const float *)to.k + h * to.k_head,
                             (const float *)then.k + h * then.k_head, bytes),
                0);
            cr_assert_eq(memcmp((const float *)to.v + h * to.v_head,
                             (const float *)then.v + h * then.v_head, bytes),
                0);
        }
        free(ws), free(ws2);
        problem_close(&p);
    }
}

/* The definition once more, on copies made by eight_inputs: one row, every number in double.
 * `kept[j]`: key block j takes part. */
static void judge_row(const struct attn_args *e, int head, int row, const bool *kept, double *o)
{
    int kv = head / (HEADS / KV_HEADS), pos = e->q_start + row;
    const float *q = (const float *)e->q + head * e->q_head + row * e->q_row;
    double x[1024], top = -INFINITY, sum = 0;
    for (int j = 0; j <= pos; j++) {
        const float *k = (const float *)e->k + kv * e->k_head + j * e->k_row;
        x[j] = 0;
        for (int i = 0; i < D; i++) x[j] += (double)q[i] * (double)k[i];
        x[j] *= (double)e->scale / log(2);
        if (kept[j / e->block.k]) top = fmax(top, x[j]);
    }
    memset(o, 0, sizeof *o * D);
    for (int j0 = 0; j0 <= pos; j0 += 64) {
        if (!kept[j0 / e->block.k]) continue;
        double most = -INFINITY;
        for (int j = j0; j <= pos && j < j0 + 64; j++) most = fmax(most, x[j]);
        double unit = exp2(ceil(most) - 8);
        for (int j = j0; j <= pos && j < j0 + 64; j++) {
            const float *v = (const float *)e->v + kv * e->v_head + j * e->v_row;
            double p = exp2(x[j]) / unit;
            sum += p * unit / exp2(top);
            if (e->pv == PRECISION_FP8) p = e4m3_nearest(p);
            for (int i = 0; i < D; i++) o[i] += p * unit / exp2(top) * (double)v[i];
        }
    }
    for (int i = 0; i < D; i++) o[i] /= sum;
}

/* Rows of x that are not those of y. A probability that lies within rounding of the middle between
 * two codes may fall to either side, which its row shows, and by no more than half a step of e4m3
 * of all it is made of. */
static int rows_off(const struct problem *p, const float *x, const float *y)
{
    int off = 0;
    for (int row = 0; row < HEADS * p->a.n_q; row++) {
        double diff = 0, size = 0;
        for (int i = row * D; i < (row + 1) * D; i++) {
            diff += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
            size += (double)y[i] * (double)y[i];
        }
        off += !(diff < 1e-8 * size);
        cr_assert_lt(sqrt(diff / size), .2, "row %d", row);
    }
    return off;
}

static void run(const struct attn_impl *impl, struct problem *p, struct par *par)
{
    cr_assert_null(impl->refuses(&p->a), "%s: %s", impl->name, impl->refuses(&p->a));
    void *ws = aligned(impl->workspace(&p->a));
    memset(p->ledger, 0, sizeof p->ledger);
    cr_assert_eq(impl->run(&p->a, ws, par, NULL), OK);
    free(ws);
}

/* One row in a hundred: ties are rarer, an error of the definition shows in all rows. */
static int few(const struct problem *p) { return 1 + HEADS * p->a.n_q / 100; }

static void compare(enum precision qk, enum precision pv, int n, int start, int block_k, bool skips)
{
    struct rng r;
    struct problem p;
    struct par *par = NULL;
    rng_init(&r, (uint64_t)(n + block_k));
    problem_open(&p, &r, n, start, block_k, qk, pv, skips);
    size_t bytes = sizeof(float) * (size_t)(HEADS * n * D);
    float *want = aligned(bytes), *first = aligned(bytes);
    run(&attn_ref, &p, NULL);
    memcpy(want, p.o, bytes);
    struct head_ledger counted[HEADS];
    memcpy(counted, p.ledger, sizeof counted);
    if (!skips) {
        struct attn_args e;
        void *ws = aligned(eight_bytes(&p.a));
        eight_inputs(&p.a, ws, NULL, &e);
        for (int h = 0; h < HEADS; h++)
            for (int row = 0; row < n; row++) {
                bool kept[16];
                double o[D];
                for (int j = 0; j < 16; j++)
                    kept[j] = !block_k || !p.sparse[h] ||
                        (tile_map_row(&p.map, h, row / 128)[0] >> j & 1);
                judge_row(&e, h, row, kept, o);
                for (int i = 0; i < D; i++) p.o[h * p.a.o_head + row * D + i] = (float)o[i];
            }
        int off = rows_off(&p, want, p.o);
        cr_assert_leq(off, few(&p),
            "the reference differs in %d rows from a second reading of the definition", off);
        free(ws);
    }
    cr_assert_eq(par_open(&par, 3), OK);
    for (int i = 0; attn_impls[i]; i++) {
        const struct attn_impl *impl = attn_impls[i];
        if (impl == &attn_ref || impl->refuses(&p.a)) continue;
        run(impl, &p, NULL);
        int off = rows_off(&p, p.o, want);
        cr_assert_leq(off, few(&p), "%s: %d rows off (qk %s, pv %s, %d + %d rows, blocks of %d)",
            impl->name, off, precision_name(qk), precision_name(pv), start, n, block_k);
        if (!skips)
            cr_assert_eq(memcmp(p.ledger, counted, sizeof counted), 0, "%s: ledger", impl->name);
        memcpy(first, p.o, bytes);
        run(impl, &p, par);
        cr_assert_eq(memcmp(first, p.o, bytes), 0, "%s: other bits with three threads", impl->name);
    }
    par_close(&par);
    free(want), free(first);
    problem_close(&p);
}

Test(eight, attention_follows_the_definition)
{
    const enum precision qks[] = {PRECISION_FULL, PRECISION_INT8, PRECISION_FP8};
    for (int i = 0; i < 3; i++)
        for (int pv = 0; pv < 2; pv++) {
            if (!qks[i] && !pv) continue;
            enum precision p = pv ? PRECISION_FP8 : PRECISION_FULL;
            compare(qks[i], p, 130, 0, 0, false);
            compare(qks[i], p, 1, 64, 0, false);
            compare(qks[i], p, 200, 192, 0, false);
            compare(qks[i], p, 300, 128, 64, false);
            compare(qks[i], p, 300, 0, 128, false);
            compare(qks[i], p, 300, 128, 64, true);
        }
}

/* A first key that takes nearly all of the mass must not cost the others theirs: each 64 keys have
 * their own unit. */
Test(eight, the_rest_survives_a_sink)
{
    struct rng r;
    struct problem p;
    rng_init(&r, 8);
    problem_open(&p, &r, 640, 0, 0, PRECISION_FULL, PRECISION_FP8, false);
    size_t bytes = sizeof(float) * (size_t)(HEADS * 640 * D);
    memset(p.q, 0, bytes);
    for (int j = 0; j < KV_HEADS * 640; j++)
        for (int i = 0; i < D; i++) p.v[j * D + i] = j % 640 == 0 ? 0 : 1 + p.v[j * D + i] / 4;
    for (int h = 0; h < HEADS; h++)
        for (int row = 0; row < 640; row++) p.q[h * p.a.q_head + row * D] = 1;
    /* 16 · log2(e) = 23 powers of two above */
    for (int j = 0; j < KV_HEADS * 640; j++) p.k[j * D] = j % 640 == 0 ? 40 : 0;
    float *full = aligned(bytes);
    p.a.pv = PRECISION_FULL;
    run(&attn_ref, &p, NULL);
    memcpy(full, p.o, bytes);
    p.a.pv = PRECISION_FP8;
    run(&attn_ref, &p, NULL);
    const ptrdiff_t last = 639 * D; /* far from the sink's own 64 keys */
    double sum = 0, exact = 0;
    for (int i = 0; i < D; i++) sum += (double)p.o[last + i], exact += (double)full[last + i];
    cr_assert_gt(exact, 0);
    cr_assert_float_eq(sum / exact, 1, .15, "%g of %g left", sum, exact);
    free(full);
    problem_close(&p);
}

Test(eight, what_has_no_meaning_is_refused)
{
    struct attn_args a = {.dtype = DTYPE_F32,
        .n_q = 64,
        .q_start = 100,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = 64,
        .block = {128, 64},
        .qk = PRECISION_INT8};
    for (int i = 0; attn_impls[i]; i++)
        cr_assert_not_null(attn_impls[i]->refuses(&a), "%s", attn_impls[i]->name);
    a.q_start = 64, a.qk = PRECISION_FULL, a.pv = PRECISION_INT8;
    for (int i = 0; attn_impls[i]; i++)
        cr_assert_not_null(attn_impls[i]->refuses(&a), "%s", attn_impls[i]->name);
    enum precision p;
    cr_assert(precision_parse("fp8", &p) && p == PRECISION_FP8);
    cr_assert_not(precision_parse("fp4", &p));
}

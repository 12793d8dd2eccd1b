/* Error curves against brute force: the inference kernel run at each pair of thresholds. */
#include "base/rng.h"
#include "base/stats.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/curve.h"
#include "kernels/registry.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())

static const struct block_shape shapes[] = {{128, 64}, {64, 64}, {64, 128}, {128, 128}};
static const struct mask_method *const methods[] = {&mask_sparge, &mask_oracle};

/* One head. Strides are wider than a row, and what stands between the rows is poison. */
struct head {
    int n, d;
    float *q, *k, *v, *o; /* o: dense */
    float *got;           /* [n, d] */
    struct attn_args attn;
    struct head_params params;
    struct mask_args mask;
};

static float *poisoned(size_t n)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = NAN;
    return x;
}

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memset(p, 0xff, bytes);
    return p;
}

static void run_kernel(const struct attn_args *a)
{
    const struct attn_impl *impl;
    CHECK(attn_choose(a, NULL, &impl));
    void *ws = aligned(impl->workspace(a));
    CHECK(impl->run(a, ws, NULL, NULL));
    free(ws);
}

/* Rows wander slowly with jumps now and then, so that blocks differ in how alike their rows are,
 * plus a bias that centring takes away; `sharp` scales the scores. */
static void wander(struct rng *r, float *x, int n, int d, ptrdiff_t row, double sharp, double bias)
{
    double *at = malloc(sizeof *at * (size_t)d);
    double speed = .1;
    for (int i = 0; i < d; i++) at[i] = rng_normal(r);
    for (int t = 0; t < n; t++) {
        if (t % 48 == 0) speed = rng_below(r, 3) == 0 ? 1 : .02 + .2 * rng_unit(r);
        for (int i = 0; i < d; i++) {
            at[i] = sqrt(1 - speed * speed * .5) * at[i] + speed * .7 * rng_normal(r);
            x[t * row + i] = (float)(sharp * at[i] + bias * (i % 3 - 1));
        }
    }
    free(at);
}

static void head_init(struct head *h, uint64_t seed, int n, int d, struct block_shape block,
    enum smooth_k smooth, double sharp)
{
    struct rng r;
    rng_init(&r, seed);
    ptrdiff_t row = d + 5;
    size_t size = (size_t)n * (size_t)row;
    *h = (struct head){.n = n,
        .d = d,
        .q = poisoned(size),
        .k = poisoned(size),
        .v = poisoned(size),
        .o = poisoned(size),
        .got = poisoned((size_t)n * (size_t)d),
        .params = {0, 0, 50, true, 0}};
    wander(&r, h->q, n, d, row, sharp, .3);
    wander(&r, h->k, n, d, row, sharp, 1);
    for (int t = 0; t < n / 3; t++) /* some keys are what some queries look for */
        for (int i = 0, from = (int)rng_below(&r, (uint32_t)n); i < d; i++)
            h->k[(t * 3 % n) * row + i] += .7f * h->q[from * row + i];
    for (int t = 0; t < n; t++)
        for (int i = 0; i < d; i++) h->v[t * row + i] = (float)(rng_normal(&r) + .2);
    h->attn = (struct attn_args){.dtype = DTYPE_F32,
        .n_q = n,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = d,
        .scale = (float)(1 / sqrt(d)),
        .q = h->q,
        .k = h->k,
        .v = h->v,
        .o = h->o,
        .q_row = row,
        .k_row = row,
        .v_row = row,
        .o_row = row,
        .block = block};
    h->mask = (struct mask_args){.attn = &h->attn, .heads = &h->params, .smooth_k = smooth};
    run_kernel(&h->attn);
}

static void head_clear(struct head *h)
{
    free(h->q);
    free(h->k);
    free(h->v);
    free(h->o);
    free(h->got);
}

/* METHOD 5 to the letter, in fp64. */
static struct output_error error_of(const struct head *h)
{
    double abs_diff = 0, abs_sum = 0, sq_diff = 0, sq = 0, got_sq = 0, dot = 0;
    double *relative = calloc((size_t)h->n, sizeof *relative);
    for (int t = 0; t < h->n; t++) {
        double row_diff = 0, row_sum = 0;
        for (int i = 0; i < h->d; i++) {
            double x = (double)h->o[t * h->attn.o_row + i], y = (double)h->got[t * h->d + i];
            row_diff += fabs(x - y);
            row_sum += fabs(x);
            sq_diff += (x - y) * (x - y);
            sq += x * x;
            got_sq += y * y;
            dot += x * y;
        }
        relative[t] = row_diff / row_sum;
        abs_diff += row_diff;
        abs_sum += row_sum;
    }
    struct output_error e = {(float)(abs_diff / abs_sum),
        (float)quantile(relative, (size_t)h->n, .999), (float)(1 - dot / sqrt(sq * got_sq)),
        (float)sqrt(sq_diff / sq)};
    free(relative);
    return e;
}

/* What inference does with h->params: into h->got; returns the ledger. */
static struct head_ledger infer(struct head *h, const struct mask_method *m)
{
    struct attn_args a = h->attn;
    struct head_ledger ledger = {0};
    struct mask_args mask = h->mask;
    struct tile_map map = tile_map_shape(a.block, 1, 0, a.n_q);
    void *ws = aligned(mask_workspace(m, &mask, 1));
    map.bits = aligned(tile_map_bytes(&map));
    CHECK(mask_predict(m, &mask, &map, ws, NULL));
    a.tiles = &map;
    a.correct_mean = m->correct_mean;
    a.pv_threshold = &h->params.lambda;
    a.o = h->got;
    a.o_row = h->d;
    a.ledger = &ledger;
    run_kernel(&a);
    free(map.bits);
    free(ws);
    return ledger;
}

struct worst {
    double l1, tail, cosine, rmse;
};

static void compare(struct worst *w, const struct output_error *curve,
    const struct output_error *brute, const char *where)
{
    double l1 = fabs((double)curve->l1 - (double)brute->l1),
           tail = fabs((double)curve->tail - (double)brute->tail);
    double cosine = fabs((double)curve->cosine - (double)brute->cosine),
           rmse = fabs((double)curve->rmse - (double)brute->rmse);
    cr_expect(
        l1 < 1e-5, "%s: l1 %.8g, brute force %.8g", where, (double)curve->l1, (double)brute->l1);
    cr_expect(tail < 1e-4, "%s: tail %.8g, brute force %.8g", where, (double)curve->tail,
        (double)brute->tail);
    cr_expect(cosine < 1e-4, "%s: cosine %.8g, brute force %.8g", where, (double)curve->cosine,
        (double)brute->cosine);
    cr_expect(rmse < 1e-4, "%s: rmse %.8g, brute force %.8g", where, (double)curve->rmse,
        (double)brute->rmse);
    w->l1 = fmax(w->l1, l1);
    w->tail = fmax(w->tail, tail);
    w->cosine = fmax(w->cosine, cosine);
    w->rmse = fmax(w->rmse, rmse);
}

static struct curve *make_curve(const struct head *h, const struct mask_method *m)
{
    struct curve *c = malloc(sizeof *c);
    void *ws = aligned(curve_workspace(m, &h->mask));
    memset(c, 0xff, sizeof *c);
    CHECK(curve_thetas(m, &h->mask, ws, c));
    free(ws);
    return c;
}

Test(curve, grids)
{
    cr_expect(
        curve_theta(0) == -1 && curve_theta(16) == 0 && curve_theta(N_THETAS - 1) == 15 / 16.f);
    cr_expect(curve_tau(0) == 0 && curve_tau(N_TAUS - 1) == 1 && curve_lambda(0) == 0 &&
        curve_lambda(N_LAMBDAS - 1) == 50);
    for (int i = 1; i < N_THETAS; i++) cr_expect_eq(curve_theta(i) - curve_theta(i - 1), 1 / 16.f);
    for (int i = 1; i < N_TAUS; i++) {
        cr_expect(curve_tau(i) > curve_tau(i - 1));
        if (i < N_TAUS - 1) cr_expect(fabs((double)curve_tau(i) - (1 - exp2(-i / 8.))) < 1e-7);
    }
    for (int i = 1; i < N_LAMBDAS; i++) cr_expect_eq(curve_lambda(i) - curve_lambda(i - 1), .5f);
}

static void check_points(
    struct worst *w, struct head *h, const struct mask_method *m, int n_points, uint64_t seed)
{
    struct curve *c = make_curve(h, m);
    struct rng r;
    rng_init(&r, seed);
    h->params.lambda = 50;
    bool varied = false;
    for (int i = 0; i < n_points; i++) {
        /* most of what τ decides lies between .3 and .999 */
        int theta = (int)rng_below(&r, N_THETAS),
            tau = i == 0 ? 0
            : i == 1     ? N_TAUS - 1
                         : (int)rng_below(&r, 90);
        h->params.theta = curve_theta(theta);
        h->params.tau = curve_tau(tau);
        struct head_ledger l = infer(h, m);
        const struct curve_point *p = &c->points[theta][tau];
        char where[160];
        snprintf(where, sizeof where, "%s n %d d %d %dx%d %s theta %.4f tau %.6f", m->name, h->n,
            h->d, h->attn.block.q, h->attn.block.k, smooth_k_name(h->mask.smooth_k),
            (double)h->params.theta, (double)h->params.tau);
        cr_expect_eq(c->n_possible, l.tiles_possible, "%s: %u possible, ledger %lu", where,
            c->n_possible, l.tiles_possible);
        cr_expect_eq(p->n_kept, l.tiles_computed, "%s: %u kept, ledger %lu", where, p->n_kept,
            l.tiles_computed);
        struct output_error brute = error_of(h);
        compare(w, &p->error, &brute, where);
        varied |= p->n_kept < l.tiles_possible && (double)p->error.l1 > 1e-3;
        if (p->n_kept == c->n_possible)
            cr_expect(p->error.l1 == 0 && p->error.tail == 0 && p->error.rmse == 0 &&
                    p->error.cosine < 1e-6f,
                "%s", where);
    }
    cr_expect(varied || h->n == 300,
        "%s n %d %dx%d %s: nothing was left out, the test tests nothing", m->name, h->n,
        h->attn.block.q, h->attn.block.k, smooth_k_name(h->mask.smooth_k));
    free(c);
}

Test(curve, equals_brute_force, .timeout = 300)
{
    static const int lengths[] = {300, 517, 1000};
    struct worst w = {0};
    int turn = 0;
    for (int shape = 0; shape < 4; shape++)
        for (int method = 0; method < 2; method++)
            for (int length = 0; length < 3; length++, turn++) {
                struct head h;
                head_init(&h, (uint64_t)turn + 1, lengths[length], turn % 2 ? 80 : 64,
                    shapes[shape], (enum smooth_k)((turn / 2 + length) % 3),
                    turn % 5 == 4 ? 2.5 : 1.2);
                check_points(&w, &h, methods[method], length == 2 ? 40 : 60, (uint64_t)turn);
                head_clear(&h);
            }
    for (int smooth = 0; smooth < 3; smooth++) /* each centring on the same data */
        for (int d = 64; d <= 80; d += 16) {
            struct head h;
            head_init(&h, 77, 517, d, shapes[0], (enum smooth_k)smooth, 1.2);
            check_points(&w, &h, &mask_sparge, 24, 5);
            head_clear(&h);
        }
    cr_log_info("largest differences: l1 %.2g, tail %.2g, cosine %.2g, rmse %.2g", w.l1, w.tail,
        w.cosine, w.rmse);
}

/* Curves of a method that corrects what it leaves out are those of the corrected kernel. */
Test(curve, corrected_by_the_mean, .timeout = 300)
{
    struct worst w = {0};
    static const char *const names[] = {"sparge+correct=mean", "oracle+correct=mean"};
    for (int shape = 0; shape < 4; shape++) {
        const struct mask_method *m = mask_method_find(names[shape % 2]);
        struct head h;
        cr_assert(m && m->correct_mean);
        head_init(&h, 40 + (uint64_t)shape, 1000, shape % 2 ? 80 : 64, shapes[shape],
            SMOOTH_K_RUNNING, 1.4);
        check_points(&w, &h, m, 30, (uint64_t)shape);
        h.params = (struct head_params){-1, .5f, 50, true, 0, 0, 0};
        struct pv_curve pv;
        void *ws = aligned(curve_workspace(m, &h.mask));
        CHECK(curve_lambdas(m, &h.mask, ws, &pv));
        free(ws);
        for (int i = 0; i < N_LAMBDAS; i += 10) {
            h.params.lambda = curve_lambda(i);
            struct head_ledger l = infer(&h, m);
            struct output_error brute = error_of(&h);
            cr_expect_eq(pv.points[i].n_kept, l.pv_units_computed);
            compare(&w, &pv.points[i].error, &brute, m->name);
            cr_expect(l.tiles_corrected > 0);
        }
        /* and it is another output than without */
        struct output_error with = error_of(&h);
        infer(&h, mask_base(m));
        cr_expect(error_of(&h).l1 != with.l1);
        head_clear(&h);
    }
}

/* All 32 x 97 points of one small head, none left out. */
Test(curve, every_point, .timeout = 300)
{
    struct head h;
    struct worst w = {0};
    head_init(&h, 5, 261, 16, (struct block_shape){64, 64}, SMOOTH_K_RUNNING, 1.6);
    struct curve *c = make_curve(&h, &mask_sparge);
    int distinct = 0;
    for (int t = 0; t < N_THETAS; t++)
        for (int u = 0; u < N_TAUS; u++) {
            h.params = (struct head_params){curve_theta(t), curve_tau(u), 50, true, 0, 0, 0};
            struct head_ledger l = infer(&h, &mask_sparge);
            struct output_error brute = error_of(&h);
            char where[64];
            snprintf(where, sizeof where, "point %d, %d", t, u);
            cr_expect_eq(c->points[t][u].n_kept, l.tiles_computed, "%s", where);
            compare(&w, &c->points[t][u].error, &brute, where);
            if (u > 0) {
                cr_expect(c->points[t][u].n_kept >= c->points[t][u - 1].n_kept,
                    "%s: a larger tau keeps less", where);
                distinct += c->points[t][u].n_kept != c->points[t][u - 1].n_kept;
            }
        }
    cr_expect(distinct > 30, "%d", distinct);
    for (int t = 0; t < N_THETAS; t++) cr_expect_eq(c->points[t][N_TAUS - 1].n_kept, c->n_possible);
    free(c);
    head_clear(&h);
}

/* The oracle ranks by truth and looks at no θ; `window` knows neither threshold. */
/* The tiles of every point are those of full products, what they give is not. */
Test(curve, eight_bits_equal_the_kernel, .timeout = 300)
{
    static const struct {
        enum precision qk, pv;
        struct block_shape block;
    } cases[] = {{PRECISION_INT8, PRECISION_FP8, {128, 64}},
        {PRECISION_FP8, PRECISION_FP8, {64, 128}}, {PRECISION_INT8, PRECISION_FULL, {128, 128}},
        {PRECISION_FULL, PRECISION_FP8, {64, 64}}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct head h;
        struct worst w = {0};
        head_init(&h, 70 + c, 530, 48, cases[c].block, SMOOTH_K_RUNNING, 1.5);
        struct curve *full = make_curve(&h, &mask_sparge);
        h.attn.qk = cases[c].qk,
        h.attn.pv = cases[c].pv; /* o stays the dense output of full products */
        struct curve *eight = make_curve(&h, &mask_sparge);
        double moved = 0;
        for (int theta = 0; theta < N_THETAS; theta += 5)
            for (int tau = 0; tau < N_TAUS; tau += 12) {
                char where[64];
                snprintf(where, sizeof where, "case %zu, theta %d, tau %d", c, theta, tau);
                h.params =
                    (struct head_params){curve_theta(theta), curve_tau(tau), 50, true, 0, 0, 0};
                struct head_ledger l = infer(&h, &mask_sparge);
                struct output_error brute = error_of(&h);
                const struct curve_point *point = &eight->points[theta][tau];
                cr_assert_eq(point->n_kept, l.tiles_computed, "%s", where);
                cr_assert_eq(point->n_kept, full->points[theta][tau].n_kept, "%s", where);
                compare(&w, &point->error, &brute, where);
                moved = fmax(moved,
                    fabs((double)point->error.l1 - (double)full->points[theta][tau].error.l1));
            }
        cr_expect(moved > .002, "case %zu: as with full products", c);
        cr_expect(
            eight->points[0][N_TAUS - 1].error.l1 > .002f, "every tile kept, and yet no error");
        h.params = (struct head_params){.2f, .9f, 6, true, 0, 0, 0};
        struct pv_curve pv;
        void *ws = aligned(curve_workspace(&mask_sparge, &h.mask));
        CHECK(curve_lambdas(&mask_sparge, &h.mask, ws, &pv));
        infer(&h, &mask_sparge);
        struct output_error brute = error_of(&h);
        compare(&w, &pv.points[12].error, &brute, "lambda 6");
        free(ws);
        free(full);
        free(eight);
        head_clear(&h);
    }
}

Test(curve, methods_without_theta)
{
    struct head h;
    head_init(&h, 6, 517, 64, shapes[0], SMOOTH_K_RUNNING, 1.2);
    struct curve *c = make_curve(&h, &mask_oracle);
    for (int t = 1; t < N_THETAS; t++)
        cr_expect_arr_eq(&c->points[t], &c->points[0], sizeof c->points[0]);
    free(c);
    h.mask.window = 130;
    c = make_curve(&h, &mask_window);
    struct head_ledger l = infer(&h, &mask_window);
    struct output_error brute = error_of(&h);
    struct worst w = {0};
    for (int t = 0; t < N_THETAS; t++)
        for (int u = 0; u < N_TAUS; u++) {
            cr_expect_eq(c->points[t][u].n_kept, l.tiles_computed);
            compare(&w, &c->points[t][u].error, &brute, "window");
        }
    cr_expect(l.tiles_computed < l.tiles_possible && (double)brute.l1 > .01);
    free(c);
    head_clear(&h);
}

Test(curve, lambdas_equal_the_kernel, .timeout = 300)
{
    static const float lambdas[] = {0, .5f, 1, 5, 10, 50};
    static const int lengths[] = {300, 517, 1000};
    struct worst w = {0};
    int skipped = 0, turn = 0;
    for (int shape = 0; shape < 4; shape++)
        for (int method = 0; method < 2; method++)
            for (int length = 0; length < 3; length++, turn++) {
                struct head h;
                const struct mask_method *m = methods[method];
                head_init(&h, 100 + (uint64_t)turn, lengths[length], turn % 2 ? 80 : 64,
                    shapes[shape], (enum smooth_k)(turn % 3), turn % 3 == 1 ? 3 : 1.6);
                h.params.theta = -.1f;
                h.params.tau = turn % 4 == 3 ? 1 : .9f;
                struct pv_curve pv;
                memset(&pv, 0xff, sizeof pv);
                void *ws = aligned(curve_workspace(m, &h.mask));
                CHECK(curve_lambdas(m, &h.mask, ws, &pv));
                free(ws);
                for (int i = 0; i < 6; i++) {
                    const struct curve_point *p = &pv.points[(int)(lambdas[i] * 2)];
                    h.params.lambda = lambdas[i];
                    struct head_ledger l = infer(&h, m);
                    struct output_error brute = error_of(&h);
                    char where[160];
                    snprintf(where, sizeof where, "%s n %d d %d %dx%d lambda %g", m->name, h.n, h.d,
                        h.attn.block.q, h.attn.block.k, (double)lambdas[i]);
                    cr_expect_eq(pv.n_possible, l.pv_units_possible,
                        "%s: %u units possible, ledger %lu", where, pv.n_possible,
                        l.pv_units_possible);
                    cr_expect_eq(p->n_kept, l.pv_units_computed, "%s: %u units, ledger %lu", where,
                        p->n_kept, l.pv_units_computed);
                    compare(&w, &p->error, &brute, where);
                    skipped += i > 1 && l.pv_units_computed < pv.points[N_LAMBDAS - 1].n_kept;
                }
                for (int i = 1; i < N_LAMBDAS; i++)
                    cr_expect(pv.points[i].n_kept >= pv.points[i - 1].n_kept);
                head_clear(&h);
            }
    cr_expect(skipped > 20, "stage 2 skipped something in %d runs only", skipped);
    cr_log_info("largest differences: l1 %.2g, tail %.2g, cosine %.2g, rmse %.2g", w.l1, w.tail,
        w.cosine, w.rmse);
}

/* At λ = 50 stage 2 does nothing to speak of: the pv curve ends where the θ, τ curve stands. */
Test(curve, both_curves_meet)
{
    struct head h;
    head_init(&h, 9, 517, 64, shapes[0], SMOOTH_K_RUNNING, 1.2);
    struct curve *c = make_curve(&h, &mask_sparge);
    struct pv_curve pv;
    void *ws = aligned(curve_workspace(&mask_sparge, &h.mask));
    struct worst w = {0};
    for (int t = 8; t < N_THETAS; t += 7)
        for (int u = 4; u < N_TAUS; u += 23) {
            h.params = (struct head_params){curve_theta(t), curve_tau(u), 50, true, 0, 0, 0};
            CHECK(curve_lambdas(&mask_sparge, &h.mask, ws, &pv));
            compare(&w, &pv.points[N_LAMBDAS - 1].error, &c->points[t][u].error, "lambda 50");
        }
    free(ws);
    free(c);
    head_clear(&h);
}

/* The percentile from the few largest rows is the one from all rows sorted, at every length. */
Test(curve, tail_is_the_exact_percentile)
{
    struct rng r;
    rng_init(&r, 11);
    static const int lengths[] = {1, 2, 3, 300, 999, 1000, 1001, 1002, 2001, 2002, 4096};
    for (int i = 0; i < 11; i++) {
        int n = lengths[i], d = 3;
        struct head h = {.n = n,
            .d = d,
            .o = malloc(sizeof(float) * (size_t)(n * d)),
            .got = malloc(sizeof(float) * (size_t)(n * d))};
        h.attn = (struct attn_args){.dtype = DTYPE_F32,
            .n_q = n,
            .n_heads = 1,
            .n_kv_heads = 1,
            .head_dim = d,
            .o = h.o,
            .o_row = d,
            .block = shapes[0]};
        for (int x = 0; x < n * d; x++) {
            h.o[x] = (float)(rng_normal(&r) + 2 * (x % 2) + .1);
            h.got[x] = h.o[x] + (float)(.1 * exp(2 * rng_normal(&r)));
        }
        float *ws = malloc(4 * sizeof *ws * (size_t)n);
        struct output_error got, want = error_of(&h);
        CHECK(output_error_of(&h.attn, h.got, ws, &got));
        cr_expect(fabs((double)got.tail - (double)want.tail) < 1e-5 * (double)want.tail,
            "%d rows: %.8g, sorted %.8g", n, (double)got.tail, (double)want.tail);
        cr_expect(fabs((double)got.l1 - (double)want.l1) < 1e-5 * (double)want.l1);
        cr_expect(fabs((double)got.rmse - (double)want.rmse) < 1e-5 * (double)want.rmse);
        cr_expect(fabs((double)got.cosine - (double)want.cosine) < 1e-5);
        CHECK(output_error_of(&h.attn, h.o, ws, &got));
        cr_expect(got.l1 == 0 && got.tail == 0 && got.rmse == 0 && got.cosine < 1e-6f);
        free(ws);
        free(h.o);
        free(h.got);
    }
}

Test(curve, broken_outputs_are_refused)
{
    struct head h;
    head_init(&h, 12, 300, 16, shapes[0], SMOOTH_K_RUNNING, 1);
    struct curve *c = malloc(sizeof *c);
    struct pv_curve pv;
    void *ws = aligned(curve_workspace(&mask_sparge, &h.mask));
    float keep = h.o[200 * h.attn.o_row + 3];
    static const float wrong[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        h.o[200 * h.attn.o_row + 3] = wrong[i];
        cr_expect_eq(curve_thetas(&mask_sparge, &h.mask, ws, c), ERR_NUMERIC);
        cr_expect(strstr(status_message(), "NaN"), "%s", status_message());
        cr_expect_eq(curve_lambdas(&mask_sparge, &h.mask, ws, &pv), ERR_NUMERIC);
    }
    h.o[200 * h.attn.o_row + 3] = keep;
    struct output_error e;
    float *rows = malloc(4 * sizeof *rows * 300);
    infer(&h, &mask_sparge);
    CHECK(output_error_of(&h.attn, h.got, rows, &e));
    h.got[5] = NAN;
    cr_expect_eq(output_error_of(&h.attn, h.got, rows, &e), ERR_NUMERIC);
    for (int t = 0; t < h.n; t++) memset(h.o + t * h.attn.o_row, 0, sizeof(float) * 16);
    cr_expect_eq(curve_thetas(&mask_sparge, &h.mask, ws, c), ERR_NUMERIC);
    cr_expect(strstr(status_message(), "zero"), "%s", status_message());
    free(rows);
    free(ws);
    free(c);
    head_clear(&h);
}

/* Rows whose exact output is zero have no relative error; the others are measured all the same. */
Test(curve, a_zero_row_is_left_out_of_the_tail)
{
    struct head h;
    head_init(&h, 13, 300, 16, shapes[1], SMOOTH_K_RUNNING, 1.6);
    for (int i = 0; i < 16; i++) h.v[i] = 0; /* row 0 sees only key 0 */
    run_kernel(&h.attn);
    struct curve *c = make_curve(&h, &mask_sparge);
    for (int u = 0; u < N_TAUS; u++) {
        const struct output_error *e = &c->points[10][u].error;
        cr_expect(isfinite(e->tail) && isfinite(e->l1) && e->tail >= 0);
    }
    free(c);
    head_clear(&h);
}

/* Far apart scores: a later maximum shrinks the running sum to nothing in f32. */
Test(curve, extreme_scores)
{
    static const double sharps[] = {12, 30};
    for (int i = 0; i < 2; i++) {
        struct head h;
        struct worst w = {0};
        head_init(&h, 14, 517, 64, shapes[0], SMOOTH_K_RUNNING, sharps[i]);
        check_points(&w, &h, &mask_sparge, 20, 3);
        h.params = (struct head_params){-.2f, .9f, 0, true, 0, 0, 0};
        struct pv_curve pv;
        void *ws = aligned(curve_workspace(&mask_sparge, &h.mask));
        CHECK(curve_lambdas(&mask_sparge, &h.mask, ws, &pv));
        for (int l = 0; l < N_LAMBDAS; l += 10) {
            h.params.lambda = curve_lambda(l);
            struct head_ledger ledger = infer(&h, &mask_sparge);
            struct output_error brute = error_of(&h);
            char where[64];
            snprintf(
                where, sizeof where, "scores x %g, lambda %g", sharps[i], (double)curve_lambda(l));
            cr_expect_eq(pv.points[l].n_kept, ledger.pv_units_computed, "%s: %u units, ledger %lu",
                where, pv.points[l].n_kept, ledger.pv_units_computed);
            compare(&w, &pv.points[l].error, &brute, where);
        }
        free(ws);
        head_clear(&h);
    }
}

Test(curve, instruction_sets_agree)
{
    struct head h;
    head_init(&h, 15, 517, 80, shapes[3], SMOOTH_K_RUNNING, 1.2);
    struct curve *best = make_curve(&h, &mask_oracle);
    static const char *const names[] = {"avx2", "base"};
    for (int i = 0; i < 2; i++) {
        if (cpu_ops_choose(names[i]) != OK) continue;
        struct curve *c = make_curve(&h, &mask_oracle);
        for (int u = 0; u < N_TAUS; u++) {
            cr_expect(abs((int)c->points[0][u].n_kept - (int)best->points[0][u].n_kept) <= 1);
            if (c->points[0][u].n_kept == best->points[0][u].n_kept)
                cr_expect(fabs((double)c->points[0][u].error.l1 -
                              (double)best->points[0][u].error.l1) < 1e-5);
        }
        free(c);
    }
    CHECK(cpu_ops_choose("auto"));
    free(best);
    head_clear(&h);
}

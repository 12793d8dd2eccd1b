/* Nothing is swallowed: NaN and infinity reach the output of every CPU attention that sees them,
 * the forward pass names where they began; and finite inputs stay finite wherever f32 can hold the
 * answer, at every edge of the blocks. */
#include "base/rng.h"
#include "engine/engine.h"
#include "engine/session.h"
#include "kernels/eight.h"
#include "kernels/registry.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

TestSuite(numerics, .timeout = 300);

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())

enum { H = 4, HKV = 2 };
static const char *const impls[] = {"attn_avx512_f32", "attn_avx2_f32", "attn_base_f32"};
enum { N_IMPLS = sizeof impls / sizeof *impls };

struct problem {
    int n, d;
    float *q, *k, *v, *o, *want;
    struct tile_map map;
    struct attn_args a;
    float lambda[H];
};

static void open_problem(
    struct problem *p, int n, int d, struct block_shape block, bool sparse, float lambda)
{
    struct rng r;
    rng_init(&r, (uint64_t)(n * 131 + d));
    size_t rows = (size_t)n * (size_t)d;
    *p = (struct problem){.n = n,
        .d = d,
        .q = malloc(H * rows * sizeof(float)),
        .k = malloc(HKV * rows * sizeof(float)),
        .v = malloc(HKV * rows * sizeof(float)),
        .o = malloc(H * rows * sizeof(float)),
        .want = malloc(H * rows * sizeof(float))};
    for (size_t i = 0; i < H * rows; i++) p->q[i] = (float)rng_normal(&r);
    for (size_t i = 0; i < HKV * rows; i++)
        p->k[i] = (float)rng_normal(&r), p->v[i] = (float)rng_normal(&r);
    for (int h = 0; h < H; h++) p->lambda[h] = lambda;
    p->a = (struct attn_args){.dtype = DTYPE_F32,
        .n_q = n,
        .n_heads = H,
        .n_kv_heads = HKV,
        .head_dim = d,
        .scale = (float)(1 / sqrt((double)d)),
        .q = p->q,
        .k = p->k,
        .v = p->v,
        .o = p->o,
        .q_row = H * d,
        .q_head = d,
        .k_row = d,
        .k_head = (ptrdiff_t)rows,
        .v_row = d,
        .v_head = (ptrdiff_t)rows,
        .o_row = H * d,
        .o_head = d,
        .block = block};
    if (!sparse) return;
    p->map = tile_map_shape(block, H, 0, n);
    p->map.bits = calloc(1, tile_map_bytes(&p->map));
    for (int h = 0; h < H; h++)
        for (int i = 0; i < p->map.n_qblocks; i++)
            for (int j = 0; j < tiles_possible(block, i, n); j++)
                if (j == 0 || (j + 1) * block.k > i * block.q || (h + i + j) % 2)
                    tile_map_row(&p->map, h, i)[j / 64] |= (uint64_t)1 << (j % 64);
    p->a.tiles = &p->map;
    p->a.pv_threshold = p->lambda;
}

static void close_problem(struct problem *p)
{
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->o);
    free(p->want);
    free(p->map.bits);
}

/* NULL: this processor lacks it */
static const struct attn_impl *find(const struct problem *p, const char *name)
{
    const struct attn_impl *impl;
    return attn_choose(&p->a, name, &impl) == OK ? impl : NULL;
}

static void run(const struct attn_impl *impl, const struct problem *p, float *o)
{
    struct attn_args a = p->a;
    void *ws = aligned_alloc(64, (impl->workspace(&a) + 63) / 64 * 64);
    a.o = o;
    CHECK(impl->run(&a, ws, NULL, NULL));
    free(ws);
}

/* Largest distance from `want` over the largest |want|; INFINITY where one of them is no number and
 * the other is. */
static double apart(const struct problem *p, const float *got, const float *want)
{
    double worst = 0, size = 0;
    for (size_t i = 0; i < (size_t)p->n * H * (size_t)p->d; i++) {
        if (isfinite(got[i]) != isfinite(want[i])) return INFINITY;
        if (!isfinite(want[i])) continue;
        worst = fmax(worst, fabs((double)got[i] - (double)want[i]));
        size = fmax(size, fabs((double)want[i]));
    }
    return size > 0 ? worst / size : worst;
}

static bool row_is_nan(const struct problem *p, const float *o, int row, int head)
{
    for (int i = 0; i < p->d; i++)
        if (isfinite(o[(row * H + head) * p->d + i])) return false;
    return true;
}

/* One poisoned row of q or of k: every row that sees it ends without a finite value, whatever is
 * skipped or left out; rows of blocks before it keep their bits. NaN with a payload too: exponents
 * are added by integers. */
Test(numerics, nan_and_infinity_reach_the_output)
{
    static const uint32_t poisons[] = {0x7fc00000, 0x7f800000, 0x7fc001ff, 0xffc00001, 0x7fffffff};
    static const int at[] = {0, 63, 64, 127, 190, 299};
    for (int sparse = 0; sparse < 3; sparse++)
        for (size_t x = 0; x < sizeof poisons / sizeof *poisons; x++)
            for (size_t w = 0; w < sizeof at / sizeof *at; w++)
                for (int of_k = 0; of_k < 2; of_k++) {
                    struct problem p;
                    float poison;
                    open_problem(&p, 300, 40, (struct block_shape){128, 64}, sparse > 0,
                        sparse == 2 ? 0 : 50);
                    memcpy(&poison, &poisons[x], sizeof poison);
                    for (int i = 0; i < N_IMPLS; i++) {
                        const struct attn_impl *impl = find(&p, impls[i]);
                        if (!impl) continue;
                        run(impl, &p, p.want);
                        float *poisoned = of_k ? p.k + at[w] * p.d : p.q + at[w] * H * p.d,
                              kept[40];
                        memcpy(kept, poisoned, sizeof kept);
                        /* both signs of an infinity: as one of q · k it is -inf for half of the
                         * keys, and those weigh nothing */
                        for (int c = 0; c < p.d; c++)
                            poisoned[c] = c % 2 && x == 1 ? -poison : poison;
                        run(impl, &p, p.o);
                        memcpy(poisoned, kept, sizeof kept);
                        cr_expect(row_is_nan(&p, p.o, at[w], 0),
                            "%s: poison %zu of %c at %d, %d: its own row came out finite", impls[i],
                            x, of_k ? 'k' : 'q', at[w], sparse);
                        for (int r = at[w]; of_k && !sparse && r < p.n; r++)
                            cr_expect(row_is_nan(&p, p.o, r, 0) && row_is_nan(&p, p.o, r, 1),
                                "%s: row %d sees key %d", impls[i], r, at[w]);
                        cr_expect_eq(memcmp(p.o, p.want,
                                         (size_t)(at[w] / 64 * 64) * H * (size_t)p.d * sizeof *p.o),
                            0, "%s: blocks before %d moved", impls[i], at[w]);
                    }
                    close_problem(&p);
                }
}

/* So it is in eight bits, where a block of 64 rows has one scale, and the mean of the first 128
 * keys is in all of them. */
Test(numerics, nan_and_infinity_reach_the_output_in_eight_bits)
{
    static const uint32_t poisons[] = {0x7fc00000, 0x7f800000, 0x7fff0000, 0xffffffff};
    static const int at[] = {70, 190};
    for (int x = 0; x < 4 * 2 * 2 * 2 * 3; x++) {
        const int kind = x / 4 % 2, row = at[x / 8 % 2], of = x / 32;
        struct problem p;
        float poison, kept[32];
        open_problem(&p, 200, 32, (struct block_shape){128, 64}, kind, 50);
        p.a.qk = x / 16 % 2 ? PRECISION_FP8 : PRECISION_INT8;
        p.a.pv = PRECISION_FP8;
        float *rows[] = {p.q + row * H * p.d, p.k + row * p.d, p.v + row * p.d};
        memcpy(&poison, &poisons[x % 4], sizeof poison);
        for (int i = 0; i < N_IMPLS; i++) {
            const struct attn_impl *impl = find(&p, impls[i]);
            if (!impl) continue;
            run(impl, &p, p.want);
            memcpy(kept, rows[of], sizeof kept);
            for (int c = 0; c < p.d; c++) rows[of][c] = c % 2 && x % 4 == 1 ? -poison : poison;
            run(impl, &p, p.o);
            memcpy(rows[of], kept, sizeof kept);
            cr_expect(row_is_nan(&p, p.o, row, 0), "%s: poison %08x of %c at %d, %s: finite",
                impls[i], poisons[x % 4], "qkv"[of], row, precision_name(p.a.qk));
            if (of == 1 && row < EIGHT_MEAN_KEYS) continue;
            cr_expect_eq(memcmp(p.o, p.want, (size_t)(row / 64 * 64) * H * 32 * sizeof *p.o), 0,
                "%s: blocks before %d moved", impls[i], row);
        }
        close_problem(&p);
    }
}

/* The decoding path, which packs nothing. */
Test(numerics, nan_reaches_a_single_row)
{
    struct problem p;
    open_problem(&p, 300, 64, (struct block_shape){128, 64}, false, 50);
    p.a.q_start = 299;
    p.a.n_q = 1;
    for (int i = 0; i < N_IMPLS; i++) {
        const struct attn_impl *impl = find(&p, impls[i]);
        for (int kind = 0; impl && kind < 2; kind++) {
            float was = p.k[77 * p.d];
            p.k[77 * p.d] = kind ? INFINITY : NAN;
            run(impl, &p, p.o);
            p.k[77 * p.d] = was;
            cr_expect(row_is_nan(&p, p.o, 0, 0) && row_is_nan(&p, p.o, 0, 1), "%s", impls[i]);
            cr_expect(!row_is_nan(&p, p.o, 0, 2), "%s: heads of the other kv head see none of it",
                impls[i]);
        }
    }
    close_problem(&p);
}

static void scale_values(float *x, size_t n, float by)
{
    for (size_t i = 0; i < n; i++) x[i] *= by;
}

/* Lengths around every edge, and inputs that are extreme and finite, against fp64. */
Test(numerics, edges_and_extremes_equal_fp64)
{
    static const int lengths[] = {
        1, 2, 7, 61, 63, 64, 65, 127, 128, 129, 191, 193, 255, 256, 257, 383, 385};
    static const struct block_shape shapes[] = {{64, 64}, {128, 64}, {128, 128}, {64, 128}};
    enum { PLAIN, EQUAL_KEYS, ZERO_ROWS, LARGE_SCORES, LARGE_VALUES, TINY, RISING, N_KINDS };
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
        for (int kind = 0; kind < N_KINDS; kind++)
            for (int sparse = 0; sparse < 2; sparse++) {
                struct problem p;
                open_problem(&p, lengths[l], 48, shapes[(l + (size_t)kind) % 4], sparse,
                    kind == RISING ? 0 : 50);
                size_t rows = (size_t)p.n * (size_t)p.d;
                for (size_t i = p.d; kind == EQUAL_KEYS && i < HKV * rows; i++)
                    p.k[i] = p.k[i % (size_t)p.d];
                for (int r = 0; kind == ZERO_ROWS && r < p.n; r += 3) {
                    memset(p.q + (size_t)r * H * (size_t)p.d, 0, sizeof *p.q * H * (size_t)p.d);
                    memset(p.k + r * p.d, 0, sizeof *p.k * (size_t)p.d);
                }
                /* scores of thousands: one key takes all */
                if (kind == LARGE_SCORES) scale_values(p.q, H * rows, 1e3f);
                if (kind == LARGE_VALUES) scale_values(p.v, HKV * rows, 1e36f);
                if (kind == TINY)
                    scale_values(p.q, H * rows, 1e-30f), scale_values(p.v, HKV * rows, 1e-30f);
                /* λ 0 skips all that lies under what was seen; keys that rise by hundreds of powers
                 * of two must not drown the sum */
                for (int r = 0; kind == RISING && r < p.n; r++)
                    for (int c = 0; c < HKV * p.d; c++)
                        p.k[(size_t)(c / p.d) * rows + (size_t)(r * p.d + c % p.d)] =
                            c % p.d ? 0 : (float)r * 4;
                for (size_t i = 0; kind == RISING && i < H * rows; i++)
                    p.q[i] = i % (size_t)p.d ? 0 : 7;
                run(&attn_ref, &p, p.want);
                for (int i = 0; i < N_IMPLS; i++) {
                    const struct attn_impl *impl = find(&p, impls[i]);
                    if (!impl) continue;
                    run(impl, &p, p.o);
                    /* at scores of thousands f32 holds them to 1e-4, so weights to that times their
                     * size */
                    double most = kind == LARGE_SCORES ? 5e-3
                        : kind == RISING               ? 2e-5
                                                       : 2e-6,
                           found = apart(&p, p.o, p.want);
                    cr_expect(found <= most, "%s, %d rows, kind %d, %s, blocks %dx%d: %g", impls[i],
                        p.n, kind, sparse ? "sparse" : "dense", p.a.block.q, p.a.block.k, found);
                }
                for (size_t i = 0; i < H * rows; i++)
                    cr_assert(isfinite(p.want[i]), "kind %d", kind);
                close_problem(&p);
            }
}

/* Products of finite f16-sized numbers that f16 could not hold, and a row 131 072 tokens behind the
 * first. */
Test(numerics, overflow_of_f16_and_far_positions)
{
    struct problem p;
    open_problem(&p, 200, 64, (struct block_shape){128, 64}, false, 50);
    scale_values(p.q, (size_t)p.n * H * 64, 200); /* scores far above 65 504 */
    scale_values(p.k, (size_t)p.n * HKV * 64, 600);
    run(&attn_ref, &p, p.want);
    for (int i = 0; i < N_IMPLS; i++) {
        const struct attn_impl *impl = find(&p, impls[i]);
        if (!impl) continue;
        run(impl, &p, p.o);
        cr_expect(apart(&p, p.o, p.want) <= .05, "%s: %g", impls[i], apart(&p, p.o, p.want));
    }
    close_problem(&p);
    open_problem(&p, 131072, 16, (struct block_shape){128, 64}, false, 50);
    p.a.q_start = 131071 - 69;
    p.a.n_q = 70; /* not the decoding path */
    struct problem few = p;
    few.n = 70;
    run(&attn_ref, &p, p.want);
    for (int i = 0; i < N_IMPLS; i++) {
        const struct attn_impl *impl = find(&p, impls[i]);
        if (!impl) continue;
        run(impl, &p, p.o);
        cr_expect(apart(&few, p.o, p.want) <= 1e-5, "%s at 131 072: %g", impls[i],
            apart(&few, p.o, p.want));
    }
    close_problem(&p);
}

/* A forward pass with one poisoned weight ends by naming layer and tensor, sparse or dense. */
static enum status forward_poisoned(
    int layer, size_t tensor, float poison, bool sparse, bool last_only)
{
    struct weights w;
    struct par *par;
    struct session *s;
    char *dir = path_join(GOLDEN_MODELS, "gqa_d64_tied");
    CHECK(weights_open(&w, dir));
    CHECK(par_open(&par, 2));
    struct linear *l = (struct linear *)((char *)&w.layers[layer] + tensor);
    const void *was = l->weight;
    enum dtype dtype = l->dtype;
    size_t n = (size_t)l->m * (size_t)l->k;
    float *wide = malloc(n * sizeof *wide);
    widen(was, dtype, wide, n);
    wide[n / 2] = poison;
    l->weight = wide;
    l->dtype = DTYPE_F32;
    int32_t ids[300];
    for (int i = 0; i < 300; i++)
        ids[i] = (int32_t)((unsigned)i * 2654435761u >> 16) % w.config.vocab_size;
    struct sparse_policy p;
    CHECK(policy_init(&p, &mask_sparge, w.config.n_layers, w.config.n_heads));
    policy_set_thresholds(&p, 0, .6f, 0);
    CHECK(session_open(&s, &w, par, 300, 128, NULL));
    float *hidden = malloc(sizeof *hidden * 300 * (size_t)w.config.hidden_size);
    enum status st = session_forward(s,
        &(struct forward_args){.tokens = ids,
            .n = 300,
            .policy = sparse ? &p : NULL,
            .hidden = last_only ? NULL : hidden,
            .last_hidden = last_only ? hidden : NULL});
    cr_expect_eq(session_position(s), st == OK ? 300 : 0, "a failed pass moved the sequence");
    free(hidden);
    session_close(&s);
    policy_clear(&p);
    l->weight = was;
    l->dtype = dtype;
    free(wide);
    par_close(&par);
    weights_close(&w);
    free(dir);
    return st;
}

Test(numerics, a_forward_pass_names_layer_and_tensor)
{
    static const struct {
        size_t tensor;
        const char *says;
    } tensors[] = {
        {offsetof(struct layer_weights, q), "queries"},
        {offsetof(struct layer_weights, k), "keys"},
        {offsetof(struct layer_weights, v), "values"},
        {offsetof(struct layer_weights, o), "residual stream"},
        {offsetof(struct layer_weights, gate), "residual stream"},
        {offsetof(struct layer_weights, down), "residual stream"},
    };
    for (int i = 0; i < 24; i++) {
        int layer = i / 12;
        char where[32];
        snprintf(where, sizeof where, "layer %d:", layer);
        cr_expect_eq(forward_poisoned(layer, tensors[i % 6].tensor, i / 6 % 2 ? INFINITY : NAN,
                         i % 2, i % 3 == 0),
            ERR_NUMERIC, "%s %s: a pass with a poisoned weight ended well", where,
            tensors[i % 6].says);
        cr_expect(strstr(status_message(), where) && strstr(status_message(), tensors[i % 6].says),
            "%s, expected %s %s", status_message(), where, tensors[i % 6].says);
    }
    cr_expect_eq(forward_poisoned(0, offsetof(struct layer_weights, q), 0, false, false), OK, "%s",
        status_message());
}

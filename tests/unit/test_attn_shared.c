/* Heads that read the same q, k and v walk together on the CPU: to the last bit what each does
 * alone. */
#include "base/rng.h"
#include "kernels/mask.h"
#include "kernels/registry.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())

enum { N_HEADS = 11 };

struct call {
    struct attn_args attn;
    struct mask_args mask;
    struct tile_map map;
    struct head_ledger ledger[N_HEADS];
    float lambda[N_HEADS];
    uint8_t sparse[N_HEADS];
    float *o;
};

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memset(p, 0xff, (bytes + 63) / 64 * 64);
    return p;
}

/* Predicts and runs heads [first, first + n) of `params`, all on the one q, k and v that `like`
 * has. */
static void call_run(struct call *c, const struct attn_args *like, const struct head_params *params,
    int first, int n, const char *impl_name, bool stage2, struct par *par)
{
    const struct attn_impl *impl;
    size_t size = (size_t)like->n_q * (size_t)like->head_dim;
    *c = (struct call){.attn = *like, .o = aligned(sizeof(float) * size * (size_t)n)};
    struct attn_args *a = &c->attn;
    a->n_heads = n;
    a->o = c->o;
    a->o_row = a->head_dim;
    a->o_head = (ptrdiff_t)size;
    a->ledger = c->ledger;
    c->mask = (struct mask_args){.attn = a, .heads = params + first, .smooth_k = SMOOTH_K_RUNNING};
    c->map = tile_map_shape(a->block, n, 0, a->n_q);
    c->map.bits = aligned(tile_map_bytes(&c->map));
    void *ws = aligned(mask_workspace(&mask_sparge, &c->mask, par_threads(par)));
    CHECK(mask_predict(&mask_sparge, &c->mask, &c->map, ws, par));
    free(ws);
    for (int i = 0; i < n; i++) {
        c->lambda[i] = params[first + i].lambda;
        c->sparse[i] = params[first + i].is_sparse;
    }
    a->tiles = &c->map;
    a->head_sparse = c->sparse;
    a->pv_threshold = stage2 ? c->lambda : NULL;
    CHECK(attn_choose(a, impl_name, &impl));
    ws = aligned(impl->workspace(a));
    CHECK(impl->run(a, ws, par, NULL));
    free(ws);
}

static void call_clear(struct call *c)
{
    free(c->o);
    free(c->map.bits);
}

static float *wander(struct rng *r, int n, int d, double pace)
{
    float *x = malloc(sizeof *x * (size_t)n * (size_t)d);
    for (int i = 0; i < n * d; i++) {
        double before = i < d ? rng_normal(r) : (double)x[i - d];
        x[i] = (float)(sqrt(1 - pace * pace) * before + pace * 1.5 * rng_normal(r));
    }
    return x;
}

static void random_params(struct rng *r, struct head_params *p)
{
    static const float taus[] = {.3f, .7f, .9f, .97f, 1}, lambdas[] = {0, .5f, 2, 6, 50};
    for (int h = 0; h < N_HEADS; h++)
        p[h] = (struct head_params){rng_below(r, 2) ? -.2f : .1f, taus[rng_below(r, 5)],
            lambdas[rng_below(r, 5)], rng_below(r, 8) != 0, 0, 0, 0};
    p[4] = p[1]; /* two that never part */
}

static void compare(struct rng *r, struct par *par, const char *impl, struct block_shape block,
    int n, int d, bool stage2, uint64_t *n_skipped, int *n_parted)
{
    float *q = wander(r, n, d, .2), *k = wander(r, n, d, .2), *v = wander(r, n, d, .8);
    struct attn_args like = {.dtype = DTYPE_F32,
        .n_q = n,
        .n_kv_heads = 1,
        .head_dim = d,
        .scale = (float)(1 / sqrt(d)),
        .q = q,
        .k = k,
        .v = v,
        .q_row = d,
        .k_row = d,
        .v_row = d,
        .block = block};
    struct head_params params[N_HEADS];
    struct call together, alone;
    size_t size = (size_t)n * (size_t)d * sizeof(float);
    random_params(r, params);
    call_run(&together, &like, params, 0, N_HEADS, impl, stage2, par);
    for (int h = 0; h < N_HEADS; h++) {
        call_run(&alone, &like, params, h, 1, impl, stage2, NULL);
        const char *mine = (const char *)together.o + size * (size_t)h;
        size_t map_bytes = tile_map_bytes(&alone.map);
        cr_expect_arr_eq(mine, alone.o, size, "%s %dx%d n %d d %d, head %d: other outputs", impl,
            block.q, block.k, n, d, h);
        cr_expect_arr_eq(
            (const char *)together.map.bits + map_bytes * (size_t)h, alone.map.bits, map_bytes);
        cr_expect_arr_eq(&together.ledger[h], &alone.ledger[0], sizeof alone.ledger[0],
            "head %d: other counts", h);
        if (params[h].is_sparse)
            *n_skipped += alone.ledger[0].pv_units_possible - alone.ledger[0].pv_units_computed;
        *n_parted += h && memcmp(mine, together.o, size) != 0;
        call_clear(&alone);
    }
    call_clear(&together);
    free(q);
    free(k);
    free(v);
}

Test(attn_shared, walking_together_is_walking_alone, .timeout = 300)
{
    static const struct block_shape shapes[] = {{128, 64}, {64, 64}, {64, 128}, {128, 128}};
    static const int lengths[] = {70, 517, 1000}, dims[] = {64, 80, 256};
    static const char *const impls[] = {"attn_avx512_f32", "attn_avx2_f32", "attn_base_f32"};
    struct par *par;
    struct rng r;
    uint64_t n_skipped = 0;
    int n_parted = 0, turn = 0;
    rng_init(&r, 4);
    CHECK(par_open(&par, 2));
    for (int shape = 0; shape < 4; shape++)
        for (int length = 0; length < 3; length++, turn++) {
            const struct attn_impl *impl;
            const char *name = impls[turn % 3];
            struct attn_args probe = {.dtype = DTYPE_F32,
                .n_q = 1,
                .n_heads = 1,
                .n_kv_heads = 1,
                .head_dim = 64,
                .block = shapes[shape]};
            if (attn_choose(&probe, name, &impl) != OK) name = impls[2];
            compare(&r, turn % 2 ? par : NULL, name, shapes[shape], lengths[length],
                dims[(turn + shape) % 3], turn % 4 != 3, &n_skipped, &n_parted);
        }
    cr_expect(n_skipped > 1000 && n_parted > 60,
        "%lu units skipped, %d outputs unlike the first: nothing to compare", n_skipped, n_parted);
    par_close(&par);
}

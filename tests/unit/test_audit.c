#include "harness/measure/audit.h"
#include "base/rng.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

TestSuite(audit, .timeout = 120);

#define ok(expr) cr_assert_eq((expr), OK, "%s", status_message())

/* One call of random tensors under a map that leaves some tiles out. */
enum { N = 300, D = 16, H = 2 };

struct call {
    float q[N * D * H], k[N * D], v[N * D], o[N * D * H];
    struct tile_map map;
    struct attn_args a;
};

static void call_init(struct call *c)
{
    struct rng r;
    rng_init(&r, 11);
    for (int i = 0; i < N * D * H; i++) c->q[i] = (float)rng_unit(&r) - .5f;
    for (int i = 0; i < N * D; i++) c->k[i] = (float)rng_unit(&r) - .5f;
    for (int i = 0; i < N * D; i++) c->v[i] = (float)rng_unit(&r) - .5f;
    struct block_shape b = {128, 64};
    c->map = tile_map_shape(b, H, 0, N);
    c->map.bits = calloc(1, tile_map_bytes(&c->map));
    for (int h = 0; h < H; h++)
        for (int i = 0; i < c->map.n_qblocks; i++)
            for (int j = 0; j < tiles_possible(b, i, N); j++)
                if (j == 0 || j >= 2 * i || (h + i + j) % 3 == 0)
                    tile_map_row(&c->map, h, i)[0] |= (uint64_t)1 << j;
    c->a = (struct attn_args){.dtype = DTYPE_F32,
        .n_q = N,
        .n_heads = H,
        .n_kv_heads = 1,
        .head_dim = D,
        .scale = .25f,
        .q = c->q,
        .k = c->k,
        .v = c->v,
        .o = c->o,
        .q_row = D * H,
        .q_head = D,
        .k_row = D,
        .k_head = N * D,
        .v_row = D,
        .v_head = N * D,
        .o_row = D * H,
        .o_head = D,
        .block = b,
        .tiles = &c->map};
}

static const char *takes_all(const struct attn_args *a)
{
    (void)a;
    return NULL;
}
static size_t workspace(const struct attn_args *a) { return attn_ref.workspace(a); }

/* What public kernels do when the causal flag is lost: rows of a diagonal tile see keys behind
 * them. */
static enum status leak_ahead(const struct attn_args *a, void *ws, struct par *par, int ahead)
{
    TRY(attn_ref.run(a, ws, par, NULL));
    const float *v = a->v;
    for (int r = 0; r + 1 < a->n_q; r++)
        for (int h = 0; h < a->n_heads; h++)
            ((float *)a->o)[r * a->o_row + h * a->o_head] +=
                1e-4f * v[(r | ahead) < a->n_q ? (r | ahead) * a->v_row : 0];
    return OK;
}

static enum status run_leaky(
    const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)stream;
    return leak_ahead(a, ws, par, 15);
}

static enum status run_far(
    const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)stream;
    return leak_ahead(a, ws, par, 255);
}

static enum status run_lying(
    const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    TRY(attn_ref.run(a, ws, par, stream));
    if (a->ledger) a->ledger[1].tiles_computed--;
    return OK;
}

static enum status run_broken(
    const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    TRY(attn_ref.run(a, ws, par, stream));
    ((float *)a->o)[5] = NAN;
    return OK;
}

static const struct attn_impl leaky = {"leaky", takes_all, workspace, run_leaky},
                              far = {"far", takes_all, workspace, run_far},
                              lying = {"lying", takes_all, workspace, run_lying},
                              broken = {"broken", takes_all, workspace, run_broken};

Test(audit, a_sound_call_is_found_sound_and_planted_faults_are_not)
{
    struct call *c = malloc(sizeof *c);
    struct par *par;
    struct audit_call found;
    call_init(c);
    ok(par_open(&par, 1));
    ok(audit_attention(&c->a, &attn_ref, 140, par, &found));
    cr_expect_eq(found.leak, 0);
    cr_expect_eq(found.leak_in_unit, 0, "nothing is skipped, so rows of a unit share nothing");
    cr_expect_eq(found.tiles, found.ledger_tiles);
    cr_expect_eq(found.tiles_possible, found.ledger_possible);
    cr_expect_eq(found.units, found.ledger_units);
    cr_expect_eq(found.tiles_possible, (uint64_t)H * (2 + 4 + 5));
    cr_expect_lt(found.tiles, found.tiles_possible);

    ok(audit_attention(&c->a, &leaky, 140, par, &found));
    cr_expect_gt(found.leak_in_unit, 0);
    cr_expect_eq(found.leak, 0, "it looks 15 rows ahead, and no further than the unit");
    ok(audit_attention(&c->a, &far, 140, par, &found));
    cr_expect_gt(found.leak, 0);
    cr_expect_eq(found.tiles, found.ledger_tiles, "a leak alone does not touch the ledger");
    struct attn_args dense = c->a;
    dense.tiles = NULL;
    ok(audit_attention(&dense, &leaky, 140, par, &found));
    cr_expect_gt(found.leak_in_unit, 0, "dense calls are audited as well");
    cr_expect_eq(found.tiles, (uint64_t)H * (2 + 4 + 5), "all tiles of a dense call are computed");
    cr_expect_eq(found.tiles, found.tiles_possible);

    ok(audit_attention(&c->a, &lying, 140, par, &found));
    cr_expect_neq(found.tiles, found.ledger_tiles);
    ok(audit_attention(&c->a, &broken, 140, par, &found));
    cr_expect(isinf(found.leak), "what is no number is no agreement");

    /* a doctored mask: the count follows the bits, not the kernel */
    tile_map_row(&c->map, 0, 2)[0] ^= 1u << 1;
    uint64_t before = found.tiles;
    ok(audit_attention(&c->a, &attn_ref, 140, par, &found));
    cr_expect_neq(found.tiles, before);
    cr_expect_eq(found.tiles, found.ledger_tiles);
    par_close(&par);
    free(c->map.bits);
    free(c);
}

/* The rows of a later chunk stand behind q_start; only those in front of the cut may be compared.
 */
Test(audit, a_call_of_a_chunk_is_cut_at_its_positions)
{
    struct call *c = malloc(sizeof *c);
    struct par *par;
    struct audit_call found;
    call_init(c);
    ok(par_open(&par, 1));
    c->a.q_start = 128;
    c->a.n_q = N - 128;
    free(c->map.bits);
    c->map = tile_map_shape(c->a.block, H, 128, N - 128);
    c->map.bits = calloc(1, tile_map_bytes(&c->map));
    for (int h = 0; h < H; h++)
        for (int i = 0; i < c->map.n_qblocks; i++)
            tile_map_row(&c->map, h, i)[0] = (1u << tiles_possible(c->a.block, i + 1, N)) - 1;
    ok(audit_attention(&c->a, &attn_ref, 200, par, &found));
    cr_expect_eq(found.leak, 0);
    cr_expect_eq(found.leak_in_unit, 0);
    cr_expect_eq(found.tiles, (uint64_t)H * (4 + 5));
    cr_expect_eq(found.tiles, found.ledger_tiles);
    cr_expect_eq(found.units, found.ledger_units);
    par_close(&par);
    free(c->map.bits);
    free(c);
}

Test(audit, rows_with_no_number_are_apart)
{
    float x[4] = {1, 2, 3, 4}, y[4] = {1, 2, 3, 4};
    cr_expect_eq(audit_rows_apart(x, y, 0, 2, 2), 0);
    y[3] = 5;
    cr_expect_float_eq(audit_rows_apart(x, y, 0, 2, 2), .2, 1e-6);
    cr_expect_eq(audit_rows_apart(x, y, 0, 1, 2), 0);
    y[3] = NAN;
    cr_expect(isinf(audit_rows_apart(x, y, 0, 2, 2)));
    struct audit_check c = {.found = INFINITY, .allowed = 0};
    cr_expect_not(audit_passes(&c));
    c.found = NAN;
    cr_expect_not(audit_passes(&c));
    c.stated_only = true;
    cr_expect(audit_passes(&c));
}

/* A mask that peeks: it keeps a tile of early blocks by a key at the very end. */
static size_t peek_workspace(const struct mask_args *a) { return mask_sparge.workspace(a); }
static const char *peek_refuses(const struct mask_args *a) { return mask_sparge.refuses(a); }
static void peek_prepare(const struct mask_args *a, int head, void *ws)
{
    mask_sparge.prepare(a, head, ws);
}
static void peek_row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    const float *last =
        (const float *)a->attn->k + (ptrdiff_t)(attn_n_kv(a->attn) - 1) * a->attn->k_row;
    mask_sparge.row(a, head, i, theta, ws, out);
    uint32_t bits;
    memcpy(&bits, last, sizeof bits);
    for (int j = 1; j + 2 < out->n; j++) {
        out->p[j] = 0;
        out->forced[j] = bits >> (j % 12) & 1 ? FORCE_THETA_K : 0;
    }
}
static const struct mask_method peeking = {
    .name = "peeking",
    .ranked = true,
    .refuses = peek_refuses,
    .workspace = peek_workspace,
    .prepare = peek_prepare,
    .row = peek_row,
};

static const struct audit_check *find(const struct audit *a, const char *claim)
{
    for (int i = 0; i < a->n; i++)
        if (strstr(a->checks[i].claim, claim)) return &a->checks[i];
    cr_assert(false, "no claim with \"%s\"", claim);
    return NULL;
}

Test(audit, a_mask_that_looks_ahead_is_caught_in_a_whole_model)
{
    struct par *par;
    struct model m;
    ok(par_open(&par, 2));
    ok(model_open(&m, SG_SOURCE_DIR "/suites/demo/model", par));
    struct sample_set set;
    ok(suite_load("chronicle",
        &(struct suite_options){.tokenizer = m.tokenizer, .max_length = 768, .num_samples = 1},
        &set));
    const struct mask_method *methods[] = {&mask_sparge, &peeking};
    for (int i = 0; i < 2; i++) {
        struct sparse_policy policy;
        struct audit audit;
        int n_failed = 0;
        ok(policy_init(&policy, methods[i], m.weights.config.n_layers, m.weights.config.n_heads));
        policy_set_thresholds(&policy, 0, .6f, 6);
        ok(audit_run(&m, par, &set.samples[0], &policy, &audit));
        for (int k = 0; k < audit.n; k++) n_failed += !audit_passes(&audit.checks[k]);
        cr_expect_gt(
            find(&audit, "left out")->found, 0, "an audit of nothing sparse shows nothing");
        if (i == 0) cr_expect_eq(n_failed, 0);
        const struct audit_check *c = find(&audit, "earlier query blocks");
        cr_expect_eq(audit_passes(c), i == 0, "%s: %g", methods[i]->name, c->found);
        cr_expect(audit_passes(find(&audit, "later keys and values")),
            "inside the tiles it is causal all the same");
        policy_clear(&policy);
    }
    sample_set_clear(&set);
    model_close(&m);
    par_close(&par);
}

/* Rows of a unit share the decision to skip P·V, so some of them hear of later tokens: that is
 * measured and stated, and no more than that is let pass. A layer of dense heads, and one outside
 * the range, alarm nobody. */
Test(audit, the_skip_of_pv_is_stated_and_dense_layers_are_counted)
{
    struct par *par;
    struct model m;
    ok(par_open(&par, 2));
    ok(model_open(&m, SG_SOURCE_DIR "/suites/demo/model", par));
    struct sample_set set;
    struct sparse_policy policy;
    struct audit audit;
    ok(suite_load("chronicle",
        &(struct suite_options){.tokenizer = m.tokenizer, .max_length = 768, .num_samples = 1},
        &set));
    ok(policy_init(&policy, &mask_sparge, m.weights.config.n_layers, m.weights.config.n_heads));
    policy_set_thresholds(&policy, -1, .9f, 1);
    for (int h = 0; h < policy.n_heads; h++) policy.heads[3 * policy.n_heads + h].is_sparse = false;
    policy.layer_on[5] = 0;
    ok(audit_run(&m, par, &set.samples[0], &policy, &audit));
    for (int k = 0; k < audit.n; k++)
        cr_expect(
            audit_passes(&audit.checks[k]), "%s: %g", audit.checks[k].claim, audit.checks[k].found);
    const struct audit_check *skip = find(&audit, "sees later rows of its unit");
    cr_expect(skip->stated_only);
    cr_expect_gt(skip->found, 0, "an audit in which nothing was skipped shows nothing");
    cr_expect_not(find(&audit, "without the skip")->stated_only);
    cr_expect_not(find(&audit, "later keys and values do not")->stated_only);

    policy_set_thresholds(&policy, -1, .9f, 50);
    ok(audit_run(&m, par, &set.samples[0], &policy, &audit));
    for (int k = 0; k < audit.n; k++) {
        cr_expect(
            audit_passes(&audit.checks[k]), "%s: %g", audit.checks[k].claim, audit.checks[k].found);
        cr_expect_not(strstr(audit.checks[k].claim, "rows of its unit"),
            "nothing is skipped, every row is held to it");
    }
    policy_clear(&policy);
    sample_set_clear(&set);
    model_close(&m);
    par_close(&par);
}

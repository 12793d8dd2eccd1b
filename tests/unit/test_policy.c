#include "engine/policy.h"

#include "base/rng.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT_MESSAGE(part) \
    cr_expect(strstr(status_message(), part), "\"%s\" lacks \"%s\"", status_message(), part)

static struct sparse_policy make(int n_layers, int n_heads)
{
    struct sparse_policy p;
    cr_assert_eq(policy_init(&p, &mask_sparge, n_layers, n_heads), OK);
    return p;
}

/* "..##" for layers 2 and 3 of four. */
static char *picture(const struct sparse_policy *p)
{
    static char out[600];
    for (int l = 0; l < p->n_layers; l++) out[l] = p->layer_on[l] ? '#' : '.';
    out[p->n_layers] = 0;
    return out;
}

Test(policy, defaults_are_the_guides)
{
    struct sparse_policy p = make(4, 3);
    cr_expect(p.method == &mask_sparge && p.block.q == 128 && p.block.k == 64 &&
        p.smooth_k == SMOOTH_K_RUNNING);
    cr_expect(p.min_sparse_tokens == 256 && p.topk == 0 && p.n_layers == 4 && p.n_heads == 3);
    cr_expect_str_eq(picture(&p), "####");
    for (int i = 0; i < 12; i++)
        cr_expect(p.heads[i].theta == .6f && p.heads[i].tau == .98f && p.heads[i].lambda == 50 &&
            p.heads[i].is_sparse);
    policy_set_thresholds(&p, .1f, .2f, 30);
    for (int i = 0; i < 12; i++)
        cr_expect(p.heads[i].theta == .1f && p.heads[i].tau == .2f && p.heads[i].lambda == 30);
    policy_clear(&p);
    cr_expect(p.layer_on == NULL && p.heads == NULL);
    policy_clear(&p);
}

Test(policy, dense_stays_dense)
{
    struct sparse_policy p;
    cr_assert_eq(policy_init(&p, NULL, 4, 2), OK);
    cr_expect_str_eq(picture(&p), "....");
    cr_expect_eq(policy_set_layers(&p, "all"), OK);
    cr_expect_str_eq(picture(&p), "....");
    cr_expect_eq(policy_set_layers(&p, "1-2"), OK);
    cr_expect_str_eq(picture(&p), "....");
    policy_set_thresholds(&p, .6f, .9f, 50);
    cr_expect_not(p.heads[0].is_sparse);
    cr_expect_eq(policy_first_sparse_layer(&p), 4);
    policy_clear(&p);
}

Test(policy, dense_in_eight_bits_has_layers)
{
    struct sparse_policy p, q;
    cr_assert_eq(policy_init(&p, NULL, 4, 2), OK);
    cr_expect(!policy_acts(&p));
    cr_expect_eq(policy_set_precision(&p, PRECISION_FULL, PRECISION_INT8), ERR_ARG);
    EXPECT_MESSAGE("P·V in int8");
    cr_assert_eq(policy_set_precision(&p, PRECISION_INT8, PRECISION_FP8), OK);
    cr_expect_str_eq(picture(&p), "####");
    cr_assert_eq(policy_set_layers(&p, "1-2"), OK);
    cr_expect_str_eq(picture(&p), ".##.");
    cr_expect(policy_acts(&p) && policy_is_eight(&p) && !p.heads[0].is_sparse);
    cr_assert_eq(policy_set_precision(&p, PRECISION_FULL, PRECISION_FULL), OK);
    cr_expect_str_eq(picture(&p), "....");
    policy_clear(&p);
    /* what a sparse policy leaves when every tile is kept */
    p = make(4, 2);
    cr_assert_eq(policy_set_layers(&p, "0+3"), OK);
    p.min_sparse_tokens = 100;
    cr_assert_eq(policy_set_precision(&p, PRECISION_FP8, PRECISION_FULL), OK);
    cr_assert_eq(policy_copy_dense(&q, &p), OK);
    cr_expect_str_eq(picture(&q), "#..#");
    cr_expect(!q.method && q.qk == PRECISION_FP8 && q.pv == PRECISION_FULL &&
        q.min_sparse_tokens == 100 && !q.heads[0].is_sparse);
    policy_clear(&q);
    p.qk = PRECISION_FULL;
    cr_assert_eq(policy_copy_dense(&q, &p), OK);
    cr_expect_str_eq(picture(&q), "....");
    policy_clear(&p);
    policy_clear(&q);
}

Test(policy, layers)
{
    static const struct {
        const char *text, *want, *canonical;
        int first;
    } good[] = {
        {"all", "################", "all", 0},
        {"none", "................", "none", 16},
        {"7", ".......#........", "7", 7},
        {"0", "#...............", "0", 0},
        {"15", "...............#", "15", 15},
        {"8,16", "........########", "8-15", 8},
        {"8-15", "........########", "8-15", 8},
        {"0,16", "################", "all", 0},
        {"0,1", "#...............", "0", 0},
        {"3-3", "...#............", "3", 3},
        {"0-3+12", "####........#...", "0-3+12", 0},
        {"12+0-3", "####........#...", "0-3+12", 0},
        {"1+3+5-6+8,10", ".#.#.##.##......", "1+3+5-6+8-9", 1},
        {"0-7+8-15", "################", "all", 0},
        {"2-5+4-7", "..######........", "2-7", 2},
    };
    struct sparse_policy p = make(16, 1);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        char text[LAYERS_TEXT_SIZE];
        cr_assert_eq(policy_set_layers(&p, good[i].text), OK, "%s", good[i].text);
        cr_expect_str_eq(picture(&p), good[i].want, "%s: %s", good[i].text, picture(&p));
        cr_expect_str_eq(policy_layers_text(&p, text), good[i].canonical);
        cr_expect_eq(policy_first_sparse_layer(&p), good[i].first);
    }
    policy_clear(&p);
}

Test(policy, bad_layers_are_refused)
{
    static const char *bad[] = {"", "16", "8-16", "8,17", "-1", "5-3", "5,5", "5,", "5-", "x", "1x",
        "1+", "+1", "1++2", "1,2,3", "1-2-3", "1 + 2", " 1", "1-+3", "all+1", "ALL",
        "99999999999999999999", "0-99999999999999999999", "1.5", "0x1"};
    struct sparse_policy p = make(16, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(
            policy_set_layers(&p, bad[i]), ERR_ARG, "\"%s\" was taken as %s", bad[i], picture(&p));
        if (*status_message()) EXPECT_MESSAGE("layers 0 to 15");
    }
    policy_clear(&p);
}

/* A range beyond what a long holds; found by the sanitizer when the subtraction wraps. */
Test(policy, lowest_number)
{
    struct sparse_policy p = make(16, 1);
    cr_expect_eq(policy_set_layers(&p, "0,-9223372036854775808"), ERR_ARG);
    policy_clear(&p);
}

Test(policy, text_reads_back)
{
    char text[LAYERS_TEXT_SIZE], again[LAYERS_TEXT_SIZE];
    struct sparse_policy p = make(40, 1), q = make(40, 1);
    uint64_t state = 1;
    for (int trial = 0; trial < 500; trial++) {
        uint64_t bits = splitmix64(&state) | (trial % 3 == 0 ? splitmix64(&state) : 0);
        for (int l = 0; l < 40; l++) p.layer_on[l] = bits >> l & 1;
        policy_layers_text(&p, text);
        cr_assert_eq(policy_set_layers(&q, text), OK, "%s", text);
        cr_assert_arr_eq(p.layer_on, q.layer_on, 40);
        cr_assert_str_eq(policy_layers_text(&q, again), text);
    }
    policy_clear(&p);
    policy_clear(&q);
}

/* A text that is cut is read back as fewer layers: the longest ones, of every depth that a
 * configuration may have. */
Test(policy, longest_texts_fit)
{
    static char text[LAYERS_TEXT_SIZE + 64];
    static const int depths[] = {126, 1000, MAX_MODEL_LAYERS};
    for (int i = 0; i < 3; i++)
        for (int period = 2; period <= 4; period++) {
            int n = depths[i];
            struct sparse_policy p = make(n, 1), q = make(n, 1);
            for (int l = 0; l < n; l++) p.layer_on[l] = l % period != 1;
            memset(text, 'x', sizeof text);
            cr_expect_eq(policy_set_layers(&q, policy_layers_text(&p, text)), OK);
            cr_expect_arr_eq(p.layer_on, q.layer_on, (size_t)n);
            cr_expect_eq(text[LAYERS_TEXT_SIZE], 'x');
            policy_clear(&p);
            policy_clear(&q);
        }
}

Test(policy, block_shapes)
{
    static const struct {
        const char *text;
        int q, k;
    } good[] = {{"64x64", 64, 64}, {"128x64", 128, 64}, {"64x128", 64, 128}, {"128x128", 128, 128}};
    static const char *bad[] = {"", "64", "64x", "x64", "32x64", "64x256", "64x64x64", "64x64 ",
        "64 x64", "64X64", "-64x64", "64,64", "0x40", "128x64k", " 64x64", "64x 64", "+64x64"};
    struct block_shape b;
    for (int i = 0; i < 4; i++) {
        cr_expect_eq(block_shape_parse(good[i].text, &b), OK);
        cr_expect(b.q == good[i].q && b.k == good[i].k);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        b = (struct block_shape){1, 2};
        cr_expect_eq(block_shape_parse(bad[i], &b), ERR_ARG, "\"%s\" was taken", bad[i]);
        cr_expect(b.q == 1 && b.k == 2);
    }
}

Test(policy, copies_are_deep)
{
    struct sparse_policy p = make(5, 2), q;
    p.block = (struct block_shape){64, 128};
    p.window = 77;
    p.topk = .25f;
    p.min_sparse_tokens = 1;
    p.smooth_k = SMOOTH_K_GLOBAL;
    p.heads[3].tau = .5f;
    p.heads[4].is_sparse = false;
    cr_assert_eq(policy_set_layers(&p, "2-3"), OK);
    cr_assert_eq(policy_copy(&q, &p), OK);
    cr_expect(q.window == 77 && q.topk == .25f && q.block.k == 128 && q.min_sparse_tokens == 1 &&
        q.smooth_k == SMOOTH_K_GLOBAL && q.heads[3].tau == .5f && !q.heads[4].is_sparse);
    cr_expect_str_eq(picture(&q), "..##.");
    q.heads[3].tau = .1f;
    q.layer_on[0] = 1;
    cr_expect(p.heads[3].tau == .5f && !p.layer_on[0]);
    policy_clear(&p);
    cr_expect_eq(q.heads[9].theta, .6f);
    policy_clear(&q);
}

static void change(struct sparse_policy *p, int what)
{
    switch (what) {
    case 1: p->method = &mask_oracle; break;
    case 2: p->method = NULL; break;
    case 3: p->block.q = 64; break;
    case 4: p->block.k = 128; break;
    case 5: p->smooth_k = SMOOTH_K_GLOBAL; break;
    case 6: p->smooth_k = SMOOTH_K_OFF; break;
    case 7: p->min_sparse_tokens = 257; break;
    case 8: p->topk = .5f; break;
    case 9: p->window = 512; break;
    case 10: p->layer_on[2] = 0; break;
    case 11: p->layer_on[1] = 0; break;
    case 12: p->heads[0].theta = .61f; break;
    case 13: p->heads[0].tau = .61f; break;
    case 14: p->heads[0].lambda = 49; break;
    case 15: p->heads[0].is_sparse = false; break;
    case 16: p->heads[5].theta = .61f; break;
    case 17: p->heads[5].is_sparse = false; break;
    case 18: p->qk = PRECISION_INT8; break;
    case 19: p->qk = PRECISION_FP8; break;
    case 20: p->pv = PRECISION_FP8; break;
    case 21: /* dense, in eight bits */
    case 22:
    case 23:
    case 24:
        p->method = NULL;
        p->qk = what == 22 ? PRECISION_FP8 : PRECISION_INT8;
        if (what == 23) p->layer_on[1] = 0;
        if (what == 24) p->min_sparse_tokens = 1;
        break;
    case 25: p->where_it_pays = true; break;
    case 26: p->where_it_pays = true, p->promised = .3; break;
    }
}

Test(policy, every_field_changes_the_hash)
{
    enum { N = 27 };
    char hex[N][HASH_HEX_SIZE], again[HASH_HEX_SIZE];
    for (int i = 0; i < N; i++) {
        struct sparse_policy p = make(3, 2);
        change(&p, i);
        struct hash h;
        hash_init(&h);
        policy_hash(&p, &h);
        hash_hex(&h, hex[i]);
        struct sparse_policy copy;
        cr_assert_eq(policy_copy(&copy, &p), OK);
        hash_init(&h);
        policy_hash(&copy, &h);
        cr_expect_str_eq(hash_hex(&h, again), hex[i]);
        for (int j = 0; j < i; j++)
            cr_expect_str_neq(hex[i], hex[j], "changes %d and %d look alike", i, j);
        policy_clear(&copy);
        policy_clear(&p);
    }
}

/* Measured on an H100: at 2 048 tokens choosing tiles costs more than half of them, at 8 192 far
 * less. */
Test(policy, runs_dense_where_choosing_cannot_pay)
{
    const struct call_place hopper[2] = {{64, 32, true}, {128, 32, true}}, cpu = {64, 32, false};
    struct sparse_policy p = make(1, 2);
    for (int d = 0; d < 2; d++)
        for (int asked = 0; asked < 2; asked++)
            for (int n = 1024; n <= 131072; n *= 2) {
                struct head_ledger l[2] = {0};
                p.topk = .5f;
                p.where_it_pays = asked;
                bool sparse = policy_layer_way(&p, 0, n, 0, n, &hopper[d], l).sparse,
                     pays = !asked || n > 2048;
                cr_expect_eq(sparse, pays, "d %d, n %d", hopper[d].head_dim, n);
                cr_expect(l[0].calls_sparse == pays && l[1].calls_dense_cost == !pays);
                cr_expect_eq(l[0].calls_dense_short + l[0].calls_dense_head, 0);
            }
    /* a tuning that left nearly everything out pays at 2 048; one that left nothing nowhere */
    p.topk = 0;
    p.promised = .95;
    cr_expect(payoff_kept(&p, 65536) < .06 && payoff_kept(&p, 2048) < .25);
    cr_expect(payoff_pays(&hopper[0], &p, 3072));
    p.promised = 1e-6;
    cr_expect(!payoff_pays(&hopper[0], &p, 32768) && !payoff_pays(&hopper[1], &p, 32768));
    /* nothing was measured elsewhere, and a short call is short first */
    cr_expect(payoff_pays(&cpu, &p, 2048) && payoff_pays(NULL, &p, 2048));
    struct head_ledger l[2] = {0};
    cr_expect(!policy_layer_way(&p, 0, 200, 0, 200, &hopper[0], l).sparse);
    cr_expect(l[0].calls_dense_short == 1 && l[0].calls_dense_cost == 0);
    policy_clear(&p);
}

/* The model's whole call against tables of docs/speed/attention.md (top-k .5, 128x64). */
Test(policy, a_call_costs_what_was_measured)
{
    static const struct {
        int d, n;
        double dense_ms, whole_ms, kept;
    } seen[] = {{64, 8192, .496, .316, .522}, {64, 32768, 8.09, 4.37, .506},
        {128, 8192, .802, .502, .523}, {128, 32768, 13.06, 6.89, .506}};
    struct sparse_policy p = make(1, 2);
    for (size_t i = 0; i < sizeof seen / sizeof *seen; i++) {
        struct call_place at = {seen[i].d, 32, true};
        struct payoff x = payoff_model(&at, &p, seen[i].n, seen[i].kept);
        double whole = 1e3 * (x.predict + x.attention);
        cr_expect(fabs(1e3 * x.dense / seen[i].dense_ms - 1) < .02);
        cr_expect(fabs(whole / seen[i].whole_ms - 1) < .1, "d %d, n %d: %.3f ms, measured %.3f",
            seen[i].d, seen[i].n, whole, seen[i].whole_ms);
        /* half the heads of twice the rows are as much work twice over */
        at.n_heads = 128;
        cr_expect(fabs(payoff_model(&at, &p, seen[i].n / 2, .5).dense /
                          payoff_model(&(struct call_place){seen[i].d, 32, true}, &p, seen[i].n, .5)
                              .dense -
                      1) < 1e-9);
    }
    policy_clear(&p);
}

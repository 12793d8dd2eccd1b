/* The gate's self-test: its planted faults are what they are called, and it is strict. */
#include "base/rng.h"
#include "harness/measure/selftest.h"
#include "tests/unit/gate_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Faults, on random tensors: the map is what the fault's name says. */
Test(selftest, planted_faults_do_what_they_are_called)
{
    enum { N = 600, D = 16, Q = 5, K = 10 };
    static float q[N * D], k[N * D], v[N * D];
    struct rng r;
    rng_init(&r, 3);
    /* queries of a block have a self-similarity of about .18² / (.18² + 1/12) = .28, between θ and
     * 2θ */
    for (int i = 0; i < N * D; i++) {
        q[i] = (float)rng_unit(&r) - .5f + .18f * (i / D / 128 % 2 ? 1 : -1);
        k[i] = (float)rng_unit(&r) - .5f + ((i / D / 64 * 7 + i % D) % 3 == 0 ? .8f : 0);
    }
    struct attn_args a = {.n_q = N,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = D,
        .scale = .25f,
        .q = q,
        .k = k,
        .v = v,
        .q_row = D,
        .k_row = D,
        .v_row = D,
        .block = {128, 64}};
    struct head_params head = {.theta = .2f, .tau = .5f, .lambda = NEVER_SKIP, .is_sparse = true};
    struct mask_args args = {.attn = &a, .heads = &head, .smooth_k = SMOOTH_K_RUNNING};
    bool map[N_FAULTS][Q][K] = {0};
    struct par *par;
    ok(par_open(&par, 1));
    for (int f = 0; f < N_FAULTS; f++) {
        struct tile_map t = tile_map_shape(a.block, 1, 0, N);
        t.bits = malloc(tile_map_bytes(&t));
        void *ws = aligned_alloc(64, (mask_workspace(planted_method(f), &args, 1) + 63) / 64 * 64);
        ok(mask_predict(planted_method(f), &args, &t, ws, par));
        for (int i = 0; i < Q; i++)
            for (int j = 0; j < K; j++) map[f][i][j] = tile_map_row(&t, 0, i)[0] >> j & 1;
        free(t.bits);
        free(ws);
    }
    par_close(&par);
    int kept = 0, kept_doubled = 0;
    for (int i = 1; i < Q; i++) {
        int n = 2 * i + 2 < K ? 2 * i + 2 : K;
        for (int j = 1; j < n; j++) {
            cr_expect_eq(
                map[FAULT_SHIFTED_MASK][i][j], map[FAULT_NONE][i][j - 1], "tile %d, %d", i, j);
            cr_expect_eq(map[FAULT_DROPPED_DIAGONAL][i][j], map[FAULT_NONE][i][j] && j < 2 * i,
                "tile %d, %d", i, j);
            kept += map[FAULT_NONE][i][j];
            kept_doubled += map[FAULT_DOUBLED_THETA][i][j];
        }
        cr_expect_not(map[FAULT_SHIFTED_MASK][i][0]);
        cr_expect(map[FAULT_DROPPED_DIAGONAL][i][0], "the sink stays, so that every row has a key");
    }
    cr_expect_gt(kept_doubled, kept + 3, "%d, %d", kept_doubled, kept);
}

Test(selftest, is_as_strict_as_its_rows)
{
    struct selftest t = {0};
    for (int i = 0; i < SELFTEST_ROWS; i++)
        t.rows[i] =
            (struct selftest_row){.sound = i < 2, .outcome = i < 2 ? CHECK_PASS : CHECK_FAIL};
    cr_expect(selftest_passes(&t));
    t.rows[3].outcome = CHECK_PASS;
    cr_expect_not(selftest_passes(&t), "a fault that passed");
    t.rows[3].outcome = CHECK_AMBIGUOUS;
    cr_expect_not(selftest_passes(&t), "a fault that could not be told");
    t.rows[3].outcome = CHECK_FAIL;
    t.rows[1].outcome = CHECK_FAIL;
    cr_expect_not(selftest_passes(&t), "a sound run that was refused");
}

/* Thresholds for one layer from q, k and v of your own, verified, into a file and back.
 *
 *   cc tune.c $(pkg-config --cflags --libs sparsegauge) -lm -o tune && ./tune tuned.json tuned.pt
 */
#include <sparsegauge.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 512, HEADS = 2, KV_HEADS = 1, DIM = 32, LAYERS = 2, SAMPLES = 3 };

static int check(enum sg_status st, const char *what)
{
    if (st != SG_OK) fprintf(stderr, "%s: %s: %s\n", what, sg_status_name(st), sg_message());
    return st == SG_OK;
}

static void fill(float *x, size_t n, int wave, unsigned seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        size_t t = i / DIM % TOKENS, d = i % DIM;
        x[i] = sinf((float)(t / 64 * 29) + (float)d * (float)wave) * 2 +
            (float)(seed >> 8) / 16777216.f - .5f;
    }
}

int main(int argc, char **argv)
{
    static float q[SAMPLES][HEADS * TOKENS * DIM], k[SAMPLES][KV_HEADS * TOKENS * DIM],
        v[SAMPLES][KV_HEADS * TOKENS * DIM];
    struct sg_sample samples[SAMPLES] = {{0}};
    for (int i = 0; i < SAMPLES; i++) {
        struct sg_sample *s = &samples[i];
        fill(q[i], HEADS * TOKENS * DIM, 3, (unsigned)i + 1);
        fill(k[i], KV_HEADS * TOKENS * DIM, 3, (unsigned)i + 11);
        fill(v[i], KV_HEADS * TOKENS * DIM, 5, (unsigned)i + 21);
        s->size = sizeof *s;
        s->n_tokens = TOKENS;
        s->use = i == 0 ? SG_CHOOSE : i == 1 ? SG_CHECK : SG_HELD_OUT;
        s->q = q[i];
        s->k = k[i];
        s->v = v[i];
        s->q_token = s->k_token = s->v_token = DIM;
        s->q_head = s->k_head = s->v_head = TOKENS * DIM;
    }
    struct sg_tuning tuning = {.size = sizeof tuning,
        .layer = 1,
        .n_kv_heads = KV_HEADS,
        .head_dim = DIM,
        .samples = samples,
        .n_samples = SAMPLES,
        .l1 = .06,
        .pv_l1 = .07,
        .min_sparsity = -1};
    struct sg_context *context = NULL;
    struct sg_policy *policy = NULL, *back = NULL, *pt = NULL;
    int ok = check(sg_open(&context, 0), "sg_open") &&
        check(sg_policy_open(&policy, NULL, LAYERS, HEADS), "sg_policy_open") &&
        check(sg_tune(context, &tuning, policy), "sg_tune");
    for (int h = 0; h < HEADS && ok; h++) {
        struct sg_head x = {.size = sizeof x};
        ok = check(sg_policy_head(policy, 1, h, &x), "sg_policy_head");
        if (ok)
            printf("head %d: simthreshd1 %.4f, cdfthreshd %.4f, pvthreshd %.1f: %.1f %% left out, "
                   "error %.4f\n",
                h, (double)x.simthreshd1, (double)x.cdfthreshd, (double)x.pvthreshd,
                100 * x.sparsity, x.error);
    }
    if (ok) printf("%s\n", sg_policy_verdict(policy));
    for (int i = 1; i < argc && i < 3 && ok; i++)
        ok = check(sg_policy_write(policy, argv[i], NULL), argv[i]);
    if (ok && argc > 1) ok = check(sg_policy_read(&back, argv[1], LAYERS, HEADS, NULL), argv[1]);
    if (ok && argc > 2)
        ok = check(sg_policy_read(&pt, argv[2], LAYERS, HEADS, "sparse_attn"), argv[2]);
    for (int h = 0; h < HEADS && ok && argc > 2; h++) {
        struct sg_head x = {.size = sizeof x}, y = x, z = x;
        ok = check(sg_policy_head(policy, 1, h, &x), "head") &&
            check(sg_policy_head(back, 1, h, &y), "head") &&
            check(sg_policy_head(pt, 1, h, &z), "head");
        if (ok && x.is_sparse)
            ok = x.cdfthreshd == y.cdfthreshd && x.cdfthreshd == z.cdfthreshd &&
                x.pvthreshd == z.pvthreshd && y.error <= .07;
        if (!ok) fprintf(stderr, "head %d does not come back as it was\n", h);
    }
    sg_policy_close(&policy);
    sg_policy_close(&back);
    sg_policy_close(&pt);
    sg_close(&context);
    return ok ? 0 : 1;
}

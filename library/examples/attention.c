/* Block-sparse attention on tensors of your own: a prompt at once and in chunks, counted, beside
 * the dense result.
 *
 *   cc attention.c $(pkg-config --cflags --libs sparsegauge) -lm -o attention && ./attention
 */
#include <sparsegauge.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 1024, HEADS = 4, KV_HEADS = 2, DIM = 64, CHUNK = 512 };

/* The library says what went wrong, and what to do. */
static int check(enum sg_status st, const char *what)
{
    if (st != SG_OK) fprintf(stderr, "%s: %s: %s\n", what, sg_status_name(st), sg_message());
    return st == SG_OK;
}

/* Tensors as frameworks have them: [heads, tokens, dim]. */
static struct sg_attention call_of(
    const float *q, const float *k, const float *v, float *o, int first, int n)
{
    struct sg_attention a = {.size = sizeof a,
        .n_q = n,
        .q_start = first,
        .n_heads = HEADS,
        .n_kv_heads = KV_HEADS,
        .head_dim = DIM};
    a.q = q + first * DIM;
    a.k = k;
    a.v = v;
    a.o = o + first * DIM;
    a.q_token = a.k_token = a.v_token = a.o_token = DIM;
    a.q_head = a.k_head = a.v_head = a.o_head = TOKENS * DIM;
    a.total = TOKENS;
    return a;
}

/* Rows that resemble their neighbours, as those of texts do. */
static void fill(float *x, int n_heads, unsigned seed)
{
    for (int h = 0; h < n_heads; h++)
        for (int t = 0; t < TOKENS; t++)
            for (int d = 0; d < DIM; d++) {
                seed = seed * 1664525u + 1013904223u;
                x[(h * TOKENS + t) * DIM + d] = sinf((float)(t / 128 * 37 + d * (h + 3))) * 1.5f +
                    (float)(seed >> 8) / 16777216.f - .5f;
            }
}

int main(void)
{
    static float q[HEADS * TOKENS * DIM], k[KV_HEADS * TOKENS * DIM], v[KV_HEADS * TOKENS * DIM];
    static float dense[HEADS * TOKENS * DIM], sparse[HEADS * TOKENS * DIM],
        chunked[HEADS * TOKENS * DIM];
    static uint8_t tiles[HEADS * (TOKENS / 64) * (TOKENS / 64)];
    struct sg_context *context = NULL;
    struct sg_policy *policy = NULL;
    struct sg_ledger ledger[HEADS] = {{0}}, sum = {0};
    int ok = sg_api_version() == SG_API_VERSION && check(sg_open(&context, 0), "sg_open");
    fill(q, HEADS, 1);
    fill(k, KV_HEADS, 2);
    fill(v, KV_HEADS, 3);

    ok = ok && check(sg_policy_open(&policy, "sparge", 1, HEADS), "sg_policy_open");
    struct sg_attention a = call_of(q, k, v, dense, 0, TOKENS);
    ok = ok && check(sg_attention_forward(context, &a, NULL, NULL, NULL), "dense");
    a = call_of(q, k, v, sparse, 0, TOKENS);
    ok = ok && check(sg_attention_forward(context, &a, policy, ledger, NULL), "sparse");
    ok = ok && check(sg_attention_predict(context, &a, policy, tiles, NULL), "predict");
    for (int first = 0; first < TOKENS;
         first += CHUNK) { /* chunks begin on a block: the same tiles */
        a = call_of(q, k, v, chunked, first, CHUNK);
        ok = ok && check(sg_attention_forward(context, &a, policy, NULL, NULL), "chunk");
    }
    a = call_of(q, k, v, chunked, TOKENS - 1,
        1); /* as in decoding: one token sees everything, and is counted as dense */
    struct sg_ledger decoded[HEADS] = {{0}};
    ok = ok && check(sg_attention_forward(context, &a, policy, decoded, NULL), "decode");
    if (ok) {
        double error = 0, norm = 0;
        size_t kept = 0, n = sizeof dense / sizeof *dense;
        for (size_t i = 0; i < n; i++) {
            error += fabs((double)dense[i] - (double)sparse[i]);
            norm += fabs((double)dense[i]);
        }
        for (int h = 0; h < HEADS; h++) sg_ledger_add(&sum, &ledger[h]);
        a = call_of(q, k, v, sparse, 0, TOKENS);
        for (int i = 0; i < HEADS * sg_q_blocks(&a, policy) * sg_k_blocks(&a, policy); i++)
            kept += tiles[i];
        printf("%d tokens, %d heads: %.1f %% left out, relative L1 error %.4f\n", TOKENS, HEADS,
            100 * sg_sparsity(&sum), error / norm);
        int last = (TOKENS - CHUNK) *
            DIM; /* all rows but the last, which was decoded again with every key */
        ok = kept == sum.tiles_computed && sg_sparsity(&sum) > 0 && error / norm < .2 &&
            decoded[0].calls_dense_short == 1 &&
            memcmp(sparse + last, chunked + last, sizeof *sparse * (CHUNK - 1) * DIM) == 0;
        if (!ok)
            fprintf(stderr, "the parts do not fit: %zu tiles predicted, %zu computed\n", kept,
                (size_t)sum.tiles_computed);
    }
    sg_policy_close(&policy);
    sg_close(&context);
    return ok ? 0 : 1;
}

/* A head's share of the residual stream, against the output projection done in full. */
#include "engine/engine.h"
#include "engine/tuner/stream_share.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())

enum { N = 300 };

struct watch {
    struct stream_share *share;
    const struct weights *w;
    const float *stream;
    double *sum; /* [n_heads] of ‖written‖² / ‖x‖² */
};

static enum status watch_layer(void *ctx, const struct layer_view *view)
{
    struct watch *t = ctx;
    const struct attn_args *a = view->attn;
    const struct linear *l = &t->w->layers[view->layer].o;
    int hidden = t->w->config.hidden_size, d = a->head_dim;
    float *all = malloc(sizeof *all * (size_t)l->m * (size_t)l->k);
    widen(l->weight, l->dtype, all, (size_t)l->m * (size_t)l->k);
    for (int h = 0; h < a->n_heads; h++)
        for (int r = 0; r < a->n_q; r++) {
            const float *o = (const float *)a->o + r * a->o_row + h * a->o_head;
            double written = 0, norm = 0;
            for (int m = 0; m < hidden; m++) {
                double y = 0,
                       x = (double)t->stream[(size_t)(a->q_start + r) * (size_t)hidden + (size_t)m];
                for (int i = 0; i < d; i++) y += (double)all[m * l->k + h * d + i] * (double)o[i];
                written += y * y;
                norm += x * x;
            }
            t->sum[h] += written / norm;
        }
    free(all);
    stream_share_add(t->share, t->stream, a);
    return OK;
}

/* chunk: of the prefill, 0 all at once; the stream leaves the layer over itself, as `optimise` has
 * it. */
static void check_model(const char *dir, int threads, int chunk)
{
    struct weights w;
    struct par *par;
    struct session *s;
    int32_t ids[N];
    CHECK(weights_open(&w, dir));
    CHECK(par_open(&par, threads));
    const struct llama_config *c = &w.config;
    for (int i = 0; i < N; i++)
        ids[i] = (int32_t)((unsigned)(i / 3) * 2654435761u >> 16) % c->vocab_size;
    CHECK(session_open(&s, &w, par, N, chunk, NULL));
    float *stream = malloc(sizeof *stream * N * (size_t)c->hidden_size);
    double *share = malloc(sizeof *share * (size_t)c->n_heads),
           *sum = calloc((size_t)c->n_heads, sizeof *sum);
    struct forward_args f = {
        .tokens = ids, .n = N, .end_layer = 1, .capture_layer = 1, .residual_out = stream};
    CHECK(session_forward(s, &f)); /* the stream that enters layer 1 */
    session_reset(s);
    struct watch watch = {.w = &w, .stream = stream, .sum = sum};
    CHECK(stream_share_open(&watch.share, &w, 1, par));
    stream_share_get(watch.share, share);
    cr_expect(isnan(share[0]), "a share of nothing: %g", share[0]);
    CHECK(session_forward(s,
        &(struct forward_args){.tokens = ids,
            .n = N,
            .first_layer = 1,
            .end_layer = 2,
            .residual_in = stream,
            .capture_layer = 2,
            .residual_out = stream,
            .hook = watch_layer,
            .hook_ctx = &watch}));
    stream_share_get(watch.share, share);
    for (int h = 0; h < c->n_heads; h++) {
        double want = sqrt(sum[h] / N);
        cr_expect(want > 0 && fabs(share[h] - want) < 1e-9 * want,
            "%s, head %d: %.12g, in full %.12g", dir, h, share[h], want);
    }
    stream_share_close(&watch.share);
    cr_expect_null(watch.share);
    free(stream);
    free(share);
    free(sum);
    session_close(&s);
    par_close(&par);
    weights_close(&w);
}

Test(stream_share, is_what_the_projection_writes, .timeout = 120)
{
    static const char *const models[] = {
        "gqa_d64_tied", "mqa_linear_f16", "sharded_bf16", "bias_d16"};
    for (int i = 0; i < 4; i++) {
        char *dir = path_join(GOLDEN_MODELS, models[i]);
        check_model(dir, 1 + i % 2, 0);
        check_model(dir, 1, 128);
        free(dir);
    }
}

#include "engine/tuner/stream_share.h"

#include <math.h>
#include <stdlib.h>

struct stream_share {
    const struct llama_config *c;
    struct par *par;
    const struct linear *projection;
    double *gram; /* [n_heads, d, d]: Wᵀ · W, so that ‖o · Wᵀ‖² = o · gram · oᵀ */
    double *sum;  /* [n_heads] of ‖o · Wᵀ‖² / ‖x‖² */
    double n_rows;
    const float *stream;
    const struct attn_args *attn;
};

static void gram_task(void *ctx, int head, int worker)
{
    (void)worker;
    struct stream_share *s = ctx;
    const struct linear *l = s->projection;
    int d = s->c->head_dim;
    double *gram = s->gram + (size_t)head * (size_t)d * (size_t)d;
    float row[256];
    for (int m = 0; m < l->m; m++) {
        size_t at = (size_t)m * (size_t)l->k + (size_t)head * (size_t)d;
        widen((const char *)l->weight + at * dtype_size(l->dtype), l->dtype, row, (size_t)d);
        for (int i = 0; i < d; i++)
            for (int j = 0; j < d; j++) gram[i * d + j] += (double)row[i] * (double)row[j];
    }
}

enum status stream_share_open(
    struct stream_share **out, const struct weights *w, int layer, struct par *par)
{
    const struct llama_config *c = &w->config;
    *out = NULL;
    if (c->head_dim > 256)
        return fail(ERR_UNSUPPORTED, "heads of %d dims, at most 256 are offered", c->head_dim);
    struct stream_share *s = calloc(1, sizeof *s);
    size_t d = (size_t)c->head_dim, n = (size_t)c->n_heads;
    if (s)
        *s = (struct stream_share){.c = c,
            .par = par,
            .projection = &w->layers[layer].o,
            .gram = calloc(n * d * d, sizeof *s->gram),
            .sum = calloc(n, sizeof *s->sum)};
    *out = s;
    if (!s || !s->gram || !s->sum) {
        stream_share_close(out);
        return fail(ERR_MEMORY, "no memory for the shares of %d heads", c->n_heads);
    }
    par_for(par, c->n_heads, gram_task, s);
    return OK;
}

void stream_share_close(struct stream_share **sp)
{
    struct stream_share *s = *sp;
    if (!s) return;
    free(s->gram);
    free(s->sum);
    free(s);
    *sp = NULL;
}

static double row_norm(const float *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

static void head_task(void *ctx, int head, int worker)
{
    (void)worker;
    struct stream_share *s = ctx;
    const struct attn_args *a = s->attn;
    int d = s->c->head_dim, hidden = s->c->hidden_size;
    const double *gram = s->gram + (size_t)head * (size_t)d * (size_t)d;
    for (int r = 0; r < a->n_q; r++) {
        const float *o = (const float *)a->o + r * a->o_row + head * a->o_head;
        double written = 0,
               norm = row_norm(s->stream + (size_t)(a->q_start + r) * (size_t)hidden, hidden);
        for (int i = 0; i < d; i++) {
            double sum = 0;
            for (int j = 0; j < d; j++) sum += gram[i * d + j] * (double)o[j];
            written += sum * (double)o[i];
        }
        if (norm > 0) s->sum[head] += written / norm;
    }
}

void stream_share_add(struct stream_share *s, const float *stream, const struct attn_args *attn)
{
    s->stream = stream;
    s->attn = attn;
    s->n_rows += attn->n_q;
    par_for(s->par, s->c->n_heads, head_task, s);
}

void stream_share_get(const struct stream_share *s, double *out)
{
    for (int h = 0; h < s->c->n_heads; h++)
        out[h] = s->n_rows > 0 ? sqrt(s->sum[h] / s->n_rows) : NAN;
}

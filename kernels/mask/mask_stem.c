/* Stem (arXiv 2603.06274): sums of every S-th row of a block meet the sums of every S-th key in the
 * reverse order, the scores of antidiagonals, and blocks whose values are large are worth more: λ
 * times how far the logarithm of the largest norm in S values stands above its mean over the whole
 * sequence, in standard deviations, where above. The budget falls with the row (rule falling);
 * first and nearest blocks are kept anyhow. As in the public code places behind the last token
 * count as zeros. Its blocks are 128x128, its query and keys 8 bits: here they are as they come. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask/sheet.h"

#include <math.h>
#include <string.h>

enum { PARAM_STRIDE, PARAM_LAMBDA, PARAM_SINK, PARAM_WINDOW, N_PARAMS };
static const struct mask_param params[N_PARAMS] = {
    {"stride", "rows apart that are summed", 16, 2, 64, true, NULL},
    {"lambda", "what large values are worth", .3f, 0, 10, false, NULL},
    {"sink", "first key blocks that are always kept", 4, 1, 64, true, NULL},
    {"window", "nearest key blocks that are always kept", 4, 1, 1024, true, NULL},
};
static const double SMALL = 1e-6; /* beside norms and deviations */

struct sums {
    int stride, dim; /* of a block's sums: stride times head_dim */
    float *q, *k;    /* [n_qblocks, dim], [n_kblocks, dim] in reverse */
    float *bonus;    /* [n_kblocks] */
};

static size_t layout(const struct mask_args *a, void *ws, struct sums *s)
{
    const struct attn_args *t = a->attn;
    int stride = (int)mask_value(a, params, PARAM_STRIDE), dim = stride * t->head_dim;
    size_t nq = (size_t)count_blocks(t->n_q, t->block.q),
           nk = (size_t)count_blocks(attn_n_kv(t), t->block.k);
    size_t q = nq * (size_t)dim, k = nk * (size_t)dim;
    if (ws) *s = (struct sums){stride, dim, ws, (float *)ws + q, (float *)ws + q + k};
    return ((q + k + nk) * sizeof(float) + 63) / 64 * 64;
}

static size_t workspace(const struct mask_args *a) { return layout(a, NULL, NULL); }

static const char *refuses(const struct mask_args *a)
{
    int stride = (int)mask_value(a, params, PARAM_STRIDE);
    if (a->attn->dtype != DTYPE_F32) return "the CPU prediction takes f32";
    return a->attn->block.q % stride || a->attn->block.k % stride
        ? "its stride must divide the blocks"
        : NULL;
}

static void sum_blocks(const struct sums *s, const float *x, ptrdiff_t row, int n, int block, int d,
    bool reverse, float *to)
{
    memset(to, 0, sizeof(float) * (size_t)count_blocks(n, block) * (size_t)s->dim);
    for (int i = 0; i < n; i++) {
        int r = i % block % s->stride;
        float *sum = to + (size_t)(i / block) * (size_t)s->dim +
            (size_t)(reverse ? s->stride - 1 - r : r) * (size_t)d;
        for (int c = 0; c < d; c++) sum[c] += x[i * row + c];
    }
}

/* The logarithm of the largest norm of S values; of a group behind the last one that of nothing. */
static double log_norm(const struct mask_args *a, const float *v, int group, int stride)
{
    const struct attn_args *t = a->attn;
    double most = 0;
    for (int j = group * stride; j < (group + 1) * stride && j < attn_n_kv(t); j++) {
        double square = 0;
        for (int c = 0; c < t->head_dim; c++)
            square += (double)v[j * t->v_row + c] * (double)v[j * t->v_row + c];
        most = fmax(most, sqrt(square));
    }
    return log(most + SMALL);
}

static void weigh_values(const struct mask_args *a, const struct sums *s, const float *v)
{
    const struct attn_args *t = a->attn;
    int nk = count_blocks(attn_n_kv(t), t->block.k), each = t->block.k / s->stride, n = nk * each;
    double mean = 0, square = 0;
    for (int g = 0; g < n; g++) mean += log_norm(a, v, g, s->stride) / n;
    for (int g = 0; g < n; g++) square += pow(log_norm(a, v, g, s->stride) - mean, 2);
    double deviation = n > 1 ? sqrt(square / (n - 1)) : 0,
           lambda = (double)mask_value(a, params, PARAM_LAMBDA);
    for (int j = 0; j < nk; j++) {
        double sum = 0;
        for (int g = j * each; g < (j + 1) * each; g++)
            sum += fmax(0, (log_norm(a, v, g, s->stride) - mean) / (deviation + SMALL));
        s->bonus[j] = (float)(lambda * sum / each);
    }
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    const struct attn_args *t = a->attn;
    struct sums s;
    layout(a, ws, &s);
    int kv = head / (t->n_heads / t->n_kv_heads);
    sum_blocks(&s, (const float *)t->q + head * t->q_head, t->q_row, t->n_q, t->block.q,
        t->head_dim, false, s.q);
    sum_blocks(&s, (const float *)t->k + kv * t->k_head, t->k_row, attn_n_kv(t), t->block.k,
        t->head_dim, true, s.k);
    weigh_values(a, &s, (const float *)t->v + kv * t->v_head);
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head, (void)theta;
    const struct attn_args *t = a->attn;
    struct sums s;
    layout(a, (void *)ws, &s);
    float score[out->n], top = -INFINITY;
    float share = (float)(s.stride * s.stride) / (float)(t->block.q * t->block.k);
    for (int j = 0; j < out->n; j++) {
        score[j] =
            share * cpu_ops()->dot(s.q + (ptrdiff_t)i * s.dim, s.k + (ptrdiff_t)j * s.dim, s.dim) +
            s.bonus[j];
        top = fmaxf(top, score[j]);
    }
    for (int j = 0; j < out->n; j++)
        score[j] = 1 /
            (1 + top - score[j]); /* scores are no logarithms: their exponentials would vanish */
    sheet_rank(a, score, i, out);
    for (int j = 0; j < out->n; j++) {
        if (j < (int)mask_value(a, params, PARAM_SINK)) out->forced[j] |= FORCE_SINK;
        if (j + (int)mask_value(a, params, PARAM_WINDOW) >= out->n)
            out->forced[j] |= FORCE_DIAGONAL;
    }
}

const struct mask_method mask_stem = {
    .name = "stem",
    .ranked = true,
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "products of sums along antidiagonals, and how large the values are",
    .source = "Stem, arXiv 2603.06274",
    .rule = &rule_falling,
    .keep = .5f,
    .any_length = true,
    .looks_ahead = true,
    .params = params,
    .n_params = N_PARAMS,
};

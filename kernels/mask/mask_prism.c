/* Prism (arXiv 2602.08426): a mean over a block cancels what turns fast, so the fast pairs of a
 * rotation and the slow ones are scored apart. In each band z the means of blocks make a softmax of
 * q̄·k̄ / (√d_z τ_z), where τ_z gives the band the temperature that it has within the whole, √(d_z/d)
 * · RMS(Q̄_z)/RMS(Q̄) · RMS(K̄_z)/RMS(K̄), over all blocks of the head. A tile is kept when the cover
 * of either band reaches it: its level is one less the mass in front of it. The bands overlap. As
 * in the public code a last block that is not full is averaged as if zeros filled it; its blocks
 * are 128x128. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask/sheet.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { PARAM_HIGH, PARAM_LOW, N_PARAMS };
static const struct mask_param params[N_PARAMS] = {
    {"high", "share of the channels in the fast band", .5f, .01f, 1, false, NULL},
    {"low", "share of the channels in the slow band", .75f, .01f, 1, false, NULL},
};

struct bands {
    int high, low, dim; /* channels; dim is their sum */
    float *q,
        *k; /* [n_qblocks, dim], [n_kblocks, dim]: the fast band, then the slow one, of each mean */
    float *scale; /* [2] 1 / (√d_z τ_z) */
    float *mean;  /* [head_dim] scratch */
};

static int channels(const struct mask_args *a, int param)
{
    int pairs = (int)(mask_value(a, params, param) * (float)a->attn->head_dim / 2 + .5f);
    return 2 * (pairs > 0 ? pairs : 1);
}

static size_t layout(const struct mask_args *a, void *ws, struct bands *b)
{
    const struct attn_args *t = a->attn;
    size_t nq = (size_t)count_blocks(t->n_q, t->block.q),
           nk = (size_t)count_blocks(attn_n_kv(t), t->block.k);
    struct bands x = {.high = channels(a, PARAM_HIGH), .low = channels(a, PARAM_LOW)};
    x.dim = x.high + x.low;
    x.q = ws;
    size_t q = nq * (size_t)x.dim, k = nk * (size_t)x.dim;
    if (ws) {
        x.k = x.q + q;
        x.scale = x.k + k;
        x.mean = x.scale + 2;
        *b = x;
    }
    return ((q + k + 2 + (size_t)t->head_dim) * sizeof(float) + 63) / 64 * 64;
}

static size_t workspace(const struct mask_args *a) { return layout(a, NULL, NULL); }

static const char *refuses(const struct mask_args *a)
{
    if (a->attn->dtype != DTYPE_F32) return "the CPU prediction takes f32";
    return a->attn->head_dim % 2 ? "head_dim is odd, so its channels do not turn in pairs" : NULL;
}

/* Means of blocks of n rows, as bands; adds to the sums of squares of all channels and of each
 * band. */
static void pool(const struct bands *b, const float *x, ptrdiff_t row, int n, int block, int d,
    float *to, double *squares)
{
    for (int i = 0; i * block < n; i++, to += b->dim) {
        int rows = n - i * block < block ? n - i * block : block, half = d / 2;
        memset(b->mean, 0, sizeof(float) * (size_t)d);
        cpu_ops()->pool_sum(x + (ptrdiff_t)i * block * row, row, rows, d, b->mean);
        for (int c = 0; c < d; c++) {
            b->mean[c] /= (float)block;
            squares[0] += (double)b->mean[c] * (double)b->mean[c];
        }
        memcpy(to, b->mean, sizeof(float) * (size_t)(b->high / 2));
        memcpy(to + b->high / 2, b->mean + half, sizeof(float) * (size_t)(b->high / 2));
        memcpy(to + b->high, b->mean + half - b->low / 2, sizeof(float) * (size_t)(b->low / 2));
        memcpy(to + b->high + b->low / 2, b->mean + d - b->low / 2,
            sizeof(float) * (size_t)(b->low / 2));
        for (int c = 0; c < b->dim; c++)
            squares[c < b->high ? 1 : 2] += (double)to[c] * (double)to[c];
    }
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    const struct attn_args *t = a->attn;
    struct bands b;
    layout(a, ws, &b);
    int d = t->head_dim;
    double of_q[3] = {0}, of_k[3] = {0};
    const float *k = (const float *)t->k + head / (t->n_heads / t->n_kv_heads) * t->k_head;
    pool(&b, (const float *)t->q + head * t->q_head, t->q_row, t->n_q, t->block.q, d, b.q, of_q);
    pool(&b, k, t->k_row, attn_n_kv(t), t->block.k, d, b.k, of_k);
    for (int z = 0; z < 2; z++) {
        /* √(d_z/d) RMS RMS / (RMS RMS): the counts of blocks cancel, those of channels leave
         * √(d/d_z) */
        int n = z ? b.low : b.high;
        double all = fmax(sqrt(of_q[0] * of_k[0]), 1e-12),
               of_band = sqrt(of_q[z + 1] * of_k[z + 1]);
        double tau = sqrt((double)n / d) * of_band / all * d / n;
        b.scale[z] = tau > 0 ? (float)(1 / (sqrt((double)n) * tau)) : 0;
    }
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head, (void)theta;
    struct bands b;
    layout(a, (void *)ws, &b);
    float p[out->n];
    int order[out->n];
    struct mask_row band = {.n = out->n, .p = p};
    mask_force_common(out, a->attn->block, a->attn->q_start / a->attn->block.q + i);
    for (int z = 0; z < 2; z++) {
        int first = z ? b.high : 0, n = z ? b.low : b.high;
        float top = -INFINITY;
        double sum = 0, before = 0;
        for (int j = 0; j < out->n; j++) {
            p[j] = b.scale[z] *
                cpu_ops()->dot(
                    b.q + (ptrdiff_t)i * b.dim + first, b.k + (ptrdiff_t)j * b.dim + first, n);
            top = fmaxf(top, p[j]);
        }
        for (int j = 0; j < out->n; j++) sum += (double)(p[j] = fmaxf(expf(p[j] - top), FLT_MIN));
        int ranked = mask_order(&band, order);
        for (int r = 0; r < ranked; r++) {
            int j = order[r];
            float level = fmaxf((float)(1 - before / sum), FLT_MIN);
            out->p[j] = z && out->p[j] > level ? out->p[j] : level;
            before += (double)p[j];
        }
    }
}

const struct mask_method mask_prism = {
    .name = "prism",
    .ranked = true,
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "means of blocks, fast and slow channels apart, the cover of either",
    .source = "Prism, arXiv 2602.08426",
    .rule = &rule_level,
    .keep = .95f,
    .any_length = true,
    .looks_ahead = true,
    .params = params,
    .n_params = N_PARAMS,
};

/* SpargeAttn's prediction: mean rows of blocks stand for their blocks when these are self-similar
 * (METHOD 2). */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { MAX_HEAD_DIM = 256 };

struct pooled {
    float *q_mean, *q_sim; /* [n_qblocks, d], [n_qblocks] */
    float *k_mean, *k_sim; /* [n_kblocks, d], [n_kblocks] */
    float *scratch;        /* [2, d] */
};

static int count_blocks(int n, int block) { return (n + block - 1) / block; }

static struct pooled layout(const struct mask_args *a, void *ws)
{
    const struct attn_args *t = a->attn;
    size_t d = (size_t)t->head_dim, nq = (size_t)count_blocks(t->n_q, t->block.q);
    size_t nk = (size_t)count_blocks(attn_n_kv(t), t->block.k);
    struct pooled p = {.q_mean = ws};
    p.q_sim = p.q_mean + nq * d;
    p.k_mean = p.q_sim + nq;
    p.k_sim = p.k_mean + nk * d;
    p.scratch = p.k_sim + nk;
    return p;
}

static size_t workspace(const struct mask_args *a)
{
    const struct attn_args *t = a->attn;
    size_t d = (size_t)t->head_dim, nq = (size_t)count_blocks(t->n_q, t->block.q);
    size_t nk = (size_t)count_blocks(attn_n_kv(t), t->block.k);
    return ((nq + nk) * (d + 1) + 2 * d + 15) / 16 * 16 * sizeof(float);
}

static const char *refuses(const struct mask_args *a)
{
    if (a->attn->head_dim > MAX_HEAD_DIM) return "head_dim over 256";
    return a->attn->dtype == DTYPE_F32 ? NULL : "the CPU prediction takes f32";
}

/* ‖mean of the unit rows‖², which is the mean cosine over all pairs of rows. */
static float similarity(const struct cpu_ops *ops, const float *x, ptrdiff_t row, int n, int d,
    const float *centre, float *unit)
{
    memset(unit, 0, sizeof *unit * (size_t)d);
    ops->pool_unit(x, row, n, d, centre, unit);
    return ops->dot(unit, unit, d) / ((float)n * (float)n);
}

static void pool_queries(
    const struct mask_args *a, const struct cpu_ops *ops, int head, struct pooled *p)
{
    const struct attn_args *t = a->attn;
    const float *q = (const float *)t->q + head * t->q_head;
    int d = t->head_dim;
    float *zero = p->scratch, *unit = p->scratch + d;
    memset(zero, 0, sizeof *zero * (size_t)d);
    for (int i = 0; i * t->block.q < t->n_q; i++) {
        int row0 = i * t->block.q, n = t->n_q - row0 < t->block.q ? t->n_q - row0 : t->block.q;
        const float *x = q + row0 * t->q_row;
        float *mean = p->q_mean + i * d;
        memset(mean, 0, sizeof *mean * (size_t)d);
        ops->pool_sum(x, t->q_row, n, d, mean);
        for (int c = 0; c < d; c++) mean[c] /= (float)n;
        p->q_sim[i] = similarity(ops, x, t->q_row, n, d, zero, unit);
    }
}

static void pool_keys(
    const struct mask_args *a, const struct cpu_ops *ops, int head, struct pooled *p)
{
    const struct attn_args *t = a->attn;
    const float *k = (const float *)t->k + head / (t->n_heads / t->n_kv_heads) * t->k_head;
    int d = t->head_dim, n_kv = attn_n_kv(t), bk = t->block.k, nb = count_blocks(n_kv, bk);
    for (int j = 0; j < nb; j++) { /* sums first: the global centre needs all of them */
        float *sum = p->k_mean + j * d;
        memset(sum, 0, sizeof *sum * (size_t)d);
        ops->pool_sum(
            k + j * bk * t->k_row, t->k_row, n_kv - j * bk < bk ? n_kv - j * bk : bk, d, sum);
    }
    float *centre = p->scratch, *unit = p->scratch + d;
    double total[MAX_HEAD_DIM] = {0};
    for (int j = 0; j < nb && a->smooth_k == SMOOTH_K_GLOBAL; j++)
        for (int c = 0; c < d; c++) total[c] += (double)p->k_mean[j * d + c];
    for (int j = 0; j < nb; j++) {
        int n = n_kv - j * bk < bk ? n_kv - j * bk : bk;
        float *mean = p->k_mean + j * d;
        for (int c = 0; c < d; c++) {
            if (a->smooth_k == SMOOTH_K_RUNNING) total[c] += (double)mean[c];
            int seen = a->smooth_k == SMOOTH_K_GLOBAL ? n_kv : j * bk + n;
            centre[c] = a->smooth_k == SMOOTH_K_OFF ? 0 : (float)(total[c] / seen);
            mean[c] /= (float)n;
        }
        p->k_sim[j] = similarity(ops, k + j * bk * t->k_row, t->k_row, n, d, centre, unit);
    }
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    struct pooled p = layout(a, ws);
    pool_queries(a, cpu_ops(), head, &p);
    pool_keys(a, cpu_ops(), head, &p);
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head;
    const struct attn_args *t = a->attn;
    struct pooled p = layout(a, (void *)ws);
    int d = t->head_dim, qb = t->q_start / t->block.q + i;
    const float *q = p.q_mean + i * d;
    mask_force_common(out, t->block, qb);
    float top = -INFINITY;
    bool q_similar = p.q_sim[i] > theta;
    for (int j = 0; j < out->n; j++) {
        bool k_similar = p.k_sim[j] > theta;
        out->forced[j] |=
            (uint8_t)((q_similar ? 0 : FORCE_THETA_Q) | (k_similar ? 0 : FORCE_THETA_K));
        out->p[j] = k_similar ? cpu_ops()->dot(q, p.k_mean + j * d, d) * t->scale : -INFINITY;
        if (out->p[j] > top) top = out->p[j];
    }
    double sum = 0;
    for (int j = 0; j < out->n; j++) {
        if (out->p[j] == -INFINITY) {
            out->p[j] = 0;
            continue;
        }
        /* an eligible tile never ranks as impossible */
        out->p[j] = fmaxf(expf(out->p[j] - top), FLT_MIN);
        sum += (double)out->p[j];
    }
    for (int j = 0; j < out->n && sum > 0; j++)
        if (out->p[j] > 0) out->p[j] = fmaxf((float)((double)out->p[j] / sum), FLT_MIN);
}

const struct mask_method mask_sparge = {
    .name = "sparge",
    .ranked = true,
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "means of blocks, where the rows of a block are alike",
    .source = "SpargeAttn, arXiv 2502.18137",
    .takes_theta = true,
};

/* FlexPrefill (arXiv 2502.20766): the last block of rows decides for the head. When the mean of its
 * queries against means of key blocks tells the same as its true attention does, by the square root
 * of the Jensen-Shannon divergence, blocks are ranked by means over the whole map at once, as far
 * as a share gamma of its mass; else as many key blocks and block distances are drawn as single
 * keys and distances reach gamma, over 128. First keys and the diagonal are kept. All as in the
 * public code, where distances are cut into blocks from the far end. It is defined for square
 * blocks. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask/last_rows.h"
#include "kernels/mask/sheet.h"

#include <math.h>
#include <string.h>

enum { PARAM_GAMMA, PARAM_TAU, PARAM_LEAST, N_PARAMS };
static const struct mask_param params[N_PARAMS] = {
    {"gamma", "share of the mass to reach", .9f, 0, 1, false, NULL},
    {"tau", "divergence under which means are trusted", .1f, 0, 1, false, NULL},
    {"least", "key blocks and block distances at least", 1, 1, 1 << 20, true, NULL},
};
enum { PER_BLOCK = 128 }; /* keys or distances that stand for a block, whatever its size */

struct flex {
    uint8_t *kept;                     /* [n_qblocks, n_kblocks] */
    float *row, *by_key, *by_distance; /* [n_kv] */
    float *k, *q;                      /* [n_kblocks, d], [d] means */
    float *blocks;                     /* [n_kblocks] of one thing or another */
    float *map;                        /* [n_qblocks, n_kblocks] */
    struct last_rows_rank *ranks;      /* [n_kv], or [n_qblocks, n_kblocks] */
};

static size_t layout(const struct mask_args *a, void *ws, struct flex *x)
{
    const struct attn_args *t = a->attn;
    size_t n = (size_t)attn_n_kv(t), d = (size_t)t->head_dim,
           nk = (size_t)count_blocks(attn_n_kv(t), t->block.k),
           map = (size_t)count_blocks(t->n_q, t->block.q) * nk, ranks = map > n ? map : n;
    size_t floats = 3 * n + (nk + 1) * d + nk + map + 2 * ranks;
    if (ws) {
        x->row = ws;
        x->by_key = x->row + n;
        x->by_distance = x->by_key + n;
        x->k = x->by_distance + n;
        x->q = x->k + nk * d;
        x->blocks = x->q + d;
        x->map = x->blocks + nk;
        x->ranks = (struct last_rows_rank *)(x->map + map);
        x->kept = (uint8_t *)(x->map + map + 2 * ranks);
    }
    return (floats * sizeof(float) + map + 63) / 64 * 64;
}

static size_t workspace(const struct mask_args *a) { return layout(a, NULL, NULL); }

static const char *refuses(const struct mask_args *a)
{
    if (a->attn->dtype != DTYPE_F32) return "the CPU prediction takes f32";
    return a->attn->block.q != a->attn->block.k
        ? "is defined for square blocks: give --block 128x128 or 64x64"
        : NULL;
}

static void mean_rows(const float *x, ptrdiff_t row, int n, int d, float *to)
{
    memset(to, 0, sizeof *to * (size_t)d);
    cpu_ops()->pool_sum(x, row, n, d, to);
    for (int c = 0; c < d; c++) to[c] /= (float)n;
}

/* scores → probabilities */
static void soften(float *x, int n)
{
    float top = -INFINITY;
    double sum = 0;
    for (int j = 0; j < n; j++) top = fmaxf(top, x[j]);
    for (int j = 0; j < n; j++) sum += (double)(x[j] = expf(x[j] - top));
    for (int j = 0; j < n; j++) x[j] = (float)((double)x[j] / sum);
}

/* Blocks that so many single ones stand for as reach gamma, and the one behind them. */
static int count_cover(const struct mask_args *a, const float *sums, int n, int rows, int n_blocks,
    struct last_rows_rank *ranks)
{
    double sum = 0, gamma = (double)mask_value(a, params, PARAM_GAMMA);
    int within = 0, least = (int)mask_value(a, params, PARAM_LEAST);
    last_rows_sort(sums, n, ranks);
    while (within < n && (sum += (double)ranks[within].value / rows) <= gamma) within++;
    int blocks = (within + 1) / PER_BLOCK + 1;
    blocks = blocks < least ? least : blocks;
    return blocks < n_blocks ? blocks : n_blocks;
}

/* √JS of two distributions over blocks. */
static double divergence(const float *p, const float *q, int n)
{
    double sum = 0;
    for (int j = 0; j < n; j++) {
        double x = (double)p[j], y = (double)q[j], m = (x + y) / 2;
        sum += (x > 0 ? x * log(x / m) : 0) / 2 + (y > 0 ? y * log(y / m) : 0) / 2;
    }
    return sqrt(fmax(sum, 0));
}

/* Means of the whole map at once. */
static void keep_by_means(const struct mask_args *a, const struct flex *x, int head, int nk)
{
    const struct attn_args *t = a->attn;
    int nq = count_blocks(t->n_q, t->block.q), first = t->q_start / t->block.q, b = t->block.q,
        n = 0, d = t->head_dim;
    const float *q = (const float *)t->q + head * t->q_head;
    for (int i = 0; i < nq; i++) {
        float *row = x->map + n;
        mean_rows(q + (ptrdiff_t)i * b * t->q_row, t->q_row,
            t->n_q - i * b < b ? t->n_q - i * b : b, d, x->q);
        for (int j = 0; j <= first + i; j++)
            row[j] = cpu_ops()->dot(x->q, x->k + (ptrdiff_t)j * d, d) * t->scale;
        soften(row, first + i + 1);
        n += first + i + 1;
    }
    double sum = 0, most = (double)mask_value(a, params, PARAM_GAMMA) * nq;
    last_rows_sort(x->map, n, x->ranks);
    for (int r = 0; r < n && (sum += (double)x->ranks[r].value) <= most; r++) {
        int at = x->ranks[r].at, i = 0;
        for (; at > first + i; i++) at -= first + i + 1;
        x->kept[(size_t)i * (size_t)nk + (size_t)at] = 1;
    }
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    const struct attn_args *t = a->attn;
    struct flex x;
    layout(a, ws, &x);
    int n = attn_n_kv(t), b = t->block.q, nk = count_blocks(n, b), nq = count_blocks(t->n_q, b),
        first = t->q_start / b, d = t->head_dim;
    memset(x.kept, n <= 2 * b, (size_t)nq * (size_t)nk);
    if (n <= 2 * b) return; /* too short to choose from */
    const float *k = (const float *)t->k + head / (t->n_heads / t->n_kv_heads) * t->k_head;
    int rows = last_rows_sums(a, head, b, x.row, x.by_key, x.by_distance);
    int keys = count_cover(a, x.by_key, n, rows, nk, x.ranks),
        distances = count_cover(a, x.by_distance, n, rows, nk, x.ranks);
    for (int j = 0; j < nk; j++)
        mean_rows(k + (ptrdiff_t)j * b * t->k_row, t->k_row, n - j * b < b ? n - j * b : b, d,
            x.k + (ptrdiff_t)j * d);
    mean_rows((const float *)t->q + head * t->q_head + (ptrdiff_t)(t->n_q - rows) * t->q_row,
        t->q_row, rows, d, x.q);
    for (int j = 0; j < nk; j++)
        x.map[j] = cpu_ops()->dot(x.q, x.k + (ptrdiff_t)j * d, d) * t->scale;
    soften(x.map, nk);
    memset(x.blocks, 0, sizeof *x.blocks * (size_t)nk);
    for (int j = 0; j < n; j++) x.blocks[j / b] += x.by_key[j] / (float)rows;
    bool trusted = divergence(x.map, x.blocks, nk) < (double)mask_value(a, params, PARAM_TAU);
    if (trusted)
        keys = distances = (int)mask_value(a, params, PARAM_LEAST) < nk
            ? (int)mask_value(a, params, PARAM_LEAST)
            : nk;
    x.blocks[0] = INFINITY;
    last_rows_sort(x.blocks, nk, x.ranks);
    for (int r = 0; r < keys; r++)
        for (int i = 0; i < nq; i++)
            if (x.ranks[r].at <= first + i)
                x.kept[(size_t)i * (size_t)nk + (size_t)x.ranks[r].at] = 1;
    /* distances in blocks from the far end: the nearest ones may be fewer than a block */
    memset(x.blocks, 0, sizeof *x.blocks * (size_t)nk);
    for (int o = 0; o < n; o++) x.blocks[nk - 1 - (n - 1 - o) / b] += x.by_distance[o];
    x.blocks[0] = INFINITY;
    last_rows_sort(x.blocks, nk, x.ranks);
    for (int r = 0; r < distances; r++)
        for (int i = 0; i < nq; i++)
            if (x.ranks[r].at <= first + i)
                x.kept[(size_t)i * (size_t)nk + (size_t)(first + i - x.ranks[r].at)] = 1;
    if (trusted) keep_by_means(a, &x, head, nk);
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head, (void)theta;
    struct flex x;
    layout(a, (void *)ws, &x);
    int nk = count_blocks(attn_n_kv(a->attn), a->attn->block.k);
    mask_force_common(out, a->attn->block, a->attn->q_start / a->attn->block.q + i);
    for (int j = 0; j < out->n; j++) out->p[j] = x.kept[(size_t)i * (size_t)nk + (size_t)j];
}

const struct mask_method mask_flexprefill = {
    .name = "flexprefill",
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "as the last rows say: means of blocks over the whole map, or keys and distances",
    .source = "FlexPrefill, arXiv 2502.20766",
    .any_length = true,
    .looks_ahead = true,
    .params = params,
    .n_params = N_PARAMS,
};

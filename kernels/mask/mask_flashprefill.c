/* FlashPrefill (arXiv 2603.06199): every query row against the means of key blocks. A row counts
 * for a block when it stands at its last key or behind it. Scores of a tile are exponentials summed
 * over rows, all of one query block against one maximum, and what reaches a share of the largest is
 * kept; so are sink, window, and every tile of the last query blocks, which the public code takes
 * from the length of the whole prompt. Its blocks are 128x128; the definition holds for all. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask/sheet.h"

#include <math.h>
#include <string.h>

enum { PARAM_SINK, PARAM_WINDOW, PARAM_LAST, N_PARAMS };
static const struct mask_param params[N_PARAMS] = {
    {"sink", "first key blocks that are always kept", 2, 1, 64, true, NULL},
    {"window", "nearest key blocks that are always kept", 4, 1, 1024, true, NULL},
    {"last", "last query blocks that run dense", 2, 0, 64, true, NULL},
};

struct means {
    struct sheet sheet;
    float *logs; /* [n_rows, n_kblocks] scores in powers of two, by row; kept as they are until a
                    row of the map asks */
};

struct folding {
    const struct mask_args *a;
    struct means *m;
};

static size_t layout(const struct mask_args *a, void *ws, struct means *m)
{
    const struct attn_args *t = a->attn;
    size_t sheet = sheet_layout(a, t->head_dim, 1, t->block.k, ws, ws ? &m->sheet : NULL);
    size_t nk = (size_t)count_blocks(attn_n_kv(t), t->block.k),
           nq = (size_t)count_blocks(t->n_q, t->block.q);
    if (ws) m->logs = (float *)((char *)ws + sheet);
    return sheet + (2 * nq * nk * sizeof(float) + 63) / 64 * 64;
}

static size_t workspace(const struct mask_args *a) { return layout(a, NULL, NULL); }

static const char *refuses(const struct mask_args *a)
{
    return a->attn->dtype == DTYPE_F32 ? NULL : "the CPU prediction takes f32";
}

/* A running maximum and sum for every tile of the row's query block. */
static void fold(void *ctx, int row, float *scores, int n_seen)
{
    struct folding *f = ctx;
    const struct attn_args *t = f->a->attn;
    int nk = count_blocks(attn_n_kv(t), t->block.k),
        behind = (t->q_start + row + 1) / t->block.k; /* whole blocks */
    float *top = f->m->logs + 2 * (size_t)(row / t->block.q) * (size_t)nk, *sum = top + nk;
    for (int j = 0; j < n_seen && j < behind; j++) {
        float m = scores[j] > top[j] ? scores[j] : top[j];
        sum[j] = (top[j] == -INFINITY ? 0 : sum[j] * exp2f(top[j] - m)) + exp2f(scores[j] - m);
        top[j] = m;
    }
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    const struct attn_args *t = a->attn;
    struct means m = {0};
    layout(a, ws, &m);
    struct folding f = {a, &m};
    int d = t->head_dim, n_kv = attn_n_kv(t), bk = t->block.k, nk = count_blocks(n_kv, bk),
        nq = count_blocks(t->n_q, t->block.q);
    const float *q = (const float *)t->q + head * t->q_head;
    const float *k = (const float *)t->k + head / (t->n_heads / t->n_kv_heads) * t->k_head;
    for (int r = 0; r < t->n_q; r++)
        memcpy(m.sheet.rows + (size_t)r * (size_t)d, q + r * t->q_row, sizeof(float) * (size_t)d);
    for (int first = 0; first < nk; first += SHEET_COLS) {
        int n = nk - first < SHEET_COLS ? nk - first : SHEET_COLS;
        memset(m.sheet.cols, 0, sizeof(float) * (size_t)n * (size_t)d);
        for (int c = 0; c < n; c++) {
            int key = (first + c) * bk, keys = n_kv - key < bk ? n_kv - key : bk;
            float *mean = m.sheet.cols + (size_t)c * (size_t)d;
            cpu_ops()->pool_sum(k + key * t->k_row, t->k_row, keys, d, mean);
            for (int e = 0; e < d; e++) mean[e] /= (float)keys;
        }
        sheet_set_cols(&m.sheet, first, n);
    }
    for (size_t i = 0; i < 2 * (size_t)nq * (size_t)nk; i++)
        m.logs[i] = i / (size_t)nk % 2 ? 0 : -INFINITY;
    sheet_run(&m.sheet, t->scale, fold, &f);
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head, (void)theta;
    struct means m = {0};
    layout(a, (void *)ws, &m);
    struct block_shape b = a->attn->block;
    int nk = count_blocks(attn_n_kv(a->attn), b.k), nq = count_blocks(attn_n_kv(a->attn), b.q),
        qb = a->attn->q_start / b.q + i;
    float *top = m.logs + 2 * (size_t)i * (size_t)nk, *sum = top + nk, most = -INFINITY;
    for (int j = 0; j < out->n; j++) most = top[j] > most ? top[j] : most;
    for (int j = 0; j < out->n; j++)
        out->p[j] = top[j] == -INFINITY ? 0 : exp2f(top[j] - most) * sum[j];
    double total = 0;
    for (int j = 0; j < out->n; j++) total += (double)out->p[j];
    mask_force_common(out, b, qb);
    for (int j = 0; j < out->n; j++) {
        if (total > 0) out->p[j] = (float)((double)out->p[j] / total);
        /* in blocks of keys, counted back from the one that the first row of the block stands in */
        if (j < (int)mask_value(a, params, PARAM_SINK)) out->forced[j] |= FORCE_SINK;
        bool near = j + (int)mask_value(a, params, PARAM_WINDOW) > qb * b.q / b.k;
        if (near || qb >= nq - (int)mask_value(a, params, PARAM_LAST))
            out->forced[j] |= FORCE_DIAGONAL;
    }
}

const struct mask_method mask_flashprefill = {
    .name = "flashprefill",
    .ranked = true,
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "query rows against means of key blocks",
    .source = "FlashPrefill, arXiv 2603.06199",
    .rule = &rule_relative,
    .keep = .9f,
    .any_length = true,
    .params = params,
    .n_params = N_PARAMS,
};

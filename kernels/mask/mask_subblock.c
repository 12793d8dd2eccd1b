/* Sub-block scores (SGLang's subblock_sparse): a tile is cut into equal parts on both sides, and
 * the exponentials of the scores between their means are summed: log Σ_ab exp(σ q̄_a·k̄_b), a
 * softmax over the tiles of a row. Theirs is for attention without a causal mask; here a part of
 * the queries meets those parts of the keys that its last row sees the first key of. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask/sheet.h"

#include <math.h>
#include <string.h>

enum { PARAM_QUERIES, PARAM_KEYS, N_PARAMS };
static const struct mask_param params[N_PARAMS] = {
    {"queries", "parts of a query block", 4, 1, 64, true, NULL},
    {"keys", "parts of a key block", 4, 1, 64, true, NULL},
};

struct parts {
    struct sheet sheet;
    float *logs; /* [n_qblocks][2, n_kblocks] largest score of a tile in powers of two, and the sum
                    of 2^(score − largest) */
    int n_kblocks, per_tile, per_block;
};

static size_t layout(const struct mask_args *a, void *ws, struct parts *x)
{
    const struct attn_args *t = a->attn;
    int queries = (int)mask_value(a, params, PARAM_QUERIES),
        keys = (int)mask_value(a, params, PARAM_KEYS);
    size_t sheet = sheet_layout(
        a, t->head_dim, t->block.q / queries, t->block.k / keys, ws, ws ? &x->sheet : NULL);
    size_t nk = (size_t)count_blocks(attn_n_kv(t), t->block.k),
           nq = (size_t)count_blocks(t->n_q, t->block.q);
    if (ws) {
        x->logs = (float *)((char *)ws + sheet);
        x->n_kblocks = (int)nk;
        x->per_tile = keys;
        x->per_block = queries;
    }
    return sheet + (2 * nq * nk * sizeof(float) + 63) / 64 * 64;
}

static size_t workspace(const struct mask_args *a) { return layout(a, NULL, NULL); }

static const char *refuses(const struct mask_args *a)
{
    if (a->attn->dtype != DTYPE_F32) return "the CPU prediction takes f32";
    return a->attn->block.q % (int)mask_value(a, params, PARAM_QUERIES) ||
            a->attn->block.k % (int)mask_value(a, params, PARAM_KEYS)
        ? "its parts must divide the blocks"
        : NULL;
}

static void fold(void *ctx, int row, float *scores, int n_seen)
{
    struct parts *x = ctx;
    float *top = x->logs + 2 * (size_t)(row / x->per_block) * (size_t)x->n_kblocks,
          *sum = top + x->n_kblocks;
    for (int c = 0; c < n_seen; c++) {
        int j = c / x->per_tile;
        float m = scores[c] > top[j] ? scores[c] : top[j];
        sum[j] = (top[j] == -INFINITY ? 0 : sum[j] * exp2f(top[j] - m)) + exp2f(scores[c] - m);
        top[j] = m;
    }
}

/* Means of n rows at a time of x, which has `end` rows. */
static void pool(const float *x, ptrdiff_t row, int end, int at, int n, int d, float *mean)
{
    int rows = end - at < n ? end - at : n;
    memset(mean, 0, sizeof *mean * (size_t)d);
    cpu_ops()->pool_sum(x + at * row, row, rows, d, mean);
    for (int c = 0; c < d; c++) mean[c] /= (float)rows;
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    const struct attn_args *t = a->attn;
    struct parts x = {0};
    layout(a, ws, &x);
    struct sheet *s = &x.sheet;
    int d = t->head_dim, n_kv = attn_n_kv(t);
    const float *q = (const float *)t->q + head * t->q_head;
    const float *k = (const float *)t->k + head / (t->n_heads / t->n_kv_heads) * t->k_head;
    for (int r = 0; r < s->n_rows; r++)
        pool(q, t->q_row, t->n_q, r * s->row_tokens, s->row_tokens, d,
            s->rows + (size_t)r * (size_t)d);
    for (int first = 0; first < s->n_cols; first += SHEET_COLS) {
        int n = s->n_cols - first < SHEET_COLS ? s->n_cols - first : SHEET_COLS;
        for (int c = 0; c < n; c++)
            pool(k, t->k_row, n_kv, (first + c) * s->col_tokens, s->col_tokens, d,
                s->cols + (size_t)c * (size_t)d);
        sheet_set_cols(s, first, n);
    }
    size_t nk = (size_t)x.n_kblocks;
    for (size_t i = 0; i < 2 * (size_t)count_blocks(t->n_q, t->block.q) * nk; i++)
        x.logs[i] = i / nk % 2 ? 0 : -INFINITY;
    sheet_run(s, t->scale, fold, &x);
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head, (void)theta;
    struct parts x = {0};
    layout(a, (void *)ws, &x);
    float *top = x.logs + 2 * (size_t)i * (size_t)x.n_kblocks, *sum = top + x.n_kblocks,
          most = -INFINITY;
    float mass[out->n];
    for (int j = 0; j < out->n; j++) most = top[j] > most ? top[j] : most;
    for (int j = 0; j < out->n; j++) mass[j] = exp2f(top[j] - most) * sum[j];
    sheet_rank(a, mass, i, out);
}

const struct mask_method mask_subblock = {
    .name = "subblock",
    .ranked = true,
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "exponentials of scores between means of parts of a tile",
    .source = "SGLang subblock_sparse",
    .rule = &rule_top_k,
    .keep = .25f,
    .params = params,
    .n_params = N_PARAMS,
};

/* XAttention (arXiv 2503.16428): products of sums along antidiagonals stand for a tile's scores.
 * Every S-th query from the end of its group meets every S-th key from the front of its group: Σ_t
 * q[aS + S−1−t]·k[bS + t], a softmax over b for every a, summed to tiles. Its rule keeps the fewest
 * tiles that reach a share of a row's mass, sink and diagonal counted first. The public code takes
 * blocks of 128x128 and no others; the definition holds for all. */
#include "kernels/mask/sheet.h"

#include <string.h>

static const struct mask_param params[] = {{"stride", "tokens in a group", 8, 2, 64, true, NULL}};

struct groups {
    struct sheet sheet;
    float *mass, *tiles; /* [n_qblocks, n_kblocks], [n_kblocks] */
    int n_kblocks, per_tile, per_block;
};

static int stride_of(const struct mask_args *a) { return (int)mask_value(a, params, 0); }

static size_t layout(const struct mask_args *a, void *ws, struct groups *g)
{
    const struct attn_args *t = a->attn;
    int s = stride_of(a), nk = count_blocks(attn_n_kv(t), t->block.k);
    size_t sheet = sheet_layout(a, s * t->head_dim, s, s, ws, ws ? &g->sheet : NULL);
    size_t nq = (size_t)count_blocks(t->n_q, t->block.q);
    if (ws) {
        g->mass = (float *)((char *)ws + sheet);
        g->tiles = g->mass + nq * (size_t)nk;
        g->n_kblocks = nk;
        g->per_tile = t->block.k / s;
        g->per_block = t->block.q / s;
    }
    return sheet + ((nq + 1) * (size_t)nk * sizeof(float) + 63) / 64 * 64;
}

static size_t workspace(const struct mask_args *a) { return layout(a, NULL, NULL); }

static const char *refuses(const struct mask_args *a)
{
    if (a->attn->dtype != DTYPE_F32) return "the CPU prediction takes f32";
    return a->attn->block.q % stride_of(a) || a->attn->block.k % stride_of(a)
        ? "its stride must divide the blocks"
        : NULL;
}

/* One group of tokens side by side, in order or backwards; zeros where the sequence has ended. */
static void gather(
    const float *x, ptrdiff_t row, int first, int end, int stride, int d, bool backwards, float *to)
{
    for (int t = 0; t < stride; t++) {
        int token = first + (backwards ? stride - 1 - t : t);
        if (token < end) memcpy(to + t * d, x + token * row, sizeof *to * (size_t)d);
        else memset(to + t * d, 0, sizeof *to * (size_t)d);
    }
}

static void fold(void *ctx, int row, float *scores, int n_seen)
{
    struct groups *g = ctx;
    double sum = sheet_exponentiate(scores, n_seen);
    int n = count_blocks(n_seen, g->per_tile);
    for (int j = 0; j < n; j++) {
        float mass = 0;
        for (int c = j * g->per_tile; c < (j + 1) * g->per_tile && c < n_seen; c++)
            mass += scores[c];
        g->tiles[j] = (float)((double)mass / sum);
    }
    sheet_join(
        JOIN_MEAN, g->mass + (size_t)(row / g->per_block) * (size_t)g->n_kblocks, g->tiles, n);
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    const struct attn_args *t = a->attn;
    struct groups g = {0};
    layout(a, ws, &g);
    int d = t->head_dim, s = stride_of(a);
    const float *q = (const float *)t->q + head * t->q_head;
    const float *k = (const float *)t->k + head / (t->n_heads / t->n_kv_heads) * t->k_head;
    for (int r = 0; r < g.sheet.n_rows; r++)
        gather(
            q, t->q_row, r * s, t->n_q, s, d, true, g.sheet.rows + (size_t)r * (size_t)g.sheet.dim);
    for (int first = 0; first < g.sheet.n_cols; first += SHEET_COLS) {
        int n = g.sheet.n_cols - first < SHEET_COLS ? g.sheet.n_cols - first : SHEET_COLS;
        for (int c = 0; c < n; c++)
            gather(k, t->k_row, (first + c) * s, attn_n_kv(t), s, d, false,
                g.sheet.cols + (size_t)c * (size_t)g.sheet.dim);
        sheet_set_cols(&g.sheet, first, n);
    }
    memset(
        g.mass, 0, sizeof *g.mass * (size_t)count_blocks(t->n_q, t->block.q) * (size_t)g.n_kblocks);
    sheet_run(&g.sheet, t->scale / (float)s, fold, &g);
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head, (void)theta;
    struct groups g = {0};
    layout(a, (void *)ws, &g);
    sheet_rank(a, g.mass + (size_t)i * (size_t)g.n_kblocks, i, out);
}

const struct mask_method mask_xattention = {
    .name = "xattention",
    .ranked = true,
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "products of sums along antidiagonals",
    .source = "XAttention, arXiv 2503.16428",
    .rule = &rule_cover,
    .keep = .9f,
    .params = params,
    .n_params = 1,
};

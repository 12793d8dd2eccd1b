/* Ours: how much of a tile its neediest rows may want. Keys of a sub-block lie about their mean in
 * every channel, by so much either way, so a query scores up to Σ_c max(q_c·lo_c, q_c·hi_c) there.
 * With the extremes of the keys that is the bound of Quest (arXiv 2406.10774), which is for
 * decoding; one standard deviation ranks better than these. Queries are pooled by few rows, a
 * softmax over all sub-blocks makes masses of the bounds, and rows of a block join by what the
 * neediest of them want, since a tile that one row needs must be kept (docs/studies/methods.md).
 *
 * What is pooled is rounded to bf16, so that tensor cores multiply the same numbers. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask/sheet.h"

#include <math.h>
#include <string.h>

enum { PARAM_ROWS, PARAM_KEYS, PARAM_WIDTH, PARAM_OVER, PARAM_SPREAD, N_PARAMS };

static const char *const spreads[] = {"range", "std", NULL};
static const struct mask_param params[N_PARAMS] = {
    {"rows", "query rows in a pool", 16, 1, 64, true, NULL},
    {"keys", "keys in a sub-block", 16, 1, 64, true, NULL},
    {"width", "how many times the spread a key may be off", 1, 0, 4, false, NULL},
    {"over", "how rows of a block join", JOIN_RMS, 0, 0, true, sheet_joins},
    {"spread",
        "of keys: half of their range about its middle, or their standard deviation about their "
        "mean",
        1, 0, 0, true, spreads},
};

struct bound {
    struct sheet sheet;
    float *mass;  /* [n_qblocks, n_kblocks] */
    float *tiles; /* [n_kblocks] of one row */
};

struct folding {
    const struct mask_args *a;
    struct bound *b;
    enum sheet_join join;
    int n_kblocks, per_tile, per_block;
};

static size_t layout(const struct mask_args *a, void *ws, struct bound *b)
{
    const struct attn_args *t = a->attn;
    int rows = (int)mask_value(a, params, PARAM_ROWS),
        keys = (int)mask_value(a, params, PARAM_KEYS);
    size_t sheet = sheet_layout(a, 2 * t->head_dim, rows, keys, ws, ws ? &b->sheet : NULL);
    size_t nq = (size_t)count_blocks(t->n_q, t->block.q),
           nk = (size_t)count_blocks(attn_n_kv(t), t->block.k);
    if (ws) {
        b->mass = (float *)((char *)ws + sheet);
        b->tiles = b->mass + nq * nk;
    }
    return sheet + ((nq + 1) * nk * sizeof(float) + 63) / 64 * 64;
}

struct bound_setting bound_setting_of(const struct mask_args *a)
{
    return (struct bound_setting){(int)mask_value(a, params, PARAM_ROWS),
        (int)mask_value(a, params, PARAM_KEYS), (int)mask_value(a, params, PARAM_OVER),
        mask_value(a, params, PARAM_SPREAD) > 0, mask_value(a, params, PARAM_WIDTH)};
}

static size_t workspace(const struct mask_args *a) { return layout(a, NULL, NULL); }

static float rounded(float x) { return bf16_to_f32(f32_to_bf16(x)); }

static const char *refuses(const struct mask_args *a)
{
    int rows = (int)mask_value(a, params, PARAM_ROWS),
        keys = (int)mask_value(a, params, PARAM_KEYS);
    if (a->attn->dtype != DTYPE_F32) return "the CPU prediction takes f32";
    if (a->attn->block.q % rows) return "its rows must divide the query block";
    return a->attn->block.k % keys ? "its keys must divide the key block" : NULL;
}

/* Positive and negative part of the mean: each meets one end of the range. */
static void pool_queries(const struct mask_args *a, int head, struct sheet *s)
{
    const struct attn_args *t = a->attn;
    const float *q = (const float *)t->q + head * t->q_head;
    int d = t->head_dim, size = s->row_tokens;
    for (int r = 0; r < s->n_rows; r++) {
        int n = t->n_q - r * size < size ? t->n_q - r * size : size;
        float *up = s->rows + (size_t)r * (size_t)s->dim, *down = up + d;
        memset(up, 0, sizeof *up * (size_t)d);
        cpu_ops()->pool_sum(q + (ptrdiff_t)r * size * t->q_row, t->q_row, n, d, up);
        for (int c = 0; c < d; c++) {
            float mean = rounded(up[c] / (float)n);
            up[c] = fmaxf(mean, 0);
            down[c] = fminf(mean, 0);
        }
    }
}

/* Highest and lowest value of each channel. kernels/cuda/bound_cuda.cu takes the same steps in the
 * same order. */
static void pool_sub_block(
    const float *k, ptrdiff_t row, int n, int d, struct bound_setting s, float *hi, float *lo)
{
    float *centre = hi, *reach = lo;
    memset(hi, 0, sizeof *hi * 2 * (size_t)d); /* lo stands behind it */
    if (s.deviation) {
        for (int i = 0; i < n; i++)
            for (int c = 0; c < d; c++) centre[c] += k[i * row + c];
        for (int c = 0; c < d; c++) centre[c] /= (float)n;
        for (int i = 0; i < n; i++)
            for (int c = 0; c < d; c++) {
                float off = k[i * row + c] - centre[c];
                reach[c] += off * off;
            }
        for (int c = 0; c < d; c++) reach[c] = sqrtf(reach[c] / (float)n);
    } else {
        memcpy(hi, k, sizeof *hi * (size_t)d);
        memcpy(lo, k, sizeof *lo * (size_t)d);
        for (int i = 1; i < n; i++)
            for (int c = 0; c < d; c++) {
                float x = k[i * row + c];
                hi[c] = x > hi[c] ? x : hi[c];
                lo[c] = x < lo[c] ? x : lo[c];
            }
        for (int c = 0; c < d; c++) {
            float middle = (hi[c] + lo[c]) / 2, half = (hi[c] - lo[c]) / 2;
            centre[c] = middle;
            reach[c] = half;
        }
    }
    for (int c = 0; c < d; c++) {
        float middle = centre[c], half = reach[c] * s.width;
        hi[c] = rounded(middle + half);
        lo[c] = rounded(middle - half);
    }
}

static void pool_keys(const struct mask_args *a, int head, struct sheet *s)
{
    const struct attn_args *t = a->attn;
    const float *k = (const float *)t->k + head / (t->n_heads / t->n_kv_heads) * t->k_head;
    struct bound_setting setting = bound_setting_of(a);
    int n_kv = attn_n_kv(t), size = s->col_tokens;
    for (int first = 0; first < s->n_cols; first += SHEET_COLS) {
        int n = s->n_cols - first < SHEET_COLS ? s->n_cols - first : SHEET_COLS;
        for (int i = 0; i < n; i++) {
            int key = (first + i) * size;
            float *hi = s->cols + (size_t)i * (size_t)s->dim;
            pool_sub_block(k + key * t->k_row, t->k_row, n_kv - key < size ? n_kv - key : size,
                t->head_dim, setting, hi, hi + t->head_dim);
        }
        sheet_set_cols(s, first, n);
    }
}

static void fold(void *ctx, int row, float *scores, int n_seen)
{
    struct folding *f = ctx;
    double sum = sheet_exponentiate(scores, n_seen);
    int n = count_blocks(n_seen, f->per_tile);
    for (int j = 0; j < n; j++) {
        float mass = 0;
        for (int c = j * f->per_tile; c < (j + 1) * f->per_tile && c < n_seen; c++)
            mass += scores[c];
        f->b->tiles[j] = (float)((double)mass / sum);
    }
    sheet_join(
        f->join, f->b->mass + (size_t)(row / f->per_block) * (size_t)f->n_kblocks, f->b->tiles, n);
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    const struct attn_args *t = a->attn;
    struct bound b;
    layout(a, ws, &b);
    int nq = count_blocks(t->n_q, t->block.q), nk = count_blocks(attn_n_kv(t), t->block.k);
    struct folding f = {a, &b, (enum sheet_join)mask_value(a, params, PARAM_OVER), nk,
        t->block.k / b.sheet.col_tokens, t->block.q / b.sheet.row_tokens};
    pool_queries(a, head, &b.sheet);
    pool_keys(a, head, &b.sheet);
    memset(b.mass, 0, sizeof *b.mass * (size_t)nq * (size_t)nk);
    sheet_run(&b.sheet, t->scale, fold, &f);
    for (size_t i = 0; i < (size_t)nq * (size_t)nk && f.join == JOIN_RMS; i++)
        b.mass[i] = sqrtf(b.mass[i]);
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head, (void)theta;
    struct bound b;
    layout(a, (void *)ws, &b);
    sheet_rank(
        a, b.mass + (size_t)i * (size_t)count_blocks(attn_n_kv(a->attn), a->attn->block.k), i, out);
}

const struct mask_method mask_bound = {
    .name = "bound",
    .ranked = true,
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "what a tile may hold for the rows that need it most, by where its keys may lie",
    .source = "this project",
    .rule = &rule_relative,
    .params = params,
    .n_params = N_PARAMS,
};

/* Ours: how much of a tile its neediest rows may want. Keys of a sub-block lie about their mean in
 * every channel, by so much either way, so a query scores up to Σ_c q_c · mean_c + |q_c| · spread_c
 * there. With half of the range for the spread that is the bound of Quest (arXiv 2406.10774), which
 * is for decoding; one standard deviation ranks better. Neighbouring channels spread alike: a group
 * of them shares its mean spread, which loses nothing and halves the products. Queries are pooled
 * by few rows, a softmax over all sub-blocks makes masses of the bounds, and rows of a block join
 * by what the neediest of them want, since a tile that one row needs must be kept
 * (docs/studies/methods.md).
 *
 * What is pooled is rounded to bf16, so that tensor cores multiply the same numbers. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask/sheet.h"

#include <math.h>
#include <string.h>

enum { MAX_HEAD_DIM = 256 };
enum { PARAM_ROWS, PARAM_KEYS, PARAM_WIDTH, PARAM_OVER, PARAM_SPREAD, PARAM_GROUPS, N_PARAMS };

static const char *const spreads[] = {"range", "std", NULL};
static const struct mask_param params[N_PARAMS] = {
    {"rows", "query rows in a pool", 32, 1, 64, true, NULL},
    {"keys", "keys in a sub-block", 16, 1, 64, true, NULL},
    {"width", "how many times the spread a key may be off", 1, 0, 4, false, NULL},
    {"over", "how rows of a block join", JOIN_RMS, 0, 0, true, sheet_joins},
    {"spread",
        "of keys: half of their range about its middle, or their standard deviation about their "
        "mean",
        1, 0, 0, true, spreads},
    {"groups", "channels share their spread by so many groups at most; 0: none does", 16, 0, 64,
        true, NULL},
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

/* Groups of neighbouring pairs that a rotation turns together: channels c and c + d/2. */
static int groups_of(const struct mask_args *a)
{
    int d = a->attn->head_dim, n = (int)mask_value(a, params, PARAM_GROUPS);
    if (n == 0 || n > d / 2) return d;
    while (d / 2 % n) n--;
    return n;
}

/* sums[g] += the channels of group g, by rising channel. */
static void sum_groups(const float *x, int d, int n, float *sums)
{
    int each = n == d ? 1 : d / 2 / n;
    for (int c = 0; c < d;)
        for (int g = 0; g < n; g++)
            for (int i = 0; i < each; i++) sums[g] += x[c++];
}

static size_t layout(const struct mask_args *a, void *ws, struct bound *b)
{
    const struct attn_args *t = a->attn;
    int rows = (int)mask_value(a, params, PARAM_ROWS),
        keys = (int)mask_value(a, params, PARAM_KEYS);
    size_t sheet =
        sheet_layout(a, t->head_dim + groups_of(a), rows, keys, ws, ws ? &b->sheet : NULL);
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
        groups_of(a), mask_value(a, params, PARAM_SPREAD) > 0, mask_value(a, params, PARAM_WIDTH)};
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

/* The mean, and sums of its channels' absolute values by group: what a spread of one costs there.
 */
static void pool_queries(const struct mask_args *a, int head, struct sheet *s)
{
    const struct attn_args *t = a->attn;
    const float *q = (const float *)t->q + head * t->q_head;
    int d = t->head_dim, n_groups = groups_of(a), size = s->row_tokens;
    for (int r = 0; r < s->n_rows; r++) {
        int n = t->n_q - r * size < size ? t->n_q - r * size : size;
        float *mean = s->rows + (size_t)r * (size_t)s->dim, *sums = mean + d;
        memset(mean, 0, sizeof *mean * (size_t)s->dim);
        cpu_ops()->pool_sum(q + (ptrdiff_t)r * size * t->q_row, t->q_row, n, d, mean);
        float size_of[MAX_HEAD_DIM];
        for (int c = 0; c < d; c++) {
            mean[c] = rounded(mean[c] / (float)n);
            size_of[c] = fabsf(mean[c]);
        }
        sum_groups(size_of, d, n_groups, sums);
        for (int g = 0; g < n_groups; g++) sums[g] = rounded(sums[g]);
    }
}

/* Centre and reach of each channel, the reach as the mean over a group. kernels/cuda/bound_cuda.cu
 * takes the same steps in the same order. */
static void pool_sub_block(const float *k, ptrdiff_t row, int n, int d, int n_groups,
    struct bound_setting s, float *centre, float *shared)
{
    float reach[MAX_HEAD_DIM] = {0};
    memset(
        centre, 0, sizeof *centre * (size_t)(d + n_groups)); /* what is shared stands behind it */
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
        float lo[MAX_HEAD_DIM];
        memcpy(centre, k, sizeof *centre * (size_t)d);
        memcpy(lo, k, sizeof *lo * (size_t)d);
        for (int i = 1; i < n; i++)
            for (int c = 0; c < d; c++) {
                float x = k[i * row + c];
                centre[c] = x > centre[c] ? x : centre[c];
                lo[c] = x < lo[c] ? x : lo[c];
            }
        for (int c = 0; c < d; c++) {
            float hi = centre[c];
            centre[c] = (hi + lo[c]) / 2;
            reach[c] = (hi - lo[c]) / 2;
        }
    }
    for (int c = 0; c < d; c++) centre[c] = rounded(centre[c]);
    sum_groups(reach, d, n_groups, shared);
    for (int g = 0; g < n_groups; g++)
        shared[g] = rounded(shared[g] * s.width * (float)n_groups / (float)d);
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
            float *centre = s->cols + (size_t)i * (size_t)s->dim;
            pool_sub_block(k + key * t->k_row, t->k_row, n_kv - key < size ? n_kv - key : size,
                t->head_dim, groups_of(a), setting, centre, centre + t->head_dim);
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

/* MInference (arXiv 2407.02490): each head draws one of three patterns, and a file that was
 * searched for the model says which (engine/tuner/minference.h reads it as it is; without it all
 * heads have the first).
 *
 *   vertical and slash  the last 64 rows of the prompt say which keys all rows see, and at which
 * distances: the largest sums, the first 30 keys and the nearest 100 distances always among them
 *   A-shape             first tokens and last tokens
 *   block               means of blocks, the best so many of a row
 *
 * The public code computes single keys beside blocks of 64; here a tile is kept that holds any of
 * what was chosen, so that short prompts run dense where theirs gather keys. Its blocks are 64x64;
 * the definition holds for all. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask/last_rows.h"
#include "kernels/mask/sheet.h"

#include <math.h>
#include <string.h>

enum { PARAM_VERTICAL, PARAM_SLASH, PARAM_BLOCKS, N_PARAMS };
static const struct mask_param params[N_PARAMS] = {
    {"vertical", "keys that all rows see, where no pattern file says", 1000, 1, 1 << 24, true,
        NULL},
    {"slash", "distances that are seen, where no pattern file says", 6096, 1, 1 << 24, true, NULL},
    {"blocks", "key blocks of a row under the block pattern", 100, 1, 1 << 20, true, NULL},
};
enum { LAST_ROWS = 64, LEAST_KEYS = 30, LEAST_DISTANCES = 50, NEAREST = 100 };

struct lines {
    int *keys, *distances;             /* [n_kv + 1]: how many of the chosen stand below */
    float *q, *k;                      /* block pattern: [n_qblocks, d], [n_kblocks, d] */
    float *row, *by_key, *by_distance; /* [n_kv] */
    struct last_rows_rank *ranks;      /* [n_kv] */
};

static size_t layout(const struct mask_args *a, void *ws, struct lines *x)
{
    const struct attn_args *t = a->attn;
    size_t n = (size_t)attn_n_kv(t) + 1, d = (size_t)t->head_dim;
    size_t q = (size_t)count_blocks(t->n_q, t->block.q) * d,
           k = (size_t)count_blocks(attn_n_kv(t), t->block.k) * d;
    if (ws) {
        x->keys = ws;
        x->distances = x->keys + n;
        x->q = (float *)(x->distances + n);
        x->k = x->q + q;
        x->row = x->k + k;
        x->by_key = x->row + n;
        x->by_distance = x->by_key + n;
        x->ranks = (struct last_rows_rank *)(x->by_distance + n);
    }
    return (7 * n * sizeof(float) + (q + k) * sizeof(float) + 63) / 64 * 64;
}

static size_t workspace(const struct mask_args *a) { return layout(a, NULL, NULL); }

static const char *refuses(const struct mask_args *a)
{
    return a->attn->dtype == DTYPE_F32 ? NULL : "the CPU prediction takes f32";
}

/* The `count` largest of n sums, those that are wanted anyhow first, as running counts. */
static void choose(float *sums, int n, int count, int always_from, int always_end,
    struct last_rows_rank *ranks, int *below)
{
    for (int i = always_from; i < always_end && i < n; i++) sums[i] = INFINITY;
    last_rows_sort(sums, n, ranks);
    memset(below, 0, sizeof *below * (size_t)(n + 1));
    for (int i = 0; i < count; i++) below[ranks[i].at + 1] = 1;
    for (int i = 0; i < n; i++) below[i + 1] += below[i];
}

static void pool(const float *x, ptrdiff_t row, int n, int block, int d, float *to)
{
    memset(to, 0, sizeof *to * (size_t)count_blocks(n, block) * (size_t)d);
    for (int i = 0; i * block < n; i++)
        cpu_ops()->pool_sum(x + (ptrdiff_t)i * block * row, row,
            n - i * block < block ? n - i * block : block, d, to + (ptrdiff_t)i * d);
}

static int wanted(const struct mask_args *a, int head, int param)
{
    int own = param == PARAM_VERTICAL ? a->heads[head].vertical : a->heads[head].slash;
    return own > 0 ? own : (int)mask_value(a, params, param);
}

static int clamp(int x, int least, int most)
{
    return x < least ? (least < most ? least : most) : x < most ? x : most;
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    const struct attn_args *t = a->attn;
    struct lines x;
    layout(a, ws, &x);
    int n = attn_n_kv(t), d = t->head_dim;
    const float *k = (const float *)t->k + head / (t->n_heads / t->n_kv_heads) * t->k_head;
    if (a->heads[head].part == PATTERN_BLOCK) {
        pool((const float *)t->q + head * t->q_head, t->q_row, t->n_q, t->block.q, d, x.q);
        pool(k, t->k_row, n, t->block.k, d, x.k);
    } else if (a->heads[head].part == PATTERN_LINES) {
        last_rows_sums(a, head, LAST_ROWS, x.row, x.by_key, x.by_distance);
        choose(x.by_key, n, clamp(wanted(a, head, PARAM_VERTICAL), LEAST_KEYS, n), 0, LEAST_KEYS,
            x.ranks, x.keys);
        choose(x.by_distance, n, clamp(wanted(a, head, PARAM_SLASH), LEAST_DISTANCES, n), 0,
            NEAREST, x.ranks, x.distances);
    }
}

/* Rows [first, last] of the block, all tiles it may see. */
static void mark_lines(
    const struct mask_args *a, const struct lines *x, int first, int last, struct mask_row *out)
{
    int bk = a->attn->block.k;
    for (int j = 0; j < out->n; j++) {
        int key = j * bk,
            end = key + bk - 1 < last ? key + bk - 1 : last; /* keys that some row sees */
        int least = first > end ? first - end : 0, most = last - key;
        out->p[j] =
            x->keys[end + 1] > x->keys[key] || x->distances[most + 1] > x->distances[least] ? 1 : 0;
    }
}

static void mark_shape(const struct mask_args *a, int head, int first, struct mask_row *out)
{
    int bk = a->attn->block.k,
        oldest = first - wanted(a, head, PARAM_SLASH) + 1; /* that the first row still sees */
    for (int j = 0; j < out->n; j++)
        out->p[j] = j * bk < wanted(a, head, PARAM_VERTICAL) || (j + 1) * bk > oldest ? 1 : 0;
}

static void mark_blocks(
    const struct mask_args *a, const struct lines *x, int i, struct mask_row *out)
{
    int d = a->attn->head_dim, most = (int)mask_value(a, params, PARAM_BLOCKS);
    float score[out->n];
    struct last_rows_rank ranks[out->n];
    for (int j = 0; j < out->n; j++) {
        score[j] = cpu_ops()->dot(x->q + (ptrdiff_t)i * d, x->k + (ptrdiff_t)j * d, d);
        out->p[j] = 0;
    }
    last_rows_sort(score, out->n, ranks);
    for (int r = 0; r < most && r < out->n; r++) out->p[ranks[r].at] = 1;
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)theta;
    const struct attn_args *t = a->attn;
    struct lines x;
    layout(a, (void *)ws, &x);
    int qb = t->q_start / t->block.q + i, first = qb * t->block.q, n_kv = attn_n_kv(t);
    int last = (first + t->block.q < n_kv ? first + t->block.q : n_kv) - 1;
    mask_force_common(out, t->block, qb);
    if (a->heads[head].part == PATTERN_BLOCK) mark_blocks(a, &x, i, out);
    else if (a->heads[head].part == PATTERN_SHAPE) mark_shape(a, head, first, out);
    else mark_lines(a, &x, first, last, out);
}

const struct mask_method mask_minference = {
    .name = "minference",
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "keys and distances that the last rows look at, or the head's pattern of --tuned "
            "PATTERN.json",
    .source = "MInference, arXiv 2407.02490",
    .any_length = true,
    .looks_ahead = true,
    .params = params,
    .n_params = N_PARAMS,
};

/* The definition, one row at a time in fp64: what every other implementation is held against. */
#include "kernels/eight.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static const char *refuses(const struct attn_args *a)
{
    if (a->dtype != DTYPE_F32) return "the reference takes f32";
    if (a->tiles && a->q_start % a->block.q != 0) return "a sparse call starts on a query block";
    if (a->tiles && a->window > 0) return "a windowed call is dense";
    if (a->tiles && a->correct_mean && !attn_is_full(a)) return ATTN_CORRECTS_FULL;
    return eight_refuses(a);
}

/* scores [64, n_kv], then per row: o [64, head_dim], m and l of what was added, and the maximum
 * seen */
static size_t head_bytes(const struct attn_args *a)
{
    size_t bytes = sizeof(double) * PV_UNIT_ROWS * ((size_t)attn_n_kv(a) + (size_t)a->head_dim + 3);
    return (bytes + 63) / 64 * 64;
}

static size_t workspace(const struct attn_args *a)
{
    return (size_t)a->n_heads * head_bytes(a) + eight_bytes(a);
}

struct rows {
    int n, first_pos;
    double *s, *o, *m, *l, *seen;
};

static void score_block(
    const struct attn_args *a, const struct rows *u, int head, int row0, int j0, int j1)
{
    const float *q = (const float *)a->q + head * a->q_head;
    const float *k = (const float *)a->k + head / (a->n_heads / a->n_kv_heads) * a->k_head;
    for (int r = 0; r < u->n; r++)
        for (int j = j0; j < j1; j++) {
            double dot = 0;
            for (int i = 0; i < a->head_dim; i++)
                dot += (double)q[(row0 + r) * a->q_row + i] * (double)k[j * a->k_row + i];
            bool seen = j <= u->first_pos + r && j >= attn_first_key(a, u->first_pos + r);
            u->s[r * attn_n_kv(a) + j] = seen ? dot * (double)a->scale : -INFINITY;
        }
}

/* True when the whole unit skips exp and P·V of this block: METHOD 3. A row whose sum is still
 * empty needs them. */
static bool skip_pv(const struct attn_args *a, const struct rows *u, int head, int j0, int j1)
{
    if (!a->pv_threshold) return false;
    double worst = -INFINITY;
    bool empty = false;
    for (int r = 0; r < u->n; r++) {
        double local = -INFINITY;
        for (int j = j0; j < j1; j++) local = fmax(local, u->s[r * attn_n_kv(a) + j]);
        empty |= u->l[r] == 0;
        u->seen[r] = fmax(u->seen[r], local);
        if (local > -INFINITY) worst = fmax(worst, local - u->seen[r]);
    }
    return !empty && worst * 1.4426950408889634 + (double)a->pv_threshold[head] <= 0;
}

/* What of the probability of key j is left for P·V: e4m3 under a power of two of the row and the 64
 * keys around j. */
static double rounded(const struct attn_args *a, const double *s, int j, int j1, double m, double p)
{
    if (a->pv != PRECISION_FP8 || p == 0) return p;
    double largest = -INFINITY;
    int j0 = j / EIGHT_ROWS * EIGHT_ROWS;
    for (int i = j0; i < j1 && i < j0 + EIGHT_ROWS; i++) largest = fmax(largest, s[i]);
    double power = ceil(largest * 1.4426950408889634) - EIGHT_P_LOG2;
    return (double)e4m3_round((float)exp2(s[j] * 1.4426950408889634 - power)) *
        exp2(power - m * 1.4426950408889634);
}

static void take_block(const struct attn_args *a, struct rows *u, int head, int j0, int j1)
{
    const float *v = (const float *)a->v + head / (a->n_heads / a->n_kv_heads) * a->v_head;
    int d = a->head_dim;
    for (int r = 0; r < u->n; r++) {
        const double *s = u->s + r * attn_n_kv(a);
        double m = u->m[r];
        for (int j = j0; j < j1; j++) m = fmax(m, s[j]);
        if (m == -INFINITY) continue;
        double shrink = exp(u->m[r] - m);
        u->m[r] = m;
        u->l[r] *= shrink;
        for (int i = 0; i < d; i++) u->o[r * d + i] *= shrink;
        for (int j = j0; j < j1; j++) {
            double p = exp(s[j] - m);
            u->l[r] += p;
            p = rounded(a, s, j, j1, m, p);
            for (int i = 0; i < d; i++) u->o[r * d + i] += p * (double)v[j * a->v_row + i];
        }
    }
}

/* Every left-out tile [j0, j1) joins as one key: its mean key and value, as often as it has keys.
 */
static void take_mean(const struct attn_args *a, struct rows *u, int head, int row0, int j0, int j1)
{
    const float *q = (const float *)a->q + head * a->q_head;
    const float *k = (const float *)a->k + head / (a->n_heads / a->n_kv_heads) * a->k_head;
    const float *v = (const float *)a->v + head / (a->n_heads / a->n_kv_heads) * a->v_head;
    int d = a->head_dim, n = j1 - j0;
    for (int r = 0; r < u->n; r++) {
        double dot = 0; /* of the means: the mean of the dots */
        for (int j = j0; j < j1; j++)
            for (int i = 0; i < d; i++)
                dot += (double)q[(row0 + r) * a->q_row + i] * (double)k[j * a->k_row + i];
        double s = dot / n * (double)a->scale, m = fmax(u->m[r], s), shrink = exp(u->m[r] - m);
        u->m[r] = m;
        u->l[r] = u->l[r] * shrink + n * exp(s - m);
        for (int i = 0; i < d; i++) {
            double sum = 0;
            for (int j = j0; j < j1; j++) sum += (double)v[j * a->v_row + i];
            u->o[r * d + i] = u->o[r * d + i] * shrink + exp(s - m) * sum;
        }
    }
}

static void attend_unit(const struct attn_args *a, struct rows *u, int head, int row0,
    const uint64_t *tiles, struct head_ledger *count, bool last_of_block)
{
    int d = a->head_dim, n_kv = attn_n_kv(a), last_pos = u->first_pos + u->n - 1;
    memset(u->o, 0, sizeof(double) * PV_UNIT_ROWS * (size_t)d);
    for (int r = 0; r < u->n; r++) {
        u->m[r] = u->seen[r] = -INFINITY;
        u->l[r] = 0;
    }
    for (int jb = attn_first_key(a, u->first_pos) / a->block.k; jb * a->block.k <= last_pos; jb++) {
        int j0 = jb * a->block.k, j1 = j0 + a->block.k < n_kv ? j0 + a->block.k : n_kv;
        count->pv_units_possible++;
        count->tiles_possible += last_of_block;
        if (tiles && !(tiles[jb / 64] >> jb % 64 & 1)) continue;
        score_block(a, u, head, row0, j0, j1);
        count->tiles_computed += last_of_block;
        if (tiles && skip_pv(a, u, head, j0, j1)) continue;
        take_block(a, u, head, j0, j1);
        count->pv_units_computed++;
    }
    int before = tiles && a->correct_mean ? tiles_before(a->block, u->first_pos / a->block.q) : 0;
    for (int jb = 0; jb < before; jb++) {
        if (tiles[jb / 64] >> jb % 64 & 1) continue;
        take_mean(a, u, head, row0, jb * a->block.k, (jb + 1) * a->block.k);
        count->tiles_corrected += last_of_block;
    }
    float *o = (float *)a->o + head * a->o_head;
    for (int r = 0; r < u->n; r++)
        for (int i = 0; i < d; i++)
            o[(row0 + r) * a->o_row + i] = (float)(u->o[r * d + i] / u->l[r]);
}

struct heads {
    const struct attn_args *a;
    char *ws;
};

static void head_task(void *ctx, int h, int worker)
{
    (void)worker;
    const struct heads *x = ctx;
    const struct attn_args *a = x->a;
    struct rows u = {.s = (double *)(x->ws + (size_t)h * head_bytes(a))};
    u.o = u.s + (size_t)PV_UNIT_ROWS * (size_t)attn_n_kv(a);
    u.m = u.o + PV_UNIT_ROWS * a->head_dim;
    u.l = u.m + PV_UNIT_ROWS;
    u.seen = u.l + PV_UNIT_ROWS;
    struct head_ledger count = {0};
    bool sparse = a->tiles && (!a->head_sparse || a->head_sparse[h]);
    /* Units never straddle a query block; blocks are cut at absolute positions. */
    for (int row = 0; row < a->n_q;) {
        int pos = a->q_start + row;
        int unit_end = (pos / PV_UNIT_ROWS + 1) * PV_UNIT_ROWS;
        u.n = unit_end - pos < a->n_q - row ? unit_end - pos : a->n_q - row;
        u.first_pos = pos;
        bool last = row + u.n == a->n_q || (pos + u.n) % a->block.q == 0;
        const uint64_t *tiles = sparse ? tile_map_row(a->tiles, h, row / a->block.q) : NULL;
        attend_unit(a, &u, h, row, tiles, &count, last);
        row += u.n;
    }
    if (a->ledger) head_ledger_add(&a->ledger[h], &count);
}

static enum status run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)stream;
    struct attn_args e;
    if (!attn_is_full(a)) {
        eight_inputs(a, ws, par, &e);
        ws = (char *)ws + eight_bytes(a);
        a = &e;
    }
    struct heads x = {a, ws};
    if (par) par_for(par, a->n_heads, head_task, &x);
    else
        for (int h = 0; h < a->n_heads; h++) head_task(&x, h, 0);
    return OK;
}

const struct attn_impl attn_ref = {"attn_ref_fp64", refuses, workspace, run};

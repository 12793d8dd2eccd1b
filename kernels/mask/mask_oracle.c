/* Tiles ranked by the attention mass they really hold: computes everything first, so it saves
 * nothing, and is the limit any predictor is judged by: over the rows of a block the largest mass
 * counts, or their root mean square or mean (METHOD 2). θ plays no part. */
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask/sheet.h"

#include <float.h>
#include <math.h>
#include <string.h>

struct truth {
    float *mass; /* [n_qblocks, n_kblocks] over the rows of the block */
    float *kt;   /* [n_kblocks, d, block.k] */
    float *unit; /* q, o and s of an attn_unit */
    float *rows; /* [n_kblocks, 64] mass of each row in each tile */
};

static const struct mask_param params[] = {
    {"over", "how rows of a block join", JOIN_MAX, 0, 0, true, sheet_joins}};

int mask_oracle_over(const struct mask_args *a) { return (int)mask_value(a, params, 0); }

static size_t layout(const struct mask_args *a, void *ws, struct truth *t)
{
    const struct attn_args *at = a->attn;
    size_t d = (size_t)at->head_dim, nq = (size_t)count_blocks(at->n_q, at->block.q);
    size_t nk = (size_t)count_blocks(attn_n_kv(at), at->block.k);
    size_t kt = 0, unit = kt + nk * d * (size_t)at->block.k,
           rows = unit + PV_UNIT_ROWS * (2 * d + 128);
    size_t mass = rows + nk * PV_UNIT_ROWS, end = mass + nq * nk;
    if (ws)
        *t = (struct truth){
            (float *)ws + mass, (float *)ws + kt, (float *)ws + unit, (float *)ws + rows};
    return (end * sizeof(float) + 63) / 64 * 64;
}

static size_t workspace(const struct mask_args *a) { return layout(a, NULL, NULL); }

static const char *refuses(const struct mask_args *a)
{
    return a->attn->dtype == DTYPE_F32 ? NULL : "the CPU oracle takes f32";
}

static void weigh_unit(const struct attn_args *a, const struct cpu_ops *ops, struct attn_unit *u,
    const struct truth *t, enum sheet_join join, float *mass)
{
    size_t tile = (size_t)a->block.k * (size_t)a->head_dim;
    int n_kv = attn_n_kv(a), nb = (u->first_pos + u->n_rows - 1) / a->block.k + 1;
    float m_local[PV_UNIT_ROWS], sum[PV_UNIT_ROWS] = {0};
    for (int pass = 0; pass < 2; pass++)
        for (int j = 0; j < nb; j++) {
            int pos = j * a->block.k, n_keys = n_kv - pos < a->block.k ? n_kv - pos : a->block.k;
            float *rows = t->rows + j * PV_UNIT_ROWS;
            ops->unit_scores(u, t->kt + (size_t)j * tile, a->block.k, pos, n_keys, m_local);
            if (pass == 0) {
                for (int r = 0; r < u->n_rows; r++) u->m[r] = fmaxf(u->m[r], m_local[r]);
                continue;
            }
            memset(rows, 0, PV_UNIT_ROWS * sizeof *rows);
            ops->unit_mass(u, a->block.k, pos, n_keys, rows);
            for (int r = 0; r < u->n_rows; r++) sum[r] += rows[r];
        }
    for (int j = 0; j < nb; j++)
        for (int r = 0; r < u->n_rows; r++) {
            float share = t->rows[j * PV_UNIT_ROWS + r] / sum[r];
            sheet_join(join, &mass[j], &share, 1);
        }
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    const struct attn_args *at = a->attn;
    const struct cpu_ops *ops = cpu_ops();
    struct truth t = {0};
    layout(a, ws, &t);
    int d = at->head_dim, n_kv = attn_n_kv(at), bk = at->block.k, nk = count_blocks(n_kv, bk);
    const float *k = (const float *)at->k + head / (at->n_heads / at->n_kv_heads) * at->k_head;
    for (int j = 0; j < nk; j++)
        ops->pack_keys(k + j * bk * at->k_row, at->k_row, n_kv - j * bk < bk ? n_kv - j * bk : bk,
            d, bk, t.kt + (size_t)j * (size_t)(bk * d));
    struct attn_unit u = {.head_dim = d, .q = t.unit};
    u.o = u.q + PV_UNIT_ROWS * d;
    u.s = u.o + PV_UNIT_ROWS * d;
    enum sheet_join join = (enum sheet_join)mask_oracle_over(a);
    for (int i = 0; i * at->block.q < at->n_q; i++) {
        float *mass = t.mass + i * nk;
        int end = (i + 1) * at->block.q < at->n_q ? (i + 1) * at->block.q : at->n_q;
        memset(mass, 0, sizeof *mass * (size_t)nk);
        for (int row = i * at->block.q; row < end; row += PV_UNIT_ROWS) {
            u.n_rows = end - row < PV_UNIT_ROWS ? end - row : PV_UNIT_ROWS;
            u.first_pos = at->q_start + row;
            ops->unit_begin(&u, (const float *)at->q + row * at->q_row + head * at->q_head,
                at->q_row, at->scale);
            weigh_unit(at, ops, &u, &t, join, mass);
        }
        for (int j = 0; j < nk && join == JOIN_RMS; j++) mass[j] = sqrtf(mass[j]);
    }
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head;
    (void)theta;
    struct truth t = {0};
    layout(a, (void *)ws, &t);
    sheet_rank(a, t.mass + i * count_blocks(attn_n_kv(a->attn), a->attn->block.k), i, out);
}

const struct mask_method mask_oracle = {
    .name = "oracle",
    .ranked = true,
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "tiles by the mass they really hold: the limit of any predictor, no faster than dense",
    .source = "METHOD 2",
    .rule = &rule_relative,
    .params = params,
    .n_params = 1,
};

static size_t no_workspace(const struct mask_args *a)
{
    (void)a;
    return 0;
}

static void nothing_to_prepare(const struct mask_args *a, int head, void *ws)
{
    (void)a, (void)head, (void)ws;
}

static void mass_row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)theta, (void)ws;
    const struct attn_args *at = a->attn;
    int nq = count_blocks(at->n_q, at->block.q), nk = count_blocks(attn_n_kv(at), at->block.k);
    sheet_rank(
        a, (const float *)at->q + ((size_t)head * (size_t)nq + (size_t)i) * (size_t)nk, i, out);
}

const struct mask_method mask_masses = {
    .name = "oracle",
    .ranked = true,
    .refuses = refuses,
    .workspace = no_workspace,
    .prepare = nothing_to_prepare,
    .row = mass_row,
    .rule = &rule_relative,
};

#include "kernels/cpu/attn_mean.h"

#include <math.h>
#include <string.h>

enum { SCORE_STRIDE = 128 }; /* of attn_unit.s */

static int groups_of(int n_tiles) { return (n_tiles + MEAN_GROUP - 1) / MEAN_GROUP; }

size_t attn_means_floats(int n_tiles, int d)
{
    return 2 * (size_t)groups_of(n_tiles) * MEAN_GROUP * (size_t)d;
}

struct attn_means attn_means_at(float *memory, int n_tiles, int block, int d)
{
    return (struct attn_means){
        n_tiles, block, d, memory, memory + attn_means_floats(n_tiles, d) / 2};
}

void attn_means_pool(const struct attn_means *m, const struct cpu_ops *ops, int g, const float *k,
    ptrdiff_t k_row, const float *v, ptrdiff_t v_row)
{
    size_t d = (size_t)m->d, first = (size_t)g * MEAN_GROUP;
    float *keys = m->v + first * d; /* until the values come */
    int n = m->n_tiles - g * MEAN_GROUP < MEAN_GROUP ? m->n_tiles - g * MEAN_GROUP : MEAN_GROUP;
    for (int pass = 0; pass < 2; pass++) {
        const float *from = pass ? v : k;
        ptrdiff_t row = pass ? v_row : k_row;
        memset(keys, 0, sizeof *keys * MEAN_GROUP * d);
        for (int i = 0; i < n; i++) {
            float *mean = keys + (size_t)i * d;
            ops->pool_sum(
                from + (ptrdiff_t)(first + (size_t)i) * m->block * row, row, m->block, m->d, mean);
            for (int c = 0; c < m->d; c++) mean[c] /= (float)m->block;
        }
        if (!pass) ops->pack_keys(keys, m->d, n, m->d, MEAN_GROUP, m->kt + first * d);
    }
}

void attn_means_scores(const struct attn_means *m, const struct cpu_ops *ops, struct attn_unit *u,
    int g, uint64_t left, int n, float *top)
{
    float bias[MEAN_GROUP];
    for (int j = 0; j < MEAN_GROUP; j++)
        bias[j] = left >> j & 1 ? log2f((float)m->block) : MEAN_ABSENT;
    /* in front of every row, so that all of them are seen */
    ops->unit_scores(
        u, m->kt + (size_t)g * MEAN_GROUP * (size_t)m->d, MEAN_GROUP, -MEAN_GROUP, n, top);
    for (int r = 0; r < u->n_rows; r++) {
        float *s = u->s + r * SCORE_STRIDE;
        float most = -INFINITY;
        for (int j = 0; j < n; j++) {
            /* an absent tile's score is anything, NaN too */
            s[j] = bias[j] == MEAN_ABSENT ? MEAN_ABSENT : s[j] + bias[j];
            most = s[j] > most ? s[j] : most;
        }
        top[r] = most;
    }
}

int attn_means_join(const struct attn_means *m, const struct cpu_ops *ops, struct attn_unit *u,
    const uint64_t *tiles, int n_before)
{
    int joined = 0;
    float top[PV_UNIT_ROWS];
    for (int g = 0; g * MEAN_GROUP < n_before; g++) {
        uint64_t left = attn_means_left(tiles[g], g, n_before);
        int n = n_before - g * MEAN_GROUP < MEAN_GROUP ? n_before - g * MEAN_GROUP : MEAN_GROUP;
        if (!left) continue;
        joined += __builtin_popcountll(left);
        attn_means_scores(m, ops, u, g, left, n, top);
        ops->unit_accumulate(
            u, m->v + (size_t)g * MEAN_GROUP * (size_t)m->d, m->d, MEAN_GROUP, -MEAN_GROUP, n, top);
    }
    return joined;
}

/* A random call of attention, and a judge of it: a reading of the definition in fp64, independent
 * of attn_ref, with what a plain f32 computation of the same tiles errs. For check_kernels. */
#ifndef SG_TESTS_KERNELS_ATTN_PROBLEM_H
#define SG_TESTS_KERNELS_ATTN_PROBLEM_H

#include "base/rng.h"
#include "kernels/mask.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, GUARD = 32 };

static const struct block_shape shapes[] = {{128, 64}, {64, 64}, {64, 128}, {128, 128}};
/* The judge's margin to a skip decision, in log2 units, below which f32 may decide otherwise. */
static const double NEAR_TIE = 1e-3;
static const uint32_t POISON = 0x7fc0dead; /* a quiet NaN that no computation makes */

enum map_kind { MAP_FULL, MAP_MINIMAL, MAP_RANDOM, MAP_SPARSE_RANDOM, MAP_HALF, N_MAP_KINDS };

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "check_kernels: out of memory\n");
        exit(3);
    }
    return p;
}

static void *aligned(size_t bytes) { return must(aligned_alloc(64, (bytes + 127) / 64 * 64)); }

struct problem {
    struct attn_args a;
    float *q, *k, *v, *o;
    size_t o_floats;
    double *truth;    /* [n_heads, n_q, d] */
    float *plain;     /* the same in plain f32 */
    double top_score; /* largest |score| of a tile that was used */
    uint8_t *tied;    /* [n_heads, n_q] the row's unit has a decision too close to call */
    struct head_ledger ledger[HEADS];
    int ties[HEADS];
};

static float *fill_rows(struct rng *r, int n, int heads, int d, ptrdiff_t row, ptrdiff_t head,
    size_t floats, float pull, const float *direction)
{
    float *x = aligned(floats * sizeof *x);
    memset(x, 0xff, floats * sizeof *x); /* NaN between the rows */
    for (int h = 0; h < heads; h++) {
        float c = 0;
        for (int t = 0; t < n; t++) {
            if (t % 48 == 0) c = pull * (float)(2 * rng_unit(r) - .8);
            for (int i = 0; i < d; i++)
                x[t * row + h * head + i] = (float)rng_normal(r) + c * direction[i];
        }
    }
    return x;
}

/* Token-major with padding behind heads and rows, or head-major with padding behind each head. */
static size_t choose_strides(
    struct rng *r, int n, int heads, int d, ptrdiff_t *row, ptrdiff_t *head)
{
    int pad = rng_range(r, 0, 3) * 5;
    if (rng_below(r, 2)) {
        *head = d + pad;
        *row = heads * *head + 3 * pad;
        return (size_t)(n * *row);
    }
    *row = d + pad;
    *head = n * *row + 7 * pad;
    return (size_t)(heads * *head);
}

static void problem_open(struct problem *p, struct rng *r, int n_q, int q_start, int n_kv_heads,
    int d, struct block_shape block, float pull)
{
    memset(p, 0, sizeof *p);
    struct attn_args *a = &p->a;
    *a = (struct attn_args){.dtype = DTYPE_F32,
        .n_q = n_q,
        .q_start = q_start,
        .n_heads = HEADS,
        .n_kv_heads = n_kv_heads,
        .head_dim = d,
        .scale = 1 / sqrtf((float)d),
        .block = block};
    float direction[256];
    for (int i = 0; i < d; i++) direction[i] = rng_below(r, 2) ? 1 : -1;
    int n_kv = attn_n_kv(a);
    size_t nq = choose_strides(r, n_q, HEADS, d, &a->q_row, &a->q_head);
    size_t nk = choose_strides(r, n_kv, n_kv_heads, d, &a->k_row, &a->k_head);
    size_t nv = choose_strides(r, n_kv, n_kv_heads, d, &a->v_row, &a->v_head);
    p->o_floats = choose_strides(r, n_q, HEADS, d, &a->o_row, &a->o_head);
    a->q = p->q = fill_rows(r, n_q, HEADS, d, a->q_row, a->q_head, nq, .5f, direction);
    a->k = p->k = fill_rows(r, n_kv, n_kv_heads, d, a->k_row, a->k_head, nk, pull, direction);
    a->v = p->v = fill_rows(r, n_kv, n_kv_heads, d, a->v_row, a->v_head, nv, 0, direction);
    p->o = aligned((p->o_floats + 2 * GUARD) * sizeof *p->o);
    size_t rows = (size_t)HEADS * (size_t)n_q;
    p->truth = aligned(rows * (size_t)d * sizeof *p->truth);
    p->plain = aligned(rows * (size_t)d * sizeof *p->plain);
    p->tied = aligned(rows);
}

static void problem_close(struct problem *p)
{
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->o);
    free(p->truth);
    free(p->plain);
    free(p->tied);
}

static void fill_map(
    struct rng *r, struct tile_map *m, const struct attn_args *a, enum map_kind kind)
{
    m->bits = aligned(tile_map_bytes(m));
    memset(m->bits, 0, tile_map_bytes(m));
    double density = kind == MAP_RANDOM ? rng_unit(r)
        : kind == MAP_HALF              ? .5
        : kind == MAP_FULL              ? 1
        : kind == MAP_SPARSE_RANDOM     ? .12
                                        : 0;
    for (int h = 0; h < m->n_heads; h++)
        for (int i = 0; i < m->n_qblocks; i++) {
            uint64_t *bits = tile_map_row(m, h, i);
            int qb = a->q_start / m->block.q + i, n = tiles_possible(m->block, qb, attn_n_kv(a));
            for (int j = 0; j < n; j++) {
                bool diagonal = (j + 1) * m->block.k > qb * m->block.q;
                /* a map without sink is legal, too */
                bool sink = j == 0 && kind != MAP_SPARSE_RANDOM;
                if (diagonal || sink || rng_unit(r) < density)
                    bits[j / 64] |= (uint64_t)1 << (j % 64);
            }
        }
}

/* A key in front of a row's window, if there is one. */
static bool too_old(const struct attn_args *a, int row, int key)
{
    return a->window > 0 && a->q_start + row - key >= a->window;
}

static double score(const struct attn_args *a, int h, int row, int key)
{
    const float *q = (const float *)a->q + row * a->q_row + h * a->q_head;
    const float *k =
        (const float *)a->k + key * a->k_row + h / (a->n_heads / a->n_kv_heads) * a->k_head;
    double s = 0;
    for (int i = 0; i < a->head_dim; i++) s += (double)q[i] * (double)k[i];
    return s * (double)a->scale;
}

static void plain_row(
    const struct attn_args *a, int h, int row, const uint8_t *used, float *s, float *o)
{
    int kv = h / (a->n_heads / a->n_kv_heads), n = a->q_start + row + 1, d = a->head_dim;
    const float *q = (const float *)a->q + row * a->q_row + h * a->q_head;
    float top = -INFINITY, sum = 0;
    for (int j = 0; j < n; j++) {
        if (!used[j / a->block.k] || too_old(a, row, j)) continue;
        const float *k = (const float *)a->k + j * a->k_row + kv * a->k_head;
        s[j] = 0;
        for (int i = 0; i < d; i++) s[j] += q[i] * k[i];
        s[j] *= a->scale;
        top = fmaxf(top, s[j]);
    }
    memset(o, 0, sizeof *o * (size_t)d);
    for (int j = 0; j < n; j++) {
        if (!used[j / a->block.k] || too_old(a, row, j)) continue;
        const float *v = (const float *)a->v + j * a->v_row + kv * a->v_head;
        float p = expf(s[j] - top);
        sum += p;
        for (int i = 0; i < d; i++) o[i] += p * v[i];
    }
    for (int i = 0; i < d; i++) o[i] /= sum;
}

static void judge_unit(
    struct problem *p, int h, int row0, int row1, const uint64_t *tiles, double *s, float *plain_s)
{
    const struct attn_args *a = &p->a;
    int n_kv = attn_n_kv(a), bk = a->block.k, last = a->q_start + row1 - 1, nb = last / bk + 1,
        rows = row1 - row0;
    int kv = h / (a->n_heads / a->n_kv_heads), d = a->head_dim;
    double m[PV_UNIT_ROWS];
    bool filled[PV_UNIT_ROWS] = {0}, tied = false;
    uint8_t used[64] = {0};
    for (int r = 0; r < rows; r++) m[r] = -INFINITY;
    struct head_ledger *l = &p->ledger[h];
    bool ends_block = row1 == a->n_q || (a->q_start + row1) % a->block.q == 0;
    for (int jb = 0; jb < nb; jb++) {
        int last_key = (jb + 1) * bk - 1;
        if (too_old(a, row0, last_key)) continue; /* for every row of the unit */
        l->pv_units_possible++;
        l->tiles_possible += ends_block;
        if (tiles && !(tiles[jb / 64] >> (jb % 64) & 1)) continue;
        l->tiles_computed += ends_block;
        double worst = -INFINITY;
        bool empty = false;
        for (int r = 0; r < rows; r++) {
            double local = -INFINITY;
            for (int j = jb * bk; j < (jb + 1) * bk && j <= a->q_start + row0 + r; j++) {
                if (too_old(a, row0 + r, j)) continue;
                s[r * n_kv + j] = score(a, h, row0 + r, j);
                local = fmax(local, s[r * n_kv + j]);
            }
            empty |= !filled[r];
            m[r] = fmax(m[r], local);
            if (local > -INFINITY) worst = fmax(worst, (local - m[r]) * 1.44269504088896340736);
        }
        if (tiles && a->pv_threshold && !empty) {
            double margin = worst + (double)a->pv_threshold[h];
            if (a->pv_threshold[h] > 0 && fabs(margin) < NEAR_TIE) tied = true;
            if (margin <= 0) continue;
        }
        used[jb] = 1;
        l->pv_units_computed++;
        for (int r = 0; r < rows; r++) filled[r] |= jb * bk <= a->q_start + row0 + r;
    }
    p->ties[h] += tied;
    for (int r = 0; r < rows; r++) {
        size_t at = (size_t)h * (size_t)a->n_q + (size_t)(row0 + r);
        double *o = p->truth + at * (size_t)d, sum = 0,
               top = -INFINITY; /* skipped tiles may hold larger scores */
        memset(o, 0, sizeof *o * (size_t)d);
        for (int j = 0; j <= a->q_start + row0 + r; j++)
            if (used[j / bk] && !too_old(a, row0 + r, j)) top = fmax(top, s[r * n_kv + j]);
        p->top_score = fmax(p->top_score, fabs(top));
        for (int j = 0; j <= a->q_start + row0 + r; j++) {
            if (!used[j / bk] || too_old(a, row0 + r, j)) continue;
            double e = exp(s[r * n_kv + j] - top);
            sum += e;
            const float *v = (const float *)a->v + j * a->v_row + kv * a->v_head;
            for (int i = 0; i < d; i++) o[i] += e * (double)v[i];
        }
        for (int i = 0; i < d; i++) o[i] /= sum;
        plain_row(a, h, row0 + r, used, plain_s, p->plain + at * (size_t)d);
        p->tied[at] = tied;
    }
}

static void judge(struct problem *p)
{
    const struct attn_args *a = &p->a;
    double *s = aligned(sizeof *s * PV_UNIT_ROWS * (size_t)attn_n_kv(a));
    float *plain_s = aligned(sizeof *plain_s * (size_t)attn_n_kv(a));
    memset(p->ledger, 0, sizeof p->ledger);
    memset(p->ties, 0, sizeof p->ties);
    p->top_score = 0;
    for (int h = 0; h < HEADS; h++) {
        bool sparse = a->tiles && (!a->head_sparse || a->head_sparse[h]);
        for (int row = 0; row < a->n_q;) {
            int end = (a->q_start + row) / PV_UNIT_ROWS * PV_UNIT_ROWS + PV_UNIT_ROWS - a->q_start;
            if (end > a->n_q) end = a->n_q;
            int i = (a->q_start + row) / a->block.q - a->q_start / a->block.q;
            judge_unit(p, h, row, end, sparse ? tile_map_row(a->tiles, h, i) : NULL, s, plain_s);
            row = end;
        }
    }
    free(s);
    free(plain_s);
}

static float *out_of(struct problem *p) { return p->o + GUARD; }

#endif

/* Every attention implementation of the registry against the definition, on fresh random inputs.
 *
 * The judge here is a second fp64 reading of the definition, independent of attn_ref, so that the
 * reference is checked as well. An implementation may err by at most twice what a plain f32
 * computation of the same tiles errs.
 *
 *   check_kernels [--seed N] [--rounds N] [--impl NAME]     exit code 1 when anything is wrong
 *   check_kernels --bench [--threads N]                     speed against the sgemm rate of this
 * machine
 */
#include "base/clock.h"
#include "base/rng.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/mask.h"
#include "kernels/registry.h"

#include <cblas.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, GUARD = 32, MAX_IMPLS = 16 };

static const int row_counts[] = {1, 2, 63, 64, 65, 127, 128, 129, 200, 257, 511, 640};
static const int head_dims[] = {16, 64, 80, 96, 128};
static const struct block_shape shapes[] = {{128, 64}, {64, 64}, {64, 128}, {128, 128}};
static const float lambdas[] = {0, 1, 5, 50};
enum {
    N_ROW_COUNTS = sizeof row_counts / sizeof *row_counts,
    N_DIMS = sizeof head_dims / sizeof *head_dims,
    N_SHAPES = 4,
};
/* The judge's margin to a skip decision, in log2 units, below which f32 may decide otherwise. */
static const double NEAR_TIE = 1e-3;
static const uint32_t POISON = 0x7fc0dead; /* a quiet NaN that no computation makes */

enum map_kind { MAP_FULL, MAP_MINIMAL, MAP_RANDOM, MAP_SPARSE_RANDOM, MAP_HALF, N_MAP_KINDS };

struct tally {
    double worst; /* error over that of plain f32 */
    long calls, ties, failures;
    char where[160];
};

static struct tally tallies[MAX_IMPLS];
static const char *only_impl;
static struct par *pools[4]; /* [t]: t threads */
static char label[160];

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "check_kernels: out of memory\n");
        exit(3);
    }
    return p;
}

static void *aligned(size_t bytes) { return must(aligned_alloc(64, (bytes + 127) / 64 * 64)); }

static void wrong(int impl, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void wrong(int impl, const char *fmt, ...)
{
    if (tallies[impl].failures++ >= 5) return;
    va_list ap;
    va_start(ap, fmt);
    printf("  WRONG %s: %s: ", attn_impls[impl]->name, label);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
}

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

static bool skips(int i, const struct attn_args *a)
{
    return (only_impl && strcmp(only_impl, attn_impls[i]->name) != 0) || attn_impls[i]->refuses(a);
}

static float *out_of(struct problem *p) { return p->o + GUARD; }

static bool run_impl(const struct attn_impl *impl, int index, struct problem *p, struct par *par)
{
    struct attn_args a = p->a;
    uint32_t *words = (uint32_t *)p->o;
    for (size_t i = 0; i < p->o_floats + 2 * GUARD; i++) words[i] = POISON;
    a.o = out_of(p);
    size_t bytes = impl->workspace(&a);
    if (bytes % 64) wrong(index, "workspace of %zu bytes is no multiple of 64", bytes);
    unsigned char *ws = aligned(bytes + 64);
    memset(ws, 0xfe, bytes + 64);
    bool ok = impl->run(&a, ws, par, NULL) == OK;
    if (!ok) wrong(index, "run failed: %s", status_message());
    for (size_t i = bytes; i < bytes + 64; i++)
        if (ws[i] != 0xfe) {
            wrong(index, "wrote behind its workspace");
            break;
        }
    free(ws);
    return ok;
}

/* Everything outside the rows keeps its poison. */
static void check_padding(int index, struct problem *p)
{
    const struct attn_args *a = &p->a;
    size_t total = p->o_floats + 2 * GUARD;
    uint8_t *inside = must(calloc(total, 1));
    for (int h = 0; h < HEADS; h++)
        for (int r = 0; r < a->n_q; r++)
            memset(inside + GUARD + r * a->o_row + h * a->o_head, 1, (size_t)a->head_dim);
    for (size_t i = 0; i < total; i++) {
        uint32_t word;
        memcpy(&word, p->o + i, sizeof word);
        if (!inside[i] && word != POISON) {
            wrong(index, "wrote outside its rows at float %zu of %zu", i, total);
            break;
        }
    }
    free(inside);
}

/* Judged by the root mean square, which is steady where a maximum over few values is luck; no
 * single value may be off by more than twice that again. */
static void check_values(int index, struct problem *p)
{
    const struct attn_args *a = &p->a;
    double err = 0, plain = 0, size = 0, worst = 0, plain_worst = 0;
    int d = a->head_dim;
    long n = 0;
    for (int h = 0; h < HEADS; h++)
        for (int r = 0; r < a->n_q; r++) {
            size_t at = (size_t)h * (size_t)a->n_q + (size_t)r;
            for (int i = 0; i < d; i++) {
                double t = p->truth[at * (size_t)d + (size_t)i];
                float got = out_of(p)[r * a->o_row + h * a->o_head + i];
                if (!isfinite(got)) {
                    wrong(
                        index, "head %d row %d dim %d is %g, expected %g", h, r, i, (double)got, t);
                    return;
                }
                if (p->tied[at]) continue;
                double e = fabs((double)got - t),
                       f = fabs((double)p->plain[at * (size_t)d + (size_t)i] - t);
                worst = fmax(worst, e);
                plain_worst = fmax(plain_worst, f);
                err += e * e;
                plain += f * f;
                size += t * t;
                n++;
            }
        }
    if (!n) return;
    err = sqrt(err / (double)n);
    plain = sqrt(plain / (double)n);
    /* Never ask for less than rounding the result twice and the scores by half a unit in their last
     * place, or by a whole one where a few rows leave plain f32 room for luck. */
    double of_scores = p->top_score / (a->n_q < 16 ? 1 : 2);
    double floor_error = 0x1p-24 * sqrt(size / (double)n) * (2 + of_scores);
    double unit = fmax(plain, floor_error), ratio = unit > 0 ? err / unit : 0;
    double worst_ratio = unit > 0 ? worst / fmax(plain_worst, 4 * floor_error) : 0;
    if (ratio > tallies[index].worst) {
        tallies[index].worst = ratio;
        snprintf(tallies[index].where, sizeof tallies[index].where, "%s", label);
    }
    if (ratio > 2)
        wrong(index, "error %.3g is %.2f times that of plain f32 (%.3g)", err, ratio, plain);
    if (worst_ratio > 4)
        wrong(index, "largest error %.3g, %.2f times that of plain f32", worst, worst_ratio);
}

static uint64_t far(uint64_t a, uint64_t b) { return a > b ? a - b : b - a; }

static void check_ledger(
    int index, struct problem *p, const struct head_ledger *got, const struct head_ledger *before)
{
    for (int h = 0; h < HEADS; h++) {
        struct head_ledger want = before[h];
        head_ledger_add(&want, &p->ledger[h]);
        /* Units too close to call may fall either way on each of their tiles. */
        uint64_t slack =
            (uint64_t)p->ties[h] * (uint64_t)((attn_n_kv(&p->a) + p->a.block.k - 1) / p->a.block.k);
        if (far(got[h].pv_units_computed, want.pv_units_computed) > slack)
            wrong(index, "head %d: %llu P·V units computed, expected %llu (%d ties)", h,
                (unsigned long long)(got[h].pv_units_computed - before[h].pv_units_computed),
                (unsigned long long)p->ledger[h].pv_units_computed, p->ties[h]);
        want.pv_units_computed = got[h].pv_units_computed;
        if (memcmp(&want, &got[h], sizeof want) != 0)
            wrong(index,
                "head %d: ledger %llu/%llu tiles, %llu units, expected %llu/%llu and %llu, or "
                "foreign fields",
                h, (unsigned long long)got[h].tiles_computed,
                (unsigned long long)got[h].tiles_possible,
                (unsigned long long)got[h].pv_units_possible,
                (unsigned long long)want.tiles_computed, (unsigned long long)want.tiles_possible,
                (unsigned long long)want.pv_units_possible);
    }
}

/* The judge has spoken; now everyone who does not refuse. */
static void check_all(struct problem *p, struct rng *r)
{
    size_t bytes = (p->o_floats + 2 * GUARD) * sizeof *p->o;
    float *first = aligned(bytes);
    for (int i = 0; attn_impls[i]; i++) {
        const struct attn_impl *impl = attn_impls[i];
        if (skips(i, &p->a)) continue;
        struct head_ledger before[HEADS], got[HEADS];
        for (int h = 0; h < HEADS; h++)
            for (size_t w = 0; w < sizeof *before / 8; w++)
                ((uint64_t *)&before[h])[w] = rng_below(r, 1000);
        memcpy(got, before, sizeof got);
        p->a.ledger = got;
        tallies[i].calls++;
        for (int h = 0; h < HEADS; h++) tallies[i].ties += p->ties[h];
        if (!run_impl(impl, i, p, NULL)) continue;
        check_padding(i, p);
        check_values(i, p);
        check_ledger(i, p, got, before);
        memcpy(first, p->o, bytes);
        for (int t = 2; t <= 3 && impl != &attn_ref; t++) {
            struct head_ledger again[HEADS];
            memcpy(again, before, sizeof again);
            p->a.ledger = again;
            if (run_impl(impl, i, p, pools[t]) && memcmp(first, p->o, bytes) != 0)
                wrong(i, "%d threads give other bits than one", t);
            if (memcmp(again, got, sizeof got) != 0)
                wrong(i, "%d threads count another ledger than one", t);
        }
        p->a.ledger = NULL;
    }
    free(first);
}

static void check_dense(struct rng *r, int n, int d, int ratio, struct block_shape block)
{
    int start = rng_below(r, 2) ? 0 : rng_range(r, 1, 300);
    struct problem p;
    problem_open(&p, r, n, start, HEADS / ratio, d, block, .3f);
    snprintf(label, sizeof label, "dense n %d+%d d %d gqa %d", start, n, d, ratio);
    judge(&p);
    check_all(&p, r);
    problem_close(&p);
}

/* A model's own sliding window: 1 key, fewer than a unit, about a block, many. */
static void check_window(
    struct rng *r, int n, int d, int ratio, struct block_shape block, int window)
{
    int start = rng_below(r, 2) ? 0 : rng_range(r, 1, 300);
    struct problem p;
    problem_open(&p, r, n, start, HEADS / ratio, d, block, .3f);
    p.a.window = window;
    snprintf(label, sizeof label, "window %d n %d+%d d %d gqa %d", window, start, n, d, ratio);
    judge(&p);
    check_all(&p, r);
    problem_close(&p);
}

static void check_sparse(
    struct rng *r, int n, int d, int ratio, struct block_shape block, enum map_kind kind)
{
    static const char *names[] = {"full", "minimal", "random", "thin", "half"};
    int start = (int)rng_below(r, 3) * block.q;
    struct problem p;
    problem_open(&p, r, n, start, HEADS / ratio, d, block, kind == MAP_FULL ? .3f : 1.2f);
    struct tile_map map = tile_map_shape(block, HEADS, start, n);
    fill_map(r, &map, &p.a, kind);
    uint8_t head_sparse[HEADS];
    float lambda[HEADS];
    for (int h = 0; h < HEADS; h++) {
        head_sparse[h] = rng_below(r, 4) != 0;
        lambda[h] = lambdas[rng_below(r, 4)];
    }
    p.a.tiles = &map;
    if (rng_below(r, 2)) p.a.head_sparse = head_sparse;
    if (rng_below(r, 4)) p.a.pv_threshold = lambda;
    snprintf(label, sizeof label, "sparse %s %dx%d n %d+%d d %d gqa %d%s lambda %s%g", names[kind],
        block.q, block.k, start, n, d, ratio, p.a.head_sparse ? " mixed" : "",
        p.a.pv_threshold ? "" : "none of ", (double)lambda[0]);
    judge(&p);
    check_all(&p, r);
    free(map.bits);
    problem_close(&p);
}

/* Left-out tiles as pseudo-keys, against the definition in fp64; `alike`: heads that walk together.
 */
static void check_corrected(struct rng *r, int n, int d, struct block_shape block, bool alike)
{
    struct problem p;
    int start = (int)rng_below(r, 2) * 2 * block.q;
    problem_open(&p, r, n, start, alike ? 1 : HEADS / 2, d, block, 1.2f);
    if (alike) p.a.q_head = 0;
    struct tile_map map = tile_map_shape(block, HEADS, start, n);
    fill_map(r, &map, &p.a, MAP_HALF);
    uint8_t head_sparse[HEADS];
    for (int h = 0; h < HEADS; h++) head_sparse[h] = h != 1;
    p.a.tiles = &map;
    p.a.head_sparse = head_sparse;
    p.a.correct_mean = true;
    snprintf(label, sizeof label, "corrected %dx%d n %d+%d d %d%s", block.q, block.k, start, n, d,
        alike ? " heads alike" : "");
    struct head_ledger ledgers[2][HEADS];
    size_t size = p.o_floats * sizeof(float);
    float *want = aligned(size), *got = aligned(size);
    for (int i = -1; attn_impls[i < 0 ? 0 : i]; i++) {
        const struct attn_impl *impl = i < 0 ? &attn_ref : attn_impls[i];
        struct attn_args a = p.a;
        if (i >= 0 && skips(i, &a)) continue;
        memset(ledgers[i >= 0], 0, sizeof ledgers[0]);
        a.ledger = ledgers[i >= 0];
        a.o = i < 0 ? want : got;
        memset(a.o, 0, size);
        void *ws = aligned(impl->workspace(&a) + 64);
        if (impl->run(&a, ws, NULL, NULL) != OK) wrong(i < 0 ? 0 : i, "run failed");
        free(ws);
        if (i < 0) continue;
        double off = 0, norm = 0;
        for (size_t x = 0; x < p.o_floats; x++) {
            off += ((double)got[x] - (double)want[x]) * ((double)got[x] - (double)want[x]);
            norm += (double)want[x] * (double)want[x];
        }
        if (!(off <= 1e-12 * norm)) wrong(i, "corrected output off by %g", sqrt(off / norm));
        uint64_t corrected = 0;
        for (int h = 0; h < HEADS; h++) {
            corrected += ledgers[0][h].tiles_corrected;
            if (ledgers[0][h].tiles_corrected != ledgers[1][h].tiles_corrected)
                wrong(i, "head %d: %lu tiles corrected, want %lu", h, ledgers[1][h].tiles_corrected,
                    ledgers[0][h].tiles_corrected);
        }
        if (!corrected || ledgers[0][1].tiles_corrected) wrong(i, "nothing, or a dense head");
    }
    free(want);
    free(got);
    free(map.bits);
    problem_close(&p);
}

/* A map with every tile set is dense attention. */
static void check_full_is_dense(struct rng *r, int n, int d, struct block_shape block)
{
    struct problem p;
    problem_open(&p, r, n, 0, HEADS / 2, d, block, .3f);
    struct tile_map map = tile_map_shape(block, HEADS, 0, n);
    fill_map(r, &map, &p.a, MAP_FULL);
    float never[HEADS] = {1e30f, 1e30f, 1e30f, 1e30f};
    size_t bytes = (p.o_floats + 2 * GUARD) * sizeof *p.o;
    float *dense = aligned(bytes);
    snprintf(
        label, sizeof label, "every tile against dense, %dx%d n %d d %d", block.q, block.k, n, d);
    for (int i = 0; attn_impls[i]; i++) {
        if (skips(i, &p.a)) continue;
        p.a.tiles = NULL;
        p.a.pv_threshold = NULL;
        run_impl(attn_impls[i], i, &p, NULL);
        memcpy(dense, p.o, bytes);
        p.a.tiles = &map;
        p.a.pv_threshold = never;
        run_impl(attn_impls[i], i, &p, NULL);
        if (memcmp(dense, p.o, bytes) != 0) wrong(i, "differs in bits");
    }
    free(dense);
    free(map.bits);
    problem_close(&p);
}

/* Rows before `cut` may not notice what stands at and behind it. */
static void check_causality(
    struct rng *r, int n, int d, struct block_shape block, bool sparse, float gain)
{
    struct problem p;
    problem_open(&p, r, n, 0, HEADS / 4, d, block, .8f);
    struct tile_map map = tile_map_shape(block, HEADS, 0, n);
    fill_map(r, &map, &p.a, MAP_HALF);
    if (sparse) p.a.tiles = &map;
    int cut = rng_range(r, 1, n - 1);
    size_t bytes = (p.o_floats + 2 * GUARD) * sizeof *p.o;
    float *before = aligned(bytes);
    snprintf(label, sizeof label, "causality, %s %dx%d n %d d %d cut %d gain %g",
        sparse ? "sparse" : "dense", block.q, block.k, n, d, cut, (double)gain);
    for (int i = 0; attn_impls[i]; i++) {
        const struct attn_impl *impl = attn_impls[i];
        if (skips(i, &p.a)) continue;
        run_impl(impl, i, &p, NULL);
        memcpy(before, p.o, bytes);
        for (int t = cut; t < n; t++)
            for (int c = 0; c < d; c++) {
                p.k[t * p.a.k_row + c] = gain * (float)rng_normal(r);
                p.v[t * p.a.v_row + c] = 1e4f * (float)rng_normal(r);
            }
        run_impl(impl, i, &p, NULL);
        int same = 0;
        for (int h = 0; h < HEADS; h++)
            for (int row = 0; row < n; row++) {
                ptrdiff_t at = GUARD + row * p.a.o_row + h * p.a.o_head;
                bool equal = memcmp(before + at, p.o + at, sizeof(float) * (size_t)d) == 0;
                if (row < cut && !equal) {
                    wrong(i, "head %d row %d changed", h, row);
                    h = HEADS;
                    break;
                }
                /* at a large gain the new keys may get no weight */
                same += row >= cut && equal && gain <= 1;
            }
        if (same) wrong(i, "%d rows at or behind the cut did not notice", same);
    }
    free(before);
    free(map.bits);
    problem_close(&p);
}

/* With λ the decision of a unit may look at its later rows, but values of the future are never
 * mixed in. */
static void check_value_causality(struct rng *r, int n, int d, struct block_shape block)
{
    struct problem p;
    problem_open(&p, r, n, 0, HEADS, d, block, 1.2f);
    struct tile_map map = tile_map_shape(block, HEADS, 0, n);
    fill_map(r, &map, &p.a, MAP_HALF);
    p.a.tiles = &map;
    p.a.pv_threshold = lambdas; /* four heads, four thresholds */
    int cut = rng_range(r, 1, n - 1);
    size_t bytes = (p.o_floats + 2 * GUARD) * sizeof *p.o;
    float *before = aligned(bytes);
    snprintf(label, sizeof label, "values of the future, %dx%d n %d d %d cut %d", block.q, block.k,
        n, d, cut);
    for (int i = 0; attn_impls[i]; i++) {
        if (skips(i, &p.a)) continue;
        run_impl(attn_impls[i], i, &p, NULL);
        memcpy(before, p.o, bytes);
        for (int h = 0; h < HEADS; h++)
            for (int t = cut; t < n; t++)
                for (int c = 0; c < d; c++)
                    p.v[t * p.a.v_row + h * p.a.v_head + c] = 1e4f * (float)rng_normal(r);
        run_impl(attn_impls[i], i, &p, NULL);
        for (int h = 0; h < HEADS; h++)
            for (int row = 0; row < cut; row++) {
                ptrdiff_t at = GUARD + row * p.a.o_row + h * p.a.o_head;
                if (memcmp(before + at, p.o + at, sizeof(float) * (size_t)d) != 0) {
                    wrong(i, "head %d row %d changed", h, row);
                    h = HEADS;
                    break;
                }
            }
    }
    free(before);
    free(map.bits);
    problem_close(&p);
}

/* Scores that rise by `gain` every `step` tokens, up to thousands: no NaN, no infinity, the same
 * answer. λ = 0 skips every tile behind the first while the running maximum moves on; a rise per
 * token puts scores of the future, masked but far above the row's maximum, into the diagonal tile.
 */
static void check_extremes(struct rng *r, float gain, int step, const float *lambda)
{
    int n = 257, d = 64;
    struct problem p;
    problem_open(&p, r, n, 0, HEADS, d, shapes[1], 0);
    for (int h = 0; h < HEADS; h++)
        for (int t = 0; t < n; t++)
            for (int i = 0; i < d; i++) {
                p.q[t * p.a.q_row + h * p.a.q_head + i] = i == 0 ? 8 : 0;
                p.k[t * p.a.k_row + h * p.a.k_head + i] = i == 0 ? gain * (float)(t / step) : 0;
            }
    struct tile_map map = tile_map_shape(shapes[1], HEADS, 0, n);
    fill_map(r, &map, &p.a, MAP_FULL);
    if (lambda) {
        p.a.tiles = &map;
        p.a.pv_threshold = lambda;
    }
    snprintf(label, sizeof label, "scores rising by %g every %d tokens, lambda %g", (double)gain,
        step, lambda ? (double)lambda[0] : NAN);
    judge(&p);
    check_all(&p, r);
    free(map.bits);
    problem_close(&p);
}

static void check_refusals(void)
{
    struct attn_args a = {.dtype = DTYPE_F16,
        .n_q = 64,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = 64,
        .scale = .125f,
        .block = {128, 64}};
    snprintf(label, sizeof label, "f16 operands on the CPU");
    for (int i = 0; attn_impls[i]; i++)
        if (!attn_impls[i]->refuses(&a) &&
            (attn_impls[i] == &attn_ref || strstr(attn_impls[i]->name, "_f32")))
            wrong(i, "does not refuse a type it cannot read");
}

static int check(uint64_t seed, int rounds)
{
    struct rng r;
    for (int round = 0; round < rounds; round++) {
        rng_init(&r, seed + (uint64_t)round);
        for (int i = 0; i < N_ROW_COUNTS; i++)
            for (int j = 0; j < N_DIMS; j++) {
                int n = row_counts[i], d = head_dims[j], c = i * N_DIMS + j + round,
                    ratio = 1 << c % 3;
                /* the slow half comes with the next round */
                if (n > 500 && (i + j + round) % 2) continue;
                check_dense(&r, n, d, ratio, shapes[c % N_SHAPES]);
                check_sparse(&r, n, d, ratio, shapes[(c + c / 4) % N_SHAPES],
                    (enum map_kind)((i + j + round) % N_MAP_KINDS));
            }
        for (int s = 0; s < N_SHAPES; s++) {
            check_sparse(&r, 450, 32, 2, shapes[s], MAP_RANDOM);
            for (int alike = 0; alike < 2; alike++)
                check_corrected(&r, s % 2 ? 700 : 517, s % 2 ? 80 : 64, shapes[s], alike);
            check_full_is_dense(
                &r, rng_range(&r, 9, 400), head_dims[(s + round) % N_DIMS], shapes[s]);
            for (int sparse = 0; sparse < 2; sparse++) {
                check_causality(&r, rng_range(&r, 2, 300), sparse ? 80 : 64, shapes[s], sparse, 1);
                check_causality(&r, rng_range(&r, 2, 300), sparse ? 80 : 64, shapes[s], sparse, 40);
            }
            check_value_causality(&r, rng_range(&r, 130, 400), 64, shapes[s]);
        }
        static const int windows[] = {1, 2, 33, 64, 100, 129, 300};
        for (int i = 0; i < (int)(sizeof windows / sizeof *windows); i++) {
            check_window(&r, rng_range(&r, 9, 500), head_dims[i % N_DIMS], 1 << i % 3,
                shapes[i % N_SHAPES], windows[i]);
            /* as decoding does */
            check_window(&r, rng_range(&r, 1, 9), 64, 2, shapes[0], windows[i]);
        }
        check_dense(&r, 70, 1, 1, shapes[0]);
        check_dense(&r, 70, 20, 2, shapes[0]);
        check_dense(&r, 70, 256, 4, shapes[0]);
        for (int l = 0; l < 4; l++) {
            float lambda[HEADS] = {lambdas[l], lambdas[l], lambdas[l], lambdas[l]};
            static const float gains[] = {5, -5, 92, 300, -300};
            for (int g = 0; g < 5; g++) check_extremes(&r, gains[g], 64, lambda);
        }
        for (int g = 1; g <= 128; g *= 2) check_extremes(&r, .6931472f * (float)g, 1, NULL);
    }
    check_refusals();
    long failures = 0;
    printf("%-20s %8s %8s %8s %12s  worst case\n", "implementation", "calls", "failed", "ties",
        "error/plain");
    for (int i = 0; attn_impls[i]; i++) {
        const struct tally *t = &tallies[i];
        failures += t->failures;
        if (!t->calls) printf("%-20s not run here\n", attn_impls[i]->name);
        else
            printf("%-20s %8ld %8ld %8ld %12.2f  %s\n", attn_impls[i]->name, t->calls, t->failures,
                t->ties, t->worst, t->where);
    }
    printf("%s (seed %llu; allowed error/plain 2)\n", failures ? "FAILED" : "all right",
        (unsigned long long)seed);
    return failures != 0;
}

static int compare_times(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *t, int n)
{
    qsort(t, (size_t)n, sizeof *t, compare_times);
    return n % 2 ? t[n / 2] : (t[n / 2 - 1] + t[n / 2]) / 2;
}

enum { REPEATS = 5 };

static double sgemm_rate(int threads)
{
    enum { N = 2048 };
    float *a = aligned(sizeof *a * N * N), *b = aligned(sizeof *a * N * N),
          *c = aligned(sizeof *a * N * N);
    for (size_t i = 0; i < (size_t)N * N; i++) a[i] = b[i] = (float)(i % 7) - 3;
    openblas_set_num_threads(threads);
    double t[REPEATS];
    for (int i = -1; i < REPEATS; i++) {
        int64_t start = clock_ns();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N, N, N, 1, a, N, b, N, 0, c, N);
        if (i >= 0) t[i] = (double)(clock_ns() - start);
    }
    openblas_set_num_threads(1);
    free(a);
    free(b);
    free(c);
    return 2.0 * N * N * N / median(t, REPEATS); /* GFLOP/s */
}

static double time_call(const struct attn_impl *impl, struct attn_args *a, void *ws,
    const struct mask_args *m, struct tile_map *map, void *mask_ws, struct par *par,
    double *predict_ns)
{
    int64_t start = clock_ns();
    enum status st = OK;
    if (m) st = mask_predict(&mask_sparge, m, map, mask_ws, par);
    int64_t middle = clock_ns();
    if (st == OK) st = impl->run(a, ws, par, NULL);
    if (st != OK) {
        fprintf(stderr, "%s: %s\n", impl->name, status_message());
        exit(3);
    }
    if (predict_ns) *predict_ns = (double)(middle - start);
    return (double)(clock_ns() - start);
}

static void bench_impl(const struct attn_impl *impl, int n, int d, double rate, struct par *par)
{
    static const float fractions[] = {.2f, .4f, .6f, .8f};
    struct problem p;
    struct rng r;
    rng_init(&r, 1);
    problem_open(&p, &r, n, 0, HEADS, d, shapes[0], .3f);
    p.a.o = out_of(&p);
    if (impl->refuses(&p.a)) {
        printf("%-18s %5d %4d  %s\n", impl->name, n, d, impl->refuses(&p.a));
        problem_close(&p);
        return;
    }
    struct tile_map map = tile_map_shape(shapes[0], HEADS, 0, n);
    map.bits = aligned(tile_map_bytes(&map));
    struct head_params heads[HEADS];
    float lambda[HEADS];
    for (int h = 0; h < HEADS; h++) {
        heads[h] = (struct head_params){-1, 1, 50, true, 0, 0, 0};
        lambda[h] = 50;
    }
    struct mask_args m = {.attn = &p.a, .heads = heads, .smooth_k = SMOOTH_K_RUNNING};
    void *mask_ws = aligned(mask_workspace(&mask_sparge, &m, par_threads(par)));
    void *ws = aligned(impl->workspace(&p.a));
    double dense[REPEATS], sparse[4][REPEATS], predict[4][REPEATS];
    struct head_ledger ledger[4][HEADS];
    memset(ledger, 0, sizeof ledger);
    /* interleaved, so that a drift of the clock hits all alike */
    for (int i = -1; i < REPEATS; i++) {
        p.a.tiles = NULL;
        p.a.pv_threshold = NULL;
        p.a.ledger = NULL;
        double t = time_call(impl, &p.a, ws, NULL, NULL, NULL, par, NULL);
        if (i >= 0) dense[i] = t;
        for (int f = 0; f < 4; f++) {
            m.topk = fractions[f];
            p.a.tiles = &map;
            p.a.pv_threshold = lambda;
            p.a.ledger = ledger[f];
            double predicting;
            t = time_call(impl, &p.a, ws, &m, &map, mask_ws, par, &predicting);
            if (i < 0) continue;
            sparse[f][i] = t;
            predict[f][i] = predicting;
        }
    }
    double base = median(dense, REPEATS), flop = 2.0 * d * n * (n + 1.0) * HEADS;
    printf("%-18s %5d %4d %7s %9.2f %9.1f %6.0f%%\n", impl->name, n, d, "dense", base / 1e6,
        flop / base, 100 * flop / base / rate);
    for (int f = 0; f < 4; f++) {
        struct head_ledger sum = {0};
        for (int h = 0; h < HEADS; h++) head_ledger_add(&sum, &ledger[f][h]);
        double kept = 1 - ledger_qk_sparsity(&sum), t = median(sparse[f], REPEATS);
        printf("%-18s %5d %4d %7.3f %9.2f %9s %7s %8.3f %8.3f %8.1f%%\n", impl->name, n, d, kept,
            t / 1e6, "", "", t / base, kept + .08, 100 * median(predict[f], REPEATS) / base);
    }
    free(ws);
    free(mask_ws);
    free(map.bits);
    problem_close(&p);
}

static int bench(int threads)
{
    struct par *par = NULL;
    if (par_open(&par, threads) != OK) {
        fprintf(stderr, "%s\n", status_message());
        return 3;
    }
    double rate = sgemm_rate(par_threads(par));
    printf("sgemm 2048: %.1f GFLOP/s with %d threads; medians of %d, %d heads, blocks 128x64\n",
        rate, par_threads(par), REPEATS, HEADS);
    printf("%-18s %5s %4s %7s %9s %9s %7s %8s %8s %9s\n", "implementation", "n", "d", "kept", "ms",
        "GFLOP/s", "sgemm", "of dense", "goal", "predict");
    for (int i = 0; attn_impls[i]; i++) {
        if (attn_impls[i] == &attn_ref ||
            (only_impl && strcmp(only_impl, attn_impls[i]->name) != 0))
            continue;
        for (int n = 1024; n <= 4096; n *= 4)
            for (int d = 64; d <= 128; d *= 2) bench_impl(attn_impls[i], n, d, rate, par);
    }
    par_close(&par);
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1;
    int rounds = 1, threads = 1;
    bool benchmark = false;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--bench") == 0) {
            benchmark = true;
            continue;
        }
        if (value && strcmp(argv[i], "--seed") == 0) seed = strtoull(value, NULL, 10);
        else if (value && strcmp(argv[i], "--rounds") == 0) rounds = atoi(value);
        else if (value && strcmp(argv[i], "--threads") == 0) threads = atoi(value);
        else if (value && strcmp(argv[i], "--impl") == 0) only_impl = value;
        else {
            fprintf(stderr,
                "usage: check_kernels [--seed N] [--rounds N] [--impl NAME] | --bench [--threads "
                "N]\n");
            return 2;
        }
        i++;
    }
    if (benchmark) return bench(threads);
    for (int t = 2; t <= 3; t++)
        if (par_open(&pools[t], t) != OK) {
            fprintf(stderr, "%s\n", status_message());
            return 3;
        }
    int code = check(seed, rounds);
    for (int t = 2; t <= 3; t++) par_close(&pools[t]);
    return code;
}

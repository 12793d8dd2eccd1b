#include "kernels/curve.h"

#include "kernels/cpu/attn_mean.h"
#include "kernels/eight.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

float curve_theta(int i) { return (float)(i - 16) / 16; }
float curve_tau(int i) { return i == 0 ? 0 : i == N_TAUS - 1 ? 1 : 1 - exp2f(-(float)i / 8); }
float curve_lambda(int i) { return (float)i / 2; }
int curve_n_largest(int n_rows) { return (int)(.001 * (n_rows - 1)) + 2; }

/* Σ over rows so far, and the largest relative row errors: enough for every rule. */
struct accumulator {
    double abs_diff, sq_diff, sq, dot;
    uint32_t n_kept;
    float *largest; /* [n_largest] ascending */
};

struct work {
    const struct mask_method *m;
    const struct mask_args *a;
    struct mask_args own[MAX_MASK_PARTS]; /* with the parameters of each part */
    struct attn_args products; /* the call on what its precision leaves of q, k and v; predictions
                                  see the call's own */
    const struct cpu_ops *ops;
    int n_rows, d, n_kblocks, bq, bk;
    int n_largest;
    double exact_abs, exact_sq;
    /* memory */
    float *kt;   /* [n_kblocks, d, bk] */
    void *eight; /* copies behind `products` */
    void *method_ws[MAX_MASK_PARTS];
    float *part_o, *part_m, *part_l; /* partial results of one query block: [n_kblocks][bq][…] */
    float *o, *mx, *l;               /* the chain: [bq, d], [bq], [bq] */
    float *row_abs;                  /* [n_rows] Σ_d |exact| */
    float *abs_diff, *sq_diff, *sq;  /* [bq] */
    float *margin;                   /* [n_kblocks] of one unit */
    float *p;                        /* [n_kblocks] */
    int *order;                      /* [n_kblocks] */
    uint8_t *forced, *last_forced;   /* [n_kblocks] */
    uint8_t *kept, *any_kept;        /* [MAX_LAMBDA_PAIRS, n_kblocks], [n_kblocks] */
    struct attn_unit unit;
    /* of methods that correct by the mean: pseudo-keys, and of the query block at hand their
     * weights, with those that are left as a partial result of their own */
    struct attn_means means;
    float *mean_memory, *weight;        /* [bq, n_kblocks] */
    float *left_o, *left_m, *left_l;    /* [bq, d], [bq], [bq] */
    float *whole_o, *whole_m, *whole_l; /* the chain with what is left */
    int n_before, n_left;               /* tiles that may be corrected, and those that are */
    float *zero_row;                    /* [d] */
    float *largest;                     /* [n_points, n_largest] */
    struct accumulator *points;         /* [n_points] */
};

static int n_parts(const struct mask_method *m) { return m->n_parts ? m->n_parts : 1; }

/* Cut `ws` into the arrays; returns bytes. With ws NULL only counts. */
static size_t layout(
    const struct mask_method *m, const struct mask_args *a, int n_points, void *ws, struct work *w)
{
    const struct attn_args *t = a->attn;
    size_t at = 0, d = (size_t)t->head_dim, bq = (size_t)t->block.q, bk = (size_t)t->block.k,
           f = sizeof(float);
    size_t nk = (size_t)((attn_n_kv(t) + t->block.k - 1) / t->block.k), n = (size_t)t->n_q;
    size_t largest = (size_t)curve_n_largest(t->n_q), points = (size_t)n_points;
    char *base = ws;
#define PUT(field, bytes)                      \
    do {                                       \
        if (w) w->field = (void *)(base + at); \
        at += ((bytes) + 63) / 64 * 64;        \
    } while (0)
    PUT(kt, f * nk * d * bk);
    PUT(eight, eight_bytes(t));
    for (int i = 0; i < n_parts(m); i++) {
        struct mask_args own = *a;
        own.values = mask_part(m, i)->values;
        PUT(method_ws[i], mask_part(m, i)->workspace(&own));
    }
    PUT(part_o, f * nk * bq * d);
    PUT(part_m, f * nk * bq);
    PUT(part_l, f * nk * bq);
    PUT(o, f * bq * d);
    PUT(mx, f * bq);
    PUT(l, f * bq);
    PUT(row_abs, f * n);
    PUT(abs_diff, f * bq);
    PUT(sq_diff, f * bq);
    PUT(sq, f * bq);
    PUT(margin, f * nk);
    PUT(p, f * nk);
    PUT(order, sizeof(int) * nk);
    PUT(forced, nk);
    PUT(last_forced, nk);
    PUT(kept, nk * MAX_LAMBDA_PAIRS);
    PUT(any_kept, nk);
    if (m->correct_mean) {
        PUT(mean_memory, f * attn_means_floats((int)nk, t->head_dim));
        PUT(weight, f * bq * nk);
        PUT(left_o, f * bq * d);
        PUT(left_m, f * bq);
        PUT(left_l, f * bq);
        PUT(whole_o, f * bq * d);
        PUT(whole_m, f * bq);
        PUT(whole_l, f * bq);
    }
    PUT(unit.q, f * PV_UNIT_ROWS * d);
    PUT(zero_row, f * d);
    PUT(unit.s, f * PV_UNIT_ROWS * 128);
    PUT(largest, f * points * largest);
    PUT(points, sizeof(struct accumulator) * points);
#undef PUT
    return at;
}

_Static_assert(
    MAX_LAMBDA_PAIRS *N_LAMBDAS <= N_THETAS * N_TAUS, "curve_workspace is enough for both passes");

size_t curve_workspace(const struct mask_method *m, const struct mask_args *a)
{
    return layout(m, a, N_THETAS * N_TAUS, NULL, NULL);
}

static const float *exact_row(const struct work *w, int row)
{
    return (const float *)w->a->attn->o + row * w->a->attn->o_row;
}

/* Norms of the dense output, row by row: the distance to a row of zeros. */
static enum status measure_exact(struct work *w)
{
    const float one = 1;
    w->exact_abs = w->exact_sq = 0;
    for (int r = 0; r < w->n_rows; r++) {
        float sq_diff, sq;
        w->ops->row_errors(
            1, w->d, &one, w->zero_row, exact_row(w, r), 0, &w->row_abs[r], &sq_diff, &sq);
        w->exact_abs += (double)w->row_abs[r];
        w->exact_sq += (double)sq_diff;
    }
    if (w->exact_abs > 0 && isfinite(w->exact_abs)) return OK;
    return fail(ERR_NUMERIC, "the dense output has %s",
        isfinite(w->exact_abs) ? "norm zero" : "NaN or infinity");
}

static enum status begin(
    struct work *w, const struct mask_method *m, const struct mask_args *a, int n_points, void *ws)
{
    const struct attn_args *t = a->attn;
    assert(t->n_heads == 1 && t->n_kv_heads == 1 && t->q_start == 0 && t->dtype == DTYPE_F32);
    *w = (struct work){.m = m,
        .a = a,
        .ops = cpu_ops(),
        .n_rows = t->n_q,
        .d = t->head_dim,
        .bq = t->block.q,
        .bk = t->block.k,
        .n_largest = curve_n_largest(t->n_q)};
    for (int i = 0; i < n_parts(m); i++) {
        w->own[i] = *a;
        w->own[i].values = mask_part(m, i)->values;
    }
    layout(m, a, n_points, ws, w);
    w->n_kblocks = (t->n_q + w->bk - 1) / w->bk;
    w->unit.head_dim = w->d;
    w->unit.p_e4m3 = t->pv == PRECISION_FP8;
    eight_inputs(t, w->eight, NULL, &w->products);
    memset(w->zero_row, 0, sizeof(float) * (size_t)w->d);
    TRY(measure_exact(w));
    for (int p = 0; p < n_points; p++) {
        w->points[p] =
            (struct accumulator){.largest = w->largest + (size_t)p * (size_t)w->n_largest};
        memset(w->points[p].largest, 0, sizeof(float) * (size_t)w->n_largest);
    }
    for (int j = 0; j < w->n_kblocks; j++) {
        int pos = j * w->bk, n = w->n_rows - pos < w->bk ? w->n_rows - pos : w->bk;
        w->ops->pack_keys((const float *)w->products.k + pos * w->products.k_row, w->products.k_row,
            n, w->d, w->bk, w->kt + (size_t)pos * (size_t)w->d);
    }
    if (!m->correct_mean) return OK;
    w->means =
        attn_means_at(w->mean_memory, tiles_before(t->block, (w->n_rows - 1) / w->bq), w->bk, w->d);
    for (int g = 0; g * MEAN_GROUP < w->means.n_tiles; g++)
        attn_means_pool(
            &w->means, w->ops, g, (const float *)t->k, t->k_row, (const float *)t->v, t->v_row);
    return OK;
}

/* Weights of the pseudo-keys in front of query block `i`, as shares of the largest of their row.
 * None of them is in the output yet. */
static void weigh_means(struct work *w, int i, int n_rows)
{
    const struct attn_args *t = &w->products;
    w->n_before = w->m->correct_mean ? tiles_before(w->a->attn->block, i) : 0;
    w->n_left = 0;
    for (int u0 = 0; u0 < n_rows && w->n_before; u0 += PV_UNIT_ROWS) {
        struct attn_unit *u = &w->unit;
        float top[PV_UNIT_ROWS];
        u->n_rows = n_rows - u0 < PV_UNIT_ROWS ? n_rows - u0 : PV_UNIT_ROWS;
        u->first_pos = i * w->bq + u0;
        u->o = w->left_o; /* written over below */
        w->ops->unit_begin(
            u, (const float *)t->q + (ptrdiff_t)u->first_pos * t->q_row, t->q_row, t->scale);
        for (int r = 0; r < u->n_rows; r++) w->left_m[u0 + r] = -INFINITY;
        for (int g = 0; g * MEAN_GROUP < w->n_before; g++) {
            int n = w->n_before - g * MEAN_GROUP;
            n = n < MEAN_GROUP ? n : MEAN_GROUP;
            attn_means_scores(&w->means, w->ops, u, g, ~(uint64_t)0, n, top);
            for (int r = 0; r < u->n_rows; r++) {
                memcpy(w->weight + (size_t)(u0 + r) * (size_t)w->n_kblocks + g * MEAN_GROUP,
                    u->s + r * 128, sizeof(float) * (size_t)n);
                if (top[r] > w->left_m[u0 + r]) w->left_m[u0 + r] = top[r];
            }
        }
    }
    for (int r = 0; r < n_rows && w->n_before; r++)
        for (int j = 0; j < w->n_before; j++) {
            float *x = w->weight + (size_t)r * (size_t)w->n_kblocks + j;
            *x = exp2f(*x - w->left_m[r]);
        }
}

/* Tile j's pseudo-key joins what is left (sign 1) or goes (-1). Going is safe: by Jensen's
 * inequality the tile that takes its place weighs at least as much, so what rounding leaves behind
 * vanishes beside it. */
static void shift_left(struct work *w, int j, int n_rows, float sign)
{
    if (j >= w->n_before) return;
    const float *v = w->means.v + (size_t)j * (size_t)w->d;
    for (int r = 0; r < n_rows; r++) {
        float x = sign * w->weight[(size_t)r * (size_t)w->n_kblocks + j];
        float *o = w->left_o + (size_t)r * (size_t)w->d;
        w->left_l[r] += x;
        for (int c = 0; c < w->d; c++) o[c] += x * v[c];
    }
    w->n_left += (int)sign;
}

/* Pseudo-keys of all tiles that are not in `kept`. */
static void leave_others(struct work *w, const uint8_t *kept, int n_rows)
{
    if (!w->n_before) return;
    w->n_left = 0;
    memset(w->left_l, 0, sizeof(float) * (size_t)n_rows);
    memset(w->left_o, 0, sizeof(float) * (size_t)n_rows * (size_t)w->d);
    for (int j = 0; j < w->n_before; j++)
        if (!kept[j]) shift_left(w, j, n_rows, 1);
}

/* Partial results of one query block against its first n key blocks; with `only`, those that are
 * marked there. */
static void compute_partials(struct work *w, int row0, int n_rows, int n_tiles, const uint8_t *only)
{
    const struct attn_args *t = &w->products;
    float m_local[PV_UNIT_ROWS];
    for (int u0 = 0; u0 < n_rows; u0 += PV_UNIT_ROWS) {
        struct attn_unit *u = &w->unit;
        u->n_rows = n_rows - u0 < PV_UNIT_ROWS ? n_rows - u0 : PV_UNIT_ROWS;
        u->first_pos = row0 + u0;
        u->o = w->part_o + (size_t)u0 * (size_t)w->d;
        w->ops->unit_begin(u, (const float *)t->q + (row0 + u0) * t->q_row, t->q_row, t->scale);
        for (int j = 0; j < n_tiles; j++) {
            int pos = j * w->bk, n_keys = w->n_rows - pos < w->bk ? w->n_rows - pos : w->bk;
            size_t at = (size_t)j * (size_t)w->bq + (size_t)u0;
            if (only && !only[j]) continue;
            for (int r = 0; r < u->n_rows; r++) {
                u->m[r] = -INFINITY;
                u->l[r] = 0;
            }
            if (pos > u->first_pos + u->n_rows - 1) { /* the unit is above the diagonal here */
                for (int r = 0; r < u->n_rows; r++) w->part_m[at + (size_t)r] = -INFINITY;
                continue;
            }
            /* 64 rows of its own, so that whole units may be written */
            u->o = w->part_o + at * (size_t)w->d;
            memset(u->o, 0, sizeof(float) * PV_UNIT_ROWS * (size_t)w->d);
            w->ops->unit_scores(u, w->kt + (size_t)pos * (size_t)w->d, w->bk, pos, n_keys, m_local);
            w->ops->unit_accumulate(
                u, (const float *)t->v + pos * t->v_row, t->v_row, w->bk, pos, n_keys, m_local);
            memcpy(w->part_m + at, u->m, sizeof(float) * (size_t)u->n_rows);
            memcpy(w->part_l + at, u->l, sizeof(float) * (size_t)u->n_rows);
        }
    }
}

static void chain_reset(struct work *w, int n_rows)
{
    for (int r = 0; r < n_rows; r++) {
        w->mx[r] = -INFINITY;
        w->l[r] = 0;
    }
    memset(w->o, 0, sizeof(float) * (size_t)n_rows * (size_t)w->d);
}

/* Rows [u0, u0 + n) of tile j join the chain. */
static void chain_merge(struct work *w, int j, int u0, int n)
{
    size_t at = (size_t)j * (size_t)w->bq + (size_t)u0, d = (size_t)w->d;
    w->ops->merge_partial(n, w->d, w->mx + u0, w->l + u0, w->o + (size_t)u0 * d, w->part_m + at,
        w->part_l + at, w->part_o + at * d);
}

static void note_largest(const struct work *w, struct accumulator *p, float relative)
{
    float *top = p->largest;
    if (!(relative > top[0])) return;
    int i = 0;
    for (; i + 1 < w->n_largest && top[i + 1] < relative; i++) top[i] = top[i + 1];
    top[i] = relative;
}

struct block_error {
    double abs_diff, sq_diff, sq;
};

/* Error of the chain as it stands on rows [u0, u0 + n) of the block at row0; fills abs_diff[] too.
 */
static struct block_error chain_error(struct work *w, int row0, int u0, int n)
{
    size_t at = (size_t)u0 * (size_t)w->d;
    const float *l = w->l + u0, *o = w->o + at;
    if (w->n_left) {
        memcpy(w->whole_m + u0, w->mx + u0, sizeof(float) * (size_t)n);
        memcpy(w->whole_l + u0, l, sizeof(float) * (size_t)n);
        memcpy(w->whole_o + at, o, sizeof(float) * (size_t)n * (size_t)w->d);
        w->ops->merge_partial(n, w->d, w->whole_m + u0, w->whole_l + u0, w->whole_o + at,
            w->left_m + u0, w->left_l + u0, w->left_o + at);
        l = w->whole_l + u0;
        o = w->whole_o + at;
    }
    w->ops->row_errors(n, w->d, l, o, exact_row(w, row0 + u0), w->a->attn->o_row, w->abs_diff + u0,
        w->sq_diff + u0, w->sq + u0);
    struct block_error e = {0};
    for (int r = u0; r < u0 + n; r++) {
        e.abs_diff += (double)w->abs_diff[r];
        e.sq_diff += (double)w->sq_diff[r];
        e.sq += (double)w->sq[r];
    }
    return e;
}

static void add_error(struct work *w, struct accumulator *p, struct block_error e, uint32_t n_kept,
    int row0, int u0, int n)
{
    p->abs_diff += e.abs_diff;
    p->sq_diff += e.sq_diff;
    p->sq += e.sq;
    p->n_kept += n_kept;
    for (int r = u0; r < u0 + n && e.abs_diff > 0; r++)
        if (w->row_abs[row0 + r] > 0) note_largest(w, p, w->abs_diff[r] / w->row_abs[row0 + r]);
}

static struct output_error finish(const struct work *w, const struct accumulator *p)
{
    double dot = (w->exact_sq + p->sq - p->sq_diff) / 2, norms = sqrt(w->exact_sq * p->sq);
    double cosine = norms > 0 ? 1 - dot / norms : 1;
    /* type 7 quantile .999 from the largest n_largest of n_rows values */
    double at = .999 * (w->n_rows - 1);
    int low = (int)at, from_top = w->n_rows - 1 - low; /* 0: the largest */
    double a = (double)p->largest[w->n_largest - 1 - from_top];
    double b = from_top > 0 ? (double)p->largest[w->n_largest - from_top] : a;
    return (struct output_error){
        .l1 = (float)(p->abs_diff / w->exact_abs),
        .tail = (float)(a + (at - low) * (b - a)),
        .cosine = (float)(cosine > 0 ? cosine : 0),
        .rmse = (float)sqrt(p->sq_diff / w->exact_sq),
    };
}

/* All τ on one query block, for the θ in [t0, t1), which mark its tiles alike. */
static void walk_taus(
    struct work *w, const struct mask_row *row, int row0, int n_rows, int t0, int t1)
{
    int n = mask_order(row, w->order), merged = 0;
    uint32_t n_kept = 0;
    chain_reset(w, n_rows);
    leave_others(w, row->forced, n_rows);
    for (int j = 0; j < row->n; j++) {
        if (!row->forced[j]) continue;
        chain_merge(w, j, 0, n_rows);
        n_kept++;
    }
    bool grew = true;
    struct block_error e = {0};
    for (int tau = 0; tau < N_TAUS; tau++) {
        int want = mask_keep(w->m, row, w->order, n, curve_tau(tau));
        for (; merged < want; merged++) {
            int j = w->order[merged];
            if (row->forced[j]) continue;
            chain_merge(w, j, 0, n_rows);
            shift_left(w, j, n_rows, -1);
            n_kept++;
            grew = true;
        }
        if (grew) e = chain_error(w, row0, 0, n_rows);
        grew = false;
        if (n_kept == (uint32_t)row->n && attn_is_full(w->a->attn))
            e.abs_diff = e.sq_diff = 0; /* nothing was left out */
        for (int t = t0; t < t1; t++)
            add_error(w, &w->points[t * N_TAUS + tau], e, n_kept, row0, 0, n_rows);
    }
}

enum status curve_thetas(
    const struct mask_method *m, const struct mask_args *a, void *ws, struct curve *out)
{
    struct work w;
    TRY(begin(&w, m, a, N_THETAS * N_TAUS, ws));
    assert(!m->n_parts);
    m->prepare(w.own, 0, w.method_ws[0]);
    out->n_possible = 0;
    for (int i = 0; i * w.bq < w.n_rows; i++) {
        int row0 = i * w.bq, n_rows = w.n_rows - row0 < w.bq ? w.n_rows - row0 : w.bq;
        struct mask_row row = {.n = tiles_possible(a->attn->block, i, w.n_rows),
            .p = w.p,
            .forced = w.forced,
            .qb = i,
            .n_qblocks = (w.n_rows + w.bq - 1) / w.bq,
            .n_kblocks = w.n_kblocks};
        out->n_possible += (uint32_t)row.n;
        compute_partials(&w, row0, n_rows, row.n, NULL);
        weigh_means(&w, i, n_rows);
        for (int t0 = 0, t1; t0 < N_THETAS; t0 = t1) {
            m->row(w.own, 0, i, curve_theta(t0), w.method_ws[0], &row);
            memcpy(w.last_forced, row.forced, (size_t)row.n);
            for (t1 = t0 + 1; t1 < N_THETAS; t1++) {
                m->row(w.own, 0, i, curve_theta(t1), w.method_ws[0], &row);
                if (memcmp(row.forced, w.last_forced, (size_t)row.n) != 0) break;
            }
            m->row(w.own, 0, i, curve_theta(t0), w.method_ws[0], &row);
            walk_taus(&w, &row, row0, n_rows, t0, t1);
        }
    }
    for (int p = 0; p < N_THETAS * N_TAUS; p++)
        out->points[p / N_TAUS][p % N_TAUS] =
            (struct curve_point){finish(&w, &w.points[p]), w.points[p].n_kept};
    return OK;
}

/* The λ above which this unit computes P·V of tile j, given the running maxima m so far (moved on);
 * 0 or less: always. */
static float pv_margin(const struct work *w, int j, int u0, int n, float *m, bool first)
{
    float worst = -INFINITY;
    for (int r = 0; r < n; r++) {
        float local = w->part_m[(size_t)j * (size_t)w->bq + (size_t)(u0 + r)];
        float top = local > m[r] ? local : m[r];
        if (local > -INFINITY && local - top > worst) worst = local - top;
        m[r] = top;
    }
    return first ? -1 : -worst;
}

/* All λ on one unit of one query block whose kept tiles are marked in `kept`. */
static void walk_lambdas(struct work *w, struct accumulator *points, const uint8_t *kept,
    int n_tiles, int row0, int u0, int n)
{
    float m[PV_UNIT_ROWS];
    bool first = true;
    for (int r = 0; r < n; r++) m[r] = -INFINITY;
    int n_units = 0;
    for (int j = 0; j < n_tiles; j++) {
        if (!kept[j] || j * w->bk > row0 + u0 + n - 1) continue;
        w->margin[j] = pv_margin(w, j, u0, n, m, first);
        first = false;
        n_units++;
    }
    for (int r = u0; r < u0 + n; r++) {
        w->mx[r] = -INFINITY;
        w->l[r] = 0;
    }
    memset(w->o + (size_t)u0 * (size_t)w->d, 0, sizeof(float) * (size_t)n * (size_t)w->d);
    int merged = 0;
    float below = -INFINITY; /* margins up to here have joined */
    struct block_error e = {0};
    for (int i = 0; i < N_LAMBDAS; i++) {
        int before = merged;
        for (int j = 0; j < n_tiles && merged < n_units; j++) {
            if (!kept[j] || j * w->bk > row0 + u0 + n - 1) continue;
            if (!(w->margin[j] < curve_lambda(i)) || w->margin[j] < below) continue;
            chain_merge(w, j, u0, n);
            merged++;
        }
        below = curve_lambda(i);
        if (merged > before) e = chain_error(w, row0, u0, n);
        add_error(w, &points[i], e, (uint32_t)merged, row0, u0, n);
    }
}

/* Marks what one pair keeps of a query block. */
static void mark_kept(
    struct work *w, int i, struct threshold_pair pair, struct mask_row *row, uint8_t *kept)
{
    const struct mask_method *m = mask_part(w->m, pair.part);
    m->row(&w->own[pair.part], 0, i, pair.theta, w->method_ws[pair.part], row);
    int n = mask_order(row, w->order), keep = mask_keep(m, row, w->order, n, pair.tau);
    for (int j = 0; j < row->n; j++) kept[j] = row->forced[j] != 0;
    for (int r = 0; r < keep; r++) kept[w->order[r]] = 1;
}

enum status curve_lambdas_of(const struct mask_method *m, const struct mask_args *a,
    const struct threshold_pair *pairs, int n_pairs, void *ws, struct pv_curve *out)
{
    struct work w;
    assert(n_pairs >= 1 && n_pairs <= MAX_LAMBDA_PAIRS);
    TRY(begin(&w, m, a, n_pairs * N_LAMBDAS, ws));
    for (int part = 0; part < n_parts(m); part++) {
        bool wanted = false;
        for (int p = 0; p < n_pairs; p++) wanted |= pairs[p].part == part;
        if (wanted) mask_part(m, part)->prepare(&w.own[part], 0, w.method_ws[part]);
    }
    uint32_t n_possible = 0;
    for (int i = 0; i * w.bq < w.n_rows; i++) {
        int row0 = i * w.bq, n_rows = w.n_rows - row0 < w.bq ? w.n_rows - row0 : w.bq;
        struct mask_row row = {.n = tiles_possible(a->attn->block, i, w.n_rows),
            .p = w.p,
            .forced = w.forced,
            .qb = i,
            .n_qblocks = (w.n_rows + w.bq - 1) / w.bq,
            .n_kblocks = w.n_kblocks};
        memset(w.any_kept, 0, (size_t)row.n);
        for (int p = 0; p < n_pairs; p++) {
            uint8_t *kept = w.kept + (size_t)p * (size_t)w.n_kblocks;
            mark_kept(&w, i, pairs[p], &row, kept);
            for (int j = 0; j < row.n; j++) w.any_kept[j] |= kept[j];
        }
        compute_partials(&w, row0, n_rows, row.n, w.any_kept);
        weigh_means(&w, i, n_rows);
        for (int u0 = 0; u0 < n_rows; u0 += PV_UNIT_ROWS)
            n_possible +=
                (uint32_t)((row0 + (u0 + PV_UNIT_ROWS < n_rows ? u0 + PV_UNIT_ROWS : n_rows) - 1) /
                        w.bk +
                    1);
        for (int p = 0; p < n_pairs; p++) {
            const uint8_t *kept = w.kept + (size_t)p * (size_t)w.n_kblocks;
            leave_others(&w, kept, n_rows);
            for (int u0 = 0; u0 < n_rows; u0 += PV_UNIT_ROWS)
                walk_lambdas(&w, w.points + p * N_LAMBDAS, kept, row.n, row0, u0,
                    n_rows - u0 < PV_UNIT_ROWS ? n_rows - u0 : PV_UNIT_ROWS);
        }
    }
    for (int p = 0; p < n_pairs; p++) {
        out[p].n_possible = n_possible;
        for (int i = 0; i < N_LAMBDAS; i++) {
            const struct accumulator *x = &w.points[p * N_LAMBDAS + i];
            out[p].points[i] = (struct curve_point){finish(&w, x), x->n_kept};
        }
    }
    return OK;
}

enum status curve_lambdas(
    const struct mask_method *m, const struct mask_args *a, void *ws, struct pv_curve *out)
{
    struct threshold_pair pair = {a->heads[0].theta, a->heads[0].tau, a->heads[0].part};
    return curve_lambdas_of(m, a, &pair, 1, ws, out);
}

static enum status output_error(struct work *w, const float *got, struct output_error *out)
{
    const float one = 1;
    struct accumulator p = {.largest = w->largest};
    memset(p.largest, 0, sizeof(float) * (size_t)w->n_largest);
    for (int r = 0; r < w->n_rows; r++) {
        float abs_diff, sq_diff, sq;
        w->ops->row_errors(
            1, w->d, &one, got + (ptrdiff_t)r * w->d, exact_row(w, r), 0, &abs_diff, &sq_diff, &sq);
        p.abs_diff += (double)abs_diff;
        p.sq_diff += (double)sq_diff;
        p.sq += (double)sq;
        if (w->row_abs[r] > 0) note_largest(w, &p, abs_diff / w->row_abs[r]);
    }
    if (!isfinite(p.abs_diff)) return fail(ERR_NUMERIC, "the sparse output has NaN or infinity");
    *out = finish(w, &p);
    return OK;
}

enum status output_errors_of(
    const struct attn_args *dense, const float *got, int n, float *ws, struct output_error *out)
{
    struct mask_args a = {.attn = dense};
    struct work w = {.a = &a,
        .ops = cpu_ops(),
        .n_rows = dense->n_q,
        .d = dense->head_dim,
        .n_largest = curve_n_largest(dense->n_q),
        .row_abs = ws};
    size_t size = (size_t)w.n_rows * (size_t)w.d;
    w.zero_row = calloc((size_t)(w.d + w.n_largest), sizeof(float));
    if (!w.zero_row) return fail(ERR_MEMORY, "no memory for %d row errors", w.n_largest);
    w.largest = w.zero_row + w.d;
    enum status st = measure_exact(&w);
    for (int i = 0; i < n && st == OK; i++) st = output_error(&w, got + (size_t)i * size, &out[i]);
    free(w.zero_row);
    return st;
}

enum status output_error_of(
    const struct attn_args *dense, const float *got, float *ws, struct output_error *out)
{
    return output_errors_of(dense, got, 1, ws, out);
}

/* The output of attention over the tiles of a map, in fp64: METHOD 3 without its skip, and METHOD
 * 9, both from their words and with nothing of the kernels'. */
#include "harness/measure/definition.h"

#include <math.h>
#include <stdlib.h>

/* METHOD 9.1 to 9.3 */
enum { SCALED_ROWS = 64, MEAN_KEYS = 128 };
#define LOG2_E 1.4426950408889634

static double e4m3(double x)
{
    double size = fmin(fabs(x), 448);
    if (isnan(x) || size == 0) return x;
    int power = (int)floor(log2(size));
    double step = ldexp(1, (power < -6 ? -6 : power) - 3);
    return copysign(fmin(nearbyint(size / step) * step, 448), x);
}

/* What rows [from, to) of a block of 64 become; x: [to - from, d], in place. */
static void round_block(enum precision p, double *x, int n)
{
    double largest = 0, scale = 1;
    for (int i = 0; i < n; i++) largest = fmax(largest, fabs(x[i]));
    if (p == PRECISION_INT8 && largest > ldexp(1, -100)) scale = largest / 127;
    if (p == PRECISION_FP8) scale = ldexp(1, -24);
    while (p == PRECISION_FP8 && largest > 448 * scale) scale *= 2;
    for (int i = 0; i < n; i++)
        x[i] = scale *
            (p == PRECISION_INT8 ? fmax(-127, fmin(127, nearbyint(x[i] / scale)))
                                 : e4m3(x[i] / scale));
}

/* Rows [0, n) at positions from `first` on, widened and, with an eight-bit precision, rounded. */
static void take_rows(const float *x, ptrdiff_t row, int first, int n, int d, enum precision p,
    bool centred, double *to)
{
    for (int r = 0; r < n; r++)
        for (int c = 0; c < d; c++) to[r * d + c] = (double)x[r * row + c];
    if (p == PRECISION_FULL) return;
    int n_mean = n < MEAN_KEYS ? n : MEAN_KEYS;
    for (int c = 0; c < d && centred; c++) {
        double mean = 0;
        for (int r = 0; r < n_mean; r++) mean += to[r * d + c] / n_mean;
        for (int r = 0; r < n; r++) to[r * d + c] -= mean;
    }
    for (int r = 0; r < n;) {
        int end = ((first + r) / SCALED_ROWS + 1) * SCALED_ROWS - first;
        if (end > n) end = n;
        round_block(p, to + r * d, (end - r) * d);
        r = end;
    }
}

/* Keys [from, to) of one row join its sum and its output; s: scores in log2 units. */
static void take_keys(const struct attn_args *a, const double *s, int from, int to, double top,
    const double *v, double *sum, double *o)
{
    double largest = -INFINITY;
    for (int j = from; j < to; j++) largest = fmax(largest, s[j]);
    for (int j = from; j < to; j++) {
        double p = exp2(s[j] - top), unit = ceil(largest) - 8;
        *sum += p;
        if (a->pv == PRECISION_FP8) p = e4m3(exp2(s[j] - unit)) * exp2(unit - top);
        for (int c = 0; c < a->head_dim; c++) o[c] += p * v[j * a->head_dim + c];
    }
}

/* METHOD 10: a left-out tile wholly before the query block joins as one key. */
static void take_means(const struct attn_args *a, int r, const double *q, const double *k,
    const double *v, double *top, double *sum, double *o)
{
    int d = a->head_dim, bk = a->block.k, before = (a->q_start + r) / a->block.q * a->block.q / bk;
    for (int j = 0; j < before; j++) {
        if (tile_map_row(a->tiles, 0, r / a->block.q)[j / 64] >> j % 64 & 1) continue;
        double s = 0;
        for (int i = j * bk; i < (j + 1) * bk; i++)
            for (int c = 0; c < d; c++) s += q[c] * k[i * d + c] / bk;
        s = s * (double)a->scale * LOG2_E;
        double higher = fmax(*top, s), shrink = exp2(*top - higher), p = exp2(s - higher);
        *top = higher;
        *sum = *sum * shrink + p * bk;
        for (int c = 0; c < d; c++) {
            o[c] *= shrink;
            for (int i = j * bk; i < (j + 1) * bk; i++) o[c] += p * v[i * d + c];
        }
    }
}

static void take_row(const struct attn_args *a, int r, const double *q, const double *k,
    const double *v, double *s, double *o)
{
    int at = a->q_start + r, d = a->head_dim;
    double top = -INFINITY, sum = 0;
    for (int j = 0; j <= at; j++) {
        s[j] = 0;
        for (int c = 0; c < d; c++) s[j] += q[c] * k[j * d + c];
        s[j] *= (double)a->scale * LOG2_E;
        top = fmax(top, s[j]);
    }
    for (int c = 0; c < d; c++) o[c] = 0;
    for (int from = 0; from <= at; from += SCALED_ROWS) {
        int tile = from / a->block.k,
            to = from + SCALED_ROWS < at + 1 ? from + SCALED_ROWS : at + 1;
        if (tile_map_row(a->tiles, 0, r / a->block.q)[tile / 64] >> tile % 64 & 1)
            take_keys(a, s, from, to, top, v, &sum, o);
    }
    if (a->correct_mean) take_means(a, r, q, k, v, &top, &sum, o);
    for (int c = 0; c < d; c++) o[c] /= sum;
}

enum status definition_output(const struct attn_args *a, double *o)
{
    size_t d = (size_t)a->head_dim, n_kv = (size_t)(a->q_start + a->n_q), n_q = (size_t)a->n_q;
    double *k = malloc(sizeof *k * ((2 * n_kv + n_q) * d + n_kv)), *v = k ? k + n_kv * d : NULL,
           *q = k ? v + n_kv * d : NULL;
    if (!k) return fail(ERR_MEMORY, "no memory to audit %zu keys", n_kv);
    take_rows(a->q, a->q_row, a->q_start, a->n_q, a->head_dim, a->qk, false, q);
    take_rows(a->k, a->k_row, 0, (int)n_kv, a->head_dim, a->qk, true, k);
    take_rows(a->v, a->v_row, 0, (int)n_kv, a->head_dim, a->pv, false, v);
    for (int r = 0; r < a->n_q; r++)
        take_row(a, r, q + (size_t)r * d, k, v, q + n_q * d, o + (size_t)r * d);
    free(k);
    return OK;
}

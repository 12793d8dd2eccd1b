/* Pooling for the prediction, partial results for the tuner, small vector work. Compiled per
 * instruction set. */
#ifndef SG_KERNELS_CPU_TILE_BODY_H
#define SG_KERNELS_CPU_TILE_BODY_H

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

static void pool_sum(const float *x, ptrdiff_t row, int n, int d, float *sum)
{
    for (int r = 0; r < n; r++)
        for (int i = 0; i < d; i++) sum[i] += x[r * row + i];
}

static void pool_unit(const float *x, ptrdiff_t row, int n, int d, const float *centre, float *unit)
{
    for (int r = 0; r < n; r++) {
        const float *p = x + r * row;
        vf squares = v_set1(0);
        int i = 0;
        for (; i + VW <= d; i += VW) {
            vf c = v_load(p + i) - v_load(centre + i);
            squares += c * c;
        }
        float sq = v_sum(squares);
        for (; i < d; i++) sq += (p[i] - centre[i]) * (p[i] - centre[i]);
        if (!(sq > 0)) continue;
        float inv = 1 / sqrtf(sq);
        for (i = 0; i < d; i++) unit[i] += (p[i] - centre[i]) * inv;
    }
}

static void merge_partial(int n, int d, float *to_m, float *to_l, float *to_o, const float *m,
    const float *l, const float *o)
{
    for (int r = 0; r < n; r++) {
        if (m[r] == -INFINITY) continue;
        float top = m[r] > to_m[r] ? m[r] : to_m[r];
        float a = to_m[r] == top ? 1 : to_m[r] == -INFINITY ? 0 : exp2f(to_m[r] - top);
        float b = m[r] == top ? 1 : exp2f(m[r] - top);
        to_m[r] = top;
        to_l[r] = to_l[r] * a + l[r] * b;
        float *t = to_o + r * d;
        const float *f = o + r * d;
        if (a == 1)
            for (int i = 0; i < d; i++) t[i] += f[i] * b;
        else
            for (int i = 0; i < d; i++) t[i] = t[i] * a + f[i] * b;
    }
}

static void row_errors(int n, int d, const float *l, const float *o, const float *exact,
    ptrdiff_t exact_row, float *abs_diff, float *sq_diff, float *sq)
{
    for (int r = 0; r < n; r++) {
        const float *x = o + r * d, *y = exact + r * exact_row;
        float inv = 1 / l[r];
        vf a = v_set1(0), q = v_set1(0), s = v_set1(0), f = v_set1(inv);
        int i = 0;
        for (; i + VW <= d; i += VW) {
            vf got = v_load(x + i) * f, diff = got - v_load(y + i);
            a += v_abs(diff);
            q += diff * diff;
            s += got * got;
        }
        abs_diff[r] = v_sum(a);
        sq_diff[r] = v_sum(q);
        sq[r] = v_sum(s);
        for (; i < d; i++) {
            float got = x[i] * inv, diff = got - y[i];
            abs_diff[r] += fabsf(diff);
            sq_diff[r] += diff * diff;
            sq[r] += got * got;
        }
    }
}

static float dot_weight(const float *x, const void *w, enum dtype dtype, int n)
{
    if (dtype == DTYPE_F32) return dot(x, w, n);
    const uint16_t *h = w;
    vf s0 = v_set1(0), s1 = v_set1(0);
    int i = 0;
    if (dtype == DTYPE_BF16) {
        for (; i + 2 * VW <= n; i += 2 * VW) {
            s0 += v_load(x + i) * v_load_bf16(h + i);
            s1 += v_load(x + i + VW) * v_load_bf16(h + i + VW);
        }
    } else {
        for (; i + 2 * VW <= n; i += 2 * VW) {
            s0 += v_load(x + i) * v_load_f16(h + i);
            s1 += v_load(x + i + VW) * v_load_f16(h + i + VW);
        }
    }
    float tail[16], s = v_sum(s0 + s1);
    for (; i < n; i++) {
        uint16_t one[16] = {h[i]};
        v_store(tail, dtype == DTYPE_BF16 ? v_load_bf16(one) : v_load_f16(one));
        s += x[i] * tail[0];
    }
    return s;
}

static void widen_values(const void *from, enum dtype dtype, float *to, size_t n)
{
    if (dtype == DTYPE_F32) {
        memcpy(to, from, n * sizeof *to);
        return;
    }
    const uint16_t *h = from;
    size_t i = 0;
    for (; i + VW <= n; i += VW)
        v_store(to + i, dtype == DTYPE_BF16 ? v_load_bf16(h + i) : v_load_f16(h + i));
    if (i < n) {
        uint16_t rest[16] = {0};
        float wide[16];
        memcpy(rest, h + i, (n - i) * sizeof *h);
        v_store(wide, dtype == DTYPE_BF16 ? v_load_bf16(rest) : v_load_f16(rest));
        memcpy(to + i, wide, (n - i) * sizeof *to);
    }
}

static void rmsnorm(const float *x, const float *weight, float eps, int n, float *y)
{
    float squares = dot(x, x, n), inv = 1 / sqrtf(squares / (float)n + eps);
    /* of finite values: their squares do not fit a float. An infinity among them gives NaN below.
     */
    if (isinf(squares)) {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
        inv = (float)(1 / sqrt(sum / n + (double)eps));
    }
    for (int i = 0; i < n; i++) y[i] = x[i] * inv * weight[i];
}

static void silu_mul(float *gate, const float *up, size_t n)
{
    size_t i = 0;
    const vf one = v_set1(1), log2e = v_set1(-1.44269504f);
    for (; i + VW <= n; i += VW) {
        vf g = v_load(gate + i);
        v_store(gate + i, g / (one + v_exp2(g * log2e)) * v_load(up + i));
    }
    for (; i < n; i++) gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void logit_fold(
    struct logit_row *row, const float *dense, const float *sparse, int n, int first)
{
    const float *z[2] = {dense, sparse};
    for (int side = 0; side < 2; side++) {
        vf top = v_set1(-INFINITY);
        int i = 0;
        for (; i + VW <= n; i += VW) top = v_max(top, v_load(z[side] + i));
        float best = v_top(top);
        for (; i < n; i++) best = z[side][i] > best ? z[side][i] : best;
        if (best > row->m[side]) {
            float shrink =
                row->m[side] == -INFINITY ? 0 : exp2f((row->m[side] - best) * 1.44269504f);
            row->s[side] *= shrink;
            if (side == 0) row->t *= shrink;
            row->m[side] = best;
        }
        if (best > row->top[side][4]) { /* rare after the first chunks */
            for (i = 0; i < n; i++) {
                if (!(z[side][i] > row->top[side][4])) continue;
                int at = 4;
                for (; at > 0 && z[side][i] > row->top[side][at - 1]; at--) {
                    row->top[side][at] = row->top[side][at - 1];
                    row->top_id[side][at] = row->top_id[side][at - 1];
                }
                row->top[side][at] = z[side][i];
                row->top_id[side][at] = first + i;
            }
        }
    }
    vf zero = v_set1(0), log2e = v_set1(1.44269504f), m0 = v_set1(row->m[0]),
       m1 = v_set1(row->m[1]);
    vf s0 = zero, s1 = zero, t = zero, d01 = zero, sq0 = zero, sq1 = zero, a0 = zero, a1 = zero,
       ad = zero, qd = zero;
    for (int i = 0; i < n; i += VW) {
        vf x, y, keep = v_set1(1);
        if (i + VW <= n) {
            x = v_load(dense + i);
            y = v_load(sparse + i);
        } else {
            float rest[2][16] = {{0}};
            memcpy(rest[0], dense + i, (size_t)(n - i) * sizeof(float));
            memcpy(rest[1], sparse + i, (size_t)(n - i) * sizeof(float));
            x = v_load(rest[0]);
            y = v_load(rest[1]);
            keep = v_first(n - i);
        }
        vf e0 = v_exp2((x - m0) * log2e) * keep, diff = x - y;
        s0 += e0;
        s1 += v_exp2((y - m1) * log2e) * keep;
        t += e0 * diff;
        d01 += x * y;
        sq0 += x * x;
        sq1 += y * y;
        a0 += x;
        a1 += y;
        ad += v_abs(diff);
        qd += diff * diff;
    }
    row->s[0] += v_sum(s0);
    row->s[1] += v_sum(s1);
    row->t += v_sum(t);
    row->dot += v_sum(d01);
    row->sq[0] += v_sum(sq0);
    row->sq[1] += v_sum(sq1);
    row->sum[0] += v_sum(a0);
    row->sum[1] += v_sum(a1);
    row->abs_diff += v_sum(ad);
    row->sq_diff += v_sum(qd);
    if (!isfinite(row->sq[0]) || !isfinite(row->sq[1])) row->bad = true;
}

#define CPU_OPS_TABLE(label)                                                                       \
    {                                                                                              \
        .name = label, .pack_keys = pack_keys, .unit_begin = unit_begin,                           \
        .unit_scores = unit_scores, .unit_tainted = unit_tainted,                                  \
        .unit_accumulate = unit_accumulate, .unit_end = unit_end, .unit_mass = unit_mass,          \
        .attend_row = attend_row, .pool_sum = pool_sum, .pool_unit = pool_unit,                    \
        .merge_partial = merge_partial, .row_errors = row_errors, .dot = dot,                      \
        .dot_weight = dot_weight, .widen = widen_values, .rmsnorm = rmsnorm, .silu_mul = silu_mul, \
        .logit_fold = logit_fold,                                                                  \
    }

#endif

/* Attention on 64-row units: scores, online softmax, P·V. Compiled once per instruction set. */
#ifndef SG_KERNELS_CPU_ATTN_BODY_H
#define SG_KERNELS_CPU_ATTN_BODY_H

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/simd.h"

#include <stdbool.h>

enum { MR = 4, SCORE_STRIDE = 128 };

/* c [MR, nv·VW] = (c · scale[r] or 0) + a [MR, depth] · b [depth, nv·VW]; nv a compile-time
 * constant. */
static inline __attribute__((always_inline)) void mm_tile(int nv, int depth, const float *a,
    ptrdiff_t lda, const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, const float *scale)
{
    vf acc[MR][NV_MAX];
    for (int r = 0; r < MR; r++)
        for (int j = 0; j < nv; j++) {
            acc[r][j] = v_set1(0);
            if (scale) acc[r][j] = v_load(c + r * ldc + j * VW) * v_set1(scale[r]);
        }
    for (int k = 0; k < depth; k++) {
        vf row[NV_MAX];
        for (int j = 0; j < nv; j++) row[j] = v_load(b + k * ldb + j * VW);
        for (int r = 0; r < MR; r++) {
            vf x = v_set1(a[r * lda + k]);
            for (int j = 0; j < nv; j++) acc[r][j] += x * row[j];
        }
    }
    for (int r = 0; r < MR; r++)
        for (int j = 0; j < nv; j++) v_store(c + r * ldc + j * VW, acc[r][j]);
}

/* The same for any number of columns; n_rows is rounded up to MR, so buffers have that many rows.
 */
static void mm(int n_rows, int cols, int depth, const float *a, ptrdiff_t lda, const float *b,
    ptrdiff_t ldb, float *c, ptrdiff_t ldc, const float *scale)
{
    int j = 0;
    for (; j + NV_MAX * VW <= cols; j += NV_MAX * VW)
        for (int r = 0; r < n_rows; r += MR)
            mm_tile(NV_MAX, depth, a + r * lda, lda, b + j, ldb, c + r * ldc + j, ldc,
                scale ? scale + r : NULL);
    for (; j + VW <= cols; j += VW)
        for (int r = 0; r < n_rows; r += MR)
            mm_tile(1, depth, a + r * lda, lda, b + j, ldb, c + r * ldc + j, ldc,
                scale ? scale + r : NULL);
    for (; j < cols; j++)
        for (int r = 0; r < n_rows; r++) {
            float sum = scale ? c[r * ldc + j] * scale[r] : 0;
            for (int k = 0; k < depth; k++) sum += a[r * lda + k] * b[k * ldb + j];
            c[r * ldc + j] = sum;
        }
}

static void pack_keys(const float *k, ptrdiff_t k_row, int n, int d, int block, float *kt)
{
    for (int j0 = 0; j0 < block; j0 += 16) /* 16 keys at a time fill whole cache lines of kt */
        for (int i = 0; i < d; i++)
            for (int j = j0; j < j0 + 16; j++)
                kt[(size_t)i * (size_t)block + (size_t)j] = j < n ? k[j * k_row + i] : 0;
}

static void unit_begin(struct attn_unit *u, const float *q, ptrdiff_t q_row, float scale)
{
    int d = u->head_dim;
    float f = scale * 1.44269504f; /* log2(e): softmax in powers of two */
    for (int r = 0; r < PV_UNIT_ROWS; r++) {
        u->m[r] = -INFINITY;
        u->l[r] = 0;
        for (int i = 0; i < d; i++) u->q[r * d + i] = r < u->n_rows ? q[r * q_row + i] * f : 0;
    }
    memset(u->o, 0, sizeof(float) * PV_UNIT_ROWS * (size_t)d);
}

/* Columns row r of the unit may see in the key block at `pos`. */
static inline int row_limit(const struct attn_unit *u, int r, int pos, int n_keys)
{
    int limit = u->first_pos + r - pos + 1;
    return limit < n_keys ? limit : n_keys;
}

/* Columns of that block in front of a row's window. */
static inline int row_first(const struct attn_unit *u, int r, int pos)
{
    return u->window > 0 ? u->first_pos + r - u->window + 1 - pos : 0;
}

static void unit_scores(
    struct attn_unit *u, const float *kt, int block, int pos, int n_keys, float *m_local)
{
    int d = u->head_dim;
    mm(u->n_rows, block, d, u->q, d, kt, block, u->s, SCORE_STRIDE, NULL);
    for (int r = 0; r < u->n_rows; r++) {
        float *s = u->s + r * SCORE_STRIDE;
        int limit = row_limit(u, r, pos, n_keys), first = row_first(u, r, pos);
        /* v_max gives the second of two that cannot be compared: NaN is passed over */
        vf top = v_set1(-INFINITY);
        if (first > 0) {
            for (int j = 0; j < block && j < limit; j += VW)
                top =
                    v_max(v_load(s + j) + v_mask_before(first - j) + v_mask_after(limit - j), top);
        } else if (limit >= block) {
            for (int j = 0; j < block; j += VW) top = v_max(v_load(s + j), top);
        } else {
            for (int j = 0; j < block && j < limit; j += VW)
                top = v_max(v_load(s + j) + v_mask_after(limit - j), top);
        }
        m_local[r] = v_top(top);
    }
}

static bool unit_tainted(const struct attn_unit *u, int block, int pos, int n_keys)
{
    vf taint = v_set1(0);
    for (int r = 0; r < u->n_rows; r++) {
        int limit = row_limit(u, r, pos, n_keys), first = row_first(u, r, pos);
        for (int j = 0; j < block && j < limit; j += VW)
            taint +=
                v_taint(v_drop(v_keep(v_load(u->s + r * SCORE_STRIDE + j), limit - j), first - j));
    }
    return v_sum(taint) != 0; /* NaN */
}

/* Row r's scores become probabilities as e4m3 holds them (METHOD 9); returns the sum of what they
 * were before. */
static float probabilities_e4m3(struct attn_unit *u, int r, int block, int limit, float m_new)
{
    float *s = u->s + r * SCORE_STRIDE, sum = 0;
    for (int j0 = 0; j0 < block; j0 += EIGHT_ROWS) {
        vf top = v_set1(-INFINITY), all = v_set1(0);
        for (int j = j0; j < j0 + EIGHT_ROWS && j < limit; j += VW)
            top = v_max(v_load(s + j) + v_mask_after(limit - j), top);
        float largest = v_top(top), reach = ceilf(largest);
        vf most = v_set1(reach), scale = v_set1((float)(1 << EIGHT_P_LOG2));
        vf back = v_set1(largest > -INFINITY ? exp2f(reach - (float)EIGHT_P_LOG2 - m_new) : 0);
        for (int j = j0; j < j0 + EIGHT_ROWS; j += VW) {
            vf p = v_keep(v_exp2_below(v_load(s + j) - most) * scale, limit - j);
            v_store(s + j, v_e4m3(p) * back);
            all += p * back;
        }
        sum += v_sum(all);
    }
    return sum;
}

static void unit_accumulate(struct attn_unit *u, const float *v, ptrdiff_t v_row, int block,
    int pos, int n_keys, const float *m_local)
{
    float scale[PV_UNIT_ROWS] = {0};
    for (int r = 0; r < u->n_rows; r++) {
        float *s = u->s + r * SCORE_STRIDE;
        int limit = row_limit(u, r, pos, n_keys), first = row_first(u, r, pos);
        float m_new = m_local[r] > u->m[r] ? m_local[r] : u->m[r];
        scale[r] = u->m[r] == m_new ? 1 : u->m[r] == -INFINITY ? 0 : exp2f(u->m[r] - m_new);
        if (u->p_e4m3) {
            u->m[r] = m_new;
            u->l[r] = u->l[r] * scale[r] + probabilities_e4m3(u, r, block, limit, m_new);
            continue;
        }
        vf m = v_set1(m_new), sum = v_set1(0);
        if (first > 0 && first >= limit) { /* the window begins behind this block */
            scale[r] = 1;
            memset(s, 0, sizeof *s * (size_t)block);
            continue;
        }
        if (first > 0) { /* exact zeros on both sides */
            for (int j = 0; j < block; j += VW) {
                vf p = v_drop(v_keep(v_exp2_below(v_load(s + j) - m), limit - j), first - j);
                v_store(s + j, p);
                sum += p;
            }
        } else if (limit >= block) {
            for (int j = 0; j < block; j += VW) {
                vf p = v_exp2_below(v_load(s + j) - m);
                v_store(s + j, p);
                sum += p;
            }
        } else {
            for (int j = 0; j < block; j += VW) { /* exact zeros behind the diagonal */
                vf p = v_set1(0);
                if (limit > j) p = v_keep(v_exp2_below(v_load(s + j) - m), limit - j);
                v_store(s + j, p);
                sum += p;
            }
        }
        u->m[r] = m_new;
        u->l[r] = u->l[r] * scale[r] + v_sum(sum);
    }
    for (int r = u->n_rows; r % MR; r++)
        memset(u->s + r * SCORE_STRIDE, 0, sizeof(float) * (size_t)block);
    mm(u->n_rows, u->head_dim, n_keys, u->s, SCORE_STRIDE, v, v_row, u->o, u->head_dim, scale);
}

static void unit_end(const struct attn_unit *u, float *o, ptrdiff_t o_row)
{
    int d = u->head_dim;
    for (int r = 0; r < u->n_rows; r++) {
        float inv = 1 / u->l[r];
        for (int i = 0; i < d; i++) o[r * o_row + i] = u->o[r * d + i] * inv;
    }
}

static void unit_mass(const struct attn_unit *u, int block, int pos, int n_keys, float *mass)
{
    for (int r = 0; r < u->n_rows; r++) {
        const float *s = u->s + r * SCORE_STRIDE;
        int limit = row_limit(u, r, pos, n_keys);
        vf m = v_set1(u->m[r]), sum = v_set1(0);
        for (int j = 0; j < block && j < limit; j += VW)
            sum += v_exp2(v_load(s + j) - m) * v_first(limit - j);
        mass[r] += v_sum(sum);
    }
}

static void attend_row(const float *q, float scale, const float *k, ptrdiff_t k_row, const float *v,
    ptrdiff_t v_row, int n, int d, float *scores, float *o)
{
    float top = -INFINITY, sum = 0; /* NaN once a score is none, or infinite */
    for (int j = 0; j < n; j++) {
        scores[j] = dot(q, k + j * k_row, d) * scale * 1.44269504f;
        top = scores[j] > top ? scores[j] : top;
        sum += scores[j] * 0;
    }
    int j = 0;
    vf m = v_set1(top), sums = v_set1(0);
    for (; j + VW <= n; j += VW) {
        vf p = v_exp2(v_load(scores + j) - m);
        v_store(scores + j, p);
        sums += p;
    }
    for (; j < n; j++) sum += scores[j] = exp2f(scores[j] - top);
    sum += v_sum(sums);
    memset(o, 0, sizeof(float) * (size_t)d);
    for (j = 0; j < n; j++) {
        const float *row = v + j * v_row;
        float p = scores[j];
        for (int i = 0; i < d; i++) o[i] += p * row[i];
    }
    for (int i = 0; i < d; i++) o[i] /= sum;
}

#endif

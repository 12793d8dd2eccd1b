#include "kernels/mask/sheet.h"

#include "kernels/cpu/cpu_ops.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <string.h>

const char *const sheet_joins[] = {"mean", "rms", "max", NULL};

static int padded_cols(int n) { return count_blocks(n, SHEET_COLS) * SHEET_COLS; }

size_t sheet_layout(
    const struct mask_args *a, int dim, int row_tokens, int col_tokens, void *ws, struct sheet *s)
{
    int n_rows = count_blocks(a->attn->n_q, row_tokens),
        n_cols = count_blocks(attn_n_kv(a->attn), col_tokens);
    size_t d = (size_t)dim, rows = 0, kt = rows + (size_t)n_rows * d,
           cols = kt + (size_t)padded_cols(n_cols) * d;
    size_t unit = cols + SHEET_COLS * d, scores = unit + PV_UNIT_ROWS * (2 * d + SHEET_COLS);
    size_t end = scores + PV_UNIT_ROWS * (size_t)padded_cols(n_cols);
    float *f = ws;
    if (ws)
        *s = (struct sheet){.dim = dim,
            .row_tokens = row_tokens,
            .col_tokens = col_tokens,
            .n_rows = n_rows,
            .n_cols = n_cols,
            .first_row = a->attn->q_start / row_tokens,
            .rows = f + rows,
            .kt = f + kt,
            .cols = f + cols,
            .unit = f + unit,
            .scores = f + scores};
    return (end * sizeof(float) + 63) / 64 * 64;
}

void sheet_set_cols(struct sheet *s, int first, int n)
{
    cpu_ops()->pack_keys(
        s->cols, s->dim, n, s->dim, SHEET_COLS, s->kt + (size_t)first * (size_t)s->dim);
}

static int cols_seen(const struct sheet *s, int row)
{
    int seen = ((s->first_row + row + 1) * s->row_tokens - 1) / s->col_tokens + 1;
    return seen < s->n_cols ? seen : s->n_cols;
}

void sheet_run(struct sheet *s, float scale,
    void (*fold)(void *ctx, int row, float *scores, int n_seen), void *ctx)
{
    const struct cpu_ops *ops = cpu_ops();
    int stride = padded_cols(s->n_cols);
    float unused[PV_UNIT_ROWS];
    struct attn_unit u = {.head_dim = s->dim,
        .q = s->unit,
        .first_pos = INT_MAX / 2}; /* what a row sees is cut here */
    u.o = u.q + PV_UNIT_ROWS * s->dim;
    u.s = u.o + PV_UNIT_ROWS * s->dim;
    for (int r0 = 0; r0 < s->n_rows; r0 += PV_UNIT_ROWS) {
        u.n_rows = s->n_rows - r0 < PV_UNIT_ROWS ? s->n_rows - r0 : PV_UNIT_ROWS;
        ops->unit_begin(&u, s->rows + (size_t)r0 * (size_t)s->dim, s->dim, scale);
        int most = cols_seen(s, r0 + u.n_rows - 1);
        for (int c = 0; c < most; c += SHEET_COLS) {
            ops->unit_scores(
                &u, s->kt + (size_t)c * (size_t)s->dim, SHEET_COLS, c, SHEET_COLS, unused);
            for (int r = 0; r < u.n_rows; r++)
                memcpy(
                    s->scores + r * stride + c, u.s + r * SHEET_COLS, sizeof(float) * SHEET_COLS);
        }
        for (int r = 0; r < u.n_rows; r++)
            fold(ctx, r0 + r, s->scores + r * stride, cols_seen(s, r0 + r));
    }
}

double sheet_exponentiate(float *scores, int n)
{
    float top = -INFINITY;
    double sum = 0;
    for (int i = 0; i < n; i++) top = scores[i] > top ? scores[i] : top;
    for (int i = 0; i < n; i++) {
        scores[i] = exp2f(scores[i] - top);
        sum += (double)scores[i];
    }
    return sum;
}

void sheet_join(enum sheet_join join, float *mass, const float *row, int n)
{
    if (join == JOIN_MEAN)
        for (int j = 0; j < n; j++) mass[j] += row[j];
    else if (join == JOIN_RMS)
        for (int j = 0; j < n; j++) mass[j] += row[j] * row[j];
    else
        for (int j = 0; j < n; j++) mass[j] = row[j] > mass[j] ? row[j] : mass[j];
}

void sheet_rank(const struct mask_args *a, const float *mass, int i, struct mask_row *out)
{
    double sum = 0;
    mask_force_common(out, a->attn->block, a->attn->q_start / a->attn->block.q + i);
    for (int j = 0; j < out->n; j++) sum += (double)mass[j];
    for (int j = 0; j < out->n; j++) /* an eligible tile never ranks as impossible */
        out->p[j] = sum > 0 ? fmaxf((float)((double)mass[j] / sum), FLT_MIN) : 1 / (float)out->n;
}

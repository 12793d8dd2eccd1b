/* The sheet of scores that most predictors are made of: pooled rows of the queries against pooled
 * columns of the keys, both cut at absolute positions, so that a prefill in chunks pools alike. A
 * row sees a column when its last token sees the column's first: it looks ahead within its own pool
 * alone. Only files of kernels/mask include this.
 */
#ifndef SG_KERNELS_MASK_SHEET_H
#define SG_KERNELS_MASK_SHEET_H

#include "kernels/mask.h"

enum { SHEET_COLS = 128 }; /* columns that are packed together */

struct sheet {
    int dim;                    /* of a pooled vector */
    int row_tokens, col_tokens; /* in one pool */
    int n_rows, n_cols;
    int first_row; /* absolute number of row 0 */
    float *rows;   /* [n_rows, dim], by the caller */
    float *kt;     /* [⌈n_cols / SHEET_COLS⌉, dim, SHEET_COLS], by sheet_set_cols */
    float *cols;   /* [SHEET_COLS, dim] scratch to pool columns in */
    float *unit;   /* q, o and s of an attn_unit */
    float *scores; /* [PV_UNIT_ROWS, n_cols rounded up] */
};

/* Cuts `ws`, returns bytes; with ws NULL only counts. */
size_t sheet_layout(
    const struct mask_args *a, int dim, int row_tokens, int col_tokens, void *ws, struct sheet *s);
/* Columns [first, first + n) from s->cols; first a multiple of SHEET_COLS. */
void sheet_set_cols(struct sheet *s, int first, int n);
/* fold() gets every row in rising order: its scores times scale in units of log2, of the columns
 * that it sees; it may write over them. */
void sheet_run(struct sheet *s, float scale,
    void (*fold)(void *ctx, int row, float *scores, int n_seen), void *ctx);

/* scores → 2^(score − their largest), and returns the sum. */
double sheet_exponentiate(float *scores, int n);

/* Masses of the tiles of every query block, [n_qblocks of the call, n_kblocks], and how rows of a
 * block join. */
enum sheet_join { JOIN_MEAN, JOIN_RMS, JOIN_MAX };
extern const char *const sheet_joins[]; /* names of the above, ended by NULL */
void sheet_join(enum sheet_join join, float *mass, const float *row, int n);
/* p in proportion to the mass, which may have any unit, and the marks that every method sets. */
void sheet_rank(const struct mask_args *a, const float *mass, int i, struct mask_row *out);

static inline int count_blocks(int n, int block) { return (n + block - 1) / block; }

#endif

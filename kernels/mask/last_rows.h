/* What the last rows of a prompt give every key, and every distance: the estimate of methods that
 * draw vertical and slanting lines. Only files of kernels/mask include this. */
#ifndef SG_KERNELS_MASK_LAST_ROWS_H
#define SG_KERNELS_MASK_LAST_ROWS_H

#include "kernels/mask.h"

/* Probabilities of the last n_rows of the call, at most as many as it has, summed by key and by
 * distance, 0 that of a row to its own key. row: scratch. All three: [attn_n_kv]. Returns how many
 * rows there were. */
int last_rows_sums(
    const struct mask_args *a, int head, int n_rows, float *row, float *by_key, float *by_distance);

/* Numbers of the n values in falling order, ties by lower number; scratch and result are [n]. */
struct last_rows_rank {
    float value;
    int at;
};
void last_rows_sort(const float *values, int n, struct last_rows_rank *out);

#endif

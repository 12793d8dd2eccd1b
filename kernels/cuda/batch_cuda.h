/* What a step of several sequences needs beside the kernels of one: each of its rows is the next
 * token of another sequence, whose keys and values stand in a slot of their own.
 *
 * All pointers are device memory; work is queued on the stream. Row r gives the values that it
 * gives alone, bit for bit.
 */
#ifndef SG_KERNELS_CUDA_BATCH_CUDA_H
#define SG_KERNELS_CUDA_BATCH_CUDA_H

#include "kernels/attn.h"

/* attn_decode_cuda_bf16 for n rows. attn: the call of one row, q_row and o_row apart from the next;
 * q_start_at [n] are their positions; slot [n]: k and v of row r begin slot[r] · slot_step elements
 * further. */
struct attn_batch_cuda_args {
    const struct attn_args *attn;
    int n;
    const int32_t *slot;
    ptrdiff_t slot_step;
};
/* Bytes of scratch. */
size_t attn_batch_cuda_workspace(const struct attn_args *attn, int n);
enum status attn_batch_cuda_run(
    const struct attn_batch_cuda_args *a, void *ws, struct stream *stream) MUST_USE;

/* ids [n]: the place of the largest of each row of x [n, width], the lowest on ties; -1 for a row
 * with NaN or infinity. */
enum status argmax_cuda_rows(
    const float *x, int n, int width, int32_t *ids, struct stream *stream) MUST_USE;

#endif

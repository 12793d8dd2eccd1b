/* The metrics of compare.h on the device: the head in vocabulary chunks, each folded into one small
 * record per row as soon as it is there. Memory is one [rows, chunk] block of f32 logits, whatever
 * the vocabulary.
 */
#ifndef SG_KERNELS_CUDA_COMPARE_CUDA_H
#define SG_KERNELS_CUDA_COMPARE_CUDA_H

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda/linear_cuda.h"

enum {
    /* rows of one product, both sides counted: enough to fill the tensor cores */
    COMPARE_CUDA_ROWS = 2048,
    COMPARE_CUDA_CHUNK = 16384,    /* ids per product at most: 128 MiB of logits. Fewer, and what a
                                      product spends on    starting and ending shows: with 4096 it
                                      took 1.14 times as long, though they fit L2 */
    COMPARE_CUDA_CHUNK_MIN = 6144, /* where a session is small */
};

/* What the device knows of one position. */
struct compare_cuda_row {
    struct logit_row row;
    float z_next[2];                             /* logits of the true next token */
    double hidden_dot, hidden_sq[2], hidden_abs; /* of the f32 states */
};

struct compare_cuda_args {
    const uint16_t *head; /* [vocab, k] */
    int vocab, k, n_rows; /* n_rows · sides <= COMPARE_CUDA_ROWS */
    /* one side; of a row only maximum, sum of exponentials and z_next are made */
    bool loss_only;
    /* x holds the dense rows and behind them the sparse ones; false: one side is both */
    bool both;
    const uint16_t *x;   /* [sides · n_rows, k], head input */
    const float *hidden; /* the same in f32 for the hidden-state sums, read before logits are
                            written: it may be the same memory; NULL: not wanted */
    const int32_t *next; /* [n_rows], -1 for none */
    int chunk;           /* ids per product, a multiple of 4 */
    float *logits;       /* scratch, sides · n_rows · chunk */
    struct compare_cuda_row *rows; /* [n_rows], written */
};

/* All pointers are device memory; queued, nothing waits. */
enum status compare_cuda_run(
    const struct compare_cuda_args *a, struct gemm_cuda *g, struct stream *stream) MUST_USE;

/* nll [n] (device) = -log p of the next token from rows made with loss_only or without; 0 where
 * there is none, NaN for a row with a NaN or an infinite logit. */
enum status compare_cuda_nll(const struct compare_cuda_row *rows, const int32_t *next, int n,
    float *nll, struct stream *stream) MUST_USE;

/* On the host, from rows copied back: metrics and sums of rows [0, n). Returns the first row with a
 * NaN or an infinite logit, -1 when there is none. */
int compare_cuda_finish(const struct compare_cuda_row *rows, int n, int vocab, int k,
    const int32_t *next, struct token_metrics *out, struct tensor_sums *sums);

#endif

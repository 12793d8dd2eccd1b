/* Dense against sparse logits, one pass, never an n × vocab buffer.
 *
 * For each position the two logit rows z (dense) and z̃ (sparse) are made in chunks of rows by the
 * caller's head (a linear layer) and reduced to one `struct token_metrics`. Definitions: METHOD 6.
 */
#ifndef SG_KERNELS_COMPARE_H
#define SG_KERNELS_COMPARE_H

#include "base/status.h"
#include "kernels/linear.h"

#include <stdint.h>

struct token_metrics {
    float cosine;         /* z·z̃ / (‖z‖‖z̃‖), in [-1, 1] */
    float cosine_centred; /* the same after subtracting each row's mean */
    float kl;             /* KL(p‖p̃) in nats, >= 0 */
    float nll_dense;      /* -log p(next token), nats; 0 where there is no next token */
    float nll_sparse;
    float delta_p;                  /* p̃(next) - p(next); 0 where there is no next token */
    float logits_l1;                /* mean over the vocabulary of |z - z̃| */
    float logits_rmse;              /* root of the mean square difference */
    float hidden_cosine, hidden_l1; /* of the last hidden states, l1 as mean over dims */
    int32_t top1_dense, top1_sparse;
    int32_t next;         /* the true next token, -1 when there is none */
    uint8_t top1_agree;   /* 0 or 1 */
    uint8_t top5_overlap; /* how many of the dense top 5 are in the sparse top 5 */
};

/* Sums over whole tensors for the flattened metrics of the tuning guide. */
struct tensor_sums {
    /* logits */
    double dot, dense_sq, sparse_sq, abs_diff, sq_diff, n;
    /* hidden states */
    double hidden_dot, hidden_dense_sq, hidden_sparse_sq, hidden_abs_diff, hidden_n;
};

/* Bytes of scratch; 64-byte aligned; independent of n_rows. */
size_t compare_workspace(const struct linear *head, int n_threads);

/* hidden_dense, hidden_sparse: [n_rows, head->k] contiguous, after the final norm. next: [n_rows],
 * -1 for none. out: [n_rows]. sums is added to. When both hidden rows are the same memory the
 * sparse side is not computed again. ERR_NUMERIC names the first row with a NaN or infinite logit.
 */
enum status compare_logits(const struct linear *head, int n_rows, const float *hidden_dense,
    const float *hidden_sparse, const int32_t *next, struct token_metrics *out,
    struct tensor_sums *sums, void *ws, struct par *par) MUST_USE;

#endif

/* The small steps of a transformer layer on the device: everything between two matrix products.
 *
 * All pointers are device memory on 16 bytes; bf16 values travel as uint16_t. The residual stream
 * is f32 or bf16 (x_type), what the tensor cores read is bf16, arithmetic is f32. Widths are
 * multiples of 8. Work is queued on the stream.
 */
#ifndef SG_KERNELS_CUDA_OPS_CUDA_H
#define SG_KERNELS_CUDA_OPS_CUDA_H

#include "base/status.h"
#include "kernels/dtype.h"

#include <stddef.h>
#include <stdint.h>

struct stream;

/* x [n, hidden] = rows `tokens` [n] of the table [vocab, hidden], times scale. */
enum status ops_cuda_embed(const uint16_t *table, const int32_t *tokens, int n, int hidden,
    float scale, void *x, enum dtype x_type, struct stream *stream) MUST_USE;

/* x / sqrt(mean(x²) + eps) · weight, rows of [n, hidden]. One of y (bf16) and y32 is NULL. */
enum status ops_cuda_rmsnorm(const void *x, enum dtype x_type, const float *weight, float eps,
    int n, int hidden, uint16_t *y, float *y32, struct stream *stream) MUST_USE;

/* cosine, sine [n, half]: of (position + r) · inv_freq[i], times scaling, which
 * a frequency of 0 goes without (a channel that stays). position_at [n]: where
 * the kernel finds the positions when it runs, so that a captured graph serves every step; NULL:
 * `position`. */
enum status ops_cuda_angles(const float *inv_freq, float scaling, int position,
    const int32_t *position_at, int n, int half, float *cosine, float *sine,
    struct stream *stream) MUST_USE;

/* x [n, width]: an RMSNorm over each of the n_q heads of q and the n_k heads of k that stand first
 * in a row, with weights q_norm and k_norm [head_dim]; bias [width] is added to the whole row
 * before, NULL: none. */
struct head_norm_cuda_args {
    uint16_t *x;
    const float *bias, *q_norm, *k_norm;
    float eps;
    int n, n_q, n_k, head_dim, width;
};
enum status ops_cuda_head_norm(const struct head_norm_cuda_args *a, struct stream *stream) MUST_USE;

/* Rotate-half RoPE (engine/rope.h) of q in place, of k on its way into the cache, and v into the
 * cache. */
struct rope_cuda_args {
    /* [n, (n_heads + 2 n_kv_heads) head_dim]: q, k, v of a row side by side */
    uint16_t *qkv;
    const float *bias;          /* as wide as a row of qkv, added first; NULL: none */
    const float *cosine, *sine; /* [n, head_dim / 2]; NULL: nothing turns */
    int n, position;            /* rows, and the position of the first in the cache */
    const int32_t *position_at; /* device, [n]; NULL: `position` */
    /* [n] k and v of row r begin slot[r] · slot_step elements further; NULL: they do not */
    const int32_t *slot;
    ptrdiff_t slot_step;
    int n_heads, n_kv_heads, head_dim, capacity;
    uint16_t *k, *v; /* [n_kv_heads, capacity, head_dim] */
};
enum status ops_cuda_rope_pack(const struct rope_cuda_args *a, struct stream *stream) MUST_USE;

/* y [n, m] = silu(gate) · up, gate_up [n, 2 m] with gate in front; bias [2 m] is added first, NULL:
 * none. */
enum status ops_cuda_silu_mul(const uint16_t *gate_up, const float *bias, int n, int m, uint16_t *y,
    struct stream *stream) MUST_USE;

/* x [n, m] += bias [m] */
enum status ops_cuda_add_bias(
    void *x, enum dtype x_type, const float *bias, int n, int m, struct stream *stream) MUST_USE;

/* *bad = 1 when one of n values is NaN or infinite, else left alone; n is a multiple of 8. */
enum status ops_cuda_find_bad(
    const float *x, size_t n, int32_t *bad, struct stream *stream) MUST_USE;

/* Round n values of any type to bf16 (nearest even). */
enum status ops_cuda_to_bf16(
    const void *from, enum dtype dtype, size_t n, uint16_t *to, struct stream *stream) MUST_USE;

/* y [n, m] = x [n rows of that stride, m], exactly. */
enum status ops_cuda_widen(
    const uint16_t *x, ptrdiff_t row, int n, int m, float *y, struct stream *stream) MUST_USE;

#endif

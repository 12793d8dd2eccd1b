/* Error curves on the device: all heads of one sample of a layer at once (METHOD 5; kernels/curve.h
 * is the definition).
 *
 * Q, K, V are bf16 and P is rounded to bf16 before P·V, as in the inference kernels; everything
 * else is f32, sums over rows f64. Of eight bits (attn->qk, attn->pv) tiles are made of what METHOD
 * 9 makes of Q, K, V and P, all of it exact in bf16; predictions and the dense output are not. The
 * dense output they are judged by is merged in f32 from the same tiles, so it is not rounded to
 * bf16, and an output that keeps every tile has no error. Tiles are computed again by every walk
 * over them and never written down. Sums run in a fixed order: a call repeated gives the same bits,
 * however much memory it had.
 */
#ifndef SG_KERNELS_CUDA_CURVE_CUDA_H
#define SG_KERNELS_CUDA_CURVE_CUDA_H

#include "kernels/curve.h"

/* of what walks over tiles leave behind at once; heads that do not fit take turns */
enum { CURVE_CUDA_BUDGET_MIB = 1024 };

struct curve_cuda_args {
    /* one sample: q, k, v bf16 on the device; q_start 0; block; o for the errors alone */
    const struct attn_args *attn;
    enum smooth_k smooth_k;
    const struct mask_method *method; /* what ranks, maybe a mixture; NULL: sparge */
    void *exact;   /* device, curve_cuda_exact_bytes(): the dense output and its norms */
    void *eight;   /* device, filled by curve_cuda_eight(); NULL where products are full */
    size_t budget; /* bytes; 0: CURVE_CUDA_BUDGET_MIB */
};

/* Packs q, k and v of a call that ran on the device into memory of one's own, queued on the stream;
 * *kept: the same call on them, [n, n_heads, d] and [n_kv_heads, n, d], without map, thresholds,
 * ledger and o. */
size_t curve_cuda_keep_bytes(const struct attn_args *a); /* pure */
enum status curve_cuda_keep(
    const struct attn_args *a, void *to, struct stream *stream, struct attn_args *kept) MUST_USE;

/* Writes to `to`, on the device, what eight bits leave of q, k and v of a kept call, whose qk and
 * pv say which; queued on the stream. Bytes are 0 when products are full. */
size_t curve_cuda_eight_bytes(const struct attn_args *kept); /* pure */
enum status curve_cuda_eight(
    const struct attn_args *kept, void *to, struct stream *stream) MUST_USE;

/* NULL, or why the device cannot make such curves: a method that is not ranked there
 * (mask_cuda_refuses), head_dim no multiple of 16 up to 128, more than 1024 key blocks, or what the
 * attention kernels refuse. */
const char *curve_cuda_refuses(const struct curve_cuda_args *a);

size_t curve_cuda_exact_bytes(const struct attn_args *a); /* pure */
/* Bytes of scratch for each of the calls below; `exact` is not looked at. Pure. */
size_t curve_cuda_workspace(const struct curve_cuda_args *a);

/* Fill a->exact, for every head. ERR_NUMERIC names the head whose dense output is all zero or not
 * finite. */
enum status curve_cuda_exact(const struct curve_cuda_args *a, struct stream *stream) MUST_USE;

/* The rest needs the filled a->exact, waits for its result, and writes on the host. */

/* Curves of heads[0 … n) by one part of the method (0 of one that is no mixture): out[i] points to
 * where that of heads[i] goes. */
enum status curve_cuda_thetas(const struct curve_cuda_args *a, int part, const int *heads, int n,
    void *ws, struct stream *stream, struct curve *const *out) MUST_USE;

struct curve_cuda_pairs {
    int head, n;                        /* 1 … MAX_LAMBDA_PAIRS of them */
    const struct threshold_pair *pairs; /* [n] */
    struct pv_curve *out;               /* [n] */
};
enum status curve_cuda_lambdas(const struct curve_cuda_args *a, const struct curve_cuda_pairs *work,
    int n, void *ws, struct stream *stream) MUST_USE;

/* How far attn->o (bf16, of any kernel, every head) is from the dense output, queued on the stream.
 * points: [n_heads] on the device, n_kept 0. What has come back of them is read by
 * curve_cuda_errors(), into out: [n_heads]; ERR_NUMERIC names the head whose output was not finite.
 */
enum status curve_cuda_compare(const struct curve_cuda_args *a, void *ws, struct stream *stream,
    struct curve_point *points) MUST_USE;
enum status curve_cuda_errors(
    const struct curve_point *points, int n_heads, struct output_error *out) MUST_USE;

#endif

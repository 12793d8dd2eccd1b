/* CUDA behind device.h, and the attention and mask kernels that run on it.
 *
 * Kernels run on the device that is current on the calling thread: the one opened last on it, or
 * the one made current by device_cuda_use().
 */
#ifndef SG_KERNELS_CUDA_DEVICE_CUDA_H
#define SG_KERNELS_CUDA_DEVICE_CUDA_H

#include "kernels/attn.h"
#include "kernels/device.h"
#include "kernels/mask.h"

extern const struct device_impl device_cuda;

/* Compute capability of a device, major * 10 + minor; 0 where there is none such. */
int device_cuda_sm(int index);
/* Make the device current on this thread. */
enum status device_cuda_use(struct device *d) MUST_USE;

/* For work on streams that somebody else opened: make device `index` current and say which one was,
 * and make that one current again. */
enum status device_cuda_enter(int index, int *before) MUST_USE;
void device_cuda_leave(int before);
/* Copies from one GPU to another go straight where the machine can, and through the host where it
 * cannot: nothing else depends on it. */
void device_cuda_reach(int from, int to);
/* Queue a copy of host memory, which may be reused at once; at most 64 KiB. */
enum status device_cuda_upload(
    void *to, const void *from, size_t bytes, struct stream *stream) MUST_USE;

/* bf16 in and out. In attn_args every pointer but `tiles` itself is a device pointer: q, k, v, o,
 * tiles->bits, head_sparse, pv_threshold and ledger; q, k, v and o on 16 bytes, strides multiples
 * of 8. A head with head_sparse 0 is dense and skips no P·V; without a map pv_threshold is not
 * read. `par` is not used. Work is queued on the stream; nothing is allocated and nothing waits. */
/* head_dim 64 or 128, compute capability 9.0 */
extern const struct attn_impl attn_dense_sm90_bf16;
/* The same, with a map of 128x64 or 128x128 blocks. */
extern const struct attn_impl attn_sparse_sm90_bf16;
/* head_dim 64 only, and no stage 2 with 128x128: what the former runs where there is work enough.
 */
extern const struct attn_impl attn_sparse_teams_sm90_bf16;
/* Both again with eight-bit products (qk int8 or fp8, pv fp8): METHOD 9. */
extern const struct attn_impl attn_dense_eight_sm90, attn_sparse_eight_sm90;
/* Eight-bit products from compute capability 8.9 up, head_dim 64 or 128, dense and sparse, every
 * block shape; and from 8.0 up, where e4m3 is multiplied as f16. */
extern const struct attn_impl attn_eight_cuda, attn_eight_cuda_f16;
/* One new token, dense, no ledger; compute capability 8.0 and up, head_dim a multiple of 8 up to
 * 256. */
extern const struct attn_impl attn_decode_cuda_bf16;
/* Compute capability 8.0 and up, head_dim a multiple of 16 up to 256, dense and sparse, every block
 * shape. */
extern const struct attn_impl attn_cuda_bf16;

/* Stage 1 on the device for `sparge`, `bound`, `oracle` and mixtures of them. head_dim a multiple
 * of 16 up to 256, blocks of 64 or 128, compute capability 8.0 and up. */
struct mask_cuda_args {
    /* q, k bf16 on the device; shapes, block and ledger as for attention */
    const struct attn_args *attn;
    const struct head_params *heads; /* device, [n_heads]; lambda is not read */
    enum smooth_k smooth_k;
    /* 0: tau; else the fraction of possible tiles to keep */
    float topk;
    const struct mask_method *method; /* NULL: sparge */
};
const char *mask_cuda_refuses(const struct mask_cuda_args *a);
size_t mask_cuda_workspace(const struct mask_cuda_args *a);
/* Fill `tiles` (host struct from tile_map_shape, device bits) and count forced tiles into
 * attn->ledger. */
enum status mask_cuda_predict(const struct mask_cuda_args *a, const struct tile_map *tiles,
    void *ws, struct stream *stream) MUST_USE;

/* The masses that a predictor ranks by, of all heads, whatever `heads` says: mass [n_heads, query
 * blocks of this call, key blocks] (device), in any unit, the same within a row; entries of tiles
 * under no row's reach are left alone. For predictors that have masses: `bound` and `oracle`. */
bool mask_cuda_has_mass(const struct mask_method *method);
size_t mask_cuda_mass_workspace(const struct mask_cuda_args *a, const struct mask_method *method);
enum status mask_cuda_mass(const struct mask_cuda_args *a, const struct mask_method *method,
    float *mass, void *ws, struct stream *stream) MUST_USE;

/* What these do for `bound`. */
const char *bound_cuda_refuses(const struct mask_cuda_args *a, const struct mask_method *method);
size_t bound_cuda_workspace(const struct mask_cuda_args *a, const struct mask_method *method);
enum status bound_cuda_predict(const struct mask_cuda_args *a, const struct mask_method *method,
    int part, const struct tile_map *tiles, void *ws, struct stream *stream) MUST_USE;
enum status bound_cuda_mass(const struct mask_cuda_args *a, const struct mask_method *method,
    float *mass, void *ws, struct stream *stream) MUST_USE;

/* And for `oracle`: the attention that the block's rows give the tile, over rows by their sum (0),
 * root of the sum of squares (1) or largest (2). Twice Q·Kᵀ, and far from the speed of attention:
 * for judging predictors. */
enum status oracle_cuda_mass(
    const struct attn_args *a, int over, float *mass, struct stream *stream) MUST_USE;

#endif

/* What the host does for attn_sm90.cu and attn_eight_sm90.cu alike: what they take, tensor maps,
 * parameters. */
#ifndef SG_KERNELS_CUDA_ATTN_SM90_HOST_CUH
#define SG_KERNELS_CUDA_ATTN_SM90_HOST_CUH

#include "kernels/cuda/attn_sm90_producer.cuh"
#include "kernels/cuda/cuda_check.cuh"

namespace attn_sm90
{

inline enum status map_tensor(CUtensorMap *map, const char *what, const void *at, int head_dim,
    int rows, int heads, ptrdiff_t row_stride, ptrdiff_t head_stride, int box_rows, int box_panels)
{
    cuda_encode_tiled encode;
    TRY(cuda_encode_tiled_find(&encode));
    cuuint64_t dims[4] = {
        PANEL, (cuuint64_t)rows, (cuuint64_t)(head_dim / PANEL), (cuuint64_t)heads};
    cuuint64_t strides[3] = {(cuuint64_t)row_stride * 2, PANEL_BYTES, (cuuint64_t)head_stride * 2};
    cuuint32_t box[4] = {PANEL, (cuuint32_t)box_rows, (cuuint32_t)box_panels, 1},
               steps[4] = {1, 1, 1, 1};
    CUresult r = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, (void *)at, dims, strides, box,
        steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r != CUDA_SUCCESS)
        return fail(ERR_DEVICE,
            "tensor map of %s: driver error %d (%d rows of stride %td, %d heads of stride %td)",
            what, (int)r, rows, row_stride, heads, head_stride);
    return OK;
}

/* `kv_head_bytes`: of K and V of one head, as they are read. */
template <keys KEYS>
void fill_params(params *p, const struct attn_args *a, int rows, double kv_head_bytes, void *ws)
{
    *p = {};
    p->n_q = a->n_q, p->q_start = a->q_start, p->n_kv = attn_n_kv(a), p->n_heads = a->n_heads;
    p->group = a->n_heads / a->n_kv_heads;
    p->first_row = a->q_start;
    p->n_rows = (p->n_kv - p->first_row + rows - 1) / rows;
    /* K and V of the heads that run side by side should stay in L2 (50 or 60 MB, half of it near
     * each multiprocessor); 32 MB of them leaves room for Q and O. */
    int kv_together = (int)(32e6 / kv_head_bytes);
    if (kv_together < 1) kv_together = 1;
    p->heads_together = kv_together >= a->n_kv_heads ? a->n_heads : kv_together * p->group;
    p->scale_log2 = a->scale * 1.44269504f;
    p->count_q = a->block.q ? a->block.q : 128, p->count_k = a->block.k ? a->block.k : 128;
    if (KEYS != KEYS_DENSE) {
        p->bits = a->tiles->bits, p->words_per_row = a->tiles->words_per_row,
        p->n_map_rows = a->tiles->n_qblocks;
        p->head_sparse = a->head_sparse;
    }
    p->pv_threshold = a->pv_threshold;
    p->ledger = a->ledger;
    p->next_item = (int *)ws;
}

inline bool aligned(const void *at, ptrdiff_t row, ptrdiff_t head)
{
    return (uintptr_t)at % 16 == 0 && row % 8 == 0 && head % 8 == 0 && row > 0 && head > 0;
}

inline const char *call_refuses(const struct attn_args *a)
{
    if (a->dtype != DTYPE_BF16) return "takes bf16 only";
    if (a->head_dim != 64 && a->head_dim != 128) return "head_dim is not 64 or 128";
    if (a->window > 0) return "has no sliding window";
    if (a->n_q < 1 || a->q_start < 0) return "no query rows";
    if (a->n_heads % a->n_kv_heads != 0) return "query heads are not a multiple of kv heads";
    if (!(a->scale > 0)) return "scale is not positive";
    if (!aligned(a->q, a->q_row, a->q_head) || !aligned(a->k, a->k_row, a->k_head) ||
        !aligned(a->v, a->v_row, a->v_head) || !aligned(a->o, a->o_row, a->o_head))
        return "pointers and strides are not multiples of 16 bytes";
    if (cuda_current_sm() != 90) return "the current device is not compute capability 9.0";
    return NULL;
}

inline const char *map_refuses(const struct attn_args *a)
{
    if (a->tiles == NULL) return "no tile map";
    if (a->correct_mean) return ATTN_CORRECTS_NOT;
    if (a->tiles->block.q != 128 || (a->tiles->block.k != 64 && a->tiles->block.k != 128))
        return "block shape is not 128x64 or 128x128";
    if (a->block.q != a->tiles->block.q || a->block.k != a->tiles->block.k)
        return "block shape of the call and of its map differ";
    if (a->q_start % 128 != 0) return "q_start is not a multiple of 128";
    return NULL;
}

} // namespace attn_sm90

#endif

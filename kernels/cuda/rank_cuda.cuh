/* From the masses of tiles to rows of the map: what `bound` and `oracle` share. Private to the .cu
 * files. */
#ifndef SG_KERNELS_CUDA_RANK_CUDA_CUH
#define SG_KERNELS_CUDA_RANK_CUDA_CUH

extern "C" {
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"

/* Query blocks [first, first + n_blocks) of every head. Masses are either given, or made from the
 * logarithms (base 2) of each tile's sum in each pool of rows, and of each pool's whole row. What
 * is kept goes to `bits`, or the masses, over the largest of their row, to `mass`. */
struct rank_params {
    int first, n_blocks;
    int n_q, n_kv, q_start, n_heads, block_q, block_k, n_qblocks, n_kblocks, words;
    const float *given; /* [n_heads, n_qblocks, n_kblocks]; NULL: */
    const float *sums;  /* [n_heads, n_blocks, n_kblocks, pools] */
    const float *norms; /* [splits, n_heads, n_pools]: of parts of a row */
    int splits;
    int pools, n_pools; /* in a block, 1 … 64; in the call */
    int join;           /* of pools: 0 mean, 1 root mean square, 2 largest */
    float *mass;        /* [n_heads, n_qblocks, n_kblocks], of every head; NULL: */
    uint32_t *bits;
    const struct head_params
        *heads; /* those that are sparse, by this part; NULL: all, for `mass` */
    int part;
    struct head_ledger *ledger;
    double topk;   /* the decimal number; 0: tau of the head */
    bool relative; /* the rule max-relative, else top-p */
};

/* NULL, or why the method's rule has no body here. */
const char *rank_cuda_refuses(const struct mask_cuda_args *m, const struct mask_method *method);
/* What the call and the method fix; pools and sources are the caller's. */
struct rank_params rank_cuda_params(const struct mask_cuda_args *m,
    const struct mask_method *method, int part, const struct tile_map *tiles);
enum status rank_cuda_rows(const struct rank_params &p, cudaStream_t stream) MUST_USE;

#endif

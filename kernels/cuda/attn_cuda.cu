/* Causal attention for any GPU with bf16 tensor cores (compute capability 8.0 and up), dense and
 * block-sparse, for head dimensions up to 256 and every block shape: the path taken where
 * attn_sm90.cu refuses.
 *
 * One CTA per 64 query rows, the unit of stage 2, and head; four warps of 16 rows. Keys and values
 * pass through one shared buffer. Plain and synchronous: it is here to be right, not to be fast.
 */
extern "C" {
#include "kernels/attn.h"
#include "kernels/cuda/device_cuda.h"
}
#include "kernels/cuda/cuda_check.cuh"
#include "kernels/cuda/unit_cuda.cuh"

#include <math.h>

namespace
{

enum { ROWS = PV_UNIT_ROWS, THREADS = 128, WARP_ROWS = 16 };

struct params {
    struct attn_args a;
    const uint64_t *bits;
    int words_per_row, n_map_rows;
    __nv_bfloat16
        *means; /* [2, kv heads, n_means, head_dim]: of keys, then of values; NULL: none */
    int n_means;
};

/* One tile of one kv head: the mean of its keys or of its values. */
__global__ void pool_means(const __grid_constant__ params p)
{
    const struct attn_args &a = p.a;
    const int tile = blockIdx.x, kv = blockIdx.y, values = blockIdx.z;
    const auto *from = (const __nv_bfloat16 *)(values ? a.v : a.k) +
        kv * (values ? a.v_head : a.k_head) +
        (ptrdiff_t)tile * a.block.k * (values ? a.v_row : a.k_row);
    const ptrdiff_t row = values ? a.v_row : a.k_row;
    auto *to =
        p.means + (((size_t)values * a.n_kv_heads + kv) * p.n_means + tile) * (size_t)a.head_dim;
    for (int c = threadIdx.x; c < a.head_dim; c += blockDim.x) {
        float sum = 0;
        for (int r = 0; r < a.block.k; r++) sum += __bfloat162float(from[r * row + c]);
        to[c] = __float2bfloat16(sum / (float)a.block.k);
    }
}

template <int DIM, int KEYS>
__global__ __launch_bounds__(THREADS) void attn_kernel(const __grid_constant__ params p)
{
    extern __shared__ __align__(16) __nv_bfloat16 memory[];
    constexpr int LINE = DIM + 8; /* as fetch() lays rows out */
    __nv_bfloat16 *q = memory, *kv = q + ROWS * LINE;
    const struct attn_args &a = p.a;
    const int n_kv = a.q_start + a.n_q, head = blockIdx.y,
              kv_head = head / (a.n_heads / a.n_kv_heads);
    /* longest first */
    const int unit0 = (a.q_start / ROWS + (int)(gridDim.x - 1 - blockIdx.x)) * ROWS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32,
              row = unit0 + warp * WARP_ROWS + lane / 4;
    const int last = min(unit0 + ROWS, n_kv) - 1;
    const bool sparse = p.bits != NULL && (a.head_sparse == NULL || a.head_sparse[head]);
    const bool skip = sparse && a.pv_threshold != NULL;
    const float lambda = skip ? a.pv_threshold[head] : 0;
    const float scale = a.scale * 1.44269504f;
    const uint64_t *bits = NULL;
    if (sparse)
        bits = p.bits +
            ((size_t)head * p.n_map_rows + (unit0 - a.q_start) / a.block.q) * p.words_per_row;
    const auto *kp = (const __nv_bfloat16 *)a.k + kv_head * a.k_head;
    const auto *vp = (const __nv_bfloat16 *)a.v + kv_head * a.v_head;

    fetch<DIM, THREADS>(q, (const __nv_bfloat16 *)a.q + head * a.q_head - a.q_start * a.q_row,
        a.q_row, unit0, ROWS, a.q_start, n_kv, a.head_dim);
    /* seen: of skipped tiles too. top: of what was added, so that sums never shrink to nothing
     * under a maximum that was only seen (METHOD 3). */
    float o[DIM / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, seen[2] = {-INFINITY, -INFINITY},
                  sum[2] = {0, 0};
    bool empty[2] = {true, true}, valid[2];
    for (int r = 0; r < 2; r++) valid[r] = row + 8 * r >= a.q_start && row + 8 * r < n_kv;
    int tiles = 0, units = 0, corrected = 0;
    /* behind the tiles come groups of KEYS pseudo-keys for those that are left out before this
     * query block */
    const int before = sparse && p.means != NULL ? unit0 / a.block.q * a.block.q / KEYS : 0;
    const int n_tiles = last / KEYS + 1, n_steps = n_tiles + (before + KEYS - 1) / KEYS;
    const auto *k_means = p.means + (size_t)kv_head * p.n_means * a.head_dim,
               *v_means = k_means + (size_t)a.n_kv_heads * p.n_means * a.head_dim;
    auto is_left = [&](int tile) { return tile < before && !(bits[tile / 64] >> (tile % 64) & 1); };
    const int first = a.window > 0 ? max(max(unit0, a.q_start) - a.window + 1, 0) / KEYS : 0;
    for (int j = first; j < n_steps; j++) {
        const bool means = j >= n_tiles;
        if (sparse && !means && !(bits[j / 64] >> (j % 64) & 1)) continue;
        const int k0 = (means ? j - n_tiles : j) * KEYS;
        if (means) {
            int left = 0;
            for (int i = 0; i < KEYS; i++) left += is_left(k0 + i);
            if (!left) continue;
            corrected += left;
        } else {
            tiles++;
        }
        __syncthreads();
        if (means) fetch<DIM, THREADS>(kv, k_means, a.head_dim, k0, KEYS, 0, before, a.head_dim);
        else fetch<DIM, THREADS>(kv, kp, a.k_row, k0, KEYS, 0, n_kv, a.head_dim);
        __syncthreads();
        float s[KEYS / 8][4] = {};
        multiply_keys<DIM, KEYS>(s, q + warp * WARP_ROWS * LINE, kv, lane);
        __syncthreads();
        if (means) fetch<DIM, THREADS>(kv, v_means, a.head_dim, k0, KEYS, 0, before, a.head_dim);
        else fetch<DIM, THREADS>(kv, vp, a.v_row, k0, KEYS, 0, n_kv, a.head_dim);

        float local[2] = {-INFINITY, -INFINITY}, now[2];
        bool wanted = false;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = k0 + n * 8 + lane % 4 * 2 + i % 2, at = row + i / 2 * 8;
                if (means) /* KEYS keys that are alike */
                    s[n][i] = is_left(key) ? s[n][i] + log2f((float)KEYS) / scale : -INFINITY;
                else if (key > at || (a.window > 0 && key <= at - a.window)) s[n][i] = -INFINITY;
                local[i / 2] = max_nan(local[i / 2], s[n][i]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            local[r] = max_nan(local[r], __shfl_xor_sync(0xffffffffu, local[r], 1));
            local[r] = max_nan(local[r], __shfl_xor_sync(0xffffffffu, local[r], 2));
            now[r] = max_nan(top[r], local[r]);
            seen[r] = max_nan(seen[r], local[r]);
            /* not "> 0": NaN is for nobody to skip */
            bool below = local[r] == -INFINITY || (local[r] - seen[r]) * scale + lambda <= 0;
            wanted |= valid[r] && (empty[r] || !below);
        }
        bool live = __syncthreads_or(!skip || wanted || means); /* V has arrived, too */
        units += live && !means;
        if (!live) continue;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float shrink = now[r] == -INFINITY ? 1.0f : exp2f((top[r] - now[r]) * scale);
            top[r] = now[r];
            sum[r] *= shrink;
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) o[n][2 * r] *= shrink, o[n][2 * r + 1] *= shrink;
            empty[r] &= local[r] == -INFINITY;
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float base = top[i / 2] == -INFINITY ? 0.0f : top[i / 2];
                s[n][i] = exp2f((s[n][i] - base) * scale);
                sum[i / 2] += s[n][i];
            }
        multiply_values<DIM, KEYS>(o, s, kv, lane);
    }
    store_rows(a, head, row, valid, sum, o);
    if (a.ledger != NULL && threadIdx.x == 0)
        count_unit(a, head, last, last / KEYS + 1 - first, tiles, units, corrected);
}

template <int DIM, int KEYS> enum status launch(const params &p, cudaStream_t stream)
{
    auto *kernel = attn_kernel<DIM, KEYS>;
    const int bytes = (ROWS + KEYS) * (DIM + 8) * 2;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    const struct attn_args &a = p.a;
    dim3 grid((unsigned)((attn_n_kv(&a) - 1) / ROWS - a.q_start / ROWS + 1), (unsigned)a.n_heads);
    kernel<<<grid, THREADS, (size_t)bytes, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

template <int DIM> enum status launch_dim(const params &p, cudaStream_t stream)
{
    return p.a.block.k == 128 ? launch<DIM, 128>(p, stream) : launch<DIM, 64>(p, stream);
}

const char *refuses(const struct attn_args *a)
{
    if (!attn_is_full(a)) return "takes no eight-bit products";
    if (a->dtype != DTYPE_BF16) return "takes bf16 only";
    if (a->head_dim < 16 || a->head_dim > 256 || a->head_dim % 16 != 0)
        return "head_dim is not a multiple of 16 up to 256";
    if (a->n_q < 1 || a->q_start < 0) return "no query rows";
    const char *why = portable_refuses(a);
    if (why != NULL) return why;
    if (cuda_current_sm() < 80) return "the current device is below compute capability 8.0";
    return NULL;
}

/* Key blocks wholly before the last query block. */
int n_means(const struct attn_args *a)
{
    return tiles_before(a->block, (attn_n_kv(a) - 1) / a->block.q);
}

size_t workspace(const struct attn_args *a)
{
    return a->tiles != NULL && a->correct_mean ? 2 * sizeof(__nv_bfloat16) * (size_t)a->n_kv_heads *
            (size_t)n_means(a) * (size_t)a->head_dim
                                               : 0;
}

enum status run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    (void)par;
    params p = {*a, NULL, 0, 0, NULL, 0};
    if (a->tiles != NULL)
        p.bits = a->tiles->bits, p.words_per_row = a->tiles->words_per_row,
        p.n_map_rows = a->tiles->n_qblocks;
    cudaStream_t s = (cudaStream_t)stream;
    if (a->tiles != NULL && a->correct_mean && n_means(a) > 0) {
        p.means = (__nv_bfloat16 *)ws, p.n_means = n_means(a);
        dim3 grid((unsigned)p.n_means, (unsigned)a->n_kv_heads, 2);
        pool_means<<<grid, 64, 0, s>>>(p);
        CUDA_TRY(cudaGetLastError());
    }
    if (a->head_dim <= 32) return launch_dim<32>(p, s);
    if (a->head_dim <= 64) return launch_dim<64>(p, s);
    if (a->head_dim <= 96) return launch_dim<96>(p, s);
    if (a->head_dim <= 128) return launch_dim<128>(p, s);
    return launch_dim<256>(p, s);
}

} // namespace

extern "C" {
const struct attn_impl attn_cuda_bf16 = {"attn_cuda_bf16", refuses, workspace, run};
}

/* Curves on the device, first half: stage 1 for every θ at once, and the dense output. */
#include "kernels/cuda/curve_tile_cuda.cuh"

namespace
{

enum { POOL_THREADS = 128, POOL_WARPS = POOL_THREADS / 32, MAX_DIM = 128 };

__device__ void sum_rows(const __nv_bfloat16 *x, ptrdiff_t row, int n, int d, float *sum)
{
    for (int c = threadIdx.x; c < d; c += POOL_THREADS) {
        float s = 0;
#pragma unroll 8
        for (int r = 0; r < n; r++) s += __bfloat162float(x[r * row + c]);
        sum[c] = s;
    }
}

/* ‖mean of the unit rows about the centre‖²; thread 0's result counts. units: shared [POOL_WARPS,
 * MAX_DIM]. */
__device__ float similarity(
    const __nv_bfloat16 *x, ptrdiff_t row, int n, int d, const float *centre, float *units)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float unit[MAX_DIM / 32] = {}, c[MAX_DIM / 32];
    for (int i = 0; i < MAX_DIM / 32; i++)
        c[i] = centre != NULL && lane + 32 * i < d ? centre[lane + 32 * i] : 0;
    for (int r = warp; r < n; r += POOL_WARPS) {
        float e[MAX_DIM / 32], square = 0;
        for (int i = 0; i < MAX_DIM / 32; i++) {
            e[i] = lane + 32 * i < d ? __bfloat162float(x[r * row + lane + 32 * i]) - c[i] : 0;
            square = fmaf(e[i], e[i], square);
        }
        square = curve_warp_sum(square);
        float inverse = square > 0 ? 1 / sqrtf(square) : 0;
        for (int i = 0; i < MAX_DIM / 32; i++) unit[i] = fmaf(e[i], inverse, unit[i]);
    }
    for (int i = 0; i < MAX_DIM / 32; i++) units[warp * MAX_DIM + lane + 32 * i] = unit[i];
    __syncthreads();
    float square = 0;
    for (int i = 0; i < MAX_DIM / 32; i++) {
        float total = 0;
        for (int w = 0; w < POOL_WARPS; w++) total += units[w * MAX_DIM + lane + 32 * i];
        square = fmaf(total, total, square);
    }
    return curve_warp_sum(square) / ((float)n * (float)n);
}

__global__ __launch_bounds__(POOL_THREADS) void pool_queries_kernel(
    const __grid_constant__ curve_params p)
{
    __shared__ float sum[MAX_DIM], units[POOL_WARPS * MAX_DIM];
    const int block = blockIdx.x, x = blockIdx.y, row0 = block * p.bq, n = min(p.bq, p.n - row0);
    const size_t at = (size_t)x * p.n_qblocks + block;
    const __nv_bfloat16 *q = p.q + curve_head(p, x) * p.q_head + row0 * p.q_row;
    sum_rows(q, p.q_row, n, p.d, sum);
    for (int c = threadIdx.x; c < p.d; c += POOL_THREADS)
        p.q_mean[at * p.d + c] = sum[c] / (float)n;
    float sim = similarity(q, p.q_row, n, p.d, NULL, units);
    if (threadIdx.x == 0) p.q_sim[at] = sim;
}

__global__ __launch_bounds__(POOL_THREADS) void sum_keys_kernel(
    const __grid_constant__ curve_params p)
{
    const int j = blockIdx.x, kv = blockIdx.y, row0 = j * p.bk;
    sum_rows(p.k + kv * p.k_head + row0 * p.k_row, p.k_row, min(p.bk, p.n - row0), p.d,
        p.k_mean + ((size_t)kv * p.n_kblocks + j) * p.d);
}

/* Sums become means, and each block gets its centre. One thread per dimension. */
__global__ void centre_keys_kernel(const __grid_constant__ curve_params p)
{
    float *sums = p.k_mean + (size_t)blockIdx.x * p.n_kblocks * p.d + threadIdx.x;
    float *centre = p.k_centre + (size_t)blockIdx.x * p.n_kblocks * p.d + threadIdx.x;
    double total = 0;
    for (int j = 0; j < p.n_kblocks && p.smooth == SMOOTH_K_GLOBAL; j++)
        total += (double)sums[(size_t)j * p.d];
    for (int j = 0; j < p.n_kblocks; j++) {
        int n = min(p.bk, p.n - j * p.bk);
        float sum = sums[(size_t)j * p.d];
        if (p.smooth == SMOOTH_K_RUNNING) total += (double)sum;
        int seen = p.smooth == SMOOTH_K_GLOBAL ? p.n : j * p.bk + n;
        centre[(size_t)j * p.d] = p.smooth == SMOOTH_K_OFF ? 0 : (float)(total / seen);
        sums[(size_t)j * p.d] = sum / (float)n;
    }
}

__global__ __launch_bounds__(POOL_THREADS) void compare_keys_kernel(
    const __grid_constant__ curve_params p)
{
    __shared__ float units[POOL_WARPS * MAX_DIM];
    const int j = blockIdx.x, kv = blockIdx.y, row0 = j * p.bk;
    const size_t at = (size_t)kv * p.n_kblocks + j;
    float sim = similarity(p.k + kv * p.k_head + row0 * p.k_row, p.k_row, min(p.bk, p.n - row0),
        p.d, p.k_centre + at * p.d, units);
    if (threadIdx.x == 0) p.k_sim[at] = sim;
}

/* Scores of one query block against every key block it may see, and which θ mark its tiles alike.
 * The sets of similar blocks are nested in θ, so their size tells them apart. */
__global__ __launch_bounds__(POOL_THREADS) void score_kernel(const __grid_constant__ curve_params p)
{
    __shared__ float q[MAX_DIM];
    const int block = blockIdx.x, x = blockIdx.y, kv = curve_head(p, x) / p.group;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n = curve_tiles(p, block);
    const size_t at = (size_t)x * p.n_qblocks + block;
    for (int c = threadIdx.x; c < p.d; c += POOL_THREADS) q[c] = p.q_mean[at * p.d + c];
    __syncthreads();
    for (int j = warp; j < n; j += POOL_WARPS) {
        const float *k = p.k_mean + ((size_t)kv * p.n_kblocks + j) * p.d;
        float dot = 0;
        for (int c = lane; c < p.d; c += 32) dot = fmaf(q[c], k[c], dot);
        dot = curve_warp_sum(dot);
        if (lane == 0) p.score[at * p.n_kblocks + j] = dot * p.scale;
    }
    if (warp != 0 || p.first_theta == NULL) return;
    static_assert(N_THETAS == 32, "one lane per threshold");
    const float theta = (float)(lane - 16) / 16;
    const float *k_sim = p.k_sim + (size_t)kv * p.n_kblocks;
    int n_similar = 0, n_free = 0; /* free: kept by rank alone */
    for (int j = 0; j < n; j++) {
        bool similar = k_sim[j] > theta;
        n_similar += similar;
        n_free += similar && j > 0 && (j + 1) * p.bk <= block * p.bq;
    }
    int key = p.q_sim[at] > theta && n_free > 0 ? n_similar : -1,
        before = __shfl_up_sync(0xffffffffu, key, 1);
    uint32_t firsts = __ballot_sync(0xffffffffu, lane == 0 || key != before);
    int first = 31 - __clz((int)(firsts & (0xffffffffu >> (31 - lane))));
    /* of eight bits a block errs although it keeps every tile, so it is walked like the others */
    p.first_theta[at * N_THETAS + lane] =
        (uint8_t)(key < 0 && !p.eight ? (int)CURVE_ALL_KEPT : first);
}

/* The dense output of one unit of a head: every tile in order. */
template <int DIM, int KEYS>
__global__ __launch_bounds__(TILE_THREADS, DIM == 64 ? 3 : 2) void dense_kernel(
    const __grid_constant__ curve_params p)
{
    extern __shared__ __align__(16) char memory[];
    const int head = blockIdx.y,
              unit0 = (int)(gridDim.x - 1 - blockIdx.x) * UNIT; /* longest first */
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    unit_rows<DIM, KEYS> u;
    unit_chain<DIM> chain;
    u.begin(p, memory, head, unit0, true);
    chain.clear();
    join_tiles<DIM, KEYS>(
        p, u, false, chain, u.last / KEYS + 1, [](int i) { return i; }, [](int) {});
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int at = unit0 + warp * WARP_ROWS + lane / 4 + 8 * r;
        float inverse = 1 / chain.l[r], sum = 0, square = 0;
        float *to = p.exact + ((size_t)head * p.n + at) * p.d + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            float e0 = chain.o[n][2 * r] * inverse, e1 = chain.o[n][2 * r + 1] * inverse;
            sum += fabsf(e0) + fabsf(e1);
            square = fmaf(e0, e0, fmaf(e1, e1, square));
            if (at < p.n && n * 8 < p.d) *(float2 *)(to + n * 8) = make_float2(e0, e1);
        }
#pragma unroll
        for (int i = 1; i < 4; i *= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, i);
            square += __shfl_xor_sync(0xffffffffu, square, i);
        }
        if (at < p.n && lane % 4 == 0) {
            p.row_abs[(size_t)head * p.n + at] = sum;
            p.row_sq[(size_t)head * p.n + at] = square;
        }
    }
}

/* Norms of one head's dense output, by query block and altogether. */
__global__ void norms_kernel(const __grid_constant__ curve_params p)
{
    __shared__ double block_abs[CURVE_THREADS];
    const int head = blockIdx.x;
    double *block_sq = p.block_sq + (size_t)head * p.n_qblocks, total_abs = 0, total_sq = 0;
    for (int b0 = 0; b0 < p.n_qblocks; b0 += CURVE_THREADS) {
        int block = b0 + threadIdx.x;
        double sum = 0, square = 0;
        for (int r = block * p.bq; block < p.n_qblocks && r < min((block + 1) * p.bq, p.n); r++) {
            sum += (double)p.row_abs[(size_t)head * p.n + r];
            square += (double)p.row_sq[(size_t)head * p.n + r];
        }
        block_abs[threadIdx.x] = sum;
        if (block < p.n_qblocks) block_sq[block] = square;
        __syncthreads();
        for (int i = 0; threadIdx.x == 0 && i < min((int)CURVE_THREADS, p.n_qblocks - b0); i++) {
            total_abs += block_abs[i];
            total_sq += block_sq[b0 + i];
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) p.head_norms[2 * head] = total_abs, p.head_norms[2 * head + 1] = total_sq;
}

template <int DIM, int KEYS>
enum status launch_dense(const curve_params &p, int n_heads, cudaStream_t stream)
{
    auto *kernel = dense_kernel<DIM, KEYS>;
    const size_t bytes = unit_rows<DIM, KEYS>::SHARED;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    const dim3 grid((unsigned)((p.n + UNIT - 1) / UNIT), (unsigned)n_heads);
    kernel<<<grid, TILE_THREADS, bytes, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

} // namespace

enum status curve_cuda_pool(const curve_params &p, int n_listed, cudaStream_t stream)
{
    const dim3 queries((unsigned)p.n_qblocks, (unsigned)n_listed),
        keys((unsigned)p.n_kblocks, (unsigned)p.n_kv_heads);
    pool_queries_kernel<<<queries, POOL_THREADS, 0, stream>>>(p);
    sum_keys_kernel<<<keys, POOL_THREADS, 0, stream>>>(p);
    centre_keys_kernel<<<(unsigned)p.n_kv_heads, (unsigned)p.d, 0, stream>>>(p);
    compare_keys_kernel<<<keys, POOL_THREADS, 0, stream>>>(p);
    score_kernel<<<queries, POOL_THREADS, 0, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

enum status curve_cuda_dense(const curve_params &p, int n_heads, cudaStream_t stream)
{
    enum status st = p.d <= 64 ? p.bk == 64 ? launch_dense<64, 64>(p, n_heads, stream)
                                            : launch_dense<64, 128>(p, n_heads, stream)
        : p.bk == 64 ? launch_dense<128, 64>(p, n_heads, stream)
                               : launch_dense<128, 128>(p, n_heads, stream);
    TRY(st);
    norms_kernel<<<(unsigned)n_heads, CURVE_THREADS, 0, stream>>>(p);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

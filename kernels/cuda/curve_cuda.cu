/* Curves on the device: memory, launches, and the records of all walks folded into points. */
#include "kernels/cuda/curve_cuda.cuh"

extern "C" {
#include "kernels/cuda/device_cuda.h"
}

#include <math.h>
#include <stdlib.h>
#include <string.h>

namespace
{

enum { FOLD_THREADS = 128, FOLD_AHEAD = 8 };

/* One list (a θ, or a pair) of one head, a thread per point: every block's record at that point
 * joins the sums, blocks and slabs in rising order, whatever the launches were. */
__global__ void fold_kernel(const __grid_constant__ curve_params p, bool begin, bool end)
{
    extern __shared__ float all_largest[];
    const int list = blockIdx.x, x = p.head0 + blockIdx.y, head = curve_head(p, x), u = threadIdx.x;
    if (u >= p.points || (p.n_pairs != NULL && list >= p.n_pairs[x])) return;
    float *largest = all_largest + u; /* [n_largest], FOLD_THREADS apart, ascending */
    const size_t at = (size_t)x * p.lists + list, points = (size_t)p.points,
                 record = (size_t)(CURVE_RECORD + p.n_top);
    double *sums = p.sums + at * 3 * points + u, sum[3] = {0, 0, 0};
    float *stored = p.largest + at * p.n_largest * points + u;
    uint32_t kept = begin ? 0 : p.kept[at * points + u];
    for (int i = 0; i < 3 && !begin; i++) sum[i] = sums[i * points];
    for (int k = 0; k < p.n_largest; k++)
        largest[k * FOLD_THREADS] = begin ? 0 : stored[k * points];

    /* Steps, then records, of some slabs at once: each is far away, and known by the one before. */
    for (int i0 = 0; i0 < p.n_blocks * p.slabs; i0 += FOLD_AHEAD) {
        const float *from[FOLD_AHEAD];
        float read[FOLD_AHEAD][CURVE_RECORD + 1];
#pragma unroll
        for (int i = 0; i < FOLD_AHEAD; i++) {
            const int block = p.block0 + (i0 + i) / p.slabs, part = (i0 + i) % p.slabs;
            from[i] = NULL;
            if (i0 + i >= p.n_blocks * p.slabs || block * p.bq + part * p.slab_rows >= p.n)
                continue;
            int slot = list;
            if (p.first_theta != NULL)
                slot = p.first_theta[((size_t)x * p.n_qblocks + block) * N_THETAS + list];
            if (slot == CURVE_ALL_KEPT) {
                if (part == 0) kept += (uint32_t)curve_tiles(p, block);
                continue;
            }
            const size_t index = curve_record_index(p, x, block, slot, part);
            const int step = p.step_of != NULL ? p.step_of[index * points + u] : 0;
            from[i] = p.records + (index * (size_t)p.max_steps + (size_t)step) * record;
        }
#pragma unroll
        for (int i = 0; i < FOLD_AHEAD; i++)
            for (int k = 0; k <= CURVE_RECORD; k++) read[i][k] = from[i] != NULL ? from[i][k] : 0;
#pragma unroll
        for (int i = 0; i < FOLD_AHEAD; i++) {
            if (from[i] == NULL) { /* every tile of the block is kept */
                const int block = p.block0 + (i0 + i) / p.slabs;
                if ((i0 + i) % p.slabs == 0 && block < p.block0 + p.n_blocks)
                    sum[2] += p.block_sq[(size_t)head * p.n_qblocks + block];
                continue;
            }
            for (int k = 0; k < 3; k++) sum[k] += (double)read[i][k];
            kept += (uint32_t)read[i][3];
            float one = read[i][CURVE_RECORD];
            for (int k = 1; one > largest[0]; k++) { /* the record's are descending */
                int to = 0;
                for (; to + 1 < p.n_largest && largest[(to + 1) * FOLD_THREADS] < one; to++)
                    largest[to * FOLD_THREADS] = largest[(to + 1) * FOLD_THREADS];
                largest[to * FOLD_THREADS] = one;
                if (k == p.n_top) break;
                one = from[i][CURVE_RECORD + k];
            }
        }
    }
    if (!end) {
        p.kept[at * points + u] = kept;
        for (int i = 0; i < 3; i++) sums[i * points] = sum[i];
        for (int k = 0; k < p.n_largest; k++) stored[k * points] = largest[k * FOLD_THREADS];
        return;
    }
    const double exact_abs = p.head_norms[2 * head], exact_sq = p.head_norms[2 * head + 1];
    const double dot = (exact_sq + sum[2] - sum[1]) / 2, norms = sqrt(exact_sq * sum[2]);
    const double cosine = norms > 0 ? 1 - dot / norms : 1;
    const int from_top = p.n - 1 - p.tail_low;
    const double low = (double)largest[(p.n_largest - 1 - from_top) * FOLD_THREADS];
    const double high =
        from_top > 0 ? (double)largest[(p.n_largest - from_top) * FOLD_THREADS] : low;
    char *base = p.out + (size_t)x * p.out_head + (size_t)list * p.out_list;
    struct curve_point *out = (struct curve_point *)(base + p.out_first) + u;
    out->error.l1 = (float)(sum[0] / exact_abs);
    out->error.tail = (float)(low + (p.tail_at - p.tail_low) * (high - low));
    out->error.cosine = (float)(cosine > 0 ? cosine : 0);
    out->error.rmse = (float)sqrt(sum[1] / exact_sq);
    out->n_kept = kept;
}

size_t align256(size_t n) { return (n + 255) / 256 * 256; }
size_t larger(size_t a, size_t b) { return a > b ? a : b; }

const struct mask_method *part_of(const struct curve_cuda_args *a, int part)
{
    return a->method ? mask_part(a->method, part) : &mask_sparge;
}
int n_parts(const struct curve_cuda_args *a)
{
    return a->method && a->method->n_parts ? a->method->n_parts : 1;
}

/* Of the layer's call: no heads, since curves ask for other thresholds than there are. */
struct mask_cuda_args prediction_of(const struct curve_cuda_args *a)
{
    struct mask_cuda_args m = {};
    m.attn = a->attn, m.smooth_k = a->smooth_k, m.method = a->method;
    return m;
}

struct curve_params shape_of(const struct curve_cuda_args *a)
{
    const struct attn_args *t = a->attn;
    curve_params p = {};
    p.n = t->n_q, p.d = t->head_dim, p.n_kv_heads = t->n_kv_heads,
    p.group = t->n_heads / t->n_kv_heads;
    p.bq = t->block.q, p.bk = t->block.k;
    p.n_qblocks = (p.n + p.bq - 1) / p.bq, p.n_kblocks = (p.n + p.bk - 1) / p.bk;
    p.q = (const __nv_bfloat16 *)t->q, p.k = (const __nv_bfloat16 *)t->k,
    p.v = (const __nv_bfloat16 *)t->v;
    p.o = (const __nv_bfloat16 *)t->o;
    p.q_row = t->q_row, p.q_head = t->q_head, p.k_row = t->k_row, p.k_head = t->k_head;
    p.v_row = t->v_row, p.v_head = t->v_head, p.o_row = t->o_row, p.o_head = t->o_head;
    p.scale = t->scale, p.smooth = a->smooth_k;
    p.tail_at = .999 * (p.n - 1), p.tail_low = (int)p.tail_at;
    p.n_largest = curve_n_largest(p.n);
    p.slab_rows = PV_UNIT_ROWS, p.slabs = p.bq / p.slab_rows;
    p.n_top = p.n_largest < p.slab_rows ? p.n_largest : p.slab_rows;
    for (int i = 0; i < N_TAUS; i++) p.taus[i] = curve_tau(i);
    p.tile_q = p.q, p.tile_k = p.k, p.tile_v = p.v;
    p.eight = !attn_is_full(t), p.p_e4m3 = t->pv == PRECISION_FP8;
    if (a->eight) {
        curve_eight e = curve_cuda_cut_eight(t, (char *)a->eight);
        p.tile_q = e.q, p.tile_k = e.k, p.tile_v = e.v;
        p.n_scales = e.n_blocks;
        if (t->qk == PRECISION_INT8) p.q_scale = e.q_scale, p.k_scale = e.k_scale;
    }
    for (int i = 0; i < n_parts(a); i++)
        p.relative[i] = mask_rule_of(part_of(a, i)) == &rule_relative;
    return p;
}

/* a->exact cut into its arrays; returns bytes. */
size_t cut_exact(const struct attn_args *t, char *base, curve_params *p)
{
    const size_t rows = (size_t)t->n_heads * (size_t)t->n_q,
                 blocks = (size_t)t->n_heads * (size_t)((t->n_q + t->block.q - 1) / t->block.q);
    size_t at = 0;
    auto take = [&at, base](size_t bytes) {
        char *here = base + at;
        at += align256(bytes);
        return (void *)here;
    };
    curve_params ignored;
    if (p == NULL) p = &ignored;
    p->exact = (float *)take(rows * (size_t)t->head_dim * sizeof(float));
    p->row_abs = (float *)take(rows * sizeof(float));
    p->row_sq = (float *)take(rows * sizeof(float));
    p->block_sq = (double *)take(blocks * sizeof(double));
    p->head_norms = (double *)take((size_t)t->n_heads * 2 * sizeof(double));
    return at;
}

size_t tiles_of_head(const curve_params &p)
{
    return curve_tiles_before(p.bq, p.bk, p.n_qblocks - 1) +
        (size_t)curve_tiles(p, p.n_qblocks - 1);
}

/* What a launch writes per (head, query block). */
size_t walk_bytes(const curve_params &p)
{
    size_t walks = (size_t)p.lists * (size_t)p.slabs;
    return align256(
               walks * (size_t)p.max_steps * (size_t)(CURVE_RECORD + p.n_top) * sizeof(float)) +
        align256(walks * (size_t)p.points);
}

size_t budget_of(const struct curve_cuda_args *a)
{
    return a->budget ? a->budget : (size_t)CURVE_CUDA_BUDGET_MIB << 20;
}

/* How many heads and query blocks go into one launch. */
struct cut {
    int heads, blocks; /* blocks is n_qblocks when a whole head fits */
    size_t bytes;
};

struct cut cut_launches(const curve_params &p, size_t budget, int n_listed)
{
    size_t block = walk_bytes(p), head = block * (size_t)p.n_qblocks;
    if (head <= budget) {
        int heads = budget / head < (size_t)n_listed ? (int)(budget / head) : n_listed;
        return {heads, p.n_qblocks, head * (size_t)heads};
    }
    int blocks = budget / block > 1 ? (int)(budget / block) : 1;
    return {1, blocks, block * (size_t)blocks};
}

void set_lists(curve_params *p, bool lambda, int n_pairs)
{
    p->lists = lambda ? n_pairs : (int)N_THETAS;
    p->points = lambda ? (int)N_LAMBDAS : (int)N_TAUS;
    p->max_steps = p->n_kblocks < p->points ? p->n_kblocks : p->points;
}

/* The workspace cut into its arrays; returns bytes. n_pairs: of the head with the most; what was
 * planned for MAX_LAMBDA_PAIRS takes more heads at once when there are fewer. */
size_t cut_workspace(const struct curve_cuda_args *a, int n_listed, bool lambda, int n_pairs,
    char *base, curve_params *p, struct cut *c)
{
    const size_t nq = (size_t)p->n_qblocks, nk = (size_t)p->n_kblocks, d = (size_t)p->d,
                 kv = (size_t)p->n_kv_heads, listed = (size_t)n_listed;
    size_t at = 0;
    auto take = [&at, base](size_t bytes) {
        char *here = base + at;
        at += align256(bytes);
        return (void *)here;
    };
    set_lists(p, lambda, MAX_LAMBDA_PAIRS);
    *c = cut_launches(*p, budget_of(a), n_listed);
    const size_t planned = c->bytes;
    set_lists(p, lambda, n_pairs);
    *c = cut_launches(*p, planned, n_listed);
    const size_t points = listed * (size_t)p->lists * (size_t)p->points;
    p->heads = (const int *)take(listed * sizeof(int));
    p->pairs = (const struct threshold_pair *)take(
        listed * MAX_LAMBDA_PAIRS * sizeof(struct threshold_pair));
    p->n_pairs = (const int *)take(listed * sizeof(int));
    p->q_mean = (float *)take(listed * nq * d * sizeof(float));
    p->q_sim = (float *)take(listed * nq * sizeof(float));
    p->k_mean = (float *)take(kv * nk * d * sizeof(float));
    p->k_centre = (float *)take(kv * nk * d * sizeof(float));
    p->k_sim = (float *)take(kv * nk * sizeof(float));
    p->score = (float *)take(listed * nq * nk * sizeof(float));
    p->first_theta = (uint8_t *)take(listed * nq * N_THETAS);
    p->sums = (double *)take(points * 3 * sizeof(double));
    p->kept = (uint32_t *)take(points * sizeof(uint32_t));
    p->largest = (float *)take(points * (size_t)p->n_largest * sizeof(float));
    p->out_head = lambda ? sizeof(struct pv_curve) * MAX_LAMBDA_PAIRS : sizeof(struct curve);
    p->out_list = lambda ? sizeof(struct pv_curve) : sizeof(struct curve_point) * N_TAUS;
    p->out_first = lambda ? offsetof(struct pv_curve, points) : offsetof(struct curve, points);
    p->out = (char *)take(listed * p->out_head);
    const struct mask_cuda_args m = prediction_of(a);
    size_t masses_ws = 0;
    for (int i = 0; i < n_parts(a); i++) {
        if (!mask_cuda_has_mass(part_of(a, i))) continue;
        p->masses[i] = (const float *)take((size_t)a->attn->n_heads * nq * nk * sizeof(float));
        masses_ws = larger(masses_ws, mask_cuda_mass_workspace(&m, part_of(a, i)));
    }
    p->room = (char *)take(larger(planned, masses_ws)); /* masses are made before records are */
    return at;
}

/* For the errors of an output: sums and records of one point a head. */
size_t cut_compare(const struct attn_args *t, char *base, curve_params *p)
{
    const size_t heads = (size_t)t->n_heads;
    size_t at = 0;
    auto take = [&at, base](size_t bytes) {
        char *here = base + at;
        at += align256(bytes);
        return (void *)here;
    };
    p->bq = p->slab_rows = CURVE_COMPARE_ROWS; /* its own blocks of rows */
    p->n_qblocks = (p->n + p->bq - 1) / p->bq;
    p->n_top = p->n_largest < p->bq ? p->n_largest : p->bq;
    p->lists = p->points = p->slabs = p->max_steps = 1;
    p->n_heads = t->n_heads, p->n_blocks = p->n_qblocks;
    p->records = (float *)take(
        heads * (size_t)p->n_qblocks * (size_t)(CURVE_RECORD + p->n_top) * sizeof(float));
    p->sums = (double *)take(heads * 3 * sizeof(double));
    p->kept = (uint32_t *)take(heads * sizeof(uint32_t));
    p->largest = (float *)take(heads * (size_t)p->n_largest * sizeof(float));
    p->out_head = sizeof(struct curve_point);
    return at;
}

enum status fold(const curve_params &p, bool begin, bool end, cudaStream_t stream)
{
    const size_t shared = (size_t)p.n_largest * FOLD_THREADS * sizeof(float);
    CUDA_TRY(cudaFuncSetAttribute(
        fold_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    fold_kernel<<<dim3((unsigned)p.lists, (unsigned)p.n_heads), FOLD_THREADS, shared, stream>>>(
        p, begin, end);
    CUDA_TRY(cudaGetLastError());
    return OK;
}

/* What the lists are ranked by: one part, or all of them. */
enum status prepare(const struct curve_cuda_args *a, const curve_params &p, int n_listed, int first,
    int end, struct stream *stream)
{
    const struct mask_cuda_args m = prediction_of(a);
    for (int i = first; i < end; i++)
        TRY(p.masses[i] ? mask_cuda_mass(&m, part_of(a, i), (float *)p.masses[i], p.room, stream)
                        : curve_cuda_pool(p, n_listed, (cudaStream_t)stream));
    return OK;
}

/* Walks and sums of everything listed, as much at a time as there is room for. */
enum status walk_all(
    curve_params p, const struct cut &c, int n_listed, bool lambda, cudaStream_t stream)
{
    const bool whole = c.blocks == p.n_qblocks;
    for (p.head0 = 0; p.head0 < n_listed; p.head0 += c.heads) {
        p.n_heads = n_listed - p.head0 < c.heads ? n_listed - p.head0 : c.heads;
        for (p.block0 = 0; p.block0 < p.n_qblocks; p.block0 += c.blocks) {
            p.n_blocks = p.n_qblocks - p.block0 < c.blocks ? p.n_qblocks - p.block0 : c.blocks;
            const int last = p.block0 + p.n_blocks - 1;
            const size_t walks =
                (size_t)p.n_heads * (size_t)p.n_blocks * (size_t)p.lists * (size_t)p.slabs;
            p.records = (float *)p.room;
            p.step_of = (uint8_t *)p.room +
                align256(
                    walks * (size_t)p.max_steps * (size_t)(CURVE_RECORD + p.n_top) * sizeof(float));
            TRY(curve_cuda_walk(p, lambda, stream));
            TRY(fold(p, p.block0 == 0, whole || last == p.n_qblocks - 1, stream));
        }
    }
    return OK;
}

/* Heads and pairs stand side by side in the workspace and go there in one copy. */
enum status send_pairs(
    const curve_params &p, const struct curve_cuda_pairs *work, int n, cudaStream_t stream)
{
    const size_t pairs = (size_t)((const char *)p.pairs - (const char *)p.heads),
                 counts = (size_t)((const char *)p.n_pairs - (const char *)p.heads),
                 bytes = counts + (size_t)n * sizeof(int);
    char *host = (char *)calloc(1, bytes);
    if (host == NULL) return fail(ERR_MEMORY, "no memory for the pairs of %d heads", n);
    for (int i = 0; i < n; i++) {
        ((int *)host)[i] = work[i].head;
        ((int *)(host + counts))[i] = work[i].n;
        memcpy(host + pairs + (size_t)i * MAX_LAMBDA_PAIRS * sizeof *work[i].pairs, work[i].pairs,
            (size_t)work[i].n * sizeof *work[i].pairs);
    }
    cudaError_t e = cudaMemcpyAsync((void *)p.heads, host, bytes, cudaMemcpyHostToDevice, stream);
    free(host); /* pageable: the copy has read it */
    CUDA_TRY(e);
    return OK;
}

enum status check(const struct curve_cuda_args *a)
{
    const char *why = curve_cuda_refuses(a);
    return why == NULL ? OK : fail(ERR_UNSUPPORTED, "curves on the device: %s", why);
}

} // namespace

extern "C" {

static size_t plane_bytes(const struct attn_args *a, bool keys)
{
    return align256(
        (size_t)a->n_q * (size_t)(keys ? a->n_kv_heads : a->n_heads) * (size_t)a->head_dim * 2);
}

size_t curve_cuda_keep_bytes(const struct attn_args *a)
{
    return plane_bytes(a, false) + 2 * plane_bytes(a, true);
}

/* Planes of n rows of d elements; strides in elements. */
static enum status pack_plane(const void *from, ptrdiff_t row, ptrdiff_t head, void *to,
    ptrdiff_t to_row, ptrdiff_t to_head, int heads, int n, int d, cudaStream_t stream)
{
    if (head == d && to_head == d) d *= heads, heads = 1; /* heads side by side are one wide row */
    for (int h = 0; h < heads; h++)
        CUDA_TRY(cudaMemcpy2DAsync((uint16_t *)to + h * to_head, (size_t)to_row * 2,
            (const uint16_t *)from + h * head, (size_t)row * 2, (size_t)d * 2, (size_t)n,
            cudaMemcpyDeviceToDevice, stream));
    return OK;
}

enum status curve_cuda_keep(
    const struct attn_args *a, void *to, struct stream *stream, struct attn_args *kept)
{
    if (a->q_start != 0 || a->dtype != DTYPE_BF16)
        return fail(ERR_ARG, "a sample is kept whole and as bf16");
    const int n = a->n_q, d = a->head_dim;
    cudaStream_t s = (cudaStream_t)stream;
    char *q = (char *)to, *k = q + plane_bytes(a, false), *v = k + plane_bytes(a, true);
    struct attn_args out = {};
    out.dtype = DTYPE_BF16, out.n_q = n, out.n_heads = a->n_heads, out.n_kv_heads = a->n_kv_heads,
    out.head_dim = d;
    out.scale = a->scale, out.block = a->block;
    out.q = q, out.k = k, out.v = v;
    out.q_row = (ptrdiff_t)a->n_heads * d, out.q_head = d;
    out.k_row = out.v_row = d, out.k_head = out.v_head = (ptrdiff_t)n * d;
    *kept = out;
    TRY(pack_plane(a->q, a->q_row, a->q_head, q, out.q_row, out.q_head, a->n_heads, n, d, s));
    TRY(pack_plane(a->k, a->k_row, a->k_head, k, out.k_row, out.k_head, a->n_kv_heads, n, d, s));
    return pack_plane(a->v, a->v_row, a->v_head, v, out.v_row, out.v_head, a->n_kv_heads, n, d, s);
}

const char *curve_cuda_refuses(const struct curve_cuda_args *a)
{
    const struct attn_args *t = a->attn;
    if (t->dtype != DTYPE_BF16) return "takes bf16 only";
    if (a->method && a->method->correct_mean)
        return "its curves do not know +correct=mean; tune with --device cpu, and run the file on "
               "the GPU";
    if (t->head_dim < 16 || t->head_dim > 128 || t->head_dim % 16 != 0)
        return "head_dim is not a multiple of 16 up to 128";
    if (t->n_q < 1 || t->q_start != 0) return "a sample is taken whole";
    if (t->n_heads < 1 || t->n_heads % t->n_kv_heads != 0)
        return "query heads are not a multiple of kv heads";
    if (t->n_heads > 65535) return "more than 65535 heads";
    if (!(t->scale > 0)) return "scale is not positive";
    if ((t->block.q != 64 && t->block.q != 128) || (t->block.k != 64 && t->block.k != 128))
        return "blocks are not 64 or 128 rows and keys";
    if ((t->n_q + t->block.k - 1) / t->block.k > CURVE_MAX_KBLOCKS)
        return "more than 1024 key blocks";
    if ((uintptr_t)t->q % 16 || (uintptr_t)t->k % 16 || (uintptr_t)t->v % 16 || t->q_row % 8 ||
        t->q_head % 8 || t->k_row % 8 || t->k_head % 8 || t->v_row % 8 || t->v_head % 8)
        return "pointers and strides are not multiples of 16 bytes";
    if (t->pv == PRECISION_INT8) return "P·V in int8 is not defined";
    if (cuda_current_sm() < 80) return "the current device is below compute capability 8.0";
    const struct mask_cuda_args m = prediction_of(a);
    return mask_cuda_refuses(&m);
}

size_t curve_cuda_exact_bytes(const struct attn_args *a) { return cut_exact(a, NULL, NULL); }

size_t curve_cuda_workspace(const struct curve_cuda_args *a)
{
    curve_params p = shape_of(a), o = p;
    struct cut c;
    size_t thetas = cut_workspace(a, a->attn->n_heads, false, 0, NULL, &p, &c);
    size_t lambdas = cut_workspace(a, a->attn->n_heads, true, MAX_LAMBDA_PAIRS, NULL, &p, &c);
    return larger(larger(thetas, lambdas), cut_compare(a->attn, NULL, &o));
}

enum status curve_cuda_exact(const struct curve_cuda_args *a, struct stream *stream)
{
    TRY(check(a));
    curve_params p = shape_of(a);
    cut_exact(a->attn, (char *)a->exact, &p);
    cudaStream_t s = (cudaStream_t)stream;
    TRY(curve_cuda_dense(p, a->attn->n_heads, s));
    enum { AT_ONCE = 64 };
    double norms[2 * AT_ONCE];
    for (int h0 = 0; h0 < a->attn->n_heads; h0 += AT_ONCE) {
        int n = a->attn->n_heads - h0 < AT_ONCE ? a->attn->n_heads - h0 : (int)AT_ONCE;
        CUDA_TRY(cudaMemcpyAsync(norms, p.head_norms + 2 * h0, (size_t)n * 2 * sizeof *norms,
            cudaMemcpyDeviceToHost, s));
        CUDA_TRY(cudaStreamSynchronize(s));
        for (int h = 0; h < n; h++)
            if (!(norms[2 * h] > 0 && isfinite(norms[2 * h])))
                return fail(ERR_NUMERIC, "head %d: the dense output has %s", h0 + h,
                    isfinite(norms[2 * h]) ? "norm zero" : "NaN or infinity");
    }
    return OK;
}

enum status curve_cuda_thetas(const struct curve_cuda_args *a, int part, const int *heads, int n,
    void *ws, struct stream *stream, struct curve *const *out)
{
    TRY(check(a));
    curve_params p = shape_of(a);
    struct cut c;
    cudaStream_t s = (cudaStream_t)stream;
    cut_exact(a->attn, (char *)a->exact, &p);
    cut_workspace(a, n, false, 0, (char *)ws, &p, &c);
    p.pairs = NULL, p.n_pairs = NULL, p.part = part;
    CUDA_TRY(cudaMemcpyAsync(
        (void *)p.heads, heads, (size_t)n * sizeof *heads, cudaMemcpyHostToDevice, s));
    TRY(prepare(a, p, n, part, part + 1, stream));
    if (p.masses[part] != NULL) /* θ plays no part: the first stands for all */
        CUDA_TRY(cudaMemsetAsync(p.first_theta, 0, (size_t)n * (size_t)p.n_qblocks * N_THETAS, s));
    TRY(walk_all(p, c, n, false, s));
    for (int i = 0; i < n; i++)
        CUDA_TRY(cudaMemcpyAsync(out[i], p.out + (size_t)i * p.out_head, sizeof(struct curve),
            cudaMemcpyDeviceToHost, s));
    CUDA_TRY(cudaStreamSynchronize(s));
    for (int i = 0; i < n; i++) out[i]->n_possible = (uint32_t)tiles_of_head(p);
    return OK;
}

enum status curve_cuda_lambdas(const struct curve_cuda_args *a, const struct curve_cuda_pairs *work,
    int n, void *ws, struct stream *stream)
{
    TRY(check(a));
    curve_params p = shape_of(a);
    struct cut c;
    cudaStream_t s = (cudaStream_t)stream;
    cut_exact(a->attn, (char *)a->exact, &p);
    int most = 1;
    for (int i = 0; i < n; i++) most = work[i].n > most ? work[i].n : most;
    cut_workspace(a, n, true, most, (char *)ws, &p, &c);
    p.first_theta = NULL;
    TRY(send_pairs(p, work, n, s));
    TRY(prepare(a, p, n, 0, n_parts(a), stream));
    TRY(walk_all(p, c, n, true, s));
    for (int i = 0; i < n; i++)
        CUDA_TRY(cudaMemcpyAsync(work[i].out, p.out + (size_t)i * p.out_head,
            (size_t)work[i].n * sizeof(struct pv_curve), cudaMemcpyDeviceToHost, s));
    CUDA_TRY(cudaStreamSynchronize(s));
    uint32_t n_possible = 0;
    for (int row0 = 0; row0 < p.n; row0 += PV_UNIT_ROWS)
        n_possible +=
            (uint32_t)(((row0 + PV_UNIT_ROWS < p.n ? row0 + PV_UNIT_ROWS : p.n) - 1) / p.bk + 1);
    for (int i = 0; i < n; i++)
        for (int x = 0; x < work[i].n; x++) work[i].out[x].n_possible = n_possible;
    return OK;
}

enum status curve_cuda_compare(
    const struct curve_cuda_args *a, void *ws, struct stream *stream, struct curve_point *points)
{
    TRY(check(a));
    curve_params p = shape_of(a);
    cut_exact(a->attn, (char *)a->exact, &p);
    cut_compare(a->attn, (char *)ws, &p);
    p.out = (char *)points;
    TRY(curve_cuda_compare_rows(p, (cudaStream_t)stream));
    return fold(p, true, true, (cudaStream_t)stream);
}

enum status curve_cuda_errors(
    const struct curve_point *points, int n_heads, struct output_error *out)
{
    for (int h = 0; h < n_heads; h++) {
        out[h] = points[h].error;
        if (!isfinite(out[h].l1))
            return fail(ERR_NUMERIC, "head %d: the sparse output has NaN or infinity", h);
    }
    return OK;
}
}

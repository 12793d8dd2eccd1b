/* CUDA by its definitions: every function that the sessions of engine/cuda call below them, as its
 * header defines it, on the CPU. Device memory is a set of blocks that are full of NaN when they
 * are taken and end in a guard; whoever reads or writes outside the blocks of the device that is
 * current, or hands host memory to a kernel, ends the program. What is brought in the background is
 * NaN until it was awaited. One thread. */
#include "engine/tuner/tuner_parts.h"
#include "kernels/cuda/batch_cuda.h"
#include "kernels/cuda/compare_cuda.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/graph_cuda.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/stager_cuda.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_DEVICES = 2, GUARD = 4096, POISON = 0xff };

static struct device {
    int index;
} devices[N_DEVICES] = {{0}, {1}}, *current;

struct room {
    struct room *next;
    struct device *d;
    char *at;
    size_t bytes;
};
static struct room *rooms;

static _Noreturn void broken(const char *what)
{
    printf("FAIL %s\n", what);
    fflush(stdout);
    abort();
}

/* NULL: of none of the devices. */
static struct device *owner(const void *p, size_t bytes)
{
    struct device *d = NULL;
    for (struct room *r = rooms; r; r = r->next)
        if ((const char *)p >= r->at && (const char *)p + bytes <= r->at + r->bytes) d = r->d;
    return d;
}

static void here(const void *p, size_t values, enum dtype t)
{
    if (!current || owner(p, values * dtype_size(t)) != current)
        broken("a kernel was given memory that is not its device's");
}

static float get(const void *x, enum dtype t, ptrdiff_t i)
{
    return t == DTYPE_F32 ? ((const float *)x)[i] : bf16_to_f32(((const uint16_t *)x)[i]);
}

static void put(void *x, enum dtype t, ptrdiff_t i, float v)
{
    if (t == DTYPE_F32) ((float *)x)[i] = v;
    else ((uint16_t *)x)[i] = f32_to_bf16(v);
}

/* The device. */

static int device_count(void) { return N_DEVICES; }

static enum status device_open(struct device **d, int index)
{
    current = *d = &devices[index];
    return OK;
}

static void device_close(struct device **d) { *d = NULL; }

static enum status device_look(struct device *d, struct device_info *out)
{
    *out = (struct device_info){.name = "stand-in", .index = d->index, .sm = 80};
    out->memory_total = out->memory_free = 1u << 30;
    return OK;
}

static struct stream *device_stream(struct device *d) { return NULL; }

static enum status device_alloc(struct device *d, void **at, size_t bytes)
{
    struct room *r = malloc(sizeof *r);
    *r = (struct room){.next = rooms, .d = d, .bytes = bytes};
    r->at = *at = aligned_alloc(256, (bytes + GUARD + 255) / 256 * 256);
    memset(r->at, POISON, bytes + GUARD);
    rooms = r;
    return OK;
}

static void device_free(struct device *d, void *at)
{
    struct room **r = &rooms, *gone;
    while (*r && (*r)->at != at) r = &(*r)->next;
    gone = *r;
    if (!gone || gone->d != d) broken("memory was given back that is not the device's");
    *r = gone->next;
    for (size_t i = 0; i < GUARD; i++)
        if ((unsigned char)gone->at[gone->bytes + i] != POISON)
            broken("something was written behind the end of a block");
    free(gone->at);
    free(gone);
}

static enum status device_copy(
    struct device *d, void *to, const void *from, size_t bytes, enum copy_way way)
{
    struct device *in = owner(to, bytes), *out = owner(from, bytes);
    bool fits = way == COPY_TO_DEVICE ? in == d && !out
        : way == COPY_TO_HOST         ? !in && out == d
                                      : in && out && (in == d || out == d);
    if (!fits) broken("a copy goes another way than it says, or out of its block");
    memcpy(to, from, bytes);
    return OK;
}

static enum status device_fill(struct device *d, void *at, int byte, size_t bytes)
{
    if (owner(at, bytes) != d) broken("a fill leaves its block");
    memset(at, byte, bytes);
    return OK;
}

static enum status device_sync(struct device *d) { return OK; }

const struct device_impl device_cuda = {"cuda", device_count, device_open, device_close,
    device_look, device_stream, device_alloc, device_free, device_copy, device_fill, device_sync,
    NULL, NULL, NULL, NULL, NULL};

enum status device_cuda_use(struct device *d)
{
    current = d;
    return OK;
}

void device_cuda_reach(int from, int to) {}

/* What comes in the background. */

struct stager_cuda {
    struct stager_piece pieces[16];
    int n;
};

enum status stager_cuda_open(struct stager_cuda **s, struct device *d)
{
    *s = calloc(1, sizeof **s);
    return OK;
}

void stager_cuda_close(struct stager_cuda **s)
{
    free(*s);
    *s = NULL;
}

enum status stager_cuda_begin(struct stager_cuda *s, const struct stager_piece *pieces, int n)
{
    if (s->n || n > 16) broken("a transfer began before the last was awaited, or has 17 pieces");
    memcpy(s->pieces, pieces, (size_t)n * sizeof *pieces);
    for (s->n = n; n-- > 0;) {
        here(pieces[n].to, pieces[n].n, DTYPE_BF16);
        memset(pieces[n].to, POISON, pieces[n].n * sizeof *pieces[n].to);
    }
    return OK;
}

enum status stager_cuda_await(struct stager_cuda *s)
{
    for (; s->n > 0; s->n--) {
        const struct stager_piece *p = &s->pieces[s->n - 1];
        float *wide = malloc(p->n * sizeof *wide);
        cpu_ops()->widen(p->from, p->dtype, wide, p->n);
        for (size_t i = 0; i < p->n; i++) p->to[i] = f32_to_bf16(wide[i]);
        free(wide);
    }
    return OK;
}

/* Products; the handle is its device. */

enum status gemm_cuda_open(struct gemm_cuda **g, const struct device_impl *impl, struct device *d)
{
    *g = (struct gemm_cuda *)d;
    return OK;
}

void gemm_cuda_close(struct gemm_cuda **g) { *g = NULL; }

enum status gemm_cuda_run(struct gemm_cuda *g, int n, int m, int k, const uint16_t *x,
    const uint16_t *w, void *y, int y_stride, enum dtype y_type, bool add)
{
    if ((struct device *)g != current) broken("a product on another device than the current");
    here(x, (size_t)(n * k), DTYPE_BF16);
    here(w, (size_t)(m * k), DTYPE_BF16);
    here(y, (size_t)((n - 1) * y_stride + m), y_type);
    for (int r = 0; r < n; r++)
        for (int c = 0; c < m; c++) {
            float part[8] = {0}, sum = 0; /* k is a multiple of 8 */
            for (int i = 0; i < k; i += 8)
                for (int j = i; j < i + 8; j++)
                    part[j - i] += bf16_to_f32(x[r * k + j]) * bf16_to_f32(w[c * k + j]);
            for (int j = 0; j < 8; j++) sum += part[j];
            put(y, y_type, r * y_stride + c, add ? get(y, y_type, r * y_stride + c) + sum : sum);
        }
    return OK;
}

/* ops_cuda.h */

enum status ops_cuda_embed(const uint16_t *table, const int32_t *tokens, int n, int h, float scale,
    void *x, enum dtype x_type, struct stream *stream)
{
    here(x, (size_t)(n * h), x_type);
    for (int i = 0; i < n * h; i++)
        put(x, x_type, i, bf16_to_f32(table[tokens[i / h] * h + i % h]) * scale);
    return OK;
}

enum status ops_cuda_rmsnorm(const void *x, enum dtype x_type, const float *weight, float eps,
    int n, int h, uint16_t *y, float *y32, struct stream *stream)
{
    enum dtype t = y32 ? DTYPE_F32 : DTYPE_BF16;
    void *to = y32 ? (void *)y32 : y;
    here(x, (size_t)(n * h), x_type);
    here(to, (size_t)(n * h), t);
    for (int r = 0; r < n * h; r += h) {
        float sum = 0;
        for (int i = 0; i < h; i++) sum += get(x, x_type, r + i) * get(x, x_type, r + i);
        float scale = 1 / sqrtf(sum / (float)h + eps);
        for (int i = 0; i < h; i++) put(to, t, r + i, get(x, x_type, r + i) * scale * weight[i]);
    }
    return OK;
}

enum status ops_cuda_angles(const float *inv_freq, float scaling, int position,
    const int32_t *position_at, int n, int half, float *cosine, float *sine, struct stream *stream)
{
    for (int i = 0; i < n * half; i++) {
        int at = position_at ? position_at[i / half] : position + i / half;
        float f = inv_freq[i % half], angle = (float)at * f;
        cosine[i] = f == 0 ? 1 : cosf(angle) * scaling;
        sine[i] = sinf(angle) * scaling;
    }
    return OK;
}

enum status ops_cuda_head_norm(const struct head_norm_cuda_args *a, struct stream *stream)
{
    int d = a->head_dim, heads = a->width / d;
    here(a->x, (size_t)(a->n * a->width), DTYPE_BF16);
    for (int i = 0; i < a->n * heads; i++) {
        int h = i % heads;
        uint16_t *x = a->x + i * d;
        const float *w = h < a->n_q ? a->q_norm : h < a->n_q + a->n_k ? a->k_norm : NULL;
        float v[1024], sum = 0;
        if (d > 1024) broken("a norm of q and k is wider than its stand-in");
        for (int j = 0; j < d; j++) {
            v[j] = bf16_to_f32(x[j]) + (a->bias ? a->bias[h * d + j] : 0);
            sum += v[j] * v[j];
        }
        float scale = 1 / sqrtf(sum / (float)d + a->eps);
        for (int j = 0; j < d; j++) x[j] = f32_to_bf16(w ? v[j] * scale * w[j] : v[j]);
    }
    return OK;
}

enum status ops_cuda_rope_pack(const struct rope_cuda_args *a, struct stream *stream)
{
    int d = a->head_dim, half = d / 2, heads = a->n_heads + 2 * a->n_kv_heads;
    here(a->qkv, (size_t)(a->n * heads * d), DTYPE_BF16);
    for (int i = 0; i < a->n * heads; i++) {
        int r = i / heads, h = i % heads, kv = h - a->n_heads;
        uint16_t *from = a->qkv + i * d, *to = from;
        if (kv >= 0) {
            int at = a->position_at ? a->position_at[r] : a->position + r;
            if (at >= a->capacity) broken("a key behind the end of the cache");
            to = (kv < a->n_kv_heads ? a->k : a->v) + (a->slot ? a->slot[r] * a->slot_step : 0) +
                (kv % a->n_kv_heads * a->capacity + at) * d;
            here(to, (size_t)d, DTYPE_BF16);
        }
        bool turns = kv < a->n_kv_heads && a->cosine;
        for (int j = 0; j < half; j++) {
            float x = bf16_to_f32(from[j]) + (a->bias ? a->bias[h * d + j] : 0),
                  y = bf16_to_f32(from[j + half]) + (a->bias ? a->bias[h * d + j + half] : 0),
                  c = turns ? a->cosine[r * half + j] : 1, s = turns ? a->sine[r * half + j] : 0;
            to[j] = f32_to_bf16(x * c - y * s);
            to[j + half] = f32_to_bf16(y * c + x * s);
        }
    }
    return OK;
}

enum status ops_cuda_silu_mul(
    const uint16_t *gate_up, const float *bias, int n, int m, uint16_t *y, struct stream *stream)
{
    here(y, (size_t)(n * m), DTYPE_BF16);
    for (int i = 0; i < n * m; i++) {
        const uint16_t *at = gate_up + i / m * 2 * m + i % m;
        float gate = bf16_to_f32(at[0]) + (bias ? bias[i % m] : 0),
              up = bf16_to_f32(at[m]) + (bias ? bias[m + i % m] : 0);
        y[i] = f32_to_bf16(gate / (1 + expf(-gate)) * up);
    }
    return OK;
}

enum status ops_cuda_add_bias(
    void *x, enum dtype x_type, const float *bias, int n, int m, struct stream *stream)
{
    here(x, (size_t)(n * m), x_type);
    for (int i = 0; i < n * m; i++) put(x, x_type, i, get(x, x_type, i) + bias[i % m]);
    return OK;
}

enum status ops_cuda_to_bf16(
    const void *from, enum dtype dtype, size_t n, uint16_t *to, struct stream *stream)
{
    for (int i = 0; i < (int)n; i++) to[i] = f32_to_bf16(get(from, dtype, i));
    return OK;
}

enum status ops_cuda_widen(
    const uint16_t *x, ptrdiff_t row, int n, int m, float *y, struct stream *stream)
{
    here(y, (size_t)(n * m), DTYPE_F32);
    for (int i = 0; i < n * m; i++) y[i] = bf16_to_f32(x[i / m * row + i % m]);
    return OK;
}

/* Attention: the reference on copies in f32. */

static const char *refuses(const struct attn_args *a)
{
    return a->dtype != DTYPE_BF16 || !attn_is_full(a) ? "takes bf16 only" : NULL;
}

static const char *decode_refuses(const struct attn_args *a)
{
    return a->n_q != 1 || a->tiles || a->window > 0 || a->ledger ? "one new token" : refuses(a);
}

static const char *never(const struct attn_args *a) { return "not played here"; }

static size_t workspace(const struct attn_args *a) { return 256; }

static float *wide(const void *from, int n, int heads, int d, ptrdiff_t row, ptrdiff_t head)
{
    float *to = malloc(sizeof *to * (size_t)(n * heads * d)), *at = to;
    for (int r = 0; r < n; r++)
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < d; i++)
                *at++ = bf16_to_f32(((const uint16_t *)from)[r * row + h * head + i]);
    return to;
}

static enum status run(const struct attn_args *a, void *ws, struct par *par, struct stream *stream)
{
    struct attn_args f = *a;
    here(ws, workspace(a) / 2, DTYPE_BF16);
    memset(ws, POISON, workspace(a));
    f.dtype = DTYPE_F32;
    f.q_start_at = NULL;
    if (a->q_start_at) f.q_start = *a->q_start_at;
    int d = a->head_dim, n_kv = f.q_start + f.n_q, width = a->n_heads * d;
    float *q = wide(a->q, a->n_q, a->n_heads, d, a->q_row, a->q_head),
          *k = wide(a->k, n_kv, a->n_kv_heads, d, a->k_row, a->k_head),
          *v = wide(a->v, n_kv, a->n_kv_heads, d, a->v_row, a->v_head),
          *o = malloc(sizeof *o * (size_t)(a->n_q * width));
    f.q = q, f.k = k, f.v = v, f.o = o;
    f.q_row = f.o_row = width, f.k_row = f.v_row = a->n_kv_heads * d;
    f.q_head = f.k_head = f.v_head = f.o_head = d;
    void *own = aligned_alloc(64, (attn_ref.workspace(&f) + 127) / 64 * 64);
    enum status st = attn_ref.run(&f, own, par, NULL);
    for (int i = 0; i < a->n_q * width; i++)
        ((uint16_t *)a->o)[i / width * a->o_row + i % width / d * a->o_head + i % d] =
            f32_to_bf16(o[i]);
    free(q), free(k), free(v), free(o), free(own);
    return st;
}

#define ATTN(impl, refuses) const struct attn_impl impl = {#impl, refuses, workspace, run}
ATTN(attn_cuda_bf16, refuses);
ATTN(attn_decode_cuda_bf16, decode_refuses);
ATTN(attn_dense_sm90_bf16, never);
ATTN(attn_sparse_sm90_bf16, never);
ATTN(attn_sparse_teams_sm90_bf16, never);
ATTN(attn_dense_eight_sm90, never);
ATTN(attn_sparse_eight_sm90, never);
ATTN(attn_eight_cuda, never);
ATTN(attn_eight_cuda_f16, never);

size_t attn_batch_cuda_workspace(const struct attn_args *a, int n) { return 256 * (size_t)n; }

enum status attn_batch_cuda_run(
    const struct attn_batch_cuda_args *b, void *ws, struct stream *stream)
{
    for (int r = 0; r < b->n; r++) {
        struct attn_args a = *b->attn;
        a.q_start_at += r;
        a.q = (const uint16_t *)a.q + r * a.q_row;
        a.o = (uint16_t *)a.o + r * a.o_row;
        a.k = (const uint16_t *)a.k + b->slot[r] * b->slot_step;
        a.v = (const uint16_t *)a.v + b->slot[r] * b->slot_step;
        TRY(run(&a, (char *)ws + 256 * r, NULL, stream));
    }
    return OK;
}

enum status argmax_cuda_rows(const float *x, int n, int m, int32_t *ids, struct stream *stream)
{
    here(x, (size_t)(n * m), DTYPE_F32);
    for (int i = 0; i < n * m; i++)
        if (i % m == 0 || x[i] > x[i / m * m + ids[i / m]]) ids[i / m] = i % m;
    return OK;
}

/* What nothing here calls, or is asked before. */

const char *mask_cuda_refuses(const struct mask_cuda_args *a) { return "not played here"; }
size_t mask_cuda_workspace(const struct mask_cuda_args *a) { return 0; }
void graph_cuda_close(struct graph_cuda **g) {}
const struct tuner_backend tuner_backend_cuda = {.name = "cuda"};

// clang-format off
#define NEVER(type, call) type call { broken(#call " is not played here"); }
NEVER(struct stager_times, stager_cuda_times(const struct stager_cuda *s))
NEVER(enum status, ops_cuda_find_bad(const float *x, size_t n, int32_t *bad, struct stream *s))
NEVER(enum status, mask_cuda_predict(const struct mask_cuda_args *a, const struct tile_map *t, void *w, struct stream *s))
NEVER(enum status, oracle_cuda_mass(const struct attn_args *a, int over, float *mass, struct stream *s))
NEVER(enum status, graph_cuda_begin(struct device *d))
NEVER(enum status, graph_cuda_end(struct device *d, enum status st, struct graph_cuda **g))
NEVER(enum status, graph_cuda_run(struct graph_cuda *g, struct device *d))
NEVER(enum status, compare_cuda_run(const struct compare_cuda_args *a, struct gemm_cuda *g, struct stream *s))
NEVER(enum status, compare_cuda_nll(const struct compare_cuda_row *r, const int32_t *next, int n, float *nll, struct stream *s))
NEVER(int, compare_cuda_finish(const struct compare_cuda_row *r, int n, int vocab, int k, const int32_t *next,
    struct token_metrics *out, struct tensor_sums *sums))
// clang-format on

/* Sequences that are decoded together on a GPU: the tokens of each are those it has alone, and so
 * are the values of the kernels below, bit for bit. Without a GPU each test is skipped with the
 * driver's reason. */
#include "engine/generate.h"
#include "suites/suite.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())
#define DEMO SG_SOURCE_DIR "/suites/demo/model"

Test(slots, a_cpu_has_none)
{
    struct weights w;
    struct par *par;
    struct session *s;
    int got = -1;
    CHECK(par_open(&par, 1));
    CHECK(weights_open(&w, DEMO));
    CHECK(session_open(&s, &w, par, 300, 0, NULL));
    CHECK(session_slots(s, 4, &got));
    cr_expect_eq(got, 0);
    session_close(&s);
    weights_close(&w);
    par_close(&par);
}

#ifdef SG_HAVE_CUDA
#include "engine/cuda/session_cuda.h"
#include "kernels/cuda/batch_cuda.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/linear_cuda.h"
#include "kernels/registry.h"

static bool no_gpu(void)
{
    if (device_cuda.count() > 0) return false;
    cr_skip_test("%s", status_message());
    return true;
}

struct gpu {
    struct device *d;
    struct gemm_cuda *gemm;
};

static void gpu_open(struct gpu *g)
{
    CHECK(device_cuda.open(&g->d, 0));
    CHECK(gemm_cuda_open(&g->gemm, &device_cuda, g->d));
}

static void gpu_close(struct gpu *g)
{
    gemm_cuda_close(&g->gemm);
    device_cuda.close(&g->d);
}

static void *upload(const struct gpu *g, const void *from, size_t bytes)
{
    void *at;
    CHECK(device_cuda.alloc(g->d, &at, bytes));
    CHECK(device_cuda.copy(g->d, at, from, bytes, COPY_TO_DEVICE));
    return at;
}

static void download(const struct gpu *g, void *to, const void *from, size_t bytes)
{
    CHECK(device_cuda.copy(g->d, to, from, bytes, COPY_TO_HOST));
    CHECK(device_cuda.sync(g->d));
}

/* Small numbers as bf16, of the exponents that weights and activations have. */
static uint16_t *numbers(struct rng *r, size_t n)
{
    uint16_t *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (uint16_t)(rng_below(r, 2) << 15 | (120 + rng_below(r, 7)) << 7 | rng_below(r, 128));
    return x;
}

static double wide(uint16_t x)
{
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return (double)f;
}

static void products(struct gpu *g, struct rng *r, int m, int k, enum dtype type, bool add)
{
    enum { ROWS = GEMM_CUDA_ROWS };
    size_t size = dtype_size(type), row = (size_t)m * size, bytes = ROWS * row;
    uint16_t *x = numbers(r, ROWS * (size_t)k), *w = numbers(r, (size_t)m * (size_t)k);
    char *start = malloc(bytes), *alone = malloc(bytes), *together = malloc(bytes);
    for (size_t i = 0; i < ROWS * (size_t)m; i++) {
        float one = 1 + (float)(i % 7);
        uint32_t bits;
        memcpy(&bits, &one, sizeof bits);
        if (type == DTYPE_F32) memcpy(start + i * size, &one, size);
        else memcpy(start + i * size, (char *)&bits + 2, size);
    }
    uint16_t *dx = upload(g, x, ROWS * (size_t)k * 2),
             *dw = upload(g, w, (size_t)m * (size_t)k * 2);
    char *y = upload(g, start, bytes);
    for (int i = 0; i < ROWS; i++)
        CHECK(gemm_cuda_run(
            g->gemm, 1, m, k, dx + (size_t)i * (size_t)k, dw, y + (size_t)i * row, m, type, add));
    download(g, alone, y, bytes);
    for (int j = 0; j < m; j += 1 + m / 50) { /* right as well, not only the same */
        const int i = 3 * j % ROWS;
        double sum = add ? 1 + (i * m + j) % 7 : 0, size_of = sum;
        for (int l = 0; l < k; l++) {
            double p = wide(x[i * k + l]) * wide(w[j * k + l]);
            sum += p, size_of += fabs(p);
        }
        float got;
        uint16_t half;
        memcpy(&half, alone + (size_t)i * row + (size_t)j * 2, 2);
        if (type == DTYPE_F32) memcpy(&got, alone + (size_t)i * row + (size_t)j * 4, 4);
        else got = (float)wide(half);
        cr_expect_leq(fabs((double)got - sum),
            1e-5 * size_of + (type == DTYPE_F32 ? 0 : .005 * fabs(sum)), "%d of row %d: %g, %g", j,
            i, (double)got, sum);
    }
    for (int n = 2; n <= ROWS; n += n == 2 ? 1 : n == 3 ? 5 : 4) {
        CHECK(device_cuda.copy(g->d, y, start, bytes, COPY_TO_DEVICE));
        CHECK(gemm_cuda_run(g->gemm, n, m, k, dx, dw, y, m, type, add));
        download(g, together, y, bytes);
        cr_expect_eq(memcmp(alone, together, (size_t)n * row), 0, "%d rows, m %d, k %d", n, m, k);
        cr_expect_eq(
            memcmp(start + (size_t)n * row, together + (size_t)n * row, (size_t)(ROWS - n) * row),
            0, "%d rows: others were written", n);
    }
    device_cuda.free(g->d, dx);
    device_cuda.free(g->d, dw);
    device_cuda.free(g->d, y);
    free(x), free(w), free(start), free(alone), free(together);
}

Test(slots, rows_of_a_product_are_what_they_are_alone, .timeout = 120)
{
    if (no_gpu()) return;
    struct gpu g;
    struct rng r;
    gpu_open(&g);
    rng_init(&r, 3);
    static const int sizes[][2] = {{96, 256}, {1001, 704}, {2048, 8192}, {8203, 2048}, {3, 8}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 4; kind++)
            products(&g, &r, sizes[i][0], sizes[i][1], kind & 1 ? DTYPE_F32 : DTYPE_BF16, kind & 2);
    gpu_close(&g);
}

static void attention(struct gpu *g, struct rng *r, int d, int kv_heads, int group)
{
    enum { ROWS = 5, SLOTS = 6, CAPACITY = 2300 };
    static const int32_t slot[ROWS] = {4, 0, 5, 1, 2}, position[ROWS] = {2299, 0, 63, 64, 1337};
    int heads = kv_heads * group;
    size_t plane = (size_t)kv_heads * CAPACITY * (size_t)d, step = 2 * plane,
           width = (size_t)heads * (size_t)d;
    uint16_t *q = numbers(r, ROWS * width), *kv = numbers(r, SLOTS * step),
             *alone = malloc(ROWS * width * 2), *together = malloc(ROWS * width * 2);
    uint16_t *dq = upload(g, q, ROWS * width * 2), *dkv = upload(g, kv, SLOTS * step * 2),
             *o = upload(g, q, ROWS * width * 2);
    int32_t *at = upload(g, position, sizeof position), *slots = upload(g, slot, sizeof slot);
    struct attn_args a = {.dtype = DTYPE_BF16,
        .n_q = 1,
        .n_heads = heads,
        .n_kv_heads = kv_heads,
        .head_dim = d,
        .scale = .05f,
        .q_row = (ptrdiff_t)width,
        .q_head = d,
        .k_row = d,
        .k_head = CAPACITY * d,
        .v_row = d,
        .v_head = CAPACITY * d,
        .o_row = (ptrdiff_t)width,
        .o_head = d,
        .block = BLOCK_DEFAULT};
    void *ws;
    struct stream *stream = device_cuda.stream(g->d);
    CHECK(device_cuda.alloc(g->d, &ws, attn_batch_cuda_workspace(&a, ROWS)));
    for (int i = 0; i < ROWS; i++) {
        struct attn_args one = a;
        one.q_start = position[i];
        one.q = dq + (size_t)i * width;
        one.o = o + (size_t)i * width;
        one.k = dkv + (size_t)slot[i] * step;
        one.v = dkv + (size_t)slot[i] * step + plane;
        CHECK(attn_decode_cuda_bf16.run(&one, ws, NULL, stream));
    }
    download(g, alone, o, ROWS * width * 2);
    CHECK(device_cuda.fill(g->d, o, 0xff, ROWS * width * 2));
    a.q = dq, a.o = o, a.k = dkv, a.v = dkv + plane, a.q_start_at = at;
    CHECK(attn_batch_cuda_run(
        &(struct attn_batch_cuda_args){&a, ROWS, slots, (ptrdiff_t)step}, ws, stream));
    download(g, together, o, ROWS * width * 2);
    for (int i = 0; i < ROWS; i++)
        cr_expect_eq(memcmp(alone + (size_t)i * width, together + (size_t)i * width, width * 2), 0,
            "row %d, head_dim %d, %d heads a kv head", i, d, group);
    void *const all[] = {dq, dkv, o, at, slots, ws};
    for (int i = 0; i < 6; i++) device_cuda.free(g->d, all[i]);
    free(q), free(kv), free(alone), free(together);
}

Test(slots, rows_of_attention_are_what_they_are_alone, .timeout = 120)
{
    if (no_gpu()) return;
    struct gpu g;
    struct rng r;
    gpu_open(&g);
    rng_init(&r, 5);
    attention(&g, &r, 64, 8, 4);
    attention(&g, &r, 64, 2, 2);
    attention(&g, &r, 128, 2, 8);
    attention(&g, &r, 128, 3, 1);
    attention(&g, &r, 256, 2, 16);
    gpu_close(&g);
}

Test(slots, the_largest_of_each_row, .timeout = 60)
{
    if (no_gpu()) return;
    enum { ROWS = 5, WIDTH = 5003 };
    struct gpu g;
    gpu_open(&g);
    float *x = malloc(ROWS * WIDTH * sizeof *x);
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = (float)(i * 7919 % 5000) - 9000;
    int32_t ids[ROWS];
    x[0 * WIDTH + 5002] = 1;
    x[1 * WIDTH + 77] = x[1 * WIDTH + 76] = x[1 * WIDTH + 4000] = 3; /* the lowest on ties */
    x[2 * WIDTH + 4444] = NAN;
    x[3 * WIDTH] = INFINITY;
    x[4 * WIDTH] = 2;
    float *dx = upload(&g, x, ROWS * WIDTH * sizeof *x);
    int32_t *out = upload(&g, ids, sizeof ids);
    CHECK(argmax_cuda_rows(dx, ROWS, WIDTH, out, device_cuda.stream(g.d)));
    download(&g, ids, out, sizeof ids);
    static const int32_t want[ROWS] = {5002, 76, -1, -1, 0};
    for (int i = 0; i < ROWS; i++) cr_expect_eq(ids[i], want[i], "row %d: %d", i, ids[i]);
    device_cuda.free(g.d, dx);
    device_cuda.free(g.d, out);
    free(x);
    gpu_close(&g);
}

enum { SEQUENCES = 7, MOST = 40, CAPACITY = 1500 };

struct decoded {
    int32_t ids[SEQUENCES][MOST];
};

static const int lengths[SEQUENCES] = {1, 63, 64, 700, 1024, 1440, 333};
static int wanted(int i) { return 5 + 5 * i; } /* tokens: the batch shrinks step by step */

static int32_t prompt(struct session *s, const int32_t *ids, int i, float *logits)
{
    session_reset(s);
    CHECK(session_forward(
        s, &(struct forward_args){.tokens = ids + i, .n = lengths[i], .last_logits = logits}));
    return sample_token(
        &(struct sampler){.top_p = 1}, NULL, logits, session_weights(s)->config.vocab_size);
}

static void decode_alone(struct session *s, const int32_t *ids, float *logits, struct decoded *out)
{
    for (int i = 0; i < SEQUENCES; i++) {
        out->ids[i][0] = prompt(s, ids, i, logits);
        for (int t = 1; t < wanted(i); t++) {
            CHECK(session_forward(s,
                &(struct forward_args){
                    .tokens = &out->ids[i][t - 1], .n = 1, .last_logits = logits}));
            out->ids[i][t] = sample_token(
                &(struct sampler){.top_p = 1}, NULL, logits, session_weights(s)->config.vocab_size);
        }
    }
}

static void decode_together(
    struct session *s, const int32_t *ids, float *logits, struct decoded *out)
{
    int got, failed;
    CHECK(session_slots(s, SEQUENCES, &got));
    cr_assert_eq(got, SEQUENCES);
    for (int i = 0; i < SEQUENCES; i++) {
        out->ids[i][0] = prompt(s, ids, i, logits);
        CHECK(session_keep(s, SEQUENCES - 1 - i));
    }
    for (int t = 1; t < MOST; t++) {
        struct session_step steps[SEQUENCES];
        int32_t next[SEQUENCES];
        int n = 0, who[SEQUENCES];
        for (int i = 0; i < SEQUENCES; i++)
            if (t < wanted(i)) {
                who[n] = i;
                steps[n++] = (struct session_step){SEQUENCES - 1 - i, out->ids[i][t - 1]};
            }
        if (!n) break;
        CHECK(session_step(s, steps, n, next, &failed));
        for (int k = 0; k < n; k++) out->ids[who[k]][t] = next[k];
    }
    CHECK(session_slots(s, 0, &got));
    cr_expect_eq(got, 0);
}

static void both_ways(const char *dir, const int32_t *ids, enum dtype residual, bool graph)
{
    struct weights w;
    struct par *par;
    struct session *s;
    struct decoded alone, together;
    CHECK(par_open(&par, 1));
    CHECK(weights_open(&w, dir));
    w.device_options = (struct device_options){.residual = residual, .graph = graph};
    CHECK(weights_place_cuda(&w, 0));
    CHECK(session_open(&s, &w, par, CAPACITY, 0, NULL));
    float *logits = malloc((size_t)w.config.vocab_size * sizeof *logits);
    decode_alone(s, ids, logits, &alone);
    for (int round = 0; round < 2; round++) {
        decode_together(s, ids, logits, &together);
        for (int i = 0; i < SEQUENCES; i++)
            cr_expect_eq(memcmp(alone.ids[i], together.ids[i], sizeof(int32_t) * (size_t)wanted(i)),
                0, "%s, sequence %d, round %d", dir, i, round);
    }
    free(logits);
    session_close(&s);
    weights_close(&w);
    par_close(&par);
}

Test(slots, sequences_are_decoded_together_as_alone, .timeout = 240)
{
    if (no_gpu()) return;
    int32_t ids[CAPACITY];
    struct rng r;
    rng_init(&r, 9);
    for (int i = 0; i < CAPACITY; i++) ids[i] = (int32_t)rng_below(&r, 4096);
    for (int kind = 0; kind < 4; kind++)
        both_ways(DEMO, ids, kind & 1 ? DTYPE_BF16 : DTYPE_F32, kind & 2);
}
#endif

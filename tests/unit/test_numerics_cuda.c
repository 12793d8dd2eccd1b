/* What test_numerics asks of the CPU, of a GPU: NaN and infinity reach the output and are named, a
 * sum that underflows leaves no NaN, what the prediction cannot do is refused before the prefill,
 * and a device that is lost is told from a cell that failed. Without a GPU each test is skipped
 * with the driver's reason. */
#include <criterion/criterion.h>

#ifdef SG_HAVE_CUDA
#include "base/clock.h"
#include "base/rng.h"
#include "engine/cuda/session_cuda.h"
#include "engine/session.h"
#include "engine/session_backend.h"
#include "harness/sweep/sweep.h"
#include "kernels/cuda/device_cuda.h"
#include "results/query.h"
#include "tests/unit/model_files.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(numerics_cuda, .timeout = 300);

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())
#define DEMO SG_SOURCE_DIR "/suites/demo/model"

static bool no_gpu(void)
{
    if (device_cuda.count() > 0) return false;
    cr_skip_test("%s", status_message());
    return true;
}

enum { H = 4, HKV = 2 };
static const struct attn_impl *const kernels[] = {&attn_dense_sm90_bf16, &attn_sparse_sm90_bf16,
    &attn_sparse_teams_sm90_bf16, &attn_cuda_bf16, &attn_decode_cuda_bf16};
static const struct attn_impl *const eights[] = {&attn_dense_eight_sm90, &attn_sparse_eight_sm90};

/* Tensors of bf16 on the device, and as f32 here. */
enum { Q, K, V, O, N_TENSORS };
struct problem {
    struct device *gpu;
    int n, d;
    size_t count[N_TENSORS];
    float *host[N_TENSORS];
    uint16_t *narrow;
    void *on_gpu[N_TENSORS];
    struct tile_map map, device_map;
    void *lambda;
    struct attn_args a;
};

static void put(struct problem *p, int t)
{
    for (size_t i = 0; i < p->count[t]; i++) {
        p->narrow[i] = f32_to_bf16(p->host[t][i]);
        if (isfinite(p->host[t][i])) p->host[t][i] = bf16_to_f32(p->narrow[i]);
    }
    CHECK(device_cuda.copy(p->gpu, p->on_gpu[t], p->narrow, 2 * p->count[t], COPY_TO_DEVICE));
}

static void open_problem(struct problem *p, int n, int d, bool sparse, float lambda)
{
    struct rng r;
    float lambdas[H] = {lambda, lambda, lambda, lambda};
    size_t rows = (size_t)n * (size_t)d;
    rng_init(&r, (uint64_t)(n * 131 + d));
    *p = (struct problem){.n = n, .d = d, .count = {H * rows, HKV * rows, HKV * rows, H * rows}};
    CHECK(device_cuda.open(&p->gpu, 0));
    p->narrow = malloc(2 * H * rows);
    for (int t = 0; t < N_TENSORS; t++) {
        p->host[t] = malloc(sizeof(float) * p->count[t]);
        for (size_t i = 0; i < p->count[t]; i++) p->host[t][i] = (float)rng_normal(&r);
        CHECK(device_cuda.alloc(p->gpu, &p->on_gpu[t], 2 * p->count[t]));
        put(p, t);
    }
    p->a = (struct attn_args){.dtype = DTYPE_BF16,
        .n_q = n,
        .n_heads = H,
        .n_kv_heads = HKV,
        .head_dim = d,
        .scale = (float)(1 / sqrt((double)d)),
        .q = p->on_gpu[Q],
        .k = p->on_gpu[K],
        .v = p->on_gpu[V],
        .o = p->on_gpu[O],
        .q_row = H * d,
        .q_head = d,
        .k_row = d,
        .k_head = (ptrdiff_t)rows,
        .v_row = d,
        .v_head = (ptrdiff_t)rows,
        .o_row = H * d,
        .o_head = d,
        .block = {128, 64}};
    CHECK(device_cuda.alloc(p->gpu, &p->lambda, sizeof lambdas));
    CHECK(device_cuda.copy(p->gpu, p->lambda, lambdas, sizeof lambdas, COPY_TO_DEVICE));
    if (!sparse) return;
    p->map = tile_map_shape(p->a.block, H, 0, n);
    p->map.bits = calloc(1, tile_map_bytes(&p->map));
    for (int h = 0; h < H; h++)
        for (int i = 0; i < p->map.n_qblocks; i++)
            for (int j = 0; j < tiles_possible(p->a.block, i, n); j++)
                if (lambda == 0 || j == 0 || (j + 1) * 64 > i * 128 || (h + i + j) % 2)
                    tile_map_row(&p->map, h, i)[j / 64] |= (uint64_t)1 << (j % 64);
    p->device_map = p->map;
    CHECK(device_cuda.alloc(p->gpu, (void **)&p->device_map.bits, tile_map_bytes(&p->map)));
    CHECK(device_cuda.copy(
        p->gpu, p->device_map.bits, p->map.bits, tile_map_bytes(&p->map), COPY_TO_DEVICE));
    p->a.tiles = &p->device_map;
    p->a.pv_threshold = p->lambda;
}

static void close_problem(struct problem *p)
{
    for (int t = 0; t < N_TENSORS; t++) {
        free(p->host[t]);
        device_cuda.free(p->gpu, p->on_gpu[t]);
    }
    device_cuda.free(p->gpu, p->lambda);
    if (p->map.bits) device_cuda.free(p->gpu, p->device_map.bits);
    free(p->map.bits);
    free(p->narrow);
    device_cuda.close(&p->gpu);
}

/* The output as f32; the caller frees it. */
static float *run(const struct attn_impl *impl, struct problem *p)
{
    void *ws = NULL;
    size_t bytes = impl->workspace(&p->a);
    if (bytes) CHECK(device_cuda.alloc(p->gpu, &ws, bytes));
    CHECK(device_cuda.fill(p->gpu, p->on_gpu[O], 0xff, 2 * p->count[O]));
    CHECK(impl->run(&p->a, ws, NULL, device_cuda.stream(p->gpu)));
    CHECK(device_cuda.sync(p->gpu));
    CHECK(device_cuda.copy(p->gpu, p->narrow, p->on_gpu[O], 2 * p->count[O], COPY_TO_HOST));
    if (ws) device_cuda.free(p->gpu, ws);
    float *o = malloc(sizeof *o * p->count[O]);
    for (size_t i = 0; i < p->count[O]; i++) o[i] = bf16_to_f32(p->narrow[i]);
    return o;
}

static bool row_is_nan(const struct problem *p, const float *o, int row, int head)
{
    for (int i = 0; i < p->d; i++)
        if (isfinite(o[(row * H + head) * p->d + i])) return false;
    return true;
}

static int n_tried; /* kernels that took a problem */

/* One poisoned row of q, of k or of v, as in test_numerics. */
static void poison_kernel(const struct attn_impl *impl, int d, int kind, enum precision eight)
{
    static const int at[] = {0, 63, 64, 127, 190, 299};
    struct problem p;
    open_problem(&p, 300, d, kind > 0, kind == 2 ? 0 : 50);
    p.a.qk = eight;
    p.a.pv = eight ? PRECISION_FP8 : PRECISION_FULL;
    const char *why = impl->refuses(&p.a);
    float *sound = why ? NULL : run(impl, &p);
    n_tried += !why;
    for (size_t w = 0; !why && w < sizeof at / sizeof *at; w++)
        for (int x = 0; x < 6; x++) {
            int t = x % 3;
            bool of_k = t == K, infinite = x / 3;
            if (t == V && kind == 2) continue; /* a skipped product never sees its V */
            float *row = p.host[t] + (size_t)at[w] * (size_t)d * (t == Q ? H : 1), kept[128];
            memcpy(kept, row, sizeof *row * (size_t)d);
            for (int c = 0; c < d; c++) row[c] = !infinite ? NAN : c % 2 ? -INFINITY : INFINITY;
            put(&p, t);
            float *o = run(impl, &p);
            memcpy(row, kept, sizeof *row * (size_t)d);
            put(&p, t);
            cr_expect(row_is_nan(&p, o, at[w], 0), "%s d %d: %s of %c at %d, %d: finite",
                impl->name, d, infinite ? "inf" : "NaN", "qkv"[t], at[w], kind);
            int n_finite = 0;
            for (int r = at[w]; of_k && !kind && r < p.n; r++)
                n_finite += !row_is_nan(&p, o, r, 0) || !row_is_nan(&p, o, r, 1);
            cr_expect_eq(
                n_finite, 0, "%s d %d: %d rows that see key %d", impl->name, d, n_finite, at[w]);
            /* a CTA of 192 rows multiplies the weights 0 of its earlier rows with a NaN of V, too
             */
            int first = t == V ? at[w] / 192 * 192 : at[w] / 128 * 128;
            size_t before = (size_t)first * H * (size_t)d;
            cr_expect_eq(memcmp(o, sound, before * sizeof *o), 0,
                "%s d %d: blocks before %d of %c moved", impl->name, d, at[w], "qkv"[t]);
            free(o);
        }
    free(sound);
    close_problem(&p);
}

Test(numerics_cuda, nan_and_infinity_reach_the_output)
{
    if (no_gpu()) return;
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        for (int d = 64; d <= 128; d += 64)
            for (int kind = 0; kind < 3; kind++) poison_kernel(kernels[i], d, kind, PRECISION_FULL);
    cr_expect(n_tried >= 6, "%d kernels took a problem", n_tried);
}

Test(numerics_cuda, nan_and_infinity_reach_the_output_in_eight_bits)
{
    if (no_gpu()) return;
    for (int i = 0; i < 2; i++)
        for (int d = 64; d <= 128; d += 64)
            for (int kind = 0; kind < 3; kind++) {
                poison_kernel(eights[i], d, kind, PRECISION_INT8);
                poison_kernel(eights[i], d, kind, PRECISION_FP8);
            }
    if (!n_tried) cr_skip_test("this GPU has no kernels of eight bits");
}

/* pvthreshd 0: every unit behind the first is skipped, and raises the maximum that the first one's
 * sum stands under. While that sum is a number of f32, the answer is the definition's; when it
 * underflows, the row counts as empty, and what comes out is a mean of values all the same. */
Test(numerics_cuda, a_sum_that_underflows_leaves_no_nan)
{
    if (no_gpu()) return;
    for (size_t i = 0; i < 4; i++)
        for (int d = 64; d <= 128; d += 64)
            for (int step = 10; step <= 250; step *= 5) {
                struct problem p;
                open_problem(&p, 640, d, true, 0);
                p.a.scale = .125f;
                if (kernels[i]->refuses(&p.a)) {
                    close_problem(&p);
                    continue;
                }
                n_tried++;
                /* every score is its tile's level: 8 of q, the level of k, and the rest zero */
                memset(p.host[Q], 0, sizeof(float) * p.count[Q]);
                memset(p.host[K], 0, sizeof(float) * p.count[K]);
                for (int r = 0; r < p.n; r++) {
                    for (int h = 0; h < H; h++) p.host[Q][(r * H + h) * d] = 8;
                    for (int h = 0; h < HKV; h++)
                        p.host[K][(h * p.n + r) * d] = (float)(r / 64 % 5 * step - step);
                }
                put(&p, Q);
                put(&p, K);
                float *o = run(kernels[i], &p), *want = malloc(sizeof *want * p.count[O]);
                float lambdas[H] = {0};
                struct attn_args a = p.a;
                a.dtype = DTYPE_F32;
                a.q = p.host[Q], a.k = p.host[K], a.v = p.host[V], a.o = want;
                a.tiles = &p.map;
                a.pv_threshold = lambdas;
                void *ws = malloc(attn_ref.workspace(&a) + 64);
                CHECK(attn_ref.run(&a, ws, NULL, NULL));
                double worst = 0, most = 0;
                for (size_t k = 0; k < p.count[O]; k++) {
                    cr_assert(isfinite(o[k]), "%s d %d step %d: %g at %zu", kernels[i]->name, d,
                        step, (double)o[k], k);
                    worst = fmax(worst, fabs((double)o[k] - (double)want[k]));
                    most = fmax(most, fabs((double)o[k]));
                }
                if (step * 4 < 80)
                    cr_expect(worst < .03, "%s d %d step %d: %g", kernels[i]->name, d, step, worst);
                cr_expect(most > .01 && most < 6, "%s d %d step %d: values to %g", kernels[i]->name,
                    d, step, most);
                free(ws);
                free(want);
                free(o);
                close_problem(&p);
            }
    cr_expect(n_tried > 0);
}

/* A forward pass with one poisoned weight ends by naming layer and tensor. */
static enum status forward_poisoned(int layer, size_t tensor, float poison, bool sparse)
{
    struct weights w;
    struct session *s;
    char *dir = path_join(GOLDEN_MODELS, "gqa_d64_tied");
    CHECK(weights_open(&w, dir));
    struct linear *l = (struct linear *)((char *)&w.layers[layer] + tensor);
    struct linear was = *l;
    size_t n = (size_t)l->m * (size_t)l->k;
    float *wide = malloc(n * sizeof *wide);
    widen(was.weight, was.dtype, wide, n);
    wide[n / 2] = poison;
    l->weight = wide;
    l->dtype = DTYPE_F32;
    CHECK(weights_place_cuda(&w, 0));
    int32_t ids[300];
    for (int i = 0; i < 300; i++)
        ids[i] = (int32_t)((unsigned)i * 2654435761u >> 16) % w.config.vocab_size;
    struct sparse_policy p;
    CHECK(policy_init(&p, &mask_sparge, w.config.n_layers, w.config.n_heads));
    policy_set_thresholds(&p, 0, .6f, 0);
    CHECK(session_open(&s, &w, NULL, 300, 0, NULL));
    float *hidden = malloc(sizeof *hidden * 300 * (size_t)w.config.hidden_size);
    enum status st = session_forward(s,
        &(struct forward_args){
            .tokens = ids, .n = 300, .policy = sparse ? &p : NULL, .hidden = hidden});
    cr_expect_eq(session_position(s), st == OK ? 300 : 0, "a failed pass moved the sequence");
    free(hidden);
    session_close(&s);
    policy_clear(&p);
    *l = was;
    free(wide);
    weights_close(&w);
    free(dir);
    return st;
}

Test(numerics_cuda, a_forward_pass_names_layer_and_tensor)
{
    static const struct {
        size_t tensor;
        const char *says;
    } tensors[] = {
        {offsetof(struct layer_weights, q), "queries"},
        {offsetof(struct layer_weights, k), "keys"},
        {offsetof(struct layer_weights, v), "values"},
        {offsetof(struct layer_weights, o), "residual stream"},
        {offsetof(struct layer_weights, down), "residual stream"},
    };
    if (no_gpu()) return;
    for (int i = 0; i < 20; i++) {
        int layer = i / 10;
        char where[32];
        snprintf(where, sizeof where, "layer %d:", layer);
        cr_expect_eq(
            forward_poisoned(layer, tensors[i % 5].tensor, i / 5 % 2 ? INFINITY : NAN, i % 2),
            ERR_NUMERIC, "%s %s: a pass with a poisoned weight ended well", where,
            tensors[i % 5].says);
        cr_expect(strstr(status_message(), where) && strstr(status_message(), tensors[i % 5].says),
            "%s, expected %s %s", status_message(), where, tensors[i % 5].says);
    }
    cr_expect_eq(forward_poisoned(0, offsetof(struct layer_weights, q), 0, false), OK, "%s",
        status_message());
}

/* 4096 key blocks of 64 are 262 144 tokens. */
Test(numerics_cuda, a_sequence_too_long_for_the_prediction_is_refused_at_once)
{
    if (no_gpu()) return;
    enum { MOST = 4096 * 64 };
    struct weights w;
    struct session *s;
    CHECK(weights_open(&w, DEMO));
    CHECK(weights_place_cuda(&w, 0));
    CHECK(session_open(&s, &w, NULL, MOST + 64, 0, NULL));
    int32_t *ids = calloc(MOST + 64, sizeof *ids);
    struct sparse_policy p;
    CHECK(policy_init(&p, &mask_sparge, w.config.n_layers, w.config.n_heads));
    policy_set_thresholds(&p, .6f, .98f, 50);
    float *last = malloc(sizeof *last * (size_t)w.config.hidden_size);
    struct forward_args f = {.tokens = ids, .n = MOST + 1, .policy = &p, .last_hidden = last};
    int64_t t0 = clock_ns();
    cr_expect_eq(session_forward(s, &f), ERR_UNSUPPORTED);
    cr_expect(clock_ns() - t0 < 500000000, "refused after %g s", (double)(clock_ns() - t0) * 1e-9);
    cr_expect(
        strstr(status_message(), "262145 tokens") && strstr(status_message(), "--block 128x128"),
        "%s", status_message());
    cr_expect_eq(session_position(s), 0);
    free(last);
    free(ids);
    policy_clear(&p);
    session_close(&s);
    weights_close(&w);
}

/* Reads keys where there is no memory: CUDA refuses every call behind that. */
static enum status lose_device(struct device *gpu)
{
    struct attn_args a = {.dtype = DTYPE_BF16,
        .n_q = 128,
        .n_heads = 1,
        .n_kv_heads = 1,
        .head_dim = 64,
        .scale = .125f,
        .q_row = 64,
        .q_head = 64,
        .k_row = 64,
        .k_head = 64,
        .v_row = 64,
        .v_head = 64,
        .o_row = 64,
        .o_head = 64,
        .block = {128, 64}};
    a.q = a.k = a.v = a.o = (void *)(uintptr_t)0x7f0000000000;
    TRY(attn_cuda_bf16.run(&a, NULL, NULL, device_cuda.stream(gpu)));
    return device_cuda.sync(gpu);
}

static enum status lost_pass(
    void *state, int position, int total_len, const struct forward_args *f, struct str *impls)
{
    (void)state, (void)position, (void)total_len, (void)f, (void)impls;
    struct device *gpu;
    TRY(device_cuda.open(&gpu, 0));
    return lose_device(gpu);
}

/* The first cell fails by an illegal access; the sweep asks the device, and stops. The command
 * opens it again in a new process (harness/cli/cmd_sweep.c). */
Test(numerics_cuda, a_lost_device_fails_one_cell_and_ends_the_sweep)
{
    if (no_gpu()) return;
    cr_assert_eq(chdir(dir_make()), 0);
    struct machine_options machine = MACHINE_DEFAULTS;
    machine.cache = "none";
    machine.threads = 1;
    machine.device = "cuda";
    struct setup setup;
    CHECK(setup_open(&setup, &machine, DEMO));
    struct weights_device *device = setup.model.weights.on_device;
    struct session_backend backend = *device->backend;
    backend.forward = lost_pass;
    device->backend = &backend;
    struct plan_axes axes = {.suite = {{"chronicle"}, 1},
        .max_length = {{"512"}, 1},
        .method = {{"window:64,window:128,window:192"}, 1}};
    struct plan plan;
    struct store *store;
    struct dense_cache none = {0};
    struct sweep s;
    CHECK(plan_expand(&axes, 8, 4, &plan));
    CHECK(store_open(&store, "lost.db", STORE_WRITE));
    struct sweep_args args = {.setup = &setup,
        .store = store,
        .cache = &none,
        .plan = &plan,
        .machine = &machine,
        .name = "lost",
        .plan_json = "{}",
        .settings = cell_defaults,
        .shard = {0, 1},
        .min_sparse_tokens = MIN_SPARSE_TOKENS};
    args.settings.num_samples = 1;
    CHECK(sweep_open(&s, &args));
    cr_assert_eq(sweep_run(&s), ERR_DEVICE, "%s", status_message());
    cr_assert(strstr(status_message(), "no longer answers"), "%s", status_message());
    struct run_list failed;
    CHECK(query_runs(
        store, &(struct run_filter){.with_status = true, .status = RUN_FAILED}, &failed));
    cr_assert_eq(failed.n, 1);
    cr_assert(failed.n && strstr(failed.rows[0].reason, "illegal"), "%s",
        failed.n ? failed.rows[0].reason : "none");
    run_list_clear(&failed);
    _exit(0); /* nothing of a lost device can be closed; what is asserted above has held */
}
#else
Test(numerics_cuda, built_without_cuda) { cr_skip_test("this build has no CUDA"); }
#endif

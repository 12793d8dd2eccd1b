/* The tuner on a CUDA device: bounds hold, repeats and interruptions change nothing, thresholds are
 * near the CPU's, and what the device cannot do is said. Without a GPU these are skipped with the
 * driver's reason; what needs none runs everywhere. */
#include "engine/engine.h"
#include "engine/tuner/tuner.h"
#include "suites/suite.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())
#define DEMO SG_SOURCE_DIR "/suites/demo/model"

Test(tuner_cuda, places_without_a_device)
{
    struct weights w;
    struct sparse_policy policy;
    const char *why = "not looked at";
    CHECK(weights_open(&w, DEMO));
    CHECK(policy_init(&policy, &mask_sparge, w.config.n_layers, w.config.n_heads));
    cr_expect_str_eq(tune_place(&w, &policy, 2048, &why), "cpu");
    cr_expect_null(why);
    struct session *s;
    struct par *par;
    const int32_t ids[2] = {1, 2};
    CHECK(par_open(&par, 1));
    CHECK(session_open(&s, &w, par, 16, 0, NULL));
    cr_expect_eq(
        session_forward(s, &(struct forward_args){.tokens = ids, .n = 2, .hook_on_device = true}),
        ERR_UNSUPPORTED);
    cr_expect_eq(session_position(s), 0);
    session_close(&s);
    par_close(&par);
    policy_clear(&policy);
    weights_close(&w);
}

#ifdef SG_HAVE_CUDA
#include "engine/cuda/session_cuda.h"
#include "engine/tuner/tuner_parts.h"
#include "kernels/cuda/device_cuda.h"

/* Samples share scratch, and a shorter one may want more of it: more of its heads fit the budget of
 * records. */
Test(tuner_cuda, the_plan_has_room_for_every_sample)
{
    const struct weights w = {.config = {.hidden_size = 4096,
                                  .intermediate_size = 14336,
                                  .n_layers = 2,
                                  .n_heads = 32,
                                  .n_kv_heads = 8,
                                  .head_dim = 128,
                                  .vocab_size = 128256}};
    struct sparse_policy policy;
    int n_greedier = 0;
    CHECK(policy_init(&policy, &mask_sparge, w.config.n_layers, w.config.n_heads));
    for (int n = 4096; n <= 32768; n += 512) {
        const struct tune_sample samples[] = {{.n = 32768}, {.n = n}};
        const struct tune_args both = {
            .weights = &w, .policy = &policy, .samples = samples, .n_samples = 2};
        struct tune_args one = both;
        one.n_samples = 1;
        size_t longest = tuner_backend_cuda.plan(&one).workspace_bytes;
        one.samples = samples + 1;
        size_t alone = tuner_backend_cuda.plan(&one).workspace_bytes;
        n_greedier += alone > longest;
        cr_expect_geq(tuner_backend_cuda.plan(&both).workspace_bytes, alone, "%d tokens", n);
    }
    cr_expect_gt(n_greedier, 0);
    policy_clear(&policy);
}

/* Sessions plan the scratch of a prediction for their longest sequence. */
Test(tuner_cuda, prediction_never_needs_more_room_for_fewer_keys)
{
    size_t before = 0;
    for (int n = 512; n <= 262144; n += 512) {
        struct attn_args a = {.dtype = DTYPE_BF16,
            .n_q = n,
            .n_heads = 8,
            .n_kv_heads = 8,
            .head_dim = 128,
            .block = {128, 64}};
        size_t bytes = mask_cuda_workspace(&(struct mask_cuda_args){.attn = &a});
        cr_expect_geq(bytes, before, "%d keys", n);
        before = bytes;
    }
}

enum { N_SAMPLES = 4, N_TUNE = 3, N_TOKENS = 1024, N_BOUNDS = 2 };

static const struct tune_bounds bounds[N_BOUNDS] = {{.06, .07}, {.1, .14}};

/* Curves kept in memory. */
struct shelf {
    struct curve *curves; /* [n_layers, n_heads, N_SAMPLES] */
    bool *have;
    int n_heads, n_put, layers_done;
    int stop_after; /* layers */
};

struct bench {
    struct weights w;
    struct par *par;
    struct sparse_policy policy;
    struct sample_set set;
    struct tune_sample samples[N_SAMPLES];
    struct shelf shelf;
};

static bool no_gpu(void)
{
    if (device_cuda.count() > 0) return false;
    cr_skip_test("%s", status_message());
    return true;
}

static void open_bench(struct bench *b, bool on_gpu, const struct mask_method *method)
{
    struct tokenizer *t;
    *b = (struct bench){0};
    CHECK(weights_open(&b->w, DEMO));
    if (on_gpu) CHECK(weights_place_cuda(&b->w, 0));
    CHECK(par_open(&b->par, 0));
    CHECK(policy_init(&b->policy, method, b->w.config.n_layers, b->w.config.n_heads));
    CHECK(tokenizer_open(&t, DEMO));
    CHECK(suite_load("chronicle",
        &(struct suite_options){.tokenizer = t,
            .argument = "",
            .max_length = N_TOKENS,
            .num_samples = N_SAMPLES,
            .min_length = 256,
            .tuning = true},
        &b->set));
    cr_assert_eq(b->set.n_samples, N_SAMPLES);
    for (int i = 0; i < N_SAMPLES; i++)
        b->samples[i] = (struct tune_sample){
            b->set.samples[i].ids, b->set.samples[i].n, b->set.samples[i].name, i >= N_TUNE};
    tokenizer_close(&t);
    size_t n = (size_t)(b->w.config.n_layers * b->w.config.n_heads * N_SAMPLES);
    b->shelf = (struct shelf){
        calloc(n, sizeof(struct curve)), calloc(n, sizeof(bool)), b->w.config.n_heads, 0, 0, 1000};
}

static void close_bench(struct bench *b)
{
    free(b->shelf.curves);
    free(b->shelf.have);
    policy_clear(&b->policy);
    par_close(&b->par);
    weights_close(&b->w);
    sample_set_clear(&b->set);
}

static size_t place_of(const struct shelf *s, int layer, int head, int sample)
{
    return ((size_t)layer * (size_t)s->n_heads + (size_t)head) * N_SAMPLES + (size_t)sample;
}

static enum status get(
    void *ctx, int layer, int head, int part, int sample, struct curve *out, bool *found)
{
    (void)part; /* one method alone */
    const struct shelf *s = ctx;
    size_t at = place_of(s, layer, head, sample);
    *found = s->have[at];
    if (*found) *out = s->curves[at];
    return OK;
}

static enum status put(void *ctx, int layer, int head, int part, int sample, const struct curve *c)
{
    (void)part; /* one method alone */
    struct shelf *s = ctx;
    size_t at = place_of(s, layer, head, sample);
    s->curves[at] = *c;
    s->have[at] = true;
    s->n_put++;
    return OK;
}

static struct shelf *watched; /* tune_args.stop gets no context */

static enum status layer_done(void *ctx, int layer)
{
    (void)layer;
    struct shelf *s = ctx;
    s->layers_done++;
    return OK;
}

static bool stop_early(void *ctx)
{
    (void)ctx;
    return watched->layers_done >= watched->stop_after;
}

static struct tune_args args_of(struct bench *b)
{
    watched = &b->shelf;
    return (struct tune_args){.weights = &b->w,
        .par = b->par,
        .policy = &b->policy,
        .rule = RULE_L1,
        .samples = b->samples,
        .n_samples = N_SAMPLES,
        .bounds = bounds,
        .n_bounds = N_BOUNDS,
        .min_sparsity = .1,
        .curves = {&b->shelf, get, put, layer_done},
        .stop = stop_early};
}

static double mean_sparsity(const struct tuned *t)
{
    double sum = 0;
    for (int i = 0; i < t->n_layers * t->n_heads; i++) sum += t->heads[i].sparsity;
    return sum / (t->n_layers * t->n_heads);
}

static void expect_same(const struct tuned *x, const struct tuned *y, const char *what)
{
    for (int i = 0; i < x->n_layers * x->n_heads; i++)
        cr_expect(
            memcmp(&x->heads[i].params, &y->heads[i].params, sizeof x->heads[i].params) == 0 &&
                memcmp(&x->heads[i].tune, &y->heads[i].tune, sizeof x->heads[i].tune) == 0 &&
                memcmp(&x->heads[i].check, &y->heads[i].check, sizeof x->heads[i].check) == 0,
            "%s: head %d of layer %d", what, i % x->n_heads, i / x->n_heads);
}

Test(tuner_cuda, bounds_hold_and_repeats_agree, .timeout = 300)
{
    if (no_gpu()) return;
    struct bench b;
    struct tuned first[N_BOUNDS], again[N_BOUNDS], resumed[N_BOUNDS];
    struct tune_times times;
    open_bench(&b, true, &mask_sparge);
    struct tune_args a = args_of(&b), bare = a;
    int n_heads = b.w.config.n_layers * b.w.config.n_heads, n_sparse = 0;
    bare.curves = (struct curve_store){0};
    CHECK(tune(&bare, first, &times));
    cr_expect_str_eq(times.place, "cuda");
    cr_expect_null(times.why);
    cr_expect_eq(times.n_curves, n_heads * N_TUNE);
    for (int i = 0; i < N_BOUNDS; i++)
        for (int h = 0; h < n_heads; h++) {
            const struct tuned_head *x = &first[i].heads[h];
            n_sparse += x->params.is_sparse;
            if (!x->params.is_sparse) continue;
            cr_expect(x->tune.l1 <= bounds[i].pv_l1 && x->check.l1 <= bounds[i].pv_l1,
                "head %d: %g, %g", h, x->tune.l1, x->check.l1);
            cr_expect(x->sparsity >= .1 && x->sparsity < 1);
        }
    cr_expect(n_sparse >= 4, "%d sparse heads", n_sparse);
    CHECK(tune(&bare, again, &times));
    for (int i = 0; i < N_BOUNDS; i++) expect_same(&first[i], &again[i], "repeated");

    b.shelf.stop_after = 3;
    cr_expect_eq(tune(&a, resumed, &times), ERR_CANCELLED);
    cr_expect(b.shelf.n_put > 0 && b.shelf.n_put < n_heads * N_TUNE, "%d curves before the stop",
        b.shelf.n_put);
    int n_kept = b.shelf.n_put;
    b.shelf.stop_after = 1000;
    CHECK(tune(&a, resumed, &times));
    cr_expect_eq(times.n_reused, n_kept);
    cr_expect_eq(times.n_curves, n_heads * N_TUNE - n_kept);
    for (int i = 0; i < N_BOUNDS; i++) expect_same(&first[i], &resumed[i], "resumed");
    for (int i = 0; i < N_BOUNDS; i++) {
        tuned_clear(&first[i]);
        tuned_clear(&again[i]);
        tuned_clear(&resumed[i]);
    }
    close_bench(&b);
}

/* In full products and in eight bits: curves and verification of the device against the CPU's
 * emulation. */
static void near_the_cpu(enum precision qk, enum precision pv)
{
    struct tuned t[2][N_BOUNDS];
    struct tune_times times;
    for (int gpu = 0; gpu < 2; gpu++) {
        struct bench b;
        open_bench(&b, gpu, &mask_sparge);
        CHECK(policy_set_precision(&b.policy, qk, pv));
        struct tune_args a = args_of(&b);
        CHECK(tune(&a, t[gpu], &times));
        cr_expect_str_eq(times.place, gpu ? "cuda" : "cpu", "%s", times.why ? times.why : "");
        close_bench(&b);
    }
    for (int i = 0; i < N_BOUNDS; i++) {
        int n = t[0][i].n_layers * t[0][i].n_heads, same = 0;
        for (int h = 0; h < n; h++)
            same += t[0][i].heads[h].params.is_sparse == t[1][i].heads[h].params.is_sparse &&
                fabs(t[0][i].heads[h].sparsity - t[1][i].heads[h].sparsity) < .03;
        double cpu = mean_sparsity(&t[0][i]), gpu = mean_sparsity(&t[1][i]);
        printf("l1 %g: %d of %d heads within .03 sparsity; mean %.4f on the CPU, %.4f on the GPU\n",
            bounds[i].l1, same, n, cpu, gpu);
        cr_expect(same >= n * 3 / 4, "%d of %d heads alike", same, n);
        cr_expect(fabs(cpu - gpu) < .02, "mean sparsity %g and %g", cpu, gpu);
        tuned_clear(&t[0][i]);
        tuned_clear(&t[1][i]);
    }
}

Test(tuner_cuda, thresholds_are_near_the_cpus, .timeout = 300)
{
    if (no_gpu()) return;
    near_the_cpu(PRECISION_FULL, PRECISION_FULL);
}

Test(tuner_cuda, thresholds_of_eight_bits_are_near_the_cpus, .timeout = 300)
{
    if (no_gpu()) return;
    near_the_cpu(PRECISION_INT8, PRECISION_FP8);
}

Test(tuner_cuda, says_when_the_cpu_does_it, .timeout = 300)
{
    if (no_gpu()) return;
    struct bench b;
    const char *why = NULL;
    open_bench(&b, true, &mask_xattention);
    cr_expect_str_eq(tune_place(&b.w, &b.policy, N_TOKENS, &why), "cpu");
    cr_expect(why && strstr(why, "no device body"), "%s", why ? why : "no reason");
    cr_expect_str_eq(tune_place(&b.w, &b.policy, 1024 * 64 + 1, &why), "cpu");
    static const char *const there[] = {"sparge", "bound", "oracle", "sparge/bound+keys=8"};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++) {
        b.policy.method = mask_method_find(there[i]);
        cr_expect_str_eq(tune_place(&b.w, &b.policy, N_TOKENS, &why), "cuda", "%s", there[i]);
        cr_expect_null(why);
    }
    cr_expect_str_eq(tune_place(&b.w, &b.policy, 1024 * 64 + 1, &why), "cpu");
    cr_expect(why && strstr(why, "1024 key blocks"), "%s", why ? why : "no reason");
    /* what verifies has no kernel here */
    CHECK(policy_set_precision(&b.policy, PRECISION_INT8, PRECISION_FULL));
    cr_expect_str_eq(tune_place(&b.w, &b.policy, N_TOKENS, &why), "cpu");
    cr_expect(why && strstr(why, "fp8 P·V only"), "%s", why ? why : "no reason");
    close_bench(&b);
}
#endif

/* The forward pass against transformers' logits, and against itself cut in every way it may be cut.
 */
#include "base/json.h"
#include "engine/engine.h"
#include "engine/rope.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/registry.h"
#include "suites/suite.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>

static const char *const golden_names[] = {
    "mha_default",
    "gqa_d64_tied",
    "mqa_linear_f16",
    "dynamic_tied_head",
    "dynamic_new_keys",
    "llama3_d64",
    "llama3_new_keys_d16",
    "bias_d16",
    "d128_gqa",
    "sharded_bf16",
    "mixed_unaligned",
    /* kin of LLaMA */
    "mistral_window",
    "mistral_full",
    "ministral_layers",
    "qwen2_bias",
    "qwen2_window_yarn",
    "qwen3_norms",
    "qwen3_bias",
    "smollm3_some_turn",
    "smollm3_interval",
    "yarn_llama",
    "longrope_long",
    "longrope_short",
    "granite_scalars",
    "granite_bias",
    "yarn_mscale",
    "ministral_window",
    "phi3_longrope",
    "phi3_window",
    "phi3_partial",
    "phi3_partial_new",
    "exaone_names",
    "internlm3_bias",
    "iquestcoder_plain",
    "seed_oss_bias",
    "cwm_windows",
    /* norms behind attention and MLP */
    "olmo2_behind",
    "olmo2_groups",
    "olmo3_yarn",
    "olmo3_ropes",
    "exaone4_hybrid",
    "exaone4_full",
    "hyperclovax_around",
    "hyperclovax_before",
};
enum { N_GOLDEN = sizeof golden_names / sizeof golden_names[0], MAX_IDS = 512 };

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())

/* A model with one session, and what the fixture says of it. */
struct bench {
    struct weights w;
    struct par *par;
    struct session *s;
    int32_t ids[MAX_IDS], positions[16], greedy[64];
    int n, n_positions, n_greedy;
    float *logits; /* [n_positions, vocab] of transformers */
};

static int read_ints(const cJSON *array, int32_t *out, int cap)
{
    int n = 0;
    const cJSON *x;
    cJSON_ArrayForEach(x, array) if (n < cap) out[n++] = (int32_t)x->valuedouble;
    return n;
}

static void open_bench(struct bench *b, const char *dir, int threads, int capacity, int chunk)
{
    CHECK(weights_open(&b->w, dir));
    CHECK(par_open(&b->par, threads));
    CHECK(session_open(&b->s, &b->w, b->par, capacity, chunk, NULL));
}

static void open_golden(struct bench *b, const char *name, int chunk)
{
    *b = (struct bench){0};
    char *dir = path_join(GOLDEN_MODELS, name), *json = path_join(dir, "golden.json");
    cJSON *root;
    CHECK(json_read_file(&root, json));
    b->n = read_ints(cJSON_GetObjectItem(root, "ids"), b->ids, MAX_IDS);
    b->n_positions = read_ints(cJSON_GetObjectItem(root, "positions"), b->positions, 16);
    b->n_greedy = read_ints(cJSON_GetObjectItem(root, "greedy"), b->greedy, 64);
    cJSON_Delete(root);
    struct str bytes = file_get(dir, "logits.bin");
    open_bench(b, dir, 1, MAX_IDS, chunk);
    cr_assert_eq(
        bytes.len, sizeof(float) * (size_t)b->n_positions * (size_t)b->w.config.vocab_size);
    b->logits = malloc(bytes.len);
    memcpy(b->logits, bytes.data, bytes.len);
    str_clear(&bytes);
    free(json);
    free(dir);
}

static void open_demo(struct bench *b, int threads, int capacity, int chunk)
{
    *b = (struct bench){0};
    open_bench(b, SG_SOURCE_DIR "/suites/demo/model", threads, capacity, chunk);
}

static void close_bench(struct bench *b)
{
    session_close(&b->s);
    par_close(&b->par);
    weights_close(&b->w);
    free(b->logits);
}

static size_t width(const struct bench *b) { return (size_t)b->w.config.hidden_size; }

/* Poisoned, so that a row nobody writes is seen. */
static float *rows(const struct bench *b, int n)
{
    float *x = malloc(sizeof *x * (size_t)n * width(b));
    for (size_t i = 0; i < (size_t)n * width(b); i++) x[i] = NAN;
    return x;
}

/* Hidden states of all ids in one call on a fresh sequence; the caller frees. */
static float *forward(struct bench *b, const int32_t *ids, int n, const struct sparse_policy *p,
    struct head_ledger *l)
{
    float *hidden = rows(b, n);
    session_reset(b->s);
    CHECK(session_forward(b->s,
        &(struct forward_args){.tokens = ids, .n = n, .policy = p, .ledger = l, .hidden = hidden}));
    cr_assert_eq(session_position(b->s), n);
    return hidden;
}

/* max over rows of ‖x − y‖ / ‖y‖ */
static double row_error(const float *x, const float *y, size_t n_rows, size_t d)
{
    double worst = 0;
    for (size_t r = 0; r < n_rows; r++) {
        double diff = 0, norm = 0;
        for (size_t i = r * d; i < (r + 1) * d; i++) {
            diff += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
            norm += (double)y[i] * (double)y[i];
        }
        double e = sqrt(diff / norm);
        if (!(e <= worst)) worst = e;
    }
    return worst;
}

static bool same_bits(const float *x, const float *y, size_t n)
{
    return memcmp(x, y, n * sizeof *x) == 0;
}

/* Against the stored logits at the stored positions. */
static double logit_error(struct bench *b, const float *hidden)
{
    size_t vocab = (size_t)b->w.config.vocab_size;
    float *z = malloc(sizeof *z * vocab);
    double worst = 0;
    for (int i = 0; i < b->n_positions; i++) {
        CHECK(session_logits(b->s, 1, hidden + (size_t)b->positions[i] * width(b), z));
        double e = row_error(z, b->logits + (size_t)i * vocab, 1, vocab);
        if (!(e <= worst)) worst = e;
    }
    free(z);
    return worst;
}

/* At least `length` ids of English from the demo model's own suite. */
static struct sample_set chronicle(int length)
{
    static struct tokenizer *t;
    if (!t) CHECK(tokenizer_open(&t, SG_SOURCE_DIR "/suites/demo/model"));
    struct suite_options o = {
        .tokenizer = t, .argument = "", .max_length = length * 5 / 4, .num_samples = 1};
    struct sample_set set;
    CHECK(suite_load("chronicle", &o, &set));
    cr_assert(set.samples[0].n >= length);
    set.samples[0].n = length;
    return set;
}

Test(forward, logits_equal_transformers)
{
    for (int i = 0; i < N_GOLDEN; i++) {
        struct bench b;
        open_golden(&b, golden_names[i], MAX_IDS);
        float *hidden = forward(&b, b.ids, b.n, NULL, NULL);
        double e = logit_error(&b, hidden);
        cr_expect(e < 1e-5, "%s: relative error %.3g", golden_names[i], e);
        free(hidden);
        close_bench(&b);
    }
}

Test(forward, demo_logits_equal_transformers)
{
    struct bench b;
    open_demo(&b, 1, 64, 0);
    cJSON *root;
    CHECK(json_read_file(&root, TESTS_DIR "/golden/demo_logits.json"));
    int32_t argmax[64];
    int n = read_ints(cJSON_GetObjectItem(root, "ids"), b.ids, 64), n_argmax;
    b.n_positions = read_ints(cJSON_GetObjectItem(root, "positions"), b.positions, 16);
    n_argmax = read_ints(cJSON_GetObjectItem(root, "argmax"), argmax, 64);
    double nll[64];
    int n_nll = 0;
    const cJSON *x;
    cJSON_ArrayForEach(x, cJSON_GetObjectItem(root, "nll")) if (n_nll < 64) nll[n_nll++] =
        x->valuedouble;
    cr_assert(n == 64 && n_argmax == n && n_nll == n - 1 && b.n_positions == 4);
    struct str bytes = file_get(TESTS_DIR "/golden", "demo_logits.f32");
    size_t vocab = (size_t)b.w.config.vocab_size;
    cr_assert_eq(bytes.len, 4 * vocab * sizeof(float));
    b.logits = malloc(bytes.len);
    memcpy(b.logits, bytes.data, bytes.len);
    str_clear(&bytes);
    float *hidden = forward(&b, b.ids, n, NULL, NULL), *z = malloc(sizeof *z * vocab);
    double e = logit_error(&b, hidden);
    cr_expect(e < 2e-4, "relative error %.3g", e);
    for (int p = 0; p < n; p++) {
        CHECK(session_logits(b.s, 1, hidden + (size_t)p * width(&b), z));
        size_t best = 0;
        double sum = 0;
        for (size_t i = 0; i < vocab; i++) best = z[i] > z[best] ? i : best;
        cr_expect_eq(
            (int)best, argmax[p], "position %d: argmax %zu, transformers %d", p, best, argmax[p]);
        if (p + 1 == n) break;
        for (size_t i = 0; i < vocab; i++) sum += exp((double)z[i] - (double)z[best]);
        double got = log(sum) - ((double)z[b.ids[p + 1]] - (double)z[best]);
        cr_expect(
            fabs(got - nll[p]) < 1e-3, "position %d: NLL %.6f, transformers %.6f", p, got, nll[p]);
    }
    free(z);
    free(hidden);
    cJSON_Delete(root);
    close_bench(&b);
}

/* Chunks inside one call, and calls of odd sizes that are told the final length. */
Test(forward, chunks_equal_the_whole)
{
    for (int i = 0; i < N_GOLDEN; i++) {
        struct bench whole, cut;
        open_golden(&whole, golden_names[i], MAX_IDS);
        open_golden(&cut, golden_names[i], 128);
        float *want = forward(&whole, whole.ids, whole.n, NULL, NULL);
        float *got = forward(&cut, cut.ids, cut.n, NULL, NULL);
        cr_expect(logit_error(&cut, got) < 2e-4, "%s in chunks of 128", golden_names[i]);
        cr_expect(row_error(got, want, (size_t)cut.n, width(&cut)) < 3e-5, "%s in chunks of 128",
            golden_names[i]);
        static const int sizes[] = {1, 5, 37, 2, 64, 100, 13};
        free(got);
        got = rows(&cut, cut.n);
        session_reset(cut.s);
        for (int at = 0, c = 0; at < cut.n; c++) {
            int n = sizes[c % 7] < cut.n - at ? sizes[c % 7] : cut.n - at;
            CHECK(session_forward(cut.s,
                &(struct forward_args){.tokens = cut.ids + at,
                    .n = n,
                    .total_len = cut.n,
                    .hidden = got + (size_t)at * width(&cut)}));
            at += n;
            cr_assert_eq(session_position(cut.s), at);
        }
        double e = row_error(got, want, (size_t)cut.n, width(&cut));
        cr_expect(e < 3e-5, "%s in odd calls: %.3g", golden_names[i], e);
        free(got);
        free(want);
        close_bench(&cut);
        close_bench(&whole);
    }
}

Test(forward, decoding_equals_prefill)
{
    for (int i = 0; i < N_GOLDEN; i++) {
        struct bench b;
        open_golden(&b, golden_names[i], MAX_IDS);
        float *want = forward(&b, b.ids, b.n, NULL, NULL), *got = rows(&b, b.n);
        session_reset(b.s);
        for (int t = 0; t < b.n; t++)
            CHECK(session_forward(b.s,
                &(struct forward_args){.tokens = b.ids + t,
                    .n = 1,
                    .total_len = b.n,
                    .last_hidden = got + (size_t)t * width(&b)}));
        double e = row_error(got, want, (size_t)b.n, width(&b));
        cr_expect(e < 3e-5, "%s: %.3g", golden_names[i], e);
        cr_expect(logit_error(&b, got) < 2e-4, "%s", golden_names[i]);
        free(got);
        free(want);
        close_bench(&b);
    }
}

static bool stop_after_three(void *ctx, int32_t id)
{
    (void)id;
    return ++*(int *)ctx < 3;
}

Test(forward, greedy_generation_equals_transformers)
{
    int n_checked = 0;
    for (int i = 0; i < N_GOLDEN; i++) {
        struct bench b;
        open_golden(&b, golden_names[i], 128);
        if (b.n_greedy > 0) {
            int32_t out[64];
            int seen = 0;
            struct generate_args a = {.prompt = b.ids,
                .n_prompt = b.n,
                .max_new = b.n_greedy,
                .ignore_eos = true,
                .sampler = {.top_p = 1}};
            struct generate_result r;
            CHECK(generate(b.s, &a, out, &r));
            cr_expect_eq(r.n_new, b.n_greedy);
            for (int t = 0; t < r.n_new; t++)
                cr_expect_eq(out[t], b.greedy[t], "%s: token %d is %d, transformers %d",
                    golden_names[i], t, out[t], b.greedy[t]);
            a.token = stop_after_three;
            a.ctx = &seen;
            CHECK(generate(b.s, &a, out, &r));
            cr_expect_eq(
                r.n_new, 3, "%s: %d tokens behind a stop at the third", golden_names[i], r.n_new);
            n_checked++;
        }
        close_bench(&b);
    }
    cr_expect_eq(n_checked, 37); /* all whose frequencies do not change with the length */
}

/* A layer with a window has no sparse form; what to do instead names the layers that have. */
Test(forward, windowed_layers_are_left_to_the_user)
{
    static const char *const names[][2] = {
        {"ministral_layers", "; leave such layers dense with --layers 0+2, or stay within 33"},
        {"mistral_window", " is not defined for; stay within 70"}};
    for (int i = 0; i < 2; i++) {
        struct bench b;
        struct sparse_policy p;
        open_golden(&b, names[i][0], 0);
        CHECK(policy_init(&p, &mask_sparge, b.w.config.n_layers, b.w.config.n_heads));
        p.min_sparse_tokens = 0;
        float *hidden = rows(&b, b.n);
        cr_expect_eq(
            session_forward(b.s,
                &(struct forward_args){.tokens = b.ids, .n = b.n, .policy = &p, .hidden = hidden}),
            ERR_UNSUPPORTED);
        cr_expect(strstr(status_message(), names[i][1]), "%s", status_message());
        policy_clear(&p);
        free(hidden);
        close_bench(&b);
    }
}

struct seen_head {
    int layer, head;
    float *q, *o; /* [n, head_dim] */
};

static enum status keep_head(void *ctx, const struct layer_view *view)
{
    struct seen_head *to = ctx;
    const struct attn_args *a = view->attn;
    size_t d = (size_t)a->head_dim;
    if (view->layer != to->layer) return OK;
    for (int r = 0; r < a->n_q; r++) {
        ptrdiff_t q = r * a->q_row + to->head * a->q_head, o = r * a->o_row + to->head * a->o_head;
        memcpy(to->q + (size_t)r * d, (const float *)a->q + q, d * sizeof *to->q);
        memcpy(to->o + (size_t)r * d, (const float *)a->o + o, d * sizeof *to->o);
    }
    return OK;
}

/* One head alone, of every way that q and k are normalised and turned. */
Test(forward, a_head_alone_has_the_bits_of_the_whole)
{
    static const char *const names[] = {
        "mha_default", "qwen3_norms", "olmo2_groups", "olmo3_yarn", "exaone4_hybrid"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct bench b;
        open_golden(&b, names[i], MAX_IDS);
        const struct llama_config *c = &b.w.config;
        size_t values = (size_t)b.n * (size_t)c->head_dim;
        float *at = malloc(6 * values * sizeof *at), *stream = rows(&b, b.n);
        for (int layer = 0; layer < c->n_layers; layer++) {
            struct seen_head whole = {layer, c->n_heads - 1, at, at + values};
            session_reset(b.s);
            CHECK(session_forward(b.s,
                &(struct forward_args){.tokens = b.ids,
                    .n = b.n,
                    .hook = keep_head,
                    .hook_ctx = &whole,
                    .capture_layer = layer,
                    .residual_out = stream}));
            CHECK(session_heads(b.s,
                &(struct heads_args){.n = b.n,
                    .tokens = b.ids,
                    .layer = layer,
                    .first = whole.head,
                    .end = whole.head + 1,
                    .residual = stream,
                    .q = at + 2 * values,
                    .o = at + 3 * values,
                    .k = at + 4 * values,
                    .v = at + 5 * values}));
            cr_expect(same_bits(at, at + 2 * values, 2 * values), "%s: layer %d", names[i], layer);
        }
        free(stream);
        free(at);
        close_bench(&b);
    }
}

Test(forward, a_captured_stream_goes_on_as_the_whole)
{
    struct bench b;
    open_golden(&b, "sharded_bf16", 128);
    int layers = b.w.config.n_layers;
    float *want = forward(&b, b.ids, b.n, NULL, NULL), *stream = rows(&b, b.n),
          *got = rows(&b, b.n);
    for (int l = 0; l <= layers; l++) {
        session_reset(b.s);
        CHECK(session_forward(b.s,
            &(struct forward_args){.tokens = b.ids,
                .n = b.n,
                .capture_layer = l,
                .residual_out = stream,
                .hidden = got}));
        cr_expect(same_bits(got, want, (size_t)b.n * width(&b)),
            "capturing at layer %d changed the result", l);
        session_reset(b.s);
        CHECK(session_forward(b.s,
            &(struct forward_args){.tokens = b.ids,
                .n = b.n,
                .first_layer = l,
                .residual_in = stream,
                .hidden = got}));
        cr_expect(same_bits(got, want, (size_t)b.n * width(&b)),
            "from the stream that enters layer %d", l);
    }
    free(got);
    free(stream);
    free(want);
    close_bench(&b);
}

static enum status note_layer(void *ctx, const struct layer_view *v)
{
    uint32_t *seen = ctx;
    *seen |= 1u << v->layer;
    return v->layer == 30 ? fail(ERR_IO, "never") : OK;
}

/* Layer by layer, as the tuner walks: each run ends in front of the next layer. */
Test(forward, end_layer_stops_and_can_be_taken_up)
{
    struct bench b;
    open_golden(&b, "sharded_bf16", MAX_IDS);
    int layers = b.w.config.n_layers;
    float *want = forward(&b, b.ids, b.n, NULL, NULL), *stream = rows(&b, b.n),
          *got = rows(&b, b.n);
    for (int l = 0; l < layers; l++) {
        uint32_t seen = 0;
        session_reset(b.s);
        CHECK(session_forward(b.s,
            &(struct forward_args){.tokens = b.ids,
                .n = b.n,
                .first_layer = l,
                .end_layer = l + 1,
                .residual_in = l ? stream : NULL,
                .capture_layer = l + 1,
                .residual_out = stream,
                .hidden = got,
                .hook = note_layer,
                .hook_ctx = &seen}));
        cr_expect_eq(seen, 1u << l, "layers seen: %#x", seen);
        if (l + 1 < layers)
            cr_expect(
                row_error(got, want, (size_t)b.n, width(&b)) > 1e-2, "stopped after layer %d", l);
    }
    cr_expect(same_bits(got, want, (size_t)b.n * width(&b)));
    free(got);
    free(stream);
    free(want);
    close_bench(&b);
}

Test(forward, dynamic_rope_turns_by_the_final_length)
{
    struct bench b;
    open_golden(&b, "dynamic_new_keys", MAX_IDS);
    int m = b.w.config.max_position;
    cr_assert(b.w.config.rope.type == ROPE_DYNAMIC && b.n > m);
    float *want = forward(&b, b.ids, b.n, NULL, NULL);
    /* a prefix alone has its own frequencies, unless it is told how long it will become */
    float *alone = forward(&b, b.ids, 200, NULL, NULL), *told = rows(&b, 200);
    cr_expect(row_error(alone, want, 200, width(&b)) > 1e-2);
    session_reset(b.s);
    CHECK(session_forward(
        b.s, &(struct forward_args){.tokens = b.ids, .n = 200, .total_len = b.n, .hidden = told}));
    cr_expect(row_error(told, want, 200, width(&b)) < 3e-5);
    /* up to the trained length nothing depends on it */
    float *within = forward(&b, b.ids, m, NULL, NULL);
    session_reset(b.s);
    CHECK(
        session_forward(b.s, &(struct forward_args){.tokens = b.ids, .n = m / 2, .hidden = told}));
    cr_expect(row_error(told, within, (size_t)m / 2, width(&b)) < 3e-5);
    free(within);
    free(told);
    free(alone);
    free(want);
    close_bench(&b);
}

/* A mask method knows nothing of a model's own window: sparse on such a layer is refused, and other
 * layers may be sparse. */
Test(forward, sparse_layers_with_a_window_are_refused)
{
    struct bench b;
    open_golden(&b, "ministral_layers", MAX_IDS);
    struct sparse_policy p;
    CHECK(policy_init(&p, mask_method_find("topk"), b.w.config.n_layers, b.w.config.n_heads));
    p.topk = .5f;
    p.min_sparse_tokens = 64;
    CHECK(policy_set_layers(&p, "all"));
    float *hidden = rows(&b, b.n);
    struct forward_args f = {.tokens = b.ids, .n = b.n, .policy = &p, .hidden = hidden};
    cr_expect_eq(session_forward(b.s, &f), ERR_UNSUPPORTED);
    cr_expect(strstr(status_message(), "layer 1") && strstr(status_message(), "--layers"), "%s",
        status_message());
    cr_expect_eq(session_check_policy(&b.w.config, &p, b.n), ERR_UNSUPPORTED); /* beforehand */
    CHECK(session_check_policy(&b.w.config, &p, b.w.config.window));
    CHECK(policy_set_layers(&p, "0+2"));
    CHECK(session_check_policy(&b.w.config, &p, b.n));
    session_reset(b.s);
    CHECK(session_forward(b.s, &f));
    for (size_t i = 0; i < (size_t)b.n * width(&b); i++) cr_assert(isfinite(hidden[i]));
    /* nor is a window defined with eight bits, where every tile is kept */
    struct sparse_policy eight;
    p.qk = PRECISION_INT8;
    CHECK(policy_copy_dense(&eight, &p));
    f.policy = &eight;
    session_reset(b.s);
    CHECK(session_forward(b.s, &f));
    CHECK(policy_set_layers(&eight, "all"));
    session_reset(b.s);
    cr_expect_eq(session_forward(b.s, &f), ERR_UNSUPPORTED);
    cr_expect(strstr(status_message(), "layer 1") &&
            strstr(status_message(), "--qk int8 --pv full is not defined"),
        "%s", status_message());
    policy_clear(&eight);
    free(hidden);
    policy_clear(&p);
    close_bench(&b);
}

static bool stop_at_second(void *ctx) { return ++*(int *)ctx >= 2; }

static enum status refuse_layer_one(void *ctx, const struct layer_view *v)
{
    (void)ctx;
    return v->layer == 1 ? fail(ERR_NUMERIC, "hook says no") : OK;
}

/* A call that fails leaves the sequence as it was, whatever it had begun. */
Test(forward, failures_leave_the_session_as_before)
{
    struct bench b;
    open_golden(&b, "gqa_d64_tied", 128);
    float *want = forward(&b, b.ids, b.n, NULL, NULL), *got = rows(&b, b.n);
    int at = 90, vocab = b.w.config.vocab_size, calls = 0;
    int32_t bad[150];
    memcpy(bad, b.ids, sizeof bad);
    session_reset(b.s);
    CHECK(session_forward(
        b.s, &(struct forward_args){.tokens = b.ids, .n = at, .total_len = b.n, .hidden = got}));
    for (int i = 0; i < 3; i++) {
        static const int32_t wrong[] = {-1, 96, INT32_MAX};
        bad[149] = wrong[i];
        cr_expect_eq(
            session_forward(b.s, &(struct forward_args){.tokens = bad, .n = 150, .hidden = NULL}),
            ERR_ARG);
        cr_expect(strstr(status_message(), "149") && strstr(status_message(), "95"), "%s",
            status_message());
        cr_expect_eq(session_position(b.s), at);
    }
    cr_assert_eq(vocab, 96);
    cr_expect_eq(session_forward(b.s, &(struct forward_args){.tokens = b.ids, .n = 0}), ERR_ARG);
    cr_expect_eq(
        session_forward(b.s, &(struct forward_args){.tokens = b.ids, .n = MAX_IDS - at + 1}),
        ERR_ARG);
    cr_expect_eq(session_forward(b.s,
                     &(struct forward_args){
                         .tokens = b.ids, .n = 110, .stop = stop_at_second, .stop_ctx = &calls}),
        ERR_CANCELLED);
    cr_expect_eq(session_forward(b.s,
                     &(struct forward_args){.tokens = b.ids, .n = 110, .hook = refuse_layer_one}),
        ERR_NUMERIC);
    cr_expect_str_eq(status_message(), "hook says no");
    cr_expect_eq(session_position(b.s), at);
    CHECK(session_forward(b.s,
        &(struct forward_args){.tokens = b.ids + at,
            .n = b.n - at,
            .total_len = b.n,
            .hidden = got + (size_t)at * width(&b)}));
    double e = row_error(got, want, (size_t)b.n, width(&b));
    cr_expect(e < 3e-5, "after five failures: %.3g", e);
    free(got);
    free(want);
    close_bench(&b);
}

/* A policy for the demo model: `method` with these thresholds, every layer on. */
static struct sparse_policy demo_policy(
    const struct bench *b, const char *method, float theta, float tau, float lambda)
{
    struct sparse_policy p;
    CHECK(policy_init(&p, mask_method_find(method), b->w.config.n_layers, b->w.config.n_heads));
    policy_set_thresholds(&p, theta, tau, lambda);
    return p;
}

static struct head_ledger *ledgers(const struct bench *b)
{
    return calloc((size_t)(b->w.config.n_layers * b->w.config.n_heads), sizeof(struct head_ledger));
}

static struct head_ledger ledger_sum(const struct bench *b, const struct head_ledger *l)
{
    struct head_ledger sum = {0};
    for (int i = 0; i < b->w.config.n_layers * b->w.config.n_heads; i++)
        head_ledger_add(&sum, &l[i]);
    return sum;
}

/* Sparse and dense, one, two and three threads: the same bits, the same counts. */
Test(forward, threads_change_no_bit)
{
    struct sample_set set = chronicle(400);
    float *first[2] = {0};
    struct head_ledger first_sum[2];
    for (int threads = 1; threads <= 3; threads++)
        for (int sparse = 0; sparse < 2; sparse++) {
            struct bench b;
            open_demo(&b, threads, 400, 0);
            struct sparse_policy p = demo_policy(&b, "sparge", .2f, .8f, 10);
            struct head_ledger *l = ledgers(&b);
            float *hidden =
                forward(&b, set.samples[0].ids, set.samples[0].n, sparse ? &p : NULL, l);
            struct head_ledger sum = ledger_sum(&b, l);
            if (threads == 1) {
                first[sparse] = hidden;
                first_sum[sparse] = sum;
                cr_expect(sparse == (sum.tiles_computed < sum.tiles_possible));
            } else {
                cr_expect(same_bits(hidden, first[sparse], (size_t)set.samples[0].n * width(&b)),
                    "%d threads, %s: error %.3g", threads, sparse ? "sparse" : "dense",
                    row_error(hidden, first[sparse], (size_t)set.samples[0].n, width(&b)));
                cr_expect(memcmp(&sum, &first_sum[sparse], sizeof sum) == 0,
                    "%d threads: other counts", threads);
                free(hidden);
            }
            free(l);
            policy_clear(&p);
            close_bench(&b);
        }
    free(first[0]);
    free(first[1]);
    sample_set_clear(&set);
}

Test(forward, instruction_sets_agree)
{
    struct sample_set set = chronicle(300);
    int n = set.samples[0].n;
    struct bench b;
    open_demo(&b, 1, 300, 0);
    struct sparse_policy p = demo_policy(&b, "sparge", .2f, .9f, 50);
    float *dense = forward(&b, set.samples[0].ids, n, NULL, NULL),
          *sparse = forward(&b, set.samples[0].ids, n, &p, NULL);
    close_bench(&b);
    int n_checked = 0;
    static const char *const names[] = {"avx2", "base"};
    for (int i = 0; i < 2; i++) {
        if (cpu_ops_choose(names[i]) == ERR_UNSUPPORTED) continue;
        n_checked++;
        open_demo(&b, 1, 300, 0);
        float *d = forward(&b, set.samples[0].ids, n, NULL, NULL),
              *s = forward(&b, set.samples[0].ids, n, &p, NULL);
        cr_expect(
            strstr(session_impls(b.s), names[i]), "%s ran for %s", session_impls(b.s), names[i]);
        double e = row_error(d, dense, (size_t)n, width(&b));
        cr_expect(e < 5e-5, "%s, dense: %.3g", names[i], e);
        e = row_error(s, sparse, (size_t)n, width(&b));
        cr_expect(
            e < 5e-5, "%s, sparse: %.3g (a tile at the very edge of a threshold?)", names[i], e);
        free(s);
        free(d);
        close_bench(&b);
    }
    cr_expect(n_checked >= 1);
    CHECK(cpu_ops_choose("auto"));
    free(dense);
    free(sparse);
    policy_clear(&p);
    sample_set_clear(&set);
}

/* Every implementation of attention runs the model; the fp64 reference judges. */
Test(forward, attention_implementations_agree)
{
    struct sample_set set = chronicle(300);
    int n = set.samples[0].n;
    struct bench b;
    open_demo(&b, 1, 300, 0);
    struct sparse_policy p = demo_policy(&b, "sparge", .2f, .9f, 8);
    float *want = NULL;
    for (int i = 0; attn_impls[i]; i++) cr_assert_not_null(attn_impls[i]->name);
    int last = 0;
    while (attn_impls[last + 1]) last++;
    cr_assert_eq(attn_impls[last], &attn_ref);
    for (int i = last; i >= 0; i--) {
        struct attn_args probe = {.dtype = DTYPE_F32,
            .n_q = n,
            .n_heads = 4,
            .n_kv_heads = 2,
            .head_dim = 64,
            .block = {128, 64}};
        if (attn_impls[i]->refuses(&probe)) continue;
        session_close(&b.s);
        CHECK(session_open(&b.s, &b.w, b.par, 300, 0, attn_impls[i]->name));
        float *got = forward(&b, set.samples[0].ids, n, &p, NULL);
        cr_expect_str_eq(session_impls(b.s), attn_impls[i]->name);
        if (!want) {
            want = got;
            continue;
        }
        double e = row_error(got, want, (size_t)n, width(&b));
        cr_expect(e < 5e-5, "%s: %.3g", attn_impls[i]->name, e);
        free(got);
    }
    session_close(&b.s);
    CHECK(session_open(&b.s, &b.w, b.par, 300, 0, "attn_of_no_one"));
    cr_expect_eq(session_forward(b.s, &(struct forward_args){.tokens = set.samples[0].ids, .n = n}),
        ERR_UNSUPPORTED);
    cr_expect_eq(session_position(b.s), 0);
    free(want);
    policy_clear(&p);
    close_bench(&b);
    sample_set_clear(&set);
}

/* Σ over query blocks of the tiles some row may see. */
static uint64_t tiles_of(struct block_shape s, int n)
{
    uint64_t sum = 0;
    for (int i = 0; i * s.q < n; i++) {
        int last = (i + 1) * s.q - 1 < n - 1 ? (i + 1) * s.q - 1 : n - 1;
        sum += (uint64_t)(last / s.k + 1);
    }
    return sum;
}

Test(forward, keeping_everything_is_dense)
{
    struct sample_set set = chronicle(333);
    int n = set.samples[0].n;
    struct bench b;
    open_demo(&b, 1, 333, 0);
    float *dense = forward(&b, set.samples[0].ids, n, NULL, NULL);
    static const struct block_shape shapes[] = {{128, 64}, {64, 64}, {64, 128}, {128, 128}};
    for (int i = 0; i < 4; i++) {
        struct sparse_policy p = demo_policy(&b, "sparge", .3f, 1, 50);
        p.block = shapes[i];
        struct head_ledger *l = ledgers(&b);
        float *got = forward(&b, set.samples[0].ids, n, &p, l);
        double e = row_error(got, dense, (size_t)n, width(&b));
        cr_expect(e < 3e-5, "%dx%d: %.3g", shapes[i].q, shapes[i].k, e);
        for (int h = 0; h < b.w.config.n_layers * b.w.config.n_heads; h++) {
            cr_expect_eq(l[h].tiles_possible, tiles_of(shapes[i], n));
            cr_expect_eq(l[h].tiles_computed, l[h].tiles_possible);
            cr_expect_eq(l[h].calls_sparse, 1);
            cr_expect_eq(
                l[h].calls_dense_head + l[h].calls_dense_layer + l[h].calls_dense_short, 0);
        }
        free(got);
        free(l);
        policy_clear(&p);
    }
    free(dense);
    close_bench(&b);
    sample_set_clear(&set);
}

Test(forward, short_sequences_fall_back_and_are_counted)
{
    struct sample_set set = chronicle(300);
    struct bench b;
    open_demo(&b, 1, 300, 128);
    struct sparse_policy p = demo_policy(&b, "sparge", .2f, .5f, 50);
    p.block = (struct block_shape){64, 64};
    int heads = b.w.config.n_layers * b.w.config.n_heads;
    for (int short_one = 0; short_one < 2; short_one++) {
        int n = short_one ? 255 : 256;
        struct head_ledger *l = ledgers(&b);
        float *dense = forward(&b, set.samples[0].ids, n, NULL, NULL),
              *got = forward(&b, set.samples[0].ids, n, &p, l);
        cr_expect_eq(same_bits(dense, got, (size_t)n * width(&b)), short_one);
        struct head_ledger sum = ledger_sum(&b, l);
        cr_expect_eq(sum.calls_dense_short > 0, short_one);
        cr_expect_eq(sum.calls_sparse > 0, !short_one);
        cr_expect_eq(sum.tiles_computed == sum.tiles_possible, short_one);
        for (int h = 0; h < heads; h++)
            cr_expect_eq(l[h].calls_sparse + l[h].calls_dense_short, 2, "two chunks each");
        free(dense);
        free(got);
        free(l);
    }
    /* 255 tokens now of 300 in the end are not short; a lower limit makes 100 long enough */
    struct head_ledger *l = ledgers(&b);
    session_reset(b.s);
    CHECK(session_forward(b.s,
        &(struct forward_args){
            .tokens = set.samples[0].ids, .n = 128, .total_len = 300, .policy = &p, .ledger = l}));
    p.min_sparse_tokens = 100;
    session_reset(b.s);
    CHECK(session_forward(b.s,
        &(struct forward_args){.tokens = set.samples[0].ids, .n = 100, .policy = &p, .ledger = l}));
    for (int h = 0; h < heads; h++)
        cr_expect(l[h].calls_sparse == 2 && l[h].calls_dense_short == 0);
    free(l);
    policy_clear(&p);
    close_bench(&b);
    sample_set_clear(&set);
}

Test(forward, layers_and_heads_outside_run_dense_and_are_counted)
{
    struct sample_set set = chronicle(300);
    int n = set.samples[0].n;
    struct bench b;
    open_demo(&b, 1, 300, 0);
    int heads = b.w.config.n_heads;
    struct sparse_policy p = demo_policy(&b, "sparge", .2f, .5f, 50);
    CHECK(policy_set_layers(&p, "2-4"));
    p.heads[3 * heads + 1].is_sparse = false;
    struct head_ledger *l = ledgers(&b);
    float *dense = rows(&b, n), *sparse = rows(&b, n), *got;
    /* the stream that enters layer 2 is the dense one, that behind it is not */
    for (int layer = 2; layer <= 3; layer++) {
        for (int s = 0; s < 2; s++) {
            session_reset(b.s);
            CHECK(session_forward(b.s,
                &(struct forward_args){.tokens = set.samples[0].ids,
                    .n = n,
                    .policy = s ? &p : NULL,
                    .capture_layer = layer,
                    .residual_out = s ? sparse : dense}));
        }
        cr_expect_eq(same_bits(dense, sparse, (size_t)n * width(&b)), layer == 2);
    }
    got = forward(&b, set.samples[0].ids, n, &p, l);
    for (int layer = 0; layer < b.w.config.n_layers; layer++)
        for (int h = 0; h < heads; h++) {
            const struct head_ledger *x = &l[layer * heads + h];
            bool outside = layer < 2 || layer > 4, dense_head = layer == 3 && h == 1;
            cr_expect_eq(x->calls_dense_layer, outside, "layer %d head %d", layer, h);
            cr_expect_eq(x->calls_dense_head, dense_head, "layer %d head %d", layer, h);
            cr_expect_eq(x->calls_sparse, !outside && !dense_head, "layer %d head %d", layer, h);
            cr_expect_eq(x->calls_dense_short, 0);
            cr_expect_eq(x->tiles_possible, tiles_of(p.block, n));
            if (outside || dense_head) cr_expect_eq(x->tiles_computed, x->tiles_possible);
        }
    struct head_ledger sum = ledger_sum(&b, l);
    cr_expect(sum.tiles_computed < sum.tiles_possible);
    free(dense);
    free(sparse);
    free(got);
    free(l);
    policy_clear(&p);
    close_bench(&b);
    sample_set_clear(&set);
}

/* A prefill in chunks that start on a query block computes the same tiles (kernels/attn.h). */
Test(forward, sparse_chunks_compute_the_same_tiles)
{
    struct sample_set set = chronicle(385);
    int n = 385; /* the last chunk is a single row */
    float *first = NULL;
    struct head_ledger first_sum = {0};
    for (int chunk = 512; chunk >= 128; chunk -= 384) {
        struct bench b;
        open_demo(&b, 1, 512, chunk);
        struct sparse_policy p = demo_policy(&b, "sparge", .2f, .8f, 10);
        struct head_ledger *l = ledgers(&b);
        float *hidden = forward(&b, set.samples[0].ids, n, &p, l);
        struct head_ledger sum = ledger_sum(&b, l);
        if (chunk == 512) {
            first = hidden;
            first_sum = sum;
            cr_expect(sum.tiles_computed < sum.tiles_possible &&
                sum.pv_units_computed < sum.pv_units_possible);
        } else {
            cr_expect_eq(sum.tiles_computed, first_sum.tiles_computed);
            cr_expect_eq(sum.tiles_possible, first_sum.tiles_possible);
            cr_expect_eq(sum.pv_units_computed, first_sum.pv_units_computed);
            cr_expect_eq(sum.pv_units_possible, first_sum.pv_units_possible);
            double e = row_error(hidden, first, (size_t)n, width(&b));
            cr_expect(e < 3e-5, "%.3g", e);
            free(hidden);
        }
        free(l);
        policy_clear(&p);
        close_bench(&b);
    }
    free(first);
    sample_set_clear(&set);
}

/* Rows in front of the first changed token may not move by a bit: dense, under a mask that no token
 * changes (window), and for sparge in every block that ends in front of it. */
Test(forward, later_tokens_change_no_earlier_row)
{
    struct sample_set set = chronicle(400);
    int n = 400;
    int32_t other[400];
    memcpy(other, set.samples[0].ids, sizeof other);
    int from = 301;
    for (int i = from; i < n; i++) other[i] = (other[i] + 1000 + 7 * i) % 4096;
    struct bench b;
    open_demo(&b, 1, n, 0);
    for (int mode = 0; mode < 3; mode++) {
        struct sparse_policy p = demo_policy(&b, mode == 1 ? "window" : "sparge", .2f, .8f, 50);
        p.window = 100;
        float *x = forward(&b, set.samples[0].ids, n, mode ? &p : NULL, NULL);
        float *y = forward(&b, other, n, mode ? &p : NULL, NULL);
        int safe = mode == 2 ? 256 : from; /* a query block's mask depends on its own later rows */
        int moved = 0;
        for (int r = 0; r < safe; r++)
            moved += !same_bits(x + (size_t)r * width(&b), y + (size_t)r * width(&b), width(&b));
        cr_expect_eq(
            moved, 0, "%s: %d earlier rows moved", mode == 0 ? "dense" : p.method->name, moved);
        cr_expect(
            !same_bits(x + (size_t)from * width(&b), y + (size_t)from * width(&b), width(&b)));
        free(x);
        free(y);
        policy_clear(&p);
    }
    close_bench(&b);
    sample_set_clear(&set);
}

Test(forward, last_hidden_is_the_last_row)
{
    struct bench b;
    open_golden(&b, "d128_gqa", 128);
    float *hidden = rows(&b, b.n), *last = rows(&b, 1);
    CHECK(session_forward(b.s,
        &(struct forward_args){.tokens = b.ids, .n = b.n, .hidden = hidden, .last_hidden = last}));
    cr_expect(same_bits(last, hidden + (size_t)(b.n - 1) * width(&b), width(&b)));
    struct session_plan plan = session_plan(&b.w.config, MAX_IDS, 128, 1);
    cr_expect_eq(plan.total_bytes, plan.kv_bytes + plan.activation_bytes + plan.linear_bytes);
    cr_expect(plan.kv_bytes >= 2 * sizeof(float) * MAX_IDS *
            (size_t)(b.w.config.n_kv_heads * b.w.config.head_dim * b.w.config.n_layers));
    free(hidden);
    free(last);
    close_bench(&b);
}

/* What each layer's attention was asked for, and what the reference makes of that very call. */
struct precise {
    const struct sparse_policy *policy;
    int n_eight, n_full;
    double worst;
};

static enum status look_at_precision(void *ctx, const struct layer_view *view)
{
    struct precise *x = ctx;
    struct attn_args a = *view->attn;
    size_t n = (size_t)a.n_q * (size_t)a.n_heads * (size_t)a.head_dim;
    float *o = malloc(n * sizeof *o);
    void *ws = aligned_alloc(64, (attn_ref.workspace(&a) + 63) / 64 * 64);
    bool on = x->policy->layer_on[view->layer];
    cr_expect_eq(a.qk, on ? x->policy->qk : PRECISION_FULL, "layer %d", view->layer);
    cr_expect_eq(a.pv, on ? x->policy->pv : PRECISION_FULL, "layer %d", view->layer);
    *(attn_is_full(&a) ? &x->n_full : &x->n_eight) += 1;
    a.o = o;
    a.ledger = NULL;
    CHECK(attn_ref.run(&a, ws, NULL, NULL));
    double off = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double got = (double)((const float *)view->attn->o)[i], want = (double)o[i];
        off += (got - want) * (got - want);
        norm += want * want;
    }
    x->worst = fmax(x->worst, sqrt(off / norm));
    free(ws);
    free(o);
    return OK;
}

Test(forward, eight_bits_are_what_the_reference_computes_and_are_counted)
{
    static const struct {
        const char *method;
        enum precision qk, pv;
        double allowed; /* e4m3 of a probability turns over where f32 and fp64 part: a whole step of
                           one key */
    } cases[] = {{NULL, PRECISION_INT8, PRECISION_FULL, 1e-5},
        {"sparge", PRECISION_INT8, PRECISION_FP8, 1e-3}, {NULL, PRECISION_FP8, PRECISION_FP8, 1e-3},
        {"topk", PRECISION_FP8, PRECISION_FULL, 1e-5}};
    struct sample_set set = chronicle(333);
    int n = set.samples[0].n;
    struct bench b;
    open_demo(&b, 2, 333, 0);
    int heads = b.w.config.n_heads, layers = b.w.config.n_layers;
    float *dense = forward(&b, set.samples[0].ids, n, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sparse_policy p = demo_policy(&b, "sparge", .2f, .7f, 50);
        p.method = cases[i].method ? mask_method_find(cases[i].method) : NULL;
        policy_set_thresholds(&p, .2f, .7f, 50);
        if (cases[i].method && strcmp(cases[i].method, "topk") == 0) p.topk = .4f;
        CHECK(policy_set_precision(&p, cases[i].qk, cases[i].pv));
        CHECK(policy_set_layers(&p, "1+3-4"));
        p.heads[3 * heads + 1].is_sparse =
            false; /* dense among sparse ones, in the same precision */
        struct precise x = {.policy = &p};
        struct head_ledger *l = ledgers(&b);
        float *hidden = rows(&b, n);
        session_reset(b.s);
        CHECK(session_forward(b.s,
            &(struct forward_args){.tokens = set.samples[0].ids,
                .n = n,
                .policy = &p,
                .ledger = l,
                .hidden = hidden,
                .hook = look_at_precision,
                .hook_ctx = &x}));
        cr_expect(x.n_eight == 3 && x.n_full == layers - 3, "%d %d", x.n_eight, x.n_full);
        cr_expect(x.worst < cases[i].allowed, "case %zu: %.3g", i, x.worst);
        cr_expect_not(same_bits(dense, hidden, (size_t)n * width(&b)));
        for (int c = 0; c < layers * heads; c++) {
            bool on = p.layer_on[c / heads];
            cr_expect_eq(l[c].calls_eight, on);
            cr_expect_eq(l[c].calls_dense_layer, !on);
            cr_expect_eq(l[c].calls_sparse, on && p.heads[c].is_sparse);
            cr_expect_eq(l[c].calls_dense_head, on && !p.heads[c].is_sparse);
        }
        free(l);
        free(hidden);
        policy_clear(&p);
    }
    /* short sequences and single tokens run as they are, and that is counted */
    struct sparse_policy p = demo_policy(&b, "sparge", .2f, .7f, 50);
    CHECK(policy_set_precision(&p, PRECISION_INT8, PRECISION_FP8));
    struct head_ledger *l = ledgers(&b);
    float *got = forward(&b, set.samples[0].ids, 255, &p, l),
          *want = forward(&b, set.samples[0].ids, 255, NULL, NULL);
    cr_expect(same_bits(got, want, 255 * width(&b)));
    CHECK(session_forward(b.s,
        &(struct forward_args){
            .tokens = set.samples[0].ids, .n = 1, .total_len = 333, .policy = &p, .ledger = l}));
    for (int c = 0; c < layers * heads; c++)
        cr_expect(l[c].calls_eight == 0 && l[c].calls_dense_short == 2);
    free(l);
    free(got);
    free(want);
    free(dense);
    policy_clear(&p);
    close_bench(&b);
    sample_set_clear(&set);
}

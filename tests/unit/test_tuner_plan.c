/* What a tune holds in memory: a part of a layer's heads at a time, planned before anything is
 * allocated, the same thresholds whatever the parts are. */
#include "engine/engine.h"
#include "engine/checkpoint/synth.h"
#include "engine/tuner/tuner.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <malloc.h>
#include <math.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())

enum { N_SAMPLES = 3, MOST_TOKENS = 512 };

struct setup {
    struct weights w;
    struct par *par;
    struct sparse_policy policy;
    int32_t ids[N_SAMPLES * MOST_TOKENS];
    struct tune_sample samples[N_SAMPLES];
    struct tune_args args;
};

static const struct tune_bounds bounds[] = {{.3, .4}, {.1, .2}};

static void setup_init(struct setup *s, const char *dir, int threads, int n_tokens)
{
    *s = (struct setup){0};
    CHECK(weights_open(&s->w, dir));
    CHECK(par_open(&s->par, threads));
    CHECK(policy_init(&s->policy, &mask_sparge, s->w.config.n_layers, s->w.config.n_heads));
    for (int i = 0; i < N_SAMPLES * n_tokens; i++)
        s->ids[i] = (int32_t)((unsigned)(i / 7) * 2654435761u >> 16) % s->w.config.vocab_size;
    for (int i = 0; i < N_SAMPLES; i++)
        s->samples[i] = (struct tune_sample){
            s->ids + i * n_tokens, n_tokens - 33 * i, "sample", i == N_SAMPLES - 1};
    s->args = (struct tune_args){.weights = &s->w,
        .par = s->par,
        .policy = &s->policy,
        .samples = s->samples,
        .n_samples = N_SAMPLES,
        .bounds = bounds,
        .n_bounds = 2,
        .min_sparsity = .05};
}

static void setup_clear(struct setup *s)
{
    policy_clear(&s->policy);
    par_close(&s->par);
    weights_close(&s->w);
}

static int count_different(const struct tuned *x, const struct tuned *y)
{
    int n = 0;
    for (int i = 0; i < x->n_layers * x->n_heads; i++) {
        const struct tuned_head *a = &x->heads[i], *b = &y->heads[i];
        n += a->params.theta != b->params.theta || a->params.tau != b->params.tau ||
            a->params.lambda != b->params.lambda || a->params.is_sparse != b->params.is_sparse ||
            memcmp(&a->tune, &b->tune, sizeof a->tune) != 0 ||
            memcmp(&a->check, &b->check, sizeof a->check) != 0 || a->sparsity != b->sparsity ||
            a->back_offs != b->back_offs || strcmp(a->reason, b->reason) != 0;
    }
    return n;
}

/* MHA, GQA and MQA, heads of 16 to 64, biases, f32, f16 and bf16; parts down to one head, with one
 * and two threads. */
Test(tuner_plan, parts_change_nothing, .timeout = 300)
{
    static const char *const models[] = {"gqa_d64_tied", "mqa_linear_f16", "sharded_bf16",
        "mha_default", "bias_d16", "dynamic_new_keys"};
    int n_parted = 0, n_sparse = 0;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        struct setup s;
        struct tuned whole[2], parts[2];
        struct tune_times times;
        char *dir = path_join(GOLDEN_MODELS, models[m]);
        setup_init(&s, dir, 1 + (int)m % 2, 333);
        cr_expect_eq(tuner_plan(&s.args).heads_at_once, s.w.config.n_heads);
        CHECK(tune(&s.args, whole, &times));
        for (int i = 0; i < whole[0].n_layers * whole[0].n_heads; i++)
            n_sparse += whole[0].heads[i].params.is_sparse;
        for (int limit = 0; limit < 2; limit++) {
            struct tuner_plan all = tuner_plan(&s.args);
            s.args.held_bytes = limit ? (all.tensor_bytes + all.curve_bytes) * 2 / 3 : 1;
            struct tuner_plan p = tuner_plan(&s.args);
            cr_expect(limit ? p.heads_at_once < s.w.config.n_heads &&
                        p.tensor_bytes + p.curve_bytes <= s.args.held_bytes
                            : p.heads_at_once == 1,
                "%s: %d heads at once", models[m], p.heads_at_once);
            n_parted += p.heads_at_once > 1;
            CHECK(tune(&s.args, parts, &times));
            cr_expect_eq(
                times.n_curves, s.w.config.n_layers * s.w.config.n_heads * (N_SAMPLES - 1));
            for (int b = 0; b < 2; b++) {
                cr_expect_eq(count_different(&whole[b], &parts[b]), 0,
                    "%s, %d heads at once, bound %g", models[m], p.heads_at_once, whole[b].l1);
                tuned_clear(&parts[b]);
            }
            s.args.held_bytes = 0;
        }
        for (int b = 0; b < 2; b++) tuned_clear(&whole[b]);
        setup_clear(&s);
        free(dir);
    }
    cr_expect(n_parted > 1 && n_sparse > 4, "%d models in parts of several heads, %d sparse heads",
        n_parted, n_sparse);
}

static size_t most_in_use;

static size_t in_use(void)
{
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

static bool note_memory(void *ctx)
{
    (void)ctx;
    size_t now = in_use();
    if (now > most_in_use) most_in_use = now;
    return false;
}

/* 8, 32 and 128 heads of one hidden size: the session apart, the plan stays under one limit, and so
 * does the heap. */
Test(tuner_plan, memory_does_not_grow_with_the_heads, .timeout = 300)
{
    static const int n_heads[] = {8, 32, 128};
    for (int wide = 0; wide < 2; wide++)
        for (int i = 0; i < 3; i++) {
            char *parent = dir_make(), *dir = path_join(parent, "model");
            struct synth_options o = synth_defaults();
            const struct synth_shape *shape;
            CHECK(synth_find("tiny", &shape));
            struct llama_config c = shape->config;
            c.hidden_size = 256;
            c.intermediate_size = 256;
            c.n_layers = 1;
            c.n_heads = n_heads[i];
            c.n_kv_heads = n_heads[i] / 2;
            c.head_dim = wide ? 32 : 256 / n_heads[i];
            CHECK(synth_write(dir, &c, &o));
            struct setup s;
            struct tuned out[2];
            struct tune_times times;
            setup_init(&s, dir, 1, MOST_TOKENS);
            s.args.held_bytes = 4 << 20;
            s.args.stop = note_memory;
            struct tuner_plan p = tuner_plan(&s.args);
            size_t before = most_in_use = in_use();
            CHECK(tune(&s.args, out, &times));
            size_t used = most_in_use - before, apart = p.total_bytes - p.session_bytes;
            cr_log_info("%3d heads of %2d: %2d at once; session %5zu KiB, the rest planned %5zu, "
                        "in use %5zu",
                n_heads[i], c.head_dim, p.heads_at_once, p.session_bytes >> 10, apart >> 10,
                (used > p.session_bytes ? used - p.session_bytes : 0) >> 10);
            cr_expect(p.tensor_bytes + p.curve_bytes <= s.args.held_bytes);
            cr_expect(p.heads_at_once < 128);
            size_t limit = p.stream_bytes + s.args.held_bytes + p.workspace_bytes;
            cr_expect(apart <= limit, "%d heads: %zu planned", n_heads[i], apart);
            if (before) /* a sanitizer's heap counts nothing */
                cr_expect(used <= p.session_bytes + limit + (1 << 20), "%d heads: %zu in use",
                    n_heads[i], used);
            for (int b = 0; b < 2; b++) tuned_clear(&out[b]);
            setup_clear(&s);
            dir_remove(dir);
            dir_remove(parent);
        }
}

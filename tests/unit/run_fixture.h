/* Invented runs for tests of results/ and reports/: the numbers are made up from a seed, and hang
 * together the way real ones do (more sparsity, more error). */
#ifndef SG_TESTS_UNIT_RUN_FIXTURE_H
#define SG_TESTS_UNIT_RUN_FIXTURE_H

#include "base/rng.h"
#include "base/str.h"
#include "results/query.h"
#include "results/store.h"
#include "tests/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fixture_options {
    uint64_t seed;
    int n_samples, n_layers, n_heads;
    double sparsity; /* 0 … 1 */
    double error;    /* 0 … 1, scales every difference */
    const char *method, *rule, *layers;
    const char *dataset; /* fingerprint, NULL = the usual one */
    const char *tuned_hash;
    bool tasks, latency, words;
};

struct fixture {
    struct run_data d;
    char key[33], slot[33], key_json[512];
    struct metric_record metrics[64];
    struct sample_record *samples;
    struct ledger_record *ledger;
    struct layer_error_record *layer_errors;
    struct item_record *items;
    struct latency_record latencies[24];
    uint8_t mask_bits[64];
    struct mask_record masks[2];
    char scopes[8][32];
};

static inline struct metric_record fixture_metric(
    const char *scope, const char *name, int64_t n, double mean, double spread, double towards)
{
    struct metric_record m = metric_record_empty(scope, name, n);
    double d = towards - mean; /* the tail lies away from the perfect value */
    m.mean = mean;
    m.std_error = spread / sqrt((double)n);
    m.min = d > 0 ? mean - 9 * spread : mean * .01;
    m.p0_1 = d > 0 ? mean - 6 * spread : mean * .02;
    m.p1 = d > 0 ? mean - 3 * spread : mean * .05;
    m.p5 = d > 0 ? mean - 2 * spread : mean * .1;
    m.median = mean + .2 * d;
    m.p95 = d > 0 ? mean + .6 * d : mean + 2 * spread;
    m.p99 = d > 0 ? mean + .8 * d : mean + 4 * spread;
    m.p99_9 = d > 0 ? mean + .9 * d : mean + 7 * spread;
    m.max = d > 0 ? mean + .97 * d : mean + 12 * spread;
    m.lo = mean - 2.2 * m.std_error;
    m.hi = mean + 2.2 * m.std_error;
    return m;
}

static inline void fixture_pooled(struct fixture *f, const char *name, double mean, double half)
{
    struct metric_record m = metric_record_empty("overall", name, 10000);
    m.mean = mean;
    m.lo = mean - half;
    m.hi = mean + half;
    f->metrics[f->d.n_metrics++] = m;
}

static inline void fixture_run(struct fixture *f, struct fixture_options o)
{
    memset(f, 0, sizeof *f);
    struct rng r;
    rng_init(&r, o.seed);
    struct run_record *run = &f->d.run;
    double e = o.error;
    snprintf(f->key_json, sizeof f->key_json,
        "{\"model\":\"%s\",\"engine\":\"1\",\"method\":\"%s\",\"layers\":\"%s\",\"seed\":%llu,"
        "\"sparsity\":%.6f,"
        "\"dataset\":\"%s\"}",
        "0123456789abcdef0123456789abcdef", o.method, o.layers ? o.layers : "all",
        (unsigned long long)o.seed, o.sparsity, o.dataset ? o.dataset : "text");
    store_key(f->key_json, f->key);
    char slot_json[64];
    snprintf(slot_json, sizeof slot_json, "{\"cell\":%llu}", (unsigned long long)o.seed);
    store_key(slot_json, f->slot);
    *run = (struct run_record){
        .key = f->key,
        .slot = f->slot,
        .key_json = f->key_json,
        .status = RUN_DONE,
        .method = o.method,
        .block_q = 128,
        .block_k = 64,
        .smooth_k = "running",
        .rule = o.rule,
        .l1 = o.rule ? .06 : NAN,
        .pv_l1 = o.rule ? .07 : NAN,
        .simthreshd1 = .6,
        .cdfthreshd = .98,
        .pvthreshd = 50,
        .topk = NAN,
        .window = -1,
        .layers = o.layers ? o.layers : "all",
        .heads = "all",
        .tuned_hash = o.tuned_hash,
        .max_length = 2048,
        .num_samples = o.n_samples,
        .score = "all",
        .seed = 7,
        .threads = 2,
        .device = "cpu",
        .impls = "attn_sparse=attn_sparse_avx2_f32",
        .min_sparse_tokens = 256,
        .attention_calls = o.n_samples * o.n_layers,
        .argv_json = "[\"sparsegauge\",\"eval\",\"story-llama\"]",
        .started = "2026-03-01T10:00:00Z",
        .ended = "2026-03-01T10:02:00Z",
        .wall_s = 120,
        .peak_bytes = 900 << 20,
        .peak_device_bytes = -1,
        .model = {.fingerprint = "0123456789abcdef0123456789abcdef",
            .name = "story-llama",
            .path = "models/story",
            .config_json = "{\"hidden\":128}",
            .n_layers = o.n_layers,
            .n_heads = o.n_heads,
            .n_kv_heads = 4,
            .head_dim = 16,
            .vocab = 2048,
            .n_params = 656000},
        .dataset = {.fingerprint = o.dataset ? o.dataset : "fedcba9876543210fedcba9876543210",
            .suite = "text",
            .name = "text:wiki.valid.raw",
            .n_samples = o.n_samples,
            .max_length = 2048,
            .n_tokens = 2048 * o.n_samples},
        .machine = {.fingerprint = "00112233445566778899aabbccddeeff",
            .hostname = "box",
            .cpu = "AMD EPYC",
            .n_cores = 2,
            .ram_bytes = 8LL << 30,
            .os = "Linux"},
        .software = {.version = "0.1.0",
            .engine = "1",
            .compiler = "gcc 12",
            .commit = "abc1234",
            .dirty = false},
    };
    int64_t n = 2047 * o.n_samples;
    struct metric_record *m = f->metrics;
    m[f->d.n_metrics++] = fixture_metric("overall", "cosine", n, 1 - .02 * e, .01 * e, 1);
    m[f->d.n_metrics++] = fixture_metric("overall", "kl", n, .05 * e, .04 * e, 0);
    m[f->d.n_metrics++] = fixture_metric("overall", "delta_p", n, -.004 * e, .01 * e, 0);
    fixture_pooled(f, "sparsity", o.sparsity, .004);
    fixture_pooled(f, "qk_sparsity", o.sparsity * .95, .004);
    fixture_pooled(f, "pv_sparsity", o.sparsity * 1.05, .004);
    fixture_pooled(f, "ppl_dense", 12.5, .4);
    fixture_pooled(f, "ppl_sparse", 12.5 * (1 + .06 * e), .4);
    fixture_pooled(f, "ppl_ratio", 1 + .06 * e, .006 * e);
    fixture_pooled(f, "token_accuracy", 1 - .08 * e, .004 * e);
    fixture_pooled(f, "top5_overlap", 1 - .1 * e, .004 * e);
    fixture_pooled(f, "logits_cosine", 1 - .018 * e, .002 * e);
    fixture_pooled(f, "logits_l1", .12 * e, .004 * e);
    fixture_pooled(f, "logits_rmse", .3 * e, .01 * e);
    fixture_pooled(f, "hidden_cosine", 1 - .015 * e, .002 * e);
    fixture_pooled(f, "hidden_l1", .1 * e, .004 * e);
    fixture_pooled(f, "cosine_centred", 1 - .019 * e, .002 * e);
    fixture_pooled(f, "row_rmse", .28 * e, .01 * e);
    fixture_pooled(f, "row_hidden_cosine", 1 - .016 * e, .002 * e);
    for (int b = 0; b < 8; b++) {
        snprintf(f->scopes[b], sizeof f->scopes[b], "position:%d-%d", 256 * b, 256 * b + 255);
        double g = e * (.3 + .12 * b);
        m[f->d.n_metrics++] =
            fixture_metric(f->scopes[b], "cosine", n / 8, 1 - .02 * g, .01 * g, 1);
        m[f->d.n_metrics++] = fixture_metric(f->scopes[b], "kl", n / 8, .05 * g, .04 * g, 0);
    }
    f->samples = calloc((size_t)o.n_samples, sizeof *f->samples);
    for (int i = 0; i < o.n_samples; i++) {
        /* by pairs around e, so that means over samples are the overall numbers */
        double away = i < o.n_samples / 2 ? .1 + .1 * rng_unit(&r) : 0,
               level = 2.5 + .2 * rng_normal(&r);
        int twin = o.n_samples - 1 - i;
        /* the other side of its twin */
        if (i > twin && e != 0) away = 1 - f->samples[twin].kl_mean / (.05 * e);
        double g = e == 0 ? 0 : e * (i > twin ? 1 + away : 1 - away);
        f->samples[i] = (struct sample_record){
            .sample = i,
            .n_tokens = 2048,
            .n_scored = 2047,
            .nll_dense_sum = 2047 * level,
            .nll_sparse_sum = 2047 * (level + .058 * g),
            .cosine_mean = 1 - .02 * g,
            .cosine_p1 = 1 - .06 * g,
            .cosine_min = 1 - .2 * g,
            .kl_mean = .05 * g,
            .kl_p99_9 = .4 * g,
            .kl_max = 2 * g,
            .delta_p_mean = -.004 * g,
            .token_accuracy = 1 - .08 * g,
            .top5_overlap = 1 - .1 * g,
            .logits_cosine = 1 - .018 * g,
            .logits_l1 = .12 * g,
            .logits_rmse = .3 * g,
            .hidden_cosine = 1 - .015 * g,
            .hidden_l1 = .1 * g,
            .sparsity = o.sparsity,
            .qk_sparsity = o.sparsity * .95,
            .pv_sparsity = o.sparsity * 1.05,
            .cosine_centred_mean = 1 - .019 * g,
            .row_rmse_mean = .28 * g,
            .row_hidden_cosine_mean = 1 - .016 * g,
            .logits_dense_rms = 3 + .01 * i,
            .logits_sparse_rms = 3 + .01 * i,
            .hidden_dense_rms = 1 + .01 * i,
            .hidden_sparse_rms = 1 + .01 * i,
            .tiles_possible = 2720,
            .pv_possible = 5440,
        };
    }
    f->ledger = calloc((size_t)(o.n_layers * o.n_heads), sizeof *f->ledger);
    f->layer_errors = calloc((size_t)(o.n_layers * (o.n_heads + 1)), sizeof *f->layer_errors);
    for (int l = 0; l < o.n_layers; l++)
        for (int h = 0; h < o.n_heads; h++) {
            double s = fmin(.95, fmax(0, o.sparsity + .2 * rng_normal(&r)));
            int64_t tiles = 272 * o.n_samples;
            f->ledger[l * o.n_heads + h] = (struct ledger_record){
                .layer = l,
                .head = h,
                .tiles_possible = tiles,
                .tiles_computed = (int64_t)((1 - s) * (double)tiles),
                .pv_possible = 2 * tiles,
                .pv_computed = (int64_t)((1 - s) * 2 * (double)tiles),
                .forced_sink = 16 * o.n_samples,
                .forced_diagonal = 32 * o.n_samples,
                .forced_theta_q = rng_range(&r, 0, 40),
                .forced_theta_k = rng_range(&r, 0, 40),
                .calls = o.n_samples,
                .dense_head = s == 0 ? o.n_samples : 0,
                .theta = s == 0 ? NAN : rng_range(&r, -16, 15) / 16.0,
                .tau = s == 0 ? NAN : .9 + rng_range(&r, 0, 1000) * 1e-4,
                .lambda = s == 0 ? NAN : 20,
            };
            if (o.words)
                f->layer_errors[f->d.n_layer_errors++] = (struct layer_error_record){
                    -1, l, h, .03 * e * (1 + s), 1 - .001 * e, .02 * e * (l + 1), 1 - .002 * e};
        }
    for (int l = 0; l < o.n_layers; l++)
        f->layer_errors[f->d.n_layer_errors++] =
            (struct layer_error_record){-1, l, -1, e * (.03 + .02 * rng_unit(&r)), 1 - .001 * e,
                e * .02 * (l + 1), 1 - .002 * e * (l + 1)};
    f->d.metrics = f->metrics;
    f->d.samples = f->samples;
    f->d.n_samples = (size_t)o.n_samples;
    f->d.ledger = f->ledger;
    f->d.n_ledger = (size_t)(o.n_layers * o.n_heads);
    f->d.layer_errors = f->layer_errors;
    if (o.tasks) {
        f->items = calloc(60, sizeof *f->items);
        for (int i = 0; i < 60; i++) {
            int length = 512 << (i / 5 % 4);
            double lost = e * .5 * (length / 4096.0);
            f->items[i] = (struct item_record){.item = str_format("needle-%02d", i),
                .group = i % 2 ? "city" : "number",
                .sample = i,
                .depth = (i % 5) / 4.0,
                .length = length,
                .dense_score = -.5,
                .sparse_score = -.5 - lost,
                .dense_right = rng_unit(&r) < .97,
                .sparse_right = rng_unit(&r) < .97 - lost};
        }
        f->d.items = f->items;
        f->d.n_items = 60;
        fixture_pooled(f, "score_dense", .97, .02);
        fixture_pooled(f, "score_sparse", .97 - .2 * e, .03);
        fixture_pooled(f, "score_drop", .2 * e, .03);
    }
    if (o.latency) {
        for (int i = 0; i < 5; i++) {
            int64_t len = 512 << i;
            double dense = 2e-4 * (double)len + 4e-8 * (double)len * (double)len;
            double sparse =
                2e-4 * (double)len + .02 + 4e-8 * (1 - o.sparsity) * (double)len * (double)len;
            f->latencies[f->d.n_latencies++] = (struct latency_record){"prefill_dense", len, 20,
                dense * .98, dense * .985, dense * .99, dense, dense * 1.02, dense * 1.06,
                dense * 1.2, dense * 1.01, true, NULL};
            f->latencies[f->d.n_latencies++] =
                (struct latency_record){"prefill_sparse", len, 20, sparse * .98, sparse * .985,
                    sparse * .99, sparse, sparse * 1.02, sparse * 1.06, sparse * 1.2, sparse * 1.01,
                    i != 4, i == 4 ? "noise 3.1 % after 20 s, wanted 1 %" : NULL};
        }
        static const char *const parts[] = {"dense_attention", "dense_linear", "dense_rest",
            "sparse_predict", "sparse_qk", "sparse_pv", "sparse_linear", "sparse_rest"};
        static const double share[] = {.8, .45, .1, .05, .2, .2, .45, .1};
        for (int i = 0; i < 8; i++)
            f->latencies[f->d.n_latencies++] = (struct latency_record){parts[i], 8192, 3, share[i],
                share[i], share[i], share[i], share[i], share[i], share[i], share[i], true, NULL};
        fixture_pooled(f, "latency_dense", 4.3, .05);
        fixture_pooled(f, "latency_sparse", 4.3 * (1 - .4 * o.sparsity), .05);
        fixture_pooled(f, "latency_ratio", 1 - .4 * o.sparsity, .01);
        fixture_pooled(f, "break_even_length", 3100, 400);
    }
    if (o.words) {
        static const struct worst_token_record worst[] = {
            {0, 700, 17, 3.5, .91, 1.2, 4.9, .6, "Once upon a time <b>", " cat",
                "[{\"text\":\" cat\",\"p\":0.7}]", "[{\"text\":\" dog\",\"p\":0.5}]"},
            {1, 90, 5, 1.5, .95, 2.2, 2.9, .4, "in the & wood", " tree",
                "[{\"text\":\" tree\",\"p\":0.3}]", "[{\"text\":\" sea\",\"p\":0.2}]"},
        };
        static const struct generation_record texts[] = {
            {0, "The capital of France is", " Paris, of course.", " Paris, of course.", 50, 1, 1},
            {1, "In machine learning,", " a <model> learns", " a model \"guesses\"", 50, .4, .7},
        };
        for (int i = 0; i < 36; i++) /* 8 x 16 tiles: diagonal, sink and some */
            f->mask_bits[i % 16] |= (uint8_t)(rng_u64(&r) & 0x55);
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 16; j++) {
                int bit = i * 16 + j;
                if (j > 2 * i + 1) f->mask_bits[bit / 8] &= (uint8_t) ~(1 << bit % 8);
                if (j == 0 || j / 2 == i) f->mask_bits[bit / 8] |= (uint8_t)(1 << bit % 8);
            }
        f->masks[0] = (struct mask_record){0, 0, 0, 8, 16, f->mask_bits};
        f->masks[1] = (struct mask_record){0, 1, 3, 8, 16, f->mask_bits};
        f->d.worst_tokens = worst;
        f->d.n_worst_tokens = 2;
        f->d.generations = texts;
        f->d.n_generations = 2;
        f->d.masks = f->masks;
        f->d.n_masks = 2;
    }
    f->d.latencies = f->latencies;
}

static inline void fixture_clear(struct fixture *f)
{
    for (size_t i = 0; i < f->d.n_items; i++) free((char *)f->items[i].item);
    free(f->samples);
    free(f->ledger);
    free(f->layer_errors);
    free(f->items);
}

#endif

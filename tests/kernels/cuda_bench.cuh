/* Timings for check_kernels_cuda --bench: 32 query and 8 kv heads, medians of event timings. With a
 * file, every figure is a line there: what, head_dim, n, milliseconds, fraction of possible tiles
 * kept, seed of the random map (0: none), from which bench_peers.py draws the same map. */
#ifndef SG_TESTS_KERNELS_CUDA_BENCH_CUH
#define SG_TESTS_KERNELS_CUDA_BENCH_CUH

#include "kernels/cuda/eight_cuda.cuh"
#include "tests/kernels/cuda_problem.cuh"

static double median_ms(int calls, int samples, void (*body)(void *), void *ctx)
{
    cudaEvent_t start, stop;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&stop));
    for (int i = 0; i < 3; i++) body(ctx);
    std::vector<float> ms;
    for (int s = 0; s < samples; s++) {
        CHECK(cudaEventRecord(start));
        for (int i = 0; i < calls; i++) body(ctx);
        CHECK(cudaEventRecord(stop));
        CHECK(cudaEventSynchronize(stop));
        float t;
        CHECK(cudaEventElapsedTime(&t, start, stop));
        ms.push_back(t / (float)calls);
    }
    std::sort(ms.begin(), ms.end());
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(stop));
    return ms[ms.size() / 2];
}

struct call {
    const struct attn_impl *impl;
    struct attn_args args;
    void *ws;
};

static void run_call(void *ctx)
{
    struct call *c = (struct call *)ctx;
    if (c->impl->run(&c->args, c->ws, NULL, NULL) != OK) {
        printf("%s\n", status_message());
        exit(3);
    }
}

static double time_call(struct call *c, int n)
{
    double ms = median_ms(n <= 4096 ? 10
            : n <= 16384            ? 2
                                    : 1,
        n <= 16384       ? 15
            : n <= 40000 ? 9
                         : 3,
        run_call, c);
    CHECK(cudaDeviceSynchronize());
    return ms;
}

static FILE *lines;

static void report(const char *what, int d, int n, double ms, double kept, uint64_t seed)
{
    if (lines)
        fprintf(lines, "%s %d %d %.6f %.9f %llu\n", what, d, n, ms, kept, (unsigned long long)seed);
}

static double kept_fraction(const struct tile_map &map, const buffer<uint64_t> &bits, int n)
{
    uint64_t kept = 0, possible = 0;
    for (uint64_t w : bits.get()) kept += (uint64_t)__builtin_popcountll(w);
    for (int i = 0; i < map.n_qblocks; i++) possible += (uint64_t)tiles_possible(map.block, i, n);
    return (double)kept / (double)(possible * (uint64_t)map.n_heads);
}

struct mask_call {
    struct mask_cuda_args args;
    const struct tile_map *map;
    void *ws;
    struct call attention;
};

static void run_mask(void *ctx)
{
    struct mask_call *c = (struct mask_call *)ctx;
    if (mask_cuda_predict(&c->args, c->map, c->ws, NULL) != OK) {
        printf("%s\n", status_message());
        exit(3);
    }
}

static void run_both(void *ctx)
{
    run_mask(ctx);
    run_call(&((struct mask_call *)ctx)->attention);
}

/* Prediction alone, and prediction with the attention it leads to, half of the tiles kept by rank.
 */
static void bench_mask(const problem &shape, const data &x, void *o, double dense)
{
    int calls = shape.n <= 16384 ? 10 : 2;
    for (int bk : {128, 64}) {
        problem p = shape;
        p.block = {128, bk};
        struct tile_map map = tile_map_shape(p.block, p.heads, 0, p.n);
        buffer<uint64_t> bits(tile_map_bytes(&map) / 8);
        map.bits = bits.at;
        buffer<struct head_params> heads(p.heads);
        heads.put(std::vector<struct head_params>(p.heads, {-1.0f, 0.9f, 50.0f, true, 0, 0, 0}));
        buffer<uint8_t> ws(1024);
        struct mask_call c = {};
        c.attention = {&attn_sparse_sm90_bf16, arguments(p, x, o), ws.at};
        c.attention.args.tiles = &map;
        c.args = {&c.attention.args, heads.at, SMOOTH_K_RUNNING, 0, NULL};
        buffer<uint8_t> mask_ws(mask_cuda_workspace(&c.args));
        c.map = &map, c.ws = mask_ws.at;
        double by_tau = median_ms(calls, 15, run_mask, &c);
        c.args.topk = 0.5f;
        double by_rank = median_ms(calls, 15, run_mask, &c),
               both = median_ms(p.n <= 16384 ? 5 : 1, 9, run_both, &c);
        double kept = kept_fraction(map, bits, p.n);
        char what[64];
        snprintf(what, sizeof what, "predict_128x%d", bk);
        report(what, p.d, p.n, by_tau, 0, 0);
        snprintf(what, sizeof what, "call_128x%d_topk_0.5", bk);
        report(what, p.d, p.n, both, kept, 0);
        printf("mask   d=%-3d n=%-6d 128x%-3d tau %.4f ms, topk %.4f ms: %.2f %% of dense; whole "
               "call %.4f ms, "
               "kept %.3f\n",
            p.d, p.n, bk, by_tau, by_rank, 100 * by_tau / dense, both, kept);
        for (const char *method : {"bound", "bound+rows=16", "bound+keys=8", "sparge/bound"}) {
            c.args.topk = 0, c.args.method = mask_method_find(method);
            std::vector<struct head_params> shared(p.heads, {-1.0f, 0.9f, 50.0f, true, 0, 0, 0});
            for (int h = 0; h < p.heads && c.args.method->n_parts; h++)
                shared[h].part = (uint8_t)(h % c.args.method->n_parts);
            heads.put(shared);
            if (mask_cuda_refuses(&c.args)) continue;
            buffer<uint8_t> room(mask_cuda_workspace(&c.args));
            c.ws = room.at;
            double ms = median_ms(calls, 15, run_mask, &c);
            snprintf(what, sizeof what, "predict_128x%d_%s", bk, method);
            report(what, p.d, p.n, ms, 0, 0);
            printf("mask   d=%-3d n=%-6d 128x%-3d %s %.4f ms: %.2f %% of dense\n", p.d, p.n, bk,
                method, ms, 100 * ms / dense);
        }
    }
}

static void bench(const std::vector<int> &lengths, bool brief, bool only_masks)
{
    const int heads = 32, kv = 8;
    for (int d : {128, 64})
        for (int n : lengths) {
            problem p = {n, 0, heads, kv, d, false, {128, 128}, -1, -1, false, 1.0f};
            data x(p);
            buffer<__nv_bfloat16> o((size_t)n * heads * d);
            buffer<uint8_t> ws(1024);
            double flop = 2.0 * heads * (double)n * n * d;
            struct call c = {&attn_dense_sm90_bf16, arguments(p, x, o.at), ws.at};
            double dense = time_call(&c, n);
            report("dense", d, n, dense, 1, 0);
            printf(
                "dense  d=%-3d n=%-6d %9.4f ms %6.0f TFLOP/s\n", d, n, dense, flop / dense * 1e-9);
            if (!brief) bench_mask(p, x, o.at, dense);
            for (int bk : {128, 64})
                for (float keep : {0.1f, 0.25f, 0.5f, 0.6f, 1.0f}) {
                    if (n < 8192 && (keep == 0.1f || keep == 0.6f)) continue;
                    if (n > 40000 || only_masks) continue;
                    if (brief && (keep > 0.5f || keep == 0.25f || bk == 64)) continue;
                    p.block = {128, bk};
                    struct tile_map map = tile_map_shape(p.block, heads, 0, n);
                    buffer<uint64_t> bits(tile_map_bytes(&map) / 8);
                    map.bits = bits.at;
                    uint64_t seed = mix(seed_now++);
                    map_kernel<<<256, 64>>>(map, 0, n, keep, seed);
                    double f = kept_fraction(map, bits, n);
                    c = {&attn_sparse_sm90_bf16, arguments(p, x, o.at), ws.at};
                    c.args.tiles = &map;
                    struct call again = {&attn_dense_sm90_bf16, arguments(p, x, o.at), ws.at};
                    double ms = time_call(&c, n), dense_now = time_call(&again, n);
                    char what[64];
                    snprintf(what, sizeof what, "sparse_128x%d_%.2f", bk, keep);
                    report(what, d, n, ms, f, seed);
                    printf("sparse d=%-3d n=%-6d 128x%-3d kept %.3f %9.4f ms, useful work %.3f of "
                           "dense",
                        d, n, bk, f, ms, f * dense_now / ms);
                    if (d == 64) {
                        struct call teams = c;
                        teams.impl = &attn_sparse_teams_sm90_bf16;
                        printf("; two teams %.4f ms", time_call(&teams, n));
                    }
                    if (keep == 0.5f) {
                        buffer<float> lambda(heads);
                        lambda.put(std::vector<float>(heads, 50.0f));
                        c.args.pv_threshold = lambda.at;
                        printf("; with P·V test %.4f ms", time_call(&c, n));
                    }
                    printf("\n");
                }
        }
}

static void run_quantise(void *ctx)
{
    struct call *c = (struct call *)ctx;
    if (quantise_cuda(&c->args, c->ws, NULL) != OK) exit(3);
}

/* Eight bits beside bf16: dense, then half of the tiles, by a random map and by prediction. */
static void bench_eight(const std::vector<int> &lengths)
{
    const int heads = 32, kv = 8;
    for (int d : {128, 64})
        for (int n : lengths) {
            problem p = {n, 0, heads, kv, d, false, {128, 64}, -1, -1, false, 1.0f, PRECISION_INT8};
            data x(p);
            buffer<__nv_bfloat16> o((size_t)n * heads * d);
            struct attn_args a = arguments(p, x, o.at);
            buffer<uint8_t> ws(attn_dense_eight_sm90.workspace(&a));
            struct tile_map map = tile_map_shape(p.block, heads, 0, n);
            buffer<uint64_t> bits(tile_map_bytes(&map) / 8);
            map.bits = bits.at;
            uint64_t seed = mix(seed_now++);
            map_kernel<<<256, 64>>>(map, 0, n, 0.5f, seed);
            double f = kept_fraction(map, bits, n), flop = 2.0 * heads * (double)n * n * d;
            struct call c = {&attn_dense_eight_sm90, a, ws.at},
                        full = {&attn_dense_sm90_bf16, a, ws.at};
            full.args.qk = full.args.pv = PRECISION_FULL;
            double quantise = median_ms(n <= 16384 ? 10 : 2, 15, run_quantise, &c);
            double bf16 = time_call(&full, n);
            report("quantise", d, n, quantise, 1, 0);
            printf("eight  d=%-3d n=%-6d bf16 %.4f ms %.0f TFLOP/s, quantisation %.4f ms\n", d, n,
                bf16, flop / bf16 * 1e-9, quantise);
            buffer<struct head_params> params(heads);
            params.put(std::vector<struct head_params>(heads, {-1.0f, 0.9f, 50.0f, true, 0, 0, 0}));
            for (enum precision qk : {PRECISION_INT8, PRECISION_FP8}) {
                c.impl = &attn_dense_eight_sm90, c.args.tiles = NULL, c.args.qk = qk;
                double dense = time_call(&c, n);
                c.impl = &attn_sparse_eight_sm90, c.args.tiles = &map;
                double sparse = time_call(&c, n);
                struct mask_call m = {};
                m.attention = c;
                m.args = {&m.attention.args, params.at, SMOOTH_K_RUNNING, 0.5f, NULL};
                buffer<uint8_t> mask_ws(mask_cuda_workspace(&m.args));
                buffer<uint64_t> ranked_bits(bits.n);
                struct tile_map ranked = map;
                ranked.bits = ranked_bits.at;
                m.attention.args.tiles = &ranked;
                m.map = &ranked, m.ws = mask_ws.at;
                double whole = median_ms(n <= 16384 ? 5 : 1, 9, run_both, &m);
                double kept = kept_fraction(ranked, ranked_bits, n);
                char what[64];
                snprintf(what, sizeof what, "dense_%s", precision_name(qk));
                report(what, d, n, dense, 1, 0);
                snprintf(what, sizeof what, "sparse_%s_0.50", precision_name(qk));
                report(what, d, n, sparse, f, seed);
                snprintf(what, sizeof what, "call_%s_topk_0.5", precision_name(qk));
                report(what, d, n, whole, kept, 0);
                double alone = dense - quantise;
                printf("       %-4s dense %.4f ms (%.4f without quantisation, %.0f TFLOP/s), x "
                       "bf16 %.2f; random %.3f "
                       "kept %.4f ms, useful %.3f; predicted %.3f kept, whole call %.4f ms\n",
                    precision_name(qk), dense, alone, flop / alone * 1e-9, bf16 / dense, f, sparse,
                    f * alone / (sparse - quantise), kept, whole);
            }
        }
}

#endif

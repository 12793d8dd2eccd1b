/* Every CUDA implementation against the definition, and their speed.
 *
 *   check_kernels_cuda              check everything; exit 1 when something is wrong
 *   check_kernels_cuda --quick      small sizes only, for compute-sanitizer
 *   check_kernels_cuda --eight      eight-bit products only (also with --bench)
 *   check_kernels_cuda --length N   attention, one size only (with --bench: everything, one size
 * only) check_kernels_cuda --masks      prediction only (with --quick: small sizes; with --bench:
 * no sparse attention) check_kernels_cuda --bench [F]  time; machine-readable lines go to file F
 *
 * Inputs are fresh random numbers, outputs are poisoned with NaN before each run and have guard
 * rows around them. An implementation may be twice as far from fp64 as the plain bf16 path is.
 */
#include "tests/kernels/cuda_bench.cuh"
#include "tests/kernels/cuda_eight.cuh"
#include "tests/kernels/cuda_problem.cuh"
#include "tests/kernels/cuda_reference.cuh"

static int n_failed, n_checked;

static void verdict(bool good, const char *what)
{
    n_checked++;
    if (good) return;
    n_failed++;
    printf("FAIL %s\n", what);
}

static double distance(const std::vector<double> &x, const std::vector<double> &ref,
    const std::vector<uint8_t> &unsure, int d, double *worst)
{
    double diff = 0, norm = 0;
    *worst = 0;
    for (size_t i = 0; i < ref.size(); i++) {
        if (unsure[i / (size_t)d]) continue;
        double e = fabs(x[i] - ref[i]);
        if (!(e <= 1e30)) e = 1e30; /* NaN */
        *worst = std::max(*worst, e);
        diff += e * e, norm += ref[i] * ref[i];
    }
    return norm > 0 ? sqrt(diff / norm) : sqrt(diff);
}

/* A probability within rounding of the middle between two e4m3 numbers falls to either: 1/8 of it
 * at most, times a value. And fp8 scores are summed by tensor cores that keep some 14 bits, which
 * moves scores of 100 by .01. */
static const double E4M3_STEP = 0.4, FP8_SCORES = 0.02;

static void check_attention(const struct attn_impl *impl, const problem &p)
{
    char name[256];
    snprintf(name, sizeof name,
        "%s %s n=%d start=%d heads=%d/%d d=%d %s block=%dx%d keep=%g lambda=%g%s", impl->name,
        precision_name(p.qk), p.n, p.q_start, p.heads, p.kv_heads, p.d,
        p.token_major ? "token-major" : "head-major", p.block.q, p.block.k, p.keep, p.lambda,
        p.mixed ? " mixed" : "");
    data x(p);
    const size_t out = (size_t)p.n * p.heads * p.d, guard = 64 * 1024;
    buffer<__nv_bfloat16> o(out + 2 * guard);
    o.fill(0xff);
    struct attn_args a = arguments(p, x, o.at + guard);
    struct tile_map map = {};
    if (p.keep >= 0) map = tile_map_shape(p.block, p.heads, p.q_start, p.n);
    buffer<uint64_t> bits(p.keep >= 0 ? tile_map_bytes(&map) / 8 : 1);
    buffer<uint8_t> head_sparse(p.heads);
    buffer<float> lambda(p.heads);
    buffer<struct head_ledger> ledger(p.heads);
    ledger.fill(0);
    std::vector<float> lambdas;
    std::vector<uint8_t> sparse;
    for (int h = 0; h < p.heads; h++) lambdas.push_back(p.lambda), sparse.push_back(h % 3 != 1);
    lambda.put(lambdas), head_sparse.put(sparse);
    if (p.keep >= 0) {
        map.bits = bits.at;
        map_kernel<<<64, 64>>>(map, p.q_start, x.n_kv, p.keep, mix(seed_now++));
        a.tiles = &map;
        if (p.mixed) a.head_sparse = head_sparse.at;
    }
    if (p.lambda >= 0) a.pv_threshold = lambda.at;
    a.ledger = ledger.at;
    const char *why = impl->refuses(&a);
    if (why != NULL) {
        printf("     refused: %s: %s\n", name, why);
        verdict(false, name);
        return;
    }

    reference_args r = {a, p.keep >= 0 ? bits.at : NULL, map.words_per_row, map.n_qblocks};
    eight_copies eight(a, x);
    if (p.qk != PRECISION_FULL) r.a = eight.on_device;
    buffer<double> truth(out), plain(out);
    buffer<uint8_t> unsure((size_t)p.n * p.heads);
    buffer<unsigned long long> done(p.heads);
    done.fill(0);
    dim3 grid((unsigned)((x.n_kv - 1) / 64 - p.q_start / 64 + 1), (unsigned)p.heads);
    reference_kernel<double, false><<<grid, 64>>>(r, truth.at, unsure.at, done.at);
    reference_kernel<float, true><<<grid, 64>>>(r, plain.at, NULL, NULL);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());

    buffer<uint8_t> ws(impl->workspace(&a));
    ws.fill(0xff);
    if (impl->run(&a, ws.at, NULL, NULL) != OK) {
        printf("     %s\n", status_message());
        verdict(false, name);
        return;
    }
    CHECK(cudaDeviceSynchronize());

    if (p.qk != PRECISION_FULL) {
        size_t wrong = eight_differences(a, eight, ws.get());
        if (wrong) printf("     %zu quantised numbers are not the CPU's\n", wrong);
        verdict(wrong == 0, name);
    }

    std::vector<__nv_bfloat16> raw = o.get();
    std::vector<double> got(out), want = truth.get(), base = plain.get();
    bool untouched = true;
    for (size_t i = 0; i < guard; i++) {
        uint16_t lo, hi;
        memcpy(&lo, &raw[i], 2), memcpy(&hi, &raw[guard + out + i], 2);
        untouched &= lo == 0xffff && hi == 0xffff;
    }
    for (int h = 0; h < p.heads; h++)
        for (int row = 0; row < p.n; row++)
            for (int i = 0; i < p.d; i++)
                got[((size_t)h * p.n + row) * p.d + i] =
                    __bfloat162float(raw[guard + (size_t)(row * a.o_row + h * a.o_head + i)]);
    std::vector<uint8_t> doubt = unsure.get();
    double worst, worst_plain;
    double e = distance(got, want, doubt, p.d, &worst),
           e_plain = distance(base, want, doubt, p.d, &worst_plain);
    double most = 2 * e_plain + 1e-7, most_worst = 4 * worst_plain + 1e-3;
    if (p.qk != PRECISION_FULL) most_worst += E4M3_STEP;
    if (p.qk == PRECISION_FP8) most += FP8_SCORES, most_worst += FP8_SCORES * 10;
    bool good = e <= most && worst <= most_worst && untouched;
    if (getenv("SG_VERBOSE")) printf("%s: %.3g / %.3g\n", name, e, e_plain);
    if (!good)
        printf("     error %.3g (plain %.3g), worst %.3g (%.3g), guard %s\n", e, e_plain, worst,
            worst_plain, untouched ? "whole" : "overwritten");
    verdict(good, name);

    std::vector<struct head_ledger> l = ledger.get();
    std::vector<uint64_t> map_bits = bits.get();
    std::vector<unsigned long long> units_done = done.get();
    int n_doubt = 0;
    for (uint8_t u : doubt) n_doubt += u;
    for (int h = 0; h < p.heads; h++) {
        bool is_sparse = p.keep >= 0 && !(p.mixed && !sparse[h]);
        uint64_t possible = 0, kept = 0, units = 0;
        for (int i = p.q_start / p.block.q; i * p.block.q < x.n_kv; i++) {
            possible += (uint64_t)tiles_possible(p.block, i, x.n_kv);
            for (int w = 0; w < map.words_per_row && is_sparse; w++)
                kept += (uint64_t)__builtin_popcountll(
                    map_bits[((size_t)h * map.n_qblocks + i - p.q_start / p.block.q) *
                            map.words_per_row +
                        w]);
        }
        for (int u = p.q_start / 64; u * 64 < x.n_kv; u++)
            units += (uint64_t)(std::min(u * 64 + 63, x.n_kv - 1) / p.block.k + 1);
        uint64_t slack = n_doubt ? (uint64_t)n_doubt / 64 + 2 : 0;
        bool right = l[h].tiles_possible == possible &&
            l[h].tiles_computed == (is_sparse ? kept : possible) &&
            l[h].pv_units_possible == units && l[h].pv_units_computed <= units_done[h] + slack &&
            l[h].pv_units_computed + slack >= units_done[h];
        if (!right)
            printf("     head %d: tiles %llu/%llu, want %llu/%llu; units %llu/%llu, want %llu/%llu "
                   "(slack "
                   "%llu)\n",
                h, (unsigned long long)l[h].tiles_computed, (unsigned long long)l[h].tiles_possible,
                (unsigned long long)(is_sparse ? kept : possible), (unsigned long long)possible,
                (unsigned long long)l[h].pv_units_computed,
                (unsigned long long)l[h].pv_units_possible, units_done[h],
                (unsigned long long)units, (unsigned long long)slack);
        char what[300];
        snprintf(what, sizeof what, "ledger of head %d, %s", h, name);
        verdict(right, what);
    }
}

/* The GPU's fp64 reference must agree with the CPU's before anything is held against it. */
static void check_reference(int bk, float lambda)
{
    problem p = {321, 128, 4, 2, 64, true, {128, bk}, 0.5f, lambda, false, 2.5f};
    data x(p);
    std::vector<float> q = widened(x.q), k = widened(x.k), v = widened(x.v), o(q.size()),
                       lambdas(p.heads, lambda);
    buffer<float> device_lambdas(p.heads);
    device_lambdas.put(lambdas);
    struct attn_args a = arguments(p, x, NULL);
    struct tile_map map = tile_map_shape(p.block, p.heads, p.q_start, p.n);
    buffer<uint64_t> bits(tile_map_bytes(&map) / 8);
    map.bits = bits.at;
    map_kernel<<<4, 64>>>(map, p.q_start, x.n_kv, p.keep, mix(seed_now++));
    a.pv_threshold = device_lambdas.at;
    reference_args r = {a, bits.at, map.words_per_row, map.n_qblocks};
    buffer<double> truth(o.size());
    buffer<uint8_t> unsure((size_t)p.n * p.heads);
    reference_kernel<double, false>
        <<<dim3((unsigned)((x.n_kv - 1) / 64 - p.q_start / 64 + 1), (unsigned)p.heads), 64>>>(
            r, truth.at, unsure.at, NULL);
    CHECK(cudaDeviceSynchronize());
    std::vector<uint64_t> host_bits = bits.get();
    map.bits = host_bits.data();
    a.dtype = DTYPE_F32, a.q = q.data(), a.k = k.data(), a.v = v.data(), a.o = o.data();
    a.pv_threshold = lambdas.data(), a.tiles = &map;
    std::vector<double> ws(attn_ref.workspace(&a) / 8 + 8);
    bool good = attn_ref.refuses(&a) == NULL && attn_ref.run(&a, ws.data(), NULL, NULL) == OK;
    std::vector<double> got = truth.get();
    std::vector<uint8_t> doubt = unsure.get();
    double worst = 0;
    for (int h = 0; h < p.heads; h++)
        for (int row = 0; row < p.n; row++)
            for (int i = 0; i < p.d && !doubt[(size_t)h * p.n + row]; i++)
                worst = std::max(worst,
                    fabs(got[((size_t)h * p.n + row) * p.d + i] -
                        (double)o[(size_t)(row * a.o_row + h * a.o_head + i)]));
    if (!(worst < 1e-5)) printf("     references differ by %g\n", worst);
    verdict(good && worst < 1e-5, "GPU reference against the CPU's");
}

/* Left-out tiles as pseudo-keys: against the CPU's reference in fp64, whose means are not rounded
 * to bf16. */
static void check_corrected(int n, int start, int d, struct block_shape block)
{
    problem p = {n, start, 4, 2, d, true, block, 0.3f, -1, true, 1.5f};
    data x(p);
    std::vector<float> q = widened(x.q), k = widened(x.k), v = widened(x.v), o(q.size());
    std::vector<uint8_t> sparse;
    for (int h = 0; h < p.heads; h++) sparse.push_back(h % 3 != 1);
    buffer<uint8_t> head_sparse(p.heads);
    head_sparse.put(sparse);
    buffer<__nv_bfloat16> out(o.size());
    buffer<struct head_ledger> ledger(p.heads);
    ledger.fill(0);
    struct attn_args a = arguments(p, x, out.at);
    struct tile_map map = tile_map_shape(p.block, p.heads, p.q_start, p.n);
    buffer<uint64_t> bits(tile_map_bytes(&map) / 8);
    map.bits = bits.at;
    map_kernel<<<4, 64>>>(map, p.q_start, x.n_kv, p.keep, mix(seed_now++));
    a.tiles = &map, a.head_sparse = head_sparse.at, a.correct_mean = true, a.ledger = ledger.at;
    bool refused = attn_sparse_sm90_bf16.refuses(&a) != NULL;
    const char *why = attn_cuda_bf16.refuses(&a);
    if (why != NULL) printf("     refused: %s\n", why);
    buffer<uint8_t> ws(attn_cuda_bf16.workspace(&a) + 16);
    bool good = refused && why == NULL && attn_cuda_bf16.run(&a, ws.at, NULL, NULL) == OK;
    CHECK(cudaDeviceSynchronize());
    std::vector<uint64_t> host_bits = bits.get();
    std::vector<struct head_ledger> got = ledger.get(), want(p.heads);
    map.bits = host_bits.data();
    a.dtype = DTYPE_F32, a.q = q.data(), a.k = k.data(), a.v = v.data(), a.o = o.data();
    a.head_sparse = sparse.data(), a.ledger = want.data();
    std::vector<double> room(attn_ref.workspace(&a) / 8 + 8);
    good = good && attn_ref.run(&a, room.data(), NULL, NULL) == OK;
    std::vector<__nv_bfloat16> raw = out.get();
    double off = 0, norm = 0;
    for (size_t i = 0; i < o.size(); i++) {
        double e = (double)__bfloat162float(raw[i]) - (double)o[i];
        off += e * e, norm += (double)o[i] * (double)o[i];
    }
    uint64_t corrected = 0;
    for (int h = 0; h < p.heads; h++) {
        corrected += want[h].tiles_corrected;
        good = good && want[h].tiles_corrected == got[h].tiles_corrected &&
            want[h].tiles_computed == got[h].tiles_computed;
    }
    good = good && corrected > 0 && sqrt(off / norm) < 6e-3;
    char name[160];
    snprintf(name, sizeof name, "corrected n=%d start=%d d=%d block=%dx%d: off by %.3g", n, start,
        d, block.q, block.k, sqrt(off / norm));
    verdict(good, name);
}

static void check_corrections(void)
{
    for (int d : {64, 128})
        for (struct block_shape b : {block_shape{128, 64}, {128, 128}, {64, 64}, {64, 128}}) {
            check_corrected(1000, 0, d, b);
            check_corrected(385, 384, d, b);
        }
}

static void check_attentions(bool quick, int only_length)
{
    const struct attn_impl *dense[] = {&attn_dense_sm90_bf16, NULL};
    const struct attn_impl *sparse[] = {&attn_sparse_sm90_bf16, &attn_sparse_teams_sm90_bf16, NULL};
    std::vector<int> lengths = {1, 63, 64, 65, 127, 128, 129, 385, 1000, 2049};
    if (quick) lengths = {1, 65, 129, 385};
    if (only_length) lengths = {only_length};
    for (int d : {128, 64})
        for (int n : lengths) {
            int heads = n > 1500 ? 4 : 8, kv = n % 2 ? heads / 4 : heads / 2;
            for (int i = 0; dense[i]; i++) {
                check_attention(
                    dense[i], {n, 0, heads, kv, d, n % 3 == 0, {128, 128}, -1, -1, false, 1.5f});
                check_attention(dense[i],
                    {n, n % 2 ? 100 : 256, heads, heads, d, true, {128, 64}, -1, -1, false, 1.0f});
            }
            for (int i = 0; sparse[i]; i++)
                for (int bk : {128, 64})
                    for (float keep : {0.0f, 0.3f, 0.6f, 1.0f})
                        for (float lambda : {-1.0f, 1.0f, 6.0f, 50.0f}) {
                            bool few = lambda > 1 && keep != 0.6f;
                            if (few || (n > 1500 && keep > 0.6f)) continue;
                            if (i == 1 && (d != 64 || (lambda >= 0 && bk == 128))) continue;
                            check_attention(sparse[i],
                                {n, n % 2 ? 0 : 384, heads, kv, d, n % 3 != 0, {128, bk}, keep,
                                    lambda, keep == 0.3f, lambda >= 0 ? 2.5f : 1.5f});
                        }
        }
}

/* The same with eight bits; each of the portable kernels takes every shape of block. */
static void check_eight(bool quick, int only_length)
{
    const struct attn_impl *const portable[] = {&attn_eight_cuda, &attn_eight_cuda_f16};
    const struct block_shape shapes[] = {{128, 128}, {128, 64}, {64, 64}, {64, 128}};
    std::vector<int> lengths = {1, 63, 65, 128, 129, 385, 1000, 2049};
    if (quick) lengths = {1, 129, 385};
    if (only_length) lengths = {only_length};
    for (enum precision qk : {PRECISION_INT8, PRECISION_FP8})
        for (int d : {128, 64})
            for (int n : lengths) {
                int heads = n > 1500 ? 4 : 8, kv = n % 2 ? heads / 4 : heads / 2;
                for (const struct attn_impl *impl : portable)
                    for (int b = 0; b < 4 && n < 1500; b++) {
                        check_attention(impl,
                            {n, n % 2 ? 0 : 192, heads, kv, d, n % 3 == 0, shapes[b], -1, -1, false,
                                1.5f, qk});
                        for (float lambda : {-1.0f, 1.0f, 6.0f})
                            check_attention(impl,
                                {n, n % 2 ? 0 : 384, heads, kv, d, n % 3 != 0, shapes[b], 0.3f,
                                    lambda, true, lambda >= 0 ? 2.5f : 1.5f, qk});
                    }
                check_attention(&attn_dense_eight_sm90,
                    {n, n % 2 ? 0 : 192, heads, kv, d, n % 3 == 0, {128, 64}, -1, -1, false, 1.5f,
                        qk});
                for (int bk : {128, 64})
                    for (float keep : {0.0f, 0.3f, 1.0f})
                        for (float lambda : {-1.0f, 1.0f, 6.0f}) {
                            if (n > 1500 && keep > 0.6f) continue;
                            check_attention(&attn_sparse_eight_sm90,
                                {n, n % 2 ? 0 : 384, heads, kv, d, n % 3 != 0, {128, bk}, keep,
                                    lambda, keep == 0.3f, lambda >= 0 ? 2.5f : 1.5f, qk});
                        }
            }
}

struct mask_problem {
    problem p;
    float theta, tau, topk;
    enum smooth_k smooth;
    const char *method;
};

/* Against the CPU's prediction on the same numbers; only tiles within rounding of a bound may
 * differ. */
static void check_mask(const mask_problem &m)
{
    const problem &p = m.p;
    char name[256];
    snprintf(name, sizeof name,
        "mask %s n=%d start=%d heads=%d/%d d=%d block=%dx%d theta=%g tau=%g topk=%g smooth=%s",
        m.method, p.n, p.q_start, p.heads, p.kv_heads, p.d, p.block.q, p.block.k, m.theta, m.tau,
        m.topk, smooth_k_name(m.smooth));
    const struct mask_method *method = mask_method_find(m.method);
    data x(p);
    struct attn_args a = arguments(p, x, NULL);
    struct tile_map map = tile_map_shape(p.block, p.heads, p.q_start, p.n), host_map = map;
    buffer<uint64_t> bits(tile_map_bytes(&map) / 8);
    bits.fill(0xff);
    map.bits = bits.at;
    std::vector<struct head_params> heads;
    for (int h = 0; h < p.heads; h++)
        heads.push_back({m.theta, m.tau, 50, !(p.mixed && h % 3 == 1),
            (uint8_t)(method->n_parts ? h % method->n_parts : 0), 0, 0});
    buffer<struct head_params> device_heads(heads.size());
    device_heads.put(heads);
    buffer<struct head_ledger> ledger(p.heads);
    ledger.fill(0);
    a.ledger = ledger.at;
    struct mask_cuda_args args = {&a, device_heads.at, m.smooth, m.topk, method};
    buffer<uint8_t> ws(mask_cuda_workspace(&args));
    ws.fill(0xff);
    if (mask_cuda_predict(&args, &map, ws.at, NULL) != OK) {
        printf("     %s\n", status_message());
        verdict(false, name);
        return;
    }
    CHECK(cudaDeviceSynchronize());

    std::vector<float> q = widened(x.q), k = widened(x.k);
    std::vector<struct head_ledger> want_ledger(p.heads);
    struct attn_args host = a;
    host.dtype = DTYPE_F32, host.q = q.data(), host.k = k.data(), host.ledger = want_ledger.data();
    struct mask_args cpu = {};
    cpu.attn = &host, cpu.heads = heads.data(), cpu.smooth_k = m.smooth, cpu.topk = m.topk;
    std::vector<uint64_t> want(bits.n);
    host_map.bits = want.data();
    std::vector<uint64_t> cpu_ws(mask_workspace(method, &cpu, 1) / 8 + 8);
    if (mask_predict(method, &cpu, &host_map, cpu_ws.data(), NULL) != OK) {
        printf("     %s\n", status_message());
        verdict(false, name);
        return;
    }
    std::vector<uint64_t> got = bits.get();
    uint64_t both = 0, either = 0, possible = 0;
    for (size_t i = 0; i < got.size(); i++) {
        both += (uint64_t)__builtin_popcountll(got[i] & want[i]);
        either += (uint64_t)__builtin_popcountll(got[i] | want[i]);
    }
    for (int i = 0; i < map.n_qblocks; i++)
        possible += (uint64_t)tiles_possible(p.block, p.q_start / p.block.q + i, x.n_kv) *
            (uint64_t)p.heads;
    bool good = (double)(either - both) <= 1.0 + 0.001 * (double)either;
    if (getenv("SG_VERBOSE") || !good)
        printf("     %s: kept %.3f, Jaccard %.6f\n", name, (double)either / (double)possible,
            (double)both / (double)either);
    verdict(good, name);
    std::vector<struct head_ledger> l = ledger.get();
    uint64_t off = 0, forced = 0;
    for (int h = 0; h < p.heads; h++) {
        const struct head_ledger &g = l[h], &w = want_ledger[h];
        good = g.forced_sink == w.forced_sink && g.forced_diagonal == w.forced_diagonal;
        if (!good)
            printf("     head %d: sink %llu, want %llu; diagonal %llu, want %llu\n", h,
                (unsigned long long)g.forced_sink, (unsigned long long)w.forced_sink,
                (unsigned long long)g.forced_diagonal, (unsigned long long)w.forced_diagonal);
        verdict(good, name);
        off += (uint64_t)llabs((long long)(g.forced_theta_q - w.forced_theta_q)) +
            (uint64_t)llabs((long long)(g.forced_theta_k - w.forced_theta_k));
        forced += w.forced_theta_q + w.forced_theta_k;
    }
    good = (double)off <= 0.002 * (double)forced;
    if (!good)
        printf("     forced by similarity: %llu off, of %llu\n", (unsigned long long)off,
            (unsigned long long)forced);
    verdict(good, name);
}

static void check_masks(bool quick)
{
    const struct block_shape shapes[] = {{128, 128}, {128, 64}, {64, 64}, {64, 128}};
    const enum smooth_k smooths[] = {SMOOTH_K_RUNNING, SMOOTH_K_GLOBAL, SMOOTH_K_OFF};
    std::vector<int> lengths = {1, 65, 128, 1000, 2049, 6000};
    if (quick) lengths = {1, 65, 1000};
    for (int d : {128, 64, 80})
        for (int n : lengths)
            for (int b = 0; b < 4; b++) {
                if (d == 80 && n > 3000) continue;
                problem p = {n, n % 2 ? 0 : 1280, 8, n % 3 ? 2 : 8, d, n % 2 == 0, shapes[b], -1,
                    -1, n == 1000, 1.5f};
                for (int s = 0; s < 3; s++) check_mask({p, 0.19f, 0.9f, 0, smooths[s], "sparge"});
                for (float tau : {0.0f, 0.3f, 0.7f, 0.98f, 1.0f})
                    check_mask({p, -1.0f, tau, 0, SMOOTH_K_RUNNING, "sparge"});
                for (float topk : {0.05f, 0.5f})
                    check_mask({p, 0.1f, 0.5f, topk, SMOOTH_K_RUNNING, "sparge"});
                for (const char *method : {"bound", "bound+spread=range+over=max+rule=top-p",
                         "bound+rows=8+keys=32+over=mean", "bound+keys=8+groups=5", "sparge/bound",
                         "oracle"}) {
                    if (strcmp(method, "oracle") == 0 && n > 2000)
                        continue; /* the CPU takes its time */
                    for (float tau : {0.0f, 0.7f, 0.95f, 1.0f})
                        check_mask({p, -1.0f, tau, 0, SMOOTH_K_RUNNING, method});
                }
                check_mask({p, 0.1f, 0.5f, 0.3f, SMOOTH_K_RUNNING, "bound"});
            }
}

/* More rows than the bound makes at a time. */
static void check_long_masks()
{
    for (int d : {64, 128})
        check_mask({{20000, 0, 32, 8, d, true, {128, 64}, -1, -1, false, 1.5f}, -1.0f, 0.9f, 0,
            SMOOTH_K_RUNNING, "bound+rows=4+keys=8"});
}

static void check_portable(bool quick)
{
    const struct block_shape shapes[] = {{128, 128}, {128, 64}, {64, 64}, {64, 128}};
    std::vector<int> lengths = {1, 64, 129, 1000};
    if (quick) lengths = {129};
    for (int d : {16, 64, 80, 96, 128, 256})
        for (int n : lengths)
            for (int b = 0; b < 4; b++) {
                int heads = 4, kv = n % 2 ? 4 : 2;
                check_attention(&attn_cuda_bf16,
                    {n, n % 2 ? 100 : 0, heads, kv, d, n % 3 == 0, shapes[b], -1, -1, false, 1.0f});
                for (float keep : {0.0f, 0.5f})
                    for (float lambda : {-1.0f, 2.0f})
                        check_attention(&attn_cuda_bf16,
                            {n, n % 2 ? 0 : 384, heads, kv, d, true, shapes[b], keep, lambda,
                                keep > 0, lambda >= 0 ? 2.5f : 1.5f});
            }
}

/* One head and rows for one item: a team is left without work. */
static void check_lone_item()
{
    for (float lambda : {-1.0f, 6.0f})
        check_attention(&attn_sparse_teams_sm90_bf16,
            {100, 128, 1, 1, 64, true, {128, 64}, 0.5f, lambda, false, 1.5f});
}

/* What cannot be done is refused with words. */
static void check_refusals(struct device *dev)
{
    problem p = {64, 0, 2, 2, 64, true, {128, 128}, -1, -1, false, 1};
    data x(p);
    struct attn_args a = arguments(p, x, x.v.at);
    verdict(attn_dense_sm90_bf16.refuses(&a) == NULL, "a plain call is taken");
    a.dtype = DTYPE_F32;
    verdict(attn_dense_sm90_bf16.refuses(&a) != NULL && attn_cuda_bf16.refuses(&a) != NULL,
        "f32 is refused");
    a.dtype = DTYPE_BF16, a.head_dim = 80;
    verdict(attn_dense_sm90_bf16.refuses(&a) != NULL && attn_cuda_bf16.refuses(&a) == NULL,
        "head_dim 80 goes elsewhere");
    struct tile_map map = tile_map_shape({128, 128}, 2, 0, 64);
    float lambda = 6;
    a.tiles = &map, a.pv_threshold = &lambda;
    verdict(attn_sparse_teams_sm90_bf16.refuses(&a) != NULL, "two teams want head_dim 64");
    a.head_dim = 64;
    verdict(attn_sparse_teams_sm90_bf16.refuses(&a) != NULL &&
            attn_sparse_sm90_bf16.refuses(&a) == NULL,
        "stage 2 with 128-key blocks is for one team");
    a.tiles = NULL, a.pv_threshold = NULL;
    a.head_dim = 64, a.q = x.q.at + 1;
    verdict(attn_dense_sm90_bf16.refuses(&a) != NULL, "an unaligned pointer is refused");
    a.q = x.q.at;
    verdict(attn_sparse_sm90_bf16.refuses(&a) != NULL, "a sparse call without a map is refused");
    struct device *none = NULL;
    verdict(device_cuda.open(&none, 999) == ERR_DEVICE && strstr(status_message(), "999") != NULL &&
            none == NULL,
        "device 999 is refused by number");
    void *at = &at;
    verdict(device_cuda.alloc(dev, &at, (size_t)1 << 46) == ERR_MEMORY &&
            strstr(status_message(), "GiB") != NULL && at == NULL,
        "64 TiB are refused with what there is");
    verdict(cudaGetLastError() == cudaSuccess, "no error is left behind");
}

int main(int argc, char **argv)
{
    bool quick = false, timing = false, brief = false;
    bool only_masks = false, only_eight = false;
    int only_length = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) quick = true;
        else if (strcmp(argv[i], "--bench") == 0) timing = true;
        else if (strcmp(argv[i], "--brief") == 0) brief = true;
        else if (strcmp(argv[i], "--masks") == 0) only_masks = true;
        else if (strcmp(argv[i], "--eight") == 0) only_eight = true;
        else if (strcmp(argv[i], "--length") == 0 && i + 1 < argc) only_length = atoi(argv[++i]);
        else if (timing) lines = fopen(argv[i], "w");
    }
    struct device *dev;
    if (device_cuda.open(&dev, 0) != OK) {
        printf("%s\n", status_message());
        return 3;
    }
    struct device_info info;
    if (device_cuda.info(dev, &info) != OK) return 3;
    printf("device: %s, sm %d, %d multiprocessors\n", info.name, info.sm, info.n_multiprocessors);
    if (timing) {
        std::vector<int> lengths = only_length ? std::vector<int>{only_length}
            : brief                            ? std::vector<int>{2048, 8192, 32768}
                                               : std::vector<int>{2048, 4096, 8192, 32768, 131072};
        if (!only_eight) bench(lengths, brief, only_masks);
        if (!only_masks) bench_eight(lengths);
    } else {
        if (!only_masks) {
            for (int bk : {64, 128})
                for (float lambda : {1.0f, 6.0f}) check_reference(bk, lambda);
            if (!only_eight) {
                check_attentions(quick, only_length);
                check_corrections();
            }
            check_eight(quick, only_length);
            if (!only_eight) check_lone_item();
        }
        if (!only_length && !only_eight) check_masks(quick), check_long_masks();
        if (!only_length && !only_masks && !only_eight) {
            check_portable(quick);
            check_refusals(dev);
        }
        printf("%d of %d checks failed\n", n_failed, n_checked);
    }
    if (lines) fclose(lines);
    device_cuda.close(&dev);
    return n_failed ? 1 : 0;
}

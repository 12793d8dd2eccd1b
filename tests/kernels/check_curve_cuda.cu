/* Error curves made on the device against the CPU's on the same bf16 numbers, and their speed.
 *
 *   check_curve_cuda           check everything; exit 1 when something is wrong
 *   check_curve_cuda --quick   small sizes only, for compute-sanitizer
 *   check_curve_cuda --time    one layer of one sample: 32 query and 8 kv heads (8 and 2 of 32 768
 *                              tokens), medians
 *
 * The device rounds P to bf16 and the CPU does not, so errors may differ a little; ranks of equal
 * weight within rounding may change places, which shows as other tiles kept: such points are
 * counted and few.
 */
extern "C" {
#include "base/clock.h"
#include "base/rng.h"
#include "kernels/cuda/curve_cuda.h"
#include "kernels/eight.h"
#include "kernels/registry.h"
}
#include "tests/kernels/cuda_problem.cuh"

static const double LIMIT = 2e-4;      /* absolute, on l1: ten times what was measured on an H200 */
static const double REST_LIMIT = 2e-3; /* on cosine and rmse */
static const double TAIL_LIMIT = 1e-2; /* one row decides a tail: three times what was measured */
/* of eight bits a probability may round to the next e4m3 number, an eighth of it */
static const double EIGHT_LIMIT = 1e-3, EIGHT_TAIL_LIMIT = .06;
static bool eight;
/* share of points that may keep other tiles; 2 of 700 000 did */
static const double MISPLACED = .001;

static int n_failed, n_checked;
static double worst_l1, worst_tail;
static long n_points, n_other_tiles;

static void verdict(bool good, const char *what)
{
    n_checked++;
    if (good) return;
    n_failed++;
    printf("FAIL %s\n", what);
}

#define CHECK_OK(call)                                   \
    do {                                                 \
        if ((call) != OK) {                              \
            printf("%s: %s\n", #call, status_message()); \
            exit(3);                                     \
        }                                                \
    } while (0)

struct curve_problem {
    int n, heads, kv_heads, d;
    struct block_shape block;
    enum smooth_k smooth;
    double sharp; /* 0: no structure */
    const char *method;

    const struct mask_method *ranks() const { return mask_method_find(method ? method : "sparge"); }
    int n_parts() const { return ranks()->n_parts ? ranks()->n_parts : 1; }
};

/* Rows wander, at times in jumps, so that blocks differ in how alike their rows are. [n, heads, d]
 */
static std::vector<__nv_bfloat16> wander(
    struct rng *r, const curve_problem &p, int heads, double sharp)
{
    std::vector<__nv_bfloat16> x((size_t)p.n * heads * p.d);
    std::vector<double> at(p.d);
    for (int h = 0; h < heads; h++) {
        double speed = .1;
        for (double &a : at) a = rng_normal(r);
        for (int t = 0; t < p.n; t++) {
            if (t % 48 == 0) speed = rng_below(r, 3) == 0 ? 1 : .02 + .2 * rng_unit(r);
            for (int i = 0; i < p.d; i++) {
                at[i] = sharp > 0
                    ? sqrt(1 - speed * speed * .5) * at[i] + speed * .7 * rng_normal(r)
                    : rng_normal(r);
                x[((size_t)t * heads + h) * p.d + i] =
                    __float2bfloat16((float)((sharp > 0 ? sharp : 1) * at[i] + .4 * (i % 3 - 1)));
            }
        }
    }
    return x;
}

struct inputs {
    std::vector<__nv_bfloat16> hq, hk, hv;
    std::vector<float> q, k, v, o; /* the same, f32; o dense, by the CPU; [heads, n, d] */
    buffer<__nv_bfloat16> dq, dk, dv, dout;
    struct attn_args device;

    inputs(const curve_problem &p, uint64_t seed)
        : dq((size_t)p.n * p.heads * p.d), dk((size_t)p.n * p.kv_heads * p.d), dv(dk.n), dout(dq.n)
    {
        struct rng r;
        rng_init(&r, seed);
        hq = wander(&r, p, p.heads, p.sharp), hk = wander(&r, p, p.kv_heads, p.sharp),
        hv = wander(&r, p, p.kv_heads, 1);
        dq.put(hq), dk.put(hk), dv.put(hv);
        for (auto x : hq) q.push_back(__bfloat162float(x));
        for (auto x : hk) k.push_back(__bfloat162float(x));
        for (auto x : hv) v.push_back(__bfloat162float(x));
        o.assign(q.size(), 0);
        device = {};
        device.dtype = DTYPE_BF16, device.n_q = p.n, device.n_heads = p.heads,
        device.n_kv_heads = p.kv_heads;
        device.head_dim = p.d, device.scale = 1 / sqrtf((float)p.d), device.block = p.block;
        device.q = dq.at, device.k = dk.at, device.v = dv.at, device.o = dout.at;
        device.q_row = device.o_row = (ptrdiff_t)p.heads * p.d,
        device.k_row = device.v_row = (ptrdiff_t)p.kv_heads * p.d;
        device.q_head = device.o_head = device.k_head = device.v_head = p.d;
    }

    /* One head as the CPU takes it. */
    struct attn_args host(const curve_problem &p, int h)
    {
        struct attn_args a = device;
        int kv = h / (p.heads / p.kv_heads);
        a.dtype = DTYPE_F32, a.n_heads = a.n_kv_heads = 1;
        a.q = q.data() + h * p.d, a.k = k.data() + kv * p.d, a.v = v.data() + kv * p.d;
        a.o = o.data() + (size_t)h * p.n * p.d, a.o_row = p.d, a.o_head = 0;
        return a;
    }
};

static void compare_points(
    const char *name, const struct curve_point *got, const struct curve_point *want, int n)
{
    long others = 0;
    double l1 = 0, tail = 0, rest = 0;
    for (int i = 0; i < n; i++) {
        if (got[i].n_kept != want[i].n_kept) {
            others++;
            continue;
        }
        l1 = std::max(l1, (double)fabsf(got[i].error.l1 - want[i].error.l1));
        tail = std::max(tail, (double)fabsf(got[i].error.tail - want[i].error.tail));
        rest = std::max(rest,
            (double)std::max(fabsf(got[i].error.cosine - want[i].error.cosine),
                fabsf(got[i].error.rmse - want[i].error.rmse)));
        if (!(got[i].error.l1 >= 0)) l1 = 1; /* NaN */
    }
    n_points += n, n_other_tiles += others;
    worst_l1 = std::max(worst_l1, l1), worst_tail = std::max(worst_tail, tail);
    bool good = l1 <= (eight ? EIGHT_LIMIT : LIMIT) && rest <= REST_LIMIT &&
        tail <= (eight ? EIGHT_TAIL_LIMIT : TAIL_LIMIT) && (double)others <= MISPLACED * n + 1;
    if (!good || getenv("SG_VERBOSE"))
        printf("     %s: l1 off by %.2g, cosine or rmse %.2g, tail %.2g; %ld of %d points keep "
               "other tiles\n",
            name, l1, rest, tail, others, n);
    verdict(good, name);
}

static void check_thetas(const char *name, const curve_problem &p, int part, inputs &x,
    struct curve_cuda_args *a, buffer<uint8_t> &ws)
{
    std::vector<struct curve> got(p.heads), again(p.heads);
    std::vector<int> heads(p.heads);
    std::vector<struct curve *> out(p.heads), out_again(p.heads);
    for (int h = 0; h < p.heads; h++)
        heads[h] = h, out[h] = &got[h], out_again[p.heads - 1 - h] = &again[h];
    memset(got.data(), 0xff, got.size() * sizeof got[0]);
    CHECK_OK(curve_cuda_thetas(a, part, heads.data(), p.heads, ws.at, NULL, out.data()));

    /* The same bits in another order of heads, over dirty memory, a block or two at a time. */
    for (int h = 0; h < p.heads; h++) heads[h] = p.heads - 1 - h;
    struct curve_cuda_args little = *a;
    little.budget = 3u << 20;
    memset(again.data(), 0xff, again.size() * sizeof again[0]);
    ws.fill(0xff);
    CHECK_OK(
        curve_cuda_thetas(&little, part, heads.data(), p.heads, ws.at, NULL, out_again.data()));
    verdict(memcmp(got.data(), again.data(), got.size() * sizeof got[0]) == 0,
        "a repeated call gives the same bits");

    struct curve want;
    const struct mask_method *method = mask_part(p.ranks(), part);
    for (int h = 0; h < p.heads; h++) {
        struct attn_args host = x.host(p, h);
        struct mask_args m = {};
        m.attn = &host, m.smooth_k = p.smooth;
        std::vector<double> cpu(curve_workspace(method, &m) / 8 + 16);
        void *at = (void *)(((uintptr_t)cpu.data() + 63) / 64 * 64);
        CHECK_OK(curve_thetas(method, &m, at, &want));
        verdict(got[h].n_possible == want.n_possible, "possible tiles");
        compare_points(name, &got[h].points[0][0], &want.points[0][0], N_THETAS * N_TAUS);
    }
}

static void check_lambdas(const char *name, const curve_problem &p, inputs &x,
    struct curve_cuda_args *a, buffer<uint8_t> &ws, std::vector<struct pv_curve> &got)
{
    const struct threshold_pair pairs[3] = {
        {-1, .5f, 0}, {.25f, .9f, p.n_parts() - 1}, {.5f, .98f, 0}};
    std::vector<struct curve_cuda_pairs> work;
    std::vector<struct pv_curve> again((size_t)p.heads * 3), want(3);
    got.resize(again.size());
    for (int h = 0; h < p.heads; h++)
        work.push_back({h, h == 1 ? 1 : 3, pairs, &got[(size_t)h * 3]});
    CHECK_OK(curve_cuda_lambdas(a, work.data(), p.heads, ws.at, NULL));
    struct curve_cuda_args little = *a;
    little.budget = 3u << 20;
    for (int h = 0; h < p.heads; h++) work[h].out = &again[(size_t)h * 3];
    ws.fill(0xff);
    CHECK_OK(curve_cuda_lambdas(&little, work.data(), p.heads, ws.at, NULL));
    for (int h = 0; h < p.heads; h++) {
        verdict(memcmp(&got[(size_t)h * 3], &again[(size_t)h * 3],
                    sizeof want[0] * (size_t)work[h].n) == 0,
            "repeated curves over lambda give the same bits");
        struct attn_args host = x.host(p, h);
        struct mask_args m = {};
        m.attn = &host, m.smooth_k = p.smooth;
        std::vector<double> cpu(curve_workspace(p.ranks(), &m) / 8 + 16);
        void *at = (void *)(((uintptr_t)cpu.data() + 63) / 64 * 64);
        CHECK_OK(curve_lambdas_of(p.ranks(), &m, pairs, work[h].n, at, want.data()));
        for (int i = 0; i < work[h].n; i++) {
            verdict(got[(size_t)h * 3 + i].n_possible == want[i].n_possible, "possible units");
            compare_points(name, got[(size_t)h * 3 + i].points, want[i].points, N_LAMBDAS);
        }
    }
}

/* The inference kernel's output for pair 0 at two λ: its errors by the device and by the CPU's
 * arithmetic, and beside what the curve said, from which it differs by the rounding of the output
 * to bf16. */
static void check_errors(const char *name, const curve_problem &p, inputs &x,
    struct curve_cuda_args *a, buffer<uint8_t> &ws, const std::vector<struct pv_curve> &curves)
{
    struct tile_map map = tile_map_shape(p.block, p.heads, 0, p.n);
    buffer<uint64_t> bits(tile_map_bytes(&map) / 8);
    buffer<struct head_params> params(p.heads);
    buffer<float> lambda(p.heads);
    map.bits = bits.at;
    struct mask_cuda_args mask = {&x.device, params.at, p.smooth, 0, p.ranks()};
    buffer<uint8_t> mask_ws(mask_cuda_workspace(&mask));
    std::vector<float> exact(x.q.size());
    CHECK(cudaMemcpy(exact.data(), a->exact, exact.size() * sizeof(float), cudaMemcpyDeviceToHost));
    for (int step : {8, 100}) {
        params.put(std::vector<struct head_params>(p.heads, {-1, .5f, step / 2.0f, true, 0, 0, 0}));
        lambda.put(std::vector<float>(p.heads, step / 2.0f));
        struct attn_args run = x.device;
        CHECK_OK(mask_cuda_predict(&mask, &map, mask_ws.at, NULL));
        run.tiles = &map, run.pv_threshold = lambda.at;
        if (eight && attn_sparse_eight_sm90.refuses(&run)) return;
        const struct attn_impl *impl;
        CHECK_OK(attn_choose(&run, NULL, &impl));
        buffer<uint8_t> attn_ws(impl->workspace(&run));
        x.dout.fill(0xff);
        CHECK_OK(impl->run(&run, attn_ws.at, NULL, NULL));
        std::vector<struct output_error> got(p.heads);
        buffer<struct curve_point> points(p.heads);
        CHECK_OK(curve_cuda_compare(a, ws.at, NULL, points.at));
        CHECK_OK(curve_cuda_errors(points.get().data(), p.heads, got.data()));
        std::vector<__nv_bfloat16> raw = x.dout.get();
        std::vector<float> out((size_t)p.n * p.d), row(p.n);
        for (int h = 0; h < p.heads; h++) {
            for (int t = 0; t < p.n; t++)
                for (int i = 0; i < p.d; i++)
                    out[(size_t)t * p.d + i] =
                        __bfloat162float(raw[((size_t)t * p.heads + h) * p.d + i]);
            struct attn_args dense = x.host(p, h);
            dense.o = exact.data() + (size_t)h * p.n * p.d;
            struct output_error want;
            CHECK_OK(output_error_of(&dense, out.data(), row.data(), &want));
            bool good = fabsf(got[h].l1 - want.l1) < 1e-5f &&
                fabsf(got[h].tail - want.tail) < 1e-5f &&
                fabsf(got[h].cosine - want.cosine) < 1e-5f &&
                fabsf(got[h].rmse - want.rmse) < 1e-5f;
            float curve = curves[(size_t)h * 3].points[step].error.l1;
            bool near = fabsf(got[h].l1 - curve) < 5e-3f;
            if (!good || !near || getenv("SG_VERBOSE"))
                printf("     %s, head %d, lambda %g, %s: l1 %g (CPU %g, curve %g), tail %g (%g)\n",
                    name, h, step / 2.0, impl->name, got[h].l1, want.l1, curve, got[h].tail,
                    want.tail);
            verdict(good, "errors of an output");
            verdict(near, "the curve foretells the kernel");
        }
    }
}

static void check(const curve_problem &p, uint64_t seed, enum precision qk = PRECISION_FULL,
    enum precision pv = PRECISION_FULL)
{
    char name[160];
    snprintf(name, sizeof name,
        "n=%d heads=%d/%d d=%d block=%dx%d smooth=%s sharp=%g Q·K %s P·V %s %s", p.n, p.heads,
        p.kv_heads, p.d, p.block.q, p.block.k, smooth_k_name(p.smooth), p.sharp, precision_name(qk),
        precision_name(pv), p.ranks()->name);
    inputs x(p, seed);
    x.device.qk = qk, x.device.pv = pv;
    eight = !attn_is_full(&x.device);
    struct curve_cuda_args a = {&x.device, p.smooth, p.ranks(), NULL, NULL, 0};
    buffer<uint8_t> exact(curve_cuda_exact_bytes(&x.device)), ws(curve_cuda_workspace(&a)),
        copies(curve_cuda_eight_bytes(&x.device) + 256);
    a.exact = exact.at;
    copies.fill(0xff);
    if (eight) {
        CHECK_OK(curve_cuda_eight(&x.device, copies.at, NULL));
        a.eight = copies.at;
    }
    exact.fill(0xff), ws.fill(0xff);
    const char *why = curve_cuda_refuses(&a);
    if (why != NULL) {
        printf("     refused: %s: %s\n", name, why);
        verdict(false, name);
        return;
    }
    CHECK_OK(curve_cuda_exact(&a, NULL));
    for (int h = 0; h < p.heads; h++) {
        struct attn_args host = x.host(p, h);
        const struct attn_impl *impl;
        host.qk = host.pv = PRECISION_FULL;
        CHECK_OK(attn_choose(&host, NULL, &impl));
        std::vector<double> cpu(impl->workspace(&host) / 8 + 16);
        CHECK_OK(impl->run(&host, (void *)(((uintptr_t)cpu.data() + 63) / 64 * 64), NULL, NULL));
    }
    std::vector<float> dense(x.q.size());
    CHECK(cudaMemcpy(dense.data(), exact.at, dense.size() * sizeof(float), cudaMemcpyDeviceToHost));
    double diff = 0, norm = 0;
    for (size_t i = 0; i < dense.size(); i++)
        diff += fabs((double)dense[i] - (double)x.o[i]), norm += fabs((double)x.o[i]);
    if (getenv("SG_VERBOSE")) printf("     %s: dense output off by %.2g (l1)\n", name, diff / norm);
    verdict(diff <= 3e-3 * norm, "the dense output");
    std::vector<struct pv_curve> curves;
    for (int part = 0; part < p.n_parts(); part++) check_thetas(name, p, part, x, &a, ws);
    check_lambdas(name, p, x, &a, ws, curves);
    check_errors(name, p, x, &a, ws, curves);
}

static void check_refusals(void)
{
    curve_problem p = {300, 2, 1, 64, {128, 64}, SMOOTH_K_RUNNING, 1, NULL};
    inputs x(p, 5);
    struct curve_cuda_args a = {&x.device, p.smooth, p.ranks(), NULL, NULL, 0};
    verdict(curve_cuda_refuses(&a) == NULL, "a plain call is taken");
    for (const char *other :
        {"window", "xattention", "bound+groups=0", "bound+rule=cover", "sparge/xattention"}) {
        a.method = mask_method_find(other);
        verdict(curve_cuda_refuses(&a) != NULL, "other methods are refused");
    }
    a.method = NULL;
    x.device.head_dim = 256;
    verdict(curve_cuda_refuses(&a) != NULL, "head_dim 256 is refused");
    x.device.head_dim = 64, x.device.dtype = DTYPE_F32;
    verdict(curve_cuda_refuses(&a) != NULL, "f32 is refused");
    x.device.dtype = DTYPE_BF16, x.device.n_q = 1024 * 64 + 1;
    verdict(curve_cuda_refuses(&a) != NULL, "1025 key blocks are refused");
    x.device.n_q = p.n;
    buffer<uint8_t> exact(curve_cuda_exact_bytes(&x.device));
    a.exact = exact.at;
    x.dv.fill(0);
    verdict(curve_cuda_exact(&a, NULL) == ERR_NUMERIC && strstr(status_message(), "head 0") != NULL,
        "an output of norm zero is named");
    x.dv.fill(0xff);
    verdict(curve_cuda_exact(&a, NULL) == ERR_NUMERIC && strstr(status_message(), "NaN") != NULL,
        "NaN is named");
}

static void time_shape(int n, int d, struct block_shape block, const char *method)
{
    const int n_heads = n > 8192 ? 8 : 32; /* a long sample takes the host long to make */
    curve_problem p = {n, n_heads, n_heads / 4, d, block, SMOOTH_K_RUNNING, 1.5, method};
    inputs x(p, 9);
    struct curve_cuda_args a = {&x.device, p.smooth, p.ranks(), NULL, NULL, 0};
    buffer<uint8_t> exact(curve_cuda_exact_bytes(&x.device)), ws(curve_cuda_workspace(&a));
    a.exact = exact.at;
    std::vector<struct curve> curves(p.heads);
    std::vector<struct pv_curve> pv((size_t)p.heads * 4);
    std::vector<struct curve *> out;
    std::vector<int> heads;
    const struct threshold_pair pairs[4] = {
        {-1, .7f, 0}, {0, .8f, 0}, {.25f, .9f, 0}, {.5f, .95f, 0}};
    std::vector<struct curve_cuda_pairs> work;
    for (int h = 0; h < p.heads; h++)
        heads.push_back(h), out.push_back(&curves[h]),
            work.push_back({h, 4, pairs, &pv[(size_t)h * 4]});
    buffer<struct curve_point> points(p.heads);
    CHECK(cudaMemcpy(x.dout.at, x.dq.at, x.dq.n * 2, cudaMemcpyDeviceToDevice));
    std::vector<double> ms[4];
    const int times = n > 8192 ? 3 : 9;
    for (int i = 0; i < times; i++)
        for (int what = 0; what < 4; what++) {
            int64_t t0 = clock_ns();
            if (what == 0) CHECK_OK(curve_cuda_exact(&a, NULL));
            if (what == 1)
                CHECK_OK(curve_cuda_thetas(
                    &a, p.n_parts() - 1, heads.data(), p.heads, ws.at, NULL, out.data()));
            if (what == 2) CHECK_OK(curve_cuda_lambdas(&a, work.data(), p.heads, ws.at, NULL));
            if (what == 3) {
                CHECK_OK(curve_cuda_compare(&a, ws.at, NULL, points.at));
                CHECK(cudaDeviceSynchronize());
            }
            ms[what].push_back((double)(clock_ns() - t0) * 1e-6);
        }
    printf("%s n=%d d=%d block=%dx%d:", p.ranks()->name, n, d, block.q, block.k);
    const char *names[4] = {"dense", "theta x tau", "lambda of 4 pairs", "errors"};
    for (int what = 0; what < 4; what++) {
        std::sort(ms[what].begin(), ms[what].end());
        printf(" %s %.3f ms%s", names[what], ms[what][times / 2], what < 3 ? "," : "");
    }
    printf("; scratch %.2f GiB\n", (double)ws.n / 1073741824.0);
}

int main(int argc, char **argv)
{
    bool quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    struct device *dev;
    if (device_cuda.open(&dev, 0) != OK) {
        printf("%s\n", status_message());
        return 3;
    }
    struct device_info info;
    if (device_cuda.info(dev, &info) != OK) return 3;
    printf("device: %s, sm %d\n", info.name, info.sm);
    if (argc > 1 && strcmp(argv[1], "--time") == 0) {
        for (const char *method : {"sparge", "sparge/bound"}) {
            time_shape(2048, 64, {128, 64}, method);
            time_shape(2048, 128, {128, 64}, method);
            time_shape(8192, 64, {128, 64}, method);
            time_shape(32768, 128, {128, 64}, method);
        }
        return 0;
    }
    const struct block_shape shapes[] = {{128, 64}, {64, 64}, {64, 128}, {128, 128}};
    const enum smooth_k smooths[] = {SMOOTH_K_RUNNING, SMOOTH_K_GLOBAL, SMOOTH_K_OFF};
    uint64_t seed = 1;
    for (int b = 0; b < 4; b++)
        for (int d : {64, 128, 80})
            for (int n : quick ? std::vector<int>{321} : std::vector<int>{1, 65, 321, 1000}) {
                if (quick && d == 80 && b != 0) continue;
                check({n, 4, n % 2 ? 2 : 4, d, shapes[b], smooths[seed % 3],
                          seed % 4 == 3 ? 0 : .8 + .4 * (double)(seed % 4), NULL},
                    seed);
                seed++;
            }
    for (int b = 0; b < 4 && !quick; b++)
        check({2048 + 37 * b, 4, 1, 64, shapes[b], SMOOTH_K_RUNNING, 1.5, NULL}, seed++);
    if (!quick) check({4999, 2, 2, 16, {64, 64}, SMOOTH_K_RUNNING, 2, NULL}, seed++);
    for (const char *method :
        {"bound", "oracle", "bound+rule=top-p", "bound+spread=range+over=max+rows=16+keys=32",
            "sparge/bound", "oracle+over=rms/bound+keys=8/sparge"})
        for (int b = 0; b < 4; b++)
            for (int n : quick ? std::vector<int>{321} : std::vector<int>{65, 1000, 2085})
                check(
                    {n, 4, 2, b % 2 ? 128 : 64, shapes[b], SMOOTH_K_RUNNING, 1.5, method}, seed++);
    static const enum precision pairs[][2] = {{PRECISION_INT8, PRECISION_FP8},
        {PRECISION_FP8, PRECISION_FP8}, {PRECISION_INT8, PRECISION_FULL},
        {PRECISION_FULL, PRECISION_FP8}};
    for (int b = 0; b < 4; b++)
        for (int k = 0; k < (quick ? 1 : 4); k++)
            for (int n : {100, 1000})
                check({n, 2, 1, k % 2 ? 128 : 64, shapes[b], SMOOTH_K_RUNNING, 1 + .3 * b, NULL},
                    seed++, pairs[k][0], pairs[k][1]);
    check_refusals();
    printf("%d of %d checks failed; worst |l1| difference %.2g, tail %.2g; %ld of %ld points keep "
           "other tiles\n",
        n_failed, n_checked, worst_l1, worst_tail, n_other_tiles, n_points);
    device_cuda.close(&dev);
    return n_failed ? 1 : 0;
}

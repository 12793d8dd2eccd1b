#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "base/clock.h"
#include "base/stats.h"
#include "base/xmalloc.h"
#include "harness/cli/output.h"
#include "harness/measure/progress.h"
#include "harness/measure/setup.h"
#include "kernels/compare.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/eight.h"
#include "kernels/registry.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct machine_options machine;
    int repeats, length;
} o = {
    .machine = MACHINE_DEFAULTS,
    .repeats = 5,
    .length = 2048,
};

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR",
        "also time this model's prefill, logits and loading", 0, 0},
    {"repeats", OPTION_INT, &o.repeats, "N", "timed repetitions of each (5)", 2, 1000},
    {"max-length", OPTION_INT, &o.length, "TOKENS",
        "rows of the linear layers and of the prefill (2048)", 64, 1 << 17},
    MACHINE_OPTIONS(o.machine),
    GRAPH_OPTIONS(o.machine),
    {0},
};

typedef enum status timed(void *ctx);

/* Median seconds of `repeats` runs behind one that is not counted. */
static enum status median_time(timed *run, void *ctx, double *out)
{
    double *times = malloc(sizeof *times * (size_t)o.repeats);
    if (!times) return fail(ERR_MEMORY, "no memory for %d times", o.repeats);
    enum status st = run(ctx);
    for (int i = 0; i < o.repeats && st == OK; i++) {
        int64_t t0 = clock_ns();
        st = run(ctx);
        times[i] = (double)(clock_ns() - t0) * 1e-9;
    }
    if (st == OK) *out = quantile(times, (size_t)o.repeats, .5);
    free(times);
    return st;
}

static void fill(float *x, size_t n, uint64_t seed)
{
    struct rng r;
    rng_init(&r, seed);
    for (size_t i = 0; i < n; i++) x[i] = (float)rng_normal(&r);
}

static float *normal(size_t n, uint64_t seed)
{
    float *x = xaligned((n * sizeof *x + 63) / 64 * 64);
    fill(x, n, seed);
    return x;
}

static uint16_t *normal_bf16(size_t n, uint64_t seed)
{
    uint16_t *x = xmalloc(n * sizeof *x);
    struct rng r;
    rng_init(&r, seed);
    for (size_t i = 0; i < n; i++) x[i] = f32_to_bf16((float)rng_normal(&r) * .02f);
    return x;
}

struct bench {
    struct par *par;
    struct table *table;
    double sgemm_rate; /* FLOP/s */
    struct progress progress;
    double n_rows;
};

static void add_row(
    struct bench *b, const char *what, double seconds, double flop, double ratio, const char *goal)
{
    table_text(b->table, what);
    table_real(b->table, seconds);
    table_real(b->table, flop > 0 ? flop / seconds * 1e-9 : NAN);
    table_real(b->table, ratio);
    table_text(b->table, goal);
    progress_update(&b->progress, ++b->n_rows);
}

/* sgemm with as many OpenBLAS threads as ours: the yardstick. */

struct gemm {
    int n;
    float *a, *b, *c;
};

static enum status run_gemm(void *ctx)
{
    struct gemm *g = ctx;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, g->n, g->n, g->n, 1, g->a, g->n, g->b,
        g->n, 0, g->c, g->n);
    return OK;
}

static enum status bench_gemm(struct bench *b)
{
    enum { N = 4096 };
    size_t n = (size_t)N * N;
    struct gemm g = {N, normal(n, 1), normal(n, 2), normal(n, 3)};
    double seconds = 0;
    openblas_set_num_threads(par_threads(b->par));
    enum status st = median_time(run_gemm, &g, &seconds);
    openblas_set_num_threads(1);
    b->sgemm_rate = 2.0 * N * N * N / seconds;
    add_row(b, "OpenBLAS sgemm 4096x4096x4096", seconds, 2.0 * N * N * N, 1, "");
    free(g.a);
    free(g.b);
    free(g.c);
    return st;
}

/* All seven matrices of a Llama-3.2-1B layer. */

struct layer {
    struct bench *b;
    int n;
    struct linear matrices[7];
    float *x, *y;
    void *ws;
};

static enum status run_layer(void *ctx)
{
    struct layer *l = ctx;
    for (int i = 0; i < 7; i++)
        linear_run(&l->matrices[i], l->n, l->x, 8192, l->y, 8192, false, l->ws, l->b->par);
    return OK;
}

static enum status bench_linear(struct bench *b)
{
    static const int shapes[7][2] = {{2048, 2048}, {512, 2048}, {512, 2048}, {2048, 2048},
        {8192, 2048}, {8192, 2048}, {2048, 8192}};
    struct layer l = {.b = b,
        .n = o.length,
        .x = normal((size_t)o.length * 8192, 1),
        .y = normal((size_t)o.length * 8192, 2),
        .ws = aligned_alloc(64, linear_workspace(8192, par_threads(b->par)))};
    double flop = 0, seconds = 0;
    for (int i = 0; i < 7; i++) {
        size_t n = (size_t)shapes[i][0] * (size_t)shapes[i][1];
        l.matrices[i] = (struct linear){
            normal_bf16(n, (uint64_t)i), NULL, DTYPE_BF16, shapes[i][0], shapes[i][1]};
        flop += 2.0 * o.length * (double)n;
    }
    enum status st = median_time(run_layer, &l, &seconds);
    char what[96];
    snprintf(what, sizeof what, "linear layers of a 1B layer, bf16, %d rows", o.length);
    if (st == OK)
        add_row(b, what, seconds, flop, flop / seconds / b->sgemm_rate, "at least .85 of sgemm");
    for (int i = 0; i < 7; i++) free((void *)l.matrices[i].weight);
    free(l.x);
    free(l.y);
    free(l.ws);
    return st;
}

/* Attention, 8 query and 2 kv heads. */

enum { HEADS = 8, KV_HEADS = 2 };

struct attention {
    struct bench *b;
    struct attn_args a;
    struct mask_args mask;
    struct tile_map map;
    struct head_params params[HEADS];
    struct head_ledger ledger[HEADS];
    const struct attn_impl *impl;
    char *ws;
    bool sparse;
};

static enum status run_attention(void *ctx)
{
    struct attention *x = ctx;
    if (x->sparse) {
        memset(x->ledger, 0, sizeof x->ledger);
        TRY(mask_predict(&mask_sparge, &x->mask, &x->map, x->ws, x->b->par));
    }
    return x->impl->run(&x->a, x->ws, x->b->par, NULL);
}

static enum status bench_attention(struct bench *b, int n, int d, const struct attn_impl *impl)
{
    size_t rows = (size_t)n * (size_t)d;
    float *q = normal(rows * HEADS, 1), *k = normal(rows * KV_HEADS, 2),
          *v = normal(rows * KV_HEADS, 3), *out = normal(rows * HEADS, 4);
    struct attention x = {.b = b, .impl = impl};
    x.a = (struct attn_args){.dtype = DTYPE_F32,
        .n_q = n,
        .n_heads = HEADS,
        .n_kv_heads = KV_HEADS,
        .head_dim = d,
        .scale = 1 / sqrtf((float)d),
        .q = q,
        .k = k,
        .v = v,
        .o = out,
        .q_row = HEADS * d,
        .q_head = d,
        .k_row = d,
        .k_head = (ptrdiff_t)n * d,
        .v_row = d,
        .v_head = (ptrdiff_t)n * d,
        .o_row = HEADS * d,
        .o_head = d,
        .block = BLOCK_DEFAULT,
        .ledger = x.ledger};
    x.map = tile_map_shape(x.a.block, HEADS, 0, n);
    x.map.bits = xaligned((tile_map_bytes(&x.map) + 63) / 64 * 64);
    x.mask = (struct mask_args){&x.a, x.params, SMOOTH_K_RUNNING, 0, 0, NULL};
    size_t mask = mask_workspace(&mask_sparge, &x.mask, par_threads(b->par)),
           work = impl->workspace(&x.a);
    x.ws = xaligned((mask > work ? mask : work) + 64);
    char what[128];
    /* the causal half of 4 n² d */
    double dense = 0, seconds = 0, flop = 2.0 * HEADS * (double)n * n * d;
    enum status st = median_time(run_attention, &x, &dense);
    snprintf(what, sizeof what, "%s dense, n %d, d %d", impl->name, n, d);
    if (st == OK)
        add_row(b, what, dense, flop, flop / dense / b->sgemm_rate,
            n >= 4096 && d == 64 ? "at least .45 of sgemm" : "");
    x.sparse = true;
    x.a.tiles = &x.map;
    for (int h = 0; h < HEADS; h++) x.params[h] = (struct head_params){-1, 1, 50, true, 0, 0, 0};
    for (int step = 1; step <= 4 && st == OK && n >= 4096; step++) {
        x.mask.topk = .2f * (float)step - .07f;
        st = median_time(run_attention, &x, &seconds);
        double kept = 1 - ledger_qk_sparsity(&x.ledger[0]);
        char goal[64];
        snprintf(what, sizeof what, "%s sparse, n %d, d %d, kept %.2f, with prediction", impl->name,
            n, d, kept);
        snprintf(goal, sizeof goal, "at most %.2f of dense", kept + .08);
        if (st == OK) add_row(b, what, seconds, flop * kept, seconds / dense, goal);
    }
    free(q);
    free(k);
    free(v);
    free(out);
    free(x.map.bits);
    free(x.ws);
    return st;
}

/* Head and metrics of a 1B shape. */

enum { VOCAB = 128256, HIDDEN = 2048, ROWS = 512 };

struct metrics {
    struct bench *b;
    struct linear head;
    float *dense, *sparse, *logits;
    int32_t next[ROWS];
    struct token_metrics out[ROWS];
    void *ws, *linear_ws;
};

static enum status run_head(void *ctx)
{
    struct metrics *m = ctx;
    /* in chunks: two n × vocab buffers would be half a gigabyte */
    for (int first = 0; first < VOCAB; first += 2048) {
        struct linear part =
            linear_rows(&m->head, first, first + 2048 < VOCAB ? first + 2048 : VOCAB);
        linear_run(&part, ROWS, m->dense, HIDDEN, m->logits, 2048, false, m->linear_ws, m->b->par);
        linear_run(&part, ROWS, m->sparse, HIDDEN, m->logits, 2048, false, m->linear_ws, m->b->par);
    }
    return OK;
}

static enum status run_metrics(void *ctx)
{
    struct metrics *m = ctx;
    struct tensor_sums sums = {0};
    return compare_logits(
        &m->head, ROWS, m->dense, m->sparse, m->next, m->out, &sums, m->ws, m->b->par);
}

static enum status bench_metrics(struct bench *b)
{
    struct metrics *m = calloc(1, sizeof *m);
    if (!m) return fail(ERR_MEMORY, "no memory");
    m->b = b;
    m->head =
        (struct linear){normal_bf16((size_t)VOCAB * HIDDEN, 5), NULL, DTYPE_BF16, VOCAB, HIDDEN};
    m->dense = normal((size_t)ROWS * HIDDEN, 6);
    m->sparse = normal((size_t)ROWS * HIDDEN, 7);
    m->logits = normal((size_t)ROWS * 2048, 8);
    m->linear_ws = aligned_alloc(64, linear_workspace(HIDDEN, par_threads(b->par)));
    m->ws = aligned_alloc(64, compare_workspace(&m->head, par_threads(b->par)));
    double heads = 0, all = 0, flop = 4.0 * ROWS * VOCAB * HIDDEN;
    enum status st = median_time(run_head, m, &heads);
    if (st == OK)
        add_row(b, "two head products, 1B shape, 512 rows", heads, flop,
            flop / heads / b->sgemm_rate, "");
    if (st == OK) st = median_time(run_metrics, m, &all);
    if (st == OK)
        add_row(b, "all metrics in one pass, products included", all, flop, all / heads,
            "at most 1.25 of the products");
    free((void *)m->head.weight);
    free(m->dense);
    free(m->sparse);
    free(m->logits);
    free(m->ws);
    free(m->linear_ws);
    free(m);
    return st;
}

enum { DECODE_STEPS = 64 };

struct prefill {
    struct session *s;
    int32_t *ids;
    int n;
    struct sparse_policy *policy;
    int32_t *next;
    float *nll, *logits;
    double step_s;
};

static enum status run_prefill(void *ctx)
{
    struct prefill *p = ctx;
    session_reset(p->s);
    return session_forward(
        p->s, &(struct forward_args){.tokens = p->ids, .n = p->n, .policy = p->policy});
}

static enum status run_loss(void *ctx)
{
    struct prefill *p = ctx;
    session_reset(p->s);
    return session_forward(
        p->s, &(struct forward_args){.tokens = p->ids, .n = p->n, .next = p->next, .nll = p->nll});
}

static enum status run_decode(void *ctx)
{
    struct prefill *p = ctx;
    session_reset(p->s);
    TRY(session_forward(p->s, &(struct forward_args){.tokens = p->ids, .n = p->n - DECODE_STEPS}));
    int64_t t0 = clock_ns();
    for (int i = p->n - DECODE_STEPS; i < p->n; i++) {
        TRY(session_forward(
            p->s, &(struct forward_args){.tokens = p->ids + i, .n = 1, .last_logits = p->logits}));
    }
    p->step_s = (double)(clock_ns() - t0) * 1e-9 / DECODE_STEPS;
    return OK;
}

/* The prefill with products of eight bits, dense and of half of the tiles: what the device has no
 * kernel for is said once and left out. */
static enum status bench_eight(struct bench *b, struct prefill *p, double dense)
{
    const struct sparse_policy sparse = *p->policy;
    struct sparse_policy every = {0};
    enum status st = OK;
    for (int i = 0; i < 4 && st == OK; i++) {
        enum precision qk = i < 2 ? PRECISION_INT8 : PRECISION_FP8;
        double seconds = 0;
        char what[128];
        p->policy->qk = qk;
        p->policy->pv = PRECISION_FP8;
        if (i % 2 == 0) st = policy_copy_dense(&every, p->policy);
        struct sparse_policy *own = p->policy;
        if (i % 2 == 0) p->policy = &every;
        if (st == OK) st = median_time(run_prefill, p, &seconds);
        p->policy = own;
        policy_clear(&every);
        snprintf(what, sizeof what, "the same, %s, --qk %s --pv fp8",
            i % 2 == 0 ? "dense" : "topk .5, blocks 128x64", precision_name(qk));
        if (st == OK) add_row(b, what, seconds, 0, seconds / dense, "");
    }
    *p->policy = sparse;
    if (st != ERR_UNSUPPORTED) return st;
    table_note(b->table, status_message());
    return OK;
}

/* The same once more as the library's calls decide it: dense where choosing tiles cannot pay. */
static enum status bench_deployed(
    struct bench *b, struct prefill *p, const struct llama_config *c, double dense)
{
    size_t cells = (size_t)c->n_layers * (size_t)c->n_heads;
    struct head_ledger total = {0}, *ledger = calloc(cells, sizeof *ledger);
    double seconds = 0;
    char what[128];
    if (!ledger) return fail(ERR_MEMORY, "no memory to count %zu heads", cells);
    p->policy->where_it_pays = true;
    session_reset(p->s);
    enum status st = session_forward(p->s,
        &(struct forward_args){.tokens = p->ids, .n = p->n, .policy = p->policy, .ledger = ledger});
    if (st == OK) st = median_time(run_prefill, p, &seconds);
    p->policy->where_it_pays = false;
    for (size_t i = 0; i < cells; i++) head_ledger_add(&total, &ledger[i]);
    free(ledger);
    snprintf(what, sizeof what, "the same, where it pays%s",
        total.calls_sparse ? "" : ": dense, choosing tiles would cost more");
    if (st == OK) add_row(b, what, seconds, 0, seconds / dense, "");
    return st;
}

/* What a deployment does with a model on a device: prefill, dense and sparse, loss of every
 * position, decode. */
static enum status bench_device(struct bench *b, const struct setup *setup)
{
    const struct llama_config *c = &setup->model.weights.config;
    struct prefill p = {.n = o.length,
        .ids = malloc(sizeof *p.ids * (size_t)o.length),
        .next = malloc(sizeof *p.next * (size_t)o.length),
        .nll = malloc(sizeof *p.nll * (size_t)o.length),
        .logits = malloc(sizeof *p.logits * (size_t)c->vocab_size)};
    static const struct block_shape blocks[] = {{128, 128}, BLOCK_DEFAULT};
    struct sparse_policy policy = {0};
    struct weights_device_info device, scoring;
    struct rng r;
    double seconds = 0, dense = 0,
           flop = 2.0 * o.length *
        (double)(llama_config_parameters(c) - (long long)c->vocab_size * c->hidden_size);
    char what[160];
    enum status st = OK;
    if (!p.ids || !p.next || !p.nll || !p.logits)
        TRY_GOTO(st, done, fail(ERR_MEMORY, "no memory for %d tokens", o.length));
    rng_init(&r, 1);
    for (int i = 0; i < o.length; i++) p.ids[i] = (int32_t)rng_below(&r, (uint32_t)c->vocab_size);
    for (int i = 0; i < o.length; i++) p.next[i] = i + 1 < o.length ? p.ids[i + 1] : -1;
    TRY_GOTO(st, done, policy_init(&policy, &mask_sparge, c->n_layers, c->n_heads));
    TRY_GOTO(st, done,
        session_open(
            &p.s, &setup->model.weights, setup->par, o.length, o.machine.chunk, o.machine.impl));
    TRY_GOTO(st, done, median_time(run_prefill, &p, &dense));
    flop += 2.0 * c->n_layers * c->n_heads * c->head_dim * (double)o.length * o.length;
    snprintf(what, sizeof what, "prefill of %s, %d tokens, dense", setup->model.name, o.length);
    add_row(b, what, dense, flop, 1, "");
    policy_set_thresholds(&policy, -.1f, 1, 50);
    policy.topk = .5f;
    p.policy = &policy;
    for (int i = 0; i < 2; i++) {
        policy.block = blocks[i];
        TRY_GOTO(st, done, median_time(run_prefill, &p, &seconds));
        snprintf(what, sizeof what, "the same, topk .5, blocks %dx%d", blocks[i].q, blocks[i].k);
        add_row(b, what, seconds, 0, seconds / dense, "");
    }
    TRY_GOTO(st, done, bench_deployed(b, &p, c, dense));
    TRY_GOTO(st, done, bench_eight(b, &p, dense));
    if (o.length > 2 * DECODE_STEPS) {
        TRY_GOTO(st, done, run_decode(&p));
        TRY_GOTO(st, done, run_decode(&p));
        add_row(b, "one decode step behind it", p.step_s, 0, p.step_s / dense, "");
    }
    weights_device_describe(&setup->model.weights, &device);
    session_close(&p.s); /* a loss needs no keys and values of the past */
    TRY_GOTO(st, done,
        session_open_once(
            &p.s, &setup->model.weights, setup->par, o.length, o.machine.chunk, o.machine.impl));
    weights_device_describe(&setup->model.weights, &scoring);
    TRY_GOTO(st, done, median_time(run_loss, &p, &seconds));
    add_row(b, "prefill and the loss of every position", seconds,
        flop + 2.0 * o.length * (double)c->vocab_size * c->hidden_size, seconds / dense, "");
    say("%s, %s, residual stream %s%s\nweights and session: %.3f GiB, for the loss %.3f GiB; "
        "medians of %d\n",
        device.gpu, device.driver, device.residual, device.graph ? ", graphs" : "",
        (double)device.bytes / 0x1p30, (double)scoring.bytes / 0x1p30, o.repeats);
done:
    session_close(&p.s);
    policy_clear(&policy);
    free(p.ids);
    free(p.next);
    free(p.nll);
    free(p.logits);
    return st;
}

static enum status bench_model(struct bench *b, const struct setup *setup)
{
    const struct llama_config *c = &setup->model.weights.config;
    struct prefill p = {.n = o.length, .ids = malloc(sizeof *p.ids * (size_t)o.length)};
    struct sparse_policy policy = {0};
    struct rng r;
    double seconds = 0;
    char what[96];
    enum status st;
    if (!p.ids) return fail(ERR_MEMORY, "no memory for %d tokens", o.length);
    rng_init(&r, 1);
    for (int i = 0; i < o.length; i++) p.ids[i] = (int32_t)rng_below(&r, (uint32_t)c->vocab_size);
    TRY_GOTO(st, done, policy_init(&policy, &mask_sparge, c->n_layers, c->n_heads));
    TRY_GOTO(st, done,
        session_open(
            &p.s, &setup->model.weights, setup->par, o.length, o.machine.chunk, o.machine.impl));
    for (int sparse = 0; sparse < 2; sparse++) {
        p.policy = sparse ? &policy : NULL;
        policy.topk = .5f;
        TRY_GOTO(st, done, median_time(run_prefill, &p, &seconds));
        double flop = 2.0 * o.length * (double)llama_config_parameters(c);
        snprintf(what, sizeof what, "prefill of %s, %d tokens, %s", setup->model.name, o.length,
            sparse ? "topk .5" : "dense");
        add_row(
            b, what, seconds, sparse ? 0 : flop, sparse ? NAN : flop / seconds / b->sgemm_rate, "");
    }
done:
    session_close(&p.s);
    policy_clear(&policy);
    free(p.ids);
    return st;
}

static enum status bench_command(struct command_call *call)
{
    enum status st = OK;
    struct setup setup = {0};
    struct bench b = {0};
    bool model = call->n || o.machine.model, device = strcmp(o.machine.device, "cpu") != 0;
    if (device && !model)
        return fail(
            ERR_ARG, "bench --device %s times a model: give its directory", o.machine.device);
    if (model) st = setup_open(&setup, &o.machine, call->positional[0]);
    else if ((st = cpu_ops_choose(o.machine.cpu_mask)) == OK)
        st = par_open(&setup.par, o.machine.threads);
    if (st != OK) return st;
    b.par = setup.par;
    b.table = table_new(NULL);
    enum { KERNEL_ROWS = 15, MODEL_ROWS = 2, DEVICE_ROWS = 9 }; /* in eight bits some more */
    progress_begin(&b.progress, "bench", "rows",
        device ? DEVICE_ROWS : KERNEL_ROWS + (model ? MODEL_ROWS : 0), o.machine.quiet);
    table_add_column(b.table, (struct table_column){.name = "what"});
    table_add_column(b.table,
        (struct table_column){.name = "median",
            .key = "median_s",
            .weight = 3,
            .number = NUMBER_SECONDS,
            .digits = 2});
    table_add_column(b.table,
        (struct table_column){
            .name = "GFLOP/s", .key = "gflop_per_s", .number = NUMBER_FIXED, .digits = 1});
    table_add_column(b.table,
        (struct table_column){.name = "ratio", .weight = 2, .number = NUMBER_FIXED, .digits = 3});
    table_add_column(b.table, (struct table_column){.name = "goal"});
    if (device) {
        TRY_GOTO(st, done, bench_device(&b, &setup));
        progress_end(&b.progress);
        print_table("times", b.table);
        b.table = NULL;
        goto done;
    }
    TRY_GOTO(st, done, bench_gemm(&b));
    TRY_GOTO(st, done, bench_linear(&b));
    for (int i = 0; attn_impls[i] != &attn_ref; i++) {
        struct attn_args probe = {
            .n_q = 1024, .n_heads = 1, .n_kv_heads = 1, .head_dim = 64, .block = BLOCK_DEFAULT};
        if (attn_impls[i]->refuses(&probe) ||
            (o.machine.impl && strcmp(o.machine.impl, attn_impls[i]->name) != 0))
            continue;
        TRY_GOTO(st, done, bench_attention(&b, 1024, 64, attn_impls[i]));
        TRY_GOTO(st, done, bench_attention(&b, 4096, 64, attn_impls[i]));
        TRY_GOTO(st, done, bench_attention(&b, 4096, 128, attn_impls[i]));
        if (!o.machine.impl) break; /* the best one; --impl names another */
    }
    TRY_GOTO(st, done, bench_metrics(&b));
    if (model) TRY_GOTO(st, done, bench_model(&b, &setup));
    progress_end(&b.progress);
    say("%d threads, %s kernels, medians of %d\n", par_threads(b.par), cpu_ops()->name, o.repeats);
    print_table("times", b.table);
    b.table = NULL;
done:
    progress_end(&b.progress);
    if (b.table) table_free(&b.table);
    setup_close(&setup);
    return st;
}

const struct command cmd_bench = {
    .name = "bench",
    .summary = "time kernels and prefill",
    .help =
        {
            "bench [MODEL] [options]",
            "Times linear layers, dense and sparse attention and the metrics pass on a 1B shape "
            "against a large OpenBLAS sgemm in the\n"
            "same run, with the same threads; with MODEL also its prefill. Medians; ratios are "
            "what to quote.",
            "sparsegauge bench\nsparsegauge bench suites/demo/model --max-length 4096",
            "max-length repeats impl cpu-mask threads device",
        },
    .options = options,
    .max_positional = 1,
    .run = bench_command,
};

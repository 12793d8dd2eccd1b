/* The tuner on real attention: what it stores is run again from outside, threads and interruptions
 * change nothing, and what cannot be tuned is refused by name. */
#include "base/json.h"
#include "engine/engine.h"
#include "engine/tuner/tuner_spread.h"
#include "kernels/registry.h"
#include "suites/suite.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())

enum { MAX_SAMPLES = 4 };

struct bench {
    struct weights w;
    struct par *par;
    struct sparse_policy policy;
    struct tune_sample samples[MAX_SAMPLES];
    int n_samples;
    struct sample_set set;
    int32_t *ids;
    char fingerprint[FINGERPRINT_SIZE];
};

static void open_bench(struct bench *b, const char *dir, int threads, const char *layers)
{
    *b = (struct bench){0};
    CHECK(weights_open(&b->w, dir));
    CHECK(par_open(&b->par, threads));
    CHECK(weights_fingerprint(&b->w, NULL, b->par, NULL, b->fingerprint));
    CHECK(policy_init(&b->policy, &mask_sparge, b->w.config.n_layers, b->w.config.n_heads));
    CHECK(policy_set_layers(&b->policy, layers));
}

/* The bundled model on `n` of its own documents of about 512 tokens, the last of them held out. */
static void open_demo(struct bench *b, int threads, const char *layers, int n)
{
    open_bench(b, SG_SOURCE_DIR "/suites/demo/model", threads, layers);
    struct tokenizer *t;
    CHECK(tokenizer_open(&t, SG_SOURCE_DIR "/suites/demo/model"));
    struct suite_options o = {.tokenizer = t,
        .argument = "",
        .max_length = 512,
        .num_samples = n,
        .min_length = 256,
        .tuning = true};
    CHECK(suite_load("chronicle", &o, &b->set));
    cr_assert_eq(b->set.n_samples, n);
    for (int i = 0; i < n; i++)
        b->samples[i] = (struct tune_sample){b->set.samples[i].ids, b->set.samples[i].n,
            b->set.samples[i].name, n > 1 && i == n - 1};
    b->n_samples = n;
    tokenizer_close(&t);
}

/* A golden model on ids of a simple rule. */
static void open_tiny(struct bench *b, const char *dir, int threads, int n, int n_tokens)
{
    static const char *const names[] = {"first", "second", "third", "fourth"};
    open_bench(b, dir, threads, "all");
    b->ids = malloc(sizeof *b->ids * (size_t)(n * n_tokens));
    for (int i = 0; i < n * n_tokens; i++)
        b->ids[i] = (int32_t)((unsigned)i * 2654435761u >> 16) % b->w.config.vocab_size;
    for (int i = 0; i < n; i++)
        b->samples[i] =
            (struct tune_sample){b->ids + i * n_tokens, n_tokens, names[i], n > 1 && i == n - 1};
    b->n_samples = n;
}

static void close_bench(struct bench *b)
{
    policy_clear(&b->policy);
    par_close(&b->par);
    weights_close(&b->w);
    sample_set_clear(&b->set);
    free(b->ids);
}

static struct tune_args args_of(
    const struct bench *b, const struct tune_bounds *bounds, int n_bounds)
{
    return (struct tune_args){.weights = &b->w,
        .par = b->par,
        .policy = &b->policy,
        .rule = RULE_L1,
        .samples = b->samples,
        .n_samples = b->n_samples,
        .bounds = bounds,
        .n_bounds = n_bounds,
        .min_sparsity = .1};
}

static bool same_head(const struct tuned_head *x, const struct tuned_head *y)
{
    return memcmp(&x->params.theta, &y->params.theta, sizeof(float)) == 0 &&
        memcmp(&x->params.tau, &y->params.tau, sizeof(float)) == 0 &&
        memcmp(&x->params.lambda, &y->params.lambda, sizeof(float)) == 0 &&
        x->params.is_sparse == y->params.is_sparse && x->in_range == y->in_range &&
        x->back_offs == y->back_offs && memcmp(&x->tune, &y->tune, sizeof x->tune) == 0 &&
        memcmp(&x->check, &y->check, sizeof x->check) == 0 && x->qk_sparsity == y->qk_sparsity &&
        x->sparsity == y->sparsity && strcmp(x->reason, y->reason) == 0;
}

static void expect_same(const struct tuned *x, const struct tuned *y, const char *what)
{
    cr_assert(x->n_layers == y->n_layers && x->n_heads == y->n_heads);
    for (int i = 0; i < x->n_layers * x->n_heads; i++)
        cr_expect(same_head(&x->heads[i], &y->heads[i]),
            "%s: layer %d head %d: (%g, %.9g, %g) and (%g, %.9g, %g)", what, i / x->n_heads,
            i % x->n_heads, (double)x->heads[i].params.theta, (double)x->heads[i].params.tau,
            (double)x->heads[i].params.lambda, (double)y->heads[i].params.theta,
            (double)y->heads[i].params.tau, (double)y->heads[i].params.lambda);
    char a[33], b[33];
    cr_expect_str_eq(tuned_hash(x, a), tuned_hash(y, b), "%s", what);
}

static int count_sparse(const struct tuned *t)
{
    int n = 0;
    for (int i = 0; i < t->n_layers * t->n_heads; i++) n += t->heads[i].params.is_sparse;
    return n;
}

/* Errors and sparsity of every head of a whole layer under `tuned`, from a dense forward pass of
 * our own. */
struct rerun {
    const struct sparse_policy *policy;
    struct par *par;
    int n_layers, n_heads;
    struct head_error *worst;       /* [n_layers, n_heads], over the samples so far */
    double *sparsity, *qk_sparsity; /* sums over samples */
};

static enum status rerun_layer(void *ctx, const struct layer_view *view)
{
    struct rerun *r = ctx;
    struct attn_args a = *view->attn;
    size_t d = (size_t)a.head_dim, n = (size_t)a.n_q;
    const struct head_params *heads = r->policy->heads + view->layer * r->n_heads;
    if (!r->policy->layer_on[view->layer]) return OK;
    float *o = malloc(sizeof *o * n * d * (size_t)a.n_heads);
    struct head_ledger *ledger = calloc((size_t)a.n_heads, sizeof *ledger);
    float *lambda = malloc(sizeof *lambda * (size_t)a.n_heads);
    uint8_t *sparse = malloc((size_t)a.n_heads);
    for (int h = 0; h < a.n_heads; h++) {
        lambda[h] = heads[h].lambda;
        sparse[h] = heads[h].is_sparse;
    }
    a.block = r->policy->block;
    a.qk = r->policy->qk, a.pv = r->policy->pv;
    a.o = o;
    a.o_row = (ptrdiff_t)d * a.n_heads;
    a.o_head = (ptrdiff_t)d;
    a.ledger = ledger;
    struct mask_args m = {.attn = &a, .heads = heads, .smooth_k = r->policy->smooth_k};
    struct tile_map map = tile_map_shape(a.block, a.n_heads, 0, a.n_q);
    void *ws = aligned_alloc(64, (mask_workspace(r->policy->method, &m, 1) + 63) / 64 * 64);
    map.bits = malloc(tile_map_bytes(&map));
    CHECK(mask_predict(r->policy->method, &m, &map, ws, NULL));
    free(ws);
    a.tiles = &map;
    a.head_sparse = sparse;
    a.pv_threshold = lambda;
    const struct attn_impl *impl;
    CHECK(attn_choose(&a, NULL, &impl));
    ws = aligned_alloc(64, (impl->workspace(&a) + 63) / 64 * 64);
    CHECK(impl->run(&a, ws, r->par, NULL));
    free(ws);
    for (int h = 0; h < a.n_heads; h++) {
        double diff = 0, sum = 0, sq_diff = 0, sq = 0, got_sq = 0, dot = 0;
        for (size_t t = 0; t < n; t++)
            for (size_t i = 0; i < d; i++) {
                double x = (double)((const float *)view->attn->o)[(ptrdiff_t)t * view->attn->o_row +
                    h * view->attn->o_head + (ptrdiff_t)i];
                double y = (double)o[(t * (size_t)a.n_heads + (size_t)h) * d + i];
                diff += fabs(x - y);
                sum += fabs(x);
                sq_diff += (x - y) * (x - y);
                sq += x * x;
                got_sq += y * y;
                dot += x * y;
            }
        struct head_error e = {diff / sum, 0, 1 - dot / sqrt(sq * got_sq), sqrt(sq_diff / sq)};
        int at = view->layer * r->n_heads + h;
        r->worst[at] = head_error_worst(r->worst[at], e);
        r->sparsity[at] += ledger_sparsity(&ledger[h]);
        r->qk_sparsity[at] += ledger_qk_sparsity(&ledger[h]);
    }
    free(map.bits);
    free(sparse);
    free(lambda);
    free(ledger);
    free(o);
    return OK;
}

static void rerun_samples(
    const struct bench *b, const struct sparse_policy *p, bool check, struct rerun *out)
{
    int n = p->n_layers * p->n_heads;
    *out = (struct rerun){p, b->par, p->n_layers, p->n_heads,
        calloc((size_t)n, sizeof(struct head_error)), calloc((size_t)n, sizeof(double)),
        calloc((size_t)n, sizeof(double))};
    for (int s = 0; s < b->n_samples; s++) {
        if (b->samples[s].check != check) continue;
        struct session *session;
        CHECK(session_open(
            &session, &b->w, b->par, b->samples[s].n, (b->samples[s].n + 127) / 128 * 128, NULL));
        CHECK(session_forward(session,
            &(struct forward_args){.tokens = b->samples[s].ids,
                .n = b->samples[s].n,
                .hook = rerun_layer,
                .hook_ctx = out}));
        session_close(&session);
    }
}

static void rerun_clear(struct rerun *r)
{
    free(r->worst);
    free(r->sparsity);
    free(r->qk_sparsity);
}

/* Every sparse head holds its bound on every sample, and what is stored is what the kernel does. */
static void check_stored(const struct bench *b, const struct tuned *t)
{
    struct sparse_policy p;
    struct rerun tune_runs, held_runs;
    int n_tune = 0;
    for (int s = 0; s < b->n_samples; s++) n_tune += !b->samples[s].check;
    CHECK(policy_init(&p, b->policy.method, t->n_layers, t->n_heads));
    struct tuned named = *t;
    snprintf(named.model_fingerprint, sizeof named.model_fingerprint, "%s", b->fingerprint);
    CHECK(tuned_apply(&named, "tuned", &b->w, b->fingerprint, &p));
    cr_expect(t->qk == b->policy.qk && t->pv == b->policy.pv);
    CHECK(policy_set_precision(&p, t->qk, t->pv));
    cr_expect(p.block.q == b->policy.block.q && p.block.k == b->policy.block.k &&
        p.smooth_k == b->policy.smooth_k);
    rerun_samples(b, &p, false, &tune_runs);
    rerun_samples(b, &p, true, &held_runs);
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        const struct tuned_head *h = &t->heads[i];
        bool on = b->policy.layer_on[i / t->n_heads];
        cr_expect_eq(h->in_range, on, "layer %d", i / t->n_heads);
        cr_expect_eq(p.layer_on[i / t->n_heads], on);
        cr_expect_eq(p.heads[i].is_sparse, h->params.is_sparse);
        if (!on) cr_expect(!h->params.is_sparse);
        if (!on || !h->params.is_sparse) {
            if (on) cr_expect(h->reason[0], "head %d is dense for no reason", i);
            continue;
        }
        struct head_error *x = &tune_runs.worst[i], *y = &held_runs.worst[i];
        cr_expect(fabs(h->tune.l1 - x->l1) < 1e-6 && fabs(h->tune.rmse - x->rmse) < 1e-6 &&
                fabs(h->tune.cosine - x->cosine) < 1e-6,
            "head %d: stored l1 %.9g, rmse %.9g, run again %.9g, %.9g", i, h->tune.l1, h->tune.rmse,
            x->l1, x->rmse);
        cr_expect(fabs(h->check.l1 - y->l1) < 1e-6, "head %d, check: stored %.9g, run again %.9g",
            i, h->check.l1, y->l1);
        cr_expect(fabs(h->sparsity - tune_runs.sparsity[i] / n_tune) < 1e-12, "head %d", i);
        cr_expect(fabs(h->qk_sparsity - tune_runs.qk_sparsity[i] / n_tune) < 1e-12, "head %d", i);
        cr_expect(h->sparsity >= .1, "head %d: %g", i, h->sparsity);
        struct head_error worst = head_error_worst(h->tune, h->check);
        cr_expect(head_error_by(&worst, t->rule) <= t->pv_l1, "head %d: %g over %g", i,
            head_error_by(&worst, t->rule), t->pv_l1);
    }
    rerun_clear(&tune_runs);
    rerun_clear(&held_runs);
    policy_clear(&p);
}

Test(tuner, stored_thresholds_hold_and_threads_change_nothing, .timeout = 300)
{
    static const struct tune_bounds bounds[] = {{.06, .07}, {.2, .3}};
    struct tuned out[2][2];
    for (int threads = 1; threads <= 2; threads++) {
        struct bench b;
        open_demo(&b, threads, "1-3+6", 3);
        struct tune_args a = args_of(&b, bounds, 2);
        struct tune_times times;
        CHECK(tune(&a, out[threads - 1], &times));
        cr_expect_eq(times.n_curves, 4 * 4 * 2);
        cr_expect_eq(times.n_reused, 0);
        for (int i = 0; i < 2; i++) {
            const struct tuned *t = &out[threads - 1][i];
            cr_expect(t->l1 == bounds[i].l1 && t->pv_l1 == bounds[i].pv_l1 && t->num_samples == 2 &&
                t->num_check == 1);
            cr_expect_str_eq(t->layers, "1-3+6");
            cr_expect_str_eq(t->method, "sparge");
            if (threads == 1) check_stored(&b, t);
        }
        close_bench(&b);
    }
    for (int i = 0; i < 2; i++) expect_same(&out[0][i], &out[1][i], "one and two threads");
    cr_expect(count_sparse(&out[0][1]) >= 4, "%d heads are sparse under the loose bound",
        count_sparse(&out[0][1]));
    cr_expect(count_sparse(&out[0][1]) >= count_sparse(&out[0][0]));
    for (int i = 0; i < 4; i++) tuned_clear(&out[i / 2][i % 2]);
}

static int last_done, last_total;

static void note_progress(void *ctx, int done, int total)
{
    (void)ctx;
    cr_expect_geq(done, last_done);
    last_done = done;
    last_total = total;
}

/* Three devices, a layer range that does not divide by three, and more devices than layers. */
/* Every head gets the part that leaves out most under the bound, runs by it in verification, and
 * keeps it in the file. */
/* What is stored is what the kernel of eight bits does, against the dense output of full products.
 */
Test(tuner, thresholds_of_eight_bits_hold_in_eight_bits, .timeout = 300)
{
    struct bench b;
    const struct tune_bounds bounds = {.06, .07};
    struct tuned full, eight;
    struct tune_times times;
    char hash[2][33];
    open_demo(&b, 2, "2-3", 2);
    struct tune_args a = args_of(&b, &bounds, 1);
    CHECK(tune(&a, &full, &times));
    CHECK(policy_set_precision(&b.policy, PRECISION_FP8, PRECISION_FP8));
    CHECK(tune(&a, &eight, &times));
    check_stored(&b, &eight);
    cr_expect(count_sparse(&eight) > 0);
    cr_expect_str_neq(tuned_hash(&full, hash[0]), tuned_hash(&eight, hash[1]));
    struct str text = {0};
    struct tuned back;
    tuned_print(&eight, &text, -1);
    cr_expect(strstr(str_get(&text), "\"qk\":\"fp8\",\"pv\":\"fp8\""));
    CHECK(tuned_parse(&back, str_get(&text), "back"));
    cr_expect(back.qk == PRECISION_FP8 && back.pv == PRECISION_FP8 && back.verified);
    cr_expect_str_eq(tuned_hash(&back, hash[0]), hash[1]);
    tuned_clear(&back);
    char *at = strstr(str_get(&text), "\"pv\":\"fp8\"");
    memcpy(at, "\"pv\":\"int\"", 10);
    cr_expect_eq(tuned_parse(&back, str_get(&text), "file"), ERR_FORMAT);
    cr_expect(
        strstr(status_message(), "field pv") && strstr(status_message(), "expected full or fp8"),
        "%s", status_message());
    str_reset(&text);
    tuned_print(&full, &text, -1);
    cr_expect(!strstr(str_get(&text), "\"qk\""), "files of full products stay as they were");
    str_clear(&text);
    tuned_clear(&full);
    tuned_clear(&eight);
    close_bench(&b);
}

Test(tuner, a_mixture_gives_every_head_its_best, .timeout = 300)
{
    static const struct tune_bounds bounds = {.1, .12};
    static const char *const methods[] = {"sparge", "bound", "sparge/bound"};
    struct tuned out[3], back;
    struct tune_times times;
    int n_of[2] = {0}, n_cells = 0;
    for (int m = 0; m < 3; m++) {
        struct bench b;
        open_demo(&b, 2, "0-4", 3);
        b.policy.method = mask_method_find(methods[m]);
        struct tune_args a = args_of(&b, &bounds, 1);
        CHECK(tune(&a, &out[m], &times));
        cr_expect_str_eq(out[m].method, methods[m]);
        check_stored(&b, &out[m]);
        n_cells = out[m].n_layers * out[m].n_heads;
        close_bench(&b);
    }
    for (int i = 0; i < n_cells; i++) {
        const struct tuned_head *x[3] = {&out[0].heads[i], &out[1].heads[i], &out[2].heads[i]};
        if (!x[2]->params.is_sparse) continue;
        n_of[x[2]->params.part]++;
        cr_expect_eq(memcmp(&x[2]->params, &x[x[2]->params.part]->params, 3 * sizeof(float)), 0,
            "head %d is not its part's choice", i);
        if (!x[0]->back_offs && !x[1]->back_offs)
            cr_expect_geq(
                x[2]->qk_sparsity, fmax(x[0]->qk_sparsity, x[1]->qk_sparsity) - 1e-9, "head %d", i);
    }
    cr_expect(n_of[0] && n_of[1], "%d heads by sparge, %d by the bound: nothing was mixed", n_of[0],
        n_of[1]);
    char *dir = dir_make(), *path = path_join(dir, "tuned.json"), hash[2][33];
    CHECK(tuned_write(&out[2], path));
    CHECK(tuned_read(&back, path));
    for (int i = 0; i < n_cells; i++)
        cr_expect_eq(back.heads[i].params.part, out[2].heads[i].params.part, "head %d", i);
    cr_expect_str_eq(tuned_hash(&out[2], hash[0]), tuned_hash(&back, hash[1]));
    for (int i = 0; i < n_cells; i++) back.heads[i].params.part ^= 1;
    cr_expect_str_neq(tuned_hash(&back, hash[1]), hash[0], "the part is in the name of a choice");
    tuned_clear(&back);
    dir_remove(dir);
    free(path);
    for (int m = 0; m < 3; m++) tuned_clear(&out[m]);
}

Test(tuner, devices_change_nothing, .timeout = 300)
{
    static const struct tune_bounds bounds[] = {{.06, .07}, {.2, .3}};
    static const int n_devices[] = {3, 5};
    struct bench b;
    struct tuned alone[2], spread[2];
    struct tune_times times;
    open_demo(&b, 1, "1-3+6", 3);
    struct tune_args a = args_of(&b, bounds, 2);
    CHECK(tune(&a, alone, &times));
    a.progress = note_progress;
    for (int k = 0; k < 2; k++) {
        const struct weights *weights[5];
        for (int i = 0; i < 5; i++) weights[i] = a.weights;
        last_done = 0;
        CHECK(tune_spread(&a, weights, n_devices[k], 1, spread, &times));
        cr_expect_eq(times.n_curves, 4 * 4 * 2);
        cr_expect(last_done == 16 && last_total == 16, "%d of %d heads", last_done, last_total);
        for (int i = 0; i < 2; i++) {
            expect_same(&alone[i], &spread[i], "one device and several");
            cr_expect_str_eq(spread[i].layers, "1-3+6");
            tuned_clear(&spread[i]);
        }
    }
    static const struct tune_bounds wrong[] = {{.2, .1}};
    const struct weights *weights[2] = {a.weights, a.weights};
    a.bounds = wrong;
    a.n_bounds = 1;
    cr_expect_eq(tune_spread(&a, weights, 2, 1, spread, &times), ERR_ARG);
    cr_expect(strstr(status_message(), "pv_l1"), "%s", status_message());
    tuned_clear(&alone[0]);
    tuned_clear(&alone[1]);
    close_bench(&b);
}

/* GQA, several bounds at once equal one at a time, and other rules and blocks. */
Test(tuner, tiny_model_rules_and_shapes, .timeout = 300)
{
    static const struct tune_bounds bounds[] = {{.5, .7}, {.1, .2}};
    static const struct block_shape shapes[] = {{64, 64}, {64, 128}, {128, 128}, {128, 64}};
    char *dir = path_join(GOLDEN_MODELS, "gqa_d64_tied");
    for (int rule = 0; rule < 4; rule++) {
        struct bench b;
        struct tuned both[2], one;
        struct tune_times times;
        open_tiny(&b, dir, 1, 3, 333);
        b.policy.block = shapes[rule];
        b.policy.smooth_k = (enum smooth_k)(rule % 3);
        struct tune_args a = args_of(&b, bounds, 2);
        a.rule = (enum tune_rule)rule;
        CHECK(tune(&a, both, &times));
        a.bounds = bounds + 1;
        a.n_bounds = 1;
        CHECK(tune(&a, &one, &times));
        expect_same(&both[1], &one, tune_rule_name(a.rule));
        cr_expect(both[0].rule == a.rule && both[0].block.k == shapes[rule].k);
        check_stored(&b, &both[0]);
        check_stored(&b, &one);
        tuned_clear(&both[0]);
        tuned_clear(&both[1]);
        tuned_clear(&one);
        close_bench(&b);
    }
    free(dir);
}

/* tune_choose() against the obvious search. */
Test(tuner, choice_is_the_sparsest_that_holds)
{
    struct curve *c[2] = {calloc(1, sizeof **c), calloc(1, sizeof **c)};
    const struct curve *view[2] = {c[0], c[1]};
    struct rng r;
    rng_init(&r, 3);
    for (int s = 0; s < 2; s++) {
        c[s]->n_possible = 200 + 50 * (uint32_t)s;
        for (int t = 0; t < N_THETAS; t++)
            for (int u = 0; u < N_TAUS; u++) {
                float f = (float)rng_unit(&r);
                c[s]->points[t][u] = (struct curve_point){
                    {f, f * f, 1 - f, f / 2}, rng_below(&r, c[s]->n_possible + 1)};
            }
    }
    for (int rule = 0; rule < 4; rule++)
        for (int i = 0; i < 20; i++) {
            double bound = i == 0 ? -1 : .05 * i, best = -1, sparsity, found_sparsity = 0;
            int theta = -1, tau = -1;
            struct head_error worst;
            for (int t = 0; t < N_THETAS; t++)
                for (int u = 0; u < N_TAUS; u++) {
                    bool holds = true;
                    double sum = 0;
                    for (int s = 0; s < 2; s++) {
                        const struct output_error *e = &c[s]->points[t][u].error;
                        double errors[] = {
                            (double)e->l1, (double)e->tail, (double)e->cosine, (double)e->rmse};
                        holds &= errors[rule] <= bound;
                        sum += .5 * (1 - (double)c[s]->points[t][u].n_kept / c[s]->n_possible);
                    }
                    if (holds && sum > best) best = sum;
                }
            bool found =
                tune_choose(view, 2, (enum tune_rule)rule, bound, &theta, &tau, &sparsity, &worst);
            cr_expect_eq(found, best >= 0);
            if (!found) continue;
            for (int s = 0; s < 2; s++)
                found_sparsity +=
                    .5 * (1 - (double)c[s]->points[theta][tau].n_kept / c[s]->n_possible);
            cr_expect(fabs(sparsity - best) < 1e-12 && fabs(found_sparsity - best) < 1e-12);
            cr_expect(head_error_by(&worst, (enum tune_rule)rule) <= bound);
            cr_expect_eq(worst.l1,
                fmax((double)c[0]->points[theta][tau].error.l1,
                    (double)c[1]->points[theta][tau].error.l1));
        }
    /* a point that is not a number holds no bound */
    for (int t = 0; t < N_THETAS; t++)
        for (int u = 0; u < N_TAUS; u++) c[1]->points[t][u].error.l1 = NAN;
    int theta, tau;
    double sparsity;
    struct head_error worst;
    cr_expect(!tune_choose(view, 2, RULE_L1, .9, &theta, &tau, &sparsity, &worst),
        "a NaN error passed for a good one");
    free(c[0]);
    free(c[1]);
}

Test(tuner, refuses_what_makes_no_sense)
{
    struct bench b;
    char *dir = path_join(GOLDEN_MODELS, "gqa_d64_tied");
    open_tiny(&b, dir, 1, 2, 256);
    static const struct tune_bounds wrong[] = {{.06, .06}, {.07, .06}, {0, .07}, {-.1, .07},
        {.06, 1}, {1, 1.5}, {NAN, .07}, {.06, NAN}, {.06, INFINITY}};
    struct tuned out;
    struct tune_times times;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct tune_args a = args_of(&b, &wrong[i], 1);
        cr_expect_eq(
            tune(&a, &out, &times), ERR_ARG, "l1 %g, pv_l1 %g", wrong[i].l1, wrong[i].pv_l1);
        cr_expect(strstr(status_message(), "pv_l1"), "%s", status_message());
        cr_expect_null(out.heads);
    }
    static const struct tune_bounds good = {.06, .07};
    struct tune_args a = args_of(&b, &good, 1);
    b.samples[1].n = 255;
    cr_expect_eq(tune(&a, &out, &times), ERR_ARG);
    cr_expect(strstr(status_message(), "second") && strstr(status_message(), "255") &&
            strstr(status_message(), "256"),
        "%s", status_message());
    b.samples[1].n = 256;
    b.samples[0].check = true;
    cr_expect_eq(tune(&a, &out, &times), ERR_ARG);
    cr_expect(strstr(status_message(), "samples"), "%s", status_message());
    b.samples[1].check = false;
    cr_expect_eq(tune(&a, &out, &times), ERR_ARG);
    cr_expect(strstr(status_message(), "must stand behind"), "%s", status_message());
    b.samples[0].check = false;
    b.ids[300] = 96;
    cr_expect_eq(tune(&a, &out, &times), ERR_ARG);
    cr_expect_null(out.heads);
    free(dir);
    close_bench(&b);
}

/* A store in memory. */
struct memory {
    struct curve *curves; /* [n_layers, n_heads, n_samples] */
    bool *have;
    int n_heads, n_samples, n_put, n_got, layers_done;
};

static size_t place(const struct memory *m, int layer, int head, int sample)
{
    return ((size_t)layer * (size_t)m->n_heads + (size_t)head) * (size_t)m->n_samples +
        (size_t)sample;
}

static enum status memory_get(
    void *ctx, int layer, int head, int part, int sample, struct curve *out, bool *found)
{
    struct memory *m = ctx;
    cr_assert_eq(part, 0);
    size_t at = place(m, layer, head, sample);
    *found = m->have[at];
    if (*found) *out = m->curves[at];
    m->n_got += *found;
    return OK;
}

static enum status memory_put(
    void *ctx, int layer, int head, int part, int sample, const struct curve *c)
{
    struct memory *m = ctx;
    cr_assert_eq(part, 0);
    size_t at = place(m, layer, head, sample);
    cr_expect(!m->have[at], "layer %d head %d sample %d put twice", layer, head, sample);
    m->curves[at] = *c;
    m->have[at] = true;
    m->n_put++;
    return OK;
}

static enum status memory_layer_done(void *ctx, int layer)
{
    struct memory *m = ctx;
    (void)layer;
    m->layers_done++;
    return OK;
}

static struct memory memory_new(int n_layers, int n_heads, int n_samples)
{
    size_t n = (size_t)(n_layers * n_heads * n_samples);
    return (struct memory){.curves = malloc(n * sizeof(struct curve)),
        .have = calloc(n, sizeof(bool)),
        .n_heads = n_heads,
        .n_samples = n_samples};
}

/* Curves of real queries, keys and values under GQA, against whole layers run with one pair of
 * thresholds for all. */
Test(tuner, curves_of_a_real_model_equal_the_kernel, .timeout = 300)
{
    static const struct tune_bounds bounds = {.2, .3};
    static const struct block_shape shapes[] = {{128, 64}, {64, 128}};
    for (int shape = 0; shape < 2; shape++) {
        struct bench b;
        struct tune_times times;
        struct tuned t;
        open_demo(&b, 1, "0+5", 1);
        b.policy.block = shapes[shape];
        b.policy.smooth_k = shape ? SMOOTH_K_GLOBAL : SMOOTH_K_RUNNING;
        int heads = b.w.config.n_heads, n_left_out = 0;
        struct memory m = memory_new(b.w.config.n_layers, heads, 1);
        struct tune_args a = args_of(&b, &bounds, 1);
        a.curves = (struct curve_store){&m, memory_get, memory_put, memory_layer_done};
        CHECK(tune(&a, &t, &times));
        cr_expect_eq(m.n_put, 2 * heads);
        tuned_clear(&t);
        struct rng r;
        rng_init(&r, 8);
        for (int i = 0; i < 8; i++) {
            int theta = (int)rng_below(&r, N_THETAS), tau = (int)rng_below(&r, 60);
            struct rerun runs;
            policy_set_thresholds(&b.policy, curve_theta(theta), curve_tau(tau), 50);
            rerun_samples(&b, &b.policy, false, &runs);
            for (int h = 0; h < 6 * heads; h++) {
                if (!b.policy.layer_on[h / heads]) continue;
                const struct curve *c = &m.curves[place(&m, h / heads, h % heads, 0)];
                const struct curve_point *p = &c->points[theta][tau];
                cr_expect(fabs((double)p->error.l1 - runs.worst[h].l1) < 1e-5,
                    "head %d at (%g, %g): l1 %.8g, kernel %.8g", h, (double)curve_theta(theta),
                    (double)curve_tau(tau), (double)p->error.l1, runs.worst[h].l1);
                cr_expect(fabs((double)p->error.cosine - runs.worst[h].cosine) < 1e-4 &&
                    fabs((double)p->error.rmse - runs.worst[h].rmse) < 1e-4);
                cr_expect(fabs(1 - (double)p->n_kept / c->n_possible - runs.qk_sparsity[h]) < 1e-12,
                    "head %d: %u of %u kept", h, p->n_kept, c->n_possible);
                n_left_out += p->n_kept < c->n_possible;
            }
            rerun_clear(&runs);
        }
        cr_expect(n_left_out > 8, "%d", n_left_out);
        free(m.curves);
        free(m.have);
        close_bench(&b);
    }
}

static int stop_layers; /* the number of finished layers at which stop() says yes */
static struct memory *watched;

static bool stop_when_done(void *ctx)
{
    (void)ctx;
    return watched->layers_done >= stop_layers;
}

static int calls_left;

static bool stop_after_calls(void *ctx)
{
    (void)ctx;
    return calls_left > 0 ? calls_left-- == 0 : true;
}

Test(tuner, a_stopped_run_goes_on_where_it_was, .timeout = 300)
{
    static const struct tune_bounds bounds = {.2, .3}, others = {.1, .15};
    struct bench b;
    struct tune_times times;
    struct tuned whole, resumed, out;
    open_demo(&b, 1, "0-2", 2);
    int heads = b.w.config.n_heads;
    struct tune_args a = args_of(&b, &bounds, 1);
    CHECK(tune(&a, &whole, &times));
    struct memory m = memory_new(b.w.config.n_layers, heads, 1);
    watched = &m;
    stop_layers = 2;
    a.curves = (struct curve_store){&m, memory_get, memory_put, memory_layer_done};
    a.stop = stop_when_done;
    cr_expect_eq(tune(&a, &out, &times), ERR_CANCELLED);
    cr_expect_null(out.heads);
    cr_expect_eq(m.n_put, 2 * heads, "%d curves kept", m.n_put);
    a.stop = NULL;
    CHECK(tune(&a, &resumed, &times));
    cr_expect_eq(times.n_reused, 2 * heads);
    cr_expect_eq(times.n_curves, heads);
    cr_expect_eq(m.n_put, 3 * heads);
    expect_same(&whole, &resumed, "interrupted");
    tuned_clear(&resumed);
    a.bounds = &others; /* other bounds make no curve */
    CHECK(tune(&a, &resumed, &times));
    cr_expect_eq(times.n_reused, 3 * heads);
    cr_expect_eq(times.n_curves, 0);
    tuned_clear(&resumed);
    tuned_clear(&whole);
    free(m.curves);
    free(m.have);
    close_bench(&b);
}

/* Within a layer too: curves that were finished before the stop are kept. */
Test(tuner, a_stop_within_a_layer_keeps_its_finished_curves, .timeout = 300)
{
    static const struct tune_bounds bounds = {.2, .3};
    struct bench b;
    struct tune_times times;
    struct tuned out;
    open_demo(&b, 1, "0", 3);
    struct memory m = memory_new(b.w.config.n_layers, b.w.config.n_heads, 2);
    struct tune_args a = args_of(&b, &bounds, 1);
    a.curves = (struct curve_store){&m, memory_get, memory_put, memory_layer_done};
    a.stop = stop_after_calls;
    int kept = 0;
    for (calls_left = 1;
         calls_left < 60 && kept == 0;) { /* until a stop falls between two curves of the layer */
        int calls = calls_left;
        cr_assert_eq(tune(&a, &out, &times), ERR_CANCELLED);
        kept = m.n_put;
        calls_left = calls + 1;
    }
    cr_expect(kept > 0 && kept < 2 * b.w.config.n_heads, "%d of %d curves were kept", kept,
        2 * b.w.config.n_heads);
    free(m.curves);
    free(m.have);
    close_bench(&b);
}

static enum status put_fails(
    void *ctx, int layer, int head, int part, int sample, const struct curve *c)
{
    (void)ctx;
    (void)layer;
    (void)part;
    (void)sample;
    (void)c;
    return head == 2 ? fail(ERR_DB, "disk full") : OK;
}

Test(tuner, a_store_that_fails_ends_the_run)
{
    static const struct tune_bounds bounds = {.2, .3};
    struct bench b;
    struct tune_times times;
    struct tuned out;
    char *dir = path_join(GOLDEN_MODELS, "gqa_d64_tied");
    open_tiny(&b, dir, 1, 1, 256);
    struct tune_args a = args_of(&b, &bounds, 1);
    a.curves.put = put_fails;
    cr_expect_eq(tune(&a, &out, &times), ERR_DB);
    cr_expect_str_eq(status_message(), "disk full");
    cr_expect_null(out.heads);
    free(dir);
    close_bench(&b);
}

Test(tuner, without_held_out_samples_nothing_is_claimed_of_them)
{
    static const struct tune_bounds bounds = {.5, .7};
    struct bench b;
    struct tune_times times;
    struct tuned out;
    char *dir = path_join(GOLDEN_MODELS, "gqa_d64_tied");
    open_tiny(&b, dir, 1, 1, 400);
    struct tune_args a = args_of(&b, &bounds, 1);
    CHECK(tune(&a, &out, &times));
    cr_expect_eq(out.num_held_out, 0);
    cr_assert(count_sparse(&out) > 0);
    for (int i = 0; i < out.n_layers * out.n_heads; i++)
        cr_expect(isnan(out.heads[i].held_out.l1) && isnan(out.heads[i].check.l1),
            "head %d: errors %g and %g of no sample", i, out.heads[i].held_out.l1,
            out.heads[i].check.l1);
    tuned_clear(&out);
    free(dir);
    close_bench(&b);
}

static void expect_same_error(const struct head_error *x, const struct head_error *y)
{
    double a[] = {x->l1, x->tail, x->cosine, x->rmse}, b[] = {y->l1, y->tail, y->cosine, y->rmse};
    for (int i = 0; i < 4; i++)
        cr_expect(isnan(a[i]) ? isnan(b[i]) : a[i] == b[i], "%.17g, read back %.17g", a[i], b[i]);
}

Test(tuner, files_read_back_equal_and_fit_their_model_only)
{
    static const struct tune_bounds bounds = {.2, .3};
    struct bench b;
    struct tune_times times;
    struct tuned t, back;
    open_demo(&b, 1, "2", 2);
    struct tune_args a = args_of(&b, &bounds, 1);
    CHECK(tune(&a, &t, &times));
    snprintf(t.model_fingerprint, sizeof t.model_fingerprint, "%s", b.fingerprint);
    snprintf(t.model_name, sizeof t.model_name, "demo \"\\ \xc3\xa9");
    snprintf(t.data_fingerprint, sizeof t.data_fingerprint, "%s", b.set.fingerprint);
    snprintf(t.data_name, sizeof t.data_name, "chronicle");
    t.heads[2 * t.n_heads].held_out = head_error_unknown;
    t.heads[2 * t.n_heads].params.tau = nextafterf(.7f, 1); /* no short decimal */
    char *dir = dir_make(), *path = path_join(dir, "tuned.json");
    CHECK(tuned_write(&t, path));
    CHECK(tuned_read(&back, path));
    cr_expect(!back.edited && back.verified == t.verified);
    { /* thresholds changed by hand are noticed, and so is a checksum taken away */
        cJSON *root, *head;
        struct tuned hand;
        for (int how = 0; how < 2; how++) {
            CHECK(json_read_file(&root, path));
            head = cJSON_GetArrayItem(cJSON_GetObjectItem(root, "heads"), 0);
            if (how == 0) cJSON_SetNumberValue(cJSON_GetObjectItem(head, "cdfthreshd"), .123);
            else cJSON_DeleteItemFromObject(root, "checksum");
            char *other = str_format("%s.edited", path);
            CHECK(json_write_file(other, root));
            CHECK(tuned_read(&hand, other));
            cr_expect(hand.edited && !hand.verified, "%d", how);
            tuned_clear(&hand);
            remove(other);
            free(other);
            cJSON_Delete(root);
        }
    }
    cr_expect_str_eq(back.model_fingerprint, t.model_fingerprint);
    cr_expect_str_eq(back.model_name, t.model_name);
    cr_expect_str_eq(back.data_fingerprint, t.data_fingerprint);
    cr_expect_str_eq(back.data_name, t.data_name);
    cr_expect_str_eq(back.method, t.method);
    cr_expect_str_eq(back.layers, "2");
    cr_expect(back.rule == t.rule && back.l1 == t.l1 && back.pv_l1 == t.pv_l1 &&
        back.block.q == t.block.q && back.block.k == t.block.k && back.smooth_k == t.smooth_k &&
        back.max_length == t.max_length && back.num_samples == t.num_samples &&
        back.num_held_out == t.num_held_out && back.num_check == t.num_check &&
        back.num_check == 1);
    for (int i = 0; i < t.n_layers * t.n_heads; i++) {
        const struct tuned_head *x = &t.heads[i], *y = &back.heads[i];
        cr_expect_eq(x->in_range, y->in_range);
        if (!x->in_range) continue;
        cr_expect(memcmp(&x->params, &y->params, 3 * sizeof(float)) == 0 &&
            x->params.is_sparse == y->params.is_sparse);
        cr_expect(x->back_offs == y->back_offs && x->sparsity == y->sparsity &&
            x->qk_sparsity == y->qk_sparsity);
        cr_expect_str_eq(x->reason, y->reason);
        expect_same_error(&x->tune, &y->tune);
        expect_same_error(&x->check, &y->check);
        expect_same_error(&x->held_out, &y->held_out);
    }
    char h1[33], h2[33];
    cr_expect_str_eq(tuned_hash(&t, h1), tuned_hash(&back, h2));

    struct sparse_policy p;
    CHECK(policy_init(&p, &mask_sparge, t.n_layers, t.n_heads));
    cr_expect_eq(
        tuned_apply(&back, path, &b.w, "xxh3:00000000000000000000000000000000", &p), ERR_ARG);
    cr_expect(strstr(status_message(), "model_fingerprint") && strstr(status_message(), path) &&
            strstr(status_message(), b.fingerprint),
        "%s", status_message());
    CHECK(tuned_apply(&back, path, &b.w, b.fingerprint, &p));
    char layers[LAYERS_TEXT_SIZE];
    cr_expect_str_eq(policy_layers_text(&p, layers), "2");
    policy_clear(&p);
    back.n_layers = 7;
    CHECK(policy_init(&p, &mask_sparge, t.n_layers, t.n_heads));
    cr_expect_eq(tuned_apply(&back, path, &b.w, b.fingerprint, &p), ERR_ARG);
    cr_expect(strstr(status_message(), "num_layers"), "%s", status_message());
    policy_clear(&p);
    tuned_clear(&back);
    tuned_clear(&t);
    free(path);
    dir_remove(dir);
    close_bench(&b);
}

/* Each edit makes the file wrong in one field, which the message names. */
Test(tuner, damaged_files_are_refused_by_field)
{
    static const struct {
        const char *what, *by, *field;
    } edits[] = {
        {"sparsegauge tuned thresholds", "something else", "kind"},
        {"\"schema_version\": 2", "\"schema_version\": 3", "schema_version"},
        {"\"num_layers\": 2", "\"num_layers\": 0", "num_layers"},
        {"\"num_layers\": 2", "\"num_layers\": 1", "layer"},
        {"\"num_heads\": 4", "\"num_heads\": \"4\"", "num_heads"},
        {"\"num_heads\": 4", "\"num_heads\": 2", "head"},
        {"\"rule\": \"l1\"", "\"rule\": \"l2\"", "rule"},
        {"\"block_q\": 128", "\"block_q\": 96", "block_q"},
        {"\"block_k\": 64", "\"block_k\": 65", "block_k"},
        {"\"smooth_k\": \"running\"", "\"smooth_k\": \"walking\"", "smooth_k"},
        {"\"method\": \"sparge\"", "\"method\": 7", "method"},
        {"\"is_sparse\": true", "\"is_sparse\": 1", "is_sparse"},
        {"\"simthreshd1\": ", "\"simthreshd1\": 1", "simthreshd1"},
        {"\"cdfthreshd\": ", "\"cdfthreshd\": 7", "cdfthreshd"},
        {"\"pvthreshd\": ", "\"pvthreshd\": -", "pvthreshd"},
        {"\"head\": 0", "\"head\": 1", "twice"},
        {"\"heads\": [", "\"heads\": [3, ", "heads"},
        {"\"heads\": [", "\"other\": [", "heads"},
        {"\"back_offs\": ", "\"back_offs\": -1", "back_offs"},
    };
    struct tuned t, back;
    CHECK(tuned_init(&t, 2, 4));
    snprintf(t.method, sizeof t.method, "sparge");
    t.l1 = .06;
    t.pv_l1 = .07;
    t.block = (struct block_shape){128, 64};
    t.max_length = t.num_samples = 1;
    for (int i = 0; i < 8; i++) {
        t.heads[i].in_range = true;
        /* an edit puts digits in front */
        t.heads[i].params = (struct head_params){5, 5, 5, true, 0, 0, 0};
        t.heads[i].params.theta = .5f;
        t.heads[i].params.tau = .5f;
    }
    char *dir = dir_make(), *path = path_join(dir, "tuned.json");
    CHECK(tuned_write(&t, path));
    CHECK(tuned_read(&back, path));
    tuned_clear(&back);
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        CHECK(tuned_write(&t, path));
        file_edit(dir, "tuned.json", edits[i].what, edits[i].by);
        enum status st = tuned_read(&back, path);
        cr_expect_eq(st, ERR_FORMAT, "%s -> %s: %s", edits[i].what, edits[i].by, status_name(st));
        if (st == OK) {
            tuned_clear(&back);
            continue;
        }
        cr_expect(strstr(status_message(), path) && strstr(status_message(), edits[i].field),
            "%s: %s", edits[i].by, status_message());
        cr_expect_null(back.heads);
    }
    t.heads[6].in_range = false; /* a head lost from the file */
    CHECK(tuned_write(&t, path));
    cr_expect_eq(tuned_read(&back, path), ERR_FORMAT);
    cr_expect(strstr(status_message(), "found 3 of layer 1, the first missing is head 2"), "%s",
        status_message());
    for (int i = 4; i < 8; i++) t.heads[i].in_range = false; /* a layer that was not tuned, */
    strcpy(t.layers, "0");
    CHECK(tuned_write(&t, path));
    CHECK(tuned_read(&back, path));
    tuned_clear(&back);
    strcpy(t.layers, "all"); /* and one that was */
    CHECK(tuned_write(&t, path));
    cr_expect_eq(tuned_read(&back, path), ERR_FORMAT);
    cr_expect(strstr(status_message(), "found 0 of layer 1, the first missing is head 0"), "%s",
        status_message());
    for (int i = 4; i < 8; i++) t.heads[i].in_range = true;
    struct str text = {0};
    tuned_print(&t, &text, -1);
    for (size_t n = 0; n < text.len; n += 61) { /* cut short anywhere */
        file_put(dir, "tuned.json", text.data, n);
        cr_expect_eq(tuned_read(&back, path), ERR_FORMAT, "%zu bytes", n);
    }
    str_clear(&text);
    cr_expect_eq(tuned_read(&back, "/nowhere/tuned.json"), ERR_IO);
    tuned_clear(&t);
    free(path);
    dir_remove(dir);
}

/* Rows [r0, r1) of a bf16 matrix in a copy of a golden model. */
static void write_rows(const char *dir, const char *tensor, int r0, int r1, int cols, uint16_t bits)
{
    struct weights w;
    CHECK(weights_open(&w, dir));
    struct str file = file_get(dir, "model.safetensors");
    for (size_t i = 0; i < w.n_entries; i++) {
        if (strcmp(w.entries[i].name, tensor) != 0) continue;
        /* found by content: the mapped bytes stand once in the file */
        const char *data = (const char *)w.layers[1].v.weight;
        char *at = memmem(file.data, file.len, data, (size_t)(w.layers[1].v.m * cols * 2));
        cr_assert_not_null(at);
        for (int x = r0 * cols; x < r1 * cols; x++) memcpy(at + 2 * x, &bits, 2);
    }
    weights_close(&w);
    file_put(dir, "model.safetensors", file.data, file.len);
    str_clear(&file);
}

Test(tuner, broken_values_name_layer_head_and_sample)
{
    static const struct tune_bounds bounds = {.2, .3};
    for (int zero = 0; zero < 2; zero++) {
        struct bench b;
        struct tune_times times;
        struct tuned out;
        char *dir =
            /* 4 query heads share 2 kv heads: heads 2 and 3 read the second */
            golden_copy("gqa_d64_tied");
        write_rows(dir, "model.layers.1.self_attn.v_proj.weight", 64, 128, 32, zero ? 0 : 0x7fc0);
        open_tiny(&b, dir, 1, 2, 256);
        struct tune_args a = args_of(&b, &bounds, 1);
        enum status st = tune(&a, &out, &times);
        cr_expect_eq(st, ERR_NUMERIC, "%s", status_name(st));
        const char *m = status_message();
        cr_expect(strstr(m, "layer 1") && strstr(m, zero ? "head 2" : "values of kv head 1") &&
                strstr(m, "first") && strstr(m, zero ? "zero" : "NaN"),
            "%s", m);
        cr_expect_null(out.heads);
        close_bench(&b);
        dir_remove(dir);
    }
}

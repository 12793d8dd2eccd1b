/* The search for bounds per layer or head: what it takes holds when it is run again from outside,
 * threads change nothing, and a target that cannot be held ends dense. */
#include "engine/engine.h"
#include "engine/tuner/optimise.h"
#include "suites/suite.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())

enum {
    N_RUNGS = 4,
    LENGTH = 288,
    N_TUNE = 2,
    N_CHECK = 2,
    N_HELD_OUT = 2,
    N_SAMPLES = N_TUNE + N_CHECK + N_HELD_OUT
};
static const struct tune_bounds bounds[N_RUNGS] = {{.03, .04}, {.06, .07}, {.1, .11}, {.16, .17}};

struct bench {
    struct model model;
    struct par *par;
    struct sparse_policy policy;
    struct sample_set set;
    struct tune_sample samples[N_SAMPLES];
    struct tuned rungs[N_RUNGS];
};

static void bench_open(struct bench *b, int threads)
{
    *b = (struct bench){0};
    CHECK(par_open(&b->par, threads));
    CHECK(model_open(&b->model, SG_SOURCE_DIR "/suites/demo/model", b->par));
    const struct llama_config *c = &b->model.weights.config;
    CHECK(policy_init(&b->policy, &mask_sparge, c->n_layers, c->n_heads));
    CHECK(policy_set_layers(&b->policy, "2-4"));
    struct suite_options o = {.tokenizer = b->model.tokenizer,
        .argument = "",
        .max_length = LENGTH,
        .num_samples = N_SAMPLES,
        .min_length = 256,
        .tuning = true};
    CHECK(suite_load("chronicle", &o, &b->set));
    for (int i = 0; i < N_SAMPLES; i++)
        b->samples[i] = (struct tune_sample){
            b->set.samples[i].ids, b->set.samples[i].n, b->set.samples[i].name, false};
    struct tune_times times;
    CHECK(tune(&(struct tune_args){.weights = &b->model.weights,
                   .par = b->par,
                   .policy = &b->policy,
                   .rule = RULE_L1,
                   .samples = b->samples,
                   .n_samples = N_TUNE,
                   .bounds = bounds,
                   .n_bounds = N_RUNGS,
                   .min_sparsity = .05},
        b->rungs, &times));
}

static void bench_close(struct bench *b)
{
    for (int i = 0; i < N_RUNGS; i++) tuned_clear(&b->rungs[i]);
    sample_set_clear(&b->set);
    policy_clear(&b->policy);
    model_close(&b->model);
    par_close(&b->par);
}

static struct optimise_args args_of(const struct bench *b, double max_kl)
{
    return (struct optimise_args){.weights = &b->model.weights,
        .par = b->par,
        .policy = &b->policy,
        .rungs = b->rungs,
        .n_rungs = N_RUNGS,
        .n_probes = 3,
        .samples = b->samples,
        .n_search = N_TUNE,
        .n_check = N_CHECK,
        .n_held_out = N_HELD_OUT,
        .target = {{INFINITY, max_kl, INFINITY}}};
}

/* Mean KL and sparsity of the held-out samples under the thresholds of a file, by a session of our
 * own. */
static void run_again(const struct bench *b, const struct tuned *t, double *kl, double *sparsity)
{
    const struct weights *w = &b->model.weights;
    struct sparse_policy p;
    struct session *s;
    struct head_ledger total = {0}, ledger[64 * 32] = {0};
    double sum = 0, n = 0;
    CHECK(policy_copy(&p, &b->policy));
    CHECK(tuned_apply(t, "test", w, b->model.fingerprint, &p));
    CHECK(session_open(&s, w, b->par, LENGTH, 0, NULL));
    void *ws = aligned_alloc(64, compare_workspace(&w->head, par_threads(b->par)));
    size_t width = (size_t)w->config.hidden_size;
    float *dense = malloc(sizeof(float) * LENGTH * width),
          *sparse = malloc(sizeof(float) * LENGTH * width);
    struct token_metrics tokens[LENGTH];
    int32_t next[LENGTH];
    for (int i = N_TUNE + N_CHECK; i < N_SAMPLES; i++) {
        const struct tune_sample *x = &b->samples[i];
        struct tensor_sums sums = {0};
        session_reset(s);
        CHECK(session_forward(
            s, &(struct forward_args){.tokens = x->ids, .n = x->n, .hidden = dense}));
        session_reset(s);
        CHECK(session_forward(s,
            &(struct forward_args){
                .tokens = x->ids, .n = x->n, .policy = &p, .ledger = ledger, .hidden = sparse}));
        for (int k = 0; k < x->n; k++) next[k] = -1;
        CHECK(compare_logits(&w->head, x->n, dense, sparse, next, tokens, &sums, ws, b->par));
        for (int k = 0; k < x->n; k++) sum += (double)tokens[k].kl;
        n += x->n;
    }
    for (int i = 0; i < p.n_layers * p.n_heads; i++) head_ledger_add(&total, &ledger[i]);
    *kl = sum / n;
    *sparsity = ledger_sparsity(&total);
    free(dense);
    free(sparse);
    free(ws);
    session_close(&s);
    policy_clear(&p);
}

static void check_taken(bool by_head, bool by_stream)
{
    struct bench b;
    struct optimise_result r;
    struct tuned t, back;
    bench_open(&b, 2);
    struct optimise_args a = args_of(&b, .02);
    a.by_head = by_head;
    a.by_stream = by_stream;
    CHECK(optimise(&a, &r));
    int each = by_head ? 1 : b.rungs[0].n_heads, n_heads = b.rungs[0].n_layers * b.rungs[0].n_heads,
        n_mixed = 0;
    cr_assert(r.heads_each == each && r.n_cells == n_heads / each);
    cr_assert(r.chosen >= 0, "nothing holds KL .02");
    const struct optimise_point *p = &r.points[r.chosen];
    cr_assert(r.taken >= 0 && r.points[r.taken].on == ON_CHECK && r.points[r.taken].holds);
    int n_looks = 0;
    for (int i = 0; i < r.n_points; i++) {
        const struct optimise_point *x = &r.points[i];
        n_looks += x->on == ON_HELD_OUT;
        cr_expect(x->on != ON_CHECK || !x->holds || x->sparsity <= r.points[r.taken].sparsity,
            "its own table has %.4f where %.4f was taken", x->sparsity, r.points[r.taken].sparsity);
        cr_expect(x->lo.kl <= x->damage.kl && x->damage.kl <= x->hi.kl && x->lo.kl < x->hi.kl,
            "point %d has no interval", i);
    }
    cr_expect(n_looks == 1 && p->on == ON_HELD_OUT && p->step == r.points[r.taken].step &&
            p->rung == r.points[r.taken].rung,
        "%d looks at the held-out samples", n_looks);
    for (int i = 0; i < r.n_points; i++)
        cr_expect_eq(
            r.points[i].holds, damage_used(&r.points[i].damage, &a.target) <= 1, "point %d", i);
    CHECK(optimise_apply(&r, b.rungs, "KL <= 0.02", &t));
    snprintf(t.model_fingerprint, sizeof t.model_fingerprint, "%s", b.model.fingerprint);
    double kl, sparsity;
    run_again(&b, &t, &kl, &sparsity);
    cr_expect(fabs(kl - p->damage.kl) < 1e-6 && sparsity == p->sparsity,
        "KL %.8f and %.8f, sparsity %.6f and %.6f", kl, p->damage.kl, sparsity, p->sparsity);
    char *dir = dir_make(), *path = path_join(dir, "optimised.json");
    CHECK(tuned_write(&t, path));
    CHECK(tuned_read(&back, path));
    cr_expect_str_eq(back.goal, "KL <= 0.02");
    cr_expect(back.verified && (back.costs != NULL) == !by_stream);
    int n_bounds_seen = 0;
    for (int i = 0; i < t.n_layers * t.n_heads; i++) {
        cr_expect(back.heads[i].pv_l1 == t.heads[i].pv_l1 && back.heads[i].l1 == t.heads[i].l1,
            "head %d", i);
        n_bounds_seen += back.heads[i].pv_l1 > 0;
    }
    cr_expect(n_bounds_seen > 0);
    for (int i = 0; i < n_heads; i++) { /* each head as its own cell says */
        int rung = r.rung[i / each];
        if (!t.heads[i].in_range) continue;
        cr_expect(rung < 0 ? !t.heads[i].params.is_sparse
                           : memcmp(&t.heads[i].params, &b.rungs[rung].heads[i].params,
                                 sizeof t.heads[i].params) == 0,
            "head %d", i);
        n_mixed += i % t.n_heads && rung != r.rung[(i - 1) / each];
    }
    cr_expect(by_head == (n_mixed > 0),
        "%d heads have another bound than their neighbour in the layer", n_mixed);
    for (int l = 2; l < 5 && !by_stream; l++)
        cr_expect(fabs(back.costs[l].kl - t.costs[l].kl) < 1e-9 &&
            back.costs[l].bound == bounds[N_RUNGS / 2].l1);
    tuned_clear(&back);
    tuned_clear(&t);
    dir_remove(dir);
    free(path);
    optimise_clear(&r);
    bench_close(&b);
}

Test(optimise, what_is_taken_holds_when_run_again, .timeout = 300) { check_taken(false, false); }
Test(optimise, by_head_too, .timeout = 300) { check_taken(true, false); }

Test(optimise, by_stream_too, .timeout = 300)
{
    check_taken(true, true);
    check_taken(false, true);
}

Test(optimise, threads_change_nothing, .timeout = 300)
{
    struct optimise_result r[2];
    for (int i = 0; i < 2; i++) {
        struct bench b;
        bench_open(&b, 1 + i);
        struct optimise_args a = args_of(&b, .01);
        a.n_probes = 1;
        CHECK(optimise(&a, &r[i]));
        bench_close(&b);
    }
    cr_assert_eq(r[0].n_points, r[1].n_points);
    for (int i = 0; i < r[0].n_points; i++)
        cr_expect_eq(r[0].points[i].sparsity, r[1].points[i].sparsity, "point %d", i);
    for (int l = 0; l < r[0].n_layers; l++) cr_expect_eq(r[0].rung[l], r[1].rung[l], "layer %d", l);
    optimise_clear(&r[0]);
    optimise_clear(&r[1]);
}

Test(optimise, an_impossible_target_ends_dense, .timeout = 300)
{
    struct bench b;
    struct optimise_result r;
    struct tuned t;
    bench_open(&b, 2);
    struct optimise_args a = args_of(&b, 1e-12);
    a.n_probes = 1;
    CHECK(optimise(&a, &r));
    cr_expect_eq(r.chosen, -1);
    CHECK(optimise_apply(&r, b.rungs, "", &t));
    for (int i = 2 * t.n_heads; i < 5 * t.n_heads; i++)
        cr_expect(!t.heads[i].params.is_sparse && t.heads[i].reason[0]);
    tuned_clear(&t);
    optimise_clear(&r);
    bench_close(&b);
}

Test(optimise, refuses_what_makes_no_sense, .timeout = 300)
{
    struct bench b;
    struct optimise_result r;
    bench_open(&b, 2);
    struct optimise_args a = args_of(&b, INFINITY);
    cr_expect_eq(optimise(&a, &r), ERR_ARG);
    cr_expect(strstr(status_message(), "no target"), "%s", status_message());
    a = args_of(&b, NAN);
    cr_expect_eq(optimise(&a, &r), ERR_ARG);
    a = args_of(&b, .01);
    a.n_probes = N_RUNGS + 1;
    cr_expect_eq(optimise(&a, &r), ERR_ARG);
    a = args_of(&b, .01);
    a.n_held_out = 0;
    cr_expect_eq(optimise(&a, &r), ERR_ARG);
    a = args_of(&b, .01);
    struct tuned swapped[2] = {b.rungs[1], b.rungs[0]};
    a.rungs = swapped;
    a.n_rungs = a.n_probes = 2;
    cr_expect_eq(optimise(&a, &r), ERR_ARG);
    cr_expect(strstr(status_message(), "0.06"), "%s", status_message());
    bench_close(&b);
}

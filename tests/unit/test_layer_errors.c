/* Errors by layer and head: against the definition, computed here from what two passes show. */
#include "harness/measure/layer_errors.h"

#include "base/arena.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ok(expr) cr_assert_eq((expr), OK, "%s: %s", #expr, status_message())
enum { N = 300, WATCHED = 1, HEAD = 2, WIDTH = 64 };

static struct model model;
static struct par *par;
static struct sparse_policy policy;
static int32_t ids[N];
static struct sample samples[2];
static struct sample_set set;

static void enter(void)
{
    ok(par_open(&par, 2));
    ok(model_open(&model, SG_SOURCE_DIR "/suites/demo/model", par));
    const struct llama_config *c = &model.weights.config;
    ok(policy_init(&policy, &mask_sparge, c->n_layers, c->n_heads));
    policy_set_thresholds(&policy, -.5f, .5f, 50);
    policy.layer_on[0] = policy.layer_on[3] = 0;
    policy.heads[2 * c->n_heads + 1].is_sparse = false;
    for (int i = 0; i < N; i++) ids[i] = (i * 37 + 11) % c->vocab_size;
    samples[0] = (struct sample){.ids = ids, .n = N};
    samples[1] = (struct sample){.ids = ids + 30, .n = N - 30};
    set = (struct sample_set){.samples = samples, .n_samples = 2, .n_tokens = 2 * N - 30};
}

static void leave(void)
{
    policy_clear(&policy);
    model_close(&model);
    par_close(&par);
}

TestSuite(layer_errors, .init = enter, .fini = leave, .timeout = 60);

struct measured_errors {
    struct arena *arena;
    struct layer_error_record *rows;
    size_t n;
};

static struct measured_errors measure_bounds(
    int chunk, const struct tuned *tuned, struct over_bound *over)
{
    struct measured_errors m = {0};
    struct session *s;
    struct evaluate_args a = {.model = &model,
        .par = par,
        .set = &set,
        .policy = &policy,
        .tuned = tuned,
        .attribution = true,
        .quiet = true};
    ok(session_open(&s, &model.weights, par, N, chunk, NULL));
    ok(layer_errors_measure(&a, s, &m.arena, &m.rows, &m.n, over));
    session_close(&s);
    return m;
}

static struct measured_errors measure(int chunk)
{
    struct over_bound over;
    struct measured_errors m = measure_bounds(chunk, NULL, &over);
    cr_expect_eq(over.n_samples, 0, "no bounds were given");
    return m;
}

static const struct layer_error_record *row_of(
    const struct measured_errors *m, int sample, int layer, int head)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->rows[i].sample == sample && m->rows[i].layer == layer && m->rows[i].head == head)
            return &m->rows[i];
    return NULL;
}

static const struct layer_error_record *there(
    const struct measured_errors *m, int sample, int layer, int head)
{
    const struct layer_error_record *r = row_of(m, sample, layer, head);
    cr_assert_not_null(r, "no row of sample %d, layer %d, head %d", sample, layer, head);
    return r;
}

/* Output rows of one head of one layer. */
static enum status watch(void *ctx, const struct layer_view *view)
{
    float *to = ctx;
    const struct attn_args *a = view->attn;
    if (view->layer != WATCHED) return OK;
    for (int r = 0; r < a->n_q; r++)
        memcpy(to + (size_t)(a->q_start + r) * WIDTH,
            (const float *)a->o + r * a->o_row + HEAD * a->o_head, WIDTH * sizeof *to);
    return OK;
}

Test(layer_errors, agree_with_their_definition)
{
    struct measured_errors m = measure(0);
    const struct llama_config *c = &model.weights.config;
    cr_assert_eq(c->head_dim, WIDTH);
    /* nothing is left out before layer 1, so its inputs are the dense ones in both senses */
    static float outputs[2][N * WIDTH];
    struct session *s;
    ok(session_open(&s, &model.weights, par, N, 0, NULL));
    for (int sparse = 0; sparse < 2; sparse++) {
        session_reset(s);
        ok(session_forward(s,
            &(struct forward_args){.tokens = ids,
                .n = N,
                .policy = sparse ? &policy : NULL,
                .hook = watch,
                .hook_ctx = outputs[sparse]}));
    }
    session_close(&s);
    double diff = 0, whole = 0, dot = 0, squares[2] = {0};
    for (int i = 0; i < N * WIDTH; i++) {
        double x = (double)outputs[0][i], y = (double)outputs[1][i];
        diff += fabs(x - y);
        whole += fabs(x);
        dot += x * y;
        squares[0] += x * x;
        squares[1] += y * y;
    }
    const struct layer_error_record *r = there(&m, 0, WATCHED, HEAD);
    cr_expect(diff > 0);
    cr_expect_float_eq(r->isolated_l1, diff / whole, 1e-9 * r->isolated_l1, "%g, %g",
        r->isolated_l1, diff / whole);
    cr_expect_float_eq(r->isolated_cosine, dot / sqrt(squares[0] * squares[1]), 1e-12);
    cr_expect_eq(r->propagated_l1, r->isolated_l1);

    for (int h = 0; h < c->n_heads; h++) {
        r = there(&m, -1, 0, h);
        cr_expect(r->isolated_l1 == 0 && r->propagated_l1 == 0, "in front of everything sparse");
        r = there(&m, -1, 3, h);
        cr_expect(r->isolated_l1 == 0 && r->propagated_l1 > 0,
            "a dense layer inherits errors and makes none");
        r = there(&m, -1, 4, h);
        cr_expect(r->isolated_l1 > 0 && r->propagated_l1 > r->isolated_l1, "head %d: %g, %g", h,
            r->isolated_l1, r->propagated_l1);
        cr_expect_null(row_of(&m, 0, 3, h), "samples tell of what ran sparse alone");
    }
    cr_expect_null(row_of(&m, 1, 2, 1));
    cr_expect_float_eq(there(&m, -1, 2, 1)->isolated_l1, 0, 1e-5, "a dense head of a sparse layer");
    /* the whole lies between its parts */
    double a = there(&m, 0, 5, 0)->isolated_l1, b = there(&m, 1, 5, 0)->isolated_l1,
           all = there(&m, -1, 5, 0)->isolated_l1;
    cr_expect(all >= fmin(a, b) && all <= fmax(a, b) && a != b, "%g of %g and %g", all, a, b);
    double layer = there(&m, -1, 5, -1)->isolated_l1, least = 1, most = 0;
    for (int h = 0; h < c->n_heads; h++) {
        least = fmin(least, there(&m, -1, 5, h)->isolated_l1);
        most = fmax(most, there(&m, -1, 5, h)->isolated_l1);
    }
    cr_expect(layer > least && layer < most, "%g in [%g, %g]", layer, least, most);
    arena_free(&m.arena);
}

Test(layer_errors, chunks_change_nothing_but_rounding)
{
    struct measured_errors whole = measure(0), cut = measure(128);
    cr_assert_eq(whole.n, cut.n);
    for (size_t i = 0; i < whole.n; i++) {
        cr_expect_float_eq(whole.rows[i].isolated_l1, cut.rows[i].isolated_l1, 2e-4, "row %zu", i);
        cr_expect_float_eq(
            whole.rows[i].propagated_l1, cut.rows[i].propagated_l1, 2e-4, "row %zu", i);
    }
    arena_free(&whole.arena);
    arena_free(&cut.arena);
}

Test(layer_errors, nothing_left_out_is_no_error)
{
    policy_set_thresholds(&policy, -1, 1, 50);
    struct measured_errors m = measure(0);
    for (size_t i = 0; i < m.n; i++)
        cr_expect(m.rows[i].isolated_l1 < 1e-5 && m.rows[i].propagated_l1 < 1e-5,
            "layer %d: %g, %g", m.rows[i].layer, m.rows[i].isolated_l1, m.rows[i].propagated_l1);
    arena_free(&m.arena);
    policy.min_sparse_tokens = N + 1; /* too short: as dense as it gets */
    policy_set_thresholds(&policy, -.5f, .5f, 50);
    m = measure(0);
    cr_expect_eq(m.n, (size_t)(policy.n_layers * (policy.n_heads + 1)), "no rows by sample");
    for (size_t i = 0; i < m.n; i++)
        cr_expect(m.rows[i].isolated_l1 == 0 && m.rows[i].propagated_l1 == 0);
    arena_free(&m.arena);
}

/* Pairs over the bound are the rows whose isolated error is, each head by its own bound where it
 * has one. */
Test(layer_errors, heads_over_their_bounds_are_counted)
{
    const struct llama_config *c = &model.weights.config;
    int n = c->n_layers * c->n_heads;
    struct tuned t;
    struct over_bound over;
    ok(tuned_init(&t, c->n_layers, c->n_heads));
    t.rule = RULE_L1;
    t.pv_l1 = .1;
    for (int i = 0; i < n; i++) {
        t.heads[i].params = policy.heads[i];
        t.heads[i].in_range = policy.layer_on[i / c->n_heads];
        if (i % 3 == 0) t.heads[i].pv_l1 = .3;
    }
    struct measured_errors m = measure_bounds(0, &t, &over);
    int n_over = 0, n_pairs = 0;
    double worst = 0;
    for (size_t i = 0; i < m.n; i++) {
        const struct layer_error_record *r = &m.rows[i];
        if (r->sample < 0) continue;
        double ratio = r->isolated_l1 / ((r->layer * c->n_heads + r->head) % 3 ? .1 : .3);
        n_pairs++;
        n_over += ratio > 1;
        worst = fmax(worst, ratio);
    }
    cr_expect(n_over > 0 && n_over < n_pairs, "%d of %d: bounds that say nothing", n_over, n_pairs);
    cr_expect(
        over.n_samples == 2 && over.n_samples * over.n_heads == n_pairs && over.n_over == n_over,
        "%d of %d over, counted %d of %d", n_over, n_pairs, over.n_over,
        over.n_samples * over.n_heads);
    cr_expect(fabs(over.worst - worst) < 1e-5 * worst, "%g and %g", over.worst, worst);
    arena_free(&m.arena);
    tuned_clear(&t);
}

/* Two runs of the same samples held against each other: here both on the CPU, so that what must
 * come out is known. */
#include "harness/measure/evaluate.h"

#include "base/file.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())

struct fixture {
    struct par *par;
    struct model model;
    struct sample_set set;
    struct sparse_policy policy;
    struct dense_cache cache;
};

static void open_fixture(struct fixture *f)
{
    *f = (struct fixture){0};
    CHECK(par_open(&f->par, 2));
    CHECK(model_open(&f->model, SG_SOURCE_DIR "/suites/demo/model", f->par));
    struct suite_options options = {
        .tokenizer = f->model.tokenizer, .argument = "", .max_length = 600, .num_samples = 2};
    CHECK(suite_load("chronicle", &options, &f->set));
    CHECK(policy_init(&f->policy, &mask_sparge, f->model.weights.config.n_layers,
        f->model.weights.config.n_heads));
    policy_set_thresholds(&f->policy, -.1f, 1, 50);
    f->policy.topk = .4f;
    f->policy.heads[1].is_sparse = false;
}

static void close_fixture(struct fixture *f)
{
    policy_clear(&f->policy);
    sample_set_clear(&f->set);
    model_close(&f->model);
    par_close(&f->par);
}

static enum status run(struct fixture *f, struct parity *p, int chunk, struct evaluation *e)
{
    struct evaluate_args args = {.model = &f->model,
        .par = f->par,
        .set = &f->set,
        .policy = &f->policy,
        .cache = &f->cache,
        .chunk = chunk,
        .quiet = true,
        .parity = p};
    return evaluate(&args, e);
}

static double metric(const struct evaluation *e, const char *name)
{
    for (size_t i = 0; i < e->data.n_metrics; i++)
        if (strcmp(e->data.metrics[i].name, name) == 0 &&
            strcmp(e->data.metrics[i].scope, "overall") == 0)
            return e->data.metrics[i].mean;
    return NAN;
}

Test(parity, equal_runs_are_equal_and_others_are_not)
{
    struct fixture f;
    open_fixture(&f);
    for (int other = 0; other < 2; other++) {
        struct parity p;
        struct evaluation e[2];
        f.policy.topk = .4f;
        CHECK(parity_open(&p, &f.model.weights.config, &f.set, &f.policy));
        CHECK(run(&f, &p, 0, &e[0]));
        cr_expect(isnan(metric(&e[0], "cpu_mask_jaccard")),
            "the first run has nothing to be compared with");
        if (other) f.policy.topk = .3f;
        CHECK(run(&f, &p, 0, &e[1]));
        const struct parity_result *r = &p.result;
        int64_t heads = (int64_t)f.policy.n_layers * f.policy.n_heads - 1;
        cr_expect_eq(r->masks.n, 2 * heads, "%lld", (long long)r->masks.n);
        double j = r->masks.sum / (double)r->masks.n;
        cr_expect_eq(metric(&e[1], "cpu_mask_jaccard"), j);
        cr_expect_eq(r->logits_error[0], 0, "the dense passes are the same");
        cr_expect_eq(r->top1[0], 1);
        if (other) {
            cr_expect(j < .95 && j > .5 && r->masks.min < j, "%g", j);
            cr_expect(r->logits_error[1] > .001 && r->kl[1] > 0 && r->top1[1] < 1);
            cr_expect(metric(&e[1], "cpu_sparsity_difference") > .05);
            cr_expect_eq(metric(&e[1], "cpu_logits_error_sparse"), r->logits_error[1]);
        } else {
            cr_expect(j == 1 && r->masks.min == 1);
            cr_expect(r->logits_error[1] == 0 && r->kl[1] == 0 && r->top1[1] == 1);
            cr_expect_eq(metric(&e[1], "cpu_sparsity_difference"), 0);
        }
        for (int i = 0; i < 2; i++) evaluation_clear(&e[i]);
        parity_close(&p);
    }
    close_fixture(&f);
}

Test(parity, maps_of_other_passes_are_refused)
{
    struct fixture f;
    struct parity p;
    struct evaluation e;
    open_fixture(&f);
    CHECK(parity_open(&p, &f.model.weights.config, &f.set, &f.policy));
    CHECK(run(&f, &p, 0, &e));
    evaluation_clear(&e);
    f.policy.block = (struct block_shape){64, 64};
    cr_expect_eq(run(&f, &p, 0, &e), ERR_ARG, "blocks of another shape");
    cr_expect(strstr(status_message(), "belong together"), "%s", status_message());
    parity_close(&p);
    close_fixture(&f);
}

/* The second pass may have come in chunks; the first may not have rows that the second has not. */
Test(parity, maps_of_chunks_find_their_rows)
{
    struct fixture f;
    struct evaluation e;
    open_fixture(&f);
    for (int way = 0; way < 2; way++) {
        struct parity p;
        CHECK(parity_open(&p, &f.model.weights.config, &f.set, &f.policy));
        CHECK(run(&f, &p, way ? 256 : 0, &e));
        evaluation_clear(&e);
        if (way) {
            cr_expect_eq(run(&f, &p, 0, &e), ERR_ARG);
        } else {
            CHECK(run(&f, &p, 256, &e));
            cr_expect(p.result.masks.n > 0 && p.result.masks.min == 1, "%g", p.result.masks.min);
            evaluation_clear(&e);
        }
        parity_close(&p);
    }
    close_fixture(&f);
}

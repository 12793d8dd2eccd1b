#include "harness/measure/noise.h"

#include "harness/measure/evaluate.h"
#include "harness/measure/identity.h"
#include "kernels/cpu/cpu_ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct null_run {
    const struct setup *setup;
    const struct machine_options *machine;
    const struct sample_set *set;
    const struct dense_states *base;
    bool (*stop)(void *);
    struct noise_result *out;
};

/* The per-sample numbers of METHOD 6 as distances from "no difference". */
static void distances(const struct sample_record *r, double out[NOISE_METRICS])
{
    double nll = r->n_scored ? (r->nll_sparse_sum - r->nll_dense_sum) / (double)r->n_scored : 0;
    const double values[NOISE_METRICS] = {
        1 - r->cosine_mean,
        r->kl_mean,
        fabs(exp(nll) - 1),
        1 - r->token_accuracy,
        1 - r->top5_overlap,
        1 - r->logits_cosine,
        r->logits_l1,
        r->logits_rmse,
        1 - r->hidden_cosine,
        r->hidden_l1,
        fabs(r->delta_p_mean),
    };
    for (int i = 0; i < NOISE_METRICS; i++) out[i] = isnan(values[i]) ? 0 : fmax(0, values[i]);
}

static const char *const metrics[NOISE_METRICS] = {"cosine", "kl", "ppl_ratio", "token_accuracy",
    "top5_overlap", "logits_cosine", "logits_l1", "logits_rmse", "hidden_cosine", "hidden_l1",
    "delta_p"};

static enum status null_run(const struct null_run *n, const char *source, struct par *par,
    int chunk, const struct sparse_policy *policy)
{
    struct evaluation e;
    struct dense_cache none = {0};
    TRY(evaluate(&(struct evaluate_args){.model = (struct model *)&n->setup->model,
                     .par = par,
                     .set = n->set,
                     .policy = policy,
                     .cache = &none,
                     .states = n->base,
                     .impl = n->machine->impl,
                     .chunk = chunk,
                     .quiet = true,
                     .stop = n->stop},
        &e));
    double worst[NOISE_METRICS] = {0}, here[NOISE_METRICS];
    for (size_t i = 0; i < e.data.n_samples; i++) {
        distances(&e.data.samples[i], here);
        for (int m = 0; m < NOISE_METRICS; m++) worst[m] = fmax(worst[m], here[m]);
    }
    for (int m = 0; m < NOISE_METRICS; m++)
        n->out->rows[n->out->n++] =
            (struct noise_record){.model_fingerprint = n->setup->model.fingerprint,
                .source = source,
                .metric = metrics[m],
                .value = worst[m],
                .n = (int64_t)e.data.n_samples};
    evaluation_clear(&e);
    return OK;
}

static enum status other_threads(const struct null_run *n, const struct sparse_policy *dense)
{
    struct par *par;
    TRY(par_open(&par, par_threads(n->setup->par) == 1 ? 2 : 1));
    enum status st = null_run(n, "threads", par, n->machine->chunk, dense);
    par_close(&par);
    return st;
}

/* The sparse kernel walks every tile: what differs from dense is the order of the sums alone. */
static enum status all_tiles(const struct null_run *n)
{
    const struct llama_config *c = &n->setup->model.weights.config;
    struct sparse_policy p;
    TRY(policy_init(&p, &mask_sparge, c->n_layers, c->n_heads));
    p.topk = 1;
    p.min_sparse_tokens = 1;
    enum status st = null_run(n, "tile order", n->setup->par, n->machine->chunk, &p);
    policy_clear(&p);
    return st;
}

static enum status other_backend(const struct null_run *n, const struct sparse_policy *dense)
{
    static const char *const all[] = {"avx512", "avx2", "base"};
    char now[32];
    snprintf(now, sizeof now, "%s", cpu_ops()->name);
    int i = 0;
    while (i < 3 && strcmp(all[i], now) != 0) i++;
    if (i >= 2) {
        snprintf(n->out->skipped[3], sizeof n->out->skipped[3], "backend: only %s runs here", now);
        return OK;
    }
    TRY(cpu_ops_choose(all[i + 1]));
    enum status st = null_run(n, "backend", n->setup->par, n->machine->chunk, dense),
                back = cpu_ops_choose(n->machine->cpu_mask);
    return st == OK ? back : st;
}

static enum status measure(struct null_run *n)
{
    const struct llama_config *c = &n->setup->model.weights.config;
    struct sparse_policy dense;
    int longest = 0;
    for (int i = 0; i < n->set->n_samples; i++)
        if (n->set->samples[i].n > longest) longest = n->set->samples[i].n;
    TRY(policy_init(&dense, NULL, c->n_layers, c->n_heads));
    enum status st = other_threads(n, &dense);
    if (st == OK) st = all_tiles(n);
    if (st == OK && longest > 128) st = null_run(n, "chunk", n->setup->par, 128, &dense);
    else if (st == OK)
        snprintf(n->out->skipped[2], sizeof n->out->skipped[2],
            "chunk: samples of %d tokens are one chunk", longest);
    if (st == OK) st = other_backend(n, &dense);
    policy_clear(&dense);
    return st;
}

enum status noise_measure(const struct setup *setup, const struct machine_options *machine,
    const struct sample_set *set, bool (*stop)(void *), struct noise_result *out)
{
    struct dense_states base;
    struct dense_cache none = {0};
    *out = (struct noise_result){0};
    size_t bytes = dense_states_bytes(set, setup->model.weights.config.hidden_size, 1);
    TRY(dense_states_open(&base,
        &(struct dense_states_args){.model = (struct model *)&setup->model,
            .par = setup->par,
            .set = set,
            .cache = &none,
            .impl = machine->impl,
            .chunk = machine->chunk,
            .budget_bytes = bytes,
            .stop = stop}));
    struct null_run n = {setup, machine, set, &base, stop, out};
    enum status st = measure(&n);
    dense_states_close(&base);
    return st;
}

enum status noise_store(struct store *s, const struct noise_result *r)
{
    struct machine_record machine;
    struct arena *arena = NULL;
    machine_identity(&machine, &arena);
    enum status st = store_noise_put(s, &machine, r->rows, (size_t)r->n);
    arena_free(&arena);
    return st;
}

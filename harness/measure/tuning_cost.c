#include "harness/measure/tuning_cost.h"

#include "harness/measure/cancel.h"
#include "harness/measure/evaluate.h"

#include <math.h>
#include <string.h>

static const struct metric_record *overall(const struct evaluation *e, const char *name)
{
    for (size_t i = 0; i < e->data.n_metrics; i++)
        if (strcmp(e->data.metrics[i].name, name) == 0 &&
            strcmp(e->data.metrics[i].scope, "overall") == 0)
            return &e->data.metrics[i];
    return NULL;
}

static double mean_of(const struct evaluation *e, const char *name)
{
    const struct metric_record *m = overall(e, name);
    return m ? m->mean : NAN;
}

static enum status cost_of(const struct evaluate_args *shared, const struct setup *s,
    const struct tuned *t, struct tuning_cost *out)
{
    const struct llama_config *c = &s->model.weights.config;
    const struct mask_method *method;
    struct sparse_policy policy;
    struct evaluation e;
    TRY(mask_method_parse(t->method, &method));
    TRY(policy_init(&policy, method, c->n_layers, c->n_heads));
    struct evaluate_args a = *shared;
    a.policy = &policy;
    enum status st =
        tuned_apply(t, "the thresholds found", &s->model.weights, t->model_fingerprint, &policy);
    if (st == OK) st = evaluate(&a, &e);
    policy_clear(&policy);
    if (st != OK) return st;
    const struct metric_record *kl = overall(&e, "kl");
    *out = (struct tuning_cost){mean_of(&e, "sparsity"), mean_of(&e, "cosine"), kl ? kl->mean : NAN,
        kl ? kl->lo : NAN, kl ? kl->hi : NAN, mean_of(&e, "ppl_ratio")};
    evaluation_clear(&e);
    return OK;
}

enum status tuning_costs(const struct setup *s, const struct machine_options *m,
    const struct sample_set *set, int first, int n_samples, const struct tuned *t, int n,
    struct tuning_cost *out)
{
    /* questions count samples from the set's first: these are judged as texts */
    struct sample_set some = *set;
    some.samples += first;
    some.n_samples = n_samples;
    some.items = NULL;
    some.n_items = some.n_questions = 0;
    struct dense_cache none = {0};
    struct dense_states states;
    struct evaluate_args a = {.model = (struct model *)&s->model,
        .par = s->par,
        .set = &some,
        .cache = &none,
        .states = &states,
        .impl = m->impl,
        .chunk = m->chunk,
        .quiet = true,
        .stop = cancel_requested};
    TRY(dense_states_open(&states,
        &(struct dense_states_args){.model = a.model,
            .par = a.par,
            .set = &some,
            .cache = &none,
            .impl = m->impl,
            .chunk = m->chunk,
            .budget_bytes = SIZE_MAX,
            .stop = cancel_requested}));
    enum status st = OK;
    for (int i = 0; i < n && st == OK; i++) st = cost_of(&a, s, &t[i], &out[i]);
    dense_states_close(&states);
    return st;
}

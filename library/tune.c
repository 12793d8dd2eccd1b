/* Tuning from q, k and v that somebody else computed, layer by layer. */
#include "library/parts.h"

#include "engine/tuner/tuner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tensors {
    const struct sg_tuning *t;
    const struct sg_sample
        *samples; /* of this run: all that is chosen and checked on, or all held out */
    int n_heads;
};

static enum status tensors_get(void *ctx, int layer, int sample, struct attn_args *out)
{
    const struct tensors *x = ctx;
    const struct sg_sample *s = &x->samples[sample];
    (void)layer;
    *out = (struct attn_args){.dtype = DTYPE_F32,
        .n_q = s->n_tokens,
        .n_heads = x->n_heads,
        .n_kv_heads = x->t->n_kv_heads,
        .head_dim = x->t->head_dim,
        .scale = x->t->scale,
        .q = s->q,
        .k = s->k,
        .v = s->v,
        .q_row = s->q_token,
        .q_head = s->q_head,
        .k_row = s->k_token,
        .k_head = s->k_head,
        .v_row = s->v_token,
        .v_head = s->v_head};
    return OK;
}

struct work {
    struct sg_context *context;
    const struct sg_tuning *asked;
    struct sg_policy *policy;
    struct sg_tuning t;
    enum tune_rule rule;
    int n_choose, n_check, n_held_out;
    struct sg_sample *samples;     /* [t.n_samples] */
    struct tune_sample *described; /* the same, for the tuner */
    char (*names)[64];
    struct sparse_policy layer_alone;
    struct weights *shape; /* no weights: their configuration */
    struct tuned found;
    struct head_error *errors; /* [n_held_out, layers x heads] of this layer */
};

static enum status take_samples(struct work *w)
{
    int n = w->t.n_samples, *of_use[] = {&w->n_choose, &w->n_check, &w->n_held_out};
    const struct sg_sample *from = w->t.samples;
    for (int i = 0; i < n; i++) {
        struct sg_sample *s = &w->samples[i];
        struct sg_attention as_call = {.size = sizeof as_call};
        struct attn_args unused;
        TRY(SG_TAKE(*s, from, name));
        from = (const struct sg_sample *)((const char *)from + from->size);
        snprintf(w->names[i], sizeof w->names[i], "%s", s->name ? s->name : "");
        if (!s->name) snprintf(w->names[i], sizeof w->names[i], "sample %d", i);
        if ((int)s->use < SG_CHOOSE || s->use > SG_HELD_OUT ||
            (i && s->use < w->samples[i - 1].use))
            return fail(ERR_ARG,
                "%s: use: found %d, expected samples to choose on, to check on and held out, in "
                "this order",
                w->names[i], (int)s->use);
        ++*of_use[s->use];
        float one_row[1] = {0};
        as_call = (struct sg_attention){.size = sizeof as_call,
            .n_q = s->n_tokens,
            .n_heads = w->policy->now.n_heads,
            .n_kv_heads = w->t.n_kv_heads,
            .head_dim = w->t.head_dim,
            .scale = w->t.scale,
            .q = s->q,
            .k = s->k,
            .v = s->v,
            .o = one_row,
            .q_token = s->q_token,
            .q_head = s->q_head,
            .k_token = s->k_token,
            .k_head = s->k_head,
            .v_token = s->v_token,
            .v_head = s->v_head,
            .o_token = w->t.head_dim,
            .o_head = w->t.head_dim,
            .layer = w->t.layer};
        enum status st = attention_of(&as_call, w->policy, &unused);
        if (st != OK) return fail_context(st, "%s", w->names[i]);
        w->described[i] = (struct tune_sample){
            .n = s->n_tokens, .name = w->names[i], .check = s->use == SG_CHECK};
    }
    return OK;
}

static bool same(double a, double b) { return fabs(a - b) < 1e-12; }

/* Every layer of a file is tuned in one way. */
static enum status check_first_layers(const struct work *w)
{
    const struct sg_policy *p = w->policy;
    const struct tuned *t = &p->tuned;
    if (!p->from_tuning) return OK;
    if (t->rule != w->rule || !same(t->l1, w->t.l1) || !same(t->pv_l1, w->t.pv_l1))
        return fail(ERR_ARG,
            "layer %d under %s with l1 %g, pv_l1 %g: other layers of this policy were tuned under "
            "%s with %g, %g",
            w->t.layer, tune_rule_name(w->rule), w->t.l1, w->t.pv_l1, tune_rule_name(t->rule),
            t->l1, t->pv_l1);
    if (t->num_samples != w->n_choose || t->num_check != w->n_check ||
        p->n_held_out != w->n_held_out)
        return fail(ERR_ARG,
            "layer %d on %d samples to choose on, %d to check on, %d held out: other layers of "
            "this policy had %d, %d, %d",
            w->t.layer, w->n_choose, w->n_check, w->n_held_out, t->num_samples, t->num_check,
            p->n_held_out);
    return OK;
}

static enum status prepare(struct work *w)
{
    const struct sparse_policy *now = &w->policy->now;
    TRY(SG_TAKE(w->t, w->asked, stop_context));
    if (!now->method || !now->method->ranked || now->topk > 0)
        return fail(ERR_ARG, "method %s has no thresholds to tune, expected one that ranks tiles",
            now->method ? now->method->name : "dense");
    if (w->t.layer < 0 || w->t.layer >= now->n_layers)
        return fail(ERR_ARG, "layer: found %d, expected 0 to %d as in the policy", w->t.layer,
            now->n_layers - 1);
    if (w->t.n_samples < 1 || w->t.n_samples > 10000 || !w->t.samples)
        return fail(ERR_ARG, "samples: found %d, expected 1 to 10000", w->t.n_samples);
    TRY(tune_rule_parse(w->t.rule ? w->t.rule : "l1", &w->rule));
    if (!(w->t.scale > 0))
        w->t.scale = (float)(1 / sqrt((double)(w->t.head_dim > 0 ? w->t.head_dim : 1)));
    w->samples = calloc((size_t)w->t.n_samples, sizeof *w->samples);
    w->described = calloc((size_t)w->t.n_samples, sizeof *w->described);
    w->names = calloc((size_t)w->t.n_samples, sizeof *w->names);
    w->shape = calloc(1, sizeof *w->shape);
    if (!w->samples || !w->described || !w->names || !w->shape)
        return fail(ERR_MEMORY, "no memory to tune layer %d", w->t.layer);
    TRY(take_samples(w));
    TRY(check_first_layers(w));
    w->shape->config.n_layers = now->n_layers;
    w->shape->config.n_heads = now->n_heads;
    w->shape->config.n_kv_heads = w->t.n_kv_heads;
    w->shape->config.head_dim = w->t.head_dim;
    TRY(policy_copy(&w->layer_alone, now));
    memset(w->layer_alone.layer_on, 0, (size_t)now->n_layers);
    w->layer_alone.layer_on[w->t.layer] = 1;
    return OK;
}

static bool stop_asked(void *ctx);

static enum status run(struct work *w)
{
    struct tensors chosen_on = {&w->t, w->samples, w->policy->now.n_heads}, held_out = chosen_on;
    struct tune_bounds bounds = {w->t.l1, w->t.pv_l1};
    struct tune_times times;
    struct tune_args a = {
        .weights = w->shape,
        .source = {&chosen_on, tensors_get},
        .par = w->context->par,
        .policy = &w->layer_alone,
        .rule = w->rule,
        .samples = w->described,
        .n_samples = w->n_choose + w->n_check,
        .bounds = &bounds,
        .n_bounds = 1,
        .min_sparsity = w->t.min_sparsity == 0 ? .1
            : w->t.min_sparsity < 0            ? 0
                                               : w->t.min_sparsity,
        .stop = w->t.stop ? stop_asked : NULL,
        .stop_ctx = w,
    };
    TRY(tune(&a, &w->found, &times));
    if (!w->n_held_out) return OK;
    size_t n_cells = (size_t)w->policy->now.n_layers * (size_t)w->policy->now.n_heads;
    w->errors = malloc(sizeof *w->errors * n_cells * (size_t)w->n_held_out);
    if (!w->errors) return fail(ERR_MEMORY, "no memory to judge layer %d", w->t.layer);
    held_out.samples += a.n_samples;
    a.source.ctx = &held_out;
    a.samples += a.n_samples;
    a.n_samples = w->n_held_out;
    return tune_errors(&a, &w->found, 1, w->errors);
}

static bool stop_asked(void *ctx)
{
    const struct work *w = ctx;
    return w->t.stop(w->t.stop_context) != 0;
}

/* The first layer makes the policy one that was tuned: all others are outside until they come. */
static enum status begin_tuned(struct work *w)
{
    struct sg_policy *p = w->policy;
    size_t n_cells = (size_t)p->now.n_layers * (size_t)p->now.n_heads;
    if (p->from_tuning) return OK;
    struct head_error *held_out = malloc(sizeof *held_out * n_cells * (size_t)w->n_held_out + 1);
    if (!held_out) return fail(ERR_MEMORY, "no memory to judge %zu heads", n_cells);
    for (size_t i = 0; i < n_cells * (size_t)w->n_held_out; i++) held_out[i] = head_error_unknown;
    free(p->held_out);
    p->held_out = held_out;
    p->n_held_out = w->n_held_out;
    p->from_tuning = true;
    memset(p->now.layer_on, 0, (size_t)p->now.n_layers);
    for (size_t i = 0; i < n_cells; i++) p->tuned.heads[i].in_range = false;
    p->tuned.verified = true;
    p->tuned.edited = false;
    p->tuned.rule = w->rule;
    p->tuned.l1 = w->t.l1;
    p->tuned.pv_l1 = w->t.pv_l1;
    p->tuned.num_samples = w->n_choose;
    p->tuned.num_check = w->n_check;
    return OK;
}

static enum status enter(struct work *w)
{
    struct sg_policy *p = w->policy;
    int n_heads = p->now.n_heads;
    size_t n_cells = (size_t)p->now.n_layers * (size_t)n_heads,
           first = (size_t)w->t.layer * (size_t)n_heads;
    TRY(begin_tuned(w));
    if (w->found.max_length > p->tuned.max_length) p->tuned.max_length = w->found.max_length;
    p->now.layer_on[w->t.layer] = 1;
    for (size_t i = first; i < first + (size_t)n_heads; i++) {
        p->tuned.heads[i] = w->found.heads[i];
        p->now.heads[i] = w->found.heads[i].params;
        for (int s = 0; s < w->n_held_out; s++)
            p->held_out[(size_t)s * n_cells + i] = w->errors[(size_t)s * n_cells + i];
    }
    if (!w->n_held_out) return OK;
    tuned_judge(&p->tuned, p->held_out, w->n_held_out);
    over_bound_text(&p->tuned.over, p->verdict);
    return OK;
}

static enum status tune_body(void *args)
{
    struct work *w = args;
    enum status st = prepare(w);
    if (st == OK) st = run(w);
    if (st == OK) st = enter(w);
    policy_clear(&w->layer_alone);
    tuned_clear(&w->found);
    free(w->errors);
    free(w->samples);
    free(w->described);
    free(w->names);
    free(w->shape);
    return st;
}

enum sg_status sg_tune(
    struct sg_context *context, const struct sg_tuning *tuning, struct sg_policy *policy)
{
    if (!policy) return (enum sg_status)fail(ERR_ARG, "policy is NULL");
    return border_in(
        context, tune_body, &(struct work){.context = context, .asked = tuning, .policy = policy});
}

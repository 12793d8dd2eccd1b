#include "engine/tuner/tuner_parts.h"

#include "base/clock.h"
#include "engine/session_backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const struct tuner_backend *tuner_backend_for(
    const struct weights *w, const struct sparse_policy *p, int longest, const char **why)
{
    const struct tuner_backend *there = w->on_device ? w->on_device->tuner : &tuner_backend_cpu;
    const char *reason = there->refuses(w, p, longest);
    if (why) *why = reason;
    return reason ? &tuner_backend_cpu : there;
}

const char *tune_place(
    const struct weights *w, const struct sparse_policy *p, int longest, const char **why)
{
    return tuner_backend_for(w, p, longest, why)->name;
}

static int longest_of(const struct tune_args *a)
{
    int n = 0;
    for (int s = 0; s < a->n_samples; s++)
        if (a->samples[s].n > n) n = a->samples[s].n;
    return n;
}

struct tuner_plan tuner_plan(const struct tune_args *a)
{
    return tuner_backend_for(a->weights, a->policy, longest_of(a), NULL)->plan(a);
}

static double seconds_since(int64_t t0) { return (double)(clock_ns() - t0) * 1e-9; }

/* Stored ones first, the others made and put. */
static enum status make_curves(struct tuner *t)
{
    const struct curve_store *store = &t->a->curves;
    int n_all = t->n_heads * t->n_tune * t->n_parts, n = 0, n_made = 0;
    struct tuner_curve_task *tasks = malloc(sizeof *tasks * (size_t)n_all);
    if (!tasks) return fail(ERR_MEMORY, "no memory to tune layer %d", t->layer);
    int64_t t0 = clock_ns();
    enum status st = OK, put = OK;
    for (int i = 0; i < n_all && st == OK; i++) {
        int of_head = i % (t->n_tune * t->n_parts);
        struct tuner_place at = {t->first_head + i / (t->n_tune * t->n_parts), of_head / t->n_parts,
            of_head % t->n_parts};
        bool have = false;
        if (store->get)
            st =
                store->get(store->ctx, t->layer, at.head, at.part, at.sample, &t->curves[i], &have);
        if (!have) tasks[n++] = (struct tuner_curve_task){at, &t->curves[i], false};
    }
    if (st == OK && n) st = t->backend->curves(t->state, tasks, n);
    for (int i = 0; i < n && put == OK; i++) { /* also behind a stop: what is finished is kept */
        if (!tasks[i].done) continue;
        n_made++;
        const struct tuner_place *at = &tasks[i].at;
        if (store->put)
            put = store->put(store->ctx, t->layer, at->head, at->part, at->sample, tasks[i].out);
    }
    if (st == OK) st = put;
    if (st == OK && store->layer_done) st = store->layer_done(store->ctx, t->layer);
    t->times->n_curves += n_made;
    t->times->n_reused += n_all - n;
    t->times->curves_s += seconds_since(t0);
    free(tasks);
    return st;
}

static enum status refuse(const struct tune_args *a)
{
    int n_tune = 0;
    for (int i = 0; i < a->n_bounds; i++)
        if (!(a->bounds[i].l1 > 0 && a->bounds[i].l1 < a->bounds[i].pv_l1 &&
                a->bounds[i].pv_l1 < 1))
            return fail(ERR_ARG, "bounds l1 %g and pv_l1 %g: expected 0 < l1 < pv_l1 < 1",
                a->bounds[i].l1, a->bounds[i].pv_l1);
    for (int i = 0; i < a->n_samples; i++) {
        if (a->samples[i].n < MIN_SPARSE_TOKENS)
            return fail(ERR_ARG,
                "%s has %d tokens, tuning needs at least %d: sparse attention is not used below "
                "that",
                a->samples[i].name, a->samples[i].n, MIN_SPARSE_TOKENS);
        if (i > 0 && a->samples[i - 1].check && !a->samples[i].check)
            return fail(ERR_ARG, "check samples must stand behind those to choose on");
        n_tune += !a->samples[i].check;
    }
    if (!n_tune) return fail(ERR_ARG, "no samples to tune on");
    return session_check_policy(&a->weights->config, a->policy, longest_of(a));
}

static enum status tuner_init(struct tuner *t, const struct tune_args *a, struct tune_times *times)
{
    *t = (struct tuner){.a = a, .c = &a->weights->config, .times = times};
    t->backend = tuner_backend_for(a->weights, a->policy, longest_of(a), &times->why);
    times->place = t->backend->name;
    for (int s = 0; s < a->n_samples; s++) t->n_tune += !a->samples[s].check;
    t->plan = t->backend->plan(a);
    t->n_parts = a->policy->method->n_parts ? a->policy->method->n_parts : 1;
    t->curves = malloc(
        sizeof *t->curves * (size_t)t->plan.heads_at_once * (size_t)t->n_tune * (size_t)t->n_parts);
    if (!t->curves)
        return fail(ERR_MEMORY, "no memory for the curves of %d heads", t->plan.heads_at_once);
    return t->backend->open(&t->state, a, &t->plan);
}

static void tuner_clear(struct tuner *t)
{
    t->backend->close(&t->state);
    free(t->curves);
}

/* One layer, part after part. */
static enum status tune_layer(struct tuner *t, int layer, struct tuned *out)
{
    for (int head = 0; head < t->c->n_heads; head += t->n_heads) {
        int left = t->c->n_heads - head;
        t->layer = layer;
        t->first_head = head;
        t->n_heads = left < t->plan.heads_at_once ? left : t->plan.heads_at_once;
        int64_t t0 = clock_ns();
        TRY(t->backend->hold(t->state, layer, head, head + t->n_heads));
        t->times->forward_s += seconds_since(t0);
        TRY(make_curves(t));
        TRY(settle_heads(t, out));
    }
    return OK;
}

static enum status advance(struct tuner *t, int layer)
{
    int64_t t0 = clock_ns();
    TRY(t->backend->advance(t->state, layer));
    t->times->forward_s += seconds_since(t0);
    return OK;
}

static void describe(const struct tune_args *a, int b, int n_tune, struct tuned *x)
{
    int longest = 0;
    for (int s = 0; s < a->n_samples; s++)
        if (a->samples[s].n > longest) longest = a->samples[s].n;
    snprintf(x->method, sizeof x->method, "%s", a->policy->method->name);
    policy_layers_text(a->policy, x->layers);
    x->rule = a->rule;
    x->l1 = a->bounds[b].l1;
    x->pv_l1 = a->bounds[b].pv_l1;
    x->block = a->policy->block;
    x->smooth_k = a->policy->smooth_k;
    x->qk = a->policy->qk;
    x->pv = a->policy->pv;
    x->max_length = longest;
    x->num_samples = n_tune;
    x->num_check = a->n_samples - n_tune;
    x->verified = true;
}

enum status tune(const struct tune_args *a, struct tuned *out, struct tune_times *times)
{
    const struct llama_config *c = &a->weights->config;
    int n_done = 0, n_total = 0, last = -1;
    *times = (struct tune_times){0};
    for (int b = 0; b < a->n_bounds; b++) out[b] = (struct tuned){0};
    TRY(refuse(a));
    for (int l = 0; l < c->n_layers; l++)
        if (a->policy->layer_on[l]) {
            n_total += c->n_heads;
            last = l;
        }
    struct tuner t;
    enum status st = tuner_init(&t, a, times);
    for (int b = 0; b < a->n_bounds && st == OK; b++)
        st = tuned_init(&out[b], c->n_layers, c->n_heads);
    for (int l = 0; l <= last && st == OK; l++) {
        bool on = a->policy->layer_on[l];
        if (on) st = tune_layer(&t, l, out);
        if (st == OK) st = advance(&t, l);
        n_done += on ? c->n_heads : 0;
        if (a->progress) a->progress(a->progress_ctx, n_done, n_total);
    }
    for (int b = 0; b < a->n_bounds && st == OK; b++) describe(a, b, t.n_tune, &out[b]);
    tuner_clear(&t);
    for (int b = 0; b < a->n_bounds && st != OK; b++) tuned_clear(&out[b]);
    return st;
}

static enum status load_curves(
    const struct tune_args *a, int layer, int head, int n, int n_parts, struct curve *curves)
{
    for (int x = 0; x < n * n_parts; x++) {
        bool found = false;
        int i = x / n_parts;
        TRY(a->curves.get(a->curves.ctx, layer, head, x % n_parts, i, &curves[x], &found));
        if (!found)
            return fail(ERR_ARG,
                "no curve is stored for layer %d, head %d, sample %s under these samples, method, "
                "blocks and "
                "smoothing; run `tune` once without --from-curves",
                layer, head, a->samples[i].name);
    }
    return OK;
}

/* The choice of one head for every pair of bounds. */
static void choose_unverified(const struct tune_args *a, int layer, int head,
    const struct curve *curves, int n, int n_parts, struct tuned *out)
{
    struct tuner_choice choices[a->n_bounds];
    tuner_choose(curves, n, n_parts, a->rule, a->bounds, a->n_bounds, choices);
    for (int b = 0; b < a->n_bounds; b++) {
        struct tuned_head *h = &out[b].heads[layer * out[b].n_heads + head];
        const struct tuner_choice *x = &choices[b];
        h->in_range = true;
        if (!x->found || x->sparsity < a->min_sparsity) {
            tuner_make_dense(h, false,
                "the curves promise %.1f %% sparsity, too little to be worth it",
                x->found ? 100 * x->sparsity : 0);
            continue;
        }
        h->params = tuner_params_of(x->theta, x->tau, 50);
        h->tune = x->worst;
        h->check = h->held_out = head_error_unknown;
        h->qk_sparsity = h->sparsity = x->sparsity;
        snprintf(h->reason, sizeof h->reason, "from curves, not verified");
    }
}

enum status tune_from_curves(const struct tune_args *a, struct tuned *out)
{
    const struct llama_config *c = &a->weights->config;
    for (int b = 0; b < a->n_bounds; b++) out[b] = (struct tuned){0};
    TRY(refuse(a));
    int n = 0;
    for (int i = 0; i < a->n_samples; i++) n += !a->samples[i].check;
    int n_parts = a->policy->method->n_parts ? a->policy->method->n_parts : 1;
    struct curve *curves = malloc(sizeof *curves * (size_t)n * (size_t)n_parts);
    enum status st = curves ? OK : fail(ERR_MEMORY, "no memory for %d curves", n);
    for (int b = 0; b < a->n_bounds && st == OK; b++)
        st = tuned_init(&out[b], c->n_layers, c->n_heads);
    for (int l = 0; l < c->n_layers && st == OK; l++)
        for (int h = 0; h < c->n_heads && a->policy->layer_on[l] && st == OK; h++) {
            st = load_curves(a, l, h, n, n_parts, curves);
            if (st == OK) choose_unverified(a, l, h, curves, n, n_parts, out);
        }
    for (int b = 0; b < a->n_bounds && st == OK; b++) {
        describe(a, b, n, &out[b]);
        out[b].verified = false;
    }
    free(curves);
    for (int b = 0; b < a->n_bounds && st != OK; b++) tuned_clear(&out[b]);
    return st;
}

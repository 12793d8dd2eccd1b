#include "harness/sweep/sweep.h"

#include "base/clock.h"
#include "engine/tuner/tuner.h"
#include "harness/measure/curve_db.h"
#include "harness/measure/identity.h"
#include "harness/measure/tuned_db.h"
#include "harness/measure/progress.h"
#include "harness/measure/tuning.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Thresholds. */

static enum status group_policy(
    const struct sweep *s, const struct sweep_group *g, struct sparse_policy *p)
{
    const struct llama_config *c = &s->a.setup->model.weights.config;
    TRY(policy_init(p, mask_method_find(g->method), c->n_layers, c->n_heads));
    p->block = g->block;
    p->smooth_k = s->a.smooth_k;
    p->min_sparse_tokens = s->a.min_sparse_tokens;
    memcpy(p->layer_on, g->layers, (size_t)c->n_layers);
    enum status st = policy_set_precision(p, g->qk, g->pv);
    if (st != OK) policy_clear(p);
    return st;
}

/* Tuned under the same question, whichever its layers. */
static bool is_of_group(
    const struct sweep *s, const struct sweep_group *g, int b, const struct tuned_record *r)
{
    return !strcmp(r->data_fingerprint, g->id) && !strcmp(r->method, g->method) &&
        !strcmp(r->rule, tune_rule_name(g->rule)) &&
        !strcmp(r->smooth_k, smooth_k_name(s->a.smooth_k)) && r->l1 == g->bounds[b][0] &&
        r->pv_l1 == g->bounds[b][1] && r->block_q == g->block.q && r->block_k == g->block.k;
}

static bool has_layers(
    const struct sweep *s, const struct sweep_group *g, const struct tuned_record *r)
{
    const struct llama_config *c = &s->a.setup->model.weights.config;
    int n_wanted = 0, n_found = 0;
    for (int l = 0; l < c->n_layers; l++) n_wanted += g->layers[l] * c->n_heads;
    for (size_t i = 0; i < r->n_heads; i++)
        n_found += r->heads[i].layer < c->n_layers && g->layers[r->heads[i].layer];
    return n_found == n_wanted;
}

static bool within(double x, double lo, double hi) { return x >= lo && x <= hi; }

/* A row of this very tuning that cannot be one of the tuner's. */
static enum status check_heads(const struct sweep *s, const struct tuned_record *r)
{
    const struct llama_config *c = &s->a.setup->model.weights.config;
    for (size_t i = 0; i < r->n_heads; i++) {
        const struct tuned_head_record *h = &r->heads[i]; /* sorted by layer and head */
        bool twice = i && h->layer == h[-1].layer && h->head == h[-1].head;
        bool usable = !h->is_sparse ||
            (within(h->theta, -1, 1) && within(h->tau, 0, 1) && within(h->lambda, 0, NEVER_SKIP));
        if (h->layer >= 0 && h->layer < c->n_layers && h->head >= 0 && h->head < c->n_heads &&
            !twice && usable)
            continue;
        return fail(ERR_FORMAT,
            "%s: table tuned_head, hash %s: found layer %d, head %d, theta %g, tau %g, lambda "
            "%g%s, expected each of "
            "%d layers x %d heads once, theta -1 to 1, tau 0 to 1, lambda 0 to 50; delete the hash "
            "from table tuned, "
            "or give another --db",
            store_path(s->a.store), r->hash, h->layer, h->head, h->theta, h->tau, h->lambda,
            twice ? " twice" : "", c->n_layers, c->n_heads);
    }
    return OK;
}

static enum status from_record(
    const struct sweep *s, const struct sweep_group *g, int b, const struct tuned_record *r)
{
    const struct model *m = &s->a.setup->model;
    const struct llama_config *c = &m->weights.config;
    struct tuned *t = &g->tuned[b];
    TRY(tuned_init(t, c->n_layers, c->n_heads));
    snprintf(t->model_fingerprint, sizeof t->model_fingerprint, "%s", m->fingerprint);
    snprintf(t->method, sizeof t->method, "%s", g->method);
    t->rule = g->rule;
    t->l1 = r->l1;
    t->pv_l1 = r->pv_l1;
    t->block = g->block;
    t->smooth_k = s->a.smooth_k;
    t->qk = g->qk;
    t->pv = g->pv;
    for (size_t i = 0; i < r->n_heads; i++) {
        const struct tuned_head_record *h = &r->heads[i];
        t->heads[h->layer * c->n_heads + h->head] = (struct tuned_head){
            .params = {(float)h->theta, (float)h->tau, (float)h->lambda, h->is_sparse, 0},
            .in_range = true};
    }
    snprintf(g->hashes[b], sizeof g->hashes[b], "%s", r->hash);
    if (!mask_method_find(g->method)->n_parts) return OK;
    struct tuned whole; /* which part of a mixture a head has is said in the text alone */
    enum status st = tuned_parse(&whole, r->json, "stored thresholds");
    for (int i = 0; i < c->n_layers * c->n_heads && st == OK; i++)
        t->heads[i].params.part = whole.heads[i].params.part;
    tuned_clear(&whole);
    return st;
}

/* *missing: bounds whose thresholds are not in the database. */
static enum status load_stored(const struct sweep *s, const struct sweep_group *g, int *missing)
{
    struct tuned_list list;
    TRY(query_tuned(s->a.store, NULL, s->a.setup->model.fingerprint, &list));
    enum status st = OK;
    *missing = 0;
    for (int b = 0; b < g->n_bounds && st == OK; b++) {
        for (size_t i = 0; i < list.n && !g->tuned[b].heads && st == OK; i++) {
            if (!is_of_group(s, g, b, &list.rows[i])) continue;
            st = check_heads(s, &list.rows[i]);
            if (st == OK && has_layers(s, g, &list.rows[i]))
                st = from_record(s, g, b, &list.rows[i]);
        }
        *missing += !g->tuned[b].heads;
    }
    tuned_list_clear(&list);
    return st;
}

struct printing {
    const struct tuned *tuned;
    struct str *out;
};

static void print_one(void *ctx, int i, int worker)
{
    const struct printing *p = ctx;
    (void)worker;
    tuned_print(&p->tuned[i], &p->out[i], -1);
}

static int bound_of(const struct sweep_group *g, const struct tune_bounds *x)
{
    int b = 0;
    while (g->bounds[b][0] != x->l1 || g->bounds[b][1] != x->pv_l1) b++;
    return b;
}

/* Into the database, and into the group. Texts of many bounds are printed by all threads. */
static enum status store_all(struct sweep *s, struct sweep_group *g, struct tuned *fresh,
    const struct tune_bounds *bounds, int n)
{
    struct str *texts = calloc((size_t)n, sizeof *texts);
    if (!texts) return fail(ERR_MEMORY, "no memory for the texts of %d tunings", n);
    for (int i = 0; i < n; i++) {
        struct tuned *t = &fresh[i];
        snprintf(
            t->model_fingerprint, sizeof t->model_fingerprint, "%s", s->a.setup->model.fingerprint);
        snprintf(t->model_name, sizeof t->model_name, "%s", s->a.setup->model.name);
        snprintf(t->data_fingerprint, sizeof t->data_fingerprint, "%s", g->id);
        snprintf(t->data_name, sizeof t->data_name, "%s", g->set.name);
    }
    par_for(s->a.setup->par, n, print_one, &(struct printing){fresh, texts});
    enum status st = OK;
    for (int i = 0; i < n && st == OK; i++) {
        int b = bound_of(g, &bounds[i]);
        tuned_hash(&fresh[i], g->hashes[b]);
        st = store_tuned(s->a.store, &fresh[i], g->hashes[b], str_get(&texts[i]));
        if (st != OK) break;
        g->tuned[b] = fresh[i];
        fresh[i] = (struct tuned){0};
    }
    for (int i = 0; i < n; i++) str_clear(&texts[i]);
    free(texts);
    return st;
}

static void show_heads(void *ctx, int done, int total)
{
    (void)total;
    progress_update(ctx, done);
}

static enum status tune_now(struct sweep *s, struct sweep_group *g)
{
    struct sparse_policy policy;
    struct curve_db db = {0};
    struct tune_times times = {0};
    int n = 0, n_samples = g->set.n_samples;
    struct tune_sample *samples = calloc((size_t)n_samples, sizeof *samples);
    struct tune_bounds *bounds = calloc((size_t)g->n_bounds, sizeof *bounds);
    struct tuned *fresh = calloc((size_t)g->n_bounds, sizeof *fresh);
    enum status st = samples && bounds && fresh ? group_policy(s, g, &policy)
                                                : fail(ERR_MEMORY, "no memory to tune");
    if (st != OK) {
        free(samples);
        free(bounds);
        free(fresh);
        return st;
    }
    for (int b = 0; b < g->n_bounds; b++)
        if (!g->tuned[b].heads)
            bounds[n++] = (struct tune_bounds){g->bounds[b][0], g->bounds[b][1]};
    for (int i = 0; i < n_samples; i++)
        samples[i] = (struct tune_sample){
            g->set.samples[i].ids, g->set.samples[i].n, g->set.samples[i].name, i >= s->a.n_tune};
    TRY_GOTO(st, done, curve_db_open(&db, s->a.store, s->a.setup, &g->set, &policy));
    int64_t t0 = clock_ns();
    struct progress progress;
    char doing[128];
    double n_heads = 0;
    for (int l = 0; l < policy.n_layers; l++) n_heads += policy.layer_on[l] * policy.n_heads;
    snprintf(doing, sizeof doing, "tuning %s for %d bounds on %s", g->method, n, g->set.name);
    progress_part(doing, sweep_tune_flop(s, g));
    progress_begin(&progress, "tune", "heads", n_heads, s->a.machine->quiet);
    const struct tune_args args = {.weights = &s->a.setup->model.weights,
        .par = s->a.setup->par,
        .policy = &policy,
        .rule = g->rule,
        .samples = samples,
        .n_samples = n_samples,
        .bounds = bounds,
        .n_bounds = n,
        .min_sparsity = s->a.min_sparsity,
        .curves = curve_db_store(&db),
        .impl = s->a.machine->impl,
        .progress = show_heads,
        .progress_ctx = &progress,
        .stop = s->a.stop};
    /* other workers' sessions would take the memory it counts on */
    if (s->a.devices) pthread_rwlock_wrlock(s->a.devices);
    for (int i = 0; i < s->n_data && st == OK; i++)
        if (s->data[i].have_states) st = dense_states_leave_device(&s->data[i].states);
    if (st == OK)
        st = tuning_run(s->a.fleet, s->a.n_fleet, s->a.machine, &args,
            (struct tuning_samples){s->a.n_tune, s->a.n_check, s->a.n_held_out}, 0, fresh, &times);
    if (s->a.devices) pthread_rwlock_unlock(s->a.devices);
    progress_end(&progress);
    progress_part_end();
    curve_db_close(&db); /* commits curves also when the rest failed */
    if (st == OK) st = store_all(s, g, fresh, bounds, n);
    double seconds = (double)(clock_ns() - t0) * 1e-9;
    s->tune_s += seconds;
    s->n_tunings++;
    s->n_curves += times.n_curves;
    s->n_curves_reused += times.n_reused;
    if (s->a.event) {
        char text[256];
        snprintf(text, sizeof text,
            "%s %dx%d, rule %s, %d bounds: %d curves made on %s%s%s, %d reused", g->method,
            g->block.q, g->block.k, tune_rule_name(g->rule), n, times.n_curves,
            times.place ? times.place : "no device", times.why ? ": " : "",
            times.why ? times.why : "", times.n_reused);
        s->a.event(s->a.event_ctx,
            &(struct sweep_event){.kind = SWEEP_TUNED,
                .text = text,
                .seconds = seconds,
                .problem = st == OK ? NULL : status_message()});
    }
done:
    for (int i = 0; i < n; i++) tuned_clear(&fresh[i]);
    policy_clear(&policy);
    free(samples);
    free(bounds);
    free(fresh);
    return st;
}

enum status sweep_group_tune(struct sweep *s, struct sweep_group *g, bool *busy)
{
    *busy = false;
    if (g->problem) return fail(ERR_ARG, "%s", g->problem);
    int missing;
    if (!g->tuned) {
        g->tuned = calloc((size_t)g->n_bounds, sizeof *g->tuned);
        g->hashes = calloc((size_t)g->n_bounds, sizeof *g->hashes);
        if (!g->tuned || !g->hashes)
            return fail(ERR_MEMORY, "no memory for %d tunings", g->n_bounds);
    }
    missing = 0;
    for (int b = 0; b < g->n_bounds; b++) missing += !g->tuned[b].heads;
    if (missing) TRY(load_stored(s, g, &missing)); /* not for every cell once more */
    if (!missing) return OK;
    struct hash h;
    char hex[HASH_HEX_SIZE], key[HASH_HEX_SIZE + 8];
    hash_init(&h);
    hash_add_str(&h, g->id);
    hash_add_str(&h, g->method);
    hash_add_u64(&h, (uint64_t)g->rule << 32 | (uint64_t)g->block.q << 16 | (uint64_t)g->block.k);
    snprintf(key, sizeof key, "tune:%s", hash_hex(&h, hex));
    enum lease lease;
    TRY(lease_take(
        s->leases, key, s->a.retry_failed ? LEASE_OVER_FAILED : LEASE_OVER_NONE, &lease));
    if (lease == LEASE_BUSY) {
        *busy = true;
        return OK;
    }
    enum status st = load_stored(s, g, &missing); /* who had the lease before may have finished */
    if (st == OK && missing) st = tune_now(s, g);
    enum status released = lease_drop(s->leases, key);
    return st == OK ? released : st;
}

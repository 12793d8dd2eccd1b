#include "engine/tuner/tuner_spread.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct spread;

/* One device's part. */
struct share {
    struct spread *all;
    struct tune_args args;
    struct sparse_policy policy; /* with its own layers on */
    struct par *par;
    struct tuned *out; /* [n_bounds] */
    struct tune_times times;
    int n_done;
    pthread_t thread;
    bool started;
    enum status status;
    char message[1024];
};

struct spread {
    const struct tune_args *a;
    pthread_mutex_t lock; /* around everything of the caller's */
    struct share *shares;
    int n, n_total;
};

static enum status get_curve(
    void *ctx, int layer, int head, int part, int sample, struct curve *out, bool *found)
{
    struct spread *s = ctx;
    pthread_mutex_lock(&s->lock);
    enum status st = s->a->curves.get(s->a->curves.ctx, layer, head, part, sample, out, found);
    pthread_mutex_unlock(&s->lock);
    return st;
}

static enum status put_curve(
    void *ctx, int layer, int head, int part, int sample, const struct curve *c)
{
    struct spread *s = ctx;
    pthread_mutex_lock(&s->lock);
    enum status st = s->a->curves.put(s->a->curves.ctx, layer, head, part, sample, c);
    pthread_mutex_unlock(&s->lock);
    return st;
}

static enum status finish_layer(void *ctx, int layer)
{
    struct spread *s = ctx;
    pthread_mutex_lock(&s->lock);
    enum status st = s->a->curves.layer_done(s->a->curves.ctx, layer);
    pthread_mutex_unlock(&s->lock);
    return st;
}

static void show_progress(void *ctx, int done, int total)
{
    struct share *x = ctx;
    struct spread *s = x->all;
    int sum = 0;
    (void)total;
    pthread_mutex_lock(&s->lock);
    x->n_done = done;
    for (int i = 0; i < s->n; i++) sum += s->shares[i].n_done;
    s->a->progress(s->a->progress_ctx, sum, s->n_total);
    pthread_mutex_unlock(&s->lock);
}

static void *run_share(void *opaque)
{
    struct share *x = opaque;
    x->status = tune(&x->args, x->out, &x->times);
    if (x->status != OK) snprintf(x->message, sizeof x->message, "%s", status_message());
    return NULL;
}

static enum status share_init(struct spread *s, int i, const struct weights *weights, int n_threads)
{
    struct share *x = &s->shares[i];
    *x = (struct share){.all = s, .args = *s->a};
    const struct curve_store *c = &s->a->curves;
    TRY(policy_copy(&x->policy, s->a->policy));
    for (int l = 0, turn = 0; l < x->policy.n_layers; l++)
        if (x->policy.layer_on[l]) x->policy.layer_on[l] = turn++ % s->n == i;
    TRY(par_open(&x->par, n_threads));
    x->out = calloc((size_t)s->a->n_bounds, sizeof *x->out);
    if (!x->out) return fail(ERR_MEMORY, "no memory for %d tuned sets", s->a->n_bounds);
    x->args.weights = weights;
    x->args.par = x->par;
    x->args.policy = &x->policy;
    x->args.curves = (struct curve_store){s, c->get ? get_curve : NULL, c->put ? put_curve : NULL,
        c->layer_done ? finish_layer : NULL};
    if (s->a->progress) x->args.progress = show_progress;
    x->args.progress_ctx = x;
    return OK;
}

static void share_clear(struct share *x, int n_bounds)
{
    for (int b = 0; x->out && b < n_bounds; b++) tuned_clear(&x->out[b]);
    free(x->out);
    par_close(&x->par);
    policy_clear(&x->policy);
}

/* The first share's results become the whole, the other shares' layers join them. */
static void merge(struct spread *s, struct tuned *out, struct tune_times *times)
{
    for (int b = 0; b < s->a->n_bounds; b++) {
        out[b] = s->shares[0].out[b];
        s->shares[0].out[b] = (struct tuned){0};
        policy_layers_text(s->a->policy, out[b].layers);
        size_t row = (size_t)out[b].n_heads;
        for (int i = 1; i < s->n; i++)
            for (int l = 0; l < out[b].n_layers; l++)
                if (s->shares[i].policy.layer_on[l])
                    memcpy(out[b].heads + (size_t)l * row,
                        s->shares[i].out[b].heads + (size_t)l * row, row * sizeof *out[b].heads);
    }
    for (int i = 0; i < s->n; i++) {
        const struct tune_times *t = &s->shares[i].times;
        if (i == 0) {
            *times = *t;
            continue;
        }
        times->forward_s = fmax(times->forward_s, t->forward_s);
        times->curves_s = fmax(times->curves_s, t->curves_s);
        times->verify_s = fmax(times->verify_s, t->verify_s);
        times->n_curves += t->n_curves;
        times->n_reused += t->n_reused;
        times->n_verified += t->n_verified;
    }
}

static enum status run_all(struct spread *s)
{
    for (int i = 1; i < s->n; i++) {
        struct share *x = &s->shares[i];
        x->started = pthread_create(&x->thread, NULL, run_share, x) == 0;
        if (!x->started) run_share(x); /* slower, and the same result */
    }
    run_share(&s->shares[0]);
    for (int i = 1; i < s->n; i++)
        if (s->shares[i].started) pthread_join(s->shares[i].thread, NULL);
    for (int i = 0; i < s->n; i++)
        if (s->shares[i].status != OK) return fail(s->shares[i].status, "%s", s->shares[i].message);
    return OK;
}

enum status tune_spread(const struct tune_args *a, const struct weights *const *weights, int n,
    int n_threads, struct tuned *out, struct tune_times *times)
{
    assert(n >= 1 && n <= TUNE_MAX_DEVICES);
    struct share shares[TUNE_MAX_DEVICES];
    struct spread s = {.a = a, .shares = shares};
    int n_layers = 0, n_open = 0;
    *times = (struct tune_times){0};
    for (int b = 0; b < a->n_bounds; b++) out[b] = (struct tuned){0};
    for (int l = 0; l < a->policy->n_layers; l++) n_layers += a->policy->layer_on[l];
    s.n = n < n_layers ? n : n_layers > 0 ? n_layers : 1;
    s.n_total = n_layers * a->policy->n_heads;
    if (n_threads <= 0) n_threads = par_cpu_count() / s.n;
    if (n_threads < 1) n_threads = 1;
    pthread_mutex_init(&s.lock, NULL);
    enum status st = OK;
    for (; n_open < s.n && st == OK; n_open++)
        st = share_init(&s, n_open, weights[n_open], n_threads);
    if (st == OK) st = run_all(&s);
    if (st == OK) merge(&s, out, times);
    for (int i = 0; i < n_open; i++) share_clear(&shares[i], a->n_bounds);
    pthread_mutex_destroy(&s.lock);
    return st;
}

/* Layers cut over several places, GPUs or the CPU. Each has a range of them and a session of its
 * own; the stream of a sequence goes from one to the next. Of several sequences one follows the
 * other: a thread for each place but the last runs ahead of the caller, who runs the last and hears
 * of every sequence. */
#include "engine/session_split.h"

#include "base/clock.h"
#include "engine/session_backend.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AHEAD = 2 }; /* streams that wait in front of a place at most */

struct split {
    struct weights_device base;
    int n;
    int first[MAX_SPLIT + 1];       /* layers: [first[p], first[p + 1]) */
    struct weights part[MAX_SPLIT]; /* borrowed but for where they are */
};

struct session_split {
    const struct split *on;
    int width; /* of a stream's row */
    struct session_plan plan;
    struct par *par[MAX_SPLIT];
    void *state[MAX_SPLIT];          /* the places' own sessions */
    float *stream[MAX_SPLIT][AHEAD]; /* in front of a place, in it: [capacity, hidden] */
};

static const struct session_backend *backend_of(const struct split *on, int p)
{
    const struct weights_device *d = on->part[p].on_device;
    return d ? d->backend : &session_backend_cpu;
}

/* What the most loaded place takes. */
static struct session_plan split_plan(
    const struct weights *w, int capacity, int chunk, bool once, int n_threads)
{
    const struct split *on = (const struct split *)w->on_device;
    struct session_plan most = {0};
    for (int p = 0; p < on->n; p++) {
        struct session_plan x =
            backend_of(on, p)->plan(&on->part[p], capacity, chunk, once, n_threads);
        if (x.total_bytes > most.total_bytes) most = x;
    }
    most.total_bytes += AHEAD * (size_t)capacity * (size_t)w->config.hidden_size * sizeof(float);
    return most;
}

static struct session_scratch split_scratch(const struct weights *w,
    const struct session_plan *plan, const struct sparse_policy *p, int n_threads)
{
    const struct split *on = (const struct split *)w->on_device;
    struct session_scratch all = {0};
    for (int i = 0; i < on->n; i++) {
        struct session_scratch x = backend_of(on, i)->scratch(&on->part[i], plan, p, n_threads);
        if (x.bytes > all.bytes) all.bytes = x.bytes;
        all.host_bytes += x.host_bytes;
    }
    return all;
}

static size_t stream_values(const struct session_split *s)
{
    return (size_t)s->plan.capacity * (size_t)s->width;
}

static void split_close(void **state)
{
    struct session_split *s = *state;
    if (!s) return;
    for (int p = 0; p < s->on->n; p++) {
        const struct session_backend *b = backend_of(s->on, p);
        for (int i = 0; i < AHEAD; i++)
            if (s->stream[p][i]) b->carry_close(s->state[p], &s->stream[p][i], stream_values(s));
        b->close(&s->state[p]);
        par_close(&s->par[p]);
    }
    free(s);
    *state = NULL;
}

static enum status open_part(struct session_split *s, int p, const struct session_plan *plan,
    int n_threads, const char *impl)
{
    const struct session_backend *b = backend_of(s->on, p);
    TRY(par_open(&s->par[p], n_threads));
    TRY(b->open(&s->state[p], &s->on->part[p], s->par[p], plan, impl));
    for (int i = 0; i < AHEAD && p > 0; i++)
        TRY(b->carry_open(s->state[p], &s->stream[p][i], stream_values(s)));
    return OK;
}

static enum status split_open(void **state, const struct weights *w, struct par *par,
    const struct session_plan *plan, const char *impl)
{
    struct session_split *s = *state = calloc(1, sizeof *s);
    if (!s) return fail(ERR_MEMORY, "no memory for a session");
    s->on = (const struct split *)w->on_device;
    s->width = w->config.hidden_size;
    s->plan = *plan;
    int n_threads = par_threads(par) / s->on->n;
    enum status st = OK;
    for (int p = 0; p < s->on->n && st == OK; p++)
        st = open_part(s, p, plan, n_threads > 0 ? n_threads : 1, impl);
    if (st != OK) split_close(state);
    return st;
}

/* The layers of a call that are in one place; `slot`: which of the streams in front of it. */
static enum status run_part(struct session_split *s, int p, int position, int total_len,
    const struct forward_args *f, int slot, struct str *impls)
{
    int all = s->on->part[p].config.n_layers, own = s->on->first[p], own_end = s->on->first[p + 1];
    int begin = f->residual_in || f->carry_in ? f->first_layer : 0,
        stop = f->end_layer > 0 ? f->end_layer : all;
    int first = begin > own ? begin : own, end = stop < own_end ? stop : own_end;
    if (first >= end) return OK;
    bool last = end == stop;
    struct forward_args x = *f;
    x.first_layer = first;
    x.end_layer = end;
    if (first > begin) {
        x.residual_in = NULL;
        x.carry_in = s->stream[p][slot];
    }
    if (!last) {
        x.carry_out = s->stream[p + 1][slot];
        x.hidden = x.last_hidden = x.last_logits = x.nll = NULL;
    }
    bool captures =
        f->capture_layer >= first && (f->capture_layer < end || (last && f->capture_layer == end));
    if (!captures) x.residual_out = NULL;
    return backend_of(s->on, p)->forward(s->state[p], position, total_len, &x, impls);
}

static enum status split_forward(
    void *state, int position, int total_len, const struct forward_args *f, struct str *impls)
{
    struct session_split *s = state;
    for (int p = 0; p < s->on->n; p++) TRY(run_part(s, p, position, total_len, f, 0, impls));
    return OK;
}

/* Sequences one behind the other. Numbers of sequences, under the lock. */
struct queue {
    struct session_split *s;
    const struct forward_args *list;
    int n;
    double *seconds; /* [n] */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int passed[MAX_SPLIT]; /* sequences that a place is through with */
    bool quit;
    int failed; /* the first sequence that an error is about; n: none */
    enum status status;
    char message[1024];
    struct str impls[MAX_SPLIT];
};

struct follower {
    struct queue *q;
    int part;
    pthread_t thread;
    bool started;
};

/* Whether this place may take the sequence: it stands in front, and there is room behind. */
static bool may_run(const struct queue *q, int p, int i)
{
    bool here = p == 0 || q->passed[p - 1] > i;
    bool room = p == q->s->on->n - 1 || i < q->passed[p + 1] + AHEAD;
    return here && room;
}

/* False where nothing more is to be done: an earlier place has failed at it, or all end. */
static bool take(struct queue *q, int p, int i)
{
    pthread_mutex_lock(&q->lock);
    while (!q->quit && q->failed > i && !may_run(q, p, i)) pthread_cond_wait(&q->changed, &q->lock);
    bool ok = !q->quit && q->failed > i;
    pthread_mutex_unlock(&q->lock);
    return ok;
}

static enum status run_one(struct queue *q, int p, int i)
{
    const struct forward_args *f = &q->list[i];
    int64_t t0 = clock_ns();
    enum status st =
        run_part(q->s, p, 0, f->total_len > f->n ? f->total_len : f->n, f, i % AHEAD, &q->impls[p]);
    pthread_mutex_lock(&q->lock);
    q->seconds[i] += (double)(clock_ns() - t0) * 1e-9;
    q->passed[p] = i + 1;
    if (st != OK && i < q->failed) {
        q->failed = i;
        q->status = st;
        snprintf(q->message, sizeof q->message, "%s", status_message());
    }
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    return st;
}

static void *run_follower(void *opaque)
{
    struct follower *x = opaque;
    for (int i = 0; i < x->q->n && take(x->q, x->part, i); i++)
        if (run_one(x->q, x->part, i) != OK) break;
    return NULL;
}

static enum status run_last(struct queue *q, session_done *done, void *ctx, int *failed)
{
    for (int i = 0; i < q->n; i++) {
        bool ok = take(q, q->s->on->n - 1, i) && run_one(q, q->s->on->n - 1, i) == OK;
        *failed = i;
        if (!ok) return fail(q->status, "%s", q->message);
        TRY(done(ctx, i, q->seconds[i]));
    }
    return OK;
}

static enum status split_each(void *state, const struct forward_args *list, int n,
    session_done *done, void *ctx, int *failed, struct str *impls)
{
    struct session_split *s = state;
    struct follower followers[MAX_SPLIT];
    struct queue q = {.s = s, .list = list, .n = n, .failed = n};
    q.seconds = calloc((size_t)n + 1, sizeof *q.seconds);
    if (!q.seconds) return fail(ERR_MEMORY, "no memory for a list of %d sequences", n);
    pthread_mutex_init(&q.lock, NULL);
    pthread_cond_init(&q.changed, NULL);
    enum status st = OK;
    int n_threads = 0;
    for (; n_threads < s->on->n - 1 && st == OK; n_threads++) {
        followers[n_threads] = (struct follower){.q = &q, .part = n_threads};
        if (pthread_create(
                &followers[n_threads].thread, NULL, run_follower, &followers[n_threads]) != 0) {
            st = fail(ERR_MEMORY, "cannot start a thread for each place");
            break;
        }
    }
    if (st == OK) st = run_last(&q, done, ctx, failed);
    pthread_mutex_lock(&q.lock);
    q.quit = true;
    pthread_cond_broadcast(&q.changed);
    pthread_mutex_unlock(&q.lock);
    for (int i = 0; i < n_threads; i++) pthread_join(followers[i].thread, NULL);
    for (int p = 0; p < s->on->n; p++) {
        session_note_impls(impls, str_get(&q.impls[p]));
        str_clear(&q.impls[p]);
    }
    pthread_cond_destroy(&q.changed);
    pthread_mutex_destroy(&q.lock);
    free(q.seconds);
    return st;
}

static enum status split_heads(void *state, const struct heads_args *a)
{
    (void)state, (void)a;
    return fail(ERR_UNSUPPORTED, "single heads are offered where all layers are in one place");
}

static enum status split_logits(void *state, int n, const float *hidden, float *logits)
{
    struct session_split *s = state;
    return backend_of(s->on, s->on->n - 1)->logits(s->state[s->on->n - 1], n, hidden, logits);
}

static enum status split_compare(void *state, int n, struct rows_at dense, struct rows_at sparse,
    const int32_t *next, struct token_metrics *out, struct tensor_sums *sums)
{
    struct session_split *s = state;
    return backend_of(s->on, s->on->n - 1)
        ->compare(s->state[s->on->n - 1], n, dense, sparse, next, out, sums);
}

/* Streams of the caller's own wait nowhere here: they serve weights that come layer by layer. */
static size_t split_carry_room(void *state)
{
    (void)state;
    return 0;
}

static enum status split_carry_open(void *state, float **at, size_t values)
{
    (void)state, (void)values;
    *at = NULL;
    return fail(ERR_UNSUPPORTED, "layers cut over several GPUs do not come one by one");
}

static void split_carry_close(void *state, float **at, size_t values)
{
    (void)state, (void)values;
    *at = NULL;
}

static const struct session_backend session_backend_split = {
    "cuda", /* what it is cut over has its results */
    split_plan,
    split_scratch,
    split_open,
    split_close,
    split_forward,
    split_heads,
    split_logits,
    split_compare,
    split_carry_room,
    split_carry_open,
    split_carry_close,
    split_each,
    NULL,
    NULL,
    NULL,
};

/* The place. */

static enum status split_memory(
    const struct weights_device *d, size_t *free_bytes, size_t *total_bytes)
{
    const struct split *on = (const struct split *)d;
    *free_bytes = *total_bytes = SIZE_MAX;
    for (int p = 0; p < on->n; p++) {
        size_t left, all;
        TRY(weights_device_memory(&on->part[p], &left, &all));
        if (left < *free_bytes) *free_bytes = left;
        if (all < *total_bytes) *total_bytes = all;
    }
    return OK;
}

static void split_describe(const struct weights_device *d, struct weights_device_info *out)
{
    const struct split *on = (const struct split *)d;
    struct weights_device_info all = {.name = "cpu"};
    for (int p = 0; p < on->n; p++) {
        struct weights_device_info x;
        weights_device_describe(&on->part[p], &x);
        x.bytes += all.bytes;
        x.peak_bytes += all.peak_bytes;
        x.n_gpus += all.n_gpus;
        all = x;
    }
    *out = all;
}

static void split_release(struct weights_device **d)
{
    struct split *on = (struct split *)*d;
    if (!on) return;
    for (int p = 0; p < on->n; p++) {
        struct weights_device **part = &on->part[p].on_device;
        if (*part) (*part)->place->release(part);
    }
    free(on);
    *d = NULL;
}

/* Rows of hidden states are made and read where the last layers are. A place on the CPU says of
 * its device memory that there is none, so nobody asks for some of it. */
static struct weights_device *last_place(struct weights_device *d)
{
    struct split *on = (struct split *)d;
    return on->part[on->n - 1].on_device;
}

static enum status split_room_open(
    struct weights_device *d, float **at, size_t bytes, const char *what)
{
    struct weights_device *last = last_place(d);
    return last->place->room_open(last, at, bytes, what);
}

static void split_room_close(struct weights_device *d, float *at, size_t bytes)
{
    struct weights_device *last = last_place(d);
    last->place->room_close(last, at, bytes);
}

static enum status split_room_copy(
    struct weights_device *d, void *to, const void *from, size_t bytes, bool to_host)
{
    struct weights_device *last = last_place(d);
    return last->place->room_copy(last, to, from, bytes, to_host);
}

static const struct weights_place weights_on_split = {split_memory, split_describe, split_release,
    split_room_open, split_room_close, split_room_copy};

enum status weights_split(struct weights *w, const int *index, int n, split_place *place,
    const struct tuner_backend *tuner)
{
    int n_layers = w->config.n_layers;
    if (w->device_options.offload || w->device_options.graph)
        return fail(ERR_UNSUPPORTED,
            "layers cut over several GPUs stay there and are not repeated as a graph; drop %s",
            w->device_options.offload ? "--offload" : "--graph");
    if (n > n_layers || n > MAX_SPLIT)
        return fail(ERR_ARG, "%d layers do not go over %d places, at most %d", n_layers, n,
            n_layers < MAX_SPLIT ? n_layers : MAX_SPLIT);
    struct split *on = calloc(1, sizeof *on);
    if (!on) return fail(ERR_MEMORY, "no memory for %d places", n);
    on->base = (struct weights_device){&weights_on_split, &session_backend_split, tuner};
    struct weights_device *device = &on->base;
    enum status st = OK;
    for (on->n = 0; on->n < n && st == OK; on->n++) {
        int p = on->n;
        on->first[p] = n_layers * p / n;
        on->first[p + 1] = n_layers * (p + 1) / n;
        on->part[p] = *w;
        on->part[p].on_device = NULL;
        if (place) st = place(&on->part[p], index[p], on->first[p], on->first[p + 1]);
    }
    if (st != OK) weights_on_split.release(&device);
    else w->on_device = device;
    return st;
}

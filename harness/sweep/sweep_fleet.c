#include "harness/sweep/sweep_fleet.h"

#include "engine/tuner/tuner_spread.h"
#include "harness/measure/devices.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

_Static_assert((int)MAX_DEVICES <= (int)SWEEP_MAX_WORKERS, "every device has a worker to watch");
_Static_assert((int)MAX_DEVICES <= (int)TUNE_MAX_DEVICES, "a tuning takes all devices");

struct fleet {
    pthread_mutex_t lock; /* around the caller's event function */
    void (*event)(void *ctx, const struct sweep_event *e);
    void *event_ctx;
    int n_finished, n;
};

struct worker {
    struct sweep own, *s; /* s: own, or the caller's for the first */
    struct store *store;
    struct dense_cache cache;
    bool have_cache, started;
    pthread_t thread;
    enum status status;
    char message[1024];
};

/* Each worker knows of the cells it has looked at only; people want to know of all. */
static void tell_in_turn(void *ctx, const struct sweep_event *e)
{
    struct fleet *f = ctx;
    struct sweep_event all = *e;
    pthread_mutex_lock(&f->lock);
    f->n_finished += e->kind == SWEEP_CELL;
    all.n_finished = f->n_finished;
    all.n = f->n;
    /* for each other they wait too often to mention */
    if (e->kind != SWEEP_WAIT) f->event(f->event_ctx, &all);
    pthread_mutex_unlock(&f->lock);
}

static void *run_worker(void *opaque)
{
    struct worker *w = opaque;
    sweep_watch_begin(w->s->a.worker);
    w->status = sweep_run(w->s);
    if (w->status != OK) snprintf(w->message, sizeof w->message, "%s", status_message());
    return NULL;
}

static enum status worker_open(struct worker *w, const struct sweep_args *a,
    const struct setup *setup, int number, const char *db)
{
    struct sweep_args args = *a;
    TRY(store_open(&w->store, db, STORE_WRITE));
    TRY(dense_cache_open(&w->cache, a->machine->cache));
    w->have_cache = true;
    args.setup = setup;
    args.store = w->store;
    args.cache = &w->cache;
    args.worker = number;
    TRY(sweep_open(&w->own, &args));
    w->s = &w->own;
    return OK;
}

static void worker_close(struct worker *w)
{
    sweep_close(&w->own);
    if (w->have_cache) dense_cache_close(&w->cache);
    store_close(&w->store);
}

static void add_counters(struct sweep *to, const struct sweep *from)
{
    to->n_done += from->n_done;
    to->n_failed += from->n_failed;
    to->n_skipped += from->n_skipped;
    to->n_tunings += from->n_tunings;
    to->n_twins += from->n_twins;
    to->n_curves += from->n_curves;
    to->n_curves_reused += from->n_curves_reused;
    to->dense_s += from->dense_s;
    to->tune_s += from->tune_s;
    to->cells_s += from->cells_s;
}

static enum status run_workers(struct worker *w, int n)
{
    for (int i = 1; i < n; i++)
        w[i].started = pthread_create(&w[i].thread, NULL, run_worker, &w[i]) == 0;
    run_worker(&w[0]);
    for (int i = 1; i < n; i++)
        if (w[i].started) pthread_join(w[i].thread, NULL);
    for (int i = 0; i < n; i++)
        if (w[i].status != OK) return fail(w[i].status, "%s", w[i].message);
    return OK;
}

enum status sweep_run_fleet(struct sweep *s, const struct setup *fleet, int n, const char *db)
{
    struct fleet f = {.event = s->a.event, .event_ctx = s->a.event_ctx, .n = s->end - s->first};
    struct worker *workers = calloc((size_t)n, sizeof *workers);
    atomic_bool *begun = calloc((size_t)s->n + 1, sizeof *begun);
    int n_open = 1;
    enum status st = OK;
    if (!workers || !begun) {
        free(workers);
        free(begun);
        return fail(ERR_MEMORY, "no memory for %d workers", n);
    }
    for (int i = s->first; i < s->end; i++) f.n_finished += s->cells[i].settled;
    pthread_mutex_init(&f.lock, NULL);
    if (f.event) {
        s->a.event = tell_in_turn;
        s->a.event_ctx = &f;
    }
    s->a.fleet = fleet;
    s->a.n_fleet = n;
    pthread_rwlock_t devices;
    pthread_rwlockattr_t fair;
    pthread_rwlockattr_init(&fair); /* else workers that find cells keep a tuning waiting */
    pthread_rwlockattr_setkind_np(&fair, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&devices, &fair);
    pthread_rwlockattr_destroy(&fair);
    s->a.devices = &devices;
    s->a.begun = begun;
    workers[0].s = s;
    for (; n_open < n && st == OK; n_open++)
        st = worker_open(&workers[n_open], &s->a, &fleet[n_open], n_open, db);
    if (st == OK) st = run_workers(workers, n);
    for (int i = 1; i < n_open; i++) {
        add_counters(s, &workers[i].own);
        worker_close(&workers[i]);
    }
    /* a worker counts the other workers' cells as such */
    if (st == OK) s->n_reused = f.n - s->n_done - s->n_failed - s->n_skipped;
    s->a.event = f.event;
    s->a.event_ctx = f.event_ctx;
    s->a.begun = NULL;
    s->a.devices = NULL;
    pthread_rwlock_destroy(&devices);
    pthread_mutex_destroy(&f.lock);
    free(workers);
    free(begun);
    return st;
}

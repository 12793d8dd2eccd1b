#include "base/par.h"

#include "base/clock.h"
#include "base/xmalloc.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* Loops of a model's layer follow each other within microseconds, and waking a thread takes tens of
 * them: whoever waits looks for so long before it sleeps. */
enum { SPIN_NS = 50000 };

struct par {
    int n_threads;
    int spin_ns;        /* 0 where threads outnumber processors */
    pthread_t *threads; /* n_threads - 1 of them */
    pthread_mutex_t lock;
    pthread_cond_t wake, idle;
    atomic_uint generation; /* of the loop; written under lock */
    atomic_int n_active;    /* workers still inside the present loop; written under lock */
    int closing;
    int n;
    par_body *body;
    void *ctx;
    atomic_int next;
    int guarded; /* the caller has an xmalloc guard: no thread of the loop may end the program */
    atomic_size_t no_room; /* bytes that some thread had no memory for, plus 1; 0: all had */
};

struct worker_arg {
    struct par *p;
    int worker;
};

static _Thread_local int inside_loop;

static void drain_items(struct par *p, int worker)
{
    for (int i; (i = atomic_fetch_add(&p->next, 1)) < p->n;) p->body(p->ctx, i, worker);
}

/* Nobody jumps out of a loop that others are still in: a failure ends it, and is handed on when all
 * are out. */
static void drain(struct par *p, int worker)
{
    struct xmalloc_guard g;
    inside_loop = 1;
    if (!p->guarded) {
        drain_items(p, worker);
    } else if (XMALLOC_GUARDED(&g)) {
        drain_items(p, worker);
        xmalloc_leave(&g);
    } else {
        atomic_store(&p->no_room, g.bytes + 1);
        atomic_store(&p->next, p->n);
    }
    inside_loop = 0;
}

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Looks until `changed` says yes or the time is up; what it saw is looked at again under the lock.
 */
static void spin(struct par *p, int (*changed)(struct par *, unsigned), unsigned seen)
{
    if (!p->spin_ns) return;
    for (int64_t end = clock_ns() + p->spin_ns; clock_ns() < end;)
        for (int i = 0; i < 16; i++) {
            if (changed(p, seen)) return;
            pause_briefly();
        }
}

static int has_work(struct par *p, unsigned seen) { return atomic_load(&p->generation) != seen; }
static int all_done(struct par *p, unsigned unused)
{
    return (void)unused, atomic_load(&p->n_active) == 0;
}

static void *worker_main(void *opaque)
{
    struct worker_arg arg = *(struct worker_arg *)opaque;
    free(opaque);
    struct par *p = arg.p;
    unsigned seen = 0;
    for (;;) {
        spin(p, has_work, seen);
        pthread_mutex_lock(&p->lock);
        while (p->generation == seen && !p->closing) pthread_cond_wait(&p->wake, &p->lock);
        if (p->closing) break;
        seen = p->generation;
        pthread_mutex_unlock(&p->lock);
        drain(p, arg.worker);
        pthread_mutex_lock(&p->lock);
        if (--p->n_active == 0) pthread_cond_signal(&p->idle);
        pthread_mutex_unlock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* cgroup v2 quota in whole processors, 0 when there is none. */
static int cgroup_cpus(void)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!f) return 0;
    long quota = 0, period = 0;
    int got = fscanf(f, "%ld %ld", &quota, &period);
    fclose(f);
    return got == 2 && quota > 0 && period > 0 ? (int)((quota + period - 1) / period) : 0;
}

int par_cpu_count(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    int quota = cgroup_cpus();
    return quota > 0 && quota < n ? quota : n;
}

enum status par_open(struct par **out, int n_threads)
{
    *out = NULL;
    if (n_threads <= 0) n_threads = par_cpu_count();
    struct par *p = calloc(1, sizeof *p);
    pthread_t *threads = calloc((size_t)n_threads, sizeof *threads);
    if (!p || !threads) {
        free(p);
        free(threads);
        return fail(ERR_MEMORY, "no memory for a pool of %d threads", n_threads);
    }
    p->threads = threads;
    p->n_threads = 1;
    p->spin_ns = n_threads <= par_cpu_count() ? SPIN_NS : 0;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->idle, NULL);
    for (int i = 1; i < n_threads; i++) {
        struct worker_arg *arg = malloc(sizeof *arg);
        if (arg) *arg = (struct worker_arg){p, i};
        if (!arg || pthread_create(&p->threads[i - 1], NULL, worker_main, arg) != 0) {
            free(arg);
            par_close(&p);
            return fail(ERR_MEMORY, "cannot start thread %d of %d; ask for fewer with --threads",
                i + 1, n_threads);
        }
        p->n_threads = i + 1;
    }
    *out = p;
    return OK;
}

void par_close(struct par **pp)
{
    struct par *p = *pp;
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->closing = 1;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i + 1 < p->n_threads; i++) pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->idle);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->threads);
    free(p);
    *pp = NULL;
}

int par_threads(const struct par *p) { return p ? p->n_threads : 1; }

void par_for(struct par *p, int n, par_body *body, void *ctx)
{
    if (!p || p->n_threads == 1 || n <= 1 || inside_loop) {
        for (int i = 0; i < n; i++) body(ctx, i, 0);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->n = n;
    p->body = body;
    p->ctx = ctx;
    p->guarded = xmalloc_is_guarded();
    atomic_store(&p->no_room, 0);
    atomic_store(&p->next, 0);
    p->n_active = p->n_threads - 1;
    p->generation++;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    drain(p, 0);
    spin(p, all_done, 0);
    pthread_mutex_lock(&p->lock);
    while (p->n_active > 0) pthread_cond_wait(&p->idle, &p->lock);
    pthread_mutex_unlock(&p->lock);
    size_t no_room = atomic_load(&p->no_room);
    if (no_room) xmalloc_give_up(no_room - 1);
}

#include "results/lease.h"

#include "base/clock.h"
#include "results/db.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A lease of another that ends too late to be true, since it was first seen so. */
struct ahead {
    char *key, *owner;
    double expires;
    int64_t seen;
};

struct lease_holder {
    struct store *store;
    char *owner;
    struct str news;
    struct ahead *ahead;
    size_t n_ahead;
    int n_held;
    pthread_t thread;
    bool running;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
};

/* Owners. */

static unsigned long long start_time(long pid)
{
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "r");
    /* the name may hold anything but this, being last */
    char *p = f && fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    for (int field = 2; p && field < 22; field++) p = strchr(p + 1, ' ');
    unsigned long long start = p ? strtoull(p, NULL, 10) : 0;
    if (f) fclose(f);
    return start;
}

/* Where a process number means what it means here: this start of the kernel, and this namespace.
 * "-" where it is unknown, and then nobody is dead for us. */
static void add_place(struct str *out)
{
    char boot[64] = "";
    struct stat ns;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (f && !fgets(boot, sizeof boot, f)) boot[0] = 0;
    if (f) fclose(f);
    boot[strcspn(boot, "\n:")] = 0;
    if (boot[0] && stat("/proc/self/ns/pid", &ns) == 0)
        str_addf(out, "%s:%llu", boot, (unsigned long long)ns.st_ino);
    else str_add(out, "-:-");
}

void lease_owner(int worker, struct str *out)
{
    char host[256] = "?";
    gethostname(host, sizeof host - 1);
    for (char *p = host; *p; p++)
        if (*p == ':') *p = '-';
    str_addf(out, "%s:%ld:%llu:", host, (long)getpid(), start_time((long)getpid()));
    add_place(out);
    str_addf(out, ":%d", worker);
}

bool lease_owner_is_dead(const char *owner)
{
    struct str here = {0};
    long pid;
    unsigned long long start;
    int at = -1;
    const char *rest = strchr(owner, ':');
    add_place(&here);
    bool known = str_get(&here)[0] != '-' && rest &&
        sscanf(rest, ":%ld:%llu:%n", &pid, &start, &at) == 2 && at > 0 &&
        str_starts_with(rest + at, str_get(&here)) && rest[at + (int)here.len] == ':' && pid > 0;
    str_clear(&here);
    if (!known) return false;
    if (kill((pid_t)pid, 0) < 0 && errno == ESRCH) return true;
    unsigned long long now = start_time(pid);
    return now != 0 && now != start; /* 0: hidden from us */
}

/* Renewal. */

static double now_unix(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static enum status renew(struct store *s, const char *owner)
{
    struct cursor c = {0};
    enum status st = cursor_open(&c, s, "UPDATE lease SET expires = ? WHERE owner = ?");
    if (st == OK) {
        put_real(&c, now_unix() + LEASE_SECONDS);
        put_text(&c, owner);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

/* A handle of its own, since the holder's may be in a transaction. What fails is tried again in
 * time: the lease outlasts several tries. */
static void *keep_renewing(void *opaque)
{
    struct lease_holder *h = opaque;
    struct store *s = NULL;
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    pthread_mutex_lock(&h->lock);
    while (!h->stop) {
        at.tv_sec += LEASE_RENEW_SECONDS;
        while (!h->stop && pthread_cond_timedwait(&h->wake, &h->lock, &at) != ETIMEDOUT) {}
        if (h->stop) break;
        pthread_mutex_unlock(&h->lock);
        if (!s && store_open(&s, store_path(h->store), STORE_WRITE) != OK) s = NULL;
        if (s && renew(s, h->owner) != OK) store_close(&s);
        pthread_mutex_lock(&h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    store_close(&s);
    return NULL;
}

static enum status start_renewing(struct lease_holder *h)
{
    sigset_t all, before; /* signals are the business of the threads that were there */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&h->thread, NULL, keep_renewing, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return fail(ERR_MEMORY, "cannot start a thread that renews leases: %s", strerror(error));
    h->running = true;
    return OK;
}

/* Holders. */

enum status lease_open(struct lease_holder **out, struct store *s, int worker)
{
    struct lease_holder *h = *out = calloc(1, sizeof *h);
    if (!h) return fail(ERR_MEMORY, "no memory for a holder of leases");
    struct str owner = {0};
    lease_owner(worker, &owner);
    h->owner = owner.data;
    h->store = s;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&h->lock, NULL);
    return OK;
}

void lease_close(struct lease_holder **out)
{
    struct lease_holder *h = *out;
    if (!h) return;
    *out = NULL;
    if (h->running) {
        pthread_mutex_lock(&h->lock);
        h->stop = true;
        pthread_cond_signal(&h->wake);
        pthread_mutex_unlock(&h->lock);
        pthread_join(h->thread, NULL);
    }
    if (h->n_held > 0) {
        struct cursor c = {0};
        if (cursor_open(&c, h->store, "DELETE FROM lease WHERE owner = ?") == OK) {
            put_text(&c, h->owner);
            (void)!cursor_run(&c); /* what stays runs out */
        }
        cursor_close(&c);
    }
    for (size_t i = 0; i < h->n_ahead; i++) {
        free(h->ahead[i].key);
        free(h->ahead[i].owner);
    }
    free(h->ahead);
    str_clear(&h->news);
    pthread_cond_destroy(&h->wake);
    pthread_mutex_destroy(&h->lock);
    free(h->owner);
    free(h);
}

/* The first part of an owner, which is all that people know it by. */
static int host_length(const char *owner) { return (int)strcspn(owner, ":"); }

/* True once the lease has stood as it is for the time of a lease. */
static bool outwaited(struct lease_holder *h, const char *key, const char *owner, double expires)
{
    struct ahead *a = NULL;
    for (size_t i = 0; i < h->n_ahead && !a; i++)
        if (!strcmp(h->ahead[i].key, key)) a = &h->ahead[i];
    if (!a) {
        struct ahead *grown = realloc(h->ahead, (h->n_ahead + 1) * sizeof *grown);
        if (!grown) return false;
        h->ahead = grown;
        a = &grown[h->n_ahead++];
        *a = (struct ahead){.key = str_dup(key)};
        time_t when = (time_t)expires;
        struct tm tm;
        char utc[32] = "?";
        if (expires < 1e11 && gmtime_r(&when, &tm))
            strftime(utc, sizeof utc, "%Y-%m-%d %H:%M:%S", &tm);
        str_addf(&h->news,
            "%sa lease of %.*s lasts until %s UTC, longer than any can: a clock is wrong, there or "
            "here; if it is "
            "not renewed within %d s it counts for nothing",
            h->news.len ? "; " : "", host_length(owner), owner, utc, LEASE_SECONDS);
    }
    if (!a->owner || strcmp(a->owner, owner) || a->expires != expires) {
        free(a->owner);
        a->owner = str_dup(owner);
        a->expires = expires;
        a->seen = clock_ns();
    }
    return clock_ns() - a->seen > LEASE_SECONDS * (int64_t)1000000000;
}

/* *owner NULL: nobody has it. */
static enum status read_lease(
    struct store *s, const char *key, struct arena **arena, const char **owner, double *expires)
{
    struct cursor c = {.arena = arena};
    bool more = false;
    *owner = NULL;
    enum status st = cursor_open(&c, s, "SELECT owner, expires FROM lease WHERE key = ?");
    if (st == OK) {
        put_text(&c, key);
        st = cursor_step(&c, &more);
    }
    if (st == OK && more) {
        *owner = get_name(&c);
        *expires = get_real(&c);
    }
    cursor_close(&c);
    return st;
}

enum status lease_take(
    struct lease_holder *h, const char *key, enum lease_over over, enum lease *out)
{
    struct arena *arena = NULL;
    const char *owner;
    double expires = 0;
    str_reset(&h->news);
    TRY(store_lease(h->store, key, h->owner, LEASE_SECONDS, over, out));
    if (*out == LEASE_BUSY) {
        enum status st = read_lease(h->store, key, &arena, &owner, &expires);
        bool is_void = st == OK && owner &&
            (lease_owner_is_dead(owner) ||
                (expires > now_unix() + LEASE_SECONDS + LEASE_RENEW_SECONDS &&
                    outwaited(h, key, owner, expires)));
        if (is_void) st = store_lease_release(h->store, key, owner);
        if (is_void && st == OK)
            st = store_lease(h->store, key, h->owner, LEASE_SECONDS, over, out);
        arena_free(&arena);
        TRY(st);
    }
    if (*out != LEASE_TAKEN) return OK;
    h->n_held++;
    return h->running ? OK : start_renewing(h);
}

enum status lease_drop(struct lease_holder *h, const char *key)
{
    return store_lease_release(h->store, key, h->owner);
}

const char *lease_news(struct lease_holder *h) { return str_get(&h->news); }

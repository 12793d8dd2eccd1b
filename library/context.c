/* Contexts, and the border between this library and its host. */
#include "library/parts.h"

#include "base/xmalloc.h"
#include "version.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert((int)SG_ERR_ARG == ERR_ARG && (int)SG_ERR_IO == ERR_IO &&
        (int)SG_ERR_FORMAT == ERR_FORMAT && (int)SG_ERR_MEMORY == ERR_MEMORY &&
        (int)SG_ERR_UNSUPPORTED == ERR_UNSUPPORTED && (int)SG_ERR_DEVICE == ERR_DEVICE &&
        (int)SG_ERR_NUMERIC == ERR_NUMERIC && (int)SG_ERR_CANCELLED == ERR_CANCELLED,
    "the numbers of statuses are promised to other programs");

int sg_api_version(void) { return SG_API_VERSION; }
const char *sg_version(void) { return SG_VERSION; }
const char *sg_message(void) { return status_message(); }
const char *sg_status_name(enum sg_status status) { return status_name((enum status)status); }

int sg_has_cuda(void)
{
#ifdef SG_HAVE_CUDA
    return 1;
#else
    return 0;
#endif
}

void sg_free(void *p) { free(p); }

static enum status no_room(size_t bytes)
{
    return fail(ERR_MEMORY,
        "no room for %zu bytes more; give the process more memory, or ask for less", bytes);
}

enum sg_status border(border_body *body, void *args)
{
    struct xmalloc_guard g;
    if (!XMALLOC_GUARDED(&g)) return (enum sg_status)no_room(g.bytes);
    enum status st = body(args);
    xmalloc_leave(&g);
    return (enum sg_status)st;
}

static enum sg_status guarded(struct sg_context *c, border_body *body, void *args)
{
    struct xmalloc_guard g;
    if (!XMALLOC_GUARDED(&g)) {
        c->broken = true;
        return (enum sg_status)no_room(g.bytes);
    }
    enum status st = body(args);
    xmalloc_leave(&g);
    return (enum sg_status)st;
}

enum sg_status border_in(struct sg_context *c, border_body *body, void *args)
{
    if (!c) return (enum sg_status)fail(ERR_ARG, "no context: sg_open() makes one");
    if (c->pid != getpid())
        return (enum sg_status)fail(ERR_ARG,
            "this context was opened by process %d and this is %d, which has none of its threads; "
            "open one behind fork()",
            c->pid, getpid());
    if (pthread_mutex_lock(&c->lock) != 0)
        return (enum sg_status)fail(ERR_ARG,
            "called from a callback of a call with the same context; open another for that");
    enum sg_status st;
    if (c->broken)
        st = (enum sg_status)fail(ERR_MEMORY,
            "an earlier call ran out of memory in the middle of its work; close this context and "
            "the handles that were used with it");
    else st = guarded(c, body, args);
    pthread_mutex_unlock(&c->lock);
    return st;
}

enum status context_scratch(struct sg_context *c, size_t bytes)
{
    if (c->scratch_bytes >= bytes) return OK;
    free(c->scratch);
    c->scratch_bytes = 0;
    c->scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!c->scratch) return fail(ERR_MEMORY, "no memory for %zu bytes of scratch", bytes);
    c->scratch_bytes = bytes;
    return OK;
}

struct opening {
    struct sg_context **out;
    int n_threads;
};

static enum status open_body(void *args)
{
    struct opening *o = args;
    if (o->n_threads < 0)
        return fail(ERR_ARG, "n_threads: found %d, expected 0 (all) or more", o->n_threads);
    struct sg_context *c = calloc(1, sizeof *c);
    if (!c) return fail(ERR_MEMORY, "no memory for a context");
    enum status st = par_open(&c->par, o->n_threads);
    if (st != OK) {
        free(c);
        return st;
    }
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&c->lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    c->pid = getpid();
    *o->out = c;
    return OK;
}

enum sg_status sg_open(struct sg_context **out, int n_threads)
{
    if (!out) return (enum sg_status)fail(ERR_ARG, "sg_open: out is NULL");
    *out = NULL;
    return border(open_body, &(struct opening){out, n_threads});
}

void sg_close(struct sg_context **context)
{
    if (!context || !*context) return;
    struct sg_context *c = *context;
    if (c->pid == getpid()) {
        pthread_mutex_lock(&c->lock); /* whoever is inside comes out first */
        pthread_mutex_unlock(&c->lock);
        par_close(&c->par);
        pthread_mutex_destroy(&c->lock);
    } /* else its threads live in another process, and what they share is theirs */
    free(c->scratch);
    free(c);
    *context = NULL;
}

int sg_threads(const struct sg_context *context) { return context ? par_threads(context->par) : 0; }

enum status struct_take(
    void *to, size_t size, const void *from, size_t from_size, size_t least, const char *what)
{
    if (!from) return fail(ERR_ARG, "%s: found NULL, expected a struct", what);
    if (from_size < least || from_size > 65536)
        return fail(ERR_ARG, "%s.size: found %zu, expected sizeof of the struct, %zu", what,
            from_size, size);
    for (size_t i = size; i < from_size;
         i++) /* of a newer header: what this library does not know must not be asked for */
        if (((const char *)from)[i])
            return fail(ERR_UNSUPPORTED,
                "%s has %zu bytes and sets some that version " SG_VERSION
                " (%zu bytes) does not know; "
                "install a newer libsparsegauge",
                what, from_size, size);
    memset(to, 0, size);
    memcpy(to, from, from_size < size ? from_size : size);
    return OK;
}

_Static_assert(sizeof(struct sg_ledger) == 128 &&
        sizeof(struct head_ledger) <= sizeof(struct sg_ledger) &&
        offsetof(struct sg_ledger, forced_sink) == offsetof(struct head_ledger, forced_sink) &&
        offsetof(struct sg_ledger, calls_sparse) == offsetof(struct head_ledger, calls_sparse) &&
        offsetof(struct sg_ledger, calls_eight) == offsetof(struct head_ledger, calls_eight) &&
        offsetof(struct sg_ledger, tiles_corrected) ==
            offsetof(struct head_ledger, tiles_corrected) &&
        offsetof(struct sg_ledger, calls_dense_cost) ==
            offsetof(struct head_ledger, calls_dense_cost),
    "one ledger, two names, and room for more counters under the same SG_API_VERSION");

static struct head_ledger ledger_inside(const struct sg_ledger *l)
{
    struct head_ledger own;
    memcpy(&own, l, sizeof own);
    return own;
}

void ledger_give(struct sg_ledger *to, const struct head_ledger *from, size_t n)
{
    for (size_t i = 0; to && i < n; i++) {
        struct head_ledger sum = ledger_inside(&to[i]);
        head_ledger_add(&sum, &from[i]);
        memcpy(&to[i], &sum, sizeof sum);
    }
}

enum sg_status sg_gpu_ledger_read(const void *copy, int n_heads, struct sg_ledger *ledger)
{
    if (!copy || !ledger || n_heads < 0)
        return (enum sg_status)fail(
            ERR_ARG, "%s is NULL, or n_heads (%d) below 0", copy ? "ledger" : "copy", n_heads);
    for (int i = 0; i < n_heads; i++) { /* they stand close together there */
        struct head_ledger one;
        memcpy(&one, (const char *)copy + sizeof one * (size_t)i, sizeof one);
        ledger_give(&ledger[i], &one, 1);
    }
    return SG_OK;
}

void sg_ledger_add(struct sg_ledger *to, const struct sg_ledger *from)
{
    struct head_ledger own = ledger_inside(from);
    ledger_give(to, &own, 1);
}

double sg_sparsity(const struct sg_ledger *ledger)
{
    struct head_ledger own = ledger_inside(ledger);
    return ledger_sparsity(&own);
}

double sg_qk_sparsity(const struct sg_ledger *ledger)
{
    struct head_ledger own = ledger_inside(ledger);
    return ledger_qk_sparsity(&own);
}

double sg_pv_sparsity(const struct sg_ledger *ledger)
{
    struct head_ledger own = ledger_inside(ledger);
    return ledger_pv_sparsity(&own);
}

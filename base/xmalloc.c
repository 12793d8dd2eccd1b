#include "base/xmalloc.h"

#include <stdlib.h>

void (*xmalloc_failed)(size_t bytes);

static _Thread_local struct xmalloc_guard *guard;

void xmalloc_enter(struct xmalloc_guard *g)
{
    g->bytes = 0;
    g->outer = guard;
    guard = g;
}

void xmalloc_leave(struct xmalloc_guard *g) { guard = g->outer; }

int xmalloc_is_guarded(void) { return guard != NULL; }

void xmalloc_give_up(size_t bytes)
{
    struct xmalloc_guard *g = guard;
    if (g) {
        guard = g->outer;
        g->bytes = bytes;
        longjmp(g->at, 1);
    }
    if (xmalloc_failed) xmalloc_failed(bytes);
    abort();
}

static void *checked(void *p, size_t bytes)
{
    if (!p) xmalloc_give_up(bytes);
    return p;
}

void *xmalloc(size_t bytes) { return checked(malloc(bytes ? bytes : 1), bytes); }

void *xcalloc(size_t n, size_t bytes)
{
    return checked(calloc(n ? n : 1, bytes ? bytes : 1), n * bytes);
}

void *xaligned(size_t bytes) { return checked(aligned_alloc(64, (bytes + 64) / 64 * 64), bytes); }

void *xrealloc(void *p, size_t bytes) { return checked(realloc(p, bytes ? bytes : 1), bytes); }

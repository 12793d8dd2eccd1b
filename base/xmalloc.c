#include "base/xmalloc.h"

#include <stdlib.h>

void (*xmalloc_failed)(size_t bytes);

static void *checked(void *p, size_t bytes)
{
    if (p) return p;
    if (xmalloc_failed) xmalloc_failed(bytes);
    abort();
}

void *xmalloc(size_t bytes) { return checked(malloc(bytes ? bytes : 1), bytes); }

void *xcalloc(size_t n, size_t bytes)
{
    return checked(calloc(n ? n : 1, bytes ? bytes : 1), n * bytes);
}

void *xaligned(size_t bytes) { return checked(aligned_alloc(64, (bytes + 64) / 64 * 64), bytes); }

void *xrealloc(void *p, size_t bytes) { return checked(realloc(p, bytes ? bytes : 1), bytes); }

/* Small allocations. When there is no memory for them the program ends, since with a few kilobytes
 * missing nothing sensible can be done. What may be large, or follows from a file, is allocated by
 * malloc() and fails by ERR_MEMORY with what it needs.
 */
#ifndef SG_BASE_XMALLOC_H
#define SG_BASE_XMALLOC_H

#include <stddef.h>

void *xmalloc(size_t bytes) __attribute__((malloc, returns_nonnull));
void *xcalloc(size_t n, size_t bytes) __attribute__((malloc, returns_nonnull)); /* zeroed */
/* on a line of the cache: 64 */
void *xaligned(size_t bytes) __attribute__((malloc, returns_nonnull));
void *xrealloc(void *p, size_t bytes) __attribute__((returns_nonnull));

/* Who says so and ends the program; must not come back. Without one it aborts. Called with the
 * bytes that were asked for. */
extern void (*xmalloc_failed)(size_t bytes);

#endif

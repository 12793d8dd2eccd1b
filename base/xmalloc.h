/* Small allocations. With a few kilobytes missing nothing sensible can be done where they are asked
 * for, so these do not fail: the program ends, or, in a library, whose host must not, the call
 * under a guard does. What may be large, or follows from a file, is allocated by malloc() and fails
 * by ERR_MEMORY with what it needs.
 */
#ifndef SG_BASE_XMALLOC_H
#define SG_BASE_XMALLOC_H

#include <setjmp.h>
#include <stddef.h>

void *xmalloc(size_t bytes) __attribute__((malloc, returns_nonnull));
void *xcalloc(size_t n, size_t bytes) __attribute__((malloc, returns_nonnull)); /* zeroed */
/* on a line of the cache: 64 */
void *xaligned(size_t bytes) __attribute__((malloc, returns_nonnull));
void *xrealloc(void *p, size_t bytes) __attribute__((returns_nonnull));

/* Who says so and ends the program; must not come back. Without one it aborts. Called with the
 * bytes that were asked for. */
extern void (*xmalloc_failed)(size_t bytes);

/* Where a failure on this thread jumps to instead, until xmalloc_leave(); guards nest. What was
 * allocated behind the guard is lost then, and what was being changed may be half changed: close
 * it.
 *
 *   struct xmalloc_guard g;
 *   if (XMALLOC_GUARDED(&g)) { …; xmalloc_leave(&g); } else { … g.bytes … }
 *
 * Locals that are written behind it and read in the second branch must be volatile. The guard is
 * off in that branch. */
struct xmalloc_guard {
    jmp_buf at;
    size_t bytes; /* that there was no room for */
    struct xmalloc_guard *outer;
};
void xmalloc_enter(struct xmalloc_guard *g);
void xmalloc_leave(struct xmalloc_guard *g);
#define XMALLOC_GUARDED(g) (xmalloc_enter(g), setjmp((g)->at) == 0)
/* A guard is set on this thread. */
int xmalloc_is_guarded(void);
/* What a failed allocation does: for one that failed on another thread, on behalf of this one. */
void xmalloc_give_up(size_t bytes) __attribute__((noreturn));

#endif

/* Strings and small arrays that live and die together with the list that shows them. */
#ifndef SG_RESULTS_POOL_H
#define SG_RESULTS_POOL_H

#include <stddef.h>

struct pool; /* opaque; NULL is an empty one */

/* Zeroed memory, aligned for any type; aborts when there is none (base/str.h gives the reason). *p NULL makes
 * the pool. */
void *pool_alloc(struct pool **p, size_t size);
/* A copy; NULL stays NULL. */
char *pool_str(struct pool **p, const char *text);
void *pool_copy(struct pool **p, const void *data, size_t size);
void pool_free(struct pool **p);

#endif

/* Strings and small arrays that live and die together with the list that shows them. */
#ifndef SG_BASE_ARENA_H
#define SG_BASE_ARENA_H

#include <stddef.h>

struct arena; /* opaque; NULL is an empty one */

/* Zeroed memory, aligned for any type; aborts when there is none (base/str.h gives the reason). *p
 * NULL makes the pool. */
void *arena_alloc(struct arena **p, size_t size);
/* A copy; NULL stays NULL. */
char *arena_str(struct arena **p, const char *text);
void *arena_copy(struct arena **p, const void *data, size_t size);
void arena_free(struct arena **p);

#endif

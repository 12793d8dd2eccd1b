#include "base/arena.h"

#include "base/xmalloc.h"
#include <stdlib.h>
#include <string.h>

struct chunk {
    struct chunk *next;
    size_t used, size;
    max_align_t data[];
};

struct arena {
    struct chunk *first; /* the one being filled */
};

#define CHUNK_BYTES (32 * 1024)

void *arena_alloc(struct arena **p, size_t size)
{
    if (!*p) {
        *p = xcalloc(1, sizeof **p);
    }
    size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    struct chunk *c = (*p)->first;
    if (!c || c->size - c->used < size) {
        size_t room = size > CHUNK_BYTES ? size : CHUNK_BYTES;
        c = xmalloc(sizeof *c + room);
        c->used = 0;
        c->size = room;
        c->next = (*p)->first;
        (*p)->first = c;
    }
    void *out = (char *)c->data + c->used;
    c->used += size;
    return memset(out, 0, size);
}

void *arena_copy(struct arena **p, const void *data, size_t size)
{
    void *out = arena_alloc(p, size);
    if (size) memcpy(out, data, size);
    return out;
}

char *arena_str(struct arena **p, const char *text)
{
    return text ? arena_copy(p, text, strlen(text) + 1) : NULL;
}

void arena_free(struct arena **p)
{
    if (!*p) return;
    for (struct chunk *c = (*p)->first, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    free(*p);
    *p = NULL;
}

/* Growable arrays of the tokenizer that refuse politely when memory ends. */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_GROW_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_GROW_H

#include "base/status.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Make room for `need` items of `size` bytes; `array` is the address of the owning pointer, *cap
 * the present room in items. */
static inline enum status grow_bytes(void *array, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap) return OK;
    size_t cap_new = *cap ? *cap : 16;
    while (cap_new < need) cap_new *= 2;
    void *p;
    memcpy(&p, array, sizeof p);
    p = realloc(p, cap_new * size);
    if (!p) return fail(ERR_MEMORY, "tokenizer: no memory for %zu MiB", (cap_new * size) >> 20);
    memcpy(array, &p, sizeof p);
    *cap = cap_new;
    return OK;
}

#define GROW(array, cap, need) grow_bytes(&(array), &(cap), (need), sizeof *(array))

#endif

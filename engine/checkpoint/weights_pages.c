/* Which pages of the mapped files are resident while layers are brought one after the other. */
#include "engine/checkpoint/weights.h"

#include <sys/mman.h>
#include <unistd.h>

/* Advice on whole pages. Only where a file is behind them: pages of other memory do not come back.
 */
static void advise(const struct weights *w, const void *at, size_t bytes, int what)
{
    const uint8_t *from = at;
    for (int i = 0; i < w->files.n_files && bytes; i++) {
        const struct file_map *m = &w->files.files[i].map;
        if (from < m->data || from + bytes > m->data + m->size) continue;
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)from / page * page;
        (void)!madvise((void *)begin, (uintptr_t)from + bytes - begin, what);
        return;
    }
}

static void advise_matrix(const struct weights *w, const struct linear *l, int what)
{
    advise(w, l->weight, (size_t)l->m * (size_t)l->k * dtype_size(l->dtype), what);
}

static void advise_layer(const struct weights *w, int layer, int what)
{
    const struct layer_weights *l = &w->layers[layer];
    const struct linear *all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) advise_matrix(w, all[i], what);
}

size_t weights_layer_bytes(const struct weights *w, size_t width)
{
    size_t most = 0;
    for (int i = 0; i < w->config.n_layers; i++) {
        const struct layer_weights *l = &w->layers[i];
        const struct linear *all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        size_t bytes = 0;
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            bytes +=
                (size_t)all[k]->m * (size_t)all[k]->k * (width ? width : dtype_size(all[k]->dtype));
        if (bytes > most) most = bytes;
    }
    return most;
}

void weights_drop_pages(const struct weights *w, const void *at, size_t bytes)
{
    advise(w, at, bytes, MADV_DONTNEED);
}

void weights_enter_layer(const struct weights *w, int layer)
{
    if (!w->device_options.offload || *w->entered == layer) return;
    int n = w->config.n_layers, before = *w->entered;
    *w->entered = layer;
    if (before >= 0 && before != (layer + 1) % n) advise_layer(w, before, MADV_DONTNEED);
    advise_matrix(w, &w->embedding, MADV_DONTNEED);
    advise_matrix(w, &w->head, MADV_DONTNEED);
    advise_layer(w, layer, MADV_WILLNEED); /* begun already, unless the walk began here */
    advise_layer(w, (layer + 1) % n, MADV_WILLNEED);
}

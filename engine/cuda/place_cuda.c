/* Weights are placed on a GPU: here what runs sessions there, what tunes there and what holds the
 * weights meet. */
#include "engine/cuda/session_cuda.h"
#include "engine/cuda/weights_cuda.h"
#include "engine/session_split.h"
#include "engine/tuner/tuner_parts.h"
#include "kernels/cuda/device_cuda.h"

#include <stdlib.h>

static enum status place_part(struct weights *w, int index, int first, int end)
{
    const char *why = weights_cuda_refuses(&w->config);
    if (why) return fail(ERR_UNSUPPORTED, "%s: %s; run it with --device cpu", w->dir, why);
    if (device_cuda.count() == 0) return ERR_DEVICE; /* with its reason */
    struct weights_cuda *on = calloc(1, sizeof *on);
    if (!on) return fail(ERR_MEMORY, "no memory for a device");
    on->base =
        (struct weights_device){&weights_on_cuda, &session_backend_cuda, &tuner_backend_cuda};
    on->impl = &device_cuda;
    pthread_mutex_init(&on->lock, NULL);
    struct weights_device *device = &on->base;
    enum status st = weights_cuda_fill(on, w, index, first, end);
    if (st != OK) weights_on_cuda.release(&device);
    else w->on_device = device;
    return st;
}

enum status weights_place_cuda(struct weights *w, int index)
{
    return place_part(w, index, 0, w->config.n_layers);
}

static const char *tuner_refuses(
    const struct weights *w, const struct sparse_policy *p, int longest)
{
    (void)w, (void)p, (void)longest;
    return "its layers are on several GPUs (with --device cuda --offload one makes them)";
}

/* Never opened: it refuses everything. */
static const struct tuner_backend tuner_elsewhere = {.name = "cuda", .refuses = tuner_refuses};

enum status weights_place_split(struct weights *w, const int *index, int n)
{
    TRY(weights_split(w, index, n, place_part, &tuner_elsewhere));
    for (int p = 1; p < n; p++) device_cuda_reach(index[p - 1], index[p]);
    return OK;
}

enum status weights_cuda_look(
    int index, struct weights_device_info *out, size_t *free_bytes, size_t *total_bytes)
{
    struct weights_cuda w = {.base = {&weights_on_cuda, &session_backend_cuda, &tuner_backend_cuda},
        .impl = &device_cuda};
    *out = (struct weights_device_info){0};
    if (device_cuda.count() == 0) return ERR_DEVICE; /* with its reason */
    TRY(device_cuda.open(&w.d, index));
    enum status st = device_cuda.info(w.d, &w.info);
    device_cuda.close(&w.d);
    if (st != OK) return st;
    weights_on_cuda.describe(&w.base, out);
    *free_bytes = w.info.memory_free;
    *total_bytes = w.info.memory_total;
    return OK;
}

/* Sequences decoded together: their keys and values in slots beside the session's, one step for
 * all. Every kernel of a step gives a row what it gives alone, so that answers do not depend on
 * what is decoded beside them. */
#include "engine/cuda/session_cuda_parts.h"

#include "engine/rope.h"
#include "kernels/cuda/batch_cuda.h"
#include "kernels/registry.h"

#include <stdlib.h>
#include <string.h>

_Static_assert((int)SESSION_SLOTS <= (int)GEMM_CUDA_ROWS, "a step's products keep rows apart");

void session_cuda_close_slots(struct session_cuda *s)
{
    if (!s->slots) return;
    weights_cuda_free(s->on, s->slots->slab, s->slots->bytes);
    free(s->slots);
    s->slots = NULL;
    s->graphs_are_stale = true;
}

/* Where everything stands in the slab; with none, its size. */
static void lay_out(const struct session_cuda *s, struct slots_cuda *to)
{
    const struct llama_config *c = &s->w->config;
    struct chunk none = {.f = &(struct forward_args){0}, .n = 1};
    struct attn_args a = session_cuda_call(s, &none, 0);
    size_t n = (size_t)to->n, at = 0;
    char *base = to->slab;
#define PUT(field, bytes)                \
    do {                                 \
        to->field = (void *)(base + at); \
        at += align256(bytes);           \
    } while (0)
    PUT(kv, n * s->plan.kv_bytes);
    PUT(logits, n * (size_t)c->vocab_size * sizeof(float));
    PUT(next, n * sizeof(int32_t));
    PUT(position, n * sizeof(int32_t));
    PUT(slot, n * sizeof(int32_t));
    PUT(attn_ws, attn_batch_cuda_workspace(&a, to->n));
#undef PUT
    to->step = (ptrdiff_t)(s->plan.kv_bytes / sizeof *to->kv);
    to->bytes = at;
}

/* One step serves sequences of all lengths: no layer sees a window, the rotation is the same for
 * all, and the kernel that one sequence takes has a form for several. */
static enum status serves_all(const struct session_cuda *s, bool *yes)
{
    const struct llama_config *c = &s->w->config;
    float first[128], last[128];
    *yes = false;
    if (s->on->end - s->on->first != c->n_layers) return OK;
    for (int l = 0; l < c->n_layers; l++)
        if (session_window(c, l, s->plan.capacity)) return OK;
    rope_frequencies(c, 0, 1, first);
    rope_frequencies(c, 0, s->plan.capacity, last);
    if (memcmp(first, last, sizeof *first * (size_t)c->head_dim / 2) != 0) return OK;
    struct chunk one = {.f = &(struct forward_args){0}, .n = 1};
    struct attn_args a = session_cuda_call(s, &one, 0);
    const struct attn_impl *impl;
    TRY(attn_choose(&a, s->impl, &impl));
    *yes = impl == &attn_decode_cuda_bf16;
    return OK;
}

static enum status open_slots(struct session_cuda *s, int n, size_t room)
{
    bool yes;
    memset(s->layers, 0, (size_t)s->w->config.n_layers);
    TRY(serves_all(s, &yes));
    struct slots_cuda plan = {.n = n};
    for (lay_out(s, &plan); plan.n > 1 && plan.bytes > room; plan.n--, lay_out(s, &plan)) {}
    if (!yes || plan.n < 2) return OK;
    TRY(weights_cuda_alloc(s->on, &plan.slab, plan.bytes, "sequences that are decoded together"));
    lay_out(s, &plan);
    s->slots = malloc(sizeof *s->slots);
    if (!s->slots) {
        weights_cuda_free(s->on, plan.slab, plan.bytes);
        return fail(ERR_MEMORY, "no memory for slots");
    }
    *s->slots = plan;
    return OK;
}

enum status session_cuda_slots(void *state, int n, int *got)
{
    struct session_cuda *s = state;
    size_t left = 0, total;
    enum status st = weights_cuda_lock(s->on);
    session_cuda_close_slots(s);
    st = weights_cuda_unlock(s->on, st);
    if (st == OK) st = weights_device_memory(s->w, &left, &total);
    if (st != OK || n < 2) return st;
    st = weights_cuda_lock(s->on);
    if (st == OK) st = open_slots(s, n, left - left / 8);
    *got = s->slots ? s->slots->n : 0;
    return weights_cuda_unlock(s->on, st);
}

enum status session_cuda_keep(void *state, int slot)
{
    struct session_cuda *s = state;
    enum status st = weights_cuda_lock(s->on);
    if (st == OK)
        st = s->on->impl->copy(s->on->d, s->slots->kv + slot * s->slots->step, s->kv,
            s->plan.kv_bytes, COPY_ON_DEVICE);
    return weights_cuda_unlock(s->on, st);
}

static enum status step_on(struct session_cuda *s, const struct session_step *list,
    const int32_t *positions, int n, int32_t *next, struct str *impls)
{
    int32_t tokens[SESSION_SLOTS], slots[SESSION_SLOTS];
    size_t bytes = sizeof *tokens * (size_t)n;
    for (int i = 0; i < n; i++) tokens[i] = list[i].token, slots[i] = list[i].slot;
    TRY(send(s, s->tokens, tokens, bytes));
    TRY(send(s, s->slots->position, positions, bytes));
    TRY(send(s, s->slots->slot, slots, bytes));
    struct forward_args f = {.tokens = tokens, .n = n};
    struct chunk x = {.f = &f,
        .n = n,
        .end = s->w->config.n_layers,
        .at_device = true,
        .logits = true,
        .slots = s->slots,
        .impls = impls};
    memset(s->layers, 0, (size_t)s->w->config.n_layers);
    TRY((s->w->device_options.graph ? session_cuda_run_graph : session_cuda_run_layers)(s, &x));
    TRY(fetch(s, next, s->slots->next, bytes));
    return s->on->impl->sync(s->on->d);
}

enum status session_cuda_step(void *state, const struct session_step *list,
    const int32_t *positions, int n, int32_t *next, struct str *impls)
{
    struct session_cuda *s = state;
    enum status st = weights_cuda_lock(s->on);
    if (st == OK) st = step_on(s, list, positions, n, next, impls);
    return weights_cuda_unlock(s->on, st);
}

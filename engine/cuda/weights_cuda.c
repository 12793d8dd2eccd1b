#include "engine/cuda/weights_cuda.h"

#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/ops_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STAGE_BYTES = 64 << 20 }; /* other types than bf16 pass through this much */

static size_t align256(size_t n) { return (n + 255) / 256 * 256; }

const char *weights_cuda_refuses(const struct llama_config *c)
{
    if (c->hidden_size % 8 || c->intermediate_size % 8)
        return "hidden_size or intermediate_size is not a multiple of 8";
    if (c->head_dim % 16 || c->head_dim > 256) return "head_dim is not a multiple of 16 up to 256";
    return NULL;
}

/* Where everything stands in the slab; the same walk counts and hands out. */
static size_t lay_out(const struct llama_config *c, bool tied, struct weights_cuda *to, char *base)
{
    size_t at = 0, h = (size_t)c->hidden_size, inter = (size_t)c->intermediate_size,
           vocab = (size_t)c->vocab_size;
    size_t q = (size_t)c->n_heads * (size_t)c->head_dim,
           kv = (size_t)c->n_kv_heads * (size_t)c->head_dim;
#define PUT(pointer, n, type)                    \
    do {                                         \
        if (to) (pointer) = (type *)(base + at); \
        at += align256((n) * sizeof(type));      \
    } while (0)
    PUT(to->embedding, vocab * h, uint16_t);
    if (!tied) PUT(to->head, vocab * h, uint16_t);
    PUT(to->final_norm, h, float);
    for (int l = 0; l < c->n_layers; l++) {
        struct layer_cuda *x = to ? &to->layers[l] : NULL;
        PUT(x->qkv, (q + 2 * kv) * h, uint16_t);
        PUT(x->o, h * q, uint16_t);
        PUT(x->gate_up, 2 * inter * h, uint16_t);
        PUT(x->down, h * inter, uint16_t);
        PUT(x->attn_norm, h, float);
        PUT(x->mlp_norm, h, float);
        if (c->qkv_bias) PUT(x->qkv_bias, q + 2 * kv, float);
        if (c->o_bias) PUT(x->o_bias, h, float);
        if (c->qk_norm) {
            PUT(x->q_norm, (size_t)c->head_dim, float);
            PUT(x->k_norm, (size_t)c->head_dim, float);
        }
        if (c->mlp_bias) {
            PUT(x->gate_up_bias, 2 * inter, float);
            PUT(x->down_bias, h, float);
        }
    }
#undef PUT
    if (to && tied) to->head = to->embedding;
    return at;
}

double weights_cuda_rounds(const struct weights *w)
{
    double all = 0, rounded = 0;
    for (size_t i = 0; i < w->n_entries; i++) {
        const struct tensor *t = w->entries[i].tensor;
        double n = 1;
        for (int k = 0; k < t->n_dims; k++) n *= (double)t->shape[k];
        if (t->n_dims < 2) continue;
        all += n;
        if (t->dtype != DTYPE_BF16) rounded += n;
    }
    return all > 0 ? rounded / all : 0;
}

size_t weights_cuda_bytes(const struct llama_config *c, bool tied)
{
    return lay_out(c, tied, NULL, NULL) + GEMM_CUDA_WORKSPACE;
}

enum status weights_cuda_alloc(struct weights_cuda *w, void **at, size_t bytes, const char *what)
{
    struct device_info now;
    *at = NULL;
    TRY(w->impl->info(w->d, &now));
    if (bytes > now.memory_free)
        return fail(ERR_MEMORY, "%s: does not fit: needs %.2f GiB, %s has %.2f of %.2f GiB free",
            what, (double)bytes / 0x1p30, now.name, (double)now.memory_free / 0x1p30,
            (double)now.memory_total / 0x1p30);
    TRY(w->impl->alloc(w->d, at, bytes));
    w->bytes += bytes;
    if (w->bytes > w->peak_bytes) w->peak_bytes = w->bytes;
    return OK;
}

void weights_cuda_free(struct weights_cuda *w, void *at, size_t bytes)
{
    if (!at) return;
    w->impl->free(w->d, at);
    w->bytes -= bytes;
}

enum status weights_cuda_lock(struct weights_cuda *w)
{
    pthread_mutex_lock(&w->lock);
    return device_cuda_use(w->d);
}

enum status weights_cuda_unlock(struct weights_cuda *w, enum status st)
{
    if (st != OK) { /* its own message stays */
        char message[512];
        snprintf(message, sizeof message, "%s", status_message());
        enum status after = w->impl->sync(w->d);
        (void)after;
        st = fail(st, "%s", message);
    }
    pthread_mutex_unlock(&w->lock);
    return st;
}

/* n values of any type into bf16; stage: STAGE_BYTES on the device. */
static enum status send(
    struct weights_cuda *w, uint16_t *to, const void *from, enum dtype dtype, size_t n, void *stage)
{
    if (dtype == DTYPE_BF16) return w->impl->copy(w->d, to, from, n * sizeof *to, COPY_TO_DEVICE);
    size_t width = dtype_size(dtype), at_once = STAGE_BYTES / width;
    for (size_t i = 0; i < n; i += at_once) {
        size_t part = n - i < at_once ? n - i : at_once;
        TRY(w->impl->copy(
            w->d, stage, (const char *)from + i * width, part * width, COPY_TO_DEVICE));
        TRY(ops_cuda_to_bf16(stage, dtype, part, to + i, w->stream));
    }
    return OK;
}

static enum status send_matrix(
    struct weights_cuda *w, uint16_t **to, const struct linear *l, void *stage)
{
    size_t n = (size_t)l->m * (size_t)l->k;
    TRY(send(w, *to, l->weight, l->dtype, n, stage));
    *to += n;
    return OK;
}

/* A bias that this matrix lacks is zero: a checkpoint may have one on q and none on o. */
static enum status send_bias(struct weights_cuda *w, float *to, const struct linear *l)
{
    float *wide = calloc((size_t)l->m, sizeof *wide);
    if (!wide) return fail(ERR_MEMORY, "no memory for a bias of %d", l->m);
    if (l->bias) widen(l->bias, l->dtype, wide, (size_t)l->m);
    enum status st = w->impl->copy(w->d, to, wide, sizeof *wide * (size_t)l->m, COPY_TO_DEVICE);
    if (st == OK) st = w->impl->sync(w->d);
    free(wide);
    return st;
}

static enum status send_layer(struct weights_cuda *w, const struct llama_config *c,
    const struct layer_weights *from, struct layer_cuda *to, void *stage)
{
    size_t norm = sizeof(float) * (size_t)c->hidden_size;
    uint16_t *qkv = to->qkv, *o = to->o, *gate_up = to->gate_up, *down = to->down;
    TRY(send_matrix(w, &qkv, &from->q, stage));
    TRY(send_matrix(w, &qkv, &from->k, stage));
    TRY(send_matrix(w, &qkv, &from->v, stage));
    TRY(send_matrix(w, &o, &from->o, stage));
    TRY(send_matrix(w, &gate_up, &from->gate, stage));
    TRY(send_matrix(w, &gate_up, &from->up, stage));
    TRY(send_matrix(w, &down, &from->down, stage));
    TRY(w->impl->copy(w->d, to->attn_norm, from->attn_norm, norm, COPY_TO_DEVICE));
    TRY(w->impl->copy(w->d, to->mlp_norm, from->mlp_norm, norm, COPY_TO_DEVICE));
    if (to->qkv_bias) {
        TRY(send_bias(w, to->qkv_bias, &from->q));
        TRY(send_bias(w, to->qkv_bias + from->q.m, &from->k));
        TRY(send_bias(w, to->qkv_bias + from->q.m + from->k.m, &from->v));
    }
    if (to->o_bias) TRY(send_bias(w, to->o_bias, &from->o));
    if (to->q_norm) {
        size_t one = sizeof(float) * (size_t)c->head_dim;
        TRY(w->impl->copy(w->d, to->q_norm, from->q_norm, one, COPY_TO_DEVICE));
        TRY(w->impl->copy(w->d, to->k_norm, from->k_norm, one, COPY_TO_DEVICE));
    }
    if (to->gate_up_bias) {
        TRY(send_bias(w, to->gate_up_bias, &from->gate));
        TRY(send_bias(w, to->gate_up_bias + from->gate.m, &from->up));
        TRY(send_bias(w, to->down_bias, &from->down));
    }
    return OK;
}

static enum status send_all(struct weights_cuda *w, const struct weights *from, void *stage)
{
    const struct llama_config *c = &from->config;
    uint16_t *embedding = w->embedding, *head = w->head;
    TRY(send_matrix(w, &embedding, &from->embedding, stage));
    if (!from->tied) TRY(send_matrix(w, &head, &from->head, stage));
    TRY(w->impl->copy(w->d, w->final_norm, from->final_norm, sizeof(float) * (size_t)c->hidden_size,
        COPY_TO_DEVICE));
    for (int l = 0; l < c->n_layers; l++)
        TRY(send_layer(w, c, &from->layers[l], &w->layers[l], stage));
    return w->impl->sync(w->d);
}

enum status weights_cuda_fill(struct weights_cuda *w, const struct weights *from, int index)
{
    const struct llama_config *c = &from->config;
    void *stage = NULL;
    TRY(w->impl->open(&w->d, index));
    TRY(w->impl->info(w->d, &w->info));
    w->stream = w->impl->stream(w->d);
    w->layers = calloc((size_t)c->n_layers, sizeof *w->layers);
    if (!w->layers) return fail(ERR_MEMORY, "no memory for a list of %d layers", c->n_layers);
    TRY(gemm_cuda_open(&w->gemm, w->impl, w->d));
    w->bytes = GEMM_CUDA_WORKSPACE;
    TRY(weights_cuda_alloc(w, &w->slab, lay_out(c, from->tied, NULL, NULL), "the weights"));
    lay_out(c, from->tied, w, w->slab);
    TRY(w->impl->alloc(w->d, &stage, STAGE_BYTES));
    enum status st = send_all(w, from, stage);
    w->impl->free(w->d, stage);
    return st;
}

int weights_cuda_count(void) { return device_cuda.count(); }

static void weights_cuda_release(struct weights_device **d)
{
    struct weights_cuda *w = (struct weights_cuda *)*d;
    if (!w) return;
    if (w->d) {
        gemm_cuda_close(&w->gemm);
        w->impl->free(w->d, w->slab);
        w->impl->close(&w->d);
    }
    pthread_mutex_destroy(&w->lock);
    free(w->layers);
    free(w);
    *d = NULL;
}

static enum status weights_cuda_memory(
    const struct weights_device *d, size_t *free_bytes, size_t *total_bytes)
{
    const struct weights_cuda *w = (const struct weights_cuda *)d;
    struct device_info now;
    TRY(w->impl->info(w->d, &now));
    *free_bytes = now.memory_free;
    *total_bytes = now.memory_total;
    return OK;
}

static void weights_cuda_describe(const struct weights_device *d, struct weights_device_info *out)
{
    const struct weights_cuda *w = (const struct weights_cuda *)d;
    const struct device_info *i = &w->info;
    snprintf(out->gpu, sizeof out->gpu, "%s", i->name);
    snprintf(out->driver, sizeof out->driver, "CUDA %d.%d, runtime %d.%d", i->driver / 1000,
        i->driver % 1000 / 10, i->runtime / 1000, i->runtime % 1000 / 10);
    out->name = w->base.backend->name;
    out->bytes = w->bytes;
    pthread_mutex_lock((pthread_mutex_t *)&w->lock);
    out->peak_bytes = w->peak_bytes;
    pthread_mutex_unlock((pthread_mutex_t *)&w->lock);
}

const struct weights_place weights_on_cuda = {
    weights_cuda_memory, weights_cuda_describe, weights_cuda_release};

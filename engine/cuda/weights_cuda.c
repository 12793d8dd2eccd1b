#include "engine/cuda/weights_cuda.h"

#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/ops_cuda.h"
#include "kernels/cuda/stager_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t align256(size_t n) { return (n + 255) / 256 * 256; }

const char *weights_cuda_refuses(const struct llama_config *c)
{
    if (c->hidden_size % 8 || c->intermediate_size % 8)
        return "hidden_size or intermediate_size is not a multiple of 8";
    if (c->head_dim % 16 || c->head_dim > 256) return "head_dim is not a multiple of 16 up to 256";
    if (c->qk_norm == QK_NORM_WHOLE && c->n_kv_heads != c->n_heads)
        return "q and k are normalised as a whole and are not equally wide";
    return NULL;
}

/* Where everything stands in the slab; the same walk counts and hands out. */
struct slab {
    char *base; /* NULL: count */
    size_t at;
};

#define PUT(pointer, n, type)                                   \
    do {                                                        \
        (pointer) = s->base ? (type *)(s->base + s->at) : NULL; \
        s->at += align256((n) * sizeof(type));                  \
    } while (0)

static void put_matrices(struct slab *s, const struct llama_config *c, struct layer_cuda *x)
{
    size_t h = (size_t)c->hidden_size, inter = (size_t)c->intermediate_size;
    size_t q = (size_t)c->n_heads * (size_t)c->head_dim,
           kv = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    PUT(x->qkv, (q + 2 * kv) * h, uint16_t);
    PUT(x->o, h * q, uint16_t);
    PUT(x->gate_up, 2 * inter * h, uint16_t);
    PUT(x->down, h * inter, uint16_t);
}

static void put_vectors(struct slab *s, const struct llama_config *c, struct layer_cuda *x)
{
    size_t h = (size_t)c->hidden_size, inter = (size_t)c->intermediate_size;
    size_t q = (size_t)c->n_heads * (size_t)c->head_dim,
           kv = (size_t)c->n_kv_heads * (size_t)c->head_dim;
    if (c->norms != NORMS_BEHIND) {
        PUT(x->attn_norm, h, float);
        PUT(x->mlp_norm, h, float);
    }
    if (c->norms != NORMS_BEFORE) {
        PUT(x->attn_behind, h, float);
        PUT(x->mlp_behind, h, float);
    }
    if (c->qkv_bias) PUT(x->qkv_bias, q + 2 * kv, float);
    if (c->o_bias) PUT(x->o_bias, h, float);
    if (c->qk_norm != QK_NORM_NONE) {
        PUT(x->q_norm, (size_t)qk_norm_width(c), float);
        PUT(x->k_norm, (size_t)qk_norm_width(c), float);
    }
    if (c->mlp_bias) {
        PUT(x->gate_up_bias, 2 * inter, float);
        PUT(x->down_bias, h, float);
    }
}

/* Which of the weights. */
struct extent {
    int first, end; /* layers */
    bool tied, offload;
};

/* to: NULL to count, else with its list of layers. */
static size_t lay_out(
    const struct llama_config *c, struct extent e, struct weights_cuda *to, char *base)
{
    struct slab slab = {.base = base}, *s = &slab;
    struct weights_cuda none;
    struct layer_cuda counted;
    size_t h = (size_t)c->hidden_size, vocab = (size_t)c->vocab_size;
    bool real = to;
    if (!to) to = &none;
    bool last = e.end == c->n_layers;
    if (e.first == 0 || (last && e.tied)) PUT(to->embedding, vocab * h, uint16_t);
    if (last && !e.tied) PUT(to->head, vocab * h, uint16_t);
    PUT(to->final_norm, h, float);
    for (int i = 0; i < 2 && e.offload; i++) put_matrices(s, c, &to->places[i]);
    for (int l = e.first; l < e.end; l++) {
        struct layer_cuda *x = real ? &to->layers[l] : &counted;
        if (!e.offload) put_matrices(s, c, x);
        put_vectors(s, c, x);
    }
    if (real && last && e.tied) to->head = to->embedding;
    return slab.at;
}
#undef PUT

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

size_t weights_cuda_bytes(const struct llama_config *c, bool tied, bool offload)
{
    return lay_out(c, (struct extent){0, c->n_layers, tied, offload}, NULL, NULL) +
        GEMM_CUDA_WORKSPACE;
}

/* Free under the limit that was asked for. */
static enum status room(const struct weights_cuda *w, size_t *free_bytes, size_t *total_bytes)
{
    struct device_info now;
    TRY(w->impl->info(w->d, &now));
    size_t left = w->limit > w->bytes ? w->limit - w->bytes : 0;
    *free_bytes = now.memory_free < left ? now.memory_free : left;
    *total_bytes = now.memory_total < w->limit ? now.memory_total : w->limit;
    return OK;
}

enum status weights_cuda_alloc(struct weights_cuda *w, void **at, size_t bytes, const char *what)
{
    size_t left, total;
    *at = NULL;
    TRY(room(w, &left, &total));
    if (bytes > left)
        return fail(ERR_MEMORY, "%s: does not fit: needs %.2f GiB, %s has %.2f of %.2f GiB free%s",
            what, (double)bytes / 0x1p30, w->info.name, (double)left / 0x1p30,
            (double)total / 0x1p30,
            w->limit < w->info.memory_total ? " under --device-memory" : "");
    TRY(w->impl->alloc(w->d, at, bytes));
    w->bytes += bytes;
    if (w->bytes > w->peak_bytes) w->peak_bytes = w->bytes;
    return OK;
}

enum status weights_cuda_remedy(enum status st, const char *remedy)
{
    char message[512];
    if (st != ERR_MEMORY) return st;
    snprintf(message, sizeof message, "%s", status_message());
    return fail(st, "%s; %s", message, remedy);
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

/* A bias that this matrix lacks is zero: a checkpoint may have one on q and none on o. */
static enum status send_bias(struct weights_cuda *w, float *to, const struct linear *l)
{
    size_t bytes = sizeof *to * (size_t)l->m;
    return l->bias ? w->impl->copy(w->d, to, l->bias, bytes, COPY_TO_DEVICE)
                   : w->impl->fill(w->d, to, 0, bytes);
}

/* Of a layer, one behind the other where they stand in one block. */
enum { LAYER_PIECES = 7 };

static void pieces_of_layer(
    const struct layer_weights *l, const struct layer_cuda *to, struct stager_piece *pieces)
{
    const struct linear *all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    uint16_t *begin[] = {to->qkv, NULL, NULL, to->o, to->gate_up, NULL, to->down},
             *at = NULL; /* NULL: behind the one before */
    for (int i = 0; i < LAYER_PIECES; i++) {
        size_t n = (size_t)all[i]->m * (size_t)all[i]->k;
        if (begin[i]) at = begin[i];
        pieces[i] = (struct stager_piece){at, all[i]->weight, all[i]->dtype, n};
        at += n;
    }
}

static struct stager_piece piece_of(uint16_t *to, const struct linear *l)
{
    return (struct stager_piece){to, l->weight, l->dtype, (size_t)l->m * (size_t)l->k};
}

static enum status send_vectors(struct weights_cuda *w, const struct llama_config *c,
    const struct layer_weights *from, struct layer_cuda *to)
{
    size_t norm = sizeof(float) * (size_t)c->hidden_size;
    if (to->attn_norm) {
        TRY(w->impl->copy(w->d, to->attn_norm, from->attn_norm, norm, COPY_TO_DEVICE));
        TRY(w->impl->copy(w->d, to->mlp_norm, from->mlp_norm, norm, COPY_TO_DEVICE));
    }
    if (to->attn_behind) {
        TRY(w->impl->copy(w->d, to->attn_behind, from->attn_behind, norm, COPY_TO_DEVICE));
        TRY(w->impl->copy(w->d, to->mlp_behind, from->mlp_behind, norm, COPY_TO_DEVICE));
    }
    if (to->qkv_bias) {
        TRY(send_bias(w, to->qkv_bias, &from->q));
        TRY(send_bias(w, to->qkv_bias + from->q.m, &from->k));
        TRY(send_bias(w, to->qkv_bias + from->q.m + from->k.m, &from->v));
    }
    if (to->o_bias) TRY(send_bias(w, to->o_bias, &from->o));
    if (to->q_norm) {
        size_t one = sizeof(float) * (size_t)qk_norm_width(c);
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

/* What stays, by way of pinned memory; cuBLAS is loaded while embedding and head are on their way.
 */
static enum status send_all(
    struct weights_cuda *w, const struct weights *from, struct stager_cuda *stager)
{
    const struct llama_config *c = &from->config;
    struct stager_piece pieces[LAYER_PIECES];
    size_t layer_bytes = weights_layer_bytes(from, sizeof(uint16_t));
    bool offload = from->device_options.offload; /* then matrices come when they are wanted */
    int n = 0;
    if (w->embedding) pieces[n++] = piece_of(w->embedding, &from->embedding);
    if (w->head && !from->tied) pieces[n++] = piece_of(w->head, &from->head);
    TRY(stager_cuda_begin(stager, pieces, n));
    enum status st = gemm_cuda_open(&w->gemm, w->impl, w->d);
    TRY(stager_cuda_await(stager));
    TRY(st);
    TRY(w->impl->copy(w->d, w->final_norm, from->final_norm, sizeof(float) * (size_t)c->hidden_size,
        COPY_TO_DEVICE));
    for (int l = w->first; l < w->end; l++) {
        pieces_of_layer(&from->layers[l], &w->layers[l], pieces);
        if (!offload) TRY(stager_cuda_begin(stager, pieces, LAYER_PIECES));
        st = send_vectors(w, c, &from->layers[l], &w->layers[l]);
        if (!offload) {
            TRY(stager_cuda_await(stager));
            reading_tell(&from->device_options.watch, "weights to the GPU",
                (size_t)(l + 1 - w->first) * layer_bytes,
                (size_t)(w->end - w->first) * layer_bytes);
        }
        TRY(st);
    }
    return w->impl->sync(w->d);
}

/* Layers that come one after the other. */

static enum status begin_layer(struct weights_cuda *w, int layer)
{
    struct stager_piece pieces[LAYER_PIECES];
    pieces_of_layer(&w->from[layer], &w->places[1 - w->now], pieces);
    w->held[1 - w->now] = -1;
    w->coming = layer;
    return stager_cuda_begin(w->stager, pieces, LAYER_PIECES);
}

static enum status bring_layer(struct weights_cuda *w, int layer)
{
    if (w->held[w->now] == layer) return OK;
    if (w->coming != layer) {
        if (w->coming >= 0) TRY(stager_cuda_await(w->stager)); /* another was expected */
        TRY(begin_layer(w, layer));
    }
    w->coming = -1;
    TRY(stager_cuda_await(w->stager));
    w->now = 1 - w->now;
    w->held[w->now] = layer;
    return w->n_layers > 1 ? begin_layer(w, (layer + 1) % w->n_layers) : OK;
}

enum status weights_cuda_layer(struct weights_cuda *w, int layer, const struct layer_cuda **out)
{
    struct layer_cuda *x = &w->layers[layer];
    *out = x;
    if (!w->stager) return OK;
    TRY(bring_layer(w, layer));
    const struct layer_cuda *at = &w->places[w->now];
    x->qkv = at->qkv, x->o = at->o, x->gate_up = at->gate_up, x->down = at->down;
    return OK;
}

static enum status take_room(struct weights_cuda *w, const struct weights *from, bool offload)
{
    const struct llama_config *c = &from->config;
    struct extent e = {w->first, w->end, from->tied, offload};
    size_t bytes = lay_out(c, e, NULL, NULL);
    char what[160];
    if (offload)
        snprintf(what, sizeof what, "two layers of %.2f GiB, embedding and head",
            (double)weights_layer_bytes(from, sizeof(uint16_t)) / 0x1p30);
    else snprintf(what, sizeof what, "the weights");
    TRY(weights_cuda_remedy(weights_cuda_alloc(w, &w->slab, bytes, what),
        offload ? "that much --offload keeps on a GPU: take one with more memory, or --device cpu"
                : "--offload brings them layer by layer"));
    lay_out(c, e, w, w->slab);
    return OK;
}

enum status weights_cuda_fill(
    struct weights_cuda *w, const struct weights *from, int index, int first, int end)
{
    w->first = first;
    w->end = end;
    const struct llama_config *c = &from->config;
    TRY(w->impl->open(&w->d, index));
    TRY(w->impl->info(w->d, &w->info));
    w->stream = w->impl->stream(w->d);
    w->layers = calloc((size_t)c->n_layers, sizeof *w->layers);
    if (!w->layers) return fail(ERR_MEMORY, "no memory for a list of %d layers", c->n_layers);
    w->bytes = GEMM_CUDA_WORKSPACE; /* send_all() opens it */
    w->limit = from->device_options.memory ? from->device_options.memory : SIZE_MAX;
    bool offload = from->device_options.offload;
    TRY(take_room(w, from, offload));
    w->from = from->layers;
    w->n_layers = c->n_layers;
    w->held[0] = w->held[1] = w->coming = -1;
    struct stager_cuda *stager;
    TRY(stager_cuda_open(&stager, w->d));
    enum status st = send_all(w, from, stager);
    stager_cuda_close(&stager);
    return st == OK && offload ? stager_cuda_open(&w->stager, w->d) : st;
}

int weights_cuda_count(void) { return device_cuda.count(); }

static void weights_cuda_release(struct weights_device **d)
{
    struct weights_cuda *w = (struct weights_cuda *)*d;
    if (!w) return;
    if (w->d) {
        stager_cuda_close(&w->stager);
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
    return room(w, free_bytes, total_bytes);
}

static void weights_cuda_describe(const struct weights_device *d, struct weights_device_info *out)
{
    const struct weights_cuda *w = (const struct weights_cuda *)d;
    const struct device_info *i = &w->info;
    out->n_gpus = 1;
    out->sm = i->sm;
    snprintf(out->gpu, sizeof out->gpu, "%s", i->name);
    snprintf(out->driver, sizeof out->driver, "CUDA %d.%d, runtime %d.%d", i->driver / 1000,
        i->driver % 1000 / 10, i->runtime / 1000, i->runtime % 1000 / 10);
    out->name = w->base.backend->name;
    out->bytes = w->bytes;
    if (w->stager) {
        struct stager_times t = stager_cuda_times(w->stager);
        out->brought = (struct layers_brought){t.n, t.last_s, t.seconds, t.waited_s};
    }
    pthread_mutex_lock((pthread_mutex_t *)&w->lock);
    out->peak_bytes = w->peak_bytes;
    pthread_mutex_unlock((pthread_mutex_t *)&w->lock);
}

static enum status weights_cuda_room_open(
    struct weights_device *d, float **at, size_t bytes, const char *what)
{
    struct weights_cuda *w = (struct weights_cuda *)d;
    void *p = NULL;
    enum status st = weights_cuda_lock(w);
    if (st == OK) st = weights_cuda_alloc(w, &p, bytes, what);
    *at = p;
    return weights_cuda_unlock(w, st);
}

static void weights_cuda_room_close(struct weights_device *d, float *at, size_t bytes)
{
    struct weights_cuda *w = (struct weights_cuda *)d;
    enum status st = weights_cuda_lock(w);
    weights_cuda_free(w, at, bytes);
    st = weights_cuda_unlock(w, st);
    (void)st; /* nobody waits for anything any more */
}

static enum status weights_cuda_room_copy(
    struct weights_device *d, void *to, const void *from, size_t bytes, bool to_host)
{
    struct weights_cuda *w = (struct weights_cuda *)d;
    enum status st = weights_cuda_lock(w);
    if (st == OK)
        st = w->impl->copy(w->d, to, from, bytes, to_host ? COPY_TO_HOST : COPY_TO_DEVICE);
    if (st == OK) st = w->impl->sync(w->d);
    return weights_cuda_unlock(w, st);
}

const struct weights_place weights_on_cuda = {weights_cuda_memory, weights_cuda_describe,
    weights_cuda_release, weights_cuda_room_open, weights_cuda_room_close, weights_cuda_room_copy};

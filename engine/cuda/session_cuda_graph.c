/* The layers of a chunk as a captured graph, kept for calls of the same shape. */
#include "engine/cuda/session_cuda_parts.h"

#include "kernels/cuda/graph_cuda.h"

#include <stdlib.h>
#include <string.h>

/* a prefill dense and sparse, decode steps of the last counts of sequences */
enum { GRAPHS = 6 };

/* All that launches depend on besides what is in the slab. Zeroed before it is filled: it is
 * compared as bytes. */
struct shape {
    const struct mask_method *method;
    struct block_shape block;
    enum smooth_k smooth_k;
    float topk;
    enum precision qk, pv;
    int n, position; /* position -1: read on the device */
    bool ledger, logits, slots;
};

struct kept_graph {
    struct graph_cuda *graph; /* NULL: the shape was seen once */
    struct shape shape;
    uint8_t *layers; /* [n_layers] LAYER_SPARSE, LAYER_SKIPS */
    unsigned used;   /* when last; 0: empty */
};

struct session_graphs {
    struct kept_graph kept[GRAPHS];
    unsigned now;
};

void session_cuda_close_graphs(struct session_cuda *s)
{
    if (!s->graphs) return;
    for (int i = 0; i < GRAPHS; i++) {
        graph_cuda_close(&s->graphs->kept[i].graph);
        free(s->graphs->kept[i].layers);
    }
    free(s->graphs);
    s->graphs = NULL;
}

/* Calls of their shapes will record them again. */
static void drop_stale_graphs(struct session_cuda *s)
{
    for (int i = 0; s->graphs_are_stale && i < GRAPHS; i++)
        graph_cuda_close(&s->graphs->kept[i].graph);
    s->graphs_are_stale = false;
}

static bool same_shape(const struct shape *a, const struct shape *b)
{
    return a->method == b->method && a->block.q == b->block.q && a->block.k == b->block.k &&
        a->smooth_k == b->smooth_k && a->topk == b->topk && a->qk == b->qk && a->pv == b->pv &&
        a->n == b->n && a->position == b->position && a->ledger == b->ledger &&
        a->logits == b->logits;
}

static struct shape shape_of(const struct session_cuda *s, const struct chunk *x)
{
    struct shape shape;
    memset(&shape, 0, sizeof shape);
    const struct sparse_policy *p = x->f->policy;
    bool sparse = false;
    for (int l = 0; l < s->w->config.n_layers; l++) sparse |= s->layers[l] & LAYER_SPARSE;
    if (sparse) {
        shape.method = p->method;
        shape.block = p->block;
        shape.smooth_k = p->smooth_k;
        shape.topk = p->topk;
    } else if (p) {
        shape.block = p->block; /* dense calls count tiles of this shape */
    }
    for (int l = 0; l < s->w->config.n_layers; l++)
        if (s->layers[l] & LAYER_EIGHT) shape.qk = p->qk, shape.pv = p->pv;
    shape.n = x->n;
    shape.position = x->at_device ? -1 : x->position;
    shape.ledger = x->f->ledger != NULL;
    shape.logits = x->logits;
    shape.slots = x->slots != NULL;
    return shape;
}

static enum status remember(struct session_cuda *s, const struct shape *shape)
{
    struct kept_graph *g = s->graphs->kept; /* the one longest unused */
    for (int i = 1; i < GRAPHS; i++)
        if (s->graphs->kept[i].used < g->used) g = &s->graphs->kept[i];
    graph_cuda_close(&g->graph);
    g->used = 0;
    if (!g->layers) g->layers = malloc((size_t)s->w->config.n_layers);
    if (!g->layers) return fail(ERR_MEMORY, "no memory for a graph");
    g->shape = *shape;
    g->used = ++s->graphs->now;
    memcpy(g->layers, s->layers, (size_t)s->w->config.n_layers);
    return OK;
}

/* Calls of a shape seen for the first time run as they are: kernels are loaded then, and what never
 * comes again is not worth recording. */
enum status session_cuda_run_graph(struct session_cuda *s, const struct chunk *x)
{
    if (!s->graphs) s->graphs = calloc(1, sizeof *s->graphs);
    if (!s->graphs) return fail(ERR_MEMORY, "no memory for graphs");
    drop_stale_graphs(s);
    struct shape shape = shape_of(s, x);
    struct kept_graph *g = NULL;
    for (int i = 0; i < GRAPHS && !g; i++) {
        struct kept_graph *k = &s->graphs->kept[i];
        if (k->used && same_shape(&k->shape, &shape) &&
            memcmp(k->layers, s->layers, (size_t)s->w->config.n_layers) == 0)
            g = k;
    }
    if (!g) {
        /* one that failed has not been seen: its kernels may not be loaded */
        TRY(session_cuda_run_layers(s, x));
        return remember(s, &shape);
    }
    g->used = ++s->graphs->now;
    if (!g->graph) {
        TRY(graph_cuda_begin(s->on->d));
        TRY(graph_cuda_end(s->on->d, session_cuda_run_layers(s, x), &g->graph));
    }
    return graph_cuda_run(g->graph, s->on->d);
}

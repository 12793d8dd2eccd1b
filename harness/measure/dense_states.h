/* What the cells of one data set share: the dense run's last hidden states, and its residual stream
 * in front of the layers where cells begin to differ.
 *
 * One dense pass per sample, cut at those layers. A cell whose layers below L are all outside its
 * layer range starts at L from the stored stream: the numbers are the same bit for bit, because
 * nothing in front of L depends on the policy. The dense layers that it leaves out are in its
 * ledger as the kernel counted them in the shared pass.
 */
#ifndef SG_HARNESS_MEASURE_DENSE_STATES_H
#define SG_HARNESS_MEASURE_DENSE_STATES_H

#include "engine/engine.h"
#include "harness/measure/dense_cache.h"
#include "suites/suite.h"

#include <stdbool.h>

struct dense_states_args {
    struct model *model;
    struct par *par;
    const struct sample_set *set;
    /* hidden states are put there too, and taken from it when no stream is needed */
    struct dense_cache *cache;
    const char *impl;
    int chunk;
    const int *layers; /* [n_layers] layers where cells begin, ascending; 0 and the number of layers
                          need no stream */
    int n_layers;
    const struct block_shape
        *blocks; /* [n_blocks] shapes that will be counted in; at least one when a stream is kept */
    int n_blocks;
    size_t budget_bytes; /* streams are thinned out to stay below; hidden states must fit */
    bool host;           /* the device's memory is wanted for something else */
    bool quiet;          /* no progress */
    bool (*stop)(void *);
    void *stop_ctx;
};

struct dense_states {
    int n_samples, width, n_heads, n_points, n_blocks;
    int *points;                /* [n_points] layers whose stream is kept, ascending */
    struct resident *hidden;    /* [n_samples][n, width] behind the final norm */
    float **streams;            /* [n_samples * n_points][n, width] */
    struct block_shape *blocks; /* [n_blocks] */
    struct head_ledger *counts; /* [n_samples, n_blocks, n_heads] one dense layer */
    double *seconds;            /* [n_samples] of the dense pass; 0: from the cache */
};

/* Bytes that hidden states and n_streams streams of a set take. */
size_t dense_states_bytes(const struct sample_set *set, int width, int n_streams);

/* ERR_MEMORY when not even the hidden states fit the budget. */
enum status dense_states_open(struct dense_states *s, const struct dense_states_args *a) MUST_USE;
void dense_states_close(struct dense_states *s);
/* Give a device its memory back: they are on the host from now on. */
enum status dense_states_leave_device(struct dense_states *s) MUST_USE;

/* The stored layer closest in front of `layer` whose stream is there and whose block shape was
 * counted; 0 when there is none. *stream and *counts [n_heads] are set when it is not 0. */
int dense_states_start(const struct dense_states *s, int sample, int layer,
    struct block_shape block, const float **stream, const struct head_ledger **counts);

#endif

/* What it will take to run over weights that are brought layer by layer (device_options.offload),
 * known before anything starts: short calls of one layer are timed. */
#ifndef SG_ENGINE_OFFLOAD_H
#define SG_ENGINE_OFFLOAD_H

#include "engine/session.h"

struct offload_plan {
    size_t layer_bytes; /* of one layer, as it is brought */
    int at_once;        /* samples that pass a layer together */
    double transfer_s,
        work_s; /* of all passes; what of the transfer exceeds the work is waited for */
};

/* Samples that are to be run. */
struct offload_args {
    int n_samples, n_tokens; /* of the longest */
    int n_runs;              /* of each (eval: dense and sparse), and two of its states compared; 0:
                                the tuner runs them once, all together in memory of its own */
    /* 0: samples pass side by side; else passes of one after the other, as many as tokens are
     * written by a model, and what these compute is not counted */
    int64_t n_alone;
    int chunk; /* as session_open() takes it */
    const char *impl;
};

/* ERR_MEMORY where not even one sample fits. */
enum status offload_plan(const struct weights *w, struct par *par, const struct offload_args *a,
    struct offload_plan *out) MUST_USE;
/* "layers of 1.60 GiB, two at a time, 16 samples a pass; about 3 s of transfer hidden behind 7 s of
 * work" */
void offload_plan_text(const struct offload_plan *p, char *out, size_t size);

#endif

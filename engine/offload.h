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

/* n_samples of up to n_tokens, each run n_runs times (eval: dense and sparse) side by side in
 * chunks as session_open() takes them, and two of its states compared; n_runs 0: the tuner runs
 * them once, all together in memory of its own. ERR_MEMORY where not even one fits. */
enum status offload_plan(const struct weights *w, struct par *par, const char *impl, int n_tokens,
    int chunk, int n_samples, int n_runs, struct offload_plan *out) MUST_USE;
/* "layers of 1.60 GiB, two at a time, 16 samples a pass; about 3 s of transfer hidden behind 7 s of
 * work" */
void offload_plan_text(const struct offload_plan *p, char *out, size_t size);

#endif

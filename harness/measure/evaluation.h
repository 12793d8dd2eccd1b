/* What an evaluation or a timing is asked for and gives: evaluate() and latency_measure() fill the
 * same kind of it. */
#ifndef SG_HARNESS_MEASURE_EVALUATION_H
#define SG_HARNESS_MEASURE_EVALUATION_H

#include "engine/engine.h"
#include "engine/tuner/tuned.h"
#include "harness/measure/dense_cache.h"
#include "harness/measure/dense_states.h"
#include "harness/measure/parity.h"
#include "harness/measure/stopwatch.h"
#include "kernels/compare.h"
#include "results/store.h"
#include "suites/suite.h"

#include <stdbool.h>

/* The same model, opened on a device of its own, with threads of its own. */
struct eval_device {
    const struct weights *weights;
    struct par *par;
};

struct evaluate_args {
    struct model *model;
    struct par *par;
    const struct eval_device *more; /* [n_more] devices beside the model's, which share the samples
                                     */
    int n_more;
    const struct sample_set *set;
    const struct sparse_policy *policy;
    struct dense_cache *cache;
    const struct dense_states *states;   /* of this very set, shared with other cells; NULL: made
                                            here, sample by sample */
    const char *impl;                    /* attention implementation, NULL the best */
    int chunk;                           /* prefill chunk, 0 automatic */
    bool generate;                       /* also the guide's three prompts, greedy, 50 new tokens */
    bool keep_tokens;                    /* per-token rows */
    bool keep_masks;                     /* block masks of the first sample */
    const struct tuned *tuned;           /* with attribution: how often its heads are over their
                                            bounds here; NULL: no bounds */
    bool attribution;                    /* errors by layer and head: three more passes, see
                                            harness/measure/layer_errors.h */
    bool recall;                         /* the attention mass kept and what choosing tiles takes,
                                            see harness/measure/recall.h; attribution measures it,
                                            too */
    int n_worst;                         /* worst tokens by KL to keep */
    const struct stopwatch_rule *timing; /* when times of a timed set stand still; NULL:
                                            stopwatch_default */
    bool quiet;
    struct parity *parity; /* of two runs, CPU and GPU, and then n_more is 0; NULL: of one */
    bool (*stop)(void *);  /* NULL: never */
    void *stop_ctx;
};

/* What was measured; `data` points into memory this owns. data.run holds only what was measured
 * (status, wall_s, calls, peak_bytes, impls); the caller adds the identity. */
struct evaluation {
    struct run_data data;
    struct arena *arena;
    int first_layer; /* the sparse passes began here; above 0 their times are no latencies and none
                        is stored */
};
/* How it ended: status, seconds since t0, memory and the kernels that ran. */
void evaluation_finish(
    struct evaluation *e, const struct evaluate_args *a, const struct session *s, int64_t t0);
void evaluation_clear(struct evaluation *e);

#endif

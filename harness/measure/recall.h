/* How much of the true attention the computed tiles hold, and how much as many tiles could.
 *
 * Of every head, and of every block of query rows in which something was left out: the attention
 * mass of the tiles in its map, mean over the rows of the block (recall), and that of as many tiles
 * taken by their mass (the oracle at equal count). Queries and keys are those of the sparse run.
 * One more sparse pass and all products of queries and keys of the layers that ran sparse, on the
 * host; and one more dense pass, for the time that choosing tiles is a share of.
 */
#ifndef SG_HARNESS_MEASURE_RECALL_H
#define SG_HARNESS_MEASURE_RECALL_H

#include "harness/measure/evaluation.h"

struct recall_figures {
    double mean, oracle; /* over heads and blocks of rows; these and those below NAN for n = 0 */
    double p5;           /* 5th percentile over heads and blocks of rows */
    /* the worst of the query heads that share keys, mean over those groups and layers */
    double worst_of_group;
    int64_t n; /* heads and blocks of rows; 0: nothing was left out */
};
struct recall {
    struct recall_figures *samples; /* [n_samples], in the arena */
    struct recall_figures all;
    /* Seconds of a pass, medians over samples: choosing tiles, and dense attention. What else runs
     * on the machine meanwhile shows in both. */
    double predict_s, attention_s;
};

/* The session's sequence is lost. */
enum status recall_measure(const struct evaluate_args *a, struct session *session,
    struct arena **arena, struct recall *out) MUST_USE;

#endif

/* The passes of an evaluation: every sample dense, sparse, and compared, on one device or on
 * several.
 *
 * Samples are handed out one at a time; what they give is kept by sample, so it does not depend on
 * which device ran them.
 */
#ifndef SG_HARNESS_MEASURE_EVAL_PASS_H
#define SG_HARNESS_MEASURE_EVAL_PASS_H

#include "harness/measure/answers.h"
#include "harness/measure/evaluation.h"
#include "harness/measure/worst_tokens.h"

struct sample_passes {
    struct token_metrics **tokens; /* [n_samples][n] */
    struct tensor_sums *sums;      /* [n_samples] */
    struct head_ledger *totals;    /* [n_samples] of all its heads */
    /* [n_cells] of all samples: folded as they come, for a ledger of every head of every sample
     * outgrows the model (10 000 samples of a 405B one: 62 GB) */
    struct head_ledger *ledger;
    /* [n_cells] samples, however many chunks each was cut into, that ran dense for being short */
    int64_t *short_calls;
    /* [n_samples] seconds; a dense pass that was not made is NAN */
    double *dense_times, *sparse_times;
    /* [n_samples] what was written behind the prompts of samples that have some */
    struct written *dense_written, *sparse_written;
    int *first_layer; /* [n_samples] where the sparse pass began */
    struct worst_tokens worst;
    /* [n_cells] of the first sample, in the arena; NULL: not kept */
    struct mask_record *masks;
    size_t n_masks;
    int n_cells;             /* layers x heads */
    struct session *session; /* of the first device, left at the end of some sample */
};

/* Runs them all. Masks go to `arena`. Clear *p also after a failure, which is the first in the
 * order of samples. */
enum status sample_passes_run(
    struct sample_passes *p, const struct evaluate_args *a, struct arena **arena) MUST_USE;
void sample_passes_clear(struct sample_passes *p, int n_samples);

#endif

/* Which layer and head hurts: the error of attention outputs, measured layer by layer on every
 * sample.
 *
 * Isolated: the layer runs under the policy on the stream that enters it in the dense run, so that
 * it alone errs. Propagated: it runs under the policy on the stream of the sparse run, errors of
 * earlier layers included. Both against the dense run's output o, per head over rows and dims: L1 =
 * sum |o - o~| / sum |o|, and the cosine. A layer's row (head -1) pools its heads.
 *
 * Everything runs in the session, on the device that it has, with the kernels that the run itself
 * takes. It costs a dense and two sparse passes, and two streams and three attention outputs of one
 * sample. No time or metric of the run is touched.
 */
#ifndef SG_HARNESS_MEASURE_LAYER_ERRORS_H
#define SG_HARNESS_MEASURE_LAYER_ERRORS_H

#include "harness/measure/evaluation.h"

/* *over: with a->tuned that has bounds, how often its sparse heads are over them, isolated and by
 * the file's rule, as the tuner counts it; n_samples 0 without. Rows in `arena`: every layer and
 * head over all samples (sample -1), then per sample each head that ran sparse. ERR_MEMORY with
 * what is needed. The session's sequence is lost. */
enum status layer_errors_measure(const struct evaluate_args *a, struct session *session,
    struct arena **arena, struct layer_error_record **rows, size_t *n,
    struct over_bound *over) MUST_USE;

#endif

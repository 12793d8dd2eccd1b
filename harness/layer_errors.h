/* Which layer and head hurts: the error of attention outputs, measured by two more passes over every sample.
 *
 * Isolated: on the dense run's own q, k and v the layer's attention is computed once more under the policy, so that this layer
 * alone errs. Propagated: the sparse run's attention output, whose inputs carry the errors of all layers before it. Both
 * against the dense run's output o, per head over rows and dims: L1 = sum |o - o~| / sum |o|, and the cosine. A layer's row
 * (head -1) pools its heads.
 *
 * Costs a dense and a sparse pass, one sparse attention more for each sparse layer, and memory for the dense outputs of one
 * sample: layers x tokens x heads x head_dim x 4 bytes. No time or metric of the run is touched.
 */
#ifndef SG_HARNESS_LAYER_ERRORS_H
#define SG_HARNESS_LAYER_ERRORS_H

#include "harness/evaluate.h"

/* Rows in `pool`: every layer and head over all samples (sample -1), then per sample each head that ran sparse.
 * ERR_MEMORY with what is needed. The session is left at the end of the last sample. */
enum status layer_errors_measure(const struct evaluate_args *a, struct session *session, struct pool **pool,
                                 struct layer_error_record **rows, size_t *n) MUST_USE;

#endif

/* METHOD 2 read again in fp64, to judge the masks by: shares no code with kernels/, knows nothing
 * of how they do it.
 *
 * The sparge predictor with its top-p rule, or top-k: block means, self-similarity, softmax, the
 * choice, and what is always kept.
 */
#ifndef SG_HARNESS_MEASURE_DEFINITION_H
#define SG_HARNESS_MEASURE_DEFINITION_H

#include "kernels/mask.h"

/* What all query blocks of one head have in common. Doubles: definition_size() of them. */
size_t definition_size(const struct attn_args *a);
void definition_prepare(const struct attn_args *a, int head, enum smooth_k smooth, double *state);

/* keep[j] of every possible key block of query block i of this call; returns how many those are.
 * topk 0: tau decides. *doubt (may be NULL): how near to another outcome the nearest decision was,
 * in the units of what was compared. */
int definition_row(const struct attn_args *a, int head, int i, double theta, double tau,
    double topk, const double *state, bool *keep, double *doubt);

/* The same as a method, for whole runs: what is kept is written down as forced, so that nothing
 * else decides. */
extern const struct mask_method definition_method;

/* The output [n_q, head_dim] of a call of one head over the tiles of its map, without stage 2, in
 * the call's precision (METHOD 9). */
enum status definition_output(const struct attn_args *a, double *o) MUST_USE;

#endif

/* What sparsity buys in time: prefill at a ladder of lengths, dense and sparse in turns, and
 * decode.
 *
 * Fills the same kind of evaluation as evaluate(): latency rows, latency metrics at the longest
 * length with the sparsity of one sparse pass of that length, the break-even length with an
 * interval, the attention calls of one sparse pass of every length, and a drift check that times
 * the first length again at the end.
 */
#ifndef SG_HARNESS_MEASURE_LATENCY_H
#define SG_HARNESS_MEASURE_LATENCY_H

#include "harness/measure/evaluation.h"

enum status latency_measure(const struct evaluate_args *a, struct evaluation *out) MUST_USE;

/* The length where sparse begins to be faster, from median ratios (sparse / dense) at ascending
 * lengths, interpolated on a logarithmic axis; 0 when it is faster from the first length on,
 * INFINITY when never. */
double break_even_length(const int *lengths, const double *ratios, int n);

#endif

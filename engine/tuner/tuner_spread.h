/* One tuning on several devices: layers are dealt out in turn, each device runs the dense model
 * over all samples itself.
 *
 * A layer's thresholds follow from the samples and the weights alone, so they are the same bit for
 * bit on one device or on many of a kind.
 */
#ifndef SG_ENGINE_TUNER_TUNER_SPREAD_H
#define SG_ENGINE_TUNER_TUNER_SPREAD_H

#include "engine/tuner/tuner.h"

enum { TUNE_MAX_DEVICES = 64 };

/* As tune() with a->weights and a->par set aside: device i holds weights[i] and gets n_threads of
 * the host's threads (0: all of them, shared out evenly). 1 … TUNE_MAX_DEVICES devices; calls of
 * a->curves and a->progress take turns. When one device fails the others finish their layers, so
 * their curves are kept, and the first failure in the order of devices is returned. The seconds of
 * *times are those of the slowest device. */
enum status tune_spread(const struct tune_args *a, const struct weights *const *weights, int n,
    int n_threads, struct tuned *out, struct tune_times *times) MUST_USE;

#endif

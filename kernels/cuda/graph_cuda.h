/* Work queued on a CUDA device, captured once and started again as a whole: one call to the driver
 * instead of one per kernel. A graph repeats the very launches, with the pointers and numbers they
 * had.
 */
#ifndef SG_KERNELS_CUDA_GRAPH_CUDA_H
#define SG_KERNELS_CUDA_GRAPH_CUDA_H

#include "base/status.h"
#include "kernels/device.h"

struct graph_cuda; /* opaque */

/* From here on, work queued on the device's stream by this thread is recorded instead of run.
 * Nothing may wait, copy from or to the host, or allocate, and each kernel should have run once
 * before: loading one cannot be recorded. */
enum status graph_cuda_begin(struct device *d) MUST_USE;
/* Ends the recording in every case. `st`: how the recorded calls ended; anything but OK is passed
 * on. */
enum status graph_cuda_end(struct device *d, enum status st, struct graph_cuda **g) MUST_USE;

/* Queue all of it; the recording itself runs nothing. */
enum status graph_cuda_run(struct graph_cuda *g, struct device *d) MUST_USE;
void graph_cuda_close(struct graph_cuda **g);

#endif

/* Weights on their way from mapped files to the device behind the computation: threads copy them
 * into pinned memory, a stream of its own sends them on and makes them bf16. One transfer at a
 * time.
 */
#ifndef SG_KERNELS_CUDA_STAGER_CUDA_H
#define SG_KERNELS_CUDA_STAGER_CUDA_H

#include "base/status.h"
#include "kernels/device.h"
#include "kernels/dtype.h"

#include <stddef.h>
#include <stdint.h>

struct stager_cuda; /* opaque; for one thread at a time */

/* n values of any type become bf16 at `to` (device). */
struct stager_piece {
    uint16_t *to;
    const void *from; /* host, stays until the transfer was awaited */
    enum dtype dtype;
    size_t n;
};

/* Takes 128 MiB of pinned memory and a device buffer of 32 MiB. */
enum status stager_cuda_open(struct stager_cuda **s, struct device *d) MUST_USE;
/* Waits for what is under way. */
void stager_cuda_close(struct stager_cuda **s);

/* Begin to bring pieces (copied, at most 16), behind all work that the device's stream has so far.
 * The one before must have been awaited. */
enum status stager_cuda_begin(
    struct stager_cuda *s, const struct stager_piece *pieces, int n) MUST_USE;
/* Work that the device's stream gets from now on comes behind the transfer. Waits until all of it
 * is on its way; whatever failed in it is told here. */
enum status stager_cuda_await(struct stager_cuda *s) MUST_USE;

/* Of all transfers that are over. */
struct stager_times {
    int n;
    double seconds, last_s, waited_s; /* waited: of those seconds, spent in stager_cuda_await() */
};
struct stager_times stager_cuda_times(const struct stager_cuda *s);

#endif

/* A compute device: memory, copies, streams and timers behind one table, so that the engine names
 * no vendor.
 *
 * Pointers from alloc() belong to the device and are not to be read by the host. All copies and
 * fills are ordered on a stream; copies from and to pageable host memory return after the host side
 * is safe to reuse.
 */
#ifndef SG_KERNELS_DEVICE_H
#define SG_KERNELS_DEVICE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct device; /* an opened one */
struct stream; /* order of work on a device */
struct timer;  /* a pair of marks on a stream */

struct device_info {
    char name[128];
    int index;
    int sm; /* compute capability, major * 10 + minor */
    int n_multiprocessors;
    int driver, runtime; /* CUDA versions, 1000 * major + 10 * minor */
    size_t memory_total, memory_free;
};

enum copy_way { COPY_TO_DEVICE, COPY_TO_HOST, COPY_ON_DEVICE };

/* All entries are mandatory. */
struct device_impl {
    const char *name; /* "cuda" */
    /* How many devices there are; 0 and a status message saying why when there is none. */
    int (*count)(void);
    enum status (*open)(struct device **d, int index);
    void (*close)(struct device **d);
    enum status (*info)(struct device *d, struct device_info *out);
    /* the device's own stream; lives as long as the device */
    struct stream *(*stream)(struct device *d);
    enum status (*alloc)(struct device *d, void **at, size_t bytes);
    void (*free)(struct device *d, void *at);
    enum status (*copy)(
        struct device *d, void *to, const void *from, size_t bytes, enum copy_way way);
    enum status (*fill)(struct device *d, void *at, int byte, size_t bytes);
    /* wait for the stream; errors of earlier work surface here */
    enum status (*sync)(struct device *d);
    enum status (*timer_open)(struct device *d, struct timer **t);
    void (*timer_close)(struct timer **t);
    enum status (*timer_start)(struct device *d, struct timer *t);
    enum status (*timer_stop)(struct device *d, struct timer *t);
    enum status (*timer_read)(struct timer *t, double *seconds); /* waits for the stop mark */
};

#endif

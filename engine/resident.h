/* f32 values that stay where a model runs: in the memory of its GPU, so that rows which are made
 * and read there need not cross to the host between two calls, or in the host's. */
#ifndef SG_ENGINE_RESIDENT_H
#define SG_ENGINE_RESIDENT_H

#include "engine/checkpoint/weights.h"

/* Zeroed is one that is not open. */
struct resident {
    float *at;
    size_t values;
    struct weights_device *on; /* whose memory it is; NULL: the host's */
};

/* Rows handed to a session: of a resident on the session's own device, or of the host. */
struct rows_at {
    const float *at;
    bool on_device;
};

static inline struct rows_at rows_of_host(const float *at) { return (struct rows_at){at, false}; }

/* On the device of the weights when it has one and four times as much is free there, so that a
 * session which was planned beside it still fits; else, and with `host`, in the host's memory.
 * ERR_MEMORY names `what`. */
enum status resident_open(struct resident *r, const struct weights *w, size_t values, bool host,
    const char *what) MUST_USE;
void resident_close(struct resident *r);
/* Whether so many would go there now. */
bool resident_fits(const struct weights *w, size_t values);

/* Values [first, first + n) to and from the host. */
enum status resident_read(const struct resident *r, size_t first, size_t n, float *to) MUST_USE;
enum status resident_write(
    const struct resident *r, size_t first, size_t n, const float *from) MUST_USE;
/* All of them on the host: where they are, or copied to `room` [values]. */
enum status resident_show(const struct resident *r, float *room, const float **out) MUST_USE;
/* To the host's memory, the device's being wanted for something else. */
enum status resident_leave_device(struct resident *r) MUST_USE;

/* Whether sessions of these weights can be given its rows. */
bool resident_serves(const struct resident *r, const struct weights *w);
struct rows_at resident_rows(const struct resident *r);

#endif

/* Time. Monotonic for durations, UTC for records. */
#ifndef SG_BASE_CLOCK_H
#define SG_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds on a clock that never goes back; only differences mean anything. */
int64_t clock_ns(void);

/* "2026-01-31T12:00:00Z" into a buffer of at least 21 bytes; returns it. */
char *clock_utc(char *out, int size);

#endif

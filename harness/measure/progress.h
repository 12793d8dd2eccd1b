/* What a command that takes long is at: what, which share, how fast, how much longer. On a terminal
 * one line on stderr that is drawn over, from the second second on; without one a line every thirty
 * seconds.
 *
 * A command of several parts says beforehand what all of them come to (work, in any unit, seconds
 * for instance), so that the time left covers what has not begun. Parts report from any thread;
 * within a part whoever does it reports as if it were alone.
 */
#ifndef SG_HARNESS_MEASURE_PROGRESS_H
#define SG_HARNESS_MEASURE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *what, *unit; /* borrowed: "tune", "heads" */
    double total;
    int64_t started_ns;
    bool quiet;
    double work, told; /* of the part it stands for, and how much of that has been reported; work <
                          0: it stands alone */
};

void progress_begin(
    struct progress *p, const char *what, const char *unit, double total, bool quiet);
void progress_update(struct progress *p, double done);
/* Clears the line. */
void progress_end(struct progress *p);

/* All the work of the command that this process does. */
void progress_work_begin(const char *what, double work, bool quiet);
/* The part that this thread begins now: "tuning: layers all", and its work. What is left of the
 * last one counts as done. A part that reports nothing by itself counts when it is over. */
void progress_part(const char *doing, double work);
/* Of what is left of the part, the next that reports has this share; what comes behind it has the
 * rest. */
void progress_share(double share);
/* The thread's part is over. */
void progress_part_end(void);
void progress_work_end(void);

/* Clears the line, for something else to be printed; the next report draws it again. */
void progress_hide(void);

/* "0:07", "12:30", "3 h 05 min": seconds for people. At least 16 bytes. */
void progress_time_text(double seconds, char *out, int size);

#endif

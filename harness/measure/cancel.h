/* The wish to stop, from a terminal or from a parent process. */
#ifndef SG_HARNESS_MEASURE_CANCEL_H
#define SG_HARNESS_MEASURE_CANCEL_H

#include <signal.h>
#include <stdbool.h>

/* True once the user has asked to stop (Ctrl-C); a second Ctrl-C ends the process at once. A process passes the wish on
 * to its child as CANCEL_PASSED_ON, which is no second time. */
#define CANCEL_PASSED_ON SIGUSR1
void cancel_install(void);
bool cancel_requested(void *unused);

#endif

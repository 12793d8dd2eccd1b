/* The wish to stop, from a terminal or from a parent process. */
#ifndef SG_HARNESS_MEASURE_CANCEL_H
#define SG_HARNESS_MEASURE_CANCEL_H

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

/* True once the user has asked to stop (Ctrl-C); a second Ctrl-C, at least a fifth of a second
 * later, ends the process at once. A process passes the wish on to its child as CANCEL_PASSED_ON,
 * which is no second time. */
#define CANCEL_PASSED_ON SIGUSR1
void cancel_install(void);
bool cancel_requested(void *unused);

/* What shells expect of a process that a signal has ended: 128 and its number; 130 (Ctrl-C) before
 * there was one. */
int cancel_exit_code(void);

/* For a process that waits for a child doing its work. Begin before fork: signals are blocked from
 * then on, so that none falls between a check and the wait; the child calls cancel_child.
 * cancel_wait passes the wish on and returns the child's wait status; a second wish kills the
 * child. */
void cancel_watch_begin(void);
void cancel_child(void);
int cancel_wait(pid_t child);

#endif

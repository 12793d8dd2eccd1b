#include "harness/measure/cancel.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SAME_WISH_MS = 200 };

/* written by signal handlers; all threads read the first */
static atomic_int cancelled, first_signal;
static atomic_long first_at; /* milliseconds; 0: not yet */
_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && ATOMIC_LONG_LOCK_FREE == 2, "a handler must not wait");

/* timeout(1) signals its child and then the child's group, a terminal and a script may do so beside
 * each other: what follows within a moment is the same wish. */
static bool wished_again(void)
{
    struct timespec t;
    long before = 0;
    clock_gettime(CLOCK_MONOTONIC, &t);
    long now = (long)t.tv_sec * 1000 + t.tv_nsec / 1000000 + 1;
    return !atomic_compare_exchange_strong(&first_at, &before, now) && now - before >= SAME_WISH_MS;
}

static void on_interrupt(int signal_number)
{
    if (wished_again()) _exit(128 + signal_number);
    if (cancelled) return;
    first_signal = signal_number;
    cancelled = 1;
}

/* A terminal interrupts both processes, in any order: what is passed on is no interrupt of its own.
 */
static void on_passed_on(int signal_number)
{
    (void)signal_number;
    cancelled = 1;
}

void cancel_install(void)
{
    struct sigaction action = {.sa_handler = on_interrupt},
                     passed_on = {.sa_handler = on_passed_on};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(CANCEL_PASSED_ON, &passed_on, NULL);
}

bool cancel_requested(void *unused)
{
    (void)unused;
    return cancelled;
}

int cancel_exit_code(void) { return 128 + (first_signal ? first_signal : SIGINT); }

static sigset_t watched, before_watch;

void cancel_watch_begin(void)
{
    sigemptyset(&watched);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGTERM);
    sigaddset(&watched, SIGCHLD);
    sigprocmask(SIG_BLOCK, &watched, &before_watch);
}

void cancel_child(void) { sigprocmask(SIG_SETMASK, &before_watch, NULL); }

int cancel_wait(pid_t child)
{
    int status;
    for (;;) {
        pid_t ended = waitpid(child, &status, WNOHANG);
        if (ended == child || (ended < 0 && errno != EINTR)) return ended == child ? status : 0;
        int number = sigwaitinfo(&watched, NULL);
        if (number != SIGINT && number != SIGTERM) continue;
        kill(child, wished_again() ? SIGKILL : CANCEL_PASSED_ON);
        if (!cancelled) first_signal = number;
        cancelled = 1;
    }
}

#include "harness/measure/cancel.h"

#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_int cancelled, n_interrupts; /* written by signal handlers; all threads read the first */
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "a handler must not wait");

static void on_interrupt(int signal_number)
{
    if (n_interrupts++) _exit(128 + signal_number);
    cancelled = 1;
}

/* A terminal interrupts both processes, in any order: what is passed on is no interrupt of its own. */
static void on_passed_on(int signal_number)
{
    (void)signal_number;
    cancelled = 1;
}

void cancel_install(void)
{
    struct sigaction action = {.sa_handler = on_interrupt}, passed_on = {.sa_handler = on_passed_on};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(CANCEL_PASSED_ON, &passed_on, NULL);
}

bool cancel_requested(void *unused)
{
    (void)unused;
    return cancelled;
}

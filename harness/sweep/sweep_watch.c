/* Which cell a crash is put down to. */
#include "harness/sweep/sweep.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static struct sweep_watch *watching;
static _Thread_local int this_worker = -1;

void sweep_watch_begin(int number) { this_worker = number; }

static void on_fatal(int number)
{
    watching->culprit = this_worker;
    raise(number); /* the action is the default one by now */
}

void sweep_watch_install(struct sweep_watch *w)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    struct sigaction action = {.sa_handler = on_fatal, .sa_flags = SA_RESETHAND};
    watching = w;
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++) sigaction(fatal[i], &action, NULL);
}

void sweep_watch_reset(struct sweep_watch *w)
{
    for (int i = 0; i < SWEEP_MAX_WORKERS; i++) w->cell[i] = -1;
    w->culprit = -1;
}

bool sweep_watch_blame(struct sweep_watch *w, int number)
{
    int n_running = 0;
    for (int i = 0; i < SWEEP_MAX_WORKERS; i++) n_running += w->cell[i] >= 0;
    if (n_running == 0 || (w->culprit >= 0 && w->cell[w->culprit] < 0)) return false;
    for (int i = 0; i < SWEEP_MAX_WORKERS; i++) {
        if (w->cell[i] < 0 || (w->culprit >= 0 && i != w->culprit)) continue;
        if (w->n_crashes == SWEEP_MAX_CRASHES) return false;
        struct sweep_crash *c = &w->crashes[w->n_crashes++];
        *c = (struct sweep_crash){.cell = w->cell[i]};
        int at =
            snprintf(c->how, sizeof c->how, "crashed: signal %d (%s)%s", number, strsignal(number),
                number == SIGKILL ? "; killed from outside, perhaps for want of memory" : "");
        if (w->culprit < 0 && n_running > 1 && at > 0 && (size_t)at < sizeof c->how)
            snprintf(c->how + at, sizeof c->how - (size_t)at, ", while %d cells ran", n_running);
    }
    return true;
}

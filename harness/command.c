#include "harness/command.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
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

int report_failure(enum status st)
{
    fflush(stdout);
    fprintf(stderr, "sparsegauge: %s: %s\n", status_name(st), status_message());
    return st == ERR_ARG ? EXIT_USAGE : EXIT_RUN;
}

int finish_output(int code)
{
    bool lost = ferror(stdout) != 0; /* an earlier write, whose reason is gone by now */
    errno = 0;
    if (fflush(stdout) == 0 && !lost) return code;
    fprintf(stderr, "sparsegauge: %s: standard output: not all could be written%s%s; free space or write elsewhere\n",
            status_name(ERR_IO), errno ? ": " : "", errno ? strerror(errno) : "");
    return EXIT_RUN;
}

bool command_begin(const struct command_help *help, const struct option_def *options, int argc, char **argv,
                   const char **positional, int max_positional, int *n_positional, int *exit_code)
{
    bool want_help;
    enum status st = options_parse(options, argc, argv, positional, max_positional, n_positional, &want_help);
    if (st == OK && !want_help) return true;
    if (want_help) options_print_help(help, options);
    *exit_code = st == OK ? EXIT_PASS : report_failure(st);
    return false;
}

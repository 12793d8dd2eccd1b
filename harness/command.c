#include "harness/command.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile sig_atomic_t cancelled;

static void on_interrupt(int signal_number)
{
    if (cancelled) _exit(128 + signal_number);
    cancelled = 1;
}

void cancel_install(void)
{
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
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

#include "harness/cli/command.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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

int outcome_exit_code(enum check_outcome outcome)
{
    return outcome == CHECK_PASS ? EXIT_PASS : outcome == CHECK_FAIL ? EXIT_GATE : EXIT_INVALID;
}

/* A command is a file: its name, help, options and what it does, as one constant, and a line in the
 * table of main.c, which parses and reports. Only this room prints and chooses exit codes. */
#ifndef SG_HARNESS_CLI_COMMAND_H
#define SG_HARNESS_CLI_COMMAND_H

#include "base/par.h"
#include "base/status.h"
#include "harness/cli/options.h"
#include "harness/measure/cancel.h"
#include "reports/junit.h"

#include <stdbool.h>

enum exit_code {
    EXIT_PASS = 0,
    EXIT_GATE = 1,    /* a bound was broken */
    EXIT_USAGE = 2,   /* the command line makes no sense */
    EXIT_RUN = 3,     /* a run failed */
    EXIT_INVALID = 4, /* ambiguous or invalid measurement */
    /* 130 after Ctrl-C, 143 after SIGTERM: see cancel_exit_code() */
};

/* What stood on the command line behind the command's name, its options parsed already. */
struct command_call {
    const char **positional; /* [n], then a NULL */
    int n;
    int argc; /* everything as it was written, for provenance */
    char **argv;
    /* of a command that succeeds: EXIT_PASS, unless it says otherwise here */
    int code;
};

struct command {
    const char *name, *summary;
    struct command_help help;
    /* they write to the command's own variables, which hold the defaults */
    const struct option_def *options;
    int max_positional;
    const char *kept; /* what is kept when it is stopped and how to go on; NULL: nothing is, the
                         same command starts again */
    enum status (*run)(struct command_call *call); /* a failure is reported by the caller */
};

/* Prints "sparsegauge: error: message" to stderr; returns the exit code that fits the status. */
int report_failure(enum status st);

/* The end of every process: what was printed counts as done only once it has arrived. Flushes
 * standard output; returns `code`, or EXIT_RUN with a message when not all could be written. */
int finish_output(int code);

/* The exit code of what a gate found: EXIT_PASS, EXIT_GATE, EXIT_INVALID. */
int outcome_exit_code(enum check_outcome outcome);

extern const struct command cmd_demo, cmd_info, cmd_eval, cmd_tune, cmd_sweep, cmd_status,
    cmd_merge, cmd_best, cmd_frontier, cmd_tokens, cmd_sql, cmd_optimise, cmd_explain, cmd_generate,
    cmd_list, cmd_show, cmd_compare, cmd_gate, cmd_audit, cmd_report, cmd_suite, cmd_synth,
    cmd_bench, cmd_version;

#endif

/* A command is a file: one function and a line in the table of main.c. Only commands print and choose exit codes. */
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
};

struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* arguments behind the command's name; returns an exit code */
};

/* Prints "sparsegauge: error: message" to stderr; returns the exit code that fits the status. */
int report_failure(enum status st);

/* The end of every process: what was printed counts as done only once it has arrived. Flushes standard output; returns `code`,
 * or EXIT_RUN with a message when not all could be written. */
int finish_output(int code);

/* The start of every command: parses the arguments, or prints the help. False when the command is over already; then
 * *exit_code says how. positional: at most max_positional, n_positional of them were given. */
bool command_begin(const struct command_help *help, const struct option_def *options, int argc, char **argv,
                   const char **positional, int max_positional, int *n_positional, int *exit_code);

/* The exit code of what a gate found: EXIT_PASS, EXIT_GATE, EXIT_INVALID. */
int outcome_exit_code(enum check_outcome outcome);

int cmd_demo(int argc, char **argv);
int cmd_audit(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_tune(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_gate(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_suite(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_explain(int argc, char **argv);
int cmd_optimise(int argc, char **argv);
int cmd_sweep(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_merge(int argc, char **argv);
int cmd_best(int argc, char **argv);
int cmd_frontier(int argc, char **argv);
int cmd_tokens(int argc, char **argv);
int cmd_sql(int argc, char **argv);

#endif

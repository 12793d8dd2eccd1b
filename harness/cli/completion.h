/* The option tables as a shell and a manual reader want them. */
#ifndef SG_HARNESS_CLI_COMPLETION_H
#define SG_HARNESS_CLI_COMPLETION_H

#include "harness/cli/command.h"

/* "bash", "zsh", "fish": a completion script; "man": the page sparsegauge(1) in man(7). To standard
 * output. ERR_ARG for anything else. */
enum status completion_print(
    const struct command *const *commands, int n, const char *what) MUST_USE;

#endif

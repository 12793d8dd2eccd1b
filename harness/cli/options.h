/* Command lines: a command's options are a table that parses and prints its own help.
 *
 * Long options take "--name value" or "--name=value"; "_" and "-" in a name are the same, so the
 * spelling of the tuning guide's scripts works. A value that does not fit is refused with the
 * option, the value and the range; a name that is none with the one it was most likely meant to be.
 */
#ifndef SG_HARNESS_CLI_OPTIONS_H
#define SG_HARNESS_CLI_OPTIONS_H

#include "base/status.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>

enum option_kind {
    OPTION_FLAG,  /* bool *: set to true; "--no-NAME" sets false */
    OPTION_INT,   /* int * in [lo, hi] */
    OPTION_REAL,  /* double * in [lo, hi] */
    OPTION_SHARE, /* the same, also written as "2%" for .02 */
    OPTION_TEXT,  /* const char ** */
    OPTION_LIST,  /* struct text_list *: may be given several times */
    OPTION_GROUP, /* a heading in the help */
};

struct option_def {
    /* without dashes; "o|output" is a short and a long name, more aliases may follow */
    const char *name;
    enum option_kind kind;
    void *to;
    const char *value; /* shown in the help, e.g. "FILE" */
    const char *help;
    double lo, hi; /* of numbers; both 0: any */
};

struct command_help {
    const char *usage;   /* "eval MODEL --suite SPEC [options]" */
    const char *text;    /* what it does, in one paragraph */
    const char *example; /* one command line per line */
    const char *often; /* the options that people use, long names with spaces between, at most six:
                          shown first; NULL: all are few */
};

/* The options of the command, and those that every command has; both end with a NULL name. */
struct option_tables {
    const struct option_def *own, *common;
    /* Appends who else has an option of that name of n characters, "tune, sweep"; may be NULL. */
    void (*elsewhere)(const char *name, size_t n, struct str *out);
};

/* Is there an option called name (n characters, without its dashes) in a table? */
bool options_have(const struct option_def *table, const char *name, size_t n);

/* Options may stand anywhere; the rest goes to `positional` (at most `max_positional`,
 * *n_positional of them). *want_help is set by -h and --help; then nothing is checked. */
enum status options_parse(const struct option_tables *options, int argc, char **argv,
    const char **positional, int max_positional, int *n_positional, bool *want_help) MUST_USE;

/* To standard output, in lines of the terminal's width. */
void options_print_help(const struct command_help *help, const struct option_tables *options);

#endif

/* What commands print: one way for all of them, and for every format.
 *
 * A command prints tables (rows of one kind) and objects (one row: "the run", "the outcome") by
 * name, and says sentences. People get them as they come; sentences go to terminals alone. Programs
 * get one document: in JSON an object with a member for each of them, in JSON lines a line a row,
 * in CSV the one that matters most (the first table; the first object where there is none).
 * docs/schema.md lists members and keys.
 */
#ifndef SG_HARNESS_CLI_OUTPUT_H
#define SG_HARNESS_CLI_OUTPUT_H

#include "engine/engine.h"
#include "harness/cli/options.h"
#include "harness/measure/dense_cache.h"
#include "reports/tables.h"
#include "reports/view.h"
#include "results/store.h"

/* --format and --all-columns, which every command has. */
extern const struct option_def output_options[];

/* argv[0], which outlives all that is printed: say_command() advises what the reader's shell finds,
 * so a program called by its path is called so again. */
void output_called_as(const char *program);
/* Between the options and the command: ERR_ARG for a format that is none. `command` is the
 * document's name. */
enum status output_begin(const char *command) MUST_USE;
/* Instead, where the options make no sense: what fails is a document too, wherever the format
 * stands among them. */
void output_begin_refused(const char *command, int argc, char **argv);
/* Behind the command: writes the document that was collected, its outcome in "exit_code" and
 * "error". */
void output_end(enum status st, int exit_code);
/* For a process whose child prints in its stead: nothing is collected any more. */
void output_drop(void);
/* Refuses before any work what would fail behind it: a file in a directory that is not there. path
 * may be NULL. */
enum status output_check(const char *path) MUST_USE;

/* A person reads this, at a terminal or as text. */
bool for_people(void);
/* Columns to fit, and whether they may hold more than ASCII. */
int output_width(void);
bool output_is_ascii(void);

/* A sentence or several, wrapped to the width and in ASCII where nothing else can be shown; to
 * terminals alone. */
void say(const char *format, ...) PRINTF_LIKE(1, 2);
/* The same, not wrapped: command lines to copy. A line that begins with "sparsegauge " gets the
 * program's path where it was called by one. */
void say_command(const char *format, ...) PRINTF_LIKE(1, 2);
/* To standard error, whatever the format: what was done to the input, what to know beside the
 * answer. */
void remark(const char *format, ...) PRINTF_LIKE(1, 2);

/* Print and free. `name` is the member of the document; tables of one name are one member. */
void print_table(const char *name, struct table *t);
/* One row; upright on a terminal. */
void print_object(const char *name, struct table *t);
/* The same for programs alone. */
void data_table(const char *name, struct table *t);
void data_object(const char *name, struct table *t);

/* A field of an object under construction: its key, what people read for it (NULL: nothing), its
 * value (NULL, NAN and negative counts are missing). */
void field_text(struct table *t, const char *key, const char *label, const char *value);
void field_count(struct table *t, const char *key, const char *label, int64_t value);
void field_real(struct table *t, const char *key, const char *label, double value,
    enum table_number number, int digits);
void field_bool(struct table *t, const char *key, const char *label, bool value);

/* "texts begin with <s> by the tokenizer's rule". */
void say_text_begin(const struct model *m);
/* On stderr, what the cache of dense states could not keep. */
void note_cache(const struct dense_cache *c);

#endif

/* How commands print tables and runs. */
#ifndef SG_HARNESS_CLI_OUTPUT_H
#define SG_HARNESS_CLI_OUTPUT_H

#include "engine/engine.h"
#include "harness/cli/options.h"
#include "harness/measure/dense_cache.h"
#include "reports/tables.h"
#include "reports/view.h"
#include "results/store.h"

struct output_options {
    const char *format; /* terminal, md, csv, json, latex, html */
    bool all_columns;
};
#define OUTPUT_DEFAULTS      \
    {                        \
        .format = "terminal" \
    }

#define OUTPUT_OPTIONS(p)                                           \
    {"format", OPTION_TEXT, &(p).format, "NAME",                    \
        "terminal, md, csv, json, latex or html (terminal)", 0, 0}, \
    {                                                               \
        "all-columns", OPTION_FLAG, &(p).all_columns, NULL,         \
            "also columns that hold one value only", 0, 0           \
    }

/* Refuse before any work what would fail behind it: an unknown --format, a file in a directory that
 * is not there. path may be NULL. */
enum status output_check(const struct output_options *o, const char *path) MUST_USE;
/* Prints and frees the table; colour only on a terminal. */
enum status print_table(struct table *t, const struct output_options *o) MUST_USE;
/* Verdict, metrics, tasks, fallbacks and warnings of a run. */
void print_run_summary(const struct run_view *v, const struct output_options *o);

/* "texts begin with <s> by the tokenizer's rule": for people, so in no other format. */
void print_text_begin(const struct model *m, const struct output_options *o);

/* A run of a database or a before/after JSON file, by name: what ends in ".json" is a file. The
 * database stays open with it. */
struct view_source {
    struct store *store;
    struct run_view view;
};
enum status view_source_load(struct view_source *s, const char *db, const char *name) MUST_USE;
/* The noise floors of a machine (its fingerprint; NULL: of any) and of the model of a run or file,
 * from its database or `db`; none where neither is there. */
enum status view_source_floors(const struct view_source *s, const char *db, const char *machine,
    struct noise_list *out) MUST_USE;
void view_source_clear(struct view_source *s);

/* On stderr, what the cache of dense states could not keep. */
void note_cache(const struct dense_cache *c);

#endif

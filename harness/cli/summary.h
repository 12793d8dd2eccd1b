/* A run as `eval` and `show` open with it: about eight lines that answer. */
#ifndef SG_HARNESS_CLI_SUMMARY_H
#define SG_HARNESS_CLI_SUMMARY_H

#include "reports/view.h"

/* "run 2: topk 128x64 topk=0.4 … on text:a.txt, 2 texts; model m, cpu", a line of its own. */
void say_run(const struct run_view *v);

/* What was run, sparsity, KL, answers, perplexity, top-1, each with its interval, the verdict, the
 * next command; then what must be known before any of it is believed. `db` is named in the command
 * where it is not the usual one; NULL: a file, for which none is shown. With `details` everything
 * else that is stored of it as well. Programs always get everything. */
void print_run(const struct run_view *v, const char *db, bool details);

/* The `eval` that makes a run again from what is stored of it, "sparsegauge eval …"; appended.
 * tuned_path: where its thresholds lie, NULL without. False when there is none, and then *out says
 * why. */
bool run_command(const struct run_record *r, const char *tuned_path, struct str *out);

#endif

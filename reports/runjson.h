/* before_tune.json and after_tune.json (METHOD 7): the tuning guide's keys as they are, ours beside
 * them.
 *
 * The file holds what compare and gate need: identity of model and tokens, settings, metrics with
 * distributions, one object per sample. Reading checks every key that is used and names what is
 * wrong.
 */
#ifndef SG_REPORTS_RUNJSON_H
#define SG_REPORTS_RUNJSON_H

#include "reports/view.h"

#define RUNJSON_SCHEMA_VERSION 1

/* Written atomically. */
enum status runjson_write(const struct run_view *v, const char *path) MUST_USE;

/* ERR_FORMAT when it is not ours, of a newer schema_version, or its summaries contradict its rows;
 * whether the rows are what their samples say is reports/recompute.h. */
enum status runjson_read(struct run_view *v, const char *path) MUST_USE;

/* The guide's statistics file: an array with one object per layer, made from the ledger and, when
 * there is one, the tuning. */
enum status runjson_write_stats(const struct run_view *v, const char *path) MUST_USE;

#endif

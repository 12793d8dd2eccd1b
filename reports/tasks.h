/* Scores of tasks: by group of questions and length of context, dense and sparse on the same
 * samples. */
#ifndef SG_REPORTS_TASKS_H
#define SG_REPORTS_TASKS_H

#include "reports/table.h"
#include "reports/view.h"

/* A row for each group and length, in the order of the questions: scores with 95 % intervals, what
 * was lost and gained, KL on the answers, the share of tiles computed. A group on which the dense
 * model does not stand clear of chance says nothing, and is marked so. Notes give the effective
 * length and where the question's place decides. */
struct table *tasks_table(const struct run_view *v);

/* Where questions stand at several places in both runs: which of the two answers more at the end
 * and elsewhere, and that it wins at the end alone when so. Appends one sentence, or nothing. */
void tasks_places(const struct run_view *before, const struct run_view *after, struct str *out);

/* The dense score's interval reaches down to chance and a tenth: a loss would not show. */
bool tasks_tell_nothing(const struct estimate *dense, double chance);

#endif

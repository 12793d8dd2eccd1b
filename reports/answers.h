/* What a page says first, in four short texts: what was lost, where, is it noise, what to do. */
#ifndef SG_REPORTS_ANSWERS_H
#define SG_REPORTS_ANSWERS_H

#include "reports/axes.h"
#include "reports/compare.h"
#include "reports/view.h"

enum tone { TONE_PLAIN, TONE_GOOD, TONE_BAD };

/* Plain words. `command` runs as it stands (from where the model's path leads); "" without. */
struct answers {
    struct str lost, where, noise, todo, command;
    struct str bands; /* what the tuning guide's bands would say */
    enum tone tone;
};

/* c, same_data: NULL without; the latter is looked through for a run that loses less at as much
 * sparsity. db: the file that commands name, NULL without. */
void run_answers(const struct run_view *v, const struct comparison *c,
    const struct run_list *same_data, const char *db, struct answers *out);

/* The run that a sweep offers: of those that lost too little to matter (their interval's upper end
 * of KL at most CHOICE_KL nats, answers lost at most CHOICE_ANSWERS) the sparsest, on the longest
 * data; failing that the knee of the KL frontier. Never the oracle nor dense. SIZE_MAX without a
 * run that has a KL. */
#define CHOICE_KL .05
#define CHOICE_ANSWERS .01
size_t sweep_choice(const struct run_list *runs, bool *holds);
/* counts of cells by enum cell_state, NULL where no plan tells them. */
void sweep_answers(
    const struct run_axes *axes, const size_t *counts, const char *db, struct answers *out);
void answers_clear(struct answers *a);

#endif

/* The files of benchmarks, one line to one prompt and what it is held against: what suite_tasks.c
 * reads.
 */
#ifndef SG_SUITES_TASK_FORMATS_H
#define SG_SUITES_TASK_FORMATS_H

#include "suites/build.h"
#include "suites/jsonl.h"

/* One line. A question of several candidates has no `wanted` but `choices`. */
struct task_line {
    struct task_text text;
    struct wanted *wanted;
    char *group;    /* the task's name */
    int64_t length; /* tokens its maker counted, prompt and budget; -1: not said */
    bool whole;     /* the prompt must not be cut: its length was made to measure */
    /* read, not written: every candidate with the context in front of it */
    struct answer_text *choices;
    int n_choices, gold;
};
void task_line_clear(struct task_line *t);

struct task_format {
    const char *name;
    const char *help; /* what it reads */
    bool wrapped;     /* prompts are as a model read them: no chat may go around them */
    enum status (*read)(const struct jsonl *in, struct task_line *out);
};
extern const struct task_format *const task_formats[]; /* ended by NULL */

#endif

/* The synthetic tasks of RULER (Hsieh et al. 2024, "RULER: What's the Real Context Size of Your
 * Long-Context Language Models?"; scripts at github.com/NVIDIA/RULER): needles of several kinds,
 * chains of variables, common and frequent words.
 *
 * What makes a score comparable is taken from the paper's scripts as facts: the wording of prompts
 * and answer prefixes, the counts of needles, hops and words, the haystacks of noise and of
 * needles, the budgets of generated tokens. Words are ours (compound nouns), and so is the random
 * stream: integers alone, so that the bytes are the same on every machine. The haystack of essays
 * is prose of ours, or a text that is given.
 */
#ifndef SG_SUITES_RULER_H
#define SG_SUITES_RULER_H

#include "suites/ask.h"
#include "suites/chronicle.h"

#include <stdbool.h>

enum ruler_task {
    RULER_NIAH_SINGLE_1,
    RULER_NIAH_SINGLE_2,
    RULER_NIAH_SINGLE_3,
    RULER_NIAH_MULTIKEY_1,
    RULER_NIAH_MULTIKEY_2,
    RULER_NIAH_MULTIKEY_3,
    RULER_NIAH_MULTIVALUE,
    RULER_NIAH_MULTIQUERY,
    RULER_VT,
    RULER_CWE,
    RULER_FWE,
    RULER_TASKS
};

struct ruler_task_info {
    const char *name;
    bool prose; /* hidden in essays */
    int budget; /* tokens a model may generate; they count as part of the length */
};
extern const struct ruler_task_info ruler_tasks[RULER_TASKS];

/* Prose cut into sentences, for the tasks that hide in it. */
struct haystack {
    struct str text;
    size_t *end; /* [n] where each sentence ends, the blank behind it not included; owned */
    size_t n, cap;
};
/* Append one sentence of len bytes without the blank behind it. */
void haystack_add(struct haystack *h, const char *sentence, size_t len);
/* Cut a text at . ! ? followed by white space; runs of white space become one blank. */
void haystack_read(struct haystack *h, const char *text, size_t len);
void haystack_clear(struct haystack *h);

struct ruler_config {
    enum ruler_task task;
    enum chronicle_split split;
    uint64_t seed;
    int length;  /* tokens of prompt and budget; under 4096 cwe has its small counts, and fwe draws
                    its words by it */
    int n_units; /* lines of noise, needles, sentences, words: at least ruler_min_units() */
    int n_example; /* lines of noise in the worked example of vt; RULER: as many as fit 500 tokens
                    */
    enum ask ask;
    const struct haystack *haystack; /* repeated if too short; NULL: generated */
};

enum { RULER_MAX_ANSWERS = 10 };

/* One sample: prompt + prefix is what a model is given. */
struct ruler_doc {
    struct str prompt, prefix;
    struct str gold; /* a right continuation of the prefix, as the worked examples write it */
    struct str answers[RULER_MAX_ANSWERS];
    int n_answers;
    size_t evidence; /* where the first line that answers begins, of the prompt; SIZE_MAX: it is
                        everywhere */
};
void ruler_doc_clear(struct ruler_doc *doc);

/* The fewest units a task can be written with; the most. */
int ruler_min_units(enum ruler_task task);
int ruler_max_units(enum ruler_task task);
/* Into an empty or used document. ERR_ARG for a number out of range. */
MUST_USE enum status ruler_write(const struct ruler_config *config, struct ruler_doc *doc);
/* The worked example of vt alone, up to its answer: RULER makes it as long as 500 tokens allow. */
void ruler_example(int n_units, struct str *out);
/* -1 for a name it does not know. */
int ruler_task_find(const char *name, size_t len);

#endif

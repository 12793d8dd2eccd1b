/* One cell from request to stored run: identity and key, reuse when it is stored, evaluation, one transaction. */
#ifndef SG_HARNESS_MEASURE_CELL_H
#define SG_HARNESS_MEASURE_CELL_H

#include "harness/measure/evaluate.h"
#include "harness/measure/setup.h"
#include "results/store.h"

struct cell_args {
    const struct setup *setup;
    const struct eval_device *more; /* [n_more] as in evaluate_args */
    int n_more;
    struct store *store;
    struct dense_cache *cache;
    const struct sample_set *set;
    const struct sparse_policy *policy;
    const struct tuned *tuned; /* where the policy's thresholds come from; heads NULL or the pointer NULL: untuned */
    const struct machine_options *machine;
    int max_length, seed;
    int repeat;                /* 0, or the number of a repetition, which is a cell of its own */
    const char *score, *plan;  /* plan NULL: a single eval */
    bool generate;             /* a stored run without the guide's prompts is then run again */
    bool attribution;          /* a stored run without errors by layer is then run again */
    bool keep_tokens, replace;
    int n_worst;
    struct parity *parity;     /* both of its runs are made afresh */
    int argc;
    char **argv;
};

struct cell_result {
    char key[HASH_HEX_SIZE];
    bool reused; /* the run was stored already with these settings on these tokens */
};

/* Put what was measured under the identity that was asked for. */
void cell_take_measurements(struct run_record *r, const struct run_record *measured);

enum status cell_run(const struct cell_args *a, struct cell_result *out) MUST_USE;

#endif

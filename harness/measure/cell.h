/* One cell from request to stored run, for eval, demo, sweep and gate --confirm alike: identity and
 * key, the lease or the stored run, evaluation, one transaction, the lease given back.
 */
#ifndef SG_HARNESS_MEASURE_CELL_H
#define SG_HARNESS_MEASURE_CELL_H

#include "harness/measure/evaluation.h"
#include "harness/measure/setup.h"
#include "results/lease.h"
#include "results/store.h"

/* What a cell is asked for beside its model, samples and policy. */
struct cell_settings {
    int max_length, seed;
    int num_samples; /* as asked: 0 = all there are */
    int repeat;      /* 0, or the number of a repetition, which is a cell of its own */
    bool confirming; /* tries another run again: a cell of its own, which lists leave out */
    const char *score, *heads;
    const char *plan; /* the sweep it belongs to; NULL: a single eval */
    bool generate;    /* a stored run without the guide's prompts is then run again */
    bool attribution; /* a stored run without errors by layer is then run again */
    bool recall;      /* a stored run without the attention mass kept is then run again */
    bool keep_tokens, keep_masks;
    int n_worst;
};
extern const struct cell_settings cell_defaults; /* 20 worst tokens, masks of the first sample */

/* What thresholds will follow from, the tuner being deterministic. */
struct cell_tuning {
    const char *text, *rule; /* text: samples and whatever else decides; part of the key */
    double l1, pv_l1;
};

/* How a cell stands before it is measured. */
enum cell_readiness { CELL_READY, CELL_LATER, CELL_SETTLED };

struct cell_request {
    /* with what */
    const struct setup *setup;
    const struct eval_device *more; /* [n_more] as in evaluate_args */
    int n_more;
    struct store *store;
    struct lease_holder *leases; /* NULL: one for this cell */
    struct dense_cache *cache;
    const struct dense_states *states;
    const struct machine_options *machine;
    /* what */
    const struct sample_set *set;
    const struct sparse_policy *policy;
    const struct tuned *tuned; /* where the policy's thresholds come from; heads NULL or the pointer
                                  NULL: untuned */
    struct cell_settings settings;
    const struct cell_tuning *tuning; /* thresholds that are still to be found; NULL: policy has
                                         them */
    const struct run_record *planned; /* its identity, when that was made before; NULL: made here */
    int argc;
    char **argv;
    /* how */
    bool replace;       /* run again although it is stored */
    bool retry;         /* run again what failed or was skipped */
    bool wait;          /* for another process that has the cell; false: the result says so */
    bool keep_failures; /* one that fails is stored as a row with the reason; what does not fit is
                           skipped */
    bool quiet;
    struct parity *parity; /* both of its runs are made afresh */
    /* Called when the cell is this process's and before it is measured: fills in policy, tuned,
     * states or known, or says that it is not for now (CELL_LATER) or for nobody (CELL_SETTLED).
     * NULL: all is there. */
    enum status (*prepare)(
        void *ctx, struct cell_request *q, struct run_record *r, enum cell_readiness *ready);
    void *ctx;
    const struct run_data *known;  /* measured already, of an equal cell; NULL: measured here */
    void (*say)(const char *text); /* that it waits; may be NULL */
    bool (*stop)(void *);
    void *stop_ctx;
};

enum cell_end {
    CELL_RAN,       /* or was stored as a failure, see status */
    CELL_REUSED,    /* the run was stored already with these settings on these tokens */
    CELL_ELSEWHERE, /* another process has it */
    CELL_DEFERRED,  /* prepare said CELL_LATER; the lease is given back */
};

struct cell_result {
    char key[HASH_HEX_SIZE];
    enum cell_end end;
    int n_worst;          /* worst tokens that a reused run is stored with */
    struct run_data data; /* what was stored, of CELL_RAN; otherwise only who asked, where and with
                             what. Points into `evaluation`, the request and this */
    struct evaluation evaluation; /* empty when it was known */
    struct arena *arena;
    double seconds;
};

/* Its identity and key under settings, policy and tuned of the request; texts go to the arena. */
void cell_identify(const struct cell_request *q, struct run_record *r, struct arena **arena);
enum status cell_run(const struct cell_request *q, struct cell_result *out) MUST_USE;
void cell_result_clear(struct cell_result *r);

#endif

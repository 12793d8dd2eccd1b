/* Bounds on a run: pass, fail, ambiguous or invalid, with the reason.
 *
 * A bound holds when the whole 95 % interval is on its good side, is broken when the whole interval
 * is on the bad side, and is ambiguous when the interval straddles it: then the message says how
 * many samples would decide. Of several bounds that look broken each must be as clear as their
 * number demands (Holm). Every interval is computed here, from the samples (results/estimates.h),
 * whatever was stored. An estimate from one sample is ambiguous; what is no estimate of other texts
 * (memory, the worst sample, the counts of a run that only takes times) is decided by its value.
 * Bounds against a baseline judge the paired difference.
 */
#ifndef SG_REPORTS_GATE_H
#define SG_REPORTS_GATE_H

#include "reports/junit.h"
#include "reports/view.h"

#include <stdbool.h>

struct gate_bounds { /* NAN: not asked for */
    double min_cosine, min_cosine_p1, max_kl, max_kl_p99_9, max_sample_kl, max_ppl_increase,
        min_sparsity, min_token_accuracy;
    double max_score_drop;
    double max_latency_ratio; /* sparse / dense prefill of this run */
    double max_memory_mib;    /* peak resident */
    /* changes from the baseline run, the bad direction positive */
    double max_cosine_drop, max_kl_rise, max_ppl_rise, max_token_accuracy_drop, max_score_loss,
        max_sparsity_drop;
    double max_latency_rise, max_memory_rise; /* shares: .1 is ten percent more */
    bool by_mean;                             /* compare the value and ignore the interval */
    bool strict; /* metrics that contradict each other decide: ambiguous */
};

struct gate_bounds gate_no_bounds(void);
/* Does any bound speak of a baseline? */
bool gate_needs_baseline(const struct gate_bounds *b);

/* What is judged. */
struct gate_subject {
    const struct run_view *run;
    /* NULL: none was named, and bounds that need one are invalid */
    const struct run_view *baseline;
    /* differences from the baseline, or from dense, below them are none; NULL: none known */
    const struct noise_list *floors;
};

enum { GATE_MAX_CHECKS = 24 };

struct gate_result {
    struct gate_check checks[GATE_MAX_CHECKS]; /* messages owned; subjects borrowed from the view */
    size_t n;
    enum check_outcome outcome; /* the worst: invalid, fail, ambiguous, pass */
    /* cosine and what it stands for disagree; NULL when they do not. With `strict` a check of its
     * own, too */
    char *alarm;
    char *identity; /* of every check: model, data and settings of the run */
    char *note;     /* e.g. a second run under other arithmetic; NULL otherwise */
};

/* ERR_ARG when no bound was given. */
enum status gate_run(
    const struct gate_subject *s, const struct gate_bounds *b, struct gate_result *out) MUST_USE;
void gate_result_clear(struct gate_result *g);

/* A second run of the same configuration has its say: what failed twice is confirmed, what failed
 * once is ambiguous.
 */
void gate_confirm(struct gate_result *first, const struct gate_result *second);
/* Added to the note. */
void gate_add_note(struct gate_result *g, const char *text);
/* Why a failure could not be tried again; it stays a failure. */
void gate_unconfirmed(struct gate_result *g, const char *why);

/* Significant digits with which the numbers found and the bound do not look alike where they
 * differ. */
int gate_check_digits(const struct gate_check *c, int least);

/* Bounds from a JSON object {"min_cosine": …}; unknown fields are refused. And back. */
enum status gate_bounds_read(struct gate_bounds *b, const char *path) MUST_USE;
enum status gate_bounds_write(const struct gate_bounds *b, const char *path) MUST_USE;

#endif

/* Bounds on a run: pass, fail, ambiguous or invalid, with the reason.
 *
 * A bound holds when the whole 95 % interval is on its good side, is broken when the whole interval is on the bad
 * side, and is ambiguous when the interval straddles it: then the message says how many samples would decide.
 * Without an interval (one sample) the value itself decides, and the message says so.
 */
#ifndef SG_HARNESS_GATE_H
#define SG_HARNESS_GATE_H

#include "reports/junit.h"
#include "reports/view.h"

#include <stdbool.h>

struct gate_bounds { /* NAN: not asked for */
    double min_cosine, min_cosine_p1, max_kl, max_kl_p99_9, max_ppl_increase, min_sparsity, min_token_accuracy;
    double max_score_drop;
    bool by_mean; /* compare the value and ignore the interval */
};

struct gate_bounds gate_no_bounds(void);

enum { GATE_MAX_CHECKS = 16 };

struct gate_result {
    struct gate_check checks[GATE_MAX_CHECKS]; /* messages owned */
    size_t n;
    enum check_outcome outcome; /* the worst: invalid, fail, ambiguous, pass */
};

/* ERR_ARG when no bound was given. */
enum status gate_run(const struct run_view *v, const struct gate_bounds *b, struct gate_result *out) MUST_USE;
void gate_result_clear(struct gate_result *g);

/* The exit code of an outcome (DESIGN): 0, 1, 4. */
int gate_exit_code(enum check_outcome outcome);

/* Bounds from a JSON object {"min_cosine": …}; unknown fields are refused. And back. */
enum status gate_bounds_read(struct gate_bounds *b, const char *path) MUST_USE;
enum status gate_bounds_write(const struct gate_bounds *b, const char *path) MUST_USE;

#endif

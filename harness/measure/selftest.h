/* Can the gate tell a sound configuration from a broken one? Sparse attention with planted faults,
 * judged by the gate that teams use.
 */
#ifndef SG_HARNESS_MEASURE_SELFTEST_H
#define SG_HARNESS_MEASURE_SELFTEST_H

#include "engine/engine.h"
#include "reports/gate.h"
#include "suites/suite.h"

#include <stdbool.h>

enum planted_fault {
    FAULT_NONE,             /* the wrapper alone: it must change nothing */
    FAULT_SHIFTED_MASK,     /* every tile one key block to the right of where it belongs */
    FAULT_DROPPED_DIAGONAL, /* tiles on the diagonal are left out, but for the sink */
    /* blocks count as similar at twice the threshold: right answers, no sparsity */
    FAULT_DOUBLED_THETA,
    N_FAULTS,
};
const char *planted_fault_name(enum planted_fault f);
/* SpargeAttn's prediction with the fault in it. */
const struct mask_method *planted_method(enum planted_fault f);

struct selftest_row {
    const char *what;
    bool sound; /* must pass; else must fail */
    double cosine, kl, sparsity, token_accuracy;
    /* sparsity and cosine from the reference's, 1 is the most that rounding explains (.005 and
     * .002) */
    double apart;
    enum check_outcome outcome;
    char broken[192]; /* names of the bounds that broke */
};

enum { SELFTEST_ROWS = N_FAULTS + 1 };

struct selftest {
    struct selftest_row rows[SELFTEST_ROWS]; /* the reference, then a row per fault */
    struct gate_bounds bounds;               /* made from the reference run */
};

/* Evaluates a reference that shares no code with what is judged (masks by
 * harness/measure/definition.h, attention by attn_ref.c, both in fp64 on the CPU; its dense states
 * are every run's), then what runs here without a fault and with every fault, and judges each
 * against bounds drawn around the reference. θ .3, τ .9: a tenth of the work is skipped on the
 * bundled model. */
enum status selftest_run(struct model *m, struct par *par, const struct sample_set *set,
    bool (*stop)(void *), struct selftest *out) MUST_USE;

bool selftest_row_told(const struct selftest_row *r);
/* The gate passed what is sound and failed what is not, every time. */
bool selftest_passes(const struct selftest *t);

#endif

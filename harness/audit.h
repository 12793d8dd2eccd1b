/* Claims that must hold whatever the model, each tried on real tensors: causality, dense equality, determinism, the ledger.
 */
#ifndef SG_HARNESS_AUDIT_H
#define SG_HARNESS_AUDIT_H

#include "engine/engine.h"
#include "suites/suite.h"

#include <stdbool.h>

struct audit_check {
    const char *claim;   /* "earlier outputs do not move when later values change" */
    const char *how;     /* what was done */
    double found;        /* the largest deviation, or a count */
    double allowed;
    const char *unit;    /* "relative", "tiles", … */
    bool stated_only;    /* a measured property that is allowed to be anything; never fails */
};

enum { AUDIT_MAX = 16 };

struct audit {
    struct audit_check checks[AUDIT_MAX];
    int n;
};

/* Runs every check on one sample under the policy, which must be sparse. */
enum status audit_run(const struct model *m, struct par *par, const struct sample *x, const struct sparse_policy *policy,
                      struct audit *out) MUST_USE;

bool audit_passes(const struct audit_check *c);

#endif

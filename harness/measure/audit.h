/* Claims that must hold whatever the model, each tried on real tensors: causality, dense equality,
 * determinism, the ledger.
 */
#ifndef SG_HARNESS_MEASURE_AUDIT_H
#define SG_HARNESS_MEASURE_AUDIT_H

#include "engine/engine.h"
#include "harness/measure/parity.h"
#include "kernels/attn.h"
#include "suites/suite.h"

#include <stdbool.h>

struct audit_check {
    const char *claim; /* "earlier outputs do not move when later values change" */
    const char *how;   /* what was done */
    double found;      /* the largest deviation, or a count; NAN: not tried here */
    double allowed;
    const char *unit; /* "relative", "tiles", … */
    bool stated_only; /* a measured property that is allowed to be anything; never fails */
};

enum { AUDIT_MAX = 24 };

struct audit {
    struct audit_check checks[AUDIT_MAX];
    int n;
};

/* Runs every check on one sample under the policy, which must be sparse. */
enum status audit_run(const struct model *m, struct par *par, const struct sample *x,
    const struct sparse_policy *policy, struct audit *out) MUST_USE;

bool audit_passes(const struct audit_check *c);
/* Of several samples: every claim with the worst that was found. */
void audit_join(struct audit *to, const struct audit *from);

/* What one attention call does that it must not. */
struct audit_call {
    /* largest change of an output row when keys and values from `cut` on change, INFINITY for one
     * that is no number: */
    double leak;         /* of rows in units of 64 that end before the cut */
    double leak_in_unit; /* of the up to 63 rows before the cut in the unit that holds it */
    uint64_t tiles, tiles_possible, units;                /* from the map alone, one by one */
    uint64_t ledger_tiles, ledger_possible, ledger_units; /* as the implementation counted */
};
/* Runs `impl` on the call's tensors (f32) and once more with every row from position `cut` on made
 * another. `tiles` NULL: dense, every possible tile counts as computed and the implementation is
 * not asked for its counts. */
enum status audit_attention(const struct attn_args *call, const struct attn_impl *impl, int cut,
    struct par *par, struct audit_call *out) MUST_USE;

/* The map of a call against METHOD 2, every sparse head of it; and what its tiles do. */
struct audit_tiles {
    /* query blocks judged, and those where rounding may decide: they are not counted */
    uint64_t n_rows, n_doubtful;
    /* tiles that the map keeps and the definition does not, or the other way round */
    uint64_t wrong;
    /* query blocks whose left-out tiles were poisoned, kept tiles that were */
    uint64_t n_left, n_kept;
    uint64_t left_traces;    /* of the former: some bit of an output moved */
    uint64_t kept_traceless; /* of the latter: no output of theirs became NaN */
    uint64_t n_outputs;      /* query blocks whose output was computed again … */
    double apart; /* … and the largest ‖o − õ‖ / ‖õ‖ of one; INFINITY for what is no number */
};
/* Adds to *out. doubt: decisions nearer than this to another outcome are not held against anybody.
 */
enum status audit_map(const struct attn_args *call, const struct mask_args *how, double doubt,
    struct audit_tiles *out) MUST_USE;
/* Adds to *out, on up to `n_blocks` query blocks of one head: the output without stage 2 against
 * its definition in fp64, and NaN in place of K and V of what they leave out, and of V of what they
 * keep. Of eight bits the first keys' K stays: it is in the mean. */
enum status audit_trace(const struct attn_args *call, const struct attn_impl *impl, int head,
    int n_blocks, struct par *par, struct audit_tiles *out) MUST_USE;

/* How far a prefill in chunks is from one at once, both run here. */
struct audit_chunks {
    double worst_row, all; /* of the final states: ‖x − y‖ / ‖x‖ of a row, and as one vector */
    struct jaccard masks; /* of the tiles; none for a dense policy */
};
/* chunk: a multiple of 128. */
enum status audit_chunks(const struct weights *w, struct par *par, const int32_t *ids, int n,
    const struct sparse_policy *policy, int chunk, struct audit_chunks *out) MUST_USE;

/* The largest ‖x − y‖ / ‖x‖ over rows [from, to) of width floats; INFINITY when a row holds what is
 * no number. */
double audit_rows_apart(const float *x, const float *y, int from, int to, int width);

#endif

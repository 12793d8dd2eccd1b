/* How often heads err over their bounds on texts that the bounds were not chosen by. */
#ifndef SG_ENGINE_TUNER_OVER_BOUND_H
#define SG_ENGINE_TUNER_OVER_BOUND_H

#include "base/status.h"

/* A pair is a sparse head and a text. */
struct over_bound {
    int n_samples, n_heads;
    int n_over;                   /* pairs over the head's bound, of n_samples · n_heads */
    int heads_over, samples_over; /* with at least one of them */
    /* of the pairs, with its 95 % interval: texts are the unit (base/beta.h); NAN without pairs */
    double share, lo, hi;
    /* largest error over its bound, 1.2 is a fifth over; 0 without pairs */
    double worst;
};

/* ratios: error over bound, [n_samples, n_cells], NAN where a head runs dense (in all samples or in
 * none). */
enum status over_bound_count(
    const double *ratios, int n_samples, int n_cells, struct over_bound *out) MUST_USE;

/* "3 of 160 pairs of a head and a text are over their bound (1.9 %, 95 % interval 0.5 to 6.2 %): 2
 * of 32 heads, 1 of 5 texts, by up to 1.21 x the bound" */
enum { OVER_BOUND_TEXT = 256 };
char *over_bound_text(const struct over_bound *o, char *out);

#endif

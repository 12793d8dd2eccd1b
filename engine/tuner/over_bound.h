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

/* Counts text by text: over_bound_begin(), over_bound_add() for each, over_bound_end(), also after
 * a failure. */
struct over_bound_count {
    struct over_bound found;
    int n_cells;
    unsigned char *over; /* [n_cells] 1: in some text */
    int *hits;           /* [n_samples] heads over their bounds, grown */
};

void over_bound_begin(struct over_bound_count *c, int n_cells);
/* ratios: error over bound of one text, [n_cells], NAN where a head runs dense (in all texts or in
 * none). */
void over_bound_add(struct over_bound_count *c, const double *ratios);
/* Frees, too. */
struct over_bound over_bound_end(struct over_bound_count *c);

/* "3 of 160 pairs of a head and a text are over their bound (1.9 %, 95 % interval 0.5 to 6.2 %): 2
 * of 32 heads, 1 of 5 texts, by up to 1.21 x the bound" */
enum { OVER_BOUND_TEXT = 256 };
char *over_bound_text(const struct over_bound *o, char *out);

#endif

/* Which parts of a file are taken as samples: spread over all of it, none of them twice, and tuning
 * apart from evaluation.
 *
 * A unit is a window of text, or a question with all its candidates. Samples that are to speak for
 * a file must not be its first ones: those are of one article or one author (their intervals
 * covered 65 to 84 % where 95 was said).
 */
#ifndef SG_SUITES_SPREAD_H
#define SG_SUITES_SPREAD_H

#include "suites/suite.h"

enum spread_side { SPREAD_EVALUATION, SPREAD_TUNING };

struct spread_unit {
    /* of the file's two halves, alternating in pieces that do not depend on lengths */
    enum spread_side side;
    bool repeats; /* much of it stands in an earlier unit as well: counted once */
};

/* Marks units that repeat an earlier one: equal, overlapping or nearly equal windows share more
 * than a quarter of their runs of 16 tokens. Short ones are compared as wholes, and so are all when
 * only `equal` ones are looked for. */
void spread_find_repeats(
    struct spread_unit *units, const int32_t *const *ids, const int *lengths, size_t n, bool equal);

/* Indices of those to take, at most o->num_samples (0: all): spread evenly, or drawn by o->seed,
 * one from each of as many equal parts. Evaluation and tuning take their own side; evaluation takes
 * of both when it asks for more than its own side has, and tuning when its own has none: *shared.
 * For tuning in an order of which every beginning is spread, since its first samples are chosen on
 * and the others checked. Returns how many. chosen: [n]. */
size_t spread_choose(const struct spread_unit *units, size_t n, const struct suite_options *o,
    size_t *chosen, bool *shared);

/* Keep only the chosen questions of a set that holds all of a file; every sample belongs to the
 * question of its item. */
enum status spread_questions(struct sample_set *s, const struct suite_options *o) MUST_USE;

#endif

/* Every method at the same counted sparsities: what it loses there, and who wins beyond noise.
 *
 * A line is a method with what chooses its tiles: a rule that tuning bounded, one fraction of tiles
 * for all heads, or its own settings (a window, gamma), whatever their values. Between the nearest
 * runs on both sides of a sparsity KL is interpolated, its logarithm in a straight line; outside
 * its runs a line has no value. Intervals leave out one text at a time (base/stats.h), sparsity and
 * KL both, and lines are compared with the best one paired by text: p values by Holm over the
 * lines.
 */
#ifndef SG_REPORTS_CONTEST_H
#define SG_REPORTS_CONTEST_H

#include "reports/table.h"
#include "results/query.h"

enum { CONTEST_LEVELS = 4 };
extern const double contest_levels[CONTEST_LEVELS]; /* .15, .3, .45, .6 */

/* A run as a point of a line: what each text adds to its sums. */
struct contest_point {
    double sparsity;
    double recall, recall_p5; /* attention mass in the kept tiles; NAN not measured */
    double choosing; /* time of choosing tiles over that of dense attention; NAN likewise */
    const struct sample_record *samples; /* [n_samples], in the order of their numbers */
    size_t n_samples;
};
struct contest_line {
    const char *name;
    bool limit;                         /* the oracle: shown, and wins nothing */
    const struct contest_point *points; /* [n], rising sparsity */
    size_t n;
};
/* The table; lines in the order given. Empty when fewer than two lines reach any of the levels. */
struct table *contest_table(const char *title, const struct contest_line *lines, size_t n);

/* The done runs of a list, one table for each model, data set and length on which lines meet.
 * Repetitions count once. *out: [*n], the caller frees it and them. */
enum status contest_tables(
    struct store *s, const struct run_list *runs, struct table ***out, size_t *n) MUST_USE;
void contest_tables_free(struct table **tables, size_t n);

#endif

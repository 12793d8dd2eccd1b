/* What a sweep says beyond its single cells: which layer or head costs most, and whether tighter
 * bounds help.
 */
#ifndef SG_REPORTS_ATTRIBUTION_H
#define SG_REPORTS_ATTRIBUTION_H

#include "reports/plot.h"
#include "reports/table.h"
#include "results/query.h"

/* A run in which one layer (or one head of it) alone was sparse, or every layer but one. */
struct attribution {
    const struct run_record *run; /* points into the list */
    int layer, head;              /* head -1: all heads of the layer */
    bool all_but;                 /* every layer was sparse but this one */
    double kl, cosine;            /* end to end: alone, the error it causes */
    double kl_saved; /* all_but: KL of the run with every layer sparse less this one's; else NAN */
};

/* Those of the done runs that single out a layer or head (sweep --layers each | all-but-each,
 * --heads each), the costliest first: by kl for runs of one layer alone, by kl_saved for the
 * others, which follow. The caller frees *out. */
enum status attribution_find(
    const struct run_list *runs, struct attribution **out, size_t *n) MUST_USE;
struct table *attribution_table(const struct attribution *rows, size_t n);
/* KL each layer causes alone, and what leaving it dense saves. ERR_ARG without such runs. */
enum status plot_attribution(
    const struct plot_out *o, const char *name, const struct run_list *runs) MUST_USE;

/* Runs that differ in l1 alone, tightest bound first, and whether quality falls with it as it must.
 * A tighter bound whose cosine is lower beyond both intervals is a violation; *n_violations counts
 * them. */
struct table *monotonicity_table(const struct run_list *runs, size_t *n_violations);

#endif

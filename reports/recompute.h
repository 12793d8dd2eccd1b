/* Is a file what its own samples say? A file is data that anybody may have edited: everything that
 * a gate judges is computed again from what it keeps of each sample, and a file that disagrees with
 * itself anywhere is refused.
 *
 * What that cannot find: a file whose samples were made up as a whole, consistently. docs/gate.md
 * says so.
 */
#ifndef SG_REPORTS_RECOMPUTE_H
#define SG_REPORTS_RECOMPUTE_H

#include "reports/view.h"

/* ERR_FORMAT naming file, field, what was found and expected. Of a run that did not finish nothing
 * holds. */
enum status recompute_check(const struct run_view *v) MUST_USE;

/* Part of it, for runs of a database too: are the settings those of the question that the run's key
 * stands for? ERR_FORMAT names each that differs, as "field: key's -> settings'". Of which
 * thresholds a run had the key holds the hash alone, and that is not computed again. */
enum status recompute_settings(const struct run_view *v) MUST_USE;

#endif

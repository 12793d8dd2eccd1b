/* One sweep on several devices of this machine: a worker thread each, with a connection to the
 * database of its own. Workers take cells as separate processes would, by leases, so nothing is
 * done twice; tunings use all devices together.
 */
#ifndef SG_HARNESS_SWEEP_SWEEP_FLEET_H
#define SG_HARNESS_SWEEP_SWEEP_FLEET_H

#include "harness/sweep/sweep.h"

/* sweep_run() of *s, which was opened on fleet[0], with the help of fleet[1 … n). db: where the
 * results go. Counters of *s hold the sum. Cells' results are those of one device. The first
 * failure in the order of the devices; the other workers finish what is left. */
enum status sweep_run_fleet(
    struct sweep *s, const struct setup *fleet, int n, const char *db) MUST_USE;

#endif

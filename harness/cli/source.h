/* The run that a command is about: of a database, or a before/after JSON file. */
#ifndef SG_HARNESS_CLI_SOURCE_H
#define SG_HARNESS_CLI_SOURCE_H

#include "reports/view.h"
#include "results/store.h"

/* By name: what ends in ".json" is a file. The database stays open with it. */
struct view_source {
    struct store *store;
    struct run_view view;
};
enum status view_source_load(struct view_source *s, const char *db, const char *name) MUST_USE;
/* The noise floors of a machine (its fingerprint; NULL: of any) and of the model of a run or file,
 * from its database or `db`; none where neither is there. */
enum status view_source_floors(const struct view_source *s, const char *db, const char *machine,
    struct noise_list *out) MUST_USE;
void view_source_clear(struct view_source *s);

#endif

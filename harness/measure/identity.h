/* Who measured what where: the identity part of a run, and its content key. */
#ifndef SG_HARNESS_MEASURE_IDENTITY_H
#define SG_HARNESS_MEASURE_IDENTITY_H

#include "engine/engine.h"
#include "base/arena.h"
#include "results/records.h"
#include "suites/suite.h"

/* Fill model, dataset, machine, software, method, blocks, thresholds, layers, seeds and the content
 * key of `r`. Rule, l1, pv_l1 and tuned_hash must be set before (NULL and NAN when untuned), as
 * must num_samples as asked, max_length, score, seed, plan, heads; num_samples becomes what was
 * found. Strings go into the arena. */
void identity_fill(struct run_record *r, const struct model *m, const char *model_dir,
    const struct sample_set *set, const struct sparse_policy *policy, struct arena **arena);

/* The same key for a cell whose thresholds are still to be found: `tuning` names everything that
 * they will follow from and stands in the key for them, since the tuner is deterministic. The key
 * is made anew. */
void identity_plan_tuned(struct run_record *r, const struct sparse_policy *policy,
    const char *tuning, struct arena **arena);

void machine_identity(struct machine_record *m, struct arena **arena);
void software_identity(struct software_record *s, struct arena **arena);
void model_identity(
    struct model_record *r, const struct model *m, const char *dir, struct arena **arena);

/* argv as a JSON array. */
const char *argv_text(int argc, char **argv, struct arena **arena);

/* A record with every optional number missing. */
struct run_record run_record_blank(void);

#endif

/* The tuning guide's three prompts, continued greedily with dense and with sparse prefill. */
#ifndef SG_HARNESS_MEASURE_PROMPTS_H
#define SG_HARNESS_MEASURE_PROMPTS_H

#include "engine/engine.h"
#include "base/arena.h"
#include "results/records.h"

enum { N_GUIDE_PROMPTS = 3, GUIDE_NEW_TOKENS = 50 };

/* rows: [N_GUIDE_PROMPTS]. token_match is the share of positions with equal ids; text_similarity is
 * 2·LCS / (|a| + |b|) over bytes. Prompts under min_sparse_tokens run dense in both, as they would
 * in use. */
enum status prompts_run(struct model *m, struct par *par, const struct sparse_policy *policy,
    const char *impl, struct arena **arena, struct generation_record *rows) MUST_USE;

#endif

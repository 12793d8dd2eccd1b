/* The tuning guide's three prompts, continued greedily with dense and with sparse prefill. */
#ifndef SG_HARNESS_MEASURE_PROMPTS_H
#define SG_HARNESS_MEASURE_PROMPTS_H

#include "engine/engine.h"
#include "base/arena.h"
#include "results/records.h"

enum { N_GUIDE_PROMPTS = 3, GUIDE_NEW_TOKENS = 50 };

/* Text that every prompt stands behind, cut from its front so that both have at most max_tokens:
 * alone, the guide's prompts are a few tokens long and lie within one tile. */
struct prompt_context {
    const char *text;
    size_t len;
    int max_tokens;
};

/* What the sparse prefill of a prompt did. sparsity: counted; NAN where it ran dense. */
struct prompt_prefill {
    int n_tokens;
    double sparsity;
};

/* rows: [N_GUIDE_PROMPTS]. context NULL: the prompts alone, as the guide has them. prefill:
 * [N_GUIDE_PROMPTS], or NULL. token_match is the share of positions with equal ids; text_similarity
 * is 2·LCS / (|a| + |b|) over bytes. Prompts under min_sparse_tokens run dense in both, as they
 * would in use. */
enum status prompts_run(struct model *m, struct par *par, const struct sparse_policy *policy,
    const char *impl, const struct prompt_context *context, struct arena **arena,
    struct generation_record *rows, struct prompt_prefill *prefill) MUST_USE;

#endif

/* Answers that a model writes itself: greedily, behind a prefill that is dense or sparse; decode
 * steps are dense.
 *
 * A sample with a prompt of its own (struct sample, n_prompt) is prefilled with it alone. Then the
 * right answer is read, which gives the logits of its tokens, forgotten again, and one is written.
 */
#ifndef SG_HARNESS_MEASURE_ANSWERS_H
#define SG_HARNESS_MEASURE_ANSWERS_H

#include "engine/engine.h"
#include "harness/measure/dense_cache.h"
#include "suites/suite.h"

struct written {
    int32_t *ids; /* [n], owned; the end token included */
    int n;        /* 0: nothing was to be written */
    bool ended;   /* by the end token, or because its score was settled; else the budget cut it */
};
void written_clear(struct written *w);

/* prefill: tokens and n are set here to the prompt. hidden: [sample.n, hidden_size]. *seconds: of
 * the prefill. `out` empty for a sample that is only read. */
enum status answers_pass(struct session *s, const struct model *m, const struct sample_set *set,
    int sample, const struct forward_args *prefill, float *hidden, struct written *out,
    double *seconds) MUST_USE;

/* The key of a sample's dense hidden states: of a prompt and what is read behind it, another one
 * than of all of it in one prefill, whose last digits may differ. */
void answers_dense_key(
    char key[HASH_HEX_SIZE], const struct model *m, const char *impl, const struct sample *x);
/* What was written behind a dense prefill, kept beside its hidden states. */
bool answers_cached(struct dense_cache *c, const struct model *m, const char *impl,
    const struct sample_set *set, int sample, struct written *out);
void answers_keep(struct dense_cache *c, const struct model *m, const char *impl,
    const struct sample_set *set, int sample, const struct written *w);

/* The text of what was written, special tokens left out; appended. */
enum status answers_text(const struct model *m, const struct written *w, struct str *out) MUST_USE;

#endif

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

/* Writes them. Where the session has slots (session_slots) an answer waits there until as many have
 * come as there are, or answers_finish() is called; then a step writes a token of each. What is
 * written is the same bit for bit. */
struct answer_writer;
/* stop: asked between steps of those that waited; may be NULL. Close it also after a failure; that
 * gives the slots back. */
enum status answers_open(struct answer_writer **w, struct session *s, const struct model *m,
    const struct sample_set *set, bool (*stop)(void *), void *stop_ctx) MUST_USE;
void answers_close(struct answer_writer **w);

/* An answer is written; *w is the receiver's. */
typedef void answer_done(void *ctx, int sample, struct written *w);
/* prefill: tokens and n are set here to the prompt. hidden: [sample.n, hidden_size]. *seconds: of
 * the prefill. done() is called now or later, never for a sample that is only read. *failed: the
 * sample that an error is about, this one or one that waited. */
enum status answers_pass(struct answer_writer *w, int sample, const struct forward_args *prefill,
    float *hidden, answer_done *done, void *ctx, double *seconds, int *failed) MUST_USE;
/* What still waits. */
enum status answers_finish(struct answer_writer *w, int *failed) MUST_USE;

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

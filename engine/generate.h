/* Text generation, greedy or sampled, with a dense or sparse prefill. */
#ifndef SG_ENGINE_GENERATE_H
#define SG_ENGINE_GENERATE_H

#include "base/rng.h"
#include "engine/session.h"

struct sampler {
    float temperature; /* 0: greedy, the lowest id on ties */
    int top_k;         /* 0: all */
    float top_p;       /* in (0, 1]; 1: all */
    uint64_t seed;
};

/* The next id from logits [vocab]; logits may be overwritten. r: NULL when it is greedy. */
int32_t sample_token(const struct sampler *s, struct rng *r, float *logits, int vocab);

struct generate_args {
    const int32_t *prompt;
    int n_prompt;
    int max_new; /* tokens */
    bool ignore_eos;
    struct sampler sampler;
    /* of the prefill; NULL dense. Decode steps are always dense. */
    const struct sparse_policy *policy;
    struct head_ledger *ledger; /* [n_layers, n_heads] of the prefill, may be NULL */
    /* called for each new token; false stops. May be NULL */
    bool (*token)(void *ctx, int32_t id);
    void *ctx;
};

struct generate_result {
    int n_new;  /* tokens written to out, the end token included */
    bool ended; /* an end-of-text token came */
    int64_t prefill_ns, decode_ns;
};

/* Resets the session first. out: at least max_new ids. */
enum status generate(struct session *s, const struct generate_args *a, int32_t *out,
    struct generate_result *result) MUST_USE;

#endif

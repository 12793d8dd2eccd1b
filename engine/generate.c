#include "engine/generate.h"

#include "base/clock.h"
#include "base/xmalloc.h"

#include <math.h>
#include <stdlib.h>

static int32_t argmax(const float *z, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (z[i] > z[best]) best = i;
    return best;
}

static bool all_finite(const float *z, int n)
{
    float sum = 0; /* times zero: NaN as soon as one value is not finite */
    for (int i = 0; i < n; i++) sum += z[i] * 0;
    return sum == 0;
}

struct candidate {
    float z;
    int32_t id;
};

static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->z != y->z) return x->z < y->z ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

int32_t sample_token(const struct sampler *s, struct rng *r, float *logits, int vocab)
{
    if (s->temperature <= 0) return argmax(logits, vocab);
    struct candidate *c = xmalloc((size_t)vocab * sizeof *c);
    for (int i = 0; i < vocab; i++) c[i] = (struct candidate){logits[i] / s->temperature, i};
    qsort(c, (size_t)vocab, sizeof *c, compare_candidates);
    int n = s->top_k > 0 && s->top_k < vocab ? s->top_k : vocab;
    double sum = 0, kept = 0;
    for (int i = 0; i < n; i++) sum += exp((double)c[i].z - (double)c[0].z);
    int m = 0;
    while (m < n && (m == 0 || kept < (double)s->top_p * sum))
        kept += exp((double)c[m++].z - (double)c[0].z);
    double at = rng_unit(r) * kept;
    int pick = 0;
    for (; pick + 1 < m; pick++) {
        at -= exp((double)c[pick].z - (double)c[0].z);
        if (at < 0) break;
    }
    int32_t id = c[pick].id;
    free(c);
    return id;
}

/* Behind what the session holds; logits: those of the last token it holds. */
static enum status decode(struct session *s, const struct generate_args *a, float *logits,
    int32_t *out, struct generate_result *result)
{
    const struct llama_config *c = &session_weights(s)->config;
    struct rng r;
    rng_init(&r, a->sampler.seed);
    int64_t t0 = clock_ns();
    for (int i = 0; i < a->max_new; i++) {
        if (!all_finite(logits, c->vocab_size))
            return fail(ERR_NUMERIC,
                "the logits behind token %d hold NaN or infinity; check the weights with `info "
                "--check`",
                session_position(s));
        int32_t id = sample_token(&a->sampler, &r, logits, c->vocab_size);
        out[result->n_new++] = id;
        result->ended = llama_config_is_eos(c, id) && !a->ignore_eos;
        bool more = !a->token || a->token(a->ctx, id);
        if (result->ended || !more || i + 1 == a->max_new) break;
        TRY(session_forward(
            s, &(struct forward_args){.tokens = &id, .n = 1, .last_logits = logits}));
    }
    result->decode_ns = clock_ns() - t0;
    return OK;
}

enum status generate(
    struct session *s, const struct generate_args *a, int32_t *out, struct generate_result *result)
{
    *result = (struct generate_result){0};
    float *logits = malloc(sizeof *logits * (size_t)session_weights(s)->config.vocab_size);
    if (!logits) return fail(ERR_MEMORY, "no memory for one row of logits");
    session_reset(s);
    int64_t t0 = clock_ns();
    enum status st = session_forward(s,
        &(struct forward_args){.tokens = a->prompt,
            .n = a->n_prompt,
            .policy = a->policy,
            .ledger = a->ledger,
            .last_logits = logits});
    result->prefill_ns = clock_ns() - t0;
    if (st == OK) st = decode(s, a, logits, out, result);
    free(logits);
    return st;
}

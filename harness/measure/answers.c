#include "harness/measure/answers.h"

#include "base/clock.h"
#include "base/xmalloc.h"
#include "engine/generate.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void written_clear(struct written *w)
{
    free(w->ids);
    *w = (struct written){0};
}

/* Watches an answer grow; once its score is settled it need not go on. */
struct watcher {
    const struct model *model;
    const struct wanted *wanted;
    struct written *out;
    bool settled;
    enum status status;
};

enum status answers_text(const struct model *m, const struct written *w, struct str *out)
{
    return w->n ? tokenizer_decode(m->tokenizer, w->ids, (size_t)w->n, true, out) : OK;
}

static bool watch(void *ctx, int32_t id)
{
    struct watcher *w = ctx;
    struct str text = {0};
    w->out->ids[w->out->n++] = id;
    w->status = answers_text(w->model, w->out, &text);
    w->settled = w->status == OK && wanted_settled(w->wanted, str_get(&text));
    str_clear(&text);
    return w->status == OK && !w->settled;
}

static enum status write_answer(struct session *s, const struct model *m,
    const struct wanted *wanted, float *logits, struct written *out)
{
    int32_t *ids = xmalloc((size_t)wanted->budget * sizeof *ids);
    out->ids = xmalloc((size_t)wanted->budget * sizeof *out->ids);
    struct watcher w = {m, wanted, out, false, OK};
    struct generate_result r = {0};
    struct generate_args g = {
        .max_new = wanted->budget, .sampler = {.top_p = 1}, .token = watch, .ctx = &w};
    enum status st = generate_behind(s, &g, logits, ids, &r);
    free(ids);
    if (st == OK) st = w.status;
    out->ended = r.ended || w.settled;
    return st;
}

enum status answers_pass(struct session *s, const struct model *m, const struct sample_set *set,
    int sample, const struct forward_args *prefill, float *hidden, struct written *out,
    double *seconds)
{
    const struct sample *x = &set->samples[sample];
    const struct wanted *wanted = sample_wanted(set, sample);
    size_t vocab = (size_t)m->weights.config.vocab_size;
    struct forward_args first = *prefill;
    first.tokens = x->ids;
    first.n = x->n_prompt ? x->n_prompt : x->n;
    first.hidden = hidden;
    *out = (struct written){0};
    float *logits = wanted ? malloc(vocab * sizeof *logits) : NULL;
    if (wanted && !logits) return fail(ERR_MEMORY, "no memory for one row of logits");
    first.last_logits = logits;
    session_reset(s);
    int64_t t0 = clock_ns();
    enum status st = session_forward(s, &first);
    *seconds = (double)(clock_ns() - t0) * 1e-9;
    if (st == OK && first.n < x->n) {
        struct forward_args rest = {.tokens = x->ids + first.n,
            .n = x->n - first.n,
            .hidden = hidden + (size_t)first.n * (size_t)m->weights.config.hidden_size,
            .stop = prefill->stop,
            .stop_ctx = prefill->stop_ctx};
        st = session_forward(s, &rest);
        if (st == OK) session_rewind(s, first.n);
    }
    if (st == OK && wanted) st = write_answer(s, m, wanted, logits, out);
    free(logits);
    return st;
}

void answers_dense_key(
    char key[HASH_HEX_SIZE], const struct model *m, const char *impl, const struct sample *x)
{
    int32_t *ids = xmalloc((size_t)(x->n + 1) * sizeof *ids);
    memcpy(ids, x->ids, (size_t)x->n * sizeof *ids);
    ids[x->n] = -x->n_prompt;
    dense_cache_key(key, m, impl, ids, x->n + (x->n_prompt > 0));
    free(ids);
}

/* The prompt, and behind it what no prompt holds: the budget and a hash of what it is held against.
 */
static void cache_key(char key[HASH_HEX_SIZE], const struct model *m, const char *impl,
    const struct sample_set *set, int sample)
{
    const struct sample *x = &set->samples[sample];
    const struct wanted *w = sample_wanted(set, sample);
    struct hash h;
    char hex[HASH_HEX_SIZE];
    hash_init(&h);
    hash_add_u64(&h, (uint64_t)w->judge << 1 | w->first_line);
    for (int i = 0; i < w->n_answers; i++) hash_add_str(&h, w->answers[i]);
    for (int i = 0; i < w->n_stops; i++) hash_add_str(&h, w->stops[i]);
    hash_hex(&h, hex);
    int n = x->n_prompt, room = n + 1 + (HASH_HEX_SIZE - 1) / 4;
    int32_t *ids = xmalloc((size_t)room * sizeof *ids);
    memcpy(ids, x->ids, (size_t)n * sizeof *ids);
    ids[n] = -w->budget;
    memcpy(ids + n + 1, hex, HASH_HEX_SIZE - 1);
    dense_cache_key(key, m, impl, ids, room);
    free(ids);
}

/* As floats, which hold ids up to 2^24: how many, whether it ended, and they. */
bool answers_cached(struct dense_cache *c, const struct model *m, const char *impl,
    const struct sample_set *set, int sample, struct written *out)
{
    const struct wanted *w = sample_wanted(set, sample);
    char key[HASH_HEX_SIZE];
    cache_key(key, m, impl, set, sample);
    float *row = xmalloc((size_t)(w->budget + 2) * sizeof *row);
    bool found = dense_cache_get(c, key, 1, w->budget + 2, row);
    if (found) {
        *out = (struct written){
            xmalloc((size_t)w->budget * sizeof *out->ids), (int)row[0], row[1] != 0};
        for (int i = 0; i < out->n; i++) out->ids[i] = (int32_t)row[i + 2];
    }
    free(row);
    return found;
}

void answers_keep(struct dense_cache *c, const struct model *m, const char *impl,
    const struct sample_set *set, int sample, const struct written *w)
{
    int budget = sample_wanted(set, sample)->budget;
    char key[HASH_HEX_SIZE];
    assert(m->weights.config.vocab_size <= 1 << 24);
    cache_key(key, m, impl, set, sample);
    float *row = xcalloc((size_t)(budget + 2), sizeof *row);
    row[0] = (float)w->n;
    row[1] = w->ended;
    for (int i = 0; i < w->n; i++) row[i + 2] = (float)w->ids[i];
    dense_cache_put(c, key, 1, budget + 2, row);
    free(row);
}

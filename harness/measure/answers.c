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

/* One that is being written. */
struct answer {
    int sample;
    const struct wanted *wanted;
    struct written w;
    answer_done *done;
    void *ctx;
};

struct answer_writer {
    struct session *session;
    const struct model *model;
    const struct sample_set *set;
    bool (*stop)(void *);
    void *stop_ctx;
    int n_slots;
    struct answer waiting[SESSION_SLOTS]; /* each in the slot of its place */
    int n_waiting;
};

enum status answers_text(const struct model *m, const struct written *w, struct str *out)
{
    return w->n ? tokenizer_decode(m->tokenizer, w->ids, (size_t)w->n, true, out) : OK;
}

enum status answers_open(struct answer_writer **out, struct session *s, const struct model *m,
    const struct sample_set *set, bool (*stop)(void *), void *stop_ctx)
{
    int n = 0;
    for (int i = 0; i < set->n_samples && n < SESSION_SLOTS; i++)
        n += 2 * (sample_wanted(set, i) != NULL); /* dense and sparse */
    struct answer_writer *w = *out = calloc(1, sizeof *w);
    if (!w) return fail(ERR_MEMORY, "no memory to write answers");
    *w = (struct answer_writer){
        .session = s, .model = m, .set = set, .stop = stop, .stop_ctx = stop_ctx};
    return session_slots(s, n < SESSION_SLOTS ? n : SESSION_SLOTS, &w->n_slots);
}

void answers_close(struct answer_writer **wp)
{
    struct answer_writer *w = *wp;
    if (!w) return;
    for (int i = 0; i < w->n_waiting; i++) written_clear(&w->waiting[i].w);
    int none;
    enum status st = session_slots(w->session, 0, &none);
    (void)st; /* nobody waits for anything any more */
    free(w);
    *wp = NULL;
}

/* Take the next token of an answer. Once its score is settled it need not go on. */
static enum status take(const struct answer_writer *w, struct answer *a, int32_t id, bool *more)
{
    struct str text = {0};
    a->w.ids[a->w.n++] = id;
    enum status st = answers_text(w->model, &a->w, &text);
    a->w.ended = llama_config_is_eos(&w->model->weights.config, id) ||
        (st == OK && wanted_settled(a->wanted, str_get(&text)));
    str_clear(&text);
    *more = !a->w.ended && a->w.n < a->wanted->budget;
    return st;
}

static enum status finish(struct answer *a, enum status st)
{
    if (st != OK) written_clear(&a->w);
    else a->done(a->ctx, a->sample, &a->w);
    return st;
}

/* All that waits, a token of each a step; those that end leave. */
enum status answers_finish(struct answer_writer *w, int *failed)
{
    struct session_step steps[SESSION_SLOTS];
    int32_t next[SESSION_SLOTS];
    int place[SESSION_SLOTS], n = w->n_waiting; /* of those that go on */
    enum status st = OK;
    for (int i = 0; i < n; i++) place[i] = i;
    while (n > 0 && st == OK) {
        int at = 0, kept = 0;
        for (int i = 0; i < n; i++) {
            const struct written *x = &w->waiting[place[i]].w;
            steps[i] = (struct session_step){place[i], x->ids[x->n - 1]};
        }
        st = w->stop && w->stop(w->stop_ctx) ? fail(ERR_CANCELLED, "stopped on request")
                                             : session_step(w->session, steps, n, next, &at);
        for (int i = 0; i < n && st == OK; i++) {
            struct answer *a = &w->waiting[place[i]];
            bool more = false;
            at = i;
            st = take(w, a, next[i], &more);
            if (more) place[kept++] = place[i];
            else if (st == OK) st = finish(a, OK);
        }
        *failed = w->waiting[place[at]].sample;
        n = kept;
    }
    for (int i = 0; i < w->n_waiting && st != OK; i++) written_clear(&w->waiting[i].w);
    w->n_waiting = 0;
    return st;
}

/* Where there are no slots: to its end, behind what the session holds. */
static enum status write_alone(const struct answer_writer *w, struct answer *a, float *logits)
{
    static const struct sampler greedy = {.top_p = 1};
    bool more = true;
    while (more) {
        TRY(session_forward(w->session,
            &(struct forward_args){
                .tokens = &a->w.ids[a->w.n - 1], .n = 1, .last_logits = logits}));
        int32_t id = sample_token(&greedy, NULL, logits, w->model->weights.config.vocab_size);
        TRY(take(w, a, id, &more));
    }
    return OK;
}

static enum status begin_answer(
    struct answer_writer *w, struct answer *a, float *logits, int *failed)
{
    static const struct sampler greedy = {.top_p = 1};
    int32_t id = sample_token(&greedy, NULL, logits, w->model->weights.config.vocab_size);
    bool more;
    a->w.ids = xmalloc((size_t)a->wanted->budget * sizeof *a->w.ids);
    enum status st = take(w, a, id, &more);
    if (st == OK && more && w->n_slots) {
        st = session_keep(w->session, w->n_waiting);
        if (st != OK) return finish(a, st);
        w->waiting[w->n_waiting++] = *a;
        return w->n_waiting == w->n_slots ? answers_finish(w, failed) : OK;
    }
    if (st == OK && more) st = write_alone(w, a, logits);
    return finish(a, st);
}

enum status answers_pass(struct answer_writer *w, int sample, const struct forward_args *prefill,
    float *hidden, answer_done *done, void *ctx, double *seconds, int *failed)
{
    struct session *s = w->session;
    const struct sample *x = &w->set->samples[sample];
    const struct llama_config *c = &w->model->weights.config;
    struct answer a = {
        .sample = sample, .wanted = sample_wanted(w->set, sample), .done = done, .ctx = ctx};
    struct forward_args first = *prefill;
    *failed = sample;
    first.tokens = x->ids;
    first.n = x->n_prompt ? x->n_prompt : x->n;
    first.hidden = hidden;
    float *logits = a.wanted ? malloc((size_t)c->vocab_size * sizeof *logits) : NULL;
    if (a.wanted && !logits) return fail(ERR_MEMORY, "no memory for one row of logits");
    first.last_logits = logits;
    session_reset(s);
    int64_t t0 = clock_ns();
    enum status st = session_forward(s, &first);
    *seconds = (double)(clock_ns() - t0) * 1e-9;
    if (st == OK && first.n < x->n) {
        struct forward_args rest = {.tokens = x->ids + first.n,
            .n = x->n - first.n,
            .hidden = hidden + (size_t)first.n * (size_t)c->hidden_size,
            .hidden_on_device = prefill->hidden_on_device,
            .stop = prefill->stop,
            .stop_ctx = prefill->stop_ctx};
        st = session_forward(s, &rest);
        if (st == OK) session_rewind(s, first.n);
    }
    if (st == OK && a.wanted) st = begin_answer(w, &a, logits, failed);
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

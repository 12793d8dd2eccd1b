#include "harness/measure/dense_states.h"

#include "base/xmalloc.h"
#include "harness/measure/answers.h"
#include "harness/measure/progress.h"

#include <stdlib.h>
#include <string.h>

size_t dense_states_bytes(const struct sample_set *set, int width, int n_streams)
{
    return (size_t)set->n_tokens * (size_t)width * sizeof(float) * (size_t)(1 + n_streams);
}

/* Which streams to keep: all that cells ask for, or as many as fit, spread evenly; the first one
 * serves every cell. */
static enum status choose_points(struct dense_states *s, const struct dense_states_args *a)
{
    int n_wanted = 0, n_model = a->model->weights.config.n_layers;
    int *wanted = malloc(sizeof *wanted * (size_t)(a->n_layers + 1));
    s->points = malloc(sizeof *s->points * (size_t)(a->n_layers + 1));
    if (!wanted || !s->points) {
        free(wanted);
        return fail(ERR_MEMORY, "no memory for a list of layers");
    }
    for (int i = 0; i < a->n_layers; i++)
        if (a->layers[i] > 0 && a->layers[i] < n_model) wanted[n_wanted++] = a->layers[i];
    size_t one = dense_states_bytes(a->set, s->width, 0);
    size_t fits = a->budget_bytes / (one ? one : 1);
    if (sample_set_writes(a->set)) n_wanted = 0; /* an answer needs the keys of every layer */
    s->n_points = fits == 0 ? 0 : (size_t)n_wanted < fits - 1 ? n_wanted : (int)(fits - 1);
    for (int i = 0; i < s->n_points; i++)
        s->points[i] = wanted[(long long)i * n_wanted / s->n_points];
    free(wanted);
    if (fits == 0)
        return fail(ERR_MEMORY,
            "%s: the dense hidden states of %d samples need %.2f GiB, %.2f GiB are free for them; "
            "lower "
            "--num-samples",
            a->set->name, a->set->n_samples, (double)one / 0x1p30,
            (double)a->budget_bytes / 0x1p30);
    return OK;
}

/* A dense policy that has a block shape, so that the kernel counts in it. */
static enum status counting_policy(
    const struct dense_states_args *a, struct block_shape block, struct sparse_policy *p)
{
    const struct llama_config *c = &a->model->weights.config;
    TRY(policy_init(p, &mask_sparge, c->n_layers, c->n_heads));
    p->block = block;
    memset(p->layer_on, 0, (size_t)c->n_layers);
    return OK;
}

/* Layers [from, to) of one sample; the stream goes from `in` to `out`. */
static struct forward_args part_of(const struct dense_states_args *a, const struct sample *x,
    const struct sparse_policy *policy, int from, int to, const float *in, float *out,
    const struct resident *hidden, struct head_ledger *ledger)
{
    return (struct forward_args){.tokens = x->ids,
        .n = x->n,
        .policy = policy,
        .ledger = ledger,
        .hidden = hidden ? hidden->at : NULL,
        .hidden_on_device = hidden && hidden->on,
        .first_layer = from,
        .residual_in = in,
        .end_layer = to,
        .capture_layer = to,
        .residual_out = out,
        .stop = a->stop,
        .stop_ctx = a->stop_ctx};
}

static void dense_is_written(void *ctx, int i, struct written *w)
{
    const struct dense_states_args *a = ctx;
    answers_keep(a->cache, a->model, a->impl, a->set, i, w);
    written_clear(w);
}

/* To and from what earlier runs left, by way of the host. */
static bool keeps(const struct dense_states_args *a) { return a->cache && a->cache->dir; }

static enum status keep(
    const struct dense_states *s, const struct dense_states_args *a, const char *key, int i)
{
    if (!keeps(a)) return OK;
    const float *rows;
    float *room = malloc(s->hidden[i].values * sizeof *room);
    if (!room) return OK; /* without it the numbers are the same */
    enum status st = resident_show(&s->hidden[i], room, &rows);
    if (st == OK) dense_cache_put(a->cache, key, a->set->samples[i].n, s->width, rows);
    free(room);
    return st;
}

static enum status kept(const struct dense_states *s, const struct dense_states_args *a,
    const char *key, int i, bool *found)
{
    *found = false;
    if (!keeps(a)) return OK;
    float *rows = malloc(s->hidden[i].values * sizeof *rows);
    if (!rows) return OK;
    enum status st = OK;
    *found = dense_cache_get(a->cache, key, a->set->samples[i].n, s->width, rows);
    if (*found) st = resident_write(&s->hidden[i], 0, s->hidden[i].values, rows);
    free(rows);
    return st;
}

/* A prompt, and what is written behind it. */
static enum status dense_answer(struct dense_states *s, const struct dense_states_args *a,
    struct answer_writer *writer, int i, const char *key)
{
    struct forward_args args = {
        .hidden_on_device = s->hidden[i].on != NULL, .stop = a->stop, .stop_ctx = a->stop_ctx};
    int failed;
    TRY(answers_pass(
        writer, i, &args, s->hidden[i].at, dense_is_written, (void *)a, &s->seconds[i], &failed));
    return keep(s, a, key, i);
}

/* The passes that are to be made. */
struct dense_passes {
    struct dense_states *s;
    const struct dense_states_args *a;
    int *samples;                /* [n] */
    struct forward_args *calls;  /* [n] of the present part */
    struct head_ledger **counts; /* [n] all layers and heads; NULL where they are not wanted */
    struct answer_writer *writer;
    int n;
};

static enum status count_seconds(void *ctx, int i, double seconds)
{
    const struct dense_passes *p = ctx;
    p->s->seconds[p->samples[i]] += seconds;
    return OK;
}

static enum status run_parts(
    struct dense_passes *x, struct session *session, const struct sparse_policy *policies)
{
    struct dense_states *s = x->s;
    int n_model = x->a->model->weights.config.n_layers, failed;
    for (int p = 0, from = 0; p <= s->n_points; p++) {
        bool last = p == s->n_points;
        int to = last ? n_model : s->points[p];
        for (int k = 0; k < x->n; k++) {
            int i = x->samples[k];
            const float *in = p ? s->streams[i * s->n_points + p - 1] : NULL;
            x->calls[k] = part_of(x->a, &x->a->set->samples[i], s->n_blocks ? &policies[0] : NULL,
                from, to, in, last ? NULL : s->streams[i * s->n_points + p],
                last ? &s->hidden[i] : NULL, x->counts[k]);
        }
        TRY(session_forward_each(session, x->calls, x->n, count_seconds, x, &failed));
        from = to;
    }
    return OK;
}

/* One dense layer in every block shape; the first one is what the pass itself counted. */
static enum status count_blocks(
    struct dense_passes *x, struct session *session, const struct sparse_policy *policies)
{
    struct dense_states *s = x->s;
    size_t bytes = sizeof *s->counts * (size_t)s->n_heads;
    for (int b = 0; b < s->n_blocks && s->n_points; b++)
        for (int k = 0; k < x->n; k++) {
            int i = x->samples[k];
            if (b) {
                memset(x->counts[k], 0, bytes);
                struct forward_args f = part_of(x->a, &x->a->set->samples[i], &policies[b], 0, 1,
                    NULL, NULL, NULL, x->counts[k]);
                session_reset(session);
                TRY(session_forward(session, &f));
            }
            memcpy(s->counts + ((size_t)i * (size_t)s->n_blocks + (size_t)b) * (size_t)s->n_heads,
                x->counts[k], bytes);
        }
    return OK;
}

/* Samples [first, end). */
static enum status dense_batch(struct dense_passes *x, struct session *session,
    const struct sparse_policy *policies, int first, int end)
{
    struct dense_states *s = x->s;
    const struct dense_states_args *a = x->a;
    size_t cells = (size_t)a->model->weights.config.n_layers * (size_t)s->n_heads;
    char key[HASH_HEX_SIZE];
    enum status st = OK;
    x->n = 0;
    for (int i = first; i < end && st == OK; i++) {
        const struct sample *sample = &a->set->samples[i];
        answers_dense_key(key, a->model, a->impl, sample);
        bool found = false;
        if (!s->n_points) st = kept(s, a, key, i, &found);
        if (found || st != OK) continue;
        if (sample->n_prompt) {
            st = dense_answer(s, a, x->writer, i, key);
            continue;
        }
        x->samples[x->n] = i;
        x->counts[x->n] = calloc(cells, sizeof **x->counts);
        if (!x->counts[x->n++]) st = fail(ERR_MEMORY, "no memory to count %zu heads", cells);
    }
    if (st == OK && x->n) st = run_parts(x, session, policies);
    if (st == OK && x->n) st = count_blocks(x, session, policies);
    for (int k = 0; k < x->n; k++) {
        const struct sample *sample = &a->set->samples[x->samples[k]];
        free(x->counts[k]);
        if (st != OK) continue;
        answers_dense_key(key, a->model, a->impl, sample);
        st = keep(s, a, key, x->samples[k]);
    }
    return st;
}

/* One after the other, or all together where weights come layer by layer. */
static enum status dense_all(struct dense_states *s, const struct dense_states_args *a,
    struct session *session, const struct sparse_policy *policies)
{
    int at_once = session_at_once(session, 1) ? s->n_samples : 1;
    size_t n = (size_t)at_once;
    struct dense_passes x = {.s = s,
        .a = a,
        .samples = xcalloc(n, sizeof *x.samples),
        .calls = xcalloc(n, sizeof *x.calls),
        .counts = xcalloc(n, sizeof *x.counts)};
    enum status st = sample_set_writes(a->set)
        ? answers_open(&x.writer, session, a->model, a->set, a->stop, a->stop_ctx)
        : OK;
    struct progress progress;
    double n_done = 0;
    int failed;
    progress_begin(&progress, "dense pass", "tokens", (double)a->set->n_tokens, a->quiet);
    for (int i = 0; i < s->n_samples && st == OK; i += at_once) {
        int end = i + at_once < s->n_samples ? i + at_once : s->n_samples;
        st = dense_batch(&x, session, policies, i, end);
        for (int k = i; k < end; k++) n_done += a->set->samples[k].n;
        progress_update(&progress, n_done);
    }
    if (st == OK && x.writer) st = answers_finish(x.writer, &failed);
    answers_close(&x.writer);
    progress_end(&progress);
    free(x.samples);
    free(x.calls);
    free(x.counts);
    return st;
}

static enum status allocate(struct dense_states *s, const struct dense_states_args *a)
{
    size_t n = (size_t)s->n_samples;
    s->hidden = calloc(n, sizeof *s->hidden);
    s->streams = calloc(n * (size_t)s->n_points + 1, sizeof *s->streams);
    s->seconds = calloc(n, sizeof *s->seconds);
    s->blocks = malloc(sizeof *s->blocks * (size_t)(s->n_blocks + 1));
    s->counts = calloc(n * (size_t)s->n_blocks * (size_t)s->n_heads + 1, sizeof *s->counts);
    bool ok = s->hidden && s->streams && s->seconds && s->blocks && s->counts;
    for (int i = 0; ok && i < s->n_samples; i++) {
        size_t bytes = (size_t)a->set->samples[i].n * (size_t)s->width * sizeof(float);
        for (int p = 0; ok && p < s->n_points; p++) {
            s->streams[i * s->n_points + p] = malloc(bytes);
            ok = s->streams[i * s->n_points + p] != NULL;
        }
    }
    if (!ok) return fail(ERR_MEMORY, "no memory for the dense states of %s", a->set->name);
    bool host =
        a->host || !resident_fits(&a->model->weights, (size_t)a->set->n_tokens * (size_t)s->width);
    for (int i = 0; i < s->n_samples; i++)
        TRY(resident_open(&s->hidden[i], &a->model->weights,
            (size_t)a->set->samples[i].n * (size_t)s->width, host, "the dense states"));
    if (s->n_blocks) memcpy(s->blocks, a->blocks, sizeof *s->blocks * (size_t)s->n_blocks);
    return OK;
}

enum status dense_states_open(struct dense_states *s, const struct dense_states_args *a)
{
    const struct llama_config *c = &a->model->weights.config;
    *s = (struct dense_states){.n_samples = a->set->n_samples,
        .width = c->hidden_size,
        .n_heads = c->n_heads,
        .n_blocks = a->n_blocks};
    struct session *session = NULL;
    struct sparse_policy *policies = calloc((size_t)a->n_blocks + 1, sizeof *policies);
    int longest = sample_set_room(a->set);
    enum status st = policies ? OK : fail(ERR_MEMORY, "no memory for %d policies", a->n_blocks);
    if (st == OK) st = choose_points(s, a);
    for (int b = 0; b < s->n_blocks && st == OK; b++)
        st = counting_policy(a, a->blocks[b], &policies[b]);
    if (st == OK)
        st = (sample_set_writes(a->set) ? session_open : session_open_once)(
            &session, &a->model->weights, a->par, longest, a->chunk, a->impl);
    if (st == OK) st = allocate(s, a); /* of what a session leaves */
    if (st == OK && session) st = dense_all(s, a, session, policies);
    session_close(&session);
    for (int b = 0; policies && b < a->n_blocks; b++) policy_clear(&policies[b]);
    free(policies);
    if (st != OK) dense_states_close(s);
    return st;
}

void dense_states_close(struct dense_states *s)
{
    for (int i = 0; s->hidden && i < s->n_samples; i++) resident_close(&s->hidden[i]);
    for (int i = 0; s->streams && i < s->n_samples * s->n_points; i++) free(s->streams[i]);
    free(s->points);
    free(s->hidden);
    free(s->streams);
    free(s->seconds);
    free(s->blocks);
    free(s->counts);
    *s = (struct dense_states){0};
}

enum status dense_states_leave_device(struct dense_states *s)
{
    for (int i = 0; s->hidden && i < s->n_samples; i++) TRY(resident_leave_device(&s->hidden[i]));
    return OK;
}

int dense_states_start(const struct dense_states *s, int sample, int layer,
    struct block_shape block, const float **stream, const struct head_ledger **counts)
{
    int b = 0, p = -1;
    while (b < s->n_blocks && (s->blocks[b].q != block.q || s->blocks[b].k != block.k)) b++;
    while (p + 1 < s->n_points && s->points[p + 1] <= layer) p++;
    if (b == s->n_blocks || p < 0) return 0;
    *stream = s->streams[sample * s->n_points + p];
    *counts = s->counts + ((size_t)sample * (size_t)s->n_blocks + (size_t)b) * (size_t)s->n_heads;
    return s->points[p];
}

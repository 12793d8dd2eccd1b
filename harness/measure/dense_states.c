#include "harness/measure/dense_states.h"

#include "base/clock.h"

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
static enum status run_part(const struct dense_states_args *a, struct session *session,
    const struct sample *x, const struct sparse_policy *policy, int from, int to, const float *in,
    float *out, float *hidden, struct head_ledger *ledger)
{
    session_reset(session);
    return session_forward(session,
        &(struct forward_args){.tokens = x->ids,
            .n = x->n,
            .policy = policy,
            .ledger = ledger,
            .hidden = hidden,
            .first_layer = from,
            .residual_in = in,
            .end_layer = to,
            .capture_layer = to,
            .residual_out = out,
            .stop = a->stop,
            .stop_ctx = a->stop_ctx});
}

static enum status dense_sample(struct dense_states *s, const struct dense_states_args *a,
    struct session *session, int i, const struct sparse_policy *policies)
{
    const struct sample *x = &a->set->samples[i];
    int n_model = a->model->weights.config.n_layers;
    char key[HASH_HEX_SIZE];
    dense_cache_key(key, a->model, a->impl, x->ids, x->n);
    if (!s->n_points && dense_cache_get(a->cache, key, x->n, s->width, s->hidden[i])) return OK;
    struct head_ledger *counts = calloc((size_t)(n_model * s->n_heads), sizeof *counts);
    if (!counts) return fail(ERR_MEMORY, "no memory to count %d heads", n_model * s->n_heads);
    int64_t t0 = clock_ns();
    enum status st = OK;
    const float *in = NULL;
    for (int p = 0, from = 0; p <= s->n_points && st == OK; p++) {
        bool last = p == s->n_points;
        float *out = last ? NULL : s->streams[i * s->n_points + p];
        int to = last ? n_model : s->points[p];
        st = run_part(a, session, x, s->n_blocks ? &policies[0] : NULL, from, to, in, out,
            last ? s->hidden[i] : NULL, counts);
        in = out;
        from = to;
    }
    s->seconds[i] = (double)(clock_ns() - t0) * 1e-9;
    for (int b = 0; b < s->n_blocks && st == OK && s->n_points; b++) {
        if (b) {
            memset(counts, 0, sizeof *counts * (size_t)s->n_heads);
            st = run_part(a, session, x, &policies[b], 0, 1, NULL, NULL, NULL, counts);
        }
        memcpy(s->counts + ((size_t)i * (size_t)s->n_blocks + (size_t)b) * (size_t)s->n_heads,
            counts, sizeof *counts * (size_t)s->n_heads);
    }
    free(counts);
    if (st == OK) dense_cache_put(a->cache, key, x->n, s->width, s->hidden[i]);
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
        s->hidden[i] = malloc(bytes);
        ok = s->hidden[i] != NULL;
        for (int p = 0; ok && p < s->n_points; p++) {
            s->streams[i * s->n_points + p] = malloc(bytes);
            ok = s->streams[i * s->n_points + p] != NULL;
        }
    }
    if (!ok) return fail(ERR_MEMORY, "no memory for the dense states of %s", a->set->name);
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
    int longest = 0;
    enum status st = policies ? OK : fail(ERR_MEMORY, "no memory for %d policies", a->n_blocks);
    for (int i = 0; i < s->n_samples; i++)
        if (a->set->samples[i].n > longest) longest = a->set->samples[i].n;
    if (st == OK) st = choose_points(s, a);
    if (st == OK) st = allocate(s, a);
    for (int b = 0; b < s->n_blocks && st == OK; b++)
        st = counting_policy(a, a->blocks[b], &policies[b]);
    if (st == OK)
        st = session_open_once(&session, &a->model->weights, a->par, longest, a->chunk, a->impl);
    for (int i = 0; i < s->n_samples && st == OK; i++)
        st = dense_sample(s, a, session, i, policies);
    session_close(&session);
    for (int b = 0; policies && b < a->n_blocks; b++) policy_clear(&policies[b]);
    free(policies);
    if (st != OK) dense_states_close(s);
    return st;
}

void dense_states_close(struct dense_states *s)
{
    for (int i = 0; s->hidden && i < s->n_samples; i++) free(s->hidden[i]);
    for (int i = 0; s->streams && i < s->n_samples * s->n_points; i++) free(s->streams[i]);
    free(s->points);
    free(s->hidden);
    free(s->streams);
    free(s->seconds);
    free(s->blocks);
    free(s->counts);
    *s = (struct dense_states){0};
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

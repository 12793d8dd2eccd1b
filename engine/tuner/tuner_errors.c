/* What stored thresholds do on samples: the backend's verification alone, nothing is chosen. */
#include "engine/tuner/tuner_parts.h"

#include <stdlib.h>

struct judging {
    const struct tune_args *a;
    const struct tuned *t;
    int n, n_cells;
    const struct tuner_backend *backend;
    void *state;
    struct tuner_plan plan;
    struct head_error *out;
    /* of the heads held */
    struct tuner_measure_task *tasks; /* [heads_at_once, n_samples] */
    struct head_params *params;       /* [heads_at_once, n] */
    struct tuner_measured *measured;  /* [heads_at_once, n_samples, n] */
};

static const struct tuned_head *head_of(const struct judging *j, int i, int cell)
{
    return &j->t[i].heads[cell];
}

static bool runs(const struct tuned_head *h) { return h->in_range && h->params.is_sparse; }

static struct head_error *place_of(const struct judging *j, int i, int sample, int cell)
{
    return &j->out[((size_t)i * (size_t)j->a->n_samples + (size_t)sample) * (size_t)j->n_cells +
        (size_t)cell];
}

static enum status judge_part(struct judging *j, int layer, int first, int end)
{
    int n_heads = j->a->weights->config.n_heads, n_samples = j->a->n_samples, n_tasks = 0;
    struct head_params *params = j->params;
    struct tuner_measured *measured = j->measured;
    for (int head = first; head < end; head++) {
        int n = 0;
        for (int i = 0; i < j->n; i++)
            if (runs(head_of(j, i, layer * n_heads + head)))
                params[n++] = head_of(j, i, layer * n_heads + head)->params;
        for (int s = 0; s < n_samples && n; s++, measured += n)
            j->tasks[n_tasks++] = (struct tuner_measure_task){{head, s, 0}, params, n, measured};
        params += n;
    }
    if (!n_tasks) return OK;
    TRY(j->backend->measure(j->state, j->tasks, n_tasks));
    for (int k = 0; k < n_tasks; k++) {
        int cell = layer * n_heads + j->tasks[k].at.head;
        for (int i = 0, at = 0; i < j->n; i++)
            if (runs(head_of(j, i, cell)))
                *place_of(j, i, j->tasks[k].at.sample, cell) = j->tasks[k].out[at++].error;
    }
    return OK;
}

static bool any_runs(const struct judging *j, int layer)
{
    int n_heads = j->a->weights->config.n_heads;
    for (int i = 0; i < j->n; i++)
        for (int h = 0; h < n_heads; h++)
            if (runs(head_of(j, i, layer * n_heads + h))) return true;
    return false;
}

static enum status judge_all(struct judging *j)
{
    const struct llama_config *c = &j->a->weights->config;
    int last = -1;
    for (int l = 0; l < c->n_layers; l++)
        if (any_runs(j, l)) last = l;
    for (int l = 0; l <= last; l++) {
        for (int first = 0; first < c->n_heads && any_runs(j, l); first += j->plan.heads_at_once) {
            int end = first + j->plan.heads_at_once < c->n_heads ? first + j->plan.heads_at_once
                                                                 : c->n_heads;
            TRY(j->backend->hold(j->state, l, first, end));
            TRY(judge_part(j, l, first, end));
        }
        if (l < last) TRY(j->backend->advance(j->state, l));
    }
    return OK;
}

enum status tune_errors(
    const struct tune_args *a, const struct tuned *t, int n, struct head_error *out)
{
    const struct llama_config *c = &a->weights->config;
    struct judging j = {.a = a, .t = t, .n = n, .n_cells = c->n_layers * c->n_heads, .out = out};
    int longest = 0;
    for (int s = 0; s < a->n_samples; s++) {
        if (a->samples[s].n > longest) longest = a->samples[s].n;
        if (a->samples[s].n < MIN_SPARSE_TOKENS)
            return fail(ERR_ARG,
                "%s has %d tokens, bounds say something from %d on: sparse attention is not used "
                "below that",
                a->samples[s].name, a->samples[s].n, MIN_SPARSE_TOKENS);
    }
    size_t n_out = (size_t)n * (size_t)a->n_samples * (size_t)j.n_cells;
    for (size_t i = 0; i < n_out; i++) out[i] = head_error_unknown;
    if (!n_out) return OK;
    j.backend = tuner_backend_for(a->weights, a->policy, longest, NULL);
    j.plan = j.backend->plan(a);
    size_t heads = (size_t)j.plan.heads_at_once, samples = (size_t)a->n_samples;
    j.tasks = malloc(sizeof *j.tasks * heads * samples);
    j.params = malloc(sizeof *j.params * heads * (size_t)n);
    j.measured = calloc(heads * samples * (size_t)n, sizeof *j.measured);
    enum status st = j.tasks && j.params && j.measured
        ? OK
        : fail(ERR_MEMORY, "no memory to judge %d heads", j.n_cells);
    if (st == OK) st = j.backend->open(&j.state, a, &j.plan);
    if (st == OK) st = judge_all(&j);
    j.backend->close(&j.state);
    free(j.tasks);
    free(j.params);
    free(j.measured);
    return st;
}

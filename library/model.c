/* Checkpoints run whole: logits, loss, generation. */
#include "library/parts.h"

#include "engine/tuner/tuned.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct call {
    struct sg_model *model;
    const struct sg_policy *policy;
    struct sg_ledger *ledger;
    const int32_t *ids;
    int n;
    float *out; /* logits, or nll */
    double *mean;
    const struct sg_generation *generation;
    int32_t *new_ids;
    int *n_new;
    /* while it runs */
    struct session *session;
    struct head_ledger *counted; /* [n_layers, n_heads] */
    float *rows;
    void *ws;
    int32_t *next;
};

struct opening {
    struct sg_model **out;
    struct sg_context *context;
    const char *path;
};

static enum status open_body(void *args)
{
    const struct opening *o = args;
    if (!o->path) return fail(ERR_ARG, "path is NULL");
    struct sg_model *m = calloc(1, sizeof *m);
    if (!m) return fail(ERR_MEMORY, "no memory for a model");
    m->context = o->context;
    enum status st = model_open(&m->model, o->path, o->context->par);
    if (st != OK) free(m);
    else *o->out = m;
    return st;
}

enum sg_status sg_model_open(struct sg_model **out, struct sg_context *context, const char *path)
{
    *out = NULL;
    return border_in(context, open_body, &(struct opening){out, context, path});
}

void sg_model_close(struct sg_model **model)
{
    if (!model || !*model) return;
    model_close(&(*model)->model);
    free(*model);
    *model = NULL;
}

enum sg_status sg_model_shape(const struct sg_model *model, struct sg_shape *out)
{
    struct sg_shape check;
    enum status st = model ? SG_TAKE(check, out, max_position) : fail(ERR_ARG, "model is NULL");
    if (st != OK) return (enum sg_status)st;
    const struct llama_config *c = &model->model.weights.config;
    struct sg_shape s = {out->size, c->n_layers, c->n_heads, c->n_kv_heads, c->head_dim,
        c->hidden_size, c->vocab_size, c->max_position};
    memcpy(out, &s, s.size < sizeof s ? s.size : sizeof s);
    return SG_OK;
}

const char *sg_model_name(const struct sg_model *model) { return model ? model->model.name : ""; }
const char *sg_model_fingerprint(const struct sg_model *model)
{
    return model ? model->model.fingerprint : "";
}

struct texting {
    const struct sg_model *model;
    const char *text;
    int32_t *ids;
    const int32_t *from;
    size_t len, capacity, n;
    char **out;
};

static enum status encode_body(void *args)
{
    struct texting *t = args;
    struct token_list ids = {0};
    enum status st =
        model_prompt(&t->model->model, t->text ? t->text : "", t->text ? t->len : 0, &ids);
    t->n = ids.n;
    if (st == OK && t->ids && ids.n > t->capacity)
        st = fail(ERR_MEMORY, "the text has %zu tokens, ids has room for %zu", ids.n, t->capacity);
    if (st == OK && t->ids && ids.n) memcpy(t->ids, ids.ids, sizeof *ids.ids * ids.n);
    token_list_clear(&ids);
    return st;
}

enum sg_status sg_model_encode(const struct sg_model *model, const char *text, size_t len,
    int32_t *ids, size_t capacity, size_t *n)
{
    struct texting t = {.model = model, .text = text, .len = len, .ids = ids, .capacity = capacity};
    if (!model || !n) return (enum sg_status)fail(ERR_ARG, "%s is NULL", model ? "n" : "model");
    enum sg_status st = border(encode_body, &t);
    *n = t.n;
    return st;
}

static enum status decode_body(void *args)
{
    struct texting *t = args;
    struct str text = {0};
    str_reserve(&text, 1);
    enum status st = tokenizer_decode(t->model->model.tokenizer, t->from, t->n, true, &text);
    if (st == OK) *t->out = text.data;
    else str_clear(&text);
    return st;
}

enum sg_status sg_model_decode(
    const struct sg_model *model, const int32_t *ids, size_t n, char **out)
{
    *out = NULL;
    if (!model || (n && !ids))
        return (enum sg_status)fail(ERR_ARG, "%s is NULL", model ? "ids" : "model");
    return border(decode_body, &(struct texting){.model = model, .from = ids, .n = n, .out = out});
}

static const struct llama_config *config_of(const struct call *c)
{
    return &c->model->model.weights.config;
}

static enum status check(const struct call *c, int least)
{
    const struct llama_config *m = config_of(c);
    const struct sg_policy *p = c->policy;
    if (!c->ids || c->n < least)
        return fail(
            ERR_ARG, "ids: found %d tokens, expected at least %d", c->ids ? c->n : 0, least);
    if (!p) return OK;
    if (p->now.n_layers != m->n_layers || p->now.n_heads != m->n_heads)
        return fail(ERR_ARG,
            "the policy is of %d layers x %d heads, the model has %dx%d; tune this model",
            p->now.n_layers, p->now.n_heads, m->n_layers, m->n_heads);
    const char *whose = p->tuned.model_fingerprint;
    if (whose[0] && strcmp(whose, c->model->model.fingerprint) != 0)
        return fail(ERR_ARG,
            "the policy: model_fingerprint: found %s (%s), expected %s; tune this model", whose,
            p->tuned.model_name, c->model->model.fingerprint);
    return OK;
}

static enum status begin(struct call *c, int capacity, bool once)
{
    const struct llama_config *m = config_of(c);
    const struct weights *w = &c->model->model.weights;
    struct par *par = c->model->context->par;
    size_t n_cells = (size_t)m->n_layers * (size_t)m->n_heads;
    c->counted = c->ledger ? calloc(n_cells, sizeof *c->counted) : NULL;
    if (c->ledger && !c->counted)
        return fail(ERR_MEMORY, "no memory for the ledger of %zu heads", n_cells);
    return once ? session_open_once(&c->session, w, par, capacity, 0, NULL)
                : session_open(&c->session, w, par, capacity, 0, NULL);
}

static enum status end(struct call *c, enum status st)
{
    const struct llama_config *m = config_of(c);
    session_close(&c->session);
    if (st == OK && c->ledger)
        ledger_give(c->ledger, c->counted, (size_t)m->n_layers * (size_t)m->n_heads);
    free(c->counted);
    free(c->rows);
    free(c->ws);
    free(c->next);
    return st;
}

static const struct sparse_policy *policy_of(const struct call *c)
{
    return c->policy ? &c->policy->now : NULL;
}

static enum status run_logits(struct call *c)
{
    const struct llama_config *m = config_of(c);
    const struct weights *w = &c->model->model.weights;
    struct par *par = c->model->context->par;
    TRY(check(c, 1));
    if (!c->out) return fail(ERR_ARG, "logits is NULL");
    TRY(begin(c, c->n, true));
    c->rows = malloc(sizeof *c->rows * (size_t)c->n * (size_t)m->hidden_size);
    c->ws = aligned_alloc(64, (linear_workspace(m->hidden_size, par_threads(par)) + 127) / 64 * 64);
    if (!c->rows || !c->ws)
        return fail(ERR_MEMORY, "no memory for the hidden states of %d tokens", c->n);
    TRY(session_forward(c->session,
        &(struct forward_args){.tokens = c->ids,
            .n = c->n,
            .policy = policy_of(c),
            .ledger = c->counted,
            .hidden = c->rows}));
    linear_run(&w->head, c->n, c->rows, m->hidden_size, c->out, m->vocab_size, false, c->ws, par);
    return OK;
}

static enum status run_loss(struct call *c)
{
    TRY(check(c, 2));
    if (!c->out && !c->mean) return fail(ERR_ARG, "nll and mean are NULL: nothing is asked for");
    TRY(begin(c, c->n, true));
    c->rows = malloc(sizeof *c->rows * (size_t)c->n);
    c->next = malloc(sizeof *c->next * (size_t)c->n);
    if (!c->rows || !c->next) return fail(ERR_MEMORY, "no memory to score %d tokens", c->n);
    for (int i = 0; i < c->n; i++) c->next[i] = i + 1 < c->n ? c->ids[i + 1] : -1;
    TRY(session_forward(c->session,
        &(struct forward_args){.tokens = c->ids,
            .n = c->n,
            .policy = policy_of(c),
            .ledger = c->counted,
            .next = c->next,
            .nll = c->rows}));
    double sum = 0;
    for (int i = 0; i + 1 < c->n; i++) sum += (double)c->rows[i];
    if (c->out) memcpy(c->out, c->rows, sizeof *c->rows * ((size_t)c->n - 1));
    if (c->mean) *c->mean = sum / (c->n - 1);
    return OK;
}

static bool token_heard(void *ctx, int32_t id)
{
    const struct sg_generation *g = ctx;
    return g->token(g->token_context, id) != 0;
}

static enum status run_generate(struct call *c)
{
    struct sg_generation g;
    struct generate_result result = {0};
    TRY(check(c, 1));
    TRY(SG_TAKE(g, c->generation, token_context));
    if (g.max_new == 0) g.max_new = 50;
    if (g.max_new < 0 || g.max_new > (1 << 28) - c->n)
        return fail(ERR_ARG, "max_new: found %d, expected 1 or more", g.max_new);
    if (!(g.temperature >= 0) || g.top_k < 0 || !(g.top_p >= 0 && g.top_p <= 1))
        return fail(ERR_ARG,
            "temperature %g, top_k %d, top_p %g: expected 0 or more, 0 or more, 0 to 1",
            g.temperature, g.top_k, g.top_p);
    if (!c->new_ids || !c->n_new) return fail(ERR_ARG, "%s is NULL", c->new_ids ? "n_out" : "out");
    TRY(begin(c, c->n + g.max_new, false));
    struct generate_args a = {
        .prompt = c->ids,
        .n_prompt = c->n,
        .max_new = g.max_new,
        .ignore_eos = g.ignore_eos != 0,
        .sampler = {(float)g.temperature, g.top_k, g.top_p > 0 ? (float)g.top_p : 1, g.seed},
        .policy = policy_of(c),
        .ledger = c->counted,
        .token = g.token ? token_heard : NULL,
        .ctx = &g,
    };
    enum status st = generate(c->session, &a, c->new_ids, &result);
    *c->n_new = result.n_new;
    return st;
}

static enum status logits_body(void *args) { return end(args, run_logits(args)); }
static enum status loss_body(void *args) { return end(args, run_loss(args)); }
static enum status generate_body(void *args) { return end(args, run_generate(args)); }

static enum sg_status run(border_body *body, struct call *c)
{
    if (!c->model) return (enum sg_status)fail(ERR_ARG, "model is NULL");
    return border_in(c->model->context, body, c);
}

enum sg_status sg_model_logits(struct sg_model *model, const int32_t *ids, int n,
    const struct sg_policy *policy, float *logits, struct sg_ledger *ledger)
{
    return run(logits_body,
        &(struct call){
            .model = model, .policy = policy, .ledger = ledger, .ids = ids, .n = n, .out = logits});
}

enum sg_status sg_model_loss(struct sg_model *model, const int32_t *ids, int n,
    const struct sg_policy *policy, float *nll, double *mean, struct sg_ledger *ledger)
{
    return run(loss_body,
        &(struct call){.model = model,
            .policy = policy,
            .ledger = ledger,
            .ids = ids,
            .n = n,
            .out = nll,
            .mean = mean});
}

enum sg_status sg_model_generate(struct sg_model *model, const int32_t *ids, int n,
    const struct sg_policy *policy, const struct sg_generation *g, int32_t *out, int *n_out,
    struct sg_ledger *ledger)
{
    return run(generate_body,
        &(struct call){.model = model,
            .policy = policy,
            .ledger = ledger,
            .ids = ids,
            .n = n,
            .generation = g,
            .new_ids = out,
            .n_new = n_out});
}

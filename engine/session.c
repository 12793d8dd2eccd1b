#include "engine/session.h"

#include "base/str.h"
#include "engine/session_backend.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The face of all sessions: checks what it is asked for, and calls the backend where the weights
 * are. */
struct session {
    const struct weights *w;
    struct par *par;
    const struct session_backend *backend;
    void *state; /* the backend's */
    struct session_plan plan;
    int position;
    struct str impls;
};

static const struct session_backend *backend_of(const struct weights *w)
{
    return w->on_device ? w->on_device->backend : &session_backend_cpu;
}

struct session_plan session_plan_for(
    const struct weights *w, int capacity, int chunk, bool once, int n_threads)
{
    return backend_of(w)->plan(w, capacity, chunk, once, n_threads);
}

static enum status open_session(struct session **out, const struct weights *w, struct par *par,
    int capacity, int chunk, bool once, const char *impl)
{
    struct session *s = *out = calloc(1, sizeof *s);
    if (!s) return fail(ERR_MEMORY, "no memory for a session");
    s->w = w;
    s->par = par;
    s->backend = backend_of(w);
    s->plan = session_plan_for(w, capacity, chunk, once, par_threads(par));
    enum status st = s->backend->open(&s->state, w, par, &s->plan, impl);
    if (st != OK) session_close(out);
    return st;
}

enum status session_open(struct session **out, const struct weights *w, struct par *par,
    int capacity, int chunk, const char *impl)
{
    return open_session(out, w, par, capacity, chunk, false, impl);
}

enum status session_open_once(struct session **out, const struct weights *w, struct par *par,
    int capacity, int chunk, const char *impl)
{
    return open_session(out, w, par, capacity, chunk, true, impl);
}

void session_close(struct session **sp)
{
    struct session *s = *sp;
    if (!s) return;
    s->backend->close(&s->state);
    str_clear(&s->impls);
    free(s);
    *sp = NULL;
}

void session_reset(struct session *s) { s->position = 0; }
int session_position(const struct session *s) { return s->position; }
const struct weights *session_weights(const struct session *s) { return s->w; }
struct par *session_par(const struct session *s) { return s->par; }
const char *session_impls(const struct session *s) { return str_get(&s->impls); }

/* What came back to the host. The CPU looks at the stream of every layer beside this; of a device's
 * it is all that is seen. */
static enum status check_results(const struct llama_config *c, const struct forward_args *f)
{
    size_t h = (size_t)c->hidden_size, rows = (size_t)f->n * h;
    bool ok = (!f->hidden || values_are_finite(f->hidden, rows)) &&
        (!f->last_hidden || values_are_finite(f->last_hidden, h)) &&
        (!f->residual_out || f->on_device || values_are_finite(f->residual_out, rows)) &&
        (!f->last_logits || values_are_finite(f->last_logits, (size_t)c->vocab_size));
    return ok ? OK
              : fail(ERR_NUMERIC,
                    "the result of a forward pass holds NaN or infinity; check the weights with "
                    "`info --check`");
}

/* Where NaN or infinity began. Only a call that has failed comes here, so time does not matter. */
#define ADVICE "check the weights with `info --check`"

static enum status look_at(const char *what, int layer, const float *x, ptrdiff_t row,
    ptrdiff_t head, int first, int n_rows, int n_heads, int d)
{
    for (int r = 0; r < n_rows; r++)
        for (int h = 0; h < n_heads; h++)
            if (!values_are_finite(x + (first + r) * row + h * head, (size_t)d))
                return fail(ERR_NUMERIC,
                    "layer %d: %s %d at row %d of the call hold NaN or infinity; " ADVICE, layer,
                    what, h, r);
    return OK;
}

static enum status look_at_layer(void *ctx, const struct layer_view *view)
{
    (void)ctx;
    const struct attn_args *a = view->attn;
    TRY(look_at("queries of head", view->layer, a->q, a->q_row, a->q_head, 0, a->n_q, a->n_heads,
        a->head_dim));
    TRY(look_at("keys of kv head", view->layer, a->k, a->k_row, a->k_head, a->q_start, a->n_q,
        a->n_kv_heads, a->head_dim));
    TRY(look_at("values of kv head", view->layer, a->v, a->v_row, a->v_head, a->q_start, a->n_q,
        a->n_kv_heads, a->head_dim));
    return look_at("attention outputs of head", view->layer, a->o, a->o_row, a->o_head, 0, a->n_q,
        a->n_heads, a->head_dim);
}

static enum status look_at_stream(const float *stream, int n, int h, int layer)
{
    for (int r = 0; r < n; r++) {
        if (values_are_finite(stream + (size_t)r * (size_t)h, (size_t)h)) continue;
        if (layer < 0)
            return fail(ERR_NUMERIC,
                "the embedding of token %d of the call holds NaN or infinity; " ADVICE, r);
        return fail(ERR_NUMERIC,
            "layer %d: the residual stream behind o_proj and the MLP holds NaN or infinity at "
            "token %d of the call; " ADVICE,
            layer, r);
    }
    return OK;
}

static enum status trace_layers(
    struct session *s, int position, const struct forward_args *f, float *stream)
{
    const struct llama_config *c = &session_weights(s)->config;
    int first = f->residual_in ? f->first_layer : 0,
        end = f->end_layer > 0 ? f->end_layer : c->n_layers;
    struct forward_args x = {.tokens = f->tokens,
        .n = f->n,
        .total_len = f->total_len,
        .policy = f->policy,
        .residual_out = stream,
        .unchecked = true,
        .stop = f->stop,
        .stop_ctx = f->stop_ctx};
    if (f->residual_in) {
        memcpy(stream, f->residual_in, sizeof *stream * (size_t)f->n * (size_t)c->hidden_size);
    } else {
        x.end_layer = 1;
        TRY(session_forward(s, &x));
    }
    TRY(look_at_stream(stream, f->n, c->hidden_size, first - 1));
    x.hook = look_at_layer;
    for (int l = first; l < end; l++) {
        x.first_layer = l;
        x.residual_in = f->residual_in || l > first ? stream : NULL;
        x.end_layer = x.capture_layer = l + 1;
        s->position = position;
        TRY(session_forward(s, &x));
        TRY(look_at_stream(stream, f->n, c->hidden_size, l));
    }
    return OK;
}

/* ERR_NUMERIC was met: runs the call again, layer by layer, to say where NaN or infinity began; the
 * message that is there stays when nothing is found. The session is left at `position`. Always
 * fails. */
static enum status trace_forward(struct session *s, int position, const struct forward_args *f)
{
    char message[512];
    snprintf(message, sizeof message, "%s", status_message());
    float *stream =
        malloc(sizeof *stream * (size_t)f->n * (size_t)session_weights(s)->config.hidden_size);
    /* a stream on a device is not ours to copy */
    enum status st =
        stream && !(f->residual_in && f->on_device) ? trace_layers(s, position, f, stream) : OK;
    s->position = position;
    free(stream);
    return st == OK ? fail(ERR_NUMERIC, "%s", message) : st;
}

enum status session_forward(struct session *s, const struct forward_args *f)
{
    const struct llama_config *c = &s->w->config;
    if (f->n < 1 || s->position + f->n > s->plan.capacity)
        return fail(ERR_ARG, "%d more tokens behind %d, expected 1 to %d in all", f->n, s->position,
            s->plan.capacity);
    if (s->plan.once && (s->position > 0 || f->n > s->plan.chunk))
        return fail(ERR_ARG, "%d more tokens behind %d in a session that keeps no keys and values",
            f->n, s->position);
    for (int i = 0; i < f->n; i++)
        if (f->tokens[i] < 0 || f->tokens[i] >= c->vocab_size)
            return fail(ERR_ARG,
                "token %d has id %d, expected 0 to %d: the tokenizer does not belong to this model",
                i, f->tokens[i], c->vocab_size - 1);
    int total_len = f->total_len > s->position + f->n ? f->total_len : s->position + f->n;
    enum status st = s->backend->forward(s->state, s->position, total_len, f, &s->impls);
    if (st == OK && !f->unchecked) st = check_results(c, f);
    if (st != OK) return st == ERR_NUMERIC && !f->unchecked ? trace_forward(s, s->position, f) : st;
    s->position += f->n;
    return OK;
}

enum status session_heads(struct session *s, const struct heads_args *a)
{
    assert(a->end > a->first && a->n <= s->plan.chunk);
    return s->backend->heads(s->state, a);
}

enum status session_logits(struct session *s, const float *hidden, float *logits)
{
    return s->backend->logits(s->state, hidden, logits);
}

enum status session_compare(struct session *s, int n, const float *hidden_dense,
    const float *hidden_sparse, const int32_t *next, struct token_metrics *out,
    struct tensor_sums *sums)
{
    return s->backend->compare(s->state, n, hidden_dense, hidden_sparse, next, out, sums);
}

#include "engine/session.h"

#include "base/clock.h"
#include "base/str.h"
#include "engine/session_backend.h"

#include <assert.h>
#include <limits.h>
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
    int n_slots, slot_position[SESSION_SLOTS];
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

struct session_scratch session_scratch_for(const struct weights *w, const struct session_plan *plan,
    const struct sparse_policy *p, int n_threads)
{
    return backend_of(w)->scratch(w, plan, p, n_threads);
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

void session_rewind(struct session *s, int n)
{
    assert(n >= 0 && n <= s->position && !s->plan.once);
    s->position = n;
}

const struct weights *session_weights(const struct session *s) { return s->w; }
struct par *session_par(const struct session *s) { return s->par; }
const char *session_impls(const struct session *s) { return str_get(&s->impls); }

enum status session_fail_numeric(void)
{
    return fail(ERR_NUMERIC,
        "the result of a forward pass holds NaN or infinity; check the weights with `info "
        "--check`");
}

/* What came back to the host. The CPU looks at the stream of every layer beside this; of a device's
 * it is all that is seen. */
static enum status check_results(const struct llama_config *c, const struct forward_args *f)
{
    size_t h = (size_t)c->hidden_size, rows = (size_t)f->n * h;
    bool ok = (!f->hidden || f->hidden_on_device || values_are_finite(f->hidden, rows)) &&
        (!f->last_hidden || values_are_finite(f->last_hidden, h)) &&
        (!f->residual_out || values_are_finite(f->residual_out, rows)) &&
        (!f->last_logits || values_are_finite(f->last_logits, (size_t)c->vocab_size));
    return ok ? OK : session_fail_numeric();
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
    enum status st = stream && !f->carry_in ? trace_layers(s, position, f, stream) : OK;
    s->position = position;
    free(stream);
    return st == OK ? fail(ERR_NUMERIC, "%s", message) : st;
}

static enum status check_call(const struct session *s, const struct forward_args *f)
{
    const struct llama_config *c = &s->w->config;
    if (f->n < 1 || s->position + f->n > s->plan.capacity)
        return fail(ERR_ARG, "%d more tokens behind %d, expected 1 to %d in all", f->n, s->position,
            s->plan.capacity);
    if (s->plan.once &&
        (s->position > 0 || (f->n > s->plan.chunk && !s->w->device_options.offload)))
        return fail(ERR_ARG, "%d more tokens behind %d in a session that keeps no keys and values",
            f->n, s->position);
    for (int i = 0; i < f->n; i++)
        if (f->tokens[i] < 0 || f->tokens[i] >= c->vocab_size)
            return fail(ERR_ARG,
                "token %d has id %d, expected 0 to %d: the tokenizer does not belong to this model",
                i, f->tokens[i], c->vocab_size - 1);
    return OK;
}

static enum status run_call(struct session *s, const struct forward_args *f)
{
    int total_len = f->total_len > s->position + f->n ? f->total_len : s->position + f->n;
    TRY(s->backend->forward(s->state, s->position, total_len, f, &s->impls));
    return f->unchecked ? OK : check_results(&s->w->config, f);
}

/* Some sequences on their way through the layers, all of them through one before the next. */
struct walk {
    struct session *s;
    const struct forward_args *list;
    int first, end;     /* of the list */
    float **carry;      /* [end - first] */
    double *seconds;    /* [end - first] */
    session_done *done; /* NULL: a call that goes on from the session's position */
    void *ctx;
    int *failed;
};

static int first_layer(const struct forward_args *f)
{
    return f->residual_in || f->carry_in ? f->first_layer : 0;
}
static int end_layer(const struct session *s, const struct forward_args *f)
{
    return f->end_layer > 0 ? f->end_layer : s->w->config.n_layers;
}

/* Several chunks of a sequence, several layers that are not there: chunk by chunk all of them would
 * be brought again. */
static bool by_layer(const struct session *s, const struct forward_args *f)
{
    return s->w->device_options.offload && f->n > s->plan.chunk &&
        end_layer(s, f) - first_layer(f) > 1;
}

static enum status walk_layer(const struct walk *w, int i, int layer)
{
    struct session *s = w->s;
    const struct forward_args *f = &w->list[i];
    struct forward_args x = *f;
    int first = first_layer(f), end = end_layer(s, f);
    if (layer < first || layer >= end) return OK;
    bool last = layer + 1 == end;
    assert(!f->carry_in && !f->carry_out);
    x.carry_in = w->carry[i - w->first];
    x.carry_out = last ? NULL : w->carry[i - w->first];
    if (layer > first) x.residual_in = NULL;
    x.first_layer = layer;
    x.end_layer = layer + 1;
    if (f->capture_layer != layer && !(last && f->capture_layer == end)) x.residual_out = NULL;
    if (!last) x.hidden = x.last_hidden = x.last_logits = x.nll = NULL;
    int64_t t0 = clock_ns();
    enum status st = run_call(s, &x);
    w->seconds[i - w->first] += (double)(clock_ns() - t0) * 1e-9;
    *w->failed = i;
    if (st == ERR_NUMERIC && !f->unchecked && w->done) return trace_forward(s, 0, f);
    TRY(st);
    return last && w->done ? w->done(w->ctx, i, w->seconds[i - w->first]) : OK;
}

static enum status walk_all(struct walk *w)
{
    int first = INT_MAX, end = 0;
    for (int i = w->first; i < w->end; i++) {
        const struct forward_args *f = &w->list[i];
        if (first_layer(f) < first) first = first_layer(f);
        if (end_layer(w->s, f) > end) end = end_layer(w->s, f);
    }
    for (int l = first; l < end; l++)
        for (int i = w->first; i < w->end; i++) TRY(walk_layer(w, i, l));
    return OK;
}

static enum status walk(struct walk *w)
{
    struct session *s = w->s;
    size_t n = (size_t)(w->end - w->first), width = (size_t)s->w->config.hidden_size, values = 0;
    float *streams = NULL;
    w->carry = calloc(n, sizeof *w->carry);
    w->seconds = calloc(n, sizeof *w->seconds);
    for (int i = w->first; i < w->end; i++) values += (size_t)w->list[i].n * width;
    enum status st = w->carry && w->seconds
        ? s->backend->carry_open(s->state, &streams, values)
        : fail(ERR_MEMORY, "no memory for a list of %zu sequences", n);
    float *at = streams;
    for (int i = w->first; i < w->end && st == OK; at += (size_t)w->list[i++].n * width)
        w->carry[i - w->first] = at;
    if (st == OK) st = walk_all(w);
    s->backend->carry_close(s->state, &streams, values);
    free(w->carry);
    free(w->seconds);
    return st;
}

static enum status walk_alone(struct session *s, const struct forward_args *f)
{
    int failed;
    struct walk w = {.s = s, .list = f, .end = 1, .failed = &failed};
    return walk(&w);
}

enum status session_forward(struct session *s, const struct forward_args *f)
{
    TRY(check_call(s, f));
    enum status st = by_layer(s, f) ? walk_alone(s, f) : run_call(s, f);
    if (st != OK) return st == ERR_NUMERIC && !f->unchecked ? trace_forward(s, s->position, f) : st;
    s->position += f->n;
    return OK;
}

static enum status one_by_one(struct session *s, const struct forward_args *list, int n,
    session_done *done, void *ctx, int *failed)
{
    for (int i = 0; i < n; i++) {
        int64_t t0 = clock_ns();
        *failed = i;
        session_reset(s);
        TRY(session_forward(s, &list[i]));
        TRY(done(ctx, i, (double)(clock_ns() - t0) * 1e-9));
    }
    return OK;
}

/* Sequences that a backend runs by itself. */
struct results {
    const struct session *s;
    const struct forward_args *list;
    session_done *done;
    void *ctx;
};

static enum status check_done(void *ctx, int i, double seconds)
{
    const struct results *r = ctx;
    if (!r->list[i].unchecked) TRY(check_results(&r->s->w->config, &r->list[i]));
    return r->done(r->ctx, i, seconds);
}

enum status session_forward_each(struct session *s, const struct forward_args *list, int n,
    session_done *done, void *ctx, int *failed)
{
    *failed = 0;
    if (!s->w->device_options.offload && !s->backend->each)
        return one_by_one(s, list, n, done, ctx, failed);
    for (int i = 0; i < n; i++) {
        *failed = i;
        s->position = 0;
        TRY(check_call(s, &list[i]));
    }
    session_reset(s);
    if (s->backend->each) {
        struct results r = {s, list, done, ctx};
        enum status st = s->backend->each(s->state, list, n, check_done, &r, failed, &s->impls);
        return st == ERR_NUMERIC ? trace_forward(s, 0, &list[*failed]) : st;
    }
    size_t room = s->backend->carry_room(s->state),
           width = (size_t)s->w->config.hidden_size * sizeof(float);
    for (int first = 0, end; first < n;
         first = end) { /* one at least, whatever the room: its allocation says if it fails */
        size_t bytes = (size_t)list[first].n * width;
        for (end = first + 1; end < n && bytes + (size_t)list[end].n * width <= room; end++)
            bytes += (size_t)list[end].n * width;
        struct walk w = {.s = s,
            .list = list,
            .first = first,
            .end = end,
            .done = done,
            .ctx = ctx,
            .failed = failed};
        TRY(walk(&w));
    }
    return OK;
}

int session_at_once(const struct session *s, int n_tokens)
{
    enum {
        IN_LINE = 32
    }; /* enough for every GPU to have work, few enough to keep what they count */
    if (!s->w->device_options.offload) return s->backend->each ? IN_LINE : 0;
    size_t one = (size_t)n_tokens * (size_t)s->w->config.hidden_size * sizeof(float),
           n = s->backend->carry_room(s->state) / one;
    return n < 1 ? 1 : n > 1 << 20 ? 1 << 20 : (int)n;
}

enum status session_slots(struct session *s, int n, int *got)
{
    assert(n <= SESSION_SLOTS);
    *got = s->n_slots = 0;
    if (!s->backend->slots || s->plan.once || s->w->device_options.offload) return OK;
    TRY(s->backend->slots(s->state, n, got));
    s->n_slots = *got;
    return OK;
}

enum status session_keep(struct session *s, int slot)
{
    assert(slot >= 0 && slot < s->n_slots);
    TRY(s->backend->keep(s->state, slot));
    s->slot_position[slot] = s->position;
    return OK;
}

enum status session_step(
    struct session *s, const struct session_step *list, int n, int32_t *next, int *failed)
{
    const struct llama_config *c = &s->w->config;
    int32_t positions[SESSION_SLOTS];
    assert(n >= 1 && n <= s->n_slots);
    for (int i = 0; i < n; i++) {
        *failed = i;
        assert(list[i].slot >= 0 && list[i].slot < s->n_slots);
        positions[i] = s->slot_position[list[i].slot];
        if (positions[i] >= s->plan.capacity)
            return fail(ERR_ARG, "one more token behind %d, expected at most %d in all",
                positions[i], s->plan.capacity);
        if (list[i].token < 0 || list[i].token >= c->vocab_size)
            return fail(ERR_ARG, "token id %d, expected 0 to %d", list[i].token, c->vocab_size - 1);
    }
    TRY(s->backend->step(s->state, list, positions, n, next, &s->impls));
    for (int i = 0; i < n; i++) {
        *failed = i;
        if (next[i] < 0)
            return fail(ERR_NUMERIC, "the logits behind token %d hold NaN or infinity; " ADVICE,
                positions[i] + 1);
    }
    for (int i = 0; i < n; i++) s->slot_position[list[i].slot]++;
    return OK;
}

enum status session_heads(struct session *s, const struct heads_args *a)
{
    assert(a->end > a->first && a->n <= s->plan.chunk);
    return s->backend->heads(s->state, a);
}

enum status session_logits(struct session *s, int n, const float *hidden, float *logits)
{
    return s->backend->logits(s->state, n, hidden, logits);
}

enum status session_compare(struct session *s, int n, struct rows_at dense, struct rows_at sparse,
    const int32_t *next, struct token_metrics *out, struct tensor_sums *sums)
{
    return s->backend->compare(s->state, n, dense, sparse, next, out, sums);
}

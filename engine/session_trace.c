/* Where NaN or infinity began. Only a call that has failed comes here, so time does not matter. */
#include "engine/session_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool values_are_finite(const float *x, size_t n)
{
    uint32_t bad = 0; /* by the bits of the exponent: nothing that a compiler could take for granted */
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7f800000) == 0x7f800000;
    }
    return !bad;
}

#define ADVICE "check the weights with `info --check`"

static enum status look_at(const char *what, int layer, const float *x, ptrdiff_t row, ptrdiff_t head, int first, int n_rows,
                           int n_heads, int d)
{
    for (int r = 0; r < n_rows; r++)
        for (int h = 0; h < n_heads; h++)
            if (!values_are_finite(x + (first + r) * row + h * head, (size_t)d))
                return fail(ERR_NUMERIC, "layer %d: %s %d at row %d of the call hold NaN or infinity; " ADVICE, layer, what, h, r);
    return OK;
}

static enum status look(void *ctx, const struct layer_view *view)
{
    (void)ctx;
    const struct attn_args *a = view->attn;
    TRY(look_at("queries of head", view->layer, a->q, a->q_row, a->q_head, 0, a->n_q, a->n_heads, a->head_dim));
    TRY(look_at("keys of kv head", view->layer, a->k, a->k_row, a->k_head, a->q_start, a->n_q, a->n_kv_heads, a->head_dim));
    TRY(look_at("values of kv head", view->layer, a->v, a->v_row, a->v_head, a->q_start, a->n_q, a->n_kv_heads, a->head_dim));
    return look_at("attention outputs of head", view->layer, a->o, a->o_row, a->o_head, 0, a->n_q, a->n_heads, a->head_dim);
}

static enum status look_at_stream(const float *stream, int n, int h, int layer)
{
    for (int r = 0; r < n; r++) {
        if (values_are_finite(stream + (size_t)r * (size_t)h, (size_t)h)) continue;
        if (layer < 0) return fail(ERR_NUMERIC, "the embedding of token %d of the call holds NaN or infinity; " ADVICE, r);
        return fail(ERR_NUMERIC, "layer %d: the residual stream behind o_proj and the MLP holds NaN or infinity at token %d of the call; "
                    ADVICE, layer, r);
    }
    return OK;
}

static enum status trace_layers(struct session *s, int position, const struct forward_args *f, float *stream)
{
    const struct llama_config *c = &session_weights(s)->config;
    int first = f->residual_in ? f->first_layer : 0, end = f->end_layer > 0 ? f->end_layer : c->n_layers;
    struct forward_args x = {.tokens = f->tokens, .n = f->n, .total_len = f->total_len, .policy = f->policy, .residual_out = stream,
                             .unchecked = true, .stop = f->stop, .stop_ctx = f->stop_ctx};
    if (f->residual_in) {
        memcpy(stream, f->residual_in, sizeof *stream * (size_t)f->n * (size_t)c->hidden_size);
    } else {
        x.end_layer = 1;
        TRY(session_forward(s, &x));
    }
    TRY(look_at_stream(stream, f->n, c->hidden_size, first - 1));
    x.hook = look;
    for (int l = first; l < end; l++) {
        x.first_layer = l;
        x.residual_in = f->residual_in || l > first ? stream : NULL;
        x.end_layer = x.capture_layer = l + 1;
        session_rewind(s, position);
        TRY(session_forward(s, &x));
        TRY(look_at_stream(stream, f->n, c->hidden_size, l));
    }
    return OK;
}

enum status session_trace(struct session *s, int position, const struct forward_args *f)
{
    char message[512];
    snprintf(message, sizeof message, "%s", status_message());
    float *stream = malloc(sizeof *stream * (size_t)f->n * (size_t)session_weights(s)->config.hidden_size);
    /* a stream on a device is not ours to copy */
    enum status st = stream && !(f->residual_in && f->on_device) ? trace_layers(s, position, f, stream) : OK;
    session_rewind(s, position);
    free(stream);
    return st == OK ? fail(ERR_NUMERIC, "%s", message) : st;
}

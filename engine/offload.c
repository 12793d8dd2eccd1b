#include "engine/offload.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>

enum { PROBE_DEVICE = 2048, PROBE_CPU = 128 };

static double layer_flop(const struct llama_config *c, double n)
{
    double h = c->hidden_size, q = (double)c->n_heads * c->head_dim,
           kv = (double)c->n_kv_heads * c->head_dim;
    return n * (2 * (2 * h * (q + kv) + 3 * h * c->intermediate_size) + 2 * n * q);
}

static enum status time_layer(
    struct session *s, const int32_t *ids, int n, int layer, float *stream, double *seconds)
{
    int64_t t0 = clock_ns();
    session_reset(s);
    TRY(session_forward(s,
        &(struct forward_args){.tokens = ids,
            .n = n,
            .first_layer = layer,
            .residual_in = layer ? stream : NULL,
            .end_layer = layer + 1,
            .capture_layer = layer + 1,
            .residual_out = stream}));
    *seconds = (double)(clock_ns() - t0) * 1e-9;
    return OK;
}

/* Seconds of a layer that is there, and of bringing one. A device tells the latter; on the CPU it
 * is what a layer that nobody asked for takes longer. */
static enum status probe(
    const struct weights *w, struct session *s, int n, double *work, double *transfer)
{
    int32_t *ids = calloc((size_t)n, sizeof *ids);
    float *stream = malloc(sizeof *stream * (size_t)n * (size_t)w->config.hidden_size);
    double first = 0, cold = 0;
    struct weights_device_info device;
    enum status st = ids && stream ? OK : fail(ERR_MEMORY, "no memory to time a layer");
    if (st == OK)
        st = time_layer(s, ids, n, 0, stream, &first); /* whatever begins with the first call */
    if (st == OK) st = time_layer(s, ids, n, 0, stream, work);
    if (st == OK && !w->on_device)
        st = time_layer(s, ids, n, w->config.n_layers > 2 ? 2 : 0, stream, &cold);
    weights_device_describe(w, &device);
    *transfer = w->on_device ? device.layer_s : cold > *work ? cold - *work : 0;
    free(ids);
    free(stream);
    return st;
}

enum status offload_plan(const struct weights *w, struct par *par, const char *impl, int n_tokens,
    int n_samples, int n_runs, struct offload_plan *out)
{
    struct session *s = NULL;
    double work = 0, transfer = 0;
    int most = w->on_device ? PROBE_DEVICE : PROBE_CPU, n = n_tokens < most ? n_tokens : most;
    *out = (struct offload_plan){
        .layer_bytes = weights_layer_bytes(w, w->on_device ? sizeof(uint16_t) : 0)};
    enum status st = session_open_once(&s, w, par, n, 0, impl);
    if (st == OK) st = probe(w, s, n, &work, &transfer);
    session_close(&s);
    TRY(st);
    out->at_once = n_samples;
    if (n_runs) {
        TRY(session_open_once(
            &s, w, par, n_tokens, 0, impl)); /* what it takes is no longer there for streams */
        int fit = session_at_once(s, n_tokens) / n_runs;
        session_close(&s);
        if (fit < n_samples) out->at_once = fit ? fit : 1;
    }
    if (!n_runs) n_runs = 1;
    int passes = (n_samples + out->at_once - 1) / out->at_once;
    out->transfer_s = passes * w->config.n_layers * transfer;
    out->work_s = (double)n_samples * n_runs * w->config.n_layers * work *
        layer_flop(&w->config, n_tokens) / layer_flop(&w->config, n);
    return OK;
}

static const char *duration(double s, char *out, size_t size)
{
    snprintf(out, size,
        s < 9.95      ? "%.1f s"
            : s < 600 ? "%.0f s"
                      : "%.0f min",
        s < 600 ? s : s / 60);
    return out;
}

void offload_plan_text(const struct offload_plan *p, char *out, size_t size)
{
    char transfer[32], work[32];
    snprintf(out, size,
        "layers of %.2f GiB, two at a time, %d sample%s a pass; %s of transfer %s %s of work",
        (double)p->layer_bytes / 0x1p30, p->at_once, p->at_once == 1 ? "" : "s",
        duration(p->transfer_s, transfer, sizeof transfer),
        p->transfer_s <= p->work_s ? "hidden behind" : "that cannot all hide behind",
        duration(p->work_s, work, sizeof work));
}

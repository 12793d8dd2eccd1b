#include "engine/offload.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { PROBE_DEVICE = 8192, PROBE_CPU = 128, PROBES = 3 };

static double layer_flop(const struct llama_config *c, double n)
{
    double h = c->hidden_size, q = (double)c->n_heads * c->head_dim,
           kv = (double)c->n_kv_heads * c->head_dim;
    return n * (2 * (2 * h * (q + kv) + 3 * h * c->intermediate_size) + 2 * n * q);
}

/* stream: in and out; NULL: neither, only the first layer begins without one. */
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

/* Seconds of a layer that is there: the fastest, since the first ones begin slowly. */
static enum status time_work(struct session *s, const int32_t *ids, int n, double *work)
{
    *work = INFINITY;
    for (int i = 0; i < PROBES; i++) {
        double seconds;
        TRY(time_layer(s, ids, n, 0, NULL, &seconds));
        *work = fmin(*work, seconds);
    }
    return OK;
}

/* On the CPU a layer is brought in what one that nobody asked for takes longer. */
static enum status time_transfer(
    struct session *s, const int32_t *ids, int n, double work, double *transfer)
{
    const struct llama_config *c = &session_weights(s)->config;
    double cold;
    float *stream = malloc(sizeof *stream * (size_t)n * (size_t)c->hidden_size);
    enum status st = stream ? OK : fail(ERR_MEMORY, "no memory to time a layer");
    if (st == OK) st = time_layer(s, ids, n, 0, stream, &cold);
    if (st == OK) st = time_layer(s, ids, n, c->n_layers > 2 ? 2 : 0, stream, &cold);
    if (st == OK) *transfer = fmax(0, cold - work);
    free(stream);
    return st;
}

static enum status probe(
    const struct weights *w, struct session *s, int n, double *work, double *transfer)
{
    int32_t *ids = calloc((size_t)n, sizeof *ids);
    struct weights_device_info device;
    enum status st = ids ? OK : fail(ERR_MEMORY, "no memory to time a layer");
    if (st == OK) st = time_work(s, ids, n, work);
    weights_device_describe(w, &device);
    *transfer = device.brought.last_s;
    if (st == OK && !w->on_device) st = time_transfer(s, ids, n, *work, transfer);
    free(ids);
    return st;
}

enum status offload_plan(const struct weights *w, struct par *par, const char *impl, int n_tokens,
    int chunk, int n_samples, int n_runs, struct offload_plan *out)
{
    const struct llama_config *c = &w->config;
    struct session *s = NULL;
    double work = 0, transfer = 0;
    int most = w->on_device ? PROBE_DEVICE : PROBE_CPU, n = n_tokens < most ? n_tokens : most;
    *out = (struct offload_plan){
        .layer_bytes = weights_layer_bytes(w, w->on_device ? 2 : 0), .at_once = n_samples};
    TRY(session_open_once(&s, w, par, n_runs ? n_tokens : n, chunk, impl));
    enum status st = probe(w, s, n, &work, &transfer);
    if (n_runs) {
        int fit = session_at_once(s, n_tokens) / n_runs;
        if (fit < n_samples) out->at_once = fit ? fit : 1;
    }
    session_close(&s);
    TRY(st);
    int passes = (n_samples + out->at_once - 1) / out->at_once;
    double layers = layer_flop(c, n_tokens) * c->n_layers * (n_runs ? n_runs : 1),
           heads = n_runs ? 4. * n_tokens * c->hidden_size * c->vocab_size : 0;
    out->transfer_s = passes * c->n_layers * transfer;
    out->work_s = n_samples * work * (layers + heads) / layer_flop(c, n);
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

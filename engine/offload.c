#include "engine/offload.h"

#include "base/clock.h"
#include "engine/resident.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_DEVICE = 8192, PROBE_CPU = 128 };
#define SUSTAINED_S .4 /* a GPU that begins to work is faster than one that has worked */

static double layer_flop(const struct llama_config *c, double n)
{
    double h = c->hidden_size, q = (double)c->n_heads * c->head_dim,
           kv = (double)c->n_kv_heads * c->head_dim;
    return n * (2 * (2 * h * (q + kv) + 3 * h * c->intermediate_size) + 2 * n * q);
}

/* What is timed, on n tokens. */
struct probe {
    struct session *s;
    int n;
    int32_t *ids;
    struct resident states; /* [n, hidden], where an evaluation would have them */
    double layer_s, states_s, compare_s, transfer_s;
};

static double since(int64_t t0) { return (double)(clock_ns() - t0) * 1e-9; }

static enum status run_layer(const struct probe *p, const struct forward_args *what)
{
    struct forward_args f = *what;
    f.tokens = p->ids;
    f.n = p->n;
    f.end_layer = f.first_layer + 1;
    f.unchecked = true;
    session_reset(p->s);
    return session_forward(p->s, &f);
}

/* Seconds of a layer that is there: not the first call, which begins with much else. */
static enum status time_layer(struct probe *p)
{
    bool device = session_weights(p->s)->on_device;
    int n = 0;
    TRY(run_layer(p, &(struct forward_args){0}));
    int64_t t0 = clock_ns();
    do {
        TRY(run_layer(p, &(struct forward_args){0}));
        n++;
    } while (device && since(t0) < SUSTAINED_S);
    p->layer_s = since(t0) / n;
    return OK;
}

/* What comes behind the last layer: final states are made, and those of two passes are compared.
 * Half of the rows stand for one pass, half for the other. */
static enum status time_end(struct probe *p)
{
    bool device = session_weights(p->s)->on_device;
    int half = p->n / 2;
    size_t second = (size_t)half * (size_t)session_weights(p->s)->config.hidden_size;
    struct rows_at a = resident_rows(&p->states), b = {a.at + second, a.on_device};
    struct forward_args f = {.hidden = p->states.at, .hidden_on_device = a.on_device};
    struct tensor_sums sums = {0};
    if (!half) return OK;
    struct token_metrics *out = malloc(sizeof *out * (size_t)half);
    if (!out) return fail(ERR_MEMORY, "no memory to time a comparison");
    enum status st = OK;
    for (int run = !device; run < 2 && st == OK; run++) { /* a GPU's first call loads kernels */
        int64_t t0 = clock_ns();
        st = run_layer(p, &f);
        p->states_s = fmax(0, since(t0) - p->layer_s);
        t0 = clock_ns();
        if (st == OK) st = session_compare(p->s, half, a, b, p->ids, out, &sums);
        p->compare_s = since(t0) * p->n / half;
    }
    free(out);
    return st;
}

/* A device knows what its last layer took; on the CPU it is what one that nobody asked for takes
 * longer. */
static enum status time_transfer(struct probe *p)
{
    const struct weights *w = session_weights(p->s);
    struct weights_device_info device;
    weights_device_describe(w, &device);
    p->transfer_s = device.brought.last_s;
    if (w->on_device) return OK;
    int other = w->config.n_layers > 2 ? 2 : 0;
    int64_t t0 = clock_ns();
    TRY(run_layer(p,
        &(struct forward_args){.first_layer = other, .residual_in = other ? p->states.at : NULL}));
    p->transfer_s = fmax(0, since(t0) - p->layer_s);
    return OK;
}

static enum status time_all(struct probe *p, bool compared)
{
    size_t width = (size_t)session_weights(p->s)->config.hidden_size;
    p->ids = calloc((size_t)p->n, sizeof *p->ids);
    enum status st = p->ids ? OK : fail(ERR_MEMORY, "no memory to time a layer");
    if (st == OK)
        st = resident_open(&p->states, session_weights(p->s), (size_t)p->n * width, false,
            "the states of a layer that is timed");
    if (st == OK && !p->states.on) memset(p->states.at, 0, (size_t)p->n * width * sizeof(float));
    if (st == OK) st = time_layer(p);
    if (st == OK) st = time_transfer(p);
    if (st == OK && compared) st = time_end(p);
    free(p->ids);
    resident_close(&p->states);
    return st;
}

enum status offload_plan(const struct weights *w, struct par *par, const struct offload_args *a,
    struct offload_plan *out)
{
    const struct llama_config *c = &w->config;
    int most = w->on_device ? PROBE_DEVICE : PROBE_CPU;
    struct probe p = {.n = a->n_tokens < most ? a->n_tokens : most};
    *out = (struct offload_plan){.layer_bytes = weights_layer_bytes(w, w->on_device ? 2 : 0),
        .at_once = a->n_alone ? 1 : a->n_samples};
    TRY(session_open_once(&p.s, w, par, a->n_runs ? a->n_tokens : p.n, a->chunk, a->impl));
    enum status st = time_all(&p, a->n_runs > 0);
    if (a->n_runs && !a->n_alone) {
        int fit = session_at_once(p.s, a->n_tokens) / a->n_runs;
        if (fit < a->n_samples) out->at_once = fit ? fit : 1;
    }
    session_close(&p.s);
    TRY(st);
    double passes =
               a->n_alone ? (double)a->n_alone : (a->n_samples + out->at_once - 1) / out->at_once,
           layers = c->n_layers * p.layer_s * layer_flop(c, a->n_tokens) / layer_flop(c, p.n),
           longer = (double)a->n_tokens / p.n;
    out->transfer_s = passes * c->n_layers * p.transfer_s;
    out->work_s = a->n_samples *
        ((a->n_runs ? a->n_runs : 1) * (layers + p.states_s * longer) + p.compare_s * longer);
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

#include "harness/measure/latency.h"

#include "base/clock.h"
#include "base/stats.h"
#include "base/xmalloc.h"
#include "harness/measure/measure.h"
#include "harness/measure/progress.h"
#include "harness/measure/stopwatch.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DECODE_STEPS = 16,
    DECODE_TIMES = 12,
    TIMED_ROWS = 3,
    PROFILED = 3, /* passes of each kind whose parts are timed; one where a pass is slow */
    DENSE_PARTS = 3,
    SPARSE_PARTS = 7,
    ROWS_PER_LENGTH = TIMED_ROWS + DENSE_PARTS + SPARSE_PARTS,
    /* the sequence grows while decode is timed */
    MAX_DECODED = DECODE_STEPS * (DECODE_TIMES + STOPWATCH_WARM_UP),
};
#define DRIFT_ALLOWED .10
#define SLOW_PASS_S 5

struct timing {
    const struct evaluate_args *a;
    struct session *session;
    const struct sample *x;
    /* of one sparse pass of the length at hand; in the end of the longest */
    struct head_ledger *ledger;
    bool count;
    bool *skipped; /* [n_samples]: something was left out */
    /* attention calls of those passes, and those that ran dense for want of length */
    int64_t calls, short_calls;
    struct forward_times *times; /* of the profiled passes; NULL while others are timed */
    struct stopwatch *watches;   /* [n_samples] */
    struct latency_record *rows;
    size_t n_rows;
    struct arena **arena;
};

static enum status prefill(struct timing *t, const struct sparse_policy *policy)
{
    session_reset(t->session);
    return session_forward(t->session,
        &(struct forward_args){.tokens = t->x->ids,
            .n = t->x->n,
            .policy = policy,
            .ledger = t->count ? t->ledger : NULL,
            .times = t->times,
            .stop = t->a->stop,
            .stop_ctx = t->a->stop_ctx});
}

static const struct stopwatch_rule *rule_of(const struct timing *t)
{
    return t->a->timing ? t->a->timing : &stopwatch_default;
}

static enum status prefill_dense(void *ctx) { return prefill(ctx, NULL); }

static enum status prefill_sparse(void *ctx)
{
    struct timing *t = ctx;
    return prefill(t, t->a->policy);
}

/* The sequence grows by as many tokens each time, at most MAX_DECODED: the context is that length
 * to within it. Times that do not stand still then are taken on with the prompt anew. */
static enum status decode(void *ctx)
{
    struct timing *t = ctx;
    for (int i = 0; i < DECODE_STEPS; i++)
        TRY(session_forward(t->session, &(struct forward_args){.tokens = t->x->ids, .n = 1}));
    return OK;
}

static enum status time_decode(struct timing *t, struct stopwatch *all)
{
    struct stopwatch_rule rule = *rule_of(t);
    rule.max_seconds = fmin(rule.max_seconds, 5);
    if (rule.max_pairs > DECODE_TIMES) rule.max_pairs = DECODE_TIMES;
    double least = rule.min_seconds;
    rule.min_seconds = 0; /* of one go: there is room for DECODE_TIMES */
    *all = (struct stopwatch){0};
    for (;;) {
        struct stopwatch go;
        TRY(prefill_dense(t));
        TRY(stopwatch_run(&rule, decode, NULL, t, &go));
        for (int i = 0; i < go.n && all->n < STOPWATCH_MAX; i++) all->a[all->n++] = go.a[i];
        all->n_timed = all->n;
        all->seconds += go.seconds;
        if (stopwatch_judge(&rule, all) || all->seconds >= least || all->n == STOPWATCH_MAX)
            return OK;
    }
}

static void add_row(struct timing *t, const char *part, int n_tokens, const double *seconds, int n,
    double scale, const struct stopwatch *w)
{
    double *v = xmalloc(sizeof *v * (size_t)n), sum = 0;
    for (int i = 0; i < n; i++) sum += v[i] = seconds[i] * scale;
    size_t count = (size_t)n;
    t->rows[t->n_rows++] = (struct latency_record){
        .part = part,
        .n_tokens = n_tokens,
        .n = n,
        .min = quantile(v, count, 0),
        .p5 = quantile(v, count, .05),
        .q1 = quantile(v, count, .25),
        .median = quantile(v, count, .5),
        .q3 = quantile(v, count, .75),
        .p95 = quantile(v, count, .95),
        .max = quantile(v, count, 1),
        .mean = sum / n,
        .valid = w->valid,
        .note = w->valid ? NULL : arena_str(t->arena, w->note),
    };
    free(v);
}

/* One part of several passes; nothing for what none of them did. */
static void add_part(struct timing *t, const char *part, const struct forward_times *passes,
    size_t offset, int n, const struct stopwatch *w)
{
    double seconds[PROFILED], most = 0;
    for (int k = 0; k < n; k++) {
        seconds[k] = *(const double *)((const char *)&passes[k] + offset);
        most = fmax(most, seconds[k]);
    }
    if (most > 0) add_row(t, part, t->x->n, seconds, n, 1, w);
}

#define PART(field) offsetof(struct forward_times, field)

/* Where the time goes, from passes of their own: asking for it may slow a pass down, so no timed
 * one is asked. */
static enum status profile_length(struct timing *t, const struct stopwatch *w)
{
    struct forward_times dense[PROFILED] = {0}, sparse[PROFILED] = {0};
    int n = quantile(w->a, (size_t)w->n, .5) > SLOW_PASS_S ? 1 : PROFILED;
    enum status st = OK;
    for (int k = 0; k < n && st == OK; k++) {
        t->times = &dense[k];
        st = prefill_dense(t);
        t->times = &sparse[k];
        if (st == OK) st = prefill_sparse(t);
    }
    t->times = NULL;
    TRY(st);
    add_part(t, "dense_attention", dense, PART(attention_dense_s), n, w);
    add_part(t, "dense_linear", dense, PART(linear_s), n, w);
    add_part(t, "dense_rest", dense, PART(rest_s), n, w);
    add_part(t, "sparse_predict", sparse, PART(predict_s), n, w);
    if (sparse[0].has_split) {
        add_part(t, "sparse_qk", sparse, PART(qk_s), n, w);
        add_part(t, "sparse_pv", sparse, PART(pv_s), n, w);
    } else {
        add_part(t, "sparse_attention", sparse, PART(attention_s), n, w);
    }
    add_part(t, "sparse_attention_dense", sparse, PART(attention_dense_s), n, w);
    add_part(t, "sparse_linear", sparse, PART(linear_s), n, w);
    add_part(t, "sparse_rest", sparse, PART(rest_s), n, w);
    return OK;
}

static enum status count_length(struct timing *t, int i)
{
    const struct llama_config *c = &t->a->model->weights.config;
    memset(t->ledger, 0, sizeof *t->ledger * (size_t)c->n_layers * (size_t)c->n_heads);
    t->count = true;
    enum status st = prefill_sparse(t);
    t->count = false;
    int n_short = 0;
    for (int l = 0; l < c->n_layers; l++) {
        const struct head_ledger *head = &t->ledger[l * c->n_heads];
        n_short += head->calls_dense_short > 0;
        for (int h = 0; h < c->n_heads; h++) t->skipped[i] |= ledger_sparsity(&head[h]) > 0;
    }
    t->short_calls += n_short;
    t->calls += c->n_layers;
    return st;
}

static enum status time_length(struct timing *t, int i)
{
    struct stopwatch *w = &t->watches[i], steps;
    t->x = &t->a->set->samples[i];
    TRY(count_length(t, i));
    TRY(stopwatch_run(rule_of(t), prefill_dense, prefill_sparse, t, w));
    add_row(t, "prefill_dense", t->x->n, w->a, w->n, 1, w);
    add_row(t, "prefill_sparse", t->x->n, w->b, w->n, 1, w);
    TRY(profile_length(t, w));
    TRY(time_decode(t, &steps));
    add_row(t, "decode", t->x->n, steps.a, steps.n, 1.0 / DECODE_STEPS, &steps);
    return OK;
}

/* The first length once more: what moved meanwhile is the machine. */
static enum status check_drift(struct timing *t)
{
    struct stopwatch again;
    t->x = &t->a->set->samples[0];
    TRY(stopwatch_run(rule_of(t), prefill_dense, prefill_sparse, t, &again));
    const struct stopwatch *first = &t->watches[0];
    double before = quantile(first->a, (size_t)first->n, .5),
           after = quantile(again.a, (size_t)again.n, .5);
    if (fabs(after - before) <= DRIFT_ALLOWED * before) return OK;
    char note[128];
    snprintf(note, sizeof note,
        "the first length took %+.0f %% at the end: the machine drifted; quieten it and repeat",
        100 * (after / before - 1));
    for (size_t r = 0; r < t->n_rows; r++) {
        t->rows[r].valid = false;
        if (!t->rows[r].note) t->rows[r].note = arena_str(t->arena, note);
    }
    return OK;
}

double break_even_length(const int *lengths, const double *ratios, int n)
{
    int i = n;
    while (i > 0 && ratios[i - 1] < 1) i--; /* sparse wins from lengths[i] to the end */
    if (i == 0) return 0;
    if (i == n) return INFINITY;
    double above = log(ratios[i - 1]), below = log(ratios[i]);
    double at = above > below ? above / (above - below) : 1;
    return exp(log(lengths[i - 1]) + at * (log(lengths[i]) - log(lengths[i - 1])));
}

static struct metric_record median_metric(const char *name, const double *v, int n)
{
    struct metric_record m = metric_record_empty("overall", name, n);
    size_t count = (size_t)n;
    m.mean = m.median = quantile(v, count, .5); /* the headline of a time is its median */
    m.min = quantile(v, count, 0);
    m.p5 = quantile(v, count, .05);
    m.p95 = quantile(v, count, .95);
    m.max = quantile(v, count, 1);
    m.std_error = stopwatch_noise(v, n) * m.median;
    double half = n > 1 ? student_quantile(.975, n - 1) * m.std_error : NAN;
    m.lo = m.median - half;
    m.hi = m.median + half;
    return m;
}

/* A length within those measured is a number; of one outside only the side it is on is kept
 * (results/records.h). */
static double within(double length, int shortest, int longest, double *at_most, double *more_than)
{
    if (length <= 0) *at_most = shortest;
    else if (isinf(length)) *more_than = longest;
    else return length;
    return NAN;
}

/* sparse / dense, pair by pair. */
static struct metric_record ratio_metric(const struct stopwatch *w)
{
    double ratio[STOPWATCH_MAX];
    for (int i = 0; i < w->n; i++) ratio[i] = w->b[i] / w->a[i];
    return median_metric("latency_ratio", ratio, w->n);
}

/* Where the curve of ratios falls below one for good, and where the curves of their limits do.
 * Lengths at which nothing is skipped are dense against dense, and no evidence. */
static void add_break_even(struct timing *t, struct metric_record *m)
{
    int n = t->a->set->n_samples, from = 0;
    while (from < n && !t->skipped[from]) from++; /* ascending */
    if (from == n) return;
    n -= from;
    int *lengths = xmalloc(sizeof *lengths * (size_t)n);
    double *at = xmalloc(sizeof *at * (size_t)n), *lo = xmalloc(sizeof *lo * (size_t)n),
           *hi = xmalloc(sizeof *hi * (size_t)n);
    for (int i = 0; i < n; i++) {
        struct metric_record r = ratio_metric(&t->watches[from + i]);
        lengths[i] = t->a->set->samples[from + i].n;
        at[i] = r.mean;
        lo[i] = fmax(r.lo, 1e-9);
        hi[i] = r.hi;
    }
    int first = lengths[0], last = lengths[n - 1];
    m->mean = within(break_even_length(lengths, at, n), first, last, &m->max, &m->min);
    m->lo = within(break_even_length(lengths, lo, n), first, last, &m->p5, &m->p1);
    m->hi = within(break_even_length(lengths, hi, n), first, last, &m->p99, &m->p95);
    free(lengths);
    free(at);
    free(lo);
    free(hi);
}

static void add_metrics(struct timing *t, struct evaluation *out)
{
    struct metric_record *m = arena_alloc(t->arena, sizeof *m * 7);
    const struct stopwatch *w = &t->watches[t->a->set->n_samples - 1]; /* the longest */
    struct head_ledger total = {0};
    const struct llama_config *c = &t->a->model->weights.config;
    for (int i = 0; i < c->n_layers * c->n_heads; i++) head_ledger_add(&total, &t->ledger[i]);
    int n = 0;
    /* a time that is not valid stands among the times, with the reason, and nowhere else */
    bool valid = true;
    for (size_t i = 0; i < t->n_rows; i++)
        valid &= t->rows[i].valid || strncmp(t->rows[i].part, "prefill_", 8) != 0;
    if (valid) {
        m[n++] = median_metric("latency_dense", w->a, w->n);
        m[n++] = median_metric("latency_sparse", w->b, w->n);
        m[n++] = ratio_metric(w);
        m[n] = metric_record_empty("overall", "break_even_length", t->a->set->n_samples);
        add_break_even(t, &m[n++]);
    }
    static const char *const names[] = {"sparsity", "qk_sparsity", "pv_sparsity"};
    double values[] = {
        ledger_sparsity(&total), ledger_qk_sparsity(&total), ledger_pv_sparsity(&total)};
    for (int i = 0; i < 3; i++) {
        /* of the prompt whose times stand above */
        m[n] = metric_record_empty("overall", names[i], 1);
        m[n++].mean = values[i];
    }
    out->data.metrics = m;
    out->data.n_metrics = (size_t)n;
    out->data.latencies = t->rows;
    out->data.n_latencies = t->n_rows;
}

enum status latency_measure(const struct evaluate_args *a, struct evaluation *out)
{
    *out = (struct evaluation){0};
    int n = a->set->n_samples, longest = 0;
    const struct llama_config *c = &a->model->weights.config;
    int64_t t0 = clock_ns();
    struct progress progress;
    for (int i = 0; i < n; i++)
        longest = a->set->samples[i].n > longest ? a->set->samples[i].n : longest;
    struct timing t = {.a = a, .arena = &out->arena};
    t.watches = calloc((size_t)n, sizeof *t.watches);
    t.ledger = calloc((size_t)c->n_layers * (size_t)c->n_heads, sizeof *t.ledger);
    t.skipped = arena_alloc(&out->arena, sizeof *t.skipped * (size_t)n);
    memset(t.skipped, 0, sizeof *t.skipped * (size_t)n);
    t.rows = arena_alloc(&out->arena, sizeof *t.rows * (size_t)n * ROWS_PER_LENGTH);
    enum status st =
        t.watches && t.ledger ? OK : fail(ERR_MEMORY, "no memory to time %d lengths", n);
    if (st == OK)
        st = session_open(
            &t.session, &a->model->weights, a->par, longest + MAX_DECODED, a->chunk, a->impl);
    progress_begin(&progress, "speed", "lengths", n, a->quiet);
    for (int i = 0; i < n && st == OK; i++) {
        st = time_length(&t, i);
        progress_update(&progress, i + 1);
    }
    if (st == OK && n > 1) st = check_drift(&t);
    progress_end(&progress);
    if (st == OK) {
        add_metrics(&t, out);
        evaluation_finish(out, a, t.session, t0);
        out->data.run.attention_calls = t.calls;
        out->data.run.dense_fallback_calls = t.short_calls;
    }
    session_close(&t.session);
    free(t.watches);
    free(t.ledger);
    if (st != OK) evaluation_clear(out);
    return st;
}

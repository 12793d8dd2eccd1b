#include "reports/gate_reading.h"

#include "base/str.h"

#include <math.h>
#include <string.h>

static struct gate_reading nothing(char *why, bool not_applicable)
{
    return (struct gate_reading){
        .value = NAN, .lo = NAN, .hi = NAN, .missing = why, .not_applicable = not_applicable};
}

/* A run of the speed suite has no samples, but passes over one prompt, whose sparsity is a count. */
static bool only_times(const struct run_view *v)
{
    return metric_list_find(&v->metrics, "overall", "latency_ratio") && !metric_list_find(&v->metrics, "overall", "kl");
}

static struct gate_reading read_metric(enum gate_part part, const char *metric, const struct run_view *v)
{
    const struct metric_record *m = metric_list_find(&v->metrics, "overall", metric);
    if (!m)
        return nothing(str_format("the run has no metric \"%s\"; choose a suite that measures it", metric), false);
    double shift = part == PART_RATIO_MINUS_ONE ? 1 : 0;
    struct gate_reading r = {.value = m->mean - shift, .lo = m->lo - shift, .hi = m->hi - shift,
                             .expects_interval = !only_times(v), .n_samples = v->samples.n};
    if (part == PART_P1 || part == PART_P99_9)
        r = (struct gate_reading){.value = part == PART_P1 ? m->p1 : m->p99_9, .lo = NAN, .hi = NAN};
    if (isnan(r.value)) return nothing(str_format("the metric \"%s\" has no value", metric), false);
    return r;
}

/* The row of a timed pass at the longest prompt. */
static const struct latency_record *longest(const struct run_view *v, const char *part)
{
    const struct latency_record *best = NULL;
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        if (strcmp(r->part, part) == 0 && (!best || r->n_tokens > best->n_tokens)) best = r;
    }
    return best;
}

/* A speed run has the median of sparse / dense over pairs of passes, with its interval; the times themselves say only
 * whether they may be believed. A run that compared outputs took one time of each sample. */
static struct gate_reading read_latency(const struct run_view *v)
{
    static const char *const parts[] = {"prefill_sparse", "prefill_dense"};
    for (int i = 0; i < 2; i++) {
        const struct latency_record *r = longest(v, parts[i]);
        if (r && !r->valid)
            return nothing(
                str_format("the time of %s at %lld tokens is not valid: %s; measure again on an idle machine", r->part,
                           (long long)r->n_tokens, r->note ? r->note : "no reason stored"),
                false);
    }
    const struct metric_record *ratio = metric_list_find(&v->metrics, "overall", "latency_ratio");
    if (ratio && !isnan(ratio->mean))
        return (struct gate_reading){.value = ratio->mean, .lo = ratio->lo, .hi = ratio->hi, .expects_interval = true,
                                     .of_repeats = true, .n_samples = ratio->n > 0 ? (size_t)ratio->n : 0};
    const struct metric_record *s = metric_list_find(&v->metrics, "overall", "latency_sparse"),
                               *d = metric_list_find(&v->metrics, "overall", "latency_dense");
    if (!s || !d || s->n != d->n)
        return nothing(str_dup("the run timed no dense pass for every sample (hidden states came from the cache): "
                               "evaluate with --cache none, or time with bench"), false);
    return (struct gate_reading){.value = s->mean / d->mean, .lo = s->lo / d->hi, .hi = s->hi / d->lo,
                                 .expects_interval = true, .n_samples = v->samples.n};
}

static struct gate_reading read_memory(const struct run_view *v)
{
    if (v->run->peak_bytes < 0) return nothing(str_dup("the run has no peak memory stored"), false);
    return (struct gate_reading){.value = (double)v->run->peak_bytes / (1024. * 1024.), .lo = NAN, .hi = NAN};
}

static struct gate_reading read_change(enum gate_part part, const char *metric, const struct comparison *c)
{
    for (size_t i = 0; i < c->n_rows; i++) {
        const struct compare_row *row = &c->rows[i];
        if (strcmp(row->name, metric)) continue;
        struct gate_reading r = {.value = row->difference, .lo = row->lo, .hi = row->hi, .expects_interval = true,
                                 .within_floor = row->within_floor, .n_samples = c->n_paired_samples};
        if (part == PART_DROP) {
            r.value = -row->difference;
            r.lo = -row->hi;
            r.hi = -row->lo;
        }
        return r;
    }
    return nothing(str_format("\"%s\" is not in both runs", metric), false);
}

/* Times and memory of two machines say nothing about a change in the program. */
static char *other_machine(const struct run_record *r, const struct run_record *b)
{
    if (!r->machine.cpu || !text_same(r->machine.cpu, b->machine.cpu) || r->machine.n_cores != b->machine.n_cores)
        return str_format("the baseline ran on another machine (%s, %d cores)",
                          b->machine.cpu ? b->machine.cpu : "unknown", b->machine.n_cores);
    if (r->threads != b->threads)
        return str_format("the baseline ran with %d threads, this run with %d", b->threads, r->threads);
    return NULL;
}

static struct gate_reading read_rise(enum gate_part part, const struct run_view *v, const struct run_view *b)
{
    char *other = other_machine(v->run, b->run);
    if (other) return nothing(other, true);
    if (part == PART_MEMORY_RISE) {
        if (v->run->peak_bytes <= 0 || b->run->peak_bytes <= 0)
            return nothing(str_dup("one of the runs has no peak memory stored"), false);
        return (struct gate_reading){
            .value = (double)v->run->peak_bytes / (double)b->run->peak_bytes - 1, .lo = NAN, .hi = NAN};
    }
    const struct metric_record *now = metric_list_find(&v->metrics, "overall", "latency_sparse"),
                               *then = metric_list_find(&b->metrics, "overall", "latency_sparse");
    if (!now || !then) return nothing(str_dup("one of the runs has no sparse times"), false);
    bool repeats = only_times(v);
    return (struct gate_reading){.value = now->mean / then->mean - 1, .lo = now->lo / then->hi - 1,
                                 .hi = now->hi / then->lo - 1, .expects_interval = true, .of_repeats = repeats,
                                 .n_samples = repeats ? (size_t)fmax(0, (double)now->n) : v->samples.n};
}

struct gate_reading gate_read(enum gate_part part, const char *metric, const struct run_view *run,
                              const struct run_view *baseline, const struct comparison *c, const char *why_not)
{
    if (part < PART_LATENCY) return read_metric(part, metric, run);
    if (part == PART_LATENCY) return read_latency(run);
    if (part == PART_MEMORY) return read_memory(run);
    if (!baseline || !c) return nothing(str_dup(why_not), false);
    if (part == PART_RISE || part == PART_DROP) return read_change(part, metric, c);
    return read_rise(part, run, baseline);
}

#include "reports/gate_reading.h"

#include "base/str.h"
#include "reports/gate.h"

#include <math.h>
#include <string.h>

static struct gate_reading nothing(char *why, bool not_applicable)
{
    return (struct gate_reading){
        .value = NAN, .lo = NAN, .hi = NAN, .missing = why, .not_applicable = not_applicable};
}

static struct gate_reading plain_value(double value)
{
    return (struct gate_reading){.kind = READING_VALUE, .value = value, .lo = NAN, .hi = NAN};
}

/* A run of the speed suite has no samples, but passes over one prompt, whose sparsity is a count.
 */
static bool only_times(const struct run_view *v)
{
    return !metric_list_find(&v->metrics, "overall", "kl");
}

static struct gate_reading of_estimate(const struct estimate *e, double bound)
{
    bool interval = !isnan(e->spread);
    double above = estimate_above(e, bound), below = estimate_below(e, bound);
    bool open = above > .025 && below > .025;
    return (struct gate_reading){.kind = interval ? READING_INTERVAL : READING_NO_INTERVAL,
        .value = e->value,
        .lo = e->lo,
        .hi = e->hi,
        .above = above,
        .below = below,
        .would_decide = interval && open ? estimate_samples_to_decide(e, bound) : NAN,
        .n_samples = e->n};
}

/* Dense against dense has every metric at its perfect value; a distance from it below the machine's
 * noise is none. */
static bool near_perfect(const struct noise_list *floors, const char *metric, double value)
{
    static const char *const zero[] = {"kl", "logits_l1", "logits_rmse", "hidden_l1", "delta_p"};
    double perfect = 1, floor = noise_floor(floors, metric);
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++)
        if (!strcmp(zero[i], metric)) perfect = 0;
    return fabs(value - perfect) <= floor;
}

static struct gate_reading read_metric(
    enum gate_part part, const char *metric, double bound, const struct gate_subject *s)
{
    const struct run_view *v = s->run;
    const struct metric_record *m = metric_list_find(&v->metrics, "overall", metric);
    struct estimate_source source = run_view_source(v);
    struct estimate e;
    if (!m)
        return nothing(
            str_format(
                "the run has no metric \"%s\"; choose a suite that measures it, or evaluate again",
                metric),
            false);
    if (only_times(v)) return plain_value(m->mean);
    if (!estimate_metric(&source, metric, &e))
        return nothing(str_format("the run does not hold what \"%s\" is computed from, sample by "
                                  "sample; evaluate again "
                                  "(--replace)",
                           metric),
            false);
    double shift = part == PART_RATIO_MINUS_ONE ? 1 : 0;
    struct gate_reading r = of_estimate(&e, bound + shift);
    r.value -= shift;
    r.lo -= shift;
    r.hi -= shift;
    r.within_floor = near_perfect(s->floors, metric, e.value);
    if (!metric_is_percentile(metric)) return r;
    r.above = metric_above(&source, metric, &e, bound);
    r.below = metric_below(&source, metric, &e, bound);
    r.would_decide = NAN;
    return r;
}

static struct gate_reading read_worst(const struct run_view *v)
{
    double worst = NAN;
    for (size_t i = 0; i < v->samples.n; i++) worst = fmax(worst, v->samples.rows[i].kl_mean);
    return isnan(worst)
        ? nothing(str_dup("the run has no KL divergence by sample; evaluate again"), false)
        : plain_value(worst);
}

/* Times judge only where they were taken to be judged: in pairs, repeated until they stand still,
 * by the suite `speed`. NULL when they may. */
static char *no_time(const struct run_view *v)
{
    if (!only_times(v))
        return str_dup("the times of an evaluation are one pass a sample, taken beside all else it "
                       "does, and judge nothing; "
                       "run the suite speed");
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        if (!r->valid && !strncmp(r->part, "prefill_", 8))
            return str_format(
                "the time of %s at %lld tokens is not valid: %s; measure again on an idle machine",
                r->part, (long long)r->n_tokens, r->note ? r->note : "no reason stored");
    }
    if (!metric_list_find(&v->metrics, "overall", "latency_ratio"))
        return str_dup("the run has no times; run the suite speed");
    return NULL;
}

/* Over the passes: a median and its standard error. */
static struct estimate estimate_of_passes(double value, double std_error, double n)
{
    struct estimate e = {.value = value,
        .std_error = std_error,
        .n = n > 0 ? (size_t)n : 0,
        .at = value,
        .df = n - 1,
        .spread = n > 1 ? std_error : NAN};
    e.lo = estimate_limit(&e, .025);
    e.hi = estimate_limit(&e, .975);
    return e;
}

static struct gate_reading of_passes(double value, double std_error, double n, double bound)
{
    struct estimate e = estimate_of_passes(value, std_error, n);
    struct gate_reading r = of_estimate(&e, bound);
    r.of_repeats = true;
    return r;
}

static struct gate_reading read_latency(const struct run_view *v, double bound)
{
    char *why = no_time(v);
    if (why) return nothing(why, false);
    const struct metric_record *ratio = metric_list_find(&v->metrics, "overall", "latency_ratio");
    return of_passes(ratio->mean, ratio->std_error, (double)ratio->n, bound);
}

static struct gate_reading read_memory(const struct run_view *v)
{
    if (v->run->peak_bytes < 0) return nothing(str_dup("the run has no peak memory stored"), false);
    return plain_value((double)v->run->peak_bytes / (1024. * 1024.));
}

static struct gate_reading read_change(enum gate_part part, const char *metric, double bound,
    const struct gate_subject *s, const struct comparison *c)
{
    const struct compare_row *row = NULL;
    struct estimate_source before = run_view_source(s->baseline), after = run_view_source(s->run);
    struct estimate e;
    double sign = part == PART_DROP ? -1 : 1;
    for (size_t i = 0; i < c->n_rows; i++)
        if (!strcmp(c->rows[i].name, metric)) row = &c->rows[i];
    if (!row) return nothing(str_format("\"%s\" is not in both runs", metric), false);
    if (only_times(s->run)) return plain_value(sign * row->difference);
    if (!estimate_change(&before, &after, metric, &e))
        return nothing(str_format("\"%s\" does not pair: one of the runs does not hold what it is "
                                  "computed from, sample by "
                                  "sample; evaluate again (--replace)",
                           metric),
            false);
    struct gate_reading r = of_estimate(&e, sign * bound);
    r.within_floor = row->within_floor;
    if (part == PART_DROP) {
        struct gate_reading turned = r;
        turned.value = -r.value;
        turned.lo = -r.hi;
        turned.hi = -r.lo;
        turned.above = r.below;
        turned.below = r.above;
        r = turned;
    }
    return r;
}

/* Times and memory of two machines say nothing about a change in the program. */
static char *other_machine(const struct run_record *r, const struct run_record *b)
{
    if (!r->machine.cpu || !text_same(r->machine.cpu, b->machine.cpu) ||
        r->machine.n_cores != b->machine.n_cores)
        return str_format("the baseline ran on another machine (%s, %d cores)",
            b->machine.cpu ? b->machine.cpu : "unknown", b->machine.n_cores);
    if (r->threads != b->threads)
        return str_format(
            "the baseline ran with %d threads, this run with %d", b->threads, r->threads);
    return NULL;
}

static struct gate_reading read_rise(
    enum gate_part part, double bound, const struct run_view *v, const struct run_view *b)
{
    char *other = other_machine(v->run, b->run);
    if (other) return nothing(other, true);
    if (part == PART_MEMORY_RISE) {
        if (v->run->peak_bytes <= 0 || b->run->peak_bytes <= 0)
            return nothing(str_dup("one of the runs has no peak memory stored"), false);
        return plain_value((double)v->run->peak_bytes / (double)b->run->peak_bytes - 1);
    }
    char *why = no_time(v);
    if (!why) why = no_time(b);
    if (why) return nothing(why, false);
    const struct metric_record *now = metric_list_find(&v->metrics, "overall", "latency_sparse"),
                               *then = metric_list_find(&b->metrics, "overall", "latency_sparse");
    if (!now || !then) return nothing(str_dup("one of the runs has no sparse times"), false);
    double ratio = now->mean / then->mean,
           relative = hypot(now->std_error / now->mean, then->std_error / then->mean);
    return of_passes(
        ratio - 1, ratio * relative, (double)(now->n < then->n ? now->n : then->n), bound);
}

struct gate_reading gate_read(enum gate_part part, const char *metric, double bound,
    const struct gate_subject *s, const struct comparison *c, const char *why_not)
{
    if (part <= PART_RATIO_MINUS_ONE) return read_metric(part, metric, bound, s);
    if (part == PART_WORST) return read_worst(s->run);
    if (part == PART_LATENCY) return read_latency(s->run, bound);
    if (part == PART_MEMORY) return read_memory(s->run);
    if (!s->baseline || !c) return nothing(str_dup(why_not), false);
    if (part == PART_RISE || part == PART_DROP) return read_change(part, metric, bound, s, c);
    return read_rise(part, bound, s->run, s->baseline);
}

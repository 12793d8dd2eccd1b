#include "harness/measure/tuning.h"

#include "base/beta.h"

#include <math.h>
#include <stdlib.h>

/* Bounds are tightened in steps of a tenth, down to a quarter of what was asked. */
enum { N_FACTORS = 14 };
static double factor(int i) { return pow(.9, i); }

static int part_of(int asked, int total, int n)
{
    int part = (int)((int64_t)asked * n / total);
    return asked && part < 1 ? 1 : part;
}

enum status tuning_split(struct tuning_samples *want, int n, const char *name)
{
    int total = want->n_tune + want->n_check + want->n_held_out;
    if (n >= total) return OK;
    struct tuning_samples got = {
        0, part_of(want->n_check, total, n), part_of(want->n_held_out, total, n)};
    got.n_tune = n - got.n_check - got.n_held_out;
    if (got.n_tune < 1)
        return fail(ERR_ARG,
            "%s has %d samples; tuning needs one to choose on, and as asked for one to check and "
            "one to be held out: "
            "lower --check, --held-out or --max-length",
            name, n);
    *want = got;
    return OK;
}

static struct tune_args some_samples(const struct tune_args *a, int first, int n)
{
    struct tune_args x = *a;
    x.samples = a->samples + first;
    x.n_samples = n;
    return x;
}

static enum status errors_on(const struct tune_args *a, int first, int n_samples,
    const struct tuned *t, int n, struct head_error **out)
{
    size_t n_cells = (size_t)a->weights->config.n_layers * (size_t)a->weights->config.n_heads;
    struct tune_args x = some_samples(a, first, n_samples);
    *out = malloc(sizeof **out * (size_t)n * (size_t)n_samples * n_cells + 1);
    if (!*out) return fail(ERR_MEMORY, "no memory for the errors of %d samples", n_samples);
    return tune_errors(&x, t, n, *out);
}

static const struct head_error *of_tuned(
    const struct head_error *all, const struct tuned *t, int i, int n_samples)
{
    return all + (size_t)i * (size_t)n_samples * (size_t)t->n_layers * (size_t)t->n_heads;
}

/* Pairs within the bound, as far as the samples can vouch for it: the lower end of the 80 %
 * interval. */
static enum status share_within(const struct tuned *t, const struct head_error *errors,
    int n_samples, double bound, double *out)
{
    int n = t->n_layers * t->n_heads, n_heads = 0;
    int *hits = calloc((size_t)n_samples + 1, sizeof *hits);
    if (!hits) return fail(ERR_MEMORY, "no memory to judge %d samples", n_samples);
    for (int i = 0; i < n; i++) {
        if (!t->heads[i].in_range || !t->heads[i].params.is_sparse) continue;
        n_heads++;
        for (int s = 0; s < n_samples; s++)
            hits[s] += head_error_by(&errors[(size_t)s * (size_t)n + (size_t)i], t->rule) <= bound;
    }
    *out = n_heads ? share_of_clusters(hits, n_samples, n_heads, .8).lo
                   : 1; /* all dense: nothing is over */
    free(hits);
    return OK;
}

/* The loosest factor that holds. Not from the tight end: there so few heads are sparse that they
 * vouch for nothing. */
static enum status choose_factor(const struct tuned *t, const struct head_error *errors,
    int n_samples, double bound, double coverage, int *out)
{
    double best = 0;
    *out = 0;
    for (int f = 0; f < N_FACTORS; f++) {
        double share = 0;
        TRY(share_within(&t[f], of_tuned(errors, t, f, n_samples), n_samples, bound, &share));
        best = fmax(best, share);
        if (share < coverage) continue;
        *out = f;
        return OK;
    }
    return fail(ERR_ARG,
        "--coverage %g: with bounds tightened down to %.2f of %g, at most %.1f %% of the heads on "
        "check samples are "
        "sure to hold it; give more --check samples (%d now) or a lower --coverage",
        coverage, factor(N_FACTORS - 1), bound, 100 * best, n_samples);
}

/* Every factor is a pair of bounds of one tuning, from the same curves; only tuning samples have a
 * say in it. */
static enum status run_covered(const struct setup *fleet, int n_fleet,
    const struct machine_options *m, const struct tune_args *a, struct tuning_samples samples,
    double coverage, struct tuned *out, struct tune_times *times)
{
    int n = a->n_bounds * N_FACTORS;
    struct tune_args x = some_samples(a, 0, samples.n_tune);
    struct tune_bounds *bounds = malloc(sizeof *bounds * (size_t)n);
    struct tuned *all = calloc((size_t)n, sizeof *all);
    struct head_error *errors = NULL;
    enum status st = bounds && all ? OK : fail(ERR_MEMORY, "no memory for %d pairs of bounds", n);
    for (int i = 0; i < n && st == OK; i++)
        bounds[i] = (struct tune_bounds){a->bounds[i / N_FACTORS].l1 * factor(i % N_FACTORS),
            a->bounds[i / N_FACTORS].pv_l1 * factor(i % N_FACTORS)};
    x.bounds = bounds;
    x.n_bounds = n;
    if (st == OK) st = setup_tune(fleet, n_fleet, m, &x, all, times);
    if (st == OK) st = errors_on(a, samples.n_tune, samples.n_check, all, n, &errors);
    for (int b = 0; b < a->n_bounds && st == OK; b++) {
        struct tuned *of_bound = all + b * N_FACTORS;
        int f;
        st = choose_factor(of_bound, of_tuned(errors, all, b * N_FACTORS, samples.n_check),
            samples.n_check, a->bounds[b].pv_l1, coverage, &f);
        if (st != OK) break;
        const struct head_error *chosen = of_tuned(errors, all, b * N_FACTORS + f, samples.n_check);
        out[b] = of_bound[f];
        of_bound[f] = (struct tuned){0};
        int n_cells = out[b].n_layers * out[b].n_heads;
        for (int i = 0; i < n_cells; i++) {
            struct tuned_head *h = &out[b].heads[i];
            h->check = (struct head_error){0};
            for (int s = 0; s < samples.n_check && h->params.is_sparse; s++)
                h->check = head_error_worst(h->check, chosen[s * n_cells + i]);
        }
        out[b].l1 = a->bounds[b].l1;
        out[b].pv_l1 = a->bounds[b].pv_l1;
        out[b].coverage = coverage;
        out[b].tightened = factor(f);
        out[b].num_check = samples.n_check;
    }
    for (int i = 0; i < n && all; i++) tuned_clear(&all[i]);
    free(all);
    free(bounds);
    free(errors);
    return st;
}

enum status tuning_run(const struct setup *fleet, int n_fleet, const struct machine_options *m,
    const struct tune_args *a, struct tuning_samples samples, double coverage, struct tuned *out,
    struct tune_times *times)
{
    int n_seen = samples.n_tune + samples.n_check;
    struct tune_sample *copy = malloc(sizeof *copy * (size_t)(n_seen + samples.n_held_out));
    struct head_error *errors = NULL;
    struct tune_args all = *a, seen;
    *times = (struct tune_times){0};
    for (int b = 0; b < a->n_bounds; b++) out[b] = (struct tuned){0};
    if (!copy) return fail(ERR_MEMORY, "no memory for %d samples", n_seen + samples.n_held_out);
    for (int i = 0; i < n_seen + samples.n_held_out; i++) {
        copy[i] = a->samples[i];
        copy[i].check = i >= samples.n_tune;
    }
    all.samples = copy;
    seen = some_samples(&all, 0, n_seen);
    enum status st = coverage > 0
        ? run_covered(fleet, n_fleet, m, &all, samples, coverage, out, times)
        : setup_tune(fleet, n_fleet, m, &seen, out, times);
    if (st == OK && samples.n_held_out) {
        st = errors_on(&all, n_seen, samples.n_held_out, out, a->n_bounds, &errors);
        for (int b = 0; b < a->n_bounds && st == OK; b++)
            tuned_judge(&out[b], of_tuned(errors, out, b, samples.n_held_out), samples.n_held_out);
    }
    for (int b = 0; b < a->n_bounds && st != OK; b++) tuned_clear(&out[b]);
    free(errors);
    free(copy);
    return st;
}

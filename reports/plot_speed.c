#include "reports/break_even.h"
#include "reports/plot_script.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool has_part(const struct run_view *v, const char *part)
{
    for (size_t i = 0; i < v->latencies.n; i++)
        if (!strcmp(v->latencies.rows[i].part, part)) return true;
    return false;
}

static void add_times(struct plot_script *p, const struct run_view *v, size_t run, const char *part,
    bool dense, size_t *used)
{
    if (!has_part(v, part)) return;
    str_addf(&p->data, "$%s%zu << EOD\n", part, run);
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        if (strcmp(r->part, part)) continue;
        str_addf(&p->data, "%lld %.9g %.9g %.9g %d\n", (long long)r->n_tokens, 1e3 * r->median,
            1e3 * r->q1, 1e3 * r->q3, r->valid);
    }
    str_add(&p->data, "EOD\n");
    struct str label = {0};
    plot_label(v, &label);
    str_add(&label, dense ? ", dense" : ", sparse");
    int series = (int)(2 * run) + !dense;
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        if (!strcmp(r->part, part))
            plot_tip(p, series, (double)r->n_tokens, 1e3 * r->median,
                "%s|%lld tokens: %.4g ms|quartiles %.4g to %.4g ms%s%s", str_get(&label),
                (long long)r->n_tokens, 1e3 * r->median, 1e3 * r->q1, 1e3 * r->q3,
                r->valid ? "" : "|not valid: ",
                r->valid      ? ""
                    : r->note ? r->note
                              : "no reason stored");
    }
    plot_add(p, series, NULL, "$%s%zu using 1:2 with lines lw 1.5 %s lc '%s'", part, run,
        dense ? "dt 2" : "", plot_color(run));
    plot_add(p, series, str_get(&label),
        "$%s%zu using 1:2:3:4 with yerrorbars pt %d ps 0.6 lw 1.2 lc '%s'", part, run,
        dense ? plot_marker_hollow(run) : plot_marker(run), plot_color(run));
    plot_add(p, series, NULL,
        "$%s%zu using 1:($5 == 0 ? $2 : NaN) with points pt 2 ps 1 lw 2 lc '#000000'", part, run);
    str_clear(&label);
    ++*used;
}

/* Automatic ranges of logarithmic axes reach to the next power of ten, and name only those; these
 * reach just past the data and name 1, 2 and 5 of each decade. */
static void add_ranges(struct plot_script *p, const struct run_view *const *views, size_t n)
{
    double shortest = INFINITY, longest = 0, fastest = INFINITY, slowest = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < views[i]->latencies.n; k++) {
            const struct latency_record *r = &views[i]->latencies.rows[k];
            if (strncmp(r->part, "prefill_", 8)) continue;
            shortest = fmin(shortest, (double)r->n_tokens);
            longest = fmax(longest, (double)r->n_tokens);
            fastest = fmin(fastest, 1e3 * r->q1);
            slowest = fmax(slowest, 1e3 * r->q3);
        }
    str_addf(&p->body, "set xrange [%.6g:%.6g]\nset yrange [%.6g:%.6g]\nset ytics (",
        shortest / 1.3, longest * 1.3, fastest / 1.4, slowest * 1.4);
    static const int steps[] = {1, 2, 5};
    for (double decade = pow(10, floor(log10(fastest / 1.4))), used = 0; decade < 1.4 * slowest;
         decade *= 10)
        for (int i = 0; i < 3; i++)
            str_addf(&p->body, "%s%.6g", used++ > 0 ? ", " : "", steps[i] * decade);
    str_add(&p->body, ")\n");
}

static double median_of(const struct run_view *v, const char *part, int64_t n_tokens, bool *valid)
{
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        if (r->n_tokens != n_tokens || strcmp(r->part, part)) continue;
        *valid &= r->valid;
        return r->median;
    }
    return NAN;
}

/* Where two steep lines part by little, their ratio still tells. */
static void add_ratios(struct plot_script *p, const struct run_view *v, size_t run)
{
    size_t n = 0;
    str_addf(&p->data, "$ratio%zu << EOD\n", run);
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        if (strcmp(r->part, "prefill_sparse")) continue;
        bool valid = r->valid;
        double dense = median_of(v, "prefill_dense", r->n_tokens, &valid);
        if (isnan(dense)) continue;
        str_addf(&p->data, "%lld %.6g %d\n", (long long)r->n_tokens, r->median / dense, valid);
        plot_tip(p, (int)(2 * run) + 1, (double)r->n_tokens, r->median / dense,
            "%s|%lld tokens: %.3f of the dense time%s", v->label, (long long)r->n_tokens,
            r->median / dense, valid ? "" : "|not valid");
        n++;
    }
    str_add(&p->data, n ? "EOD\n" : "NaN NaN NaN\nEOD\n");
    plot_add(p, (int)(2 * run) + 1, NULL,
        "$ratio%zu using 1:2 with linespoints pt %d ps 0.6 lw 1.5 lc '%s'", run, plot_marker(run),
        plot_color(run));
    plot_add(p, (int)(2 * run) + 1, NULL,
        "$ratio%zu using 1:($3 == 0 ? $2 : NaN) with points pt 2 ps 1 lw 2 lc '#000000'", run);
}

static bool any_invalid(const struct run_view *const *views, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < views[i]->latencies.n; k++)
            if (!views[i]->latencies.rows[k].valid &&
                str_starts_with(views[i]->latencies.rows[k].part, "prefill_"))
                return true;
    return false;
}

/* An end of the band: a length, or the picture's edge where it lies outside what was measured. */
static char *edge_of(const struct metric_record *m, enum break_even_part part)
{
    double length;
    switch (break_even_read(m, part, &length)) {
    case BREAK_EVEN_WITHIN: return str_format("%.9g", length);
    case BREAK_EVEN_BELOW: return str_dup("graph 0");
    case BREAK_EVEN_ABOVE: return str_dup("graph 1");
    case BREAK_EVEN_UNKNOWN: break;
    }
    return NULL;
}

/* The length from which on sparse is faster, with its interval as a band. Its words stand where
 * there is room. */
static void add_break_even(
    struct plot_script *p, const struct run_view *v, size_t run, bool with_label)
{
    const struct metric_record *m = metric_list_find(&v->metrics, "overall", BREAK_EVEN);
    double at;
    enum break_even_side side = m ? break_even_read(m, BREAK_EVEN_AT, &at) : BREAK_EVEN_UNKNOWN;
    if (side == BREAK_EVEN_UNKNOWN) return;
    char *lo = edge_of(m, BREAK_EVEN_LO), *hi = edge_of(m, BREAK_EVEN_HI);
    if (side == BREAK_EVEN_WITHIN)
        str_addf(&p->body,
            "set arrow from %.9g, graph 0 to %.9g, graph 1 nohead dt 3 lw 1.5 lc '%s'\n", at, at,
            plot_color(run));
    if (lo && hi && strcmp(lo, hi))
        str_addf(&p->body,
            "set object rectangle from %s, graph 0 to %s, graph 1 behind fc '%s' fs transparent "
            "solid 0.1 "
            "noborder\n",
            lo, hi, plot_color(run));
    struct str text = {0};
    str_add(&text, "break-even ");
    break_even_word(m, BREAK_EVEN_AT, &text);
    if (lo && hi) {
        str_add(&text, " (");
        break_even_word(m, BREAK_EVEN_LO, &text);
        str_add(&text, " … ");
        break_even_word(m, BREAK_EVEN_HI, &text);
        str_add(&text, ")");
    }
    if (with_label) /* in the corner where no line comes by: times rise with the length */
        str_addf(&p->body, "set label \"%s\" at graph 0.02, graph %.2f left tc '%s'\n",
            str_get(&text), .94 - .1 * (double)run, plot_color(run));
    str_clear(&text);
    free(lo);
    free(hi);
}

/* Between the few ticks that a low panel of the ratios has room for. */
static double ratio_step(const struct run_view *const *views, size_t n)
{
    double lo = 1, hi = 1;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < views[i]->latencies.n; k++) {
            const struct latency_record *r = &views[i]->latencies.rows[k];
            bool valid = true;
            if (strcmp(r->part, "prefill_sparse")) continue;
            double ratio = r->median / median_of(views[i], "prefill_dense", r->n_tokens, &valid);
            if (!isfinite(ratio)) continue;
            lo = fmin(lo, ratio);
            hi = fmax(hi, ratio);
        }
    double raw = fmax(hi - lo, .02) / 2, unit = pow(10, floor(log10(raw))), steps = raw / unit;
    return unit * (steps < 1.5 ? 1 : steps < 3.5 ? 2 : steps < 7.5 ? 5 : 10);
}

enum status plot_latency(
    const struct plot_out *o, const char *name, const struct run_view *const *views, size_t n)
{
    size_t used = 0, lines = 0;
    for (size_t i = 0; i < n; i++)
        lines += has_part(views[i], "prefill_dense") + has_part(views[i], "prefill_sparse");
    if (!lines)
        return fail(ERR_ARG, "%s: no run has prefill times; measure some with --suite speed", name);
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    bool invalid = any_invalid(views, n);
    struct plot_frame frame = {.left = 48,
        .plot_height = 330,
        .n_key = lines + invalid,
        .xlabel = "prompt length, tokens",
        .ylabel = "prefill, ms (median; bars: quartiles)"};
    plot_frame(&p, &frame);
    double low = 37. / p.height, high = (37. + frame.plot_height) / p.height,
           ratio = low + .28 * (high - low), times = low + .40 * (high - low);
    str_addf(&p.body,
        "set multiplot\nset logscale x 2\nset logscale y\nset bmargin at screen %.5f\nset format x "
        "''\n",
        times);
    add_ranges(&p, views, n);
    for (size_t i = 0; i < n; i++) add_break_even(&p, views[i], i, true);
    for (size_t i = 0; i < n; i++) {
        add_times(&p, views[i], i, "prefill_dense", true, &used);
        add_times(&p, views[i], i, "prefill_sparse", false, &used);
    }
    if (invalid) plot_add(&p, -1, "not valid", "NaN with points pt 2 ps 1 lw 2 lc '#000000'");
    plot_end(&p);
    str_addf(&p.body,
        "unset label\nunset arrow\nunset object\nunset logscale y\nset yrange [*:*]\n"
        "set ytics %.6g\n"
        "set offsets 0,0,graph 0.12,graph 0.12\nset bmargin at screen %.5f\nset tmargin at screen "
        "%.5f\n"
        "set format x '%%g'\nunset key\nset label 902 'sparse / dense' at screen %.5f, screen %.5f "
        "left tc '" PLOT_INK "'\n",
        ratio_step(views, n), low, ratio, 8. / p.width, ratio + 9. / p.height);
    for (size_t i = 0; i < n; i++) add_break_even(&p, views[i], i, false);
    plot_add(&p, -1, NULL, "1 with lines dt 2 lw 1.2 lc '#606060'");
    for (size_t i = 0; i < n; i++) add_ratios(&p, views[i], i);
    plot_end(&p);
    str_add(&p.body, "unset multiplot\n");
    str_add(&p.sql,
        "SELECT run, part, n_tokens, n, median, q1, q3, valid, note FROM latency WHERE part LIKE "
        "'prefill%' AND run IN (");
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ") ORDER BY run, part, n_tokens;");
    return plot_script_run(&p);
}

#include "reports/plot_script.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool has_part(const struct run_view *v, const char *part)
{
    for (size_t i = 0; i < v->latencies.n; i++)
        if (!strcmp(v->latencies.rows[i].part, part)) return true;
    return false;
}

static void add_times(struct plot_script *p, struct str *plots, const struct run_view *v, size_t run,
                      const char *part, bool dense, size_t *used)
{
    if (!has_part(v, part)) return;
    str_addf(&p->data, "$%s%zu << EOD\n", part, run);
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        if (strcmp(r->part, part)) continue;
        str_addf(&p->data, "%lld %.9g %.9g %.9g %d\n", (long long)r->n_tokens, 1e3 * r->median, 1e3 * r->q1,
                 1e3 * r->q3, r->valid);
    }
    str_add(&p->data, "EOD\n");
    struct str label = {0};
    plot_label(v, &label);
    str_add(&label, dense ? ", dense" : ", sparse");
    str_addf(plots,
             "%s$%s%zu using 1:2:3:4 with yerrorbars pt 0 lw 1.5 lc '%s' notitle, "
             "$%s%zu using 1:2 with linespoints pt %d ps 1.1 lw 2 %s lc '%s' title ",
             (*used)++ ? ", " : "", part, run, plot_color(run), part, run,
             dense ? plot_marker_hollow(run) : plot_marker(run), dense ? "dt 2" : "", plot_color(run));
    plot_quote(str_get(&label), plots);
    str_addf(plots, ", $%s%zu using 1:($5 == 0 ? $2 : NaN) with points pt 2 ps 1.6 lw 2 lc '#000000' notitle",
             part, run);
    str_clear(&label);
}

/* Automatic ranges of logarithmic axes reach to the next power of ten; these reach just past the data. */
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
    str_addf(&p->body, "set xrange [%.6g:%.6g]\nset yrange [%.6g:%.6g]\n", shortest / 1.3, longest * 1.3,
             fastest / 1.5, slowest * 1.5);
}

enum status plot_latency(const struct plot_out *o, const char *name, const struct run_view *const *views,
                         size_t n)
{
    struct plot_script p;
    plot_script_init(&p, o, name, 900, 520);
    struct str plots = {0};
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        add_times(&p, &plots, views[i], i, "prefill_dense", true, &used);
        add_times(&p, &plots, views[i], i, "prefill_sparse", false, &used);
    }
    if (!used) {
        plot_script_clear(&p);
        str_clear(&plots);
        return fail(ERR_ARG, "%s: no run has prefill times; measure some with --suite speed", name);
    }
    str_add(&p.body, "set xlabel 'prompt length, tokens'\nset ylabel 'prefill, ms (median, bars: "
                     "quartiles)'\n"
                     "set logscale xy\nset logscale x 2\n");
    add_ranges(&p, views, n);
    for (size_t i = 0; i < n; i++) {
        const struct metric_record *m = metric_list_find(&views[i]->metrics, "overall", "break_even_length");
        if (!m || isnan(m->mean)) continue;
        str_addf(&p.body, "set arrow from %.9g, graph 0 to %.9g, graph 1 nohead dt 3 lw 1.5 lc '%s'\n",
                 m->mean, m->mean, plot_color(i));
        str_addf(&p.body, "set label \"break-even %.0f", m->mean);
        if (!isnan(m->lo)) str_addf(&p.body, " (%.0f … %.0f)", m->lo, m->hi);
        str_addf(&p.body, "\" at %.9g, graph %.2f right offset -0.6,0 tc '%s'\n", m->mean,
                 .95 - .06 * (double)i, plot_color(i));
    }
    str_addf(&p.body, "plot %s, NaN with points pt 2 ps 1.6 lw 2 lc '#000000' title 'not valid'\n",
             str_get(&plots));
    str_clear(&plots);
    str_add(&p.sql, "SELECT run, part, n_tokens, n, median, q1, q3, valid, note FROM latency WHERE part LIKE "
                    "'prefill%' AND "
                    "run IN (");
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ") ORDER BY run, part, n_tokens;");
    return plot_script_run(&p);
}

enum status plot_breakdown(const struct plot_out *o, const char *name, const struct run_view *const *views,
                           size_t n)
{
    static const struct {
        const char *part, *label;
    } parts[] = {
        {"predict", "prediction"},   {"qk", "QK"},    {"pv", "PV"}, {"attention_dense", "dense attention"},
        {"linear", "linear layers"}, {"rest", "rest"}};
    enum { N_PARTS = sizeof parts / sizeof *parts };
    struct plot_script p;
    plot_script_init(&p, o, name, 900, 460);
    size_t bars = 0;
    str_add(&p.data, "$parts << EOD\n");
    for (size_t i = 0; i < n; i++) {
        /* one bar a length that has parts */
        int64_t last = -1;
        for (;;) {
            int64_t length = INT64_MAX;
            for (size_t k = 0; k < views[i]->latencies.n; k++) {
                const struct latency_record *r = &views[i]->latencies.rows[k];
                bool part = false;
                for (int q = 0; q < N_PARTS; q++) part |= !strcmp(r->part, parts[q].part);
                if (part && r->n_tokens > last && r->n_tokens < length) length = r->n_tokens;
            }
            if (length == INT64_MAX) break;
            last = length;
            char *tick = str_format("%s, %lld", views[i]->label, (long long)length);
            plot_quote(tick, &p.data);
            free(tick);
            for (int q = 0; q < N_PARTS; q++) {
                double ms = 0;
                for (size_t k = 0; k < views[i]->latencies.n; k++) {
                    const struct latency_record *r = &views[i]->latencies.rows[k];
                    if (r->n_tokens == length && !strcmp(r->part, parts[q].part)) ms = 1e3 * r->median;
                }
                plot_number(ms, &p.data);
            }
            str_add_char(&p.data, '\n');
            bars++;
        }
    }
    str_add(&p.data, "EOD\n");
    if (!bars) {
        plot_script_clear(&p);
        return fail(ERR_ARG, "%s: no run has times of parts; measure some with --suite speed", name);
    }
    str_addf(&p.body,
             "set style data histograms\nset style histogram rowstacked\nset boxwidth 0.6\n"
             "set style fill pattern border lc '#202020'\nset xrange [-0.7:%.1f]\nset yrange [0:*]\nset "
             "offsets 0,0,graph 0.05,0\n"
             "set ylabel 'median time, ms'\nset xtics scale 0\nplot ",
             (double)bars - .3);
    static const int patterns[] = {3, 1, 2, 7, 4, 5};
    for (int q = 0; q < N_PARTS; q++)
        str_addf(&p.body, "%s$parts using %d:xtic(1) fs pattern %d lc '%s' title '%s'", q ? ", " : "", q + 2,
                 patterns[q], plot_color((size_t)q), parts[q].label);
    str_add(&p.body, "\n");
    str_add(&p.sql, "SELECT run, part, n_tokens, median FROM latency WHERE part NOT LIKE 'prefill%' AND run "
                    "IN (");
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ") ORDER BY run, n_tokens, part;");
    return plot_script_run(&p);
}

#include "reports/plot_script.h"

#include "base/xmalloc.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct axis {
    const char *column, *label;
    double value, lo, hi;
};

static struct axis axis_of(const struct run_record *r, enum frontier_axis axis)
{
    const struct headline *h = &r->headline;
    switch (axis) {
    case FRONTIER_COSINE:
        return (struct axis){"cosine", "logit cosine (higher is better)", h->cosine_mean,
            h->cosine_lo, h->cosine_hi};
    case FRONTIER_KL:
        return (struct axis){
            "kl", "KL divergence, nats (lower is better)", h->kl_mean, h->kl_lo, h->kl_hi};
    default:
        return (struct axis){"ppl_ratio", "perplexity sparse / dense (lower is better)",
            h->ppl_ratio, h->ppl_ratio_lo, h->ppl_ratio_hi};
    }
}

/* Where a logarithmic axis begins; -INFINITY for a linear one, which serves all but KL over more
 * than a decade. A KL of zero then lies on the axis. */
static double log_floor(const struct run_list *runs, const struct frontier_point *points, size_t n,
    enum frontier_axis axis)
{
    double least = INFINITY, most = 0;
    for (size_t i = 0; i < n && axis == FRONTIER_KL; i++) {
        double kl = runs->rows[points[i].run].headline.kl_mean;
        if (!(kl > 0)) continue;
        least = fmin(least, kl);
        most = fmax(most, kl);
    }
    return most > 10 * least ? least / 2.5 : -INFINITY;
}

/* "sparge, tail": what is one series. */
static char *series_of(const struct run_record *r)
{
    return r->rule && r->tuned_hash ? str_format("%s, %s", r->method, r->rule) : str_dup(r->method);
}

struct series {
    char *name;
    bool oracle;
    size_t n_good, n_dominated;
};

static size_t find_series(struct series *list, size_t *n, const struct run_record *r)
{
    char *name = series_of(r);
    for (size_t i = 0; i < *n; i++)
        if (!strcmp(list[i].name, name)) {
            free(name);
            return i;
        }
    list[*n] = (struct series){.name = name, .oracle = run_is_oracle(r)};
    return (*n)++;
}

/* x, y, lo, hi of the points of one series that are dominated, or are not. */
static size_t add_points(struct str *out, const struct run_list *runs,
    const struct frontier_point *points, size_t n, const char *series, bool dominated,
    enum frontier_axis axis, double floor)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        const struct run_record *r = &runs->rows[points[i].run];
        char *name = series_of(r);
        bool mine = !strcmp(name, series) && points[i].dominated == dominated;
        free(name);
        if (!mine) continue;
        struct axis a = axis_of(r, axis);
        plot_number(100 * r->headline.sparsity, out);
        plot_number(fmax(a.value, floor), out);
        plot_number(fmax(isnan(a.lo) ? a.value : a.lo, floor), out);
        plot_number(fmax(isnan(a.hi) ? a.value : a.hi, floor), out);
        str_add_char(out, '\n');
        used++;
    }
    return used;
}

static int compare_x(const void *x, const void *y)
{
    const double *a = x, *b = y;
    return a[0] != b[0] ? (a[0] > b[0] ? 1 : -1) : (a[1] > b[1]) - (a[1] < b[1]);
}

/* The line through what is not dominated. */
static void add_line(struct str *out, const struct run_list *runs,
    const struct frontier_point *points, size_t n, bool oracle, enum frontier_axis axis,
    double floor)
{
    double *xy = xmalloc((n + 1) * 2 * sizeof *xy);
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        const struct run_record *r = &runs->rows[points[i].run];
        if (points[i].dominated || run_is_oracle(r) != oracle) continue;
        xy[2 * used] = 100 * r->headline.sparsity;
        xy[2 * used++ + 1] = fmax(axis_of(r, axis).value, floor);
    }
    qsort(xy, used, 2 * sizeof *xy, compare_x);
    for (size_t i = 0; i < used; i++) str_addf(out, "%.9g %.9g\n", xy[2 * i], xy[2 * i + 1]);
    if (!used) str_add(out, "NaN NaN\n");
    free(xy);
}

static void frontier_body(struct plot_script *p, const struct run_list *runs,
    const struct frontier_point *points, size_t n, enum frontier_axis axis,
    const struct series *series, size_t n_series, double floor)
{
    struct str *b = &p->body;
    bool has_oracle = false;
    str_add(b, "set xlabel 'sparsity, % of attention work left out'\nset ylabel ");
    plot_quote(axis_of(&runs->rows[0], axis).label, b);
    double lowest = INFINITY, highest = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        struct axis a = axis_of(&runs->rows[points[i].run], axis);
        lowest = fmin(lowest, fmin(a.value, a.lo));
        highest = fmax(highest, fmax(a.value, a.hi));
    }
    double pad = highest > lowest ? .08 * (highest - lowest) : .01;
    if (floor > 0)
        str_addf(b, "\nset logscale y\nset format y '%%g'\nset yrange [%.6g:%.6g]\n", floor,
            1.6 * highest);
    else str_addf(b, "\nset yrange [%.6g:%.6g]\n", lowest - pad, highest + pad);
    str_add(b, "set xrange [0:100]\nset xtics 10\n");
    for (size_t i = 0; i < n; i++) {
        const struct run_record *r = &runs->rows[points[i].run];
        has_oracle |= run_is_oracle(r);
        if (!points[i].knee || run_is_oracle(r)) continue;
        double y = fmax(axis_of(r, axis).value, floor);
        str_addf(b, "set label \"knee: run %lld\" at %.9g,%.9g offset 1,%s tc '#202020'\n",
            (long long)r->id, 100 * r->headline.sparsity, y,
            axis == FRONTIER_COSINE ? "0.9" : "-0.9");
        str_addf(b,
            "set object circle at %.9g,%.9g size screen 0.014 fs empty border lc '#202020' lw "
            "1.5\n",
            100 * r->headline.sparsity, y);
    }
    str_add(b, "plot $line with lines lw 1.5 lc '#808080' title 'frontier'");
    if (has_oracle)
        str_add(b, ", $oracle with lines dt 2 lw 1.5 lc '#000000' title 'oracle (limit)'");
    for (size_t s = 0; s < n_series; s++) {
        const char *color = series[s].oracle ? "#000000" : plot_color(s);
        if (series[s].n_dominated)
            str_addf(b, ", $pale%zu using 1:2 with points pt %d ps 0.9 lc '#909090' notitle", s,
                plot_marker_hollow(s));
        if (!series[s].n_good && !series[s].n_dominated) continue;
        if (series[s].n_good)
            str_addf(b, ", $good%zu using 1:2:3:4 with yerrorbars pt 0 lw 1.5 lc '%s' notitle", s,
                color);
        str_addf(b, ", $%s%zu using 1:2 with points pt %d ps 1.1 lc '%s' title ",
            series[s].n_good ? "good" : "none", s, plot_marker(s), color);
        plot_quote(series[s].name, b);
    }
    str_add(b, ", NaN with points pt 6 ps 0.9 lc '#909090' title 'dominated'\n");
}

enum status plot_frontier(const struct plot_out *o, const char *name, const struct run_list *runs,
    enum frontier_axis axis)
{
    struct frontier_point *points;
    size_t n, n_series = 0;
    TRY(query_frontier(runs, axis, &points, &n));
    if (n == 0) {
        free(points);
        return fail(ERR_ARG, "%s: no finished run has both a sparsity and this metric", name);
    }
    double floor = log_floor(runs, points, n, axis);
    struct series *series = xcalloc(n, sizeof *series);
    struct plot_script p;
    plot_script_init(&p, o, name, 900, 560);
    for (size_t i = 0; i < n; i++) find_series(series, &n_series, &runs->rows[points[i].run]);
    for (size_t s = 0; s < n_series; s++) {
        str_addf(&p.data, "$good%zu << EOD\n", s);
        series[s].n_good = add_points(&p.data, runs, points, n, series[s].name, false, axis, floor);
        str_addf(&p.data, "EOD\n$pale%zu << EOD\n", s);
        series[s].n_dominated =
            add_points(&p.data, runs, points, n, series[s].name, true, axis, floor);
        str_addf(&p.data, "EOD\n$none%zu << EOD\nNaN NaN\nEOD\n", s);
    }
    str_add(&p.data, "$line << EOD\n");
    add_line(&p.data, runs, points, n, false, axis, floor);
    str_add(&p.data, "EOD\n$oracle << EOD\n");
    add_line(&p.data, runs, points, n, true, axis, floor);
    str_add(&p.data, "EOD\n");
    frontier_body(&p, runs, points, n, axis, series, n_series, floor);
    const char *column = axis_of(&runs->rows[0], axis).column;
    str_addf(&p.sql,
        "SELECT id, method, rule, sparsity, %s%s, on_%s FROM v_frontier ORDER BY model, dataset, "
        "sparsity;",
        column, axis == FRONTIER_PPL ? "" : "_mean", axis == FRONTIER_PPL ? "ppl" : column);
    for (size_t s = 0; s < n_series; s++) free(series[s].name);
    free(series);
    free(points);
    return plot_script_run(&p);
}

enum status plot_bars(
    const struct plot_out *o, const char *name, const struct run_view *const *views, size_t n)
{
    static const struct {
        const char *metric, *label;
    } bars[] = {{"logits_cosine", "logits\\ncosine"}, {"hidden_cosine", "hidden\\ncosine"},
        {"token_accuracy", "token\\nagreement"}, {"top5_overlap", "top-5\\noverlap"},
        /* \n: for gnuplot to read */
        {"score_sparse", "task\\nscore"}, {"sparsity", "sparsity"}};
    if (n < 1 || n > 6) return fail(ERR_ARG, "%s: bars are for 1 to 6 runs, found %zu", name, n);
    struct plot_script p;
    plot_script_init(&p, o, name, 900, 460);
    str_add(&p.data, "$bars << EOD\n");
    size_t used = 0;
    for (size_t k = 0; k < sizeof bars / sizeof *bars; k++) {
        bool any = false;
        for (size_t i = 0; i < n; i++) any |= !isnan(run_view_metric(views[i], bars[k].metric));
        if (!any) continue;
        str_addf(&p.data, "\"%s\"", bars[k].label);
        for (size_t i = 0; i < n; i++)
            plot_number(run_view_metric(views[i], bars[k].metric), &p.data);
        str_add_char(&p.data, '\n');
        used += strcmp(bars[k].metric, "sparsity") != 0; /* alone it is no picture */
    }
    str_add(&p.data, "EOD\n");
    if (!used) {
        plot_script_clear(&p);
        return fail(ERR_ARG, "%s: the runs have none of the guide's accuracy metrics", name);
    }
    str_add(&p.data,
        "short(x) = x < 0.9995 && x >= 0 ? substr(sprintf('%.3f', x), 2, 5) : sprintf('%.3f', "
        "x)\n");
    str_add(&p.body,
        "set style data histograms\nset style histogram clustered gap 1\nset boxwidth 0.9\n"
        "set yrange [0:1.12]\nset ytics 0.2\nset ylabel 'share, 1 is as dense (sparsity: all "
        "left out)'\n"
        "set xtics scale 0\nset bmargin 3.5\nplot ");
    for (size_t i = 0; i < n; i++) {
        struct str label = {0};
        plot_label(views[i], &label);
        /* patterns keep the bars apart in print; the numbers are written above */
        static const int patterns[] = {3, 7, 2, 5, 6, 1};
        str_addf(&p.body, "%s$bars using %zu:xtic(1) fs pattern %d border lc '%s' lc '%s' title ",
            i ? ", " : "", i + 2, patterns[i], plot_color(i), plot_color(i));
        plot_quote(str_get(&label), &p.body);
        str_clear(&label);
    }
    for (size_t i = 0; i < n; i++)
        str_addf(&p.body,
            ", $bars using ($0+%.4f):%zu:(short($%zu)) with labels offset 0,0.7 font ',%d' notitle",
            ((double)i - .5 * (double)(n - 1)) / (double)(n + 1), i + 2, i + 2, n > 3 ? 9 : 11);
    str_add(&p.body, "\n");
    str_add(&p.sql,
        "SELECT run, name, mean FROM metric WHERE scope = 'overall' AND name IN ('logits_cosine', "
        "'hidden_cosine', 'token_accuracy', 'top5_overlap', 'score_sparse', 'sparsity') AND run IN "
        "(");
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ");");
    return plot_script_run(&p);
}

static const char *label_of(const char *metric)
{
    const struct metric_info *info = metric_info(metric);
    return info ? info->label : metric;
}

/* KL spans many decades; below a millionth of a nat nobody looks, and zero has no place on the
 * axis. */
#define LEAST_KL 1e-6
static void log_kl(double least, struct str *body)
{
    str_addf(body, "\nset logscale y\nset format y '%%g'\nset yrange [%.3g:*]\n",
        fmax(.7 * least, .7e-6));
}

enum status plot_positions(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n, const char *metric)
{
    struct plot_script p;
    plot_script_init(&p, o, name, 900, 480);
    const struct metric_info *info = metric_info(metric);
    bool higher = info && info->better == METRIC_HIGHER; /* the bad tail is the low one */
    double floor = !strcmp(metric, "kl") ? LEAST_KL : -INFINITY, least = INFINITY;
    size_t used = 0;
    struct str plots = {0};
    for (size_t i = 0; i < n; i++) {
        str_addf(&p.data, "$run%zu << EOD\n", i);
        size_t rows = 0;
        for (size_t k = 0; k < views[i]->metrics.n; k++) {
            const struct metric_record *m = &views[i]->metrics.rows[k];
            long long from, to;
            if (strcmp(m->name, metric) || sscanf(m->scope, "position:%lld-%lld", &from, &to) != 2)
                continue;
            str_addf(&p.data, "%.1f", .5 * (double)(from + to));
            least = fmin(least, fmax(m->mean, floor));
            plot_number(fmax(m->mean, floor), &p.data);
            plot_number(fmax(higher ? m->p1 : m->p99, floor), &p.data);
            str_add_char(&p.data, '\n');
            rows++;
        }
        str_add(&p.data, rows ? "EOD\n" : "NaN NaN NaN\nEOD\n");
        if (!rows) continue;
        struct str label = {0};
        plot_label(views[i], &label);
        if (used++) str_add(&plots, ", ");
        str_addf(&plots,
            "$run%zu using 1:2:3 with filledcurves fs transparent solid 0.12 noborder lc '%s' "
            "notitle, "
            "$run%zu using 1:3 with lines dt 3 lw 1.2 lc '%s' notitle, "
            "$run%zu using 1:2 with linespoints pt %d ps 0.9 lw 2 lc '%s' title ",
            i, plot_color(i), i, plot_color(i), i, plot_marker(i), plot_color(i));
        plot_quote(str_get(&label), &plots);
        str_clear(&label);
    }
    if (!used) {
        plot_script_clear(&p);
        str_clear(&plots);
        return fail(ERR_ARG, "%s: no run has %s by position", name, metric);
    }
    struct str ylabel = {0};
    str_addf(&ylabel, "%s: mean, dotted %s", label_of(metric),
        higher ? "1st percentile" : "99th percentile");
    str_add(&p.body, "set xlabel 'token position'\nset ylabel ");
    plot_quote(str_get(&ylabel), &p.body);
    if (!strcmp(metric, "kl")) log_kl(least, &p.body);
    str_addf(&p.body, "\nset xrange [0:*]\nplot %s\n", str_get(&plots));
    str_clear(&ylabel);
    str_clear(&plots);
    str_addf(&p.sql,
        "SELECT run, scope, mean, p1, p99 FROM metric WHERE name = '%s' AND scope LIKE "
        "'position:%%' "
        "AND run IN (",
        metric);
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ") ORDER BY run, ordinal;");
    return plot_script_run(&p);
}

enum status plot_distribution(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n, const char *metric)
{
    struct plot_script p;
    plot_script_init(&p, o, name, 900, 480);
    size_t used = 0;
    double floor = !strcmp(metric, "kl") ? LEAST_KL : -INFINITY;
    struct str plots = {0};
    for (size_t i = 0; i < n; i++) {
        const struct metric_record *m = metric_list_find(&views[i]->metrics, "overall", metric);
        if (!m || isnan(m->median)) continue;
        /* x: standard normal quantile of the share, so that both tails are seen */
        const double x[] = {-3.0902, -2.3263, -1.6449, 0, 1.6449, 2.3263, 3.0902};
        const double y[] = {m->p0_1, m->p1, m->p5, m->median, m->p95, m->p99, m->p99_9};
        str_addf(&p.data, "$run%zu << EOD\n", i);
        for (int k = 0; k < 7; k++) {
            if (isnan(y[k])) continue; /* short runs leave the extreme ones out */
            str_addf(&p.data, "%.4f", x[k]);
            plot_number(fmax(y[k], floor), &p.data);
            str_add_char(&p.data, '\n');
        }
        str_add(&p.data, "EOD\n");
        struct str label = {0};
        plot_label(views[i], &label);
        str_addf(&plots, "%s$run%zu using 1:2 with linespoints pt %d ps 1.1 lw 2 lc '%s' title ",
            used++ ? ", " : "", i, plot_marker(i), plot_color(i));
        plot_quote(str_get(&label), &plots);
        str_clear(&label);
    }
    if (!used) {
        plot_script_clear(&p);
        str_clear(&plots);
        return fail(ERR_ARG, "%s: no run has the distribution of %s", name, metric);
    }
    str_add(&p.body,
        "set xlabel 'share of positions with a lower value'\nset xrange [-3.3:3.3]\n"
        "set xtics ('0.1 %%' -3.0902, '1 %%' -2.3263, '5 %%' -1.6449, '50 %%' 0, '95 %%' "
        "1.6449, "
        "'99 %%' 2.3263, '99.9 %%' 3.0902)\nset ylabel ");
    plot_quote(label_of(metric), &p.body);
    if (!strcmp(metric, "kl")) log_kl(LEAST_KL, &p.body);
    str_addf(&p.body, "\nplot %s\n", str_get(&plots));
    str_clear(&plots);
    str_addf(&p.sql,
        "SELECT run, p0_1, p1, p5, median, p95, p99, p99_9 FROM metric WHERE scope = 'overall' AND "
        "name "
        "= '%s' "
        "AND run IN (",
        metric);
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ");");
    return plot_script_run(&p);
}

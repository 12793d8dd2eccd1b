#include "reports/plot_script.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A logarithmic axis of losses begins here at the least: nobody looks below a millionth, and zero
 * has no place on it. */
#define LEAST 1e-6

/* A value as what was lost, its interval with it: less is better. */
struct loss {
    double value, lo, hi;
};

static struct loss loss_of(const char *metric, double value, double lo, double hi)
{
    const struct metric_info *info = metric_info(metric);
    if (info && info->better == METRIC_HIGHER) return (struct loss){1 - value, 1 - hi, 1 - lo};
    return (struct loss){value, lo, hi};
}

static const char *loss_label(const char *metric)
{
    const struct metric_info *info = metric_info(metric);
    if (!strcmp(metric, "cosine")) return "1 − cosine of the logits";
    if (!strcmp(metric, "kl")) return "KL divergence, nats";
    return info ? info->label : metric;
}

/* Where an axis of these values ends on both sides; what is at or under the low end is drawn on it.
 */
struct range {
    double lo, hi;
    bool below;
};

static void range_take(struct range *r, double value)
{
    if (!isfinite(value)) return;
    if (value < LEAST) r->below = true;
    else r->lo = fmin(r->lo, value);
    r->hi = fmax(r->hi, value);
}

static void range_end(struct range *r)
{
    if (!(r->lo < INFINITY)) r->lo = LEAST;
    r->lo /= 1.6;
    r->hi = fmax(r->hi * 1.5, 4 * r->lo);
}

static size_t longest_label(const struct run_view *const *views, size_t n)
{
    size_t longest = 0;
    for (size_t i = 0; i < n; i++) {
        struct str label = {0};
        plot_label(views[i], &label);
        if (label.len > longest) longest = label.len;
        str_clear(&label);
    }
    return longest;
}

static const struct {
    const char *metric, *words;
    double scale, shift; /* to percent lost */
} losses[] = {{"score_drop", "answers", 100, 0}, {"token_accuracy", "next tokens", -100, 1},
    {"top5_overlap", "of the next five", -100, 1}, {"ppl_ratio", "perplexity", 100, 1},
    {"logits_cosine", "logits’ cosine", -100, 1}, {"hidden_cosine", "hidden cosine", -100, 1}};
enum { N_LOSSES = sizeof losses / sizeof *losses };

static bool loss_read(const struct run_view *v, int k, struct loss *out)
{
    const struct metric_record *m = metric_list_find(&v->metrics, "overall", losses[k].metric);
    if (!m || isnan(m->mean)) return false;
    double a = losses[k].scale * (m->lo - losses[k].shift),
           b = losses[k].scale * (m->hi - losses[k].shift);
    *out = (struct loss){losses[k].scale * (m->mean - losses[k].shift),
        isnan(a) || isnan(b) ? NAN : fmin(a, b), isnan(a) || isnan(b) ? NAN : fmax(a, b)};
    return true;
}

/* Rows from top to bottom, the runs of a row under each other. */
static void add_losses(
    struct plot_script *p, const struct run_view *const *views, size_t n, struct range *range)
{
    size_t rows = 0;
    for (int k = 0; k < N_LOSSES; k++)
        for (size_t i = 0; i < n; i++) {
            struct loss l;
            if (!loss_read(views[i], k, &l)) continue;
            range_take(range, l.value);
            if (l.hi > 0) range->hi = fmax(range->hi, l.hi);
        }
    range->lo = fmax(range->lo, range->hi / 1e5);
    range_end(range);
    plot_log_axis(p, "x", range->lo, range->hi);
    struct str data[6] = {0};
    str_add(&p->body, "set ytics scale 0 (");
    for (int k = 0; k < N_LOSSES; k++) {
        bool any = false;
        for (size_t i = 0; i < n; i++) {
            struct loss l;
            if (!loss_read(views[i], k, &l)) continue;
            any = true;
            double y = (double)rows + .24 * ((double)i - .5 * (double)(n - 1)),
                   x = fmax(l.value, range->lo);
            bool below = l.value < range->lo;
            str_addf(&data[i], "%.9g %.9g %.9g %.9g %d\n", x, y,
                fmax(isnan(l.lo) ? x : l.lo, range->lo), fmax(isnan(l.hi) ? x : l.hi, range->lo),
                below);
            struct str label = {0};
            plot_label(views[i], &label);
            plot_tip(p, (int)i, x, y, "%s|%s lost: %.3g %%%s%s", str_get(&label), losses[k].words,
                l.value, plot_interval(l.lo, l.hi, "%.3g"), below ? "|off the axis" : "");
            str_clear(&label);
        }
        if (any) str_addf(&p->body, "%s\"%s\" %zu", rows ? ", " : "", losses[k].words, rows);
        rows += any;
    }
    str_add(&p->body, rows ? ")\n" : "'' 0)\n");
    for (size_t i = 0; i < n; i++) {
        struct str label = {0};
        plot_label(views[i], &label);
        str_addf(&p->data, "$run%zu << EOD\n%sEOD\n", i,
            data[i].len ? str_get(&data[i]) : "NaN NaN NaN NaN 0\n");
        plot_add(p, (int)i, str_get(&label),
            "$run%zu using 1:2:3:4 with xerrorbars pt %d ps 0.8 lw 1.5 lc '%s'", i, plot_marker(i),
            plot_color(i));
        if (strstr(str_get(&data[i]), " 1\n"))
            plot_add(p, (int)i, NULL,
                "$run%zu using ($5 > 0 ? $1 : NaN):2:('◁') with labels tc '%s' offset -0.9,0", i,
                plot_color(i));
        str_clear(&label);
        str_clear(&data[i]);
    }
}

enum status plot_losses(
    const struct plot_out *o, const char *name, const struct run_view *const *views, size_t n)
{
    if (n < 1 || n > 6) return fail(ERR_ARG, "%s: losses are for 1 to 6 runs, found %zu", name, n);
    size_t rows = 0;
    for (int k = 0; k < N_LOSSES; k++) {
        bool any = false;
        for (size_t i = 0; i < n; i++) any |= loss_read(views[i], k, &(struct loss){0});
        rows += any;
    }
    if (!rows) return fail(ERR_ARG, "%s: the runs have none of the guide's accuracy metrics", name);
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    struct range range = {.lo = INFINITY};
    struct plot_frame frame = {.left = 104,
        .plot_height = (int)(rows * (20 + 10 * n)),
        .n_key = n,
        .xlabel = "lost against dense, % (log scale; bars: 95 %)",
        .ylabel = ""};
    plot_frame(&p, &frame);
    str_addf(&p.body, "set yrange [%.1f:-0.6]\nunset grid\nset grid xtics lt 1 lw 1 lc '#dddddd'\n",
        (double)rows - .4);
    add_losses(&p, views, n, &range);
    str_add(&p.sql,
        "SELECT run, name, mean, lo, hi FROM metric WHERE scope = 'overall' AND name IN "
        "('score_drop', "
        "'token_accuracy', 'top5_overlap', 'ppl_ratio', 'logits_cosine', 'hidden_cosine') AND run "
        "IN (");
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ");");
    return plot_script_run(&p);
}

static bool at_position(
    const struct metric_record *m, const char *metric, long long *from, long long *to)
{
    return !strcmp(m->name, metric) && sscanf(m->scope, "position:%lld-%lld", from, to) == 2;
}

/* The worst hundredth: of a cosine the low end. */
static double worst_percent(const struct metric_record *m)
{
    const struct metric_info *info = metric_info(m->name);
    return info && info->better == METRIC_HIGHER ? 1 - m->p1 : m->p99;
}

static size_t add_positions(struct plot_script *p, const struct run_view *v, size_t run,
    const char *metric, const struct range *range)
{
    size_t rows = 0;
    bool below = false;
    struct str label = {0};
    plot_label(v, &label);
    str_addf(&p->data, "$run%zu << EOD\n", run);
    for (size_t k = 0; k < v->metrics.n; k++) {
        const struct metric_record *m = &v->metrics.rows[k];
        long long from, to;
        if (!at_position(m, metric, &from, &to)) continue;
        struct loss l = loss_of(metric, m->mean, m->lo, m->hi);
        double x = .5 * (double)(from + to), y = fmax(l.value, range->lo), worst = worst_percent(m);
        str_addf(&p->data, "%.1f", x);
        plot_number(y, &p->data);
        plot_number(fmax(isnan(l.lo) ? y : l.lo, range->lo), &p->data);
        plot_number(fmax(isnan(l.hi) ? y : l.hi, range->lo), &p->data);
        plot_number(isnan(worst) ? NAN : fmax(worst, range->lo), &p->data);
        str_addf(&p->data, " %d\n", l.value < range->lo);
        below |= l.value < range->lo;
        plot_tip(p, (int)run, x, y, "%s|tokens %lld to %lld|mean %.3g%s|worst hundredth %.3g",
            str_get(&label), from, to, l.value, plot_interval(l.lo, l.hi, "%.3g"), worst);
        rows++;
    }
    str_add(&p->data, rows ? "EOD\n" : "NaN NaN NaN NaN NaN 0\nEOD\n");
    if (rows) {
        plot_add(p, (int)run, NULL, "$run%zu using 1:5 with lines dt 3 lw 1.2 lc '%s'", run,
            plot_color(run));
        plot_add(
            p, (int)run, NULL, "$run%zu using 1:2 with lines lw 1.5 lc '%s'", run, plot_color(run));
        plot_add(p, (int)run, str_get(&label),
            "$run%zu using 1:2:3:4 with yerrorbars pt %d ps 0.6 lw 1.2 lc '%s'", run,
            plot_marker(run), plot_color(run));
        if (below)
            plot_add(p, (int)run, NULL,
                "$run%zu using 1:($6 > 0 ? $2 : NaN) with points pt 10 ps 0.9 lc '%s'", run,
                plot_color(run));
    }
    str_clear(&label);
    return rows;
}

enum status plot_positions(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n, const char *metric)
{
    struct range range = {.lo = INFINITY};
    size_t with = 0;
    for (size_t i = 0; i < n; i++) {
        bool any = false;
        for (size_t k = 0; k < views[i]->metrics.n; k++) {
            const struct metric_record *m = &views[i]->metrics.rows[k];
            long long from, to;
            if (!at_position(m, metric, &from, &to)) continue;
            any = true;
            range_take(&range, loss_of(metric, m->mean, NAN, NAN).value);
            range.hi = fmax(range.hi, worst_percent(m));
        }
        with += any;
    }
    if (!with) return fail(ERR_ARG, "%s: no run has %s by position", name, metric);
    range_end(&range);
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    char *ylabel = str_format("%s (log scale)", loss_label(metric));
    struct plot_frame frame = {.left = 50,
        .plot_height = 190,
        .n_key = with + 1 + range.below,
        .ylabel = ylabel,
        .xlabel = "token position"};
    plot_frame(&p, &frame);
    free(ylabel);
    plot_log_axis(&p, "y", range.lo, range.hi);
    str_add(&p.body, "set xrange [0:*]\n");
    for (size_t i = 0; i < n; i++) add_positions(&p, views[i], i, metric, &range);
    plot_add(&p, -1, "dotted: the worst hundredth of positions; bars: 95 % of the mean",
        "NaN with lines dt 3 lw 1.2 lc '%s'", PLOT_INK);
    if (range.below)
        plot_add(&p, -1, "below the axis", "NaN with points pt 10 ps 0.9 lc '%s'", PLOT_INK);
    str_addf(&p.sql,
        "SELECT run, scope, mean, lo, hi, p1, p99 FROM metric WHERE name = '%s' AND scope LIKE "
        "'position:%%' "
        "AND run IN (",
        metric);
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ") ORDER BY run, ordinal;");
    return plot_script_run(&p);
}

/* Standard normal quantiles of the shares, so that both tails are seen. */
enum { N_SHARES = 7 };
static const double share_at[N_SHARES] = {-3.0902, -2.3263, -1.6449, 0, 1.6449, 2.3263, 3.0902};
static const char *const share_words[N_SHARES] = {"0.1", "1", "5", "50", "95", "99", "99.9"};

/* What so many percent of the positions lose less than; NAN where a short run leaves an extreme
 * out. */
static void read_quantiles(const struct metric_record *m, double out[N_SHARES])
{
    const double y[N_SHARES] = {m->p0_1, m->p1, m->p5, m->median, m->p95, m->p99, m->p99_9};
    const struct metric_info *info = metric_info(m->name);
    bool turned = info && info->better == METRIC_HIGHER;
    for (int k = 0; k < N_SHARES; k++) out[k] = turned ? 1 - y[N_SHARES - 1 - k] : y[k];
}

enum status plot_distribution(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n, const char *metric)
{
    struct range range = {.lo = INFINITY};
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        const struct metric_record *m = metric_list_find(&views[i]->metrics, "overall", metric);
        double y[N_SHARES];
        if (!m || isnan(m->median)) continue;
        read_quantiles(m, y);
        for (int k = 0; k < N_SHARES; k++) range_take(&range, y[k]);
        used++;
    }
    if (!used) return fail(ERR_ARG, "%s: no run has the distribution of %s", name, metric);
    range_end(&range);
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    char *ylabel = str_format("%s (log scale)", loss_label(metric));
    struct plot_frame frame = {.left = 50,
        .plot_height = 190,
        .n_key = used + range.below,
        .longest_key = longest_label(views, n),
        .ylabel = ylabel,
        .xlabel = "share of positions that lose less, %"};
    plot_frame(&p, &frame);
    free(ylabel);
    plot_log_axis(&p, "y", range.lo, range.hi);
    str_add(&p.body, "set xrange [-3.3:3.3]\nset xtics (");
    for (int k = 0; k < N_SHARES; k++)
        str_addf(&p.body, "%s'%s' %g", k ? ", " : "", share_words[k], share_at[k]);
    str_add(&p.body, ")\n");
    for (size_t i = 0; i < n; i++) {
        const struct metric_record *m = metric_list_find(&views[i]->metrics, "overall", metric);
        double y[N_SHARES];
        if (!m || isnan(m->median)) continue;
        struct str label = {0}, data = {0}, below = {0};
        plot_label(views[i], &label);
        read_quantiles(m, y);
        for (int k = 0; k < N_SHARES; k++) {
            if (isnan(y[k])) continue;
            str_addf(
                y[k] < range.lo ? &below : &data, "%g %.9g\n", share_at[k], fmax(y[k], range.lo));
            plot_tip(&p, (int)i, share_at[k], fmax(y[k], range.lo),
                "%s|%s %% of the positions lose less than|%s %.3g", str_get(&label), share_words[k],
                loss_label(metric), y[k]);
        }
        str_addf(&p.data, "$run%zu << EOD\n%sEOD\n$below%zu << EOD\n%sEOD\n", i,
            data.len ? str_get(&data) : "NaN NaN\n", i, below.len ? str_get(&below) : "NaN NaN\n");
        plot_add(&p, (int)i, str_get(&label),
            "$run%zu using 1:2 with linespoints pt %d ps 0.6 lw 1.5 lc '%s'", i, plot_marker(i),
            plot_color(i));
        if (below.len)
            plot_add(&p, (int)i, NULL, "$below%zu using 1:2 with points pt 10 ps 0.9 lc '%s'", i,
                plot_color(i));
        str_clear(&label);
        str_clear(&data);
        str_clear(&below);
    }
    if (range.below)
        plot_add(&p, -1, "below the axis", "NaN with points pt 10 ps 0.9 lc '%s'", PLOT_INK);
    str_addf(&p.sql,
        "SELECT run, p0_1, p1, p5, median, p95, p99, p99_9 FROM metric WHERE scope = 'overall' AND "
        "name "
        "= '%s' AND run IN (",
        metric);
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ");");
    return plot_script_run(&p);
}

#include "reports/axes.h"
#include "reports/plot_script.h"

#include "base/xmalloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is lost, so that less is better on every axis and the good end is where the axis ends. */
struct loss {
    const char *column, *label, *format;
    double value, lo, hi;
};

static struct loss loss_of(const struct run_record *r, enum frontier_axis axis)
{
    const struct headline *h = &r->headline;
    switch (axis) {
    case FRONTIER_COSINE:
        return (struct loss){"cosine", "1 − cosine of the logits", "%.3g", 1 - h->cosine_mean,
            1 - h->cosine_hi, 1 - h->cosine_lo};
    case FRONTIER_KL:
        return (struct loss){"kl", "KL divergence, nats", "%.3g", h->kl_mean, h->kl_lo, h->kl_hi};
    default:
        return (struct loss){"ppl_ratio", "perplexity above dense, %", "%.3g",
            100 * (h->ppl_ratio - 1), 100 * (h->ppl_ratio_lo - 1), 100 * (h->ppl_ratio_hi - 1)};
    }
}

/* One line of the picture: a method and rule, on one data set. */
struct series {
    char *name;
    bool oracle;
    struct run_record *rows; /* the runs' own, so that its frontier is found as any other's */
    size_t n;
};

struct chart {
    enum frontier_axis axis;
    const struct run_list *runs;
    struct run_axes axes;
    struct series *series;
    size_t n_series;
    double lo, hi;           /* of the axis */
    bool logarithmic, below; /* below: something lies at or under its low end */
    size_t longest;          /* name */
};

static char *series_name(const struct chart *c, const struct run_record *r)
{
    struct str name = {0};
    run_method_name(r, &name);
    if (run_is_oracle(r)) str_add(&name, " (limit)");
    for (size_t i = 0; i < c->runs->n; i++)
        if (!text_same(c->runs->rows[i].dataset.fingerprint, r->dataset.fingerprint)) {
            const struct run_axis *length = run_axes_get(&c->axes, "max_length");
            if (length && !run_axes_get(&c->axes, "data"))
                str_addf(&name, ", %d tokens", r->max_length);
            else str_addf(&name, ", %s", r->dataset.name);
            break;
        }
    char *copy = str_dup(str_get(&name));
    str_clear(&name);
    return copy;
}

static void add_run(struct chart *c, const struct run_record *r)
{
    char *name = series_name(c, r);
    size_t i = 0;
    while (i < c->n_series && strcmp(c->series[i].name, name)) i++;
    if (i == c->n_series) {
        c->series[c->n_series++] = (struct series){.name = name,
            .oracle = run_is_oracle(r),
            .rows = xcalloc(c->runs->n, sizeof *c->series->rows)};
        if (strlen(name) > c->longest) c->longest = strlen(name);
        name = NULL;
    }
    free(name);
    c->series[i].rows[c->series[i].n++] = *r;
}

static void find_range(struct chart *c)
{
    double least = INFINITY, most = 0, highest = 0;
    for (size_t s = 0; s < c->n_series; s++)
        for (size_t i = 0; i < c->series[s].n; i++) {
            struct loss l = loss_of(&c->series[s].rows[i], c->axis);
            if (l.value > 0) least = fmin(least, l.value);
            most = fmax(most, l.value);
            highest = fmax(highest, fmax(l.value, isnan(l.hi) ? l.value : l.hi));
        }
    c->logarithmic = most > 0 && (c->axis == FRONTIER_COSINE || most > 10 * least);
    c->lo = c->logarithmic ? least / 1.8 : 0;
    /* of few texts an interval may end anywhere: its bar leaves the picture, the points do not
     * shrink */
    highest = fmin(highest, most * (c->logarithmic ? 30 : 3));
    c->hi = highest > 0 ? highest * (c->logarithmic ? 1.4 : 1.08) : 1;
    for (size_t s = 0; s < c->n_series; s++)
        for (size_t i = 0; i < c->series[s].n; i++)
            c->below |= loss_of(&c->series[s].rows[i], c->axis).value < c->lo;
}

static int compare_x(const void *x, const void *y)
{
    const double *a = x, *b = y;
    return a[0] != b[0] ? (a[0] > b[0] ? 1 : -1) : (a[1] > b[1]) - (a[1] < b[1]);
}

static void add_tip(struct plot_script *p, const struct chart *c, int s, const struct run_record *r,
    double y, const char *place)
{
    struct str label = {0};
    const struct headline *h = &r->headline;
    struct loss l = loss_of(r, c->axis);
    run_axes_label(&c->axes, r, NULL, NULL, &label);
    plot_tip(p, s, 100 * h->sparsity, y, "run %lld: %s|sparsity %.1f %%|%s %.3g%s%s",
        (long long)r->id, str_get(&label), 100 * h->sparsity, l.label, l.value,
        plot_interval(l.lo, l.hi, l.format), place);
    str_clear(&label);
}

/* The points of a series, its frontier first; where the two differ the others are pale. */
static enum status add_series(struct plot_script *p, struct chart *c, size_t s)
{
    struct series *series = &c->series[s];
    struct run_list own = {series->rows, series->n, NULL};
    struct frontier_point *points;
    size_t n, n_line = 0, n_pale = 0, n_below = 0;
    TRY(query_frontier(&own, c->axis, &points, &n));
    double *line = xmalloc((n + 1) * 2 * sizeof *line);
    struct str good = {0}, pale = {0}, below = {0};
    for (size_t i = 0; i < n; i++) {
        const struct run_record *r = &series->rows[points[i].run];
        struct loss l = loss_of(r, c->axis);
        double x = 100 * r->headline.sparsity, y = fmax(l.value, c->lo);
        if (l.value < c->lo) {
            str_addf(&below, "%.9g %.9g\n", x, y);
            n_below++;
        }
        struct str *to = points[i].dominated ? &pale : &good;
        if (points[i].dominated) n_pale++;
        else {
            line[2 * n_line] = x;
            line[2 * n_line++ + 1] = y;
        }
        str_addf(to, "%.9g", x);
        plot_number(y, to);
        plot_number(fmax(isnan(l.lo) ? y : l.lo, c->lo), to);
        plot_number(fmax(isnan(l.hi) ? y : l.hi, c->lo), to);
        str_add_char(to, '\n');
        add_tip(p, c, (int)s, r, y,
            points[i].dominated   ? "|another of this method is sparser and loses less"
                : l.value < c->lo ? "|below the axis"
                : points[i].knee  ? "|the knee of its frontier"
                                  : "");
    }
    qsort(line, n_line, 2 * sizeof *line, compare_x);
    str_addf(&p->data, "$line%zu << EOD\n", s);
    for (size_t i = 0; i < n_line; i++)
        str_addf(&p->data, "%.9g %.9g\n", line[2 * i], line[2 * i + 1]);
    str_addf(&p->data, "%sEOD\n$good%zu << EOD\n%sEOD\n", n_line ? "" : "NaN NaN\n", s,
        good.len ? str_get(&good) : "NaN NaN NaN NaN\n");
    const char *color = series->oracle ? "#000000" : plot_color(s);
    if (n_line > 1)
        plot_add(p, (int)s, NULL, "$line%zu using 1:2 with lines lw 1.2 %s lc '%s'", s,
            series->oracle ? "dt 2" : "", color);
    if (n_pale) {
        str_addf(&p->data, "$pale%zu << EOD\n%sEOD\n", s, str_get(&pale));
        plot_add(p, (int)s, NULL, "$pale%zu using 1:2 with points pt %d ps 0.55 lw 1 lc '%s'", s,
            plot_marker_hollow(s), PLOT_PALE);
    }
    plot_add(p, (int)s, series->name,
        "$good%zu using 1:2:3:4 with yerrorbars pt %d ps 0.6 lw 1.2 lc '%s'", s, plot_marker(s),
        color);
    if (n_below) {
        str_addf(&p->data, "$below%zu << EOD\n%sEOD\n", s, str_get(&below));
        plot_add(
            p, (int)s, NULL, "$below%zu using 1:2 with points pt 10 ps 1 lw 1.2 lc '%s'", s, color);
    }
    str_clear(&good);
    str_clear(&pale);
    str_clear(&below);
    free(line);
    free(points);
    return OK;
}

/* The sparsity that data begin and end at, in tens. */
static void add_x_range(struct plot_script *p, const struct chart *c)
{
    double least = 100, most = 0;
    for (size_t s = 0; s < c->n_series; s++)
        for (size_t i = 0; i < c->series[s].n; i++) {
            double x = 100 * c->series[s].rows[i].headline.sparsity;
            least = fmin(least, x);
            most = fmax(most, x);
        }
    double lo = fmax(0, 10 * floor((least - 1) / 10)), hi = fmin(100, 10 * ceil((most + 1) / 10));
    str_addf(&p->body, "set xrange [%.6g:%.6g]\n", least < 3 ? -2 : lo, hi > 99 ? 102 : hi);
}

static enum status draw(const struct plot_out *o, const char *name, struct chart *c)
{
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    find_range(c);
    struct loss l = loss_of(&c->runs->rows[0], c->axis);
    char *ylabel =
        str_format("%s%s, less is better", l.label, c->logarithmic ? " (log scale)" : "");
    struct plot_frame frame = {.left = 52,
        .plot_height = 230,
        .n_key = c->n_series + c->below,
        .longest_key = c->longest,
        .xlabel = "sparsity: attention work left out, %",
        .ylabel = ylabel};
    plot_frame(&p, &frame);
    free(ylabel);
    add_x_range(&p, c);
    if (c->logarithmic) plot_log_axis(&p, "y", c->lo, c->hi);
    else str_addf(&p.body, "set yrange [%.6g:%.6g]\n", c->lo, c->hi);
    enum status st = OK;
    for (size_t s = 0; s < c->n_series && st == OK; s++) st = add_series(&p, c, s);
    if (c->below)
        plot_add(&p, -1, "below the axis", "NaN with points pt 10 ps 1 lc '%s'", PLOT_INK);
    str_addf(&p.sql,
        "SELECT id, method, rule, sparsity, %s%s, on_%s FROM v_frontier ORDER BY model, dataset, "
        "sparsity;",
        l.column, c->axis == FRONTIER_PPL ? "" : "_mean",
        c->axis == FRONTIER_PPL ? "ppl" : l.column);
    if (st == OK) return plot_script_run(&p);
    plot_script_clear(&p);
    return st;
}

enum status plot_frontier(const struct plot_out *o, const char *name, const struct run_list *runs,
    enum frontier_axis axis)
{
    struct chart c = {.axis = axis, .runs = runs};
    struct frontier_point *points;
    size_t n;
    TRY(query_frontier(runs, axis, &points, &n));
    enum status st = OK;
    if (n == 0) st = fail(ERR_ARG, "%s: no finished run has both a sparsity and this metric", name);
    if (st == OK) {
        run_axes_find(runs, &c.axes);
        c.series = xcalloc(n, sizeof *c.series);
        for (size_t i = 0; i < n; i++) add_run(&c, &runs->rows[points[i].run]);
        st = draw(o, name, &c);
    }
    for (size_t s = 0; s < c.n_series; s++) {
        free(c.series[s].name);
        free(c.series[s].rows);
    }
    free(c.series);
    free(points);
    return st;
}

#include "reports/axes.h"
#include "reports/plot_script.h"

#include "base/xmalloc.h"
#include "results/columns.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct value {
    double at, lo, hi;
};

static struct value value_of(const struct run_record *r, enum sweep_value what)
{
    const struct headline *h = &r->headline;
    if (what == SWEEP_SPARSITY) return (struct value){100 * h->sparsity, NAN, NAN};
    return (struct value){h->kl_mean, h->kl_lo, h->kl_hi};
}

static const char *value_name(enum sweep_value what)
{
    return what == SWEEP_SPARSITY ? "sparsity, %" : "KL, nats";
}

static void value_words(const struct value *v, enum sweep_value what, struct str *out)
{
    if (what == SWEEP_SPARSITY) str_addf(out, "sparsity %.1f %%", v->at);
    else str_addf(out, "KL %.3g%s", v->at, plot_interval(v->lo, v->hi, "%.3g"));
}

/* The range of a value over all runs, so that pictures of one sweep can be compared; false without
 * any. */
static bool find_range(const struct run_list *runs, enum sweep_value what, double *lo, double *hi)
{
    *lo = INFINITY;
    *hi = 0;
    for (size_t i = 0; i < runs->n; i++) {
        struct value v = value_of(&runs->rows[i], what);
        if (runs->rows[i].status != RUN_DONE || isnan(v.at) || run_is_dense(&runs->rows[i]))
            continue;
        if (v.at > 0) *lo = fmin(*lo, v.at);
        *hi = fmax(*hi, v.at);
    }
    return *hi > 0;
}

static void add_ticks(struct plot_script *p, char which, const struct run_axis *a)
{
    str_addf(&p->body, "set %ctics scale 0 (", which);
    for (size_t i = 0; i < a->n; i++) {
        struct str value = {0};
        run_axis_value(a, a->level[i], &value);
        str_add(&p->body, i ? ", " : "");
        plot_quote(str_get(&value), &p->body);
        str_addf(&p->body, " %zu", i);
        str_clear(&value);
    }
    str_add(&p->body, ")\n");
}

static void add_cells(struct plot_script *p, const struct run_axes *axes, const struct run_axis *x,
    const struct run_axis *y, const struct run_record *like, enum sweep_value what, double floor,
    double middle)
{
    str_add(&p->data, "$cells << EOD\n");
    size_t n = 0;
    for (size_t i = 0; i < axes->runs->n; i++) {
        const struct run_record *r = &axes->runs->rows[i];
        int at_x = run_axis_level(x, r), at_y = run_axis_level(y, r);
        struct value v = value_of(r, what);
        if (r->status != RUN_DONE || at_x < 0 || at_y < 0 || isnan(v.at) ||
            !run_axes_same(axes, r, like, x, y))
            continue;
        struct str label = {0}, words = {0};
        run_axes_label(axes, r, NULL, NULL, &label);
        value_words(&v, what, &words);
        double scaled = what == SWEEP_KL ? log10(fmax(v.at, floor)) : v.at;
        /* shown without the zero that all of them begin with */
        char *shown = what == SWEEP_KL ? str_format(v.at < .0995 ? "%.3f" : "%.2f", v.at)
                                       : str_format("%.0f", v.at);
        str_addf(&p->data, "%d %d %.6g \"%s\" %d\n", at_x, at_y, scaled,
            what == SWEEP_KL && v.at < 1 ? shown + 1 : shown, scaled < middle);
        plot_tip(p, -1, at_x, at_y, "run %lld: %s|%s", (long long)r->id, str_get(&label),
            str_get(&words));
        free(shown);
        str_clear(&label);
        str_clear(&words);
        n++;
    }
    str_add(&p->data, n ? "EOD\n" : "NaN NaN NaN \"\" 0\nEOD\n");
}

enum status plot_sweep_map(const struct plot_out *o, const char *name, const struct run_axes *axes,
    const struct run_axis *x, const struct run_axis *y, const struct run_record *like,
    enum sweep_value what)
{
    double lo, hi;
    if (!x || !y || x->n < 2 || y->n < 2 || !find_range(axes->runs, what, &lo, &hi))
        return fail(ERR_ARG, "%s: no two settings vary over two values each", name);
    if (what == SWEEP_SPARSITY) lo = 0, hi = 10 * ceil(hi / 10);
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_SMALL, 0);
    char *xlabel = str_format("%s (down: %s)", x->name, y->name), ends[2][16];
    bool log_scale = what == SWEEP_KL;
    struct plot_frame frame = {.left = 40,
        .plot_height = 30 *
            (int)(y->n < 3     ? 3
                    : y->n > 8 ? 8
                               : y->n),
        .below = 1,
        .xlabel = xlabel,
        .ylabel = value_name(what)};
    plot_frame(&p, &frame);
    free(xlabel);
    double from = log_scale ? log10(lo) : lo, to = log_scale ? log10(hi) : hi;
    if (!(to > from)) to = from + 1;
    snprintf(ends[0], sizeof ends[0], "%.2g", lo);
    snprintf(ends[1], sizeof ends[1], "%.2g", hi);
    plot_color_scale(&p, from, to, ends[0], ends[1]);
    str_addf(&p.body,
        "unset grid\nset style fill solid 1 border lc '#ffffff'\nset xrange [-0.5:%.1f]\nset "
        "yrange [%.1f:-0.5]\n"
        "set object 1 rectangle from graph 0,0 to graph 1,1 behind fc '" PLOT_EMPTY
        "' fs solid noborder\n",
        (double)x->n - .5, (double)y->n - .5);
    add_ticks(&p, 'x', x);
    add_ticks(&p, 'y', y);
    add_cells(&p, axes, x, y, like, what, lo, from + PLOT_HALF_DARK * (to - from));
    plot_add(&p, -1, NULL, "$cells using 1:2:(0.5):(0.5):3 with boxxyerror fc palette");
    if (x->n <= 4) {
        plot_add(
            &p, -1, NULL, "$cells using 1:2:($5 > 0 ? strcol(4) : '') with labels tc '#ffffff'");
        plot_add(
            &p, -1, NULL, "$cells using 1:2:($5 > 0 ? '' : strcol(4)) with labels tc '#000001'");
    }
    str_addf(&p.sql,
        "SELECT id, %s, %s, sparsity, kl_mean FROM v_runs WHERE status = 'done' ORDER BY id;",
        x->column ? x->column->name : "dataset", y->column ? y->column->name : "dataset");
    return plot_script_run(&p);
}

/* What tells lines apart: their method, or where all have one, the first other setting of few
 * levels. */
struct groups {
    const struct run_axis *axis; /* NULL: the method */
    char **names;
    size_t n;
};

static size_t group_index(struct groups *g, const struct run_record *r)
{
    struct str name = {0};
    if (!g->axis) run_method_name(r, &name);
    else {
        str_addf(&name, "%s ", g->axis->name);
        run_axis_value(g->axis, r, &name);
    }
    size_t i = 0;
    while (i < g->n && strcmp(g->names[i], str_get(&name))) i++;
    if (i == g->n) g->names[g->n++] = str_dup(str_get(&name));
    str_clear(&name);
    return i;
}

static bool has_line(const struct run_record *r, const struct run_axis *x)
{
    return r->status == RUN_DONE && run_axis_level(x, r) >= 0 && !run_is_dense(r);
}

static size_t find_groups(struct groups *g, const struct run_axes *axes, const struct run_axis *x,
    const struct run_axis *follows)
{
    enum { FEW = 6 };
    size_t n = 0;
    for (int twice = 0; twice < 2; twice++) {
        n = 0;
        for (size_t i = 0; i < axes->runs->n; i++)
            if (has_line(&axes->runs->rows[i], x)) group_index(g, &axes->runs->rows[i]), n++;
        if (g->n > 1 || twice) break;
        for (size_t i = 0; i < axes->n && !g->axis; i++)
            if (&axes->at[i] != x && &axes->at[i] != follows && axes->at[i].n <= FEW)
                g->axis = &axes->at[i];
        if (!g->axis) break;
        for (; g->n > 0; g->n--) free(g->names[g->n - 1]);
    }
    return n;
}

/* The runs that differ from run `first` along the axis alone, in its order. */
static size_t add_one(struct plot_script *p, const struct run_axes *axes, const struct run_axis *x,
    const struct run_axis *follows, size_t first, bool *done, enum sweep_value what, double floor,
    size_t block, int series, double shift)
{
    const struct run_list *runs = axes->runs;
    struct str label = {0};
    size_t n = 0;
    run_axes_label(axes, &runs->rows[first], x, follows, &label);
    str_addf(&p->data, "$line%zu << EOD\n", block);
    for (size_t level = 0; level < x->n; level++)
        for (size_t i = first; i < runs->n; i++) {
            const struct run_record *r = &runs->rows[i];
            struct value v = value_of(r, what);
            if (done[i] || !has_line(r, x) || isnan(v.at) || run_axis_level(x, r) != (int)level ||
                !run_axes_same(axes, r, &runs->rows[first], x, follows))
                continue;
            done[i] = true;
            struct str value = {0}, words = {0};
            run_axis_value(x, r, &value);
            value_words(&v, what, &words);
            double y = fmax(v.at, floor);
            str_addf(&p->data, "%.4f %.9g %.9g %.9g\n", (double)level + shift, y,
                fmax(isnan(v.lo) ? y : v.lo, floor), fmax(isnan(v.hi) ? y : v.hi, floor));
            plot_tip(p, series, (double)level + shift, y, "run %lld: %s|%s %s|%s", (long long)r->id,
                str_get(&label), x->name, str_get(&value), str_get(&words));
            str_clear(&value);
            str_clear(&words);
            n++;
        }
    str_add(&p->data, n ? "EOD\n" : "NaN NaN NaN NaN\nEOD\n");
    str_clear(&label);
    return n;
}

enum status plot_sweep_lines(const struct plot_out *o, const char *name,
    const struct run_axes *axes, const struct run_axis *x, const struct run_axis *follows,
    enum sweep_value what)
{
    const struct run_list *runs = axes->runs;
    double lo, hi;
    if (!x || x->n < 2 || !find_range(runs, what, &lo, &hi))
        return fail(ERR_ARG, "%s: the runs do not differ in it", name);
    struct groups groups = {.names = xcalloc(runs->n + 1, sizeof *groups.names)};
    bool *done = xcalloc(runs->n + 1, sizeof *done), *named = xcalloc(runs->n + 1, sizeof *named);
    size_t block = 0, lines = (find_groups(&groups, axes, x, follows) + x->n - 1) / x->n;
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    bool logarithmic = what == SWEEP_KL;
    struct plot_frame frame = {.left = 48,
        .plot_height = 190,
        .n_key = groups.n,
        .xlabel = x->name,
        .ylabel = logarithmic ? "KL divergence, nats (log scale; bars: 95 %)" : "sparsity, %"};
    for (size_t i = 0; i < groups.n; i++)
        frame.longest_key = frame.longest_key > strlen(groups.names[i]) ? frame.longest_key
                                                                        : strlen(groups.names[i]);
    plot_frame(&p, &frame);
    if (logarithmic) plot_log_axis(&p, "y", lo / 1.5, hi * 1.5);
    else str_addf(&p.body, "set yrange [0:%.6g]\n", fmin(102, 10 * ceil(hi / 10 + .1)));
    str_addf(&p.body, "set xrange [-0.4:%.2f]\n", (double)x->n - .6);
    add_ticks(&p, 'x', x);
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        if (done[i] || !has_line(r, x)) continue;
        size_t g = group_index(&groups, r);
        double shift =
            lines > 1 ? fmax(-.2, fmin(.2, .4 * ((double)block / (double)(lines - 1) - .5))) : 0;
        if (!add_one(&p, axes, x, follows, i, done, what, logarithmic ? lo / 1.5 : 0, block, (int)g,
                shift))
            continue;
        plot_add(
            &p, (int)g, NULL, "$line%zu using 1:2 with lines lw 1 lc '%s'", block, plot_color(g));
        plot_add(&p, (int)g, named[g] ? NULL : groups.names[g],
            "$line%zu using 1:2%s pt %d ps 0.5 lw 1 lc '%s'", block,
            logarithmic ? ":3:4 with yerrorbars" : " with points", plot_marker(g), plot_color(g));
        named[g] = true;
        block++;
    }
    for (size_t i = 0; i < groups.n; i++) free(groups.names[i]);
    free(groups.names);
    free(done);
    free(named);
    if (!block) {
        plot_script_clear(&p);
        return fail(ERR_ARG, "%s: no finished run has both the setting and the value", name);
    }
    str_addf(&p.sql,
        "SELECT id, method, rule, %s, sparsity, kl_mean, kl_lo, kl_hi FROM v_runs WHERE status = "
        "'done' ORDER BY id;",
        x->column ? x->column->name : "dataset");
    return plot_script_run(&p);
}

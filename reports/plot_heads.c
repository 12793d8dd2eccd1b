#include "reports/plot_script.h"

#include "base/stats.h"
#include "base/xmalloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct grid {
    int n_layers, n_heads;
    double *values; /* layers x heads, NAN = nothing there */
};

static struct grid grid_make(int n_layers, int n_heads)
{
    struct grid g = {
        n_layers, n_heads, xmalloc(((size_t)n_layers * (size_t)n_heads + 1) * sizeof *g.values)};
    for (int i = 0; i < n_layers * n_heads; i++) g.values[i] = NAN;
    return g;
}

static void grid_set(struct grid *g, int layer, int head, double value)
{
    if (layer >= 0 && layer < g->n_layers && head >= 0 && head < g->n_heads)
        g->values[layer * g->n_heads + head] = value;
}

/* Returns how many cells have a value. */
static size_t grid_fill(struct grid *g, const struct run_view *v, enum heat heat)
{
    if (heat == HEAT_SPARSITY)
        for (size_t i = 0; i < v->ledger.n; i++) {
            const struct ledger_record *r = &v->ledger.rows[i];
            if (r->tiles_possible && r->pv_possible)
                grid_set(g, r->layer, r->head,
                    100 - 50 * (double)r->tiles_computed / (double)r->tiles_possible -
                        50 * (double)r->pv_computed / (double)r->pv_possible);
        }
    if ((heat == HEAT_L1_TUNE || heat == HEAT_L1_HELD_OUT) && v->tuned.n)
        for (size_t i = 0; i < v->tuned.rows[0].n_heads; i++) {
            const struct tuned_head_record *h = &v->tuned.rows[0].heads[i];
            if (h->is_sparse)
                grid_set(g, h->layer, h->head, heat == HEAT_L1_TUNE ? h->l1_tune : h->l1_held_out);
        }
    if (heat == HEAT_L1_ISOLATED || heat == HEAT_L1_PROPAGATED)
        for (size_t i = 0; i < v->layer_errors.n; i++) {
            const struct layer_error_record *e = &v->layer_errors.rows[i];
            if (e->head < 0 || e->sample >= 0) continue;
            bool dense = e->isolated_l1 == 0; /* the head left nothing out */
            grid_set(g, e->layer, e->head,
                heat == HEAT_L1_PROPAGATED ? e->propagated_l1
                    : dense                ? NAN
                                           : e->isolated_l1);
        }
    size_t n = 0;
    for (int i = 0; i < g->n_layers * g->n_heads; i++) n += !isnan(g->values[i]);
    return n;
}

static const struct {
    const char *label, *nothing, *sql;
} heats[] = {
    [HEAT_SPARSITY] = {"left out, %", "the run has no per-head counts",
        "SELECT layer, head, 100 * sparsity FROM v_ledger WHERE run = %lld ORDER BY 1, 2;"},
    [HEAT_L1_TUNE] = {"L1 when tuned", "the run used no tuned thresholds, or no head is sparse",
        "SELECT layer, head, l1_tune FROM tuned_head WHERE is_sparse AND hash = (SELECT "
        "tuned_hash FROM run "
        "WHERE id = %lld) ORDER BY 1, 2;"},
    [HEAT_L1_HELD_OUT] = {"L1 on held-out text",
        "the run used no tuned thresholds, or no head is sparse",
        "SELECT layer, head, l1_held_out FROM tuned_head WHERE is_sparse AND hash = "
        "(SELECT tuned_hash "
        "FROM run WHERE id = %lld) ORDER BY 1, 2;"},
    [HEAT_L1_ISOLATED] = {"L1 it causes",
        "the run has no errors by head; eval --attribution measures them",
        "SELECT layer, head, isolated_l1 FROM layer_error WHERE sample = -1 AND head >= 0 AND "
        "isolated_l1 > 0 "
        "AND run = %lld ORDER BY 1, 2;"},
    [HEAT_L1_PROPAGATED] = {"L1 it ends with",
        "the run has no errors by head; eval --attribution measures them",
        "SELECT layer, head, propagated_l1 FROM layer_error WHERE sample = -1 AND head >= 0 AND "
        "run = %lld ORDER BY 1, 2;"},
};

/* Many cells as one image of as many pixels, few as boxes, which stay sharp wherever they are
 * shown. */
enum { MOST_BOXES = 256 };

static void add_grid(struct plot_script *p, const struct grid *g, enum heat heat)
{
    bool image = g->n_layers * g->n_heads > MOST_BOXES;
    str_add(&p->data, "$grid << EOD\n");
    for (int l = 0; l < g->n_layers; l++)
        for (int h = 0; h < g->n_heads; h++) {
            double value = g->values[l * g->n_heads + h];
            if (image) {
                plot_number(value, &p->data);
                if (h + 1 == g->n_heads) str_add_char(&p->data, '\n');
            } else if (!isnan(value)) {
                str_addf(&p->data, "%d %d %.6g\n", h, l, value);
            }
            if (isnan(value))
                plot_tip(p, -1, h, l, "layer %d, head %d|dense, or not measured", l, h);
            else if (heat == HEAT_SPARSITY)
                plot_tip(p, -1, h, l, "layer %d, head %d|%.1f %% left out", l, h, value);
            else plot_tip(p, -1, h, l, "layer %d, head %d|%s %.4f", l, h, heats[heat].label, value);
        }
    str_add(&p->data, "EOD\n");
    if (image) plot_add(p, -1, NULL, "$grid matrix with image");
    else plot_add(p, -1, NULL, "$grid using 1:2:(0.5):(0.5):3 with boxxyerror fc palette");
}

enum status plot_heads(
    const struct plot_out *o, const char *name, const struct run_view *v, enum heat heat)
{
    struct grid g = grid_make(v->run->model.n_layers, v->run->model.n_heads);
    size_t n = grid_fill(&g, v, heat);
    if (n == 0) {
        free(g.values);
        return fail(ERR_ARG, "%s: %s", name, heats[heat].nothing);
    }
    double highest = 0;
    for (int i = 0; i < g.n_layers * g.n_heads; i++)
        highest = fmax(highest, isnan(g.values[i]) ? 0 : g.values[i]);
    double top = heat == HEAT_SPARSITY ? 100 : highest > 0 ? highest : 1;
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_SMALL, 0);
    struct plot_frame frame = {.left = 26,
        .plot_height = 150,
        .xlabel = "head (layers downwards)",
        .ylabel = heats[heat].label,
        .below = 1};
    plot_frame(&p, &frame);
    char ends[2][16];
    snprintf(ends[0], sizeof ends[0], "0");
    snprintf(ends[1], sizeof ends[1], heat == HEAT_SPARSITY ? "%.0f" : "%.2g", top);
    plot_color_scale(&p, 0, top, ends[0], ends[1]);
    /* what has no value shows the grey behind it */
    str_addf(&p.body,
        "unset grid\nset xrange [-0.5:%.1f]\nset yrange [%.1f:-0.5]\nset xtics scale 0 %d\n"
        "set ytics scale 0 %d\n"
        "set object 1 rectangle from graph 0,0 to graph 1,1 behind fc '" PLOT_EMPTY
        "' fs solid noborder\n"
        "set style fill solid 1 noborder\n",
        g.n_heads - .5, g.n_layers - .5,
        g.n_heads > 20      ? 8
            : g.n_heads > 8 ? 4
                            : 1,
        g.n_layers > 20      ? 8
            : g.n_layers > 8 ? 4
                             : 1);
    add_grid(&p, &g, heat);
    str_addf(&p.sql, heats[heat].sql, (long long)v->run->id);
    free(g.values);
    return plot_script_run(&p);
}

/* A layer's isolated error over samples: the mean of its heads in each. NAN ends without two
 * samples. */
static struct estimate layer_estimate(const struct run_view *v, int layer, bool isolated)
{
    enum { MOST = 256 };
    double sum[MOST] = {0}, heads[MOST] = {0};
    size_t n = 0;
    for (size_t i = 0; i < v->layer_errors.n; i++) {
        const struct layer_error_record *e = &v->layer_errors.rows[i];
        if (e->layer != layer || e->head < 0 || e->sample < 0 || e->sample >= MOST) continue;
        sum[e->sample] += isolated ? e->isolated_l1 : e->propagated_l1;
        heads[e->sample]++;
        if ((size_t)e->sample >= n) n = (size_t)e->sample + 1;
    }
    if (n < 2) return (struct estimate){.lo = NAN, .hi = NAN};
    return estimate_ratio(sum, heads, n, SCALE_POSITIVE);
}

static void add_layer(
    struct plot_script *p, const struct run_view *v, const struct layer_error_record *e)
{
    for (int isolated = 1; isolated >= 0; isolated--) {
        double value = isolated ? e->isolated_l1 : e->propagated_l1;
        struct estimate over = layer_estimate(v, e->layer, isolated);
        if (isolated) str_addf(&p->data, "%d", e->layer);
        plot_number(value, &p->data);
        plot_number(isnan(over.lo) ? value : over.lo, &p->data);
        plot_number(isnan(over.hi) ? value : over.hi, &p->data);
        plot_tip(p, !isolated, e->layer, value, "layer %d, %s|L1 %.4f%s", e->layer,
            isolated ? "it alone sparse" : "in the sparse run", value,
            plot_interval(over.lo, over.hi, "%.4f"));
    }
    str_add_char(&p->data, '\n');
}

enum status plot_layers(const struct plot_out *o, const char *name, const struct run_view *v)
{
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    str_add(&p.data, "$layers << EOD\n");
    size_t n = 0;
    for (size_t i = 0; i < v->layer_errors.n; i++) {
        const struct layer_error_record *e = &v->layer_errors.rows[i];
        if (e->head != -1 || e->sample != -1) continue;
        add_layer(&p, v, e);
        n++;
    }
    str_add(&p.data, "EOD\n");
    if (!n) {
        plot_script_clear(&p);
        return fail(
            ERR_ARG, "%s: the run has no errors by layer; eval --attribution measures them", name);
    }
    struct plot_frame frame = {.left = 44,
        .plot_height = 190,
        .n_key = 2,
        .xlabel = "layer",
        .ylabel = "L1 error of the attention output"};
    plot_frame(&p, &frame);
    str_addf(&p.body,
        "set yrange [0:*]\nset offsets 0,0,graph 0.04,0\nset xrange [-0.6:%.1f]\nset xtics %d\nset "
        "boxwidth 0.7\n",
        v->run->model.n_layers - .4, v->run->model.n_layers > 12 ? 4 : 1);
    plot_add(&p, 0, "isolated: what the layer causes when it alone is sparse",
        "$layers using 1:2 with boxes fs transparent solid 0.35 border lc '%s' lc '%s'",
        plot_color(0), plot_color(0));
    plot_add(&p, 0, NULL, "$layers using 1:2:3:4 with yerrorbars pt 7 ps 0.2 lw 1.2 lc '%s'",
        plot_color(0));
    plot_add(&p, 1, NULL, "$layers using 1:5 with lines lw 1.5 lc '%s'", plot_color(1));
    plot_add(&p, 1, "propagated: what it ends with in the sparse run",
        "$layers using 1:5:6:7 with yerrorbars pt 5 ps 0.6 lw 1.2 lc '%s'", plot_color(1));
    str_addf(&p.sql,
        "SELECT layer, isolated_l1, propagated_l1 FROM layer_error WHERE sample = -1 AND head = -1 "
        "AND run = %lld "
        "ORDER BY 1;",
        (long long)v->run->id);
    return plot_script_run(&p);
}

enum status plot_curves(const struct plot_out *o, const char *name, const struct curve_set *c)
{
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    size_t points = 0;
    double lo = INFINITY, hi = 0;
    for (size_t i = 0; i < c->n; i++) {
        const struct error_curve *e = &c->curves[i];
        str_addf(&p.data, "$theta%zu << EOD\n", i);
        for (size_t k = 0; k < e->n; k++) {
            str_addf(&p.data, "%.6g %.6g\n", 100 * (1 - e->kept[k]), e->error[k]);
            if (e->error[k] > 0) lo = fmin(lo, e->error[k]);
            hi = fmax(hi, e->error[k]);
        }
        str_add(&p.data, e->n ? "EOD\n" : "NaN NaN\nEOD\n");
        points += e->n;
    }
    if (!points) {
        plot_script_clear(&p);
        return fail(ERR_ARG, "%s: there are no error curves to draw", name);
    }
    struct plot_frame frame = {.left = 44,
        .plot_height = 220,
        .n_key = 1 + (c->bound > 0) + c->has_choice,
        .xlabel = "tiles left out, %",
        .ylabel = c->label};
    plot_frame(&p, &frame);
    /* near the bound is where the choice is made */
    if (c->bound > 0) lo = fmax(lo, c->bound / 10), hi = fmin(hi, 6 * c->bound);
    plot_log_axis(&p, "y", lo < INFINITY ? lo : 1e-6, hi > 0 ? hi : 1);
    str_add(&p.body, "set xrange [0:100]\nset cbrange [-1:1]\nunset colorbox\n");
    /* seen on light and dark alike */
    str_add(&p.body, "set palette defined (0 '#0072b2', 1 '#8a8a8a', 2 '#d55e00')\n");
    for (size_t i = 0; i < c->n; i++) {
        const struct error_curve *e = &c->curves[i];
        bool first = i == 0;
        plot_add(&p, 0,
            first ? "a line per theta, blue: -1, orange: 15/16; along it tau falls" : NULL,
            "$theta%zu using 1:2:(%.6g) with lines lw 1.3 lc palette", i, e->theta);
        for (size_t k = 0; k<e->n; k += e->n> 12 ? e->n / 12 : 1)
            if (e->error[k] >= lo && e->error[k] <= hi)
                plot_tip(&p, 0, 100 * (1 - e->kept[k]), e->error[k],
                    "theta %.4g|%.1f %% of the tiles left out|error %.4g", e->theta,
                    100 * (1 - e->kept[k]), e->error[k]);
    }
    if (c->bound > 0) {
        char bound[96];
        snprintf(bound, sizeof bound, "the bound, %.3g, which every sample must hold", c->bound);
        plot_add(&p, 1, bound, "%.6g with lines dt 2 lw 1.5 lc '#d55e00'", c->bound);
    }
    if (c->has_choice) {
        double x = 100 * (1 - c->choice_kept);
        str_addf(
            &p.data, "$choice << EOD\n%.6g %.6g\nEOD\n", x, fmin(fmax(c->choice_error, lo), hi));
        plot_add(&p, 2, "the tuner’s choice: most left out with all samples under it",
            "$choice using 1:2 with points pt 6 ps 1.1 lw 2 lc '#000000'");
        plot_tip(&p, 2, x, fmin(fmax(c->choice_error, lo), hi),
            "chosen: theta %.4g, tau %.4g|%.1f %% of the tiles left out|error %.4g on this sample",
            c->choice_theta, c->choice_tau, x, c->choice_error);
    }
    str_add(&p.sql,
        "SELECT model_fingerprint, kind, layer, head, sample, length(data) FROM curve; -- blobs; "
        "see the kind");
    return plot_script_run(&p);
}

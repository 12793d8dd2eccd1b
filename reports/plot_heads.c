#include "reports/plot_script.h"

#include "base/xmalloc.h"
#include <math.h>
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
    [HEAT_SPARSITY] = {"sparsity, %", "the run has no per-head counts",
        "SELECT layer, head, 100 * sparsity FROM v_ledger WHERE run = %lld ORDER BY 1, 2;"},
    [HEAT_L1_TUNE] = {"L1 on the tuning samples",
        "the run used no tuned thresholds, or no head is sparse",
        "SELECT layer, head, l1_tune FROM tuned_head WHERE is_sparse AND hash = (SELECT "
        "tuned_hash FROM run "
        "WHERE id = %lld) ORDER BY 1, 2;"},
    [HEAT_L1_HELD_OUT] = {"L1 on held-out samples",
        "the run used no tuned thresholds, or no head is sparse",
        "SELECT layer, head, l1_held_out FROM tuned_head WHERE is_sparse AND hash = "
        "(SELECT tuned_hash "
        "FROM run WHERE id = %lld) ORDER BY 1, 2;"},
    [HEAT_L1_ISOLATED] = {"L1 of the output, dense inputs",
        "the run has no errors by head; eval --attribution measures them",
        "SELECT layer, head, isolated_l1 FROM layer_error WHERE sample = -1 AND head >= 0 AND "
        "isolated_l1 > 0 "
        "AND run = %lld ORDER BY 1, 2;"},
    [HEAT_L1_PROPAGATED] = {"L1 of the output in the sparse run",
        "the run has no errors by head; eval --attribution measures them",
        "SELECT layer, head, propagated_l1 FROM layer_error WHERE sample = -1 AND head >= 0 AND "
        "run = %lld ORDER BY 1, 2;"},
};

enum status plot_heads(
    const struct plot_out *o, const char *name, const struct run_view *v, enum heat heat)
{
    struct grid g = grid_make(v->run->model.n_layers, v->run->model.n_heads);
    size_t n = grid_fill(&g, v, heat);
    if (n == 0) {
        free(g.values);
        return fail(ERR_ARG, "%s: %s", name, heats[heat].nothing);
    }
    int height = 150 + 26 * g.n_layers;
    struct plot_script p;
    plot_script_init(&p, o, name, 900, height < 300 ? 300 : height > 1100 ? 1100 : height);
    str_add(&p.data, "$grid << EOD\n");
    double highest = 0;
    for (int l = 0; l < g.n_layers; l++)
        for (int h = 0; h < g.n_heads; h++) {
            double value = g.values[l * g.n_heads + h];
            if (isnan(value)) continue;
            highest = fmax(highest, value);
            str_addf(&p.data, "%d %d %.6g\n", h, l, value);
        }
    str_add(&p.data, "EOD\n");
    bool percent = heat == HEAT_SPARSITY;
    double top = percent ? 100 : highest > 0 ? highest : 1;
    str_add(&p.body, plot_heat_palette);
    str_addf(&p.body,
        "set cbrange [0:%.6g]\nunset grid\nunset key\nset xlabel 'head'\nset ylabel 'layer'\nset "
        "cblabel ",
        top);
    plot_quote(heats[heat].label, &p.body);
    /* what has no value shows the grey behind it */
    str_addf(&p.body,
        "\nset xrange [-0.5:%.1f]\nset yrange [%.1f:-0.5]\nset xtics scale 0 %d\nset ytics scale 0 "
        "%d\n"
        "set object 1 rectangle from graph 0,0 to graph 1,1 behind fc '#d4d4d4' fs solid noborder\n"
        "set style fill solid 1 noborder\n",
        g.n_heads - .5, g.n_layers - .5, g.n_heads > 16 ? 4 : 1, g.n_layers > 24 ? 4 : 1);
    bool numbers = g.n_heads <= 16 && g.n_layers <= 32;
    str_add(&p.body, "plot $grid using 1:2:(0.5):(0.5):3 with boxxyerror fc palette");
    if (numbers) { /* white on the dark half of the palette, black on the light one */
        const char *format = percent ? "%.0f" : top < .1 ? "%.3f" : "%.2f";
        str_addf(&p.body,
            ", $grid using 1:2:($3 < %.6g ? sprintf('%s',$3) : '') with labels tc '#ffffff' font "
            "',11'",
            .6 * top, format);
        str_addf(&p.body,
            ", $grid using 1:2:($3 >= %.6g ? sprintf('%s',$3) : '') with labels tc '#000000' font "
            "',11'",
            .6 * top, format);
    }
    if (n < (size_t)(g.n_layers * g.n_heads)) str_add(&p.body, "\n# grey: dense, or not measured");
    str_add(&p.body, "\n");
    str_addf(&p.sql, heats[heat].sql, (long long)v->run->id);
    free(g.values);
    return plot_script_run(&p);
}

enum status plot_layers(const struct plot_out *o, const char *name, const struct run_view *v)
{
    struct plot_script p;
    plot_script_init(&p, o, name, 900, 420);
    str_add(&p.data, "$layers << EOD\n");
    size_t n = 0;
    for (size_t i = 0; i < v->layer_errors.n; i++) {
        const struct layer_error_record *e = &v->layer_errors.rows[i];
        if (e->head != -1 || e->sample != -1) continue;
        str_addf(&p.data, "%d", e->layer);
        plot_number(e->isolated_l1, &p.data);
        plot_number(e->propagated_l1, &p.data);
        str_add_char(&p.data, '\n');
        n++;
    }
    str_add(&p.data, "EOD\n");
    if (!n) {
        plot_script_clear(&p);
        return fail(
            ERR_ARG, "%s: the run has no errors by layer; eval --attribution measures them", name);
    }
    str_addf(&p.body,
        "set xlabel 'layer'\nset ylabel 'L1 error of the attention output'\nset yrange [0:*]\nset "
        "xrange [-0.6:%.1f]\n"
        "set xtics 1\nset boxwidth 0.7\n",
        v->run->model.n_layers - .4);
    if (v->run->model.n_layers > 20) str_add(&p.body, "set xtics 4\n");
    str_addf(&p.body,
        "plot $layers using 1:2 with boxes fs pattern 2 border lc '%s' lc '%s' title 'isolated: "
        "this layer alone sparse', $layers using 1:3 with linespoints pt 5 ps 1.1 lw 2 lc '%s' "
        "title "
        "'propagated: in the sparse run'\n",
        plot_color(0), plot_color(0), plot_color(1));
    str_addf(&p.sql,
        "SELECT layer, isolated_l1, propagated_l1 FROM layer_error WHERE sample = -1 AND head = -1 "
        "AND run = %lld "
        "ORDER "
        "BY 1;",
        (long long)v->run->id);
    return plot_script_run(&p);
}

enum status plot_curves(const struct plot_out *o, const char *name, const char *title,
    const struct error_curve *curves, size_t n, double bound)
{
    struct plot_script p;
    plot_script_init(&p, o, name, 900, 520);
    size_t points = 0;
    for (size_t i = 0; i < n; i++) {
        str_addf(&p.data, "$theta%zu << EOD\n", i);
        for (size_t k = 0; k < curves[i].n; k++)
            str_addf(&p.data, "%.6g %.6g\n", 100 * (1 - curves[i].kept[k]), curves[i].error[k]);
        str_add(&p.data, curves[i].n ? "EOD\n" : "NaN NaN\nEOD\n");
        points += curves[i].n;
    }
    if (!points) {
        plot_script_clear(&p);
        return fail(ERR_ARG, "%s: there are no error curves to draw", name);
    }
    str_add(&p.body, plot_heat_palette);
    str_add(&p.body, "set title ");
    plot_quote(title, &p.body);
    str_add(&p.body,
        "\nset xlabel 'tiles left out, %'\nset ylabel 'error of the head'\nset cblabel "
        "'theta'\nset "
        "cbrange [-1:1]\n"
        "set key at graph 0.02, graph 0.97 left top\n");
    /* near the bound is where the choice is made */
    if (bound > 0) str_addf(&p.body, "set yrange [0:%.6g]\nplot ", 4 * bound);
    else str_add(&p.body, "set yrange [0:*]\nplot ");
    for (size_t i = 0; i < n; i++)
        str_addf(&p.body, "%s$theta%zu using 1:2:(%.6g) with lines lw 1.8 lc palette notitle",
            i ? ", " : "", i, curves[i].theta);
    if (!isnan(bound))
        str_addf(
            &p.body, ", %.6g with lines dt 2 lw 2 lc '#d55e00' title 'bound %.3g'", bound, bound);
    str_add(&p.body, "\n");
    str_add(&p.sql,
        "SELECT model_fingerprint, kind, layer, head, sample, length(data) FROM curve; -- blobs; "
        "see the kind");
    return plot_script_run(&p);
}

static bool mask_bit(const struct mask_record *m, int i, int j)
{
    size_t bit = (size_t)i * (size_t)m->n_k + (size_t)j;
    return i < m->n_q && (m->bits[bit / 8] >> bit % 8 & 1);
}

/* Computed tiles as few boxes, so that a picture stays small: a run within a row grows down as long
 * as the next rows have the very same run. top[j]: the row where the run that begins at j began, -1
 * without. */
static void add_mask(const struct mask_record *m, size_t index, struct str *out)
{
    int *top = xmalloc(((size_t)m->n_k + 1) * sizeof *top),
        *end = xmalloc(((size_t)m->n_k + 1) * sizeof *end);
    for (int j = 0; j < m->n_k; j++) top[j] = -1;
    str_addf(out, "$mask%zu << EOD\n", index);
    for (int i = 0; i <= m->n_q; i++) /* the row behind the last is empty and ends every run */
        for (int j = 0, to; j < m->n_k; j = to) {
            bool set = mask_bit(m, i, j);
            for (to = j + 1; set && to < m->n_k && mask_bit(m, i, to);) to++;
            for (int k = j; k < to; k++)
                if (top[k] >= 0 && !(set && k == j && end[k] == to)) {
                    str_addf(out, "%d %d %d %d\n", k, end[k], top[k], i);
                    top[k] = -1;
                }
            if (set && top[j] < 0) {
                top[j] = i;
                end[j] = to;
            }
        }
    str_add(out, "NaN NaN NaN NaN\nEOD\n");
    free(top);
    free(end);
}

/* Masks of long texts would make too many boxes; their tiles are as small as pixels, so they become
 * an image.
 */
static bool as_image(const struct mask_record *m) { return m->n_q * m->n_k > 2048; }

static void add_mask_image(
    const struct mask_record *m, const struct run_record *run, size_t index, struct str *out)
{
    str_addf(out, "$mask%zu << EOD\n", index);
    for (int i = 0; i < m->n_q; i++)
        for (int j = 0; j < m->n_k; j++)
            str_addf(out, "%s%c",
                mask_bit(m, i, j)                                   ? "1"
                    : j * run->block_k > (i + 1) * run->block_q - 1 ? "0.5"
                                                                    : "0",
                j + 1 < m->n_k ? ' ' : '\n');
    str_add(out, "EOD\n");
}

enum status plot_masks(const struct plot_out *o, const char *name, const struct run_view *v)
{
    enum { MOST = 12 };
    size_t n = v->masks.n < MOST ? v->masks.n : MOST;
    if (n == 0) return fail(ERR_ARG, "%s: the run has no stored block masks", name);
    size_t columns = n < 4 ? n : 4, rows = (n + columns - 1) / columns;
    struct plot_script p;
    plot_script_init(&p, o, name, (int)(columns * 260), (int)(rows * 270));
    str_addf(&p.body,
        "set multiplot layout %zu,%zu\nunset key\nunset grid\nunset colorbox\nset border 15 lw 1 "
        "lc "
        "'#404040'\n"
        "set xtics scale 0 format ''\nset ytics scale 0 format ''\nset tmargin 2\nset bmargin 1.5\n"
        "set xlabel 'keys' offset 0,0.8\nset ylabel 'queries' offset 1.5,0\n"
        "set palette defined (0 '#ffffff', 0.5 '#e2e2e2', 1 '#0072b2')\nset cbrange [0:1]\n",
        rows, columns);
    for (size_t i = 0; i < n; i++) {
        const struct mask_record *m = &v->masks.rows[i * v->masks.n / n];
        bool image = as_image(m);
        if (image) add_mask_image(m, v->run, i, &p.data);
        else add_mask(m, i, &p.data);
        if (!image) /* the future, which nobody computes */
            str_addf(&p.body,
                "set object 1 polygon from 0,0 to %d,0 to %d,%d to 0,0 behind fc '#e2e2e2' fs "
                "solid noborder\n",
                m->n_k, m->n_k, m->n_q);
        double edge = image ? .5 : 0; /* pixels are drawn around whole numbers */
        str_addf(&p.body,
            "set title 'layer %d, head %d, sample %d' offset 0,-0.6\nset xrange [%.1f:%.1f]\n"
            "set yrange [%.1f:%.1f]\nplot $mask%zu %s\n",
            m->layer, m->head, m->sample, -edge, m->n_k - edge, m->n_q - edge, -edge, i,
            image ? "matrix with image"
                  : "using (0.5*($1+$2)):(0.5*($3+$4)):(0.5*($2-$1)):(0.5*($4-$3)) with boxxyerror "
                    "fs solid 1 noborder fc '#0072b2'");
    }
    str_add(&p.body, "unset multiplot\n");
    str_addf(&p.sql,
        "SELECT layer, head, sample, n_q, n_k, hex(bits) FROM block_mask WHERE run = %lld;",
        (long long)v->run->id);
    return plot_script_run(&p);
}

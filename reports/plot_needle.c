#include "reports/plot_script.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sorted distinct depths and lengths of all runs, so that panels line up. */
struct axes {
    double *depths;
    int64_t *lengths;
    size_t n_depths, n_lengths;
};

static int compare_doubles(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static int compare_ints(const void *x, const void *y)
{
    int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
    return (a > b) - (a < b);
}

static struct axes axes_make(const struct run_view *const *views, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++) total += views[i]->items.n;
    struct axes a = {malloc((total + 1) * sizeof *a.depths), malloc((total + 1) * sizeof *a.lengths), 0, 0};
    if (!a.depths || !a.lengths) abort();
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < views[i]->items.n; k++) {
            const struct item_record *r = &views[i]->items.rows[k];
            if (isnan(r->depth) || r->length < 0) continue;
            a.depths[a.n_depths++] = r->depth;
            a.lengths[a.n_lengths++] = r->length;
        }
    qsort(a.depths, a.n_depths, sizeof *a.depths, compare_doubles);
    qsort(a.lengths, a.n_lengths, sizeof *a.lengths, compare_ints);
    size_t d = 0, l = 0;
    for (size_t i = 0; i < a.n_depths; i++)
        if (d == 0 || a.depths[i] != a.depths[d - 1]) a.depths[d++] = a.depths[i];
    for (size_t i = 0; i < a.n_lengths; i++)
        if (l == 0 || a.lengths[i] != a.lengths[l - 1]) a.lengths[l++] = a.lengths[i];
    a.n_depths = d;
    a.n_lengths = l;
    return a;
}

/* One panel's data: column, row, share right in percent. */
static void add_panel(struct str *out, size_t index, const struct axes *a, const struct run_view *v,
                      bool dense)
{
    str_addf(out, "$panel%zu << EOD\n", index);
    for (size_t d = 0; d < a->n_depths; d++)
        for (size_t l = 0; l < a->n_lengths; l++) {
            size_t right = 0, all = 0;
            for (size_t k = 0; k < v->items.n; k++) {
                const struct item_record *r = &v->items.rows[k];
                if (r->depth != a->depths[d] || r->length != a->lengths[l]) continue;
                all++;
                right += dense ? r->dense_right : r->sparse_right;
            }
            if (all) str_addf(out, "%zu %zu %.6g\n", l, d, 100 * (double)right / (double)all);
        }
    str_add(out, "EOD\n");
}

static void add_plot(struct str *out, size_t index, const char *title, bool first)
{
    str_add(out, "set title ");
    plot_quote(title, out);
    str_addf(out, "\nset ylabel %s\n", first ? "'depth of the needle'" : "''");
    str_addf(out,
             "plot $panel%zu using 1:2:(0.5):(0.5):3 with boxxyerror fc palette, "
             "$panel%zu using 1:2:($3 < 60 ? sprintf('%%.0f',$3) : '') with labels tc '#ffffff' font ',11', "
             "$panel%zu using 1:2:($3 >= 60 ? sprintf('%%.0f',$3) : '') with labels tc '#000000' font "
             "',11'\n",
             index, index, index);
}

enum status plot_needle(const struct plot_out *o, const char *name, const struct run_view *const *views,
                        size_t n)
{
    struct axes a = axes_make(views, n);
    if (a.n_depths == 0) {
        free(a.depths);
        free(a.lengths);
        return fail(ERR_ARG, "%s: no run has answers by depth and length; evaluate with --suite needle",
                    name);
    }
    struct plot_script p;
    plot_script_init(&p, o, name, (int)(300 * (n + 1)) + 60,
                     120 + 44 * (int)(a.n_depths > 4 ? a.n_depths : 4));
    struct str *b = &p.body;
    str_add(b, plot_heat_palette);
    str_addf(b,
             "set cbrange [0:100]\nunset key\nunset grid\nset style fill solid 1 noborder\nunset colorbox\n"
             "set xlabel 'context, tokens'\nset xrange [-0.5:%.1f]\nset yrange [%.1f:-0.5]\n",
             (double)a.n_lengths - .5, (double)a.n_depths - .5);
    str_add(b, "set xtics scale 0 (");
    for (size_t i = 0; i < a.n_lengths; i++)
        str_addf(b, "%s'%lld' %zu", i ? ", " : "", (long long)a.lengths[i], i);
    str_add(b, ")\nset ytics scale 0 (");
    for (size_t i = 0; i < a.n_depths; i++)
        str_addf(b, "%s'%.0f %%%%' %zu", i ? ", " : "", 100 * a.depths[i], i);
    str_addf(b, ")\nset multiplot layout 1,%zu\n", n + 1);
    size_t panel = 0;
    for (size_t i = 0; i < n; i++) {
        if (i == 0) {
            add_panel(&p.data, panel, &a, views[i], true);
            add_plot(b, panel++, "dense: % right", true);
        }
        struct str title = {0};
        plot_label(views[i], &title);
        add_panel(&p.data, panel, &a, views[i], false);
        add_plot(b, panel++, str_get(&title), false);
        str_clear(&title);
    }
    str_add(b, "unset multiplot\n");
    str_add(&p.sql, "SELECT run, depth, length, avg(dense_right), avg(sparse_right), count(*) FROM item "
                    "WHERE run IN (");
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ") GROUP BY 1, 2, 3;");
    free(a.depths);
    free(a.lengths);
    return plot_script_run(&p);
}

#include "reports/plot_script.h"

#include "base/xmalloc.h"
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
    struct axes a = {
        xmalloc((total + 1) * sizeof *a.depths), xmalloc((total + 1) * sizeof *a.lengths), 0, 0};
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
static void add_panel(
    struct str *out, size_t index, const struct axes *a, const struct run_view *v, bool dense)
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

static void add_plot(struct str *out, size_t index, const char *title, bool leftmost)
{
    str_add(out, "set title ");
    plot_quote(title, out);
    str_addf(out, "\nset ylabel %s\n", leftmost ? "'depth of the needle'" : "''");
    str_addf(out,
        "plot $panel%zu using 1:2:(0.5):(0.5):3 with boxxyerror fc palette, "
        "$panel%zu using 1:2:($3 < 60 ? sprintf('%%.0f',$3) : '') with labels tc '#ffffff' font "
        "',12', "
        "$panel%zu using 1:2:($3 >= 60 ? sprintf('%%.0f',$3) : '') with labels tc '#000000' font "
        "',12'\n",
        index, index, index);
}

static void add_axes(struct str *b, const struct axes *a)
{
    str_addf(b,
        "set cbrange [0:100]\nunset key\nunset grid\nset style fill solid 1 border lc "
        "'#ffffff'\nunset colorbox\n"
        "set xlabel 'context, tokens'\nset xrange [-0.5:%.1f]\nset yrange [%.1f:-0.5]\n",
        (double)a->n_lengths - .5, (double)a->n_depths - .5);
    str_add(b, "set xtics scale 0 (");
    for (size_t i = 0; i < a->n_lengths; i++)
        str_addf(b, "%s'%lld' %zu", i ? ", " : "", (long long)a->lengths[i], i);
    str_add(b, ")\nset ytics scale 0 (");
    for (size_t i = 0; i < a->n_depths; i++)
        str_addf(b, "%s'%.0f %%%%' %zu", i ? ", " : "", 100 * a->depths[i], i);
    str_add(b, ")\n");
}

enum { MOST_STEPS = 16, COLUMNS = 3 };

static enum status check_grid(const struct axes *a, const char *name)
{
    if (a->n_depths == 0)
        return fail(ERR_ARG,
            "%s: no run has answers by depth and length; evaluate with --suite needle", name);
    if (a->n_depths > MOST_STEPS || a->n_lengths > MOST_STEPS)
        return fail(ERR_ARG,
            "%s: answers stand at %zu depths and %zu lengths, a grid has at most %d; evaluate with "
            "--suite needle",
            name, a->n_depths, a->n_lengths, MOST_STEPS);
    return OK;
}

enum status plot_needle(
    const struct plot_out *o, const char *name, const struct run_view *const *views, size_t n)
{
    if (n > PLOT_NEEDLE_RUNS) n = PLOT_NEEDLE_RUNS;
    struct axes a = axes_make(views, n);
    enum status st = check_grid(&a, name);
    if (st == OK) {
        size_t panels = n + 1, columns = panels < COLUMNS ? panels : COLUMNS,
               rows = (panels + columns - 1) / columns;
        struct plot_script p;
        plot_script_init(&p, o, name, (int)(300 * columns) + 40,
            (int)rows * (110 + 34 * (int)(a.n_depths > 4 ? a.n_depths : 4)) + 40);
        struct str *b = &p.body;
        str_add(b, plot_heat_palette);
        add_axes(b, &a);
        str_addf(b, "set multiplot layout %zu,%zu title 'answers right, %%'\n", rows, columns);
        add_panel(&p.data, 0, &a, views[0], true);
        add_plot(b, 0, "dense", true);
        for (size_t i = 0; i < n; i++) {
            struct str title = {0};
            run_short_name(views[i]->run, &title);
            add_panel(&p.data, i + 1, &a, views[i], false);
            add_plot(b, i + 1, str_get(&title), (i + 1) % columns == 0);
            str_clear(&title);
        }
        str_add(b, "unset multiplot\n");
        str_add(&p.sql,
            "SELECT run, depth, length, avg(dense_right), avg(sparse_right), count(*) FROM item "
            "WHERE run IN (");
        plot_run_ids(views, n, &p.sql);
        str_add(&p.sql, ") GROUP BY 1, 2, 3;");
        st = plot_script_run(&p);
    }
    free(a.depths);
    free(a.lengths);
    return st;
}

/* Doublings of the distance: bucket b holds [32·2^b, 64·2^b), the first everything below 64. */
enum { N_BUCKETS = 16 };

static int bucket_of(double distance)
{
    int b = 0;
    while (b + 1 < N_BUCKETS && distance >= 64 * pow(2, b)) b++;
    return b;
}

static bool has_distance(const struct item_record *r) { return !isnan(r->depth) && r->length >= 0; }

static void count_buckets(
    const struct run_view *v, bool dense, size_t right[N_BUCKETS], size_t all[N_BUCKETS])
{
    memset(right, 0, N_BUCKETS * sizeof *right);
    memset(all, 0, N_BUCKETS * sizeof *all);
    for (size_t i = 0; i < v->items.n; i++) {
        const struct item_record *r = &v->items.rows[i];
        if (!has_distance(r)) continue;
        int b = bucket_of((double)r->length * (1 - r->depth));
        all[b]++;
        right[b] += dense ? r->dense_right : r->sparse_right;
    }
}

static void add_line(struct str *data, size_t index, const struct run_view *v, bool dense)
{
    size_t right[N_BUCKETS], all[N_BUCKETS];
    count_buckets(v, dense, right, all);
    str_addf(data, "$line%zu << EOD\n", index);
    for (int b = 0; b < N_BUCKETS; b++)
        if (all[b]) str_addf(data, "%d %.6g\n", b, 100 * (double)right[b] / (double)all[b]);
    str_add(data, "EOD\n");
}

enum status plot_distance(
    const struct plot_out *o, const char *name, const struct run_view *const *views, size_t n)
{
    size_t right[N_BUCKETS], all[N_BUCKETS], total = 0;
    int first = N_BUCKETS, last = -1;
    if (n) count_buckets(views[0], true, right, all);
    for (int b = 0; n && b < N_BUCKETS; b++) {
        if (!all[b]) continue;
        total += all[b];
        if (b < first) first = b;
        last = b;
    }
    if (!total || first == last)
        return fail(ERR_ARG,
            "%s: no run has answers at different distances; evaluate with --suite chronicle", name);
    struct plot_script p;
    plot_script_init(&p, o, name, 900, 500);
    str_addf(&p.body,
        "set bmargin 5.5\nset xlabel 'tokens between evidence and question; n: questions' offset "
        "0,-1.2\nset "
        "ylabel 'answers right, %%'\n"
        "set xrange [%.1f:%.1f]\nset yrange [*<90:102]\nset xtics scale 0 (",
        first - .3, last + .3);
    for (int b = first; b <= last; b++) {
        str_addf(&p.body, "%s\"", b > first ? ", " : "");
        if (b == 0) str_add(&p.body, "under 64");
        else str_addf(&p.body, "%.0f–%.0f", 32 * pow(2, b), 64 * pow(2, b) - 1);
        str_addf(&p.body, "\\nn = %zu\" %d", all[b], b);
    }
    str_add(&p.body,
        ")\nplot $line0 using 1:2 with linespoints pt 6 ps 1.4 dt 2 lw 2 lc '#000000' title "
        "'dense'");
    add_line(&p.data, 0, views[0], true);
    for (size_t i = 0; i < n; i++) {
        struct str title = {0};
        run_short_name(views[i]->run, &title);
        add_line(&p.data, i + 1, views[i], false);
        str_addf(&p.body, ", $line%zu using 1:2 with linespoints pt %d ps 1.1 lw 2 lc '%s' title ",
            i + 1, plot_marker(i), plot_color(i));
        plot_quote(str_get(&title), &p.body);
        str_clear(&title);
    }
    str_add(&p.body, "\n");
    str_add(&p.sql,
        "SELECT run, max(0, cast(log2(max(length * (1 - depth), 1) / 32) AS INTEGER)) AS doubling, "
        "avg(dense_right), avg(sparse_right), count(*) FROM item WHERE depth IS NOT NULL AND run "
        "IN (");
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ") GROUP BY 1, 2;");
    return plot_script_run(&p);
}

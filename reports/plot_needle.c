#include "reports/plot_script.h"

#include "base/xmalloc.h"
#include <math.h>
#include <stdio.h>
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

/* One panel's data: column, row, share right in percent; and what pointing at a cell says. */
static void add_panel(
    struct plot_script *p, const struct axes *a, const struct run_view *v, bool dense)
{
    str_add(&p->data, "$panel << EOD\n");
    for (size_t d = 0; d < a->n_depths; d++)
        for (size_t l = 0; l < a->n_lengths; l++) {
            size_t right = 0, all = 0;
            for (size_t k = 0; k < v->items.n; k++) {
                const struct item_record *r = &v->items.rows[k];
                if (r->depth != a->depths[d] || r->length != a->lengths[l]) continue;
                all++;
                right += dense ? r->dense_right : r->sparse_right;
            }
            if (!all) continue;
            str_addf(&p->data, "%zu %zu %.6g\n", l, d, 100 * (double)right / (double)all);
            plot_tip(p, -1, (double)l, (double)d, "%lld tokens, depth %.0f %%|%zu of %zu right",
                (long long)a->lengths[l], 100 * a->depths[d], right, all);
        }
    str_add(&p->data, "EOD\n");
}

static void add_axes(struct str *b, const struct axes *a)
{
    str_addf(b,
        "unset grid\nset style fill solid 1 border lc '#ffffff'\nset xrange [-0.5:%.1f]\nset "
        "yrange [%.1f:-0.5]\n",
        (double)a->n_lengths - .5, (double)a->n_depths - .5);
    str_add(b, "set xtics scale 0 (");
    size_t step = a->n_lengths > 4 ? (a->n_lengths + 3) / 4 : 1;
    for (size_t i = 0; i < a->n_lengths; i += step)
        str_addf(b, "%s'%lld' %zu", i ? ", " : "", (long long)a->lengths[i], i);
    str_add(b, ")\nset ytics scale 0 (");
    for (size_t i = 0; i < a->n_depths; i++)
        str_addf(b, "%s'%.0f %%%%' %zu", i ? ", " : "", 100 * a->depths[i], i);
    str_add(b, ")\n");
}

enum { MOST_STEPS = 16 };

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

enum status plot_needle(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n, size_t at, bool dense)
{
    struct axes a = axes_make(views, n);
    enum status st = check_grid(&a, name);
    if (st == OK) {
        struct plot_script p;
        struct str title = {0};
        plot_script_init(&p, o, name, PLOT_SMALL, 0);
        if (dense) str_add(&title, "dense");
        else plot_name(views, n, at, &title);
        struct plot_frame frame = {.left = 44,
            .plot_height = 26 * (int)(a.n_depths > 4 ? a.n_depths : 4),
            .below = 1,
            .ylabel = str_get(&title),
            .xlabel = "context, tokens"};
        plot_frame(&p, &frame);
        plot_color_scale(&p, 0, 100, "0 %", "100 %");
        add_axes(&p.body, &a);
        add_panel(&p, &a, views[at], dense);
        plot_add(&p, -1, NULL, "$panel using 1:2:(0.5):(0.5):3 with boxxyerror fc palette");
        if (a.n_lengths <= 5) {
            plot_add(&p, -1, NULL,
                "$panel using 1:2:($3 < %g ? sprintf('%%.0f',$3) : '') with labels tc '#ffffff'",
                100 * PLOT_HALF_DARK);
            plot_add(&p, -1, NULL,
                "$panel using 1:2:($3 >= %g ? sprintf('%%.0f',$3) : '') with labels tc '#000001'",
                100 * PLOT_HALF_DARK);
        }
        str_clear(&title);
        str_add(&p.sql,
            "SELECT run, depth, length, avg(dense_right), avg(sparse_right), count(*) FROM item "
            "WHERE run IN (");
        plot_run_ids(&views[at], 1, &p.sql);
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

/* Wilson's 95 % interval of a share (JASA 22, 1927), in percent. */
static void share_interval(size_t right, size_t all, double *lo, double *hi)
{
    double n = (double)all, p = (double)right / n, z = 1.959964, zz = z * z / n;
    double middle = p + zz / 2, half = z * sqrt(p * (1 - p) / n + zz / (4 * n));
    *lo = 100 * (middle - half) / (1 + zz);
    *hi = 100 * (middle + half) / (1 + zz);
}

static const char *bucket_words(int b, char text[32])
{
    if (b == 0) snprintf(text, 32, "under 64");
    else snprintf(text, 32, "%.0f to %.0f", 32 * pow(2, b), 64 * pow(2, b) - 1);
    return text;
}

/* Lines that would lie on each other stand a little beside each other: `shift` of a doubling. */
static void add_line(struct plot_script *p, size_t index, const struct run_view *v, bool dense,
    double shift, const char *title)
{
    size_t right[N_BUCKETS], all[N_BUCKETS];
    count_buckets(v, dense, right, all);
    str_addf(&p->data, "$line%zu << EOD\n", index);
    for (int b = 0; b < N_BUCKETS; b++) {
        char words[32];
        double lo, hi;
        if (!all[b]) continue;
        double share = 100 * (double)right[b] / (double)all[b];
        share_interval(right[b], all[b], &lo, &hi);
        str_addf(&p->data, "%g %.6g %.6g %.6g\n", b + shift, share, lo, hi);
        plot_tip(p, (int)index, b + shift, share, "%s|%s tokens away|%zu of %zu right, %.1f %%%s",
            title, bucket_words(b, words), right[b], all[b], share, plot_interval(lo, hi, "%.0f"));
    }
    str_add(&p->data, "EOD\n");
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
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    size_t longest = 1;
    for (size_t i = 0; i < n; i++) {
        struct str title = {0};
        plot_name(views, n, i, &title);
        if (title.len > longest) longest = title.len;
        str_clear(&title);
    }
    struct plot_frame frame = {.left = 36,
        .plot_height = 220,
        .n_key = n + 1,
        .longest_key = longest,
        .below = 1,
        .ylabel = "answers right, % (bars: 95 %)",
        .xlabel = "tokens between evidence and question; below: how many"};
    plot_frame(&p, &frame);
    str_addf(&p.body, "set xrange [%.1f:%.1f]\nset yrange [0<*<90:103]\nset xtics scale 0 (",
        first - .5, last + .5);
    for (int b = first; b <= last; b++)
        str_addf(&p.body, "%s\"%s%.0f+\\n%zu\" %d", b > first ? ", " : "", "",
            b ? 32 * pow(2, b) : 0., all[b], b);
    str_add(&p.body, ")\n");
    for (size_t i = 0; i <= n; i++) {
        struct str title = {0};
        double shift = n ? .5 * ((double)i / (double)n - .5) : 0;
        const char *color = i ? plot_color(i - 1) : "#000000";
        if (i) plot_name(views, n, i - 1, &title);
        else str_add(&title, "dense");
        add_line(&p, i, views[i ? i - 1 : 0], i == 0, shift, str_get(&title));
        plot_add(&p, (int)i, NULL, "$line%zu using 1:2 with lines lw 1.2 %s lc '%s'", i,
            i ? "" : "dt 2", color);
        plot_add(&p, (int)i, str_get(&title),
            "$line%zu using 1:2:3:4 with yerrorbars pt %d ps 0.6 lw 1 lc '%s'", i,
            i ? plot_marker(i - 1) : 6, color);
        str_clear(&title);
    }
    str_add(&p.sql,
        "SELECT run, max(0, cast(log2(max(length * (1 - depth), 1) / 32) AS INTEGER)) AS doubling, "
        "avg(dense_right), avg(sparse_right), count(*) FROM item WHERE depth IS NOT NULL AND run "
        "IN (");
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ") GROUP BY 1, 2;");
    return plot_script_run(&p);
}

#include "reports/plot_script.h"

#include "base/xmalloc.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
                mask_bit(m, i, j)                                                     ? "1"
                    : (int64_t)j * run->block_k > (int64_t)(i + 1) * run->block_q - 1 ? "0.5"
                                                                                      : "0",
                j + 1 < m->n_k ? ' ' : '\n');
    str_add(out, "EOD\n");
}

/* Tiles that a query block sees, and those of them that are computed. */
static void count_row(
    const struct mask_record *m, const struct run_record *run, int i, int *possible, int *computed)
{
    for (int j = 0; j < m->n_k; j++) {
        if (run->block_q && (int64_t)j * run->block_k > (int64_t)(i + 1) * run->block_q - 1) break;
        ++*possible;
        *computed += mask_bit(m, i, j);
    }
}

static void add_row_tips(
    struct plot_script *p, const struct mask_record *m, const struct run_record *run)
{
    enum { MOST_TIPS = 32 };
    int step = (m->n_q + MOST_TIPS - 1) / MOST_TIPS;
    for (int i = 0; i < m->n_q; i += step) {
        int end = i + step < m->n_q ? i + step : m->n_q, possible = 0, computed = 0;
        for (int k = i; k < end; k++) count_row(m, run, k, &possible, &computed);
        double x = .5 * possible / (end - i);
        plot_tip(p, -1, x, .5 * (i + end),
            "layer %d, head %d|queries %lld to %lld|%d of %d tiles computed, %.0f %% left out",
            m->layer, m->head, (long long)i * run->block_q, (long long)end * run->block_q - 1,
            computed, possible, possible ? 100. * (possible - computed) / possible : 0.);
    }
}

/* "θ 0.44, τ 0.93, λ 12" of the head; how else its tiles were chosen without thresholds. */
static void thresholds_of(const struct run_view *v, const struct mask_record *m, struct str *out)
{
    for (size_t i = 0; i < v->ledger.n; i++) {
        const struct ledger_record *r = &v->ledger.rows[i];
        if (r->layer != m->layer || r->head != m->head) continue;
        if (!isnan(r->theta)) str_addf(out, "θ %.3g", r->theta);
        if (!isnan(r->tau)) str_addf(out, "%sτ %.4g", out->len ? ", " : "", r->tau);
        if (!isnan(r->lambda)) str_addf(out, "%sλ %.3g", out->len ? ", " : "", r->lambda);
        if (!out->len && r->calls && r->dense_head == r->calls) str_add(out, "dense");
    }
    if (!out->len) run_short_name(v->run, out);
}

/* `tiles`: how many one unit of the axis stands for. */
static void add_token_tics(
    struct plot_script *p, char axis, int n, int block, double edge, int tiles)
{
    str_addf(&p->body, "set %ctics scale 0.5 (", axis);
    int64_t tokens = (int64_t)n * block, step = 1; /* a stranger's are more than an int */
    while (step * 4 < tokens) step *= 2;
    for (int64_t t = 0; t <= tokens; t += step)
        str_addf(&p->body, "%s'%lld' %.4f", t ? ", " : "", (long long)t,
            (double)t / block / tiles - edge);
    str_add(&p->body, ")\n");
}

enum status plot_mask(
    const struct plot_out *o, const char *name, const struct run_view *v, size_t index)
{
    if (index >= v->masks.n)
        return fail(
            ERR_ARG, "%s: the run has no stored block mask %zu of %zu", name, index, v->masks.n);
    const struct mask_record *m = &v->masks.rows[index];
    const struct run_record *run = v->run;
    int block_q = run->block_q > 0 ? run->block_q : 1,
        block_k = run->block_k > 0 ? run->block_k : 1;
    int possible = 0, computed = 0;
    for (int i = 0; i < m->n_q; i++) count_row(m, run, i, &possible, &computed);
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_SMALL, 0);
    struct str words = {0};
    thresholds_of(v, m, &words);
    char *title = str_format("layer %d, head %d: %.0f %% out", m->layer, m->head,
        possible ? 100. * (possible - computed) / possible : 0.);
    struct plot_frame frame = {
        .left = 36, .plot_height = 144, .ylabel = title, .xlabel = str_get(&words)};
    plot_frame(&p, &frame);
    free(title);
    str_clear(&words);
    bool image = as_image(m);
    double edge = image ? .5 : 0; /* pixels are drawn around whole numbers */
    if (image) add_mask_image(m, run, 0, &p.data);
    else add_mask(m, 0, &p.data);
    add_token_tics(&p, 'x', m->n_k, block_k, edge, 1);
    add_token_tics(&p, 'y', m->n_q, block_q, edge, 1);
    str_addf(&p.body,
        "unset grid\nunset colorbox\nset border 15 lw 1 lc '#404040'\n"
        "set palette defined (0 '#ffffff', 0.5 '" PLOT_EMPTY "', 1 '%s')\nset cbrange [0:1]\n"
        "set xrange [%.1f:%.1f]\nset yrange [%.1f:%.1f]\n",
        plot_color(0), -edge, m->n_k - edge, m->n_q - edge, -edge);
    if (!image) /* the future, which nobody computes */
        str_addf(&p.body,
            "set object 1 polygon from 0,0 to %d,0 to %d,%d to 0,0 behind fc '" PLOT_EMPTY
            "' fs solid noborder\n",
            m->n_k, m->n_k, m->n_q);
    if (image) plot_add(&p, -1, NULL, "$mask0 matrix with image");
    else
        plot_add(&p, -1, NULL,
            "$mask0 using (0.5*($1+$2)):(0.5*($3+$4)):(0.5*($2-$1)):(0.5*($4-$3)) with boxxyerror "
            "fs solid 1 noborder fc '%s'",
            plot_color(0));
    add_row_tips(&p, m, run);
    str_addf(&p.sql,
        "SELECT layer, head, sample, n_q, n_k, hex(bits) FROM block_mask WHERE run = %lld AND "
        "layer = %d AND head = "
        "%d AND sample = %d;",
        (long long)run->id, m->layer, m->head, m->sample);
    return plot_script_run(&p);
}

/* What the heads of one layer do together, in at most CELLS x CELLS cells of whole tiles. */
enum { CELLS = 64 };
struct layer_map {
    int n_q, n_k, step_q, step_k, n_heads, possible, computed;
    double share[CELLS][CELLS]; /* computed of possible, over tiles and heads */
    int of[CELLS][CELLS];       /* possible ones; 0: the future */
    int reach;                  /* tokens within which half of the computed tiles lie */
};

/* Tokens within which half of `all` lies; far[b]: those b blocks of keys behind their queries. */
static int half_within(const int64_t *far, int n, int64_t all, int block_k)
{
    int64_t sum = 0;
    for (int b = 0; b < n; b++)
        if (2 * (sum += far[b]) >= all) return (b + 1) * block_k;
    return n * block_k;
}

static void layer_map_fill(const struct run_view *v, int layer, bool dense, struct layer_map *map)
{
    const struct run_record *run = v->run;
    int block_q = run->block_q > 0 ? run->block_q : 1,
        block_k = run->block_k > 0 ? run->block_k : 1;
    int64_t *far = NULL, all = 0;
    *map = (struct layer_map){0};
    for (size_t at = 0; at < v->masks.n; at++) {
        const struct mask_record *m = &v->masks.rows[at];
        if (m->layer != layer || m->n_q < 1 || m->n_k < 1 || m->n_k > INT_MAX / block_k ||
            (map->n_heads && (m->n_q != map->n_q || m->n_k != map->n_k)))
            continue;
        if (!map->n_heads++) {
            map->n_q = m->n_q;
            map->n_k = m->n_k;
            map->step_q = (m->n_q + CELLS - 1) / CELLS;
            map->step_k = (m->n_k + CELLS - 1) / CELLS;
            far = xcalloc((size_t)m->n_k + 1, sizeof *far);
        }
        for (int i = 0; i < m->n_q; i++)
            for (int j = 0; j < m->n_k && (int64_t)j * block_k <= (int64_t)(i + 1) * block_q - 1;
                 j++) {
                bool set = dense || mask_bit(m, i, j);
                int64_t middle =
                            (2 * i + 1) * (int64_t)block_q / 2 - (2 * j + 1) * (int64_t)block_k / 2,
                        b = middle > 0 ? middle / block_k : 0;
                map->of[i / map->step_q][j / map->step_k]++;
                map->share[i / map->step_q][j / map->step_k] += set;
                map->possible++;
                map->computed += set;
                all += set;
                if (set) far[b < m->n_k ? b : m->n_k]++; /* a stranger's may not fit its blocks */
            }
    }
    for (int i = 0; i < CELLS; i++)
        for (int j = 0; j < CELLS; j++)
            if (map->of[i][j]) map->share[i][j] /= map->of[i][j];
    if (far) map->reach = half_within(far, map->n_k, all, block_k);
    free(far);
}

int layer_reach(const struct run_view *v, int layer, bool dense)
{
    struct layer_map *map = xmalloc(sizeof *map);
    layer_map_fill(v, layer, dense, map);
    int reach = map->reach;
    free(map);
    return reach;
}

/* The colour stays, its opacity is the share: so a dark page shows it on its own ground. */
static void add_layer_cells(const struct layer_map *map, struct str *out)
{
    unsigned rgb = 0;
    sscanf(plot_color(0), "#%x", &rgb);
    str_add(out, "$layer << EOD\n");
    for (int i = 0; i * map->step_q < map->n_q; i++)
        for (int j = 0; j * map->step_k < map->n_k; j++)
            str_addf(out, "%d %d %u %u %u %.0f\n", j, i, rgb >> 16, rgb >> 8 & 255, rgb & 255,
                255 * map->share[i][j]);
    str_add(out, "EOD\n");
}

static void add_layer_tips(
    struct plot_script *p, const struct layer_map *map, int layer, const struct run_record *run)
{
    int rows = (map->n_q + map->step_q - 1) / map->step_q;
    for (int i = 0; i < rows; i += 2) {
        double possible = 0, computed = 0, columns = 0;
        for (int k = i; k < i + 2 && k < rows; k++)
            for (int j = 0; j < CELLS; j++) {
                possible += map->of[k][j];
                computed += map->share[k][j] * map->of[k][j];
                if (map->of[k][j] && j > columns) columns = j;
            }
        plot_tip(p, -1, columns / 2, i, "layer %d, %d heads|queries %d to %d|%.0f %% left out",
            layer, map->n_heads, i * map->step_q * run->block_q,
            (i + 2) * map->step_q * run->block_q - 1,
            possible > 0 ? 100 * (possible - computed) / possible : 0.);
    }
}

enum status plot_layer(
    const struct plot_out *o, const char *name, const struct run_view *v, int layer)
{
    struct layer_map *map = xmalloc(sizeof *map);
    layer_map_fill(v, layer, false, map);
    if (!map->n_heads) {
        free(map);
        return fail(ERR_ARG, "%s: the run has no stored block mask of layer %d", name, layer);
    }
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_SMALL, 0);
    char *title = str_format("layer %d: %.0f %% out", layer,
             map->possible ? 100. * (map->possible - map->computed) / map->possible : 0.),
         *words = str_format("half within %d tokens", map->reach);
    plot_frame(
        &p, &(struct plot_frame){.left = 36, .plot_height = 144, .ylabel = title, .xlabel = words});
    free(title);
    free(words);
    add_layer_cells(map, &p.data);
    double columns = (double)map->n_k / map->step_k, rows = (double)map->n_q / map->step_q;
    add_token_tics(&p, 'x', map->n_k, v->run->block_k > 0 ? v->run->block_k : 1, .5, map->step_k);
    add_token_tics(&p, 'y', map->n_q, v->run->block_q > 0 ? v->run->block_q : 1, .5, map->step_q);
    str_addf(&p.body,
        "unset grid\nunset colorbox\nset border 15 lw 1 lc '#404040'\n"
        "set xrange [-0.5:%.3f]\nset yrange [%.3f:-0.5]\n"
        "set object 1 polygon from -0.5,-0.5 to %.3f,-0.5 to %.3f,%.3f to -0.5,-0.5 behind fc "
        "'" PLOT_EMPTY "' fs solid noborder\n",
        columns - .5, rows - .5, columns - .5, columns - .5, rows - .5);
    plot_add(&p, -1, NULL, "$layer using 1:2:3:4:5:6 with rgbalpha");
    add_layer_tips(&p, map, layer, v->run);
    str_addf(&p.sql,
        "SELECT layer, head, sample, n_q, n_k, hex(bits) FROM block_mask WHERE run = %lld AND "
        "layer = %d;",
        (long long)v->run->id, layer);
    free(map);
    return plot_script_run(&p);
}

#include "reports/plot_script.h"

#include "base/xmalloc.h"

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
                mask_bit(m, i, j)                                   ? "1"
                    : j * run->block_k > (i + 1) * run->block_q - 1 ? "0.5"
                                                                    : "0",
                j + 1 < m->n_k ? ' ' : '\n');
    str_add(out, "EOD\n");
}

/* Tiles that a query block sees, and those of them that are computed. */
static void count_row(
    const struct mask_record *m, const struct run_record *run, int i, int *possible, int *computed)
{
    for (int j = 0; j < m->n_k; j++) {
        if (run->block_q && j * run->block_k > (i + 1) * run->block_q - 1) break;
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
            "layer %d, head %d|queries %d to %d|%d of %d tiles computed, %.0f %% left out",
            m->layer, m->head, i * run->block_q, end * run->block_q - 1, computed, possible,
            possible ? 100. * (possible - computed) / possible : 0.);
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

static void add_token_tics(struct plot_script *p, char axis, int n, int block, double edge)
{
    str_addf(&p->body, "set %ctics scale 0.5 (", axis);
    int tokens = n * block, step = 1;
    while (step * 4 < tokens) step *= 2;
    step = step > 1 ? step : 1;
    for (int t = 0, used = 0; t <= tokens; t += step)
        str_addf(&p->body, "%s'%d' %.4f", used++ ? ", " : "", t, (double)t / block - edge);
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
    add_token_tics(&p, 'x', m->n_k, block_k, edge);
    add_token_tics(&p, 'y', m->n_q, block_q, edge);
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

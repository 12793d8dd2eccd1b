/* Where the time of a pass goes: the table and the picture of the parts that the suite speed
 * profiled. */
#include "reports/plot_script.h"
#include "base/xmalloc.h"
#include "reports/columns.h"
#include "reports/tables.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *part, *label, *fill; /* the fill tells parts apart without colour */
} parts[] = {
    {"predict", "prediction", "solid 1"},
    {"qk", "QK", "pattern 1"},
    {"pv", "PV", "pattern 2"},
    /* QK and PV in one, as dense passes and fused kernels have it */
    {"attention", "attention", "solid 0.75"},
    {"linear", "linear layers", "pattern 4"},
    {"rest", "rest", "solid 0.3"},
};
enum { PREDICT, QK, PV, ATTENTION, LINEAR, REST, N_PARTS };

/* One profiled pass. seconds: medians, 0 for what it did not do. */
struct pass {
    bool sparse;
    int64_t n_tokens;
    double seconds[N_PARTS], total;
    double timed; /* median of the passes that were timed and not profiled; NAN */
};

static double median_of(const struct run_view *v, const char *part, int64_t n_tokens)
{
    for (size_t i = 0; i < v->latencies.n; i++)
        if (v->latencies.rows[i].n_tokens == n_tokens && !strcmp(v->latencies.rows[i].part, part))
            return v->latencies.rows[i].median;
    return NAN;
}

static struct pass read_pass(const struct run_view *v, bool sparse, int64_t n_tokens)
{
    const char *side = sparse ? "sparse" : "dense";
    char name[64];
    snprintf(name, sizeof name, "prefill_%s", side);
    struct pass p = {.sparse = sparse, .n_tokens = n_tokens, .timed = median_of(v, name, n_tokens)};
    for (int q = 0; q < N_PARTS; q++) {
        snprintf(name, sizeof name, "%s_%s", side, parts[q].part);
        double seconds = median_of(v, name, n_tokens);
        p.seconds[q] = isnan(seconds) ? 0 : seconds;
    }
    /* outside the layer range */
    double dense_layers = median_of(v, "sparse_attention_dense", n_tokens);
    if (sparse && !isnan(dense_layers)) p.seconds[ATTENTION] += dense_layers;
    for (int q = 0; q < N_PARTS; q++) p.total += p.seconds[q];
    return p;
}

/* The passes of a run, shortest first, dense before sparse. The caller frees *out; returns how
 * many. */
static size_t read_passes(const struct run_view *v, struct pass **out)
{
    size_t n = 0;
    *out = xmalloc((2 * v->latencies.n + 1) * sizeof **out);
    for (int64_t last = -1, next;; last = next) {
        next = INT64_MAX;
        for (size_t i = 0; i < v->latencies.n; i++)
            if (v->latencies.rows[i].n_tokens > last && v->latencies.rows[i].n_tokens < next)
                next = v->latencies.rows[i].n_tokens;
        if (next == INT64_MAX) return n;
        for (int sparse = 0; sparse < 2; sparse++) {
            (*out)[n] = read_pass(v, sparse, next);
            n += (*out)[n].total > 0;
        }
    }
}

struct table *breakdown_table(const struct run_view *v)
{
    struct table *t = table_new("Where the time goes");
    add_text(t, "n_tokens", "tokens");
    add_text(t, "pass", "pass");
    for (int q = 0; q < N_PARTS; q++) {
        char key[32];
        snprintf(key, sizeof key, "%s_s", parts[q].part);
        add(t, key, parts[q].label, NULL, NUMBER_SECONDS, 2, METRIC_NEITHER);
    }
    add(t, "profiled_s", "profiled", NULL, NUMBER_SECONDS, 2, METRIC_NEITHER);
    add(t, "timed_s", "timed", NULL, NUMBER_SECONDS, 2, METRIC_LOWER);
    table_weight(t, 1);
    struct pass *passes;
    size_t n = read_passes(v, &passes);
    for (size_t i = 0; i < n; i++) {
        table_int(t, passes[i].n_tokens);
        table_text(t, passes[i].sparse ? "sparse" : "dense");
        for (int q = 0; q < N_PARTS; q++)
            table_real(t, passes[i].seconds[q] > 0 ? passes[i].seconds[q] : NAN);
        table_real(t, passes[i].total);
        table_real(t, passes[i].timed);
    }
    free(passes);
    if (n)
        table_note(t,
            "medians of passes profiled beside the timed ones; profiling costs a little, on a "
            "device more, so the two "
            "totals differ. attention: QK and PV in one kernel, and layers that ran dense");
    return t;
}

bool breakdown_is_whole(const struct run_view *v)
{
    for (size_t i = 0; i < v->latencies.n; i++)
        if (!strcmp(v->latencies.rows[i].part, "sparse_attention")) return true;
    return false;
}

/* Rows of one run from y on, downwards; returns where the next may begin. Lengths are shares of the
 * dense pass of that many tokens, so that short prompts are seen beside long ones. */
static double add_rows(struct plot_script *p, const struct pass *passes, size_t n, double y,
    struct str data[N_PARTS], struct str *totals, double *widest)
{
    double dense = NAN;
    for (size_t i = 0; i < n; i++) {
        const struct pass *b = &passes[i];
        if (!b->sparse) dense = b->total;
        double low = 0;
        for (int q = 0; q < N_PARTS; q++) {
            double high = low + 100 * b->seconds[q] / dense;
            if (b->seconds[q] > 0) {
                str_addf(&data[q], "%.6g %.3f %.6g %.6g %.3f %.3f\n", low, y, low, high, y - .38,
                    y + .38);
                plot_tip(p, q, .5 * (low + high), y,
                    "%lld tokens, %s: %s|%.4g ms, %.1f %% of the dense pass",
                    (long long)b->n_tokens, b->sparse ? "sparse" : "dense", parts[q].label,
                    1e3 * b->seconds[q], high - low);
            }
            low = high;
        }
        struct str time = {0};
        number_format(NUMBER_SECONDS, b->total < 1e-2 || b->total >= 1 ? 1 : 0, b->total, &time);
        double timed = 100 * b->timed / dense;
        *widest = fmax(*widest, fmax(low, isnan(timed) ? 0 : timed));
        str_addf(totals, "%.6g %.3f ", fmax(low, isnan(timed) ? 0 : timed), y);
        plot_quote(str_get(&time), totals);
        plot_number(timed, totals);
        str_add_char(totals, '\n');
        str_clear(&time);
        str_addf(&p->body, "set ytics add (\"%lld %s\" %.3f)\n", (long long)b->n_tokens,
            b->sparse ? "sparse" : "dense", y);
        y += b->sparse ? 1.3 : .9;
    }
    return y;
}

enum status plot_breakdown(
    const struct plot_out *o, const char *name, const struct run_view *const *views, size_t n)
{
    enum { MOST_ROWS = 20 };
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    struct str data[N_PARTS] = {0}, totals = {0}, rows = {0};
    double y = 0, widest = 100;
    for (size_t i = 0; i < n; i++) {
        struct pass *passes;
        size_t n_passes = read_passes(views[i], &passes), most = MOST_ROWS / n / 2 * 2,
               from = n_passes > most ? n_passes - most : 0; /* the longest say most */
        if (n > 1 && n_passes) {
            struct str label = {0};
            plot_label(views[i], &label);
            str_add(&p.body, "set label ");
            plot_quote(str_get(&label), &p.body);
            str_addf(&p.body, " at screen 0.02, first %.3f left tc '" PLOT_INK "'\n", y);
            y += 1;
            str_clear(&label);
        }
        y = add_rows(&p, passes + from, n_passes - from, y, data, &totals, &widest) +
            (n_passes ? .2 : 0);
        free(passes);
    }
    rows = p.body; /* they stand behind the frame */
    p.body = (struct str){0};
    size_t drawn = 0;
    for (int q = 0; q < N_PARTS; q++) drawn += data[q].len > 0;
    if (!totals.len) {
        for (int q = 0; q < N_PARTS; q++) str_clear(&data[q]);
        str_clear(&rows);
        plot_script_clear(&p);
        return fail(
            ERR_ARG, "%s: no run has times of parts; measure some with --suite speed", name);
    }
    struct plot_frame frame = {.left = 92,
        .plot_height = (int)(18 * y) + 10,
        .n_key = drawn + 1,
        .longest_key = 20,
        .ylabel = "",
        .xlabel = "time, % of the dense pass of that length"};
    plot_frame(&p, &frame);
    str_addf(&p.body,
        "unset grid\nset grid xtics lt 1 lw 1 lc '#dddddd'\nset ytics scale 0 ()\n%s"
        "set yrange [%.3f:-0.7]\nset xrange [0:%.6g]\n",
        str_get(&rows), y - .3, 1.18 * widest);
    str_addf(&p.data, "$totals << EOD\n%sEOD\n", str_get(&totals));
    for (int q = 0; q < N_PARTS; q++) {
        if (!data[q].len) continue;
        str_addf(&p.data, "$part%d << EOD\n%sEOD\n", q, str_get(&data[q]));
        plot_add(&p, q, parts[q].label,
            "$part%d using 1:2:3:4:5:6 with boxxyerror fs %s border lc '" PLOT_INK "' lc '%s' lw 1",
            q, parts[q].fill, plot_color((size_t)q));
        str_clear(&data[q]);
    }
    plot_add(&p, -1, NULL, "$totals using 1:2:3 with labels left offset 0.6,0");
    plot_add(&p, -1, "timed, not profiled",
        "$totals using 4:2 with points pt 2 ps 0.7 lw 1.5 lc '#000000'");
    str_clear(&totals);
    str_clear(&rows);
    str_add(&p.sql,
        "SELECT run, n_tokens, part, n, median FROM latency WHERE (part LIKE 'dense~_%' ESCAPE '~' "
        "OR part LIKE "
        "'sparse~_%' ESCAPE '~' OR part LIKE 'prefill~_%' ESCAPE '~') AND run IN (");
    plot_run_ids(views, n, &p.sql);
    str_add(&p.sql, ") ORDER BY run, n_tokens, part;");
    return plot_script_run(&p);
}

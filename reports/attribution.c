#include "reports/attribution.h"

#include "base/xmalloc.h"
#include "reports/columns.h"
#include "reports/plot_script.h"
#include "results/columns.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAYERS = 1024 };

/* "0-6+8-15" into flags (older databases have commas); returns how many layers, -1 for a text of
 * another form. */
static int parse_layers(const char *text, int n_layers, bool on[MAX_LAYERS])
{
    memset(on, 0, MAX_LAYERS * sizeof *on);
    if (n_layers < 1 || n_layers > MAX_LAYERS) return -1;
    if (!strcmp(text, "all")) {
        for (int l = 0; l < n_layers; l++) on[l] = true;
        return n_layers;
    }
    for (const char *p = text; *p;) {
        char *end;
        long lo = strtol(p, &end, 10), hi = lo;
        if (end == p) return -1;
        if (*end == '-') {
            p = end + 1;
            hi = strtol(p, &end, 10);
            if (end == p) return -1;
        }
        if (lo < 0 || hi >= n_layers || lo > hi) return -1;
        for (long l = lo; l <= hi; l++) on[l] = true;
        if (*end && *end != '+' && *end != ',') return -1;
        p = *end ? end + 1 : end;
    }
    int n = 0;
    for (int l = 0; l < n_layers; l++) n += on[l];
    return n;
}

/* Equal in everything but layers, heads and what was tuned for them, or but the bounds and what
 * follows from them. */
static bool same_question(const struct run_record *a, const struct run_record *b, bool but_bounds)
{
    return text_same(a->model.fingerprint, b->model.fingerprint) &&
        text_same(a->dataset.fingerprint, b->dataset.fingerprint) &&
        columns_same(&run_columns, a, b, COLUMN_SETTING, but_bounds ? COLUMN_BOUND : COLUMN_PLACE);
}

static bool all_heads(const struct run_record *r) { return !r->heads || !strcmp(r->heads, "all"); }

/* KL with every layer sparse and all else as in `r`; NAN when no run has it. */
static double kl_of_all(const struct run_list *runs, const struct run_record *r)
{
    bool on[MAX_LAYERS];
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *o = &runs->rows[i];
        if (o->status == RUN_DONE && all_heads(o) && same_question(o, r, false) &&
            parse_layers(o->layers, o->model.n_layers, on) == o->model.n_layers)
            return o->headline.kl_mean;
    }
    return NAN;
}

static double cost(const struct attribution *a)
{
    double c = a->all_but ? a->kl_saved : a->kl;
    return isnan(c) ? -INFINITY : c;
}

static int compare_cost(const void *x, const void *y)
{
    const struct attribution *a = x, *b = y;
    if (a->all_but != b->all_but) return a->all_but - b->all_but;
    if (cost(a) != cost(b)) return cost(a) > cost(b) ? -1 : 1;
    return a->layer != b->layer ? a->layer - b->layer : a->head - b->head;
}

enum status attribution_find(const struct run_list *runs, struct attribution **out, size_t *n)
{
    *n = 0;
    *out = malloc((runs->n + 1) * sizeof **out);
    if (!*out) return fail(ERR_MEMORY, "no memory to attribute the errors of %zu runs", runs->n);
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        bool on[MAX_LAYERS];
        int n_layers = r->model.n_layers, n_on = parse_layers(r->layers, n_layers, on);
        if (r->status != RUN_DONE || n_on < 1 || run_is_dense(r)) continue;
        bool alone = n_on == 1, all_but = n_on == n_layers - 1 && n_layers > 2;
        if ((!alone && !all_but) || (all_but && !all_heads(r))) continue;
        int layer = 0;
        while (on[layer] != alone) layer++;
        (*out)[(*n)++] = (struct attribution){
            .run = r,
            .layer = layer,
            .head = all_heads(r) ? -1 : atoi(r->heads),
            .all_but = all_but,
            .kl = r->headline.kl_mean,
            .cosine = r->headline.cosine_mean,
            .kl_saved = all_but ? kl_of_all(runs, r) - r->headline.kl_mean : NAN,
        };
    }
    qsort(*out, *n, sizeof **out, compare_cost);
    return OK;
}

struct table *attribution_table(const struct attribution *rows, size_t n)
{
    struct table *t = table_new("Error by layer and head, end to end");
    add_text(t, "id", "run");
    add_text(t, "layer", "layer");
    add_text(t, "head", "head");
    add_text(t, "sparse", "sparse");
    add(t, "kl_mean", "KL", "nats", NUMBER_FIXED, 4, METRIC_LOWER);
    add(t, "kl_saved", "KL saved", "nats", NUMBER_FIXED, 4, METRIC_NEITHER);
    add(t, "cosine_mean", "cosine", NULL, NUMBER_FIXED, 4, METRIC_HIGHER);
    add(t, "ppl_ratio", "ppl ratio", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    add_share(t, "sparsity", "sparsity", METRIC_HIGHER);
    for (size_t i = 0; i < n; i++) {
        table_int(t, rows[i].run->id);
        table_int(t, rows[i].layer);
        if (rows[i].head < 0) {
            table_missing(t);
            table_show(t, "all");
        } else {
            table_int(t, rows[i].head);
        }
        table_text(t, rows[i].all_but ? "all_but" : "alone");
        table_show(t, rows[i].all_but ? "all but it" : "it alone");
        table_real(t, rows[i].kl);
        table_real(t, rows[i].kl_saved);
        table_real(t, rows[i].cosine);
        table_real(t, rows[i].run->headline.ppl_ratio);
        table_real(t, rows[i].run->headline.sparsity);
    }
    return t;
}

enum status plot_attribution(
    const struct plot_out *o, const char *name, const struct run_list *runs)
{
    struct attribution *rows;
    size_t n, alone = 0, all_but = 0;
    TRY(attribution_find(runs, &rows, &n));
    struct plot_script p;
    plot_script_init(&p, o, name, PLOT_WIDTH, 0);
    struct str saved = {0};
    int n_layers = n ? rows[0].run->model.n_layers : 0;
    str_add(&p.data, "$alone << EOD\n");
    for (size_t i = 0; i < n; i++) {
        const struct attribution *r = &rows[i];
        if (r->head >= 0) continue;
        const struct headline *h = &r->run->headline;
        if (r->all_but) {
            str_addf(&saved, "%d", r->layer);
            plot_number(r->kl_saved, &saved);
            str_add_char(&saved, '\n');
            plot_tip(&p, 1, r->layer, r->kl_saved, "layer %d left dense|saves %.3g nats of KL",
                r->layer, r->kl_saved);
            all_but++;
            continue;
        }
        str_addf(&p.data, "%d", r->layer);
        plot_number(r->kl, &p.data);
        plot_number(isnan(h->kl_lo) ? r->kl : h->kl_lo, &p.data);
        plot_number(isnan(h->kl_hi) ? r->kl : h->kl_hi, &p.data);
        str_add_char(&p.data, '\n');
        plot_tip(&p, 0, r->layer, r->kl, "layer %d alone sparse|KL %.3g%s", r->layer, r->kl,
            plot_interval(h->kl_lo, h->kl_hi, "%.3g"));
        alone++;
    }
    str_addf(&p.data, "%sEOD\n$saved << EOD\n%sEOD\n", alone ? "" : "NaN NaN NaN NaN\n",
        all_but ? str_get(&saved) : "NaN NaN\n");
    str_clear(&saved);
    free(rows);
    if (!alone && !all_but) {
        plot_script_clear(&p);
        return fail(
            ERR_ARG, "%s: no runs single out a layer; make some with sweep --layers each", name);
    }
    struct plot_frame frame = {.left = 48,
        .plot_height = 190,
        .n_key = (alone > 0) + (all_but > 0),
        .xlabel = "layer",
        .ylabel = "KL divergence, nats (bars: 95 %)"};
    plot_frame(&p, &frame);
    str_addf(&p.body,
        "set boxwidth 0.7\nset offsets 0,0,graph 0.05,0\nset xrange [-0.6:%.1f]\nset xtics %d\n",
        n_layers - .4, n_layers > 12 ? 4 : 1);
    if (alone) {
        plot_add(&p, 0, "caused by the layer alone",
            "$alone using 1:2 with boxes fs transparent solid 0.35 border lc '%s' lc '%s'",
            plot_color(0), plot_color(0));
        plot_add(&p, 0, NULL, "$alone using 1:2:3:4 with yerrorbars pt 7 ps 0.2 lw 1.2 lc '%s'",
            plot_color(0));
    }
    if (all_but)
        plot_add(&p, 1, "saved by leaving it dense",
            "$saved using 1:2 with points pt 5 ps 0.8 lc '%s'", plot_color(1));
    str_add(&p.sql,
        "SELECT id, layers, heads, kl_mean, kl_lo, kl_hi FROM v_runs WHERE status = 'done' ORDER "
        "BY id;");
    return plot_script_run(&p);
}

static int compare_bounds(const void *x, const void *y)
{
    const struct run_record *const *a = x, *const *b = y;
    if ((*a)->l1 != (*b)->l1) return (*a)->l1 < (*b)->l1 ? -1 : 1;
    if ((*a)->pv_l1 != (*b)->pv_l1 && !(isnan((*a)->pv_l1) && isnan((*b)->pv_l1)))
        return (*a)->pv_l1 < (*b)->pv_l1 ? -1 : 1;
    return ((*a)->id > (*b)->id) - ((*a)->id < (*b)->id);
}

/* Is the tighter of two runs worse, beyond what their intervals allow? */
static bool violates(const struct run_record *tight, const struct run_record *loose)
{
    const struct headline *t = &tight->headline, *l = &loose->headline;
    double upper = isnan(t->cosine_hi) ? t->cosine_mean : t->cosine_hi;
    double lower = isnan(l->cosine_lo) ? l->cosine_mean : l->cosine_lo;
    return tight->l1 < loose->l1 && tight->pv_l1 <= loose->pv_l1 && upper < lower;
}

struct table *monotonicity_table(const struct run_list *runs, size_t *n_violations)
{
    struct table *t = table_new("Do tighter bounds keep more?");
    add_text(t, "id", "run");
    add_short(t, "l1", "l1");
    add_short(t, "pv_l1", "pv_l1");
    add_share(t, "sparsity", "sparsity", METRIC_NEITHER);
    add_short(t, "cosine_mean", "cosine");
    add_short(t, "cosine_lo", "95 % from");
    add_short(t, "cosine_hi", "to");
    add_text(t, "verdict", "verdict");
    add_data(t, "worse_than");
    *n_violations = 0;
    const struct run_record **order = xmalloc((runs->n + 1) * sizeof *order);
    bool *done = xcalloc(runs->n + 1, sizeof *done);
    for (size_t i = 0; i < runs->n; i++) {
        size_t n = 0;
        for (size_t k = i; k < runs->n; k++) {
            const struct run_record *r = &runs->rows[k];
            if (done[k] || r->status != RUN_DONE || isnan(r->l1) || isnan(r->headline.cosine_mean))
                continue;
            if (!same_question(&runs->rows[i], r, true)) continue;
            done[k] = true;
            order[n++] = r;
        }
        if (n < 2) continue;
        qsort(order, n, sizeof *order, compare_bounds);
        for (size_t k = 0; k < n; k++) {
            const struct run_record *r = order[k], *worse_than = NULL;
            for (size_t q = k + 1; q < n && !worse_than; q++)
                if (violates(r, order[q])) worse_than = order[q];
            table_int(t, r->id);
            table_real(t, r->l1);
            table_real(t, r->pv_l1);
            table_real(t, r->headline.sparsity);
            table_real(t, r->headline.cosine_mean);
            table_real(t, r->headline.cosine_lo);
            table_real(t, r->headline.cosine_hi);
            char text[64] = "ok";
            if (worse_than)
                snprintf(
                    text, sizeof text, "worse than the looser run %lld", (long long)worse_than->id);
            table_text(t, worse_than ? "worse" : "ok");
            table_show(t, text);
            table_mark(t, worse_than ? "▼" : "=");
            if (worse_than) table_int(t, worse_than->id);
            else table_missing(t);
            *n_violations += worse_than != NULL;
        }
    }
    free(order);
    free(done);
    return t;
}

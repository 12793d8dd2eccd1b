#include "reports/report.h"

#include "base/file.h"
#include "base/xmalloc.h"
#include "reports/attribution.h"
#include "reports/contest.h"
#include "reports/plot.h"
#include "reports/recompute.h"
#include "reports/runjson.h"
#include "reports/tables.h"
#include "reports/tasks.h"
#include "results/columns.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_LINES = 6, /* as many as a picture's colours keep apart */
    MOST_PICTURES = 96,
    MOST_MASKS = 12, /* also of layers */
    MOST_MAPS = 6,   /* combinations of further settings that get maps of their own */
};

/* A report being put together. */
struct draft {
    const struct report_options *o;
    struct run_view subject, baseline;
    bool has_baseline, is_sweep;
    const struct run_view *views[2]; /* subject, then baseline */
    size_t n_views;
    struct run_list runs;   /* same model and data as the subject */
    struct run_list plan;   /* what the page's tables are of: the sweep, the subject's plan on any
                               data, or `runs` once more */
    struct run_view *named; /* those of o->runs; their records are copied into `plan` */
    size_t n_named;
    struct run_axes axes;
    struct table **contests; /* methods at equal sparsity */
    size_t n_contests;
    size_t cells[CELL_MISSING + 1];
    bool has_cells;
    struct run_view
        *others; /* of the plan: those on the subject's data, then those on a grid of needles */
    size_t n_same, n_needles,
        n_left_out; /* of n_same: by how many there are too many for one picture */
    struct comparison comparison;
    struct html_picture pictures[MOST_PICTURES];
    size_t n_pictures, n_tried, most;
    struct plot_out out;
    struct plot_drawer drawer;
    char *pictures_dir, *tables_dir;
    char *page_notes[4];
    size_t n_page_notes;
    enum status failed; /* the first picture that could not be drawn, */
    struct str failure; /* and why */
    struct str *notes;
    bool no_gnuplot;
};

static enum status load_run(struct run_view *v, struct store *s, const char *name)
{
    if (str_ends_with(name, ".json")) {
        TRY(runjson_read(v, name));
        enum status st = recompute_check(v);
        if (st != OK) run_view_clear(v);
        return st;
    }
    if (!s)
        return fail(ERR_ARG,
            "run %s: there is no database to find it in; name a before/after JSON file", name);
    return run_view_load(v, s, name);
}

static bool is_subject_data(const struct draft *d, const struct run_record *r)
{
    return !strcmp(r->dataset.fingerprint, d->subject.run->dataset.fingerprint);
}

static bool is_sparse(const struct run_record *r)
{
    return r->status == RUN_DONE && !r->repeat && !run_is_dense(r);
}

/* Of a sweep what its frontier is made of, and what the page is about. */
static bool is_shown(
    const struct draft *d, const struct frontier_point *points, size_t n, size_t run)
{
    if (!d->is_sweep || d->plan.rows[run].id == d->subject.run->id) return true;
    for (size_t i = 0; i < n; i++)
        if (points[i].run == run) return !points[i].dominated;
    return false;
}

/* Runs of the plan that share a picture: on the subject's data, and on the needles that were asked
 * last. */
static enum status load_others(struct draft *d, struct store *s)
{
    d->others = xcalloc(2 * MOST_LINES, sizeof *d->others);
    if (!s) return OK;
    struct run_filter f = {.model = d->subject.run->model.fingerprint,
        .plan = d->subject.run->plan,
        .suite = "needle",
        .done_only = true};
    struct run_list needles;
    struct frontier_point *points;
    size_t n_points;
    TRY(query_runs(s, &f, &needles));
    enum status st = query_frontier(&d->plan, FRONTIER_KL, &points, &n_points);
    if (st != OK) points = NULL;
    for (size_t i = 0; i < d->plan.n && st == OK; i++) {
        const struct run_record *r = &d->plan.rows[i];
        if (!is_sparse(r) || !is_subject_data(d, r)) continue;
        if (d->n_same == MOST_LINES || !is_shown(d, points, n_points, i)) {
            d->n_left_out++;
            continue;
        }
        st = run_view_load(&d->others[d->n_same], s, r->key);
        d->n_same += st == OK;
    }
    const char *grid = needles.n ? needles.rows[needles.n - 1].dataset.fingerprint : "";
    for (size_t i = 0; i < needles.n && d->n_needles < MOST_LINES && st == OK; i++) {
        const struct run_record *r = &needles.rows[i];
        if (strcmp(r->dataset.fingerprint, grid) || !is_sparse(r)) continue;
        st = run_view_load(&d->others[d->n_same + d->n_needles], s, r->key);
        d->n_needles += st == OK;
    }
    free(points);
    run_list_clear(&needles);
    return st;
}

static enum status load_baseline(struct draft *d, struct store *s)
{
    struct noise_list floors = {0};
    TRY(load_run(&d->baseline, s, d->o->baseline));
    d->has_baseline = true;
    d->views[d->n_views++] = &d->baseline;
    if (s)
        TRY(query_noise(
            s, d->subject.run->machine.fingerprint, d->subject.run->model.fingerprint, &floors));
    struct compare_options c = {.floors = &floors};
    enum status st = compare_runs(&d->comparison, &d->baseline, &d->subject, &c);
    noise_list_clear(&floors);
    return st;
}

/* The runs that were named, as one list. */
static enum status load_named(struct draft *d, struct store *s)
{
    d->named = xcalloc(d->o->n_runs, sizeof *d->named);
    d->plan.rows = xcalloc(d->o->n_runs, sizeof *d->plan.rows);
    for (; d->n_named < d->o->n_runs; d->n_named++) {
        TRY(load_run(&d->named[d->n_named], s, d->o->runs[d->n_named]));
        struct run_record *r = &d->plan.rows[d->plan.n];
        *r = *d->named[d->n_named].run;
        if (!r->id) r->id = (int64_t)d->n_named + 1; /* of a file: its place in the command */
        d->plan.n++;
    }
    return OK;
}

static enum status load_sweep(struct draft *d, struct store *s)
{
    bool holds;
    d->is_sweep = true;
    if (d->o->n_runs) {
        TRY(load_named(d, s));
    } else {
        TRY(query_runs(s, &(struct run_filter){.plan = d->o->plan}, &d->plan));
        d->has_cells = query_plan_status(s, d->o->plan, d->cells) == OK && d->cells[CELL_DONE];
    }
    size_t at = sweep_choice(&d->plan, &holds);
    if (at == SIZE_MAX)
        return fail(ERR_ARG,
            "plan %s: found no finished run with sparsity and KL among %zu, of which a report "
            "could be made; "
            "`status` says how far it is",
            d->o->plan ? d->o->plan : "of these runs", d->plan.n);
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)d->plan.rows[at].id);
    TRY(load_run(&d->subject, s, d->o->n_runs ? d->o->runs[at] : id));
    run_axes_find(&d->plan, &d->axes);
    return s ? contest_tables(s, &d->plan, &d->contests, &d->n_contests) : OK;
}

static enum status load(struct draft *d, struct store *s)
{
    if (!d->o->run && (d->o->plan || d->o->n_runs)) TRY(load_sweep(d, s));
    else TRY(load_run(&d->subject, s, d->o->run ? d->o->run : "last"));
    d->views[d->n_views++] = &d->subject;
    if (d->o->baseline) TRY(load_baseline(d, s));
    if (s && !d->subject.from_file) {
        struct run_filter f = {.model = d->subject.run->model.fingerprint,
            .dataset = d->subject.run->dataset.fingerprint};
        TRY(query_runs(s, &f, &d->runs));
        if (d->subject.run->plan) {
            f.dataset = NULL;
            f.plan = d->subject.run->plan;
        }
        if (!d->is_sweep) TRY(query_runs(s, &f, &d->plan));
    }
    return load_others(d, d->subject.from_file ? NULL : s);
}

/* Take a picture that was drawn; a missing one is a note, and data that hold nothing for it are no
 * news. */
static void add_drawn(struct draft *d, enum status st, const char *name, const char *section,
    bool small, const char *caption)
{
    if (d->o->watch) d->o->watch(d->o->watch_ctx, ++d->n_tried, d->most);
    if (st == ERR_ARG) return;
    if (st == ERR_UNSUPPORTED) {
        if (!d->no_gnuplot) str_addf(d->notes, "%s\n", status_message());
        d->no_gnuplot = true;
        return;
    }
    if (st != OK) { /* a full disk: what can be written is, and then it is said */
        if (d->failed == OK) str_add(&d->failure, status_message());
        if (d->failed == OK) d->failed = st;
        return;
    }
    if (d->n_pictures == MOST_PICTURES) {
        str_addf(d->notes, "%s: a page holds %d pictures, this one is in its folder alone\n", name,
            MOST_PICTURES);
        return;
    }
    char *file = str_format("%s.svg", name);
    d->pictures[d->n_pictures++] =
        (struct html_picture){path_join(d->pictures_dir, file), str_dup(caption), section, small};
    free(file);
}

static void add_picture(
    struct draft *d, enum status st, const char *name, const char *section, const char *caption)
{
    add_drawn(d, st, name, section, false, caption);
}

static void add_small(
    struct draft *d, enum status st, const char *name, const char *section, const char *caption)
{
    add_drawn(d, st, name, section, true, caption);
}

static void page_note(struct draft *d, char *text)
{
    if (d->n_page_notes + 1 < sizeof d->page_notes / sizeof *d->page_notes)
        d->page_notes[d->n_page_notes++] = text;
    else free(text);
}

/* l1 and pv_l1, or the two settings with most numbers. */
static void map_axes(const struct run_axes *a, const struct run_axis **x, const struct run_axis **y)
{
    *x = run_axes_get(a, "l1");
    *y = run_axes_get(a, "pv_l1");
    if (*x && *y && !run_axis_follows(a, *y, *x)) return;
    *x = *y = NULL;
    for (size_t i = 0; i < a->n; i++) {
        const struct run_axis *axis = &a->at[i];
        if (!axis->is_number || !strcmp(axis->name, "length")) continue;
        if (!*x || axis->n > (*x)->n) {
            *y = *x;
            *x = axis;
        } else if (!*y || axis->n > (*y)->n) {
            *y = axis;
        }
    }
    if (!*y || run_axis_follows(a, *y, *x)) *x = *y = NULL;
}

/* An axis that only repeats one before it; NULL: none. */
static const struct run_axis *repeats(const struct run_axes *a, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (run_axis_follows(a, &a->at[i], &a->at[k])) return &a->at[k];
    return NULL;
}

static const struct run_axis *follower(const struct run_axes *a, size_t i)
{
    for (size_t k = i + 1; k < a->n; k++)
        if (repeats(a, k) == &a->at[i]) return &a->at[k];
    return NULL;
}

/* A pair of maps for each combination of the other settings, in the order of the runs. */
static void draw_maps(struct draft *d, const struct run_axis *x, const struct run_axis *y)
{
    size_t n = 0, left_out = 0;
    for (size_t i = 0; i < d->plan.n; i++) {
        const struct run_record *r = &d->plan.rows[i];
        bool known = !is_sparse(r) || run_axis_level(x, r) < 0 || run_axis_level(y, r) < 0;
        for (size_t k = 0; k < i && !known; k++)
            known = is_sparse(&d->plan.rows[k]) && run_axis_level(x, &d->plan.rows[k]) >= 0 &&
                run_axes_same(&d->axes, &d->plan.rows[k], r, x, y);
        if (known) continue;
        if (n == MOST_MAPS) {
            left_out++;
            continue;
        }
        struct str label = {0};
        run_axes_label(&d->axes, r, x, y, &label);
        char *caption = str_format("%s and %s: %s", x->name, y->name, str_get(&label));
        static const char *const kinds[] = {"sparsity", "kl"};
        for (int k = 0; k < 2; k++) {
            char *name = str_format("map_%zu_%s", n + 1, kinds[k]);
            add_small(d,
                plot_sweep_map(&d->out, name, &d->axes, x, y, r, k ? SWEEP_KL : SWEEP_SPARSITY),
                name, "sweep", caption);
            free(name);
        }
        free(caption);
        str_clear(&label);
        n++;
    }
    if (left_out)
        page_note(d,
            str_format("%zu of %zu combinations of the other settings have maps of %s and %s; the "
                       "rest are in the lines "
                       "and in the table.",
                n, n + left_out, x->name, y->name));
}

static void draw_sweep(struct draft *d)
{
    const struct run_axis *x, *y;
    add_picture(d, plot_frontier(&d->out, "frontier_kl", &d->plan, FRONTIER_KL), "frontier_kl",
        "sweep", "Sparsity against KL divergence; hollow: beaten by its own method");
    add_picture(d, plot_frontier(&d->out, "frontier_ppl", &d->plan, FRONTIER_PPL), "frontier_ppl",
        "sweep", "Sparsity against perplexity; hollow: beaten by its own method");
    add_picture(d, plot_frontier(&d->out, "frontier_cosine", &d->plan, FRONTIER_COSINE),
        "frontier_cosine", "sweep", "Sparsity against cosine; hollow: beaten by its own method");
    map_axes(&d->axes, &x, &y);
    for (size_t i = 0; i < d->axes.n; i++) {
        const struct run_axis *a = &d->axes.at[i];
        if (a == x || a == y || repeats(&d->axes, i)) continue;
        for (int k = 0; k < 2; k++) {
            char *name =
                str_format("by_%s_%s", a->column ? a->column->name : "data", k ? "sparsity" : "kl");
            char *caption =
                str_format("%s by %s, a line for each combination of the other settings",
                    k ? "Sparsity" : "KL", a->name);
            add_picture(d,
                plot_sweep_lines(&d->out, name, &d->axes, a, follower(&d->axes, i),
                    k ? SWEEP_SPARSITY : SWEEP_KL),
                name, "sweep", caption);
            free(caption);
            free(name);
        }
    }
    if (x && y) draw_maps(d, x, y);
}

static void draw_needles(
    struct draft *d, const struct run_view *const *views, size_t n, const char *caption)
{
    for (size_t i = 0; i <= n; i++) {
        char *name = i ? str_format("needle_%zu", i) : str_dup("needle_dense");
        add_small(d, plot_needle(&d->out, name, views, n, i ? i - 1 : 0, i == 0), name, "changed",
            caption);
        free(name);
    }
}

static void draw_heads(struct draft *d)
{
    const struct plot_out *o = &d->out;
    const struct run_view *v = &d->subject;
    static const char caption[] = "Each head: share left out, its error on held-out text when "
                                  "tuned, the error it causes with its "
                                  "layer alone sparse, and the error it ends with; grey: dense";
    add_small(
        d, plot_heads(o, "heads_sparsity", v, HEAT_SPARSITY), "heads_sparsity", "why", caption);
    add_small(d, plot_heads(o, "heads_l1", v, HEAT_L1_HELD_OUT), "heads_l1", "why", caption);
    add_small(
        d, plot_heads(o, "heads_isolated", v, HEAT_L1_ISOLATED), "heads_isolated", "why", caption);
    add_small(d, plot_heads(o, "heads_propagated", v, HEAT_L1_PROPAGATED), "heads_propagated",
        "why", caption);
}

static void draw_masks(struct draft *d)
{
    const struct run_view *v = &d->subject;
    size_t n = v->masks.n < MOST_MASKS ? v->masks.n : MOST_MASKS;
    char *caption = str_format("Tile maps of %zu of %zu heads, positions in tokens: queries down, "
                               "keys across; blue is computed, empty left out, grey the future",
        n, v->masks.n);
    for (size_t i = 0; i < n; i++) {
        size_t at = i * v->masks.n / n;
        char *name = str_format(
            "mask_layer%d_head%d_%zu", v->masks.rows[at].layer, v->masks.rows[at].head, i + 1);
        add_small(d, plot_mask(&d->out, name, v, at), name, "why", caption);
        free(name);
    }
    free(caption);
}

/* One map a layer, spread over all of them where there are many. */
static void draw_layers(struct draft *d)
{
    const struct run_view *v = &d->subject;
    int first = v->masks.n ? v->masks.rows[0].layer : 0, last = first;
    for (size_t i = 0; i < v->masks.n; i++) {
        if (v->masks.rows[i].layer < first) first = v->masks.rows[i].layer;
        if (v->masks.rows[i].layer > last) last = v->masks.rows[i].layer;
    }
    int all = v->masks.n ? last - first + 1 : 0, n = all < MOST_MASKS ? all : MOST_MASKS;
    char *caption = str_format("Queries down, keys across: the stronger the blue, the more of the "
                               "layer's heads compute a tile; empty is left out, grey the future. "
                               "Half of a dense layer lies within %d tokens",
        layer_reach(v, first, true));
    for (int i = 0; i < n; i++) {
        int layer = first + i * all / n;
        char *name = str_format("layer_%d", layer);
        add_small(d, plot_layer(&d->out, name, v, layer), name, "layers", caption);
        free(name);
    }
    free(caption);
}

/* So many pictures are tried at most. */
static size_t pictures_of(const struct draft *d)
{
    enum { ALWAYS = 18 /* whatever the page is about */, FRONTIERS = 3, MOST_NEEDLES = MOST_LINES };
    size_t sweep = d->is_sweep ? FRONTIERS + 2 * d->axes.n + 2 * MOST_MAPS : FRONTIERS,
           masks = d->subject.masks.n < MOST_MASKS ? d->subject.masks.n : MOST_MASKS;
    return ALWAYS + sweep + 2 * masks + 1 + (d->n_needles ? d->n_needles : MOST_NEEDLES);
}

static void draw_all(struct draft *d)
{
    d->most = pictures_of(d);
    const struct plot_out *o = &d->out;
    const struct run_view *v = &d->subject;
    /* the baseline comes first in pictures: before, then after */
    const struct run_view *order[2] = {d->has_baseline ? &d->baseline : v, v};
    size_t n = d->has_baseline ? 2 : 1;
    /* with a plan all of its runs are set side by side, else what the page compares */
    const struct run_view *plan[2 * MOST_LINES];
    for (size_t i = 0; i < d->n_same + d->n_needles; i++) plan[i] = &d->others[i];
    bool has_plan = d->subject.run->plan && d->n_same > n;
    const struct run_view *const *lines = has_plan ? plan : order;
    size_t n_lines = has_plan ? d->n_same : n;
    draw_layers(d);
    if (d->is_sweep) draw_sweep(d);
    add_picture(d, plot_losses(o, "losses", order, n), "losses", "changed", "What was lost");
    if (strcmp(d->subject.run->dataset.suite, "needle")) /* the grid says it already */
        add_picture(d, plot_distance(o, "distance", lines, n_lines), "distance", "changed",
            "Answers right by distance to the evidence");
    if (!d->is_sweep && d->runs.n > 1) {
        add_picture(d, plot_frontier(o, "frontier_kl", &d->runs, FRONTIER_KL), "frontier_kl",
            "changed", "Sparsity against KL divergence; hollow: beaten by its own method");
        add_picture(d, plot_frontier(o, "frontier_ppl", &d->runs, FRONTIER_PPL), "frontier_ppl",
            "changed", "Sparsity against perplexity; hollow: beaten by its own method");
        add_picture(d, plot_frontier(o, "frontier_cosine", &d->runs, FRONTIER_COSINE),
            "frontier_cosine", "changed",
            "Sparsity against cosine; hollow: beaten by its own method");
    }
    add_picture(d, plot_distribution(o, "kl", lines, n_lines, "kl"), "kl", "changed",
        "Distribution of the KL divergence");
    add_picture(d, plot_distribution(o, "cosine", lines, n_lines, "cosine"), "cosine", "changed",
        "Distribution of the cosine");
    if (has_plan && d->n_left_out)
        page_note(d,
            str_format("Distributions and distances show %zu of %zu runs on this data: %s; the "
                       "rest are in the table.",
                d->n_same, d->n_same + d->n_left_out,
                d->is_sweep ? "those on the KL frontier" : "the first that were stored"));
    if (d->n_needles)
        draw_needles(d, plan + d->n_same, d->n_needles, "Needles found, %, by depth and length");
    else draw_needles(d, lines, n_lines, "Answers right, %, by depth and length");
    add_picture(d, plot_positions(o, "kl_by_position", order, n, "kl"), "kl_by_position", "why",
        "KL divergence by token position");
    add_picture(d, plot_positions(o, "cosine_by_position", order, n, "cosine"),
        "cosine_by_position", "why", "Cosine by token position");
    add_picture(
        d, plot_layers(o, "layers", v), "layers", "why", "Error of the attention output by layer");
    add_picture(d, plot_attribution(o, "layer_cost", d->is_sweep ? &d->plan : &d->runs),
        "layer_cost", "why", "Error each layer causes, end to end");
    if (d->o->curves)
        add_picture(d, plot_curves(o, "curves", d->o->curves), "curves", "why",
            "Error against tiles left out: the head with the largest error");
    draw_heads(d);
    draw_masks(d);
    add_picture(
        d, plot_latency(o, "latency", order, n), "latency", "speed", "Prefill time against length");
    add_picture(d, plot_breakdown(o, "breakdown", order, n), "breakdown", "speed",
        breakdown_is_whole(v)
            ? "Where the time goes; the sparse kernel does QK and PV at once, so attention is one "
              "part"
            : "Where the time goes; dense attention, and that of layers left dense, is one part");
}

static enum status write_file(const struct draft *d, const char *name, struct str *text)
{
    char *path = path_join(d->o->dir, name);
    enum status st = file_write_text(path, text);
    free(path);
    return st;
}

static char *title_of(const struct draft *d)
{
    if (d->o->title) return str_dup(d->o->title);
    if (d->is_sweep)
        return d->o->plan && !d->o->n_runs
            ? str_format("Sweep %s of %s", d->o->plan, d->subject.run->model.name)
            : str_format("%zu runs of %s", d->plan.n, d->subject.run->model.name);
    return str_format("Sparse attention in %s: %s", d->subject.run->model.name, d->subject.label);
}

static enum status write_page(const struct draft *d, const char *title)
{
    struct html_input in = {
        .title = title,
        .views = d->views,
        .n_views = d->n_views,
        .comparison = d->has_baseline ? &d->comparison : NULL,
        .runs = &d->plan,
        .sweep = d->is_sweep ? &d->axes : NULL,
        .contests = d->contests,
        .n_contests = d->n_contests,
        .cells = d->has_cells ? d->cells : NULL,
        .same_data = &d->runs,
        .notes = (const char *const *)d->page_notes,
        .tables_dir = d->tables_dir,
        .checks = d->o->checks,
        .n_checks = d->o->n_checks,
        .pictures = d->pictures,
        .n_pictures = d->n_pictures,
        .db = d->o->db,
        .argv_line = d->o->argv_line,
    };
    struct str page = {0};
    enum status st = html_page(&in, &page);
    if (st == OK) st = write_file(d, "index.html", &page);
    str_clear(&page);
    return st;
}

static void add_markdown(struct table *t, struct str *out)
{
    if (table_rows(t)) {
        table_render(t, TABLE_MARKDOWN, (struct table_style){.hide_constant = true}, out);
        str_add_char(out, '\n');
    }
    table_free(&t);
}

static void add_answer(const char *question, const struct str *text, struct str *out)
{
    str_addf(out, "**%s** ", question);
    markdown_escape(str_get(text), out);
    str_add(out, "\n\n");
}

static enum status write_markdown(const struct draft *d, const char *title)
{
    struct str out = {0};
    struct answers a;
    bool holds;
    str_add(&out, "# ");
    markdown_escape(title, &out);
    str_add(&out, "\n\n");
    const struct run_view *v = &d->subject;
    if (d->is_sweep) sweep_answers(&d->axes, d->has_cells ? d->cells : NULL, d->o->db, &a);
    else run_answers(v, d->has_baseline ? &d->comparison : NULL, &d->runs, d->o->db, &a);
    if (!d->is_sweep) {
        run_describe(v->run, &out);
        str_add(&out, ".\n\n");
    }
    add_answer("What was lost?", &a.lost, &out);
    add_answer("Where?", &a.where, &out);
    add_answer("Is it noise?", &a.noise, &out);
    add_answer("What to do?", &a.todo, &out);
    if (a.command.len) str_addf(&out, "```sh\n%s\n```\n\n", str_get(&a.command));
    if (a.bands.len) {
        markdown_escape(str_get(&a.bands), &out);
        str_add(&out, "\n\n");
    }
    answers_clear(&a);
    for (size_t i = 0; i < d->n_page_notes; i++) {
        markdown_escape(d->page_notes[i], &out);
        str_add(&out, "\n\n");
    }
    for (size_t i = 0; i < d->n_contests; i++)
        table_render(
            d->contests[i], TABLE_MARKDOWN, (struct table_style){.hide_constant = true}, &out);
    if (d->is_sweep) add_markdown(sweep_table(&d->axes, sweep_choice(&d->plan, &holds)), &out);
    else if (d->plan.n > 1) add_markdown(methods_table(&d->plan, v->run), &out);
    if (d->has_baseline) {
        add_markdown(comparison_table(&d->comparison, false), &out);
        add_markdown(comparison_settings_table(&d->comparison), &out);
    } else {
        add_markdown(metrics_table(v), &out);
    }
    char **warnings = run_warnings(v);
    for (size_t i = 0; warnings[i]; i++) {
        str_add(&out, "> Warning: ");
        markdown_escape(warnings[i], &out);
        str_add(&out, "\n\n");
    }
    warnings_free(warnings);
    add_markdown(causes_table(v, &d->runs), &out);
    add_markdown(layers_table(v), &out);
    if (v->items.n) add_markdown(tasks_table(v), &out);
    if (v->items.n) add_markdown(items_table(v, true), &out);
    add_markdown(generations_table(v), &out);
    add_markdown(latencies_table(v), &out);
    add_markdown(breakdown_table(v), &out);
    for (size_t i = 0; i < d->n_pictures; i++) {
        str_add(&out, "![");
        markdown_escape(d->pictures[i].caption, &out);
        str_addf(&out, "](pictures/%s)\n\n", path_base(d->pictures[i].svg_path));
    }
    add_markdown(provenance_table(v), &out);
    enum status st = write_file(d, "report.md", &out);
    str_clear(&out);
    return st;
}

static enum status write_runs(const struct draft *d)
{
    struct str out = {0};
    struct table *t = runs_table(&d->plan);
    table_render(t, TABLE_CSV, (struct table_style){0}, &out);
    table_free(&t);
    enum status st = write_file(d, "runs.csv", &out);
    str_clear(&out);
    return st;
}

static enum status build(struct draft *d, struct store *s)
{
    TRY(file_make_dirs(d->pictures_dir));
    TRY(load(d, s));
    draw_all(d);
    char *title = title_of(d);
    enum status st = write_page(d, title);
    if (st == OK) st = write_markdown(d, title);
    if (st == OK) st = write_runs(d);
    if (st == OK && d->failed != OK)
        st =
            fail(d->failed, "%s; the rest of the report is in %s", str_get(&d->failure), d->o->dir);
    free(title);
    return st;
}

static void draft_clear(struct draft *d)
{
    plot_drawer_close(&d->drawer);
    for (size_t i = 0; i < d->n_pictures; i++) {
        free((char *)d->pictures[i].svg_path);
        free((char *)d->pictures[i].caption);
    }
    for (size_t i = 0; i < d->n_page_notes; i++) free(d->page_notes[i]);
    free(d->pictures_dir);
    free(d->tables_dir);
    str_clear(&d->failure);
    comparison_clear(&d->comparison);
    run_list_clear(&d->runs);
    contest_tables_free(d->contests, d->n_contests);
    if (d->named) free(d->plan.rows); /* copies */
    else run_list_clear(&d->plan);
    for (size_t i = 0; i < d->n_named; i++) run_view_clear(&d->named[i]);
    free(d->named);
    for (size_t i = 0; i < d->n_same + d->n_needles; i++) run_view_clear(&d->others[i]);
    free(d->others);
    run_view_clear(&d->subject);
    if (d->has_baseline) run_view_clear(&d->baseline);
}

enum status report_write(struct store *s, const struct report_options *o, struct str *notes)
{
    struct draft *d = xcalloc(1, sizeof *d);
    d->o = o;
    d->notes = notes;
    d->pictures_dir = path_join(o->dir, "pictures");
    d->tables_dir = path_join(o->dir, "tables");
    d->out = (struct plot_out){d->pictures_dir, o->db, o->no_png, &d->drawer};
    enum status st = build(d, s);
    draft_clear(d);
    free(d);
    return st;
}

enum status report_choice(struct store *s, const char *plan, char name[24])
{
    struct run_list runs;
    bool holds;
    TRY(query_runs(s, &(struct run_filter){.plan = plan}, &runs));
    size_t at = sweep_choice(&runs, &holds), n = runs.n;
    if (at != SIZE_MAX) snprintf(name, 24, "%lld", (long long)runs.rows[at].id);
    run_list_clear(&runs);
    return at != SIZE_MAX ? OK
                          : fail(ERR_ARG,
                                "plan %s: found no finished run with sparsity and KL among %zu, of "
                                "which a report could be "
                                "made; `list` and `status` say what there is",
                                plan, n);
}

enum status report_plan(struct store *s, char **plan)
{
    struct run_list last, runs;
    *plan = NULL;
    TRY(query_run(s, "last", &last));
    const char *name = last.rows[0].plan;
    enum status st = OK;
    if (name) {
        st = query_runs(s, &(struct run_filter){.plan = name, .done_only = true}, &runs);
        size_t other = 0;
        for (size_t i = 0; st == OK && i < runs.n; i++)
            other +=
                is_sparse(&runs.rows[i]) && !run_same_configuration(&runs.rows[i], &last.rows[0]);
        if (st == OK && other > 1) *plan = str_dup(name);
        if (st == OK) run_list_clear(&runs);
    }
    run_list_clear(&last);
    return st;
}

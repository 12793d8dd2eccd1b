#include "reports/report.h"

#include "base/file.h"
#include "base/xmalloc.h"
#include "reports/attribution.h"
#include "reports/plot.h"
#include "reports/tables.h"
#include "reports/tasks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A report being put together. */
struct draft {
    const struct report_options *o;
    struct run_view subject, baseline;
    bool has_baseline;
    const struct run_view *views[2]; /* subject, then baseline */
    size_t n_views;
    struct run_list runs; /* same model and data as the subject */
    struct run_list plan; /* the subject's plan on any data, or `runs` once more without a plan */
    /* of the plan: those on the subject's data, then those on a grid of needles */
    struct run_view *others;
    size_t n_same, n_needles;
    struct comparison comparison;
    struct html_picture pictures[24];
    size_t n_pictures;
    struct plot_out out;
    char *pictures_dir;
    struct str *notes;
    bool no_gnuplot;
};

enum { MOST_LINES = 6 }; /* as many as a picture's colours keep apart */

static bool is_subject_data(const struct draft *d, const struct run_record *r)
{
    return !strcmp(r->dataset.fingerprint, d->subject.run->dataset.fingerprint);
}

/* Runs of the plan that share a picture: on the subject's data, and on the needles that were asked
 * last. */
static enum status load_others(struct draft *d, struct store *s)
{
    struct run_filter f = {.model = d->subject.run->model.fingerprint,
        .plan = d->subject.run->plan,
        .suite = "needle",
        .done_only = true};
    struct run_list needles;
    TRY(query_runs(s, &f, &needles));
    d->others = xcalloc(2 * MOST_LINES, sizeof *d->others);
    enum status st = OK;
    for (size_t i = 0; i < d->plan.n && d->n_same < MOST_LINES && st == OK; i++) {
        const struct run_record *r = &d->plan.rows[i];
        if (r->status != RUN_DONE || r->repeat || !is_subject_data(d, r) || run_is_dense(r))
            continue;
        st = run_view_load(&d->others[d->n_same], s, r->key);
        d->n_same += st == OK;
    }
    const char *grid = needles.n ? needles.rows[needles.n - 1].dataset.fingerprint : "";
    for (size_t i = 0; i < needles.n && d->n_needles < MOST_LINES && st == OK; i++) {
        const struct run_record *r = &needles.rows[i];
        if (strcmp(r->dataset.fingerprint, grid) || r->repeat || run_is_dense(r)) continue;
        st = run_view_load(&d->others[d->n_same + d->n_needles], s, r->key);
        d->n_needles += st == OK;
    }
    run_list_clear(&needles);
    return st;
}

static enum status load(struct draft *d, struct store *s)
{
    TRY(run_view_load(&d->subject, s, d->o->run ? d->o->run : "last"));
    d->views[d->n_views++] = &d->subject;
    if (d->o->baseline) {
        TRY(run_view_load(&d->baseline, s, d->o->baseline));
        d->has_baseline = true;
        d->views[d->n_views++] = &d->baseline;
        struct noise_list floors;
        TRY(query_noise(
            s, d->subject.run->machine.fingerprint, d->subject.run->model.fingerprint, &floors));
        struct compare_options c = {.floors = &floors};
        enum status st = compare_runs(&d->comparison, &d->baseline, &d->subject, &c);
        noise_list_clear(&floors);
        TRY(st);
    }
    struct run_filter f = {
        .model = d->subject.run->model.fingerprint, .dataset = d->subject.run->dataset.fingerprint};
    TRY(query_runs(s, &f, &d->runs));
    if (d->subject.run->plan) {
        f.dataset = NULL;
        f.plan = d->subject.run->plan;
    }
    TRY(query_runs(s, &f, &d->plan));
    return load_others(d, s);
}

/* Take a picture that was drawn; a missing one is a note, and data that hold nothing for it are no
 * news. */
static void add_picture(
    struct draft *d, enum status st, const char *name, const char *section, const char *caption)
{
    if (st == ERR_ARG) return;
    if (st == ERR_UNSUPPORTED) {
        if (!d->no_gnuplot) str_addf(d->notes, "%s\n", status_message());
        d->no_gnuplot = true;
        return;
    }
    if (st != OK) {
        str_addf(d->notes, "%s\n", status_message());
        return;
    }
    char *file = str_format("%s.svg", name);
    d->pictures[d->n_pictures++] =
        (struct html_picture){path_join(d->pictures_dir, file), caption, section};
    free(file);
}

static void draw_all(struct draft *d)
{
    const struct plot_out *o = &d->out;
    const struct run_view *v = &d->subject;
    /* the baseline comes first in pictures: before, then after */
    const struct run_view *order[2] = {d->has_baseline ? &d->baseline : v, v};
    size_t n = d->has_baseline ? 2 : 1;
    if (d->runs.n > 1) {
        add_picture(d, plot_frontier(o, "frontier_cosine", &d->runs, FRONTIER_COSINE),
            "frontier_cosine", "changed", "Sparsity against cosine");
        add_picture(d, plot_frontier(o, "frontier_kl", &d->runs, FRONTIER_KL), "frontier_kl",
            "changed", "Sparsity against KL divergence");
        add_picture(d, plot_frontier(o, "frontier_ppl", &d->runs, FRONTIER_PPL), "frontier_ppl",
            "changed", "Sparsity against perplexity");
    }
    add_picture(
        d, plot_bars(o, "accuracy", order, n), "accuracy", "changed", "Accuracy and sparsity");
    /* with a plan all of its runs are set side by side, else what the page compares */
    const struct run_view *plan[2 * MOST_LINES];
    for (size_t i = 0; i < d->n_same + d->n_needles; i++) plan[i] = &d->others[i];
    bool has_plan = d->subject.run->plan && d->n_same > n;
    const struct run_view *const *lines = has_plan ? plan : order;
    size_t n_lines = has_plan ? d->n_same : n;
    if (d->n_needles)
        add_picture(d, plot_needle(o, "needle", plan + d->n_same, d->n_needles), "needle",
            "changed", "Needles found by depth and length");
    else
        add_picture(d, plot_needle(o, "needle", lines, n_lines), "needle", "changed",
            "Answers right by depth and length");
    if (strcmp(d->subject.run->dataset.suite, "needle")) /* the grid says it already */
        add_picture(d, plot_distance(o, "distance", lines, n_lines), "distance", "changed",
            "Answers right by distance to the evidence");
    add_picture(d, plot_distribution(o, "cosine", lines, n_lines, "cosine"), "cosine", "changed",
        "Distribution of the cosine");
    add_picture(d, plot_distribution(o, "kl", lines, n_lines, "kl"), "kl", "changed",
        "Distribution of the KL divergence");
    add_picture(d, plot_positions(o, "cosine_by_position", order, n, "cosine"),
        "cosine_by_position", "why", "Cosine by token position");
    add_picture(d, plot_positions(o, "kl_by_position", order, n, "kl"), "kl_by_position", "why",
        "KL divergence by token position");
    add_picture(
        d, plot_layers(o, "layers", v), "layers", "why", "Error of the attention output by layer");
    add_picture(d, plot_attribution(o, "layer_cost", &d->runs), "layer_cost", "why",
        "Error each layer causes, end to end");
    add_picture(d, plot_heads(o, "heads_sparsity", v, HEAT_SPARSITY), "heads_sparsity", "why",
        "Sparsity of each head, %");
    add_picture(d, plot_heads(o, "heads_l1", v, HEAT_L1_HELD_OUT), "heads_l1", "why",
        "L1 of each head on held-out text; grey: dense");
    add_picture(d, plot_heads(o, "heads_isolated", v, HEAT_L1_ISOLATED), "heads_isolated", "why",
        "L1 each head causes: its layer alone sparse; grey: dense");
    add_picture(d, plot_heads(o, "heads_propagated", v, HEAT_L1_PROPAGATED), "heads_propagated",
        "why", "L1 of each head's output in the sparse run, errors of earlier layers included");
    if (d->o->n_curves)
        add_picture(d,
            plot_curves(
                o, "curves", d->o->curves_title, d->o->curves, d->o->n_curves, d->o->curves_bound),
            "curves", "why",
            "Error against tiles left out: the head with the largest error, a line per theta");
    add_picture(d, plot_masks(o, "masks", v), "masks", "why",
        "Computed tiles of some heads; grey: later keys, which no query sees");
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
        .same_data = &d->runs,
        .checks = d->o->checks,
        .n_checks = d->o->n_checks,
        .pictures = d->pictures,
        .n_pictures = d->n_pictures,
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

static enum status write_markdown(const struct draft *d, const char *title)
{
    struct str out = {0};
    str_add(&out, "# ");
    markdown_escape(title, &out);
    str_add(&out, "\n\n");
    const struct run_view *v = &d->subject;
    double ratio = run_view_metric(v, "latency_ratio");
    run_describe(v->run, &out);
    str_add(&out, ".\n\n**");
    if (isnan(run_view_metric(v, "cosine")) && !isnan(ratio))
        str_addf(&out, "Sparse takes %.2f of the dense time at the longest prompt.", ratio);
    else run_headline(v, &out);
    str_add(&out, "**\n\n");
    if (d->plan.n > 1) add_markdown(methods_table(&d->plan, v->run), &out);
    if (d->has_baseline) {
        comparison_verdict(&d->comparison, &out);
        str_add(&out, "\n\n");
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
    free(title);
    return st;
}

enum status report_write(struct store *s, const struct report_options *o, struct str *notes)
{
    struct draft d = {.o = o, .notes = notes, .pictures_dir = path_join(o->dir, "pictures")};
    d.out = (struct plot_out){.dir = d.pictures_dir, .db = o->db, .no_png = o->no_png};
    enum status st = build(&d, s);
    for (size_t i = 0; i < d.n_pictures; i++) free((char *)d.pictures[i].svg_path);
    free(d.pictures_dir);
    comparison_clear(&d.comparison);
    run_list_clear(&d.runs);
    run_list_clear(&d.plan);
    for (size_t i = 0; i < d.n_same + d.n_needles; i++) run_view_clear(&d.others[i]);
    free(d.others);
    run_view_clear(&d.subject);
    if (d.has_baseline) run_view_clear(&d.baseline);
    return st;
}

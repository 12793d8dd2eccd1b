#include "reports/tables.h"

#include "base/stats.h"
#include "base/xmalloc.h"
#include "reports/axes.h"
#include "reports/columns.h"
#include "results/columns.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Settings and where they ran; hashes tell people nothing. */
static bool column_shown(const struct column *c)
{
    return (c->use & COLUMN_SETTING && strcmp(c->name, "tuned_hash")) ||
        !strcmp(c->name, "threads");
}

/* Columns and cells that tell one setting from another; in every table of runs. */
static void add_settings_columns(struct table *t)
{
    add_text(t, "model");
    add_text(t, "data");
    for (size_t i = 0; i < run_columns.n; i++)
        if (column_shown(&run_columns.at[i])) add_short(t, column_label(&run_columns.at[i]));
}

static void add_settings(struct table *t, const struct run_record *r)
{
    table_text(t, r->model.name);
    table_text(t, r->dataset.name);
    for (size_t i = 0; i < run_columns.n; i++) {
        const struct column *c = &run_columns.at[i];
        struct str text = {0};
        if (!column_shown(c)) continue;
        column_describe(c, r, &text);
        if (column_missing(c, r)) table_missing(t);
        else if (c->type == COLUMN_REAL) table_real(t, column_real(c, r));
        else if (c->type == COLUMN_INT || c->type == COLUMN_INT64)
            table_int(t, (int64_t)column_real(c, r));
        else table_text(t, str_get(&text));
        str_clear(&text);
    }
}

struct table *runs_table(const struct run_list *runs)
{
    struct table *t = table_new(NULL);
    add_text(t, "run");
    add_settings_columns(t);
    add_text(t, "status");
    add_share(t, "sparsity", METRIC_HIGHER);
    add(t, "cosine", NULL, NUMBER_FIXED, 4, METRIC_HIGHER);
    add(t, "cosine p1", NULL, NUMBER_FIXED, 4, METRIC_HIGHER);
    add(t, "KL", "nats", NUMBER_FIXED, 4, METRIC_LOWER);
    add(t, "KL p99.9", "nats", NUMBER_FIXED, 3, METRIC_LOWER);
    add(t, "ppl dense", NULL, NUMBER_FIXED, 3, METRIC_NEITHER);
    add(t, "ppl ratio", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    add_share(t, "agreement", METRIC_HIGHER);
    add_share(t, "score dense", METRIC_NEITHER);
    add_share(t, "score sparse", METRIC_HIGHER);
    add(t, "time ratio", NULL, NUMBER_FIXED, 3, METRIC_LOWER);
    add(t, "took", NULL, NUMBER_SECONDS, 1, METRIC_NEITHER);
    add_text(t, "reason");
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        const struct headline *h = &r->headline;
        table_int(t, r->id);
        add_settings(t, r);
        table_text(t, run_status_name(r->status));
        const double v[] = {h->sparsity, h->cosine_mean, h->cosine_p1, h->kl_mean, h->kl_p99_9,
            h->ppl_dense, h->ppl_ratio, h->token_accuracy, h->score_dense, h->score_sparse,
            h->latency_ratio, r->wall_s};
        for (size_t k = 0; k < sizeof v / sizeof *v; k++) table_real(t, v[k]);
        table_text(t, r->reason);
    }
    return t;
}

/* Its place on the KL frontier of its model and data. */
static const char *place_of(const struct frontier_point *points, size_t n, size_t run)
{
    for (size_t i = 0; i < n; i++)
        if (points[i].run == run)
            return points[i].knee ? "knee" : points[i].dominated ? "dominated" : "frontier";
    return NULL;
}

struct table *sweep_table(const struct run_axes *axes, size_t choice)
{
    const struct run_list *runs = axes->runs;
    struct table *t = table_new("Every run of the sweep");
    struct frontier_point *points = NULL;
    size_t n = 0;
    if (query_frontier(runs, FRONTIER_KL, &points, &n) != OK) n = 0;
    add_text(t, "run");
    add_text(t, "place");
    add_share(t, "sparsity", METRIC_HIGHER);
    add(t, "KL", "nats", NUMBER_FIXED, 4, METRIC_LOWER);
    add(t, "95 % from", NULL, NUMBER_FIXED, 4, METRIC_NEITHER);
    add(t, "to", NULL, NUMBER_FIXED, 4, METRIC_NEITHER);
    add_share(t, "answers lost", METRIC_LOWER);
    add_text(t, "method");
    for (size_t k = 0; k < axes->n; k++) add_short(t, axes->at[k].name);
    add(t, "ppl ratio", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    add_share(t, "agreement", METRIC_HIGHER);
    add(t, "cosine", NULL, NUMBER_FIXED, 4, METRIC_HIGHER);
    add(t, "time ratio", NULL, NUMBER_FIXED, 3, METRIC_LOWER);
    add_text(t, "status");
    add_text(t, "reason");
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        const struct headline *h = &r->headline;
        struct str method = {0};
        run_method_name(r, &method);
        table_int(t, r->id);
        table_text(t, i == choice ? "chosen" : place_of(points, n, i));
        const double first[] = {h->sparsity, h->kl_mean, h->kl_lo, h->kl_hi, h->score_drop};
        for (int k = 0; k < 5; k++) table_real(t, first[k]);
        table_text(t, str_get(&method));
        for (size_t k = 0; k < axes->n; k++) {
            struct str value = {0};
            const struct run_axis *a = &axes->at[k];
            run_axis_value(a, r, &value);
            if (run_axis_level(a, r) < 0) table_missing(t);
            else if (a->is_number) table_real(t, column_real(a->column, r));
            else table_text(t, str_get(&value));
            str_clear(&value);
        }
        const double rest[] = {h->ppl_ratio, h->token_accuracy, h->cosine_mean, h->latency_ratio};
        for (int k = 0; k < 4; k++) table_real(t, rest[k]);
        table_text(t, run_status_name(r->status));
        table_text(t, r->reason);
        str_clear(&method);
    }
    free(points);
    table_note(t, "place: on the KL frontier of its data; chosen: what the top of the page offers");
    return t;
}

double run_detectable(const struct run_record *r, enum frontier_axis axis)
{
    const struct headline *h = &r->headline;
    double lo = axis == FRONTIER_COSINE ? h->cosine_lo
        : axis == FRONTIER_KL           ? h->kl_lo
                                        : h->ppl_ratio_lo,
           hi = axis == FRONTIER_COSINE ? h->cosine_hi
        : axis == FRONTIER_KL           ? h->kl_hi
                                        : h->ppl_ratio_hi;
    int df = r->dataset.n_samples - 1;
    if (isnan(lo) || isnan(hi) || df < 1) return NAN;
    double std_error = (hi - lo) / (2 * student_quantile(.975, df));
    /* of the difference of two such runs */
    return detectable_difference(sqrt(2) * std_error, 2. * df);
}

static const struct frontier_point *sorted_by_sparsity(const struct run_list *runs,
    const struct frontier_point *points, size_t n, bool with_dominated, size_t *kept)
{
    struct frontier_point *out = xmalloc((n ? n : 1) * sizeof *out);
    *kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (points[i].dominated && !with_dominated) continue;
        size_t at = (*kept)++;
        double s = runs->rows[points[i].run].headline.sparsity;
        while (at > 0 && runs->rows[out[at - 1].run].headline.sparsity > s) {
            out[at] = out[at - 1];
            at--;
        }
        out[at] = points[i];
    }
    return out;
}

struct table *frontier_table(const struct run_list *runs, const struct frontier_point *points,
    size_t n, enum frontier_axis axis, bool with_dominated)
{
    static const char *const titles[] = {"Frontier: sparsity against cosine",
        "Frontier: sparsity against KL", "Frontier: sparsity against perplexity"};
    static const char *const detectable[] = {
        "detectable cosine", "detectable KL", "detectable ppl ratio"};
    struct table *t = table_new(titles[axis]);
    add_text(t, "run");
    add_share(t, "sparsity", METRIC_HIGHER);
    add(t, "cosine", NULL, NUMBER_FIXED, 4, METRIC_HIGHER);
    add(t, "KL", "nats", NUMBER_FIXED, 4, METRIC_LOWER);
    add(t, "ppl ratio", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    add_share(t, "agreement", METRIC_HIGHER);
    add(t, detectable[axis], axis == FRONTIER_KL ? "nats" : NULL, NUMBER_FIXED, 4, METRIC_NEITHER);
    add_settings_columns(t);
    add_text(t, "place");
    size_t kept;
    bool with_interval = false;
    const struct frontier_point *order = sorted_by_sparsity(runs, points, n, with_dominated, &kept);
    for (size_t i = 0; i < kept; i++) {
        const struct run_record *r = &runs->rows[order[i].run];
        table_int(t, r->id);
        table_real(t, r->headline.sparsity);
        table_real(t, r->headline.cosine_mean);
        table_real(t, r->headline.kl_mean);
        table_real(t, r->headline.ppl_ratio);
        table_real(t, r->headline.token_accuracy);
        table_real(t, run_detectable(r, axis));
        with_interval |= !isnan(run_detectable(r, axis));
        add_settings(t, r);
        table_text(t, order[i].knee ? "knee" : order[i].dominated ? "dominated" : "frontier");
    }
    free((void *)order);
    table_note(t,
        with_interval ? "detectable: the smallest change that as many other texts would show (from "
                        "the run's own "
                        "interval, 5 % false alarms, 80 % power); `compare` pairs the texts and "
                        "sees smaller ones"
                      : "no run has an interval, so what they could detect is unknown; use "
                        "--num-samples 5 or more");
    return t;
}

struct table *cells_table(const struct cell_list *cells)
{
    struct table *t = table_new("Cells");
    add_text(t, "plan");
    add_text(t, "state");
    add_text(t, "key");
    add_text(t, "reason");
    add_text(t, "cell");
    for (size_t i = 0; i < cells->n; i++) {
        const struct cell_record *c = &cells->rows[i];
        table_text(t, c->plan);
        table_text(t, cell_state_name(c->state));
        table_text(t, c->key);
        table_text(t, c->reason);
        table_text(t, c->key_json);
    }
    return t;
}

struct table *sql_table(const struct sql_result *r)
{
    struct table *t = table_new(NULL);
    for (size_t c = 0; c < r->n_columns; c++) add_short(t, r->columns[c]);
    for (size_t i = 0; i < r->n_rows * r->n_columns; i++) {
        const struct sql_cell *cell = &r->cells[i];
        char blob[40];
        switch (cell->type) {
        case SQL_NULL: table_missing(t); break;
        case SQL_INT: table_int(t, cell->i); break;
        case SQL_REAL: table_real(t, cell->d); break;
        case SQL_TEXT: table_text(t, cell->text); break;
        case SQL_BLOB:
            snprintf(blob, sizeof blob, "(%lld bytes)", (long long)cell->i);
            table_text(t, blob);
            break;
        }
    }
    return t;
}

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
static int setting_weight(const char *name)
{
    static const char *const often[] = {"max_length", "layers", "rule", "l1", "pv_l1", "topk",
        "window", "simthreshd1", "cdfthreshd", "qk", "pv", "residual"};
    for (size_t i = 0; i < sizeof often / sizeof *often; i++)
        if (!strcmp(often[i], name)) return 4;
    return strcmp(name, "method") ? 0 : 8;
}

static void add_settings_columns(struct table *t)
{
    add_text(t, "model", "model");
    table_weight(t, 7);
    add_text(t, "dataset", "data");
    table_weight(t, 7);
    add_data(t, "suite");
    for (size_t i = 0; i < run_columns.n; i++) {
        const struct column *c = &run_columns.at[i];
        if (!column_shown(c)) continue;
        add_short(t, c->name, column_label(c));
        table_weight(t, setting_weight(c->name));
    }
}

static void add_settings(struct table *t, const struct run_record *r)
{
    table_text(t, r->model.name);
    table_text(t, r->dataset.name);
    table_text(t, r->dataset.suite);
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

/* The numbers of every run, shown to people in this order; what is not among them goes to programs
 * alone. */
static const struct {
    const char *column, *name, *unit;
    enum table_number number;
    int digits;
    enum metric_better better;
    int weight;
} run_numbers[] = {
    {"sparsity", "sparsity", NULL, NUMBER_PERCENT, 1, METRIC_HIGHER, 9},
    {"cosine_mean", "cosine", NULL, NUMBER_FIXED, 4, METRIC_HIGHER, 6},
    {"cosine_p1", "cosine p1", NULL, NUMBER_FIXED, 4, METRIC_HIGHER, 1},
    {"kl_mean", "KL", "nats", NUMBER_FIXED, 4, METRIC_LOWER, 9},
    {"kl_p99_9", "KL p99.9", "nats", NUMBER_FIXED, 3, METRIC_LOWER, 1},
    {"ppl_dense", "ppl dense", NULL, NUMBER_FIXED, 3, METRIC_NEITHER, 1},
    {"ppl_ratio", "ppl ratio", NULL, NUMBER_FIXED, 4, METRIC_LOWER, 5},
    {"token_accuracy", "agreement", NULL, NUMBER_PERCENT, 1, METRIC_HIGHER, 6},
    {"score_dense", "score dense", NULL, NUMBER_PERCENT, 1, METRIC_NEITHER, 2},
    {"score_sparse", "score sparse", NULL, NUMBER_PERCENT, 1, METRIC_HIGHER, 6},
    {"latency_ratio", "time ratio", NULL, NUMBER_FIXED, 3, METRIC_LOWER, 2},
    {"wall_s", "took", NULL, NUMBER_SECONDS, 1, METRIC_NEITHER, 1},
};

static bool run_number_shown(const char *column)
{
    for (size_t i = 0; i < sizeof run_numbers / sizeof *run_numbers; i++)
        if (!strcmp(run_numbers[i].column, column)) return true;
    return false;
}

/* Identity and headline numbers that people find elsewhere: with `show`, or in the intervals of
 * `compare`. */
static bool for_programs(const struct column *c)
{
    static const char *const names[] = {"key", "slot", "plan", "tuned_hash", "started", "ended",
        "attention_calls", "dense_fallback_calls", "peak_bytes", "peak_device_bytes"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i], c->name)) return true;
    return c->use & COLUMN_HEADLINE && !run_number_shown(c->name);
}

static void add_number(struct table *t, const struct column *c, const struct run_record *r)
{
    if (column_missing(c, r)) table_missing(t);
    else if (c->type == COLUMN_INT64 || c->type == COLUMN_INT)
        table_int(t, (int64_t)column_real(c, r));
    else if (c->type == COLUMN_REAL) table_real(t, column_real(c, r));
    else {
        struct str text = {0};
        column_describe(c, r, &text);
        table_text(t, str_get(&text));
        str_clear(&text);
    }
}

struct table *runs_table(const struct run_list *runs)
{
    struct table *t = table_new(NULL);
    add_text(t, "id", "run");
    add_settings_columns(t);
    add_text(t, "status", "status");
    table_weight(t, 5);
    for (size_t i = 0; i < sizeof run_numbers / sizeof *run_numbers; i++) {
        add(t, run_numbers[i].column, run_numbers[i].name, run_numbers[i].unit,
            run_numbers[i].number, run_numbers[i].digits, run_numbers[i].better);
        table_weight(t, run_numbers[i].weight);
    }
    add_text(t, "reason", "reason");
    table_weight(t, 5);
    for (size_t i = 0; i < run_columns.n; i++)
        if (for_programs(&run_columns.at[i])) add_data(t, run_columns.at[i].name);
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        table_int(t, r->id);
        add_settings(t, r);
        table_text(t, run_status_name(r->status));
        for (size_t k = 0; k < sizeof run_numbers / sizeof *run_numbers; k++)
            add_number(t, columns_find(&run_columns, run_numbers[k].column), r);
        table_text(t, r->reason);
        for (size_t k = 0; k < run_columns.n; k++)
            if (for_programs(&run_columns.at[k])) add_number(t, &run_columns.at[k], r);
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
    add_text(t, "id", "run");
    add_text(t, "place", "place");
    add_share(t, "sparsity", "sparsity", METRIC_HIGHER);
    add(t, "kl_mean", "KL", "nats", NUMBER_FIXED, 4, METRIC_LOWER);
    add(t, "kl_lo", "95 % from", NULL, NUMBER_FIXED, 4, METRIC_NEITHER);
    add(t, "kl_hi", "to", NULL, NUMBER_FIXED, 4, METRIC_NEITHER);
    add_share(t, "score_drop", "answers lost", METRIC_LOWER);
    add_text(t, "method", "method");
    for (size_t k = 0; k < axes->n; k++)
        add_short(t, axes->at[k].column ? axes->at[k].column->name : "dataset", axes->at[k].name);
    add(t, "ppl_ratio", "ppl ratio", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    add_share(t, "token_accuracy", "agreement", METRIC_HIGHER);
    add(t, "cosine_mean", "cosine", NULL, NUMBER_FIXED, 4, METRIC_HIGHER);
    add(t, "latency_ratio", "time ratio", NULL, NUMBER_FIXED, 3, METRIC_LOWER);
    add_text(t, "status", "status");
    add_text(t, "reason", "reason");
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
    add_text(t, "id", "run");
    add_share(t, "sparsity", "sparsity", METRIC_HIGHER);
    table_weight(t, 9);
    add(t, "cosine_mean", "cosine", NULL, NUMBER_FIXED, 4, METRIC_HIGHER);
    table_weight(t, axis == FRONTIER_COSINE ? 9 : 5);
    add(t, "kl_mean", "KL", "nats", NUMBER_FIXED, 4, METRIC_LOWER);
    table_weight(t, axis == FRONTIER_KL ? 9 : 6);
    add(t, "ppl_ratio", "ppl ratio", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    table_weight(t, axis == FRONTIER_PPL ? 9 : 4);
    add_share(t, "token_accuracy", "agreement", METRIC_HIGHER);
    table_weight(t, 4);
    add(t, "detectable", detectable[axis], axis == FRONTIER_KL ? "nats" : NULL, NUMBER_FIXED, 4,
        METRIC_NEITHER);
    table_weight(t, 3);
    add_settings_columns(t);
    add_text(t, "place", "place");
    table_weight(t, 9);
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

struct table *sql_table(const struct sql_result *r)
{
    struct table *t = table_new(NULL);
    for (size_t c = 0; c < r->n_columns; c++) add_short(t, r->columns[c], r->columns[c]);
    table_keep_constant(t); /* what was asked for is shown, though all rows agree */
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

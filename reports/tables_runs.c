#include "reports/tables.h"

#include "base/stats.h"
#include "reports/columns.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *status_text(enum run_status status)
{
    return status == RUN_DONE ? "done" : status == RUN_FAILED ? "failed" : "skipped";
}

static void table_block(struct table *t, const struct run_record *r)
{
    char text[32];
    snprintf(text, sizeof text, "%dx%d", r->block_q, r->block_k);
    table_text(t, text);
}

/* Columns and cells that tell one setting from another; in every table of runs. */
static void add_settings_columns(struct table *t)
{
    add_text(t, "model");
    add_text(t, "data");
    add_text(t, "method");
    add_text(t, "rule");
    add_short(t, "l1");
    add_short(t, "pv_l1");
    add_short(t, "theta");
    add_short(t, "tau");
    add_short(t, "lambda");
    add_short(t, "topk");
    add_text(t, "window");
    add_text(t, "layers");
    add_text(t, "heads");
    add_text(t, "block");
    add_text(t, "smooth_k");
    add_text(t, "length");
    add_text(t, "samples");
    add_text(t, "score");
    add_text(t, "device");
    add_text(t, "threads");
}

static void add_settings(struct table *t, const struct run_record *r)
{
    table_text(t, r->model.name);
    table_text(t, r->dataset.name);
    table_text(t, r->method);
    table_text(t, r->rule);
    table_real(t, r->l1);
    table_real(t, r->pv_l1);
    table_real(t, r->simthreshd1);
    table_real(t, r->cdfthreshd);
    table_real(t, r->pvthreshd);
    table_real(t, r->topk);
    table_count(t, r->window);
    table_text(t, r->layers);
    table_text(t, r->heads);
    table_block(t, r);
    table_text(t, r->smooth_k);
    table_int(t, r->max_length);
    table_int(t, r->num_samples);
    table_text(t, r->score);
    table_text(t, r->device);
    table_int(t, r->threads);
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
        table_text(t, status_text(r->status));
        const double v[] = {h->sparsity,    h->cosine_mean,  h->cosine_p1,     h->kl_mean,
                            h->kl_p99_9,    h->ppl_dense,    h->ppl_ratio,     h->token_accuracy,
                            h->score_dense, h->score_sparse, h->latency_ratio, r->wall_s};
        for (size_t k = 0; k < sizeof v / sizeof *v; k++) table_real(t, v[k]);
        table_text(t, r->reason);
    }
    return t;
}

double run_detectable(const struct run_record *r, enum frontier_axis axis)
{
    const struct headline *h = &r->headline;
    double lo = axis == FRONTIER_COSINE ? h->cosine_lo : axis == FRONTIER_KL ? h->kl_lo : h->ppl_ratio_lo,
           hi = axis == FRONTIER_COSINE ? h->cosine_hi : axis == FRONTIER_KL ? h->kl_hi : h->ppl_ratio_hi;
    return isnan(lo) || isnan(hi) ? NAN : minimum_detectable_effect((hi - lo) / (2 * 1.959964), .05, .8);
}

static const struct frontier_point *sorted_by_sparsity(const struct run_list *runs,
                                                       const struct frontier_point *points, size_t n,
                                                       bool with_dominated, size_t *kept)
{
    struct frontier_point *out = malloc((n ? n : 1) * sizeof *out);
    if (!out) abort();
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

struct table *frontier_table(const struct run_list *runs, const struct frontier_point *points, size_t n,
                             enum frontier_axis axis, bool with_dominated)
{
    static const char *const titles[] = {"Frontier: sparsity against cosine", "Frontier: sparsity against KL",
                                         "Frontier: sparsity against perplexity"};
    static const char *const detectable[] = {"detectable cosine", "detectable KL", "detectable ppl ratio"};
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
    table_note(t, with_interval
                      ? "detectable: the smallest change that as many other texts would show (from the run's own "
                        "interval, 5 % false alarms, 80 % power); `compare` pairs the texts and sees smaller ones"
                      : "no run has an interval, so what they could detect is unknown; use --num-samples 5 or more");
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

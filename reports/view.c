#include "reports/view.h"

#include "results/columns.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum status run_view_load(struct run_view *v, struct store *s, const char *name)
{
    memset(v, 0, sizeof *v);
    enum status st;
    TRY_GOTO(st, fail, query_run(s, name, &v->runs));
    v->run = v->runs.rows;
    char label[32];
    snprintf(label, sizeof label, "run %lld", (long long)v->run->id);
    v->label = arena_str(&v->runs.arena, label);
    int64_t id = v->run->id;
    TRY_GOTO(st, fail, query_metrics(s, id, NULL, &v->metrics));
    TRY_GOTO(st, fail, query_samples(s, id, &v->samples));
    TRY_GOTO(st, fail, query_tails(s, id, &v->tails));
    TRY_GOTO(st, fail, query_ledger(s, id, &v->ledger));
    TRY_GOTO(st, fail, query_layer_errors(s, id, &v->layer_errors));
    TRY_GOTO(st, fail, query_items(s, id, &v->items));
    TRY_GOTO(st, fail, query_generations(s, id, &v->generations));
    TRY_GOTO(st, fail, query_latencies(s, id, &v->latencies));
    TRY_GOTO(st, fail, query_worst_tokens(s, id, 0, &v->worst_tokens));
    TRY_GOTO(st, fail, query_masks(s, id, &v->masks));
    if (v->run->tuned_hash) TRY_GOTO(st, fail, query_tuned(s, v->run->tuned_hash, NULL, &v->tuned));
    return OK;
fail:
    run_view_clear(v);
    return st;
}

void run_view_clear(struct run_view *v)
{
    metric_list_clear(&v->metrics);
    sample_list_clear(&v->samples);
    tail_list_clear(&v->tails);
    ledger_list_clear(&v->ledger);
    layer_error_list_clear(&v->layer_errors);
    item_list_clear(&v->items);
    generation_list_clear(&v->generations);
    latency_list_clear(&v->latencies);
    worst_token_list_clear(&v->worst_tokens);
    mask_list_clear(&v->masks);
    tuned_list_clear(&v->tuned);
    run_list_clear(&v->runs);
    memset(v, 0, sizeof *v);
}

struct estimate_source run_view_source(const struct run_view *v)
{
    return (struct estimate_source){
        v->samples.rows, v->samples.n, v->items.rows, v->items.n, v->tails.rows, v->tails.n};
}

double run_view_metric(const struct run_view *v, const char *name)
{
    const struct metric_record *m = metric_list_find(&v->metrics, "overall", name);
    return m ? m->mean : NAN;
}

static void add_setting(struct str *out, const char *name, double value)
{
    if (!isnan(value)) str_addf(out, " %s=%g", name, value);
}

void run_describe(const struct run_record *r, struct str *out)
{
    bool dense = !strcmp(r->method, "dense");
    str_add(out, r->method);
    if (r->qk) str_addf(out, " qk=%s", r->qk);
    if (r->pv) str_addf(out, " pv=%s", r->pv);
    if (run_is_dense(r)) return;
    if (!dense) str_addf(out, " %dx%d", r->block_q, r->block_k);
    if (dense) { /* every tile is kept: there is no threshold */
    } else if (r->tuned_hash) {
        if (r->rule) str_addf(out, " rule=%s", r->rule);
        add_setting(out, "l1", r->l1);
        add_setting(out, "pv_l1", r->pv_l1);
    } else if (!strcmp(r->method, "window")) {
        str_addf(out, " window=%lld", (long long)r->window);
    } else if (!isnan(r->topk)) {
        add_setting(out, "topk", r->topk);
    } else {
        add_setting(out, "simthreshd1", r->simthreshd1);
        add_setting(out, "cdfthreshd", r->cdfthreshd);
        if (!isnan(r->simthreshd1) || r->pvthreshd < 50)
            add_setting(out, "pvthreshd", r->pvthreshd);
    }
    str_addf(out, " layers=%s", r->layers);
    if (r->heads && strcmp(r->heads, "all")) str_addf(out, " head=%s", r->heads);
    str_addf(out, " length=%d", r->max_length);
}

void run_short_name(const struct run_record *r, struct str *out)
{
    bool sparge = !strcmp(r->method, "sparge");
    if (r->tuned_hash)
        str_addf(out, "%s%stuned %s", sparge ? "" : r->method, sparge ? "" : " ",
            r->rule ? r->rule : "");
    else str_add(out, sparge ? "untuned" : r->method);
    if (r->tuned_hash && !isnan(r->l1)) str_addf(out, " %.3g", r->l1);
    /* the tuning guide's thresholds before tuning go without saying (compared as they are stored:
     * float made double)
     */
    if (!r->tuned_hash && sparge && !isnan(r->cdfthreshd) &&
        (fabs(r->simthreshd1 - .6) > 1e-6 || fabs(r->cdfthreshd - .98) > 1e-6 || r->pvthreshd < 50))
        str_addf(out, " %.3g/%.3g", r->simthreshd1, r->cdfthreshd);
    if (r->window >= 0) str_addf(out, " %lld", (long long)r->window);
    if (!isnan(r->topk)) str_addf(out, " %.2g", r->topk);
    if (!sparge && !r->tuned_hash && isnan(r->topk) && !isnan(r->cdfthreshd))
        str_addf(out, " tau %.3g", r->cdfthreshd);
    if (run_is_eight(r)) str_addf(out, " %s/%s", r->qk ? r->qk : "full", r->pv ? r->pv : "full");
    if (!run_is_dense(r) && strcmp(r->layers, "all")) str_addf(out, ", layers %s", r->layers);
    if (r->heads && strcmp(r->heads, "all")) str_addf(out, ", head %s", r->heads);
}

bool run_same_configuration(const struct run_record *a, const struct run_record *b)
{
    return text_same(a->model.fingerprint, b->model.fingerprint) &&
        columns_same(&run_columns, a, b, COLUMN_SETTING, COLUMN_DATA);
}

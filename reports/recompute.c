#include "reports/recompute.h"

#include "base/json.h"
#include "base/xmalloc.h"
#include "results/columns.h"
#include "results/query.h"
#include "results/store.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEAR 1e-6   /* between numbers that went through 17 digits of text */
#define FLOATS 2e-6 /* between a mean of floats and floats */

static bool near(double a, double b, double slack)
{
    return fabs(a - b) <= slack * fmax(1, fmax(fabs(a), fabs(b)));
}

/* Of small numbers the digits count as well. */
static bool same(double a, double b)
{
    if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
    return fabs(a - b) <= NEAR * fmax(fabs(a), fabs(b)) + 1e-12;
}

static enum status differs(
    const struct run_view *v, const char *where, const char *field, double found, double wanted)
{
    if (isnan(found))
        return fail(ERR_FORMAT,
            "%s: field %s.%s: is missing, expected %.9g by its samples; evaluate again", v->label,
            where, field, wanted);
    return fail(ERR_FORMAT,
        "%s: field %s.%s: found %.9g, expected %.9g by its samples; evaluate again", v->label,
        where, field, found, wanted);
}

static enum status sample_fault(
    const struct run_view *v, size_t i, const char *field, const char *what, double found)
{
    return fail(ERR_FORMAT,
        "%s: field detailed_results[%zu].%s: found %.9g, expected %s; evaluate again", v->label, i,
        field, found, what);
}

/* No number of a sample is missing. */
static enum status check_complete(const struct run_view *v, size_t i)
{
    const struct sample_record *s = &v->samples.rows[i];
    if (s->n_scored < 0 || s->n_scored > s->n_tokens)
        return sample_fault(v, i, "n_scored", "0 to seq_len", (double)s->n_scored);
    for (size_t k = 0; k < sample_columns.n; k++) {
        const struct column *c = &sample_columns.at[k];
        if (c->type != COLUMN_REAL || !column_missing(c, s)) continue;
        if (!strcmp(c->name, "delta_p_mean") && s->n_scored == 0) continue;
        return fail(ERR_FORMAT,
            "%s: field detailed_results[%zu].%s: is missing or null, expected a number: a file of "
            "an earlier version, or "
            "one that was edited; evaluate again",
            v->label, i, c->json);
    }
    return OK;
}

static bool whole(double x) { return fabs(x - round(x)) <= 1e-6 * fmax(1, fabs(x)); }

/* What the numbers of one sample have to do with each other. */
static enum status check_sample(const struct run_view *v, size_t i)
{
    const struct sample_record *s = &v->samples.rows[i];
    double n = (double)s->n_tokens;
    TRY(check_complete(v, i));
    if (s->sample != (int)i)
        return sample_fault(v, i, "text_idx", "its place in the list", s->sample);
    if (!near(s->sparsity, (s->qk_sparsity + s->pv_sparsity) / 2, FLOATS))
        return sample_fault(
            v, i, "sparsity", "the mean of qk_sparsity and pv_sparsity", s->sparsity);
    if (!(s->tiles_possible > 0) || !whole(s->tiles_possible) ||
        !whole(s->tiles_possible * s->qk_sparsity))
        return sample_fault(v, i, "tiles_possible",
            "a whole number, of which qk_sparsity is a whole number of tiles", s->tiles_possible);
    if (!(s->pv_possible >= 0) || !whole(s->pv_possible) || !whole(s->pv_possible * s->pv_sparsity))
        return sample_fault(v, i, "pv_possible",
            "a whole number, of which pv_sparsity is a whole number of units", s->pv_possible);
    if (!whole(n * s->token_accuracy))
        return sample_fault(
            v, i, "token_accuracy", "a whole number of its positions", s->token_accuracy);
    if (!whole(5 * n * s->top5_overlap))
        return sample_fault(
            v, i, "top5_overlap", "a whole number of fifths of its positions", s->top5_overlap);
    if (s->cosine_min > s->cosine_p1 + FLOATS || s->cosine_min > s->cosine_mean + FLOATS)
        return sample_fault(
            v, i, "cosine_min", "no more than cosine_p1 and cosine_mean", s->cosine_min);
    if (s->kl_max < s->kl_p99_9 - FLOATS || s->kl_max < s->kl_mean - FLOATS)
        return sample_fault(v, i, "kl_max", "no less than kl_p99_9 and kl_mean", s->kl_max);
    return OK;
}

/* Equal texts count once: no two samples are alike in what depends on the text alone. */
static int by_text(const void *a, const void *b)
{
    const struct sample_record *x = *(const struct sample_record *const *)a,
                               *y = *(const struct sample_record *const *)b;
    const double of_x[] = {x->nll_dense_sum, x->logits_dense_rms, x->hidden_dense_rms},
                 of_y[] = {y->nll_dense_sum, y->logits_dense_rms, y->hidden_dense_rms};
    for (int i = 0; i < 3; i++)
        if (of_x[i] != of_y[i]) return of_x[i] < of_y[i] ? -1 : 1;
    return (x->n_tokens > y->n_tokens) - (x->n_tokens < y->n_tokens);
}

static enum status check_texts(const struct run_view *v)
{
    const struct sample_record **all = xmalloc((v->samples.n + 1) * sizeof *all);
    enum status st = OK;
    for (size_t i = 0; i < v->samples.n; i++) all[i] = &v->samples.rows[i];
    qsort(all, v->samples.n, sizeof *all, by_text);
    for (size_t i = 1; i < v->samples.n && st == OK; i++)
        if (by_text(&all[i - 1], &all[i]) == 0)
            st = fail(ERR_FORMAT,
                "%s: field detailed_results[%d]: is detailed_results[%d] once more, expected "
                "another text; equal texts count once",
                v->label, all[i]->sample > all[i - 1]->sample ? all[i]->sample : all[i - 1]->sample,
                all[i]->sample > all[i - 1]->sample ? all[i - 1]->sample : all[i]->sample);
    free(all);
    return st;
}

/* The tail of a sample lies at the end of its distribution. seen: where each sample's two are, from
 * 1. */
static enum status check_tail(const struct run_view *v, size_t at, size_t *seen)
{
    const struct tail_record *t = &v->tails.rows[at];
    bool low = !strcmp(t->name, "cosine");
    if (t->sample < 0 || (size_t)t->sample >= v->samples.n || (!low && strcmp(t->name, "kl") != 0))
        return fail(ERR_FORMAT,
            "%s: field tails[%zu]: is of %s of text %d, which the file does not have; evaluate "
            "again",
            v->label, at, t->name, t->sample);
    const struct sample_record *s = &v->samples.rows[t->sample];
    double sum = 0, n = (double)s->n_tokens, mean = low ? s->cosine_mean : s->kl_mean;
    size_t *before = &seen[2 * (size_t)t->sample + low];
    if (*before)
        return fail(ERR_FORMAT, "%s: field tails[%zu]: is tails[%zu] once more; evaluate again",
            v->label, at, *before - 1);
    *before = at + 1;
    for (size_t k = 0; k < t->n; k++) {
        sum += (double)t->values[k];
        if (k && (low ? t->values[k] < t->values[k - 1] : t->values[k] > t->values[k - 1]))
            return fail(ERR_FORMAT,
                "%s: field tails[%zu].worst[%zu]: found %.9g behind %.9g, expected the worst first",
                v->label, at, k, (double)t->values[k], (double)t->values[k - 1]);
    }
    if (!t->n) return OK;
    double first = low ? s->cosine_min : s->kl_max, last = (double)t->values[t->n - 1],
           most = sum + (n - (double)t->n) * last;
    if ((double)t->n > n || !near((double)t->values[0], first, FLOATS))
        return fail(ERR_FORMAT,
            "%s: field tails[%zu].worst[0]: found %.9g, expected %.9g as %s says; evaluate again",
            v->label, at, (double)t->values[0], first, low ? "cosine_min" : "kl_max");
    if (low ? n * mean > sum + (n - (double)t->n) + FLOATS * n || n * mean < most - FLOATS * n
            : n * mean < sum - FLOATS * n || n * mean > most + FLOATS * n)
        return fail(ERR_FORMAT,
            "%s: field tails[%zu]: its values do not go with a mean %s of %.9g over %.0f "
            "positions; evaluate "
            "again",
            v->label, at, t->name, mean, n);
    return OK;
}

/* A row of the metrics against what its samples give. */
static enum status check_metric(
    const struct run_view *v, const struct estimate_source *source, const char *name)
{
    const struct metric_record *m = metric_list_find(&v->metrics, "overall", name);
    struct estimate e;
    char where[96];
    snprintf(where, sizeof where, "metrics (overall %s)", name);
    bool known = estimate_metric(source, name, &e);
    if (!m && !known) return OK;
    if (!m)
        return fail(ERR_FORMAT,
            "%s: field %s: is missing, expected %.9g by its samples; evaluate again", v->label,
            where, e.value);
    if (!known)
        return fail(ERR_FORMAT,
            "%s: field %s: found %.9g, but the file does not hold what it is computed from; "
            "evaluate again",
            v->label, where, m->mean);
    if (!same(m->mean, e.value)) return differs(v, where, "mean", m->mean, e.value);
    if (!same(m->lo, e.lo)) return differs(v, where, "lo", m->lo, e.lo);
    if (!same(m->hi, e.hi)) return differs(v, where, "hi", m->hi, e.hi);
    return same(m->std_error, e.std_error)
        ? OK
        : differs(v, where, "std_error", m->std_error, e.std_error);
}

/* Ends of distributions that are there twice. */
static enum status check_ends(const struct run_view *v)
{
    const struct metric_record *cosine = metric_list_find(&v->metrics, "overall", "cosine"),
                               *kl = metric_list_find(&v->metrics, "overall", "kl"),
                               *p1 = metric_list_find(&v->metrics, "overall", "cosine_p1"),
                               *p99_9 = metric_list_find(&v->metrics, "overall", "kl_p99_9");
    double least = INFINITY, most = -INFINITY;
    for (size_t i = 0; i < v->samples.n; i++) {
        least = fmin(least, v->samples.rows[i].cosine_min);
        most = fmax(most, v->samples.rows[i].kl_max);
    }
    if (!near(cosine->min, least, FLOATS))
        return differs(v, "metrics (overall cosine)", "min", cosine->min, least);
    if (!near(kl->max, most, FLOATS))
        return differs(v, "metrics (overall kl)", "max", kl->max, most);
    if (p1 && !near(cosine->p1, p1->mean, FLOATS))
        return differs(v, "metrics (overall cosine)", "p1", cosine->p1, p1->mean);
    if (p99_9 && !near(kl->p99_9, p99_9->mean, FLOATS))
        return differs(v, "metrics (overall kl)", "p99_9", kl->p99_9, p99_9->mean);
    return OK;
}

static enum status check_calls(const struct run_view *v)
{
    const struct run_record *r = v->run;
    const int64_t n_layers = r->model.n_layers;
    double n_fell = 0, n_tokens = 0; /* exact as far as any sound file goes */
    for (size_t i = 0; i < v->samples.n; i++) {
        n_fell += v->samples.rows[i].fell_back;
        n_tokens += (double)v->samples.rows[i].n_tokens;
    }
    if (r->attention_calls != (int64_t)v->samples.n * n_layers)
        return fail(ERR_FORMAT,
            "%s: field provenance.attention_calls: found %lld, expected %lld: %zu samples, %lld "
            "layers; "
            "evaluate again",
            v->label, (long long)r->attention_calls, (long long)v->samples.n * n_layers,
            v->samples.n, (long long)n_layers);
    if ((double)r->dense_fallback_calls > n_fell * (double)n_layers ||
        (r->dense_fallback_calls > 0) != (n_fell > 0))
        return fail(ERR_FORMAT,
            "%s: field provenance.dense_fallback_calls: found %lld, expected the calls of the %.0f "
            "samples "
            "that fell back; evaluate again",
            v->label, (long long)r->dense_fallback_calls, n_fell);
    if ((double)r->dataset.n_tokens != n_tokens)
        return fail(ERR_FORMAT,
            "%s: field identity.data.n_tokens: found %lld, expected %.0f by its samples; evaluate "
            "again",
            v->label, (long long)r->dataset.n_tokens, n_tokens);
    return OK;
}

static int by_item(const void *a, const void *b)
{
    const struct item_record *x = *(const struct item_record *const *)a,
                             *y = *(const struct item_record *const *)b;
    return strcmp(x->item, y->item);
}

static enum status check_items(const struct run_view *v)
{
    int last = 0;
    for (size_t i = 0; i < v->items.n; i++) {
        const struct item_record *r = &v->items.rows[i];
        if (r->sample < last || r->sample >= (int)v->samples.n)
            return fail(ERR_FORMAT,
                "%s: field items[%zu].sample: found %d, expected %d to %zu, in order; evaluate "
                "again",
                v->label, i, r->sample, last, v->samples.n - 1);
        last = r->sample;
    }
    const struct item_record **all = xmalloc((v->items.n + 1) * sizeof *all);
    enum status st = OK;
    for (size_t i = 0; i < v->items.n; i++) all[i] = &v->items.rows[i];
    qsort(all, v->items.n, sizeof *all, by_item);
    for (size_t i = 1; i < v->items.n && st == OK; i++)
        if (by_item(&all[i - 1], &all[i]) == 0)
            st = fail(ERR_FORMAT,
                "%s: field items[%zu].item: found %s once more; equal questions count once",
                v->label, (size_t)((all[i] > all[i - 1] ? all[i] : all[i - 1]) - v->items.rows),
                all[i]->item);
    free(all);
    return st;
}

/* Times have no samples; what is there twice must agree, and a ratio of pairs lies where pairs can
 * have it. */
static enum status check_times(const struct run_view *v)
{
    const struct latency_record *longest[2] = {NULL, NULL};
    static const char *const parts[] = {"prefill_dense", "prefill_sparse"},
                             *const names[] = {"latency_dense", "latency_sparse"};
    for (size_t i = 0; i < v->latencies.n; i++)
        for (int k = 0; k < 2; k++)
            if (!strcmp(v->latencies.rows[i].part, parts[k]) &&
                (!longest[k] || v->latencies.rows[i].n_tokens > longest[k]->n_tokens))
                longest[k] = &v->latencies.rows[i];
    const struct metric_record *ratio = metric_list_find(&v->metrics, "overall", "latency_ratio");
    if (!ratio) return OK;
    if (!longest[0] || !longest[1])
        return fail(ERR_FORMAT,
            "%s: field latencies: has no prefill_dense and prefill_sparse, but metrics have their "
            "ratio; time "
            "again",
            v->label);
    for (int k = 0; k < 2; k++) {
        const struct metric_record *m = metric_list_find(&v->metrics, "overall", names[k]);
        char where[64];
        snprintf(where, sizeof where, "metrics (overall %s)", names[k]);
        if (!m || !same(m->mean, longest[k]->median))
            return differs(v, where, "mean", m ? m->mean : NAN, longest[k]->median);
    }
    double lo = longest[1]->min / longest[0]->max, hi = longest[1]->max / longest[0]->min,
           about = longest[1]->median / longest[0]->median;
    double half =
        ratio->n > 1 ? student_quantile(.975, (double)ratio->n - 1) * ratio->std_error : NAN;
    if (!same(ratio->lo, ratio->mean - half) || !same(ratio->hi, ratio->mean + half) ||
        ratio->mean < lo - NEAR || ratio->mean > hi + NEAR || fabs(ratio->mean / about - 1) > .1)
        return fail(ERR_FORMAT,
            "%s: field metrics (overall latency_ratio): found %.6g [%.6g, %.6g], expected about "
            "%.6g within "
            "[%.6g, %.6g] by its times; time again",
            v->label, ratio->mean, ratio->lo, ratio->hi, about, lo, hi);
    return OK;
}

/* The question as the run's settings give it. What a file cannot say again, the thresholds by their
 * hash or their tuning, is taken from the key that it is compared with. */
static char *question_of(const struct run_record *r, const cJSON *key)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "model_fingerprint", r->model.fingerprint);
    cJSON_AddStringToObject(o, "tokens", r->dataset.fingerprint);
    cJSON_AddStringToObject(o, "engine", r->software.engine);
    for (const cJSON *v = key->child; v; v = v->next)
        if (!strcmp(v->string, "policy") || !strcmp(v->string, "tuning"))
            cJSON_AddItemToObject(o, v->string, cJSON_Duplicate(v, true));
    cJSON_AddStringToObject(o, "suite", r->dataset.suite);
    columns_to_key(o, r, !run_is_dense(r));
    cJSON_DeleteItemFromObjectCaseSensitive(o, "num_samples"); /* the tokens say it */
    struct str text = {0};
    json_print(&text, o, -1);
    cJSON_Delete(o);
    return text.data;
}

enum status recompute_settings(const struct run_view *v)
{
    const struct run_record *r = v->run;
    char key[33];
    if (!r->key || !r->key_json || !r->software.engine)
        return fail(ERR_FORMAT,
            "%s: field %s: is missing, expected what the run's settings are checked by: "
            "a file of an earlier version, or one that was edited; evaluate again",
            v->label,
            !r->key            ? "identity.key"
                : !r->key_json ? "identity.key_json"
                               : "provenance.engine");
    store_key(r->key_json, key);
    if (strcmp(key, r->key) != 0)
        return fail(ERR_FORMAT,
            "%s: field identity.key: found %.40s, expected %s by identity.key_json; evaluate again",
            v->label, r->key, key);
    cJSON *asked = json_stored(r->key_json);
    char *question = cJSON_IsObject(asked) ? question_of(r, asked) : NULL;
    struct str differs = {0};
    enum status st = OK;
    if (!question)
        st = fail(ERR_FORMAT, "%s: field identity.key_json: found %.40s, expected an object",
            v->label, r->key_json);
    else if (key_json_diff(r->key_json, question, &differs) != 0)
        st = fail(ERR_FORMAT,
            "%s: its settings are not those that it was measured with: field identity.key_json "
            "has, and the settings say: %s; evaluate again",
            v->label, str_get(&differs));
    free(question);
    str_clear(&differs);
    cJSON_Delete(asked);
    return st;
}

/* What the program itself writes: full products have no name, so "full" is an edit that would pass
 * dense for something that was measured. */
static enum status check_precision(const struct run_view *v)
{
    const char *qk = v->run->qk, *pv = v->run->pv;
    if (qk && strcmp(qk, "int8") != 0 && strcmp(qk, "fp8") != 0)
        return fail(ERR_FORMAT,
            "%s: field config.qk: found %s, expected null, int8 or fp8; evaluate again", v->label,
            qk);
    if (pv && strcmp(pv, "fp8") != 0)
        return fail(ERR_FORMAT,
            "%s: field config.pv: found %s, expected null or fp8; evaluate again", v->label, pv);
    return OK;
}

enum status recompute_check(const struct run_view *v)
{
    static const char *const always[] = {"cosine", "cosine_centred", "kl", "top1", "top5", "row_l1",
        "row_rmse", "row_hidden_cosine", "row_hidden_l1", "logits_cosine", "logits_l1",
        "logits_rmse", "hidden_cosine", "hidden_l1", "token_accuracy", "top5_overlap", "cosine_p1",
        "kl_p99_9", "sparsity", "qk_sparsity", "pv_sparsity"},
                             *const of_text[] = {"ppl_dense", "ppl_sparse", "ppl_ratio", "ppl_diff",
                                 "nll_dense", "nll_sparse", "delta_p"};
    struct estimate_source source = run_view_source(v);
    if (v->run->status != RUN_DONE)
        return fail(ERR_FORMAT,
            "%s: field provenance.status: found %s, expected done: %s; evaluate again", v->label,
            run_status_name(v->run->status),
            v->run->reason ? v->run->reason : "the run did not finish");
    TRY(check_precision(v));
    TRY(recompute_settings(v));
    if (!v->samples.n && !metric_list_find(&v->metrics, "overall", "cosine") &&
        !metric_list_find(&v->metrics, "overall", "kl") && v->latencies.n)
        return check_times(v);
    if (!v->samples.n)
        return fail(ERR_FORMAT,
            "%s: field detailed_results: is empty, expected the samples that its metrics come "
            "from; evaluate "
            "again",
            v->label);
    for (size_t i = 0; i < v->samples.n; i++) TRY(check_sample(v, i));
    TRY(check_texts(v));
    TRY(check_calls(v));
    size_t *seen = xcalloc(2 * v->samples.n + 1, sizeof *seen);
    enum status tails = OK;
    for (size_t i = 0; i < v->tails.n && tails == OK; i++) tails = check_tail(v, i, seen);
    free(seen);
    TRY(tails);
    TRY(check_items(v));
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        TRY(check_metric(v, &source, always[i]));
    /* a suite of questions has no perplexity */
    for (size_t i = 0; i < sizeof of_text / sizeof *of_text; i++)
        if (metric_list_find(&v->metrics, "overall", of_text[i]))
            TRY(check_metric(v, &source, of_text[i]));
    static const char *const scores[] = {
        "score_dense", "score_sparse", "score_drop", "answers_lost", "answers_gained"};
    for (size_t i = 0; i < 5; i++) {
        char norm[64];
        snprintf(norm, sizeof norm, "%s_norm", scores[i]);
        TRY(check_metric(v, &source, scores[i]));
        TRY(check_metric(v, &source, norm));
    }
    TRY(check_metric(v, &source, "answer_kl"));
    return check_ends(v);
}

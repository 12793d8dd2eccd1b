#include "reports/tables.h"

#include "base/json.h"
#include "base/xmalloc.h"
#include "reports/break_even.h"
#include "reports/columns.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum table_number number_of(const struct metric_info *info, int *digits)
{
    *digits = 4;
    if (!info) return NUMBER_FIXED;
    if (!strcmp(info->unit, "s")) {
        *digits = 2;
        return NUMBER_SECONDS;
    }
    if (!strcmp(info->unit, "tokens")) {
        *digits = 0;
        return NUMBER_FIXED;
    }
    if (!strcmp(info->unit, "B")) {
        *digits = 2;
        return NUMBER_BYTES;
    }
    return NUMBER_FIXED;
}

static void table_metric(struct table *t, const struct metric_info *info, double value)
{
    int digits;
    enum table_number number = number_of(info, &digits);
    table_real_as(t, value, number, digits);
}

/* A length and its interval; what lies outside the measured ones has no number. */
static void add_break_even(struct table *t, const struct metric_record *m)
{
    for (int part = BREAK_EVEN_AT; part <= BREAK_EVEN_HI; part++) {
        double length;
        struct str word = {0};
        if (break_even_read(m, (enum break_even_part)part, &length) == BREAK_EVEN_WITHIN) {
            table_real_as(t, length, NUMBER_FIXED, 0);
            continue;
        }
        break_even_word(m, (enum break_even_part)part, &word);
        table_missing(t);
        table_show(t, str_get(&word));
        str_clear(&word);
    }
    for (int k = 3; k < 12; k++) table_missing(t);
}

struct table *metrics_table(const struct run_view *v)
{
    char title[96];
    snprintf(title, sizeof title, "Metrics of %s", v->label);
    struct table *t = table_new(title);
    static const struct {
        const char *key, *name;
        int weight;
    } columns[] = {{"mean", "mean", 9}, {"lo", "95 % from", 8}, {"hi", "to", 8}, {"min", "min", 3},
        {"p0_1", "p0.1", 0}, {"p1", "p1", 4}, {"p5", "p5", 1}, {"median", "median", 6},
        {"p95", "p95", 1}, {"p99", "p99", 4}, {"p99_9", "p99.9", 5}, {"max", "max", 3}};
    add_data(t, "run");
    add_text(t, "name", "metric");
    add_data(t, "unit");
    add_data(t, "n");
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        table_add_column(t,
            (struct table_column){.name = columns[i].name,
                .key = columns[i].key,
                .weight = columns[i].weight,
                .digits = 4,
                .align = ALIGN_RIGHT});
    for (size_t i = 0; i < v->metrics.n; i++) {
        const struct metric_record *m = &v->metrics.rows[i];
        if (strcmp(m->scope, "overall")) continue;
        const struct metric_info *info = metric_info(m->name);
        struct str label = {0};
        str_add(&label, info ? info->label : m->name);
        if (info && *info->unit && number_of(info, &(int){0}) == NUMBER_FIXED)
            str_addf(&label, " [%s]", info->unit);
        if (info && info->better != METRIC_NEITHER)
            str_add(&label, info->better == METRIC_HIGHER ? " ↑" : " ↓");
        table_int(t, v->run->id);
        table_text(t, m->name);
        table_show(t, str_get(&label));
        str_clear(&label);
        table_text(t, info ? info->unit : "");
        table_int(t, m->n);
        if (!strcmp(m->name, BREAK_EVEN)) {
            add_break_even(t, m);
            continue;
        }
        const double values[] = {m->mean, m->lo, m->hi, m->min, m->p0_1, m->p1, m->p5, m->median,
            m->p95, m->p99, m->p99_9, m->max};
        for (size_t k = 0; k < sizeof values / sizeof *values; k++)
            table_metric(t, info, values[k]);
    }
    return t;
}

struct table *samples_table(const struct run_view *v)
{
    struct table *t = table_new("Samples");
    add_data(t, "run");
    add_text(t, "sample", "sample");
    add_text(t, "n_tokens", "tokens");
    add_text(t, "fell_back", "ran dense");
    add_share(t, "sparsity", "sparsity", METRIC_HIGHER);
    add(t, "cosine_mean", "cosine", NULL, NUMBER_FIXED, 4, METRIC_HIGHER);
    add(t, "cosine_min", "cosine min", NULL, NUMBER_FIXED, 4, METRIC_HIGHER);
    add(t, "kl_mean", "KL", "nats", NUMBER_FIXED, 4, METRIC_LOWER);
    add(t, "kl_max", "KL max", "nats", NUMBER_FIXED, 3, METRIC_LOWER);
    add(t, "ppl_dense", "ppl dense", NULL, NUMBER_FIXED, 3, METRIC_NEITHER);
    add(t, "ppl_sparse", "ppl sparse", NULL, NUMBER_FIXED, 3, METRIC_LOWER);
    add_share(t, "token_accuracy", "agreement", METRIC_HIGHER);
    add_share(t, "top5_overlap", "top-5", METRIC_HIGHER);
    for (size_t i = 0; i < v->samples.n; i++) {
        const struct sample_record *s = &v->samples.rows[i];
        double n = s->n_scored > 0 ? (double)s->n_scored : NAN;
        table_int(t, v->run->id);
        table_int(t, s->sample);
        table_int(t, s->n_tokens);
        table_bool(t, s->fell_back);
        const double values[] = {s->sparsity, s->cosine_mean, s->cosine_min, s->kl_mean, s->kl_max,
            exp(s->nll_dense_sum / n), exp(s->nll_sparse_sum / n), s->token_accuracy,
            s->top5_overlap};
        for (size_t k = 0; k < sizeof values / sizeof *values; k++) table_real(t, values[k]);
    }
    return t;
}

struct table *positions_table(const struct run_view *v)
{
    struct table *t = table_new("By token position");
    add_data(t, "run");
    add_text(t, "positions", "positions");
    add_text(t, "name", "metric");
    table_weight(t, 1);
    add(t, "mean", "mean", NULL, NUMBER_FIXED, 4, METRIC_NEITHER);
    table_weight(t, 1);
    add(t, "p1", "p1", NULL, NUMBER_FIXED, 4, METRIC_NEITHER);
    add(t, "median", "median", NULL, NUMBER_FIXED, 4, METRIC_NEITHER);
    add(t, "p99_9", "p99.9", NULL, NUMBER_FIXED, 4, METRIC_NEITHER);
    for (size_t i = 0; i < v->metrics.n; i++) {
        const struct metric_record *m = &v->metrics.rows[i];
        if (!str_starts_with(m->scope, "position:")) continue;
        const struct metric_info *info = metric_info(m->name);
        table_int(t, v->run->id);
        table_text(t, m->scope + strlen("position:"));
        table_text(t, m->name);
        table_show(t, info ? info->label : m->name);
        table_real(t, m->mean);
        table_real(t, m->p1);
        table_real(t, m->median);
        table_real(t, m->p99_9);
    }
    return t;
}

static double left_out(int64_t possible, int64_t computed)
{
    return possible ? 1 - (double)computed / (double)possible : NAN;
}

static double share(int64_t part, int64_t whole)
{
    return whole ? (double)part / (double)whole : NAN;
}

/* Largest achieved L1 of a layer's sparse heads; NAN without tuning. */
static void achieved(const struct run_view *v, int layer, double *tune, double *held_out)
{
    *tune = *held_out = NAN;
    if (v->tuned.n == 0) return;
    const struct tuned_record *r = &v->tuned.rows[0];
    for (size_t i = 0; i < r->n_heads; i++) {
        if (r->heads[i].layer != layer || !r->heads[i].is_sparse) continue;
        *tune = fmax(*tune, r->heads[i].l1_tune);
        *held_out = fmax(*held_out, r->heads[i].l1_held_out);
    }
}

static const struct layer_error_record *layer_error(const struct run_view *v, int layer)
{
    for (size_t i = 0; i < v->layer_errors.n; i++)
        if (v->layer_errors.rows[i].layer == layer && v->layer_errors.rows[i].head == -1 &&
            v->layer_errors.rows[i].sample == -1)
            return &v->layer_errors.rows[i];
    return NULL;
}

struct table *layers_table(const struct run_view *v)
{
    struct table *t = table_new("Layers");
    add_data(t, "run");
    add_text(t, "layer", "layer");
    add_text(t, "n_sparse_heads", "sparse heads");
    add_data(t, "n_heads");
    add_share(t, "sparsity", "sparsity", METRIC_HIGHER);
    table_weight(t, 4);
    add_share(t, "qk_sparsity", "QK", METRIC_HIGHER);
    add_share(t, "pv_sparsity", "PV", METRIC_HIGHER);
    add_share(t, "forced_sink", "forced sink", METRIC_NEITHER);
    add_share(t, "forced_diagonal", "forced diagonal", METRIC_NEITHER);
    add_share(t, "forced_theta_q", "forced theta q", METRIC_NEITHER);
    add_share(t, "forced_theta_k", "forced theta k", METRIC_NEITHER);
    add_share(t, "dense_share", "ran dense", METRIC_NEITHER);
    bool eight = run_is_eight(v->run);
    if (eight) add_share(t, "eight_share", "in eight bits", METRIC_NEITHER);
    bool corrected = strstr(v->run->method, "correct=mean") != NULL;
    if (corrected) add_share(t, "corrected_share", "tiles as one mean key", METRIC_NEITHER);
    add(t, "l1_tune", "L1 tuned", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    table_weight(t, 3);
    add(t, "l1_held_out", "L1 held out", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    table_weight(t, 3);
    add(t, "isolated_l1", "L1 isolated", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    table_weight(t, 2);
    add(t, "propagated_l1", "L1 propagated", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    table_weight(t, 2);
    for (size_t from = 0, to; from < v->ledger.n; from = to) {
        struct ledger_record sum = {0};
        int n_sparse = 0;
        const struct ledger_record *rows = v->ledger.rows;
        for (to = from; to < v->ledger.n && rows[to].layer == rows[from].layer; to++) {
            const struct ledger_record *r = &rows[to];
            sum.tiles_possible += r->tiles_possible;
            sum.tiles_computed += r->tiles_computed;
            sum.pv_possible += r->pv_possible;
            sum.pv_computed += r->pv_computed;
            sum.forced_sink += r->forced_sink;
            sum.forced_diagonal += r->forced_diagonal;
            sum.forced_theta_q += r->forced_theta_q;
            sum.forced_theta_k += r->forced_theta_k;
            sum.calls += r->calls;
            int64_t dense = r->dense_head + r->dense_layer + r->dense_short;
            if (dense > r->calls) dense = r->calls; /* as in no sound row */
            sum.dense_head += dense;
            sum.eight += r->eight;
            sum.tiles_corrected += r->tiles_corrected;
            n_sparse += dense < r->calls;
        }
        double tune, held_out, qk = left_out(sum.tiles_possible, sum.tiles_computed),
                               pv = left_out(sum.pv_possible, sum.pv_computed);
        achieved(v, rows[from].layer, &tune, &held_out);
        const struct layer_error_record *e = layer_error(v, rows[from].layer);
        char heads[32];
        snprintf(heads, sizeof heads, "%d of %zu", n_sparse, to - from);
        table_int(t, v->run->id);
        table_int(t, rows[from].layer);
        table_int(t, n_sparse);
        table_show(t, heads);
        table_int(t, (int64_t)(to - from));
        const double work[] = {.5 * (qk + pv), qk, pv, share(sum.forced_sink, sum.tiles_possible),
            share(sum.forced_diagonal, sum.tiles_possible),
            share(sum.forced_theta_q, sum.tiles_possible),
            share(sum.forced_theta_k, sum.tiles_possible), share(sum.dense_head, sum.calls)};
        const double errors[] = {
            tune, held_out, e ? e->isolated_l1 : NAN, e ? e->propagated_l1 : NAN};
        for (size_t k = 0; k < sizeof work / sizeof *work; k++) table_real(t, work[k]);
        if (eight) table_real(t, share(sum.eight, sum.calls));
        if (corrected) table_real(t, share(sum.tiles_corrected, sum.tiles_possible));
        for (size_t k = 0; k < sizeof errors / sizeof *errors; k++) table_real(t, errors[k]);
    }
    return t;
}

/* A head with what it is ranked by. */
struct ranked {
    const struct ledger_record *ledger;
    const struct tuned_head_record *tuned;
    double rank;
};

static int compare_ranked(const void *x, const void *y)
{
    const struct ranked *a = x, *b = y;
    if (a->rank != b->rank) return a->rank > b->rank ? -1 : 1;
    if (a->ledger->layer != b->ledger->layer) return a->ledger->layer - b->ledger->layer;
    return a->ledger->head - b->ledger->head;
}

static const struct tuned_head_record *tuned_head(const struct run_view *v, int layer, int head)
{
    if (v->tuned.n == 0) return NULL;
    const struct tuned_record *t = &v->tuned.rows[0];
    for (size_t i = 0; i < t->n_heads; i++)
        if (t->heads[i].layer == layer && t->heads[i].head == head) return &t->heads[i];
    return NULL;
}

struct table *heads_table(const struct run_view *v, size_t limit)
{
    struct table *t = table_new(
        v->tuned.n ? "Heads with the largest L1 on held-out text" : "Heads that left out least");
    add_text(t, "layer", "layer");
    add_text(t, "head", "head");
    table_weight(t, 1);
    add_share(t, "sparsity", "sparsity", METRIC_HIGHER);
    table_weight(t, 1);
    add_short(t, "theta", "theta");
    add_short(t, "tau", "tau");
    add_short(t, "lambda", "lambda");
    add(t, "l1_tune", "L1 tuned", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    add(t, "l1_held_out", "L1 held out", NULL, NUMBER_FIXED, 4, METRIC_LOWER);
    add_text(t, "back_offs", "back-offs");
    add_text(t, "reason", "dense because");
    struct ranked *order = xmalloc((v->ledger.n + 1) * sizeof *order);
    for (size_t i = 0; i < v->ledger.n; i++) {
        const struct ledger_record *r = &v->ledger.rows[i];
        const struct tuned_head_record *h = tuned_head(v, r->layer, r->head);
        double computed =
            share(r->tiles_computed + r->pv_computed, r->tiles_possible + r->pv_possible);
        double rank = !v->tuned.n ? computed : h && h->is_sparse ? h->l1_held_out : NAN;
        order[i] = (struct ranked){r, h, isnan(rank) ? -1 : rank};
    }
    qsort(order, v->ledger.n, sizeof *order, compare_ranked);
    for (size_t i = 0; i < v->ledger.n && i < limit; i++) {
        const struct ledger_record *r = order[i].ledger;
        const struct tuned_head_record *h = order[i].tuned;
        table_int(t, r->layer);
        table_int(t, r->head);
        table_real(t,
            .5 *
                (left_out(r->tiles_possible, r->tiles_computed) +
                    left_out(r->pv_possible, r->pv_computed)));
        table_real(t, r->theta);
        table_real(t, r->tau);
        table_real(t, r->lambda);
        table_real(t, h ? h->l1_tune : NAN);
        table_real(t, h ? h->l1_held_out : NAN);
        if (h) table_int(t, h->back_offs);
        else table_missing(t);
        table_text(t, h ? h->reason : NULL);
    }
    free(order);
    return t;
}

static double item_score(const struct item_record *r, bool dense)
{
    if (r->expected) return dense ? r->dense_value : r->sparse_value;
    return dense ? r->dense_right : r->sparse_right;
}

static void item_side(struct table *t, const struct item_record *r, bool dense)
{
    double score = item_score(r, dense);
    table_real(t, score);
    if (!(score > 0 && score < 1)) table_show(t, score > 0 ? "right" : "wrong");
}

struct table *items_table(const struct run_view *v, bool flips_only)
{
    struct table *t = table_new(flips_only ? "Answers that changed" : "Answers");
    bool written = false;
    for (size_t i = 0; i < v->items.n; i++) written |= v->items.rows[i].expected != NULL;
    add_text(t, "item", "item");
    add_text(t, "grp", "group");
    add(t, "depth", "depth", NULL, NUMBER_FIXED, 2, METRIC_NEITHER);
    add_text(t, "length", "length");
    add_data(t, "dense_right");
    add_data(t, "sparse_right");
    add(t, "dense_value", "dense", NULL, NUMBER_FIXED, 2, METRIC_NEITHER);
    table_weight(t, 1);
    add(t, "sparse_value", "sparse", NULL, NUMBER_FIXED, 2, METRIC_NEITHER);
    table_weight(t, 1);
    add(t, "dense_score", "score dense", NULL, NUMBER_FIXED, 3, METRIC_NEITHER);
    add(t, "sparse_score", "score sparse", NULL, NUMBER_FIXED, 3, METRIC_NEITHER);
    if (written) {
        add_text(t, "expected", "expected");
        add_text(t, "dense_text", "written dense");
        add_text(t, "sparse_text", "written sparse");
    }
    size_t lost = 0, gained = 0;
    for (size_t i = 0; i < v->items.n; i++) {
        const struct item_record *r = &v->items.rows[i];
        double more = item_score(r, false) - item_score(r, true);
        lost += more < 0;
        gained += more > 0;
        if (flips_only && more == 0) continue;
        table_text(t, r->item);
        table_text(t, r->group);
        table_real(t, r->depth);
        table_count(t, r->length);
        table_bool(t, r->dense_right);
        table_bool(t, r->sparse_right);
        item_side(t, r, true);
        item_side(t, r, false);
        table_mark(t, more == 0 ? "=" : more > 0 ? "▲" : "▼");
        table_real(t, r->dense_score);
        table_real(t, r->sparse_score);
        if (!written) continue;
        table_text(t, r->expected);
        table_text(t, r->dense_text);
        table_text(t, r->sparse_text);
    }
    char note[96];
    snprintf(note, sizeof note, "%zu answers lost, %zu gained, of %zu", lost, gained, v->items.n);
    table_note(t, note);
    return t;
}

struct table *generations_table(const struct run_view *v)
{
    struct table *t = table_new("Greedy generation");
    size_t n_dense = 0;
    add_data(t, "run");
    add_text(t, "prompt", "prompt");
    add_text(t, "dense", "dense");
    table_weight(t, 1);
    add_text(t, "sparse", "sparse");
    table_weight(t, 1);
    add_share(t, "token_match", "token match", METRIC_HIGHER);
    add_share(t, "text_similarity", "similarity", METRIC_HIGHER);
    add_data(t, "n_tokens");
    for (size_t i = 0; i < v->generations.n; i++) {
        const struct generation_record *g = &v->generations.rows[i];
        table_int(t, v->run->id);
        table_text(t, g->prompt);
        table_text(t, g->dense);
        table_text(t, g->sparse);
        table_real(t, g->token_match);
        table_real(t, g->text_similarity);
        table_int(t, g->n_tokens);
        n_dense += generation_is_dense(g);
    }
    if (n_dense) {
        char note[192];
        snprintf(note, sizeof note,
            "%zu of %zu prompts lie within one tile, so both sides ran dense and their match says "
            "nothing about "
            "sparsity; generate --prompt-file takes a longer one",
            n_dense, v->generations.n);
        table_note(t, note);
    }
    return t;
}

struct table *latencies_table(const struct run_view *v)
{
    struct table *t = table_new("Time");
    add_data(t, "run");
    add_text(t, "part", "part");
    add_text(t, "n_tokens", "tokens");
    table_weight(t, 3);
    add_text(t, "n", "repeats");
    add(t, "median", "median", NULL, NUMBER_SECONDS, 2, METRIC_LOWER);
    table_weight(t, 3);
    add(t, "q1", "q1", NULL, NUMBER_SECONDS, 2, METRIC_NEITHER);
    table_weight(t, 1);
    add(t, "q3", "q3", NULL, NUMBER_SECONDS, 2, METRIC_NEITHER);
    table_weight(t, 1);
    add(t, "min", "min", NULL, NUMBER_SECONDS, 2, METRIC_NEITHER);
    add(t, "max", "max", NULL, NUMBER_SECONDS, 2, METRIC_NEITHER);
    add_text(t, "valid", "verdict");
    table_weight(t, 2);
    add_data(t, "note");
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        if (str_starts_with(r->part, "dense_") || str_starts_with(r->part, "sparse_")) continue;
        table_int(t, v->run->id);
        table_text(t, r->part);
        table_int(t, r->n_tokens);
        table_int(t, r->n);
        table_real(t, r->median);
        table_real(t, r->q1);
        table_real(t, r->q3);
        table_real(t, r->min);
        table_real(t, r->max);
        struct str verdict = {0};
        str_add(&verdict, r->valid ? "VALID" : "INVALID");
        if (r->note) str_addf(&verdict, ": %s", r->note);
        table_bool(t, r->valid);
        table_show(t, str_get(&verdict));
        table_text(t, r->note);
        str_clear(&verdict);
    }
    return t;
}

static void add_shown(const char *text, struct str *out)
{
    for (const char *c = text; *c; c++) {
        if (*c == '\n') str_add(out, "\\n");
        else str_add_char(out, *c);
    }
}

void top_tokens_text(const char *json, int64_t true_token, struct str *out)
{
    cJSON *list = json_stored(json);
    const cJSON *x;
    size_t n = 0;
    cJSON_ArrayForEach(x, list)
    {
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(x, "text"),
                    *p = cJSON_GetObjectItemCaseSensitive(x, "p"),
                    *id = cJSON_GetObjectItemCaseSensitive(x, "id");
        bool right = cJSON_IsNumber(id) && (int64_t)id->valuedouble == true_token;
        str_addf(out, "%s%s\"", n++ ? "  " : "", right ? "*" : "");
        add_shown(cJSON_IsString(text) ? text->valuestring : "?", out);
        str_addf(out, "\" %.3f", cJSON_IsNumber(p) ? p->valuedouble : 0);
    }
    cJSON_Delete(list);
}

static void table_top(struct table *t, const char *json, int64_t true_token)
{
    struct str text = {0};
    top_tokens_text(json, true_token, &text);
    table_text(t, text.len ? json : NULL);
    if (text.len) table_show(t, str_get(&text));
    str_clear(&text);
}

/* The end of what came before: what the table has room for. */
static void table_context(struct table *t, const char *text)
{
    enum { SHOWN = 80 };
    if (!text) {
        table_missing(t);
        return;
    }
    struct str shown = {0};
    size_t n = strlen(text), from = n > SHOWN ? n - SHOWN : 0;
    /* not in the middle of a character */
    while (from < n && ((unsigned char)text[from] & 0xc0) == 0x80) from++;
    if (from) str_add(&shown, "…");
    add_shown(text + from, &shown);
    table_text(t, text);
    table_show(t, str_get(&shown));
    str_clear(&shown);
}

struct table *worst_tokens_table(const struct run_view *v, size_t limit)
{
    struct table *t = table_new("Tokens with the highest KL");
    add_text(t, "sample", "sample");
    add_text(t, "position", "position");
    add(t, "kl", "KL", "nats", NUMBER_FIXED, 3, METRIC_LOWER);
    table_weight(t, 2);
    add(t, "cosine", "cosine", NULL, NUMBER_FIXED, 4, METRIC_HIGHER);
    add(t, "nll_dense", "NLL dense", NULL, NUMBER_FIXED, 2, METRIC_NEITHER);
    add(t, "nll_sparse", "NLL sparse", NULL, NUMBER_FIXED, 2, METRIC_LOWER);
    add_share(t, "row_sparsity", "row sparsity", METRIC_NEITHER);
    add_text(t, "context", "context");
    add_data(t, "token");
    add_text(t, "token_text", "next");
    table_weight(t, 1);
    add_text(t, "top_dense", "top dense");
    add_text(t, "top_sparse", "top sparse");
    for (size_t i = 0; i < v->worst_tokens.n && i < limit; i++) {
        const struct worst_token_record *w = &v->worst_tokens.rows[i];
        table_int(t, w->sample);
        table_int(t, w->position);
        table_real(t, w->kl);
        table_real(t, w->cosine);
        table_real(t, w->nll_dense);
        table_real(t, w->nll_sparse);
        table_real(t, w->row_sparsity);
        table_context(t, w->context);
        table_int(t, w->token);
        table_text(t, w->token_text);
        table_top(t, w->top_dense, w->token);
        table_top(t, w->top_sparse, w->token);
    }
    return t;
}

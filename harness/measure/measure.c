#include "harness/measure/measure.h"

#include "base/stats.h"
#include "base/xmalloc.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct metric_record *metric_rows_add(
    struct metric_rows *m, const char *scope, const char *name, int64_t n)
{
    if (m->n == m->cap) {
        size_t cap = m->cap ? 2 * m->cap : 64;
        struct metric_record *rows = arena_alloc(m->arena, cap * sizeof *rows);
        if (m->n) memcpy(rows, m->rows, m->n * sizeof *rows);
        m->rows = rows;
        m->cap = cap;
    }
    m->rows[m->n] = metric_record_empty(arena_str(m->arena, scope), arena_str(m->arena, name), n);
    return &m->rows[m->n++];
}

static void set_summary(struct metric_record *r, const struct summary *s)
{
    r->mean = s->mean;
    r->min = s->min;
    r->p0_1 = s->p0_1;
    r->p1 = s->p1;
    r->p5 = s->p5;
    r->median = s->median;
    r->p95 = s->p95;
    r->p99 = s->p99;
    r->p99_9 = s->p99_9;
    r->max = s->max;
}

static void set_estimate(struct metric_record *r, const struct estimate *e)
{
    r->mean = e->value;
    r->std_error = e->std_error;
    r->lo = e->lo;
    r->hi = e->hi;
}

static void add_estimate(
    struct metric_rows *m, const struct estimate_source *s, const char *name, int64_t n)
{
    struct estimate e;
    if (estimate_metric(s, name, &e)) set_estimate(metric_rows_add(m, "overall", name, n), &e);
}

/* One field of struct token_metrics as a number. */
struct token_field {
    const char *name;
    size_t offset;
    enum { F32, U8, U8_FIFTHS } type;
    bool scored_only; /* means something only where a next token counts */
    bool by_position;
};

static const struct token_field fields[] = {
    {"cosine", offsetof(struct token_metrics, cosine), F32, false, true},
    {"cosine_centred", offsetof(struct token_metrics, cosine_centred), F32, false, false},
    {"kl", offsetof(struct token_metrics, kl), F32, false, true},
    {"nll_dense", offsetof(struct token_metrics, nll_dense), F32, true, true},
    {"nll_sparse", offsetof(struct token_metrics, nll_sparse), F32, true, true},
    {"delta_p", offsetof(struct token_metrics, delta_p), F32, true, false},
    {"top1", offsetof(struct token_metrics, top1_agree), U8, false, true},
    {"top5", offsetof(struct token_metrics, top5_overlap), U8_FIFTHS, false, false},
    {"row_l1", offsetof(struct token_metrics, logits_l1), F32, false, false},
    {"row_rmse", offsetof(struct token_metrics, logits_rmse), F32, false, false},
    {"row_hidden_cosine", offsetof(struct token_metrics, hidden_cosine), F32, false, false},
    {"row_hidden_l1", offsetof(struct token_metrics, hidden_l1), F32, false, false},
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

static float field_value(const struct token_field *f, const struct token_metrics *t)
{
    const char *p = (const char *)t + f->offset;
    if (f->type == F32) return *(const float *)p;
    return f->type == U8 ? (float)*(const uint8_t *)p : (float)*(const uint8_t *)p / 5;
}

static bool counts(const struct token_field *f, const struct sample *x, int position,
    const struct token_metrics *t)
{
    return !f->scored_only || (t->next >= 0 && position >= x->score_from);
}

/* The distribution over positions [first, end); its mean is that of the samples where they are
 * whole. */
struct field_summary {
    size_t n; /* 0: nothing is known of it */
    struct summary summary;
    struct estimate estimate;
};

static struct field_summary summarise_field(
    const struct measured *in, const struct token_field *f, int first, int end)
{
    struct field_summary out = {0};
    int n_samples = in->set->n_samples;
    float *values = xmalloc(sizeof *values * (size_t)in->set->n_tokens);
    double *sum = xcalloc((size_t)n_samples, sizeof *sum),
           *count = xcalloc((size_t)n_samples, sizeof *count);
    size_t n = 0;
    for (int i = 0; i < n_samples; i++) {
        const struct sample *x = &in->set->samples[i];
        for (int t = first; t < x->n && t < end; t++) {
            if (!counts(f, x, t, &in->tokens[i][t])) continue;
            values[n] = field_value(f, &in->tokens[i][t]);
            sum[i] += (double)values[n++];
            count[i]++;
        }
    }
    if (n) {
        out.n = n;
        out.summary = summarise(values, n);
        if (first > 0 || end < INT32_MAX || !estimate_metric(&in->source, f->name, &out.estimate))
            out.estimate = estimate_ratio(sum, count, (size_t)n_samples, metric_scale(f->name));
        metric_clip(f->name, &out.estimate);
    }
    free(values);
    free(sum);
    free(count);
    return out;
}

/* Every field over all positions, then stretch after stretch. */
struct field_job {
    const struct measured *in;
    const int *edges;
    struct field_summary *out; /* [1 + stretches, N_FIELDS] */
};

static void summarise_one(void *ctx, int i, int worker)
{
    struct field_job *j = ctx;
    int stretch = i / N_FIELDS - 1;
    const struct token_field *f = &fields[i % N_FIELDS];
    (void)worker;
    if (stretch < 0) j->out[i] = summarise_field(j->in, f, 0, INT32_MAX);
    else if (f->by_position)
        j->out[i] = summarise_field(j->in, f, j->edges[stretch], j->edges[stretch + 1]);
}

static void add_fields(
    struct metric_rows *m, const struct field_summary *summaries, const char *scope)
{
    for (int f = 0; f < N_FIELDS; f++) {
        if (!summaries[f].n) continue;
        struct metric_record *r =
            metric_rows_add(m, scope, fields[f].name, (int64_t)summaries[f].n);
        set_summary(r, &summaries[f].summary);
        set_estimate(r, &summaries[f].estimate);
    }
}

static double share(double part, double a, double b)
{
    return a > 0 && b > 0 ? part / sqrt(a * b) : NAN;
}

struct sample_record measure_sample(int index, const struct sample *x,
    const struct token_metrics *tokens, const struct tensor_sums *sums,
    const struct head_ledger *ledger)
{
    struct sample_record r = {
        .sample = index, .n_tokens = x->n, .fell_back = ledger->calls_dense_short > 0};
    assert(x->n > 0);
    float *cosine = xcalloc((size_t)x->n, sizeof *cosine), *kl = xcalloc((size_t)x->n, sizeof *kl);
    double agree = 0, top5 = 0, delta = 0, centred = 0, rmse = 0, hidden = 0;
    for (int t = 0; t < x->n; t++) {
        cosine[t] = tokens[t].cosine;
        kl[t] = tokens[t].kl;
        agree += tokens[t].top1_agree;
        top5 += tokens[t].top5_overlap / 5.0;
        centred += (double)tokens[t].cosine_centred;
        rmse += (double)tokens[t].logits_rmse;
        hidden += (double)tokens[t].hidden_cosine;
        if (tokens[t].next < 0 || t < x->score_from) continue;
        r.n_scored++;
        r.nll_dense_sum += (double)tokens[t].nll_dense;
        r.nll_sparse_sum += (double)tokens[t].nll_sparse;
        delta += (double)tokens[t].delta_p;
    }
    struct summary c = summarise(cosine, (size_t)x->n), k = summarise(kl, (size_t)x->n);
    r.cosine_mean = c.mean;
    r.cosine_p1 = c.p1;
    r.cosine_min = c.min;
    r.kl_mean = k.mean;
    r.kl_p99_9 = k.p99_9;
    r.kl_max = k.max;
    r.delta_p_mean = r.n_scored ? delta / (double)r.n_scored : NAN;
    r.token_accuracy = agree / x->n;
    r.top5_overlap = top5 / x->n;
    r.cosine_centred_mean = centred / x->n;
    r.row_rmse_mean = rmse / x->n;
    r.row_hidden_cosine_mean = hidden / x->n;
    r.logits_cosine = share(sums->dot, sums->dense_sq, sums->sparse_sq);
    r.logits_l1 = sums->abs_diff / sums->n;
    r.logits_rmse = sqrt(sums->sq_diff / sums->n);
    r.hidden_cosine = share(sums->hidden_dot, sums->hidden_dense_sq, sums->hidden_sparse_sq);
    r.hidden_l1 = sums->hidden_abs_diff / sums->hidden_n;
    r.logits_dense_rms = sqrt(sums->dense_sq / sums->n);
    r.logits_sparse_rms = sqrt(sums->sparse_sq / sums->n);
    r.hidden_dense_rms = sqrt(sums->hidden_dense_sq / sums->hidden_n);
    r.hidden_sparse_rms = sqrt(sums->hidden_sparse_sq / sums->hidden_n);
    r.tiles_possible = (double)ledger->tiles_possible;
    r.pv_possible = (double)ledger->pv_units_possible;
    r.sparsity = ledger_sparsity(ledger);
    r.qk_sparsity = ledger_qk_sparsity(ledger);
    r.pv_sparsity = ledger_pv_sparsity(ledger);
    free(cosine);
    free(kl);
    return r;
}

/* The pooled ones, tails and perplexities. */
static void add_overall(struct metric_rows *m, const struct measured *in)
{
    static const char *const pooled[] = {"logits_cosine", "logits_l1", "logits_rmse",
        "hidden_cosine", "hidden_l1", "token_accuracy", "top5_overlap"},
                             *const of_text[] = {
                                 "ppl_dense", "ppl_sparse", "ppl_ratio", "ppl_diff"};
    int64_t n = in->set->n_tokens, scored = 0;
    for (int i = 0; i < in->set->n_samples; i++) scored += in->source.samples[i].n_scored;
    for (size_t i = 0; i < sizeof pooled / sizeof *pooled; i++)
        add_estimate(m, &in->source, pooled[i], n);
    for (int i = 0; i < N_TAIL_RULES; i++)
        add_estimate(m, &in->source, tail_rules[i].percentile, n);
    for (size_t i = 0; scored && in->set->score_text && i < sizeof of_text / sizeof *of_text; i++)
        add_estimate(m, &in->source, of_text[i], scored);
}

void measure_tokens(
    struct metric_rows *m, const struct measured *in, const int *edges, int n_stretches)
{
    int longest = 0, n = 0;
    for (int i = 0; i < in->set->n_samples; i++)
        if (in->set->samples[i].n > longest) longest = in->set->samples[i].n;
    while (n < n_stretches && edges[n] < longest) n++;
    struct field_summary *all = xcalloc((size_t)(1 + n) * N_FIELDS, sizeof *all);
    struct field_job j = {in, edges, all};
    par_for(in->par, (1 + n) * N_FIELDS, summarise_one, &j);
    add_fields(m, all, "overall");
    add_overall(m, in);
    for (int i = 0; i < n; i++) {
        size_t before = m->n;
        char scope[64];
        snprintf(scope, sizeof scope, "position:%d-%d", edges[i],
            (edges[i + 1] < longest ? edges[i + 1] : longest) - 1);
        add_fields(m, all + (1 + i) * N_FIELDS, scope);
        for (size_t r = before; r < m->n; r++) {
            /* curves by position need their band, not every quantile: half the bytes */
            struct metric_record *x = &m->rows[r];
            x->min = x->p0_1 = x->p5 = x->p95 = x->p99_9 = x->max = NAN;
        }
    }
    free(all);
}

/* Over all possible work; the distribution is that over samples. */
static void sample_sparsity(
    struct metric_rows *m, const struct measured *in, const char *name, size_t offset)
{
    int n = in->set->n_samples;
    float *values = xmalloc(sizeof *values * (size_t)n);
    for (int i = 0; i < n; i++)
        values[i] = (float)*(const double *)((const char *)&in->source.samples[i] + offset);
    struct summary s = summarise(values, (size_t)n);
    struct metric_record *r = metric_rows_add(m, "overall", name, n);
    struct estimate e;
    set_summary(r, &s);
    if (estimate_metric(&in->source, name, &e)) set_estimate(r, &e);
    free(values);
}

void measure_sparsity(struct metric_rows *m, const struct measured *in)
{
    sample_sparsity(m, in, "sparsity", offsetof(struct sample_record, sparsity));
    sample_sparsity(m, in, "qk_sparsity", offsetof(struct sample_record, qk_sparsity));
    sample_sparsity(m, in, "pv_sparsity", offsetof(struct sample_record, pv_sparsity));
}

void measure_items(struct metric_rows *m, const struct item_record *items, int n_items, bool norm)
{
    static const char *const names[] = {
        "score_dense", "score_sparse", "score_drop", "answers_lost", "answers_gained"};
    struct estimate_source s = {.items = items, .n_items = (size_t)n_items};
    if (!norm) add_estimate(m, &s, "answer_kl", n_items);
    for (int which = 0; which < 5; which++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", names[which], norm ? "_norm" : "");
        add_estimate(m, &s, name, n_items);
    }
}

struct tail_job {
    const struct sample_set *set;
    const struct token_metrics *const *tokens;
    const struct sample_record *samples;
    float **values; /* [N_TAIL_RULES, samples] */
    size_t *keep;   /* the same */
};

static void choose_tail(void *ctx, int rule, int worker)
{
    struct tail_job *j = ctx;
    size_t n = (size_t)j->set->n_samples;
    float **values = j->values + (size_t)rule * n;
    (void)worker;
    for (size_t i = 0; i < n; i++) {
        size_t length = (size_t)j->set->samples[i].n;
        values[i] = xmalloc(length * sizeof **values);
        for (size_t t = 0; t < length; t++)
            values[i][t] = tail_rules[rule].low ? j->tokens[i][t].cosine : j->tokens[i][t].kl;
    }
    tail_choose(&tail_rules[rule], values, j->samples, n, j->keep + (size_t)rule * n);
}

struct tail_record *measure_tails(const struct sample_set *set,
    const struct token_metrics *const *tokens, const struct sample_record *samples, struct par *par,
    struct arena **arena, size_t *n_tails)
{
    size_t n = (size_t)set->n_samples, all = N_TAIL_RULES * n;
    struct tail_job j = {
        set, tokens, samples, xcalloc(all, sizeof *j.values), xcalloc(all, sizeof *j.keep)};
    struct tail_record *out = arena_alloc(arena, all * sizeof *out);
    par_for(par, N_TAIL_RULES, choose_tail, &j);
    for (size_t i = 0; i < all; i++) {
        float *kept = arena_alloc(arena, (j.keep[i] + 1) * sizeof *kept);
        memcpy(kept, j.values[i], j.keep[i] * sizeof *kept);
        out[i] =
            (struct tail_record){samples[i % n].sample, tail_rules[i / n].metric, j.keep[i], kept};
        free(j.values[i]);
    }
    *n_tails = all;
    free(j.keep);
    free(j.values);
    return out;
}

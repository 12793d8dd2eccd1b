#include "harness/measure/measure.h"

#include "base/stats.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct metric_record *metric_rows_add(struct metric_rows *m, const char *scope, const char *name, int64_t n)
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
    r->std_error = s->std_error;
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

static void set_interval(struct metric_record *r, const struct interval *i)
{
    r->mean = i->value;
    r->std_error = i->std_error;
    r->lo = i->lo;
    r->hi = i->hi;
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

static bool counts(const struct token_field *f, const struct sample *x, int position, const struct token_metrics *t)
{
    return !f->scored_only || (t->next >= 0 && position >= x->score_from);
}

/* Sums and counts of one field per sample: what the bootstrap of a mean needs. */
struct pooled {
    double *sum, *count;
};

static double pooled_mean(const void *ctx, const int *clusters, size_t n)
{
    const struct pooled *p = ctx;
    double sum = 0, count = 0;
    for (size_t i = 0; i < n; i++) {
        sum += p->sum[clusters[i]];
        count += p->count[clusters[i]];
    }
    return count > 0 ? sum / count : NAN;
}

static void summarise_field(struct metric_rows *m, const struct measured *in, const struct token_field *f,
                            const char *scope, int first, int end)
{
    int n_samples = in->set->n_samples;
    float *values = malloc(sizeof *values * (size_t)in->set->n_tokens);
    struct pooled p = {calloc((size_t)n_samples, sizeof(double)), calloc((size_t)n_samples, sizeof(double))};
    if (!values || !p.sum || !p.count) abort();
    size_t n = 0;
    for (int i = 0; i < n_samples; i++) {
        const struct sample *x = &in->set->samples[i];
        for (int t = first; t < x->n && t < end; t++) {
            if (!counts(f, x, t, &in->tokens[i][t])) continue;
            values[n] = field_value(f, &in->tokens[i][t]);
            p.sum[i] += (double)values[n++];
            p.count[i]++;
        }
    }
    if (n) {
        struct summary s = summarise(values, n);
        struct metric_record *r = metric_rows_add(m, scope, f->name, (int64_t)n);
        struct interval ci = bootstrap(pooled_mean, &p, (size_t)n_samples, .95, in->n_resamples, in->seed);
        set_summary(r, &s);
        r->lo = ci.lo;
        r->hi = ci.hi;
    }
    free(values);
    free(p.sum);
    free(p.count);
}

static double share(double part, double a, double b) { return a > 0 && b > 0 ? part / sqrt(a * b) : NAN; }

struct sample_record measure_sample(int index, const struct sample *x, const struct token_metrics *tokens,
                                    const struct tensor_sums *sums, const struct head_ledger *ledger)
{
    struct sample_record r = {.sample = index, .n_tokens = x->n, .fell_back = ledger->calls_dense_short > 0};
    assert(x->n > 0);
    float *cosine = calloc((size_t)x->n, sizeof *cosine), *kl = calloc((size_t)x->n, sizeof *kl);
    if (!cosine || !kl) abort();
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
    r.sparsity = ledger_sparsity(ledger);
    r.qk_sparsity = ledger_qk_sparsity(ledger);
    r.pv_sparsity = ledger_pv_sparsity(ledger);
    free(cosine);
    free(kl);
    return r;
}

/* Statistics of whole samples, for the bootstrap. */

static struct tensor_sums total_sums(const struct measured *in, const int *pick, size_t n)
{
    struct tensor_sums total = {0};
    double *to = (double *)&total;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < sizeof total / sizeof *to; j++) to[j] += ((const double *)&in->sums[pick[i]])[j];
    return total;
}

static double logits_cosine(const void *ctx, const int *pick, size_t n)
{
    struct tensor_sums t = total_sums(ctx, pick, n);
    return share(t.dot, t.dense_sq, t.sparse_sq);
}

static double logits_l1(const void *ctx, const int *pick, size_t n)
{
    struct tensor_sums t = total_sums(ctx, pick, n);
    return t.abs_diff / t.n;
}

static double logits_rmse(const void *ctx, const int *pick, size_t n)
{
    struct tensor_sums t = total_sums(ctx, pick, n);
    return sqrt(t.sq_diff / t.n);
}

static double hidden_cosine(const void *ctx, const int *pick, size_t n)
{
    struct tensor_sums t = total_sums(ctx, pick, n);
    return share(t.hidden_dot, t.hidden_dense_sq, t.hidden_sparse_sq);
}

static double hidden_l1(const void *ctx, const int *pick, size_t n)
{
    struct tensor_sums t = total_sums(ctx, pick, n);
    return t.hidden_abs_diff / t.hidden_n;
}

static double weighted(const struct measured *in, const int *pick, size_t n, size_t offset)
{
    double sum = 0, tokens = 0;
    for (size_t i = 0; i < n; i++) {
        const struct sample_record *s = &in->samples[pick[i]];
        sum += *(const double *)((const char *)s + offset) * (double)s->n_tokens;
        tokens += (double)s->n_tokens;
    }
    return sum / tokens;
}

static double token_accuracy(const void *ctx, const int *pick, size_t n)
{
    return weighted(ctx, pick, n, offsetof(struct sample_record, token_accuracy));
}

static double top5_overlap(const void *ctx, const int *pick, size_t n)
{
    return weighted(ctx, pick, n, offsetof(struct sample_record, top5_overlap));
}

static double mean_nll(const struct measured *in, const int *pick, size_t n, bool sparse)
{
    double sum = 0, scored = 0;
    for (size_t i = 0; i < n; i++) {
        const struct sample_record *s = &in->samples[pick[i]];
        sum += sparse ? s->nll_sparse_sum : s->nll_dense_sum;
        scored += (double)s->n_scored;
    }
    return sum / scored;
}

static double ppl_dense(const void *ctx, const int *pick, size_t n) { return exp(mean_nll(ctx, pick, n, false)); }
static double ppl_sparse(const void *ctx, const int *pick, size_t n) { return exp(mean_nll(ctx, pick, n, true)); }

static double ppl_ratio(const void *ctx, const int *pick, size_t n)
{
    return exp(mean_nll(ctx, pick, n, true) - mean_nll(ctx, pick, n, false));
}

static double ppl_diff(const void *ctx, const int *pick, size_t n)
{
    return ppl_sparse(ctx, pick, n) - ppl_dense(ctx, pick, n);
}

static void add_statistic(struct metric_rows *m, const struct measured *in, const char *name, cluster_stat *stat,
                          int64_t n)
{
    struct interval i = bootstrap(stat, in, (size_t)in->set->n_samples, .95, in->n_resamples, in->seed);
    set_interval(metric_rows_add(m, "overall", name, n), &i);
}

void measure_overall(struct metric_rows *m, const struct measured *in)
{
    for (int f = 0; f < N_FIELDS; f++) summarise_field(m, in, &fields[f], "overall", 0, INT32_MAX);
    int64_t n = in->set->n_tokens, scored = 0;
    for (int i = 0; i < in->set->n_samples; i++) scored += in->samples[i].n_scored;
    add_statistic(m, in, "logits_cosine", logits_cosine, n);
    add_statistic(m, in, "logits_l1", logits_l1, n);
    add_statistic(m, in, "logits_rmse", logits_rmse, n);
    add_statistic(m, in, "hidden_cosine", hidden_cosine, n);
    add_statistic(m, in, "hidden_l1", hidden_l1, n);
    add_statistic(m, in, "token_accuracy", token_accuracy, n);
    add_statistic(m, in, "top5_overlap", top5_overlap, n);
    if (!scored || !in->set->score_text) return;
    add_statistic(m, in, "ppl_dense", ppl_dense, scored);
    add_statistic(m, in, "ppl_sparse", ppl_sparse, scored);
    add_statistic(m, in, "ppl_ratio", ppl_ratio, scored);
    add_statistic(m, in, "ppl_diff", ppl_diff, scored);
}

void measure_positions(struct metric_rows *m, const struct measured *in, int first, int end)
{
    int longest = 0;
    for (int i = 0; i < in->set->n_samples; i++)
        if (in->set->samples[i].n > longest) longest = in->set->samples[i].n;
    if (first >= longest) return;
    char scope[64];
    snprintf(scope, sizeof scope, "position:%d-%d", first, (end < longest ? end : longest) - 1);
    for (int f = 0; f < N_FIELDS; f++) {
        if (!fields[f].by_position) continue;
        size_t before = m->n;
        summarise_field(m, in, &fields[f], scope, first, end);
        if (m->n == before) continue;
        struct metric_record *r = &m->rows[before]; /* curves by position need their band, not every quantile: half the bytes */
        r->min = r->p0_1 = r->p5 = r->p95 = r->p99_9 = r->max = NAN;
    }
}

static void sample_sparsity(struct metric_rows *m, const struct measured *in, const char *name, size_t offset, double value)
{
    int n = in->set->n_samples;
    struct pooled p = {malloc(sizeof(double) * (size_t)n), malloc(sizeof(double) * (size_t)n)};
    float *values = malloc(sizeof *values * (size_t)n);
    if (!p.sum || !p.count || !values) abort();
    for (int i = 0; i < n; i++) {
        p.sum[i] = *(const double *)((const char *)&in->samples[i] + offset);
        p.count[i] = 1;
        values[i] = (float)p.sum[i];
    }
    struct summary s = summarise(values, (size_t)n);
    struct interval ci = bootstrap(pooled_mean, &p, (size_t)n, .95, in->n_resamples, in->seed);
    struct metric_record *r = metric_rows_add(m, "overall", name, n);
    set_summary(r, &s);
    r->mean = value; /* over all possible work, not over samples */
    r->lo = ci.lo;
    r->hi = ci.hi;
    free(values);
    free(p.sum);
    free(p.count);
}

void measure_sparsity(struct metric_rows *m, const struct measured *in, const struct head_ledger *total)
{
    sample_sparsity(m, in, "sparsity", offsetof(struct sample_record, sparsity), ledger_sparsity(total));
    sample_sparsity(m, in, "qk_sparsity", offsetof(struct sample_record, qk_sparsity), ledger_qk_sparsity(total));
    sample_sparsity(m, in, "pv_sparsity", offsetof(struct sample_record, pv_sparsity), ledger_pv_sparsity(total));
}

void measure_items(struct metric_rows *m, const char *suffix, const struct item_record *items, int n_items, int n_samples,
                   int n_resamples, uint64_t seed)
{
    struct pooled p = {calloc((size_t)n_samples, sizeof(double)), calloc((size_t)n_samples, sizeof(double))};
    if (!p.sum || !p.count) abort();
    static const char *const names[] = {"score_dense", "score_sparse", "score_drop", "answers_lost", "answers_gained"};
    for (int which = 0; which < 5; which++) {
        memset(p.sum, 0, sizeof(double) * (size_t)n_samples);
        memset(p.count, 0, sizeof(double) * (size_t)n_samples);
        for (int i = 0; i < n_items; i++) {
            int c = items[i].sample;
            p.count[c]++;
            bool dense = items[i].dense_right, sparse = items[i].sparse_right;
            p.sum[c] += which == 0 ? dense : which == 1 ? sparse : which == 2 ? dense - sparse : which == 3 ? dense && !sparse
                                                                                                         : sparse && !dense;
        }
        struct interval ci = bootstrap(pooled_mean, &p, (size_t)n_samples, .95, n_resamples, seed);
        char name[64];
        snprintf(name, sizeof name, "%s%s", names[which], suffix);
        set_interval(metric_rows_add(m, "overall", name, n_items), &ci);
    }
    free(p.sum);
    free(p.count);
}

void measure_latency(struct metric_rows *m, const struct measured *in, const char *name, const double *seconds, int n)
{
    float *values = malloc(sizeof *values * (size_t)n);
    struct pooled p = {malloc(sizeof(double) * (size_t)n), malloc(sizeof(double) * (size_t)n)};
    if (!values || !p.sum || !p.count) abort();
    double tokens = 0;
    for (int i = 0; i < n; i++) values[i] = (float)seconds[i];
    for (int i = 0; i < n && n == in->set->n_samples; i++) {
        p.sum[i] = seconds[i];
        p.count[i] = (double)in->set->samples[i].n;
        tokens += p.count[i] / n;
    }
    struct summary s = summarise(values, (size_t)n);
    struct metric_record *r = metric_rows_add(m, "overall", name, n);
    set_summary(r, &s);
    if (tokens > 0) {
        struct interval ci = bootstrap(pooled_mean, &p, (size_t)n, .95, in->n_resamples, in->seed);
        r->lo = ci.lo * tokens;
        r->hi = ci.hi * tokens;
    }
    free(values);
    free(p.sum);
    free(p.count);
}

#include "results/estimates.h"

#include "base/xmalloc.h"
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* How sums over samples become the metric. */
enum pooling {
    POOL_RATIO,    /* x0 / x1 */
    POOL_ROOT,     /* sqrt(x0 / x1) */
    POOL_COSINE,   /* x0 / sqrt(x1 x2) */
    POOL_HALVES,   /* (x0 / x1 + x2 / x3) / 2 */
    POOL_EXP_LESS, /* exp(x0 / x2) - exp(x1 / x2) */
};
enum { N_SUMS = 4 };

/* What a sample adds to the sums. */
enum adding {
    ADD_POSITIONS, /* a mean over positions */
    ADD_SCORED,    /* a mean over the positions scored */
    ADD_SQUARE,    /* a root mean square over positions */
    ADD_COSINE,    /* a cosine, its two norms behind it */
    ADD_NLL_DENSE,
    ADD_NLL_SPARSE,
    ADD_NLL_MORE, /* sparse - dense */
    ADD_NLL_BOTH,
    ADD_QK,
    ADD_PV,
    ADD_WORK,
};

static const struct estimator {
    const char *name;
    enum adding adding;
    enum pooling pooling;
    enum estimate_scale scale;
    size_t at, dense, sparse; /* members of struct sample_record */
} estimators[] = {
#define AT(member) offsetof(struct sample_record, member)
    {"cosine", ADD_POSITIONS, POOL_RATIO, SCALE_BELOW_ONE, AT(cosine_mean), 0, 0},
    {"cosine_centred", ADD_POSITIONS, POOL_RATIO, SCALE_BELOW_ONE, AT(cosine_centred_mean), 0, 0},
    {"kl", ADD_POSITIONS, POOL_RATIO, SCALE_POSITIVE, AT(kl_mean), 0, 0},
    {"nll_dense", ADD_NLL_DENSE, POOL_RATIO, SCALE_PLAIN, 0, 0, 0},
    {"nll_sparse", ADD_NLL_SPARSE, POOL_RATIO, SCALE_PLAIN, 0, 0, 0},
    {"delta_p", ADD_SCORED, POOL_RATIO, SCALE_PLAIN, AT(delta_p_mean), 0, 0},
    {"top1", ADD_POSITIONS, POOL_RATIO, SCALE_BELOW_ONE, AT(token_accuracy), 0, 0},
    {"token_accuracy", ADD_POSITIONS, POOL_RATIO, SCALE_BELOW_ONE, AT(token_accuracy), 0, 0},
    {"top5", ADD_POSITIONS, POOL_RATIO, SCALE_BELOW_ONE, AT(top5_overlap), 0, 0},
    {"top5_overlap", ADD_POSITIONS, POOL_RATIO, SCALE_BELOW_ONE, AT(top5_overlap), 0, 0},
    {"row_l1", ADD_POSITIONS, POOL_RATIO, SCALE_POSITIVE, AT(logits_l1), 0, 0},
    {"logits_l1", ADD_POSITIONS, POOL_RATIO, SCALE_POSITIVE, AT(logits_l1), 0, 0},
    {"row_rmse", ADD_POSITIONS, POOL_RATIO, SCALE_POSITIVE, AT(row_rmse_mean), 0, 0},
    {"logits_rmse", ADD_SQUARE, POOL_ROOT, SCALE_POSITIVE, AT(logits_rmse), 0, 0},
    {"row_hidden_cosine", ADD_POSITIONS, POOL_RATIO, SCALE_BELOW_ONE, AT(row_hidden_cosine_mean), 0,
        0},
    {"row_hidden_l1", ADD_POSITIONS, POOL_RATIO, SCALE_POSITIVE, AT(hidden_l1), 0, 0},
    {"hidden_l1", ADD_POSITIONS, POOL_RATIO, SCALE_POSITIVE, AT(hidden_l1), 0, 0},
    {"logits_cosine", ADD_COSINE, POOL_COSINE, SCALE_BELOW_ONE, AT(logits_cosine),
        AT(logits_dense_rms), AT(logits_sparse_rms)},
    {"hidden_cosine", ADD_COSINE, POOL_COSINE, SCALE_BELOW_ONE, AT(hidden_cosine),
        AT(hidden_dense_rms), AT(hidden_sparse_rms)},
    {"ppl_dense", ADD_NLL_DENSE, POOL_RATIO, SCALE_EXP, 0, 0, 0},
    {"ppl_sparse", ADD_NLL_SPARSE, POOL_RATIO, SCALE_EXP, 0, 0, 0},
    {"ppl_ratio", ADD_NLL_MORE, POOL_RATIO, SCALE_EXP, 0, 0, 0},
    {"ppl_diff", ADD_NLL_BOTH, POOL_EXP_LESS, SCALE_PLAIN, 0, 0, 0},
    {"sparsity", ADD_WORK, POOL_HALVES, SCALE_PLAIN, 0, 0, 0},
    {"qk_sparsity", ADD_QK, POOL_RATIO, SCALE_PLAIN, 0, 0, 0},
    {"pv_sparsity", ADD_PV, POOL_RATIO, SCALE_PLAIN, 0, 0, 0},
#undef AT
};

static const struct estimator *estimator_find(const char *name)
{
    for (size_t i = 0; i < sizeof estimators / sizeof *estimators; i++)
        if (!strcmp(estimators[i].name, name)) return &estimators[i];
    return NULL;
}

enum estimate_scale metric_scale(const char *name)
{
    const struct estimator *e = estimator_find(name);
    return e ? e->scale : SCALE_PLAIN;
}

static double member(const struct sample_record *s, size_t offset)
{
    return *(const double *)((const char *)s + offset);
}

/* The sums of one sample, and its weight among samples. */
static double sample_sums(
    const struct estimator *e, const struct sample_record *s, double x[N_SUMS])
{
    double n = (double)s->n_tokens, scored = (double)s->n_scored, value = member(s, e->at);
    memset(x, 0, N_SUMS * sizeof *x);
    switch (e->adding) {
    case ADD_POSITIONS: x[0] = value * n, x[1] = n; break;
    case ADD_SQUARE: x[0] = value * value * n, x[1] = n; break;
    case ADD_SCORED: x[0] = scored > 0 ? value * scored : 0, x[1] = scored; return scored;
    case ADD_COSINE: {
        double dense = member(s, e->dense), sparse = member(s, e->sparse);
        x[0] = value * dense * sparse * n, x[1] = dense * dense * n, x[2] = sparse * sparse * n;
        break;
    }
    case ADD_NLL_DENSE: x[0] = s->nll_dense_sum, x[1] = scored; return scored;
    case ADD_NLL_SPARSE: x[0] = s->nll_sparse_sum, x[1] = scored; return scored;
    case ADD_NLL_MORE: x[0] = s->nll_sparse_sum - s->nll_dense_sum, x[1] = scored; return scored;
    case ADD_NLL_BOTH:
        x[0] = s->nll_sparse_sum, x[1] = s->nll_dense_sum, x[2] = scored;
        return scored;
    case ADD_QK:
        x[0] = s->qk_sparsity * s->tiles_possible, x[1] = s->tiles_possible;
        return s->tiles_possible;
    case ADD_PV:
        x[0] = s->pv_sparsity * s->pv_possible, x[1] = s->pv_possible;
        return s->pv_possible;
    case ADD_WORK:
        x[0] = s->qk_sparsity * s->tiles_possible, x[1] = s->tiles_possible;
        x[2] = s->pv_sparsity * s->pv_possible, x[3] = s->pv_possible;
        return s->tiles_possible;
    }
    return n;
}

/* Sums of all samples, once or before and after. */
struct pooled {
    double (*x)[2 * N_SUMS]; /* now, and behind it before */
    double *weight;
    size_t n;
    enum pooling pooling;
    bool exponent; /* a change of perplexities is one of their own scale */
};

static double pool(enum pooling pooling, const double *s)
{
    switch (pooling) {
    case POOL_ROOT: return sqrt(s[0] / s[1]);
    case POOL_COSINE: return s[0] / sqrt(s[1] * s[2]);
    case POOL_HALVES: return ((s[1] > 0 ? s[0] / s[1] : 0) + (s[3] > 0 ? s[2] / s[3] : 0)) / 2;
    case POOL_EXP_LESS: return exp(s[0] / s[2]) - exp(s[1] / s[2]);
    default: return s[0] / s[1];
    }
}

static double pooled_value(const void *ctx, const double *sums)
{
    return pool(((const struct pooled *)ctx)->pooling, sums);
}

static double pooled_change(const void *ctx, const double *sums)
{
    const struct pooled *p = ctx;
    double after = pool(p->pooling, sums), before = pool(p->pooling, sums + N_SUMS);
    return p->exponent ? exp(after) - exp(before) : after - before;
}

static void pooled_init(struct pooled *p, size_t room)
{
    *p = (struct pooled){
        .x = xcalloc(room + 1, sizeof *p->x), .weight = xcalloc(room + 1, sizeof *p->weight)};
}

static void pooled_clear(struct pooled *p)
{
    free(p->x);
    free(p->weight);
}

static bool sums_known(const double x[N_SUMS])
{
    for (int k = 0; k < N_SUMS; k++)
        if (!isfinite(x[k])) return false;
    return true;
}

/* Samples that count at all; false where one lacks a number. */
static bool pool_samples(
    struct pooled *p, const struct estimator *e, const struct estimate_source *s)
{
    p->pooling = e->pooling;
    for (size_t i = 0; i < s->n_samples; i++) {
        p->weight[p->n] = sample_sums(e, &s->samples[i], p->x[p->n]);
        if (!sums_known(p->x[p->n])) return false;
        if (p->weight[p->n] > 0) p->n++;
    }
    return p->n > 0;
}

/* Task scores: all questions of a text stay together, they are no more independent than its tokens.
 */

static bool is_score(const char *name)
{
    return !strncmp(name, "score_", 6) || !strncmp(name, "answers_", 8) ||
        !strcmp(name, "answer_kl");
}

/* What one question adds; NAN when it was not judged so. */
static double item_value(const struct item_record *r, const char *name)
{
    bool norm = strstr(name, "_norm") != NULL;
    double dense = norm ? r->dense_right_norm > 0 : r->dense_right,
           sparse = norm ? r->sparse_right_norm > 0 : r->sparse_right;
    if (!strcmp(name, "answer_kl")) return r->kl;
    if (norm && r->dense_right_norm < 0) return NAN;
    if (!norm && r->expected) dense = r->dense_value, sparse = r->sparse_value;
    if (!strncmp(name, "score_dense", 11)) return dense;
    if (!strncmp(name, "score_sparse", 12)) return sparse;
    if (!strncmp(name, "score_drop", 10)) return dense - sparse;
    if (!strncmp(name, "answers_lost", 12)) return fmax(dense - sparse, 0);
    return !strncmp(name, "answers_gained", 14) ? fmax(sparse - dense, 0) : NAN;
}

/* *sum, *squares: of what the questions say, for the least variance. */
static bool pool_items(struct pooled *p, const char *name, const struct item_record *before,
    const struct item_record *items, size_t n, double *sum, double *squares)
{
    int sample = -1;
    *sum = *squares = 0;
    for (size_t i = 0; i < n; i++) {
        double now = item_value(&items[i], name), then = before ? item_value(&before[i], name) : 0;
        if (isnan(now) || isnan(then) || (before && strcmp(before[i].item, items[i].item)))
            return false;
        /* in the order of their samples */
        if (!p->n || items[i].sample < 0 || items[i].sample != sample) p->n++;
        sample = items[i].sample;
        p->x[p->n - 1][0] += now;
        p->x[p->n - 1][N_SUMS] += then;
        p->x[p->n - 1][1] = p->x[p->n - 1][N_SUMS + 1] = ++p->weight[p->n - 1];
        *sum += now - then;
        *squares += (now - then) * (now - then);
    }
    return p->n > 0;
}

/* The variance of a mean of independent questions, two more of either kind added (Agresti and
 * Coull): where all of few answers agree, their spread is no measure of what others would do. */
static double least_variance(const char *name, double sum, double squares, size_t n)
{
    if (!strcmp(name, "answer_kl")) return 0; /* no share of questions */
    double more = (double)n + 4, mean = (sum + (sum < 0 ? -2 : 2)) / more,
           square = (squares + 2) / more;
    return (square - mean * mean) / (double)n;
}

/* Percentiles over all positions: the share of positions beyond the percentile is a ratio of sums
 * like any other; its interval, laid over the distribution, is the percentile's (Woodruff,
 * "Confidence intervals for medians and other position measures", 1952). */

const struct tail_rule tail_rules[N_TAIL_RULES] = {
    {"cosine", "cosine_p1", .01, true}, {"kl", "kl_p99_9", .001, false}};

static const struct tail_rule *tail_rule_of(const char *percentile)
{
    for (int i = 0; i < N_TAIL_RULES; i++)
        if (!strcmp(tail_rules[i].percentile, percentile)) return &tail_rules[i];
    return NULL;
}

bool metric_is_percentile(const char *name) { return tail_rule_of(name) != NULL; }

static int worse_high(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}
static int worse_low(const void *a, const void *b) { return worse_high(b, a); }

/* The worst of all samples together, sorted. */
struct tail {
    const struct tail_rule *rule;
    float *worst;
    size_t n;
    double n_positions;
    double *beyond, *positions; /* per sample: at least as bad as the percentile; all */
    size_t n_samples;
    double value;
    struct estimate share; /* of positions at or beyond the percentile */
};

static bool worse(const struct tail *t, double a, double b) { return t->rule->low ? a < b : a > b; }

static double share_of(const void *ctx, const double *sums)
{
    (void)ctx;
    return sums[0] / sums[1];
}

/* values[i]: the n_values[i] worst of sample i, sorted. False when they do not reach the
 * percentile. */
static bool tail_open(struct tail *t, const struct tail_rule *rule, const float *const *values,
    const size_t *n_values, const struct sample_record *samples, size_t n)
{
    *t = (struct tail){.rule = rule,
        .n_samples = n,
        .beyond = xcalloc(n + 1, sizeof(double)),
        .positions = xcalloc(n + 1, sizeof(double))};
    size_t total = 0, at = 0;
    for (size_t i = 0; i < n; i++) total += n_values[i];
    t->worst = xmalloc((total + 1) * sizeof *t->worst);
    for (size_t i = 0; i < n; i++) {
        if (n_values[i]) memcpy(t->worst + at, values[i], n_values[i] * sizeof *t->worst);
        at += n_values[i];
        t->n_positions += t->positions[i] = (double)samples[i].n_tokens;
    }
    t->n = total;
    qsort(t->worst, total, sizeof *t->worst, rule->low ? worse_low : worse_high);
    double from = rule->share * (t->n_positions - 1);
    size_t i = from > 0 ? (size_t)from : 0;
    if (n == 0 || i >= total) return false;
    t->value = (double)t->worst[i];
    if (i + 1 < total)
        t->value += (from - (double)i) * ((double)t->worst[i + 1] - (double)t->worst[i]);
    for (size_t k = 0; k < n; k++)
        while ((size_t)t->beyond[k] < n_values[k] &&
            !worse(t, t->value, (double)values[k][(size_t)t->beyond[k]]))
            t->beyond[k]++;
    double least = rule->share * (1 - rule->share) / t->n_positions;
    double(*counts)[2] = xmalloc((n + 1) * sizeof *counts);
    for (size_t k = 0; k < n; k++) {
        counts[k][0] = t->beyond[k];
        counts[k][1] = t->positions[k];
    }
    t->share = estimate_samples(share_of, NULL, *counts, 2, t->positions, n, SCALE_POSITIVE, least);
    free(counts);
    return true;
}

static void tail_close(struct tail *t)
{
    free(t->worst);
    free(t->beyond);
    free(t->positions);
}

/* The share that the percentile would have at a limit of the share's interval. */
static double tail_share_limit(const struct tail *t, double p)
{
    return estimate_limit(&t->share, p) * t->rule->share / t->share.value;
}

static struct estimate tail_estimate(const struct tail *t)
{
    double few = floor(tail_share_limit(t, .025) * t->n_positions) - 1,
           many = ceil(tail_share_limit(t, .975) * t->n_positions);
    double bad = few >= 0 && few < (double)t->n ? (double)t->worst[(size_t)few] : NAN,
           good = many >= 0 && many < (double)t->n ? (double)t->worst[(size_t)many] : NAN;
    return (struct estimate){.value = t->value,
        .std_error = NAN,
        .lo = t->rule->low ? bad : good,
        .hi = t->rule->low ? good : bad,
        .n = t->n_samples,
        .spread = t->share.spread,
        .df = t->share.df};
}

/* How often the share of positions beyond the bound comes out so large (or so small) when the bound
 * is the percentile. */
static double tail_evidence(const struct tail *t, double bound, bool is_worse)
{
    double beyond = 0;
    for (size_t i = 0; i < t->n; i++) beyond += worse(t, (double)t->worst[i], bound);
    if (isnan(t->share.spread) || t->share.spread == 0) return 1;
    /* at least so many: no evidence */
    if (!is_worse && beyond == (double)t->n && beyond < t->n_positions) return 1;
    double away =
        beyond > 0 ? log(beyond / t->n_positions / t->rule->share) / t->share.spread : -INFINITY;
    /* With no position beyond it nothing tells how many others would lie there. */
    if (!is_worse && tail_share_limit(t, .025) * t->n_positions < 1) return 1;
    double below = isinf(away) ? 0 : student_cdf(away, t->share.df);
    return is_worse ? 1 - below : below;
}

/* The tails of a source, sample by sample; false where one is missing. */
static bool source_tail(
    const struct estimate_source *s, const struct tail_rule *rule, struct tail *t)
{
    const float **values = xcalloc(s->n_samples + 1, sizeof *values);
    size_t *n = xcalloc(s->n_samples + 1, sizeof *n), found = 0;
    for (size_t i = 0; i < s->n_tails; i++) {
        const struct tail_record *r = &s->tails[i];
        for (size_t k = 0; k < s->n_samples && !strcmp(r->name, rule->metric); k++) {
            if (s->samples[k].sample != r->sample || values[k]) continue;
            values[k] = r->values;
            n[k] = r->n;
            found++;
        }
    }
    *t = (struct tail){0};
    bool known = found == s->n_samples && tail_open(t, rule, values, n, s->samples, s->n_samples);
    free(values);
    free(n);
    return known;
}

void tail_choose(const struct tail_rule *rule, float *const *values,
    const struct sample_record *samples, size_t n, size_t *keep)
{
    enum { MOST = 8 }; /* times the share itself; an interval that needs more is open at that end */
    struct tail t;
    for (size_t i = 0; i < n; i++) {
        keep[i] = (size_t)samples[i].n_tokens;
        qsort(values[i], keep[i], sizeof **values, rule->low ? worse_low : worse_high);
    }
    bool known = tail_open(&t, rule, (const float *const *)values, keep, samples, n);
    double most = ceil(MOST * rule->share * t.n_positions) + 2,
           want = known && n > 1 ? ceil(tail_share_limit(&t, .999) * t.n_positions) + 2
                                 : 2 + rule->share * t.n_positions;
    if (!(want < most)) want = most;
    if (want > (double)t.n) want = (double)t.n;
    double last = want > 0 ? (double)t.worst[(size_t)want - 1] : 0;
    size_t end = (size_t)want;
    while (end < t.n && !worse(&t, last, (double)t.worst[end])) end++;
    bool ties = (double)end > 2 * most; /* too many are the same: those before them */
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < keep[i] &&
            (ties ? worse(&t, (double)values[i][k], last) : !worse(&t, last, (double)values[i][k])))
            k++;
        keep[i] = k;
    }
    tail_close(&t);
}

/* The face. */

static bool estimate_score(const struct estimate_source *s, const char *name, struct estimate *out)
{
    struct pooled p;
    double sum, squares;
    pooled_init(&p, s->n_items);
    bool known = pool_items(&p, name, NULL, s->items, s->n_items, &sum, &squares);
    if (known)
        *out = estimate_samples(pooled_value, &p, *p.x, 2 * N_SUMS, p.weight, p.n, SCALE_PLAIN,
            least_variance(name, sum, squares, s->n_items));
    if (known) metric_clip(name, out);
    pooled_clear(&p);
    return known;
}

bool estimate_metric(const struct estimate_source *s, const char *name, struct estimate *out)
{
    const struct tail_rule *rule = tail_rule_of(name);
    const struct estimator *e = estimator_find(name);
    if (rule) {
        struct tail t;
        bool known = source_tail(s, rule, &t);
        if (known) *out = tail_estimate(&t);
        tail_close(&t);
        return known;
    }
    if (is_score(name)) return estimate_score(s, name, out);
    if (!e) return false;
    struct pooled p;
    pooled_init(&p, s->n_samples);
    bool known = pool_samples(&p, e, s);
    if (known)
        *out = estimate_samples(pooled_value, &p, *p.x, 2 * N_SUMS, p.weight, p.n, e->scale, 0);
    if (known) metric_clip(name, out);
    pooled_clear(&p);
    return known;
}

/* An interval has no business outside of what the value can be. */
void metric_clip(const char *name, struct estimate *e)
{
    bool share =
        is_score(name) || strstr(name, "sparsity") || metric_scale(name) == SCALE_BELOW_ONE;
    double least = strstr(name, "cosine") || !strncmp(name, "score_drop", 10) ? -1 : 0;
    if (!share) return;
    e->lo = isnan(e->lo) ? NAN : fmax(e->lo, least);
    if (!strcmp(name, "answer_kl")) return; /* nats, not a share */
    e->hi = isnan(e->hi) ? NAN : fmin(e->hi, 1);
}

static const struct sample_record *find_same(
    const struct estimate_source *s, const struct sample_record *like)
{
    const struct sample_record *r = sample_find(s->samples, s->n_samples, like->sample);
    return r && r->n_scored == like->n_scored && r->n_tokens == like->n_tokens ? r : NULL;
}

static bool pool_pairs(struct pooled *p, const struct estimator *e,
    const struct estimate_source *before, const struct estimate_source *after)
{
    p->pooling = e->pooling;
    p->exponent = e->scale == SCALE_EXP;
    for (size_t i = 0; i < before->n_samples; i++) {
        const struct sample_record *b = &before->samples[i], *a = find_same(after, b);
        if (!a) continue;
        p->weight[p->n] = sample_sums(e, b, p->x[p->n] + N_SUMS);
        sample_sums(e, a, p->x[p->n]);
        if (!sums_known(p->x[p->n] + N_SUMS) || !sums_known(p->x[p->n])) return false;
        if (p->weight[p->n] > 0) p->n++;
    }
    return p->n > 0;
}

bool estimate_change(const struct estimate_source *before, const struct estimate_source *after,
    const char *name, struct estimate *out)
{
    const struct estimator *e = estimator_find(name);
    struct pooled p;
    double sum = 0, squares = 0, least = 0;
    bool known = false;
    if (is_score(name)) {
        pooled_init(&p, after->n_items);
        known = before->n_items == after->n_items &&
            pool_items(&p, name, before->items, after->items, after->n_items, &sum, &squares);
        least = least_variance(name, sum, squares, after->n_items);
    } else if (e) {
        pooled_init(&p, before->n_samples);
        known = pool_pairs(&p, e, before, after);
    } else {
        return false;
    }
    if (known)
        *out = estimate_samples(
            pooled_change, &p, *p.x, 2 * N_SUMS, p.weight, p.n, SCALE_PLAIN, least);
    pooled_clear(&p);
    return known;
}

static double percentile_evidence(
    const struct estimate_source *s, const struct tail_rule *rule, double bound, bool is_worse)
{
    struct tail t;
    double p = source_tail(s, rule, &t) ? tail_evidence(&t, bound, is_worse) : 1;
    tail_close(&t);
    return p;
}

double metric_above(
    const struct estimate_source *s, const char *name, const struct estimate *e, double bound)
{
    const struct tail_rule *rule = tail_rule_of(name);
    return rule ? percentile_evidence(s, rule, bound, !rule->low) : estimate_above(e, bound);
}

double metric_below(
    const struct estimate_source *s, const char *name, const struct estimate *e, double bound)
{
    const struct tail_rule *rule = tail_rule_of(name);
    return rule ? percentile_evidence(s, rule, bound, rule->low) : estimate_below(e, bound);
}

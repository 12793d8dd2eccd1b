#include "reports/contest.h"

#include "base/stats.h"
#include "base/xmalloc.h"
#include "reports/axes.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const double contest_levels[CONTEST_LEVELS] = {.15, .3, .45, .6};
enum { MIDDLE = 2 }; /* the level that people see the kept mass of */
#define ALPHA .025   /* of one side */

/* What a text adds to the sums of one run. */
enum { SUM_KL, SUM_N, SUM_QK, SUM_QK_ALL, SUM_PV, SUM_PV_ALL, N_SUMS };

/* The two runs that a level lies between; a == b where it is one run's own. NULL: out of reach. */
struct bracket {
    const struct contest_point *a, *b;
};

static struct bracket bracket_find(const struct contest_line *l, double level)
{
    for (size_t i = 0; i < l->n; i++) {
        if (l->points[i].sparsity < level) continue;
        if (l->points[i].sparsity == level) return (struct bracket){&l->points[i], &l->points[i]};
        return i ? (struct bracket){&l->points[i - 1], &l->points[i]} : (struct bracket){0};
    }
    return (struct bracket){0};
}

static void add_sums(const struct sample_record *s, double *x)
{
    x[SUM_KL] = s->kl_mean * s->n_tokens;
    x[SUM_N] = s->n_tokens;
    x[SUM_QK] = s->qk_sparsity * s->tiles_possible;
    x[SUM_QK_ALL] = s->tiles_possible;
    x[SUM_PV] = s->pv_sparsity * s->pv_possible;
    x[SUM_PV_ALL] = s->pv_possible;
}

static double sparsity_of(const double *s)
{
    return ((s[SUM_QK_ALL] > 0 ? s[SUM_QK] / s[SUM_QK_ALL] : 0) +
               (s[SUM_PV_ALL] > 0 ? s[SUM_PV] / s[SUM_PV_ALL] : 0)) /
        2;
}

static double share_of_way(double from, double to, double level)
{
    return to > from ? (level - from) / (to - from) : 0;
}

/* Logarithm of KL at the level, of the sums of both runs. */
static double log_kl(const double *s, double level)
{
    const double *b = s + N_SUMS, least = 1e-12; /* a text that lost nothing has a logarithm, too */
    double way = share_of_way(sparsity_of(s), sparsity_of(b), level),
           low = log(fmax(s[SUM_KL] / s[SUM_N], least)),
           high = log(fmax(b[SUM_KL] / b[SUM_N], least));
    return low + way * (high - low);
}

static double kl_stat(const void *ctx, const double *sums)
{
    return exp(log_kl(sums, *(const double *)ctx));
}

static double change_stat(const void *ctx, const double *sums)
{
    double level = *(const double *)ctx;
    return log_kl(sums, level) - log_kl(sums + 2 * N_SUMS, level);
}

/* KL at the level of one line, or how far its logarithm is from another's; over the texts that all
 * their runs have. False without any. */
static bool estimate_at(
    struct bracket of, const struct bracket *against, double level, struct estimate *out)
{
    const struct contest_point *const p[] = {
        of.a, of.b, against ? against->a : NULL, against ? against->b : NULL};
    size_t runs = against ? 4 : 2, width = runs * N_SUMS, n = 0;
    double *x = xcalloc(of.a->n_samples * width + 1, sizeof *x),
           *weight = xcalloc(of.a->n_samples + 1, sizeof *weight);
    for (size_t i = 0; i < of.a->n_samples; i++) {
        bool known = true;
        for (size_t r = 0; r < runs && known; r++) {
            const struct sample_record *s =
                sample_find(p[r]->samples, p[r]->n_samples, of.a->samples[i].sample);
            known = s && isfinite(s->kl_mean) && s->n_tokens > 0;
            if (known) add_sums(s, x + n * width + r * N_SUMS);
        }
        weight[n] = of.a->samples[i].n_tokens;
        n += known;
    }
    if (n)
        *out = against ? estimate_samples(change_stat, &level, x, width, weight, n, SCALE_PLAIN, 0)
                       : estimate_samples(kl_stat, &level, x, width, weight, n, SCALE_POSITIVE, 0);
    free(x);
    free(weight);
    return n > 0;
}

struct cell {
    bool known;
    struct estimate kl;
    double p;    /* how often data like these come when the line is as good as the best; of the best
                    itself 1 */
    bool beyond; /* above the best beyond noise */
};

static int rising_p(const void *x, const void *y)
{
    const struct cell *const *a = x, *const *b = y;
    return ((*a)->p > (*b)->p) - ((*a)->p < (*b)->p);
}

/* Holm: the smallest p is held against ALPHA over all of them, and so on until one does not pass.
 */
static void judge(struct cell **others, size_t n)
{
    qsort(others, n, sizeof *others, rising_p);
    for (size_t i = 0; i < n && others[i]->p < ALPHA / (double)(n - i); i++)
        others[i]->beyond = true;
}

/* Fills the cells of one level, [n] with `stride` between them; returns the best line, n without.
 */
static size_t run_level(
    const struct contest_line *lines, size_t n, double level, struct cell *cells, size_t stride)
{
    size_t best = n, n_others = 0;
    struct bracket *brackets = xcalloc(n + 1, sizeof *brackets);
    struct cell **others = xcalloc(n + 1, sizeof *others);
    for (size_t i = 0; i < n; i++) {
        struct cell *c = &cells[i * stride];
        brackets[i] = bracket_find(&lines[i], level);
        c->known = brackets[i].a && estimate_at(brackets[i], NULL, level, &c->kl);
        if (c->known && !lines[i].limit &&
            (best == n || c->kl.value < cells[best * stride].kl.value))
            best = i;
    }
    for (size_t i = 0; i < n && best < n; i++) {
        struct cell *c = &cells[i * stride];
        struct estimate change;
        c->p = 1;
        if (!c->known || i == best || lines[i].limit) continue;
        if (!estimate_at(brackets[i], &brackets[best], level, &change)) continue;
        c->p = estimate_above(&change, 0);
        others[n_others++] = c;
    }
    judge(others, n_others);
    free(brackets);
    free(others);
    return best;
}

static double at_level(const struct contest_line *l, double level, size_t offset)
{
    struct bracket k = bracket_find(l, level);
    if (!k.a) return NAN;
    double low = *(const double *)((const char *)k.a + offset),
           high = *(const double *)((const char *)k.b + offset);
    return low + share_of_way(k.a->sparsity, k.b->sparsity, level) * (high - low);
}

/* The median over the line's runs: choosing takes about the same whatever is kept. */
static double choosing_of(const struct contest_line *l)
{
    double *v = xcalloc(l->n + 1, sizeof *v), median = NAN;
    size_t n = 0;
    for (size_t i = 0; i < l->n; i++)
        if (!isnan(l->points[i].choosing)) v[n++] = l->points[i].choosing;
    if (n) median = quantile(v, n, .5);
    free(v);
    return median;
}

static void add_number(struct table *t, const char *key, const char *name, enum table_number kind,
    int digits, enum metric_better better, int weight, bool for_all)
{
    table_add_column(t,
        (struct table_column){.name = name,
            .key = key,
            .number = kind,
            .digits = digits,
            .better = better,
            .weight = weight,
            .audience = for_all ? FOR_ALL : FOR_PROGRAMS});
}

static void add_columns(struct table *t)
{
    char key[48], name[64];
    table_add_column(t, (struct table_column){.name = "method", .weight = 9});
    for (int k = 0; k < CONTEST_LEVELS; k++) {
        int percent = (int)lround(100 * contest_levels[k]);
        snprintf(key, sizeof key, "kl_%d", percent);
        snprintf(name, sizeof name, "KL at %d %%", percent);
        table_add_column(t,
            (struct table_column){.name = name,
                .unit = "nats",
                .key = key,
                .number = NUMBER_SHORT,
                .digits = 3,
                .better = METRIC_LOWER,
                .align = ALIGN_LEFT,
                .weight = 8});
        static const char *const more[] = {"lo", "hi", "p"};
        for (int i = 0; i < 3; i++) {
            snprintf(key, sizeof key, "kl_%d_%s", percent, more[i]);
            add_number(t, key, key, NUMBER_SHORT, 3, METRIC_NEITHER, 1, false);
        }
        snprintf(key, sizeof key, "result_%d", percent);
        table_add_column(
            t, (struct table_column){.name = key, .key = key, .audience = FOR_PROGRAMS});
        snprintf(key, sizeof key, "recall_%d", percent);
        snprintf(name, sizeof name, "mass kept at %d %%", percent);
        add_number(t, key, name, NUMBER_PERCENT, 1, METRIC_HIGHER, 5, k == MIDDLE);
        snprintf(key, sizeof key, "recall_p5_%d", percent);
        add_number(t, key, "its 5th percentile", NUMBER_PERCENT, 1, METRIC_HIGHER, 4, k == MIDDLE);
    }
    add_number(
        t, "choosing", "choosing, of dense attention", NUMBER_PERCENT, 1, METRIC_LOWER, 6, true);
}

static void add_cell(struct table *t, const struct contest_line *l, const struct cell *c, bool best)
{
    const struct estimate *e = &c->kl;
    table_real(t, c->known ? e->value : NAN);
    if (c->known) {
        struct str text = {0};
        number_format(NUMBER_SHORT, 3, e->value, &text);
        if (isfinite(e->lo) && isfinite(e->hi)) {
            str_add(&text, " [");
            number_format(NUMBER_SHORT, 3, e->lo, &text);
            str_add(&text, ", ");
            number_format(NUMBER_SHORT, 3, e->hi, &text);
            str_add(&text, "]");
        }
        if (best) str_add(&text, " *");
        else if (!l->limit && !c->beyond) str_add(&text, " ~");
        table_show(t, str_get(&text));
        str_clear(&text);
    }
    table_real(t, c->known ? e->lo : NAN);
    table_real(t, c->known ? e->hi : NAN);
    table_real(t, c->known && !l->limit ? c->p : NAN);
    table_text(t,
        !c->known       ? NULL
            : l->limit  ? "limit"
            : best      ? "best"
            : c->beyond ? "worse"
                        : "within noise");
}

struct table *contest_table(const char *title, const struct contest_line *lines, size_t n)
{
    struct table *t = table_new(title);
    struct cell *cells = xcalloc(n * CONTEST_LEVELS + 1, sizeof *cells);
    size_t best[CONTEST_LEVELS], most = 0;
    add_columns(t);
    for (int k = 0; k < CONTEST_LEVELS; k++) {
        size_t known = 0;
        best[k] = run_level(lines, n, contest_levels[k], cells + k, CONTEST_LEVELS);
        for (size_t i = 0; i < n; i++) known += cells[i * CONTEST_LEVELS + (size_t)k].known;
        if (known > most) most = known;
    }
    for (size_t i = 0; i < n && most > 1; i++) {
        const struct contest_line *l = &lines[i];
        bool reaches = false;
        for (int k = 0; k < CONTEST_LEVELS; k++)
            reaches |= cells[i * CONTEST_LEVELS + (size_t)k].known;
        if (!reaches) continue;
        table_text(t, l->name);
        for (int k = 0; k < CONTEST_LEVELS; k++) {
            add_cell(t, l, &cells[i * CONTEST_LEVELS + (size_t)k], best[k] == i);
            table_real(t, at_level(l, contest_levels[k], offsetof(struct contest_point, recall)));
            table_real(
                t, at_level(l, contest_levels[k], offsetof(struct contest_point, recall_p5)));
        }
        table_real(t, choosing_of(l));
    }
    free(cells);
    table_note(t,
        "KL at equal counted sparsity, between the nearest runs of a method; * the lowest, ~ not "
        "above it beyond noise (paired over texts, Holm over the methods), the rest are above it; "
        "the oracle is a limit and wins nothing");
    return t;
}

/* Runs of a list that are points of one line, and their samples. */
struct line_runs {
    char *name;
    bool limit;
    size_t *runs; /* into the list, rising sparsity */
    size_t n;
};

/* A number behind a `+` is a setting whose values make the points where nothing else does. */
static void line_name(const struct run_record *r, struct str *out)
{
    bool own = !r->tuned_hash && isnan(r->topk);
    if (own) str_addf(out, "%.*s", (int)strcspn(r->method, "+"), r->method);
    else if (r->tuned_hash) run_method_name(r, out);
    else str_addf(out, "%s, one fraction", strcmp(r->method, "topk") ? r->method : "sparge");
    if (own && !strcmp(str_get(out), "sparge")) str_add(out, ", untuned");
    if (run_is_oracle(r)) str_add(out, " (limit)");
}

static bool takes_part(const struct run_record *r)
{
    return r->status == RUN_DONE && !r->repeat && !r->confirming && !run_is_dense(r) &&
        !run_is_eight(r) && !isnan(r->headline.sparsity) && !isnan(r->headline.kl_mean) &&
        !strcmp(r->layers, "all") && !strcmp(r->heads, "all");
}

static bool meets(const struct run_record *a, const struct run_record *b)
{
    return text_same(a->model.fingerprint, b->model.fingerprint) &&
        text_same(a->dataset.fingerprint, b->dataset.fingerprint) &&
        a->max_length == b->max_length && a->block_q == b->block_q && a->block_k == b->block_k;
}

static void put_run(struct line_runs *l, const struct run_list *runs, size_t run)
{
    size_t at = l->n++;
    for (; at && runs->rows[l->runs[at - 1]].headline.sparsity > runs->rows[run].headline.sparsity;
         at--)
        l->runs[at] = l->runs[at - 1];
    l->runs[at] = run;
}

/* The lines of all runs that meet run `first`. */
static struct line_runs *find_lines(
    const struct run_list *runs, size_t first, bool *done, size_t *n_lines)
{
    struct line_runs *lines = xcalloc(runs->n, sizeof *lines);
    for (size_t i = first; i < runs->n; i++) {
        if (done[i] || !takes_part(&runs->rows[i]) || !meets(&runs->rows[first], &runs->rows[i]))
            continue;
        struct str name = {0};
        size_t k = 0;
        done[i] = true;
        line_name(&runs->rows[i], &name);
        while (k < *n_lines && strcmp(lines[k].name, str_get(&name))) k++;
        if (k == *n_lines)
            lines[(*n_lines)++] = (struct line_runs){.name = str_dup(str_get(&name)),
                .limit = run_is_oracle(&runs->rows[i]),
                .runs = xcalloc(runs->n, sizeof *lines->runs)};
        str_clear(&name);
        put_run(&lines[k], runs, i);
    }
    return lines;
}

static double metric_mean(const struct metric_list *m, const char *name)
{
    const struct metric_record *r = metric_list_find(m, "overall", name);
    return r ? r->mean : NAN;
}

static enum status load_point(struct store *s, const struct run_record *r,
    struct sample_list *samples, struct contest_point *out)
{
    struct metric_list metrics;
    TRY(query_samples(s, r->id, samples));
    TRY(query_metrics(s, r->id, "overall", &metrics));
    *out = (struct contest_point){.sparsity = r->headline.sparsity,
        .recall = metric_mean(&metrics, "recall"),
        .recall_p5 = metric_mean(&metrics, "recall_p5"),
        .choosing =
            metric_mean(&metrics, "latency_predict") / metric_mean(&metrics, "latency_attention"),
        .samples = samples->rows,
        .n_samples = samples->n};
    metric_list_clear(&metrics);
    return OK;
}

/* A point is read where a level has it at one side; a sweep of ten thousand cells has many more. */
static bool is_needed(const struct line_runs *l, const struct run_list *runs, size_t i)
{
    double here = runs->rows[l->runs[i]].headline.sparsity,
           before = i ? runs->rows[l->runs[i - 1]].headline.sparsity : here,
           behind = i + 1 < l->n ? runs->rows[l->runs[i + 1]].headline.sparsity : here;
    for (int k = 0; k < CONTEST_LEVELS; k++)
        if (before < contest_levels[k] && contest_levels[k] <= behind) return true;
    return false;
}

static enum status load_lines(struct store *s, const struct run_list *runs,
    const struct line_runs *from, size_t n, struct contest_line *lines, struct sample_list *samples)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        struct contest_point *points = xcalloc(from[i].n, sizeof *points);
        lines[i] = (struct contest_line){from[i].name, from[i].limit, points, 0};
        for (size_t k = 0; k < from[i].n; k++)
            if (is_needed(&from[i], runs, k))
                TRY(load_point(
                    s, &runs->rows[from[i].runs[k]], &samples[used++], &points[lines[i].n++]));
    }
    return OK;
}

static enum status add_contest(struct store *s, const struct run_list *runs, size_t first,
    bool *done, struct table **tables, size_t *n_tables)
{
    size_t n = 0;
    struct line_runs *from = find_lines(runs, first, done, &n);
    struct contest_line *lines = xcalloc(n + 1, sizeof *lines);
    struct sample_list *samples = xcalloc(runs->n + 1, sizeof *samples);
    const struct run_record *r = &runs->rows[first];
    char *title = str_format("Methods at equal sparsity: %s, up to %d tokens, blocks %dx%d",
        r->dataset.name, r->max_length, r->block_q, r->block_k);
    enum status st = n > 1 ? load_lines(s, runs, from, n, lines, samples) : OK;
    if (st == OK && n > 1) {
        struct table *t = contest_table(title, lines, n);
        if (table_rows(t)) tables[(*n_tables)++] = t;
        else table_free(&t);
    }
    for (size_t i = 0; i < n; i++) {
        free((void *)lines[i].points);
        free(from[i].name);
        free(from[i].runs);
    }
    for (size_t i = 0; i < runs->n; i++) sample_list_clear(&samples[i]);
    free(title);
    free(samples);
    free(lines);
    free(from);
    return st;
}

enum status contest_tables(
    struct store *s, const struct run_list *runs, struct table ***out, size_t *n)
{
    bool *done = xcalloc(runs->n + 1, sizeof *done);
    enum status st = OK;
    *out = xcalloc(runs->n + 1, sizeof **out);
    *n = 0;
    for (size_t i = 0; i < runs->n && st == OK; i++)
        if (!done[i] && takes_part(&runs->rows[i])) st = add_contest(s, runs, i, done, *out, n);
    free(done);
    if (st != OK) contest_tables_free(*out, *n);
    if (st != OK) *out = NULL, *n = 0;
    return st;
}

void contest_tables_free(struct table **tables, size_t n)
{
    for (size_t i = 0; i < n; i++) table_free(&tables[i]);
    free(tables);
}

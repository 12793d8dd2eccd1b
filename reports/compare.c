#include "reports/compare.h"

#include "base/stats.h"
#include "reports/tables.h"
#include "results/arithmetic.h"
#include "results/columns.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *change_mark(enum change change)
{
    static const char *const marks[] = {"•", "=", "▲", "▼", "≠"};
    return marks[change];
}

/* A statistic that pools per-sample numbers: sum of `a` over sum of `w`, exponentiated for perplexities. */
struct paired {
    double *a_before, *a_after, *w;   /* per sample */
    double *less_before, *less_after; /* what is taken off each side after pooling; NULL without */
    size_t n;
    bool exponent;
};

static double pooled(const struct paired *p, const double *a, const int *pick, size_t n)
{
    double sum = 0, w = 0;
    for (size_t i = 0; i < n; i++) {
        sum += a[pick[i]];
        w += p->w[pick[i]];
    }
    return p->exponent ? exp(sum / w) : sum / w;
}

static double pooled_difference(const void *ctx, const int *pick, size_t n)
{
    const struct paired *p = ctx;
    double difference = pooled(p, p->a_after, pick, n) - pooled(p, p->a_before, pick, n);
    if (p->less_before) difference -= pooled(p, p->less_after, pick, n) - pooled(p, p->less_before, pick, n);
    return difference;
}

/* The per-sample column behind an overall metric; weight: scored positions. */
static double sample_value(const struct sample_record *s, const char *name)
{
    double n = (double)s->n_scored;
    if (!strcmp(name, "cosine")) return n * s->cosine_mean;
    if (!strcmp(name, "cosine_centred")) return n * s->cosine_centred_mean;
    if (!strcmp(name, "row_rmse")) return n * s->row_rmse_mean;
    if (!strcmp(name, "row_hidden_cosine")) return n * s->row_hidden_cosine_mean;
    if (!strcmp(name, "kl")) return n * s->kl_mean;
    if (!strcmp(name, "delta_p")) return n * s->delta_p_mean;
    if (!strcmp(name, "token_accuracy") || !strcmp(name, "top1")) return n * s->token_accuracy;
    if (!strcmp(name, "top5_overlap") || !strcmp(name, "top5")) return n * s->top5_overlap;
    if (!strcmp(name, "logits_cosine")) return n * s->logits_cosine;
    if (!strcmp(name, "logits_l1") || !strcmp(name, "row_l1")) return n * s->logits_l1;
    if (!strcmp(name, "logits_rmse")) return n * s->logits_rmse;
    if (!strcmp(name, "hidden_cosine")) return n * s->hidden_cosine;
    if (!strcmp(name, "hidden_l1") || !strcmp(name, "row_hidden_l1")) return n * s->hidden_l1;
    if (!strcmp(name, "sparsity")) return n * s->sparsity;
    if (!strcmp(name, "qk_sparsity")) return n * s->qk_sparsity;
    if (!strcmp(name, "pv_sparsity")) return n * s->pv_sparsity;
    if (!strcmp(name, "ppl_sparse") || !strcmp(name, "nll_sparse")) return s->nll_sparse_sum;
    if (!strcmp(name, "ppl_dense") || !strcmp(name, "nll_dense")) return s->nll_dense_sum;
    if (!strcmp(name, "ppl_ratio")) return s->nll_sparse_sum - s->nll_dense_sum;
    return NAN;
}

static const struct sample_record *find_sample(const struct run_view *v, const struct sample_record *like)
{
    for (size_t i = 0; i < v->samples.n; i++)
        if (v->samples.rows[i].sample == like->sample && v->samples.rows[i].n_scored == like->n_scored)
            return &v->samples.rows[i];
    return NULL;
}

static void paired_init(struct paired *p, size_t n)
{
    *p = (struct paired){.a_before = calloc(5 * n + 1, sizeof *p->a_before)};
    if (!p->a_before) abort();
    p->a_after = p->a_before + n;
    p->w = p->a_after + n;
}

static void pair_samples(struct paired *p, const struct run_view *before, const struct run_view *after,
                         const char *name)
{
    paired_init(p, before->samples.n);
    p->exponent = !strncmp(name, "ppl_", 4);
    if (!strcmp(name, "ppl_diff")) {
        name = "ppl_sparse";
        p->less_before = p->w + before->samples.n;
        p->less_after = p->less_before + before->samples.n;
    }
    for (size_t i = 0; i < before->samples.n; i++) {
        const struct sample_record *b = &before->samples.rows[i], *a = find_sample(after, b);
        if (!a || b->n_scored <= 0) continue;
        double vb = sample_value(b, name), va = sample_value(a, name);
        if (isnan(vb) || isnan(va)) continue;
        p->a_before[p->n] = vb;
        p->a_after[p->n] = va;
        if (p->less_before) {
            p->less_before[p->n] = b->nll_dense_sum;
            p->less_after[p->n] = a->nll_dense_sum;
        }
        p->w[p->n++] = (double)b->n_scored;
    }
}

static bool of_answers(const char *name) { return !strncmp(name, "score_", 6) || !strncmp(name, "answers_", 8); }

/* What one question adds to a task score; NAN when it was not judged so. */
static double item_value(const struct item_record *r, const char *name)
{
    bool norm = strstr(name, "_norm") != NULL, dense = norm ? r->dense_right_norm > 0 : r->dense_right,
         sparse = norm ? r->sparse_right_norm > 0 : r->sparse_right;
    if (norm && r->dense_right_norm < 0) return NAN;
    if (!strncmp(name, "score_dense", 11)) return dense;
    if (!strncmp(name, "score_sparse", 12)) return sparse;
    if (!strncmp(name, "score_drop", 10)) return dense - sparse;
    if (!strncmp(name, "answers_lost", 12)) return dense && !sparse;
    return !strncmp(name, "answers_gained", 14) ? !dense && sparse : NAN;
}

/* Task scores pair by question, and all questions of a text stay together: they are no more independent than its
 * tokens. */
static void pair_items(struct paired *p, const struct run_view *before, const struct run_view *after,
                       const char *name)
{
    paired_init(p, before->items.n);
    int sample = -1;
    for (size_t i = 0; i < before->items.n && i < after->items.n; i++) {
        const struct item_record *b = &before->items.rows[i], *a = &after->items.rows[i];
        double vb = item_value(b, name), va = item_value(a, name);
        if (strcmp(a->item, b->item) || isnan(vb) || isnan(va)) continue;
        if (!p->n || b->sample < 0 || b->sample != sample) p->n++; /* items come in the order of their samples */
        sample = b->sample;
        p->a_before[p->n - 1] += vb;
        p->a_after[p->n - 1] += va;
        p->w[p->n - 1]++;
    }
}

/* Interval of the difference; NAN where fewer than two samples pair. */
static void add_interval(struct compare_row *row, const struct run_view *before, const struct run_view *after,
                         const struct compare_options *o)
{
    struct paired p;
    if (of_answers(row->name)) pair_items(&p, before, after, row->name);
    else pair_samples(&p, before, after, row->name);
    if (p.n >= 2) {
        struct interval i =
            bootstrap(pooled_difference, &p, p.n, .95, o->n_resamples ? o->n_resamples : 2000, o->seed);
        /* The stored value may pool in another way than the weighted mean here (a flattened cosine): the
         * width is taken from the samples and laid around the stored difference. */
        double shift = row->difference - i.value;
        row->lo = i.lo + shift;
        row->hi = i.hi + shift;
        /* where all samples differ by the same amount, what is left is rounding */
        if (i.std_error > 1e-12 * fabs(i.value))
            row->detectable = minimum_detectable_effect(i.std_error, .05, .8);
    }
    free(p.a_before);
}

static double floor_of(const struct compare_options *o, const char *name)
{
    double floor = NAN;
    for (size_t i = 0; o->floors && i < o->floors->n; i++)
        if (!strcmp(o->floors->rows[i].metric, name)) floor = fmax(floor, o->floors->rows[i].value);
    return floor;
}

/* Do two intervals of unpaired measurements part? */
static bool apart(const struct metric_record *a, const struct metric_record *b)
{
    return a->hi < b->lo || b->hi < a->lo;
}

/* Only an interval tells a change from noise: the difference's, or for times, which do not pair, those of both. */
static enum change judge(const struct compare_row *row, const struct metric_record *a,
                         const struct metric_record *b)
{
    bool counted = strstr(row->name, "sparsity") != NULL; /* no chance in it, on the texts at hand */
    bool timed = !strncmp(row->name, "latency", 7) || !strcmp(row->name, "break_even_length");
    bool has_intervals = !isnan(a->lo) && !isnan(a->hi) && !isnan(b->lo) && !isnan(b->hi);
    if (row->difference == 0 || row->within_floor) return CHANGE_SAME;
    if (!isnan(row->lo)) {
        if (!counted && row->lo <= 0 && row->hi >= 0) return CHANGE_SAME;
    } else if (timed && has_intervals) {
        if (!apart(a, b)) return CHANGE_SAME;
    } else {
        return CHANGE_UNKNOWN;
    }
    if (row->better == METRIC_NEITHER) return CHANGE_OTHER;
    return (row->difference > 0) == (row->better == METRIC_HIGHER) ? CHANGE_BETTER : CHANGE_WORSE;
}

static void add_rows(struct comparison *c, const struct run_view *before, const struct run_view *after,
                     const struct compare_options *o, bool pairable)
{
    c->rows = calloc(before->metrics.n + 1, sizeof *c->rows);
    if (!c->rows) abort();
    for (size_t i = 0; i < before->metrics.n; i++) {
        const struct metric_record *b = &before->metrics.rows[i];
        if (strcmp(b->scope, "overall")) continue;
        const struct metric_record *a = metric_list_find(&after->metrics, "overall", b->name);
        if (!a || isnan(a->mean) || isnan(b->mean)) continue;
        const struct metric_info *info = metric_info(b->name);
        struct compare_row *row = &c->rows[c->n_rows++];
        *row = (struct compare_row){
            .name = arena_str(&c->arena, b->name),
            .label = arena_str(&c->arena, info ? info->label : b->name),
            .unit = info ? info->unit : "",
            .better = info ? info->better : METRIC_NEITHER,
            .before = b->mean,
            .after = a->mean,
            .difference = a->mean - b->mean,
            .ratio = b->mean != 0 ? a->mean / b->mean : NAN,
            .lo = NAN,
            .hi = NAN,
            .detectable = NAN,
            .floor = floor_of(o, b->name),
        };
        row->within_floor = fabs(row->difference) <= row->floor;
        if (pairable) add_interval(row, before, after, o);
        row->change = judge(row, b, a);
    }
}

/* Settings that differ, and who measured it with what. */
static void add_settings(struct comparison *c, const struct run_record *before, const struct run_record *after)
{
    for (int i = 0; i < RUN_PARTS; i++) {
        const struct columns *t = run_parts[i].columns;
        const void *b = (const char *)before + run_parts[i].offset, *a = (const char *)after + run_parts[i].offset;
        for (size_t k = 0; k < t->n; k++) {
            const struct column *column = &t->at[k];
            if (!(column->use & (COLUMN_SETTING | COLUMN_PROVENANCE)) || column_same(column, a, b)) continue;
            struct str text[2] = {0};
            column_describe(column, b, &text[0]);
            column_describe(column, a, &text[1]);
            c->settings = realloc(c->settings, (c->n_settings + 1) * sizeof *c->settings);
            if (!c->settings) abort();
            c->settings[c->n_settings++] =
                (struct compare_setting){column_label(column), arena_str(&c->arena, str_get(&text[0])),
                                         arena_str(&c->arena, str_get(&text[1]))};
            for (int side = 0; side < 2; side++) str_clear(&text[side]);
        }
    }
}

/* "" when the two may be compared, else the first field that forbids it, in words. */
static void find_obstacle(const struct run_record *b, const struct run_record *a, struct str *out)
{
    if (!text_same(b->model.fingerprint, a->model.fingerprint))
        str_addf(out, "model.fingerprint: %s (%s) and %s (%s)", b->model.fingerprint, b->model.name,
                 a->model.fingerprint, a->model.name);
    else if (!text_same(b->dataset.fingerprint, a->dataset.fingerprint))
        str_addf(out, "data.fingerprint: %s (%s, %d samples of at most %d tokens) and %s (%s, %d of %d)",
                 b->dataset.fingerprint, b->dataset.name, b->dataset.n_samples, b->dataset.max_length,
                 a->dataset.fingerprint, a->dataset.name, a->dataset.n_samples, a->dataset.max_length);
}

static enum status check_comparable(struct comparison *c, const struct run_view *before,
                                    const struct run_view *after, const struct compare_options *o)
{
    struct str obstacle = {0};
    enum status st = OK;
    const struct run_view *both[] = {before, after};
    for (int i = 0; i < 2; i++)
        if (both[i]->run->status != RUN_DONE)
            st = fail(ERR_ARG, "%s did not finish: %s; nothing to compare", both[i]->label,
                      both[i]->run->reason ? both[i]->run->reason : "no reason stored");
    find_obstacle(before->run, after->run, &obstacle);
    if (st == OK && obstacle.len && !o->force)
        st = fail(ERR_ARG,
                  "%s and %s cannot be compared: different %s; evaluate both on the same%s",
                  before->label, after->label, str_get(&obstacle), o->or_else ? o->or_else : "");
    if (st == OK && obstacle.len) c->forced = str_dup(str_get(&obstacle));
    str_clear(&obstacle);
    return st;
}

static size_t count_pairs(const struct run_view *before, const struct run_view *after)
{
    size_t n = 0;
    for (size_t i = 0; i < before->samples.n; i++) n += find_sample(after, &before->samples.rows[i]) != NULL;
    return n;
}

enum status compare_runs(struct comparison *c, const struct run_view *before, const struct run_view *after,
                         const struct compare_options *o)
{
    *c = (struct comparison){0};
    TRY(check_comparable(c, before, after, o));
    c->before_label = str_dup(before->label);
    c->after_label = str_dup(after->label);
    /* other tokens pair with nothing, however alike their numbers look */
    bool pairable = text_same(before->run->dataset.fingerprint, after->run->dataset.fingerprint);
    c->n_paired_samples = pairable ? count_pairs(before, after) : 0;
    add_rows(c, before, after, o, pairable);
    if (!c->n_rows) {
        const struct run_view *empty = !before->metrics.n ? before : !after->metrics.n ? after : NULL;
        comparison_clear(c);
        if (empty)
            return fail(ERR_ARG,
                        "%s: holds no metrics, so there is nothing to compare; write it anew with eval --output",
                        empty->label);
        return fail(ERR_ARG, "%s and %s have no metric in common; evaluate both on the same suite", before->label,
                    after->label);
    }
    add_settings(c, before->run, after->run);
    /* of runs that differ in what was asked for, too, the floor says nothing */
    if (!run_same_configuration(before->run, after->run) || !pairable) return OK;
    struct str words = {0};
    arithmetic_compare((struct arithmetic_side){before->run, &before->metrics},
                       (struct arithmetic_side){after->run, &after->metrics}, o->floors, &words);
    c->arithmetic = words.data;
    return OK;
}

void comparison_clear(struct comparison *c)
{
    free(c->rows);
    free(c->settings);
    free(c->before_label);
    free(c->after_label);
    free(c->arithmetic);
    free(c->forced);
    arena_free(&c->arena);
    *c = (struct comparison){0};
}

static bool is_change(enum change change) { return change != CHANGE_SAME; }

static void add_value(struct table *t, const struct compare_row *row, double value)
{
    if (!strcmp(row->unit, "s")) table_real_as(t, value, NUMBER_SECONDS, 2);
    else if (!strcmp(row->unit, "B")) table_real_as(t, value, NUMBER_BYTES, 2);
    else if (!strcmp(row->unit, "tokens")) table_real_as(t, value, NUMBER_FIXED, 0);
    else table_real(t, value);
}

/* By nature, or because the data are not there. */
static const char *why_no_interval(const struct compare_row *row)
{
    if (!strcmp(row->name, "peak_bytes")) return "one reading a run";
    if (!strncmp(row->name, "latency", 7) || !strcmp(row->name, "break_even_length"))
        return "times of two runs do not pair; each run's own interval judges them";
    if (of_answers(row->name)) return "no answers stored by question; compare the runs in their database";
    if (!strncmp(row->name, "cpu_", 4)) return "beside the CPU, kept for the run as a whole";
    return "not stored by sample; evaluate again";
}

struct table *comparison_table(const struct comparison *c, bool only_changed)
{
    char *title = str_format("%s against %s", c->before_label, c->after_label);
    struct table *t = table_new(title);
    free(title);
    table_add_column(t, (struct table_column){.name = "metric"});
    table_add_column(t, (struct table_column){.name = "change"});
    static const char *const names[] = {"before", "after", "difference"};
    for (int i = 0; i < 3; i++)
        table_add_column(t,
                         (struct table_column){names[i], NULL, NUMBER_FIXED, 4, METRIC_NEITHER, ALIGN_RIGHT});
    table_add_column(t, (struct table_column){"ratio", NULL, NUMBER_FIXED, 4, METRIC_NEITHER, ALIGN_RIGHT});
    table_add_column(t,
                     (struct table_column){"95 % from", NULL, NUMBER_FIXED, 4, METRIC_NEITHER, ALIGN_RIGHT});
    table_add_column(t, (struct table_column){"to", NULL, NUMBER_FIXED, 4, METRIC_NEITHER, ALIGN_RIGHT});
    table_add_column(t,
                     (struct table_column){"detectable", NULL, NUMBER_FIXED, 4, METRIC_NEITHER, ALIGN_RIGHT});
    struct str without = {0};
    size_t hidden = 0;
    for (size_t i = 0; i < c->n_rows; i++) {
        const struct compare_row *row = &c->rows[i];
        if (only_changed && !is_change(row->change)) {
            hidden++;
            continue;
        }
        char *label = str_format("%s%s", row->label,
                                 row->better == METRIC_HIGHER  ? " ↑"
                                 : row->better == METRIC_LOWER ? " ↓"
                                                               : "");
        table_text(t, label);
        free(label);
        static const char *const words[] = {"differs", "same", "better", "worse", "changed"};
        table_text(t, row->within_floor && row->difference != 0 ? "within floor" : words[row->change]);
        table_mark(t, change_mark(row->change));
        add_value(t, row, row->before);
        add_value(t, row, row->after);
        add_value(t, row, row->difference);
        table_real(t, row->ratio);
        add_value(t, row, row->lo);
        add_value(t, row, row->hi);
        add_value(t, row, row->detectable);
        if (isnan(row->lo) && c->n_paired_samples >= 2)
            str_addf(&without, "%s%s (%s)", without.len ? ", " : "", row->label, why_no_interval(row));
    }
    char note[160];
    if (c->forced) {
        char *text = str_format("FORCED: compared in spite of different %s", c->forced);
        table_note(t, text);
        free(text);
    }
    if (c->arithmetic) table_note(t, c->arithmetic);
    if (hidden) {
        snprintf(note, sizeof note, "%zu metrics did not change and are not shown", hidden);
        table_note(t, note);
    }
    if (c->n_paired_samples >= 2)
        snprintf(note, sizeof note, "intervals: differences paired over %zu samples, whole samples resampled",
                 c->n_paired_samples);
    else
        snprintf(note, sizeof note,
                 "no intervals: %zu sample%s in common, two are needed; use --num-samples 5 or more",
                 c->n_paired_samples, c->n_paired_samples == 1 ? "" : "s");
    table_note(t, note);
    if (without.len) {
        char *text = str_format("without one: %s", str_get(&without));
        table_note(t, text);
        free(text);
    }
    str_clear(&without);
    return t;
}

struct table *comparison_settings_table(const struct comparison *c)
{
    struct table *t = table_new("Settings that differ");
    table_add_column(t, (struct table_column){.name = "setting"});
    table_add_column(t, (struct table_column){.name = "before"});
    table_add_column(t, (struct table_column){.name = "after"});
    for (size_t i = 0; i < c->n_settings; i++) {
        table_text(t, c->settings[i].name);
        table_text(t, c->settings[i].before);
        table_text(t, c->settings[i].after);
    }
    return t;
}

static const struct compare_row *find_row(const struct comparison *c, const char *name)
{
    for (size_t i = 0; i < c->n_rows; i++)
        if (!strcmp(c->rows[i].name, name)) return &c->rows[i];
    return NULL;
}

static void add_names(const struct comparison *c, enum change change, const char *word, struct str *out)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_rows; i++) n += c->rows[i].change == change;
    str_addf(out, " %zu %s", n, word);
    size_t shown = 0;
    for (size_t i = 0; i < c->n_rows && shown < 4; i++)
        if (c->rows[i].change == change) str_addf(out, "%s%s", shown++ ? ", " : " (", c->rows[i].label);
    if (shown) str_addf(out, "%s)", n > shown ? ", …" : "");
}

void comparison_verdict(const struct comparison *c, struct str *out)
{
    const struct compare_row *cosine = find_row(c, "logits_cosine"),
                             *agreement = find_row(c, "token_accuracy"), *sparsity = find_row(c, "sparsity");
    if (!cosine) cosine = find_row(c, "cosine");
    if (c->forced) str_addf(out, "FORCED in spite of different %s. ", c->forced);
    if (cosine && agreement) {
        struct verdict b = verdict_of(cosine->before, agreement->before, sparsity ? sparsity->before : NAN);
        struct verdict a = verdict_of(cosine->after, agreement->after, sparsity ? sparsity->after : NAN);
        str_addf(out, "Accuracy %s -> %s (cosine %.4f -> %.4f, token agreement %.1f %% -> %.1f %%)", b.band,
                 a.band, cosine->before, cosine->after, 100 * agreement->before, 100 * agreement->after);
    } else {
        str_add(out, "Accuracy unknown");
    }
    if (sparsity)
        str_addf(out, ", sparsity %.1f %% -> %.1f %%", 100 * sparsity->before, 100 * sparsity->after);
    str_add(out, ". Beyond noise:");
    add_names(c, CHANGE_BETTER, "better", out);
    str_add(out, ",");
    add_names(c, CHANGE_WORSE, "worse", out);
    size_t without = 0;
    for (size_t i = 0; i < c->n_rows; i++) without += c->rows[i].change == CHANGE_UNKNOWN;
    if (without) {
        str_add(out, "; not told from noise, without an interval:");
        add_names(c, CHANGE_UNKNOWN, without == 1 ? "differs" : "differ", out);
    }
    str_add(out, ".");
}

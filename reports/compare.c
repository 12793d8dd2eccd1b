#include "reports/compare.h"

#include "base/xmalloc.h"
#include "reports/columns.h"
#include "reports/tables.h"
#include "reports/tasks.h"
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

static bool is_paired(const struct run_view *v, const struct sample_record *like)
{
    const struct sample_record *r = sample_find(v->samples.rows, v->samples.n, like->sample);
    return r && r->n_scored == like->n_scored;
}

static bool of_answers(const char *name)
{
    return !strncmp(name, "score_", 6) || !strncmp(name, "answers_", 8);
}

/* The paired difference with its interval; what is stored stays where the samples do not say. */
static void add_interval(
    struct compare_row *row, const struct run_view *before, const struct run_view *after)
{
    struct estimate_source b = run_view_source(before), a = run_view_source(after);
    struct estimate e;
    if (!estimate_change(&b, &a, row->name, &e) || isnan(e.std_error)) return;
    row->difference = e.value;
    row->lo = e.lo;
    row->hi = e.hi;
    if (e.std_error > 0) row->detectable = detectable_difference(e.std_error, e.df);
}

double noise_floor(const struct noise_list *floors, const char *metric)
{
    double floor = NAN;
    for (size_t i = 0; floors && i < floors->n; i++)
        if (!strcmp(floors->rows[i].metric, metric)) floor = fmax(floor, floors->rows[i].value);
    return floor;
}

/* Do two intervals of unpaired measurements part? */
static bool apart(const struct metric_record *a, const struct metric_record *b)
{
    return a->hi < b->lo || b->hi < a->lo;
}

/* Only an interval tells a change from noise: the difference's, or for times, which do not pair,
 * those of both. */
static enum change judge(
    const struct compare_row *row, const struct metric_record *a, const struct metric_record *b)
{
    /* no chance in it, on the texts at hand */
    bool counted = strstr(row->name, "sparsity") != NULL;
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

/* A ratio to what may be nothing says nothing: NAN where the signs differ, where noise or the
 * interval of the lower part reaches down to 0, and where it is under a thousandth of the upper
 * part. */
static double ratio_of(
    const struct metric_record *below, const struct metric_record *above, double floor)
{
    double b = below->mean, a = above->mean;
    bool may_be_nothing = below->lo <= 0 && below->hi >= 0; /* not where there is no interval */
    if (b == 0 || may_be_nothing || fabs(b) <= floor || fabs(b) < 1e-3 * fabs(a) ||
        (a != 0 && (a > 0) != (b > 0)))
        return NAN;
    return a / b;
}

static void add_rows(struct comparison *c, const struct run_view *before,
    const struct run_view *after, const struct compare_options *o, bool pairable)
{
    c->rows = xcalloc(before->metrics.n + 1, sizeof *c->rows);
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
            .ratio = ratio_of(b, a, noise_floor(o->floors, b->name)),
            .lo = NAN,
            .hi = NAN,
            .detectable = NAN,
            .floor = noise_floor(o->floors, b->name),
        };
        if (pairable) add_interval(row, before, after);
        row->within_floor = fabs(row->difference) <= row->floor;
        row->change = judge(row, b, a);
    }
}

/* Settings that differ, and who measured it with what. */
static void comparison_add_settings(
    struct comparison *c, const struct run_record *before, const struct run_record *after)
{
    for (int i = 0; i < RUN_PARTS; i++) {
        const struct columns *t = run_parts[i].columns;
        const void *b = (const char *)before + run_parts[i].offset,
                   *a = (const char *)after + run_parts[i].offset;
        for (size_t k = 0; k < t->n; k++) {
            const struct column *column = &t->at[k];
            if (!(column->use & (COLUMN_SETTING | COLUMN_PROVENANCE)) || column_same(column, a, b))
                continue;
            struct str text[2] = {0};
            column_describe(column, b, &text[0]);
            column_describe(column, a, &text[1]);
            c->settings = xrealloc(c->settings, (c->n_settings + 1) * sizeof *c->settings);
            c->settings[c->n_settings++] = (struct compare_setting){column_label(column),
                arena_str(&c->arena, str_get(&text[0])), arena_str(&c->arena, str_get(&text[1])),
                column->name};
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
        str_addf(out,
            "data.fingerprint: %s (%s, %d samples of at most %d tokens) and %s (%s, %d of %d)",
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
        st =
            fail(ERR_ARG, "%s and %s cannot be compared: different %s; evaluate both on the same%s",
                before->label, after->label, str_get(&obstacle), o->or_else ? o->or_else : "");
    if (st == OK && obstacle.len) c->forced = str_dup(str_get(&obstacle));
    str_clear(&obstacle);
    return st;
}

static size_t count_pairs(const struct run_view *before, const struct run_view *after)
{
    size_t n = 0;
    for (size_t i = 0; i < before->samples.n; i++) n += is_paired(after, &before->samples.rows[i]);
    return n;
}

enum status compare_runs(struct comparison *c, const struct run_view *before,
    const struct run_view *after, const struct compare_options *o)
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
        const struct run_view *empty = !before->metrics.n ? before
            : !after->metrics.n                           ? after
                                                          : NULL;
        comparison_clear(c);
        if (empty)
            return fail(ERR_ARG,
                "%s: holds no metrics, so there is nothing to compare; write it anew with eval "
                "--output",
                empty->label);
        return fail(ERR_ARG, "%s and %s have no metric in common; evaluate both on the same suite",
            before->label, after->label);
    }
    comparison_add_settings(c, before->run, after->run);
    struct str places = {0};
    if (pairable) tasks_places(before, after, &places);
    c->places = places.data;
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
    free(c->places);
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
    if (of_answers(row->name))
        return "no answers stored by question; compare the runs in their database";
    if (!strncmp(row->name, "cpu_", 4)) return "beside the CPU, kept for the run as a whole";
    return "not stored by sample; evaluate again";
}

struct table *comparison_table(const struct comparison *c, bool only_changed)
{
    char *title = str_format("%s against %s", c->before_label, c->after_label);
    struct table *t = table_new(title);
    free(title);
    static const struct {
        const char *key, *name;
        int weight;
    } columns[] = {{"before", "before", 6}, {"after", "after", 7}, {"difference", "difference", 9},
        {"ratio", "ratio", 4}, {"lo", "95 % from", 8}, {"hi", "to", 8},
        {"detectable", "detectable", 2}};
    add_text(t, "name", "metric");
    add_data(t, "unit");
    add_text(t, "change", "change");
    table_weight(t, 9);
    add_data(t, "within_floor");
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        table_add_column(t,
            (struct table_column){.name = columns[i].name,
                .key = columns[i].key,
                .weight = columns[i].weight,
                .digits = 4,
                .align = ALIGN_RIGHT});
    struct str without = {0};
    size_t hidden = 0;
    for (size_t i = 0; i < c->n_rows; i++) {
        const struct compare_row *row = &c->rows[i];
        if (only_changed && !is_change(row->change)) {
            hidden++;
            continue;
        }
        char *label = str_format("%s%s", row->label,
            row->better == METRIC_HIGHER      ? " ↑"
                : row->better == METRIC_LOWER ? " ↓"
                                              : "");
        table_text(t, row->name);
        table_show(t, label);
        free(label);
        table_text(t, row->unit);
        static const char *const words[] = {"differs", "same", "better", "worse", "changed"};
        table_text(t, words[row->change]);
        if (row->within_floor && row->difference != 0) table_show(t, "within floor");
        table_mark(t, change_mark(row->change));
        table_bool(t, row->within_floor);
        add_value(t, row, row->before);
        add_value(t, row, row->after);
        add_value(t, row, row->difference);
        table_real(t, row->ratio);
        add_value(t, row, row->lo);
        add_value(t, row, row->hi);
        add_value(t, row, row->detectable);
        if (isnan(row->lo) && c->n_paired_samples >= 2)
            str_addf(
                &without, "%s%s (%s)", without.len ? ", " : "", row->label, why_no_interval(row));
    }
    char note[160];
    if (c->forced) {
        char *text = str_format("FORCED: compared in spite of different %s", c->forced);
        table_note(t, text);
        free(text);
    }
    if (c->arithmetic) table_note(t, c->arithmetic);
    if (c->places) table_note(t, c->places);
    if (hidden) {
        snprintf(note, sizeof note, "%zu metrics did not change and are not shown", hidden);
        table_note(t, note);
    }
    if (c->n_paired_samples >= 2)
        snprintf(note, sizeof note, "intervals: differences paired over %zu samples, Student's t",
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
        table_text(t, c->settings[i].key);
        table_show(t, c->settings[i].name);
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

static void add_names(
    const struct comparison *c, enum change change, const char *word, struct str *out)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_rows; i++) n += c->rows[i].change == change;
    str_addf(out, " %zu %s", n, word);
    size_t shown = 0;
    for (size_t i = 0; i < c->n_rows && shown < 4; i++)
        if (c->rows[i].change == change)
            str_addf(out, "%s%s", shown++ ? "; " : " (", c->rows[i].label);
    if (shown) str_addf(out, "%s)", n > shown ? "; …" : "");
}

/* What a reader asks first: the few numbers, then the guide's words for them. */
static void add_numbers(const struct comparison *c, struct str *out)
{
    const struct compare_row *cosine = find_row(c, "logits_cosine"), *kl = find_row(c, "kl"),
                             *score = find_row(c, "score_sparse"),
                             *agreement = find_row(c, "token_accuracy"),
                             *sparsity = find_row(c, "sparsity");
    if (!cosine) cosine = find_row(c, "cosine");
    const char *between = "";
    if (sparsity)
        str_addf(out, "sparsity %.1f %% -> %.1f %%", 100 * sparsity->before, 100 * sparsity->after),
            between = ", ";
    if (kl) str_addf(out, "%sKL %.4f -> %.4f nats", between, kl->before, kl->after), between = ", ";
    if (score)
        str_addf(out, "%sanswers right %.1f %% -> %.1f %%", between, 100 * score->before,
            100 * score->after),
            between = ", ";
    if (cosine && agreement) {
        double before = sparsity ? sparsity->before : NAN, after = sparsity ? sparsity->after : NAN;
        struct verdict b = verdict_of(cosine->before, agreement->before, before),
                       a = verdict_of(cosine->after, agreement->after, after);
        str_addf(out,
            "%stoken agreement %.1f %% -> %.1f %%, cosine of all logits as one vector %.4f -> "
            "%.4f; by the tuning guide's bands %s -> %s",
            between, 100 * agreement->before, 100 * agreement->after, cosine->before, cosine->after,
            b.band, a.band);
        between = ", ";
    }
    if (*between) str_add(out, ". ");
}

void comparison_verdict(const struct comparison *c, struct str *out)
{
    size_t without = 0;
    for (size_t i = 0; i < c->n_rows; i++) without += c->rows[i].change == CHANGE_UNKNOWN;
    if (c->forced) str_addf(out, "FORCED in spite of different %s. ", c->forced);
    add_numbers(c, out);
    str_add(out, "Beyond noise:");
    add_names(c, CHANGE_BETTER, "better", out);
    str_add(out, ",");
    add_names(c, CHANGE_WORSE, "worse", out);
    if (without) {
        str_add(out, "; not told from noise, without an interval:");
        add_names(c, CHANGE_UNKNOWN, without == 1 ? "differs" : "differ", out);
    }
    str_add(out, ".");
}

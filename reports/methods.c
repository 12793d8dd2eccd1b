#include "reports/tables.h"
#include "reports/view.h"
#include "results/columns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TASKS = 6 };

/* Suites of the list that ask questions, each once. */
struct tasks {
    const char *suites[MOST_TASKS];
    size_t n;
};

static bool same_data(const struct run_record *a, const struct dataset_record *d)
{
    return a->dataset.fingerprint && d->fingerprint &&
        !strcmp(a->dataset.fingerprint, d->fingerprint);
}

static bool same_suite(const struct run_record *r, const char *suite)
{
    return text_same(r->dataset.suite, suite);
}

static struct tasks find_tasks(const struct run_list *runs)
{
    struct tasks t = {.n = 0};
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        bool known = r->status != RUN_DONE || isnan(r->headline.score_sparse);
        for (size_t k = 0; k < t.n && !known; k++) known = same_suite(r, t.suites[k]);
        if (!known && t.n < MOST_TASKS) t.suites[t.n++] = r->dataset.suite;
    }
    return t;
}

static void add_columns(struct table *t, const struct tasks *tasks)
{
    table_add_column(t, (struct table_column){.name = "attention"});
    table_add_column(t, (struct table_column){.name = "verdict"});
    table_add_column(t,
        (struct table_column){
            .name = "sparsity", .number = NUMBER_PERCENT, .digits = 1, .better = METRIC_HIGHER});
    table_add_column(t,
        (struct table_column){
            .name = "cosine", .number = NUMBER_FIXED, .digits = 4, .better = METRIC_HIGHER});
    table_add_column(t,
        (struct table_column){.name = "KL",
            .unit = "nats",
            .number = NUMBER_FIXED,
            .digits = 4,
            .better = METRIC_LOWER});
    table_add_column(t,
        (struct table_column){
            .name = "ppl / dense", .number = NUMBER_FIXED, .digits = 3, .better = METRIC_LOWER});
    table_add_column(t,
        (struct table_column){
            .name = "agreement", .number = NUMBER_PERCENT, .digits = 1, .better = METRIC_HIGHER});
    for (size_t i = 0; i < tasks->n; i++) {
        char *name = str_format("%s right", tasks->suites[i]);
        table_add_column(t,
            (struct table_column){
                .name = name, .number = NUMBER_PERCENT, .digits = 1, .better = METRIC_HIGHER});
        free(name);
    }
    table_add_column(t, (struct table_column){.name = "runs"});
}

/* The done run of this configuration on a suite, of the length of `like` if there is one; NULL when
 * there is none. */
static const struct run_record *find_run(
    const struct run_list *runs, const struct run_record *like, const char *suite)
{
    const struct run_record *found = NULL;
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        if (r->status != RUN_DONE || !same_suite(r, suite) || !run_same_configuration(r, like))
            continue;
        if (!found || (r->max_length == like->max_length && found->max_length != like->max_length))
            found = r;
    }
    return found;
}

static void add_dense(struct table *t, const struct run_list *runs,
    const struct dataset_record *data, const struct tasks *tasks)
{
    table_text(t, "dense");
    table_missing(t);
    double ppl = NAN;
    for (size_t i = 0; i < runs->n; i++)
        if (!isnan(runs->rows[i].headline.ppl_ratio) && same_data(&runs->rows[i], data)) ppl = 1;
    const double ideal[] = {0, 1, 0, ppl, 1};
    for (int i = 0; i < 5; i++) table_real(t, ideal[i]);
    for (size_t k = 0; k < tasks->n; k++) {
        double score = NAN;
        for (size_t i = 0; i < runs->n; i++)
            if (same_suite(&runs->rows[i], tasks->suites[k]) &&
                !isnan(runs->rows[i].headline.score_dense) &&
                (!same_suite(&runs->rows[i], data->suite) || same_data(&runs->rows[i], data)))
                score = runs->rows[i].headline.score_dense;
        table_real(t, score);
    }
    table_missing(t);
}

/* What tells this configuration from others of the same short name, and its data from those of the
 * page. */
static void add_distinctions(const struct run_list *runs, const struct run_record *like,
    const struct run_record *subject, struct str *name)
{
    struct str short_name = {0};
    str_add(&short_name, str_get(name));
    for (size_t k = 0; k < run_columns.n; k++) {
        const struct column *c = &run_columns.at[k];
        bool differs = false;
        /* told below */
        if (!(c->use & COLUMN_SETTING) || c->use & COLUMN_DATA || !strcmp(c->name, "max_length"))
            continue;
        for (size_t i = 0; i < runs->n && !differs; i++) {
            const struct run_record *r = &runs->rows[i];
            struct str other = {0};
            if (r->status == RUN_DONE && !column_same(c, r, like)) {
                run_short_name(r, &other);
                differs = strcmp(str_get(&other), str_get(&short_name)) == 0;
            }
            str_clear(&other);
        }
        struct str value = {0};
        if (differs) column_describe(c, like, &value);
        if (differs) str_addf(name, ", %s %s", column_label(c), value.len ? str_get(&value) : "-");
        str_clear(&value);
    }
    str_clear(&short_name);
    if (same_data(like, &subject->dataset)) return;
    if (!same_suite(like, subject->dataset.suite)) str_addf(name, ", on %s", like->dataset.name);
    if (like->max_length != subject->max_length) str_addf(name, ", %d tokens", like->max_length);
    else if (same_suite(like, subject->dataset.suite))
        str_addf(name, ", on %s, other texts", like->dataset.name);
}

static void add_configuration(struct table *t, const struct run_list *runs,
    const struct run_record *like, const struct run_record *subject, const struct tasks *tasks)
{
    struct str name = {0}, ids = {0};
    run_short_name(like, &name);
    add_distinctions(runs, like, subject, &name);
    if (run_same_configuration(like, subject) && same_data(like, &subject->dataset))
        str_add(&name, " *");
    table_text(t, str_get(&name));
    const struct headline *h = &like->headline;
    struct verdict v = verdict_of(isnan(h->logits_cosine) ? h->cosine_mean : h->logits_cosine,
        h->token_accuracy, h->sparsity);
    table_text(t, v.band);
    const double values[] = {
        h->sparsity, h->cosine_mean, h->kl_mean, h->ppl_ratio, h->token_accuracy};
    for (int i = 0; i < 5; i++) table_real(t, values[i]);
    str_addf(&ids, "%lld", (long long)like->id);
    for (size_t k = 0; k < tasks->n; k++) {
        bool own = same_suite(like, tasks->suites[k]);
        const struct run_record *r = own ? like : find_run(runs, like, tasks->suites[k]);
        table_real(t, r ? r->headline.score_sparse : NAN);
        if (r && r != like) str_addf(&ids, ", %lld", (long long)r->id);
    }
    table_text(t, str_get(&ids));
    str_clear(&name);
    str_clear(&ids);
}

/* A row for each configuration on each data set of the page's suite; other suites give it columns,
 * or rows where the page's suite was not run. */
static bool has_row(const struct run_list *runs, size_t at, const struct run_record *subject)
{
    const struct run_record *r = &runs->rows[at];
    if (r->status != RUN_DONE || run_is_dense(r)) return false;
    bool main = same_suite(r, subject->dataset.suite);
    if (!main && find_run(runs, r, subject->dataset.suite)) return false;
    for (size_t k = 0; k < at; k++) {
        const struct run_record *other = &runs->rows[k];
        if (other->status != RUN_DONE || !run_same_configuration(other, r)) continue;
        if (main ? same_data(other, &r->dataset) : !same_suite(other, subject->dataset.suite))
            return false;
    }
    return true;
}

struct table *methods_table(const struct run_list *runs, const struct run_record *subject)
{
    struct table *t = table_new("All configurations");
    struct tasks tasks = find_tasks(runs);
    add_columns(t, &tasks);
    add_dense(t, runs, &subject->dataset, &tasks);
    for (size_t i = 0; i < runs->n; i++)
        if (has_row(runs, i, subject)) add_configuration(t, runs, &runs->rows[i], subject, &tasks);
    table_note(t,
        "* the run this page is about; quality is measured on its data unless a row says "
        "otherwise");
    return t;
}

#include "reports/tables.h"
#include "reports/view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TASKS = 6 };

/* Data sets of the list that ask questions, each once. */
struct tasks {
    const struct dataset_record *sets[MOST_TASKS];
    size_t n;
};

static bool same_data(const struct run_record *a, const struct dataset_record *d)
{
    return a->dataset.fingerprint && d->fingerprint && !strcmp(a->dataset.fingerprint, d->fingerprint);
}

static struct tasks find_tasks(const struct run_list *runs)
{
    struct tasks t = {.n = 0};
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        bool known = r->status != RUN_DONE || isnan(r->headline.score_sparse);
        for (size_t k = 0; k < t.n && !known; k++) known = same_data(r, t.sets[k]);
        if (!known && t.n < MOST_TASKS) t.sets[t.n++] = &r->dataset;
    }
    return t;
}

static void add_columns(struct table *t, const struct tasks *tasks)
{
    table_add_column(t, (struct table_column){.name = "attention"});
    table_add_column(t, (struct table_column){.name = "verdict"});
    table_add_column(t, (struct table_column){"sparsity", NULL, NUMBER_PERCENT, 1, METRIC_HIGHER, ALIGN_AUTO});
    table_add_column(t, (struct table_column){"cosine", NULL, NUMBER_FIXED, 4, METRIC_HIGHER, ALIGN_AUTO});
    table_add_column(t, (struct table_column){"KL", "nats", NUMBER_FIXED, 4, METRIC_LOWER, ALIGN_AUTO});
    table_add_column(t, (struct table_column){"ppl / dense", NULL, NUMBER_FIXED, 3, METRIC_LOWER, ALIGN_AUTO});
    table_add_column(t, (struct table_column){"agreement", NULL, NUMBER_PERCENT, 1, METRIC_HIGHER, ALIGN_AUTO});
    for (size_t i = 0; i < tasks->n; i++) {
        char *name = str_format("%s right", tasks->sets[i]->suite);
        table_add_column(t, (struct table_column){name, NULL, NUMBER_PERCENT, 1, METRIC_HIGHER, ALIGN_AUTO});
        free(name);
    }
    table_add_column(t, (struct table_column){.name = "runs"});
}

/* The done run of this configuration on these data; NULL when there is none. */
static const struct run_record *find_run(const struct run_list *runs, const struct run_record *like,
                                         const struct dataset_record *data)
{
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        if (r->status == RUN_DONE && same_data(r, data) && run_same_configuration(r, like)) return r;
    }
    return NULL;
}

static void add_dense(struct table *t, const struct run_list *runs, const struct dataset_record *data,
                      const struct tasks *tasks)
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
            if (same_data(&runs->rows[i], tasks->sets[k]) && !isnan(runs->rows[i].headline.score_dense))
                score = runs->rows[i].headline.score_dense;
        table_real(t, score);
    }
    table_missing(t);
}

static void add_configuration(struct table *t, const struct run_list *runs, const struct run_record *like,
                              const struct run_record *subject, const struct tasks *tasks)
{
    const struct run_record *main = find_run(runs, like, &subject->dataset);
    struct str name = {0}, ids = {0};
    run_short_name(like, &name);
    if (run_same_configuration(like, subject)) str_add(&name, " *");
    table_text(t, str_get(&name));
    if (main) {
        const struct headline *h = &main->headline;
        struct verdict v =
            verdict_of(isnan(h->logits_cosine) ? h->cosine_mean : h->logits_cosine, h->token_accuracy, h->sparsity);
        table_text(t, v.band);
        const double values[] = {h->sparsity, h->cosine_mean, h->kl_mean, h->ppl_ratio, h->token_accuracy};
        for (int i = 0; i < 5; i++) table_real(t, values[i]);
        str_addf(&ids, "%lld", (long long)main->id);
    } else {
        for (int i = 0; i < 6; i++) table_missing(t);
    }
    for (size_t k = 0; k < tasks->n; k++) {
        const struct run_record *r = find_run(runs, like, tasks->sets[k]);
        table_real(t, r ? r->headline.score_sparse : NAN);
        if (r && r != main) str_addf(&ids, "%s%lld", ids.len ? ", " : "", (long long)r->id);
    }
    table_text(t, str_get(&ids));
    str_clear(&name);
    str_clear(&ids);
}

struct table *methods_table(const struct run_list *runs, const struct run_record *subject)
{
    struct table *t = table_new("All configurations");
    struct tasks tasks = find_tasks(runs);
    add_columns(t, &tasks);
    add_dense(t, runs, &subject->dataset, &tasks);
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        bool told = r->status != RUN_DONE || !strcmp(r->method, "dense");
        for (size_t k = 0; k < i && !told; k++)
            told = runs->rows[k].status == RUN_DONE && run_same_configuration(&runs->rows[k], r);
        if (!told) add_configuration(t, runs, r, subject, &tasks);
    }
    table_note(t, "* the run this page is about; quality is measured on its data");
    return t;
}

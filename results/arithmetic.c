#include "results/arithmetic.h"

#include "results/columns.h"

#include <math.h>
#include <string.h>

bool arithmetic_differs(const struct run_record *a, const struct run_record *b, struct str *out)
{
    bool differs = false;
    for (int i = 0; i < RUN_PARTS; i++) {
        const struct columns *t = run_parts[i].columns;
        const void *x = (const char *)a + run_parts[i].offset,
                   *y = (const char *)b + run_parts[i].offset;
        for (size_t k = 0; k < t->n; k++) {
            const struct column *c = &t->at[k];
            if (!(c->use & COLUMN_ARITHMETIC) || column_same(c, x, y)) continue;
            str_addf(out, "%s%s: ", differs ? ", " : "", column_label(c));
            column_describe(c, x, out);
            str_add(out, " and ");
            column_describe(c, y, out);
            differs = true;
        }
    }
    return differs;
}

static double floor_of(const struct noise_list *floors, const char *metric)
{
    double floor = NAN; /* the largest of all sources and machines: sums in another order are all
                           alike */
    for (size_t i = 0; floors && i < floors->n; i++)
        if (!strcmp(floors->rows[i].metric, metric)) floor = fmax(floor, floors->rows[i].value);
    return floor;
}

enum arithmetic arithmetic_compare(struct arithmetic_side a, struct arithmetic_side b,
    const struct noise_list *floors, struct str *words)
{
    struct str what = {0};
    bool other = arithmetic_differs(a.run, b.run, &what);
    if (other) str_addf(words, "other arithmetic (%s), ", str_get(&what));
    str_clear(&what);
    if (!other) return ARITHMETIC_SAME;
    size_t n_untold = 0;
    for (size_t i = 0; i < a.metrics->n; i++) {
        const struct metric_record *x = &a.metrics->rows[i], *y;
        if (strcmp(x->scope, "overall") || metric_is_timing(x->name)) continue;
        y = metric_list_find(b.metrics, "overall", x->name);
        if (!y || x->mean == y->mean || isnan(x->mean) || isnan(y->mean)) continue;
        double floor = floor_of(floors, x->name), difference = fabs(x->mean - y->mean);
        n_untold += isnan(floor) ? 1 : 0;
        if (!(difference > floor)) continue;
        str_addf(words, "beyond the floor: %s is %.9g and %.9g, floor %.2g", x->name, x->mean,
            y->mean, floor);
        return ARITHMETIC_BEYOND;
    }
    bool measured = floors && floors->n;
    if (n_untold && !measured) {
        str_addf(words,
            "and %zu metrics differ; no noise floor of this model is stored to tell by, `eval "
            "--suite null` "
            "measures it",
            n_untold);
        return ARITHMETIC_UNTOLD;
    }
    str_add(words, "within the floor");
    return ARITHMETIC_WITHIN;
}

enum status arithmetic_between(
    struct store *a, struct store *b, const char *key, enum arithmetic *out, struct str *words)
{
    struct store *stores[2] = {a, b};
    struct run_list runs[2] = {{0}};
    struct metric_list metrics[2] = {{0}};
    struct noise_list floors[2] = {{0}};
    enum status st = OK;
    for (int i = 0; i < 2; i++) {
        TRY_GOTO(st, done, query_run(stores[i], key, &runs[i]));
        TRY_GOTO(st, done, query_metrics(stores[i], runs[i].rows[0].id, "overall", &metrics[i]));
        TRY_GOTO(
            st, done, query_noise(stores[i], NULL, runs[i].rows[0].model.fingerprint, &floors[i]));
    }
    bool here = floors[0].n > 0;
    *out = arithmetic_compare((struct arithmetic_side){runs[0].rows, &metrics[0]},
        (struct arithmetic_side){runs[1].rows, &metrics[1]}, &floors[!here], words);
done:
    for (int i = 0; i < 2; i++) {
        run_list_clear(&runs[i]);
        metric_list_clear(&metrics[i]);
        noise_list_clear(&floors[i]);
    }
    return st;
}

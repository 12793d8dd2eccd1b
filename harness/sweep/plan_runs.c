#include "harness/sweep/plan_runs.h"

#include "base/str.h"
#include "results/store.h"

#include <stdlib.h>
#include <string.h>

static int by_key(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static enum status unknown_plan(struct store *s, const char *plan)
{
    struct sql_result r;
    struct str known = {0};
    TRY(query_sql(s, "SELECT name FROM plan ORDER BY created DESC LIMIT 8", &r));
    for (size_t i = 0; i < r.n_rows; i++)
        str_addf(&known, "%s%s", i ? ", " : "", r.cells[i].text ? r.cells[i].text : "");
    sql_result_clear(&r);
    enum status st = fail(ERR_ARG, "%s: no plan \"%s\"; there %s%s", store_path(s), plan,
        known.len ? "are: "
                  : "is none: a "
                    "sweep makes one",
        str_get(&known));
    str_clear(&known);
    return st;
}

enum status plan_runs(struct store *s, const struct run_filter *filter, struct run_list *out)
{
    struct run_filter f = *filter;
    f.plan = NULL;
    if (!filter->plan) return query_runs(s, &f, out);
    struct cell_list cells;
    *out = (struct run_list){0};
    TRY(query_cells(s, filter->plan, &cells));
    enum status st = cells.n ? query_runs(s, &f, out) : unknown_plan(s, filter->plan);
    const char **keys = malloc((cells.n + 1) * sizeof *keys);
    if (st == OK && !keys) st = fail(ERR_MEMORY, "no memory for %zu cells", cells.n);
    if (st == OK) {
        for (size_t i = 0; i < cells.n; i++) keys[i] = cells.rows[i].key;
        qsort(keys, cells.n, sizeof *keys, by_key);
        size_t n = 0;
        for (size_t i = 0; i < out->n; i++)
            if (bsearch(&out->rows[i].key, keys, cells.n, sizeof *keys, by_key))
                out->rows[n++] = out->rows[i];
        out->n = n;
    } else {
        run_list_clear(out);
    }
    free(keys);
    cell_list_clear(&cells);
    return st;
}

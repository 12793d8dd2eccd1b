#include "reports/axes.h"

#include "results/columns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the method's name already, of identity, or of no interest to who compares settings. */
static bool is_axis(const struct column *c)
{
    static const char *const others[] = {
        "method", "rule", "tuned_hash", "repeat", "confirming", "impl"};
    if (!(c->use & COLUMN_SETTING)) return false;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(c->name, others[i])) return false;
    return true;
}

static bool counts(const struct run_record *r) { return r->status == RUN_DONE && !run_is_dense(r); }

static bool is_unsaid(const struct run_axis *a, const struct run_record *r)
{
    return a->column && column_missing(a->column, r);
}

/* A number that is missing does not apply; a text that is missing is the usual one (no eight bits).
 */
static bool level_missing(const struct run_axis *a, const struct run_record *r)
{
    return is_unsaid(a, r) && !column_is_text(a->column);
}

static bool level_same(
    const struct run_axis *a, const struct run_record *x, const struct run_record *y)
{
    return a->column ? column_same(a->column, x, y)
                     : text_same(x->dataset.fingerprint, y->dataset.fingerprint);
}

/* What orders a level; equal ones stay as they came. */
static double level_rank(const struct run_axis *a, const struct run_record *r)
{
    if (a->is_number) return column_real(a->column, r);
    if (a->column && !strcmp(a->column->name, "layers"))
        return !strcmp(r->layers, "all") ? -1 : atof(r->layers);
    return 0;
}

static void add_level(struct run_axis *a, const struct run_record *r)
{
    for (size_t i = 0; i < a->n; i++)
        if (level_same(a, a->level[i], r)) return;
    if (a->n == MAX_LEVELS) {
        a->cut = true;
        return;
    }
    size_t at = a->n++;
    for (; at > 0 && level_rank(a, a->level[at - 1]) > level_rank(a, r); at--)
        a->level[at] = a->level[at - 1];
    a->level[at] = r;
}

static void find_levels(struct run_axis *a, const struct run_list *runs)
{
    for (size_t i = 0; i < runs->n; i++)
        if (counts(&runs->rows[i]) && !level_missing(a, &runs->rows[i]))
            add_level(a, &runs->rows[i]);
}

/* Does the length tell the data apart? */
static bool length_says_it(const struct run_list *runs)
{
    for (size_t i = 0; i < runs->n; i++)
        for (size_t k = i + 1; k < runs->n && counts(&runs->rows[i]); k++) {
            const struct run_record *x = &runs->rows[i], *y = &runs->rows[k];
            if (counts(y) && x->max_length == y->max_length &&
                !text_same(x->dataset.fingerprint, y->dataset.fingerprint))
                return false;
        }
    return true;
}

void run_axes_find(const struct run_list *runs, struct run_axes *out)
{
    *out = (struct run_axes){.runs = runs};
    for (size_t i = 0; i < run_columns.n && out->n < MAX_AXES; i++) {
        const struct column *c = &run_columns.at[i];
        int lo, hi;
        if (!is_axis(c)) continue;
        struct run_axis *a = &out->at[out->n];
        *a = (struct run_axis){.column = c, .name = column_label(c)};
        a->is_number =
            c->type == COLUMN_REAL || c->type == COLUMN_INT64 || column_is_int(c, &lo, &hi);
        find_levels(a, runs);
        out->n += a->n > 1;
    }
    if (out->n == MAX_AXES || length_says_it(runs)) return;
    struct run_axis *a = &out->at[out->n];
    *a = (struct run_axis){.name = "data"};
    find_levels(a, runs);
    out->n += a->n > 1;
}

const struct run_axis *run_axes_get(const struct run_axes *a, const char *name)
{
    for (size_t i = 0; i < a->n; i++)
        if (!strcmp(a->at[i].column ? a->at[i].column->name : "data", name)) return &a->at[i];
    return NULL;
}

int run_axis_level(const struct run_axis *a, const struct run_record *r)
{
    for (size_t i = 0; i < a->n && !level_missing(a, r); i++)
        if (level_same(a, a->level[i], r)) return (int)i;
    return -1;
}

void run_axis_value(const struct run_axis *a, const struct run_record *r, struct str *out)
{
    if (!a->column) str_add(out, r->dataset.name);
    else if (a->column->type == COLUMN_REAL && !column_missing(a->column, r))
        str_addf(out, "%g",
            (double)(float)column_real(a->column, r)); /* what was a float shows as one */
    else column_describe(a->column, r, out);
}

bool run_axis_follows(const struct run_axes *a, const struct run_axis *y, const struct run_axis *x)
{
    int found[MAX_LEVELS];
    for (size_t i = 0; i < x->n; i++) found[i] = -1;
    for (size_t i = 0; i < a->runs->n; i++) {
        const struct run_record *r = &a->runs->rows[i];
        int at_x = run_axis_level(x, r), at_y = run_axis_level(y, r);
        if (!counts(r)) continue;
        if ((at_x < 0) != (at_y < 0)) return false;
        if (at_x < 0) continue;
        if (found[at_x] >= 0 && found[at_x] != at_y) return false;
        found[at_x] = at_y;
    }
    return true;
}

bool run_axes_same(const struct run_axes *a, const struct run_record *x, const struct run_record *y,
    const struct run_axis *but, const struct run_axis *nor)
{
    if (!text_same(x->method, y->method) || !text_same(x->rule, y->rule)) return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct run_axis *axis = &a->at[i];
        if (axis != but && axis != nor && !level_same(axis, x, y) &&
            !(level_missing(axis, x) && level_missing(axis, y)))
            return false;
    }
    return true;
}

void run_method_name(const struct run_record *r, struct str *out)
{
    str_add(out, r->method);
    if (r->tuned_hash && r->rule) str_addf(out, ", rule %s", r->rule);
    else if (!strcmp(r->method, "sparge") && isnan(r->topk)) str_add(out, ", untuned");
}

void run_axes_label(const struct run_axes *a, const struct run_record *r,
    const struct run_axis *but, const struct run_axis *nor, struct str *out)
{
    run_method_name(r, out);
    for (size_t i = 0; i < a->n; i++) {
        const struct run_axis *axis = &a->at[i];
        if (axis == but || axis == nor || is_unsaid(axis, r)) continue;
        str_addf(out, ", %s ", axis->name);
        run_axis_value(axis, r, out);
    }
    if (r->repeat) str_addf(out, ", repeat %d", r->repeat);
}

size_t run_methods(const struct run_list *runs)
{
    size_t n = 0;
    for (size_t i = 0; i < runs->n; i++) {
        bool known = !counts(&runs->rows[i]);
        for (size_t k = 0; k < i && !known; k++)
            known = counts(&runs->rows[k]) &&
                text_same(runs->rows[i].method, runs->rows[k].method) &&
                text_same(runs->rows[i].rule, runs->rows[k].rule);
        n += !known;
    }
    return n;
}

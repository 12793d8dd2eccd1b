/* Cells and headings as text: what the renderers share. */
#include "reports/table_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t table_rows(const struct table *t) { return t->n_columns ? t->n_cells / t->n_columns : 0; }

const struct cell *cell_at(const struct table *t, size_t row, size_t column)
{
    return &t->cells[row * t->n_columns + column];
}

bool cell_is_number(const struct cell *c) { return c->kind == CELL_INT || c->kind == CELL_REAL; }

void cell_human(const struct table *t, size_t row, size_t column, struct str *out)
{
    const struct cell *c = cell_at(t, row, column);
    const struct table_column *k = &t->columns[column].c;
    if (c->shown) {
        str_add(out, c->shown);
        return;
    }
    switch (c->kind) {
    case CELL_MISSING: str_add(out, "-"); break;
    case CELL_TEXT: str_add(out, c->text); break;
    case CELL_BOOL: str_add(out, c->i ? "yes" : "no"); break;
    case CELL_REAL:
        number_format(c->own ? c->number : k->number, c->own ? c->digits : k->digits, c->d, out);
        break;
    case CELL_INT:
        if (k->number == NUMBER_BYTES) number_format(k->number, k->digits, c->d, out);
        else str_addf(out, "%lld", (long long)c->i);
        break;
    }
}

void cell_exact(const struct cell *c, struct str *out)
{
    char text[40];
    switch (c->kind) {
    case CELL_MISSING: break;
    case CELL_TEXT: str_add(out, c->text); break;
    case CELL_BOOL: str_add(out, c->i ? "true" : "false"); break;
    case CELL_INT: str_addf(out, "%lld", (long long)c->i); break;
    case CELL_REAL:
        for (int digits = 6; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, c->d);
            if (strtod(text, NULL) == c->d) break;
        }
        str_add(out, text);
        break;
    }
}

bool column_right(const struct table *t, size_t column)
{
    if (t->columns[column].c.align != ALIGN_AUTO) return t->columns[column].c.align == ALIGN_RIGHT;
    bool numbers = false;
    for (size_t r = 0; r < table_rows(t); r++) {
        const struct cell *c = cell_at(t, r, column);
        if (c->kind == CELL_TEXT || c->kind == CELL_BOOL) return false;
        numbers |= cell_is_number(c);
    }
    return numbers;
}

static const char *better_mark(const struct column *c)
{
    return c->c.better == METRIC_HIGHER ? "↑" : c->c.better == METRIC_LOWER ? "↓" : NULL;
}

void column_header(const struct column *c, struct str *out)
{
    str_add(out, c->name);
    if (c->unit) str_addf(out, " [%s]", c->unit);
    if (better_mark(c)) str_addf(out, " %s", better_mark(c));
}

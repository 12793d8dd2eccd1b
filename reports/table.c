#include "reports/table_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *grow(void *p, size_t bytes)
{
    p = realloc(p, bytes);
    if (!p) abort();
    return p;
}

struct table *table_new(const char *title)
{
    struct table *t = grow(NULL, sizeof *t);
    *t = (struct table){.title = title ? str_dup(title) : NULL};
    return t;
}

void table_free(struct table **t)
{
    if (!*t) return;
    for (size_t i = 0; i < (*t)->n_cells; i++) free((*t)->cells[i].text);
    for (size_t i = 0; i < (*t)->n_columns; i++) {
        free((*t)->columns[i].name);
        free((*t)->columns[i].unit);
    }
    for (size_t i = 0; i < (*t)->n_notes; i++) free((*t)->notes[i]);
    free((*t)->title);
    free((*t)->cells);
    free((*t)->columns);
    free((*t)->notes);
    free(*t);
    *t = NULL;
}

void table_add_column(struct table *t, struct table_column column)
{
    t->columns = grow(t->columns, (t->n_columns + 1) * sizeof *t->columns);
    t->columns[t->n_columns++] =
        (struct column){.c = column,
                        .name = str_dup(column.name),
                        .unit = column.unit && *column.unit ? str_dup(column.unit) : NULL};
}

static struct cell *next_cell(struct table *t, enum kind kind)
{
    if (t->n_cells == t->cap_cells) {
        t->cap_cells = t->cap_cells ? 2 * t->cap_cells : 64;
        t->cells = grow(t->cells, t->cap_cells * sizeof *t->cells);
    }
    struct cell *c = &t->cells[t->n_cells++];
    *c = (struct cell){.kind = kind};
    return c;
}

void table_missing(struct table *t) { next_cell(t, CELL_MISSING); }

void table_missing_as(struct table *t, const char *shown) { next_cell(t, CELL_MISSING)->text = str_dup(shown); }

void table_text(struct table *t, const char *text)
{
    struct cell *c = next_cell(t, text ? CELL_TEXT : CELL_MISSING);
    if (text) c->text = str_dup(text);
}

void table_int(struct table *t, int64_t value)
{
    struct cell *c = next_cell(t, CELL_INT);
    c->i = value;
    c->d = (double)value;
}

void table_real(struct table *t, double value)
{
    struct cell *c = next_cell(t, isnan(value) ? CELL_MISSING : CELL_REAL);
    c->d = value;
}

void table_real_as(struct table *t, double value, enum table_number number, int digits)
{
    table_real(t, value);
    struct cell *c = &t->cells[t->n_cells - 1];
    c->own = true;
    c->number = number;
    c->digits = digits;
}

void table_bool(struct table *t, bool value) { next_cell(t, CELL_BOOL)->i = value; }

void table_mark(struct table *t, const char *mark)
{
    struct cell *c = &t->cells[t->n_cells - 1];
    snprintf(c->mark, sizeof c->mark, "%s", mark);
}

void table_note(struct table *t, const char *text)
{
    t->notes = grow(t->notes, (t->n_notes + 1) * sizeof *t->notes);
    t->notes[t->n_notes++] = str_dup(text);
}

size_t table_rows(const struct table *t) { return t->n_columns ? t->n_cells / t->n_columns : 0; }
size_t table_columns(const struct table *t) { return t->n_columns; }

static const struct {
    const char *name;
    enum table_format format;
} formats[] = {{"terminal", TABLE_TERMINAL}, {"md", TABLE_MARKDOWN}, {"csv", TABLE_CSV},
               {"json", TABLE_JSON},         {"latex", TABLE_LATEX}, {"html", TABLE_HTML}};

enum status table_format_parse(const char *name, enum table_format *out)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(formats[i].name, name)) {
            *out = formats[i].format;
            return OK;
        }
    return fail(ERR_ARG, "format: found \"%s\", expected terminal, md, csv, json, latex or html", name);
}

const struct cell *cell_at(const struct table *t, size_t row, size_t column)
{
    return &t->cells[row * t->n_columns + column];
}

bool cell_is_number(const struct cell *c) { return c->kind == CELL_INT || c->kind == CELL_REAL; }

void cell_human(const struct table *t, size_t row, size_t column, struct str *out)
{
    const struct cell *c = cell_at(t, row, column);
    const struct table_column *k = &t->columns[column].c;
    switch (c->kind) {
    case CELL_MISSING: str_add(out, c->text ? c->text : "-"); break;
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

/* 0 differs, 1 all equal, 2 all missing */
static int constancy(const struct table *t, size_t column)
{
    struct str first = {0}, other = {0};
    int out = cell_at(t, 0, column)->kind == CELL_MISSING && !cell_at(t, 0, column)->text ? 2 : 1;
    cell_human(t, 0, column, &first);
    for (size_t r = 1; out && r < table_rows(t); r++) {
        str_reset(&other);
        cell_human(t, r, column, &other);
        if (strcmp(str_get(&first), str_get(&other)) || cell_at(t, r, column)->mark[0]) out = 0;
    }
    str_clear(&first);
    str_clear(&other);
    return out;
}

/* Marks columns as hidden; returns the line that replaces them. Columns that are missing everywhere vanish.
 */
static void hide_constant(struct table *t, bool wanted, struct str *line)
{
    size_t shown = t->n_columns, n = 0;
    for (size_t c = 0; c < t->n_columns; c++) t->columns[c].hidden = false;
    if (!wanted || table_rows(t) < 2) return;
    for (size_t c = 0; c < t->n_columns && shown > 1; c++) {
        int constant = constancy(t, c);
        if (!constant) continue;
        t->columns[c].hidden = true;
        shown--;
        if (constant == 2) continue;
        str_addf(line, "%s%s ", n++ ? ", " : "all rows: ", t->columns[c].name);
        cell_human(t, 0, c, line);
        if (t->columns[c].unit) str_addf(line, " %s", t->columns[c].unit);
    }
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

void text_printable(const char *text, struct str *out)
{
    for (const char *p = text; *p; p++) {
        if (*p == '\n') str_add(out, "⏎");
        else if ((unsigned char)*p < 0x20 || *p == 0x7f) str_add(out, "·");
        else str_add_char(out, *p);
    }
}

void table_render(struct table *t, enum table_format format, struct table_style style, struct str *out)
{
    struct str constant = {0};
    hide_constant(t, style.hide_constant && format != TABLE_CSV && format != TABLE_JSON, &constant);
    switch (format) {
    case TABLE_TERMINAL: render_terminal(t, style, str_get(&constant), out); break;
    case TABLE_MARKDOWN: render_markdown(t, str_get(&constant), out); break;
    case TABLE_CSV: render_csv(t, out); break;
    case TABLE_JSON: render_json(t, out); break;
    case TABLE_LATEX: render_latex(t, str_get(&constant), out); break;
    case TABLE_HTML: render_html(t, str_get(&constant), out); break;
    }
    str_clear(&constant);
}

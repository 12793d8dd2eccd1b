#include "reports/table_model.h"

#include "base/utf8.h"
#include "base/xmalloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct table *table_new(const char *title)
{
    struct table *t = xrealloc(NULL, sizeof *t);
    *t = (struct table){.title = title ? str_dup(title) : NULL};
    return t;
}

void table_link_csv(struct table *t, const char *path)
{
    free(t->csv);
    t->csv = str_dup(path);
}

const char *table_title(const struct table *t) { return t->title; }

void table_free(struct table **t)
{
    if (!*t) return;
    for (size_t i = 0; i < (*t)->n_cells; i++) {
        free((*t)->cells[i].text);
        free((*t)->cells[i].shown);
    }
    for (size_t i = 0; i < (*t)->n_columns; i++) {
        free((*t)->columns[i].name);
        free((*t)->columns[i].unit);
        free((*t)->columns[i].key);
    }
    for (size_t i = 0; i < (*t)->n_notes; i++) free((*t)->notes[i]);
    free((*t)->title);
    free((*t)->csv);
    free((*t)->cells);
    free((*t)->columns);
    free((*t)->notes);
    free(*t);
    *t = NULL;
}

/* "KL p99.9" becomes "kl_p99_9". */
static char *key_of(const char *name)
{
    struct str key = {0};
    for (const char *p = name; *p; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9');
        bool capital = *p >= 'A' && *p <= 'Z';
        if (plain || capital) str_add_char(&key, capital ? (char)(*p - 'A' + 'a') : *p);
        else if (key.len && key.data[key.len - 1] != '_') str_add_char(&key, '_');
    }
    while (key.len && key.data[key.len - 1] == '_') key.data[--key.len] = 0;
    char *out = str_dup(str_get(&key));
    str_clear(&key);
    return out;
}

void table_add_column(struct table *t, struct table_column column)
{
    t->columns = xrealloc(t->columns, (t->n_columns + 1) * sizeof *t->columns);
    t->columns[t->n_columns++] = (struct column){.c = column,
        .name = str_dup(column.name),
        .key = column.key ? str_dup(column.key) : key_of(column.name),
        .unit = column.unit && *column.unit ? str_dup(column.unit) : NULL};
}

static struct cell *next_cell(struct table *t, enum kind kind)
{
    if (t->n_cells == t->cap_cells) {
        t->cap_cells = t->cap_cells ? 2 * t->cap_cells : 64;
        t->cells = xrealloc(t->cells, t->cap_cells * sizeof *t->cells);
    }
    struct cell *c = &t->cells[t->n_cells++];
    *c = (struct cell){.kind = kind};
    return c;
}

void table_missing(struct table *t) { next_cell(t, CELL_MISSING); }

void table_show(struct table *t, const char *shown)
{
    struct cell *c = &t->cells[t->n_cells - 1];
    free(c->shown);
    c->shown = str_dup(shown);
}

void table_weight(struct table *t, int weight) { t->columns[t->n_columns - 1].c.weight = weight; }

void table_text(struct table *t, const char *text)
{
    struct cell *c = next_cell(t, text ? CELL_TEXT : CELL_MISSING);
    if (text) c->text = str_dup(text);
}

void table_keep_constant(struct table *t) { t->keep_constant = true; }

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
    t->notes = xrealloc(t->notes, (t->n_notes + 1) * sizeof *t->notes);
    t->notes[t->n_notes++] = str_dup(text);
}

static const struct {
    const char *name;
    enum table_format format;
} formats[] = {{"terminal", TABLE_TERMINAL}, {"md", TABLE_MARKDOWN}, {"csv", TABLE_CSV},
    {"json", TABLE_JSON}, {"jsonl", TABLE_JSONL}, {"latex", TABLE_LATEX}, {"html", TABLE_HTML}};

enum status table_format_parse(const char *name, enum table_format *out)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(formats[i].name, name)) {
            *out = formats[i].format;
            return OK;
        }
    return fail(ERR_ARG,
        "--format: found \"%s\", expected terminal, md, csv, json, jsonl, latex or html", name);
}

/* 0 differs, 1 all equal, 2 all missing */
static int constancy(const struct table *t, size_t column)
{
    struct str first = {0}, other = {0};
    int out = cell_at(t, 0, column)->kind == CELL_MISSING && !cell_at(t, 0, column)->shown ? 2 : 1;
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

/* The other end of an interval whose ends are columns side by side, "from" and "to"; the column
 * itself where it is no end. */
static size_t other_end(const struct table *t, size_t column)
{
    const char *name = t->columns[column].name;
    if (str_ends_with(name, "from") && column + 1 < t->n_columns) return column + 1;
    return !strcmp(name, "to") && column > 0 ? column - 1 : column;
}

/* Marks columns as hidden; returns the line that replaces them. Columns that are missing everywhere
 * vanish; an interval goes whole or not at all; where nothing but the rows' names would stay,
 * everything does. */
static void hide_constant(struct table *t, bool wanted, struct str *line)
{
    size_t shown = t->n_columns, n = 0;
    for (size_t c = 0; c < t->n_columns; c++) {
        t->columns[c].hidden = t->columns[c].c.audience == FOR_PROGRAMS;
        shown -= t->columns[c].hidden;
    }
    if (!wanted || t->keep_constant || table_rows(t) < 2) return;
    int *constant = xcalloc(t->n_columns, sizeof *constant);
    size_t stay = shown;
    for (size_t c = 0; c < t->n_columns; c++) {
        constant[c] = t->columns[c].hidden || !constancy(t, other_end(t, c)) ? 0 : constancy(t, c);
        stay -= constant[c] != 0;
    }
    for (size_t c = 0; c < t->n_columns && shown > 1; c++) {
        if (!constant[c] || (stay == 1 && constant[c] == 1)) continue;
        t->columns[c].hidden = true;
        shown--;
        if (constant[c] == 2) continue;
        const char *name = t->columns[c].name;
        str_addf(line, "%s", n++ ? ", " : "all rows: ");
        if (!strcmp(name, "from") && c > 0 && !constant[c - 1])
            str_addf(line, "%s ", t->columns[c - 1].name);
        str_addf(line, "%s ", name);
        cell_human(t, 0, c, line);
        if (t->columns[c].unit) str_addf(line, " %s", t->columns[c].unit);
    }
    free(constant);
}

void table_render(
    struct table *t, enum table_format format, struct table_style style, struct str *out)
{
    struct str constant = {0};
    size_t begin = out->len;
    hide_constant(t, style.hide_constant,
        &constant); /* renderers for programs do not ask what is hidden from people */
    switch (format) {
    case TABLE_TERMINAL: render_terminal(t, style, str_get(&constant), out); break;
    case TABLE_MARKDOWN: render_markdown(t, str_get(&constant), out); break;
    case TABLE_CSV: render_csv(t, out); break;
    case TABLE_JSON: render_json(t, out); break;
    case TABLE_JSONL: render_jsonl(t, out); break;
    case TABLE_LATEX: render_latex(t, str_get(&constant), out); break;
    case TABLE_HTML: render_html(t, str_get(&constant), out); break;
    }
    str_clear(&constant);
    utf8_repair_in(out, begin); /* names and paths may hold any bytes */
}

#include "reports/table.h"

#include "reports/junit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { CELL_MISSING, CELL_TEXT, CELL_INT, CELL_REAL, CELL_BOOL };

struct cell {
    enum kind kind;
    char *text;
    int64_t i;
    double d;
    bool own; /* shown by the next two instead of the column's */
    enum table_number number;
    int digits;
    char mark[8];
};

struct column {
    struct table_column c;
    char *name, *unit;
    bool hidden;
};

struct table {
    char *title;
    struct column *columns;
    size_t n_columns;
    struct cell *cells; /* row major */
    size_t n_cells, cap_cells;
    char **notes;
    size_t n_notes;
};

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
    t->columns[t->n_columns++] = (struct column){
        .c = column, .name = str_dup(column.name), .unit = column.unit && *column.unit ? str_dup(column.unit) : NULL};
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

static const struct cell *cell_at(const struct table *t, size_t row, size_t column)
{
    return &t->cells[row * t->n_columns + column];
}

static bool is_number(const struct cell *c) { return c->kind == CELL_INT || c->kind == CELL_REAL; }

/* A cell as people read it, without its mark. */
static void add_human(const struct table *t, size_t row, size_t column, struct str *out)
{
    const struct cell *c = cell_at(t, row, column);
    const struct table_column *k = &t->columns[column].c;
    switch (c->kind) {
    case CELL_MISSING: str_add(out, "-"); break;
    case CELL_TEXT: str_add(out, c->text); break;
    case CELL_BOOL: str_add(out, c->i ? "yes" : "no"); break;
    case CELL_REAL: number_format(c->own ? c->number : k->number, c->own ? c->digits : k->digits, c->d, out); break;
    case CELL_INT:
        if (k->number == NUMBER_BYTES)
            number_format(k->number, k->digits, c->d, out);
        else
            str_addf(out, "%lld", (long long)c->i);
        break;
    }
}

/* A cell as machines read it; a missing one is empty. */
static void add_exact(const struct cell *c, struct str *out)
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

static bool right_aligned(const struct table *t, size_t column)
{
    if (t->columns[column].c.align != ALIGN_AUTO) return t->columns[column].c.align == ALIGN_RIGHT;
    bool numbers = false;
    for (size_t r = 0; r < table_rows(t); r++) {
        const struct cell *c = cell_at(t, r, column);
        if (c->kind == CELL_TEXT || c->kind == CELL_BOOL) return false;
        numbers |= is_number(c);
    }
    return numbers;
}

/* 0 differs, 1 all equal, 2 all missing */
static int constancy(const struct table *t, size_t column)
{
    struct str first = {0}, other = {0};
    int out = cell_at(t, 0, column)->kind == CELL_MISSING ? 2 : 1;
    add_human(t, 0, column, &first);
    for (size_t r = 1; out && r < table_rows(t); r++) {
        str_reset(&other);
        add_human(t, r, column, &other);
        if (strcmp(str_get(&first), str_get(&other)) || cell_at(t, r, column)->mark[0]) out = 0;
    }
    str_clear(&first);
    str_clear(&other);
    return out;
}

/* Marks columns as hidden; returns the line that replaces them. Columns that are missing everywhere vanish. */
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
        add_human(t, 0, c, line);
        if (t->columns[c].unit) str_addf(line, " %s", t->columns[c].unit);
    }
}

static const char *better_mark(const struct column *c)
{
    return c->c.better == METRIC_HIGHER ? "↑" : c->c.better == METRIC_LOWER ? "↓" : NULL;
}

static void add_header(const struct column *c, struct str *out)
{
    str_add(out, c->name);
    if (c->unit) str_addf(out, " [%s]", c->unit);
    if (better_mark(c)) str_addf(out, " %s", better_mark(c));
}

/* Control characters would move the cursor or worse: shown as visible stand-ins. */
static void add_printable(const char *text, struct str *out)
{
    for (const char *p = text; *p; p++) {
        if (*p == '\n')
            str_add(out, "⏎");
        else if ((unsigned char)*p < 0x20 || *p == 0x7f)
            str_add(out, "·");
        else
            str_add_char(out, *p);
    }
}

/* A terminal gets a grid of texts of known widths. */

struct grid {
    char **texts; /* (rows + 1) x columns shown, the header first */
    size_t *index, *width; /* of the columns shown */
    bool *right;
    size_t rows, columns;
};

static struct grid grid_make(const struct table *t)
{
    struct grid g = {.rows = table_rows(t) + 1};
    g.index = grow(NULL, (t->n_columns + 1) * sizeof *g.index);
    g.width = grow(NULL, (t->n_columns + 1) * sizeof *g.width);
    g.right = grow(NULL, (t->n_columns + 1) * sizeof *g.right);
    for (size_t c = 0; c < t->n_columns; c++)
        if (!t->columns[c].hidden) g.index[g.columns++] = c;
    g.texts = grow(NULL, (g.rows * g.columns + 1) * sizeof *g.texts);
    struct str raw = {0}, text = {0};
    for (size_t k = 0; k < g.columns; k++) {
        g.right[k] = right_aligned(t, g.index[k]);
        g.width[k] = 0;
        for (size_t r = 0; r < g.rows; r++) {
            str_reset(&raw);
            str_reset(&text);
            if (r == 0) {
                add_header(&t->columns[g.index[k]], &raw);
            } else {
                add_human(t, r - 1, g.index[k], &raw);
                const char *mark = cell_at(t, r - 1, g.index[k])->mark;
                if (*mark) str_addf(&raw, " %s", mark);
            }
            add_printable(str_get(&raw), &text);
            g.texts[r * g.columns + k] = str_dup(str_get(&text));
            size_t w = text_columns(str_get(&text));
            if (w > g.width[k]) g.width[k] = w;
        }
    }
    str_clear(&raw);
    str_clear(&text);
    return g;
}

static void grid_free(struct grid *g)
{
    for (size_t i = 0; i < g->rows * g->columns; i++) free(g->texts[i]);
    free(g->texts);
    free(g->index);
    free(g->width);
    free(g->right);
}

/* Take columns from the widest left-aligned one until the line fits, down to 12 each. */
static void grid_fit(struct grid *g, size_t width)
{
    size_t total = 2 * (g->columns ? g->columns - 1 : 0);
    for (size_t k = 0; k < g->columns; k++) total += g->width[k];
    while (total > width) {
        size_t widest = g->columns;
        for (size_t k = 0; k < g->columns; k++)
            if (!g->right[k] && g->width[k] > 12 && (widest == g->columns || g->width[k] > g->width[widest])) widest = k;
        if (widest == g->columns) return;
        g->width[widest]--;
        total--;
    }
}

/* `text` in exactly `width` columns; cut texts end in "…". */
static void add_padded(const char *text, size_t width, bool right, bool pad_end, struct str *out)
{
    size_t w = text_columns(text);
    if (w > width) {
        struct str cut = {0};
        for (const char *p = text; *p;) {
            size_t len = 1;
            while ((p[len] & 0xc0) == 0x80) len++;
            struct str longer = {0};
            str_add(&longer, str_get(&cut));
            str_add_bytes(&longer, p, len);
            bool fits = text_columns(str_get(&longer)) < width;
            str_clear(&longer);
            if (!fits) break;
            str_add_bytes(&cut, p, len);
            p += len;
        }
        str_add(&cut, "…");
        add_padded(str_get(&cut), width, right, pad_end, out);
        str_clear(&cut);
        return;
    }
    if (right) str_addf(out, "%*s", (int)(width - w), "");
    str_add(out, text);
    if (!right && pad_end) str_addf(out, "%*s", (int)(width - w), "");
}

static const char *mark_color(const char *mark)
{
    return !strcmp(mark, "▲") ? "\033[32m" : !strcmp(mark, "▼") ? "\033[31m" : "";
}

static void render_terminal(const struct table *t, struct table_style style, const char *constant, struct str *out)
{
    const char *bold = style.color ? "\033[1m" : "", *dim = style.color ? "\033[2m" : "",
               *off = style.color ? "\033[0m" : "";
    if (t->title) str_addf(out, "%s%s%s\n", bold, t->title, off);
    if (*constant) str_addf(out, "%s%s%s\n", dim, constant, off);
    struct grid g = grid_make(t);
    if (style.width > 0) grid_fit(&g, (size_t)style.width);
    for (size_t r = 0; r < g.rows; r++) {
        if (r == 0) str_add(out, bold);
        for (size_t k = 0; k < g.columns; k++) {
            const char *mark = r && style.color ? cell_at(t, r - 1, g.index[k])->mark : "";
            const char *color = mark_color(mark);
            if (k) str_add(out, "  ");
            str_add(out, color);
            add_padded(g.texts[r * g.columns + k], g.width[k], g.right[k], k + 1 < g.columns, out);
            if (*color) str_add(out, off);
        }
        if (r == 0) str_add(out, off);
        str_add_char(out, '\n');
        if (r > 0) continue;
        for (size_t k = 0; k < g.columns; k++) {
            if (k) str_add(out, "  ");
            for (size_t i = 0; i < g.width[k]; i++) str_add(out, "─");
        }
        str_add_char(out, '\n');
    }
    for (size_t i = 0; i < t->n_notes; i++) str_addf(out, "%s\n", t->notes[i]);
    grid_free(&g);
}

static void add_markdown(const char *text, struct str *out)
{
    for (const char *p = text; *p; p++) {
        if (*p == '\n' || *p == '\r')
            str_add_char(out, ' ');
        else if (*p == '<')
            str_add(out, "&lt;");
        else {
            if (strchr("|\\`*_[", *p)) str_add_char(out, '\\');
            str_add_char(out, *p);
        }
    }
}

static void render_markdown(const struct table *t, const char *constant, struct str *out)
{
    struct str text = {0};
    if (t->title) {
        str_add(out, "**");
        add_markdown(t->title, out);
        str_add(out, "**\n\n");
    }
    if (*constant) {
        add_markdown(constant, out);
        str_add(out, "\n\n");
    }
    for (size_t line = 0; line < table_rows(t) + 2; line++) {
        str_add_char(out, '|');
        for (size_t c = 0; c < t->n_columns; c++) {
            if (t->columns[c].hidden) continue;
            str_reset(&text);
            if (line == 0) add_header(&t->columns[c], &text);
            else if (line > 1) add_human(t, line - 2, c, &text);
            if (line == 1) {
                str_add(out, right_aligned(t, c) ? " ---: |" : " --- |");
                continue;
            }
            str_add_char(out, ' ');
            add_markdown(str_get(&text), out);
            if (line > 1 && cell_at(t, line - 2, c)->mark[0]) str_addf(out, " %s", cell_at(t, line - 2, c)->mark);
            str_add(out, " |");
        }
        str_add_char(out, '\n');
    }
    for (size_t i = 0; i < t->n_notes; i++) {
        str_add_char(out, '\n');
        add_markdown(t->notes[i], out);
        str_add_char(out, '\n');
    }
    str_clear(&text);
}

static void add_csv(const char *text, struct str *out)
{
    if (!text[strcspn(text, ",\"\r\n")]) {
        str_add(out, text);
        return;
    }
    str_add_char(out, '"');
    for (const char *p = text; *p; p++) {
        if (*p == '"') str_add_char(out, '"');
        str_add_char(out, *p);
    }
    str_add_char(out, '"');
}

static void render_csv(const struct table *t, struct str *out)
{
    struct str text = {0};
    for (size_t r = 0; r < table_rows(t) + 1; r++) {
        for (size_t c = 0; c < t->n_columns; c++) {
            str_reset(&text);
            if (r == 0) str_add(&text, t->columns[c].name);
            else add_exact(cell_at(t, r - 1, c), &text);
            if (c) str_add_char(out, ',');
            add_csv(str_get(&text), out);
        }
        str_add(out, "\r\n");
    }
    str_clear(&text);
}

static void add_json_text(const char *text, struct str *out)
{
    str_add_char(out, '"');
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\')
            str_addf(out, "\\%c", *p);
        else if ((unsigned char)*p < 0x20)
            str_addf(out, "\\u%04x", (unsigned char)*p);
        else
            str_add_char(out, *p);
    }
    str_add_char(out, '"');
}

static void render_json(const struct table *t, struct str *out)
{
    str_add(out, "[");
    for (size_t r = 0; r < table_rows(t); r++) {
        str_add(out, r ? ",\n " : "\n ");
        for (size_t c = 0; c < t->n_columns; c++) {
            const struct cell *cell = cell_at(t, r, c);
            str_add(out, c ? ", " : "{");
            add_json_text(t->columns[c].name, out);
            str_add(out, ": ");
            if (cell->kind == CELL_TEXT)
                add_json_text(cell->text, out);
            else if (cell->kind == CELL_MISSING || (cell->kind == CELL_REAL && isinf(cell->d)))
                str_add(out, "null");
            else
                add_exact(cell, out);
        }
        str_add(out, "}");
    }
    str_add(out, "\n]\n");
}

static void add_latex(const char *text, struct str *out)
{
    static const struct {
        const char *from, *to;
    } signs[] = {{"↑", "$\\uparrow$"}, {"↓", "$\\downarrow$"}, {"▲", "$\\blacktriangle$"}, {"▼", "$\\blacktriangledown$"},
                 {"•", "$\\bullet$"},  {"\\", "\\textbackslash{}"}, {"~", "\\textasciitilde{}"},
                 {"^", "\\textasciicircum{}"}, {"<", "\\textless{}"}, {">", "\\textgreater{}"}, {"\n", " "}};
    for (const char *p = text; *p;) {
        size_t i = 0, n = sizeof signs / sizeof *signs;
        while (i < n && !str_starts_with(p, signs[i].from)) i++;
        if (i < n) {
            str_add(out, signs[i].to);
            p += strlen(signs[i].from);
            continue;
        }
        if (strchr("&%$#_{}", *p)) str_add_char(out, '\\');
        str_add_char(out, *p++);
    }
}

static void render_latex(const struct table *t, const char *constant, struct str *out)
{
    struct str text = {0};
    if (t->title) {
        str_add(out, "% ");
        add_printable(t->title, out);
        str_add(out, "; needs the packages booktabs and amssymb\n");
    }
    str_add(out, "\\begin{tabular}{");
    for (size_t c = 0; c < t->n_columns; c++)
        if (!t->columns[c].hidden) str_add_char(out, right_aligned(t, c) ? 'r' : 'l');
    str_add(out, "}\n\\toprule\n");
    for (size_t r = 0; r < table_rows(t) + 1; r++) {
        bool first = true;
        for (size_t c = 0; c < t->n_columns; c++) {
            if (t->columns[c].hidden) continue;
            str_reset(&text);
            if (r == 0) {
                add_header(&t->columns[c], &text);
            } else {
                add_human(t, r - 1, c, &text);
                if (cell_at(t, r - 1, c)->mark[0]) str_addf(&text, " %s", cell_at(t, r - 1, c)->mark);
            }
            if (!first) str_add(out, " & ");
            add_latex(str_get(&text), out);
            first = false;
        }
        str_add(out, r ? " \\\\\n" : " \\\\\n\\midrule\n");
    }
    str_add(out, "\\bottomrule\n\\end{tabular}\n");
    if (*constant) {
        str_add(out, "\\par\\smallskip\\footnotesize ");
        add_latex(constant, out);
        str_add_char(out, '\n');
    }
    for (size_t i = 0; i < t->n_notes; i++) {
        str_add(out, "\\par\\footnotesize ");
        add_latex(t->notes[i], out);
        str_add_char(out, '\n');
    }
    str_clear(&text);
}

static void render_html(const struct table *t, const char *constant, struct str *out)
{
    struct str text = {0};
    str_add(out, "<figure class=\"table\">");
    if (t->title) {
        str_add(out, "<figcaption>");
        xml_escape(t->title, out);
        str_add(out, "</figcaption>");
    }
    if (*constant) {
        str_add(out, "<p class=\"constant\">");
        xml_escape(constant, out);
        str_add(out, "</p>");
    }
    str_add(out, "<div class=\"scroll\"><table><thead><tr>");
    for (size_t c = 0; c < t->n_columns; c++) {
        if (t->columns[c].hidden) continue;
        str_add(out, right_aligned(t, c) ? "<th scope=\"col\" class=\"n\">" : "<th scope=\"col\">");
        str_reset(&text);
        add_header(&t->columns[c], &text);
        xml_escape(str_get(&text), out);
        str_add(out, "</th>");
    }
    str_add(out, "</tr></thead><tbody>\n");
    for (size_t r = 0; r < table_rows(t); r++) {
        str_add(out, "<tr>");
        for (size_t c = 0; c < t->n_columns; c++) {
            if (t->columns[c].hidden) continue;
            const struct cell *cell = cell_at(t, r, c);
            str_add(out, right_aligned(t, c) ? "<td class=\"n\"" : "<td");
            if (is_number(cell)) { /* what sorting goes by */
                str_add(out, " data-v=\"");
                add_exact(cell, out);
                str_add_char(out, '"');
            }
            str_add_char(out, '>');
            str_reset(&text);
            add_human(t, r, c, &text);
            xml_escape(str_get(&text), out);
            if (cell->mark[0])
                str_addf(out, " <span class=\"%s\">%s</span>",
                         !strcmp(cell->mark, "▲") ? "up" : !strcmp(cell->mark, "▼") ? "down" : "mark", cell->mark);
            str_add(out, "</td>");
        }
        str_add(out, "</tr>\n");
    }
    str_add(out, "</tbody></table></div>");
    for (size_t i = 0; i < t->n_notes; i++) {
        str_add(out, "<p class=\"note\">");
        xml_escape(t->notes[i], out);
        str_add(out, "</p>");
    }
    str_add(out, "</figure>\n");
    str_clear(&text);
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

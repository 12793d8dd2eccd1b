/* A terminal gets a grid of texts of known widths. What is too wide for it is made to fit in this
 * order: headings are wrapped, texts are wrapped, columns are left out by their weight and said to
 * be. Nothing is ever cut. */
#include "reports/table_model.h"

#include "base/utf8.h"
#include "base/xmalloc.h"

#include <stdlib.h>
#include <string.h>

enum {
    GAP = 2,
    COMFORT = 22,
    NARROWEST = 8
}; /* columns: between two, of a wrapped text, of one where room is short */

struct grid {
    char **texts;  /* (rows + 1) x columns, the header first */
    size_t *index; /* of the table's columns */
    size_t *full;  /* widths: of the widest cell and header … */
    size_t *least; /* … of what stays whole: the widest cell, or a word where the column is text;
                      the header's widest word */
    size_t *width; /* as it is printed */
    bool *right, *out; /* out: left out */
    size_t rows, columns;
};

static void text_add_for(const struct table_style *style, const char *text, struct str *out)
{
    if (style->ascii) text_ascii(text, out);
    else str_add(out, text);
}

static char *text_for(const struct table_style *style, const char *text)
{
    struct str raw = {0}, shown = {0};
    utf8_add_shown(&raw, text);
    text_add_for(style, str_get(&raw), &shown);
    char *out = str_dup(str_get(&shown));
    str_clear(&raw);
    str_clear(&shown);
    return out;
}

static char *grid_text(
    const struct table *t, size_t row, size_t column, const struct table_style *style)
{
    struct str raw = {0};
    if (row == 0) {
        column_header(&t->columns[column], &raw);
    } else {
        const char *mark = cell_at(t, row - 1, column)->mark;
        cell_human(t, row - 1, column, &raw);
        if (*mark) str_addf(&raw, " %s", mark);
    }
    char *out = text_for(style, str_get(&raw));
    str_clear(&raw);
    return out;
}

static size_t least_of(size_t a, size_t b) { return a < b ? a : b; }
static size_t most_of(size_t a, size_t b) { return a > b ? a : b; }

static struct grid grid_make(const struct table *t, const struct table_style *style)
{
    struct grid g = {.rows = table_rows(t) + 1};
    /* of a wrapped text; less where there is little of everything */
    size_t comfort = style->width > 0 ? least_of(COMFORT, (size_t)style->width / 4 + 2) : COMFORT;
    size_t n = t->n_columns + 1;
    g.index = xcalloc(n, sizeof *g.index);
    g.full = xcalloc(n, sizeof *g.full);
    g.least = xcalloc(n, sizeof *g.least);
    g.width = xcalloc(n, sizeof *g.width);
    g.right = xcalloc(n, sizeof *g.right);
    g.out = xcalloc(n, sizeof *g.out);
    for (size_t c = 0; c < t->n_columns; c++)
        if (!t->columns[c].hidden) g.index[g.columns++] = c;
    g.texts = xcalloc(g.rows * g.columns + 1, sizeof *g.texts);
    for (size_t k = 0; k < g.columns; k++) {
        g.right[k] = column_right(t, g.index[k]);
        for (size_t r = 0; r < g.rows; r++) {
            char *text = g.texts[r * g.columns + k] = grid_text(t, r, g.index[k], style);
            size_t columns = text_columns(text),
                   word = r && g.right[k] ? columns : text_widest_word(text);
            g.full[k] = most_of(g.full[k], columns);
            /* a long word of a text may be broken, one of a heading is not */
            g.least[k] =
                most_of(g.least[k], r ? (g.right[k] ? word : least_of(word, comfort)) : word);
        }
        if (!g.right[k]) g.least[k] = most_of(g.least[k], least_of(g.full[k], comfort));
        g.width[k] = g.full[k];
    }
    return g;
}

static void grid_free(struct grid *g)
{
    for (size_t i = 0; i < g->rows * g->columns; i++) free(g->texts[i]);
    free(g->texts);
    free(g->index);
    free(g->full);
    free(g->least);
    free(g->width);
    free(g->right);
    free(g->out);
}

static size_t grid_total(const struct grid *g, const size_t *widths)
{
    size_t total = 0, n = 0;
    for (size_t k = 0; k < g->columns; k++)
        if (!g->out[k]) total += widths[k] + (n++ ? GAP : 0);
    return total;
}

/* The column that goes next; 0, which never goes, when there is none. */
static size_t grid_lightest(const struct table *t, const struct grid *g)
{
    size_t found = 0;
    for (size_t k = 1; k < g->columns; k++) {
        if (g->out[k]) continue;
        if (!found || t->columns[g->index[k]].c.weight <= t->columns[g->index[found]].c.weight)
            found = k;
    }
    return found;
}

/* Widths that fit: all full; or every column at its least, and what room is left given back from
 * the left. */
static void grid_fit(const struct table *t, struct grid *g, size_t width)
{
    if (grid_total(g, g->full) <= width) return;
    for (size_t k; grid_total(g, g->least) > width && (k = grid_lightest(t, g));) g->out[k] = true;
    for (size_t k = 0; k < g->columns; k++) g->width[k] = g->least[k];
    size_t total = grid_total(g, g->width);
    for (size_t k = 0; k < g->columns && total > width;
         k++) { /* the first column alone is too wide */
        if (g->out[k] || g->right[k]) continue;
        size_t less =
            least_of(total - width, g->width[k] > NARROWEST ? g->width[k] - NARROWEST : 0);
        g->width[k] -= less;
        total -= less;
    }
    for (size_t k = 0; k < g->columns && total < width; k++) {
        if (g->out[k] || g->width[k] >= g->full[k]) continue;
        size_t more = least_of(width - total, g->full[k] - g->width[k]);
        g->width[k] += more;
        total += more;
    }
}

static const char *mark_color(const char *mark)
{
    return !strcmp(mark, "▲") ? "\033[32m" : !strcmp(mark, "▼") ? "\033[31m" : "";
}

/* The next line of a cell into `width` columns; *text moves on behind it. */
static void add_line(const char **text, size_t width, bool right, bool pad_end, struct str *out)
{
    size_t next, end = text_line(*text, width, &next);
    char *line = str_format("%.*s", (int)end, *text);
    size_t used = text_columns(line), pad = used < width ? width - used : 0;
    if (right) str_addf(out, "%*s", (int)pad, "");
    str_add(out, line);
    if (!right && pad_end) str_addf(out, "%*s", (int)pad, "");
    free(line);
    *text += next;
}

static void add_row(const struct table *t, const struct grid *g, size_t row,
    const struct table_style *style, struct str *out)
{
    const char **rest = xcalloc(g->columns + 1, sizeof *rest);
    size_t last = 0, lines = 0;
    for (size_t k = 0; k < g->columns; k++) {
        rest[k] = g->texts[row * g->columns + k];
        if (!g->out[k]) last = k;
    }
    for (bool more = true; more; lines++) {
        size_t begin = out->len;
        more = false;
        for (size_t k = 0; k < g->columns; k++) {
            if (g->out[k]) continue;
            const char *color =
                row && style->color ? mark_color(cell_at(t, row - 1, g->index[k])->mark) : "";
            if (k) str_addf(out, "%*s", GAP, "");
            str_add(out, color);
            add_line(&rest[k], g->width[k], g->right[k], k != last, out);
            if (*color) str_add(out, "\033[0m");
            more |= *rest[k] != 0;
        }
        if (lines) /* lines that continue a cell do not end in spaces */
            while (out->len > begin && out->data[out->len - 1] == ' ') out->data[--out->len] = 0;
        str_add_char(out, '\n');
    }
    free(rest);
}

static void add_rule(const struct grid *g, const struct table_style *style, struct str *out)
{
    for (size_t k = 0, n = 0; k < g->columns; k++) {
        if (g->out[k]) continue;
        if (n++) str_addf(out, "%*s", GAP, "");
        for (size_t i = 0; i < g->width[k]; i++) str_add(out, style->ascii ? "-" : "─");
    }
    str_add_char(out, '\n');
}

static void add_wrapped(
    const char *text, size_t indent, const struct table_style *style, struct str *out)
{
    struct str shown = {0};
    text_add_for(style, text, &shown);
    text_wrap(str_get(&shown), (size_t)(style->width > 0 ? style->width : 0), indent, out);
    str_add_char(out, '\n');
    str_clear(&shown);
}

/* What was left out is said, and where it is. */
static void add_left_out(const struct grid *g, const struct table_style *style, struct str *out)
{
    enum { MOST_NAMES = 10 };
    struct str text = {0};
    size_t n = 0;
    for (size_t k = 0; k < g->columns; k++)
        if (g->out[k] && n++ < MOST_NAMES)
            str_addf(&text, "%s%s", n > 1 ? ", " : "no room for: ", g->texts[k]);
    if (n > MOST_NAMES) str_addf(&text, " and %zu more", n - MOST_NAMES);
    if (n) {
        str_add(&text, " (a wider terminal, or --format csv)");
        add_wrapped(str_get(&text), 2, style, out);
    }
    str_clear(&text);
}

/* One row, a line for each column that has a value. */
static void add_upright(const struct grid *g, const struct table_style *style, const char *bold,
    const char *off, struct str *out)
{
    size_t names = 0;
    for (size_t k = 0; k < g->columns; k++) names = most_of(names, text_columns(g->texts[k]));
    for (size_t k = 0; k < g->columns; k++) {
        const char *value = g->texts[g->columns + k];
        if (strcmp(value, "-") == 0 || !*value) continue;
        struct str line = {0};
        str_addf(&line, "%s%s%s%*s  ", bold, g->texts[k], off,
            (int)(names - text_columns(g->texts[k])), "");
        if (style->width > 0 && (size_t)style->width > names + GAP + 20)
            text_wrap(value, (size_t)style->width - names - GAP, 0, &line);
        else str_add(&line, value);
        for (const char *p = str_get(&line); *p; p++) {
            str_add_char(out, *p);
            if (*p == '\n') str_addf(out, "%*s", (int)(names + GAP), "");
        }
        str_add_char(out, '\n');
        str_clear(&line);
    }
}

void render_terminal(
    const struct table *t, struct table_style style, const char *constant, struct str *out)
{
    const char *bold = style.color ? "\033[1m" : "", *dim = style.color ? "\033[2m" : "",
               *off = style.color ? "\033[0m" : "";
    if (t->title) {
        str_add(out, bold);
        add_wrapped(t->title, 2, &style, out);
        str_add(out, off);
    }
    if (*constant) {
        str_add(out, dim);
        add_wrapped(constant, 2, &style, out);
        str_add(out, off);
    }
    struct grid g = grid_make(t, &style);
    size_t width = style.width > 0 ? (size_t)style.width : (size_t)-1;
    if (g.rows == 2 && (style.upright || grid_total(&g, g.full) > width)) {
        add_upright(&g, &style, bold, off, out);
    } else {
        grid_fit(t, &g, width);
        str_add(out, bold);
        add_row(t, &g, 0, &style, out);
        str_add(out, off);
        add_rule(&g, &style, out);
        for (size_t r = 1; r < g.rows; r++) add_row(t, &g, r, &style, out);
        add_left_out(&g, &style, out);
    }
    for (size_t i = 0; i < t->n_notes; i++) add_wrapped(t->notes[i], 2, &style, out);
    grid_free(&g);
}

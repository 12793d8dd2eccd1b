#include "reports/table_model.h"

#include "base/utf8.h"
#include "base/xmalloc.h"

#include <stdlib.h>
#include <string.h>

/* A terminal gets a grid of texts of known widths. */

struct grid {
    char **texts;          /* (rows + 1) x columns shown, the header first */
    size_t *index, *width; /* of the columns shown */
    bool *right;
    size_t rows, columns;
};

static struct grid grid_make(const struct table *t)
{
    struct grid g = {.rows = table_rows(t) + 1};
    g.index = xmalloc((t->n_columns + 1) * sizeof *g.index);
    g.width = xmalloc((t->n_columns + 1) * sizeof *g.width);
    g.right = xmalloc((t->n_columns + 1) * sizeof *g.right);
    for (size_t c = 0; c < t->n_columns; c++)
        if (!t->columns[c].hidden) g.index[g.columns++] = c;
    g.texts = xmalloc((g.rows * g.columns + 1) * sizeof *g.texts);
    struct str raw = {0}, text = {0};
    for (size_t k = 0; k < g.columns; k++) {
        g.right[k] = column_right(t, g.index[k]);
        g.width[k] = 0;
        for (size_t r = 0; r < g.rows; r++) {
            str_reset(&raw);
            str_reset(&text);
            if (r == 0) {
                column_header(&t->columns[g.index[k]], &raw);
            } else {
                cell_human(t, r - 1, g.index[k], &raw);
                const char *mark = cell_at(t, r - 1, g.index[k])->mark;
                if (*mark) str_addf(&raw, " %s", mark);
            }
            utf8_add_shown(&text, str_get(&raw));
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
            if (!g->right[k] && g->width[k] > 12 &&
                (widest == g->columns || g->width[k] > g->width[widest]))
                widest = k;
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

void render_terminal(
    const struct table *t, struct table_style style, const char *constant, struct str *out)
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

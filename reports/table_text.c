#include "reports/table_model.h"

#include "base/utf8.h"

#include "reports/junit.h"

#include <math.h>
#include <string.h>

void markdown_escape(const char *text, struct str *out)
{
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) str_add_char(out, ' ');
        else if (*p == '<') str_add(out, "&lt;");
        else {
            if (strchr("|\\`*_[", *p)) str_add_char(out, '\\');
            str_add_char(out, *p);
        }
    }
}

void render_markdown(const struct table *t, const char *constant, struct str *out)
{
    struct str text = {0};
    if (t->title) {
        str_add(out, "**");
        markdown_escape(t->title, out);
        str_add(out, "**\n\n");
    }
    if (*constant) {
        markdown_escape(constant, out);
        str_add(out, "\n\n");
    }
    for (size_t line = 0; line < table_rows(t) + 2; line++) {
        str_add_char(out, '|');
        for (size_t c = 0; c < t->n_columns; c++) {
            if (t->columns[c].hidden) continue;
            str_reset(&text);
            if (line == 0) column_header(&t->columns[c], &text);
            else if (line > 1) cell_human(t, line - 2, c, &text);
            if (line == 1) {
                str_add(out, column_right(t, c) ? " ---: |" : " --- |");
                continue;
            }
            str_add_char(out, ' ');
            markdown_escape(str_get(&text), out);
            if (line > 1 && cell_at(t, line - 2, c)->mark[0])
                str_addf(out, " %s", cell_at(t, line - 2, c)->mark);
            str_add(out, " |");
        }
        str_add_char(out, '\n');
    }
    for (size_t i = 0; i < t->n_notes; i++) {
        str_add_char(out, '\n');
        markdown_escape(t->notes[i], out);
        str_add_char(out, '\n');
    }
    str_clear(&text);
}

static void add_latex(const char *text, struct str *out)
{
    static const struct {
        const char *from, *to;
    } signs[] = {{"↑", "$\\uparrow$"}, {"↓", "$\\downarrow$"}, {"▲", "$\\blacktriangle$"},
        {"▼", "$\\blacktriangledown$"}, {"•", "$\\bullet$"}, {"\\", "\\textbackslash{}"},
        {"~", "\\textasciitilde{}"}, {"^", "\\textasciicircum{}"}, {"<", "\\textless{}"},
        {">", "\\textgreater{}"}};
    for (const char *p = text; *p;) {
        size_t i = 0, n = sizeof signs / sizeof *signs;
        while (i < n && !str_starts_with(p, signs[i].from)) i++;
        if (i < n) {
            str_add(out, signs[i].to);
            p += strlen(signs[i].from);
            continue;
        }
        if (strchr("&%$#_{}", *p)) str_add_char(out, '\\');
        str_add_char(out, (unsigned char)*p < 0x20 || *p == 0x7f ? ' ' : *p);
        p++;
    }
}

void render_latex(const struct table *t, const char *constant, struct str *out)
{
    struct str text = {0};
    if (t->title) {
        str_add(out, "% ");
        utf8_add_shown(out, t->title);
        str_add(out, "; needs the packages booktabs and amssymb\n");
    }
    str_add(out, "\\begin{tabular}{");
    for (size_t c = 0; c < t->n_columns; c++)
        if (!t->columns[c].hidden) str_add_char(out, column_right(t, c) ? 'r' : 'l');
    str_add(out, "}\n\\toprule\n");
    for (size_t r = 0; r < table_rows(t) + 1; r++) {
        bool first = true;
        for (size_t c = 0; c < t->n_columns; c++) {
            if (t->columns[c].hidden) continue;
            str_reset(&text);
            if (r == 0) {
                column_header(&t->columns[c], &text);
            } else {
                cell_human(t, r - 1, c, &text);
                if (cell_at(t, r - 1, c)->mark[0])
                    str_addf(&text, " %s", cell_at(t, r - 1, c)->mark);
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

void render_html(const struct table *t, const char *constant, struct str *out)
{
    struct str text = {0};
    str_add(out, "<figure class=\"table\">");
    if (t->title || t->csv) {
        str_add(out, "<figcaption>");
        xml_escape(t->title ? t->title : "", out);
        if (t->csv) {
            str_add(out, " <a href=\"");
            xml_escape(t->csv, out);
            str_add(out, "\">CSV</a>");
        }
        str_add(out, "</figcaption>");
    }
    if (*constant) {
        str_add(out, "<p class=\"constant\">");
        xml_escape(constant, out);
        str_add(out, "</p>");
    }
    str_add(out, "<div class=\"scroll\" tabindex=\"0\"");
    if (t->title) {
        str_add(out, " role=\"group\" aria-label=\"");
        xml_escape(t->title, out);
        str_add_char(out, '"');
    }
    str_add(out, "><table><thead><tr>");
    for (size_t c = 0; c < t->n_columns; c++) {
        if (t->columns[c].hidden) continue;
        str_add(out, column_right(t, c) ? "<th scope=\"col\" class=\"n\">" : "<th scope=\"col\">");
        str_reset(&text);
        column_header(&t->columns[c], &text);
        xml_escape(str_get(&text), out);
        str_add(out, "</th>");
    }
    str_add(out, "</tr></thead><tbody>\n");
    for (size_t r = 0; r < table_rows(t); r++) {
        str_add(out, "<tr>");
        for (size_t c = 0; c < t->n_columns; c++) {
            if (t->columns[c].hidden) continue;
            const struct cell *cell = cell_at(t, r, c);
            str_add(out, column_right(t, c) ? "<td class=\"n\"" : "<td");
            if (cell_is_number(cell)) { /* what sorting goes by */
                str_add(out, " data-v=\"");
                cell_exact(cell, out);
                str_add_char(out, '"');
            }
            str_add_char(out, '>');
            str_reset(&text);
            cell_human(t, r, c, &text);
            xml_escape(str_get(&text), out);
            if (cell->mark[0])
                str_addf(out, "&nbsp;<span class=\"%s\">%s</span>",
                    !strcmp(cell->mark, "▲")       ? "up"
                        : !strcmp(cell->mark, "▼") ? "down"
                                                   : "mark",
                    cell->mark);
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

/* Tables as programs read them: full numbers, snake-case keys, every column, nothing that is only
 * for people. */
#include "base/utf8.h"
#include "reports/table_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Texts as a terminal shows them: a table is printed into logs, too, where a line that somebody's
 * name begins may be a command. JSON has them exact. */
static void add_csv(const char *text, struct str *out)
{
    char *shown = utf8_shown(text);
    bool quoted = shown[strcspn(shown, ",\"")];
    if (quoted) str_add_char(out, '"');
    for (const char *p = shown; *p; p++) {
        if (*p == '"') str_add_char(out, '"');
        str_add_char(out, *p);
    }
    if (quoted) str_add_char(out, '"');
    free(shown);
}

void render_csv(const struct table *t, struct str *out)
{
    struct str text = {0};
    for (size_t r = 0; r < table_rows(t) + 1; r++) {
        for (size_t c = 0, n = 0; c < t->n_columns; c++) {
            if (t->columns[c].c.audience == FOR_PEOPLE) continue;
            str_reset(&text);
            if (r == 0) str_add(&text, t->columns[c].key);
            else cell_exact(cell_at(t, r - 1, c), &text);
            if (n++) str_add_char(out, ',');
            add_csv(str_get(&text), out);
        }
        str_add(out, "\r\n");
    }
    str_clear(&text);
}

void json_text_add(const char *text, struct str *out)
{
    str_add_char(out, '"');
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\') str_addf(out, "\\%c", *p);
        else if ((unsigned char)*p < 0x20) str_addf(out, "\\u%04x", (unsigned char)*p);
        else str_add_char(out, *p);
    }
    str_add_char(out, '"');
}

void table_row_json(const struct table *t, size_t row, const char *name, struct str *out)
{
    size_t n = 0;
    str_add_char(out, '{');
    if (name) {
        str_add(out, "\"table\": ");
        json_text_add(name, out);
        n++;
    }
    for (size_t c = 0; c < t->n_columns; c++) {
        const struct cell *cell = cell_at(t, row, c);
        if (t->columns[c].c.audience == FOR_PEOPLE) continue;
        if (n++) str_add(out, ", ");
        json_text_add(t->columns[c].key, out);
        str_add(out, ": ");
        if (cell->kind == CELL_TEXT) json_text_add(cell->text, out);
        else if (cell->kind == CELL_MISSING || (cell->kind == CELL_REAL && isinf(cell->d)))
            str_add(out, "null");
        else cell_exact(cell, out);
    }
    str_add_char(out, '}');
}

void render_json(const struct table *t, struct str *out)
{
    str_add(out, "[");
    for (size_t r = 0; r < table_rows(t); r++) {
        str_add(out, r ? ",\n " : "\n ");
        table_row_json(t, r, NULL, out);
    }
    str_add(out, "\n]\n");
}

void render_jsonl(const struct table *t, struct str *out)
{
    for (size_t r = 0; r < table_rows(t); r++) {
        table_row_json(t, r, NULL, out);
        str_add_char(out, '\n');
    }
}

/* What a table holds, for the files that render it; others use reports/table.h. */
#ifndef SG_REPORTS_TABLE_MODEL_H
#define SG_REPORTS_TABLE_MODEL_H

#include "reports/table.h"

enum kind { CELL_MISSING, CELL_TEXT, CELL_INT, CELL_REAL, CELL_BOOL };

struct cell {
    enum kind kind;
    char *text, *shown; /* shown: what people read instead; NULL: the same */
    int64_t i;
    double d;
    bool own; /* shown by the next two instead of the column's */
    enum table_number number;
    int digits;
    char mark[8];
};

struct column {
    struct table_column c;
    char *name, *unit, *key;
    bool hidden;
};

struct table {
    char *title, *csv;
    bool keep_constant;
    struct column *columns;
    size_t n_columns;
    struct cell *cells; /* row major */
    size_t n_cells, cap_cells;
    char **notes;
    size_t n_notes;
};

/* The cell of a row and column. */
const struct cell *cell_at(const struct table *t, size_t row, size_t column);
/* A cell as people read it, without its mark; appended. */
void cell_human(const struct table *t, size_t row, size_t column, struct str *out);
/* A cell as machines read it, a missing one empty; appended. */
void cell_exact(const struct cell *c, struct str *out);
bool cell_is_number(const struct cell *c);
bool column_right(const struct table *t, size_t column);
/* Name, unit and arrow; appended. */
void column_header(const struct column *c, struct str *out);

/* `constant`: the line that stands for hidden columns, "" without. */
void render_terminal(
    const struct table *t, struct table_style style, const char *constant, struct str *out);
void render_markdown(const struct table *t, const char *constant, struct str *out);
void render_csv(const struct table *t, struct str *out);
void render_json(const struct table *t, struct str *out);
void render_jsonl(const struct table *t, struct str *out);
void render_latex(const struct table *t, const char *constant, struct str *out);
void render_html(const struct table *t, const char *constant, struct str *out);

#endif

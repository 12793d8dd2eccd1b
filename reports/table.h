/* A table of typed cells, rendered for people (a terminal, Markdown, LaTeX, HTML) and for programs
 * (CSV, JSON, JSON lines): one table of columns drives them all. */
#ifndef SG_REPORTS_TABLE_H
#define SG_REPORTS_TABLE_H

#include "base/str.h"
#include "base/text.h"
#include "results/records.h"

/* How a column's numbers are shown to people; CSV and JSON always get the full number. */
enum table_number {
    NUMBER_FIXED,   /* `digits` behind the point */
    NUMBER_SHORT,   /* `digits` significant ones */
    NUMBER_PERCENT, /* 0.31 -> 31.0 %, `digits` behind the point */
    NUMBER_BYTES,   /* 1.5 GiB */
    NUMBER_SECONDS, /* 1.2 ms */
};

enum table_audience { FOR_ALL, FOR_PEOPLE, FOR_PROGRAMS };
enum table_align { ALIGN_AUTO, ALIGN_LEFT, ALIGN_RIGHT }; /* auto: numbers right, texts left */

struct table_column {
    const char *name, *unit; /* unit NULL without; both copied */
    enum table_number number;
    int digits;
    enum metric_better better; /* shown as an arrow behind the name where people read */
    enum table_align align;
    const char *key; /* the name for programs: snake case, that of the database's views where they
                        have it; NULL: made from `name`. Copied */
    int weight; /* terminal: where the width is not enough the lightest columns go, of equal ones
                   the rightmost; the first column stays */
    enum table_audience audience;
};

struct table; /* opaque */

struct table *table_new(const char *title); /* title NULL without */
void table_free(struct table **t);
void table_add_column(struct table *t, struct table_column column);
/* Of the column added last. */
void table_weight(struct table *t, int weight);
/* Cells go in row by row, left to right; a full row starts the next. Texts are copied. */
void table_text(struct table *t, const char *text); /* NULL = missing */
void table_int(struct table *t, int64_t value);
void table_real(struct table *t, double value); /* NAN = missing */
/* The same, shown in its own way instead of the column's. */
void table_real_as(struct table *t, double value, enum table_number number, int digits);
void table_bool(struct table *t, bool value);
void table_missing(struct table *t);
/* People read this instead of the last cell's value: "> 4096" of a number that is missing, "right"
 * of a truth. */
void table_show(struct table *t, const char *shown);
/* Put a mark behind the last cell (people's formats only), e.g. "▲". */
void table_mark(struct table *t, const char *mark);
/* A file with the same table, linked beside the title of its HTML. */
void table_link_csv(struct table *t, const char *path);
/* Columns with one value in all rows stay columns. */
void table_keep_constant(struct table *t);
/* A line below the table. */
void table_note(struct table *t, const char *text);
const char *table_title(const struct table *t); /* NULL without */
size_t table_rows(const struct table *t);

enum table_format {
    TABLE_TERMINAL,
    TABLE_MARKDOWN,
    TABLE_CSV,
    TABLE_JSON,
    TABLE_JSONL,
    TABLE_LATEX,
    TABLE_HTML
};
/* "terminal", "md", "csv", "json", "jsonl", "latex", "html"; ERR_ARG lists them. */
enum status table_format_parse(const char *name, enum table_format *out) MUST_USE;

struct table_style {
    bool hide_constant; /* columns with one value in all rows (2 or more) become one line above */
    bool color;         /* terminal only: ANSI colours */
    bool ascii;         /* terminal only: no sign beyond ASCII */
    int width; /* terminal only: texts are wrapped, then columns left out, to fit; one row that does
                  not fit stands upright; 0 = as wide as it is */
    bool upright; /* terminal only: one row stands upright in any case */
};
/* Appends. A missing cell is "-" for people, empty in CSV, null in JSON. */
void table_render(
    struct table *t, enum table_format format, struct table_style style, struct str *out);
/* One row as a JSON object, {"table": name, …} with a name; appended. */
void table_row_json(const struct table *t, size_t row, const char *name, struct str *out);
/* `text` as a JSON string; appended. */
void json_text_add(const char *text, struct str *out);

/* One number as people read it in a column of this kind; appended. */
void number_format(enum table_number number, int digits, double value, struct str *out);

/* A text as words of a Markdown paragraph or heading, on one line; appended. */
void markdown_escape(const char *text, struct str *out);

#endif

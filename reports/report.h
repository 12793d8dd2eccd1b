/* A report directory in one call: page, pictures, tables. */
#ifndef SG_REPORTS_REPORT_H
#define SG_REPORTS_REPORT_H

#include "reports/html.h"
#include "reports/plot.h"

/* Runs are named as for query_run(), or by a before/after JSON file (it ends in ".json"). */
struct report_options {
    const char *dir;      /* made when missing */
    const char *title;    /* NULL = made from the model's name */
    const char *run;      /* what the page is about; NULL: `plan`, or else "last" */
    const char *baseline; /* run to compare with ("before"); NULL = none, the page shows the subject
                             alone */
    const char *plan;     /* a sweep: the page is about all of its runs; NULL without */
    const char *const *runs; /* or about these, two or more; NULL without */
    size_t n_runs;
    const char *db; /* the database's path as shown beside the pictures' SQL; NULL = not shown */
    const char *argv_line;
    bool no_png;
    /* told behind every picture that was drawn or could not be, of so many at most; may be NULL */
    void (*watch)(void *ctx, size_t drawn, size_t most);
    void *watch_ctx;
    const struct gate_check *checks;
    size_t n_checks;
    const struct curve_set
        *curves; /* of one head, decoded by who knows their layout; NULL without */
};

/* Writes DIR/index.html, DIR/report.md, DIR/runs.csv, DIR/tables/ and DIR/pictures/. s may be NULL
 * where files alone are named. Pictures that want a gnuplot that is not there are explained in
 * *notes (one a line, appended); one that could not be drawn fails the report when all else is
 * written. */
enum status report_write(
    struct store *s, const struct report_options *o, struct str *notes) MUST_USE;

/* The run that a page about `plan` shows in detail: its row number as text into name. ERR_ARG
 * without a done run. */
enum status report_choice(struct store *s, const char *plan, char name[24]) MUST_USE;
/* The plan that a page without a subject is about: that of the newest run, when it has several
 * settings. *plan is NULL otherwise; the caller frees it. */
enum status report_plan(struct store *s, char **plan) MUST_USE;

#endif

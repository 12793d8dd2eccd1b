/* A report directory in one call: page, pictures, tables. */
#ifndef SG_REPORTS_REPORT_H
#define SG_REPORTS_REPORT_H

#include "reports/html.h"
#include "reports/plot.h"

struct report_options {
    const char *dir;   /* made when missing */
    const char *title; /* NULL = made from the model's name */
    const char *run;   /* subject, as for query_run; NULL = "last" */
    /* run to compare with ("before"); NULL = none, the page shows the subject alone */
    const char *baseline;
    /* the database's path as shown beside the pictures' SQL; NULL = not shown */
    const char *db;
    const char *argv_line;
    bool no_png;
    const struct gate_check *checks;
    size_t n_checks;
    /* of one head, decoded by who knows their layout; n_curves 0 without */
    const struct error_curve *curves;
    size_t n_curves;
    const char *curves_title;
    double curves_bound;
};

/* Writes DIR/index.html, DIR/report.md, DIR/runs.csv and DIR/pictures/. The pictures that could not
 * be drawn are explained in *notes (one a line, appended), they do not fail the report. */
enum status report_write(
    struct store *s, const struct report_options *o, struct str *notes) MUST_USE;

#endif

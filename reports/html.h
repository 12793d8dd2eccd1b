/* One self-contained page: what was lost, where, is it noise, what to do; then pictures and tables,
 * and what everything stands on. No network, works from a file, on a phone, in the dark and on
 * paper. */
#ifndef SG_REPORTS_HTML_H
#define SG_REPORTS_HTML_H

#include "reports/answers.h"
#include "reports/compare.h"
#include "reports/junit.h"
#include "reports/view.h"

struct html_picture {
    const char *svg_path; /* put into the page */
    const char *caption;
    const char *section; /* "layers", "changed", "sweep", "why", "speed" */
    bool small; /* one of several that stand in a row under `caption` when theirs are equal */
};

struct html_input {
    const char *title;
    const struct run_view *const *views; /* the first is the subject; at least one */
    size_t n_views;
    const struct comparison *comparison; /* NULL without */
    const struct run_list
        *runs; /* all that belong together, for the tables of runs; NULL without */
    const struct run_axes *sweep;  /* of `runs`: the page is about them, the subject is what they
                                      offer; NULL: about the subject */
    struct table *const *contests; /* methods at equal sparsity, of a sweep; [n_contests] */
    size_t n_contests;
    const size_t *cells; /* by enum cell_state, of the sweep's plan; NULL without */
    const struct run_list
        *same_data; /* runs on the subject's tokens, for what they tell of causes; NULL without */
    const struct gate_check *checks;
    size_t n_checks;
    const struct html_picture *pictures;
    size_t n_pictures;
    const char *const *notes; /* what is not shown, and why; NULL-terminated, NULL without */
    const char *tables_dir;   /* every table also goes there as CSV, linked from the page as
                                 tables/NAME.csv; NULL: no */
    const char *db;           /* that the runs are in; NULL without */
    const char *argv_line;    /* command that made the report; NULL without */
};

enum status html_page(const struct html_input *in, struct str *out) MUST_USE;

#endif

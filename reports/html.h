/* One self-contained page: verdict, what changed, why, provenance. No network, works from a file,
 * on a phone and in dark mode. */
#ifndef SG_REPORTS_HTML_H
#define SG_REPORTS_HTML_H

#include "reports/compare.h"
#include "reports/junit.h"
#include "reports/view.h"

struct html_picture {
    const char *svg_path; /* put into the page */
    const char *caption;
    const char *section; /* "changed", "why", "speed" */
};

struct html_input {
    const char *title;
    const struct run_view *const *views; /* the first is the subject; at least one */
    size_t n_views;
    const struct comparison *comparison; /* NULL without */
    /* all that belong together, for the tables of runs; NULL without */
    const struct run_list *runs;
    /* runs on the subject's tokens, for what they tell of causes; NULL without */
    const struct run_list *same_data;
    const struct gate_check *checks;
    size_t n_checks;
    const struct html_picture *pictures;
    size_t n_pictures;
    const char *argv_line; /* command that made the report; NULL without */
};

enum status html_page(const struct html_input *in, struct str *out) MUST_USE;

#endif

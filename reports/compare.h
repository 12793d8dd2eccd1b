/* Two runs of the same model on the same tokens, metric by metric. */
#ifndef SG_REPORTS_COMPARE_H
#define SG_REPORTS_COMPARE_H

#include "reports/table.h"
#include "reports/view.h"

enum change { CHANGE_UNKNOWN, CHANGE_SAME, CHANGE_BETTER, CHANGE_WORSE, CHANGE_OTHER };
/* "•" "=" "▲" "▼" "≠": better and worse are told apart without colour. Unknown: it differs, and no
 * interval says whether that is noise; other: it changed, and neither direction is the better one.
 */
const char *change_mark(enum change change);

struct compare_row {
    const char *name, *label, *unit;
    enum metric_better better;
    double before, after;
    double difference, ratio; /* after - before, after / before */
    double lo, hi; /* 95 % interval of the difference, paired by sample; NAN: the table says why */
    /* smallest difference this comparison would notice (alpha .05, power .8); NAN */
    double detectable;
    double floor;       /* noise floor that applies; NAN when none was measured */
    enum change change; /* same: equal, within the floor, or the interval holds 0 */
    bool within_floor;
};

struct compare_setting {
    const char *name, *before, *after, *key; /* name: for people; key: its column */
};

struct comparison {
    struct compare_row *rows;
    size_t n_rows;
    struct compare_setting *settings; /* those that differ */
    size_t n_settings;
    char *before_label, *after_label;
    /* "other arithmetic (…), …" of two results of one question; NULL when it is the same */
    char *arithmetic;
    char *places; /* see tasks_places(); NULL: questions do not move */
    char *forced; /* what was different and forced, NULL when nothing */
    size_t n_paired_samples;
    struct arena *arena;
};

struct compare_options {
    bool force; /* compare in spite of other tokens or models; said in the output */
    const struct noise_list *floors; /* NULL without */
    /* put behind a refusal that `force` would lift; NULL where nobody can set it */
    const char *or_else;
};

/* ERR_ARG naming the field when model or tokens differ and force is not set, or the side that holds
 * no metrics. */
enum status compare_runs(struct comparison *c, const struct run_view *before,
    const struct run_view *after, const struct compare_options *o) MUST_USE;
void comparison_clear(struct comparison *c);

/* The largest of a metric's floors; NAN when none was measured. floors may be NULL. */
double noise_floor(const struct noise_list *floors, const char *metric);

struct table *comparison_table(const struct comparison *c, bool only_changed);
struct table *comparison_settings_table(const struct comparison *c);
/* What changed beyond noise, by how much, and the guide's band before and after; appended. */
void comparison_verdict(const struct comparison *c, struct str *out);

#endif

/* What varies in a list of runs: the axes of a sweep, found in the runs themselves. */
#ifndef SG_REPORTS_AXES_H
#define SG_REPORTS_AXES_H

#include "base/str.h"
#include "results/query.h"

struct column;

enum { MAX_AXES = 16, MAX_LEVELS = 64 };

/* A setting in which done runs differ (two levels or more; runs it does not apply to have none), or
 * their data. Numbers ascend, layer ranges by their first layer, texts as they came. */
struct run_axis {
    const struct column *column; /* of run_columns; NULL: the data set */
    const char *name;            /* for people */
    bool is_number;
    const struct run_record *level[MAX_LEVELS]; /* a run that has it */
    size_t n;
    bool cut; /* there were more levels */
};

struct run_axes {
    struct run_axis at[MAX_AXES];
    size_t n;
    const struct run_list *runs; /* borrowed */
};

/* Repetitions and hashes are no axes. A data set is one only where its
 * length does not say it. */
void run_axes_find(const struct run_list *runs, struct run_axes *out);
/* NULL: the runs do not differ in it. */
const struct run_axis *run_axes_get(const struct run_axes *a, const char *name);
/* Its level, -1: it has none. */
int run_axis_level(const struct run_axis *a, const struct run_record *r);
/* The value for people, short; appended. */
void run_axis_value(const struct run_axis *a, const struct run_record *r, struct str *out);
/* Does y say nothing that x does not: one level of it for each of x's (pv_l1 as l1+.01)? */
bool run_axis_follows(const struct run_axes *a, const struct run_axis *y, const struct run_axis *x);
/* Equal on every axis but one or two (NULL: none)? */
bool run_axes_same(const struct run_axes *a, const struct run_record *x, const struct run_record *y,
    const struct run_axis *but, const struct run_axis *nor);

/* "tuned l1, l1 0.06, pv_l1 0.07, layers 4-7, length 2048": how it computes attention, then every
 * axis but those given. Two runs of the list that differ in settings never share one. Appended. */
void run_axes_label(const struct run_axes *a, const struct run_record *r,
    const struct run_axis *but, const struct run_axis *nor, struct str *out);
/* How many methods, with their rules, done runs have. */
size_t run_methods(const struct run_list *runs);
/* Method and rule: what is one series of a picture. Appended. */
void run_method_name(const struct run_record *r, struct str *out);

#endif

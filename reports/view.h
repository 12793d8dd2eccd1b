/* One run with all its rows, from a database or from a before/after JSON file: what reports work
 * on. */
#ifndef SG_REPORTS_VIEW_H
#define SG_REPORTS_VIEW_H

#include "results/estimates.h"
#include "results/query.h"

struct run_view {
    const struct run_record *run; /* points into `runs` */
    const char *label;            /* "run 12" or the file's name; owned by `runs` */
    bool from_file;               /* then ledger, layer errors, tokens and masks are empty */
    struct run_list runs;
    struct metric_list metrics;
    struct sample_list samples;
    struct tail_list tails;
    struct ledger_list ledger;
    struct layer_error_list layer_errors;
    struct item_list items;
    struct generation_list generations;
    struct latency_list latencies;
    struct worst_token_list worst_tokens;
    struct mask_list masks;
    struct tuned_list tuned; /* 0 or 1 rows */
};

/* name as for query_run. */
enum status run_view_load(struct run_view *v, struct store *s, const char *name) MUST_USE;
void run_view_clear(struct run_view *v);

/* Mean of the metric `name` of scope "overall"; NAN when it is not there. */
double run_view_metric(const struct run_view *v, const char *name);

/* What its estimates are made from. */
struct estimate_source run_view_source(const struct run_view *v);

/* "sparge 128x64 l1=0.06 pv_l1=0.07 layers=16-31": the settings in one line, appended to out. */
void run_describe(const struct run_record *r, struct str *out);

/* What a picture calls it: "untuned", "tuned l1 0.04", "oracle 0.57", "window 256"; appended. */
void run_short_name(const struct run_record *r, struct str *out);

/* Are two runs the same configuration, whatever the data? */
bool run_same_configuration(const struct run_record *a, const struct run_record *b);

#endif

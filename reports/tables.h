/* The tables that commands print, from rows of a database. The caller frees them with table_free().
 */
#ifndef SG_REPORTS_TABLES_H
#define SG_REPORTS_TABLES_H

#include "reports/table.h"
#include "reports/view.h"

/* One row a run: settings and headline numbers (`list`, sweeps; render with hide_constant). */
struct table *runs_table(const struct run_list *runs);
/* A sweep's runs: what decides first, then the settings that vary, then the rest. `choice`:
 * SIZE_MAX without. */
struct run_axes;
struct table *sweep_table(const struct run_axes *axes, size_t choice);
/* One row a configuration, its runs on several data sets side by side: what a page shows of a plan.
 * Dense first, then in order of storing; quality from the runs on `subject`'s data, the share of
 * right answers of every data set that asks questions. `*` marks the subject. */
struct table *methods_table(const struct run_list *runs, const struct run_record *subject);
/* Non-dominated points with the knee marked, or all of them. */
/* The smallest change of a run's cosine, KL or perplexity ratio that an unpaired repetition on as
 * many other texts would show (alpha .05, power .8), from the run's interval; NAN without one. */
double run_detectable(const struct run_record *r, enum frontier_axis axis);
struct table *frontier_table(const struct run_list *runs, const struct frontier_point *points,
    size_t n, enum frontier_axis axis, bool with_dominated);
/* Overall metrics of a run with their distribution and interval (`show`, `eval`). */
struct table *metrics_table(const struct run_view *v);
struct table *samples_table(const struct run_view *v);
struct table *positions_table(const struct run_view *v);
/* Ledger summed by layer; with the tuning's achieved L1 when there is one. */
struct table *layers_table(const struct run_view *v);
/* Heads with the largest achieved L1 (or lowest sparsity without tuning), at most `limit`. */
struct table *heads_table(const struct run_view *v, size_t limit);
/* The three worst causes of the error: layer, head and sample with their part of the damage (KL
 * summed over tokens), and in a note how heads came by theirs. In order: KL end to end with one
 * head sparse at a time (from `runs`, others of the same model and data, NULL without); one layer
 * sparse at a time; L1 measured in each sample (--attribution); L1 when tuned; the work left out. A
 * file knows samples alone. Empty where nothing differs. */
struct table *causes_table(const struct run_view *v, const struct run_list *runs);
/* The first row of that table; false where it has none. */
struct worst_cause {
    int layer, head; /* -1: not told apart */
    int sample;
    double share;
    bool guessed; /* heads are charged by something else than their error on these samples */
};
bool run_worst_cause(
    const struct run_view *v, const struct run_list *runs, struct worst_cause *out);
struct table *items_table(const struct run_view *v, bool flips_only);
struct table *generations_table(const struct run_view *v);
/* Whole passes; their parts are in the next one. */
struct table *latencies_table(const struct run_view *v);
/* Where a pass spends its time, dense and sparse by length; empty unless it was profiled (suite
 * speed). */
struct table *breakdown_table(const struct run_view *v);
/* Did the sparse attention's kernel do QK and PV at once, so that they are one part? */
bool breakdown_is_whole(const struct run_view *v);
/* What a model expected, from its JSON: `"the" 0.412  *"thus" 0.220`, the token that really follows
 * marked; appended.
 */
void top_tokens_text(const char *json, int64_t true_token, struct str *out);
struct table *worst_tokens_table(const struct run_view *v, size_t limit);
/* Model, data, machine, software, settings, times: name and value. */
struct table *provenance_table(const struct run_view *v);
struct table *sql_table(const struct sql_result *r);

/* The guide's band (METHOD 7): "excellent", "good", "acceptable", "poor"; success = sparsity > 30 %
 * and cosine > .95. NAN inputs give "unknown". */
struct verdict {
    const char *band;
    bool success;
};
struct verdict verdict_of(double cosine, double token_accuracy, double sparsity);

/* The instrument's own verdict in one line: what was lost, with intervals, at which sparsity; then
 * what the guide's bands would say. Appended; nothing for a run that compared nothing. */
void run_headline(const struct run_view *v, struct str *out);
/* More was lost than chance explains, whatever the bands say: answers by more than one in a
 * hundred, or KL over .05 nats. */
bool run_lost(const struct run_view *v);

/* True, with the sentence appended to *out, when the cosine looks good and KL or token agreement
 * does not, or the reverse: cosine > .98 with KL > .05 nats or agreement < 90 %; cosine < .95 with
 * KL < .01 and agreement > 95 %. The bands are the guide's; .05 nats lies between what cost few
 * answers and what cost many (METHOD 5). */
bool metric_disagreement(const struct run_view *v, struct str *out);
/* NAN disagrees with nothing */
bool metrics_disagree(double cosine, double kl, double agreement, struct str *out);

/* Things a reader must know before trusting a run, each with what to do about it: fallbacks to
 * dense, few samples, disagreeing metrics, invalid timings, dirty build, … NULL-terminated, at most
 * 16; the caller frees each string and the array. */
char **run_warnings(const struct run_view *v);
void warnings_free(char **w);

#endif

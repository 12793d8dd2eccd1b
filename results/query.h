/* Reading results. Every list owns its records and their strings: clear it with the function beside
 * it. On failure it is empty.
 *
 * Handles come from store_open() (results/store.h); STORE_READ is enough. Failures are ERR_DB, or
 * ERR_ARG when what was asked for is not there, with the file and what is there instead.
 */
#ifndef SG_RESULTS_QUERY_H
#define SG_RESULTS_QUERY_H

#include "base/status.h"
#include "base/str.h"
#include "base/arena.h"
#include "results/records.h"

struct store;

/* All lists look alike: rows, n, arena. */
#define QUERY_LIST(name, record) \
    struct name {                \
        struct record *rows;     \
        size_t n;                \
        struct arena *arena;     \
    };                           \
    void name##_clear(struct name *list)

QUERY_LIST(run_list, run_record);
QUERY_LIST(metric_list, metric_record);
QUERY_LIST(sample_list, sample_record);
QUERY_LIST(tail_list, tail_record);
QUERY_LIST(ledger_list, ledger_record);
QUERY_LIST(layer_error_list, layer_error_record);
QUERY_LIST(item_list, item_record);
QUERY_LIST(generation_list, generation_record);
QUERY_LIST(latency_list, latency_record);
QUERY_LIST(worst_token_list, worst_token_record);
QUERY_LIST(mask_list, mask_record);
QUERY_LIST(noise_list, noise_record);

/* A zeroed filter takes every run but those that confirm another. Texts must be equal; NULL = any.
 */
struct run_filter {
    const char *model;   /* name or fingerprint (prefix of at least 6 digits) */
    const char *suite;   /* suite name or data set name */
    const char *dataset; /* fingerprint */
    /* machine: fingerprint */
    const char *method, *layers, *heads, *rule, *plan, *slot, *device, *machine;
    int max_length;   /* 0 = any; otherwise at most */
    int exact_length; /* 0 = any */
    bool done_only;
    bool with_status; /* then `status` must be equal */
    enum run_status status;
    size_t limit;      /* 0 = all */
    bool newest_first; /* by end time; otherwise in order of storing */
};
enum status query_runs(struct store *s, const struct run_filter *f, struct run_list *out) MUST_USE;

/* One run by "12" (row number), a key or its prefix of at least 4 digits, or "last" (newest done
 * one). ERR_ARG names what exists when none or several fit. out->n is 1. */
enum status query_run(struct store *s, const char *name, struct run_list *out) MUST_USE;

/* What a stored run has beside its metrics. */
struct run_parts {
    bool tokens, masks, generations, layer_errors;
    bool recall; /* attention mass kept, or that nothing was left out */
    int n_worst;
    char ended[32]; /* UTC; "" unknown */
};
/* All empty when there is no run with this very key. */
enum status query_parts(struct store *s, const char *key, struct run_parts *out) MUST_USE;

/* Rows of a run. */
/* scope: exact, or a prefix ending in ":" ("position:"), NULL = all. In order of writing. */
enum status query_metrics(
    struct store *s, int64_t run, const char *scope, struct metric_list *out) MUST_USE;
/* NULL when it is not there; borrowed from the list. */
const struct metric_record *metric_list_find(
    const struct metric_list *l, const char *scope, const char *name);
enum status query_samples(struct store *s, int64_t run, struct sample_list *out) MUST_USE;
enum status query_tails(struct store *s, int64_t run, struct tail_list *out) MUST_USE;
enum status query_ledger(struct store *s, int64_t run, struct ledger_list *out) MUST_USE;
enum status query_layer_errors(struct store *s, int64_t run, struct layer_error_list *out) MUST_USE;
enum status query_items(struct store *s, int64_t run, struct item_list *out) MUST_USE;
enum status query_generations(struct store *s, int64_t run, struct generation_list *out) MUST_USE;
enum status query_latencies(struct store *s, int64_t run, struct latency_list *out) MUST_USE;
/* Highest KL first; limit 0 = all stored. */
enum status query_worst_tokens(
    struct store *s, int64_t run, size_t limit, struct worst_token_list *out) MUST_USE;
enum status query_masks(struct store *s, int64_t run, struct mask_list *out) MUST_USE;
/* Per-token rows of one sample; *out is NULL and *n 0 when none were stored. The caller frees *out.
 */
enum status query_tokens(
    struct store *s, int64_t run, int sample, struct token_record **out, size_t *n) MUST_USE;

/* How a metric is minimised or maximised against sparsity. */
enum frontier_axis { FRONTIER_COSINE, FRONTIER_KL, FRONTIER_PPL };
struct frontier_point {
    size_t run;     /* index into the run list it was made from */
    bool dominated; /* another run of the same model and data has no less sparsity and no worse a
                       value, and one of both better */
    /* the non-dominated point farthest from the line between the two ends of its frontier */
    bool knee;
};
/* Points for every done run of the list whose sparsity and value are there; the caller frees *out.
 * Runs of different models or data sets do not compete, nor does the oracle with the others. O(n
 * log n). */
enum status query_frontier(const struct run_list *runs, enum frontier_axis axis,
    struct frontier_point **out, size_t *n) MUST_USE;

/* Of runs that are done, the one with the highest sparsity under bounds; NAN = no bound. ERR_ARG
 * when none holds them, naming the bound that the nearest run breaks. with_intervals: also the end
 * of the run's interval must hold (runs without an interval do not).
 */
struct best_bounds {
    double min_cosine, max_kl, max_ppl_increase, min_token_accuracy; /* ppl increase: 0.02 = +2 % */
    bool with_intervals;
};
enum status query_best(struct store *s, const struct run_list *runs, bool with_oracle,
    const struct best_bounds *b, struct run_list *out) MUST_USE;

/* State of a cell: a stored run, another worker's lease, stale, or nothing. */
enum cell_state { CELL_DONE, CELL_FAILED, CELL_SKIPPED, CELL_RUNNING, CELL_STALE, CELL_MISSING };
const char *cell_state_name(enum cell_state state);
enum status query_cell(
    struct store *s, const char *key, const char *slot, enum cell_state *out) MUST_USE;
/* Counts over a plan's cells; plan NULL = cells of all plans. counts[CELL_MISSING + 1]. */
enum status query_plan_status(struct store *s, const char *plan, size_t counts[6]) MUST_USE;
/* Cells of a plan with their state, in order. */
struct cell_record {
    const char *plan, *key, *slot, *key_json, *reason;
    enum cell_state state;
};
QUERY_LIST(cell_list, cell_record);
enum status query_cells(struct store *s, const char *plan, struct cell_list *out) MUST_USE;
/* Text that says why a cell is in its state: for a stale one, which parts of the key changed from
 * what to what; for a missing one, the nearest stored cell and the parts that differ. */
enum status query_explain(struct store *s, const char *key, const char *slot, const char *key_json,
    struct str *out) MUST_USE;
/* Append "field: a -> b" for each member that differs between two objects, separated by "; ".
 * Returns how many differ, -1 when a text is no object. */
int key_json_diff(const char *a, const char *b, struct str *out);

/* Tuning. *blob NULL and *size 0 when there is none; the caller frees *blob. */
enum status query_curve(
    struct store *s, const struct curve_key *key, void **blob, size_t *size) MUST_USE;
/* The data fingerprint under which curves with these members of *key are stored, and their first
 * sample, put into *key; text in *arena. NULL when there is none, or several. */
enum status query_curve_data(struct store *s, struct curve_key *key, struct arena **arena) MUST_USE;
struct tuned_list {
    struct tuned_record *rows; /* heads filled */
    size_t n;
    struct arena *arena;
};
void tuned_list_clear(struct tuned_list *list);
/* hash (or prefix) NULL = all, newest last; model_fingerprint NULL = any. */
enum status query_tuned(struct store *s, const char *hash, const char *model_fingerprint,
    struct tuned_list *out) MUST_USE;
/* NULL = any machine or model. */
enum status query_noise(struct store *s, const char *machine_fingerprint,
    const char *model_fingerprint, struct noise_list *out) MUST_USE;

/* Any SELECT, read-only (a statement that writes is refused). */
enum sql_type { SQL_NULL, SQL_INT, SQL_REAL, SQL_TEXT, SQL_BLOB };
struct sql_cell {
    enum sql_type type;
    int64_t i;        /* SQL_INT; bytes of a SQL_BLOB */
    double d;         /* SQL_REAL, and SQL_INT as a double */
    const char *text; /* SQL_TEXT */
};
struct sql_result {
    const char **columns;
    size_t n_columns, n_rows;
    struct sql_cell *cells; /* row major */
    struct arena *arena;
};
enum status query_sql(struct store *s, const char *sql, struct sql_result *out) MUST_USE;
void sql_result_clear(struct sql_result *r);

#endif

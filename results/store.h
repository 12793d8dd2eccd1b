/* Writing results: one SQLite file, safe under kill -9, several writers on one machine.
 *
 * A run and all its rows go in as one transaction when the run has ended, so a reader sees all of
 * it or nothing. The schema, with comments, is results/schema.sql; plain sqlite3 can read the file.
 * A handle belongs to one thread at a time. Failures are ERR_DB (ERR_IO where the file cannot be
 * reached) and name the file.
 */
#ifndef SG_RESULTS_STORE_H
#define SG_RESULTS_STORE_H

#include "base/status.h"
#include "results/records.h"

struct store; /* opaque */

enum store_mode {
    /* the file must exist; nothing is written: of an older version a copy is brought up to date and
       read */
    STORE_READ,
    /* made when it does not exist, for its owner alone; an older version is migrated in place */
    STORE_WRITE,
    STORE_SCRATCH, /* in memory, gone when it is closed; the path is for messages */
};

/* Refuses files that are no SQLite database, databases of another program (application_id) and
 * newer versions, each with what to do. Waits up to 30 s for another writer. Where the file system
 * has no shared memory (many network ones), a rollback journal is used, and readers wait for
 * writers; without locks it is refused by the name of its kind. */
enum status store_open(struct store **s, const char *path, enum store_mode mode) MUST_USE;
void store_close(struct store **s);
const char *store_path(const struct store *s);

/* Everything one run produced. Arrays may be NULL with count 0. */
struct run_data {
    struct run_record run; /* id, headline and digest are ignored */
    const struct metric_record *metrics;
    size_t n_metrics;
    const struct sample_record *samples;
    size_t n_samples;
    const struct tail_record *tails;
    size_t n_tails;
    const struct ledger_record *ledger; /* sorted by layer, then head 0 … n_heads-1 without gaps */
    size_t n_ledger;
    const struct layer_error_record *layer_errors;
    size_t n_layer_errors;
    const struct item_record *items;
    size_t n_items;
    const struct generation_record *generations;
    size_t n_generations;
    const struct latency_record *latencies;
    size_t n_latencies;
    const struct worst_token_record *worst_tokens;
    size_t n_worst_tokens;
    const struct token_block *token_blocks; /* optional: 20 bytes a token */
    size_t n_token_blocks;
    const struct mask_record *masks;
    size_t n_masks;
};

/* Store the run and release its lease, in one transaction. A stored run with the same key that
 * failed or was skipped is replaced; one that is done is replaced only with `replace`, else
 * ERR_ARG. *id may be NULL. */
enum status store_run_put(
    struct store *s, const struct run_data *d, bool replace, int64_t *id) MUST_USE;

/* The same for work that others may have finished meanwhile: where a done run with the key is
 * stored, it stays and *taken is false. */
enum status store_run_offer(struct store *s, const struct run_data *d, bool *taken) MUST_USE;

/* The text of a JSON object with string, number and boolean members hashed for key and slot: hex of
 * the text's hash. out: at least 33 bytes. */
char *store_key(const char *key_json, char *out);

/* Planned cells of a sweep, so that `status` can tell missing ones. Replaces the plan of that name.
 */
struct planned_cell {
    const char *key, *slot, *key_json;
};
enum status store_plan_put(struct store *s, const char *plan, const char *plan_json,
    const struct planned_cell *cells, size_t n) MUST_USE;

/* A claim on a cell for some seconds, so that several workers share one file. */
enum lease { LEASE_TAKEN, LEASE_BUSY, LEASE_STORED };
/* Which stored runs a claim is made over: of what has no result, also of what failed or was
 * skipped, of all. */
enum lease_over { LEASE_OVER_NONE, LEASE_OVER_FAILED, LEASE_OVER_ALL };
/* LEASE_TAKEN: the cell is the owner's until now + seconds (also when the owner had it already, or
 * an earlier lease has run out). LEASE_BUSY: another owner has it. LEASE_STORED: a run is there
 * that `over` leaves alone. `owner` must tell workers apart, e.g. "host:pid". */
enum status store_lease(struct store *s, const char *key, const char *owner, double seconds,
    enum lease_over over, enum lease *out) MUST_USE;
enum status store_lease_release(struct store *s, const char *key, const char *owner) MUST_USE;

/* Put every run of the database at src_path that is not in `s` yet. Same key and same digest: kept
 * once. Same key, one of them done and the other not: the done one stays. Same key, both done,
 * other results: a conflict, or where they were computed with other arithmetic, a difference to be
 * told (results/arithmetic.h); the one in `s` stays and both are listed. Plans, tunings, curves and
 * floors come along. A plan that both have keeps, for a question under two keys, the one with a
 * result, else the later plan's. src_path is opened read-only, and through a copy when it is of an
 * older version. One transaction. */
struct merge_conflict {
    char key[33];
    bool arithmetic; /* no conflict: other arithmetic */
    char *what;      /* "cosine of scope overall: here 0.991, there 0.987"; owned */
};
struct merge_report {
    size_t added, identical, completed, conflicting, other_arithmetic;
    /* [conflicting + other_arithmetic]; owned, freed by merge_report_clear */
    struct merge_conflict *conflicts;
};
/* Told now and then which share of the file is in, from 0 to 1. */
struct merge_watch {
    void (*tell)(void *ctx, double share);
    void *ctx;
};
/* watch may be NULL. */
enum status store_merge(struct store *s, const char *src_path, const struct merge_watch *watch,
    struct merge_report *out) MUST_USE;
void merge_report_clear(struct merge_report *r);

/* Tuning curves: one blob a key; putting replaces. */
enum status store_curve_put(
    struct store *s, const struct curve_key *key, const void *blob, size_t size) MUST_USE;
/* Many small writes (curves) in one transaction: begin, puts, commit. A store_close without commit
 * undoes. */
enum status store_begin(struct store *s) MUST_USE;
enum status store_commit(struct store *s) MUST_USE;

/* Thresholds and what they achieved; the same hash replaces. */
enum status store_tuned_put(struct store *s, const struct tuned_record *t) MUST_USE;

/* Replaces rows of the same machine, model, source and metric; rows' machine_fingerprint is
 * ignored. */
enum status store_noise_put(struct store *s, const struct machine_record *machine,
    const struct noise_record *rows, size_t n) MUST_USE;

/* Delete a run and its rows. ERR_ARG when there is none. */
enum status store_run_delete(struct store *s, const char *key) MUST_USE;

#endif

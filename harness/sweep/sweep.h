/* Runs a plan: every cell gets a content key, cells that share work stand together, and what is
 * missing is filled in.
 *
 * Shared: one dense pass per data set (harness/measure/dense_states.h), one set of tuning curves
 * for all bounds of a group of cells, the residual stream at the first sparse layer. Each cell is
 * stored in a transaction of its own as soon as it is done; one that fails is stored with the
 * reason and the sweep goes on. Several processes may work on one database: a cell belongs to
 * whoever holds its lease (results/lease.h), and one that another has stored meanwhile is reused.
 */
#ifndef SG_HARNESS_SWEEP_SWEEP_H
#define SG_HARNESS_SWEEP_SWEEP_H

#include "harness/measure/cell.h"
#include "harness/measure/dense_states.h"
#include "harness/sweep/plan.h"
#include "harness/measure/setup.h"
#include "harness/sweep/shard.h"
#include "results/lease.h"
#include "results/query.h"
#include "results/store.h"

#include <pthread.h>
#include <stdatomic.h>

/* Memory shared with whoever watches this process, so that a crash is put down to the right cell.
 */
enum { SWEEP_MAX_CRASHES = 64, SWEEP_MAX_WORKERS = 64 };
struct sweep_crash {
    int cell;      /* it ended an earlier process, … */
    bool stored;   /* … which is a row by now */
    char how[192]; /* "crashed: Segmentation fault" */
};
struct sweep_watch {
    /* number of the cell a worker runs, in order of execution; -1 none */
    volatile int cell[SWEEP_MAX_WORKERS];
    /* the worker whose thread got the fatal signal; -1: not known */
    volatile int culprit;
    struct sweep_crash crashes[SWEEP_MAX_CRASHES];
    int n_crashes;
    char opened[32]; /* UTC, when the first process began */
};

/* Called by the thread that is worker `number`: a fatal signal of its making is put down to it. */
void sweep_watch_begin(int number);
/* For the process that works: fatal signals leave their culprit in *w and then do what they do. */
void sweep_watch_install(struct sweep_watch *w);
/* For the process that watches: nothing runs. */
void sweep_watch_reset(struct sweep_watch *w);
/* A worker process ended by `signal`. Puts it down to the cell of the culprit, or to all that ran
 * when he is not known. False when none ran, or there are too many crashes. */
bool sweep_watch_blame(struct sweep_watch *w, int signal);

enum sweep_event_kind { SWEEP_CELL, SWEEP_TUNED, SWEEP_DENSE, SWEEP_WAIT };
struct sweep_event {
    enum sweep_event_kind kind;
    int n_finished, n;   /* cells of this shard that are settled, and all of them */
    const char *text;    /* the cell, the group, or the data set */
    const char *problem; /* why it failed or was skipped; NULL when done */
    double seconds;
    double sparsity, cosine, kl; /* of a cell that is done */
};

struct sweep_args {
    const struct setup *setup;
    struct store *store;
    struct dense_cache *cache;
    const struct plan *plan;
    const struct machine_options *machine;
    const char *name, *plan_json;  /* name of the plan in the database */
    struct cell_settings settings; /* of every cell, but for length and repetition */
    const char *field;
    enum smooth_k smooth_k;
    int min_sparse_tokens;
    const char *tune_suite;                       /* NULL: each cell's own suite */
    int n_tune, n_check, n_held_out, tune_length; /* tune_length 0: each cell's own length */
    double min_sparsity;
    struct shard shard;
    bool retry_failed, replace;
    double max_memory;         /* bytes a cell may take; 0: what the machine has left */
    struct sweep_watch *watch; /* may be NULL */
    int worker;                /* 0, or this one's number among several in one process */
    const struct setup *fleet; /* [n_fleet] all devices, for tuning; NULL: setup alone */
    int n_fleet;
    pthread_rwlock_t *devices; /* of a fleet: read while a worker runs passes, written while a
                                  tuning holds all devices; NULL alone */
    /* [cells] begun by a worker of the fleet, and ended unless it holds the lease; NULL alone */
    atomic_bool *begun;
    void (*event)(void *ctx, const struct sweep_event *e); /* may be NULL */
    void *event_ctx;
    bool (*stop)(void *); /* may be NULL */
};

/* Samples of one suite at one length. */
struct sweep_data {
    const char *suite;
    int max_length;
    struct sample_set set;
    char *problem; /* why there are no samples; NULL */
    struct dense_states states;
    bool have_states, no_states; /* no_states: they do not fit, cells make their own */
};

/* Cells that are tuned together. */
struct sweep_group {
    int data;
    const char *method;
    struct block_shape block;
    enum tune_rule rule;
    enum precision qk, pv;
    uint8_t *layers;     /* [n_layers] of all its cells, owned */
    double (*bounds)[2]; /* [n_bounds] l1, pv_l1, owned */
    int n_bounds;
    struct sample_set set; /* tuning, check and held-out samples */
    char *problem;
    int busy_round; /* the round of sweep_run in which another was found tuning it */
    /* hash of everything the thresholds follow from, bounds and layers left out */
    char id[33];
    char *text;          /* the same for people, part of the cells' keys */
    struct tuned *tuned; /* [n_bounds]; heads NULL: not yet */
    char (*hashes)[33];  /* [n_bounds] */
};

struct sweep_cell {
    const struct plan_cell *cell;
    int data, group, bounds; /* group -1: not tuned */
    struct run_record run;   /* identity */
    bool settled;
    /* a done run is stored, and is made anew: --replace, or it lacks what is to be kept */
    bool again;
    enum cell_state state; /* when the sweep was opened */
    double cost;           /* floating point operations of its own */
};

struct sweep_twins; /* what was measured of policies seen on the present data set */

struct sweep {
    struct sweep_args a;
    struct arena *arena;
    struct sweep_data *data;
    struct sweep_group *groups;
    struct sweep_cell *cells; /* in order of execution */
    int n_data, n_groups, n;
    int first, end; /* the shard's cells */
    struct lease_holder *leases;
    int round; /* times that sweep_run has gone over the cells, from 1 */
    struct sweep_twins *twins;
    char opened[32];   /* UTC */
    int n_fewer_worst; /* stored cells with fewer worst tokens than asked for */
    int n_done, n_failed, n_skipped, n_reused, n_tunings,
        n_twins; /* n_twins: of the done, copies of an equal policy's */
    double dense_s, tune_s, cells_s;
    int n_curves, n_curves_reused;
};

/* Loads samples, makes keys, orders, and looks up what is stored. Writes nothing. */
enum status sweep_open(struct sweep *s, const struct sweep_args *a) MUST_USE;
void sweep_close(struct sweep *s);

/* What it would take; seconds NAN when nothing is known of this machine's speed (flops <= 0). */
struct sweep_estimate {
    int n_run, n_done, n_failed, n_skipped, n_stale, n_elsewhere;
    int n_dense_passes, n_streams, n_tunings;
    size_t bytes;        /* at the widest moment, weights left out */
    size_t device_bytes; /* of a session on a device beside its weights; 0 on the CPU */
    double dense_flop, cells_flop, tune_flop,
        separate_flop; /* separate: as single runs without a cache or shared tuning */
};
struct sweep_estimate sweep_estimate(const struct sweep *s);
/* Floating point operations of a group's tuning and of a data set's dense pass. */
double sweep_tune_flop(const struct sweep *s, const struct sweep_group *g);
double sweep_dense_flop(const struct sweep *s, const struct sweep_data *d);
/* Floating point operations a second of a short dense prefill here. */
enum status sweep_probe(const struct setup *setup, const char *impl, double *flops) MUST_USE;

/* Fills what is missing. OK also when cells failed: see the counters. ERR_CANCELLED when stopped,
 * ERR_DB when results cannot be stored, ERR_DEVICE when the device no longer answers behind a cell
 * that failed (after some errors CUDA refuses every further call of the process): whoever opens it
 * again can go on. */
enum status sweep_run(struct sweep *s) MUST_USE;

/* What a cell is asked for; without its policy. */
struct cell_request sweep_request(struct sweep *s, const struct sweep_cell *x);
/* For sweep_run: the thresholds of a group, from the database or found now. *busy: another process
 * is at it. */
enum status sweep_group_tune(struct sweep *s, struct sweep_group *g, bool *busy) MUST_USE;
/* What evaluating a cell takes beside weights and shared states, on the host and on a device. */
struct sweep_bytes {
    size_t host, device; /* device: 0 on the CPU */
};
struct sweep_bytes sweep_cell_bytes(const struct sweep *s, const struct sweep_cell *x);
/* Of all bytes, what may still be taken. */
double sweep_free_bytes(const struct sweep *s);

#endif

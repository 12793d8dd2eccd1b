#include "harness/sweep/sweep.h"

#include "base/clock.h"
#include "harness/measure/cell.h"
#include "harness/measure/evaluate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RESAMPLES = 1000, POLL_NS = 300000000, MAX_TWINS = 256 };

static void tell(struct sweep *s, const struct sweep_event *e)
{
    if (s->a.event) s->a.event(s->a.event_ctx, e);
}

static int n_settled(const struct sweep *s)
{
    int n = 0;
    for (int i = s->first; i < s->end; i++) n += s->cells[i].settled;
    return n;
}

/* Called between layers. */
static bool cell_stop(void *ctx)
{
    const struct sweep *s = ctx;
    return s->a.stop && s->a.stop(NULL);
}

static void describe_event(struct sweep *s, const struct sweep_cell *x, const struct run_data *d, double seconds)
{
    struct str text = {0};
    plan_cell_describe(x->cell, &text);
    struct sweep_event e = {.kind = SWEEP_CELL,
                            .n_finished = n_settled(s),
                            .n = s->end - s->first,
                            .text = str_get(&text),
                            .problem = d->run.status == RUN_DONE ? NULL : d->run.reason,
                            .seconds = seconds,
                            .sparsity = NAN,
                            .cosine = NAN,
                            .kl = NAN};
    for (size_t i = 0; i < d->n_metrics; i++) {
        const struct metric_record *m = &d->metrics[i];
        if (strcmp(m->scope, "overall") != 0) continue;
        if (strcmp(m->name, "sparsity") == 0) e.sparsity = m->mean;
        if (strcmp(m->name, "cosine") == 0) e.cosine = m->mean;
        if (strcmp(m->name, "kl") == 0) e.kl = m->mean;
    }
    tell(s, &e);
    str_clear(&text);
}

/* A cell without results is a row too. */
static enum status store_problem(struct sweep *s, struct sweep_cell *x, enum run_status status, const char *reason)
{
    char now[32], *copy = str_dup(reason); /* the reason may be the status message, which storing overwrites */
    struct run_data d = {.run = x->run};
    d.run.status = status;
    d.run.reason = copy;
    d.run.started = d.run.ended = clock_utc(now, sizeof now);
    d.run.wall_s = 0;
    bool taken;
    enum status st = store_run_offer(s->a.store, &d, &taken);
    x->settled = st == OK;
    s->n_failed += st == OK && taken && status == RUN_FAILED;
    s->n_skipped += st == OK && taken && status == RUN_SKIPPED;
    s->n_reused += st == OK && !taken;
    if (st == OK && taken) describe_event(s, x, &d, 0);
    free(copy);
    return st;
}

/* Bounds that lie close often lead to the same thresholds. Cells with equal policies on equal tokens are equal, so the
 * second one gets a copy of what the first one measured. Repetitions are asked for and are run. */
struct twin {
    char policy[HASH_HEX_SIZE];
    int repeat;
    struct evaluation e;
};

struct sweep_twins {
    struct twin *items;
    int n, data;
};

static void twins_clear(struct sweep *s)
{
    for (int i = 0; s->twins && i < s->twins->n; i++) evaluation_clear(&s->twins->items[i].e);
    if (s->twins) free(s->twins->items);
    free(s->twins);
    s->twins = NULL;
}

static struct twin *twin_find(struct sweep *s, const struct sweep_cell *x, const char *policy)
{
    if (s->twins && s->twins->data != x->data) twins_clear(s);
    for (int i = 0; s->twins && i < s->twins->n; i++)
        if (strcmp(s->twins->items[i].policy, policy) == 0 && s->twins->items[i].repeat == x->cell->repeat)
            return &s->twins->items[i];
    return NULL;
}

/* Takes the evaluation; NULL when it is not worth keeping, then the caller has it still. */
static struct twin *twin_add(struct sweep *s, const struct sweep_cell *x, const char *policy,
                             const struct evaluation *e)
{
    if (s->data[x->data].set.timed) return NULL; /* each time is taken anew */
    if (x->group < 0 || (s->twins && s->twins->n == MAX_TWINS)) return NULL; /* fixed thresholds differ by intent */
    if (!s->twins) s->twins = calloc(1, sizeof *s->twins);
    if (!s->twins) return NULL;
    s->twins->data = x->data;
    struct twin *grown = realloc(s->twins->items, sizeof *grown * (size_t)(s->twins->n + 1));
    if (!grown) return NULL;
    s->twins->items = grown;
    struct twin *t = &grown[s->twins->n++];
    memcpy(t->policy, policy, sizeof t->policy);
    t->repeat = x->cell->repeat;
    t->e = *e;
    return t;
}

static enum status measure(struct sweep *s, struct sweep_cell *x, const struct sparse_policy *policy,
                           struct evaluation *e)
{
    struct sweep_data *d = &s->data[x->data];
    const struct model *m = &s->a.setup->model;
    return evaluate(&(struct evaluate_args){
                                  .model = (struct model *)m, .par = s->a.setup->par, .set = &d->set, .policy = policy,
                                  .cache = s->a.cache, .states = d->have_states ? &d->states : NULL,
                                  .impl = s->a.machine->impl, .chunk = s->a.machine->chunk,
                                  .keep_tokens = s->a.keep_tokens, .keep_masks = s->a.keep_masks && policy->method,
                                  .n_worst = s->a.n_worst, .n_resamples = RESAMPLES, .seed = (uint64_t)s->a.seed,
                                  .quiet = true, .stop = cell_stop, .stop_ctx = s}, e);
}

/* What is known of the cell's policy, or is found out now. *owned: the caller clears *e. */
static enum status obtain(struct sweep *s, struct sweep_cell *x, const struct tuned *tuned,
                          struct evaluation *e, bool *owned)
{
    const struct model *m = &s->a.setup->model;
    struct sparse_policy policy;
    struct hash h;
    char hex[HASH_HEX_SIZE];
    *owned = false;
    TRY(plan_cell_policy(x->cell, &m->weights, m->fingerprint, s->a.smooth_k, s->a.min_sparse_tokens, tuned, &policy));
    for (int i = 0; i < policy.n_layers * policy.n_heads; i++)
        if (!policy.layer_on[i / policy.n_heads]) policy.heads[i] = (struct head_params){0}; /* they play no part */
    hash_init(&h);
    policy_hash(&policy, &h);
    hash_hex(&h, hex);
    struct twin *twin = twin_find(s, x, hex);
    enum status st = OK;
    if (twin) {
        *e = twin->e;
        s->n_twins++;
    } else {
        st = measure(s, x, &policy, e);
        *owned = st == OK && !twin_add(s, x, hex, e);
    }
    policy_clear(&policy);
    return st;
}

/* Why a session for these samples has no room on its device; false when it has. */
static bool too_large_for_device(const struct sweep *s, const struct sample_set *set, char *reason, size_t size)
{
    const struct weights *w = &s->a.setup->model.weights;
    struct weights_device_info device;
    size_t need = sweep_device_bytes(s, set), free_bytes, total;
    if (!need || weights_device_memory(w, &free_bytes, &total) != OK || need <= free_bytes) return false;
    weights_device_describe(w, &device);
    snprintf(reason, size,
             "does not fit: a session needs %.3g GiB, %s has %.3g of %.3g GiB free; lower --max-length or --chunk",
             (double)need / 0x1p30, device.gpu, (double)free_bytes / 0x1p30, (double)total / 0x1p30);
    return true;
}

static enum status run_cell(struct sweep *s, struct sweep_cell *x)
{
    struct sweep_data *d = &s->data[x->data];
    struct evaluation e = {0};
    char started[32], ended[32];
    const struct tuned *tuned = NULL;
    if (x->group >= 0) {
        tuned = &s->groups[x->group].tuned[x->bounds];
        x->run.tuned_hash = s->groups[x->group].hashes[x->bounds];
    }
    double need = (double)sweep_cell_bytes(s, &d->set), available = sweep_free_bytes(s);
    char reason[320];
    if (too_large_for_device(s, &d->set, reason, sizeof reason)) return store_problem(s, x, RUN_SKIPPED, reason);
    if (need > available) {
        snprintf(reason, sizeof reason,
                 "does not fit: needs %.3g GiB, %.3g GiB are free; lower --max-length or --num-samples",
                 need / 0x1p30, available / 0x1p30);
        return store_problem(s, x, RUN_SKIPPED, reason);
    }
    clock_utc(started, sizeof started);
    int64_t t0 = clock_ns();
    bool owned;
    enum status st = obtain(s, x, tuned, &e, &owned);
    if (st == ERR_CANCELLED || st == ERR_DB) return st;
    if (st != OK) return store_problem(s, x, RUN_FAILED, status_message());
    struct run_record r = x->run;
    cell_take_measurements(&r, &e.data.run);
    r.started = started;
    r.ended = clock_utc(ended, sizeof ended);
    e.data.run = r;
    bool taken;
    st = store_run_offer(s->a.store, &e.data, &taken);
    double seconds = (double)(clock_ns() - t0) * 1e-9;
    x->settled = st == OK;
    s->n_done += st == OK && taken;
    s->n_reused += st == OK && !taken; /* another was faster, while this process slept or by a merge */
    s->cells_s += seconds;
    if (st == OK && taken) describe_event(s, x, &e.data, seconds);
    if (owned) evaluation_clear(&e);
    return st;
}

/* The dense pass of a data set, cut where its open cells begin. */
static enum status open_states(struct sweep *s, const struct sweep_cell *for_cell)
{
    int data = for_cell->data;
    struct sweep_data *d = &s->data[data];
    const struct llama_config *c = &s->a.setup->model.weights.config;
    if (d->have_states || d->no_states) return OK;
    int *layers = calloc((size_t)c->n_layers + 1, sizeof *layers), n = 0, n_blocks = 0, n_open = 0;
    struct block_shape blocks[16];
    if (!layers) return fail(ERR_MEMORY, "no memory for a list of layers");
    for (int i = s->first; i < s->end; i++) { /* in ascending order of first layer */
        const struct sweep_cell *x = &s->cells[i];
        if (x->data != data || x->settled) continue;
        int first = x->cell->first_layer, b = 0;
        n_open++;
        if (n == 0 || layers[n - 1] != first) layers[n++] = first;
        while (b < n_blocks && (blocks[b].q != x->cell->block.q || blocks[b].k != x->cell->block.k)) b++;
        if (b == n_blocks && n_blocks < 16) blocks[n_blocks++] = x->cell->block;
    }
    /* Half of what is free may be held, so that the cells themselves have room; of several workers by all together. */
    double spare = sweep_free_bytes(s) / (s->a.n_fleet > 1 ? s->a.n_fleet : 1) - (double)sweep_cell_bytes(s, &d->set);
    size_t budget = spare > 0 ? (size_t)(spare / 2) : 0;
    int64_t t0 = clock_ns();
    enum status st =
        dense_states_open(&d->states, &(struct dense_states_args){.model = (struct model *)&s->a.setup->model,
                                                                  .par = s->a.setup->par,
                                                                  .set = &d->set,
                                                                  .cache = s->a.cache,
                                                                  .impl = s->a.machine->impl,
                                                                  .chunk = s->a.machine->chunk,
                                                                  .layers = layers,
                                                                  .n_layers = n,
                                                                  .blocks = blocks,
                                                                  .n_blocks = n_blocks,
                                                                  .budget_bytes = budget,
                                                                  .stop = cell_stop,
                                                                  .stop_ctx = s});
    free(layers);
    double seconds = (double)(clock_ns() - t0) * 1e-9;
    s->dense_s += seconds;
    d->have_states = st == OK;
    d->no_states = st == ERR_MEMORY;
    if (st == OK || st == ERR_MEMORY) {
        char text[160];
        snprintf(text, sizeof text, "%d samples of %s at %d for %d cells, stream kept at %d layers",
                 d->set.n_samples, d->suite, d->max_length, n_open, d->have_states ? d->states.n_points : 0);
        tell(s, &(struct sweep_event){.kind = SWEEP_DENSE, .text = text, .seconds = seconds,
                                      .problem = st == OK ? NULL : status_message()});
    }
    return st == ERR_MEMORY ? OK : st;
}

/* One open cell: *deferred when another process has it, or its tuning. */
static enum status visit(struct sweep *s, int i, bool *deferred)
{
    struct sweep_cell *x = &s->cells[i];
    struct sweep_data *d = &s->data[x->data];
    enum lease lease;
    if (x->group >= 0 && s->groups[x->group].busy_round == s->round) { /* leases are writes: not one more for each cell */
        *deferred = true;
        return OK;
    }
    TRY(lease_take(s->leases, x->run.key, s->a.retry_failed, &lease));
    if (lease == LEASE_BUSY) {
        if (*lease_news(s->leases)) tell(s, &(struct sweep_event){.kind = SWEEP_WAIT, .text = lease_news(s->leases)});
        *deferred = true;
        return OK;
    }
    /* A cell at which another worker of this sweep has failed is not tried again, even with --retry-failed. */
    bool failed_elsewhere = lease == LEASE_TAKEN && s->a.begun && atomic_exchange(&s->a.begun[i], true);
    if (failed_elsewhere) TRY(lease_drop(s->leases, x->run.key));
    if (failed_elsewhere || lease == LEASE_STORED) {
        x->settled = true;
        s->n_reused++;
        return OK;
    }
    struct sweep_crash *crash = NULL;
    for (int k = 0; s->a.watch && k < s->a.watch->n_crashes; k++)
        if (s->a.watch->crashes[k].cell == i && !s->a.watch->crashes[k].stored) crash = &s->a.watch->crashes[k];
    if (s->a.watch) s->a.watch->cell[s->a.worker] = i;
    enum status st = OK;
    bool busy = false;
    if (d->problem) {
        st = store_problem(s, x, RUN_FAILED, d->problem);
    } else if (crash) {
        st = store_problem(s, x, RUN_FAILED, crash->how);
        crash->stored = st == OK;
    } else {
        st = x->group >= 0 ? sweep_group_tune(s, &s->groups[x->group], &busy) : OK;
        if (st != OK && st != ERR_CANCELLED && st != ERR_DB) {
            st = store_problem(s, x, RUN_FAILED, status_message());
        } else if (st == OK && !busy) {
            double need = (double)sweep_cell_bytes(s, &d->set);
            if (s->a.devices) pthread_rwlock_rdlock(s->a.devices);
            if (need <= sweep_free_bytes(s)) st = open_states(s, x);
            if (st == OK) st = run_cell(s, x);
            else if (st != ERR_CANCELLED && st != ERR_DB) st = store_problem(s, x, RUN_FAILED, status_message());
            if (s->a.devices) pthread_rwlock_unlock(s->a.devices);
        }
    }
    if (s->a.watch) s->a.watch->cell[s->a.worker] = -1;
    *deferred |= busy;
    if (busy) s->groups[x->group].busy_round = s->round;
    if (!x->settled) { /* stopped, or its tuning is made elsewhere: leave it to whoever comes next */
        char *message = st == OK ? NULL : str_dup(status_message());
        if (s->a.begun) atomic_store(&s->a.begun[i], false);
        enum status released = lease_drop(s->leases, x->run.key);
        if (st == OK) return released;
        st = fail(st, "%s", message);
        free(message);
    }
    return st;
}

static enum status store_plan(struct sweep *s)
{
    struct planned_cell *cells = calloc((size_t)s->n, sizeof *cells);
    if (!cells) return fail(ERR_MEMORY, "no memory for a plan of %d cells", s->n);
    for (int i = 0; i < s->n; i++)
        cells[i] = (struct planned_cell){s->cells[i].run.key, s->cells[i].run.slot, s->cells[i].run.key_json};
    enum status st = store_plan_put(s->a.store, s->a.name, s->a.plan_json, cells, (size_t)s->n);
    free(cells);
    return st;
}

static enum status run_all(struct sweep *s)
{
    TRY(store_plan(s));
    for (int i = s->first; i < s->end; i++) s->n_reused += s->cells[i].settled;
    int open_data = -1;
    for (bool told = false;;) {
        bool deferred = false, progress = false;
        s->round++;
        for (int i = s->first; i < s->end; i++) {
            struct sweep_cell *x = &s->cells[i];
            if (x->settled) continue;
            if (open_data >= 0 && open_data != x->data && s->data[open_data].have_states) {
                dense_states_close(&s->data[open_data].states); /* cells of one data set stand together */
                s->data[open_data].have_states = false;
            }
            open_data = x->data;
            if (s->a.stop && s->a.stop(NULL))
                return fail(ERR_CANCELLED, "stopped on request");
            TRY(visit(s, i, &deferred));
            progress |= x->settled;
        }
        if (!deferred) return OK;
        if (progress) continue;
        if (!told)
            tell(s, &(struct sweep_event){.kind = SWEEP_WAIT,
                                          .text = "the remaining cells run in other processes"});
        told = true;
        nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
}

enum status sweep_run(struct sweep *s)
{
    enum status st = run_all(s);
    twins_clear(s);
    return st;
}

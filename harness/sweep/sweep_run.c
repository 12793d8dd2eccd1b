#include "harness/sweep/sweep.h"

#include "base/clock.h"
#include "harness/measure/cell.h"
#include "harness/measure/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { POLL_NS = 300000000, MAX_TWINS = 256 };

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

static void describe_event(
    struct sweep *s, const struct sweep_cell *x, const struct run_data *d, double seconds)
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

/* Bounds that lie close often lead to the same thresholds. Cells with equal policies on equal
 * tokens are equal, so the second one gets a copy of what the first one measured. Repetitions are
 * asked for and are run. */
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
        if (strcmp(s->twins->items[i].policy, policy) == 0 &&
            s->twins->items[i].repeat == x->cell->repeat)
            return &s->twins->items[i];
    return NULL;
}

/* Takes the evaluation over where it is worth keeping. */
static void twin_add(
    struct sweep *s, const struct sweep_cell *x, const char *policy, struct evaluation *e)
{
    if (s->data[x->data].set.timed) return; /* each time is taken anew */
    /* fixed thresholds differ by intent */
    if (x->group < 0 || (s->twins && s->twins->n == MAX_TWINS)) return;
    if (!s->twins) s->twins = calloc(1, sizeof *s->twins);
    if (!s->twins) return;
    s->twins->data = x->data;
    struct twin *grown = realloc(s->twins->items, sizeof *grown * (size_t)(s->twins->n + 1));
    if (!grown) return;
    s->twins->items = grown;
    struct twin *t = &grown[s->twins->n++];
    memcpy(t->policy, policy, sizeof t->policy);
    t->repeat = x->cell->repeat;
    t->e = *e;
    *e = (struct evaluation){0};
}

/* Why a session has no room on its device; false when it has. */
static bool too_large_for_device(const struct sweep *s, size_t need, char *reason, size_t size)
{
    const struct weights *w = &s->a.setup->model.weights;
    struct weights_device_info device;
    size_t free_bytes, total;
    if (!need || weights_device_memory(w, &free_bytes, &total) != OK || need <= free_bytes)
        return false;
    weights_device_describe(w, &device);
    snprintf(reason, size,
        "does not fit: a session needs %.3g GiB, %s has %.3g of %.3g GiB free; lower --max-length "
        "or --chunk",
        (double)need / 0x1p30, device.gpu, (double)free_bytes / 0x1p30, (double)total / 0x1p30);
    return true;
}

static enum status check_room(const struct sweep *s, const struct sweep_cell *x)
{
    char reason[320];
    struct sweep_bytes needs = sweep_cell_bytes(s, x);
    double need = (double)needs.host, available = sweep_free_bytes(s);
    if (too_large_for_device(s, needs.device, reason, sizeof reason))
        return fail(ERR_MEMORY, "%s", reason);
    if (need <= available) return OK;
    return fail(ERR_MEMORY,
        "does not fit: needs %.3g GiB, %.3g GiB are free; lower --max-length or --num-samples",
        need / 0x1p30, available / 0x1p30);
}

/* Whether a tuning that takes all devices is still to come. A worker alone then brings its states
 * home (sweep_tune.c), but not those of others. */
static bool fleet_will_tune(const struct sweep *s)
{
    for (int g = 0; g < s->n_groups && s->a.n_fleet > 1; g++)
        for (int b = 0; b < s->groups[g].n_bounds; b++)
            if (!s->groups[g].tuned || !s->groups[g].tuned[b].heads) return true;
    return false;
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
    char text[160];
    if (!layers) return fail(ERR_MEMORY, "no memory for a list of layers");
    for (int i = s->first; i < s->end; i++) { /* in ascending order of first layer */
        const struct sweep_cell *x = &s->cells[i];
        if (x->data != data || x->settled) continue;
        int first = x->cell->first_layer, b = 0;
        n_open++;
        if (n == 0 || layers[n - 1] != first) layers[n++] = first;
        while (b < n_blocks && (blocks[b].q != x->cell->block.q || blocks[b].k != x->cell->block.k))
            b++;
        if (b == n_blocks && n_blocks < 16) blocks[n_blocks++] = x->cell->block;
    }
    /* Half of what is free may be held, so that the cells themselves have room; of several workers
     * by all together. */
    snprintf(text, sizeof text, "dense pass of %s at %d", d->suite, d->max_length);
    progress_part(text, sweep_dense_flop(s, d));
    double spare = sweep_free_bytes(s) / (s->a.n_fleet > 1 ? s->a.n_fleet : 1) -
        (double)sweep_cell_bytes(s, for_cell).host;
    size_t budget = spare > 0 ? (size_t)(spare / 2) : 0;
    int64_t t0 = clock_ns();
    enum status st = dense_states_open(&d->states,
        &(struct dense_states_args){.model = (struct model *)&s->a.setup->model,
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
            .host = fleet_will_tune(s),
            .quiet = s->a.machine->quiet,
            .stop = cell_stop,
            .stop_ctx = s});
    free(layers);
    double seconds = (double)(clock_ns() - t0) * 1e-9;
    s->dense_s += seconds;
    d->have_states = st == OK;
    d->no_states = st == ERR_MEMORY;
    if (st == OK || st == ERR_MEMORY) {
        snprintf(text, sizeof text, "%d samples of %s at %d for %d cells, stream kept at %d layers",
            d->set.n_samples, d->suite, d->max_length, n_open,
            d->have_states ? d->states.n_points : 0);
        tell(s,
            &(struct sweep_event){.kind = SWEEP_DENSE,
                .text = text,
                .seconds = seconds,
                .problem = st == OK ? NULL : status_message()});
    }
    return st == ERR_MEMORY ? OK : st;
}

/* What people see it is at. */
static void part_begin(const struct sweep *s, const struct sweep_cell *x)
{
    struct str text = {0};
    str_addf(&text, "cell %d of %d: ", n_settled(s) + 1, s->end - s->first);
    plan_cell_describe(x->cell, &text);
    progress_part(str_get(&text), x->cost);
    str_clear(&text);
}

struct visit {
    struct sweep *s;
    struct sweep_cell *x;
    struct sparse_policy policy;
    char hash[HASH_HEX_SIZE]; /* of the policy */
    bool locked;              /* the devices */
};

static struct sweep_crash *crash_of(const struct sweep *s, const struct sweep_cell *x)
{
    for (int k = 0; s->a.watch && k < s->a.watch->n_crashes; k++)
        if (s->a.watch->crashes[k].cell == x - s->cells && !s->a.watch->crashes[k].stored)
            return &s->a.watch->crashes[k];
    return NULL;
}

static enum status visit_policy(struct visit *v, const struct tuned *tuned)
{
    struct sweep *s = v->s;
    const struct model *m = &s->a.setup->model;
    struct sparse_policy *p = &v->policy;
    struct hash h;
    TRY(plan_cell_policy(
        v->x->cell, &m->weights, m->fingerprint, s->a.smooth_k, s->a.min_sparse_tokens, tuned, p));
    for (int i = 0; i < p->n_layers * p->n_heads; i++) /* they play no part */
        if (!p->layer_on[i / p->n_heads]) p->heads[i] = (struct head_params){0};
    hash_init(&h);
    policy_hash(p, &h);
    hash_hex(&h, v->hash);
    return OK;
}

/* The cell is this worker's: its thresholds, what it shares with others, and what is known of an
 * equal one. */
static enum status visit_prepare(
    void *ctx, struct cell_request *q, struct run_record *r, enum cell_readiness *ready)
{
    struct visit *v = ctx;
    struct sweep *s = v->s;
    struct sweep_data *d = &s->data[v->x->data];
    struct sweep_group *g = v->x->group >= 0 ? &s->groups[v->x->group] : NULL;
    const struct sweep_crash *crash = crash_of(s, v->x);
    /* A cell at which another worker of this sweep has failed is not tried again, even with
     * --retry-failed. */
    if (s->a.begun && atomic_exchange(&s->a.begun[v->x - s->cells], true)) {
        *ready = CELL_SETTLED;
        return OK;
    }
    if (v->x->again) { /* another worker of this sweep was faster? */
        struct run_parts has;
        TRY(query_parts(s->a.store, v->x->run.key, &has));
        if (strcmp(has.ended, s->opened) > 0) {
            *ready = CELL_SETTLED;
            return OK;
        }
    }
    if (s->a.watch) s->a.watch->cell[s->a.worker] = (int)(v->x - s->cells);
    if (d->problem) return fail(ERR_ARG, "%s", d->problem);
    if (crash) return fail(ERR_ARG, "%s", crash->how);
    if (g) {
        bool busy = false;
        TRY(sweep_group_tune(s, g, &busy));
        if (busy) {
            g->busy_round = s->round;
            *ready = CELL_LATER;
            return OK;
        }
        r->tuned_hash = g->hashes[v->x->bounds];
    }
    if (s->a.devices) pthread_rwlock_rdlock(s->a.devices);
    v->locked = s->a.devices != NULL;
    TRY(check_room(s, v->x));
    TRY(open_states(s, v->x));
    TRY(visit_policy(v, g ? &g->tuned[v->x->bounds] : NULL));
    const struct twin *twin = twin_find(s, v->x, v->hash);
    s->n_twins += twin != NULL;
    q->known = twin ? &twin->e.data : NULL;
    q->states = d->have_states ? &d->states : NULL;
    q->policy = &v->policy;
    part_begin(s, v->x);
    return OK;
}

static void count_cell(struct sweep *s, const struct sweep_cell *x, const struct cell_result *r)
{
    enum run_status status = r->data.run.status;
    struct sweep_crash *crash = crash_of(s, x);
    if (crash) crash->stored = true;
    s->n_done += status == RUN_DONE;
    s->n_failed += status == RUN_FAILED;
    s->n_skipped += status == RUN_SKIPPED;
    s->cells_s += r->seconds;
    describe_event(s, x, &r->data, r->seconds);
}

/* One open cell: *deferred when another process has it, or its tuning. */
static enum status visit(struct sweep *s, int i, bool *deferred)
{
    struct sweep_cell *x = &s->cells[i];
    /* leases are writes: not one more for each cell */
    if (x->group >= 0 && s->groups[x->group].busy_round == s->round) {
        *deferred = true;
        return OK;
    }
    struct visit v = {.s = s, .x = x};
    struct cell_result r;
    struct cell_request q = sweep_request(s, x);
    q.planned = &x->run;
    q.replace = x->again;
    q.retry = s->a.retry_failed || s->a.replace;
    q.keep_failures = true;
    q.quiet = s->a.machine->quiet;
    q.prepare = visit_prepare;
    q.ctx = &v;
    q.stop = cell_stop;
    q.stop_ctx = s;
    enum status st = cell_run(&q, &r);
    if (st == OK && r.end == CELL_REUSED)
        part_begin(s, x); /* another process has done it: no work is left of it */
    progress_part_end();
    if (v.locked) pthread_rwlock_unlock(s->a.devices);
    if (s->a.watch) s->a.watch->cell[s->a.worker] = -1;
    x->settled = st == OK && (r.end == CELL_RAN || r.end == CELL_REUSED);
    if (st == OK && r.end == CELL_ELSEWHERE && *lease_news(s->leases))
        tell(s, &(struct sweep_event){.kind = SWEEP_WAIT, .text = lease_news(s->leases)});
    if (st == OK && r.end == CELL_RAN) count_cell(s, x, &r);
    s->n_reused += st == OK && r.end == CELL_REUSED;
    *deferred |= st == OK && !x->settled;
    /* stopped, or its tuning is made elsewhere: whoever comes next may have it */
    if (!x->settled && s->a.begun && (st != OK || r.end == CELL_DEFERRED))
        atomic_store(&s->a.begun[i], false);
    if (x->settled && r.end == CELL_RAN && r.data.run.status == RUN_DONE && r.evaluation.arena)
        twin_add(s, x, v.hash, &r.evaluation);
    if (st == OK) cell_result_clear(&r);
    policy_clear(&v.policy);
    return st;
}

/* A cell has failed: was it the cell, or is the device gone, and every further one would fail too?
 */
static enum status check_device(const struct sweep *s)
{
    size_t free_bytes, total;
    enum status st = weights_device_memory(&s->a.setup->model.weights, &free_bytes, &total);
    return st == OK ? OK : fail_context(ERR_DEVICE, "the device no longer answers");
}

static enum status store_plan(struct sweep *s)
{
    struct planned_cell *cells = calloc((size_t)s->n, sizeof *cells);
    if (!cells) return fail(ERR_MEMORY, "no memory for a plan of %d cells", s->n);
    for (int i = 0; i < s->n; i++)
        cells[i] = (struct planned_cell){
            s->cells[i].run.key, s->cells[i].run.slot, s->cells[i].run.key_json};
    enum status st = store_plan_put(s->a.store, s->a.name, s->a.plan_json, cells, (size_t)s->n);
    free(cells);
    return st;
}

static enum status run_all(struct sweep *s)
{
    TRY(store_plan(s));
    /* several workers have the same cells */
    for (int i = s->first; i < s->end && s->a.worker == 0; i++) {
        const struct sweep_cell *x = &s->cells[i];
        s->n_reused += x->settled && x->state == CELL_DONE;
        s->n_failed += x->settled && x->state == CELL_FAILED;
        s->n_skipped += x->settled && x->state == CELL_SKIPPED;
    }
    int open_data = -1;
    for (bool told = false;;) {
        bool deferred = false, progress = false;
        s->round++;
        for (int i = s->first; i < s->end; i++) {
            struct sweep_cell *x = &s->cells[i];
            if (x->settled) continue;
            if (open_data >= 0 && open_data != x->data && s->data[open_data].have_states) {
                /* cells of one data set stand together */
                dense_states_close(&s->data[open_data].states);
                s->data[open_data].have_states = false;
            }
            open_data = x->data;
            if (s->a.stop && s->a.stop(NULL)) return fail(ERR_CANCELLED, "stopped on request");
            int n_failed = s->n_failed;
            TRY(visit(s, i, &deferred));
            progress |= x->settled;
            if (s->n_failed > n_failed) TRY(check_device(s));
        }
        if (!deferred) return OK;
        if (progress) continue;
        if (!told)
            tell(s,
                &(struct sweep_event){
                    .kind = SWEEP_WAIT, .text = "the remaining cells run in other processes"});
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

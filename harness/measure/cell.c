#include "harness/measure/cell.h"

#include "base/clock.h"
#include "harness/measure/evaluate.h"
#include "harness/measure/identity.h"
#include "harness/measure/latency.h"
#include "harness/measure/tuned_db.h"
#include "results/columns.h"
#include "results/query.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { POLL_NS = 300000000 };

const struct cell_settings cell_defaults = {
    .score = "all", .heads = "all", .keep_masks = true, .n_worst = 20};

void cell_identify(const struct cell_request *q, struct run_record *r, struct arena **arena)
{
    char hash[33];
    *r = run_record_blank();
    r->max_length = q->settings.max_length;
    r->num_samples = q->settings.num_samples;
    r->score = q->settings.score;
    r->heads = q->settings.heads;
    r->seed = (uint64_t)q->settings.seed;
    r->repeat = q->settings.repeat;
    r->confirming = q->settings.confirming;
    r->threads = par_threads(q->setup->par);
    r->plan = q->settings.plan;
    r->impl = q->machine->impl;
    if (q->tuned && q->tuned->heads) {
        if (q->tuned->l1 > 0) { /* a .pt carries no bounds */
            r->rule = tune_rule_name(q->tuned->rule);
            r->l1 = q->tuned->l1;
            r->pv_l1 = q->tuned->pv_l1;
        }
        r->tuned_hash = arena_str(arena, tuned_hash(q->tuned, hash));
    }
    if (q->tuning) {
        r->rule = q->tuning->rule;
        r->l1 = q->tuning->l1;
        r->pv_l1 = q->tuning->pv_l1;
        r->tuned_hash = ""; /* set when it is known; here it says that thresholds are no axis */
    }
    identity_fill(r, &q->setup->model, q->setup->model_dir, q->set, q->policy, arena);
    if (q->tuning) {
        identity_plan_tuned(r, q->policy, q->tuning->text, arena);
        r->tuned_hash = NULL;
    }
    r->argv_json = argv_text(q->argc, q->argv, arena);
}

/* Has the stored run what is asked for beside its metrics? */
static enum status cell_holds(
    const struct cell_request *q, const char *key, struct cell_result *out, bool *holds)
{
    struct run_parts has;
    bool attribution = q->settings.attribution && q->policy && policy_acts(q->policy);
    TRY(query_parts(q->store, key, &has));
    *holds = (!q->settings.generate || has.generations) && (!attribution || has.layer_errors) &&
        (!q->settings.keep_tokens || has.tokens || q->set->timed);
    out->n_worst = has.n_worst;
    return OK;
}

/* The cell is this process's (out->end CELL_RAN), or what is to be said instead. *replace: a done
 * run is run again. */
static enum status cell_claim(const struct cell_request *q, struct lease_holder *leases,
    const char *key, bool *replace, struct cell_result *out)
{
    enum cell_end *end = &out->end;
    bool told = false;
    *replace = q->replace || q->parity;
    for (;;) {
        enum lease lease;
        TRY(lease_take(leases, key,
            *replace       ? LEASE_OVER_ALL
                : q->retry ? LEASE_OVER_FAILED
                           : LEASE_OVER_NONE,
            &lease));
        if (lease == LEASE_STORED) {
            bool holds;
            TRY(cell_holds(q, key, out, &holds));
            *end = CELL_REUSED;
            if (holds) return OK;
            *replace = true; /* and the lease is asked for again */
            continue;
        }
        *end = lease == LEASE_TAKEN ? CELL_RAN : CELL_ELSEWHERE;
        if (lease == LEASE_TAKEN || !q->wait) return OK;
        if (!told && q->say) q->say("another process evaluates this cell: waiting for its result");
        told = true;
        if (q->stop && q->stop(q->stop_ctx)) return fail(ERR_CANCELLED, "stopped on request");
        nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
}

static enum status cell_measure(const struct cell_request *q, struct evaluation *e)
{
    const struct cell_settings *s = &q->settings;
    bool sparse = q->policy->method != NULL;
    const struct evaluate_args args = {.model = (struct model *)&q->setup->model,
        .par = q->setup->par,
        .more = q->more,
        .n_more = q->n_more,
        .set = q->set,
        .policy = q->policy,
        .cache = q->cache,
        .states = q->states,
        .impl = q->machine->impl,
        .chunk = q->machine->chunk,
        .generate = s->generate,
        .attribution = s->attribution && policy_acts(q->policy),
        .recall = s->recall && policy_acts(q->policy),
        .tuned = q->tuned,
        .keep_tokens = s->keep_tokens,
        .keep_masks = s->keep_masks && sparse,
        .n_worst = s->n_worst,
        .parity = q->parity,
        .quiet = q->quiet,
        .stop = q->stop,
        .stop_ctx = q->stop_ctx};
    return q->set->timed ? latency_measure(&args, e) : evaluate(&args, e);
}

/* Of a cell that is this process's: what becomes of it, into out->data. */
static enum status cell_fill(struct cell_request *q, struct run_record *r, struct cell_result *out)
{
    char text[32];
    enum cell_readiness ready = CELL_READY;
    int64_t t0 = clock_ns();
    r->started = arena_str(&out->arena, clock_utc(text, sizeof text));
    if (q->prepare) TRY(q->prepare(q->ctx, q, r, &ready));
    if (ready != CELL_READY) {
        out->end = ready == CELL_LATER ? CELL_DEFERRED : CELL_REUSED;
        return OK;
    }
    if (!q->known) TRY(cell_measure(q, &out->evaluation));
    out->data = q->known ? *q->known : out->evaluation.data;
    columns_copy(&run_columns, r, &out->data.run, COLUMN_MEASURED);
    r->ended = arena_str(&out->arena, clock_utc(text, sizeof text));
    out->data.run = *r;
    out->seconds = (double)(clock_ns() - t0) * 1e-9;
    return q->tuned && q->tuned->heads && r->tuned_hash
        ? store_tuned(q->store, q->tuned, r->tuned_hash, NULL)
        : OK;
}

/* A cell without results is a row too. */
static void cell_fail(struct run_record *r, enum status why, struct cell_result *out)
{
    char text[32];
    r->status = why == ERR_MEMORY ? RUN_SKIPPED : RUN_FAILED;
    r->reason = arena_str(&out->arena, status_message());
    r->started = r->ended = arena_str(&out->arena, clock_utc(text, sizeof text));
    r->wall_s = 0;
    out->data = (struct run_data){.run = *r};
}

static enum status cell_do(
    const struct cell_request *asked, struct lease_holder *leases, struct cell_result *out)
{
    struct cell_request q = *asked;
    struct run_record r;
    bool replace, taken = true;
    if (q.planned) r = *q.planned;
    else cell_identify(&q, &r, &out->arena);
    memcpy(out->key, r.key, strlen(r.key) + 1);
    TRY(cell_claim(&q, leases, r.key, &replace, out));
    out->data.run = r;
    if (out->end != CELL_RAN) return OK;
    enum status st = cell_fill(&q, &r, out);
    if (st != OK && q.keep_failures && st != ERR_CANCELLED && st != ERR_DB) {
        cell_fail(&r, st, out);
        st = OK;
    }
    if (st == OK && out->end == CELL_RAN) {
        replace &= r.status == RUN_DONE; /* a failure takes no result away */
        st = replace ? store_run_put(q.store, &out->data, true, NULL)
                     : store_run_offer(q.store, &out->data, &taken);
        if (st == OK && !taken)
            out->end = CELL_REUSED; /* another was faster, while this process slept or by a merge */
        if (st == OK) return OK;    /* storing gave the lease back */
    }
    char *message = st == OK ? NULL : str_dup(status_message());
    enum status dropped = lease_drop(leases, r.key);
    if (st == OK) return dropped;
    st = fail(st, "%s", message);
    free(message);
    return st;
}

enum status cell_run(const struct cell_request *q, struct cell_result *out)
{
    struct lease_holder *own = NULL;
    *out = (struct cell_result){0};
    enum status st = q->leases ? OK : lease_open(&own, q->store, 0);
    if (st == OK) st = cell_do(q, q->leases ? q->leases : own, out);
    lease_close(&own);
    if (st != OK) cell_result_clear(out);
    return st;
}

void cell_result_clear(struct cell_result *r)
{
    evaluation_clear(&r->evaluation);
    arena_free(&r->arena);
    r->data = (struct run_data){0};
}

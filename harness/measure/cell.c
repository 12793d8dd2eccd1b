#include "harness/measure/cell.h"

#include "base/clock.h"
#include "harness/measure/cancel.h"
#include "harness/measure/identity.h"
#include "harness/measure/tuned_db.h"
#include "results/columns.h"
#include "results/query.h"

#include <string.h>

enum { RESAMPLES = 1000 };

static struct run_record describe(const struct cell_args *a, char *tuned_key)
{
    struct run_record r = run_record_blank();
    r.max_length = a->max_length;
    r.num_samples = a->set->n_samples;
    r.score = a->score;
    r.seed = (uint64_t)a->seed;
    r.repeat = a->repeat;
    r.threads = par_threads(a->setup->par);
    r.plan = a->plan;
    r.impl = a->machine->impl;
    if (a->tuned && a->tuned->heads) {
        if (a->tuned->l1 > 0) { /* a .pt carries no bounds */
            r.rule = tune_rule_name(a->tuned->rule);
            r.l1 = a->tuned->l1;
            r.pv_l1 = a->tuned->pv_l1;
        }
        r.tuned_hash = tuned_hash(a->tuned, tuned_key);
    }
    return r;
}

void cell_take_measurements(struct run_record *r, const struct run_record *measured)
{
    columns_copy(&run_columns, r, measured, COLUMN_MEASURED);
}

/* Has the stored run what is asked for beside its metrics? */
static enum status holds(struct store *s, const char *key, bool generations, bool layer_errors, bool *out)
{
    struct run_list run;
    struct generation_list g = {0};
    struct layer_error_list e = {0};
    TRY(query_run(s, key, &run));
    enum status st = query_generations(s, run.rows[0].id, &g);
    if (st == OK) st = query_layer_errors(s, run.rows[0].id, &e);
    *out = st == OK && (!generations || g.n) && (!layer_errors || e.n);
    generation_list_clear(&g);
    layer_error_list_clear(&e);
    run_list_clear(&run);
    return st;
}

enum status cell_run(const struct cell_args *a, struct cell_result *out)
{
    struct arena *arena = NULL;
    struct evaluation e = {0};
    char started[32], ended[32], tuned_key[33];
    enum cell_state state;
    enum status st;
    clock_utc(started, sizeof started);
    struct run_record r = describe(a, tuned_key);
    identity_fill(&r, &a->setup->model, a->setup->model_dir, a->set, a->policy, &arena);
    memcpy(out->key, r.key, strlen(r.key) + 1);
    TRY_GOTO(st, done, query_cell(a->store, r.key, r.slot, &state));
    out->reused = state == CELL_DONE && !a->replace && !a->parity;
    bool replace = a->replace || a->parity;
    bool attribution = a->attribution && a->policy->method;
    if (out->reused && (a->generate || attribution)) {
        TRY_GOTO(st, done, holds(a->store, r.key, a->generate, attribution, &out->reused));
        replace = !out->reused;
    }
    if (out->reused) goto done;
    TRY_GOTO(st, done,
             evaluate(&(struct evaluate_args){.model = (struct model *)&a->setup->model,
                                              .par = a->setup->par,
                                              .more = a->more,
                                              .n_more = a->n_more,
                                              .set = a->set,
                                              .policy = a->policy,
                                              .cache = a->cache,
                                              .impl = a->machine->impl,
                                              .chunk = a->machine->chunk,
                                              .generate = a->generate,
                                              .attribution = attribution,
                                              .keep_tokens = a->keep_tokens,
                                              .keep_masks = a->policy->method != NULL,
                                              .n_worst = a->n_worst,
                                              .parity = a->parity,
                                              .n_resamples = RESAMPLES,
                                              .seed = (uint64_t)a->seed,
                                              .quiet = a->machine->quiet,
                                              .stop = cancel_requested},
                      &e));
    cell_take_measurements(&r, &e.data.run);
    r.argv_json = argv_text(a->argc, a->argv, &arena);
    r.started = started;
    r.ended = clock_utc(ended, sizeof ended);
    e.data.run = r;
    if (r.tuned_hash) TRY_GOTO(st, done, store_tuned(a->store, a->tuned, r.tuned_hash));
    st = store_run_put(a->store, &e.data, replace, NULL);
done:
    evaluation_clear(&e);
    arena_free(&arena);
    return st;
}

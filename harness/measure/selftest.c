#include "harness/measure/selftest.h"

#include "harness/measure/progress.h"

#include "harness/measure/definition.h"
#include "harness/measure/evaluate.h"
#include "harness/measure/identity.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Thresholds of the reference: loose enough that a tenth of the work is skipped at 2 048 tokens,
 * strict enough to be sound. */
static const float THETA = .3f, TAU = .9f;

static size_t workspace(const struct mask_args *a) { return mask_sparge.workspace(a); }
static const char *refuses(const struct mask_args *a) { return mask_sparge.refuses(a); }
static void prepare(const struct mask_args *a, int head, void *ws)
{
    mask_sparge.prepare(a, head, ws);
}

static void row_none(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    mask_sparge.row(a, head, i, theta, ws, out);
}

/* The choice by τ made here and written down as forced tiles, so that a fault moves finished tiles
 * and the threshold does not make up for what it takes away. */
static void settle(const struct mask_args *a, int head, struct mask_row *out)
{
    int order[out->n];
    int n = mask_order(out, order), keep = mask_count(out, order, n, a->heads[head].tau);
    for (int r = 0; r < keep; r++) out->forced[order[r]] |= FORCE_THETA_Q;
    memset(out->p, 0, sizeof *out->p * (size_t)out->n);
}

static void row_shifted(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    mask_sparge.row(a, head, i, theta, ws, out);
    /* the first query block stays, or its first rows would see no key at all, which is another
     * fault */
    if (a->attn->q_start + i * a->attn->block.q == 0 || out->n < 2) return;
    settle(a, head, out);
    memmove(out->forced + 1, out->forced, sizeof *out->forced * (size_t)(out->n - 1));
    out->forced[0] = 0;
}

static void row_without_diagonal(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    mask_sparge.row(a, head, i, theta, ws, out);
    settle(a, head, out);
    for (int j = 1; j < out->n; j++)
        if (out->forced[j] & FORCE_DIAGONAL) out->forced[j] = 0;
}

static void row_doubled(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    mask_sparge.row(a, head, i, 2 * theta, ws, out);
}

#define PLANTED(name_, row_)                                                       \
    {                                                                              \
        .name = name_, .ranked = true, .refuses = refuses, .workspace = workspace, \
        .prepare = prepare, .row = row_, .takes_theta = true                       \
    }
static const struct mask_method methods[N_FAULTS] = {
    [FAULT_NONE] = PLANTED("planted-nothing", row_none),
    [FAULT_SHIFTED_MASK] = PLANTED("planted-shift", row_shifted),
    [FAULT_DROPPED_DIAGONAL] = PLANTED("planted-no-diagonal", row_without_diagonal),
    [FAULT_DOUBLED_THETA] = PLANTED("planted-theta", row_doubled),
};

const struct mask_method *planted_method(enum planted_fault f) { return &methods[f]; }

const char *planted_fault_name(enum planted_fault f)
{
    static const char *const names[] = {
        "no fault", "mask shifted by one block", "diagonal dropped", "theta doubled"};
    return names[f];
}

/* One evaluated configuration as the gate sees a run; everything is borrowed from the evaluation.
 */
struct trial {
    struct evaluation e;
    struct run_record record;
    struct run_view view;
    struct arena *arena;
};

static enum status trial_run(struct trial *t, struct model *m, struct par *par,
    const struct sample_set *set, const struct dense_states *dense,
    const struct mask_method *method, const char *impl, bool (*stop)(void *))
{
    struct sparse_policy policy = {0};
    *t = (struct trial){0};
    enum status st =
        policy_init(&policy, method, m->weights.config.n_layers, m->weights.config.n_heads);
    if (st == OK) policy_set_thresholds(&policy, THETA, TAU, 50);
    if (st == OK)
        st = evaluate(&(struct evaluate_args){.model = m,
                          .par = par,
                          .set = set,
                          .policy = &policy,
                          .states = dense,
                          .impl = impl,
                          .quiet = true,
                          .stop = stop},
            &t->e);
    if (st == OK) {
        t->record = run_record_blank();
        t->record.num_samples = set->n_samples;
        identity_fill(&t->record, m, NULL, set, &policy, &t->arena);
        t->record.status = t->e.data.run.status;
        t->record.attention_calls = t->e.data.run.attention_calls;
        t->record.dense_fallback_calls = t->e.data.run.dense_fallback_calls;
        t->record.peak_bytes = t->e.data.run.peak_bytes;
        t->view = (struct run_view){
            .run = &t->record,
            .label = "self-test",
            .metrics = {(struct metric_record *)t->e.data.metrics, t->e.data.n_metrics, NULL},
            .samples = {(struct sample_record *)t->e.data.samples, t->e.data.n_samples, NULL},
            .items = {(struct item_record *)t->e.data.items, t->e.data.n_items, NULL},
        };
    }
    policy_clear(&policy);
    return st;
}

static void trial_clear(struct trial *t)
{
    evaluation_clear(&t->e);
    arena_free(&t->arena);
}

/* What a careful team would write down after looking at the reference: its interval and a little
 * air, and small steps against it. */
static struct gate_bounds bounds_around(const struct run_view *reference)
{
    struct gate_bounds b = gate_no_bounds();
    const struct metric_record *cosine = metric_list_find(&reference->metrics, "overall", "cosine"),
                               *kl = metric_list_find(&reference->metrics, "overall", "kl"),
                               *sparsity =
                                   metric_list_find(&reference->metrics, "overall", "sparsity");
    if (!cosine || !kl || !sparsity) return b;
    b.min_cosine = (isnan(cosine->lo) ? cosine->mean : cosine->lo) - .002;
    b.max_kl = 1.5 * (isnan(kl->hi) ? kl->mean : kl->hi) + .005;
    b.min_sparsity = .8 * (isnan(sparsity->lo) ? sparsity->mean : sparsity->lo);
    b.max_cosine_drop = .002;
    b.max_kl_rise = .5 * kl->mean + .005;
    b.max_sparsity_drop = .2 * sparsity->mean;
    return b;
}

static double distance(const struct trial *x, const struct trial *y, const char *metric)
{
    return fabs(run_view_metric(&x->view, metric) - run_view_metric(&y->view, metric));
}

static enum status judge(const struct trial *t, const struct trial *reference,
    const struct gate_bounds *b, bool sound, const char *what, struct selftest_row *row)
{
    struct gate_result g;
    TRY(gate_run(&(struct gate_subject){.run = &t->view, .baseline = &reference->view}, b, &g));
    *row = (struct selftest_row){
        .what = what,
        .sound = sound,
        .outcome = g.outcome,
        .cosine = run_view_metric(&t->view, "cosine"),
        .kl = run_view_metric(&t->view, "kl"),
        .sparsity = run_view_metric(&t->view, "sparsity"),
        .token_accuracy = run_view_metric(&t->view, "token_accuracy"),
        .apart = fmax(
            distance(t, reference, "sparsity") / .005, distance(t, reference, "cosine") / .002),
    };
    size_t at = 0;
    for (size_t i = 0; i < g.n; i++)
        if (g.checks[i].outcome != CHECK_PASS && at < sizeof row->broken)
            at += (size_t)snprintf(row->broken + at, sizeof row->broken - at, "%s%s",
                at ? ", " : "", g.checks[i].name);
    gate_result_clear(&g);
    return OK;
}

enum status selftest_run(struct model *m, struct par *par, const struct sample_set *set,
    bool (*stop)(void *), struct selftest *out)
{
    *out = (struct selftest){0};
    struct dense_states dense = {0};
    struct dense_cache no_cache = {0};
    struct trial reference = {0};
    struct model host = *m; /* the reference never runs on a device */
    host.weights.on_device = NULL;
    enum status st;
    struct progress progress;
    progress_share(.2); /* of the reference's dense pass; the rest is a trial each */
    TRY(dense_states_open(&dense,
        &(struct dense_states_args){.model = &host,
            .par = par,
            .impl = attn_ref.name,
            .set = set,
            .cache = &no_cache,
            .budget_bytes = SIZE_MAX,
            .stop = stop}));
    progress_begin(&progress, "self-test", "trials", N_FAULTS + 1, false);
    TRY_GOTO(st, done,
        trial_run(&reference, &host, par, set, &dense, &definition_method, attn_ref.name, stop));
    out->bounds = bounds_around(&reference.view);
    TRY_GOTO(
        st, done, judge(&reference, &reference, &out->bounds, true, "reference", &out->rows[0]));
    for (int f = 0; f < N_FAULTS && st == OK; f++) {
        struct trial t;
        progress_update(&progress, f + 1);
        st = trial_run(&t, m, par, set, &dense, &methods[f], NULL, stop);
        if (st == OK)
            st = judge(&t, &reference, &out->bounds, f == FAULT_NONE, planted_fault_name(f),
                &out->rows[f + 1]);
        if (st == ERR_NUMERIC) { /* it could not even be run to its end */
            out->rows[f + 1] = (struct selftest_row){.what = planted_fault_name(f),
                .sound = f == FAULT_NONE,
                .cosine = NAN,
                .kl = NAN,
                .sparsity = NAN,
                .token_accuracy = NAN,
                .outcome = CHECK_INVALID,
                .broken = "NaN or infinity"};
            st = OK;
        }
        trial_clear(&t);
    }
done:
    progress_end(&progress);
    trial_clear(&reference);
    dense_states_close(&dense);
    return st;
}

bool selftest_row_told(const struct selftest_row *r)
{
    /* doubled thresholds can end with nothing left out, which the gate calls invalid: told apart as
     * well */
    bool refused = r->outcome == CHECK_FAIL || r->outcome == CHECK_INVALID;
    /* what nothing is wrong with is what the reference is, not merely within bounds: another mask
     * may even do better, and a false ledger counts more left out; rounding moves a tile now and
     * then */
    return r->sound ? r->outcome == CHECK_PASS && !(r->apart > 1) : refused;
}

bool selftest_passes(const struct selftest *t)
{
    for (int i = 0; i < SELFTEST_ROWS; i++)
        if (!selftest_row_told(&t->rows[i])) return false;
    return true;
}

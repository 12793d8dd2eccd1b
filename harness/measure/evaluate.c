#include "harness/measure/evaluate.h"

#include "base/clock.h"
#include "harness/measure/eval_pass.h"
#include "harness/measure/layer_errors.h"
#include "harness/measure/measure.h"
#include "harness/measure/prompts.h"
#include "harness/measure/recall.h"
#include "harness/measure/progress.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Position buckets: the first window, then doublings. */
static const int BUCKETS[] = {
    0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, INT32_MAX};
enum { N_BUCKETS = sizeof BUCKETS / sizeof BUCKETS[0] - 1 };

struct eval_state {
    const struct evaluate_args *a;
    struct evaluation *e;
    struct sample_passes p;
    struct metric_rows metrics;
    int n_cut[2]; /* written answers that the budget ended: dense, sparse */
};

/* From per-token metrics to rows. */

static void add_samples(struct eval_state *s)
{
    const struct sample_set *set = s->a->set;
    struct sample_record *rows = arena_alloc(&s->e->arena, sizeof *rows * (size_t)set->n_samples);
    for (int i = 0; i < set->n_samples; i++) {
        rows[i] =
            measure_sample(i, &set->samples[i], s->p.tokens[i], &s->p.sums[i], &s->p.totals[i]);
    }
    s->e->data.samples = rows;
    s->e->data.n_samples = (size_t)set->n_samples;
    s->e->data.tails = measure_tails(set, (const struct token_metrics *const *)s->p.tokens, rows,
        session_par(s->p.session), &s->e->arena, &s->e->data.n_tails);
}

static void add_ledger(struct eval_state *s)
{
    const struct sparse_policy *p = s->a->policy;
    struct ledger_record *rows = arena_alloc(&s->e->arena, sizeof *rows * (size_t)s->p.n_cells);
    int n_heads = s->a->model->weights.config.n_heads;
    int64_t calls = 0, short_calls = 0;
    for (int c = 0; c < s->p.n_cells; c++) {
        struct head_ledger l = s->p.ledger[c];
        bool sparse = p->method && p->layer_on[c / n_heads] && p->heads[c].is_sparse;
        bool theta = sparse && mask_part(p->method, p->heads[c].part)->takes_theta,
             tau = sparse && p->method->ranked && !(p->topk > 0);
        /* thresholds that this run looks at */
        bool lambda = sparse && (p->method->ranked || p->heads[c].lambda < NEVER_SKIP);
        rows[c] = (struct ledger_record){
            .layer = c / n_heads,
            .head = c % n_heads,
            .tiles_possible = (int64_t)l.tiles_possible,
            .tiles_computed = (int64_t)l.tiles_computed,
            .pv_possible = (int64_t)l.pv_units_possible,
            .pv_computed = (int64_t)l.pv_units_computed,
            .forced_sink = (int64_t)l.forced_sink,
            .forced_diagonal = (int64_t)l.forced_diagonal,
            .forced_theta_q = (int64_t)l.forced_theta_q,
            .forced_theta_k = (int64_t)l.forced_theta_k,
            .calls = s->a->set->n_samples,
            .dense_head = (int64_t)l.calls_dense_head,
            .dense_layer = (int64_t)l.calls_dense_layer,
            .dense_short = (int64_t)l.calls_dense_short,
            .eight = (int64_t)l.calls_eight,
            .tiles_corrected = (int64_t)l.tiles_corrected,
            .theta = theta ? (double)p->heads[c].theta : NAN,
            .tau = tau ? (double)p->heads[c].tau : NAN,
            .lambda = lambda ? (double)p->heads[c].lambda : NAN,
        };
        if (c % n_heads == 0) {
            calls += s->a->set->n_samples;
            short_calls += s->p.short_calls[c];
        }
    }
    s->e->data.ledger = rows;
    s->e->data.n_ledger = (size_t)s->p.n_cells;
    s->e->data.run.attention_calls = calls;
    s->e->data.run.dense_fallback_calls = short_calls;
}

static double answer_kl(const struct eval_state *s, const struct item *item)
{
    double sum = 0;
    for (int i = item->begin; i < item->end; i++)
        sum += (double)s->p.tokens[item->sample][i - 1].kl; /* of the position before */
    return sum / (item->end - item->begin);
}

/* The scores of what was written, and the texts that lost or won. */
static enum status add_written(struct eval_state *s, const struct item *item, struct item_record *r)
{
    const struct wanted *w = item->wanted;
    const struct written *sides[2] = {
        &s->p.dense_written[item->sample], &s->p.sparse_written[item->sample]};
    const char **texts[2] = {&r->dense_text, &r->sparse_text};
    double *values[2] = {&r->dense_value, &r->sparse_value};
    struct str text = {0};
    enum status st = OK;
    for (int i = 0; i < 2; i++) {
        str_reset(&text);
        if ((st = answers_text(s->a->model, sides[i], &text)) != OK) break;
        *values[i] = wanted_score(w, str_get(&text));
        *texts[i] = arena_str(&s->e->arena, str_get(&text));
        s->n_cut[i] += !sides[i]->ended;
    }
    str_reset(&text);
    for (int i = 0; i < w->n_answers; i++) str_addf(&text, "%s%s", i ? " | " : "", w->answers[i]);
    r->expected = arena_str(&s->e->arena, str_get(&text));
    str_clear(&text);
    r->dense_right = r->dense_value == 1;
    r->sparse_right = r->sparse_value == 1;
    return st;
}

/* Answers that the budget ended: a longer one might have been right. */
static void add_cut(struct eval_state *s, struct metric_rows *m, int n_written)
{
    if (!n_written) return;
    metric_rows_add(m, "overall", "cut_dense", n_written)->mean = s->n_cut[0];
    metric_rows_add(m, "overall", "cut_sparse", n_written)->mean = s->n_cut[1];
}

static enum status add_items(struct eval_state *s, struct metric_rows *metrics)
{
    const struct sample_set *set = s->a->set;
    if (!set->n_questions) return OK;
    struct token_score **scores =
        arena_alloc(&s->e->arena, sizeof *scores * (size_t)set->n_samples);
    for (int i = 0; i < set->n_samples; i++) {
        scores[i] = arena_alloc(&s->e->arena, sizeof **scores * (size_t)set->samples[i].n);
        for (int p = 0; p + 1 < set->samples[i].n; p++) {
            const struct token_metrics *t = &s->p.tokens[i][p];
            scores[i][p] = (struct token_score){
                -t->nll_dense, -t->nll_sparse, t->top1_dense == t->next, t->top1_sparse == t->next};
        }
    }
    struct item_score *out = arena_alloc(&s->e->arena, sizeof *out * (size_t)set->n_questions);
    int *gold = arena_alloc(&s->e->arena, sizeof *gold * (size_t)set->n_questions);
    suite_score(set, (const struct token_score *const *)scores, out, gold);
    struct item_record *rows = arena_alloc(&s->e->arena, sizeof *rows * (size_t)set->n_questions);
    bool choices = set->n_items != set->n_questions;
    int *n_candidates = arena_alloc(&s->e->arena, sizeof *n_candidates * (size_t)set->n_questions);
    memset(n_candidates, 0, sizeof *n_candidates * (size_t)set->n_questions);
    for (int i = 0; i < set->n_items; i++) n_candidates[set->items[i].question]++;
    int n_written = 0;
    for (int q = 0; q < set->n_questions; q++) {
        const struct item *item = &set->items[gold[q]];
        rows[q] = (struct item_record){.item = item->id,
            .group = item->group,
            .sample = item->sample,
            .depth = item->depth,
            .length = item->length,
            .dense_score = out[q].dense,
            .sparse_score = out[q].sparse,
            .dense_right = out[q].dense_right,
            .sparse_right = out[q].sparse_right,
            .dense_right_norm = choices ? out[q].dense_right_norm : -1,
            .sparse_right_norm = choices ? out[q].sparse_right_norm : -1,
            .chance = n_candidates[q] > 1 ? 1.0 / n_candidates[q] : 0,
            .kl = answer_kl(s, item),
            .recall = NAN,
            .recall_oracle = NAN,
            .recall_p5 = NAN,
            .recall_group = NAN,
            .dense_value = NAN,
            .sparse_value = NAN};
        if (!item->wanted) continue;
        TRY(add_written(s, item, &rows[q]));
        n_written++;
    }
    s->e->data.items = rows;
    s->e->data.n_items = (size_t)set->n_questions;
    measure_items(metrics, rows, set->n_questions, false);
    if (choices) measure_items(metrics, rows, set->n_questions, true);
    add_cut(s, metrics, n_written);
    return OK;
}

/* One pass a sample, taken beside all else that an evaluation does: nothing is judged by it, so it
 * has no interval, and where the dense passes of some samples came from elsewhere the two sides
 * would speak of different texts. */
static void add_times(struct eval_state *s, struct metric_rows *m)
{
    int n = s->a->set->n_samples;
    bool whole = !s->e->first_layer;
    double dense = 0, sparse = 0;
    for (int i = 0; i < n; i++) {
        whole &= !isnan(s->p.dense_times[i]);
        dense += s->p.dense_times[i] / n;
        sparse += s->p.sparse_times[i] / n;
    }
    if (!whole) return;
    metric_rows_add(m, "overall", "latency_dense", n)->mean = dense;
    metric_rows_add(m, "overall", "latency_sparse", n)->mean = sparse;
}

static enum status add_metrics(struct eval_state *s)
{
    struct metric_rows m = {.arena = &s->e->arena};
    const struct sample_set *set = s->a->set;
    struct measured in = {set, (const struct token_metrics *const *)s->p.tokens,
        {.samples = s->e->data.samples,
            .n_samples = s->e->data.n_samples,
            .tails = s->e->data.tails,
            .n_tails = s->e->data.n_tails},
        session_par(s->p.session)};
    measure_tokens(&m, &in, BUCKETS, N_BUCKETS);
    TRY(add_items(s, &m));
    measure_sparsity(&m, &in);
    if (s->a->parity) {
        struct head_ledger total = {0};
        for (int c = 0; c < s->p.n_cells; c++) head_ledger_add(&total, &s->p.ledger[c]);
        parity_finish(s->a->parity, &total, &m);
    }
    add_times(s, &m);
    s->metrics = m;
    return OK;
}

static void add_tokens(struct eval_state *s)
{
    const struct sample_set *set = s->a->set;
    struct token_block *blocks = arena_alloc(&s->e->arena, sizeof *blocks * (size_t)set->n_samples);
    for (int i = 0; i < set->n_samples; i++) {
        struct token_record *rows =
            arena_alloc(&s->e->arena, sizeof *rows * (size_t)set->samples[i].n);
        for (int p = 0; p < set->samples[i].n; p++) {
            const struct token_metrics *t = &s->p.tokens[i][p];
            rows[p] = (struct token_record){t->next, t->kl, t->cosine, t->nll_dense, t->nll_sparse};
        }
        blocks[i] = (struct token_block){i, (size_t)set->samples[i].n, rows};
    }
    s->e->data.token_blocks = blocks;
    s->e->data.n_token_blocks = (size_t)set->n_samples;
}

static enum status add_worst_tokens(struct eval_state *s)
{
    struct worst_token_record *rows;
    TRY(worst_tokens_records(
        &s->p.worst, s->a->model, s->a->set, s->p.session, &s->e->arena, &rows));
    s->e->data.worst_tokens = rows;
    s->e->data.n_worst_tokens = (size_t)s->p.worst.n;
    return OK;
}

/* What the tuned file's bounds are worth on this text. */
static void add_over_bound(struct eval_state *s, const struct over_bound *o)
{
    int64_t n = (int64_t)o->n_samples * o->n_heads;
    struct metric_record *r = metric_rows_add(&s->metrics, "overall", "over_bound", n);
    r->mean = o->share;
    r->lo = o->lo;
    r->hi = o->hi;
    metric_rows_add(&s->metrics, "overall", "over_bound_worst", n)->mean = o->worst;
    metric_rows_add(&s->metrics, "overall", "over_bound_heads", o->n_heads)->mean = o->heads_over;
    metric_rows_add(&s->metrics, "overall", "over_bound_texts", o->n_samples)->mean =
        o->samples_over;
}

/* Beside the errors: what of the attention was kept. */
static enum status add_recall(struct eval_state *s)
{
    struct recall r;
    TRY(recall_measure(s->a, s->p.session, &s->e->arena, &r));
    int samples = s->a->set->n_samples;
    metric_rows_add(&s->metrics, "overall", "latency_predict", samples)->mean = r.predict_s;
    metric_rows_add(&s->metrics, "overall", "latency_attention", samples)->mean = r.attention_s;
    int64_t n = r.all.n;
    if (!n) return OK;
    metric_rows_add(&s->metrics, "overall", "recall", n)->mean = r.all.mean;
    metric_rows_add(&s->metrics, "overall", "recall_oracle", n)->mean = r.all.oracle;
    metric_rows_add(&s->metrics, "overall", "recall_p5", n)->mean = r.all.p5;
    metric_rows_add(&s->metrics, "overall", "recall_group", n)->mean = r.all.worst_of_group;
    struct item_record *items = (struct item_record *)s->e->data.items; /* ours, see add_items() */
    for (size_t i = 0; i < s->e->data.n_items; i++) {
        if (items[i].sample < 0) continue;
        const struct recall_figures *of = &r.samples[items[i].sample];
        items[i].recall = of->mean;
        items[i].recall_oracle = of->oracle;
        items[i].recall_p5 = of->p5;
        items[i].recall_group = of->worst_of_group;
    }
    return OK;
}

static enum status add_layer_errors(struct eval_state *s)
{
    struct layer_error_record *rows;
    struct over_bound over;
    TRY(layer_errors_measure(
        s->a, s->p.session, &s->e->arena, &rows, &s->e->data.n_layer_errors, &over));
    s->e->data.layer_errors = rows;
    if (over.n_samples > 0 && over.n_heads > 0) add_over_bound(s, &over);
    return OK;
}

static enum status add_generation(struct eval_state *s)
{
    struct generation_record *rows = arena_alloc(&s->e->arena, sizeof *rows * N_GUIDE_PROMPTS);
    TRY(prompts_run(
        s->a->model, s->a->par, s->a->policy, s->a->impl, NULL, &s->e->arena, rows, NULL));
    s->e->data.generations = rows;
    s->e->data.n_generations = N_GUIDE_PROMPTS;
    return OK;
}

enum status evaluate(const struct evaluate_args *a, struct evaluation *out)
{
    assert(!a->set->timed);
    *out = (struct evaluation){0};
    struct eval_state s = {.a = a, .e = out};
    int64_t t0 = clock_ns();
    bool attribution = a->attribution && policy_acts(a->policy);
    if (attribution)
        progress_share(.4); /* two passes over every sample, and three for the errors by layer */
    enum status st = sample_passes_run(&s.p, a, &out->arena);
    if (st == OK) {
        out->first_layer = s.p.first_layer[a->set->n_samples - 1];
        out->data.masks = s.p.masks;
        out->data.n_masks = s.p.n_masks;
        add_samples(&s);
        add_ledger(&s);
        st = add_metrics(&s);
        if (a->keep_tokens) add_tokens(&s);
        if (st == OK) st = add_worst_tokens(&s);
        if (st == OK && attribution) st = add_layer_errors(&s);
        if (st == OK && (a->attribution || a->recall) && a->policy->method) st = add_recall(&s);
        if (st == OK && a->generate) st = add_generation(&s);
        out->data.metrics = s.metrics.rows;
        out->data.n_metrics = s.metrics.n;
    }
    if (st == OK) evaluation_finish(out, a, s.p.session, t0);
    sample_passes_clear(&s.p, a->set->n_samples);
    if (st != OK) evaluation_clear(out);
    return st;
}

#include "harness/evaluate.h"

#include "base/clock.h"
#include "base/stats.h"
#include "harness/latency.h"
#include "harness/layer_errors.h"
#include "harness/measure.h"
#include "harness/progress.h"
#include "harness/prompts.h"
#include "harness/worst_tokens.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Position buckets: the first window, then doublings. */
static const int BUCKETS[] = {0, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, INT32_MAX};
enum { N_BUCKETS = sizeof BUCKETS / sizeof BUCKETS[0] - 1 };

struct eval_state {
    const struct evaluate_args *a;
    struct session *session;
    struct evaluation *e;
    int width, n_cells; /* hidden size; layers x heads */
    float *dense, *sparse;
    const float *dense_rows;        /* of the present sample: `dense`, or what all cells share */
    int32_t *next;
    struct token_metrics **tokens;  /* [n_samples][n] */
    struct tensor_sums *sums;       /* [n_samples] */
    struct head_ledger *ledger;     /* [n_samples, n_cells] */
    double *dense_times, *sparse_times;
    int n_dense_times;
    struct worst_tokens worst;
    double *row_computed, *row_possible; /* tiles per query block of the present sample, over all layers */
    int n_rows;
    int sample; /* the present one */
};

static int64_t peak_resident_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : -1;
}

static void keep_mask(struct eval_state *s, int layer, const struct tile_map *t)
{
    struct evaluation *e = s->e;
    struct mask_record *rows = (struct mask_record *)e->data.masks;
    for (int h = 0; h < t->n_heads; h++) {
        size_t bits = (size_t)t->n_qblocks * (size_t)t->n_kblocks;
        uint8_t *out = pool_alloc(&e->pool, (bits + 7) / 8);
        for (int i = 0; i < t->n_qblocks; i++) {
            const uint64_t *row = tile_map_row(t, h, i);
            for (int j = 0; j < t->n_kblocks; j++) {
                size_t at = (size_t)i * (size_t)t->n_kblocks + (size_t)j;
                if (row[j / 64] >> (j % 64) & 1) out[at / 8] |= (uint8_t)(1u << (at % 8));
            }
        }
        rows[e->data.n_masks++] = (struct mask_record){0, layer, h, t->n_qblocks, t->n_kblocks, out};
    }
}

/* Tiles of each query block row, so that the worst tokens can say how sparse theirs was. */
static enum status watch_layer(void *ctx, const struct layer_view *view)
{
    struct eval_state *s = ctx;
    const struct tile_map *t = view->tiles;
    if (s->a->parity) TRY(parity_layer(s->a->parity, s->sample, view));
    if (!t) return OK;
    int first = view->attn->q_start / t->block.q, n_kv = attn_n_kv(view->attn);
    for (int h = 0; h < t->n_heads; h++)
        for (int i = 0; i < t->n_qblocks; i++) {
            const uint64_t *row = tile_map_row(t, h, i);
            int set = 0;
            for (int w = 0; w < t->words_per_row; w++) set += __builtin_popcountll(row[w]);
            s->row_computed[first + i] += set;
            s->row_possible[first + i] += tiles_possible(t->block, first + i, n_kv);
        }
    /* A chunked prefill shows a layer several times; its first view is kept. */
    if (s->a->keep_masks && s->n_rows == 0 && first == 0) keep_mask(s, view->layer, t);
    return OK;
}

static enum status dense_pass(struct eval_state *s, int i)
{
    const struct sample *x = &s->a->set->samples[i];
    char key[HASH_HEX_SIZE];
    s->dense_rows = s->a->states ? s->a->states->hidden[i] : s->dense;
    if (s->a->states) return OK;
    dense_cache_key(key, s->a->model, s->a->impl, x->ids, x->n);
    if (dense_cache_get(s->a->cache, key, x->n, s->width, s->dense)) return OK;
    session_reset(s->session);
    int64_t t0 = clock_ns();
    TRY(session_forward(s->session, &(struct forward_args){.tokens = x->ids, .n = x->n, .hidden = s->dense,
                                                           .stop = s->a->stop, .stop_ctx = s->a->stop_ctx}));
    s->dense_times[s->n_dense_times++] = (double)(clock_ns() - t0) * 1e-9;
    dense_cache_put(s->a->cache, key, x->n, s->width, s->dense);
    return OK;
}

/* Where the policy begins to matter and a stored stream lets the pass begin; the layers before it are entered into the
 * ledger as the shared dense pass counted them. */
static int start_layer(struct eval_state *s, int i, const float **stream, struct head_ledger *ledger)
{
    const struct sparse_policy *p = s->a->policy;
    const struct head_ledger *counts = NULL;
    if (!s->a->states || !p->method) return 0;
    int first = dense_states_start(s->a->states, i, policy_first_sparse_layer(p), p->block, stream, &counts);
    for (int l = 0; l < first; l++)
        for (int h = 0; h < p->n_heads; h++) head_ledger_add(&ledger[l * p->n_heads + h], &counts[h]);
    s->e->first_layer = first;
    return first;
}

static enum status sparse_pass(struct eval_state *s, int i)
{
    const struct sample *x = &s->a->set->samples[i];
    session_reset(s->session);
    int n_rows = (x->n + s->a->policy->block.q - 1) / s->a->policy->block.q;
    memset(s->row_computed, 0, sizeof(double) * (size_t)n_rows);
    memset(s->row_possible, 0, sizeof(double) * (size_t)n_rows);
    struct head_ledger *ledger = s->ledger + (size_t)i * (size_t)s->n_cells;
    const float *stream = NULL;
    int first = start_layer(s, i, &stream, ledger);
    int64_t t0 = clock_ns();
    TRY(session_forward(s->session, &(struct forward_args){
                                        .tokens = x->ids, .n = x->n, .policy = s->a->policy, .ledger = ledger,
                                        .first_layer = first, .residual_in = stream, .hidden = s->sparse,
                                        .hook = watch_layer, .hook_ctx = s, .hook_tiles_only = true, .stop = s->a->stop, .stop_ctx = s->a->stop_ctx}));
    s->sparse_times[i] = (double)(clock_ns() - t0) * 1e-9;
    s->n_rows = n_rows;
    for (int r = 0; r < n_rows; r++)
        s->row_computed[r] = s->row_possible[r] > 0 ? 1 - s->row_computed[r] / s->row_possible[r] : 0;
    return OK;
}

static enum status run_sample(struct eval_state *s, int i)
{
    const struct sample *x = &s->a->set->samples[i];
    s->sample = i;
    TRY(dense_pass(s, i));
    TRY(sparse_pass(s, i));
    for (int p = 0; p < x->n; p++) s->next[p] = p + 1 < x->n ? x->ids[p + 1] : -1;
    enum status st = session_compare(s->session, x->n, s->dense_rows, s->sparse, s->next, s->tokens[i], &s->sums[i]);
    if (st == OK && s->a->parity)
        st = parity_sample(s->a->parity, i, s->session, s->dense_rows, s->sparse, s->next);
    if (st != OK) return fail_context(st, "%s", x->name);
    worst_tokens_offer(&s->worst, i, x->n, s->tokens[i], s->dense_rows, s->sparse, s->row_computed, s->a->policy->block.q);
    return OK;
}

/* From per-token metrics to rows. */

static void add_samples(struct eval_state *s)
{
    const struct sample_set *set = s->a->set;
    struct sample_record *rows = pool_alloc(&s->e->pool, sizeof *rows * (size_t)set->n_samples);
    for (int i = 0; i < set->n_samples; i++) {
        struct head_ledger total = {0};
        for (int c = 0; c < s->n_cells; c++) head_ledger_add(&total, &s->ledger[i * s->n_cells + c]);
        rows[i] = measure_sample(i, &set->samples[i], s->tokens[i], &s->sums[i], &total);
    }
    s->e->data.samples = rows;
    s->e->data.n_samples = (size_t)set->n_samples;
}

static void add_ledger(struct eval_state *s)
{
    const struct sparse_policy *p = s->a->policy;
    struct ledger_record *rows = pool_alloc(&s->e->pool, sizeof *rows * (size_t)s->n_cells);
    int n_heads = s->a->model->weights.config.n_heads;
    int64_t calls = 0, short_calls = 0;
    for (int c = 0; c < s->n_cells; c++) {
        struct head_ledger l = {0};
        for (int i = 0; i < s->a->set->n_samples; i++) head_ledger_add(&l, &s->ledger[i * s->n_cells + c]);
        bool sparse = p->method && p->layer_on[c / n_heads] && p->heads[c].is_sparse;
        int n_short = 0; /* samples, however many chunks each was cut into */
        for (int i = 0; i < s->a->set->n_samples; i++) n_short += s->ledger[i * s->n_cells + c].calls_dense_short > 0;
        rows[c] = (struct ledger_record){
            .layer = c / n_heads, .head = c % n_heads,
            .tiles_possible = (int64_t)l.tiles_possible, .tiles_computed = (int64_t)l.tiles_computed,
            .pv_possible = (int64_t)l.pv_units_possible, .pv_computed = (int64_t)l.pv_units_computed,
            .forced_sink = (int64_t)l.forced_sink, .forced_diagonal = (int64_t)l.forced_diagonal,
            .forced_theta_q = (int64_t)l.forced_theta_q, .forced_theta_k = (int64_t)l.forced_theta_k,
            .calls = s->a->set->n_samples, .dense_head = (int64_t)l.calls_dense_head,
            .dense_layer = (int64_t)l.calls_dense_layer, .dense_short = (int64_t)l.calls_dense_short,
            .theta = sparse ? (double)p->heads[c].simthreshd1 : NAN, .tau = sparse ? (double)p->heads[c].cdfthreshd : NAN,
            .lambda = sparse ? (double)p->heads[c].pvthreshd : NAN,
        };
        if (c % n_heads == 0) {
            calls += s->a->set->n_samples;
            short_calls += n_short;
        }
    }
    s->e->data.ledger = rows;
    s->e->data.n_ledger = (size_t)s->n_cells;
    s->e->data.run.attention_calls = calls;
    s->e->data.run.dense_fallback_calls = short_calls;
}

static void add_items(struct eval_state *s, struct metric_rows *metrics)
{
    const struct sample_set *set = s->a->set;
    if (!set->n_questions) return;
    struct token_score **scores = pool_alloc(&s->e->pool, sizeof *scores * (size_t)set->n_samples);
    for (int i = 0; i < set->n_samples; i++) {
        scores[i] = pool_alloc(&s->e->pool, sizeof **scores * (size_t)set->samples[i].n);
        for (int p = 0; p + 1 < set->samples[i].n; p++) {
            const struct token_metrics *t = &s->tokens[i][p];
            scores[i][p] = (struct token_score){-t->nll_dense, -t->nll_sparse, t->top1_dense == t->next,
                                                t->top1_sparse == t->next};
        }
    }
    struct item_score *out = pool_alloc(&s->e->pool, sizeof *out * (size_t)set->n_questions);
    int *gold = pool_alloc(&s->e->pool, sizeof *gold * (size_t)set->n_questions);
    suite_score(set, (const struct token_score *const *)scores, out, gold);
    struct item_record *rows = pool_alloc(&s->e->pool, sizeof *rows * (size_t)set->n_questions);
    for (int q = 0; q < set->n_questions; q++) {
        const struct item *item = &set->items[gold[q]];
        rows[q] = (struct item_record){.item = item->id, .group = item->group, .sample = item->sample,
                                       .depth = item->depth, .length = item->length, .dense_score = out[q].dense,
                                       .sparse_score = out[q].sparse, .dense_right = out[q].dense_right,
                                       .sparse_right = out[q].sparse_right, .has_norm = set->n_items != set->n_questions,
                                       .dense_right_norm = out[q].dense_right_norm,
                                       .sparse_right_norm = out[q].sparse_right_norm};
    }
    s->e->data.items = rows;
    s->e->data.n_items = (size_t)set->n_questions;
    measure_items(metrics, "", rows, set->n_questions, set->n_samples, s->a->n_resamples, s->a->seed);
    if (set->n_items == set->n_questions) return;
    struct item_record *norm = pool_alloc(&s->e->pool, sizeof *norm * (size_t)set->n_questions); /* multiple choice */
    for (int q = 0; q < set->n_questions; q++) {
        norm[q] = rows[q];
        norm[q].dense_right = out[q].dense_right_norm;
        norm[q].sparse_right = out[q].sparse_right_norm;
    }
    measure_items(metrics, "_norm", norm, set->n_questions, set->n_samples, s->a->n_resamples, s->a->seed);
}

static void add_metrics(struct eval_state *s)
{
    struct metric_rows m = {.pool = &s->e->pool};
    const struct sample_set *set = s->a->set;
    struct measured in = {set, (const struct token_metrics *const *)s->tokens, s->sums, s->e->data.samples,
                          s->a->n_resamples, s->a->seed};
    measure_overall(&m, &in);
    for (int b = 0; b < N_BUCKETS; b++) measure_positions(&m, &in, BUCKETS[b], BUCKETS[b + 1]);
    add_items(s, &m);
    struct head_ledger total = {0};
    for (int c = 0; c < s->n_cells * set->n_samples; c++) head_ledger_add(&total, &s->ledger[c]);
    measure_sparsity(&m, &in, &total);
    if (s->a->parity) parity_finish(s->a->parity, &total, &m);
    if (s->n_dense_times) measure_latency(&m, &in, "latency_dense", s->dense_times, s->n_dense_times);
    if (!s->e->first_layer) measure_latency(&m, &in, "latency_sparse", s->sparse_times, set->n_samples);
    s->e->data.metrics = m.rows;
    s->e->data.n_metrics = m.n;
}

static void add_tokens(struct eval_state *s)
{
    const struct sample_set *set = s->a->set;
    struct token_block *blocks = pool_alloc(&s->e->pool, sizeof *blocks * (size_t)set->n_samples);
    for (int i = 0; i < set->n_samples; i++) {
        struct token_record *rows = pool_alloc(&s->e->pool, sizeof *rows * (size_t)set->samples[i].n);
        for (int p = 0; p < set->samples[i].n; p++) {
            const struct token_metrics *t = &s->tokens[i][p];
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
    TRY(worst_tokens_records(&s->worst, s->a->model, s->a->set, s->session, &s->e->pool, &rows));
    s->e->data.worst_tokens = rows;
    s->e->data.n_worst_tokens = (size_t)s->worst.n;
    return OK;
}

static enum status add_layer_errors(struct eval_state *s)
{
    struct layer_error_record *rows;
    TRY(layer_errors_measure(s->a, s->session, &s->e->pool, &rows, &s->e->data.n_layer_errors));
    s->e->data.layer_errors = rows;
    return OK;
}

static enum status add_generation(struct eval_state *s)
{
    struct generation_record *rows = pool_alloc(&s->e->pool, sizeof *rows * N_GUIDE_PROMPTS);
    TRY(prompts_run(s->a->model, s->a->par, s->a->policy, s->a->impl, &s->e->pool, rows));
    s->e->data.generations = rows;
    s->e->data.n_generations = N_GUIDE_PROMPTS;
    return OK;
}

static enum status prepare(struct eval_state *s)
{
    const struct sample_set *set = s->a->set;
    const struct weights *w = &s->a->model->weights;
    int longest = 0;
    for (int i = 0; i < set->n_samples; i++)
        if (set->samples[i].n > longest) longest = set->samples[i].n;
    s->width = w->config.hidden_size;
    s->n_cells = w->config.n_layers * w->config.n_heads;
    size_t rows = (size_t)longest * (size_t)s->width, n = (size_t)set->n_samples;
    s->dense = malloc(rows * sizeof(float));
    s->sparse = malloc(rows * sizeof(float));
    s->next = malloc((size_t)longest * sizeof *s->next);
    s->tokens = calloc(n, sizeof *s->tokens);
    s->sums = calloc(n, sizeof *s->sums);
    s->ledger = calloc(n * (size_t)s->n_cells, sizeof *s->ledger);
    s->dense_times = calloc(n, sizeof(double));
    s->sparse_times = calloc(n, sizeof(double));
    size_t row_blocks = (size_t)longest / 64 + 1;
    s->row_computed = calloc(row_blocks, sizeof(double));
    s->row_possible = calloc(row_blocks, sizeof(double));
    bool ok = s->row_computed && s->row_possible && s->dense && s->sparse && s->next && s->tokens && s->sums && s->ledger && s->dense_times &&
              s->sparse_times;
    for (int i = 0; ok && i < set->n_samples; i++) {
        s->tokens[i] = malloc(sizeof **s->tokens * (size_t)set->samples[i].n);
        ok = s->tokens[i] != NULL;
    }
    if (!ok) return fail(ERR_MEMORY, "no memory to evaluate %d samples of %d tokens; lower --max-length", set->n_samples,
                         longest);
    if (s->a->keep_masks) s->e->data.masks = pool_alloc(&s->e->pool, sizeof(struct mask_record) * (size_t)s->n_cells);
    TRY(worst_tokens_init(&s->worst, s->a->n_worst, s->width));
    return session_open_once(&s->session, w, s->a->par, longest, s->a->chunk, s->a->impl);
}

static void release(struct eval_state *s)
{
    session_close(&s->session);
    for (int i = 0; s->tokens && i < s->a->set->n_samples; i++) free(s->tokens[i]);
    free(s->tokens);
    free(s->sums);
    free(s->ledger);
    worst_tokens_clear(&s->worst);
    free(s->row_computed);
    free(s->row_possible);
    free(s->dense_times);
    free(s->sparse_times);
    free(s->dense);
    free(s->sparse);
    free(s->next);
}

enum status evaluate(const struct evaluate_args *a, struct evaluation *out)
{
    if (a->set->timed) return latency_measure(a, out);
    *out = (struct evaluation){0};
    struct eval_state s = {.a = a, .e = out};
    struct progress progress;
    int64_t t0 = clock_ns();
    double total = 0, done = 0;
    for (int i = 0; i < a->set->n_samples; i++) total += a->set->samples[i].n;
    progress_begin(&progress, "eval", "tokens", total, a->quiet);
    enum status st = prepare(&s);
    for (int i = 0; st == OK && i < a->set->n_samples; i++) {
        st = run_sample(&s, i);
        progress_update(&progress, done += a->set->samples[i].n);
    }
    progress_end(&progress);
    if (st == OK) {
        add_samples(&s);
        add_ledger(&s);
        add_metrics(&s);
        if (a->keep_tokens) add_tokens(&s);
        st = add_worst_tokens(&s);
        if (st == OK && a->attribution && a->policy->method) st = add_layer_errors(&s);
        if (st == OK && a->generate) st = add_generation(&s);
    }
    if (st == OK) {
        for (int i = 0; i < s.n_dense_times; i++) out->dense_s += s.dense_times[i];
        for (int i = 0; i < a->set->n_samples; i++) out->sparse_s += s.sparse_times[i];
        struct run_record *r = &out->data.run;
        r->status = RUN_DONE;
        r->wall_s = (double)(clock_ns() - t0) * 1e-9;
        r->peak_bytes = peak_resident_bytes();
        struct weights_device_info device;
        weights_device_describe(&a->model->weights, &device);
        r->peak_device_bytes = device.peak_bytes ? (int64_t)device.peak_bytes : -1;
        r->impls = pool_str(&out->pool, session_impls(s.session));
    }
    release(&s);
    if (st != OK) evaluation_clear(out);
    return st;
}

void evaluation_clear(struct evaluation *e)
{
    pool_free(&e->pool);
    *e = (struct evaluation){0};
}

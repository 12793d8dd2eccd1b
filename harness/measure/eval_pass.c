#include "harness/measure/eval_pass.h"

#include "base/clock.h"
#include "harness/measure/progress.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the devices share; all but `p`'s arrays, in which each sample has its place, under the lock.
 */
struct pass_shared {
    const struct evaluate_args *a;
    struct sample_passes *p;
    struct arena **arena;
    pthread_mutex_t lock;
    struct progress progress;
    double n_tokens_done;
    int next_sample, longest, width;
    int share;          /* of the samples for one device */
    enum status status; /* of the first sample that failed, */
    int failed_sample;  /* this one; n_samples: none */
    char message[1024];
};

struct pass_worker {
    struct pass_shared *all;
    struct eval_device device;
    struct session *session;
    struct answer_writer *writer;  /* NULL: no sample has a prompt of its own */
    struct resident dense, sparse; /* of the sample that is compared */
    float *host;                   /* a sample's, where hidden states are kept or looked at there */
    int32_t *next;
    int at_once; /* samples that pass together */
    /* [2 × at_once] the passes under way, in the order of the samples */
    struct pass_item *items;
    struct forward_args *calls;
    int n_items;
    double n_tokens, told; /* of these samples; told: that progress knows of. Under the lock */
    double layers_seen, layers_expected; /* by all of the passes */
    pthread_t thread;
    bool started;
};

/* One pass of one sample. */
struct pass_item {
    struct pass_worker *w;
    int sample;
    bool sparse;
    /* of a sparse one: */
    const struct resident *dense;        /* what it is compared with, when that is known */
    double *row_computed, *row_possible; /* tiles per query block, over all layers */
    struct head_ledger *ledger;          /* [n_cells] */
};

static void keep_mask(struct pass_shared *all, int layer, const struct tile_map *t)
{
    for (int h = 0; h < t->n_heads; h++) {
        size_t bits = (size_t)t->n_qblocks * (size_t)t->n_kblocks;
        uint8_t *out = arena_alloc(all->arena, (bits + 7) / 8);
        for (int i = 0; i < t->n_qblocks; i++) {
            const uint64_t *row = tile_map_row(t, h, i);
            for (int j = 0; j < t->n_kblocks; j++) {
                size_t at = (size_t)i * (size_t)t->n_kblocks + (size_t)j;
                if (row[j / 64] >> (j % 64) & 1) out[at / 8] |= (uint8_t)(1u << (at % 8));
            }
        }
        all->p->masks[all->p->n_masks++] =
            (struct mask_record){0, layer, h, t->n_qblocks, t->n_kblocks, out};
    }
}

/* Tiles of each query block row, so that the worst tokens can say how sparse theirs was. */
static enum status watch_layer(void *ctx, const struct layer_view *view)
{
    struct pass_item *x = ctx;
    struct pass_shared *all = x->w->all;
    const struct tile_map *t = view->tiles;
    if (all->a->parity) TRY(parity_layer(all->a->parity, x->sample, view));
    if (!t) return OK;
    int first = view->attn->q_start / t->block.q, n_kv = attn_n_kv(view->attn);
    for (int h = 0; h < t->n_heads; h++)
        for (int i = 0; i < t->n_qblocks; i++) {
            const uint64_t *row = tile_map_row(t, h, i);
            int set = 0;
            for (int k = 0; k < t->words_per_row; k++) set += __builtin_popcountll(row[k]);
            x->row_computed[first + i] += set;
            x->row_possible[first + i] += tiles_possible(t->block, first + i, n_kv);
        }
    /* A chunked prefill shows a layer several times; its first view is kept. */
    if (all->p->masks && x->sample == 0 && first == 0) keep_mask(all, view->layer, t);
    return OK;
}

static size_t values_of(const struct pass_shared *all, int i)
{
    return (size_t)all->a->set->samples[i].n * (size_t)all->width;
}

/* What all cells share, or what was kept of an earlier run; else *rows is NULL. */
static enum status known_dense(struct pass_worker *w, int i, const struct resident **rows)
{
    struct pass_shared *all = w->all;
    const struct evaluate_args *a = all->a;
    const struct sample *x = &a->set->samples[i];
    char key[HASH_HEX_SIZE];
    struct written *written = &all->p->dense_written[i];
    bool cached = false;
    *rows = NULL;
    answers_dense_key(key, a->model, a->impl, x);
    pthread_mutex_lock(&all->lock);
    if (!sample_wanted(a->set, i) || written->n ||
        answers_cached(a->cache, a->model, a->impl, a->set, i, written)) {
        if (a->states) *rows = &a->states->hidden[i];
        else if (w->host) cached = dense_cache_get(a->cache, key, x->n, all->width, w->host);
    }
    pthread_mutex_unlock(&all->lock);
    if (cached) TRY(resident_write(&w->dense, 0, values_of(all, i), w->host));
    if (cached) *rows = &w->dense;
    /* shared on another device than this worker's: made again here */
    if (*rows && !resident_serves(*rows, w->device.weights)) *rows = NULL;
    return OK;
}

/* The share of its samples that a worker is through with. Under the lock. */
static void tell_share(struct pass_worker *w, double share)
{
    struct pass_shared *all = w->all;
    double more = share * w->n_tokens - w->told;
    w->told += more;
    progress_update(&all->progress, all->n_tokens_done += more);
}

/* Between layers: may it go on, and how far it is. Where chunks are many the guess falls short;
 * where layers are on several devices several ask at once. */
static bool pass_stop(void *ctx)
{
    struct pass_worker *w = ctx;
    struct pass_shared *all = w->all;
    pthread_mutex_lock(&all->lock);
    tell_share(w, fmin(.98, w->layers_seen++ / w->layers_expected));
    pthread_mutex_unlock(&all->lock);
    return all->a->stop && all->a->stop(all->a->stop_ctx);
}

static void expect_layers(struct pass_worker *w, const struct forward_args *f)
{
    const struct evaluate_args *a = w->all->a;
    w->layers_expected += (double)(a->model->weights.config.n_layers - f->first_layer) *
        (a->chunk > 0 ? (f->n + a->chunk - 1) / a->chunk : 1);
}

static struct forward_args dense_call(const struct pass_worker *w, int i)
{
    const struct evaluate_args *a = w->all->a;
    const struct sample *x = &a->set->samples[i];
    return (struct forward_args){.tokens = x->ids,
        .n = x->n,
        .hidden = w->dense.at,
        .hidden_on_device = w->dense.on != NULL,
        .stop = pass_stop,
        .stop_ctx = (void *)w};
}

static enum status keep_dense(struct pass_worker *w, int i, double seconds)
{
    struct pass_shared *all = w->all;
    const struct evaluate_args *a = all->a;
    const struct sample *x = &a->set->samples[i];
    char key[HASH_HEX_SIZE];
    all->p->dense_times[i] = seconds;
    answers_dense_key(key, a->model, a->impl, x);
    if (w->host) TRY(resident_read(&w->dense, 0, values_of(all, i), w->host));
    pthread_mutex_lock(&all->lock);
    if (w->host) dense_cache_put(a->cache, key, x->n, all->width, w->host);
    pthread_mutex_unlock(&all->lock);
    return OK;
}

/* Where the policy begins to matter and a stored stream lets the pass begin; the layers before it
 * are entered into the ledger as the shared dense pass counted them. */
static int start_layer(
    const struct evaluate_args *a, int i, const float **stream, struct head_ledger *ledger)
{
    const struct sparse_policy *p = a->policy;
    const struct head_ledger *counts = NULL;
    if (!a->states || !policy_acts(p)) return 0;
    int first =
        dense_states_start(a->states, i, policy_first_sparse_layer(p), p->block, stream, &counts);
    for (int l = 0; l < first; l++)
        for (int h = 0; h < p->n_heads; h++)
            head_ledger_add(&ledger[l * p->n_heads + h], &counts[h]);
    return first;
}

static enum status sparse_call(struct pass_item *x, struct forward_args *f)
{
    const struct evaluate_args *a = x->w->all->a;
    struct sample_passes *p = x->w->all->p;
    const struct sample *sample = &a->set->samples[x->sample];
    size_t n_rows = (size_t)(sample->n + a->policy->block.q - 1) / (size_t)a->policy->block.q;
    x->row_computed = calloc(2 * n_rows, sizeof *x->row_computed);
    x->ledger = calloc((size_t)p->n_cells, sizeof *x->ledger);
    if (!x->row_computed || !x->ledger)
        return fail(ERR_MEMORY, "no memory to count the tiles of %d tokens", sample->n);
    x->row_possible = x->row_computed + n_rows;
    const float *stream = NULL;
    p->first_layer[x->sample] = start_layer(a, x->sample, &stream, x->ledger);
    *f = dense_call(x->w, x->sample);
    f->policy = a->policy;
    f->ledger = x->ledger;
    f->first_layer = p->first_layer[x->sample];
    f->residual_in = stream;
    f->hidden = x->w->sparse.at;
    f->hidden_on_device = x->w->sparse.on != NULL;
    f->hook = watch_layer;
    f->hook_ctx = x;
    f->hook_tiles_only = true;
    return OK;
}

/* Counts are whole numbers, so their sums do not depend on the order of samples. Under the lock. */
static void fold_ledger(struct sample_passes *p, const struct head_ledger *of_sample, int i)
{
    for (int c = 0; c < p->n_cells; c++) {
        head_ledger_add(&p->totals[i], &of_sample[c]);
        head_ledger_add(&p->ledger[c], &of_sample[c]);
        p->short_calls[c] += of_sample[c].calls_dense_short > 0;
    }
}

static enum status ignore_done(void *ctx, int i, double seconds)
{
    (void)ctx, (void)i, (void)seconds;
    return OK;
}

static enum status compare_sample(struct pass_item *item)
{
    struct pass_worker *w = item->w;
    struct pass_shared *all = w->all;
    struct sample_passes *p = all->p;
    int i = item->sample;
    const struct sample *x = &all->a->set->samples[i];
    const struct resident *dense = isnan(p->dense_times[i]) ? item->dense : &w->dense;
    if (!dense) TRY(known_dense(w, i, &dense));
    if (!dense) { /* kept no longer than until now */
        int failed;
        struct forward_args again = dense_call(w, i);
        TRY(session_forward_each(w->session, &again, 1, ignore_done, NULL, &failed));
        dense = &w->dense;
    }
    int n_rows = (x->n + all->a->policy->block.q - 1) / all->a->policy->block.q;
    for (int r = 0; r < n_rows; r++)
        item->row_computed[r] =
            item->row_possible[r] > 0 ? 1 - item->row_computed[r] / item->row_possible[r] : 0;
    for (int t = 0; t < x->n; t++) w->next[t] = t + 1 < x->n ? x->ids[t + 1] : -1;
    enum status st = session_compare(w->session, x->n, resident_rows(dense),
        resident_rows(&w->sparse), w->next, p->tokens[i], &p->sums[i]);
    if (st == OK && all->a->parity) /* which keeps them on the host */
        st = parity_sample(all->a->parity, i, w->session, dense->at, w->sparse.at, w->next);
    if (st != OK) return fail_context(st, "%s", x->name);
    pthread_mutex_lock(&all->lock);
    fold_ledger(p, item->ledger, i);
    st = worst_tokens_offer(&p->worst, i, x->n, p->tokens[i], dense, &w->sparse, item->row_computed,
        all->a->policy->block.q);
    pthread_mutex_unlock(&all->lock);
    return st;
}

static enum status pass_done(void *ctx, int k, double seconds)
{
    struct pass_worker *w = ctx;
    struct pass_item *x = &w->items[k];
    if (!x->sparse) {
        return keep_dense(w, x->sample, seconds);
    }
    w->all->p->sparse_times[x->sample] = seconds;
    return compare_sample(x);
}

static void dense_is_written(void *ctx, int i, struct written *written)
{
    struct pass_shared *all = ((struct pass_worker *)ctx)->all;
    const struct evaluate_args *a = all->a;
    all->p->dense_written[i] = *written;
    pthread_mutex_lock(&all->lock);
    answers_keep(a->cache, a->model, a->impl, a->set, i, written);
    pthread_mutex_unlock(&all->lock);
}

static void sparse_is_written(void *ctx, int i, struct written *written)
{
    ((struct pass_worker *)ctx)->all->p->sparse_written[i] = *written;
}

/* A prompt, behind which an answer is read and one is written: one pass after the other. */
static enum status run_written(struct pass_worker *w, int i, int *failed)
{
    struct sample_passes *p = w->all->p;
    struct pass_item *x = &w->items[w->n_items++];
    struct forward_args f = dense_call(w, i);
    double seconds;
    *x = (struct pass_item){.w = w, .sample = i, .sparse = true};
    TRY(known_dense(w, i, &x->dense));
    p->dense_times[i] = NAN;
    for (int k = x->dense ? 1 : 0; k < 2; k++) expect_layers(w, &f);
    if (!x->dense) {
        written_clear(&p->dense_written[i]);
        TRY(answers_pass(w->writer, i, &f, w->dense.at, dense_is_written, w, &seconds, failed));
        TRY(keep_dense(w, i, seconds));
    }
    TRY(sparse_call(x, &f));
    TRY(answers_pass(
        w->writer, i, &f, w->sparse.at, sparse_is_written, w, &p->sparse_times[i], failed));
    return compare_sample(x);
}

static enum status named(const struct evaluate_args *a, enum status st, int sample)
{
    return st == ERR_NUMERIC ? fail_context(st, "%s", a->set->samples[sample].name) : st;
}

static enum status run_items(struct pass_worker *w, int first, int end, int *sample)
{
    const struct evaluate_args *a = w->all->a;
    if (a->set->samples[first].n_prompt) return named(a, run_written(w, first, sample), *sample);
    for (int i = first; i < end; i++) {
        const struct resident *known;
        *sample = i;
        TRY(known_dense(w, i, &known));
        w->all->p->dense_times[i] = NAN;
        if (!known) {
            w->calls[w->n_items] = dense_call(w, i);
            w->items[w->n_items++] = (struct pass_item){.w = w, .sample = i};
        }
        struct pass_item *x = &w->items[w->n_items];
        *x = (struct pass_item){.w = w, .sample = i, .sparse = true};
        if (a->states || end - first == 1) x->dense = known; /* others overwrite what was read */
        TRY(sparse_call(x, &w->calls[w->n_items++]));
    }
    for (int k = 0; k < w->n_items; k++) expect_layers(w, &w->calls[k]);
    int failed;
    enum status st = session_forward_each(w->session, w->calls, w->n_items, pass_done, w, &failed);
    *sample = w->items[failed].sample;
    return named(a, st, *sample);
}

/* Samples [first, end): one, or with weights that come layer by layer all that this device takes.
 */
static enum status run_batch(struct pass_worker *w, int first, int end, int *sample)
{
    const struct evaluate_args *a = w->all->a;
    w->n_items = 0;
    w->n_tokens = w->told = w->layers_seen = w->layers_expected = 0;
    for (int i = first; i < end; i++) w->n_tokens += a->set->samples[i].n;
    w->items = calloc(2 * (size_t)(end - first), sizeof *w->items);
    w->calls = calloc(2 * (size_t)(end - first), sizeof *w->calls);
    *sample = first;
    enum status st = w->items && w->calls
        ? run_items(w, first, end, sample)
        : fail(ERR_MEMORY, "no memory for %d samples", end - first);
    for (int k = 0; w->items && k < w->n_items; k++) {
        free(w->items[k].row_computed);
        free(w->items[k].ledger);
    }
    free(w->items);
    free(w->calls);
    pthread_mutex_lock(&w->all->lock);
    tell_share(w, 1);
    pthread_mutex_unlock(&w->all->lock);
    return st;
}

static void *run_samples(void *opaque)
{
    struct pass_worker *w = opaque;
    struct pass_shared *all = w->all;
    int n = all->a->set->n_samples;
    for (;;) {
        pthread_mutex_lock(&all->lock);
        bool well = all->status == OK;
        int first = well ? all->next_sample : n,
            end = first + w->at_once < n ? first + w->at_once : n, sample;
        all->next_sample = end;
        pthread_mutex_unlock(&all->lock);
        bool last = first >= n;
        if (last && (!well || !w->writer)) return NULL;
        enum status st = last ? named(all->a, answers_finish(w->writer, &sample), sample)
                              : run_batch(w, first, end, &sample);
        if (st == OK && last) return NULL;
        if (st == OK) continue;
        pthread_mutex_lock(&all->lock);
        if (sample < all->failed_sample) {
            all->failed_sample = sample;
            all->status = st;
            snprintf(all->message, sizeof all->message, "%s", status_message());
        }
        pthread_mutex_unlock(&all->lock);
    }
}

static enum status no_memory(const struct pass_shared *all)
{
    return fail(ERR_MEMORY, "no memory to evaluate %d samples of %d tokens; lower --max-length",
        all->a->set->n_samples, all->longest);
}

static enum status worker_open(
    struct pass_worker *w, struct pass_shared *all, struct eval_device device)
{
    size_t rows = (size_t)all->longest * (size_t)all->width;
    *w = (struct pass_worker){.all = all, .device = device};
    w->next = malloc((size_t)all->longest * sizeof *w->next);
    if (all->a->cache && all->a->cache->dir) w->host = malloc(rows * sizeof(float));
    if (!w->next || (all->a->cache && all->a->cache->dir && !w->host)) return no_memory(all);
    bool writes = sample_set_writes(all->a->set);
    TRY((writes ? session_open : session_open_once)(&w->session, device.weights, device.par,
        sample_set_room(all->a->set), all->a->chunk, all->a->impl));
    bool host = all->a->parity != NULL;
    const char *what = "the hidden states of a sample; lower --max-length";
    TRY(resident_open(&w->dense, device.weights, rows, host, what));
    TRY(resident_open(&w->sparse, device.weights, rows, host, what));
    int fit = writes ? 1 : session_at_once(w->session, all->longest) / 2; /* dense and sparse */
    w->at_once = fit < 1 ? 1 : fit < all->share ? fit : all->share;
    if (!writes) return OK;
    return answers_open(
        &w->writer, w->session, all->a->model, all->a->set, all->a->stop, all->a->stop_ctx);
}

static void worker_close(struct pass_worker *w)
{
    session_close(&w->session);
    resident_close(&w->dense);
    resident_close(&w->sparse);
    free(w->host);
    free(w->next);
}

static enum status prepare(struct sample_passes *p, const struct pass_shared *all)
{
    const struct evaluate_args *a = all->a;
    const struct llama_config *c = &a->model->weights.config;
    size_t n = (size_t)a->set->n_samples;
    *p = (struct sample_passes){.n_cells = c->n_layers * c->n_heads};
    p->tokens = calloc(n, sizeof *p->tokens);
    p->sums = calloc(n, sizeof *p->sums);
    p->totals = calloc(n, sizeof *p->totals);
    p->ledger = calloc((size_t)p->n_cells, sizeof *p->ledger);
    p->short_calls = calloc((size_t)p->n_cells, sizeof *p->short_calls);
    p->dense_times = calloc(n, sizeof(double));
    p->sparse_times = calloc(n, sizeof(double));
    p->first_layer = calloc(n, sizeof *p->first_layer);
    p->dense_written = calloc(n, sizeof *p->dense_written);
    p->sparse_written = calloc(n, sizeof *p->sparse_written);
    bool ok = p->tokens && p->sums && p->totals && p->ledger && p->short_calls && p->dense_times &&
        p->sparse_times && p->first_layer && p->dense_written && p->sparse_written;
    for (size_t i = 0; ok && i < n; i++) {
        p->tokens[i] = malloc(sizeof **p->tokens * (size_t)a->set->samples[i].n);
        ok = p->tokens[i] != NULL;
    }
    if (!ok) return no_memory(all);
    if (a->keep_masks) p->masks = arena_alloc(all->arena, sizeof *p->masks * (size_t)p->n_cells);
    return worst_tokens_init(&p->worst, a->n_worst, all->width);
}

static enum status run_all(struct pass_shared *all, struct pass_worker *workers, int n)
{
    for (int i = 1; i < n; i++)
        workers[i].started =
            pthread_create(&workers[i].thread, NULL, run_samples, &workers[i]) == 0;
    run_samples(&workers[0]);
    for (int i = 1; i < n; i++)
        if (workers[i].started) pthread_join(workers[i].thread, NULL);
    return all->status == OK ? OK : fail(all->status, "%s", all->message);
}

enum status sample_passes_run(
    struct sample_passes *p, const struct evaluate_args *a, struct arena **arena)
{
    const struct sample_set *set = a->set;
    struct pass_shared all = {.a = a,
        .p = p,
        .arena = arena,
        .failed_sample = set->n_samples,
        .width = a->model->weights.config.hidden_size};
    double total = 0;
    int n_open = 0, n = 1 + a->n_more;
    assert(!a->parity || n == 1); /* it listens to one pass after the other */
    if (n > set->n_samples) n = set->n_samples;
    all.share = (set->n_samples + n - 1) / n;
    for (int i = 0; i < set->n_samples; i++) {
        total += set->samples[i].n;
        if (set->samples[i].n > all.longest) all.longest = set->samples[i].n;
    }
    *p = (struct sample_passes){0};
    TRY(session_check_policy(&a->model->weights.config, a->policy, all.longest));
    struct pass_worker *workers = calloc((size_t)n, sizeof *workers);
    if (!workers) return no_memory(&all);
    pthread_mutex_init(&all.lock, NULL);
    progress_begin(&all.progress, "eval", "tokens", total, a->quiet);
    enum status st = prepare(p, &all);
    for (; n_open < n && st == OK; n_open++)
        st = worker_open(&workers[n_open], &all,
            n_open ? a->more[n_open - 1] : (struct eval_device){&a->model->weights, a->par});
    if (st == OK) st = run_all(&all, workers, n);
    progress_end(&all.progress);
    for (int i = 0; i < n_open; i++) answers_close(&workers[i].writer);
    if (n_open) {
        p->session = workers[0].session;
        workers[0].session = NULL;
    }
    for (int i = 0; i < n_open; i++) worker_close(&workers[i]);
    pthread_mutex_destroy(&all.lock);
    free(workers);
    return st;
}

void sample_passes_clear(struct sample_passes *p, int n_samples)
{
    session_close(&p->session);
    for (int i = 0; p->tokens && i < n_samples; i++) free(p->tokens[i]);
    for (int i = 0; p->dense_written && i < n_samples; i++) written_clear(&p->dense_written[i]);
    for (int i = 0; p->sparse_written && i < n_samples; i++) written_clear(&p->sparse_written[i]);
    free(p->dense_written);
    free(p->sparse_written);
    free(p->tokens);
    free(p->sums);
    free(p->totals);
    free(p->ledger);
    free(p->short_calls);
    free(p->dense_times);
    free(p->sparse_times);
    free(p->first_layer);
    worst_tokens_clear(&p->worst);
    *p = (struct sample_passes){0};
}

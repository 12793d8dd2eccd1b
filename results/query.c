#include "results/query.h"

#include "results/db.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Layers and heads of any model, tiles along one side of any mask: what is beyond is no result of ours. */
enum { MAX_INDEX = 65535, MAX_TILES = 1 << 20 };

#define DEFINE_CLEAR(name)            \
    void name##_clear(struct name *l) \
    {                                 \
        free(l->rows);                \
        arena_free(&l->arena);          \
        *l = (struct name){0};        \
    }
DEFINE_CLEAR(run_list)
DEFINE_CLEAR(metric_list)
DEFINE_CLEAR(sample_list)
DEFINE_CLEAR(ledger_list)
DEFINE_CLEAR(layer_error_list)
DEFINE_CLEAR(item_list)
DEFINE_CLEAR(generation_list)
DEFINE_CLEAR(latency_list)
DEFINE_CLEAR(worst_token_list)
DEFINE_CLEAR(mask_list)
DEFINE_CLEAR(noise_list)
DEFINE_CLEAR(cell_list)
DEFINE_CLEAR(tuned_list)

/* Every list is read alike: a statement, its parameters, and a function that fills one record. */
typedef void read_record(struct cursor *c, void *record);

static enum status read_rows(struct cursor *c, read_record *read, size_t record_bytes, void **rows, size_t *n)
{
    for (;;) {
        bool more;
        TRY(cursor_step(c, &more));
        if (!more) return OK;
        read(c, rows_grow(rows, *n, record_bytes));
        ++*n;
    }
}

/* Rows of one run into a zeroed list; `list` is any QUERY_LIST of the record. */
#define LIST_OF_RUN(list, store, run, sql, reader)                                  \
    do {                                                                            \
        *(list) = (__typeof__(*(list))){0};                                         \
        struct cursor c_ = {.arena = &(list)->arena};                                 \
        void *rows_ = NULL;                                                         \
        enum status st_ = cursor_open(&c_, store, sql);                             \
        if (st_ == OK) {                                                            \
            put_int(&c_, run);                                                      \
            st_ = read_rows(&c_, reader, sizeof *(list)->rows, &rows_, &(list)->n); \
        }                                                                           \
        cursor_close(&c_);                                                          \
        (list)->rows = rows_;                                                       \
        return st_;                                                                 \
    } while (0)

static void read_metric(struct cursor *c, void *record)
{
    struct metric_record *m = record;
    m->scope = get_name(c);
    m->name = get_name(c);
    m->n = get_int(c);
    double *const v[] = {&m->mean, &m->std_error, &m->min,   &m->p0_1, &m->p1, &m->p5, &m->median,
                         &m->p95,  &m->p99,       &m->p99_9, &m->max,  &m->lo, &m->hi};
    for (size_t k = 0; k < sizeof v / sizeof *v; k++) *v[k] = get_real(c);
}

enum status query_metrics(struct store *s, int64_t run, const char *scope, struct metric_list *out)
{
    *out = (struct metric_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    bool prefix = scope && *scope && scope[strlen(scope) - 1] == ':';
    enum status st = cursor_open(
        &c, s,
        prefix ? "SELECT scope, name, n, mean, std_error, min, p0_1, p1, p5, median, p95, p99, p99_9, max, "
                 "lo, hi "
                 "FROM metric WHERE run = ?1 AND substr(scope, 1, length(?2)) = ?2 ORDER BY ordinal"
               : "SELECT scope, name, n, mean, std_error, min, p0_1, p1, p5, median, p95, p99, p99_9, max, "
                 "lo, hi "
                 "FROM metric WHERE run = ?1 AND (?2 IS NULL OR scope = ?2) ORDER BY ordinal");
    if (st == OK) {
        put_int(&c, run);
        put_text(&c, scope);
        st = read_rows(&c, read_metric, sizeof *out->rows, &rows, &out->n);
    }
    cursor_close(&c);
    out->rows = rows;
    return st;
}

const struct metric_record *metric_list_find(const struct metric_list *l, const char *scope, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->rows[i].scope, scope) && !strcmp(l->rows[i].name, name)) return &l->rows[i];
    return NULL;
}

static void read_sample(struct cursor *c, void *record)
{
    struct sample_record *r = record;
    r->sample = get_range(c, -1, INT_MAX);
    r->n_tokens = get_int(c);
    r->n_scored = get_int(c);
    r->fell_back = get_int(c) != 0;
    double *const v[] = {&r->nll_dense_sum, &r->nll_sparse_sum, &r->cosine_mean,   &r->cosine_p1,
                         &r->cosine_min,    &r->kl_mean,        &r->kl_p99_9,      &r->kl_max,
                         &r->delta_p_mean,  &r->token_accuracy, &r->top5_overlap,  &r->logits_cosine,
                         &r->logits_l1,     &r->logits_rmse,    &r->hidden_cosine, &r->hidden_l1,
                         &r->sparsity,      &r->qk_sparsity,    &r->pv_sparsity,
                         &r->cosine_centred_mean, &r->row_rmse_mean, &r->row_hidden_cosine_mean};
    for (size_t k = 0; k < sizeof v / sizeof *v; k++) *v[k] = get_real(c);
}

enum status query_samples(struct store *s, int64_t run, struct sample_list *out)
{
    LIST_OF_RUN(out, s, run,
                "SELECT sample, n_tokens, n_scored, fell_back, nll_dense_sum, nll_sparse_sum, cosine_mean, "
                "cosine_p1, "
                "cosine_min, kl_mean, kl_p99_9, kl_max, delta_p_mean, token_accuracy, top5_overlap, "
                "logits_cosine, "
                "logits_l1, logits_rmse, hidden_cosine, hidden_l1, sparsity, qk_sparsity, pv_sparsity, "
                "cosine_centred_mean, row_rmse_mean, row_hidden_cosine_mean "
                "FROM sample WHERE run = ? ORDER BY sample",
                read_sample);
}

static void read_ledger(struct cursor *c, void *record)
{
    struct ledger_record *r = record;
    r->layer = get_range(c, 0, MAX_INDEX);
    r->head = get_range(c, -1, MAX_INDEX);
    int64_t *const v[] = {&r->tiles_possible, &r->tiles_computed,  &r->pv_possible,    &r->pv_computed,
                          &r->forced_sink,    &r->forced_diagonal, &r->forced_theta_q, &r->forced_theta_k,
                          &r->calls,          &r->dense_head,      &r->dense_layer,    &r->dense_short};
    for (size_t k = 0; k < sizeof v / sizeof *v; k++) *v[k] = get_int(c);
    r->theta = get_real(c);
    r->tau = get_real(c);
    r->lambda = get_real(c);
}

enum status query_ledger(struct store *s, int64_t run, struct ledger_list *out)
{
    LIST_OF_RUN(out, s, run,
                "SELECT layer, head, tiles_possible, tiles_computed, pv_possible, pv_computed, forced_sink, "
                "forced_diagonal, forced_theta_q, forced_theta_k, calls, dense_head, dense_layer, "
                "dense_short, theta, "
                "tau, lambda FROM v_ledger WHERE run = ? ORDER BY layer, head",
                read_ledger);
}

static void read_layer_error(struct cursor *c, void *record)
{
    struct layer_error_record *r = record;
    r->sample = get_range(c, -1, INT_MAX);
    r->layer = get_range(c, 0, MAX_INDEX);
    r->head = get_range(c, -1, MAX_INDEX);
    r->isolated_l1 = get_real(c);
    r->isolated_cosine = get_real(c);
    r->propagated_l1 = get_real(c);
    r->propagated_cosine = get_real(c);
}

enum status query_layer_errors(struct store *s, int64_t run, struct layer_error_list *out)
{
    LIST_OF_RUN(out, s, run,
                "SELECT sample, layer, head, isolated_l1, isolated_cosine, propagated_l1, propagated_cosine "
                "FROM layer_error WHERE run = ? ORDER BY sample, layer, head",
                read_layer_error);
}

static void read_item(struct cursor *c, void *record)
{
    struct item_record *r = record;
    r->item = get_name(c);
    r->group = get_text(c);
    int64_t sample = get_count(c);
    r->sample = sample < 0 || sample > INT_MAX ? -1 : (int)sample;
    r->depth = get_real(c);
    r->length = get_count(c);
    r->dense_score = get_real(c);
    r->sparse_score = get_real(c);
    r->dense_right = get_int(c) != 0;
    r->sparse_right = get_int(c) != 0;
    int64_t dense_norm = get_count(c), sparse_norm = get_count(c);
    r->has_norm = dense_norm >= 0 && sparse_norm >= 0;
    r->dense_right_norm = dense_norm > 0;
    r->sparse_right_norm = sparse_norm > 0;
}

enum status query_items(struct store *s, int64_t run, struct item_list *out)
{
    LIST_OF_RUN(out, s, run,
                "SELECT item, grp, sample, depth, length, dense_score, sparse_score, dense_right, "
                "sparse_right, dense_right_norm, sparse_right_norm FROM item WHERE run = ? ORDER BY ordinal",
                read_item);
}

static void read_generation(struct cursor *c, void *record)
{
    struct generation_record *r = record;
    r->index = get_range(c, 0, INT_MAX);
    r->prompt = get_name(c);
    r->dense = get_name(c);
    r->sparse = get_name(c);
    r->n_tokens = get_range(c, 0, INT_MAX);
    r->token_match = get_real(c);
    r->text_similarity = get_real(c);
}

enum status query_generations(struct store *s, int64_t run, struct generation_list *out)
{
    LIST_OF_RUN(out, s, run,
                "SELECT idx, prompt, dense, sparse, n_tokens, token_match, text_similarity "
                "FROM generation WHERE run = ? ORDER BY idx",
                read_generation);
}

static void read_latency(struct cursor *c, void *record)
{
    struct latency_record *r = record;
    r->part = get_name(c);
    r->n_tokens = get_int(c);
    r->n = get_range(c, 0, INT_MAX);
    double *const v[] = {&r->min, &r->p5, &r->q1, &r->median, &r->q3, &r->p95, &r->max, &r->mean};
    for (size_t k = 0; k < sizeof v / sizeof *v; k++) *v[k] = get_real(c);
    r->valid = get_int(c) != 0;
    r->note = get_text(c);
}

enum status query_latencies(struct store *s, int64_t run, struct latency_list *out)
{
    LIST_OF_RUN(out, s, run,
                "SELECT part, n_tokens, n, min, p5, q1, median, q3, p95, max, mean, valid, note "
                "FROM latency WHERE run = ? ORDER BY part, n_tokens",
                read_latency);
}

static void read_worst_token(struct cursor *c, void *record)
{
    struct worst_token_record *r = record;
    r->sample = get_range(c, -1, INT_MAX);
    r->position = get_int(c);
    r->token = get_int(c);
    r->kl = get_real(c);
    r->cosine = get_real(c);
    r->nll_dense = get_real(c);
    r->nll_sparse = get_real(c);
    r->row_sparsity = get_real(c);
    r->context = get_text(c);
    r->token_text = get_text(c);
    r->top_dense = get_text(c);
    r->top_sparse = get_text(c);
}

enum status query_worst_tokens(struct store *s, int64_t run, size_t limit, struct worst_token_list *out)
{
    *out = (struct worst_token_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    enum status st = cursor_open(&c, s,
                                 "SELECT sample, position, token, kl, cosine, nll_dense, nll_sparse, "
                                 "row_sparsity, context, token_text, "
                                 "top_dense, top_sparse FROM worst_token WHERE run = ? ORDER BY kl DESC, "
                                 "sample, position LIMIT ?");
    if (st == OK) {
        put_int(&c, run);
        put_int(&c, limit ? (int64_t)limit : -1);
        st = read_rows(&c, read_worst_token, sizeof *out->rows, &rows, &out->n);
    }
    cursor_close(&c);
    out->rows = rows;
    return st;
}

static void read_mask(struct cursor *c, void *record)
{
    struct mask_record *r = record;
    r->sample = get_range(c, -1, INT_MAX);
    r->layer = get_range(c, 0, MAX_INDEX);
    r->head = get_range(c, -1, MAX_INDEX);
    r->n_q = get_range(c, 0, MAX_TILES);
    r->n_k = get_range(c, 0, MAX_TILES);
    size_t size, wanted = ((size_t)r->n_q * (size_t)r->n_k + 7) / 8;
    r->bits = get_blob(c, &size);
    if (size != wanted && !c->problem[0])
        snprintf(c->problem, sizeof c->problem, "column bits: found %zu bytes for %d x %d tiles, expected %zu", size, r->n_q,
                 r->n_k, wanted);
}

enum status query_masks(struct store *s, int64_t run, struct mask_list *out)
{
    LIST_OF_RUN(out, s, run,
                "SELECT sample, layer, head, n_q, n_k, bits FROM block_mask WHERE run = ? "
                "ORDER BY sample, layer, head",
                read_mask);
}

enum status query_tokens(struct store *s, int64_t run, int sample, struct token_record **out, size_t *n)
{
    *out = NULL;
    *n = 0;
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    enum status st = cursor_open(&c, s, "SELECT data FROM token_block WHERE run = ? AND sample = ?");
    if (st == OK) {
        put_int(&c, run);
        put_int(&c, sample);
        st = cursor_step(&c, &more);
    }
    if (st == OK && more) {
        size_t size;
        const void *data = get_blob(&c, &size);
        *n = size / TOKEN_BYTES;
        *out = size % TOKEN_BYTES ? NULL : malloc(*n ? *n * TOKEN_BYTES : 1);
        if (size % TOKEN_BYTES)
            st = fail(ERR_DB, "%s: table token_block, run %lld: found %zu bytes, expected a multiple of %d", s->path,
                      (long long)run, size, TOKEN_BYTES);
        else if (!*out) st = fail(ERR_MEMORY, "%s: no memory for %zu token rows", s->path, *n);
        else memcpy(*out, data, *n * TOKEN_BYTES);
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

static void read_noise(struct cursor *c, void *record)
{
    struct noise_record *r = record;
    r->machine_fingerprint = get_name(c);
    r->model_fingerprint = get_name(c);
    r->source = get_name(c);
    r->metric = get_name(c);
    r->value = get_real(c);
    r->n = get_int(c);
}

enum status query_noise(struct store *s, const char *machine, const char *model, struct noise_list *out)
{
    *out = (struct noise_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    enum status st = cursor_open(
        &c, s,
        "SELECT m.fingerprint, n.model_fingerprint, n.source, n.metric, n.value, n.n FROM noise n "
        "JOIN machine m ON m.id = n.machine WHERE (?1 IS NULL OR m.fingerprint = ?1) "
        "AND (?2 IS NULL OR n.model_fingerprint = ?2) ORDER BY 1, 2, 3, 4");
    if (st == OK) {
        put_text(&c, machine);
        put_text(&c, model);
        st = read_rows(&c, read_noise, sizeof *out->rows, &rows, &out->n);
    }
    cursor_close(&c);
    out->rows = rows;
    return st;
}

enum status query_curve(struct store *s, const struct curve_key *key, void **blob, size_t *size)
{
    *blob = NULL;
    *size = 0;
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    enum status st = cursor_open(&c, s,
                                 "SELECT data FROM curve WHERE model_fingerprint = ? AND data_fingerprint = "
                                 "? AND kind = ? AND method = ? "
                                 "AND smooth_k = ? AND block_q = ? AND block_k = ? AND layer = ? AND head = "
                                 "? AND sample = ?");
    if (st == OK) {
        bind_curve_key(&c, key);
        st = cursor_step(&c, &more);
    }
    if (st == OK && more) {
        const void *data = get_blob(&c, size);
        *blob = malloc(*size ? *size : 1);
        if (!*blob) st = fail(ERR_MEMORY, "%s: no memory for a curve of %zu bytes", s->path, *size);
        else memcpy(*blob, data, *size);
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

enum status query_curve_data(struct store *s, struct curve_key *key, struct arena **arena)
{
    struct cursor c = {.arena = arena};
    bool more = false;
    int n = 0;
    key->data_fingerprint = NULL;
    enum status st = cursor_open(&c, s,
                                 "SELECT data_fingerprint, min(sample) FROM curve WHERE model_fingerprint = ? AND kind = ? "
                                 "AND method = ? AND smooth_k = ? AND block_q = ? AND block_k = ? AND layer = ? AND head = ? "
                                 "GROUP BY 1 LIMIT 2");
    if (st == OK) {
        put_text(&c, key->model_fingerprint);
        put_text(&c, key->kind);
        put_text(&c, key->method);
        put_text(&c, key->smooth_k);
        put_int(&c, key->block_q);
        put_int(&c, key->block_k);
        put_int(&c, key->layer);
        put_int(&c, key->head);
    }
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        const char *data = get_name(&c);
        key->sample = get_range(&c, 0, INT_MAX);
        key->data_fingerprint = n++ ? NULL : data;
    }
    cursor_close(&c);
    return st;
}

static void read_tuned(struct cursor *c, void *record)
{
    struct tuned_record *t = record;
    const char **const texts[] = {
        &t->hash,  &t->model_fingerprint, &t->data_fingerprint, &t->method, &t->rule, &t->smooth_k,
        &t->layers};
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) *texts[k] = get_name(c);
    t->l1 = get_real(c);
    t->pv_l1 = get_real(c);
    t->block_q = get_range(c, 1, 4096);
    t->block_k = get_range(c, 1, 4096);
    t->json = get_text(c);
    t->wall_s = get_real(c);
}

static void read_tuned_head(struct cursor *c, void *record)
{
    struct tuned_head_record *h = record;
    h->layer = get_range(c, 0, MAX_INDEX);
    h->head = get_range(c, 0, MAX_INDEX);
    h->is_sparse = get_int(c) != 0;
    double *const v[] = {&h->theta,     &h->tau,           &h->lambda,      &h->l1_tune, &h->l1_held_out,
                         &h->tail_tune, &h->tail_held_out, &h->qk_sparsity, &h->sparsity};
    for (size_t k = 0; k < sizeof v / sizeof *v; k++) *v[k] = get_real(c);
    h->back_offs = get_range(c, 0, INT_MAX);
    h->reason = get_text(c);
}

static enum status load_heads(struct store *s, struct tuned_list *list, struct tuned_record *t)
{
    struct cursor c = {.arena = &list->arena};
    void *rows = NULL;
    enum status st = cursor_open(
        &c, s,
        "SELECT layer, head, is_sparse, theta, tau, lambda, l1_tune, l1_held_out, tail_tune, tail_held_out, "
        "qk_sparsity, sparsity, back_offs, reason FROM tuned_head WHERE hash = ? ORDER BY layer, head");
    if (st == OK) {
        put_text(&c, t->hash);
        st = read_rows(&c, read_tuned_head, sizeof *t->heads, &rows, &t->n_heads);
    }
    cursor_close(&c);
    t->heads = arena_copy(&list->arena, rows, t->n_heads * sizeof *t->heads);
    free(rows);
    return st;
}

enum status query_tuned(struct store *s, const char *hash, const char *model, struct tuned_list *out)
{
    *out = (struct tuned_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    enum status st =
        cursor_open(&c, s,
                    "SELECT hash, model_fingerprint, data_fingerprint, method, rule, smooth_k, layers, l1, "
                    "pv_l1, block_q, "
                    "block_k, json, wall_s FROM tuned WHERE (?1 IS NULL OR substr(hash, 1, length(?1)) = ?1) "
                    "AND (?2 IS NULL OR model_fingerprint = ?2) ORDER BY rowid");
    if (st == OK) {
        put_text(&c, hash);
        put_text(&c, model);
        st = read_rows(&c, read_tuned, sizeof *out->rows, &rows, &out->n);
    }
    cursor_close(&c);
    out->rows = rows;
    for (size_t i = 0; st == OK && i < out->n; i++) st = load_heads(s, out, &out->rows[i]);
    return st;
}

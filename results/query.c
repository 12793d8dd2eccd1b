#include "results/query.h"

#include "results/db.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFINE_CLEAR(name)            \
    void name##_clear(struct name *l) \
    {                                 \
        free(l->rows);                \
        arena_free(&l->arena);        \
        *l = (struct name){0};        \
    }
DEFINE_CLEAR(run_list)
DEFINE_CLEAR(metric_list)
DEFINE_CLEAR(sample_list)
DEFINE_CLEAR(tail_list)
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

/* Every list is read alike: a statement, its parameters, and the columns of its record. */

/* Rows of one run into a zeroed list; `list` is any QUERY_LIST of the record. */
#define LIST_OF_RUN(list, store, columns, run, tail)                         \
    do {                                                                     \
        *(list) = (__typeof__(*(list))){0};                                  \
        struct cursor c_ = {.arena = &(list)->arena};                        \
        void *rows_ = NULL;                                                  \
        enum status st_ = cursor_open_select(&c_, store, columns, "", tail); \
        if (st_ == OK) {                                                     \
            put_int(&c_, run);                                               \
            st_ = get_records(&c_, columns, &rows_, &(list)->n);             \
        }                                                                    \
        cursor_close(&c_);                                                   \
        (list)->rows = rows_;                                                \
        if (st_ != OK) {                                                     \
            free(rows_);                                                     \
            arena_free(&(list)->arena);                                      \
            *(list) = (__typeof__(*(list))){0};                              \
        }                                                                    \
        return st_;                                                          \
    } while (0)

enum status query_metrics(struct store *s, int64_t run, const char *scope, struct metric_list *out)
{
    *out = (struct metric_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    bool prefix = scope && *scope && scope[strlen(scope) - 1] == ':';
    enum status st = cursor_open_select(&c, s, &metric_columns, "",
        prefix ? "WHERE run = ?1 AND substr(scope, 1, length(?2)) = ?2 ORDER BY ordinal"
               : "WHERE run = ?1 AND (?2 IS NULL OR scope = ?2) ORDER BY ordinal");
    if (st == OK) {
        put_int(&c, run);
        put_text(&c, scope);
        st = get_records(&c, &metric_columns, &rows, &out->n);
    }
    cursor_close(&c);
    out->rows = rows;
    if (st != OK) metric_list_clear(out);
    return st;
}

const struct metric_record *metric_list_find(
    const struct metric_list *l, const char *scope, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->rows[i].scope, scope) && !strcmp(l->rows[i].name, name)) return &l->rows[i];
    return NULL;
}

enum status query_samples(struct store *s, int64_t run, struct sample_list *out)
{
    LIST_OF_RUN(out, s, &sample_columns, run, "WHERE run = ? ORDER BY sample");
}

enum status query_ledger(struct store *s, int64_t run, struct ledger_list *out)
{
    LIST_OF_RUN(out, s, &ledger_columns, run, "WHERE run = ? ORDER BY layer, head");
}

enum status query_layer_errors(struct store *s, int64_t run, struct layer_error_list *out)
{
    LIST_OF_RUN(out, s, &layer_error_columns, run, "WHERE run = ? ORDER BY sample, layer, head");
}

enum status query_tails(struct store *s, int64_t run, struct tail_list *out)
{
    *out = (struct tail_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    bool more = false;
    enum status st = cursor_open(
        &c, s, "SELECT sample, name, n, data FROM tail WHERE run = ? ORDER BY sample, name");
    if (st == OK) put_int(&c, run);
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        struct tail_record *r = rows_grow(&rows, out->n++, sizeof *r);
        size_t size;
        r->sample = (int)get_int(&c);
        r->name = get_name(&c);
        r->n = (size_t)get_int(&c);
        r->values = get_blob(&c, &size);
        if (size != r->n * sizeof *r->values)
            st = fail(ERR_DB, "%s: table tail, run %lld: found %zu bytes for %zu values", s->path,
                (long long)run, size, r->n);
    }
    cursor_close(&c);
    out->rows = rows;
    if (st != OK) tail_list_clear(out);
    return st;
}

enum status query_items(struct store *s, int64_t run, struct item_list *out)
{
    LIST_OF_RUN(out, s, &item_columns, run, "WHERE run = ? ORDER BY ordinal");
}

enum status query_generations(struct store *s, int64_t run, struct generation_list *out)
{
    LIST_OF_RUN(out, s, &generation_columns, run, "WHERE run = ? ORDER BY idx");
}

enum status query_latencies(struct store *s, int64_t run, struct latency_list *out)
{
    LIST_OF_RUN(out, s, &latency_columns, run, "WHERE run = ? ORDER BY part, n_tokens");
}

enum status query_worst_tokens(
    struct store *s, int64_t run, size_t limit, struct worst_token_list *out)
{
    *out = (struct worst_token_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    enum status st = cursor_open_select(&c, s, &worst_token_columns, "",
        "WHERE run = ? ORDER BY kl DESC, sample, position LIMIT ?");
    if (st == OK) {
        put_int(&c, run);
        put_int(&c, limit ? (int64_t)limit : -1);
        st = get_records(&c, &worst_token_columns, &rows, &out->n);
    }
    cursor_close(&c);
    out->rows = rows;
    if (st != OK) worst_token_list_clear(out);
    return st;
}

enum status query_masks(struct store *s, int64_t run, struct mask_list *out)
{
    *out = (struct mask_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    bool more = false;
    enum status st = cursor_open_select(
        &c, s, &mask_columns, "bits", "WHERE run = ? ORDER BY sample, layer, head");
    if (st == OK) put_int(&c, run);
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        struct mask_record *r = rows_grow(&rows, out->n++, sizeof *r);
        size_t size;
        r->bits = get_blob(&c, &size);
        get_record(&c, &mask_columns, r);
        size_t wanted = ((size_t)r->n_q * (size_t)r->n_k + 7) / 8;
        if (size != wanted && !c.problem[0])
            snprintf(c.problem, sizeof c.problem,
                "column bits: found %zu bytes for %d x %d tiles, expected %zu", size, r->n_q,
                r->n_k, wanted);
    }
    cursor_close(&c);
    out->rows = rows;
    if (st != OK) mask_list_clear(out);
    return st;
}

enum status query_tokens(
    struct store *s, int64_t run, int sample, struct token_record **out, size_t *n)
{
    *out = NULL;
    *n = 0;
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    enum status st =
        cursor_open(&c, s, "SELECT data FROM token_block WHERE run = ? AND sample = ?");
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
            st = fail(ERR_DB,
                "%s: table token_block, run %lld: found %zu bytes, expected a multiple of %d",
                s->path, (long long)run, size, TOKEN_BYTES);
        else if (!*out) st = fail(ERR_MEMORY, "%s: no memory for %zu token rows", s->path, *n);
        else memcpy(*out, data, *n * TOKEN_BYTES);
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

enum status query_noise(
    struct store *s, const char *machine, const char *model, struct noise_list *out)
{
    *out = (struct noise_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    bool more = false;
    enum status st = cursor_open(&c, s,
        "SELECT m.fingerprint, n.model_fingerprint, n.source, n.metric, n.value, n.n FROM noise n "
        "JOIN machine m ON m.id = n.machine WHERE (?1 IS NULL OR m.fingerprint = ?1) "
        "AND (?2 IS NULL OR n.model_fingerprint = ?2) ORDER BY 1, 2, 3, 4");
    if (st == OK) {
        put_text(&c, machine);
        put_text(&c, model);
    }
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        struct noise_record *r = rows_grow(&rows, out->n++, sizeof *r);
        r->machine_fingerprint = get_name(&c);
        r->model_fingerprint = get_name(&c);
        r->source = get_name(&c);
        r->metric = get_name(&c);
        r->value = get_real(&c);
        r->n = get_int(&c);
    }
    cursor_close(&c);
    out->rows = rows;
    if (st != OK) noise_list_clear(out);
    return st;
}

enum status query_curve(struct store *s, const struct curve_key *key, void **blob, size_t *size)
{
    *blob = NULL;
    *size = 0;
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    struct str sql = {0};
    str_add(&sql, "SELECT data FROM curve WHERE ");
    columns_names(&curve_columns, "", " = ?", " AND ", &sql);
    enum status st = cursor_open(&c, s, str_get(&sql));
    str_clear(&sql);
    if (st == OK) {
        put_record(&c, &curve_columns, key);
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
        "AND method = ? AND smooth_k = ? AND block_q = ? AND block_k = ? AND layer = ? AND head = "
        "? "
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

static enum status load_heads(struct store *s, struct tuned_list *list, struct tuned_record *t)
{
    struct cursor c = {.arena = &list->arena};
    void *rows = NULL;
    enum status st =
        cursor_open_select(&c, s, &tuned_head_columns, "", "WHERE hash = ? ORDER BY layer, head");
    if (st == OK) {
        put_text(&c, t->hash);
        st = get_records(&c, &tuned_head_columns, &rows, &t->n_heads);
    }
    cursor_close(&c);
    t->heads = arena_copy(&list->arena, rows, t->n_heads * sizeof *t->heads);
    free(rows);
    return st;
}

enum status query_tuned(
    struct store *s, const char *hash, const char *model, struct tuned_list *out)
{
    *out = (struct tuned_list){0};
    struct cursor c = {.arena = &out->arena};
    void *rows = NULL;
    enum status st = cursor_open_select(&c, s, &tuned_columns, "",
        "WHERE (?1 IS NULL OR substr(hash, 1, length(?1)) = ?1) "
        "AND (?2 IS NULL OR model_fingerprint = ?2) ORDER BY rowid");
    if (st == OK) {
        put_text(&c, hash);
        put_text(&c, model);
        st = get_records(&c, &tuned_columns, &rows, &out->n);
    }
    cursor_close(&c);
    out->rows = rows;
    for (size_t i = 0; st == OK && i < out->n; i++) st = load_heads(s, out, &out->rows[i]);
    if (st != OK) tuned_list_clear(out);
    return st;
}

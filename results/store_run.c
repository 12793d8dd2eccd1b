#include "base/hash.h"
#include "base/str.h"
#include "base/xmalloc.h"
#include "results/db.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void hash_real(struct hash *h, double value)
{
    uint64_t bits = 0;
    if (isnan(value)) value = NAN;
    memcpy(&bits, &value, sizeof bits);
    hash_add_u64(h, bits);
}

static void hash_text(struct hash *h, const char *text) { hash_add_str(h, text ? text : ""); }

/* What two machines that ran the same cell must agree on. */
static void digest_of(const struct run_data *d, char out[HASH_HEX_SIZE])
{
    struct hash h;
    hash_init(&h);
    hash_add_u64(&h, d->run.status);
    for (size_t i = 0; i < d->n_metrics; i++) {
        const struct metric_record *m = &d->metrics[i];
        if (metric_is_timing(m->name)) continue;
        hash_text(&h, m->scope);
        hash_text(&h, m->name);
        hash_add_u64(&h, (uint64_t)m->n);
        for (size_t k = 0; k < metric_columns.n; k++)
            if (metric_columns.at[k].type == COLUMN_REAL)
                hash_real(&h, column_real(&metric_columns.at[k], m));
    }
    for (size_t i = 0; i < d->n_samples; i++) {
        const struct sample_record *r = &d->samples[i];
        hash_add_u64(&h, (uint64_t)r->sample);
        hash_add_u64(&h, (uint64_t)r->n_tokens);
        hash_real(&h, r->nll_dense_sum);
        hash_real(&h, r->nll_sparse_sum);
        hash_real(&h, r->kl_mean);
        hash_real(&h, r->sparsity);
    }
    for (size_t i = 0; i < d->n_ledger; i++) {
        hash_add_u64(&h, (uint64_t)d->ledger[i].tiles_computed);
        hash_add_u64(&h, (uint64_t)d->ledger[i].pv_computed);
    }
    for (size_t i = 0; i < d->n_items; i++) {
        hash_text(&h, d->items[i].item);
        hash_add_u64(&h, (uint64_t)(2 * d->items[i].dense_right + d->items[i].sparse_right));
        hash_real(&h, d->items[i].sparse_score);
        if (d->items[i].expected) hash_text(&h, d->items[i].sparse_text);
    }
    for (size_t i = 0; i < d->n_generations; i++) hash_text(&h, d->generations[i].sparse);
    hash_hex(&h, out);
}

const char *const run_children[] = {"metric", "sample", "tail", "ledger", "layer_error", "item",
    "generation", "latency", "worst_token", "token_block", "block_mask", NULL};

enum status db_drop_orphans(struct store *s)
{
    struct str sql = {0};
    int64_t last = 0, found = 0;
    enum status st = db_int(s, "SELECT ifnull(max(id), 0) FROM main.run", &last);
    for (int i = 0; run_children[i]; i++)
        str_addf(&sql, "%s EXISTS (SELECT 1 FROM main.%s WHERE run > %lld)", i ? " OR" : "SELECT",
            run_children[i], (long long)last);
    if (st == OK) st = db_int(s, str_get(&sql), &found);
    for (int i = 0; run_children[i] && found && st == OK; i++) {
        str_reset(&sql);
        str_addf(&sql, "DELETE FROM main.%s WHERE run > %lld", run_children[i], (long long)last);
        st = db_exec(s, str_get(&sql));
    }
    str_clear(&sql);
    return st;
}

static enum status put_run(struct store *s, const struct run_data *d, int64_t *id)
{
    struct run_record r = d->run;
    char digest[HASH_HEX_SIZE];
    digest_of(d, digest);
    r.digest = digest;
    headline_fill(&r.headline, d->metrics, d->n_metrics);
    int64_t parents[RUN_PARTS];
    for (int i = 1; i < RUN_PARTS; i++) {
        const struct run_part *part = &run_parts[i];
        TRY(put_parent(s, part->columns, (const char *)&d->run + part->offset, &parents[i]));
    }
    struct str names = {0};
    for (int i = 1; i < RUN_PARTS; i++)
        str_addf(&names, "%s%s", i > 1 ? ", " : "", run_parts[i].columns->table);
    struct cursor c = {0};
    enum status st = cursor_open_insert(&c, s, "INSERT", &run_columns, str_get(&names), "");
    if (st == OK) {
        for (int i = 1; i < RUN_PARTS; i++) put_int(&c, parents[i]);
        put_record(&c, &run_columns, &r);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    str_clear(&names);
    if (st == OK) *id = sqlite3_last_insert_rowid(s->db);
    return st;
}

/* Rows that belong to a run. */
static enum status put_rows(
    struct store *s, int64_t run, const struct columns *t, const void *rows, size_t n)
{
    struct cursor c = {0};
    enum status st =
        cursor_open_insert(&c, s, "INSERT", t, t->ordinal ? "run, ordinal" : "run", "");
    for (size_t i = 0; st == OK && i < n; i++) {
        put_int(&c, run);
        if (t->ordinal) put_int(&c, (int64_t)i);
        put_record(&c, t, (const char *)rows + i * t->bytes);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

/* The shortest text that reads back as the same number. */
static void add_number(struct str *out, double value)
{
    if (isnan(value)) {
        str_add(out, "null");
        return;
    }
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    str_add(out, text);
}

/* One column of a layer's heads as JSON: a single value when all agree, else an array. */
static void add_column(struct str *out, const double *values, size_t n)
{
    str_reset(out);
    bool same = true;
    for (size_t i = 1; i < n; i++)
        if (values[i] != values[0] && !(isnan(values[i]) && isnan(values[0]))) same = false;
    if (!same) str_add_char(out, '[');
    for (size_t i = 0; i < (same ? 1 : n); i++) {
        if (i) str_add_char(out, ',');
        add_number(out, values[i]);
    }
    if (!same) str_add_char(out, ']');
}

/* The columns of the ledger behind layer and head, as texts: counts, then three thresholds. */
enum { LEDGER_KEYS = 2, N_THRESHOLDS = 3, MAX_TEXTS = 24 };

static void ledger_texts(const struct ledger_record *rows, size_t n, struct str texts[MAX_TEXTS])
{
    double *column = xmalloc(n * sizeof *column);
    for (size_t k = 0; k + LEDGER_KEYS < ledger_columns.n; k++) {
        for (size_t i = 0; i < n; i++)
            column[i] = column_real(&ledger_columns.at[k + LEDGER_KEYS], &rows[i]);
        add_column(&texts[k], column, n);
    }
    free(column);
}

static int64_t thresholds_id(const struct str texts[3])
{
    struct hash h;
    hash_init(&h);
    for (int k = 0; k < 3; k++) hash_add_str(&h, str_get(&texts[k]));
    char hex[HASH_HEX_SIZE];
    hash_hex(&h, hex);
    hex[16] = 0;
    return (int64_t)(strtoull(hex, NULL, 16) >> 1);
}

static enum status put_ledger(
    struct store *s, int64_t run, const struct ledger_record *rows, size_t n)
{
    struct cursor layer = {0}, thresholds = {0};
    struct str texts[MAX_TEXTS] = {0}, sql = {0};
    size_t n_counts = ledger_columns.n - LEDGER_KEYS - N_THRESHOLDS;
    enum status st;
    str_add(&sql, "INSERT INTO ledger (run, layer, n_heads, thresholds");
    for (size_t k = 0; k < n_counts; k++)
        str_addf(&sql, ", %s", ledger_columns.at[k + LEDGER_KEYS].name);
    str_add(&sql, ") VALUES (?,?,?,?");
    for (size_t k = 0; k < n_counts; k++) str_add(&sql, ",?");
    str_add(&sql, ")");
    TRY_GOTO(st, done, cursor_open(&layer, s, str_get(&sql)));
    TRY_GOTO(st, done,
        cursor_open(&thresholds, s,
            "INSERT OR IGNORE INTO head_thresholds (id, theta, tau, lambda) VALUES (?,?,?,?)"));
    for (size_t from = 0, to; from < n; from = to) {
        for (to = from; to < n && rows[to].layer == rows[from].layer; to++)
            if (rows[to].head != (int)(to - from)) {
                st = fail(ERR_ARG, "ledger of layer %d: row %d is head %d, expected head %d",
                    rows[to].layer, (int)to, rows[to].head, (int)(to - from));
                goto done;
            }
        ledger_texts(rows + from, to - from, texts);
        int64_t id = thresholds_id(texts + n_counts);
        put_int(&thresholds, id);
        for (size_t k = 0; k < N_THRESHOLDS; k++)
            put_text(&thresholds, str_get(&texts[n_counts + k]));
        TRY_GOTO(st, done, cursor_run(&thresholds));
        put_int(&layer, run);
        put_int(&layer, rows[from].layer);
        put_int(&layer, (int64_t)(to - from));
        put_int(&layer, id);
        for (size_t k = 0; k < n_counts; k++) put_text(&layer, str_get(&texts[k]));
        TRY_GOTO(st, done, cursor_run(&layer));
    }
done:
    for (int k = 0; k < MAX_TEXTS; k++) str_clear(&texts[k]);
    str_clear(&sql);
    cursor_close(&layer);
    cursor_close(&thresholds);
    return st;
}

static enum status put_blobs(struct store *s, int64_t run, const struct run_data *d)
{
    struct cursor c = {0};
    enum status st =
        cursor_open(&c, s, "INSERT INTO token_block (run, sample, n, data) VALUES (?,?,?,?)");
    _Static_assert(
        sizeof(struct token_record) == TOKEN_BYTES, "stored as it lies in memory, little-endian");
    for (size_t i = 0; st == OK && i < d->n_token_blocks; i++) {
        const struct token_block *b = &d->token_blocks[i];
        put_int(&c, run);
        put_int(&c, b->sample);
        put_int(&c, (int64_t)b->n);
        put_blob(&c, b->tokens, b->n * TOKEN_BYTES);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    if (st == OK)
        st = cursor_open(&c, s, "INSERT INTO tail (run, sample, name, n, data) VALUES (?,?,?,?,?)");
    for (size_t i = 0; st == OK && i < d->n_tails; i++) {
        const struct tail_record *t = &d->tails[i];
        put_int(&c, run);
        put_int(&c, t->sample);
        put_text(&c, t->name);
        put_int(&c, (int64_t)t->n);
        put_blob(&c, t->values, t->n * sizeof *t->values);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    if (st == OK) st = cursor_open_insert(&c, s, "INSERT", &mask_columns, "run", "bits");
    for (size_t i = 0; st == OK && i < d->n_masks; i++) {
        const struct mask_record *m = &d->masks[i];
        put_int(&c, run);
        put_record(&c, &mask_columns, m);
        put_blob(&c, m->bits, ((size_t)m->n_q * (size_t)m->n_k + 7) / 8);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

/* What becomes of a done run with the same key. */
enum if_done { REFUSE, REPLACE, KEEP };

/* Make room for the key: an unfinished run goes, a done one only when it may. *kept: it stays, and
 * that is well. */
static enum status remove_old(struct store *s, const char *key, enum if_done if_done, bool *kept)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    enum status st = cursor_open(&c, s, "SELECT status, id FROM run WHERE key = ?");
    if (st == OK) {
        put_text(&c, key);
        st = cursor_step(&c, &more);
    }
    bool is_done = st == OK && more && if_done != REPLACE && !strcmp(get_name(&c), "done");
    *kept = is_done && if_done == KEEP;
    if (is_done && !*kept)
        st = fail(ERR_ARG,
            "%s: run %lld has this key already and is done; ask for it to be replaced, or keep it",
            s->path, (long long)get_int(&c));
    cursor_close(&c);
    arena_free(&arena);
    if (st != OK || !more || *kept) return st;
    return store_run_delete(s, key);
}

static enum status drop_lease(struct store *s, const char *key)
{
    struct cursor c = {0};
    enum status st = cursor_open(&c, s, "DELETE FROM lease WHERE key = ?");
    if (st == OK) {
        put_text(&c, key);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

/* Failures of the same question under other keys: a text that was not there, an older version. */
static enum status drop_answered(struct store *s, const struct run_record *r)
{
    struct cursor c = {0};
    enum status st =
        cursor_open(&c, s, "DELETE FROM run WHERE slot = ? AND status <> 'done' AND key <> ?");
    if (st == OK) {
        put_text(&c, r->slot);
        put_text(&c, r->key);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

static enum status store_run(
    struct store *s, const struct run_data *d, enum if_done if_done, bool *kept, int64_t *id)
{
    TRY(db_need_write(s));
    TRY(db_begin(s));
    int64_t run = 0;
    enum status st;
    TRY_GOTO(st, done, remove_old(s, d->run.key, if_done, kept));
    if (*kept) {
        TRY_GOTO(st, done, drop_lease(s, d->run.key));
        st = db_commit(s);
        goto done;
    }
    TRY_GOTO(st, done, db_drop_orphans(s));
    TRY_GOTO(st, done, put_run(s, d, &run));
    TRY_GOTO(st, done, put_ledger(s, run, d->ledger, d->n_ledger));
    const struct {
        const struct columns *columns;
        const void *rows;
        size_t n;
    } children[] = {
        {&metric_columns, d->metrics, d->n_metrics},
        {&sample_columns, d->samples, d->n_samples},
        {&layer_error_columns, d->layer_errors, d->n_layer_errors},
        {&item_columns, d->items, d->n_items},
        {&generation_columns, d->generations, d->n_generations},
        {&latency_columns, d->latencies, d->n_latencies},
        {&worst_token_columns, d->worst_tokens, d->n_worst_tokens},
    };
    for (size_t i = 0; i < sizeof children / sizeof *children; i++)
        TRY_GOTO(st, done, put_rows(s, run, children[i].columns, children[i].rows, children[i].n));
    TRY_GOTO(st, done, put_blobs(s, run, d));
    if (d->run.status == RUN_DONE) TRY_GOTO(st, done, drop_answered(s, &d->run));
    TRY_GOTO(st, done, drop_lease(s, d->run.key));
    st = db_commit(s);
done:
    if (st != OK) db_rollback(s);
    else if (id) *id = run;
    return st;
}

enum status store_run_put(struct store *s, const struct run_data *d, bool replace, int64_t *id)
{
    bool kept;
    return store_run(s, d, replace ? REPLACE : REFUSE, &kept, id);
}

enum status store_run_offer(struct store *s, const struct run_data *d, bool *taken)
{
    bool kept = false;
    enum status st = store_run(s, d, KEEP, &kept, NULL);
    *taken = st == OK && !kept;
    return st;
}

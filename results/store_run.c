#include "base/hash.h"
#include "base/str.h"
#include "results/db.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Insert a row that may be there already, and find its id by its identity. */
static enum status row_id(struct store *s, const char *sql, const char *fingerprint, int64_t *id)
{
    struct cursor c = {0};
    bool more = false;
    enum status st = cursor_open(&c, s, sql);
    if (st == OK) {
        put_text(&c, fingerprint);
        st = cursor_step(&c, &more);
    }
    if (st == OK) *id = more ? get_int(&c) : -1;
    cursor_close(&c);
    return st;
}

static enum status put_model(struct store *s, const struct model_record *m, int64_t *id)
{
    struct cursor c = {0};
    TRY(cursor_open(&c, s,
                    "INSERT INTO model (fingerprint, name, path, config, n_layers, n_heads, n_kv_heads, "
                    "head_dim, vocab, n_params) VALUES (?,?,?,?,?,?,?,?,?,?) "
                    "ON CONFLICT (fingerprint) DO NOTHING"));
    put_text(&c, m->fingerprint);
    put_text(&c, m->name);
    put_text(&c, m->path);
    put_text(&c, m->config_json);
    put_int(&c, m->n_layers);
    put_int(&c, m->n_heads);
    put_int(&c, m->n_kv_heads);
    put_int(&c, m->head_dim);
    put_int(&c, m->vocab);
    put_int(&c, m->n_params);
    enum status st = cursor_run(&c);
    cursor_close(&c);
    return st == OK ? row_id(s, "SELECT id FROM model WHERE fingerprint = ?", m->fingerprint, id) : st;
}

static enum status put_dataset(struct store *s, const struct dataset_record *d, int64_t *id)
{
    struct cursor c = {0};
    TRY(cursor_open(&c, s,
                    "INSERT INTO dataset (fingerprint, suite, name, n_samples, max_length, n_tokens) "
                    "VALUES (?,?,?,?,?,?) ON CONFLICT (fingerprint) DO NOTHING"));
    put_text(&c, d->fingerprint);
    put_text(&c, d->suite);
    put_text(&c, d->name);
    put_int(&c, d->n_samples);
    put_int(&c, d->max_length);
    put_int(&c, d->n_tokens);
    enum status st = cursor_run(&c);
    cursor_close(&c);
    return st == OK ? row_id(s, "SELECT id FROM dataset WHERE fingerprint = ?", d->fingerprint, id) : st;
}

enum status put_machine(struct store *s, const struct machine_record *m, int64_t *id)
{
    struct cursor c = {0};
    TRY(cursor_open(&c, s,
                    "INSERT INTO machine (fingerprint, hostname, cpu, n_cores, ram_bytes, gpus, driver, os) "
                    "VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (fingerprint) DO NOTHING"));
    put_text(&c, m->fingerprint);
    put_text(&c, m->hostname);
    put_text(&c, m->cpu);
    put_int(&c, m->n_cores);
    put_int(&c, m->ram_bytes);
    put_text(&c, m->gpus);
    put_text(&c, m->driver);
    put_text(&c, m->os);
    enum status st = cursor_run(&c);
    cursor_close(&c);
    return st == OK ? row_id(s, "SELECT id FROM machine WHERE fingerprint = ?", m->fingerprint, id) : st;
}

static enum status put_software(struct store *s, const struct software_record *w, int64_t *id)
{
    struct cursor c = {0};
    bool more = false;
    /* the update changes nothing; it makes RETURNING answer for a row that was there */
    TRY(cursor_open(&c, s,
                    "INSERT INTO software (version, engine, compiler, git_commit, dirty) VALUES (?,?,?,?,?) "
                    "ON CONFLICT DO UPDATE SET dirty = excluded.dirty RETURNING id"));
    put_text(&c, w->version);
    put_text(&c, w->engine);
    put_text(&c, w->compiler);
    put_text(&c, w->commit ? w->commit : "");
    put_int(&c, w->dirty);
    enum status st = cursor_step(&c, &more);
    if (st == OK) *id = get_int(&c);
    cursor_close(&c);
    return st;
}

static void hash_real(struct hash *h, double value)
{
    uint64_t bits = 0;
    if (isnan(value)) value = NAN;
    memcpy(&bits, &value, sizeof bits);
    hash_add_u64(h, bits);
}

static void hash_text(struct hash *h, const char *text) { hash_add_str(h, text ? text : ""); }

static bool is_timing(const char *metric)
{
    return !strncmp(metric, "latency_", 8) || !strcmp(metric, "break_even_length") ||
           !strcmp(metric, "peak_bytes");
}

/* What two machines that ran the same cell must agree on. */
static void digest_of(const struct run_data *d, char out[HASH_HEX_SIZE])
{
    struct hash h;
    hash_init(&h);
    hash_add_u64(&h, d->run.status);
    for (size_t i = 0; i < d->n_metrics; i++) {
        const struct metric_record *m = &d->metrics[i];
        if (is_timing(m->name)) continue;
        hash_text(&h, m->scope);
        hash_text(&h, m->name);
        hash_add_u64(&h, (uint64_t)m->n);
        const double v[] = {m->mean, m->std_error, m->min,   m->p0_1, m->p1, m->p5, m->median,
                            m->p95,  m->p99,       m->p99_9, m->max,  m->lo, m->hi};
        for (size_t k = 0; k < sizeof v / sizeof *v; k++) hash_real(&h, v[k]);
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
    }
    for (size_t i = 0; i < d->n_generations; i++) hash_text(&h, d->generations[i].sparse);
    hash_hex(&h, out);
}

static const struct metric_record *overall(const struct run_data *d, const char *name)
{
    for (size_t i = 0; i < d->n_metrics; i++)
        if (!strcmp(d->metrics[i].scope, "overall") && !strcmp(d->metrics[i].name, name))
            return &d->metrics[i];
    return NULL;
}

static void put_headline(struct cursor *c, const struct run_data *d)
{
    static const struct {
        const char *name;
        char part; /* m mean, 1 p1, 9 p99_9, l lo, h hi */
    } columns[] = {
        {"sparsity", 'm'},
        {"qk_sparsity", 'm'},
        {"pv_sparsity", 'm'},
        {"cosine", 'm'},
        {"cosine", 'l'},
        {"cosine", 'h'},
        {"cosine", '1'},
        {"kl", 'm'},
        {"kl", 'l'},
        {"kl", 'h'},
        {"kl", '9'},
        {"ppl_dense", 'm'},
        {"ppl_sparse", 'm'},
        {"ppl_ratio", 'm'},
        {"ppl_ratio", 'l'},
        {"ppl_ratio", 'h'},
        {"token_accuracy", 'm'},
        {"top5_overlap", 'm'},
        {"logits_cosine", 'm'},
        {"logits_l1", 'm'},
        {"logits_rmse", 'm'},
        {"hidden_cosine", 'm'},
        {"hidden_l1", 'm'},
        {"score_dense", 'm'},
        {"score_sparse", 'm'},
        {"score_drop", 'm'},
        {"latency_dense", 'm'},
        {"latency_sparse", 'm'},
        {"latency_ratio", 'm'},
    };
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        const struct metric_record *m = overall(d, columns[i].name);
        if (!m) {
            put_real(c, NAN);
            continue;
        }
        switch (columns[i].part) {
        case '1': put_real(c, m->p1); break;
        case '9': put_real(c, m->p99_9); break;
        case 'l': put_real(c, m->lo); break;
        case 'h': put_real(c, m->hi); break;
        default: put_real(c, m->mean);
        }
    }
}

static enum status put_run(struct store *s, const struct run_data *d, int64_t *id)
{
    const struct run_record *r = &d->run;
    int64_t model, dataset, machine, software;
    TRY(put_model(s, &r->model, &model));
    TRY(put_dataset(s, &r->dataset, &dataset));
    TRY(put_machine(s, &r->machine, &machine));
    TRY(put_software(s, &r->software, &software));
    char digest[HASH_HEX_SIZE];
    digest_of(d, digest);

    struct cursor c = {0};
    TRY(cursor_open(
        &c, s,
        "INSERT INTO run (key, slot, key_json, plan, status, reason, model, dataset, machine, software, "
        "method, "
        "block_q, block_k, smooth_k, rule, l1, pv_l1, simthreshd1, cdfthreshd, pvthreshd, topk, window, "
        "layers, "
        "heads, tuned_hash, max_length, num_samples, score, seed, repeat, threads, device, impls, "
        "min_sparse_tokens, attention_calls, dense_fallback_calls, argv, started, ended, wall_s, peak_bytes, "
        "peak_device_bytes, digest, sparsity, qk_sparsity, pv_sparsity, cosine_mean, cosine_lo, cosine_hi, "
        "cosine_p1, kl_mean, kl_lo, kl_hi, kl_p99_9, ppl_dense, ppl_sparse, ppl_ratio, ppl_ratio_lo, "
        "ppl_ratio_hi, token_accuracy, top5_overlap, "
        "logits_cosine, logits_l1, logits_rmse, hidden_cosine, hidden_l1, score_dense, score_sparse, "
        "score_drop, "
        "latency_dense, latency_sparse, latency_ratio) VALUES "
        "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,"
        "?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,"
        "?,?,?,?)"));
    put_text(&c, r->key);
    put_text(&c, r->slot);
    put_text(&c, r->key_json);
    put_text(&c, r->plan);
    put_text(&c, run_status_name(r->status));
    put_text(&c, r->reason);
    put_int(&c, model);
    put_int(&c, dataset);
    put_int(&c, machine);
    put_int(&c, software);
    put_text(&c, r->method);
    put_int(&c, r->block_q);
    put_int(&c, r->block_k);
    put_text(&c, r->smooth_k);
    put_text(&c, r->rule);
    put_real(&c, r->l1);
    put_real(&c, r->pv_l1);
    put_real(&c, r->simthreshd1);
    put_real(&c, r->cdfthreshd);
    put_real(&c, r->pvthreshd);
    put_real(&c, r->topk);
    put_count(&c, r->window);
    put_text(&c, r->layers);
    put_text(&c, r->heads ? r->heads : "all");
    put_text(&c, r->tuned_hash);
    put_int(&c, r->max_length);
    put_int(&c, r->num_samples);
    put_text(&c, r->score);
    put_int(&c, (int64_t)r->seed);
    put_int(&c, r->repeat);
    put_int(&c, r->threads);
    put_text(&c, r->device);
    put_text(&c, r->impls);
    put_int(&c, r->min_sparse_tokens);
    put_int(&c, r->attention_calls);
    put_int(&c, r->dense_fallback_calls);
    put_text(&c, r->argv_json);
    put_text(&c, r->started);
    put_text(&c, r->ended);
    put_real(&c, r->wall_s);
    put_count(&c, r->peak_bytes);
    put_count(&c, r->peak_device_bytes);
    put_text(&c, digest);
    put_headline(&c, d);
    enum status st = cursor_run(&c);
    cursor_close(&c);
    if (st == OK) *id = sqlite3_last_insert_rowid(s->db);
    return st;
}

static enum status put_metrics(struct store *s, int64_t run, const struct metric_record *rows, size_t n)
{
    struct cursor c = {0};
    enum status st = cursor_open(&c, s,
                                 "INSERT INTO metric (run, scope, name, ordinal, n, mean, std_error, min, "
                                 "p0_1, p1, p5, median, p95, p99, p99_9, max, lo, hi) "
                                 "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
    for (size_t i = 0; st == OK && i < n; i++) {
        const struct metric_record *m = &rows[i];
        put_int(&c, run);
        put_text(&c, m->scope);
        put_text(&c, m->name);
        put_int(&c, (int64_t)i);
        put_int(&c, m->n);
        const double v[] = {m->mean, m->std_error, m->min,   m->p0_1, m->p1, m->p5, m->median,
                            m->p95,  m->p99,       m->p99_9, m->max,  m->lo, m->hi};
        for (size_t k = 0; k < sizeof v / sizeof *v; k++) put_real(&c, v[k]);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

static enum status put_samples(struct store *s, int64_t run, const struct sample_record *rows, size_t n)
{
    struct cursor c = {0};
    enum status st = cursor_open(
        &c, s,
        "INSERT INTO sample (run, sample, n_tokens, n_scored, fell_back, nll_dense_sum, nll_sparse_sum, "
        "cosine_mean, cosine_p1, cosine_min, kl_mean, kl_p99_9, kl_max, delta_p_mean, token_accuracy, "
        "top5_overlap, logits_cosine, logits_l1, logits_rmse, hidden_cosine, hidden_l1, sparsity, "
        "qk_sparsity, "
        "pv_sparsity, cosine_centred_mean, row_rmse_mean, row_hidden_cosine_mean) "
        "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
    for (size_t i = 0; st == OK && i < n; i++) {
        const struct sample_record *r = &rows[i];
        put_int(&c, run);
        put_int(&c, r->sample);
        put_int(&c, r->n_tokens);
        put_int(&c, r->n_scored);
        put_int(&c, r->fell_back);
        const double v[] = {r->nll_dense_sum, r->nll_sparse_sum, r->cosine_mean,   r->cosine_p1,
                            r->cosine_min,    r->kl_mean,        r->kl_p99_9,      r->kl_max,
                            r->delta_p_mean,  r->token_accuracy, r->top5_overlap,  r->logits_cosine,
                            r->logits_l1,     r->logits_rmse,    r->hidden_cosine, r->hidden_l1,
                            r->sparsity,      r->qk_sparsity,    r->pv_sparsity,
                            r->cosine_centred_mean, r->row_rmse_mean, r->row_hidden_cosine_mean};
        for (size_t k = 0; k < sizeof v / sizeof *v; k++) put_real(&c, v[k]);
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

enum { N_COUNTS = 12, N_COLUMNS = N_COUNTS + 3 };

static void ledger_columns(const struct ledger_record *rows, size_t n, struct str texts[N_COLUMNS])
{
    double *column = malloc(n * sizeof *column);
    if (!column) abort();
    for (int k = 0; k < N_COLUMNS; k++) {
        for (size_t i = 0; i < n; i++) {
            const struct ledger_record *r = &rows[i];
            const double v[N_COLUMNS] = {(double)r->tiles_possible,
                                         (double)r->tiles_computed,
                                         (double)r->pv_possible,
                                         (double)r->pv_computed,
                                         (double)r->forced_sink,
                                         (double)r->forced_diagonal,
                                         (double)r->forced_theta_q,
                                         (double)r->forced_theta_k,
                                         (double)r->calls,
                                         (double)r->dense_head,
                                         (double)r->dense_layer,
                                         (double)r->dense_short,
                                         r->theta,
                                         r->tau,
                                         r->lambda};
            column[i] = v[k];
        }
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

static enum status put_ledger(struct store *s, int64_t run, const struct ledger_record *rows, size_t n)
{
    struct cursor layer = {0}, thresholds = {0};
    struct str texts[N_COLUMNS] = {0};
    enum status st;
    TRY_GOTO(st, done,
             cursor_open(&layer, s,
                         "INSERT INTO ledger (run, layer, n_heads, tiles_possible, tiles_computed, "
                         "pv_possible, pv_computed, "
                         "forced_sink, forced_diagonal, forced_theta_q, forced_theta_k, calls, dense_head, "
                         "dense_layer, "
                         "dense_short, thresholds) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"));
    TRY_GOTO(st, done,
             cursor_open(&thresholds, s,
                         "INSERT OR IGNORE INTO head_thresholds (id, theta, tau, lambda) "
                         "VALUES (?,?,?,?)"));
    for (size_t from = 0, to; from < n; from = to) {
        for (to = from; to < n && rows[to].layer == rows[from].layer; to++)
            if (rows[to].head != (int)(to - from)) {
                st = fail(ERR_ARG, "ledger of layer %d: row %d is head %d, expected head %d", rows[to].layer,
                          (int)to, rows[to].head, (int)(to - from));
                goto done;
            }
        ledger_columns(rows + from, to - from, texts);
        int64_t id = thresholds_id(texts + N_COUNTS);
        put_int(&thresholds, id);
        for (int k = 0; k < 3; k++) put_text(&thresholds, str_get(&texts[N_COUNTS + k]));
        TRY_GOTO(st, done, cursor_run(&thresholds));
        put_int(&layer, run);
        put_int(&layer, rows[from].layer);
        put_int(&layer, (int64_t)(to - from));
        for (int k = 0; k < N_COUNTS; k++) put_text(&layer, str_get(&texts[k]));
        put_int(&layer, id);
        TRY_GOTO(st, done, cursor_run(&layer));
    }
done:
    for (int k = 0; k < N_COLUMNS; k++) str_clear(&texts[k]);
    cursor_close(&layer);
    cursor_close(&thresholds);
    return st;
}

static enum status put_layer_errors(struct store *s, int64_t run, const struct layer_error_record *rows,
                                    size_t n)
{
    struct cursor c = {0};
    enum status st = cursor_open(&c, s,
                                 "INSERT INTO layer_error (run, sample, layer, head, isolated_l1, isolated_cosine, "
                                 "propagated_l1, propagated_cosine) VALUES (?,?,?,?,?,?,?,?)");
    for (size_t i = 0; st == OK && i < n; i++) {
        put_int(&c, run);
        put_int(&c, rows[i].sample);
        put_int(&c, rows[i].layer);
        put_int(&c, rows[i].head);
        put_real(&c, rows[i].isolated_l1);
        put_real(&c, rows[i].isolated_cosine);
        put_real(&c, rows[i].propagated_l1);
        put_real(&c, rows[i].propagated_cosine);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

static enum status put_items(struct store *s, int64_t run, const struct item_record *rows, size_t n)
{
    struct cursor c = {0};
    enum status st = cursor_open(&c, s,
                                 "INSERT INTO item (run, ordinal, item, grp, sample, depth, length, "
                                 "dense_score, sparse_score, dense_right, sparse_right, dense_right_norm, "
                                 "sparse_right_norm) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)");
    for (size_t i = 0; st == OK && i < n; i++) {
        put_int(&c, run);
        put_int(&c, (int64_t)i);
        put_text(&c, rows[i].item);
        put_text(&c, rows[i].group);
        put_count(&c, rows[i].sample);
        put_real(&c, rows[i].depth);
        put_count(&c, rows[i].length);
        put_real(&c, rows[i].dense_score);
        put_real(&c, rows[i].sparse_score);
        put_int(&c, rows[i].dense_right);
        put_int(&c, rows[i].sparse_right);
        put_count(&c, rows[i].has_norm ? rows[i].dense_right_norm : -1);
        put_count(&c, rows[i].has_norm ? rows[i].sparse_right_norm : -1);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

static enum status put_generations(struct store *s, int64_t run, const struct generation_record *rows,
                                   size_t n)
{
    struct cursor c = {0};
    enum status st = cursor_open(&c, s,
                                 "INSERT INTO generation (run, idx, prompt, dense, sparse, n_tokens, "
                                 "token_match, text_similarity) VALUES (?,?,?,?,?,?,?,?)");
    for (size_t i = 0; st == OK && i < n; i++) {
        put_int(&c, run);
        put_int(&c, rows[i].index);
        put_text(&c, rows[i].prompt);
        put_text(&c, rows[i].dense);
        put_text(&c, rows[i].sparse);
        put_int(&c, rows[i].n_tokens);
        put_real(&c, rows[i].token_match);
        put_real(&c, rows[i].text_similarity);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

static enum status put_latencies(struct store *s, int64_t run, const struct latency_record *rows, size_t n)
{
    struct cursor c = {0};
    enum status st = cursor_open(&c, s,
                                 "INSERT INTO latency (run, part, n_tokens, n, min, p5, q1, median, q3, p95, "
                                 "max, mean, valid, note) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
    for (size_t i = 0; st == OK && i < n; i++) {
        const struct latency_record *r = &rows[i];
        put_int(&c, run);
        put_text(&c, r->part);
        put_int(&c, r->n_tokens);
        put_int(&c, r->n);
        const double v[] = {r->min, r->p5, r->q1, r->median, r->q3, r->p95, r->max, r->mean};
        for (size_t k = 0; k < sizeof v / sizeof *v; k++) put_real(&c, v[k]);
        put_int(&c, r->valid);
        put_text(&c, r->note);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

static enum status put_worst_tokens(struct store *s, int64_t run, const struct worst_token_record *rows,
                                    size_t n)
{
    struct cursor c = {0};
    enum status st =
        cursor_open(&c, s,
                    "INSERT INTO worst_token (run, sample, position, token, kl, cosine, nll_dense, "
                    "nll_sparse, row_sparsity, context, token_text, top_dense, top_sparse) "
                    "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)");
    for (size_t i = 0; st == OK && i < n; i++) {
        const struct worst_token_record *r = &rows[i];
        put_int(&c, run);
        put_int(&c, r->sample);
        put_int(&c, r->position);
        put_int(&c, r->token);
        put_real(&c, r->kl);
        put_real(&c, r->cosine);
        put_real(&c, r->nll_dense);
        put_real(&c, r->nll_sparse);
        put_real(&c, r->row_sparsity);
        put_text(&c, r->context);
        put_text(&c, r->token_text);
        put_text(&c, r->top_dense);
        put_text(&c, r->top_sparse);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

static enum status put_blobs(struct store *s, int64_t run, const struct run_data *d)
{
    struct cursor c = {0};
    enum status st = cursor_open(&c, s, "INSERT INTO token_block (run, sample, n, data) VALUES (?,?,?,?)");
    _Static_assert(sizeof(struct token_record) == TOKEN_BYTES, "stored as it lies in memory, little-endian");
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
        st = cursor_open(&c, s,
                         "INSERT INTO block_mask (run, sample, layer, head, n_q, n_k, bits) "
                         "VALUES (?,?,?,?,?,?,?)");
    for (size_t i = 0; st == OK && i < d->n_masks; i++) {
        const struct mask_record *m = &d->masks[i];
        put_int(&c, run);
        put_int(&c, m->sample);
        put_int(&c, m->layer);
        put_int(&c, m->head);
        put_int(&c, m->n_q);
        put_int(&c, m->n_k);
        put_blob(&c, m->bits, ((size_t)m->n_q * (size_t)m->n_k + 7) / 8);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

/* What becomes of a done run with the same key. */
enum if_done { REFUSE, REPLACE, KEEP };

/* Make room for the key: an unfinished run goes, a done one only when it may. *kept: it stays, and that is well. */
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

static enum status store_run(struct store *s, const struct run_data *d, enum if_done if_done, bool *kept, int64_t *id)
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
    TRY_GOTO(st, done, put_run(s, d, &run));
    TRY_GOTO(st, done, put_metrics(s, run, d->metrics, d->n_metrics));
    TRY_GOTO(st, done, put_samples(s, run, d->samples, d->n_samples));
    TRY_GOTO(st, done, put_ledger(s, run, d->ledger, d->n_ledger));
    TRY_GOTO(st, done, put_layer_errors(s, run, d->layer_errors, d->n_layer_errors));
    TRY_GOTO(st, done, put_items(s, run, d->items, d->n_items));
    TRY_GOTO(st, done, put_generations(s, run, d->generations, d->n_generations));
    TRY_GOTO(st, done, put_latencies(s, run, d->latencies, d->n_latencies));
    TRY_GOTO(st, done, put_worst_tokens(s, run, d->worst_tokens, d->n_worst_tokens));
    TRY_GOTO(st, done, put_blobs(s, run, d));
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

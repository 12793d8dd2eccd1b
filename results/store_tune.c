#include "results/db.h"

#include <sqlite3.h>

void bind_curve_key(struct cursor *c, const struct curve_key *key)
{
    put_text(c, key->model_fingerprint);
    put_text(c, key->data_fingerprint);
    put_text(c, key->kind);
    put_text(c, key->method);
    put_text(c, key->smooth_k);
    put_int(c, key->block_q);
    put_int(c, key->block_k);
    put_int(c, key->layer);
    put_int(c, key->head);
    put_int(c, key->sample);
}

enum status store_curve_put(struct store *s, const struct curve_key *key, const void *blob, size_t size)
{
    TRY(db_need_write(s));
    struct cursor c = {0};
    enum status st = cursor_open(&c, s,
                                 "INSERT OR REPLACE INTO curve (model_fingerprint, data_fingerprint, kind, "
                                 "method, smooth_k, block_q, block_k, "
                                 "layer, head, sample, data) VALUES (?,?,?,?,?,?,?,?,?,?,?)");
    if (st == OK) {
        bind_curve_key(&c, key);
        put_blob(&c, blob, size);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

static enum status put_tuned(struct store *s, const struct tuned_record *t)
{
    struct cursor c = {0};
    enum status st;
    TRY_GOTO(st, done, cursor_open(&c, s, "DELETE FROM tuned WHERE hash = ?"));
    put_text(&c, t->hash);
    TRY_GOTO(st, done, cursor_run(&c));
    cursor_close(&c);
    TRY_GOTO(st, done,
             cursor_open(&c, s,
                         "INSERT INTO tuned (hash, model_fingerprint, data_fingerprint, method, rule, "
                         "smooth_k, layers, l1, pv_l1, "
                         "block_q, block_k, json, wall_s) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"));
    put_text(&c, t->hash);
    put_text(&c, t->model_fingerprint);
    put_text(&c, t->data_fingerprint);
    put_text(&c, t->method);
    put_text(&c, t->rule);
    put_text(&c, t->smooth_k);
    put_text(&c, t->layers);
    put_real(&c, t->l1);
    put_real(&c, t->pv_l1);
    put_int(&c, t->block_q);
    put_int(&c, t->block_k);
    put_text(&c, t->json);
    put_real(&c, t->wall_s);
    TRY_GOTO(st, done, cursor_run(&c));
    cursor_close(&c);
    TRY_GOTO(st, done,
             cursor_open(&c, s,
                         "INSERT INTO tuned_head (hash, layer, head, is_sparse, theta, tau, lambda, l1_tune, "
                         "l1_held_out, tail_tune, "
                         "tail_held_out, qk_sparsity, sparsity, back_offs, reason) VALUES "
                         "(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"));
    for (size_t i = 0; i < t->n_heads; i++) {
        const struct tuned_head_record *h = &t->heads[i];
        put_text(&c, t->hash);
        put_int(&c, h->layer);
        put_int(&c, h->head);
        put_int(&c, h->is_sparse);
        const double v[] = {h->theta,     h->tau,           h->lambda,      h->l1_tune, h->l1_held_out,
                            h->tail_tune, h->tail_held_out, h->qk_sparsity, h->sparsity};
        for (size_t k = 0; k < sizeof v / sizeof *v; k++) put_real(&c, v[k]);
        put_int(&c, h->back_offs);
        put_text(&c, h->reason);
        TRY_GOTO(st, done, cursor_run(&c));
    }
done:
    cursor_close(&c);
    return st;
}

enum status store_tuned_put(struct store *s, const struct tuned_record *t)
{
    TRY(db_need_write(s));
    TRY(db_begin(s));
    enum status st = put_tuned(s, t);
    if (st == OK) st = db_commit(s);
    if (st != OK) db_rollback(s);
    return st;
}

static enum status put_noise(struct store *s, const struct machine_record *m, const struct noise_record *rows,
                             size_t n)
{
    int64_t machine;
    TRY(put_machine(s, m, &machine));
    struct cursor c = {0};
    enum status st = cursor_open(&c, s,
                                 "INSERT OR REPLACE INTO noise (machine, model_fingerprint, source, metric, "
                                 "value, n) VALUES (?,?,?,?,?,?)");
    for (size_t i = 0; st == OK && i < n; i++) {
        put_int(&c, machine);
        put_text(&c, rows[i].model_fingerprint);
        put_text(&c, rows[i].source);
        put_text(&c, rows[i].metric);
        put_real(&c, rows[i].value);
        put_int(&c, rows[i].n);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

enum status store_noise_put(struct store *s, const struct machine_record *machine,
                            const struct noise_record *rows, size_t n)
{
    TRY(db_need_write(s));
    TRY(db_begin(s));
    enum status st = put_noise(s, machine, rows, n);
    if (st == OK) st = db_commit(s);
    if (st != OK) db_rollback(s);
    return st;
}

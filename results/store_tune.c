#include "results/db.h"

#include <sqlite3.h>

enum status store_curve_put(
    struct store *s, const struct curve_key *key, const void *blob, size_t size)
{
    TRY(db_need_write(s));
    struct cursor c = {0};
    enum status st = cursor_open_insert(&c, s, "INSERT OR REPLACE", &curve_columns, "", "data");
    if (st == OK) {
        put_record(&c, &curve_columns, key);
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
    /* both: where somebody has deleted the one with foreign keys off, the other is still there */
    static const char *const old[] = {
        "DELETE FROM tuned WHERE hash = ?", "DELETE FROM tuned_head WHERE hash = ?"};
    for (int i = 0; i < 2; i++) {
        TRY_GOTO(st, done, cursor_open(&c, s, old[i]));
        put_text(&c, t->hash);
        TRY_GOTO(st, done, cursor_run(&c));
        cursor_close(&c);
    }
    TRY_GOTO(st, done, cursor_open_insert(&c, s, "INSERT", &tuned_columns, "", ""));
    put_record(&c, &tuned_columns, t);
    TRY_GOTO(st, done, cursor_run(&c));
    cursor_close(&c);
    TRY_GOTO(st, done, cursor_open_insert(&c, s, "INSERT", &tuned_head_columns, "hash", ""));
    for (size_t i = 0; i < t->n_heads; i++) {
        put_text(&c, t->hash);
        put_record(&c, &tuned_head_columns, &t->heads[i]);
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

static enum status put_noise(
    struct store *s, const struct machine_record *m, const struct noise_record *rows, size_t n)
{
    int64_t machine;
    TRY(put_parent(s, &machine_columns, m, &machine));
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

/* Contents of a database: a sound file with some changes, read by everything that reads.
 *
 * First byte even: five bytes a change, four of place (of the file's size) and one of value. Odd:
 * changes of values, which get past SQLite's own checks: table, column, row, type, length, and as
 * many bytes; constraints are off as in a file from a stranger. */
#include "reports/gate.h"
#include "reports/tables.h"
#include "results/query.h"
#include "results/store.h"
#include "tests/unit/run_fixture.h"

#include "base/file.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct str sound;
static char path[64];

static void must(enum status st)
{
    if (st != OK) abort();
}

static void leave(void) { unlink(path); }

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    atexit(leave);
    struct store *s;
    struct fixture f;
    snprintf(path, sizeof path, "/tmp/fuzz_database_%d.db", (int)getpid());
    unlink(path);
    must(store_open(&s, path, STORE_WRITE));
    fixture_run(&f,
        (struct fixture_options){.seed = 1,
            .n_samples = 2,
            .n_layers = 2,
            .n_heads = 2,
            .sparsity = .4,
            .error = 1,
            .method = "sparge",
            .rule = "l1",
            .tasks = true,
            .latency = true,
            .words = true});
    must(store_run_put(s, &f.d, false, NULL));
    struct planned_cell cell = {f.d.run.key, f.d.run.slot, f.d.run.key_json};
    must(store_plan_put(s, "grid", "{}", &cell, 1));
    fixture_clear(&f);
    store_close(&s);
    must(file_read(&sound, path));
    return 0;
}

static void show(struct table *t)
{
    struct str out = {0};
    table_render(t, TABLE_CSV, (struct table_style){0}, &out);
    str_clear(&out);
    table_free(&t);
}

static void read_all(struct store *s)
{
    struct run_list runs;
    struct run_view v;
    struct cell_list cells;
    if (query_runs(s, &(struct run_filter){0}, &runs) == OK) show(runs_table(&runs));
    run_list_clear(&runs);
    if (query_cells(s, NULL, &cells) == OK) show(cells_table(&cells));
    cell_list_clear(&cells);
    if (run_view_load(&v, s, "1") != OK) return;
    show(metrics_table(&v));
    show(samples_table(&v));
    show(layers_table(&v));
    show(heads_table(&v, 10));
    show(items_table(&v, false));
    show(worst_tokens_table(&v, 10));
    show(provenance_table(&v));
    struct gate_bounds b = gate_no_bounds();
    struct gate_result g;
    b.min_cosine = .5;
    b.max_kl = 1;
    b.max_ppl_increase = .1;
    if (gate_run(&(struct gate_subject){.run = &v}, &b, &g) == OK) gate_result_clear(&g);
    run_view_clear(&v);
    struct mask_list masks;
    size_t kept = 0;
    if (query_masks(s, 1, &masks) == OK)
        for (size_t i = 0; i < masks.n; i++)
            for (int bit = 0; bit < masks.rows[i].n_q * masks.rows[i].n_k; bit++)
                kept += masks.rows[i].bits[bit / 8] >> bit % 8 & 1u;
    mask_list_clear(&masks);
    static volatile size_t seen; /* keeps the reading */
    seen = kept;
    (void)seen;
}

static void put(const void *bytes)
{
    FILE *f = fopen(path, "w");
    if (!f || fwrite(bytes, 1, sound.len, f) != sound.len) abort();
    fclose(f);
}

static void change_bytes(const unsigned char *data, size_t size)
{
    char *bytes = malloc(sound.len);
    must(bytes ? OK : ERR_MEMORY);
    memcpy(bytes, sound.data, sound.len);
    for (size_t i = 0; i + 5 <= size; i += 5) {
        size_t at = (size_t)data[i] << 24 | (size_t)data[i + 1] << 16 | (size_t)data[i + 2] << 8 |
            data[i + 3];
        bytes[at % sound.len] = (char)data[i + 4];
    }
    put(bytes);
    free(bytes);
}

/* A text from the database that stands `n` rows down, from the start again behind the last. */
static char *name_at(sqlite3 *db, const char *sql, int n)
{
    sqlite3_stmt *q;
    char *names[128], *found = NULL;
    int count = 0;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK) abort();
    while (count < 128 && sqlite3_step(q) == SQLITE_ROW)
        names[count++] = strdup((const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    for (int i = 0; i < count; i++)
        if (i == n % count) found = names[i];
        else free(names[i]);
    return found;
}

static void bind(sqlite3_stmt *q, int type, const unsigned char *data, int n)
{
    int64_t whole = 0;
    double real = 0;
    memcpy(&whole, data, n < 8 ? (size_t)n : 8);
    memcpy(&real, data, n < 8 ? (size_t)n : 8);
    if (type == 0) sqlite3_bind_int64(q, 1, n < 8 ? (int8_t)whole : whole);
    else if (type == 1) sqlite3_bind_double(q, 1, real);
    else if (type == 2) sqlite3_bind_text(q, 1, (const char *)data, n, SQLITE_TRANSIENT);
    else if (type == 3) sqlite3_bind_blob(q, 1, data, n, SQLITE_TRANSIENT);
    else sqlite3_bind_null(q, 1);
}

static void change_values(const unsigned char *data, size_t size)
{
    sqlite3 *db;
    put(sound.data);
    if (sqlite3_open(path, &db) != SQLITE_OK) abort();
    sqlite3_exec(db,
        "PRAGMA ignore_check_constraints = 1; PRAGMA synchronous = 0; PRAGMA journal_mode = "
        "MEMORY; BEGIN",
        0, 0, 0);
    for (size_t n; size >= 5; data += 5 + n, size -= 5 + n) {
        n = data[4] < size - 5 ? data[4] : size - 5;
        char *table = name_at(db,
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
            "ORDER BY name",
            data[0]);
        char *sql = sqlite3_mprintf("SELECT name FROM pragma_table_info(%Q)", table);
        char *column = name_at(db, sql, data[1]);
        sqlite3_free(sql);
        sql = sqlite3_mprintf("UPDATE \"%w\" SET \"%w\" = ?1 WHERE (SELECT count(*) FROM \"%w\") "
                              "AND rowid IN (SELECT rowid FROM \"%w\" LIMIT 1 OFFSET %d)",
            table, column, table, table, data[2] % 16);
        sqlite3_stmt *q = NULL;
        if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) == SQLITE_OK) { /* else: no rowid */
            bind(q, data[3] % 5, data + 5, (int)n);
            (void)sqlite3_step(q);
        }
        sqlite3_finalize(q);
        sqlite3_free(sql);
        free(table);
        free(column);
    }
    sqlite3_exec(db, "COMMIT", 0, 0, 0);
    sqlite3_close(db);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    struct store *s;
    if (size < 1) return 0;
    if (data[0] % 2) change_values(data + 1, size - 1);
    else change_bytes(data + 1, size - 1);
    if (store_open(&s, path, STORE_READ) != OK) return 0;
    read_all(s);
    store_close(&s);
    return 0;
}

/* Contents of a database: a sound file with some changes, read by everything that reads.
 *
 * First byte: bit 0 says what is changed, bits 1 and 2 who reads (readers[]). Changes of bytes are
 * five bytes each, four of place (of the file's size) and one of value. Changes of values get past
 * SQLite's own checks: table, column, row, type, length, and as many bytes; constraints are off as
 * in a file from a stranger.
 *
 * What makes it fast: SQLite allocates beside the sanitizer (its own memory is not what is
 * tested), values are changed in one database in memory that is rolled back, by statements that
 * are kept, and the file is read without a write-ahead log. */
#include "harness/measure/report_curves.h"
#include "reports/gate.h"
#include "reports/tables.h"
#include "results/query.h"
#include "results/store.h"
#include "tests/unit/run_fixture.h"

#include "base/file.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct str sound;
static char path[64], sound_path[64];
static int file;

static void must(enum status st) { require(st == OK); }

static void leave(void)
{
    unlink(path);
    unlink(sound_path);
}

/* Memory of SQLite, with its size in front. */
extern void *__libc_malloc(size_t);
extern void *__libc_realloc(void *, size_t);
extern void __libc_free(void *);
enum { BEFORE = 16 };

static void *sized(int *block, int n)
{
    if (!block) return NULL;
    *block = n;
    return (char *)block + BEFORE;
}
static void *own_malloc(int n) { return sized(__libc_malloc((size_t)n + BEFORE), n); }
static void own_free(void *p) { __libc_free((char *)p - BEFORE); }
static void *own_realloc(void *p, int n)
{
    return sized(__libc_realloc((char *)p - BEFORE, (size_t)n + BEFORE), n);
}
static int own_size(void *p) { return p ? *(int *)((char *)p - BEFORE) : 0; }
static int own_round(int n) { return (n + 7) / 8 * 8; }
static int own_init(void *x) { return (void)x, SQLITE_OK; }
static void own_end(void *x) { (void)x; }

/* A row in every table. */
static void fill(void)
{
    static const struct token_record tokens[4] = {{.token = 1}, {.token = 2}};
    struct store *s;
    struct fixture f;
    must(store_open(&s, sound_path, STORE_WRITE));
    fixture_run(&f,
        (struct fixture_options){.seed = 1,
            .n_samples = 2,
            .n_layers = 2,
            .n_heads = 2,
            .sparsity = .4,
            .error = 1,
            .method = "sparge",
            .rule = "l1",
            .tuned_hash = "feed",
            .tasks = true,
            .latency = true,
            .words = true});
    struct token_block block = {.sample = 0, .n = 4, .tokens = tokens};
    static float worst[] = {.9f, .95f};
    struct tail_record tail = {.sample = 0, .name = "cosine", .values = worst, .n = 2};
    f.d.token_blocks = &block;
    f.d.n_token_blocks = 1;
    f.d.tails = &tail;
    f.d.n_tails = 1;
    f.d.n_items = 8;
    must(store_run_put(s, &f.d, false, NULL));
    f.d.n_items = 60;
    struct planned_cell cells[2] = {
        {f.d.run.key, f.d.run.slot, f.d.run.key_json}, {"k2", "s2", "{\"a\":2}"}};
    must(store_plan_put(s, "grid", "{}", cells, 2));
    struct tuned_head_record h[2] = {{0, 0, true, .5, .97, 12, .05, .055, .1, .1, .4, .41, 2, NULL},
        {1, 1, false, NAN, NAN, NAN, 0, 0, NAN, NAN, 0, 0, 0, "too little"}};
    must(store_tuned_put(s,
        &(struct tuned_record){"feed", f.d.run.model.fingerprint, f.d.run.dataset.fingerprint,
            "sparge", "l1", "running", "0-1", .06, .07, 128, 64, "{}", 9.5, h, 2}));
    must(store_curve_put(s,
        &(struct curve_key){f.d.run.model.fingerprint, f.d.run.dataset.fingerprint, "curve1",
            "sparge", "running", 128, 64, 0, 0, 0},
        "abc", 3));
    enum lease lease;
    must(store_lease(s, "k2", "host:1:1", 1e6, LEASE_OVER_NONE, &lease));
    must(store_noise_put(s, &f.d.run.machine,
        &(struct noise_record){NULL, f.d.run.model.fingerprint, "threads", "kl", 1e-6, 1000}, 1));
    fixture_clear(&f);
    store_close(&s);
}

static sqlite3 *changing; /* the sound file in memory */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    static const sqlite3_mem_methods own = {
        own_malloc, own_free, own_realloc, own_size, own_round, own_init, own_end, NULL};
    /* refused where a replay has begun to use SQLite already */
    (void)sqlite3_config(SQLITE_CONFIG_MALLOC, &own);
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    (void)sqlite3_config(SQLITE_CONFIG_SINGLETHREAD);
    const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, sizeof path, "%s/fuzz_database_%d.db", folder, (int)getpid());
    snprintf(sound_path, sizeof sound_path, "%s/fuzz_sound_%d.db", folder, (int)getpid());
    atexit(leave);
    unlink(sound_path);
    fill();
    sqlite3 *disk;
    require(sqlite3_open(sound_path, &disk) == SQLITE_OK &&
        sqlite3_exec(disk, "PRAGMA journal_mode = DELETE; VACUUM", 0, 0, 0) == SQLITE_OK &&
        sqlite3_open(":memory:", &changing) == SQLITE_OK);
    sqlite3_backup *b = sqlite3_backup_init(changing, "main", disk, "main");
    require(b && sqlite3_backup_step(b, -1) == SQLITE_DONE && !sqlite3_backup_finish(b));
    sqlite3_close(disk);
    sqlite3_exec(changing, "PRAGMA ignore_check_constraints = 1", 0, 0, 0);
    must(file_read(&sound, sound_path));
    file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    require(file >= 0);
    return 0;
}

static void show(struct table *t)
{
    struct str out = {0};
    table_render(t, TABLE_CSV, (struct table_style){0}, &out);
    str_clear(&out);
    table_free(&t);
}

static void read_lists(struct store *s)
{
    struct run_list runs;
    struct cell_list cells;
    struct str why = {0};
    if (query_runs(s, &(struct run_filter){0}, &runs) == OK) {
        struct frontier_point *points = NULL;
        size_t n;
        show(runs_table(&runs));
        if (query_frontier(&runs, FRONTIER_KL, &points, &n) == OK) free(points);
    }
    run_list_clear(&runs);
    if (query_cells(s, NULL, &cells) == OK) {
        for (size_t i = 0; i < cells.n; i++)
            if (query_explain(
                    s, cells.rows[i].key, cells.rows[i].slot, cells.rows[i].key_json, &why) != OK)
                break;
    }
    str_clear(&why);
    cell_list_clear(&cells);
    size_t counts[6];
    (void)!query_plan_status(s, "grid", counts);
    struct noise_list floors;
    if (query_noise(s, NULL, NULL, &floors) == OK) noise_list_clear(&floors);
}

static void read_run(struct store *s)
{
    struct run_view v;
    if (run_view_load(&v, s, "1") != OK) return;
    show(metrics_table(&v));
    show(samples_table(&v));
    show(layers_table(&v));
    show(heads_table(&v, 10));
    show(items_table(&v, false));
    show(generations_table(&v));
    show(latencies_table(&v));
    show(worst_tokens_table(&v, 10));
    show(provenance_table(&v));
    size_t kept = 0;
    for (size_t i = 0; i < v.masks.n; i++)
        for (int bit = 0; bit < v.masks.rows[i].n_q * v.masks.rows[i].n_k; bit++)
            kept += v.masks.rows[i].bits[bit / 8] >> bit % 8 & 1u;
    run_view_clear(&v);
    static volatile size_t seen; /* keeps the reading */
    seen = kept;
    (void)seen;
}

/* With bounds that are decided: how many samples would decide takes longer than all else. */
static void read_gate(struct store *s)
{
    struct run_view v;
    struct gate_bounds b = gate_no_bounds();
    struct gate_result g;
    struct token_record *tokens = NULL;
    size_t n;
    if (run_view_load(&v, s, "1") != OK) return;
    b.min_cosine = -1;
    b.max_kl = 1e9;
    b.max_ppl_increase = 1e9;
    b.min_sparsity = -1;
    if (gate_run(&(struct gate_subject){.run = &v}, &b, &g) == OK) gate_result_clear(&g);
    run_view_clear(&v);
    if (query_tokens(s, 1, 0, &tokens, &n) == OK) free(tokens);
    static struct report_curves curves;
    (void)!report_curves_load(s, "1", &curves);
}

/* Over the sound file, so that rows meet their like. */
static void read_merge(struct store *s)
{
    struct store *into;
    struct merge_report r;
    (void)s;
    must(store_open(&into, "scratch", STORE_SCRATCH));
    must(store_merge(into, sound_path, NULL, &r));
    merge_report_clear(&r);
    if (store_merge(into, path, NULL, &r) == OK) merge_report_clear(&r);
    store_close(&into);
}

static void (*const readers[4])(struct store *s) = {read_run, read_lists, read_gate, read_merge};

static void put(const void *bytes, size_t size)
{
    require(pwrite(file, bytes, size, 0) == (ssize_t)size && ftruncate(file, (off_t)size) == 0);
}

static void change_bytes(const unsigned char *data, size_t size)
{
    static char *bytes;
    if (!bytes) bytes = malloc(sound.len);
    require(bytes != NULL);
    memcpy(bytes, sound.data, sound.len);
    for (size_t i = 0; i + 5 <= size; i += 5) {
        size_t at = (size_t)data[i] << 24 | (size_t)data[i + 1] << 16 | (size_t)data[i + 2] << 8 |
            data[i + 3];
        bytes[at % sound.len] = (char)data[i + 4];
    }
    put(bytes, sound.len);
}

/* Texts that a query finds; `names` has room for MANY of them. */
enum { MANY = 128 };
static int all_names(const char *sql, char **names)
{
    sqlite3_stmt *q;
    int n = 0;
    require(sqlite3_prepare_v2(changing, sql, -1, &q, NULL) == SQLITE_OK);
    while (n < MANY && sqlite3_step(q) == SQLITE_ROW)
        names[n++] = strdup((const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    return n;
}

/* The statement that changes a column, each counted from the start again behind the last. A row is
 * told by its primary key, which tables without a rowid have alone. */
static sqlite3_stmt *change_of(int table, int column)
{
    static char *tables[MANY], *columns[MANY][MANY], *keys[MANY];
    static int n_tables, n_columns[MANY];
    static sqlite3_stmt *kept[MANY][MANY];
    if (!n_tables)
        n_tables = all_names(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
            "ORDER BY name",
            tables);
    table %= n_tables;
    const char *t = tables[table];
    if (!keys[table]) {
        char *sql = sqlite3_mprintf("SELECT name FROM pragma_table_info(%Q)", t);
        n_columns[table] = all_names(sql, columns[table]);
        sqlite3_free(sql);
        sql = sqlite3_mprintf(
            "SELECT group_concat('\"' || name || '\"') FROM pragma_table_info(%Q) WHERE pk", t);
        require(all_names(sql, &keys[table]) == 1);
        sqlite3_free(sql);
    }
    column %= n_columns[table];
    if (!kept[table][column]) {
        char *sql = sqlite3_mprintf("UPDATE \"%w\" SET \"%w\" = ?1 WHERE (%s) IN (SELECT %s FROM "
                                    "\"%w\" LIMIT 1 OFFSET ?2 %% (SELECT count(*) FROM \"%w\"))",
            t, columns[table][column], keys[table], keys[table], t, t);
        require(sqlite3_prepare_v2(changing, sql, -1, &kept[table][column], NULL) == SQLITE_OK);
        sqlite3_free(sql);
    }
    return kept[table][column];
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
    sqlite3_exec(changing, "BEGIN", 0, 0, 0);
    for (size_t n; size >= 5; data += 5 + n, size -= 5 + n) {
        n = data[4] < size - 5 ? data[4] : size - 5;
        sqlite3_stmt *q = change_of(data[0], data[1]);
        bind(q, data[3] % 5, data + 5, (int)n);
        sqlite3_bind_int(q, 2, data[2]);
        (void)sqlite3_step(q);
        sqlite3_reset(q);
    }
    sqlite3_int64 length;
    unsigned char *bytes = sqlite3_serialize(changing, "main", &length, 0);
    require(bytes != NULL);
    put(bytes, (size_t)length);
    sqlite3_free(bytes);
    sqlite3_exec(changing, "ROLLBACK", 0, 0, 0);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    struct store *s;
    if (size < 1) return 0;
    if (data[0] % 2) change_values(data + 1, size - 1);
    else change_bytes(data + 1, size - 1);
    if (store_open(&s, path, STORE_READ) != OK) return 0;
    readers[data[0] / 2 % 4](s);
    store_close(&s);
    return 0;
}

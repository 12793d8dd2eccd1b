/* What the files of results/ share: the handle, and binding and reading columns in order. Not for
 * others. */
#ifndef SG_RESULTS_DB_H
#define SG_RESULTS_DB_H

#include "base/str.h"
#include "base/arena.h"
#include "results/columns.h"
#include "results/store.h"

struct sqlite3;
struct sqlite3_stmt;

#define SCHEMA_APPLICATION_ID 0x53704761 /* "SpGa" */
#define SCHEMA_VERSION 10

extern const char results_schema_sql[], results_views_sql[];

enum { DB_STATEMENTS = 12 };
struct store {
    struct sqlite3 *db;
    /* reset ones that cursors left, for the next of the same text; NULL: none */
    struct sqlite3_stmt *statements[DB_STATEMENTS];
    int n_left; /* the place of the next one */
    char *path;
    bool writable;
    bool immutable; /* opened as a file that nobody changes, for want of a writable folder */
    /* of an older version, brought up to date for reading; removed with the handle */
    char *copy;
    int depth;              /* open transactions, nested ones are savepoints */
    uint64_t device, inode; /* of the file that is written; 0: none on a disk */
};

/* The connection, with its statements; undoes what was begun and not committed. */
void db_close(struct store *s);
/* ERR_DB with the file, what was tried and SQLite's words. */
enum status db_fail(struct store *s, const char *what) MUST_USE;
/* ERR_DB: the file system, by its name, lacks what a database needs; with the remedy. */
enum status db_no_file_system(struct store *s) MUST_USE;
enum status db_exec(struct store *s, const char *sql) MUST_USE;
enum status db_begin(struct store *s) MUST_USE;
enum status db_commit(struct store *s) MUST_USE;
void db_rollback(struct store *s);
/* ERR_ARG unless the handle was opened for writing. */
enum status db_need_write(struct store *s) MUST_USE;

/* A prepared statement with a cursor over its parameters and columns. */
struct cursor {
    struct store *store;
    struct sqlite3_stmt *stmt;
    int at;
    struct arena **arena; /* where texts read go */
    char problem[192];    /* a column that another hand has filled; cursor_step reports it */
};
enum status cursor_open(struct cursor *c, struct store *s, const char *sql) MUST_USE;
void cursor_close(struct cursor *c);
/* Parameters, in order; texts are borrowed until the next cursor_step or cursor_run. */
void put_text(struct cursor *c, const char *text); /* NULL stays NULL */
void put_int(struct cursor *c, int64_t value);
void put_real(struct cursor *c, double value); /* NAN = NULL */
void put_blob(struct cursor *c, const void *data, size_t size);
/* Run a statement that gives no rows, and make it ready for the next parameters. */
enum status cursor_run(struct cursor *c) MUST_USE;
/* Next row: *more false at the end. */
enum status cursor_step(struct cursor *c, bool *more) MUST_USE;
/* Columns, in order. Whatever indexes, sizes or steers anything is read by get_name and get_range:
 * STRICT and NOT NULL bind SQLite when it writes, not the bytes of a file from elsewhere. What they
 * refuse is told by the next cursor_step, or by cursor_check where no other step follows. */
const char *get_text(struct cursor *c); /* may be NULL */
const char *get_name(struct cursor *c); /* never NULL */
int get_range(struct cursor *c, int lo, int hi);
enum status cursor_check(const struct cursor *c) MUST_USE;
int64_t get_int(struct cursor *c);                    /* NULL = 0 */
int64_t get_count(struct cursor *c);                  /* NULL = -1 */
double get_real(struct cursor *c);                    /* NULL = NAN */
const void *get_blob(struct cursor *c, size_t *size); /* copied to the arena */

/* "file:…?query" for SQLite, appended; query "" for none. */
void db_uri(const char *path, const char *query, struct str *out);

/* Tables whose first column is the run they belong to; ended by NULL. */
extern const char *const run_children[];
/* Delete what belongs to no run and stands where the next ones will: somebody has deleted runs with
 * foreign keys off, as the sqlite3 shell has them, and a new run must not inherit their rows. */
enum status db_drop_orphans(struct store *s) MUST_USE;

/* One integer, e.g. of a PRAGMA or a count. */
enum status db_int(struct store *s, const char *sql, int64_t *out) MUST_USE;

/* Room for one more record at the end of a malloced array; zeroed. */
void *rows_grow(void **rows, size_t n, size_t record_bytes);

/* Whole records: the columns of a table, in its order. */
void put_record(struct cursor *c, const struct columns *t, const void *record);
void get_record(struct cursor *c, const struct columns *t, void *record);
/* "VERB INTO table (before, columns, after) VALUES (?, …)": before and after name further columns,
 * "" for none. */
enum status cursor_open_insert(struct cursor *c, struct store *s, const char *verb,
    const struct columns *t, const char *before, const char *after) MUST_USE;
/* "SELECT before, columns FROM table tail"; before "" for the record's columns alone. */
enum status cursor_open_select(struct cursor *c, struct store *s, const struct columns *t,
    const char *before, const char *tail) MUST_USE;
/* Every record that a prepared cursor finds, appended to a malloced array. */
enum status get_records(struct cursor *c, const struct columns *t, void **rows, size_t *n) MUST_USE;

/* Adds a model, dataset, machine or software when it is new; *id its row. */
enum status put_parent(
    struct store *s, const struct columns *t, const void *record, int64_t *id) MUST_USE;

#endif

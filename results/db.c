#include "results/db.h"

#include "base/xmalloc.h"
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

/* Kinds of file systems by the numbers of statfs(2), those where SQLite is known to have trouble.
 */
static const char *db_file_system(const char *path)
{
    static const struct {
        unsigned long type;
        const char *name;
    } known[] = {{0x6969, "NFS"}, {0xff534d42, "CIFS"}, {0xfe534d42, "SMB2"}, {0x517b, "SMB"},
        {0x65735546, "FUSE"}, {0x01021997, "9p"}, {0x0bd00bd0, "Lustre"}, {0x47504653, "GPFS"},
        {0x00c36400, "Ceph"}, {0x19830326, "BeeGFS"}, {0x5346414f, "AFS"},
        {0x794c7630, "overlayfs"}};
    static _Thread_local char other[32];
    char *dir = str_dup(path), *slash = strrchr(dir, '/');
    if (slash) *(slash == dir ? slash + 1 : slash) = 0;
    struct statfs info;
    bool ok = statfs(slash ? dir : ".", &info) == 0;
    free(dir);
    if (!ok) return "unknown";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (((unsigned long)info.f_type & 0xffffffffu) == known[i].type) return known[i].name;
    snprintf(other, sizeof other, "0x%lx", (unsigned long)info.f_type & 0xffffffffu);
    return other;
}

enum status db_no_file_system(struct store *s)
{
    char *why = str_dup(sqlite3_errmsg(s->db));
    enum status st = fail(ERR_DB,
        "%s: its file system (%s) lacks the locks or the shared memory that a database needs: %s; "
        "give a "
        "--db on a local disk, one for each machine, and merge them",
        s->path, db_file_system(s->path), why);
    free(why);
    return st;
}

enum status db_fail(struct store *s, const char *what)
{
    int code = sqlite3_errcode(s->db) & 0xff;
    int extended = sqlite3_extended_errcode(s->db);
    const char *remedy = "";
    if (extended == SQLITE_IOERR_LOCK || extended == SQLITE_IOERR_RDLOCK ||
        extended == SQLITE_IOERR_UNLOCK || extended == SQLITE_IOERR_SHMOPEN ||
        extended == SQLITE_IOERR_SHMMAP || extended == SQLITE_IOERR_SHMLOCK)
        return db_no_file_system(s);
    if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
        remedy = str_starts_with(db_file_system(s->path), "0x")
            ? "; another program holds the file, or its file system has no locks: wait for it, or "
              "give this worker its own --db "
              "on a local disk and merge"
            : "; another program holds the file, or its network file system has no locks: give "
              "this worker its own --db on a "
              "local disk and merge";
    else if (code == SQLITE_FULL)
        remedy = "; free some space on the disk, results stored so far are kept";
    else if (code == SQLITE_IOERR)
        remedy =
            "; is the disk full? Reading, too, needs room for two small files beside the database";
    else if (code == SQLITE_CORRUPT)
        remedy = "; rescue what is readable with: sqlite3 FILE .recover";
    else if (code == SQLITE_READONLY)
        remedy =
            "; the file or its folder is not writable: change permissions or give another --db";
    return fail(ERR_DB, "%s: cannot %s: %s%s", s->path, what, sqlite3_errmsg(s->db), remedy);
}

enum status db_exec(struct store *s, const char *sql)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK
        ? OK
        : db_fail(s, "change the database");
}

enum status db_need_write(struct store *s)
{
    return s->writable ? OK : fail(ERR_ARG, "%s: opened for reading only", s->path);
}

/* Where the file that this process has open is now, if it has a name still; NULL: none. The caller
 * frees it. */
static char *present_path(const struct store *s)
{
    char link[64], target[4096];
    struct stat info;
    for (int fd = 3; fd < 1024; fd++) {
        if (fstat(fd, &info) != 0 || (uint64_t)info.st_ino != s->inode ||
            (uint64_t)info.st_dev != s->device)
            continue;
        if (info.st_nlink == 0) return NULL;
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, target, sizeof target - 1);
        if (n <= 0) return NULL;
        target[n] = 0;
        return str_dup(target);
    }
    return NULL;
}

/* SQLite goes on writing to a file that was moved or deleted, where nobody looks for it. What is in
 * it is kept: under its new name, or copied to one. */
static enum status db_in_place(struct store *s)
{
    struct stat info;
    if (!s->inode ||
        (stat(s->path, &info) == 0 && (uint64_t)info.st_ino == s->inode &&
            (uint64_t)info.st_dev == s->device))
        return OK;
    char *now = present_path(s), *rescued = str_format("%s.rescued-%ld", s->path, (long)getpid());
    enum status st;
    if (now)
        st = fail(ERR_DB,
            "%s: was moved or replaced while this program wrote to it; what it stored is in %s",
            s->path, now);
    else {
        struct cursor c = {0};
        bool kept = cursor_open(&c, s, "VACUUM INTO ?") == OK;
        if (kept) put_text(&c, rescued);
        kept = kept && cursor_run(&c) == OK;
        cursor_close(&c);
        st = kept ? fail(ERR_DB,
                        "%s: was deleted or replaced while this program wrote to it; what was in "
                        "it is in %s now; "
                        "`merge` takes it into another",
                        s->path, rescued)
                  : fail(ERR_DB,
                        "%s: was deleted or replaced while this program wrote to it, and a copy "
                        "could not be made as "
                        "%s: %s",
                        s->path, rescued, sqlite3_errmsg(s->db));
    }
    s->inode = 0; /* told once: what follows is clearing up */
    free(now);
    free(rescued);
    return st;
}

enum status db_begin(struct store *s)
{
    if (!s->depth) TRY(db_in_place(s));
    TRY(db_exec(s, s->depth ? "SAVEPOINT nested" : "BEGIN IMMEDIATE"));
    s->depth++;
    return OK;
}

enum status db_commit(struct store *s)
{
    TRY(db_exec(s, s->depth > 1 ? "RELEASE nested" : "COMMIT"));
    s->depth--;
    return OK;
}

void db_rollback(struct store *s)
{
    /* An error may have rolled back everything already; then these find nothing to undo. */
    if (s->depth > 1) sqlite3_exec(s->db, "ROLLBACK TO nested; RELEASE nested", NULL, NULL, NULL);
    else sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
    s->depth = sqlite3_get_autocommit(s->db) ? 0 : s->depth - 1;
}

enum status cursor_open(struct cursor *c, struct store *s, const char *sql)
{
    struct arena **arena = c->arena;
    *c = (struct cursor){.store = s, .arena = arena};
    for (int i = 0; i < DB_STATEMENTS; i++)
        if (s->statements[i] && strcmp(sqlite3_sql(s->statements[i]), sql) == 0) {
            c->stmt = s->statements[i];
            s->statements[i] = NULL;
            return OK;
        }
    return sqlite3_prepare_v2(s->db, sql, -1, &c->stmt, NULL) == SQLITE_OK
        ? OK
        : db_fail(s, "use the database");
}

/* A sweep asks the same few things thousands of times, and to read a statement takes five times as
 * long as to run it: the last ones stay, in turn. */
void cursor_close(struct cursor *c)
{
    if (!c->stmt) return;
    struct store *s = c->store;
    struct sqlite3_stmt **place = &s->statements[s->n_left];
    s->n_left = (s->n_left + 1) % DB_STATEMENTS;
    sqlite3_finalize(*place);
    sqlite3_reset(c->stmt);
    sqlite3_clear_bindings(c->stmt);
    *place = c->stmt;
    c->stmt = NULL;
}

void db_close(struct store *s)
{
    for (int i = 0; i < DB_STATEMENTS; i++) {
        sqlite3_finalize(s->statements[i]);
        s->statements[i] = NULL;
    }
    sqlite3_close(s->db);
    s->db = NULL;
}

void put_text(struct cursor *c, const char *text)
{
    sqlite3_bind_text(c->stmt, ++c->at, text, -1, SQLITE_STATIC);
}

void put_int(struct cursor *c, int64_t value) { sqlite3_bind_int64(c->stmt, ++c->at, value); }

static void put_int_or_null(struct cursor *c, bool missing, int64_t value)
{
    if (missing) sqlite3_bind_null(c->stmt, ++c->at);
    else put_int(c, value);
}

void put_real(struct cursor *c, double value)
{
    if (isnan(value)) sqlite3_bind_null(c->stmt, ++c->at);
    else sqlite3_bind_double(c->stmt, ++c->at, value);
}

void put_blob(struct cursor *c, const void *data, size_t size)
{
    /* an empty blob is no NULL */
    if (size) sqlite3_bind_blob64(c->stmt, ++c->at, data, size, SQLITE_STATIC);
    else sqlite3_bind_zeroblob(c->stmt, ++c->at, 0);
}

enum status cursor_run(struct cursor *c)
{
    int code = sqlite3_step(c->stmt);
    enum status st =
        code == SQLITE_DONE || code == SQLITE_ROW ? OK : db_fail(c->store, "write a row");
    sqlite3_reset(c->stmt);
    c->at = 0;
    return st;
}

enum status cursor_check(const struct cursor *c)
{
    if (!c->problem[0]) return OK;
    return fail(ERR_DB,
        "%s: %s: the database is damaged or was changed by another program; rescue what is "
        "readable with: "
        "sqlite3 FILE .recover, or give another --db",
        c->store->path, c->problem);
}

enum status cursor_step(struct cursor *c, bool *more)
{
    *more = false;
    TRY(cursor_check(c));
    int code = sqlite3_step(c->stmt);
    *more = code == SQLITE_ROW;
    c->at = 0;
    return code == SQLITE_ROW || code == SQLITE_DONE ? OK : db_fail(c->store, "read a row");
}

const char *get_text(struct cursor *c)
{
    return arena_str(c->arena, (const char *)sqlite3_column_text(c->stmt, c->at++));
}

const char *get_name(struct cursor *c)
{
    const char *text = get_text(c);
    if (text) return text;
    if (!c->problem[0])
        snprintf(c->problem, sizeof c->problem, "column %s: found nothing, expected a text",
            sqlite3_column_name(c->stmt, c->at - 1));
    return "";
}

static int64_t get_within(struct cursor *c, int64_t lo, int64_t hi, bool may_miss)
{
    int i = c->at++;
    bool missing = sqlite3_column_type(c->stmt, i) == SQLITE_NULL;
    int64_t value = sqlite3_column_int64(c->stmt, i); /* NULL = 0 */
    if (value >= lo && value <= hi && (may_miss || !missing)) return value;
    if (!c->problem[0])
        snprintf(c->problem, sizeof c->problem, "column %s: found %lld, expected %lld to %lld",
            sqlite3_column_name(c->stmt, i), (long long)value, (long long)lo, (long long)hi);
    return lo;
}

int get_range(struct cursor *c, int lo, int hi) { return (int)get_within(c, lo, hi, false); }

int64_t get_int(struct cursor *c) { return sqlite3_column_int64(c->stmt, c->at++); }

int64_t get_count(struct cursor *c)
{
    int i = c->at++;
    return sqlite3_column_type(c->stmt, i) == SQLITE_NULL ? -1 : sqlite3_column_int64(c->stmt, i);
}

double get_real(struct cursor *c)
{
    int i = c->at++;
    return sqlite3_column_type(c->stmt, i) == SQLITE_NULL ? NAN : sqlite3_column_double(c->stmt, i);
}

const void *get_blob(struct cursor *c, size_t *size)
{
    int i = c->at++;
    const void *data = sqlite3_column_blob(c->stmt, i);
    *size = (size_t)sqlite3_column_bytes(c->stmt, i);
    return arena_copy(c->arena, data, *size);
}

enum status db_int(struct store *s, const char *sql, int64_t *out)
{
    struct cursor c = {0};
    bool more = false;
    enum status st = cursor_open(&c, s, sql);
    if (st == OK) st = cursor_step(&c, &more);
    if (st == OK) *out = more ? get_int(&c) : 0;
    cursor_close(&c);
    return st;
}

void *rows_grow(void **rows, size_t n, size_t record_bytes)
{
    if ((n & (n - 1)) == 0) { /* full at powers of two */
        void *grown = xrealloc(*rows, (n ? 2 * n : 1) * record_bytes);
        *rows = grown;
    }
    return memset((char *)*rows + n * record_bytes, 0, record_bytes);
}

void put_record(struct cursor *c, const struct columns *t, const void *record)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct column *x = &t->at[i];
        const void *m = (const char *)record + x->offset;
        bool missing = column_missing(x, record);
        switch (x->type) {
        case COLUMN_TEXT:
        case COLUMN_JSON:
            put_text(c, missing && x->use & COLUMN_EMPTY ? "" : *(const char *const *)m);
            break;
        case COLUMN_INT64: put_int_or_null(c, missing, *(const int64_t *)m); break;
        case COLUMN_UNSIGNED: put_int(c, (int64_t) * (const uint64_t *)m); break;
        case COLUMN_REAL: put_real(c, *(const double *)m); break;
        case COLUMN_BOOL: put_int(c, *(const bool *)m); break;
        case COLUMN_STATUS: put_text(c, run_status_name(*(const enum run_status *)m)); break;
        default: put_int_or_null(c, missing, *(const int *)m);
        }
    }
}

static int get_narrow(struct cursor *c, const struct column *x)
{
    int lo, hi;
    column_is_int(x, &lo, &hi);
    if (!(x->use & COLUMN_OPTIONAL)) return get_range(c, lo, hi);
    int64_t value = get_count(c);
    return value < 0 || value > hi ? -1 : (int)value;
}

static int64_t get_optional(struct cursor *c)
{
    int64_t value = get_count(c);
    return value < 0 || value > COLUMN_MOST ? -1 : value;
}

void get_record(struct cursor *c, const struct columns *t, void *record)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct column *x = &t->at[i];
        void *m = (char *)record + x->offset;
        const char *text;
        switch (x->type) {
        case COLUMN_TEXT:
        case COLUMN_JSON:
            text = x->use & COLUMN_NAMED ? get_name(c) : get_text(c);
            *(const char **)m = text && !*text && x->use & COLUMN_EMPTY ? NULL : text;
            break;
        case COLUMN_INT64:
            *(int64_t *)m =
                x->use & COLUMN_OPTIONAL ? get_optional(c) : get_within(c, -1, COLUMN_MOST, true);
            break;
        case COLUMN_UNSIGNED: *(uint64_t *)m = (uint64_t)get_int(c); break;
        case COLUMN_REAL: *(double *)m = get_real(c); break;
        case COLUMN_BOOL: *(bool *)m = get_int(c) != 0; break;
        case COLUMN_STATUS: *(enum run_status *)m = run_status_of(get_name(c)); break;
        default: *(int *)m = get_narrow(c, x);
        }
    }
}

/* "INTO table (before, columns, after) VALUES (?, …)". */
static void add_into(
    const struct columns *t, const char *before, const char *after, struct str *out)
{
    size_t n = t->n;
    str_addf(out, "INTO %s (%s%s", t->table, before, *before ? ", " : "");
    columns_names(t, "", "", ", ", out);
    str_addf(out, "%s%s) VALUES (", *after ? ", " : "", after);
    for (const char *p = before; *before && p; p = strchr(p + 1, ',')) n++;
    for (const char *p = after; *after && p; p = strchr(p + 1, ',')) n++;
    for (size_t i = 0; i < n; i++) str_add(out, i ? ",?" : "?");
    str_add(out, ")");
}

enum status cursor_open_insert(struct cursor *c, struct store *s, const char *verb,
    const struct columns *t, const char *before, const char *after)
{
    struct str sql = {0};
    str_addf(&sql, "%s ", verb);
    add_into(t, before, after, &sql);
    enum status st = cursor_open(c, s, str_get(&sql));
    str_clear(&sql);
    return st;
}

enum status cursor_open_select(struct cursor *c, struct store *s, const struct columns *t,
    const char *before, const char *tail)
{
    struct str sql = {0};
    str_addf(&sql, "SELECT %s%s", before, *before ? ", " : "");
    columns_names(t, "t.", "", ", ", &sql);
    str_addf(&sql, " FROM %s t %s", t->table, tail);
    enum status st = cursor_open(c, s, str_get(&sql));
    str_clear(&sql);
    return st;
}

enum status get_records(struct cursor *c, const struct columns *t, void **rows, size_t *n)
{
    for (;;) {
        bool more;
        TRY(cursor_step(c, &more));
        if (!more) return OK;
        get_record(c, t, rows_grow(rows, *n, t->bytes));
        ++*n;
    }
}

enum status put_parent(struct store *s, const struct columns *t, const void *record, int64_t *id)
{
    struct cursor c = {0};
    struct str sql = {0};
    bool more = false;
    str_add(&sql, "INSERT ");
    add_into(t, "", "", &sql);
    /* the update changes nothing; it makes RETURNING answer for a row that was there */
    str_addf(&sql, " ON CONFLICT DO UPDATE SET %s = excluded.%s RETURNING id", t->at[0].name,
        t->at[0].name);
    enum status st = cursor_open(&c, s, str_get(&sql));
    str_clear(&sql);
    if (st == OK) {
        put_record(&c, t, record);
        st = cursor_step(&c, &more);
    }
    if (st == OK) *id = get_int(&c);
    cursor_close(&c);
    return st;
}

#include "results/store.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/xmalloc.h"
#include "results/db.h"

#include <errno.h>
#include <stdio.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Version 1 had errors by layer for nobody: no command filled them. */
static const char to_version_2[] =
    "DROP TABLE layer_error;"
    "CREATE TABLE layer_error (run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE, sample "
    "INTEGER NOT NULL,"
    " layer INTEGER NOT NULL, head INTEGER NOT NULL, isolated_l1 REAL, isolated_cosine REAL, "
    "propagated_l1 REAL,"
    " propagated_cosine REAL, PRIMARY KEY (run, sample, layer, head)) STRICT, WITHOUT ROWID;"
    "ALTER TABLE sample ADD COLUMN cosine_centred_mean REAL;"
    "ALTER TABLE sample ADD COLUMN row_rmse_mean REAL;"
    "ALTER TABLE sample ADD COLUMN row_hidden_cosine_mean REAL;"
    "ALTER TABLE item ADD COLUMN dense_right_norm INTEGER;"
    "ALTER TABLE item ADD COLUMN sparse_right_norm INTEGER;";

/* In version 2 the way of working of a device stood in the key alone. */
static const char to_version_3[] = "ALTER TABLE run ADD COLUMN residual TEXT;"
                                   "ALTER TABLE run ADD COLUMN graph INTEGER NOT NULL DEFAULT 0;"
                                   "ALTER TABLE run ADD COLUMN impl TEXT;"
                                   "ALTER TABLE run ADD COLUMN blas TEXT;"
                                   "ALTER TABLE run ADD COLUMN isa TEXT;"
                                   "UPDATE run SET residual = json_extract(key_json, '$.residual'),"
                                   " graph = ifnull(json_extract(key_json, '$.graph'), 0),"
                                   " impl = nullif(nullif(nullif(nullif(json_extract(key_json, "
                                   "'$.kernels'), 'avx512'), 'avx2'), 'base'), device)"
                                   " WHERE json_valid(key_json);";

/* Version 3 kept of samples what one sees of them, not what a pooled value is computed from. */
static const char to_version_4[] = "ALTER TABLE sample ADD COLUMN logits_dense_rms REAL;"
                                   "ALTER TABLE sample ADD COLUMN logits_sparse_rms REAL;"
                                   "ALTER TABLE sample ADD COLUMN hidden_dense_rms REAL;"
                                   "ALTER TABLE sample ADD COLUMN hidden_sparse_rms REAL;"
                                   "ALTER TABLE sample ADD COLUMN tiles_possible REAL;"
                                   "ALTER TABLE sample ADD COLUMN pv_possible REAL;"
                                   "CREATE TABLE tail (run INTEGER NOT NULL REFERENCES run ON "
                                   "DELETE CASCADE, sample INTEGER NOT NULL,"
                                   " name TEXT NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL, "
                                   "PRIMARY KEY (run, sample, name)) STRICT, WITHOUT ROWID;";

static const char to_version_5[] =
    "ALTER TABLE run ADD COLUMN confirming INTEGER NOT NULL DEFAULT 0;";

static const char to_version_6[] = "ALTER TABLE run ADD COLUMN qk TEXT;"
                                   "ALTER TABLE run ADD COLUMN pv TEXT;"
                                   "ALTER TABLE ledger ADD COLUMN eight TEXT NOT NULL DEFAULT '0';";

/* Before version 7 answers were read, never written. */
static const char to_version_7[] = "ALTER TABLE item ADD COLUMN chance REAL;"
                                   "ALTER TABLE item ADD COLUMN kl REAL;"
                                   "ALTER TABLE item ADD COLUMN dense_value REAL;"
                                   "ALTER TABLE item ADD COLUMN sparse_value REAL;"
                                   "ALTER TABLE item ADD COLUMN expected TEXT;"
                                   "ALTER TABLE item ADD COLUMN dense_text TEXT;"
                                   "ALTER TABLE item ADD COLUMN sparse_text TEXT;";

static const char to_version_8[] = "ALTER TABLE item ADD COLUMN recall REAL;"
                                   "ALTER TABLE item ADD COLUMN recall_oracle REAL;";

static const char to_version_9[] = "ALTER TABLE item ADD COLUMN recall_p5 REAL;"
                                   "ALTER TABLE item ADD COLUMN recall_group REAL;";

static const char to_version_10[] =
    "ALTER TABLE ledger ADD COLUMN tiles_corrected TEXT NOT NULL DEFAULT '0';";

/* steps[v] turns version v into v + 1, save the first: an empty file gets the newest schema at
 * once. Views hold nothing and are made anew. */
static const char *const steps[SCHEMA_VERSION] = {results_schema_sql, to_version_2, to_version_3,
    to_version_4, to_version_5, to_version_6, to_version_7, to_version_8, to_version_9,
    to_version_10};

/* Whose file is it? *empty: nothing in it yet. */
static enum status check_identity(struct store *s, bool *empty, int64_t *version)
{
    /* one statement, so that a worker who is just making the tables is seen before or after, never
     * between */
    struct cursor c = {0};
    bool more = false;
    int64_t id = 0, n_objects = 0;
    enum status st = cursor_open(&c, s,
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) "
        "FROM pragma_application_id, pragma_user_version");
    if (st == OK) st = cursor_step(&c, &more);
    if (st == OK) {
        id = get_int(&c);
        *version = get_int(&c);
        n_objects = get_int(&c);
    }
    cursor_close(&c);
    TRY(st);
    *empty = id == 0 && n_objects == 0;
    if (*empty) return OK;
    if (id != SCHEMA_APPLICATION_ID)
        return fail(ERR_DB,
            "%s: application_id: found 0x%08x, expected 0x%08x: a database of another program, "
            "left "
            "untouched; give another --db",
            s->path, (unsigned)id, (unsigned)SCHEMA_APPLICATION_ID);
    if (*version < 1 || *version > SCHEMA_VERSION)
        return fail(ERR_DB,
            "%s: user_version: found %lld, this program knows 1 to %d: %s, or give another --db",
            s->path, (long long)*version, SCHEMA_VERSION,
            *version < 1
                ? "the file is damaged; rescue what is readable with: sqlite3 FILE .recover"
                : "written by a newer version; update this program");
    return OK;
}

static enum status migrate(struct store *s)
{
    TRY(db_begin(s));
    int64_t version = 0;
    bool empty = false;
    enum status st = check_identity(s, &empty, &version); /* another worker may have been faster */
    if (st == OK && empty) {
        st = db_exec(s, steps[0]);
        version = SCHEMA_VERSION;
    }
    for (; st == OK && version < SCHEMA_VERSION; version++) st = db_exec(s, steps[version]);
    if (st == OK) st = db_exec(s, results_views_sql);
    if (st == OK) {
        char *sql = str_format("PRAGMA application_id = %d; PRAGMA user_version = %d",
            SCHEMA_APPLICATION_ID, SCHEMA_VERSION);
        st = db_exec(s, sql);
        free(sql);
    }
    if (st == OK) st = db_commit(s);
    if (st != OK) db_rollback(s);
    return st;
}

enum { BUSY_MS = 30000 }; /* for another's transaction */

static enum status open_handle(struct store *s, enum store_mode mode, bool immutable);

/* A handle that has seen the write-ahead log needs its shared memory even to leave that mode,
 * unless it is alone. */
static enum status use_rollback_journal(struct store *s)
{
    db_close(s);
    TRY(open_handle(s, STORE_WRITE, false));
    int code = sqlite3_exec(s->db,
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = DELETE; PRAGMA locking_mode = "
        "NORMAL;"
        "SELECT count(*) FROM sqlite_master",
        NULL, NULL, NULL);
    return code == SQLITE_OK ? OK : db_no_file_system(s);
}

static bool lacks_shared_memory(int code)
{
    return code == SQLITE_IOERR_SHMOPEN || code == SQLITE_IOERR_SHMSIZE ||
        code == SQLITE_IOERR_SHMMAP || code == SQLITE_IOERR_SHMLOCK ||
        (code & 0xff) == SQLITE_CANTOPEN || (code & 0xff) == SQLITE_PROTOCOL;
}

/* Where there are no locks SQLite says that another has the file, and would be waited for. Asked of
 * a file of its own: closing one that is locked by another handle of this process gives its locks
 * up.
 */
static bool has_no_locks(const struct store *s)
{
    char *path = str_format("%s-XXXXXX", s->path);
    int fd = mkstemp(path), error = 0;
    if (fd >= 0) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
        if (fcntl(fd, F_SETLK, &lock) != 0) error = errno;
        close(fd);
        unlink(path);
    }
    free(path);
    return error == ENOLCK || error == ENOTSUP || error == ENOSYS || error == EINVAL;
}

/* check_identity() of a handle just opened, which does not wait for what will not come. */
static enum status first_look(struct store *s, bool *empty, int64_t *version)
{
    sqlite3_busy_timeout(s->db, 0);
    enum status st = check_identity(s, empty, version);
    sqlite3_busy_timeout(s->db, BUSY_MS);
    if (st == OK || (sqlite3_errcode(s->db) & 0xff) != SQLITE_BUSY) return st;
    return has_no_locks(s) ? db_no_file_system(s) : check_identity(s, empty, version);
}

/* Write-ahead logging lets readers work beside a writer. Changing to it needs the file alone for a
 * moment and SQLite does not wait then, so this does. */
static enum status use_wal(struct store *s)
{
    int64_t end = clock_ns() + 30 * (int64_t)1000000000;
    for (;;) {
        int code = sqlite3_exec(s->db,
            "PRAGMA journal_mode = WAL; SELECT count(*) FROM sqlite_master", NULL, NULL, NULL);
        if (code == SQLITE_OK) return OK;
        code = sqlite3_extended_errcode(s->db);
        if (lacks_shared_memory(code)) return use_rollback_journal(s);
        if (code == SQLITE_IOERR_LOCK || code == SQLITE_IOERR_RDLOCK || code == SQLITE_IOERR_UNLOCK)
            return db_no_file_system(s);
        if ((code & 0xff) != SQLITE_BUSY || clock_ns() > end)
            return db_fail(s, "switch to write-ahead logging");
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
}

static enum status open_failure(struct store *s, enum store_mode mode)
{
    char *dir = str_dup(s->path), *slash = strrchr(dir, '/');
    if (slash) *(slash == dir ? slash + 1 : slash) = 0;
    const char *parent = slash ? dir : ".";
    enum status st;
    if (mode == STORE_READ && access(s->path, R_OK) < 0)
        st = fail(ERR_IO, "%s: cannot read the database: %s", s->path, strerror(errno));
    else if (access(parent, W_OK) < 0)
        st = fail(ERR_IO, "%s: cannot make the database: folder %s: %s; give another --db", s->path,
            parent, strerror(errno));
    else st = fail(ERR_IO, "%s: cannot open the database: %s", s->path, sqlite3_errmsg(s->db));
    free(dir);
    return st;
}

void db_uri(const char *path, const char *query, struct str *out)
{
    str_add(out, "file:");
    for (const char *p = path; *p; p++) {
        if (strchr("%?#", *p)) str_addf(out, "%%%02X", (unsigned char)*p);
        else str_add_char(out, *p);
    }
    if (*query) str_addf(out, "?%s", query);
}

static enum status open_handle(struct store *s, enum store_mode mode, bool immutable)
{
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_URI |
        (mode == STORE_READ ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    struct str uri = {0};
    struct stat info;
    /* nobody waits for what writes to a pipe */
    if (mode != STORE_SCRATCH && stat(s->path, &info) == 0 && !S_ISREG(info.st_mode))
        return fail(
            ERR_IO, "%s: is a %s, expected a database file", s->path, file_kind(info.st_mode));
    s->immutable = immutable;
    if (mode == STORE_SCRATCH) str_add(&uri, "file::memory:");
    else db_uri(s->path, immutable ? "immutable=1" : "", &uri);
    int code = sqlite3_open_v2(str_get(&uri), &s->db, flags, NULL);
    str_clear(&uri);
    if (code != SQLITE_OK) return open_failure(s, mode);
    sqlite3_busy_timeout(s->db, BUSY_MS);
    /* A file from elsewhere may bring triggers: none of ours has one. */
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    return OK;
}

static enum status not_a_database(struct store *s)
{
    return fail(ERR_DB, "%s: is no SQLite database, left untouched; give another --db", s->path);
}

static enum status copy_all(struct store *s, sqlite3 *to)
{
    sqlite3_backup *b = sqlite3_backup_init(to, "main", s->db, "main");
    int code = b ? sqlite3_backup_step(b, -1) : sqlite3_errcode(to);
    if (b) code = sqlite3_backup_finish(b);
    return code == SQLITE_OK ? OK
                             : fail(ERR_DB, "%s: cannot copy it to %s to bring it up to date: %s",
                                   s->path, s->copy, sqlite3_errmsg(to));
}

/* A file of our own for what of s->path is not to be written. */
static enum status copy_begin(struct store *s)
{
    const char *dir = getenv("TMPDIR");
    s->copy = str_format("%s/sparsegauge-db-XXXXXX", dir && *dir ? dir : "/tmp");
    int fd = mkstemp(s->copy);
    if (fd >= 0) {
        close(fd);
        return OK;
    }
    enum status st =
        fail(ERR_IO, "%s: cannot make a file to read a copy of %s from: %s; set TMPDIR", s->copy,
            s->path, strerror(errno));
    free(s->copy);
    s->copy = NULL;
    return st;
}

static enum status copy_file(const char *from, const char *to)
{
    static const size_t size = 1 << 20;
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    char *buffer = xmalloc(size);
    ssize_t n = in < 0 || out < 0 ? -1 : 0, done = 0;
    while (n >= 0 && (n = read(in, buffer, size)) > 0)
        for (done = 0; done < n;) {
            ssize_t k = write(out, buffer + done, (size_t)(n - done));
            if (k < 0) {
                n = -1;
                break;
            }
            done += k;
        }
    enum status st = n == 0
        ? OK
        : fail(ERR_IO, "cannot copy %s to %s to read it: %s", from, to, strerror(errno));
    free(buffer);
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    return st;
}

/* In a folder that cannot be written, with a log left beside the file and no shared memory: the log
 * is folded into a copy. */
static enum status read_log(struct store *s)
{
    char *from = str_format("%s-wal", s->path), *to = NULL;
    enum status st = copy_begin(s);
    if (st == OK) st = copy_file(s->path, s->copy);
    if (st == OK) to = str_format("%s-wal", s->copy);
    if (st == OK) st = copy_file(from, to);
    if (st == OK && sqlite3_open(s->copy, &s->db) != SQLITE_OK)
        st = fail(ERR_DB, "%s: %s", s->copy, sqlite3_errmsg(s->db));
    free(from);
    free(to);
    return st;
}

/* An older version is read through a copy that is brought up to date, since the file itself is not
 * to be written. */
static enum status read_copy(struct store *s)
{
    sqlite3 *to = NULL;
    if (s->copy) return migrate(s); /* it is one already */
    TRY(copy_begin(s));
    enum status st = sqlite3_open(s->copy, &to) == SQLITE_OK
        ? copy_all(s, to)
        : fail(ERR_DB, "%s: %s", s->copy, sqlite3_errmsg(to));
    db_close(s);
    s->db = to;
    s->immutable = false;
    return st == OK ? migrate(s) : st;
}

static enum status open_for_reading(struct store *s)
{
    TRY(open_handle(s, STORE_READ, false));
    bool empty = false;
    int64_t version = 0;
    enum status st = first_look(s, &empty, &version);
    if (st != OK && (sqlite3_errcode(s->db) & 0xff) == SQLITE_CANTOPEN) {
        /* A database in a folder that cannot be written: SQLite wants to put its shared memory
         * there. With no log left beside it the file is complete and can be read as it is. */
        char *wal = str_format("%s-wal", s->path);
        bool settled = !file_exists(wal);
        free(wal);
        db_close(s);
        TRY(settled ? open_handle(s, STORE_READ, true) : read_log(s));
        st = check_identity(s, &empty, &version);
    }
    if (st != OK && (sqlite3_errcode(s->db) & 0xff) == SQLITE_NOTADB) return not_a_database(s);
    TRY(st);
    if (empty)
        return fail(ERR_DB,
            "%s: the database is empty; run an evaluation with --db %s first (a plain copy of one "
            "in use lacks what its -wal file holds: merge the original instead)",
            s->path, s->path);
    return version < SCHEMA_VERSION ? read_copy(s) : OK;
}

/* For its owner alone: SQLite makes files that everybody may read. The files beside it get its
 * mode. */
static void make_private(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd); /* else it is there already, or SQLite will say why it cannot be */
}

/* A run whose model, data set, machine or program was deleted with foreign keys off would be taken
 * for the next one's that gets its number. */
static enum status check_parents(struct store *s)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    enum status st = cursor_open(
        &c, s, "SELECT \"parent\", count(*) OVER () FROM pragma_foreign_key_check('run') LIMIT 1");
    if (st == OK) st = cursor_step(&c, &more);
    if (st == OK && more) {
        const char *parent = get_name(&c);
        int64_t n = get_int(&c);
        st = fail(ERR_DB,
            "%s: %lld runs belong to rows of table %s that were deleted; delete them too: sqlite3 "
            "%s 'PRAGMA foreign_keys = ON; DELETE FROM run WHERE %s NOT IN (SELECT id FROM %s)'",
            s->path, (long long)n, parent, s->path, parent, parent);
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

static enum status open_for_writing(struct store *s)
{
    make_private(s->path);
    TRY(open_handle(s, STORE_WRITE, false));
    bool empty = false;
    int64_t version = 0;
    enum status st = first_look(s, &empty, &version);
    if (st != OK && (sqlite3_errcode(s->db) & 0xff) == SQLITE_NOTADB) return not_a_database(s);
    TRY(st);
    if (sqlite3_db_readonly(s->db, "main") == 1)
        return fail(
            ERR_IO, "%s: not writable; change its permissions or give another --db", s->path);
    TRY(use_wal(s));
    /* In this mode a power cut may lose the last runs, never the file; kill -9 loses nothing. */
    /* The log is folded into the file every 16 MiB, so that few cells pay for it. */
    TRY(db_exec(s,
        "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = 4000"));
    if (version < SCHEMA_VERSION) TRY(migrate(s));
    TRY(check_parents(s));
    const char *name = sqlite3_db_filename(s->db, "main"); /* NULL or "": in memory */
    struct stat info;
    if (name && *name && stat(s->path, &info) == 0) {
        s->inode = (uint64_t)info.st_ino;
        s->device = (uint64_t)info.st_dev;
    }
    return OK;
}

enum status store_open(struct store **s, const char *path, enum store_mode mode)
{
    *s = calloc(1, sizeof **s);
    if (!*s) return fail(ERR_MEMORY, "%s: no memory for a database handle", path);
    (*s)->path = str_dup(path);
    (*s)->writable = mode != STORE_READ;
    enum status st;
    if (mode != STORE_SCRATCH && (!*path || strcmp(path, ":memory:") == 0))
        st = fail(ERR_ARG, "--db \"%s\": results would vanish with the program; name a file", path);
    else if (mode == STORE_SCRATCH) {
        st = open_handle(*s, mode, false);
        if (st == OK) st = migrate(*s);
    } else if (mode == STORE_READ && !file_exists(path))
        st = fail(ERR_IO, "%s: no such database; an evaluation with --db %s makes one", path, path);
    else st = mode == STORE_READ ? open_for_reading(*s) : open_for_writing(*s);
    if (st != OK) store_close(s);
    return st;
}

static void copy_remove(const struct store *s)
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        char *path = str_format("%s%s", s->copy, ends[i]);
        unlink(path);
        free(path);
    }
}

void store_close(struct store **s)
{
    if (!*s) return;
    db_close(*s);
    if ((*s)->copy) copy_remove(*s);
    free((*s)->copy);
    free((*s)->path);
    free(*s);
    *s = NULL;
}

const char *store_path(const struct store *s) { return s->path; }

char *store_key(const char *key_json, char *out)
{
    struct hash h;
    hash_init(&h);
    hash_add_str(&h, key_json);
    return hash_hex(&h, out);
}

enum status store_begin(struct store *s)
{
    TRY(db_need_write(s));
    return db_begin(s);
}

enum status store_commit(struct store *s) { return db_commit(s); }

static double now_unix(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum status store_plan_put(struct store *s, const char *plan, const char *plan_json,
    const struct planned_cell *cells, size_t n)
{
    TRY(db_need_write(s));
    TRY(db_begin(s));
    char utc[32];
    struct cursor c = {0};
    enum status st;
    /* both: where somebody has deleted the one with foreign keys off, the other is still there */
    static const char *const old[] = {
        "DELETE FROM plan WHERE name = ?", "DELETE FROM cell WHERE plan = ?"};
    for (int i = 0; i < 2; i++) {
        TRY_GOTO(st, done, cursor_open(&c, s, old[i]));
        put_text(&c, plan);
        TRY_GOTO(st, done, cursor_run(&c));
        cursor_close(&c);
    }
    TRY_GOTO(
        st, done, cursor_open(&c, s, "INSERT INTO plan (name, json, created) VALUES (?, ?, ?)"));
    put_text(&c, plan);
    put_text(&c, plan_json);
    put_text(&c, clock_utc(utc, sizeof utc));
    TRY_GOTO(st, done, cursor_run(&c));
    cursor_close(&c);
    TRY_GOTO(st, done,
        cursor_open(&c, s,
            "INSERT INTO cell (plan, ordinal, key, slot, key_json) "
            "VALUES (?, ?, ?, ?, ?)"));
    for (size_t i = 0; i < n; i++) {
        put_text(&c, plan);
        put_int(&c, (int64_t)i);
        put_text(&c, cells[i].key);
        put_text(&c, cells[i].slot);
        put_text(&c, cells[i].key_json);
        TRY_GOTO(st, done, cursor_run(&c));
    }
    cursor_close(&c);
    st = db_commit(s);
done:
    cursor_close(&c);
    if (st != OK) db_rollback(s);
    return st;
}

/* Inside a transaction, so that two workers cannot both find the cell free. */
static enum status lease_try(struct store *s, const char *key, const char *owner, double seconds,
    enum lease_over over, enum lease *out)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more;
    enum status st;
    TRY_GOTO(st, done, cursor_open(&c, s, "SELECT status FROM run WHERE key = ?"));
    put_text(&c, key);
    TRY_GOTO(st, done, cursor_step(&c, &more));
    if (more &&
        (over == LEASE_OVER_NONE || (over == LEASE_OVER_FAILED && !strcmp(get_name(&c), "done")))) {
        *out = LEASE_STORED;
        goto done;
    }
    cursor_close(&c);
    double now = now_unix();
    TRY_GOTO(st, done, cursor_open(&c, s, "SELECT owner, expires FROM lease WHERE key = ?"));
    put_text(&c, key);
    TRY_GOTO(st, done, cursor_step(&c, &more));
    if (more) {
        const char *holder = get_name(&c);
        if (get_real(&c) > now && strcmp(holder, owner)) {
            *out = LEASE_BUSY;
            goto done;
        }
    }
    cursor_close(&c);
    TRY_GOTO(st, done,
        cursor_open(&c, s, "INSERT OR REPLACE INTO lease (key, owner, expires) VALUES (?, ?, ?)"));
    put_text(&c, key);
    put_text(&c, owner);
    put_real(&c, now + seconds);
    TRY_GOTO(st, done, cursor_run(&c));
    *out = LEASE_TAKEN;
done:
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

enum status store_lease(struct store *s, const char *key, const char *owner, double seconds,
    enum lease_over over, enum lease *out)
{
    TRY(db_need_write(s));
    TRY(db_begin(s));
    enum status st = lease_try(s, key, owner, seconds, over, out);
    if (st == OK) st = db_commit(s);
    if (st != OK) db_rollback(s);
    return st;
}

enum status store_lease_release(struct store *s, const char *key, const char *owner)
{
    TRY(db_need_write(s));
    struct cursor c = {0};
    enum status st = cursor_open(&c, s, "DELETE FROM lease WHERE key = ? AND owner = ?");
    if (st == OK) {
        put_text(&c, key);
        put_text(&c, owner);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    return st;
}

enum status store_run_delete(struct store *s, const char *key)
{
    TRY(db_need_write(s));
    struct cursor c = {0};
    enum status st = cursor_open(&c, s, "DELETE FROM run WHERE key = ?");
    if (st == OK) {
        put_text(&c, key);
        st = cursor_run(&c);
    }
    cursor_close(&c);
    if (st == OK && sqlite3_changes(s->db) == 0)
        st = fail(ERR_ARG, "%s: no run with key %s", s->path, key);
    return st;
}

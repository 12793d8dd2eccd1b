/* clang-format off */
/* Preloaded by tests: makes the N-th call of a kind fail, and gives a file system fewer abilities.
 *
 *   SG_FAULT=KIND:N         the N-th call of malloc, write, fsync, mmap, open or sqlite (a step)
 *                           fails, once
 *   SG_FAULT_COUNT=FILE     at the end, how many calls of each kind there were, and behind it the
 *                           number of the first call from each place (the innermost DEPTH return
 *                           addresses): "malloc 812 1 2 9 14 …". A process that forks writes FILE,
 *                           its children FILE.PID
 *   SG_FAULT_PROGRAM=NAME   the program that is meant ("sparsegauge"); others, such as gnuplot or a
 *                           shell, are left alone
 *   SG_NO_SHM=1             files whose name ends with "-shm" cannot be mapped
 *   SG_NO_LOCKS=1           there are no file locks
 *   SG_CLOCK=F              the monotonic clock runs F times as fast
 *
 * Calls of the program and of its libraries count alike; those before main and those of the C
 * library among themselves do not.
 */
/* clang-format on */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum kind { KIND_MALLOC, KIND_WRITE, KIND_FSYNC, KIND_MMAP, KIND_OPEN, KIND_SQLITE, N_KINDS };
static const char *const names[N_KINDS] = {"malloc", "write", "fsync", "mmap", "open", "sqlite"};
static atomic_long counts[N_KINDS];
static int fail_kind = -1;
static long fail_at;
static bool ready, no_shm, no_locks, trace;
static double clock_factor = 1;

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

/* Places that were seen, by kind: open addressing, and the calls that were the first from theirs.
 */
enum { DEPTH = 8, SKIPPED = 2, ROOM = 1 << 16 };
static uint64_t places[ROOM];
static struct first {
    enum kind kind;
    long call;
} firsts[ROOM / 2];
static atomic_int n_firsts;
static pthread_mutex_t places_lock = PTHREAD_MUTEX_INITIALIZER;
static const char *count_path;
static pid_t first_process;
static _Thread_local bool looking; /* backtrace() allocates when it is first called */

static void note_place(enum kind kind, long call)
{
    void *frames[DEPTH + SKIPPED];
    looking = true;
    int n = backtrace(frames, DEPTH + SKIPPED);
    looking = false;
    uint64_t h = 1469598103934665603u + (uint64_t)kind;
    for (int i = SKIPPED; i < n; i++) h = (h ^ (uint64_t)(uintptr_t)frames[i]) * 1099511628211u;
    h |= 1;
    pthread_mutex_lock(&places_lock);
    size_t at = (h >> 16) % ROOM;
    while (places[at] && places[at] != h) at = (at + 1) % ROOM;
    if (!places[at] && n_firsts < ROOM / 2) {
        places[at] = h;
        firsts[n_firsts++] = (struct first){kind, call};
    }
    pthread_mutex_unlock(&places_lock);
}

static bool fails(enum kind kind)
{
    if (!ready || looking) return false;
    long n = atomic_fetch_add(&counts[kind], 1) + 1;
    if (count_path) note_place(kind, n);
    if ((int)kind != fail_kind || n != fail_at) return false;
    if (trace) {
        void *frames[32];
        looking = true;
        backtrace_symbols_fd(frames, backtrace(frames, 32), 2);
        looking = false;
    }
    return true;
}

static void begin(void)
{
    const char *fault = getenv("SG_FAULT"), *colon = fault ? strchr(fault, ':') : NULL,
               *factor = getenv("SG_CLOCK");
    const char *program = getenv("SG_FAULT_PROGRAM");
    if (strcmp(program_invocation_short_name, program ? program : "sparsegauge") != 0) return;
    for (int i = 0; colon && i < N_KINDS; i++)
        if (strlen(names[i]) == (size_t)(colon - fault) &&
            strncmp(fault, names[i], strlen(names[i])) == 0)
            fail_kind = i;
    if (colon) fail_at = strtol(colon + 1, NULL, 10);
    if (factor) clock_factor = strtod(factor, NULL);
    trace = getenv("SG_FAULT_TRACE") != NULL;
    no_shm = getenv("SG_NO_SHM") != NULL;
    no_locks = getenv("SG_NO_LOCKS") != NULL;
    count_path = getenv("SG_FAULT_COUNT");
    first_process = getpid();
    ready = true;
}

static int (*program_main)(int, char **, char **);

static int begin_main(int argc, char **argv, char **environment)
{
    begin();
    return program_main(argc, argv, environment);
}

/* Behind the constructors of the program and of all libraries: those are not ours, and CUDA's do
 * not live through a failed allocation. */
int __libc_start_main(int (*entry)(int, char **, char **), int argc, char **argv,
    void (*init)(void), void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
    __typeof__(&__libc_start_main) real =
        (__typeof__(&__libc_start_main))dlsym(RTLD_NEXT, "__libc_start_main");
    program_main = entry;
    return real(begin_main, argc, argv, init, fini, rtld_fini, stack_end);
}

__attribute__((destructor)) static void end(void)
{
    char path[4096];
    if (!ready || !count_path) return;
    ready = false;
    if (getpid() == first_process) snprintf(path, sizeof path, "%s", count_path);
    else snprintf(path, sizeof path, "%s.%d", count_path, (int)getpid());
    FILE *f = fopen(path, "w");
    for (int i = 0; f && i < N_KINDS; i++) {
        fprintf(f, "%s %ld", names[i], counts[i]);
        for (int k = 0; k < n_firsts; k++)
            if ((int)firsts[k].kind == i) fprintf(f, " %ld", firsts[k].call);
        fprintf(f, "\n");
    }
    if (f) fclose(f);
}

/* How a child of a sweep ends. */
void _exit(int code)
{
    end();
    syscall(SYS_exit_group, code);
    __builtin_unreachable();
}

static void *none(void)
{
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t size) { return fails(KIND_MALLOC) ? none() : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return fails(KIND_MALLOC) ? none() : __libc_calloc(n, size); }
void *realloc(void *p, size_t size)
{
    return fails(KIND_MALLOC) ? none() : __libc_realloc(p, size);
}

static int full(void)
{
    errno = ENOSPC;
    return -1;
}

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write);
    return fd > 2 && fails(KIND_WRITE) ? full() : real(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    REAL(pwrite64);
    return fails(KIND_WRITE) ? full() : real(fd, data, size, at);
}

int fsync(int fd)
{
    REAL(fsync);
    if (fails(KIND_FSYNC)) return errno = EIO, -1;
    return real(fd);
}

int fdatasync(int fd)
{
    REAL(fdatasync);
    if (fails(KIND_FSYNC)) return errno = EIO, -1;
    return real(fd);
}

static bool is_shm(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path);
    return n > 4 && memcmp(path + n - 4, "-shm", 4) == 0;
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset)
{
    REAL(mmap64);
    if (fd >= 0 && no_shm && is_shm(fd)) return errno = ENODEV, MAP_FAILED;
    if (fd >= 0 && fails(KIND_MMAP)) return errno = ENOMEM, MAP_FAILED;
    return real(at, size, protection, flags, fd, offset);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return mmap64(at, size, protection, flags, fd, offset);
}

int open64(const char *path, int flags, ...)
{
    REAL(open64);
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list ap;
        va_start(ap, flags);
        mode = va_arg(ap, mode_t);
        va_end(ap);
    }
    if (strncmp(path, "/proc/", 6) && strncmp(path, "/sys/", 5) && fails(KIND_OPEN))
        return errno = EMFILE, -1;
    return real(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list ap;
        va_start(ap, flags);
        mode = va_arg(ap, mode_t);
        va_end(ap);
    }
    return open64(path, flags, mode);
}

int fcntl64(int fd, int command, ...)
{
    REAL(fcntl64);
    va_list ap;
    va_start(ap, command);
    void *argument = va_arg(ap, void *);
    va_end(ap);
    if (no_locks && (command == F_SETLK || command == F_SETLKW || command == F_GETLK))
        return errno = ENOLCK, -1;
    return real(fd, command, argument);
}

int fcntl(int fd, int command, ...)
{
    va_list ap;
    va_start(ap, command);
    void *argument = va_arg(ap, void *);
    va_end(ap);
    return fcntl64(fd, command, argument);
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
    REAL(clock_gettime);
    int code = real(clock, t);
    if (code == 0 && clock == CLOCK_MONOTONIC && clock_factor != 1) {
        double now = ((double)t->tv_sec + 1e-9 * (double)t->tv_nsec) * clock_factor;
        t->tv_sec = (time_t)now;
        t->tv_nsec = (long)((now - (double)t->tv_sec) * 1e9);
    }
    return code;
}

/* SQLITE_IOERR, as from a disk that is gone. A text of SQL counts as one: sqlite3_exec() would ask
 * the statement, which has seen no error, how its steps went. */
struct sqlite3;
struct sqlite3_stmt;
static _Thread_local int in_exec;

int sqlite3_step(struct sqlite3_stmt *stmt)
{
    int (*real)(struct sqlite3_stmt *) =
        (int (*)(struct sqlite3_stmt *))dlsym(RTLD_NEXT, "sqlite3_step");
    return !in_exec && fails(KIND_SQLITE) ? 10 : real(stmt);
}

typedef int exec_function(
    struct sqlite3 *, const char *, int (*)(void *, int, char **, char **), void *, char **);
int sqlite3_exec(struct sqlite3 *db, const char *sql, int (*row)(void *, int, char **, char **),
    void *ctx, char **message)
{
    exec_function *real = (exec_function *)dlsym(RTLD_NEXT, "sqlite3_exec");
    if (message) *message = NULL;
    if (!in_exec && fails(KIND_SQLITE)) return 10;
    in_exec++; /* a schema is read by one within */
    int code = real(db, sql, row, ctx, message);
    in_exec--;
    return code;
}

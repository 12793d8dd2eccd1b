#include "base/file.h"

#include "base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static enum status fail_errno(const char *what, const char *path)
{
    return fail(ERR_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

/* Not to hang where nobody writes into a pipe; on a regular file the flag says nothing. */
#define OPEN_FLAGS (O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

static struct file_id id_of(const struct stat *s)
{
    const int64_t second = 1000000000;
    return (struct file_id){s->st_dev, s->st_ino, (uint64_t)s->st_size,
        s->st_mtim.tv_sec * second + s->st_mtim.tv_nsec,
        s->st_ctim.tv_sec * second + s->st_ctim.tv_nsec};
}

struct file_id file_id(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 ? id_of(&info) : (struct file_id){0};
}

/* Who lies where. Written under the lock, read without: an entry's size is set last and cleared
 * first. */
enum { MAX_KNOWN = 1024, KNOWN_PATH = 256 };
static struct known_map {
    const uint8_t *volatile data;
    volatile size_t size;
    char path[KNOWN_PATH];
} known_maps[MAX_KNOWN];
static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;

static void known_add(const struct file_map *m, const char *path)
{
    pthread_mutex_lock(&known_lock);
    struct known_map *k = known_maps;
    while (k < known_maps + MAX_KNOWN && k->size) k++;
    if (k < known_maps + MAX_KNOWN) {
        size_t n = strlen(path), cut = n < KNOWN_PATH ? 0 : n - KNOWN_PATH + 1;
        memcpy(k->path, path + cut, n - cut + 1);
        k->data = m->data;
        k->size = m->size;
    }
    pthread_mutex_unlock(&known_lock);
}

static void known_remove(const struct file_map *m)
{
    pthread_mutex_lock(&known_lock);
    for (int i = 0; i < MAX_KNOWN; i++)
        if (known_maps[i].size && known_maps[i].data == m->data) known_maps[i].size = 0;
    pthread_mutex_unlock(&known_lock);
}

const char *file_map_at(const void *address)
{
    const uint8_t *p = address;
    for (int i = 0; i < MAX_KNOWN; i++) {
        const struct known_map *k = &known_maps[i];
        size_t page = 4096, size = (k->size + page - 1) / page * page;
        if (size && p >= k->data && p < k->data + size) return k->path;
    }
    return NULL;
}

const char *file_kind(mode_t mode)
{
    if (S_ISREG(mode)) return "file";
    return S_ISDIR(mode) ? "directory" : S_ISFIFO(mode) ? "pipe" : "device";
}

enum status file_map_open(struct file_map *m, const char *path)
{
    *m = (struct file_map){0};
    int fd = open(path, OPEN_FLAGS);
    if (fd < 0) return fail_errno("open", path);
    struct stat info;
    enum status st = OK;
    if (fstat(fd, &info) < 0) {
        st = fail_errno("stat", path);
    } else if (!S_ISREG(info.st_mode)) {
        st = fail(ERR_IO, "%s: is a %s, expected a file", path, file_kind(info.st_mode));
    } else if (info.st_size > 0) {
        void *p = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) st = fail_errno("map", path);
        else *m = (struct file_map){p, (size_t)info.st_size, id_of(&info)};
    }
    close(fd);
    if (m->data) known_add(m, path);
    return st;
}

void file_map_close(struct file_map *m)
{
    if (m->data) known_remove(m);
    if (m->data) munmap((void *)m->data, m->size);
    *m = (struct file_map){0};
}

enum { READ_STEP = 1 << 16, WAIT_STEP_MS = 100, WAIT_WRITER_MS = 10000 };

/* How much is believed to have an end: of a device, such as /dev/zero, and of a pipe. */
static size_t stream_limit(mode_t mode)
{
    return S_ISREG(mode) ? SIZE_MAX : (size_t)(S_ISCHR(mode) ? 64 : 2048) << 20;
}

/* Read on until the end. A pipe is waited for as long as somebody holds its other end, and for ten
 * seconds until somebody does: read() tells the two apart, by EAGAIN and by 0. */
static enum status read_to_end(struct str *out, int fd, mode_t mode, const char *path)
{
    size_t limit = stream_limit(mode), first = out->len;
    int waited_ms = 0;
    bool had_writer = false;
    for (;;) {
        str_reserve(out, READ_STEP);
        ssize_t n = read(fd, out->data + out->len, READ_STEP);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN) return fail_errno("read", path);
        if (n > 0) {
            out->len += (size_t)n;
            if (out->len - first <= limit) continue;
            return fail(ERR_IO,
                "%s: gives more than %zu MiB and no end; save what is needed of it as a file", path,
                limit >> 20);
        }
        if (n == 0 && (!S_ISFIFO(mode) || had_writer || out->len > first)) return OK;
        had_writer |= n < 0;
        struct pollfd one = {fd, POLLIN, 0};
        int ready = poll(&one, 1, had_writer ? -1 : WAIT_STEP_MS);
        if (ready < 0)
            return errno == EINTR
                ? fail(ERR_CANCELLED, "%s: interrupted while waiting for it", path)
                : fail_errno("wait for", path);
        if (ready > 0 && !(one.revents & POLLIN)) had_writer = true; /* and it has gone */
        if (had_writer || (waited_ms += WAIT_STEP_MS) < WAIT_WRITER_MS) continue;
        return fail(ERR_IO, "%s: is a pipe that nobody wrote into for %d seconds", path,
            WAIT_WRITER_MS / 1000);
    }
}

enum status file_read(struct str *out, const char *path)
{
    struct stat info;
    int fd = open(path, OPEN_FLAGS);
    if (fd < 0) return fail_errno("open", path);
    enum status st =
        fstat(fd, &info) < 0 ? fail_errno("stat", path) : read_to_end(out, fd, info.st_mode, path);
    close(fd);
    if (out->data) out->data[out->len] = 0;
    return st;
}

static enum status write_all(int fd, const char *path, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno("write", path);
        data += n;
        size -= (size_t)n;
    }
    return fsync(fd) < 0 && errno != EINVAL ? fail_errno("sync", path) : OK;
}

/* Nothing replaces a database, and texts that are objects, lists or pages replace their like alone:
 * whoever gives an input, or where results are kept, as the name of an output would lose it. `data`
 * is the text; NULL and 0: something else. */
static enum status check_replaced(const char *path, const char *data, size_t size)
{
    static const char database[] = "SQLite format 3";
    char begin[sizeof database] = {0};
    struct stat info;
    if (stat(path, &info) < 0 || !S_ISREG(info.st_mode))
        return OK; /* a pipe gives its bytes once */
    int fd = open(path, OPEN_FLAGS);
    ssize_t n = fd < 0 ? 0 : read(fd, begin, sizeof begin);
    if (fd >= 0) close(fd);
    if (n <= 0) return OK;
    if (memcmp(begin, database, sizeof database) != 0 &&
        (size == 0 || !strchr("{[<", data[0]) || !data[0] || begin[0] == data[0]))
        return OK;
    return fail(ERR_IO,
        "%s: exists and holds something else, which would be lost; name another, or delete it",
        path);
}

enum status file_write_atomic(const char *path, const void *data, size_t size)
{
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return fail(ERR_IO, "%s: exists and is not a regular file; name another", path);
    TRY(check_replaced(path, NULL, 0));
    char *tmp = str_format("%s.tmp%ld.%ld", path, (long)getpid(), (long)gettid());
    enum status st;
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        st = fail_errno("create", path);
    } else {
        st = write_all(fd, tmp, data, size);
        if (close(fd) < 0 && st == OK) st = fail_errno("close", tmp);
        if (st == OK && rename(tmp, path) < 0) st = fail_errno("rename a new version to", path);
        if (st != OK) unlink(tmp);
    }
    free(tmp);
    return st;
}

enum status file_write_text(const char *path, struct str *text)
{
    TRY(check_replaced(path, str_get(text), text->len));
    utf8_repair_in(text, 0);
    return file_write_atomic(path, str_get(text), text->len);
}

enum status file_make_dirs(const char *path)
{
    if (!*path) return fail(ERR_ARG, "the name of a directory is empty");
    char *copy = str_dup(path);
    enum status st = OK;
    for (char *p = copy + 1; st == OK; p++) {
        if (*p != '/' && *p != 0) continue;
        char keep = *p;
        *p = 0;
        if (mkdir(copy, 0777) < 0 && errno != EEXIST) st = fail_errno("make the directory", copy);
        *p = keep;
        if (!keep) break;
    }
    if (st == OK && !file_is_dir(path))
        st = fail(ERR_IO, "%s: exists and is not a directory", path);
    free(copy);
    return st;
}

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

bool file_is_regular(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool file_is_dir(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

char *path_join(const char *dir, const char *name)
{
    return str_format(str_ends_with(dir, "/") ? "%s%s" : "%s/%s", dir, name);
}

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

size_t memory_available(void)
{
    size_t available = SIZE_MAX;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        unsigned long long kib;
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1) available = (size_t)kib * 1024;
    }
    if (f) fclose(f);
    return available;
}

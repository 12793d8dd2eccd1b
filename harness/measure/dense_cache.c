#include "harness/measure/dense_cache.h"

#include "base/file.h"
#include "base/str.h"
#include "engine/engine.h"
#include "kernels/arithmetic.h"
#include "kernels/cpu/cpu_ops.h"
#include "version.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct header {
    char magic[8];
    int32_t n, width;
    uint64_t content[2]; /* hash of the rows: a file cut by a full disk is not believed */
};

static const char MAGIC[8] = "sgdense1";
enum { DEFAULT_LIMIT_GIB = 4 };

char *cache_folder(const char *dir)
{
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (dir) return strcmp(dir, "none") == 0 ? NULL : str_dup(dir);
    if (base && *base) return path_join(base, "sparsegauge");
    return home && *home ? str_format("%s/.cache/sparsegauge", home) : NULL;
}

enum status cache_make(const char *dir)
{
    bool fresh = !file_exists(dir);
    TRY(file_make_dirs(dir));
    if (fresh) (void)!chmod(dir, 0700);
    return OK;
}

enum status dense_cache_open(struct dense_cache *c, const char *dir)
{
    *c = (struct dense_cache){
        .limit_bytes = (size_t)DEFAULT_LIMIT_GIB << 30, .dir = cache_folder(dir)};
    if (!c->dir) return OK;
    enum status st = cache_make(c->dir);
    if (st == OK || dir) return st;
    free(c->dir);
    c->dir = NULL;
    return OK;
}

void dense_cache_close(struct dense_cache *c)
{
    free(c->dir);
    *c = (struct dense_cache){0};
}

void dense_cache_key(
    char key[HASH_HEX_SIZE], const struct model *m, const char *impl, const int32_t *ids, int n)
{
    struct hash h;
    struct weights_device_info device;
    weights_device_describe(&m->weights, &device);
    hash_init(&h);
    hash_add_str(&h, ENGINE_VERSION);
    hash_add_str(&h, impl ? impl : strcmp(device.name, "cpu") == 0 ? cpu_ops()->name : device.name);
    if (device.residual) hash_add_str(&h, device.residual);
    /* with other arithmetic the states have other last digits, and a run that mixes both compares
     * that too */
    hash_add_str(&h, arithmetic_blas());
    hash_add_str(&h, arithmetic_isa());
    hash_add_str(&h, SG_COMPILER);
    hash_add_str(&h, m->fingerprint);
    hash_add(&h, ids, sizeof *ids * (size_t)n);
    hash_hex(&h, key);
}

static void content_hash(const float *rows, size_t n, uint64_t out[2])
{
    struct hash h;
    char hex[HASH_HEX_SIZE];
    hash_init(&h);
    hash_add(&h, rows, n * sizeof *rows);
    hash_hex(&h, hex);
    sscanf(hex, "%16lx%16lx", &out[0], &out[1]);
}

bool dense_cache_get(struct dense_cache *c, const char *key, int n, int width, float *rows)
{
    if (!c->dir) return false;
    char *path = path_join(c->dir, key);
    struct file_map m = {0};
    size_t count = (size_t)n * (size_t)width;
    bool ok = file_exists(path) && file_map_open(&m, path) == OK &&
        m.size == sizeof(struct header) + count * sizeof *rows;
    if (ok) {
        struct header h;
        uint64_t content[2];
        memcpy(&h, m.data, sizeof h);
        memcpy(rows, m.data + sizeof h, count * sizeof *rows);
        content_hash(rows, count, content);
        ok = memcmp(h.magic, MAGIC, sizeof MAGIC) == 0 && h.n == n && h.width == width &&
            memcmp(content, h.content, sizeof content) == 0;
    }
    file_map_close(&m);
    if (ok) utimensat(AT_FDCWD, path, NULL, 0); /* recently used */
    free(path);
    return ok;
}

struct entry {
    char *path;
    off_t size;
    struct timespec used;
};

static int older(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec) return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return (x->used.tv_nsec > y->used.tv_nsec) - (x->used.tv_nsec < y->used.tv_nsec);
}

/* Until the limit holds, the longest unused go; `newest` stays, whose time may be another's on a
 * coarse clock. */
static void prune(const struct dense_cache *c, const char *newest)
{
    DIR *d = opendir(c->dir);
    if (!d) return;
    struct entry *entries = NULL;
    size_t n = 0, total = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (strlen(e->d_name) != HASH_HEX_SIZE - 1) continue;
        struct entry *grown = realloc(entries, (n + 1) * sizeof *entries);
        if (!grown) break;
        entries = grown;
        struct stat info;
        entries[n].path = path_join(c->dir, e->d_name);
        if (stat(entries[n].path, &info) == 0) {
            entries[n].size = info.st_size;
            entries[n].used = info.st_mtim;
            total += (size_t)info.st_size;
            n++;
        } else {
            free(entries[n].path);
        }
    }
    closedir(d);
    if (total > c->limit_bytes) qsort(entries, n, sizeof *entries, older);
    for (size_t i = 0; i < n; i++) {
        if (total > c->limit_bytes && strcmp(entries[i].path, newest) != 0 &&
            unlink(entries[i].path) == 0)
            total -= (size_t)entries[i].size;
        free(entries[i].path);
    }
    free(entries);
}

void dense_cache_put(struct dense_cache *c, const char *key, int n, int width, const float *rows)
{
    if (!c->dir) return;
    size_t count = (size_t)n * (size_t)width, size = sizeof(struct header) + count * sizeof *rows;
    if (size > c->limit_bytes) { /* it would push out everything, itself included */
        if (size > c->too_large) c->too_large = size;
        return;
    }
    char *buffer = malloc(size), *path = path_join(c->dir, key);
    if (buffer) {
        struct header h = {.n = n, .width = width};
        memcpy(h.magic, MAGIC, sizeof MAGIC);
        content_hash(rows, count, h.content);
        memcpy(buffer, &h, sizeof h);
        memcpy(buffer + sizeof h, rows, count * sizeof *rows);
        if (file_write_atomic(path, buffer, size) == OK) prune(c, path);
    }
    free(buffer);
    free(path);
}

/* Files: read-only maps, whole reads, atomic writes, paths.
 *
 * Messages of failures name the path and what the operating system said.
 */
#ifndef SG_BASE_FILE_H
#define SG_BASE_FILE_H

#include "base/status.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A whole file mapped read-only and shared; pages come in as they are touched. */
struct file_map {
    const uint8_t *data; /* NULL for an empty file */
    size_t size;         /* bytes */
    /* which content it was: changes with every write; all 0 for what is no file */
    struct file_id {
        uint64_t device, inode, size;
        int64_t mtime_ns, ctime_ns;
    } id;
};

/* Regular files only: a pipe or device has no size. */
enum status file_map_open(struct file_map *m, const char *path) MUST_USE;
/* What the file of that name is now; all 0 when there is none. */
struct file_id file_id(const char *path);
void file_map_close(struct file_map *m);

/* The path of the file mapped at an address, NULL when it is in none: for a handler of SIGBUS,
 * which is how the system says that a mapped file was cut short, or its disk failed. Takes no lock
 * and no memory. */
const char *file_map_at(const void *address);

/* Append the whole file to `out`; pipes and devices too, up to a size that a text may have (2 GiB,
 * 64 MiB) and, where nobody holds the other end of a pipe, for ten seconds. */
enum status file_read(struct str *out, const char *path) MUST_USE;

/* Write through a temporary file beside `path`, fsync, rename: readers see the old content or the
 * new, never a part. ERR_IO where a database is there. */
enum status file_write_atomic(const char *path, const void *data, size_t size) MUST_USE;

/* The same for a text, which is made UTF-8 first: paths and names in it may hold any bytes. ERR_IO
 * also where what begins with "{", "[" or "<" would replace what begins with something else: an
 * input, most likely. */
enum status file_write_text(const char *path, struct str *text) MUST_USE;

/* Create a directory and its parents; an existing one is fine. */
enum status file_make_dirs(const char *path) MUST_USE;

/* Bytes of memory that the system could give now, by its own account; SIZE_MAX where it says
 * nothing. */
size_t memory_available(void);

bool file_exists(const char *path);
bool file_is_regular(const char *path);
/* "file", "directory", "pipe" or "device", of a struct stat's st_mode. */
const char *file_kind(mode_t mode);
bool file_is_dir(const char *path);

/* "dir/name" as a heap string; the caller frees it. */
char *path_join(const char *dir, const char *name);
/* The part behind the last slash; points into `path`. */
const char *path_base(const char *path);

#endif

/* A text as people have it: a file, a pipe, or "-" for standard input, read whole and looked at
 * before it is believed.
 *
 * Refused, with what to do about it: compressed files, archives and tables by their first bytes,
 * UTF-16 and UTF-32, and whatever holds a zero byte. A byte order mark of UTF-8 is no part of the
 * text.
 */
#ifndef SG_SUITES_TEXT_FILE_H
#define SG_SUITES_TEXT_FILE_H

#include "base/file.h"

/* Of a longer file only this much is looked at when it is opened, the rest as it is taken:
 * text_file_take(). */
enum { TEXT_FILE_LOOK = 4 << 20 };

struct text_file {
    const char *text; /* [len], no terminating zero; borrowed from the following */
    size_t len;
    const char *path; /* borrowed */
    struct file_map map;
    struct str read; /* what is no regular file */
};

enum status text_file_open(struct text_file *t, const char *path) MUST_USE;
/* Bytes [from, from + n) of the text, which must be there, looked at as the file's beginning was.
 */
enum status text_file_take(
    const struct text_file *t, size_t from, size_t n, const char **out) MUST_USE;
void text_file_close(struct text_file *t);

#endif

/* A text as people have it: a file, a pipe or /dev/stdin, read whole and looked at before it is
 * believed.
 *
 * Refused, with what to do about it: compressed files, archives and tables by their first bytes,
 * UTF-16 and UTF-32, and whatever holds a zero byte. A byte order mark of UTF-8 is no part of the
 * text.
 */
#ifndef SG_SUITES_TEXT_FILE_H
#define SG_SUITES_TEXT_FILE_H

#include "base/file.h"

struct text_file {
    const char *text; /* [len], no terminating zero; borrowed from the following */
    size_t len;
    struct file_map map;
    struct str read; /* what is no regular file */
};

enum status text_file_open(struct text_file *t, const char *path) MUST_USE;
void text_file_close(struct text_file *t);

#endif

/* Small model directories for tests: temporary, written by hand, removed by the caller. */
#ifndef SG_TESTS_UNIT_MODEL_FILES_H
#define SG_TESTS_UNIT_MODEL_FILES_H

#include "base/file.h"
#include "base/str.h"
#include "tests/scratch.h"

#include <dirent.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef TESTS_DIR
#define TESTS_DIR "tests"
#endif
#define GOLDEN_MODELS TESTS_DIR "/golden/models"

static inline void file_put(const char *dir, const char *name, const void *data, size_t size)
{
    char *path = path_join(dir, name);
    if (file_write_atomic(path, data, size) != OK) abort();
    free(path);
}

static inline void text_put(const char *dir, const char *name, const char *text)
{
    file_put(dir, name, text, strlen(text));
}

static inline struct str file_get(const char *dir, const char *name)
{
    struct str s = {0};
    char *path = path_join(dir, name);
    if (file_read(&s, path) != OK) abort();
    free(path);
    return s;
}

/* A copy of a golden model's directory. */
static inline char *golden_copy(const char *model)
{
    char *from = path_join(GOLDEN_MODELS, model), *to = dir_make();
    DIR *d = opendir(from);
    if (!d) abort();
    for (struct dirent *e; (e = readdir(d));) {
        if (*e->d_name == '.') continue;
        struct str s = file_get(from, e->d_name);
        file_put(to, e->d_name, s.data, s.len);
        str_clear(&s);
    }
    closedir(d);
    free(from);
    return to;
}

/* Replace the first occurrence of `what` in a file by text of any length. */
static inline void file_edit(const char *dir, const char *name, const char *what, const char *by)
{
    struct str s = file_get(dir, name), out = {0};
    char *at = memmem(s.data, s.len, what, strlen(what));
    if (!at) abort();
    str_add_bytes(&out, s.data, (size_t)(at - s.data));
    str_add(&out, by);
    str_add_bytes(&out, at + strlen(what), s.len - (size_t)(at - s.data) - strlen(what));
    file_put(dir, name, out.data, out.len);
    str_clear(&s);
    str_clear(&out);
}

/* The bytes of a safetensors file: length field, header, n_data bytes 0, 1, 2, … */
static inline struct str safetensors_bytes(const char *header, uint64_t length, size_t n_data)
{
    struct str s = {0};
    for (int i = 0; i < 8; i++) str_add_char(&s, (char)(length >> (8 * i) & 0xff));
    str_add(&s, header);
    for (size_t i = 0; i < n_data; i++) str_add_char(&s, (char)i);
    return s;
}

#endif

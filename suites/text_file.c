#include "suites/text_file.h"

#include <string.h>

/* What begins like this is no text. */
static const struct known_start {
    const char *bytes;
    size_t n;
    const char *what, *remedy;
} known_starts[] = {
    {"\x1f\x8b", 2, "compressed by gzip", "unpack it with `gunzip`"},
    {"\x28\xb5\x2f\xfd", 4, "compressed by zstd", "unpack it with `unzstd`"},
    {"\xfd"
     "7zXZ",
        5, "compressed by xz", "unpack it with `unxz`"},
    {"BZh", 3, "compressed by bzip2", "unpack it with `bunzip2`"},
    {"\x04\x22\x4d\x18", 4, "compressed by lz4", "unpack it with `unlz4`"},
    {"PK\x03\x04", 4, "a zip archive", "unpack it with `unzip`"},
    {"7z\xbc\xaf\x27\x1c", 6, "a 7z archive", "unpack it with `7z x`"},
    {"PAR1", 4, "a Parquet table",
        "write its texts as JSON lines, with pandas: to_json(orient=\"records\", lines=True)"},
    {"ARROW1", 6, "an Arrow table",
        "write its texts as JSON lines, with pandas: to_json(orient=\"records\", lines=True)"},
    {"%PDF-", 5, "a PDF document", "take its text out with `pdftotext`"},
    {"GGUF", 4, "a model in GGUF", "name a text"},
    {"SQLite format 3", 16, "an SQLite database", "name a text"},
    {"\xff\xfe\0\0", 4, "UTF-32", "convert it with `iconv -f UTF-32 -t UTF-8`"},
    {"\0\0\xfe\xff", 4, "UTF-32", "convert it with `iconv -f UTF-32 -t UTF-8`"},
    {"\xff\xfe", 2, "UTF-16", "convert it with `iconv -f UTF-16 -t UTF-8`"},
    {"\xfe\xff", 2, "UTF-16", "convert it with `iconv -f UTF-16 -t UTF-8`"},
};

/* Letters of the Latin alphabet in UTF-16 without a mark: every other byte is zero. 0: no; 'L',
 * 'B': which end is first. */
static char looks_like_utf16(const char *s, size_t n)
{
    size_t zeros[2] = {0, 0}, pairs = (n < 4096 ? n : 4096) / 2;
    for (size_t i = 0; i < 2 * pairs; i++) zeros[i % 2] += s[i] == 0;
    if (pairs < 2 || zeros[0] + zeros[1] < pairs / 2) return 0;
    return zeros[1] > 8 * zeros[0] ? 'L' : zeros[0] > 8 * zeros[1] ? 'B' : 0;
}

static enum status binary(const struct text_file *t, const char *zero)
{
    long line = 1, column = 1;
    for (const char *p = t->text; p < zero; p++) {
        column = *p == '\n' ? 1 : column + 1;
        line += *p == '\n';
    }
    return fail(ERR_FORMAT,
        "%s: line %ld, column %ld: a zero character, so this is a binary file or a damaged text; "
        "name a text in UTF-8, or "
        "remove it with `tr -d '\\000'`",
        t->path, line, column);
}

static enum status text_check(const struct text_file *t)
{
    const char *s = t->text, *path = t->path;
    size_t n = t->len < TEXT_FILE_LOOK ? t->len : TEXT_FILE_LOOK;
    for (size_t i = 0; i < sizeof known_starts / sizeof *known_starts; i++) {
        const struct known_start *k = &known_starts[i];
        if (n < k->n || memcmp(s, k->bytes, k->n) != 0) continue;
        return fail(
            ERR_FORMAT, "%s: is %s, expected a text in UTF-8; %s", path, k->what, k->remedy);
    }
    const char *zero = n ? memchr(s, 0, n) : NULL;
    if (!zero) return OK;
    char end = looks_like_utf16(s, n);
    if (end)
        return fail(ERR_FORMAT,
            "%s: is UTF-16, expected a text in UTF-8; convert it with `iconv -f UTF-16%cE -t "
            "UTF-8`",
            path, end);
    return binary(t, zero);
}

enum status text_file_take(const struct text_file *t, size_t from, size_t n, const char **out)
{
    *out = t->text + from;
    size_t opened = TEXT_FILE_LOOK - 3,
           seen = from < opened ? opened - from : 0; /* a mark is no part of the text */
    const char *zero = n > seen ? memchr(*out + seen, 0, n - seen) : NULL;
    return zero ? binary(t, zero) : OK;
}

enum status text_file_open(struct text_file *t, const char *path)
{
    enum status st;
    bool input = strcmp(path, "-") == 0;
    *t = (struct text_file){.path = input ? "standard input" : path};
    if (!input && file_is_dir(path))
        return fail(ERR_IO, "%s: is a directory, expected a file", path);
    if (!input && (file_is_regular(path) || !file_exists(path))) {
        st = file_map_open(&t->map, path);
        t->text = t->map.data ? (const char *)t->map.data : "";
        t->len = t->map.size;
    } else {
        st = file_read(&t->read, input ? "/dev/stdin" : path);
        t->text = str_get(&t->read);
        t->len = t->read.len;
    }
    if (st == OK) st = text_check(t);
    if (st == OK && input && !t->len)
        st = fail(ERR_ARG, "standard input: found nothing, expected a text; it can be read once");
    if (st != OK) {
        text_file_close(t);
        return st;
    }
    if (t->len >= 3 && memcmp(t->text, "\xef\xbb\xbf", 3) == 0) {
        t->text += 3;
        t->len -= 3;
    }
    return OK;
}

void text_file_close(struct text_file *t)
{
    file_map_close(&t->map);
    str_clear(&t->read);
    *t = (struct text_file){0};
}

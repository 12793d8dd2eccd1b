/* JSON Lines: one object a line, read in order with the line's number in every message. What such a
 * file is called does not matter, and one JSON array of objects is read alike, with the entry's
 * number for the line's.
 *
 * Blank lines are skipped, a byte order mark and "\r\n" are accepted. Keys can be renamed by the
 * user:
 * `--field text=content,context=prompt` reads "content" where a suite asks for "text"; a name with
 * dots, "choices.text", descends into objects when no key has that very name.
 */
#ifndef SG_SUITES_JSONL_H
#define SG_SUITES_JSONL_H

#include "base/json.h"
#include "suites/text_file.h"

/* What each key is called in the file. */
struct field_map {
    struct field_name {
        const char *key; /* as the suites call it, static */
        char *name;      /* as the file calls it, owned */
    } field[6];
    int n;
};

/* Parse "KEY=NAME,KEY=NAME"; NULL and "" map nothing. ERR_ARG: another form, an unknown or repeated
 * key. */
enum status field_map_parse(struct field_map *m, const char *text) MUST_USE;
void field_map_clear(struct field_map *m);
/* The name of `key` in the file; borrowed. m may be NULL: every field has the name the suites give.
 */
const char *field_map_name(const struct field_map *m, const char *key);

struct jsonl {
    struct text_file file;
    const struct field_map *fields; /* borrowed; NULL: a format whose names are fixed */
    const char *path;               /* borrowed */
    /* by its content, or for want of any by its name: else this is plain text */
    bool documents;
    size_t at; /* bytes consumed */
    /* of the present object, from 1; in an array its place, from 1 */
    long line;
    const cJSON *object; /* the present one; NULL before the first and after the last */
    cJSON *line_object;  /* owned: it, when it is a line's */
    /* owned: the whole file, when it is an array or an object over several lines */
    cJSON *list;
    const cJSON *next; /* in the list */
};

enum status jsonl_open(struct jsonl *r, const char *path, const struct field_map *fields) MUST_USE;
void jsonl_close(struct jsonl *r);

/* Back to the first object. */
void jsonl_rewind(struct jsonl *r);
/* Step over the next one without looking at it; false behind the last. */
bool jsonl_skip(struct jsonl *r);
/* Go to the next object; r->object is NULL behind the last. A line that is no JSON object fails
 * with file, line and column, and so does text with a zero character in it, which C strings would
 * cut short. */
enum status jsonl_next(struct jsonl *r) MUST_USE;

/* "line", or "entry" of an array: what r->line counts. */
const char *jsonl_unit(const struct jsonl *r);

/* Field `key` (a suite's name) of the present object; NULL when it is missing or null. */
const cJSON *jsonl_find(const struct jsonl *r, const char *key);
/* The same, required, and of the kind asked for. *out borrows from the object. */
enum status jsonl_string(const struct jsonl *r, const char *key, const char **out) MUST_USE;
enum status jsonl_array(const struct jsonl *r, const char *key, const cJSON **out) MUST_USE;
/* Fail about the present line: "FILE: line N: …", with the keys the object has. */
enum status jsonl_fail_missing(const struct jsonl *r, const char *wanted) MUST_USE;

#endif

/* Reading JSON with errors a person can act on; the parser itself is cJSON.
 *
 * A `struct json_in` carries the name of the file so that every getter can say
 * "config.json: field rope_scaling.factor: found a string, expected a number".
 */
#ifndef SG_BASE_JSON_H
#define SG_BASE_JSON_H

#include "base/status.h"
#include "base/str.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

struct json_in {
    const cJSON *node; /* borrowed */
    const char *file;  /* borrowed, for messages */
    const char *path;  /* borrowed, where `node` stands in the file, "" for the root */
};

/* Parse `text` (len bytes; trailing spaces allowed, anything else behind the value refused): a file
 * of our own. A key that an object says twice is refused by name, since its writer cannot have
 * meant both, and so is text that is not UTF-8: it would be written back as another. On OK the
 * caller frees *root with cJSON_Delete. A failure names file, line and column. */
enum status json_parse(cJSON **root, const char *file, const char *text, size_t len) MUST_USE;
/* The same for a whole file. */
enum status json_read_file(cJSON **root, const char *path) MUST_USE;

/* A text of our own that a database holds; NULL when it is none, or not there. */
cJSON *json_stored(const char *text);

/* A file that others wrote, read as Python reads it: of a key said twice the last counts, and NaN,
 * Infinity and -Infinity are numbers, not finite ones, which every getter refuses. `line`: of the
 * file, where `text` begins. */
enum status json_parse_foreign(
    cJSON **root, const char *file, long line, const char *text, size_t len) MUST_USE;
enum status json_read_foreign(cJSON **root, const char *path) MUST_USE;

/* Getters of one field of an object. `required` false: a missing or null field leaves *out
 * untouched. */
enum status json_get_int(struct json_in in, const char *field, bool required, int64_t lo,
    int64_t hi, int64_t *out) MUST_USE;
enum status json_get_double(struct json_in in, const char *field, bool required, double lo,
    double hi, double *out) MUST_USE;
enum status json_get_bool(struct json_in in, const char *field, bool required, bool *out) MUST_USE;
/* *out borrows from the tree. */
enum status json_get_string(
    struct json_in in, const char *field, bool required, const char **out) MUST_USE;

/* "a string", "a number", … for messages; NULL gives "nothing". */
const char *json_kind(const cJSON *node);

/* Append a tree as text, indented by two spaces from level `indent`; -1: on one line. Numbers are
 * printed so that they read back equal; NaN and infinities become null. */
void json_print(struct str *out, const cJSON *node, int indent);
/* The same into a file, atomically. */
enum status json_write_file(const char *path, const cJSON *root) MUST_USE;

#endif

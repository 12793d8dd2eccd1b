/* Reading the parts of tokenizer.json: what they have in common. */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_COMPONENT_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_COMPONENT_H

#include "base/json.h"
#include "engine/tokenizer/tokenizer_regex.h"

/* `in.node` as an object with a string field "type". */
enum status component_type(struct json_in in, const char **type) MUST_USE;

/* ERR_UNSUPPORTED: "file: field PATH.type: found "X", expected A, B or C; …". */
enum status component_unknown(struct json_in in, const char *type, const char *expected) MUST_USE;

#define COMPONENT_STEPS 64 /* more steps than that are no tokenizer */

/* Call `read` for every element of the array `field` of a Sequence. Nesting is limited. */
typedef enum status component_reader(void *into, struct json_in element, int depth);
enum status component_sequence(
    struct json_in in, const char *field, component_reader *read, void *into, int depth) MUST_USE;

/* The string field that replaces or precedes text: at most 64 bytes, so that no text explodes. */
enum status component_insert(struct json_in in, const char *field, const char **out) MUST_USE;
/* ERR_UNSUPPORTED when n_in bytes of text have become more than 64 times as many. */
enum status component_growth(size_t n_in, size_t n_out) MUST_USE;

/* A string field of exactly one character (1…4 bytes of UTF-8); borrowed. */
enum status component_char(struct json_in in, const char *field, const char **out) MUST_USE;

/* The field "pattern", {"String": …} or {"Regex": …}, never empty, ready for searching. */
enum status component_search(struct json_in in, struct regex **regex) MUST_USE;

#endif

#include "engine/tokenizer/tokenizer_component.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 16
#define MAX_INSERT 64

enum status component_type(struct json_in in, const char **type)
{
    if (!cJSON_IsObject(in.node))
        return fail(ERR_FORMAT, "%s: field %s: found %s, expected an object or null", in.file,
            in.path, json_kind(in.node));
    return json_get_string(in, "type", true, type);
}

enum status component_unknown(struct json_in in, const char *type, const char *expected)
{
    return fail(ERR_UNSUPPORTED,
        "%s: field %s.type: found \"%s\", expected %s; only the byte-level and metaspace BPE "
        "tokenizers of "
        "the LLaMA families are offered, choose a model with one of these",
        in.file, in.path, type, expected);
}

enum status component_sequence(
    struct json_in in, const char *field, component_reader *read, void *into, int depth)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(in.node, field), *element;
    if (!cJSON_IsArray(list))
        return fail(ERR_FORMAT, "%s: field %s.%s: found %s, expected an array", in.file, in.path,
            field, json_kind(list));
    if (depth >= MAX_DEPTH)
        return fail(ERR_UNSUPPORTED, "%s: field %s: sequences nested %d deep, expected fewer",
            in.file, in.path, depth);
    int i = 0;
    cJSON_ArrayForEach(element, list)
    {
        char *path = str_format("%s.%s[%d]", in.path, field, i++);
        enum status st = read(into, (struct json_in){element, in.file, path}, depth + 1);
        free(path);
        TRY(st);
    }
    return OK;
}

enum status component_insert(struct json_in in, const char *field, const char **out)
{
    *out = NULL;
    TRY(json_get_string(in, field, true, out));
    if (strlen(*out) <= MAX_INSERT) return OK;
    return fail(ERR_UNSUPPORTED, "%s: field %s.%s: found %zu bytes, expected at most %d", in.file,
        in.path, field, strlen(*out), MAX_INSERT);
}

enum status component_growth(size_t n_in, size_t n_out)
{
    if (n_out / MAX_INSERT <= n_in + 1024) return OK;
    return fail(ERR_UNSUPPORTED,
        "tokenizer: %zu bytes of text have grown to %zu, expected at most %d times as many; "
        "its replacements feed each other",
        n_in, n_out, MAX_INSERT);
}

enum status component_char(struct json_in in, const char *field, const char **out)
{
    *out = NULL;
    TRY(json_get_string(in, field, true, out));
    if (**out == 0 || utf8_length((unsigned char)**out) != strlen(*out))
        return fail(ERR_FORMAT, "%s: field %s.%s: found \"%s\", expected one character", in.file,
            in.path, field, *out);
    return OK;
}

enum status component_search(struct json_in in, struct regex **regex)
{
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(in.node, "pattern");
    const cJSON *string = cJSON_GetObjectItemCaseSensitive(pattern, "String");
    const cJSON *expression = cJSON_GetObjectItemCaseSensitive(pattern, "Regex");
    const cJSON *chosen = string ? string : expression;
    *regex = NULL;
    if (!cJSON_IsObject(pattern) || !cJSON_IsString(chosen) || (string && expression))
        return fail(ERR_FORMAT,
            "%s: field %s.pattern: found %s, expected {\"String\": text} or {\"Regex\": text}",
            in.file, in.path, json_kind(pattern));
    const char *text = chosen->valuestring;
    if (*text == 0)
        return fail(
            ERR_UNSUPPORTED, "%s: field %s.pattern: found an empty pattern", in.file, in.path);
    struct regex_place place = {in.file, in.path};
    return string ? regex_open_literal(regex, text, strlen(text), place)
                  : regex_open(regex, text, strlen(text), place);
}

#include "suites/jsonl.h"

#include <stdlib.h>
#include <string.h>

static const char *const known_keys[] = {"text", "context", "continuation", "query", "choices", "gold"};
enum { N_KEYS = sizeof known_keys / sizeof *known_keys };

static const char *known_key(const char *text, size_t len)
{
    for (int i = 0; i < N_KEYS; i++)
        if (strlen(known_keys[i]) == len && memcmp(known_keys[i], text, len) == 0) return known_keys[i];
    return NULL;
}

static enum status add_field(struct field_map *m, const char *pair, size_t len)
{
    const char *equals = memchr(pair, '=', len);
    if (!equals || equals + 1 == pair + len)
        return fail(ERR_ARG,
                    "--field: \"%.*s\" is not of the form KEY=NAME, as in text=content,context=prompt",
                    (int)len, pair);
    const char *key = known_key(pair, (size_t)(equals - pair));
    if (!key)
        return fail(ERR_ARG,
                    "--field: no suite reads a key \"%.*s\"; known: text, context, continuation, query, "
                    "choices, gold",
                    (int)(equals - pair), pair);
    for (int i = 0; i < m->n; i++)
        if (m->field[i].key == key) return fail(ERR_ARG, "--field: key \"%s\" is named twice", key);
    m->field[m->n++] =
        (struct field_name){key, str_format("%.*s", (int)(pair + len - equals - 1), equals + 1)};
    return OK;
}

enum status field_map_parse(struct field_map *m, const char *text)
{
    m->n = 0;
    if (!text || !*text) return OK;
    for (const char *p = text;;) {
        size_t len = strcspn(p, ",");
        enum status st = add_field(m, p, len);
        if (st != OK) {
            field_map_clear(m);
            return st;
        }
        if (!p[len]) return OK;
        p += len + 1;
    }
}

void field_map_clear(struct field_map *m)
{
    for (int i = 0; i < m->n; i++) free(m->field[i].name);
    m->n = 0;
}

const char *field_map_name(const struct field_map *m, const char *key)
{
    for (int i = 0; i < m->n; i++)
        if (strcmp(m->field[i].key, key) == 0) return m->field[i].name;
    return key;
}

enum status jsonl_open(struct jsonl *r, const char *path, const struct field_map *fields)
{
    *r = (struct jsonl){.fields = fields, .path = path};
    TRY(file_map_open(&r->map, path));
    if (r->map.size >= 3 && memcmp(r->map.data, "\xef\xbb\xbf", 3) == 0) r->at = 3;
    return OK;
}

void jsonl_close(struct jsonl *r)
{
    cJSON_Delete(r->object);
    file_map_close(&r->map);
    *r = (struct jsonl){0};
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static bool all_blank(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!blank(s[i])) return false;
    return true;
}

/* Where a zero character stands, raw or as \u0000; len when nowhere. */
static size_t find_zero(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (s[i] == 0) return i;
        if (s[i] != '\\') continue;
        if (len - i >= 6 && memcmp(s + i, "\\u0000", 6) == 0) return i;
        i++; /* the escaped character, which may be a backslash */
    }
    return len;
}

static enum status parse_line(struct jsonl *r, const char *s, size_t len)
{
    size_t zero = find_zero(s, len);
    if (zero < len)
        return fail(ERR_FORMAT, "%s: line %ld, column %zu: a zero character; remove it from the text",
                    r->path, r->line, zero + 1);
    const char *end = NULL;
    r->object = cJSON_ParseWithLengthOpts(s, len, &end, false);
    if (!r->object) {
        end = cJSON_GetErrorPtr();
        if (!end || end < s || end > s + len) end = s + len;
    } else if (!all_blank(end, (size_t)(s + len - end))) {
        cJSON_Delete(r->object);
        r->object = NULL;
        while (blank(*end)) end++;
    }
    if (!r->object)
        return fail(ERR_FORMAT, "%s: line %ld, column %td: not valid JSON; each line must be one object",
                    r->path, r->line, end - s + 1);
    if (!cJSON_IsObject(r->object))
        return fail(ERR_FORMAT, "%s: line %ld: found %s, expected an object", r->path, r->line,
                    json_kind(r->object));
    return OK;
}

enum status jsonl_next(struct jsonl *r)
{
    cJSON_Delete(r->object);
    r->object = NULL;
    while (r->at < r->map.size) {
        const char *s = (const char *)r->map.data + r->at;
        const char *newline = memchr(s, '\n', r->map.size - r->at);
        size_t len = newline ? (size_t)(newline - s) : r->map.size - r->at;
        r->at += len + (newline != NULL);
        r->line++;
        if (!all_blank(s, len)) return parse_line(r, s, len);
    }
    return OK;
}

static const cJSON *descend(const cJSON *object, const char *name)
{
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(object, name);
    const char *dot = strchr(name, '.');
    if (found || !dot) return found;
    char *head = str_format("%.*s", (int)(dot - name), name);
    const cJSON *inner = cJSON_GetObjectItemCaseSensitive(object, head);
    free(head);
    return inner ? descend(inner, dot + 1) : NULL;
}

const cJSON *jsonl_find(const struct jsonl *r, const char *key)
{
    const cJSON *found = descend(r->object, field_map_name(r->fields, key));
    return cJSON_IsNull(found) ? NULL : found;
}

enum status jsonl_fail_missing(const struct jsonl *r, const char *wanted)
{
    struct str keys = {0};
    int n = 0;
    const cJSON *child;
    cJSON_ArrayForEach(child, r->object)
    {
        if (n++ < 8) str_addf(&keys, "%s\"%.40s\"", keys.len ? ", " : "", child->string);
    }
    if (n > 8) str_addf(&keys, " and %d more", n - 8);
    enum status st = fail(ERR_FORMAT,
                          "%s: line %ld: field %s is missing; the object has %s; other names are given "
                          "by --field KEY=NAME",
                          r->path, r->line, wanted, n ? str_get(&keys) : "no fields");
    str_clear(&keys);
    return st;
}

static enum status find_kind(const struct jsonl *r, const char *key, cJSON_bool (*is)(const cJSON *),
                             const char *expected, const cJSON **out)
{
    *out = jsonl_find(r, key);
    const char *name = field_map_name(r->fields, key);
    if (!*out) {
        char *quoted = str_format("\"%s\"", name);
        enum status st = jsonl_fail_missing(r, quoted);
        free(quoted);
        return st;
    }
    if (!is(*out))
        return fail(ERR_FORMAT, "%s: line %ld: field \"%s\": found %s, expected %s", r->path, r->line, name,
                    json_kind(*out), expected);
    return OK;
}

enum status jsonl_string(const struct jsonl *r, const char *key, const char **out)
{
    const cJSON *node;
    TRY(find_kind(r, key, cJSON_IsString, "a string", &node));
    *out = node->valuestring;
    return OK;
}

enum status jsonl_array(const struct jsonl *r, const char *key, const cJSON **out)
{
    return find_kind(r, key, cJSON_IsArray, "an array", out);
}

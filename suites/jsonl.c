#include "suites/jsonl.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const known_keys[] = {
    "text", "context", "continuation", "query", "choices", "gold"};
enum { N_KEYS = sizeof known_keys / sizeof *known_keys };

static const char *known_key(const char *text, size_t len)
{
    for (int i = 0; i < N_KEYS; i++)
        if (strlen(known_keys[i]) == len && memcmp(known_keys[i], text, len) == 0)
            return known_keys[i];
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
    for (int i = 0; m && i < m->n; i++)
        if (strcmp(m->field[i].key, key) == 0) return m->field[i].name;
    return key;
}

static bool blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static bool all_blank(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!blank(s[i])) return false;
    return true;
}

/* The next line that holds something: its length, and *s and r->line say where; -1 behind the last.
 */
static ptrdiff_t next_line(struct jsonl *r, const char **s)
{
    while (r->at < r->file.len) {
        *s = r->file.text + r->at;
        const char *newline = memchr(*s, '\n', r->file.len - r->at);
        size_t len = newline ? (size_t)(newline - *s) : r->file.len - r->at;
        r->at += len + (newline != NULL);
        r->line++;
        if (!all_blank(*s, len)) return (ptrdiff_t)len;
    }
    return -1;
}

/* Where a zero character stands, as \u0000; len when nowhere. C strings would end there. */
static size_t find_zero(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (s[i] != '\\') continue;
        if (len - i >= 6 && memcmp(s + i, "\\u0000", 6) == 0) return i;
        i++; /* the escaped character, which may be a backslash */
    }
    return len;
}

/* Text from s to the end of the line or file, whose first byte stands in line r->line. */
static enum status parse_at(const struct jsonl *r, const char *s, size_t len, cJSON **out)
{
    size_t zero = find_zero(s, len);
    *out = NULL;
    if (zero < len)
        return fail(ERR_FORMAT,
            "%s: line %ld, column %zu: a zero character; remove it from the text", r->path, r->line,
            zero + 1);
    return json_parse_foreign(out, r->path, r->line, s, len);
}

/* Whatever the names that such files have. */
static bool named_json(const char *path)
{
    static const char *const ends[] = {".jsonl", ".ndjson", ".jsonlines", ".json"};
    const char *dot = strrchr(path_base(path), '.');
    for (int i = 0; dot && i < 4; i++)
        if (strcasecmp(dot, ends[i]) == 0) return true;
    return false;
}

static bool is_list_of_objects(const cJSON *root)
{
    const cJSON *item;
    if (!cJSON_IsArray(root) || !root->child) return false;
    cJSON_ArrayForEach(item, root) if (!cJSON_IsObject(item)) return false;
    return true;
}

/* An array of objects, or one object over several lines, is as good as lines. A first line that is
 * an object decides for lines; so does, for want of anything else, the name of the file. */
static bool find_documents(struct jsonl *r)
{
    struct jsonl first = *r;
    const char *s;
    cJSON *root = NULL;
    ptrdiff_t len = next_line(&first, &s);
    if (len < 0) return named_json(r->path);
    while (blank(*s)) s++, len--;
    if (*s == '{' && parse_at(&first, s, (size_t)len, &root) == OK) {
        cJSON_Delete(root);
        return true;
    }
    if ((*s == '{' || *s == '[') &&
        parse_at(&first, s, r->file.len - (size_t)(s - r->file.text), &root) == OK) {
        if (is_list_of_objects(root) || cJSON_IsObject(root)) {
            r->list = root;
            r->next = cJSON_IsArray(root) ? root->child : root;
            r->at = r->file.len;
            return true;
        }
        cJSON_Delete(root);
    }
    return named_json(r->path);
}

enum status jsonl_open(struct jsonl *r, const char *path, const struct field_map *fields)
{
    *r = (struct jsonl){.fields = fields, .path = path};
    TRY(text_file_open(&r->file, path));
    r->documents = find_documents(r);
    return OK;
}

void jsonl_close(struct jsonl *r)
{
    cJSON_Delete(r->line_object);
    cJSON_Delete(r->list);
    text_file_close(&r->file);
    *r = (struct jsonl){0};
}

void jsonl_rewind(struct jsonl *r)
{
    r->at = 0;
    r->line = 0;
    r->next = cJSON_IsArray(r->list) ? r->list->child : r->list;
}

bool jsonl_skip(struct jsonl *r)
{
    const char *s;
    if (!r->list) return next_line(r, &s) >= 0;
    bool found = r->next != NULL;
    r->next = found ? r->next->next : NULL;
    r->line += found;
    return found;
}

enum status jsonl_next(struct jsonl *r)
{
    const char *s;
    cJSON_Delete(r->line_object);
    r->object = r->line_object = NULL;
    if (r->list) {
        r->object = r->next;
        r->next = r->next ? r->next->next : NULL;
        r->line += r->object != NULL;
        return OK;
    }
    ptrdiff_t len = next_line(r, &s);
    if (len < 0) return OK;
    TRY(text_file_take(&r->file, (size_t)(s - r->file.text), (size_t)len, &s));
    enum status st = parse_at(r, s, (size_t)len, &r->line_object);
    if (st == ERR_FORMAT) {
        char *why = str_dup(status_message());
        st = fail(st, "%s; each line must be one object", why);
        free(why);
    }
    TRY(st);
    r->object = r->line_object;
    if (cJSON_IsObject(r->object)) return OK;
    return fail(ERR_FORMAT, "%s: %s %ld: found %s, expected an object", r->path, jsonl_unit(r),
        r->line, json_kind(r->object));
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

const char *jsonl_unit(const struct jsonl *r) { return r->list ? "entry" : "line"; }

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
    enum status st = fail(ERR_FORMAT, "%s: %s %ld: field %s is missing; the object has %s; %s",
        r->path, jsonl_unit(r), r->line, wanted, n ? str_get(&keys) : "no fields",
        r->fields ? "other names are given by --field KEY=NAME"
                  : "is it a file of this format, as its makers publish it?");
    str_clear(&keys);
    return st;
}

static enum status find_kind(const struct jsonl *r, const char *key,
    cJSON_bool (*is)(const cJSON *), const char *expected, const cJSON **out)
{
    *out = jsonl_find(r, key);
    const char *name = field_map_name(r->fields, key);
    if (!*out && descend(r->object, name))
        return fail(ERR_FORMAT, "%s: %s %ld: field \"%s\": found null, expected %s", r->path,
            jsonl_unit(r), r->line, name, expected);
    if (!*out) {
        char *quoted = str_format("\"%s\"", name);
        enum status st = jsonl_fail_missing(r, quoted);
        free(quoted);
        return st;
    }
    if (!is(*out))
        return fail(ERR_FORMAT, "%s: %s %ld: field \"%s\": found %s, expected %s", r->path,
            jsonl_unit(r), r->line, name, json_kind(*out), expected);
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

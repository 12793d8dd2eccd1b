#include "base/json.h"

#include "base/file.h"
#include "base/utf8.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *json_kind(const cJSON *node)
{
    if (!node) return "nothing";
    if (cJSON_IsString(node)) return "a string";
    if (cJSON_IsNumber(node))
        return isfinite(node->valuedouble) ? "a number" : "NaN or an infinite number";
    if (cJSON_IsBool(node)) return "true or false";
    if (cJSON_IsArray(node)) return "an array";
    if (cJSON_IsObject(node)) return "an object";
    return "null";
}

/* Where a node stands, from the inside outwards: for messages. */
struct place {
    const struct place *up;
    const cJSON *node;
};

static void place_add(const struct place *p, struct str *out)
{
    if (!p->up) return;
    place_add(p->up, out);
    if (p->node->string) {
        str_addf(out, "%s%s", out->len ? "." : "", p->node->string);
        return;
    }
    size_t index = 0;
    for (const cJSON *c = p->up->node->child; c != p->node; c = c->next) index++;
    str_addf(out, "[%zu]", index);
}

static enum status place_fail_twice(const struct place *p, const char *file)
{
    struct str path = {0};
    place_add(p, &path);
    enum status st =
        fail(ERR_FORMAT, "%s: key %s stands there twice, and only one can count; remove the other",
            file, str_get(&path));
    str_clear(&path);
    return st;
}

struct member {
    cJSON *node;
    size_t at;
};

static int member_by_key(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    int order = strcmp(x->node->string, y->node->string);
    return order ? order : x->at < y->at ? -1 : 1;
}

/* Of the members with one key the last is left, as in Python; or they are refused. */
static enum status settle_members(
    const struct place *p, cJSON *object, const char *file, bool last_counts)
{
    size_t n = 0, at = 0;
    for (const cJSON *c = object->child; c; c = c->next) n++;
    if (n < 2) return OK;
    struct member *members = malloc(n * sizeof *members);
    if (!members) return fail(ERR_MEMORY, "%s: no memory for the %zu keys of an object", file, n);
    for (cJSON *c = object->child; c; c = c->next, at++) members[at] = (struct member){c, at};
    qsort(members, n, sizeof *members, member_by_key);
    enum status st = OK;
    for (size_t i = 0; i + 1 < n && st == OK; i++) {
        struct place twice = {p, members[i].node};
        if (strcmp(members[i].node->string, members[i + 1].node->string) != 0) continue;
        if (last_counts) cJSON_Delete(cJSON_DetachItemViaPointer(object, members[i].node));
        else st = place_fail_twice(&twice, file);
    }
    free(members);
    return st;
}

static enum status settle_keys(
    const struct place *up, cJSON *node, const char *file, bool last_counts)
{
    struct place here = {up, node};
    if (cJSON_IsObject(node)) TRY(settle_members(&here, node, file, last_counts));
    for (cJSON *child = node->child; child; child = child->next)
        if (child->child) TRY(settle_keys(&here, child, file, last_counts));
    return OK;
}

/* Python writes NaN, Infinity and -Infinity, which the parser does not know; numbers beyond a
 * double stand for them. */
static const struct not_finite {
    const char *word, *number;
} not_finite[] = {{"NaN", "-1e9990999"}, {"Infinity", "1e9999  "}};

/* A copy with these numbers outside of strings; false when there are none. */
static bool replace_not_finite(struct str *copy, const char *text, size_t len)
{
    bool in_string = false, found = false;
    if (!memmem(text, len, "NaN", 3) && !memmem(text, len, "Infinity", 8)) return false;
    for (size_t at = 0, step; at < len; at += step) {
        const char *put = text + at;
        step = in_string && text[at] == '\\' && at + 1 < len ? 2 : 1;
        size_t n = step;
        if (text[at] == '"') in_string = !in_string;
        for (size_t i = 0; i < 2 && !in_string; i++) {
            size_t word = strlen(not_finite[i].word);
            if (len - at < word || memcmp(text + at, not_finite[i].word, word) != 0) continue;
            put = not_finite[i].number;
            n = strlen(put);
            step = word;
            found = true;
        }
        str_add_bytes(copy, put, n);
    }
    return found;
}

/* A place in the copy as one in the text it was made from. */
static size_t place_in_original(const struct str *copy, size_t at)
{
    const char *number = not_finite[0].number, *p = copy->data, *end = p + copy->len;
    size_t n = strlen(number), wider = n - strlen(not_finite[0].word), shift = 0;
    for (; (p = memmem(p, (size_t)(end - p), number, n)); p += n, shift += wider) {
        size_t begin = (size_t)(p - copy->data);
        if (begin >= at) break;
        if (begin + n > at) return begin - shift; /* in the middle of it */
    }
    return at - shift;
}

static enum status fail_syntax(
    const char *file, long line, const char *text, size_t at, const char *what)
{
    long column = 1;
    for (const char *p = text; p < text + at; p++) {
        column = *p == '\n' ? 1 : column + 1;
        line += *p == '\n';
    }
    return fail(ERR_FORMAT, "%s: line %ld, column %ld: %s", file, line, column, what);
}

static bool all_space(const char *from, const char *end)
{
    while (from < end && isspace((unsigned char)*from)) from++;
    return from == end;
}

/* The tree of text[0..len) with nothing but space behind it; *at is where reading ended when it is
 * NULL. */
static cJSON *parse_whole(const char *text, size_t len, size_t *at)
{
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(text, len, &end, false);
    if (root && all_space(end, text + len)) return root;
    if (root) {
        while (isspace((unsigned char)*end)) end++;
        cJSON_Delete(root);
    } else {
        end = cJSON_GetErrorPtr();
    }
    *at = end && end >= text && end <= text + len ? (size_t)(end - text) : len;
    return NULL;
}

static enum status settle_root(cJSON **root, const char *file, bool last_counts)
{
    enum status st = settle_keys(NULL, *root, file, last_counts);
    if (st == OK) return OK;
    cJSON_Delete(*root);
    *root = NULL;
    return st;
}

enum status json_parse(cJSON **root, const char *file, const char *text, size_t len)
{
    size_t at = 0;
    *root = NULL;
    if (!utf8_valid(text, len, &at)) return fail_syntax(file, 1, text, at, "not UTF-8");
    *root = parse_whole(text, len, &at);
    return *root ? settle_root(root, file, false)
                 : fail_syntax(file, 1, text, at, "not valid JSON");
}

cJSON *json_stored(const char *text)
{
    cJSON *root = NULL;
    return text && json_parse(&root, "the database", text, strlen(text)) == OK ? root : NULL;
}

enum status json_parse_foreign(
    cJSON **root, const char *file, long line, const char *text, size_t len)
{
    struct str copy = {0};
    size_t at = 0;
    bool other = replace_not_finite(&copy, text, len);
    *root = other ? parse_whole(copy.data, copy.len, &at) : parse_whole(text, len, &at);
    enum status st = *root ? settle_root(root, file, true)
                           : fail_syntax(file, line, text,
                                 other ? place_in_original(&copy, at) : at, "not valid JSON");
    str_clear(&copy);
    return st;
}

enum status json_read_file(cJSON **root, const char *path)
{
    *root = NULL;
    struct str text = {0};
    enum status st = file_read(&text, path);
    if (st == OK) st = json_parse(root, path, str_get(&text), text.len);
    str_clear(&text);
    return st;
}

enum status json_read_foreign(cJSON **root, const char *path)
{
    *root = NULL;
    struct str text = {0};
    enum status st = file_read(&text, path);
    if (st == OK) st = json_parse_foreign(root, path, 1, str_get(&text), text.len);
    str_clear(&text);
    return st;
}

static enum status find(struct json_in in, const char *field, bool required, const cJSON **out)
{
    *out = cJSON_GetObjectItemCaseSensitive(in.node, field);
    if (*out && cJSON_IsNull(*out)) *out = NULL;
    if (!*out && required)
        return fail(ERR_FORMAT, "%s: field %s%s%s is missing", in.file, in.path,
            *in.path ? "." : "", field);
    return OK;
}

static enum status wrong_kind(
    struct json_in in, const char *field, const cJSON *node, const char *expected)
{
    return fail(ERR_FORMAT, "%s: field %s%s%s: found %s, expected %s", in.file, in.path,
        *in.path ? "." : "", field, json_kind(node), expected);
}

enum status json_get_double(
    struct json_in in, const char *field, bool required, double lo, double hi, double *out)
{
    const cJSON *node;
    TRY(find(in, field, required, &node));
    if (!node) return OK;
    if (!cJSON_IsNumber(node) || !isfinite(node->valuedouble))
        return wrong_kind(in, field, node, "a number");
    if (!(node->valuedouble >= lo && node->valuedouble <= hi))
        return fail(ERR_FORMAT, "%s: field %s%s%s: found %.15g, expected %.15g to %.15g", in.file,
            in.path, *in.path ? "." : "", field, node->valuedouble, lo, hi);
    *out = node->valuedouble;
    return OK;
}

enum status json_get_int(
    struct json_in in, const char *field, bool required, int64_t lo, int64_t hi, int64_t *out)
{
    double value = NAN;
    TRY(json_get_double(in, field, required, (double)lo, (double)hi, &value));
    if (isnan(value)) return OK;
    if (value != floor(value))
        return fail(ERR_FORMAT, "%s: field %s%s%s: found %.17g, expected a whole number", in.file,
            in.path, *in.path ? "." : "", field, value);
    *out = (int64_t)value;
    return OK;
}

enum status json_get_bool(struct json_in in, const char *field, bool required, bool *out)
{
    const cJSON *node;
    TRY(find(in, field, required, &node));
    if (!node) return OK;
    if (!cJSON_IsBool(node)) return wrong_kind(in, field, node, "true or false");
    *out = cJSON_IsTrue(node);
    return OK;
}

enum status json_get_string(struct json_in in, const char *field, bool required, const char **out)
{
    const cJSON *node;
    TRY(find(in, field, required, &node));
    if (!node) return OK;
    if (!cJSON_IsString(node)) return wrong_kind(in, field, node, "a string");
    *out = node->valuestring;
    return OK;
}

/* cJSON prints 15 digits where it believes them equal, which loses bits; the shortest text that
 * reads back equal keeps them. */
static void print_number(struct str *out, double value)
{
    char text[40];
    if (!isfinite(value)) { /* JSON has no such numbers */
        str_add(out, "null");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    str_add(out, text);
}

static void print_string(struct str *out, const char *s)
{
    size_t begin = out->len;
    str_add_char(out, '"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\' || c == '\n' || c == '\t')
            str_addf(out, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : c);
        else if (c < 0x20) str_addf(out, "\\u%04x", c);
        else str_add_char(out, *s);
    }
    str_add_char(out, '"');
    utf8_repair_in(out, begin); /* a path may hold any bytes; JSON may not */
}

void json_print(struct str *out, const cJSON *node, int indent)
{
    bool object = cJSON_IsObject(node);
    if (cJSON_IsNumber(node)) {
        print_number(out, node->valuedouble);
    } else if (cJSON_IsString(node)) {
        print_string(out, node->valuestring);
    } else if (object || cJSON_IsArray(node)) {
        str_add_char(out, object ? '{' : '[');
        for (const cJSON *child = node->child; child; child = child->next) {
            if (indent >= 0) str_addf(out, "\n%*s", 2 * (indent + 1), "");
            if (object) {
                print_string(out, child->string);
                str_add(out, indent >= 0 ? ": " : ":");
            }
            json_print(out, child, indent >= 0 ? indent + 1 : -1);
            if (child->next) str_add_char(out, ',');
        }
        if (indent >= 0 && node->child) str_addf(out, "\n%*s", 2 * indent, "");
        str_add_char(out, object ? '}' : ']');
    } else {
        str_add(out, cJSON_IsTrue(node) ? "true" : cJSON_IsFalse(node) ? "false" : "null");
    }
}

enum status json_write_file(const char *path, const cJSON *root)
{
    struct str out = {0};
    json_print(&out, root, 0);
    str_add_char(&out, '\n');
    enum status st = file_write_text(path, &out);
    str_clear(&out);
    return st;
}

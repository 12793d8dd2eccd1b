#include "base/json.h"

#include "base/file.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *json_kind(const cJSON *node)
{
    if (!node) return "nothing";
    if (cJSON_IsString(node)) return "a string";
    if (cJSON_IsNumber(node)) return "a number";
    if (cJSON_IsBool(node)) return "true or false";
    if (cJSON_IsArray(node)) return "an array";
    if (cJSON_IsObject(node)) return "an object";
    return "null";
}

enum status json_parse(cJSON **root, const char *file, const char *text, size_t len)
{
    const char *end = NULL;
    *root = cJSON_ParseWithLengthOpts(text, len, &end, false);
    if (*root) {
        while (end < text + len && isspace((unsigned char)*end)) end++;
        if (end == text + len) return OK;
        cJSON_Delete(*root);
        *root = NULL;
    } else {
        end = cJSON_GetErrorPtr();
        if (!end || end < text || end > text + len) end = text + len;
    }
    long line = 1, column = 1;
    for (const char *p = text; p < end; p++) {
        column = *p == '\n' ? 1 : column + 1;
        line += *p == '\n';
    }
    return fail(ERR_FORMAT, "%s: line %ld, column %ld: not valid JSON", file, line, column);
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

static enum status find(struct json_in in, const char *field, bool required, const cJSON **out)
{
    *out = cJSON_GetObjectItemCaseSensitive(in.node, field);
    if (*out && cJSON_IsNull(*out)) *out = NULL;
    if (!*out && required)
        return fail(ERR_FORMAT, "%s: field %s%s%s is missing", in.file, in.path, *in.path ? "." : "", field);
    return OK;
}

static enum status wrong_kind(struct json_in in, const char *field, const cJSON *node, const char *expected)
{
    return fail(ERR_FORMAT, "%s: field %s%s%s: found %s, expected %s", in.file, in.path, *in.path ? "." : "",
                field, json_kind(node), expected);
}

enum status json_get_double(struct json_in in, const char *field, bool required, double lo, double hi, double *out)
{
    const cJSON *node;
    TRY(find(in, field, required, &node));
    if (!node) return OK;
    if (!cJSON_IsNumber(node)) return wrong_kind(in, field, node, "a number");
    if (!(node->valuedouble >= lo && node->valuedouble <= hi))
        return fail(ERR_FORMAT, "%s: field %s%s%s: found %.15g, expected %.15g to %.15g", in.file, in.path,
                    *in.path ? "." : "", field, node->valuedouble, lo, hi);
    *out = node->valuedouble;
    return OK;
}

enum status json_get_int(struct json_in in, const char *field, bool required, int64_t lo, int64_t hi, int64_t *out)
{
    double value = NAN;
    TRY(json_get_double(in, field, required, (double)lo, (double)hi, &value));
    if (isnan(value)) return OK;
    if (value != floor(value))
        return fail(ERR_FORMAT, "%s: field %s%s%s: found %.17g, expected a whole number", in.file, in.path,
                    *in.path ? "." : "", field, value);
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

/* cJSON prints 15 digits where it believes them equal, which loses bits; the shortest text that reads back equal keeps
 * them. */
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
    str_add_char(out, '"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\' || c == '\n' || c == '\t')
            str_addf(out, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : c);
        else if (c < 0x20)
            str_addf(out, "\\u%04x", c);
        else
            str_add_char(out, *s);
    }
    str_add_char(out, '"');
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
    enum status st = file_write_atomic(path, out.data, out.len);
    str_clear(&out);
    return st;
}

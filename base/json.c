#include "base/json.h"

#include "base/file.h"

#include <ctype.h>
#include <math.h>
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
        if (end == text + len || *end == 0) return OK;
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
        return fail(ERR_FORMAT, "%s: field %s%s%s: found %g, expected %g to %g", in.file, in.path,
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
        return fail(ERR_FORMAT, "%s: field %s%s%s: found %g, expected a whole number", in.file, in.path,
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

enum status json_write_file(const char *path, const cJSON *root)
{
    char *text = cJSON_Print(root);
    if (!text) return fail(ERR_MEMORY, "%s: no memory to print the JSON", path);
    struct str out = {0};
    for (const char *p = text; *p; p++) { /* cJSON indents by tabs and puts one behind each colon */
        if (*p != '\t')
            str_add_char(&out, *p);
        else
            str_add(&out, p > text && p[-1] == ':' ? " " : "  ");
    }
    str_add_char(&out, '\n');
    enum status st = file_write_atomic(path, out.data, out.len);
    str_clear(&out);
    cJSON_free(text);
    return st;
}

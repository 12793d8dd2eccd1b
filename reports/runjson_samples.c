#include "reports/runjson_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

cJSON *runjson_tails(const struct run_view *v)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < v->tails.n; i++) {
        const struct tail_record *t = &v->tails.rows[i];
        cJSON *o = cJSON_CreateObject(), *values = cJSON_CreateArray();
        cJSON_AddNumberToObject(o, "text_idx", t->sample);
        cJSON_AddStringToObject(o, "name", t->name);
        for (size_t k = 0; k < t->n; k++) { /* nine digits give a float back */
            char text[32];
            snprintf(text, sizeof text, "%.9g", (double)t->values[k]);
            cJSON_AddItemToArray(values, cJSON_CreateNumber(strtod(text, NULL)));
        }
        cJSON_AddItemToObject(o, "worst", values);
        cJSON_AddItemToArray(list, o);
    }
    return list;
}

static enum status read_tail(struct json_in in, struct tail_record *t, struct arena **arena)
{
    const char *name = NULL;
    int64_t sample = 0;
    TRY(json_get_int(in, "text_idx", true, 0, 1 << 30, &sample));
    TRY(json_get_string(in, "name", true, &name));
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(in.node, "worst"), *node;
    if (!cJSON_IsArray(array))
        return fail(ERR_FORMAT, "%s: field %s.worst: found %s, expected an array; evaluate again",
            in.file, in.path, json_kind(array));
    float *values = arena_alloc(arena, ((size_t)cJSON_GetArraySize(array) + 1) * sizeof *values);
    *t = (struct tail_record){
        .sample = (int)sample, .name = arena_str(arena, name), .values = values};
    cJSON_ArrayForEach(node, array)
    {
        if (!cJSON_IsNumber(node) || !isfinite(node->valuedouble))
            return fail(ERR_FORMAT,
                "%s: field %s.worst[%zu]: found %s, expected a number; evaluate again", in.file,
                in.path, t->n, json_kind(node));
        values[t->n++] = (float)node->valuedouble;
    }
    return OK;
}

enum status runjson_read_tails(struct json_in in, struct tail_list *out)
{
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(in.node, "tails"), *node;
    if (!array) return OK;
    if (!cJSON_IsArray(array))
        return fail(
            ERR_FORMAT, "%s: field tails: found %s, expected an array", in.file, json_kind(array));
    out->rows = calloc((size_t)cJSON_GetArraySize(array) + 1, sizeof *out->rows);
    if (!out->rows) return fail(ERR_MEMORY, "%s: no memory for its tails", in.file);
    cJSON_ArrayForEach(node, array)
    {
        char path[40];
        snprintf(path, sizeof path, "tails[%zu]", out->n);
        TRY(read_tail((struct json_in){node, in.file, path}, &out->rows[out->n++], &out->arena));
    }
    return OK;
}

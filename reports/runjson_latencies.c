#include "reports/runjson_parts.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
    const char *name;
    size_t offset;
} seconds[] = {
    {"min", offsetof(struct latency_record, min)},       {"p5", offsetof(struct latency_record, p5)},
    {"q1", offsetof(struct latency_record, q1)},         {"median", offsetof(struct latency_record, median)},
    {"q3", offsetof(struct latency_record, q3)},         {"p95", offsetof(struct latency_record, p95)},
    {"max", offsetof(struct latency_record, max)},       {"mean", offsetof(struct latency_record, mean)},
};
enum { N_SECONDS = sizeof seconds / sizeof *seconds };

cJSON *runjson_latencies(const struct run_view *v)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "part", r->part);
        cJSON_AddNumberToObject(o, "n_tokens", (double)r->n_tokens);
        cJSON_AddNumberToObject(o, "n", r->n);
        for (int k = 0; k < N_SECONDS; k++) {
            double value = *(const double *)((const char *)r + seconds[k].offset);
            if (isfinite(value)) cJSON_AddNumberToObject(o, seconds[k].name, value);
        }
        cJSON_AddBoolToObject(o, "valid", r->valid);
        if (r->note) cJSON_AddStringToObject(o, "note", r->note);
        cJSON_AddItemToArray(list, o);
    }
    return list;
}

static enum status read_row(struct json_in in, struct latency_record *r, struct arena **arena)
{
    const char *text = NULL;
    int64_t n = 0;
    TRY(json_get_string(in, "part", true, &text));
    r->part = arena_str(arena, text);
    TRY(json_get_int(in, "n_tokens", true, 1, (int64_t)1 << 40, &r->n_tokens));
    TRY(json_get_int(in, "n", true, 1, 1 << 30, &n));
    r->n = (int)n;
    for (int k = 0; k < N_SECONDS; k++) {
        double *value = (double *)((char *)r + seconds[k].offset);
        *value = NAN;
        TRY(json_get_double(in, seconds[k].name, false, 0, INFINITY, value));
    }
    TRY(json_get_bool(in, "valid", true, &r->valid));
    text = NULL;
    TRY(json_get_string(in, "note", false, &text));
    r->note = arena_str(arena, text);
    return OK;
}

enum status runjson_read_latencies(struct json_in in, struct latency_list *out)
{
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(in.node, "latencies"), *node;
    if (!array) return OK;
    if (!cJSON_IsArray(array))
        return fail(ERR_FORMAT, "%s: field latencies: found %s, expected an array", in.file, json_kind(array));
    out->rows = calloc((size_t)cJSON_GetArraySize(array) + 1, sizeof *out->rows);
    if (!out->rows) return fail(ERR_MEMORY, "%s: no memory for its times", in.file);
    cJSON_ArrayForEach(node, array)
    {
        char path[40];
        snprintf(path, sizeof path, "latencies[%zu]", out->n);
        TRY(read_row((struct json_in){node, in.file, path}, &out->rows[out->n++], &out->arena));
    }
    return OK;
}

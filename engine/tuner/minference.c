#include "engine/tuner/minference.h"

#include "base/file.h"
#include "base/json.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const patterns[] = {
    "vertical_and_slash", "stream_llm", "block_sparse", NULL}; /* enum head_pattern */
enum { MOST_TOKENS = 1 << 24 };

bool minference_is_pattern(const char *path)
{
    struct str text = {0};
    const char *s = file_read(&text, path) == OK ? str_get(&text) : "";
    while (isspace((unsigned char)*s)) s++;
    bool array = *s == '[';
    str_clear(&text);
    return array;
}

static enum status read_head(
    const char *path, int layer, int head, const cJSON *item, struct tuned_head *out)
{
    const cJSON *name = cJSON_GetArrayItem(item, 0),
                *size[2] = {cJSON_GetArrayItem(item, 1), cJSON_GetArrayItem(item, 2)};
    int pattern = 0;
    if (!cJSON_IsArray(item) || !cJSON_IsString(name))
        return fail(ERR_FORMAT,
            "%s: layer %d, head %d: found %s, expected [pattern, size, size, score]", path, layer,
            head, json_kind(cJSON_IsArray(item) ? name : item));
    while (patterns[pattern] && strcmp(patterns[pattern], name->valuestring) != 0) pattern++;
    if (!patterns[pattern])
        return fail(ERR_FORMAT,
            "%s: layer %d, head %d: found the pattern \"%s\", expected vertical_and_slash, "
            "stream_llm or block_sparse",
            path, layer, head, name->valuestring);
    for (int i = 0; i < 2; i++)
        if (!cJSON_IsNumber(size[i]) ||
            !(size[i]->valuedouble >= 1 && size[i]->valuedouble <= MOST_TOKENS) ||
            size[i]->valuedouble != (int)size[i]->valuedouble)
            return fail(ERR_FORMAT,
                "%s: layer %d, head %d: found the size %s, expected a whole number of tokens from "
                "1 to %d",
                path, layer, head, cJSON_IsNumber(size[i]) ? "it has" : json_kind(size[i]),
                MOST_TOKENS);
    out->in_range = true;
    out->params = (struct head_params){.lambda = 50,
        .tau = 1,
        .theta = -1,
        .is_sparse = true,
        .part = (uint8_t)pattern,
        .vertical = (int)size[0]->valuedouble,
        .slash = (int)size[1]->valuedouble};
    return OK;
}

static enum status read_layer(
    const char *path, int layer, const cJSON *heads, int n_heads, struct tuned_head *out)
{
    const cJSON *item;
    if (!cJSON_IsObject(heads))
        return fail(ERR_FORMAT, "%s: layer %d: found %s, expected an object with a key per head",
            path, layer, json_kind(heads));
    int n = cJSON_GetArraySize(heads);
    if (n != n_heads)
        return fail(ERR_FORMAT,
            "%s: layer %d: found %d heads, expected the model's %d: it is another model's pattern "
            "file",
            path, layer, n, n_heads);
    cJSON_ArrayForEach(item, heads)
    {
        char *end;
        long head = strtol(item->string, &end, 10);
        if (end == item->string || *end || head < 0 || head >= n_heads)
            return fail(ERR_FORMAT,
                "%s: layer %d: found the head \"%s\", expected 0 to %d: it is another model's "
                "pattern file",
                path, layer, item->string, n_heads - 1);
        TRY(read_head(path, layer, (int)head, item, &out[head]));
    }
    for (int h = 0; h < n_heads; h++)
        if (!out[h].in_range)
            return fail(ERR_FORMAT, "%s: layer %d: found head %d not there, expected all %d", path,
                layer, h, n_heads);
    return OK;
}

static enum status read_all(
    struct tuned *out, const char *path, const cJSON *root, int n_layers, int n_heads)
{
    int n = cJSON_IsArray(root) ? cJSON_GetArraySize(root) : 0;
    if (n != n_layers)
        return fail(ERR_FORMAT,
            "%s: found %d layers, expected the model's %d: it is another model's pattern file",
            path, n, n_layers);
    for (int l = 0; l < n_layers; l++)
        TRY(read_layer(
            path, l, cJSON_GetArrayItem(root, l), n_heads, out->heads + (ptrdiff_t)l * n_heads));
    return OK;
}

enum status minference_read(struct tuned *out, const char *path, int n_layers, int n_heads)
{
    cJSON *root;
    TRY(json_read_foreign(&root, path));
    enum status st = tuned_init(out, n_layers, n_heads);
    if (st == OK) {
        snprintf(out->method, sizeof out->method, "minference");
        snprintf(out->layers, sizeof out->layers, "all");
        out->block = (struct block_shape){128, 64};
        out->smooth_k = SMOOTH_K_RUNNING;
        st = read_all(out, path, root, n_layers, n_heads);
        if (st != OK) tuned_clear(out);
    }
    cJSON_Delete(root);
    return st;
}

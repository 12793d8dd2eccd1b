/* Plan files: axes and settings as JSON. */
#include "harness/sweep/plan.h"

#include "base/file.h"
#include "base/json.h"

#include <stdio.h>
#include <string.h>

static enum status add_value(
    struct text_list *to, const cJSON *v, const char *file, const char *field, struct arena **arena)
{
    struct str text = {0};
    if (cJSON_IsString(v)) str_add(&text, v->valuestring);
    else if (cJSON_IsNumber(v)) str_add_number(&text, "", v->valuedouble);
    else
        return fail(ERR_FORMAT, "%s: field %s: found %s, expected a text or a number", file, field,
            json_kind(v));
    if (to->n == (int)(sizeof to->items / sizeof to->items[0]))
        return fail(ERR_FORMAT, "%s: field %s: more than %d values; join them with commas", file,
            field, to->n);
    to->items[to->n++] = arena_str(arena, str_get(&text));
    str_clear(&text);
    return OK;
}

/* A \\u0000 in a text ends it for everybody who reads it as one. */
static enum status refuse_zeros(const char *path)
{
    struct str text = {0};
    TRY(file_read(&text, path));
    bool found = memchr(str_get(&text), 0, text.len) != NULL;
    /* the character behind it belongs to it */
    for (const char *p = str_get(&text); !found && (p = strchr(p, '\\')); p += 2) {
        if (!p[1]) break;
        found = str_starts_with(p, "\\u0000");
    }
    str_clear(&text);
    return found
        ? fail(ERR_FORMAT, "%s: holds a zero byte or \\u0000; no name or value has one", path)
        : OK;
}

enum status plan_read(const char *path, struct plan_axes *axes, struct plan_settings *s,
    struct arena **arena, struct str *beaten)
{
    const struct {
        const char *name;
        struct text_list *to;
    } lists[] = {
        {"suite", &axes->suite},
        {"max_length", &axes->max_length},
        {"method", &axes->method},
        {"block", &axes->block},
        {"layers", &axes->layers},
        {"heads", &axes->heads},
        {"rule", &axes->rule},
        {"l1", &axes->l1},
        {"pv_l1", &axes->pv_l1},
        {"simthreshd1", &axes->theta},
        {"cdfthreshd", &axes->tau},
        {"pvthreshd", &axes->lambda},
        {"qk", &axes->qk},
        {"pv", &axes->pv},
    };
    static const char *const settings[] = {
        "name", "model", "score", "num_samples", "seed", "repeat"};
    cJSON *root;
    TRY(refuse_zeros(path));
    TRY(json_read_file(&root, path));
    struct json_in in = {root, path, ""};
    enum status st = cJSON_IsObject(root)
        ? OK
        : fail(ERR_FORMAT, "%s: found %s, expected an object of axes", path, json_kind(root));
    const cJSON *v, *item;
    if (st == OK) cJSON_ArrayForEach(v, root)
        {
            size_t i = 0, k = 0;
            while (i < sizeof lists / sizeof *lists && strcmp(lists[i].name, v->string) != 0) i++;
            while (k < sizeof settings / sizeof *settings && strcmp(settings[k], v->string) != 0)
                k++;
            if (i < sizeof lists / sizeof *lists) {
                if (cJSON_IsArray(v) && !v->child)
                    TRY_GOTO(st, done,
                        fail(ERR_FORMAT,
                            "%s: field %s: an empty list; leave the axis out, or name its values",
                            path, v->string));
                if (!cJSON_IsArray(v))
                    TRY_GOTO(st, done, add_value(lists[i].to, v, path, v->string, arena));
                else
                    cJSON_ArrayForEach(item, v)
                        TRY_GOTO(st, done, add_value(lists[i].to, item, path, v->string, arena));
            } else if (k == sizeof settings / sizeof *settings) {
                TRY_GOTO(st, done,
                    fail(ERR_FORMAT,
                        "%s: field %s: unknown, expected suite, max_length, method, block, layers, "
                        "heads, qk, pv, rule, l1, pv_l1, simthreshd1, cdfthreshd, pvthreshd, name, "
                        "model, "
                        "score, num_samples, seed or repeat",
                        path, v->string));
            }
        }
    const char **texts[] = {&s->name, &s->model, &s->score};
    for (int i = 0; i < 3 && st == OK; i++) {
        const char *text = NULL;
        st = json_get_string(in, settings[i], false, &text);
        if (st == OK && text && !*text)
            st = fail(ERR_FORMAT, "%s: field %s: found an empty text", path, settings[i]);
        if (st == OK && text && *texts[i] && strcmp(text, *texts[i]))
            str_addf(beaten, "%s%s", beaten->len ? ", " : "", settings[i]);
        if (st == OK && text && !*texts[i]) *texts[i] = arena_str(arena, text);
    }
    int *numbers[] = {&s->num_samples, &s->seed, &axes->repeat};
    for (int i = 0; i < 3 && st == OK; i++) {
        int64_t number = PLAN_UNSET;
        st = json_get_int(in, settings[3 + i], false, 0, i == 2 ? 1000 : 1 << 30, &number);
        if (st != OK || number == PLAN_UNSET) continue;
        if (*numbers[i] == PLAN_UNSET) *numbers[i] = (int)number;
        else if (*numbers[i] != number)
            str_addf(beaten, "%s%s", beaten->len ? ", " : "", settings[3 + i]);
    }
done:
    cJSON_Delete(root);
    return st;
}

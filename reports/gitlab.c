#include "base/hash.h"
#include "base/json.h"
#include "reports/junit.h"

#include <stdio.h>

/* https://docs.gitlab.com/ci/testing/code_quality/: description, check_name, fingerprint, severity
 * and location are required of each entry. */
void gitlab_quality(const struct gate_check *checks, size_t n, const char *file, struct str *out)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < n; i++) {
        const struct gate_check *c = &checks[i];
        static const char *const severities[] = {NULL, "major", "minor", "critical", NULL};
        const char *severity = severities[c->outcome];
        if (!severity) continue;
        struct str text = {0};
        str_addf(&text, "%s %s", c->name, check_outcome_name(c->outcome));
        if (c->subject) str_addf(&text, " for %s", c->subject);
        str_addf(&text, ": %.6g, bound %s %.6g", c->value, c->op, c->bound);
        if (c->message) str_addf(&text, ". %s", c->message);
        /* the same finding keeps its fingerprint although the numbers move */
        struct hash h;
        char hex[HASH_HEX_SIZE];
        hash_init(&h);
        hash_add_str(&h, c->name);
        hash_add_str(&h, c->identity ? c->identity : c->subject ? c->subject : "");
        cJSON *entry = cJSON_CreateObject(), *location = cJSON_CreateObject(),
              *lines = cJSON_CreateObject();
        cJSON_AddStringToObject(entry, "description", str_get(&text));
        cJSON_AddStringToObject(entry, "check_name", c->name);
        cJSON_AddStringToObject(entry, "fingerprint", hash_hex(&h, hex));
        cJSON_AddStringToObject(entry, "severity", severity);
        cJSON_AddStringToObject(location, "path", file);
        cJSON_AddNumberToObject(lines, "begin", 1);
        cJSON_AddItemToObject(location, "lines", lines);
        cJSON_AddItemToObject(entry, "location", location);
        cJSON_AddItemToArray(list, entry);
        str_clear(&text);
    }
    json_print(out, list, 0);
    str_add_char(out, '\n');
    cJSON_Delete(list);
}

#include "base/json.h"
#include "results/db.h"
#include "results/query.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static void add_value(struct str *out, const cJSON *v)
{
    if (!v) str_add(out, "nothing");
    else if (cJSON_IsString(v)) str_add(out, v->valuestring);
    else json_print(out, v, -1);
}

/* To the last digit, which cJSON_Compare does not look at. */
static bool same_value(const cJSON *a, const cJSON *b)
{
    struct str x = {0}, y = {0};
    if (a) json_print(&x, a, -1);
    if (b) json_print(&y, b, -1);
    bool same = !strcmp(str_get(&x), str_get(&y));
    str_clear(&x);
    str_clear(&y);
    return same;
}

static void add_difference(
    struct str *out, int n, const char *field, const cJSON *a, const cJSON *b)
{
    str_addf(out, "%s%s: ", n ? "; " : "", field);
    add_value(out, a);
    str_add(out, " -> ");
    add_value(out, b);
}

int key_json_diff(const char *a, const char *b, struct str *out)
{
    cJSON *ja = json_stored(a), *jb = json_stored(b);
    int n = -1;
    if (cJSON_IsObject(ja) && cJSON_IsObject(jb)) {
        const cJSON *v;
        n = 0;
        cJSON_ArrayForEach(v, ja)
        {
            const cJSON *w = cJSON_GetObjectItemCaseSensitive(jb, v->string);
            if (!same_value(v, w)) add_difference(out, n++, v->string, v, w);
        }
        cJSON_ArrayForEach(v, jb) if (!cJSON_GetObjectItemCaseSensitive(ja, v->string))
            add_difference(out, n++, v->string, NULL, v);
    }
    cJSON_Delete(ja);
    cJSON_Delete(jb);
    return n;
}

/* The stored run whose key differs least; those of the same slot come first. *n -1 when there is
 * none. */
static enum status nearest(struct store *s, const char *slot, const char *key_json,
    struct str *diff, int64_t *run, bool *same_slot, int *n)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    struct str text = {0};
    bool more;
    int best = INT_MAX;
    *n = -1;
    enum status st = cursor_open(&c, s,
        "SELECT id, slot = ?1, key_json FROM run WHERE status = 'done' "
        "ORDER BY slot = ?1 DESC, id DESC");
    if (st == OK) put_text(&c, slot);
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        int64_t id = get_int(&c);
        bool same = get_int(&c) != 0;
        if (*n >= 0 && *same_slot && !same) break;
        str_reset(&text);
        int k = key_json_diff(get_text(&c), key_json, &text);
        if (k < 0 || k >= best) continue;
        best = *n = k;
        *run = id;
        *same_slot = same;
        str_reset(diff);
        str_add(diff, str_get(&text));
    }
    cursor_close(&c);
    arena_free(&arena);
    str_clear(&text);
    return st;
}

static enum status explain_stored(struct store *s, const char *key, struct str *out)
{
    struct run_list l;
    TRY(query_run(s, key, &l));
    const struct run_record *r = l.rows;
    if (r->status == RUN_DONE)
        str_addf(out, "reused: run %lld has this very key; made %s by version %s", (long long)r->id,
            r->ended ? r->ended : "at an unknown time", r->software.version);
    else
        str_addf(out, "%s (run %lld): %s; --retry-failed runs it again",
            r->status == RUN_FAILED ? "failed" : "skipped", (long long)r->id,
            r->reason ? r->reason : "no reason stored");
    run_list_clear(&l);
    return OK;
}

static enum status explain_lease(struct store *s, const char *key, struct str *out)
{
    struct arena *arena = NULL;
    struct cursor c = {.arena = &arena};
    bool more = false;
    enum status st =
        cursor_open(&c, s, "SELECT owner, datetime(expires, 'unixepoch') FROM lease WHERE key = ?");
    if (st == OK) {
        put_text(&c, key);
        st = cursor_step(&c, &more);
    }
    if (st == OK && more) {
        /* NULL: beyond what SQLite calls a date */
        const char *owner = get_name(&c), *until = get_text(&c);
        str_addf(out, "running: worker %s has it until %s UTC", owner,
            until ? until : "the end of time");
    }
    cursor_close(&c);
    arena_free(&arena);
    return st;
}

enum status query_explain(
    struct store *s, const char *key, const char *slot, const char *key_json, struct str *out)
{
    enum cell_state state;
    TRY(query_cell(s, key, slot, &state));
    if (state == CELL_RUNNING) return explain_lease(s, key, out);
    if (state == CELL_DONE || state == CELL_FAILED || state == CELL_SKIPPED)
        return explain_stored(s, key, out);
    struct str diff = {0};
    int64_t run = 0;
    bool same_slot = false;
    int n;
    enum status st = nearest(s, slot, key_json, &diff, &run, &same_slot, &n);
    if (st == OK && n < 0) str_add(out, "missing: no finished run is stored yet");
    else if (st == OK && same_slot)
        str_addf(out, "stale: run %lld answered the same question, but then changed: %s",
            (long long)run, str_get(&diff));
    else if (st == OK)
        str_addf(out, "missing: the nearest stored run is %lld; different: %s", (long long)run,
            str_get(&diff));
    str_clear(&diff);
    return st;
}

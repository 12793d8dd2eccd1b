/* Multiple choice by log-likelihood.
 *
 * Lines are {"query","choices","gold"}: gold is the index of the right choice from 0, the index as
 * a string of digits (lm-evaluation-harness renders its target to text and reads digits back as an
 * index), or the choice's own text; digits that are no index are a text again, and digits that are
 * both are counted, to be said. A candidate is the query, one space unless there is white space at
 * the joint, and the choice; each is a sample of its own. num_samples takes questions spread over
 * the file (suites/spread.h), never parts of one.
 */
#include "suites/build.h"
#include "suites/jsonl.h"
#include "suites/spread.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* "7" -> 7, anything else -> -1 */
static int as_index(const char *s)
{
    if (!isdigit((unsigned char)s[0]) || strlen(s) > 4) return -1;
    for (const char *c = s; *c; c++)
        if (!isdigit((unsigned char)*c)) return -1;
    return atoi(s);
}

static enum status find_gold(
    const struct jsonl *in, const cJSON *choices, int *out, int *n_ambiguous)
{
    const char *name = field_map_name(in->fields, "gold");
    const cJSON *gold = jsonl_find(in, "gold");
    int n = cJSON_GetArraySize(choices), i = 0;
    if (!gold) {
        char *quoted = str_format("\"%s\"", name);
        enum status st = jsonl_fail_missing(in, quoted);
        free(quoted);
        return st;
    }
    if (cJSON_IsString(gold)) {
        const cJSON *choice;
        int index = as_index(gold->valuestring);
        bool is_index = index >= 0 && index < n;
        cJSON_ArrayForEach(choice, choices)
        {
            if (strcmp(choice->valuestring, gold->valuestring) == 0) {
                *n_ambiguous += is_index && i != index;
                *out = is_index ? index : i;
                return OK;
            }
            i++;
        }
        *out = index;
        if (is_index) return OK;
        return fail(ERR_FORMAT, "%s: %s %ld: field \"%s\": \"%.60s\" is none of the %d choices",
            in->path, jsonl_unit(in), in->line, name, gold->valuestring, n);
    }
    if (!cJSON_IsNumber(gold))
        return fail(ERR_FORMAT,
            "%s: %s %ld: field \"%s\": found %s, expected an index from 0 or a choice's text",
            in->path, jsonl_unit(in), in->line, name, json_kind(gold));
    double v = gold->valuedouble;
    if (!(v >= 0 && v < n && v == floor(v)))
        return fail(ERR_FORMAT,
            "%s: %s %ld: field \"%s\": found %g, expected a whole number from 0 to %d", in->path,
            jsonl_unit(in), in->line, name, v, n - 1);
    *out = (int)v;
    return OK;
}

static enum status check_choices(const struct jsonl *in, const cJSON *choices)
{
    const char *name = field_map_name(in->fields, "choices");
    int n = cJSON_GetArraySize(choices), i = 0;
    if (n < 2)
        return fail(ERR_FORMAT, "%s: %s %ld: field \"%s\": has %d choices, expected 2 or more",
            in->path, jsonl_unit(in), in->line, name, n);
    const cJSON *choice;
    cJSON_ArrayForEach(choice, choices)
    {
        if (!cJSON_IsString(choice))
            return fail(ERR_FORMAT, "%s: %s %ld: field \"%s[%d]\": found %s, expected a string",
                in->path, jsonl_unit(in), in->line, name, i, json_kind(choice));
        if (!*choice->valuestring)
            return fail(ERR_FORMAT, "%s: %s %ld: field \"%s[%d]\" is an empty string", in->path,
                jsonl_unit(in), in->line, name, i);
        i++;
    }
    return OK;
}

static enum status add_candidate(const struct suite_options *o, const struct jsonl *in,
    struct sample_set *s, const char *query, const char *choice, struct item item, int index,
    bool *too_short)
{
    const char *base = path_base(in->path);
    struct answer_text a = {.file = in->path, .line = in->line};
    answer_text_add(s, &a.context, query);
    size_t n = a.context.len;
    if (n > 0 && !build_is_space(a.context.data[n - 1]) && !build_is_space(choice[0]))
        str_add_char(&a.answer, ' ');
    answer_text_add(s, &a.answer, choice);
    item.n_bytes = (int)strlen(choice);
    item.id = str_format("%s:%ld:%d", base, in->line, index);
    enum status st = build_answer(
        o, s, &a, item, str_format("%s line %ld choice %d", base, in->line, index), too_short);
    answer_text_clear(&a);
    return st;
}

static enum status add_line(
    const struct suite_options *o, const struct jsonl *in, struct sample_set *s, int *n_questions)
{
    const char *query;
    const cJSON *choices, *choice;
    int gold = 0, index = 0;
    TRY(jsonl_string(in, "query", &query));
    TRY(jsonl_array(in, "choices", &choices));
    TRY(check_choices(in, choices));
    TRY(find_gold(in, choices, &gold, &s->n_ambiguous));
    const struct sample_set mark = *s;
    cJSON_ArrayForEach(choice, choices)
    {
        struct item item = {
            .question = *n_questions, .gold = index == gold, .depth = NAN, .length = -1};
        bool too_short = false;
        TRY(add_candidate(o, in, s, query, choice->valuestring, item, index, &too_short));
        if (too_short) {
            build_rollback(s, &mark);
            s->n_skipped++;
            return OK;
        }
        index++;
    }
    ++*n_questions;
    return OK;
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    TRY(build_need_file(
        o, "choice", "choice:FILE.jsonl ({\"query\",\"choices\",\"gold\"} a line)"));
    struct field_map fields;
    TRY(field_map_parse(&fields, o->field));
    struct jsonl in = {0};
    int n_questions = 0;
    enum status st;
    TRY_GOTO(st, done, jsonl_open(&in, o->argument, &fields));
    for (;;) {
        TRY_GOTO(st, done, jsonl_next(&in));
        if (!in.object) break;
        TRY_GOTO(st, done, add_line(o, &in, out, &n_questions));
    }
    if (n_questions == 0 && out->n_skipped)
        st = fail(ERR_FORMAT, "%s: all %d questions are under %d tokens", o->argument,
            out->n_skipped, o->min_length);
    if (st == OK) st = spread_questions(out, o);
done:
    jsonl_close(&in);
    field_map_clear(&fields);
    return st;
}

const struct suite suite_choice = {
    .name = "choice",
    .help = "choice:FILE.jsonl  multiple choice by likelihood: {\"query\",\"choices\",\"gold\"}",
    .reads_fields = true,
    .load = load,
};

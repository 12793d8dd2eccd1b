/* Last words (LAMBADA, Paperno et al. 2016): is the continuation of a context reproduced greedily,
 * and how likely is it.
 *
 * Lines are {"context","continuation"}, joined as they stand, or {"text"}, whose last word with the
 * space before it is the continuation. num_samples takes lines spread over the file
 * (suites/spread.h).
 */
#include "suites/build.h"
#include "suites/jsonl.h"
#include "suites/spread.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Cut behind the last word but one; false when there is none. The word keeps one space before it.
 */
static bool split_last_word(
    struct sample_set *s, const char *text, struct answer_text *out, int *word_bytes)
{
    size_t end = strlen(text);
    while (end > 0 && build_is_space(text[end - 1])) end--;
    size_t word = end;
    while (word > 0 && !build_is_space(text[word - 1])) word--;
    size_t context = word;
    while (context > 0 && build_is_space(text[context - 1])) context--;
    if (context == 0) return false;
    char *head = str_format("%.*s", (int)context, text);
    char *tail = str_format("%.*s", (int)(end - word + 1), text + word - 1);
    answer_text_add(s, &out->context, head);
    answer_text_add(s, &out->answer, tail);
    *word_bytes = (int)(end - word);
    free(head);
    free(tail);
    return true;
}

static enum status read_line(
    const struct jsonl *in, struct sample_set *s, struct answer_text *out, int *n_bytes)
{
    const char *context, *continuation, *text;
    if (jsonl_find(in, "context") || jsonl_find(in, "continuation")) {
        TRY(jsonl_string(in, "context", &context));
        TRY(jsonl_string(in, "continuation", &continuation));
        answer_text_add(s, &out->context, context);
        answer_text_add(s, &out->answer, continuation);
        *n_bytes = (int)out->answer.len;
        return OK;
    }
    if (!jsonl_find(in, "text")) {
        char *wanted =
            str_format("\"%s\" with \"%s\", or \"%s\",", field_map_name(in->fields, "context"),
                field_map_name(in->fields, "continuation"), field_map_name(in->fields, "text"));
        enum status st = jsonl_fail_missing(in, wanted);
        free(wanted);
        return st;
    }
    TRY(jsonl_string(in, "text", &text));
    if (!split_last_word(s, text, out, n_bytes))
        return fail(ERR_FORMAT,
            "%s: %s %ld: field \"%s\" needs at least two words, the last is the one asked for",
            in->path, jsonl_unit(in), in->line, field_map_name(in->fields, "text"));
    return OK;
}

static enum status add_line(
    const struct suite_options *o, const struct jsonl *in, struct sample_set *s)
{
    const char *base = path_base(in->path);
    struct answer_text a = {.file = in->path, .line = in->line};
    struct item item = {.question = s->n_items, .gold = true, .depth = NAN, .length = -1};
    bool too_short = false;
    enum status st = read_line(in, s, &a, &item.n_bytes);
    if (st == OK) {
        item.id = str_format("%s:%ld", base, in->line);
        st = build_answer(o, s, &a, item, str_format("%s line %ld", base, in->line), &too_short);
        s->n_skipped += too_short;
    }
    answer_text_clear(&a);
    return st;
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    TRY(build_need_file(
        o, "cloze", "cloze:FILE.jsonl ({\"context\",\"continuation\"} or {\"text\"} a line)"));
    struct field_map fields;
    TRY(field_map_parse(&fields, o->field));
    struct jsonl in = {0};
    enum status st;
    TRY_GOTO(st, done, jsonl_open(&in, o->argument, &fields));
    for (;;) {
        TRY_GOTO(st, done, jsonl_next(&in));
        if (!in.object) break;
        TRY_GOTO(st, done, add_line(o, &in, out));
    }
    if (out->n_samples == 0 && out->n_skipped)
        st = fail(ERR_FORMAT, "%s: all %d lines are under %d tokens", o->argument, out->n_skipped,
            o->min_length);
    if (st == OK) st = spread_questions(out, o);
done:
    jsonl_close(&in);
    field_map_clear(&fields);
    return st;
}

const struct suite suite_cloze = {
    .name = "cloze",
    .help = "cloze:FILE.jsonl  last words reproduced: {\"context\",\"continuation\"} or {\"text\"}",
    .reads_fields = true,
    .load = load,
};

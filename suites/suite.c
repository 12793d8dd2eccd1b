#include "suites/suite.h"

#include "base/str.h"
#include "base/utf8.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct suite *const suites[] = {
    &suite_text,
    &suite_cloze,
    &suite_choice,
    &suite_needle,
    &suite_chronicle,
    &suite_ruler,
    &suite_tasks,
    &suite_speed,
    &suite_null,
    NULL,
};

static const struct suite *find_suite(const char *name, size_t len)
{
    for (int i = 0; suites[i]; i++)
        if (strlen(suites[i]->name) == len && memcmp(suites[i]->name, name, len) == 0)
            return suites[i];
    return NULL;
}

static enum status unknown_suite(const char *name, size_t len)
{
    struct str known = {0};
    for (int i = 0; suites[i]; i++) str_addf(&known, "%s%s", i ? ", " : "", suites[i]->name);
    enum status st = fail(ERR_ARG, "unknown suite \"%.*s\"; known: %s", (int)(len < 60 ? len : 60),
        name, str_get(&known));
    str_clear(&known);
    return st;
}

#define RULE "--bos "
#define CHAT "--chat "
#define FIELD "--field "

/* The word behind `option` when the text at *at begins with it; *at is then behind both. A blank in
 * a word has a backslash before it, and so has a backslash. */
static char *option_word(const char **at, const char *option)
{
    if (!str_starts_with(*at, option)) return NULL;
    const char *from = *at + strlen(option);
    struct str word = {0};
    for (; *from && *from != ' '; from++) {
        if (*from == '\\' && from[1]) from++;
        str_add_char(&word, *from);
    }
    char *out = *from ? str_dup(str_get(&word)) : NULL;
    str_clear(&word);
    if (out) *at = from + 1;
    return out;
}

static void add_option_word(struct str *out, const char *option, const char *word)
{
    str_add(out, option);
    for (; *word; word++) {
        if (*word == ' ' || *word == '\\') str_add_char(out, '\\');
        str_add_char(out, *word);
    }
    str_add_char(out, ' ');
}

const char *suite_name_parse(const char *name, struct suite_said *said)
{
    *said = (struct suite_said){.bos = BOS_TOKENIZER, .chat = option_word(&name, CHAT)};
    const char *behind = name;
    char *word = option_word(&behind, RULE);
    if (word && bos_rule_parse(word, &said->bos)) name = behind;
    free(word);
    said->field = option_word(&name, FIELD);
    return name;
}

void suite_said_clear(struct suite_said *said)
{
    free(said->chat);
    free(said->field);
    *said = (struct suite_said){0};
}

enum status suite_check(const char *spec)
{
    size_t len = strcspn(spec, ":");
    return find_suite(spec, len) ? OK : unknown_suite(spec, len);
}

bool suite_reads_fields(const char *spec)
{
    const struct suite *s = find_suite(spec, strcspn(spec, ":"));
    return s && s->reads_fields;
}

bool suite_is_grid(const char *spec)
{
    const struct suite *s = find_suite(spec, strcspn(spec, ":"));
    return s && s->grid;
}

static enum status check_options(const struct suite_options *o)
{
    if (o->max_length < 2)
        return fail(ERR_ARG, "max_length is %d, expected 2 or more tokens", o->max_length);
    if (o->bos == BOS_ALWAYS && tokenizer_bos(o->tokenizer) < 0)
        return fail(ERR_ARG, "--bos always: this tokenizer has no begin-of-text token");
    if (o->num_samples < 0)
        return fail(
            ERR_ARG, "num_samples is %d, expected 1 or more, or 0 for the default", o->num_samples);
    if (o->min_length < 0 || o->min_length > o->max_length)
        return fail(ERR_ARG, "min_length is %d, expected 0 to max_length, which is %d",
            o->min_length, o->max_length);
    return OK;
}

enum status suite_load(
    const char *spec, const struct suite_options *options, struct sample_set *out)
{
    assert(options->tokenizer);
    *out = (struct sample_set){0};
    size_t len = strcspn(spec, ":");
    const struct suite *suite = find_suite(spec, len);
    if (!suite) return unknown_suite(spec, len);
    struct suite_options o = *options;
    o.argument = spec[len] ? spec + len + 1 : "";
    if (!o.min_length) o.min_length = 2;
    TRY(check_options(&o));
    if (o.field && !suite->reads_fields)
        return fail(ERR_ARG,
            "--field %s: %s has no fields to name; it goes with text, cloze and choice", o.field,
            suite->name);
    if (o.chat && !suite->generates)
        return fail(ERR_ARG,
            "--chat %s: suite %s has no prompts that are answered by writing; --chat goes with %s",
            o.chat->name, suite->name,
            "ruler, tasks, and needle and chronicle with answers=written");
    struct str name = {0};
    out->suite = suite->name;
    if (o.chat) add_option_word(&name, CHAT, o.chat->name);
    if (o.bos != BOS_TOKENIZER) add_option_word(&name, RULE, bos_rule_name(o.bos));
    if (o.field) add_option_word(&name, FIELD, o.field);
    str_add(&name, spec);
    out->name = str_dup(str_get(&name));
    str_clear(&name);
    out->shown = utf8_shown(out->name);
    enum status st = suite->load(&o, out);
    if (st == OK && out->n_samples == 0)
        st = fail(ERR_FORMAT, "%s: nothing to evaluate in it", spec);
    if (st != OK) {
        sample_set_clear(out);
        return st;
    }
    sample_set_finish(out);
    return OK;
}

struct answer {
    double dense, sparse;
    bool dense_exact, sparse_exact;
};

static struct answer score_answer(const struct item *item, const struct token_score *tokens)
{
    struct answer a = {0, 0, true, true};
    for (int i = item->begin; i < item->end; i++) {
        const struct token_score *t = &tokens[i - 1]; /* the position before predicts token i */
        a.dense += t->logprob_dense;
        a.sparse += t->logprob_sparse;
        a.dense_exact &= t->argmax_dense != 0;
        a.sparse_exact &= t->argmax_sparse != 0;
    }
    return a;
}

/* Does the gold score stand against another candidate's? On a tie the earlier candidate wins, as
 * argmax in lm-evaluation-harness has it; a NaN never wins. */
static bool stands(double gold, double other, bool gold_first)
{
    return gold > other || (gold == other && gold_first);
}

static int per_byte(const struct item *item) { return item->n_bytes > 0 ? item->n_bytes : 1; }

static void score_choice(const struct sample_set *s, const struct token_score *const *tokens,
    int first, int end, int gold, struct item_score *out)
{
    out->dense_right = out->dense_right_norm = !isnan(out->dense);
    out->sparse_right = out->sparse_right_norm = !isnan(out->sparse);
    for (int i = first; i < end; i++) {
        if (i == gold) continue;
        const struct item *item = &s->items[i];
        struct answer a = score_answer(item, tokens[item->sample]);
        out->dense_right &= stands(out->dense, a.dense, gold < i);
        out->sparse_right &= stands(out->sparse, a.sparse, gold < i);
        out->dense_right_norm &= stands(out->dense_norm, a.dense / per_byte(item), gold < i);
        out->sparse_right_norm &= stands(out->sparse_norm, a.sparse / per_byte(item), gold < i);
    }
}

void suite_score(const struct sample_set *s, const struct token_score *const *tokens,
    struct item_score *out, int *question_item)
{
    for (int first = 0, end; first < s->n_items; first = end) {
        int question = s->items[first].question, gold = -1;
        for (end = first; end < s->n_items && s->items[end].question == question; end++)
            if (s->items[end].gold) gold = end;
        assert(gold >= 0 && question < s->n_questions);
        const struct item *item = &s->items[gold];
        struct answer a = score_answer(item, tokens[item->sample]);
        struct item_score *o = &out[question];
        *o = (struct item_score){
            .dense = a.dense,
            .sparse = a.sparse,
            .dense_norm = a.dense / per_byte(item),
            .sparse_norm = a.sparse / per_byte(item),
            .dense_right = a.dense_exact,
            .sparse_right = a.sparse_exact,
            .dense_right_norm = a.dense_exact,
            .sparse_right_norm = a.sparse_exact,
        };
        if (end - first > 1) score_choice(s, tokens, first, end, gold, o);
        if (question_item) question_item[question] = gold;
    }
}

#include "suites/build.h"

#include "base/xmalloc.h"

#include <stdlib.h>
#include <string.h>

int build_bos(const struct suite_options *o)
{
    const int32_t *ids;
    return (int)tokenizer_prefix(o->tokenizer, o->bos, &ids);
}

enum status build_encode(const struct suite_options *o, struct sample_set *s, const char *text,
    size_t len, struct token_list *out)
{
    size_t n_replaced = 0;
    out->n = 0;
    TRY(tokenizer_encode_behind(o->tokenizer, o->bos, text, len, out, &n_replaced));
    s->n_replaced += n_replaced;
    return OK;
}

size_t build_token_at(const struct token_list *t, size_t at)
{
    size_t lo = 0, hi = t->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (t->begin[mid] < at) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

enum status build_sample(
    const struct suite_options *o, struct sample_set *s, const int32_t *ids, size_t n, char *name)
{
    const int32_t *prefix;
    int bos = (int)tokenizer_prefix(o->tokenizer, o->bos, &prefix);
    struct sample sample = {.n = bos + (int)n, .name = name};
    sample.ids = malloc((size_t)sample.n * sizeof *sample.ids);
    if (!sample.ids) {
        free(name);
        return fail(ERR_MEMORY, "no memory for a sample of %d tokens", sample.n);
    }
    if (bos) memcpy(sample.ids, prefix, (size_t)bos * sizeof *prefix);
    if (n) memcpy(sample.ids + bos, ids, n * sizeof *ids);
    enum status st = o->n_rows
        ? tokenizer_check_ids(o->tokenizer, sample.ids, (size_t)sample.n, o->n_rows, name)
        : OK;
    if (st != OK) {
        free(sample.ids);
        free(name);
        return st;
    }
    sample.score_from = o->second_half ? sample.n / 2 : 0;
    return sample_set_add(s, sample);
}

void answer_text_clear(struct answer_text *a)
{
    str_clear(&a->context);
    str_clear(&a->answer);
}

void answer_text_add(struct sample_set *s, struct str *to, const char *text)
{
    s->n_replaced += tokenizer_repair(to, text, strlen(text));
}

static void move_space(struct answer_text *a)
{
    size_t keep = a->context.len;
    while (keep > 0 && build_is_space(a->context.data[keep - 1])) keep--;
    if (keep == a->context.len) return;
    struct str answer = {0};
    str_add_bytes(&answer, a->context.data + keep, a->context.len - keep);
    str_add_bytes(&answer, str_get(&a->answer), a->answer.len);
    str_clear(&a->answer);
    a->answer = answer;
    a->context.len = keep;
    a->context.data[keep] = 0;
}

/* Encode both together; *split is the first token of the answer. */
static enum status encode_both(const struct suite_options *o, struct sample_set *s,
    const struct answer_text *a, struct token_list *both, size_t *split)
{
    struct str text = {0};
    str_add_bytes(&text, str_get(&a->context), a->context.len);
    str_add_bytes(&text, str_get(&a->answer), a->answer.len);
    enum status st = build_encode(o, s, str_get(&text), text.len, both);
    str_clear(&text);
    TRY(st);
    *split = build_token_at(both, a->context.len);
    if (*split < both->n && both->begin[*split] == a->context.len) return OK;
    struct token_list alone = {0};
    st = build_encode(o, s, str_get(&a->context), a->context.len, &alone);
    *split = alone.n < both->n ? alone.n : both->n - (both->n > 0);
    token_list_clear(&alone);
    return st;
}

static enum status add_answer(const struct suite_options *o, struct sample_set *s,
    const struct answer_text *a, const struct token_list *both, size_t split, struct item *item,
    char **name)
{
    int bos = build_bos(o);
    /* it needs one token before it */
    size_t n_answer = both->n - split, room = (size_t)o->max_length - 1;
    if (a->answer.len == 0 || n_answer == 0)
        return fail(ERR_FORMAT, "%s: line %ld: the answer is empty", a->file, a->line);
    if (!bos && split == 0)
        return fail(ERR_FORMAT,
            "%s: line %ld: the context is empty, and no begin-of-text token stands for it, as "
            "--bos always would have it",
            a->file, a->line);
    if (n_answer > room)
        return fail(ERR_FORMAT,
            "%s: line %ld: the answer has %zu tokens, max_length %d leaves room for %zu", a->file,
            a->line, n_answer, o->max_length, room);
    size_t total = (size_t)bos + both->n, max = (size_t)o->max_length,
           cut = total > max ? total - max : 0;
    if (cut) {
        char *longer = str_format("%s (first %zu of %zu context tokens cut)", *name, cut, split);
        free(*name);
        *name = longer;
        s->n_truncated++;
    }
    enum status st = build_sample(o, s, both->ids + cut, both->n - cut, *name);
    *name = NULL;
    TRY(st);
    struct sample *sample = &s->samples[s->n_samples - 1];
    item->sample = s->n_samples - 1;
    item->begin = bos + (int)(split - cut);
    item->end = sample->n;
    sample->score_from = item->begin - 1;
    struct item taken = *item;
    item->id = item->group = NULL;
    return sample_set_add_item(s, taken);
}

enum status build_answer(const struct suite_options *o, struct sample_set *s, struct answer_text *a,
    struct item item, char *name, bool *too_short)
{
    struct token_list both = {0};
    size_t split = 0;
    move_space(a);
    enum status st = encode_both(o, s, a, &both, &split);
    *too_short = st == OK && build_bos(o) + both.n < (size_t)o->min_length;
    if (st == OK && !*too_short) st = add_answer(o, s, a, &both, split, &item, &name);
    token_list_clear(&both);
    free(item.id);
    free(item.group);
    free(name);
    return st;
}

void task_text_clear(struct task_text *t)
{
    str_clear(&t->prompt);
    str_clear(&t->prefix);
    str_clear(&t->gold);
}

struct wanted *wanted_new(enum judge judge, int budget)
{
    struct wanted *w = xcalloc(1, sizeof *w);
    w->judge = judge;
    w->budget = budget;
    return w;
}

void wanted_add(struct wanted *w, const char *answer)
{
    w->answers = xrealloc(w->answers, (size_t)(w->n_answers + 1) * sizeof *w->answers);
    w->answers[w->n_answers++] = str_dup(answer);
}

enum status build_task_tokens(const struct suite_options *o, struct sample_set *s,
    const struct task_text *t, struct token_list *out)
{
    struct str text = {0};
    str_add_bytes(&text, str_get(&t->prompt), t->prompt.len);
    chat_wrap(o->chat, &text);
    str_add_bytes(&text, str_get(&t->prefix), t->prefix.len);
    enum status st = build_encode(o, s, str_get(&text), text.len, out);
    str_clear(&text);
    return st;
}

/* The gold answer's tokens behind the prompt's, which stand: those of its last bytes and the answer
 * together, where they begin as the last bytes alone do; else the answer's alone. */
static enum status encode_gold(const struct suite_options *o, struct sample_set *s,
    const struct task_text *t, struct token_list *out)
{
    struct token_list tail = {0};
    struct str text = {0};
    str_add_bytes(&text, str_get(&t->prefix), t->prefix.len);
    enum status st = build_encode(o, s, str_get(&text), text.len, &tail);
    str_add_bytes(&text, str_get(&t->gold), t->gold.len);
    if (st == OK) st = build_encode(o, s, str_get(&text), text.len, out);
    if (st == OK && t->prefix.len && tail.n < out->n &&
        !memcmp(tail.ids, out->ids, tail.n * sizeof *tail.ids)) {
        out->n -= tail.n;
        memmove(out->ids, out->ids + tail.n, out->n * sizeof *out->ids);
    } else if (st == OK) st = build_encode(o, s, str_get(&t->gold), t->gold.len, out);
    str_clear(&text);
    token_list_clear(&tail);
    return st;
}

/* Drops the middle of a prompt that is longer than `room`. */
static void cut_middle(struct token_list *prompt, size_t room)
{
    size_t head = room / 2, tail = room - head;
    memmove(prompt->ids + head, prompt->ids + prompt->n - tail, tail * sizeof *prompt->ids);
    prompt->n = room;
}

static enum status add_task(const struct suite_options *o, struct sample_set *s,
    const struct task_text *t, struct token_list *prompt, const struct token_list *gold,
    struct item *item, char **name, bool cut)
{
    int bos = build_bos(o), budget = item->wanted->budget, room = o->max_length - budget - bos;
    if (room < 1)
        return fail(ERR_ARG,
            "%s: line %ld: the answer may take %d tokens and max_length is %d; raise it", t->file,
            t->line, budget, o->max_length);
    if (prompt->n > (size_t)room && !cut)
        return fail(ERR_ARG,
            "%s: line %ld: the prompt has %zu tokens, max_length %d less %d for the answer leaves "
            "room for %d",
            t->file, t->line, prompt->n + (size_t)bos, o->max_length, budget, room + bos);
    if (gold->n == 0)
        return fail(ERR_FORMAT, "%s: line %ld: the answer is empty", t->file, t->line);
    if (prompt->n > (size_t)room) {
        char *longer =
            str_format("%s (%zu tokens cut out of its middle)", *name, prompt->n - (size_t)room);
        free(*name);
        *name = longer;
        s->n_truncated++;
        cut_middle(prompt, (size_t)room);
    }
    s->n_over_budget += gold->n > (size_t)budget;
    size_t n_gold = gold->n > (size_t)budget ? (size_t)budget : gold->n;
    int n_prompt = bos + (int)prompt->n;
    for (size_t i = 0; i < n_gold; i++) TRY(token_list_add(prompt, gold->ids[i], 0));
    enum status st = build_sample(o, s, prompt->ids, prompt->n, *name);
    *name = NULL;
    TRY(st);
    struct sample *sample = &s->samples[s->n_samples - 1];
    sample->n_prompt = n_prompt;
    sample->score_from = n_prompt - 1;
    item->sample = s->n_samples - 1;
    item->begin = n_prompt;
    item->end = sample->n;
    struct item taken = *item;
    item->id = item->group = NULL;
    item->wanted = NULL;
    return sample_set_add_item(s, taken);
}

enum status build_task(const struct suite_options *o, struct sample_set *s,
    const struct task_text *t, struct token_list *prompt, struct item item, char *name, bool cut)
{
    struct token_list gold = {0};
    enum status st = encode_gold(o, s, t, &gold);
    if (st == OK) st = add_task(o, s, t, prompt, &gold, &item, &name, cut);
    token_list_clear(&gold);
    free(item.id);
    free(item.group);
    wanted_free(item.wanted);
    free(name);
    return st;
}

void build_rollback(struct sample_set *s, const struct sample_set *mark)
{
    s->n_truncated = mark->n_truncated;
    while (s->n_items > mark->n_items) {
        struct item *item = &s->items[--s->n_items];
        free(item->id);
        free(item->group);
        wanted_free(item->wanted);
    }
    while (s->n_samples > mark->n_samples) {
        struct sample *sample = &s->samples[--s->n_samples];
        free(sample->ids);
        free(sample->name);
    }
}

enum status build_need_file(const struct suite_options *o, const char *suite, const char *form)
{
    if (*o->argument) return OK;
    return fail(ERR_ARG, "suite %s needs a file: write %s", suite, form);
}

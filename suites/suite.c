#include "suites/suite.h"

#include "base/hash.h"
#include "base/str.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct suite *const suites[] = {
    &suite_text, &suite_cloze, &suite_choice, &suite_needle, &suite_chronicle, &suite_speed, &suite_null, NULL,
};

static const struct suite *find_suite(const char *name, size_t len)
{
    for (int i = 0; suites[i]; i++)
        if (strlen(suites[i]->name) == len && memcmp(suites[i]->name, name, len) == 0) return suites[i];
    return NULL;
}

static enum status unknown_suite(const char *name, size_t len)
{
    struct str known = {0};
    for (int i = 0; suites[i]; i++) str_addf(&known, "%s%s", i ? ", " : "", suites[i]->name);
    enum status st =
        fail(ERR_ARG, "unknown suite \"%.*s\"; known: %s", (int)(len < 60 ? len : 60), name, str_get(&known));
    str_clear(&known);
    return st;
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

static enum status check_options(const struct suite_options *o)
{
    if (o->max_length < 2) return fail(ERR_ARG, "max_length is %d, expected 2 or more tokens", o->max_length);
    if (o->num_samples < 0)
        return fail(ERR_ARG, "num_samples is %d, expected 1 or more, or 0 for the default", o->num_samples);
    if (o->min_length < 0 || o->min_length > o->max_length)
        return fail(ERR_ARG, "min_length is %d, expected 0 to max_length, which is %d", o->min_length,
                    o->max_length);
    return OK;
}

enum status suite_load(const char *spec, const struct suite_options *options, struct sample_set *out)
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
        return fail(ERR_ARG, "--field %s: %s reads no JSON; it goes with text, cloze and choice", o.field, suite->name);
    out->suite = suite->name;
    out->name = str_dup(spec);
    enum status st = suite->load(&o, out);
    if (st == OK && out->n_samples == 0) st = fail(ERR_FORMAT, "%s: nothing to evaluate in it", spec);
    if (st != OK) {
        sample_set_clear(out);
        return st;
    }
    sample_set_finish(out);
    return OK;
}

void sample_set_clear(struct sample_set *s)
{
    for (int i = 0; i < s->n_samples; i++) {
        free(s->samples[i].ids);
        free(s->samples[i].name);
    }
    for (int i = 0; i < s->n_items; i++) {
        free(s->items[i].id);
        free(s->items[i].group);
    }
    free(s->samples);
    free(s->items);
    free(s->name);
    *s = (struct sample_set){0};
}

/* Room for one more behind n elements: arrays double at each power of two, so no capacity is kept. */
static bool grow(void **array, int n, size_t size)
{
    if (n & (n - 1)) return true;
    void *p = realloc(*array, (size_t)(n ? 2 * n : 1) * size);
    if (p) *array = p;
    return p != NULL;
}

enum status sample_set_add(struct sample_set *s, struct sample sample)
{
    assert(sample.n >= 1 && sample.score_from >= 0 && sample.score_from <= sample.n && sample.name);
    void *samples = s->samples;
    if (!grow(&samples, s->n_samples, sizeof sample)) {
        free(sample.ids);
        free(sample.name);
        return fail(ERR_MEMORY, "no memory for %d samples", s->n_samples + 1);
    }
    s->samples = samples;
    s->samples[s->n_samples++] = sample;
    return OK;
}

enum status sample_set_add_item(struct sample_set *s, struct item item)
{
    assert(item.id && item.sample >= 0 && item.sample < s->n_samples);
    assert(item.begin >= 1 && item.begin < item.end && item.end <= s->samples[item.sample].n);
    void *items = s->items;
    if (!grow(&items, s->n_items, sizeof item)) {
        free(item.id);
        free(item.group);
        return fail(ERR_MEMORY, "no memory for %d items", s->n_items + 1);
    }
    s->items = items;
    s->items[s->n_items++] = item;
    return OK;
}

static void hash_double(struct hash *h, double v)
{
    uint64_t bits = UINT64_MAX; /* every NaN alike */
    if (!isnan(v)) memcpy(&bits, &v, sizeof bits);
    hash_add_u64(h, bits);
}

/* What is measured, not what it is called: names and ids are left out, so a renamed file is the same data. */
static void fingerprint(const struct sample_set *s, char out[HASH_HEX_SIZE])
{
    struct hash h;
    hash_init(&h);
    hash_add_u64(&h, (uint64_t)s->n_samples);
    for (int i = 0; i < s->n_samples; i++) {
        const struct sample *sample = &s->samples[i];
        hash_add_u64(&h, (uint64_t)sample->n);
        hash_add(&h, sample->ids, (size_t)sample->n * sizeof *sample->ids);
        hash_add_u64(&h, (uint64_t)sample->score_from);
    }
    hash_add_u64(&h, (uint64_t)s->n_items);
    for (int i = 0; i < s->n_items; i++) {
        const struct item *item = &s->items[i];
        const int64_t fields[] = {item->question, item->sample,  item->begin, item->end,
                                  item->gold,     item->n_bytes, item->length};
        hash_add(&h, fields, sizeof fields);
        hash_double(&h, item->depth);
        hash_add_str(&h, item->group ? item->group : "");
    }
    hash_hex(&h, out);
}

void sample_set_finish(struct sample_set *s)
{
    s->n_tokens = 0;
    for (int i = 0; i < s->n_samples; i++) s->n_tokens += s->samples[i].n;
    s->n_questions = s->n_items ? s->items[s->n_items - 1].question + 1 : 0;
    fingerprint(s, s->fingerprint);
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

/* Does the gold score stand against another candidate's? On a tie the earlier candidate wins, as argmax in
 * lm-evaluation-harness has it; a NaN never wins. */
static bool stands(double gold, double other, bool gold_first)
{
    return gold > other || (gold == other && gold_first);
}

static int per_byte(const struct item *item)
{
    return item->n_bytes > 0 ? item->n_bytes : 1;
}

static void score_choice(const struct sample_set *s, const struct token_score *const *tokens, int first,
                         int end, int gold, struct item_score *out)
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

void suite_score(const struct sample_set *s, const struct token_score *const *tokens, struct item_score *out,
                 int *question_item)
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

#include "suites/suite.h"

#include "base/hash.h"
#include "base/str.h"
#include "base/utf8.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void wanted_free(struct wanted *w)
{
    if (!w) return;
    for (int i = 0; i < w->n_answers; i++) free(w->answers[i]);
    for (int i = 0; i < w->n_stops; i++) free(w->stops[i]);
    free(w->answers);
    free(w->stops);
    free(w);
}

char *wanted_part(const struct wanted *w, const char *text)
{
    if (w->first_line)
        while (*text == '\n') text++;
    size_t len = w->first_line ? strcspn(text, "\n") : strlen(text);
    for (int i = 0; i < w->n_stops; i++) {
        const char *at = strstr(text, w->stops[i]);
        if (at && (size_t)(at - text) < len) len = (size_t)(at - text);
    }
    return str_format("%.*s", (int)len, text);
}

double wanted_score(const struct wanted *w, const char *text)
{
    char *part = wanted_part(w, text);
    double score = judge_score(w->judge, part, w->answers, w->n_answers);
    free(part);
    return score;
}

bool wanted_settled(const struct wanted *w, const char *text)
{
    for (int i = 0; i < w->n_stops; i++)
        if (strstr(text, w->stops[i])) return true;
    if (w->first_line) {
        while (*text == '\n') text++;
        return strchr(text, '\n') != NULL;
    }
    return judge_settled(w->judge, text, w->answers, w->n_answers);
}

const struct wanted *sample_wanted(const struct sample_set *s, int sample)
{
    for (int i = 0; s->samples[sample].n_prompt && i < s->n_items; i++)
        if (s->items[i].sample == sample && s->items[i].wanted) return s->items[i].wanted;
    return NULL;
}

int sample_room(const struct sample_set *s, int sample)
{
    const struct sample *x = &s->samples[sample];
    const struct wanted *w = sample_wanted(s, sample);
    return w && x->n_prompt + w->budget > x->n ? x->n_prompt + w->budget : x->n;
}

bool sample_set_writes(const struct sample_set *s)
{
    for (int i = 0; i < s->n_samples; i++)
        if (s->samples[i].n_prompt) return true;
    return false;
}

int sample_set_room(const struct sample_set *s)
{
    int most = 0;
    for (int i = 0; i < s->n_samples; i++)
        if (sample_room(s, i) > most) most = sample_room(s, i);
    return most;
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
        wanted_free(s->items[i].wanted);
    }
    free(s->samples);
    free(s->items);
    free(s->name);
    free(s->shown);
    *s = (struct sample_set){0};
}

/* Room for one more behind n elements: arrays double at each power of two, so no capacity is kept.
 */
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
    char *shown = utf8_shown(sample.name); /* it has the file's name in it */
    free(sample.name);
    sample.name = shown;
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
        wanted_free(item.wanted);
        return fail(ERR_MEMORY, "no memory for %d items", s->n_items + 1);
    }
    char *shown = utf8_shown(item.id);
    free(item.id);
    item.id = shown;
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

/* What is measured, not what it is called: names and ids are left out, so a renamed file is the
 * same data. */
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
        if (sample->n_prompt) hash_add_u64(&h, (uint64_t)sample->n_prompt);
    }
    hash_add_u64(&h, (uint64_t)s->n_items);
    for (int i = 0; i < s->n_items; i++) {
        const struct item *item = &s->items[i];
        const int64_t fields[] = {item->question, item->sample, item->begin, item->end, item->gold,
            item->n_bytes, item->length};
        hash_add(&h, fields, sizeof fields);
        hash_double(&h, item->depth);
        hash_add_str(&h, item->group ? item->group : "");
        const struct wanted *w = item->wanted;
        if (w)
            hash_add_u64(&h, (uint64_t)w->judge << 32 | (uint64_t)w->budget << 1 | w->first_line);
        for (int k = 0; w && k < w->n_answers; k++) hash_add_str(&h, w->answers[k]);
        for (int k = 0; w && k < w->n_stops; k++) hash_add_str(&h, w->stops[k]);
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

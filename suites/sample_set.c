#include "suites/suite.h"

#include "base/hash.h"
#include "base/utf8.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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
    }
    hash_add_u64(&h, (uint64_t)s->n_items);
    for (int i = 0; i < s->n_items; i++) {
        const struct item *item = &s->items[i];
        const int64_t fields[] = {item->question, item->sample, item->begin, item->end, item->gold,
            item->n_bytes, item->length};
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

#include "suites/spread.h"

#include "base/rng.h"
#include "base/xmalloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RUN = 16, THIN = 16 };

/* First owner of each run of tokens seen so far: open addressing, grown at half full. */
struct run_table {
    uint64_t *hash; /* 0: free */
    uint32_t *unit;
    size_t room, n;
};

static size_t run_place(const struct run_table *t, uint64_t hash)
{
    size_t i = hash & (t->room - 1);
    while (t->hash[i] && t->hash[i] != hash) i = (i + 1) & (t->room - 1);
    return i;
}

static void run_table_grow(struct run_table *t)
{
    struct run_table old = *t;
    t->room = old.room ? 2 * old.room : 1024;
    t->hash = xcalloc(t->room, sizeof *t->hash);
    t->unit = xcalloc(t->room, sizeof *t->unit);
    for (size_t i = 0; i < old.room; i++) {
        if (!old.hash[i]) continue;
        size_t at = run_place(t, old.hash[i]);
        t->hash[at] = old.hash[i];
        t->unit[at] = old.unit[i];
    }
    free(old.hash);
    free(old.unit);
}

static uint64_t run_hash(const int32_t *ids, int n)
{
    uint64_t h = (uint64_t)n;
    for (int i = 0; i < n; i++) {
        uint64_t state = h ^ (uint64_t)(uint32_t)ids[i];
        h = splitmix64(&state);
    }
    return h ? h : 1;
}

/* Runs of one unit, thinned by their own hash, so that the same run is kept wherever it stands. */
static size_t unit_runs(const int32_t *ids, int n, bool equal, uint64_t *out)
{
    size_t kept = 0;
    if (equal || n < 4 * RUN) {
        out[0] = run_hash(ids, n);
        return 1;
    }
    for (int i = 0; i + RUN <= n; i++) {
        uint64_t h = run_hash(ids + i, RUN);
        if (n < RUN * THIN || h / 7 % THIN == 0) out[kept++] = h;
    }
    return kept;
}

void spread_find_repeats(
    struct spread_unit *units, const int32_t *const *ids, const int *lengths, size_t n, bool equal)
{
    struct run_table t = {0};
    uint32_t *hits = xcalloc(n + 1, sizeof *hits);
    int longest = 1;
    for (size_t i = 0; i < n; i++) longest = lengths[i] > longest ? lengths[i] : longest;
    uint64_t *runs = xmalloc((size_t)longest * sizeof *runs);
    for (size_t i = 0; i < n; i++) {
        size_t n_runs = unit_runs(ids[i], lengths[i], equal, runs), shared = 0;
        while (2 * (t.n + n_runs) > t.room) run_table_grow(&t);
        for (size_t k = 0; k < n_runs; k++) {
            size_t at = run_place(&t, runs[k]);
            if (t.hash[at] && t.unit[at] < i && ++hits[t.unit[at]] > shared)
                shared = hits[t.unit[at]];
        }
        for (size_t k = 0; k < n_runs; k++) {
            size_t at = run_place(&t, runs[k]);
            if (t.hash[at] && t.unit[at] < i) hits[t.unit[at]] = 0;
        }
        units[i].repeats = 4 * shared > n_runs;
        for (size_t k = 0; k < n_runs && !units[i].repeats; k++) {
            size_t at = run_place(&t, runs[k]);
            if (t.hash[at]) continue;
            t.hash[at] = runs[k];
            t.unit[at] = (uint32_t)i;
            t.n++;
        }
    }
    free(t.hash);
    free(t.unit);
    free(hits);
    free(runs);
}

/* Multiples of the golden ratio fall into the largest gaps one after the other. */
static double golden(size_t k) { return fmod((double)(k + 1) * .6180339887498949, 1); }

static void order_for_tuning(size_t *chosen, size_t n)
{
    size_t *sorted = xmalloc((n + 1) * sizeof *sorted);
    bool *used = xcalloc(n + 1, sizeof *used);
    memcpy(sorted, chosen, n * sizeof *sorted);
    for (size_t k = 0; k < n; k++) {
        size_t at = (size_t)(golden(k) * (double)n);
        while (used[at]) at = (at + 1) % n;
        used[at] = true;
        chosen[k] = sorted[at];
    }
    free(sorted);
    free(used);
}

static size_t candidates(const struct spread_unit *units, size_t n, int side, size_t *out)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (!units[i].repeats && (side < 0 || (int)units[i].side == side)) out[kept++] = i;
    return kept;
}

size_t spread_choose(const struct spread_unit *units, size_t n, const struct suite_options *o,
    size_t *chosen, bool *shared)
{
    size_t want = (size_t)o->num_samples, *all = xmalloc((n + 1) * sizeof *all);
    bool whole = !o->tuning && !want;
    size_t found = candidates(units, n,
        whole           ? -1
            : o->tuning ? SPREAD_TUNING
                        : SPREAD_EVALUATION,
        all);
    *shared = whole || (o->tuning ? found == 0 : found < want);
    if (*shared) found = candidates(units, n, -1, all);
    if (!want || want > found) want = found;
    struct rng r;
    rng_init(&r, o->seed);
    for (size_t k = 0; k < want; k++) {
        size_t from = k * found / want, to = (k + 1) * found / want;
        chosen[k] =
            all[o->seed ? from + rng_below(&r, (uint32_t)(to - from)) : (from + to - 1) / 2];
    }
    if (o->tuning) order_for_tuning(chosen, want);
    free(all);
    return want;
}

/* Take the chosen questions over, in the order of the file: their samples, their items, their
 * numbers. */
static void keep_questions(struct sample_set *s, const bool *keep)
{
    int n_samples = 0, n_items = 0, question = -1, last = -1;
    int *place = xmalloc(((size_t)s->n_samples + 1) * sizeof *place);
    for (int i = 0; i < s->n_samples; i++) place[i] = -1;
    for (int i = 0; i < s->n_items; i++) {
        struct item item = s->items[i];
        int sample = item.sample;
        if (!keep[item.question]) {
            free(item.id);
            free(item.group);
            wanted_free(item.wanted);
            continue;
        }
        if (item.question != last) question++;
        last = item.question;
        item.question = question;
        if (place[sample] < 0) {
            place[sample] = n_samples;
            struct sample moved = s->samples[sample];
            /* samples stand in the order of their items */
            s->samples[sample] = s->samples[n_samples];
            s->samples[n_samples++] = moved;
        }
        item.sample = place[sample];
        s->items[n_items++] = item;
    }
    for (int i = n_samples; i < s->n_samples; i++) {
        free(s->samples[i].ids);
        free(s->samples[i].name);
    }
    s->n_samples = n_samples;
    s->n_items = n_items;
    free(place);
}

enum status spread_questions(struct sample_set *s, const struct suite_options *o)
{
    size_t n = 0, n_chosen;
    for (int i = 0; i < s->n_items; i++) n = (size_t)s->items[i].question + 1;
    struct spread_unit *units = calloc(n + 1, sizeof *units);
    const int32_t **ids = calloc(n + 1, sizeof *ids);
    int *lengths = calloc(n + 1, sizeof *lengths);
    size_t *chosen = calloc(n + 1, sizeof *chosen);
    bool *keep = calloc(n + 1, sizeof *keep);
    enum status st = units && ids && lengths && chosen && keep
        ? OK
        : fail(ERR_MEMORY, "no memory for %zu questions", n);
    if (st == OK) {
        for (int i = 0; i < s->n_items; i++) { /* a question is its right answer in its context */
            size_t q = (size_t)s->items[i].question;
            units[q].side = q % 2 ? SPREAD_TUNING : SPREAD_EVALUATION;
            if (!s->items[i].gold) continue;
            ids[q] = s->samples[s->items[i].sample].ids;
            lengths[q] = s->samples[s->items[i].sample].n;
        }
        spread_find_repeats(units, ids, lengths, n, true);
        for (size_t q = 0; q < n; q++) s->n_repeated += units[q].repeats;
        n_chosen = spread_choose(units, n, o, chosen, &s->shared);
        for (size_t k = 0; k < n_chosen; k++) keep[chosen[k]] = true;
        keep_questions(s, keep);
    }
    free(units);
    free(ids);
    free(lengths);
    free(chosen);
    free(keep);
    return st;
}

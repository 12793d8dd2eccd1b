#include "suites/chronicle_writer.h"

#include "base/xmalloc.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

const char *writer_pick(struct writer *w, const struct words *list)
{
    return list->item[rng_below(&w->rng, list->n)];
}

bool writer_chance(struct writer *w, int percent) { return (int)rng_below(&w->rng, 100) < percent; }

static void emit(struct writer *w, const char *s, size_t len)
{
    if (len == 0) return;
    size_t at = w->text->len;
    str_add_bytes(w->text, s, len);
    char *c = &w->text->data[at];
    if (w->capital && *c >= 'a' && *c <= 'z') *c = (char)(*c - 'a' + 'A');
    w->capital = false;
}

void writer_add(struct writer *w, const char *s) { emit(w, s, strlen(s)); }

void writer_add_person(struct writer *w, int i) { writer_add(w, w->first[i]); }

static void emit_object(struct writer *w, const struct fact *f)
{
    switch (f->kind) {
    case CHRONICLE_LEFT:
        writer_add(w, words_thing_adj.item[w->object[f->object] / words_thing.n]);
        writer_add(w, " ");
        writer_add(w, words_thing.item[w->object[f->object] % words_thing.n]);
        break;
    case CHRONICLE_CODE: writer_add(w, words_box.item[f->object]); break;
    case CHRONICLE_PAID: writer_add(w, words_goods.item[f->object]); break;
    case CHRONICLE_DATE: writer_add(w, words_event.item[f->object]); break;
    case CHRONICLE_WHO: writer_add(w, words_deed_thing.item[f->object]); break;
    default: assert(!"this kind has no {o}");
    }
}

/* Replace one {letter}. The scenery letters are listed at patterns_filler, the fact letters at
 * left_state. */
void writer_slot(struct writer *w, char slot)
{
    const struct fact *f = w->fact;
    switch (slot) {
    case 'A': writer_add_person(w, w->person_a); break;
    case 'B': writer_add_person(w, w->person_b); break;
    case 'T': writer_add(w, writer_pick(w, &words_trade)); break;
    case 'M': w->capital = true; /* fall through */
    case 'm': writer_add(w, writer_pick(w, &words_mood)); break;
    case 'S': w->capital = true; /* fall through */
    case 's': writer_add(w, writer_pick(w, &words_season)); break;
    case 'Z': w->capital = true; /* fall through */
    case 'z': writer_add(w, writer_pick(w, &words_saying)); break;
    case 'n': writer_add(w, w->village[rng_below(&w->rng, (uint32_t)w->n_villages)]); break;
    case 'w': writer_add(w, writer_pick(w, &words_weather)); break;
    case 't': writer_add(w, writer_pick(w, &words_time)); break;
    case 'b': writer_add(w, writer_pick(w, &words_beast)); break;
    case 'f': writer_add(w, writer_pick(w, &words_food)); break;
    case 'd': writer_add(w, writer_pick(w, &words_manner)); break;
    case 'r': writer_add(w, writer_pick(w, &words_nature)); break;
    case 'x': writer_add(w, writer_pick(w, &words_tool)); break;
    case 'k': w->key ? writer_add(w, w->key) : writer_add(w, writer_pick(w, &words_colour)); break;
    case '#': writer_add(w, writer_pick(w, &words_count)); break;
    case 'a': writer_expand(w, writer_pick(w, &words_act)); break;
    case 'p': writer_add_person(w, f->subject); break;
    case 'o': emit_object(w, f); break;
    case 'q':
        if (f->kind == CHRONICLE_GIFT) writer_add_person(w, f->object);
        else writer_add(w, words_deed.item[f->subject]);
        break;
    case 'v':
        w->capital = false;
        w->value_begin = w->text->len;
        writer_add(w, w->needle ? w->needle : f->value);
        break;
    case 'Q':
        w->capital = true;
        writer_expand(w, writer_pick(w, &patterns_fact[f->kind].ask));
        break;
    case 'i': writer_expand(w, writer_pick(w, &patterns_fact[f->kind].indirect)); break;
    default: assert(!"unknown slot in a pattern");
    }
}

void writer_expand(struct writer *w, const char *pattern)
{
    for (;;) {
        const char *open = strchr(pattern, '{');
        if (!open) {
            writer_add(w, pattern);
            return;
        }
        emit(w, pattern, (size_t)(open - pattern));
        writer_slot(w, open[1]);
        pattern = open + 3;
    }
}

int writer_other_person(struct writer *w, int than)
{
    return (than + 1 + (int)rng_below(&w->rng, (uint32_t)w->n_people - 1)) % w->n_people;
}

/* A sentence: begins with a capital, and its {A} and {B} are two people. */
void writer_sentence(struct writer *w, const struct words *patterns)
{
    w->person_a = (int)rng_below(&w->rng, (uint32_t)w->n_people);
    w->person_b = writer_other_person(w, w->person_a);
    w->capital = true;
    writer_expand(w, writer_pick(w, patterns));
}

/* head + tail, lower-case tail. */
void writer_join_name(
    struct writer *w, char out[NAME_BYTES], const struct words *head, const struct words *tail)
{
    const char *a = writer_pick(w, head), *b = writer_pick(w, tail);
    size_t na = strlen(a), nb = strlen(b);
    assert(na + nb < NAME_BYTES);
    memcpy(out, a, na);
    memcpy(out + na, b, nb);
    out[na + nb] = 0;
}

void writer_first_name(struct writer *w, char out[NAME_BYTES])
{
    if (writer_chance(w, 40)) strcpy(out, writer_pick(w, &words_first));
    else writer_join_name(w, out, &words_first_head, &words_first_tail);
}

bool writer_name_taken(const struct writer *w, const char *name)
{
    for (int i = 0; i < w->n_people; i++)
        if (strcmp(w->first[i], name) == 0) return true;
    return false;
}

void writer_make_people(struct writer *w, int n)
{
    for (w->n_people = 0; w->n_people < n; w->n_people++) {
        do writer_first_name(w, w->first[w->n_people]);
        while (writer_name_taken(w, w->first[w->n_people]));
        writer_join_name(w, w->surname[w->n_people], &words_surname_head, &words_surname_tail);
    }
}

void writer_make_villages(struct writer *w, int n)
{
    for (w->n_villages = 0; w->n_villages < n;) {
        char *name = w->village[w->n_villages];
        writer_join_name(w, name, &words_village_head, &words_village_tail);
        bool taken = false;
        for (int i = 0; i < w->n_villages; i++) taken |= strcmp(w->village[i], name) == 0;
        if (!taken) w->n_villages++;
    }
}

void fact_add_text(struct fact *f, const char *part)
{
    size_t at = strlen(f->value), n = strlen(part);
    assert(at + n < VALUE_BYTES);
    memcpy(f->value + at, part, n + 1);
}

void fact_add_number(struct fact *f, uint32_t number)
{
    char digits[12];
    int at = sizeof digits - 1;
    digits[at] = 0;
    do digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    fact_add_text(f, digits + at);
}

void writer_filler(struct writer *w)
{
    writer_sentence(w, writer_chance(w, 85) ? &patterns_filler : &patterns_speech);
}

void writer_add_question(struct writer *w, size_t query_begin, size_t value_len, size_t evidence,
    enum chronicle_kind kind)
{
    struct chronicle_doc *doc = w->doc;
    if (doc->n_questions == doc->cap_questions) {
        doc->cap_questions = doc->cap_questions ? 2 * doc->cap_questions : 64;
        doc->questions = xrealloc(doc->questions, doc->cap_questions * sizeof *doc->questions);
    }
    doc->questions[doc->n_questions++] = (struct chronicle_question){
        .query_begin = query_begin,
        .answer_begin = w->value_begin,
        .answer_end = w->value_begin + value_len,
        .evidence_begin = evidence,
        .kind = kind,
    };
}

void writer_init(struct writer *w, struct chronicle_doc *doc, uint64_t stream)
{
    memset(w, 0, sizeof *w);
    rng_init(&w->rng, stream);
    w->doc = doc;
    w->text = &doc->text;
    str_reset(&doc->text);
    doc->n_questions = 0;
}

void writer_clear(struct writer *w)
{
    free(w->facts);
    free(w->pending);
}

uint64_t chronicle_stream_seed(enum chronicle_split split, uint64_t seed, uint32_t domain)
{
    uint64_t state = seed;
    state = splitmix64(&state) ^ ((uint64_t)domain << 32);
    return (splitmix64(&state) & ~(uint64_t)1) | (split == CHRONICLE_EVAL);
}

enum status chronicle_check_range(const char *field, uint64_t v, uint64_t lo, uint64_t hi)
{
    if (v >= lo && v <= hi) return OK;
    return fail(ERR_ARG, "chronicle: %s is %llu, expected %llu to %llu", field,
        (unsigned long long)v, (unsigned long long)lo, (unsigned long long)hi);
}

void chronicle_doc_clear(struct chronicle_doc *doc)
{
    str_clear(&doc->text);
    free(doc->questions);
    *doc = (struct chronicle_doc){0};
}

const char *chronicle_kind_name(enum chronicle_kind kind)
{
    static const char *const names[CHRONICLE_KINDS] = {
        "left", "secret", "code", "paid", "date", "who", "gift", "boat", "needle"};
    return (unsigned)kind < CHRONICLE_KINDS ? names[kind] : "?";
}

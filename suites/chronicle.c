#include "suites/chronicle.h"

#include "base/rng.h"
#include "suites/chronicle_words.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_BYTES = 24,
    VALUE_BYTES = 48,
    MAX_PEOPLE = 48,
    MAX_VILLAGES = 16,
    MAX_OBJECTS = 20,
    REFRAIN_LINES = 4,
    QUESTION_BYTES = 72, /* a typical line of the final batch, for planning only */
    SOON_BYTES = 160,    /* a fact is not asked for closer than this */
};

struct fact {
    int subject;           /* person, or deed for CHRONICLE_WHO */
    int object;            /* object, box, goods, event, person (gift) or thing (who) */
    uint32_t value_id;     /* equal ids would mean equal answers of that kind */
    size_t evidence_begin; /* byte offset in the text */
    bool kept_for_end;
    char value[VALUE_BYTES];
    enum chronicle_kind kind;
};

/* One document being written. */
struct writer {
    struct rng rng;
    struct chronicle_doc *doc;
    struct str *text;
    char first[MAX_PEOPLE][NAME_BYTES], surname[MAX_PEOPLE][NAME_BYTES];
    char village[MAX_VILLAGES][NAME_BYTES];
    uint32_t object[MAX_OBJECTS]; /* adjective * n_things + thing */
    char refrain[REFRAIN_LINES][160];
    int n_people, n_villages, n_objects, n_chapters;
    struct fact *facts; /* all that were stated */
    int n_facts, cap_facts;
    int *pending; /* indices of those not asked yet, unordered */
    int n_pending;
    const struct fact *fact;  /* the one the pattern speaks of, or NULL */
    size_t value_begin;       /* where its value was last written */
    int person_a, person_b;   /* {A} and {B} of the present sentence */
    bool capital;             /* the next expansion starts a sentence */
    const char *key, *needle; /* needle documents */
};

static const char *pick(struct writer *w, const struct words *list) { return list->item[rng_below(&w->rng, list->n)]; }

static bool chance(struct writer *w, int percent) { return (int)rng_below(&w->rng, 100) < percent; }

static void emit(struct writer *w, const char *s, size_t len)
{
    if (len == 0) return;
    size_t at = w->text->len;
    str_add_bytes(w->text, s, len);
    char *c = &w->text->data[at];
    if (w->capital && *c >= 'a' && *c <= 'z') *c = (char)(*c - 'a' + 'A');
    w->capital = false;
}

static void expand(struct writer *w, const char *pattern);

static void emit_word(struct writer *w, const char *s) { emit(w, s, strlen(s)); }

static void emit_person(struct writer *w, int i) { emit_word(w, w->first[i]); }

static void emit_object(struct writer *w, const struct fact *f)
{
    switch (f->kind) {
    case CHRONICLE_LEFT:
        emit_word(w, words_thing_adj.item[w->object[f->object] / words_thing.n]);
        emit_word(w, " ");
        emit_word(w, words_thing.item[w->object[f->object] % words_thing.n]);
        break;
    case CHRONICLE_CODE: emit_word(w, words_box.item[f->object]); break;
    case CHRONICLE_PAID: emit_word(w, words_goods.item[f->object]); break;
    case CHRONICLE_DATE: emit_word(w, words_event.item[f->object]); break;
    case CHRONICLE_WHO: emit_word(w, words_deed_thing.item[f->object]); break;
    default: assert(!"this kind has no {o}");
    }
}

/* Replace one {letter}. The scenery letters are listed at patterns_filler, the fact letters at left_state. */
static void expand_slot(struct writer *w, char slot)
{
    const struct fact *f = w->fact;
    switch (slot) {
    case 'A': emit_person(w, w->person_a); break;
    case 'B': emit_person(w, w->person_b); break;
    case 'T': emit_word(w, pick(w, &words_trade)); break;
    case 'M': w->capital = true; /* fall through */
    case 'm': emit_word(w, pick(w, &words_mood)); break;
    case 'S': w->capital = true; /* fall through */
    case 's': emit_word(w, pick(w, &words_season)); break;
    case 'Z': w->capital = true; /* fall through */
    case 'z': emit_word(w, pick(w, &words_saying)); break;
    case 'n': emit_word(w, w->village[rng_below(&w->rng, (uint32_t)w->n_villages)]); break;
    case 'w': emit_word(w, pick(w, &words_weather)); break;
    case 't': emit_word(w, pick(w, &words_time)); break;
    case 'b': emit_word(w, pick(w, &words_beast)); break;
    case 'f': emit_word(w, pick(w, &words_food)); break;
    case 'd': emit_word(w, pick(w, &words_manner)); break;
    case 'r': emit_word(w, pick(w, &words_nature)); break;
    case 'x': emit_word(w, pick(w, &words_tool)); break;
    case 'k': w->key ? emit_word(w, w->key) : emit_word(w, pick(w, &words_colour)); break;
    case '#': emit_word(w, pick(w, &words_count)); break;
    case 'a': expand(w, pick(w, &words_act)); break;
    case 'p': emit_person(w, f->subject); break;
    case 'o': emit_object(w, f); break;
    case 'q':
        if (f->kind == CHRONICLE_GIFT) emit_person(w, f->object);
        else emit_word(w, words_deed.item[f->subject]);
        break;
    case 'v':
        w->capital = false;
        w->value_begin = w->text->len;
        emit_word(w, w->needle ? w->needle : f->value);
        break;
    case 'Q': w->capital = true; expand(w, pick(w, &patterns_fact[f->kind].ask)); break;
    case 'i': expand(w, pick(w, &patterns_fact[f->kind].indirect)); break;
    default: assert(!"unknown slot in a pattern");
    }
}

static void expand(struct writer *w, const char *pattern)
{
    for (;;) {
        const char *open = strchr(pattern, '{');
        if (!open) {
            emit_word(w, pattern);
            return;
        }
        emit(w, pattern, (size_t)(open - pattern));
        expand_slot(w, open[1]);
        pattern = open + 3;
    }
}

static int other_person(struct writer *w, int than)
{
    return (than + 1 + (int)rng_below(&w->rng, (uint32_t)w->n_people - 1)) % w->n_people;
}

/* A sentence: begins with a capital, and its {A} and {B} are two people. */
static void sentence(struct writer *w, const struct words *patterns)
{
    w->person_a = (int)rng_below(&w->rng, (uint32_t)w->n_people);
    w->person_b = other_person(w, w->person_a);
    w->capital = true;
    expand(w, pick(w, patterns));
}

/* head + tail, lower-case tail. */
static void join_name(struct writer *w, char out[NAME_BYTES], const struct words *head, const struct words *tail)
{
    const char *a = pick(w, head), *b = pick(w, tail);
    size_t na = strlen(a), nb = strlen(b);
    assert(na + nb < NAME_BYTES);
    memcpy(out, a, na);
    memcpy(out + na, b, nb + 1);
}

static void make_first_name(struct writer *w, char out[NAME_BYTES])
{
    if (chance(w, 40)) strcpy(out, pick(w, &words_first));
    else join_name(w, out, &words_first_head, &words_first_tail);
}

static bool name_taken(const struct writer *w, const char *name)
{
    for (int i = 0; i < w->n_people; i++)
        if (strcmp(w->first[i], name) == 0) return true;
    return false;
}

static void make_people(struct writer *w, int n)
{
    for (w->n_people = 0; w->n_people < n; w->n_people++) {
        do make_first_name(w, w->first[w->n_people]);
        while (name_taken(w, w->first[w->n_people]));
        join_name(w, w->surname[w->n_people], &words_surname_head, &words_surname_tail);
    }
}

static void make_villages(struct writer *w, int n)
{
    for (w->n_villages = 0; w->n_villages < n;) {
        char *name = w->village[w->n_villages];
        join_name(w, name, &words_village_head, &words_village_tail);
        bool taken = false;
        for (int i = 0; i < w->n_villages; i++) taken |= strcmp(w->village[i], name) == 0;
        if (!taken) w->n_villages++;
    }
}

static bool object_taken(const struct writer *w, uint32_t id)
{
    for (int i = 0; i < w->n_objects; i++)
        if (w->object[i] == id) return true;
    return false;
}

static uint32_t random_object(struct writer *w) { return rng_below(&w->rng, words_thing_adj.n * words_thing.n); }

static int clamp(size_t v, int lo, int hi) { return v < (size_t)lo ? lo : v > (size_t)hi ? hi : (int)v; }

static void make_world(struct writer *w, size_t target)
{
    make_people(w, clamp(target / 1100, 5, MAX_PEOPLE));
    make_villages(w, clamp(target / 2400, 5, MAX_VILLAGES));
    int n = clamp(target / 2600, 4, MAX_OBJECTS);
    while (w->n_objects < n) {
        uint32_t id = random_object(w);
        if (!object_taken(w, id)) w->object[w->n_objects++] = id;
    }
    struct str line = {0}, *text = w->text;
    w->text = &line;
    for (int i = 0; i < REFRAIN_LINES; i++) {
        str_reset(&line);
        const struct words pair = {&patterns_refrain.item[2 * i], 2};
        sentence(w, &pair);
        assert(line.len < sizeof w->refrain[i]);
        memcpy(w->refrain[i], line.data, line.len + 1);
    }
    str_clear(&line);
    w->text = text;
}

/* Add `part`, with the article "a" or "an" in front when asked. */
static void value_add(struct fact *f, const char *part)
{
    size_t at = strlen(f->value), n = strlen(part);
    assert(at + n < VALUE_BYTES);
    memcpy(f->value + at, part, n + 1);
}

static void value_add_number(struct fact *f, uint32_t number)
{
    char digits[12];
    int at = sizeof digits - 1;
    digits[at] = 0;
    do digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    value_add(f, digits + at);
}

/* Draw the answer of `f`; its id is unique among equal answers of the kind. */
static void draw_value(struct writer *w, struct fact *f)
{
    uint32_t a, b;
    f->value[0] = 0;
    switch (f->kind) {
    case CHRONICLE_LEFT:
        a = rng_below(&w->rng, words_site.n), b = rng_below(&w->rng, (uint32_t)w->n_villages);
        f->value_id = a * MAX_VILLAGES + b;
        value_add(f, "the ");
        value_add(f, words_site.item[a]);
        value_add(f, " at ");
        value_add(f, w->village[b]);
        break;
    case CHRONICLE_SECRET:
        a = rng_below(&w->rng, words_secret_adj.n), b = rng_below(&w->rng, words_secret_noun.n);
        f->value_id = a * words_secret_noun.n + b;
        value_add(f, words_secret_adj.item[a]);
        value_add(f, " ");
        value_add(f, words_secret_noun.item[b]);
        break;
    case CHRONICLE_CODE:
        f->value_id = 10000 + rng_below(&w->rng, 90000);
        value_add_number(f, f->value_id);
        break;
    case CHRONICLE_PAID:
        a = 100 + rng_below(&w->rng, 900), b = rng_below(&w->rng, words_coin.n);
        f->value_id = a * words_coin.n + b;
        value_add_number(f, a);
        value_add(f, " ");
        value_add(f, words_coin.item[b]);
        break;
    case CHRONICLE_DATE:
        a = rng_below(&w->rng, words_ordinal.n), b = rng_below(&w->rng, words_month.n);
        f->value_id = a * words_month.n + b;
        value_add(f, "the ");
        value_add(f, words_ordinal.item[a]);
        value_add(f, " of ");
        value_add(f, words_month.item[b]);
        break;
    case CHRONICLE_WHO: {
        /* The first name may be a relative's of nobody here: it must not be one of the cast's. */
        char first[NAME_BYTES], last[NAME_BYTES];
        do make_first_name(w, first);
        while (name_taken(w, first));
        join_name(w, last, &words_surname_head, &words_surname_tail);
        value_add(f, first);
        value_add(f, " ");
        value_add(f, last);
        f->value_id = 0;
        for (const char *c = f->value; *c; c++) f->value_id = f->value_id * 31 + (unsigned char)*c;
        break;
    }
    case CHRONICLE_GIFT: {
        do f->value_id = random_object(w);
        while (object_taken(w, f->value_id));
        const char *adj = words_thing_adj.item[f->value_id / words_thing.n];
        value_add(f, strchr("aeiou", adj[0]) ? "an " : "a ");
        value_add(f, adj);
        value_add(f, " ");
        value_add(f, words_thing.item[f->value_id % words_thing.n]);
        break;
    }
    case CHRONICLE_BOAT:
        a = rng_below(&w->rng, words_boat_adj.n), b = rng_below(&w->rng, words_boat_noun.n);
        f->value_id = a * words_boat_noun.n + b;
        value_add(f, "the ");
        value_add(f, words_boat_adj.item[a]);
        value_add(f, " ");
        value_add(f, words_boat_noun.item[b]);
        break;
    default: assert(!"not a kind of fact");
    }
}

static void draw_key(struct writer *w, struct fact *f)
{
    uint32_t people = (uint32_t)w->n_people;
    f->subject = (int)rng_below(&w->rng, people);
    f->object = 0;
    switch (f->kind) {
    case CHRONICLE_LEFT: f->object = (int)rng_below(&w->rng, (uint32_t)w->n_objects); break;
    case CHRONICLE_CODE: f->object = (int)rng_below(&w->rng, words_box.n); break;
    case CHRONICLE_PAID: f->object = (int)rng_below(&w->rng, words_goods.n); break;
    case CHRONICLE_DATE: f->object = (int)rng_below(&w->rng, words_event.n); break;
    case CHRONICLE_WHO:
        f->subject = (int)rng_below(&w->rng, words_deed.n);
        f->object = (int)rng_below(&w->rng, words_deed_thing.n);
        break;
    case CHRONICLE_GIFT:
        f->object = other_person(w, f->subject);
        break;
    default: break;
    }
}

/* A new fact with an unused key and an unused answer, or NULL when this kind seems used up here. */
static struct fact *new_fact(struct writer *w, enum chronicle_kind kind)
{
    struct fact f = {.kind = kind};
    for (int tries = 0; tries < 8; tries++) {
        draw_key(w, &f);
        draw_value(w, &f);
        bool taken = false;
        for (int i = 0; i < w->n_facts && !taken; i++) {
            const struct fact *g = &w->facts[i];
            taken = g->kind == kind && ((g->subject == f.subject && g->object == f.object) || g->value_id == f.value_id);
        }
        if (taken) continue;
        if (w->n_facts == w->cap_facts) {
            w->cap_facts = w->cap_facts ? 2 * w->cap_facts : 64;
            w->facts = realloc(w->facts, (size_t)w->cap_facts * sizeof *w->facts);
            w->pending = realloc(w->pending, (size_t)w->cap_facts * sizeof *w->pending);
            if (!w->facts || !w->pending) abort();
        }
        f.kept_for_end = chance(w, 45);
        w->facts[w->n_facts] = f;
        w->pending[w->n_pending++] = w->n_facts;
        return &w->facts[w->n_facts++];
    }
    return NULL;
}

static void filler(struct writer *w) { sentence(w, chance(w, 85) ? &patterns_filler : &patterns_speech); }

/* State a new fact of `kind`, or say something idle when none is left. */
static void state_fact(struct writer *w, enum chronicle_kind kind)
{
    struct fact *f = new_fact(w, kind);
    if (!f) {
        filler(w);
        return;
    }
    f->evidence_begin = w->text->len;
    w->fact = f;
    sentence(w, &patterns_fact[kind].state);
}

static enum chronicle_kind random_kind(struct writer *w)
{
    static const unsigned char kinds[] = {CHRONICLE_LEFT, CHRONICLE_LEFT, CHRONICLE_LEFT, CHRONICLE_SECRET,
                                          CHRONICLE_CODE, CHRONICLE_PAID, CHRONICLE_PAID, CHRONICLE_DATE,
                                          CHRONICLE_WHO,  CHRONICLE_GIFT, CHRONICLE_GIFT, CHRONICLE_BOAT};
    return kinds[rng_below(&w->rng, sizeof kinds)];
}

static void add_question(struct writer *w, size_t query_begin, size_t value_len, size_t evidence, enum chronicle_kind kind)
{
    struct chronicle_doc *doc = w->doc;
    if (doc->n_questions == doc->cap_questions) {
        doc->cap_questions = doc->cap_questions ? 2 * doc->cap_questions : 64;
        doc->questions = realloc(doc->questions, doc->cap_questions * sizeof *doc->questions);
        if (!doc->questions) abort();
    }
    doc->questions[doc->n_questions++] = (struct chronicle_question){
        .query_begin = query_begin,
        .answer_begin = w->value_begin,
        .answer_end = w->value_begin + value_len,
        .evidence_begin = evidence,
        .kind = kind,
    };
}

/* Take one pending fact out; NULL when none may be asked now. */
static const struct fact *take_pending(struct writer *w, bool at_end)
{
    for (int tries = 0; tries < 6 && w->n_pending > 0; tries++) {
        int slot = (int)rng_below(&w->rng, (uint32_t)w->n_pending);
        const struct fact *f = &w->facts[w->pending[slot]];
        if (!at_end && (f->kept_for_end || w->text->len - f->evidence_begin < SOON_BYTES)) continue;
        w->pending[slot] = w->pending[--w->n_pending];
        return f;
    }
    return NULL;
}

static void ask(struct writer *w, const struct fact *f, void (*form)(struct writer *))
{
    size_t begin = w->text->len;
    w->fact = f;
    form(w);
    add_question(w, begin, strlen(f->value), f->evidence_begin, f->kind);
}

static void form_exam(struct writer *w)
{
    emit_word(w, "Question: ");
    expand_slot(w, 'Q');
    expand(w, " Answer: {v}.\n");
}

static void form_talk(struct writer *w)
{
    sentence(w, &patterns_ask);
    emit_word(w, " ");
    expand(w, pick(w, &patterns_reply));
}

static void form_recall(struct writer *w) { sentence(w, &patterns_fact[w->fact->kind].recall); }

static void form_letter(struct writer *w)
{
    expand(w, "You asked me {i}. It was {v}.");
}

static void scene(struct writer *w)
{
    for (int n = rng_range(&w->rng, 3, 6), i = 0; i < n; i++) {
        if (i) emit_word(w, " ");
        uint32_t what = rng_below(&w->rng, 100);
        const struct fact *f = what < 22 ? take_pending(w, false) : NULL;
        if (f) ask(w, f, what < 15 ? form_recall : form_talk);
        else if (what < 66) state_fact(w, random_kind(w));
        else filler(w);
    }
    emit_word(w, "\n\n");
}

static void letter(struct writer *w)
{
    int from = (int)rng_below(&w->rng, (uint32_t)w->n_people);
    int to = other_person(w, from);
    emit_word(w, "Dear ");
    emit_person(w, to);
    emit_word(w, ",\n");
    sentence(w, &patterns_letter_open);
    for (int i = 0; i < 2; i++) {
        const struct fact *f = take_pending(w, false);
        emit_word(w, " ");
        if (f) ask(w, f, form_letter);
        else state_fact(w, random_kind(w));
    }
    emit_word(w, " ");
    state_fact(w, random_kind(w));
    emit_word(w, " ");
    sentence(w, &patterns_letter_close);
    emit_word(w, "\nYour ");
    emit_person(w, from);
    emit_word(w, " ");
    emit_word(w, w->surname[from]);
    emit_word(w, "\n\n");
}

static void ledger(struct writer *w)
{
    expand(w, "From the ledger of the {T} of {n}:\n");
    for (int n = rng_range(&w->rng, 3, 6), i = 0; i < n; i++) {
        struct fact *f = new_fact(w, CHRONICLE_PAID);
        if (!f) break;
        f->evidence_begin = w->text->len;
        w->fact = f;
        expand(w, "{p} for {o}: {v}.\n");
    }
    emit_word(w, "\n");
}

static void diary(struct writer *w)
{
    sentence(w, &patterns_diary);
    emit_word(w, " ");
    filler(w);
    emit_word(w, " ");
    state_fact(w, random_kind(w));
    emit_word(w, "\n\n");
}

static void exam(struct writer *w)
{
    for (int n = rng_range(&w->rng, 2, 4), i = 0; i < n; i++) {
        const struct fact *f = take_pending(w, false);
        if (f) ask(w, f, form_exam);
        else if (i == 0) filler(w), emit_word(w, "\n");
    }
    emit_word(w, "\n");
}

static void refrain(struct writer *w)
{
    for (int i = 0; i < REFRAIN_LINES; i++) {
        emit_word(w, w->refrain[i]);
        emit_word(w, "\n");
    }
    emit_word(w, "\n");
}

static void chapter(struct writer *w)
{
    str_addf(w->text, "Chapter %d. ", ++w->n_chapters);
    sentence(w, &patterns_chapter);
    emit_word(w, "\n\n");
}

static void introduce(struct writer *w)
{
    expand(w, "This is the chronicle of {n}, and of ");
    int n = w->n_people < 6 ? w->n_people : 6;
    for (int i = 0; i < n; i++) {
        emit_word(w, i == 0 ? "" : i + 1 == n ? " and " : ", ");
        emit_person(w, i);
        emit_word(w, " ");
        emit_word(w, w->surname[i]);
    }
    emit_word(w, ".\n\n");
}

static void section(struct writer *w)
{
    uint32_t what = rng_below(&w->rng, 100);
    if (what < 56) scene(w);
    else if (what < 67) letter(w);
    else if (what < 73) ledger(w);
    else if (what < 82) diary(w);
    else if (what < 95) exam(w);
    else refrain(w);
}

static void writer_init(struct writer *w, struct chronicle_doc *doc, uint64_t stream)
{
    memset(w, 0, sizeof *w);
    rng_init(&w->rng, stream);
    w->doc = doc;
    w->text = &doc->text;
    str_reset(&doc->text);
    doc->n_questions = 0;
}

static void writer_clear(struct writer *w)
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

static enum status check_range(const char *field, uint64_t v, uint64_t lo, uint64_t hi)
{
    if (v >= lo && v <= hi) return OK;
    return fail(ERR_ARG, "chronicle: %s is %llu, expected %llu to %llu", field, (unsigned long long)v,
                (unsigned long long)lo, (unsigned long long)hi);
}

enum status chronicle_write(const struct chronicle_config *config, struct chronicle_doc *doc)
{
    size_t target = config->target_bytes;
    TRY(check_range("target_bytes", target, 600, (size_t)4 << 20));
    struct writer w;
    writer_init(&w, doc, chronicle_stream_seed(config->split, config->seed, 1));
    str_reserve(w.text, target + 4096);
    make_world(&w, target);
    introduce(&w);
    size_t next_chapter = w.text->len;
    while (w.text->len + (size_t)w.n_pending * QUESTION_BYTES + 120 < target) {
        if (w.text->len >= next_chapter) {
            chapter(&w);
            next_chapter = w.text->len + 2000 + rng_below(&w.rng, 2500);
        }
        section(&w);
    }
    emit_word(&w, "Now answer from the chronicle.\n");
    const struct fact *f;
    while (w.text->len + QUESTION_BYTES / 2 < target && (f = take_pending(&w, true))) ask(&w, f, form_exam);
    writer_clear(&w);
    return OK;
}

/* A key (a name, a hyphenated pair or a village) that is none of the `n` taken ones. */
static void draw_needle_key(struct writer *w, char key[VALUE_BYTES], char taken[][VALUE_BYTES], int n)
{
    bool again;
    do {
        uint32_t what = rng_below(&w->rng, 3);
        char name[NAME_BYTES];
        if (what == 0) {
            make_first_name(w, name);
            strcpy(key, name);
        } else if (what == 1) {
            strcpy(key, pick(w, &words_thing_adj));
            strcat(key, "-");
            strcat(key, pick(w, &words_secret_noun));
        } else {
            join_name(w, name, &words_village_head, &words_village_tail);
            strcpy(key, name);
        }
        again = false;
        for (int i = 0; i < n; i++) again |= strcmp(taken[i], key) == 0;
    } while (again);
}

static void draw_needle_value(struct writer *w, struct fact *f, int pattern)
{
    f->value[0] = 0;
    bool number = pattern >= 1 && pattern <= 3;
    if (number) {
        f->value_id = 10000 + rng_below(&w->rng, chance(w, 50) ? 90000 : 9990000 - 10000);
        value_add_number(f, f->value_id);
        return;
    }
    uint32_t a = rng_below(&w->rng, words_secret_adj.n), b = rng_below(&w->rng, words_secret_noun.n);
    uint32_t c = chance(w, 30) ? 1 + rng_below(&w->rng, words_secret_adj.n) : 0;
    f->value_id = (c * words_secret_adj.n + a) * words_secret_noun.n + b + (1u << 30);
    if (c) {
        value_add(f, words_secret_adj.item[c - 1]);
        value_add(f, " ");
    }
    value_add(f, words_secret_adj.item[a]);
    value_add(f, " ");
    value_add(f, words_secret_noun.item[b]);
}

/* The first place at or after `at` where a sentence has just ended, else the next blank, else the end. */
static size_t sentence_break(const char *text, size_t len, size_t at)
{
    size_t blank = len, limit = at + 400 < len ? at + 400 : len;
    for (size_t i = at; i < limit; i++) {
        if (text[i] != ' ' && text[i] != '\n') continue;
        if (blank == len) blank = i + 1;
        if (i > 0 && strchr(".!?\"", text[i - 1])) return i + 1;
    }
    return blank;
}

static void write_haystack(struct writer *w, const struct needle_config *config, struct str *out, size_t bytes)
{
    if (config->haystack) {
        while (out->len < bytes) {
            size_t n = bytes - out->len < config->haystack_bytes ? bytes - out->len : config->haystack_bytes;
            str_add_bytes(out, config->haystack, n);
            str_add_char(out, ' ');
        }
        return;
    }
    struct str *text = w->text;
    w->text = out;
    while (out->len < bytes) {
        for (int n = rng_range(&w->rng, 3, 7); n > 0; n--) {
            filler(w);
            emit_word(w, n > 1 ? " " : "\n\n");
        }
    }
    w->text = text;
}

struct needle {
    struct fact fact;
    char key[VALUE_BYTES];
    int pattern;
    size_t at; /* offset in the haystack */
};

static void sort_needles(struct needle **order, int n)
{
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && order[j]->at < order[j - 1]->at; j--) {
            struct needle *t = order[j];
            order[j] = order[j - 1];
            order[j - 1] = t;
        }
}

static void draw_needles(struct writer *w, struct needle *needles, int n)
{
    char taken[16][VALUE_BYTES];
    int pattern = (int)rng_below(&w->rng, patterns_needle.n);
    for (int i = 0; i < n; i++) {
        struct needle *x = &needles[i];
        x->pattern = chance(w, 75) ? pattern : (int)rng_below(&w->rng, patterns_needle.n);
        draw_needle_key(w, x->key, taken, i);
        strcpy(taken[i], x->key);
        bool again;
        do {
            draw_needle_value(w, &x->fact, x->pattern);
            again = false;
            for (int j = 0; j < i; j++) again |= strstr(needles[j].fact.value, x->fact.value) || strstr(x->fact.value, needles[j].fact.value);
        } while (again);
    }
}

static void write_needle(struct writer *w, struct needle *x)
{
    w->key = x->key;
    w->needle = x->fact.value;
    x->fact.evidence_begin = w->text->len;
    expand(w, patterns_needle.item[x->pattern]);
    emit_word(w, " ");
}

static void ask_needle(struct writer *w, const struct needle *x)
{
    size_t begin = w->text->len;
    w->key = x->key;
    w->needle = x->fact.value;
    emit_word(w, "Question: ");
    expand(w, patterns_needle_ask.item[x->pattern]);
    expand(w, " Answer: {v}.\n");
    add_question(w, begin, strlen(x->fact.value), x->fact.evidence_begin, CHRONICLE_NEEDLE);
}

enum status needle_write(const struct needle_config *config, struct chronicle_doc *doc)
{
    TRY(check_range("target_bytes", config->target_bytes, 400, (size_t)4 << 20));
    TRY(check_range("depth_permille", (uint64_t)config->depth_permille, 0, 1000));
    TRY(check_range("n_needles", (uint64_t)config->n_needles, 1, 16));
    TRY(check_range("n_questions", (uint64_t)config->n_questions, 1, (uint64_t)config->n_needles));
    if (config->haystack) TRY(check_range("haystack_bytes", config->haystack_bytes, 1, (size_t)1 << 40));
    struct writer w;
    writer_init(&w, doc, chronicle_stream_seed(config->split, config->seed, 2));
    make_people(&w, 8);
    make_villages(&w, 6);

    struct needle needles[16] = {0}, *order[16];
    int n = config->n_needles;
    draw_needles(&w, needles, n);
    size_t extra = (size_t)n * 60 + (size_t)config->n_questions * QUESTION_BYTES;
    size_t target = config->target_bytes;
    struct str hay = {0};
    write_haystack(&w, config, &hay, target > extra + 100 ? target - extra : 100);
    for (int i = 0; i < n; i++) {
        int depth = i == 0 ? config->depth_permille : rng_range(&w.rng, 0, 1000);
        needles[i].at = depth == 0 ? 0 : sentence_break(hay.data, hay.len, hay.len * (size_t)depth / 1000);
        order[i] = &needles[i];
    }
    sort_needles(order, n);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        str_add_bytes(w.text, hay.data + at, order[i]->at - at);
        at = order[i]->at;
        if (w.text->len && !strchr(" \n", w.text->data[w.text->len - 1])) str_add_char(w.text, ' ');
        write_needle(&w, order[i]);
    }
    str_add_bytes(w.text, hay.data + at, hay.len - at);
    str_clear(&hay);
    str_add(w.text, w.text->data[w.text->len - 1] == '\n' ? "" : "\n\n");
    for (int i = 0; i < config->n_questions; i++) ask_needle(&w, &needles[i]);
    writer_clear(&w);
    return OK;
}

void chronicle_doc_clear(struct chronicle_doc *doc)
{
    str_clear(&doc->text);
    free(doc->questions);
    *doc = (struct chronicle_doc){0};
}

const char *chronicle_kind_name(enum chronicle_kind kind)
{
    static const char *const names[CHRONICLE_KINDS] = {"left", "secret", "code", "paid", "date",
                                                       "who",  "gift",   "boat", "needle"};
    return (unsigned)kind < CHRONICLE_KINDS ? names[kind] : "?";
}

#include "suites/chronicle_writer.h"

#include "base/xmalloc.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { SOON_BYTES = 160 }; /* a fact is not asked for closer than this */

static bool object_taken(const struct writer *w, uint32_t id)
{
    for (int i = 0; i < w->n_objects; i++)
        if (w->object[i] == id) return true;
    return false;
}

static uint32_t random_object(struct writer *w)
{
    return rng_below(&w->rng, words_thing_adj.n * words_thing.n);
}

static int clamp(size_t v, int lo, int hi)
{
    return v < (size_t)lo ? lo : v > (size_t)hi ? hi : (int)v;
}

static void make_world(struct writer *w, size_t target)
{
    writer_make_people(w, clamp(target / 1100, 5, MAX_PEOPLE));
    writer_make_villages(w, clamp(target / 2400, 5, MAX_VILLAGES));
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
        writer_sentence(w, &pair);
        assert(line.len < sizeof w->refrain[i]);
        memcpy(w->refrain[i], line.data, line.len + 1);
    }
    str_clear(&line);
    w->text = text;
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
        fact_add_text(f, "the ");
        fact_add_text(f, words_site.item[a]);
        fact_add_text(f, " at ");
        fact_add_text(f, w->village[b]);
        break;
    case CHRONICLE_SECRET:
        a = rng_below(&w->rng, words_secret_adj.n), b = rng_below(&w->rng, words_secret_noun.n);
        f->value_id = a * words_secret_noun.n + b;
        fact_add_text(f, words_secret_adj.item[a]);
        fact_add_text(f, " ");
        fact_add_text(f, words_secret_noun.item[b]);
        break;
    case CHRONICLE_CODE:
        f->value_id = 10000 + rng_below(&w->rng, 90000);
        fact_add_number(f, f->value_id);
        break;
    case CHRONICLE_PAID:
        a = 100 + rng_below(&w->rng, 900), b = rng_below(&w->rng, words_coin.n);
        f->value_id = a * words_coin.n + b;
        fact_add_number(f, a);
        fact_add_text(f, " ");
        fact_add_text(f, words_coin.item[b]);
        break;
    case CHRONICLE_DATE:
        a = rng_below(&w->rng, words_ordinal.n), b = rng_below(&w->rng, words_month.n);
        f->value_id = a * words_month.n + b;
        fact_add_text(f, "the ");
        fact_add_text(f, words_ordinal.item[a]);
        fact_add_text(f, " of ");
        fact_add_text(f, words_month.item[b]);
        break;
    case CHRONICLE_WHO: {
        /* The first name may be a relative's of nobody here: it must not be one of the cast's. */
        char first[NAME_BYTES], last[NAME_BYTES];
        do writer_first_name(w, first);
        while (writer_name_taken(w, first));
        writer_join_name(w, last, &words_surname_head, &words_surname_tail);
        fact_add_text(f, first);
        fact_add_text(f, " ");
        fact_add_text(f, last);
        f->value_id = 0;
        for (const char *c = f->value; *c; c++) f->value_id = f->value_id * 31 + (unsigned char)*c;
        break;
    }
    case CHRONICLE_GIFT: {
        do f->value_id = random_object(w);
        while (object_taken(w, f->value_id));
        const char *adj = words_thing_adj.item[f->value_id / words_thing.n];
        fact_add_text(f, strchr("aeiou", adj[0]) ? "an " : "a ");
        fact_add_text(f, adj);
        fact_add_text(f, " ");
        fact_add_text(f, words_thing.item[f->value_id % words_thing.n]);
        break;
    }
    case CHRONICLE_BOAT:
        a = rng_below(&w->rng, words_boat_adj.n), b = rng_below(&w->rng, words_boat_noun.n);
        f->value_id = a * words_boat_noun.n + b;
        fact_add_text(f, "the ");
        fact_add_text(f, words_boat_adj.item[a]);
        fact_add_text(f, " ");
        fact_add_text(f, words_boat_noun.item[b]);
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
    case CHRONICLE_GIFT: f->object = writer_other_person(w, f->subject); break;
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
            taken = g->kind == kind &&
                ((g->subject == f.subject && g->object == f.object) || g->value_id == f.value_id);
        }
        if (taken) continue;
        if (w->n_facts == w->cap_facts) {
            w->cap_facts = w->cap_facts ? 2 * w->cap_facts : 64;
            w->facts = xrealloc(w->facts, (size_t)w->cap_facts * sizeof *w->facts);
            w->pending = xrealloc(w->pending, (size_t)w->cap_facts * sizeof *w->pending);
        }
        f.kept_for_end = writer_chance(w, 45);
        w->facts[w->n_facts] = f;
        w->pending[w->n_pending++] = w->n_facts;
        return &w->facts[w->n_facts++];
    }
    return NULL;
}

/* State a new fact of `kind`, or say something idle when none is left. */
static void state_fact(struct writer *w, enum chronicle_kind kind)
{
    struct fact *f = new_fact(w, kind);
    if (!f) {
        writer_filler(w);
        return;
    }
    f->evidence_begin = w->text->len;
    w->fact = f;
    writer_sentence(w, &patterns_fact[kind].state);
}

static enum chronicle_kind random_kind(struct writer *w)
{
    static const unsigned char kinds[] = {CHRONICLE_LEFT, CHRONICLE_LEFT, CHRONICLE_LEFT,
        CHRONICLE_SECRET, CHRONICLE_CODE, CHRONICLE_PAID, CHRONICLE_PAID, CHRONICLE_DATE,
        CHRONICLE_WHO, CHRONICLE_GIFT, CHRONICLE_GIFT, CHRONICLE_BOAT};
    return kinds[rng_below(&w->rng, sizeof kinds)];
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
    writer_add_question(w, begin, strlen(f->value), f->evidence_begin, f->kind);
}

static void form_exam(struct writer *w)
{
    writer_add(w, "Question: ");
    writer_slot(w, 'Q');
    writer_expand(w, " Answer: {v}.\n");
}

static void form_talk(struct writer *w)
{
    writer_sentence(w, &patterns_ask);
    writer_add(w, " ");
    writer_expand(w, writer_pick(w, &patterns_reply));
}

static void form_recall(struct writer *w)
{
    writer_sentence(w, &patterns_fact[w->fact->kind].recall);
}

static void form_letter(struct writer *w) { writer_expand(w, "You asked me {i}. It was {v}."); }

static void scene(struct writer *w)
{
    for (int n = rng_range(&w->rng, 3, 6), i = 0; i < n; i++) {
        if (i) writer_add(w, " ");
        uint32_t what = rng_below(&w->rng, 100);
        const struct fact *f = what < 22 ? take_pending(w, false) : NULL;
        if (f) ask(w, f, what < 15 ? form_recall : form_talk);
        else if (what < 66) state_fact(w, random_kind(w));
        else writer_filler(w);
    }
    writer_add(w, "\n\n");
}

static void letter(struct writer *w)
{
    int from = (int)rng_below(&w->rng, (uint32_t)w->n_people);
    int to = writer_other_person(w, from);
    writer_add(w, "Dear ");
    writer_add_person(w, to);
    writer_add(w, ",\n");
    writer_sentence(w, &patterns_letter_open);
    for (int i = 0; i < 2; i++) {
        const struct fact *f = take_pending(w, false);
        writer_add(w, " ");
        if (f) ask(w, f, form_letter);
        else state_fact(w, random_kind(w));
    }
    writer_add(w, " ");
    state_fact(w, random_kind(w));
    writer_add(w, " ");
    writer_sentence(w, &patterns_letter_close);
    writer_add(w, "\nYour ");
    writer_add_person(w, from);
    writer_add(w, " ");
    writer_add(w, w->surname[from]);
    writer_add(w, "\n\n");
}

static void ledger(struct writer *w)
{
    writer_expand(w, "From the ledger of the {T} of {n}:\n");
    for (int n = rng_range(&w->rng, 3, 6), i = 0; i < n; i++) {
        struct fact *f = new_fact(w, CHRONICLE_PAID);
        if (!f) break;
        f->evidence_begin = w->text->len;
        w->fact = f;
        writer_expand(w, "{p} for {o}: {v}.\n");
    }
    writer_add(w, "\n");
}

static void diary(struct writer *w)
{
    writer_sentence(w, &patterns_diary);
    writer_add(w, " ");
    writer_filler(w);
    writer_add(w, " ");
    state_fact(w, random_kind(w));
    writer_add(w, "\n\n");
}

static void exam(struct writer *w)
{
    for (int n = rng_range(&w->rng, 2, 4), i = 0; i < n; i++) {
        const struct fact *f = take_pending(w, false);
        if (f) ask(w, f, form_exam);
        else if (i == 0) writer_filler(w), writer_add(w, "\n");
    }
    writer_add(w, "\n");
}

static void refrain(struct writer *w)
{
    for (int i = 0; i < REFRAIN_LINES; i++) {
        writer_add(w, w->refrain[i]);
        writer_add(w, "\n");
    }
    writer_add(w, "\n");
}

static void chapter(struct writer *w)
{
    str_addf(w->text, "Chapter %d. ", ++w->n_chapters);
    writer_sentence(w, &patterns_chapter);
    writer_add(w, "\n\n");
}

static void introduce(struct writer *w)
{
    writer_expand(w, "This is the chronicle of {n}, and of ");
    int n = w->n_people < 6 ? w->n_people : 6;
    for (int i = 0; i < n; i++) {
        writer_add(w, i == 0 ? "" : i + 1 == n ? " and " : ", ");
        writer_add_person(w, i);
        writer_add(w, " ");
        writer_add(w, w->surname[i]);
    }
    writer_add(w, ".\n\n");
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

enum status chronicle_write(const struct chronicle_config *config, struct chronicle_doc *doc)
{
    size_t target = config->target_bytes;
    TRY(chronicle_check_range("target_bytes", target, 600, (size_t)1 << 20));
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
    writer_add(&w, CHRONICLE_EXAM);
    const struct fact *f;
    while (w.text->len + QUESTION_BYTES / 2 < target && (f = take_pending(&w, true)))
        ask(&w, f, form_exam);
    writer_clear(&w);
    return OK;
}

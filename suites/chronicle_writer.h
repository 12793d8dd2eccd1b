/* What chronicles and needle documents share: a seeded stream, a cast, and patterns filled with
 * words. Private to the two generators.
 */
#ifndef SG_SUITES_CHRONICLE_WRITER_H
#define SG_SUITES_CHRONICLE_WRITER_H

#include "base/rng.h"
#include "suites/chronicle.h"
#include "suites/chronicle_words.h"

enum {
    NAME_BYTES = 24,
    VALUE_BYTES = 48,
    MAX_PEOPLE = 48,
    MAX_VILLAGES = 16,
    MAX_OBJECTS = 20,
    REFRAIN_LINES = 4,
    QUESTION_BYTES = 72, /* a typical line of the final batch, for planning only */
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

/* Start an empty document on the stream of that seed; drop what the writer owns. */
void writer_init(struct writer *w, struct chronicle_doc *doc, uint64_t stream);
void writer_clear(struct writer *w);

/* Draws. */
const char *writer_pick(struct writer *w, const struct words *list);
bool writer_chance(struct writer *w, int percent);
int writer_other_person(struct writer *w, int than);

/* The cast. A village or surname is head + tail; first names are unique within the cast. */
void writer_join_name(
    struct writer *w, char out[NAME_BYTES], const struct words *head, const struct words *tail);
void writer_first_name(struct writer *w, char out[NAME_BYTES]);
bool writer_name_taken(const struct writer *w, const char *name);
void writer_make_people(struct writer *w, int n);
void writer_make_villages(struct writer *w, int n);

/* Append to a fact's answer. */
void fact_add_text(struct fact *f, const char *part);
void fact_add_number(struct fact *f, uint32_t number);

/* Append text; `writer_expand` fills the slots of a pattern, `writer_slot` is one slot,
 * `writer_sentence` picks a pattern, binds {A} and {B} to two people and begins with a capital,
 * `writer_filler` says something idle. */
void writer_add(struct writer *w, const char *s);
void writer_add_person(struct writer *w, int i);
void writer_expand(struct writer *w, const char *pattern);
void writer_slot(struct writer *w, char slot);
void writer_sentence(struct writer *w, const struct words *patterns);
void writer_filler(struct writer *w);

/* Record that the answer last written, `value_len` bytes long, ends the question that began at
 * `query_begin`.
 */
void writer_add_question(struct writer *w, size_t query_begin, size_t value_len, size_t evidence,
    enum chronicle_kind kind);

/* ERR_ARG naming the field when v is outside [lo, hi]. */
MUST_USE enum status chronicle_check_range(const char *field, uint64_t v, uint64_t lo, uint64_t hi);

#endif

/* Generated documents whose questions can be answered only by reading far back.
 *
 * A chronicle is a seeded piece of writing: chapters, scenes, letters, ledgers, diary pages and a
 * refrain about people who leave, hide, sell and give things. Facts are stated once and asked about
 * once, later, some soon and some at the very end. An answer occurs in the text before its question
 * exactly once: at its evidence. Distractors look alike (the same object with other people, other
 * places of the same kind).
 *
 * A needle document is prose with one or more key -> value sentences in it and questions at its
 * end.
 *
 * Only integer arithmetic is used, so the bytes are the same on every machine. Training and
 * evaluation draw from disjoint sets of generator seeds: the split is the lowest bit of the 64-bit
 * seed that starts the stream.
 */
#ifndef SG_SUITES_CHRONICLE_H
#define SG_SUITES_CHRONICLE_H

#include "base/status.h"
#include "base/str.h"
#include "suites/ask.h"

#include <stddef.h>
#include <stdint.h>

enum chronicle_split {
    CHRONICLE_TRAIN = 0, /* what the bundled model was trained on */
    CHRONICLE_EVAL = 1,  /* everything that is measured */
};

enum chronicle_kind {
    CHRONICLE_LEFT,   /* where somebody left an object */
    CHRONICLE_SECRET, /* somebody's secret word */
    CHRONICLE_CODE,   /* a number on somebody's box */
    CHRONICLE_PAID,   /* what somebody paid for goods */
    CHRONICLE_DATE,   /* the day of an event */
    CHRONICLE_WHO,    /* the stranger who did a thing */
    CHRONICLE_GIFT,   /* what one person gave another */
    CHRONICLE_BOAT,   /* the name of somebody's boat */
    CHRONICLE_NEEDLE, /* key -> value of a needle document */
    CHRONICLE_KINDS
};

/* Byte offsets into the document. The text in [query_begin, answer_begin) asks; text[answer_begin -
 * 1] is a space, so a prompt ends there and the wanted continuation begins with it. The byte at
 * answer_end is punctuation. The answer's only earlier occurrence lies inside the sentence that
 * starts at evidence_begin.
 */
struct chronicle_question {
    size_t query_begin, answer_begin, answer_end;
    size_t evidence_begin;
    enum chronicle_kind kind;
};

struct chronicle_doc {
    struct str text;
    struct chronicle_question *questions; /* in text order; owned */
    size_t n_questions, cap_questions;
    size_t n_within; /* of them asked within a chronicle that chronicle_move() moved */
};

/* {0} is a valid empty document; writing into a used one replaces it and keeps its memory. */
void chronicle_doc_clear(struct chronicle_doc *doc);

struct chronicle_config {
    enum chronicle_split split;
    uint64_t seed;
    size_t target_bytes; /* 600 … 1 MiB; the text ends within about 5 % + 200 bytes of it */
};

/* Write the chronicle of `config`. ERR_ARG when target_bytes is out of range. */
MUST_USE enum status chronicle_write(
    const struct chronicle_config *config, struct chronicle_doc *doc);

/* What stands in front of the last questions. */
#define CHRONICLE_EXAM "Now answer from the chronicle.\n"
/* Put the last questions of a chronicle, numbered, at its start or its middle; then its end has the
 * answers by number alone, or with ASK_TWICE the questions again. Those before them are asked
 * within the text and stay there. */
void chronicle_move(struct chronicle_doc *doc, enum ask ask);

struct needle_config {
    enum chronicle_split split;
    uint64_t seed;
    size_t target_bytes; /* 400 … 1 MiB */
    int depth_permille; /* 0 = first sentence, 1000 = last before the questions: the first needle */
    int n_needles;      /* 1 … 16; the others stand at random depths */
    int n_questions; /* 1 … n_needles; the first question asks for the needle at depth_permille */
    enum ask ask;    /* where the question stands; not at the end: n_questions is 1 */
    const char *haystack; /* prose to hide them in, from its start, repeated if too short; NULL =
                             generated */
    size_t haystack_bytes;
};

/* Write a needle document. ERR_ARG names the field that is out of range. */
MUST_USE enum status needle_write(const struct needle_config *config, struct chronicle_doc *doc);

/* The seed that starts the random stream: lowest bit = split, the other 63 a hash of `seed` and
 * `domain`. */
uint64_t chronicle_stream_seed(enum chronicle_split split, uint64_t seed, uint32_t domain);

/* "left", "secret", … ; "?" for a value out of range. */
const char *chronicle_kind_name(enum chronicle_kind kind);

#endif

/* The words and sentence patterns chronicles are made of. */
#ifndef SG_SUITES_CHRONICLE_WORDS_H
#define SG_SUITES_CHRONICLE_WORDS_H

#include <stdint.h>

struct words {
    const char *const *item;
    uint32_t n;
};

/* Name parts: a first name is a whole name or head + tail; villages and surnames are head + tail.
 */
extern const struct words words_first, words_first_head, words_first_tail;
extern const struct words words_surname_head, words_surname_tail;
extern const struct words words_village_head, words_village_tail;

/* Values of facts: `thing` objects, `site` buildings, secret words, boats, goods, boxes, events,
 * deeds. */
extern const struct words words_thing_adj, words_thing, words_site, words_secret_adj,
    words_secret_noun;
extern const struct words words_boat_adj, words_boat_noun, words_goods, words_coin, words_box,
    words_event;
extern const struct words words_deed, words_deed_thing, words_month, words_ordinal;

/* Scenery for filler sentences; never part of an answer. */
extern const struct words words_weather, words_time, words_beast, words_food, words_trade,
    words_mood;
extern const struct words words_manner, words_nature, words_tool, words_saying, words_colour,
    words_count, words_act;
extern const struct words words_season;

/* Sentence patterns. {x} is replaced; the letters are listed at patterns_filler and left_state. */
extern const struct words patterns_filler, patterns_speech, patterns_chapter, patterns_refrain;
extern const struct words patterns_letter_open, patterns_letter_close, patterns_ask, patterns_reply,
    patterns_diary;

/* Per kind of fact: how it is stated, how it is asked, how it is asked indirectly, how it is
 * recalled. */
struct fact_patterns {
    struct words state, ask, indirect, recall;
};
extern const struct fact_patterns patterns_fact[];

/* Compound nouns, head + tail: no two of them alike (tests/unit/test_ruler.c). */
extern const struct words words_compound_head, words_compound_tail;

/* Needles: statement and question come in pairs of equal index. {k} key, {v} value. */
extern const struct words patterns_needle, patterns_needle_ask;

#endif

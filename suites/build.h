/* What the suites share: text to tokens, tokens to samples, contexts with answers. */
#ifndef SG_SUITES_BUILD_H
#define SG_SUITES_BUILD_H

#include "base/str.h"
#include "suites/suite.h"

/* ASCII white space. */
static inline bool build_is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* How many tokens the rule puts in front of a sample: 1 for BOS, or 0; seldom more. */
int build_bos(const struct suite_options *o);

/* Encode without BOS into `out`, which is emptied first; adds to s->n_replaced. */
enum status build_encode(const struct suite_options *o, struct sample_set *s, const char *text,
    size_t len, struct token_list *out) MUST_USE;

/* The first of tokens[0..n) that begins at byte `at` or behind; n when none does. */
size_t build_token_at(const struct token_list *t, size_t at);

/* Add the sample BOS + ids[0..n). The second half of it is scored when the options say so, else
 * all. Takes `name`. */
enum status build_sample(const struct suite_options *o, struct sample_set *s, const int32_t *ids,
    size_t n, char *name) MUST_USE;

/* A context and the answer that follows it, byte behind byte. */
struct answer_text {
    const char *file; /* for messages and names */
    long line;
    struct str context, answer; /* owned; UTF-8, already repaired */
};

void answer_text_clear(struct answer_text *a);
/* Append to one of its strings with invalid UTF-8 repaired and counted. */
void answer_text_add(struct sample_set *s, struct str *to, const char *text);

/* Add BOS + context + answer as a sample of which only the answer is scored, and `item` for the
 * answer with sample, begin, end filled in. White space at the end of the context is moved to the
 * answer, both are encoded together, and the answer begins with the first token that begins in it;
 * where a token straddles the joint, behind as many tokens as the context alone has (the rules of
 * lm-evaluation-harness). A sample beyond max_length loses tokens at the left of its context. Takes
 * `item`'s strings and `name`. *too_short (not NULL): the sample is under min_length and was not
 * added; the strings are freed. */
enum status build_answer(const struct suite_options *o, struct sample_set *s, struct answer_text *a,
    struct item item, char *name, bool *too_short) MUST_USE;

/* A prompt that is answered by writing. */
struct task_text {
    const char *file; /* for messages */
    long line;
    struct str prompt; /* the user's turn where there is a chat */
    struct str prefix; /* how the answer begins; the assistant's turn begins with it */
    struct str gold;   /* a right continuation of that */
};

void task_text_clear(struct task_text *t);
/* The tokens of prompt and prefix under the chat, without BOS. */
enum status build_task_tokens(const struct suite_options *o, struct sample_set *s,
    const struct task_text *t, struct token_list *out) MUST_USE;
/* Add the sample BOS + prompt + gold, the first two as its prompt, and `item` for the gold answer
 * with sample, begin, end filled in. prompt: the tokens from above, which are spent. Prompt and
 * budget together take at most max_length tokens: with `cut` a longer prompt loses its middle (as
 * LongBench and InfiniteBench have it) and counts as truncated; else it is ERR_ARG. Takes item's
 * strings, item.wanted and `name`. */
enum status build_task(const struct suite_options *o, struct sample_set *s,
    const struct task_text *t, struct token_list *prompt, struct item item, char *name,
    bool cut) MUST_USE;
/* Texts in an array of their own. */
struct wanted *wanted_new(enum judge judge, int budget);
void wanted_add(struct wanted *w, const char *answer);

/* Take back what was added since `mark` was a copy of *s. */
void build_rollback(struct sample_set *s, const struct sample_set *mark);

/* ERR_ARG with the form to write when a file was not named. */
enum status build_need_file(
    const struct suite_options *o, const char *suite, const char *form) MUST_USE;

#endif

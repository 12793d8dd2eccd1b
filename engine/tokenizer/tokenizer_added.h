/* The field "added_tokens" of tokenizer.json: tokens that are found in the text before anything
 * else. */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_ADDED_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_ADDED_H

#include "base/json.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/tokenizer_normalize.h"

struct added_token {
    char *content; /* owned */
    size_t len;
    /* owned; what decoders get to see: the normalised form of a `normalized` token */
    char *decoded;
    size_t n_decoded;
    int32_t id;
    bool single_word;    /* not inside a longer word */
    bool lstrip, rstrip; /* takes the white space at its side along */
    bool normalized;     /* searched in its normalised form in normalised text */
    bool special;        /* left out of decoded text on request */
};

struct added_vocab; /* immutable after opening */

/* in.node: the array, or NULL. Ids follow the rule of `tokenizers`: a content that the model knows
 * has the model's id, others are numbered on from the model's vocabulary size; ERR_FORMAT where the
 * file disagrees.
 */
enum status added_vocab_open(struct added_vocab **a, struct json_in in, const struct bpe *bpe,
    const struct normalizer *normalizer) MUST_USE;
void added_vocab_close(struct added_vocab **a);

/* -1 when empty */
int32_t added_vocab_max_id(const struct added_vocab *a);
/* NULL: none */
const struct added_token *added_vocab_by_id(const struct added_vocab *a, int32_t id);
/* NULL: none */
const struct added_token *added_vocab_by_text(const struct added_vocab *a, const char *text);

/* Receives stretches in order: an added token's id, or -1 and plain text. Never an empty stretch of
 * text. */
typedef enum status added_vocab_sink(void *user, const struct text *stretch, int32_t id);

/* Cut `in` at the added tokens that are (not) `normalized`: leftmost first, longest at equal start.
 */
enum status added_vocab_split(const struct added_vocab *a, bool normalized, const struct text *in,
    added_vocab_sink *sink, void *user) MUST_USE;

#endif

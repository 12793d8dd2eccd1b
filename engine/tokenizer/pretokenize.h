/* The field "pre_tokenizer" of tokenizer.json: how normalised text falls into the pieces that BPE
 * encodes.
 *
 * Offered: Split (by String or Regex, all five behaviours, inverted or not), ByteLevel, Metaspace,
 * Digits and sequences of them. Each step sees every piece of the step before, as in `tokenizers`.
 */
#ifndef SG_ENGINE_TOKENIZER_PRETOKENIZE_H
#define SG_ENGINE_TOKENIZER_PRETOKENIZE_H

#include "base/json.h"
#include "engine/tokenizer/tokenizer_regex.h"
#include "engine/tokenizer/tokenizer_text.h"

struct pretokenizer; /* immutable after opening */

/* in.node NULL or null: the whole text is one piece. */
enum status pretokenizer_open(struct pretokenizer **p, struct json_in in) MUST_USE;
void pretokenizer_close(struct pretokenizer **p);

/* Memory of one thread; `struct pretokenizer_work w = {0};` is ready for use. */
struct pretokenizer_work {
    struct pretokenizer_level *levels; /* one per step */
    size_t n_levels;
    struct regex_work regex;
};
void pretokenizer_work_clear(struct pretokenizer_work *w);

/* Receives the pieces in order, none of them empty; the text is gone after the call. */
typedef enum status pretokenizer_sink(void *user, const struct text *piece);

enum status pretokenizer_apply(const struct pretokenizer *p, struct pretokenizer_work *w,
    const struct text *in, pretokenizer_sink *sink, void *user) MUST_USE;

/* The character (U+0021…U+0143) that stands for a byte in byte-level vocabularies, and back, -1 for
 * none. */
uint32_t byte_level_char(unsigned char byte);
int byte_level_byte(uint32_t cp);

#endif

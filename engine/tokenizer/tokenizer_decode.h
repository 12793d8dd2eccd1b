/* The field "decoder" of tokenizer.json: how the texts of tokens become text again.
 *
 * Offered: Replace, ByteFallback, Fuse, Strip, ByteLevel, Metaspace and sequences of them; null
 * joins the tokens with spaces, as `tokenizers` does.
 */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_DECODE_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_DECODE_H

#include "base/json.h"
#include "base/str.h"
#include "engine/tokenizer/tokenizer_regex.h"

struct decoder; /* immutable after opening */

enum status decoder_open(struct decoder **d, struct json_in in) MUST_USE;
void decoder_close(struct decoder **d);

/* A list of texts. `struct pieces p = {0};` is empty. */
struct pieces {
    struct str bytes;
    size_t *ends; /* owned; piece i is bytes[ends[i - 1]..ends[i]) */
    size_t n, cap;
};
void pieces_clear(struct pieces *p);
enum status pieces_add(struct pieces *p, const char *s, size_t n) MUST_USE;

/* Append the decoded text to `out`; `tokens` is used up. */
enum status decoder_apply(const struct decoder *d, struct pieces *tokens, struct str *out) MUST_USE;

#endif

/* Byte pair encoding: a vocabulary, ranked merges, and the splitting of one pre-token into token
 * ids.
 *
 * The result is that of Hugging Face `tokenizers` 0.23 (models/bpe): characters become symbols (or
 * their bytes "<0xNN>", or the unknown token), then the pair of lowest rank, leftmost first, is
 * merged until none is left. Cost: O(n log n) with a heap. Two exact shortcuts make prose fast:
 * text is cut wherever no merge can ever join the two neighbouring characters, and short stretches
 * are remembered.
 */
#ifndef SG_ENGINE_TOKENIZER_BPE_H
#define SG_ENGINE_TOKENIZER_BPE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BPE_MAX_ID                                                                 \
    0xFFFFFF /* ids are array indices here; no known vocabulary is a tenth of this \
              */

struct bpe; /* immutable after bpe_finish: any number of threads may encode at once */

struct bpe_options {
    /* unknown characters become "<0xNN>" tokens where all of their bytes have one */
    bool byte_fallback;
    bool fuse_unk; /* neighbouring unknown characters become one unknown token */
    /* a pre-token that is in the vocabulary is that token, whatever the merges say */
    bool ignore_merges;
    int32_t unk; /* id of the unknown token; -1: unknown characters vanish */
};

enum status bpe_open(struct bpe **b) MUST_USE;
void bpe_close(struct bpe **b);

/* Tokens first, in any order; ERR_FORMAT for a repeated text, a repeated or an out-of-range id (the
 * message has no file name; callers put it in front with fail_context). */
enum status bpe_add_token(struct bpe *b, const char *text, size_t len, int64_t id) MUST_USE;
/* Then merges in order of rank; both parts and their concatenation must be tokens. */
enum status bpe_add_merge(
    struct bpe *b, const char *left, size_t n_left, const char *right, size_t n_right) MUST_USE;
enum status bpe_finish(struct bpe *b, struct bpe_options options) MUST_USE;

size_t bpe_n_tokens(const struct bpe *b);
int32_t bpe_max_id(const struct bpe *b); /* -1 for an empty vocabulary */
/* The id of a token text, -1 for none. */
int32_t bpe_find(const struct bpe *b, const char *text, size_t len);
/* The text of an id (UTF-8, not terminated, borrowed), NULL for none. */
const char *bpe_text(const struct bpe *b, int32_t id, size_t *len);

struct bpe_token {
    int32_t id;
    uint32_t at; /* offset in the encoded text of the token's first byte */
};

/* Memory of one thread; `struct bpe_work w = {0};` is ready for use. It remembers stretches of
 * text, so it must not be shared between vocabularies. */
struct bpe_work {
    struct bpe_token *tokens; /* what bpe_encode produced */
    size_t n_tokens, cap_tokens;
    struct bpe_symbol *symbols;
    size_t n_symbols, cap_symbols;
    uint64_t *heap;
    size_t n_heap, cap_heap;
    struct bpe_memory *memory;
};
void bpe_work_clear(struct bpe_work *w);
/* Remember stretches of text; worth its memory (up to 3 MiB) for texts of n_bytes above some
 * thousand. */
enum status bpe_work_remember(struct bpe_work *w, size_t n_bytes) MUST_USE;

/* Encode one pre-token, text[0..n) of UTF-8, n below 2^31; fills w->tokens anew, `at` never
 * decreasing. */
enum status bpe_encode(
    const struct bpe *b, struct bpe_work *w, const char *text, size_t n) MUST_USE;

#endif

/* What a struct tokenizer is made of. Only tokenizer*.c include this. */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_PARTS_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_PARTS_H

#include "base/hash.h"
#include "engine/tokenizer/bpe.h"
#include "engine/tokenizer/pretokenize.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/tokenizer_added.h"
#include "engine/tokenizer/tokenizer_decode.h"
#include "engine/tokenizer/tokenizer_normalize.h"

struct id_list {
    int32_t *ids; /* owned */
    size_t n, cap;
};

struct tokenizer {
    struct bpe *bpe;
    struct added_vocab *added;
    struct normalizer *normalizer;
    struct pretokenizer *pretokenizer;
    struct decoder *decoder;
    struct id_list before, after; /* what add_special puts around a text */
    int32_t bos, eos;
    struct str notes;
    char fingerprint[HASH_HEX_SIZE];
};

/* Fill an empty tokenizer from the text of tokenizer.json; *had_processor: it has a post-processor.
 */
enum status tokenizer_read_json(struct tokenizer *t, const char *file, const char *json, size_t len,
    bool *had_processor) MUST_USE;
/* BOS, EOS and whether they are added, from tokenizer_config.json or special_tokens_map.json; what
 * is known already stays. A post-processor in tokenizer.json decides alone about adding, as in
 * `transformers` 5. */
enum status tokenizer_read_config(struct tokenizer *t, const char *file, const char *json,
    size_t len, bool had_processor) MUST_USE;

#endif

/* The tokenizer of a LLaMA checkpoint: tokenizer.json of Hugging Face, text to ids and back.
 *
 * Ids equal those of Hugging Face `tokenizers` 0.23 on any text, for byte-level BPE (Llama-3, GPT-2
 * style) and metaspace / byte-fallback BPE (Llama-2 style). What tokenizer.json asks for and this
 * reader does not offer is refused when it is opened. Two things are not applied and said in
 * tokenizer_notes(): truncation and padding, which are settings of a call and not of the text, as
 * in `transformers`.
 *
 * Everything takes a const tokenizer and may run in any number of threads at once.
 */
#ifndef SG_ENGINE_TOKENIZER_TOKENIZER_H
#define SG_ENGINE_TOKENIZER_TOKENIZER_H

#include "base/status.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* Read model_dir/tokenizer.json, and tokenizer_config.json and special_tokens_map.json beside it
 * where they exist. ERR_IO: cannot be read; ERR_FORMAT: not what it claims; ERR_UNSUPPORTED:
 * another kind of tokenizer.
 */
enum status tokenizer_open(struct tokenizer **t, const char *model_dir) MUST_USE;
/* The same from memory; `file` names the text in messages, `config` (tokenizer_config.json) may be
 * NULL. */
enum status tokenizer_parse(struct tokenizer **t, const char *file, const char *json, size_t len,
    const char *config, size_t config_len) MUST_USE;
void tokenizer_close(struct tokenizer **t);

/* Highest id + 1, added tokens included: an embedding with fewer rows has none for the last. */
int tokenizer_vocab_size(const struct tokenizer *t);
/* Ids of tokenizer_config.json's bos_token and eos_token; -1 when it names none. Without a config
 * BOS is the token that the post-processor puts in front. */
int tokenizer_bos(const struct tokenizer *t);
int tokenizer_eos(const struct tokenizer *t);
/* 32 hexadecimal digits over tokenizer.json and the special tokens; borrowed. */
const char *tokenizer_fingerprint(const struct tokenizer *t);
/* What the files say and is not applied, one sentence a line; "" in general. Borrowed. */
const char *tokenizer_notes(const struct tokenizer *t);

/* The text of a token as the vocabulary spells it ("\u2581the", "\u0120the"), *len bytes, not
 * terminated, borrowed; NULL for an id without token. */
const char *tokenizer_token(const struct tokenizer *t, int32_t id, size_t *len);
/* The id of a spelling, -1 for none. */
int32_t tokenizer_find(const struct tokenizer *t, const char *token);

/* Ids with the place each came from. `struct token_list l = {0};` is empty. */
struct token_list {
    int32_t *ids;    /* owned */
    uint32_t *begin; /* owned; offset in the text of the character that holds the token's first
                      * byte. Never decreasing within one encode; BOS has 0, EOS the length. Equal
                      * to the begin of `tokenizers`' offsets (with trim_offsets off), but coarser
                      * under NFC and its kin: the start of the base character and its marks. */
    size_t n, cap;
};
void token_list_clear(struct token_list *l);
enum status token_list_add(struct token_list *l, int32_t id, uint32_t begin) MUST_USE;
/* The first token in [from, l->n) that holds text at offset `at` or behind it, l->n for none.
 * Tokens of the text range [a, b) are those from token_list_find(l, from, a) to before the first
 * whose begin is >= b. `from` steps over what is not text, such as BOS. */
size_t token_list_find(const struct token_list *l, size_t from, uint32_t at);

/* Append the ids of text[0..len) to `out`. Any bytes will do: what is not UTF-8 becomes U+FFFD
 * first, as Python's bytes.decode("utf-8", "replace") does, and *n_replaced (may be NULL) says how
 * often; offsets then refer to the repaired text (tokenizer_repair). add_special: with BOS and EOS
 * as the files want them. Special tokens that are spelled out in the text become their ids, as in
 * `tokenizers`. len below 2^31 or ERR_ARG. After a failure `out` is as before. */
enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t len,
    bool add_special, struct token_list *out, size_t *n_replaced) MUST_USE;
/* What stands in front of a text: what the files of the tokenizer ask for, its BOS, or nothing. */
enum bos_rule { BOS_TOKENIZER, BOS_ALWAYS, BOS_NEVER };
const char *bos_rule_name(enum bos_rule rule); /* "tokenizer", "always", "never" */
bool bos_rule_parse(const char *text, enum bos_rule *rule);
/* These ids, borrowed: n of them, seldom more than one. None under BOS_ALWAYS when there is no BOS.
 */
size_t tokenizer_prefix(const struct tokenizer *t, enum bos_rule rule, const int32_t **ids);
/* The same for people: "begin with <s> by the tokenizer's rule", "begin with no special token by
 * --bos never". */
void tokenizer_prefix_text(const struct tokenizer *t, enum bos_rule rule, struct str *out);
/* Encode a text that follows the prefix. One that spells the prefix out does not have it twice: its
 * ids are left out. */
enum status tokenizer_encode_behind(const struct tokenizer *t, enum bos_rule rule, const char *text,
    size_t len, struct token_list *out, size_t *n_replaced) MUST_USE;
/* ERR_FORMAT, naming the token, for an id from n_rows on: the model has no embedding for it.
 * `where`: the text, for the message. */
enum status tokenizer_check_ids(const struct tokenizer *t, const int32_t *ids, size_t n, int n_rows,
    const char *where) MUST_USE;

/* Append `text` as tokenizer_encode sees it; returns the number of replacements. */
size_t tokenizer_repair(struct str *out, const char *text, size_t len);

/* Append the text of ids to `out`; always UTF-8. Ids without token are skipped, negative ones are
 * ERR_ARG. A special token is left out with skip_special. Equal to decode() of `tokenizers` 0.23,
 * which shows added tokens with "normalized": true in normalised form, except that it then fails to
 * skip such special tokens.
 */
enum status tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n,
    bool skip_special, struct str *out) MUST_USE;

/* Text of ids that arrive one by one. `struct token_stream s = {.skip_special = …};` is ready for
 * use. */
struct token_stream {
    bool skip_special;
    int32_t *ids; /* owned: a short window */
    size_t n, cap;
    size_t n_shown; /* ids at the start of the window whose text is out */
    struct str shown;
};
void token_stream_clear(struct token_stream *s);
/* Append what id adds to the text; nothing while a character is unfinished. All pieces together are
 * the text of tokenizer_decode, once token_stream_flush has appended an unfinished rest; only where
 * a later stray byte spoils earlier bytes that were already shown do the two differ. */
enum status token_stream_push(
    struct token_stream *s, const struct tokenizer *t, int32_t id, struct str *out) MUST_USE;
enum status token_stream_flush(
    struct token_stream *s, const struct tokenizer *t, struct str *out) MUST_USE;

#endif

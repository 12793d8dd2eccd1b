/* The turn of a user around a prompt, and the beginning of the assistant's behind it: what an
 * instruct model was trained to read.
 */
#ifndef SG_SUITES_CHAT_H
#define SG_SUITES_CHAT_H

#include "base/status.h"
#include "base/str.h"
#include "engine/tokenizer/tokenizer.h"

#include <stdbool.h>

struct chat {
    char *name;           /* as asked for; owned */
    char *before, *after; /* the prompt; special tokens are spelled out; owned */
    bool trims; /* white space at the prompt's ends goes, as the maker's template has it */
};

/* "llama3", "chatml", "mistral", or a text file with {prompt} in one place, whose last line end is
 * dropped. ERR_ARG lists the formats; ERR_FORMAT: not one place. */
enum status chat_open(struct chat *c, const char *name) MUST_USE;
/* ERR_ARG when the vocabulary lacks a token that a named format spells out: the model was made for
 * another chat, and would read it letter by letter. What a file spells out is its writer's care. */
enum status chat_check(const struct chat *c, const struct tokenizer *t) MUST_USE;
/* The prompt in `text` becomes the user's turn and the beginning of the assistant's. A chat without
 * a name, or NULL, changes nothing. */
void chat_wrap(const struct chat *c, struct str *text);
void chat_clear(struct chat *c);

#endif

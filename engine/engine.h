/* A LLaMA model ready to run: weights, tokenizer, identity. */
#ifndef SG_ENGINE_ENGINE_H
#define SG_ENGINE_ENGINE_H

#include "base/par.h"
#include "engine/generate.h"
#include "engine/policy.h"
#include "engine/session.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/checkpoint/weights.h"

/* Version of the numerics. Part of every cell key: raise it when results can change. */
#define ENGINE_VERSION "2"

struct model {
    struct weights weights;
    struct tokenizer *tokenizer;
    char fingerprint[FINGERPRINT_SIZE];
    char *name; /* last part of the directory's path */
};

/* Open a Hugging Face directory. Refuses a tokenizer whose ids do not fit the embedding table. */
enum status model_open(struct model *m, const char *dir, struct par *par) MUST_USE;
void model_close(struct model *m);

#endif

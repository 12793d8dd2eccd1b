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
#define ENGINE_VERSION "3"

struct model {
    struct weights weights;
    struct tokenizer *tokenizer;
    char fingerprint[FINGERPRINT_SIZE];
    enum bos_rule bos; /* what stands in front of every text that this model is given */
    char *dir;         /* where its files are */
    char *name;        /* engine/checkpoint/locate.h */
};

struct model_options {
    /* where fingerprints are remembered (engine/checkpoint/fingerprint_memory.h); NULL: nowhere */
    const char *fingerprints;
    enum bos_rule bos;
    struct device_options device;
    /* tensors that the model does not use are left out instead of refused */
    bool ignore_tensors;
};

/* Open a model by its directory or its id in the hub's cache (engine/checkpoint/locate.h). */
enum status model_open(struct model *m, const char *asked, struct par *par) MUST_USE;
enum status model_open_with(
    struct model *m, const char *asked, const struct model_options *o, struct par *par) MUST_USE;
void model_close(struct model *m);

/* The ids of a text to go on from, begun by the rule m->bos. ERR_FORMAT for a token that has no
 * embedding. */
enum status model_prompt(
    const struct model *m, const char *text, size_t len, struct token_list *out) MUST_USE;

#endif

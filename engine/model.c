#include "engine/engine.h"

#include "base/file.h"
#include "engine/checkpoint/gguf.h"

#include <stdlib.h>
#include <string.h>

static char *directory_name(const char *dir)
{
    char *real = realpath(dir, NULL);
    char *name = str_dup(path_base(real ? real : dir));
    free(real);
    return name;
}

static enum status open_tokenizer(struct model *m, const char *dir)
{
    struct gguf g;
    struct str json = {0}, config = {0};
    if (!gguf_is(dir)) return tokenizer_open(&m->tokenizer, dir);
    TRY(gguf_open(&g, dir));
    enum status st = gguf_tokenizer(&g, &json, &config);
    if (st == OK) st = tokenizer_parse(&m->tokenizer, dir, str_get(&json), json.len, str_get(&config), config.len);
    str_clear(&json);
    str_clear(&config);
    gguf_close(&g);
    return st;
}

enum status model_open(struct model *m, const char *dir, struct par *par)
{
    return model_open_with(m, dir, &(struct model_options){0}, par);
}

enum status model_open_with(struct model *m, const char *dir, const struct model_options *o, struct par *par)
{
    *m = (struct model){0};
    enum status st;
    TRY_GOTO(st, bad, weights_open(&m->weights, dir));
    if (!o->ignore_tensors) TRY_GOTO(st, bad, weights_check_unused(&m->weights));
    TRY_GOTO(st, bad, open_tokenizer(m, dir));
    int vocab = m->weights.config.vocab_size, ids = tokenizer_vocab_size(m->tokenizer);
    if (ids > vocab)
        TRY_GOTO(st, bad, fail(ERR_FORMAT, "%s: tokenizer.json has %d ids, config.json: vocab_size is %d; they belong to "
                               "different models", dir, ids, vocab));
    TRY_GOTO(st, bad, weights_fingerprint(&m->weights, tokenizer_fingerprint(m->tokenizer), par, o->fingerprints, m->fingerprint));
    m->name = directory_name(dir);
    return OK;
bad:
    model_close(m);
    return st;
}

void model_close(struct model *m)
{
    weights_close(&m->weights);
    tokenizer_close(&m->tokenizer);
    free(m->name);
    *m = (struct model){0};
}

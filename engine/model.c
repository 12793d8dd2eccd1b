#include "engine/engine.h"

#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/locate.h"

#include <stdlib.h>
#include <string.h>

enum status model_open(struct model *m, const char *asked, struct par *par)
{
    return model_open_with(m, asked, &(struct model_options){0}, par);
}

static enum status open_tokenizer(struct model *m, const char *dir)
{
    struct gguf g;
    struct str json = {0}, config = {0};
    if (!gguf_is(dir)) return tokenizer_open(&m->tokenizer, dir);
    TRY(gguf_open(&g, dir));
    enum status st = gguf_tokenizer(&g, &json, &config);
    if (st == OK)
        st = tokenizer_parse(
            &m->tokenizer, dir, str_get(&json), json.len, str_get(&config), config.len);
    str_clear(&json);
    str_clear(&config);
    gguf_close(&g);
    return st;
}

enum status model_open_with(
    struct model *m, const char *asked, const struct model_options *o, struct par *par)
{
    struct checkpoint_place place;
    enum status st;
    *m = (struct model){0};
    TRY(checkpoint_locate(&place, asked));
    m->dir = place.dir;
    m->name = place.name;
    TRY_GOTO(st, bad, weights_open_with(&m->weights, m->dir, &o->device));
    if (!o->ignore_tensors) TRY_GOTO(st, bad, weights_check_unused(&m->weights));
    TRY_GOTO(st, bad, open_tokenizer(m, m->dir));
    m->bos = o->bos;
    TRY_GOTO(st, bad,
        weights_fingerprint(&m->weights, tokenizer_fingerprint(m->tokenizer), par, o->fingerprints,
            m->fingerprint));
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
    free(m->dir);
    *m = (struct model){0};
}

enum status model_prompt(
    const struct model *m, const char *text, size_t len, struct token_list *out)
{
    const int32_t *prefix;
    size_t n = tokenizer_prefix(m->tokenizer, m->bos, &prefix);
    if (m->bos == BOS_ALWAYS && n == 0)
        return fail(ERR_ARG, "--bos always: this tokenizer has no begin-of-text token");
    for (size_t i = 0; i < n; i++) TRY(token_list_add(out, prefix[i], 0));
    TRY(tokenizer_encode_behind(m->tokenizer, m->bos, text, len, out, NULL));
    return tokenizer_check_ids(
        m->tokenizer, out->ids, out->n, m->weights.config.vocab_size, "the prompt");
}

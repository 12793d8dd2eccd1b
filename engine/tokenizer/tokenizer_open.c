#include "engine/tokenizer/tokenizer.h"

#include "base/file.h"
#include "engine/tokenizer/tokenizer_parts.h"

static void take_fingerprint(struct tokenizer *t, const char *json, size_t len)
{
    struct hash h;
    hash_init(&h);
    hash_add(&h, json, len);
    hash_add_u64(&h, (uint64_t)(int64_t)t->bos);
    hash_add_u64(&h, (uint64_t)(int64_t)t->eos);
    const struct id_list *lists[] = {&t->before, &t->after};
    for (int i = 0; i < 2; i++) {
        hash_add_u64(&h, lists[i]->n);
        if (lists[i]->n > 0) hash_add(&h, lists[i]->ids, lists[i]->n * sizeof *lists[i]->ids);
    }
    hash_hex(&h, t->fingerprint);
}

/* A file beside tokenizer.json that says what its special tokens are. */
struct config_file {
    const char *name, *json;
    size_t len;
};

static enum status open_texts(struct tokenizer **out, const char *file, const char *json,
    size_t len, const struct config_file *configs, size_t n_configs)
{
    struct tokenizer *t = *out = calloc(1, sizeof *t);
    if (!t) return fail(ERR_MEMORY, "%s: no memory for a tokenizer", file);
    bool had_processor = false;
    enum status st = tokenizer_read_json(t, file, json, len, &had_processor);
    for (size_t i = 0; st == OK && i < n_configs; i++)
        st = tokenizer_read_config(
            t, configs[i].name, configs[i].json, configs[i].len, had_processor);
    if (st != OK) {
        tokenizer_close(out);
        return st;
    }
    if (n_configs == 0 && t->before.n > 0) t->bos = t->before.ids[0];
    take_fingerprint(t, json, len);
    return OK;
}

enum status tokenizer_parse(struct tokenizer **t, const char *file, const char *json, size_t len,
    const char *config, size_t config_len)
{
    struct config_file one = {"tokenizer_config.json", config, config_len};
    return open_texts(t, file, json, len, &one, config ? 1 : 0);
}

enum status tokenizer_open(struct tokenizer **t, const char *model_dir)
{
    static const char *const names[] = {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"};
    char *paths[3];
    struct str texts[3] = {0};
    struct config_file configs[2];
    size_t n_configs = 0;
    enum status st = OK;
    *t = NULL;
    for (int i = 0; i < 3; i++) paths[i] = path_join(model_dir, names[i]);
    if (!file_exists(paths[0]))
        st = fail(ERR_IO,
            "%s: not found, expected the tokenizer of a Hugging Face model; for one that has only "
            "tokenizer.model, let `transformers` load and save it once",
            paths[0]);
    for (int i = 0; st == OK && i < 3; i++) {
        if (i > 0 && !file_exists(paths[i])) continue;
        st = file_read(&texts[i], paths[i]);
        if (i > 0)
            configs[n_configs++] = (struct config_file){paths[i], str_get(&texts[i]), texts[i].len};
    }
    if (st == OK)
        st = open_texts(t, paths[0], str_get(&texts[0]), texts[0].len, configs, n_configs);
    for (int i = 0; i < 3; i++) {
        free(paths[i]);
        str_clear(&texts[i]);
    }
    return st;
}

void tokenizer_close(struct tokenizer **t)
{
    if (!*t) return;
    bpe_close(&(*t)->bpe);
    added_vocab_close(&(*t)->added);
    normalizer_close(&(*t)->normalizer);
    pretokenizer_close(&(*t)->pretokenizer);
    decoder_close(&(*t)->decoder);
    free((*t)->before.ids);
    free((*t)->after.ids);
    str_clear(&(*t)->notes);
    free(*t);
    *t = NULL;
}

/* The vocabulary of a GGUF file as a tokenizer.json, as transformers reads it: byte-level BPE with
 * its merges ("gpt2"), or SentencePiece BPE ("llama"), whose merges follow from the scores of its
 * pieces. */
#include "engine/checkpoint/gguf.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER = 4 };

struct vocabulary {
    const struct gguf *g;
    struct gguf_text *tokens;
    const struct gguf_value *types, *scores; /* NULL: not there */
    size_t n;
    uint32_t *slots; /* of a table by text: index + 1, 0 is empty */
    size_t mask;
};

static enum status array_of(
    const struct gguf *g, const char *key, bool texts, size_t n, const struct gguf_value **out)
{
    const struct gguf_value *v = gguf_find(g, key);
    *out = v;
    if (!v) return OK;
    if (!v->is_array || (v->type == GGUF_STRING) != texts || (n && v->n != n))
        return fail(ERR_FORMAT,
            "%s: metadata %s: found %s of %llu, expected an array of %zu %s; convert the model "
            "again",
            g->path, key, v->is_array ? "an array" : "one value", (unsigned long long)v->n, n,
            texts ? "texts" : "numbers");
    return OK;
}

static bool flag_of(const struct gguf *g, const char *key, bool missing)
{
    const struct gguf_value *v = gguf_find(g, key);
    return v && !v->is_array && v->type != GGUF_STRING ? gguf_number(v, 0) != 0 : missing;
}

static struct gguf_text text_of(const struct gguf *g, const char *key)
{
    const struct gguf_value *v = gguf_find(g, key);
    const uint8_t *at = v && v->type == GGUF_STRING && !v->is_array ? v->data : NULL;
    return at ? gguf_next_text(&at) : (struct gguf_text){"", 0};
}

static size_t vocabulary_slot(const struct vocabulary *v, const char *s, size_t n)
{
    size_t i = (size_t)XXH3_64bits(s, n) & v->mask;
    while (v->slots[i] &&
        !(v->tokens[v->slots[i] - 1].n == n && memcmp(v->tokens[v->slots[i] - 1].s, s, n) == 0))
        i = (i + 1) & v->mask;
    return i;
}

/* -1: none */
static int64_t vocabulary_find(const struct vocabulary *v, const char *s, size_t n)
{
    return (int64_t)v->slots[vocabulary_slot(v, s, n)] - 1;
}

static int token_type(const struct vocabulary *v, size_t i)
{
    return v->types ? (int)gguf_number(v->types, i) : 1;
}

static void vocabulary_clear(struct vocabulary *v)
{
    free(v->tokens);
    free(v->slots);
}

static enum status vocabulary_read(struct vocabulary *v, const struct gguf *g)
{
    const struct gguf_value *tokens;
    *v = (struct vocabulary){.g = g};
    TRY(array_of(g, "tokenizer.ggml.tokens", true, 0, &tokens));
    if (!tokens || tokens->n == 0 || tokens->n > 1u << 24)
        return fail(ERR_FORMAT,
            "%s: metadata tokenizer.ggml.tokens is missing: the file has no vocabulary", g->path);
    v->n = (size_t)tokens->n;
    TRY(array_of(g, "tokenizer.ggml.token_type", false, v->n, &v->types));
    TRY(array_of(g, "tokenizer.ggml.scores", false, v->n, &v->scores));
    size_t slots = 64;
    while (slots < 2 * v->n) slots *= 2;
    v->mask = slots - 1;
    v->tokens = calloc(v->n, sizeof *v->tokens);
    v->slots = calloc(slots, sizeof *v->slots);
    if (!v->tokens || !v->slots)
        return fail(ERR_MEMORY, "%s: no memory for %zu tokens", g->path, v->n);
    const uint8_t *at = tokens->data;
    for (size_t i = 0; i < v->n; i++) {
        v->tokens[i] = gguf_next_text(&at);
        if (memchr(v->tokens[i].s, 0, v->tokens[i].n))
            return fail(ERR_UNSUPPORTED, "%s: token %zu holds a zero byte", g->path, i);
        size_t slot = vocabulary_slot(v, v->tokens[i].s, v->tokens[i].n);
        if (!v->slots[slot]) v->slots[slot] = (uint32_t)i + 1;
    }
    return OK;
}

static cJSON *component(const char *type)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "type", type);
    return o;
}

static char *owned_text(struct gguf_text t) { return str_format("%.*s", (int)t.n, t.s); }

/* Control tokens, those a user defined, and the unknown one, are found in a text as they are. */
static void add_special_tokens(const struct vocabulary *v, cJSON *root)
{
    cJSON *list = cJSON_AddArrayToObject(root, "added_tokens");
    for (size_t i = 0; i < v->n; i++) {
        int type = token_type(v, i);
        if (type != TOKEN_UNKNOWN && type != TOKEN_CONTROL && type != TOKEN_USER) continue;
        char *text = owned_text(v->tokens[i]);
        cJSON *o = cJSON_CreateObject();
        cJSON_AddNumberToObject(o, "id", (double)i);
        cJSON_AddStringToObject(o, "content", text);
        cJSON_AddBoolToObject(o, "single_word", false);
        cJSON_AddBoolToObject(o, "lstrip", false);
        cJSON_AddBoolToObject(o, "rstrip", false);
        cJSON_AddBoolToObject(o, "normalized", false);
        cJSON_AddBoolToObject(o, "special", type != TOKEN_USER);
        cJSON_AddItemToArray(list, o);
        free(text);
    }
}

static void add_vocabulary(const struct vocabulary *v, cJSON *model)
{
    cJSON *o = cJSON_AddObjectToObject(model, "vocab");
    for (size_t i = 0; i < v->n; i++) {
        /* the first of two equal ones */
        if (vocabulary_find(v, v->tokens[i].s, v->tokens[i].n) != (int64_t)i) continue;
        char *text = owned_text(v->tokens[i]);
        cJSON_AddNumberToObject(o, text, (double)i);
        free(text);
    }
}

static void add_merge(
    cJSON *list, const char *left, size_t n_left, const char *right, size_t n_right)
{
    char *a = str_format("%.*s", (int)n_left, left), *b = str_format("%.*s", (int)n_right, right);
    cJSON *pair = cJSON_CreateArray();
    cJSON_AddItemToArray(pair, cJSON_CreateString(a));
    cJSON_AddItemToArray(pair, cJSON_CreateString(b));
    cJSON_AddItemToArray(list, pair);
    free(a);
    free(b);
}

/* As the file has them, left and right with a space between. */
static enum status add_given_merges(const struct vocabulary *v, cJSON *model)
{
    const struct gguf_value *merges;
    TRY(array_of(v->g, "tokenizer.ggml.merges", true, 0, &merges));
    if (!merges)
        return fail(ERR_FORMAT,
            "%s: metadata tokenizer.ggml.merges is missing; convert the model again", v->g->path);
    cJSON *list = cJSON_AddArrayToObject(model, "merges");
    const uint8_t *at = merges->data;
    for (uint64_t i = 0; i < merges->n; i++) {
        struct gguf_text t = gguf_next_text(&at);
        const char *space = t.n > 1 ? memchr(t.s + 1, ' ', t.n - 1) : NULL;
        if (!space)
            return fail(ERR_FORMAT,
                "%s: metadata tokenizer.ggml.merges[%llu]: found no space between two tokens",
                v->g->path, (unsigned long long)i);
        add_merge(list, t.s, (size_t)(space - t.s), space + 1, t.n - (size_t)(space + 1 - t.s));
    }
    return OK;
}

struct scored_merge {
    double score;
    uint32_t token, cut; /* bytes of its left part */
    uint32_t left, right, left_chars, right_chars;
    uint32_t order;
};

static int within_piece(const void *x, const void *y)
{
    const struct scored_merge *a = x, *b = y;
    if (a->left != b->left) return a->left < b->left ? -1 : 1;
    return a->right < b->right ? -1 : a->right > b->right;
}

/* Highest score first, then the longer left part, then the longer right part, then as they were
 * found. */
static int best_first(const void *x, const void *y)
{
    const struct scored_merge *a = x, *b = y;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    if (a->left_chars != b->left_chars) return a->left_chars > b->left_chars ? -1 : 1;
    if (a->right_chars != b->right_chars) return a->right_chars > b->right_chars ? -1 : 1;
    return a->order < b->order ? -1 : 1;
}

static uint32_t characters(const char *s, size_t n)
{
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) count += (s[i] & 0xc0) != 0x80;
    return count;
}

/* SentencePiece merges the pair whose joined piece has the highest score: every way to cut a piece
 * in two pieces is a merge. */
static enum status add_scored_merges(const struct vocabulary *v, cJSON *model)
{
    size_t n = 0, cap = 0;
    struct scored_merge *all = NULL;
    enum status st = OK;
    if (!v->scores)
        return fail(ERR_FORMAT,
            "%s: metadata tokenizer.ggml.scores is missing; convert the model again", v->g->path);
    for (size_t i = 0; i < v->n && st == OK; i++) {
        size_t first = n;
        struct gguf_text t = v->tokens[i];
        for (size_t cut = 1; cut < t.n && st == OK; cut++) {
            if ((t.s[cut] & 0xc0) == 0x80) continue; /* within a character */
            int64_t left = vocabulary_find(v, t.s, cut),
                    right = vocabulary_find(v, t.s + cut, t.n - cut);
            if (left < 0 || right < 0) continue;
            if (n == cap) {
                cap = cap ? 2 * cap : 1024;
                struct scored_merge *grown = realloc(all, cap * sizeof *all);
                if (!grown) {
                    st = fail(ERR_MEMORY, "%s: no memory for %zu merges", v->g->path, cap);
                    break;
                }
                all = grown;
            }
            all[n++] = (struct scored_merge){gguf_number(v->scores, i), (uint32_t)i, (uint32_t)cut,
                (uint32_t)left, (uint32_t)right, characters(t.s, cut),
                characters(t.s + cut, t.n - cut), 0};
        }
        if (n - first > 1) qsort(all + first, n - first, sizeof *all, within_piece);
    }
    for (size_t i = 0; i < n; i++) all[i].order = (uint32_t)i;
    if (n) qsort(all, n, sizeof *all, best_first);
    cJSON *list = cJSON_AddArrayToObject(model, "merges");
    for (size_t i = 0; i < n && st == OK; i++) {
        struct gguf_text t = v->tokens[all[i].token];
        add_merge(list, t.s, all[i].cut, t.s + all[i].cut, t.n - all[i].cut);
    }
    free(all);
    return st;
}

/* How a text is cut in front of byte-level BPE, by the name that llama.cpp's converter gives it. */
static const struct pre_tokenizer {
    const char *names; /* a space on both sides of each */
    const char *split; /* regular expression; NULL: GPT-2's own, in ByteLevel */
    bool digits;       /* one by one, before all else */
    bool whole_words, bos;
} pre_tokenizers[] = {
    {" llama-bpe llama3 llama-v3 smaug-bpe ",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        false, true, true},
    {" qwen2 deepseek-r1-qwen ",
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        false, false, false},
    {" smollm ", NULL, true, false, false},
    {" gpt-2 ", NULL, false, false, false},
};

static cJSON *byte_level(bool use_regex)
{
    cJSON *o = component("ByteLevel");
    cJSON_AddBoolToObject(o, "add_prefix_space", false);
    cJSON_AddBoolToObject(o, "trim_offsets", true);
    cJSON_AddBoolToObject(o, "use_regex", use_regex);
    return o;
}

static enum status add_byte_level(const struct vocabulary *v, cJSON *root, cJSON *model, bool *bos)
{
    struct gguf_text name = text_of(v->g, "tokenizer.ggml.pre");
    const struct pre_tokenizer *p = NULL;
    char *spaced = str_format(" %.*s ", (int)(name.n < 100 ? name.n : 100), name.s);
    for (size_t i = 0; i < sizeof pre_tokenizers / sizeof *pre_tokenizers && name.n; i++)
        if (strstr(pre_tokenizers[i].names, spaced)) p = &pre_tokenizers[i];
    free(spaced);
    if (!p)
        return fail(ERR_UNSUPPORTED,
            "%s: metadata tokenizer.ggml.pre: found \"%.*s\", supported are llama-bpe, qwen2, "
            "smollm and gpt-2; "
            "take the model's safetensors",
            v->g->path, (int)(name.n < 100 ? name.n : 100), name.s);
    cJSON_AddNullToObject(root, "normalizer");
    cJSON *sequence = component("Sequence"),
          *parts = cJSON_AddArrayToObject(sequence, "pretokenizers");
    if (p->digits) {
        cJSON *digits = component("Digits");
        cJSON_AddBoolToObject(digits, "individual_digits", true);
        cJSON_AddItemToArray(parts, digits);
    }
    if (p->split) {
        cJSON *split = component("Split");
        cJSON_AddStringToObject(cJSON_AddObjectToObject(split, "pattern"), "Regex", p->split);
        cJSON_AddStringToObject(split, "behavior", "Isolated");
        cJSON_AddBoolToObject(split, "invert", false);
        cJSON_AddItemToArray(parts, split);
    }
    cJSON_AddItemToArray(parts, byte_level(!p->split));
    cJSON_AddItemToObject(root, "pre_tokenizer", sequence);
    cJSON_AddItemToObject(root, "decoder", byte_level(true));
    cJSON_AddBoolToObject(model, "ignore_merges", p->whole_words);
    *bos = p->bos;
    return add_given_merges(v, model);
}

static cJSON *replacement(const char *from, const char *to)
{
    cJSON *o = component("Replace");
    cJSON_AddStringToObject(cJSON_AddObjectToObject(o, "pattern"), "String", from);
    cJSON_AddStringToObject(o, "content", to);
    return o;
}

#define SPACE_MARK "\xe2\x96\x81"

static enum status add_sentencepiece(const struct vocabulary *v, cJSON *root, cJSON *model)
{
    bool prefix = flag_of(v->g, "tokenizer.ggml.add_space_prefix", true);
    cJSON *spaces = component("Metaspace");
    cJSON_AddStringToObject(spaces, "replacement", SPACE_MARK);
    cJSON_AddStringToObject(spaces, "prepend_scheme", prefix ? "first" : "never");
    cJSON_AddBoolToObject(spaces, "split", false);
    cJSON_AddNullToObject(root, "normalizer");
    cJSON_AddItemToObject(root, "pre_tokenizer", spaces);
    cJSON *decoder = component("Sequence"), *back = cJSON_AddArrayToObject(decoder, "decoders");
    cJSON_AddItemToArray(back, replacement(SPACE_MARK, " "));
    cJSON_AddItemToArray(back, component("ByteFallback"));
    cJSON_AddItemToArray(back, component("Fuse"));
    if (prefix) {
        cJSON *strip = component("Strip");
        cJSON_AddStringToObject(strip, "content", " ");
        cJSON_AddNumberToObject(strip, "start", 1);
        cJSON_AddNumberToObject(strip, "stop", 0);
        cJSON_AddItemToArray(back, strip);
    }
    cJSON_AddItemToObject(root, "decoder", decoder);
    cJSON_AddBoolToObject(model, "fuse_unk", true);
    cJSON_AddBoolToObject(model, "byte_fallback", true);
    if (gguf_find(v->g, "tokenizer.ggml.merges")) return add_given_merges(v, model);
    return add_scored_merges(v, model);
}

static void add_special(
    const struct vocabulary *v, const char *key, const char *field, cJSON *config)
{
    const struct gguf_value *id = gguf_find(v->g, key);
    double at = id && !id->is_array && id->type != GGUF_STRING ? gguf_number(id, 0) : -1;
    if (!(at >= 0 && at < (double)v->n)) return;
    char *text = owned_text(v->tokens[(size_t)at]);
    cJSON_AddStringToObject(config, field, text);
    free(text);
}

static enum status build(const struct vocabulary *v, cJSON *root, cJSON *config)
{
    struct gguf_text kind = text_of(v->g, "tokenizer.ggml.model");
    bool bos = true;
    cJSON *model = component("BPE");
    cJSON_AddStringToObject(root, "version", "1.0");
    add_special_tokens(v, root);
    cJSON_AddItemToObject(root, "model", model);
    if (gguf_text_is(kind, "gpt2")) TRY(add_byte_level(v, root, model, &bos));
    else if (gguf_text_is(kind, "llama")) TRY(add_sentencepiece(v, root, model));
    else
        return fail(ERR_UNSUPPORTED,
            "%s: metadata tokenizer.ggml.model: found \"%.*s\", supported are gpt2 and llama",
            v->g->path, (int)(kind.n < 100 ? kind.n : 100), kind.s);
    add_vocabulary(v, model);
    add_special(v, "tokenizer.ggml.bos_token_id", "bos_token", config);
    add_special(v, "tokenizer.ggml.eos_token_id", "eos_token", config);
    cJSON_AddBoolToObject(
        config, "add_bos_token", flag_of(v->g, "tokenizer.ggml.add_bos_token", bos));
    cJSON_AddBoolToObject(
        config, "add_eos_token", flag_of(v->g, "tokenizer.ggml.add_eos_token", false));
    return OK;
}

enum status gguf_tokenizer(const struct gguf *g, struct str *json, struct str *config)
{
    struct vocabulary v;
    cJSON *root = cJSON_CreateObject(), *settings = cJSON_CreateObject();
    enum status st = vocabulary_read(&v, g);
    if (st == OK) st = build(&v, root, settings);
    char *a = st == OK ? cJSON_PrintUnformatted(root) : NULL,
         *b = st == OK ? cJSON_PrintUnformatted(settings) : NULL;
    if (st == OK && (!a || !b)) st = fail(ERR_MEMORY, "%s: no memory for its vocabulary", g->path);
    if (st == OK) {
        str_add(json, a);
        str_add(config, b);
    }
    free(a);
    free(b);
    cJSON_Delete(root);
    cJSON_Delete(settings);
    vocabulary_clear(&v);
    return st;
}

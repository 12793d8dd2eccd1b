#include "base/utf8.h"
#include "engine/tokenizer/tokenizer_component.h"
#include "engine/tokenizer/tokenizer_parts.h"

#include <math.h>

/* The parser works with C strings, so a zero inside a string would cut it short; and it takes any
 * bytes. */
static enum status check_text(const char *file, const char *json, size_t len)
{
    size_t bad;
    if (!utf8_valid(json, len, &bad))
        return fail(ERR_FORMAT, "%s: byte %zu: found bytes that are not UTF-8", file, bad);
    const char *zero = memchr(json, 0, len);
    if (zero)
        return fail(ERR_FORMAT, "%s: byte %zu: found a zero byte", file, (size_t)(zero - json));
    for (const char *p = json, *end = json + len; (p = memmem(p, (size_t)(end - p), "\\u0000", 6));
         p++) {
        size_t backslashes = 0;
        while (p - backslashes > json && p[-(ptrdiff_t)backslashes - 1] == '\\') backslashes++;
        if (backslashes % 2 == 0)
            return fail(ERR_UNSUPPORTED,
                "%s: byte %zu: found \\u0000 inside a string, expected texts without zero "
                "characters",
                file, (size_t)(p - json));
    }
    return OK;
}

static struct json_in part(const cJSON *root, const char *file, const char *field)
{
    return (struct json_in){cJSON_GetObjectItemCaseSensitive(root, field), file, field};
}

static enum status read_vocab(struct tokenizer *t, struct json_in in)
{
    const cJSON *vocab = cJSON_GetObjectItemCaseSensitive(in.node, "vocab");
    if (!cJSON_IsObject(vocab))
        return fail(ERR_FORMAT,
            "%s: field model.vocab: found %s, expected an object of tokens and ids", in.file,
            json_kind(vocab));
    for (const cJSON *token = vocab->child; token; token = token->next) {
        double id = token->valuedouble;
        if (!cJSON_IsNumber(token) || !(id >= 0 && id <= BPE_MAX_ID) || id != floor(id))
            return fail(ERR_FORMAT,
                "%s: field model.vocab: found no id for \"%s\", expected a whole number from 0 to "
                "%d",
                in.file, token->string, BPE_MAX_ID);
        enum status st = bpe_add_token(t->bpe, token->string, strlen(token->string), (int64_t)id);
        if (st != OK) return fail_context(st, "%s: field model.vocab", in.file);
    }
    return OK;
}

/* "a b", the form of older files; false when it is not two parts. */
static bool split_merge(const char *text, const char *parts[2], size_t sizes[2])
{
    const char *space = strchr(text, ' ');
    if (!space || strchr(space + 1, ' ')) return false;
    parts[0] = text;
    sizes[0] = (size_t)(space - text);
    parts[1] = space + 1;
    sizes[1] = strlen(space + 1);
    return true;
}

static enum status read_merges(struct tokenizer *t, struct json_in in)
{
    const cJSON *merges = cJSON_GetObjectItemCaseSensitive(in.node, "merges");
    if (!cJSON_IsArray(merges))
        return fail(ERR_FORMAT, "%s: field model.merges: found %s, expected an array", in.file,
            json_kind(merges));
    size_t i = 0;
    bool texts = cJSON_IsString(merges->child);
    for (const cJSON *merge = merges->child; merge; merge = merge->next, i++) {
        const char *parts[2] = {NULL, NULL};
        size_t sizes[2] = {0, 0};
        bool good = false;
        if (texts && cJSON_IsString(merge)) {
            if (str_starts_with(merge->valuestring, "#version")) continue;
            good = split_merge(merge->valuestring, parts, sizes);
        } else if (!texts && cJSON_GetArraySize(merge) == 2) {
            const cJSON *left = merge->child, *right = left->next;
            good = cJSON_IsArray(merge) && cJSON_IsString(left) && cJSON_IsString(right);
            for (int k = 0; good && k < 2; k++) {
                parts[k] = (k ? right : left)->valuestring;
                sizes[k] = strlen(parts[k]);
            }
        }
        if (!good)
            return fail(ERR_FORMAT, "%s: field model.merges[%zu]: found %s, expected %s", in.file,
                i, json_kind(merge),
                texts ? "\"left right\" as in the first entry"
                      : "[\"left\", \"right\"] as in the first entry");
        enum status st = bpe_add_merge(t->bpe, parts[0], sizes[0], parts[1], sizes[1]);
        if (st != OK) return fail_context(st, "%s: field model.merges", in.file);
    }
    return OK;
}

/* A field that must be absent, null or empty. */
static enum status refuse_affix(struct json_in in, const char *field)
{
    const char *text = "";
    TRY(json_get_string(in, field, false, &text));
    if (*text == 0) return OK;
    return fail(ERR_UNSUPPORTED,
        "%s: field model.%s: found \"%s\", expected null; marked subwords are not offered", in.file,
        field, text);
}

static enum status read_model(struct tokenizer *t, struct json_in in)
{
    const char *type = "BPE", *unk = NULL;
    double dropout = 0;
    struct bpe_options options = {.unk = -1};
    if (!cJSON_IsObject(in.node))
        return fail(ERR_FORMAT, "%s: field model: found %s, expected an object", in.file,
            json_kind(in.node));
    TRY(json_get_string(in, "type", false, &type));
    if (strcmp(type, "BPE") != 0) return component_unknown(in, type, "BPE");
    TRY(json_get_double(in, "dropout", false, 0, 1, &dropout));
    if (dropout > 0)
        return fail(ERR_UNSUPPORTED,
            "%s: field model.dropout: found %g, expected null: an evaluation needs the same "
            "ids every time; set it to null",
            in.file, dropout);
    TRY(refuse_affix(in, "continuing_subword_prefix"));
    TRY(refuse_affix(in, "end_of_word_suffix"));
    TRY(json_get_bool(in, "fuse_unk", false, &options.fuse_unk));
    TRY(json_get_bool(in, "byte_fallback", false, &options.byte_fallback));
    TRY(json_get_bool(in, "ignore_merges", false, &options.ignore_merges));
    TRY(json_get_string(in, "unk_token", false, &unk));
    TRY(read_vocab(t, in));
    TRY(read_merges(t, in));
    if (unk) {
        options.unk = bpe_find(t->bpe, unk, strlen(unk));
        if (options.unk < 0)
            return fail(ERR_FORMAT,
                "%s: field model.unk_token: found \"%s\", expected a token of model.vocab", in.file,
                unk);
    }
    return bpe_finish(t->bpe, options);
}

static enum status id_list_add(struct id_list *l, int32_t id)
{
    TRY(GROW(l->ids, l->cap, l->n + 1));
    l->ids[l->n++] = id;
    return OK;
}

/* Append the ids of a template's special token. */
static enum status add_template_ids(
    const struct tokenizer *t, struct json_in in, const char *name, struct id_list *to)
{
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(in.node, "special_tokens");
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(
                    cJSON_GetObjectItemCaseSensitive(all, name), "ids"),
                *id;
    if (!cJSON_IsArray(ids))
        return fail(ERR_FORMAT,
            "%s: field %s.special_tokens: found no ids of \"%s\", which the template uses", in.file,
            in.path, name);
    cJSON_ArrayForEach(id, ids)
    {
        size_t len;
        double value = cJSON_IsNumber(id) ? id->valuedouble : -1;
        if (!(value >= 0 && value <= BPE_MAX_ID) || value != floor(value) ||
            !tokenizer_token(t, (int32_t)value, &len))
            return fail(ERR_FORMAT,
                "%s: field %s.special_tokens: found %g among the ids of \"%s\", expected ids of "
                "the "
                "vocabulary",
                in.file, in.path, value, name);
        TRY(id_list_add(to, (int32_t)value));
    }
    return OK;
}

static enum status read_template(struct tokenizer *t, struct json_in in)
{
    const cJSON *single = cJSON_GetObjectItemCaseSensitive(in.node, "single"), *piece;
    struct id_list before = {0};
    enum status st = OK;
    int n_texts = 0;
    cJSON_ArrayForEach(piece, single)
    {
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(piece, "Sequence");
        const cJSON *special = cJSON_GetObjectItemCaseSensitive(piece, "SpecialToken");
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(text ? text : special, "id");
        if (!cJSON_IsString(name) || (text && strcmp(name->valuestring, "A") != 0)) {
            n_texts = -1;
            break;
        }
        n_texts += text != NULL;
        if (special) st = add_template_ids(t, in, name->valuestring, n_texts ? &t->after : &before);
        if (st != OK) break;
    }
    if (st == OK && n_texts != 1)
        st = fail(ERR_UNSUPPORTED,
            "%s: field %s.single: expected one Sequence \"A\" with SpecialTokens around it",
            in.file, in.path);
    /* a template after another one goes around it */
    for (size_t i = 0; st == OK && i < t->before.n; i++)
        st = id_list_add(&before, t->before.ids[i]);
    if (st == OK) {
        free(t->before.ids);
        t->before = before;
    } else {
        free(before.ids);
    }
    return st;
}

static enum status read_processor(void *into, struct json_in in, int depth)
{
    const char *type = NULL;
    TRY(component_type(in, &type));
    if (strcmp(type, "Sequence") == 0)
        return component_sequence(in, "processors", read_processor, into, depth);
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(into, in);
    /* trims offsets, which we never do, and changes no id */
    if (strcmp(type, "ByteLevel") == 0) return OK;
    return component_unknown(in, type, "Sequence, TemplateProcessing or ByteLevel");
}

static void note_unused(struct tokenizer *t, const cJSON *root, const char *file, const char *field)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(root, field);
    if (node && !cJSON_IsNull(node))
        str_addf(&t->notes, "%s: field %s is not applied to texts\n", file, field);
}

static enum status read_parts(
    struct tokenizer *t, const cJSON *root, const char *file, bool *had_processor)
{
    const char *version = "1.0";
    if (!cJSON_IsObject(root))
        return fail(ERR_FORMAT, "%s: found %s, expected an object", file, json_kind(root));
    TRY(json_get_string((struct json_in){root, file, ""}, "version", false, &version));
    if (strcmp(version, "1.0") != 0)
        return fail(
            ERR_UNSUPPORTED, "%s: field version: found \"%s\", expected \"1.0\"", file, version);
    TRY(read_model(t, part(root, file, "model")));
    TRY(normalizer_open(&t->normalizer, part(root, file, "normalizer")));
    TRY(pretokenizer_open(&t->pretokenizer, part(root, file, "pre_tokenizer")));
    TRY(decoder_open(&t->decoder, part(root, file, "decoder")));
    TRY(added_vocab_open(&t->added, part(root, file, "added_tokens"), t->bpe, t->normalizer));
    struct json_in processor = part(root, file, "post_processor");
    *had_processor = processor.node && !cJSON_IsNull(processor.node);
    if (*had_processor) TRY(read_processor(t, processor, 0));
    note_unused(t, root, file, "truncation");
    note_unused(t, root, file, "padding");
    return OK;
}

enum status tokenizer_read_json(
    struct tokenizer *t, const char *file, const char *json, size_t len, bool *had_processor)
{
    cJSON *root;
    TRY(check_text(file, json, len));
    TRY(json_parse_foreign(&root, file, 1, json, len));
    t->bos = t->eos = -1;
    enum status st = bpe_open(&t->bpe);
    if (st == OK) st = read_parts(t, root, file, had_processor);
    cJSON_Delete(root);
    return st;
}

/* A special token of a config: a string or an object with "content". Unknown spellings are noted.
 */
static enum status read_special(
    struct tokenizer *t, struct json_in in, const char *field, int32_t *id)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(in.node, field);
    if (cJSON_IsObject(node)) node = cJSON_GetObjectItemCaseSensitive(node, "content");
    if (!node || cJSON_IsNull(node) || *id >= 0) return OK;
    if (!cJSON_IsString(node))
        return fail(ERR_FORMAT, "%s: field %s: found %s, expected a token's text", in.file, field,
            json_kind(node));
    *id = tokenizer_find(t, node->valuestring);
    if (*id < 0) {
        char *shown = utf8_shown(node->valuestring);
        str_addf(&t->notes,
            "%s: field %s: \"%s\" is not in the vocabulary, so there is no such token\n", in.file,
            field, shown);
        free(shown);
    }
    return OK;
}

static enum status read_config(struct tokenizer *t, struct json_in in, bool had_processor)
{
    bool add_bos = false, add_eos = false;
    if (!cJSON_IsObject(in.node))
        return fail(ERR_FORMAT, "%s: found %s, expected an object", in.file, json_kind(in.node));
    TRY(read_special(t, in, "bos_token", &t->bos));
    TRY(read_special(t, in, "eos_token", &t->eos));
    TRY(json_get_bool(in, "add_bos_token", false, &add_bos));
    TRY(json_get_bool(in, "add_eos_token", false, &add_eos));
    if (had_processor) return OK;
    if (add_bos && t->bos >= 0) TRY(id_list_add(&t->before, t->bos));
    if (add_eos && t->eos >= 0) TRY(id_list_add(&t->after, t->eos));
    return OK;
}

enum status tokenizer_read_config(
    struct tokenizer *t, const char *file, const char *json, size_t len, bool had_processor)
{
    cJSON *root;
    TRY(check_text(file, json, len));
    TRY(json_parse_foreign(&root, file, 1, json, len));
    enum status st = read_config(t, (struct json_in){root, file, ""}, had_processor);
    cJSON_Delete(root);
    return st;
}

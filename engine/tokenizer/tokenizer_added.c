#include "engine/tokenizer/tokenizer_added.h"

#include "engine/tokenizer/tokenizer_unicode.h"

#define NO_TOKEN UINT32_MAX

/* A tree of bytes; node 0 is the root, so 0 also says "no such node". */
struct trie {
    struct node {
        uint32_t child, sibling, token; /* token: index, NO_TOKEN when no pattern ends here */
        unsigned char byte;
    } * nodes;
    size_t n, cap;
    uint32_t first[256]; /* children of the root */
};

struct added_vocab {
    struct added_token *tokens;
    size_t n_tokens, cap_tokens;
    int32_t *by_id; /* index, -1: none */
    size_t n_by_id;
    struct bpe *names; /* content to index */
    struct trie raw, normalized;
};

static enum status add_node(struct trie *t, unsigned char byte, uint32_t sibling, uint32_t *index)
{
    if (t->n == 0) t->n = 1;
    TRY(GROW(t->nodes, t->cap, t->n + 1));
    *index = (uint32_t)t->n++;
    t->nodes[*index] = (struct node){0, sibling, NO_TOKEN, byte};
    return OK;
}

static uint32_t find_child(const struct trie *t, uint32_t at, unsigned char byte)
{
    uint32_t child = t->nodes[at].child;
    while (child && t->nodes[child].byte != byte) child = t->nodes[child].sibling;
    return child;
}

/* *taken: another token already has this pattern. */
static enum status add_pattern(struct trie *t, const char *s, size_t n, uint32_t token, bool *taken)
{
    uint32_t at = t->first[(unsigned char)s[0]];
    if (!at) TRY(add_node(t, (unsigned char)s[0], 0, &at));
    t->first[(unsigned char)s[0]] = at;
    for (size_t i = 1; i < n; i++) {
        uint32_t child = find_child(t, at, (unsigned char)s[i]);
        if (!child) {
            TRY(add_node(t, (unsigned char)s[i], t->nodes[at].child, &child));
            t->nodes[at].child = child;
        }
        at = child;
    }
    *taken = t->nodes[at].token != NO_TOKEN;
    if (!*taken) t->nodes[at].token = token;
    return OK;
}

/* The longest pattern at s[at]; its end, or 0 for none. */
static size_t match_at(const struct trie *t, const char *s, size_t n, size_t at, uint32_t *token)
{
    size_t end = 0;
    uint32_t node = t->first[(unsigned char)s[at]];
    while (node) {
        at++;
        if (t->nodes[node].token != NO_TOKEN) {
            *token = t->nodes[node].token;
            end = at;
        }
        node = at < n ? find_child(t, node, (unsigned char)s[at]) : 0;
    }
    return end;
}

static enum status read_token(struct json_in in, struct added_token *token, int64_t *id)
{
    const char *content = NULL;
    if (!cJSON_IsObject(in.node))
        return fail(ERR_FORMAT, "%s: field %s: found %s, expected an object", in.file, in.path,
            json_kind(in.node));
    TRY(json_get_int(in, "id", true, 0, BPE_MAX_ID, id));
    TRY(json_get_string(in, "content", true, &content));
    TRY(json_get_bool(in, "single_word", true, &token->single_word));
    TRY(json_get_bool(in, "lstrip", true, &token->lstrip));
    TRY(json_get_bool(in, "rstrip", true, &token->rstrip));
    TRY(json_get_bool(in, "normalized", true, &token->normalized));
    TRY(json_get_bool(in, "special", true, &token->special));
    token->content = str_dup(content);
    token->len = strlen(content);
    return OK;
}

static enum status set_id(struct added_vocab *a, size_t index, int32_t id)
{
    size_t cap = a->n_by_id;
    TRY(GROW(a->by_id, cap, (size_t)id + 1));
    for (; a->n_by_id < cap; a->n_by_id++) a->by_id[a->n_by_id] = -1;
    a->by_id[id] = (int32_t)index;
    return OK;
}

/* Takes over token->content. */
static enum status add_token(struct added_vocab *a, struct json_in in, struct added_token *token,
    int64_t id, const struct bpe *bpe, int32_t *next_id)
{
    const struct added_token *same = added_vocab_by_text(a, token->content);
    token->id = same ? same->id : bpe_find(bpe, token->content, token->len);
    if (token->id < 0) token->id = (*next_id)++;
    if (token->id != id) {
        enum status st = fail(ERR_FORMAT,
            "%s: field %s.id: found %lld for \"%s\", expected %d (added tokens follow "
            "the %zu tokens of the model without a gap); save the tokenizer again with "
            "`tokenizers`",
            in.file, in.path, (long long)id, token->content, token->id, bpe_n_tokens(bpe));
        free(token->content);
        return st;
    }
    if (same) { /* said twice: the later entry counts */
        size_t index = (size_t)(same - a->tokens);
        free(a->tokens[index].content);
        a->tokens[index] = *token;
        return OK;
    }
    enum status st = GROW(a->tokens, a->cap_tokens, a->n_tokens + 1);
    if (st != OK) {
        free(token->content);
        return st;
    }
    a->tokens[a->n_tokens++] = *token;
    TRY(bpe_add_token(a->names, token->content, token->len, (int64_t)a->n_tokens - 1));
    return set_id(a, a->n_tokens - 1, token->id);
}

/* Keep a copy of the form in which a token is searched: decoders see it too. */
static void keep_decoded(struct added_token *token, const struct text *pattern)
{
    struct str copy = {0};
    str_add_bytes(&copy, pattern->s, pattern->n);
    token->decoded = copy.data;
    token->n_decoded = copy.len;
}

static enum status build_tries(
    struct added_vocab *a, struct json_in in, const struct normalizer *normalizer)
{
    struct normalizer_work work = {0};
    enum status st = OK;
    for (size_t i = 0; st == OK && i < a->n_tokens; i++) {
        struct added_token *token = &a->tokens[i];
        struct text pattern = {token->content, token->len, NULL, 0};
        if (token->normalized) st = normalizer_apply(normalizer, &work, pattern, &pattern);
        if (st != OK) break;
        keep_decoded(token, &pattern);
        bool taken = false;
        if (pattern.n > 0)
            st = add_pattern(token->normalized ? &a->normalized : &a->raw, pattern.s, pattern.n,
                (uint32_t)i, &taken);
        if (st == OK && (taken || pattern.n == 0))
            st = fail(ERR_FORMAT,
                "%s: field %s: found \"%s\", which after normalisation is %s, expected a text of "
                "its own for each token",
                in.file, in.path, token->content, taken ? "another token" : "empty");
    }
    normalizer_work_clear(&work);
    return st;
}

enum status added_vocab_open(struct added_vocab **out, struct json_in in, const struct bpe *bpe,
    const struct normalizer *normalizer)
{
    struct added_vocab *a = *out = calloc(1, sizeof *a);
    if (!a) return fail(ERR_MEMORY, "%s: no memory for added tokens", in.file);
    if (in.node && !cJSON_IsNull(in.node) && !cJSON_IsArray(in.node)) {
        added_vocab_close(out);
        return fail(ERR_FORMAT, "%s: field %s: found %s, expected an array", in.file, in.path,
            json_kind(in.node));
    }
    int32_t next_id = (int32_t)bpe_n_tokens(bpe);
    enum status st = bpe_open(&a->names);
    size_t i = 0;
    for (const cJSON *node = in.node ? in.node->child : NULL; st == OK && node; node = node->next) {
        char *path = str_format("%s[%zu]", in.path, i++);
        struct json_in element = {node, in.file, path};
        struct added_token token = {0};
        int64_t id = 0;
        st = read_token(element, &token, &id);
        if (st == OK && token.len == 0)
            free(token.content); /* as `tokenizers` does: an empty token is no token */
        else if (st == OK) st = add_token(a, element, &token, id, bpe, &next_id);
        free(path);
    }
    if (st == OK) st = build_tries(a, in, normalizer);
    if (st != OK) added_vocab_close(out);
    return st;
}

void added_vocab_close(struct added_vocab **a)
{
    if (!*a) return;
    for (size_t i = 0; i < (*a)->n_tokens; i++) {
        free((*a)->tokens[i].content);
        free((*a)->tokens[i].decoded);
    }
    free((*a)->tokens);
    free((*a)->by_id);
    bpe_close(&(*a)->names);
    free((*a)->raw.nodes);
    free((*a)->normalized.nodes);
    free(*a);
    *a = NULL;
}

int32_t added_vocab_max_id(const struct added_vocab *a)
{
    int32_t max = -1;
    for (size_t i = 0; i < a->n_tokens; i++)
        if (a->tokens[i].id > max) max = a->tokens[i].id;
    return max;
}

const struct added_token *added_vocab_by_id(const struct added_vocab *a, int32_t id)
{
    if (id < 0 || (size_t)id >= a->n_by_id || a->by_id[id] < 0) return NULL;
    return &a->tokens[a->by_id[id]];
}

const struct added_token *added_vocab_by_text(const struct added_vocab *a, const char *text)
{
    int32_t index = bpe_find(a->names, text, strlen(text));
    return index >= 0 ? &a->tokens[index] : NULL;
}

/* Where the character starts that stands in front of s[at]. */
static size_t start_before(const char *s, size_t at)
{
    do at--;
    while (at > 0 && !utf8_is_start(s[at]));
    return at;
}

static uint32_t char_before(const char *s, size_t at)
{
    size_t start = start_before(s, at);
    uint32_t cp;
    utf8_read(s + start, at - start, &cp);
    return cp;
}

static uint32_t char_at(const char *s, size_t n, size_t at)
{
    uint32_t cp;
    utf8_read(s + at, n - at, &cp);
    return cp;
}

static bool stands_alone(const struct text *in, size_t begin, size_t end)
{
    if (begin > 0 && unicode_is_word(char_before(in->s, begin))) return false;
    return end == in->n || !unicode_is_word(char_at(in->s, in->n, end));
}

enum status added_vocab_split(const struct added_vocab *a, bool normalized, const struct text *in,
    added_vocab_sink *sink, void *user)
{
    const struct trie *trie = normalized ? &a->normalized : &a->raw;
    size_t done = 0, end;
    for (size_t at = 0; trie->n > 0 && at < in->n; at = end) {
        uint32_t index = 0;
        while (at < in->n && !trie->first[(unsigned char)in->s[at]]) at++;
        if (at == in->n) break;
        end = match_at(trie, in->s, in->n, at, &index);
        if (end == 0) {
            end = at + 1;
            continue;
        }
        const struct added_token *token = &a->tokens[index];
        if (token->single_word && !stands_alone(in, at, end)) continue;
        size_t first = at, last = end;
        while (token->lstrip && first > done && unicode_is_space(char_before(in->s, first)))
            first = start_before(in->s, first);
        while (token->rstrip && last < in->n && unicode_is_space(char_at(in->s, in->n, last)))
            last += utf8_length((unsigned char)in->s[last]);
        if (first > done) {
            struct text plain = text_slice(in, done, first);
            TRY(sink(user, &plain, -1));
        }
        struct text stretch = text_slice(in, first, last);
        TRY(sink(user, &stretch, token->id));
        done = last;
    }
    if (done == in->n) return OK;
    struct text rest = text_slice(in, done, in->n);
    return sink(user, &rest, -1);
}

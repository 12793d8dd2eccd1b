#include "engine/tokenizer/tokenizer.h"

#include "base/file.h"
#include "engine/tokenizer/tokenizer_parts.h"

#define REMEMBER_FROM 2048 /* bytes of text that repay a table of known words */

/* What one encode call owns. */
struct encoding {
    const struct tokenizer *t;
    struct normalizer_work normalizer;
    struct pretokenizer_work pretokenizer;
    struct bpe_work bpe;
    struct token_list *out;
};

static enum status encode_piece(void *user, const struct text *piece)
{
    struct encoding *e = user;
    TRY(bpe_encode(e->t->bpe, &e->bpe, piece->s, piece->n));
    for (size_t i = 0; i < e->bpe.n_tokens; i++)
        TRY(token_list_add(e->out, e->bpe.tokens[i].id, text_origin(piece, e->bpe.tokens[i].at)));
    return OK;
}

static enum status encode_normalized(void *user, const struct text *stretch, int32_t id)
{
    struct encoding *e = user;
    if (id >= 0) return token_list_add(e->out, id, text_origin(stretch, 0));
    return pretokenizer_apply(e->t->pretokenizer, &e->pretokenizer, stretch, encode_piece, e);
}

static enum status encode_raw(void *user, const struct text *stretch, int32_t id)
{
    struct encoding *e = user;
    if (id >= 0) return token_list_add(e->out, id, text_origin(stretch, 0));
    struct text normalized;
    TRY(normalizer_apply(e->t->normalizer, &e->normalizer, *stretch, &normalized));
    return added_vocab_split(e->t->added, true, &normalized, encode_normalized, e);
}

static enum status encode_text(
    const struct tokenizer *t, const char *text, size_t len, struct token_list *out)
{
    struct encoding e = {.t = t, .out = out};
    struct text whole = {text, len, NULL, 0};
    enum status st = len >= REMEMBER_FROM ? bpe_work_remember(&e.bpe, len) : OK;
    if (st == OK) st = added_vocab_split(t->added, false, &whole, encode_raw, &e);
    bpe_work_clear(&e.bpe);
    pretokenizer_work_clear(&e.pretokenizer);
    normalizer_work_clear(&e.normalizer);
    return st;
}

static enum status add_ids(struct token_list *out, const struct id_list *ids, uint32_t begin)
{
    for (size_t i = 0; i < ids->n; i++) TRY(token_list_add(out, ids->ids[i], begin));
    return OK;
}

enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t len,
    bool add_special, struct token_list *out, size_t *n_replaced)
{
    if (n_replaced) *n_replaced = 0;
    if (len > INT32_MAX)
        return fail(
            ERR_ARG, "tokenizer: a text of %zu bytes, expected less than 2 GiB; cut it first", len);
    struct str repaired = {0};
    if (!utf8_valid(text, len, NULL)) {
        size_t n = utf8_repair(&repaired, text, len);
        if (n_replaced) *n_replaced = n;
        text = repaired.data;
        len = repaired.len;
    }
    size_t n_before = out->n;
    enum status st = add_special ? add_ids(out, &t->before, 0) : OK;
    if (st == OK) st = encode_text(t, text, len, out);
    if (st == OK && add_special) st = add_ids(out, &t->after, (uint32_t)len);
    if (st != OK) out->n = n_before;
    str_clear(&repaired);
    return st;
}

static const char *const bos_rules[] = {"tokenizer", "always", "never"};

const char *bos_rule_name(enum bos_rule rule) { return bos_rules[rule]; }

bool bos_rule_parse(const char *text, enum bos_rule *rule)
{
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, bos_rules[i]) != 0) continue;
        *rule = (enum bos_rule)i;
        return true;
    }
    return false;
}

size_t tokenizer_prefix(const struct tokenizer *t, enum bos_rule rule, const int32_t **ids)
{
    *ids = rule == BOS_TOKENIZER ? t->before.ids : &t->bos;
    return rule == BOS_TOKENIZER ? t->before.n : rule == BOS_ALWAYS && t->bos >= 0;
}

void tokenizer_prefix_text(const struct tokenizer *t, enum bos_rule rule, struct str *out)
{
    const int32_t *ids;
    size_t n = tokenizer_prefix(t, rule, &ids), len;
    str_add(out, n ? "begin with " : "begin with no special token");
    for (size_t i = 0; i < n; i++) {
        const char *text = tokenizer_token(t, ids[i], &len);
        char *shown = text ? str_format("%.*s", (int)len, text) : str_format("token %d", ids[i]);
        utf8_add_shown(out, shown);
        free(shown);
    }
    str_addf(out, rule == BOS_TOKENIZER ? " by the tokenizer's rule" : " by --bos %s",
        bos_rule_name(rule));
}

enum status tokenizer_encode_behind(const struct tokenizer *t, enum bos_rule rule, const char *text,
    size_t len, struct token_list *out, size_t *n_replaced)
{
    const int32_t *ids;
    size_t n = tokenizer_prefix(t, rule, &ids), first = out->n;
    TRY(tokenizer_encode(t, text, len, false, out, n_replaced));
    if (n == 0 || out->n - first < n || memcmp(out->ids + first, ids, n * sizeof *ids) != 0)
        return OK;
    out->n -= n;
    memmove(out->ids + first, out->ids + first + n, (out->n - first) * sizeof *out->ids);
    memmove(out->begin + first, out->begin + first + n, (out->n - first) * sizeof *out->begin);
    return OK;
}

enum status tokenizer_check_ids(
    const struct tokenizer *t, const int32_t *ids, size_t n, int n_rows, const char *where)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < n_rows) continue;
        size_t len = 0;
        const char *text = tokenizer_token(t, ids[i], &len);
        return fail(ERR_FORMAT,
            "%s: token %d, \"%.*s\": found beyond the %d rows of the embedding table, "
            "tokenizer.json has %d ids; take "
            "it out of the text, or download both again if they belong to different models",
            where, ids[i], (int)len, text ? text : "", n_rows, tokenizer_vocab_size(t));
    }
    return OK;
}

size_t tokenizer_repair(struct str *out, const char *text, size_t len)
{
    return utf8_repair(out, text, len);
}

enum status tokenizer_decode(
    const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct str *out)
{
    struct pieces pieces = {0};
    enum status st = OK;
    for (size_t i = 0; st == OK && i < n; i++) {
        size_t len;
        const struct added_token *added = added_vocab_by_id(t->added, ids[i]);
        const char *text = added ? added->decoded : bpe_text(t->bpe, ids[i], &len);
        if (added) len = added->n_decoded;
        if (ids[i] < 0)
            st = fail(ERR_ARG, "tokenizer: found %d as a token id, expected none below 0", ids[i]);
        else if (text && !(skip_special && added && added->special))
            st = pieces_add(&pieces, text, len);
    }
    if (st == OK) st = decoder_apply(t->decoder, &pieces, out);
    pieces_clear(&pieces);
    return st;
}

static enum status window_text(
    const struct token_stream *s, const struct tokenizer *t, size_t from, struct str *text)
{
    str_reset(text);
    if (from == s->n) return OK;
    return tokenizer_decode(t, s->ids + from, s->n - from, s->skip_special, text);
}

static bool unfinished(const struct str *text)
{
    return text->len >= 3 && memcmp(text->data + text->len - 3, "\xEF\xBF\xBD", 3) == 0;
}

/* Append what the window's whole text has more than was shown. Stray bytes can change what came
 * before them (decoder ByteFallback); then the new ids speak for themselves. */
static enum status show_rest(
    struct token_stream *s, const struct tokenizer *t, struct str *text, struct str *out)
{
    size_t known = s->shown.len;
    if (text->len >= known && memcmp(str_get(text), str_get(&s->shown), known) == 0) {
        str_add_bytes(out, str_get(text) + known, text->len - known);
        return OK;
    }
    TRY(window_text(s, t, s->n_shown, text));
    str_add_bytes(out, str_get(text), text->len);
    return OK;
}

enum status token_stream_push(
    struct token_stream *s, const struct tokenizer *t, int32_t id, struct str *out)
{
    TRY(GROW(s->ids, s->cap, s->n + 1));
    s->ids[s->n++] = id;
    struct str text = {0};
    enum status st = window_text(s, t, 0, &text);
    if (st != OK) s->n--;
    if (st == OK && text.len > s->shown.len && !unfinished(&text)) {
        st = show_rest(s, t, &text, out);
        /* the window slides: the ids shown last time go, those shown now give the next ids their
         * context */
        s->n -= s->n_shown;
        memmove(s->ids, s->ids + s->n_shown, s->n * sizeof *s->ids);
        s->n_shown = s->n;
        if (st == OK) st = window_text(s, t, 0, &s->shown);
    }
    str_clear(&text);
    return st;
}

enum status token_stream_flush(struct token_stream *s, const struct tokenizer *t, struct str *out)
{
    struct str text = {0};
    enum status st = window_text(s, t, 0, &text);
    if (st == OK) st = show_rest(s, t, &text, out);
    str_clear(&text);
    s->n = s->n_shown = 0;
    str_reset(&s->shown);
    return st;
}

void token_stream_clear(struct token_stream *s)
{
    free(s->ids);
    str_clear(&s->shown);
    *s = (struct token_stream){.skip_special = s->skip_special};
}

void token_list_clear(struct token_list *l)
{
    free(l->ids);
    free(l->begin);
    *l = (struct token_list){0};
}

enum status token_list_add(struct token_list *l, int32_t id, uint32_t begin)
{
    size_t cap = l->cap;
    TRY(GROW(l->ids, cap, l->n + 1));
    if (cap != l->cap) {
        size_t cap_begin = l->cap;
        TRY(GROW(l->begin, cap_begin, cap));
        l->cap = cap;
    }
    l->ids[l->n] = id;
    l->begin[l->n++] = begin;
    return OK;
}

size_t token_list_find(const struct token_list *l, size_t from, uint32_t at)
{
    size_t lo = from, hi = l->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (l->begin[mid] < at) lo = mid + 1;
        else hi = mid;
    }
    return lo > from && lo <= l->n && (lo == l->n || l->begin[lo] > at) ? lo - 1 : lo;
}

int tokenizer_vocab_size(const struct tokenizer *t)
{
    int32_t model = bpe_max_id(t->bpe), added = added_vocab_max_id(t->added);
    return (model > added ? model : added) + 1;
}

int tokenizer_bos(const struct tokenizer *t) { return t->bos; }
int tokenizer_eos(const struct tokenizer *t) { return t->eos; }
const char *tokenizer_fingerprint(const struct tokenizer *t) { return t->fingerprint; }
const char *tokenizer_notes(const struct tokenizer *t) { return str_get(&t->notes); }

const char *tokenizer_token(const struct tokenizer *t, int32_t id, size_t *len)
{
    const struct added_token *added = added_vocab_by_id(t->added, id);
    if (!added) return bpe_text(t->bpe, id, len);
    *len = added->len;
    return added->content;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *token)
{
    const struct added_token *added = added_vocab_by_text(t->added, token);
    return added ? added->id : bpe_find(t->bpe, token, strlen(token));
}

#include "engine/tokenizer/bpe.h"

#include "base/str.h"
#include "engine/tokenizer/bpe_vocab.h"
#include "engine/tokenizer/tokenizer_grow.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define MEMORY_TEXT 48  /* longest remembered stretch in bytes; words are shorter */
#define SCAN_SYMBOLS 24 /* up to here a linear search for the best pair beats a heap */

struct bpe_symbol {
    int32_t id;
    uint32_t at, len; /* len 0: merged into its left neighbour */
    int32_t prev, next;
};

/* Remembered stretches: an open hash table that stops filling when half full. */
struct bpe_memory {
    struct memory_slot {
        uint64_t hash; /* 0: free */
        uint32_t text, token;
        uint16_t n_text, n_tokens;
    } * slots;
    size_t n_slots, n_used;
    char *texts;
    size_t n_texts, cap_texts;
    struct bpe_token *tokens;
    size_t n_tokens, cap_tokens;
};

void bpe_work_clear(struct bpe_work *w)
{
    free(w->tokens);
    free(w->symbols);
    free(w->heap);
    if (w->memory) {
        free(w->memory->slots);
        free(w->memory->texts);
        free(w->memory->tokens);
        free(w->memory);
    }
    *w = (struct bpe_work){0};
}

enum status bpe_work_remember(struct bpe_work *w, size_t n_bytes)
{
    size_t n_slots = 1024;
    while (n_slots < n_bytes / 8 && n_slots < 1 << 16) n_slots *= 2;
    if (w->memory) return OK;
    w->memory = calloc(1, sizeof *w->memory);
    if (w->memory) w->memory->slots = calloc(n_slots, sizeof *w->memory->slots);
    if (!w->memory || !w->memory->slots)
        return fail(ERR_MEMORY, "tokenizer: no memory to remember words");
    w->memory->n_slots = n_slots;
    return OK;
}

static enum status put_token(struct bpe_work *w, int32_t id, uint32_t at)
{
    TRY(GROW(w->tokens, w->cap_tokens, w->n_tokens + 1));
    w->tokens[w->n_tokens++] = (struct bpe_token){id, at};
    return OK;
}

static enum status put_symbol(struct bpe_work *w, int32_t id, size_t at, size_t len)
{
    TRY(GROW(w->symbols, w->cap_symbols, w->n_symbols + 1));
    size_t i = w->n_symbols++;
    if (i > 0 && w->symbols[i - 1].at > at) at = w->symbols[i - 1].at;
    w->symbols[i] =
        (struct bpe_symbol){id, (uint32_t)at, (uint32_t)len, (int32_t)i - 1, (int32_t)i + 1};
    return OK;
}

/* A pending run of unknown characters that becomes one symbol. */
struct unknown_run {
    size_t at, len; /* len 0: none pending */
};

static enum status flush_unknown(const struct bpe *b, struct bpe_work *w, struct unknown_run *run)
{
    if (run->len > 0) TRY(put_symbol(w, b->options.unk, run->at, run->len));
    run->len = 0;
    return OK;
}

/* One character that is not in the vocabulary. As in `tokenizers`, its bytes do not flush a pending
 * unknown run: in a vocabulary with only some byte tokens the unknown token comes out behind them.
 */
static enum status add_unknown(const struct bpe *b, struct bpe_work *w, const char *text, size_t at,
    size_t len, struct unknown_run *run)
{
    bool as_bytes = b->options.byte_fallback;
    for (size_t i = 0; i < len; i++)
        as_bytes = as_bytes && b->byte_ids[(unsigned char)text[at + i]] >= 0;
    if (as_bytes) {
        for (size_t i = 0; i < len; i++)
            TRY(put_symbol(w, b->byte_ids[(unsigned char)text[at + i]], at + i, 1));
        return OK;
    }
    if (b->options.unk < 0) return OK;
    if (!b->options.fuse_unk) TRY(flush_unknown(b, w, run));
    if (run->len == 0) run->at = at;
    run->len += len;
    return OK;
}

/* Fill w->symbols from text[begin..end). */
static enum status split_symbols(
    const struct bpe *b, struct bpe_work *w, const char *text, size_t begin, size_t end)
{
    struct unknown_run run = {0, 0};
    w->n_symbols = 0;
    for (size_t at = begin; at < end;) {
        size_t len = utf8_length((unsigned char)text[at]);
        int32_t id = bpe_find_char(b, text + at, len);
        if (id >= 0) {
            TRY(flush_unknown(b, w, &run));
            TRY(put_symbol(w, id, at, len));
        } else {
            TRY(add_unknown(b, w, text, at, len, &run));
        }
        at += len;
    }
    TRY(flush_unknown(b, w, &run));
    if (w->n_symbols > 0) w->symbols[w->n_symbols - 1].next = -1;
    return OK;
}

/* Short stretches: look for the best pair over and over. */
static void merge_by_scan(const struct bpe *b, struct bpe_work *w)
{
    struct bpe_symbol *s = w->symbols;
    struct bpe_merge pair[SCAN_SYMBOLS];
    size_t n = w->n_symbols;
    for (size_t i = 0; i + 1 < n; i++) pair[i] = bpe_find_merge(b, s[i].id, s[i + 1].id);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (pair[i].rank < pair[best].rank) best = i;
        if (pair[best].rank == BPE_NO_MERGE) break;
        s[best].id = pair[best].id;
        n--;
        memmove(s + best + 1, s + best + 2, (n - best - 1) * sizeof *s);
        if (best + 1 < n) memmove(pair + best + 1, pair + best + 2, (n - best - 2) * sizeof *pair);
        if (best > 0) pair[best - 1] = bpe_find_merge(b, s[best - 1].id, s[best].id);
        if (best + 1 < n) pair[best] = bpe_find_merge(b, s[best].id, s[best + 1].id);
    }
    w->n_symbols = n;
}

/* A binary heap of rank << 32 | position, smallest first. */
static void heap_sink(uint64_t *heap, size_t n, size_t i)
{
    uint64_t key = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= key) break;
        heap[i] = heap[child];
    }
    heap[i] = key;
}

static void heap_push(struct bpe_work *w, uint64_t key)
{
    size_t i = w->n_heap++;
    for (; i > 0 && w->heap[(i - 1) / 2] > key; i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = key;
}

static void push_pair(const struct bpe *b, struct bpe_work *w, int32_t left)
{
    const struct bpe_symbol *s = w->symbols;
    if (left < 0 || s[left].next < 0) return;
    struct bpe_merge m = bpe_find_merge(b, s[left].id, s[s[left].next].id);
    if (m.rank != BPE_NO_MERGE) heap_push(w, (uint64_t)m.rank << 32 | (uint32_t)left);
}

static enum status merge_by_heap(const struct bpe *b, struct bpe_work *w)
{
    struct bpe_symbol *s = w->symbols;
    /* every merge takes one key out and puts at most two in */
    TRY(GROW(w->heap, w->cap_heap, 2 * w->n_symbols));
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < w->n_symbols; i++) {
        struct bpe_merge m = bpe_find_merge(b, s[i].id, s[i + 1].id);
        if (m.rank != BPE_NO_MERGE) w->heap[w->n_heap++] = (uint64_t)m.rank << 32 | i;
    }
    for (size_t i = w->n_heap / 2; i-- > 0;) heap_sink(w->heap, w->n_heap, i);
    while (w->n_heap > 0) {
        uint64_t top = w->heap[0];
        w->heap[0] = w->heap[--w->n_heap];
        if (w->n_heap > 0) heap_sink(w->heap, w->n_heap, 0);
        int32_t left = (int32_t)(uint32_t)top, right = s[left].next;
        if (s[left].len == 0 || right < 0) continue;
        /* a key is stale when its pair has changed and would now become another token */
        struct bpe_merge m = bpe_find_merge(b, s[left].id, s[right].id);
        int32_t id = b->merge_ids[top >> 32];
        if (m.rank == BPE_NO_MERGE || m.id != id) continue;
        s[left].id = id;
        s[left].len += s[right].len;
        s[left].next = s[right].next;
        s[right].len = 0;
        if (s[left].next >= 0) s[s[left].next].prev = left;
        push_pair(b, w, s[left].prev);
        push_pair(b, w, left);
    }
    size_t n = 0;
    for (size_t i = 0; i < w->n_symbols; i++)
        if (s[i].len > 0) s[n++] = s[i];
    w->n_symbols = n;
    return OK;
}

static enum status encode_stretch(
    const struct bpe *b, struct bpe_work *w, const char *text, size_t begin, size_t end)
{
    TRY(split_symbols(b, w, text, begin, end));
    /* the scan is exact only when symbols and their texts agree, see bpe_vocab.h */
    if (w->n_symbols <= SCAN_SYMBOLS && !b->odd_merges) merge_by_scan(b, w);
    else TRY(merge_by_heap(b, w));
    TRY(GROW(w->tokens, w->cap_tokens, w->n_tokens + w->n_symbols));
    for (size_t i = 0; i < w->n_symbols; i++)
        w->tokens[w->n_tokens++] = (struct bpe_token){w->symbols[i].id, w->symbols[i].at};
    return OK;
}

static enum status remember(struct bpe_memory *m, struct memory_slot *slot, uint64_t hash,
    const char *text, size_t n, const struct bpe_token *tokens, size_t n_tokens, size_t begin)
{
    TRY(GROW(m->texts, m->cap_texts, m->n_texts + n));
    TRY(GROW(m->tokens, m->cap_tokens, m->n_tokens + n_tokens));
    *slot = (struct memory_slot){
        hash, (uint32_t)m->n_texts, (uint32_t)m->n_tokens, (uint16_t)n, (uint16_t)n_tokens};
    memcpy(m->texts + m->n_texts, text, n);
    for (size_t i = 0; i < n_tokens; i++)
        m->tokens[m->n_tokens + i] =
            (struct bpe_token){tokens[i].id, tokens[i].at - (uint32_t)begin};
    m->n_texts += n;
    m->n_tokens += n_tokens;
    m->n_used++;
    return OK;
}

static enum status encode_remembered(
    const struct bpe *b, struct bpe_work *w, const char *text, size_t begin, size_t end)
{
    struct bpe_memory *m = w->memory;
    size_t n = end - begin;
    if (!m || n > MEMORY_TEXT) return encode_stretch(b, w, text, begin, end);
    uint64_t hash = bpe_hash(text + begin, n) | 1;
    struct memory_slot *slot;
    for (size_t i = hash >> 20;; i++) {
        slot = &m->slots[i & (m->n_slots - 1)];
        if (slot->hash == 0) break;
        if (slot->hash != hash || slot->n_text != n ||
            memcmp(m->texts + slot->text, text + begin, n) != 0)
            continue;
        TRY(GROW(w->tokens, w->cap_tokens, w->n_tokens + slot->n_tokens));
        const struct bpe_token *known = m->tokens + slot->token;
        for (size_t k = 0; k < slot->n_tokens; k++)
            w->tokens[w->n_tokens++] =
                (struct bpe_token){known[k].id, known[k].at + (uint32_t)begin};
        return OK;
    }
    size_t first = w->n_tokens;
    TRY(encode_stretch(b, w, text, begin, end));
    if (2 * m->n_used >= m->n_slots) return OK;
    return remember(m, slot, hash, text + begin, n, w->tokens + first, w->n_tokens - first, begin);
}

enum status bpe_encode(const struct bpe *b, struct bpe_work *w, const char *text, size_t n)
{
    w->n_tokens = 0;
    if (n == 0) return OK;
    if (n > INT32_MAX)
        return fail(ERR_ARG, "tokenizer: a piece of %zu bytes, at most 2^31 - 1 are possible", n);
    if (b->options.ignore_merges) {
        int32_t id = bpe_find(b, text, n);
        if (id >= 0) return put_token(w, id, 0);
    }
    size_t begin = 0;
    uint32_t before = 0;
    int32_t id_before = -1;
    for (size_t at = 0; at < n;) {
        uint32_t cp;
        size_t len = utf8_read(text + at, n - at, &cp);
        int32_t id = bpe_find_char(b, text + at, len);
        if (id >= 0 && id_before >= 0 && !bpe_may_join(b, before, cp)) {
            if (begin + utf8_length((unsigned char)text[begin]) == at)
                TRY(put_token(w, id_before, (uint32_t)begin));
            else TRY(encode_remembered(b, w, text, begin, at));
            begin = at;
        }
        before = cp;
        id_before = id;
        at += len;
    }
    return encode_remembered(b, w, text, begin, n);
}

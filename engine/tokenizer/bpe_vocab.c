#include "engine/tokenizer/bpe_vocab.h"

#include "engine/tokenizer/tokenizer_grow.h"

#include <stdio.h>
#include <stdlib.h>

enum status bpe_open(struct bpe **out)
{
    struct bpe *b = *out = calloc(1, sizeof *b);
    if (!b) return fail(ERR_MEMORY, "tokenizer: no memory for a vocabulary");
    b->max_id = -1;
    b->options.unk = -1;
    return OK;
}

void bpe_close(struct bpe **b)
{
    if (!*b) return;
    free((*b)->texts);
    free((*b)->entries);
    free((*b)->text_slots);
    free((*b)->by_id);
    free((*b)->pair_slots);
    free((*b)->merge_ids);
    free(*b);
    *b = NULL;
}

size_t bpe_n_tokens(const struct bpe *b) { return b->n_entries; }
int32_t bpe_max_id(const struct bpe *b) { return b->max_id; }

/* The slot of a text: its own, or the free one where it belongs. */
static struct bpe_text_slot *text_slot(const struct bpe *b, const char *text, size_t len)
{
    uint64_t hash = bpe_hash(text, len);
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = (size_t)hash >> 8;; i++) {
        struct bpe_text_slot *slot = &b->text_slots[i & (b->n_text_slots - 1)];
        if (slot->entry == 0) return slot;
        const struct bpe_entry *e = &b->entries[slot->entry - 1];
        if (slot->tag == tag && e->len == len && memcmp(b->texts + e->text, text, len) == 0)
            return slot;
    }
}

int32_t bpe_find(const struct bpe *b, const char *text, size_t len)
{
    if (b->n_text_slots == 0) return -1;
    const struct bpe_text_slot *slot = text_slot(b, text, len);
    return slot->entry ? b->entries[slot->entry - 1].id : -1;
}

const char *bpe_text(const struct bpe *b, int32_t id, size_t *len)
{
    if (id < 0 || id > b->max_id || b->by_id[id] == 0) return NULL;
    const struct bpe_entry *e = &b->entries[b->by_id[id] - 1];
    *len = e->len;
    return b->texts + e->text;
}

static enum status grow_text_slots(struct bpe *b)
{
    if (2 * (b->n_entries + 1) <= b->n_text_slots) return OK;
    size_t n = b->n_text_slots ? 2 * b->n_text_slots : 1024;
    free(b->text_slots);
    b->n_text_slots = 0;
    b->text_slots = calloc(n, sizeof *b->text_slots);
    if (!b->text_slots)
        return fail(ERR_MEMORY, "no memory for a vocabulary of %zu tokens", b->n_entries);
    b->n_text_slots = n;
    for (size_t i = 0; i < b->n_entries; i++) {
        const char *text = b->texts + b->entries[i].text;
        uint64_t hash = bpe_hash(text, b->entries[i].len);
        *text_slot(b, text, b->entries[i].len) =
            (struct bpe_text_slot){(uint32_t)(hash >> 32), (uint32_t)i + 1};
    }
    return OK;
}

enum status bpe_add_token(struct bpe *b, const char *text, size_t len, int64_t id)
{
    if (id < 0 || id > BPE_MAX_ID)
        return fail(ERR_FORMAT, "token \"%.*s\": found id %lld, expected 0 to %d", (int)len, text,
            (long long)id, BPE_MAX_ID);
    if (b->n_texts + len > UINT32_MAX) return fail(ERR_FORMAT, "the token texts exceed 4 GiB");
    TRY(grow_text_slots(b));
    size_t had = b->cap_by_id, other_len;
    TRY(GROW(b->by_id, b->cap_by_id, (size_t)id + 1));
    memset(b->by_id + had, 0, (b->cap_by_id - had) * sizeof *b->by_id);
    const char *other = bpe_text(b, (int32_t)id, &other_len);
    if (other)
        return fail(ERR_FORMAT,
            "id %lld: found for \"%.*s\" and for \"%.*s\", expected one token per id",
            (long long)id, (int)other_len, other, (int)len, text);
    struct bpe_text_slot *slot = text_slot(b, text, len);
    if (slot->entry) return fail(ERR_FORMAT, "token \"%.*s\": found twice", (int)len, text);
    TRY(GROW(b->texts, b->cap_texts, b->n_texts + len));
    TRY(GROW(b->entries, b->cap_entries, b->n_entries + 1));
    memcpy(b->texts + b->n_texts, text, len);
    b->entries[b->n_entries++] =
        (struct bpe_entry){(uint32_t)b->n_texts, (uint32_t)len, (int32_t)id};
    b->n_texts += len;
    *slot = (struct bpe_text_slot){(uint32_t)(bpe_hash(text, len) >> 32), (uint32_t)b->n_entries};
    b->by_id[id] = (uint32_t)b->n_entries;
    if (id > b->max_id) b->max_id = (int32_t)id;
    return OK;
}

static void put_pair(struct bpe *b, uint64_t pair, struct bpe_merge merge)
{
    size_t i = (size_t)((pair ^ pair >> 29) * 0x9E3779B97F4A7C15u >> 20);
    for (;; i++) {
        struct bpe_pair_slot *slot = &b->pair_slots[i & (b->n_pair_slots - 1)];
        bool free_slot = slot->merge.rank == BPE_NO_MERGE;
        if (!free_slot && slot->pair != pair) continue;
        b->n_pairs += free_slot;
        *slot = (struct bpe_pair_slot){pair, merge}; /* of a repeated merge the last one counts */
        return;
    }
}

static enum status grow_pair_slots(struct bpe *b)
{
    if (2 * (b->n_pairs + 1) <= b->n_pair_slots) return OK;
    struct bpe_pair_slot *old = b->pair_slots;
    size_t n_old = b->n_pair_slots, n = n_old ? 2 * n_old : 1024;
    struct bpe_pair_slot *slots = malloc(n * sizeof *slots);
    if (!slots) return fail(ERR_MEMORY, "no memory for %zu merges", b->n_merges);
    for (size_t i = 0; i < n; i++) slots[i].merge.rank = BPE_NO_MERGE;
    b->pair_slots = slots;
    b->n_pair_slots = n;
    b->n_pairs = 0;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].merge.rank != BPE_NO_MERGE) put_pair(b, old[i].pair, old[i].merge);
    free(old);
    return OK;
}

static uint32_t first_char(const char *text, size_t n)
{
    uint32_t cp;
    utf8_read(text, n, &cp);
    return cp;
}

static uint32_t last_char(const char *text, size_t n)
{
    size_t at = n - 1;
    while (at > 0 && !utf8_is_start(text[at])) at--;
    return first_char(text + at, n - at);
}

enum status bpe_add_merge(
    struct bpe *b, const char *left, size_t n_left, const char *right, size_t n_right)
{
    int32_t ids[2] = {bpe_find(b, left, n_left), bpe_find(b, right, n_right)};
    char *joined = malloc(n_left + n_right + 1);
    if (!joined) return fail(ERR_MEMORY, "no memory for a merge");
    memcpy(joined, left, n_left);
    memcpy(joined + n_left, right, n_right);
    int32_t id = bpe_find(b, joined, n_left + n_right);
    free(joined);
    if (ids[0] < 0 || ids[1] < 0 || id < 0)
        return fail(ERR_FORMAT,
            "merge %zu, \"%.*s\" with \"%.*s\": found no token for %s, expected the parts and "
            "the whole in the vocabulary",
            b->n_merges, (int)n_left, left, (int)n_right, right,
            ids[0] < 0       ? "the left part"
                : ids[1] < 0 ? "the right part"
                             : "the whole");
    if (b->n_merges >= BPE_NO_MERGE) return fail(ERR_FORMAT, "found more than 2^32 - 2 merges");
    TRY(grow_pair_slots(b));
    TRY(GROW(b->merge_ids, b->cap_merges, b->n_merges + 1));
    put_pair(b, (uint64_t)(uint32_t)ids[0] << 32 | (uint32_t)ids[1],
        (struct bpe_merge){(uint32_t)b->n_merges, id});
    b->merge_ids[b->n_merges++] = id;
    if (n_left > 0 && n_right > 0) {
        uint32_t bit = bpe_joint(last_char(left, n_left), first_char(right, n_right));
        b->joints[bit / 64] |= (uint64_t)1 << (bit % 64);
    }
    return OK;
}

/* Whether a token stands for text other than its own: the unknown token and the byte tokens. */
static bool is_odd(const struct bpe *b, int32_t id)
{
    if (id == b->options.unk) return true;
    size_t len = 0;
    const char *text = bpe_text(b, id, &len);
    return b->options.byte_fallback && len == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>';
}

enum status bpe_finish(struct bpe *b, struct bpe_options options)
{
    b->options = options;
    if (options.unk > b->max_id) return fail(ERR_ARG, "the unknown token has no text");
    TRY(grow_text_slots(b));
    TRY(grow_pair_slots(b));
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        b->byte_ids[i] = bpe_find(b, name, 6);
    }
    for (uint32_t cp = 0; cp < BPE_DIRECT; cp++) {
        char text[4];
        b->char_ids[cp] = bpe_find(b, text, utf8_write(cp, text));
    }
    for (size_t i = 0; i < b->n_pair_slots && !b->odd_merges; i++) {
        const struct bpe_pair_slot *slot = &b->pair_slots[i];
        if (slot->merge.rank == BPE_NO_MERGE) continue;
        b->odd_merges =
            is_odd(b, (int32_t)(slot->pair >> 32)) || is_odd(b, (int32_t)(uint32_t)slot->pair);
    }
    return OK;
}

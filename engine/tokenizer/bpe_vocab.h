/* The tables behind bpe.h: texts to ids, pairs to merges. Only bpe*.c include this. */
#ifndef SG_ENGINE_TOKENIZER_BPE_VOCAB_H
#define SG_ENGINE_TOKENIZER_BPE_VOCAB_H

#include "engine/tokenizer/bpe.h"

#include "base/utf8.h"

#include <string.h>

#define BPE_NO_MERGE UINT32_MAX
#define BPE_DIRECT 0x800u /* characters below have their id in an array */
#define BPE_JOIN_BITS                                                          \
    20 /* 128 KiB; the 280 000 merges of Llama-3 have some ten thousand joints \
        */

struct bpe_merge {
    uint32_t rank; /* BPE_NO_MERGE: no such merge */
    int32_t id;    /* of the merged token */
};

struct bpe_pair_slot {
    uint64_t pair; /* left id << 32 | right id */
    struct bpe_merge merge;
};

struct bpe_entry {
    uint32_t text, len; /* in `texts` */
    int32_t id;
};

struct bpe_text_slot {
    uint32_t tag, entry; /* high half of the hash; entry + 1, 0: free */
};

struct bpe {
    struct bpe_options options;
    char *texts;
    size_t n_texts, cap_texts;
    struct bpe_entry *entries;
    size_t n_entries, cap_entries;
    struct bpe_text_slot *text_slots; /* a power of two, at most half full */
    size_t n_text_slots;
    uint32_t *by_id; /* entry + 1, 0: none; max_id + 1 of them in use */
    size_t cap_by_id;
    int32_t max_id;
    struct bpe_pair_slot *pair_slots;
    size_t n_pair_slots, n_pairs;
    int32_t *merge_ids; /* by rank */
    size_t n_merges, cap_merges;
    int32_t byte_ids[256];        /* of "<0xNN>", -1: none */
    int32_t char_ids[BPE_DIRECT]; /* of one-character tokens, -1: none */
    /* One bit per hashed pair of characters that stand at the joint of some merge. Two neighbouring
     * known characters without this bit can never end up in one token, so text may be cut between
     * them. */
    uint64_t joints[(1u << BPE_JOIN_BITS) / 64];
    /* Some merge takes the unknown token or a byte token, whose texts are not the text they stand
     * for: the shortcuts that reason about texts are off. */
    bool odd_merges;
};

static inline uint64_t bpe_hash(const char *text, size_t n)
{
    uint64_t h = n * 0x9E3779B97F4A7C15u, word;
    for (; n >= 8; text += 8, n -= 8) {
        memcpy(&word, text, 8);
        h = (h ^ word) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    if (n > 0) {
        word = 0;
        memcpy(&word, text, n);
        h = (h ^ word) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    return h * 0x9E3779B97F4A7C15u;
}

static inline struct bpe_merge bpe_find_merge(const struct bpe *b, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = (size_t)((pair ^ pair >> 29) * 0x9E3779B97F4A7C15u >> 20);
    for (;; i++) {
        const struct bpe_pair_slot *slot = &b->pair_slots[i & (b->n_pair_slots - 1)];
        if (slot->merge.rank == BPE_NO_MERGE || slot->pair == pair) return slot->merge;
    }
}

static inline int32_t bpe_find_char(const struct bpe *b, const char *text, size_t len)
{
    if (len == 1) return b->char_ids[(unsigned char)text[0]];
    if (len == 2)
        return b
            ->char_ids[((unsigned char)text[0] & 0x1Fu) << 6 | ((unsigned char)text[1] & 0x3Fu)];
    return bpe_find(b, text, len);
}

static inline uint32_t bpe_joint(uint32_t left, uint32_t right)
{
    return (uint32_t)(((uint64_t)left << 21 | right) * 0x9E3779B97F4A7C15u >> (64 - BPE_JOIN_BITS));
}

static inline bool bpe_may_join(const struct bpe *b, uint32_t left, uint32_t right)
{
    uint32_t bit = bpe_joint(left, right);
    return b->odd_merges || (b->joints[bit / 64] >> (bit % 64) & 1);
}

#endif

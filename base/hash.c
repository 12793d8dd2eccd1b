#include "base/hash.h"

#include <stdio.h>
#include <string.h>

static const uint64_t C1 = 0x87c37b91114253d5u, C2 = 0x4cf5ad432745937fu;

static uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

static uint64_t finish_word(uint64_t k)
{
    k = (k ^ (k >> 33)) * 0xff51afd7ed558ccdu;
    k = (k ^ (k >> 33)) * 0xc4ceb9fe1a85ec53u;
    return k ^ (k >> 33);
}

static void mix_block(struct hash *h, const uint8_t *block)
{
    uint64_t k1, k2;
    memcpy(&k1, block, 8);
    memcpy(&k2, block + 8, 8);
    h->h[0] ^= rotl(k1 * C1, 31) * C2;
    h->h[0] = (rotl(h->h[0], 27) + h->h[1]) * 5 + 0x52dce729;
    h->h[1] ^= rotl(k2 * C2, 33) * C1;
    h->h[1] = (rotl(h->h[1], 31) + h->h[0]) * 5 + 0x38495ab5;
}

void hash_init(struct hash *h) { *h = (struct hash){0}; }

void hash_add(struct hash *h, const void *data, size_t size)
{
    const uint8_t *p = data;
    size_t have = h->n_bytes % 16;
    h->n_bytes += size;
    if (have) {
        size_t take = 16 - have < size ? 16 - have : size;
        memcpy(h->tail + have, p, take);
        if (have + take < 16) return;
        mix_block(h, h->tail);
        p += take;
        size -= take;
    }
    for (; size >= 16; p += 16, size -= 16) mix_block(h, p);
    if (size) memcpy(h->tail, p, size);
}

void hash_add_str(struct hash *h, const char *s) { hash_add(h, s, strlen(s) + 1); }
void hash_add_u64(struct hash *h, uint64_t v) { hash_add(h, &v, sizeof v); }

char *hash_hex(const struct hash *in, char out[HASH_HEX_SIZE])
{
    struct hash h = *in;
    size_t have = h.n_bytes % 16;
    if (have) {
        uint64_t k[2] = {0, 0};
        memcpy(k, h.tail, have);
        h.h[1] ^= rotl(k[1] * C2, 33) * C1;
        h.h[0] ^= rotl(k[0] * C1, 31) * C2;
    }
    h.h[0] ^= h.n_bytes;
    h.h[1] ^= h.n_bytes;
    h.h[0] += h.h[1];
    h.h[1] += h.h[0];
    h.h[0] = finish_word(h.h[0]);
    h.h[1] = finish_word(h.h[1]);
    h.h[0] += h.h[1];
    h.h[1] += h.h[0];
    snprintf(out, HASH_HEX_SIZE, "%016llx%016llx", (unsigned long long)h.h[0],
        (unsigned long long)h.h[1]);
    return out;
}

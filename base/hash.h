/* A 128-bit content hash: fingerprints of models and data, keys of cells. Not cryptographic.
 *
 * MurmurHash3 x64 128 (Austin Appleby, public domain algorithm) over a stream; the result does not
 * depend on how the stream was cut into updates, and is equal on every little-endian machine.
 */
#ifndef SG_BASE_HASH_H
#define SG_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash {
    uint64_t h[2];
    uint64_t n_bytes;
    uint8_t tail[16];
};

#define HASH_HEX_SIZE 33 /* 32 digits and the zero */

void hash_init(struct hash *h);
void hash_add(struct hash *h, const void *data, size_t size);
/* with its zero, so that "ab","c" differs from "a","bc" */
void hash_add_str(struct hash *h, const char *s);
void hash_add_u64(struct hash *h, uint64_t v);
/* Lower-case hex of the hash so far; the stream may go on afterwards. Returns `out`. */
char *hash_hex(const struct hash *h, char out[HASH_HEX_SIZE]);

#endif

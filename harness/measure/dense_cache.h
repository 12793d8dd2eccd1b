/* Hidden states of dense runs, kept so that each is computed once per (model, tokens, engine,
 * arithmetic).
 *
 * A file per sample under a directory: n x hidden floats, 8 KB a token for a 2 048-wide model.
 * Files that do not check out are recomputed. The oldest are deleted when the directory outgrows
 * its limit.
 */
#ifndef SG_HARNESS_MEASURE_DENSE_CACHE_H
#define SG_HARNESS_MEASURE_DENSE_CACHE_H

#include "base/hash.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct model;

struct dense_cache {
    char *dir; /* NULL: nothing is kept */
    size_t limit_bytes;
    /* bytes of the largest entry that was not kept, being larger than limit_bytes; 0: none */
    size_t too_large;
};

/* The folder of what is kept from run to run: as for dense_cache_open(), NULL for none. It may not
 * be there yet. The caller frees it. */
char *cache_folder(const char *dir);

/* Makes it, for its owner alone: what texts a model was run on is nobody else's business. */
enum status cache_make(const char *dir) MUST_USE;

/* dir "none" keeps nothing; NULL is $XDG_CACHE_HOME/sparsegauge or ~/.cache/sparsegauge. A
 * directory that cannot be made is an error only when it was asked for by name. */
enum status dense_cache_open(struct dense_cache *c, const char *dir) MUST_USE;
void dense_cache_close(struct dense_cache *c);

/* The key of a sample under a model; everything that changes the numbers goes in, BLAS, instruction
 * set and compiler too. impl: the attention implementation asked for, NULL the best. */
void dense_cache_key(
    char key[HASH_HEX_SIZE], const struct model *m, const char *impl, const int32_t *ids, int n);

/* True when `rows` [n, width] was filled from the cache. */
bool dense_cache_get(struct dense_cache *c, const char *key, int n, int width, float *rows);
/* A cache that cannot be written is not an error: the numbers are the same without it. Nor is an
 * entry that is larger than all of it: it is not kept, see too_large. */
void dense_cache_put(struct dense_cache *c, const char *key, int n, int width, const float *rows);

#endif

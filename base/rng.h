/* Deterministic random numbers, equal on every machine and compiler.
 *
 * xoshiro256** seeded through splitmix64 (Blackman and Vigna, "Scrambled linear pseudorandom number
 * generators", 2018). Not for cryptography.
 */
#ifndef SG_BASE_RNG_H
#define SG_BASE_RNG_H

#include <stdint.h>

struct rng {
    uint64_t s[4];
};

/* Any seed is fine, 0 included. Two different seeds give unrelated streams. */
void rng_init(struct rng *r, uint64_t seed);

/* Uniform over all 64-bit values. */
uint64_t rng_u64(struct rng *r);

/* Uniform in [0, bound), without modulo bias; bound > 0. */
uint32_t rng_below(struct rng *r, uint32_t bound);

/* Uniform integer in [lo, hi], both included; lo <= hi. */
int rng_range(struct rng *r, int lo, int hi);

/* Uniform in [0, 1) with 53 bits. */
double rng_unit(struct rng *r);

/* Standard normal, one value per call (Marsaglia's polar method, the second value is dropped so
 * that the stream position depends on nothing but the calls made). */
double rng_normal(struct rng *r);

/* One 64-bit step of splitmix64: a good mixer for hashes and for deriving seeds. */
uint64_t splitmix64(uint64_t *state);

#endif

#include "base/rng.h"

#include <assert.h>
#include <math.h>

uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void rng_init(struct rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) r->s[i] = splitmix64(&seed);
}

static uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

uint64_t rng_u64(struct rng *r)
{
    uint64_t *s = r->s;
    uint64_t out = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

/* Lemire's multiply-and-reject method. */
uint32_t rng_below(struct rng *r, uint32_t bound)
{
    assert(bound > 0);
    uint64_t m = (rng_u64(r) >> 32) * (uint64_t)bound;
    if ((uint32_t)m < bound) {
        uint32_t reject = -bound % bound;
        while ((uint32_t)m < reject) m = (rng_u64(r) >> 32) * (uint64_t)bound;
    }
    return (uint32_t)(m >> 32);
}

int rng_range(struct rng *r, int lo, int hi)
{
    assert(lo <= hi);
    uint32_t span = (uint32_t)hi - (uint32_t)lo;
    return (int)((uint32_t)lo +
        (span == UINT32_MAX ? (uint32_t)(rng_u64(r) >> 32) : rng_below(r, span + 1)));
}

double rng_unit(struct rng *r) { return (double)(rng_u64(r) >> 11) * 0x1p-53; }

double rng_normal(struct rng *r)
{
    double u, v, q;
    do {
        u = 2 * rng_unit(r) - 1;
        v = 2 * rng_unit(r) - 1;
        q = u * u + v * v;
    } while (q >= 1 || q == 0);
    return u * sqrt(-2 * log(q) / q);
}

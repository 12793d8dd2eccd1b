/* Eight bits: what Q, K, V and P become before they are multiplied (METHOD 9). */
#ifndef SG_KERNELS_EIGHT_H
#define SG_KERNELS_EIGHT_H

#include "kernels/attn.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    EIGHT_ROWS = 64,       /* rows of Q, of K and of V under one scale, at absolute positions */
    EIGHT_MEAN_KEYS = 128, /* K is centred by the mean of its first so many rows */
    /* the largest P of a row and key block becomes at most 2^8; e4m3 ends at 448 */
    EIGHT_P_LOG2 = 8,
    EIGHT_EXP_MIN = -24, /* of a scale 2^e */
};

const char *precision_name(enum precision p);
/* "full", "int8" or "fp8". */
bool precision_parse(const char *name, enum precision *p);

/* 2^e with the smallest e for which `largest` stays within e4m3's 448. */
static inline int eight_exponent(float largest)
{
    uint32_t bits;
    memcpy(&bits, &largest, sizeof bits);
    int e = (int)(bits >> 23) - 127 - 8 + ((bits & 0x7fffff) > 0x600000);
    return e < EIGHT_EXP_MIN ? EIGHT_EXP_MIN : e;
}

/* The nearest e4m3 number, ties to even, saturating; NaN stays. */
static inline float e4m3_round(float x)
{
    float size = fabsf(x) > 448 ? 448 : fabsf(x);
    uint32_t bits;
    memcpy(&bits, &size, sizeof bits);
    bits = (bits + 0x7ffff + (bits >> 20 & 1)) & ~(uint32_t)0xfffff;
    float normal, magic = 0x1.8p14f; /* adding it leaves multiples of 2^-9 */
    memcpy(&normal, &bits, sizeof normal);
    if (x != x) return x; /* its payload may have been carried into the sign */
    return copysignf(size < 0x1p-6f ? (size + magic) - magic : normal, x);
}

/* The scale of a block for Q and K whose largest magnitude is given. */
float eight_scale(enum precision p, float largest);
/* n numbers x - mean (mean may be NULL) divided by the scale, rounded as p says, times the scale
 * again. */
void eight_round(
    enum precision p, float scale, const float *x, const float *mean, float *to, int n);

/* NULL, or why a call with eight bits has no meaning. */
const char *eight_refuses(const struct attn_args *a);
/* Bytes for the copies eight_inputs() makes; 0 when the call is not of eight bits. */
size_t eight_bytes(const struct attn_args *a);
/* `to` becomes `a` reading, for what its precision speaks of, copies of q, k and v in `ws` that
 * hold exactly what their eight bits stand for. f32 on the host. K stays shifted by its mean: every
 * score of a row moves by the same. */
void eight_inputs(const struct attn_args *a, void *ws, struct par *par, struct attn_args *to);

#endif

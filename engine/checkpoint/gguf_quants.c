/* Blocks of quantised values, as ggml lays them out (ggml-quants.c, ggml-common.h). */
#include "engine/checkpoint/gguf.h"
#include "kernels/linear.h"

#include <assert.h>
#include <string.h>

static float half(const uint8_t *p)
{
    float x;
    widen(p, DTYPE_F16, &x, 1);
    return x;
}

/* d · (q - 8) */
static void block_q4_0(const uint8_t *b, float *y)
{
    float d = half(b);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((b[2 + i] & 15) - 8);
        y[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

/* d · q + m */
static void block_q4_1(const uint8_t *b, float *y)
{
    float d = half(b), m = half(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(b[4 + i] & 15) + m;
        y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* The fifth bits of a block of 32 stand in 4 bytes. */
static int fifth(const uint8_t *bits, int i) { return (bits[i / 8] >> i % 8 & 1) << 4; }

static void block_q5_0(const uint8_t *b, float *y)
{
    float d = half(b);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(((b[6 + i] & 15) | fifth(b + 2, i)) - 16);
        y[i + 16] = d * (float)(((b[6 + i] >> 4) | fifth(b + 2, i + 16)) - 16);
    }
}

static void block_q5_1(const uint8_t *b, float *y)
{
    float d = half(b), m = half(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((b[8 + i] & 15) | fifth(b + 4, i)) + m;
        y[i + 16] = d * (float)((b[8 + i] >> 4) | fifth(b + 4, i + 16)) + m;
    }
}

static void block_q8_0(const uint8_t *b, float *y)
{
    float d = half(b);
    for (int i = 0; i < 32; i++) y[i] = d * (float)(int8_t)b[2 + i];
}

/* Scale and minimum of sub-block i of 8, six bits each, packed into 12 bytes. */
static void k_scale(const uint8_t *s, int i, float *scale, float *minimum)
{
    *scale = (float)(i < 4 ? s[i] & 63 : (s[i + 4] & 15) | s[i - 4] >> 6 << 4);
    *minimum = (float)(i < 4 ? s[i + 4] & 63 : s[i + 4] >> 4 | s[i] >> 6 << 4);
}

/* Eight sub-blocks of 32; two of them share the nibbles of 32 bytes. `high`: the fifth bits, one
 * byte for the same place of each sub-block; NULL for four bits. */
static void block_k(const uint8_t *b, const uint8_t *high, const uint8_t *low, float *y)
{
    float d = half(b), m = half(b + 2);
    for (int sub = 0; sub < 8; sub++) {
        float scale, minimum;
        k_scale(b + 4, sub, &scale, &minimum);
        scale *= d;
        minimum *= m;
        for (int i = 0; i < 32; i++) {
            int q = low[sub / 2 * 32 + i] >> sub % 2 * 4 & 15;
            if (high) q += (high[i] >> sub & 1) << 4;
            *y++ = scale * (float)q - minimum;
        }
    }
}

static void block_q4_k(const uint8_t *b, float *y) { block_k(b, NULL, b + 16, y); }
static void block_q5_k(const uint8_t *b, float *y) { block_k(b, b + 16, b + 48, y); }

/* d · scale · (q - 32), 16 scales; low nibbles in 128 bytes, upper two bits in 64. */
static void block_q6_k(const uint8_t *b, float *y)
{
    const uint8_t *low = b, *high = b + 128;
    const int8_t *scales = (const int8_t *)b + 192;
    float d = half(b + 208);
    for (int i = 0; i < 256; i++) {
        int part = i / 128, quarter = i % 128 / 32, at = i % 32;
        int nibble = low[part * 64 + quarter % 2 * 32 + at] >> quarter / 2 * 4 & 15;
        int q = nibble | (high[part * 32 + at] >> quarter * 2 & 3) << 4;
        y[i] = d * (float)scales[i / 16] * (float)(q - 32);
    }
}

static const struct quant {
    uint32_t type; /* ggml's number */
    const char *name;
    int values, bytes;
    void (*unpack)(const uint8_t *block, float *y); /* NULL: plain numbers */
} quants[] = {
    {0, "F32", 1, 4, NULL},
    {1, "F16", 1, 2, NULL},
    {30, "BF16", 1, 2, NULL},
    {2, "Q4_0", 32, 18, block_q4_0},
    {3, "Q4_1", 32, 20, block_q4_1},
    {6, "Q5_0", 32, 22, block_q5_0},
    {7, "Q5_1", 32, 24, block_q5_1},
    {8, "Q8_0", 32, 34, block_q8_0},
    {12, "Q4_K", 256, 144, block_q4_k},
    {13, "Q5_K", 256, 176, block_q5_k},
    {14, "Q6_K", 256, 210, block_q6_k},
};

static const struct quant *quant_find(uint32_t type)
{
    for (size_t i = 0; i < sizeof quants / sizeof *quants; i++)
        if (quants[i].type == type) return &quants[i];
    return NULL;
}

const char *gguf_quant_name(uint32_t type, int *values, int *bytes)
{
    const struct quant *q = quant_find(type);
    if (!q) return NULL;
    *values = q->values;
    *bytes = q->bytes;
    return q->name;
}

void gguf_dequantise(uint32_t type, const uint8_t *from, float *to, size_t n)
{
    const struct quant *q = quant_find(type);
    assert(q && n % (size_t)q->values == 0);
    if (!q->unpack) {
        widen(from, type == 0 ? DTYPE_F32 : type == 1 ? DTYPE_F16 : DTYPE_BF16, to, n);
        return;
    }
    for (size_t i = 0; i < n; i += (size_t)q->values, from += q->bytes) q->unpack(from, to + i);
}

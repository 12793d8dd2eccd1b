/* The few vector operations the CPU bodies need, for whichever instruction set this file is
 * compiled for.
 *
 * Vectors are GCC vector types, so + - * and comparisons are plain C; multiply-adds contract to FMA
 * where the target has it. Include only from the cpu_*.c files.
 */
#ifndef SG_KERNELS_CPU_SIMD_H
#define SG_KERNELS_CPU_SIMD_H

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
/* lanes; accumulator columns of the micro-kernel: 4 rows x 4 = 16 of 32 registers */
enum { VW = 16, NV_MAX = 4 };
typedef __m512 vf;
static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
static inline vf v_set1(float x) { return _mm512_set1_ps(x); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf v_abs(vf a) { return _mm512_abs_ps(a); }
static inline float v_sum(vf a) { return _mm512_reduce_add_ps(a); }
static inline float v_top(vf a) { return _mm512_reduce_max_ps(a); }
static inline vf v_add_exponent(vf p, vf shifted)
{
    return _mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
}
static inline vf v_load_bf16(const uint16_t *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
static inline vf v_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
#elif defined(__AVX2__)
/* 4 rows x 2 = 8 accumulators: just enough to hide the FMA latency in 16 registers */
enum { VW = 8, NV_MAX = 2 };
typedef __m256 vf;
static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
static inline vf v_set1(float x) { return _mm256_set1_ps(x); }
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline __m128 v_half_sum(vf a)
{
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}
static inline float v_sum(vf a)
{
    __m128 s = v_half_sum(a);
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float v_top(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline vf v_add_exponent(vf p, vf shifted)
{
    return _mm256_castsi256_ps(_mm256_add_epi32(
        _mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
}
static inline vf v_load_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}
static inline vf v_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
#else
enum { VW = 4, NV_MAX = 2 };
typedef __m128 vf;
static inline vf v_load(const float *p) { return _mm_loadu_ps(p); }
static inline void v_store(float *p, vf x) { _mm_storeu_ps(p, x); }
static inline vf v_set1(float x) { return _mm_set1_ps(x); }
static inline vf v_max(vf a, vf b) { return _mm_max_ps(a, b); }
static inline vf v_min(vf a, vf b) { return _mm_min_ps(a, b); }
static inline vf v_abs(vf a) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), a); }
static inline float v_sum(vf a)
{
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}
static inline float v_top(vf a)
{
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
}
static inline vf v_add_exponent(vf p, vf shifted)
{
    return _mm_castsi128_ps(
        _mm_add_epi32(_mm_castps_si128(p), _mm_slli_epi32(_mm_castps_si128(shifted), 23)));
}
static inline vf v_load_bf16(const uint16_t *p)
{
    return _mm_castsi128_ps(
        _mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const void *)p)));
}
/* No F16C here: exponent and mantissa are moved to their f32 places, then 2^112 corrects the bias.
 * Infinities and NaN (exponent 31) get the f32 exponent 255. */
static inline vf v_load_f16(const uint16_t *p)
{
    __m128i h = _mm_unpacklo_epi16(_mm_loadl_epi64((const void *)p), _mm_setzero_si128());
    __m128i magnitude = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x7fff)), 13);
    __m128i sign = _mm_slli_epi32(_mm_and_si128(h, _mm_set1_epi32(0x8000)), 16);
    __m128 value = _mm_mul_ps(_mm_castsi128_ps(magnitude), _mm_set1_ps(0x1p112f));
    __m128i special = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x0f7fffff));
    __m128i bits =
        _mm_or_si128(_mm_castps_si128(value), _mm_and_si128(special, _mm_set1_epi32(0x7f800000)));
    return _mm_castsi128_ps(_mm_or_si128(bits, sign));
}
#endif

/* 2^f · 2^(low bits of t). Taylor series of 2^f on |f| ≤ 1/2 to the sixth order, error below 1.3e-7
 * relative. */
static inline vf v_exp2_of(vf f, vf t)
{
    vf p = v_set1(1.5403530e-4f);
    p = p * f + v_set1(1.3333558e-3f);
    p = p * f + v_set1(9.6181291e-3f);
    p = p * f + v_set1(5.5504109e-2f);
    p = p * f + v_set1(2.4022651e-1f);
    p = p * f + v_set1(6.9314718e-1f);
    p = p * f + v_set1(1.0f);
    return v_add_exponent(p, t);
}

/* 1.5·2^23: adding it leaves the nearest integer in the low bits */
static inline vf v_round(void) { return v_set1(12582912.0f); }

/* 2^x with x clamped to [-126, 126]: always finite, NaN too (of two operands that cannot be
 * compared max and min give the second), so a lane that must be zero becomes zero by a factor. */
static inline vf v_exp2(vf x)
{
    x = v_min(v_max(x, v_set1(-126.0f)), v_set1(126.0f));
    vf t = x + v_round();
    return v_exp2_of(x - (t - v_round()), t);
}

/* 2^x of x ≤ 0, clamped to -126. NaN stays NaN: it passes the first maximum, and its exponent is
 * then that of 0. */
static inline vf v_exp2_below(vf x)
{
    x = v_max(v_set1(-126.0f), x);
    vf t = v_min(x, v_set1(0)) + v_round();
    return v_exp2_of(x - (t - v_round()), t);
}

/* 0 in a lane of finite x, else NaN. */
static inline vf v_taint(vf x) { return x * v_set1(0); }

/* All bits of lanes [0, n), none of the rest; n clamped to [0, VW]. */
typedef int vi __attribute__((vector_size(sizeof(vf))));
static inline vi v_lanes(int n)
{
    static const int ramp[2 * 16] = {[0 ... 15] = -1};
    vi mask;
    n = n < 0 ? 0 : n > VW ? VW : n;
    memcpy(&mask, ramp + 16 - n, sizeof mask);
    return mask;
}

/* Lanes [0, n) as they are, the rest zero, whatever it was; and the other way round. */
static inline vf v_keep(vf x, int n) { return (vf)((vi)x & v_lanes(n)); }
static inline vf v_drop(vf x, int n) { return (vf)((vi)x & ~v_lanes(n)); }

/* e4m3_round() of numbers that are not negative. */
static inline vf v_e4m3(vf x)
{
    const vf magic = v_set1(0x1.8p14f); /* adding it leaves multiples of 2^-9 */
    x = v_min(v_set1(448), x);          /* NaN stays */
    vi bits = (vi)x, small = (x < v_set1(0x1p-6f)) | (x != x);
    bits = (bits + 0x7ffff + (bits >> 20 & 1)) & ~0xfffff;
    return (vf)((small & (vi)((x + magic) - magic)) | (~small & bits));
}

/* Lanes [0, n) one, the rest zero; n clamped to [0, VW]. */
static inline vf v_first(int n)
{
    static const float ramp[2 * 16] = {[0 ... 15] = 1};
    n = n < 0 ? 0 : n > VW ? VW : n;
    return v_load(ramp + 16 - n);
}

/* Lanes [0, n) zero, the rest -inf; n clamped. Add to scores to mask them. */
static inline vf v_mask_after(int n)
{
    static const float ramp[2 * 16] = {[16 ... 31] = -INFINITY};
    n = n < 0 ? 0 : n > VW ? VW : n;
    return v_load(ramp + 16 - n);
}

/* Lanes [0, n) -inf, the rest zero; n clamped. */
static inline vf v_mask_before(int n)
{
    static const float ramp[2 * 16] = {[0 ... 15] = -INFINITY};
    n = n < 0 ? 0 : n > VW ? VW : n;
    return v_load(ramp + 16 - n);
}

static inline float dot(const float *a, const float *b, int n)
{
    vf s0 = v_set1(0), s1 = v_set1(0);
    int i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        s0 += v_load(a + i) * v_load(b + i);
        s1 += v_load(a + i + VW) * v_load(b + i + VW);
    }
    for (; i + VW <= n; i += VW) s0 += v_load(a + i) * v_load(b + i);
    float s = v_sum(s0 + s1);
    for (; i < n; i++) s += a[i] * b[i];
    return s;
}

#endif

/* How eight-bit Q, K and V lie in the workspace of a call. Private to the .cu files and their
 * checks.
 *
 * Blocks of 64 rows follow each other, head after head, rows padded with zeros to a multiple of
 * 128. A block is one piece of 64 · D bytes, already in the swizzle in which it is to stand in
 * shared memory, so that plain bulk copies bring it there: Q, K   rows of D bytes; 16-byte chunk c
 * of row r stands at c ^ (r % 8) with D = 128, c ^ (r / 2 % 4) with D = 64 V      transposed: row x
 * (of D) holds the block's 64 keys in the order key_at(), chunk c at c ^ (x / 2 % 4) key_at() is
 * the order in which a thread's scores, packed four to a register, become the A operand of P·V.
 */
#ifndef SG_KERNELS_CUDA_EIGHT_CUDA_CUH
#define SG_KERNELS_CUDA_EIGHT_CUDA_CUH

extern "C" {
#include "kernels/eight.h"
}

namespace eight
{

struct layout {
    int n_units, n_blocks; /* of 64 rows: of Q per head, of K and V per kv head; both even */
    int block_bytes;
    /* offsets; scales are floats, one per block */
    size_t q, k, v, q_scale, k_scale, v_exponent, bytes;
};

inline layout layout_of(const struct attn_args *a)
{
    layout l;
    l.n_units = (a->n_q + 127) / 128 * 2, l.n_blocks = (attn_n_kv(a) + 127) / 128 * 2;
    l.block_bytes = EIGHT_ROWS * a->head_dim;
    size_t units = (size_t)l.n_units * (size_t)a->n_heads,
           blocks = (size_t)l.n_blocks * (size_t)a->n_kv_heads;
    l.q = 1024; /* before it the counter of items */
    l.k = l.q + units * (size_t)l.block_bytes;
    l.v = l.k + blocks * (size_t)l.block_bytes;
    l.q_scale = l.v + blocks * (size_t)l.block_bytes;
    l.k_scale = l.q_scale + (units * sizeof(float) + 255) / 256 * 256;
    l.v_exponent = l.k_scale + (blocks * sizeof(float) + 255) / 256 * 256;
    l.bytes = l.v_exponent + (blocks * sizeof(float) + 255) / 256 * 256;
    return l;
}

/* Where byte x of row r of a block of Q or K stands. */
__host__ __device__ __forceinline__ int row_byte(int d, int r, int x)
{
    int chunk = x / 16 ^ (d == 128 ? r % 8 : r / 2 % 4);
    return r * d + chunk * 16 + x % 16;
}

/* Where place `at` (of 64) of row x of a block of V stands. */
__host__ __device__ __forceinline__ int value_byte(int x, int at)
{
    return x * EIGHT_ROWS + (at / 16 ^ x / 2 % 4) * 16 + at % 16;
}

/* The key of a block that place `at` belongs to. */
__host__ __device__ __forceinline__ int key_at(int at)
{
    return at / 32 * 32 + at / 16 % 2 * 16 + at / 2 % 2 * 8 + at / 4 % 4 * 2 + at % 2;
}

/* The code of the nearest e4m3 number, as e4m3_round() of the host, on devices that have no
 * instruction for it. */
__device__ __forceinline__ uint32_t e4m3_code(float x)
{
    const float size = fminf(fabsf(x), 448.0f);
    uint32_t bits = __float_as_uint(size), code = __float2uint_rn(size * 512.0f);
    bits += 0x7ffff + (bits >> 20 & 1);
    if (size >= 0x1p-6f) code = (bits >> 20) - 120 * 8;
    if (x != x) code = 0x7f;
    return code | (__float_as_uint(x) >> 24 & 0x80);
}

/* Four floats rounded to e4m3, the first in the lowest byte. */
__device__ __forceinline__ uint32_t pack_e4m3(float a, float b, float c, float d)
{
#if __CUDA_ARCH__ >= 890
    uint32_t r;
    asm("{\n.reg .b16 lo, hi;\n"
        "cvt.rn.satfinite.e4m3x2.f32 lo, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 hi, %4, %3;\n"
        "mov.b32 %0, {lo, hi};\n}\n"
        : "=r"(r)
        : "f"(a), "f"(b), "f"(c), "f"(d));
    return r;
#else
    return e4m3_code(a) | e4m3_code(b) << 8 | e4m3_code(c) << 16 | e4m3_code(d) << 24;
#endif
}

} // namespace eight

/* Queue the quantisation of a call's Q, K and V (bf16 on the device) into `ws`, whose first word,
 * the counter of items, becomes zero; nothing is allocated. */
enum status quantise_cuda(const struct attn_args *a, void *ws, cudaStream_t stream) MUST_USE;

#endif

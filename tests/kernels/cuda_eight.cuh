/* Eight-bit inputs for check_kernels_cuda: what the CPU says they are, and what the device made of
 * them. */
#ifndef SG_TESTS_KERNELS_CUDA_EIGHT_CUH
#define SG_TESTS_KERNELS_CUDA_EIGHT_CUH

#include "kernels/cuda/eight_cuda.cuh"
#include "tests/kernels/cuda_problem.cuh"

static std::vector<float> widened(const buffer<__nv_bfloat16> &x)
{
    std::vector<float> f;
    for (__nv_bfloat16 e : x.get()) f.push_back(__bfloat162float(e));
    return f;
}

/* The call of the problem with q, k and v in f32 as their eight bits stand for, by the CPU's
 * definition. */
struct eight_copies {
    std::vector<char> host;
    buffer<char> device;
    struct attn_args on_host = {}, on_device = {};

    eight_copies(const struct attn_args &a, const data &x)
        : host(eight_bytes(&a)), device(eight_bytes(&a))
    {
        if (attn_is_full(&a)) return;
        std::vector<float> q = widened(x.q), k = widened(x.k), v = widened(x.v);
        struct attn_args f32 = a;
        f32.dtype = DTYPE_F32, f32.q = q.data(), f32.k = k.data(), f32.v = v.data();
        eight_inputs(&f32, host.data(), NULL, &on_host);
        device.put(host);
        on_device = on_host;
        on_device.q = there(on_host.q), on_device.k = there(on_host.k),
        on_device.v = there(on_host.v);
    }
    const void *there(const void *p) const { return device.at + ((const char *)p - host.data()); }
};

/* One number of a block as the workspace of the device holds it. */
static float eight_number(enum precision p, uint8_t byte)
{
    if (p == PRECISION_INT8) return (float)(int8_t)byte;
    int e = byte >> 3 & 15, m = byte & 7;
    float size = e ? ldexpf(8.0f + (float)m, e - 10) : ldexpf((float)m, -9);
    return byte & 0x80 ? -size : size;
}

/* How many numbers of q, k and v differ from the CPU's; rows behind the last one must be zero. */
static size_t eight_differences(
    const struct attn_args &a, const eight_copies &want, const std::vector<uint8_t> &ws)
{
    eight::layout l = eight::layout_of(&a);
    const int d = a.head_dim;
    size_t wrong = 0;
    const float *scales = (const float *)(ws.data() + l.q_scale);
    for (int which = 0; which < 3; which++) {
        int heads = which == 0 ? a.n_heads : a.n_kv_heads,
            rows = which == 0 ? a.n_q : attn_n_kv(&a);
        int blocks = which == 0 ? l.n_units : l.n_blocks;
        const uint8_t *bytes = ws.data() + (which == 0 ? l.q : which == 1 ? l.k : l.v);
        const float *w = (const float *)(which == 0 ? want.on_host.q
                : which == 1                        ? want.on_host.k
                                                    : want.on_host.v);
        scales = (const float *)(ws.data() +
            (which == 0          ? l.q_scale
                    : which == 1 ? l.k_scale
                                 : l.v_exponent));
        for (int h = 0; h < heads; h++)
            for (int r = 0; r < blocks * 64; r++) {
                size_t block = (size_t)h * (size_t)blocks + (size_t)r / 64;
                const uint8_t *at = bytes + block * (size_t)l.block_bytes;
                float scale = which == 2 ? exp2f(scales[block]) : scales[block];
                int place = 0;
                while (eight::key_at(place) != r % 64) place++;
                for (int i = 0; i < d; i++) {
                    uint8_t byte = at[which == 2 ? eight::value_byte(i, place)
                                                 : eight::row_byte(d, r % 64, i)];
                    float got = eight_number(which == 2 ? PRECISION_FP8 : a.qk, byte) * scale;
                    float expected = r < rows
                        ? w[((size_t)h * (size_t)rows + (size_t)r) * (size_t)d + (size_t)i]
                        : 0;
                    wrong += got != expected;
                }
            }
    }
    return wrong;
}

#endif

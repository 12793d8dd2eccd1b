#include "engine/rope.h"

#include <assert.h>
#include <math.h>

/* One step after the other in f32, as the framework rounds them, so that angles at far positions agree:
 * at position 100 000 one unit in the last place of a frequency is already 0.006 radians. */
static float plain_frequency(float base, int i, int head_dim)
{
    float exponent = (float)(2 * i) / (float)head_dim;
    return 1.0f / (float)pow((double)base, (double)exponent);
}

static float stretched_base(const struct llama_config *c, int seq_len)
{
    int m = c->max_position;
    int n = seq_len > m ? seq_len : m;
    /* In the framework n is an integer tensor, which makes every step below f32. */
    float scale = (float)c->rope.factor * (float)n / (float)m - (float)(c->rope.factor - 1);
    float power = (float)pow((double)scale, (double)(float)((double)c->head_dim / (c->head_dim - 2)));
    return (float)c->rope.theta * power;
}

static float llama3_frequency(const struct rope_config *r, float f)
{
    float length = (float)r->original_max_position;
    float low_wavelength = (float)(r->original_max_position / r->low_freq_factor);
    float high_wavelength = (float)(r->original_max_position / r->high_freq_factor);
    float wavelength = (float)(2 * M_PI) / f;
    if (wavelength < high_wavelength) return f;
    if (wavelength > low_wavelength) return f / (float)r->factor;
    float s =
        (length / wavelength - (float)r->low_freq_factor) / (float)(r->high_freq_factor - r->low_freq_factor);
    return (1 - s) * f / (float)r->factor + s * f;
}

void rope_frequencies(const struct llama_config *c, int seq_len, float *inv_freq)
{
    assert(c->head_dim > 0 && c->head_dim % 2 == 0);
    const struct rope_config *r = &c->rope;
    float base = r->type == ROPE_DYNAMIC ? stretched_base(c, seq_len) : (float)r->theta;
    for (int i = 0; i < c->head_dim / 2; i++) {
        float f = plain_frequency(base, i, c->head_dim);
        if (r->type == ROPE_LINEAR) f /= (float)r->factor;
        if (r->type == ROPE_LLAMA3) f = llama3_frequency(r, f);
        inv_freq[i] = f;
    }
}

bool rope_depends_on_length(const struct llama_config *c) { return c->rope.type == ROPE_DYNAMIC; }

float rope_attention_scaling(const struct llama_config *c)
{
    (void)c;
    return 1.0f;
}

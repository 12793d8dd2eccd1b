#include "engine/rope.h"

#include <assert.h>
#include <math.h>

/* The channels of a head that turn: of all formulas the dimension. */
static int turned(const struct llama_config *c)
{
    return c->rope.turned ? c->rope.turned : c->head_dim;
}

/* One step after the other in f32, as the framework rounds them, so that angles at far positions
 * agree: at position 100 000 one unit in the last place of a frequency is already 0.006 radians. */
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
    float power = (float)pow((double)scale, (double)(float)((double)turned(c) / (turned(c) - 2)));
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
    float s = (length / wavelength - (float)r->low_freq_factor) /
        (float)(r->high_freq_factor - r->low_freq_factor);
    return (1 - s) * f / (float)r->factor + s * f;
}

/* The dimension whose wave turns so many times over the pretraining's length. */
static double yarn_dimension(const struct llama_config *c, double turns)
{
    const struct rope_config *r = &c->rope;
    return turned(c) * log(r->original_max_position / (turns * 2 * M_PI)) / (2 * log(r->theta));
}

static float yarn_frequency(const struct llama_config *c, int i)
{
    const struct rope_config *r = &c->rope;
    double low = yarn_dimension(c, r->beta_fast), high = yarn_dimension(c, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, turned(c) - 1);
    if (low == high) high += .001;
    float s = ((float)i - (float)low) / (float)(high - low);
    s = s < 0 ? 0 : s > 1 ? 1 : s;
    float wave = (float)pow((double)(float)r->theta, (double)((float)(2 * i) / (float)turned(c)));
    float keep = 1 - s; /* of what extrapolates */
    return 1.0f / ((float)r->factor * wave) * (1 - keep) + 1.0f / wave * keep;
}

static float longrope_frequency(const struct llama_config *c, int i, int seq_len)
{
    const struct rope_config *r = &c->rope;
    float by = seq_len > r->original_max_position ? r->long_factor[i] : r->short_factor[i];
    float wave = (float)pow((double)(float)r->theta, (double)((float)(2 * i) / (float)turned(c)));
    return 1.0f / (by * wave);
}

int rope_count(const struct llama_config *c) { return c->rope.windows_plain ? 2 : 1; }

void rope_frequencies(const struct llama_config *c, int which, int seq_len, float *inv_freq)
{
    assert(c->head_dim > 0 && c->head_dim % 2 == 0);
    const struct rope_config *r = &c->rope;
    enum rope_type type = which ? ROPE_DEFAULT : r->type;
    float base = type == ROPE_DYNAMIC ? stretched_base(c, seq_len) : (float)r->theta;
    for (int i = turned(c) / 2; i < c->head_dim / 2; i++) inv_freq[i] = 0;
    for (int i = 0; i < turned(c) / 2; i++) {
        float f = plain_frequency(base, i, turned(c));
        if (type == ROPE_LINEAR) f /= (float)r->factor;
        if (type == ROPE_LLAMA3) f = llama3_frequency(r, f);
        if (type == ROPE_YARN) f = yarn_frequency(c, i);
        if (type == ROPE_LONGROPE) f = longrope_frequency(c, i, seq_len);
        inv_freq[i] = f;
    }
}

float rope_attention_scaling(const struct llama_config *c, int which)
{
    return which ? 1 : (float)c->rope.attention_factor;
}

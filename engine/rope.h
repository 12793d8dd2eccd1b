/* Rotary position embedding: the frequencies of every scaling.
 *
 * Convention (Su et al., "RoFormer", 2021, in the rotate-half layout of Hugging Face checkpoints):
 * with half = head_dim / 2, the pair (x[i], x[i + half]) of a head at position p turns by the angle
 * a = (float)p * inv_freq[i], a product rounded to f32:
 *     y[i] = x[i] cos a - x[i + half] sin a,   y[i + half] = x[i + half] cos a + x[i] sin a
 * and cos and sin are multiplied by rope_attention_scaling().
 *
 * Frequencies, with d = head_dim and b = theta, as transformers' modeling_rope_utils computes them
 * in f32: default  f_i = b^(-2i/d) linear   f_i / factor dynamic  b is first multiplied by (factor
 * * n / m - (factor - 1))^(d / (d - 2)), m = max_position, n = max(seq_len, m)  (NTK-aware scaling)
 *     llama3   with wavelength w = 2 pi / f_i, original length L, low = L / low_freq_factor and
 *              high = L / high_freq_factor: w < high keeps f_i; w > low gives f_i / factor; between
 * them (1 - s) f_i / factor + s f_i with s = (L / w - low_freq_factor) / (high_freq_factor -
 *              low_freq_factor)
 *     yarn     between f_i / factor and f_i by a ramp over i: with r(t) = d ln(L / (2 pi t)) / (2
 * ln b), from low = r(beta_fast) to high = r(beta_slow), s = clamp((i - low) / (high - low), 0, 1):
 *              s f_i / factor + (1 - s) f_i (YaRN, arXiv 2309.00071)
 *     longrope f_i / short_factor[i] for sequences up to L, f_i / long_factor[i] for longer ones
 * (arXiv 2402.13753)
 */
#ifndef SG_ENGINE_ROPE_H
#define SG_ENGINE_ROPE_H

#include "engine/checkpoint/config.h"

#include <stdbool.h>

/* A model has one rotation, or two: `which` is 0, or 1 for that of layers with a window where these
 * go without the scaling (llama_rope()). */
int rope_count(const struct llama_config *c);

/* inv_freq [head_dim / 2], radians per token, 0 behind the channels that turn (rope.turned).
 * seq_len is the length of the whole sequence, past and present (largest position + 1); only
 * `dynamic` and `longrope` look at it. transformers keeps the frequencies of a longer sequence seen
 * before; this is a pure function and equals it for a fresh sequence. Under these two, chunks of
 * one prefill must all be given the final length, or keys already cached stay turned by older
 * frequencies. */
void rope_frequencies(const struct llama_config *c, int which, int seq_len, float *inv_freq);

/* Factor on cos and sin: 1 but for yarn and longrope. */
float rope_attention_scaling(const struct llama_config *c, int which);

#endif

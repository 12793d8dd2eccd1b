/* The numbers of a LLaMA model or of one of its kin (family.h), from config.json and
 * generation_config.json of a Hugging Face directory.
 *
 * Field names and defaults follow transformers' LlamaConfig; both the long-standing keys
 * (rope_theta, rope_scaling, torch_dtype) and those of transformers 5 (rope_parameters, dtype) are
 * read.
 */
#ifndef SG_ENGINE_CHECKPOINT_CONFIG_H
#define SG_ENGINE_CHECKPOINT_CONFIG_H

#include "base/status.h"
#include "kernels/dtype.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum rope_type {
    ROPE_DEFAULT,
    ROPE_LINEAR,
    ROPE_DYNAMIC,
    ROPE_LLAMA3,
    ROPE_YARN,
    ROPE_LONGROPE,
    N_ROPE_TYPES
};

enum { LLAMA_MAX_LAYERS = 4096, LLAMA_MAX_HEAD_DIM = 1024 };

/* Where the norms of attention and MLP stand: on what they read, on what they add, or on both. */
enum llama_norms { NORMS_BEFORE, NORMS_BEHIND, NORMS_AROUND };
/* An RMSNorm of q and k in front of the rotation: none, over each head, over all heads of a token.
 */
enum llama_qk_norm { QK_NORM_NONE, QK_NORM_HEADS, QK_NORM_WHOLE };

struct rope_config {
    enum rope_type type;
    double theta;           /* base of the wavelengths, > 0 */
    int turned;             /* channels of a head that turn, even; 0: all */
    double factor;          /* of every scaling: > 0; else 1 */
    double low_freq_factor; /* llama3: 0 < low < high; else 0 */
    double high_freq_factor;
    int original_max_position; /* llama3, yarn, longrope: tokens of the pretraining; else 0 */
    double attention_factor;   /* yarn, longrope: on cos and sin; else 1 */
    /* yarn: rotations over the pretraining that bound the ramp; else 0 */
    double beta_fast, beta_slow;
    bool truncate;      /* yarn: the ramp's ends are whole dimensions */
    bool windows_plain; /* layers with a window turn by theta alone, without the scaling */
    /* longrope: [half of the channels that turn]; else 0 */
    float short_factor[LLAMA_MAX_HEAD_DIM / 2], long_factor[LLAMA_MAX_HEAD_DIM / 2];
};

#define LLAMA_MAX_EOS 16

struct llama_family;

struct llama_config {
    const struct llama_family *family;
    int hidden_size;
    int intermediate_size;
    int n_layers;
    int n_heads; /* query heads, a multiple of n_kv_heads */
    int n_kv_heads;
    int head_dim; /* even; apart from hidden_size / n_heads */
    int vocab_size;
    int max_position;    /* max_position_embeddings, tokens */
    double rms_norm_eps; /* of norms that read the residual stream … */
    double inner_eps;    /* … and of the others: of q and k, of what a layer adds */
    struct rope_config rope;
    bool tie_word_embeddings;
    bool qkv_bias, o_bias;
    bool mlp_bias; /* on gate, up and down */
    enum llama_norms norms;
    enum llama_qk_norm qk_norm;
    /* Of the scores; on a row of the embedding; on the logits, where the final norm brings it
     * along. 0: 1 / sqrt(head_dim), 1 and 1. */
    double attention_scale, embedding_scale, logits_scale;
    /* keys that a windowed layer's rows see, themselves included; 0: no layer is windowed */
    int window;
    /* bit l: of layer l */
    uint64_t windowed[LLAMA_MAX_LAYERS / 64], unturned[LLAMA_MAX_LAYERS / 64];
    bool has_dtype; /* config.json declares a dtype; what counts is each tensor's own */
    enum dtype dtype;
    int bos_id;                 /* -1: none */
    int n_eos;                  /* 0: none */
    int eos_ids[LLAMA_MAX_EOS]; /* generation_config.json's when it has some, else config.json's */
};

/* Read `dir`/config.json and, when there is one, `dir`/generation_config.json.
 * ERR_UNSUPPORTED, with its name, for another architecture, rope type, activation or a quantised
 * model; ERR_FORMAT for a value out of range or of the wrong kind; ERR_IO when there is no
 * config.json. */
enum status llama_config_read(struct llama_config *c, const char *dir) MUST_USE;

/* The same from text in memory; `file` is for messages. `c` must be parsed by llama_config_parse
 * before its generation settings are. */
enum status llama_config_parse(
    struct llama_config *c, const char *file, const char *text, size_t len) MUST_USE;
enum status llama_generation_config_parse(
    struct llama_config *c, const char *file, const char *text, size_t len) MUST_USE;

/* Write the config.json of a LLaMA proper that transformers 4 and 5 load and that reads back equal.
 */
enum status llama_config_write(const struct llama_config *c, const char *path) MUST_USE;

static inline void llama_set_windowed(struct llama_config *c, int layer)
{
    c->windowed[layer / 64] |= 1ull << layer % 64;
}
static inline void llama_set_unturned(struct llama_config *c, int layer)
{
    c->unturned[layer / 64] |= 1ull << layer % 64;
}
/* The rows of this layer are rotated by their position. */
static inline bool llama_turns(const struct llama_config *c, int layer)
{
    return !(c->unturned[layer / 64] >> layer % 64 & 1);
}
/* Keys that a row of this layer sees; 0: all before it. */
static inline int llama_window(const struct llama_config *c, int layer)
{
    return c->windowed[layer / 64] >> layer % 64 & 1 ? c->window : 0;
}

/* Which of the model's rotations (rope.h) turns this layer. */
static inline int llama_rope(const struct llama_config *c, int layer)
{
    return c->rope.windows_plain && llama_window(c, layer) > 0;
}

static inline float llama_attention_scale(const struct llama_config *c)
{
    return (float)(c->attention_scale > 0 ? c->attention_scale : 1 / sqrt((double)c->head_dim));
}
static inline float llama_embedding_scale(const struct llama_config *c)
{
    return c->embedding_scale > 0 ? (float)c->embedding_scale : 1;
}

bool llama_config_is_eos(const struct llama_config *c, int id);

/* "default", "linear", "dynamic", "llama3", "yarn", "longrope" */
const char *rope_type_name(enum rope_type t);

/* Elements of all weights, tied embeddings counted once, biases and norms included. */
long long llama_config_parameters(const struct llama_config *c);

#endif

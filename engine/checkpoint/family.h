/* LLaMA and its kin: one row for each family of checkpoints, which says by how much it differs.
 *
 * A family is the same decoder (RMSNorm, rotary grouped-query attention, SwiGLU) with other biases,
 * norms inside of attention, a window on some layers, no rotation on others, or factors. Rows
 * follow the configuration classes and model files of transformers 5, which is also where the
 * values for keys left out come from.
 */
#ifndef SG_ENGINE_CHECKPOINT_FAMILY_H
#define SG_ENGINE_CHECKPOINT_FAMILY_H

#include "base/json.h"
#include "engine/checkpoint/config.h"

enum family_bias {
    BIAS_ASKED, /* attention_bias of config.json: on q, k, v and o */
    BIAS_QKV,   /* always on q, k and v */
    BIAS_NONE,
};

struct llama_family {
    const char *model_type;   /* "qwen2" */
    const char *architecture; /* "Qwen2ForCausalLM" */
    enum family_bias bias;
    bool mlp_bias; /* mlp_bias of config.json counts */
    enum llama_qk_norm qk_norm;
    enum llama_norms norms;
    /* For keys that config.json leaves out. */
    int n_kv_heads; /* 0: as many as query heads */
    int head_dim;   /* 0: hidden_size / num_attention_heads */
    int max_position;
    int bos_id, eos_id; /* -1: none */
    double theta, eps;
    bool tied;
    /* fields that others may have only with a neutral value (config_neutral.c), a space on both
     * sides of each */
    const char *reads;
    /* "theirs=ours …": keys of config.json and parts of tensors' names that are called otherwise,
     * and "theirs=first+second …" where one tensor holds the rows of several (tensor_names.h);
     * NULL: none */
    const char *fields, *tensors;
    bool as_llama; /* transformers runs and saves it as LlamaForCausalLM */
    /* What else it says of itself; NULL: nothing. Sets c->window, llama_set_windowed(),
     * llama_set_unturned(), the scales. */
    enum status (*own)(struct llama_config *c, struct json_in in);
};

/* `word` stands in `words`, each of which has a space on both sides. */
bool llama_word_in(const char *words, const char *word);

/* By model_type, or by the name in architectures; NULL when it is none of ours. Either may be NULL.
 */
const struct llama_family *llama_family_find(const char *model_type, const char *architecture);
/* What a family that is none of ours, by its model_type or architecture, needs beside theirs; for
 * people. */
const char *llama_family_missing(const char *name);
/* "llama, mistral, …" */
const char *llama_family_names(void);

#endif

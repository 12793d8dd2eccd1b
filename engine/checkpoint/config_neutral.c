/* Fields of config.json that this engine does not follow and that would change the result. */
#include "engine/checkpoint/config_neutral.h"

#include "engine/checkpoint/family.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* What else a configuration may say that would change the result, and the values that leave it
 * alone. Fields of transformers' decoders that share LlamaConfig's names: Granite, Gemma, Cohere,
 * MiniCPM, Mistral, Qwen, SmolLM, Llama 4, OLMo, GLM, StableLM. One that is absent or null is
 * neutral. */
enum neutral {
    NEUTRAL_OFF,      /* false, 0 or empty */
    NEUTRAL_ONE,      /* 1 */
    NEUTRAL_SCALE,    /* 1 / sqrt(head_dim), the scale of the scores anyway */
    NEUTRAL_HEAD_DIM, /* head_dim, whose root that scale is */
    NEUTRAL_HIDDEN,   /* hidden_size, of which it is a part */
    /* nothing shorter than max_position_embeddings, unless use_sliding_window is false */
    NEUTRAL_WINDOW,
    NEUTRAL_FULL,     /* "full_attention" in every layer */
    NEUTRAL_ALL_ONES, /* 1 in every layer */
};

static const struct neutral_field {
    const char *name;
    enum neutral neutral;
} neutral_fields[] = {
    {"embedding_multiplier", NEUTRAL_ONE},
    {"residual_multiplier", NEUTRAL_ONE},
    {"attention_multiplier", NEUTRAL_SCALE},
    {"logits_scaling", NEUTRAL_ONE},
    {"logit_scale", NEUTRAL_ONE},
    {"lm_head_multiplier", NEUTRAL_ONE},
    {"key_multiplier", NEUTRAL_ONE},
    {"scale_emb", NEUTRAL_ONE},
    {"scale_depth", NEUTRAL_OFF},
    {"dim_model_base", NEUTRAL_HIDDEN},
    {"query_pre_attn_scalar", NEUTRAL_HEAD_DIM},
    {"attn_scale", NEUTRAL_SCALE},
    {"attn_temperature_tuning", NEUTRAL_OFF},
    {"sliding_window", NEUTRAL_WINDOW},
    {"attention_window", NEUTRAL_WINDOW},
    {"attention_chunk_size", NEUTRAL_WINDOW},
    {"layer_types", NEUTRAL_FULL},
    {"no_rope_layers", NEUTRAL_ALL_ONES},
    {"no_rope_layer_interval", NEUTRAL_OFF},
    {"attn_logit_softcapping", NEUTRAL_OFF},
    {"final_logit_softcapping", NEUTRAL_OFF},
    {"logits_soft_cap", NEUTRAL_OFF},
    {"attn_logit_cap", NEUTRAL_OFF},
    {"clip_qkv", NEUTRAL_OFF},
    {"qk_norm", NEUTRAL_OFF},
    {"use_qk_norm", NEUTRAL_OFF},
    {"qk_layernorm", NEUTRAL_OFF},
    {"alibi", NEUTRAL_OFF},
    {"use_alibi", NEUTRAL_OFF},
    {"use_parallel_residual", NEUTRAL_OFF},
    {"parallel_attn", NEUTRAL_OFF},
    {"partial_rotary_factor", NEUTRAL_ONE},
    {"rotary_pct", NEUTRAL_ONE},
    {"rope_ratio", NEUTRAL_ONE},
    {"rope_scaling_factor", NEUTRAL_ONE},
    {"rope_local_base_freq", NEUTRAL_OFF},
    {"num_local_experts", NEUTRAL_OFF},
    {"num_experts", NEUTRAL_OFF},
    {"n_routed_experts", NEUTRAL_OFF},
};

static bool is_off(const cJSON *node)
{
    return cJSON_IsFalse(node) || (cJSON_IsNumber(node) && node->valuedouble == 0) ||
        (cJSON_IsString(node) && !*node->valuestring) ||
        ((cJSON_IsArray(node) || cJSON_IsObject(node)) && !node->child);
}

/* Every element of a list is that word, or 1 for NULL. */
static bool is_all(const cJSON *list, const char *word)
{
    const cJSON *item;
    if (!cJSON_IsArray(list)) return false;
    cJSON_ArrayForEach(item, list) if (word
            ? !cJSON_IsString(item) || strcmp(item->valuestring, word) != 0
            : item->valuedouble != 1) return false;
    return true;
}

static bool is_number(const cJSON *node, double wanted)
{
    return cJSON_IsNumber(node) && fabs(node->valuedouble - wanted) <= 1e-6 * wanted;
}

static bool is_neutral(
    const struct llama_config *c, const cJSON *root, const cJSON *node, enum neutral neutral)
{
    switch (neutral) {
    case NEUTRAL_OFF: return is_off(node);
    case NEUTRAL_ONE: return is_number(node, 1);
    case NEUTRAL_SCALE: return is_number(node, 1 / sqrt(c->head_dim));
    case NEUTRAL_HEAD_DIM: return is_number(node, c->head_dim);
    case NEUTRAL_HIDDEN: return is_number(node, c->hidden_size);
    case NEUTRAL_WINDOW:
        return is_off(node) ||
            cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(root, "use_sliding_window")) ||
            (cJSON_IsNumber(node) && node->valuedouble >= c->max_position);
    case NEUTRAL_FULL: return is_all(node, "full_attention");
    case NEUTRAL_ALL_ONES: return is_all(node, NULL);
    }
    return false;
}

enum status llama_config_check_neutral(const struct llama_config *c, struct json_in in)
{
    for (size_t i = 0; i < sizeof neutral_fields / sizeof *neutral_fields; i++) {
        const struct neutral_field *f = &neutral_fields[i];
        const cJSON *node = cJSON_GetObjectItemCaseSensitive(in.node, f->name);
        if (!node || cJSON_IsNull(node) || llama_word_in(c->family->reads, f->name) ||
            is_neutral(c, in.node, node, f->neutral))
            continue;
        struct str value = {0};
        json_print(&value, node, -1);
        enum status st = fail(ERR_UNSUPPORTED,
            "%s: field %s: found %.80s, which would change the result and is not followed by this "
            "engine; remove "
            "it if the model was not trained with it",
            in.file, f->name, str_get(&value));
        str_clear(&value);
        return st;
    }
    return OK;
}

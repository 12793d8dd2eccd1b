#include "engine/checkpoint/family.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static enum status family_int(struct json_in in, const char *name, int lo, int hi, int *out)
{
    int64_t value = *out;
    TRY(json_get_int(in, name, false, lo, hi, &value));
    *out = (int)value;
    return OK;
}

static const cJSON *family_field(struct json_in in, const char *name)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(in.node, name);
    return node && cJSON_IsNull(node) ? NULL : node;
}

/* sliding_window: `missing` when the key is not there, 0 for null. */
static enum status family_window(struct llama_config *c, struct json_in in, int missing)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(in.node, "sliding_window");
    c->window = node ? 0 : missing;
    if (!node || cJSON_IsNull(node)) return OK;
    return family_int(in, "sliding_window", 1, 1 << 30, &c->window);
}

/* layer_types says it layer by layer; *told is false when the key is not there. */
static enum status family_layer_types(struct llama_config *c, struct json_in in, bool *told)
{
    const cJSON *list = family_field(in, "layer_types"), *item;
    int n = 0;
    *told = list != NULL;
    if (!list) return OK;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != c->n_layers)
        return fail(ERR_FORMAT,
            "%s: field layer_types: found %s of %d, expected an array of num_hidden_layers %d "
            "names",
            in.file, json_kind(list), cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 1,
            c->n_layers);
    cJSON_ArrayForEach(item, list)
    {
        const char *kind = cJSON_IsString(item) ? item->valuestring : json_kind(item);
        if (strcmp(kind, "sliding_attention") == 0) llama_set_windowed(c, n);
        else if (strcmp(kind, "full_attention") != 0)
            return fail(ERR_UNSUPPORTED,
                "%s: field layer_types[%d]: found \"%s\", supported are full_attention and "
                "sliding_attention",
                in.file, n, kind);
        n++;
    }
    return OK;
}

static enum status all_windowed(struct llama_config *c, struct json_in in)
{
    TRY(family_window(c, in, 4096));
    for (int l = 0; l < c->n_layers && c->window; l++) llama_set_windowed(c, l);
    return OK;
}

static enum status windowed_by_type(struct llama_config *c, struct json_in in)
{
    bool told;
    TRY(family_window(c, in, 4096));
    TRY(family_layer_types(c, in, &told));
    for (int l = 0; l < c->n_layers && c->window && !told; l++) llama_set_windowed(c, l);
    return OK;
}

/* use_sliding_window turns it on; then layer_types, or the layers from max_window_layers on. */
static enum status windowed_late(struct llama_config *c, struct json_in in)
{
    bool on = false, told;
    int first = 28;
    TRY(json_get_bool(in, "use_sliding_window", false, &on));
    TRY(family_window(c, in, 4096));
    if (!on) c->window = 0;
    TRY(family_int(in, "max_window_layers", 0, 1 << 20, &first));
    TRY(family_layer_types(c, in, &told));
    for (int l = first; l < c->n_layers && c->window && !told; l++) llama_set_windowed(c, l);
    return OK;
}

/* Every no_rope_layer_interval-th layer is not rotated, or those where no_rope_layers holds a 0; a
 * window, when there is one, is on these. */
static enum status some_unturned(struct llama_config *c, struct json_in in)
{
    int interval = 4, n = 0;
    bool on = false, told;
    TRY(family_int(in, "no_rope_layer_interval", 1, 1 << 20, &interval));
    const cJSON *list = family_field(in, "no_rope_layers"), *item;
    if (list && (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != c->n_layers))
        return fail(ERR_FORMAT,
            "%s: field no_rope_layers: found %s, expected an array of num_hidden_layers %d "
            "numbers, 0 or 1",
            in.file, json_kind(list), c->n_layers);
    for (int l = 0; l < c->n_layers && !list; l++)
        if ((l + 1) % interval == 0) llama_set_unturned(c, l);
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) || (item->valuedouble != 0 && item->valuedouble != 1))
            return fail(ERR_FORMAT, "%s: field no_rope_layers[%d]: expected 0 (not rotated) or 1",
                in.file, n);
        if (item->valuedouble == 0) llama_set_unturned(c, n);
        n++;
    }
    TRY(json_get_bool(in, "use_sliding_window", false, &on));
    TRY(family_window(c, in, 0));
    if (!on) c->window = 0;
    TRY(family_layer_types(c, in, &told));
    for (int l = 0; l < c->n_layers && c->window && !told; l++)
        if (!llama_turns(c, l)) llama_set_windowed(c, l);
    return OK;
}

/* Granite's four factors. The stream stands divided by residual_multiplier, which its norms do not
 * see when their eps is divided by the square of it: so what the layers add needs no factor, and
 * the embedding's becomes the quotient. */
static enum status four_scalars(struct llama_config *c, struct json_in in)
{
    double embedding = 1, residual = 1, logits = 1;
    c->attention_scale = 1;
    TRY(json_get_double(in, "embedding_multiplier", false, 1e-6, 1e6, &embedding));
    TRY(json_get_double(in, "residual_multiplier", false, 1e-6, 1e6, &residual));
    TRY(json_get_double(in, "attention_multiplier", false, 1e-6, 1e6, &c->attention_scale));
    TRY(json_get_double(in, "logits_scaling", false, 1e-6, 1e6, &logits));
    c->embedding_scale = embedding / residual;
    c->rms_norm_eps /= residual * residual;
    c->logits_scale = 1 / logits;
    return OK;
}

#define WINDOWS " sliding_window layer_types "
#define ROPES " rope_parameters " /* of its own for each type of layer */
#define SCALARS " embedding_multiplier residual_multiplier attention_multiplier logits_scaling "

/* Biases of q, k and v on, that of o off, unless it says so. */
static enum status bias_apart(struct llama_config *c, struct json_in in)
{
    c->qkv_bias = true;
    TRY(json_get_bool(in, "attention_bias", false, &c->qkv_bias));
    return json_get_bool(in, "attention_out_bias", false, &c->o_bias);
}

/* Every fourth layer, from the first on, sees everything. */
static enum status windowed_but_fourth(struct llama_config *c, struct json_in in)
{
    bool told;
    if (!family_field(in, "rope_scaling") && !family_field(in, "rope_parameters"))
        return fail(ERR_FORMAT,
            "%s: fields rope_scaling and rope_parameters: found none, expected one of them; "
            "transformers fills it in when it saves the model",
            in.file);
    TRY(family_window(c, in, 8192));
    TRY(family_layer_types(c, in, &told));
    for (int l = 0; l < c->n_layers && c->window && !told; l++)
        if (l % 4) llama_set_windowed(c, l);
    return OK;
}

/* A window on every layer, unless it is null or not there. */
static enum status all_windowed_if_told(struct llama_config *c, struct json_in in)
{
    TRY(family_window(c, in, 0));
    for (int l = 0; l < c->n_layers && c->window; l++) llama_set_windowed(c, l);
    return OK;
}

/* Every fourth layer, the last of four, sees everything, or what layer_types says; these alone have
 * the rotation's scaling. */
static enum status plain_windows(struct llama_config *c, struct json_in in)
{
    bool told;
    TRY(family_window(c, in, 4096));
    TRY(family_layer_types(c, in, &told));
    for (int l = 0; l < c->n_layers && c->window && !told; l++)
        if ((l + 1) % 4) llama_set_windowed(c, l);
    c->rope.windows_plain = c->rope.type != ROPE_DEFAULT;
    return OK;
}

/* Where there are windows, the layers without one do not turn. */
static enum status only_windows_turn(struct llama_config *c, struct json_in in)
{
    bool told;
    int pattern = 4;
    TRY(family_window(c, in, 4096));
    TRY(family_layer_types(c, in, &told));
    if (told || !c->window) pattern = 0;
    else TRY(family_int(in, "sliding_window_pattern", 1, 1 << 20, &pattern));
    for (int l = 0; l < c->n_layers && pattern; l++)
        if ((l + 1) % pattern) llama_set_windowed(c, l);
    for (int l = 0; l < c->n_layers && c->window; l++)
        if (!llama_window(c, l)) llama_set_unturned(c, l);
    return OK;
}

/* Granite's factors, but that of the logits multiplies, and scores have the usual one unless it is
 * said; norms behind attention and MLP may be off. */
static enum status norms_around_or_before(struct llama_config *c, struct json_in in)
{
    bool around = true;
    TRY(four_scalars(c, in));
    if (!family_field(in, "attention_multiplier")) c->attention_scale = 0;
    c->logits_scale = 1 / c->logits_scale;
    TRY(json_get_bool(in, "use_post_norm", false, &around));
    if (!around) c->norms = NORMS_BEFORE;
    return OK;
}

static enum status biases_equal(struct llama_config *c, struct json_in in)
{
    if (c->qkv_bias == c->mlp_bias) return OK;
    return fail(ERR_UNSUPPORTED,
        "%s: field qkv_bias: found %s beside bias %s, supported are equal ones", in.file,
        c->qkv_bias ? "true" : "false", c->mlp_bias ? "true" : "false");
}

/* clang-format off */
#define FUSED "qkv_proj=q_proj+k_proj+v_proj gate_up_proj=gate_proj+up_proj"
#define EXAONE_FIELDS "num_layers=num_hidden_layers layer_norm_epsilon=rms_norm_eps activation_function=hidden_act"
#define EXAONE_TENSORS \
    "transformer.wte.=model.embed_tokens. transformer.h.=model.layers. transformer.ln_f.=model.norm. " \
    ".attn.attention.=.self_attn. .self_attn.out_proj.=.self_attn.o_proj. .ln_1.=.input_layernorm. " \
    ".ln_2.=.post_attention_layernorm. .mlp.c_fc_0.=.mlp.gate_proj. .mlp.c_fc_1.=.mlp.up_proj. " \
    ".mlp.c_proj.=.mlp.down_proj."

static const struct llama_family families[] = {
    /* model_type   architecture              bias        mlp    q and k        norms         kv  dim  positions  bos     eos     theta    eps   tied   reads, fields, tensors, as_llama, own */
    {"llama",       "LlamaForCausalLM",       BIAS_ASKED, true,  QK_NORM_NONE,  NORMS_BEFORE, 0,  0,   2048,      1,      2,      10000,   1e-6, false, "", NULL, NULL, false, NULL},
    {"mistral",     "MistralForCausalLM",     BIAS_NONE,  false, QK_NORM_NONE,  NORMS_BEFORE, 8,  0,   4096 * 32, 1,      2,      10000,   1e-6, false, WINDOWS, NULL, NULL, false, all_windowed},
    {"ministral",   "MinistralForCausalLM",   BIAS_NONE,  false, QK_NORM_NONE,  NORMS_BEFORE, 8,  0,   4096 * 32, 1,      2,      10000,   1e-6, false, WINDOWS, NULL, NULL, false, windowed_by_type},
    {"qwen2",       "Qwen2ForCausalLM",       BIAS_QKV,   false, QK_NORM_NONE,  NORMS_BEFORE, 32, 0,   32768,     -1,     -1,     10000,   1e-6, false, WINDOWS, NULL, NULL, false, windowed_late},
    {"qwen3",       "Qwen3ForCausalLM",       BIAS_ASKED, false, QK_NORM_HEADS, NORMS_BEFORE, 32, 128, 32768,     -1,     -1,     10000,   1e-6, false, WINDOWS, NULL, NULL, false, windowed_late},
    {"smollm3",     "SmolLM3ForCausalLM",     BIAS_ASKED, true,  QK_NORM_NONE,  NORMS_BEFORE, 4,  0,   32768,     128000, 128001, 2000000, 1e-6, true,  WINDOWS "no_rope_layers no_rope_layer_interval ", NULL, NULL, false, some_unturned},
    {"granite",     "GraniteForCausalLM",     BIAS_ASKED, true,  QK_NORM_NONE,  NORMS_BEFORE, 0,  0,   2048,      1,      2,      10000,   1e-6, false, SCALARS, NULL, NULL, false, four_scalars},
    {"phi3",        "Phi3ForCausalLM",        BIAS_NONE,  false, QK_NORM_NONE,  NORMS_BEFORE, 0,  0,   4096,      1,      32000,  10000,   1e-5, false, " sliding_window partial_rotary_factor ", NULL, FUSED, false, all_windowed_if_told},
    {"exaone",      "ExaoneForCausalLM",      BIAS_ASKED, true,  QK_NORM_NONE,  NORMS_BEFORE, 8,  0,   4096,      1,      361,    500000,  1e-5, false, "", EXAONE_FIELDS, EXAONE_TENSORS, true, NULL},
    {"internlm3",   "InternLM3ForCausalLM",   BIAS_ASKED, true,  QK_NORM_NONE,  NORMS_BEFORE, 2,  128, 32768,     1,      2,      10000,   1e-6, false, "", "qkv_bias=attention_bias bias=mlp_bias", NULL, true, biases_equal},
    {"iquestcoder", "IQuestCoderForCausalLM", BIAS_ASKED, true,  QK_NORM_NONE,  NORMS_BEFORE, 8,  128, 131072,    1,      2,      10000,   1e-6, false, "", NULL, NULL, true, NULL},
    {"seed_oss",    "SeedOssForCausalLM",     BIAS_NONE,  true,  QK_NORM_NONE,  NORMS_BEFORE, 8,  128, 524288,    0,      2,      10000,   1e-6, false, "", NULL, NULL, false, bias_apart},
    {"cwm",         "CwmForCausalLM",         BIAS_NONE,  false, QK_NORM_NONE,  NORMS_BEFORE, 8,  128, 131072,    128000, 128001, 1000000, 1e-5, false, WINDOWS, NULL, NULL, false, windowed_but_fourth},
    {"olmo2",       "Olmo2ForCausalLM",       BIAS_ASKED, false, QK_NORM_WHOLE, NORMS_BEHIND, 0,  0,   2048,      -1,     50279,  10000,   1e-5, false, "", NULL, NULL, false, NULL},
    {"olmo3",       "Olmo3ForCausalLM",       BIAS_ASKED, false, QK_NORM_WHOLE, NORMS_BEHIND, 0,  0,   2048,      -1,     50279,  500000,  1e-5, false, WINDOWS ROPES, NULL, NULL, false, plain_windows},
    {"exaone4",     "Exaone4ForCausalLM",     BIAS_NONE,  false, QK_NORM_HEADS, NORMS_BEHIND, 32, 0,   2048,      0,      2,      10000,   1e-5, false, WINDOWS, NULL, NULL, false, only_windows_turn},
    {"hyperclovax", "HyperCLOVAXForCausalLM", BIAS_ASKED, true,  QK_NORM_NONE,  NORMS_AROUND, 0,  0,   2048,      1,      2,      10000,   1e-6, false, SCALARS, NULL, NULL, false, norms_around_or_before},
};
/* clang-format on */
enum { N_FAMILIES = sizeof families / sizeof families[0] };

bool llama_word_in(const char *words, const char *word)
{
    size_t n = strlen(word);
    const char *at = n ? strstr(words, word) : NULL;
    while (at && !(at > words && at[-1] == ' ' && at[n] == ' ')) at = strstr(at + 1, word);
    return at != NULL;
}

const struct llama_family *llama_family_find(const char *model_type, const char *architecture)
{
    for (int i = 0; i < N_FAMILIES; i++) {
        if (model_type && strcmp(model_type, families[i].model_type) == 0) return &families[i];
        if (architecture && strcmp(architecture, families[i].architecture) == 0)
            return &families[i];
    }
    if (architecture && strcmp(architecture, "LLaMAForCausalLM") == 0) return &families[0];
    return NULL;
}

const char *llama_family_missing(const char *name)
{
    static const struct {
        const char *part, *missing;
    } known[] = {
        {"moe", "missing is a mixture of experts; take a dense model"},
        {"mixtral", "missing is a mixture of experts; take a dense model"},
        {"gpt_oss", "missing is a mixture of experts; take a dense model"},
        {"gptoss", "missing is a mixture of experts; take a dense model"},
        {"deepseek", "missing are latent attention and a mixture of experts"},
        {"gemma", "missing are norms that add 1 to their weight, and GELU"},
        {"phi3_v", "missing is the picture part; save the text model alone"},
        {"phi4", "missing are the parts for pictures and sound, and their adapters"},
        {"phi", "missing are norms with a mean, and attention beside the MLP"},
        {"olmo_hybrid", "missing are layers of linear attention"},
        {"flex_olmo", "missing is a mixture of experts; take a dense model"},
        {"flexolmo", "missing is a mixture of experts; take a dense model"},
        {"exaone4_5", "missing is the picture part; save the text model alone"},
        {"hyperclovax_vision", "missing is the picture part; save the text model alone"},
        {"olmo", "missing are norms without weights"},
        {"granite_swa", "missing are sinks in attention"},
        {"hunyuan", "missing are norms of q and k behind their rotation"},
        {"ernie", "missing is a rotation of neighbouring channels"},
        {"helium", "missing is a rotation of neighbouring channels"},
        {"internlm2", "missing are q, k and v in one matrix, mixed by group; convert it to LLaMA"},
        {"baichuan", "missing are q, k and v in one matrix; convert it to LLaMA"},
        {"minicpm3", "missing is latent attention"},
        {"minicpm", "its three scales are known, but nothing checks them here"},
        {"youtu", "missing is latent attention"},
        {"kimi", "missing are latent or linear attention and a mixture of experts"},
        {"lfm2", "missing are layers of convolutions"},
        {"arcee", "missing is an MLP of squared ReLU without a gate"},
        {"nemotron", "missing are norms with a mean, and squared ReLU"},
        {"apertus", "missing is the activation xIELU"},
        {"bitnet", "missing are norms inside, and weights of three values"},
        {"cohere", "missing are norms with a mean, and attention beside the MLP"},
        {"llama4", "missing are a mixture of experts and attention in stretches"},
        {"ministral3", "missing is a scale of queries that grows with their position"},
        {"mistral3", "missing is the picture part; save the text model alone"},
        {"qwen3_next", "missing are layers of linear attention and a mixture of experts"},
        {"qwen3_5", "missing are layers of linear attention"},
        {"mamba", "missing are layers of state spaces"},
        {"jamba", "missing are layers of state spaces and a mixture of experts"},
        {"glm", "missing is a rotation of half a head"},
        {"gpt", "missing are norms with a mean, GELU, and learned positions or another rotation"},
        {"falcon_h1", "missing are layers of state spaces"},
        {"falcon", "missing are norms with a mean, and attention beside the MLP"},
        {"starcoder2", "missing are norms with a mean, and GELU"},
        {"stablelm", "missing are norms with a mean, and a rotation of part of a head"},
        {"_vl", "missing is the picture part; save the text model alone"},
        {"vlfor", "missing is the picture part; save the text model alone"},
        {"llava", "missing is the picture part; save the text model alone"},
        {"mllama", "missing is the picture part; save the text model alone"},
        {"whisper", "it writes down speech; take a model of text alone"},
        {"bert", "it fills gaps; take a model that continues texts"},
        {"t5", "it is an encoder with a decoder; take a decoder alone"},
        {"bart", "it is an encoder with a decoder; take a decoder alone"},
        {"classification", "it judges texts and has no head over the vocabulary"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcasestr(name, known[i].part)) return known[i].missing;
    return "it is not known here what it would need";
}

static char family_names[32 * N_FAMILIES];

static void family_names_join(void)
{
    for (int i = 0; i < N_FAMILIES; i++)
        snprintf(family_names + strlen(family_names), sizeof family_names - strlen(family_names),
            "%s%s",
            i == 0                   ? ""
                : i + 1 < N_FAMILIES ? ", "
                                     : " and ",
            families[i].model_type);
}

const char *llama_family_names(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, family_names_join);
    return family_names;
}

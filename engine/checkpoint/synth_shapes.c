#include "engine/checkpoint/synth.h"

#include "base/str.h"

#include <string.h>

#define LLAMA2_ROPE                                       \
    {                                                     \
        .type = ROPE_DEFAULT, .theta = 10000, .factor = 1 \
    }
#define LLAMA3_ROPE(stretch)                                                             \
    {                                                                                    \
        .type = ROPE_LLAMA3, .theta = 500000, .factor = (stretch), .low_freq_factor = 1, \
        .high_freq_factor = 4, .original_max_position = 8192                             \
    }
#define COMMON .rms_norm_eps = 1e-5, .bos_id = SYNTH_BOS, .n_eos = 1, .eos_ids = {SYNTH_EOS}

/* From the config.json of each model on the hub. */
static const struct synth_shape shapes[] = {
    {"tiny", "",
        {.hidden_size = 64,
            .intermediate_size = 176,
            .n_layers = 2,
            .n_heads = 4,
            .n_kv_heads = 2,
            .head_dim = 16,
            .vocab_size = 320,
            .max_position = 2048,
            .rope = LLAMA2_ROPE,
            .tie_word_embeddings = true,
            COMMON}},
    {"smollm-135m", "HuggingFaceTB/SmolLM-135M",
        {.hidden_size = 576,
            .intermediate_size = 1536,
            .n_layers = 30,
            .n_heads = 9,
            .n_kv_heads = 3,
            .head_dim = 64,
            .vocab_size = 49152,
            .max_position = 2048,
            .rope = LLAMA2_ROPE,
            .tie_word_embeddings = true,
            COMMON}},
    {"tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        {.hidden_size = 2048,
            .intermediate_size = 5632,
            .n_layers = 22,
            .n_heads = 32,
            .n_kv_heads = 4,
            .head_dim = 64,
            .vocab_size = 32000,
            .max_position = 2048,
            .rope = LLAMA2_ROPE,
            COMMON}},
    {"llama-3.2-1b", "meta-llama/Llama-3.2-1B",
        {.hidden_size = 2048,
            .intermediate_size = 8192,
            .n_layers = 16,
            .n_heads = 32,
            .n_kv_heads = 8,
            .head_dim = 64,
            .vocab_size = 128256,
            .max_position = 131072,
            .rope = LLAMA3_ROPE(32),
            .tie_word_embeddings = true,
            COMMON}},
    {"llama-3.2-3b", "meta-llama/Llama-3.2-3B",
        {.hidden_size = 3072,
            .intermediate_size = 8192,
            .n_layers = 28,
            .n_heads = 24,
            .n_kv_heads = 8,
            .head_dim = 128,
            .vocab_size = 128256,
            .max_position = 131072,
            .rope = LLAMA3_ROPE(32),
            .tie_word_embeddings = true,
            COMMON}},
    {"llama-2-7b", "meta-llama/Llama-2-7b-hf",
        {.hidden_size = 4096,
            .intermediate_size = 11008,
            .n_layers = 32,
            .n_heads = 32,
            .n_kv_heads = 32,
            .head_dim = 128,
            .vocab_size = 32000,
            .max_position = 4096,
            .rope = LLAMA2_ROPE,
            COMMON}},
    {"llama-3.1-8b", "meta-llama/Llama-3.1-8B",
        {.hidden_size = 4096,
            .intermediate_size = 14336,
            .n_layers = 32,
            .n_heads = 32,
            .n_kv_heads = 8,
            .head_dim = 128,
            .vocab_size = 128256,
            .max_position = 131072,
            .rope = LLAMA3_ROPE(8),
            COMMON}},
    {"llama-3.1-70b", "meta-llama/Llama-3.1-70B",
        {.hidden_size = 8192,
            .intermediate_size = 28672,
            .n_layers = 80,
            .n_heads = 64,
            .n_kv_heads = 8,
            .head_dim = 128,
            .vocab_size = 128256,
            .max_position = 131072,
            .rope = LLAMA3_ROPE(8),
            COMMON}},
};

const struct synth_shape *synth_shapes(int *n)
{
    *n = (int)(sizeof shapes / sizeof *shapes);
    return shapes;
}

enum status synth_find(const char *name, const struct synth_shape **shape)
{
    int n;
    const struct synth_shape *all = synth_shapes(&n);
    struct str names = {0};
    for (int i = 0; i < n; i++) {
        if (!strcmp(all[i].name, name)) {
            *shape = &all[i];
            str_clear(&names);
            return OK;
        }
        str_addf(&names, "%s%s", i ? ", " : "", all[i].name);
    }
    enum status st = fail(ERR_ARG, "shape \"%s\" is unknown; there are %s", name, str_get(&names));
    str_clear(&names);
    return st;
}

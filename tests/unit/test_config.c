#include "engine/checkpoint/config.h"
#include "engine/rope.h"

#include "base/json.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>

#define SIZES                                                              \
    "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2," \
    "\"num_attention_heads\":4,\"vocab_size\":320"
#define LLAMA "\"model_type\":\"llama\","

static enum status parse(struct llama_config *c, const char *text)
{
    char *exact = malloc(strlen(text) + 1);
    memcpy(exact, text, strlen(text));
    enum status st = llama_config_parse(c, "config.json", exact, strlen(text));
    free(exact);
    return st;
}

static void must_parse(struct llama_config *c, const char *text)
{
    cr_assert_eq(parse(c, text), OK, "%s: %s", text, status_message());
}

Test(config, defaults)
{
    struct llama_config c;
    must_parse(&c, "{" LLAMA SIZES "}");
    cr_expect(
        c.hidden_size == 64 && c.intermediate_size == 96 && c.n_layers == 2 && c.n_heads == 4);
    cr_expect(
        c.n_kv_heads == 4 && c.head_dim == 16 && c.vocab_size == 320 && c.max_position == 2048);
    cr_expect(c.rms_norm_eps == 1e-6 && c.rope.type == ROPE_DEFAULT && c.rope.theta == 10000);
    cr_expect(!c.tie_word_embeddings && !c.qkv_bias && !c.o_bias && !c.mlp_bias && !c.has_dtype);
    cr_expect(
        c.bos_id == 1 && c.n_eos == 1 && llama_config_is_eos(&c, 2) && !llama_config_is_eos(&c, 1));
}

Test(config, old_and_new_keys_agree)
{
#define FACTORS                                                                                \
    "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_" \
    "embeddings\":64"
    struct llama_config a, b, c;
    must_parse(&a,
        "{" LLAMA SIZES ",\"rope_theta\":500000.0,\"torch_dtype\":\"bfloat16\","
        "\"rope_scaling\":{\"type\":\"llama3\"," FACTORS "}}");
    must_parse(&b,
        "{" LLAMA SIZES ",\"dtype\":\"bfloat16\","
        "\"rope_parameters\":{\"rope_type\":\"llama3\",\"rope_theta\":500000.0," FACTORS "}}");
    must_parse(&c,
        "{" LLAMA SIZES ",\"dtype\":\"torch.bfloat16\",\"rope_scaling\":null,\"rope_theta\":500000,"
        "\"rope_parameters\":{\"rope_type\":\"llama3\",\"type\":\"linear\"," FACTORS "}}");
    cr_expect(a.rope.type == ROPE_LLAMA3 && a.rope.theta == 500000 && a.rope.factor == 8);
    cr_expect(a.rope.low_freq_factor == 1 && a.rope.high_freq_factor == 4 &&
        a.rope.original_max_position == 64);
    cr_expect(a.has_dtype && a.dtype == DTYPE_BF16);
    cr_expect(!memcmp(&a, &b, sizeof a) && !memcmp(&a, &c, sizeof a));
}

Test(config, rope_edges)
{
    struct llama_config c;
    must_parse(
        &c, "{" LLAMA SIZES ",\"rope_scaling\":{},\"rope_parameters\":{\"rope_theta\":7.5}}");
    cr_expect(c.rope.type == ROPE_DEFAULT && c.rope.theta == 7.5);
    must_parse(&c,
        "{" LLAMA SIZES
        ",\"rope_theta\":9,\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2}}");
    cr_expect(c.rope.type == ROPE_LINEAR && c.rope.theta == 9 && c.rope.factor == 2);
    must_parse(&c,
        "{" LLAMA SIZES
        ",\"max_position_embeddings\":77,\"rope_scaling\":{\"rope_type\":\"llama3\","
        "\"factor\":2,\"low_freq_factor\":1,\"high_freq_factor\":4}}");
    cr_expect_eq(c.rope.original_max_position, 77);
    must_parse(&c,
        "{" LLAMA SIZES ",\"rope_theta\":9,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
        "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":2,\"rope_theta\":9}}");
    cr_expect(c.rope.type == ROPE_LINEAR && c.rope.theta == 9 && c.rope.factor == 2,
        "what agrees may stand twice");
}

Test(config, special_ids)
{
    struct llama_config c;
    must_parse(&c, "{" LLAMA SIZES ",\"bos_token_id\":null,\"eos_token_id\":[5,7,9]}");
    cr_expect(c.bos_id == -1 && c.n_eos == 3 && llama_config_is_eos(&c, 9));
    must_parse(&c, "{" LLAMA SIZES ",\"bos_token_id\":128000,\"eos_token_id\":null}");
    cr_expect(c.bos_id == 128000 && c.n_eos == 0 && !llama_config_is_eos(&c, 0));
    const char *g = "{\"eos_token_id\":[11,12]}", *none = "{\"temperature\":0.6}",
               *bad = "{\"eos_token_id\":\"x\"}";
    cr_expect_eq(llama_generation_config_parse(&c, "g", g, strlen(g)), OK);
    cr_expect(c.n_eos == 2 && c.eos_ids[1] == 12);
    cr_expect_eq(llama_generation_config_parse(&c, "g", none, strlen(none)), OK);
    cr_expect(c.n_eos == 2 && c.eos_ids[1] == 12);
    cr_expect_eq(llama_generation_config_parse(&c, "g", bad, strlen(bad)), ERR_FORMAT);
    cr_expect(strstr(status_message(), "eos_token_id"));
}

Test(config, refusals)
{
    static const struct {
        const char *text;
        enum status code;
        const char *says;
    } cases[] = {
        {"{" SIZES "}", ERR_FORMAT, "model_type"},
        {"{\"model_type\":\"mixtral\"," SIZES "}", ERR_UNSUPPORTED, "\"mixtral\""},
        {"{\"model_type\":\"gemma3\"," SIZES "}", ERR_UNSUPPORTED, "exaone4 and hyperclovax"},
        {"{\"model_type\":\"gemma3\"," SIZES "}", ERR_UNSUPPORTED, "add 1 to their weight"},
        {"{\"model_type\":\"qwen3_moe\"," SIZES "}", ERR_UNSUPPORTED, "mixture of experts"},
        {"{\"architectures\":[\"Qwen2MoeForCausalLM\"]," SIZES "}", ERR_UNSUPPORTED,
            "mixture of experts"},
        {"{\"model_type\":\"unheard_of\"," SIZES "}", ERR_UNSUPPORTED, "not known here"},
        {"{" LLAMA SIZES ",\"quantization_config\":{\"quant_method\":\"awq\"}}", ERR_UNSUPPORTED,
            "use the unquantised"},
        {"{" LLAMA SIZES ",\"quantization_config\":{\"quant_method\":\"fp8\"}}", ERR_UNSUPPORTED,
            "use the unquantised"},
        {"{" LLAMA "\"architectures\":[\"MistralForCausalLM\"]," SIZES "}", ERR_UNSUPPORTED,
            "LlamaForCausalLM"},
        {"{" LLAMA "\"architectures\":[\"LlamaForSequenceClassification\"]," SIZES "}",
            ERR_UNSUPPORTED, "LlamaForSequenceClassification"},
        {"{\"architectures\":[\"Qwen2MoeForCausalLM\"]," SIZES "}", ERR_UNSUPPORTED,
            "Qwen2MoeForCausalLM"},
        {"{\"architectures\":\"LlamaForCausalLM\"," SIZES "}", ERR_FORMAT, "expected an array"},
        {"{" LLAMA SIZES ",\"rope_scaling\":{\"type\":\"su\",\"factor\":4}}", ERR_UNSUPPORTED,
            "\"su\""},
        {"{" LLAMA SIZES ",\"rope_scaling\":{\"type\":\"linear\"}}", ERR_FORMAT,
            "rope_scaling.factor"},
        {"{" LLAMA SIZES ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", ERR_FORMAT,
            "rope_scaling.factor"},
        {"{" LLAMA SIZES ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2}}", ERR_FORMAT,
            "low_freq_factor"},
        {"{" LLAMA SIZES
         ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":4,"
         "\"high_freq_factor\":4}}",
            ERR_FORMAT, "high_freq_factor"},
        {"{" LLAMA SIZES ",\"rope_scaling\":[1]}", ERR_FORMAT, "rope_scaling"},
        {"{" LLAMA SIZES ",\"rope_theta\":5000,\"rope_parameters\":{\"rope_theta\":100000}}",
            ERR_FORMAT, "field rope_theta: found 5000 beside 100000 in rope_parameters.rope_theta"},
        {"{" LLAMA SIZES
         ",\"rope_scaling\":{\"rope_theta\":7,\"type\":\"linear\",\"factor\":2},\"rope_theta\":8}",
            ERR_FORMAT, "field rope_theta: found 8 beside 7 in rope_scaling.rope_theta"},
        {"{" LLAMA SIZES ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
         "\"rope_parameters\":{\"rope_type\":\"default\"}}",
            ERR_FORMAT,
            "rope_scaling.rope_type: found \"linear\" beside \"default\" in "
            "rope_parameters.rope_type"},
        {"{" LLAMA SIZES ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
         "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4}}",
            ERR_FORMAT, "rope_scaling.factor: found 2 beside 4 in rope_parameters.factor"},
        {"{" LLAMA SIZES ",\"rope_scaling\":{\"rope_type\":3}}", ERR_FORMAT, "rope_type"},
        {"{" LLAMA SIZES ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}}", ERR_UNSUPPORTED,
            "partial"},
        {"{\"model_type\":\"olmo3\"," SIZES
         ",\"rope_parameters\":{\"full_attention\":{\"rope_theta\":10000},"
         "\"sliding_attention\":{\"rope_theta\":20000}}}",
            ERR_UNSUPPORTED, "theta 20000, supported is \"default\" beside the theta 10000"},
        {"{\"model_type\":\"exaone4\"," SIZES
         ",\"num_key_value_heads\":2,\"sliding_window_pattern\":\"LLLG\"}",
            ERR_FORMAT, "sliding_window_pattern"},
        {"{" LLAMA SIZES ",\"hidden_act\":\"gelu\"}", ERR_UNSUPPORTED, "\"gelu\""},
        {"{" LLAMA SIZES ",\"quantization_config\":{\"quant_method\":\"gptq\"}}", ERR_UNSUPPORTED,
            "gptq"},
        {"{" LLAMA SIZES ",\"num_key_value_heads\":3}", ERR_FORMAT, "num_key_value_heads"},
        {"{" LLAMA SIZES ",\"head_dim\":15}", ERR_UNSUPPORTED, "head_dim"},
        {"{" LLAMA SIZES ",\"head_dim\":2000000}", ERR_FORMAT, "head_dim"},
        {"{" LLAMA SIZES ",\"rms_norm_eps\":\"1e-5\"}", ERR_FORMAT, "rms_norm_eps"},
        {"{" LLAMA SIZES ",\"tie_word_embeddings\":1}", ERR_FORMAT, "tie_word_embeddings"},
        {"{" LLAMA SIZES ",\"eos_token_id\":1.5}", ERR_FORMAT, "eos_token_id"},
        {"{" LLAMA SIZES ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}",
            ERR_UNSUPPORTED, "16"},
        {"{" LLAMA SIZES ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2},\"head_dim\":2}",
            ERR_UNSUPPORTED, "head_dim"},
        {"{" LLAMA "\"hidden_size\":64}", ERR_FORMAT, "intermediate_size"},
        {"{" LLAMA "\"hidden_size\":66,\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_"
         "attention_heads\":4,"
         "\"vocab_size\":320}",
            ERR_FORMAT, "hidden_size"},
        {"{" LLAMA "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":1e9,"
         "\"num_attention_heads\":4,\"vocab_size\":320}",
            ERR_FORMAT, "num_hidden_layers"},
        {"[]", ERR_FORMAT, "expected an object"},
        {"{\"model_type\":", ERR_FORMAT, "not valid JSON"},
        {"", ERR_FORMAT, "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct llama_config c;
        enum status st = parse(&c, cases[i].text);
        cr_expect_eq(st, cases[i].code, "%s: %s", cases[i].text, status_name(st));
        cr_expect(strstr(status_message(), cases[i].says), "\"%s\" lacks \"%s\"", status_message(),
            cases[i].says);
        cr_expect(strstr(status_message(), "config.json"), "%s", status_message());
    }
}

/* Granite's factors where they are used; left out they are 1, the scale of the scores too. */
Test(config, granite)
{
    struct llama_config c;
    must_parse(&c,
        "{\"model_type\":\"granite\"," SIZES
        ",\"rms_norm_eps\":1e-5,\"embedding_multiplier\":12,\"residual_multiplier\":0.25,"
        "\"attention_multiplier\":0.015625,\"logits_scaling\":8}");
    cr_expect_eq(llama_embedding_scale(&c), 48);
    cr_expect_eq(llama_attention_scale(&c), .015625f);
    cr_expect_eq(c.logits_scale, .125);
    cr_expect_float_eq(c.rms_norm_eps, 1.6e-4, 1e-12);
    must_parse(&c, "{\"model_type\":\"granite\"," SIZES "}");
    cr_expect(
        llama_embedding_scale(&c) == 1 && llama_attention_scale(&c) == 1 && c.logits_scale == 1);
    must_parse(&c, "{" LLAMA SIZES "}");
    cr_expect(llama_embedding_scale(&c) == 1 && c.attention_scale == 0 && c.logits_scale == 0);
    cr_expect_eq(
        parse(&c, "{\"model_type\":\"granite\"," SIZES ",\"logits_scaling\":0}"), ERR_FORMAT);
}

/* Of a key said twice the last counts, as in Python (json.loads): the values are what transformers
 * reads. */
Test(config, keys_said_twice)
{
    struct llama_config c;
    must_parse(&c, "{\"rope_theta\": 5.0," LLAMA SIZES ",\"rope_theta\": 20000}");
    cr_expect_eq(c.rope.theta, 20000);
    must_parse(&c,
        "{" LLAMA SIZES
        ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4},\"rope_scaling\":null}");
    cr_expect_eq(c.rope.type, ROPE_DEFAULT);
    must_parse(&c,
        "{" LLAMA SIZES
        ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4,\"factor\":8,\"type\":\"dynamic\"}}");
    cr_expect(c.rope.type == ROPE_DYNAMIC && c.rope.factor == 8);
    must_parse(&c,
        "{" LLAMA SIZES
        ",\"unknown\":[NaN,-Infinity],\"attention_bias\":false,\"attention_bias\":true}");
    cr_expect(c.qkv_bias && c.o_bias);
}

/* What would change the result is refused by its name; what says the same as nothing passes. */
Test(config, fields_that_must_be_neutral)
{
    static const char *const bad[] = {
        "\"embedding_multiplier\":12.0",
        "\"residual_multiplier\":0.22",
        "\"logits_scaling\":16",
        "\"logit_scale\":0.0625",
        "\"attention_multiplier\":0.015625",
        "\"query_pre_attn_scalar\":224",
        "\"scale_depth\":1.4",
        "\"scale_emb\":12",
        "\"dim_model_base\":256",
        "\"sliding_window\":1024",
        "\"layer_types\":[\"sliding_attention\",\"full_attention\"]",
        "\"attention_chunk_size\":8",
        "\"no_rope_layers\":[1,0]",
        "\"attn_logit_softcapping\":50.0",
        "\"final_logit_softcapping\":30.0",
        "\"clip_qkv\":8",
        "\"use_qk_norm\":true",
        "\"partial_rotary_factor\":0.5",
        "\"num_local_experts\":8",
        "\"sliding_window\":\"wide\"",
        "\"rope_scaling\":{\"factor\":4.0}",
        "\"rope_scaling\":{\"rope_type\":\"default\",\"factor\":4.0}",
        "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"attention_factor\":0.7}",
        "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2,\"low_freq_factor\":2}",
        "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e6},\"sliding_attention\":{"
        "\"rope_theta\":1e4}}",
    };
    static const char *const good[] = {
        "\"embedding_multiplier\":1.0",
        "\"residual_multiplier\":1",
        "\"logits_scaling\":null",
        "\"attention_multiplier\":0.25",
        "\"query_pre_attn_scalar\":16",
        "\"dim_model_base\":64",
        "\"sliding_window\":null",
        "\"sliding_window\":1000000",
        "\"sliding_window\":1024,\"use_sliding_window\":false",
        "\"layer_types\":[\"full_attention\",\"full_attention\"]",
        "\"no_rope_layers\":[1,1]",
        "\"attn_logit_softcapping\":null",
        "\"clip_qkv\":null",
        "\"use_qk_norm\":false",
        "\"partial_rotary_factor\":1.0",
        "\"num_local_experts\":0",
        "\"pretraining_tp\":2",
        "\"bias\":true",
        "\"rope_scaling\":{\"rope_type\":\"default\",\"factor\":1.0}",
        "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"finetuned\":true}",
        "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"low_freq_factor\":null}",
    };
    struct llama_config c;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *text = str_format("{" LLAMA SIZES ",%s}", bad[i]),
             *name = str_format("%.*s", (int)strcspn(bad[i] + 1, "\""), bad[i] + 1);
        cr_expect_eq(parse(&c, text), ERR_UNSUPPORTED, "%s", bad[i]);
        cr_expect(strstr(status_message(), name) && strstr(status_message(), "config.json"), "%s",
            status_message());
        free(text);
        free(name);
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        char *text = str_format("{" LLAMA SIZES ",%s}", good[i]);
        cr_expect_eq(parse(&c, text), OK, "%s: %s", good[i], status_message());
        free(text);
    }
}

Test(config, directories)
{
    struct llama_config c;
    cr_expect_eq(llama_config_read(&c, "/nonexistent-model"), ERR_IO);
    cr_expect(strstr(status_message(), "no such directory"), "%s", status_message());
    char *dir = dir_make();
    cr_expect_eq(llama_config_read(&c, dir), ERR_IO);
    text_put(dir, "params.json", "{}");
    cr_expect_eq(llama_config_read(&c, dir), ERR_UNSUPPORTED);
    text_put(dir, "config.json", "{" LLAMA SIZES "}");
    cr_expect_eq(llama_config_read(&c, dir), OK);
    cr_expect_eq(c.eos_ids[0], 2);
    text_put(dir, "generation_config.json", "{\"eos_token_id\": [300, 301]}");
    cr_expect_eq(llama_config_read(&c, dir), OK);
    cr_expect(c.n_eos == 2 && c.eos_ids[0] == 300);
    text_put(dir, "generation_config.json", "{");
    cr_expect_eq(llama_config_read(&c, dir), ERR_FORMAT);
    dir_remove(dir);
}

static const char *const golden[] = {"mha_default", "gqa_d64_tied", "mqa_linear_f16",
    "dynamic_tied_head", "dynamic_new_keys", "llama3_d64", "llama3_new_keys_d16", "bias_d16",
    "d128_gqa", "sharded_bf16", "mixed_unaligned"};
#define N_GOLDEN (sizeof golden / sizeof *golden)

Test(config, written_reads_back_equal)
{
    char *dir = dir_make(), *path = path_join(dir, "config.json");
    for (size_t i = 0; i < N_GOLDEN; i++) {
        struct llama_config a, b;
        char *from = path_join(GOLDEN_MODELS, golden[i]);
        cr_assert_eq(llama_config_read(&a, from), OK, "%s", status_message());
        if (i == 0) a.bos_id = -1;
        if (i == 1) a.n_eos = 0, a.eos_ids[0] = 0;
        if (i == 2) a.n_eos = 2, a.eos_ids[1] = 9;
        cr_assert_eq(llama_config_write(&a, path), OK, "%s", status_message());
        cr_assert_eq(llama_config_read(&b, dir), OK, "%s", status_message());
        cr_expect(!memcmp(&a, &b, sizeof a), "%s", golden[i]);
        free(from);
    }
    free(path);
    dir_remove(dir);
}

/* The frequencies that transformers used at the golden sequence's length. */
Test(rope, frequencies_equal_transformers)
{
    for (size_t i = 0; i < N_GOLDEN; i++) {
        struct llama_config c;
        char *dir = path_join(GOLDEN_MODELS, golden[i]), *path = path_join(dir, "golden.json");
        cr_assert_eq(llama_config_read(&c, dir), OK, "%s", status_message());
        cJSON *root;
        cr_assert_eq(json_read_file(&root, path), OK, "%s", status_message());
        const cJSON *want = cJSON_GetObjectItem(root, "inv_freq");
        int n = cJSON_GetArraySize(cJSON_GetObjectItem(root, "ids")), half = c.head_dim / 2;
        cr_assert_eq(cJSON_GetArraySize(want), half);
        float *got = malloc((size_t)half * sizeof *got);
        rope_frequencies(&c, 0, n, got);
        for (int j = 0; j < half; j++) {
            float w = (float)cJSON_GetArrayItem(want, j)->valuedouble;
            cr_expect_leq(fabsf(got[j] - w), 2.5e-7f * w, "%s: frequency %d: %.9g, expected %.9g",
                golden[i], j, (double)got[j], (double)w);
        }
        cr_expect_eq(rope_attention_scaling(&c, 0), 1.0f);
        free(got);
        cJSON_Delete(root);
        free(path);
        free(dir);
    }
}

Test(rope, dynamic_depends_on_length_only_beyond_the_trained_one)
{
    struct llama_config c;
    must_parse(&c,
        "{" LLAMA SIZES ",\"max_position_embeddings\":100,"
        "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}");
    float plain[8], at[8];
    cr_expect_eq(c.rope.type, ROPE_DYNAMIC);
    rope_frequencies(&c, 0, 1, at);
    c.rope.type = ROPE_DEFAULT;
    rope_frequencies(&c, 0, 1, plain);
    cr_expect(!memcmp(plain, at, sizeof at));
    c.rope.type = ROPE_DYNAMIC;
    rope_frequencies(&c, 0, 100, at);
    cr_expect(!memcmp(plain, at, sizeof at));
    rope_frequencies(&c, 0, 200, at);
    cr_expect_eq(at[0], 1.0f);
    for (int i = 1; i < 8; i++) cr_expect_lt(at[i], plain[i]);
}

#define KIN(model_type) "{\"model_type\":\"" model_type "\"," SIZES

/* What the configuration classes of transformers 5 make of keys left out. */
Test(config, kin_of_llama_and_their_defaults)
{
    struct llama_config c;
    must_parse(&c, KIN("mistral") ",\"num_key_value_heads\":2}");
    cr_expect(!c.qkv_bias && c.window == 4096 && llama_window(&c, 0) == 4096 &&
        llama_window(&c, 1) == 4096);
    must_parse(&c, KIN("mistral") ",\"num_key_value_heads\":2,\"sliding_window\":null}");
    cr_expect(c.window == 0 && llama_window(&c, 0) == 0 && c.max_position == 4096 * 32);
    must_parse(&c,
        KIN("ministral") ",\"num_key_value_heads\":2,\"sliding_window\":64,"
                         "\"layer_types\":[\"full_attention\",\"sliding_attention\"]}");
    cr_expect(llama_window(&c, 0) == 0 && llama_window(&c, 1) == 64);
    must_parse(&c, KIN("qwen2") ",\"num_key_value_heads\":2,\"attention_bias\":true}");
    cr_expect(
        c.qkv_bias && !c.o_bias && !c.qk_norm && c.window == 0 && c.bos_id == -1 && c.n_eos == 0);
    must_parse(&c,
        KIN("qwen2") ",\"num_key_value_heads\":2,\"use_sliding_window\":true,\"max_window_layers\":"
                     "1}");
    cr_expect(llama_window(&c, 0) == 0 && llama_window(&c, 1) == 4096);
    must_parse(&c, KIN("qwen3") ",\"num_key_value_heads\":2}");
    cr_expect(!c.qkv_bias && c.qk_norm && c.head_dim == 128);
    must_parse(&c, KIN("smollm3") ",\"num_key_value_heads\":2,\"no_rope_layer_interval\":2}");
    cr_expect(c.rope.theta == 2000000 && c.tie_word_embeddings && llama_turns(&c, 0) &&
        !llama_turns(&c, 1));
    must_parse(&c, KIN("smollm3") ",\"num_key_value_heads\":2,\"no_rope_layers\":[0,1]}");
    cr_expect(!llama_turns(&c, 0) && llama_turns(&c, 1));
    must_parse(&c, KIN("phi3") "}");
    cr_expect(c.rms_norm_eps == 1e-5 && c.norms == NORMS_BEFORE);
    must_parse(&c, KIN("olmo2") "}");
    cr_expect(c.rms_norm_eps == 1e-5 && c.inner_eps == 1e-5 && c.norms == NORMS_BEHIND &&
        c.qk_norm == QK_NORM_WHOLE && c.bos_id == -1 && c.eos_ids[0] == 50279);
    must_parse(&c, KIN("olmo3") ",\"layer_types\":[\"sliding_attention\",\"full_attention\"]}");
    cr_expect(llama_window(&c, 0) == 4096 && llama_window(&c, 1) == 0 && c.rope.theta == 500000 &&
        rope_count(&c) == 1);
    must_parse(&c,
        KIN("exaone4") ",\"num_key_value_heads\":2,\"sliding_window\":64,"
                       "\"sliding_window_pattern\":2}");
    cr_expect(llama_window(&c, 0) == 64 && llama_turns(&c, 0) && llama_window(&c, 1) == 0 &&
        !llama_turns(&c, 1));
    must_parse(&c, KIN("exaone4") ",\"num_key_value_heads\":2,\"sliding_window\":null}");
    cr_expect(c.window == 0 && llama_turns(&c, 1));
    must_parse(&c, KIN("hyperclovax") ",\"residual_multiplier\":0.5,\"use_post_norm\":false}");
    cr_expect(c.norms == NORMS_BEFORE && c.rms_norm_eps == 4e-6 && c.inner_eps == 1e-6 &&
        c.attention_scale == 0);
    static const char *const bad[][2] = {
        {KIN("ministral") ",\"num_key_value_heads\":2,\"layer_types\":[\"full_attention\"]}",
            "layer_types"},
        {KIN("ministral") ",\"num_key_value_heads\":2,\"layer_types\":[\"full_attention\","
                          "\"chunked_attention\"]}",
            "chunked_attention"},
        {KIN("smollm3") ",\"num_key_value_heads\":2,\"no_rope_layers\":[0,1,1]}", "no_rope_layers"},
        {KIN("smollm3") ",\"num_key_value_heads\":2,\"no_rope_layers\":[0,2]}",
            "no_rope_layers[1]"},
        {KIN("mistral") ",\"num_key_value_heads\":2,\"sliding_window\":0}", "sliding_window"},
        {"{" LLAMA SIZES ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1]}}",
            "short_factor"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_neq(parse(&c, bad[i][0]), OK, "%s", bad[i][0]);
        cr_expect(strstr(status_message(), bad[i][1]), "%s", status_message());
    }
}

Test(config, parameter_count)
{
    struct llama_config c;
    must_parse(&c,
        "{" LLAMA SIZES ",\"num_key_value_heads\":2,\"attention_bias\":true,\"mlp_bias\":true}");
    /* q, o 64x64; k, v 32x64; gate, up, down 96x64; biases; 2 norms. Embedding, head, final norm.
     */
    long long layer = 2 * 4096 + 2 * 2048 + 3 * 6144 + (64 + 32 + 32 + 64) + (96 + 96 + 64) + 128;
    cr_expect_eq(llama_config_parameters(&c), 2 * layer + 2 * 320 * 64 + 64);
}

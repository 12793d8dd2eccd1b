/* A GGUF file in the words of a Hugging Face checkpoint: its configuration, and its tensors by
 * their names there. */
#include "engine/checkpoint/gguf.h"

#include "base/json.h"
#include "engine/checkpoint/family.h"
#include "kernels/dtype.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What an architecture is called in config.json, and whether llama.cpp's converter has put the rows
 * of q and k in pairs. */
static const struct gguf_architecture {
    const char *name, *class_name;
    bool paired;
    /* fields of config.json that its files do not hold and that have one value */
    const char *what_else;
} architectures[] = {
    {"llama", "LlamaForCausalLM", true, "\"attention_bias\":false"},
    {"qwen2", "Qwen2ForCausalLM", false, "\"use_sliding_window\":false"},
    {"qwen3", "Qwen3ForCausalLM", false, "\"use_sliding_window\":false,\"attention_bias\":false"},
};

static enum status find_architecture(const struct gguf *g, const struct gguf_architecture **out)
{
    const struct gguf_value *v = gguf_find(g, "general.architecture");
    if (!v || v->type != GGUF_STRING || v->is_array)
        return fail(ERR_FORMAT, "%s: metadata general.architecture is missing, so this is no model",
            g->path);
    const uint8_t *at = v->data;
    struct gguf_text name = gguf_next_text(&at);
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (gguf_text_is(name, architectures[i].name)) {
            *out = &architectures[i];
            return OK;
        }
    return fail(ERR_UNSUPPORTED,
        "%s: metadata general.architecture: found \"%.*s\", supported are llama, qwen2 and qwen3; "
        "use the model's safetensors if its family is in docs/models.md",
        g->path, (int)(name.n < 100 ? name.n : 100), name.s);
}

static const struct gguf_value *find_of(
    const struct gguf *g, const struct gguf_architecture *a, const char *key)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", a->name, key);
    return gguf_find(g, name);
}

/* A single number; `missing` NAN: it must be there. */
static enum status number_of(const struct gguf *g, const struct gguf_architecture *a,
    const char *key, double missing, double *out)
{
    const struct gguf_value *v = find_of(g, a, key);
    *out = missing;
    if (!v && isnan(missing))
        return fail(ERR_FORMAT, "%s: metadata %s.%s is missing; convert the model again", g->path,
            a->name, key);
    if (!v) return OK;
    if (v->type == GGUF_STRING || v->is_array)
        return fail(ERR_UNSUPPORTED,
            "%s: metadata %s.%s: found %s, expected one number for all layers", g->path, a->name,
            key, v->is_array ? "an array" : "a text");
    *out = gguf_number(v, 0);
    return OK;
}

static const struct gguf_tensor *tensor_named(const struct gguf *g, const char *name)
{
    for (size_t i = 0; i < g->n_tensors; i++)
        if (gguf_text_is(g->tensors[i].name, name)) return &g->tensors[i];
    return NULL;
}

/* The scaling of the rotation. llama.cpp stores that of Llama 3 as the divisors it leads to, one
 * for each frequency: the same as a longrope whose two sets are equal. */
static enum status add_rope(
    const struct gguf *g, const struct gguf_architecture *a, double head_dim, struct str *json)
{
    const struct gguf_tensor *freqs = tensor_named(g, "rope_freqs.weight");
    const struct gguf_value *type = find_of(g, a, "rope.scaling.type");
    double context, factor, original, attention, fast, slow;
    TRY(number_of(g, a, "context_length", NAN, &context));
    TRY(number_of(g, a, "rope.scaling.factor", 0, &factor));
    if (factor == 0) TRY(number_of(g, a, "rope.scale_linear", 1, &factor));
    TRY(number_of(g, a, "rope.scaling.original_context_length", context, &original));
    TRY(number_of(g, a, "rope.scaling.attn_factor", 1, &attention));
    TRY(number_of(g, a, "rope.scaling.yarn_beta_fast", 32, &fast));
    TRY(number_of(g, a, "rope.scaling.yarn_beta_slow", 1, &slow));
    if (freqs) {
        size_t n = (size_t)head_dim / 2;
        float values[512];
        if (freqs->type != 0 || freqs->n_dims != 1 || freqs->dims[0] != n || n > 512)
            return fail(
                ERR_FORMAT, "%s: tensor rope_freqs.weight: expected %zu values in F32", g->path, n);
        memcpy(values, freqs->data, n * sizeof *values);
        str_addf(json,
            ",\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":1,\"attention_factor\":"
            "%.17g,\"original_max_position_embeddings\":%.0f",
            attention, context < 2 ? 2 : context);
        for (int set = 0; set < 2; set++) {
            str_add(json, set ? ",\"long_factor\":[" : ",\"short_factor\":[");
            for (size_t i = 0; i < n; i++)
                str_addf(json, "%s%.9g", i ? "," : "", (double)values[i]);
            str_add(json, "]");
        }
        str_add(json, "}");
        return OK;
    }
    const uint8_t *at = type ? type->data : NULL;
    struct gguf_text name = {"none", 4};
    if (type && type->type == GGUF_STRING && !type->is_array) name = gguf_next_text(&at);
    if (!type && factor != 1) name = (struct gguf_text){"linear", 6};
    bool yarn = gguf_text_is(name, "yarn"), linear = gguf_text_is(name, "linear"),
         none = gguf_text_is(name, "none") || ((yarn || linear) && factor == 1);
    if (attention != 1 && (none || !yarn))
        return fail(ERR_UNSUPPORTED,
            "%s: metadata %s.rope.scaling.attn_factor: found %g, supported beside yarn alone",
            g->path, a->name, attention);
    if (none) return OK;
    if (!linear && !yarn)
        return fail(ERR_UNSUPPORTED,
            "%s: metadata %s.rope.scaling.type: found \"%.*s\", supported are none, linear and "
            "yarn; use the model's safetensors",
            g->path, a->name, (int)(name.n < 100 ? name.n : 100), name.s);
    str_addf(json, ",\"rope_scaling\":{\"rope_type\":\"%.*s\",\"factor\":%.17g", (int)name.n,
        name.s, factor);
    if (yarn) /* llama.cpp's factor stands beside YaRN's own */
        str_addf(json,
            ",\"original_max_position_embeddings\":%.0f,\"beta_fast\":%.17g,\"beta_slow\":%.17g,"
            "\"attention_factor\":%.17g",
            original, fast, slow, attention * (factor > 1 ? 1 + .1 * log(factor) : 1));
    str_add(json, "}");
    return OK;
}

static void add_token_id(const struct gguf *g, const char *key, const char *field, struct str *json)
{
    const struct gguf_value *v = gguf_find(g, key);
    if (v && v->type != GGUF_STRING && !v->is_array)
        str_addf(json, ",\"%s\":%.0f", field, gguf_number(v, 0));
    else str_addf(json, ",\"%s\":null", field);
}

/* Every number that a file says of its architecture is read here, or changes nothing: 0, or a count
 * that its tensors tell. */
static enum status check_keys(const struct gguf *g, const struct gguf_architecture *a)
{
    static const char known[] =
        " context_length embedding_length block_count feed_forward_length vocab_size "
        "tensor_data_layout attention.head_count attention.head_count_kv attention.key_length "
        "attention.value_length attention.layer_norm_rms_epsilon attention.layer_norm_epsilon "
        "attention.sliding_window attention.causal expert_count rope.dimension_count "
        "rope.freq_base rope.scale_linear rope.scaling.type rope.scaling.factor "
        "rope.scaling.original_context_length rope.scaling.attn_factor rope.scaling.finetuned "
        "rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow ";
    size_t prefix = strlen(a->name);
    for (size_t i = 0; i < g->n_values; i++) {
        const struct gguf_value *v = &g->values[i];
        char name[64] = "";
        if (v->key.n <= prefix || memcmp(v->key.s, a->name, prefix) != 0 || v->key.s[prefix] != '.')
            continue;
        if (v->key.n - prefix < sizeof name)
            memcpy(name, v->key.s + prefix + 1, v->key.n - prefix - 1);
        bool number = v->type != GGUF_STRING && !v->is_array;
        if (llama_word_in(known, name) || (number && gguf_number(v, 0) == 0)) continue;
        return fail(ERR_UNSUPPORTED,
            "%s: metadata %.*s: is not followed here and may change the result; use the model's "
            "safetensors",
            g->path, (int)(v->key.n < 200 ? v->key.n : 200), v->key.s);
    }
    return OK;
}

enum status gguf_config(const struct gguf *g, struct str *json)
{
    const struct gguf_architecture *a = NULL;
    double layers, hidden, inter, heads, kv, eps, theta, context, head_dim, rotated, window,
        experts, causal;
    TRY(find_architecture(g, &a));
    TRY(check_keys(g, a));
    TRY(number_of(g, a, "block_count", NAN, &layers));
    TRY(number_of(g, a, "embedding_length", NAN, &hidden));
    TRY(number_of(g, a, "feed_forward_length", NAN, &inter));
    TRY(number_of(g, a, "attention.head_count", NAN, &heads));
    TRY(number_of(g, a, "attention.head_count_kv", heads, &kv));
    TRY(number_of(g, a, "attention.layer_norm_rms_epsilon", NAN, &eps));
    TRY(number_of(g, a, "rope.freq_base", 10000, &theta));
    TRY(number_of(g, a, "context_length", NAN, &context));
    TRY(number_of(g, a, "attention.key_length", heads > 0 ? hidden / heads : 0, &head_dim));
    TRY(number_of(g, a, "rope.dimension_count", head_dim, &rotated));
    TRY(number_of(g, a, "attention.sliding_window", 0, &window));
    TRY(number_of(g, a, "expert_count", 0, &experts));
    TRY(number_of(g, a, "attention.causal", 1, &causal));
    if (!causal)
        return fail(ERR_UNSUPPORTED,
            "%s: metadata %s.attention.causal: found false, so every token sees those behind it; "
            "supported is a language model",
            g->path, a->name);
    if (rotated != head_dim)
        return fail(ERR_UNSUPPORTED,
            "%s: metadata %s.rope.dimension_count: found %g, supported is the head dimension, %g",
            g->path, a->name, rotated, head_dim);
    if (window > 0 || experts > 0)
        return fail(ERR_UNSUPPORTED, "%s: metadata %s.%s: found %g, supported is none; %s", g->path,
            a->name, window > 0 ? "attention.sliding_window" : "expert_count",
            window > 0 ? window : experts,
            window > 0 ? "use the model's safetensors"
                       : "missing is a mixture of experts; take a dense model");
    const struct gguf_tensor *embedding = tensor_named(g, "token_embd.weight");
    if (!embedding || embedding->n_dims != 2)
        return fail(ERR_FORMAT, "%s: tensor token_embd.weight is missing", g->path);
    str_addf(json,
        "{\"model_type\":\"%s\",\"architectures\":[\"%s\"],\"hidden_size\":%.17g,\"intermediate_"
        "size\":%.17g,"
        "\"num_hidden_layers\":%.17g,\"num_attention_heads\":%.17g,\"num_key_value_heads\":%.17g,"
        "\"head_dim\":%.17g,"
        "\"vocab_size\":%llu,\"max_position_embeddings\":%.17g,\"rms_norm_eps\":%.9g,\"rope_"
        "theta\":%.17g,"
        "\"tie_word_embeddings\":%s,%s",
        a->name, a->class_name, hidden, inter, layers, heads, kv, head_dim,
        (unsigned long long)embedding->dims[1], context, eps, theta,
        tensor_named(g, "output.weight") ? "false" : "true", a->what_else);
    add_token_id(g, "tokenizer.ggml.bos_token_id", "bos_token_id", json);
    add_token_id(g, "tokenizer.ggml.eos_token_id", "eos_token_id", json);
    TRY(add_rope(g, a, head_dim, json));
    str_add(json, "}");
    return OK;
}

/* blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight. The caller frees it; an unknown
 * name stays as it is. */
static char *huggingface_name(struct gguf_text t)
{
    static const char *const whole[][2] = {
        {"token_embd.weight", "model.embed_tokens.weight"},
        {"output_norm.weight", "model.norm.weight"},
        /* went into the configuration */
        {"output.weight", "lm_head.weight"},
        {"rope_freqs.weight", "model.rotary_emb.inv_freq"},
    };
    static const char *const parts[][2] = {
        {"attn_norm", "input_layernorm"},
        {"attn_q", "self_attn.q_proj"},
        {"attn_k", "self_attn.k_proj"},
        {"attn_v", "self_attn.v_proj"},
        {"attn_output", "self_attn.o_proj"},
        {"attn_q_norm", "self_attn.q_norm"},
        {"attn_k_norm", "self_attn.k_norm"},
        {"ffn_norm", "post_attention_layernorm"},
        {"ffn_gate", "mlp.gate_proj"},
        {"ffn_up", "mlp.up_proj"},
        {"ffn_down", "mlp.down_proj"},
    };
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (gguf_text_is(t, whole[i][0])) return str_dup(whole[i][1]);
    char *name = str_format("%.*s", (int)t.n, t.s), part[32], tail[16];
    int layer, used = 0;
    if (sscanf(name, "blk.%d.%31[a-z_].%15[a-z]%n", &layer, part, tail, &used) == 3 &&
        !name[used] && layer >= 0)
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            if (strcmp(part, parts[i][0]) == 0) {
                free(name);
                return str_format("model.layers.%d.%s.%s", layer, parts[i][1], tail);
            }
    return name;
}

/* llama.cpp's converter puts rows i and i + half of a head of q and k beside each other, for a
 * rotation of neighbours. */
static bool is_paired(const struct gguf_architecture *a, const char *name)
{
    return a->paired &&
        (strstr(name, "self_attn.q_proj.weight") || strstr(name, "self_attn.k_proj.weight"));
}

/* Row r of a head as it is here stands at this row of the file. */
static size_t paired_row(size_t r, size_t head_dim)
{
    size_t in_head = r % head_dim, half = head_dim / 2;
    return r - in_head + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
}

static size_t row_bytes(const struct gguf_tensor *t)
{
    return t->bytes / (t->n_dims > 1 ? (size_t)t->dims[1] : 1);
}

/* What the tensor needs beside the map, in bytes. */
static size_t copy_bytes(const struct gguf_tensor *t, bool paired)
{
    int values, bytes;
    gguf_quant_name(t->type, &values, &bytes);
    size_t n = t->bytes / (size_t)bytes * (size_t)values;
    size_t copied = values > 1 ? n * sizeof(float) : paired ? t->bytes : 0;
    return (copied + 63) / 64 * 64;
}

static void describe_tensor(
    const struct gguf_tensor *t, const char *path, char *name, struct tensor *out)
{
    int values, bytes;
    const char *type = gguf_quant_name(t->type, &values, &bytes);
    *out = (struct tensor){.name = name,
        .file = path,
        .is_float = true,
        .n_dims = t->n_dims,
        .data = t->data,
        .bytes = t->bytes};
    snprintf(out->type, sizeof out->type, "%s", type);
    out->dtype = values > 1 || t->type == 0 ? DTYPE_F32 : t->type == 1 ? DTYPE_F16 : DTYPE_BF16;
    for (int i = 0; i < t->n_dims; i++) out->shape[i] = (int64_t)t->dims[t->n_dims - 1 - i];
}

/* Unpacked and with its rows in order, into `to`. */
static void copy_tensor(
    const struct gguf_tensor *t, bool paired, size_t head_dim, uint8_t *to, struct tensor *out)
{
    int values, bytes;
    gguf_quant_name(t->type, &values, &bytes);
    size_t rows = t->n_dims > 1 ? (size_t)t->dims[1] : 1, width = row_bytes(t),
           columns = (size_t)t->dims[0];
    size_t wide = values > 1 ? columns * sizeof(float) : width;
    for (size_t r = 0; r < rows; r++) {
        const uint8_t *from = t->data + width * (paired ? paired_row(r, head_dim) : r);
        if (values > 1) gguf_dequantise(t->type, from, (float *)(to + r * wide), columns);
        else memcpy(to + r * wide, from, wide);
    }
    out->data = to;
    out->bytes = rows * wide;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static enum status fill_tensors(const struct gguf *g, const struct gguf_architecture *a,
    size_t head_dim, const struct reading_watch *watch, struct safetensors *out)
{
    size_t total = 0, at = 0;
    for (size_t i = 0; i < g->n_tensors; i++) {
        char *name = huggingface_name(g->tensors[i].name);
        describe_tensor(&g->tensors[i], out->files[0].path, name, &out->tensors[out->n_tensors++]);
        bool paired = is_paired(a, name);
        size_t rows = g->tensors[i].n_dims > 1 ? (size_t)g->tensors[i].dims[1] : 1;
        if (g->tensors[i].n_dims > 2 || (paired && rows % head_dim))
            return fail(ERR_FORMAT,
                "%s: tensor %s: found %d dimensions and %zu rows, expected a matrix whose rows are "
                "heads of %zu",
                g->path, name, g->tensors[i].n_dims, rows, head_dim);
        total += copy_bytes(&g->tensors[i], paired);
    }
    if (total && posix_memalign(&out->unpacked, 64, total) != 0)
        return fail(ERR_MEMORY, "%s: its unpacked weights do not fit: they need %.2f GiB", g->path,
            (double)total / 0x1p30);
    for (size_t i = 0; i < g->n_tensors; i++) {
        bool paired = is_paired(a, out->tensors[i].name);
        size_t bytes = copy_bytes(&g->tensors[i], paired);
        if (bytes)
            copy_tensor(
                &g->tensors[i], paired, head_dim, (uint8_t *)out->unpacked + at, &out->tensors[i]);
        at += bytes;
        reading_tell(watch, "unpacking weights", at, total);
    }
    qsort(out->tensors, out->n_tensors, sizeof *out->tensors, by_name);
    for (size_t i = 1; i < out->n_tensors; i++)
        if (strcmp(out->tensors[i - 1].name, out->tensors[i].name) == 0)
            return fail(ERR_FORMAT, "%s: tensor %s is there twice; convert the model again",
                g->path, out->tensors[i].name);
    return OK;
}

enum status gguf_tensors(struct gguf *g, const struct reading_watch *watch, struct safetensors *out)
{
    const struct gguf_architecture *a = NULL;
    double hidden, heads, head_dim;
    *out = (struct safetensors){0};
    TRY(find_architecture(g, &a));
    TRY(number_of(g, a, "embedding_length", NAN, &hidden));
    TRY(number_of(g, a, "attention.head_count", NAN, &heads));
    TRY(number_of(g, a, "attention.key_length", heads > 0 ? hidden / heads : 0, &head_dim));
    if (!(head_dim >= 2 && head_dim <= 1024))
        return fail(ERR_FORMAT, "%s: found heads of %g dimensions", g->path, head_dim);
    out->files = calloc(1, sizeof *out->files);
    out->tensors = calloc(g->n_tensors ? g->n_tensors : 1, sizeof *out->tensors);
    if (!out->files || !out->tensors) {
        safetensors_close(out);
        return fail(ERR_MEMORY, "%s: no memory for a list of %zu tensors", g->path, g->n_tensors);
    }
    out->n_files = 1;
    out->files[0] = (struct safetensors_file){str_dup(g->path), g->map};
    g->map = (struct file_map){0};
    out->bytes = out->files[0].map.size;
    enum status st = fill_tensors(g, a, (size_t)head_dim, watch, out);
    if (st != OK) safetensors_close(out);
    return st;
}

#include "engine/checkpoint/weights.h"

#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/tensor_names.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EMBEDDING "model.embed_tokens.weight"
#define HEAD "lm_head.weight"

/* A heap block that lives as long as *w; NULL when there is no memory. */
static void *own(struct weights *w, size_t bytes)
{
    if (w->n_owned == w->cap_owned) {
        size_t cap = w->cap_owned ? 2 * w->cap_owned : 64;
        void **grown = realloc(w->owned, cap * sizeof *grown);
        if (!grown) return NULL;
        w->owned = grown;
        w->cap_owned = cap;
    }
    void *block = NULL;
    if (posix_memalign(&block, 64, bytes ? bytes : 1) != 0) return NULL;
    w->owned[w->n_owned++] = block;
    return block;
}

static enum status add_entry(struct weights *w, const char *name, const struct tensor *t)
{
    if ((w->n_entries & (w->n_entries - 1)) == 0) { /* full at every power of two */
        size_t cap = w->n_entries ? 2 * w->n_entries : 1;
        struct weight_entry *grown = realloc(w->entries, cap * sizeof *grown);
        if (!grown) return fail(ERR_MEMORY, "%s: no memory for the list of its tensors", w->dir);
        w->entries = grown;
    }
    w->entries[w->n_entries++] = (struct weight_entry){str_dup(name), t};
    w->weight_bytes += t->bytes;
    return OK;
}

/* What kind of checkpoint calls its embedding otherwise; OK when there is nothing to say. */
static enum status explain_names(const struct weights *w)
{
    static const struct {
        const char *name, *what;
    } known[] = {
        {"embed_tokens.weight",
            "a bare model without its head, as AutoModel saves it; load it with "
            "AutoModelForCausalLM and save that"},
        {"tok_embeddings.weight", "Meta's or Mistral's own names; convert it with transformers"},
        {"transformer.wte.weight", "another architecture's names; supported is LlamaForCausalLM"},
        {"gpt_neox.embed_in.weight", "another architecture's names; supported is LlamaForCausalLM"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const struct tensor *t = safetensors_find(&w->files, known[i].name);
        if (t)
            return fail(ERR_UNSUPPORTED, "%s: found %s, expected " EMBEDDING ": %s", t->file,
                t->name, known[i].what);
    }
    for (size_t i = 0; i < w->files.n_tensors; i++) {
        const struct tensor *t = &w->files.tensors[i];
        if (!str_ends_with(t->name, "." EMBEDDING) &&
            !str_ends_with(t->name, ".embed_tokens.weight"))
            continue;
        return fail(ERR_UNSUPPORTED, "%s: found %s, expected " EMBEDDING ": %s", t->file, t->name,
            str_starts_with(t->name, "base_model.")
                ? "a model inside an adapter; merge it with peft's merge_and_unload() and save that"
                : "a model inside a larger one; save the language model by itself with "
                  "transformers");
    }
    return OK;
}

/* Another tensor in the place of `name`, by which GPTQ and AWQ are known. */
static const struct tensor *packed_instead(const struct weights *w, const char *name)
{
    char packed[128];
    if (!str_ends_with(name, ".weight")) return NULL;
    int stem = (int)(strlen(name) - strlen("weight"));
    snprintf(packed, sizeof packed, "%.*sqweight", stem, name);
    return safetensors_find(&w->files, packed);
}

static enum status fail_missing(const struct weights *w, const char *name)
{
    const struct tensor *packed = packed_instead(w, name);
    if (packed)
        return fail(ERR_UNSUPPORTED,
            "%s: found %s, expected %s: the weights are quantised; use the unquantised checkpoint",
            packed->file, packed->name, name);
    if (gguf_is(w->dir))
        return fail(ERR_FORMAT,
            "%s: the tensor that transformers calls %s is missing, the file's own metadata ask for "
            "it; the file is incomplete: download or convert it again",
            w->dir, name);
    const char *shard = safetensors_absent(&w->files, name);
    if (shard)
        return fail(ERR_FORMAT,
            "%s: tensor %s is missing: the index says %s, which has no such tensor; download it "
            "again",
            w->dir, name, shard);
    if (!strcmp(name, EMBEDDING)) TRY(explain_names(w));
    return fail(ERR_FORMAT,
        "%s: tensor %s is missing, config.json asks for it; config.json and weights do not belong "
        "together or the download is incomplete: download both again",
        w->dir, name);
}

/* The tensor `name` of shape [m, k], or [m] when k is 0. */
static enum status find_checked(
    const struct weights *w, const char *name, int m, int k, const struct tensor **out)
{
    const struct tensor *t = safetensors_find(&w->files, name);
    if (!t) return fail_missing(w, name);
    char found[128], expected[64];
    snprintf(expected, sizeof expected, k ? "[%d, %d]" : "[%d]", m, k);
    if (!t->is_float) /* before the shape: what is packed has another one */
        return fail(ERR_UNSUPPORTED,
            "%s: tensor %s: found element type %s, supported are F32, F16 and BF16; %s", t->file,
            name, t->type,
            strcmp(t->type, "F64") == 0
                ? "convert the weights with transformers"
                : "the weights are quantised: use the unquantised checkpoint");
    if (t->n_dims != (k ? 2 : 1) || t->shape[0] != m || (k && t->shape[1] != k))
        return fail(ERR_FORMAT,
            "%s: tensor %s: found shape %s, expected %s by config.json; config.json and weights do "
            "not "
            "belong together: download both again",
            t->file, name, tensor_shape_text(t, found, sizeof found), expected);
    *out = t;
    return OK;
}

/* The data of a tensor at an address aligned to its element: in the map, or a copy when the file
 * leaves it at an odd place. */
static enum status aligned_data(struct weights *w, const struct tensor *t, const void **out)
{
    *out = t->data;
    if (tensor_aligned(t)) return OK;
    void *copy = own(w, t->bytes);
    if (!copy)
        return fail(ERR_MEMORY, "%s: tensor %s: no memory for a copy of %zu bytes", t->file,
            t->name, t->bytes);
    memcpy(copy, t->data, t->bytes);
    w->copied_bytes += t->bytes;
    *out = copy;
    return OK;
}

/* A vector as f32 of our own. */
static enum status widened(struct weights *w, const struct tensor *t, const float **out)
{
    const void *data = NULL;
    TRY(aligned_data(w, t, &data));
    size_t n = (size_t)tensor_elements(t);
    float *wide = own(w, n * sizeof *wide);
    if (!wide)
        return fail(ERR_MEMORY, "%s: tensor %s: no memory for %zu values", t->file, t->name, n);
    widen(data, t->dtype, wide, n);
    *out = wide;
    return OK;
}

static enum status load_matrix(struct weights *w, const char *name, int m, int k, struct linear *l)
{
    const struct tensor *t = NULL;
    TRY(find_checked(w, name, m, k, &t));
    *l = (struct linear){.dtype = t->dtype, .m = m, .k = k};
    TRY(aligned_data(w, t, &l->weight));
    return add_entry(w, name, t);
}

static enum status load_bias(struct weights *w, const char *name, struct linear *l)
{
    const struct tensor *t = NULL;
    TRY(find_checked(w, name, l->m, 0, &t));
    TRY(add_entry(w, name, t));
    return widened(w, t, &l->bias);
}

static enum status load_norm(struct weights *w, const char *name, int n, const float **out)
{
    const struct tensor *t = NULL;
    TRY(find_checked(w, name, n, 0, &t));
    TRY(widened(w, t, out));
    for (int i = 0; i < n; i++)
        if (!isfinite((*out)[i]))
            return fail(ERR_NUMERIC,
                "%s: tensor %s: value %d is NaN or infinite; the checkpoint is damaged: download "
                "it again",
                t->file, name, i);
    return add_entry(w, name, t);
}

/* model.layers.<layer>.<part>.weight, and .bias when there is one */
static enum status load_linear(
    struct weights *w, int layer, const char *part, bool bias, int m, int k, struct linear *l)
{
    char name[96];
    snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, part);
    TRY(load_matrix(w, name, m, k, l));
    if (!bias) return OK;
    snprintf(name, sizeof name, "model.layers.%d.%s.bias", layer, part);
    return load_bias(w, name, l);
}

/* The source of channel i of a head whose first `turned` channels turn: they come in two halves, as
 * the rotation pairs channels (i, i + d / 2), and behind each half of them half of the rest. */
static int paired_channel(int i, int d, int turned)
{
    int half = i / (d / 2), at = i % (d / 2);
    return at < turned / 2 ? half * turned / 2 + at
                           : turned + half * (d - turned) / 2 + at - turned / 2;
}

/* Rows of q or k in that order, in memory of our own; scores stay what they are. */
static enum status pair_channels(struct weights *w, struct linear *l)
{
    int d = w->config.head_dim, turned = w->config.rope.turned;
    size_t row = (size_t)l->k * dtype_size(l->dtype), bytes = (size_t)l->m * row;
    char *to = own(w, bytes);
    float *bias = l->bias ? own(w, (size_t)l->m * sizeof *bias) : NULL;
    if (!to || (l->bias && !bias))
        return fail(ERR_MEMORY, "%s: no memory for a copy of %zu bytes", w->dir, bytes);
    for (int r = 0; r < l->m; r++) {
        int from = r / d * d + paired_channel(r % d, d, turned);
        memcpy(to + (size_t)r * row, (const char *)l->weight + (size_t)from * row, row);
        if (bias) bias[r] = l->bias[from];
    }
    w->copied_bytes += bytes;
    l->weight = to;
    if (bias) l->bias = bias;
    return OK;
}

/* Those of a layer's norms first to last - 1 (in the order of `to`) that the family has, by their
 * names in the checkpoint. Fingerprints follow the order of loading, which stays as it was. */
static enum status load_norms(struct weights *w, int i, int first, int last)
{
    static const char *const names[][4] = {
        [NORMS_BEFORE] = {"input_layernorm", "post_attention_layernorm", NULL, NULL},
        [NORMS_BEHIND] = {NULL, NULL, "post_attention_layernorm", "post_feedforward_layernorm"},
        [NORMS_AROUND] = {
            "input_layernorm", "post_attention_layernorm", "post_norm1", "post_norm2"}};
    struct layer_weights *l = &w->layers[i];
    const float **to[] = {&l->attn_norm, &l->mlp_norm, &l->attn_behind, &l->mlp_behind};
    for (int k = first; k < last; k++) {
        const char *part = names[w->config.norms][k];
        char name[96];
        if (!part) continue;
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", i, part);
        TRY(load_norm(w, name, w->config.hidden_size, to[k]));
    }
    return OK;
}

static enum status load_layer(struct weights *w, int i)
{
    const struct llama_config *c = &w->config;
    struct layer_weights *l = &w->layers[i];
    int h = c->hidden_size, f = c->intermediate_size;
    int q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    char name[96];
    bool whole = c->qk_norm == QK_NORM_WHOLE;
    TRY(load_norms(w, i, 0, 1));
    TRY(load_linear(w, i, "self_attn.q_proj", c->qkv_bias, q, h, &l->q));
    TRY(load_linear(w, i, "self_attn.k_proj", c->qkv_bias, kv, h, &l->k));
    TRY(load_linear(w, i, "self_attn.v_proj", c->qkv_bias, kv, h, &l->v));
    if (c->rope.turned) {
        TRY(pair_channels(w, &l->q));
        TRY(pair_channels(w, &l->k));
    }
    TRY(load_linear(w, i, "self_attn.o_proj", c->o_bias, h, q, &l->o));
    if (c->qk_norm) {
        snprintf(name, sizeof name, "model.layers.%d.self_attn.q_norm.weight", i);
        TRY(load_norm(w, name, whole ? q : c->head_dim, &l->q_norm));
        snprintf(name, sizeof name, "model.layers.%d.self_attn.k_norm.weight", i);
        TRY(load_norm(w, name, whole ? kv : c->head_dim, &l->k_norm));
    }
    TRY(load_norms(w, i, 1, 4));
    TRY(load_linear(w, i, "mlp.gate_proj", c->mlp_bias, f, h, &l->gate));
    TRY(load_linear(w, i, "mlp.up_proj", c->mlp_bias, f, h, &l->up));
    return load_linear(w, i, "mlp.down_proj", c->mlp_bias, h, f, &l->down);
}

static bool same_content(const struct tensor *a, const struct tensor *b)
{
    return a->is_float && b->is_float && a->dtype == b->dtype && a->bytes == b->bytes &&
        memcmp(a->data, b->data, a->bytes) == 0;
}

static enum status load_embedding(struct weights *w)
{
    const struct llama_config *c = &w->config;
    const struct tensor *embedding = safetensors_find(&w->files, EMBEDDING);
    const struct tensor *head = safetensors_find(&w->files, HEAD);
    w->tied = c->tie_word_embeddings;
    /* As transformers 5 does: two different tensors under a configuration that ties them stay two.
     */
    if (w->tied && embedding && head && !same_content(embedding, head)) w->tied = false;
    const char *name = w->tied && !embedding && head ? HEAD : EMBEDDING;
    TRY(load_matrix(w, name, c->vocab_size, c->hidden_size, &w->embedding));
    struct weight_entry *e = &w->entries[w->n_entries - 1];
    free(e->name);
    e->name = str_dup(EMBEDDING);
    return OK;
}

static enum status load_head(struct weights *w)
{
    if (w->tied) {
        w->head = w->embedding;
        return OK;
    }
    if (!safetensors_find(&w->files, HEAD))
        return fail(ERR_FORMAT,
            "%s: tensor " HEAD " is missing while config.json says tie_word_embeddings false; "
            "download the weights again, or set it to true if this model shares its embedding",
            w->dir);
    return load_matrix(w, HEAD, w->config.vocab_size, w->config.hidden_size, &w->head);
}

/* Layers that config.json does not ask for: the first so many of a model are another model. */
static enum status check_no_further_layer(const struct weights *w)
{
    static const char prefix[] = "model.layers.";
    const struct tensor *further = NULL;
    long n_layers = w->config.n_layers, last = -1;
    for (size_t i = 0; i < w->files.n_tensors; i++) {
        const struct tensor *t = &w->files.tensors[i];
        if (!str_starts_with(t->name, prefix)) continue;
        const char *digits = t->name + sizeof prefix - 1;
        char *end;
        long layer = *digits >= '0' && *digits <= '9' ? strtol(digits, &end, 10) : -1;
        if (layer < n_layers || *end != '.' || layer <= last) continue;
        further = t;
        last = layer;
    }
    if (!further) return OK;
    return fail(ERR_FORMAT,
        "%s: tensor %s: found a layer %ld, expected none beyond %ld by num_hidden_layers %ld of "
        "config.json; config.json and "
        "weights do not belong together: download both again, or set it to %ld",
        further->file, further->name, last, n_layers - 1, n_layers, last + 1);
}

static enum status load_all(struct weights *w)
{
    w->layers = calloc((size_t)w->config.n_layers, sizeof *w->layers);
    if (!w->layers)
        return fail(ERR_MEMORY, "%s: no memory for %d layers", w->dir, w->config.n_layers);
    TRY(check_no_further_layer(w));
    TRY(load_embedding(w));
    for (int i = 0; i < w->config.n_layers; i++) TRY(load_layer(w, i));
    TRY(load_norm(w, "model.norm.weight", w->config.hidden_size, &w->final_norm));
    for (int i = 0; i < w->config.hidden_size && w->config.logits_scale > 0; i++)
        ((float *)w->final_norm)[i] *= (float)w->config.logits_scale; /* ours: norms are widened */
    TRY(load_head(w));
    w->n_extra = w->files.n_tensors - w->n_entries;
    return OK;
}

static bool in_use(const struct weights *w, const struct tensor *t)
{
    for (size_t i = 0; i < w->n_entries; i++)
        if (w->entries[i].tensor == t) return true;
    return false;
}

const struct tensor *weights_next_unused(const struct weights *w, size_t *at)
{
    while (*at < w->files.n_tensors) {
        const struct tensor *t = &w->files.tensors[(*at)++];
        bool second_name = w->tied && (!strcmp(t->name, EMBEDDING) || !strcmp(t->name, HEAD));
        if (!second_name && !str_ends_with(t->name, "rotary_emb.inv_freq") && !in_use(w, t))
            return t;
    }
    return NULL;
}

/* What a name says about a checkpoint whose tensors are not all used. */
static const char *unused_remedy(const char *name)
{
    static const struct {
        const char *part, *remedy;
    } known[] = {
        {"lora_",
            "an adapter was saved with the model: merge it, with peft's merge_and_unload(), and "
            "save again"},
        {"weight_scale", "the weights are quantised: use the unquantised checkpoint"},
        {"qweight", "the weights are quantised: use the unquantised checkpoint"},
        {".experts.", "the model is a mixture of experts: take a dense one"},
        {"vision", "the model has a picture part: save the text model alone"},
        {"norm.", "another architecture than LLaMA normalises there: this engine cannot follow it"},
        {".bias", "if the model has biases, say attention_bias or mlp_bias true in config.json"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strstr(name, known[i].part)) return known[i].remedy;
    return "config.json and weights may not belong together: download both again";
}

enum status weights_check_unused(const struct weights *w)
{
    struct str names = {0};
    const struct tensor *t, *first = NULL;
    size_t at = 0, n = 0;
    while ((t = weights_next_unused(w, &at))) {
        if (!first) first = t;
        if (n++ < 3) str_addf(&names, "%s%s", n > 1 ? ", " : "", t->name);
    }
    if (n > 3) str_addf(&names, " and %zu more", n - 3);
    enum status st = OK;
    if (first)
        st = fail(ERR_UNSUPPORTED,
            "%s: found %s, which this model does not use, so its results would not be those of the "
            "checkpoint; %s; or go on "
            "without with --ignore-tensors",
            first->file, str_get(&names), unused_remedy(first->name));
    str_clear(&names);
    return st;
}

static enum status open_gguf(struct weights *w)
{
    struct gguf g;
    struct str config = {0};
    TRY(gguf_open(&g, w->dir));
    enum status st = gguf_config(&g, &config);
    if (st == OK) st = llama_config_parse(&w->config, w->dir, str_get(&config), config.len);
    if (st == OK) st = gguf_tensors(&g, &w->device_options.watch, &w->files);
    str_clear(&config);
    gguf_close(&g);
    return st;
}

static enum status open_directory(struct weights *w)
{
    TRY(llama_config_read(&w->config, w->dir));
    TRY(safetensors_open(&w->files, w->dir));
    return tensor_names_apply(&w->files, &w->config);
}

enum status weights_open(struct weights *w, const char *dir)
{
    return weights_open_with(w, dir, NULL);
}

enum status weights_open_with(struct weights *w, const char *dir, const struct device_options *how)
{
    *w = (struct weights){0};
    if (how) w->device_options = *how;
    w->dir = str_dup(dir);
    w->entered = own(w, sizeof *w->entered);
    if (!w->entered) return fail(ERR_MEMORY, "%s: no memory for its weights", dir);
    *w->entered = -1;
    enum status st = gguf_is(dir) ? open_gguf(w) : open_directory(w);
    if (st == OK) st = load_all(w);
    if (st != OK) weights_close(w);
    return st;
}

void weights_device_describe(const struct weights *w, struct weights_device_info *out)
{
    *out = (struct weights_device_info){.name = "cpu"};
    if (!w->on_device) return;
    w->on_device->place->describe(w->on_device, out);
    out->residual = dtype_name(w->device_options.residual);
    out->graph = w->device_options.graph;
}

enum status weights_device_memory(const struct weights *w, size_t *free_bytes, size_t *total_bytes)
{
    *free_bytes = *total_bytes = 0;
    return w->on_device ? w->on_device->place->memory(w->on_device, free_bytes, total_bytes) : OK;
}

void weights_close(struct weights *w)
{
    if (w->on_device) w->on_device->place->release(&w->on_device);
    for (size_t i = 0; i < w->n_owned; i++) free(w->owned[i]);
    free(w->owned);
    for (size_t i = 0; i < w->n_entries; i++) free(w->entries[i].name);
    free(w->entries);
    free(w->layers);
    free(w->dir);
    safetensors_close(&w->files);
    *w = (struct weights){0};
}

const void *weights_embedding_row(const struct weights *w, int id)
{
    assert(id >= 0 && id < w->config.vocab_size);
    return (const char *)w->embedding.weight +
        (size_t)id * (size_t)w->embedding.k * dtype_size(w->embedding.dtype);
}

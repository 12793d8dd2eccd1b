#include "engine/checkpoint/weights.h"

#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>

static void must_not_open(const char *dir, enum status code, const char *says, const char *says_too)
{
    struct weights w;
    enum status st = weights_open(&w, dir);
    cr_expect_eq(st, code, "status %s, expected %s: %s", status_name(st), status_name(code),
                 status_message());
    cr_expect(strstr(status_message(), says), "message \"%s\" lacks \"%s\"", status_message(), says);
    cr_expect(strstr(status_message(), says_too), "message \"%s\" lacks \"%s\"", status_message(), says_too);
    cr_expect(!w.layers && !w.owned && !w.entries && !w.files.files);
    if (st == OK) weights_close(&w);
}

static void open_golden(struct weights *w, const char *model)
{
    char *dir = path_join(GOLDEN_MODELS, model);
    cr_assert_eq(weights_open(w, dir), OK, "%s", status_message());
    free(dir);
}

Test(weights, shapes_and_dtypes)
{
    struct weights w;
    open_golden(&w, "gqa_d64_tied");
    cr_expect(w.tied && w.head.weight == w.embedding.weight && w.head.m == 96 && w.head.k == 32);
    const struct layer_weights *l = &w.layers[1];
    cr_expect(l->q.m == 256 && l->q.k == 32 && l->k.m == 128 && l->v.m == 128 && l->o.m == 32 &&
              l->o.k == 256);
    cr_expect(l->gate.m == 48 && l->up.m == 48 && l->down.m == 32 && l->down.k == 48);
    cr_expect(l->q.dtype == DTYPE_BF16 && !l->q.bias && !l->down.bias);
    cr_expect_eq(w.n_entries, 1 + 2 * 9 + 1);
    cr_expect_eq(w.weight_bytes, (size_t)llama_config_parameters(&w.config) * 2);
    cr_expect(w.n_extra == 0 && w.copied_bytes == 0);
    cr_expect_eq((const char *)weights_embedding_row(&w, 3) - (const char *)w.embedding.weight, 3 * 32 * 2);
    weights_close(&w);

    open_golden(&w, "bias_d16");
    cr_expect(!w.tied && w.layers[0].o.bias && w.layers[0].down.bias && w.head.weight != w.embedding.weight);
    weights_close(&w);
}

Test(weights, mixed_and_unaligned)
{
    struct weights w;
    open_golden(&w, "mixed_unaligned");
    const struct layer_weights *l = &w.layers[0];
    cr_expect(l->q.dtype == DTYPE_BF16 && l->up.dtype == DTYPE_F16 && w.head.dtype == DTYPE_F32);
    cr_expect_eq(w.n_extra, 1);
    cr_expect_eq(w.copied_bytes, w.weight_bytes);
    cr_expect_eq((uintptr_t)w.head.weight % 4, 0);
    const struct tensor *t = safetensors_find(&w.files, "lm_head.weight");
    cr_expect_eq(memcmp(w.head.weight, t->data, t->bytes), 0);
    weights_close(&w);
}

Test(weights, tied_under_either_name)
{
    struct weights w, swapped;
    open_golden(&w, "dynamic_tied_head");
    cr_expect(w.tied && !strcmp(w.entries[0].name, "model.embed_tokens.weight"));
    char *dir = golden_copy("dynamic_tied_head");
    /* The same length in the header: the other name, and fewer of the spaces that pad it. */
    file_edit(dir, "model.safetensors", "\"lm_head.weight\"", "\"model.embed_tokens.weight\"");
    struct str s = file_get(dir, "model.safetensors");
    size_t n =
        (uint8_t)s.data[0] + 256u * (uint8_t)s.data[1] + strlen("model.embed_tokens") - strlen("lm_head");
    s.data[0] = (char)(n & 0xff);
    s.data[1] = (char)(n >> 8);
    file_put(dir, "model.safetensors", s.data, s.len);
    cr_assert_eq(weights_open(&swapped, dir), OK, "%s", status_message());
    char a[FINGERPRINT_SIZE], b[FINGERPRINT_SIZE];
    cr_assert_eq(weights_fingerprint(&w, false, NULL, a), OK);
    cr_assert_eq(weights_fingerprint(&swapped, false, NULL, b), OK);
    cr_expect_str_eq(a, b);
    weights_close(&w);
    weights_close(&swapped);
    str_clear(&s);
    dir_remove(dir);
}

/* Both tensors under a configuration that ties them: equal ones are one, different ones stay two. */
Test(weights, tied_with_both_tensors)
{
    char *dir = golden_copy("mha_default");
    struct weights w;
    file_edit(dir, "config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_expect(!w.tied && w.head.weight != w.embedding.weight && w.n_extra == 0);
    const struct tensor *e = safetensors_find(&w.files, "model.embed_tokens.weight");
    const struct tensor *h = safetensors_find(&w.files, "lm_head.weight");
    const uint8_t *start = w.files.files[0].map.data;
    struct str s = file_get(dir, "model.safetensors");
    memcpy(s.data + (h->data - start), e->data, e->bytes);
    weights_close(&w);
    file_put(dir, "model.safetensors", s.data, s.len);
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_expect(w.tied && w.head.weight == w.embedding.weight && w.n_extra == 1);
    weights_close(&w);
    str_clear(&s);
    dir_remove(dir);
}

/* A checkpoint cut short by its configuration is another model, not this one with something to spare. */
Test(weights, layers_beyond_the_configuration)
{
    char *dir = golden_copy("gqa_d64_tied");
    file_edit(dir, "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    must_not_open(dir, ERR_FORMAT, "model.safetensors: tensor model.layers.1.", "found a layer 1, expected none beyond 0");
    must_not_open(dir, ERR_FORMAT, "num_hidden_layers 1 of config.json", "set it to 2");
    dir_remove(dir);
}

Test(weights, disagreement_with_the_configuration)
{
    char *dir = golden_copy("mha_default");
    file_edit(dir, "config.json", "\"hidden_size\": 48", "\"hidden_size\": 96");
    must_not_open(dir, ERR_FORMAT, "model.embed_tokens.weight: found shape [96, 48], expected [96, 96]",
                  "model.safetensors");
    file_edit(dir, "config.json", "\"hidden_size\": 96", "\"hidden_size\": 48");
    file_edit(dir, "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    must_not_open(dir, ERR_FORMAT, "model.layers.2.input_layernorm.weight is missing", "download");
    file_edit(dir, "config.json", "\"num_hidden_layers\": 3",
              "\"num_hidden_layers\": 2, \"attention_bias\": true");
    must_not_open(dir, ERR_FORMAT, "model.layers.0.self_attn.q_proj.bias is missing", "config.json");
    file_edit(dir, "config.json", ", \"attention_bias\": true", "");
    file_edit(dir, "model.safetensors", "lm_head.weight", "lm_haed.weight");
    must_not_open(dir, ERR_FORMAT, "lm_head.weight is missing", "tie_word_embeddings");
    file_edit(dir, "model.safetensors", "lm_haed.weight", "lm_head.weight");
    file_edit(dir, "model.safetensors", "\"F32\",\"shape\":[96,48]", "\"I32\",\"shape\":[96,48]");
    must_not_open(dir, ERR_UNSUPPORTED, "found element type I32", "BF16");
    dir_remove(dir);
}

/* Overwrite one element of a tensor; its width is that of the value. */
static void poke(const char *dir, const char *name, size_t index, const void *value, size_t width)
{
    struct safetensors s;
    cr_assert_eq(safetensors_open(&s, dir), OK, "%s", status_message());
    const struct tensor *t = safetensors_find(&s, name);
    const struct safetensors_file *f = s.files;
    while (f->path != t->file) f++;
    size_t at = (size_t)(t->data - f->map.data) + index * width;
    char *file = str_dup(path_base(t->file));
    safetensors_close(&s);
    struct str bytes = file_get(dir, file);
    memcpy(bytes.data + at, value, width);
    file_put(dir, file, bytes.data, bytes.len);
    str_clear(&bytes);
    free(file);
}

static void expect_finite(const char *dir, struct par *par, bool finite, const char *says)
{
    struct weights w;
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_expect_eq(weights_check_finite(&w, par), finite ? OK : ERR_NUMERIC);
    if (!finite) cr_expect(strstr(status_message(), says), "\"%s\" lacks \"%s\"", status_message(), says);
    weights_close(&w);
}

Test(weights, values_that_are_not_finite)
{
    struct par *par;
    cr_assert_eq(par_open(&par, 3), OK);
    char *dir = golden_copy("mha_default");
    expect_finite(dir, par, true, "");
    float nan32 = NAN, inf32 = -INFINITY, big32 = 3e38f;
    poke(dir, "lm_head.weight", 4607, &big32, 4);
    expect_finite(dir, par, true, "");
    poke(dir, "lm_head.weight", 4607, &inf32, 4);
    expect_finite(dir, par, false,
                  "lm_head.weight: 1 of 4608 values are NaN or infinite, the first at index 4607");
    poke(dir, "lm_head.weight", 1024, &nan32, 4);
    expect_finite(dir, NULL, false, "2 of 4608 values are NaN or infinite, the first at index 1024");
    poke(dir, "model.layers.0.mlp.up_proj.weight", 0, &nan32, 4);
    expect_finite(dir, par, false, "model.layers.0.mlp.up_proj.weight: 1 of 3072");
    poke(dir, "model.norm.weight", 5, &nan32, 4);
    must_not_open(dir, ERR_NUMERIC, "model.norm.weight: value 5 is NaN", "download");
    dir_remove(dir);

    dir = golden_copy("gqa_d64_tied");
    uint16_t inf_bf16 = 0xff80, big_bf16 = 0x7f7f;
    poke(dir, "model.layers.1.self_attn.o_proj.weight", 2050, &big_bf16, 2);
    expect_finite(dir, par, true, "");
    poke(dir, "model.layers.1.self_attn.o_proj.weight", 2050, &inf_bf16, 2);
    expect_finite(dir, par, false,
                  "o_proj.weight: 1 of 8192 values are NaN or infinite, the first at index 2050");
    dir_remove(dir);

    dir = golden_copy("mixed_unaligned"); /* data at odd addresses */
    uint16_t nan_f16 = 0x7e01, big_f16 = 0xfbff;
    poke(dir, "model.layers.0.mlp.down_proj.weight", 1535, &big_f16, 2);
    expect_finite(dir, par, true, "");
    poke(dir, "model.layers.0.mlp.down_proj.weight", 1535, &nan_f16, 2);
    expect_finite(dir, par, false, "down_proj.weight: 1 of 1536");
    dir_remove(dir);
    par_close(&par);
}

static void fingerprint(const char *dir, struct par *par, char out[FINGERPRINT_SIZE])
{
    struct weights w;
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_assert_eq(weights_fingerprint(&w, false, par, out), OK);
    weights_close(&w);
}

Test(weights, fingerprint)
{
    char first[FINGERPRINT_SIZE], other[FINGERPRINT_SIZE];
    struct par *par;
    cr_assert_eq(par_open(&par, 4), OK);
    char *dir = golden_copy("sharded_bf16");
    fingerprint(dir, NULL, first);
    cr_expect_eq(strncmp(first, "full:", 5), 0);
    cr_expect_eq(strlen(first), 5 + 32);
    fingerprint(dir, par, other);
    cr_expect_str_eq(first, other);

    file_edit(dir, "config.json", "\"eos_token_id\": 2", "\"eos_token_id\": 7");
    fingerprint(dir, par, other);
    cr_expect_str_eq(first, other, "token ids of generation are no part of it");
    file_edit(dir, "config.json", "\"rope_theta\": 10000.0", "\"rope_theta\": 10001.0");
    fingerprint(dir, par, other);
    cr_expect_str_neq(first, other);
    file_edit(dir, "config.json", "\"rope_theta\": 10001.0", "\"rope_theta\": 10000.0");
    uint16_t one = 0x3f80;
    poke(dir, "model.layers.2.mlp.up_proj.weight", 1000, &one, 2);
    fingerprint(dir, par, other);
    cr_expect_str_neq(first, other);
    dir_remove(dir);
    par_close(&par);
}

Test(weights, every_golden_model_opens)
{
    static const char *const models[] = {"mha_default",         "gqa_d64_tied",     "mqa_linear_f16",
                                         "dynamic_tied_head",   "dynamic_new_keys", "llama3_d64",
                                         "llama3_new_keys_d16", "bias_d16",         "d128_gqa",
                                         "sharded_bf16",        "mixed_unaligned"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct weights w;
        open_golden(&w, models[i]);
        cr_expect_eq(weights_check_finite(&w, NULL), OK, "%s", status_message());
        weights_close(&w);
    }
}

#include "engine/checkpoint/weights.h"

#include "engine/checkpoint/synth.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <time.h>

static void must_not_open(const char *dir, enum status code, const char *says, const char *says_too)
{
    struct weights w;
    enum status st = weights_open(&w, dir);
    cr_expect_eq(st, code, "status %s, expected %s: %s", status_name(st), status_name(code),
        status_message());
    cr_expect(
        strstr(status_message(), says), "message \"%s\" lacks \"%s\"", status_message(), says);
    cr_expect(strstr(status_message(), says_too), "message \"%s\" lacks \"%s\"", status_message(),
        says_too);
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
    cr_expect_eq(
        (const char *)weights_embedding_row(&w, 3) - (const char *)w.embedding.weight, 3 * 32 * 2);
    weights_close(&w);

    open_golden(&w, "bias_d16");
    cr_expect(!w.tied && w.layers[0].o.bias && w.layers[0].down.bias &&
        w.head.weight != w.embedding.weight);
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
    size_t n = (uint8_t)s.data[0] + 256u * (uint8_t)s.data[1] + strlen("model.embed_tokens") -
        strlen("lm_head");
    s.data[0] = (char)(n & 0xff);
    s.data[1] = (char)(n >> 8);
    file_put(dir, "model.safetensors", s.data, s.len);
    cr_assert_eq(weights_open(&swapped, dir), OK, "%s", status_message());
    char a[FINGERPRINT_SIZE], b[FINGERPRINT_SIZE];
    cr_assert_eq(weights_fingerprint(&w, NULL, NULL, NULL, a), OK);
    cr_assert_eq(weights_fingerprint(&swapped, NULL, NULL, NULL, b), OK);
    cr_expect_str_eq(a, b);
    weights_close(&w);
    weights_close(&swapped);
    str_clear(&s);
    dir_remove(dir);
}

/* Both tensors under a configuration that ties them: equal ones are one, different ones stay two.
 */
Test(weights, tied_with_both_tensors)
{
    char *dir = golden_copy("mha_default");
    struct weights w;
    file_edit(
        dir, "config.json", "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
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

/* A checkpoint cut short by its configuration is another model, not this one with something to
 * spare. */
Test(weights, layers_beyond_the_configuration)
{
    char *dir = golden_copy("gqa_d64_tied");
    file_edit(dir, "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    must_not_open(dir, ERR_FORMAT, "model.safetensors: tensor model.layers.1.",
        "found a layer 1, expected none beyond 0");
    must_not_open(dir, ERR_FORMAT, "num_hidden_layers 1 of config.json", "set it to 2");
    dir_remove(dir);
}

Test(weights, disagreement_with_the_configuration)
{
    char *dir = golden_copy("mha_default");
    file_edit(dir, "config.json", "\"hidden_size\": 48", "\"hidden_size\": 96");
    must_not_open(dir, ERR_FORMAT,
        "model.embed_tokens.weight: found shape [96, 48], expected [96, 96]", "model.safetensors");
    file_edit(dir, "config.json", "\"hidden_size\": 96", "\"hidden_size\": 48");
    file_edit(dir, "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    must_not_open(dir, ERR_FORMAT, "model.layers.2.input_layernorm.weight is missing", "download");
    file_edit(dir, "config.json", "\"num_hidden_layers\": 3",
        "\"num_hidden_layers\": 2, \"attention_bias\": true");
    must_not_open(
        dir, ERR_FORMAT, "model.layers.0.self_attn.q_proj.bias is missing", "config.json");
    file_edit(dir, "config.json", ", \"attention_bias\": true", "");
    file_edit(dir, "model.safetensors", "lm_head.weight", "lm_haed.weight");
    must_not_open(dir, ERR_FORMAT, "lm_head.weight is missing", "tie_word_embeddings");
    file_edit(dir, "model.safetensors", "lm_haed.weight", "lm_head.weight");
    file_edit(dir, "model.safetensors", "\"F32\",\"shape\":[96,48]", "\"I32\",\"shape\":[96,48]");
    must_not_open(dir, ERR_UNSUPPORTED, "found element type I32", "use the unquantised checkpoint");
    file_edit(dir, "model.safetensors", "\"I32\",\"shape\":[96,48]", "\"F64\",\"shape\":[96,24]");
    must_not_open(dir, ERR_UNSUPPORTED, "found element type F64", "with transformers");
    file_edit(dir, "model.safetensors", "\"F64\",\"shape\":[96,24]", "\"F32\",\"shape\":[96,48]");
    file_edit(dir, "model.safetensors", "\"format\":\"pt\"", "\"format\":\"p\"");
    file_edit(dir, "model.safetensors", "0.mlp.up_proj.weight", "0.mlp.up_proj.qweight");
    must_not_open(dir, ERR_UNSUPPORTED, "found model.layers.0.mlp.up_proj.qweight, expected",
        "the weights are quantised");
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
    if (!finite)
        cr_expect(strstr(status_message(), says), "\"%s\" lacks \"%s\"", status_message(), says);
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
    expect_finite(
        dir, NULL, false, "2 of 4608 values are NaN or infinite, the first at index 1024");
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
    cr_assert_eq(weights_fingerprint(&w, NULL, par, NULL, out), OK);
    weights_close(&w);
}

/* Append a tensor of n floats in F32 to the one file of a model. */
static void append_tensor(const char *dir, const char *name, int n)
{
    struct str s = file_get(dir, "model.safetensors"), out = {0};
    uint64_t header;
    memcpy(&header, s.data, 8);
    size_t data = s.len - 8 - header;
    while (s.data[8 + header - 1] != '}') header--;
    struct str json = {0};
    str_addf(&json, "%.*s,\"%s\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]}}",
        (int)header - 1, s.data + 8, name, n, data, data + 4 * (size_t)n);
    uint64_t length = json.len;
    str_add_bytes(&out, &length, 8);
    str_add_bytes(&out, json.data, json.len);
    str_add_bytes(&out, s.data + s.len - data, data);
    for (int i = 0; i < n; i++) str_add_bytes(&out, &(float){1}, 4);
    file_put(dir, "model.safetensors", out.data, out.len);
    str_clear(&s);
    str_clear(&json);
    str_clear(&out);
}

Test(weights, tensors_without_use_are_named)
{
    static const char *const harmless[] = {
        "model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"};
    static const struct {
        const char *name, *remedy;
    } bad[] = {
        {"model.layers.1.self_attn.q_proj.bias", "attention_bias"},
        {"model.layers.0.self_attn.q_norm.weight", "another architecture"},
        {"model.layers.0.self_attn.q_proj.lora_A.weight", "merge"},
        {"model.layers.0.mlp.up_proj.weight_scale", "quantised"},
        {"model.layers.0.mlp.extra", "download"},
    };
    char *dir = golden_copy("mha_default");
    struct weights w;
    for (int i = 0; i < 2; i++) append_tensor(dir, harmless[i], 3);
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_expect_eq(weights_check_unused(&w), OK, "%s", status_message());
    weights_close(&w);
    dir_remove(dir);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        dir = golden_copy("mha_default");
        append_tensor(dir, bad[i].name, 3);
        cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
        cr_expect_eq(weights_check_unused(&w), ERR_UNSUPPORTED);
        cr_expect(strstr(status_message(), bad[i].name) &&
                strstr(status_message(), bad[i].remedy) &&
                strstr(status_message(), "--ignore-tensors") &&
                strstr(status_message(), "model.safetensors"),
            "%s", status_message());
        size_t at = 0;
        cr_expect_str_eq(weights_next_unused(&w, &at)->name, bad[i].name);
        cr_expect_null(weights_next_unused(&w, &at));
        weights_close(&w);
        dir_remove(dir);
    }
    /* a second name of the tied tensor is harmless; see tied_with_both_tensors */
    dir = golden_copy("dynamic_tied_head");
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_expect_eq(weights_check_unused(&w), OK, "%s", status_message());
    weights_close(&w);
    dir_remove(dir);
}

/* An index may promise what was never saved; what the model needs is missing all the same. */
Test(weights, an_index_with_more_than_the_shards)
{
    char *dir = golden_copy("sharded_bf16");
    struct weights w;
    file_edit(dir, "model.safetensors.index.json", "\"lm_head.weight\": ",
        "\"model.layers.0.self_attn.rotary_emb.inv_freq\": \"model-00001-of-00003.safetensors\", "
        "\"lm_head.weight\": ");
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_expect_eq(weights_check_unused(&w), OK, "%s", status_message());
    weights_close(&w);
    file_edit(dir, "config.json", "{", "{\"mlp_bias\": true,");
    file_edit(dir, "model.safetensors.index.json", "\"lm_head.weight\": ",
        "\"model.layers.0.mlp.gate_proj.bias\": \"model-00002-of-00003.safetensors\", "
        "\"lm_head.weight\": ");
    must_not_open(dir, ERR_FORMAT, "model.layers.0.mlp.gate_proj.bias is missing",
        "the index says model-00002-of-00003.safetensors");
    dir_remove(dir);
}

Test(weights, fingerprint)
{
    char first[FINGERPRINT_SIZE], other[FINGERPRINT_SIZE];
    struct par *par;
    char *dir = golden_copy("sharded_bf16");
    fingerprint(dir, NULL, first);
    cr_expect_eq(strncmp(first, "xxh3:", 5), 0);
    cr_expect_eq(strlen(first), 5 + 32);
    for (int threads = 1; threads <= 8; threads += 1 + (threads > 2) * 4) { /* 1, 2, 3, 8 */
        cr_assert_eq(par_open(&par, threads), OK);
        fingerprint(dir, par, other);
        cr_expect_str_eq(first, other, "%d threads", threads);
        par_close(&par);
    }
    struct weights w;
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_assert_eq(weights_fingerprint(&w, "a tokenizer", NULL, NULL, other), OK);
    weights_close(&w);
    cr_expect_str_neq(first, other);

    file_edit(dir, "config.json", "\"eos_token_id\": 2", "\"eos_token_id\": 7");
    fingerprint(dir, NULL, other);
    cr_expect_str_eq(first, other, "token ids of generation are no part of it");
    file_edit(dir, "config.json", "\"rope_theta\": 10000.0", "\"rope_theta\": 10001.0");
    fingerprint(dir, NULL, other);
    cr_expect_str_neq(first, other);
    dir_remove(dir);
}

/* Every byte: one bit of the first, a middle and the last byte of every tensor, and about every
 * edge of the pieces. */
Test(weights, fingerprint_covers_every_byte)
{
    char *dir = dir_make(), *path = path_join(dir, "model.safetensors"), first[FINGERPRINT_SIZE],
         other[FINGERPRINT_SIZE];
    const struct synth_shape *tiny;
    struct weights w;
    cr_assert_eq(synth_find("tiny", &tiny), OK);
    struct llama_config c = tiny->config;
    struct synth_options o = synth_defaults();
    /* an embedding of two and a half pieces */
    c.vocab_size = (int)((5 << 19) / (c.hidden_size * 2)) + 1;
    cr_assert_eq(synth_write(dir, &c, &o), OK, "%s", status_message());
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_assert_eq(weights_fingerprint(&w, NULL, NULL, NULL, first), OK);
    int fd = open(path, O_WRONLY), n_places = 0;
    for (size_t i = 0; i < w.n_entries; i++) {
        const struct tensor *t = w.entries[i].tensor;
        const size_t mib = 1 << 20,
                     places[] = {
                         0, t->bytes / 2 + 1, t->bytes - 1, mib - 1, mib, 2 * mib - 1, 2 * mib};
        for (int k = 0; k < 7; k++) {
            if (places[k] >= t->bytes) continue;
            off_t at = (off_t)(t->data - w.files.files[0].map.data) + (off_t)places[k];
            uint8_t was = t->data[places[k]], now = was ^ 1;
            cr_assert_eq(pwrite(fd, &now, 1, at), 1);
            cr_assert_eq(weights_fingerprint(&w, NULL, NULL, NULL, other), OK);
            cr_expect_str_neq(first, other, "%s byte %zu", t->name, places[k]);
            cr_assert_eq(pwrite(fd, &was, 1, at), 1);
            n_places++;
        }
    }
    cr_expect_geq(n_places, 3 * (int)w.n_entries + 4);
    cr_assert_eq(weights_fingerprint(&w, NULL, NULL, NULL, other), OK);
    cr_expect_str_eq(first, other);
    close(fd);
    weights_close(&w);
    free(path);
    dir_remove(dir);
}

static double seconds_since_change(const char *path)
{
    struct stat is;
    struct timespec now;
    cr_assert_eq(stat(path, &is), 0);
    clock_gettime(CLOCK_REALTIME, &now);
    return difftime(now.tv_sec, is.st_ctim.tv_sec) +
        1e-9 * (double)(now.tv_nsec - is.st_ctim.tv_nsec);
}

/* Remembered by what the files are: a file that may still change is not, and one that was changed
 * is hashed again although its size and time of change were put back. */
Test(weights, fingerprints_are_remembered)
{
    char *dir = golden_copy("mha_default"), *memory = path_join(dir, "fingerprints"),
         *path = path_join(dir, "model.safetensors");
    char real[FINGERPRINT_SIZE], other[FINGERPRINT_SIZE],
        planted[FINGERPRINT_SIZE] = "xxh3:planted-planted-planted-planted";
    struct weights w;
    for (int i = 0; i < 20; i++) { /* again where the machine slept until the file was at rest */
        cr_assert_eq(chmod(path, 0600), 0);
        cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
        cr_assert_eq(weights_fingerprint(&w, NULL, NULL, memory, real), OK);
        bool believed = file_exists(memory), late = seconds_since_change(path) > 1.9;
        cr_expect(!believed || late, "changed just now: not believed yet");
        if (!late) break;
        weights_close(&w);
        unlink(memory);
    }
    usleep(2100000);
    cr_assert_eq(weights_fingerprint(&w, NULL, NULL, memory, other), OK);
    cr_expect_str_eq(real, other);
    cr_assert(file_exists(memory));
    planted[36] = 'x';
    file_edit(dir, "fingerprints", real, planted);
    cr_assert_eq(weights_fingerprint(&w, NULL, NULL, memory, other), OK);
    cr_expect_str_eq(planted, other, "it was looked up");
    cr_assert_eq(weights_fingerprint(&w, "another tokenizer", NULL, memory, other), OK);
    cr_expect_str_neq(planted, other);
    weights_close(&w);
    struct stat was;
    cr_assert_eq(stat(path, &was), 0);
    struct str s = file_get(dir, "model.safetensors");
    int fd = open(path, O_WRONLY);
    s.data[s.len - 1] ^= 1;
    cr_assert_eq(pwrite(fd, s.data + s.len - 1, 1, (off_t)s.len - 1), 1);
    close(fd);
    cr_assert_eq(utimensat(AT_FDCWD, path, (struct timespec[2]){was.st_atim, was.st_mtim}, 0), 0);
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_assert_eq(weights_fingerprint(&w, NULL, NULL, memory, other), OK);
    cr_expect(strcmp(other, planted) != 0 && strcmp(other, real) != 0, "%s", other);
    weights_close(&w);
    text_put(dir, "fingerprints", "this is no such file\n");
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_assert_eq(weights_fingerprint(&w, NULL, NULL, memory, planted), OK);
    cr_expect_str_eq(planted, other);
    weights_close(&w);
    str_clear(&s);
    free(memory);
    free(path);
    dir_remove(dir);
}

Test(weights, every_golden_model_opens)
{
    static const char *const models[] = {"mha_default", "gqa_d64_tied", "mqa_linear_f16",
        "dynamic_tied_head", "dynamic_new_keys", "llama3_d64", "llama3_new_keys_d16", "bias_d16",
        "d128_gqa", "sharded_bf16", "mixed_unaligned"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct weights w;
        open_golden(&w, models[i]);
        cr_expect_eq(weights_check_finite(&w, NULL), OK, "%s", status_message());
        weights_close(&w);
    }
}

/* q, k and v in one matrix: of as many rows as config.json makes of them, or it is not theirs. */
Test(weights, a_fused_matrix_is_cut_by_the_sizes)
{
    struct weights w;
    char *dir = golden_copy("phi3_window");
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    const struct layer_weights *l = &w.layers[1];
    cr_expect_eq((const float *)l->k.weight - (const float *)l->q.weight, 48 * 48);
    cr_expect_eq((const float *)l->up.weight - (const float *)l->gate.weight, 64 * 48);
    cr_expect_eq(w.n_extra, 0);
    weights_close(&w);
    file_edit(dir, "config.json", "\"num_attention_heads\": 3", "\"num_attention_heads\": 4");
    cr_assert_eq(weights_open(&w, dir), OK, "4 heads of 12 are as many rows: %s", status_message());
    weights_close(&w);
    file_edit(dir, "config.json", "\"num_attention_heads\": 4",
        "\"num_attention_heads\": 4, \"num_key_value_heads\": 2");
    cr_assert_eq(weights_open(&w, dir), ERR_FORMAT);
    cr_expect(strstr(status_message(), "qkv_proj.weight: found shape [144, 48], expected 96 rows"),
        "%s", status_message());
    dir_remove(dir);
}

/* GGUF files as models: logits and ids as transformers reads them in the same files, every type,
 * and files that lie. */
#include "base/file.h"
#include "base/json.h"
#include "engine/checkpoint/gguf.h"
#include "engine/engine.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#define CHECK(call) cr_assert_eq((call), OK, "%s: %s", #call, status_message())
#define GGUF_DIR TESTS_DIR "/golden/gguf/"

static int read_ids(const cJSON *array, int32_t *out, int cap)
{
    int n = 0;
    const cJSON *x;
    cJSON_ArrayForEach(x, array) if (n < cap) out[n++] = (int32_t)x->valuedouble;
    return n;
}

static void check_logits(const struct model *m, const char *name, const cJSON *golden)
{
    int32_t ids[128], at[16];
    int n = read_ids(cJSON_GetObjectItem(golden, "ids"), ids, 128),
        n_at = read_ids(cJSON_GetObjectItem(golden, "positions"), at, 16);
    size_t vocab = (size_t)m->weights.config.vocab_size,
           width = (size_t)m->weights.config.hidden_size;
    char *file = str_format("%s.bin", name);
    struct str bytes = file_get(GGUF_DIR, file);
    cr_assert_eq(bytes.len, sizeof(float) * vocab * (size_t)n_at);
    float *hidden = malloc(sizeof *hidden * width * (size_t)n), *z = malloc(sizeof *z * vocab),
          *want = malloc(bytes.len);
    memcpy(want, bytes.data, bytes.len);
    struct session *s = NULL;
    CHECK(session_open(&s, &m->weights, NULL, 128, 0, NULL));
    CHECK(session_forward(s, &(struct forward_args){.tokens = ids, .n = n, .hidden = hidden}));
    for (int i = 0; i < n_at; i++) {
        double diff = 0, norm = 0;
        CHECK(session_logits(s, 1, hidden + (size_t)at[i] * width, z));
        for (size_t k = 0; k < vocab; k++) {
            double y = (double)want[(size_t)i * vocab + k];
            diff += ((double)z[k] - y) * ((double)z[k] - y);
            norm += y * y;
        }
        cr_expect(
            sqrt(diff / norm) < 1e-5, "%s: position %d: %.3g", name, at[i], sqrt(diff / norm));
    }
    session_close(&s);
    str_clear(&bytes);
    free(file);
    free(hidden);
    free(z);
    free(want);
}

static void check_ids(const struct model *m, const char *name, const cJSON *golden)
{
    const cJSON *text = cJSON_GetObjectItem(golden, "texts")->child,
                *ids = cJSON_GetObjectItem(golden, "token_ids")->child;
    for (int i = 0; text && ids; i++, text = text->next, ids = ids->next) {
        struct token_list got = {0};
        static int32_t want[4096];
        int n = read_ids(ids, want, 4096);
        CHECK(tokenizer_encode(
            m->tokenizer, text->valuestring, strlen(text->valuestring), true, &got, NULL));
        cr_expect(
            got.n == (size_t)n && (n == 0 || memcmp(got.ids, want, sizeof *want * (size_t)n) == 0),
            "%s: text %d: \"%.60s\"", name, i, text->valuestring);
        token_list_clear(&got);
    }
}

Test(gguf, is_what_transformers_reads)
{
    static const char *const names[] = {"llama_k", "qwen3_small", "qwen2_v2"};
    for (int i = 0; i < 3; i++) {
        char *path = str_format(GGUF_DIR "%s.gguf", names[i]),
             *json = str_format(GGUF_DIR "%s.json", names[i]);
        cJSON *golden;
        struct model m;
        CHECK(json_read_file(&golden, json));
        CHECK(model_open(&m, path, NULL));
        check_logits(&m, names[i], golden);
        check_ids(&m, names[i], golden);
        model_close(&m);
        cJSON_Delete(golden);
        free(path);
        free(json);
    }
}

/* A file cut anywhere in its header is refused, and so is any whose bytes there are changed, or it
 * opens: nothing else. */
Test(gguf, lying_files)
{
    struct str bytes = file_get(GGUF_DIR, "qwen3_small.gguf");
    uint8_t *data = (uint8_t *)bytes.data;
    struct gguf g;
    CHECK(gguf_parse(&g, "x.gguf", data, bytes.len));
    size_t header = (size_t)(g.tensors[0].data - data);
    gguf_close(&g);
    for (size_t n = 0; n < header; n += n < 400 ? 1 : 97) {
        uint8_t *cut = malloc(n ? n : 1);
        memcpy(cut, data, n);
        cr_expect_neq(gguf_parse(&g, "x.gguf", cut, n), OK, "cut at %zu", n);
        free(cut);
    }
    cr_expect_neq(gguf_parse(&g, "x.gguf", data, bytes.len - 1), OK);
    cr_expect(strstr(status_message(), "incomplete"), "%s", status_message());
    unsigned seed = 1;
    for (int round = 0; round < 4000; round++) {
        size_t at = (size_t)rand_r(&seed) % header;
        uint8_t was = data[at];
        data[at] = (uint8_t)(round % 4 == 0 ? 0xff : rand_r(&seed));
        struct str config = {0}, json = {0}, settings = {0};
        if (gguf_parse(&g, "x.gguf", data, bytes.len) == OK) {
            struct llama_config c;
            struct safetensors tensors;
            if (gguf_config(&g, &config) == OK &&
                llama_config_parse(&c, "x.gguf", str_get(&config), config.len) == OK &&
                gguf_tensors(&g, &(struct reading_watch){0}, &tensors) == OK)
                safetensors_close(&tensors);
            if (round % 20 == 0 && gguf_tokenizer(&g, &json, &settings) != OK)
                cr_expect(*status_message());
            gguf_close(&g);
        }
        str_clear(&config);
        str_clear(&json);
        str_clear(&settings);
        data[at] = was;
    }
    str_clear(&bytes);
}

struct told {
    const char *what[64];
    size_t done[64], total[64];
    int n;
};

static void note_reading(void *ctx, const char *what, size_t done, size_t total)
{
    struct told *t = ctx;
    cr_assert_lt(t->n, 64);
    t->what[t->n] = what;
    t->done[t->n] = done;
    t->total[t->n++] = total;
}

Test(gguf, reading_says_how_far_it_is)
{
    struct told t = {.n = 0};
    struct model m;
    CHECK(model_open_with(&m, GGUF_DIR "llama_k.gguf",
        &(struct model_options){.device.watch = {note_reading, &t}}, NULL));
    cr_assert_gt(t.n, 2);
    for (int i = 0; i < t.n; i++) {
        bool last = i + 1 == t.n || strcmp(t.what[i], t.what[i + 1]) != 0;
        cr_expect(last ? t.done[i] == t.total[i] : t.done[i] <= t.done[i + 1]);
    }
    cr_expect_str_eq(t.what[0], "unpacking weights");
    cr_expect_str_eq(t.what[t.n - 1], "reading weights");
    model_close(&m);
}

static void replace_all(struct str *bytes, const char *from, const char *to)
{
    size_t n = strlen(from);
    cr_assert_eq(n, strlen(to));
    for (size_t i = 0; i + n <= bytes->len; i++)
        if (memcmp(bytes->data + i, from, n) == 0) memcpy(bytes->data + i, to, n);
}

Test(gguf, what_is_not_offered_is_named)
{
    static const struct {
        const char *from, *to, *says;
    } cases[] = {
        {"qwen3", "gemma", "\"gemma\", supported are llama, qwen2 and qwen3"},
        {"qwen3.block_count", "qwen3.block_coumt", "qwen3.block_coumt: is not followed here"},
        {"qwen3.rope.freq_base", "qwen3.rope.other_key", "use the model's safetensors"},
        {"qwen3.block_count", "other.block_count", "qwen3.block_count is missing"},
        {"token_embd.weight", "token_emBd.weight", "token_embd.weight is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str bytes = file_get(GGUF_DIR, "qwen3_small.gguf"), config = {0};
        struct gguf g;
        replace_all(&bytes, cases[i].from, cases[i].to);
        CHECK(gguf_parse(&g, "x.gguf", (const uint8_t *)bytes.data, bytes.len));
        cr_expect_neq(gguf_config(&g, &config), OK);
        cr_expect(strstr(status_message(), cases[i].says), "%s", status_message());
        gguf_close(&g);
        str_clear(&config);
        str_clear(&bytes);
    }
    struct str bytes = file_get(GGUF_DIR, "qwen3_small.gguf"), json = {0}, settings = {0};
    struct gguf g;
    for (size_t i = 0; i + 5 < bytes.len; i++)
        if (memcmp(bytes.data + i, "qwen2", 5) == 0) memcpy(bytes.data + i, "poro2", 5);
    CHECK(gguf_parse(&g, "x.gguf", (const uint8_t *)bytes.data, bytes.len));
    cr_expect_eq(gguf_tokenizer(&g, &json, &settings), ERR_UNSUPPORTED);
    cr_expect(strstr(status_message(), "\"poro2\""), "%s", status_message());
    gguf_close(&g);
    str_clear(&json);
    str_clear(&settings);
    str_clear(&bytes);
}

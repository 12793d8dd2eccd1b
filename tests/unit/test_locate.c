/* Models as people name them: directories, the hub's cache, ids; and what is no model, named for
 * what it is. */
#include "engine/checkpoint/locate.h"

#include "base/file.h"
#include "base/str.h"
#include "base/utf8.h"
#include "engine/engine.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *place;

static void enter(void)
{
    place = dir_make();
    setenv("HOME", place, 1);
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
    unsetenv("XDG_CACHE_HOME");
}

static void leave(void) { dir_remove(place); }

TestSuite(locate, .init = enter, .fini = leave);

/* A file below `place`, with its directories. */
static void put(const char *path, const char *text)
{
    char *whole = path_join(place, path), *dir = str_dup(whole);
    *strrchr(dir, '/') = 0;
    cr_assert_eq(file_make_dirs(dir), OK, "%s", status_message());
    cr_assert_eq(file_write_atomic(whole, text, strlen(text)), OK, "%s", status_message());
    free(whole);
    free(dir);
}

/* `asked` below `place` when it begins with a slash. */
static enum status locate(struct checkpoint_place *p, const char *asked)
{
    char *path = *asked == '/' ? str_format("%s%s", place, asked) : str_dup(asked);
    enum status st = checkpoint_locate(p, path);
    free(path);
    return st;
}

static void finds(const char *asked, const char *dir, const char *name)
{
    struct checkpoint_place p;
    cr_assert_eq(locate(&p, asked), OK, "%s: %s", asked, status_message());
    char *real = realpath(p.dir, NULL), *want = str_format("%s%s", place, dir),
         *real_want = realpath(want, NULL);
    cr_expect(real && real_want && strcmp(real, real_want) == 0, "%s: found %s, expected %s", asked,
        p.dir, want);
    cr_expect_str_eq(p.name, name);
    checkpoint_place_clear(&p);
    free(real);
    free(want);
    free(real_want);
}

static void fails(const char *asked, const char *const *parts)
{
    struct checkpoint_place p;
    cr_assert_neq(locate(&p, asked), OK, "%s", asked);
    for (; *parts; parts++)
        cr_expect(strstr(status_message(), *parts), "%s: no \"%s\" in: %s", asked, *parts,
            status_message());
    cr_expect(!p.dir && !p.name);
}
#define FAILS(asked, ...) fails(asked, (const char *const[]){__VA_ARGS__, NULL})

Test(locate, the_hub_and_its_ids)
{
    put("/hf/hub/models--org--some-model/refs/main", "abc123");
    put("/hf/hub/models--org--some-model/snapshots/abc123/config.json", "{}");
    put("/hf/hub/models--org--some-model/snapshots/def456/config.json", "{}");
    char *home = str_format("%s/hf", place);
    setenv("HF_HOME", home, 1);
    finds("org/some-model", "/hf/hub/models--org--some-model/snapshots/abc123", "org/some-model");
    finds("/hf/hub/models--org--some-model", "/hf/hub/models--org--some-model/snapshots/abc123",
        "org/some-model");
    finds("/hf/hub/models--org--some-model/", "/hf/hub/models--org--some-model/snapshots/abc123",
        "org/some-model");
    finds("/hf/hub/models--org--some-model/snapshots/def456",
        "/hf/hub/models--org--some-model/snapshots/def456", "org/some-model");
    finds("/hf/hub", "/hf/hub/models--org--some-model/snapshots/abc123", "org/some-model");
    FAILS("org/other-model", "org/other-model", "no such directory", "hf download org/other-model",
        "hf/hub");
    FAILS("other", "other", "no such directory", "config.json");
    FAILS("/nowhere/at/all", "no such directory");
    FAILS("../org/some-model", "no such directory");

    /* no refs/main, but no choice either */
    put("/hf/hub/models--plain/snapshots/only/config.json", "{}");
    finds("plain", "/hf/hub/models--plain/snapshots/only", "plain");
    FAILS("/hf/hub", "holds 2 models", "models--plain", "models--org--some-model");
    put("/hf/hub/models--plain/snapshots/second/config.json", "{}");
    FAILS("plain", "several snapshots", "only", "second");
    put("/hf/hub/models--org--half/blobs/x", "");
    FAILS("org/half", "no snapshot", "hf download org/half");

    setenv("HF_HUB_CACHE", "/nonexistent-hub", 1);
    FAILS("org/some-model", "/nonexistent-hub");
    unsetenv("HF_HUB_CACHE");
    unsetenv("HF_HOME");
    put("/.cache/huggingface/hub/models--a--b/snapshots/x/config.json", "{}");
    finds("a/b", "/.cache/huggingface/hub/models--a--b/snapshots/x", "a/b");
    free(home);
}

Test(locate, directories_are_called_by_their_own_name)
{
    put("/models/mine/config.json", "{}");
    finds("/models/mine", "/models/mine", "mine");
    finds("/models/mine/.", "/models/mine", "mine");
    put("/models/caf\xe9 \xff/config.json", "{}"); /* what is not UTF-8 becomes it */
    finds("/models/caf\xe9 \xff", "/models/caf\xe9 \xff", "caf\xef\xbf\xbd \xef\xbf\xbd");
}

static void explained(const char *dir, const char *const *parts)
{
    struct model m;
    char *path = str_format("%s%s", place, dir);
    cr_assert_neq(model_open(&m, path, NULL), OK);
    for (; *parts; parts++)
        cr_expect(strstr(status_message(), *parts), "%s: no \"%s\" in: %s", dir, *parts,
            status_message());
    free(path);
}
#define EXPLAINED(dir, ...) explained(dir, (const char *const[]){__VA_ARGS__, NULL})

#define CONFIG                                                                                     \
    "{\"model_type\":\"llama\",\"hidden_size\":4,\"intermediate_size\":4,\"num_hidden_layers\":1," \
    "\"num_attention_heads\":1,\"vocab_size\":1}"

/* A file with one tensor of four values. */
static void put_tensor(const char *path, const char *name)
{
    struct str header = {0}, bytes = {0};
    char *whole = path_join(place, path);
    str_addf(&header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1,4],\"data_offsets\":[0,16]}}", name);
    uint64_t n = header.len;
    str_add_bytes(&bytes, &n, 8);
    str_add_bytes(&bytes, header.data, header.len);
    str_add_bytes(&bytes, (float[4]){1, 2, 3, 4}, 16);
    cr_assert_eq(file_write_atomic(whole, bytes.data, bytes.len), OK, "%s", status_message());
    str_clear(&header);
    str_clear(&bytes);
    free(whole);
}

Test(locate, what_is_no_model_is_named)
{
    put("/gguf/model-Q4_K_M.gguf", "GGUF....");
    put("/empty/readme", "");
    EXPLAINED("/gguf", "model-Q4_K_M.gguf", "GGUF", "name the file");
    finds("/gguf/model-Q4_K_M.gguf", "/gguf/model-Q4_K_M.gguf", "model-Q4_K_M.gguf");
    FAILS("/empty/readme", "is a file", "GGUF");
    put("/lora/adapter_config.json", "{\"base_model_name_or_path\": \"org/base\"}");
    put("/lora/adapter_model.safetensors", "");
    EXPLAINED("/lora", "LoRA adapter", "org/base", "merge_and_unload");
    put("/meta/params.json", "{}");
    EXPLAINED("/meta", "params.json", "own layout", "convert");
    put("/mistral/config.json", CONFIG);
    put("/mistral/consolidated.safetensors", "");
    EXPLAINED("/mistral", "consolidated.safetensors", "own layout");
    put("/pickle/config.json", CONFIG);
    put("/pickle/pytorch_model-00001-of-00002.bin", "");
    EXPLAINED("/pickle", "pytorch_model", "safe_serialization");
    put("/empty/readme", "");
    EXPLAINED("/empty", "config.json");
    static const char *const names[][2] = {
        {"embed_tokens.weight", "AutoModelForCausalLM"},
        {"tok_embeddings.weight", "Meta's"},
        {"base_model.model.model.embed_tokens.weight", "merge_and_unload"},
        {"language_model.model.embed_tokens.weight", "larger"},
        {"transformer.wte.weight", "another architecture"},
    };
    put("/named/config.json", CONFIG);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        put_tensor("/named/model.safetensors", names[i][0]);
        EXPLAINED("/named", names[i][0], names[i][1], "model.safetensors");
    }
}

#include "engine/checkpoint/synth.h"
#include "engine/checkpoint/weights.h"

#include "base/json.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>

static const struct llama_config *tiny(void)
{
    const struct synth_shape *shape;
    cr_assert_eq(synth_find("tiny", &shape), OK);
    return &shape->config;
}

static void fingerprint_of(const char *dir, char out[FINGERPRINT_SIZE])
{
    struct weights w;
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    cr_expect_eq(weights_check_finite(&w, NULL), OK, "%s", status_message());
    cr_assert_eq(weights_fingerprint(&w, NULL, NULL, NULL, out), OK);
    weights_close(&w);
}

static void write_fingerprint(
    const struct llama_config *c, const struct synth_options *o, char out[FINGERPRINT_SIZE])
{
    char *dir = dir_make();
    cr_assert_eq(synth_write(dir, c, o), OK, "%s", status_message());
    fingerprint_of(dir, out);
    dir_remove(dir);
}

Test(synth, shapes)
{
    int n;
    const struct synth_shape *all = synth_shapes(&n), *found;
    static const struct {
        const char *name;
        long long parameters; /* as the model cards count them */
    } known[] = {{"smollm-135m", 134515008}, {"tinyllama-1.1b", 1100048384},
        {"llama-3.2-1b", 1235814400}, {"llama-3.2-3b", 3212749824}, {"llama-2-7b", 6738415616},
        {"llama-3.1-8b", 8030261248}, {"llama-3.1-70b", 70553706496}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        cr_assert_eq(synth_find(known[i].name, &found), OK, "%s", status_message());
        cr_expect_eq(
            llama_config_parameters(&found->config), known[i].parameters, "%s", known[i].name);
    }
    for (int i = 1; i < n; i++)
        cr_expect(
            llama_config_parameters(&all[i - 1].config) < llama_config_parameters(&all[i].config));
    cr_expect_eq(synth_find("gpt-2", &found), ERR_ARG);
    cr_expect(strstr(status_message(), "llama-3.2-1b"), "%s", status_message());
}

/* Equal on every machine: these constants come from one of them. */
Test(synth, same_everywhere)
{
    char print[FINGERPRINT_SIZE];
    struct synth_options o = synth_defaults();
    write_fingerprint(tiny(), &o, print);
    cr_expect_str_eq(print, "xxh3:4939d33dd3b69d62a3d68a351c6dfe68");
    o.dtype = DTYPE_F16;
    write_fingerprint(tiny(), &o, print);
    cr_expect_str_eq(print, "xxh3:6b61a97f9314d63b8fd0832cb993ec5d");
    o.dtype = DTYPE_F32;
    write_fingerprint(tiny(), &o, print);
    cr_expect_str_eq(print, "xxh3:6cdb072b4d08f81e70ea3b93f6d2d9fc");
}

Test(synth, threads_and_shards_change_nothing_and_the_seed_does)
{
    char first[FINGERPRINT_SIZE], other[FINGERPRINT_SIZE];
    struct llama_config c = *tiny();
    c.vocab_size = 40000; /* more than one chunk of values */
    c.qkv_bias = c.o_bias = c.mlp_bias = true;
    c.tie_word_embeddings = false;
    struct synth_options o = synth_defaults();
    write_fingerprint(&c, &o, first);
    cr_assert_eq(par_open(&o.par, 3), OK);
    o.shard_bytes = 100000;
    write_fingerprint(&c, &o, other);
    cr_expect_str_eq(first, other);
    o.seed = 2;
    write_fingerprint(&c, &o, other);
    cr_expect_str_neq(first, other);
    par_close(&o.par);
}

Test(synth, distribution)
{
    char *dir = dir_make();
    struct llama_config c = *tiny();
    c.vocab_size = 4096;
    struct synth_options o = synth_defaults();
    o.std = 0.05;
    o.dtype = DTYPE_F32;
    cr_assert_eq(synth_write(dir, &c, &o), OK, "%s", status_message());
    struct weights w;
    cr_assert_eq(weights_open(&w, dir), OK, "%s", status_message());
    const float *x = w.embedding.weight;
    double sum = 0, square = 0, fourth = 0;
    int n = 4096 * 64, beyond_2 = 0;
    for (int i = 0; i < n; i++) {
        double z = (double)x[i] / 0.05;
        sum += z;
        square += z * z;
        fourth += z * z * z * z;
        beyond_2 += fabs(z) > 2;
    }
    cr_expect_leq(fabs(sum / n), 5 / sqrt(n));
    cr_expect_leq(fabs(square / n - 1), 5 * sqrt(2.0 / n));
    cr_expect_leq(fabs(fourth / n - 3), 5 * sqrt(96.0 / n));
    cr_expect_leq(fabs(beyond_2 / (double)n - 0.0455), 5 * sqrt(0.0455 / n));
    cr_expect_eq(w.layers[1].mlp_norm[63], 1.0f);
    weights_close(&w);
    dir_remove(dir);
}

Test(synth, half_precision_rounds_to_nearest)
{
    struct llama_config c = *tiny();
    struct synth_options o = synth_defaults();
    o.std = 1e-4; /* many values are subnormal in f16 */
    struct weights w[2];
    char *dirs[2];
    for (int i = 0; i < 2; i++) {
        o.dtype = i ? DTYPE_F16 : DTYPE_F32;
        dirs[i] = dir_make();
        cr_assert_eq(synth_write(dirs[i], &c, &o), OK, "%s", status_message());
        cr_assert_eq(weights_open(&w[i], dirs[i]), OK, "%s", status_message());
    }
    size_t n = (size_t)c.vocab_size * (size_t)c.hidden_size;
    float *wide = malloc(n * sizeof *wide);
    const float *exact = w[0].embedding.weight;
    widen(w[1].embedding.weight, DTYPE_F16, wide, n);
    for (size_t i = 0; i < n; i++) {
        float unit = fabsf(exact[i]) < 0x1p-14f ? 0x1p-24f : fabsf(exact[i]) * 0x1p-10f;
        cr_assert_leq(fabsf(wide[i] - exact[i]), 0.5f * unit, "%g became %g", (double)exact[i],
            (double)wide[i]);
    }
    free(wide);
    for (int i = 0; i < 2; i++) {
        weights_close(&w[i]);
        dir_remove(dirs[i]);
    }
}

Test(synth, tokenizer_has_every_byte_once)
{
    char *dir = dir_make(), *path = path_join(dir, "tokenizer.json");
    cr_assert_eq(synth_write_tokenizer(dir), OK, "%s", status_message());
    cJSON *root;
    cr_assert_eq(json_read_file(&root, path), OK, "%s", status_message());
    const cJSON *vocab = cJSON_GetObjectItem(cJSON_GetObjectItem(root, "model"), "vocab");
    cr_assert_eq(cJSON_GetArraySize(vocab), 256);
    bool seen[256] = {false};
    const cJSON *item;
    cJSON_ArrayForEach(item, vocab)
    {
        cr_assert(item->valueint >= 0 && item->valueint < 256 && !seen[item->valueint]);
        seen[item->valueint] = true;
    }
    cr_expect_eq(cJSON_GetObjectItemCaseSensitive(vocab, "A")->valueint, 'A');
    cr_expect_eq(cJSON_GetObjectItemCaseSensitive(vocab, "\u0120")->valueint, ' ');
    cr_expect_eq(cJSON_GetObjectItemCaseSensitive(vocab, "\u010a")->valueint, '\n');
    cr_expect_eq(cJSON_GetObjectItemCaseSensitive(vocab, "\u0143")->valueint, 173);
    cJSON_Delete(root);
    free(path);
    dir_remove(dir);
}

static bool cancel(void *ctx, uint64_t done, uint64_t total)
{
    cr_expect_leq(done, total);
    return --*(int *)ctx > 0;
}

static int entries_beside(const char *dir)
{
    struct str parent = {0};
    str_add_bytes(&parent, dir, (size_t)(path_base(dir) - dir));
    DIR *d = opendir(str_get(&parent));
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) n += str_starts_with(e->d_name, path_base(dir));
    closedir(d);
    str_clear(&parent);
    return n;
}

Test(synth, leaves_nothing_half_written)
{
    struct synth_options o = synth_defaults();
    char *dir = dir_make();
    rmdir(dir);
    int calls = 1;
    o.progress = cancel;
    o.progress_ctx = &calls;
    cr_expect_eq(synth_write(dir, tiny(), &o), ERR_CANCELLED);
    cr_expect_eq(entries_beside(dir), 0);
    o.progress = NULL;

    signal(SIGXFSZ, SIG_IGN); /* a file may not grow beyond this: as on a full disk */
    struct rlimit limit = {100000, RLIM_INFINITY}, old;
    getrlimit(RLIMIT_FSIZE, &old);
    limit.rlim_max = old.rlim_max;
    setrlimit(RLIMIT_FSIZE, &limit);
    cr_expect_eq(synth_write(dir, tiny(), &o), ERR_IO);
    setrlimit(RLIMIT_FSIZE, &old);
    cr_expect(strstr(status_message(), "cannot write"), "%s", status_message());
    cr_expect(strstr(status_message(), "GB"), "%s", status_message());
    cr_expect_eq(entries_beside(dir), 0);

    cr_expect_eq(synth_write(dir, tiny(), &o), OK, "%s", status_message());
    cr_expect_eq(entries_beside(dir), 1);
    cr_expect_eq(synth_write(dir, tiny(), &o), ERR_ARG);
    cr_expect(strstr(status_message(), "exists already"), "%s", status_message());
    cr_expect_eq(entries_beside(dir), 1);
    dir_remove(dir);
    cr_expect_eq(synth_write("/proc/nowhere/x", tiny(), &o), ERR_IO);
    struct llama_config small = *tiny();
    small.vocab_size = 257;
    cr_expect_eq(synth_write("/tmp/sg-never", &small, &o), ERR_ARG);
    o.std = NAN;
    cr_expect_eq(synth_write("/tmp/sg-never", tiny(), &o), ERR_ARG);
}

#include "base/file.h"
#include "base/json.h"
#include "engine/tokenizer/tokenizer.h"
#include "base/utf8.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef SG_SOURCE_DIR
#define SG_SOURCE_DIR "."
#endif

static cJSON *read_golden(const char *name)
{
    char *path = str_format("%s/tests/golden/tokenizer_%s.json", SG_SOURCE_DIR, name);
    cJSON *root = NULL;
    enum status st = json_read_file(&root, path);
    cr_assert_eq(st, OK, "%s", status_message());
    free(path);
    return root;
}

static struct str from_hex(const char *hex)
{
    struct str out = {0};
    str_reserve(&out, 0);
    for (; hex[0] && hex[1]; hex += 2) {
        char two[3] = {hex[0], hex[1], 0};
        str_add_char(&out, (char)strtoul(two, NULL, 16));
    }
    return out;
}

static struct tokenizer *parse(const char *json, const char *config)
{
    struct tokenizer *t = NULL;
    enum status st = tokenizer_parse(
        &t, "tokenizer.json", json, strlen(json), config, config ? strlen(config) : 0);
    cr_assert_eq(st, OK, "%s", status_message());
    return t;
}

static void check_numbers(
    const char *name, int text, const cJSON *expected, const void *got, size_t n)
{
    const cJSON *value;
    size_t i = 0;
    cJSON_ArrayForEach(value, expected)
    {
        int32_t found;
        memcpy(&found, (const char *)got + i * sizeof found, i < n ? sizeof found : 0);
        cr_assert(i < n && found == value->valueint, "%s: text %d, token %zu of %zu: expected %d",
            name, text, i, n, value->valueint);
        i++;
    }
    cr_assert_eq(i, n, "%s: text %d: found %zu tokens, expected %zu", name, text, n, i);
}

static void check_encodings(const char *name, const struct tokenizer *t, const cJSON *golden)
{
    cJSON *texts = read_golden("texts");
    const cJSON *ids = cJSON_GetObjectItem(golden, "ids")->child;
    const cJSON *begin = cJSON_GetObjectItem(golden, "begin")->child, *hex;
    struct token_list list = {0};
    int n = 0;
    cJSON_ArrayForEach(hex, texts)
    {
        struct str text = from_hex(hex->valuestring), shown = {0}, streamed = {0};
        struct token_stream stream = {.skip_special = true};
        list.n = 0;
        cr_assert_not_null(ids);
        cr_assert_eq(tokenizer_encode(t, text.data, text.len, true, &list, NULL), OK, "%s",
            status_message());
        check_numbers(name, n, ids, list.ids, list.n);
        if (begin) {
            check_numbers(name, n, begin, list.begin, list.n);
            begin = begin->next;
        }
        for (size_t i = 0; i < list.n; i++)
            cr_assert_eq(token_stream_push(&stream, t, list.ids[i], &streamed), OK);
        cr_assert_eq(token_stream_flush(&stream, t, &streamed), OK);
        cr_assert_eq(tokenizer_decode(t, list.ids, list.n, true, &shown), OK);
        cr_assert_eq(shown.len, streamed.len, "%s: text %d: streamed differently", name, n);
        cr_assert(shown.len == 0 || memcmp(shown.data, streamed.data, shown.len) == 0);
        token_stream_clear(&stream);
        str_clear(&text);
        str_clear(&shown);
        str_clear(&streamed);
        ids = ids->next;
        n++;
    }
    cr_assert_null(ids);
    cr_assert_gt(n, 200);
    token_list_clear(&list);
    cJSON_Delete(texts);
}

static void check_decodings(const char *name, const struct tokenizer *t, const cJSON *golden)
{
    const cJSON *decodings = cJSON_GetObjectItem(golden, "decoded"), *decoding, *id;
    int n = 0;
    cJSON_ArrayForEach(decoding, decodings)
    {
        int32_t ids[16];
        size_t n_ids = 0;
        cJSON_ArrayForEach(id, decoding->child) ids[n_ids++] = id->valueint;
        for (int skip = 0; skip < 2; skip++) {
            struct str expected = from_hex(cJSON_GetArrayItem(decoding, 1 + skip)->valuestring),
                       got = {0};
            cr_assert_eq(tokenizer_decode(t, ids, n_ids, skip, &got), OK, "%s", status_message());
            cr_assert_str_eq(str_get(&got), str_get(&expected), "%s: decoding %d", name, n);
            cr_assert_eq(got.len, expected.len, "%s: decoding %d", name, n);
            str_clear(&expected);
            str_clear(&got);
        }
        n++;
    }
    cr_assert_gt(n, 20);
}

static void check_golden(const char *name)
{
    cJSON *golden = read_golden(name);
    char *json = cJSON_PrintUnformatted(cJSON_GetObjectItem(golden, "tokenizer"));
    struct tokenizer *t = parse(json, NULL);
    check_encodings(name, t, golden);
    check_decodings(name, t, golden);
    tokenizer_close(&t);
    cr_assert_null(t);
    cJSON_free(json);
    cJSON_Delete(golden);
}

Test(tokenizer, golden_llama3) { check_golden("llama3"); }
Test(tokenizer, golden_ignore_merges) { check_golden("ignore_merges"); }
Test(tokenizer, golden_gpt2) { check_golden("gpt2"); }
Test(tokenizer, golden_llama2) { check_golden("llama2"); }
Test(tokenizer, golden_added_tokens) { check_golden("added"); }

Test(tokenizer, golden_story_llama)
{
    const char *shared = getenv("SG_SHARED");
    char *dir = shared ? path_join(shared, "data/story-llama")
                       : str_dup(SG_SOURCE_DIR "/../shared/data/story-llama");
    if (!file_is_dir(dir)) {
        free(dir);
        cr_skip_test("no data/story-llama in SG_SHARED or ../shared");
    }
    struct tokenizer *t = NULL;
    cr_assert_eq(tokenizer_open(&t, dir), OK, "%s", status_message());
    cJSON *golden = read_golden("story");
    check_encodings("story", t, golden);
    check_decodings("story", t, golden);
    cr_assert_eq(tokenizer_vocab_size(t), 2048);
    cr_assert_eq(tokenizer_bos(t), 1);
    cr_assert_eq(tokenizer_eos(t), 2);
    cr_assert_str_eq(tokenizer_notes(t), "");
    cJSON_Delete(golden);
    tokenizer_close(&t);
    free(dir);
}

Test(tokenizer, repairs_as_python_does)
{
    static const struct {
        const char *bytes;
        size_t n, replaced;
        const char *text;
    } cases[] = {
        {"a\xFFz", 3, 1, "a\uFFFDz"},
        {"\xED\xA0\x80", 3, 3, "\uFFFD\uFFFD\uFFFD"},
        {"\xF0\x9F\x98", 3, 1, "\uFFFD"},
        {"\xF0\x9F\x98x", 4, 1, "\uFFFDx"},
        {"\xC0\x80", 2, 2, "\uFFFD\uFFFD"},
        {"\xE2\x82\xF0\x9F\x98\x80", 6, 1, "\uFFFD\U0001F600"},
        {"\xF4\x90\x80\x80", 4, 4, "\uFFFD\uFFFD\uFFFD\uFFFD"},
        {"\xE0\x80\xAF", 3, 3, "\uFFFD\uFFFD\uFFFD"},
        {"\xEF\xBF\xBD", 3, 0, "\uFFFD"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct str out = {0};
        cr_assert_eq(
            tokenizer_repair(&out, cases[i].bytes, cases[i].n), cases[i].replaced, "case %zu", i);
        cr_assert_str_eq(str_get(&out), cases[i].text, "case %zu", i);
        str_clear(&out);
    }
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp <= 0xDFFF) continue;
        char bytes[4];
        uint32_t back;
        size_t n = utf8_write(cp, bytes);
        cr_assert_eq(utf8_read(bytes, n, &back), n);
        cr_assert_eq(back, cp);
    }
}

/* A tokenizer of a few tokens; the pieces of JSON can be replaced one by one. */
struct tiny {
    const char *version, *added, *normalizer, *pre, *post, *decoder, *model;
};

static const struct tiny tiny_default = {
    "\"1.0\"",
    "[{\"id\":6,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":"
    "false,"
    "\"special\":true}]",
    "null",
    "null",
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"
    ","
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[6],\"tokens\":[\"<s>\"]}}}",
    "{\"type\":\"Fuse\"}",
    "{\"type\":\"BPE\",\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"ab\":3,\"aa\":4,\" "
    "\":5},"
    "\"merges\":[\"a b\",\"a a\"]}",
};

static char *tiny_json(struct tiny t)
{
    return str_format("{\"version\":%s,\"truncation\":null,\"padding\":null,\"added_tokens\":%s,"
                      "\"normalizer\":%s,"
                      "\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":%s,\"model\":%s}",
        t.version, t.added, t.normalizer, t.pre, t.post, t.decoder, t.model);
}

static void expect_ids(
    const struct tokenizer *t, const char *text, bool special, const char *expected)
{
    struct token_list list = {0};
    struct str got = {0};
    cr_assert_eq(
        tokenizer_encode(t, text, strlen(text), special, &list, NULL), OK, "%s", status_message());
    for (size_t i = 0; i < list.n; i++) str_addf(&got, "%s%d", i ? " " : "", list.ids[i]);
    cr_assert_str_eq(str_get(&got), expected, "of \"%s\"", text);
    str_clear(&got);
    token_list_clear(&list);
}

Test(tokenizer, special_tokens_of_the_config)
{
    struct tiny no_post = tiny_default;
    no_post.post = "null";
    char *with = tiny_json(tiny_default), *without = tiny_json(no_post);

    struct tokenizer *t = parse(with, NULL);
    cr_assert_eq(tokenizer_bos(t), 6);
    cr_assert_eq(tokenizer_eos(t), -1);
    cr_assert_eq(tokenizer_vocab_size(t), 7);
    cr_assert_eq(tokenizer_find(t, "ab"), 3);
    cr_assert_eq(tokenizer_find(t, "zz"), -1);
    expect_ids(t, "aab<s>b", true, "6 1 3 6 2");
    expect_ids(t, "aab<s>b", false, "1 3 6 2");
    char *fingerprint = str_dup(tokenizer_fingerprint(t));
    cr_assert_eq(strlen(fingerprint), 32);
    tokenizer_close(&t);

    t = parse(
        with, "{\"bos_token\":null,\"eos_token\":{\"content\":\"<s>\"},\"add_bos_token\":false}");
    cr_assert_eq(tokenizer_bos(t), -1);
    cr_assert_eq(tokenizer_eos(t), 6);
    expect_ids(t, "a", true, "6 1"); /* the post-processor decides */
    cr_assert_str_neq(tokenizer_fingerprint(t), fingerprint);
    tokenizer_close(&t);

    t = parse(without,
        "{\"bos_token\":\"<s>\",\"eos_token\":\"ab\",\"add_bos_token\":true,\"add_eos_token\":"
        "true}");
    expect_ids(t, "a", true, "6 1 3");
    expect_ids(t, "", true, "6 3");
    tokenizer_close(&t);

    t = parse(without, "{\"bos_token\":\"<none>\",\"add_bos_token\":true}");
    expect_ids(t, "a", true, "1");
    cr_assert(strstr(tokenizer_notes(t), "<none>"));
    tokenizer_close(&t);
    free(fingerprint);
    free(with);
    free(without);
}

Test(tokenizer, finds_tokens_of_a_place)
{
    char *json = tiny_json(tiny_default);
    struct tokenizer *t = parse(json, NULL);
    struct token_list l = {0};
    cr_assert_eq(tokenizer_encode(t, "ab aab b", 8, true, &l, NULL),
        OK); /* <s> ab _ a ab _ b at 0 0 2 3 4 6 7 */
    cr_assert_eq(l.n, 7);
    static const size_t at[] = {1, 1, 2, 3, 4, 4, 5, 6, 6};
    for (uint32_t i = 0; i < 9; i++) cr_assert_eq(token_list_find(&l, 1, i), at[i], "place %u", i);
    l.n = 1;
    cr_assert_eq(token_list_find(&l, 1, 0), 1);
    token_list_clear(&l);
    tokenizer_close(&t);
    free(json);
}

static void expect_decoded(const struct tokenizer *t, int32_t id, const char *expected)
{
    struct str out = {0};
    cr_assert_eq(tokenizer_decode(t, &id, 1, true, &out), OK);
    cr_assert_str_eq(str_get(&out), expected);
    str_clear(&out);
}

Test(tokenizer, ids_without_token)
{
    char *json = tiny_json(tiny_default);
    struct tokenizer *t = parse(json, NULL);
    expect_decoded(t, 3, "ab");
    expect_decoded(t, 6, "");
    expect_decoded(t, 7, "");
    expect_decoded(t, INT32_MAX, "");
    struct str out = {0};
    int32_t negative = -1;
    cr_assert_eq(tokenizer_decode(t, &negative, 1, true, &out), ERR_ARG);
    size_t len = 0;
    cr_assert_null(tokenizer_token(t, 7, &len));
    cr_assert_null(tokenizer_token(t, -1, &len));
    cr_assert_not_null(tokenizer_token(t, 6, &len));
    cr_assert_eq(len, 3);
    str_clear(&out);
    tokenizer_close(&t);
    free(json);
}

/* a, aa, aaaa, …: every merge of a long run touches its neighbours, the worst case for the heap. */
Test(tokenizer, long_words_in_time)
{
    struct str vocab = {0}, merges = {0}, text = {0};
    str_add(&vocab, "\"b\":0,\"a\":1");
    struct str run = {0};
    str_add(&run, "a");
    for (int id = 2; id <= 9; id++) {
        str_addf(&merges, "%s[\"%s\",\"%s\"]", id > 2 ? "," : "", run.data, run.data);
        struct str twice = {0};
        str_addf(&twice, "%s%s", run.data, run.data);
        str_clear(&run);
        run = twice;
        str_addf(&vocab, ",\"%s\":%d", run.data, id);
    }
    struct tiny tiny = tiny_default;
    tiny.added = "[]";
    tiny.post = "null";
    char *model =
        str_format("{\"type\":\"BPE\",\"vocab\":{%s},\"merges\":[%s]}", vocab.data, merges.data);
    tiny.model = model;
    char *json = tiny_json(tiny);
    struct tokenizer *t = parse(json, NULL);
    for (int i = 0; i < 1 << 20; i++) str_add_char(&text, 'a');
    str_add(&text, "aaab");
    struct token_list list = {0};
    clock_t begin = clock(); /* of this process: others may be in its way */
    cr_assert_eq(
        tokenizer_encode(t, text.data, text.len, true, &list, NULL), OK, "%s", status_message());
    double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    cr_assert_eq(list.n, (1 << 12) + 3); /* 4096 times 256 a, then aa, a, b */
    cr_assert(
        list.ids[0] == 9 && list.ids[4095] == 9 && list.ids[4096] == 2 && list.ids[4098] == 0);
    cr_assert_eq(list.begin[4096], 1u << 20);
    /* 0.2 s in a release build; quadratic work takes hours */
    cr_assert_lt(seconds, 20.0, "%.2f s", seconds);
    token_list_clear(&list);
    str_clear(&run);
    str_clear(&vocab);
    str_clear(&merges);
    str_clear(&text);
    free(model);
    free(json);
    tokenizer_close(&t);
}

struct job {
    const struct tokenizer *t;
    const struct str *text;
    struct token_list list;
};

static void *encode_job(void *user)
{
    struct job *job = user;
    for (int i = 0; i < 3; i++) {
        job->list.n = 0;
        if (tokenizer_encode(job->t, job->text->data, job->text->len, true, &job->list, NULL) != OK)
            job->list.n = 0;
    }
    return NULL;
}

Test(tokenizer, threads_agree)
{
    cJSON *golden = read_golden("llama3"), *texts = read_golden("texts"), *hex;
    char *json = cJSON_PrintUnformatted(cJSON_GetObjectItem(golden, "tokenizer"));
    struct tokenizer *t = parse(json, NULL);
    struct str all = {0};
    cJSON_ArrayForEach(hex, texts)
    {
        struct str one = from_hex(hex->valuestring);
        str_add_bytes(&all, one.data, one.len);
        str_clear(&one);
    }
    struct job jobs[4] = {0};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        jobs[i] = (struct job){.t = t, .text = &all};
        cr_assert_eq(pthread_create(&threads[i], NULL, encode_job, &jobs[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    cr_assert_gt(jobs[0].list.n, 1000);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(jobs[i].list.n, jobs[0].list.n);
        cr_assert_eq(
            memcmp(jobs[i].list.ids, jobs[0].list.ids, jobs[0].list.n * sizeof(int32_t)), 0);
        if (i > 0) token_list_clear(&jobs[i].list);
    }
    token_list_clear(&jobs[0].list);
    str_clear(&all);
    cJSON_free(json);
    tokenizer_close(&t);
    cJSON_Delete(golden);
    cJSON_Delete(texts);
}

static void expect_refusal(struct tiny tiny, enum status expected, const char *words)
{
    char *json = tiny_json(tiny);
    struct tokenizer *t = NULL;
    enum status st = tokenizer_parse(&t, "m/tokenizer.json", json, strlen(json), NULL, 0);
    cr_assert_eq(
        st, expected, "%s: %s (%s)", words, status_name(st), st == OK ? "" : status_message());
    cr_assert_null(t);
    cr_assert(strstr(status_message(), words), "\"%s\" lacks \"%s\"", status_message(), words);
    cr_assert(
        strstr(status_message(), "m/tokenizer.json"), "\"%s\" names no file", status_message());
    free(json);
}

#define REFUSE(field, value, status, words)       \
    do {                                          \
        struct tiny tiny_ = tiny_default;         \
        tiny_.field = (value);                    \
        expect_refusal(tiny_, (status), (words)); \
    } while (0)

#define ADDED(id, content)                                                                \
    "[{\"id\":" id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":false," \
    "\"rstrip\":false,\"normalized\":false,\"special\":true}]"
#define SPLIT(regex)                                      \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"

Test(tokenizer, refuses_other_kinds)
{
    REFUSE(version, "\"2.0\"", ERR_UNSUPPORTED, "version");
    REFUSE(model, "{\"type\":\"Unigram\",\"vocab\":[[\"a\",-1]]}", ERR_UNSUPPORTED,
        "model.type: found \"Unigram\"");
    REFUSE(model, "{\"type\":\"WordPiece\",\"vocab\":{\"a\":1}}", ERR_UNSUPPORTED, "WordPiece");
    REFUSE(normalizer, "{\"type\":\"Lowercase\"}", ERR_UNSUPPORTED,
        "normalizer.type: found \"Lowercase\"");
    REFUSE(normalizer,
        "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Nmt\"}]}",
        ERR_UNSUPPORTED, "normalizer.normalizers[1].type: found \"Nmt\"");
    REFUSE(pre, "{\"type\":\"Whitespace\"}", ERR_UNSUPPORTED,
        "pre_tokenizer.type: found \"Whitespace\"");
    REFUSE(pre, SPLIT("a|(?R)"), ERR_UNSUPPORTED, "pre_tokenizer");
    REFUSE(pre, SPLIT("(a)\\\\1"), ERR_UNSUPPORTED, "an escape");
    REFUSE(pre, SPLIT("[a&&b]"), ERR_UNSUPPORTED, "intersection");
    REFUSE(pre, SPLIT("a{2}+"), ERR_UNSUPPORTED, "quantifier");
    REFUSE(pre, SPLIT("(?i:\\\\p{Lu})"), ERR_UNSUPPORTED, "(?i)");
    REFUSE(pre, SPLIT("\\\\p{Greek}"), ERR_UNSUPPORTED, "general category");
    REFUSE(pre, SPLIT("a*"), ERR_UNSUPPORTED, "match nothing");
    REFUSE(pre, SPLIT("a**"), ERR_FORMAT, "cannot be compiled");
    REFUSE(post, "{\"type\":\"BertProcessing\"}", ERR_UNSUPPORTED, "post_processor.type");
    REFUSE(decoder, "{\"type\":\"CTC\"}", ERR_UNSUPPORTED, "decoder.type: found \"CTC\"");
}

Test(tokenizer, refuses_damage)
{
    REFUSE(version, "1", ERR_FORMAT, "version");
    REFUSE(model, "null", ERR_FORMAT, "model: found null");
    REFUSE(model, "{\"type\":\"BPE\",\"vocab\":{\"a\":0}}", ERR_FORMAT, "model.merges");
    REFUSE(model, "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}", ERR_FORMAT,
        "one token per id");
    /* of a key said twice the last counts, so this model has one token */
    REFUSE(model, "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}", ERR_FORMAT,
        "the 1 tokens of the model");
    REFUSE(model, "{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}", ERR_FORMAT, "no id");
    REFUSE(model, "{\"type\":\"BPE\",\"vocab\":{\"a\":1e9},\"merges\":[]}", ERR_FORMAT, "no id");
    REFUSE(model, "{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}", ERR_FORMAT,
        "the whole");
    REFUSE(model, "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}", ERR_FORMAT,
        "merges[0]");
    REFUSE(model, "{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}", ERR_FORMAT,
        "merges[0]");
    REFUSE(model, "{\"type\":\"BPE\",\"unk_token\":\"u\",\"vocab\":{\"a\":0},\"merges\":[]}",
        ERR_FORMAT, "unk_token");
    REFUSE(model, "{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}",
        ERR_UNSUPPORTED, "dropout");
    REFUSE(model, "{\"type\":\"BPE\",\"vocab\":{\"a\\u0000b\":0},\"merges\":[]}", ERR_UNSUPPORTED,
        "u0000");
    REFUSE(model, "{\"type\":\"BPE\",\"vocab\":{\"\xFF\":0},\"merges\":[]}", ERR_FORMAT, "UTF-8");
    REFUSE(model, "{\"type\":\"BPE\",", ERR_FORMAT, "not valid JSON");
    REFUSE(added, ADDED("9", "<s>"), ERR_FORMAT, "found 9 for \"<s>\", expected 6");
    REFUSE(added, ADDED("6", "a"), ERR_FORMAT, "expected 1");
    REFUSE(added, "[{\"id\":6,\"content\":\"<s>\"}]", ERR_FORMAT, "added_tokens[0].single_word");
    REFUSE(added, "[]", ERR_FORMAT, "special_tokens");
    REFUSE(pre, "{\"type\":\"Split\"}", ERR_FORMAT, "pattern");
    REFUSE(pre, "7", ERR_FORMAT, "pre_tokenizer: found a number");
    struct tokenizer *t = NULL;
    cr_assert_eq(tokenizer_open(&t, "/nonexistent"), ERR_IO);
    cr_assert(strstr(status_message(), "/nonexistent/tokenizer.json"));
}

Test(tokenizer, notes_what_it_leaves_out)
{
    static const char json[] =
        "{\"version\":\"1.0\",\"truncation\":{\"max_length\":5},\"model\":{\"type\":\"BPE\","
        "\"vocab\":{\"a\":0},\"merges\":[]}}";
    struct tokenizer *t = parse(json, NULL);
    cr_assert(strstr(tokenizer_notes(t), "truncation"));
    expect_ids(t, "aaaaaaaaaa", true, "0 0 0 0 0 0 0 0 0 0");
    tokenizer_close(&t);
}

/* A pattern that takes for ever must end with a message, and a failed encode must leave the list
 * alone. */
Test(tokenizer, gives_up_on_endless_patterns)
{
    struct tiny tiny = tiny_default;
    tiny.pre = SPLIT("(?:a|a|aa)+[bc]");
    char *json = tiny_json(tiny);
    struct tokenizer *t = parse(json, NULL);
    struct token_list list = {0};
    struct str text = {0};
    cr_assert_eq(token_list_add(&list, 4, 0), OK);
    for (int i = 0; i < 200; i++) str_add_char(&text, 'a');
    cr_assert_eq(tokenizer_encode(t, text.data, text.len, true, &list, NULL), ERR_UNSUPPORTED);
    cr_assert(strstr(status_message(), "pre_tokenizer"), "%s", status_message());
    cr_assert_eq(list.n, 1);
    str_clear(&text);
    token_list_clear(&list);
    tokenizer_close(&t);
    free(json);
}

#include "engine/checkpoint/safetensors.h"

#include "tests/unit/model_files.h"

#include <criterion/criterion.h>

static enum status parse(const char *header, uint64_t length, size_t n_data, struct safetensors *s)
{
    struct str bytes = safetensors_bytes(header, length, n_data);
    /* no byte behind the end, so that sanitizers see */
    uint8_t *exact = malloc(bytes.len ? bytes.len : 1);
    memcpy(exact, bytes.data, bytes.len);
    enum status st = safetensors_parse(s, "m.safetensors", exact, bytes.len);
    if (st != OK) free(exact);
    str_clear(&bytes);
    return st;
}

static void must_refuse(
    const char *header, uint64_t length, size_t n_data, enum status code, const char *says)
{
    struct safetensors s;
    enum status st = parse(header, length, n_data, &s);
    cr_expect_eq(
        st, code, "%s: status %s, expected %s", header, status_name(st), status_name(code));
    if (st == OK) return;
    cr_expect(strstr(status_message(), says), "%s: message \"%s\" lacks \"%s\"", header,
        status_message(), says);
    cr_expect(strstr(status_message(), "m.safetensors"), "message without the file: %s",
        status_message());
    cr_expect_eq(s.n_tensors, 0);
    cr_expect_null(s.files);
}

Test(safetensors, reads_tensors)
{
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[16,28]},"
                         "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
                         "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[28,36]},"
                         "\"empty\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[36,36]},"
                         "\"odd\":{\"dtype\":\"NEW_TYPE\",\"shape\":[3],\"data_offsets\":[36,37]}}";
    struct safetensors s;
    cr_assert_eq(parse(header, strlen(header), 37, &s), OK, "%s", status_message());
    cr_assert_eq(s.n_tensors, 5);
    const struct tensor *a = safetensors_find(&s, "a"), *b = safetensors_find(&s, "b");
    cr_assert(a && b);
    cr_expect(a->is_float && a->dtype == DTYPE_F32 && a->n_dims == 1 && a->shape[0] == 4 &&
        a->bytes == 16);
    cr_expect(b->is_float && b->dtype == DTYPE_BF16 && b->n_dims == 2 && b->shape[1] == 3 &&
        b->bytes == 12);
    cr_expect_eq(a->data[3], 3);
    cr_expect_eq(b->data[0], 16);
    cr_expect_eq(tensor_elements(b), 6);
    char text[32];
    cr_expect_str_eq(tensor_shape_text(b, text, sizeof text), "[2, 3]");
    cr_expect_str_eq(tensor_shape_text(b, text, 4), "[2,");
    const struct tensor *scalar = safetensors_find(&s, "scalar"),
                        *odd = safetensors_find(&s, "odd");
    cr_expect(!scalar->is_float && scalar->n_dims == 0 && tensor_elements(scalar) == 1);
    cr_expect(!odd->is_float && !strcmp(odd->type, "NEW_TYPE"));
    cr_expect_eq(tensor_elements(safetensors_find(&s, "empty")), 0);
    cr_expect_null(safetensors_find(&s, "c"));
    cr_expect_null(safetensors_find(&s, "__metadata__"));
    uint8_t *data = (uint8_t *)a->data - 8 - strlen(header);
    safetensors_close(&s);
    free(data);
}

#define F32_1 "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":"

Test(safetensors, refuses_lying_lengths)
{
    const char *good = "{\"a\":{" F32_1 "[0,4]}}";
    uint64_t n = strlen(good);
    must_refuse(good, n + 5, 4, ERR_FORMAT, "truncated");
    must_refuse(good, UINT64_MAX, 4, ERR_FORMAT, "limit");
    must_refuse(good, 100000001, 4, ERR_FORMAT, "limit");
    must_refuse(good, 0, 4, ERR_FORMAT, "'{'");
    must_refuse(good, n - 1, 4, ERR_FORMAT, "not valid JSON");
    must_refuse(good, n, 3, ERR_FORMAT, "truncated");
    must_refuse(good, n, 0, ERR_FORMAT, "truncated");
    must_refuse(good, n, 5, ERR_FORMAT, "no tensor");
    must_refuse("version https://git-lfs.github.com/spec/v1\n", 0, 0, ERR_FORMAT, "'{'");
}

Test(safetensors, refuses_short_files_and_pointers)
{
    struct safetensors s;
    const char *lfs =
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2471645608\n";
    cr_expect_eq(safetensors_parse(&s, "m", (const uint8_t *)lfs, strlen(lfs)), ERR_FORMAT);
    cr_expect(strstr(status_message(), "git lfs pull"), "%s", status_message());
    cr_expect_eq(safetensors_parse(&s, "m", NULL, 0), ERR_FORMAT);
    cr_expect_eq(safetensors_parse(&s, "m", (const uint8_t *)lfs, 7), ERR_FORMAT);
    cr_expect(strstr(status_message(), "too short"), "%s", status_message());
}

Test(safetensors, refuses_lying_headers)
{
    static const struct {
        const char *header;
        size_t n_data;
        const char *says;
    } cases[] = {
        {"{\"a\":{" F32_1 "[0,8]}}", 8, "span 8 bytes"},
        {"{\"a\":{" F32_1 "[4,0]}}", 8, "data_offsets"},
        {"{\"a\":{" F32_1 "[0]}}", 4, "data_offsets"},
        {"{\"a\":{" F32_1 "[0,4,8]}}", 8, "data_offsets"},
        {"{\"a\":{" F32_1 "[-4,0]}}", 4, "data_offsets"},
        {"{\"a\":{" F32_1 "[0,4.5]}}", 8, "data_offsets"},
        {"{\"a\":{" F32_1 "[1e300,1e301]}}", 8, "data_offsets"},
        {"{\"a\":{" F32_1 "[9007199254740988,9007199254740992]}}", 8, "truncated"},
        {"{\"a\":{" F32_1 "\"0,4\"}}", 4, "data_offsets"},
        {"{\"a\":{" F32_1 "[0,4]},\"b\":{" F32_1 "[0,4]}}", 4, "inside tensor"},
        {"{\"a\":{" F32_1 "[0,4]},\"b\":{" F32_1 "[2,6]}}", 6, "inside tensor"},
        {"{\"a\":{" F32_1 "[0,4]},\"b\":{" F32_1 "[8,12]}}", 12, "no tensor"},
        {"{\"a\":{" F32_1 "[4,8]}}", 8, "no tensor"},
        {"{\"a\":{" F32_1 "[0,4]},\"a\":{" F32_1 "[4,8]}}", 8, "twice"},
        {"{}", 4, "no tensor"},
        {"{\"a\":7}", 4, "expected an object"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "field dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "field shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "field shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,6]}}", 6, "field shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
            "elements"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0,
            "field shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4503599627370496,2048],\"data_offsets\":[0,0]}}", 0,
            "elements"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4503599627370496,512],\"data_offsets\":[0,0]}}", 0,
            "span 0"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "span 1"},
        {"{\"a\":{" F32_1 "[0,4]}", 4, "not valid JSON"},
        {"{\"a\":{" F32_1 "[0,4]}} x", 4, "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        must_refuse(
            cases[i].header, strlen(cases[i].header), cases[i].n_data, ERR_FORMAT, cases[i].says);
    const char *deep =
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}";
    must_refuse(deep, strlen(deep), 4, ERR_UNSUPPORTED, "dimensions");
}

Test(safetensors, every_truncation_is_refused)
{
    struct str whole = file_get(GOLDEN_MODELS "/dynamic_tied_head", "model.safetensors");
    size_t header = 8 + (uint8_t)whole.data[0] + 256u * (uint8_t)whole.data[1];
    for (size_t n = 0; n < whole.len; n += n < header + 64 ? 1 : 997) {
        uint8_t *part = malloc(n ? n : 1);
        memcpy(part, whole.data, n);
        struct safetensors s;
        cr_assert_eq(safetensors_parse(&s, "m", part, n), ERR_FORMAT, "%zu bytes were accepted", n);
        free(part);
    }
    str_clear(&whole);
}

Test(safetensors, alignment)
{
    const char *header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                         "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,5]},"
                         "\"c\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[5,7]}}";
    struct str bytes = safetensors_bytes(header, strlen(header), 7);
    uint8_t *room = malloc(bytes.len + 8);
    for (size_t shift = 0; shift < 4; shift++) {
        memcpy(room + shift, bytes.data, bytes.len);
        struct safetensors s;
        cr_assert_eq(
            safetensors_parse(&s, "m", room + shift, bytes.len), OK, "%s", status_message());
        size_t at = shift + 8 + strlen(header);
        cr_expect_eq(tensor_aligned(safetensors_find(&s, "a")), at % 4 == 0);
        cr_expect(tensor_aligned(safetensors_find(&s, "b")));
        cr_expect_eq(tensor_aligned(safetensors_find(&s, "c")), (at + 5) % 2 == 0);
        safetensors_close(&s);
    }
    free(room);
    str_clear(&bytes);
}

static void must_not_open(const char *dir, enum status code, const char *says)
{
    struct safetensors s;
    enum status st = safetensors_open(&s, dir);
    cr_expect_eq(st, code, "status %s, expected %s", status_name(st), status_name(code));
    cr_expect(
        strstr(status_message(), says), "message \"%s\" lacks \"%s\"", status_message(), says);
    if (st == OK) safetensors_close(&s);
}

#define SHARD_2 "model-00002-of-00003.safetensors"
#define SHARD_3 "model-00003-of-00003.safetensors"
#define INDEX "model.safetensors.index.json"

Test(safetensors, shards)
{
    char *dir = golden_copy("sharded_bf16");
    struct safetensors s;
    cr_assert_eq(safetensors_open(&s, dir), OK, "%s", status_message());
    cr_expect_eq(s.n_files, 3);
    cr_expect_eq(s.n_absent, 0);
    for (size_t i = 1; i < s.n_tensors; i++)
        cr_expect(strcmp(s.tensors[i - 1].name, s.tensors[i].name) < 0);
    size_t n = s.n_tensors;
    safetensors_close(&s);

    file_edit(dir, INDEX, "\"lm_head.weight\": ", "\"ghost.weight\": ");
    cr_assert_eq(safetensors_open(&s, dir), OK, "%s", status_message());
    cr_expect_eq(s.n_tensors, n,
        "what the index leaves out is in the shards all the same, as for transformers");
    cr_expect(safetensors_find(&s, "lm_head.weight") && !safetensors_find(&s, "ghost.weight"));
    cr_expect_eq(s.n_absent, 1);
    cr_expect_str_eq(safetensors_absent(&s, "ghost.weight"), "model-00001-of-00003.safetensors");
    cr_expect_null(safetensors_absent(&s, "lm_head.weight"));
    safetensors_close(&s);

    char *path = path_join(dir, SHARD_2);
    cr_assert_eq(remove(path), 0);
    free(path);
    must_not_open(dir, ERR_IO, "1 of its 3 shards are missing");
    must_not_open(dir, ERR_IO, SHARD_2);
    path = path_join(dir, SHARD_3);
    cr_assert_eq(truncate(path, 5000), 0);
    text_put(dir, SHARD_2, "");
    free(path);
    must_not_open(dir, ERR_FORMAT, "too short");
    dir_remove(dir);
}

Test(safetensors, index_may_not_leave_its_directory)
{
    char *dir = dir_make();
    text_put(dir, INDEX, "{\"weight_map\":{\"a\":\"../../etc/passwd\"}}");
    must_not_open(dir, ERR_FORMAT, "beside the index");
    text_put(dir, INDEX, "{\"weight_map\":{\"a\":\"..\"}}");
    must_not_open(dir, ERR_FORMAT, "beside the index");
    text_put(dir, INDEX, "{\"weight_map\":{\"a\":3}}");
    must_not_open(dir, ERR_FORMAT, "a number");
    text_put(dir, INDEX, "{\"weight_map\":{}}");
    must_not_open(dir, ERR_FORMAT, "empty");
    text_put(dir, INDEX, "{\"weight_map\":[]}");
    must_not_open(dir, ERR_FORMAT, "weight_map");
    text_put(dir, INDEX, "[");
    must_not_open(dir, ERR_FORMAT, "JSON");
    dir_remove(dir);
}

Test(safetensors, a_tensor_in_two_shards)
{
    char *dir = dir_make();
    struct safetensors s;
    text_put(dir, INDEX, "{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}");
    must_not_open(dir, ERR_IO, "are missing"); /* y: of a key said twice the last counts */
    const char *header = "{\"a\":{" F32_1 "[0,4]}}";
    struct str bytes = safetensors_bytes(header, strlen(header), 4);
    file_put(dir, "x", bytes.data, bytes.len);
    file_put(dir, "y", bytes.data, bytes.len);
    text_put(dir, INDEX, "{\"weight_map\":{\"a\":\"y\",\"b\":\"x\"}}");
    cr_assert_eq(safetensors_open(&s, dir), OK, "%s", status_message());
    cr_expect(s.n_tensors == 1 && str_ends_with(s.tensors[0].file, "/y"),
        "the copy where the index says");
    safetensors_close(&s);
    text_put(dir, INDEX, "{\"weight_map\":{\"c\":\"y\",\"b\":\"x\"}}");
    must_not_open(dir, ERR_FORMAT, "found in");
    str_clear(&bytes);
    dir_remove(dir);
}

Test(safetensors, says_what_else_is_there)
{
    char *dir = dir_make();
    must_not_open(dir, ERR_IO, "found no model.safetensors");
    text_put(dir, "pytorch_model.bin", "x");
    must_not_open(dir, ERR_UNSUPPORTED, "pytorch_model.bin");
    dir_remove(dir);
    must_not_open("/nonexistent-model", ERR_IO, "no such directory");
}

#include "engine/sparge_pt.h"
#include "engine/torch_pickle.h"
#include "engine/torch_zip.h"

#include "tests/model_files.h"

#include <criterion/criterion.h>
#include <math.h>

enum { LAYERS = 4, HEADS = 3 }; /* of the golden files */

static char *golden(const char *name) { return str_format(TESTS_DIR "/golden/sparge_%s.pt", name); }

/* make_sparge_pt.py's VALUES: θ, τ, λ, sparse; layers 1 and 3. */
static const float expected[2][HEADS][4] = {
    {{-.9375f, .96875f, 4.5f, 1}, {1, 1, 49.75f, 0}, {.3125f, .875f, 20, 1}},
    {{-1, .5f, .25f, 1}, {.0625f, .25f, 50, 1}, {.5f, .9375f, 12, 1}},
};

static void must_hold_values(const struct tuned *t, const char *file)
{
    cr_expect_eq(t->n_layers, LAYERS);
    cr_expect_eq(t->n_heads, HEADS);
    cr_expect_str_eq(t->method, "sparge");
    cr_expect(t->block.q == 128 && t->block.k == 64 && t->smooth_k == SMOOTH_K_GLOBAL, "%s", file);
    cr_expect_str_eq(t->model_fingerprint, "");
    cr_expect_str_eq(t->layers, "1+3");
    for (int l = 0; l < LAYERS; l++)
        for (int h = 0; h < HEADS; h++) {
            const struct tuned_head *x = &t->heads[l * HEADS + h];
            cr_expect_eq(x->in_range, l % 2 == 1, "%s: layer %d", file, l);
            cr_expect(isnan(x->tune.l1) && isnan(x->held_out.tail) && isnan(x->sparsity), "%s", file);
            if (l % 2 == 0) continue;
            const float *v = expected[l / 2][h];
            cr_expect(x->params.simthreshd1 == v[0] && x->params.cdfthreshd == v[1] && x->params.pvthreshd == v[2] &&
                          x->params.is_sparse == (v[3] != 0), "%s: layer %d, head %d: %g %g %g %d", file, l, h,
                      (double)x->params.simthreshd1, (double)x->params.cdfthreshd, (double)x->params.pvthreshd,
                      x->params.is_sparse);
            cr_expect_eq(*x->reason != 0, !x->params.is_sparse);
        }
}

Test(sparge_pt, reads_what_torch_saves)
{
    static const char *const names[] = {"plain", "ordered", "parameters", "mixed", "bf16", "strided", "cuda", "proto4",
                                        "blocks", "old"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tuned t;
        char *path = golden(names[i]);
        enum status st = sparge_pt_read(&t, path, LAYERS, HEADS);
        cr_expect_eq(st, OK, "%s: %s", names[i], status_message());
        if (st == OK) must_hold_values(&t, names[i]);
        tuned_clear(&t);
        free(path);
    }
}

static void must_refuse(const char *path, int n_layers, int n_heads, enum status code, const char *const *says)
{
    struct tuned t;
    enum status st = sparge_pt_read(&t, path, n_layers, n_heads);
    cr_expect_eq(st, code, "%s: %s, expected %s (%s)", path, status_name(st), status_name(code), status_message());
    cr_expect(strstr(status_message(), path), "message without the file: %s", status_message());
    for (; *says; says++) cr_expect(strstr(status_message(), *says), "\"%s\" lacks \"%s\"", status_message(), *says);
    cr_expect_null(t.heads);
    tuned_clear(&t);
}

#define SAYS(...) ((const char *const[]){__VA_ARGS__, NULL})

Test(sparge_pt, refuses_bad_files)
{
    static const struct {
        const char *name;
        enum status code;
        const char *says[4];
    } bad[] = {
        {"deflate", ERR_UNSUPPORTED, {"method", "found 8 (deflate)", "expected 0 (stored)"}},
        {"legacy", ERR_UNSUPPORTED, {"before torch 1.6", "save it again"}},
        {"dangerous", ERR_UNSUPPORTED, {"posix.system", "distrust"}},
        {"nan", ERR_NUMERIC, {"model.layers.1.self_attn.sparse_attn.cdfthreshd", "head 1", "nan"}},
        {"range", ERR_FORMAT, {"pvthreshd", "head 2", "found 50.5, expected 0 to 50"}},
        {"missing", ERR_FORMAT, {"model.layers.1.self_attn.sparse_attn.pvthreshd", "found nothing"}},
        {"other", ERR_FORMAT, {"model.embed_tokens.weight", "extract_sparse_attention_state_dict"}},
        {"list", ERR_UNSUPPORTED, {"found a list", "expected a dictionary"}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *path = golden(bad[i].name);
        must_refuse(path, LAYERS, HEADS, bad[i].code, bad[i].says);
        free(path);
    }
}

Test(sparge_pt, refuses_another_model)
{
    char *path = golden("plain");
    must_refuse(path, 3, HEADS, ERR_FORMAT, SAYS("model.layers.3.self_attn.sparse_attn", "found layer 3, expected 0 to 2"));
    must_refuse(path, LAYERS, 4, ERR_FORMAT, SAYS("found shape [3], expected [4]"));
    must_refuse(path, 0, HEADS, ERR_ARG, SAYS("0 layers"));
    free(path);
    must_refuse("/tmp/sg-there-is-no-such-file.pt", LAYERS, HEADS, ERR_IO, SAYS("cannot open"));
}

/* From memory of just that length, so that a sanitizer sees a step too far. */
static enum status read_bytes(struct tuned *t, const char *data, size_t size)
{
    struct torch_file f;
    char *exact = malloc(size ? size : 1);
    memcpy(exact, data, size);
    *t = (struct tuned){0};
    enum status st = torch_file_parse(&f, "x.pt", exact, size);
    if (st == OK) st = sparge_pt_from(t, &f, "x.pt", LAYERS, HEADS);
    torch_file_close(&f);
    free(exact);
    return st;
}

Test(sparge_pt, finds_every_damage)
{
    char *path = golden("plain");
    struct str whole = {0};
    struct tuned t;
    cr_assert_eq(file_read(&whole, path), OK);
    free(path);
    size_t n_same = 0;
    for (size_t i = 0; i < whole.len; i++) { /* one bit flipped: refused, or it was padding or a time */
        whole.data[i] ^= 1;
        if (read_bytes(&t, whole.data, whole.len) == OK) {
            must_hold_values(&t, "flipped");
            n_same++;
        }
        tuned_clear(&t);
        whole.data[i] ^= 1;
    }
    cr_expect(n_same < whole.len * 3 / 4, "%zu of %zu bytes are never looked at", n_same, whole.len);
    for (size_t n = 0; n < whole.len; n++) {
        cr_expect_eq(read_bytes(&t, whole.data, n), ERR_FORMAT, "%zu bytes", n);
        cr_expect(strstr(status_message(), "x.pt"), "%s", status_message());
        tuned_clear(&t);
    }
    str_clear(&whole);
}

static void tuned_example(struct tuned *t)
{
    cr_assert_eq(tuned_init(t, LAYERS, HEADS), OK);
    snprintf(t->method, sizeof t->method, "sparge");
    t->block = (struct block_shape){128, 64};
    t->smooth_k = SMOOTH_K_GLOBAL;
    for (int l = 1; l < LAYERS; l += 2)
        for (int h = 0; h < HEADS; h++) {
            const float *v = expected[l / 2][h];
            t->heads[l * HEADS + h].in_range = true;
            t->heads[l * HEADS + h].params = (struct head_params){v[0], v[1], v[2], v[3] != 0};
        }
}

Test(sparge_pt, writes_and_reads_back)
{
    struct tuned t, back;
    tuned_example(&t);
    t.heads[1 * HEADS + 2].params.simthreshd1 = .6f; /* no short binary fraction */
    t.heads[3 * HEADS + 1].in_range = false;         /* in a written layer, but not tuned */
    char *dir = dir_make(), *path = path_join(dir, "x.pt"), *again = path_join(dir, "y.pt");
    cr_assert_eq(sparge_pt_write(&t, path), OK, "%s", status_message());
    cr_assert_eq(sparge_pt_read(&back, path, LAYERS, HEADS), OK, "%s", status_message());
    cr_expect_str_eq(back.layers, "1+3");
    for (int i = 0; i < LAYERS * HEADS; i++) {
        const struct tuned_head *a = &t.heads[i], *b = &back.heads[i];
        bool sparse = a->in_range && a->params.is_sparse;
        cr_expect_eq(b->in_range, i / HEADS % 2 == 1);
        if (!b->in_range) continue;
        cr_expect_eq(b->params.is_sparse, sparse);
        cr_expect_eq(b->params.simthreshd1, sparse ? a->params.simthreshd1 : 1.f);
        cr_expect_eq(b->params.cdfthreshd, sparse ? a->params.cdfthreshd : 1.f);
        cr_expect_eq(b->params.pvthreshd, sparse ? a->params.pvthreshd : 50.f);
    }
    cr_assert_eq(sparge_pt_write(&back, again), OK);
    struct str x = {0}, y = {0};
    cr_assert(file_read(&x, path) == OK && file_read(&y, again) == OK);
    cr_expect(x.len == y.len && memcmp(x.data, y.data, x.len) == 0, "a file read and written again differs");
    str_clear(&x);
    str_clear(&y);
    tuned_clear(&t);
    tuned_clear(&back);
    free(path);
    free(again);
    dir_remove(dir);
}

Test(sparge_pt, writes_under_any_module)
{
    struct tuned t, back;
    struct torch_file f;
    tuned_example(&t);
    char *dir = dir_make(), *path = path_join(dir, "x.pt");
    cr_assert_eq(sparge_pt_write_as(&t, path, "model.model.layers.%d.self_attn"), OK, "%s", status_message());
    cr_assert_eq(torch_file_open(&f, path), OK, "%s", status_message());
    cr_expect_eq(f.n_tensors, 10);
    cr_expect_not_null(torch_file_find(&f, "model.model.layers.3.self_attn.simthreshd2"));
    cr_expect_null(torch_file_find(&f, "model.model.layers.2.self_attn.simthreshd2"));
    torch_file_close(&f);
    cr_expect_eq(sparge_pt_read(&back, path, LAYERS, HEADS), OK, "%s", status_message());
    tuned_clear(&back);
    static const char *const bad[] = {"model.layers.self_attn", "model.%d.layers.%d", "model.layers.%s", "%d%%", "a.%dx",
                                      "layers.%d.blocks.4", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(sparge_pt_write_as(&t, path, bad[i]), ERR_ARG, "%s", bad[i]);
        cr_expect(strstr(status_message(), "expected one %d"), "%s", status_message());
    }
    tuned_clear(&t);
    free(path);
    dir_remove(dir);
}

Test(sparge_pt, refuses_to_write_nonsense)
{
    struct tuned t;
    tuned_example(&t);
    char *dir = dir_make(), *path = path_join(dir, "x.pt");
    float *lambda = &t.heads[3 * HEADS].params.pvthreshd;
    const float bad[] = {NAN, -1, 51};
    for (int i = 0; i < 3; i++) {
        *lambda = bad[i];
        cr_expect_eq(sparge_pt_write(&t, path), ERR_ARG);
        cr_expect(strstr(status_message(), "layer 3, head 0: pvthreshd"), "%s", status_message());
    }
    *lambda = 20;
    snprintf(t.method, sizeof t.method, "window");
    cr_expect_eq(sparge_pt_write(&t, path), ERR_ARG);
    cr_expect(strstr(status_message(), "found \"window\", expected \"sparge\""), "%s", status_message());
    snprintf(t.method, sizeof t.method, "sparge");
    for (int i = 0; i < LAYERS * HEADS; i++) t.heads[i].in_range = false;
    cr_expect_eq(sparge_pt_write(&t, path), ERR_ARG);
    cr_expect(strstr(status_message(), "no layer"), "%s", status_message());
    cr_expect(!file_exists(path), "a refused write left a file");
    tuned_clear(&t);
    free(path);
    dir_remove(dir);
}

Test(sparge_pt, names_what_differs_there)
{
    struct tuned t = {.block = {128, 64}, .smooth_k = SMOOTH_K_GLOBAL};
    struct str s = {0};
    sparge_pt_caveats(&t, &s);
    cr_expect_str_eq(str_get(&s), "");
    t.block.q = 64;
    t.smooth_k = SMOOTH_K_RUNNING;
    sparge_pt_caveats(&t, &s);
    cr_expect(strstr(str_get(&s), "64x64") && strstr(str_get(&s), "running"), "%s", str_get(&s));
    str_clear(&s);
}

/* torch itself must read what we write. */
Test(sparge_pt, torch_loads_what_we_write)
{
    if (system("python3 -c 'import torch' >/dev/null 2>&1") != 0) cr_skip_test("torch is not installed");
    struct tuned t;
    tuned_example(&t);
    char *dir = dir_make(), *path = path_join(dir, "x.pt");
    cr_assert_eq(sparge_pt_write(&t, path), OK, "%s", status_message());
    char *command = str_format("python3 %s/golden/make_sparge_pt.py --show %s", TESTS_DIR, path);
    FILE *pipe = popen(command, "r");
    cr_assert(pipe);
    struct str shown = {0};
    char line[512];
    while (fgets(line, sizeof line, pipe)) str_add(&shown, line);
    cr_expect_eq(pclose(pipe), 0);
    cr_expect_str_eq(str_get(&shown),
                     "model.layers.1.self_attn.sparse_attn.is_sparse torch.bool [3] [1] cpu 1 0 1\n"
                     "model.layers.1.self_attn.sparse_attn.cdfthreshd torch.float32 [3] [1] cpu 0.96875 1 0.875\n"
                     "model.layers.1.self_attn.sparse_attn.simthreshd1 torch.float32 [3] [1] cpu -0.9375 1 0.3125\n"
                     "model.layers.1.self_attn.sparse_attn.simthreshd2 torch.float32 [3] [1] cpu 0 0 0\n"
                     "model.layers.1.self_attn.sparse_attn.pvthreshd torch.float32 [3] [1] cpu 4.5 50 20\n"
                     "model.layers.3.self_attn.sparse_attn.is_sparse torch.bool [3] [1] cpu 1 1 1\n"
                     "model.layers.3.self_attn.sparse_attn.cdfthreshd torch.float32 [3] [1] cpu 0.5 0.25 0.9375\n"
                     "model.layers.3.self_attn.sparse_attn.simthreshd1 torch.float32 [3] [1] cpu -1 0.0625 0.5\n"
                     "model.layers.3.self_attn.sparse_attn.simthreshd2 torch.float32 [3] [1] cpu 0 0 0\n"
                     "model.layers.3.self_attn.sparse_attn.pvthreshd torch.float32 [3] [1] cpu 0.25 50 12\n");
    str_clear(&shown);
    free(command);
    free(path);
    dir_remove(dir);
    tuned_clear(&t);
}

Test(torch_file, tensors_of_every_type)
{
    static const uint16_t halves[] = {0x3c00, 0xc000, 0x0001, 0x7c00, 0x03ff, 0x7bff};
    static const int64_t longs[] = {-1, INT64_C(1) << 40};
    static const double doubles[] = {.1, -1e300};
    struct torch_tensor in[] = {
        {.key = "half", .type = TORCH_FLOAT16, .n_dims = 1, .shape = {6}, .stride = {1}, .storage = (const uint8_t *)halves},
        {.key = "bf", .type = TORCH_BFLOAT16, .n_dims = 1, .shape = {2}, .stride = {1}, .storage = (const uint8_t *)halves},
        {.key = "long", .type = TORCH_INT64, .n_dims = 2, .shape = {1, 2}, .stride = {2, 1}, .storage = (const uint8_t *)longs},
        {.key = "double", .type = TORCH_FLOAT64, .n_dims = 1, .shape = {2}, .stride = {1}, .storage = (const uint8_t *)doubles},
        {.key = "int8", .type = TORCH_INT8, .n_dims = 0, .offset = 1, .storage = (const uint8_t *)"\x01\xfe"},
        {.key = "swapped", .type = TORCH_INT16, .n_dims = 2, .shape = {2, 3}, .stride = {1, 2}, .storage = (const uint8_t *)halves},
        {.key = "empty", .type = TORCH_INT32, .n_dims = 2, .shape = {0, 3}, .stride = {3, 1}, .storage = (const uint8_t *)""},
    };
    char *dir = dir_make(), *path = path_join(dir, "x.pt"), shape[16];
    struct torch_file f;
    cr_assert_eq(torch_file_write(path, in, sizeof in / sizeof *in), OK, "%s", status_message());
    cr_assert_eq(torch_file_open(&f, path), OK, "%s", status_message());
    cr_assert_eq(f.n_tensors, 7);
    const struct torch_tensor *half = torch_file_find(&f, "half"), *swapped = torch_file_find(&f, "swapped");
    const double is[] = {1, -2, 0x1p-24, INFINITY, 1023 * 0x1p-24, 65504};
    for (int i = 0; i < 6; i++) cr_expect_eq(torch_tensor_at(half, i), is[i], "%d", i);
    cr_expect_eq(torch_tensor_at(torch_file_find(&f, "bf"), 1), -2);
    cr_expect_eq(torch_tensor_at(torch_file_find(&f, "long"), 0), -1);
    cr_expect_eq(torch_tensor_at(torch_file_find(&f, "long"), 1), 0x1p40);
    cr_expect_eq(torch_tensor_at(torch_file_find(&f, "double"), 1), -1e300);
    cr_expect_eq(torch_tensor_at(torch_file_find(&f, "int8"), 0), -2);
    for (int i = 0; i < 6; i++) cr_expect_eq(torch_tensor_at(swapped, i), torch_tensor_at(&in[5], i));
    cr_expect(swapped->stride[0] == 3 && swapped->stride[1] == 1);
    cr_expect_eq(torch_tensor_at(swapped, 1), 1, "row 0, column 1 is the third element of the storage");
    cr_expect_eq(torch_tensor_elements(torch_file_find(&f, "empty")), 0);
    cr_expect_str_eq(torch_tensor_shape_text(swapped, shape, sizeof shape), "[2, 3]");
    cr_expect_null(torch_file_find(&f, "hal"));
    torch_file_close(&f);
    free(path);
    dir_remove(dir);
}

static void must_refuse_pickle(const char *bytes, size_t size, enum status code, const char *says)
{
    struct torch_pickle p;
    uint8_t *exact = malloc(size ? size : 1);
    memcpy(exact, bytes, size);
    enum status st = torch_pickle_read(&p, "x.pt", exact, size);
    cr_expect_eq(st, code, "%s: %s, expected %s", says, status_name(st), status_name(code));
    cr_expect(strstr(status_message(), says), "\"%s\" lacks \"%s\"", status_message(), says);
    cr_expect_null(p.tensors);
    torch_pickle_clear(&p);
    free(exact);
}
#define REFUSE(text, code, says) must_refuse_pickle(text, sizeof text - 1, code, says)

Test(torch_pickle, refuses_everything_but_data)
{
    REFUSE("\x80\x02}cos\nsystem\n.", ERR_UNSUPPORTED, "os.system");
    REFUSE("\x80\x02" "cbuiltins\neval\n(X\x01\0\0\0" "1tR.", ERR_UNSUPPORTED, "builtins.eval");
    REFUSE("\x80\x04\x8c\x02os\x8c\x06system\x93.", ERR_UNSUPPORTED, "os.system");
    REFUSE("\x80\x02" "ctorch\nload\n.", ERR_UNSUPPORTED, "torch.load");
    REFUSE("\x80\x02" "ctorch.FloatStorage\n\n.", ERR_UNSUPPORTED, "torch.FloatStorage.");
    REFUSE("\x80\x02" "c\x1b[2J\nx\n.", ERR_UNSUPPORTED, "wants ?[2J.x");
    REFUSE("\x80\x02(ios\nsystem\n.", ERR_UNSUPPORTED, "INST");
    REFUSE("\x80\x02" "ccollections\nOrderedDict\n)\x81.", ERR_UNSUPPORTED, "NEWOBJ");
    REFUSE("\x80\x02\x82\x01.", ERR_UNSUPPORTED, "EXT1");
    REFUSE("\x80\x02P0\n.", ERR_UNSUPPORTED, "PERSID");
    REFUSE("\x80\x02}}b.", ERR_UNSUPPORTED, "sets the state of a dictionary");
    REFUSE("\x80\x02" "ccollections\nOrderedDict\n]b.", ERR_UNSUPPORTED, "state of a class or function");
    REFUSE("\x80\x02" "ctorch\nFloatStorage\n)R.", ERR_FORMAT, "a call of a storage type");
    REFUSE("\x80\x02})R.", ERR_FORMAT, "call: found a dictionary");
    REFUSE("\x80\x02" "ccollections\nOrderedDict\n(K\1tR.", ERR_FORMAT, "OrderedDict made from arguments");
    REFUSE("\x80\x01}.", ERR_UNSUPPORTED, "protocol: found 1");
}

Test(torch_pickle, refuses_broken_programs)
{
    REFUSE("", ERR_FORMAT, "ends in the middle");
    REFUSE("\x80", ERR_FORMAT, "ends in the middle");
    REFUSE("\x80\x02}", ERR_FORMAT, "ends in the middle");
    REFUSE("\x80\x02.", ERR_FORMAT, "several values or none");
    REFUSE("\x80\x02}}.", ERR_FORMAT, "several values or none");
    REFUSE("\x80\x02}.}", ERR_FORMAT, "behind the end");
    REFUSE("\x80\x02X\xff\xff\xff\xff" "a.", ERR_FORMAT, "ends in the middle");
    REFUSE("\x80\x02(.", ERR_UNSUPPORTED, "found a mark");
    REFUSE("\x80\x02u.", ERR_FORMAT, "without its mark");
    REFUSE("\x80\x02(u.", ERR_FORMAT, "nothing to work on");
    REFUSE("\x80\x02}(K\x01u.", ERR_FORMAT, "a key without a value");
    REFUSE("\x80\x02}K\1s.", ERR_FORMAT, "nothing to work on");
    REFUSE("\x80\x02](K\1K\1u.", ERR_FORMAT, "found a list, expected a dictionary");
    REFUSE("\x80\x02}(K\1e.", ERR_FORMAT, "found a dictionary, expected a list");
    REFUSE("\x80\x02(\x85.", ERR_FORMAT, "across a mark");
    REFUSE("\x80\x02h\0.", ERR_FORMAT, "never given");
    REFUSE("\x80\x02}r\xff\xff\xff\x7f.", ERR_FORMAT, "beyond the length");
    REFUSE("\x80\x02}q\x05h\x04.", ERR_FORMAT, "never given");
    REFUSE("\x80\x02\x8a\x09" "123456789.", ERR_FORMAT, "more than 64 bits");
    REFUSE("\x80\x02K\1Q.", ERR_FORMAT, "found an integer, expected a tuple");
    REFUSE("\x80\x02" "cos", ERR_FORMAT, "a name without end");
}

/* A dictionary {"k": tensor} whose view is given by its offset and the pickled shape and stride. */
static void must_refuse_view(int offset, const char *shape_stride, size_t size, enum status code, const char *says)
{
    struct str s = {0};
    const char head[] = "\x80\x02}X\1\0\0\0kctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
                        "X\1\0\0\0" "0X\3\0\0\0cpuK\6tQK";
    str_add_bytes(&s, head, sizeof head - 1);
    str_add_char(&s, (char)offset);
    str_add_bytes(&s, shape_stride, size);
    const char tail[] = "\x89}tRs.";
    str_add_bytes(&s, tail, sizeof tail - 1);
    if (code != OK) {
        must_refuse_pickle(s.data, s.len, code, says);
    } else {
        struct torch_pickle p;
        cr_expect_eq(torch_pickle_read(&p, "x.pt", (const uint8_t *)s.data, s.len), OK, "%s", status_message());
        cr_expect_eq(p.n_tensors, 1);
        torch_pickle_clear(&p);
    }
    str_clear(&s);
}
#define VIEW(offset, text, code, says) must_refuse_view(offset, text, sizeof text - 1, code, says)

Test(torch_pickle, keeps_views_inside_their_storage)
{
    VIEW(0, "K\6\x85K\1\x85", OK, "");
    VIEW(3, "K\3\x85K\1\x85", OK, "");
    VIEW(5, "K\x7f\x85K\0\x85", OK, "");
    VIEW(1, "K\2K\2\x86K\4K\1\x86", ERR_FORMAT, "beyond its storage");
    VIEW(0, "K\2K\2\x86K\4K\1\x86", OK, "");
    VIEW(4, "K\3\x85K\1\x85", ERR_FORMAT, "beyond its storage");
    VIEW(6, "K\0\x85K\1\x85", OK, "");
    VIEW(6, "))", ERR_FORMAT, "beyond its storage");
    VIEW(0, "K\2\x85K\1K\1\x86", ERR_FORMAT, "more or fewer strides");
    VIEW(0, "J\xff\xff\xff\xff\x85K\1\x85", ERR_FORMAT, "negative");
    VIEW(0, "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85", ERR_FORMAT, "beyond");
    VIEW(0, "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", ERR_UNSUPPORTED, "9 dimensions");
    VIEW(0, "]]", ERR_FORMAT, "shape: found a list");
    VIEW(0, "N\x85N\x85", ERR_FORMAT, "shape: found None");
}

Test(torch_zip, crc_of_the_standard_text)
{
    cr_expect_eq(torch_zip_crc("123456789", 9), 0xcbf43926u);
    cr_expect_eq(torch_zip_crc("", 0), 0u);
}

static enum status parse_archive(struct torch_zip_writer *w, const char *says)
{
    struct torch_file f;
    cr_assert_eq(torch_zip_finish(w), OK);
    enum status st = torch_file_parse(&f, "x.pt", w->out.data, w->out.len);
    if (st != OK) cr_expect(strstr(status_message(), says), "\"%s\" lacks \"%s\"", status_message(), says);
    torch_file_close(&f);
    torch_zip_writer_clear(w);
    return st;
}

Test(torch_zip, archives_without_what_must_be_there)
{
    struct torch_zip_writer w = {0};
    torch_zip_add(&w, "a/data.pkl", "\x80\x02}.", 4);
    cr_expect_eq(parse_archive(&w, "entry version: found nothing"), ERR_FORMAT);
    torch_zip_add(&w, "a/data.pkl", "\x80\x02}.", 4);
    torch_zip_add(&w, "a/version", "3\n", 2);
    cr_expect_eq(parse_archive(&w, ""), OK, "%s", status_message());
    torch_zip_add(&w, "a/data.pkl", "\x80\x02}.", 4);
    torch_zip_add(&w, "a/version", "11\n", 3);
    cr_expect_eq(parse_archive(&w, "found \"11\", expected 1 to 10"), ERR_UNSUPPORTED);
    torch_zip_add(&w, "a/data.pkl", "\x80\x02}.", 4);
    torch_zip_add(&w, "a/version", "3\n", 2);
    torch_zip_add(&w, "a/byteorder", "big", 3);
    cr_expect_eq(parse_archive(&w, "found \"big\", expected \"little\""), ERR_UNSUPPORTED);
    torch_zip_add(&w, "a/x.pkl", "", 0);
    cr_expect_eq(parse_archive(&w, "FOLDER/data.pkl"), ERR_FORMAT);
    torch_zip_add(&w, "a/data.pkl", "\x80\x02}.", 4);
    torch_zip_add(&w, "b/data.pkl", "\x80\x02}.", 4);
    cr_expect_eq(parse_archive(&w, "two folders"), ERR_FORMAT);
    torch_zip_add(&w, "a/data.pkl", "\x80\x02}.", 4);
    torch_zip_add(&w, "a/data.pkl", "\x80\x02}.", 4);
    cr_expect_eq(parse_archive(&w, "stands there twice"), ERR_FORMAT);
    torch_zip_add(&w, "a\n/data.pkl", "\x80\x02}.", 4);
    cr_expect_eq(parse_archive(&w, "control character"), ERR_FORMAT);
    const char pickle[] = "\x80\x02}X\1\0\0\0kctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
                          "X\1\0\0\0" "0X\3\0\0\0cpuK\2tQK\0K\2\x85K\1\x85\x89}tRs.";
    for (int n_bytes = 7; n_bytes <= 9; n_bytes++) {
        torch_zip_add(&w, "a/data.pkl", pickle, sizeof pickle - 1);
        torch_zip_add(&w, "a/version", "3", 1);
        torch_zip_add(&w, "a/data/0", "123456789", (size_t)n_bytes);
        cr_expect_eq(parse_archive(&w, "expected 2 elements of float32"), n_bytes == 8 ? OK : ERR_FORMAT);
    }
    torch_zip_add(&w, "a/data.pkl", pickle, sizeof pickle - 1);
    torch_zip_add(&w, "a/version", "3", 1);
    cr_expect_eq(parse_archive(&w, "found no entry data/0"), ERR_FORMAT);
}

static void put(struct str *s, uint64_t v, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++) str_add_char(s, (char)(v >> (8 * i) & 0xff));
}

/* One archive as a writer makes it that puts every size and offset into zip64 fields. */
Test(torch_zip, reads_zip64)
{
    static const struct {
        const char *name, *content;
    } entries[] = {{"a/data.pkl", "\x80\x02}."}, {"a/version", "3\n"}};
    for (int cut = 0; cut < 2; cut++) {
        struct str s = {0}, directory = {0};
        for (int i = 0; i < 2; i++) {
            size_t size = strlen(entries[i].content), local = s.len;
            uint32_t crc = torch_zip_crc(entries[i].content, size);
            put(&s, 0x04034b50, 4);
            put(&s, 45, 2);
            put(&s, 0, 8); /* flags, method, time, date */
            put(&s, crc, 4);
            put(&s, UINT64_MAX, 8);
            put(&s, strlen(entries[i].name), 2);
            put(&s, 20, 2);
            str_add(&s, entries[i].name);
            put(&s, 1, 2);
            put(&s, 16, 2);
            put(&s, size, 8);
            put(&s, size, 8);
            str_add(&s, entries[i].content);
            put(&directory, 0x02014b50, 4);
            put(&directory, 45 | 45 << 16, 4);
            put(&directory, 0, 8);
            put(&directory, crc, 4);
            put(&directory, UINT64_MAX, 8);
            put(&directory, strlen(entries[i].name), 2);
            put(&directory, 4 + 28, 2);
            put(&directory, 0, 8);
            put(&directory, 0, 2);
            put(&directory, 0xffffffff, 4);
            str_add(&directory, entries[i].name);
            put(&directory, 1, 2);
            put(&directory, cut ? 20 : 24, 2);
            put(&directory, size, 8);
            put(&directory, size, 8);
            put(&directory, local, 8);
            put(&directory, 0, 4); /* an empty extra field behind, or the rest of a cut one */
        }
        size_t offset = s.len;
        str_add_bytes(&s, directory.data, directory.len);
        size_t end64 = s.len;
        put(&s, 0x06064b50, 4);
        put(&s, 44, 8);
        put(&s, 45 | 45 << 16, 4);
        put(&s, 0, 8);
        put(&s, 2, 8);
        put(&s, 2, 8);
        put(&s, directory.len, 8);
        put(&s, offset, 8);
        put(&s, 0x07064b50, 4);
        put(&s, 0, 4);
        put(&s, end64, 8);
        put(&s, 1, 4);
        put(&s, 0x06054b50, 4);
        put(&s, 0, 4);
        put(&s, UINT32_MAX, 4);
        put(&s, UINT64_MAX, 8);
        put(&s, 0, 2);
        struct torch_file f;
        enum status st = torch_file_parse(&f, "x.pt", s.data, s.len);
        cr_expect_eq(st, cut ? ERR_FORMAT : OK, "cut %d: %s", cut, status_message());
        torch_file_close(&f);
        str_clear(&s);
        str_clear(&directory);
    }
}

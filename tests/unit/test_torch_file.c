#include "engine/checkpoint/torch_file.h"
#include "engine/checkpoint/torch_pickle.h"
#include "engine/checkpoint/torch_zip.h"

#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>

Test(torch_file, tensors_of_every_type)
{
    static const uint16_t halves[] = {0x3c00, 0xc000, 0x0001, 0x7c00, 0x03ff, 0x7bff};
    static const int64_t longs[] = {-1, INT64_C(1) << 40};
    static const double doubles[] = {.1, -1e300};
    struct torch_tensor in[] = {
        {.key = "half",
            .type = TORCH_FLOAT16,
            .n_dims = 1,
            .shape = {6},
            .stride = {1},
            .storage = (const uint8_t *)halves},
        {.key = "bf",
            .type = TORCH_BFLOAT16,
            .n_dims = 1,
            .shape = {2},
            .stride = {1},
            .storage = (const uint8_t *)halves},
        {.key = "long",
            .type = TORCH_INT64,
            .n_dims = 2,
            .shape = {1, 2},
            .stride = {2, 1},
            .storage = (const uint8_t *)longs},
        {.key = "double",
            .type = TORCH_FLOAT64,
            .n_dims = 1,
            .shape = {2},
            .stride = {1},
            .storage = (const uint8_t *)doubles},
        {.key = "int8",
            .type = TORCH_INT8,
            .n_dims = 0,
            .offset = 1,
            .storage = (const uint8_t *)"\x01\xfe"},
        {.key = "swapped",
            .type = TORCH_INT16,
            .n_dims = 2,
            .shape = {2, 3},
            .stride = {1, 2},
            .storage = (const uint8_t *)halves},
        {.key = "empty",
            .type = TORCH_INT32,
            .n_dims = 2,
            .shape = {0, 3},
            .stride = {3, 1},
            .storage = (const uint8_t *)""},
    };
    char *dir = dir_make(), *path = path_join(dir, "x.pt"), shape[16];
    struct torch_file f;
    cr_assert_eq(torch_file_write(path, in, sizeof in / sizeof *in), OK, "%s", status_message());
    cr_assert_eq(torch_file_open(&f, path), OK, "%s", status_message());
    cr_assert_eq(f.n_tensors, 7);
    const struct torch_tensor *half = torch_file_find(&f, "half"),
                              *swapped = torch_file_find(&f, "swapped");
    const double is[] = {1, -2, 0x1p-24, INFINITY, 1023 * 0x1p-24, 65504};
    for (int i = 0; i < 6; i++) cr_expect_eq(torch_tensor_at(half, i), is[i], "%d", i);
    cr_expect_eq(torch_tensor_at(torch_file_find(&f, "bf"), 1), -2);
    cr_expect_eq(torch_tensor_at(torch_file_find(&f, "long"), 0), -1);
    cr_expect_eq(torch_tensor_at(torch_file_find(&f, "long"), 1), 0x1p40);
    cr_expect_eq(torch_tensor_at(torch_file_find(&f, "double"), 1), -1e300);
    cr_expect_eq(torch_tensor_at(torch_file_find(&f, "int8"), 0), -2);
    for (int i = 0; i < 6; i++)
        cr_expect_eq(torch_tensor_at(swapped, i), torch_tensor_at(&in[5], i));
    cr_expect(swapped->stride[0] == 3 && swapped->stride[1] == 1);
    cr_expect_eq(
        torch_tensor_at(swapped, 1), 1, "row 0, column 1 is the third element of the storage");
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
    REFUSE("\x80\x02"
           "cbuiltins\neval\n(X\x01\0\0\0"
           "1tR.",
        ERR_UNSUPPORTED, "builtins.eval");
    REFUSE("\x80\x04\x8c\x02os\x8c\x06system\x93.", ERR_UNSUPPORTED, "os.system");
    REFUSE("\x80\x02"
           "ctorch\nload\n.",
        ERR_UNSUPPORTED, "torch.load");
    REFUSE("\x80\x02"
           "ctorch.FloatStorage\n\n.",
        ERR_UNSUPPORTED, "torch.FloatStorage.");
    REFUSE("\x80\x02"
           "c\x1b[2J\nx\n.",
        ERR_UNSUPPORTED, "wants ?[2J.x");
    REFUSE("\x80\x02(ios\nsystem\n.", ERR_UNSUPPORTED, "INST");
    REFUSE("\x80\x02"
           "ccollections\nOrderedDict\n)\x81.",
        ERR_UNSUPPORTED, "NEWOBJ");
    REFUSE("\x80\x02\x82\x01.", ERR_UNSUPPORTED, "EXT1");
    REFUSE("\x80\x02P0\n.", ERR_UNSUPPORTED, "PERSID");
    REFUSE("\x80\x02}}b.", ERR_UNSUPPORTED, "sets the state of a dictionary");
    REFUSE("\x80\x02"
           "ccollections\nOrderedDict\n]b.",
        ERR_UNSUPPORTED, "state of a class or function");
    REFUSE("\x80\x02"
           "ctorch\nFloatStorage\n)R.",
        ERR_FORMAT, "a call of a storage type");
    REFUSE("\x80\x02})R.", ERR_FORMAT, "call: found a dictionary");
    REFUSE("\x80\x02"
           "ccollections\nOrderedDict\n(K\1tR.",
        ERR_FORMAT, "OrderedDict made from arguments");
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
    REFUSE("\x80\x02X\xff\xff\xff\xff"
           "a.",
        ERR_FORMAT, "ends in the middle");
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
    REFUSE("\x80\x02\x8a\x09"
           "123456789.",
        ERR_FORMAT, "more than 64 bits");
    REFUSE("\x80\x02K\1Q.", ERR_FORMAT, "found an integer, expected a tuple");
    REFUSE("\x80\x02"
           "cos",
        ERR_FORMAT, "a name without end");
}

/* A dictionary {"k": tensor} whose view is given by its offset and the pickled shape and stride. */
static void must_refuse_view(
    int offset, const char *shape_stride, size_t size, enum status code, const char *says)
{
    struct str s = {0};
    const char head[] = "\x80\x02}X\1\0\0\0kctorch._utils\n_rebuild_tensor_v2\n(("
                        "X\7\0\0\0storagectorch\nFloatStorage\n"
                        "X\1\0\0\0"
                        "0X\3\0\0\0cpuK\6tQK";
    str_add_bytes(&s, head, sizeof head - 1);
    str_add_char(&s, (char)offset);
    str_add_bytes(&s, shape_stride, size);
    const char tail[] = "\x89}tRs.";
    str_add_bytes(&s, tail, sizeof tail - 1);
    if (code != OK) {
        must_refuse_pickle(s.data, s.len, code, says);
    } else {
        struct torch_pickle p;
        cr_expect_eq(torch_pickle_read(&p, "x.pt", (const uint8_t *)s.data, s.len), OK, "%s",
            status_message());
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
    VIEW(0,
        "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85",
        ERR_FORMAT, "beyond");
    VIEW(0, "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", ERR_UNSUPPORTED,
        "9 dimensions");
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
    if (st != OK)
        cr_expect(strstr(status_message(), says), "\"%s\" lacks \"%s\"", status_message(), says);
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
    const char pickle[] = "\x80\x02}X\1\0\0\0kctorch._utils\n_rebuild_tensor_v2\n(("
                          "X\7\0\0\0storagectorch\nFloatStorage\n"
                          "X\1\0\0\0"
                          "0X\3\0\0\0cpuK\2tQK\0K\2\x85K\1\x85\x89}tRs.";
    for (int n_bytes = 7; n_bytes <= 9; n_bytes++) {
        torch_zip_add(&w, "a/data.pkl", pickle, sizeof pickle - 1);
        torch_zip_add(&w, "a/version", "3", 1);
        torch_zip_add(&w, "a/data/0", "123456789", (size_t)n_bytes);
        cr_expect_eq(
            parse_archive(&w, "expected 2 elements of float32"), n_bytes == 8 ? OK : ERR_FORMAT);
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

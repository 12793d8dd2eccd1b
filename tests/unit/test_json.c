/* JSON as it is read, with what is wrong named by place, and written. */
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/str.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT_MESSAGE(part) \
    cr_expect(strstr(status_message(), part), "\"%s\" lacks \"%s\"", status_message(), part)

static char *dir;

static void make_dir(void) { dir = dir_make(); }
static void remove_dir(void) { dir_remove(dir); }

static enum status parse(cJSON **root, const char *text)
{
    return json_parse(root, "f.json", text, strlen(text));
}

Test(json, errors_name_line_and_column)
{
    cJSON *root;
    cr_expect_eq(parse(&root, "{\n  \"a\": 1,\n  \"b\": oops\n}"), ERR_FORMAT);
    cr_expect(root == NULL);
    EXPECT_MESSAGE("f.json: line 3, column 8");
    cr_expect_eq(parse(&root, "{} x"), ERR_FORMAT);
    EXPECT_MESSAGE("line 1, column 4");
    cr_expect_eq(parse(&root, ""), ERR_FORMAT);
    EXPECT_MESSAGE("line 1, column 1");
    cr_expect_eq(parse(&root, "{\"a\": [1, 2"), ERR_FORMAT);
    cr_expect_eq(parse(&root, "{\"a\": 1} {}"), ERR_FORMAT);
    cr_expect_eq(
        json_parse(&root, "f.json", "[1]\0!", 5), ERR_FORMAT, "a zero and more behind the value");
    cJSON_Delete(root);
    cr_expect_eq(parse(&root, " [1, 2] \n\t "), OK);
    cr_expect_eq(cJSON_GetArraySize(root), 2);
    cJSON_Delete(root);
    cr_expect_eq(json_parse(&root, "f.json", "[\n\"a\xE6\"]", 7), ERR_FORMAT);
    cr_expect(strstr(status_message(), "line 2, column 3: not UTF-8"), "%s", status_message());
    cr_expect_eq(json_parse(&root, "f.json", "[1]2", 3), OK, "the length counts, not the zero");
    cJSON_Delete(root);
}

/* Ours: refused by name. Of others: as Python's json.loads, whose results these are. */
Test(json, keys_said_twice)
{
    cJSON *root;
    cr_expect_eq(parse(&root, "{\"max_kl\": 9, \"x\": 1, \"max_kl\": 0.02}"), ERR_FORMAT);
    EXPECT_MESSAGE("f.json: key max_kl stands there twice");
    cr_expect(root == NULL);
    cr_expect_eq(
        parse(&root, "{\"a\": [{}, {\"b\": {\"c\": 1, \"d\": 2, \"c\": 1}}]}"), ERR_FORMAT);
    EXPECT_MESSAGE("key a[1].b.c stands there twice");
    cr_expect_eq(
        parse(&root, "{\"a\": 1, \"A\": 2, \"b\": {\"a\": 3}, \"c\": [{\"a\": 1}, {\"a\": 2}]}"),
        OK);
    cJSON_Delete(root);
    static const char text[] = "{\"a\": 1, \"b\": {\"c\": 1, \"c\": null, \"d\": 4}, \"a\": [2, "
                               "{\"e\": 5, \"e\": 6}], \"a\": \"last\", "
                               "\"f\": [{\"g\": 7, \"g\": 8}]}";
    struct str out = {0};
    cr_assert_eq(
        json_parse_foreign(&root, "f.json", 1, text, sizeof text - 1), OK, "%s", status_message());
    json_print(&out, root, -1);
    cr_expect_str_eq(
        str_get(&out), "{\"b\":{\"c\":null,\"d\":4},\"a\":\"last\",\"f\":[{\"g\":8}]}");
    str_clear(&out);
    cJSON_Delete(root);
}

Test(json, python_writes_numbers_that_are_none)
{
    static const char text[] =
        "{\"a\": NaN, \"b\": [Infinity, -Infinity, 1], \"NaN\": \"NaN \\\" Infinity\"}";
    cJSON *root;
    double d = 7;
    const char *s = NULL;
    cr_expect_eq(parse(&root, "{\"a\": NaN}"), ERR_FORMAT, "in our own files");
    EXPECT_MESSAGE("line 1, column 7");
    cr_assert_eq(
        json_parse_foreign(&root, "f.json", 1, text, sizeof text - 1), OK, "%s", status_message());
    struct json_in in = {root, "f.json", ""};
    cr_expect_eq(json_get_double(in, "a", false, -INFINITY, INFINITY, &d), ERR_FORMAT);
    EXPECT_MESSAGE("field a: found NaN or an infinite number, expected a number");
    cr_expect(json_get_string(in, "NaN", true, &s) == OK && strcmp(s, "NaN \" Infinity") == 0);
    const cJSON *b = cJSON_GetObjectItemCaseSensitive(root, "b");
    cr_expect(b->child->valuedouble == INFINITY && b->child->next->valuedouble == -INFINITY);
    cr_expect_eq(d, 7);
    cJSON_Delete(root);
    /* a mistake behind such numbers stands where it would behind finite ones */
    static const char plain[] = "{\n\"a\": [111, 222, 33333333], oops}",
                      bad[] = "{\n\"a\": [NaN, NaN, Infinity], oops}";
    cr_expect_eq(json_parse_foreign(&root, "f.json", 5, plain, sizeof plain - 1), ERR_FORMAT);
    char *message = str_dup(status_message());
    cr_expect_eq(json_parse_foreign(&root, "f.json", 5, bad, sizeof bad - 1), ERR_FORMAT);
    cr_expect_str_eq(status_message(), message);
    EXPECT_MESSAGE("f.json: line 6, column 2");
    free(message);
    /* one in such a number where it begins, and not behind the text's end */
    static const char cut[] = "{\"a\": NaN";
    cr_expect_eq(json_parse_foreign(&root, "f.json", 1, cut, sizeof cut - 1), ERR_FORMAT);
    EXPECT_MESSAGE("f.json: line 1, column 7:");
}

Test(json, getters)
{
    cJSON *root;
    cr_assert_eq(parse(&root,
                     "{\"i\": 7, \"big\": 4503599627370497, \"f\": 2.5, \"t\": true, \"s\": "
                     "\"text\", \"n\": null, "
                     "\"o\": {}, \"l\": []}"),
        OK);
    struct json_in in = {root, "c.json", ""}, deep = {root, "c.json", "rope_scaling"};
    int64_t i = -1;
    double d = -1;
    bool b = false;
    const char *s = NULL;
    cr_expect(json_get_int(in, "i", true, 0, 10, &i) == OK && i == 7);
    cr_expect(
        json_get_int(in, "big", true, 0, INT64_C(1) << 60, &i) == OK && i == 4503599627370497);
    cr_expect(json_get_double(in, "f", true, 0, 10, &d) == OK && d == 2.5);
    cr_expect(json_get_double(in, "i", true, 7, 7, &d) == OK && d == 7);
    cr_expect(json_get_bool(in, "t", true, &b) == OK && b);
    cr_expect(json_get_string(in, "s", true, &s) == OK && strcmp(s, "text") == 0);

    i = 99;
    cr_expect(json_get_int(in, "none", false, 0, 10, &i) == OK && i == 99);
    cr_expect(json_get_int(in, "n", false, 0, 10, &i) == OK && i == 99);
    cr_expect_eq(json_get_int(deep, "none", true, 0, 10, &i), ERR_FORMAT);
    EXPECT_MESSAGE("c.json: field rope_scaling.none is missing");
    cr_expect_eq(json_get_string(in, "n", true, &s), ERR_FORMAT);
    EXPECT_MESSAGE("field n is missing");
    cr_expect_eq(json_get_double(deep, "s", true, 0, 1, &d), ERR_FORMAT);
    EXPECT_MESSAGE("c.json: field rope_scaling.s: found a string, expected a number");
    cr_expect_eq(json_get_int(in, "o", false, 0, 1, &i), ERR_FORMAT);
    EXPECT_MESSAGE("found an object, expected a number");
    cr_expect_eq(json_get_bool(in, "i", true, &b), ERR_FORMAT);
    EXPECT_MESSAGE("found a number, expected true or false");
    cr_expect_eq(json_get_string(in, "l", true, &s), ERR_FORMAT);
    EXPECT_MESSAGE("found an array, expected a string");
    cr_expect_eq(json_get_int(in, "f", true, 0, 10, &i), ERR_FORMAT);
    EXPECT_MESSAGE("found 2.5, expected a whole number");
    cr_expect_eq(json_get_int(in, "i", true, 8, 10, &i), ERR_FORMAT);
    EXPECT_MESSAGE("found 7, expected 8 to 10");
    cr_expect(i == 99 && b && strcmp(s, "text") == 0, "a failure leaves the output alone");
    cr_expect_str_eq(json_kind(NULL), "nothing");
    cJSON_Delete(root);
}

Test(json, big_numbers_in_messages)
{
    cJSON *root;
    int64_t i;
    cr_assert_eq(parse(&root, "{\"n\": 1000001}"), OK);
    struct json_in in = {root, "c.json", ""};
    cr_expect_eq(json_get_int(in, "n", true, 0, 1000000, &i), ERR_FORMAT);
    EXPECT_MESSAGE("found 1000001, expected 0 to 1000000");
    cJSON_Delete(root);
}

Test(json, numbers_survive_a_file, .init = make_dir, .fini = remove_dir)
{
    char *path = path_join(dir, "n.json");
    struct rng r;
    rng_init(&r, 2);
    static const double hard[] = {.1 + .2, 1 / 3.0, 1e-300, 5e-324, 1.7976931348623157e308,
        123456789012345678., -.1, 1e22, 2.2250738585072014e-308, 9007199254740993.};
    double values[300];
    for (int i = 0; i < 300; i++)
        values[i] = i < 10 ? hard[i] : rng_normal(&r) * exp(20 * rng_normal(&r));
    cJSON *root = cJSON_CreateDoubleArray(values, 300), *back;
    cr_expect_eq(json_write_file(path, root), OK);
    cJSON_Delete(root);
    cr_assert_eq(json_read_file(&back, path), OK);
    int i = 0, different = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, back) different += item->valuedouble != values[i++];
    cr_expect_eq(i, 300);
    cr_expect_eq(different, 0, "%d of 300 numbers do not read back equal", different);
    cJSON_Delete(back);
    free(path);
}

Test(json, layout_of_a_file, .init = make_dir, .fini = remove_dir)
{
    char *path = path_join(dir, "n.json");
    cJSON *root;
    struct str s = {0};
    cr_assert_eq(parse(&root, "{\"a\":{\"b\":1,\"tab\\there:\\t\":\"x:\\ty\"}}"), OK);
    cr_expect_eq(json_write_file(path, root), OK);
    cJSON_Delete(root);
    cr_expect_eq(file_read(&s, path), OK);
    cr_expect_str_eq(
        str_get(&s), "{\n  \"a\": {\n    \"b\": 1,\n    \"tab\\there:\\t\": \"x:\\ty\"\n  }\n}\n");
    str_clear(&s);
    cr_expect_eq(json_read_file(&root, dir), ERR_IO);
    cr_expect(root == NULL);
    free(path);
}

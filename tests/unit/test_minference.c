/* MInference's pattern files: read as they are, and refused by name when they are another model's.
 */
#include "base/file.h"
#include "base/str.h"
#include "engine/tuner/minference.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char *dir, path[256];

static void begin(void)
{
    dir = dir_make();
    snprintf(path, sizeof path, "%s/pattern.json", dir);
}

static void end(void) { dir_remove(dir); }

static enum status read_text(const char *text, struct tuned *out)
{
    cr_assert_eq(file_write_atomic(path, text, strlen(text)), OK);
    return minference_read(out, path, 2, 3);
}

/* As the public search writes it: spaces, a score, heads in any order. */
#define LAYER                                                                                    \
    "{\"0\": [\"vertical_and_slash\", 1000, 6096, 0.96], \"2\": [\"block_sparse\", 1000, 1024, " \
    "0.5], \"1\": [\"stream_llm\", 100, 800, 1]}"

Test(minference, a_pattern_file_is_read_as_it_is, .init = begin, .fini = end)
{
    struct tuned t;
    cr_assert_eq(read_text("\n [" LAYER ", " LAYER "]", &t), OK, "%s", status_message());
    cr_expect(minference_is_pattern(path));
    cr_expect_str_eq(t.method, "minference");
    static const struct head_params want[3] = {
        {.part = PATTERN_LINES, .vertical = 1000, .slash = 6096},
        {.part = PATTERN_SHAPE, .vertical = 100, .slash = 800},
        {.part = PATTERN_BLOCK, .vertical = 1000, .slash = 1024}};
    for (int i = 0; i < 6; i++) {
        const struct head_params *p = &t.heads[i].params;
        cr_expect(t.heads[i].in_range && p->is_sparse);
        cr_expect_eq(p->part, want[i % 3].part);
        cr_expect_eq(p->vertical, want[i % 3].vertical);
        cr_expect_eq(p->slash, want[i % 3].slash);
    }
    tuned_clear(&t);
}

Test(minference, another_models_file_is_refused_by_name, .init = begin, .fini = end)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"[" LAYER "]", "found 1 layers, expected the model's 2"},
        {"[" LAYER ", {\"0\": [\"stream_llm\", 1, 1, 1]}]",
            "layer 1: found 1 heads, expected the model's 3"},
        {"[" LAYER ", {\"0\": [\"stream_llm\", 1, 1, 1], \"1\": [\"stream_llm\", 1, 1, 1], \"3\": "
         "[\"stream_llm\", 1, 1, 1]}]",
            "the head \"3\""},
        {"[" LAYER ", {\"0\": [\"stream_llm\", 1, 1, 1], \"1\": [\"stream_llm\", 1, 1, 1], \"2\": "
         "[\"spiral\", 1, 1, 1]}]",
            "the pattern \"spiral\""},
        {"[" LAYER ", {\"0\": [\"stream_llm\", 1, 1, 1], \"1\": [\"stream_llm\", 0, 1, 1], \"2\": "
         "[\"stream_llm\", 1, 1, 1]}]",
            "layer 1, head 1: found the size"},
        {"[" LAYER
         ", {\"0\": [\"stream_llm\", 1, 1, 1], \"1\": 7, \"2\": [\"stream_llm\", 1, 1, 1]}]",
            "layer 1, head 1: found a number"},
        {"[" LAYER ", 3]", "layer 1: found a number, expected an object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tuned t;
        cr_expect_eq(read_text(cases[i].text, &t), ERR_FORMAT, "%s", cases[i].text);
        cr_expect(strstr(status_message(), cases[i].says) && strstr(status_message(), path),
            "%s: %s", cases[i].says, status_message());
    }
    cr_assert_eq(file_write_atomic(path, "{}", 2), OK);
    cr_expect(!minference_is_pattern(path) && !minference_is_pattern("/nowhere/x.json"));
}

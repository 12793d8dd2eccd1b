#include "base/rng.h"
#include "suites/suite.h"

#include "base/file.h"
#include "engine/checkpoint/synth.h"
#include "suites/jsonl.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The synthetic tokenizer makes one token of each byte, id = byte, BOS = 256: offsets can be
 * counted by hand. */
static char *dir;
static struct tokenizer *bytes;

static void setup(void)
{
    dir = dir_make();
    cr_assert_eq(synth_write_tokenizer(dir), OK, "%s", status_message());
    cr_assert_eq(tokenizer_open(&bytes, dir), OK, "%s", status_message());
}

static void teardown(void)
{
    tokenizer_close(&bytes);
    dir_remove(dir);
}

TestSuite(suites, .init = setup, .fini = teardown);

static struct suite_options options(int max_length)
{
    return (struct suite_options){.tokenizer = bytes, .max_length = max_length, .seed = 1};
}

/* "KIND:DIR/NAME" for a file just written; the result lives until the next call. */
static const char *spec_bytes(const char *kind, const char *name, const void *data, size_t size)
{
    static char spec[256];
    snprintf(spec, sizeof spec, "%s:%s/%s", kind, dir, name);
    cr_assert_eq(file_write_atomic(strchr(spec, ':') + 1, data, size), OK, "%s", status_message());
    return spec;
}

static const char *spec_of(const char *kind, const char *name, const char *text)
{
    return spec_bytes(kind, name, text, strlen(text));
}

static struct sample_set load(const char *spec, const struct suite_options *o)
{
    struct sample_set s;
    cr_assert_eq(suite_load(spec, o, &s), OK, "%s: %s", spec, status_message());
    return s;
}

/* Loading fails with `code`, the message holds every one of `parts`, and nothing is left in the
 * set. */
static void refused(
    const char *spec, const struct suite_options *o, enum status code, const char *const *parts)
{
    static const struct sample_set empty;
    struct sample_set s;
    enum status st = suite_load(spec, o, &s);
    cr_assert_eq(st, code, "%s gave %d: %s", spec, st, st ? status_message() : "");
    for (; *parts; parts++)
        cr_expect(strstr(status_message(), *parts), "no \"%s\" in: %s", *parts, status_message());
    cr_expect_eq(memcmp(&s, &empty, sizeof s), 0);
}

#define REFUSED(spec, o, code, ...) refused(spec, o, code, (const char *const[]){__VA_ARGS__, NULL})

/* The bytes of tokens [begin, end). */
static void expect_text(
    const struct sample_set *s, int sample, int begin, int end, const char *want)
{
    struct str got = {0};
    cr_assert(begin >= 0 && end <= s->samples[sample].n);
    cr_assert_eq(
        tokenizer_decode(bytes, s->samples[sample].ids + begin, (size_t)(end - begin), true, &got),
        OK);
    cr_expect_str_eq(str_get(&got), want);
    str_clear(&got);
}

static void expect_item(
    const struct sample_set *s, int item, const char *context, const char *answer)
{
    const struct item *it = &s->items[item];
    expect_text(s, it->sample, 1, it->begin, context);
    expect_text(s, it->sample, it->begin, it->end, answer);
}

static void fill(char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) text[i] = (char)('a' + i % 26);
}

Test(suites, text_windows_cover_the_document_once)
{
    char text[1000];
    fill(text, sizeof text);
    struct suite_options o = options(301); /* BOS + 300: 300 300 300 100 */
    struct sample_set s = load(spec_bytes("text", "a.txt", text, sizeof text), &o);
    cr_assert_eq(s.n_samples, 3, "the last 101 tokens are under 256");
    for (int w = 0; w < 3; w++) {
        cr_expect_eq(s.samples[w].n, 301);
        cr_expect_eq(s.samples[w].ids[0], SYNTH_BOS);
        cr_expect_eq(s.samples[w].score_from, 0);
        for (int i = 1; i < 301; i++) cr_assert_eq(s.samples[w].ids[i], text[w * 300 + i - 1]);
    }
    cr_expect_str_eq(s.samples[2].name, "a.txt window 3");
    cr_expect(s.score_text);
    cr_expect_eq(s.n_tokens, 903);
    cr_expect_eq(s.n_items + s.n_questions, 0);
    sample_set_clear(&s);
}

Test(suites, text_keeps_a_last_window_of_256)
{
    char text[600];
    fill(text, sizeof text);
    struct suite_options o = options(301);
    struct sample_set s = load(spec_bytes("text", "a.txt", text, 300 + 255), &o);
    cr_expect_eq(s.n_samples, 2);
    cr_expect_eq(s.samples[1].n, 256);
    sample_set_clear(&s);
    s = load(spec_bytes("text", "a.txt", text, 300 + 254), &o);
    cr_expect_eq(s.n_samples, 1);
    sample_set_clear(&s);
    o.min_length = 280;
    s = load(spec_bytes("text", "a.txt", text, 300 + 260), &o);
    cr_expect_eq(s.n_samples, 1, "min_length counts for last windows too");
    sample_set_clear(&s);
}

/* No run of characters comes twice. */
static void fill_varied(char *text, size_t n)
{
    struct rng r;
    rng_init(&r, 12);
    for (size_t i = 0; i < n; i++) text[i] = (char)rng_range(&r, 'a', 'z');
}

Test(suites, text_second_half)
{
    char text[1000];
    fill_varied(text, sizeof text);
    struct suite_options o = options(101);
    o.second_half = true;
    struct sample_set s = load(spec_bytes("text", "a.txt", text, sizeof text), &o);
    cr_assert_eq(s.n_samples, 10);
    cr_expect_eq(s.samples[1].score_from, 50);
    cr_expect_eq(s.samples[1].ids[1], text[100]);
    sample_set_clear(&s);
}

/* Where in the text the windows begin. */
static void places(const struct sample_set *s, const char *text, size_t n, size_t *at)
{
    for (int i = 0; i < s->n_samples; i++) {
        for (at[i] = 0; at[i] + 10 < n; at[i]++) {
            int k = 0;
            while (k < 10 && s->samples[i].ids[1 + k] == text[at[i] + (size_t)k]) k++;
            if (k == 10) break;
        }
        cr_assert_lt(at[i] + 10, n);
    }
}

/* Few windows are spread over all of a file, drawn by the seed where there is one, and never those
 * that tuning takes. */
Test(suites, text_windows_are_spread_and_apart_from_tuning)
{
    enum { N = 20000, L = 201 };
    static char text[N];
    size_t eval[8], drawn[8], tune[8];
    fill_varied(text, N);
    struct suite_options o = options(L);
    o.num_samples = 8;
    o.seed = 0;
    char *spec = str_dup(spec_bytes("text", "a.txt", text, N));
    struct sample_set a = load(spec, &o), b;
    cr_assert_eq(a.n_samples, 8);
    places(&a, text, N, eval);
    for (int i = 1; i < 8; i++) cr_expect_gt(eval[i], eval[i - 1] + L, "in the order of the file");
    cr_expect_gt(eval[7], 8000, "the last is at %zu", eval[7]);
    o.seed = 3;
    b = load(spec, &o);
    places(&b, text, N, drawn);
    cr_expect(memcmp(eval, drawn, sizeof eval) != 0);
    cr_expect(strcmp(a.fingerprint, b.fingerprint) != 0);
    sample_set_clear(&b);
    o.seed = 0;
    o.tuning = true;
    b = load(spec, &o);
    cr_assert_eq(b.n_samples, 8);
    places(&b, text, N, tune);
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 8; k++)
            cr_expect(
                eval[i] + L <= tune[k] || tune[k] + L <= eval[i], "%zu, %zu", eval[i], tune[k]);
    cr_expect_not(a.shared || b.shared);
    cr_expect(labs((long)tune[0] - (long)tune[1]) > 2000,
        "its first ones are spread as well: %zu, %zu", tune[0], tune[1]);
    sample_set_clear(&a);
    sample_set_clear(&b);
    o.tuning = false;
    o.num_samples = 60; /* more than half of the file has */
    a = load(spec, &o);
    cr_expect_eq(a.n_samples, 60);
    cr_expect(a.shared, "who asks for more gets it, and is told");
    sample_set_clear(&a);
    o.num_samples = 0;
    a = load(spec, &o);
    cr_expect_eq(a.n_samples, 100, "all of it, without a piece left out");
    sample_set_clear(&a);
    free(spec);
}

/* Equal, overlapping and nearly equal windows are one sample. */
/* Letters in lines, too long to be encoded whole: 5 MiB, so that evaluation has the bytes below 2
 * MiB and tuning the rest. */
enum { LONG_TEXT = 5 << 20 };

static char *long_text(void)
{
    char *text = malloc(LONG_TEXT);
    struct rng r;
    rng_init(&r, 5);
    for (size_t i = 0; i < LONG_TEXT; i += 8) {
        uint64_t x = rng_u64(&r);
        for (size_t k = 0; k < 8; k++) text[i + k] = (char)('a' + (x >> (8 * k) & 255) % 26);
    }
    for (size_t i = 99; i < LONG_TEXT; i += 100) text[i] = '\n';
    return text;
}

/* Each window is the text of a line's beginning, on one side of the boundary. */
static void expect_places(const struct sample_set *s, const char *text, size_t from, size_t end)
{
    size_t last = 0;
    for (int i = 0; i < s->n_samples; i++) {
        size_t at = 0;
        const char *label = strstr(s->samples[i].name, " at byte ");
        cr_assert(
            label && sscanf(label, " at byte %zu, window 1", &at) == 1, "%s", s->samples[i].name);
        cr_expect(at >= from && at + 300 <= end && (at == 0 || text[at - 1] == '\n'), "%zu", at);
        cr_expect(i == 0 || from > 0 || at > last, "%zu behind %zu", at,
            last); /* tuning has an order of its own */
        cr_assert_eq(s->samples[i].n, 301);
        for (int t = 1; t < 301; t++) cr_assert_eq(s->samples[i].ids[t], text[at + (size_t)t - 1]);
        last = at;
    }
}

Test(suites, a_large_text_is_read_in_places)
{
    char *text = long_text(), *spec = str_dup(spec_bytes("text", "a.txt", text, LONG_TEXT));
    struct suite_options o = options(301);
    o.num_samples = 10;
    struct sample_set s = load(spec, &o);
    cr_expect(s.n_samples == 10 && !s.shared);
    expect_places(&s, text, 0, 2 << 20);
    cr_expect(strstr(s.samples[9].name, "at byte") &&
            atol(strstr(s.samples[9].name, "byte ") + 5) > 7 << 18,
        "spread: %s", s.samples[9].name);
    sample_set_clear(&s);
    o.tuning = true;
    s = load(spec, &o);
    cr_expect(s.n_samples == 10 && !s.shared);
    expect_places(&s, text, 2 << 20, LONG_TEXT);
    sample_set_clear(&s);
    free(spec);
    /* a zero character is found where it is read, though it is far behind the beginning */
    memset(text + (9 << 19), 0, 1 << 18);
    o.tuning = false;
    spec = str_dup(spec_bytes("text", "a.txt", text, LONG_TEXT));
    s = load(spec, &o);
    sample_set_clear(&s);
    o.num_samples = 0;
    REFUSED(spec, &o, ERR_FORMAT, "a.txt: line 47186, column 93: a zero character");
    free(spec);
    free(text);
}

Test(suites, a_large_text_with_few_places_is_read_whole)
{
    char *text = long_text();
    for (size_t i = 100; i < 2 << 20; i += 100)
        memcpy(text + i, text, 100); /* the half of evaluation repeats itself */
    char *spec = str_dup(spec_bytes("text", "a.txt", text, 17 << 18));
    struct suite_options o = options(301);
    o.num_samples = 10;
    struct sample_set s = load(spec, &o);
    cr_expect(s.n_samples == 10 && s.shared && s.n_repeated > 250);
    sample_set_clear(&s);
    free(spec);
    free(text);
}

Test(suites, of_many_lines_as_many_are_read_as_windows_need)
{
    char *text = long_text();
    for (size_t i = 0; i + 1000 <= LONG_TEXT; i += 1000) { /* lines of 1000 bytes */
        for (size_t k = 99; k < 1000; k += 100) text[i + k] = ' ';
        memcpy(text + i, "{\"text\":\"", 9);
        memcpy(text + i + 997, "\"}\n", 3);
    }
    text[LONG_TEXT / 1000 * 1000 - 2004] =
        0; /* the last line, which is not among them, is no JSON */
    char *spec = str_dup(spec_bytes("text", "a.jsonl", text, LONG_TEXT / 1000 * 1000 - 2000));
    struct suite_options o = options(301);
    o.num_samples = 10;
    struct sample_set s = load(spec, &o);
    cr_expect(s.n_samples == 10 && !s.shared);
    for (int i = 0; i < s.n_samples; i++) {
        long line = 0;
        cr_assert(sscanf(s.samples[i].name, "a.jsonl line %ld window", &line) == 1, "%s",
            s.samples[i].name);
        cr_expect_eq(line % 2, 1);
        int window = atoi(strstr(s.samples[i].name, "window ") + 7) - 1;
        for (int t = 1; t < 301; t++)
            cr_assert_eq(s.samples[i].ids[t], text[(line - 1) * 1000 + 9 + window * 300 + t - 1]);
    }
    sample_set_clear(&s);
    free(spec);
    free(text);
}

Test(suites, text_counts_what_repeats_once)
{
    static char one[600], two[600], text[8000];
    fill_varied(one, 600);
    for (int i = 0; i < 600; i++) two[i] = (char)('a' + (one[i] * 7 + i * i) % 26);
    int n = 0;
    for (int copy = 0; copy < 6; copy++) {
        if (copy == 3) one[300] = '!'; /* nearly equal */
        n += snprintf(text + n, sizeof text - (size_t)n, "{\"text\":\"%.600s\"}\n", one);
    }
    /* overlaps by half */
    n += snprintf(
        text + n, sizeof text - (size_t)n, "{\"text\":\"%.300s%.300s\"}\n", one + 300, two);
    n += snprintf(text + n, sizeof text - (size_t)n, "{\"text\":\"%.600s\"}\n", two);
    struct suite_options o = options(700);
    struct sample_set s = load(spec_bytes("text", "a.jsonl", text, (size_t)n), &o);
    cr_expect_eq(s.n_samples, 2);
    cr_expect_eq(s.n_repeated, 6);
    expect_text(&s, 1, 1, 5, (char[]){two[0], two[1], two[2], two[3], 0});
    sample_set_clear(&s);
}

/* So are questions, which are spread as well. */
Test(suites, questions_are_spread_and_counted_once)
{
    static char text[4000];
    int n = 0;
    for (int i = 0; i < 20; i++)
        n += snprintf(text + n, sizeof text - (size_t)n,
            "{\"context\":\"number %d is\",\"continuation\":\" %d\"}\n", i, i);
    n += snprintf(text + n, sizeof text - (size_t)n,
        "{\"context\":\"number 3 is\",\"continuation\":\" 3\"}\n");
    struct suite_options o = options(64);
    struct sample_set s = load(spec_bytes("cloze", "a.jsonl", text, (size_t)n), &o);
    cr_expect(s.n_samples == 20 && s.n_questions == 20 && s.n_repeated == 1, "%d, %d", s.n_samples,
        s.n_repeated);
    sample_set_clear(&s);
    o.num_samples = 4;
    o.seed = 0;
    s = load(spec_bytes("cloze", "a.jsonl", text, (size_t)n), &o);
    cr_assert_eq(s.n_samples, 4);
    static const char *const ids[] = {"a.jsonl:1", "a.jsonl:7", "a.jsonl:11", "a.jsonl:17"};
    for (int i = 0; i < 4; i++) {
        cr_expect_str_eq(s.items[i].id, ids[i]);
        cr_expect(s.items[i].sample == i && s.items[i].question == i);
    }
    sample_set_clear(&s);
}

Test(suites, text_too_short_says_how_many_tokens)
{
    struct suite_options o = options(512);
    o.min_length = 256;
    REFUSED(
        spec_of("text", "a.txt", "only these words"), &o, ERR_FORMAT, "a.txt", "17 tokens", "256");
    o.min_length = 0;
    REFUSED(spec_of("text", "a.txt", ""), &o, ERR_FORMAT, "a.txt", "1 tokens", "at least 2");
    o.min_length = 513;
    REFUSED("text:x", &o, ERR_ARG, "min_length", "513", "512");
    o = options(512);
    REFUSED("text", &o, ERR_ARG, "text:FILE");
    REFUSED("text:/nonexistent/file.txt", &o, ERR_IO, "/nonexistent/file.txt");
    REFUSED("text:/nonexistent/file.jsonl", &o, ERR_IO, "/nonexistent/file.jsonl");
}

Test(suites, text_lines_are_never_mixed)
{
    struct suite_options o = options(9);
    o.min_length = 4;
    struct sample_set s = load(spec_of("text", "a.jsonl",
                                   "\xef\xbb\xbf{\"text\": \"abcdefghij\"}\r\n"
                                   "\n"
                                   "{\"text\": \"xy\", \"other\": [1]}\n"
                                   "{\"text\": \"klmn\"}"),
        &o);
    cr_assert_eq(s.n_samples, 2);
    cr_expect_eq(s.n_skipped, 1);
    expect_text(&s, 0, 1, 9, "abcdefgh");
    expect_text(&s, 1, 1, 5, "klmn");
    cr_expect_str_eq(s.samples[1].name, "a.jsonl line 4 window 1");
    sample_set_clear(&s);
    o.min_length = 9;
    REFUSED(spec_of("text", "a.jsonl", "{\"text\":\"abcd\"}\n{\"text\":\"ab\"}\n"), &o, ERR_FORMAT,
        "a.jsonl", "2 documents", "9 tokens", "longest has 5");
    REFUSED(spec_of("text", "a.jsonl", "\n \n"), &o, ERR_FORMAT, "a.jsonl", "no lines");
}

Test(suites, invalid_utf8_is_counted)
{
    struct suite_options o = options(64);
    struct sample_set s = load(spec_of("text", "a.txt", "caf\xe9 \xff"), &o);
    cr_expect_eq(s.n_replaced, 2);
    expect_text(&s, 0, 1, s.samples[0].n, "caf\xef\xbf\xbd \xef\xbf\xbd");
    sample_set_clear(&s);
    s = load(
        spec_of("cloze", "a.jsonl", "{\"context\":\"caf\xe9\",\"continuation\":\" b\xff\"}"), &o);
    cr_expect_eq(s.n_replaced, 2);
    expect_item(&s, 0, "caf\xef\xbf\xbd", " b\xef\xbf\xbd");
    sample_set_clear(&s);
}

Test(suites, bad_lines_name_file_and_line)
{
    struct suite_options o = options(64);
    o.num_samples = 1; /* lines behind the last one used are checked as well */
    REFUSED(spec_of("text", "a.jsonl", "{\"text\":\"fine\"}\n\n{\"text\":\"open}\n"), &o,
        ERR_FORMAT, "a.jsonl", "line 3", "column", "not valid JSON");
    REFUSED(spec_of("text", "a.jsonl", "{\"text\":\"fine\"}\n{\"text\":\"two\"} x\n"), &o,
        ERR_FORMAT, "line 2, column 16");
    REFUSED(spec_of("text", "a.jsonl", "{\"text\":\"fine\"}\n[1]\n"), &o, ERR_FORMAT, "line 2",
        "an array");
    REFUSED(spec_of("text", "a.jsonl", "{\"text\":\"fine\"}\n{\"body\":\"x\"}\n"), &o, ERR_FORMAT,
        "line 2", "\"text\"", "\"body\"", "--field");
    REFUSED(spec_of("text", "a.jsonl", "{\"text\":\"fine\"}\n{\"text\":7}\n"), &o, ERR_FORMAT,
        "line 2", "a number", "a string");
    REFUSED(spec_of("text", "a.jsonl", "{\"text\":\"fine\"}\n{\"text\":null}\n"), &o, ERR_FORMAT,
        "line 2", "\"text\"", "found null, expected a string");
    REFUSED(spec_of("text", "a.jsonl", "{\"text\":\"a\\u0000b\"}\n"), &o, ERR_FORMAT,
        "line 1, column 11", "zero");
    REFUSED(spec_bytes("text", "a.jsonl", "{\"text\":\"a\0b\"}\n", 15), &o, ERR_FORMAT,
        "line 1, column 11", "zero");
    struct sample_set s = load(spec_of("text", "a.jsonl", "{\"text\":\"a\\\\u0000b\"}\n"), &o);
    expect_text(&s, 0, 1, s.samples[0].n, "a\\u0000b");
    sample_set_clear(&s);
    REFUSED(spec_of("cloze", "a.jsonl",
                "{\"context\":\"a b\",\"continuation\":\" c\"}\n{\"context\":\"a\"}\n"),
        &o, ERR_FORMAT, "line 2", "\"continuation\"");
    REFUSED(spec_of("cloze", "a.jsonl", "{\"question\":\"a b\"}\n"), &o, ERR_FORMAT, "line 1",
        "\"context\"", "\"continuation\"", "\"text\"", "\"question\"");
    REFUSED(spec_of("cloze", "a.jsonl", "{\"text\":\" word \"}\n"), &o, ERR_FORMAT, "line 1",
        "two words");
    REFUSED(spec_of("cloze", "a.jsonl", "{\"context\":\"a b\",\"continuation\":\"\"}\n"), &o,
        ERR_FORMAT, "line 1", "empty");
    REFUSED(spec_of("cloze", "a.jsonl", ""), &o, ERR_FORMAT, "a.jsonl", "nothing");
}

/* Which files hold JSON documents is in them, not in their names: one set of tokens for all. */
Test(suites, json_documents_are_told_by_content)
{
    static const char lines[] =
        "{\"text\": \"one and two\", \"score\": NaN}\n{\"text\": \"three\"}\n";
    static const char *const names[] = {
        "a.jsonl", "a.ndjson", "a.JSONL", "a.jsonlines", "a.json", "a.txt", "a"};
    static const char *const others[] = {
        "[{\"text\": \"one and two\"},\n {\"text\": \"three\", \"by\": null}]",
        "\xef\xbb\xbf [\n{\"text\": \"one and two\", \"x\": -Infinity}, {\"text\": \"three\"}\n]\n",
        "{\"text\": \"no\", \"text\": \"one and two\"}\n{\"text\": \"three\"}\n",
    };
    struct suite_options o = options(64);
    char print[33] = "";
    for (int i = 0; i < 10; i++) {
        const char *name = i < 7 ? names[i] : "a.json";
        struct sample_set s = load(spec_of("text", name, i < 7 ? lines : others[i - 7]), &o);
        cr_assert_eq(s.n_samples, 2, "%s", name);
        expect_text(&s, 0, 1, s.samples[0].n, "one and two");
        expect_text(&s, 1, 1, s.samples[1].n, "three");
        if (!i) strcpy(print, s.fingerprint);
        cr_expect_str_eq(s.fingerprint, print, "%s", name);
        sample_set_clear(&s);
    }
    struct sample_set s = load(spec_of("text", "a.json", "{\n \"text\": \"one and two\"\n}\n"), &o);
    expect_text(&s, 0, 1, s.samples[0].n, "one and two");
    sample_set_clear(&s);
    s = load(spec_of("text", "a.txt", "[1] and {2}\n"), &o);
    expect_text(&s, 0, 1, s.samples[0].n, "[1] and {2}\n");
    sample_set_clear(&s);
    s = load(spec_of("text", "a.txt", "{ this is no JSON }"), &o);
    expect_text(&s, 0, 1, s.samples[0].n, "{ this is no JSON }");
    sample_set_clear(&s);
    REFUSED(spec_of("text", "a.json", "plain words"), &o, ERR_FORMAT, "a.json", "line 1, column 1");
    REFUSED(spec_of("text", "a.json", "[{\"text\":\"x\"}, {\"body\":\"y\"}]"), &o, ERR_FORMAT,
        "entry 2", "\"body\"");
    REFUSED(spec_of("text", "a.json", "[{\"text\":NaN}]"), &o, ERR_FORMAT, "entry 1", "found NaN",
        "a string");
    REFUSED(spec_of("choice", "a.json",
                "[{\"query\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":Infinity}]"),
        &o, ERR_FORMAT, "entry 1", "gold", "found inf");
}

Test(suites, what_is_no_text_is_refused)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *what, *remedy;
    } bad[] = {
        {"\x1f\x8b\x08\x00\x01", 5, "gzip", "gunzip"},
        {"\x28\xb5\x2f\xfd\x01", 5, "zstd", "unzstd"},
        {"\xfd"
         "7zXZ",
            5, "xz", "unxz"},
        {"BZh91AY&SY", 10, "bzip2", "bunzip2"},
        {"PK\x03\x04....", 8, "zip", "unzip"},
        {"PAR1....", 8, "Parquet", "JSON lines"},
        {"\xff\xfew\0o\0r\0d\0", 10, "UTF-16", "iconv -f UTF-16 "},
        {"\xfe\xff\0w\0o\0r\0d", 10, "UTF-16", "iconv -f UTF-16 "},
        {"w\0o\0r\0d\0s\0", 10, "UTF-16", "iconv -f UTF-16LE"},
        {"\0w\0o\0r\0d\0s", 10, "UTF-16", "iconv -f UTF-16BE"},
        {"\xff\xfe\0\0w\0\0\0", 8, "UTF-32", "iconv -f UTF-32"},
        {"two words\nand a \0zero", 20, "line 2, column 7", "binary"},
    };
    struct suite_options o = options(64);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *const names[] = {"a.txt", "a.jsonl"};
        for (int k = 0; k < 2; k++)
            REFUSED(spec_bytes(k ? "cloze" : "text", names[k], bad[i].bytes, bad[i].n), &o,
                ERR_FORMAT, names[k], bad[i].what, bad[i].remedy);
    }
    struct sample_set s = load(spec_of("text", "a.txt", "\xef\xbb\xbfwords"), &o);
    expect_text(&s, 0, 1, s.samples[0].n, "words");
    sample_set_clear(&s);
}

static void *write_words(void *path)
{
    FILE *f = fopen(path, "w");
    if (!f) return NULL;
    for (int i = 0; i < 3; i++) {
        fputs("words ", f);
        fflush(f);
        usleep(20000);
    }
    fclose(f);
    return path;
}

Test(suites, pipes_are_read_to_their_end)
{
    struct suite_options o = options(64);
    pthread_t writer;
    char *path = path_join(dir, "a.txt"), *spec = str_format("text:%s", path);
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(pthread_create(&writer, NULL, write_words, path), 0);
    struct sample_set s = load(spec, &o);
    pthread_join(writer, NULL);
    expect_text(&s, 0, 1, s.samples[0].n, "words words words ");
    sample_set_clear(&s);
    REFUSED("text:/dev/zero", &o, ERR_IO, "/dev/zero", "no end");
    REFUSED("text:/dev/null", &o, ERR_FORMAT, "/dev/null", "1 tokens");
    free(path);
    free(spec);
}

Test(suites, fields_can_be_renamed)
{
    struct suite_options o = options(64);
    o.field = "context=prompt,continuation=target.value";
    struct sample_set s =
        load(spec_of("cloze", "a.jsonl",
                 "{\"context\":\"no\",\"prompt\":\"one\",\"target\":{\"value\":\" "
                 "two\"}}\n"),
            &o);
    expect_item(&s, 0, "one", " two");
    sample_set_clear(&s);
    REFUSED(spec_of("cloze", "a.jsonl", "{\"prompt\":\"one\",\"target\":{}}\n"), &o, ERR_FORMAT,
        "\"target.value\"");
    o.field = "context";
    REFUSED(spec_of("cloze", "a.jsonl", "{}"), &o, ERR_ARG, "--field", "\"context\"", "KEY=NAME");
    o.field = "context=";
    REFUSED(spec_of("cloze", "a.jsonl", "{}"), &o, ERR_ARG, "--field", "KEY=NAME");
    o.field = "prompt=context";
    REFUSED(spec_of("cloze", "a.jsonl", "{}"), &o, ERR_ARG, "\"prompt\"", "known: text, context");
    o.field = "text=a,text=b";
    REFUSED(spec_of("text", "a.jsonl", "{}"), &o, ERR_ARG, "\"text\"", "twice");
}

Test(suites, cloze_forms)
{
    struct suite_options o = options(64);
    struct sample_set s = load(spec_of("cloze", "a.jsonl",
                                   "{\"context\":\"The sky is\",\"continuation\":\" blue\"}\n"
                                   "{\"context\":\"The sky is \\n\",\"continuation\":\"blue\"}\n"
                                   "{\"text\":\"She said hello to  Hans. \"}\n"
                                   "{\"context\":\"\",\"continuation\":\"alone\"}\n"),
        &o);
    cr_assert_eq(s.n_samples, 4);
    cr_expect_eq(s.n_questions, 4);
    expect_item(&s, 0, "The sky is", " blue");
    expect_item(&s, 1, "The sky is", " \nblue"); /* white space goes to the answer, as in lm-eval */
    expect_item(&s, 2, "She said hello to", " Hans.");
    expect_item(&s, 3, "", "alone");
    cr_expect_eq(s.items[0].n_bytes, 5);
    cr_expect_eq(s.items[1].n_bytes, 4);
    cr_expect_eq(s.items[2].n_bytes, 5);
    cr_expect_eq(s.items[3].begin, 1);
    cr_expect_str_eq(s.items[2].id, "a.jsonl:3");
    cr_expect(
        isnan(s.items[0].depth) && s.items[0].length == -1 && s.items[0].gold && !s.items[0].group);
    cr_expect_eq(s.samples[0].score_from, s.items[0].begin - 1);
    cr_expect_not(s.score_text);
    sample_set_clear(&s);
}

Test(suites, long_contexts_are_cut_at_the_left_and_counted)
{
    struct suite_options o = options(10);
    struct sample_set s = load(spec_of("cloze", "a.jsonl",
                                   "{\"context\":\"0123456789abc\",\"continuation\":\" yes\"}\n"
                                   "{\"context\":\"01234\",\"continuation\":\" yes\"}\n"),
        &o);
    cr_expect_eq(s.n_truncated, 1);
    cr_expect_eq(s.samples[0].n, 10);
    cr_expect_eq(s.samples[0].ids[0], SYNTH_BOS);
    expect_item(&s, 0, "89abc", " yes");
    expect_item(&s, 1, "01234", " yes");
    cr_expect_str_eq(s.samples[0].name, "a.jsonl line 1 (first 8 of 13 context tokens cut)");
    sample_set_clear(&s);
    s = load(
        spec_of("cloze", "a.jsonl", "{\"context\":\"0123\",\"continuation\":\" eight---\"}\n"), &o);
    expect_item(&s, 0, "", " eight---");
    sample_set_clear(&s);
    REFUSED(spec_of("cloze", "a.jsonl", "{\"context\":\"0123\",\"continuation\":\" eight----\"}\n"),
        &o, ERR_FORMAT, "line 1", "10 tokens", "room for 9");
}

static const char merging_json[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[],\"normalizer\":"
    "null,"
    "\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":null,\"model\":{\"type\":\"BPE\","
    "\"dropout\":"
    "null,"
    "\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_"
    "unk\":false,"
    "\"byte_fallback\":false,\"vocab\":{\"x\":0,\"y\":1,\"xy\":2,\"z\":3},\"merges\":[\"x y\"]}}";

Test(suites, straddling_tokens_and_no_bos)
{
    struct tokenizer *t;
    cr_assert_eq(tokenizer_parse(&t, "merging", merging_json, sizeof merging_json - 1, NULL, 0), OK,
        "%s", status_message());
    struct suite_options o = {.tokenizer = t, .max_length = 3};
    struct sample_set s = load(spec_of("cloze", "a.jsonl",
                                   /* z xy | z z */
                                   "{\"context\":\"zx\",\"continuation\":\"yzz\"}\n"
                                   /* z | xy */
                                   "{\"context\":\"zx\",\"continuation\":\"y\"}\n"
                                   "{\"context\":\"zy\",\"continuation\":\"z\"}\n"),
        &o); /* z y | z */
    cr_assert_eq(s.n_items, 3);
    cr_expect_eq(s.samples[0].n, 3);
    cr_expect_eq(s.samples[0].ids[0], 2, "the first z is cut");
    cr_expect_eq(s.items[0].begin, 1);
    cr_expect_eq(s.items[0].end, 3);
    cr_expect_eq(s.n_truncated, 1);
    cr_expect_eq(s.samples[1].n, 2);
    cr_expect_eq(s.samples[1].ids[1], 2);
    cr_expect_eq(s.items[1].begin, 1);
    cr_expect_eq(s.samples[2].n, 3);
    cr_expect_eq(s.items[2].begin, 2);
    sample_set_clear(&s);
    REFUSED(spec_of("cloze", "a.jsonl", "{\"context\":\"\",\"continuation\":\"yz\"}\n"), &o,
        ERR_FORMAT, "line 1", "context is empty");
    s = load(spec_of("text", "a.txt", "zyzyzy"), &o);
    cr_expect_eq(s.n_samples, 2);
    cr_expect_eq(s.samples[0].n, 3);
    sample_set_clear(&s);
    tokenizer_close(&t);
}

static struct tokenizer *merging(const char *processor, const char *config)
{
    struct tokenizer *t;
    struct str json = {0};
    const char *null = "\"post_processor\":null", *at = strstr(merging_json, null);
    str_addf(&json, "%.*s\"post_processor\":%s%s", (int)(at - merging_json), merging_json,
        processor, at + strlen(null));
    cr_assert_eq(tokenizer_parse(&t, "merging", json.data, json.len, config, strlen(config)), OK,
        "%s", status_message());
    str_clear(&json);
    return t;
}

/* Whether BOS (x, here) stands in front is the tokenizer's to say, unless --bos does; what a text
 * spells out is not said twice. Ids as `tokenizers` 0.2x gives them with add_special_tokens, but
 * for that doubling. */
Test(suites, bos_follows_the_tokenizer)
{
    static const char template[] = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
                                   "{\"id\":\"x\",\"type_id\":0}},"
                                   "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
                                   "\"special_tokens\":{\"x\":{\"id\":\"x\",\"ids\":[0],"
                                   "\"tokens\":[\"x\"]}}}";
    static const struct {
        const char *processor, *config;
        bool by_itself;
    } kinds[] = {
        {"null", "{\"bos_token\":\"x\",\"add_bos_token\":false}", false}, /* Yi, SmolLM */
        {"null", "{\"bos_token\":\"x\"}", false},
        {"null", "{\"bos_token\":\"x\",\"add_bos_token\":true}", true},
        {template, "{\"bos_token\":\"x\"}", true},
    };
    static const char *const rules[] = {"tokenizer", "always", "never"};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct tokenizer *t = merging(kinds[k].processor, kinds[k].config);
        for (int r = 0; r < 3; r++) {
            struct suite_options o = {.tokenizer = t, .max_length = 3};
            cr_assert(bos_rule_parse(rules[r], &o.bos));
            int bos = r == 1 || (r == 0 && kinds[k].by_itself);
            struct sample_set s = load(spec_of("text", "a.txt", "zyzzy"), &o);
            cr_expect_eq(s.n_samples, bos ? 2 : 1,
                "5 tokens in windows of 3 with it, whose short rest is left out; %zu %s", k,
                rules[r]);
            for (int i = 0; i < s.n_samples; i++)
                cr_expect_eq(s.samples[i].ids[0] == 0, bos, "%zu %s window %d", k, rules[r], i);
            cr_expect_eq(str_starts_with(s.name, "--bos "), r > 0);
            struct suite_said said;
            cr_expect(str_starts_with(suite_name_parse(s.name, &said), "text:/") &&
                said.bos == o.bos && !said.chat && !said.field);
            suite_said_clear(&said);
            sample_set_clear(&s);
            s = load(spec_of("text", "a.txt", "xzy"), &o); /* BOS spelled out */
            cr_expect_eq(s.samples[0].n, 3);
            cr_expect(
                s.samples[0].ids[0] == 0 && s.samples[0].ids[1] == 3 && s.samples[0].ids[2] == 1,
                "%zu %s", k, rules[r]);
            sample_set_clear(&s);
            s = load(
                spec_of("cloze", "a.jsonl", "{\"context\":\"xz\",\"continuation\":\"z\"}\n"), &o);
            cr_expect(s.samples[0].n == 3 && s.items[0].begin == 2 && s.items[0].end == 3);
            sample_set_clear(&s);
        }
        tokenizer_close(&t);
    }
    struct tokenizer *none = merging("null", "{}");
    struct suite_options o = {.tokenizer = none, .max_length = 8, .bos = BOS_ALWAYS};
    REFUSED(spec_of("text", "a.txt", "zy"), &o, ERR_ARG, "--bos always", "no begin-of-text");
    tokenizer_close(&none);
}

/* More ids than rows are no matter until a text needs one. */
Test(suites, tokens_beyond_the_table)
{
    struct suite_options o = options(64);
    o.n_rows = SYNTH_BOS + 1;
    struct sample_set s = load(spec_of("text", "a.txt", "fine"), &o);
    sample_set_clear(&s);
    o.n_rows = SYNTH_BOS;
    REFUSED(spec_of("text", "a.txt", "fine"), &o, ERR_FORMAT, "a.txt window 1", "token 256",
        "256 rows", "258 ids");
    o.bos = BOS_NEVER;
    s = load(spec_of("text", "a.txt", "fine"), &o);
    sample_set_clear(&s);
    o.n_rows = 'n';
    REFUSED(spec_of("text", "a.txt", "fine"), &o, ERR_FORMAT, "token 110, \"n\"");
}

Test(suites, choice_candidates)
{
    struct suite_options o = options(64);
    struct sample_set s =
        load(spec_of("choice", "a.jsonl",
                 "{\"query\":\"Two and "
                 "two:\",\"choices\":[\"four\",\"fifteen\"],\"gold\":0}\n"
                 "{\"query\":\"Q \",\"choices\":[\"a\",\" b\",\"c\"],\"gold\":\"c\"}\n"
                 "{\"query\":\"R\",\"choices\":[\"no\",\"yes\"],\"gold\":\"1\"}\n"
                 "{\"query\":\"R\",\"choices\":[\"1\",\"0\"],\"gold\":\"0\"}\n"),
            &o);
    cr_assert_eq(s.n_items, 9);
    cr_assert_eq(s.n_samples, 9);
    cr_expect_eq(s.n_questions, 4);
    expect_item(&s, 0, "Two and two:", " four");
    expect_item(&s, 1, "Two and two:", " fifteen");
    expect_item(&s, 2, "Q", " a");
    expect_item(&s, 3, "Q", "  b");
    const bool gold[9] = {true, false, false, false, true, false, true, true, false};
    const int question[9] = {0, 0, 1, 1, 1, 2, 2, 3, 3};
    for (int i = 0; i < 9; i++) {
        cr_expect_eq(s.items[i].gold, gold[i], "item %d", i);
        cr_expect_eq(s.items[i].question, question[i]);
    }
    cr_expect_eq(
        s.n_ambiguous, 1, "the last one's \"0\" is its first choice, and the text of its second");
    cr_expect_eq(s.items[0].n_bytes, 4);
    cr_expect_str_eq(s.items[4].id, "a.jsonl:2:2");
    sample_set_clear(&s);
}

Test(suites, choice_limits_by_question)
{
    const char *text = "{\"query\":\"long enough\",\"choices\":[\"x\",\"y\"],\"gold\":0}\n"
                       "{\"query\":\"s\",\"choices\":[\"long enough too\",\"y\"],\"gold\":0}\n"
                       "{\"query\":\"long enough\",\"choices\":[\"x\",\"y\"],\"gold\":1}\n";
    struct suite_options o = options(64);
    o.num_samples = 2;
    struct sample_set s = load(spec_of("choice", "a.jsonl", text), &o);
    cr_expect_eq(s.n_samples, 4);
    cr_expect_eq(s.n_questions, 2);
    sample_set_clear(&s);
    o.num_samples = 0;
    o.min_length = 10; /* the second question's second candidate is shorter, so all of it goes */
    s = load(spec_of("choice", "a.jsonl", text), &o);
    cr_expect_eq(s.n_questions, 2);
    cr_expect_eq(s.n_samples, 4);
    cr_expect_eq(s.n_skipped, 1);
    expect_item(&s, 2, "long enough", " x");
    cr_expect_eq(s.items[2].question, 1);
    sample_set_clear(&s);
    o.min_length = 40;
    REFUSED(spec_of("choice", "a.jsonl", text), &o, ERR_FORMAT, "all 3 questions", "40 tokens");
}

Test(suites, choice_bad_lines)
{
    struct suite_options o = options(64);
#define BAD(line, ...)                                                                 \
    REFUSED(spec_of("choice", "a.jsonl",                                               \
                "{\"query\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":0}\n" line "\n"), \
        &o, ERR_FORMAT, "line 2", __VA_ARGS__)
    BAD("{\"query\":\"q\",\"choices\":[\"x\"],\"gold\":0}", "1 choices");
    BAD("{\"query\":\"q\",\"choices\":[\"x\",3],\"gold\":0}", "choices[1]", "a number");
    BAD("{\"query\":\"q\",\"choices\":[\"x\",\"\"],\"gold\":0}", "choices[1]", "empty");
    BAD("{\"query\":\"q\",\"choices\":\"xy\",\"gold\":0}", "a string", "an array");
    BAD("{\"query\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":2}", "gold", "found 2", "0 to 1");
    BAD("{\"query\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":-1}", "found -1");
    BAD("{\"query\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":0.5}", "found 0.5");
    BAD("{\"query\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":\"z\"}", "\"z\" is none of the 2");
    BAD("{\"query\":\"q\",\"choices\":[\"x\",\"y\"],\"gold\":true}", "true or false");
    BAD("{\"query\":\"q\",\"choices\":[\"x\",\"y\"]}", "\"gold\" is missing");
#undef BAD
}

Test(suites, unknown_names_list_the_known)
{
    struct suite_options o = options(64);
    REFUSED("wiki:x", &o, ERR_ARG, "\"wiki\"",
        "text, cloze, choice, needle, chronicle, ruler, tasks, speed, null");
    REFUSED("", &o, ERR_ARG, "unknown suite");
    REFUSED("chronicle:x", &o, ERR_ARG, "no argument");
    o.max_length = 1;
    REFUSED("null", &o, ERR_ARG, "max_length is 1");
    o = options(64);
    o.num_samples = -1;
    REFUSED("null", &o, ERR_ARG, "num_samples is -1");
}

static size_t count(const char *text, size_t len, const char *what)
{
    size_t n = 0, w = strlen(what);
    for (size_t i = 0; i + w <= len; i++) n += memcmp(text + i, what, w) == 0;
    return n;
}

/* With byte tokens a sample without BOS is its text. */
static char *sample_text(const struct sample *s)
{
    char *text = calloc((size_t)s->n, 1);
    for (int i = 1; i < s->n; i++) text[i - 1] = (char)s->ids[i];
    return text;
}

static void expect_answerable(const struct sample_set *s, const struct item *item)
{
    char *text = sample_text(&s->samples[item->sample]);
    /* of the text, and without the space */
    int begin = item->begin - 1, n = item->end - item->begin - 1;
    char *answer = strndup(text + begin + 1, (size_t)n);
    cr_expect_eq(text[begin], ' ');
    cr_expect_eq(n, item->n_bytes);
    cr_expect_eq(
        count(text, (size_t)begin, answer), 1, "%s: \"%s\" stands before once", item->id, answer);
    free(answer);
    free(text);
}

Test(suites, needle_fills_the_grid)
{
    struct suite_options o = options(2048);
    struct sample_set s = load("needle:lengths=1024,2000;depths=0,50,100;repeat=2", &o);
    cr_assert_eq(s.n_samples, 12);
    cr_assert_eq(s.n_items, 12);
    for (int i = 0; i < 12; i++) {
        const struct item *item = &s.items[i];
        int length = i / 3 % 2 ? 2000 : 1024;
        cr_expect_eq(item->length, length);
        cr_expect_eq(item->depth, i % 3 * .5);
        cr_expect_eq(item->sample, i);
        cr_expect_str_eq(item->group, "needle");
        cr_expect(s.samples[i].n <= length && s.samples[i].n * 10 > length * 9, "%d of %d",
            s.samples[i].n, length);
        expect_answerable(&s, item);
        char *text = sample_text(&s.samples[i]), *query = strstr(text, "Question: ");
        cr_assert(query && !memcmp(text + item->begin - 1 - 7, "Answer:", 7));
        char *answer = strndup(text + item->begin, (size_t)item->n_bytes);
        double at = (double)(strstr(text, answer) - text) / (double)(query - text);
        cr_expect(
            fabs(at - item->depth) < .2, "depth %g, the needle stands at %g", item->depth, at);
        free(answer);
        free(text);
    }
    cr_expect_not(s.score_text);
    sample_set_clear(&s);
    s = load("needle", &o);
    cr_expect_eq(s.n_samples, 3 * 5 * 2);
    cr_expect_eq(s.items[0].length, 512);
    cr_expect_eq(s.items[29].length, 2048);
    sample_set_clear(&s);
    o.num_samples = 7;
    s = load("needle:needles=4", &o);
    cr_expect_eq(s.n_samples, 7);
    sample_set_clear(&s);
}

/* The same texts but for what a model may write more than the answer, which its length holds. */
Test(suites, needle_answers_are_read_or_written)
{
    struct suite_options o = options(2048);
    struct sample_set read = load("needle:lengths=1024;answers=read", &o),
                      s = load("needle:lengths=1024;answers=written", &o);
    cr_expect_eq(sample_set_writes(&read), false);
    cr_assert_eq(s.n_samples, read.n_samples);
    for (int i = 0; i < s.n_samples; i++) {
        const struct item *item = &s.items[i];
        const struct wanted *w = sample_wanted(&s, i);
        cr_assert(w && w->n_answers == 1);
        cr_expect_str_eq(item->group, "needle, written");
        cr_expect(item->begin == s.samples[i].n_prompt && item->end == s.samples[i].n);
        cr_expect_eq(s.samples[i].score_from, item->begin - 1);
        cr_expect_eq(w->budget, item->end - item->begin + 8);
        cr_expect(item->begin + w->budget <= 1024 && item->end > (1024 - 8) * 9 / 10, "%d, %d, %d",
            item->begin, item->end, w->budget);
        char *with_blank = str_format(" %s", w->answers[0]), *text = sample_text(&s.samples[i]);
        expect_text(&s, i, item->begin, item->end, with_blank);
        cr_expect(strstr(text, w->answers[0]) < text + item->begin, "it stands in the prompt");
        cr_expect_eq(wanted_score(w, with_blank), 1);
        cr_expect_eq(wanted_score(w, " something else"), 0);
        free(with_blank);
        free(text);
    }
    sample_set_clear(&read);
    sample_set_clear(&s);
    REFUSED("needle:answers=read,written", &o, ERR_ARG, "read or written");
    REFUSED("needle:answers=spoken", &o, ERR_ARG, "has no \"spoken\"");
}

/* The last question of a text of its own, behind the others with their answers. */
Test(suites, chronicle_answers_are_written)
{
    struct suite_options o = options(4096);
    o.num_samples = 3;
    struct sample_set s = load("chronicle:answers=written;ask=end,middle,start,twice", &o);
    cr_assert(s.n_samples == 12 && s.n_items == 12 && !s.score_text);
    for (int i = 0; i < 12; i++) {
        static const char *const groups[] = {"chronicle, written", "chronicle, written ask=middle",
            "chronicle, written ask=start", "chronicle, written ask=twice"};
        const struct item *item = &s.items[i], *at_end = &s.items[i / 4 * 4];
        const struct wanted *w = sample_wanted(&s, i);
        cr_assert(w && w->n_answers == 1);
        cr_expect_str_eq(item->group, groups[i % 4]);
        cr_expect(item->begin == s.samples[i].n_prompt && item->end == s.samples[i].n);
        cr_expect(item->begin + w->budget <= 4096 && item->length == 4096);
        cr_expect_str_eq(w->answers[0], at_end->wanted->answers[0], "the same question");
        char *text = sample_text(&s.samples[i]), *answer = strstr(text, w->answers[0]);
        expect_text(&s, i, item->begin + 1, item->end, w->answers[0]);
        cr_expect(!memcmp(text + item->begin - 1 - 7, "Answer:", 7), "it begins as it was asked");
        cr_expect(answer < text + item->begin - 1, "it stands in the prompt");
        double distance = item->length * (1 - item->depth);
        cr_expect(fabs(text + item->begin - answer - distance) < 200, "%g", distance);
        cr_expect(!strncmp(text, "This is the chronicle", 21) == (i % 4 < 2), "asked at the start");
        for (int k = 0; k < i; k++) cr_expect_neq(strcmp(item->id, s.items[k].id), 0);
        free(text);
    }
    sample_set_clear(&s);
    o = options(700); /* so short that many have no question at their end */
    s = load("chronicle:answers=written", &o);
    cr_expect_eq(s.n_samples, 30);
    for (int i = 0; i < s.n_samples; i++) cr_expect(sample_room(&s, i) <= 700);
    sample_set_clear(&s);
    REFUSED("chronicle:answers=both", &o, ERR_ARG, "has no \"both\"");
    REFUSED("chronicle:answer=read", &o, ERR_ARG, "answers=read or written");
}

/* A chat goes with answers that are written, whose length it is a part of. */
Test(suites, chats_wrap_what_is_written)
{
    struct chat chat = {.name = "mine", .before = "<U>", .after = "<A>"};
    struct suite_options o = options(2048);
    const char *specs[] = {"needle:answers=written;ask=end,start", "chronicle:answers=written"};
    for (int k = 0; k < 2; k++) {
        o.chat = NULL;
        struct sample_set bare = load(specs[k], &o);
        o.chat = &chat;
        struct sample_set s = load(specs[k], &o);
        cr_expect_neq(strcmp(bare.fingerprint, s.fingerprint), 0);
        for (int i = 0; i < s.n_samples; i++) {
            char *text = sample_text(&s.samples[i]), *turn = strstr(text, "<A>");
            const struct item *item = &s.items[i];
            cr_expect(str_starts_with(text, "<U>") && turn);
            cr_expect(str_starts_with(turn, "<A> Answer:") || str_starts_with(turn, "<A>Answer:"));
            cr_expect(turn < text + item->begin && turn > text + item->begin - 20);
            cr_expect(sample_room(&s, i) <= item->length);
            free(text);
        }
        sample_set_clear(&bare);
        sample_set_clear(&s);
    }
    REFUSED("needle", &o, ERR_ARG, "--chat mine", "needle:answers=written");
    REFUSED("chronicle:ask=start", &o, ERR_ARG, "chronicle:answers=written");
    REFUSED("null", &o, ERR_ARG, "needle and chronicle with answers=written");
}

/* Asked elsewhere it is the same text, so that a difference is the place's. */
Test(suites, places_of_a_question_share_their_text)
{
    struct suite_options o = options(2048);
    const char *specs[] = {
        "needle:lengths=1024;ask=end,middle,start,twice", "chronicle:ask=end,middle,start,twice"};
    for (int k = 0; k < 2; k++) {
        o.num_samples = k ? 2 : 8;
        struct sample_set s = load(specs[k], &o);
        for (int i = 0; i < s.n_samples; i += 4) {
            char *first = sample_text(&s.samples[i]),
                 *end = strstr(first, k ? "Now" : "Question: ");
            cr_assert(end);
            *end = 0; /* what stands in front of the questions at the end */
            size_t third = strlen(first) / 3;
            for (int j = i; j < i + 4; j++) {
                char *text = sample_text(&s.samples[j]);
                cr_expect_leq(s.samples[j].n, k ? 2048 : 1024);
                char *tail = strstr(text, first + 2 * third), kept = first[third];
                first[third] = 0;
                cr_expect(strstr(text, first) && tail, "%s", s.samples[j].name);
                first[third] = kept;
                free(text);
            }
            free(first);
        }
        sample_set_clear(&s);
    }
}

Test(suites, needle_bad_options)
{
    struct suite_options o = options(2048);
    REFUSED(
        "needle:length=5", &o, ERR_ARG, "\"length\"", "known: lengths, depths, repeat, needles");
    REFUSED("needle:lengths=1024,4096", &o, ERR_ARG, "lengths=1024,4096", "2048 (max_length)");
    REFUSED("needle:lengths=", &o, ERR_ARG, "lengths=");
    REFUSED("needle:lengths=100.5", &o, ERR_ARG, "lengths=100.5");
    REFUSED("needle:depths=0,101", &o, ERR_ARG, "depths=0,101", "0 to 100");
    REFUSED("needle:depths=1;2", &o, ERR_ARG, "\"2\"");
    REFUSED("needle:repeat=0", &o, ERR_ARG, "repeat=0", "1 to 1000");
    REFUSED("needle:repeat=1,2", &o, ERR_ARG, "repeat=1,2");
    REFUSED("needle:depths=nan", &o, ERR_ARG, "depths=nan");
    REFUSED("needle:lengths=64", &o, ERR_ARG, "64 tokens", "raise the length");
}

Test(suites, chronicle_questions)
{
    struct suite_options o = options(4096);
    o.num_samples = 3;
    struct sample_set s = load("chronicle", &o);
    cr_assert_eq(s.n_samples, 3);
    cr_expect(s.score_text);
    cr_assert_gt(s.n_items, 10);
    for (int i = 0; i < s.n_samples; i++) {
        cr_expect(s.samples[i].n <= 4096 && s.samples[i].n * 10 > 4096 * 9);
        cr_expect_eq(s.samples[i].score_from, 0);
    }
    for (int i = 0; i < s.n_items; i++) {
        const struct item *item = &s.items[i];
        expect_answerable(&s, item);
        cr_expect_eq(item->length, item->begin);
        cr_expect(item->depth >= 0 && item->depth < 1);
        char *text = sample_text(&s.samples[item->sample]);
        char *answer = strndup(text + item->begin, (size_t)item->n_bytes);
        double evidence = item->depth * item->begin, at = (double)(strstr(text, answer) - text) + 1;
        cr_expect(evidence < at && at - evidence < 300,
            "the answer stands behind the start of its sentence");
        free(answer);
        free(text);
    }
    sample_set_clear(&s);
    o = options(4096);
    s = load("chronicle", &o);
    cr_expect_eq(s.n_samples, 8);
    sample_set_clear(&s);
    o.max_length = 200;
    REFUSED("chronicle", &o, ERR_ARG, "200 tokens", "raise the length");
}

Test(suites, null_has_exactly_the_length)
{
    const int lengths[] = {2, 100, 3000};
    for (int i = 0; i < 3; i++) {
        struct suite_options o = options(lengths[i]);
        struct sample_set s = load("null", &o);
        cr_expect_eq(s.n_samples, 4);
        for (int j = 0; j < 4; j++) cr_expect_eq(s.samples[j].n, lengths[i]);
        for (int j = 0; j < s.n_items; j++) expect_answerable(&s, &s.items[j]);
        cr_expect(lengths[i] < 3000 || s.n_items > 0);
        sample_set_clear(&s);
    }
}

static void expect_same(const struct sample_set *a, const struct sample_set *b)
{
    cr_assert(a->n_samples == b->n_samples && a->n_items == b->n_items);
    for (int i = 0; i < a->n_samples; i++) {
        const struct sample *x = &a->samples[i], *y = &b->samples[i];
        cr_assert(x->n == y->n && x->score_from == y->score_from);
        cr_assert_eq(memcmp(x->ids, y->ids, (size_t)x->n * sizeof *x->ids), 0);
        cr_assert_str_eq(x->name, y->name);
    }
    for (int i = 0; i < a->n_items; i++) {
        const struct item *x = &a->items[i], *y = &b->items[i];
        cr_assert_str_eq(x->id, y->id);
        cr_assert_str_eq(x->group, y->group);
        cr_assert(x->question == y->question && x->sample == y->sample && x->begin == y->begin &&
            x->end == y->end);
        cr_assert(x->depth == y->depth && x->length == y->length && x->n_bytes == y->n_bytes);
    }
    cr_assert_str_eq(a->fingerprint, b->fingerprint);
}

Test(suites, generated_sets_are_identical_and_follow_the_seed)
{
    const char *specs[] = {"needle:repeat=1", "chronicle", "null"};
    for (int i = 0; i < 3; i++) {
        struct suite_options o = options(2000), other = o;
        o.num_samples = other.num_samples = 4;
        struct sample_set a = load(specs[i], &o), b = load(specs[i], &o);
        expect_same(&a, &b);
        sample_set_clear(&b);
        other.seed = 2;
        b = load(specs[i], &other);
        cr_expect_str_neq(a.fingerprint, b.fingerprint);
        sample_set_clear(&b);
        other = o;
        other.tuning = true;
        b = load(specs[i], &other);
        cr_expect_str_neq(a.fingerprint, b.fingerprint);
        for (int x = 0; x < a.n_samples; x++)
            for (int y = 0; y < b.n_samples; y++) {
                int n = a.samples[x].n < b.samples[y].n ? a.samples[x].n : b.samples[y].n;
                cr_expect_neq(
                    memcmp(a.samples[x].ids, b.samples[y].ids, (size_t)n * sizeof(int32_t)), 0);
            }
        sample_set_clear(&b);
        sample_set_clear(&a);
    }
}

static void expect_changed(struct sample_set *s, const char *before, const char *what)
{
    sample_set_finish(s);
    cr_expect_str_neq(s->fingerprint, before, "%s does not change the fingerprint", what);
}

Test(suites, fingerprint_covers_what_is_measured)
{
    struct suite_options o = options(64);
    const char *text = "{\"query\":\"long enough\",\"choices\":[\"x\",\"y\"],\"gold\":0}\n";
    struct sample_set s = load(spec_of("choice", "a.jsonl", text), &o);
    struct sample_set renamed = load(spec_of("choice", "b.jsonl", text), &o);
    cr_expect_str_eq(s.fingerprint, renamed.fingerprint, "a renamed file is the same data");
    sample_set_clear(&renamed);
    char before[33];
    strcpy(before, s.fingerprint);
    cr_expect_eq(strlen(before), 32);
#define CHANGE(field, value)                \
    do {                                    \
        typeof(field) keep_ = field;        \
        field = value;                      \
        expect_changed(&s, before, #field); \
        field = keep_;                      \
    } while (0)
    CHANGE(s.samples[1].ids[3], 7);
    CHANGE(s.samples[1].n, s.samples[1].n - 1);
    CHANGE(s.samples[0].score_from, 1);
    CHANGE(s.items[0].question, 1);
    CHANGE(s.items[0].sample, 1);
    CHANGE(s.items[0].begin, 2);
    CHANGE(s.items[0].end, 5);
    CHANGE(s.items[0].gold, false);
    CHANGE(s.items[1].n_bytes, 2);
    CHANGE(s.items[1].depth, .5);
    CHANGE(s.items[1].length, 5);
    char group[] = "g";
    CHANGE(s.items[1].group, group);
    CHANGE(s.n_items, 1);
#undef CHANGE
    sample_set_finish(&s);
    cr_expect_str_eq(s.fingerprint, before);
    sample_set_clear(&s);
}

/* One sample of six tokens, answers over [begin, end). */
static void add_sample(struct sample_set *s)
{
    struct sample sample = {.ids = calloc(6, sizeof(int32_t)), .n = 6, .name = str_dup("s")};
    cr_assert_eq(sample_set_add(s, sample), OK);
}

static void add_item(
    struct sample_set *s, int question, int sample, int begin, int end, bool gold, int n_bytes)
{
    struct item item = {.id = str_format("%d", s->n_items),
        .question = question,
        .sample = sample,
        .begin = begin,
        .end = end,
        .gold = gold,
        .n_bytes = n_bytes,
        .depth = NAN,
        .length = -1};
    cr_assert_eq(sample_set_add_item(s, item), OK);
}

Test(suites, scores)
{
    struct sample_set s = {0};
    for (int i = 0; i < 4; i++) add_sample(&s);
    add_item(&s, 0, 0, 1, 3, true, 4); /* exact answers */
    add_item(&s, 1, 0, 3, 6, true, 6);
    add_item(&s, 2, 1, 4, 6, false, 1); /* a choice of three; the second is right */
    add_item(&s, 2, 2, 4, 6, true, 10);
    add_item(&s, 2, 3, 4, 6, false, 2);
    sample_set_finish(&s);
    cr_assert_eq(s.n_questions, 3);

    struct token_score t[4][5];
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 5; j++) t[i][j] = (struct token_score){-1, -2, 1, 1};
    t[0][3].argmax_sparse = 0;  /* predicts token 4, in the second answer */
    t[1][3].logprob_dense = -3; /* sums -4, -2, -2.5 dense: right */
    t[3][3].logprob_dense = -1.5f;
    /* sums -3, -4, -4 sparse: wrong, but -3/1, -4/10, -4/2 per byte: right */
    t[1][4].logprob_sparse = -1;
    const struct token_score *tokens[] = {t[0], t[1], t[2], t[3]};
    struct item_score out[3];
    int gold[3];
    suite_score(&s, tokens, out, gold);
    cr_expect(gold[0] == 0 && gold[1] == 1 && gold[2] == 3);
    cr_expect_eq(out[0].dense, -2);
    cr_expect_eq(out[0].sparse, -4);
    cr_expect_eq(out[0].dense_norm, -.5);
    cr_expect_eq(out[0].sparse_norm, -1);
    cr_expect(out[0].dense_right && out[0].sparse_right && out[0].dense_right_norm &&
        out[0].sparse_right_norm);
    cr_expect_eq(out[1].dense, -3);
    cr_expect(out[1].dense_right && !out[1].sparse_right && out[1].dense_right_norm &&
        !out[1].sparse_right_norm);
    cr_expect_eq(out[2].dense, -2);
    cr_expect_eq(out[2].sparse, -4);
    cr_expect(out[2].dense_right && !out[2].sparse_right);
    cr_expect(out[2].dense_right_norm && out[2].sparse_right_norm);

    /* a tie with a later candidate stands, with an earlier one it falls */
    t[3][3].logprob_dense = -1;
    suite_score(&s, tokens, out, NULL);
    cr_expect(out[2].dense_right);
    t[1][3].logprob_dense = -1;
    suite_score(&s, tokens, out, NULL);
    cr_expect_not(out[2].dense_right);
    t[1][3].logprob_dense = -3;
    t[2][3].logprob_dense = NAN; /* NaN is never right */
    suite_score(&s, tokens, out, NULL);
    cr_expect(!out[2].dense_right && !out[2].dense_right_norm);
    t[2][3].logprob_dense = -1;
    t[3][3].logprob_dense = NAN;
    suite_score(&s, tokens, out, NULL);
    cr_expect(!out[2].dense_right && !out[2].dense_right_norm);
    sample_set_clear(&s);
}

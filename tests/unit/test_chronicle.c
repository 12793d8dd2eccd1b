#include "suites/chronicle.h"

#include "base/rng.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t fnv1a(const char *s, size_t n, uint64_t h)
{
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    return h;
}

static void write_chronicle(
    struct chronicle_doc *doc, enum chronicle_split split, uint64_t seed, size_t bytes)
{
    cr_assert_eq(chronicle_write(&(struct chronicle_config){split, seed, bytes}, doc), OK, "%s",
        status_message());
}

static void write_needle(struct chronicle_doc *doc, struct needle_config config)
{
    cr_assert_eq(needle_write(&config, doc), OK, "%s", status_message());
}

/* Occurrences of the answer in text[0 .. end) that are not part of a longer word or number. */
static int count_answer(
    const struct chronicle_doc *doc, const struct chronicle_question *q, size_t end, size_t *where)
{
    const char *text = doc->text.data, *answer = text + q->answer_begin;
    size_t n = q->answer_end - q->answer_begin;
    int count = 0;
    for (size_t i = 0; i + n <= end; i++) {
        if (memcmp(text + i, answer, n) != 0) continue;
        count++;
        *where = i;
    }
    return count;
}

static void check_questions(const struct chronicle_doc *doc)
{
    const char *text = doc->text.data;
    size_t before = 0;
    for (size_t i = 0; i < doc->n_questions; i++) {
        const struct chronicle_question *q = &doc->questions[i];
        size_t where = 0;
        int len = (int)(q->answer_end - q->answer_begin);
        cr_assert_geq(q->query_begin, before, "questions are in text order");
        before = q->answer_end;
        cr_assert(q->query_begin < q->answer_begin && q->answer_begin < q->answer_end);
        cr_assert_lt(q->answer_end, doc->text.len);
        cr_assert_eq(
            text[q->answer_begin - 1], ' ', "prompt of \"%.*s\"", len, text + q->answer_begin);
        cr_assert(strchr(".,;\n", text[q->answer_end]) != NULL, "after \"%.*s\"", len,
            text + q->answer_begin);
        cr_assert_eq(count_answer(doc, q, q->query_begin, &where), 1,
            "\"%.*s\" before its %s question", len, text + q->answer_begin,
            chronicle_kind_name(q->kind));
        cr_assert_geq(where, q->evidence_begin);
        cr_assert_lt(where, q->evidence_begin + 200);
        cr_assert_eq(memchr(text + q->evidence_begin, '\n', where - q->evidence_begin), NULL,
            "the evidence is one line");
    }
}

Test(chronicle, bytes_are_pinned)
{
    struct chronicle_doc doc = {0};
    uint64_t h = 14695981039346656037u;
    for (uint64_t seed = 0; seed < 20; seed++) {
        write_chronicle(
            &doc, seed % 2 ? CHRONICLE_EVAL : CHRONICLE_TRAIN, seed, 2000 + 1500 * seed);
        h = fnv1a(doc.text.data, doc.text.len, h);
        write_needle(&doc,
            (struct needle_config){.split = CHRONICLE_EVAL,
                .seed = seed,
                .target_bytes = 4000,
                .depth_permille = (int)seed * 50,
                .n_needles = 3,
                .n_questions = 2});
        h = fnv1a(doc.text.data, doc.text.len, h);
    }
    cr_assert_eq(h, 0xe7da84bbd9901229u, "the texts changed: 0x%016llx", (unsigned long long)h);
    chronicle_doc_clear(&doc);
}

Test(chronicle, same_seed_same_document_also_into_a_used_one)
{
    struct chronicle_doc a = {0}, b = {0};
    write_chronicle(&a, CHRONICLE_EVAL, 7, 9000);
    write_chronicle(&b, CHRONICLE_EVAL, 8, 30000);
    cr_assert_str_neq(a.text.data, b.text.data);
    write_chronicle(&b, CHRONICLE_EVAL, 7, 9000);
    cr_assert_str_eq(a.text.data, b.text.data);
    cr_assert_eq(a.n_questions, b.n_questions);
    cr_assert_arr_eq(a.questions, b.questions, a.n_questions * sizeof *a.questions);
    chronicle_doc_clear(&a);
    chronicle_doc_clear(&b);
}

/* The two splits can never start the same stream: their seeds differ in the lowest bit whatever the
 * input. */
Test(chronicle, training_and_evaluation_seeds_are_disjoint)
{
    struct rng r;
    rng_init(&r, 3);
    for (int i = 0; i < 100000; i++) {
        uint64_t seed = i < 1000 ? (uint64_t)i : rng_u64(&r);
        for (uint32_t domain = 0; domain < 3; domain++) {
            uint64_t train = chronicle_stream_seed(CHRONICLE_TRAIN, seed, domain);
            uint64_t eval = chronicle_stream_seed(CHRONICLE_EVAL, seed, domain);
            cr_assert_eq(train & 1, 0);
            cr_assert_eq(eval & 1, 1);
        }
        cr_assert_neq(chronicle_stream_seed(CHRONICLE_EVAL, seed, 1),
            chronicle_stream_seed(CHRONICLE_EVAL, seed, 2));
    }
    struct chronicle_doc a = {0}, b = {0};
    for (uint64_t seed = 0; seed < 50; seed++) {
        write_chronicle(&a, CHRONICLE_TRAIN, seed, 3000);
        write_chronicle(&b, CHRONICLE_EVAL, seed, 3000);
        cr_assert_str_neq(a.text.data, b.text.data);
    }
    chronicle_doc_clear(&a);
    chronicle_doc_clear(&b);
}

Test(chronicle, answers_stand_once_before_their_question_at_the_evidence)
{
    struct chronicle_doc doc = {0};
    size_t asked[CHRONICLE_KINDS] = {0};
    for (uint64_t seed = 0; seed < 60; seed++) {
        write_chronicle(&doc, CHRONICLE_EVAL, seed, 1500 + 700 * seed);
        check_questions(&doc);
        for (size_t i = 0; i < doc.n_questions; i++) asked[doc.questions[i].kind]++;
    }
    for (int kind = 0; kind < CHRONICLE_NEEDLE; kind++)
        cr_assert_gt(asked[kind], 100, "%s", chronicle_kind_name(kind));
    chronicle_doc_clear(&doc);
}

Test(chronicle, objects_have_look_alikes)
{
    struct chronicle_doc doc = {0};
    write_chronicle(&doc, CHRONICLE_EVAL, 5, 17000);
    int shared = 0, asked = 0;
    for (size_t i = 0; i < doc.n_questions; i++) {
        const struct chronicle_question *q = &doc.questions[i];
        const char *ask = doc.text.data + q->query_begin, *leave = strstr(ask, " leave the ");
        if (q->kind != CHRONICLE_LEFT || !leave || leave > doc.text.data + q->answer_begin)
            continue;
        char object[64] = "the ";
        const char *from = leave + strlen(" leave the "), *to = strchr(from, '?');
        cr_assert(to && to - from < 50);
        strncat(object, from, (size_t)(to - from));
        int seen = 0;
        for (const char *at = doc.text.data; (at = strstr(at, object)) && at < ask; at++) seen++;
        asked++;
        shared += seen >= 2;
    }
    cr_assert_gt(asked, 5);
    cr_assert_gt(shared, asked / 2, "%d of %d objects were also left by others", shared, asked);
    chronicle_doc_clear(&doc);
}

Test(chronicle, length_is_near_the_target)
{
    struct chronicle_doc doc = {0};
    for (uint64_t seed = 0; seed < 80; seed++) {
        size_t target = 600 + seed * seed * 12;
        write_chronicle(&doc, CHRONICLE_EVAL, seed, target);
        double slack = 0.05 * (double)target + 200;
        cr_assert_float_eq(
            (double)doc.text.len, (double)target, slack, "%zu for %zu", doc.text.len, target);
        cr_assert_eq(strlen(doc.text.data), doc.text.len);
    }
    chronicle_doc_clear(&doc);
}

/* Every quarter of the possible distances is asked for, and most answers lie beyond a short window.
 */
Test(chronicle, distances_spread)
{
    struct chronicle_doc doc = {0};
    size_t quarter[4] = {0}, total = 0, far = 0;
    for (uint64_t seed = 0; seed < 30; seed++) {
        write_chronicle(&doc, CHRONICLE_EVAL, seed, 17000);
        cr_assert_gt(doc.n_questions, 40);
        for (size_t i = 0; i < doc.n_questions; i++) {
            size_t distance = doc.questions[i].query_begin - doc.questions[i].evidence_begin;
            quarter[distance * 4 / doc.text.len]++;
            far += distance > 1200;
            total++;
        }
    }
    for (int i = 0; i < 4; i++)
        cr_assert_gt(quarter[i] * 20, total, "quarter %d: %zu of %zu", i, quarter[i], total);
    cr_assert_gt(far * 10, total * 7, "%zu of %zu beyond 1200 bytes", far, total);
    chronicle_doc_clear(&doc);
}

Test(needle, stands_where_asked_and_is_unique)
{
    struct chronicle_doc doc = {0};
    for (int depth = 0; depth <= 1000; depth += 50)
        for (uint64_t seed = 0; seed < 6; seed++) {
            write_needle(&doc,
                (struct needle_config){.split = CHRONICLE_EVAL,
                    .seed = seed,
                    .target_bytes = 8000,
                    .depth_permille = depth,
                    .n_needles = 1 + (int)seed % 3,
                    .n_questions = 1});
            cr_assert_eq(doc.n_questions, 1);
            check_questions(&doc);
            double at =
                (double)doc.questions[0].evidence_begin / (double)doc.questions[0].query_begin;
            cr_assert_float_eq(
                at, depth / 1000.0, 0.06, "depth %d seed %d: %.3f", depth, (int)seed, at);
            cr_assert_float_eq((double)doc.text.len, 8000.0, 600.0);
        }
    chronicle_doc_clear(&doc);
}

Test(needle, several_in_a_given_haystack)
{
    struct str hay = {0};
    for (int i = 0; i < 400; i++)
        str_addf(&hay, "Sentence number %d says nothing of interest. ", i);
    struct chronicle_doc doc = {0};
    for (uint64_t seed = 0; seed < 40; seed++) {
        write_needle(&doc,
            (struct needle_config){.split = CHRONICLE_EVAL,
                .seed = seed,
                .target_bytes = 6000,
                .depth_permille = 500,
                .n_needles = 16,
                .n_questions = 16,
                .haystack = hay.data,
                .haystack_bytes = hay.len});
        cr_assert_eq(doc.n_questions, 16);
        check_questions(&doc);
        cr_assert(strstr(doc.text.data, "Sentence number 7 says nothing of interest."));
    }
    chronicle_doc_clear(&doc);
    str_clear(&hay);
}

Test(needle, a_short_haystack_is_repeated)
{
    struct chronicle_doc doc = {0};
    const char *hay = "One line of prose, and no more.";
    write_needle(&doc,
        (struct needle_config){.split = CHRONICLE_EVAL,
            .seed = 1,
            .target_bytes = 2000,
            .n_needles = 1,
            .n_questions = 1,
            .haystack = hay,
            .haystack_bytes = strlen(hay)});
    cr_assert_float_eq((double)doc.text.len, 2000.0, 200.0);
    check_questions(&doc);
    chronicle_doc_clear(&doc);
}

Test(chronicle, refuses_what_is_out_of_range)
{
    struct chronicle_doc doc = {0};
    cr_assert_eq(
        chronicle_write(&(struct chronicle_config){CHRONICLE_EVAL, 1, 599}, &doc), ERR_ARG);
    cr_assert(strstr(status_message(), "target_bytes"));
    struct needle_config good = {
        .split = CHRONICLE_EVAL, .target_bytes = 1000, .n_needles = 2, .n_questions = 2};
    struct needle_config bad = good;
    bad.depth_permille = 1001;
    cr_assert_eq(needle_write(&bad, &doc), ERR_ARG);
    cr_assert(strstr(status_message(), "depth_permille"));
    bad = good, bad.n_needles = 17;
    cr_assert_eq(needle_write(&bad, &doc), ERR_ARG);
    bad = good, bad.n_questions = 3;
    cr_assert_eq(needle_write(&bad, &doc), ERR_ARG);
    cr_assert(strstr(status_message(), "n_questions"));
    bad = good, bad.haystack = "x";
    cr_assert_eq(needle_write(&bad, &doc), ERR_ARG);
    cr_assert_eq(needle_write(&good, &doc), OK);
    chronicle_doc_clear(&doc);
}

/* The last questions moved: numbered at their new place, answered by number at the end; evidence,
 * answers and what is asked within the text are as before. */
Test(chronicle, its_last_questions_can_stand_elsewhere)
{
    const struct chronicle_config c = {CHRONICLE_EVAL, 5, 12000};
    for (int ask = ASK_MIDDLE; ask < N_ASK; ask++) {
        struct chronicle_doc plain = {0}, moved = {0};
        cr_assert_eq(chronicle_write(&c, &plain), OK);
        cr_assert_eq(chronicle_write(&c, &moved), OK);
        chronicle_move(&moved, (enum ask)ask);
        const char *a = str_get(&plain.text), *b = str_get(&moved.text);
        const char *list = strstr(b, "Questions:\n1. "), *exam = strstr(b, CHRONICLE_EXAM);
        cr_assert(list && exam && list < exam);
        cr_expect_eq(list == b, ask != ASK_MIDDLE);
        if (ask == ASK_MIDDLE)
            cr_expect(list - b > (exam - b) / 3 && list - b < (exam - b) * 2 / 3 + 2000);
        cr_assert_eq(plain.n_questions, moved.n_questions);
        cr_expect(moved.n_within > 0 && moved.n_within < moved.n_questions);
        cr_expect_eq(strstr(exam, "Question: ") != NULL, ask == ASK_TWICE);
        for (size_t i = 0; i < plain.n_questions; i++) {
            const struct chronicle_question *p = &plain.questions[i], *q = &moved.questions[i];
            size_t n = p->answer_end - p->answer_begin;
            cr_expect_eq(q->answer_end - q->answer_begin, n);
            cr_expect_eq(memcmp(a + p->answer_begin, b + q->answer_begin, n), 0);
            cr_expect_eq(b[q->answer_begin - 1], ' ');
            cr_expect_eq(memcmp(a + p->evidence_begin, b + q->evidence_begin, 12), 0);
            if (i < moved.n_within || ask == ASK_TWICE) continue;
            char number[24];
            snprintf(number, sizeof number, "%zu. Answer: ", i - moved.n_within + 1);
            cr_expect_eq(memcmp(b + q->query_begin, number, strlen(number)), 0);
        }
        chronicle_doc_clear(&plain);
        chronicle_doc_clear(&moved);
    }
}

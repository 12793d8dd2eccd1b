/* The last questions of a chronicle, moved to where they are asked elsewhere. */
#include "suites/chronicle.h"

#include <string.h>

#define ANSWER " Answer: "
static const char lead[] = "Question: ";

/* What is asked, between "Question: " and " Answer: ". */
static void add_question(
    struct str *to, const struct chronicle_doc *doc, const struct chronicle_question *q, int number)
{
    size_t begin = q->query_begin + sizeof lead - 1, end = q->answer_begin - (sizeof ANSWER - 1);
    str_addf(to, "%d. %.*s\n", number, (int)(end - begin), doc->text.data + begin);
}

/* The first paragraph that begins at or behind `at`, in front of `end`. */
static size_t paragraph(const char *text, size_t at, size_t end)
{
    const char *gap = strstr(text + at, "\n\n");
    return gap && gap + 2 < text + end ? (size_t)(gap + 2 - text) : end;
}

void chronicle_move(struct chronicle_doc *doc, enum ask ask)
{
    const char *text = doc->text.data, *tail = NULL;
    for (const char *at = text; (at = strstr(at, CHRONICLE_EXAM)); at++) tail = at;
    size_t end = tail ? (size_t)(tail - text) : doc->text.len, first = 0;
    while (first < doc->n_questions && doc->questions[first].query_begin < end) first++;
    doc->n_within = first;
    if (ask == ASK_END || first == doc->n_questions) return;

    struct str list = {0}, out = {0};
    str_add(&list, "Questions:\n");
    for (size_t i = first; i < doc->n_questions; i++)
        add_question(&list, doc, &doc->questions[i], (int)(i - first) + 1);
    str_add_char(&list, '\n');
    size_t at = ask == ASK_MIDDLE ? paragraph(text, end / 2, end) : 0;
    str_add_bytes(&out, text, at);
    str_add_bytes(&out, list.data, list.len);
    str_add_bytes(&out, text + at, end - at);
    if (ask == ASK_TWICE) str_add_bytes(&out, text + end, doc->text.len - end);
    else str_add(&out, CHRONICLE_EXAM);
    for (size_t i = 0; i < doc->n_questions; i++) {
        struct chronicle_question *q = &doc->questions[i];
        size_t length = q->answer_end - q->answer_begin, answer = q->answer_begin;
        if (q->evidence_begin >= at) q->evidence_begin += list.len;
        if (i < first || ask == ASK_TWICE) {
            size_t by = q->answer_begin >= at ? list.len : 0;
            q->query_begin += by;
            q->answer_begin += by;
        } else {
            q->query_begin = out.len;
            str_addf(&out, "%d." ANSWER, (int)(i - first) + 1);
            q->answer_begin = out.len;
            str_add_bytes(&out, text + answer, length);
            str_add(&out, ".\n");
        }
        q->answer_end = q->answer_begin + length;
    }
    str_clear(&list);
    str_clear(&doc->text);
    doc->text = out;
}

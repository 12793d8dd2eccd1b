#include "suites/task_formats.h"

#include "base/file.h"
#include "engine/checkpoint/synth.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The synthetic tokenizer makes one token of each byte, BOS = 256. */
static char *dir;
static struct tokenizer *bytes;
static char spec[512];

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

TestSuite(tasks, .init = setup, .fini = teardown);

static enum status load_file(
    const char *name, const char *format, const char *text, int max_length, struct sample_set *out)
{
    snprintf(spec, sizeof spec, "tasks:%s/%s;format=%s", dir, name, format);
    char *path = path_join(dir, name);
    cr_assert_eq(file_write_atomic(path, text, strlen(text)), OK, "%s", status_message());
    free(path);
    return suite_load(
        spec, &(struct suite_options){.tokenizer = bytes, .max_length = max_length}, out);
}

static struct sample_set loaded(
    const char *name, const char *format, const char *text, int max_length)
{
    struct sample_set s;
    cr_assert_eq(load_file(name, format, text, max_length, &s), OK, "%s", status_message());
    return s;
}

static char *text_of(const struct sample_set *s, int i, int from, int to)
{
    struct str text = {0};
    for (int k = from; k < to; k++)
        if (s->samples[i].ids[k] < 256) str_add_char(&text, (char)s->samples[i].ids[k]);
    return text.data ? text.data : strdup("");
}

static void holds(const struct sample_set *s, int i, const char *prompt_end, const char *gold)
{
    char *prompt = text_of(s, i, 0, s->samples[i].n_prompt),
         *answer = text_of(s, i, s->samples[i].n_prompt, s->samples[i].n);
    cr_expect(str_ends_with(prompt, prompt_end), "%s", prompt);
    cr_expect_str_eq(answer, gold);
    free(prompt);
    free(answer);
}

Test(tasks, prepared_files_of_ruler_are_read_as_they_are)
{
    struct sample_set s = loaded("validation.jsonl", "ruler",
        "{\"index\":0,\"input\":\"Some text. What is the number?\",\"outputs\":[\"12\",\"34\"],"
        "\"length\":210,\"answer_prefix\":\" The special magic numbers are\"}\n"
        "{\"index\":1,\"input\":\"Docs.\\n\\nQuestion: who\",\"outputs\":[\"Ann\",\"Anna\"],"
        "\"length\":61,\"answer_prefix\":\" Answer:\"}\n",
        4096);
    cr_assert_eq(s.n_samples, 2);
    const struct wanted *w = s.items[0].wanted;
    cr_expect(w->judge == JUDGE_ALL && w->budget == 128 && w->n_answers == 2);
    cr_expect_str_eq(s.items[0].group, "niah");
    holds(&s, 0, "What is the number? The special magic numbers are", " 12, 34");
    w = s.items[1].wanted;
    cr_expect(w->judge == JUDGE_ANY && w->budget == 32);
    holds(&s, 1, "Question: who Answer:", " Ann");
    cr_expect_eq(s.n_other_length, 1, "189 tokens with the budget, not 210");
    cr_expect_eq(s.items[0].length, 512);
    sample_set_clear(&s);
}

Test(tasks, a_prompt_made_to_measure_is_never_cut)
{
    char text[1200];
    snprintf(text, sizeof text,
        "{\"input\":\"%0500d\",\"outputs\":[\"1\"],\"answer_prefix\":\" Answer:\",\"length\":540}\n"
        "{\"input\":\"short\",\"outputs\":[\"1\"],\"answer_prefix\":\" Answer:\"}\n",
        0);
    struct sample_set s = loaded("a.jsonl", "ruler", text, 256);
    cr_expect(s.n_samples == 1 && s.n_too_long == 1 && s.n_truncated == 0);
    sample_set_clear(&s);
    *strchr(text, '\n') = 0;
    cr_expect_eq(load_file("a.jsonl", "ruler", text, 256, &s), ERR_ARG);
    cr_expect(strstr(status_message(), "longer than max_length"), "%s", status_message());
}

Test(tasks, long_bench_has_its_prompts_metrics_and_budgets)
{
    struct sample_set s = loaded("lb.jsonl", "longbench",
        "{\"dataset\":\"hotpotqa\",\"context\":\"P\",\"input\":\"Q?\",\"answers\":[\"yes\",\"y\"],"
        "\"all_classes\":null,\"length\":9000}\n"
        "{\"dataset\":\"passage_count\",\"context\":\"P2\",\"input\":\"\",\"answers\":[\"7\"]}\n"
        "{\"dataset\":\"passage_retrieval_en\",\"context\":\"P3\",\"input\":\"\",\"answers\":"
        "[\"Paragraph 12\"]}\n"
        "{\"dataset\":\"trec_e\",\"context\":\"P4\",\"input\":\"Type:\",\"answers\":[\"Human\"],"
        "\"all_classes\":[\"Human\",\"Group\"]}\n",
        4096);
    cr_assert_eq(s.n_samples, 4);
    holds(&s, 0, "do not output any other words.\n\nQuestion: Q?\nAnswer:", " yes");
    cr_expect(s.items[0].wanted->judge == JUDGE_F1 && s.items[0].wanted->budget == 32);
    cr_expect_eq(s.n_other_length, 0, "LongBench counts words, not tokens");
    holds(&s, 1, "The final answer is: ", "7");
    holds(&s, 2, "The answer is: ", "Paragraph 12");
    cr_expect_str_eq(s.items[2].wanted->answers[0], "12");
    cr_expect(s.items[3].wanted->judge == JUDGE_CLASS && s.items[3].wanted->first_line);
    cr_expect_eq(s.items[3].wanted->n_answers, 3);
    sample_set_clear(&s);
    cr_expect_eq(
        load_file("lb.jsonl", "longbench",
            "{\"dataset\":\"gov_report\",\"context\":\"P\",\"input\":\"\",\"answers\":[\"a\"]}",
            4096, &s),
        ERR_UNSUPPORTED);
    cr_expect(strstr(status_message(), "gov_report") && strstr(status_message(), "hotpotqa"));
}

Test(tasks, the_middle_of_a_long_prompt_is_cut_and_counted)
{
    char text[3000];
    snprintf(text, sizeof text,
        "{\"dataset\":\"hotpotqa\",\"context\":\"%01000d\",\"input\":\"Q?\",\"answers\":[\"yes\"]}",
        0);
    struct sample_set s = loaded("lb.jsonl", "longbench", text, 512);
    cr_expect_eq(s.n_truncated, 1);
    cr_expect_eq(s.samples[0].n_prompt, 512 - 32);
    char *prompt = text_of(&s, 0, 0, s.samples[0].n_prompt);
    cr_expect(str_starts_with(prompt, "Answer the question") && str_ends_with(prompt, "\nAnswer:"));
    free(prompt);
    sample_set_clear(&s);
}

Test(tasks, long_bench_2_is_a_list_of_choices)
{
    struct sample_set s = loaded("data.json", "longbench_v2",
        "[{\"_id\":\"1\",\"domain\":\"Code\",\"question\":\" Why? "
        "\",\"choice_A\":\"a\",\"choice_B\":"
        "\"b\",\"choice_C\":\"c\",\"choice_D\":\"d\",\"answer\":\"C\",\"context\":\"text\\n\"}]",
        4096);
    holds(&s, 0,
        "question: Why?\nChoices:\n(A) a\n(B) b\n(C) c\n(D) d\n\nFormat your response as follows: "
        "\"The correct answer is (insert answer here)\".",
        "The correct answer is (C)");
    cr_expect_str_eq(s.items[0].group, "Code");
    cr_expect_eq(wanted_score(s.items[0].wanted, "The correct answer is (C)."), 1);
    sample_set_clear(&s);
}

Test(tasks, infinite_bench_is_told_by_the_name_of_the_file)
{
    struct sample_set s = loaded("passkey.jsonl", "infinitebench",
        "{\"id\":0,\"context\":\"c\",\"input\":\"What is "
        "it?\",\"answer\":[\"71432\"],\"options\":[]}",
        4096);
    holds(&s, 0, "What is it?\n\nThe pass key is", " 71432");
    cr_expect(s.items[0].wanted->judge == JUDGE_FIRST_INT && s.items[0].wanted->budget == 6);
    sample_set_clear(&s);
    s = loaded("longbook_choice_eng.jsonl", "infinitebench",
        "{\"context\":\"c\",\"input\":\"Who?\",\"answer\":[\"two\"],\"options\":[\"one\",\"two\","
        "\"three\","
        "\"four\"]}",
        4096);
    holds(&s, 0, "D. four\n\nThe letter of the correct answer is", " B");
    cr_expect_eq(wanted_score(s.items[0].wanted, " B. two"), 1);
    sample_set_clear(&s);
    s = loaded("math_find.jsonl", "infinitebench",
        "{\"context\":\"[1, 2]\",\"input\":\"Answer with one number. The 2nd largest number of the "
        "list "
        "is: \",\"answer\":1}",
        4096);
    char *prompt = text_of(&s, 0, 1, s.samples[0].n_prompt);
    cr_expect(str_starts_with(prompt, "What is the 2nd largest number in the following list?\n"));
    free(prompt);
    sample_set_clear(&s);
    s = loaded("code_run.jsonl", "infinitebench",
        "{\"context\":\"def\",\"input\":\"the value of func_7(-3)?\",\"answer\":[-4]}", 4096);
    holds(&s, 0, "exact value of func_7(-3). The value of func_7(-3) is", " -4");
    sample_set_clear(&s);
    cr_expect_eq(
        load_file("longbook_sum_eng.jsonl", "infinitebench", "{}", 4096, &s), ERR_UNSUPPORTED);
}

Test(tasks, samples_of_lm_evaluation_harness_keep_prompt_stops_and_candidates)
{
    struct sample_set s = loaded("samples_gsm_2026.jsonl", "lm_eval",
        "{\"doc_id\":0,\"doc\":{},\"target\":\"18\",\"arguments\":{\"gen_args_0\":{\"arg_0\":\"Q: "
        "9+9\\nA:\","
        "\"arg_1\":{\"until\":[\"\\n\\n\",\"Q:\"],\"max_gen_toks\":40}}},\"exact_match\":1.0}\n",
        4096);
    holds(&s, 0, "Q: 9+9\nA:", " 18");
    const struct wanted *w = s.items[0].wanted;
    cr_expect(w->judge == JUDGE_VERBATIM && w->budget == 40 && w->n_stops == 2);
    cr_expect_eq(wanted_score(w, "18Q: next"), 1);
    sample_set_clear(&s);
    s = loaded("samples_arc.jsonl", "lm_eval",
        "{\"doc_id\":3,\"target\":\"1\",\"arguments\":{\"gen_args_0\":{\"arg_0\":\"Sky?\",\"arg_"
        "1\":\" red\"},"
        "\"gen_args_1\":{\"arg_0\":\"Sky?\",\"arg_1\":\" blue\"}},\"acc\":1.0}\n",
        4096);
    cr_expect(s.n_samples == 2 && s.n_questions == 1 && s.items[1].gold && !s.items[0].gold);
    cr_expect_str_eq(s.items[1].group, "arc");
    cr_expect_null(s.items[0].wanted);
    sample_set_clear(&s);
    cr_expect_eq(
        load_file("samples_x.jsonl", "lm_eval",
            "{\"target\":\"a\",\"arguments\":[[\"Q\",{\"until\":[]}]],\"metrics\":[\"rouge1\"],"
            "\"rouge1\":0.3}",
            4096, &s),
        ERR_UNSUPPORTED);
    cr_expect(strstr(status_message(), "rouge1"), "%s", status_message());
}

Test(tasks, what_is_missing_is_named)
{
    const struct {
        const char *name, *format, *text, *says;
    } rows[] = {
        {"a.jsonl", "longbenhc", "{}", "longbench_v2"},
        {"a.jsonl", "ruler", "{\"input\":\"x\"}", "answer_prefix"},
        {"a.jsonl", "ruler", "{\"input\":\"x\",\"answer_prefix\":\"So\",\"outputs\":[\"a\"]}",
            "niah"},
        {"a.jsonl", "ruler", "{\"input\":\"x\",\"answer_prefix\":\" Answer:\",\"outputs\":[]}",
            "outputs"},
        {"a.jsonl", "ruler",
            "{\"input\":\"x\",\"answer_prefix\":\" Answer:\",\"outputs\":[\"a\",\"\"]}",
            "an empty text"},
        {"passkey.jsonl", "infinitebench", "{\"context\":\"c\",\"input\":\"q\",\"answer\":\"\"}",
            "an empty text"},
        {"a.jsonl", "lm_eval",
            "{\"arguments\":{\"gen_args_0\":{\"arg_0\":\"Q\",\"arg_1\":{}}},\"target\":\"\","
            "\"4096\":1}",
            "an empty text"},
        {"a.jsonl", "ruler",
            "{\"input\":\"x\",\"answer_prefix\":\" Answer:\",\"outputs\":[\"a\"],\"length\":\"9\"}",
            "\"length\""},
        {"a.jsonl", "ruler",
            "{\"input\":\"x\",\"answer_prefix\":\" Answer:\",\"outputs\":[\"a\"],\"length\":-5}",
            "\"length\""},
        {"a.jsonl", "longbench_v2", "{\"answer\":\"E\"}", "context"},
        {"a.jsonl", "lm_eval", "{\"arguments\":3}", "--log_samples"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sample_set s;
        cr_expect_neq(load_file(rows[i].name, rows[i].format, rows[i].text, 4096, &s), OK);
        cr_expect(strstr(status_message(), rows[i].says), "%s", status_message());
    }
}

/* Where an answer is held against the whole text, nothing may be what is right. */
Test(tasks, an_empty_text_may_be_the_right_one)
{
    struct sample_set s = loaded("samples_a.jsonl", "lm_eval",
        "{\"arguments\":{\"gen_args_0\":{\"arg_0\":\"Q\",\"arg_1\":{}}},\"target\":\"\","
        "\"exact_match\":1}",
        4096);
    cr_expect(s.n_samples == 1 && wanted_score(s.items[0].wanted, "") == 1);
    sample_set_clear(&s);
}

/* --field is refused for tasks, so nothing may send anybody there. */
Test(tasks, a_missing_field_sends_nobody_to_an_option_that_is_refused)
{
    struct sample_set s;
    cr_expect_eq(load_file("v.jsonl", "ruler", "{\"input\":\"a\",\"outputs\":[\"b\"]}\n", 900, &s),
        ERR_FORMAT);
    cr_expect(strstr(status_message(), "\"answer_prefix\" is missing"), "%s", status_message());
    cr_expect(!strstr(status_message(), "--field"), "%s", status_message());
}

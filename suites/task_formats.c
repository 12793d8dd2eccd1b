#include "suites/task_formats.h"

#include "base/file.h"
#include "base/xmalloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void task_line_clear(struct task_line *t)
{
    task_text_clear(&t->text);
    wanted_free(t->wanted);
    free(t->group);
    for (int i = 0; i < t->n_choices; i++) answer_text_clear(&t->choices[i]);
    free(t->choices);
    *t = (struct task_line){0};
}

static enum status line_fail(const struct jsonl *in, const char *field, const char *expected)
{
    const cJSON *node = jsonl_find(in, field);
    return fail(ERR_FORMAT, "%s: %s %ld: field \"%s\": found %s, expected %s", in->path,
        jsonl_unit(in), in->line, field, node ? json_kind(node) : "nothing", expected);
}

static void add_text(struct str *to, const char *text) { str_add(to, text); }

/* A text, a number as it stands in the file, or a list of them. */
static bool add_answers(struct wanted *w, const cJSON *node)
{
    const cJSON *one;
    if (cJSON_IsArray(node)) {
        cJSON_ArrayForEach(one, node) if (cJSON_IsArray(one) || !add_answers(w, one)) return false;
        return w->n_answers > 0;
    }
    if (cJSON_IsString(node)) wanted_add(w, node->valuestring);
    else if (cJSON_IsNumber(node)) {
        char *printed = cJSON_PrintUnformatted(node);
        wanted_add(w, printed);
        cJSON_free(printed);
    } else return false;
    return true;
}

static enum status read_answers(const struct jsonl *in, const char *field, struct wanted *w)
{
    const cJSON *node = jsonl_find(in, field);
    if (node && add_answers(w, node)) return OK;
    return line_fail(in, field, "a text or a list of texts");
}

/* Behind a prompt that ends in white space the answer begins at once. */
static void gold_text(struct task_text *t, const char *answer)
{
    const struct str *before = t->prefix.len ? &t->prefix : &t->prompt;
    if (before->len && !build_is_space(before->data[before->len - 1])) str_add_char(&t->gold, ' ');
    str_add(&t->gold, answer);
}

/* A template with {names} in it. */
struct slot {
    const char *name, *value;
};
static void fill(struct str *out, const char *pattern, const struct slot *slots, int n)
{
    while (*pattern) {
        int found = -1;
        for (int i = 0; i < n && *pattern == '{'; i++) {
            size_t len = strlen(slots[i].name);
            if (!strncmp(pattern + 1, slots[i].name, len) && pattern[len + 1] == '}') found = i;
        }
        if (found >= 0) {
            str_add(out, slots[found].value);
            pattern += strlen(slots[found].name) + 2;
        } else str_add_char(out, *pattern++);
    }
}

/* RULER: what prepare.py writes. The task is told by its wording, as the file does not name it. */

static enum status read_ruler(const struct jsonl *in, struct task_line *t)
{
    static const struct {
        const char *prefix, *group;
        int budget;
        enum judge judge;
    } tasks[] = {
        {" Answer: According to the chain(s)", "vt", 30, JUDGE_ALL},
        {" Answer: The top 10 words", "cwe", 120, JUDGE_ALL},
        {" Answer: According to the coded text", "fwe", 50, JUDGE_ALL},
        {" Answer:", "qa", 32, JUDGE_ANY},
        {" The special magic", "niah", 128, JUDGE_ALL},
    };
    const char *input, *prefix;
    TRY(jsonl_string(in, "input", &input));
    TRY(jsonl_string(in, "answer_prefix", &prefix));
    size_t k = 0, n = sizeof tasks / sizeof *tasks;
    while (k < n && !str_starts_with(prefix, tasks[k].prefix)) k++;
    if (k == n)
        return fail(ERR_FORMAT,
            "%s: %s %ld: field \"answer_prefix\": \"%.60s\" is of no task of RULER that is known: "
            "niah, vt, cwe, fwe, qa",
            in->path, jsonl_unit(in), in->line, prefix);
    t->wanted = wanted_new(tasks[k].judge, tasks[k].budget);
    TRY(read_answers(in, "outputs", t->wanted));
    add_text(&t->text.prompt, input);
    add_text(&t->text.prefix, prefix);
    struct str gold = {0};
    bool any = tasks[k].judge == JUDGE_ANY;
    for (int i = 0; i < (any ? 1 : t->wanted->n_answers); i++)
        str_addf(&gold, "%s%s", i ? ", " : "", t->wanted->answers[i]);
    gold_text(&t->text, str_get(&gold));
    str_clear(&gold);
    t->group = str_dup(tasks[k].group);
    t->whole = true;
    const cJSON *length = jsonl_find(in, "length");
    if (!length || cJSON_IsNull(length)) return OK;
    if (!cJSON_IsNumber(length) || !(length->valuedouble >= 1 && length->valuedouble < 1e9))
        return line_fail(in, "length", "a count of tokens, at least 1");
    t->length = (int64_t)length->valuedouble;
    return OK;
}

/* LongBench. The wording of prompts and the budgets: config/dataset2prompt.json and
 * dataset2maxlen.json (THUDM, MIT). */

#define PASSAGES                                                                                  \
    "Answer the question based on the given passages. Only give me the answer and do not output " \
    "any other words."
// clang-format off
static const struct long_task {
    const char *name;
    int budget;
    enum judge judge;
    bool first_line;
    const char *prompt;
} long_tasks[] = {
    {"narrativeqa", 128, JUDGE_F1, false, "You are given a story, which can be either a novel or a movie script, and a question. Answer the question asconcisely as you can, using a single phrase if possible. Do not provide any explanation.\n\nStory: {context}\n\nNow, answer the question based on the story asconcisely as you can, using a single phrase if possible. Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:"},
    {"qasper", 128, JUDGE_F1, false, "You are given a scientific article and a question. Answer the question as concisely as you can, using a single phrase or sentence if possible. If the question cannot be answered based on the information in the article, write \"unanswerable\". If the question is a yes/no question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any explanation.\n\nArticle: {context}\n\n Answer the question based on the above article as concisely as you can, using a single phrase or sentence if possible. If the question cannot be answered based on the information in the article, write \"unanswerable\". If the question is a yes/no question, answer \"yes\", \"no\", or \"unanswerable\". Do not provide any explanation.\n\nQuestion: {input}\n\nAnswer:"},
    {"multifieldqa_en", 64, JUDGE_F1, false, "Read the following text and answer briefly.\n\n{context}\n\nNow, answer the following question based on the above text, only give me the answer and do not output any other words.\n\nQuestion: {input}\nAnswer:"},
    {"hotpotqa", 32, JUDGE_F1, false, PASSAGES "\n\nThe following are given passages.\n{context}\n\n" PASSAGES "\n\nQuestion: {input}\nAnswer:"},
    {"2wikimqa", 32, JUDGE_F1, false, PASSAGES "\n\nThe following are given passages.\n{context}\n\n" PASSAGES "\n\nQuestion: {input}\nAnswer:"},
    {"musique", 32, JUDGE_F1, false, PASSAGES "\n\nThe following are given passages.\n{context}\n\n" PASSAGES "\n\nQuestion: {input}\nAnswer:"},
    {"triviaqa", 32, JUDGE_F1, true, "Answer the question based on the given passage. Only give me the answer and do not output any other words. The following are some examples.\n\n{context}\n\n{input}"},
    {"trec", 64, JUDGE_CLASS, true, "Please determine the type of the question below. Here are some examples of questions.\n\n{context}\n{input}"},
    {"passage_retrieval_en", 32, JUDGE_NUMBERS, false, "Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine which paragraph the abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n{input}\n\nPlease enter the number of the paragraph that the abstract is from. The answer format must be like \"Paragraph 1\", \"Paragraph 2\", etc.\n\nThe answer is: "},
    {"passage_count", 32, JUDGE_NUMBERS, false, "There are some paragraphs below sourced from Wikipedia. Some of them may be duplicates. Please carefully read these paragraphs and determine how many unique paragraphs there are after removing duplicates. In other words, how many non-repeating paragraphs are there in total?\n\n{context}\n\nPlease enter the final count of unique paragraphs after removing duplicates. The output format should only contain the number, such as 1, 2, 3, and so on.\n\nThe final answer is: "},
};
// clang-format on
enum { N_LONG_TASKS = sizeof long_tasks / sizeof *long_tasks };

/* By name; "_e" of LongBench-E is the same task. */
static const struct long_task *long_task_find(const char *name)
{
    size_t len = strlen(name) - (str_ends_with(name, "_e") ? 2 : 0);
    for (int i = 0; i < N_LONG_TASKS; i++)
        if (strlen(long_tasks[i].name) == len && !strncmp(long_tasks[i].name, name, len))
            return &long_tasks[i];
    return NULL;
}

/* "Paragraph 12" is wanted as 12. */
static void keep_number(char *answer)
{
    char *digits = answer + strcspn(answer, "0123456789");
    digits[strspn(digits, "0123456789")] = 0;
    memmove(answer, digits, strlen(digits) + 1);
}

static enum status read_long_bench(const struct jsonl *in, struct task_line *t)
{
    const char *name, *context, *input;
    TRY(jsonl_string(in, "dataset", &name));
    TRY(jsonl_string(in, "context", &context));
    TRY(jsonl_string(in, "input", &input));
    const struct long_task *task = long_task_find(name);
    if (!task) {
        struct str known = {0};
        for (int i = 0; i < N_LONG_TASKS; i++)
            str_addf(&known, "%s%s", i ? ", " : "", long_tasks[i].name);
        enum status st = fail(ERR_UNSUPPORTED,
            "%s: %s %ld: dataset %s: its metric (ROUGE, edit similarity or Chinese words) is not "
            "here; known: %s",
            in->path, jsonl_unit(in), in->line, name, str_get(&known));
        str_clear(&known);
        return st;
    }
    fill(&t->text.prompt, task->prompt, (struct slot[]){{"context", context}, {"input", input}}, 2);
    t->wanted = wanted_new(task->judge, task->budget);
    t->wanted->first_line = task->first_line;
    TRY(read_answers(in, "answers", t->wanted));
    gold_text(&t->text, t->wanted->answers[0]);
    if (task->judge == JUDGE_CLASS) TRY(read_answers(in, "all_classes", t->wanted));
    if (task->judge == JUDGE_NUMBERS) keep_number(t->wanted->answers[0]);
    t->group = str_dup(task->name);
    return OK;
}

/* LongBench v2: prompts/0shot.txt (THUDM, MIT). */

static const char *trimmed(const cJSON *node, struct str *keep)
{
    const char *text = cJSON_IsString(node) ? node->valuestring : "";
    while (build_is_space(*text)) text++;
    size_t n = strlen(text);
    while (n && build_is_space(text[n - 1])) n--;
    str_reset(keep);
    str_add_bytes(keep, text, n);
    return str_get(keep);
}

static enum status read_long_bench_2(const struct jsonl *in, struct task_line *t)
{
    static const char *const fields[] = {
        "context", "question", "choice_A", "choice_B", "choice_C", "choice_D"};
    static const char prompt[] =
        "Please read the following text and answer the question below.\n\n<text>\n{context}\n"
        "</text>\n\nWhat is the correct answer to this question: {question}\nChoices:\n(A) "
        "{choice_A}\n(B) {choice_B}\n(C) {choice_C}\n(D) {choice_D}\n\nFormat your response as "
        "follows: \"The correct answer is (insert answer here)\".";
    struct str texts[6] = {{0}};
    struct slot slots[6];
    const char *answer;
    enum status st = jsonl_string(in, "answer", &answer);
    for (int i = 0; i < 6 && st == OK; i++) {
        const char *text;
        st = jsonl_string(in, fields[i], &text);
        slots[i] = (struct slot){fields[i], trimmed(jsonl_find(in, fields[i]), &texts[i])};
    }
    if (st == OK && (strlen(answer) != 1 || *answer < 'A' || *answer > 'D'))
        st = line_fail(in, "answer", "A, B, C or D");
    if (st == OK) {
        fill(&t->text.prompt, prompt, slots, 6);
        t->wanted = wanted_new(JUDGE_LETTER, 128);
        wanted_add(t->wanted, answer);
        str_addf(&t->text.gold, "The correct answer is (%s)", answer);
        const cJSON *domain = jsonl_find(in, "domain");
        t->group = str_dup(cJSON_IsString(domain) ? domain->valuestring : "longbench_v2");
    }
    for (int i = 0; i < 6; i++) str_clear(&texts[i]);
    return st;
}

/* InfiniteBench: prompts for models without a chat (src/prompt.py) and the budgets
 * (src/eval_utils.py) of OpenBMB, MIT. The task is the file's name. */

// clang-format off
static const struct infinite_task {
    const char *name;
    int budget;
    enum judge judge;
    const char *prompt;
} infinite_tasks[] = {
    {"passkey", 6, JUDGE_FIRST_INT, "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz you about the important information.\n\n{context}\n\n{input}\n\nThe pass key is"},
    {"number_string", 12, JUDGE_FIRST_INT, "There is an important info hidden inside a lot of irrelevant text. Find it. I will quiz you about the important information there.\n\n{context}\n\n{input}\n\nThe sequence of digits is"},
    {"kv_retrieval", 50, JUDGE_WORD, "Extract the value corresponding to the specified key in the JSON object below.\n\n{context}\n\n{input}"},
    {"longbook_qa_eng", 40, JUDGE_F1, "Read the book and answer the question. Be very concise in your answer.\n\n{context}\n\nQuestion: {input}\nAnswer:"},
    {"longbook_choice_eng", 40, JUDGE_OPTION, "Read the book and answer the question.\n\n{context}\n\nQuestion: {input}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\n\nThe letter of the correct answer is"},
    {"longdialogue_qa_eng", 40, JUDGE_NAME, "Below is a dialogue script where one random occurrence of a character name is replaced with \"$$MASK$$\", and you should try to guess who that character is.\n\n{context}\n\nThe name that has been replaced with $$MASK$$ is likely"},
    {"math_find", 3, JUDGE_FIRST_REAL, "{prefix}\n\n{context}\n\n{input}"},
    {"code_run", 5, JUDGE_LAST_INT, "There is a function called {func} in the following Python code.\n\n{context}\n\nPlease compute the exact value of {call}. The value of {call} is"},
};
// clang-format on
enum { N_INFINITE_TASKS = sizeof infinite_tasks / sizeof *infinite_tasks };

/* "func_12(-3)" of an input, and "func_12". */
static void find_call(const char *input, struct str *call, struct str *name)
{
    const char *at = strstr(input, "func_"), *end = at ? strchr(at, ')') : NULL;
    if (!end) return;
    str_add_bytes(call, at, (size_t)(end + 1 - at));
    str_add_bytes(name, at, strcspn(at, "("));
}

/* "The 2nd largest number of the list is:" asks "What is the 2nd largest number in the following
 * list?" */
static void find_question(const char *input, struct str *out)
{
    const char *at = strstr(input, "The "), *end = NULL;
    for (const char *of = at; of && (of = strstr(of, " of")); of++) end = of;
    str_addf(out, "What is the%.*s in the following list?", end ? (int)(end - at - 3) : 0,
        end ? at + 3 : "");
}

/* The option's text and its letter. */
static enum status read_option_answer(
    const struct jsonl *in, const cJSON *options, struct wanted *w)
{
    TRY(read_answers(in, "answer", w));
    if (w->n_answers >= 2) return OK;
    for (int i = 0; i < 4; i++) {
        const cJSON *option = cJSON_GetArrayItem(options, i);
        if (!cJSON_IsString(option) || strcmp(option->valuestring, w->answers[0])) continue;
        wanted_add(w, (char[]){(char)('A' + i), 0});
        return OK;
    }
    return line_fail(in, "answer", "one of the options");
}

static enum status read_infinite(const struct jsonl *in, struct task_line *t)
{
    const char *base = path_base(in->path), *context, *input;
    const struct infinite_task *task = NULL;
    for (int i = 0; i < N_INFINITE_TASKS; i++)
        if (str_starts_with(base, infinite_tasks[i].name)) task = &infinite_tasks[i];
    if (!task) {
        struct str known = {0};
        for (int i = 0; i < N_INFINITE_TASKS; i++)
            str_addf(&known, "%s%s", i ? ", " : "", infinite_tasks[i].name);
        enum status st = fail(ERR_UNSUPPORTED,
            "%s: the file's name says the task of InfiniteBench, and this is none that can be "
            "scored here; known: %s",
            in->path, str_get(&known));
        str_clear(&known);
        return st;
    }
    TRY(jsonl_string(in, "context", &context));
    TRY(jsonl_string(in, "input", &input));
    const cJSON *options = jsonl_find(in, "options");
    t->wanted = wanted_new(task->judge, task->budget);
    if (task->judge == JUDGE_OPTION) TRY(read_option_answer(in, options, t->wanted));
    else TRY(read_answers(in, "answer", t->wanted));
    struct str call = {0}, name = {0}, question = {0};
    find_call(input, &call, &name);
    find_question(input, &question);
    const char *letters[4];
    for (int i = 0; i < 4; i++) {
        const cJSON *option = cJSON_GetArrayItem(options, i);
        letters[i] = cJSON_IsString(option) ? option->valuestring : "";
    }
    fill(&t->text.prompt, task->prompt,
        (struct slot[]){{"context", context}, {"input", input}, {"func", str_get(&name)},
            {"call", str_get(&call)}, {"prefix", str_get(&question)}, {"A", letters[0]},
            {"B", letters[1]}, {"C", letters[2]}, {"D", letters[3]}},
        9);
    str_clear(&call);
    str_clear(&name);
    str_clear(&question);
    gold_text(&t->text, t->wanted->answers[task->judge == JUDGE_OPTION ? 1 : 0]);
    t->group = str_dup(task->name);
    return OK;
}

/* lm-evaluation-harness, `--log_samples`: prompts and stops as the model had them. */

/* Its arguments as an array of (context, continuation or settings). */
static const cJSON *harness_argument(const cJSON *arguments, int i, int which)
{
    if (cJSON_IsArray(arguments))
        return cJSON_GetArrayItem(cJSON_GetArrayItem(arguments, i), which);
    char name[32];
    snprintf(name, sizeof name, "gen_args_%d", i);
    const cJSON *call = cJSON_GetObjectItemCaseSensitive(arguments, name);
    snprintf(name, sizeof name, "arg_%d", which);
    return cJSON_GetObjectItemCaseSensitive(call, name);
}

/* The measure that the line was scored by there. */
static enum status harness_judge(const struct jsonl *in, enum judge *out)
{
    static const struct {
        const char *metric;
        enum judge judge;
    } known[] = {
        {"exact_match", JUDGE_VERBATIM},
        {"qa_f1_score", JUDGE_F1},
        {"f1", JUDGE_F1},
        {"count_score", JUDGE_NUMBERS},
        {"retrieval_score", JUDGE_NUMBERS},
        {"classification_score", JUDGE_CLASS},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (cJSON_GetObjectItemCaseSensitive(in->object, known[i].metric)) {
            *out = known[i].judge;
            return OK;
        }
    struct str found = {0};
    const cJSON *child, *names = cJSON_GetObjectItemCaseSensitive(in->object, "metrics");
    cJSON_ArrayForEach(
        child, in->object) if (strspn(child->string, "0123456789") == strlen(child->string))
    { /* RULER's metrics are lengths */
        *out = JUDGE_ALL;
        return OK;
    }
    cJSON_ArrayForEach(child, names) if (cJSON_IsString(child))
        str_addf(&found, " %s", child->valuestring);
    enum status st = fail(ERR_UNSUPPORTED,
        "%s: %s %ld: scored by%s, which is not here; known: exact_match, f1, qa_f1_score, "
        "count_score, retrieval_score, classification_score, acc, and RULER's lengths",
        in->path, jsonl_unit(in), in->line, found.len ? str_get(&found) : " an unknown metric");
    str_clear(&found);
    return st;
}

static enum status read_stops(struct task_line *t, const cJSON *settings)
{
    const cJSON *until = cJSON_GetObjectItemCaseSensitive(settings, "until"), *one;
    const cJSON *most = cJSON_GetObjectItemCaseSensitive(settings, "max_gen_toks");
    t->wanted->budget =
        cJSON_IsNumber(most) && most->valuedouble >= 1 ? (int)most->valuedouble : 256;
    t->wanted->stops = xcalloc((size_t)cJSON_GetArraySize(until) + 1, sizeof *t->wanted->stops);
    cJSON_ArrayForEach(one, until) if (cJSON_IsString(one) && *one->valuestring)
        t->wanted->stops[t->wanted->n_stops++] = str_dup(one->valuestring);
    if (cJSON_IsString(until) && *until->valuestring)
        t->wanted->stops[t->wanted->n_stops++] = str_dup(until->valuestring);
    return OK;
}

static enum status read_candidates(
    const struct jsonl *in, const cJSON *arguments, struct task_line *t)
{
    const cJSON *target = jsonl_find(in, "target"), *context, *choice;
    int n = 0;
    while (cJSON_IsString(harness_argument(arguments, n, 1))) n++;
    t->choices = xcalloc((size_t)n, sizeof *t->choices);
    for (; t->n_choices < n; t->n_choices++) {
        struct answer_text *a = &t->choices[t->n_choices];
        context = harness_argument(arguments, t->n_choices, 0);
        choice = harness_argument(arguments, t->n_choices, 1);
        *a = (struct answer_text){.file = in->path, .line = in->line};
        if (cJSON_IsString(context)) str_add(&a->context, context->valuestring);
        str_add(&a->answer, choice->valuestring);
    }
    if (n == 1) return OK; /* the only one is right: a last word */
    const char *text = cJSON_IsString(target) ? target->valuestring : "";
    char *end;
    long gold = cJSON_IsNumber(target) ? (long)target->valuedouble : strtol(text, &end, 10);
    if (cJSON_IsString(target) && (!*text || *end)) {
        gold = -1;
        for (int i = 0; i < n; i++) {
            const char *candidate = str_get(&t->choices[i].answer);
            if (!strcmp(candidate + (*candidate == ' '), text + (*text == ' '))) gold = i;
        }
    }
    if (gold < 0 || gold >= n)
        return line_fail(in, "target", "one of the candidates, or its index");
    t->gold = (int)gold;
    return OK;
}

static enum status read_harness(const struct jsonl *in, struct task_line *t)
{
    const cJSON *arguments = jsonl_find(in, "arguments"), *doc = jsonl_find(in, "doc");
    const cJSON *context = harness_argument(arguments, 0, 0),
                *second = harness_argument(arguments, 0, 1);
    if (!cJSON_IsString(context))
        return line_fail(
            in, "arguments", "gen_args_0 with a text as arg_0, as --log_samples writes");
    const char *base = path_base(in->path),
               *task = str_starts_with(base, "samples_") ? base + 8 : base;
    t->group = str_format("%.*s", (int)strcspn(task, "."), task);
    if (cJSON_IsString(second)) return read_candidates(in, arguments, t);
    enum judge judge;
    TRY(harness_judge(in, &judge));
    const cJSON *answers = cJSON_GetObjectItemCaseSensitive(doc, "answers"),
                *outputs = cJSON_GetObjectItemCaseSensitive(doc, "outputs"),
                *wanted = cJSON_IsArray(answers) ? answers
        : cJSON_IsArray(outputs)                 ? outputs
                                                 : jsonl_find(in, "target");
    bool qa = judge == JUDGE_ALL &&
        strstr(context->valuestring, "Answer the question based on the given documents.");
    t->wanted = wanted_new(qa ? JUDGE_ANY : judge, 1);
    if (!wanted || !add_answers(t->wanted, wanted))
        return line_fail(in, "target", "a text or a list of texts");
    TRY(read_stops(t, second));
    if (judge == JUDGE_NUMBERS) keep_number(t->wanted->answers[0]);
    add_text(&t->text.prompt, context->valuestring);
    gold_text(&t->text, t->wanted->answers[0]);
    if (judge != JUDGE_CLASS) return OK;
    const cJSON *classes = cJSON_GetObjectItemCaseSensitive(doc, "all_classes");
    return add_answers(t->wanted, classes)
        ? OK
        : line_fail(in, "doc", "all_classes, a list of texts, beside classification_score");
}

static const struct task_format formats[] = {
    {"ruler", "what RULER's prepare.py writes: input, outputs, answer_prefix, length", false,
        read_ruler},
    {"longbench", "LongBench: dataset, context, input, answers", false, read_long_bench},
    {"longbench_v2", "LongBench v2: context, question, choice_A to choice_D, answer", false,
        read_long_bench_2},
    {"infinitebench", "InfiniteBench, the task by the file's name: context, input, answer", false,
        read_infinite},
    {"lm_eval", "lm-evaluation-harness --log_samples: arguments, target, doc", true, read_harness},
};
const struct task_format *const task_formats[] = {
    &formats[0], &formats[1], &formats[2], &formats[3], &formats[4], NULL};

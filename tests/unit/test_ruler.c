#include "suites/ruler.h"

#include "base/hash.h"
#include "base/json.h"
#include "suites/chat.h"
#include "suites/chronicle_words.h"
#include "suites/suite.h"

#include "base/file.h"
#include "engine/checkpoint/synth.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *dir;
static struct tokenizer *bytes; /* one token a byte, BOS 256 */

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

TestSuite(ruler, .init = setup, .fini = teardown);

static struct ruler_doc write_doc(enum ruler_task task, uint64_t seed, int n_units, enum ask ask)
{
    struct ruler_doc doc = {0};
    const struct ruler_config c = {.task = task,
        .split = CHRONICLE_EVAL,
        .seed = seed,
        .length = 8192,
        .n_units = n_units,
        .n_example = 6,
        .ask = ask};
    cr_assert_eq(ruler_write(&c, &doc), OK, "%s", status_message());
    return doc;
}

static int count(const char *text, const char *part)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++) n++;
    return n;
}

Test(ruler, compounds_are_different_words)
{
    uint32_t n = words_compound_head.n * words_compound_tail.n, collisions = 0;
    cr_expect_geq(n, 8192 * 5);
    uint64_t *seen = calloc(1 << 20, sizeof *seen);
    for (uint32_t i = 0; i < n; i++) {
        char word[64];
        snprintf(word, sizeof word, "%s%s", words_compound_head.item[i / words_compound_tail.n],
            words_compound_tail.item[i % words_compound_tail.n]);
        uint64_t h = 14695981039346656037u;
        for (const char *c = word; *c; c++) h = (h ^ (unsigned char)*c) * 1099511628211u;
        size_t slot = h % (1 << 20);
        while (seen[slot] && seen[slot] != h) slot = (slot + 1) % (1 << 20);
        collisions += seen[slot] == h;
        seen[slot] = h;
    }
    free(seen);
    cr_expect_eq(collisions, 0);
}

/* The prompt around the haystack, word for word as in RULER's scripts (scripts/data/synthetic,
 * constants.py and niah.py), and counts as in synthetic.yaml. */
Test(ruler, a_needle_is_asked_for_as_the_scripts_do)
{
    struct ruler_doc d = write_doc(RULER_NIAH_SINGLE_1, 3, 20, ASK_END);
    const char *text = str_get(&d.prompt);
    cr_expect(str_starts_with(text,
        "A special magic number is hidden within the following text. Make sure to memorize it. I "
        "will quiz you about the number afterwards.\n"));
    cr_expect_eq(count(text,
                     "The grass is green. The sky is blue. The sun is yellow. Here we go. "
                     "There and back again.\n"),
        20);
    cr_assert_eq(count(text, "One of the special magic numbers for "), 1);
    cr_assert_eq(d.n_answers, 1);
    char key[64], number[16];
    cr_assert_eq(sscanf(strstr(text, "numbers for ") + 12, "%63s is: %15[0-9].", key, number), 2);
    cr_expect_str_eq(number, str_get(&d.answers[0]));
    cr_expect_eq(strlen(number), 7);
    char *question = str_format(
        "\nWhat is the special magic number for %s mentioned in the provided text?", key);
    cr_expect(str_ends_with(text, question));
    char *prefix =
        str_format(" The special magic number for %s mentioned in the provided text is", key);
    cr_expect_str_eq(str_get(&d.prefix), prefix);
    cr_expect(str_starts_with(text + d.evidence, "One of the special magic numbers"));
    free(question);
    free(prefix);
    ruler_doc_clear(&d);
}

Test(ruler, counts_are_those_of_synthetic_yaml)
{
    const struct {
        enum ruler_task task;
        const char *kind;
        int needles, answers; /* needles -1: the haystack is made of them */
    } rows[] = {
        {RULER_NIAH_SINGLE_2, "numbers", 1, 1},
        {RULER_NIAH_SINGLE_3, "uuids", 1, 1},
        {RULER_NIAH_MULTIKEY_1, "numbers", 4, 1},
        {RULER_NIAH_MULTIKEY_2, "numbers", 51, 1},
        {RULER_NIAH_MULTIKEY_3, "uuids", 51, 1},
        {RULER_NIAH_MULTIVALUE, "numbers", 4, 4},
        {RULER_NIAH_MULTIQUERY, "numbers", 4, 4},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ruler_doc d = write_doc(rows[i].task, 5, 50, ASK_END);
        char *line = str_format("One of the special magic %s for ", rows[i].kind);
        cr_expect_eq(
            count(str_get(&d.prompt), line), rows[i].needles, "%s", ruler_tasks[rows[i].task].name);
        cr_expect_eq(d.n_answers, rows[i].answers);
        for (int k = 0; k < d.n_answers; k++)
            cr_expect_eq(count(str_get(&d.prompt), str_get(&d.answers[k])), 1);
        bool many = rows[i].answers > 1;
        cr_expect_eq(str_starts_with(str_get(&d.prompt), "Some special magic"), many);
        cr_expect(
            strstr(str_get(&d.prompt), many ? "\nWhat are all the special" : "\nWhat is the"));
        cr_expect(str_ends_with(str_get(&d.prefix), many ? " are" : " is"));
        for (int k = 0; k < d.n_answers; k++)
            cr_expect(strstr(str_get(&d.gold), str_get(&d.answers[k])));
        free(line);
        ruler_doc_clear(&d);
    }
}

Test(ruler, variables_stand_in_the_order_of_their_chain)
{
    struct ruler_doc d = write_doc(RULER_VT, 9, 40, ASK_END);
    const char *at = strstr(str_get(&d.prompt) + 1, "Memorize and track the chain(s)");
    cr_assert(at, "an example stands in front");
    char value[8], name[8], other[8], line[64];
    cr_assert_eq(sscanf(strstr(at, "VAR "), "VAR %7s = %7[0-9]", name, value), 2);
    cr_expect_str_eq(name, str_get(&d.answers[0]));
    for (int k = 1; k < 5; k++) {
        strcpy(other, name);
        strcpy(name, str_get(&d.answers[k]));
        snprintf(line, sizeof line, "VAR %s = VAR %s \n", name, other);
        const char *next = strstr(at, line);
        cr_assert(next, "%s", line);
        cr_expect_gt(next, at);
        at = next;
    }
    cr_expect_eq(strlen(name), 5);
    snprintf(line, sizeof line, "5 variables are assigned the value %s, they are: ", value);
    cr_expect(str_ends_with(str_get(&d.prefix), line));
    cr_expect_eq(d.n_answers, 5);
    cr_expect_eq(count(str_get(&d.prompt), "The grass is green."), 46);
    ruler_doc_clear(&d);
}

static int times(const char *list, const char *word)
{
    char numbered[64];
    int n = 0;
    for (const char *at = list; (at = strstr(at, word)); at++) {
        snprintf(numbered, sizeof numbered, ". %s", word);
        char after = at[strlen(word)];
        n += !strncmp(at - 2, numbered, strlen(numbered)) && (after == ' ' || after == '\n');
    }
    return n;
}

Test(ruler, common_words_are_ten_times_as_common)
{
    struct ruler_doc d = write_doc(RULER_CWE, 2, 60, ASK_END);
    const char *list = strstr(str_get(&d.prompt) + 1, "Below is a numbered list");
    cr_assert(list);
    cr_assert_eq(d.n_answers, 10);
    for (int k = 0; k < 10; k++)
        cr_expect_eq(times(list, str_get(&d.answers[k])), 30, "%s", str_get(&d.answers[k]));
    char last[32];
    snprintf(last, sizeof last, " %d. ", 10 * 30 + 50 * 3);
    cr_expect(strstr(list, last));
    snprintf(last, sizeof last, " %d. ", 10 * 30 + 50 * 3 + 1);
    cr_expect(!strstr(list, last));
    ruler_doc_clear(&d);
}

Test(ruler, coded_words_follow_the_zeta_distribution)
{
    enum { N = 2000 };
    struct ruler_doc d = write_doc(RULER_FWE, 4, N, ASK_END);
    for (int k = 0; k < 3; k++) {
        char word[16];
        snprintf(word, sizeof word, " %s ", str_get(&d.answers[k]));
        double rank = k + 2; /* the first is "..." */
        int expected = (int)(N / (rank * rank) / (M_PI * M_PI / 6));
        cr_expect_leq(
            abs(count(str_get(&d.prompt), word) - expected), 2, "two of a kind share a blank");
    }
    ruler_doc_clear(&d);
}

Test(ruler, a_question_that_moved_is_not_named_at_the_end)
{
    for (int task = 0; task < RULER_TASKS; task++) {
        int units = task == RULER_CWE ? 40 : task == RULER_FWE ? 600 : 30;
        for (int ask = 0; ask < N_ASK; ask++) {
            struct ruler_doc d = write_doc((enum ruler_task)task, 6, units, (enum ask)ask);
            const char *text = str_get(&d.prompt);
            const char *asked = task < RULER_VT ? "\nWhat " : "Question: ";
            int example = task == RULER_VT || task == RULER_CWE;
            cr_expect_eq(count(text, asked), example + (ask == ASK_TWICE ? 2 : 1), "%s ask=%s",
                ruler_tasks[task].name, ask_names[ask]);
            double place = 0;
            for (const char *at = text; (at = strstr(at, asked)); at++)
                place = (double)(at - text) / (double)d.prompt.len;
            if (ask == ASK_START) cr_expect_lt(place, .65, "%s %g", ruler_tasks[task].name, place);
            if (ask == ASK_END || ask == ASK_TWICE) cr_expect_gt(place, .8);
            bool named = ask == ASK_END || ask == ASK_TWICE;
            if (task < RULER_VT) cr_expect_eq(strstr(str_get(&d.prefix), " for ") != NULL, named);
            ruler_doc_clear(&d);
        }
    }
}

/* The same question of the same text, wherever it stands. */
Test(ruler, needles_do_not_depend_on_where_the_question_stands)
{
    for (int task = 0; task < RULER_TASKS; task++) {
        int units = task == RULER_CWE ? 40 : task == RULER_FWE ? 600 : 30;
        struct ruler_doc end = write_doc((enum ruler_task)task, 8, units, ASK_END),
                         start = write_doc((enum ruler_task)task, 8, units, ASK_START);
        cr_expect_eq(end.n_answers, start.n_answers);
        for (int k = 0; k < end.n_answers; k++)
            cr_expect_str_eq(str_get(&end.answers[k]), str_get(&start.answers[k]));
        ruler_doc_clear(&end);
        ruler_doc_clear(&start);
    }
}

/* The bytes on every machine: this hash was the same under gcc and clang, -O0 and -O2. */
Test(ruler, bytes_are_the_same_everywhere)
{
    struct hash h;
    char hex[HASH_HEX_SIZE];
    hash_init(&h);
    for (int task = 0; task < RULER_TASKS; task++)
        for (int ask = 0; ask < N_ASK; ask++) {
            struct ruler_doc d = write_doc((enum ruler_task)task, 77, 200, (enum ask)ask);
            hash_add_str(&h, str_get(&d.prompt));
            hash_add_str(&h, str_get(&d.prefix));
            hash_add_str(&h, str_get(&d.gold));
            ruler_doc_clear(&d);
        }
    hash_hex(&h, hex);
    cr_expect_str_eq(hex, "32e9a10984cf8dd90b3ef93154c65a39");
}

static struct sample_set load(const char *spec, int max_length, const struct chat *chat)
{
    struct sample_set s;
    const struct suite_options o = {
        .tokenizer = bytes, .max_length = max_length, .seed = 1, .chat = chat};
    cr_assert_eq(suite_load(spec, &o, &s), OK, "%s", status_message());
    return s;
}

Test(ruler, prompts_and_budgets_fill_their_length)
{
    struct sample_set s = load("ruler:lengths=12000,30000;repeat=2", 30000, NULL);
    cr_assert_eq(s.n_samples, 2 * 2 * RULER_TASKS);
    for (int i = 0; i < s.n_samples; i++) {
        const struct sample *x = &s.samples[i];
        const struct item *item = &s.items[i];
        int used = x->n_prompt + item->wanted->budget;
        cr_expect_leq(used, item->length, "%s: %d", x->name, used);
        cr_expect_geq(used, item->length * 94 / 100, "%s: %d", x->name, used);
        cr_expect_eq(item->begin, x->n_prompt);
        cr_expect_eq(sample_room(&s, i) >= x->n, true);
    }
    struct sample_set again = load("ruler:lengths=12000,30000;repeat=2", 30000, NULL);
    cr_expect_str_eq(s.fingerprint, again.fingerprint);
    sample_set_clear(&again);
    sample_set_clear(&s);
}

static char *prompt_text(const struct sample_set *s, int i)
{
    const struct sample *x = &s->samples[i];
    struct str text = {0};
    for (int k = 0; k < x->n_prompt; k++)
        if (x->ids[k] < 256) str_add_char(&text, (char)x->ids[k]);
    return text.data;
}

Test(ruler, a_chat_wraps_the_prompt_and_the_prefix_begins_the_answer)
{
    struct chat chat;
    char *path = path_join(dir, "my \\ chat.txt"); /* a set's name is taken apart at blanks */
    cr_assert_eq(file_write_atomic(path, "<U>{prompt}<A>\n", 15), OK);
    cr_assert_eq(chat_open(&chat, path), OK, "%s", status_message());
    struct sample_set s = load("ruler:tasks=vt", 6000, &chat);
    char *text = prompt_text(&s, 0);
    cr_expect(str_starts_with(text, "<U>Memorize and track"));
    cr_expect(strstr(text, "in the text above.<A> Answer: According to"));
    cr_expect(str_starts_with(s.name, "--chat "));
    struct suite_said said;
    cr_expect_str_eq(suite_name_parse(s.name, &said), "ruler:tasks=vt");
    cr_expect_str_eq(said.chat, path);
    suite_said_clear(&said);
    free(text);
    sample_set_clear(&s);
    chat_clear(&chat);
    cr_assert_eq(file_write_atomic(path, "no place", 8), OK);
    cr_expect_eq(chat_open(&chat, path), ERR_FORMAT);
    cr_expect(strstr(status_message(), "{prompt}"));
    cr_expect_eq(chat_open(&chat, "llama9"), ERR_ARG);
    cr_expect(strstr(status_message(), "chatml"));
    cr_assert_eq(chat_open(&chat, "chatml"), OK);
    cr_expect_eq(chat_check(&chat, bytes), ERR_ARG, "its tokens are not in the vocabulary");
    cr_expect(strstr(status_message(), "<|im_start|>") && strstr(status_message(), "{prompt}"));
    free(chat.name);
    chat.name = str_dup("mine.txt");
    cr_expect_eq(chat_check(&chat, bytes), OK, "a file says what it says");
    chat_clear(&chat);
    free(path);
}

/* tests/golden/chat.json holds what transformers makes of the makers' templates. */
Test(ruler, chats_are_those_of_the_makers)
{
    cJSON *root = NULL;
    const cJSON *row;
    cr_assert_eq(json_read_file(&root, SG_SOURCE_DIR "/tests/golden/chat.json"), OK);
    cJSON_ArrayForEach(row, root)
    {
        struct chat chat;
        struct str text = {0};
        cr_assert_eq(chat_open(&chat, cJSON_GetObjectItem(row, "format")->valuestring), OK);
        str_add(&text, cJSON_GetObjectItem(row, "prompt")->valuestring);
        chat_wrap(&chat, &text);
        cr_expect_str_eq(str_get(&text), cJSON_GetObjectItem(row, "text")->valuestring);
        str_clear(&text);
        chat_clear(&chat);
    }
    cr_expect_eq(cJSON_GetArraySize(root), 18);
    cJSON_Delete(root);
}

Test(ruler, a_haystack_of_ones_own_is_cut_into_sentences)
{
    struct haystack h = {0};
    static const char text[] = "  One two.\nThree,  four! Five";
    haystack_read(&h, text, sizeof text - 1);
    cr_assert_eq(h.n, 3);
    cr_expect_str_eq(str_get(&h.text), "One two. Three, four! Five");
    haystack_clear(&h);
    char *path = path_join(dir, "hay.txt"), *spec;
    cr_assert_eq(file_write_atomic(path, text, sizeof text - 1), OK);
    spec = str_format("ruler:tasks=niah_single_2;haystack=%s", path);
    struct sample_set s = load(spec, 3000, NULL);
    cr_expect_str_eq(s.items[0].group, "niah_single_2@hay.txt");
    char *prompt = prompt_text(&s, 0);
    cr_expect(strstr(prompt, "Five One two. Three, four! Five"));
    free(prompt);
    free(spec);
    free(path);
    sample_set_clear(&s);
}

Test(ruler, what_makes_no_sense_is_refused)
{
    const struct {
        const char *spec, *says;
        int max_length;
    } rows[] = {
        {"ruler:tasks=niah_single_9", "niah_single_1", 4096},
        {"ruler:tasks=vt,vt", "twice", 4096},
        {"ruler:lengths=8192", "max_length", 4096},
        {"ruler:ask=sideways", "middle", 4096},
        {"ruler:depth=3", "haystack", 4096},
        {"ruler:tasks=cwe", "raise the length", 1024},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sample_set s;
        const struct suite_options o = {.tokenizer = bytes, .max_length = rows[i].max_length};
        cr_expect_eq(suite_load(rows[i].spec, &o, &s), ERR_ARG, "%s", rows[i].spec);
        cr_expect(strstr(status_message(), rows[i].says), "%s", status_message());
    }
}

#include "suites/judge.h"

#include "base/json.h"
#include "suites/suite.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[N_JUDGES] = {
    [JUDGE_ALL] = "all",
    [JUDGE_ANY] = "any",
    [JUDGE_F1] = "f1",
    [JUDGE_EXACT] = "exact",
    [JUDGE_VERBATIM] = "verbatim",
    [JUDGE_CLASS] = "class",
    [JUDGE_NUMBERS] = "numbers",
    [JUDGE_LETTER] = "letter",
    [JUDGE_OPTION] = "option",
    [JUDGE_FIRST_INT] = "first_int",
    [JUDGE_FIRST_REAL] = "first_real",
    [JUDGE_LAST_INT] = "last_int",
    [JUDGE_WORD] = "word",
    [JUDGE_NAME] = "name",
};

static enum judge judge_of(const char *name)
{
    int j = 0;
    while (j < N_JUDGES && strcmp(names[j], name)) j++;
    cr_assert_lt(j, N_JUDGES, "no judge %s", name);
    return (enum judge)j;
}

/* tests/golden/judge.json holds what the scorers of RULER, LongBench and InfiniteBench give. */
Test(judge, scores_are_those_of_the_public_scorers)
{
    cJSON *root = NULL;
    cr_assert_eq(json_read_file(&root, SG_SOURCE_DIR "/tests/golden/judge.json"), OK, "%s",
        status_message());
    const cJSON *texts = cJSON_GetObjectItem(root, "texts"), *row;
    int n = 0, used[N_JUDGES] = {0};
    cJSON_ArrayForEach(row, cJSON_GetObjectItem(root, "rows"))
    {
        char *answers[16];
        int n_answers = 0;
        const cJSON *answer, *score;
        cJSON_ArrayForEach(answer, cJSON_GetObjectItem(row, "answers")) answers[n_answers++] =
            answer->valuestring;
        enum judge j = judge_of(cJSON_GetObjectItem(row, "judge")->valuestring);
        const cJSON *text = texts->child;
        cJSON_ArrayForEach(score, cJSON_GetObjectItem(row, "scores"))
        {
            double mine = judge_score(j, text->valuestring, answers, n_answers);
            cr_expect(fabs(mine - score->valuedouble) < 1e-9,
                "%s of \"%s\" against %s: %g, theirs %g", names[j], text->valuestring, answers[0],
                mine, score->valuedouble);
            used[j] += mine > 0;
            n++;
            text = text->next;
        }
    }
    cr_expect_gt(n, 2000);
    for (int j = 0; j < N_JUDGES; j++)
        cr_expect(used[j] > 0 || j == JUDGE_VERBATIM, "%s never scored", names[j]);
    cJSON_Delete(root);
}

Test(judge, a_settled_score_is_full_and_stays)
{
    char *answers[] = {"1234", "5678"};
    cr_expect_not(judge_settled(JUDGE_ALL, "the 1234", answers, 2));
    cr_expect(judge_settled(JUDGE_ALL, "the 1234, 5678", answers, 2));
    cr_expect(judge_settled(JUDGE_ANY, "the 1234", answers, 2));
    cr_expect_not(judge_settled(JUDGE_F1, "1234", answers, 2), "more words lower it");
    cr_expect_eq(judge_score(JUDGE_VERBATIM, "1234", answers, 2), 1);
    cr_expect_eq(judge_score(JUDGE_VERBATIM, "1234 ", answers, 2), 0);
}

Test(judge, what_is_judged_ends_at_a_stop_or_a_line)
{
    char *answers[] = {"yes"}, *stops[] = {"\n\n", "Q:"};
    struct wanted w = {
        .answers = answers, .n_answers = 1, .judge = JUDGE_VERBATIM, .first_line = true};
    cr_expect_eq(wanted_score(&w, "\n\nyes\nno"), 1);
    cr_expect(wanted_settled(&w, "\nyes\n") && !wanted_settled(&w, "\nyes"));
    w = (struct wanted){
        .answers = answers, .n_answers = 1, .judge = JUDGE_VERBATIM, .stops = stops, .n_stops = 2};
    cr_expect_eq(wanted_score(&w, "yesQ: more\n\n"), 1);
    cr_expect_eq(wanted_score(&w, "yes, Q: more"), 0);
    cr_expect(wanted_settled(&w, "noQ:") && !wanted_settled(&w, "noQ"));
}

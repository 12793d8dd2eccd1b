/* Commands that are made of many others, whole: what they print hangs together, and what they write
 * is good for what comes next. */
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MODEL SG_SOURCE_DIR "/suites/demo/model"

static char *dir;

static void enter(void)
{
    dir = dir_make();
    cr_assert_eq(chdir(dir), 0);
}

static void leave(void)
{
    cr_assert_eq(chdir("/"), 0);
    dir_remove(dir);
}

TestSuite(commands, .init = enter, .fini = leave, .timeout = 300);

static int tool(const char *words, const char *out)
{
    char *line = str_format("%s %s >%s 2>err.txt", SG_BINARY, words, out);
    int status = system(line);
    free(line);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Of what a command printed; the caller deletes it. */
static cJSON *document(const char *words)
{
    cJSON *root = NULL;
    struct str err = {0};
    int code = tool(words, "out.json");
    (void)!file_read(&err, "err.txt");
    cr_assert_eq(code, 0, "%s: exit code %d: %s", words, code, str_get(&err));
    str_clear(&err);
    cr_assert_eq(json_read_file(&root, "out.json"), OK, "%s", status_message());
    return root;
}

static double number(const cJSON *row, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, name);
    cr_assert(cJSON_IsNumber(v), "%s is no number", name);
    return v->valuedouble;
}

static const char *text(const cJSON *row, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, name);
    return cJSON_IsString(v) ? v->valuestring : "";
}

Test(commands, the_demo_goes_its_whole_way)
{
    static const char *const rows[] = {"dense", "untuned sparge", "tuned, rule l1",
        "tuned, rule tail", "tuned, sparge/bound", "oracle", "window"};
    cJSON *root = document("demo -o demo --max-length 512 --cache none -q --format json");
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "attention"), *row;
    cr_assert_eq(cJSON_GetArraySize(list), 7);
    double least = 0, most = 0;
    int i = 0;
    cJSON_ArrayForEach(row, list)
    {
        cr_expect_str_eq(text(row, "attention"), rows[i]);
        double kl = number(row, "kl_mean"), cosine = number(row, "cosine_mean"),
               agreement = number(row, "token_accuracy");
        cr_expect(kl >= 0 && cosine <= 1 + 1e-9 && agreement >= 0 && agreement <= 1, "%s", rows[i]);
        if (i == 0) cr_expect(kl == 0 && number(row, "sparsity") == 0 && agreement == 1);
        if (i == 5) least = kl;
        if (i == 6) most = kl;
        i++;
    }
    cr_expect(most > least && most > 0, "the window loses most: %g, the oracle %g", most, least);
    cJSON_Delete(root);
    static const char *const files[] = {
        "demo/report/index.html", "demo/report/report.md", "demo/before_tune.json"};
    for (size_t k = 0; k < 3; k++) cr_expect(file_exists(files[k]), "no %s", files[k]);
    cr_expect_eq(tool("gate demo/after_tune.json --min-cosine .5 --by-mean", "gate.txt"), 0);
    cr_expect_eq(tool("compare demo/before_tune.json demo/after_tune.json", "compare.txt"), 0);
    root = document("list --db demo/demo.db --format json");
    cr_expect(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(root, "runs")) >= 7);
    cJSON_Delete(root);
}

/* The point that was taken keeps the target where it was looked for, what is printed of it is what
 * the written thresholds do, and the held-out texts were run once. */
Test(commands, optimise_takes_what_keeps_its_target)
{
#define SEARCH                                                                             \
    "--layers 6-7 --max-length 512 --rungs .05,.1,.2 --num-tune-samples 1 --tune-check 1 " \
    "--num-search-samples 1 --check 2 --held-out 2 --probes 2 --cache none -q --format json "
    cJSON *root = document("optimise " MODEL " --min-cosine .99 " SEARCH "-o best.json");
    const cJSON *cells = cJSON_GetObjectItemCaseSensitive(root, "cells"),
                *path = cJSON_GetObjectItemCaseSensitive(root, "path"), *row;
    cr_assert_eq(cJSON_GetArraySize(cells), 2);
    cJSON_ArrayForEach(row, cells)
        cr_expect(number(row, "layer") >= 6 && number(row, "bound") <= .2);
    int n_checked = 0, n_held_out = 0;
    double best = 0;
    cJSON_ArrayForEach(row, path)
    {
        const char *on = text(row, "on");
        bool holds = !strcmp(text(row, "outcome"), "holds");
        n_checked += !strcmp(on, "check");
        n_held_out += !strcmp(on, "held-out");
        if (strcmp(on, "held-out") != 0)
            cr_expect_eq(
                holds, number(row, "cosine_mean") >= .99, "%s on %s", text(row, "point"), on);
        if (!strcmp(on, "check") && holds) best = fmax(best, number(row, "sparsity"));
    }
    cr_expect(n_checked >= 2 && n_held_out == 1 && best > 0, "%d checked, %d held out, %g",
        n_checked, n_held_out, best);
    cJSON_Delete(root);
    root =
        document("eval " MODEL " --tuned best.json --max-length 512 --num-samples 2 --cache none "
                 "-q --format json");
    cJSON_Delete(root);
    cr_expect_eq(tool("gate last --min-cosine .9 --by-mean", "gate.txt"), 0);
}

/* What the tests of the program begin with: a folder, commands run in it, and what they say. */
#ifndef SG_TESTS_CLI_CLI_FIXTURE_H
#define SG_TESTS_CLI_CLI_FIXTURE_H

#include "base/json.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <sys/wait.h>

#ifndef SG_BINARY
#define SG_BINARY "sparsegauge"
#endif
#define DEMO SG_SOURCE_DIR "/suites/demo/model"

enum { PASS, GATE_FAILED, USAGE, RUN_ERROR, INVALID };

/* The folder that all runs of one test work in; HOME and the cache lie inside. */
static char *place;

static inline void enter(void)
{
    place = dir_make();
    char *cache = path_join(place, "cache");
    setenv("HOME", place, 1);
    setenv("XDG_CACHE_HOME", cache, 1);
    unsetenv("GITHUB_STEP_SUMMARY");
    setenv("LC_ALL", "C.UTF-8", 1);
    setenv("COLUMNS", "1000", 1); /* what is looked for is not wrapped */
    free(cache);
}

static inline void leave(void) { dir_remove(place); }

static inline char *in_place(const char *name) { return path_join(place, name); }

static inline bool here(const char *name)
{
    char *path = in_place(name);
    bool yes = file_exists(path);
    free(path);
    return yes;
}

struct ran {
    int code;
    struct str out, err;
};

static inline void ran_clear(struct ran *r)
{
    str_clear(&r->out);
    str_clear(&r->err);
}

/* Words are cut at single spaces. Standard output goes to `device` when there is one, and is not
 * kept then. */
static inline struct ran run_to(const char *device, const char *words)
{
    char *copy = str_dup(words), *argv[64] = {(char *)SG_BINARY};
    int n = 1;
    for (char *save, *w = strtok_r(copy, " ", &save); w && n < 63; w = strtok_r(NULL, " ", &save))
        argv[n++] = w;
    char *out = in_place(".stdout"), *err = in_place(".stderr");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int fds[] = {open("/dev/null", O_RDONLY),
            open(device ? device : out, O_CREAT | O_TRUNC | O_WRONLY, 0600),
            open(err, O_CREAT | O_TRUNC | O_WRONLY, 0600)};
        for (int i = 0; i < 3; i++) dup2(fds[i], i);
        if (chdir(place) == 0) execv(SG_BINARY, argv);
        _exit(127);
    }
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    struct ran r = {.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status)};
    if (!device) r.out = file_get(place, ".stdout");
    r.err = file_get(place, ".stderr");
    free(out);
    free(err);
    free(copy);
    return r;
}

static inline struct ran run(const char *words) { return run_to(NULL, words); }

static inline bool has(const struct str *s, const char *what)
{
    return strstr(str_get(s), what) != NULL;
}

/* Run and expect this exit code; prints what was said if not. */
static inline struct ran expect(int code, const char *words)
{
    struct ran r = run(words);
    cr_expect_eq(r.code, code, "%s: exit code %d, expected %d\n%s%s", words, r.code, code,
        r.code == PASS ? "" : str_get(&r.out), str_get(&r.err));
    return r;
}

static inline void ends(int code, const char *words)
{
    struct ran r = expect(code, words);
    ran_clear(&r);
}

/* One message on standard error with all of `wanted` (ended by NULL) in it, and this exit code. */
static inline void refuses(int code, const char *words, const char *const *wanted)
{
    struct ran r = expect(code, words);
    cr_expect(
        str_starts_with(str_get(&r.err), "sparsegauge: "), "%s: \"%s\"", words, str_get(&r.err));
    const char *end = strchr(str_get(&r.err), '\n');
    cr_expect(
        end && end[1] == 0, "%s: more or less than one message: \"%s\"", words, str_get(&r.err));
    for (; *wanted; wanted++)
        cr_expect(has(&r.err, *wanted), "%s: no \"%s\" in \"%s\"", words, *wanted, str_get(&r.err));
    ran_clear(&r);
}
#define SAYS(...) ((const char *const[]){__VA_ARGS__, NULL})

static inline cJSON *json_of(const char *name)
{
    char *path = in_place(name);
    cJSON *root = NULL;
    cr_assert_eq(json_read_file(&root, path), OK, "%s", status_message());
    free(path);
    return root;
}

static inline const cJSON *at(const cJSON *o, const char *field)
{
    const cJSON *x = cJSON_GetObjectItemCaseSensitive(o, field);
    cr_assert_not_null(x, "no field %s", field);
    return x;
}

static inline double number(const cJSON *o, const char *field)
{
    const cJSON *x = at(o, field);
    cr_assert(cJSON_IsNumber(x), "%s is %s", field, json_kind(x));
    return x->valuedouble;
}

static inline double metric(const cJSON *root, const char *name, const char *part)
{
    const cJSON *m;
    cJSON_ArrayForEach(m, at(root, "metrics"))
    {
        if (strcmp(at(m, "scope")->valuestring, "overall") == 0 &&
            strcmp(at(m, "name")->valuestring, name) == 0)
            return number(m, part);
    }
    cr_assert_fail("no metric %s", name);
    return NAN;
}

#define EVAL "eval " DEMO " --threads 1 --db r.db "
#define SHORT "-q --max-length 300 --num-samples 1 "

#endif

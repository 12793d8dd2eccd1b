/* One way for a cell: two that ask at once, one that dies, one that is run again to confirm, and
 * other arithmetic. */
#include "base/file.h"
#include "harness/measure/dense_cache.h"
#include "results/arithmetic.h"
#include "results/store.h"
#include "tests/unit/model_files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define MODEL SG_SOURCE_DIR "/suites/demo/model"
#define SMALL " --max-length 512 --num-samples 2 --threads 1 --cache none -q --db a.db "
#define ok(expr) cr_assert_eq((expr), OK, "%s", status_message())

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

TestSuite(cell, .init = enter, .fini = leave, .timeout = 200);

/* "env sparsegauge words" in a process of its own, what it prints in `out`. */
static pid_t begin(const char *env, const char *words, const char *out)
{
    char *line = str_format("exec env %s %s %s > %s 2>&1", env, SG_BINARY, words, out);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    free(line);
    return child;
}

static int end(pid_t child)
{
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int tool(const char *env, const char *words) { return end(begin(env, words, "out.txt")); }

static int said(const char *name, const char *words)
{
    struct str text = file_get(dir, name);
    int n = 0;
    for (const char *p = str_get(&text); (p = strstr(p, words)); p++) n++;
    if (!n) fprintf(stderr, "not said in %s: %s\n%s\n", name, words, str_get(&text));
    str_clear(&text);
    return n;
}

/* -1 while there is no such table. */
static int64_t number(const char *sql)
{
    struct store *s;
    struct sql_result r;
    int64_t n = -1;
    if (store_open(&s, "a.db", STORE_READ) != OK) return -1;
    if (query_sql(s, sql, &r) == OK) n = r.n_rows ? r.cells[0].i : -1;
    sql_result_clear(&r);
    store_close(&s);
    return n;
}

static void until_leased(void)
{
    for (int i = 0; i < 2000 && number("SELECT count(*) FROM lease") != 1; i++)
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    cr_assert_eq(number("SELECT count(*) FROM lease"), 1, "the first evaluation has no lease");
}

static void until_said(const char *name, const char *words)
{
    for (int i = 0; i < 2000; i++) {
        struct str text = {0};
        /* it may not be there yet */
        bool there = file_read(&text, name) == OK && strstr(str_get(&text), words) != NULL;
        str_clear(&text);
        if (there) return;
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    cr_assert(false, "%s never said \"%s\"", name, words);
}

#define EVAL "eval " MODEL SMALL "--cdfthreshd .8"

Test(cell, two_that_ask_at_once_compute_once)
{
    pid_t first = begin("", EVAL, "1.txt");
    until_leased();
    cr_assert_eq(kill(first, SIGSTOP), 0); /* or it ends before the other has seen it */
    pid_t second = begin("", EVAL, "out.txt");
    until_said("out.txt", "another process evaluates this cell");
    cr_assert_eq(kill(first, SIGCONT), 0);
    cr_expect_eq(end(second), 0);
    cr_expect_eq(end(first), 0);
    cr_expect_eq(number("SELECT count(*) FROM run"), 1);
    cr_expect_eq(number("SELECT count(*) FROM lease"), 0);
    cr_expect(said("out.txt", "another process evaluates this cell"));
    cr_expect(said("out.txt", "is stored already"));
    cr_expect(said("out.txt", "verdict"), "and it is shown");
}

Test(cell, who_waits_takes_over_from_who_dies)
{
    pid_t first = begin("", EVAL, "1.txt");
    until_leased();
    cr_assert_eq(kill(first, SIGSTOP), 0); /* or it ends before the other has seen it */
    pid_t second = begin("", EVAL, "2.txt");
    until_said("2.txt", "another process evaluates this cell");
    cr_assert_eq(kill(first, SIGKILL), 0);
    cr_expect_eq(end(first), -SIGKILL);
    cr_expect_eq(end(second), 0);
    cr_expect_eq(number("SELECT count(*) FROM run WHERE status = 'done'"), 1);
}

Test(cell, a_cell_of_a_sweep_is_confirmed_as_it_was)
{
    cr_assert_eq(tool("",
                     "sweep " MODEL SMALL
                     "--l1 .2 --pv-l1 .25 --num-tune-samples 1 --held-out 1 --heads 1 --layers 4-7 "
                     "--shard none"),
        0);
    cr_assert_eq(
        number("SELECT count(*) FROM run WHERE tuned_hash IS NOT NULL AND heads = '1'"), 1);
    cr_expect_eq(tool("", "gate 1 --max-kl 1e-9 --confirm --cache none --db a.db"), 1);
    cr_expect(said("out.txt", "confirmed by a second run"));
    cr_expect_eq(number("SELECT count(*) FROM run a JOIN run b ON b.id > a.id AND a.digest = "
                        "b.digest AND a.tuned_hash = "
                        "b.tuned_hash AND a.confirming = 0 AND b.confirming = 1"),
        1, "the same numbers again");
}

/* Whichever command asks, and however many samples it leaves to the suite. */
/* Names of JSON keys are part of what was asked. */
Test(cell, fields_are_given_again_where_a_run_is_confirmed)
{
    FILE *f = fopen("a.jsonl", "w");
    cr_assert_not_null(f);
    fputs("{\"the body\": \"", f);
    for (int i = 0; i < 900; i++) fprintf(f, "%d readers have seen it; ", i * 7919 % 1000);
    fputs("\"}\n", f);
    fclose(f);
    cr_assert_eq(tool("",
                     "eval " MODEL " --suite text:a.jsonl --field 'text=the body' --max-length 300 "
                     "--num-samples 2 --threads 1 --cache none -q --topk .5 --db a.db"),
        0);
    cr_expect_eq(
        number("SELECT count(*) FROM dataset WHERE name LIKE '--field text=the_ body %'"), 1);
    cr_expect_eq(tool("", "gate 1 --max-kl 1e-9 --confirm --cache none --db a.db"), 1);
    cr_expect(said("out.txt", "confirmed by a second run"));
}

Test(cell, eval_and_sweep_ask_the_same_question)
{
#define ASKED                                                                                \
    MODEL                                                                                    \
    " --suite 'needle:lengths=512;depths=50;repeat=2' --max-length 512 --method window:128 " \
    "--threads 1 --cache none -q "                                                           \
    "--impl attn_base_f32 --db a.db "
    cr_assert_eq(tool("", "sweep " ASKED "--shard none"), 0);
    cr_assert_eq(number("SELECT count(*) FROM run WHERE impl = 'attn_base_f32' AND impls = impl "
                        "AND num_samples = 2"),
        1);
    cr_expect_eq(tool("",
                     "eval " MODEL " --suite 'needle:lengths=512;depths=50;repeat=2' --max-length "
                     "512 --method window --window 128 "
                     "--threads 1 --cache none -q --impl attn_base_f32 --db a.db"),
        0);
    cr_expect(said("out.txt", "is stored already"));
    cr_expect_eq(number("SELECT count(*) FROM run"), 1);
    cr_expect_eq(number("SELECT count(DISTINCT slot) FROM (SELECT slot FROM run UNION ALL SELECT "
                        "slot FROM cell)"),
        1);
}

Test(cell, what_cannot_be_the_same_is_refused_before_it_is_evaluated)
{
    text_put(dir, "w.txt", "Once there was a lighthouse. ");
    struct str text = {0};
    for (int i = 0; i < 200; i++)
        str_addf(
            &text, "On day %d the keeper wrote that the lamp burned and the sea was calm. ", i);
    text_put(dir, "w.txt", str_get(&text));
    cr_assert_eq(
        tool("", "eval " MODEL SMALL "--suite text:w.txt --method window --window 128"), 0);
    cr_expect_eq(tool("", "gate 1 --max-kl 1e-9 --confirm --db a.db --impl attn_ref_fp64"), 1);
    cr_expect(said("out.txt", "not run again: "));
    cr_expect(said("out.txt", "impl"));
    str_add(&text, "The end.");
    text_put(dir, "w.txt", "Something else. ");
    cr_expect_eq(tool("", "gate 1 --max-kl 1e-9 --confirm --db a.db"), 1);
    cr_expect(said("out.txt", "not run again: "));
    cr_expect_eq(number("SELECT count(*) FROM run"), 1);
    str_clear(&text);
}

/* The same question with another instruction set and another OpenBLAS core is the same cell. */
Test(cell, other_arithmetic_is_told)
{
    cr_assert_eq(tool("", EVAL " -o one.json"), 0);
    cr_assert_eq(tool("OPENBLAS_CORETYPE=Prescott", EVAL " --cpu-mask base -o same.json"), 0);
    cr_expect(said("out.txt", "is stored already"));
    cr_expect(said("out.txt", "with other arithmetic than here (blas: OpenBLAS"));
    cr_assert_eq(
        tool("OPENBLAS_CORETYPE=Prescott", EVAL " --cpu-mask base --replace -o two.json"), 0);
    cr_expect_eq(number("SELECT count(*) FROM run"), 1);
    cr_expect_eq(number("SELECT blas LIKE 'OpenBLAS %' AND isa = 'base' FROM run"), 1);
    cr_expect_eq(tool("", "compare one.json two.json --db a.db"), 0);
    cr_expect(said("out.txt", "other arithmetic (blas: OpenBLAS"));
    /* and in another database: no conflict, but told */
    cr_assert_eq(rename("a.db", "b.db"), 0);
    cr_assert_eq(tool("", EVAL), 0);
    cr_assert_eq(tool("", "merge b.db --db a.db"), 0);
    cr_expect(said("out.txt", "0 in conflict, 1 under other arithmetic"));
    cr_expect(said("out.txt", "no noise floor of this model is stored"));
    cr_assert_eq(tool("", "eval " MODEL SMALL "--suite null"), 0);
    cr_assert_eq(tool("", "merge b.db --db a.db"), 0);
    cr_expect(said("out.txt", " the floor"));
    cr_expect(said("out.txt", " and base"), "%s", "the two arithmetics are named");
}

static struct metric_record metric(const char *name, double mean)
{
    struct metric_record m = metric_record_empty("overall", name, 10);
    m.mean = mean;
    return m;
}

Test(cell, the_floor_decides)
{
    struct run_record a = {.blas = "OpenBLAS 0.3.21 Haswell", .isa = "avx2"}, b = a;
    struct metric_record x[] = {metric("kl", .05), metric("latency_sparse", 1)},
                         y[] = {metric("kl", .05), metric("latency_sparse", 2)};
    struct metric_list mx = {x, 2, NULL}, my = {y, 2, NULL};
    struct noise_record floor[] = {{.metric = "kl", .source = "threads", .value = 1e-9},
        {.metric = "kl", .source = "chunk", .value = 1e-6}};
    struct noise_list floors = {floor, 2, NULL};
    struct arithmetic_side sa = {&a, &mx}, sb = {&b, &my};
    struct str words = {0};
    y[0].mean = .06;
    cr_expect_eq(arithmetic_compare(sa, sb, &floors, &words), ARITHMETIC_SAME);
    cr_expect_eq(words.len, 0, "the same arithmetic and other numbers is no matter of arithmetic");
    b.blas = "OpenBLAS 0.3.29 SkylakeX";
    cr_expect_eq(arithmetic_compare(sa, sb, &floors, &words), ARITHMETIC_BEYOND);
    cr_expect_str_eq(str_get(&words),
        "other arithmetic (blas: OpenBLAS 0.3.21 Haswell and OpenBLAS 0.3.29 SkylakeX), beyond the "
        "floor: kl is 0.05 and 0.06, floor 1e-06");
    str_reset(&words);
    y[0].mean = .05 + 9e-7;
    cr_expect_eq(arithmetic_compare(sa, sb, &floors, &words), ARITHMETIC_WITHIN);
    cr_expect(strstr(str_get(&words), "within the floor"), "%s", str_get(&words));
    str_reset(&words);
    cr_expect_eq(arithmetic_compare(sa, sb, NULL, &words), ARITHMETIC_UNTOLD);
    cr_expect(strstr(str_get(&words), "eval --suite null"), "%s", str_get(&words));
    str_clear(&words);
}

/* An entry beyond the limit would push out everything, itself included: it is not stored, and said.
 */
Test(cell, a_cache_keeps_what_fits)
{
    struct dense_cache c;
    static float rows[2000];
    char keys[3][HASH_HEX_SIZE];
    for (int i = 0; i < 3; i++) snprintf(keys[i], sizeof keys[i], "%032d", i);
    ok(dense_cache_open(&c, "cache"));
    c.limit_bytes = 5000;
    dense_cache_put(&c, keys[0], 100, 10, rows);
    cr_expect(dense_cache_get(&c, keys[0], 100, 10, rows) && c.too_large == 0);
    dense_cache_put(&c, keys[1], 200, 10, rows);
    cr_expect(c.too_large > 8000 && !dense_cache_get(&c, keys[1], 200, 10, rows));
    cr_expect(dense_cache_get(&c, keys[0], 100, 10, rows), "the smaller one is still there");
    dense_cache_put(&c, keys[2], 100, 10, rows);
    cr_expect(dense_cache_get(&c, keys[2], 100, 10, rows), "the newest stays");
    cr_expect(!dense_cache_get(&c, keys[0], 100, 10, rows), "the oldest made room");
    dense_cache_close(&c);
    cr_assert_eq(system("rm -r cache"), 0);
}
